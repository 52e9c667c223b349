//! Requests that mean nothing or little, answered as Apache Kafka answers them.

use milena_wire::ApiKey;
use milena_wire::sample::Source;

use super::*;

#[test]
fn what_a_fetch_cannot_mean_is_answered_as_kafka_does() {
    let mut broker = Broker1::new();
    let id = broker.produce(9, -1, vec![(0, batch("a"))]);
    broker.produced(id);
    let mut ask = |version, change: &dyn Fn(&mut FetchRequest)| {
        let mut request = fetch_request(&[(0, 0)]);
        (request.max_wait_ms, request.session_id) = (0, 17);
        change(&mut request);
        let id = broker.send(1, version, request);
        broker.fetched(id)
    };
    let strange = ask(12, &|request| request.isolation_level = 2);
    assert_eq!((strange.error_code, strange.session_id), (ErrorCode::UNKNOWN_SERVER_ERROR, 17));
    assert_eq!(values(&strange), [(0, ErrorCode::UNKNOWN_SERVER_ERROR, vec![])]);
    assert_eq!(ask(13, &|request| request.isolation_level = -1).responses, []);
    let nobodys = |request: &mut FetchRequest| {
        (request.isolation_level, request.topics[0].topic) = (2, "nobodys".into());
    };
    assert_eq!(values(&ask(12, &nobodys)), [(0, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, vec![])]);
    let negative = ask(12, &|request| request.max_bytes = -1);
    assert_eq!(values(&negative), [(0, ErrorCode::UNKNOWN_SERVER_ERROR, vec![])]);
    let none = ask(12, &|request| request.max_bytes = 0);
    assert_eq!(values(&none), [(0, ErrorCode::NONE, vec!["a".to_string()])], "one is given");

    let aborted = |response: FetchResponse| {
        let partition = &response.responses[0].partitions[0];
        (partition.error_code, partition.aborted_transactions.clone())
    };
    let committed = |request: &mut FetchRequest| request.isolation_level = 1;
    assert_eq!(aborted(ask(12, &committed)), (ErrorCode::NONE, Some(vec![])));
    assert_eq!(aborted(ask(12, &|_| ())), (ErrorCode::NONE, None));
    let beyond = |request: &mut FetchRequest| {
        (request.isolation_level, request.topics[0].partitions[0].fetch_offset) = (1, 9);
    };
    assert_eq!(aborted(ask(12, &beyond)), (ErrorCode::OFFSET_OUT_OF_RANGE, None));
    let unknown = aborted(ask(12, &nobodys));
    assert_eq!(unknown, (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, Some(vec![])));
}

#[test]
fn a_leader_tells_of_its_epoch_before_the_first_record_and_of_none_to_come() {
    let mut broker = Broker1::new();
    // Partition 0 is led in epoch 4 and empty.
    let mut diverging = |last_fetched_epoch, fetch_offset| {
        let mut request = fetch_request(&[(0, fetch_offset)]);
        request.max_wait_ms = 0;
        request.topics[0].partitions[0].last_fetched_epoch = last_fetched_epoch;
        let id = broker.send(0, 12, request);
        let partition = broker.fetched(id).responses[0].partitions[0].clone();
        let end = partition.diverging_epoch;
        (partition.error_code, end.epoch, end.end_offset)
    };
    assert_eq!(diverging(4, 0), (ErrorCode::NONE, -1, -1));
    assert_eq!(diverging(4, 1), (ErrorCode::NONE, 4, 0));
    assert_eq!(diverging(5, 0), (ErrorCode::OFFSET_OUT_OF_RANGE, -1, -1));
    let mut asked = |version, timestamp: i64, isolation_level| {
        let partition = ListOffsetsPartition { timestamp, ..Default::default() };
        let topic = ListOffsetsTopic { name: "t".into(), partitions: vec![partition] };
        let request = ListOffsetsRequest {
            replica_id: -1,
            isolation_level,
            topics: vec![topic],
            ..Default::default()
        };
        let id = broker.send(0, version, request);
        match broker.answer(id) {
            Some(Response::ListOffsets(response)) => response.topics[0].partitions[0].error_code,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(asked(6, -3, 0), ErrorCode::UNSUPPORTED_VERSION);
    assert_eq!(asked(7, -3, 0), ErrorCode::NONE);
    assert_eq!(
        (asked(10, -6, 0), asked(11, -6, 0)),
        (ErrorCode::UNSUPPORTED_VERSION, ErrorCode::NONE)
    );
    assert_eq!(asked(11, -7, 0), ErrorCode::UNSUPPORTED_VERSION);
    assert_eq!(asked(11, -1, 2), ErrorCode::UNKNOWN_SERVER_ERROR);
}

#[test]
fn records_that_cannot_be_divided_refuse_the_request_and_a_transactional_id_alone_refuses_nothing()
{
    let mut broker = Broker1::new();
    let mut newer = batch("x").to_vec();
    newer[16] = 3;
    let data = vec![(0, batch("good")), (1, newer.into())];
    let id = broker.produce(9, -1, data.clone());
    let refused = [(0, ErrorCode::CORRUPT_MESSAGE, -1), (1, ErrorCode::CORRUPT_MESSAGE, -1)];
    assert_eq!(errors(&broker.produced(id)), refused);
    broker.produce(9, 0, data);
    assert_eq!(broker.closed, [ClientId(0)], "who waits for no answer is told by closing");
    let mut request = produce_request(-1, vec![(0, batch("first"))]);
    request.transactional_id = Some("t".into());
    let id = broker.send(0, 9, request);
    assert_eq!(errors(&broker.produced(id)), [(0, ErrorCode::NONE, 0)], "nothing was there before");
    let trailed = [&batch("second")[..], &[0; 11]].concat();
    let id = broker.produce(9, -1, vec![(0, trailed.into())]);
    assert_eq!(errors(&broker.produced(id)), [(0, ErrorCode::NONE, 1)]);
}

/// A shard that holds nothing has no room for records, and needs none to say that they are not for it.
#[test]
fn what_is_not_for_a_broker_without_logs_is_refused_at_once() {
    let without = |image: &mut Image| {
        image.names.clear();
        image.topics.clear();
    };
    let mut broker = Broker1::start(InstantDisk::default(), without);
    let id = broker.produce(9, -1, vec![(0, batch("a"))]);
    let refused = [(0, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, -1)];
    assert_eq!(errors(&broker.produced(id)), refused);
}

/// Whatever an API, a version and a request of it: this broker answers it, closes the connection, passes it on to the
/// controller, or waits for a log that it has.
#[test]
fn every_request_is_served() {
    let mut broker = Broker1::new();
    for (client, (api, version)) in (0..).zip(ApiKey::ALL.iter().flat_map(|api| {
        let (first, last) = api.versions();
        (first..=last).flat_map(move |version| [(*api, version); 8])
    })) {
        let request = Request::sample(api, &mut Source::new(client), version);
        let (closed, passed) = (broker.closed.len(), broker.passed);
        let waits = matches!(&request, Request::Fetch(fetch) if fetch.max_wait_ms > 0);
        let id = broker.send(client, version, request);
        let heard = broker.closed.len() > closed || broker.passed > passed || broker.answered(id);
        assert!(heard || waits, "{api:?} {version} of {client}");
        broker
            .step((client % u64::from(SHARDS)) as u16, Input::Hangup { client: ClientId(client) });
        broker.run();
    }
}
