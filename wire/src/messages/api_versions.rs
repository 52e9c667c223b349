//! ApiVersions: what the broker speaks. The first thing a client asks.

use milena_wire_derive::Message;

use crate::ErrorCode;

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 18, versions = "0-5", flexible = "3+")]
pub struct ApiVersionsRequest {
    #[field(versions = "3+")]
    pub client_software_name: String,
    #[field(versions = "3+")]
    pub client_software_version: String,
    /// The cluster that the client means to reach, if it knows.
    #[field(versions = "5+", nullable = "5+")]
    pub cluster_id: Option<String>,
    /// The broker that it means to reach, or -1.
    #[field(versions = "5+", default = "-1")]
    pub node_id: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 18, versions = "0-5", flexible = "3+")]
pub struct ApiVersionsResponse {
    pub error_code: ErrorCode,
    pub api_keys: Vec<ApiVersion>,
    #[field(versions = "1+")]
    pub throttle_time_ms: i32,
    /// Before version 4, leave out features whose lowest version is 0: old clients refuse it.
    #[field(versions = "3+", tag = 0)]
    pub supported_features: Vec<SupportedFeatureKey>,
    /// The version of `finalized_features`, or -1 if it is not known.
    #[field(versions = "3+", tag = 1, default = "-1")]
    pub finalized_features_epoch: i64,
    #[field(versions = "3+", tag = 2)]
    pub finalized_features: Vec<FinalizedFeatureKey>,
    #[field(versions = "3+", tag = 3)]
    pub zk_migration_ready: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct ApiVersion {
    pub api_key: i16,
    pub min_version: i16,
    pub max_version: i16,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct SupportedFeatureKey {
    pub name: String,
    pub min_version: i16,
    pub max_version: i16,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct FinalizedFeatureKey {
    pub name: String,
    pub max_version_level: i16,
    pub min_version_level: i16,
}
