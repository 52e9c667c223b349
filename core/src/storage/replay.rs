//! What the journals of a disk amount to: pure, from what was read to what each log is.
//!
//! A bad record ends nothing. Every number from the checkpoint's low-water mark to the highest mark must be there; a missing
//! one is damage of all logs of that journal, since nobody knows whose it was. Above the highest mark the first missing
//! number is a torn tail, and everything from there on is cut, good records too. Then each log's changes are put in the order of its
//! storage sequence, whatever journal they stand in.

use std::collections::{BTreeMap, BTreeSet};

use super::checkpoint::{Checkpoint, Entry};
use super::log::Shape;
use super::record::{Found, Kind, Record};
use crate::LogId;
use crate::disk::FileName;

/// One journal as it was read.
#[derive(Debug, Default)]
pub(super) struct Image {
    /// The newer of the good slots.
    pub checkpoint: Option<Checkpoint>,
    /// Every good record of every file, in any order.
    pub found: Vec<Found>,
    /// A file of it could not be read. The marks that cover its records may stand in it too, so that nothing else says that
    /// they are missing.
    pub is_unread: bool,
}

/// One log as it was found.
#[derive(Debug, Default)]
pub(super) struct Restored {
    pub entry: Option<Entry>,
    /// Changes above the entry, in order and without gaps.
    pub replay: Vec<Record>,
    pub damaged: bool,
    /// Highest storage sequence seen of it.
    pub seq: u64,
}

#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub logs: BTreeMap<LogId, Restored>,
    /// The quorum's journal cannot be believed; the log of the metadata is not in `logs`.
    pub quorum_damaged: bool,
    /// A shard's journal was damaged: there may be logs that nothing here knows of.
    pub suspect: bool,
    pub seq_floor: u64,
    /// Bad records above the marks were cut.
    pub torn: bool,
}

/// The journal that owns a log in a layout with this many shards.
pub(super) fn journal_of(log: LogId, shards: u16) -> u16 {
    if log == LogId::METADATA || log == LogId::BROKER { 0 } else { 1 + log.shard(shards) }
}

/// Makes sense of all journals of a layout. `files`: all segments and indexes on the disk.
pub(super) fn merge(images: Vec<Image>, shards: u16, files: &BTreeSet<FileName>) -> Outcome {
    let mut outcome = Outcome::default();
    for (number, image) in (0..).zip(images) {
        add_journal(&mut outcome, number, image, shards, files);
    }
    for (id, log) in &mut outcome.logs {
        order(*id, log);
        // Where only the files of the metadata log are damaged, its state (term, vote, snapshot) is not.
        outcome.quorum_damaged |= *id == LogId::METADATA && log.damaged;
        if !log.damaged && misses_files(*id, log, files) {
            log.damaged = true;
        }
    }
    if outcome.quorum_damaged {
        outcome.logs.remove(&LogId::METADATA);
    }
    outcome
}

impl Restored {
    /// Whether it is damaged when all is replayed: a reset after the damage was found ends what an entry says.
    pub fn ends_damaged(&self) -> bool {
        let shape = self.entry.as_ref().map(|entry| &entry.shape);
        let ended = |record: &Record, at: u64| {
            record.seq > at && matches!(record.kind, Kind::Reset | Kind::Delete)
        };
        self.damaged
            || shape.is_some_and(|shape| {
                shape.damaged && !self.replay.iter().any(|record| ended(record, shape.damaged_at))
            })
    }
}

fn add_journal(
    outcome: &mut Outcome,
    number: u16,
    image: Image,
    shards: u16,
    files: &BTreeSet<FileName>,
) {
    let Some(checkpoint) = image.checkpoint else {
        // All that is known is which logs it may have had. What its records would change cannot be told.
        let named = files.iter().filter_map(|file| match file {
            FileName::Segment { log, .. } => Some((*log, 0)),
            _ => None,
        });
        let recorded = image.found.iter().map(|found| (found.record.log, found.record.seq));
        let all: Vec<(LogId, u64)> = named.chain(recorded).collect();
        for (id, seq) in all.into_iter().filter(|(id, _)| *id != LogId::default()) {
            if journal_of(id, shards) == number {
                let log = outcome.logs.entry(id).or_default();
                log.damaged = true;
                log.seq = log.seq.max(seq);
            }
        }
        lost(outcome, number);
        return;
    };
    let (low, head) = (checkpoint.head.low, &checkpoint.head);
    outcome.seq_floor = outcome.seq_floor.max(head.seq_floor);
    outcome.suspect |= head.suspect;
    let mut by_lsn: BTreeMap<u64, Found> = BTreeMap::new();
    let mut mark = head.mark;
    for found in image.found.into_iter().filter(|found| found.record.lsn >= low) {
        mark = mark.max(found.mark);
        match by_lsn.entry(found.record.lsn.0) {
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(found);
            }
            std::collections::btree_map::Entry::Occupied(mut taken) => {
                if taken.get().generation < found.generation {
                    taken.insert(found);
                }
            }
        }
    }
    let needed = (mark.0 + 1).saturating_sub(low.0);
    let held = by_lsn.range(low.0..).take_while(|(lsn, _)| **lsn <= mark.0).count() as u64;
    let damaged = image.is_unread || held < needed;
    let mut end = low.0.max(mark.0 + 1);
    while by_lsn.contains_key(&end) {
        end += 1;
    }
    outcome.torn |= by_lsn.split_off(&end).into_iter().next().is_some();
    let mut mine = BTreeSet::new();
    for entry in checkpoint.entries {
        mine.insert(entry.log);
        let log = outcome.logs.entry(entry.log).or_default();
        log.seq = log.seq.max(entry.seq);
        // Where two journals know a log, the later word is the truth.
        if log.entry.as_ref().is_none_or(|before| before.seq < entry.seq) {
            log.entry = Some(entry);
        }
    }
    for found in by_lsn.into_values().filter(|found| found.record.kind != Kind::Mark) {
        mine.insert(found.record.log);
        let log = outcome.logs.entry(found.record.log).or_default();
        log.seq = log.seq.max(found.record.seq);
        log.replay.push(found.record);
    }
    if damaged {
        for id in mine {
            outcome.logs.entry(id).or_default().damaged = true;
        }
        lost(outcome, number);
    }
}

fn lost(outcome: &mut Outcome, number: u16) {
    if number == 0 {
        outcome.quorum_damaged = true;
    } else {
        outcome.suspect = true;
    }
}

/// Keeps what is newer than the entry, in order, up to the first gap or what nobody understands.
fn order(id: LogId, log: &mut Restored) {
    let above = log.entry.as_ref().map(|entry| entry.seq);
    log.replay.retain(|record| above.is_none_or(|seq| record.seq > seq));
    log.replay.sort_by_key(|record| record.seq);
    log.replay.dedup_by_key(|record| record.seq);
    let mut expected = above.map(|seq| seq + 1);
    let good = log
        .replay
        .iter()
        .take_while(|record| {
            let fits = expected.is_none_or(|seq| seq == record.seq) && record.is_understood();
            expected = Some(record.seq + 1);
            fits
        })
        .count();
    if good < log.replay.len() {
        log.damaged = true;
        log.replay.truncate(good);
    }
    if log.entry.is_none() && log.damaged {
        // Something must remember it until it is reset.
        let seq = log.replay.first().map_or(log.seq, |record| record.seq - 1);
        let shape = Shape { exists: true, damaged: true, damaged_at: log.seq, ..Shape::default() };
        log.entry = Some(Entry { log: id, seq, shape, generation: 1, segments: Vec::new() });
    }
}

/// Whether a file is missing that the log still has when all is replayed.
fn misses_files(id: LogId, log: &Restored, files: &BTreeSet<FileName>) -> bool {
    let Some(entry) = &log.entry else { return false };
    let mut segments: Vec<(i64, i64, bool)> = entry
        .segments
        .iter()
        .map(|segment| {
            let index = segment.filed == 0 || files.contains(&segment.index(id));
            (segment.base, segment.next, index && files.contains(&segment.file(id)))
        })
        .collect();
    let mut start = entry.shape.start;
    for record in &log.replay {
        match record.kind {
            Kind::Truncate => {
                segments.retain(|(base, _, _)| *base < record.at);
                if let Some((_, next, _)) = segments.last_mut() {
                    *next = record.at.min(*next);
                }
                segments.retain(|(_, next, _)| *next > start);
            }
            Kind::Trim => {
                start = start.max(record.at);
                segments.retain(|(_, next, _)| *next > record.at);
            }
            Kind::Reset => {
                start = record.at;
                segments.clear();
            }
            Kind::Delete => segments.clear(),
            Kind::Append | Kind::Forget | Kind::Put | Kind::Mark => {}
        }
    }
    segments.iter().any(|(_, _, there)| !there)
}
