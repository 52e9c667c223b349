//! Kafka requests: who serves each, and how its answer comes about.
//!
//! ```text
//!   connection ──▶ request ──▶ answered from the image, or by Metadata
//!                     │
//!                     ▼ cut by owners (scatter)
//!                   parts ──▶ the owner's `parts` ──▶ partitions
//!                     │               │
//!                     ▼ put together  ▼
//!   connection ◀── gathering ◀───── answers
//! ```
//!
//! The shard of the connection cuts a request by the owners of its partitions and gathers the answers; parts of its own
//! partitions take the same way without a message.

mod asked;
mod early;
mod gathering;
mod leaders;
mod named;
mod parts;
mod scatter;
mod session;
mod table;

use std::collections::BTreeMap;

use milena_wire::messages::{FetchRequest, FetchResponse, ProduceRequest};
use milena_wire::{Request, Response};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use crate::local::LocalMessage;
use crate::partitions::{self, News};
use crate::{ClientId, Config, Instant, Output, Outputs, Place, Timer, api};
pub(crate) use asked::{Asked, Caller};
use early::Early;
use gathering::{Gathering, Gatherings, Progress, Whole};
pub(crate) use parts::Origin;
use parts::{Answer, Parts, fetch, list_offsets, produce};
use scatter::Owners;
use session::Sessions;
use table::{Row, Server};

/// The partitions of this shard, on which parts of requests wait.
pub(crate) type Partitions = partitions::Partitions<Origin>;

/// Uncommitted and committed reads, which are the same while there are no transactions.
const ISOLATION_LEVELS: std::ops::RangeInclusive<i8> = 0..=1;

/// The requests of a shard's connections, and the parts of requests that its partitions serve.
pub(crate) struct Requests {
    /// Requests of this shard's connections that wait for their parts.
    gatherings: Gatherings,
    parts: Parts,
    sessions: Sessions,
    early: Early,
}

impl Requests {
    /// Without any.
    pub fn new(config: &Config, seed: [u8; 32]) -> Requests {
        let sessions = Sessions::new(
            config.replication.fetch_sessions_max,
            config.replication.fetch_session_evictable_ms,
            config.replication.partitions_max as usize,
            ChaCha8Rng::from_seed(seed),
        );
        Requests {
            gatherings: Gatherings::default(),
            parts: Parts::default(),
            sessions,
            early: Early::default(),
        }
    }

    /// Begins with a node that has just started.
    pub fn start(&mut self, now: Instant) {
        self.early.begin(now);
    }

    /// Takes a request of a connection.
    pub fn on_request(&mut self, partitions: &mut Partitions, asked: Asked, out: &mut Outputs) {
        let Caller { client, id, version } = asked.caller;
        let Row { server, elements, asks_about_cluster, all_topics } =
            table::row(&asked.request, version);
        if elements > partitions.config().replication.partitions_max as usize {
            return close(client, id, "a request names too much", out);
        }
        if self.gatherings.is_full() && server == Server::Owners {
            return close(client, id, "too many requests wait", out);
        }
        if asks_about_cluster && self.early.must_wait(partitions) {
            return self.early.keep(asked);
        }
        let (image, config) = (partitions.image(), partitions.config());
        if all_topics && api::is_unknown(image) {
            // An empty list would be believed.
            return close(client, id, "this node does not know its cluster's topics yet", out);
        }
        match server {
            Server::Owners => self.on_owners(partitions, asked, out),
            Server::Image => {
                out.reply(client, id, api::answer(image, config, &asked.request, version));
            }
            Server::Metadata => {
                let Asked { request, context, .. } = asked;
                let message = LocalMessage::Administer { client, id, request, context };
                out.local(Place::Metadata, message);
            }
        }
    }

    /// Cuts a request by the owners of its partitions, once it is sure that it can be.
    fn on_owners(&mut self, partitions: &mut Partitions, asked: Asked, out: &mut Outputs) {
        let Asked { caller, request, .. } = asked;
        match request {
            Request::Produce(request) => self.on_produce(partitions, caller, request, out),
            Request::Fetch(request) => self.on_fetch(partitions, caller, request, out),
            Request::ListOffsets(request) => {
                if !ISOLATION_LEVELS.contains(&request.isolation_level) {
                    let refused = list_offsets::refuse_isolation(request);
                    return out.reply(caller.client, caller.id, Response::ListOffsets(refused));
                }
                let cut = Owners::new(partitions).list_offsets(request);
                self.scatter(partitions, caller, Whole::ListOffsets, cut, out);
            }
            Request::OffsetForLeaderEpoch(request) => {
                let cut = Owners::new(partitions).leader_epochs(request);
                self.scatter(partitions, caller, Whole::OffsetForLeaderEpoch, cut, out);
            }
            other => unreachable!("{:?} has no partitions", other.api_key()),
        }
    }

    fn on_produce(
        &mut self,
        partitions: &mut Partitions,
        caller: Caller,
        request: ProduceRequest,
        out: &mut Outputs,
    ) {
        let Caller { client, id, version } = caller;
        let acks = request.acks;
        if let Some(refused) = produce::refuse_unframed(&request) {
            return match acks {
                0 => close(client, id, "records that nobody can read", out),
                _ => out.reply(client, id, Response::Produce(refused)),
            };
        }
        let cut = Owners::new(partitions).produce(version, request);
        self.scatter(partitions, caller, Whole::Produce { acks }, cut, out);
    }

    fn on_fetch(
        &mut self,
        partitions: &mut Partitions,
        caller: Caller,
        mut request: FetchRequest,
        out: &mut Outputs,
    ) {
        let Caller { client, id, version } = caller;
        let by_id = version >= session::TOPIC_ID_VERSION;
        let levels = ISOLATION_LEVELS.contains(&request.isolation_level);
        let strange = (!levels).then(|| (request.session_id, request.topics.clone()));
        match self.sessions.begin(partitions.now().mono, version, &mut request) {
            Ok(plan) => {
                let image = partitions.image();
                if let Some((session, topics)) = strange
                    && request.topics.iter().any(|topic| named::knows_any(image, by_id, topic))
                {
                    let refused = fetch::refuse_isolation(version, session, topics);
                    return out.reply(client, id, Response::Fetch(refused));
                }
                let cut = Owners::new(partitions).fetch(by_id, request);
                self.scatter(partitions, caller, Whole::Fetch(plan), cut, out);
            }
            Err(error_code) => {
                let response = FetchResponse { error_code, ..FetchResponse::default() };
                out.reply(client, id, Response::Fetch(response));
            }
        }
    }

    /// Sends each part to its owner and waits for the answers. There is at least one part.
    fn scatter(
        &mut self,
        partitions: &mut Partitions,
        caller: Caller,
        whole: Whole,
        cut: BTreeMap<u16, Request>,
        out: &mut Outputs,
    ) {
        let version = caller.version;
        let numbered = self.gatherings.begin(caller, whole, cut);
        let (own, others): (Vec<_>, Vec<_>) =
            numbered.into_iter().partition(|(_, shard, _)| *shard == partitions.index());
        for (part, shard, request) in others {
            out.local(Place::Shard(shard), LocalMessage::Scatter { part, version, request });
        }
        // Last, since its answer may already have something to say about the others.
        for (part, shard, request) in own {
            self.on_part(partitions, Origin { shard, part }, version, request, out);
        }
    }

    /// Serves the part of a request that concerns this shard's partitions.
    pub fn on_part(
        &mut self,
        partitions: &mut Partitions,
        origin: Origin,
        version: i16,
        request: Request,
        out: &mut Outputs,
    ) {
        self.parts.serve(partitions, origin, version, request, out);
        self.give_answers(partitions, out);
    }

    /// Takes another shard's answer to a part.
    pub fn on_answer(
        &mut self,
        partitions: &mut Partitions,
        part: u64,
        response: Option<Response>,
        out: &mut Outputs,
    ) {
        self.gather(partitions, part, response, out);
        self.give_answers(partitions, out);
    }

    /// Has a part answered with what there is.
    pub fn hasten(&mut self, partitions: &mut Partitions, origin: Origin, out: &mut Outputs) {
        self.parts.hasten(partitions, origin, out);
        self.give_answers(partitions, out);
    }

    /// Drops a part that nobody waits for any more.
    pub fn abandon(&mut self, partitions: &mut Partitions, origin: Origin) {
        self.parts.abandon(partitions, origin);
    }

    /// Takes what partitions have to say to a part that waits for them.
    pub fn on_news(&mut self, partitions: &mut Partitions, news: News<Origin>, out: &mut Outputs) {
        self.parts.on_news(partitions, news, out);
        self.give_answers(partitions, out);
    }

    /// Takes a new image, or registration, that the partitions have seen already.
    pub fn on_metadata(&mut self, partitions: &mut Partitions, out: &mut Outputs) {
        for asked in self.early.look(partitions) {
            self.on_request(partitions, asked, out);
        }
    }

    /// Drops what waits for a connection that is gone.
    pub fn on_hangup(&mut self, partitions: &mut Partitions, client: ClientId, out: &mut Outputs) {
        self.early.forget(client);
        for gone in self.gatherings.remove_of(client) {
            for (part, shard) in gone.open {
                if shard == partitions.index() {
                    self.parts.abandon(partitions, Origin { shard, part });
                } else {
                    out.local(Place::Shard(shard), LocalMessage::Abandon { part });
                }
            }
        }
    }

    /// Appends or refuses what waited for room, while there is room.
    pub fn take_stalled(&mut self, partitions: &mut Partitions, out: &mut Outputs) {
        while self.parts.take_stalled(partitions, out) {
            self.give_answers(partitions, out);
        }
    }

    /// Whether there is room that a part waits for.
    pub fn is_unsettled(&self, partitions: &Partitions) -> bool {
        self.parts.has_stalled() && !partitions.must_wait()
    }

    /// The first deadline, and why.
    pub fn next_due(&self) -> Option<(Instant, Timer)> {
        self.parts.next_due().into_iter().chain(self.early.next_due()).min()
    }

    /// Does what the first deadline, which has come, is for.
    pub fn on_due(&mut self, partitions: &mut Partitions, out: &mut Outputs) {
        if self.early.next_due().is_some() && self.early.next_due() == self.next_due() {
            for asked in self.early.end() {
                self.on_request(partitions, asked, out);
            }
        } else {
            self.parts.on_due(partitions, out);
            self.give_answers(partitions, out);
        }
    }

    /// Asserts what always holds between steps.
    pub fn check_invariants(&self, partitions: &Partitions) {
        self.parts.check_invariants(partitions);
    }

    /// Gives the answers to parts to the shards of their connections.
    fn give_answers(&mut self, partitions: &mut Partitions, out: &mut Outputs) {
        while let Some(Answer { origin: Origin { shard, part }, response }) =
            self.parts.pop_answer()
        {
            if shard == partitions.index() {
                self.gather(partitions, part, response, out);
            } else {
                out.local(Place::Shard(shard), LocalMessage::Gather { part, response });
            }
        }
    }

    /// Takes the answer to a part; the last one makes the answer to the client.
    fn gather(
        &mut self,
        partitions: &mut Partitions,
        part: u64,
        response: Option<Response>,
        out: &mut Outputs,
    ) {
        match self.gatherings.answer(part, response) {
            Progress::None => {}
            Progress::Hasten(open) => {
                for (part, shard) in open {
                    if shard == partitions.index() {
                        self.parts.hasten(partitions, Origin { shard, part }, out);
                    } else {
                        out.local(Place::Shard(shard), LocalMessage::Hasten { part });
                    }
                }
            }
            Progress::Done(number) => {
                let done = self.gatherings.remove(number).expect("just answered");
                self.complete(partitions, done, out);
            }
        }
    }

    fn complete(&mut self, partitions: &Partitions, done: Gathering, out: &mut Outputs) {
        let Gathering { caller: Caller { client, id, version }, whole, answers, .. } = done;
        let response = match whole {
            // What failed can only be told by closing.
            Whole::Produce { acks: 0 } if answers.is_empty() => return out.reply(client, id, None),
            Whole::Produce { acks: 0 } => {
                return close(client, id, "a produce with acks=0 failed", out);
            }
            Whole::Produce { .. } => {
                let mut merged = gathering::merge_produce(answers);
                leaders::name_produce(partitions.image(), version, &mut merged);
                Response::Produce(merged)
            }
            Whole::Fetch(plan) => {
                let merged = gathering::merge_fetch(answers);
                let mut response = self.sessions.conclude(plan, merged);
                leaders::name_fetch(partitions.image(), version, &mut response);
                Response::Fetch(response)
            }
            Whole::ListOffsets => Response::ListOffsets(gathering::merge_list_offsets(answers)),
            Whole::OffsetForLeaderEpoch => {
                Response::OffsetForLeaderEpoch(gathering::merge_leader_epochs(answers))
            }
        };
        out.reply(client, id, response);
    }
}

fn close(client: ClientId, id: u64, why: &'static str, out: &mut Outputs) {
    out.queue.push_back(Output::Close { client, id, why });
}
