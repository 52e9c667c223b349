//! How often each rare path was taken: core's marks and the simulator's own.

use milena_core::marks;
use milena_core::trace::Mark;

marks! {
    /// What the simulator itself counts.
    pub enum Seen {
        /// When answers waited for a client that had stopped reading.
        AnswersHeld = "answers held back",
        /// When a checkpoint was compared with the disk.
        CheckpointJudged = "checkpoint judged",
        /// When a compacted log was compared with what was committed, record by record.
        CompactionJudged = "compaction judged",
        /// When a connection was closed because something on it waited for too long.
        ClosedAsLate = "connection closed as late",
        /// When a connection was closed because its client's untaken answers took the memory of others.
        ClosedForMemory = "connection closed for its answers' memory",
        /// When damage was found by a read after recovery.
        DamageFoundByReading = "damage found by reading",
        /// When a replica left its set and was asked why.
        DepartureJudged = "departure judged",
        /// When a full disk's node deleted a log.
        DeletedWithFullDisk = "deleted with a full disk",
        /// When a partition's leader came from the eligible replicas out of the in-sync set.
        ElectionFromElr = "election from ELR",
        /// When the others had to go on, and their sets had to hold who follows, while one node was away.
        WentOnWithoutOne = "went on without one",
        /// When the same was asked while two nodes were cut off from each other alone.
        WentOnWithACut = "went on with a cut link",
        /// When a node logged an error.
        ErrorLogged = "error logged",
        /// When a node stopped itself.
        Halt = "halt",
        /// When an in-sync set grew.
        InSyncSetGrown = "in-sync set grown",
        /// When an in-sync set shrank.
        InSyncSetShrunk = "in-sync set shrunk",
        /// When a log was emptied and begun at another offset.
        LogBegunAgain = "log begun again",
        /// When a log's start moved up.
        LogTrimmed = "log trimmed",
        /// When a partition stayed offline because its disks were lost.
        OfflineForGood = "offline for good",
        /// When a request was not read because too many bytes of answers waited for its client.
        ReadNoMore = "read no more",
        /// When recovery handed over a log.
        Recovered = "recovered",
        /// When recovery handed over a damaged log.
        RecoveredAsDamaged = "recovered as damaged",
        /// When a full disk's node recovered.
        RecoveredWithFullDisk = "recovered with a full disk",
        /// When a damaged replica was taken out of its sets.
        ReplicaRemovedAsDamaged = "replica removed as damaged",
        /// When a full disk's node served records.
        ServedWithFullDisk = "served with a full disk",
        /// When a partition lost its leader.
        PartitionOffline = "partition offline",
        /// When a log forgot a producer that had long been silent.
        ProducerExpired = "producer expired",
        /// When a log forgot a producer because it knew too many.
        ProducerCrowdedOut = "producer crowded out",
        /// When a snapshot of the metadata was installed.
        SnapshotInstalled = "snapshot installed",
        /// When a fault struck a node that was recovering its disk.
        StruckWhileRecovering = "struck while recovering",
        /// When a log's tail was cut.
        Truncation = "truncation",
        /// When a full disk's node voted.
        VotedWithFullDisk = "voted with a full disk",
    }
}

/// Marks that a sweep of a thousand seeds does not reach for certain, each with what it would take. A sweep says when it has not
/// taken them, and does not fail for it.
pub const RARER: [&str; 1] = [
    // A stop in good order that nobody could take over from before its time was up.
    "broker.stopped_late",
];

/// Counts of all marks.
#[derive(Debug)]
pub struct Marks {
    core: [u64; Mark::ALL.len()],
    seen: [u64; Seen::ALL.len()],
}

impl Default for Marks {
    fn default() -> Marks {
        Marks { core: [0; Mark::ALL.len()], seen: [0; Seen::ALL.len()] }
    }
}

impl Marks {
    /// Counts a mark of core.
    pub fn core(&mut self, mark: Mark) {
        self.core[mark as usize] += 1;
    }

    /// Counts a mark of the simulator.
    pub fn seen(&mut self, seen: Seen) {
        self.seen[seen as usize] += 1;
    }

    /// All names with their counts, those that were never hit too.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let core = Mark::ALL.iter().zip(self.core).map(|(mark, count)| (mark.name(), count));
        core.chain(Seen::ALL.iter().zip(self.seen).map(|(seen, count)| (seen.name(), count)))
    }
}
