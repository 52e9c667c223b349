//! Making journal files free again, oldest first.
//!
//! ```text
//!   Idle ─▶ Gathering: sync the segments that hold most of the file, and their directory; ─▶ Writing: one slot of ─▶ Idle
//!           carry the small remainder forward into the current group, wait until it is flushed     the checkpoint
//! ```
//!
//! A file is free when a checkpoint on disk has a low-water mark above it. Carrying bounds the cost of a file that very
//! many logs touched: only those with the most bytes in it are synced, until what is left is at most a quarter of a file, and
//! its copies take so few blocks that an idle journal comes to rest. The order is everything here: segments, then directory
//! and copies, then checkpoint, then reuse.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::checkpoint::{self, Head};
use super::codec::Pieces;
use super::journal::zeros;
use super::record::{BLOCK, Kind, Record, Stopped, scan};
use super::{Lsn, RETRY_MS, Store, Waiting};
use crate::disk::{Command, Directory, FileName, Outcome, Success};
use crate::trace::{Event, Mark};
use crate::{LogId, Now, Outputs};

/// A file whose remainder is carried is read in so many parts, about.
const CARRY_PARTS: usize = 16;

/// What is under way.
#[derive(Debug)]
pub(super) enum Reclaim {
    /// When enough files are free.
    Idle,
    /// When syncs or copies are under way.
    Gathering(Gathering),
    /// When the checkpoint is being written and synced.
    Writing(Writing),
}

#[derive(Debug)]
pub(super) struct Gathering {
    outstanding: usize,
    /// Entries as of the moment their syncs began.
    captured: Vec<Captured>,
    carry: Option<Carry>,
}

/// A log's entry for the next checkpoint.
#[derive(Debug)]
struct Captured {
    log: LogId,
    /// Storage sequence of the last change that its segments hold.
    seq: u64,
    entry: Bytes,
    /// Files that it names no more, since the cleaner has put others in their place.
    retired: Vec<FileName>,
}

#[derive(Debug)]
struct Carry {
    /// Index of the file in the journal.
    file: usize,
    /// Logs whose records go, those above this storage sequence.
    logs: BTreeMap<LogId, u64>,
    /// Where the next read begins.
    at: u64,
    /// The next record number that must turn up.
    next: Lsn,
    /// What was read so far. All go into the journal at once: as many groups as parts would take as many blocks.
    copies: Vec<Record>,
    /// Number of the last copy, once all are made.
    last: Option<Lsn>,
}

#[derive(Debug)]
pub(super) struct Writing {
    head: Head,
    captured: Vec<Captured>,
    /// Of the slot written to, when it is done.
    slot_bytes: u64,
    full: bool,
}

/// Most blocks that copies of so many bytes take. Each group of them may leave a part of a block empty; two that follow one
/// another are larger than the limit of a group, and the end of a file may divide one more.
fn blocks_of_copies(bytes: u64, group_bytes: u64) -> u64 {
    let groups = 2 * bytes / group_bytes.max(1) + 2;
    bytes / BLOCK as u64 + groups
}

impl Store {
    pub(super) fn pump_reclaim(&mut self, out: &mut Outputs) {
        if matches!(self.reclaim, Reclaim::Idle) && self.retry_at.is_none() {
            self.begin(out);
            // Every log that began damaged has its entry.
            let is_news = self.head.suspect && !self.suspect;
            if is_news && matches!(self.reclaim, Reclaim::Idle) && !self.is_full() {
                self.write_checkpoint(Vec::new(), out);
            }
            if matches!(self.reclaim, Reclaim::Idle)
                && self.cleaner.wants_checkpoint(self.config.segment_bytes)
            {
                self.gather(self.cleaner.with_retired(), None, out);
            }
        }
        let stuck = self.journal.is_stuck();
        if let Reclaim::Gathering(gathering) = &mut self.reclaim {
            if let Some(carry) = gathering.carry.as_ref().filter(|_| stuck) {
                // The copies wait behind records that no file can take: this file must do without.
                self.journal.files[carry.file].no_carry = true;
                gathering.carry = None;
            }
            if gathering.outstanding == 0 && gathering.carry.is_none() {
                let captured = std::mem::take(&mut gathering.captured);
                self.write_checkpoint(captured, out);
            }
        }
    }

    fn begin(&mut self, out: &mut Outputs) {
        let journal = &self.journal;
        let stuck = journal.is_stuck();
        let needed =
            stuck || journal.free_files() <= (journal.files.len() / 2).saturating_sub(1).max(1);
        // Short of space, all that can be free is made so, and in both slots: recovery copies what is not, in the room of what is.
        let short = !self.accepts_produce();
        if !needed && !short {
            return;
        }
        let Some(oldest) = journal.oldest() else {
            if short && self.low_before < self.head.low {
                self.write_checkpoint(Vec::new(), out);
            }
            return;
        };
        let file = &journal.files[oldest];
        if file.last > journal.marked {
            // A later record brings the mark; where none can be written, a checkpoint does.
            if stuck && journal.flushed > journal.marked {
                self.write_checkpoint(Vec::new(), out);
            }
            return;
        }
        // Logs with nothing to sync cost nothing; of the others, those with the most bytes.
        let mut synced = Vec::new();
        let mut captured = Vec::new();
        for (id, live) in &file.logs {
            let Some(log) = self.logs.get(id).filter(|log| log.saved_seq < live.seq) else {
                continue;
            };
            let dirty = |segment: &super::segment::Segment| segment.dirty || segment.index_dirty;
            if log.applied_seq >= live.seq && !log.segments.iter().any(dirty) {
                captured.push(*id);
            } else {
                synced.push((live.bytes, *id, live.seq));
            }
        }
        synced.sort_unstable_by_key(|(bytes, id, _)| (std::cmp::Reverse(*bytes), *id));
        let mut remainder: u64 = synced.iter().map(|(bytes, _, _)| bytes).sum();
        // What is carried is in the way again later: no end to it while nothing else needs a file, or if the copies, and the
        // mark after them, took as many blocks as the file gives back.
        let may_carry = needed && !file.no_carry && journal.free_files() > 0;
        let group_bytes = u64::from(self.config.group_bytes_max);
        let pays = |remainder| {
            let blocks = blocks_of_copies(remainder, group_bytes) + 1;
            remainder <= file.used / 4 && blocks <= file.used / BLOCK as u64 / 2
        };
        let mut count = 0;
        while count < synced.len() && !(may_carry && pays(remainder)) {
            remainder -= synced[count].0;
            count += 1;
        }
        let carried = synced.split_off(count);
        if synced.iter().any(|(_, id, seq)| !self.is_applied(*id, *seq)) {
            return; // Written behind soon, or when the disk has room again.
        }
        let logs = carried.iter().map(|(_, id, _)| (*id, self.logs[id].saved_seq)).collect();
        let carry = (!carried.is_empty()).then_some(Carry {
            file: oldest,
            logs,
            at: 0,
            next: file.first,
            copies: Vec::new(),
            last: None,
        });
        let captured: BTreeSet<LogId> =
            captured.into_iter().chain(synced.into_iter().map(|(_, id, _)| id)).collect();
        self.gather(captured, carry, out);
    }

    /// Starts the syncs, and notes what they will cover.
    fn gather(&mut self, ids: BTreeSet<LogId>, carry: Option<Carry>, out: &mut Outputs) {
        let mut files: Vec<FileName> = Vec::new();
        let mut captured = Vec::new();
        for id in ids {
            let Some(log) = self.logs.get_mut(&id) else {
                // Forgotten with its topic: no checkpoint names anything of it.
                let files = self.cleaner.take_retired(id);
                self.cleaner.retire_once(files);
                continue;
            };
            for segment in &mut log.segments {
                if std::mem::take(&mut segment.dirty) {
                    files.push(segment.file(id));
                }
                if std::mem::take(&mut segment.index_dirty) {
                    files.push(segment.index(id));
                }
            }
            let (seq, entry) = (log.applied_seq, log.entry(id, log.applied_seq));
            let retired = self.cleaner.take_retired(id);
            captured.push(Captured { log: id, seq, entry, retired });
        }
        let mut outstanding = files.len();
        for file in files {
            self.issue(Command::Sync { file }, Waiting::Gather, out);
        }
        if std::mem::take(&mut self.directory_dirty) {
            outstanding += 1;
            let directory = Directory::Segments;
            self.issue(Command::SyncDirectory { directory }, Waiting::Gather, out);
        }
        self.reclaim = Reclaim::Gathering(Gathering { outstanding, captured, carry });
        self.read_carry(self.carry_bytes(), out);
    }

    fn carry_bytes(&self) -> usize {
        (self.journal.file_bytes as usize / CARRY_PARTS).max(BLOCK)
    }

    pub(super) fn on_gathered(&mut self) {
        if let Reclaim::Gathering(gathering) = &mut self.reclaim {
            gathering.outstanding -= 1;
        }
    }

    /// Reads the next part of the file whose remainder is carried.
    fn read_carry(&mut self, length: usize, out: &mut Outputs) {
        let Reclaim::Gathering(Gathering { carry: Some(carry), outstanding, .. }) =
            &mut self.reclaim
        else {
            return;
        };
        let file = &self.journal.files[carry.file];
        let left = file.used - carry.at;
        let length = left.min(length as u64) as u32;
        let (file, offset) = (self.journal.file_name(file.index), carry.at);
        *outstanding += 1;
        self.issue(Command::Read { file, offset, length }, Waiting::Carry, out);
    }

    pub(super) fn on_carry(&mut self, outcome: Outcome, out: &mut Outputs) {
        let part = self.carry_bytes();
        let Reclaim::Gathering(gathering) = &mut self.reclaim else { return };
        gathering.outstanding -= 1;
        // Given up meanwhile.
        let Some(carry) = &mut gathering.carry else { return };
        let file = &self.journal.files[carry.file];
        let (used, last) = (file.used as usize, file.last);
        let (secret, number, generation) =
            (self.journal.secret, self.journal.number, file.generation);
        let bytes = match outcome {
            Ok(Success::Bytes(bytes)) => bytes,
            _ => Bytes::new(),
        };
        let base = carry.at as usize;
        let (next, copies) = (&mut carry.next, &mut carry.copies);
        let logs = &carry.logs;
        let stopped = scan(&bytes, base, used, &secret, number, |found| {
            let record = found.record;
            if found.generation != generation || record.lsn != *next {
                return;
            }
            *next = Lsn(record.lsn.0 + 1);
            if record.kind != Kind::Mark
                && logs.get(&record.log).is_some_and(|saved| record.seq > *saved)
            {
                let body = match record.body {
                    // Not to keep the whole part.
                    Pieces::One(bytes) => Pieces::One(Bytes::copy_from_slice(&bytes)),
                    other => other,
                };
                copies.push(Record { body, ..record });
            }
        });
        let mut again = None;
        match stopped {
            Stopped::Short { at, length } if !bytes.is_empty() => {
                carry.at += at as u64;
                again = Some(length.max(part));
            }
            _ if !bytes.is_empty() && base + bytes.len() < used => {
                carry.at += bytes.len() as u64;
                again = Some(part);
            }
            _ if carry.next > last => {}
            _ => {
                // It does not read back. The segments have all of it.
                self.journal.files[carry.file].no_carry = true;
                gathering.carry = None;
                out.event(|| Event::Sometimes(Mark::JournalCarryFailed));
                return;
            }
        }
        if let Some(length) = again {
            return self.read_carry(length, out);
        }
        for copy in std::mem::take(&mut carry.copies) {
            self.journal.push(copy);
        }
        carry.last = Some(self.journal.last_data);
        out.event(|| Event::Sometimes(Mark::JournalCarried));
        self.on_carried();
    }

    /// A group is flushed: if it holds the last copy, the file is no longer needed for those.
    pub(super) fn on_carried(&mut self) {
        let Reclaim::Gathering(gathering) = &mut self.reclaim else { return };
        let Some(carry) = &gathering.carry else { return };
        if carry.last.is_some_and(|last| last <= self.journal.flushed) {
            let file = &mut self.journal.files[carry.file];
            file.logs.retain(|id, _| !carry.logs.contains_key(id));
            gathering.carry = None;
        }
    }

    fn write_checkpoint(&mut self, captured: Vec<Captured>, out: &mut Outputs) {
        let new: BTreeMap<LogId, (u64, &Bytes)> =
            captured.iter().map(|new| (new.log, (new.seq, &new.entry))).collect();
        let saved = |id: &LogId| match new.get(id) {
            Some((seq, _)) => Some(*seq),
            None => self.logs.get(id).map(|log| log.saved_seq),
        };
        // A log that was forgotten has no record that matters.
        let low = self.journal.low(|id, seq| saved(id).is_none_or(|saved| saved >= seq));
        let entries: Vec<Bytes> = self
            .logs
            .iter()
            .map(|(id, log)| new.get(id).map_or(&log.saved, |(_, entry)| entry).clone())
            .filter(|entry| !entry.is_empty())
            .collect();
        let head = Head {
            version: self.head.version + 1,
            low,
            mark: self.journal.flushed,
            seq_floor: self.head.seq_floor,
            suspect: self.suspect,
        };
        let slot = head.slot();
        let (layout, journal) = (self.journal.layout, self.journal.number);
        let file = FileName::Checkpoint { layout, journal, slot };
        let (data, slot_bytes) = self.checkpoint_data(&head, &entries);
        self.issue(Command::Write { file, offset: 0, data }, Waiting::CheckpointWrite, out);
        self.issue(Command::Sync { file }, Waiting::CheckpointSync, out);
        self.reclaim = Reclaim::Writing(Writing { head, captured, slot_bytes, full: false });
    }

    /// A checkpoint's bytes, and how many its slot has with them. Where they no longer fit, the slot is made larger than need be,
    /// so that the next ones fit while the disk is full.
    pub(super) fn checkpoint_data(&self, head: &Head, entries: &[Bytes]) -> (Vec<Bytes>, u64) {
        let (secret, number) = (&self.journal.secret, self.journal.number);
        let mut data = checkpoint::encode(head, secret, number, entries);
        let size: u64 = data.iter().map(|piece| piece.len() as u64).sum();
        let mut slot = self.slots[usize::from(head.slot())];
        if size > slot {
            slot = (size + size / 4 + BLOCK as u64).next_multiple_of(BLOCK as u64);
            data.extend(zeros(slot - size));
        }
        (data, slot)
    }

    pub(super) fn on_checkpoint_full(&mut self, now: Now, out: &mut Outputs) {
        self.on_full(now, out);
        if let Reclaim::Writing(writing) = &mut self.reclaim {
            writing.full = true;
            self.retry_at.get_or_insert(now.mono.after_ms(RETRY_MS));
        }
    }

    /// The checkpoint is on stable storage.
    pub(super) fn on_checkpoint(&mut self, out: &mut Outputs) {
        let Reclaim::Writing(writing) = std::mem::replace(&mut self.reclaim, Reclaim::Idle) else {
            return;
        };
        if writing.full {
            // Half of it may be there. The other slot holds; the segments are synced, but nothing says so.
            for Captured { log: id, retired, .. } in writing.captured {
                if let Some(last) = self.logs.get_mut(&id).and_then(|log| log.segments.last_mut()) {
                    last.dirty = true;
                }
                self.cleaner.retire(id, retired);
            }
            return;
        }
        // What the checkpoint before this one did not name either, no slot names any more.
        for file in self.cleaner.take_retired_once() {
            self.remove(file, out);
        }
        for Captured { log: id, seq, entry, retired } in writing.captured {
            self.cleaner.retire_once(retired);
            if let Some(log) = self.logs.get_mut(&id) {
                log.saved_seq = seq;
                log.saved = entry;
                if log.applied.damaged {
                    log.saved = checkpoint::with_damage(&log.saved, log.visible.damaged_at);
                }
            }
        }
        self.slots[usize::from(writing.head.slot())] = writing.slot_bytes;
        self.low_before = self.head.low;
        self.head = writing.head;
        self.journal.marked = self.journal.marked.max(self.head.mark);
        self.on_marked();
        if self.journal.release(self.head.low) > 0 {
            out.event(|| Event::Sometimes(Mark::JournalReleased));
        }
        self.forget_deleted();
    }

    /// A deleted log is forgotten when recovery would read no record of it any more.
    fn forget_deleted(&mut self) {
        let gone: Vec<LogId> = self
            .deleted
            .iter()
            .filter(|id| {
                let Some(log) = self.logs.get(id) else { return true };
                let over = !log.visible.exists
                    && log.ops.is_empty()
                    && log.action.is_none()
                    && log.saved_seq == log.seq;
                over && !self.journal.mentions(**id)
            })
            .copied()
            .collect();
        for id in gone {
            self.deleted.remove(&id);
            if let Some(log) = self.logs.remove(&id) {
                self.head.seq_floor = self.head.seq_floor.max(log.seq);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Instant;
    use crate::storage::journal::Journal;

    #[test]
    fn copies_take_no_more_blocks_than_they_are_said_to() {
        let file_bytes = 64 * BLOCK as u64;
        for group_bytes in [1, 1_000, 4_096, 5_000, 20_000, 1 << 20] {
            for (body, count) in
                [(10, 70), (400, 9), (1_000, 40), (4_000, 7), (4_100, 9), (9_000, 4)]
            {
                let mut journal = Journal::new(1, 1, [7; 16], file_bytes);
                for _ in 0..8 {
                    journal.add_file();
                }
                let mut bytes = 0;
                for seq in 1..=count {
                    let body = Pieces::One(vec![1; body].into());
                    let (lsn, log, kind) = (Lsn(0), LogId::METADATA, Kind::Put);
                    journal.push(Record { lsn, log, seq, kind, at: 0, appended_s: 0, body });
                    bytes = journal.pending.iter().map(|record| record.size() as u64).sum();
                }
                while journal.form_group(group_bytes).is_some() {
                    journal.on_flushed(Instant(0));
                }
                let blocks = journal.live_bytes() / BLOCK as u64;
                let most = blocks_of_copies(bytes, group_bytes);
                assert!(
                    blocks <= most,
                    "{bytes} bytes in groups of {group_bytes}: {blocks} > {most}"
                );
            }
        }
    }
}
