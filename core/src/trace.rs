//! What machines tell the simulator's ghosts, at the point where it happens.
//!
//! No node ever sees these. The production driver leaves them switched off. A checker that can see the disk does not
//! believe these but the disk.

use crate::{
    BrokerEpoch, Epoch, Incarnation, LogId, NodeId, Offset, ProducerId, ReplicaIncarnation,
    Timestamp,
};

/// Something that a checker may judge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// When a batch has been put at the end of a log (in memory; not yet durable).
    Appended {
        /// The log.
        log: LogId,
        /// Offset of its first record.
        base: Offset,
        /// Offset after its last record.
        next: Offset,
        /// Its leader epoch (term).
        epoch: Epoch,
        /// The batch's own CRC-32C.
        crc: u32,
        /// Its bytes.
        size: u32,
        /// The largest time of its records, as its header has it.
        max_timestamp: Timestamp,
        /// From when it counts for retention.
        born: Timestamp,
        /// Where it is from an idempotent producer: whose id, epoch and base sequence it names.
        produced: Option<(i64, i16, i32)>,
        /// Whether this node appended it as leader of that epoch, rather than received it.
        leading: bool,
    },
    /// When everything at and past an offset is cut from a log.
    Truncated {
        /// The log.
        log: LogId,
        /// New end.
        to: Offset,
    },
    /// When a log's start moves up.
    Trimmed {
        /// The log.
        log: LogId,
        /// New start.
        start: Offset,
    },
    /// When a log is emptied and begins again at an offset.
    Reset {
        /// The log.
        log: LogId,
        /// Its start and end.
        start: Offset,
    },
    /// When recovery hands over a log, before anything else is said of it in this run.
    Recovered {
        /// The log.
        log: LogId,
        /// Start offset.
        start: Offset,
        /// End offset.
        end: Offset,
        /// Epoch of the last record; -1 where there is none. With the end it tells which of the log's earlier states this
        /// is.
        last_epoch: Epoch,
        /// Whether it was found damaged.
        damaged: bool,
    },
    /// When the cleaner has put one segment in the place of others.
    Cleaned {
        /// The log.
        log: LogId,
        /// Where it begins.
        base: Offset,
        /// Offset after its last record.
        next: Offset,
        /// Tells it from others at that base.
        generation: u32,
        /// All tombstones that went, now and before, lie below this offset.
        dropped: Offset,
    },
    /// When a log's data is found damaged after recovery.
    Damaged {
        /// The log.
        log: LogId,
    },
    /// When a log forgets an idempotent producer.
    Forgot {
        /// The log.
        log: LogId,
        /// The producer.
        producer: ProducerId,
    },
    /// When a log is deleted with its topic.
    Deleted {
        /// The log.
        log: LogId,
    },

    /// When a node acts for the first time on the founding record: stands, votes or appends.
    Founded {
        /// The cluster that it belongs to.
        cluster: u128,
    },
    /// When a node's term has become another one, on its disk.
    Term {
        /// The term.
        term: Epoch,
    },
    /// When a vote leaves (or a candidate counts its own).
    Voted {
        /// The term.
        term: Epoch,
        /// For whom.
        candidate: NodeId,
        /// With which disk.
        incarnation: Incarnation,
    },
    /// When a candidate has won.
    QuorumLeader {
        /// The term.
        term: Epoch,
        /// End of its log at that moment.
        end: Offset,
    },
    /// When a node learns who leads a term.
    QuorumFollower {
        /// The term.
        term: Epoch,
        /// The leader.
        leader: NodeId,
    },
    /// When a follower tells the quorum's leader how much it has on disk.
    QuorumAcknowledged {
        /// The term.
        term: Epoch,
        /// End of what it has synced.
        end: Offset,
    },
    /// When a node's commit offset moves up.
    QuorumCommitted {
        /// The term.
        term: Epoch,
        /// Everything below is committed.
        end: Offset,
        /// On a leader: each voter in force that was counted.
        counted: Vec<(NodeId, Incarnation)>,
        /// On a leader: how many voters are in force; 0 on a follower.
        voters: usize,
    },
    /// When a committed record has been applied to the image.
    Applied {
        /// Its offset.
        offset: Offset,
        /// Hash chain over everything applied so far.
        hash: u64,
    },
    /// When an image was replaced by a snapshot.
    SnapshotInstalled {
        /// Its end offset.
        end: Offset,
        /// Hash chain at that offset.
        hash: u64,
    },

    /// When a broker has synced the epoch of its registration and begins to serve under it.
    Serving {
        /// The epoch.
        epoch: BrokerEpoch,
    },
    /// When a replica begins to lead.
    Leading {
        /// The log.
        log: LogId,
        /// Leader epoch.
        epoch: Epoch,
        /// Log end offset at that moment.
        start: Offset,
    },
    /// When a replica begins to follow.
    Following {
        /// The log.
        log: LogId,
        /// Leader epoch.
        epoch: Epoch,
        /// The leader.
        leader: NodeId,
    },
    /// When a leader's high watermark moves up.
    HighWatermark {
        /// The log.
        log: LogId,
        /// Leader epoch.
        epoch: Epoch,
        /// Everything below is committed.
        offset: Offset,
        /// In-sync replicas as committed by the controller.
        isr: Vec<NodeId>,
        /// Union of that and any proposal that stands.
        maximal: Vec<NodeId>,
        /// Effective `min.insync.replicas`.
        min_isr: u16,
        /// Partition epoch of the committed set.
        partition_epoch: i32,
    },
    /// When a follower's acknowledgement leaves.
    Acknowledged {
        /// The log.
        log: LogId,
        /// Leader epoch.
        epoch: Epoch,
        /// To the leader.
        leader: NodeId,
        /// End of what it has synced.
        end: Offset,
        /// Epoch of the last record below that end.
        last_epoch: Epoch,
        /// One life of the replica.
        replica: ReplicaIncarnation,
    },
    /// When a leader believes an acknowledgement.
    FollowerMoved {
        /// The log.
        log: LogId,
        /// Leader epoch.
        epoch: Epoch,
        /// The follower.
        follower: NodeId,
        /// Its synced end.
        end: Offset,
        /// Epoch of its last record, as it said.
        last_epoch: Epoch,
    },
    /// When a produce with acks=all or acks=1 is answered without error.
    Produced {
        /// The log.
        log: LogId,
        /// Leader epoch that it was written in; of a duplicate whose original lies below the log start, the leader's own.
        epoch: Epoch,
        /// First offset.
        base: Offset,
        /// Offset after the last.
        next: Offset,
        /// Whether with acks=all.
        all: bool,
    },
    /// When records leave for a consumer.
    Served {
        /// The log.
        log: LogId,
        /// First offset served.
        base: Offset,
        /// Offset after the last.
        next: Offset,
        /// The leader epoch that the request named; -1 where it named none.
        asked: Epoch,
    },
    /// When a journal goes on in another of its files.
    JournalTurned {
        /// 0 is the quorum's, 1 + i that of shard i.
        journal: u16,
        /// So many files it has.
        files: u32,
        /// Whether the file was written to before.
        again: bool,
    },
    /// When a peer says what cannot be true, by what this machine knows for certain, and is refused: no node of ours says such a
    /// thing.
    Refused {
        /// Who said it.
        from: NodeId,
        /// What is wrong with it.
        what: &'static str,
    },
    /// When a rare path was taken; the sweep counts these ("sometimes").
    Sometimes(Mark),
}

/// Declares an enum of marks, with the name of each and the list of all. The simulator has marks of its own.
#[macro_export]
macro_rules! marks {
    ($(#[$about:meta])* $visibility:vis enum $Mark:ident { $($(#[$doc:meta])* $Variant:ident = $name:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        $visibility enum $Mark { $($(#[$doc])* $Variant,)* }

        impl $Mark {
            /// All of them, in the order of their numbers.
            $visibility const ALL: &[$Mark] = &[$($Mark::$Variant,)*];

            /// Its name, as a sweep prints it.
            $visibility fn name(self) -> &'static str {
                match self { $($Mark::$Variant => $name,)* }
            }
        }
    };
}

marks! {
    /// A rare path. A sweep counts how often each was taken, since what was never taken was never tested.
    pub enum Mark {
        /// When others took over what a broker led before it stopped.
        BrokerStoppedInGoodOrder = "broker.stopped_in_good_order",
        /// When a broker stopped before others had taken over.
        BrokerStoppedLate = "broker.stopped_late",
        /// When the cleaner dropped tombstones whose horizon had come.
        CleanerDroppedTombstones = "cleaner.dropped_tombstones",
        /// When the cleaner came to the end of a log.
        CleanerFinished = "cleaner.finished",
        /// When the cleaner left a log for another time.
        CleanerGaveUp = "cleaner.gave_up",
        /// When there was no room for another key.
        CleanerMapFull = "cleaner.map_full",
        /// When the cleaner put a new segment in the place of old ones.
        CleanerSwapped = "cleaner.swapped",
        /// When a damaged replica was taken out of its sets.
        ControllerDamagedReplica = "controller.damaged_replica",
        /// When a broker was refused because another disk of its id is in service.
        ControllerDuplicateRefused = "controller.duplicate_refused",
        /// When an eligible replica out of the in-sync set was elected.
        ControllerElrElection = "controller.elr_election",
        /// When a leadership went back to the preferred replica.
        ControllerGivenBack = "controller.given_back",
        /// When neither an in-sync nor an eligible replica was left.
        ControllerNoMemberLeft = "controller.no_member_left",
        /// When a partition lost its leader and found no other.
        ControllerOfflinePartition = "controller.offline_partition",
        /// When a proposed in-sync set was refused.
        ControllerProposalRefused = "controller.proposal_refused",
        /// When a disk had no room.
        DiskFull = "disk.full",
        /// When a fetch read a segment.
        FetchReadsSegment = "fetch.reads_segment",
        /// When a fetch waited for the start of its leader's epoch to be committed.
        FetchWaitsForEpochStart = "fetch.waits_for_epoch_start",
        /// When records were carried forward from a journal file.
        JournalCarried = "journal.carried",
        /// When records could not be carried forward.
        JournalCarryFailed = "journal.carry_failed",
        /// When a journal file was used again.
        JournalRecycled = "journal.recycled",
        /// When a journal file was released.
        JournalReleased = "journal.released",
        /// When a lookup waited for the start of its leader's epoch to be committed.
        ListOffsetsWaitsForEpochStart = "list_offsets.waits_for_epoch_start",
        /// When the start of a log moved up.
        LogTrimmed = "log.trimmed",
        /// When an idempotent producer's batch was one that the log had already.
        ProduceDuplicate = "produce.duplicate",
        /// When such a batch was not the one that comes next.
        ProduceOutOfOrder = "produce.out_of_order",
        /// When a produce waited for room in memory.
        ProduceWaitsForRoom = "produce.waits_for_room",
        /// When a leader of the quorum stood down because no majority heard it.
        QuorumCheckQuorumFailed = "quorum.check_quorum_failed",
        /// When a node could not read its snapshot or metadata log.
        QuorumHollow = "quorum.hollow",
        /// When a leader of the quorum learned of a later term.
        QuorumLeaderSteppedDown = "quorum.leader_stepped_down",
        /// When a listed controller came back as an observer.
        QuorumListedObserver = "quorum.listed_observer",
        /// When a founding record was offered to an empty node.
        QuorumRecordOffered = "quorum.record_offered",
        /// When a snapshot of the quorum was installed.
        QuorumSnapshotInstalled = "quorum.snapshot_installed",
        /// When a snapshot of the quorum was sent.
        QuorumSnapshotSent = "quorum.snapshot_sent",
        /// When a diverged tail of the quorum's log was cut.
        QuorumTruncated = "quorum.truncated",
        /// When recovery found damage.
        RecoveryDamage = "recovery.damage",
        /// When a node started on an empty disk.
        RecoveryFirstBoot = "recovery.first_boot",
        /// When recovery handed over a damaged log.
        RecoveryLogDamaged = "recovery.log_damaged",
        /// When recovery made room on a full disk.
        RecoveryMakesRoom = "recovery.makes_room",
        /// When recovery applied journal records.
        RecoveryReplayed = "recovery.replayed",
        /// When recovery changed the number of shards.
        RecoveryReshard = "recovery.reshard",
        /// When recovery cut a torn tail.
        RecoveryTornTail = "recovery.torn_tail",
        /// When recovery waited for room on a full disk.
        RecoveryWaitsForRoom = "recovery.waits_for_room",
        /// When an acknowledgement did not fit the leader's log.
        ReplicaAcknowledgementDoesNotFit = "replica.acknowledgement_does_not_fit",
        /// When a follower began again where its leader's log begins.
        ReplicaBeginAt = "replica.begin_at",
        /// When a leader told a follower to begin again, for tombstones were dropped that it may not have seen.
        ReplicaBeginsAgain = "replica.begins_again",
        /// When a replica reported its damage.
        ReplicaDamageReported = "replica.damage_reported",
        /// When a leader proposed a larger in-sync set.
        ReplicaExpandProposed = "replica.expand_proposed",
        /// When a high watermark waited for a proposed member.
        ReplicaMaximalIsrDiffers = "replica.maximal_isr_differs",
        /// When a push did not match a follower's log.
        ReplicaMismatch = "replica.mismatch",
        /// When a replica took on a new incarnation.
        ReplicaNewLife = "replica.new_life",
        /// When a leader proposed the present set again to end a proposal.
        ReplicaProposalWithdrawn = "replica.proposal_withdrawn",
        /// When a follower had no room for a push.
        ReplicaPushWithoutRoom = "replica.push_without_room",
        /// When a leader read a segment for a follower.
        ReplicaReadsForFollower = "replica.reads_for_follower",
        /// When retention moved the start of a log.
        ReplicaRetained = "replica.retained",
        /// When a leader proposed a smaller in-sync set.
        ReplicaShrinkProposed = "replica.shrink_proposed",
        /// When a follower took the rest of a batch without records that began below its end.
        ReplicaTookRestOfCover = "replica.took_rest_of_cover",
        /// When a follower cut a diverged tail.
        ReplicaTruncated = "replica.truncated",
        /// When a leader stood in line to ask a follower or the controller.
        ReplicaWaitsForTurn = "replica.waits_for_turn",
        /// When a read found a damaged segment.
        SegmentDamaged = "segment.damaged",
        /// When a log began a new segment.
        SegmentRolled = "segment.rolled",
        /// When a log of a topic that was deleted meanwhile was removed.
        ShardOrphanDeleted = "shard.orphan_deleted",
    }
}
