//! Each checker tripped on purpose: a few events that break exactly its rule, told to the ghosts as a machine would.
//!
//! A checker that has never fired proves nothing. Where a planted bug of the catalogue trips one too, this is the short
//! way to it.

mod departure;
mod disk;
mod history;
mod liveness;
mod metadata;
mod partition;
mod producers;
mod quorum;
mod retention;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use milena_core::disk::{Command, Directory, FileName};
use milena_core::image::{Broker, Image, Partition, Topic};
use milena_core::trace::Event;
use milena_core::{
    BrokerEpoch, Epoch, Incarnation, LogId, NodeId, Offset, ReplicaIncarnation, Timestamp, TopicId,
};
use milena_sim::check::{Checks, Violation};
use milena_sim::disk::Disk;
use milena_sim::rng::{Concern, Stream};
use milena_wire::batch::{BatchBuilder, BatchHeader, Compression, assign};

const TOPIC: TopicId = TopicId([7; 16]);
const LOG: LogId = LogId { topic: TOPIC, partition: 0 };

/// The time of every record here.
const WRITTEN_AT: Timestamp = 1;

/// The one file that everything here is written to.
const JOURNAL: FileName = FileName::Journal { layout: 1, journal: 1, index: 0 };

/// Three nodes with a disk each, and the ghosts that watch them.
struct Stage {
    checks: Checks,
    disks: Vec<Disk>,
    draw: Stream,
    images: Offset,
    /// Configurations of the one topic.
    configs: BTreeMap<String, String>,
    /// The story of the last violation.
    story: String,
}

impl Stage {
    fn new() -> Stage {
        let mut stage = Stage {
            checks: Checks::new(3),
            disks: (0..3).map(|_| Disk::new()).collect(),
            draw: Stream::new(1, Concern::Strike),
            images: 0,
            configs: [("retention.bytes".into(), "0".into())].into(),
            story: String::new(),
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
            |(_, partition)| (**partition).clone(),
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
        // Other entries lie between: what changed need not have had one cause.
        self.images += 2;
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
        let topic = Topic::new(TOPIC, "t".into(), self.configs.clone(), [partition]);
        let image = Image {
            end: self.images,
            brokers,
            topics: [(TOPIC, Arc::new(topic))].into_iter().collect(),
            ..Image::default()
        };
        let shown = self.checks.on_image(&Arc::new(image));
        shown.map_err(|violation| self.noted(violation))
    }

    /// The next image follows the present one by a single entry.
    fn at_once(&mut self) -> &mut Stage {
        self.images -= 1;
        self
    }

    /// The partition as last shown.
    fn partition(&self) -> Partition {
        let image = self.checks.image.as_ref().expect("an image was shown");
        (**image.partition(LOG).expect("it has the partition").1).clone()
    }

    fn tell(&mut self, node: usize, event: Event) -> Result<(), String> {
        let told = self.checks.on_event(node, &self.disks[node], &event);
        told.map_err(|violation| self.noted(violation))
    }

    /// The property of a violation, its story kept.
    fn noted(&mut self, violation: Violation) -> String {
        self.story = violation.story;
        violation.property.to_owned()
    }

    fn ok(&mut self, node: usize, event: Event) {
        self.tell(node, event).expect("nothing is wrong with this");
    }

    fn trips(&mut self, property: &str, node: usize, event: Event) {
        assert_eq!(self.tell(node, event), Err(property.to_owned()));
    }

    /// It trips, and for the reason that the words of its story give.
    fn trips_as(&mut self, property: &str, words: &str, node: usize, event: Event) {
        self.trips(property, node, event);
        assert!(self.story.contains(words), "{} says nothing of {words:?}", self.story);
    }

    /// A fault strikes a file of a node's journal, and with it the batch at its beginning, if it is there.
    fn corrupt(&mut self, node: usize, file: FileName) {
        let held = self.checks.nodes[node].locations.whole_at(&self.disks[node], file, 150, 1);
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
        let data = recorded(log, self.append(node, log, base, epoch, content), base as u64 + 1);
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

    /// A node does a command, and its ghosts see it go and come back.
    fn command(&mut self, node: usize, command: &Command) -> Result<(), String> {
        let named = |violation: Violation| violation.property.to_owned();
        self.checks.on_issued(node, command).map_err(named)?;
        let outcome = self.disks[node].apply(command, self.draw.generator());
        self.checks.on_done(node, &self.disks[node], command, &outcome).map_err(named)
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

/// A batch of a log as the body of a journal record of a number.
fn recorded(log: LogId, batch: Vec<Bytes>, lsn: u64) -> Vec<Bytes> {
    let size = 80 + batch.iter().map(Bytes::len).sum::<usize>();
    let mut header = vec![0; 80];
    header[8..12].copy_from_slice(&(size as u32).to_le_bytes());
    (header[12], header[13]) = (1, 1);
    header[24..32].copy_from_slice(&lsn.to_le_bytes());
    header[40..56].copy_from_slice(&log.topic.0);
    header[56..60].copy_from_slice(&log.partition.to_le_bytes());
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
    builder.append(WRITTEN_AT, None, Some(&[content; 20]), &[]);
    let pieces = assign(&builder.build(), base, epoch).to_vec();
    let whole: Vec<u8> = pieces.iter().flatten().copied().collect();
    let BatchHeader { crc, max_timestamp, .. } = BatchHeader::parse(&whole).expect("a batch");
    let (next, size) = (base + 1, whole.len() as u32);
    let (born, produced) = (max_timestamp, None);
    let event = Event::Appended {
        log,
        base,
        next,
        epoch,
        crc,
        size,
        max_timestamp,
        born,
        produced,
        leading,
    };
    (event, pieces)
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

/// The first record is committed by the sets of a partition epoch.
fn high_watermark_in(of: i32, isr: &[i32], maximal: &[i32]) -> Event {
    let mut event = high_watermark(1, isr, maximal);
    if let Event::HighWatermark { partition_epoch, .. } = &mut event {
        *partition_epoch = of;
    }
    event
}

fn recovered(end: Offset, last_epoch: Epoch, damaged: bool) -> Event {
    Event::Recovered { log: LOG, start: 0, end, last_epoch, damaged }
}

fn quorum_committed(term: Epoch, end: Offset, counted: &[i32]) -> Event {
    let counted = counted.iter().map(|id| (NodeId(*id), Incarnation(*id as u128))).collect();
    Event::QuorumCommitted { term, end, counted, voters: 3 }
}
