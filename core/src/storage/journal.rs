//! The journal of one machine: records gathered into groups, a group written and synced at a time, files used in a circle.
//!
//! ```text
//!   append ─▶ pending ─▶ group in flight (one write, one sync) ─▶ flushed ─▶ a later mark covers it ─▶ written behind
//!                                                                                                          │
//!   file: unused ─▶ current ─▶ full, some log still needs it ─▶ checkpoint says that none does ─▶ free ◀───┘
//! ```
//!
//! A running journal writes only where its files have blocks already, so that a disk which others have filled does not
//! stop it. Each file begins small, with what recovery gave it; free ones are filled up to their size ahead of their use. A file
//! that finds no room stays as small as it is, and the circle goes on with it.
//!
//! A group starts on a block of its own and never spans two files. Every record carries the mark: the last record that was
//! flushed when it was written. What may be written behind is what a mark that is itself on disk covers, `marked`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};

use super::Lsn;
use super::codec::salt;
use super::record::{BLOCK, HEADER, Kind, Record};
use crate::disk::FileName;
use crate::{Instant, LogId};

/// What a log has in a journal file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Live {
    /// Highest storage sequence.
    pub seq: u64,
    pub bytes: u64,
}

#[derive(Debug)]
pub(super) struct JournalFile {
    pub index: u32,
    /// Generation of its contents; 0 if never written.
    pub generation: u32,
    pub first: Lsn,
    pub last: Lsn,
    /// Bytes of the contents.
    pub used: u64,
    /// Bytes that it has on the disk, whatever they hold.
    pub allocated: u64,
    /// May be overwritten.
    pub free: bool,
    pub logs: BTreeMap<LogId, Live>,
    /// Carrying its remainder forward did not work out.
    pub no_carry: bool,
}

/// A group on its way to the disk.
#[derive(Debug)]
pub(super) struct Flight {
    pub last: Lsn,
    pub mark: Lsn,
    pub outstanding: u8,
}

/// What is to be written for a group.
#[derive(Debug)]
pub(super) struct GroupWrite {
    pub file: FileName,
    pub offset: u64,
    pub data: Vec<Bytes>,
    /// Where it begins the file: whether that held an earlier generation.
    pub begins: Option<bool>,
}

#[derive(Debug)]
pub(super) struct Journal {
    pub layout: u32,
    pub number: u16,
    pub secret: [u8; 16],
    pub file_bytes: u64,
    /// Whether files grow as they are written, which only recovery lets them.
    pub grows: bool,
    /// Index into `files` of the one that is being filled, if any is.
    pub filling: Option<usize>,
    pub files: Vec<JournalFile>,
    /// Index into `files` of the one that is being written, if any was.
    pub current: Option<usize>,
    generation: u32,
    seed: u64,
    next: Lsn,
    pub flushed: Lsn,
    /// The highest mark that is on disk, in a record or a checkpoint.
    pub marked: Lsn,
    /// The last record that is more than a mark.
    pub last_data: Lsn,
    pub pending: VecDeque<Record>,
    pending_bytes: u64,
    pub flight: Option<Flight>,
    /// The logs of the group in flight, or of the last one, each perhaps several times.
    pub flown: Vec<LogId>,
    /// Room for the headers of groups, used again once the disk has them.
    headers: BytesMut,
    /// When the last group came back.
    pub idle_since: Instant,
}

/// A file has at least so many bytes on the disk before a running journal writes to it, if it is ever to have as many.
const FIRST_BYTES_MIN: u64 = 8 * BLOCK as u64;
/// So many whole files are kept free beyond the current one, if they were ever needed.
const WHOLE_FILES: usize = 2;

static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// So many zeros, in pieces.
pub(super) fn zeros(mut count: u64) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let piece = count.min(BLOCK as u64);
        count -= piece;
        (piece > 0).then(|| Bytes::from_static(&ZEROS[..piece as usize]))
    })
}

impl Journal {
    pub fn new(layout: u32, number: u16, secret: [u8; 16], file_bytes: u64) -> Journal {
        Journal {
            layout,
            number,
            secret,
            file_bytes,
            grows: true,
            filling: None,
            files: Vec::new(),
            current: None,
            generation: 0,
            seed: 0,
            next: Lsn(1),
            flushed: Lsn(0),
            marked: Lsn(0),
            last_data: Lsn(0),
            pending: VecDeque::new(),
            pending_bytes: 0,
            flight: None,
            flown: Vec::new(),
            headers: BytesMut::new(),
            idle_since: Instant(0),
        }
    }

    /// One more file, which exists and is empty.
    pub fn add_file(&mut self) -> FileName {
        let index = self.files.len() as u32;
        self.files.push(JournalFile {
            index,
            generation: 0,
            first: Lsn(0),
            last: Lsn(0),
            used: 0,
            allocated: 0,
            free: true,
            logs: BTreeMap::new(),
            no_carry: false,
        });
        self.file_name(index)
    }

    /// Its files, and both slots of its checkpoint.
    pub fn all_files(&self) -> impl Iterator<Item = FileName> {
        let (layout, journal) = (self.layout, self.number);
        let slots = (0..2).map(move |slot| FileName::Checkpoint { layout, journal, slot });
        self.files.iter().map(|file| self.file_name(file.index)).chain(slots)
    }

    pub fn file_name(&self, index: u32) -> FileName {
        FileName::Journal { layout: self.layout, journal: self.number, index }
    }

    /// Puts a record at the end of those that wait, and gives it its number.
    pub fn push(&mut self, record: Record) -> Lsn {
        let lsn = self.next;
        self.next = Lsn(lsn.0 + 1);
        if record.kind != Kind::Mark {
            self.last_data = lsn;
        }
        let record = Record { lsn, ..record };
        self.pending_bytes += record.size() as u64;
        self.pending.push_back(record);
        lsn
    }

    /// The number that the next record written gets.
    pub fn next_written(&self) -> Lsn {
        self.pending.front().map_or(self.next, |record| record.lsn)
    }

    /// Files that can be begun.
    pub fn free_files(&self) -> usize {
        (0..self.files.len()).filter(|i| self.is_free(*i)).count()
    }

    fn is_free(&self, file: usize) -> bool {
        self.files[file].free && self.filling != Some(file)
    }

    /// Bytes of a file that may be written.
    fn capacity(&self, file: &JournalFile) -> u64 {
        if self.grows { file.allocated.max(self.file_bytes) } else { file.allocated }
    }

    /// What a file has on the disk before a running journal writes to it, at least.
    pub fn first_bytes(&self) -> u64 {
        let share = (self.file_bytes / 64).next_multiple_of(BLOCK as u64);
        share.max(FIRST_BYTES_MIN).min(self.file_bytes)
    }

    /// The free file to be written next, by a record of that size: the largest, and of equals the oldest. While one is being
    /// filled, the smallest: the only whole one is not begun before the next is there, as there would be no room until then.
    /// While files grow, a record larger than a file gets one to itself.
    fn next_file(&self, size: u64) -> Option<usize> {
        let takes =
            |i: &usize| self.is_free(*i) && (self.grows || self.files[*i].allocated >= size);
        (0..self.files.len()).filter(takes).min_by_key(|i| {
            let file = &self.files[*i];
            let size = file.allocated.min(self.file_bytes);
            let rank = if self.filling.is_some() { size } else { self.file_bytes - size };
            (rank, file.generation)
        })
    }

    /// Whole files that are free.
    fn whole_files(&self) -> usize {
        (0..self.files.len())
            .filter(|i| self.is_free(*i) && self.files[*i].allocated >= self.file_bytes)
            .count()
    }

    /// Whether it has come past its first file.
    pub fn has_turned(&self) -> bool {
        self.generation > 1
    }

    /// Whether produce may add to what waits: a whole free file is left for copies, states and deletions.
    pub fn has_room(&self) -> bool {
        let rest = self.current.map_or(0, |current| {
            let file = &self.files[current];
            file.allocated.saturating_sub(file.used)
        });
        let room = rest + self.whole_files() as u64 * self.file_bytes;
        self.pending_bytes + self.file_bytes <= room
    }

    /// The free file to be filled now, if any: from which byte on, and with how many. Always where no file takes the record that
    /// waits first; else only where room is wanted `ahead`.
    pub fn to_fill(&self, ahead: bool) -> Option<(usize, u64, u64)> {
        if self.filling.is_some() {
            return None;
        }
        let first = self.pending.front().filter(|first| self.flight.is_none() && !self.fits(first));
        let first = first.map(|first| first.size() as u64);
        let length = match first.filter(|size| self.next_file(*size).is_none()) {
            Some(size) => size.next_multiple_of(BLOCK as u64),
            None if ahead && self.whole_files() < WHOLE_FILES => self.file_bytes,
            None => return None,
        };
        let smaller = |i: &usize| self.is_free(*i) && self.files[*i].allocated < length;
        let largest = (0..self.files.len())
            .filter(smaller)
            .max_by_key(|i| (self.files[*i].allocated, Reverse(self.files[*i].generation)))?;
        let offset = self.files[largest].allocated;
        Some((largest, offset, length - offset))
    }

    /// Bytes that it has not yet begun to fill ahead.
    pub fn missing_ahead(&self) -> u64 {
        let is_small = |i: &usize| self.is_free(*i) && self.files[*i].allocated < self.file_bytes;
        let small = (0..self.files.len()).filter(is_small).count();
        let there = self.whole_files() + usize::from(self.filling.is_some());
        WHOLE_FILES.saturating_sub(there).min(small) as u64 * self.file_bytes
    }

    /// Bytes of the journal that recovery would read, roughly.
    pub fn live_bytes(&self) -> u64 {
        self.files.iter().filter(|file| !file.free).map(|file| file.used).sum()
    }

    /// Whether what waits finds no room in any file.
    pub fn is_stuck(&self) -> bool {
        let Some(record) = self.pending.front() else { return false };
        self.flight.is_none()
            && self.filling.is_none()
            && !self.fits(record)
            && self.next_file(record.size() as u64).is_none()
    }

    fn fits(&self, record: &Record) -> bool {
        self.current.is_some_and(|current| {
            let file = &self.files[current];
            file.used + record.size() as u64 <= self.capacity(file)
        })
    }

    /// Turns what waits into a group, up to about `bytes_max`. None while one is in flight, where nothing waits, or where no file
    /// can take it.
    pub fn form_group(&mut self, bytes_max: u64) -> Option<GroupWrite> {
        if self.flight.is_some() {
            return None;
        }
        let first = self.pending.front()?;
        let mut begins = None;
        let current = match self.current {
            Some(current) if self.fits(first) => current,
            _ => {
                let next = self.next_file(first.size() as u64)?;
                self.generation += 1;
                self.seed = salt(&self.secret, self.number, self.generation);
                let file = &mut self.files[next];
                begins = Some(file.generation != 0);
                file.generation = self.generation;
                (file.first, file.last, file.used) = (first.lsn, first.lsn, 0);
                (file.free, file.no_carry) = (false, false);
                file.logs.clear();
                self.current = Some(next);
                next
            }
        };
        let capacity = self.capacity(&self.files[current]);
        let file = &mut self.files[current];
        let offset = file.used;
        let (mut count, mut bytes, mut pieces) = (0, 0, 0);
        for record in &self.pending {
            let size = record.size() as u64;
            if count > 0 && (bytes + size > bytes_max || offset + bytes + size > capacity) {
                break;
            }
            count += 1;
            bytes += size;
            pieces += 1 + record.body.as_slice().len();
        }
        self.headers.reserve(count * HEADER);
        // One more for what fills up the last block.
        let mut data = Vec::with_capacity(pieces + 1);
        self.flown.clear();
        let mut flight = Flight { last: Lsn(0), mark: self.flushed, outstanding: 0 };
        for record in self.pending.drain(..count) {
            let header = record.header(self.flushed, self.generation, self.seed);
            self.headers.extend_from_slice(&header);
            data.push(self.headers.split().freeze());
            data.extend_from_slice(record.body.as_slice());
            flight.last = record.lsn;
            if record.kind != Kind::Mark {
                let live = file.logs.entry(record.log).or_default();
                live.seq = live.seq.max(record.seq);
                live.bytes += record.size() as u64;
                if self.flown.last() != Some(&record.log) {
                    self.flown.push(record.log);
                }
            }
        }
        self.pending_bytes -= bytes;
        file.last = flight.last;
        let padding = bytes.next_multiple_of(BLOCK as u64) - bytes;
        data.extend(zeros(padding));
        file.used = offset + bytes + padding;
        file.allocated = file.allocated.max(file.used);
        let file = self.file_name(self.files[current].index);
        self.flight = Some(flight);
        Some(GroupWrite { file, offset, data, begins })
    }

    /// The group in flight is on stable storage.
    pub fn on_flushed(&mut self, now: Instant) -> Flight {
        let flight = self.flight.take().expect("a group in flight");
        self.flushed = flight.last;
        self.marked = self.marked.max(flight.mark);
        self.idle_since = now;
        flight
    }

    /// The oldest file that is full and not free.
    pub fn oldest(&self) -> Option<usize> {
        let used = self.files.iter().enumerate().filter(|(_, file)| !file.free);
        let (oldest, _) = used.min_by_key(|(_, file)| file.generation)?;
        (Some(oldest) != self.current).then_some(oldest)
    }

    /// Everything below this number has been taken over by segments, if `is_saved` tells so of a log and a sequence.
    pub fn low(&self, is_saved: impl Fn(&LogId, u64) -> bool) -> Lsn {
        let mut files: Vec<(usize, &JournalFile)> =
            self.files.iter().enumerate().filter(|(_, file)| !file.free).collect();
        files.sort_by_key(|(_, file)| file.generation);
        for (i, file) in files {
            let live = file.logs.iter().any(|(log, live)| !is_saved(log, live.seq));
            if live || Some(i) == self.current {
                return file.first;
            }
        }
        self.next_written()
    }

    /// A checkpoint with this low-water mark is on stable storage: files wholly below are free.
    pub fn release(&mut self, low: Lsn) -> usize {
        let mut released = 0;
        for (i, file) in self.files.iter_mut().enumerate() {
            if !file.free && Some(i) != self.current && file.last < low {
                file.free = true;
                file.logs.clear();
                released += 1;
            }
        }
        released
    }

    /// Whether any file that recovery would read has records of the log.
    pub fn mentions(&self, log: LogId) -> bool {
        self.flight.is_some() && self.flown.contains(&log)
            || self.pending.iter().any(|record| record.log == log)
            || self.files.iter().any(|file| file.logs.contains_key(&log))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_whole_file_is_not_begun_before_the_next_one_is_there() {
        let mut journal = Journal::new(1, 1, [7; 16], 1 << 20);
        for _ in 0..4 {
            journal.add_file();
        }
        journal.grows = false;
        journal.files.iter_mut().for_each(|file| file.allocated = 32 << 10);
        journal.files[0].allocated = 1 << 20;
        let (file, offset, length) = journal.to_fill(true).expect("a small one");
        journal.filling = Some(file);
        let small = journal.next_file(170).expect("another small one");
        assert!(small != 0 && small != file);
        assert_eq!(journal.next_file(64 << 10), Some(0), "where no small one takes it");
        journal.filling = None;
        journal.files[file].allocated = offset + length;
        assert_eq!(journal.files[journal.next_file(170).expect("a whole one")].allocated, 1 << 20);
    }

    #[test]
    fn what_is_to_be_filled_ahead_is_missing_until_it_is_begun() {
        let mut journal = Journal::new(1, 1, [7; 16], 1 << 20);
        for _ in 0..3 {
            journal.add_file();
        }
        for missing in [2 << 20, 1 << 20] {
            assert_eq!(journal.missing_ahead(), missing);
            let (file, offset, length) = journal.to_fill(true).expect("a small one");
            journal.filling = Some(file);
            assert_eq!(journal.missing_ahead(), missing - (1 << 20));
            journal.filling = None;
            journal.files[file].allocated = offset + length;
        }
        assert_eq!((journal.to_fill(true), journal.missing_ahead()), (None, 0));
        // Whole files that are in use come back by themselves.
        journal.files.iter_mut().for_each(|file| (file.allocated, file.free) = (1 << 20, false));
        assert_eq!((journal.to_fill(true), journal.missing_ahead()), (None, 0));
    }
}
