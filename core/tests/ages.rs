//! What records count for retention, seen at the storage engine: segments end by time, a strange time neither keeps nor takes
//! anything, what was decided at the append holds over restarts, and what was cut counts for nothing. And from when a producer is
//! silent, which no record's time says.

mod common;

use common::InstantDisk;
use milena_core::config::*;
use milena_core::storage::{Recovery, SegmentRules, Store};
use milena_core::{
    Config, Input, Instant, LogId, NodeId, Now, Offset, Output, Outputs, Timestamp, TopicId,
};
use milena_wire::batch::{BatchBuilder, BatchHeader, Compression};

const LOG: LogId = LogId { topic: TopicId([3; 16]), partition: 0 };
const HOUR: i64 = 3_600_000;
const WEEK: i64 = 7 * 24 * HOUR;
/// When the story begins.
const MORNING: Timestamp = 1_790_000_000_000;

/// One node's engine and disk.
struct World {
    disk: InstantDisk,
    store: Store,
    wall: Timestamp,
    mono: u64,
    rules: SegmentRules,
}

fn config() -> Config {
    Config {
        node: NodeId(7),
        controllers: vec![(NodeId(7), "localhost:1".into())],
        broker: true,
        controller: true,
        kafka: ("localhost".into(), 2),
        peer: "localhost:1".into(),
        rack: None,
        shards: 1,
        storage: StorageConfig {
            journal_file_bytes: 8 * 4096,
            metadata_journal_file_bytes: 8 * 4096,
            journal_files: 3,
            ..StorageConfig::default()
        },
        quorum: QuorumConfig::default(),
        replication: ReplicationConfig::default(),
    }
}

fn recover(disk: &mut InstantDisk, now: Now) -> Store {
    let mut recovery = Recovery::new(&config(), [7; 32]);
    let mut out = Outputs::default();
    recovery.step(now, Input::Start, &mut out);
    while let Some(output) = out.queue.pop_front() {
        match output {
            Output::Disk { op, command } => {
                let outcome = disk.apply(&command);
                recovery.step(now, Input::Disk { op, outcome }, &mut out);
            }
            Output::Log { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    recovery.take().expect("recovered").shards.pop().expect("the shard's engine")
}

impl World {
    /// Segments of an hour, and times that are believed up to an hour ahead.
    fn new() -> World {
        let rules =
            SegmentRules { ms: HOUR, ahead_ms_max: HOUR, ..SegmentRules::of_bytes(1 << 20) };
        let mut disk = InstantDisk::default();
        let (wall, mono) = (MORNING, 1);
        let mut store = recover(&mut disk, Now { mono: Instant(mono), wall });
        store.create(LOG, &mut Outputs::default());
        store.set_segment_rules(LOG, rules);
        World { disk, store, wall, mono, rules }
    }

    /// A batch of records with these times, written behind at once.
    fn append(&mut self, times: &[Timestamp]) {
        self.append_of(-1, times);
    }

    /// The same of an idempotent producer.
    fn append_of(&mut self, producer: i64, times: &[Timestamp]) {
        let end = self.store.log(LOG).expect("a log").end();
        let mut builder = BatchBuilder::new(end, 1, Compression::None);
        builder.producer(producer, 0, 0);
        for time in times {
            builder.append(*time, None, Some(b"letter"), &[]);
        }
        let mut out = Outputs::default();
        let batch = builder.build();
        let header = BatchHeader::parse(&batch).expect("a batch");
        self.store.append(LOG, &header, &[batch], self.wall, 0, true, &mut out);
        self.settle(out);
    }

    /// The disk does all that is asked of it, and what may be written behind is.
    fn settle(&mut self, mut out: Outputs) {
        for _ in 0..4 {
            self.mono += 1_000_000_000;
            let now = Now { mono: Instant(self.mono), wall: self.wall };
            self.store.pump(now, &mut out);
            while let Some(output) = out.queue.pop_front() {
                if let Output::Disk { op, command } = output {
                    let outcome = self.disk.apply(&command);
                    self.store.on_disk(now, op, outcome, &mut out);
                    self.store.pump(now, &mut out);
                }
            }
        }
    }

    /// The node is started again, some time later.
    fn restart(&mut self, later: i64) {
        self.wall += later;
        self.store = recover(&mut self.disk, Now { mono: Instant(1), wall: self.wall });
        self.mono = 1;
        self.store.set_segment_rules(LOG, self.rules);
        self.settle(Outputs::default());
    }

    /// Where the log should start if records are kept for a week, so long after the last start.
    fn start_at(&self, wall: Timestamp) -> Offset {
        self.store.retention_start(LOG, wall, WEEK, -1, Offset::MAX)
    }
}

#[test]
fn a_trickle_expires_since_segments_end_by_time() {
    let mut world = World::new();
    for hours in 0..10 {
        world.wall = MORNING + hours * HOUR * 2 / 3;
        world.append(&[world.wall]);
    }
    assert_eq!(world.start_at(MORNING + WEEK), 0, "nothing is older than a week");
    let starts: Vec<Offset> = (0..8).map(|h| world.start_at(MORNING + WEEK + h * HOUR)).collect();
    assert_eq!(starts, [0, 2, 2, 4, 6, 8, 8, 10], "two records a segment");
}

#[test]
fn a_strange_time_neither_stops_retention_nor_hastens_it() {
    for strange in [-1, i64::MIN, i64::MAX, MORNING + HOUR + 1, MORNING + 500 * WEEK] {
        let mut world = World::new();
        world.append(&[MORNING]);
        world.append(&[strange]);
        world.append(&[MORNING, strange, MORNING + 1]);
        world.wall += 2 * HOUR;
        world.append(&[world.wall]);
        assert_eq!(world.start_at(MORNING + WEEK), 0, "{strange}");
        assert_eq!(world.start_at(MORNING + WEEK + 1_001), 5, "{strange}");
    }
}

#[test]
fn an_old_record_goes_by_its_own_time() {
    let mut world = World::new();
    world.append(&[MORNING - 2 * WEEK]);
    assert_eq!(world.start_at(MORNING), 1);
}

#[test]
fn when_a_record_was_appended_is_known_after_restarts() {
    // Only in the journal, in segments that a checkpoint names, and copied from one journal to the next.
    for batches in [1, 500] {
        let mut world = World::new();
        (0..batches).for_each(|_| world.append(&[-1]));
        for _ in 0..3 {
            world.restart(24 * HOUR);
        }
        let written = MORNING + WEEK;
        assert_eq!(world.start_at(written), 0);
        assert_eq!(world.start_at(written + 1_001), batches, "of {batches} batches");
    }
}

#[test]
fn the_rules_hold_for_what_comes_after_them() {
    let mut world = World::new();
    world.rules.ahead_ms_max = i64::MAX;
    world.store.set_segment_rules(LOG, world.rules);
    world.append(&[MORNING + 500 * WEEK]);
    world.restart(HOUR);
    assert_eq!(world.start_at(MORNING + 2 * WEEK), 0, "whoever believes such times keeps them");
    assert_eq!(world.start_at(MORNING + 502 * WEEK), 1);
}

#[test]
fn what_was_cut_counts_for_no_bytes_to_keep() {
    let mut world = World::new();
    world.rules.bytes = 4_000;
    world.store.set_segment_rules(LOG, world.rules);
    (0..120).for_each(|_| world.append(&[MORNING]));
    let size = world.store.log(LOG).expect("a log").bytes() / 120;
    // Through a segment whose index is in its file.
    let mut out = Outputs::default();
    world.store.truncate(LOG, 60, &mut out);
    let start = |world: &World, kept: u64| {
        world.store.retention_start(LOG, MORNING, -1, kept as i64, Offset::MAX)
    };
    assert_eq!(start(&world, 0), 0, "while the cut has not reached the segments");
    world.settle(out);
    (0..50).for_each(|_| world.append(&[MORNING]));
    for restarts in 0..2 {
        let all = 110 * size;
        let starts: Vec<Offset> = (0..=all).step_by(10).map(|kept| start(&world, kept)).collect();
        for (kept, start) in (0..=all).step_by(10).zip(&starts) {
            let left = (110 - *start as u64) * size;
            assert!(left >= kept, "{left} bytes are left of {kept}, after {restarts} restarts");
        }
        assert!(starts[0] >= 60, "it goes where nothing is to be kept");
        world.restart(0);
    }
}

/// What is known of the first of three producers is in a checkpoint alone, of the last in the journal alone.
#[test]
fn a_producer_is_silent_from_its_last_append_on() {
    let mut world = World::new();
    let known = |world: &World| -> Vec<(i64, Offset)> {
        let producers = world.store.log(LOG).expect("a log").producers();
        producers.map(|producer| (producer.id, producer.last().base)).collect()
    };
    let times = [0, MORNING - 2 * WEEK, MORNING + HOUR];
    for (producer, time) in (1..).zip(times) {
        world.append_of(producer, &[time]);
        (0..500).for_each(|_| world.append(&[-1]));
    }
    world.append_of(4, &[0]);
    let all = [(1, 0), (2, 501), (3, 1_002), (4, 1_503)];
    for hours in [0, 10, 13] {
        world.restart(hours * HOUR);
        assert_eq!(known(&world), all);
    }
    let end = world.store.log(LOG).expect("a log").end();
    let expire = |world: &mut World, wall| {
        world.store.expire_producers(LOG, wall, end, &mut Outputs::default());
        world.settle(Outputs::default());
        known(world)
    };
    let now = world.wall;
    assert_eq!(expire(&mut world, now), all, "23 hours");
    // Those in the journal count from the start that read them, since nothing there says when they were appended.
    let later = expire(&mut world, MORNING + 24 * HOUR);
    assert!(all.ends_with(&later) && !later.is_empty(), "{later:?}");
    assert!(later.len() < all.len(), "what a checkpoint holds says when");
    assert_eq!(expire(&mut world, MORNING + 47 * HOUR), []);
    world.restart(0);
    assert_eq!(known(&world), []);
}
