//! Compaction: which log is cleaned next. Each replica cleans for itself, leader or not, below what it knows to be committed.

use super::{Key, Partitions};
use crate::storage::Work;
use crate::{LogId, OpId, Timer};

impl<W: Copy + Ord> Partitions<W> {
    /// Takes work of the store that was done beside the shard.
    pub fn on_worked(&mut self, op: OpId, work: Work) {
        self.host.store.on_worked(op, work);
    }

    /// Looks which logs are to be cleaned, and begins with the dirtiest.
    pub(super) fn look_for_dirt(&mut self) {
        let mut dirty: Vec<(f64, LogId)> = Vec::new();
        for (log, replica) in &self.replicas {
            if let Some((rules, committed)) = replica.cleaning(&self.host.config) {
                let dirt = self.host.store.dirt(*log, &rules, self.now.wall, committed);
                dirty.extend(dirt.map(|dirt| (dirt, *log)));
            }
        }
        dirty.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        self.dirty = dirty.into_iter().map(|(_, log)| log).collect();
        self.clean_next();
    }

    /// One is done, or was given up: the next one's turn has come. Once all have had theirs, it is looked again later.
    pub(super) fn clean_next(&mut self) {
        let (store, wall) = (&mut self.host.store, self.now.wall);
        // Cleaning needs room before it makes some.
        while !store.is_cleaning() && store.accepts_produce() {
            let Some(log) = self.dirty.pop() else { break };
            let replica = self.replicas.get(&log);
            let rules = replica.and_then(|replica| replica.cleaning(&self.host.config));
            if let Some((rules, committed)) = rules
                && store.dirt(log, &rules, wall, committed).is_some()
            {
                store.clean(log, &rules, wall, committed);
            }
        }
        if !self.host.store.is_cleaning() {
            self.dirty.clear();
            self.schedule_cleaning();
        }
    }

    pub(super) fn schedule_cleaning(&mut self) {
        let at = self.now.mono.after_ms(self.host.config.storage.cleaner_backoff_ms);
        self.timers.set(Key::Cleaning, Some(at), Timer::Cleaning);
    }
}
