//! One log in memory: its shape (start, end, epochs, state, producers), the changes that are on their way to its segments,
//! and the batches that are not yet there.
//!
//! The shape is kept twice: as everyone sees it, and as the segments have it. The changes between the two wait in `ops`,
//! in the order of their storage sequence, and the same function makes each of them on either side, as recovery does too.

use std::collections::VecDeque;

use bytes::Bytes;
use milena_wire::batch::BatchHeader;
use serde::{Deserialize, Serialize};

use super::Lsn;
use super::age::SegmentRules;
use super::checkpoint;
use super::codec::{Pieces, Put, Reader};
use super::producers::{KnownBatch, Produced, ProducerView, Producers, SequenceError, decode_ids};
use super::record::Kind;
use super::segment::Segment;
use crate::disk::FileName;
use crate::{Epoch, LogId, Offset, Timestamp};

/// What a log is, without its batches.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Shape {
    pub exists: bool,
    pub damaged: bool,
    /// The last change before the damage was found: only a reset after it ends the damage, not one that is replayed.
    pub damaged_at: u64,
    pub start: Offset,
    pub end: Offset,
    /// Each epoch with the offset of its first record, ascending. The first may begin below the start.
    pub epochs: Vec<(Epoch, Offset)>,
    pub state: Bytes,
    pub producers: Producers,
    /// All keys of records below this offset have met every older record: of each, at most the last has stayed. A batch that
    /// could not be opened holds it back.
    pub cleaned: Offset,
    /// Tombstones below this offset may have gone: who ends below it and did not begin since may hold values that they ended.
    pub dropped: Offset,
}

/// A change of a log.
#[derive(Clone, Debug)]
pub(super) struct Op {
    pub lsn: Lsn,
    pub seq: u64,
    pub kind: Kind,
    pub at: Offset,
    /// Of a batch: offset after it.
    pub next: Offset,
    pub epoch: Epoch,
    pub max_timestamp: Timestamp,
    /// From when a batch counts for retention.
    pub born: Timestamp,
    /// When it was made here.
    pub appended: Timestamp,
    /// Nothing below this offset was cut from then on, as far as was known.
    pub committed: Offset,
    /// Of a batch: what it says of its producer.
    pub produced: Option<Produced>,
    pub body: Pieces,
    pub size: u64,
}

impl Op {
    /// One that is no batch, before it has its numbers.
    pub fn new(kind: Kind, at: Offset, body: Pieces) -> Op {
        Op {
            lsn: Lsn(0),
            seq: 0,
            kind,
            at,
            next: at,
            epoch: 0,
            max_timestamp: 0,
            born: 0,
            appended: 0,
            committed: 0,
            produced: None,
            size: body.size() as u64,
            body,
        }
    }

    /// Whether the end may fall.
    pub fn cuts(&self) -> bool {
        matches!(self.kind, Kind::Truncate | Kind::Reset | Kind::Delete)
    }
}

impl Shape {
    /// Makes a change.
    pub fn apply(&mut self, op: &Op) {
        match op.kind {
            Kind::Append => {
                self.exists = true;
                self.end = op.next;
                if self.epochs.last().is_none_or(|(epoch, _)| *epoch != op.epoch) {
                    self.epochs.push((op.epoch, op.at));
                }
                if let Some(produced) = &op.produced {
                    let batch = KnownBatch {
                        base_sequence: produced.base_sequence,
                        last_offset_delta: (op.next - op.at - 1) as i32,
                        base: op.at,
                        timestamp: op.max_timestamp,
                    };
                    self.producers.append(produced, batch, op.appended);
                    self.producers.settle(op.committed);
                }
            }
            Kind::Truncate => {
                self.end = self.end.min(op.at);
                while self.epochs.last().is_some_and(|(_, start)| *start >= self.end) {
                    self.epochs.pop();
                }
                self.producers.truncate(op.at);
                self.cleaned = self.cleaned.min(self.end);
            }
            Kind::Trim => {
                self.start = self.start.max(op.at.min(self.end));
                let below = self.epochs.iter().filter(|(_, start)| *start <= self.start).count();
                self.epochs.drain(..below.saturating_sub(1));
                self.producers.settle(self.start);
            }
            Kind::Reset => {
                self.exists = true;
                self.damaged &= op.seq <= self.damaged_at;
                (self.start, self.end) = (op.at, op.at);
                self.epochs = Vec::new();
                let begun = Beginning::decode(&op.body.joined()).unwrap_or_default();
                let producers = Producers::begin(&begun.producers, op.at, op.appended);
                self.producers = producers.unwrap_or_default();
                (self.cleaned, self.dropped) = (op.at, begun.dropped);
            }
            Kind::Forget => {
                self.producers.forget(decode_ids(&op.body.joined()), op.at);
                self.producers.settle(op.committed);
            }
            Kind::Delete => *self = Shape::default(),
            Kind::Put => {
                self.exists = true;
                self.state = op.body.joined();
            }
            Kind::Mark => {}
        }
    }
}

/// What a log that begins at an offset of another one takes over from that one.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Beginning {
    /// What is known of producers there, as bytes; none of nothing.
    pub producers: Bytes,
    /// Tombstones below this offset may have gone from the other log.
    pub dropped: Offset,
}

impl Beginning {
    /// First byte where something was dropped. Otherwise the producers' own bytes stand alone, as they always did.
    const DROPPED: u8 = 2;

    pub(super) fn encode(&self) -> Bytes {
        if self.dropped == 0 {
            return self.producers.clone();
        }
        let mut bytes = Vec::with_capacity(9 + self.producers.len());
        bytes.u8(Beginning::DROPPED);
        bytes.i64(self.dropped);
        bytes.bytes(&self.producers);
        bytes.into()
    }

    pub(super) fn decode(bytes: &Bytes) -> Option<Beginning> {
        if bytes.first() != Some(&Beginning::DROPPED) {
            return Some(Beginning { producers: bytes.clone(), dropped: 0 });
        }
        let mut field = Reader(&bytes[1..]);
        let dropped = field.i64().filter(|dropped| *dropped > 0)?;
        Some(Beginning { producers: bytes.slice(9..), dropped })
    }

    /// Whether a log can begin so at an offset.
    pub(super) fn fits(&self, at: Offset) -> bool {
        self.dropped >= 0 && Producers::begin(&self.producers, at, 0).is_some()
    }
}

/// A batch that is not yet in its segment.
#[derive(Clone, Debug)]
pub(super) struct TailBatch {
    pub seq: u64,
    pub base: Offset,
    pub next: Offset,
    pub max_timestamp: Timestamp,
    pub size: u64,
    pub body: Pieces,
}

/// What is being written behind for a log: one thing at a time.
#[derive(Debug)]
pub(super) struct Action {
    /// Commands that have not come back.
    pub outstanding: u8,
    pub failed: Option<crate::disk::DiskError>,
    pub effect: Effect,
}

/// What an action has done when it is done.
#[derive(Debug)]
pub(super) enum Effect {
    /// The first so many changes, all of them batches, stand at the end of the last segment, or of this new one.
    Appended { count: usize, begun: Option<Segment> },
    /// The first so many groups that a segment had in memory are in its `Index` file.
    Filed { base: Offset, generation: u32, count: usize },
}

/// One log as the engine knows it. Ends and epochs are those of memory: what is durable is said apart.
#[derive(Debug)]
pub struct Log {
    pub(super) visible: Shape,
    /// The visible one without `ops`.
    pub(super) applied: Shape,
    /// Storage sequence of the last change.
    pub(super) seq: u64,
    /// The same of the change with which it began, or last began again.
    pub(super) begun_seq: u64,
    pub(super) applied_seq: u64,
    pub(super) last_lsn: Lsn,
    /// Changes that the segments do not hold.
    pub(super) ops: VecDeque<Op>,
    /// So many of them are flushed.
    pub(super) ops_flushed: usize,
    /// So many of those that are not flushed may make the end fall.
    pub(super) cuts_unflushed: usize,
    pub(super) flushed_end: Offset,
    /// Batches of `ops` that were not cut since, in order and without gaps up to the end.
    pub(super) tail: VecDeque<TailBatch>,
    pub(super) tail_bytes: u64,
    pub(super) segments: Vec<Segment>,
    /// Of the next segment.
    pub(super) generation: u32,
    /// When its segments end; none from a start until it is known. Until then nothing is written behind: in segments that end
    /// elsewhere retention and the cleaner would find nothing to do.
    pub(super) rules: Option<SegmentRules>,
    pub(super) action: Option<Action>,
    /// Waits in the list of logs that have something to be written behind.
    pub(super) queued: bool,
    /// Counts changes that may make an answer under way stale.
    pub(super) cuts: u64,
    /// The cleaner has seen the keys below this offset, also where a batch that stayed closed has not met them: else that batch
    /// made the log dirty for ever, and it were cleaned again and again. Of this run alone.
    pub(super) seen: Offset,
    /// The entry of the last checkpoint, and its storage sequence.
    pub(super) saved: Bytes,
    pub(super) saved_seq: u64,
    /// Files of a damaged log that belong to no segment we know; kept until it is reset.
    pub(super) kept: Vec<FileName>,
}

impl Log {
    pub(super) fn new(rules: Option<SegmentRules>, seq: u64) -> Log {
        Log {
            visible: Shape::default(),
            applied: Shape::default(),
            seq,
            begun_seq: seq,
            applied_seq: seq,
            last_lsn: Lsn(0),
            ops: VecDeque::new(),
            ops_flushed: 0,
            cuts_unflushed: 0,
            flushed_end: 0,
            tail: VecDeque::new(),
            tail_bytes: 0,
            segments: Vec::new(),
            generation: 1,
            rules,
            action: None,
            queued: false,
            cuts: 0,
            seen: 0,
            saved: Bytes::new(),
            saved_seq: 0,
            kept: Vec::new(),
        }
    }

    /// Takes a change at the end of all.
    pub(super) fn submit(&mut self, op: Op) {
        let start_before = self.visible.start;
        self.visible.apply(&op);
        self.seq = op.seq;
        self.last_lsn = op.lsn;
        match op.kind {
            Kind::Append => {
                let batch = TailBatch {
                    seq: op.seq,
                    base: op.at,
                    next: op.next,
                    max_timestamp: op.max_timestamp,
                    size: op.size,
                    body: op.body.clone(),
                };
                self.tail_bytes += batch.size;
                self.tail.push_back(batch);
            }
            Kind::Truncate => {
                while self.tail.back().is_some_and(|batch| batch.next > op.at) {
                    self.drop_tail(false);
                }
                if self.visible.end == self.visible.start {
                    // Even where the start lies inside a batch, nothing is left.
                    (self.tail, self.tail_bytes) = (VecDeque::new(), 0);
                }
                self.cuts += 1;
            }
            Kind::Trim if self.visible.start > start_before => {
                self.cuts += 1;
            }
            Kind::Reset | Kind::Delete => {
                self.tail.clear();
                self.tail_bytes = 0;
                self.cuts += 1;
                (self.begun_seq, self.seen) = (op.seq, 0);
            }
            Kind::Trim | Kind::Forget | Kind::Put | Kind::Mark => {}
        }
        if op.cuts() {
            self.cuts_unflushed += 1;
            self.flushed_end = self.flushed_end.min(self.visible.end);
        }
        self.ops.push_back(op);
    }

    /// Everything up to `flushed` is on stable storage.
    pub(super) fn on_flushed(&mut self, flushed: Lsn) {
        while let Some(op) = self.ops.get(self.ops_flushed)
            && op.lsn <= flushed
        {
            match op.kind {
                Kind::Append => self.flushed_end = op.next,
                Kind::Truncate => self.flushed_end = self.flushed_end.min(op.at),
                Kind::Reset => self.flushed_end = op.at,
                Kind::Delete => self.flushed_end = 0,
                Kind::Trim | Kind::Forget | Kind::Put | Kind::Mark => {}
            }
            self.cuts_unflushed -= usize::from(op.cuts());
            self.ops_flushed += 1;
        }
        if self.cuts_unflushed > 0 {
            for op in self.ops.range(self.ops_flushed..).filter(|op| op.cuts()) {
                let end = if op.kind == Kind::Delete { 0 } else { op.at };
                self.flushed_end = self.flushed_end.min(end);
            }
        }
    }

    /// The first change is now held by the segments.
    pub(super) fn on_applied(&mut self) -> Op {
        let op = self.ops.pop_front().expect("a change that was being written");
        assert!(self.ops_flushed > 0, "written behind ahead of the flush");
        self.ops_flushed -= 1;
        self.applied.apply(&op);
        self.applied_seq = op.seq;
        if self.tail.front().is_some_and(|batch| batch.seq == op.seq) {
            self.drop_tail(true);
        }
        if self.ops.is_empty() {
            (self.ops, self.tail) = (VecDeque::new(), VecDeque::new());
        }
        op
    }

    /// Its entry in a checkpoint: the segments as they are now, which hold all changes up to a storage sequence.
    pub(super) fn entry(&self, id: LogId, seq: u64) -> Bytes {
        checkpoint::encode_entry(id, seq, &self.applied, self.generation, &self.segments)
    }

    fn drop_tail(&mut self, front: bool) {
        let batch = if front { self.tail.pop_front() } else { self.tail.pop_back() };
        self.tail_bytes -= batch.map_or(0, |batch| batch.size);
    }

    /// Below this offset batches are in segments, from it on in the tail.
    pub(super) fn border(&self) -> Offset {
        self.tail.front().map_or(self.visible.end, |batch| batch.base)
    }

    /// First offset.
    pub fn start(&self) -> Offset {
        self.visible.start
    }

    /// Offset after the last record, in memory.
    pub fn end(&self) -> Offset {
        self.visible.end
    }

    /// Offset after the last record that is on stable storage, as far as no truncation is under way below it: the end that
    /// this log would have after a power loss now, at least.
    pub fn flushed_end(&self) -> Offset {
        self.flushed_end
    }

    /// Number of the last journal record about this log.
    pub fn last_lsn(&self) -> Lsn {
        self.last_lsn
    }

    /// Epoch of the last record; -1 of an empty log that began at 0, or what [`super::Store::reset`] left unknown.
    pub fn last_epoch(&self) -> Epoch {
        self.visible.epochs.last().map_or(-1, |(epoch, _)| *epoch)
    }

    /// Epoch of the record at an offset, if it is there.
    pub fn epoch_at(&self, offset: Offset) -> Option<Epoch> {
        if offset < self.visible.start || offset >= self.visible.end {
            return None;
        }
        let found = self.visible.epochs.iter().rfind(|(_, start)| *start <= offset);
        found.map(|(epoch, _)| *epoch)
    }

    /// For `OffsetForLeaderEpoch` and divergence: the largest epoch in the log at or below `epoch`, and the offset after
    /// its last record; (-1, start) where there is none.
    pub fn end_of_epoch(&self, epoch: Epoch) -> (Epoch, Offset) {
        let epochs = &self.visible.epochs;
        let Some(i) = epochs.iter().rposition(|(e, _)| *e <= epoch) else {
            return (-1, self.visible.start);
        };
        (epochs[i].0, epochs.get(i + 1).map_or(self.visible.end, |(_, start)| *start))
    }

    /// The same as consumers ask it of a leader of epoch `led`, which begins where the log ended, with a record or without.
    /// Of an epoch before the first one here all records lay before the log start, so the log goes on from there and nothing
    /// was lost. None of epochs that are still to come.
    pub fn end_of_epoch_for_consumers(&self, epoch: Epoch, led: Epoch) -> Option<(Epoch, Offset)> {
        match self.visible.epochs.first() {
            _ if epoch > led => None,
            _ if epoch == led => Some((led, self.visible.end)),
            Some((first, start)) if epoch < *first => Some((epoch, self.start().max(*start))),
            Some(_) => Some(self.end_of_epoch(epoch)),
            None => Some((epoch, self.visible.end)),
        }
    }

    /// First offset at or past `from` whose record has an epoch older than `epoch`, if any.
    pub fn first_older(&self, from: Offset, epoch: Epoch) -> Option<Offset> {
        let epochs = &self.visible.epochs;
        epochs.iter().enumerate().find_map(|(i, (e, start))| {
            let until = epochs.get(i + 1).map_or(self.visible.end, |(_, start)| *start);
            let first = (*start).max(from).max(self.visible.start);
            (*e < epoch && first < until).then_some(first)
        })
    }

    /// Whether its data was found damaged: it serves and takes nothing until [`super::Store::reset`].
    pub fn is_damaged(&self) -> bool {
        self.visible.damaged
    }

    /// What [`super::Store::put`] kept; empty if nothing.
    pub fn state(&self) -> &Bytes {
        &self.visible.state
    }

    /// What is known of each idempotent producer that wrote here, sorted by id.
    pub fn producers(&self) -> impl Iterator<Item = ProducerView<'_>> {
        self.visible.producers.iter()
    }

    /// What a batch is, to a leader: a new one, also where nothing is known of its producer or where it has none, or one that is
    /// here already.
    pub fn judge(&self, header: &BatchHeader) -> Result<Option<KnownBatch>, SequenceError> {
        let Some(produced) = Produced::of(header) else { return Ok(None) };
        self.visible.producers.judge(&produced, header.last_offset_delta)
    }

    /// What a log takes over that begins at an offset of this one ([`super::Store::begin_at`]).
    pub fn beginning_at(&self, offset: Offset) -> Beginning {
        let producers = self.visible.producers.at(offset).encode();
        Beginning { producers, dropped: self.visible.dropped }
    }

    /// Tombstones below this offset may have gone from this log. Another one that ends below it, and has not begun from one that
    /// had dropped as many, may hold values that they ended.
    pub fn dropped(&self) -> Offset {
        self.visible.dropped
    }

    /// The files that hold its batches, each with the offset after the last one that counts there and its bytes; none where a
    /// change that is still to come drops them all.
    pub fn files(&self, id: LogId) -> impl Iterator<Item = (FileName, Offset, u64)> {
        let stays = !self.ops.iter().any(|op| matches!(op.kind, Kind::Reset | Kind::Delete));
        let (segments, border) = (self.segments.iter().filter(move |_| stays), self.border());
        segments.map(move |segment| (segment.file(id), segment.next.min(border), segment.length))
    }

    /// The cleaner has seen all keys below this offset.
    pub fn cleaned(&self) -> Offset {
        self.visible.cleaned.max(self.seen)
    }

    /// Bytes of all segments and of what is not yet in them, as far as they surely hold records that count.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.counted).sum::<u64>() + self.tail_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(lsn: u64, kind: Kind, at: Offset, next: Offset, epoch: Epoch) -> Op {
        let (seq, size, op) = (lsn, 1, Op::new(kind, at, Pieces::None));
        Op { lsn: Lsn(lsn), seq, next, epoch, max_timestamp: at, born: at, size, ..op }
    }

    fn log() -> Log {
        let mut log = Log::new(Some(SegmentRules::of_bytes(1000)), 0);
        log.submit(op(1, Kind::Append, 0, 5, 1));
        log.submit(op(2, Kind::Append, 5, 9, 1));
        log.submit(op(3, Kind::Append, 9, 12, 4));
        log
    }

    #[test]
    fn epochs_answer_as_kafka_counts() {
        let mut log = log();
        assert_eq!(log.end_of_epoch(0), (-1, 0));
        assert_eq!(log.end_of_epoch(1), (1, 9));
        assert_eq!(log.end_of_epoch(3), (1, 9));
        assert_eq!(log.end_of_epoch(9), (4, 12));
        assert_eq!(log.end_of_epoch_for_consumers(0, 6), Some((0, 0)));
        assert_eq!(log.end_of_epoch_for_consumers(3, 6), Some((1, 9)));
        assert_eq!(log.end_of_epoch_for_consumers(5, 6), Some((4, 12)));
        assert_eq!(log.end_of_epoch_for_consumers(6, 6), Some((6, 12)), "without a record yet");
        assert_eq!(log.end_of_epoch_for_consumers(7, 6), None, "still to come");
        assert_eq!((log.epoch_at(8), log.epoch_at(9), log.epoch_at(12)), (Some(1), Some(4), None));
        assert_eq!((log.first_older(0, 4), log.first_older(9, 4)), (Some(0), None));
        log.submit(op(4, Kind::Trim, 9, 0, 0));
        assert_eq!((log.end_of_epoch(1), log.first_older(0, 4)), ((-1, 9), None));
        assert_eq!(log.end_of_epoch_for_consumers(1, 4), Some((1, 9)), "trimmed");
        log.submit(op(5, Kind::Truncate, 9, 0, 0));
        assert_eq!((log.last_epoch(), log.end()), (-1, 9));
        log.submit(op(6, Kind::Reset, 40, 0, 0));
        assert_eq!((log.start(), log.end(), log.last_epoch()), (40, 40, -1));
        assert_eq!(log.end_of_epoch_for_consumers(4, 6), Some((4, 40)), "of an empty log");
    }

    #[test]
    fn flushed_end_never_counts_on_a_cut_that_may_happen() {
        let mut log = log();
        log.on_flushed(Lsn(2));
        assert_eq!(log.flushed_end(), 9);
        log.submit(op(4, Kind::Truncate, 5, 0, 0));
        assert_eq!(log.flushed_end(), 5);
        log.submit(op(5, Kind::Append, 5, 20, 5));
        log.on_flushed(Lsn(3));
        assert_eq!((log.flushed_end(), log.end()), (5, 20));
        log.on_flushed(Lsn(4));
        assert_eq!(log.flushed_end(), 5);
        log.on_flushed(Lsn(5));
        assert_eq!(log.flushed_end(), 20);
        assert_eq!(log.tail.iter().map(|b| b.seq).collect::<Vec<_>>(), [1, 5]);
        while !log.ops.is_empty() {
            log.on_applied();
        }
        assert_eq!((log.tail.len(), log.tail_bytes, log.applied == log.visible), (0, 0, true));
    }
}
