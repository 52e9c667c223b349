//! ListConfigResources: what configurations can be of, by type. Version 0 was about subscriptions to clients' metrics alone.

use milena_wire_derive::Message;

use super::describe_configs::RESOURCE_TYPE_CLIENT_METRICS;
use crate::ErrorCode;

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 74, versions = "0-1", flexible = "0+")]
pub struct ListConfigResourcesRequest {
    /// Empty for all.
    #[field(versions = "1+")]
    pub resource_types: Vec<i8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 74, versions = "0-1", flexible = "0+")]
pub struct ListConfigResourcesResponse {
    pub throttle_time_ms: i32,
    pub error_code: ErrorCode,
    pub config_resources: Vec<ConfigResource>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct ConfigResource {
    pub resource_name: String,
    #[field(versions = "1+", default = "RESOURCE_TYPE_CLIENT_METRICS")]
    pub resource_type: i8,
}
