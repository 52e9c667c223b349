//! The active controller: what the quorum's leader remembers beside the log, and how it turns requests into entries.
//!
//! All requests that wait are decided together, one after the other on a draft of the image, and become one entry. While
//! that entry is not committed nothing else is decided, so that every decision rests on committed metadata and on the
//! entry that it is part of. Answers wait for the commit. With the leadership all this is lost; whoever asked asks again.

use std::collections::{BTreeMap, VecDeque};

use milena_wire::ErrorCode;

use super::{Image, Record};
use crate::controller::message::{AdminRequest, ControllerMessage, Damage, Registration};
use crate::controller::{self, Preferred, Refusal};
use crate::local::AlterPartition;
use crate::trace::Mark;
use crate::{BrokerEpoch, Config, Epoch, Instant, LogId, NodeId, Offset};

/// Requests that wait at most; past it they are dropped, and asked again.
const QUEUE_MAX: usize = 20_000;
/// An entry takes no further request once it has this many records.
const ENTRY_RECORDS_MAX: usize = 2_000;
/// Answers to one broker's clients that are remembered, in case they are lost.
const ANSWERS_MAX: usize = 2_000;
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
    registered: Vec<(NodeId, u64)>,
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
    registered: BTreeMap<NodeId, (u64, BrokerEpoch)>,
    clients: BTreeMap<NodeId, Clients>,
    /// Registrations whose brokers want to stop.
    stopping: Stopping,
    preferred: Preferred,
    /// When to look for silent brokers and leaderships to give back.
    look_at: Instant,
    /// Where the next topic's placement starts.
    placement: usize,
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
            clients: BTreeMap::new(),
            stopping: Stopping::default(),
            preferred: Preferred::default(),
            look_at: now,
            placement,
        }
    }

    /// The term.
    pub fn term(&self) -> Epoch {
        self.term
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
                if let Some((life, epoch)) = self.registered.get(&from)
                    && (*life, Some(*epoch)) == (request.life, known)
                {
                    let (life, epoch) = (*life, *epoch);
                    return Some((from, ControllerMessage::Registered { life, epoch }));
                }
                Ask::Register(from, request)
            }
            ControllerMessage::Heartbeat { epoch } => {
                let broker = image.brokers.get(&from).filter(|broker| broker.epoch == epoch)?;
                self.sessions.insert(from, now);
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
                self.sessions.insert(from, now);
                self.stopping.0.insert(from, epoch);
                Ask::Stop(from, epoch)
            }
            ControllerMessage::AlterPartition(request) => Ask::AlterPartition(from, request),
            ControllerMessage::Damaged(report) => Ask::Damaged(from, report),
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
            | ControllerMessage::DescribeQuorum { .. }
            | ControllerMessage::QuorumDescribed { .. } => return None,
        };
        if self.queue.len() < QUEUE_MAX {
            self.queue.push_back(ask);
        }
        None
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
                if let Some(records) = controller::register(draft, node, &request) {
                    take(draft, records);
                    decided.registered.push((node, request.life));
                    let (life, epoch) = (request.life, BrokerEpoch(offset));
                    let answer = ControllerMessage::Registered { life, epoch };
                    decided.answers.push((node, answer));
                }
            }
            Ask::Confirm(node, epoch) => take(draft, controller::confirm(draft, node, epoch)),
            Ask::Fence(node) => {
                let heard = self.sessions.get(&node);
                let session_ms = config.quorum.broker_session_ms;
                if heard.is_some_and(|heard| now.ms_since(*heard) >= session_ms) {
                    take(draft, controller::fence(draft, node));
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
            Ask::Administer { from, epoch, id, request } => {
                let mut topics = Vec::new();
                match request {
                    AdminRequest::CreateTopics { topics: asked, validate_only } => {
                        // Checked against one another even where they are only to be validated.
                        let mut scratch = validate_only.then(|| draft.clone());
                        let mut left = config.replication.partitions_max as usize;
                        let mut named: BTreeMap<&str, usize> = BTreeMap::new();
                        for topic in &asked {
                            *named.entry(&topic.name).or_default() += 1;
                        }
                        for topic in &asked {
                            if named[&*topic.name] > 1 {
                                let message = "the request names this topic twice";
                                let code = ErrorCode::INVALID_REQUEST;
                                topics.push(Err(Refusal::new(code, message)));
                                continue;
                            }
                            if topic.partitions.unwrap_or(1).max(1) as usize > left {
                                // Not even planned: a request names as many topics as fit in it.
                                topics.push(Err(beyond(config)));
                                continue;
                            }
                            let base = scratch.as_mut().unwrap_or(draft);
                            let made =
                                controller::create_topic(base, config, topic, self.placement);
                            if let Ok((_, summary)) = &made {
                                left = left.saturating_sub(summary.partitions.max(1) as usize);
                            }
                            topics.push(made.map(|(records, summary)| {
                                self.placement = self.placement.wrapping_add(1);
                                match &mut scratch {
                                    Some(scratch) => scratch.draft(offset, &records),
                                    None => take(draft, records),
                                }
                                summary
                            }));
                        }
                    }
                    AdminRequest::DeleteTopics { topics: asked } => {
                        // All are read before any goes: a name and an identity may mean the same topic.
                        let ambiguous = controller::named_twice(draft, &asked);
                        for (topic, ambiguous) in asked.iter().zip(ambiguous) {
                            let deleted = match ambiguous {
                                Some(refusal) => Err(refusal),
                                None => controller::delete_topic(draft, topic),
                            };
                            topics.push(deleted.map(|(record, summary)| {
                                take(draft, vec![record]);
                                summary
                            }));
                        }
                    }
                }
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
        for (node, life) in std::mem::take(&mut decided.registered) {
            self.registered.insert(node, (life, BrokerEpoch(end - 1)));
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

/// For what goes past the partitions that one request may make.
fn beyond(config: &Config) -> Refusal {
    let most = config.replication.partitions_max;
    let message = format!("a request makes at most {most} partitions");
    Refusal::new(ErrorCode::INVALID_PARTITIONS, message)
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
