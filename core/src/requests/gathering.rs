//! Requests whose partitions belong to several shards, or to another one, put together again from the answers to their parts.
//!
//! Kafka keeps what waits (DelayedProduce, DelayedFetch) in a purgatory; here each part waits at the owner of its partitions,
//! and the gathering at the shard of the connection only counts. What this shard alone can answer needs none.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use milena_wire::Response;

use super::session::Plan;
use crate::ClientId;
use crate::local::Caller;

/// A request of a client whose parts are being answered.
#[derive(Debug)]
pub(super) struct Gathering {
    /// What is to be done with the answer, where it is a fetch.
    pub plan: Plan,
    /// The owners that have not answered.
    pub open: Vec<u16>,
    pub answers: Vec<Response>,
    hastened: bool,
}

/// All requests that are being put together.
#[derive(Default, Debug)]
pub(super) struct Gatherings(BTreeMap<Caller, Gathering>);

/// What an answer to a part makes of its request.
pub(super) enum Progress {
    /// When it is the answer to all, and no part: there is no gathering.
    Whole(Option<Response>),
    /// When others are still waited for.
    Waits,
    /// When these owners are to answer with what there is.
    Hasten(Vec<u16>),
    /// When it was the last.
    Done(Gathering),
}

impl Gatherings {
    /// Begins to wait for the owners of a request's parts.
    pub fn begin(&mut self, caller: Caller, plan: Plan, open: Vec<u16>) {
        let answers = Vec::with_capacity(open.len());
        self.0.insert(caller, Gathering { plan, open, answers, hastened: false });
    }

    /// Takes an owner's answer.
    pub fn answer(&mut self, caller: Caller, owner: u16, response: Option<Response>) -> Progress {
        let Entry::Occupied(mut entry) = self.0.entry(caller) else {
            return Progress::Whole(response);
        };
        let gathering = entry.get_mut();
        gathering.open.retain(|open| *open != owner);
        gathering.answers.extend(response);
        if gathering.open.is_empty() {
            return Progress::Done(entry.remove());
        }
        // A fetch waits no more once one part has records, or an error that the client should see.
        let is_fetch = matches!(gathering.answers.last(), Some(Response::Fetch(_)));
        if is_fetch && !gathering.hastened {
            gathering.hastened = true;
            return Progress::Hasten(gathering.open.clone());
        }
        Progress::Waits
    }

    /// Takes out all requests of a connection.
    pub fn remove_of(&mut self, client: ClientId) -> Vec<(Caller, Gathering)> {
        let of_client = self.0.range(Caller::first(client)..).map(|(caller, _)| *caller);
        let all: Vec<Caller> = of_client.take_while(|caller| caller.client == client).collect();
        all.into_iter().filter_map(|caller| self.0.remove_entry(&caller)).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// The answer to a request, of those to its parts; none where nobody answered, as the protocol has it for acks=0.
pub(super) fn put_together(answers: impl IntoIterator<Item = Response>) -> Option<Response> {
    let mut answers = answers.into_iter();
    let mut whole = answers.next()?;
    match &mut whole {
        Response::Produce(whole) => merge(
            &mut whole.responses,
            answers.filter_map(|answer| match answer {
                Response::Produce(part) => Some(part.responses),
                _ => None,
            }),
            |t| (t.name.clone(), t.topic_id),
            |to, from| to.partition_responses.extend(from.partition_responses),
        ),
        Response::Fetch(whole) => merge(
            &mut whole.responses,
            answers.filter_map(|answer| match answer {
                Response::Fetch(part) => Some(part.responses),
                _ => None,
            }),
            |t| (t.topic.clone(), t.topic_id),
            |to, from| to.partitions.extend(from.partitions),
        ),
        Response::ListOffsets(whole) => merge(
            &mut whole.topics,
            answers.filter_map(|answer| match answer {
                Response::ListOffsets(part) => Some(part.topics),
                _ => None,
            }),
            |t| t.name.clone(),
            |to, from| to.partitions.extend(from.partitions),
        ),
        Response::OffsetForLeaderEpoch(whole) => merge(
            &mut whole.topics,
            answers.filter_map(|answer| match answer {
                Response::OffsetForLeaderEpoch(part) => Some(part.topics),
                _ => None,
            }),
            |t| t.topic.clone(),
            |to, from| to.partitions.extend(from.partitions),
        ),
        Response::DescribeProducers(whole) => merge(
            &mut whole.topics,
            answers.filter_map(|answer| match answer {
                Response::DescribeProducers(part) => Some(part.topics),
                _ => None,
            }),
            |t| t.name.clone(),
            |to, from| to.partitions.extend(from.partitions),
        ),
        other => unreachable!("{:?} has no partitions", other.api_key()),
    }
    Some(whole)
}

/// Adds the topics of other parts to those of the first, joining the partitions of one topic; a request may name one twice.
fn merge<T, K: Ord>(
    topics: &mut Vec<T>,
    more: impl Iterator<Item = Vec<T>>,
    key: impl Fn(&T) -> K,
    join: impl Fn(&mut T, T),
) {
    topics.extend(more.flatten());
    if topics.len() < 2 {
        return;
    }
    let mut places = BTreeMap::new();
    for topic in std::mem::take(topics) {
        match places.entry(key(&topic)) {
            Entry::Occupied(place) => join(&mut topics[*place.get()], topic),
            Entry::Vacant(place) => {
                place.insert(topics.len());
                topics.push(topic);
            }
        }
    }
}
