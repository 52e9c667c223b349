//! Requests whose partitions belong to several shards: cut into parts, answered apart, put together again.
//!
//! The shard of the connection cuts a request by the owners of its partitions and counts the answers; parts of its own
//! partitions take the same way without a message. Local messages arrive in order, and a partition has one owner, so
//! what one connection sends for one partition is served in its order.
//!
//! Kafka keeps what waits (DelayedProduce, DelayedFetch) in a purgatory; here each part waits at the owner of its partitions,
//! and the gathering at the shard of the connection only counts.

use std::collections::{BTreeMap, BTreeSet};

use milena_wire::messages::{
    FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse,
    OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, ProduceRequest, ProduceResponse,
};
use milena_wire::{Request, Response, Uuid};

use super::session::Plan;
use super::{Shard, close, produce};
use crate::local::LocalMessage;
use crate::partitions::Waiter;
use crate::{ClientId, LogId, Outputs, Place, TopicId};

/// Requests of clients that wait at one shard at most, ten of each of as many connections as a node takes by default.
const GATHERINGS_MAX: usize = 100_000;

/// Who asked for a part: a shard of this node, by its own number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Origin {
    /// The shard of the connection.
    pub shard: u16,
    /// Number of the part, drawn there.
    pub part: u64,
}

impl From<Waiter> for Origin {
    fn from(Waiter::Request { shard, number }: Waiter) -> Origin {
        Origin { shard, part: number }
    }
}

impl From<Origin> for Waiter {
    fn from(Origin { shard, part }: Origin) -> Waiter {
        Waiter::Request { shard, number: part }
    }
}

/// What is being put together.
#[derive(Debug)]
pub(super) enum Whole {
    /// When records are appended; with acks=0 nobody waits for the answer.
    Produce { acks: i16 },
    /// When records are read, perhaps within a session.
    Fetch(Plan),
    /// When offsets are looked up.
    ListOffsets,
    /// When ends of leader epochs are looked up.
    OffsetForLeaderEpoch,
}

/// A request of a client whose parts are being answered.
#[derive(Debug)]
struct Gathering {
    client: ClientId,
    id: u64,
    version: i16,
    whole: Whole,
    /// Parts not answered yet, and their owners.
    open: BTreeMap<u64, u16>,
    answers: Vec<Response>,
    hastened: bool,
}

/// All requests that are being put together.
#[derive(Default, Debug)]
pub(super) struct Gatherings {
    next: u64,
    all: BTreeMap<u64, Gathering>,
    of_part: BTreeMap<u64, u64>,
    of_client: BTreeMap<ClientId, BTreeSet<u64>>,
}

impl Gatherings {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn remove(&mut self, gathering: u64) -> Option<Gathering> {
        let found = self.all.remove(&gathering)?;
        for part in found.open.keys() {
            self.of_part.remove(part);
        }
        if let Some(of_client) = self.of_client.get_mut(&found.client) {
            of_client.remove(&gathering);
            if of_client.is_empty() {
                self.of_client.remove(&found.client);
            }
        }
        Some(found)
    }

    /// Whether no more requests may wait.
    pub fn is_full(&self) -> bool {
        self.all.len() >= GATHERINGS_MAX
    }
}

impl Shard {
    /// Sends each part to its owner and waits for the answers. There is at least one part.
    pub(super) fn scatter(
        &mut self,
        client: ClientId,
        id: u64,
        version: i16,
        whole: Whole,
        parts: BTreeMap<u16, Request>,
        out: &mut Outputs,
    ) {
        let gathering = self.gatherings.number();
        let numbered: Vec<(u64, u16, Request)> = parts
            .into_iter()
            .map(|(shard, request)| (self.gatherings.number(), shard, request))
            .collect();
        let open: BTreeMap<u64, u16> =
            numbered.iter().map(|(part, shard, _)| (*part, *shard)).collect();
        let all = &mut self.gatherings;
        all.of_part.extend(open.keys().map(|part| (*part, gathering)));
        all.of_client.entry(client).or_default().insert(gathering);
        let answers = Vec::with_capacity(open.len());
        let hastened = false;
        all.all
            .insert(gathering, Gathering { client, id, version, whole, open, answers, hastened });
        let (own, others): (Vec<_>, Vec<_>) =
            numbered.into_iter().partition(|(_, shard, _)| *shard == self.partitions.index());
        for (part, shard, request) in others {
            out.local(Place::Shard(shard), LocalMessage::Scatter { part, version, request });
        }
        // Last, since its answer may already have something to say about the others.
        for (part, shard, request) in own {
            self.serve_part(Origin { shard, part }, version, request, out);
        }
    }

    /// Gives a part's answer to the shard of the connection.
    pub(super) fn answer_part(
        &mut self,
        origin: Origin,
        response: Option<Response>,
        out: &mut Outputs,
    ) {
        if origin.shard == self.partitions.index() {
            self.gather(origin.part, response, out);
        } else {
            let message = LocalMessage::Gather { part: origin.part, response };
            out.local(Place::Shard(origin.shard), message);
        }
    }

    /// Takes a part's answer; the last one makes the answer to the client.
    pub(super) fn gather(&mut self, part: u64, response: Option<Response>, out: &mut Outputs) {
        let Some(number) = self.gatherings.of_part.remove(&part) else { return };
        let gathering = self.gatherings.all.get_mut(&number).expect("a part has its request");
        gathering.open.remove(&part);
        gathering.answers.extend(response);
        // A fetch waits no more once one part has records, or an error that the client should see.
        if let (Whole::Fetch(_), false) = (&gathering.whole, gathering.hastened) {
            gathering.hastened = true;
            for (part, shard) in gathering.open.clone() {
                if shard == self.partitions.index() {
                    self.hasten(Origin { shard, part }, out);
                } else {
                    out.local(Place::Shard(shard), LocalMessage::Hasten { part });
                }
            }
        }
        // Hastened parts of this shard have answered already, and the last of them has made the answer.
        if self.gatherings.all.get(&number).is_some_and(|gathering| gathering.open.is_empty()) {
            let done = self.gatherings.remove(number).expect("just seen");
            self.complete(done, out);
        }
    }

    fn complete(&mut self, done: Gathering, out: &mut Outputs) {
        let Gathering { client, id, version, whole, answers, .. } = done;
        match whole {
            // What failed can only be told by closing.
            Whole::Produce { acks: 0 } if answers.is_empty() => out.reply(client, id, None),
            Whole::Produce { acks: 0 } => close(client, id, "a produce with acks=0 failed", out),
            Whole::Produce { .. } => {
                let mut merged = merge_produce(answers);
                self.name_produce_leaders(version, &mut merged);
                out.reply(client, id, Response::Produce(merged));
            }
            Whole::Fetch(plan) => {
                let merged = merge_fetch(answers);
                let mut response = self.sessions.conclude(plan, merged);
                self.name_fetch_leaders(version, &mut response);
                out.reply(client, id, Response::Fetch(response));
            }
            Whole::ListOffsets => {
                let mut merged = ListOffsetsResponse::default();
                for answer in answers {
                    if let Response::ListOffsets(part) = answer {
                        merge(
                            &mut merged.topics,
                            part.topics,
                            |t| t.name.clone(),
                            |to, from| to.partitions.extend(from.partitions),
                        );
                    }
                }
                out.reply(client, id, Response::ListOffsets(merged));
            }
            Whole::OffsetForLeaderEpoch => {
                let mut merged = OffsetForLeaderEpochResponse::default();
                for answer in answers {
                    if let Response::OffsetForLeaderEpoch(part) = answer {
                        merge(
                            &mut merged.topics,
                            part.topics,
                            |t| t.topic.clone(),
                            |to, from| to.partitions.extend(from.partitions),
                        );
                    }
                }
                out.reply(client, id, Response::OffsetForLeaderEpoch(merged));
            }
        }
    }

    /// Drops what waits for a connection that is gone.
    pub(super) fn hang_up(&mut self, client: ClientId, out: &mut Outputs) {
        for number in self.gatherings.of_client.get(&client).cloned().unwrap_or_default() {
            let gone = self.gatherings.remove(number).expect("listed with its client");
            for (part, shard) in gone.open {
                if shard == self.partitions.index() {
                    self.drop_part(Origin { shard, part });
                } else {
                    out.local(Place::Shard(shard), LocalMessage::Abandon { part });
                }
            }
        }
    }

    /// The shard that answers for a partition: its owner, or this one for what is not known here.
    fn owner(&self, name: &str, topic_id: Uuid, by_id: bool, partition: i32) -> u16 {
        let topic = if by_id {
            Some(TopicId(topic_id.0))
        } else {
            self.partitions.image().names.get(name).copied()
        };
        match topic {
            Some(topic) if self.partitions.image().topics.contains_key(&topic) => {
                LogId { topic, partition }.shard(self.partitions.config().shards)
            }
            _ => self.partitions.index(),
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
                by_owner.insert(self.partitions.index(), topic.clone());
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
            parts.insert(self.partitions.index(), Vec::new());
        }
        parts
    }

    pub(super) fn split_produce(
        &self,
        version: i16,
        mut request: ProduceRequest,
    ) -> BTreeMap<u16, Request> {
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

    pub(super) fn split_fetch(
        &self,
        by_id: bool,
        mut request: FetchRequest,
    ) -> BTreeMap<u16, Request> {
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

    pub(super) fn split_list_offsets(
        &self,
        mut request: ListOffsetsRequest,
    ) -> BTreeMap<u16, Request> {
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

    pub(super) fn split_leader_epochs(
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

/// Adds topics of one part to those of others, joining the partitions of one topic.
fn merge<T, K: Ord>(
    merged: &mut Vec<T>,
    more: Vec<T>,
    key: impl Fn(&T) -> K,
    join: impl Fn(&mut T, T),
) {
    let mut places: BTreeMap<K, usize> =
        merged.iter().enumerate().map(|(place, topic)| (key(topic), place)).collect();
    for topic in more {
        let place = *places.entry(key(&topic)).or_insert(merged.len());
        match merged.get_mut(place) {
            Some(known) => join(known, topic),
            None => merged.push(topic),
        }
    }
}

fn merge_produce(answers: Vec<Response>) -> ProduceResponse {
    let mut merged = ProduceResponse::default();
    for answer in answers {
        if let Response::Produce(part) = answer {
            merge(
                &mut merged.responses,
                part.responses,
                |t| (t.name.clone(), t.topic_id),
                |to, from| to.partition_responses.extend(from.partition_responses),
            );
        }
    }
    merged
}

fn merge_fetch(answers: Vec<Response>) -> FetchResponse {
    let mut merged = FetchResponse::default();
    for answer in answers {
        if let Response::Fetch(part) = answer {
            merge(
                &mut merged.responses,
                part.responses,
                |t| (t.topic.clone(), t.topic_id),
                |to, from| to.partitions.extend(from.partitions),
            );
        }
    }
    merged
}
