//! Metadata: brokers in service, topics, and who leads which partition. Topics are never created by it, and told of once,
//! however often they are asked for.

use milena_wire::messages::AUTHORIZED_OPERATIONS_OMITTED;
use milena_wire::messages::metadata::{
    MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataResponseBroker,
    MetadataResponsePartition, MetadataResponseTopic,
};
use milena_wire::{ErrorCode, Uuid};

use super::{
    CLUSTER_OPERATIONS, TOPIC_OPERATIONS, controller_id, distinct, ids, is_unknown, leader,
    offline, unknown_topic, uuid,
};
use crate::controller::is_topic_name;
use crate::image::{Image, Topic};
use crate::{Config, TopicId, cluster_id};

/// The first version in which a topic can be asked for by its identity alone.
const BY_ID_FIRST: i16 = 12;

/// Answers Metadata.
pub fn metadata(
    image: &Image,
    config: &Config,
    request: &MetadataRequest,
    version: i16,
) -> MetadataResponse {
    if let Some(asked) = &request.topics
        && asked.iter().any(|topic| !is_nameable(topic, version))
    {
        return refused(asked);
    }
    let operations =
        |asked: bool, all: i32| if asked { all } else { AUTHORIZED_OPERATIONS_OMITTED };
    let with_operations = request.include_topic_authorized_operations;
    let mut topics: Vec<MetadataResponseTopic> = match &request.topics {
        Some(asked) if version > 0 || !asked.is_empty() => {
            // Where any identity is given, identities are what is asked for, as in Apache Kafka.
            let by_id = asked.iter().any(|topic| topic.topic_id != Uuid::ZERO);
            if asked.iter().any(|topic| !by_id && topic.name.is_none()) {
                return refused(asked);
            }
            let asked = asked.iter().filter(|topic| !by_id || topic.topic_id != Uuid::ZERO);
            let key = |topic: &&MetadataRequestTopic| match by_id {
                true => (None, topic.topic_id),
                false => (topic.name.clone(), topic.topic_id),
            };
            distinct(asked, key).map(|topic| asked_topic(image, topic)).collect()
        }
        _ => image
            .names
            .values()
            .filter_map(|id| image.topics.get(id))
            .map(|topic| known_topic(image, topic))
            .collect(),
    };
    // Of a name that no topic has too; an identity that no topic has names nothing.
    for topic in topics.iter_mut().filter(|topic| topic.name.is_some()) {
        topic.topic_authorized_operations = operations(with_operations, TOPIC_OPERATIONS);
    }
    MetadataResponse {
        throttle_time_ms: 0,
        brokers: brokers(image, config),
        // Another id than the next answer's would tell a client that it speaks to two clusters.
        cluster_id: (!is_unknown(image)).then(|| cluster_id(image.cluster).to_string()),
        controller_id: controller_id(image, config),
        topics,
        cluster_authorized_operations: operations(
            request.include_cluster_authorized_operations,
            CLUSTER_OPERATIONS,
        ),
        error_code: ErrorCode::NONE,
    }
}

/// Whether a topic may be asked for so: before [`BY_ID_FIRST`] a request has room for an identity and for no name at all, and
/// neither means anything.
fn is_nameable(topic: &MetadataRequestTopic, version: i16) -> bool {
    version >= BY_ID_FIRST || topic.name.is_some() && topic.topic_id == Uuid::ZERO
}

/// Tells of nothing: a request of which one topic is named in no way that its version has is refused as a whole.
fn refused(asked: &[MetadataRequestTopic]) -> MetadataResponse {
    let error_code = ErrorCode::INVALID_REQUEST;
    let topic = |topic: &MetadataRequestTopic| MetadataResponseTopic {
        error_code,
        name: Some(topic.name.clone().unwrap_or_default()),
        topic_id: topic.topic_id,
        ..Default::default()
    };
    let topics = asked.iter().map(topic).collect();
    MetadataResponse { topics, error_code, ..Default::default() }
}

/// The brokers in service. Where there is none, all that ever were, or this one: a client that is told of no broker at all
/// forgets the cluster for good (librdkafka does), and clients ask while all brokers restart.
fn brokers(image: &Image, config: &Config) -> Vec<MetadataResponseBroker> {
    let in_service = image.brokers.values().any(|broker| !broker.fenced);
    let mut brokers: Vec<MetadataResponseBroker> = image
        .brokers
        .iter()
        .filter(|(_, broker)| !broker.fenced || !in_service)
        .map(|(node, broker)| MetadataResponseBroker {
            node_id: node.0,
            host: broker.kafka.0.clone(),
            port: i32::from(broker.kafka.1),
            rack: broker.rack.clone(),
        })
        .collect();
    if brokers.is_empty() {
        brokers.push(MetadataResponseBroker {
            node_id: config.node.0,
            host: config.kafka.0.clone(),
            port: i32::from(config.kafka.1),
            rack: config.rack.clone(),
        });
    }
    brokers
}

fn asked_topic(image: &Image, asked: &MetadataRequestTopic) -> MetadataResponseTopic {
    let by_id = asked.topic_id != Uuid::ZERO;
    let name = asked.name.as_ref().filter(|_| !by_id);
    let (found, missing) = match name {
        Some(name) if !is_topic_name(name) => (None, ErrorCode::INVALID_TOPIC_EXCEPTION),
        Some(name) => (image.topic(name), unknown_topic(image)),
        None if is_unknown(image) => (None, ErrorCode::LEADER_NOT_AVAILABLE),
        None => (image.topics.get(&TopicId(asked.topic_id.0)), ErrorCode::UNKNOWN_TOPIC_ID),
    };
    match found {
        Some(topic) => known_topic(image, topic),
        None => MetadataResponseTopic {
            error_code: missing,
            name: name.cloned(),
            topic_id: if name.is_some() { Uuid::ZERO } else { asked.topic_id },
            is_internal: false,
            partitions: Vec::new(),
            topic_authorized_operations: AUTHORIZED_OPERATIONS_OMITTED,
        },
    }
}

fn known_topic(image: &Image, topic: &Topic) -> MetadataResponseTopic {
    MetadataResponseTopic {
        error_code: ErrorCode::NONE,
        name: Some(topic.name.clone()),
        topic_id: uuid(topic.id),
        is_internal: false,
        partitions: topic
            .partitions
            .iter()
            .map(|(index, partition)| {
                let (leader_id, error_code) = leader(partition);
                MetadataResponsePartition {
                    error_code,
                    partition_index: *index,
                    leader_id,
                    leader_epoch: partition.leader_epoch,
                    replica_nodes: ids(&partition.replicas),
                    isr_nodes: ids(&partition.isr),
                    offline_replicas: offline(image, partition),
                }
            })
            .collect(),
        topic_authorized_operations: AUTHORIZED_OPERATIONS_OMITTED,
    }
}
