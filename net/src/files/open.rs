//! Files that are kept open: as many as a limit allows, shared by all lanes of all machines.
//!
//! At the limit the least recently used one is closed, so that the number of descriptors does not grow with the number of
//! partitions. What has unsynced writes is closed only when nothing else is left to close, and is synced first: the kernel may
//! forget a failed write-back together with the file that nobody holds open. Such a sync runs outside the table's lock, since
//! all shards wait for that. Where it fails, whoever wanted another file is not the one to be told: the file stays open, and the
//! next sync that is asked for says so.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use milena_core::disk::FileName;
use rustix::io::Errno;

/// How a file is brought to stable storage.
pub type SyncFile = Box<dyn Fn(&File) -> io::Result<()> + Send + Sync>;

/// The table.
pub struct OpenFiles {
    limit: usize,
    sync: SyncFile,
    table: Mutex<HashMap<FileName, Arc<Open>>>,
    uses: AtomicU64,
}

/// A file that is open. Whoever holds it beside the table may be about to write: it is not closed meanwhile.
pub struct Open {
    /// The file, open for reading and writing.
    pub file: File,
    last_use: AtomicU64,
    unsynced: AtomicBool,
    /// Whether a sync that nobody asked for has failed. Held during each sync: the kernel tells a failure to one of two that run
    /// at once, and the other must not say yes.
    failed: Mutex<bool>,
}

impl OpenFiles {
    /// None yet. At most `limit` are kept, unless more than that are in use or have a failure to tell.
    pub fn new(limit: usize, sync: SyncFile) -> OpenFiles {
        OpenFiles { limit, sync, table: Mutex::default(), uses: AtomicU64::new(0) }
    }

    /// A file, if it is open.
    pub fn get(&self, name: FileName) -> Option<Arc<Open>> {
        let found = self.table().get(&name)?.clone();
        found.last_use.store(self.next_use(), Ordering::Relaxed);
        Some(found)
    }

    /// Keeps a file that was opened, unless another lane has opened it meanwhile.
    pub fn keep(&self, name: FileName, file: File) -> Arc<Open> {
        let entry = self.table().entry(name).or_insert_with(|| self.entry(file).into()).clone();
        self.close_what_is_too_much();
        entry
    }

    /// Keeps a file that begins anew: what was open under its name is done with, and so is what failed of it.
    pub fn begin(&self, name: FileName, file: File) -> Arc<Open> {
        let entry = Arc::new(Open { unsynced: true.into(), ..self.entry(file) });
        let before = self.table().insert(name, entry.clone());
        drop(before);
        self.close_what_is_too_much();
        entry
    }

    /// A file has another name now, and what had that name is gone.
    pub fn rename(&self, from: FileName, to: FileName) {
        let mut table = self.table();
        let replaced = match table.remove(&from) {
            Some(entry) => table.insert(to, entry),
            None => table.remove(&to),
        };
        drop(table);
        drop(replaced);
    }

    /// A file is gone.
    pub fn remove(&self, name: FileName) {
        let gone = self.table().remove(&name);
        drop(gone);
    }

    /// Gives descriptors back; a file is opened again when it is needed.
    pub fn close_what_is_synced(&self) {
        self.table().retain(|_, entry| match Arc::get_mut(entry) {
            Some(idle) => idle.has_failed() || *idle.unsynced.get_mut(),
            None => true,
        });
    }

    /// How many are open.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.table().len()
    }

    /// Whether a file is open.
    #[cfg(test)]
    pub fn is_open(&self, name: FileName) -> bool {
        self.table().contains_key(&name)
    }

    /// Closes files down to the limit, each in a turn of its own: a sync takes long, and what is best closed may be another file
    /// afterwards.
    fn close_what_is_too_much(&self) {
        loop {
            let mut table = self.table();
            if table.len() <= self.limit {
                return;
            }
            let idle = table.iter_mut().filter_map(|(name, entry)| {
                let idle = Arc::get_mut(entry)?;
                let order = (*idle.unsynced.get_mut(), *idle.last_use.get_mut(), *name);
                (!idle.has_failed()).then_some(order)
            });
            let Some((unsynced, _, name)) = idle.min() else { return };
            if unsynced {
                let oldest = table[&name].clone();
                drop(table);
                self.sync_unasked(&oldest);
            } else {
                let closed = table.remove(&name);
                drop(table);
                drop(closed);
            }
        }
    }

    /// Brings what was written to stable storage, or says that this has failed, now or before.
    pub fn sync(&self, open: &Open) -> io::Result<()> {
        let failed = open.failed();
        if *failed {
            return Err(Errno::IO.into());
        }
        open.unsynced.store(false, Ordering::Relaxed);
        (self.sync)(&open.file)
    }

    fn sync_unasked(&self, open: &Open) {
        let mut failed = open.failed();
        if !*failed {
            open.unsynced.store(false, Ordering::Relaxed);
            *failed = (self.sync)(&open.file).is_err();
        }
    }

    fn entry(&self, file: File) -> Open {
        Open {
            file,
            last_use: self.next_use().into(),
            unsynced: false.into(),
            failed: Mutex::new(false),
        }
    }

    fn next_use(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::Relaxed)
    }

    fn table(&self) -> MutexGuard<'_, HashMap<FileName, Arc<Open>>> {
        self.table.lock().expect("no panic while the table is held")
    }
}

impl Open {
    /// Writes. That there is something to sync is noted afterwards: a sync that runs meanwhile may miss it, and the file is
    /// not closed before, for it is in use.
    pub fn write<T>(&self, write: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        let outcome = write(&self.file);
        self.unsynced.store(true, Ordering::Relaxed);
        outcome
    }

    fn failed(&self) -> MutexGuard<'_, bool> {
        self.failed.lock().expect("no panic while a file is synced")
    }

    fn has_failed(&mut self) -> bool {
        *self.failed.get_mut().expect("no panic while a file is synced")
    }
}
