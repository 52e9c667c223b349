//! D5: what a checkpoint claims is true at the moment at which it is on stable storage.
//!
//! A checkpoint says how far the segments of each log hold it, and below which number no journal record is needed any more.
//! The bytes are read by the frozen layout, without core's help: segments and indexes must be flushed as far as
//! claimed, what no segment holds must stand in the journal at or above the low-water mark, and everything below the mark must
//! be flushed. Of the two slots the newer is never written to: a torn write would leave neither old nor new.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasherDefault;
use std::ops::Range;

use milena_core::disk::{Command, Directory, DiskError, FileName, Outcome};
use milena_core::{LogId, Offset, TopicId};

use super::locations::{AsItIs, Locations};
use super::marks::Seen;
use super::replica::Batch;
use super::{Checked, Checks, QUORUM, Violation};
use crate::disk::Disk;

/// A journal of one layout.
type JournalName = (u32, u16);

/// Bytes of an entry of an index.
const INDEX_ENTRY: u64 = 40;

/// What is known of the checkpoints of one life of a disk.
#[derive(Clone, Debug, Default)]
pub struct Checkpoints {
    /// Version and slot of each journal's newest checkpoint on stable storage.
    newest: BTreeMap<JournalName, (u64, u8)>,
    /// Slots that were written wholly and not synced since.
    written: BTreeSet<FileName>,
    /// Slots that are synced, whose names may not be durable yet.
    synced: BTreeSet<FileName>,
    /// Slots made since their folder was last synced. Their names may be durable all the same, left by an attempt that was cut
    /// short, while those of the journal's files are not yet.
    fresh: BTreeSet<FileName>,
    /// Up to where each file was found flushed.
    flushed: HashMap<FileName, u64, BuildHasherDefault<AsItIs>>,
    /// Files that are not needed any more, whatever an older entry says.
    removed: BTreeSet<FileName>,
}

/// A checkpoint's claims.
#[derive(Debug)]
struct Claims {
    version: u64,
    low: u64,
    mark: u64,
    entries: BTreeMap<LogId, Entry>,
}

/// What it claims of one log.
#[derive(Debug)]
struct Entry {
    /// Whether its files are as they should be.
    is_sound: bool,
    end: Offset,
    /// Each with its bytes.
    files: Vec<(FileName, u64)>,
    /// Where the state beside the log is in the checkpoint's file.
    state: Range<usize>,
}

impl Checks {
    /// A node gives a command to its disk.
    pub fn on_issued(&mut self, node: usize, command: &Command) -> Checked {
        let ghost = &mut self.nodes[node];
        let known = &mut ghost.checkpoints;
        match command {
            Command::Write {
                file: file @ FileName::Checkpoint { layout, journal, slot }, ..
            } => {
                let newest = known.newest.get(&(*layout, *journal));
                if newest.is_some_and(|(_, newest)| newest == slot) {
                    return Err(Violation::new(
                        "D5",
                        format!("node {} writes over its newest checkpoint, {file}", node + 1),
                    ));
                }
                known.written.remove(file);
                known.synced.remove(file);
            }
            Command::Write { file, offset, data } => {
                ghost.locations.on_write(*file, *offset, data);
            }
            Command::Create { file: file @ FileName::Checkpoint { layout, journal, slot } } => {
                known.newest.remove(&(*layout, *journal));
                known.synced.remove(file);
                known.fresh.insert(*file);
                if *slot == 0 {
                    ghost.locations.on_journal_begun(*layout, *journal);
                }
            }
            Command::Create { file } => {
                known.removed.remove(file);
                known.flushed.remove(file);
            }
            Command::Remove { file } => {
                known.removed.insert(*file);
            }
            _ => {}
        }
        Ok(())
    }

    /// A command of a node is done.
    pub fn on_done(
        &mut self,
        node: usize,
        disk: &Disk,
        command: &Command,
        outcome: &Outcome,
    ) -> Checked {
        self.nodes[node].disk_erred |= matches!(outcome, Err(DiskError::Io(_)));
        self.nodes[node].removal_failed |=
            matches!((command, outcome), (Command::Remove { .. }, Err(DiskError::Io(_))));
        let known = &mut self.nodes[node].checkpoints;
        match command {
            Command::Write { file: file @ FileName::Checkpoint { .. }, .. } if outcome.is_ok() => {
                known.written.insert(*file);
            }
            Command::Sync { file: file @ FileName::Checkpoint { .. } }
                if outcome.is_ok() && known.written.remove(file) =>
            {
                known.synced.insert(*file);
                return self.on_checkpoints(node, disk);
            }
            Command::SyncDirectory { directory: Directory::Journal } if outcome.is_ok() => {
                known.fresh.clear();
                return self.on_checkpoints(node, disk);
            }
            Command::Read { file, .. } if matches!(outcome, Err(DiskError::Io(_))) => {
                self.on_failed_read(node, *file, disk.has_faults());
            }
            _ => {}
        }
        Ok(())
    }

    /// Judges the checkpoints that are on stable storage by now.
    fn on_checkpoints(&mut self, node: usize, disk: &Disk) -> Checked {
        let known = &mut self.nodes[node].checkpoints;
        let durable = |file: &FileName| {
            !known.fresh.contains(file) && disk.durable_bytes(file, 0, 0).is_some()
        };
        let (judged, rest) = std::mem::take(&mut known.synced).into_iter().partition(durable);
        known.synced = rest;
        let judged: BTreeSet<FileName> = judged;
        for file in judged {
            let FileName::Checkpoint { layout, journal, slot } = file else { continue };
            let version = self.on_checkpoint(node, disk, file, (layout, journal))?;
            let newest = self.nodes[node].checkpoints.newest.entry((layout, journal)).or_default();
            *newest = (*newest).max((version, slot));
        }
        Ok(())
    }

    fn on_checkpoint(
        &mut self,
        node: usize,
        disk: &Disk,
        file: FileName,
        journal: JournalName,
    ) -> Result<u64, Violation> {
        let wrong =
            |what: String| Err(Violation::new("D5", format!("node {}, {file}: {what}", node + 1)));
        let bytes = disk.flushed_bytes(&file, 0, usize::MAX).unwrap_or_default();
        let Some(claims) = decode(bytes) else {
            return wrong("is synced and not whole".into());
        };
        if let Err(what) = self.nodes[node].checkpoints.files_are_flushed(disk, &claims) {
            return wrong(what);
        }
        if let Some(entry) = claims.entries.get(&LogId::METADATA) {
            let (offset, state) = (entry.state.start as u64, &bytes[entry.state.clone()]);
            self.nodes[node].locations.on_vote(state, file, offset);
        }
        for log in 0..self.nodes[node].logs.len() {
            let ghost = &self.nodes[node];
            let truth = &self.logs[log];
            let Some(replica) = &ghost.logs[log] else { continue };
            let entry = claims.entries.get(&truth.id);
            let is_damaged = replica.damaged || entry.is_some_and(|entry| !entry.is_sound);
            if is_damaged || truth.deleted || (log == QUORUM) != (journal.1 == 0) {
                continue;
            }
            let from = entry.map_or(replica.start, |entry| entry.end.max(replica.start));
            let first = replica.batches.partition_point(|batch| batch.next <= from);
            for batch in &replica.batches[first..] {
                let acknowledged = batch.next <= replica.durable_to;
                let at = |what| {
                    let at = self.at(node, log);
                    wrong(format!(
                        "low-water mark {}, mark {}; {what} {at} {}..{}, {}",
                        claims.low,
                        claims.mark,
                        batch.base,
                        batch.next,
                        ghost.locations.describe(truth.id, batch)
                    ))
                };
                match standing(&ghost.locations, disk, (truth.id, batch), journal, &claims) {
                    Standing::Below if acknowledged => {
                        return at(
                            "neither a segment nor the journal from its low-water mark on has",
                        );
                    }
                    Standing::Unflushed => return at("the mark covers and the disk has not"),
                    Standing::Below | Standing::Flushed | Standing::Elsewhere => {}
                }
            }
        }
        self.marks.seen(Seen::CheckpointJudged);
        Ok(claims.version)
    }
}

/// Where a batch is that no segment is claimed to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// When this journal was never given it, or not yet.
    Elsewhere,
    /// When its last copy in this journal lies below the low-water mark.
    Below,
    /// When the mark covers its copy, which is not on stable storage.
    Unflushed,
    /// When nothing is claimed of it that is not so.
    Flushed,
}

fn standing(
    locations: &Locations,
    disk: &Disk,
    (log, batch): (LogId, &Batch),
    (layout, journal): JournalName,
    claims: &Claims,
) -> Standing {
    let here = |file: &FileName| matches!(file, FileName::Journal { layout: l, journal: j, .. } if (*l, *j) == (layout, journal));
    let places = locations.places_of(log, batch).filter(|place| here(&place.file));
    match places.max_by_key(|place| place.lsn) {
        None => Standing::Elsewhere,
        Some(place) if place.lsn < claims.low => Standing::Below,
        Some(place) => {
            let covered = place.lsn <= claims.mark;
            if covered && !locations.is_durable_at(disk, place) {
                Standing::Unflushed
            } else {
                Standing::Flushed
            }
        }
    }
}

impl Checkpoints {
    fn files_are_flushed(&mut self, disk: &Disk, claims: &Claims) -> Result<(), String> {
        for entry in claims.entries.values().filter(|entry| entry.is_sound) {
            for (file, length) in &entry.files {
                let known = self.flushed.entry(*file).or_insert(0);
                if *known >= *length || self.removed.contains(file) {
                    continue;
                }
                let (from, more) = (*known as usize, (*length - *known) as usize);
                let found = disk.flushed_bytes(file, from, more).map_or(0, <[u8]>::len);
                if found < more {
                    return Err(format!(
                        "claims {length} bytes of {file}, of which {} are on stable storage",
                        from + found
                    ));
                }
                *known = *length;
            }
        }
        Ok(())
    }
}

/// Fields of a checkpoint, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }
    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }
    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }
    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}

fn decode(bytes: &[u8]) -> Option<Claims> {
    let mut fields = Fields(bytes);
    let magic = fields.take(8)?;
    let (_checksum, version) = (fields.u64()?, fields.u32()?);
    if magic != b"MILENACP" || version != 4 {
        return None;
    }
    let count = fields.u32()?;
    let (_body, number) = (fields.u64()?, fields.u64()?);
    let (low, mark) = (fields.u64()?, fields.u64()?);
    let (_seq_floor, _suspect) = (fields.u64()?, fields.u64()?);
    let mut entries = BTreeMap::new();
    for _ in 0..count {
        let (log, entry) = decode_entry(&mut fields, bytes.len())?;
        entries.insert(log, entry);
    }
    Some(Claims { version: number, low, mark, entries })
}

/// `length`: of the file, which ends where the fields do.
fn decode_entry(fields: &mut Fields<'_>, length: usize) -> Option<(LogId, Entry)> {
    let _length = fields.u32()?;
    let topic = TopicId(fields.take(16)?.try_into().ok()?);
    let log = LogId { topic, partition: fields.u32()? as i32 };
    let flags = fields.u8()?;
    let (_damaged_at, _seq, _start) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let end = fields.u64()? as Offset;
    let _generation = fields.u32()?;
    for _ in 0..fields.u32()? {
        fields.take(4 + 8)?;
    }
    let mut files = Vec::new();
    for _ in 0..fields.u32()? {
        let (base, generation) = (fields.u64()? as Offset, fields.u32()?);
        let length = fields.u64()?;
        fields.take(8 + 8 + 8 + 8 + 8 + 8 + 1)?;
        let filed = u64::from(fields.u32()?);
        let groups = fields.u32()? as usize;
        fields.take(groups.checked_mul(32)?)?;
        files.push((FileName::Segment { log, base, generation }, length));
        files.push((FileName::Index { log, base, generation }, filed * INDEX_ENTRY));
    }
    let state = fields.u32()? as usize;
    fields.take(state)?;
    let state_end = length - fields.0.len();
    let producers = fields.u32()? as usize;
    fields.take(producers)?;
    let (_cleaned, _dropped) = (fields.u64()?, fields.u64()?);
    // Of a log that exists and is not damaged.
    let is_sound = flags == 1;
    Some((log, Entry { is_sound, end, files, state: state_end - state..state_end }))
}
