//! The partitions that a request names.

use milena_wire::messages::fetch::FetchTopic;
use milena_wire::{ErrorCode, Uuid};

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
