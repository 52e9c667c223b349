//! Compaction: which log is cleaned next. Each replica cleans for itself, leader or not, below what it knows to be committed.

use super::{Key, Partitions};
use crate::storage::{CleaningRules, Work};
use crate::{LogId, OpId, Timer};

impl<W: Copy + Ord> Partitions<W> {
    /// Takes work of the store that was done beside the shard.
    pub fn on_worked(&mut self, op: OpId, work: Work) {
        self.host.store.on_worked(op, work);
    }

    /// Begins with the dirtiest log of those that are to be cleaned, or looks again later.
    pub(super) fn clean_next(&mut self) {
        if self.host.store.is_cleaning() {
            return;
        }
        let mut dirtiest: Option<(f64, LogId, CleaningRules)> = None;
        for (log, replica) in &self.replicas {
            let Some((rules, committed)) = replica.cleaning(&self.host.config) else { continue };
            let dirt = self.host.store.dirt(*log, &rules, self.now.wall, committed);
            if let Some(dirt) = dirt
                && dirtiest.as_ref().is_none_or(|(most, _, _)| dirt > *most)
            {
                dirtiest = Some((dirt, *log, rules));
            }
        }
        match dirtiest {
            Some((_, log, rules)) => {
                let committed = self.replicas[&log].high_watermark();
                self.host.store.clean(log, &rules, self.now.wall, committed);
            }
            None => self.schedule_cleaning(),
        }
    }

    /// One is done: the next may be waiting. One that was given up is not begun again at once.
    pub(super) fn on_cleaned(&mut self, finished: bool) {
        if finished {
            self.clean_next();
        } else {
            self.schedule_cleaning();
        }
    }

    pub(super) fn schedule_cleaning(&mut self) {
        let at = self.now.mono.after_ms(self.host.config.storage.cleaner_backoff_ms);
        self.timers.set(Key::Cleaning, Some(at), Timer::Cleaning);
    }
}
