//! Fetch: read record batches from partitions.

use milena_wire_derive::Message;

use crate::{ErrorCode, Records, Uuid};

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 1, versions = "4-18", flexible = "12+")]
pub struct FetchRequest {
    #[field(versions = "12+", nullable = "12+", tag = 0)]
    pub cluster_id: Option<String>,
    /// The broker that follows, or -1 for a consumer; since version 15 in `replica_state`.
    #[field(versions = "0-14", default = "-1")]
    pub replica_id: i32,
    #[field(versions = "15+", tag = 1)]
    pub replica_state: ReplicaState,
    /// How long the reply may wait until `min_bytes` are there.
    pub max_wait_ms: i32,
    pub min_bytes: i32,
    /// Limit of the whole reply, which the first batch may exceed.
    #[field(default = "i32::MAX")]
    pub max_bytes: i32,
    /// 0 reads everything below the high watermark, 1 only what no open transaction can still abort.
    pub isolation_level: i8,
    #[field(versions = "7+")]
    pub session_id: i32,
    #[field(versions = "7+", default = "-1")]
    pub session_epoch: i32,
    pub topics: Vec<FetchTopic>,
    #[field(versions = "7+")]
    pub forgotten_topics_data: Vec<ForgottenTopic>,
    #[field(versions = "11+")]
    pub rack_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct ReplicaState {
    #[field(default = "-1")]
    pub replica_id: i32,
    #[field(default = "-1")]
    pub replica_epoch: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct FetchTopic {
    #[field(versions = "0-12")]
    pub topic: String,
    #[field(versions = "13+")]
    pub topic_id: Uuid,
    pub partitions: Vec<FetchPartition>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct FetchPartition {
    pub partition: i32,
    /// The leader epoch the client believes in, or -1 to have it not checked.
    #[field(versions = "9+", default = "-1")]
    pub current_leader_epoch: i32,
    pub fetch_offset: i64,
    /// The leader epoch of the last record the client has, or -1: the leader compares it with its own log.
    #[field(versions = "12+", default = "-1")]
    pub last_fetched_epoch: i32,
    /// A follower's own log start offset; -1 from a consumer.
    #[field(versions = "5+", default = "-1")]
    pub log_start_offset: i64,
    pub partition_max_bytes: i32,
    #[field(versions = "17+", tag = 0)]
    pub replica_directory_id: Uuid,
    #[field(versions = "18+", tag = 1, default = "i64::MAX")]
    pub high_watermark: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct ForgottenTopic {
    #[field(versions = "0-12")]
    pub topic: String,
    #[field(versions = "13+")]
    pub topic_id: Uuid,
    pub partitions: Vec<i32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 1, versions = "4-18", flexible = "12+")]
pub struct FetchResponse {
    pub throttle_time_ms: i32,
    #[field(versions = "7+")]
    pub error_code: ErrorCode,
    #[field(versions = "7+")]
    pub session_id: i32,
    pub responses: Vec<FetchableTopicResponse>,
    /// Addresses of the leaders that `current_leader` names.
    #[field(versions = "16+", tag = 0)]
    pub node_endpoints: Vec<NodeEndpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct FetchableTopicResponse {
    #[field(versions = "0-12")]
    pub topic: String,
    #[field(versions = "13+")]
    pub topic_id: Uuid,
    pub partitions: Vec<PartitionData>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct PartitionData {
    pub partition_index: i32,
    pub error_code: ErrorCode,
    pub high_watermark: i64,
    #[field(default = "-1")]
    pub last_stable_offset: i64,
    #[field(versions = "5+", default = "-1")]
    pub log_start_offset: i64,
    /// Where the client's log parts from the leader's: the largest epoch both know up to `last_fetched_epoch`, and
    /// where it ends.
    #[field(versions = "12+", tag = 0)]
    pub diverging_epoch: EpochEndOffset,
    #[field(versions = "12+", tag = 1)]
    pub current_leader: LeaderIdAndEpoch,
    #[field(versions = "12+", tag = 2)]
    pub snapshot_id: SnapshotId,
    #[field(nullable = "4+", default = "Some(Vec::new())")]
    pub aborted_transactions: Option<Vec<AbortedTransaction>>,
    #[field(versions = "11+", default = "-1")]
    pub preferred_read_replica: i32,
    #[field(nullable = "0+", default = "Some(Records::default())")]
    pub records: Option<Records>,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct EpochEndOffset {
    #[field(default = "-1")]
    pub epoch: i32,
    #[field(default = "-1")]
    pub end_offset: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct LeaderIdAndEpoch {
    #[field(default = "-1")]
    pub leader_id: i32,
    #[field(default = "-1")]
    pub leader_epoch: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct SnapshotId {
    #[field(default = "-1")]
    pub end_offset: i64,
    #[field(default = "-1")]
    pub epoch: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct AbortedTransaction {
    pub producer_id: i64,
    pub first_offset: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
pub struct NodeEndpoint {
    pub node_id: i32,
    pub host: String,
    pub port: i32,
    #[field(nullable = "16+")]
    pub rack: Option<String>,
}
