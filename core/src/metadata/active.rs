//! The active controller: what the quorum's leader remembers beside the log, and how it turns requests into entries.
//!
//! All requests that wait are decided together, one after the other on a draft of the image, and become one entry. While
//! that entry is not committed nothing else is decided, so that every decision rests on committed metadata and on the
//! entry that it is part of. Answers wait for the commit. With the leadership all this is lost; whoever asked asks again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::controller::message::{AdminRequest, ControllerMessage, Damage, Registration};
use crate::controller::{self, Preferred};
use crate::image::{Image, Record};
use crate::local::AlterPartition;
use crate::trace::Mark;
use crate::{
    BrokerEpoch, Config, EARLY_MS, Epoch, Instant, LogId, NodeId, Offset, ProducerId, Refusal,
};

/// Requests that wait at most; past it they are dropped, and asked again.
const QUEUE_MAX: usize = 20_000;
/// An entry takes no further request once it has this many records.
const ENTRY_RECORDS_MAX: usize = 2_000;
/// Answers to one broker's clients that are remembered, in case they are lost.
const ANSWERS_MAX: usize = 2_000;
/// Who is heard for so many sessions since another disk of its id was first refused is not an earlier life of that one, which
/// ended before: nothing of it is on its way for that long.
const SESSIONS_HEARD: u64 = 5;
/// Leaderships given back at each look.
const GIVEN_BACK_MAX: usize = 100;

/// Something to decide.
#[derive(Debug)]
enum Ask {
    Register(NodeId, Registration),
    Confirm(NodeId, BrokerEpoch),
    Fence(NodeId),
    Stop(NodeId, BrokerEpoch),
    AlterPartition(NodeId, AlterPartition),
    Damaged(NodeId, Damage),
    GiveBack(LogId),
    AllocateProducerIds(NodeId, BrokerEpoch, Option<ProducerId>),
    Administer { from: NodeId, epoch: BrokerEpoch, id: u64, request: AdminRequest },
}

/// An answer, and to whom.
pub(super) type Answer = (NodeId, ControllerMessage);

/// What was decided together.
#[derive(Debug, Default)]
pub(super) struct Decided {
    /// The entry to propose; empty where nothing changes.
    pub records: Vec<Record>,
    /// To be sent, once the entry is committed if there is one.
    pub answers: Vec<Answer>,
    /// What happened that is rare.
    pub sometimes: Vec<Mark>,
    registered: Vec<(NodeId, Registered)>,
    fenced: Vec<NodeId>,
}

/// A registration of this term.
#[derive(Clone, Copy, Debug)]
struct Registered {
    life: u64,
    epoch: BrokerEpoch,
    at: Instant,
}

/// A life that was refused because another disk of its id is in service.
#[derive(Clone, Copy, Debug)]
struct Refused {
    life: u64,
    /// How often the other one was heard since.
    heard: u64,
}

/// An entry that is not committed yet.
#[derive(Debug)]
struct InFlight {
    offset: Offset,
    /// Without its records.
    decided: Decided,
}

/// Clients' requests that came through one registration of a broker.
#[derive(Debug)]
struct Clients {
    epoch: BrokerEpoch,
    /// By number; none while it is being decided. Older ones than these were answered long ago.
    answers: BTreeMap<u64, Option<ControllerMessage>>,
    /// Requests below this number are no longer remembered, and not done again.
    floor: u64,
}

/// Registrations whose brokers want to stop. Not in the metadata: a broker says so until it has its answer, to whichever
/// controller there is.
#[derive(Debug, Default)]
struct Stopping(BTreeMap<NodeId, BrokerEpoch>);

impl Stopping {
    fn contains(&self, image: &Image, node: NodeId) -> bool {
        let known = image.brokers.get(&node).map(|broker| broker.epoch);
        known.is_some_and(|epoch| self.0.get(&node) == Some(&epoch))
    }

    fn all(&self, image: &Image) -> BTreeSet<NodeId> {
        self.0.keys().copied().filter(|node| self.contains(image, *node)).collect()
    }
}

/// The active controller of one term.
#[derive(Debug)]
pub(super) struct Active {
    term: Epoch,
    queue: VecDeque<Ask>,
    in_flight: Option<InFlight>,
    /// When each broker was last heard.
    sessions: BTreeMap<NodeId, Instant>,
    /// Which life of a broker its registration was for.
    registered: BTreeMap<NodeId, Registered>,
    refused: BTreeMap<NodeId, Refused>,
    clients: BTreeMap<NodeId, Clients>,
    /// Registrations whose brokers want to stop.
    stopping: Stopping,
    preferred: Preferred,
    /// When to look for silent brokers and leaderships to give back.
    look_at: Instant,
    /// Where the next topic's placement starts.
    placement: usize,
    /// Topics are not placed on too few brokers before this: those of a cluster that starts come one after the other.
    early_until: Instant,
    /// Requests that wait for more brokers, to be looked at again with the next look.
    early: Vec<Ask>,
}

impl Active {
    /// Begins a term. Every broker has a whole session to be heard in.
    pub fn new(term: Epoch, now: Instant, image: &Image, placement: usize) -> Active {
        Active {
            term,
            queue: VecDeque::new(),
            in_flight: None,
            sessions: image.brokers.keys().map(|node| (*node, now)).collect(),
            registered: BTreeMap::new(),
            refused: BTreeMap::new(),
            clients: BTreeMap::new(),
            stopping: Stopping::default(),
            preferred: Preferred::default(),
            look_at: now,
            placement,
            early_until: now.after_ms(EARLY_MS),
            early: Vec::new(),
        }
    }

    /// The term.
    pub fn term(&self) -> Epoch {
        self.term
    }

    /// Whether a broker in service has said that it wants to stop.
    pub fn is_stopping(&self, image: &Image, node: NodeId) -> bool {
        self.stopping.contains(image, node)
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// When to call [`Active::look`].
    pub fn look_at(&self) -> Instant {
        self.look_at
    }

    /// Takes a message from a broker. An answer that is known already is given back at once.
    pub fn on_message(
        &mut self,
        now: Instant,
        image: &Image,
        from: NodeId,
        message: ControllerMessage,
    ) -> Option<Answer> {
        let ask = match message {
            ControllerMessage::Register(request) => {
                let known = image.brokers.get(&from).map(|broker| broker.epoch);
                if let Some(Registered { life, epoch, .. }) = self.registered.get(&from).copied()
                    && (life, Some(epoch)) == (request.life, known)
                {
                    return Some((from, ControllerMessage::Registered { life, epoch }));
                }
                Ask::Register(from, request)
            }
            ControllerMessage::Heartbeat { epoch } => {
                let broker = image.brokers.get(&from).filter(|broker| broker.epoch == epoch)?;
                self.heard(now, from);
                if self.stopping.contains(image, from) {
                    // Sent before it wanted to stop, and late.
                    return None;
                }
                if broker.confirmed == Some(epoch) && !broker.fenced {
                    return None;
                }
                Ask::Confirm(from, epoch)
            }
            ControllerMessage::Stopping { epoch } => {
                image.brokers.get(&from).filter(|broker| broker.epoch == epoch)?;
                self.heard(now, from);
                self.stopping.0.insert(from, epoch);
                Ask::Stop(from, epoch)
            }
            ControllerMessage::AlterPartition(request) => Ask::AlterPartition(from, request),
            ControllerMessage::Damaged(report) => Ask::Damaged(from, report),
            ControllerMessage::AllocateProducerIds { epoch, after } => {
                Ask::AllocateProducerIds(from, epoch, after)
            }
            ControllerMessage::Administer { term, epoch, id, request } => {
                let known = image.brokers.get(&from).map(|broker| broker.epoch);
                if term != self.term || known != Some(epoch) || self.queue.len() >= QUEUE_MAX {
                    return None;
                }
                let clients = self.clients(from, epoch);
                if id < clients.floor {
                    return None;
                }
                if let Some(known) = clients.answers.get(&id) {
                    return known.clone().map(|answer| (from, answer));
                }
                clients.answers.insert(id, None);
                Ask::Administer { from, epoch, id, request }
            }
            ControllerMessage::Registered { .. }
            | ControllerMessage::Administered { .. }
            | ControllerMessage::MayStop { .. }
            | ControllerMessage::Refused { .. }
            | ControllerMessage::DescribeQuorum { .. }
            | ControllerMessage::QuorumDescribed { .. } => return None,
        };
        if self.queue.len() < QUEUE_MAX {
            self.queue.push_back(ask);
        }
        None
    }

    /// When a broker shows that it lives, under the registration in force.
    fn heard(&mut self, now: Instant, node: NodeId) {
        self.sessions.insert(node, now);
        if let Some(refused) = self.refused.get_mut(&node) {
            refused.heard += 1;
        }
    }

    /// Whether the registration in force of a broker may be of a process that runs. One that has only just been made is: two
    /// that start at once would take the id from each other for ever.
    fn lives(&self, now: Instant, config: &Config, draft: &Image, node: NodeId) -> bool {
        let Some(broker) = draft.brokers.get(&node) else { return false };
        let session_ms = config.quorum.broker_session_ms;
        let lately = self.registered.get(&node).is_some_and(|registered| {
            registered.epoch == broker.epoch && now.ms_since(registered.at) < session_ms
        });
        !broker.fenced || lately
    }

    /// The answer to a life that is not registered.
    fn refuse(&mut self, config: &Config, node: NodeId, life: u64, refusal: Refusal) -> Answer {
        let new = Refused { life, heard: 0 };
        let refused = self.refused.entry(node).or_insert(new);
        if refused.life != life {
            *refused = new;
        }
        let quorum = &config.quorum;
        let enough = SESSIONS_HEARD * quorum.broker_session_ms / quorum.broker_heartbeat_ms.max(1);
        let for_good = refused.heard >= enough;
        (node, ControllerMessage::Refused { life, refusal, for_good })
    }

    fn clients(&mut self, node: NodeId, epoch: BrokerEpoch) -> &mut Clients {
        let new = || Clients { epoch, answers: BTreeMap::new(), floor: 0 };
        let clients = self.clients.entry(node).or_insert_with(new);
        if clients.epoch != epoch {
            *clients = new();
        }
        while clients.answers.len() >= ANSWERS_MAX {
            let (id, _) = clients.answers.pop_first().expect("there are so many");
            clients.floor = id + 1;
        }
        clients
    }

    /// Looks for brokers that were silent for a session, and for leaderships to give back.
    pub fn look(&mut self, now: Instant, config: &Config, image: &Image) {
        let quorum = &config.quorum;
        // What this node did not hear while it did not run was not silence.
        let late_ms = now.ms_since(self.look_at);
        if late_ms > quorum.broker_heartbeat_ms {
            self.sessions.values_mut().for_each(|heard| *heard = heard.after_ms(late_ms));
        }
        self.look_at = now.after_ms(quorum.broker_heartbeat_ms);
        self.queue.extend(self.early.drain(..));
        if self.queue.len() >= QUEUE_MAX {
            return;
        }
        for (node, _) in image.brokers.iter().filter(|(_, broker)| !broker.fenced) {
            let heard = *self.sessions.entry(*node).or_insert(now);
            if now.ms_since(heard) >= quorum.broker_session_ms {
                self.queue.push_back(Ask::Fence(*node));
            }
        }
        let due = self.preferred.due(now, image, quorum.preferred_leader_ms, GIVEN_BACK_MAX);
        self.queue.extend(due.into_iter().map(Ask::GiveBack));
    }

    /// Decides what waits, on the committed image. Where that gives records, they are to be proposed as one entry, which
    /// will be at `offset`, and the answers come with [`Active::on_applied`]. Nothing while an entry is in flight.
    pub fn decide(
        &mut self,
        now: Instant,
        config: &Config,
        image: &Image,
        offset: Offset,
    ) -> Option<Decided> {
        if self.in_flight.is_some() || self.queue.is_empty() {
            return None;
        }
        let mut draft = image.clone();
        let mut decided = Decided::default();
        while decided.records.len() < ENTRY_RECORDS_MAX
            && let Some(ask) = self.queue.pop_front()
        {
            self.decide_one(now, config, &mut draft, offset, ask, &mut decided);
        }
        if decided.records.is_empty() {
            return Some(self.close(decided, image.end));
        }
        let records = std::mem::take(&mut decided.records);
        self.in_flight = Some(InFlight { offset, decided });
        Some(Decided { records, ..Decided::default() })
    }

    fn decide_one(
        &mut self,
        now: Instant,
        config: &Config,
        draft: &mut Image,
        offset: Offset,
        ask: Ask,
        decided: &mut Decided,
    ) {
        let mut take = |draft: &mut Image, records: Vec<Record>| {
            note_rare_paths(draft, &records, &mut decided.sometimes);
            draft.draft(offset, &records);
            decided.records.extend(records);
        };
        match ask {
            Ask::Register(node, request) => {
                // The end of the one before is committed first.
                let lives = decided.fenced.contains(&node) || self.lives(now, config, draft, node);
                let life = request.life;
                match controller::register(draft, node, &request, lives) {
                    Ok(Some(records)) => {
                        take(draft, records);
                        let epoch = BrokerEpoch(offset);
                        decided.registered.push((node, Registered { life, epoch, at: now }));
                        let answer = ControllerMessage::Registered { life, epoch };
                        decided.answers.push((node, answer));
                    }
                    Ok(None) => {}
                    Err(refusal) => {
                        decided.answers.push(self.refuse(config, node, life, refusal));
                        decided.sometimes.push(Mark::ControllerDuplicateRefused);
                    }
                }
            }
            Ask::Confirm(node, epoch) => take(draft, controller::confirm(draft, node, epoch)),
            Ask::Fence(node) => {
                let heard = self.sessions.get(&node);
                let session_ms = config.quorum.broker_session_ms;
                if heard.is_some_and(|heard| now.ms_since(*heard) >= session_ms) {
                    take(draft, controller::fence(draft, node));
                    decided.fenced.push(node);
                }
            }
            Ask::Stop(node, epoch) => {
                let is_stopping = |other| self.stopping.contains(draft, other);
                let leaving = match is_stopping(node) {
                    true => controller::leave(draft, node, is_stopping),
                    false => return,
                };
                take(draft, leaving.records);
                if !leaving.waits {
                    decided.answers.push((node, ControllerMessage::MayStop { epoch, end: 0 }));
                }
            }
            Ask::AlterPartition(from, request) => {
                let is_stopping = |other| self.stopping.contains(draft, other);
                match controller::alter_partition(draft, from, &request, is_stopping) {
                    Ok(record) => take(draft, vec![record]),
                    Err(_) => decided.sometimes.push(Mark::ControllerProposalRefused),
                }
            }
            Ask::Damaged(from, report) => {
                if let Ok(record) = controller::damaged(draft, from, &report) {
                    take(draft, vec![record]);
                    decided.sometimes.push(Mark::ControllerDamagedReplica);
                }
            }
            Ask::GiveBack(log) => {
                let first = draft.partition(log).and_then(|(_, p)| p.replicas.first().copied());
                if first.is_some_and(|first| self.stopping.contains(draft, first)) {
                    return;
                }
                if let Some(record) = controller::give_back(draft, log) {
                    take(draft, vec![record]);
                    decided.sometimes.push(Mark::ControllerGivenBack);
                }
            }
            Ask::AllocateProducerIds(node, epoch, after) => {
                let record = controller::allocate_producer_ids(draft, node, epoch, after);
                take(draft, Vec::from_iter(record));
            }
            Ask::Administer { from, epoch, id, request }
                if now < self.early_until && request.is_early(draft, config) =>
            {
                self.early.push(Ask::Administer { from, epoch, id, request });
            }
            Ask::Administer { from, epoch, id, request } => {
                let stopping = self.stopping.all(draft);
                let is_stopping = |node| stopping.contains(&node);
                let placement = &mut self.placement;
                let (records, topics) =
                    controller::administer(&request, draft, config, offset, placement, is_stopping);
                decided.records.extend(records);
                let end = offset + 1;
                let answer = ControllerMessage::Administered { epoch, id, end, topics };
                decided.answers.push((from, answer));
            }
        }
    }

    /// When an entry is committed and applied: the answers that waited for it.
    pub fn on_applied(&mut self, offset: Offset) -> Option<Decided> {
        let in_flight = self.in_flight.take_if(|in_flight| in_flight.offset == offset)?;
        Some(self.close(in_flight.decided, offset + 1))
    }

    /// Remembers what was answered, in case the answer is lost. Everything answered is in the metadata below `end`.
    fn close(&mut self, mut decided: Decided, end: Offset) -> Decided {
        for (node, registered) in std::mem::take(&mut decided.registered) {
            self.registered.insert(node, registered);
            self.refused.remove(&node);
        }
        for (to, answer) in &mut decided.answers {
            if let ControllerMessage::MayStop { end: shown, .. } = answer {
                *shown = end;
            }
            if let ControllerMessage::Administered { epoch, id, end: shown, .. } = answer {
                *shown = end;
                let clients = self.clients.get_mut(to).filter(|clients| clients.epoch == *epoch);
                if let Some(slot) = clients.and_then(|clients| clients.answers.get_mut(id)) {
                    *slot = Some(answer.clone());
                }
            }
        }
        decided
    }
}

/// Names what the simulator should have seen now and then.
fn note_rare_paths(image: &Image, records: &[Record], sometimes: &mut Vec<Mark>) {
    for record in records {
        let Record::Partition { log, partition: new } = record else { continue };
        let Some((_, old)) = image.partition(*log) else { continue };
        if new.leader.is_some_and(|leader| old.elr.contains(&leader)) {
            sometimes.push(Mark::ControllerElrElection);
        }
        if old.leader.is_some() && new.leader.is_none() {
            sometimes.push(Mark::ControllerOfflinePartition);
        }
        if new.isr.is_empty() && new.elr.is_empty() {
            sometimes.push(Mark::ControllerNoMemberLeft);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Incarnation;
    use crate::TopicId;
    use crate::config::QuorumConfig;
    use crate::controller::message::NewTopic;

    const NODE: NodeId = NodeId(2);

    fn config() -> Config {
        let quorum = QuorumConfig {
            broker_session_ms: 1_000,
            broker_heartbeat_ms: 250,
            ..Default::default()
        };
        Config { quorum, ..crate::controller::tests::config() }
    }

    /// A controller whose entries are committed at once.
    struct Controller {
        active: Active,
        config: Config,
        image: Image,
    }

    impl Controller {
        fn new() -> Controller {
            let image = Image::default();
            Controller { active: Active::new(1, Instant(0), &image, 0), config: config(), image }
        }

        fn tell(&mut self, ms: u64, message: ControllerMessage) -> Vec<ControllerMessage> {
            let now = Instant(0).after_ms(ms);
            let known = self.active.on_message(now, &self.image, NODE, message);
            let offset = self.image.end;
            let decided = self.active.decide(now, &self.config, &self.image, offset);
            let decided = match decided {
                Some(decided) if !decided.records.is_empty() => {
                    self.image.apply(offset, 1, &decided.records);
                    self.active.on_applied(offset)
                }
                decided => decided,
            };
            let answers = decided.into_iter().flat_map(|decided| decided.answers);
            known.into_iter().chain(answers).map(|(_, answer)| answer).collect()
        }

        /// Registers a life on a disk of its own.
        fn register(&mut self, ms: u64, life: u64) -> Vec<ControllerMessage> {
            let request = Registration {
                cluster: self.image.cluster,
                life,
                replaces: self.image.brokers.get(&NODE).map(|broker| broker.epoch),
                incarnation: Incarnation(life.into()),
                synced: None,
                kafka: (String::new(), 1),
                peer: format!("host-{life}:1"),
                rack: None,
            };
            self.tell(ms, ControllerMessage::Register(request))
        }
    }

    fn is_registered(answers: &[ControllerMessage]) -> bool {
        matches!(answers, [ControllerMessage::Registered { .. }])
    }

    fn refused_for_good(answers: &[ControllerMessage]) -> bool {
        let [ControllerMessage::Refused { life: 8, refusal, for_good }] = answers else {
            panic!("{answers:?}");
        };
        assert!(["host-7:1", "host-8:1"].iter().all(|host| refusal.message.contains(host)));
        *for_good
    }

    #[test]
    fn who_is_heard_for_sessions_after_another_disk_came_is_no_earlier_life_of_it() {
        let mut controller = Controller::new();
        assert!(is_registered(&controller.register(0, 7)));
        let epoch = controller.image.brokers[&NODE].epoch;
        assert!(!refused_for_good(&controller.register(10, 8)), "one that has just begun lives");
        for beat in 1..20 {
            controller.tell(beat * 250, ControllerMessage::Heartbeat { epoch });
            assert!(!refused_for_good(&controller.register(beat * 250, 8)), "{beat}");
        }
        controller.tell(5_000, ControllerMessage::Heartbeat { epoch });
        assert!(refused_for_good(&controller.register(5_000, 8)));
    }

    #[test]
    fn a_replaced_disk_waits_for_the_session_of_the_one_before() {
        let mut controller = Controller::new();
        assert!(is_registered(&controller.register(0, 7)));
        let epoch = controller.image.brokers[&NODE].epoch;
        controller.tell(250, ControllerMessage::Heartbeat { epoch });
        assert!(!refused_for_good(&controller.register(1_240, 8)));
        for ms in (0..=1_250).step_by(250) {
            controller.active.look(Instant(0).after_ms(ms), &controller.config, &controller.image);
        }
        let answers = controller.register(1_250, 8);
        assert!(!refused_for_good(&answers), "its end is committed first");
        assert!(is_registered(&controller.register(1_251, 8)));
    }

    fn register(image: &Image, node: i32) -> ControllerMessage {
        ControllerMessage::Register(Registration {
            cluster: image.cluster,
            life: 1,
            replaces: None,
            incarnation: Incarnation(node as u128),
            synced: None,
            kafka: ("localhost".into(), 9092),
            peer: "localhost:1".into(),
            rack: None,
        })
    }

    /// Decides and commits all that waits.
    fn commit(active: &mut Active, config: &Config, image: &mut Image) {
        while let Some(decided) = active.decide(Instant(0), config, image, image.end) {
            let offset = image.end;
            image.apply(offset, active.term(), &decided.records);
            active.on_applied(offset);
        }
    }

    /// Who is stopping is known to one controller only, and told to the next.
    #[test]
    fn a_new_topic_is_not_placed_on_who_is_stopping() {
        let config = config();
        let mut image = Image::default();
        let mut active = Active::new(1, Instant(0), &image, 0);
        let tell = |active: &mut Active, image: &Image, node: i32, message| {
            active.on_message(Instant(0), image, NodeId(node), message);
        };
        for node in 1..=3 {
            let registration = register(&image, node);
            tell(&mut active, &image, node, registration);
            commit(&mut active, &config, &mut image);
            let epoch = image.brokers[&NodeId(node)].epoch;
            tell(&mut active, &image, node, ControllerMessage::Heartbeat { epoch });
            commit(&mut active, &config, &mut image);
        }
        let create = |active: &mut Active, image: &mut Image, name: &str, number| {
            let topic = NewTopic {
                id: TopicId([number; 16]),
                name: name.into(),
                partitions: Some(6),
                replication_factor: Some(1),
                assignments: Vec::new(),
                configs: Vec::new(),
            };
            let request = AdminRequest::CreateTopics { topics: vec![topic], validate_only: false };
            let (term, epoch) = (active.term(), image.brokers[&NodeId(1)].epoch);
            let id = u64::from(number);
            tell(active, image, 1, ControllerMessage::Administer { term, epoch, id, request });
            commit(active, &config, image);
            let made = image.topic(name).expect("it was made");
            made.partitions.values().any(|partition| partition.replicas.contains(&NodeId(2)))
        };
        assert!(create(&mut active, &mut image, "before", 1));
        // It stays in the set of that topic: nobody else has its partitions.
        let stopping = ControllerMessage::Stopping { epoch: image.brokers[&NodeId(2)].epoch };
        for term in [1, 2] {
            if term == 2 {
                active = Active::new(term, Instant(0), &image, 0);
            }
            tell(&mut active, &image, 2, stopping.clone());
            commit(&mut active, &config, &mut image);
            assert!(image.unfenced(NodeId(2)));
            assert!(!create(&mut active, &mut image, &format!("in-{term}"), 1 + term as u8));
        }
    }
}
