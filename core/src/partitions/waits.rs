//! Those who wait for a partition, and what they are told.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use milena_wire::ErrorCode;

use super::Partitions;
use crate::replica::Unavailable;
use crate::storage::{Read, ReadError};
use crate::{Epoch, LogId, NodeId, Offset, Outputs, Timestamp};

/// Who waits: what it wants to be called when there is news for it, and nothing else to anyone here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Waiter {
    /// When it is of a request, by the numbers that whoever serves requests goes by.
    Request {
        /// A shard of this node.
        shard: u16,
        /// A number drawn there.
        number: u64,
    },
}

/// How safe what was appended is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Safety {
    /// When it is on this node's stable storage.
    Flushed,
    /// When it is below the high watermark.
    Committed,
}

/// All of a partition that a waiting reader cares for: whether it leads, whether it knows what is committed, and what may be
/// read.
pub type Standing = (Result<Epoch, Unavailable>, bool, Offset);

/// What those who wait are told, once each.
#[derive(Debug)]
pub enum News {
    /// When what was appended is as safe as was asked, or the leadership under which it was appended is over: it may still
    /// become committed.
    Appended {
        /// Who waits for it.
        waiter: Waiter,
        /// The partition.
        log: LogId,
        /// Whether it is safe, or why nobody here can tell any more.
        outcome: Result<(), ErrorCode>,
    },
    /// When a partition no longer stands where it stood.
    Moved {
        /// Who waits for that, and does no longer.
        waiter: Waiter,
    },
    /// When records are read.
    Read {
        /// Who reads.
        waiter: Waiter,
        /// Which of its reads it is.
        place: usize,
        /// Whole batches.
        result: Result<Vec<Bytes>, ReadError>,
    },
    /// When a time is looked up.
    Time {
        /// Who asks.
        waiter: Waiter,
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
pub(super) enum ReadFor {
    /// When a follower is pushed older records.
    Follower(LogId, NodeId),
    /// When records are read; which of the waiter's reads it is.
    Records(Waiter, usize),
    /// When a time is looked up; which of the waiter's lookups it is.
    Time(Waiter, usize),
}

/// Who waits for what was appended to one log, by the offset after it; with the epoch in which it was appended.
#[derive(Default, Debug)]
pub(super) struct Appends {
    committed: BTreeMap<(Offset, Waiter), Epoch>,
    flushed: BTreeMap<(Offset, Waiter), Epoch>,
}

impl Appends {
    fn by(&mut self, safety: Safety) -> &mut BTreeMap<(Offset, Waiter), Epoch> {
        match safety {
            Safety::Flushed => &mut self.flushed,
            Safety::Committed => &mut self.committed,
        }
    }

    fn is_empty(&self) -> bool {
        self.committed.is_empty() && self.flushed.is_empty()
    }
}

/// Who waits for a partition to move from where it stood.
#[derive(Debug)]
pub(super) struct Watch {
    stood: Standing,
    waiters: BTreeSet<Waiter>,
}

impl Partitions {
    /// The next news for someone who waits.
    pub fn pop_news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// Waits until what was appended up to an offset, in the epoch in which this broker leads, is safe.
    pub fn wait(&mut self, log: LogId, next: Offset, epoch: Epoch, safety: Safety, waiter: Waiter) {
        self.appends.entry(log).or_default().by(safety).insert((next, waiter), epoch);
    }

    /// Waits for that no longer.
    pub fn forget(&mut self, log: LogId, next: Offset, safety: Safety, waiter: Waiter) {
        if let Some(appends) = self.appends.get_mut(&log) {
            appends.by(safety).remove(&(next, waiter));
            if appends.is_empty() {
                self.appends.remove(&log);
            }
        }
    }

    /// Tells of what has become safe, and of what was appended in an epoch that is over.
    pub(super) fn tell_of_appends(&mut self, log: LogId) {
        if !self.appends.contains_key(&log) {
            return;
        }
        let leading = self.leading(log);
        let (high_watermark, flushed) = match (self.replicas.get(&log), self.host.store.log(log)) {
            (Some(replica), Some(log)) => (replica.high_watermark(), log.flushed_end()),
            _ => (0, 0),
        };
        let Some(appends) = self.appends.get_mut(&log) else { return };
        for (safety, safe) in [(Safety::Committed, high_watermark), (Safety::Flushed, flushed)] {
            while let Some(first) = appends.by(safety).first_entry() {
                let ((next, waiter), epoch) = (*first.key(), *first.get());
                // All of them are of one epoch: the end of a leadership fails what it left.
                let outcome = if leading != Ok(epoch) {
                    Err(leading.err().unwrap_or(ErrorCode::NOT_LEADER_OR_FOLLOWER))
                } else if next <= safe {
                    Ok(())
                } else {
                    break;
                };
                first.remove();
                self.news.push_back(News::Appended { waiter, log, outcome });
            }
        }
        if appends.is_empty() {
            self.appends.remove(&log);
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
    pub fn watch(&mut self, log: LogId, waiter: Waiter) {
        let stood = self.standing(log);
        let watch = self.watches.entry(log).or_insert(Watch { stood, waiters: BTreeSet::new() });
        watch.waiters.insert(waiter);
    }

    /// Waits for that no longer.
    pub fn unwatch(&mut self, log: LogId, waiter: Waiter) {
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
    pub fn watchers(&self) -> impl Iterator<Item = Waiter> {
        self.watches.values().flat_map(|watch| watch.waiters.iter().copied())
    }

    /// Reads whole batches from an offset on, up to another, at least one and as many bytes as that: at once from memory, or
    /// as news.
    pub fn read(
        &mut self,
        log: LogId,
        (from, upto): (Offset, Offset),
        bytes_max: u32,
        (waiter, place): (Waiter, usize),
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
        (waiter, place): (Waiter, usize),
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
        (waiter, place): (Waiter, usize),
        out: &mut Outputs,
    ) {
        let ticket = self.host.store.find_largest(log, upto, out);
        self.reads.insert(ticket, ReadFor::Time(waiter, place));
    }
}
