//! Kafka clients as values: typed requests to brokers, answers and broken connections in, no bytes.
//!
//! A client behaves as librdkafka does where it matters for safety: it takes leaders from Metadata, sends again on retriable
//! errors and broken connections after refreshing it, gives a request a deadline, and treats what was never answered as
//! unknown. What it does by itself is up to its role: producer, consumer, seeker, stranger, administrator, or the reader that
//! reads everything once at the end.

pub mod admin;
pub mod batch;
pub mod consumer;
pub mod frames;
mod identity;
pub mod links;
pub mod producer;
pub mod seeker;
pub mod stranger;

use std::collections::{BTreeMap, VecDeque};

use milena_core::ClientId;
use milena_wire::messages::MetadataRequest;
use milena_wire::messages::metadata::MetadataResponse;
use milena_wire::{Request, Response, Uuid};

use crate::check::Violation;
use crate::history::History;
use crate::queue::{MS, Time};
use crate::rng::Stream;

pub use admin::Admin;
pub use consumer::Consumer;
pub use links::ClientLinks;
pub use producer::Producer;
pub use seeker::Seeker;
pub use stranger::Stranger;

/// What a client wants done.
#[derive(Debug)]
pub enum Wish {
    /// When a request is to be sent. The connection is opened where there is none.
    Send {
        /// The broker, by index.
        node: usize,
        /// Number of the request.
        id: u64,
        /// Version.
        version: i16,
        /// Body.
        request: Request,
    },
    /// When a connection is to be closed.
    Close {
        /// Which.
        connection: ClientId,
    },
    /// When the client wants to be called again.
    Wake {
        /// When.
        at: Time,
        /// Why.
        why: Wake,
    },
}

/// Why a client wanted to be called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wake {
    /// When it may do the next thing of its own.
    Act,
    /// When a request must have been answered.
    Deadline(u64),
}

/// A partition as Metadata shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leader {
    /// The broker, by index; none while there is none.
    pub node: Option<usize>,
    /// Its epoch.
    pub epoch: i32,
}

/// A topic as Metadata shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicView {
    /// Its id.
    pub id: Uuid,
    /// Its partitions, by index.
    pub partitions: Vec<Leader>,
}

/// What each client has beside its role.
#[derive(Debug)]
pub struct Session {
    /// Draws of this client.
    pub stream: Stream,
    /// How many brokers there are.
    pub nodes: usize,
    /// Topics as last seen.
    pub topics: BTreeMap<String, TopicView>,
    /// Whether it goes on with topics, by their ids, that it is told no more of.
    pub clings: bool,
    /// What it was told of such topics, the last few.
    pub former: VecDeque<(String, TopicView)>,
    /// Whether the workload is over, and only what was begun is to be ended.
    pub stopping: bool,
    /// Whether what it sends and is sent passes through the wire's encoder and decoder.
    pub encoded: bool,
    /// Requests that are not answered: to which broker, in which version.
    pending: BTreeMap<u64, (usize, i16)>,
    next_id: u64,
    metadata_pending: Option<u64>,
    metadata_after: Time,
    metadata_wanted: bool,
    /// The broker whose connection broke last: as real clients do, it asks another one for what any knows.
    avoided: Option<usize>,
    wakes_at: Option<Time>,
    wishes: Vec<Wish>,
}

/// How long a client waits for an answer.
const DEADLINE: Time = 2_500 * MS;
/// Topics that it is told no more of and goes on with at most.
const FORMER_MAX: usize = 3;
/// Metadata is asked for at most this often.
const METADATA_PAUSE: Time = 25 * MS;

impl Session {
    fn new(stream: Stream, nodes: usize) -> Session {
        Session {
            stream,
            nodes,
            topics: BTreeMap::new(),
            clings: false,
            former: VecDeque::new(),
            stopping: false,
            encoded: false,
            pending: BTreeMap::new(),
            next_id: 0,
            metadata_pending: None,
            metadata_after: 0,
            metadata_wanted: true,
            avoided: None,
            wakes_at: None,
            wishes: Vec::new(),
        }
    }

    /// Sends a request and gives its number.
    pub fn send(&mut self, now: Time, node: usize, version: i16, request: Request) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.pending.insert(id, (node, version));
        self.wishes.push(Wish::Send { node, id, version, request });
        self.wishes.push(Wish::Wake { at: now + DEADLINE, why: Wake::Deadline(id) });
        id
    }

    /// Wants to act again at a time, unless it will do so earlier.
    pub fn wake(&mut self, at: Time) {
        if self.wakes_at.is_none_or(|planned| at < planned) {
            self.wakes_at = Some(at);
            self.wishes.push(Wish::Wake { at, why: Wake::Act });
        }
    }

    /// Wants to know who leads.
    pub fn want_metadata(&mut self) {
        self.metadata_wanted = true;
    }

    /// Asks some broker for Metadata if it is wanted and not asked for already.
    fn refresh(&mut self, now: Time) {
        if !self.metadata_wanted || self.metadata_pending.is_some() {
            return;
        }
        if now < self.metadata_after {
            self.wake(self.metadata_after);
            return;
        }
        let node = self.any_broker();
        let request = MetadataRequest {
            topics: None,
            allow_auto_topic_creation: false,
            ..MetadataRequest::default()
        };
        self.metadata_after = now + METADATA_PAUSE;
        let id = self.send(now, node, 12, request.into());
        self.metadata_pending = Some(id);
    }

    /// One to ask for what any broker knows.
    pub fn any_broker(&mut self) -> usize {
        let avoided = self.avoided.filter(|_| self.nodes > 1);
        let others = self.nodes - usize::from(avoided.is_some());
        let drawn = self.stream.below(others as u64) as usize;
        drawn + usize::from(avoided.is_some_and(|avoided| drawn >= avoided))
    }

    fn learn(&mut self, response: MetadataResponse) {
        self.metadata_wanted = false;
        let before = std::mem::take(&mut self.topics);
        for topic in response.topics {
            let Some(name) = topic.name.filter(|_| topic.error_code.is_none()) else { continue };
            let mut partitions = vec![Leader { node: None, epoch: -1 }; topic.partitions.len()];
            for partition in topic.partitions {
                let Some(slot) = partitions.get_mut(partition.partition_index as usize) else {
                    continue;
                };
                let node =
                    usize::try_from(partition.leader_id - 1).ok().filter(|n| *n < self.nodes);
                *slot = Leader { node, epoch: partition.leader_epoch };
                if node.is_none() {
                    self.metadata_wanted = true;
                }
            }
            self.topics.insert(name, TopicView { id: topic.topic_id, partitions });
        }
        if self.clings {
            let topics = &self.topics;
            self.former.retain(|(name, view)| topics.get(name).is_none_or(|now| now.id != view.id));
            let gone = |(name, view): &(String, TopicView)| {
                topics.get(name).is_none_or(|now| now.id != view.id)
            };
            self.former.extend(before.into_iter().filter(gone));
            let many = self.former.len().saturating_sub(FORMER_MAX);
            self.former.drain(..many);
        }
    }

    /// The topic of this id, as it was seen last.
    pub fn view(&self, topic: &str, id: Uuid) -> Option<&TopicView> {
        let former = || self.former.iter().map(|(_, view)| view).find(|view| view.id == id);
        self.topics.get(topic).filter(|view| view.id == id).or_else(former)
    }

    /// The leader of a partition of the topic of this id, as it was seen last.
    pub fn leader_by_id(&self, topic: &str, id: Uuid, partition: i32) -> Option<(usize, i32)> {
        let leader = self.view(topic, id)?.partitions.get(partition as usize)?;
        Some((leader.node?, leader.epoch))
    }

    /// The leader of a partition, as last seen.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<(usize, i32)> {
        let leader = self.topics.get(topic)?.partitions.get(partition as usize)?;
        Some((leader.node?, leader.epoch))
    }

    /// The version of a request that waits for its answer.
    pub fn version(&self, id: u64) -> Option<i16> {
        self.pending.get(&id).map(|(_, version)| *version)
    }

    /// A short pause before something is tried again.
    pub fn backoff(&mut self) -> Time {
        self.stream.between(10, 60) * MS
    }
}

/// When a client does the next thing of its own: after a pause that is drawn each time.
#[derive(Debug)]
struct Pace {
    pause_us: u64,
    next: Time,
}

impl Pace {
    fn new(pause_us: u64) -> Pace {
        Pace { pause_us, next: 0 }
    }

    /// Whether it is time for it. If it is, the time after it is drawn.
    fn is_due(&mut self, now: Time, session: &mut Session) -> bool {
        let due = now >= self.next;
        if due {
            self.next = now + session.stream.delay(self.pause_us * 1_000);
        }
        due
    }

    /// When it is time again, at the earliest after this instant.
    fn next(&self, now: Time) -> Time {
        self.next.max(now + 1)
    }
}

/// What a client does of itself.
#[derive(Debug)]
pub enum Role {
    /// Writes.
    Producer(Producer),
    /// Reads again and again, or once to the end.
    Consumer(Consumer),
    /// Looks things up.
    Seeker(Seeker),
    /// Asks for what is not there.
    Stranger(Stranger),
    /// Creates and deletes topics.
    Admin(Admin),
}

/// A client.
#[derive(Debug)]
pub struct Client {
    /// Connections, by broker.
    pub connections: Vec<Option<ClientId>>,
    /// What all roles share.
    pub session: Session,
    /// What it does.
    pub role: Role,
}

impl Client {
    /// A client that has not begun.
    pub fn new(stream: Stream, nodes: usize, role: Role) -> Client {
        let mut session = Session::new(stream, nodes);
        (session.encoded, session.clings) = match &role {
            Role::Producer(producer) => (producer.setup.dialect.encoded, producer.setup.clings),
            Role::Consumer(consumer) => (consumer.setup.dialect.encoded, consumer.setup.clings),
            Role::Seeker(seeker) => (seeker.setup.dialect.encoded, false),
            Role::Stranger(stranger) => (stranger.setup.encoded, false),
            Role::Admin(_) => (false, false),
        };
        Client { connections: vec![None; nodes], session, role }
    }

    /// The time has come at which it wanted to act; false where it has planned another one since.
    pub fn is_due(&mut self, now: Time) -> bool {
        let due = self.session.wakes_at.is_some_and(|at| at <= now);
        if due {
            self.session.wakes_at = None;
        }
        due
    }

    /// It may act.
    pub fn act(&mut self, now: Time, history: &mut History) {
        match &mut self.role {
            Role::Producer(producer) => producer.act(now, &mut self.session, history),
            Role::Consumer(consumer) => consumer.act(now, &mut self.session, history),
            Role::Seeker(seeker) => seeker.act(now, &mut self.session, history),
            Role::Stranger(stranger) => stranger.act(now, &mut self.session),
            Role::Admin(admin) => admin.act(now, &mut self.session),
        }
        self.session.refresh(now);
    }

    /// The broker that has not answered a request by its deadline, and when it was asked.
    pub fn unanswered(&self, now: Time, id: u64) -> Option<(usize, Time)> {
        let (node, _) = self.session.pending.get(&id)?;
        Some((*node, now - DEADLINE))
    }

    /// A request was not answered in time: as librdkafka does, the connection is given up, and all that was on it with it.
    pub fn on_deadline(&mut self, now: Time, id: u64) {
        if let Some(node) = self.session.pending.get(&id).map(|(node, _)| *node) {
            let given_up = self.connections[node].map(|connection| Wish::Close { connection });
            self.session.wishes.extend(given_up);
            self.on_broken(now, node);
        }
    }

    /// The connection to a broker is gone.
    pub fn on_broken(&mut self, now: Time, node: usize) {
        self.connections[node] = None;
        let lost: Vec<u64> = self
            .session
            .pending
            .iter()
            .filter(|(_, (n, _))| *n == node)
            .map(|(id, _)| *id)
            .collect();
        for id in lost {
            self.session.pending.remove(&id);
            if self.session.metadata_pending == Some(id) {
                self.session.metadata_pending = None;
                continue;
            }
            match &mut self.role {
                Role::Producer(producer) => producer.on_lost(now, id, &mut self.session),
                Role::Consumer(consumer) => consumer.on_lost(id),
                Role::Seeker(seeker) => seeker.on_lost(id),
                Role::Stranger(stranger) => stranger.on_lost(id),
                Role::Admin(admin) => admin.on_lost(id),
            }
        }
        if let Role::Consumer(consumer) = &mut self.role {
            consumer.forget_session(node);
        }
        self.session.avoided = Some(node);
        self.session.want_metadata();
        let pause = self.session.backoff();
        self.session.wake(now + pause);
    }

    /// An answer has come.
    pub fn on_reply(
        &mut self,
        now: Time,
        id: u64,
        response: Option<Response>,
        history: &mut History,
    ) -> Result<(), Violation> {
        if self.session.pending.remove(&id).is_none() {
            return Ok(());
        }
        if self.session.metadata_pending == Some(id) {
            self.session.metadata_pending = None;
            if let Some(Response::Metadata(response)) = response {
                self.session.learn(response);
            }
            if self.session.metadata_wanted {
                self.session.wake(now + METADATA_PAUSE);
            }
        } else {
            match &mut self.role {
                Role::Producer(producer) => {
                    producer.on_reply(now, id, response, &mut self.session, history)?
                }
                Role::Consumer(consumer) => {
                    consumer.on_reply(id, response, &mut self.session, history)?
                }
                Role::Seeker(seeker) => {
                    seeker.on_reply(now, id, response, &mut self.session, history)?
                }
                Role::Stranger(stranger) => stranger.on_reply(id, response)?,
                Role::Admin(admin) => admin.on_reply(now, id, response, &mut self.session)?,
            }
        }
        // What it was told may be what it has waited for.
        self.act(now, history);
        Ok(())
    }

    /// What it wants done, in order.
    pub fn take_wishes(&mut self) -> Vec<Wish> {
        std::mem::take(&mut self.session.wishes)
    }

    /// Whether nothing that it began is open.
    pub fn is_done(&self) -> bool {
        match &self.role {
            Role::Producer(producer) => producer.is_done(),
            Role::Consumer(consumer) => consumer.is_done(),
            Role::Seeker(_) | Role::Stranger(_) => true,
            Role::Admin(admin) => admin.is_done(),
        }
    }
}
