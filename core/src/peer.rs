//! What nodes say to each other, and its bytes.
//!
//! A message may be lost, delayed, doubled and reordered; every machine is written for that. A frame is one byte of format
//! version, the message in postcard, and then, not copied into it, the record batches that it carries.

use serde::{Deserialize, Serialize};

use crate::Place;
use crate::controller::message::ControllerMessage;
use crate::quorum::message::{FoundingMessage, QuorumMessage};
use crate::replica::message::ReplicaMessage;

/// From a machine of one node to a machine of another.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum PeerMessage {
    /// Between controllers before there is a cluster.
    Founding(FoundingMessage),
    /// Between the replicas of the metadata log.
    Quorum(QuorumMessage),
    /// Between a broker and the active controller.
    Controller(ControllerMessage),
    /// Between the replicas of a partition.
    Replica(ReplicaMessage),
}

impl PeerMessage {
    /// The machine of the receiving node, which has `shards` of them, that this is for.
    pub fn place(&self, shards: u16) -> Place {
        match self {
            PeerMessage::Founding(_) | PeerMessage::Quorum(_) | PeerMessage::Controller(_) => {
                Place::Metadata
            }
            PeerMessage::Replica(message) => Place::Shard(message.log().shard(shards)),
        }
    }
}

impl From<FoundingMessage> for PeerMessage {
    fn from(message: FoundingMessage) -> Self {
        PeerMessage::Founding(message)
    }
}

impl From<QuorumMessage> for PeerMessage {
    fn from(message: QuorumMessage) -> Self {
        PeerMessage::Quorum(message)
    }
}

impl From<ControllerMessage> for PeerMessage {
    fn from(message: ControllerMessage) -> Self {
        PeerMessage::Controller(message)
    }
}

impl From<ReplicaMessage> for PeerMessage {
    fn from(message: ReplicaMessage) -> Self {
        PeerMessage::Replica(message)
    }
}
