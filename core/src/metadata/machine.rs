//! The machine that keeps the cluster's metadata: the quorum's log, the image that it makes, the controller where this
//! node leads, and this node's own registration as a broker.
//!
//! ```text
//!   shards ── AlterPartition, Damaged, Administer ──▶ ┌──────────┐ ── to the active controller (maybe this very node)
//!     ▲                                               │ Metadata │
//!     └────────── Image, Serving, Administered ────── └──────────┘ ◀── committed entries, from the quorum below
//! ```
//!
//! Nothing is decided here: decisions about partitions are pure functions in [`crate::controller`], and what is committed is
//! the quorum's. This only carries: entries to the image, the image to the shards, requests to the controller.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use milena_wire::Request;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::active::Active;
use super::admin::{Admin, Asker};
use super::broker::{Lifecycle, Turn};
use super::departure::{Departure, Ended};
use super::describe::{Described, Describing};
use super::news;
use super::producer_ids::{Initialized, ProducerIds};
use super::waiting::Waiting;
use crate::api::admin::{admin_request, admin_response};
use crate::api::{describe_quorum, refuse_init_producer_id};
use crate::controller::message::{ControllerMessage, Damage};
use crate::image::{DecodeError, Image, decode_records, encode_records};
use crate::local::LocalMessage;
use crate::peer::PeerMessage;
use crate::quorum::message::Voter;
use crate::quorum::{self, Committed, Quorum};
use crate::storage::{Store, StoreEvent, Superblock};
use crate::trace::{Event, Mark};
use crate::{
    BrokerEpoch, Config, EARLY_MS, Epoch, Halt, Input, Instant, LogId, LogLevel, Machine, NodeId,
    Now, Offset, Outputs, Place, Timer, TopicId, View,
};

/// A broker that is to stop gives the quorum so many election timeouts to find another leader: one election, lost once.
const ELECTIONS: u64 = 4;

/// Quorum, controller and the broker's registration.
pub struct Metadata {
    config: Arc<Config>,
    store: Store,
    quorum: Quorum,
    quorum_damaged: bool,
    image: Arc<Image>,
    /// The controller, where this node leads and has applied all that earlier leaders committed.
    active: Option<Active>,
    /// This node as a broker; none where it is a controller only.
    broker: Option<Lifecycle>,
    /// What of the quorum and the image the broker last spoke in view of.
    seen: Option<Seen>,
    admin: Admin,
    describing: Describing,
    producer_ids: ProducerIds,
    waiting: Waiting,
    /// Until then clients' requests wait for this broker to serve, so that it counts where they are decided.
    early_until: Instant,
    /// Messages from this node's broker to its own controller and back.
    loopback: VecDeque<ControllerMessage>,
    /// When it last knew who leads the quorum.
    led_at: Option<Instant>,
    /// Its wish to stop, if it has that.
    departure: Option<Departure>,
    /// Whether it is giving the quorum's leadership away.
    hands_over: bool,
    rng: ChaCha8Rng,
    /// When it must not go on.
    halted: bool,
}

/// What makes a broker speak to the controller before its time.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    leader: Option<NodeId>,
    term: Epoch,
    image_epoch: Epoch,
    registration: Option<(BrokerEpoch, bool)>,
}

/// What the machine shows of itself.
#[derive(Debug)]
pub struct MetadataView<'a> {
    /// What is applied.
    pub image: &'a Arc<Image>,
    /// The quorum below.
    pub quorum: &'a Quorum,
    /// The term in which this node is the active controller, if it is.
    pub active: Option<Epoch>,
    /// Requests that the active controller has not decided yet.
    pub queue: usize,
    /// Clients' requests on their way to the controller.
    pub administering: usize,
    /// The registration under which this broker serves.
    pub serving: Option<BrokerEpoch>,
    /// Whether this node is to stop in good order.
    pub stopping: bool,
    /// The storage engine.
    pub store: &'a Store,
}

impl Metadata {
    /// Begins with what recovery found.
    pub fn new(
        config: Arc<Config>,
        superblock: &Superblock,
        quorum_damaged: bool,
        store: Store,
        seed: [u8; 32],
    ) -> Metadata {
        let mut rng = ChaCha8Rng::from_seed(seed);
        let mut quorum_seed = [0; 32];
        rng.fill_bytes(&mut quorum_seed);
        let incarnation = superblock.incarnation;
        let broker = config.broker.then(|| Lifecycle::new(incarnation, rng.next_u64()));
        Metadata {
            quorum: Quorum::new(config.clone(), incarnation, quorum_seed),
            config,
            store,
            quorum_damaged,
            image: Arc::default(),
            active: None,
            broker,
            seen: None,
            admin: Admin::default(),
            describing: Describing::default(),
            producer_ids: ProducerIds::default(),
            waiting: Waiting::default(),
            early_until: Instant::default(),
            loopback: VecDeque::new(),
            led_at: None,
            departure: None,
            hands_over: false,
            rng,
            halted: false,
        }
    }

    /// What it knows and is about, as [`Machine::view`].
    pub fn view(&self) -> MetadataView<'_> {
        MetadataView {
            image: &self.image,
            quorum: &self.quorum,
            active: self.active.as_ref().map(Active::term),
            queue: self.active.as_ref().map_or(0, Active::waiting),
            administering: self.admin.len(),
            serving: self.broker.as_ref().and_then(Lifecycle::serving),
            stopping: self.departure.is_some(),
            store: &self.store,
        }
    }

    /// The cluster that this node's disk belongs to, before anything is started: what its peers are to be of as well.
    pub fn cluster_on_disk(&self) -> Option<u128> {
        quorum::cluster(self.store.log(LogId::METADATA)?.state())
    }

    fn start(&mut self, now: Now, out: &mut Outputs) {
        self.early_until = now.mono.after_ms(EARLY_MS);
        if self.quorum_damaged {
            let line = "the metadata journal is damaged: this disk waits for a node that holds the cluster's record and \
                        follows it as an observer, no longer as a voter";
            out.log(LogLevel::Error, line);
        }
        if let Some(broker) = &mut self.broker {
            broker.start(&mut self.store, out);
        }
        self.quorum.start(now, self.quorum_damaged, &mut self.store, out);
    }

    /// Goes on until nothing moves: what the disk has done, what is committed, who leads, what waits to be decided or said.
    fn settle(&mut self, now: Now, out: &mut Outputs) {
        loop {
            self.take_store_events(now, out);
            self.apply_committed(out);
            self.follow_registration(out);
            self.follow_leadership(now, out);
            self.hands_over = self.departure.is_some() && self.hand_over(now, out);
            self.hear_own_messages(now, out);
            self.speak(now, out);
            self.decide(now, out);
            if !self.loopback.is_empty() {
                continue;
            }
            if self.quorum.snapshot_due(self.image.end) && !self.store.is_full() {
                let payload = self.image.encode();
                let (end, epoch) = (self.image.end, self.image.epoch);
                self.quorum.take_snapshot(end, epoch, payload, &mut self.store, out);
            }
            self.store.pump(now, out);
            // What the pump brought about may move all the rest.
            if !self.take_store_events(now, out) {
                break;
            }
        }
        self.leave_in_good_order(now, out);
        self.tell_of_waiting(now, out);
    }

    /// Gives the quorum's leadership away, to who was registered last where there is a choice: where one node is restarted after
    /// the other, that one has its restart behind it, while any other would soon have to hand over again. Who is about to stop
    /// as well is left out.
    fn hand_over(&mut self, now: Now, out: &mut Outputs) -> bool {
        let (image, active) = (&self.image, &self.active);
        let registered = |node| {
            let stops = active.as_ref().is_some_and(|active| active.is_stopping(image, node));
            (!stops).then(|| image.brokers.get(&node).map(|broker| broker.epoch))
        };
        self.quorum.hand_over(now, registered, out)
    }

    /// Says who is heard where there has been no controller for a while.
    fn tell_of_waiting(&mut self, now: Now, out: &mut Outputs) {
        let (node, leader) = (self.config.node, self.quorum.leader());
        if leader.is_some() && self.waiting.line_at().is_none() {
            return;
        }
        let line = self.waiting.line(now.mono, node, &self.controllers(), leader);
        let level = if leader.is_some() { LogLevel::Info } else { LogLevel::Warn };
        line.into_iter().for_each(|line| out.log(level, line));
    }

    /// Who may lead: the voters, or before there are any those of the configuration.
    fn controllers(&self) -> BTreeSet<NodeId> {
        let voters = self.quorum.voters();
        if voters.is_empty() {
            return self.config.controllers.iter().map(|(node, _)| *node).collect();
        }
        voters.keys().copied().collect()
    }

    /// Ends a stop in good order: others have taken over as this node's metadata shows, or there is nobody to ask.
    fn leave_in_good_order(&mut self, now: Now, out: &mut Outputs) {
        if self.quorum.leader().is_some() {
            self.led_at = Some(now.mono);
        }
        let has_controller = self.next_controller_by().is_some_and(|by| now.mono < by);
        let Some(departure) = &mut self.departure else { return };
        let asks = match &self.broker {
            Some(broker) => has_controller && broker.epoch().is_some(),
            None => {
                // Another one leads, or nobody took it.
                if self.quorum.leader().is_some() && !self.hands_over {
                    departure.grant(0);
                }
                has_controller
            }
        };
        match departure.ended(now.mono, asks, self.image.end) {
            Some(Ended::InGoodOrder) => {
                out.log(LogLevel::Info, "others have taken over what this node led");
                out.event(|| Event::Sometimes(Mark::BrokerStoppedInGoodOrder));
                out.stop();
            }
            Some(Ended::Alone) => {
                let line = "stops without a controller: nobody takes over before this broker's session ends";
                out.log(LogLevel::Warn, line);
                out.stop();
            }
            Some(Ended::Late) => {
                let line =
                    "stops although others have not taken over everything that this broker holds";
                out.log(LogLevel::Warn, line);
                out.event(|| Event::Sometimes(Mark::BrokerStoppedLate));
                out.stop();
            }
            None => {}
        }
    }

    /// Until when another controller is waited for after this node last knew of one: elections may take that long.
    fn next_controller_by(&self) -> Option<Instant> {
        Some(self.led_at?.after_ms(ELECTIONS * self.config.quorum.election_timeout_ms))
    }

    fn take_store_events(&mut self, now: Now, out: &mut Outputs) -> bool {
        let mut any = false;
        while let Some(event) = self.store.pop_event() {
            any = true;
            if let StoreEvent::Flushed = event
                && let Some(broker) = &mut self.broker
            {
                broker.on_flushed(self.store.flushed());
            }
            self.quorum.on_store_event(now, &event, &mut self.store, out);
        }
        any
    }

    fn apply_committed(&mut self, out: &mut Outputs) {
        let mut applied = false;
        while !self.halted
            && let Some(committed) = self.quorum.pop_committed()
        {
            let outcome = match committed {
                Committed::Entry { offset, epoch, payload } => {
                    self.apply_entry(offset, epoch, &payload, out)
                }
                Committed::Snapshot { payload, .. } => Image::decode(&payload).map(|image| {
                    let (end, hash) = (image.end, image.hash);
                    out.event(|| Event::SnapshotInstalled { end, hash });
                    self.image = Arc::new(image);
                }),
            };
            if let Err(error) = outcome {
                self.halted = true;
                let line =
                    format!("the cluster's metadata holds {error}; update this node's program");
                out.halt(Halt::Operator(line));
                return;
            }
            applied = true;
        }
        if !applied {
            return;
        }
        if let Some(cluster) = self.quorum.cluster()
            && self.image.cluster != cluster
        {
            Arc::make_mut(&mut self.image).cluster = cluster;
        }
        for shard in 0..self.config.shards {
            out.local(Place::Shard(shard), LocalMessage::Image(self.image.clone()));
        }
    }

    /// Serves, or stops serving, as the metadata shows this broker's registration. The shards have that image already.
    fn follow_registration(&mut self, out: &mut Outputs) {
        let turn = self.broker.as_mut().and_then(|b| b.on_image(&self.config, &self.image));
        match turn {
            Some(Turn::Serve(epoch)) => {
                out.log(LogLevel::Info, format!("serving under broker epoch {}", epoch.0));
                out.event(|| Event::Serving { epoch });
                self.tell_serving(Some(epoch), out);
            }
            Some(Turn::Stop) => {
                out.log(LogLevel::Warn, "another registration of this broker is in force");
                self.tell_serving(None, out);
            }
            None => {}
        }
    }

    fn apply_entry(
        &mut self,
        offset: Offset,
        epoch: Epoch,
        payload: &[u8],
        out: &mut Outputs,
    ) -> Result<(), DecodeError> {
        let records = decode_records(payload)?;
        if let Some(active) = self.active.as_ref().filter(|active| active.term() == epoch) {
            let is_stopping = |node| active.is_stopping(&self.image, node);
            let lines = news::of_entry(&self.image, &records, is_stopping);
            lines.into_iter().for_each(|(level, line)| out.log(level, line));
        }
        let image = Arc::make_mut(&mut self.image);
        image.apply(offset, epoch, &records);
        let hash = image.hash;
        out.event(|| Event::Applied { offset, hash });
        if let Some(active) = self.active.as_mut().filter(|active| active.term() == epoch)
            && let Some(decided) = active.on_applied(offset)
        {
            self.say_decided(decided.answers, decided.sometimes, out);
        }
        Ok(())
    }

    fn tell_serving(&self, epoch: Option<BrokerEpoch>, out: &mut Outputs) {
        for shard in 0..self.config.shards {
            out.local(Place::Shard(shard), LocalMessage::Serving(epoch));
        }
    }

    fn follow_leadership(&mut self, now: Now, out: &mut Outputs) {
        let term = self.quorum.is_ready().then(|| self.quorum.term());
        if self.active.as_ref().map(Active::term) != term {
            let placement = self.rng.next_u32() as usize;
            let begin = |term| Active::new(term, now.mono, &self.image, placement);
            self.active = term.map(begin);
            // Brokers that look for another controller only when they have missed this one for long would hear late of what
            // is decided now.
            let known = self.image.brokers.iter().map(|(node, broker)| {
                let incarnation = broker.incarnation;
                Voter { node: *node, incarnation }
            });
            self.quorum.serve_observers(known, out);
        }
    }

    fn hear_own_messages(&mut self, now: Now, out: &mut Outputs) {
        while let Some(message) = self.loopback.pop_front() {
            self.on_controller_message(now, self.config.node, message, out);
        }
    }

    /// Says what is due, where it is known to whom.
    fn speak(&mut self, now: Now, out: &mut Outputs) {
        let leader = self.quorum.leader();
        // Before metadata has reached the present term, a request could be about what is long past.
        let current = leader.is_some() && self.image.epoch == self.quorum.term();
        let under = self.broker.as_ref().and_then(|broker| {
            let epoch = broker.epoch().filter(|epoch| self.image.end > epoch.0)?;
            let is_early = broker.serving().is_none() && now.mono < self.early_until;
            let current = current && !is_early;
            current.then_some((self.image.epoch, epoch))
        });
        let mut send = Vec::new();
        if let Some(broker) = &mut self.broker {
            let known = self.image.brokers.get(&self.config.node);
            let seen = Seen {
                leader,
                term: self.quorum.term(),
                image_epoch: self.image.epoch,
                registration: known.map(|broker| (broker.epoch, broker.fenced)),
            };
            if self.seen != Some(seen) {
                self.seen = Some(seen);
                broker.speak_soon();
                self.producer_ids.ask_soon();
            }
            if broker.speak_at().is_some_and(|at| at <= now.mono) {
                let message = broker.speak(now.mono, &self.config, &self.image);
                if (current || broker.epoch().is_some()) && !self.hands_over {
                    send.push(message);
                }
            }
        }
        let done = {
            let mut draw = topic_ids(&mut self.rng);
            self.admin.poll(now.mono, &self.image, under, &mut draw, &mut send)
        };
        let (node, epoch) = (self.config.node, self.broker.as_ref().and_then(Lifecycle::epoch));
        send.extend(self.producer_ids.poll(now.mono, &self.image, node, epoch));
        while let Some(initialized) = self.producer_ids.pop_answer(now.mono, &self.image) {
            say_initialized(initialized, out);
        }
        for message in send {
            self.send_to_controller(message, out);
        }
        for done in done {
            let Asker { shard, client, id } = done.asker;
            let response = admin_response(&self.config, &done.request, done.topics);
            out.local(shard, LocalMessage::Administered { client, id, response });
        }
        while let Some(described) =
            self.describing.overdue(now.mono, &self.config, self.quorum.voters())
        {
            say_described(described, out);
        }
    }

    /// Speaks to the controller that it hears. Who has heard none for an election timeout is fenced for its silence, also where it
    /// could be heard: it would not know what has become of the partitions that it leads.
    fn send_to_controller(&mut self, message: ControllerMessage, out: &mut Outputs) {
        if let Some(leader) = self.quorum.leader() {
            self.send(leader, message, out);
        }
    }

    fn send(&mut self, to: NodeId, message: ControllerMessage, out: &mut Outputs) {
        if to == self.config.node {
            self.loopback.push_back(message);
        } else {
            out.send(to, message);
        }
    }

    fn decide(&mut self, now: Now, out: &mut Outputs) {
        let Some(active) = self.active.as_mut().filter(|_| !self.hands_over) else { return };
        if active.look_at() <= now.mono {
            active.look(now.mono, &self.config, &self.image);
        }
        let offset = self.quorum.log_end();
        let Some(decided) = active.decide(now.mono, &self.config, &self.image, offset) else {
            return;
        };
        if decided.records.is_empty() {
            self.say_decided(decided.answers, decided.sometimes, out);
            return;
        }
        let entry = encode_records(&decided.records);
        let proposed = self.quorum.propose(entry, &mut self.store, out);
        assert!(proposed == Some(offset), "a leader appends, and nobody else to its log");
    }

    fn say_decided(
        &mut self,
        answers: Vec<(NodeId, ControllerMessage)>,
        sometimes: Vec<Mark>,
        out: &mut Outputs,
    ) {
        for name in sometimes {
            out.event(|| Event::Sometimes(name));
        }
        for (to, answer) in answers {
            self.send(to, answer, out);
        }
    }

    fn on_peer(&mut self, now: Now, from: NodeId, message: PeerMessage, out: &mut Outputs) {
        if self.quorum.leader().is_none() {
            self.waiting.heard(now.mono, from);
        }
        match message {
            PeerMessage::Founding(message) => {
                self.quorum.on_founding_message(now, from, message, &mut self.store, out);
            }
            PeerMessage::Quorum(message) => {
                self.quorum.on_message(now, from, message, &mut self.store, out);
            }
            PeerMessage::Controller(message) => self.on_controller_message(now, from, message, out),
            // The driver brings these to a shard.
            PeerMessage::Replica(_) => {}
        }
    }

    fn on_controller_message(
        &mut self,
        now: Now,
        from: NodeId,
        message: ControllerMessage,
        out: &mut Outputs,
    ) {
        match message {
            ControllerMessage::Registered { life, epoch } => {
                if let Some(broker) = &mut self.broker {
                    broker.on_registered(life, epoch, &mut self.store);
                }
            }
            ControllerMessage::Administered { epoch, id, end, topics } => {
                self.admin.on_answer(epoch, id, end, topics);
            }
            ControllerMessage::MayStop { epoch, end } => {
                let current = self.broker.as_ref().and_then(Lifecycle::epoch) == Some(epoch);
                if let Some(departure) = self.departure.as_mut().filter(|_| current) {
                    departure.grant(end);
                }
            }
            ControllerMessage::Refused { life, refusal, for_good } => {
                let first = match &mut self.broker {
                    Some(broker) => broker.on_refused(life),
                    None => None,
                };
                match first {
                    Some(_) if for_good => {
                        self.halted = true;
                        out.halt(Halt::Operator(refusal.message));
                    }
                    Some(true) => {
                        let line = format!(
                            "{}, or if it was this one before its disk was replaced, this ends with its session",
                            refusal.message
                        );
                        out.log(LogLevel::Warn, line);
                    }
                    Some(false) | None => {}
                }
            }
            ControllerMessage::DescribeQuorum { id } => {
                if let Some(description) = self.quorum.describe(now) {
                    self.send(from, ControllerMessage::QuorumDescribed { id, description }, out);
                }
            }
            ControllerMessage::QuorumDescribed { id, description } => {
                let voters = self.quorum.voters();
                let described = self.describing.on_answer(&self.config, voters, id, &description);
                described.into_iter().for_each(|described| say_described(described, out));
            }
            message @ (ControllerMessage::Register(_)
            | ControllerMessage::Heartbeat { .. }
            | ControllerMessage::Stopping { .. }
            | ControllerMessage::AlterPartition(_)
            | ControllerMessage::Damaged(_)
            | ControllerMessage::AllocateProducerIds { .. }
            | ControllerMessage::Administer { .. }) => {
                let Some(active) = &mut self.active else { return };
                let answer = active.on_message(now.mono, &self.image, from, message);
                if let Some((to, answer)) = answer {
                    self.send(to, answer, out);
                }
            }
        }
    }

    fn on_local(&mut self, now: Now, from: Place, message: LocalMessage, out: &mut Outputs) {
        match message {
            LocalMessage::Stop => {
                let until = now.mono.after_ms(self.config.quorum.stop_ms_max);
                self.departure.get_or_insert_with(|| Departure::new(until));
                self.quorum.leave();
                self.broker.iter_mut().for_each(Lifecycle::stop);
            }
            LocalMessage::AlterPartition(request) => {
                self.send_to_controller(ControllerMessage::AlterPartition(request), out);
            }
            LocalMessage::Damaged { log, replica } => {
                if let Some(broker) = &self.broker
                    && let Some(broker_epoch) = broker.epoch()
                {
                    let incarnation = broker.incarnation();
                    let damage = Damage { log, broker_epoch, incarnation, replica };
                    self.send_to_controller(ControllerMessage::Damaged(damage), out);
                }
            }
            LocalMessage::Administer {
                client,
                id,
                request: Request::DescribeQuorum(request),
                ..
            } => {
                let asker = Asker { shard: from, client, id };
                match self.describing.begin(now.mono, asker, request) {
                    Ok(id) => {
                        self.send_to_controller(ControllerMessage::DescribeQuorum { id }, out);
                    }
                    Err(request) => {
                        let none =
                            describe_quorum(&self.config, self.quorum.voters(), &request, None);
                        say_described((asker, none), out);
                    }
                }
            }
            LocalMessage::Administer {
                client,
                id,
                request: Request::InitProducerId(request),
                ..
            } => {
                let asker = Asker { shard: from, client, id };
                let refused = refuse_init_producer_id(&request).map(|refused| (asker, refused));
                let answer = refused.or_else(|| self.producer_ids.begin(now.mono, asker));
                answer.into_iter().for_each(|answer| say_initialized(answer, out));
            }
            LocalMessage::Administer { client, id, request, context: _ } => {
                let asker = Asker { shard: from, client, id };
                let mut draw = topic_ids(&mut self.rng);
                let Some((admin, timeout_ms)) = admin_request(&request, &mut draw) else {
                    panic!("a shard answers what is not the controller's to answer");
                };
                let done = self.admin.begin(now.mono, asker, request, admin, timeout_ms);
                if let Some(done) = done {
                    let response = admin_response(&self.config, &done.request, done.topics);
                    out.local(from, LocalMessage::Administered { client, id, response });
                }
            }
            // What Metadata itself says, and what shards say to one another.
            LocalMessage::Image(_)
            | LocalMessage::Serving(_)
            | LocalMessage::Administered { .. }
            | LocalMessage::Scatter { .. }
            | LocalMessage::Gather { .. }
            | LocalMessage::Hasten { .. }
            | LocalMessage::Abandon { .. } => {}
        }
    }
}

fn topic_ids(random: &mut ChaCha8Rng) -> impl FnMut() -> TopicId + use<'_> {
    move || {
        let mut id = [0; 16];
        random.fill_bytes(&mut id);
        TopicId(id)
    }
}

fn say_described((asker, response): Described, out: &mut Outputs) {
    let Asker { shard, client, id } = asker;
    out.local(shard, LocalMessage::Administered { client, id, response: response.into() });
}

fn say_initialized((asker, response): Initialized, out: &mut Outputs) {
    let Asker { shard, client, id } = asker;
    out.local(shard, LocalMessage::Administered { client, id, response: response.into() });
}

impl Machine for Metadata {
    fn step(&mut self, now: Now, input: Input, out: &mut Outputs) {
        if self.halted {
            return;
        }
        match input {
            Input::Start => self.start(now, out),
            Input::Timeout => self.quorum.on_timeout(now, &mut self.store, out),
            Input::Peer { from, message } => self.on_peer(now, from, message, out),
            Input::Local { from, message } => self.on_local(now, from, message, out),
            Input::Disk { op, outcome } => self.store.on_disk(now, op, outcome, out),
            // Clients' connections are the shards'.
            Input::Request { .. } | Input::Hangup { .. } => {}
            Input::Worked { .. } => panic!("the metadata's log is never cleaned"),
        }
        self.settle(now, out);
    }

    fn next_timeout(&self) -> Option<(Instant, Timer)> {
        if self.halted {
            return None;
        }
        let speak_at = self.broker.as_ref().and_then(Lifecycle::speak_at);
        let stop_at = self.departure.as_ref().and_then(Departure::until).map(|late| {
            let alone = self.next_controller_by().filter(|_| self.quorum.leader().is_none());
            alone.map_or(late, |alone| alone.min(late))
        });
        let look_at = self.active.as_ref().filter(|_| !self.hands_over).map(Active::look_at);
        let own = [
            (stop_at, Timer::BrokerHeartbeat),
            (speak_at, Timer::BrokerHeartbeat),
            (look_at, Timer::Controller),
            (self.admin.next_timeout(), Timer::Retry),
            (self.describing.next_timeout(), Timer::Retry),
            (self.producer_ids.next_timeout(), Timer::Retry),
            (self.waiting.line_at(), Timer::Waiting),
        ];
        let own = own.into_iter().filter_map(|(at, timer)| Some((at?, timer)));
        own.chain(self.quorum.next_timeout()).chain(self.store.next_timeout()).min()
    }

    fn view(&self) -> View<'_> {
        View::Metadata(Metadata::view(self))
    }

    fn check_invariants(&self) {
        self.store.check_invariants();
        self.quorum.check_invariants();
        for (log, partition) in self.image.partitions() {
            let known = |node| self.image.brokers.contains_key(node);
            assert!(partition.replicas.iter().all(known), "{log:?} is on registered brokers");
        }
        for (name, id) in &self.image.names {
            assert!(self.image.topics[id].name == *name, "names and topics agree");
        }
    }
}
