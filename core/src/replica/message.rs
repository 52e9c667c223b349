//! What the replicas of a partition say to each other.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::local::Member;
use crate::storage::Beginning;
use crate::{BrokerEpoch, Epoch, LogId, NodeId, Offset};

/// Between the replicas of a partition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ReplicaMessage {
    /// When a leader has records for a follower, or asks where it stands.
    Push(Push),
    /// When a follower has synced what it was pushed, or must say where it stands.
    Acknowledge(Acknowledge),
}

impl ReplicaMessage {
    /// The cluster of the sender: what another one's replica says, reached through a port that was used again, is not for this
    /// one.
    pub fn cluster(&self) -> u128 {
        match self {
            ReplicaMessage::Push(push) => push.cluster,
            ReplicaMessage::Acknowledge(acknowledge) => acknowledge.cluster,
        }
    }

    /// The partition.
    pub fn log(&self) -> LogId {
        match self {
            ReplicaMessage::Push(push) => push.log,
            ReplicaMessage::Acknowledge(acknowledge) => acknowledge.log,
        }
    }
}

/// From the leader, pipelined: sent while its own sync runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Push {
    /// The leader's cluster.
    pub cluster: u128,
    /// The partition.
    pub log: LogId,
    /// The leader and its broker epoch.
    pub leader: (NodeId, BrokerEpoch),
    /// Epoch in which it leads.
    pub leader_epoch: Epoch,
    /// Broker epoch of the follower that is meant; another one drops it.
    pub follower_epoch: BrokerEpoch,
    /// Where the leader's epoch starts: records of an older epoch at or past it are cut.
    pub epoch_start: Offset,
    /// Offset of the first record pushed; where there is none, the offset up to which the logs are compared. A border
    /// between batches of the leader's log; below its log start where that lies inside a batch without records.
    pub base: Offset,
    /// Epoch of the record before `base`; -1 at offset 0, and where that record lies below the leader's log start, which
    /// the leader says only to members of ISR and ELR and to those that have acknowledged so far in this epoch.
    pub previous_epoch: Epoch,
    /// If this is "begin at `base`", what the leader's log gives it to begin with: the leader's log starts past the follower's
    /// end, or has dropped other tombstones than the log that the follower is a copy of. Only a replica outside ISR and ELR takes it, as a
    /// truncation of everything.
    pub begin: Option<Beginning>,
    /// Tombstones below this offset may have gone from the leader's log when this left.
    pub dropped: Offset,
    /// The exchange that the leader last began in this epoch, which the answer repeats.
    pub exchange: u64,
    /// The leader's high watermark.
    pub high_watermark: Offset,
    /// The leader's log start.
    pub log_start: Offset,
    /// Whole batches, offsets and epochs assigned.
    #[serde(skip)]
    pub records: Vec<Bytes>,
}

/// From a follower: only what is synced, only after a push of this epoch matched and any truncation is synced.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Acknowledge {
    /// The follower's cluster.
    pub cluster: u128,
    /// The partition.
    pub log: LogId,
    /// Leader epoch of the push.
    pub leader_epoch: Epoch,
    /// The follower in this life.
    pub follower: Member,
    /// The last exchange that it has heard of in this epoch.
    pub exchange: u64,
    /// Tombstones below this offset may have gone from its log; it holds no value that they ended.
    pub dropped: Offset,
    /// What it says.
    pub answer: Answer,
}

/// A follower's answer to a push.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// When its log matches the leader's up to a synced end.
    Synced {
        /// The end of what it has synced.
        end: Offset,
        /// Epoch of the record below that end; -1 where there is none.
        last_epoch: Epoch,
        /// End of what it has received and matched in this epoch, synced or not. For the flow of pushes only: it promises
        /// nothing.
        matched: Offset,
    },
    /// When the record before the push is not there or has another epoch: where the leader should look next.
    Mismatch {
        /// The push's `base`, by which the leader tells the answer it waits for from late ones.
        base: Offset,
        /// Largest offset at which the logs may agree: at most its own end, below `base`.
        hint: Offset,
        /// Epoch of its record below `hint`; -1 where there is none. All of the leader's records of later epochs lie past
        /// the point where the logs part.
        last_epoch: Epoch,
    },
}
