//! DescribeCluster: the brokers (or controllers) and who is in charge.

use milena_wire_derive::Message;

use super::AUTHORIZED_OPERATIONS_OMITTED;
use crate::ErrorCode;

/// `endpoint_type` that asks for the brokers.
pub const ENDPOINT_TYPE_BROKERS: i8 = 1;
/// `endpoint_type` that asks for the controllers.
pub const ENDPOINT_TYPE_CONTROLLERS: i8 = 2;

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 60, versions = "0-2", flexible = "0+")]
pub struct DescribeClusterRequest {
    pub include_cluster_authorized_operations: bool,
    #[field(versions = "1+", default = "ENDPOINT_TYPE_BROKERS")]
    pub endpoint_type: i8,
    #[field(versions = "2+")]
    pub include_fenced_brokers: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 60, versions = "0-2", flexible = "0+")]
pub struct DescribeClusterResponse {
    pub throttle_time_ms: i32,
    pub error_code: ErrorCode,
    #[field(nullable = "0+")]
    pub error_message: Option<String>,
    #[field(versions = "1+", default = "ENDPOINT_TYPE_BROKERS")]
    pub endpoint_type: i8,
    pub cluster_id: String,
    #[field(default = "-1")]
    pub controller_id: i32,
    pub brokers: Vec<DescribeClusterBroker>,
    #[field(default = "AUTHORIZED_OPERATIONS_OMITTED")]
    pub cluster_authorized_operations: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct DescribeClusterBroker {
    pub broker_id: i32,
    pub host: String,
    pub port: i32,
    #[field(nullable = "0+")]
    pub rack: Option<String>,
    #[field(versions = "2+")]
    pub is_fenced: bool,
}
