//! Compaction: of each key the last value stays, older ones go.
//!
//! ```text
//!   Map: read what is new, ─▶ Filter: read all from the log's start on, segment by segment; ─▶ done: all keys below are known
//!   take note of its keys      │  write what stays into a new segment, sync it
//!                              ▼
//!                            swap: the new segment stands where the old ones did, in memory
//!                              ▼
//!                            two checkpoints name it: the old files go
//! ```
//!
//! - What may go is told by the keys: a record below the high watermark goes if a later one of its key is there, below it too.
//!   Never does anything of the active segment go, nor of those after one that is too young.
//! - **Offsets stay dense.** Where all records of a run of batches of one epoch have gone, one batch without records covers their
//!   offsets. So logs are matched, cut and recovered as if nothing had gone. The batches by which a producer is known stay,
//!   without records if need be: a follower learns of producers from batches alone.
//! - **The swap is the checkpoint's.** No journal record tells of it: a crash before the checkpoint leaves the old segments, which
//!   are all there, and after it the new one. Both slots must name it before an old file goes, as one of them may not read back.
//! - **Tombstones** go once their horizon has come, which their first cleaning here sets (KIP-534). A log keeps the offset up to
//!   which they have gone ([`super::Log::dropped`]): a replica that ends below it may hold what they ended.
//!
//! One log is cleaned at a time. Opening, choosing and packing is [`Work`], done beside the shard; here is only what to read, what
//! to write, and when.

mod keys;
mod work;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::log::{Log, Op};
use super::record::Kind;
use super::segment::{ENTRY, Segment, encode_groups};
use super::{ReadError, Store, StoreEvent, Ticket, Waiting};
use crate::disk::{Command, DiskError, FileName, Outcome};
use crate::trace::{Event, Mark};
use crate::{Instant, LogId, LogLevel, Now, Offset, OpId, Outputs, Timer, Timestamp};
use keys::KeyMap;
pub use work::Work;
use work::{Filtering, Kept, Mapping, Packing, Rules, Sources, Step, Task};

/// Bytes that are read and opened at once, about.
const CHUNK_BYTES: u32 = 1 << 20;

/// When a log is cleaned, and what stays.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct CleaningRules {
    /// A tombstone stays for so many milliseconds after its first cleaning (`delete.retention.ms`).
    pub delete_retention_ms: i64,
    /// Records younger than this stay as they are, milliseconds (`min.compaction.lag.ms`).
    pub min_lag_ms: i64,
    /// Records older than this are cleaned however few they are, milliseconds (`max.compaction.lag.ms`).
    pub max_lag_ms: i64,
    /// Otherwise a log is cleaned when more than this share of its bytes is new (`min.cleanable.dirty.ratio`).
    pub dirty_ratio: f64,
    /// Decompressed bytes of one batch at most; a batch that opens to more is kept as it is.
    pub opened_bytes_max: usize,
    /// Tombstones from here on stay whatever their age: a replica that copies the log has not come to them, and would have to begin
    /// again for each that goes.
    pub tombstones_go_below: Offset,
}

/// What the cleaner of a store has done since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CleanerTally {
    /// Logs that were cleaned to their end.
    pub logs: u64,
    /// Bytes read to be cleaned.
    pub read_bytes: u64,
    /// Bytes written into new segments.
    pub written_bytes: u64,
    /// Records that went.
    pub records_gone: u64,
}

/// The cleaner of a store.
#[derive(Default, Debug)]
pub(super) struct Cleaner {
    under_way: Option<Cleaning>,
    /// Old files of logs whose entry in no checkpoint names the new ones.
    retired: BTreeMap<LogId, Vec<FileName>>,
    /// Those of logs whose entry does in one slot.
    retired_once: Vec<FileName>,
    /// Bytes of segments that became old since the last checkpoint.
    retired_bytes: u64,
    pub tally: CleanerTally,
}

/// The cleaning of one log.
#[derive(Debug)]
struct Cleaning {
    log: LogId,
    /// With which change the log began: one that has begun again is another one.
    begun_seq: u64,
    limit: usize,
    tombstones_go_below: Offset,
    /// Segments to be rewritten, oldest first.
    sources: VecDeque<Source>,
    /// Where the cleanable part ends.
    upto: Offset,
    /// None while they are at work.
    keys: Option<KeyMap>,
    stage: Stage,
    wall: Timestamp,
    horizon: Timestamp,
    wait: Wait,
    /// When it may go on, if it has read and written as much as it may by now.
    resume_at: Option<Instant>,
}

/// A segment as it was when the cleaning began.
#[derive(Clone, Copy, Debug)]
struct Source {
    base: Offset,
    generation: u32,
    next: Offset,
    bytes: u64,
    begun: Timestamp,
    born: Timestamp,
}

#[derive(Debug)]
enum Stage {
    /// When all keys below are known.
    Map { mapped: Offset },
    /// When what stays goes into new segments.
    Filter { rules: Arc<Rules>, kept: Kept, rewrite: Option<Box<Rewrite>> },
}

/// Some segments that become one.
#[derive(Debug)]
struct Rewrite {
    sources: Vec<Source>,
    /// Of the new segment.
    generation: u32,
    /// None while it is at work.
    segment: Option<Segment>,
    /// All below has been read.
    at: Offset,
    synced: bool,
}

#[derive(Debug)]
enum Wait {
    /// When nothing is under way.
    Nothing,
    /// When batches are being read.
    Read(Ticket),
    /// When they have been read.
    Arrived(Result<Vec<Bytes>, ReadError>),
    /// When work is done beside the shard.
    Work(OpId),
    /// When it is done.
    Worked(Box<Task>),
    /// When so many commands of the disk are under way, of which one may have found no room.
    Disk { outstanding: u8, full: bool },
}

impl Cleaner {
    /// Whether a read is the one that it waits for.
    pub fn waits_for(&self, ticket: Ticket) -> bool {
        let wait = self.under_way.as_ref().map(|cleaning| &cleaning.wait);
        matches!(wait, Some(Wait::Read(mine)) if *mine == ticket)
    }

    /// Notes old files of a log whose entry in the checkpoint still names them.
    pub fn retire(&mut self, log: LogId, files: Vec<FileName>) {
        if !files.is_empty() {
            self.retired.entry(log).or_default().extend(files);
        }
    }

    /// The same of one that is about to name them no more.
    pub fn take_retired(&mut self, log: LogId) -> Vec<FileName> {
        self.retired.remove(&log).unwrap_or_default()
    }

    /// The newest checkpoint names them no more, the one before does.
    pub fn retire_once(&mut self, files: Vec<FileName>) {
        self.retired_once.extend(files);
    }

    /// A checkpoint is on stable storage: gives those that the one before it did not name either.
    pub fn take_retired_once(&mut self) -> Vec<FileName> {
        self.retired_bytes = 0;
        std::mem::take(&mut self.retired_once)
    }

    /// Whether a checkpoint is due for the sake of old files that wait for it: they are many, or no cleaning is under way that
    /// would make more of them soon.
    pub fn wants_checkpoint(&self, retired_bytes_max: u64) -> bool {
        let waits = !(self.retired.is_empty() && self.retired_once.is_empty());
        waits && (self.under_way.is_none() || self.retired_bytes >= retired_bytes_max)
    }

    /// Logs with old files that wait for it.
    pub fn with_retired(&self) -> BTreeSet<LogId> {
        self.retired.keys().copied().collect()
    }

    /// That read is done.
    pub fn on_read(&mut self, result: Result<Vec<Bytes>, ReadError>) {
        if let Some(cleaning) = &mut self.under_way {
            cleaning.wait = Wait::Arrived(result);
        }
    }
}

impl Source {
    fn is_of(&self, segment: &Segment) -> bool {
        (self.base, self.generation, self.next) == (segment.base, segment.generation, segment.next)
    }
}

impl Rewrite {
    fn until(&self) -> Offset {
        self.sources.last().map_or(self.at, |source| source.next)
    }

    /// Where its segments stand in a log, if all of them are still there.
    fn place(&self, log: &Log) -> Option<usize> {
        let first = self.sources.first()?;
        let at = log.segments.iter().position(|segment| first.is_of(segment))?;
        let there = log.segments[at..].iter();
        let same = self.sources.iter().zip(there).filter(|(source, segment)| source.is_of(segment));
        (same.count() == self.sources.len()).then_some(at)
    }
}

/// The segments of a log that may be cleaned: those before the active one and before the first that is too young or not committed.
fn cleanable<'a>(
    log: &'a Log,
    rules: &CleaningRules,
    wall: Timestamp,
    committed: Offset,
) -> impl Iterator<Item = &'a Segment> {
    let closed = log.segments.len().saturating_sub(1);
    let (min_lag_ms, border) = (rules.min_lag_ms, log.border());
    log.segments[..closed].iter().take_while(move |segment| {
        let is_young = min_lag_ms > 0 && wall.saturating_sub(segment.born) < min_lag_ms;
        segment.next <= committed.min(border) && !is_young
    })
}

/// Whether a change that is still to come drops all segments.
fn is_about_to_go(log: &Log) -> bool {
    log.ops.iter().any(|op: &Op| matches!(op.kind, Kind::Reset | Kind::Delete))
}

impl Store {
    /// How dirty a log is, from 0 to 1, if it is to be cleaned: the share of its cleanable bytes whose keys are not known.
    pub fn dirt(
        &self,
        id: LogId,
        rules: &CleaningRules,
        wall: Timestamp,
        committed: Offset,
    ) -> Option<f64> {
        let log = self.log(id).filter(|log| !log.is_damaged() && !is_about_to_go(log))?;
        let (mut clean, mut dirty, mut overdue) = (0, 0, false);
        for segment in cleanable(log, rules, wall, committed) {
            if segment.next <= log.cleaned() {
                clean += segment.length;
            } else {
                overdue |= wall.saturating_sub(segment.begun) > rules.max_lag_ms;
                dirty += segment.length;
            }
        }
        let ratio = dirty as f64 / (clean + dirty).max(1) as f64;
        (dirty > 0 && (overdue || ratio > rules.dirty_ratio)).then_some(ratio)
    }

    /// Whether a log is being cleaned.
    pub fn is_cleaning(&self) -> bool {
        self.cleaner.under_way.is_some()
    }

    /// Begins to clean a log, if none is being cleaned, up to what is `committed` at most. [`StoreEvent::Cleaned`] says when it is
    /// over, whatever came of it.
    pub fn clean(&mut self, id: LogId, rules: &CleaningRules, wall: Timestamp, committed: Offset) {
        let Some(log) = self.log(id).filter(|log| !log.is_damaged()) else { return };
        if self.is_cleaning() {
            return;
        }
        let sources: VecDeque<Source> = cleanable(log, rules, wall, committed)
            .map(|segment| Source {
                base: segment.base,
                generation: segment.generation,
                next: segment.next,
                bytes: segment.length,
                begun: segment.begun,
                born: segment.born,
            })
            .collect();
        let Some(last) = sources.back() else { return };
        let upto = last.next;
        let mapped = log.visible.cleaned.max(log.start());
        let records = (upto - mapped).max(0) as u64;
        self.cleaner.under_way = Some(Cleaning {
            log: id,
            begun_seq: log.begun_seq,
            limit: rules.opened_bytes_max,
            tombstones_go_below: rules.tombstones_go_below,
            sources,
            upto,
            keys: Some(KeyMap::new(self.config.cleaner_buffer_bytes, records)),
            stage: Stage::Map { mapped },
            wall,
            horizon: wall.saturating_add(rules.delete_retention_ms),
            wait: Wait::Nothing,
            resume_at: None,
        });
    }

    /// Takes work that is done. What belongs to a cleaning that was given up is nobody's any more.
    pub fn on_worked(&mut self, op: OpId, work: Work) {
        if let Some(Cleaning { wait, .. }) = &mut self.cleaner.under_way
            && matches!(wait, Wait::Work(mine) if *mine == op)
        {
            *wait = Wait::Worked(work.0);
        }
    }

    /// A command of the cleaner's has come back.
    pub(super) fn on_cleaned(&mut self, now: Now, outcome: Outcome, out: &mut Outputs) {
        match outcome {
            Ok(_) | Err(DiskError::NoSpace | DiskError::NotFound) => {}
            Err(error @ DiskError::Io(_)) => return self.halt("segment write", error, out),
        }
        if outcome == Err(DiskError::NoSpace) {
            self.on_full(now, out);
        }
        // Of a cleaning that was given up, nobody waits.
        let Some(Cleaning { wait: Wait::Disk { outstanding, full }, .. }) =
            &mut self.cleaner.under_way
        else {
            return;
        };
        *full |= outcome.is_err();
        *outstanding -= 1;
        if *outstanding == 0 {
            let full = *full;
            if let Some(cleaning) = &mut self.cleaner.under_way {
                cleaning.wait = Wait::Nothing;
            }
            if full {
                self.give_up_cleaning(out);
            }
        }
    }

    /// When a cleaning that was held up goes on.
    pub(super) fn cleaning_due(&self) -> Option<(Instant, Timer)> {
        let at = self.cleaner.under_way.as_ref()?.resume_at?;
        Some((at, Timer::Cleaning))
    }

    /// Goes on with what can go on.
    pub(super) fn pump_cleaner(&mut self, now: Now, out: &mut Outputs) {
        while let Some(cleaning) = &mut self.cleaner.under_way {
            if cleaning.resume_at.is_some_and(|at| at <= now.mono) {
                cleaning.resume_at = None;
            }
            let is_waiting =
                matches!(cleaning.wait, Wait::Read(_) | Wait::Work(_) | Wait::Disk { .. });
            if is_waiting || cleaning.resume_at.is_some() || !self.clean_on(now, out) {
                break;
            }
        }
    }

    /// Takes one step. Whether another may follow at once.
    fn clean_on(&mut self, now: Now, out: &mut Outputs) -> bool {
        let Some(cleaning) = &mut self.cleaner.under_way else { return false };
        let (id, begun_seq) = (cleaning.log, cleaning.begun_seq);
        let is_usable = |log: &Log| {
            let is_sound = log.visible.exists && !log.visible.damaged && !is_about_to_go(log);
            is_sound && log.begun_seq == begun_seq
        };
        if !self.logs.get(&id).is_some_and(is_usable) {
            self.give_up_cleaning(out);
            return false;
        }
        match std::mem::replace(&mut cleaning.wait, Wait::Nothing) {
            Wait::Nothing => {}
            Wait::Arrived(Ok(batches)) if !batches.is_empty() => return self.work(batches, out),
            // Cut or trimmed meanwhile: what is still there is looked at again.
            Wait::Arrived(Err(ReadError::Gone)) => {}
            Wait::Arrived(Ok(_) | Err(ReadError::Damaged)) => {
                self.give_up_cleaning(out);
                return false;
            }
            Wait::Worked(task) => return self.on_task(now, *task, out),
            Wait::Read(_) | Wait::Work(_) | Wait::Disk { .. } => return false,
        }
        let log = &self.logs[&id];
        match &mut cleaning.stage {
            Stage::Map { mapped } => {
                // What was trimmed meanwhile has no keys.
                let at = (*mapped).max(log.start());
                *mapped = at;
                let upto = cleaning.upto;
                if at >= upto {
                    self.begin_filter();
                } else {
                    self.read_on(at, upto, out);
                }
                true
            }
            Stage::Filter { rewrite: None, .. } => self.begin_rewrite(out),
            Stage::Filter { rewrite: Some(rewrite), .. } => {
                if rewrite.place(log).is_none() {
                    // Trimmed meanwhile, or cut: the next one may still be there.
                    self.drop_rewrite(out);
                    return true;
                }
                let (at, until, synced) = (rewrite.at, rewrite.until(), rewrite.synced);
                if at < until {
                    self.read_on(at, until, out);
                    true
                } else if !synced {
                    self.sync_rewrite(out);
                    true
                } else if log.action.is_some() {
                    false
                } else {
                    self.swap(out);
                    true
                }
            }
        }
    }

    fn read_on(&mut self, from: Offset, upto: Offset, out: &mut Outputs) {
        let ticket = self.upcoming_ticket();
        let Some(cleaning) = &mut self.cleaner.under_way else { return };
        cleaning.wait = Wait::Read(ticket);
        let log = cleaning.log;
        self.start_read(log, from, upto, CHUNK_BYTES, out);
    }

    /// Has what was read worked on.
    fn work(&mut self, batches: Vec<Bytes>, out: &mut Outputs) -> bool {
        let (secret, interval) = (self.journal.secret, u64::from(self.config.index_interval_bytes));
        let Some(cleaning) = &mut self.cleaner.under_way else { return false };
        let Some(keys) = cleaning.keys.take() else { return false };
        let sources = Sources { batches, secret, limit: cleaning.limit };
        let step = match &mut cleaning.stage {
            Stage::Map { mapped } => Step::Map(Mapping { mapped: *mapped, full: false }),
            Stage::Filter { rules, kept, rewrite } => {
                let Some(rewrite) = rewrite else { return false };
                let Some(segment) = rewrite.segment.take() else { return false };
                let last = rewrite.sources.last().expect("a rewrite has sources");
                let is_last = sources.next() >= Some(last.next);
                let born = rewrite.sources.iter().map(|source| source.born).max();
                let packing = Packing {
                    segment,
                    interval,
                    begun: rewrite.sources.first().map_or(last.begun, |first| first.begun),
                    born: born.unwrap_or(last.born),
                    is_last,
                    bytes: Vec::new(),
                };
                Step::Filter(Box::new(Filtering {
                    rules: rules.clone(),
                    kept: kept.clone(),
                    packing,
                }))
            }
        };
        let work = Work(Box::new(Task { sources, keys, step }));
        self.cleaner.tally.read_bytes += work.size() as u64;
        self.next_op += 1;
        let op = OpId(self.next_op);
        if let Some(cleaning) = &mut self.cleaner.under_way {
            cleaning.wait = Wait::Work(op);
        }
        out.work(op, work);
        true
    }

    /// Goes on with what was worked out: keys, or bytes for the new segment.
    fn on_task(&mut self, now: Now, task: Task, out: &mut Outputs) -> bool {
        let Some(cleaning) = &mut self.cleaner.under_way else { return false };
        let id = cleaning.log;
        let Task { sources, keys, step } = task;
        let mut moved = sources.batches.iter().map(Bytes::len).sum::<usize>() as u64;
        cleaning.keys = Some(keys);
        let mut commands = Vec::new();
        match (step, &mut cleaning.stage) {
            (Step::Map(Mapping { mapped: reached, full }), Stage::Map { mapped }) => {
                *mapped = reached;
                if full {
                    out.event(|| Event::Sometimes(Mark::CleanerMapFull));
                    // The rest waits for the next time.
                    cleaning.upto = reached;
                }
            }
            (Step::Filter(done), Stage::Filter { kept, rewrite: Some(rewrite), .. }) => {
                self.cleaner.tally.records_gone += done.kept.gone - kept.gone;
                if kept.unopened.is_none()
                    && let Some(offset) = done.kept.unopened
                {
                    let line = format!(
                        "partition {id:?}: the batch at offset {offset} opens to more than {} bytes and stays as it is, \
                         and no tombstone after it goes",
                        cleaning.limit
                    );
                    out.log(LogLevel::Warn, line);
                }
                *kept = done.kept;
                let Packing { mut segment, bytes, .. } = done.packing;
                rewrite.at = sources.next().unwrap_or(rewrite.at);
                let at = segment.length - bytes.len() as u64;
                let file = segment.file(id);
                if at == 0 && !bytes.is_empty() {
                    commands.push(Command::Create { file });
                }
                moved += bytes.len() as u64;
                self.cleaner.tally.written_bytes += bytes.len() as u64;
                if !bytes.is_empty() {
                    commands.push(Command::Write { file, offset: at, data: vec![bytes.into()] });
                }
                let count = segment.to_file();
                if count > 0 {
                    let file = segment.index(id);
                    if segment.filed == 0 {
                        commands.push(Command::Create { file });
                    }
                    let offset = u64::from(segment.filed) * ENTRY as u64;
                    let data = vec![encode_groups(id, &segment, &segment.groups[..count])];
                    commands.push(Command::Write { file, offset, data });
                    segment.filed += count as u32;
                    segment.groups.drain(..count);
                }
                rewrite.segment = Some(segment);
            }
            _ => {}
        }
        let ms = moved.saturating_mul(1_000) / self.config.cleaner_bytes_per_s.max(1);
        cleaning.resume_at = (ms > 0).then(|| now.mono.after_ms(ms));
        self.issue_cleaning(commands, out);
        true
    }

    fn issue_cleaning(&mut self, commands: Vec<Command>, out: &mut Outputs) {
        if let Some(cleaning) = &mut self.cleaner.under_way
            && !commands.is_empty()
        {
            cleaning.wait = Wait::Disk { outstanding: commands.len() as u8, full: false };
        }
        for command in commands {
            self.issue_to_segment(command, Waiting::Clean, out);
        }
    }

    /// All keys that there is room for are known.
    fn begin_filter(&mut self) {
        let Some(cleaning) = &mut self.cleaner.under_way else { return };
        let Some(log) = self.logs.get(&cleaning.log) else { return };
        let Stage::Map { mapped } = cleaning.stage else { return };
        // What a truncation may bring back is known too.
        let rules = Rules {
            mapped,
            tombstones_go_below: cleaning.tombstones_go_below.min(mapped),
            wall: cleaning.wall,
            horizon: cleaning.horizon,
            producers: log.visible.producers.bases(),
            known: log.visible.producers.ids(),
        };
        // Those that begin past the last key that is known have nothing that goes.
        while cleaning.sources.back().is_some_and(|source| source.base >= mapped) {
            cleaning.sources.pop_back();
        }
        cleaning.stage =
            Stage::Filter { rules: Arc::new(rules), kept: Kept::default(), rewrite: None };
    }

    /// Begins to write as many of the next segments anew as go into one; false where none is left.
    fn begin_rewrite(&mut self, out: &mut Outputs) -> bool {
        let Some(cleaning) = &mut self.cleaner.under_way else { return false };
        let Some(log) = self.logs.get_mut(&cleaning.log) else { return false };
        let (mut sources, mut bytes): (Vec<Source>, u64) = (Vec::new(), 0);
        while let Some(source) = cleaning.sources.front() {
            let adjoins = sources.last().is_none_or(|last| last.next == source.base);
            let offsets = source.next - sources.first().map_or(source.base, |first| first.base);
            let bytes_max = log.rules.map_or(u64::MAX, |rules| rules.bytes);
            let fits = bytes + source.bytes <= bytes_max && offsets <= i64::from(i32::MAX);
            if !(sources.is_empty() || adjoins && fits) {
                break;
            }
            bytes += source.bytes;
            sources.extend(cleaning.sources.pop_front());
        }
        let Some(first) = sources.first() else {
            self.finish_cleaning(out);
            return false;
        };
        // As much as that is there beside what produce must not take either, until the old segments are gone.
        if self.free.is_some_and(|free| free < bytes.saturating_add(self.config.reserve_bytes)) {
            self.give_up_cleaning(out);
            return false;
        }
        let (base, generation) = (first.base, log.generation);
        let segment = Segment::new(base, generation);
        log.generation = log.generation.wrapping_add(1);
        if let Stage::Filter { rewrite, kept, .. } = &mut cleaning.stage {
            kept.cover = None;
            let segment = Some(segment);
            let begun = Rewrite { sources, generation, segment, at: base, synced: false };
            *rewrite = Some(Box::new(begun));
        }
        true
    }

    /// The new segment is whole: it is synced, and its index.
    fn sync_rewrite(&mut self, out: &mut Outputs) {
        let Some(Cleaning { log, stage: Stage::Filter { rewrite: Some(rewrite), .. }, .. }) =
            &mut self.cleaner.under_way
        else {
            return;
        };
        rewrite.synced = true;
        let Some(segment) = &rewrite.segment else { return };
        let mut commands = vec![Command::Sync { file: segment.file(*log) }];
        if segment.filed > 0 {
            commands.push(Command::Sync { file: segment.index(*log) });
        }
        self.issue_cleaning(commands, out);
    }

    /// Puts the new segment where the old ones stood.
    fn swap(&mut self, out: &mut Outputs) {
        let Some(Cleaning { log: id, stage: Stage::Filter { kept, rewrite, .. }, .. }) =
            &mut self.cleaner.under_way
        else {
            return;
        };
        let (id, Some(log)) = (*id, self.logs.get_mut(id)) else { return };
        let Some(mut done) = rewrite.take() else { return };
        let (Some(at), Some(segment)) = (done.place(log), done.segment.take()) else { return };
        let (base, next, generation) = (segment.base, segment.next, segment.generation);
        let old = log.segments.splice(at..at + done.sources.len(), [segment]);
        let mut retired = Vec::new();
        for segment in old {
            self.cleaner.retired_bytes += segment.length;
            self.indexes.forget(id, segment.base, segment.generation);
            retired.push(segment.file(id));
            if segment.filed > 0 {
                retired.push(segment.index(id));
            }
        }
        if kept.dropped > log.visible.dropped {
            out.event(|| Event::Sometimes(Mark::CleanerDroppedTombstones));
        }
        let dropped = log.visible.dropped.max(kept.dropped);
        (log.visible.dropped, log.applied.dropped) = (dropped, dropped);
        // Who reads has begun with files that are not there for long any more.
        log.cuts += 1;
        self.directory_dirty = true;
        self.cleaner.retire(id, retired);
        out.event(|| Event::Cleaned { log: id, base, next, generation, dropped });
        out.event(|| Event::Sometimes(Mark::CleanerSwapped));
    }

    fn finish_cleaning(&mut self, out: &mut Outputs) {
        let Some(cleaning) = self.cleaner.under_way.take() else { return };
        let id = cleaning.log;
        if let (Stage::Filter { rules, kept, .. }, Some(log)) =
            (&cleaning.stage, self.logs.get_mut(&id))
        {
            let cleaned = rules.mapped.min(log.applied.end);
            log.seen = log.seen.max(cleaned);
            // A batch that stayed closed may open next time, and then has to meet all keys that are newer than its own.
            let sure = kept.unopened.map_or(cleaned, |offset| offset.min(cleaned));
            (log.visible.cleaned, log.applied.cleaned) = (sure, sure);
            self.cleaner.tally.logs += 1;
        }
        self.events.push_back(StoreEvent::Cleaned);
        out.event(|| Event::Sometimes(Mark::CleanerFinished));
    }

    /// Leaves the log as it is: what was swapped stays, and the rest waits for another time.
    fn give_up_cleaning(&mut self, out: &mut Outputs) {
        self.drop_rewrite(out);
        if self.cleaner.under_way.take().is_some() {
            self.events.push_back(StoreEvent::Cleaned);
            out.event(|| Event::Sometimes(Mark::CleanerGaveUp));
        }
    }

    /// Removes a segment that will not be put in place.
    fn drop_rewrite(&mut self, out: &mut Outputs) {
        let Some(Cleaning { log, stage: Stage::Filter { rewrite, kept, .. }, sources, .. }) =
            &mut self.cleaner.under_way
        else {
            return;
        };
        let (id, Some(dropped)) = (*log, rewrite.take()) else { return };
        kept.cover = None;
        let first = dropped.sources.first().map_or(dropped.at, |source| source.base);
        let generation = dropped.generation;
        // Some of them may be there still, and are looked at again.
        for source in dropped.sources.into_iter().rev() {
            if self.logs.get(&id).is_some_and(|log| log.segments.iter().any(|s| source.is_of(s))) {
                sources.push_front(source);
            }
        }
        for file in [
            FileName::Segment { log: id, base: first, generation },
            FileName::Index { log: id, base: first, generation },
        ] {
            self.remove(file, out);
        }
    }
}
