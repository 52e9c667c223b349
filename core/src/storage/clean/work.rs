//! What a cleaner does to the batches that it has read: opening, choosing and packing. Pure, and done beside the shard: a
//! driver runs it wherever it likes and brings it back.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use milena_wire::batch::{
    self, BatchHeader, Candidate, DecompressLimit, Retained, record_iterator,
};

use super::keys::{KeyHash, KeyMap};
use crate::storage::segment::{Placed, Segment, largest_time};
use crate::{Epoch, Offset, Timestamp};

/// Work that takes longer than a shard may stand still: [`crate::Output::Work`] gives it to the driver, which calls
/// [`Work::run`] on another thread and brings what comes out back with [`crate::Input::Worked`]. It depends on nothing but
/// itself, and whoever runs it may take as long as it needs.
#[derive(Clone, Debug)]
pub struct Work(pub(super) Box<Task>);

impl Work {
    /// Does it.
    #[must_use]
    pub fn run(mut self) -> Work {
        let Task { sources, keys, step } = &mut *self.0;
        match step {
            Step::Map(mapping) => sources.map(mapping, keys),
            Step::Filter(filtering) => sources.filter(filtering, keys),
        }
        self
    }

    /// Bytes that it opens, before they are decompressed.
    pub fn size(&self) -> usize {
        self.0.sources.batches.iter().map(Bytes::len).sum()
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.step {
            Step::Map(_) => "keys",
            Step::Filter(_) => "records",
        };
        write!(f, "{what} of {} batches", self.sources.batches.len())
    }
}

/// What is to be done, and then what came of it.
#[derive(Clone)]
pub(super) struct Task {
    pub sources: Sources,
    pub keys: KeyMap,
    pub step: Step,
}

#[derive(Clone)]
pub(super) enum Step {
    /// When the keys are taken note of.
    Map(Mapping),
    /// When the records that stay are put into new batches.
    Filter(Box<Filtering>),
}

/// Batches in a row.
#[derive(Clone)]
pub(super) struct Sources {
    pub batches: Vec<Bytes>,
    /// Keys are hashed with it.
    pub secret: [u8; 16],
    /// Decompressed bytes of one batch at most.
    pub limit: usize,
}

/// The keys from one offset on.
#[derive(Clone)]
pub(super) struct Mapping {
    /// All keys below are known: at first where to begin, then how far it came.
    pub mapped: Offset,
    /// There was no room for the key of the record at `mapped`.
    pub full: bool,
}

/// What stays of some batches.
#[derive(Clone)]
pub(super) struct Filtering {
    pub rules: Arc<Rules>,
    /// What goes from one piece of work to the next.
    pub kept: Kept,
    pub packing: Packing,
}

/// The new segment, and what is to be written at its end.
#[derive(Clone)]
pub(super) struct Packing {
    pub segment: Segment,
    /// Bytes between two entries of its index, about.
    pub interval: u64,
    /// From when the first of what it holds counts for retention, and from when all of it does.
    pub begun: Timestamp,
    pub born: Timestamp,
    /// These are the last batches of it.
    pub is_last: bool,
    pub bytes: Vec<u8>,
}

impl Packing {
    fn push(&mut self, batch: &[u8]) {
        let Ok(header) = BatchHeader::parse(batch) else { return };
        let (size, next) = (batch.len() as u64, header.next_offset());
        let placed = Placed { size, next, max_timestamp: largest_time(&header), born: self.born };
        self.segment.push(batch, &placed, self.interval);
        self.segment.begun = self.begun;
        self.bytes.extend_from_slice(batch);
    }
}

/// What holds for one cleaning.
#[derive(Debug)]
pub(super) struct Rules {
    /// The keys of all records below this offset were taken note of, now or by an earlier cleaning.
    pub mapped: Offset,
    /// Tombstones below this offset, at most `mapped`, go whose horizon has come by `wall`.
    pub tombstones_go_below: Offset,
    pub wall: Timestamp,
    /// The horizon of tombstones that have none yet.
    pub horizon: Timestamp,
    /// First offsets of the batches by which producers are known; they stay, without records if need be. Sorted.
    pub producers: Vec<Offset>,
    /// The ids of those producers, sorted. What is left of another one's batches says nothing of it: whoever learned of it from
    /// there alone would take its next batch for one out of order.
    pub known: Vec<i64>,
}

/// What a cleaner knows of the batches before.
#[derive(Clone, Default, Debug)]
pub(super) struct Kept {
    /// Offsets of one epoch of which no record is left, and no batch yet says so.
    pub cover: Option<Cover>,
    /// A batch that could not be opened lies below: it may hold older values of any key, so no tombstone goes any more.
    pub unopened: Option<Offset>,
    /// All tombstones that went lie below this offset.
    pub dropped: Offset,
    /// Records that went.
    pub gone: u64,
}

/// Offsets of one epoch without a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cover {
    pub base: Offset,
    pub next: Offset,
    pub epoch: Epoch,
}

impl Kept {
    /// Writes the batch that stands for the cover.
    fn close_cover(&mut self, out: &mut Packing) {
        if let Some(Cover { base, next, epoch }) = self.cover.take() {
            out.push(&batch::covering(base, next, epoch));
        }
    }

    /// All records of a batch are gone.
    fn cover(&mut self, header: &BatchHeader, out: &mut Packing) {
        let (next, epoch) = (header.next_offset(), header.partition_leader_epoch);
        match &mut self.cover {
            Some(cover) if cover.epoch == epoch && next - cover.base <= i64::from(i32::MAX) => {
                cover.next = next;
            }
            _ => {
                self.close_cover(out);
                self.cover = Some(Cover { base: header.base_offset, next, epoch });
            }
        }
    }
}

/// A batch as one of a producer without an id.
fn without_producer(batch: &Bytes) -> Bytes {
    let Ok(header) = BatchHeader::parse(batch) else { return batch.clone() };
    let (producer_id, producer_epoch, base_sequence) = (-1, -1, -1);
    let header = BatchHeader { crc: 0, producer_id, producer_epoch, base_sequence, ..header };
    batch::with_header(batch, &header)
}

impl Sources {
    /// Offset after the last of them.
    pub fn next(&self) -> Option<Offset> {
        let last = BatchHeader::parse(self.batches.last()?).ok()?;
        Some(last.next_offset())
    }

    fn map(&self, mapping: &mut Mapping, keys: &mut KeyMap) {
        let limit = DecompressLimit(self.limit);
        for batch in &self.batches {
            let Ok(header) = BatchHeader::parse(batch) else { continue };
            if header.next_offset() <= mapping.mapped {
                continue;
            }
            // What cannot be opened is kept as it is.
            if let Ok(records) = record_iterator(batch, limit) {
                for record in records.map_while(Result::ok) {
                    let Some(key) = record.key.filter(|_| record.offset >= mapping.mapped) else {
                        continue;
                    };
                    if !keys.insert(KeyHash::new(&self.secret, &key), record.offset) {
                        (mapping.mapped, mapping.full) = (record.offset, true);
                        return;
                    }
                }
            }
            mapping.mapped = header.next_offset();
        }
    }

    fn filter(&self, filtering: &mut Filtering, keys: &KeyMap) {
        let Filtering { rules, kept, packing: out } = filtering;
        let limit = DecompressLimit(self.limit);
        for batch in &self.batches {
            let Ok(header) = BatchHeader::parse(batch) else { continue };
            let produces = rules.producers.binary_search(&header.base_offset).is_ok();
            if header.records_count == 0 {
                if produces {
                    kept.close_cover(out);
                    out.push(batch);
                } else {
                    kept.cover(&header, out);
                }
                continue;
            }
            let may_drop = header.delete_horizon().is_some_and(|horizon| horizon <= rules.wall)
                && kept.unopened.is_none();
            let (mut gone, mut dropped) = (0, kept.dropped);
            let retained = batch::retain(batch, limit, rules.horizon, |record: Candidate<'_>| {
                let Some(key) = record.key else {
                    gone += 1;
                    return false;
                };
                let newer = keys.get(KeyHash::new(&self.secret, key));
                let ended =
                    record.is_tombstone && may_drop && record.offset < rules.tombstones_go_below;
                if newer.is_some_and(|newer| newer > record.offset) || ended {
                    gone += 1;
                    if ended {
                        dropped = dropped.max(record.offset + 1);
                    }
                    return false;
                }
                true
            });
            let is_forgotten =
                header.producer_id >= 0 && rules.known.binary_search(&header.producer_id).is_err();
            let stays = match retained {
                Ok(Retained::All) if is_forgotten => Some(without_producer(batch)),
                Ok(Retained::Some(batch)) if is_forgotten => Some(without_producer(&batch)),
                Ok(Retained::All) => Some(batch.clone()),
                Ok(Retained::Some(batch)) => Some(batch),
                Ok(Retained::None) => produces.then(|| batch::emptied(&header)),
                Err(_) => {
                    kept.unopened.get_or_insert(header.base_offset);
                    (gone, dropped) = (0, kept.dropped);
                    Some(batch.clone())
                }
            };
            (kept.gone, kept.dropped) = (kept.gone + gone, dropped);
            match stays {
                Some(batch) => {
                    kept.close_cover(out);
                    out.push(&batch);
                }
                None => kept.cover(&header, out),
            }
        }
        if out.is_last {
            kept.close_cover(out);
        }
    }
}
