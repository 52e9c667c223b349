//! Compaction, seen at the storage engine: whatever is written, cleaned, cut short by a crash and cleaned again, of each key the
//! last committed value stays, offsets stay dense, and a producer stays known by its batches.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use common::InstantDisk;
use milena_core::config::*;
use milena_core::storage::{
    Beginning, CleaningRules, Read, Recovery, SegmentRules, Store, StoreEvent, Ticket, Work,
};
use milena_core::{
    Config, Epoch, Input, Instant, LogId, NodeId, Now, Offset, OpId, Output, Outputs, TopicId,
};
use milena_wire::batch::{self, BatchBuilder, BatchHeader, Compression, DecompressLimit, records};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

const LOG: LogId = LogId { topic: TopicId([3; 16]), partition: 0 };
const LIMIT: usize = 1 << 20;
const PRODUCERS: u64 = 4;

/// A record as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Written {
    epoch: Epoch,
    key: Option<u8>,
    /// Null for a tombstone.
    value: Option<u64>,
    time: i64,
}

struct World {
    random: ChaCha8Rng,
    disk: InstantDisk,
    store: Store,
    wall: i64,
    mono: u64,
    /// All that was written, by offset.
    history: Vec<Written>,
    committed: Offset,
    epoch: Epoch,
    /// Of each producer the next sequence, and the batches that it is known by: first offset and sequence.
    producers: BTreeMap<i64, (i32, Vec<(Offset, i32)>)>,
    config: Config,
    /// Tombstones went at these offsets or below, as was seen.
    tombstones_gone: u64,
    covers_seen: u64,
    /// No tombstone may have gone at this offset or above.
    bound: Offset,
    /// Work of the cleaner is not done, but kept.
    holds_work: bool,
    held: Vec<(OpId, Work)>,
}

fn config(buffer: u64) -> Config {
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
            journal_file_bytes: 16 * 4096,
            metadata_journal_file_bytes: 8 * 4096,
            journal_files: 3,
            index_interval_bytes: 300,
            cleaner_buffer_bytes: buffer,
            ..StorageConfig::default()
        },
        quorum: QuorumConfig::default(),
        replication: ReplicationConfig::default(),
    }
}

fn recover(config: &Config, disk: &mut InstantDisk, now: Now) -> Store {
    let mut recovery = Recovery::new(config, [7; 32]);
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

fn rules(delete_retention_ms: i64) -> CleaningRules {
    CleaningRules {
        delete_retention_ms,
        min_lag_ms: 0,
        max_lag_ms: i64::MAX,
        dirty_ratio: 0.0,
        opened_bytes_max: LIMIT,
        tombstones_go_below: Offset::MAX,
    }
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // Sometimes there is hardly room for the keys.
        let buffer = [24 * 8, 24 * 40, 1 << 16][random.next_u32() as usize % 3];
        let config = config(buffer);
        let mut disk = InstantDisk::default();
        let wall = 1_790_000_000_000;
        let mut store = recover(&config, &mut disk, Now { mono: Instant(1), wall });
        store.create(LOG, &mut Outputs::default());
        store.set_segment_rules(LOG, SegmentRules::of_bytes(2_000));
        World {
            random,
            disk,
            store,
            wall,
            mono: 1,
            history: Vec::new(),
            committed: 0,
            epoch: 1,
            producers: BTreeMap::new(),
            config,
            tombstones_gone: 0,
            covers_seen: 0,
            bound: 0,
            holds_work: false,
            held: Vec::new(),
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random.next_u64() % bound
    }

    fn now(&self) -> Now {
        Now { mono: Instant(self.mono), wall: self.wall }
    }

    /// A batch of a few records of few keys.
    fn append(&mut self) {
        let base = self.history.len() as Offset;
        let codec = Compression::ALL[self.below(5) as usize];
        let mut builder = BatchBuilder::new(base, self.epoch, codec);
        let count = 1 + self.below(6);
        if self.below(2) == 0 {
            let id = self.below(PRODUCERS) as i64;
            let (next, batches) = self.producers.entry(id).or_default();
            builder.producer(id, 0, *next);
            batches.push((base, *next));
            *next += count as i32;
        }
        for _ in 0..count {
            let key = (self.below(20) > 0).then(|| self.random.next_u32() as u8 % 24);
            let value = (self.below(4) > 0).then(|| self.random.next_u64());
            let time = self.wall - self.below(1_000) as i64;
            let bytes = value.map(|value| value.to_le_bytes());
            let key_bytes = key.map(|key| [key]);
            builder.append(
                time,
                key_bytes.as_ref().map(|key| key.as_slice()),
                bytes.as_ref().map(|bytes| bytes.as_slice()),
                &[],
            );
            self.history.push(Written { epoch: self.epoch, key, value, time });
        }
        let batch = builder.build();
        let header = BatchHeader::parse(&batch).expect("a batch");
        let (wall, committed) = (self.wall, self.committed);
        let mut out = Outputs::default();
        self.store.append(LOG, &header, &[batch], wall, committed, true, &mut out);
    }

    /// What is not committed is cut, down to a border of batches.
    fn truncate(&mut self, borders: &[Offset]) {
        let above: Vec<Offset> =
            borders.iter().copied().filter(|border| *border >= self.committed).collect();
        if above.is_empty() {
            return;
        }
        let to = above[self.below(above.len() as u64) as usize];
        self.history.truncate(to as usize);
        for (next, batches) in self.producers.values_mut() {
            while let Some((_, sequence)) = batches.pop_if(|(base, _)| *base >= to) {
                *next = sequence;
            }
        }
        self.epoch += 1;
        self.store.truncate(LOG, to, &mut Outputs::default());
    }

    /// The engine and the disk go on, for so many commands at most.
    fn go_on(&mut self, commands: u64) {
        let mut out = Outputs::default();
        let mut left = commands;
        for _ in 0..4 {
            self.mono += 10_000_000;
            self.store.pump(self.now(), &mut out);
            while let Some(output) = out.queue.pop_front() {
                let now = self.now();
                match output {
                    Output::Disk { op, command } => {
                        if left == 0 {
                            return;
                        }
                        left -= 1;
                        let outcome = self.disk.apply(&command);
                        self.store.on_disk(now, op, outcome, &mut out);
                    }
                    Output::Work { op, work } if self.holds_work => self.held.push((op, work)),
                    Output::Work { op, work } => self.store.on_worked(op, work.run()),
                    Output::Log { .. } => {}
                    other => panic!("{other:?}"),
                }
                self.store.pump(now, &mut out);
            }
            self.store.check_invariants();
        }
    }

    fn drop_events(&mut self) {
        while let Some(event) = self.store.pop_event() {
            assert!(!matches!(event, StoreEvent::Damaged { .. }), "{event:?}");
        }
    }

    /// Power goes, and comes back.
    fn restart(&mut self) {
        self.mono = 1;
        let now = self.now();
        self.store = recover(&self.config, &mut self.disk, now);
        self.store.create(LOG, &mut Outputs::default());
        self.store.set_segment_rules(LOG, SegmentRules::of_bytes(2_000));
        let log = self.store.log(LOG).expect("the log");
        assert!(!log.is_damaged());
    }

    fn read(&mut self, from: Offset, end: Offset) -> Vec<Bytes> {
        let mut out = Outputs::default();
        match self.store.read(LOG, from, end, 1 << 20, &mut out) {
            Read::Now(batches) => batches,
            Read::Later(ticket) => self.wait(ticket, out),
        }
    }

    fn wait(&mut self, wanted: Ticket, mut out: Outputs) -> Vec<Bytes> {
        loop {
            while let Some(event) = self.store.pop_event() {
                if let StoreEvent::Read { ticket, result } = event
                    && ticket == wanted
                {
                    // What else has come out waits in the queue of a real driver; here it is done at once.
                    self.finish(out);
                    return result.expect("read");
                }
            }
            let output = out.queue.pop_front().expect("a read goes on");
            if let Output::Disk { op, command } = output {
                let outcome = self.disk.apply(&command);
                let now = self.now();
                self.store.on_disk(now, op, outcome, &mut out);
            }
        }
    }

    fn finish(&mut self, mut out: Outputs) {
        while let Some(output) = out.queue.pop_front() {
            if let Output::Disk { op, command } = output {
                let outcome = self.disk.apply(&command);
                let now = self.now();
                self.store.on_disk(now, op, outcome, &mut out);
            }
        }
    }

    /// Looks at all that the log holds. The borders of its batches.
    fn check(&mut self) -> Vec<Offset> {
        let log = self.store.log(LOG).expect("a log");
        let (start, end) = (log.start(), log.end());
        assert_eq!(end, self.history.len() as Offset, "the end");
        let dropped = log.dropped();
        assert!(dropped <= self.bound, "tombstones went up to {dropped}, past {}", self.bound);
        let (mut at, mut borders) = (start, vec![start]);
        let mut found: BTreeMap<Offset, Written> = BTreeMap::new();
        let mut batches: BTreeMap<Offset, BatchHeader> = BTreeMap::new();
        while at < end {
            let read = self.read(at, end);
            assert!(!read.is_empty(), "nothing at {at} of {end}");
            for batch in read {
                let header = batch::validate(&batch).expect("a good batch");
                assert_eq!(header.base_offset, at, "offsets are dense");
                at = header.next_offset();
                borders.push(at);
                for offset in [header.base_offset, at - 1] {
                    let epoch = self.history[offset as usize].epoch;
                    assert_eq!(header.partition_leader_epoch, epoch, "at {offset}");
                }
                self.covers_seen += u64::from(header.records_count == 0 && header.producer_id < 0);
                for record in records(&batch, DecompressLimit(LIMIT)).expect("records") {
                    let value = record.value.map(|v| u64::from_le_bytes(v[..].try_into().unwrap()));
                    let key = record.key.map(|key| key[0]);
                    let epoch = header.partition_leader_epoch;
                    let time = record.timestamp;
                    found.insert(record.offset, Written { epoch, key, value, time });
                }
                batches.insert(header.base_offset, header);
            }
        }
        let present: BTreeSet<Offset> = found.keys().copied().collect();
        let mut last: BTreeMap<u8, Offset> = BTreeMap::new();
        for (offset, written) in (0..).zip(&self.history) {
            if let (Some(key), true) = (written.key, offset < self.committed) {
                last.insert(key, offset);
            }
        }
        for (offset, written) in (0..).zip(&self.history) {
            if let Some(there) = found.remove(&offset) {
                assert_eq!(there, *written, "at {offset}");
                continue;
            }
            assert!(
                offset < self.committed,
                "{offset} went, and only {} are committed",
                self.committed
            );
            let Some(key) = written.key else { continue };
            if last[&key] == offset {
                assert_eq!(written.value, None, "the last value of {key} at {offset} went");
                assert!(
                    offset < dropped,
                    "a tombstone at {offset} went, and {dropped} says nothing of it"
                );
                self.tombstones_gone += 1;
                // No older value of its key may be left.
                let older =
                    present.range(..offset).find(|o| self.history[**o as usize].key == Some(key));
                assert_eq!(older, None, "{key} comes back from the dead");
            }
        }
        assert!(found.is_empty(), "records that nobody wrote: {found:?}");
        for (id, (_, known)) in &self.producers {
            for (base, sequence) in known.iter().rev().take(5) {
                let header =
                    batches.get(base).unwrap_or_else(|| panic!("{id} is unknown at {base}"));
                assert_eq!((header.producer_id, header.base_sequence), (*id, *sequence));
            }
        }
        self.drop_events();
        borders
    }
}

/// One story: what was seen in it.
fn story(seed: u64) -> (u64, u64, u64) {
    let mut world = World::new(seed);
    let delete_retention_ms = [0, 3_000, 1 << 40][world.below(3) as usize];
    let rules = rules(delete_retention_ms);
    for _ in 0..40 {
        for _ in 0..world.below(12) {
            world.append();
        }
        world.go_on(u64::MAX);
        let end = world.history.len() as u64;
        let more = world.below(end - world.committed as u64 + 1) as Offset;
        world.committed += more;
        world.wall += world.below(5_000) as i64;
        let (wall, committed) = (world.wall, world.committed);
        if world.store.dirt(LOG, &rules, wall, committed).is_some() {
            // Sometimes a replica copies the log and has come to somewhere.
            let copied = world.below(2 * committed as u64 + 1) as Offset;
            let tombstones_go_below = if copied < committed { copied } else { Offset::MAX };
            world.bound = world.bound.max(tombstones_go_below);
            let rules = CleaningRules { tombstones_go_below, ..rules };
            world.store.clean(LOG, &rules, wall, committed);
        }
        let commands = [u64::MAX, 12, 40][world.below(3) as usize];
        match world.below(4) {
            0 => {
                let commands = world.below(commands.min(60));
                world.go_on(commands);
                world.restart();
            }
            1 => {
                // Cut while the cleaner is at work.
                let borders = world.check();
                let (wall, committed) = (world.wall, world.committed);
                world.bound = Offset::MAX;
                world.store.clean(LOG, &rules, wall, committed);
                world.truncate(&borders);
                world.go_on(u64::MAX);
            }
            _ => world.go_on(u64::MAX),
        }
        world.go_on(u64::MAX);
        world.check();
    }
    world.go_on(u64::MAX);
    // Once two checkpoints have named the new segments, nothing of the old ones is left.
    let segments = world.disk.names(milena_core::disk::Directory::Segments);
    let bases: BTreeSet<i64> = segments
        .iter()
        .filter_map(|file| match file {
            milena_core::disk::FileName::Segment { base, .. } => Some(*base),
            _ => None,
        })
        .collect();
    let files = segments
        .iter()
        .filter(|file| matches!(file, milena_core::disk::FileName::Segment { .. }))
        .count();
    assert_eq!(files, bases.len(), "old segments stayed: {segments:?}");
    (world.store.view().cleaner.records_gone, world.tombstones_gone, world.covers_seen)
}

#[test]
fn the_last_value_of_each_key_stays_whatever_happens() {
    let mut seen = (0, 0, 0);
    for seed in 0..60 {
        let (gone, tombstones, covers) = story(seed);
        seen = (seen.0 + gone, seen.1 + tombstones, seen.2 + covers);
    }
    assert!(seen.0 > 1_000 && seen.1 > 100 && seen.2 > 100, "{seen:?}");
}

/// What the cleaner is in the middle of belongs to the log before: the keys of the new one are not known.
#[test]
fn a_log_that_begins_again_is_not_cleaned_on() {
    let mut world = World::new(0);
    (0..60).for_each(|_| world.append());
    world.committed = world.history.len() as Offset;
    world.go_on(u64::MAX);
    world.holds_work = true;
    let (wall, committed) = (world.wall, world.committed);
    world.store.clean(LOG, &rules(0), wall, committed);
    // Until all keys are known, and what stays is being chosen.
    let (op, work) = loop {
        world.go_on(u64::MAX);
        let (op, work) = world.held.pop().expect("the cleaner is at work");
        if format!("{work:?}").contains("records") {
            break (op, work);
        }
        world.store.on_worked(op, work.run());
    };
    let begun = world.store.begin_at(LOG, 0, &Beginning::default(), wall, &mut Outputs::default());
    assert!(begun.is_some());
    (world.history, world.committed, world.producers) = (Vec::new(), 0, BTreeMap::new());
    (0..60).for_each(|_| world.append());
    world.go_on(u64::MAX);
    world.holds_work = false;
    world.store.on_worked(op, work.run());
    world.go_on(u64::MAX);
    assert!(!world.store.is_cleaning());
    assert_eq!(world.store.log(LOG).expect("the log").cleaned(), 0);
    world.check();
}

/// Who learns of a producer from what compaction has left of its batches would take its next one for one out of order.
#[test]
fn what_is_left_of_a_forgotten_producer_does_not_name_it() {
    let named = |world: &mut World| -> BTreeSet<i64> {
        let (mut at, mut ids) = (0, BTreeSet::new());
        while at < world.history.len() as Offset {
            for batch in world.read(at, world.history.len() as Offset) {
                let header = BatchHeader::parse(&batch).expect("a batch");
                ids.extend(Some(header.producer_id).filter(|id| *id >= 0));
                at = header.next_offset();
            }
        }
        ids
    };
    let mut world = World::new(0);
    (0..60).for_each(|_| world.append());
    world.committed = world.history.len() as Offset;
    world.go_on(u64::MAX);
    assert_eq!(named(&mut world).len(), PRODUCERS as usize);
    world.wall += 10 * 86_400_000;
    let (wall, committed) = (world.wall, world.committed);
    world.store.expire_producers(LOG, wall, committed, &mut Outputs::default());
    assert_eq!(world.store.log(LOG).expect("the log").producers().count(), 0);
    // Of the last segment nothing is looked at.
    for _ in 0..60 {
        let mut filler = BatchBuilder::new(world.history.len() as Offset, 1, Compression::None);
        let key = Some(200);
        filler.append(wall, Some(&[200]), Some(b"a filler of many bytes"), &[]);
        world.history.push(Written { epoch: 1, key, value: Some(0), time: wall });
        let batch = filler.build();
        let header = BatchHeader::parse(&batch).expect("a batch");
        world.store.append(LOG, &header, &[batch], wall, committed, true, &mut Outputs::default());
    }
    world.committed = world.history.len() as Offset;
    world.go_on(u64::MAX);
    let committed = world.committed;
    world.store.clean(LOG, &rules(1 << 40), wall, committed);
    world.go_on(u64::MAX);
    assert_eq!(named(&mut world), BTreeSet::new());
}

/// A batch opened to too much when its keys were taken note of, and to little enough after a restart with a larger limit.
#[test]
fn a_batch_can_be_opened_again_after_its_newer_keys_were_noted() {
    let mut world = World::new(0);
    world.config.storage.cleaner_buffer_bytes = 1 << 16;
    world.restart();
    world.bound = Offset::MAX;
    let put = |world: &mut World, records: &[(u8, Option<u64>)]| {
        let base = world.history.len() as Offset;
        let mut builder = BatchBuilder::new(base, 1, Compression::Lz4);
        for &(key, value) in records {
            let bytes = value.map(|value| value.to_le_bytes());
            builder.append(world.wall, Some(&[key]), bytes.as_ref().map(|b| b.as_slice()), &[]);
            world.history.push(Written { epoch: 1, key: Some(key), value, time: world.wall });
        }
        let batch = builder.build();
        let header = BatchHeader::parse(&batch).expect("a batch");
        let (wall, committed) = (world.wall, world.committed);
        world.store.append(LOG, &header, &[batch], wall, committed, true, &mut Outputs::default());
    };
    let fill = |world: &mut World| (0..60).for_each(|n| put(world, &[(100 + n as u8, Some(0))]));
    let clean = |world: &mut World, opened_bytes_max: usize| {
        world.committed = world.history.len() as Offset;
        world.go_on(u64::MAX);
        let (wall, committed) = (world.wall, world.committed);
        let rules = CleaningRules { opened_bytes_max, ..rules(1_000) };
        world.store.clean(LOG, &rules, wall, committed);
        assert!(world.store.is_cleaning());
        world.go_on(u64::MAX);
        assert!(!world.store.is_cleaning());
        world.check();
    };
    let large: Vec<(u8, Option<u64>)> = (0..20).map(|key| (key, Some(7))).collect();
    put(&mut world, &large);
    put(&mut world, &[(5, None)]);
    fill(&mut world);
    clean(&mut world, 100);
    world.restart();
    world.wall += 10_000;
    fill(&mut world);
    clean(&mut world, LIMIT);
}
