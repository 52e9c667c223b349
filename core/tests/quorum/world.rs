//! A few quorums with their stores, disks that take time, and a network that loses, delays and doubles.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use milena_core::disk::Command;
use milena_core::peer::PeerMessage;
use milena_core::quorum::message::{FoundingMessage, QuorumBody, QuorumMessage};
use milena_core::quorum::{Committed, Quorum, RoleName};
use milena_core::storage::{Lsn, Recovery, Store};
use milena_core::trace::Event;
use milena_core::{
    Config, Halt, Incarnation, Input, Instant, LogId, NodeId, Now, Offset, OpId, Output, Outputs,
};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::check::{Before, Ghost};
use crate::disk::Disk;

pub const MS: u64 = 1_000_000;
/// More than this in one world, and nodes answer each other without end.
const EVENTS_MAX: u64 = 500_000;

/// How bad the world is.
#[derive(Clone)]
pub struct Weather {
    /// Least and most time of a message, nanoseconds.
    pub network: (u64, u64),
    /// Of a disk command.
    pub disk: (u64, u64),
    /// Messages lost, per mille.
    pub lost: u64,
    /// Messages doubled, per mille.
    pub doubled: u64,
    /// Crashes right after a node has promised something, per mille.
    pub crash_after_promise: u64,
}

pub const CALM: Weather =
    Weather { network: (MS, MS), disk: (MS, MS), lost: 0, doubled: 0, crash_after_promise: 0 };

enum What {
    Deliver { from: NodeId, to: NodeId, message: PeerMessage },
    Disk { node: NodeId, run: u64, op: OpId, command: Command },
    Wake { node: NodeId, run: u64 },
    Start { node: NodeId },
}

type Promise = (i32, Option<(NodeId, Incarnation)>);

enum Life {
    Down,
    Recovering(Box<Recovery>),
    Running(Box<Running>),
}

pub struct Running {
    pub quorum: Quorum,
    pub store: Store,
    incarnation: Incarnation,
    /// Term and vote, and a journal number that covers them.
    promise: (Promise, Lsn),
    /// The image: a chain over what was applied.
    pub chain: u64,
    pub applied: Offset,
    last_epoch: i32,
}

pub struct Node {
    config: Config,
    pub disk: Disk,
    life: Life,
    run: u64,
    wake_at: u64,
    /// When the last command to each file ends.
    files: BTreeMap<Option<milena_core::disk::FileName>, u64>,
    pub halted: Option<Halt>,
    /// Whether the next start finds the quorum's journal damaged beyond belief; its disk is empty then.
    pub is_lost: bool,
}

pub struct World {
    pub now: u64,
    sequence: u64,
    seed: u64,
    rng: ChaCha8Rng,
    queue: BTreeMap<(u64, u64), What>,
    pub nodes: BTreeMap<NodeId, Node>,
    pub ghost: Ghost,
    pub weather: Weather,
    /// Links that carry nothing, by direction.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    pub transcript: String,
    events: u64,
    /// Whether the transcript has messages too.
    pub verbose: bool,
}

fn chain(hash: u64, payload: &[u8]) -> u64 {
    payload.iter().fold(hash, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

impl World {
    pub fn new(seed: u64, configs: Vec<Config>) -> World {
        let mut world = World {
            now: 0,
            sequence: 0,
            seed,
            rng: ChaCha8Rng::seed_from_u64(seed),
            queue: BTreeMap::new(),
            nodes: BTreeMap::new(),
            ghost: Ghost::new(configs[0].controllers.len()),
            weather: CALM,
            cut: BTreeSet::new(),
            transcript: String::new(),
            events: 0,
            verbose: false,
        };
        for config in configs {
            let node = Node {
                disk: Disk::default(),
                life: Life::Down,
                run: 0,
                wake_at: u64::MAX,
                files: BTreeMap::new(),
                halted: None,
                is_lost: false,
                config,
            };
            world.nodes.insert(node.config.node, node);
        }
        world
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound.max(1)
    }

    fn between(&mut self, (least, most): (u64, u64)) -> u64 {
        if least == most { least } else { least + self.below(most - least + 1) }
    }

    /// Of one run of one node, whatever else is drawn meanwhile: so a story does not change with how the store works.
    fn seed(&self, id: NodeId, what: u64) -> [u8; 32] {
        let mut seed = [0; 32];
        let parts = [self.seed, id.0 as u64, self.nodes[&id].run, what];
        for (bytes, part) in seed.chunks_mut(8).zip(parts) {
            bytes.copy_from_slice(&part.to_le_bytes());
        }
        ChaCha8Rng::from_seed(seed).fill_bytes(&mut seed);
        seed
    }

    fn at(&mut self, time: u64, what: What) {
        self.sequence += 1;
        self.queue.insert((time, self.sequence), what);
    }

    pub fn say(&mut self, line: &str) {
        writeln!(self.transcript, "{}", line.trim()).expect("a string takes all");
    }

    fn clock(&self) -> Now {
        Now { mono: Instant(self.now), wall: 1_700_000_000_000 + (self.now / MS) as i64 }
    }

    pub fn running(&self, id: NodeId) -> Option<&Running> {
        match &self.nodes[&id].life {
            Life::Running(run) => Some(run),
            Life::Down | Life::Recovering(_) => None,
        }
    }

    pub fn is_down(&self, id: NodeId) -> bool {
        matches!(self.nodes[&id].life, Life::Down)
    }

    pub fn leader(&self) -> Option<NodeId> {
        let leaders = self.nodes.keys().filter(|id| {
            self.running(**id).is_some_and(|run| run.quorum.role() == RoleName::Leader)
        });
        leaders.copied().max_by_key(|id| self.running(*id).expect("it leads").quorum.term())
    }

    /// Starts a node from its disk.
    pub fn start(&mut self, id: NodeId) {
        assert!(self.is_down(id));
        let node = self.nodes.get_mut(&id).expect("a node of this world");
        if node.halted.is_some() {
            return;
        }
        node.run += 1;
        node.files.clear();
        let entropy = self.seed(id, 0);
        let node = self.nodes.get_mut(&id).expect("a node of this world");
        node.life = Life::Recovering(Box::new(Recovery::new(&node.config, entropy)));
        self.recover(id, Input::Start);
    }

    /// Stops a node, and loses what its disk had not synced.
    pub fn crash(&mut self, id: NodeId) {
        self.say(&format!("-- {id} crashes"));
        let node = self.nodes.get_mut(&id).expect("a node of this world");
        node.life = Life::Down;
        node.run += 1;
        node.wake_at = u64::MAX;
        node.disk.crash();
    }

    /// Stops a node and replaces its disk by an empty one.
    pub fn destroy(&mut self, id: NodeId) {
        self.crash(id);
        self.say(&format!("-- the disk of {id} is destroyed"));
        self.nodes.get_mut(&id).expect("a node of this world").disk = Disk::default();
        self.ghost.destroyed.insert(id);
    }

    /// Puts a node's disk back to an older image; it must be down.
    pub fn put_back(&mut self, id: NodeId, image: Disk) {
        assert!(self.is_down(id));
        self.nodes.get_mut(&id).expect("a node of this world").disk = image;
    }

    /// Has a node read its snapshots wrong from now on, or well again.
    pub fn damage_snapshots(&mut self, id: NodeId, damages: bool) {
        let node = self.nodes.get_mut(&id).expect("a node of this world");
        node.disk.damages_snapshots = damages;
        node.halted = None;
    }

    /// Gives a node another configuration; it must be down.
    pub fn reconfigure(&mut self, id: NodeId, change: impl FnOnce(&mut Config)) {
        let node = self.nodes.get_mut(&id).expect("a node of this world");
        change(&mut node.config);
        node.halted = None;
    }

    /// Proposes a record at a node; its offset if that leads.
    pub fn propose(&mut self, id: NodeId, payload: &[u8]) -> Option<Offset> {
        let mut offset = None;
        self.call(id, |quorum, store, _, out| {
            offset = quorum.propose(payload.to_vec(), store, out);
        });
        self.drain(id);
        offset
    }

    /// Lets one node hear what another never said, in a term of the other's and a header that is right.
    pub fn forge(&mut self, from: NodeId, to: NodeId, term: i32, body: QuorumBody) {
        let (sender, receiver) = (self.running(from).expect("it runs"), self.running(to));
        let message = QuorumMessage {
            cluster: sender.quorum.cluster().expect("it has one"),
            term,
            incarnation: sender.incarnation,
            start: sender.quorum.view().start,
            to: receiver.map(|receiver| receiver.incarnation),
            body,
        };
        self.say(&format!("-- {to} hears what {from} never said"));
        self.call(to, |quorum, store, now, out| quorum.on_message(now, from, message, store, out));
        self.drain(to);
    }

    /// Runs until a time.
    pub fn run_until(&mut self, time: u64) {
        while let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= time
        {
            self.now = entry.key().0;
            let what = entry.remove();
            self.events += 1;
            if self.events > EVENTS_MAX {
                panic!("a storm of messages\n{}", self.last_lines());
            }
            self.happen(what);
        }
        self.now = time;
    }

    pub fn run_ms(&mut self, millis: u64) {
        self.run_until(self.now + millis * MS);
    }

    /// Runs until something holds, or fails after a while.
    pub fn run_to(&mut self, what: &str, holds: impl Fn(&World) -> bool) {
        for _ in 0..12_000 {
            if holds(self) {
                return;
            }
            self.run_ms(5);
        }
        panic!("never happened within a minute: {what}\n{}", self.last_lines());
    }

    pub fn last_lines(&self) -> String {
        let lines: Vec<&str> = self.transcript.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Deliver { from, to, message } => {
                self.call(to, |quorum, store, now, out| match message {
                    PeerMessage::Quorum(message) => {
                        quorum.on_message(now, from, message, store, out)
                    }
                    PeerMessage::Founding(message) => {
                        quorum.on_founding_message(now, from, message, store, out);
                    }
                    PeerMessage::Controller(_) | PeerMessage::Replica(_) => unreachable!(),
                });
                self.drain(to);
            }
            What::Disk { node: id, run, op, command } => {
                let now = self.clock();
                let node = self.nodes.get_mut(&id).expect("a node of this world");
                if node.run != run {
                    return;
                }
                let outcome = node.disk.execute(&command);
                match &mut node.life {
                    Life::Down => {}
                    Life::Recovering(_) => self.recover(id, Input::Disk { op, outcome }),
                    Life::Running(running) => {
                        let mut out = Outputs::traced();
                        running.store.on_disk(now, op, outcome, &mut out);
                        self.carry_out(id, out);
                        self.drain(id);
                    }
                }
            }
            What::Wake { node, run } => {
                if self.nodes[&node].run == run {
                    self.nodes.get_mut(&node).expect("a node of this world").wake_at = u64::MAX;
                    self.call(node, |quorum, store, now, out| {
                        if quorum.next_timeout().is_some_and(|(at, _)| at <= now.mono) {
                            quorum.on_timeout(now, store, out);
                            let next = quorum.next_timeout();
                            assert!(next.is_none_or(|(at, _)| at > now.mono), "a timer storm");
                        }
                    });
                    self.drain(node);
                }
            }
            What::Start { node } => {
                if self.is_down(node) {
                    self.start(node);
                }
            }
        }
    }

    fn recover(&mut self, id: NodeId, input: Input) {
        let now = self.clock();
        let seed = self.seed(id, 1);
        let node = self.nodes.get_mut(&id).expect("a node of this world");
        let Life::Recovering(recovery) = &mut node.life else { return };
        let mut out = Outputs::traced();
        recovery.step(now, input, &mut out);
        let recovered = recovery.take();
        self.carry_out(id, out);
        let Some(recovered) = recovered else { return };
        assert!(!recovered.quorum_damaged, "crashes alone damage nothing");
        let node = self.nodes.get_mut(&id).expect("a node of this world");
        let incarnation = recovered.superblock.incarnation;
        let quorum = Quorum::new(Arc::new(node.config.clone()), incarnation, seed);
        let store = recovered.metadata;
        let promise = ((0, None), Lsn(0));
        let (chain, applied, last_epoch) = (0, 0, -1);
        let running = Running { quorum, store, incarnation, promise, chain, applied, last_epoch };
        node.life = Life::Running(Box::new(running));
        let is_lost = std::mem::take(&mut self.nodes.get_mut(&id).expect("known").is_lost);
        self.call(id, |quorum, store, now, out| quorum.start(now, is_lost, store, out));
        self.drain(id);
    }

    /// One call of a node's quorum, judged.
    fn call(&mut self, id: NodeId, call: impl FnOnce(&mut Quorum, &mut Store, Now, &mut Outputs)) {
        let now = self.clock();
        let node = self.nodes.get_mut(&id).expect("a node of this world");
        let Life::Running(running) = &mut node.life else { return };
        let Running { quorum, store, incarnation, promise, .. } = running.as_mut();
        let before = Before {
            commit: quorum.commit(),
            promise_is_durable: promise.1 <= store.flushed(),
            was_leader_in: quorum.is_leader().then(|| quorum.term()),
        };
        let mut out = Outputs::traced();
        call(quorum, store, now, &mut out);
        let now_promised = (quorum.term(), quorum.view().vote);
        if now_promised != promise.0 {
            let log = store.log(LogId::METADATA).expect("it was created");
            *promise = (now_promised, log.last_lsn());
        }
        self.ghost.judge(id, *incarnation, &before, quorum, store, &out.events);
        self.carry_out(id, out);
    }

    /// Everything that a machine does around its quorum at the end of a step.
    fn drain(&mut self, id: NodeId) {
        loop {
            let Life::Running(running) = &mut self.nodes.get_mut(&id).expect("known").life else {
                return;
            };
            let Some(event) = running.store.pop_event() else { break };
            self.call(id, |quorum, store, now, out| quorum.on_store_event(now, &event, store, out));
        }
        self.apply(id);
        let now = self.clock();
        let Life::Running(running) = &mut self.nodes.get_mut(&id).expect("known").life else {
            return;
        };
        let mut out = Outputs::traced();
        running.store.pump(now, &mut out);
        let deadlines = [running.quorum.next_timeout(), running.store.next_timeout()];
        let next = deadlines.iter().flatten().map(|(at, _)| at.0).min();
        self.carry_out(id, out);
        let node = self.nodes.get_mut(&id).expect("known");
        if let Some(next) = next
            && next < node.wake_at
        {
            let (next, run) = (next.max(self.now + 1), node.run);
            node.wake_at = next;
            self.at(next, What::Wake { node: id, run });
        }
    }

    fn apply(&mut self, id: NodeId) {
        let Life::Running(running) = &mut self.nodes.get_mut(&id).expect("known").life else {
            return;
        };
        while let Some(committed) = running.quorum.pop_committed() {
            match committed {
                Committed::Entry { offset, epoch, payload } => {
                    assert_eq!(offset, running.applied, "R9: once and in order");
                    running.applied = offset + 1;
                    running.last_epoch = epoch;
                    running.chain = chain(running.chain, &payload);
                    self.ghost.apply(id, offset, epoch, &payload);
                }
                Committed::Snapshot { end, epoch, payload } => {
                    assert!(end > running.applied, "R9: a snapshot leads forward");
                    running.applied = end;
                    running.last_epoch = epoch;
                    running.chain = u64::from_le_bytes(payload[..8].try_into().expect("a chain"));
                }
            }
        }
        if running.quorum.snapshot_due(running.applied) {
            let (end, epoch) = (running.applied, running.last_epoch);
            let mut image = running.chain.to_le_bytes().to_vec();
            image.resize(5_000, 7);
            self.call(id, |quorum, store, _, out| {
                quorum.take_snapshot(end, epoch, image, store, out);
            });
        }
    }

    fn carry_out(&mut self, id: NodeId, out: Outputs) {
        for event in &out.events {
            self.note(id, event);
        }
        let promised = out.events.iter().any(|event| {
            matches!(event, Event::Voted { .. } | Event::QuorumAcknowledged { .. })
                || matches!(event, Event::QuorumCommitted { voters, .. } if *voters > 0)
        });
        for output in out.queue {
            match output {
                Output::Send { to, message } => self.send(id, to, message),
                Output::Disk { op, command } => {
                    let delay = self.weather.disk;
                    let delay = self.between(delay);
                    let node = self.nodes.get_mut(&id).expect("known");
                    let (run, now) = (node.run, self.now);
                    let mut end = now + delay;
                    if let Some(file) = command.file() {
                        let last = node.files.entry(Some(file)).or_insert(end);
                        end = end.max(*last);
                        *last = end;
                    }
                    self.at(end, What::Disk { node: id, run, op, command });
                }
                Output::Log { line, .. } => self.say(&format!("{id} | {line}")),
                Output::Halt(why) => {
                    self.say(&format!("{id} halts: {why:?}"));
                    let node = self.nodes.get_mut(&id).expect("known");
                    node.life = Life::Down;
                    node.run += 1;
                    node.halted = Some(why);
                }
                Output::Local { .. }
                | Output::Reply { .. }
                | Output::Close { .. }
                | Output::Work { .. }
                | Output::Stop => {
                    unreachable!("a quorum and its store have neither clients nor shards")
                }
            }
        }
        if promised && self.below(1_000) < self.weather.crash_after_promise {
            self.crash(id);
            let later = self.now + (20 + self.below(400)) * MS;
            self.at(later, What::Start { node: id });
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: PeerMessage) {
        if self.verbose {
            let text = describe(&message);
            if !text.is_empty() {
                self.say(&format!("{from} -> {to} {text}"));
            }
        }
        if !self.nodes.contains_key(&to) || self.cut.contains(&(from, to)) {
            return;
        }
        let copies = match self.below(1_000) {
            draw if draw < self.weather.lost => 0,
            draw if draw < self.weather.lost + self.weather.doubled => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let delay = self.weather.network;
            let time = self.now + self.between(delay);
            self.at(time, What::Deliver { from, to, message: message.clone() });
        }
    }

    fn note(&mut self, id: NodeId, event: &Event) {
        let line = match event {
            Event::Founded { .. } => "acts for its cluster".into(),
            Event::Term { term } => format!("term {term}"),
            Event::Voted { term, candidate, .. } => format!("votes for {candidate} in term {term}"),
            Event::QuorumLeader { term, end } => format!("leads term {term}, log end {end}"),
            Event::QuorumFollower { term, leader } => format!("follows {leader} in term {term}"),
            Event::QuorumAcknowledged { end, .. } => format!("acknowledges {end}"),
            Event::QuorumCommitted { end, counted, voters, .. } if *voters > 0 => {
                let counted: Vec<i32> = counted.iter().map(|(node, _)| node.0).collect();
                format!("commits {end}, counting {counted:?} of {voters}")
            }
            Event::QuorumCommitted { end, .. } => format!("hears that {end} is committed"),
            Event::Truncated { to, .. } => format!("cuts its log at {to}"),
            Event::Reset { start, .. } => format!("begins its log again at {start}"),
            Event::Sometimes(mark) => format!("({})", mark.name()),
            Event::Damaged { .. } => "finds its log damaged".into(),
            Event::Recovered { damaged, .. } if *damaged => "recovers a damaged log".into(),
            _ => return,
        };
        self.say(&format!("{id} {line}"));
    }
}

/// A message in a few words; empty for those that every heartbeat brings.
fn describe(message: &PeerMessage) -> String {
    match message {
        PeerMessage::Founding(message) => match message {
            FoundingMessage::Ask { holds: None, .. } => "empty, and what are you?".into(),
            FoundingMessage::Ask { holds: Some(_), .. } => {
                "I hold a record, and what are you?".into()
            }
            FoundingMessage::Blank { number, .. } => {
                format!("I am empty (answer {}.{})", number.start, number.count)
            }
            FoundingMessage::Holds { holds, .. } => {
                let voter = if holds.voter { "voter" } else { "observer" };
                let founded = if holds.founded { ", founded" } else { "" };
                format!("I hold the record as {voter}{founded}")
            }
            FoundingMessage::Offer { number, founded, .. } => {
                let founded = if *founded { " of a founded cluster" } else { "" };
                format!("take this record{founded} (answer {}.{})", number.start, number.count)
            }
        },
        PeerMessage::Quorum(message) => match &message.body {
            QuorumBody::PreVote { .. } => {
                format!("would you vote for me after term {}?", message.term)
            }
            QuorumBody::PreVoted { granted, .. } => format!("pre-vote: {granted}"),
            QuorumBody::Vote { last } => {
                format!("vote for me in term {} (log {}.{})", message.term, last.epoch, last.end)
            }
            QuorumBody::Voted { granted } => format!("vote: {granted}"),
            QuorumBody::Append { base, batches, .. } if !batches.is_empty() => {
                format!("append {}..{}", base, base + batches.len() as Offset)
            }
            QuorumBody::Diverged { base, end, epoch } => {
                format!("no {base}; at most {end} after term {epoch}")
            }
            QuorumBody::SnapshotPart { end, position, bytes, length, .. } => {
                format!("snapshot {end}: {position}+{} of {length}", bytes.len())
            }
            QuorumBody::Follow { end } => format!("who leads? I have {end}"),
            QuorumBody::Stale => format!("the term is {}", message.term),
            QuorumBody::Stand => "stand in my place".into(),
            QuorumBody::Append { .. }
            | QuorumBody::Appended { .. }
            | QuorumBody::SnapshotTaken { .. } => String::new(),
        },
        PeerMessage::Controller(_) | PeerMessage::Replica(_) => String::new(),
    }
}
