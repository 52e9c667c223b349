//! What machines tell the simulator's ghosts, at the point where it happens.
//!
//! No node ever sees these. The production driver leaves them switched off. A checker that can see the disk does not
//! believe these but the disk.

use crate::{BrokerEpoch, Epoch, Incarnation, LogId, NodeId, Offset, ReplicaIncarnation};

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
    /// When a log's data is found damaged after recovery.
    Damaged {
        /// The log.
        log: LogId,
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
    /// When a produce with acks=all is answered without error.
    Produced {
        /// The log.
        log: LogId,
        /// Leader epoch that it was written in.
        epoch: Epoch,
        /// First offset.
        base: Offset,
        /// Offset after the last.
        next: Offset,
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
    Sometimes(&'static str),
}
