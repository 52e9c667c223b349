//! The messages, one file per API: Kafka's structs and field names, in wire order, each field with the versions that
//! have it. What a field means is said where its name does not say it.
//!
//! A message is one type for all versions. Fields that a version lacks are left out when written and hold their default
//! when read, so code that handles a message seldom asks for the version.

// Kafka's own names are the documentation of most fields; a sentence that repeats the name helps nobody.
#![allow(missing_docs)]

pub mod api_versions;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_topics;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_producers;
pub mod describe_quorum;
pub mod describe_topic_partitions;
pub mod fetch;
pub mod find_coordinator;
pub mod init_producer_id;
pub mod list_config_resources;
pub mod list_offsets;
pub mod metadata;
pub mod offset_for_leader_epoch;
pub mod produce;

pub use api_versions::{ApiVersionsRequest, ApiVersionsResponse};
pub use create_partitions::{CreatePartitionsRequest, CreatePartitionsResponse};
pub use create_topics::{CreateTopicsRequest, CreateTopicsResponse};
pub use delete_topics::{DeleteTopicsRequest, DeleteTopicsResponse};
pub use describe_cluster::{DescribeClusterRequest, DescribeClusterResponse};
pub use describe_configs::{DescribeConfigsRequest, DescribeConfigsResponse};
pub use describe_producers::{DescribeProducersRequest, DescribeProducersResponse};
pub use describe_quorum::{DescribeQuorumRequest, DescribeQuorumResponse};
pub use describe_topic_partitions::{
    DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
};
pub use fetch::{FetchRequest, FetchResponse};
pub use find_coordinator::{FindCoordinatorRequest, FindCoordinatorResponse};
pub use init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
pub use list_config_resources::{ListConfigResourcesRequest, ListConfigResourcesResponse};
pub use list_offsets::{ListOffsetsRequest, ListOffsetsResponse};
pub use metadata::{MetadataRequest, MetadataResponse};
pub use offset_for_leader_epoch::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
pub use produce::{ProduceRequest, ProduceResponse};

/// Gives the table of APIs to a macro. The numbers are Kafka's and frozen.
macro_rules! each_api {
    ($then:ident) => {
        $then! {
            Produce = 0 (ProduceRequest, ProduceResponse),
            Fetch = 1 (FetchRequest, FetchResponse),
            ListOffsets = 2 (ListOffsetsRequest, ListOffsetsResponse),
            Metadata = 3 (MetadataRequest, MetadataResponse),
            FindCoordinator = 10 (FindCoordinatorRequest, FindCoordinatorResponse),
            ApiVersions = 18 (ApiVersionsRequest, ApiVersionsResponse),
            CreateTopics = 19 (CreateTopicsRequest, CreateTopicsResponse),
            DeleteTopics = 20 (DeleteTopicsRequest, DeleteTopicsResponse),
            InitProducerId = 22 (InitProducerIdRequest, InitProducerIdResponse),
            OffsetForLeaderEpoch = 23 (OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse),
            DescribeConfigs = 32 (DescribeConfigsRequest, DescribeConfigsResponse),
            CreatePartitions = 37 (CreatePartitionsRequest, CreatePartitionsResponse),
            DescribeQuorum = 55 (DescribeQuorumRequest, DescribeQuorumResponse),
            DescribeCluster = 60 (DescribeClusterRequest, DescribeClusterResponse),
            DescribeProducers = 61 (DescribeProducersRequest, DescribeProducersResponse),
            ListConfigResources = 74 (ListConfigResourcesRequest, ListConfigResourcesResponse),
            DescribeTopicPartitions = 75 (DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse),
        }
    };
}
pub(crate) use each_api;

/// The value of an "authorized operations" field when the client did not ask for it.
pub const AUTHORIZED_OPERATIONS_OMITTED: i32 = i32::MIN;
