//! Disk commands straight on the file system.
//!
//! Open files are kept and the least recently used one is closed at a cap, so that the number of descriptors does not grow
//! with the number of partitions. A file that has unsynced writes is closed only when no other is left to close, and is synced
//! first: the kernel may forget a failed write-back together with the file that nobody holds open.
//!
//! Where the system has no descriptor or memory left to open or read a file, a command waits until it has: that says nothing
//! about the file, and an error would make core believe that the disk is damaged. A write or a sync is never tried again, whatever its
//! error: the next sync could say yes to what the kernel has dropped.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use milena_core::disk::{Command, Directory, FileName, Outcome, Success};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use super::disk_error;

/// Open files at most, unless more than that have unsynced writes.
const OPEN_FILES_MAX: usize = 768;
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
/// A file is filled with a sync after each so many bytes.
const FILL_SYNC_BYTES: u64 = 1 << 20;
/// Slices per call of pwritev; the kernel takes 1024.
const SLICES_MAX: usize = 1024;

/// The files of one data directory.
pub struct Direct {
    root: PathBuf,
    open: Mutex<HashMap<FileName, Arc<Open>>>,
    uses: AtomicU64,
    /// Whether a folder's own entry in the root is known to be synced, by [`Directory`].
    rooted: [AtomicBool; Directory::ALL.len()],
}

struct Open {
    file: File,
    last_use: AtomicU64,
    unsynced: AtomicBool,
    /// Whether a sync that nobody asked for has failed: the next one that is asked for says so.
    failed: AtomicBool,
}

impl Open {
    fn sync(&self) -> io::Result<()> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(Errno::IO.into());
        }
        self.unsynced.store(false, Ordering::Relaxed);
        self.file.sync_data()
    }
}

impl Direct {
    /// The files below `root`, which exists.
    pub fn new(root: PathBuf) -> Direct {
        Direct { root, open: Mutex::default(), uses: AtomicU64::new(0), rooted: Default::default() }
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
                    self.close_what_is_synced();
                    patience.wait(&error);
                }
                outcome => return outcome,
            }
        }
    }

    /// Gives descriptors back; a file is opened again when it is needed.
    fn close_what_is_synced(&self) {
        self.open().retain(|_, entry| is_in_use(entry) || entry.unsynced.load(Ordering::Relaxed));
    }

    fn attempt(&self, command: &Command) -> io::Result<Success> {
        match command {
            Command::Create { file } => self.create(*file)?,
            Command::Write { file, offset, data } => {
                let open = self.file(*file)?;
                open.unsynced.store(true, Ordering::Relaxed);
                write_all_at(&open.file, data, *offset)?;
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
                self.file(*file)?.sync()?;
            }
            Command::Fill { file, offset, length } => {
                let open = self.file(*file)?;
                open.unsynced.store(true, Ordering::Relaxed);
                // Really written: reserved alone, each later sync would have to note what is no longer unwritten.
                // Synced piece by piece: a process that is asked to stop meanwhile cannot end before the sync that runs.
                let (mut at, end) = (*offset, offset + length);
                while at < end {
                    let count = ZEROS.len().min((end - at) as usize);
                    write_all_at(&open.file, &[Bytes::from_static(&ZEROS[..count])], at)?;
                    at += count as u64;
                    if (at - offset).is_multiple_of(FILL_SYNC_BYTES) || at == end {
                        open.sync()?;
                    }
                }
            }
            Command::Rename { from, to } => {
                let mut open = self.open();
                open.remove(from);
                open.remove(to);
                std::fs::rename(self.path(*from), self.path(*to))?;
            }
            Command::Remove { file } => {
                self.open().remove(file);
                match std::fs::remove_file(self.path(*file)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
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
        self.keep(&mut self.open(), file, made).unsynced.store(true, Ordering::Relaxed);
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

    fn open(&self) -> MutexGuard<'_, HashMap<FileName, Arc<Open>>> {
        self.open.lock().expect("no panic while the table is held")
    }

    fn file(&self, file: FileName) -> io::Result<Arc<Open>> {
        if let Some(found) = self.kept(&self.open(), file) {
            return Ok(found);
        }
        let path = self.path(file);
        let opened = self.patiently(|| OpenOptions::new().read(true).write(true).open(&path))?;
        let mut open = self.open();
        // Another lane may have opened it meanwhile.
        let found = self.kept(&open, file);
        Ok(found.unwrap_or_else(|| self.keep(&mut open, file, opened)))
    }

    fn kept(&self, open: &HashMap<FileName, Arc<Open>>, file: FileName) -> Option<Arc<Open>> {
        let found = open.get(&file)?;
        found.last_use.store(self.uses.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        Some(found.clone())
    }

    fn keep(
        &self,
        open: &mut HashMap<FileName, Arc<Open>>,
        name: FileName,
        file: File,
    ) -> Arc<Open> {
        while open.len() >= OPEN_FILES_MAX {
            let idle = open.iter().filter(|(_, entry)| !is_in_use(entry));
            let oldest = idle.min_by_key(|(_, entry)| {
                (entry.unsynced.load(Ordering::Relaxed), entry.last_use.load(Ordering::Relaxed))
            });
            let Some(oldest) = oldest.map(|(name, _)| *name) else { break };
            let unsynced = &open[&oldest];
            if unsynced.unsynced.load(Ordering::Relaxed) && unsynced.sync().is_err() {
                // Whoever wanted another file is not the one to be told. It stays open until its own sync is asked for.
                unsynced.failed.store(true, Ordering::Relaxed);
                unsynced.unsynced.store(true, Ordering::Relaxed);
                break;
            }
            open.remove(&oldest);
        }
        let entry = Arc::new(Open {
            file,
            last_use: AtomicU64::new(self.uses.fetch_add(1, Ordering::Relaxed)),
            unsynced: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        });
        open.insert(name, entry.clone());
        entry
    }
}

/// Whether somebody holds it beside the table, who may be about to write.
fn is_in_use(entry: &Arc<Open>) -> bool {
    Arc::strong_count(entry) > 1
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
mod tests {
    use super::*;
    use milena_core::disk::DiskError;

    /// A sync that failed while nobody asked is told to whoever asks next, and its file is not closed before.
    #[test]
    fn a_failed_sync_is_not_forgotten_with_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let files = Direct::new(directory.path().to_path_buf());
        let file = |index| FileName::Journal { layout: 1, journal: 0, index };
        files.execute(&Command::Create { file: file(0) }).unwrap();
        files.file(file(0)).unwrap().failed.store(true, Ordering::Relaxed);
        for index in 1..=OPEN_FILES_MAX as u32 {
            files.execute(&Command::Create { file: file(index) }).unwrap();
        }
        files.close_what_is_synced();
        assert_eq!(files.execute(&Command::Sync { file: file(0) }), Err(DiskError::Io(5)));
        assert_eq!(files.execute(&Command::Sync { file: file(1) }), Ok(Success::Done));
    }
}
