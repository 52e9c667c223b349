//! A disk in memory that forgets, at a crash, what was not synced.

use std::collections::BTreeMap;

use bytes::Bytes;
use milena_core::disk::{Command, DiskError, FileName, Outcome, Success};

#[derive(Clone, Default)]
struct File {
    data: Vec<u8>,
    synced: Vec<u8>,
    /// Where the two differ; lengths apart.
    dirty: Vec<(usize, usize)>,
}

/// Files by name, and the names that a crash leaves.
#[derive(Clone, Default)]
pub struct Disk {
    files: BTreeMap<u64, File>,
    names: BTreeMap<FileName, u64>,
    synced_names: BTreeMap<FileName, u64>,
    next_file: u64,
    /// Bytes of whole snapshots that are flipped when read.
    pub damages_snapshots: bool,
}

impl Disk {
    /// Does one command, at once.
    pub fn execute(&mut self, command: &Command) -> Outcome {
        match command {
            Command::Create { file } => {
                let next = self.next_file;
                let id = *self.names.entry(*file).or_insert(next);
                self.next_file += 1;
                let file = self.files.entry(id).or_default();
                file.data.clear();
                file.dirty.clear();
            }
            Command::Write { file, offset, data } => {
                let file = self.file(file)?;
                let data = data.concat();
                let (from, end) = (*offset as usize, *offset as usize + data.len());
                if file.data.len() < end {
                    file.dirty.push((file.data.len().min(from), end));
                    file.data.resize(end, 0);
                }
                file.data[from..end].copy_from_slice(&data);
                file.dirty.push((from, end));
            }
            Command::Read { file, offset, length } => {
                let damages = self.damages_snapshots && matches!(file, FileName::Snapshot { .. });
                let data = &self.file(file)?.data;
                let from = (*offset as usize).min(data.len());
                let end = data.len().min(from + *length as usize);
                let mut bytes = data[from..end].to_vec();
                if damages && let Some(last) = bytes.last_mut() {
                    *last ^= 1;
                }
                return Ok(Success::Bytes(Bytes::from(bytes)));
            }
            Command::Length { file } => {
                return Ok(Success::Length(self.file(file)?.data.len() as u64));
            }
            Command::Sync { file } => {
                let file = self.file(file)?;
                file.synced.resize(file.data.len(), 0);
                for (from, end) in std::mem::take(&mut file.dirty) {
                    let end = end.min(file.data.len());
                    if from < end {
                        file.synced[from..end].copy_from_slice(&file.data[from..end]);
                    }
                }
            }
            Command::Fill { file, offset, length } => {
                let data = vec![Bytes::from(vec![0; *length as usize])];
                self.execute(&Command::Write { file: *file, offset: *offset, data })?;
                return self.execute(&Command::Sync { file: *file });
            }
            Command::Rename { from, to } => {
                let id = self.names.remove(from).ok_or(DiskError::NotFound)?;
                self.names.insert(*to, id);
            }
            Command::Remove { file } => {
                self.names.remove(file);
            }
            Command::SyncDirectory { directory } => {
                self.synced_names.retain(|name, _| name.directory() != *directory);
                let names = self.names.iter().filter(|(name, _)| name.directory() == *directory);
                self.synced_names.extend(names.map(|(name, id)| (*name, *id)));
            }
            Command::List { directory } => {
                let names = self.names.keys().filter(|name| name.directory() == *directory);
                return Ok(Success::Names(names.copied().collect()));
            }
            Command::FreeSpace => return Ok(Success::Free(1 << 40)),
        }
        Ok(Success::Done)
    }

    fn file(&mut self, name: &FileName) -> Result<&mut File, DiskError> {
        let id = self.names.get(name).ok_or(DiskError::NotFound)?;
        Ok(self.files.get_mut(id).expect("a name has a file"))
    }

    /// Loses what was not synced.
    pub fn crash(&mut self) {
        self.names = self.synced_names.clone();
        let names = &self.names;
        self.files.retain(|id, _| names.values().any(|named| named == id));
        for file in self.files.values_mut() {
            file.data = file.synced.clone();
            file.dirty.clear();
        }
    }
}
