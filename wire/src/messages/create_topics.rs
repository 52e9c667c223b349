//! CreateTopics.

use milena_wire_derive::Message;

use crate::{ErrorCode, Uuid};

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 19, versions = "2-7", flexible = "5+")]
pub struct CreateTopicsRequest {
    pub topics: Vec<CreatableTopic>,
    #[field(default = "60_000")]
    pub timeout_ms: i32,
    /// Check the topics without creating them.
    pub validate_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct CreatableTopic {
    pub name: String,
    /// -1 for the broker's default, or if `assignments` says it.
    pub num_partitions: i32,
    /// -1 for the broker's default, or if `assignments` says it.
    pub replication_factor: i16,
    /// Replicas chosen by the client; empty to leave the choice to the controller.
    pub assignments: Vec<CreatableReplicaAssignment>,
    pub configs: Vec<CreatableTopicConfig>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct CreatableReplicaAssignment {
    pub partition_index: i32,
    pub broker_ids: Vec<i32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct CreatableTopicConfig {
    pub name: String,
    #[field(nullable = "0+", default = "Some(String::new())")]
    pub value: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 19, versions = "2-7", flexible = "5+")]
pub struct CreateTopicsResponse {
    pub throttle_time_ms: i32,
    pub topics: Vec<CreatableTopicResult>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct CreatableTopicResult {
    pub name: String,
    #[field(versions = "7+")]
    pub topic_id: Uuid,
    pub error_code: ErrorCode,
    #[field(nullable = "0+", default = "Some(String::new())")]
    pub error_message: Option<String>,
    /// Why `configs` is missing.
    #[field(versions = "5+", tag = 0)]
    pub topic_config_error_code: ErrorCode,
    #[field(versions = "5+", default = "-1")]
    pub num_partitions: i32,
    #[field(versions = "5+", default = "-1")]
    pub replication_factor: i16,
    #[field(versions = "5+", nullable = "5+", default = "Some(Vec::new())")]
    pub configs: Option<Vec<CreatableTopicConfigs>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct CreatableTopicConfigs {
    pub name: String,
    #[field(nullable = "5+", default = "Some(String::new())")]
    pub value: Option<String>,
    pub read_only: bool,
    #[field(default = "-1")]
    pub config_source: i8,
    pub is_sensitive: bool,
}
