//! DescribeQuorum: who leads and who follows the metadata log, and how far each has come.

use milena_wire_derive::Message;

use crate::{ErrorCode, Uuid};

/// The one topic that is asked about: the name under which Kafka knows the metadata log.
pub const METADATA_TOPIC: &str = "__cluster_metadata";

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 55, versions = "0-2", flexible = "0+")]
pub struct DescribeQuorumRequest {
    pub topics: Vec<DescribeQuorumTopic>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct DescribeQuorumTopic {
    pub topic_name: String,
    pub partitions: Vec<DescribeQuorumPartition>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct DescribeQuorumPartition {
    pub partition_index: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 55, versions = "0-2", flexible = "0+")]
pub struct DescribeQuorumResponse {
    pub error_code: ErrorCode,
    #[field(versions = "2+", nullable = "2+", default = "Some(String::new())")]
    pub error_message: Option<String>,
    pub topics: Vec<DescribeQuorumResponseTopic>,
    /// The controllers, with the addresses that others reach them by.
    #[field(versions = "2+")]
    pub nodes: Vec<DescribeQuorumNode>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct DescribeQuorumResponseTopic {
    pub topic_name: String,
    pub partitions: Vec<DescribeQuorumResponsePartition>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct DescribeQuorumResponsePartition {
    pub partition_index: i32,
    pub error_code: ErrorCode,
    #[field(versions = "2+", nullable = "2+", default = "Some(String::new())")]
    pub error_message: Option<String>,
    /// The leader, or -1 while there is none.
    pub leader_id: i32,
    pub leader_epoch: i32,
    pub high_watermark: i64,
    pub current_voters: Vec<QuorumReplica>,
    pub observers: Vec<QuorumReplica>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct QuorumReplica {
    pub replica_id: i32,
    /// Of its disk.
    #[field(versions = "2+")]
    pub replica_directory_id: Uuid,
    /// As far as the leader knows, or -1.
    pub log_end_offset: i64,
    /// When the leader last heard it, or -1.
    #[field(versions = "1+", default = "-1")]
    pub last_fetch_timestamp: i64,
    /// When it last had all that the leader had, or -1.
    #[field(versions = "1+", default = "-1")]
    pub last_caught_up_timestamp: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct DescribeQuorumNode {
    pub node_id: i32,
    pub listeners: Vec<DescribeQuorumListener>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct DescribeQuorumListener {
    pub name: String,
    pub host: String,
    pub port: u16,
}
