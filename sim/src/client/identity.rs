//! Who an idempotent producer is, and which of its batches is next in each partition (KIP-98).
//!
//! It holds to what clients hold to: no new batch for a partition while one of an earlier attempt waits there, and never more
//! batches since the oldest that is not acknowledged than a partition remembers. Before its first batch is acknowledged there is
//! no second one, since a partition that knows nothing of a producer takes any number for the first, as in Apache Kafka. Whoever gives a batch up that may have been
//! written cannot know what comes next: once nothing is open any more the epoch goes up, and numbers begin at 0.

use std::collections::{BTreeMap, VecDeque};

/// Batches of a producer that a partition remembers.
const KEPT: usize = 5;

/// What a batch says of its producer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// The producer's id.
    pub id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// The number of the first record among those of this producer, epoch and partition, from 0 to 2^31-1 and around.
    pub sequence: i32,
}

/// A producer's id and epoch, with its batches by partition.
#[derive(Debug)]
pub struct Identity {
    id: i64,
    epoch: i16,
    lines: BTreeMap<usize, Line>,
    /// Where numbers begin.
    first: i32,
    /// Whether a batch was given up in this epoch.
    broken: bool,
}

/// The batches for one partition.
#[derive(Debug)]
struct Line {
    next: i32,
    /// From the oldest that is not acknowledged on, and whether each is.
    open: VecDeque<(i32, bool)>,
    /// Whether any was acknowledged, so that the partition knows this producer.
    known: bool,
    /// How many values it was given.
    values: u64,
}

impl Identity {
    /// One that was just given out. It may begin at any number.
    pub fn new(id: i64, epoch: i16, first: i32) -> Identity {
        Identity { id, epoch, lines: BTreeMap::new(), first, broken: false }
    }

    /// Whether there may be another batch for a partition.
    pub fn has_room(&self, place: usize) -> bool {
        let most = |line: &Line| if line.known { KEPT } else { 1 };
        !self.broken && self.lines.get(&place).is_none_or(|line| line.open.len() < most(line))
    }

    /// Whether the next thing is to begin a new epoch, as soon as nothing is open.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// The stamp of a new batch of so many records for a partition, and how many values were given numbers there before.
    pub fn stamp(&mut self, place: usize, records: usize) -> (Stamp, u64) {
        let first = self.first;
        let line = self.lines.entry(place).or_insert_with(|| Line {
            next: first,
            open: VecDeque::new(),
            known: false,
            values: 0,
        });
        let (sequence, before) = (line.next, line.values);
        line.next = (i64::from(sequence) + records as i64).rem_euclid(1 << 31) as i32;
        line.values += records as u64;
        line.open.push_back((sequence, false));
        (Stamp { id: self.id, epoch: self.epoch, sequence }, before)
    }

    /// Whether all that comes before a batch is acknowledged.
    pub fn is_next(&self, place: usize, stamp: Stamp) -> bool {
        let front = self.lines.get(&place).and_then(|line| line.open.front());
        front.is_some_and(|(sequence, _)| *sequence == stamp.sequence)
    }

    /// A batch is acknowledged.
    pub fn acknowledge(&mut self, place: usize, stamp: Stamp) {
        let Some(line) = self.lines.get_mut(&place) else { return };
        line.known = true;
        for (sequence, acknowledged) in &mut line.open {
            *acknowledged |= *sequence == stamp.sequence;
        }
        while line.open.front().is_some_and(|(_, acknowledged)| *acknowledged) {
            line.open.pop_front();
        }
    }

    /// A batch is given up, and nobody knows whether it was written.
    pub fn give_up(&mut self) {
        self.broken = true;
    }

    /// Nothing is open: begins a new epoch. None where there is no other, so that another id is needed.
    pub fn next_epoch(&self) -> Option<Identity> {
        Some(Identity::new(self.id, self.epoch.checked_add(1)?, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_around_and_the_oldest_open_batch_holds_others_back() {
        let mut identity = Identity::new(7, 0, i32::MAX - 2);
        let first = identity.stamp(3, 1).0;
        assert!(!identity.has_room(3), "the partition does not know it yet");
        identity.acknowledge(3, first);
        let stamps: Vec<Stamp> = (0..KEPT).map(|_| identity.stamp(3, 1).0).collect();
        let sequences: Vec<i32> = stamps.iter().map(|stamp| stamp.sequence).collect();
        assert_eq!(sequences, [i32::MAX - 1, i32::MAX, 0, 1, 2]);
        assert!(!identity.has_room(3) && identity.has_room(4));
        identity.acknowledge(3, stamps[1]);
        assert!(!identity.has_room(3) && identity.is_next(3, stamps[0]));
        identity.acknowledge(3, stamps[0]);
        assert!(identity.has_room(3) && identity.is_next(3, stamps[2]));
        assert_eq!(identity.stamp(3, 2), (Stamp { id: 7, epoch: 0, sequence: 3 }, 6));
        identity.give_up();
        assert!(!identity.has_room(4));
        let mut next = identity.next_epoch().expect("there are many");
        assert_eq!(next.stamp(3, 2), (Stamp { id: 7, epoch: 1, sequence: 0 }, 0));
    }
}
