//! DeleteTopics.

use milena_wire_derive::Message;

use crate::{ErrorCode, Uuid};

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 20, versions = "1-6", flexible = "4+")]
pub struct DeleteTopicsRequest {
    #[field(versions = "6+")]
    pub topics: Vec<DeleteTopicState>,
    #[field(versions = "0-5")]
    pub topic_names: Vec<String>,
    pub timeout_ms: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct DeleteTopicState {
    /// Null if `topic_id` says which topic is meant.
    #[field(nullable = "6+")]
    pub name: Option<String>,
    pub topic_id: Uuid,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 20, versions = "1-6", flexible = "4+")]
pub struct DeleteTopicsResponse {
    pub throttle_time_ms: i32,
    pub responses: Vec<DeletableTopicResult>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct DeletableTopicResult {
    #[field(nullable = "6+", default = "Some(String::new())")]
    pub name: Option<String>,
    #[field(versions = "6+")]
    pub topic_id: Uuid,
    pub error_code: ErrorCode,
    #[field(versions = "5+", nullable = "5+")]
    pub error_message: Option<String>,
}
