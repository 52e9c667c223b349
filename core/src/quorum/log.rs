//! The metadata log in memory: everything since the last snapshot, and which voters it puts in force.
//!
//! The store holds the same records durably; this is what elections and appends look at, without waiting for a disk. A change
//! of voters is in force from the moment its record is appended, and undone when that record is cut (Raft's
//! dissertation, 4.1): so the configuration is a function of the log, never kept beside it.

use std::collections::VecDeque;

use bytes::Bytes;
use milena_wire::batch::{BatchBuilder, Compression, DecompressLimit, records, validate};
use serde::{Deserialize, Serialize};

use super::message::{LogEnd, Voters};
use crate::storage::Lsn;
use crate::{Epoch, Offset, Timestamp};

/// What one record of the metadata log says. The numbers are frozen; a new kind is a new variant at the end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum EntryValue {
    /// The first record of a leader's term, by whose commit everything before it is committed.
    NoOp,
    /// The voters from here on.
    Voters(Voters),
    /// A record for the machine above.
    Metadata(Bytes),
}

/// A record of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    /// Term of the leader that appended it.
    pub epoch: Epoch,
    /// What it says.
    pub value: EntryValue,
    /// As on disk and on the wire.
    pub batch: Bytes,
    /// When the journal is flushed to here, it is durable.
    pub lsn: Lsn,
}

/// A record as a batch of its own.
pub(super) fn encode(offset: Offset, epoch: Epoch, wall: Timestamp, value: &EntryValue) -> Bytes {
    let value = postcard::to_allocvec(value).expect("writing to memory cannot fail");
    BatchBuilder::new(offset, epoch, Compression::None)
        .append(wall, None, Some(&value), &[])
        .build()
}

/// Opens a batch that must hold the one record at `offset`. None where it is damaged, something else, or of a kind that this
/// program does not know.
pub(super) fn decode(offset: Offset, batch: &Bytes) -> Option<Entry> {
    let header = validate(batch).ok()?;
    let plain = header.compression() == Ok(Compression::None) && !header.is_control();
    if header.base_offset != offset || header.records_count != 1 || !plain {
        return None;
    }
    let mut records = records(batch, DecompressLimit(0)).ok()?;
    let bytes = records.pop()?.value?;
    let value = match postcard::from_bytes::<Borrowed<'_>>(&bytes).ok()? {
        Borrowed::NoOp => EntryValue::NoOp,
        Borrowed::Voters(voters) => EntryValue::Voters(voters),
        Borrowed::Metadata(payload) => EntryValue::Metadata(bytes.slice_ref(payload)),
    };
    let (epoch, batch) = (header.partition_leader_epoch, batch.clone());
    (epoch >= 0).then_some(Entry { epoch, value, batch, lsn: Lsn(0) })
}

/// Reads what [`EntryValue`] writes, without copying the payload.
#[derive(Deserialize)]
enum Borrowed<'a> {
    NoOp,
    Voters(Voters),
    Metadata(&'a [u8]),
}

/// The log in memory.
#[derive(Debug)]
pub(super) struct MemoryLog {
    /// Offset of the first record here: the end of the snapshot, or 0.
    start: Offset,
    /// Term of the record before `start`; -1 where there is none.
    start_epoch: Epoch,
    /// That nothing below `start` is needed is durable when the journal is flushed to here.
    start_lsn: Lsn,
    entries: VecDeque<Entry>,
    /// Voters in force, with the offset of the record that says so. The first holds at `start`; the rest are at or past it.
    configurations: Vec<(Offset, Voters)>,
}

impl MemoryLog {
    /// An empty log.
    pub fn new(start: Offset, start_epoch: Epoch, start_lsn: Lsn, voters: Voters) -> MemoryLog {
        let configurations = vec![(start - 1, voters)];
        MemoryLog { start, start_epoch, start_lsn, entries: VecDeque::new(), configurations }
    }

    pub fn start(&self) -> Offset {
        self.start
    }

    pub fn end(&self) -> Offset {
        self.start + self.entries.len() as Offset
    }

    /// What elections compare.
    pub fn last(&self) -> LogEnd {
        LogEnd { epoch: self.epoch_before(self.end()).expect("the end is known"), end: self.end() }
    }

    fn index(&self, offset: Offset) -> Option<usize> {
        usize::try_from(offset.checked_sub(self.start)?).ok()
    }

    pub fn get(&self, offset: Offset) -> Option<&Entry> {
        self.entries.get(self.index(offset)?)
    }

    /// Term of the record before an offset; none where the log does not know it.
    pub fn epoch_before(&self, offset: Offset) -> Option<Epoch> {
        if offset == self.start {
            return Some(self.start_epoch);
        }
        self.get(offset.checked_sub(1)?).map(|entry| entry.epoch)
    }

    /// Puts a record at the end.
    pub fn push(&mut self, entry: Entry) {
        assert!(entry.epoch >= self.last().epoch, "terms never fall along a log");
        if let EntryValue::Voters(voters) = &entry.value {
            self.configurations.push((self.end(), voters.clone()));
        }
        self.entries.push_back(entry);
    }

    /// Cuts everything at and past `to`.
    pub fn truncate(&mut self, to: Offset) {
        assert!((self.start..=self.end()).contains(&to), "truncation outside the log");
        self.entries.truncate((to - self.start) as usize);
        // The first holds at the start and has no record of its own here.
        while self.configurations.len() > 1 && self.configurations.last().is_some_and(|c| c.0 >= to)
        {
            self.configurations.pop();
        }
    }

    /// Drops everything below `start`, which a durable snapshot covers.
    pub fn trim(&mut self, start: Offset, lsn: Lsn) {
        assert!((self.start..=self.end()).contains(&start), "trim outside the log");
        self.start_epoch = self.epoch_before(start).expect("the offset is inside the log");
        self.entries.drain(..(start - self.start) as usize);
        let holding =
            self.configurations.iter().rposition(|c| c.0 < start).expect("the first holds");
        self.configurations.drain(..holding);
        (self.start, self.start_lsn) = (start, lsn);
    }

    /// The voters in force: those of the last configuration, committed or not.
    pub fn voters(&self) -> &Voters {
        &self.configurations.last().expect("one always holds").1
    }

    /// The voters that held at an offset of this log.
    pub fn voters_at(&self, end: Offset) -> &Voters {
        let holding = self.configurations.iter().rev().find(|c| c.0 < end);
        &holding.unwrap_or(&self.configurations[0]).1
    }

    /// End of what would be here after a power loss now; none while the start itself is not durable.
    pub fn flushed_end(&self, flushed: Lsn) -> Option<Offset> {
        if self.start_lsn > flushed {
            return None;
        }
        // Journal numbers grow along the log: what was cut and written again has later ones.
        let count = self.entries.partition_point(|entry| entry.lsn <= flushed);
        Some(self.start + count as Offset)
    }

    /// The largest offset, at most `end`, before which a record of `epoch` or an older one stands, with that record's term: two
    /// logs of which the other has `epoch` before `end` can agree no further. The start where there is none.
    pub fn agree_at_most(&self, end: Offset, epoch: Epoch) -> (Offset, Epoch) {
        let end = end.clamp(self.start, self.end());
        let count = (end - self.start) as usize;
        let within = self.entries.partition_point(|entry| entry.epoch <= epoch).min(count);
        let end = self.start + within as Offset;
        (end, self.epoch_before(end).expect("the offset is inside the log"))
    }

    /// Where to look next for a follower's agreement, which ends at most at `end`, after a record of `epoch`. Before the start
    /// where the two can only agree on what is no longer here.
    pub fn next_probe(&self, end: Offset, epoch: Epoch) -> Offset {
        if end < self.start {
            return end.max(0);
        }
        match self.agree_at_most(end, epoch) {
            (agreed, here) if here <= epoch => agreed,
            _ => (self.start - 1).max(0),
        }
    }

    /// Batches from an offset of this log on, at least one where there is any, not many more bytes than allowed.
    pub fn batches(&self, from: Offset, bytes_max: usize) -> Vec<Bytes> {
        let skip = self.index(from).unwrap_or(usize::MAX);
        let mut bytes = 0_usize;
        let next = self.entries.iter().skip(skip).take_while(|entry| {
            let first = bytes == 0;
            bytes = bytes.saturating_add(entry.batch.len());
            first || bytes <= bytes_max
        });
        next.map(|entry| entry.batch.clone()).collect()
    }

    /// Costly assertions.
    pub fn check_invariants(&self) {
        let mut epoch = self.start_epoch;
        for (i, entry) in self.entries.iter().enumerate() {
            assert!(entry.epoch >= epoch, "terms fall along the log");
            epoch = entry.epoch;
            let offset = self.start + i as Offset;
            let again = decode(offset, &entry.batch).expect("a record of the log can be read");
            assert!(
                again.epoch == entry.epoch && again.value == entry.value,
                "memory and batch differ"
            );
        }
        let changes = self.entries.iter().enumerate().filter_map(|(i, entry)| match &entry.value {
            EntryValue::Voters(voters) => Some((self.start + i as Offset, voters)),
            EntryValue::NoOp | EntryValue::Metadata(_) => None,
        });
        assert!(
            changes.eq(self.configurations[1..].iter().map(|c| (c.0, &c.1))),
            "the voters in force are those that the log says"
        );
    }
}

/// Whether `count` of `size` voters are a majority. Nobody is a majority of nobody.
pub(super) fn is_majority(count: usize, size: usize) -> bool {
    count * 2 > size
}

/// The highest offset that a majority has reached.
pub(super) fn majority_end(ends: impl IntoIterator<Item = Offset>) -> Option<Offset> {
    let mut ends: Vec<Offset> = ends.into_iter().collect();
    ends.sort_unstable();
    // Of 2f+1 or 2f+2 voters, f+1 or f+2 have reached the entry at this place from below.
    ends.len().checked_sub(1).map(|last| ends[last / 2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Incarnation, NodeId};

    fn entry(offset: Offset, epoch: Epoch, value: EntryValue, lsn: u64) -> Entry {
        let batch = encode(offset, epoch, 0, &value);
        Entry { lsn: Lsn(lsn), ..decode(offset, &batch).expect("what was written can be read") }
    }

    fn voters(ids: &[i32]) -> Voters {
        ids.iter().map(|id| (NodeId(*id), Incarnation(*id as u128))).collect()
    }

    fn log(epochs: &[Epoch]) -> MemoryLog {
        let mut log = MemoryLog::new(0, -1, Lsn(0), voters(&[1]));
        for (i, epoch) in epochs.iter().enumerate() {
            log.push(entry(i as Offset, *epoch, EntryValue::NoOp, i as u64 + 1));
        }
        log
    }

    #[test]
    fn majorities_agree_with_counting() {
        for size in 1..7_usize {
            for number in 0..3_usize.pow(size as u32) {
                let ends: Vec<Offset> =
                    (0..size).map(|i| (number / 3_usize.pow(i as u32) % 3) as Offset).collect();
                let naive = (0..3)
                    .rev()
                    .find(|end| is_majority(ends.iter().filter(|e| *e >= end).count(), size));
                assert_eq!(majority_end(ends.iter().copied()), naive, "{ends:?}");
            }
        }
        assert_eq!(majority_end([]), None);
        assert!(!is_majority(0, 0));
    }

    #[test]
    fn a_record_keeps_its_payload_without_a_copy() {
        let value = EntryValue::Metadata(Bytes::from_static(b"some payload"));
        let batch = encode(5, 2, 1_000, &value);
        let entry = decode(5, &batch).unwrap();
        assert_eq!((entry.epoch, &entry.value), (2, &value));
        let EntryValue::Metadata(payload) = &entry.value else { panic!("another kind") };
        assert!(batch.as_ptr_range().contains(&payload.as_ptr()));
        assert_eq!(decode(6, &batch), None);
        let mut damaged = batch.to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(decode(5, &damaged.into()), None);
    }

    #[test]
    fn voters_follow_the_log_and_are_undone_with_it() {
        let mut log = log(&[1, 1]);
        log.push(entry(2, 1, EntryValue::Voters(voters(&[1, 2])), 3));
        log.push(entry(3, 2, EntryValue::Voters(voters(&[1, 2, 3])), 4));
        log.check_invariants();
        assert_eq!(log.voters().len(), 3);
        assert_eq!((log.voters_at(2).len(), log.voters_at(3).len()), (1, 2));
        log.truncate(3);
        assert_eq!(log.voters().len(), 2);
        log.trim(3, Lsn(9));
        log.check_invariants();
        assert_eq!((log.voters().len(), log.last()), (2, LogEnd { epoch: 1, end: 3 }));
        log.truncate(3);
        assert_eq!(log.voters().len(), 2, "what the snapshot covers is never undone");
    }

    #[test]
    fn durable_is_what_the_journal_has_flushed() {
        let mut log = log(&[1, 1, 1]);
        assert_eq!(log.flushed_end(Lsn(0)), Some(0));
        assert_eq!(log.flushed_end(Lsn(2)), Some(2));
        log.truncate(1);
        log.push(entry(1, 2, EntryValue::NoOp, 7));
        assert_eq!(log.flushed_end(Lsn(6)), Some(1), "written again is not yet durable");
        assert_eq!(MemoryLog::new(9, 1, Lsn(8), voters(&[1])).flushed_end(Lsn(7)), None);
    }

    #[test]
    fn the_hint_never_passes_where_logs_can_agree() {
        // Every pair of short logs that could exist: the hint is at or past the true point of divergence.
        let all: Vec<Vec<Epoch>> = (0..81)
            .map(|n| (0..4).map(|i| n / 3_i32.pow(i) % 3).collect::<Vec<_>>())
            .filter(|epochs| epochs.is_sorted())
            .collect();
        for mine in &all {
            for other in &all {
                let common = mine.iter().zip(other).take_while(|(a, b)| a == b).count() as Offset;
                let (hint, epoch) = log(mine).agree_at_most(4, other[3]);
                assert!(hint >= common, "{mine:?} {other:?}");
                assert_eq!(Some(epoch), log(mine).epoch_before(hint));
            }
        }
    }

    #[test]
    fn a_follower_that_differs_at_the_start_needs_the_snapshot() {
        let mut log = log(&[1, 5, 5]);
        assert_eq!(log.next_probe(3, 4), 1);
        log.trim(2, Lsn(9));
        assert_eq!((log.next_probe(2, 5), log.next_probe(2, 4), log.next_probe(1, 1)), (2, 1, 1));
    }

    #[test]
    fn an_append_is_bounded_but_never_empty() {
        let log = log(&[1, 1, 1]);
        let size = log.get(0).unwrap().batch.len();
        assert_eq!(log.batches(0, 1).len(), 1);
        assert_eq!(log.batches(0, 2 * size).len(), 2);
        assert_eq!(log.batches(1, usize::MAX).len(), 2);
        assert!(log.batches(3, usize::MAX).is_empty());
    }
}
