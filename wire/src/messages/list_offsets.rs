//! ListOffsets: offsets of partitions by timestamp, or of their ends.

use milena_wire_derive::Message;

use crate::ErrorCode;

/// Timestamp that asks for the end of the partition as the isolation level sees it.
pub const LATEST_TIMESTAMP: i64 = -1;
/// Timestamp that asks for the log start offset.
pub const EARLIEST_TIMESTAMP: i64 = -2;
/// Timestamp that asks for the offset of the record with the largest timestamp (since version 7).
pub const MAX_TIMESTAMP: i64 = -3;
/// Timestamp that asks for the start of what is on this broker's own disk (since version 8).
pub const EARLIEST_LOCAL_TIMESTAMP: i64 = -4;
/// Timestamp that asks for the last offset in tiered storage (since version 9).
pub const LATEST_TIERED_TIMESTAMP: i64 = -5;
/// Timestamp that asks for the first offset not yet in tiered storage (since version 11).
pub const EARLIEST_PENDING_UPLOAD_TIMESTAMP: i64 = -6;

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 2, versions = "1-11", flexible = "6+")]
pub struct ListOffsetsRequest {
    /// The broker that asks, or -1 for a consumer.
    pub replica_id: i32,
    #[field(versions = "2+")]
    pub isolation_level: i8,
    pub topics: Vec<ListOffsetsTopic>,
    #[field(versions = "10+")]
    pub timeout_ms: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct ListOffsetsTopic {
    pub name: String,
    pub partitions: Vec<ListOffsetsPartition>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct ListOffsetsPartition {
    pub partition_index: i32,
    #[field(versions = "4+", default = "-1")]
    pub current_leader_epoch: i32,
    /// Milliseconds since the epoch, or one of the special timestamps of this module.
    pub timestamp: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 2, versions = "1-11", flexible = "6+")]
pub struct ListOffsetsResponse {
    #[field(versions = "2+")]
    pub throttle_time_ms: i32,
    pub topics: Vec<ListOffsetsTopicResponse>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct ListOffsetsTopicResponse {
    pub name: String,
    pub partitions: Vec<ListOffsetsPartitionResponse>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct ListOffsetsPartitionResponse {
    pub partition_index: i32,
    pub error_code: ErrorCode,
    #[field(default = "-1")]
    pub timestamp: i64,
    #[field(default = "-1")]
    pub offset: i64,
    #[field(versions = "4+", default = "-1")]
    pub leader_epoch: i32,
}
