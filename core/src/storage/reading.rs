//! What the files of the old layout hold, taken in one file at a time.
//!
//! Nothing below the low-water mark is kept, and what is kept does not hold the file's bytes in memory for a small part of them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::Lsn;
use super::checkpoint::{self, Checkpoint};
use super::codec::Pieces;
use super::record::{Found, Kind, scan};
use super::replay::Image;
use super::superblock::Superblock;
use crate::disk::FileName;

/// What was read so far. The checkpoints come before the journal files.
#[derive(Debug, Default)]
pub(super) struct Reading {
    secret: [u8; 16],
    /// One of each journal of the layout.
    pub images: Vec<Image>,
    /// Journal files that failed twice to say what is in them.
    pub unread: BTreeSet<FileName>,
    /// Low-water mark of every slot that could be read; none where that is not whole.
    lows: BTreeMap<FileName, Option<Lsn>>,
    /// The last record of every file that could be read.
    highest: BTreeMap<FileName, Lsn>,
}

impl Reading {
    pub fn new(superblock: &Superblock) -> Reading {
        let journals = match superblock.layout {
            0 => 0,
            _ => 1 + usize::from(superblock.shards),
        };
        let images = std::iter::repeat_with(Image::default).take(journals).collect();
        Reading { secret: superblock.secret, images, ..Reading::default() }
    }

    /// Takes in a file: its bytes, or none if it cannot be read.
    pub fn add(&mut self, file: FileName, bytes: Option<Bytes>) {
        let (FileName::Checkpoint { journal, .. } | FileName::Journal { journal, .. }) = file
        else {
            return;
        };
        let Some(image) = self.images.get_mut(usize::from(journal)) else { return };
        match (file, bytes) {
            (FileName::Checkpoint { .. }, Some(bytes)) => {
                let read = checkpoint::decode(&bytes, &self.secret, journal);
                let version = |checkpoint: &Checkpoint| checkpoint.head.version;
                self.lows.insert(file, read.as_ref().map(|read| read.head.low));
                if read.as_ref().map(version) > image.checkpoint.as_ref().map(version) {
                    image.checkpoint = read;
                }
            }
            // The other slot holds.
            (FileName::Checkpoint { .. }, None) => {}
            (_, Some(bytes)) => {
                let low = image.checkpoint.as_ref().map_or(Lsn(0), |read| read.head.low);
                let highest = self.highest.entry(file).or_default();
                let first = image.found.len();
                scan(&bytes, 0, bytes.len(), &self.secret, journal, |found| {
                    *highest = found.record.lsn.max(*highest);
                    if found.record.lsn >= low {
                        image.found.push(found);
                    }
                });
                let_go(&mut image.found[first..], bytes.len());
            }
            (_, None) => {
                image.is_unread = true;
                self.unread.insert(file);
            }
        }
    }

    /// Journal files that hold nothing from the lower of both low-water marks on: those that a running journal might have
    /// used already, since of its slots the newer may not be on the disk and the older is. A slot that is not whole was being
    /// overwritten, after the other was synced, and by a checkpoint that found no room perhaps: the other holds alone. One that
    /// cannot be read now may be read later, and then be the older one.
    pub fn spare(&self) -> Vec<FileName> {
        let is_spare = |file: &FileName, highest: Lsn| {
            let FileName::Journal { layout, journal, .. } = *file else { return false };
            let slots = [0, 1].map(|slot| FileName::Checkpoint { layout, journal, slot });
            let [Some(one), Some(other)] = slots.map(|slot| self.lows.get(&slot)) else {
                return false;
            };
            one.iter().chain(other).min().is_some_and(|low| highest < *low)
        };
        let spare = self.highest.iter().filter(|(file, highest)| is_spare(file, **highest));
        spare.map(|(file, _)| *file).collect()
    }
}

/// Copies bodies out of the file's bytes: states, which stay for as long as the log does, and the rest too where it is a small
/// part of them.
fn let_go(found: &mut [Found], file_bytes: usize) {
    let kept: usize = found.iter().map(|found| found.record.body.size()).sum();
    let is_small = kept < file_bytes / 2;
    for record in found.iter_mut().map(|found| &mut found.record) {
        if (is_small || record.kind == Kind::Put)
            && let Pieces::One(body) = &mut record.body
        {
            *body = Bytes::copy_from_slice(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LogId;
    use crate::storage::checkpoint::Head;
    use crate::storage::codec::salt;
    use crate::storage::record::Record;

    /// A file of records with these numbers and bodies.
    fn file_of(records: &[(u64, Kind, usize)], secret: &[u8; 16]) -> Bytes {
        let mut bytes = Vec::new();
        for (lsn, kind, body) in records {
            let body = vec![7; *body];
            let record = Record {
                lsn: Lsn(*lsn),
                log: LogId::METADATA,
                seq: *lsn,
                kind: *kind,
                at: 0,
                appended_s: 0,
                body: Pieces::One(body.clone().into()),
            };
            bytes.extend(record.header(Lsn(0), 1, salt(secret, 0, 1)));
            bytes.extend(body);
        }
        bytes.into()
    }

    /// The numbers of what is kept of a file, and whether each body is a part of the file's bytes.
    fn kept(records: &[(u64, Kind, usize)], low: u64) -> Vec<(u64, bool)> {
        let secret = [3; 16];
        let mut reading = Reading { secret, ..Reading::default() };
        reading.images.push(Image::default());
        let head = Head { version: 1, low: Lsn(low), ..Head::default() };
        let checkpoint = checkpoint::encode(&head, &secret, 0, &[]).concat();
        let slot = FileName::Checkpoint { layout: 1, journal: 0, slot: 1 };
        reading.add(slot, Some(checkpoint.into()));
        let file = file_of(records, &secret);
        let part_of = file.as_ptr_range();
        reading.add(FileName::Journal { layout: 1, journal: 0, index: 0 }, Some(file.clone()));
        let found = reading.images[0].found.iter();
        found
            .map(|found| {
                let body = found.record.body.joined();
                (found.record.lsn.0, part_of.contains(&body.as_ptr()))
            })
            .collect()
    }

    #[test]
    fn what_is_kept_holds_no_more_than_it_needs() {
        let large = [(4, Kind::Append, 900), (5, Kind::Put, 50), (6, Kind::Append, 900)];
        assert_eq!(kept(&large, 4), [(4, true), (5, false), (6, true)], "states stay for long");
        assert_eq!(kept(&large, 6), [(6, false)], "less than half of the file");
        assert_eq!(kept(&large, 7), []);
    }

    /// Which of three journal files are spare, which end at 3, 6 and 9: what is read of either slot is a low-water mark, bytes that
    /// are not whole, or nothing.
    fn spare(slots: [Option<Option<u64>>; 2]) -> Vec<u32> {
        let secret = [3; 16];
        let mut reading = Reading { secret, ..Reading::default() };
        reading.images.push(Image::default());
        for (slot, low) in (0..).zip(slots) {
            let encoded = |low| {
                let head = Head { version: low, low: Lsn(low), ..Head::default() };
                checkpoint::encode(&head, &secret, 0, &[]).concat()
            };
            let bytes = low.map(|low| low.map_or_else(|| vec![7; 90], encoded).into());
            reading.add(FileName::Checkpoint { layout: 1, journal: 0, slot }, bytes);
        }
        for index in 0..3 {
            let file = file_of(&[(u64::from(index) * 3 + 3, Kind::Append, 10)], &secret);
            reading.add(FileName::Journal { layout: 1, journal: 0, index }, Some(file));
        }
        let index = |file: &FileName| match file {
            FileName::Journal { index, .. } => *index,
            other => panic!("{other:?} is no journal file"),
        };
        reading.spare().iter().map(index).collect()
    }

    #[test]
    fn the_lower_mark_of_the_slots_that_are_whole_says_what_is_spare() {
        assert_eq!(spare([Some(Some(4)), Some(Some(7))]), [0]);
        assert_eq!(spare([Some(None), Some(Some(7))]), [0, 1], "it was being overwritten");
        assert_eq!(spare([Some(Some(4)), Some(None)]), [0]);
        assert_eq!(spare([Some(None), Some(None)]), []);
        assert_eq!(spare([None, Some(Some(7))]), [], "it may be the lower one");
        assert_eq!(spare([Some(Some(4)), None]), []);
    }
}
