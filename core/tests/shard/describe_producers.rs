//! DescribeProducers at a broker of several shards: each partition's owner tells of the producers that its log knows.

use milena_wire::messages::describe_producers::{
    DescribeProducersPartitionResponse, DescribeProducersRequest, DescribeProducersResponse,
    DescribeProducersTopic, ProducerState,
};

use super::*;

fn numbered(id: i64, epoch: i16, sequence: i32, times: &[i64]) -> Bytes {
    let mut batch = BatchBuilder::new(0, -1, Compression::None);
    batch.producer(id, epoch, sequence);
    for time in times {
        batch.append(*time, None, Some(b"x"), &[]);
    }
    batch.build()
}

fn described(broker: &mut Broker1, topics: &[(&str, &[i32])]) -> DescribeProducersResponse {
    let topic = |(name, indexes): &(&str, &[i32])| DescribeProducersTopic {
        name: name.to_string(),
        partition_indexes: indexes.to_vec(),
    };
    let topics = topics.iter().map(topic).collect();
    let id = broker.send(1, 0, DescribeProducersRequest { topics });
    match broker.answer(id) {
        Some(Response::DescribeProducers(mut response)) => {
            for topic in &mut response.topics {
                topic.partitions.sort_by_key(|partition| partition.partition_index);
            }
            response
        }
        other => panic!("{other:?}"),
    }
}

fn state(producer_id: i64, epoch: i32, last_sequence: i32, last_timestamp: i64) -> ProducerState {
    ProducerState {
        producer_id,
        producer_epoch: epoch,
        last_sequence,
        last_timestamp,
        coordinator_epoch: -1,
        current_txn_start_offset: -1,
    }
}

#[test]
fn each_owner_tells_of_the_producers_of_its_partitions() {
    let mut broker = Broker1::new();
    for (partition, batch) in [
        (0, numbered(7, 0, 0, &[1_000, 1_002, 1_001])),
        (0, numbered(8, 3, 0, &[1_000])),
        (5, numbered(7, 0, i32::MAX, &[1_000, 1_001])),
    ] {
        let id = broker.produce(9, -1, vec![(partition, batch)]);
        assert_eq!(broker.produced(id).responses[0].partition_responses[0].base_offset % 3, 0);
    }
    let all: Vec<i32> = (0..PARTITIONS).collect();
    let response = described(&mut broker, &[("t", &all)]);
    assert_eq!(response.topics.len(), 1, "of all owners together");
    for partition in &response.topics[0].partitions {
        let expected = match partition.partition_index {
            0 => vec![state(7, 0, 2, 1_002), state(8, 3, 0, 1_000)],
            5 => vec![state(7, 0, 0, 1_001)],
            _ => vec![],
        };
        assert_eq!(partition.active_producers, expected, "{partition:?}");
        assert_eq!((partition.error_code, &partition.error_message), (ErrorCode::NONE, &None));
    }
    assert_eq!(response.topics[0].partitions.len(), all.len());
}

#[test]
fn what_is_not_here_is_an_error_of_its_own() {
    let mut broker = Broker1::start(InstantDisk::default(), |image| {
        let log = LogId { topic: TOPIC, partition: 3 };
        let elsewhere = image.partition_mut(log).expect("there are more");
        (elsewhere.replicas, elsewhere.isr) = (vec![NodeId(2)], vec![NodeId(2)]);
        elsewhere.leader = Some(NodeId(2));
    });
    let response = described(&mut broker, &[("t", &[0, 3, 99, -1]), ("u", &[0]), ("a b", &[0])]);
    let error = |topic: usize, index: i32| {
        let named =
            |partition: &&DescribeProducersPartitionResponse| partition.partition_index == index;
        let found = response.topics[topic].partitions.iter().find(named).expect("it is answered");
        assert!(found.active_producers.is_empty());
        assert_eq!(found.error_message.is_some(), found.error_code.is_some(), "{found:?}");
        found.error_code
    };
    assert_eq!(
        response.topics.iter().map(|topic| &*topic.name).collect::<Vec<_>>(),
        ["t", "u", "a b"]
    );
    assert_eq!(error(0, 0), ErrorCode::NONE);
    assert_eq!(error(0, 3), ErrorCode::NOT_LEADER_OR_FOLLOWER);
    for (topic, index) in [(0, 99), (0, -1), (1, 0)] {
        assert_eq!(error(topic, index), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    }
    assert_eq!(error(2, 0), ErrorCode::INVALID_TOPIC_EXCEPTION);
}
