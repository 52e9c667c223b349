//! What a request names, and how much.

use milena_wire::messages::fetch::FetchTopic;
use milena_wire::{ErrorCode, Request, Uuid};

use crate::image::Image;
use crate::{LogId, TopicId};

/// The partition that a request names, if it exists.
pub(super) fn locate(
    image: &Image,
    name: &str,
    topic_id: Uuid,
    by_id: bool,
    partition: i32,
) -> Result<LogId, ErrorCode> {
    let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
    let topic = if by_id {
        image.topics.get(&TopicId(topic_id.0)).ok_or(ErrorCode::UNKNOWN_TOPIC_ID)?
    } else {
        image.topic(name).ok_or(unknown)?
    };
    let log = LogId { topic: topic.id, partition };
    image.partition(log).map(|_| log).ok_or(unknown)
}

/// Whether any of the partitions that a fetch names exists.
pub(super) fn knows_any(image: &Image, by_id: bool, topic: &FetchTopic) -> bool {
    let mut partitions = topic.partitions.iter().map(|asked| asked.partition);
    partitions.any(|index| locate(image, &topic.topic, topic.topic_id, by_id, index).is_ok())
}

/// How many partitions, topics or other things a request names. A topic without partitions counts too.
pub(super) fn elements(request: &Request) -> usize {
    match request {
        Request::Produce(r) => r.topic_data.iter().map(|t| t.partition_data.len().max(1)).sum(),
        Request::Fetch(r) => {
            let forgotten: usize =
                r.forgotten_topics_data.iter().map(|t| t.partitions.len().max(1)).sum();
            forgotten + r.topics.iter().map(|t| t.partitions.len().max(1)).sum::<usize>()
        }
        Request::ListOffsets(r) => r.topics.iter().map(|t| t.partitions.len().max(1)).sum(),
        Request::OffsetForLeaderEpoch(r) => {
            r.topics.iter().map(|t| t.partitions.len().max(1)).sum()
        }
        Request::Metadata(r) => r.topics.as_ref().map_or(0, Vec::len),
        Request::FindCoordinator(r) => r.coordinator_keys.len(),
        Request::CreateTopics(r) => r.topics.len(),
        Request::DeleteTopics(r) => r.topics.len() + r.topic_names.len(),
        Request::DescribeConfigs(r) => r.resources.len(),
        Request::DescribeTopicPartitions(r) => r.topics.len(),
        Request::DescribeQuorum(r) => r.topics.iter().map(|t| t.partitions.len().max(1)).sum(),
        Request::ApiVersions(_) | Request::DescribeCluster(_) => 0,
    }
}

/// Whether a request is answered by the owners of its partitions, and waits for them.
pub(super) fn is_scattered(request: &Request) -> bool {
    matches!(
        request,
        Request::Produce(_)
            | Request::Fetch(_)
            | Request::ListOffsets(_)
            | Request::OffsetForLeaderEpoch(_)
    )
}

/// Whether a request names no topic and means all of them. Before version 1 of Metadata an empty list does.
pub(super) fn asks_for_all_topics(request: &Request, version: i16) -> bool {
    match request {
        Request::Metadata(request) => {
            request.topics.as_ref().is_none_or(|topics| version == 0 && topics.is_empty())
        }
        Request::DescribeTopicPartitions(request) => request.topics.is_empty(),
        _ => false,
    }
}
