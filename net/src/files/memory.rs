//! Disk commands with everything unsynced in this process's memory: `kill -9` becomes a power loss.
//!
//! The intuition: each file is a node with the bytes that were synced, in a real file, and on top of them what was not, in
//! memory. Names are a view in memory over the real folder. [`Command::Sync`] moves bytes down, [`Command::SyncDirectory`]
//! moves names down. A file whose name was never synced has its bytes under `unsynced/`, which is emptied at each start.
//!
//! Real fsyncs are not issued: only kills are survived, since those are what the tests do. Not torn: a kill leaves of an
//! unsynced write all or nothing.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

use bytes::Bytes;
use milena_core::disk::{Command, Directory, FileName, Outcome, Success};

use super::{Direct, direct, disk_error};

/// The files of one data directory.
pub struct Memory {
    direct: Direct,
    state: Mutex<State>,
    syncs: bool,
}

#[derive(Default)]
struct State {
    /// As the process sees it.
    names: BTreeMap<FileName, u64>,
    /// As the real folders have it.
    synced_names: BTreeMap<FileName, u64>,
    nodes: HashMap<u64, Node>,
    next: u64,
}

/// One file's bytes.
struct Node {
    real: File,
    /// Where `real` is.
    path: PathBuf,
    /// Bytes of `real` that still count; those past it read as zeros until overwritten.
    kept: u64,
    /// Length as the process sees it.
    length: u64,
    /// Unsynced writes, by position, none overlapping another.
    written: BTreeMap<u64, Bytes>,
}

impl Memory {
    /// Over a directory; what an earlier process left unsynced is thrown away. Where not `syncs`, a sync does nothing.
    pub fn open(direct: Direct, syncs: bool) -> io::Result<Memory> {
        let hidden = direct.root().join("unsynced");
        match std::fs::remove_dir_all(&hidden) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir_all(&hidden)?;
        let mut state = State::default();
        for directory in Directory::ALL {
            for name in direct.list(directory)? {
                let path = direct.path(name);
                let real = OpenOptions::new().read(true).write(true).open(&path)?;
                let id = state.add(real, path)?;
                state.names.insert(name, id);
                state.synced_names.insert(name, id);
            }
        }
        Ok(Memory { direct, state: Mutex::new(state), syncs })
    }

    /// As the files below say.
    pub fn is_exhausted(&self) -> bool {
        self.direct.is_exhausted()
    }

    /// Carries out one command.
    pub fn execute(&self, command: &Command) -> Outcome {
        let mut state = self.state.lock().expect("no panic while the table is held");
        self.attempt(&mut state, command).map_err(|error| disk_error(&error))
    }

    fn attempt(&self, state: &mut State, command: &Command) -> io::Result<Success> {
        match command {
            Command::Create { file } => {
                if state.names.contains_key(file) {
                    state.node(*file)?.empty();
                } else {
                    let path = self.hidden(state.next);
                    let mut options = OpenOptions::new();
                    options.read(true).write(true).create(true).truncate(true);
                    let id = state.add(options.open(&path)?, path)?;
                    state.names.insert(*file, id);
                }
            }
            Command::Write { file, offset, data } => {
                let node = state.node(*file)?;
                let mut at = *offset;
                for part in data.iter().filter(|part| !part.is_empty()) {
                    node.write(at, part.clone());
                    at += part.len() as u64;
                }
            }
            Command::Read { file, offset, length } => {
                return state.node(*file)?.read(*offset, *length).map(Success::Bytes);
            }
            Command::Length { file } => return Ok(Success::Length(state.node(*file)?.length)),
            Command::Sync { file } => {
                let node = state.node(*file)?;
                if self.syncs {
                    node.sync()?;
                }
            }
            Command::Fill { file, offset, length } => {
                let node = state.node(*file)?;
                node.write(*offset, vec![0; *length as usize].into());
                if self.syncs {
                    node.sync()?;
                }
            }
            Command::Rename { from, to } => {
                let id = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
                state.names.insert(*to, id);
            }
            Command::Remove { file } => {
                state.names.remove(file);
            }
            Command::SyncDirectory { directory } => {
                if self.syncs {
                    self.sync_directory(state, *directory)?;
                }
            }
            Command::List { directory } => {
                let names = state.names.keys().filter(|name| name.directory() == *directory);
                return Ok(Success::Names(names.copied().collect()));
            }
            Command::FreeSpace => {
                return self.direct.execute(command).map_err(|_| io::ErrorKind::Other.into());
            }
        }
        Ok(Success::Done)
    }

    fn hidden(&self, id: u64) -> PathBuf {
        self.direct.root().join("unsynced").join(id.to_string())
    }

    /// Gives the real folder the names that the process sees. A rename replaces its target in one step, as the file system
    /// does.
    fn sync_directory(&self, state: &mut State, directory: Directory) -> io::Result<()> {
        std::fs::create_dir_all(self.direct.folder(directory))?;
        let here = |names: &BTreeMap<FileName, u64>| -> Vec<(FileName, u64)> {
            names
                .iter()
                .filter(|(n, _)| n.directory() == directory)
                .map(|(n, i)| (*n, *i))
                .collect()
        };
        for (name, id) in here(&state.names) {
            let displaced = state.synced_names.get(&name).copied();
            if displaced == Some(id) {
                continue;
            }
            // A file that lives on under another name must not be replaced with its old name.
            if let Some(other) = displaced.filter(|other| state.names.values().any(|n| n == other))
            {
                let path = self.hidden(other);
                state.move_to(other, path)?;
            }
            state.move_to(id, self.direct.path(name))?;
            state.synced_names.retain(|_, synced| *synced != id);
            state.synced_names.insert(name, id);
        }
        for (name, id) in here(&state.synced_names) {
            if !state.names.contains_key(&name) {
                state.synced_names.remove(&name);
                match state.nodes.get(&id) {
                    Some(node) if node.path == self.direct.path(name) => {
                        std::fs::remove_file(&node.path)?;
                    }
                    _ => {}
                }
            }
        }
        let (names, synced) = (&state.names, &state.synced_names);
        let seen: std::collections::HashSet<u64> =
            names.values().chain(synced.values()).copied().collect();
        state.nodes.retain(|id, _| seen.contains(id));
        Ok(())
    }
}

impl State {
    fn add(&mut self, real: File, path: PathBuf) -> io::Result<u64> {
        let length = real.metadata()?.len();
        let id = self.next;
        self.next += 1;
        let node = Node { real, path, kept: length, length, written: BTreeMap::new() };
        self.nodes.insert(id, node);
        Ok(id)
    }

    fn node(&mut self, file: FileName) -> io::Result<&mut Node> {
        let id = self.names.get(&file).ok_or(io::ErrorKind::NotFound)?;
        self.nodes.get_mut(id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn move_to(&mut self, id: u64, path: PathBuf) -> io::Result<()> {
        let node = self.nodes.get_mut(&id).ok_or(io::ErrorKind::NotFound)?;
        std::fs::rename(&node.path, &path)?;
        node.path = path;
        Ok(())
    }
}

impl Node {
    fn write(&mut self, offset: u64, data: Bytes) {
        let end = offset + data.len() as u64;
        self.cut(offset, end);
        self.written.insert(offset, data);
        self.length = self.length.max(end);
    }

    /// Forgets unsynced bytes in a range.
    fn cut(&mut self, start: u64, end: u64) {
        let touching: Vec<u64> = self
            .written
            .range(..end)
            .rev()
            .take_while(|(at, data)| **at + data.len() as u64 > start)
            .map(|(at, _)| *at)
            .collect();
        for at in touching {
            let Some(data) = self.written.remove(&at) else { continue };
            let stop = at + data.len() as u64;
            if at < start {
                self.written.insert(at, data.slice(..(start - at) as usize));
            }
            if stop > end {
                self.written.insert(end, data.slice((end - at) as usize..));
            }
        }
    }

    fn empty(&mut self) {
        self.written.clear();
        (self.kept, self.length) = (0, 0);
    }

    fn read(&self, offset: u64, length: u32) -> io::Result<Bytes> {
        let end = self.length.min(offset.saturating_add(u64::from(length)));
        let Some(wanted) = end.checked_sub(offset).filter(|wanted| *wanted > 0) else {
            return Ok(Bytes::new());
        };
        let mut bytes = vec![0; wanted as usize];
        let real = self.kept.saturating_sub(offset).min(wanted) as u32;
        if real > 0 {
            let below = direct::read_at(&self.real, offset, real)?;
            bytes[..below.len()].copy_from_slice(&below);
        }
        for (at, data) in self.written.range(..end) {
            let (from, to) = ((*at).max(offset), (*at + data.len() as u64).min(end));
            if from < to {
                bytes[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&data[(from - at) as usize..(to - at) as usize]);
            }
        }
        Ok(bytes.into())
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.kept < self.real.metadata()?.len() {
            self.real.set_len(self.kept)?;
        }
        for (at, data) in std::mem::take(&mut self.written) {
            direct::write_all_at(&self.real, &[data], at)?;
        }
        self.real.set_len(self.length)?;
        self.kept = self.length;
        Ok(())
    }
}
