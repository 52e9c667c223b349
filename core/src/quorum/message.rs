//! What the replicas of the metadata log say to each other, and what nodes say before there is a cluster.
//!
//! Raft's messages, with two additions: each names the sender's disk incarnation and start number, so that a lost or put-back
//! disk is told from a restart; and each names the incarnation it is meant for, so that a message for a destroyed disk
//! is none for its successor. A message that is lost is made good by the next one: nothing is answered twice for safety's sake.
//!
//! Bounds: a list longer than [`LIST_MAX`] is refused, records and parts are as long as the frame that brought them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Epoch, Incarnation, NodeId, Offset};

/// More controllers than this are refused in any message.
pub const LIST_MAX: usize = 128;

/// A seat in the quorum, or whoever else speaks: a node with one exact disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Voter {
    /// The node.
    pub node: NodeId,
    /// Its disk.
    pub incarnation: Incarnation,
}

/// The voters in force, at most one disk per node.
pub type Voters = BTreeMap<NodeId, Incarnation>;

/// What is drawn once, when a cluster is founded, and never replaced.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FoundingRecord {
    /// The cluster's id.
    pub cluster: u128,
    /// The controllers that were listed, sorted.
    pub list: Vec<NodeId>,
    /// The disks that were there: the voters until the log says otherwise.
    pub voters: Voters,
}

/// Number of an empty node's answer: new with each answer and each start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct AnswerNumber {
    /// The node's start number.
    pub start: u64,
    /// Answers given since.
    pub count: u64,
}

/// What a node that holds a founding record says of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holding {
    /// The record's cluster.
    pub cluster: u128,
    /// The record's list.
    pub list: Vec<NodeId>,
    /// Whether the record names the speaker's disk.
    pub voter: bool,
    /// Whether the speaker knows that every listed node holds the record.
    pub founded: bool,
}

/// Between nodes until each of them belongs to a cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FoundingMessage {
    /// When a node wants to know what another one is. Answered by `Blank` or `Holds`.
    Ask {
        /// The asker's disk.
        incarnation: Incarnation,
        /// The asker's `--cluster`, sorted.
        list: Vec<NodeId>,
        /// What it holds; none when it is empty.
        holds: Option<Holding>,
    },
    /// When an empty node answers.
    Blank {
        /// Its disk.
        incarnation: Incarnation,
        /// Its `--cluster`, sorted.
        list: Vec<NodeId>,
        /// To be cited by an offer.
        number: AnswerNumber,
        /// The disk that asked; the answer is for no other.
        to: Incarnation,
    },
    /// When a node that holds a record answers, or has just synced it.
    Holds {
        /// Its disk.
        incarnation: Incarnation,
        /// Its `--cluster`, sorted.
        list: Vec<NodeId>,
        /// What it holds.
        holds: Holding,
    },
    /// When a holder has heard an empty node's answer.
    Offer {
        /// The number of that answer.
        number: AnswerNumber,
        /// The disk that answered.
        to: Incarnation,
        /// The record.
        record: FoundingRecord,
        /// Whether the cluster is known to be founded.
        founded: bool,
        /// The holder's own `--cluster`, sorted.
        list: Vec<NodeId>,
    },
}

/// Between the replicas of the metadata log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QuorumMessage {
    /// The cluster; a message of another one is refused.
    pub cluster: u128,
    /// The sender's term, durable on its disk.
    pub term: Epoch,
    /// The sender's disk.
    pub incarnation: Incarnation,
    /// How often that disk was started.
    pub start: u64,
    /// The disk it is meant for; none where the sender cannot know it (`Follow`).
    pub to: Option<Incarnation>,
    /// What is said.
    pub body: QuorumBody,
}

/// End of a log, compared by term first (Raft, section 5.4.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct LogEnd {
    /// Term of the last record, -1 of an empty log.
    pub epoch: Epoch,
    /// Offset after it.
    pub end: Offset,
}

/// What is said.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum QuorumBody {
    /// When a node would stand for the term after its own, if a majority thinks that it could win (KIP-996). The candidate's
    /// log names the disk that this is meant for, as in `Vote`.
    PreVote {
        /// The candidate's log.
        last: LogEnd,
    },
    /// The answer to `PreVote`. Promises nothing.
    PreVoted {
        /// The candidate's term when it asked.
        asked: Epoch,
        /// Whether it would get the vote.
        granted: bool,
    },
    /// When a node stands in its term. Its log names the disk that this is meant for.
    Vote {
        /// The candidate's log.
        last: LogEnd,
    },
    /// The answer to `Vote`, for the sender's term.
    Voted {
        /// Whether the vote is the candidate's.
        granted: bool,
    },
    /// When a leader has records for a follower, a new commit offset, or nothing to say for a while.
    Append {
        /// Offset of the first record, or of the one that would come next.
        base: Offset,
        /// Term of the record before it, -1 where there is none.
        previous: Epoch,
        /// Batches of one record each, from `base` on.
        batches: Vec<Bytes>,
        /// Everything below is committed.
        commit: Offset,
    },
    /// When a follower's log matches the leader's.
    Appended {
        /// Up to here it matches, in memory.
        verified: Offset,
        /// Up to here it matches and is on the follower's disk.
        synced: Offset,
    },
    /// When a follower's log does not contain the record before an append.
    Diverged {
        /// The append's `base`.
        base: Offset,
        /// The two logs can only agree up to here ...
        end: Offset,
        /// ... where the follower's last record has this term.
        epoch: Epoch,
    },
    /// When a term older than the receiver's was heard: the header says what the term is.
    Stale,
    /// When a follower needs what the leader's log no longer has.
    SnapshotPart {
        /// End offset of the snapshot.
        end: Offset,
        /// Term of its last record.
        epoch: Epoch,
        /// Bytes of the whole snapshot file.
        length: u64,
        /// Position of this part in it.
        position: u64,
        /// The part.
        bytes: Bytes,
    },
    /// When a follower has taken a part; that it has the whole on its disk is said by `Appended`.
    SnapshotTaken {
        /// The snapshot's end offset.
        end: Offset,
        /// Position of the part that it wants next.
        position: u64,
    },
    /// When a node that does not vote looks for a leader to follow.
    Follow {
        /// End of its log.
        end: Offset,
    },
    /// When a leader that is about to stop wants a voter that has its whole log to stand at once.
    Stand,
}
