//! P23: what retention may take; L13 and L14: what is left that was to go.
//!
//! Core removes whole segments, and a checker sees no segments: it judges batches, and where it cannot know in which segment
//! one is, it lets the segment be as large as it may be.

use std::collections::BTreeMap;

use milena_core::disk::FileName;
use milena_core::{LogId, NodeId, Offset, Timestamp};

use super::replica::{Batch, ReplicaLog};
use super::{Checked, Checks, Violation};
use crate::disk::Disk;

/// How old records become where their topic does not say: a week, in milliseconds.
const RETENTION_MS: i64 = 7 * 24 * 3_600_000;

/// How far ahead of a clock a time is believed: an hour, in milliseconds.
const AFTER_MAX_MS: i64 = 3_600_000;

/// What a topic keeps.
struct Limits {
    /// At least so many bytes; none where their number alone removes nothing.
    bytes: Option<u64>,
    /// Nothing that is older; none where age removes nothing.
    ms: Option<i64>,
    /// The largest segment.
    segment: u64,
}

impl Limits {
    fn new(configs: &BTreeMap<String, String>, segment_bytes: u64, batch_bytes: u32) -> Limits {
        let number = |name: &str, default| {
            configs.get(name).and_then(|value| value.parse::<i64>().ok()).unwrap_or(default)
        };
        let segment = number("segment.bytes", segment_bytes as i64) as u64;
        Limits {
            bytes: u64::try_from(number("retention.bytes", -1)).ok(),
            ms: Some(number("retention.ms", RETENTION_MS)).filter(|ms| *ms >= 0),
            segment: segment + u64::from(batch_bytes),
        }
    }

    /// Whether what was born then is to go by its age.
    fn expired(&self, born: Timestamp, wall: Timestamp) -> bool {
        self.ms.is_some_and(|ms| wall.saturating_sub(born) > ms)
    }
}

impl Checks {
    fn limits(&self, log: usize) -> Option<Limits> {
        let topic = self.logs[log].id.topic;
        let topic = self.image.as_ref()?.topics.get(&topic)?;
        let (storage, replication) = (&self.storage, &self.replication);
        Some(Limits::new(&topic.configs, storage.segment_bytes, replication.batch_bytes_max))
    }

    /// P23: a batch counts from its own time where that can be true, else from when it was appended, by the wall clock of its
    /// node; the journal keeps seconds, rounded up.
    pub(super) fn counts_from(
        &self,
        node: usize,
        log: LogId,
        own: Timestamp,
        born: Timestamp,
    ) -> Checked {
        let wall = self.clocks.wall;
        let is_believed = (0..=wall.saturating_add(AFTER_MAX_MS)).contains(&own);
        let fits = if is_believed { born == own } else { (wall..wall + 1_000).contains(&born) };
        // Retention looks at no metadata.
        if fits || log == LogId::METADATA {
            return Ok(());
        }
        let story = format!("node {} counts a batch of {own} from {born} at {wall}", node + 1);
        Err(Violation::new("P23", story))
    }

    /// P23: a leader has moved its log's start up to `start`. Each batch below is too old, or as many bytes as the topic keeps
    /// come after it.
    pub(super) fn retention_may_take(&self, node: usize, log: usize, start: Offset) -> Checked {
        let wall = self.clocks.wall;
        let replica = self.nodes[node].logs.get(log).and_then(Option::as_ref);
        let (Some(limits), Some(replica)) = (self.limits(log), replica) else { return Ok(()) };
        let trimmed = between(replica, replica.start, start);
        let rest = between(replica, start, replica.end);
        let mut after = rest.iter().map(|batch| u64::from(batch.size)).sum::<u64>();
        for batch in trimmed.iter().rev() {
            let young = !limits.expired(batch.born, wall);
            if young && limits.bytes.is_none_or(|bytes| after < bytes) {
                return Err(Violation::new(
                    "P23",
                    format!(
                        "{} removes {}..{} at {wall}, which counts from {} where {:?} ms are kept, and leaves {after} bytes \
                         after it where {:?} are kept",
                        self.at(node, log),
                        batch.base,
                        batch.next,
                        batch.born,
                        limits.ms,
                        limits.bytes
                    ),
                ));
            }
            after += u64::from(batch.size);
        }
        Ok(())
    }

    /// L13: what a leader holds and retention should have removed, by the wall clock of its node.
    pub fn kept_too_long(&mut self, leader: NodeId, log: usize, wall: Timestamp) -> Option<String> {
        let node = (leader.0 - 1) as usize;
        let limits = self.limits(log)?;
        // Which batches are in one segment, and how many bytes are left of them, only the cleaner knows.
        if self.logs[log].records.is_some() {
            return None;
        }
        let replica = self.nodes[node].logs.get(log).and_then(Option::as_ref)?;
        let held = between(replica, replica.start, replica.end);
        let size = |batches: &[Batch]| batches.iter().map(|b| u64::from(b.size)).sum::<u64>();
        let mut first = 0;
        let first = held.partition_point(|batch| {
            first += u64::from(batch.size);
            first <= limits.segment
        });
        let oldest = &held[..held.len().min(first + 1)];
        let bytes = size(held);
        // Of a segment that was cut only what surely counts does: it may hold all but nothing more than that.
        let cuts = replica.cuts.iter().filter(|at| **at > replica.start).count() as u64;
        let slack = limits.segment * (1 + cuts);
        let large = limits.bytes.is_some_and(|most| bytes > most.saturating_add(slack));
        // A segment counts from the latest of its batches.
        let born = oldest.iter().map(|batch| batch.born).max()?;
        let old = limits.expired(born, wall);
        (large || old).then(|| {
            format!(
                "{} keeps {}..{} at {wall}, {bytes} bytes where {:?} are to be kept, the first of them from {born} where {:?} ms are",
                self.at(node, log),
                replica.start,
                replica.end,
                limits.bytes,
                limits.ms
            )
        })
    }
}

impl Checks {
    /// L14: a file of a node that holds nothing of what the node is to hold: of a topic that is gone, or of a part of a log that
    /// is.
    pub fn left_behind(&mut self, node: usize, disk: &Disk) -> Option<String> {
        let ghost = &self.nodes[node];
        if ghost.removal_failed {
            // It is found and removed by the next recovery.
            return None;
        }
        let image = self.image.as_ref()?;
        let id = NodeId(node as i32 + 1);
        let mut before: Option<(LogId, Offset)> = None;
        for file in disk.names() {
            let FileName::Segment { log, base, .. } = file else { continue };
            let quorum = *log == LogId::METADATA;
            let held = image.partition(*log).is_some_and(|(_, partition)| partition.is_replica(id));
            if !held && !quorum {
                return Some(format!("node {id} keeps {file} of a log that it does not hold"));
            }
            let index = *self.indices.get(log)?;
            let Some(replica) = ghost.logs.get(index).and_then(Option::as_ref) else { continue };
            // What is damaged waits for the controller, or for an operator.
            if replica.damaged {
                continue;
            }
            let start = replica.start;
            let earlier = before.replace((*log, *base)).filter(|(of, _)| of == log);
            if let Some((_, earlier)) = earlier
                && (*base <= start || earlier == *base)
            {
                return Some(format!(
                    "node {id} keeps what is before {file} of a log that begins at {start}"
                ));
            }
        }
        None
    }
}

/// The batches of a replica between two offsets.
fn between(replica: &ReplicaLog, from: Offset, to: Offset) -> &[Batch] {
    let first = replica.batches.partition_point(|batch| batch.next <= from);
    let last = replica.batches.partition_point(|batch| batch.next <= to);
    &replica.batches[first..last.max(first)]
}
