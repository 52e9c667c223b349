//! What the interaction scripts share: a disk that does everything at once and loses nothing.
//!
//! Faults of disks are the simulator's work; here only the protocol is looked at.

use std::collections::BTreeMap;

use bytes::Bytes;
use milena_core::disk::{Command, Directory, DiskError, FileName, Outcome, Success};

/// A disk on which every command succeeds at once and everything is durable.
#[derive(Clone, Default, Debug)]
pub struct InstantDisk {
    files: BTreeMap<FileName, Vec<u8>>,
    /// Whether it says that nothing is free.
    pub full: bool,
}

impl InstantDisk {
    /// Carries out a command.
    pub fn apply(&mut self, command: &Command) -> Outcome {
        match command {
            Command::Create { file } => {
                self.files.insert(*file, Vec::new());
            }
            Command::Write { file, offset, data } => {
                let bytes = self.files.get_mut(file).ok_or(DiskError::NotFound)?;
                let mut at = *offset as usize;
                for piece in data {
                    if bytes.len() < at + piece.len() {
                        bytes.resize(at + piece.len(), 0);
                    }
                    bytes[at..at + piece.len()].copy_from_slice(piece);
                    at += piece.len();
                }
            }
            Command::Read { file, offset, length } => {
                let bytes = self.files.get(file).ok_or(DiskError::NotFound)?;
                let start = (*offset as usize).min(bytes.len());
                let end = (start + *length as usize).min(bytes.len());
                return Ok(Success::Bytes(Bytes::copy_from_slice(&bytes[start..end])));
            }
            Command::Length { file } => {
                let bytes = self.files.get(file).ok_or(DiskError::NotFound)?;
                return Ok(Success::Length(bytes.len() as u64));
            }
            Command::Sync { file } => {
                self.files.get(file).ok_or(DiskError::NotFound)?;
            }
            Command::Fill { file, offset, length } => {
                let bytes = self.files.get_mut(file).ok_or(DiskError::NotFound)?;
                bytes.resize(*offset as usize, 0);
                bytes.resize((offset + length) as usize, 0);
            }
            Command::Rename { from, to } => {
                let bytes = self.files.remove(from).ok_or(DiskError::NotFound)?;
                self.files.insert(*to, bytes);
            }
            Command::Remove { file } => {
                self.files.remove(file);
            }
            Command::SyncDirectory { .. } => {}
            Command::List { directory } => return Ok(Success::Names(self.names(*directory))),
            Command::FreeSpace => return Ok(Success::Free(if self.full { 0 } else { 1 << 40 })),
        }
        Ok(Success::Done)
    }

    /// The files of a folder, sorted.
    pub fn names(&self, directory: Directory) -> Vec<FileName> {
        self.files.keys().filter(|f| f.directory() == directory).copied().collect()
    }
}

impl InstantDisk {
    /// Turns one bit of a file over.
    #[allow(dead_code, reason = "not every script damages a disk")]
    pub fn corrupt(&mut self, file: FileName, at: usize) {
        self.files.get_mut(&file).expect("a file")[at] ^= 1;
    }
}
