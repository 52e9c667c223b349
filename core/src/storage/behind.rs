//! Writing behind: changes that a mark on disk covers go to the segments, in order, one action per log at a time.
//!
//! Only appends and index entries cost a write. A truncation, trim, reset or deletion changes what is known of the segments
//! and removes files; nobody waits for that. A full disk leaves the change where it is, to be tried again.

use super::log::{Action, Effect, Log, Op};
use super::record::Kind;
use super::segment::{Placed, Segment, encode_groups};
use super::{Lsn, RETRY_MS, Store, Waiting};
use crate::disk::{Command, DiskError, FileName, Outcome};
use crate::trace::{Event, Mark};
use crate::{LogId, Now, Outputs};

/// Logs that are written behind at once.
const ACTIONS_MAX: usize = 64;
/// Bytes of one write to a segment, about.
const WRITE_BYTES: u64 = 4 << 20;

/// The commands of an action, in order.
type Commands = [Option<Command>; 2];

impl Store {
    /// The mark on disk has moved up, perhaps: what it covers may be written behind.
    pub(super) fn on_marked(&mut self) {
        while let Some((lsn, id)) = self.order.front().copied()
            && lsn <= self.journal.marked
        {
            self.order.pop_front();
            self.enqueue(id);
        }
    }

    pub(super) fn enqueue(&mut self, id: LogId) {
        if let Some(log) = self.logs.get_mut(&id)
            && !log.queued
        {
            log.queued = true;
            self.ready.push_back(id);
        }
    }

    pub(super) fn pump_behind(&mut self, out: &mut Outputs) {
        while self.behind < ACTIONS_MAX
            && let Some(id) = self.ready.pop_front()
        {
            self.advance(id, out);
        }
    }

    /// Does for one log what costs no write, and starts the next write if there is one.
    fn advance(&mut self, id: LogId, out: &mut Outputs) {
        let marked = self.journal.marked;
        let Some(log) = self.logs.get_mut(&id) else { return };
        log.queued = false;
        if log.action.is_some() {
            return;
        }
        let mut removed = Vec::new();
        // What a later change drops as a whole needs no segment: a full disk cannot keep a log from being deleted.
        let drops = |op: &Op| op.lsn <= marked && matches!(op.kind, Kind::Reset | Kind::Delete);
        let mut dropped = log.ops.iter().rposition(drops).unwrap_or(0);
        while let Some(op) = log.ops.front()
            && op.lsn <= marked
            && (op.kind != Kind::Append || dropped > 0)
        {
            apply_to_segments(id, log, &mut removed);
            self.memory -= log.on_applied().size;
            dropped = dropped.saturating_sub(1);
        }
        let commands = begin_filing(id, log).or_else(|| begin_append(id, log, marked));
        for file in removed {
            self.remove(file, out);
        }
        let Some((commands, action)) = commands else { return };
        self.behind += 1;
        if let Effect::Appended { begun: Some(_), .. } = &action.effect {
            out.event(|| Event::Sometimes(Mark::SegmentRolled));
        }
        if let Some(log) = self.logs.get_mut(&id) {
            log.action = Some(action);
        }
        for command in commands.into_iter().flatten() {
            self.issue_to_segment(command, Waiting::Behind(id), out);
        }
    }

    /// Issues a command for a segment. What it writes is taken off the room that is known to be free.
    pub(super) fn issue_to_segment(
        &mut self,
        command: Command,
        waiting: Waiting,
        out: &mut Outputs,
    ) {
        if let Command::Write { data, .. } = &command {
            let size: usize = data.iter().map(bytes::Bytes::len).sum();
            self.free = self.free.map(|free| free.saturating_sub(size as u64));
        }
        self.issue(command, waiting, out);
    }

    pub(super) fn remove(&mut self, file: FileName, out: &mut Outputs) {
        self.directory_dirty = true;
        if let FileName::Index { log, base, generation } = file {
            self.indexes.forget(log, base, generation);
        }
        self.issue(Command::Remove { file }, Waiting::Removed, out);
    }

    /// A command of a log's action has come back.
    pub(super) fn on_behind(&mut self, now: Now, id: LogId, outcome: Outcome, out: &mut Outputs) {
        let log = self.logs.get_mut(&id).expect("a log with an action stays");
        let action = log.action.as_mut().expect("an action under way");
        action.outstanding -= 1;
        if let Err(error) = outcome {
            // The first failure is the cause of those after it.
            action.failed.get_or_insert(error);
        }
        if action.outstanding > 0 {
            return;
        }
        let Action { failed, effect, .. } = log.action.take().expect("an action under way");
        self.behind -= 1;
        match failed {
            None => {}
            Some(DiskError::NoSpace) => {
                // Whether it is ever begun again is open: the log may be cut or deleted first, and nothing would know of the file.
                if let Effect::Appended { begun: Some(segment), .. } = &effect {
                    self.remove(segment.file(id), out);
                }
                self.on_full(now, out);
                self.stalled.push(id);
                let at = now.mono.after_ms(RETRY_MS);
                self.retry_at = Some(self.retry_at.map_or(at, |before| before.min(at)));
                return;
            }
            Some(DiskError::NotFound) => {
                // The file is gone from under us.
                self.damage(id, out);
                if let Some(log) = self.logs.get_mut(&id) {
                    forget_groups(log);
                }
                self.enqueue(id);
                return;
            }
            Some(error @ DiskError::Io(_)) => {
                self.halt("segment write", error, out);
                return;
            }
        }
        match effect {
            Effect::Appended { count, begun } => {
                if let Some(segment) = begun {
                    log.segments.push(segment);
                    log.generation = log.generation.wrapping_add(1);
                    self.directory_dirty = true;
                }
                let interval = u64::from(self.config.index_interval_bytes);
                for _ in 0..count {
                    let op = log.on_applied();
                    let segment = log.segments.last_mut().expect("the segment written to");
                    let (beginning, _) = op.body.prefix::<21>();
                    let Op { size, next, max_timestamp, born, .. } = op;
                    let placed = Placed { size, next, max_timestamp, born };
                    segment.push(&beginning, &placed, interval);
                    segment.dirty = true;
                    self.memory -= op.size;
                }
            }
            Effect::Filed { base, generation, count } => {
                let segment = log
                    .segments
                    .iter_mut()
                    .find(|segment| segment.base == base && segment.generation == generation)
                    .expect("segments stay while an action is under way");
                if segment.filed == 0 {
                    self.directory_dirty = true;
                }
                segment.filed += count as u32;
                segment.groups.drain(..count);
                segment.groups.shrink_to_fit();
                segment.index_dirty = true;
            }
        }
        self.enqueue(id);
    }

    /// Whether a log has written behind all up to a storage sequence.
    pub(super) fn is_applied(&self, id: LogId, seq: u64) -> bool {
        self.logs.get(&id).is_none_or(|log| log.applied_seq >= seq)
    }
}

/// A log whose file is gone knows nothing of where its groups are; it is damaged until it is reset.
fn forget_groups(log: &mut Log) {
    for segment in &mut log.segments {
        segment.closed = true;
        segment.groups = Vec::new();
    }
}

/// What the first change, which is no batch, does to the segments.
fn apply_to_segments(id: LogId, log: &mut Log, removed: &mut Vec<FileName>) {
    let Some(op) = log.ops.front() else { return };
    let (kind, at, start) = (op.kind, op.at, log.applied.start);
    let mut remove = |segment: &Segment| {
        removed.push(segment.file(id));
        removed.push(segment.index(id));
    };
    match kind {
        Kind::Truncate => {
            while let Some(segment) = log.segments.pop_if(|segment| segment.base >= at) {
                remove(&segment);
            }
            if let Some(segment) = log.segments.last_mut()
                && segment.next > at
            {
                segment.cut(at);
            }
            // Cut back to its start, the log has nothing left in the segment that the start lay in.
            let gone = log.segments.iter().take_while(|segment| segment.next <= start).count();
            log.segments.drain(..gone).for_each(|segment| remove(&segment));
        }
        Kind::Trim => {
            let gone = log.segments.iter().take_while(|segment| segment.next <= at).count();
            log.segments.drain(..gone).for_each(|segment| remove(&segment));
        }
        Kind::Reset | Kind::Delete => {
            log.segments.drain(..).for_each(|segment| remove(&segment));
            log.segments = Vec::new();
            removed.append(&mut log.kept);
        }
        Kind::Append | Kind::Forget | Kind::Put | Kind::Mark => {}
    }
}

/// The commands for index entries that had better be in a file.
fn begin_filing(id: LogId, log: &mut Log) -> Option<(Commands, Action)> {
    let segment = log.segments.iter().rev().take(2).find(|segment| segment.to_file() > 0)?;
    let count = segment.to_file();
    let file = segment.index(id);
    let create = (segment.filed == 0).then_some(Command::Create { file });
    let offset = u64::from(segment.filed) * super::segment::ENTRY as u64;
    let data = vec![encode_groups(id, segment, &segment.groups[..count])];
    let (base, generation) = (segment.base, segment.generation);
    let effect = Effect::Filed { base, generation, count };
    Some(begun(create, Command::Write { file, offset, data }, effect))
}

/// The commands for as many batches as go to one segment at once.
fn begin_append(id: LogId, log: &mut Log, marked: Lsn) -> Option<(Commands, Action)> {
    let first = log.ops.front().filter(|op| op.kind == Kind::Append && op.lsn <= marked)?;
    let rules = log.rules.as_ref()?;
    let too_late = |base, begun, op: &Op| rules.too_late(id, base, begun, op.born);
    let fits = |segment: &Segment| {
        let goes_on = segment.length + first.size <= rules.bytes
            && !too_late(segment.base, segment.begun, first);
        !segment.closed && segment.next == first.at && (segment.length == 0 || goes_on)
    };
    let active = log.segments.last().filter(|segment| fits(segment));
    // The time of a segment's first batch, which may be among these.
    let since = active.filter(|segment| segment.length > 0).map_or(first.born, |s| s.begun);
    let base = active.map_or(first.at, |segment| segment.base);
    let (file, offset, new) = match active {
        Some(segment) => (segment.file(id), segment.length, None),
        None => {
            let segment = Segment::new(first.at, log.generation);
            (segment.file(id), 0, Some(segment))
        }
    };
    let mut data = Vec::new();
    let (mut count, mut size) = (0, 0);
    for op in log.ops.iter().take_while(|op| op.kind == Kind::Append && op.lsn <= marked) {
        let full = offset + size + op.size > rules.bytes || size + op.size > WRITE_BYTES;
        if count > 0 && (full || too_late(base, since, op)) {
            break;
        }
        data.extend_from_slice(op.body.as_slice());
        count += 1;
        size += op.size;
    }
    let create = new.is_some().then_some(Command::Create { file });
    if create.is_some()
        && let Some(last) = log.segments.last_mut()
    {
        last.closed = true;
    }
    let effect = Effect::Appended { count, begun: new };
    Some(begun(create, Command::Write { file, offset, data }, effect))
}

/// An action that writes to a file, which may have to be made first.
fn begun(create: Option<Command>, write: Command, effect: Effect) -> (Commands, Action) {
    let outstanding = 1 + u8::from(create.is_some());
    ([create, Some(write)], Action { outstanding, failed: None, effect })
}
