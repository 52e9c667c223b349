//! The storage engine of one machine: a journal with group commit, segments written behind it, recovery.

use bytes::Bytes;

use crate::disk::{Command, Outcome};
use crate::{Epoch, Incarnation, Instant, LogId, Now, Offset, OpId, Outputs, Timer, Timestamp};

/// Number of a journal record: dense within one journal and layout.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Lsn(pub u64);

/// Names a read or lookup that is under way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket(pub u64);

/// The storage engine of one machine.
#[derive(Debug)]
pub struct Store {}

/// One log as the engine knows it. Ends and epochs are those of memory: what is durable is said apart.
#[derive(Debug)]
pub struct Log {}

/// The answer to [`Store::read`].
#[derive(Debug)]
pub enum Read {
    /// Whole batches, the first of which contains or follows the offset asked for; empty where there are none below the bound.
    Now(Vec<Bytes>),
    /// It comes as [`StoreEvent::Read`].
    Later(Ticket),
}

/// Why a read gave nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadError {
    /// The log was truncated, trimmed or deleted below the read meanwhile: ask again.
    Gone,
    /// The bytes are damaged; [`StoreEvent::Damaged`] says so too.
    Damaged,
}

/// What the engine has to say; taken with [`Store::pop_event`] after each call that may make one.
#[derive(Debug)]
pub enum StoreEvent {
    /// When [`Store::flushed`] has moved up.
    Flushed,
    /// When a read is done.
    Read {
        /// Which.
        ticket: Ticket,
        /// As in [`Read::Now`].
        result: Result<Vec<Bytes>, ReadError>,
    },
    /// When a lookup by time is done: the first record at or after the time, if any: offset, its timestamp, its epoch.
    Time {
        /// Which.
        ticket: Ticket,
        /// What was found.
        result: Result<Option<(Offset, Timestamp, Epoch)>, ReadError>,
    },
    /// When a command given to [`Store::command`] is done.
    Command {
        /// Which.
        op: OpId,
        /// What came of it.
        outcome: Outcome,
    },
    /// When a log's data was found damaged. It serves and takes nothing any more until [`Store::reset`].
    Damaged {
        /// Which.
        log: LogId,
    },
    /// When [`Store::has_room`] or [`Store::accepts_produce`] may have become true again.
    Room,
}

#[allow(unused_variables)]
impl Store {
    /// The log, if it was ever written to or created and not deleted since.
    pub fn log(&self, id: LogId) -> Option<&Log> {
        todo!()
    }
    /// All logs, sorted.
    pub fn logs(&self) -> Vec<LogId> {
        todo!()
    }
    /// Every journal record up to this one is on stable storage.
    pub fn flushed(&self) -> Lsn {
        todo!()
    }
    /// Whether memory allows more appends; where not, produce and pushes wait for [`StoreEvent::Room`].
    pub fn has_room(&self) -> bool {
        todo!()
    }
    /// Whether the disk allows produce (rule 10 of storage: a reserve is kept for votes, metadata and deletions).
    pub fn accepts_produce(&self) -> bool {
        todo!()
    }

    /// Makes an empty log where there is none. Costs no journal record.
    pub fn create(&mut self, id: LogId) {
        todo!()
    }
    /// `segment.bytes` of this log.
    pub fn set_segment_bytes(&mut self, id: LogId, bytes: u64) {
        todo!()
    }
    /// Puts one whole, validated batch (offsets and epoch assigned, base offset = end of the log) at the end. `batch` may be
    /// in several pieces. `leading` only goes into the event.
    pub fn append(
        &mut self,
        id: LogId,
        batch: Vec<Bytes>,
        leading: bool,
        out: &mut Outputs,
    ) -> Lsn {
        todo!()
    }
    /// Cuts everything at and past `to`, which lies on a batch border between start and end.
    pub fn truncate(&mut self, id: LogId, to: Offset, out: &mut Outputs) -> Lsn {
        todo!()
    }
    /// Moves the log start up to `start`, at most the end. Whole segments below it go.
    pub fn trim(&mut self, id: LogId, start: Offset, out: &mut Outputs) -> Lsn {
        todo!()
    }
    /// Drops all and begins again, empty, at `start`. Also ends damage. The state stays.
    pub fn reset(&mut self, id: LogId, start: Offset, out: &mut Outputs) -> Lsn {
        todo!()
    }
    /// Deletes the log with its state.
    pub fn delete(&mut self, id: LogId, out: &mut Outputs) -> Lsn {
        todo!()
    }
    /// Keeps a small state (at most 64 KiB) beside the log; the last one put is the one recovery gives back.
    pub fn put(&mut self, id: LogId, state: Bytes, out: &mut Outputs) -> Lsn {
        todo!()
    }

    /// Batches from the one that holds `from` on, all of them wholly below `upto`, as many as `bytes_max` allows but one at
    /// least. Verified (batch CRC and the checksum over the rest of the header) if they come from a segment.
    pub fn read(
        &mut self,
        id: LogId,
        from: Offset,
        upto: Offset,
        bytes_max: u32,
        out: &mut Outputs,
    ) -> Read {
        todo!()
    }
    /// The first record at or after a time, below `upto`. Always answered by [`StoreEvent::Time`].
    pub fn find_time(
        &mut self,
        id: LogId,
        time: Timestamp,
        upto: Offset,
        out: &mut Outputs,
    ) -> Ticket {
        todo!()
    }
    /// Where the log should start by `retention.ms` and `retention.bytes` (negative: no limit), never above `upto`, in
    /// steps of whole segments.
    pub fn retention_start(
        &self,
        id: LogId,
        wall: Timestamp,
        ms: i64,
        bytes: i64,
        upto: Offset,
    ) -> Offset {
        todo!()
    }

    /// Passes a command of the machine's own to the disk (snapshots).
    pub fn command(&mut self, command: Command, out: &mut Outputs) -> OpId {
        todo!()
    }
    /// Takes the outcome of a command.
    pub fn on_disk(&mut self, now: Now, op: OpId, outcome: Outcome, out: &mut Outputs) {
        todo!()
    }
    /// Starts what can be started: the next group, write-behind, a checkpoint. Called at the end of each step.
    pub fn pump(&mut self, now: Now, out: &mut Outputs) {
        todo!()
    }
    /// The next deadline of the engine.
    pub fn next_timeout(&self) -> Option<(Instant, Timer)> {
        todo!()
    }
    /// The next thing the engine has to say.
    pub fn pop_event(&mut self) -> Option<StoreEvent> {
        todo!()
    }
    /// Costly assertions.
    pub fn check_invariants(&self) {}
}

#[allow(unused_variables)]
impl Log {
    /// First offset.
    pub fn start(&self) -> Offset {
        todo!()
    }
    /// Offset after the last record, in memory.
    pub fn end(&self) -> Offset {
        todo!()
    }
    /// Offset after the last record that is on stable storage, as far as no truncation is under way below it: the end that
    /// this log would have after a power loss now, at least.
    pub fn flushed_end(&self) -> Offset {
        todo!()
    }
    /// Number of the last journal record about this log.
    pub fn last_lsn(&self) -> Lsn {
        todo!()
    }
    /// Epoch of the last record; -1 of an empty log that began at 0, or what [`Store::reset`] left unknown.
    pub fn last_epoch(&self) -> Epoch {
        todo!()
    }
    /// Epoch of the record at an offset, if it is there.
    pub fn epoch_at(&self, offset: Offset) -> Option<Epoch> {
        todo!()
    }
    /// For `OffsetForLeaderEpoch` and divergence: the largest epoch in the log at or below `epoch`, and the offset after
    /// its last record; (-1, start) where there is none.
    pub fn end_of_epoch(&self, epoch: Epoch) -> (Epoch, Offset) {
        todo!()
    }
    /// First offset at or past `from` whose record has an epoch older than `epoch`, if any.
    pub fn first_older(&self, from: Offset, epoch: Epoch) -> Option<Offset> {
        todo!()
    }
    /// Start offset of the batch that holds an offset in memory or index, for checks: whether `offset` is a batch border is
    /// known for borders of epochs, the start and the end.
    pub fn is_damaged(&self) -> bool {
        todo!()
    }
    /// What [`Store::put`] kept; empty if nothing.
    pub fn state(&self) -> &Bytes {
        todo!()
    }
    /// Bytes of all segments and of what is not yet in them.
    pub fn bytes(&self) -> u64 {
        todo!()
    }
    /// Largest timestamp of a record and its offset, if the log is not empty.
    pub fn max_timestamp(&self) -> Option<(Timestamp, Offset)> {
        todo!()
    }
}

/// What a disk says of itself. Both copies of it are written again at every start, before anything is believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// Whose directory this is.
    pub node: crate::NodeId,
    /// This life of the disk.
    pub incarnation: Incarnation,
    /// Number of the journals' layout.
    pub layout: u32,
    /// Shards of that layout.
    pub shards: u16,
    /// Salt of the journals' checksums.
    pub secret: [u8; 16],
}

/// What recovery hands over.
#[derive(Debug)]
pub struct Recovered {
    /// The disk's own description.
    pub superblock: Superblock,
    /// Whether this is a first boot: no file of ours was there.
    pub empty: bool,
    /// Whether the quorum's journal was damaged, so that the incarnation is a new one and the metadata log is empty.
    pub quorum_damaged: bool,
    /// The quorum's engine.
    pub metadata: Store,
    /// The shards' engines, as many as the configuration says.
    pub shards: Vec<Store>,
}

mod recovery;
pub use recovery::Recovery;
