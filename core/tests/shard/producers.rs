//! Idempotent producers at one broker: what a retry is answered with, what is refused, and how long anything is known of them.

use milena_core::machine::View;
use milena_core::storage::ProducerView;
use milena_wire::messages::produce::PartitionProduceResponse;

use super::*;

const LOG: LogId = LogId { topic: TOPIC, partition: 0 };
/// After so long retention is looked at, and which producers are silent.
const CHECK_MS: u64 = 300_000;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A batch of so many records.
fn sequenced(id: i64, epoch: i16, sequence: i32, records: i32) -> Bytes {
    let mut batch = BatchBuilder::new(0, -1, Compression::None);
    batch.producer(id, epoch, sequence);
    (0..records).for_each(|time| {
        batch.append(1_000 + i64::from(time), None, Some(b"x"), &[]);
    });
    batch.build()
}

fn answer(broker: &mut Broker1, id: u64) -> PartitionProduceResponse {
    broker.produced(id).responses[0].partition_responses[0].clone()
}

/// What a batch for partition 0 is answered with.
fn given(broker: &mut Broker1, batch: Bytes) -> (ErrorCode, i64) {
    let id = broker.produce(9, -1, vec![(0, batch)]);
    let answer = answer(broker, id);
    (answer.error_code, answer.base_offset)
}

/// The log of partition 0, with what it knows of its producers.
fn log(broker: &Broker1) -> &milena_core::storage::Log {
    let shard = &broker.shards[usize::from(LOG.shard(SHARDS))];
    let View::Shard(view) = Machine::view(shard) else { panic!("a shard") };
    view.store().log(LOG).expect("a log")
}

fn ids(broker: &Broker1) -> Vec<i64> {
    log(broker).producers().map(|ProducerView { id, .. }| id).collect()
}

#[test]
fn a_retry_is_answered_as_the_original_and_a_gap_is_refused() {
    let mut broker = Broker1::new();
    let out_of_order = (ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, -1);
    let fenced = (ErrorCode::INVALID_PRODUCER_EPOCH, -1);
    let new = |base| (ErrorCode::NONE, base);
    assert_eq!(given(&mut broker, sequenced(7, 1, 40, 2)), new(0), "nothing was known of it");
    for number in 1..8 {
        assert_eq!(
            given(&mut broker, sequenced(7, 1, 40 + 2 * number, 2)),
            new(2 * i64::from(number))
        );
    }
    assert_eq!(given(&mut broker, batch("of nobody")), new(16));
    for number in 3..8 {
        let original = new(2 * i64::from(number));
        assert_eq!(given(&mut broker, sequenced(7, 1, 40 + 2 * number, 2)), original);
    }
    for (sequence, records) in [(44, 2), (54, 1), (54, 3), (55, 1), (57, 1), (0, 1)] {
        assert_eq!(given(&mut broker, sequenced(7, 1, sequence, records)), out_of_order);
    }
    assert_eq!(given(&mut broker, sequenced(7, 0, 56, 1)), fenced);
    assert_eq!(given(&mut broker, sequenced(7, 2, 56, 1)), out_of_order);
    assert_eq!(given(&mut broker, sequenced(7, 2, 0, 1)), new(17));
    assert_eq!(given(&mut broker, sequenced(7, 1, 56, 1)), fenced);
    assert_eq!(given(&mut broker, sequenced(8, 0, 3, 1)), new(18), "of another producer");
    assert_eq!(given(&mut broker, sequenced(8, -1, 4, 1)), fenced);
    assert_eq!(given(&mut broker, sequenced(8, 0, -1, 1)), (ErrorCode::INVALID_RECORD, -1));
    assert_eq!(log(&broker).end(), 19);
    let id = broker.produce(9, -1, vec![(0, sequenced(7, 2, 9, 1))]);
    let message = answer(&mut broker, id).error_message.expect("it says why");
    assert!(message.contains("producer 7") && message.contains("number 1"), "{message}");
    // Without an answer: a retry is none of the client's business, what is refused closes its connection.
    broker.produce(9, 0, vec![(0, sequenced(7, 2, 0, 1))]);
    assert!(broker.closed.is_empty());
    broker.produce(9, 0, vec![(0, sequenced(7, 2, 2, 1))]);
    assert_eq!((broker.closed.len(), log(&broker).end()), (1, 19));
}

#[test]
fn a_retry_has_the_time_of_the_original_where_the_broker_gives_times() {
    let mut broker = Broker1::start(InstantDisk::default(), |image| {
        let mut topic = (*image.topics[&TOPIC]).clone();
        topic.configs.insert("message.timestamp.type".into(), "LogAppendTime".into());
        image.topics.insert(TOPIC, Arc::new(topic));
    });
    let mut times = Vec::new();
    for _ in 0..2 {
        let id = broker.produce(9, -1, vec![(0, sequenced(7, 0, 0, 1))]);
        let answer = answer(&mut broker, id);
        times.push((answer.error_code, answer.base_offset, answer.log_append_time_ms));
        broker.pass(5_000);
    }
    assert_eq!(times, [(ErrorCode::NONE, 0, 1_000); 2]);
}

#[test]
fn a_retry_waits_as_the_original_does() {
    for acks in [1, -1] {
        let mut broker = Broker1::new();
        broker.stalled = true;
        let ask = |broker: &mut Broker1| {
            let mut request = produce_request(acks, vec![(0, sequenced(7, 0, 0, 3))]);
            request.timeout_ms = 60_000;
            broker.send(0, 9, request)
        };
        let both = [ask(&mut broker), ask(&mut broker)];
        assert_eq!(log(&broker).end(), 3);
        assert!(both.iter().all(|id| !broker.answered(*id)), "nothing of it is on the disk");
        broker.release_disk();
        for id in both {
            assert_eq!(errors(&broker.produced(id)), [(0, ErrorCode::NONE, 0)]);
        }
        assert_eq!(log(&broker).end(), 3);
    }
}

#[test]
fn batches_that_wait_for_room_are_judged_in_their_order() {
    let mut broker = Broker1::new();
    broker.segments_stalled = true;
    let ask = |broker: &mut Broker1, sequence| {
        let mut batch = BatchBuilder::new(0, -1, Compression::None);
        batch.producer(7, 0, sequence).append(0, None, Some(&[1; 9_000]), &[]);
        let mut request = produce_request(-1, vec![(0, batch.build())]);
        request.timeout_ms = 600_000;
        broker.send(0, 9, request)
    };
    let mut waiting = Vec::new();
    let mut sequence = 0;
    while waiting.len() < 5 {
        let id = ask(&mut broker, sequence);
        waiting.extend((!broker.answered(id)).then_some((id, sequence)));
        sequence += 1;
        assert!(sequence < 200, "memory is bounded");
    }
    waiting.push((ask(&mut broker, sequence - 1), sequence - 1));
    let gap = ask(&mut broker, sequence + 1);
    assert!(!broker.answered(gap), "it may be the next one when its turn comes");
    broker.release_disk();
    for (id, sequence) in waiting {
        assert_eq!(errors(&broker.produced(id)), [(0, ErrorCode::NONE, i64::from(sequence))]);
    }
    let refused = [(0, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, -1)];
    assert_eq!(errors(&broker.produced(gap)), refused);
}

/// Whether the state is in the journal alone or in a checkpoint.
#[test]
fn what_is_known_of_producers_outlives_a_restart() {
    for batches in [1, 1_500] {
        let mut broker = Broker1::new();
        for sequence in 0..batches {
            let (code, base) = given(&mut broker, sequenced(7, 3, sequence, 1));
            assert_eq!((code, base), (ErrorCode::NONE, 2 * i64::from(sequence)));
            // Something more, so that journal files are used again.
            let other = BatchBuilder::new(0, -1, Compression::None)
                .append(0, None, Some(&[1; 4_000]), &[])
                .build();
            given(&mut broker, other);
        }
        let before: Vec<_> = log(&broker).producers().map(|p| (p.id, p.batches.to_vec())).collect();
        for _ in 0..3 {
            broker = Broker1::start(broker.disk, |_| {});
            let after = log(&broker).producers().map(|p| (p.id, p.batches.to_vec()));
            assert_eq!(after.collect::<Vec<_>>(), before);
        }
        let last = 2 * i64::from(batches - 1);
        assert_eq!(given(&mut broker, sequenced(7, 3, batches - 1, 1)), (ErrorCode::NONE, last));
        assert_eq!(given(&mut broker, sequenced(7, 3, batches, 1)), (ErrorCode::NONE, last + 2));
        let skipped = given(&mut broker, sequenced(7, 3, batches + 2, 1));
        assert_eq!(skipped.0, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
    }
}

/// From when it appended here, whatever the times of its records say.
#[test]
fn who_is_silent_for_a_day_is_forgotten() {
    let mut broker = Broker1::new();
    given(&mut broker, sequenced(7, 0, 0, 1));
    let half = DAY_MS / CHECK_MS / 2;
    (0..half).for_each(|_| broker.pass(CHECK_MS));
    given(&mut broker, sequenced(8, 0, 0, 1));
    (1..half).for_each(|_| broker.pass(CHECK_MS));
    assert_eq!(ids(&broker), [7, 8], "not yet a day");
    broker.pass(CHECK_MS);
    broker.pass(CHECK_MS);
    assert_eq!(ids(&broker), [8]);
    assert_eq!(given(&mut broker, sequenced(7, 0, 5, 1)), (ErrorCode::NONE, 2), "as a new one");
    broker = Broker1::start(broker.disk, |_| {});
    assert_eq!(ids(&broker), [7, 8], "what was forgotten stays so");
    assert_eq!(given(&mut broker, sequenced(7, 0, 5, 1)), (ErrorCode::NONE, 2));
}

#[test]
fn a_log_knows_so_many_producers_and_forgets_the_lowest() {
    let mut broker = Broker1::new();
    for id in 0..30 {
        given(&mut broker, sequenced(id, 0, 0, 1));
    }
    given(&mut broker, sequenced(0, 0, 1, 1));
    given(&mut broker, sequenced(100, 0, 0, 1));
    given(&mut broker, sequenced(101, 0, 0, 1));
    let left: Vec<i64> = [0].into_iter().chain(3..30).chain([100, 101]).collect();
    assert_eq!(ids(&broker), left);
    broker = Broker1::start(broker.disk, |_| {});
    assert_eq!(ids(&broker), left);
}
