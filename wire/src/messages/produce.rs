//! Produce: append record batches to partitions.

use bytes::Bytes;
use milena_wire_derive::Message;

use crate::{ErrorCode, Uuid};

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 0, versions = "3-13", flexible = "9+")]
pub struct ProduceRequest {
    #[field(nullable = "3+")]
    pub transactional_id: Option<String>,
    /// How many replicas must have the records before the reply: 0 asks for no reply at all, 1 for the leader, -1 for
    /// the in-sync set.
    pub acks: i16,
    pub timeout_ms: i32,
    pub topic_data: Vec<TopicProduceData>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct TopicProduceData {
    #[field(versions = "0-12")]
    pub name: String,
    #[field(versions = "13+")]
    pub topic_id: Uuid,
    pub partition_data: Vec<PartitionProduceData>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct PartitionProduceData {
    pub index: i32,
    /// Record batches; a slice of the request's frame.
    #[field(nullable = "0+")]
    pub records: Option<Bytes>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 0, versions = "3-13", flexible = "9+")]
pub struct ProduceResponse {
    pub responses: Vec<TopicProduceResponse>,
    pub throttle_time_ms: i32,
    /// Addresses of the leaders that `current_leader` names.
    #[field(versions = "10+", tag = 0)]
    pub node_endpoints: Vec<NodeEndpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct TopicProduceResponse {
    #[field(versions = "0-12")]
    pub name: String,
    #[field(versions = "13+")]
    pub topic_id: Uuid,
    pub partition_responses: Vec<PartitionProduceResponse>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct PartitionProduceResponse {
    pub index: i32,
    pub error_code: ErrorCode,
    pub base_offset: i64,
    /// Milliseconds since the epoch if the topic uses the broker's time, else -1.
    #[field(default = "-1")]
    pub log_append_time_ms: i64,
    #[field(versions = "5+", default = "-1")]
    pub log_start_offset: i64,
    #[field(versions = "8+")]
    pub record_errors: Vec<BatchIndexAndErrorMessage>,
    #[field(versions = "8+", nullable = "8+")]
    pub error_message: Option<String>,
    #[field(versions = "10+", tag = 0)]
    pub current_leader: LeaderIdAndEpoch,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct BatchIndexAndErrorMessage {
    pub batch_index: i32,
    #[field(nullable = "8+")]
    pub batch_index_error_message: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct LeaderIdAndEpoch {
    #[field(default = "-1")]
    pub leader_id: i32,
    #[field(default = "-1")]
    pub leader_epoch: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct NodeEndpoint {
    pub node_id: i32,
    pub host: String,
    pub port: i32,
    #[field(nullable = "10+")]
    pub rack: Option<String>,
}
