//! DescribeProducers: which producers a partition knows.

use milena_wire_derive::Message;

use crate::ErrorCode;

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 61, versions = "0", flexible = "0+")]
pub struct DescribeProducersRequest {
    pub topics: Vec<DescribeProducersTopic>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct DescribeProducersTopic {
    pub name: String,
    pub partition_indexes: Vec<i32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 61, versions = "0", flexible = "0+")]
pub struct DescribeProducersResponse {
    pub throttle_time_ms: i32,
    pub topics: Vec<DescribeProducersTopicResponse>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct DescribeProducersTopicResponse {
    pub name: String,
    pub partitions: Vec<DescribeProducersPartitionResponse>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct DescribeProducersPartitionResponse {
    pub partition_index: i32,
    pub error_code: ErrorCode,
    #[field(nullable = "0+")]
    pub error_message: Option<String>,
    pub active_producers: Vec<ProducerState>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct ProducerState {
    pub producer_id: i64,
    /// 32 bits here, though an epoch has 16.
    pub producer_epoch: i32,
    /// Of the last record appended, or -1.
    #[field(default = "-1")]
    pub last_sequence: i32,
    /// Milliseconds since the epoch, or -1.
    #[field(default = "-1")]
    pub last_timestamp: i64,
    pub coordinator_epoch: i32,
    /// Where its transaction begins, or -1.
    #[field(default = "-1")]
    pub current_txn_start_offset: i64,
}
