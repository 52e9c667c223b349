//! Where a node's disk was told to put each batch: found by CRC in the write commands as they pass, so that durability is
//! judged on the modelled disk and not on what core believes.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use bytes::Bytes;
use milena_core::disk::FileName;

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

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Location {
    file: FileName,
    offset: u64,
    length: u32,
}

/// Copies of one batch that are remembered. A batch is in the journal, perhaps carried, and in its segment.
const COPIES_MAX: usize = 24;
/// From the start of a batch to its magic byte.
const MAGIC_AT: usize = 16;
/// From the start of a batch to what its checksum covers.
const COVERED_AT: usize = 21;
/// The fewest bytes of a batch.
const BATCH_MIN: usize = 61;

/// Where the batches of one node are.
#[derive(Debug, Default)]
pub struct Locations {
    expected: Set<u32>,
    places: Map<u32, Vec<Location>>,
    joined: Vec<u8>,
}

impl Locations {
    /// A batch with this checksum may pass from now on.
    pub fn expect(&mut self, crc: u32) {
        self.expected.insert(crc);
    }

    /// The disk was replaced: what is where is forgotten, what may pass is not.
    pub fn forget(&mut self) {
        self.places.clear();
    }

    /// A write command passes.
    pub fn on_write(&mut self, file: FileName, offset: u64, data: &[Bytes]) {
        if matches!(file, FileName::Superblock { .. } | FileName::Checkpoint { .. }) {
            return;
        }
        let mut joined = std::mem::take(&mut self.joined);
        joined.clear();
        data.iter().for_each(|piece| joined.extend_from_slice(piece));
        let mut from = MAGIC_AT;
        while let Some(found) = joined.get(from..).and_then(|rest| memchr::memchr(2, rest)) {
            let at = from + found - MAGIC_AT;
            from += found + 1;
            let Some(header) = joined.get(at..at + BATCH_MIN) else { break };
            let crc = u32::from_be_bytes([header[17], header[18], header[19], header[20]]);
            if !self.expected.contains(&crc) {
                continue;
            }
            let length = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
            let length = length.saturating_add(12);
            if at + length as usize <= joined.len() && length as usize >= BATCH_MIN {
                let places = self.places.entry(crc).or_default();
                let place = Location { file, offset: offset + at as u64, length };
                // Carried again and again, it comes back to the same place of a recycled file.
                places.retain(|known| known != &place);
                if places.len() >= COPIES_MAX {
                    // Never its segment: while that cannot be synced, the journal carries the batch on and on.
                    let journal = |p: &Location| matches!(p.file, FileName::Journal { .. });
                    places.remove(places.iter().position(journal).unwrap_or(0));
                }
                places.push(place);
                from = at + length as usize + MAGIC_AT;
            }
        }
        self.joined = joined;
    }

    /// Whether some copy of a batch is on stable storage, unaltered.
    pub fn is_durable(&self, disk: &Disk, batch: &Batch) -> bool {
        let Some(places) = self.places.get(&batch.crc) else { return false };
        places.iter().rev().any(|place| {
            disk.durable_bytes(&place.file, place.offset as usize, place.length as usize)
                .is_some_and(|bytes| is_batch(bytes, batch))
        })
    }

    /// For a story: where the batch was written, and whether it was seen in any write at all.
    pub fn describe(&self, batch: &Batch) -> String {
        match self.places.get(&batch.crc) {
            None => "it was in no write command".into(),
            Some(places) => {
                let names: Vec<String> =
                    places.iter().map(|p| format!("{} at {}", p.file, p.offset)).collect();
                format!("written to {} and not synced there", names.join(", "))
            }
        }
    }
}

fn is_batch(bytes: &[u8], batch: &Batch) -> bool {
    bytes.len() >= BATCH_MIN
        && bytes[..8] == batch.base.to_be_bytes()
        && bytes[12..16] == batch.epoch.to_be_bytes()
        && crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[COVERED_AT..])
            == u64::from(batch.crc)
}
