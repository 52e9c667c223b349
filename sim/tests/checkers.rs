//! Each checker tripped on purpose: a few events that break exactly its rule, told to the ghosts as a machine would.
//!
//! A checker that has never fired proves nothing. Where a planted bug of the catalogue trips one too, this is the short
//! way to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use milena_core::disk::{Command, Directory, FileName};
use milena_core::metadata::{Broker, Image, Partition, Topic};
use milena_core::trace::Event;
use milena_core::{
    BrokerEpoch, Epoch, Incarnation, LogId, NodeId, Offset, ReplicaIncarnation, TopicId,
};
use milena_sim::check::Checks;
use milena_sim::disk::Disk;
use milena_sim::rng::{Concern, Stream};
use milena_wire::batch::{BatchBuilder, BatchHeader, Compression, assign};

const TOPIC: TopicId = TopicId([7; 16]);
const LOG: LogId = LogId { topic: TOPIC, partition: 0 };

/// The one file that everything here is written to.
const JOURNAL: FileName = FileName::Journal { layout: 1, journal: 1, index: 0 };

/// Three nodes with a disk each, and the ghosts that watch them.
struct Stage {
    checks: Checks,
    disks: Vec<Disk>,
    draw: Stream,
    images: Offset,
}

impl Stage {
    fn new() -> Stage {
        let mut stage = Stage {
            checks: Checks::new(3),
            disks: (0..3).map(|_| Disk::new()).collect(),
            draw: Stream::new(1, Concern::Strike),
            images: 0,
        };
        for node in 0..3 {
            stage.checks.on_start(node);
            let incarnation = Incarnation(node as u128 + 1);
            stage.checks.on_incarnation(node, incarnation).expect("a new disk");
        }
        stage
    }

    /// A partition on all three nodes, led by the first in epoch 1.
    fn with_partition() -> Stage {
        let mut stage = Stage::new();
        stage.show(|_| {}).expect("a sane partition");
        stage.ok(0, Event::Leading { log: LOG, epoch: 1, start: 0 });
        for node in 1..3 {
            stage.ok(node, Event::Following { log: LOG, epoch: 1, leader: NodeId(1) });
        }
        stage
    }

    /// Shows a new image whose one partition `change` may alter.
    fn show(&mut self, change: impl FnOnce(&mut Partition)) -> Result<(), String> {
        let known = self.checks.image.as_ref().and_then(|image| image.partition(LOG));
        let mut partition = known.map_or_else(
            || Partition {
                replicas: nodes(&[1, 2, 3]),
                incarnations: vec![ReplicaIncarnation(0); 3],
                isr: nodes(&[1, 2, 3]),
                elr: Vec::new(),
                leader: Some(NodeId(1)),
                leader_epoch: 1,
                partition_epoch: 0,
                min_isr: 2,
            },
            |(_, partition)| partition.clone(),
        );
        partition.partition_epoch += 1;
        change(&mut partition);
        self.show_with(partition, |_| {})
    }

    fn show_with(
        &mut self,
        partition: Partition,
        change: impl FnOnce(&mut BTreeMap<NodeId, Broker>),
    ) -> Result<(), String> {
        self.images += 1;
        let mut brokers: BTreeMap<NodeId, Broker> = (1..=3)
            .map(|id| {
                let broker = Broker {
                    incarnation: Incarnation(id as u128),
                    epoch: BrokerEpoch(1),
                    confirmed: Some(BrokerEpoch(1)),
                    fenced: false,
                    kafka: (String::new(), 0),
                    peer: String::new(),
                    rack: None,
                };
                (NodeId(id), broker)
            })
            .collect();
        change(&mut brokers);
        let topic = Topic {
            id: TOPIC,
            name: "t".into(),
            configs: BTreeMap::new(),
            partitions: vec![partition],
        };
        let image = Image {
            end: self.images,
            brokers,
            topics: [(TOPIC, Arc::new(topic))].into(),
            ..Image::default()
        };
        let shown = self.checks.on_image(&Arc::new(image));
        shown.map_err(|violation| violation.property.to_owned())
    }

    fn tell(&mut self, node: usize, event: Event) -> Result<(), String> {
        let told = self.checks.on_event(node, &self.disks[node], &event);
        told.map_err(|violation| violation.property.to_owned())
    }

    fn ok(&mut self, node: usize, event: Event) {
        self.tell(node, event).expect("nothing is wrong with this");
    }

    fn trips(&mut self, property: &str, node: usize, event: Event) {
        assert_eq!(self.tell(node, event), Err(property.to_owned()));
    }

    /// A fault strikes a file of a node's journal, and with it the batch at its beginning, if it is there.
    fn corrupt(&mut self, node: usize, file: FileName) {
        let held = self.checks.nodes[node].locations.whole_at(&self.disks[node], file, 150);
        self.disks[node].corrupt_at(&file, 150, 3);
        self.checks.on_corrupted(node, file, held);
    }

    /// A node appends a batch in memory, nothing on the disk yet. `content` tells batches apart.
    fn append(
        &mut self,
        node: usize,
        log: LogId,
        base: Offset,
        epoch: Epoch,
        content: u8,
    ) -> Vec<Bytes> {
        let (event, pieces) = appended(log, base, epoch, content, node == 0);
        self.ok(node, event);
        pieces
    }

    /// The same, and it is written to the disk, and synced there if wanted.
    fn store(
        &mut self,
        node: usize,
        log: LogId,
        base: Offset,
        epoch: Epoch,
        content: u8,
        sync: bool,
    ) {
        let data = recorded(self.append(node, log, base, epoch, content), base as u64 + 1);
        let file = JOURNAL;
        let offset = 4096 * base as u64;
        let write = Command::Write { file, offset, data: data.clone() };
        let directory = Directory::Journal;
        let mut commands = vec![Command::Create { file }, write];
        if base > 0 {
            commands.remove(0);
        }
        if sync {
            commands.extend([Command::Sync { file }, Command::SyncDirectory { directory }]);
        }
        self.checks.nodes[node].locations.on_write(file, offset, &data);
        for command in &commands {
            self.disks[node].apply(command, self.draw.generator()).expect("a sound disk");
        }
    }

    fn acknowledge(&mut self, node: usize, end: Offset, epoch: Epoch) -> Result<(), String> {
        self.tell(node, acknowledged(end, epoch))
    }

    /// All three hold one batch of epoch 1, synced and acknowledged.
    fn replicated() -> Stage {
        let mut stage = Stage::with_partition();
        for node in 0..3 {
            stage.store(node, LOG, 0, 1, 1, true);
        }
        for node in 1..3 {
            stage.acknowledge(node, 1, 1).expect("it is on the disk");
        }
        stage
    }

    /// That batch is committed too.
    fn committed() -> Stage {
        let mut stage = Stage::replicated();
        stage.ok(0, high_watermark(1, &[1, 2, 3], &[1, 2, 3]));
        stage
    }
}

/// A batch as the body of a journal record of a number.
fn recorded(batch: Vec<Bytes>, lsn: u64) -> Vec<Bytes> {
    let size = 80 + batch.iter().map(Bytes::len).sum::<usize>();
    let mut header = vec![0; 80];
    header[8..12].copy_from_slice(&(size as u32).to_le_bytes());
    (header[12], header[13]) = (1, 1);
    header[24..32].copy_from_slice(&lsn.to_le_bytes());
    std::iter::once(header.into()).chain(batch).collect()
}

fn nodes(ids: &[i32]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

fn appended(
    log: LogId,
    base: Offset,
    epoch: Epoch,
    content: u8,
    leading: bool,
) -> (Event, Vec<Bytes>) {
    let mut builder = BatchBuilder::new(0, -1, Compression::None);
    builder.append(1, None, Some(&[content; 20]), &[]);
    let pieces = assign(&builder.build(), base, epoch).to_vec();
    let whole: Vec<u8> = pieces.iter().flatten().copied().collect();
    let crc = BatchHeader::parse(&whole).expect("a batch").crc;
    (Event::Appended { log, base, next: base + 1, epoch, crc, leading }, pieces)
}

fn acknowledged(end: Offset, epoch: Epoch) -> Event {
    Event::Acknowledged {
        log: LOG,
        epoch,
        leader: NodeId(1),
        end,
        last_epoch: epoch,
        replica: ReplicaIncarnation(0),
    }
}

fn high_watermark(offset: Offset, isr: &[i32], maximal: &[i32]) -> Event {
    Event::HighWatermark {
        log: LOG,
        epoch: 1,
        offset,
        isr: nodes(isr),
        maximal: nodes(maximal),
        min_isr: 2,
        partition_epoch: 1,
    }
}

fn recovered(end: Offset, last_epoch: Epoch, damaged: bool) -> Event {
    Event::Recovered { log: LOG, start: 0, end, last_epoch, damaged }
}

fn quorum_committed(term: Epoch, end: Offset, counted: &[i32]) -> Event {
    let counted = counted.iter().map(|id| (NodeId(*id), Incarnation(*id as u128))).collect();
    Event::QuorumCommitted { term, end, counted, voters: 3 }
}

#[test]
fn r1_two_leaders_of_a_term() {
    let mut stage = Stage::new();
    stage.ok(0, Event::QuorumLeader { term: 3, end: 0 });
    stage.trips("R1", 1, Event::QuorumLeader { term: 3, end: 0 });
    let mut stage = Stage::new();
    stage.ok(0, Event::QuorumFollower { term: 3, leader: NodeId(1) });
    stage.trips("R1", 1, Event::QuorumFollower { term: 3, leader: NodeId(3) });
}

/// What a quorum remembers beside its log, as the body of a journal record: a small term, and a vote for a node whose disk
/// has the node's number.
fn voted(term: u8, candidate: u8) -> Vec<Bytes> {
    let state = vec![0, 1, 0, 0, 2 * term, 1, 2 * candidate, candidate, 0, 0, 0];
    let mut record = recorded(vec![state.into()], 1);
    let mut header = record[0].to_vec();
    header[13] = 6;
    header[55] = 1;
    record[0] = header.into();
    record
}

impl Stage {
    /// A node writes a vote down, and syncs it if wanted.
    fn remember(&mut self, node: usize, term: u8, candidate: u8, sync: bool) {
        let file = FileName::Journal { layout: 1, journal: 0, index: u32::from(candidate) };
        let directory = Directory::Journal;
        let write = Command::Write { file, offset: 0, data: voted(term, candidate) };
        for command in [Command::Create { file }, write] {
            self.command(node, &command).expect("a sound disk");
        }
        if sync {
            for command in [Command::Sync { file }, Command::SyncDirectory { directory }] {
                self.command(node, &command).expect("a sound disk");
            }
        }
    }
}

fn vote(term: Epoch, candidate: i32) -> Event {
    let incarnation = Incarnation(candidate as u128);
    Event::Voted { term, candidate: NodeId(candidate), incarnation }
}

#[test]
fn r2_two_votes_in_a_term() {
    let mut stage = Stage::new();
    stage.remember(0, 2, 2, true);
    stage.ok(0, vote(2, 2));
    stage.ok(0, vote(2, 2));
    stage.checks.on_stop(0);
    stage.checks.on_start(0);
    stage.remember(0, 2, 3, true);
    stage.trips("R2", 0, vote(2, 3));
}

#[test]
fn r3_a_vote_that_is_not_on_the_disk() {
    Stage::new().trips("R3", 0, vote(2, 2));
    let remembered = |sync| {
        let mut stage = Stage::new();
        stage.remember(0, 2, 2, sync);
        stage
    };
    remembered(false).trips("R3", 0, vote(2, 2));
    remembered(true).trips("R3", 0, vote(2, 3));
    remembered(true).trips("R3", 0, vote(3, 2));
    remembered(true).ok(0, vote(2, 2));
    remembered(true).ok(0, vote(1, 3));
    let mut stage = remembered(true);
    let file = FileName::Journal { layout: 1, journal: 0, index: 2 };
    let held = stage.checks.nodes[0].locations.whole_at(&stage.disks[0], file, 83);
    stage.disks[0].corrupt_at(&file, 83, 3);
    stage.checks.on_corrupted(0, file, held);
    stage.ok(0, vote(2, 2));
}

#[test]
fn r3_spoken_before_it_is_on_the_disk() {
    let mut stage = Stage::with_partition();
    stage.store(1, LOG, 0, 1, 1, false);
    assert_eq!(stage.acknowledge(1, 1, 1), Err("R3".into()));
    let mut stage = Stage::new();
    stage.store(1, LogId::METADATA, 0, 1, 1, false);
    stage.trips("R3", 1, Event::QuorumAcknowledged { term: 1, end: 1 });
}

#[test]
fn r3_damage_excuses_what_it_touched_and_nothing_else() {
    let stored = |sync| {
        let mut stage = Stage::with_partition();
        stage.store(1, LOG, 0, 1, 1, true);
        stage.store(1, LOG, 1, 1, 2, sync);
        stage
    };
    let mut stage = stored(true);
    stage.corrupt(1, JOURNAL);
    stage.acknowledge(1, 2, 1).expect("the first batch was on the disk until it was damaged");
    let mut stage = stored(false);
    stage.corrupt(1, JOURNAL);
    assert_eq!(stage.acknowledge(1, 2, 1), Err("R3".into()), "the second was never synced");
}

#[test]
fn r4_a_term_that_falls_or_is_led_twice() {
    let mut stage = Stage::new();
    stage.ok(0, Event::Term { term: 4 });
    stage.trips("R4", 0, Event::Term { term: 3 });
    stage.ok(0, Event::QuorumLeader { term: 4, end: 0 });
    stage.trips("R4", 0, Event::QuorumLeader { term: 4, end: 0 });
}

#[test]
fn r5_and_r10_truncations_of_the_metadata_log() {
    let mut stage = Stage::new();
    stage.store(0, LogId::METADATA, 0, 1, 1, true);
    stage.ok(0, Event::QuorumLeader { term: 1, end: 1 });
    stage.trips("R5", 0, Event::Truncated { log: LogId::METADATA, to: 0 });
    let mut stage = Stage::new();
    for node in 0..2 {
        stage.store(node, LogId::METADATA, 0, 1, 1, true);
    }
    stage.ok(1, Event::QuorumAcknowledged { term: 1, end: 1 });
    stage.ok(0, Event::QuorumLeader { term: 1, end: 0 });
    stage.ok(0, quorum_committed(1, 1, &[1, 2]));
    stage.ok(1, Event::QuorumCommitted { term: 1, end: 1, counted: Vec::new(), voters: 0 });
    stage.trips("R10", 1, Event::Truncated { log: LogId::METADATA, to: 0 });
}

#[test]
fn r6_two_records_of_one_term_and_offset() {
    let mut stage = Stage::new();
    stage.append(0, LogId::METADATA, 0, 1, 1);
    let (event, _) = appended(LogId::METADATA, 0, 1, 2, false);
    stage.trips("R6", 1, event);
}

#[test]
fn r7_a_leader_without_what_is_committed() {
    let mut stage = Stage::new();
    for node in 0..2 {
        stage.store(node, LogId::METADATA, 0, 1, 1, true);
    }
    stage.ok(1, Event::QuorumAcknowledged { term: 1, end: 1 });
    stage.ok(0, quorum_committed(1, 1, &[1, 2]));
    stage.trips("R7", 2, Event::QuorumLeader { term: 2, end: 0 });
}

#[test]
fn r8_commits_without_majority_term_or_disk() {
    let two = |sync| {
        let mut stage = Stage::new();
        stage.store(0, LogId::METADATA, 0, 1, 1, sync);
        stage.store(1, LogId::METADATA, 0, 1, 1, true);
        stage.ok(1, Event::QuorumAcknowledged { term: 1, end: 1 });
        stage
    };
    two(true).trips("R8", 0, quorum_committed(1, 1, &[1]));
    two(true).trips("R8", 0, quorum_committed(2, 1, &[1, 2]));
    two(true).trips("R8", 0, quorum_committed(1, 1, &[1, 3]));
    two(false).trips("R8", 0, quorum_committed(1, 1, &[1, 2]));
    two(true).ok(0, quorum_committed(1, 1, &[1, 2]));
}

#[test]
fn r9_another_state_or_order() {
    let mut stage = Stage::new();
    for node in 0..2 {
        stage.store(node, LogId::METADATA, 0, 1, 1, true);
        stage.store(node, LogId::METADATA, 1, 1, 2, true);
    }
    stage.ok(1, Event::QuorumAcknowledged { term: 1, end: 2 });
    stage.ok(0, quorum_committed(1, 2, &[1, 2]));
    stage.ok(0, Event::Applied { offset: 0, hash: 11 });
    stage.trips("R9", 1, Event::Applied { offset: 0, hash: 12 });
    stage.trips("R9", 0, Event::Applied { offset: 0, hash: 11 });
    stage.trips("R9", 2, Event::Applied { offset: 5, hash: 1 });
}

#[test]
fn r16_a_second_founding() {
    let mut stage = Stage::new();
    stage.ok(0, Event::Founded { cluster: 5 });
    stage.trips("R16", 1, Event::Founded { cluster: 6 });
}

#[test]
fn p1_a_leader_commits_something_else() {
    let mut stage = Stage::committed();
    stage.checks.on_destroyed(2);
    stage.checks.on_incarnation(2, Incarnation(9)).expect("a new disk");
    stage.ok(2, Event::Leading { log: LOG, epoch: 2, start: 0 });
    let (event, _) = appended(LOG, 0, 2, 9, true);
    stage.ok(2, event);
    // Its own copy is not looked at on the disk here: whoever commits must agree before anything else.
    let told = stage.tell(
        2,
        Event::HighWatermark {
            log: LOG,
            epoch: 2,
            offset: 1,
            isr: nodes(&[3]),
            maximal: nodes(&[3]),
            min_isr: 1,
            partition_epoch: 1,
        },
    );
    assert_eq!(told, Err("P5".into()), "and without a disk not even that");
    let mut stage = Stage::committed();
    stage.checks.on_destroyed(2);
    stage.checks.on_incarnation(2, Incarnation(9)).expect("a new disk");
    stage.ok(2, Event::Leading { log: LOG, epoch: 2, start: 0 });
    let (event, data) = appended(LOG, 0, 2, 9, true);
    let data = recorded(data, 1);
    stage.ok(2, event);
    let file = FileName::Journal { layout: 1, journal: 1, index: 5 };
    stage.checks.nodes[2].locations.on_write(file, 0, &data);
    for command in [
        Command::Create { file },
        Command::Write { file, offset: 0, data },
        Command::Sync { file },
        Command::SyncDirectory { directory: Directory::Journal },
    ] {
        stage.disks[2].apply(&command, stage.draw.generator()).expect("a sound disk");
    }
    stage.trips(
        "P1",
        2,
        Event::HighWatermark {
            log: LOG,
            epoch: 2,
            offset: 1,
            isr: nodes(&[3]),
            maximal: nodes(&[3]),
            min_isr: 1,
            partition_epoch: 1,
        },
    );
}

#[test]
fn p2_the_named_leader_lacks_something() {
    let mut stage = Stage::committed();
    let partition = Partition {
        isr: nodes(&[3]),
        leader: Some(NodeId(3)),
        leader_epoch: 2,
        partition_epoch: 9,
        replicas: nodes(&[1, 2, 3]),
        incarnations: vec![ReplicaIncarnation(0); 3],
        elr: Vec::new(),
        min_isr: 1,
    };
    stage.checks.on_destroyed(2);
    stage.checks.on_incarnation(2, Incarnation(9)).expect("a new disk");
    stage.show_with(partition, |_| {}).expect("not the disk that the controller means");
    stage.trips("P2", 2, Event::Leading { log: LOG, epoch: 2, start: 0 });
}

#[test]
fn p3_an_eligible_replica_lacks_something() {
    let mut stage = Stage::with_partition();
    for node in 0..2 {
        stage.store(node, LOG, 0, 1, 1, true);
    }
    stage.acknowledge(1, 1, 1).expect("it is on the disk");
    // The third is in sync for the controller, and the leader did not wait for it; P4 would say so first.
    stage
        .show(|partition| partition.leader = Some(NodeId(2)))
        .expect_err("P11: one epoch, two leaders");
    stage.trips("P3", 0, high_watermark(1, &[1, 2], &[1, 2]));
}

#[test]
fn p4_the_maximal_set_is_too_small() {
    let mut stage = Stage::replicated();
    stage.trips("P4", 0, high_watermark(1, &[1, 2], &[1, 2]));
}

#[test]
fn p5_a_high_watermark_without_enough_disks() {
    Stage::replicated().trips("P5", 0, high_watermark(1, &[1], &[1]));
    let mut stage = Stage::with_partition();
    for node in 0..3 {
        stage.store(node, LOG, 0, 1, 1, true);
    }
    stage.trips("P5", 0, high_watermark(1, &[1, 2, 3], &[1, 2, 3]));
}

#[test]
fn p6_a_high_watermark_that_falls() {
    let mut stage = Stage::committed();
    stage.trips("P6", 0, high_watermark(0, &[1, 2, 3], &[1, 2, 3]));
}

#[test]
fn p7_equal_records_after_different_ones() {
    let mut stage = Stage::with_partition();
    stage.append(0, LOG, 0, 1, 1);
    stage.ok(0, Event::Leading { log: LOG, epoch: 3, start: 1 });
    stage.append(0, LOG, 1, 3, 2);
    stage.ok(1, Event::Following { log: LOG, epoch: 3, leader: NodeId(1) });
    let (other, _) = appended(LOG, 0, 2, 8, false);
    stage.ok(1, other);
    let (event, _) = appended(LOG, 1, 3, 2, false);
    stage.trips("P7", 1, event);
}

#[test]
fn p7_replicas_that_differ_below_their_high_watermarks() {
    let mut stage = Stage::committed();
    stage.checks.agrees_below(1, LOG, 1).expect("they are equal");
    stage.checks.on_destroyed(2);
    stage.checks.on_incarnation(2, Incarnation(9)).expect("a new disk");
    stage.ok(2, Event::Following { log: LOG, epoch: 2, leader: NodeId(1) });
    let (event, _) = appended(LOG, 0, 2, 9, false);
    stage.ok(2, event);
    stage.checks.agrees_below(2, LOG, 0).expect("it believes nothing");
    assert_eq!(stage.checks.agrees_below(2, LOG, 1).unwrap_err().property, "P7");
}

#[test]
fn p8_a_committed_record_is_truncated() {
    let mut stage = Stage::committed();
    stage.trips("P8", 1, Event::Truncated { log: LOG, to: 0 });
}

#[test]
fn p9_two_batches_of_one_epoch_and_offset() {
    let mut stage = Stage::with_partition();
    stage.append(0, LOG, 0, 1, 1);
    let (event, _) = appended(LOG, 0, 1, 2, false);
    stage.trips("P9", 1, event);
}

#[test]
fn p10_an_append_of_another_epoch() {
    let mut stage = Stage::with_partition();
    let (event, _) = appended(LOG, 0, 2, 1, true);
    stage.trips("P10", 0, event);
    let (event, _) = appended(LOG, 0, 2, 1, false);
    stage.trips("P10", 1, event);
}

#[test]
fn p10_what_another_epoch_has_caused() {
    let moved = |epoch, end| Event::FollowerMoved {
        log: LOG,
        epoch,
        follower: NodeId(2),
        end,
        last_epoch: 1,
    };
    Stage::replicated().ok(0, moved(1, 1));
    Stage::replicated().trips("P10", 0, moved(2, 1));
    Stage::replicated().trips("P10", 0, moved(1, 2));
    let mut stage = Stage::replicated();
    stage.ok(0, Event::Following { log: LOG, epoch: 2, leader: NodeId(2) });
    stage.trips("P10", 0, moved(1, 1));
    stage.trips("P10", 0, high_watermark(1, &[1, 2, 3], &[1, 2, 3]));
    let served = |asked| Event::Served { log: LOG, base: 0, next: 1, asked };
    Stage::committed().trips("P10", 0, served(2));
    Stage::committed().trips("P10", 1, served(-1));
    Stage::committed().ok(0, served(-1));
}

#[test]
fn p10_a_member_that_has_not_come() {
    let gone = || {
        let mut stage = Stage::committed();
        stage.ok(2, Event::Serving { epoch: BrokerEpoch(1) });
        stage.show(|partition| partition.isr = nodes(&[1, 2])).expect("it is removed");
        stage
    };
    let back = |stage: &mut Stage| stage.show(|partition| partition.isr = nodes(&[1, 2, 3]));
    let mut stage = gone();
    stage.acknowledge(2, 1, 1).expect("it holds it");
    assert_eq!(back(&mut stage), Ok(()));
    // What it said before was said under no registration, and in another life.
    assert_eq!(back(&mut gone()), Err("P10".into()));
    let mut stage = gone();
    stage.acknowledge(2, 1, 1).expect("it holds it");
    stage.checks.on_stop(2);
    stage.checks.on_start(2);
    stage.ok(2, recovered(1, 1, false));
    stage.ok(2, Event::Serving { epoch: BrokerEpoch(2) });
    let partition = stage.checks.image.as_ref().and_then(|image| image.partition(LOG));
    let mut partition = partition.expect("it was shown").1.clone();
    partition.partition_epoch += 1;
    partition.isr = nodes(&[1, 2, 3]);
    let joined = stage.show_with(partition, |brokers| {
        brokers.get_mut(&NodeId(3)).expect("three brokers").epoch = BrokerEpoch(2);
    });
    assert_eq!(joined, Err("P10".into()));
}

#[test]
fn p11_sets_that_make_no_sense() {
    let insane: [fn(&mut Partition); 6] = [
        |p| p.isr = nodes(&[1, 2, 9]),
        |p| p.elr = nodes(&[2]),
        |p| p.isr = nodes(&[2, 3]),
        |p| p.min_isr = 4,
        |p| p.partition_epoch -= 2,
        |p| p.leader = Some(NodeId(2)),
    ];
    for change in insane {
        let mut stage = Stage::with_partition();
        assert_eq!(stage.show(change), Err("P11".into()));
    }
    let mut stage = Stage::with_partition();
    let partition =
        stage.checks.image.as_ref().and_then(|image| image.partition(LOG)).map(|(_, p)| p.clone());
    let partition = Partition { partition_epoch: 5, ..partition.expect("it was shown") };
    let fenced = stage.show_with(partition, |brokers| {
        brokers.get_mut(&NodeId(2)).expect("three brokers").fenced = true;
    });
    assert_eq!(fenced, Err("P11".into()));
}

#[test]
fn p12_an_unclean_replica_keeps_its_seat() {
    let mut stage = Stage::committed();
    let kept = stage.show(|partition| partition.incarnations[1] = ReplicaIncarnation(1));
    assert_eq!(kept, Err("P12".into()));
    let mut stage = Stage::committed();
    stage.corrupt(1, JOURNAL);
    stage.ok(1, Event::Damaged { log: LOG });
    assert_eq!(stage.acknowledge(1, 1, 1), Err("P12".into()));
    stage.trips("P12", 1, Event::Leading { log: LOG, epoch: 2, start: 1 });
}

#[test]
fn p13_acknowledged_and_not_committed() {
    let mut stage = Stage::replicated();
    let produced = Event::Produced { log: LOG, epoch: 1, base: 0, next: 1 };
    stage.trips("P13", 0, produced.clone());
    let mut stage = Stage::committed();
    stage.ok(0, produced);
    stage.trips("P13", 0, Event::Produced { log: LOG, epoch: 2, base: 0, next: 1 });
}

#[test]
fn p14_nothing_is_left_of_a_committed_record() {
    let mut stage = Stage::committed();
    stage.checks.nothing_is_lost().expect("three copies");
    for node in 0..3 {
        stage.checks.on_destroyed(node);
    }
    assert_eq!(stage.checks.nothing_is_lost().unwrap_err().property, "P14");
}

#[test]
fn p15_uncommitted_records_are_served() {
    let mut stage = Stage::replicated();
    stage.trips("P15", 0, Event::Served { log: LOG, base: 0, next: 1, asked: 1 });
    Stage::committed().ok(0, Event::Served { log: LOG, base: 0, next: 1, asked: 1 });
}

#[test]
fn p16_gaps_and_starts_that_fall() {
    let mut stage = Stage::committed();
    let (event, _) = appended(LOG, 5, 1, 3, true);
    stage.trips("P16", 0, event);
    stage.trips("P16", 0, Event::Trimmed { log: LOG, start: 2 });
    let mut stage = Stage::committed();
    stage.ok(0, Event::Trimmed { log: LOG, start: 1 });
    stage.trips("P16", 0, Event::Trimmed { log: LOG, start: 0 });
}

#[test]
fn p18_a_metadata_log_that_is_not_the_committed_one() {
    let followed = |term, content| {
        let mut stage = Stage::new();
        for node in 0..2 {
            stage.store(node, LogId::METADATA, 0, 1, 1, true);
        }
        stage.ok(1, Event::QuorumAcknowledged { term: 1, end: 1 });
        stage.ok(0, quorum_committed(1, 1, &[1, 2]));
        stage.append(2, LogId::METADATA, 0, term, content);
        stage.tell(2, Event::QuorumCommitted { term: 2, end: 1, counted: Vec::new(), voters: 0 })
    };
    assert_eq!(followed(1, 1), Ok(()));
    assert_eq!(followed(2, 8), Err("P18".into()));
}

#[test]
fn p19_a_second_life_in_an_epoch() {
    let mut stage = Stage::committed();
    stage.checks.on_stop(0);
    stage.checks.on_start(0);
    stage.ok(0, recovered(1, 1, false));
    let partition =
        stage.checks.image.as_ref().and_then(|image| image.partition(LOG)).map(|(_, p)| p.clone());
    stage
        .show_with(partition.expect("it was shown"), |brokers| {
            brokers.get_mut(&NodeId(1)).expect("three brokers").epoch = BrokerEpoch(7);
        })
        .expect("it registers again");
    stage.ok(0, Event::Serving { epoch: BrokerEpoch(7) });
    stage.trips("P19", 0, Event::Leading { log: LOG, epoch: 1, start: 1 });
    let (event, _) = appended(LOG, 1, 1, 5, true);
    stage.trips("P19", 0, event);
}

#[test]
fn p20_an_acknowledgement_that_does_not_match() {
    let mut stage = Stage::replicated();
    stage.trips(
        "P20",
        0,
        Event::FollowerMoved { log: LOG, epoch: 1, follower: NodeId(2), end: 1, last_epoch: 0 },
    );
}

#[test]
fn p21_an_eligible_replica_discards() {
    Stage::committed().trips("P21", 1, Event::Reset { log: LOG, start: 0 });
    Stage::committed().trips("P21", 1, Event::Deleted { log: LOG });
    let mut stage = Stage::committed();
    stage.corrupt(1, JOURNAL);
    stage.ok(1, Event::Damaged { log: LOG });
    let (event, _) = appended(LOG, 1, 1, 4, false);
    stage.trips("P21", 1, event);
}

#[test]
fn d1_a_directory_that_was_not_synced_holds_nothing() {
    let mut stage = Stage::with_partition();
    let data = recorded(stage.append(1, LOG, 0, 1, 1), 1);
    let file = JOURNAL;
    stage.checks.nodes[1].locations.on_write(file, 0, &data);
    for command in
        [Command::Create { file }, Command::Write { file, offset: 0, data }, Command::Sync { file }]
    {
        stage.disks[1].apply(&command, stage.draw.generator()).expect("a sound disk");
    }
    assert_eq!(stage.acknowledge(1, 1, 1), Err("R3".into()), "D6: the name is not durable");
}

#[test]
fn d2_something_leaves_after_a_failed_sync() {
    let mut stage = Stage::replicated();
    stage.checks.on_sync_failed(1);
    assert_eq!(stage.acknowledge(1, 1, 1), Err("D2".into()));
}

#[test]
fn d3_recovery_gives_back_too_little() {
    let restarted = || {
        let mut stage = Stage::committed();
        stage.checks.on_stop(1);
        stage.checks.on_start(1);
        stage
    };
    restarted().trips("D3", 1, recovered(0, -1, false));
    restarted().trips("D8", 1, recovered(1, 0, false));
    restarted().trips("D8", 1, recovered(4, 1, false));
    restarted().trips("D3", 1, Event::Serving { epoch: BrokerEpoch(2) });
    restarted().ok(1, recovered(1, 1, false));
}

#[test]
fn d4_a_false_alarm_and_a_silent_cut() {
    Stage::committed().trips("D4", 1, Event::Damaged { log: LOG });
    Stage::committed().trips("D4", 1, recovered(1, 1, true));
    let mut stage = Stage::committed();
    stage.corrupt(1, JOURNAL);
    stage.checks.on_stop(1);
    stage.checks.on_start(1);
    stage.trips("D4", 1, recovered(0, -1, false));
    let mut stage = Stage::committed();
    let file = FileName::Journal { layout: 1, journal: 0, index: 0 };
    stage.checks.on_corrupted(1, file, Vec::new());
    stage.trips("D4", 1, Event::Damaged { log: LOG });
}

/// A checkpoint of version 1 with one entry: a sound log that ends at `end`, in one segment of so many bytes.
fn checkpoint(low: u64, mark: u64, end: Offset, segment: u64) -> Vec<Bytes> {
    numbered(1, low, mark, end, segment)
}

/// The same, with its number among those of the journal.
fn numbered(number: u64, low: u64, mark: u64, end: Offset, segment: u64) -> Vec<Bytes> {
    let mut entry = Vec::new();
    entry.extend(TOPIC.0);
    entry.extend(0_i32.to_le_bytes());
    entry.push(1);
    entry.extend([0; 24]);
    entry.extend(end.to_le_bytes());
    entry.extend([0; 8]);
    entry.extend(1_u32.to_le_bytes());
    entry.extend(0_i64.to_le_bytes());
    entry.extend(1_u32.to_le_bytes());
    entry.extend(segment.to_le_bytes());
    entry.extend([0; 25 + 8 + 4]);
    let length = entry.len() as u32 + 4;
    let mut bytes = b"MILENACP".to_vec();
    bytes.extend([0; 8]);
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    for field in [u64::from(length), number, low, mark, 0, 0] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.extend(length.to_le_bytes());
    bytes.extend(entry);
    vec![bytes.into()]
}

impl Stage {
    /// A node does a command, and its ghosts see it go and come back.
    fn command(&mut self, node: usize, command: &Command) -> Result<(), String> {
        let named = |violation: milena_sim::check::Violation| violation.property.to_owned();
        self.checks.on_issued(node, command).map_err(named)?;
        let outcome = self.disks[node].apply(command, self.draw.generator());
        self.checks.on_done(node, &self.disks[node], command, &outcome).map_err(named)
    }

    /// A node begins a journal: both slots of its checkpoint are there.
    fn begin_journal(&mut self, node: usize) {
        for slot in 0..2 {
            let file = FileName::Checkpoint { layout: 1, journal: 1, slot };
            self.command(node, &Command::Create { file }).expect("a sound disk");
        }
        let directory = Directory::Journal;
        self.command(node, &Command::SyncDirectory { directory }).expect("a sound disk");
    }

    /// A node writes a checkpoint and syncs it.
    fn checkpoint(&mut self, node: usize, slot: u8, data: Vec<Bytes>) -> Result<(), String> {
        let file = FileName::Checkpoint { layout: 1, journal: 1, slot };
        self.command(node, &Command::Write { file, offset: 0, data })?;
        self.command(node, &Command::Sync { file })
    }
}

#[test]
fn d5_a_checkpoint_that_claims_too_much() {
    let two = || {
        let mut stage = Stage::with_partition();
        stage.begin_journal(1);
        stage.store(1, LOG, 0, 1, 1, true);
        stage.store(1, LOG, 1, 1, 2, true);
        stage.acknowledge(1, 2, 1).expect("both are on the disk");
        stage
    };
    let d5 = Err("D5".to_owned());
    assert_eq!(two().checkpoint(1, 0, checkpoint(1, 2, 0, 0)), Ok(()));
    assert_eq!(two().checkpoint(1, 0, checkpoint(2, 2, 0, 0)), d5, "the first is needed");
    assert_eq!(two().checkpoint(1, 0, checkpoint(2, 2, 1, 0)), Ok(()), "a segment has it");
    assert_eq!(two().checkpoint(1, 0, checkpoint(2, 2, 1, 90)), d5, "there is no segment");
    assert_eq!(two().checkpoint(1, 0, vec![Bytes::from_static(b"MILENACP")]), d5, "not whole");
    let file = FileName::Segment { log: LOG, base: 0, generation: 1 };
    let directory = Directory::Segments;
    let commands = [
        Command::Create { file },
        Command::Write { file, offset: 0, data: vec![vec![7; 90].into()] },
        Command::Sync { file },
        Command::SyncDirectory { directory },
    ];
    for missing in [Some(2), Some(3), None] {
        let mut stage = two();
        for (index, command) in commands.iter().enumerate() {
            if Some(index) != missing {
                stage.command(1, command).expect("a sound disk");
            }
        }
        let expected = if missing.is_some() { d5.clone() } else { Ok(()) };
        assert_eq!(stage.checkpoint(1, 0, checkpoint(2, 2, 1, 90)), expected, "{missing:?}");
    }
}

#[test]
fn d5_a_mark_that_covers_what_is_not_flushed() {
    let mut stage = Stage::with_partition();
    stage.begin_journal(1);
    stage.store(1, LOG, 0, 1, 1, true);
    stage.store(1, LOG, 1, 1, 2, false);
    assert_eq!(stage.checkpoint(1, 0, checkpoint(1, 1, 0, 0)), Ok(()));
    assert_eq!(stage.checkpoint(1, 1, checkpoint(1, 2, 0, 0)), Err("D5".into()));
}

#[test]
fn d5_the_newest_checkpoint_is_written_over() {
    let mut stage = Stage::committed();
    stage.begin_journal(1);
    for number in 1..=3 {
        let data = numbered(number, 1, 1, 0, 0);
        stage.checkpoint(1, (number & 1) as u8, data).expect("over the older one");
    }
    assert_eq!(stage.checkpoint(1, 1, numbered(4, 1, 1, 0, 0)), Err("D5".into()));
}

#[test]
fn d7_an_incarnation_that_moves() {
    let mut stage = Stage::new();
    let seen = stage.checks.on_incarnation(0, Incarnation(77));
    assert_eq!(seen.unwrap_err().property, "D7", "with the disk intact");
    let mut stage = Stage::new();
    stage.checks.on_destroyed(0);
    let seen = stage.checks.on_incarnation(0, Incarnation(1));
    assert_eq!(seen.unwrap_err().property, "D7", "the lost disk's own");
}

#[test]
fn the_budget_lets_no_last_copy_go() {
    let mut stage = Stage::committed();
    assert!(stage.checks.may_lose(0, &[0, 1, 2]));
    stage.checks.on_destroyed(1);
    assert!(!stage.checks.may_lose(0, &[0, 1, 2]), "a second controller of three");
    assert!(stage.checks.may_lose(0, &[]), "the third replica has all of it");
    stage.checks.on_destroyed(2);
    assert!(!stage.checks.may_lose(0, &[]));
}
