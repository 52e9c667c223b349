//! The checkers: ghost state that no node sees, judged at each event that could break it.
//!
//! ```text
//!   damage.rs     what was damaged on purpose, and what that excuses
//!   replica.rs    one replica's log as its node told it, and what recovery may bring back
//!   locations.rs  where each batch was written, found in the write commands by its checksum
//!   partition.rs  P rules on events of partitions        (P1 to P10, P12, P13, P15, P16, P19 to P21, P25, R3)
//!                 and on appends to the metadata log     (P9, P16, R5 to R7, R10)
//!   metadata.rs   the committed image and its sets       (P10 to P12, P24, R9, L21)
//!   retention.rs  what retention may take, and must        (P23, L13, L14)
//!   quorum.rs     R rules on events of the metadata log  (R1 to R5, R7 to R10, R16, P18)
//!   producers.rs  what a log knows of idempotent producers, and whom it forgets  (I3, I7)
//!   compaction.rs what compaction leaves of a log        (K1 to K3)
//!   departure.rs  who leaves ISR and ELR, and why        (P22)
//!   node.rs       starts, disks, recoveries and halts    (D3, D4, D7, D8, D10, P14)
//!   liveness.rs   what goes on under faults              (L15 to L19, L22, L23)
//!   service.rs    what a leader must take                (L24)
//!   checkpoint.rs what a checkpoint claims               (D5)
//!   marks.rs      how often each rare path was taken
//! ```
//!
//! D1 and D6 speak as R3 and P5, which look for what is spoken of on the modelled disk; D2 is asked wherever something leaves
//! a node. What clients see is judged by `history.rs` (L20 among it), `connections.rs` and `client`, what must come right in the
//! end (L) by `phases.rs`.
//!
//! Content is compared by checksum, epoch and offset, never byte by byte; what is durable is read from the modelled disk.
//! Each rule costs O(1) on its event, or O(replicas) where it speaks of all of them. The K rules are the exception in both: they
//! read the segments of a log, and open those batches that compaction has changed.

pub mod checkpoint;
mod compaction;
mod damage;
mod departure;
pub mod liveness;
pub mod locations;
pub mod marks;
mod metadata;
pub mod node;
mod partition;
mod producers;
mod quorum;
pub mod replica;
mod retention;
mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use milena_core::config::{ReplicationConfig, StorageConfig};
use milena_core::image::{Image, Partition};
use milena_core::trace::Event;
use milena_core::{
    BrokerEpoch, Epoch, Incarnation, LogId, NodeId, Now, Offset, ProducerId, Timestamp,
};

use crate::disk::Disk;
use checkpoint::Checkpoints;
use compaction::Records;
use damage::Damage;
use locations::{Locations, Map};
use marks::{Marks, Seen};
use replica::{Batch, ReplicaLog};

/// A property that does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Its name, as the list of invariants has it.
    pub property: &'static str,
    /// What was seen, in one sentence.
    pub story: String,
}

impl Violation {
    /// A property with its story.
    pub fn new(property: &'static str, story: impl Into<String>) -> Violation {
        Violation { property, story: story.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.property, self.story)
    }
}

/// What a check gives.
pub type Checked = Result<(), Violation>;

/// What is known of a node.
#[derive(Debug, Default)]
pub struct NodeGhost {
    /// The disk's incarnation, once a start has shown it.
    pub incarnation: Option<Incarnation>,
    /// Its logs in this life of the disk, by the index of [`Checks::log_index`].
    pub logs: Vec<Option<ReplicaLog>>,
    /// Where its batches are.
    pub locations: Locations,
    /// What is known of its checkpoints.
    pub checkpoints: Checkpoints,
    /// Whether its machines run.
    pub running: bool,
    /// The registration that it serves under in this run.
    serving: Option<BrokerEpoch>,
    /// Whether its disk was put back to an older image, and it does not serve again yet.
    pub suspect: bool,
    /// Whether recovery gave back an empty metadata log in this run of the node.
    pub quorum_emptied: bool,
    /// Whether its disk was ever put back to an older image.
    pub rolled_back: bool,
    /// Whether a sync or a journal write failed in this run of the node.
    pub disk_failed: bool,
    /// Whether a file could not be removed in this run of the node.
    pub removal_failed: bool,
    /// Whether any command failed in this run of the node, other than for want of room or of the file.
    pub disk_erred: bool,
    /// Whether it was asked to stop in good order.
    pub stop: Stop,
    /// What the fault injector damaged in this life of the disk.
    pub damage: Damage,
    /// Shards of its present or last run.
    pub shards: u16,
    /// Its term.
    pub term: Epoch,
    /// The term that it leads.
    pub quorum_leader: Option<Epoch>,
    /// Its commit offset.
    pub quorum_committed: Offset,
    /// Offset after the last metadata record applied in this run.
    pub applied: Option<Offset>,
    /// Disks that this node has lost.
    pub disks_lost: u32,
    /// The last registration that it served under with this disk, which is synced there.
    synced: Option<BrokerEpoch>,
    /// Leader epochs in force when the registration was committed that it has not begun to serve under yet.
    pending_barrier: Option<(BrokerEpoch, Vec<(usize, Epoch)>)>,
    /// Epochs, by log, in which it may never append as leader again.
    barrier: Map<u64, Epoch>,
}

/// A stop in good order, until what came of it can be known no more.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Stop {
    /// When nobody asked for one since the node came into service.
    #[default]
    None,
    /// When the run of the node that was asked goes on: it may come into service even so.
    Asked,
    /// When that run is over. What the controller decided for its sake may still be under way until the next one serves.
    Over,
}

/// What is true of a log, whatever nodes believe.
#[derive(Debug, Default)]
pub struct LogTruth {
    /// Which log.
    pub id: LogId,
    /// Committed batches, dense from the first.
    pub committed: Vec<Batch>,
    /// For each, a bit per node that had it on disk when it was committed.
    pub copies: Vec<u32>,
    /// For each of a partition, the leader epoch in which it was first said to be committed.
    pub committed_in: Vec<Epoch>,
    /// Of a compacted topic: their records.
    records: Option<Records>,
    /// Producers that some replica has forgotten, each with the end of its log then.
    forgotten: Vec<(ProducerId, Offset)>,
    /// Everything below was trimmed by a leader.
    pub trimmed_to: Offset,
    /// Whether its topic is gone.
    pub deleted: bool,
    /// The partition as last committed.
    pub partition: Option<Partition>,
    /// Its record of each partition epoch that some image has shown.
    pub partitions: BTreeMap<i32, Partition>,
    /// Replicas that were damaged, or whose disk was lost or put back to an older image, since they last joined the in-sync set.
    pub lost: BTreeSet<usize>,
    /// One batch per (epoch, offset), ever, with the epoch of the record before it.
    unique: Map<u64, (u32, Offset, Epoch)>,
    /// Synced ends that followers acknowledged, by node and epoch, and found on their disks.
    acknowledged: BTreeMap<(usize, Epoch), Offset>,
    /// The epoch of each node's latest acknowledgement, and the registration that it served under.
    acknowledged_as: BTreeMap<usize, (Epoch, Option<BrokerEpoch>)>,
}

impl LogTruth {
    /// Offset after the last committed record.
    pub fn committed_end(&self) -> Offset {
        self.committed.last().map_or(0, |batch| batch.next)
    }
}

/// All ghosts.
#[derive(Debug, Default)]
pub struct Checks {
    /// Nodes, by index.
    pub nodes: Vec<NodeGhost>,
    /// Logs, by index.
    pub logs: Vec<LogTruth>,
    indices: BTreeMap<LogId, usize>,
    /// The newest committed image that any node has shown.
    pub image: Option<Arc<Image>>,
    /// What the clocks of the node show that is about to tell something.
    pub clocks: Now,
    /// The latest wall clock that any node has seen.
    pub latest: Timestamp,
    /// Logs in which a segment was put in the place of others, and which are to be judged.
    pub cleaned: Vec<(usize, LogId)>,
    /// What nodes are told of their storage.
    pub storage: StorageConfig,
    /// What nodes are told of replicas and clients.
    pub replication: ReplicationConfig,
    /// How often each rare path was taken.
    pub marks: Marks,
    /// Of each journal of each node that was written to: how many files it has, and how often it went on in a used one.
    pub journals: BTreeMap<(usize, u16), (u32, u64)>,
    /// Since when nodes fare as they do.
    watch: liveness::Watch,
    refusals: service::Refusals,
    /// Ends of the images that were shown.
    shown: BTreeSet<Offset>,
    /// In-sync sets that leaders proposed, by log and partition epoch.
    proposed: BTreeSet<(usize, i32, Vec<NodeId>)>,
    elected: BTreeMap<Epoch, usize>,
    leaders_named: BTreeMap<Epoch, i32>,
    votes: BTreeMap<(u128, Epoch), (NodeId, Incarnation)>,
    applied: Vec<u64>,
    founded: BTreeSet<u128>,
    registered: BTreeMap<usize, BrokerEpoch>,
    incarnations: BTreeSet<u128>,
    /// Whether every disk may have been lost, so that a second founding is allowed.
    pub all_disks_lost: bool,
}

impl Checks {
    /// Ghosts of so many nodes.
    pub fn new(nodes: usize) -> Checks {
        let mut checks = Checks {
            nodes: (0..nodes).map(|_| NodeGhost::default()).collect(),
            ..Checks::default()
        };
        let quorum = checks.log_index(LogId::METADATA);
        assert_eq!(quorum, QUORUM, "the quorum's log is the first");
        checks
    }

    /// The index of a log, given where it is new.
    pub fn log_index(&mut self, id: LogId) -> usize {
        if let Some(index) = self.indices.get(&id) {
            return *index;
        }
        let index = self.logs.len();
        self.indices.insert(id, index);
        self.logs.push(LogTruth { id, ..LogTruth::default() });
        index
    }

    /// The replica of a log on a node, made where it is new.
    fn replica(&mut self, node: usize, log: usize) -> &mut ReplicaLog {
        let logs = &mut self.nodes[node].logs;
        if logs.len() <= log {
            logs.resize_with(log + 1, || None);
        }
        logs[log].get_or_insert_default()
    }

    /// A machine of a node has told something.
    pub fn on_event(&mut self, node: usize, disk: &Disk, event: &Event) -> Checked {
        self.count_full_disk(disk, event);
        match event {
            Event::Appended {
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
            } => {
                self.counts_from(node, *log, *max_timestamp, *born)?;
                let batch = Batch {
                    base: *base,
                    next: *next,
                    epoch: *epoch,
                    crc: *crc,
                    size: *size,
                    born: *born,
                    appended: self.clocks.wall,
                    produced: *produced,
                };
                self.on_appended(node, *log, batch, *leading)
            }
            Event::Truncated { log, to } => self.on_truncated(node, *log, *to),
            Event::Trimmed { log, start } => self.on_trimmed(node, *log, *start),
            Event::Reset { log, start } => self.on_reset(node, *log, *start),
            Event::Recovered { log, start, end, last_epoch, damaged } => {
                self.on_recovered(node, *log, *start, *end, *last_epoch, *damaged)
            }
            // What it made of the log is judged as soon as the machine that tells it can be looked at.
            Event::Cleaned { log, .. } => {
                self.cleaned.push((node, *log));
                Ok(())
            }
            Event::Forgot { log, producer } => self.on_forgot(node, *log, *producer),
            Event::Damaged { log } => self.on_damaged(node, *log),
            Event::Deleted { log } => self.on_deleted(node, *log),
            Event::Founded { cluster } => self.on_founded(node, *cluster),
            Event::Term { term } => self.on_term(node, *term),
            Event::Voted { term, candidate, incarnation } => {
                self.on_voted(node, disk, *term, (*candidate, *incarnation))
            }
            Event::QuorumLeader { term, end } => self.on_quorum_leader(node, *term, *end),
            Event::QuorumFollower { term, leader } => {
                self.on_quorum_follower(node, *term, leader.0)
            }
            Event::QuorumAcknowledged { term, end } => {
                self.on_quorum_acknowledged(node, disk, *term, *end)
            }
            Event::QuorumCommitted { term, end, counted, voters } => {
                self.on_quorum_committed(node, disk, *term, *end, counted, *voters)
            }
            Event::Applied { offset, hash } => self.on_applied(node, *offset, *hash),
            Event::SnapshotInstalled { end, hash } => self.on_snapshot(node, *end, *hash),
            Event::Serving { epoch } => self.on_serving(node, *epoch),
            Event::Leading { log, epoch, .. } => self.on_leading(node, *log, *epoch),
            Event::Following { log, epoch, .. } => self.on_following(node, *log, *epoch),
            Event::HighWatermark { log, epoch, offset, isr, maximal, min_isr, partition_epoch } => {
                let sets = partition::Sets { isr, maximal, min_isr: *min_isr };
                self.on_high_watermark(node, disk, *log, *epoch, *offset, *partition_epoch, &sets)
            }
            Event::Acknowledged { log, epoch, end, last_epoch, .. } => {
                self.on_acknowledged(node, disk, *log, *epoch, *end, *last_epoch)
            }
            Event::FollowerMoved { log, epoch, follower, end, last_epoch } => {
                self.on_follower_moved(node, *log, *epoch, follower.0, *end, *last_epoch)
            }
            Event::Produced { log, epoch, base, next, all } => {
                if *all {
                    self.has_taken(node, *log);
                }
                self.on_produced(node, disk, *log, *epoch, (*base, *next), *all)
            }
            Event::Served { log, base, next, asked } => {
                self.on_served(node, *log, (*base, *next), *asked)
            }
            Event::JournalTurned { journal, files, again } => {
                let turned = self.journals.entry((node, *journal)).or_default();
                *turned = (*files, turned.1 + u64::from(*again));
                Ok(())
            }
            Event::Refused { from, what } => Err(Violation::new(
                "assertion",
                format!("node {} refuses what node {from} says: {what}", node + 1),
            )),
            Event::Sometimes(mark) => {
                self.marks.core(*mark);
                Ok(())
            }
        }
    }

    /// D9 is about what goes on while a disk is full: that it did is counted.
    fn count_full_disk(&mut self, disk: &Disk, event: &Event) {
        let what = match event {
            Event::Voted { .. } => Seen::VotedWithFullDisk,
            Event::Served { .. } => Seen::ServedWithFullDisk,
            Event::Deleted { .. } => Seen::DeletedWithFullDisk,
            Event::Recovered { .. } => Seen::RecoveredWithFullDisk,
            _ => return,
        };
        if disk.is_full() {
            self.marks.seen(what);
        }
    }

    /// Says of whom and what a story speaks.
    fn at(&self, node: usize, log: usize) -> String {
        let id = self.logs[log].id;
        let name = self.image.as_ref().and_then(|image| {
            Some(format!("{}-{}", image.topics.get(&id.topic)?.name, id.partition))
        });
        format!("node {} {}", node + 1, name.unwrap_or_else(|| format!("{id:?}")))
    }

    /// After a failed sync or journal write nothing may leave this node any more (D2).
    fn speaks(&self, node: usize, what: &str) -> Checked {
        if self.nodes[node].disk_failed {
            return Err(Violation::new(
                "D2",
                format!(
                    "node {} {what} after a sync or journal write of its disk had failed",
                    node + 1
                ),
            ));
        }
        Ok(())
    }

    /// Finds everything of a replica up to an offset on its disk (R3, P13), once for each batch.
    fn must_be_durable(
        &mut self,
        node: usize,
        disk: &Disk,
        log: usize,
        to: Offset,
        property: &'static str,
    ) -> Checked {
        let at = self.at(node, log);
        let ghost = &mut self.nodes[node];
        let Some(replica) = ghost.logs.get_mut(log).and_then(Option::as_mut) else {
            return if to <= 0 {
                Ok(())
            } else {
                Err(Violation::new(property, format!("{at} speaks of {to} and holds nothing")))
            };
        };
        if to > replica.end {
            return Err(Violation::new(
                property,
                format!("{at} speaks of {to} and its log ends at {}", replica.end),
            ));
        }
        let id = self.logs[log].id;
        let from = replica.durable_to.max(replica.start);
        let first = replica.batches.partition_point(|batch| batch.next <= from);
        for batch in &replica.batches[first..] {
            if batch.next > to {
                break;
            }
            if !ghost.locations.is_durable(disk, id, batch) {
                return Err(Violation::new(
                    property,
                    format!(
                        "{at}: offsets {}..{} of epoch {} are not on its disk ({}), yet it speaks of {to}",
                        batch.base,
                        batch.next,
                        batch.epoch,
                        ghost.locations.describe(id, batch)
                    ),
                ));
            }
        }
        replica.durable(to);
        Ok(())
    }
}

/// Index of the quorum's log.
pub const QUORUM: usize = 0;
