//! Fetches of logs in which compaction left batches without records: those are passed over, and one is given only where
//! there is nothing else to move a client's position by.

use milena_core::peer::PeerMessage;
use milena_core::replica::message::{Push, ReplicaMessage};
use milena_wire::batch::{assign, batches, covering};

use super::*;

const LEADER: NodeId = NodeId(2);

/// A batch of a log: with a record of this value, or without records over so many offsets.
#[derive(Clone, Copy)]
enum Made {
    Value(&'static str),
    Empty(i64),
}
use Made::{Empty, Value};

fn partition(leader: NodeId, epoch: i32) -> Partition {
    Partition {
        replicas: vec![LEADER, ME],
        incarnations: vec![ReplicaIncarnation(0); 2],
        isr: vec![leader, ME],
        leader: Some(leader),
        leader_epoch: epoch,
        partition_epoch: epoch,
        min_isr: 1,
        ..Partition::default()
    }
}

fn set_partitions(image: &mut Image, partition: &Partition) {
    let topic = image.topics.get_mut(&TOPIC).expect("the topic");
    Arc::make_mut(topic).partitions = (0..PARTITIONS).map(|p| (p, partition.clone())).collect();
}

/// A broker that leads partitions with these batches, which it has been pushed before, each log's number in order.
fn broker(logs: &[&[Made]]) -> Broker1 {
    let mut broker = Broker1::start(InstantDisk::default(), |image| {
        let mut leader = image.brokers[&ME].clone();
        (leader.epoch, leader.confirmed) = (BrokerEpoch(2), Some(BrokerEpoch(2)));
        image.brokers.insert(LEADER, leader);
        set_partitions(image, &partition(LEADER, 3));
    });
    for (index, made) in (0..).zip(logs) {
        push(&mut broker, index, made);
    }
    let mut alone = partition(ME, 4);
    alone.isr = vec![ME];
    set_partitions(&mut broker.image, &alone);
    broker.image.end += 1;
    (0..SHARDS).for_each(|shard| broker.show(shard));
    broker.run();
    broker
}

fn push(broker: &mut Broker1, partition: i32, made: &[Made]) {
    let log = LogId { topic: TOPIC, partition };
    let mut base = 0;
    for made in made.chunks(200) {
        let from = base;
        let records = made.iter().map(|made| match made {
            Value(value) => {
                base += 1;
                assign(&batch(value), base - 1, 3).concat().into()
            }
            Empty(offsets) => {
                base += offsets;
                covering(base - offsets, base, 3)
            }
        });
        let records = records.collect();
        let push = Push {
            cluster: 1,
            log,
            leader: (LEADER, BrokerEpoch(2)),
            leader_epoch: 3,
            follower_epoch: BrokerEpoch(3),
            epoch_start: 0,
            base: from,
            previous_epoch: if from == 0 { -1 } else { 3 },
            dropped: 0,
            begin: None,
            exchange: 0,
            high_watermark: base,
            log_start: 0,
            records,
        };
        let message = PeerMessage::Replica(ReplicaMessage::Push(push));
        broker.step(log.shard(SHARDS), Input::Peer { from: LEADER, message });
        broker.pass(1);
    }
    // Into segments, but for what a mark does not cover yet.
    (0..3).for_each(|_| broker.pass(100));
}

/// What an answer gives of a partition: base and next offset of each batch, and its values.
fn given(response: &FetchResponse, partition: i32) -> (Vec<(i64, i64)>, Vec<String>) {
    let all = response.responses.iter().flat_map(|topic| &topic.partitions);
    let data = all.filter(|data| data.partition_index == partition).collect::<Vec<_>>();
    let [data] = data[..] else { panic!("it is answered once") };
    assert_eq!(data.error_code, ErrorCode::NONE);
    let bytes = data.records.as_ref().expect("never null").to_bytes();
    let headers = batches(&bytes).map(|batch| batch.expect("whole batches").0);
    let offsets = headers.map(|header| (header.base_offset, header.next_offset())).collect();
    let (_, _, values) = values(response).swap_remove(partition as usize);
    (offsets, values)
}

/// Of all partitions from the beginning, so many bytes of each.
fn fetch_all(partition_max_bytes: i32) -> FetchRequest {
    let mut request = fetch_request(&(0..PARTITIONS).map(|p| (p, 0)).collect::<Vec<_>>());
    for partition in &mut request.topics[0].partitions {
        partition.partition_max_bytes = partition_max_bytes;
    }
    request
}

#[test]
fn batches_without_records_are_left_out_beside_others() {
    let logs: [&[Made]; 4] = [
        &[Empty(5), Value("a"), Empty(1), Empty(9), Value("b"), Empty(3)],
        &[Value("c"), Value("d")],
        &[Value("e"), Empty(2)],
        &[Empty(2), Value("f")],
    ];
    let mut broker = broker(&logs);
    // More than one batch of each, or as little as there may be.
    for most in [1 << 20, 1] {
        let mut found: BTreeMap<i32, Vec<String>> = BTreeMap::new();
        let mut next = BTreeMap::new();
        for _ in 0..8 {
            let mut request = fetch_all(most);
            request.topics[0].partitions.truncate(4);
            for asked in &mut request.topics[0].partitions {
                asked.fetch_offset = next.get(&asked.partition).copied().unwrap_or(0);
            }
            // One after the other first, as clients do it.
            request.topics[0].partitions.rotate_left(next.len() % 4);
            let id = broker.send(1, 12, request);
            broker.pass(500);
            let response = broker.fetched(id);
            for partition in 0..4 {
                let (offsets, values) = given(&response, partition);
                assert!(offsets.len() == values.len() || (offsets.len(), values.len()) == (1, 0));
                found.entry(partition).or_default().extend(values);
                if let Some((_, end)) = offsets.last() {
                    next.insert(partition, *end);
                }
            }
        }
        let found: Vec<_> = found.into_values().map(|values| values.concat()).collect();
        assert_eq!(found[..], ["ab", "cd", "e", "f"], "{most}");
        assert_eq!(next.into_values().collect::<Vec<_>>(), [20, 2, 3, 3], "all reach the end");
    }
}

#[test]
fn where_there_is_nothing_else_the_last_of_them_is_given_after_the_wait() {
    let logs: [&[Made]; 2] = [&[Value("a"), Empty(4), Empty(1), Empty(7)], &[Value("b")]];
    let mut broker = broker(&logs);
    // At the first of them, within one, and at the last.
    for from in [1, 3, 6] {
        let id = broker.send(1, 12, fetch_request(&[(0, from), (1, 1)]));
        broker.pass(499);
        assert!(!broker.answered(id), "they are no bytes to answer with");
        broker.pass(1);
        let response = broker.fetched(id);
        assert_eq!(given(&response, 0), (vec![(6, 13)], vec![]));
        assert_eq!(given(&response, 1), (vec![], vec![]));
    }
    // At the end of the log there is none to give.
    let id = broker.send(1, 12, fetch_request(&[(0, 13)]));
    broker.pass(500);
    assert_eq!(given(&broker.fetched(id), 0), (vec![], vec![]));

    // Who asks for no bytes waits for none.
    let mut request = fetch_request(&[(0, 1)]);
    request.min_bytes = 0;
    let id = broker.send(1, 12, request);
    broker.release_disk();
    assert_eq!(given(&broker.fetched(id), 0), (vec![(6, 13)], vec![]));
}

#[test]
fn a_record_that_comes_meanwhile_is_given_without_them() {
    let mut broker = broker(&[&[Empty(4), Empty(1)]]);
    let id = broker.send(1, 12, fetch_request(&[(0, 0)]));
    broker.pass(10);
    assert!(!broker.answered(id));
    let produced = broker.produce(9, -1, vec![(0, batch("new"))]);
    assert_eq!(errors(&broker.produced(produced)), [(0, ErrorCode::NONE, 5)]);
    assert_eq!(given(&broker.fetched(id), 0), (vec![(5, 6)], vec!["new".into()]));

    // It is not enough for this one, whose answer has the record once all the same.
    let mut request = fetch_request(&[(0, 0)]);
    request.min_bytes = 1_000;
    let id = broker.send(1, 12, request);
    broker.pass(10);
    let produced = broker.produce(9, -1, vec![(0, batch("newer"))]);
    broker.produced(produced);
    assert!(!broker.answered(id));
    broker.pass(490);
    let (offsets, values) = given(&broker.fetched(id), 0);
    assert_eq!((offsets, values.concat()), (vec![(5, 6), (6, 7)], "newnewer".into()));
}

#[test]
fn however_little_is_asked_for_many_are_passed_over_in_one_fetch() {
    let mut many = vec![Empty(1); 2_000];
    many.push(Value("a"));
    let mut broker = broker(&[&many]);
    for most in [0, 1, 100, 1 << 20] {
        for min_bytes in [1, 1 << 20] {
            let mut request = fetch_request(&[(0, 0)]);
            request.min_bytes = min_bytes;
            request.topics[0].partitions[0].partition_max_bytes = most;
            let id = broker.send(1, 12, request);
            broker.pass(500);
            let answer = given(&broker.fetched(id), 0);
            assert_eq!(answer, (vec![(2_000, 2_001)], vec!["a".into()]), "{most} {min_bytes}");
        }
    }
}

#[test]
fn a_fetch_passes_over_as_many_bytes_as_an_answer_may_have_and_then_says_how_far_it_came() {
    // More than the 200,000 bytes of an answer.
    let mut many = vec![Empty(2); 8_000];
    many.push(Value("a"));
    let mut broker = broker(&[&many, &[Value("b"), Value("c")]]);
    let (mut next, mut fetches) = (0, 0);
    loop {
        fetches += 1;
        let mut request = fetch_request(&[(0, next), (1, 2)]);
        request.topics[0].partitions[0].partition_max_bytes = 20_000;
        let id = broker.send(1, 12, request);
        assert!(broker.answered(id), "at once, for there is more");
        let (offsets, values) = given(&broker.fetched(id), 0);
        let [(base, end)] = offsets[..] else { panic!("one batch, not {offsets:?}") };
        if values == ["a"] {
            assert_eq!((base, end), (16_000, 16_001));
            break;
        }
        let passed = (end - next) / 2 * 61;
        assert!((200_000..300_000).contains(&passed) && base == end - 2, "{passed} bytes");
        next = end;
    }
    assert_eq!(fetches, 2);

    // Others are not held up by them.
    let id = broker.send(1, 12, fetch_request(&[(0, 0), (1, 0)]));
    let response = broker.fetched(id);
    assert_eq!(given(&response, 1).1.concat(), "bc");
}

#[test]
fn what_a_session_asks_for_moves_past_them_too() {
    let mut broker = broker(&[&[Empty(4), Empty(1)], &[Value("a")]]);
    let mut request = fetch_request(&[(0, 0), (1, 0)]);
    request.session_epoch = 0;
    request.min_bytes = 0;
    let id = broker.send(1, 12, request.clone());
    let response = broker.fetched(id);
    assert_eq!(given(&response, 0).0, [(4, 5)]);
    let session = response.session_id;
    assert!(session > 0);
    let mut request = fetch_request(&[(0, 5), (1, 1)]);
    (request.session_id, request.session_epoch) = (session, 1);
    let id = broker.send(1, 12, request);
    broker.pass(500);
    let response = broker.fetched(id);
    assert_eq!(response.responses.len(), 0, "nothing has changed");
}

#[test]
fn what_cannot_be_read_is_an_error_and_gives_none() {
    let mut broker = broker(&[&[Empty(4), Empty(1)]]);
    let id = broker.send(1, 12, fetch_request(&[(0, 0)]));
    broker.pass(10);
    assert!(!broker.answered(id), "it waits with what it has passed");
    set_partitions(&mut broker.image, &partition(LEADER, 5));
    broker.image.end += 1;
    (0..SHARDS).for_each(|shard| broker.show(shard));
    broker.run();
    let response = broker.fetched(id);
    let data = &response.responses[0].partitions[0];
    assert_eq!(data.error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    assert!(data.records.as_ref().is_some_and(|records| records.is_empty()));
}

#[test]
fn a_batch_with_a_record_without_a_key_is_refused_where_the_topic_is_compacted() {
    let keyed = |keys: &[Option<&[u8]>]| {
        let mut batch = BatchBuilder::new(0, -1, Compression::Lz4);
        for key in keys {
            batch.append(1_000, *key, Some(b"value"), &[]);
        }
        batch.build()
    };
    for policy in ["compact", "delete, compact"] {
        let mut broker = Broker1::start(InstantDisk::default(), |image| {
            let topic = Arc::make_mut(image.topics.get_mut(&TOPIC).expect("the topic"));
            topic.configs.insert("cleanup.policy".into(), policy.into());
        });
        let whole = keyed(&[Some(b"a"), Some(b""), Some(b"a")]);
        let id = broker.produce(9, -1, vec![(0, whole)]);
        assert_eq!(errors(&broker.produced(id)), [(0, ErrorCode::NONE, 0)]);
        let without = keyed(&[Some(b"a"), None, None]);
        let id = broker.produce(9, -1, vec![(0, without), (1, keyed(&[Some(b"b")]))]);
        let response = broker.produced(id);
        let invalid = (0, ErrorCode::INVALID_RECORD, -1);
        assert_eq!(errors(&response), [invalid, (1, ErrorCode::NONE, 0)]);
        let all = response.responses.iter().flat_map(|topic| &topic.partition_responses);
        let blamed: Vec<Vec<i32>> = all
            .map(|answer| answer.record_errors.iter().map(|error| error.batch_index).collect())
            .collect();
        assert!(blamed.contains(&vec![1]) && blamed.contains(&vec![]), "{blamed:?}");
        let id = broker.produce(9, -1, vec![(0, keyed(&[Some(b"c")]))]);
        assert_eq!(
            errors(&broker.produced(id)),
            [(0, ErrorCode::NONE, 3)],
            "nothing of it is there"
        );
    }
}
