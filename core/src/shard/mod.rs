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

mod ahead;
mod early;
mod fetch;
mod list_offsets;
mod produce;
mod retention;
mod roomless;
mod scatter;
mod session;
mod timers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use milena_wire::messages::fetch::FetchTopic;
use milena_wire::messages::{FetchResponse, ProduceRequest};
use milena_wire::{ErrorCode, Request, Response, Uuid};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use crate::image::settings::TopicSettings;
use crate::image::{Broker, Image};
use crate::local::LocalMessage;
use crate::peer::PeerMessage;
use crate::replica::message::{Push, ReplicaMessage};
use crate::replica::{Context, Host, Replica, ReplicaView, State, Unavailable};
use crate::storage::{Store, StoreEvent, Superblock, Ticket};
use crate::{
    BrokerEpoch, ClientContext, ClientId, Config, Epoch, Input, Instant, LogId, Machine, NodeId,
    Now, Offset, Output, Outputs, Place, Timer, TopicId, api,
};
use ahead::Ahead;
use early::Early;
use produce::{Listed, Stalled};
use roomless::Roomless;
use scatter::{Gatherings, Origin, Whole};
use session::Sessions;
use timers::{Key, Timers};

/// The owner of a share of the partitions.
pub struct Shard {
    index: u16,
    /// Time of the step under way.
    now: Now,
    host: Host,
    replicas: BTreeMap<LogId, Replica>,
    /// Logs on this disk that no image has named since the start.
    orphans: BTreeSet<LogId>,
    timers: Timers,
    /// Replicas to be looked at before the step ends.
    touched: BTreeSet<LogId>,
    /// Replicas with something that is not on stable storage yet.
    unflushed: BTreeSet<LogId>,
    /// What each read of the store is for.
    reads: BTreeMap<Ticket, ReadFor>,
    /// Requests of this shard's connections.
    gatherings: Gatherings,
    /// Parts of requests that wait here, whoever's connections they are of.
    parts: BTreeMap<Origin, Part>,
    /// What was appended and is not confirmed.
    written: BTreeMap<LogId, Listed>,
    stalled: Stalled,
    /// Parts to be looked at again when a partition moves.
    watches: BTreeMap<LogId, Watch>,
    sessions: Sessions,
    early: Early,
    ahead: Ahead,
    roomless: Roomless,
}

/// What a read of the store is for.
#[derive(Clone, Copy, Debug)]
enum ReadFor {
    /// When a follower is pushed older records.
    Follower(LogId, NodeId),
    /// When a fetch part reads; the place of the partition in it.
    Fetch(Origin, usize),
    /// When a time is looked up; the place of the partition in its part.
    Time(Origin, usize),
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

/// Parts that wait for a partition to move from where it stood.
#[derive(Debug)]
struct Watch {
    stood: Standing,
    origins: BTreeSet<Origin>,
}

/// All of a partition that a waiting reader cares for: whether it leads, and what may be read.
type Standing = (Result<Epoch, Unavailable>, bool, Offset);

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
            index,
            now: Now::default(),
            orphans: store.logs().into_iter().collect(),
            host: Host {
                config,
                incarnation: superblock.incarnation,
                image: Arc::new(Image::default()),
                serving: None,
                store,
                reads: Vec::new(),
            },
            replicas: BTreeMap::new(),
            timers: Timers::default(),
            touched: BTreeSet::new(),
            unflushed: BTreeSet::new(),
            reads: BTreeMap::new(),
            gatherings: Gatherings::default(),
            parts: BTreeMap::new(),
            written: BTreeMap::new(),
            stalled: Stalled::default(),
            watches: BTreeMap::new(),
            sessions,
            early: Early::default(),
            ahead: Ahead::default(),
            roomless: Roomless::default(),
        }
    }

    /// Every replica, for checkers and status.
    pub fn view(&self) -> impl Iterator<Item = ReplicaView> {
        self.replicas.values().map(|replica| replica.view(&self.host))
    }

    /// The store, for checkers and status.
    pub fn store(&self) -> &Store {
        &self.host.store
    }

    fn on_peer(&mut self, from: NodeId, message: ReplicaMessage, out: &mut Outputs) {
        let own = self.host.image.cluster;
        if message.cluster() != own {
            // Before the first image nothing is led or followed.
            if own != 0 {
                let what = "a replica of another cluster";
                out.event(|| crate::trace::Event::Refused { from, what });
            }
            return;
        }
        match message {
            ReplicaMessage::Push(push) => {
                // What came earlier goes first.
                self.take_roomless(out);
                if let Some(push) = self.keep_ahead(from, push) {
                    self.take_push(from, push, out);
                }
            }
            ReplicaMessage::Acknowledge(acknowledge) => {
                let log = acknowledge.log;
                let Some(replica) = self.replicas.get_mut(&log) else { return };
                let mut cx = Context { now: self.now, host: &mut self.host, out };
                replica.on_acknowledge(&mut cx, from, acknowledge);
                self.touched.insert(log);
            }
        }
    }

    fn take_push(&mut self, from: NodeId, push: Push, out: &mut Outputs) {
        let log = push.log;
        let Some(replica) = self.replicas.get_mut(&log) else { return };
        let mut cx = Context { now: self.now, host: &mut self.host, out };
        let roomless = replica.on_push(&mut cx, from, push);
        self.touched.insert(log);
        if let Some(push) = roomless {
            self.keep_roomless(from, push);
        }
    }

    fn on_local(&mut self, from: Place, message: LocalMessage, out: &mut Outputs) {
        match (from, message) {
            (_, LocalMessage::Image(image)) => self.on_image(image, out),
            (_, LocalMessage::Serving(epoch)) => self.on_serving(epoch, out),
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

    fn on_serving(&mut self, epoch: Option<BrokerEpoch>, out: &mut Outputs) {
        self.host.serving = epoch;
        self.look_at_all(out);
        self.take_ahead(out);
        self.look_at_early(out);
    }

    fn on_image(&mut self, image: Arc<Image>, out: &mut Outputs) {
        if image.end < self.host.image.end {
            return;
        }
        let before = std::mem::replace(&mut self.host.image, image.clone());
        let changed: Vec<TopicId> = image
            .topics
            .iter()
            .filter(|(id, topic)| before.topics.get(*id).is_none_or(|b| !Arc::ptr_eq(b, topic)))
            .map(|(id, _)| *id)
            .collect();
        let gone: Vec<TopicId> =
            before.topics.keys().filter(|id| !image.topics.contains_key(id)).copied().collect();
        for topic in gone {
            let first = LogId { topic, partition: 0 };
            let last = LogId { topic, partition: i32::MAX };
            let logs: Vec<LogId> = self.replicas.range(first..=last).map(|(log, _)| *log).collect();
            logs.into_iter().for_each(|log| self.delete(log, out));
        }
        self.delete_orphans(out);
        for topic in changed {
            self.take_topic(topic);
        }
        if lives(&before).ne(lives(&image)) {
            self.look_at_all(out);
        } else {
            for log in std::mem::take(&mut self.touched) {
                self.look_at(log, out);
            }
        }
        self.take_ahead(out);
        self.look_at_early(out);
    }

    /// Makes replicas for the partitions of a topic that this broker holds and this shard owns; they are looked at next.
    fn take_topic(&mut self, topic: TopicId) {
        let me = self.host.config.node;
        let found = self.host.image.topics[&topic].clone();
        for (index, partition) in (0..).zip(&found.partitions) {
            let log = LogId { topic, partition: index };
            let mine = log.shard(self.host.config.shards) == self.index;
            if mine && (partition.replicas.contains(&me) || self.replicas.contains_key(&log)) {
                self.orphans.remove(&log);
                let store = &self.host.store;
                self.replicas.entry(log).or_insert_with(|| Replica::new(log, store));
                self.touched.insert(log);
            }
        }
    }

    /// Deletes logs left by topics that were deleted while this node was down. An image that is older than the one which
    /// named a log knows nothing of it; one that is as new and does not name it means that it was deleted since. Where what says
    /// which image that was is damaged, the one under which this broker serves is new enough.
    fn delete_orphans(&mut self, out: &mut Outputs) {
        let image = self.host.image.clone();
        let serves = self.host.acting().is_some();
        let deleted = |log: &LogId| {
            let Some(found) = self.host.store.log(*log) else { return false };
            let is_news = match State::decode(found.state()) {
                Some(state) => state.cluster == image.cluster && state.named_at <= image.end,
                None => serves && found.is_damaged(),
            };
            is_news && !image.topics.contains_key(&log.topic)
        };
        let deleted: Vec<LogId> = self.orphans.iter().copied().filter(deleted).collect();
        for log in deleted {
            out.event(|| crate::trace::Event::Sometimes(crate::trace::Mark::ShardOrphanDeleted));
            self.delete(log, out);
        }
    }

    fn delete(&mut self, log: LogId, out: &mut Outputs) {
        self.replicas.remove(&log);
        self.orphans.remove(&log);
        self.unflushed.remove(&log);
        self.timers.remove(Key::Replica(log));
        if self.host.store.log(log).is_some() {
            self.host.store.delete(log, out);
        }
        // What waits for it is answered at the end of the step.
        self.touched.insert(log);
    }

    fn look_at_all(&mut self, out: &mut Outputs) {
        let logs: Vec<LogId> = self.replicas.keys().copied().collect();
        logs.into_iter().for_each(|log| self.look_at(log, out));
        if self.host.acting().is_some() {
            // The image is at least as new as all that this disk may hold of a partition that still is.
            self.host.store.all_asked_for();
            self.delete_orphans(out);
        }
    }

    /// Shows a replica the new image.
    fn look_at(&mut self, log: LogId, out: &mut Outputs) {
        self.touched.insert(log);
        let Some(replica) = self.replicas.get_mut(&log) else { return };
        let mut cx = Context { now: self.now, host: &mut self.host, out };
        replica.on_metadata(&mut cx);
        if let (Some(topic), Some(_)) = (replica.topic(), self.host.store.log(log)) {
            let settings = TopicSettings::new(&topic.configs, &self.host.config);
            let rules = settings.segment_rules(&self.host.config);
            self.host.store.set_segment_rules(log, rules);
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
        let (image, config) = (&self.host.image, &self.host.config);
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
                match self.sessions.begin(self.now.mono, version, &mut request) {
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
        self.host.config.replication.partitions_max as usize
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

    fn on_due(&mut self, key: Key, out: &mut Outputs) {
        match key {
            Key::Retention => self.retain(out),
            Key::Early => self.end_early(out),
            Key::Replica(log) => {
                let Some(replica) = self.replicas.get_mut(&log) else { return };
                let mut cx = Context { now: self.now, host: &mut self.host, out };
                replica.on_timeout(&mut cx);
                self.touched.insert(log);
            }
            Key::Part(origin) => match self.parts.get(&origin) {
                Some(Part::Stalled { .. }) => {
                    if let Some(Part::Stalled { request, .. }) = self.parts.remove(&origin) {
                        self.give_up_stalled(origin, &request, out);
                    }
                }
                Some(Part::Produce(_)) => self.time_out_produce(origin, out),
                Some(Part::Fetch(_)) => self.wake_fetch(origin, out),
                Some(Part::ListOffsets(_)) => self.wake_list(origin, out),
                None => {}
            },
        }
    }

    /// Takes what the store has to say and looks at every replica that was touched, until nothing is left to do.
    fn settle(&mut self, out: &mut Outputs) {
        loop {
            while let Some(event) = self.host.store.pop_event() {
                self.on_store_event(event, out);
            }
            self.take_roomless(out);
            self.take_stalled(out);
            while let Some(log) = self.touched.pop_first() {
                self.settle_replica(log, out);
            }
            self.host.store.pump(self.now, out);
            match self.host.store.pop_event() {
                Some(event) => self.on_store_event(event, out),
                // Filing away may have made room just now.
                None if self.has_stalled() && !self.must_wait() => {}
                None if self.has_roomless() && self.host.store.has_room() => {}
                None => break,
            }
        }
    }

    fn on_store_event(&mut self, event: StoreEvent, out: &mut Outputs) {
        match event {
            StoreEvent::Flushed => {
                for log in std::mem::take(&mut self.unflushed) {
                    let Some(replica) = self.replicas.get_mut(&log) else { continue };
                    let mut cx = Context { now: self.now, host: &mut self.host, out };
                    replica.on_flushed(&mut cx);
                    self.touched.insert(log);
                }
            }
            StoreEvent::Read { ticket, result } => match self.reads.remove(&ticket) {
                Some(ReadFor::Follower(log, node)) => {
                    let Some(replica) = self.replicas.get_mut(&log) else { return };
                    let mut cx = Context { now: self.now, host: &mut self.host, out };
                    replica.on_read(&mut cx, node, ticket, result);
                    self.touched.insert(log);
                }
                Some(ReadFor::Fetch(origin, place)) => {
                    self.on_fetch_read(origin, place, result, out)
                }
                Some(ReadFor::Time(..)) | None => panic!("a read that nobody began"),
            },
            StoreEvent::Time { ticket, result } => match self.reads.remove(&ticket) {
                Some(ReadFor::Time(origin, place)) => self.on_time(origin, place, result, out),
                Some(ReadFor::Follower(..) | ReadFor::Fetch(..)) | None => {
                    panic!("a lookup that nobody began")
                }
            },
            StoreEvent::Damaged { log } => {
                let Some(replica) = self.replicas.get_mut(&log) else { return };
                let mut cx = Context { now: self.now, host: &mut self.host, out };
                replica.on_damaged(&mut cx);
                self.touched.insert(log);
            }
            StoreEvent::Command { .. } => panic!("a shard gives the disk no commands of its own"),
        }
    }

    /// Sends what a replica has to send, answers what has waited for it, and sets its deadline.
    fn settle_replica(&mut self, log: LogId, out: &mut Outputs) {
        if let Some(replica) = self.replicas.get_mut(&log) {
            let mut cx = Context { now: self.now, host: &mut self.host, out };
            replica.pump(&mut cx);
            for (ticket, log, node) in std::mem::take(&mut self.host.reads) {
                self.reads.insert(ticket, ReadFor::Follower(log, node));
            }
            if replica.unflushed(&self.host.store) {
                self.unflushed.insert(log);
            }
            let due = replica.due(&self.host);
            self.timers.set(Key::Replica(log), due, Timer::Replication);
        }
        self.confirm_produces(log, out);
        if self.watches.get(&log).is_some_and(|watch| watch.stood != self.standing(log)) {
            let watch = self.watches.remove(&log).expect("just seen");
            for origin in watch.origins {
                match self.parts.get(&origin) {
                    Some(Part::Fetch(_)) => self.wake_fetch(origin, out),
                    Some(Part::ListOffsets(_)) => self.wake_list(origin, out),
                    Some(Part::Stalled { .. } | Part::Produce(_)) | None => {}
                }
            }
        }
    }

    fn standing(&self, log: LogId) -> Standing {
        match self.replicas.get(&log) {
            Some(replica) => (
                replica.leading(&self.host.store),
                replica.reached_epoch_start(),
                replica.high_watermark(),
            ),
            None => (Err(Unavailable::NotLeader), false, -1),
        }
    }

    fn watch(&mut self, log: LogId, origin: Origin) {
        let stood = self.standing(log);
        let watch = self.watches.entry(log).or_insert(Watch { stood, origins: BTreeSet::new() });
        watch.origins.insert(origin);
    }

    fn unwatch(&mut self, log: LogId, origin: Origin) {
        if let Some(watch) = self.watches.get_mut(&log) {
            watch.origins.remove(&origin);
            if watch.origins.is_empty() {
                self.watches.remove(&log);
            }
        }
    }

    /// The partition that a request names, if it exists.
    fn locate(
        &self,
        name: &str,
        topic_id: Uuid,
        by_id: bool,
        partition: i32,
    ) -> Result<LogId, ErrorCode> {
        locate(&self.host.image, name, topic_id, by_id, partition)
    }

    /// The epoch in which this broker leads a partition.
    fn leading(&self, log: LogId) -> Result<Epoch, ErrorCode> {
        let Some(replica) = self.replicas.get(&log) else {
            let known = self.host.image.partition(log).is_some();
            return Err(if known {
                ErrorCode::NOT_LEADER_OR_FOLLOWER
            } else {
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
            });
        };
        replica.leading(&self.host.store).map_err(|why| match why {
            Unavailable::NotLeader => ErrorCode::NOT_LEADER_OR_FOLLOWER,
            Unavailable::Damaged => ErrorCode::KAFKA_STORAGE_ERROR,
        })
    }

    /// The epoch in which this broker leads a partition, if it is the one that the client believes in; a client that does
    /// not say (-1) is believed.
    fn check_epoch(&self, log: LogId, believed: Epoch) -> Result<Epoch, ErrorCode> {
        let known = self.host.image.partition(log).map(|(_, partition)| partition.leader_epoch);
        match known {
            Some(known) if believed != -1 && believed < known => {
                Err(ErrorCode::FENCED_LEADER_EPOCH)
            }
            Some(known) if believed > known => Err(ErrorCode::UNKNOWN_LEADER_EPOCH),
            Some(_) | None => self.leading(log),
        }
    }
}

impl Machine for Shard {
    fn step(&mut self, now: Now, input: Input, out: &mut Outputs) {
        self.now = now;
        match input {
            Input::Start => {
                self.schedule_retention();
                self.begin_early();
            }
            Input::Timeout => {
                while let Some(key) = self.timers.pop(now.mono) {
                    self.on_due(key, out);
                }
            }
            Input::Peer { from, message: PeerMessage::Replica(message) } => {
                self.on_peer(from, message, out)
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
            Input::Disk { op, outcome } => self.host.store.on_disk(now, op, outcome, out),
        }
        self.settle(out);
    }

    fn next_timeout(&self) -> Option<(Instant, Timer)> {
        self.timers.next().into_iter().chain(self.host.store.next_timeout()).min()
    }

    fn check_invariants(&self) {
        self.host.store.check_invariants();
        for replica in self.replicas.values() {
            replica.check_invariants(&self.host.store);
        }
        assert!(self.touched.is_empty(), "a step settles what it touches");
        assert!(
            !self.has_stalled() || self.must_wait(),
            "what waits for room waits no longer than that"
        );
        for origins in self.watches.values().map(|watch| &watch.origins) {
            assert!(origins.iter().all(|origin| self.parts.contains_key(origin)));
        }
    }
}

/// What replicas care for of each broker: which life of it is in service.
fn lives(
    image: &Image,
) -> impl Iterator<Item = (NodeId, crate::Incarnation, BrokerEpoch, Option<BrokerEpoch>, bool)> {
    image.brokers.iter().map(|(node, broker)| {
        let Broker { incarnation, epoch, confirmed, fenced, .. } = broker;
        (*node, *incarnation, *epoch, *confirmed, *fenced)
    })
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
