//! Requests whose partitions belong to several shards, put together again from the answers to their parts.
//!
//! Kafka keeps what waits (DelayedProduce, DelayedFetch) in a purgatory; here each part waits at the owner of its partitions,
//! and the gathering at the shard of the connection only counts.

use std::collections::{BTreeMap, BTreeSet};

use milena_wire::messages::{
    FetchResponse, ListOffsetsResponse, OffsetForLeaderEpochResponse, ProduceResponse,
};
use milena_wire::{Request, Response};

use super::asked::Caller;
use super::session::Plan;
use crate::ClientId;

/// Requests of clients that wait at one shard at most, ten of each of as many connections as a node takes by default.
const GATHERINGS_MAX: usize = 100_000;

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
pub(super) struct Gathering {
    pub caller: Caller,
    pub whole: Whole,
    /// Parts not answered yet, and their owners.
    pub open: BTreeMap<u64, u16>,
    pub answers: Vec<Response>,
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

/// What an answer to a part makes of its request.
pub(super) enum Progress {
    /// When others are still waited for, or nobody waits.
    None,
    /// When these parts, each at its owner, are to be answered with what there is.
    Hasten(BTreeMap<u64, u16>),
    /// When it was the last; the number of the request, to be taken out.
    Done(u64),
}

impl Gatherings {
    /// Begins to wait for the parts of a request, of which there is at least one; each with the number it has got.
    pub fn begin(
        &mut self,
        caller: Caller,
        whole: Whole,
        parts: BTreeMap<u16, Request>,
    ) -> Vec<(u64, u16, Request)> {
        let gathering = self.number();
        let numbered: Vec<(u64, u16, Request)> =
            parts.into_iter().map(|(shard, request)| (self.number(), shard, request)).collect();
        let open: BTreeMap<u64, u16> =
            numbered.iter().map(|(part, shard, _)| (*part, *shard)).collect();
        self.of_part.extend(open.keys().map(|part| (*part, gathering)));
        self.of_client.entry(caller.client).or_default().insert(gathering);
        let answers = Vec::with_capacity(open.len());
        let hastened = false;
        self.all.insert(gathering, Gathering { caller, whole, open, answers, hastened });
        numbered
    }

    /// Takes the answer to a part.
    pub fn answer(&mut self, part: u64, response: Option<Response>) -> Progress {
        let Some(number) = self.of_part.remove(&part) else { return Progress::None };
        let gathering = self.all.get_mut(&number).expect("a part has its request");
        gathering.open.remove(&part);
        gathering.answers.extend(response);
        if gathering.open.is_empty() {
            return Progress::Done(number);
        }
        // A fetch waits no more once one part has records, or an error that the client should see.
        if let (Whole::Fetch(_), false) = (&gathering.whole, gathering.hastened) {
            gathering.hastened = true;
            return Progress::Hasten(gathering.open.clone());
        }
        Progress::None
    }

    /// Takes out all requests of a connection.
    pub fn remove_of(&mut self, client: ClientId) -> impl Iterator<Item = Gathering> {
        let all = self.of_client.get(&client).cloned().unwrap_or_default().into_iter();
        all.map(|number| self.remove(number).expect("listed with its client"))
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Takes out a request.
    pub fn remove(&mut self, gathering: u64) -> Option<Gathering> {
        let found = self.all.remove(&gathering)?;
        for part in found.open.keys() {
            self.of_part.remove(part);
        }
        if let Some(of_client) = self.of_client.get_mut(&found.caller.client) {
            of_client.remove(&gathering);
            if of_client.is_empty() {
                self.of_client.remove(&found.caller.client);
            }
        }
        Some(found)
    }

    /// Whether no more requests may wait.
    pub fn is_full(&self) -> bool {
        self.all.len() >= GATHERINGS_MAX
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

pub(super) fn merge_produce(answers: Vec<Response>) -> ProduceResponse {
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

pub(super) fn merge_fetch(answers: Vec<Response>) -> FetchResponse {
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

pub(super) fn merge_list_offsets(answers: Vec<Response>) -> ListOffsetsResponse {
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
    merged
}

pub(super) fn merge_leader_epochs(answers: Vec<Response>) -> OffsetForLeaderEpochResponse {
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
    merged
}
