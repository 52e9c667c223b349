//! FindCoordinator: which broker coordinates a group or a transactional id.

use milena_wire_derive::Message;

use crate::ErrorCode;

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 10, versions = "0-6", flexible = "3+")]
pub struct FindCoordinatorRequest {
    #[field(versions = "0-3")]
    pub key: String,
    /// 0 is a group, 1 a transactional id, 2 a share group's partition.
    #[field(versions = "1+")]
    pub key_type: i8,
    #[field(versions = "4+")]
    pub coordinator_keys: Vec<String>,
}

/// Up to version 3 the reply is about one key, in the fields beside `coordinators`.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 10, versions = "0-6", flexible = "3+")]
pub struct FindCoordinatorResponse {
    #[field(versions = "1+")]
    pub throttle_time_ms: i32,
    #[field(versions = "0-3")]
    pub error_code: ErrorCode,
    #[field(versions = "1-3", nullable = "1-3", default = "Some(String::new())")]
    pub error_message: Option<String>,
    #[field(versions = "0-3")]
    pub node_id: i32,
    #[field(versions = "0-3")]
    pub host: String,
    #[field(versions = "0-3")]
    pub port: i32,
    #[field(versions = "4+")]
    pub coordinators: Vec<Coordinator>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct Coordinator {
    pub key: String,
    pub node_id: i32,
    pub host: String,
    pub port: i32,
    pub error_code: ErrorCode,
    #[field(nullable = "4+", default = "Some(String::new())")]
    pub error_message: Option<String>,
}
