//! Those who wait for a partition, and what they are told.

use std::collections::BTreeSet;

use bytes::Bytes;
use milena_wire::ErrorCode;

use super::Partitions;
use crate::replica::Unavailable;
use crate::storage::{Read, ReadError};
use crate::{Epoch, LogId, NodeId, Offset, Outputs, Timestamp};

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Safety {
    /// When it is below the high watermark.
    Committed,
    /// When it is on this node's stable storage.
    Flushed,
    /// When every member of the maximal in-sync set has answered an exchange that began after the wait: what this broker knew
    /// then as the leader was true then, and no other leader had committed anything.
    Confirmed,
}

/// All of a partition that a waiting reader cares for: whether it leads, whether it knows what is committed, and what may be
/// read.
pub type Standing = (Result<Epoch, Unavailable>, bool, Offset);

/// What those who wait are told, once each.
#[derive(Debug)]
pub enum News<W> {
    /// When something is as safe as was asked, or the leadership under which it was appended is over: it may still become
    /// committed.
    Safe {
        /// Who waits for it.
        waiter: W,
        /// The partition.
        log: LogId,
        /// Whether it is safe, or why nobody here can tell any more.
        outcome: Result<(), ErrorCode>,
    },
    /// When a partition no longer stands where it stood.
    Moved {
        /// Who waits for that, and does no longer.
        waiter: W,
    },
    /// When records are read.
    Read {
        /// Who reads.
        waiter: W,
        /// Which of its reads it is.
        place: usize,
        /// Whole batches.
        result: Result<Vec<Bytes>, ReadError>,
    },
    /// When a time is looked up.
    Time {
        /// Who asks.
        waiter: W,
        /// Which of its lookups it is.
        place: usize,
        /// The record's offset, time and epoch, if there is one.
        result: Result<Option<(Offset, Timestamp, Epoch)>, ReadError>,
    },
}

/// How a read begins.
#[derive(Debug)]
pub enum Reading {
    /// When memory had the records: whole batches.
    Done(Vec<Bytes>),
    /// When they come as news.
    Begun {
        /// The most bytes that it may give.
        bytes_max: u64,
    },
}

/// What a read of the store is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum ReadFor<W> {
    /// When a follower is pushed older records.
    Follower(LogId, NodeId),
    /// When records are read; which of the waiter's reads it is.
    Records(W, usize),
    /// When a time is looked up; which of the waiter's lookups it is.
    Time(W, usize),
}

/// Who waits for what of a log: up to which offset that was appended, or for the exchange of which number. One order of all
/// of them, so that a wait more needs no room of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Wait<W> {
    log: LogId,
    safety: Safety,
    upto: Offset,
    /// None only where a search begins.
    waiter: Option<W>,
}

/// Who waits for a partition to move from where it stood.
#[derive(Debug)]
pub(super) struct Watch<W> {
    stood: Standing,
    waiters: BTreeSet<W>,
}

impl<W: Copy + Ord> Partitions<W> {
    /// The next news for someone who waits.
    pub fn pop_news(&mut self) -> Option<News<W>> {
        self.news.pop_front()
    }

    /// Waits until what was appended up to an offset, in the epoch in which this broker leads, is safe.
    pub fn wait(&mut self, log: LogId, next: Offset, epoch: Epoch, safety: Safety, waiter: W) {
        self.waits.insert(Wait { log, safety, upto: next, waiter: Some(waiter) }, epoch);
    }

    /// Begins an exchange with the followers and waits until it is confirmed that this broker leads in that epoch still, as
    /// [`Safety::Confirmed`] says. The number to forget it by.
    pub fn confirm(&mut self, log: LogId, epoch: Epoch, waiter: W, out: &mut Outputs) -> Offset {
        let begun = self.touch(log, out, |replica, _| replica.begin_exchange());
        let number = begun.unwrap_or(0) as Offset;
        // Where it does not lead, the end of the step says so.
        self.touched.insert(log);
        self.wait(log, number, epoch, Safety::Confirmed, waiter);
        number
    }

    /// Waits for that no longer.
    pub fn forget(&mut self, log: LogId, next: Offset, safety: Safety, waiter: W) {
        self.waits.remove(&Wait { log, safety, upto: next, waiter: Some(waiter) });
    }

    /// The first who waits for something of a log.
    fn first_wait(&self, log: LogId, safety: Safety) -> Option<(Wait<W>, Epoch)> {
        let from = Wait { log, safety, upto: Offset::MIN, waiter: None };
        let (wait, epoch) = self.waits.range(from..).next()?;
        ((wait.log, wait.safety) == (log, safety)).then_some((*wait, *epoch))
    }

    /// Tells of what has become safe, and of what was appended in an epoch that is over.
    pub(super) fn tell_of_safety(&mut self, log: LogId) {
        for safety in [Safety::Committed, Safety::Flushed, Safety::Confirmed] {
            if self.first_wait(log, safety).is_none() {
                continue;
            }
            let leading = self.leading(log);
            let safe = match (self.replicas.get(&log).zip(self.host.store.log(log)), safety) {
                (None, _) => 0,
                (Some((replica, _)), Safety::Committed) => replica.high_watermark(),
                (Some((_, log)), Safety::Flushed) => log.flushed_end(),
                (Some((replica, _)), Safety::Confirmed) => replica.confirmed(&self.host) as Offset,
            };
            while let Some((wait, epoch)) = self.first_wait(log, safety) {
                // All of them are of one epoch: the end of a leadership fails what it left.
                let outcome = if leading != Ok(epoch) {
                    Err(leading.err().unwrap_or(ErrorCode::NOT_LEADER_OR_FOLLOWER))
                } else if wait.upto <= safe {
                    Ok(())
                } else {
                    break;
                };
                self.waits.remove(&wait);
                if let Some(waiter) = wait.waiter {
                    self.news.push_back(News::Safe { waiter, log, outcome });
                }
            }
        }
    }

    /// Where a partition stands.
    pub fn standing(&self, log: LogId) -> Standing {
        match self.replicas.get(&log) {
            Some(replica) => (
                replica.leading(&self.host.store),
                replica.reached_epoch_start(),
                replica.high_watermark(),
            ),
            None => (Err(Unavailable::NotLeader), false, -1),
        }
    }

    /// Waits until a partition no longer stands where it does now.
    pub fn watch(&mut self, log: LogId, waiter: W) {
        let stood = self.standing(log);
        let watch = self.watches.entry(log).or_insert(Watch { stood, waiters: BTreeSet::new() });
        watch.waiters.insert(waiter);
    }

    /// Waits for that no longer.
    pub fn unwatch(&mut self, log: LogId, waiter: W) {
        if let Some(watch) = self.watches.get_mut(&log) {
            watch.waiters.remove(&waiter);
            if watch.waiters.is_empty() {
                self.watches.remove(&log);
            }
        }
    }

    /// Tells those who watch a partition that it has moved.
    pub(super) fn tell_of_moves(&mut self, log: LogId) {
        if self.watches.get(&log).is_some_and(|watch| watch.stood != self.standing(log)) {
            let watch = self.watches.remove(&log).expect("just seen");
            self.news.extend(watch.waiters.into_iter().map(|waiter| News::Moved { waiter }));
        }
    }

    /// Everyone who watches a partition, for checkers.
    pub fn watchers(&self) -> impl Iterator<Item = W> {
        self.watches.values().flat_map(|watch| watch.waiters.iter().copied())
    }

    /// Reads whole batches from an offset on, up to another, at least one and as many bytes as that: at once from memory, or
    /// as news.
    pub fn read(
        &mut self,
        log: LogId,
        (from, upto): (Offset, Offset),
        bytes_max: u32,
        (waiter, place): (W, usize),
        out: &mut Outputs,
    ) -> Reading {
        match self.host.store.read(log, from, upto, bytes_max, out) {
            Read::Now(records) => Reading::Done(records),
            Read::Later(ticket) => {
                self.reads.insert(ticket, ReadFor::Records(waiter, place));
                Reading::Begun { bytes_max: self.host.store.bytes_read_by(ticket) }
            }
        }
    }

    /// Counts what a reader is given.
    pub fn count_read(&mut self, log: LogId, bytes: usize) {
        if let Some(replica) = self.replicas.get_mut(&log) {
            replica.tally.bytes_out += bytes as u64;
        }
    }

    /// Looks for the first record below an offset that has this time or a later one; the answer is news.
    pub fn find_time(
        &mut self,
        log: LogId,
        time: Timestamp,
        upto: Offset,
        (waiter, place): (W, usize),
        out: &mut Outputs,
    ) {
        let ticket = self.host.store.find_time(log, time, upto, out);
        self.reads.insert(ticket, ReadFor::Time(waiter, place));
    }

    /// Looks for the first record with the largest time below an offset; the answer is news.
    pub fn find_largest(
        &mut self,
        log: LogId,
        upto: Offset,
        (waiter, place): (W, usize),
        out: &mut Outputs,
    ) {
        let ticket = self.host.store.find_largest(log, upto, out);
        self.reads.insert(ticket, ReadFor::Time(waiter, place));
    }
}
