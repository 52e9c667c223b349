//! The file layer: carries out the disk commands of `core` in one data directory, and decides nothing.
//!
//! [`Files::execute`] does one command and returns when it is done; who calls it from which thread, and in which order, is
//! the business of [`lanes`]. Two ways to keep bytes: straight in the file system ([`direct`]), or with everything
//! unsynced held in this process's memory ([`memory`]), so that `kill -9` has the effect of a power loss.

mod direct;
pub mod lanes;
mod memory;
mod open;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use milena_core::disk::{Command, DiskError, FileName, Outcome};

pub use direct::Direct;
pub use memory::Memory;

use crate::metrics::Histogram;

/// What happens to writes before their sync.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unsynced {
    /// They go to the file system, which keeps them in its page cache: a crash of the process loses nothing.
    PageCache,
    /// They stay in this process until synced: a crash of the process is a power loss. For tests.
    Memory,
    /// As `Memory`, and a sync says yes but does nothing: a driver with the worst bug there is. For the test that shows that
    /// such a driver is caught.
    MemoryAndSkipSyncs,
}

impl Unsynced {
    /// Of the value of `MILENA_UNSYNCED`; none where it is not one.
    pub fn parse(value: &str) -> Option<Unsynced> {
        match value {
            "" | "page-cache" => Some(Unsynced::PageCache),
            "memory" => Some(Unsynced::Memory),
            "memory-and-skip-syncs" => Some(Unsynced::MemoryAndSkipSyncs),
            _ => None,
        }
    }
}

/// One data directory, held by this process alone.
pub struct Files {
    mode: Mode,
    /// Held for as long as a number takes to be added.
    sync_times: Mutex<SyncTimes>,
    /// Held for its lock.
    _lock: File,
}

/// How long files took to be synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SyncTimes {
    /// Those of the journals and the superblock, which clients wait for.
    pub journals: Histogram,
    /// All others.
    pub segments: Histogram,
}

enum Mode {
    Direct(Direct),
    Memory(Memory),
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "data directory {0} is in use by another process; stop that one or give another --data"
    )]
    InUse(PathBuf),
    /// The file system refuses.
    #[error(
        "data directory {0}: {1}; check that it exists and may be written to, or give another --data"
    )]
    Io(PathBuf, io::Error),
}

impl Files {
    /// Opens a data directory, makes it if need be, and locks it against other processes until dropped.
    pub fn open(root: &Path, unsynced: Unsynced) -> Result<Files, OpenError> {
        let fail = |error| OpenError::Io(root.to_path_buf(), error);
        make_durable(root).map_err(fail)?;
        let lock = File::create(root.join("lock")).map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(OpenError::InUse(root.to_path_buf()));
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(fail(error)),
        }
        let direct = Direct::new(root.to_path_buf());
        let mode = match unsynced {
            Unsynced::PageCache => Mode::Direct(direct),
            Unsynced::Memory => Mode::Memory(Memory::open(direct, true).map_err(fail)?),
            Unsynced::MemoryAndSkipSyncs => {
                Mode::Memory(Memory::open(direct, false).map_err(fail)?)
            }
        };
        Ok(Files { mode, sync_times: Mutex::default(), _lock: lock })
    }

    /// Carries out one command on the calling thread.
    pub fn execute(&self, command: &Command) -> Outcome {
        let Command::Sync { file } = command else { return self.carry_out(command) };
        let began = Instant::now();
        let outcome = self.carry_out(command);
        let took = began.elapsed();
        let mut times = self.sync_times.lock().expect("adding a number does not panic");
        match file {
            FileName::Journal { .. } | FileName::Superblock { .. } => times.journals.record(took),
            _ => times.segments.record(took),
        }
        outcome
    }

    fn carry_out(&self, command: &Command) -> Outcome {
        match &self.mode {
            Mode::Direct(direct) => direct.execute(command),
            Mode::Memory(memory) => memory.execute(command),
        }
    }

    /// Whether a command was given up because there was no descriptor for too long. Its outcome says nothing about the disk, so
    /// that it must not be told, and the node ends.
    pub fn is_exhausted(&self) -> bool {
        match &self.mode {
            Mode::Direct(direct) => direct.is_exhausted(),
            Mode::Memory(memory) => memory.is_exhausted(),
        }
    }

    /// How long syncs took since it was opened.
    pub fn sync_times(&self) -> SyncTimes {
        *self.sync_times.lock().expect("adding a number does not panic")
    }
}

/// Makes a directory that outlives a power loss: each folder that is new is entered in its parent, and that is synced. So is
/// the parent of one that is there already: who made it may have died before the sync.
fn make_durable(directory: &Path) -> io::Result<()> {
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    if !directory.is_dir() {
        if !parent.is_dir() {
            make_durable(parent)?;
        }
        match std::fs::create_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
    }
    match File::open(parent) {
        // A folder that others keep from being read was there before this program could have made anything in it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        parent => parent?.sync_all(),
    }
}

/// What `core` calls an error of the operating system.
fn disk_error(error: &io::Error) -> DiskError {
    match error.kind() {
        io::ErrorKind::NotFound => DiskError::NotFound,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskError::NoSpace,
        _ => DiskError::Io(error.raw_os_error().unwrap_or(5)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use milena_core::disk::{Directory, FileName, Success};

    const A: FileName = FileName::Journal { layout: 1, journal: 0, index: 0 };
    const B: FileName = FileName::Journal { layout: 1, journal: 0, index: 1 };

    fn write(offset: u64, parts: &[&'static [u8]]) -> Command {
        Command::Write {
            file: A,
            offset,
            data: parts.iter().map(|p| Bytes::from_static(p)).collect(),
        }
    }

    fn done(files: &Files, commands: &[Command]) {
        for command in commands {
            assert_eq!(files.execute(command), Ok(Success::Done), "{command:?}");
        }
    }

    fn read(files: &Files, file: FileName) -> Outcome {
        files.execute(&Command::Read { file, offset: 0, length: 100 })
    }

    fn bytes(text: &'static [u8]) -> Outcome {
        Ok(Success::Bytes(Bytes::from_static(text)))
    }

    fn names(files: &Files) -> Vec<FileName> {
        match files.execute(&Command::List { directory: Directory::Journal }) {
            Ok(Success::Names(names)) => names,
            other => panic!("{other:?}"),
        }
    }

    const SYNC: Command = Command::Sync { file: A };
    const SYNC_DIRECTORY: Command = Command::SyncDirectory { directory: Directory::Journal };

    /// What every mode must do alike while the process lives.
    fn behaves(unsynced: Unsynced) {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::open(directory.path(), unsynced).unwrap();
        assert_eq!(read(&files, A), Err(DiskError::NotFound));
        assert_eq!(files.execute(&SYNC), Err(DiskError::NotFound));
        assert_eq!(files.execute(&write(0, &[b"x"])), Err(DiskError::NotFound));
        assert_eq!(names(&files), []);
        done(&files, &[Command::Create { file: A }, write(0, &[b"hello ", b"", b"world"])]);
        assert_eq!(read(&files, A), bytes(b"hello world"));
        assert_eq!(files.execute(&Command::Read { file: A, offset: 6, length: 3 }), bytes(b"wor"));
        assert_eq!(files.execute(&Command::Read { file: A, offset: 11, length: 3 }), bytes(b""));
        assert_eq!(files.execute(&Command::Read { file: A, offset: 99, length: 3 }), bytes(b""));
        done(&files, &[SYNC, write(13, &[b"!"]), write(0, &[b"J"])]);
        assert_eq!(read(&files, A), bytes(b"Jello world\0\0!"));
        assert_eq!(files.execute(&Command::Length { file: A }), Ok(Success::Length(14)));
        done(&files, &[Command::Create { file: A }, write(2, &[b"s"])]);
        assert_eq!(read(&files, A), bytes(b"\0\0s"));
        done(&files, &[SYNC]);
        assert_eq!(read(&files, A), bytes(b"\0\0s"));
        done(&files, &[Command::Create { file: B }, SYNC_DIRECTORY]);
        assert_eq!(names(&files), [A, B]);
        done(&files, &[Command::Rename { from: A, to: B }]);
        assert_eq!(names(&files), [B]);
        assert_eq!(read(&files, B), bytes(b"\0\0s"));
        assert_eq!(read(&files, A), Err(DiskError::NotFound));
        assert_eq!(files.execute(&Command::Rename { from: A, to: B }), Err(DiskError::NotFound));
        done(&files, &[Command::Create { file: B }]);
        assert_eq!(read(&files, B), bytes(b""));
        done(&files, &[Command::Remove { file: B }, Command::Remove { file: B }, SYNC_DIRECTORY]);
        assert_eq!(names(&files), []);
        assert!(matches!(files.execute(&Command::FreeSpace), Ok(Success::Free(free)) if free > 0));
    }

    #[test]
    fn page_cache_mode_behaves() {
        behaves(Unsynced::PageCache);
    }

    #[test]
    fn memory_mode_behaves() {
        behaves(Unsynced::Memory);
    }

    /// Runs commands, forgets the process, opens again and says what is there.
    fn after_kill(unsynced: Unsynced, commands: &[Command]) -> (Vec<FileName>, Outcome) {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::open(directory.path(), unsynced).unwrap();
        done(&files, commands);
        drop(files);
        let files = Files::open(directory.path(), Unsynced::Memory).unwrap();
        (names(&files), read(&files, A))
    }

    #[test]
    fn a_kill_loses_what_was_not_synced() {
        let create = Command::Create { file: A };
        let mode = Unsynced::Memory;
        // The file synced, its name not.
        let (there, _) = after_kill(mode, &[create.clone(), write(0, &[b"a"]), SYNC]);
        assert_eq!(there, []);
        // The name synced, the bytes not.
        let (there, content) =
            after_kill(mode, &[create.clone(), write(0, &[b"a"]), SYNC_DIRECTORY]);
        assert_eq!((there, content), (vec![A], bytes(b"")));
        // Both, then more.
        let both = [create, write(0, &[b"abc"]), SYNC, SYNC_DIRECTORY];
        let more = [write(1, &[b"X"])];
        let (_, content) = after_kill(mode, &[&both[..], &more[..]].concat());
        assert_eq!(content, bytes(b"abc"));
        let (_, content) = after_kill(mode, &[&both[..], &more[..], &[SYNC]].concat());
        assert_eq!(content, bytes(b"aXc"));
        // A removal and a rename count with the directory's sync only.
        let remove = Command::Remove { file: A };
        let (there, content) =
            after_kill(mode, &[&both[..], std::slice::from_ref(&remove)].concat());
        assert_eq!((there, content), (vec![A], bytes(b"abc")));
        let (there, _) = after_kill(mode, &[&both[..], &[remove, SYNC_DIRECTORY]].concat());
        assert_eq!(there, []);
        let rename = Command::Rename { from: A, to: B };
        let (there, _) = after_kill(mode, &[&both[..], std::slice::from_ref(&rename)].concat());
        assert_eq!(there, [A]);
        let (there, _) = after_kill(mode, &[&both[..], &[rename, SYNC_DIRECTORY]].concat());
        assert_eq!(there, [B]);
    }

    #[test]
    fn the_page_cache_survives_a_kill_and_a_lying_sync_does_not() {
        let commands = [
            Command::Create { file: A },
            SYNC_DIRECTORY,
            write(0, &[b"abc"]),
            SYNC,
            write(3, &[b"d"]),
        ];
        assert_eq!(after_kill(Unsynced::PageCache, &commands).1, bytes(b"abcd"));
        assert_eq!(after_kill(Unsynced::Memory, &commands).1, bytes(b"abc"));
        assert_eq!(after_kill(Unsynced::MemoryAndSkipSyncs, &commands).0, []);
    }

    #[test]
    fn a_directory_has_one_owner() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::open(directory.path(), Unsynced::PageCache).unwrap();
        let second = Files::open(directory.path(), Unsynced::PageCache);
        assert!(matches!(second, Err(OpenError::InUse(_))));
        drop(files);
        Files::open(directory.path(), Unsynced::PageCache).unwrap();
    }
}
