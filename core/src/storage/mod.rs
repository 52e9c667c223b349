//! The storage engine of one machine: a journal with group commit, segments written behind it, recovery.
//!
//! Every change of a log (a batch, a truncation, a trim, a reset, a deletion, a new state) is a record of the journal, and
//! one sync covers all that waited. Segments are written behind it, and a checkpoint says what they hold, so that journal
//! files can be used again. [`Recovery`] puts all of it together after any crash.
//!
//! | file | holds |
//! |---|---|
//! | `record` | a journal record as bytes, and the scan that goes on past damage |
//! | `journal` | groups, files in a circle, the mark |
//! | `log` | one log in memory: shape, changes under way, tail |
//! | `producers` | what a log knows of its idempotent producers |
//! | `age` | from when records count for retention, and when a segment ends |
//! | `segment` | a segment and its index; planning and verifying a read |
//! | `behind` | writing behind: from changes to segments |
//! | `reclaim` | making journal files free: syncing segments, carrying remainders forward, checkpoints |
//! | `reads` | reads and lookups by time |
//! | `clean` | compaction: of each key the last value stays |
//! | `checkpoint`, `superblock` | their bytes |
//! | `recovery` | the steps of a start |
//! | `reading`, `replay`, `restore` | what a disk's files hold, what that amounts to, engines out of it |
//!
//! What is not here: who may append what (replicas and quorum decide), when a log is cleaned (its settings say), scrubbing.

mod age;
mod behind;
mod checkpoint;
mod clean;
mod codec;
mod journal;
mod log;
mod producers;
mod reading;
mod reads;
mod reclaim;
mod record;
mod recovery;
mod replay;
mod restore;
mod segment;
mod superblock;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use milena_wire::batch::{BatchHeader, HEADER_LEN};

pub use clean::{CleanerTally, CleaningRules, Work};
pub use log::{Beginning, Log};
pub use producers::{KnownBatch, ProducerView, SequenceError};
pub use recovery::{Recovered, Recovery};
pub use superblock::Superblock;
pub use view::StoreView;

use crate::config::StorageConfig;
use crate::disk::{Command, DiskError, Outcome, Success};
use crate::trace::{Event, Mark};
use crate::{
    Epoch, Halt, Instant, LogId, Now, Offset, OpId, Outputs, ProducerId, Timer, Timestamp,
};
pub use age::{AFTER_MAX_MS, SegmentRules};
use codec::Pieces;
use journal::Journal;
use log::Op;
use producers::{Produced, encode_ids};
use record::{Kind, Record};

/// A write or create that found no room, or a checkpoint, is tried again after this long.
const RETRY_MS: u64 = 250;
/// Free space is measured this often.
const FREE_SPACE_MS: u64 = 5_000;

/// Number of a journal record: dense within one journal and layout.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Lsn(pub u64);

/// Names a read or lookup that is under way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket(pub u64);

/// The storage engine of one machine.
#[derive(Debug)]
pub struct Store {
    config: StorageConfig,
    logs: BTreeMap<LogId, Log>,
    journal: Journal,
    /// What each command under way is for.
    waiting: BTreeMap<OpId, Waiting>,
    next_op: u64,
    next_ticket: u64,
    events: VecDeque<StoreEvent>,
    /// Bytes of changes that the segments do not hold yet.
    memory: u64,
    halted: bool,

    /// Changes by number, to be written behind once the mark covers them.
    order: VecDeque<(Lsn, LogId)>,
    /// Logs with something to write behind.
    ready: VecDeque<LogId>,
    /// Logs whose last attempt found no room.
    stalled: Vec<LogId>,
    retry_at: Option<Instant>,
    /// Actions of logs under way.
    behind: usize,
    /// Segments or indexes were created or removed since the directory was last synced.
    directory_dirty: bool,

    reclaim: reclaim::Reclaim,
    /// What the checkpoint in force says.
    head: checkpoint::Head,
    /// Whether there may be logs that recovery could not know of, until all are asked for.
    suspect: bool,
    /// Low-water mark of the checkpoint before.
    low_before: Lsn,
    /// Bytes that the slots of the checkpoint have on the disk.
    slots: [u64; 2],
    /// Deleted logs that still have a checkpoint entry.
    deleted: BTreeSet<LogId>,

    reads: BTreeMap<Ticket, reads::Job>,
    indexes: reads::Indexes,
    cleaner: clean::Cleaner,

    /// Free bytes of the file system when last measured, less what was written since.
    free: Option<u64>,
    measure_at: Option<Instant>,
    measuring: bool,
}

/// What a command under way is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Waiting {
    /// The write or sync of the group in flight.
    Group,
    /// Filling a journal file, which then has so many bytes.
    Fill(u64),
    /// A command of a log's action.
    Behind(LogId),
    /// A removal, whose failure leaves an orphan for the next recovery.
    Removed,
    /// A sync of a segment, an index or their directory for the checkpoint.
    Gather,
    /// A part of a journal file whose remainder is carried forward.
    Carry,
    /// Writing the checkpoint.
    CheckpointWrite,
    /// Syncing it.
    CheckpointSync,
    /// A read of a segment or index.
    Read(Ticket),
    /// A command for a segment that the cleaner makes.
    Clean,
    /// A command that came in by [`Store::command`].
    Command,
    /// Free space.
    Free,
}

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
    /// When the cleaner is done with a log, or has given it up.
    Cleaned,
    /// When a log's data was found damaged. It serves and takes nothing any more until [`Store::reset`].
    Damaged {
        /// Which.
        log: LogId,
    },
}

impl Store {
    fn new(config: &StorageConfig, journal: Journal, head: checkpoint::Head) -> Store {
        Store {
            config: config.clone(),
            logs: BTreeMap::new(),
            journal,
            waiting: BTreeMap::new(),
            next_op: 0,
            next_ticket: 0,
            events: VecDeque::new(),
            memory: 0,
            halted: false,
            order: VecDeque::new(),
            ready: VecDeque::new(),
            stalled: Vec::new(),
            retry_at: None,
            behind: 0,
            directory_dirty: false,
            reclaim: reclaim::Reclaim::Idle,
            suspect: head.suspect,
            head,
            low_before: Lsn(0),
            slots: [0; 2],
            deleted: BTreeSet::new(),
            reads: BTreeMap::new(),
            indexes: reads::Indexes::default(),
            cleaner: clean::Cleaner::default(),
            free: None,
            measure_at: None,
            measuring: false,
        }
    }

    /// The log, if it was ever written to or created and not deleted since.
    pub fn log(&self, id: LogId) -> Option<&Log> {
        self.logs.get(&id).filter(|log| log.visible.exists)
    }

    /// All logs, sorted.
    pub fn logs(&self) -> Vec<LogId> {
        self.logs.iter().filter(|(_, log)| log.visible.exists).map(|(id, _)| *id).collect()
    }

    /// Every journal record up to this one is on stable storage.
    pub fn flushed(&self) -> Lsn {
        self.journal.flushed
    }

    /// Every journal record up to this one is covered by a mark that is itself on stable storage, for checkers: damage to
    /// these is seen as such, whatever comes. At most [`Store::flushed`].
    pub fn marked(&self) -> Lsn {
        self.journal.marked
    }

    /// Whether memory and journal allow more appends; where not, produce and pushes wait.
    pub fn has_room(&self) -> bool {
        self.memory < self.config.memory_bytes_max && self.journal.has_room()
    }

    /// Whether the disk allows produce: beyond a second copy of all live journal records, a reserve is kept for votes,
    /// metadata and deletions, and for the journal files that are to be filled ahead: what no file has room for would be taken
    /// and never written.
    pub fn accepts_produce(&self) -> bool {
        let reserve = self.config.reserve_bytes.max(self.journal.missing_ahead());
        let needed = reserve.saturating_add(self.journal.live_bytes());
        self.free.is_none_or(|free| free >= needed)
    }

    /// Whether the disk has nothing left, as far as is known: what can wait should not be tried now.
    pub fn is_full(&self) -> bool {
        self.free == Some(0)
    }

    /// Makes an empty log where there is none. Costs no journal record. After a start that found this journal damaged, a log
    /// that recovery did not find may be one that it could not find: it begins damaged, until [`Store::all_asked_for`].
    pub fn create(&mut self, id: LogId, out: &mut Outputs) {
        if self.log(id).is_some() {
            return;
        }
        let suspect = self.suspect;
        let log = self.log_mut(id);
        log.visible.exists = true;
        if suspect && log.saved.is_empty() && log.ops.is_empty() {
            log.visible.damaged = true;
            log.visible.damaged_at = log.seq;
            log.applied = log.visible.clone();
            // Every checkpoint from here on says it: the next may be the first that suspects nothing any more.
            log.saved_seq = log.seq;
            log.saved = log.entry(id, log.seq);
            self.events.push_back(StoreEvent::Damaged { log: id });
            out.event(|| Event::Damaged { log: id });
        }
    }

    /// Every log that may be on this disk has been asked for with [`Store::create`] since the start: what is created from
    /// now on is new. A checkpoint says so to later starts.
    pub fn all_asked_for(&mut self) {
        self.suspect = false;
        let rules = SegmentRules::of_bytes(self.config.segment_bytes);
        let unknown = self.logs.iter().filter(|(_, log)| log.rules.is_none());
        let unknown: Vec<LogId> = unknown.map(|(id, _)| *id).collect();
        unknown.into_iter().for_each(|id| self.set_segment_rules(id, rules));
    }

    fn log_mut(&mut self, id: LogId) -> &mut Log {
        let rules = SegmentRules::of_bytes(self.config.segment_bytes);
        let floor = self.head.seq_floor;
        self.logs.entry(id).or_insert_with(|| Log::new(Some(rules), floor))
    }

    /// When this log's segments end, from now on.
    pub fn set_segment_rules(&mut self, id: LogId, rules: SegmentRules) {
        if let Some(log) = self.logs.get_mut(&id) {
            let waited = log.rules.replace(rules).is_none();
            if waited {
                self.enqueue(id);
            }
        }
    }

    /// Puts one whole, validated batch (offsets and epoch assigned, base offset = end of the log) at the end, whose header is
    /// this. It may be in pieces. It counts from `wall` for retention if its own time cannot be believed. No truncation goes
    /// below what is `committed`. `leading` only goes into the event.
    pub fn append(
        &mut self,
        id: LogId,
        header: &BatchHeader,
        batch: &[Bytes],
        wall: Timestamp,
        committed: Offset,
        leading: bool,
        out: &mut Outputs,
    ) -> Lsn {
        let body = Pieces::new(batch);
        debug_assert_eq!(BatchHeader::parse(&body.prefix::<HEADER_LEN>().0), Ok(*header));
        assert_eq!(header.size(), body.size(), "one whole batch of {id:?}");
        let (base, next) = (header.base_offset, header.next_offset());
        let by_default = SegmentRules::of_bytes(self.config.segment_bytes);
        let log = self.log_mut(id);
        let rules = log.rules.unwrap_or(by_default);
        let (end, appended_s) = (log.end(), rules.appended_s(header.max_timestamp, wall));
        assert!(base == end && next > base, "{id:?} ends at {end}, not {base}..{next}");
        let epoch = header.partition_leader_epoch;
        let size = header.size() as u64;
        let (crc, max_timestamp) = (header.crc, segment::largest_time(header));
        let born = age::born(max_timestamp, appended_s, wall);
        let produced = Produced::of(header);
        out.event(|| Event::Appended {
            log: id,
            base,
            next,
            epoch,
            crc,
            size: size as u32,
            max_timestamp,
            born,
            produced: produced.map(|of| (of.producer, of.epoch, of.base_sequence)),
            leading,
        });
        let op = Op {
            lsn: Lsn(0),
            seq: 0,
            kind: Kind::Append,
            at: base,
            next,
            epoch,
            max_timestamp,
            born,
            appended: wall,
            committed,
            produced,
            body,
            size,
        };
        let lsn = self.submit(id, op, appended_s);
        if produced.is_some() {
            self.bound_producers(id, committed, out);
        }
        lsn
    }

    /// Forgets the producers beyond the most that a log may know: those whose last batch lies lowest.
    fn bound_producers(&mut self, id: LogId, committed: Offset, out: &mut Outputs) {
        let Some(log) = self.logs.get(&id) else { return };
        let producers = &log.visible.producers;
        let beyond = producers.len().saturating_sub(self.config.producer_ids_max as usize);
        if beyond > 0 {
            let lowest = producers.lowest(beyond);
            self.forget(id, &lowest, committed, out);
        }
    }

    /// Forgets the producers that have appended nothing to a log for long, by this node's clock, and what was kept for
    /// truncations below `committed`.
    pub fn expire_producers(
        &mut self,
        id: LogId,
        wall: Timestamp,
        committed: Offset,
        out: &mut Outputs,
    ) {
        let Some(log) = self.log(id).filter(|log| !log.is_damaged()) else { return };
        let producers = &log.visible.producers;
        let last = wall.saturating_sub(self.config.producer_id_expiration_ms);
        let silent = producers.silent_since(last);
        if !silent.is_empty() || producers.is_unsettled(committed) {
            self.forget(id, &silent, committed, out);
        }
    }

    fn forget(
        &mut self,
        id: LogId,
        producers: &[ProducerId],
        committed: Offset,
        out: &mut Outputs,
    ) {
        for &producer in producers {
            out.event(|| Event::Forgot { log: id, producer });
        }
        let body = match producers {
            [] => Pieces::None,
            ids => Pieces::One(encode_ids(ids)),
        };
        let end = self.log_mut(id).end();
        self.submit(id, Op { committed, ..Op::new(Kind::Forget, end, body) }, 0);
    }

    /// Cuts everything at and past `to`, which lies on a batch border between start and end.
    pub fn truncate(&mut self, id: LogId, to: Offset, out: &mut Outputs) -> Lsn {
        let log = self.log_mut(id);
        assert!(to >= log.start() && to <= log.end(), "truncation of {id:?} to {to}: {log:?}");
        out.event(|| Event::Truncated { log: id, to });
        self.change(id, Kind::Truncate, to, Pieces::None)
    }

    /// Moves the log start up to `start`, at most the end. Whole segments below it go.
    pub fn trim(&mut self, id: LogId, start: Offset, out: &mut Outputs) -> Lsn {
        let log = self.log_mut(id);
        let start = start.min(log.end());
        if start <= log.start() {
            return log.last_lsn;
        }
        out.event(|| Event::Trimmed { log: id, start });
        out.event(|| Event::Sometimes(Mark::LogTrimmed));
        self.change(id, Kind::Trim, start, Pieces::None)
    }

    /// Drops all and begins again, empty, at `start`. Also ends damage. The state stays.
    pub fn reset(&mut self, id: LogId, start: Offset, out: &mut Outputs) -> Lsn {
        out.event(|| Event::Reset { log: id, start });
        self.change(id, Kind::Reset, start, Pieces::None)
    }

    /// The same for a log that goes on where another begins, with what it takes over from that one ([`Log::beginning_at`]); none
    /// where that says no such thing.
    pub fn begin_at(
        &mut self,
        id: LogId,
        start: Offset,
        begun: &Beginning,
        wall: Timestamp,
        out: &mut Outputs,
    ) -> Option<Lsn> {
        if *begun == Beginning::default() {
            return Some(self.reset(id, start, out));
        }
        if !begun.fits(start) {
            return None;
        }
        out.event(|| Event::Reset { log: id, start });
        let op = Op::new(Kind::Reset, start, Pieces::One(begun.encode()));
        Some(self.submit(id, Op { appended: wall, ..op }, age::seconds(wall)))
    }

    /// Deletes the log with its state.
    pub fn delete(&mut self, id: LogId, out: &mut Outputs) -> Lsn {
        out.event(|| Event::Deleted { log: id });
        self.deleted.insert(id);
        self.change(id, Kind::Delete, 0, Pieces::None)
    }

    /// Keeps a small state (at most 64 KiB) beside the log; the last one put is the one recovery gives back.
    pub fn put(&mut self, id: LogId, state: Bytes) -> Lsn {
        assert!(state.len() <= 64 << 10, "a state of {} bytes", state.len());
        let body = if state.is_empty() { Pieces::None } else { Pieces::One(state) };
        self.change(id, Kind::Put, 0, body)
    }

    fn change(&mut self, id: LogId, kind: Kind, at: Offset, body: Pieces) -> Lsn {
        self.submit(id, Op::new(kind, at, body), 0)
    }

    /// Gives a change its numbers and puts it everywhere.
    fn submit(&mut self, id: LogId, mut op: Op, appended_s: u32) -> Lsn {
        self.memory += op.size;
        op.seq = self.log_mut(id).seq + 1;
        let (lsn, log, seq, kind, at, body) = (Lsn(0), id, op.seq, op.kind, op.at, op.body.clone());
        let lsn = self.journal.push(Record { lsn, log, seq, kind, at, appended_s, body });
        op.lsn = lsn;
        self.log_mut(id).submit(op);
        self.order.push_back((lsn, id));
        lsn
    }

    /// Passes a command of the machine's own to the disk (snapshots).
    pub fn command(&mut self, command: Command, out: &mut Outputs) -> OpId {
        self.issue(command, Waiting::Command, out)
    }

    fn issue(&mut self, command: Command, waiting: Waiting, out: &mut Outputs) -> OpId {
        self.next_op += 1;
        let op = OpId(self.next_op);
        self.waiting.insert(op, waiting);
        out.disk(op, command);
        op
    }

    /// Takes the outcome of a command.
    pub fn on_disk(&mut self, now: Now, op: OpId, outcome: Outcome, out: &mut Outputs) {
        if self.halted {
            return;
        }
        let waiting = self.waiting.remove(&op).expect("the outcome of a command of ours, once");
        match (waiting, outcome) {
            (Waiting::Group, Ok(_)) => self.on_group(now),
            (Waiting::Group, Err(error)) => self.halt("journal", error, out),
            (Waiting::Fill(length), outcome) => self.on_filled(now, length, outcome, out),
            (Waiting::Behind(log), outcome) => self.on_behind(now, log, outcome, out),
            (Waiting::Removed, _) => {}
            (Waiting::Gather, Ok(_)) => self.on_gathered(),
            (Waiting::Gather, Err(error)) => self.halt("segment sync", error, out),
            (Waiting::Carry, outcome) => self.on_carry(outcome, out),
            (Waiting::CheckpointWrite, Ok(_)) => {}
            (Waiting::CheckpointWrite, Err(DiskError::NoSpace)) => {
                self.on_checkpoint_full(now, out)
            }
            (Waiting::CheckpointSync, Ok(_)) => self.on_checkpoint(out),
            (Waiting::CheckpointWrite | Waiting::CheckpointSync, Err(error)) => {
                self.halt("checkpoint", error, out);
            }
            (Waiting::Read(ticket), outcome) => self.on_read(ticket, outcome, out),
            (Waiting::Clean, outcome) => self.on_cleaned(now, outcome, out),
            (Waiting::Command, outcome) => {
                if outcome == Err(DiskError::NoSpace) {
                    self.on_full(now, out);
                }
                self.events.push_back(StoreEvent::Command { op, outcome });
            }
            (Waiting::Free, outcome) => {
                self.measuring = false;
                if let Ok(Success::Free(free)) = outcome {
                    self.free = Some(free);
                }
                let pause = if self.accepts_produce() { FREE_SPACE_MS } else { RETRY_MS };
                self.measure_at = Some(now.mono.after_ms(pause));
            }
        }
    }

    /// The group in flight has come one command further.
    fn on_group(&mut self, now: Now) {
        let flight = self.journal.flight.as_mut().expect("a group in flight");
        flight.outstanding -= 1;
        if flight.outstanding > 0 {
            return;
        }
        let flight = self.journal.on_flushed(now.mono);
        for id in self.journal.flown.drain(..) {
            if let Some(log) = self.logs.get_mut(&id) {
                log.on_flushed(flight.last);
            }
        }
        self.events.push_back(StoreEvent::Flushed);
        self.on_carried();
        self.on_marked();
    }

    fn halt(&mut self, what: &str, error: DiskError, out: &mut Outputs) {
        self.halted = true;
        out.halt(Halt::Disk(format!("{what}: {error}")));
    }

    /// Something found no room on the disk: until it is measured again, there is none.
    fn on_full(&mut self, now: Now, out: &mut Outputs) {
        out.event(|| Event::Sometimes(Mark::DiskFull));
        self.free = Some(0);
        self.measure_at = Some(now.mono.after_ms(RETRY_MS));
    }

    /// Fills a journal file ahead of its use: a shard's for produce, the quorum's once it has come past its first one.
    fn pump_fill(&mut self, out: &mut Outputs) {
        let journal = &self.journal;
        let ahead = if journal.number == 0 { journal.has_turned() } else { !self.logs.is_empty() };
        let Some((index, offset, length)) = journal.to_fill(ahead) else { return };
        if self.free.is_some_and(|free| free < length) {
            return;
        }
        self.free = self.free.map(|free| free - length);
        let file = journal.file_name(index as u32);
        self.journal.filling = Some(index);
        self.issue(Command::Fill { file, offset, length }, Waiting::Fill(offset + length), out);
    }

    fn on_filled(&mut self, now: Now, length: u64, outcome: Outcome, out: &mut Outputs) {
        let file = self.journal.filling.take().expect("a file that was being filled");
        match outcome {
            Ok(_) => self.journal.files[file].allocated = length,
            Err(DiskError::NoSpace) => self.on_full(now, out),
            Err(error) => self.halt("journal", error, out),
        }
    }

    /// Starts what can be started: the next group, write-behind, a checkpoint. Called at the end of each step.
    pub fn pump(&mut self, now: Now, out: &mut Outputs) {
        if self.halted {
            return;
        }
        if self.retry_at.is_some_and(|at| at <= now.mono) {
            self.retry_at = None;
            for id in std::mem::take(&mut self.stalled) {
                self.enqueue(id);
            }
        }
        if !self.accepts_produce() {
            // What was free when it was measured may have sufficed then. Nobody is refused for long by what is not so any more.
            let soon = now.mono.after_ms(RETRY_MS);
            self.measure_at = self.measure_at.map(|at| at.min(soon));
        }
        if self.measure_at.is_none_or(|at| at <= now.mono) && !self.measuring {
            self.measuring = true;
            self.issue(Command::FreeSpace, Waiting::Free, out);
        }
        self.pump_fill(out);
        self.pump_reclaim(out);
        if self.mark_at().is_some_and(|at| at <= now.mono) {
            self.journal.push(Record::mark());
        }
        self.pump_group(out);
        self.pump_cleaner(now, out);
        self.pump_behind(out);
    }

    fn pump_group(&mut self, out: &mut Outputs) {
        let Some(group) = self.journal.form_group(u64::from(self.config.group_bytes_max)) else {
            return;
        };
        if let Some(again) = group.begins {
            let (journal, files) = (self.journal.number, self.journal.files.len() as u32);
            out.event(|| Event::JournalTurned { journal, files, again });
            if again {
                out.event(|| Event::Sometimes(Mark::JournalRecycled));
            }
        }
        let (file, offset, data) = (group.file, group.offset, group.data);
        self.issue(Command::Write { file, offset, data }, Waiting::Group, out);
        self.issue(Command::Sync { file }, Waiting::Group, out);
        if let Some(flight) = &mut self.journal.flight {
            flight.outstanding = 2;
        }
    }

    /// When an idle journal writes one more mark, if it has anything that no mark covers.
    fn mark_at(&self) -> Option<Instant> {
        let journal = &self.journal;
        let idle = journal.flight.is_none() && journal.pending.is_empty();
        (idle && journal.last_data > journal.marked)
            .then(|| journal.idle_since.after_ms(self.config.idle_mark_ms))
    }

    /// The next deadline of the engine.
    pub fn next_timeout(&self) -> Option<(Instant, Timer)> {
        if self.halted {
            return None;
        }
        let mark = self.mark_at().map(|at| (at, Timer::IdleMark));
        let retry = self.retry_at.map(|at| (at, Timer::DiskRetry));
        let measure = self.measure_at.filter(|_| !self.measuring).map(|at| (at, Timer::FreeSpace));
        mark.into_iter().chain(retry).chain(measure).chain(self.cleaning_due()).min()
    }

    /// Whether the engine has something to say.
    pub fn has_event(&self) -> bool {
        !self.events.is_empty()
    }

    /// The next thing the engine has to say.
    pub fn pop_event(&mut self) -> Option<StoreEvent> {
        self.events.pop_front()
    }

    /// A log's data does not read back as it was written.
    fn damage(&mut self, id: LogId, out: &mut Outputs) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        if log.visible.damaged || !log.visible.exists {
            return;
        }
        log.visible.damaged = true;
        log.applied.damaged = true;
        (log.visible.damaged_at, log.applied.damaged_at) = (log.seq, log.seq);
        // Nothing more goes into files that may be damaged, or gone.
        if let Some(last) = log.segments.last_mut() {
            last.closed = true;
        }
        if !log.saved.is_empty() {
            log.saved = checkpoint::with_damage(&log.saved, log.seq);
        }
        self.events.push_back(StoreEvent::Damaged { log: id });
        out.event(|| Event::Damaged { log: id });
    }

    /// Costly assertions.
    pub fn check_invariants(&self) {
        let journal = &self.journal;
        assert!(journal.marked <= journal.flushed, "a mark ahead of the flush");
        assert!(journal.flushed < journal.next_written(), "flushed what was never written");
        let mut memory = 0;
        for (id, log) in &self.logs {
            memory += log.ops.iter().map(|op| op.size).sum::<u64>();
            assert_eq!(
                log.tail_bytes,
                log.tail.iter().map(|batch| batch.size).sum::<u64>(),
                "{id:?}"
            );
            let mut shape = log.applied.clone();
            log.ops.iter().for_each(|op| shape.apply(op));
            // A log that was created has no record of it, and damage is nobody's change.
            shape.exists = log.visible.exists;
            (shape.damaged, shape.damaged_at) = (log.visible.damaged, log.visible.damaged_at);
            assert_eq!(shape, log.visible, "{id:?}");
            assert!(log.flushed_end <= log.visible.end || log.cuts_unflushed > 0, "{id:?}");
            let mut next = log.border();
            for batch in &log.tail {
                assert_eq!(batch.base, next, "{id:?}");
                next = batch.next;
            }
            assert_eq!(next, log.visible.end, "{id:?}");
        }
        assert_eq!(memory, self.memory, "bytes in memory");
    }
}
