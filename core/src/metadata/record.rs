//! Metadata records: every change of the cluster is one or more of these, committed by the quorum.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Partition;
use crate::{BrokerEpoch, Incarnation, LogId, NodeId, TopicId};

/// One change. The order of variants and fields is frozen: it is what postcard writes. New ones go to the end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Record {
    /// When a broker registers, fenced. Its epoch is this record's offset.
    RegisterBroker {
        /// The broker.
        node: NodeId,
        /// Its disk.
        incarnation: Incarnation,
        /// Where Kafka clients reach it.
        kafka: (String, u16),
        /// Where other nodes reach it.
        peer: String,
        /// Its rack.
        rack: Option<String>,
    },
    /// When a broker has said that the epoch is synced on its disk.
    ConfirmBroker {
        /// The broker.
        node: NodeId,
        /// The epoch of its registration.
        epoch: BrokerEpoch,
    },
    /// When a broker goes out of service or comes back into it.
    FenceBroker {
        /// The broker.
        node: NodeId,
        /// Out or in.
        fenced: bool,
    },
    /// When a topic is made. Its partitions follow as [`Record::Partition`].
    Topic {
        /// Identity.
        id: TopicId,
        /// Name.
        name: String,
        /// Its own configurations.
        configs: BTreeMap<String, String>,
    },
    /// When a partition is made or changed: the whole of it.
    Partition {
        /// Topic and index.
        log: LogId,
        /// What it is now.
        partition: Partition,
    },
    /// When a topic is deleted with all its partitions.
    RemoveTopic {
        /// Identity.
        id: TopicId,
    },
}
