//! Leadership goes back to the preferred replica, the first of the list, once it has been in sync for a while.
//!
//! Topics are made with their preferred replicas spread over the brokers; without this, each restart of a broker would
//! leave its share of the leaderships with the others for good.

use std::collections::BTreeMap;

use super::{Change, partition_change};
use crate::image::{Image, Partition, Record};
use crate::{Instant, LogId, NodeId};

/// Since when each preferred replica could lead and does not.
#[derive(Debug, Default)]
pub struct Preferred {
    since: BTreeMap<LogId, Instant>,
    /// The image that was looked at last: only what has changed in the next is looked at.
    seen: Image,
}

impl Preferred {
    /// Partitions whose preferred replica has been able to lead for `wait_ms`, at most `limit` of them: each costs its
    /// clients a look for the new leader.
    pub fn due(&mut self, now: Instant, image: &Image, wait_ms: u64, limit: usize) -> Vec<LogId> {
        let waits = |log: &LogId| {
            image.partition(*log).is_some_and(|(_, partition)| waiting(image, partition).is_some())
        };
        self.since.retain(|log, _| waits(log));
        let changed = if image.brokers == self.seen.brokers {
            image.changes_since(&self.seen).changed
        } else {
            image.partitions().map(|(log, _)| log).collect()
        };
        for log in changed.into_iter().filter(waits) {
            self.since.entry(log).or_insert(now);
        }
        self.seen = image.clone();
        let due = self.since.iter().filter(|(_, since)| now.ms_since(**since) >= wait_ms);
        due.map(|(log, _)| *log).take(limit).collect()
    }
}

/// The preferred replica, where it is not the leader and could be.
fn waiting(image: &Image, partition: &Partition) -> Option<NodeId> {
    let first = *partition.replicas.first()?;
    (partition.leader.is_some_and(|leader| leader != first)
        && partition.isr.contains(&first)
        && image.unfenced(first))
    .then_some(first)
}

/// The record that gives a partition back, if there still is something to give back.
pub fn give_back(image: &Image, log: LogId) -> Option<Record> {
    let (_, partition) = image.partition(log)?;
    let change = Change { prefer: Some(waiting(image, partition)?), ..Change::default() };
    let partition = partition_change(partition, &change, |node| image.unfenced(node));
    Some(Record::Partition { log, partition })
}
