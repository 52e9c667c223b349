//! DescribeConfigs: settings of topics and brokers, and where each value comes from.

use milena_wire_derive::Message;

use crate::ErrorCode;

/// `resource_type` of a topic.
pub const RESOURCE_TYPE_TOPIC: i8 = 2;
/// `resource_type` of a broker.
pub const RESOURCE_TYPE_BROKER: i8 = 4;
/// `resource_type` of what a broker logs.
pub const RESOURCE_TYPE_BROKER_LOGGER: i8 = 8;
/// `resource_type` of a subscription to clients' metrics.
pub const RESOURCE_TYPE_CLIENT_METRICS: i8 = 16;
/// `resource_type` of a group.
pub const RESOURCE_TYPE_GROUP: i8 = 32;

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 32, versions = "1-4", flexible = "4+")]
pub struct DescribeConfigsRequest {
    pub resources: Vec<DescribeConfigsResource>,
    #[field(versions = "1+")]
    pub include_synonyms: bool,
    #[field(versions = "3+")]
    pub include_documentation: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct DescribeConfigsResource {
    pub resource_type: i8,
    pub resource_name: String,
    /// The settings asked for; null for all.
    #[field(nullable = "0+", default = "Some(Vec::new())")]
    pub configuration_keys: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 32, versions = "1-4", flexible = "4+")]
pub struct DescribeConfigsResponse {
    pub throttle_time_ms: i32,
    pub results: Vec<DescribeConfigsResult>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct DescribeConfigsResult {
    pub error_code: ErrorCode,
    #[field(nullable = "0+", default = "Some(String::new())")]
    pub error_message: Option<String>,
    pub resource_type: i8,
    pub resource_name: String,
    pub configs: Vec<DescribeConfigsResourceResult>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct DescribeConfigsResourceResult {
    pub name: String,
    #[field(nullable = "0+", default = "Some(String::new())")]
    pub value: Option<String>,
    pub read_only: bool,
    /// 1 set on the topic, 2 on this broker, 3 on all brokers, 4 in the broker's own file, 5 a default.
    #[field(versions = "1+", default = "-1")]
    pub config_source: i8,
    pub is_sensitive: bool,
    #[field(versions = "1+")]
    pub synonyms: Vec<DescribeConfigsSynonym>,
    /// 1 boolean, 2 string, 3 int, 4 short, 5 long, 6 double, 7 list, 8 class, 9 password.
    #[field(versions = "3+")]
    pub config_type: i8,
    #[field(versions = "3+", nullable = "3+", default = "Some(String::new())")]
    pub documentation: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct DescribeConfigsSynonym {
    pub name: String,
    #[field(nullable = "0+", default = "Some(String::new())")]
    pub value: Option<String>,
    pub source: i8,
}
