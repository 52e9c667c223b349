//! DescribeTopicPartitions: topics page by page, with their eligible leader replicas.

use milena_wire_derive::Message;

use super::AUTHORIZED_OPERATIONS_OMITTED;
use crate::{ErrorCode, Uuid};

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 75, versions = "0", flexible = "0+")]
pub struct DescribeTopicPartitionsRequest {
    pub topics: Vec<TopicRequest>,
    #[field(default = "2000")]
    pub response_partition_limit: i32,
    /// Where to go on; null from the start.
    #[field(nullable = "0+")]
    pub cursor: Option<Cursor>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct TopicRequest {
    pub name: String,
}

/// A place in the list of all partitions, ordered by topic and index.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct Cursor {
    pub topic_name: String,
    pub partition_index: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 75, versions = "0", flexible = "0+")]
pub struct DescribeTopicPartitionsResponse {
    pub throttle_time_ms: i32,
    pub topics: Vec<DescribeTopicPartitionsResponseTopic>,
    /// Where the next page starts; null on the last.
    #[field(nullable = "0+")]
    pub next_cursor: Option<Cursor>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct DescribeTopicPartitionsResponseTopic {
    pub error_code: ErrorCode,
    #[field(nullable = "0+", default = "Some(String::new())")]
    pub name: Option<String>,
    pub topic_id: Uuid,
    pub is_internal: bool,
    pub partitions: Vec<DescribeTopicPartitionsResponsePartition>,
    #[field(default = "AUTHORIZED_OPERATIONS_OMITTED")]
    pub topic_authorized_operations: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct DescribeTopicPartitionsResponsePartition {
    pub error_code: ErrorCode,
    pub partition_index: i32,
    /// The leader, or -1 while there is none.
    pub leader_id: i32,
    #[field(default = "-1")]
    pub leader_epoch: i32,
    pub replica_nodes: Vec<i32>,
    pub isr_nodes: Vec<i32>,
    #[field(nullable = "0+")]
    pub eligible_leader_replicas: Option<Vec<i32>>,
    #[field(nullable = "0+")]
    pub last_known_elr: Option<Vec<i32>>,
    pub offline_replicas: Vec<i32>,
}
