//! Requests cut into parts by the owners of their partitions.
//!
//! Local messages arrive in order, and a partition has one owner, so what one connection sends for one partition is served in
//! its order.

use std::collections::BTreeMap;

use milena_wire::messages::{
    FetchRequest, ListOffsetsRequest, OffsetForLeaderEpochRequest, ProduceRequest,
};
use milena_wire::{Request, Uuid};

use super::Partitions;
use super::parts::produce;
use crate::image::Image;
use crate::{LogId, TopicId};

/// Who owns which partition.
pub(super) struct Owners<'a> {
    image: &'a Image,
    shards: u16,
    /// The shard that cuts.
    own: u16,
}

impl Owners<'_> {
    /// As the shard of these partitions sees it.
    pub fn new(partitions: &Partitions) -> Owners<'_> {
        let (image, shards) = (partitions.image(), partitions.config().shards);
        Owners { image, shards, own: partitions.index() }
    }

    /// The shard that answers for a partition: its owner, or this one for what is not known here.
    fn owner(&self, name: &str, topic_id: Uuid, by_id: bool, partition: i32) -> u16 {
        let topic =
            if by_id { Some(TopicId(topic_id.0)) } else { self.image.names.get(name).copied() };
        match topic {
            Some(topic) if self.image.topics.contains_key(&topic) => {
                LogId { topic, partition }.shard(self.shards)
            }
            _ => self.own,
        }
    }

    /// Cuts topics by the owners of their partitions, keeping their order; one without partitions stays here. There is at
    /// least one part.
    fn cut<T: Clone, P>(
        &self,
        topics: Vec<T>,
        partitions: impl Fn(&mut T) -> &mut Vec<P>,
        owner: impl Fn(&T, &P) -> u16,
    ) -> BTreeMap<u16, Vec<T>> {
        let mut parts: BTreeMap<u16, Vec<T>> = BTreeMap::new();
        for mut topic in topics {
            let mut by_owner: BTreeMap<u16, T> = BTreeMap::new();
            let all = std::mem::take(partitions(&mut topic));
            if all.is_empty() {
                by_owner.insert(self.own, topic.clone());
            }
            for partition in all {
                let part = by_owner.entry(owner(&topic, &partition));
                partitions(part.or_insert_with(|| topic.clone())).push(partition);
            }
            for (shard, topic) in by_owner {
                parts.entry(shard).or_default().push(topic);
            }
        }
        if parts.is_empty() {
            parts.insert(self.own, Vec::new());
        }
        parts
    }

    pub fn produce(&self, version: i16, mut request: ProduceRequest) -> BTreeMap<u16, Request> {
        let by_id = version >= produce::TOPIC_ID_VERSION;
        let mut topics = std::mem::take(&mut request.topic_data);
        topics.retain(|topic| !topic.partition_data.is_empty());
        self.cut(
            topics,
            |t| &mut t.partition_data,
            |t, p| self.owner(&t.name, t.topic_id, by_id, p.index),
        )
        .into_iter()
        .map(|(shard, topic_data)| (shard, ProduceRequest { topic_data, ..request.clone() }.into()))
        .collect()
    }

    pub fn fetch(&self, by_id: bool, mut request: FetchRequest) -> BTreeMap<u16, Request> {
        let mut topics = std::mem::take(&mut request.topics);
        topics.retain(|topic| !topic.partitions.is_empty());
        let parts = self.cut(
            topics,
            |t| &mut t.partitions,
            |t, p| self.owner(&t.topic, t.topic_id, by_id, p.partition),
        );
        // The limits are the whole answer's. Each part gives at least one batch of its own, and waits for its share only, so
        // that together they never wait where one shard would not.
        let count = i32::try_from(parts.len()).unwrap_or(i32::MAX);
        request.max_bytes = (request.max_bytes / count).max(request.max_bytes.min(1));
        request.min_bytes = (request.min_bytes / count).max(request.min_bytes.min(1));
        parts
            .into_iter()
            .map(|(shard, topics)| (shard, FetchRequest { topics, ..request.clone() }.into()))
            .collect()
    }

    pub fn list_offsets(&self, mut request: ListOffsetsRequest) -> BTreeMap<u16, Request> {
        let mut topics = std::mem::take(&mut request.topics);
        topics.retain(|topic| !topic.partitions.is_empty());
        self.cut(
            topics,
            |t| &mut t.partitions,
            |t, p| self.owner(&t.name, Uuid::ZERO, false, p.partition_index),
        )
        .into_iter()
        .map(|(shard, topics)| (shard, ListOffsetsRequest { topics, ..request.clone() }.into()))
        .collect()
    }

    pub fn leader_epochs(
        &self,
        mut request: OffsetForLeaderEpochRequest,
    ) -> BTreeMap<u16, Request> {
        let topics = std::mem::take(&mut request.topics);
        self.cut(
            topics,
            |t| &mut t.partitions,
            |t, p| self.owner(&t.topic, Uuid::ZERO, false, p.partition),
        )
        .into_iter()
        .map(|(shard, topics)| {
            (shard, OffsetForLeaderEpochRequest { topics, ..request.clone() }.into())
        })
        .collect()
    }
}
