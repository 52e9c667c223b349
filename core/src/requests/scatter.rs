//! Requests cut into parts by the owners of their partitions.
//!
//! Local messages arrive in order, and a partition has one owner, so what one connection sends for one partition is served in
//! its order.

use std::collections::BTreeMap;

use milena_wire::messages::describe_producers::DescribeProducersTopic;
use milena_wire::messages::fetch::{FetchPartition, FetchTopic};
use milena_wire::messages::list_offsets::{ListOffsetsPartition, ListOffsetsTopic};
use milena_wire::messages::offset_for_leader_epoch::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use milena_wire::messages::produce::{PartitionProduceData, TopicProduceData};
use milena_wire::messages::{
    DescribeProducersRequest, FetchRequest, ListOffsetsRequest, OffsetForLeaderEpochRequest,
    ProduceRequest,
};
use milena_wire::{Request, Uuid};

use super::Partitions;
use super::parts::produce;
use crate::image::Image;
use crate::{LogId, TopicId};

/// What becomes of a request.
pub(super) enum Cut {
    /// When all of it is this shard's: it is the request as it came.
    Own(Request),
    /// When others own of it: each owner's part. There is at least one.
    Parts(Vec<(u16, Request)>),
}

/// Who owns which partition.
pub(super) struct Owners<'a> {
    image: &'a Image,
    shards: u16,
    /// The shard that cuts.
    own: u16,
}

/// A topic as a request names it with some of its partitions.
trait Topic: Clone {
    type Partition;
    /// Its name and its identity, one of which the request gives.
    fn key(&self) -> (&str, Uuid);
    fn indexes(&self) -> impl ExactSizeIterator<Item = i32>;
    fn partitions(&mut self) -> &mut Vec<Self::Partition>;
}

impl Owners<'_> {
    /// As the shard of these partitions sees it.
    pub fn new(partitions: &Partitions) -> Owners<'_> {
        let (image, shards) = (partitions.image(), partitions.config().shards);
        Owners { image, shards, own: partitions.index() }
    }

    /// The shard that answers for each partition of a topic: its owner, or this one for what is not known here, and for a topic
    /// without partitions.
    fn of<T: Topic>(&self, topic: &T, by_id: bool) -> impl Iterator<Item = u16> {
        let (name, id) = topic.key();
        let named = if by_id { Some(TopicId(id.0)) } else { self.image.names.get(name).copied() };
        let known = named.filter(|topic| self.image.topics.contains_key(topic));
        let indexes = topic.indexes();
        let none = (indexes.len() == 0).then_some(self.own);
        let owners = indexes.map(move |partition| match known {
            Some(topic) => LogId { topic, partition }.shard(self.shards),
            None => self.own,
        });
        owners.chain(none)
    }

    /// Cuts a request that names these topics; `with` puts some of them into a copy of it.
    fn cut<R: Clone, T: Topic>(
        &self,
        request: R,
        topics: Vec<T>,
        by_id: bool,
        with: fn(R, Vec<T>) -> Request,
    ) -> Cut {
        let sole = {
            let mut owners = topics.iter().flat_map(|topic| self.of(topic, by_id));
            let first = owners.next().unwrap_or(self.own);
            owners.all(|owner| owner == first).then_some(first)
        };
        match sole {
            Some(owner) if owner == self.own => Cut::Own(with(request, topics)),
            Some(owner) => Cut::Parts(vec![(owner, with(request, topics))]),
            None => {
                let parts = self.by_owner(topics, by_id).into_iter();
                let parts = parts.map(|(owner, topics)| (owner, with(request.clone(), topics)));
                Cut::Parts(parts.collect())
            }
        }
    }

    /// Cuts topics by the owners of their partitions, keeping their order; one without partitions stays here.
    fn by_owner<T: Topic>(&self, topics: Vec<T>, by_id: bool) -> BTreeMap<u16, Vec<T>> {
        let mut parts: BTreeMap<u16, Vec<T>> = BTreeMap::new();
        for mut topic in topics {
            let mut by_owner: BTreeMap<u16, T> = BTreeMap::new();
            let owners: Vec<u16> = self.of(&topic, by_id).collect();
            let all = std::mem::take(topic.partitions());
            if all.is_empty() {
                by_owner.insert(self.own, topic.clone());
            }
            for (owner, partition) in owners.into_iter().zip(all) {
                let part = by_owner.entry(owner).or_insert_with(|| topic.clone());
                part.partitions().push(partition);
            }
            for (shard, topic) in by_owner {
                parts.entry(shard).or_default().push(topic);
            }
        }
        parts
    }

    pub fn produce(&self, version: i16, mut request: ProduceRequest) -> Cut {
        let by_id = version >= produce::TOPIC_ID_VERSION;
        let mut topics = std::mem::take(&mut request.topic_data);
        topics.retain(|topic| !topic.partition_data.is_empty());
        self.cut(request, topics, by_id, |request, topic_data| {
            ProduceRequest { topic_data, ..request }.into()
        })
    }

    pub fn fetch(&self, by_id: bool, mut request: FetchRequest) -> Cut {
        let mut topics = std::mem::take(&mut request.topics);
        topics.retain(|topic| !topic.partitions.is_empty());
        let mut cut = self.cut(request, topics, by_id, |request, topics| {
            FetchRequest { topics, ..request }.into()
        });
        if let Cut::Parts(parts) = &mut cut {
            // The limits are the whole answer's. Each part gives at least one batch of its own, and waits for its share only, so
            // that together they never wait where one shard would not.
            let count = i32::try_from(parts.len()).unwrap_or(i32::MAX);
            for (_, part) in parts {
                let Request::Fetch(part) = part else { continue };
                part.max_bytes = (part.max_bytes / count).max(part.max_bytes.min(1));
                part.min_bytes = (part.min_bytes / count).max(part.min_bytes.min(1));
            }
        }
        cut
    }

    pub fn list_offsets(&self, mut request: ListOffsetsRequest) -> Cut {
        let mut topics = std::mem::take(&mut request.topics);
        topics.retain(|topic| !topic.partitions.is_empty());
        self.cut(request, topics, false, |request, topics| {
            ListOffsetsRequest { topics, ..request }.into()
        })
    }

    pub fn leader_epochs(&self, mut request: OffsetForLeaderEpochRequest) -> Cut {
        let topics = std::mem::take(&mut request.topics);
        self.cut(request, topics, false, |request, topics| {
            OffsetForLeaderEpochRequest { topics, ..request }.into()
        })
    }

    pub fn producers(&self, DescribeProducersRequest { topics }: DescribeProducersRequest) -> Cut {
        self.cut((), topics, false, |(), topics| DescribeProducersRequest { topics }.into())
    }
}

impl Topic for TopicProduceData {
    type Partition = PartitionProduceData;

    fn key(&self) -> (&str, Uuid) {
        (&self.name, self.topic_id)
    }

    fn indexes(&self) -> impl ExactSizeIterator<Item = i32> {
        self.partition_data.iter().map(|partition| partition.index)
    }

    fn partitions(&mut self) -> &mut Vec<PartitionProduceData> {
        &mut self.partition_data
    }
}

impl Topic for FetchTopic {
    type Partition = FetchPartition;

    fn key(&self) -> (&str, Uuid) {
        (&self.topic, self.topic_id)
    }

    fn indexes(&self) -> impl ExactSizeIterator<Item = i32> {
        self.partitions.iter().map(|partition| partition.partition)
    }

    fn partitions(&mut self) -> &mut Vec<FetchPartition> {
        &mut self.partitions
    }
}

impl Topic for ListOffsetsTopic {
    type Partition = ListOffsetsPartition;

    fn key(&self) -> (&str, Uuid) {
        (&self.name, Uuid::ZERO)
    }

    fn indexes(&self) -> impl ExactSizeIterator<Item = i32> {
        self.partitions.iter().map(|partition| partition.partition_index)
    }

    fn partitions(&mut self) -> &mut Vec<ListOffsetsPartition> {
        &mut self.partitions
    }
}

impl Topic for OffsetForLeaderTopic {
    type Partition = OffsetForLeaderPartition;

    fn key(&self) -> (&str, Uuid) {
        (&self.topic, Uuid::ZERO)
    }

    fn indexes(&self) -> impl ExactSizeIterator<Item = i32> {
        self.partitions.iter().map(|partition| partition.partition)
    }

    fn partitions(&mut self) -> &mut Vec<OffsetForLeaderPartition> {
        &mut self.partitions
    }
}

impl Topic for DescribeProducersTopic {
    type Partition = i32;

    fn key(&self) -> (&str, Uuid) {
        (&self.name, Uuid::ZERO)
    }

    fn indexes(&self) -> impl ExactSizeIterator<Item = i32> {
        self.partition_indexes.iter().copied()
    }

    fn partitions(&mut self) -> &mut Vec<i32> {
        &mut self.partition_indexes
    }
}
