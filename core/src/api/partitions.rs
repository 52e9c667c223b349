//! DescribeTopicPartitions: topics page by page, with their eligible leader replicas.

use std::collections::BTreeSet;
use std::sync::Arc;

use milena_wire::messages::describe_topic_partitions::{
    Cursor, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
    DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use milena_wire::{ErrorCode, Uuid};

use super::{TOPIC_OPERATIONS, ids, leader, offline, unknown_topic, uuid};
use crate::controller::is_topic_name;
use crate::image::{Image, Partition};

/// Partitions of one answer at most, whatever the client asks for (`max.request.partition.size.limit`).
const PARTITIONS_MAX: usize = 2_000;

/// Answers DescribeTopicPartitions: the topics asked for, or all, by name; a page of them from the cursor on.
pub fn describe_topic_partitions(
    image: &Image,
    request: &DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let asked: BTreeSet<&str> = if request.topics.is_empty() {
        image.names.keys().map(String::as_str).collect()
    } else {
        request.topics.iter().map(|topic| topic.name.as_str()).collect()
    };
    if let Some(cursor) = &request.cursor
        && (cursor.partition_index < 0
            || !request.topics.is_empty() && !asked.contains(&*cursor.topic_name))
    {
        // As in Kafka, a cursor that no page of these topics has given spoils each of them, as often as it is named.
        let asked = request.topics.iter();
        let refused = asked.map(|topic| refused(&topic.name, ErrorCode::INVALID_REQUEST));
        return DescribeTopicPartitionsResponse { topics: refused.collect(), ..Default::default() };
    }
    let (from_topic, from_index) = match &request.cursor {
        Some(cursor) => (&*cursor.topic_name, cursor.partition_index),
        None => ("", 0),
    };
    let mut left =
        usize::try_from(request.response_partition_limit).unwrap_or(0).clamp(1, PARTITIONS_MAX);
    let mut topics = Vec::new();
    let mut next_cursor = None;
    for name in asked.into_iter().filter(|name| *name >= from_topic) {
        let from = if name == from_topic { from_index } else { 0 };
        let cursor = |index| Some(Cursor { topic_name: name.into(), partition_index: index });
        if left == 0 {
            next_cursor = cursor(0);
            break;
        }
        let Some(topic) = image.topic(name) else {
            topics.push(unknown(image, name));
            continue;
        };
        let mut page = topic.partitions.range(from..);
        let described = |(index, p): (&i32, &Arc<Partition>)| described(image, *index, p);
        let partitions: Vec<_> = page.by_ref().take(left).map(described).collect();
        left -= partitions.len();
        let next = page.next().map(|(index, _)| *index);
        topics.push(DescribeTopicPartitionsResponseTopic {
            error_code: ErrorCode::NONE,
            name: Some(name.into()),
            topic_id: uuid(topic.id),
            is_internal: false,
            partitions,
            topic_authorized_operations: TOPIC_OPERATIONS,
        });
        if let Some(index) = next {
            next_cursor = cursor(index);
            break;
        }
    }
    DescribeTopicPartitionsResponse { throttle_time_ms: 0, topics, next_cursor }
}

fn unknown(image: &Image, name: &str) -> DescribeTopicPartitionsResponseTopic {
    let error_code =
        if is_topic_name(name) { unknown_topic(image) } else { ErrorCode::INVALID_TOPIC_EXCEPTION };
    let topic_authorized_operations = TOPIC_OPERATIONS;
    DescribeTopicPartitionsResponseTopic {
        topic_authorized_operations,
        ..refused(name, error_code)
    }
}

fn refused(name: &str, error_code: ErrorCode) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic {
        error_code,
        name: Some(name.into()),
        topic_id: Uuid::ZERO,
        ..Default::default()
    }
}

fn described(
    image: &Image,
    partition_index: i32,
    partition: &Partition,
) -> DescribeTopicPartitionsResponsePartition {
    let (leader_id, error_code) = leader(partition);
    DescribeTopicPartitionsResponsePartition {
        error_code,
        partition_index,
        leader_id,
        leader_epoch: partition.leader_epoch,
        replica_nodes: ids(&partition.replicas),
        isr_nodes: ids(&partition.isr),
        eligible_leader_replicas: Some(ids(&partition.elr)),
        last_known_elr: Some(Vec::new()),
        offline_replicas: offline(image, partition),
    }
}
