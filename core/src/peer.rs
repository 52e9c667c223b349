//! What nodes say to each other, and its bytes.
//!
//! A message may be lost, delayed, doubled and reordered; every machine is written for that. A frame is one byte of format
//! version, the message in postcard, and then, not copied into it, the record batches that it carries.

use bytes::{Buf, Bytes, BytesMut};
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

/// First byte of a frame. Frozen for what it stands for; another format gets another number.
const FORMAT: u8 = 5;

/// A frame that no node of this version wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// The first byte names a format that this version does not know.
    #[error("peer message of format {0}, this version reads {FORMAT}")]
    Format(u8),
    /// The bytes are not a message.
    #[error("malformed peer message")]
    Malformed,
}

/// The frame of a message, without a length prefix: its head, then the record batches as they are.
pub fn encode(message: &PeerMessage) -> Vec<Bytes> {
    let records: &[Bytes] = match message {
        PeerMessage::Replica(ReplicaMessage::Push(push)) => &push.records,
        _ => &[],
    };
    let length: usize = records.iter().map(Bytes::len).sum();
    let mut head = vec![FORMAT];
    head.extend_from_slice(
        &u32::try_from(length).expect("a push is bounded far below 4 GiB").to_le_bytes(),
    );
    let head = postcard::to_extend(message, head).expect("a message of ours has bytes");
    let mut frame = vec![Bytes::from(head)];
    frame.extend(records.iter().cloned());
    frame
}

/// The message of a frame. Records are slices of it. Nothing is allocated beyond what the frame's own bytes can hold.
pub fn decode(mut frame: Bytes) -> Result<PeerMessage, FrameError> {
    if frame.len() < 5 {
        return Err(FrameError::Malformed);
    }
    let format = frame.get_u8();
    if format != FORMAT {
        return Err(FrameError::Format(format));
    }
    let length = frame.get_u32_le() as usize;
    let head = frame.len().checked_sub(length).ok_or(FrameError::Malformed)?;
    let records = frame.split_off(head);
    let mut message = postcard::from_bytes(&frame).map_err(|_| FrameError::Malformed)?;
    match &mut message {
        PeerMessage::Replica(ReplicaMessage::Push(push)) if !records.is_empty() => {
            push.records = vec![records]
        }
        _ if !records.is_empty() => return Err(FrameError::Malformed),
        _ => {}
    }
    Ok(message)
}

/// The records of a message in one piece, for comparing a message with what came of its bytes.
pub fn joined(mut message: PeerMessage) -> PeerMessage {
    if let PeerMessage::Replica(ReplicaMessage::Push(push)) = &mut message
        && push.records.len() > 1
    {
        let mut all = BytesMut::new();
        push.records.iter().for_each(|piece| all.extend_from_slice(piece));
        push.records = vec![all.freeze()];
    }
    message
}
