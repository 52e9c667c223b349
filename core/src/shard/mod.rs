//! The machine that owns a share of the partitions: their replicas, their journal, and the Kafka requests of its
//! connections.
//!
//! ```text
//!   Image, Serving ──▶ replicas ◀── pushes, acknowledgements of other nodes
//!                         │ ▲
//!                         ▼ │ flushed, reads
//!   requests ──▶ parts ──▶ store ──▶ disk
//! ```
//!
//! A step takes one input, then settles: what the store has to say is taken, and every replica that was touched sends,
//! confirms and sets its deadline. Nothing here passes over all partitions but a new broker's state in the image, this
//! broker's own registration, and retention, so that an idle partition costs nothing.
//!
//! What it does not do: metadata (it learns that from Metadata), consensus (the replicas do), and order among the
//! answers of one connection (the driver keeps that).

mod early;
mod fetch;
mod list_offsets;
mod produce;
mod scatter;
mod session;

use std::collections::BTreeMap;
use std::sync::Arc;

use milena_wire::messages::fetch::FetchTopic;
use milena_wire::messages::{FetchResponse, ProduceRequest};
use milena_wire::{ErrorCode, Request, Response, Uuid};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use crate::image::Image;
use crate::local::LocalMessage;
use crate::partitions::{News, Partitions};
use crate::peer::PeerMessage;
use crate::replica::ReplicaView;
use crate::storage::{Store, Superblock};
use crate::timers::Timers;
use crate::{
    ClientContext, ClientId, Config, Input, Instant, LogId, Machine, Now, Output, Outputs, Place,
    Timer, TopicId, api,
};
use early::Early;
use produce::Stalled;
use scatter::{Gatherings, Origin, Whole};
use session::Sessions;

/// The owner of a share of the partitions.
pub struct Shard {
    partitions: Partitions,
    timers: Timers<Key>,
    /// Requests of this shard's connections.
    gatherings: Gatherings,
    /// Parts of requests that wait here, whoever's connections they are of.
    parts: BTreeMap<Origin, Part>,
    stalled: Stalled,
    sessions: Sessions,
    early: Early,
}

/// What a deadline belongs to, beside those of the partitions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Key {
    /// When a part of a client's request has waited long enough.
    Part(Origin),
    /// When what came early is answered with what is known.
    Early,
}

/// A part of a request that is not answered yet.
#[derive(Debug)]
enum Part {
    /// When a produce waits for room.
    Stalled { version: i16, request: ProduceRequest, at: Instant },
    /// When a produce waits to be confirmed.
    Produce(produce::Waiting),
    /// When a fetch reads or waits.
    Fetch(fetch::Waiting),
    /// When offsets are looked up or waited for.
    ListOffsets(list_offsets::Waiting),
}

/// Uncommitted and committed reads, which are the same while there are no transactions.
const ISOLATION_LEVELS: std::ops::RangeInclusive<i8> = 0..=1;

impl Shard {
    /// Begins with what recovery found.
    pub fn new(
        config: Arc<Config>,
        index: u16,
        superblock: &Superblock,
        store: Store,
        seed: [u8; 32],
    ) -> Shard {
        let sessions = Sessions::new(
            config.replication.fetch_sessions_max,
            config.replication.fetch_session_evictable_ms,
            config.replication.partitions_max as usize,
            ChaCha8Rng::from_seed(seed),
        );
        Shard {
            partitions: Partitions::new(config, index, superblock, store),
            timers: Timers::default(),
            gatherings: Gatherings::default(),
            parts: BTreeMap::new(),
            stalled: Stalled::default(),
            sessions,
            early: Early::default(),
        }
    }

    /// Every replica, for checkers and status.
    pub fn view(&self) -> impl Iterator<Item = ReplicaView> {
        self.partitions.view()
    }

    /// The store, for checkers and status.
    pub fn store(&self) -> &Store {
        self.partitions.store()
    }

    fn on_local(&mut self, from: Place, message: LocalMessage, out: &mut Outputs) {
        match (from, message) {
            (_, LocalMessage::Image(image)) => {
                self.partitions.on_image(image, out);
                self.look_at_early(out);
            }
            (_, LocalMessage::Serving(epoch)) => {
                self.partitions.on_serving(epoch, out);
                self.look_at_early(out);
            }
            (_, LocalMessage::Administered { client, id, response }) => {
                out.reply(client, id, response)
            }
            (Place::Shard(shard), LocalMessage::Scatter { part, version, request }) => {
                self.serve_part(Origin { shard, part }, version, request, out)
            }
            (Place::Shard(_), LocalMessage::Gather { part, response }) => {
                self.gather(part, response, out)
            }
            (Place::Shard(shard), LocalMessage::Hasten { part }) => {
                self.hasten(Origin { shard, part }, out)
            }
            (Place::Shard(shard), LocalMessage::Abandon { part }) => {
                self.drop_part(Origin { shard, part })
            }
            // What shards say to Metadata, and what Metadata never says.
            (_, LocalMessage::AlterPartition(_))
            | (_, LocalMessage::Stop)
            | (_, LocalMessage::Damaged { .. })
            | (_, LocalMessage::Administer { .. })
            | (Place::Metadata, LocalMessage::Scatter { .. })
            | (Place::Metadata, LocalMessage::Gather { .. })
            | (Place::Metadata, LocalMessage::Hasten { .. })
            | (Place::Metadata, LocalMessage::Abandon { .. }) => {
                panic!("a machine of this node sent what is not for a shard")
            }
        }
    }

    fn on_request(
        &mut self,
        client: ClientId,
        id: u64,
        version: i16,
        request: Request,
        context: Arc<ClientContext>,
        out: &mut Outputs,
    ) {
        if elements(&request) > self.partitions_max() {
            return close(client, id, "a request names too much", out);
        }
        if self.gatherings.is_full() && is_scattered(&request) {
            return close(client, id, "too many requests wait", out);
        }
        let Some(request) = self.hold(client, id, version, request, &context) else { return };
        let (image, config) = (self.partitions.image(), self.partitions.config());
        if api::is_unknown(image) && asks_for_all_topics(&request, version) {
            // An empty list would be believed.
            return close(client, id, "this node does not know its cluster's topics yet", out);
        }
        match request {
            Request::Produce(request) => {
                let acks = request.acks;
                if let Some(refused) = produce::refuse_unframed(&request) {
                    return match acks {
                        0 => close(client, id, "records that nobody can read", out),
                        _ => out.reply(client, id, Response::Produce(refused)),
                    };
                }
                let parts = self.split_produce(version, request);
                self.scatter(client, id, version, Whole::Produce { acks }, parts, out);
            }
            Request::Fetch(mut request) => {
                let by_id = version >= session::TOPIC_ID_VERSION;
                let levels = ISOLATION_LEVELS.contains(&request.isolation_level);
                let strange = (!levels).then(|| (request.session_id, request.topics.clone()));
                match self.sessions.begin(self.partitions.now().mono, version, &mut request) {
                    Ok(plan) => {
                        if let Some((session, topics)) = strange
                            && request.topics.iter().any(|topic| knows_any(image, by_id, topic))
                        {
                            let refused = fetch::refuse_isolation(version, session, topics);
                            return out.reply(client, id, Response::Fetch(refused));
                        }
                        let parts = self.split_fetch(by_id, request);
                        self.scatter(client, id, version, Whole::Fetch(plan), parts, out);
                    }
                    Err(error_code) => {
                        let response = FetchResponse { error_code, ..FetchResponse::default() };
                        out.reply(client, id, Response::Fetch(response));
                    }
                }
            }
            Request::ListOffsets(request) => {
                if !ISOLATION_LEVELS.contains(&request.isolation_level) {
                    let refused = list_offsets::refuse_isolation(request);
                    return out.reply(client, id, Response::ListOffsets(refused));
                }
                let parts = self.split_list_offsets(request);
                self.scatter(client, id, version, Whole::ListOffsets, parts, out);
            }
            Request::OffsetForLeaderEpoch(request) => {
                let parts = self.split_leader_epochs(request);
                self.scatter(client, id, version, Whole::OffsetForLeaderEpoch, parts, out);
            }
            Request::Metadata(request) => {
                let response = api::metadata(image, config, &request, version);
                out.reply(client, id, Response::Metadata(response));
            }
            Request::FindCoordinator(request) => {
                let response = api::find_coordinator(&request, version);
                out.reply(client, id, Response::FindCoordinator(response));
            }
            Request::ApiVersions(request) => {
                let response = api::api_versions(image, config, &request, version);
                out.reply(client, id, Response::ApiVersions(response));
            }
            Request::DescribeConfigs(request) => {
                let response = api::describe_configs(image, config, &request);
                out.reply(client, id, Response::DescribeConfigs(response));
            }
            Request::DescribeCluster(request) => {
                let response = api::describe_cluster(image, config, &request);
                out.reply(client, id, Response::DescribeCluster(response));
            }
            Request::DescribeTopicPartitions(request) => {
                let response = api::describe_topic_partitions(image, &request);
                out.reply(client, id, Response::DescribeTopicPartitions(response));
            }
            request @ (Request::CreateTopics(_)
            | Request::DeleteTopics(_)
            | Request::DescribeQuorum(_)) => {
                let message = LocalMessage::Administer { client, id, request, context };
                out.local(Place::Metadata, message);
            }
        }
    }

    fn partitions_max(&self) -> usize {
        self.partitions.config().replication.partitions_max as usize
    }

    /// Serves the part of a request that concerns this shard's partitions.
    fn serve_part(&mut self, origin: Origin, version: i16, request: Request, out: &mut Outputs) {
        match request {
            Request::Produce(request) => self.serve_produce(origin, version, request, out),
            Request::Fetch(request) => self.serve_fetch(origin, version, request, out),
            Request::ListOffsets(request) => self.serve_list_offsets(origin, version, request, out),
            Request::OffsetForLeaderEpoch(request) => {
                self.serve_leader_epochs(origin, request, out)
            }
            Request::Metadata(_)
            | Request::FindCoordinator(_)
            | Request::ApiVersions(_)
            | Request::CreateTopics(_)
            | Request::DeleteTopics(_)
            | Request::DescribeConfigs(_)
            | Request::DescribeQuorum(_)
            | Request::DescribeCluster(_)
            | Request::DescribeTopicPartitions(_) => {
                panic!("only what has partitions is scattered")
            }
        }
    }

    /// Drops a part that nobody waits for any more.
    fn drop_part(&mut self, origin: Origin) {
        self.timers.remove(Key::Part(origin));
        match self.parts.remove(&origin) {
            Some(Part::Stalled { request, .. }) => self.forget_stalled(origin, &request),
            Some(Part::Produce(waiting)) => self.drop_produce(origin, &waiting),
            Some(Part::Fetch(waiting)) => self.drop_fetch(origin, &waiting),
            Some(Part::ListOffsets(waiting)) => self.drop_list(origin, &waiting),
            None => {}
        }
    }

    /// Does what the first deadline that has come is for: those of partitions before those of requests.
    fn on_due(&mut self, now: Instant, out: &mut Outputs) -> bool {
        let of = |due: Option<(Instant, Timer)>| due.map(|(at, _)| at).filter(|at| *at <= now);
        match (of(self.partitions.next_due()), of(self.timers.next())) {
            (None, None) => return false,
            (Some(first), then) if then.is_none_or(|then| first <= then) => {
                self.partitions.on_due(out)
            }
            (_, _) => match self.timers.pop(now) {
                Some(Key::Early) => self.end_early(out),
                Some(Key::Part(origin)) => self.on_part_due(origin, out),
                None => {}
            },
        }
        true
    }

    fn on_part_due(&mut self, origin: Origin, out: &mut Outputs) {
        match self.parts.get(&origin) {
            Some(Part::Stalled { .. }) => {
                if let Some(Part::Stalled { request, .. }) = self.parts.remove(&origin) {
                    self.give_up_stalled(origin, &request, out);
                }
            }
            Some(Part::Produce(_)) => self.time_out_produce(origin, out),
            Some(Part::Fetch(_)) => self.wake_fetch(origin, out),
            Some(Part::ListOffsets(_)) => self.wake_list(origin, out),
            None => {}
        }
    }

    /// Takes what the store has to say and settles every replica that was touched, until nothing is left to do.
    fn settle(&mut self, out: &mut Outputs) {
        loop {
            while self.partitions.take_store_event(out) {
                self.take_news(out);
            }
            self.partitions.use_room(out);
            self.take_stalled(out);
            while self.partitions.settle_next(out) {
                self.take_news(out);
            }
            self.partitions.pump(out);
            // Filing away may have made room just now.
            let room = self.has_stalled() && !self.partitions.must_wait();
            if !room && !self.partitions.is_unsettled() {
                break;
            }
        }
    }

    fn take_news(&mut self, out: &mut Outputs) {
        while let Some(news) = self.partitions.pop_news() {
            match news {
                News::Appended { waiter, log, outcome } => {
                    self.decide(log, waiter.into(), outcome, out)
                }
                News::Moved { waiter } => {
                    let origin = waiter.into();
                    match self.parts.get(&origin) {
                        Some(Part::Fetch(_)) => self.wake_fetch(origin, out),
                        Some(Part::ListOffsets(_)) => self.wake_list(origin, out),
                        Some(Part::Stalled { .. } | Part::Produce(_)) | None => {}
                    }
                }
                News::Read { waiter, place, result } => {
                    self.on_fetch_read(waiter.into(), place, result, out)
                }
                News::Time { waiter, place, result } => {
                    self.on_time(waiter.into(), place, result, out)
                }
            }
        }
    }
}

impl Machine for Shard {
    fn step(&mut self, now: Now, input: Input, out: &mut Outputs) {
        self.partitions.begin(now);
        match input {
            Input::Start => {
                self.partitions.start();
                self.begin_early();
            }
            Input::Timeout => while self.on_due(now.mono, out) {},
            Input::Peer { from, message: PeerMessage::Replica(message) } => {
                self.partitions.on_peer(from, message, out)
            }
            Input::Peer {
                message:
                    PeerMessage::Founding(_) | PeerMessage::Quorum(_) | PeerMessage::Controller(_),
                ..
            } => panic!("the driver asks a message for its machine"),
            Input::Local { from, message } => self.on_local(from, message, out),
            Input::Request { client, id, version, request, context } => {
                self.on_request(client, id, version, request, context, out)
            }
            Input::Hangup { client } => {
                self.forget_early(client);
                self.hang_up(client, out);
            }
            Input::Disk { op, outcome } => self.partitions.on_disk(op, outcome, out),
        }
        self.settle(out);
    }

    fn next_timeout(&self) -> Option<(Instant, Timer)> {
        let store = self.partitions.store().next_timeout();
        self.partitions.next_due().into_iter().chain(self.timers.next()).chain(store).min()
    }

    fn check_invariants(&self) {
        self.partitions.check_invariants();
        assert!(
            !self.has_stalled() || self.partitions.must_wait(),
            "what waits for room waits no longer than that"
        );
        let mut watchers = self.partitions.watchers().map(Origin::from);
        assert!(watchers.all(|origin| self.parts.contains_key(&origin)));
    }
}

/// The partition that a request names, if it exists.
fn locate(
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
fn knows_any(image: &Image, by_id: bool, topic: &FetchTopic) -> bool {
    let mut partitions = topic.partitions.iter().map(|asked| asked.partition);
    partitions.any(|index| locate(image, &topic.topic, topic.topic_id, by_id, index).is_ok())
}

/// How many partitions, topics or other things a request names. A topic without partitions counts too.
fn elements(request: &Request) -> usize {
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
fn is_scattered(request: &Request) -> bool {
    matches!(
        request,
        Request::Produce(_)
            | Request::Fetch(_)
            | Request::ListOffsets(_)
            | Request::OffsetForLeaderEpoch(_)
    )
}

/// Whether a request names no topic and means all of them. Before version 1 of Metadata an empty list does.
fn asks_for_all_topics(request: &Request, version: i16) -> bool {
    match request {
        Request::Metadata(request) => {
            request.topics.as_ref().is_none_or(|topics| version == 0 && topics.is_empty())
        }
        Request::DescribeTopicPartitions(request) => request.topics.is_empty(),
        _ => false,
    }
}

fn close(client: ClientId, id: u64, why: &'static str, out: &mut Outputs) {
    out.queue.push_back(Output::Close { client, id, why });
}
