//! What a shard shows of itself to whoever watches: its partitions a few at a time, with what clients wrote and read, and the
//! room of its store.

use milena_core::disk::Directory;
use milena_core::replica::{PartitionView, Tally};
use milena_core::storage::StoreView;
use milena_core::{Machine, View};

use super::*;

/// All partitions of a broker in the order in which they are shown, so many at a time.
fn shown(broker: &Broker1, at_a_time: usize) -> Vec<PartitionView> {
    let mut all = Vec::new();
    for shard in &broker.shards {
        let mut after = None;
        loop {
            let some: Vec<PartitionView> = shard.view().partitions(after).take(at_a_time).collect();
            let Some(last) = some.last() else { break };
            after = Some(last.log);
            all.extend(some);
        }
    }
    all
}

#[test]
fn partitions_are_shown_a_few_at_a_time_and_each_once() {
    let broker = Broker1::new();
    let logs = |at_a_time| -> Vec<LogId> {
        shown(&broker, at_a_time).into_iter().map(|partition| partition.log).collect()
    };
    let mut all = logs(1_000);
    assert_eq!(logs(1), all);
    assert_eq!(logs(3), all);
    all.sort();
    assert_eq!(all.iter().map(|log| log.partition).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 7]);
    for (index, shard) in (0..).zip(&broker.shards) {
        let View::Shard(view) = Machine::view(shard) else { panic!("it is a shard") };
        assert_eq!(view.index(), index);
    }
}

#[test]
fn what_clients_write_and_read_is_counted_where_it_lies() {
    let mut broker = Broker1::new();
    let (one, two) = (batch("a"), batch("bc"));
    let id = broker.produce(9, -1, vec![(3, one.clone()), (5, two.clone())]);
    broker.produced(id);
    let id = broker.produce(9, -1, vec![(3, one.clone()), (99, two.clone())]);
    broker.produced(id);
    let id = broker.send(0, 13, fetch_request(&[(3, 1), (5, 0), (6, 0)]));
    broker.fetched(id);
    for partition in shown(&broker, 2) {
        let (end, records_in, bytes_in, bytes_out) = match partition.log.partition {
            3 => (2, 2, 2 * one.len(), one.len()),
            5 => (1, 1, two.len(), two.len()),
            _ => (0, 0, 0, 0),
        };
        let tally = Tally { records_in, bytes_in: bytes_in as u64, bytes_out: bytes_out as u64 };
        assert_eq!(partition.tally, tally, "{:?}", partition.log);
        let offsets = (partition.start, partition.high_watermark, partition.end);
        assert_eq!(offsets, (0, end, end), "{:?}", partition.log);
        assert_eq!(partition.bytes, bytes_in as u64);
        assert!(partition.leading && !partition.damaged);
        assert_eq!((partition.topic.name.as_str(), partition.topic.partitions.len()), ("t", 8));
    }
}

#[test]
fn a_store_shows_its_room() {
    let mut broker = Broker1::new();
    broker.segments_stalled = true;
    let rooms = |broker: &Broker1| -> Vec<StoreView> {
        broker.shards.iter().map(|shard| shard.view().store().view()).collect()
    };
    let before = rooms(&broker);
    let partitions = (0..PARTITIONS).map(|partition| (partition, batch(&"x".repeat(1_000))));
    let id = broker.produce(9, -1, partitions.collect());
    broker.produced(id);
    for (before, after) in before.iter().zip(rooms(&broker)) {
        assert!(after.journal_bytes > before.journal_bytes, "{before:?} {after:?}");
        assert!(after.memory_bytes >= before.memory_bytes + 1_000, "{before:?} {after:?}");
        assert!(after.journal_bytes <= after.journal_bytes_max);
        assert_eq!(after.journal_bytes_max, 3 * (2 << 20));
        assert_eq!(after.memory_bytes_max, 1 << 20);
        assert!(after.accepts_produce && after.free_bytes.is_some());
    }
}

/// Else retention and the cleaner, which leave the last segment alone, would find nothing to do.
#[test]
fn what_a_start_writes_again_goes_to_segments_as_before() {
    let small = |image: &mut Image| {
        let topic = Arc::make_mut(image.topics.get_mut(&TOPIC).expect("the topic"));
        topic.configs.insert("segment.bytes".into(), "16384".into());
    };
    let segments = |broker: &Broker1| {
        let names = broker.disk.names(Directory::Segments);
        names.iter().filter(|file| matches!(file, FileName::Segment { .. })).count()
    };
    let mut broker = Broker1::start(InstantDisk::default(), small);
    for _ in 0..20 {
        let produced = broker.produce(9, 1, vec![(0, batch(&"x".repeat(8_000)))]);
        assert!(broker.answered(produced));
    }
    let before = segments(&broker);
    assert!(before >= 9, "{before} segments");
    let broker = Broker1::start(broker.disk, small);
    assert_eq!(segments(&broker), before);
}
