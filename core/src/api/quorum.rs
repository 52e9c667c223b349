//! DescribeQuorum: the metadata log's leader, voters and observers.

use milena_wire::messages::DescribeQuorumRequest;
use milena_wire::messages::describe_quorum::{
    DescribeQuorumListener, DescribeQuorumNode, DescribeQuorumPartition, DescribeQuorumResponse,
    DescribeQuorumResponsePartition, DescribeQuorumResponseTopic, DescribeQuorumTopic,
    METADATA_TOPIC, QuorumReplica,
};
use milena_wire::{ErrorCode, Uuid};

use crate::Config;
use crate::quorum::message::Voters;
use crate::quorum::{FollowerDescription, QuorumDescription};

/// What clients call the listener of the controllers.
const LISTENER: &str = "CONTROLLER";

/// Answers DescribeQuorum from what the leader says; without a leader's word there is an error to be tried again, and the
/// controllers' addresses. A voter that the configuration does not name is there without an address.
pub fn describe_quorum(
    config: &Config,
    voters: &Voters,
    request: &DescribeQuorumRequest,
    description: Option<&QuorumDescription>,
) -> DescribeQuorumResponse {
    let nodes = config.controllers.iter().map(|(node, address)| {
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        let port = port.parse().unwrap_or(0);
        let listener = DescribeQuorumListener { name: LISTENER.into(), host: host.into(), port };
        DescribeQuorumNode { node_id: node.0, listeners: vec![listener] }
    });
    let listed = |node| config.controllers.iter().any(|(other, _)| *other == node);
    let unlisted = voters.keys().filter(|node| !listed(**node));
    let unlisted = unlisted.map(|node| DescribeQuorumNode { node_id: node.0, listeners: vec![] });
    let nodes = nodes.chain(unlisted).collect();
    let Some(description) = description else {
        return DescribeQuorumResponse {
            error_code: ErrorCode::NOT_LEADER_OR_FOLLOWER,
            error_message: Some("no leader of the metadata quorum answers".into()),
            nodes,
            ..Default::default()
        };
    };
    // As in Kafka, whoever asks for anything beside the one partition is told of none.
    let only = |topic: &DescribeQuorumTopic| {
        let partitions = topic.partitions.as_slice();
        topic.topic_name == METADATA_TOPIC
            && matches!(partitions, [only] if only.partition_index == 0)
    };
    let is_metadata = matches!(request.topics.as_slice(), [topic] if only(topic));
    let topics = request.topics.iter().map(|topic| {
        let partition = |asked: &DescribeQuorumPartition| {
            if is_metadata {
                return partition(description);
            }
            let error_code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
            DescribeQuorumResponsePartition {
                partition_index: asked.partition_index,
                error_code,
                error_message: error_code.name().map(String::from),
                ..Default::default()
            }
        };
        DescribeQuorumResponseTopic {
            topic_name: topic.topic_name.clone(),
            partitions: topic.partitions.iter().map(partition).collect(),
        }
    });
    let topics = topics.collect();
    // Nor of the controllers.
    let nodes = if is_metadata { nodes } else { Vec::new() };
    DescribeQuorumResponse { topics, nodes, ..Default::default() }
}

fn partition(description: &QuorumDescription) -> DescribeQuorumResponsePartition {
    let replicas = |some: &[FollowerDescription]| {
        let replica = |follower: &FollowerDescription| QuorumReplica {
            replica_id: follower.replica.node.0,
            replica_directory_id: Uuid(follower.replica.incarnation.0.to_be_bytes()),
            log_end_offset: follower.end,
            last_fetch_timestamp: follower.heard,
            last_caught_up_timestamp: if follower.end == description.end {
                follower.heard
            } else {
                -1
            },
        };
        some.iter().map(replica).collect()
    };
    DescribeQuorumResponsePartition {
        partition_index: 0,
        leader_id: description.leader.0,
        leader_epoch: description.term,
        high_watermark: description.commit,
        current_voters: replicas(&description.voters),
        observers: replicas(&description.observers),
        ..Default::default()
    }
}
