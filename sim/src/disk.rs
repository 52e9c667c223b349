//! The modelled disk of one node: what core's disk commands do, and what a power loss leaves of it.
//!
//! Two truths per file. The page cache is what a read sees; the media is what a power loss leaves. Between them stand, per
//! 512-byte sector, a dirty bit; per file, its length; and per folder, the names that were created, renamed or removed since
//! the folder was last synced. A sync makes them equal. A power loss lets any subset of what is unsynced survive, in any
//! order, because that is what a drive with a write cache may do:
//!
//! | unsynced | after a power loss | after a crash of the process |
//! |---|---|---|
//! | a sector | old or new, whole (with [`Disk::shear`], also garbage, but in a segment) | new |
//! | a file's length | old or new | new |
//! | a name | old or new | new |
//!
//! Of a write that finds too little room, the part that fits is there; of one whose process is killed, some pages, from its first on.
//! Where the file system copies on write, overwriting takes
//! room as well ([`Disk::copy_on_write`]), and a sync may find none, which fails as any sync does. A failed creation, rename or
//! removal may have happened.
//!
//! A failed sync is the kernel's kind: some sectors may have reached the media, all count as clean, reads show the new bytes, and
//! the next sync succeeds. Latent corruption changes bytes that were synced, in cache and media alike.
//!
//! The simulator decides when a command happens: [`Disk::apply`] is called at its completion, in order per file.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use milena_core::disk::{Command, Directory, DiskError, FileName, Outcome, Success};
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;
use serde::{Deserialize, Serialize};

/// Bytes that are written wholly or not at all.
pub const SECTOR: usize = 512;
/// Bytes that a process which is killed has written wholly or not at all.
const PAGE: usize = 4096;

/// What a file is, for counts and faults.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    /// A copy of the superblock.
    Superblock,
    /// A slot of a checkpoint.
    Checkpoint,
    /// A journal file.
    Journal,
    /// A segment.
    Segment,
    /// An index.
    Index,
    /// A snapshot.
    Snapshot,
}

impl FileKind {
    /// Every kind.
    pub const ALL: [FileKind; 6] = [
        FileKind::Superblock,
        FileKind::Checkpoint,
        FileKind::Journal,
        FileKind::Segment,
        FileKind::Index,
        FileKind::Snapshot,
    ];

    /// The kind of a name.
    pub fn of(file: &FileName) -> FileKind {
        match file {
            FileName::Superblock { .. } => FileKind::Superblock,
            FileName::Checkpoint { .. } => FileKind::Checkpoint,
            FileName::Journal { .. } => FileKind::Journal,
            FileName::Segment { .. } => FileKind::Segment,
            FileName::Index { .. } => FileKind::Index,
            FileName::Snapshot { .. } => FileKind::Snapshot,
        }
    }
}

/// A fault that waits for the next command that it fits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A sync of a file or folder fails, the kernel's way.
    Sync,
    /// A read fails; the next one may not.
    Read,
    /// A write fails, having written a part or nothing.
    Write,
    /// A creation fails.
    Create,
    /// A rename fails.
    Rename,
    /// A removal fails.
    Remove,
    /// A listing of a folder fails; the next one may not.
    List,
}

impl Fault {
    /// The fault of names and folders that a command may meet.
    fn of_names(command: &Command) -> Option<Fault> {
        match command {
            Command::Create { .. } => Some(Fault::Create),
            Command::Rename { .. } => Some(Fault::Rename),
            Command::Remove { .. } => Some(Fault::Remove),
            Command::List { .. } => Some(Fault::List),
            Command::Write { .. }
            | Command::Read { .. }
            | Command::Length { .. }
            | Command::Sync { .. }
            | Command::Fill { .. }
            | Command::SyncDirectory { .. }
            | Command::FreeSpace => None,
        }
    }
}

#[derive(Clone, Default, Debug)]
struct File {
    /// What a read sees, in whole sectors; zeros beyond `length`.
    cache: Vec<u8>,
    /// What a power loss leaves; as long as `cache`.
    media: Vec<u8>,
    length: usize,
    media_length: usize,
    /// One bit per sector that differs, or may.
    dirty: Vec<u64>,
    dirty_count: usize,
    is_segment: bool,
    /// Whether every read of it fails, for good.
    is_unreadable: bool,
}

impl File {
    fn set_dirty(&mut self, sector: usize) {
        let word = sector / 64;
        if self.dirty.len() <= word {
            self.dirty.resize(word + 1, 0);
        }
        let bit = 1 << (sector % 64);
        if self.dirty[word] & bit == 0 {
            self.dirty[word] |= bit;
            self.dirty_count += 1;
        }
    }

    fn is_dirty(&self, sector: usize) -> bool {
        self.dirty.get(sector / 64).is_some_and(|word| word & (1 << (sector % 64)) != 0)
    }

    /// Visits every dirty sector, in order, and makes it clean.
    fn clean(&mut self, mut visit: impl FnMut(&mut [u8], &mut [u8])) {
        if self.dirty_count == 0 {
            return;
        }
        for word in 0..self.dirty.len() {
            let mut bits = std::mem::take(&mut self.dirty[word]);
            while bits != 0 {
                let at = (word * 64 + bits.trailing_zeros() as usize) * SECTOR;
                bits &= bits - 1;
                visit(&mut self.cache[at..at + SECTOR], &mut self.media[at..at + SECTOR]);
            }
        }
        self.dirty_count = 0;
    }

    fn grow(&mut self, length: usize) {
        let whole = length.next_multiple_of(SECTOR);
        if self.cache.len() < whole {
            self.cache.resize(whole, 0);
            self.media.resize(whole, 0);
        }
    }

    fn write(&mut self, offset: usize, data: &[Bytes]) {
        let size: usize = data.iter().map(Bytes::len).sum();
        if size == 0 {
            return;
        }
        self.grow(offset + size);
        let mut at = offset;
        for piece in data {
            self.cache[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        }
        for sector in offset / SECTOR..at.div_ceil(SECTOR) {
            self.set_dirty(sector);
        }
        self.length = self.length.max(at);
    }

    fn empty(&mut self) {
        for sector in 0..self.length.div_ceil(SECTOR) {
            self.set_dirty(sector);
        }
        self.cache.fill(0);
        self.length = 0;
    }

    fn read(&self, offset: usize, length: usize) -> Bytes {
        let from = offset.min(self.length);
        let to = offset.saturating_add(length).min(self.length);
        Bytes::copy_from_slice(&self.cache[from..to])
    }
}

/// The first bytes of some pieces.
fn beginning(pieces: &[Bytes], mut size: usize) -> Vec<Bytes> {
    let mut taken = Vec::new();
    for piece in pieces {
        let part = piece.slice(..size.min(piece.len()));
        size -= part.len();
        taken.push(part);
    }
    taken
}

/// The disk.
#[derive(Clone, Default, Debug)]
pub struct Disk {
    files: Vec<File>,
    unused: Vec<u32>,
    /// Names as a process sees them.
    names: BTreeMap<FileName, u32>,
    /// Names as a power loss leaves them.
    media_names: BTreeMap<FileName, u32>,
    /// Names that may differ.
    changed: BTreeSet<FileName>,
    faults: Vec<Fault>,
    capacity: Option<u64>,
    used: u64,
    created: [u64; FileKind::ALL.len()],
    shears: bool,
    copies_on_write: bool,
    /// Bits that were turned over: file, place and mask.
    turned: Vec<(FileName, usize, u8)>,
}

impl Disk {
    /// An empty disk without a limit.
    pub fn new() -> Disk {
        Disk::default()
    }

    /// Sets how many bytes all files together may have; none for no limit. May be below what is used.
    pub fn set_capacity(&mut self, capacity: Option<u64>) {
        self.capacity = capacity;
    }

    /// Whether an unsynced sector may also turn to garbage at a power loss. Only segments rely on whole sectors.
    pub fn shear(&mut self, shears: bool) {
        self.shears = shears;
    }

    /// Whether overwriting takes as much room as writing does, and a sync may find none.
    pub fn copy_on_write(&mut self, copies: bool) {
        self.copies_on_write = copies;
    }

    /// Whether overwriting takes room.
    pub fn copies_on_write(&self) -> bool {
        self.copies_on_write
    }

    /// Lets the next command that fits fail.
    pub fn inject(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// How often a fault is still to happen.
    pub fn waiting(&self, fault: Fault) -> usize {
        self.faults.iter().filter(|waiting| **waiting == fault).count()
    }

    /// Faults that have not happened yet go away.
    pub fn clear_faults(&mut self) {
        self.faults.clear();
    }

    /// Forgets the faults that wait for a read.
    pub fn spare_reads(&mut self) {
        self.faults.retain(|fault| *fault != Fault::Read);
    }

    /// Whether faults are waiting.
    pub fn has_faults(&self) -> bool {
        !self.faults.is_empty()
    }

    fn takes(&mut self, fault: Fault) -> bool {
        let found = self.faults.iter().position(|f| *f == fault);
        found.map(|at| self.faults.swap_remove(at)).is_some()
    }

    /// Does a command, now. Same commands and same random stream, same outcome.
    pub fn apply(&mut self, command: &Command, random: &mut ChaCha8Rng) -> Outcome {
        if Fault::of_names(command).is_some_and(|fault| self.takes(fault)) {
            if random.next_u32() & 1 == 0 {
                self.perform(command, random)?;
            }
            return Err(DiskError::Io(5));
        }
        self.perform(command, random)
    }

    fn perform(&mut self, command: &Command, random: &mut ChaCha8Rng) -> Outcome {
        if let Command::Create { file } | Command::Remove { file } = command {
            self.turned.retain(|(turned, ..)| turned != file);
        }
        match command {
            Command::Create { file } => self.create(*file).map(|()| Success::Done),
            Command::Write { file, offset, data } => {
                self.write(*file, *offset as usize, data, random).map(|()| Success::Done)
            }
            Command::Read { file, offset, length } => {
                let found = self.file(file)?;
                let bytes = found.read(*offset as usize, *length as usize);
                if found.is_unreadable || self.takes(Fault::Read) {
                    Err(DiskError::Io(5))
                } else {
                    Ok(Success::Bytes(bytes))
                }
            }
            Command::Length { file } => Ok(Success::Length(self.file(file)?.length as u64)),
            Command::Sync { file } => self.sync(file, random).map(|()| Success::Done),
            Command::Fill { file, offset, length } => {
                let zeros = [Bytes::from(vec![0; *length as usize])];
                self.write(*file, *offset as usize, &zeros, random)?;
                self.sync(file, random).map(|()| Success::Done)
            }
            Command::Rename { from, to } => {
                let inode = self.inode(from)?;
                self.unlink(to);
                self.names.remove(from);
                self.names.insert(*to, inode as u32);
                self.changed.extend([*from, *to]);
                Ok(Success::Done)
            }
            Command::Remove { file } => {
                self.unlink(file);
                Ok(Success::Done)
            }
            Command::SyncDirectory { directory } => {
                if self.takes(Fault::Sync) {
                    return Err(DiskError::Io(5));
                }
                let changes = self.changed.iter().any(|file| file.directory() == *directory);
                if changes && self.lacks_room_to_sync(random) {
                    return Err(DiskError::NoSpace);
                }
                self.sync_directory(*directory);
                Ok(Success::Done)
            }
            Command::List { directory } => {
                let names = self.names.keys().filter(|file| file.directory() == *directory);
                let mut names: Vec<FileName> = names.copied().collect();
                names.sort_unstable();
                Ok(Success::Names(names))
            }
            Command::FreeSpace => Ok(Success::Free(self.free())),
        }
    }

    fn inode(&self, file: &FileName) -> Result<usize, DiskError> {
        self.names.get(file).map(|inode| *inode as usize).ok_or(DiskError::NotFound)
    }

    fn file(&self, file: &FileName) -> Result<&File, DiskError> {
        self.inode(file).map(|inode| &self.files[inode])
    }

    /// Bytes that are left.
    pub fn free(&self) -> u64 {
        self.capacity.map_or(1 << 50, |capacity| capacity.saturating_sub(self.used))
    }

    /// Whether it has a limit, and nothing is left below it.
    pub fn is_full(&self) -> bool {
        self.free() == 0
    }

    /// Whether this sync is one that finds no room for what it is to write.
    fn lacks_room_to_sync(&self, random: &mut ChaCha8Rng) -> bool {
        self.copies_on_write && self.is_full() && random.next_u32() & 1 == 0
    }

    fn has_space(&self, more: usize) -> Result<(), DiskError> {
        if more as u64 > self.free() { Err(DiskError::NoSpace) } else { Ok(()) }
    }

    fn create(&mut self, file: FileName) -> Result<(), DiskError> {
        self.has_space(usize::from(self.capacity.is_some()))?;
        if let Ok(inode) = self.inode(&file) {
            self.used -= self.files[inode].length as u64;
            self.files[inode].empty();
            return Ok(());
        }
        self.created[FileKind::of(&file) as usize] += 1;
        let is_segment = FileKind::of(&file) == FileKind::Segment;
        let new = File { is_segment, ..File::default() };
        let inode = match self.unused.pop() {
            Some(inode) => {
                self.files[inode as usize] = new;
                inode
            }
            None => {
                self.files.push(new);
                self.files.len() as u32 - 1
            }
        };
        self.names.insert(file, inode);
        self.changed.insert(file);
        Ok(())
    }

    fn write(
        &mut self,
        file: FileName,
        offset: usize,
        data: &[Bytes],
        random: &mut ChaCha8Rng,
    ) -> Result<(), DiskError> {
        let inode = self.inode(&file)?;
        if self.takes(Fault::Write) {
            // A part of it may be there.
            let pieces = random.next_u32() as usize % (data.len() + 1);
            let before = self.files[inode].length;
            self.files[inode].write(offset, &data[..pieces]);
            self.used += (self.files[inode].length - before) as u64;
            return Err(DiskError::Io(5));
        }
        let size: usize = data.iter().map(Bytes::len).sum();
        let before = self.files[inode].length;
        let free = usize::try_from(self.free()).unwrap_or(usize::MAX);
        let in_place = if self.copies_on_write { 0 } else { before.saturating_sub(offset) };
        let fits = in_place.saturating_add(free);
        let found = &mut self.files[inode];
        if size <= fits {
            found.write(offset, data);
        } else {
            found.write(offset, &beginning(data, fits));
        }
        self.used += (found.length - before) as u64;
        if size <= fits { Ok(()) } else { Err(DiskError::NoSpace) }
    }

    /// The process is gone in the middle of a command: of a write, some pages may be there, from its first on.
    pub fn begin(&mut self, command: &Command, random: &mut ChaCha8Rng) {
        let Command::Write { file, offset, data } = command else { return };
        let Ok(inode) = self.inode(file) else { return };
        let (offset, size) = (*offset as usize, data.iter().map(Bytes::len).sum::<usize>());
        if self.has_space(size).is_err() {
            return;
        }
        let pages = (offset + size).div_ceil(PAGE) - offset / PAGE;
        let whole = random.next_u32() as usize % (pages + 1);
        let end = ((offset / PAGE + whole) * PAGE).clamp(offset, offset + size);
        let found = &mut self.files[inode];
        let before = found.length;
        found.write(offset, &beginning(data, end - offset));
        self.used += (found.length - before) as u64;
    }

    fn sync(&mut self, file: &FileName, random: &mut ChaCha8Rng) -> Result<(), DiskError> {
        let inode = self.inode(file)?;
        let failure = if self.takes(Fault::Sync) {
            Some(DiskError::Io(5))
        } else {
            let is_dirty = self.files[inode].dirty_count > 0;
            (is_dirty && self.lacks_room_to_sync(random)).then_some(DiskError::NoSpace)
        };
        let found = &mut self.files[inode];
        if let Some(error) = failure {
            found.clean(|cache, media| {
                if random.next_u32() & 1 == 0 {
                    media.copy_from_slice(cache);
                }
            });
            if random.next_u32() & 1 == 0 {
                found.media_length = found.length;
            }
            return Err(error);
        }
        found.clean(|cache, media| media.copy_from_slice(cache));
        found.media_length = found.length;
        Ok(())
    }

    fn unlink(&mut self, file: &FileName) {
        if let Some(inode) = self.names.remove(file) {
            self.changed.insert(*file);
            self.used -= self.files[inode as usize].length as u64;
            self.release(inode);
        }
    }

    /// A name is gone; the file goes with the last one.
    fn release(&mut self, inode: u32) {
        let named = self.changed.iter().any(|file| {
            self.names.get(file) == Some(&inode) || self.media_names.get(file) == Some(&inode)
        });
        // Names that are not in `changed` are the same in both maps, and point at files that were not unlinked.
        if !named {
            self.files[inode as usize] = File::default();
            self.unused.push(inode);
        }
    }

    fn sync_directory(&mut self, directory: Directory) {
        let changed: Vec<FileName> =
            self.changed.iter().filter(|file| file.directory() == directory).copied().collect();
        let mut dropped = BTreeSet::new();
        for file in &changed {
            let before = match self.names.get(file) {
                Some(inode) => self.media_names.insert(*file, *inode),
                None => self.media_names.remove(file),
            };
            dropped.extend(before.filter(|inode| self.names.get(file) != Some(inode)));
        }
        dropped.into_iter().for_each(|inode| self.release(inode));
        for file in &changed {
            self.changed.remove(file);
        }
    }

    /// The process is gone, the machine is not: the page cache stays.
    pub fn crash(&mut self) {
        self.faults.clear();
    }

    /// The power is gone: of what was not synced, any part survives, as `random` decides. Returns how many things there were to
    /// decide.
    pub fn power_loss(&mut self, random: &mut ChaCha8Rng) -> usize {
        // Everything, most, half, little or nothing: extremes are where the faults are.
        let odds = random.next_u32() % 5;
        self.lose(|| random.next_u32() % 4 < odds)
    }

    /// The power is gone, and nothing that was not synced survives.
    pub fn power_loss_of_all(&mut self) {
        self.lose(|| false);
    }

    fn lose(&mut self, mut keep: impl FnMut() -> bool) -> usize {
        self.faults.clear();
        let mut choices = 0;
        for file in std::mem::take(&mut self.changed) {
            let (cached, durable) = (self.names.get(&file), self.media_names.get(&file));
            if cached == durable {
                continue;
            }
            choices += 1;
            if keep() {
                match cached {
                    Some(inode) => self.media_names.insert(file, *inode),
                    None => self.media_names.remove(&file),
                };
            }
        }
        self.names = self.media_names.clone();
        let mut named = vec![false; self.files.len()];
        self.names.values().for_each(|inode| named[*inode as usize] = true);
        self.unused.clear();
        self.used = 0;
        let shears = self.shears;
        for (inode, file) in self.files.iter_mut().enumerate() {
            if !named[inode] {
                *file = File::default();
                self.unused.push(inode as u32);
                continue;
            }
            if file.length != file.media_length {
                choices += 1;
                if keep() {
                    file.media_length = file.length;
                }
            }
            let is_segment = file.is_segment;
            file.clean(|cache, media| {
                choices += 1;
                if keep() {
                    media.copy_from_slice(cache);
                } else if shears && !is_segment && keep() {
                    media.fill(0xEE);
                }
            });
            file.length = file.media_length;
            file.grow(file.length);
            file.media[file.length..].fill(0);
            file.cache.clear();
            file.cache.extend_from_slice(&file.media);
            self.used += file.length as u64;
        }
        choices
    }

    /// The disk is replaced by an empty one of the same size.
    pub fn destroy(&mut self) {
        *self = Disk {
            capacity: self.capacity,
            created: self.created,
            shears: self.shears,
            copies_on_write: self.copies_on_write,
            ..Disk::default()
        };
    }

    /// Writes some dirty sectors to the media, as the kernel does when it likes to.
    pub fn write_back(&mut self, random: &mut ChaCha8Rng) {
        for file in &mut self.files {
            if file.dirty_count == 0 {
                continue;
            }
            let mut kept = Vec::new();
            let mut end = file.media_length;
            for sector in 0..file.cache.len() / SECTOR {
                if file.is_dirty(sector) {
                    kept.push((sector, random.next_u32().is_multiple_of(3)));
                }
            }
            let mut choices = kept.iter();
            file.clean(|cache, media| {
                if choices.next().is_some_and(|(_, written)| *written) {
                    media.copy_from_slice(cache);
                }
            });
            for (sector, written) in kept {
                if written {
                    end = end.max((sector + 1) * SECTOR);
                } else {
                    file.set_dirty(sector);
                }
            }
            file.media_length = file.media_length.max(end.min(file.length));
        }
    }

    /// Damages one synced sector of a file of one of these kinds that is not all zeros: one of its bytes changes, for reads as
    /// well. Returns where, or none where there is no such sector.
    pub fn corrupt(
        &mut self,
        kinds: &[FileKind],
        random: &mut ChaCha8Rng,
    ) -> Option<(FileName, usize)> {
        let names: Vec<(FileName, u32)> = self
            .names
            .iter()
            .filter(|(file, inode)| {
                kinds.contains(&FileKind::of(file)) && self.files[**inode as usize].length > 0
            })
            .map(|(file, inode)| (*file, *inode))
            .collect();
        for _ in 0..50 {
            let (name, inode) = *names.get(random.next_u32() as usize % names.len().max(1))?;
            let file = &mut self.files[inode as usize];
            let length = file.length.min(file.media_length);
            let at = random.next_u32() as usize % length.max(1);
            let sector = at / SECTOR;
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            if at >= length
                || file.is_dirty(sector)
                || file.cache[range.clone()] != file.media[range.clone()]
            {
                continue;
            }
            if file.media[range].iter().all(|byte| *byte == 0) {
                continue;
            }
            let flip = 1 << (random.next_u32() % 8);
            file.cache[at] ^= flip;
            file.media[at] ^= flip;
            return Some((name, at));
        }
        None
    }

    /// Turns one bit of a synced sector, for reads as well. False where there is no such sector.
    pub fn corrupt_at(&mut self, name: &FileName, at: usize, bit: u8) -> bool {
        let Some(inode) = self.media_names.get(name) else { return false };
        let file = &mut self.files[*inode as usize];
        if at >= file.length.min(file.media_length) || file.is_dirty(at / SECTOR) {
            return false;
        }
        let flip = 1 << (bit % 8);
        file.cache[at] ^= flip;
        file.media[at] ^= flip;
        self.turned.push((*name, at, flip));
        true
    }

    /// Whether a bit of a file was turned over.
    pub fn is_turned(&self, name: &FileName) -> bool {
        self.turned.iter().any(|(file, ..)| file == name)
    }

    /// Turns the bits of a file back that were turned over. Nothing may have been written there since.
    pub fn turn_back(&mut self, name: &FileName) {
        for (file, at, flip) in std::mem::take(&mut self.turned) {
            if file != *name {
                self.turned.push((file, at, flip));
            } else if let Some(inode) = self.media_names.get(name) {
                let file = &mut self.files[*inode as usize];
                file.cache[at] ^= flip;
                file.media[at] ^= flip;
            }
        }
    }

    /// From now on every read of a file fails. False where it has no durable name.
    pub fn make_unreadable(&mut self, name: &FileName) -> bool {
        let Some(inode) = self.media_names.get(name) else { return false };
        self.files[*inode as usize].is_unreadable = true;
        true
    }

    /// What a power loss that spares nothing unsynced would leave of a part of a file; shorter where the file is, none where it
    /// has no durable name.
    pub fn durable_bytes(&self, file: &FileName, offset: usize, length: usize) -> Option<&[u8]> {
        let found = &self.files[*self.media_names.get(file)? as usize];
        let from = offset.min(found.media_length);
        let to = offset.saturating_add(length).min(found.media_length);
        let to = to.min(found.media.len());
        Some(&found.media[from.min(to)..to])
    }

    /// Of a part of a file, as much from its beginning as a power loss leaves and a read sees; none where it has no durable name.
    pub fn flushed_bytes(&self, file: &FileName, offset: usize, length: usize) -> Option<&[u8]> {
        let bytes = self.durable_bytes(file, offset, length)?;
        let found = &self.files[*self.media_names.get(file)? as usize];
        let seen = &found.cache[offset.min(found.cache.len())..];
        if seen.get(..bytes.len()) == Some(bytes) {
            return Some(bytes);
        }
        let same = bytes.iter().zip(seen).take_while(|(left, read)| left == read).count();
        Some(&bytes[..same])
    }

    /// As much of the beginning of a file as a process sees.
    pub fn seen_bytes(&self, file: &FileName, length: u64) -> &[u8] {
        let Some(inode) = self.names.get(file) else { return &[] };
        let seen = &self.files[*inode as usize].cache;
        &seen[..seen.len().min(length as usize)]
    }

    /// Names that a power loss leaves.
    pub fn durable_names(&self) -> impl Iterator<Item = &FileName> {
        self.media_names.keys()
    }

    /// Names that a process sees.
    pub fn names(&self) -> impl Iterator<Item = &FileName> {
        self.names.keys()
    }

    /// Bytes in dirty sectors: what a power loss may take.
    pub fn unsynced_bytes(&self) -> usize {
        self.files.iter().map(|file| file.dirty_count * SECTOR).sum()
    }

    /// Bytes of all files.
    pub fn used_bytes(&self) -> u64 {
        self.used
    }

    /// How many files of a kind were ever created, recreations of an existing one not counted.
    pub fn created(&self, kind: FileKind) -> u64 {
        self.created[kind as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    const A: FileName = FileName::Superblock { copy: 0 };
    const B: FileName = FileName::Superblock { copy: 1 };

    fn random() -> ChaCha8Rng {
        ChaCha8Rng::from_seed([1; 32])
    }

    fn write(offset: u64, byte: u8, count: usize) -> Command {
        Command::Write { file: A, offset, data: vec![vec![byte; count].into()] }
    }

    fn read(disk: &mut Disk) -> Outcome {
        disk.apply(&Command::Read { file: A, offset: 0, length: 1 << 20 }, &mut random())
    }

    fn synced() -> Disk {
        let mut disk = Disk::new();
        let root = Command::SyncDirectory { directory: Directory::Root };
        for command in
            [Command::Create { file: A }, write(0, 1, 700), Command::Sync { file: A }, root]
        {
            assert_eq!(disk.apply(&command, &mut random()), Ok(Success::Done));
        }
        disk
    }

    #[test]
    fn power_loss_takes_only_what_was_not_synced() {
        let mut disk = synced();
        disk.apply(&write(600, 2, 1000), &mut random()).unwrap();
        disk.apply(&Command::Create { file: B }, &mut random()).unwrap();
        assert_eq!(disk.unsynced_bytes(), 3 * SECTOR);
        disk.crash();
        assert_eq!(disk.used_bytes(), 1600);
        disk.power_loss_of_all();
        assert_eq!(read(&mut disk), Ok(Success::Bytes(vec![1; 700].into())));
        assert_eq!(disk.names.len(), 1);
        assert_eq!((disk.used_bytes(), disk.unsynced_bytes()), (700, 0));
    }

    #[test]
    fn failed_sync_shows_what_the_media_does_not_have() {
        let mut disk = synced();
        disk.apply(&write(0, 2, 700), &mut random()).unwrap();
        disk.inject(Fault::Sync);
        let sync = Command::Sync { file: A };
        let mut random = ChaCha8Rng::from_seed([2; 32]);
        assert_eq!(disk.apply(&sync, &mut random), Err(DiskError::Io(5)));
        assert_eq!(disk.apply(&sync, &mut random), Ok(Success::Done));
        assert_eq!(read(&mut disk), Ok(Success::Bytes(vec![2; 700].into())));
        let left = disk.durable_bytes(&A, 0, 700).unwrap();
        assert!(left.contains(&1), "some sector did not reach the media");
    }

    #[test]
    fn removed_names_come_back_unless_the_folder_is_synced() {
        let mut disk = synced();
        disk.apply(&Command::Remove { file: A }, &mut random()).unwrap();
        assert_eq!(read(&mut disk), Err(DiskError::NotFound));
        let mut other = disk.clone();
        disk.power_loss_of_all();
        assert_eq!(read(&mut disk), Ok(Success::Bytes(vec![1; 700].into())));
        other.apply(&Command::SyncDirectory { directory: Directory::Root }, &mut random()).unwrap();
        other.power_loss_of_all();
        assert_eq!(read(&mut other), Err(DiskError::NotFound));
        assert_eq!(other.used_bytes(), 0);
    }

    #[test]
    fn a_full_disk_refuses_what_would_grow() {
        let mut disk = synced();
        disk.set_capacity(Some(800));
        assert_eq!(disk.apply(&write(690, 2, 111), &mut random()), Err(DiskError::NoSpace));
        let fitting = [vec![1; 690], vec![2; 110]].concat();
        assert_eq!(
            read(&mut disk),
            Ok(Success::Bytes(fitting.into())),
            "the part that fits is there"
        );
        assert_eq!(disk.free(), 0);
        assert_eq!(disk.apply(&write(0, 3, 800), &mut random()), Ok(Success::Done));
        assert_eq!(disk.free(), 0);
    }

    #[test]
    fn overwriting_and_syncing_take_room_where_the_file_system_copies() {
        let mut disk = synced();
        disk.copy_on_write(true);
        disk.set_capacity(Some(750));
        assert_eq!(disk.apply(&write(0, 2, 100), &mut random()), Err(DiskError::NoSpace));
        let half = [vec![2; 50], vec![1; 650]].concat();
        assert_eq!(read(&mut disk), Ok(Success::Bytes(half.into())));
        disk.set_capacity(Some(700));
        let mut random = random();
        let sync = Command::Sync { file: A };
        let mut outcomes = BTreeSet::new();
        for _ in 0..20 {
            disk.files[0].set_dirty(0);
            outcomes.insert(disk.apply(&sync, &mut random).is_ok());
            // What a failed sync dropped, the next one does not bring back.
            assert_eq!(disk.apply(&sync, &mut random), Ok(Success::Done));
        }
        assert_eq!(outcomes.len(), 2, "some find room, and some do not");
    }

    #[test]
    fn a_killed_process_leaves_whole_pages_of_its_write() {
        let mut seen = BTreeSet::new();
        let mut random = random();
        for _ in 0..30 {
            let mut disk = synced();
            disk.begin(&write(700, 2, 9_000), &mut random);
            assert_eq!(disk.used_bytes(), disk.files[0].length as u64);
            seen.insert(disk.used_bytes());
        }
        assert_eq!(seen, BTreeSet::from([700, 4_096, 8_192, 9_700]));
    }

    #[test]
    fn a_failed_rename_may_have_happened() {
        let mut seen = BTreeSet::new();
        let mut random = random();
        for _ in 0..20 {
            let mut disk = synced();
            disk.inject(Fault::Rename);
            let rename = Command::Rename { from: A, to: B };
            assert_eq!(disk.apply(&rename, &mut random), Err(DiskError::Io(5)));
            seen.insert(disk.names().copied().collect::<Vec<_>>());
        }
        assert_eq!(seen, BTreeSet::from([vec![A], vec![B]]));
    }
}
