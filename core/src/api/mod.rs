//! Answers that need nothing but the image: pure functions from a Kafka request to its response.
//!
//! What an image does not show yet is answered as unknown or with a retriable error, as by any broker that is behind. A
//! broker that has no image at all knows of no topic for certain and says that leaders are not available.

pub mod admin;
mod cluster;
mod config_resources;
mod configs;
mod metadata;
mod partitions;
mod producer_ids;
mod quorum;
mod versions;

pub use producer_ids::refuse_init_producer_id;
pub use quorum::describe_quorum;

use std::collections::BTreeSet;

use milena_wire::{ErrorCode, Request, Response, Uuid};

use crate::image::{Image, Partition};
use crate::{Config, NodeId, TopicId};

/// What everyone may do with a topic while there is no authorization: a bit per operation of Kafka's.
const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;
/// What everyone may do with the cluster.
const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;

/// The answer to a request that needs nothing but the image.
///
/// # Panics
///
/// Where it needs more.
pub fn answer(image: &Image, config: &Config, request: &Request, version: i16) -> Response {
    match request {
        Request::Metadata(r) => metadata::metadata(image, config, r, version).into(),
        Request::FindCoordinator(r) => versions::find_coordinator(r, version).into(),
        Request::ApiVersions(r) => versions::api_versions(image, config, r, version).into(),
        Request::DescribeConfigs(r) => configs::describe_configs(image, config, r).into(),
        Request::ListConfigResources(r) => {
            config_resources::list_config_resources(image, r, version).into()
        }
        Request::DescribeCluster(r) => cluster::describe_cluster(image, config, r).into(),
        Request::DescribeTopicPartitions(r) => {
            partitions::describe_topic_partitions(image, r).into()
        }
        other => unreachable!("{:?} needs more than the image", other.api_key()),
    }
}

/// A broker in service for what clients ask of "the controller"; every broker takes those requests to the active one.
fn controller_id(image: &Image, config: &Config) -> i32 {
    let mut live = image.brokers.iter().filter(|(_, broker)| !broker.fenced);
    if image.unfenced(config.node) {
        config.node.0
    } else {
        live.next().map_or(-1, |(node, _)| node.0)
    }
}

/// Whether this node has yet to hear what its cluster has: until then it answers for no list of everything.
pub fn is_unknown(image: &Image) -> bool {
    image.end == 0
}

/// Each of them once, where it comes first: the answer to a request grows with what it names, not with how often.
fn distinct<'a, T: 'a, K: Ord>(
    all: impl IntoIterator<Item = &'a T>,
    key: impl Fn(&&'a T) -> K,
) -> impl Iterator<Item = &'a T> {
    let mut seen = BTreeSet::new();
    all.into_iter().filter(move |one| seen.insert(key(one)))
}

/// The error for a topic that the image does not show.
fn unknown_topic(image: &Image) -> ErrorCode {
    if is_unknown(image) {
        ErrorCode::LEADER_NOT_AVAILABLE
    } else {
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
    }
}

fn uuid(id: TopicId) -> Uuid {
    Uuid(id.0)
}

fn ids(nodes: &[NodeId]) -> Vec<i32> {
    nodes.iter().map(|node| node.0).collect()
}

/// Leader or -1, and the error that goes with it.
fn leader(partition: &Partition) -> (i32, ErrorCode) {
    match partition.leader {
        Some(leader) => (leader.0, ErrorCode::NONE),
        None => (-1, ErrorCode::LEADER_NOT_AVAILABLE),
    }
}

/// Replicas whose brokers are out of service.
fn offline(image: &Image, partition: &Partition) -> Vec<i32> {
    let fenced = |node: &&NodeId| !image.unfenced(**node);
    partition.replicas.iter().filter(fenced).map(|node| node.0).collect()
}

#[cfg(test)]
mod tests;
