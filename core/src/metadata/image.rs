//! The image: everything the committed metadata log says, immutable once shown.
//!
//! Each broker and controller has its own, made by applying the same records in the same order; `hash` chains over them, so
//! that two images at one offset are equal or the simulator says so. Changed topics get a new `Arc`, others keep theirs:
//! a shard finds what changed by comparing pointers.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{BrokerEpoch, Epoch, Incarnation, LogId, NodeId, Offset, ReplicaIncarnation, TopicId};

/// The metadata at one offset of its log.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Image {
    /// The cluster's id, drawn when it was founded.
    pub cluster: u128,
    /// Everything below this offset of the metadata log is in here.
    pub end: Offset,
    /// Term of the last record.
    pub epoch: Epoch,
    /// Hash chain over all records applied.
    pub hash: u64,
    /// Brokers that ever registered and were not removed.
    pub brokers: BTreeMap<NodeId, Broker>,
    /// Topics that exist.
    pub topics: BTreeMap<TopicId, Arc<Topic>>,
    /// Their names.
    pub names: BTreeMap<String, TopicId>,
}

/// A registered broker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Broker {
    /// Its disk.
    pub incarnation: Incarnation,
    /// Given by the record that registered it.
    pub epoch: BrokerEpoch,
    /// The last epoch of which it said that it is synced on that disk.
    pub confirmed: Option<BrokerEpoch>,
    /// Whether it is out of service: no leader, no member of an in-sync set.
    pub fenced: bool,
    /// Where Kafka clients reach it.
    pub kafka: (String, u16),
    /// Where other nodes reach it, `HOST:PORT`.
    pub peer: String,
    /// Its rack, if it has one.
    pub rack: Option<String>,
}

/// A topic.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Topic {
    /// Identity.
    pub id: TopicId,
    /// Name.
    pub name: String,
    /// Its own configurations, by Kafka's names; what is not here has its default.
    pub configs: BTreeMap<String, String>,
    /// By index, dense from 0.
    pub partitions: Vec<Partition>,
}

/// A partition's record: who holds it, who leads it (KIP-966).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Partition {
    /// In order of preference for leadership.
    pub replicas: Vec<NodeId>,
    /// The life of each replica's data, in the order of `replicas`.
    pub incarnations: Vec<ReplicaIncarnation>,
    /// In-sync replicas, sorted.
    pub isr: Vec<NodeId>,
    /// Eligible leader replicas, sorted.
    pub elr: Vec<NodeId>,
    /// Who leads, if anyone.
    pub leader: Option<NodeId>,
    /// Raised with each new leader, and when the same one begins anew.
    pub leader_epoch: Epoch,
    /// Raised with every change of this record.
    pub partition_epoch: i32,
    /// Effective `min.insync.replicas`, never above the replication factor.
    pub min_isr: u16,
}

impl Image {
    /// The partition of a log, with its topic.
    pub fn partition(&self, log: LogId) -> Option<(&Arc<Topic>, &Partition)> {
        let topic = self.topics.get(&log.topic)?;
        Some((topic, topic.partitions.get(usize::try_from(log.partition).ok()?)?))
    }

    /// The topic of a name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(self.names.get(name)?)
    }
}

impl Partition {
    /// The life that the metadata gives a replica.
    pub fn incarnation(&self, node: NodeId) -> Option<ReplicaIncarnation> {
        self.replicas.iter().position(|r| *r == node).map(|i| self.incarnations[i])
    }
}
