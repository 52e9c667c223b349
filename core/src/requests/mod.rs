//! Kafka requests: who serves each, and how its answer comes about.
//!
//! ```text
//!   connection ──▶ request ──▶ answered from the image, or by Metadata
//!                     │
//!                     │ cut by owners, where there are several (scatter)
//!                     ▼
//!                   `parts` of each owner ──▶ partitions
//!                     │
//!                     │ put together, where there are several (gathering)
//!                     ▼
//!   connection ◀── answer
//! ```
//!
//! A request whose partitions all belong to the shard of its connection goes to `parts` as it came, and what they answer goes to
//! the client. Of any other the shard of the connection cuts parts for the owners and gathers their answers.

mod asked;
mod early;
mod gathering;
mod leaders;
mod named;
mod parts;
mod scatter;
mod session;
mod table;

use milena_wire::messages::{FetchRequest, FetchResponse, ProduceRequest};
use milena_wire::{Request, Response};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use crate::local::{Caller, LocalMessage};
use crate::partitions::{self, News};
use crate::{ClientId, Config, Instant, Output, Outputs, Place, Timer, api};
pub(crate) use asked::Asked;
use early::Early;
use gathering::{Gathering, Gatherings, Progress};
pub(crate) use parts::Origin;
use parts::{Answer, Parts, fetch, list_offsets, produce};
use scatter::{Cut, Owners};
use session::{Plan, Sessions};
use table::{Row, Server};

/// The partitions of this shard, on which parts of requests wait.
pub(crate) type Partitions = partitions::Partitions<Origin>;

/// Requests of clients and parts of them that wait at one shard at most, ten of each of as many connections as a node takes by
/// default.
const WAITING_MAX: usize = 100_000;

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
        let Caller { client, id, version, .. } = asked.caller;
        let Row { server, elements, asks_about_cluster, all_topics } =
            table::row(&asked.request, version);
        if elements > partitions.config().replication.partitions_max as usize {
            return close(client, id, "a request names too much", out);
        }
        let waiting = self.gatherings.len() + self.parts.len();
        if waiting >= WAITING_MAX && server == Server::Owners {
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
                self.serve(partitions, caller, Plan::Sessionless, cut, out);
            }
            Request::OffsetForLeaderEpoch(request) => {
                let cut = Owners::new(partitions).leader_epochs(request);
                self.serve(partitions, caller, Plan::Sessionless, cut, out);
            }
            Request::DescribeProducers(request) => {
                let cut = Owners::new(partitions).producers(request);
                self.serve(partitions, caller, Plan::Sessionless, cut, out);
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
        let Caller { client, id, version, .. } = caller;
        let acks = request.acks;
        if let Some(refused) = produce::refuse_unframed(&request) {
            return match acks {
                0 => close(client, id, "records that nobody can read", out),
                _ => out.reply(client, id, Response::Produce(refused)),
            };
        }
        let cut = Owners::new(partitions).produce(version, request);
        let caller = Caller { silent: acks == 0, ..caller };
        self.serve(partitions, caller, Plan::Sessionless, cut, out);
    }

    fn on_fetch(
        &mut self,
        partitions: &mut Partitions,
        caller: Caller,
        mut request: FetchRequest,
        out: &mut Outputs,
    ) {
        let Caller { client, id, version, .. } = caller;
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
                self.serve(partitions, caller, plan, cut, out);
            }
            Err(error_code) => {
                let response = FetchResponse { error_code, ..FetchResponse::default() };
                out.reply(client, id, Response::Fetch(response));
            }
        }
    }

    /// Has a request served: here, where all of it is this shard's, as any part is; else each part by its owner, and its answer
    /// put together from theirs.
    fn serve(
        &mut self,
        partitions: &mut Partitions,
        caller: Caller,
        plan: Plan,
        cut: Cut,
        out: &mut Outputs,
    ) {
        let own = partitions.index();
        let (request, plan) = match cut {
            Cut::Own(request) => (Some(request), plan),
            Cut::Parts(parts) => {
                let owners = parts.iter().map(|(shard, _)| *shard).collect();
                self.gatherings.begin(caller, plan, owners);
                let mut of_own = None;
                for (shard, request) in parts {
                    if shard == own {
                        of_own = Some(request);
                    } else {
                        out.local(Place::Shard(shard), LocalMessage::Scatter { caller, request });
                    }
                }
                (of_own, Plan::Sessionless)
            }
        };
        // Last, since its answer may already have something to say about the others.
        if let Some(request) = request {
            self.parts.serve(partitions, Origin { shard: own, caller }, plan, request, out);
            self.give_answers(partitions, out);
        }
    }

    /// Serves the part of another shard's request that concerns this shard's partitions.
    pub fn on_part(
        &mut self,
        partitions: &mut Partitions,
        origin: Origin,
        request: Request,
        out: &mut Outputs,
    ) {
        self.parts.serve(partitions, origin, Plan::Sessionless, request, out);
        self.give_answers(partitions, out);
    }

    /// Takes another shard's answer to its part of a request.
    pub fn on_answer(
        &mut self,
        partitions: &mut Partitions,
        Origin { shard, caller }: Origin,
        response: Option<Response>,
        out: &mut Outputs,
    ) {
        match self.gatherings.answer(caller, shard, response) {
            // Its client has gone.
            Progress::Whole(_) => {}
            progress => self.gather(partitions, caller, progress, out),
        }
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
        let own = partitions.index();
        self.early.forget(client);
        self.parts.abandon_all(partitions, Origin { shard: own, caller: Caller::first(client) });
        for (caller, gone) in self.gatherings.remove_of(client) {
            for shard in gone.open.into_iter().filter(|shard| *shard != own) {
                out.local(Place::Shard(shard), LocalMessage::Abandon { caller });
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

    /// Gives answers to the clients, or to the shards of their connections.
    fn give_answers(&mut self, partitions: &mut Partitions, out: &mut Outputs) {
        let own = partitions.index();
        while let Some(Answer { origin: Origin { shard, caller }, plan, response }) =
            self.parts.pop_answer()
        {
            if shard != own {
                out.local(Place::Shard(shard), LocalMessage::Gather { caller, response });
                continue;
            }
            match self.gatherings.answer(caller, own, response) {
                Progress::Whole(response) => self.answer(partitions, caller, plan, response, out),
                progress => self.gather(partitions, caller, progress, out),
            }
        }
    }

    /// Goes on with a request whose parts are answered one by one; the last of them makes the answer to the client.
    fn gather(
        &mut self,
        partitions: &mut Partitions,
        caller: Caller,
        progress: Progress,
        out: &mut Outputs,
    ) {
        match progress {
            Progress::Whole(_) | Progress::Waits => {}
            Progress::Hasten(open) => {
                for shard in open {
                    if shard == partitions.index() {
                        self.parts.hasten(partitions, Origin { shard, caller }, out);
                    } else {
                        out.local(Place::Shard(shard), LocalMessage::Hasten { caller });
                    }
                }
            }
            Progress::Done(Gathering { plan, answers, .. }) => {
                self.answer(partitions, caller, plan, answers, out)
            }
        }
    }

    /// Answers a client with what became of all parts of its request, or of the whole.
    fn answer(
        &mut self,
        partitions: &Partitions,
        Caller { client, id, version, silent }: Caller,
        plan: Plan,
        answers: impl IntoIterator<Item = Response>,
        out: &mut Outputs,
    ) {
        let mut response = gathering::put_together(answers);
        match &mut response {
            // What failed can only be told by closing.
            Some(_) if silent => return close(client, id, "a produce with acks=0 failed", out),
            Some(Response::Produce(response)) => {
                leaders::name_produce(partitions.image(), version, response);
            }
            Some(Response::Fetch(response)) => {
                *response = self.sessions.conclude(plan, std::mem::take(response));
                leaders::name_fetch(partitions.image(), version, response);
            }
            Some(_) | None => {}
        }
        out.reply(client, id, response);
    }
}

fn close(client: ClientId, id: u64, why: &'static str, out: &mut Outputs) {
    out.queue.push_back(Output::Close { client, id, why });
}
