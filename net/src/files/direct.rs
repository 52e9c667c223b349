//! Disk commands straight on the file system, through files that are kept open ([`OpenFiles`]).
//!
//! Where the system has no descriptor or memory left to open or read a file, a command waits until it has: that says nothing
//! about the file, and an error would make core believe that the disk is damaged. Where there is none for ever, nothing is said of
//! the command, and the node ends. A write or a sync is never tried again, whatever its
//! error: the next sync could say yes to what the kernel has dropped.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use milena_core::disk::{Command, Directory, FileName, Outcome, Success};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use super::disk_error;
use super::open::{Open, OpenFiles};
use crate::accept::{EXHAUSTED_MS, is_exhaustion};

/// Files that are kept open.
const OPEN_FILES_MAX: usize = 768;
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
/// A file is filled with a sync after each so many bytes.
const FILL_SYNC_BYTES: u64 = 1 << 20;
/// Slices per call of pwritev; the kernel takes 1024.
const SLICES_MAX: usize = 1024;

/// The files of one data directory.
pub struct Direct {
    root: PathBuf,
    open: OpenFiles,
    /// Whether a folder's own entry in the root is known to be synced, by [`Directory`].
    rooted: [AtomicBool; Directory::ALL.len()],
    /// Whether a command found no descriptor for too long.
    exhausted: AtomicBool,
}

impl Direct {
    /// The files below `root`, which exists.
    pub fn new(root: PathBuf) -> Direct {
        Direct::over(root, OpenFiles::new(OPEN_FILES_MAX, Box::new(File::sync_data)))
    }

    fn over(root: PathBuf, open: OpenFiles) -> Direct {
        Direct { root, open, rooted: Default::default(), exhausted: AtomicBool::new(false) }
    }

    /// Whether a command was given up for want of descriptors: its outcome says nothing about the disk.
    pub fn is_exhausted(&self) -> bool {
        self.exhausted.load(Ordering::Acquire)
    }

    /// The data directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a folder is.
    pub fn folder(&self, directory: Directory) -> PathBuf {
        self.root.join(directory.name())
    }

    /// Where a file is.
    pub fn path(&self, file: FileName) -> PathBuf {
        self.folder(file.directory()).join(file.to_string())
    }

    /// Carries out one command.
    pub fn execute(&self, command: &Command) -> Outcome {
        self.attempt(command).map_err(|error| disk_error(&error))
    }

    /// Opens or reads something, as soon as the system has what that takes.
    fn patiently<T>(&self, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let mut patience = Patience::default();
        loop {
            match attempt() {
                Err(error) if is_shortage(&error) => {
                    self.open.close_what_is_synced();
                    if patience.is_over() && is_exhaustion(&error) {
                        self.exhausted.store(true, Ordering::Release);
                        return Err(error);
                    }
                    patience.wait(&error);
                }
                outcome => return outcome,
            }
        }
    }

    fn attempt(&self, command: &Command) -> io::Result<Success> {
        match command {
            Command::Create { file } => self.create(*file)?,
            Command::Write { file, offset, data } => {
                self.file(*file)?.write(|file| write_all_at(file, data, *offset))?;
            }
            Command::Read { file, offset, length } => {
                let open = self.file(*file)?;
                let read = || read_at(&open.file, *offset, *length);
                return self.patiently(read).map(Success::Bytes);
            }
            Command::Length { file } => {
                return Ok(Success::Length(self.file(*file)?.file.metadata()?.len()));
            }
            Command::Sync { file } => {
                self.open.sync(&*self.file(*file)?)?;
            }
            Command::Fill { file, offset, length } => {
                let open = self.file(*file)?;
                // Really written: reserved alone, each later sync would have to note what is no longer unwritten.
                // Synced piece by piece: a process that is asked to stop meanwhile cannot end before the sync that runs.
                let (mut at, end) = (*offset, offset + length);
                while at < end {
                    let count = ZEROS.len().min((end - at) as usize);
                    let zeros = [Bytes::from_static(&ZEROS[..count])];
                    open.write(|file| write_all_at(file, &zeros, at))?;
                    at += count as u64;
                    if (at - offset).is_multiple_of(FILL_SYNC_BYTES) || at == end {
                        self.open.sync(&open)?;
                    }
                }
            }
            Command::Rename { from, to } => {
                std::fs::rename(self.path(*from), self.path(*to))?;
                self.open.rename(*from, *to);
            }
            Command::Remove { file } => match std::fs::remove_file(self.path(*file)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => self.open.remove(*file),
            },
            Command::SyncDirectory { directory } => self.sync_directory(*directory)?,
            Command::List { directory } => {
                return self.patiently(|| self.list(*directory)).map(Success::Names);
            }
            Command::FreeSpace => {
                let status = rustix::fs::statvfs(&self.root)?;
                return Ok(Success::Free(status.f_bavail.saturating_mul(status.f_frsize)));
            }
        }
        Ok(Success::Done)
    }

    fn create(&self, file: FileName) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let path = self.path(file);
        let made = self.patiently(|| match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(self.folder(file.directory()))?;
                options.open(&path)
            }
            other => other,
        })?;
        self.open.begin(file, made);
        Ok(())
    }

    fn sync_directory(&self, directory: Directory) -> io::Result<()> {
        let folder = self.folder(directory);
        std::fs::create_dir_all(&folder)?;
        self.patiently(|| File::open(&folder))?.sync_all()?;
        let rooted = &self.rooted[Directory::ALL.iter().position(|d| *d == directory).unwrap_or(0)];
        if directory != Directory::Root && !rooted.load(Ordering::Relaxed) {
            self.patiently(|| File::open(&self.root))?.sync_all()?;
            rooted.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The files of ours in a folder, sorted.
    pub fn list(&self, directory: Directory) -> io::Result<Vec<FileName>> {
        let entries = match std::fs::read_dir(self.folder(directory)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let file = name.to_str().and_then(|name| name.parse::<FileName>().ok());
            names.extend(file.filter(|file| file.directory() == directory));
        }
        names.sort_unstable();
        Ok(names)
    }

    fn file(&self, file: FileName) -> io::Result<Arc<Open>> {
        if let Some(found) = self.open.get(file) {
            return Ok(found);
        }
        let path = self.path(file);
        let opened = self.patiently(|| OpenOptions::new().read(true).write(true).open(&path))?;
        Ok(self.open.keep(file, opened))
    }
}

/// Whether the system lacks something that has nothing to do with the file.
fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN];
    error.raw_os_error().is_some_and(|code| shortages.iter().any(|e| e.raw_os_error() == code))
}

/// Waiting for descriptors or memory, with a line in the log now and then.
#[derive(Default)]
struct Patience {
    waits: u32,
}

impl Patience {
    const PAUSE: Duration = Duration::from_millis(20);
    /// Pauses between two lines: ten seconds.
    const LINE_EVERY: u32 = 500;

    fn is_over(&self) -> bool {
        Self::PAUSE * self.waits >= Duration::from_millis(EXHAUSTED_MS)
    }

    fn wait(&mut self, error: &io::Error) {
        if self.waits.is_multiple_of(Self::LINE_EVERY) {
            tracing::warn!(
                "the disk waits, for the system has no more to give ({error}): raise the limit of open files or of memory"
            );
        }
        self.waits += 1;
        crate::runtime::pause(Self::PAUSE);
    }
}

/// Reads what is there, up to `length` bytes.
pub(super) fn read_at(file: &File, offset: u64, length: u32) -> io::Result<Bytes> {
    let there = file.metadata()?.len().saturating_sub(offset);
    let wanted = usize::try_from(there.min(u64::from(length))).unwrap_or(usize::MAX);
    let mut bytes = Vec::with_capacity(wanted);
    while bytes.len() < wanted {
        let at = offset + bytes.len() as u64;
        match rustix::io::pread(file, spare_capacity(&mut bytes), at) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(wanted);
    Ok(bytes.into())
}

/// Writes all of it, one part after the other, from `offset` on.
pub(super) fn write_all_at(file: &File, data: &[Bytes], mut offset: u64) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> =
        data.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)).collect();
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        let count = rest.len().min(SLICES_MAX);
        match rustix::io::pwritev(file, &rest[..count], offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut rest, written);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
