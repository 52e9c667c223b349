//! Metadata: brokers, topics and who leads which partition.

use milena_wire_derive::Message;

use super::AUTHORIZED_OPERATIONS_OMITTED;
use crate::{ErrorCode, Uuid};

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 3, versions = "0-13", flexible = "9+")]
pub struct MetadataRequest {
    /// The topics asked for. Null asks for all; so does an empty list in version 0.
    #[field(nullable = "1+", default = "Some(Vec::new())")]
    pub topics: Option<Vec<MetadataRequestTopic>>,
    #[field(versions = "4+", default = "true")]
    pub allow_auto_topic_creation: bool,
    #[field(versions = "8-10")]
    pub include_cluster_authorized_operations: bool,
    #[field(versions = "8+")]
    pub include_topic_authorized_operations: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct MetadataRequestTopic {
    #[field(versions = "10+")]
    pub topic_id: Uuid,
    /// Null if `topic_id` says which topic is meant.
    #[field(nullable = "10+", default = "Some(String::new())")]
    pub name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 3, versions = "0-13", flexible = "9+")]
pub struct MetadataResponse {
    #[field(versions = "3+")]
    pub throttle_time_ms: i32,
    pub brokers: Vec<MetadataResponseBroker>,
    #[field(versions = "2+", nullable = "2+")]
    pub cluster_id: Option<String>,
    #[field(versions = "1+", default = "-1")]
    pub controller_id: i32,
    pub topics: Vec<MetadataResponseTopic>,
    #[field(versions = "8-10", default = "AUTHORIZED_OPERATIONS_OMITTED")]
    pub cluster_authorized_operations: i32,
    #[field(versions = "13+")]
    pub error_code: ErrorCode,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct MetadataResponseBroker {
    pub node_id: i32,
    pub host: String,
    pub port: i32,
    #[field(versions = "1+", nullable = "1+")]
    pub rack: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct MetadataResponseTopic {
    pub error_code: ErrorCode,
    /// Null for a topic asked for by an identifier that nobody knows.
    #[field(nullable = "12+", default = "Some(String::new())")]
    pub name: Option<String>,
    #[field(versions = "10+")]
    pub topic_id: Uuid,
    #[field(versions = "1+")]
    pub is_internal: bool,
    pub partitions: Vec<MetadataResponsePartition>,
    #[field(versions = "8+", default = "AUTHORIZED_OPERATIONS_OMITTED")]
    pub topic_authorized_operations: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct MetadataResponsePartition {
    pub error_code: ErrorCode,
    pub partition_index: i32,
    /// The leader, or -1 while there is none.
    pub leader_id: i32,
    #[field(versions = "7+", default = "-1")]
    pub leader_epoch: i32,
    pub replica_nodes: Vec<i32>,
    pub isr_nodes: Vec<i32>,
    #[field(versions = "5+")]
    pub offline_replicas: Vec<i32>,
}
