//! The disk as core sees it: commands that come back, later, with a result.
//!
//! Commands to one file complete in the order in which they came out; commands to different files complete in any order.
//! Nothing is durable before [`Command::Sync`] of the file has returned and, for a file that was created, renamed or removed,
//! [`Command::SyncDirectory`] of its directory after that. The driver does what it is told and decides nothing: it
//! neither retries nor hides an error.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{LogId, TopicId};

/// A folder of the data directory. There are no others, and none is nested.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Directory {
    /// The data directory itself: superblock copies.
    Root,
    /// `journal/`: journal files and checkpoints.
    Journal,
    /// `segments/`: segments and their indexes of all partitions. One folder, so that one sync covers many of them.
    Segments,
    /// `snapshots/`: snapshots of the metadata.
    Snapshots,
}

/// A file of ours. The name is the whole truth about what a file is; [`fmt::Display`] and [`FromStr`] are inverse and frozen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum FileName {
    /// One of the two copies of the superblock.
    Superblock {
        /// 0 or 1.
        copy: u8,
    },
    /// One of the two slots of a journal's checkpoint.
    Checkpoint {
        /// The layout number that the superblock names.
        layout: u32,
        /// 0 is the quorum's journal, 1 + i that of shard i.
        journal: u16,
        /// 0 or 1.
        slot: u8,
    },
    /// One of a journal's files.
    Journal {
        /// The layout number that the superblock names.
        layout: u32,
        /// 0 is the quorum's journal, 1 + i that of shard i.
        journal: u16,
        /// Number of the file; contents are recycled, the number stays.
        index: u32,
    },
    /// Record batches of one log from a base offset on, as the wire carries them.
    Segment {
        /// The log.
        log: LogId,
        /// Offset of the first record it may hold.
        base: i64,
        /// Tells a segment from an earlier one at the same base that a truncation or reset has removed.
        generation: u32,
    },
    /// What lies beside a segment: sparse index and checksums of what a batch's CRC leaves out.
    Index {
        /// The log.
        log: LogId,
        /// As the segment's.
        base: i64,
        /// As the segment's.
        generation: u32,
    },
    /// A snapshot of the metadata up to (not including) an offset.
    Snapshot {
        /// End offset.
        end: i64,
        /// Term of the last record that it covers.
        epoch: i32,
        /// Part being written, or whole.
        whole: bool,
    },
}

impl FileName {
    /// The folder it lives in.
    pub fn directory(&self) -> Directory {
        match self {
            FileName::Superblock { .. } => Directory::Root,
            FileName::Checkpoint { .. } | FileName::Journal { .. } => Directory::Journal,
            FileName::Segment { .. } | FileName::Index { .. } => Directory::Segments,
            FileName::Snapshot { .. } => Directory::Snapshots,
        }
    }
}

impl Directory {
    /// Every folder, the root first.
    pub const ALL: [Directory; 4] =
        [Directory::Root, Directory::Journal, Directory::Segments, Directory::Snapshots];

    /// Its name below the data directory; empty for the root.
    pub fn name(self) -> &'static str {
        match self {
            Directory::Root => "",
            Directory::Journal => "journal",
            Directory::Segments => "segments",
            Directory::Snapshots => "snapshots",
        }
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let log = |f: &mut fmt::Formatter<'_>, log: &LogId| {
            log.topic.0.iter().try_for_each(|b| write!(f, "{b:02x}"))?;
            write!(f, "-{}", log.partition)
        };
        match self {
            FileName::Superblock { copy } => write!(f, "superblock.{copy}"),
            FileName::Checkpoint { layout, journal, slot } => {
                write!(f, "{layout:08}-{journal:03}.checkpoint.{slot}")
            }
            FileName::Journal { layout, journal, index } => {
                write!(f, "{layout:08}-{journal:03}-{index:06}.journal")
            }
            FileName::Segment { log: id, base, generation } => {
                log(f, id)?;
                write!(f, "-{base:020}-{generation}.log")
            }
            FileName::Index { log: id, base, generation } => {
                log(f, id)?;
                write!(f, "-{base:020}-{generation}.index")
            }
            FileName::Snapshot { end, epoch, whole } => {
                write!(f, "{end:020}-{epoch:010}.{}", if *whole { "snapshot" } else { "part" })
            }
        }
    }
}

/// A name that is none of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a file of this program")]
pub struct NotOurs;

impl FromStr for FileName {
    type Err = NotOurs;

    fn from_str(name: &str) -> Result<FileName, NotOurs> {
        let parsed = parse(name).ok_or(NotOurs)?;
        // Only the one spelling that we write: leading zeros or signs make another file of the same meaning.
        if parsed.to_string() == name { Ok(parsed) } else { Err(NotOurs) }
    }
}

fn parse(name: &str) -> Option<FileName> {
    let (stem, extension) = name.split_once('.')?;
    let mut parts = stem.split('-');
    let mut part = || parts.next();
    match extension {
        "0" | "1" if stem == "superblock" => {
            Some(FileName::Superblock { copy: extension.parse().ok()? })
        }
        "checkpoint.0" | "checkpoint.1" => Some(FileName::Checkpoint {
            layout: part()?.parse().ok()?,
            journal: part()?.parse().ok()?,
            slot: extension[11..].parse().ok()?,
        }),
        "journal" => Some(FileName::Journal {
            layout: part()?.parse().ok()?,
            journal: part()?.parse().ok()?,
            index: part()?.parse().ok()?,
        }),
        "log" | "index" => {
            let hex = part()?;
            if hex.len() != 32 || !hex.is_ascii() {
                return None;
            }
            let mut topic = [0; 16];
            for (i, byte) in topic.iter_mut().enumerate() {
                *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
            }
            let log = LogId { topic: TopicId(topic), partition: part()?.parse().ok()? };
            let (base, generation) = (part()?.parse().ok()?, part()?.parse().ok()?);
            Some(match extension {
                "log" => FileName::Segment { log, base, generation },
                _ => FileName::Index { log, base, generation },
            })
        }
        "snapshot" | "part" => Some(FileName::Snapshot {
            end: part()?.parse().ok()?,
            epoch: part()?.parse().ok()?,
            whole: extension == "snapshot",
        }),
        _ => None,
    }
}

/// What the driver is to do. None of these is retried or reordered within a file by the driver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// When a file is to exist, empty: made with its folder where they are missing, cut to nothing where it is there.
    Create {
        /// The file.
        file: FileName,
    },
    /// When bytes are to stand at a position. Writing past the end grows the file, a gap reads as zeros. Answered when the
    /// bytes are readable, which is not when they are durable.
    Write {
        /// The file, which exists.
        file: FileName,
        /// Byte position.
        offset: u64,
        /// Written one after the other.
        data: Vec<Bytes>,
    },
    /// When bytes are wanted: as many as there are, up to `length`.
    Read {
        /// The file.
        file: FileName,
        /// Byte position.
        offset: u64,
        /// Most bytes to return.
        length: u32,
    },
    /// When the file's length in bytes is wanted.
    Length {
        /// The file.
        file: FileName,
    },
    /// When what was written, and the length, must be on stable storage before the answer (fdatasync).
    Sync {
        /// The file.
        file: FileName,
    },
    /// When zeros are to stand from a position on, on stable storage before the answer, so that what is written there later needs
    /// no room. Takes its time, and nothing but the file waits for it.
    Fill {
        /// The file.
        file: FileName,
        /// Byte position.
        offset: u64,
        /// So many zeros.
        length: u64,
    },
    /// When a file gets another name in the same folder, replacing what is there.
    Rename {
        /// The old name.
        from: FileName,
        /// The new name.
        to: FileName,
    },
    /// When a file is to be gone. One that is not there is no error.
    Remove {
        /// The file.
        file: FileName,
    },
    /// When creations, renames and removals in a folder, and the folder itself, must be on stable storage before the answer.
    SyncDirectory {
        /// The folder.
        directory: Directory,
    },
    /// When the files of a folder are wanted; a missing folder is an empty one.
    List {
        /// The folder.
        directory: Directory,
    },
    /// When the file system's free bytes are wanted.
    FreeSpace,
}

impl Command {
    /// The file that it is about; none for those about folders and the file system.
    pub fn file(&self) -> Option<FileName> {
        match self {
            Command::Create { file }
            | Command::Write { file, .. }
            | Command::Read { file, .. }
            | Command::Length { file }
            | Command::Sync { file }
            | Command::Fill { file, .. }
            | Command::Rename { from: file, .. }
            | Command::Remove { file } => Some(*file),
            Command::SyncDirectory { .. } | Command::List { .. } | Command::FreeSpace => None,
        }
    }

    /// The files whose order of commands it keeps: a rename comes after what was asked before, and before what is asked later, of
    /// the old name and of the new one.
    pub fn files(&self) -> [Option<FileName>; 2] {
        let target = match self {
            Command::Rename { to, .. } => Some(*to),
            _ => None,
        };
        [self.file(), target]
    }
}

/// What came of a command.
pub type Outcome = Result<Success, DiskError>;

/// A command that succeeded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Success {
    /// It is done.
    Done,
    /// Of [`Command::Read`]: fewer bytes than asked for only at the end of the file.
    Bytes(Bytes),
    /// Of [`Command::Length`], bytes.
    Length(u64),
    /// Of [`Command::List`], sorted; names that are none of ours are left out.
    Names(Vec<FileName>),
    /// Of [`Command::FreeSpace`], bytes.
    Free(u64),
}

/// A command that failed. What it may have done in part is undefined, as on a real disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DiskError {
    /// There is no such file.
    #[error("no such file")]
    NotFound,
    /// The file system or the quota is full.
    #[error("no space left")]
    NoSpace,
    /// Anything else, with the operating system's number (EIO is 5).
    #[error("input/output error {0}")]
    Io(i32),
}
