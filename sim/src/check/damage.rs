//! What the fault injector damaged on one life of a disk, and of which logs a node may therefore say that they are damaged.
//!
//! Nothing is excused beyond the files that a fault touched: a segment or index is of one log, a journal or checkpoint of the
//! logs that it was written for, a snapshot of the metadata.

use std::collections::{BTreeMap, BTreeSet};

use milena_core::LogId;
use milena_core::disk::FileName;

/// A read is tried once more; so many failures make damage of it.
const FAILED_READS_MAX: u32 = 2;

/// Damage of one life of a disk.
#[derive(Clone, Debug, Default)]
pub struct Damage {
    /// Files, each with the number of shards that its node had.
    files: BTreeSet<(FileName, u16)>,
    failed_reads: BTreeMap<FileName, u32>,
    /// Whether reads are about to fail, nobody knows yet of which file.
    reads_may_fail: bool,
}

impl Damage {
    /// A file is damaged, on a node with so many shards.
    pub fn add(&mut self, file: FileName, shards: u16) {
        self.files.insert((file, shards));
    }

    /// Reads are about to fail so often that what they read counts as damaged.
    pub fn reads_may_fail(&mut self) {
        self.reads_may_fail = true;
    }

    /// Whether reads are about to fail so often.
    pub fn may_reads_fail(&self) -> bool {
        self.reads_may_fail
    }

    /// A read of a file has failed; `more` if others are to fail.
    pub fn on_failed_read(&mut self, file: FileName, shards: u16, more: bool) {
        self.reads_may_fail &= more;
        let failed = self.failed_reads.entry(file).or_insert(0);
        *failed += 1;
        if *failed >= FAILED_READS_MAX {
            self.add(file, shards);
        }
    }

    /// No read fails any more.
    pub fn reads_are_sound(&mut self) {
        self.reads_may_fail = false;
    }

    /// Whether anything of the disk is damaged.
    pub fn is_outstanding(&self) -> bool {
        !self.files.is_empty()
    }

    /// Whether a log may be damaged.
    pub fn touches(&self, log: LogId) -> bool {
        self.files.iter().any(|(file, shards)| covers(file, *shards, log))
    }

    /// Whether this node may lose its seat among the replicas of a log, now or without another fault: the log is damaged, or
    /// the metadata is, with which the whole disk begins anew.
    pub fn may_unseat(&self, log: LogId) -> bool {
        self.reads_may_fail || self.touches(log) || self.touches(LogId::METADATA)
    }

    /// Whether logs of some shard may be damaged of which recovery cannot know that they were there.
    pub fn hides_logs(&self) -> bool {
        self.files.iter().any(|(file, _)| journal(file).is_some_and(|journal| journal > 0))
    }
}

/// The journal that a file belongs to.
fn journal(file: &FileName) -> Option<u16> {
    match file {
        FileName::Journal { journal, .. } | FileName::Checkpoint { journal, .. } => Some(*journal),
        _ => None,
    }
}

/// Whether a file holds something of a log.
fn covers(file: &FileName, shards: u16, log: LogId) -> bool {
    let of_metadata = log == LogId::METADATA || log == LogId::BROKER;
    match file {
        FileName::Segment { log: of, .. } | FileName::Index { log: of, .. } => *of == log,
        FileName::Journal { journal, .. } | FileName::Checkpoint { journal, .. } => {
            *journal == if of_metadata { 0 } else { 1 + log.shard(shards) }
        }
        FileName::Snapshot { .. } => of_metadata,
        FileName::Superblock { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milena_core::TopicId;

    const LOG: LogId = LogId { topic: TopicId([7; 16]), partition: 0 };
    const OTHER: LogId = LogId { topic: TopicId([7; 16]), partition: 1 };

    #[test]
    fn a_segment_excuses_its_own_log_alone() {
        let mut damage = Damage::default();
        damage.add(FileName::Segment { log: LOG, base: 0, generation: 1 }, 1);
        assert!(damage.touches(LOG));
        assert!(!damage.touches(OTHER) && !damage.touches(LogId::METADATA));
        assert!(!damage.hides_logs());
    }

    #[test]
    fn a_journal_excuses_the_logs_of_its_shard() {
        let mut damage = Damage::default();
        damage.add(FileName::Journal { layout: 1, journal: 0, index: 0 }, 1);
        assert!(damage.touches(LogId::METADATA) && !damage.touches(LOG));
        damage.add(FileName::Journal { layout: 1, journal: 1, index: 0 }, 1);
        assert!(damage.touches(LOG) && damage.hides_logs());
    }

    #[test]
    fn one_failed_read_is_no_damage() {
        let file = FileName::Segment { log: LOG, base: 0, generation: 1 };
        let mut damage = Damage::default();
        damage.reads_may_fail();
        damage.on_failed_read(file, 1, true);
        assert!(!damage.touches(LOG) && damage.may_unseat(OTHER));
        damage.on_failed_read(file, 1, false);
        assert!(damage.touches(LOG) && !damage.may_unseat(OTHER));
    }
}
