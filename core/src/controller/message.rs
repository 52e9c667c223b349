//! What brokers and the active controller say to each other.
//!
//! Any of it may be lost, delayed and doubled. A registration names the one that it replaces, a proposal the partition
//! epoch, a damage report the incarnation, who wants producer ids the block that it has, so that a late double finds
//! another state than it speaks of and changes nothing. A client's request names the term of the controller and the registration of the broker; that controller
//! answers each of them once, and under another term or registration it is not done at all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::local::AlterPartition;
use crate::quorum::QuorumDescription;
use crate::{
    BrokerEpoch, Epoch, Incarnation, LogId, NodeId, Offset, ProducerId, Refusal,
    ReplicaIncarnation, TopicId,
};

/// Between a broker and the active controller.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum ControllerMessage {
    /// When a broker has started and knows the cluster's metadata, or was registered by another life of it.
    Register(Registration),
    /// When a registration is committed.
    Registered {
        /// The life that asked.
        life: u64,
        /// Its epoch.
        epoch: BrokerEpoch,
    },
    /// When a broker says that it lives. Only after the epoch is synced on its disk: this confirms it too.
    Heartbeat {
        /// Of its registration.
        epoch: BrokerEpoch,
    },
    /// When a leader proposes an in-sync set.
    AlterPartition(AlterPartition),
    /// When a replica's data is damaged.
    Damaged(Damage),
    /// When a client's request is the controller's to answer.
    Administer {
        /// The term of the controller that is meant; one of another term drops it.
        term: Epoch,
        /// The registration of the broker that asks; one that is not in force drops it.
        epoch: BrokerEpoch,
        /// Number of the request under that registration.
        id: u64,
        /// What is asked.
        request: AdminRequest,
    },
    /// The answer to [`ControllerMessage::Administer`], once what it did is committed.
    Administered {
        /// The registration of the broker that asked.
        epoch: BrokerEpoch,
        /// Number of the request under that registration.
        id: u64,
        /// Metadata up to here shows what was done.
        end: Offset,
        /// For each topic asked about, in the order of the request.
        topics: Vec<Result<TopicSummary, Refusal>>,
    },
    /// When a client asks about the quorum.
    DescribeQuorum {
        /// Number of the question, from the broker that asks.
        id: u64,
    },
    /// The answer of the quorum's leader to [`ControllerMessage::DescribeQuorum`]; whoever else is asked says nothing.
    QuorumDescribed {
        /// Number of the question.
        id: u64,
        /// What it knows.
        description: QuorumDescription,
    },
    /// When a broker needs producer ids. Not answered: metadata that shows another block is the answer.
    AllocateProducerIds {
        /// Of its registration.
        epoch: BrokerEpoch,
        /// The block that it has under that registration, by its first id; another one drops this.
        after: Option<ProducerId>,
    },
    /// When a broker wants to stop: in place of its heartbeats, until it may (KIP-841).
    Stopping {
        /// Of its registration.
        epoch: BrokerEpoch,
    },
    /// The answer to [`ControllerMessage::Stopping`], once all is given away that can be.
    MayStop {
        /// Of its registration.
        epoch: BrokerEpoch,
        /// Metadata up to here shows who has taken over.
        end: Offset,
    },
    /// When a broker is not registered because another one of its id is in service.
    Refused {
        /// The life that asked.
        life: u64,
        /// Why, with both.
        refusal: Refusal,
        /// Whether the other one was heard for so long since that it cannot be an earlier life of the one that asked.
        for_good: bool,
    },
}

/// A broker's registration.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Registration {
    /// The cluster that it belongs to; the controller of another one drops this.
    pub cluster: u128,
    /// Drawn at each start of the broker.
    pub life: u64,
    /// The registration in force, as the broker's metadata shows it; another one in force drops this.
    pub replaces: Option<BrokerEpoch>,
    /// Its disk.
    pub incarnation: Incarnation,
    /// The last epoch that is synced on that disk.
    pub synced: Option<BrokerEpoch>,
    /// Where Kafka clients reach it.
    pub kafka: (String, u16),
    /// Where other nodes reach it.
    pub peer: String,
    /// Its rack.
    pub rack: Option<String>,
}

/// A damaged replica.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Damage {
    /// The partition.
    pub log: LogId,
    /// The broker's registration.
    pub broker_epoch: BrokerEpoch,
    /// Its disk.
    pub incarnation: Incarnation,
    /// The life of the data that is damaged.
    pub replica: ReplicaIncarnation,
}

/// A client's request to the controller.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum AdminRequest {
    /// To make topics.
    CreateTopics {
        /// Which.
        topics: Vec<NewTopic>,
        /// Only to say whether they could be made.
        validate_only: bool,
    },
    /// To delete topics with their records.
    DeleteTopics {
        /// Which.
        topics: Vec<TopicReference>,
    },
    /// To give topics more partitions.
    CreatePartitions {
        /// Which, and how many.
        topics: Vec<NewPartitions>,
        /// Only to say whether they could be made.
        validate_only: bool,
    },
}

/// A topic to be made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewTopic {
    /// Drawn by the broker that asks, so that asking again makes it once.
    pub id: TopicId,
    /// Name.
    pub name: String,
    /// How many partitions; none for the default.
    pub partitions: Option<i32>,
    /// How many replicas of each; none for the default.
    pub replication_factor: Option<i16>,
    /// The replicas of each partition by its index, where the client chose them; empty otherwise.
    pub assignments: Vec<(i32, Vec<NodeId>)>,
    /// Its own configurations; a value of none is refused.
    pub configs: Vec<(String, Option<String>)>,
}

/// What a topic is to have instead of what it has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewPartitions {
    /// Name of the topic.
    pub topic: String,
    /// How many partitions it is to have in all.
    pub count: i32,
    /// The replicas of each new partition in turn, where the client chose them.
    pub assignments: Option<Vec<Vec<NodeId>>>,
}

/// How a client names a topic.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum TopicReference {
    /// By name.
    Name(String),
    /// By identity.
    Id(TopicId),
}

/// A topic that was made or deleted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TopicSummary {
    /// Identity.
    pub id: TopicId,
    /// Name.
    pub name: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Replicas of the first.
    pub replication_factor: i16,
    /// Effective `min.insync.replicas` of its partitions.
    pub min_isr: u16,
    /// Its own configurations.
    pub configs: BTreeMap<String, String>,
}
