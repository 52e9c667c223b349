//! Names of things. Each is a plain number with its own type, so that two of them are never mixed up.

use std::fmt;

use milena_wire::Uuid;
use serde::{Deserialize, Serialize};

/// A broker or controller, as `--node-id` gives it.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct NodeId(pub i32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A cluster's id as clients and operators see it.
pub fn cluster_id(cluster: u128) -> Uuid {
    Uuid(cluster.to_be_bytes())
}

/// One life of one disk: drawn once on an empty directory, kept in its superblock and nowhere else. A destroyed disk
/// that is replaced comes back under another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Incarnation(pub u128);

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0 as u32)
    }
}

/// A topic's identity for ever; its name may be used again after a deletion, this may not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct TopicId(pub [u8; 16]);

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// One replicated log: a partition of a topic, or the metadata quorum's own log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct LogId {
    /// The topic; all zero for the metadata log.
    pub topic: TopicId,
    /// The partition's index in the topic.
    pub partition: i32,
}

impl LogId {
    /// The quorum's log. Its topic id is the one Kafka reserves for `__cluster_metadata`.
    pub const METADATA: LogId =
        LogId { topic: TopicId([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), partition: 0 };

    /// Where a broker keeps the epoch of its registration, in the metadata store: a state and no records.
    pub const BROKER: LogId =
        LogId { topic: TopicId([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]), partition: 0 };

    /// The shard that owns this log in a node with `shards` of them (at least 1). Frozen: both sides of a node's restart
    /// must agree, though recovery moves what a changed number of shards moves.
    pub fn shard(self, shards: u16) -> u16 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in self.topic.0.iter().copied().chain(self.partition.to_le_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        ((hash >> 32) % u64::from(shards.max(1))) as u16
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == LogId::METADATA {
            f.write_str("metadata")
        } else if *self == LogId::BROKER {
            f.write_str("broker")
        } else {
            write!(f, "{:?}-{}", self.topic, self.partition)
        }
    }
}

/// Position of a record in its log, as Kafka counts: dense, from 0.
pub type Offset = i64;

/// Epoch of a partition's leader; in the metadata log, the Raft term. Written into each batch.
pub type Epoch = i32;

/// What a producer's batches are known by, in every partition. Given once in the life of a cluster.
pub type ProducerId = i64;

/// Given to a broker at each registration: the offset of the record that registered it, so that it only grows.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct BrokerEpoch(pub i64);

/// One life of one replica's data on a disk that is otherwise sound: raised when its damage was reported. In the
/// partition's record and, once the replica has begun again, on its disk.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct ReplicaIncarnation(pub u32);

/// A Kafka connection at this node, as its driver counts them. Never used again within a run.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct ClientId(pub u64);

/// A disk operation of one machine. Never used again within a run.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct OpId(pub u64);
