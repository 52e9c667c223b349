//! Where a node's disk was told to put each batch: found in the write commands as they pass, by the frozen layout of journal
//! records and segments, so that durability is judged on the modelled disk and not on what core believes.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use bytes::Bytes;
use milena_core::disk::FileName;
use milena_core::quorum::term_and_vote;
use milena_core::{Epoch, Incarnation, LogId, NodeId, Offset, TopicId};

use super::replica::Batch;
use crate::disk::Disk;

/// A hasher for keys that are checksums, hence random already. Nothing iterates over these maps.
#[derive(Clone, Copy, Default, Debug)]
pub struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }
    fn write_i32(&mut self, number: i32) {
        self.write_u64(u64::from(number.cast_unsigned()));
    }
    fn write_i64(&mut self, number: i64) {
        self.write_u64(number.cast_unsigned());
    }
    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }
    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
    }
}

/// A map without a random hasher.
pub type Map<K, V> = HashMap<K, V, BuildHasherDefault<AsItIs>>;
/// A set without a random hasher.
pub type Set<K> = HashSet<K, BuildHasherDefault<AsItIs>>;

/// Where a copy of something is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The file.
    pub file: FileName,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
    /// Whose it is.
    log: LogId,
    /// The batch: its first offset, epoch and checksum.
    batch: (Offset, Epoch, u32),
    /// Number of the journal record that it is in; 0 in a segment.
    pub lsn: u64,
}

impl Place {
    fn holds(&self, log: LogId, batch: &Batch) -> bool {
        (self.log, self.batch) == key(log, batch)
    }

    fn is_at(&self, other: &Place) -> bool {
        self.file == other.file && self.offset == other.offset && self.length == other.length
    }

    fn overlaps(&self, file: FileName, offset: u64, length: u64) -> bool {
        self.file == file
            && self.offset < offset.saturating_add(length)
            && offset < self.offset + u64::from(self.length)
    }
}

/// What tells a batch from others: its log, and there its offset, epoch and checksum.
type Key = (LogId, (Offset, Epoch, u32));

/// Copies of one batch that are remembered. A batch is in the journal, perhaps carried, and in its segment.
const COPIES_MAX: usize = 24;
/// From the start of a batch to what its checksum covers.
const COVERED_AT: usize = 21;
/// The fewest bytes of a batch.
const BATCH_MIN: usize = 61;
/// Bytes of a journal record before its body.
const RECORD_HEADER: usize = 80;
/// Kind of the journal record that holds a batch.
const APPEND: u8 = 1;
/// Kind of the journal record that holds the state beside a log.
const PUT: u8 = 6;
/// Copies of term and vote that are remembered.
const VOTES_MAX: usize = 16;

/// A copy of term and vote.
#[derive(Clone, Copy, Debug)]
struct Vote {
    place: Place,
    term: Epoch,
    candidate: Option<(NodeId, Incarnation)>,
}

/// Where the batches and votes of one node are.
#[derive(Clone, Debug, Default)]
pub struct Locations {
    expected: Set<u32>,
    /// By log, offset, epoch and checksum: a producer that sends again makes many batches with one checksum, also in topics that
    /// have the same name one after the other.
    places: Map<Key, Vec<Place>>,
    /// Of batches that compaction made of others: those others, which are where it is.
    stand_ins: Map<Key, Vec<Key>>,
    /// Copies that were whole until they were damaged on purpose: they count until something else is written there.
    damaged: Vec<Place>,
    /// The latest copies of what the quorum remembers beside its log.
    votes: Vec<Vote>,
    joined: Vec<u8>,
}

impl Locations {
    /// A batch with this checksum may pass from now on.
    pub fn expect(&mut self, crc: u32) {
        self.expected.insert(crc);
    }

    /// From now on a batch is given in the place of others.
    pub fn stand_in(&mut self, log: LogId, batch: &Batch, others: &[Batch]) {
        let others = others.iter().map(|other| key(log, other)).collect();
        self.stand_ins.insert(key(log, batch), others);
    }

    /// The disk was replaced: what is where is forgotten, what may pass is not.
    pub fn forget(&mut self) {
        self.places.clear();
        self.damaged.clear();
        self.votes.clear();
    }

    /// The disk was put back to an image: what is where is as it was then.
    pub fn put_back(&mut self, image: &Locations) {
        self.places.clone_from(&image.places);
        self.damaged.clone_from(&image.damaged);
        self.votes.clone_from(&image.votes);
    }

    /// A journal of a layout begins. Whatever an attempt at the same layout that was cut short had put into its files is gone.
    pub fn on_journal_begun(&mut self, layout: u32, journal: u16) {
        let theirs = |place: &Place| matches!(place.file, FileName::Journal { layout: l, journal: j, .. } if (l, j) == (layout, journal));
        self.places.values_mut().for_each(|places| places.retain(|place| !theirs(place)));
    }

    /// A write command passes.
    pub fn on_write(&mut self, file: FileName, offset: u64, data: &[Bytes]) {
        if !matches!(file, FileName::Journal { .. } | FileName::Segment { .. }) {
            return;
        }
        let mut joined = std::mem::take(&mut self.joined);
        joined.clear();
        data.iter().for_each(|piece| joined.extend_from_slice(piece));
        self.damaged.retain(|place| !place.overlaps(file, offset, joined.len() as u64));
        let mut at = 0;
        if let FileName::Segment { log, .. } = file {
            while let Some(size) = self.batch(&joined[at..], file, offset + at as u64, log, 0) {
                at += size;
            }
        } else {
            while let Some((record, size)) = record(&joined[at..]) {
                let (lsn, body) = (record.lsn, at + RECORD_HEADER);
                if record.kind == APPEND {
                    self.batch(&joined[body..], file, offset + body as u64, record.log, lsn);
                } else if record.kind == PUT && record.log == LogId::METADATA {
                    self.on_vote(&joined[body..at + size], file, offset + body as u64);
                }
                at += size;
            }
        }
        self.joined = joined;
    }

    /// Takes note of a batch at the beginning of some bytes, and gives its size; none where there is none.
    fn batch(
        &mut self,
        bytes: &[u8],
        file: FileName,
        offset: u64,
        log: LogId,
        lsn: u64,
    ) -> Option<usize> {
        let header = bytes.get(..BATCH_MIN)?;
        let length = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
        let length = length.saturating_add(12);
        let size = length as usize;
        if size < BATCH_MIN || size > bytes.len() {
            return None;
        }
        let crc = u32::from_be_bytes([header[17], header[18], header[19], header[20]]);
        if self.expected.contains(&crc) {
            let base = header[..8].try_into().map_or(0, Offset::from_be_bytes);
            let epoch = header[12..16].try_into().map_or(0, Epoch::from_be_bytes);
            let batch = (base, epoch, crc);
            let place = Place { file, offset, length, log, batch, lsn };
            let key = (log, batch);
            for other in self.stand_ins.get(&key).into_iter().flatten() {
                note(self.places.entry(*other).or_default(), place);
            }
            note(self.places.entry(key).or_default(), place);
        }
        Some(size)
    }

    /// Takes note of what the quorum remembers beside its log, in the bytes of a record or of a checkpoint.
    pub fn on_vote(&mut self, state: &[u8], file: FileName, offset: u64) {
        let Some((term, vote)) = term_and_vote(state) else { return };
        let (length, log, batch) = (state.len() as u32, LogId::METADATA, state_key(state));
        let place = Place { file, offset, length, log, batch, lsn: 0 };
        self.votes.retain(|known| !known.place.is_at(&place));
        if self.votes.len() >= VOTES_MAX {
            self.votes.remove(0);
        }
        let candidate = vote.map(|voter| (voter.node, voter.incarnation));
        self.votes.push(Vote { place, term, candidate });
    }

    /// Whether a vote is on stable storage, or a later term: then nobody can be voted for in this one any more.
    pub fn has_vote(&self, disk: &Disk, term: Epoch, candidate: (NodeId, Incarnation)) -> bool {
        let mut newest_first = self.votes.iter().rev().filter(|vote| {
            vote.term > term || vote.term == term && vote.candidate == Some(candidate)
        });
        newest_first.any(|vote| self.is_durable_at(disk, &vote.place))
    }

    /// The disk begins another life: what was voted before its newest layout is not its own.
    pub fn forget_votes(&mut self) {
        let newest = self.votes.iter().map(|vote| layout(&vote.place.file)).max();
        self.votes.retain(|vote| Some(layout(&vote.place.file)) == newest);
    }

    /// Copies that hold one of `length` bytes of a file and are whole on stable storage.
    pub fn whole_at(&self, disk: &Disk, file: FileName, at: u64, length: u64) -> Vec<Place> {
        let votes = self.votes.iter().map(|vote| &vote.place);
        let all = self.places.values().flatten().chain(votes);
        let touched = all.filter(|place| place.overlaps(file, at, length));
        touched.filter(|place| is_whole(disk, place)).copied().collect()
    }

    /// Copies that were whole are damaged from now on.
    pub fn damaged(&mut self, held: Vec<Place>) {
        self.damaged.extend(held);
    }

    /// Whether some copy of a batch is on stable storage, unaltered but by the fault injector.
    pub fn is_durable(&self, disk: &Disk, log: LogId, batch: &Batch) -> bool {
        let places = self.places.get(&key(log, batch)).map_or(&[][..], Vec::as_slice);
        places.iter().rev().any(|place| self.is_durable_at(disk, place))
            || self.damaged.iter().any(|place| place.holds(log, batch))
    }

    /// Every place that a batch was written to and is remembered.
    pub fn places_of(&self, log: LogId, batch: &Batch) -> impl Iterator<Item = &Place> {
        self.places.get(&key(log, batch)).into_iter().flatten()
    }

    /// A batch as it stands in one of its places on stable storage.
    pub fn bytes<'a>(&self, disk: &'a Disk, log: LogId, batch: &Batch) -> Option<&'a [u8]> {
        let itself = |place: &&Place| place.holds(log, batch) && is_whole(disk, place);
        let place = self.places_of(log, batch).find(itself)?;
        disk.durable_bytes(&place.file, place.offset as usize, place.length as usize)
    }

    /// Whether the copy at a place is on stable storage, unaltered but by the fault injector.
    pub fn is_durable_at(&self, disk: &Disk, place: &Place) -> bool {
        is_whole(disk, place) || self.damaged.iter().any(|lost| lost.is_at(place))
    }

    /// For a story: where the batch was written, and whether it was seen in any write at all.
    pub fn describe(&self, log: LogId, batch: &Batch) -> String {
        match self.places.get(&key(log, batch)) {
            None => "it was in no write command".into(),
            Some(places) => {
                let names: Vec<String> =
                    places.iter().map(|p| format!("{} at {}", p.file, p.offset)).collect();
                format!("written to {} and not synced there", names.join(", "))
            }
        }
    }
}

/// Takes note of one more place of a batch.
fn note(places: &mut Vec<Place>, place: Place) {
    // Carried again and again, it comes back to the same place of a recycled file.
    places.retain(|known| !known.is_at(&place));
    if places.len() >= COPIES_MAX {
        // Never its segment: while that cannot be synced, the journal carries the batch on and on.
        let journal = |p: &Place| matches!(p.file, FileName::Journal { .. });
        places.remove(places.iter().position(journal).unwrap_or(0));
    }
    places.push(place);
}

/// What the header of a journal record says.
struct Record {
    kind: u8,
    lsn: u64,
    log: LogId,
}

fn key(log: LogId, batch: &Batch) -> Key {
    (log, (batch.base, batch.epoch, batch.crc))
}

/// What stands for a state in the place of a batch's offset, epoch and checksum.
fn state_key(state: &[u8]) -> (Offset, Epoch, u32) {
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, state);
    (Offset::MIN, 0, sum as u32)
}

/// The layout that a file belongs to.
fn layout(file: &FileName) -> u32 {
    match file {
        FileName::Journal { layout, .. } | FileName::Checkpoint { layout, .. } => *layout,
        _ => 0,
    }
}

/// The journal record at the beginning of some bytes, and its size.
fn record(bytes: &[u8]) -> Option<(Record, usize)> {
    let header = bytes.get(..RECORD_HEADER)?;
    let size = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
    let lsn = header[24..32].try_into().map_or(0, u64::from_le_bytes);
    let topic = TopicId(header[40..56].try_into().unwrap_or_default());
    let log = LogId { topic, partition: header[56..60].try_into().map_or(0, i32::from_le_bytes) };
    (RECORD_HEADER..=bytes.len())
        .contains(&size)
        .then_some((Record { kind: header[13], lsn, log }, size))
}

/// Whether what was written to a place is there on stable storage.
fn is_whole(disk: &Disk, place: &Place) -> bool {
    let (base, epoch, crc) = place.batch;
    let found = disk.durable_bytes(&place.file, place.offset as usize, place.length as usize);
    found.is_some_and(|bytes| {
        if base == Offset::MIN {
            return state_key(bytes) == place.batch;
        }
        bytes.len() >= BATCH_MIN
            && bytes[..8] == base.to_be_bytes()
            && bytes[12..16] == epoch.to_be_bytes()
            && crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[COVERED_AT..])
                == u64::from(crc)
    })
}
