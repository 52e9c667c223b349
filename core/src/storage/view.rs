//! What a storage engine shows of itself to operators.

use super::{CleanerTally, Store};

/// A storage engine's room, and how much of it is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreView {
    /// Bytes of the journal's files that something still needs.
    pub journal_bytes: u64,
    /// Bytes that all its files may have.
    pub journal_bytes_max: u64,
    /// Bytes of batches that no segment has yet.
    pub memory_bytes: u64,
    /// So many of them there may be before produce waits.
    pub memory_bytes_max: u64,
    /// Free bytes of the file system, less what was written since they were measured; none before that.
    pub free_bytes: Option<u64>,
    /// Whether the disk has room enough for produce.
    pub accepts_produce: bool,
    /// Whether a log is being cleaned.
    pub is_cleaning: bool,
    /// What its cleaner has done.
    pub cleaner: CleanerTally,
}

impl Store {
    /// Its room, and how much of it is taken.
    pub fn view(&self) -> StoreView {
        StoreView {
            journal_bytes: self.journal.live_bytes(),
            journal_bytes_max: self.journal.files.len() as u64 * self.journal.file_bytes,
            memory_bytes: self.memory,
            memory_bytes_max: self.config.memory_bytes_max,
            free_bytes: self.free,
            accepts_produce: self.accepts_produce(),
            is_cleaning: self.is_cleaning(),
            cleaner: self.cleaner.tally,
        }
    }
}
