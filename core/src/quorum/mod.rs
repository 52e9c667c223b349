//! The metadata quorum: Raft over the metadata log, and how a cluster is founded.
//!
//! ```text
//!                 ┌────────────┐  leader heard   ┌──────────┐
//!   start ──────▶ │ Unattached │ ──────────────▶ │ Follower │
//!                 └────────────┘                 └──────────┘
//!                   │        ▲ ▲                   │    ▲
//!    nothing heard  │        │ └── higher term ────┤    │ leader heard in the same term
//!                   ▼        │                     ▼    │
//!                 ┌─────────────┐ pre-votes of   ┌───────────┐ votes of      ┌────────┐
//!                 │ Prospective │ ─────────────▶ │ Candidate │ ────────────▶ │ Leader │
//!                 └─────────────┘ a majority     └───────────┘ a majority    └────────┘
//!                                                                              │ higher term, or no majority heard:
//!                                                                              ▼ Unattached
//! ```
//!
//! A node is a *voter* where the voters in force name its disk, else an *observer*, which follows the log, never stands, and
//! votes only for a candidate whose log names its disk. Voters are counted by disk, not by node: a destroyed disk is a
//! lost voter, and its empty successor an observer.
//!
//! Everything said rests on the disk: term, vote and start number are synced before a message shows them, records before
//! they are acknowledged, and a leader counts itself for no more than its own disk has. What waits for that stands in
//! `waiting`, and [`Quorum::settle`], at the end of each call, does what the disk now allows.
//!
//! Not here: what the records mean (the controller and the image above), and who may propose them.

mod append;
mod election;
mod founding;
mod handover;
mod load;
mod log;
pub mod message;
mod progress;
mod snapshot;
mod state;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use self::append::{Following, Leading};
use self::founding::Founding;
use self::load::Loading;
use self::log::{EntryValue, MemoryLog};
use self::message::{FoundingMessage, QuorumBody, QuorumMessage, Voter, Voters};
use self::snapshot::Snapshots;
use self::state::State;
pub use self::state::{cluster, term_and_vote};
pub use self::view::{FollowerDescription, QuorumDescription, QuorumView};
use crate::storage::{Lsn, Store, StoreEvent};
use crate::trace::{Event, Mark};
use crate::{
    Config, Epoch, Halt, Incarnation, Instant, LogId, LogLevel, NodeId, Now, Offset, Outputs,
    Timer, cluster_id,
};

/// The same complaint is not repeated for this long, milliseconds.
const COMPLAINT_EVERY_MS: u64 = 10_000;
/// A term that is so many elections ahead of this node's cannot have been reached: whoever names it is wrong, and who believed it
/// would come to the end of all terms.
const TERMS_AHEAD_MAX: Epoch = 1 << 24;
/// Peers' start numbers remembered at most.
const STARTS_MAX: usize = 4_096;

/// Something committed, to be applied in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Committed {
    /// When one more record is committed.
    Entry {
        /// Its offset.
        offset: Offset,
        /// Term in which it was appended.
        epoch: Epoch,
        /// What was proposed; empty for records of the quorum's own.
        payload: Bytes,
    },
    /// When an image stands for everything below an offset, and replaces what was applied.
    Snapshot {
        /// End offset.
        end: Offset,
        /// Term of the last record below it.
        epoch: Epoch,
        /// As given to [`Quorum::take_snapshot`].
        payload: Bytes,
    },
}

/// A node's part in the quorum, as the diagram above has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RoleName {
    /// When no leader of the present term is known.
    Unattached,
    /// When it follows one.
    Follower,
    /// When it asks whether it could win.
    Prospective,
    /// When it stands.
    Candidate,
    /// When it leads.
    Leader,
}

/// Role with what belongs to it alone.
#[derive(Debug)]
enum Role {
    Unattached,
    Follower(Following),
    Prospective { granted: BTreeSet<Voter> },
    Candidate { granted: BTreeSet<Voter> },
    Leader(Leading),
}

/// How far this run has come.
#[derive(Debug)]
enum Phase {
    /// Before [`Quorum::start`].
    New,
    /// When snapshot and log are being read; messages are lost meanwhile.
    Loading(Loading),
    /// When it takes part.
    Running,
    /// When it has said that the node must not go on.
    Stopped,
}

/// What happens when the journal is flushed far enough.
#[derive(Debug)]
enum Then {
    /// The founding record may be shown.
    ShowRecord,
    /// That the cluster is founded may be acted upon.
    ActFounded,
    /// The term is this disk's for ever.
    NoteTerm { term: Epoch },
    /// A candidate counts itself and asks for votes.
    CountOwnVote { term: Epoch },
    /// A message leaves, if the term is still the same: in a later one its promise is void or its content outdated.
    Send { to: NodeId, term: Epoch, message: QuorumMessage },
    /// The snapshot that the state names is in force: the log may be trimmed, older files go.
    RetireBefore { end: Offset },
}

/// A voter or observer of the metadata log.
#[derive(Debug)]
pub struct Quorum {
    config: Arc<Config>,
    me: Voter,
    /// `--cluster`, sorted ids.
    list: Vec<NodeId>,
    rng: ChaCha8Rng,
    /// Of the current call.
    now: Now,
    phase: Phase,

    /// As last put; durable when the journal is flushed to `state_lsn`.
    state: State,
    state_lsn: Lsn,
    flushed: Lsn,
    waiting: VecDeque<(Lsn, Then)>,

    founding: Founding,
    role: Role,
    log: MemoryLog,
    /// Everything below is committed.
    commit: Offset,
    /// Everything below was popped.
    applied: Offset,
    snapshots: Snapshots,
    /// Whether the store's log is damaged and waits to be replaced by what a leader sends; the memory's is empty then.
    store_stale: bool,
    /// Whether this run has acted on the founding record.
    acted: bool,
    /// Whether this node is about to stop.
    leaves: bool,

    /// When to look for a leader, or stand.
    election_at: Option<Instant>,
    /// When a leader of this term was last heard.
    leader_heard: Option<Instant>,
    /// The highest start number seen of each voter's disk, the last of any other.
    starts: BTreeMap<Voter, u64>,
    complaints: BTreeMap<&'static str, Instant>,
}

impl Quorum {
    /// A node's part in the quorum, before its disk is read. `seed` gives election timeouts, and the cluster's id where this node
    /// founds it.
    pub fn new(config: Arc<Config>, incarnation: Incarnation, seed: [u8; 32]) -> Quorum {
        let mut list: Vec<NodeId> = config.controllers.iter().map(|c| c.0).collect();
        list.sort_unstable();
        list.dedup();
        Quorum {
            me: Voter { node: config.node, incarnation },
            list,
            rng: ChaCha8Rng::from_seed(seed),
            now: Now::default(),
            phase: Phase::New,
            state: State::default(),
            state_lsn: Lsn(0),
            flushed: Lsn(0),
            waiting: VecDeque::new(),
            founding: Founding::default(),
            role: Role::Unattached,
            log: MemoryLog::new(0, -1, Lsn(0), Voters::new()),
            commit: 0,
            applied: 0,
            snapshots: Snapshots::default(),
            store_stale: false,
            acted: false,
            leaves: false,
            election_at: None,
            leader_heard: None,
            starts: BTreeMap::new(),
            complaints: BTreeMap::new(),
            config,
        }
    }

    /// Begins to read back what the disk holds. Called once. `is_lost`: recovery found that what the disk held of the quorum
    /// cannot be believed, so that `store` has nothing of it.
    pub fn start(&mut self, now: Now, is_lost: bool, store: &mut Store, out: &mut Outputs) {
        self.now = now;
        self.load(is_lost, store, out);
        self.settle(store, out);
    }

    /// Takes a message between nodes that do not yet all belong to a cluster.
    pub fn on_founding_message(
        &mut self,
        now: Now,
        from: NodeId,
        message: FoundingMessage,
        store: &mut Store,
        out: &mut Outputs,
    ) {
        self.now = now;
        if matches!(self.phase, Phase::Running) && from != self.me.node {
            self.on_founding(from, message, store, out);
            self.settle(store, out);
        }
    }

    /// Takes a message between the replicas of the metadata log.
    pub fn on_message(
        &mut self,
        now: Now,
        from: NodeId,
        message: QuorumMessage,
        store: &mut Store,
        out: &mut Outputs,
    ) {
        self.now = now;
        if matches!(self.phase, Phase::Running) && from != self.me.node {
            self.on_raft(from, message, store, out);
            self.settle(store, out);
        }
    }

    /// Takes what the storage engine has to say. Events about other logs and others' commands are ignored.
    pub fn on_store_event(
        &mut self,
        now: Now,
        event: &StoreEvent,
        store: &mut Store,
        out: &mut Outputs,
    ) {
        self.now = now;
        match event {
            StoreEvent::Flushed => {}
            StoreEvent::Read { ticket, result } => self.on_loaded(*ticket, result, store, out),
            StoreEvent::Command { op, outcome } => self.on_command(*op, outcome, store, out),
            StoreEvent::Damaged { log } if *log == LogId::METADATA => self.on_damaged(out),
            StoreEvent::Damaged { .. } | StoreEvent::Time { .. } | StoreEvent::Cleaned => {}
        }
        self.settle(store, out);
    }

    /// Does what is due.
    pub fn on_timeout(&mut self, now: Now, store: &mut Store, out: &mut Outputs) {
        self.now = now;
        if !matches!(self.phase, Phase::Running) {
            return;
        }
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now.mono);
        if is_due(self.founding.ask_at) {
            self.ask(store, out);
        }
        if is_due(self.founding.report_at) {
            self.report_other_list(out);
        }
        if is_due(self.heartbeat_at()) {
            self.heartbeat(out);
        }
        if is_due(self.election_at) {
            self.look_for_leader(store, out);
        }
        self.settle(store, out);
    }

    /// The one deadline, and why.
    pub fn next_timeout(&self) -> Option<(Instant, Timer)> {
        if !matches!(self.phase, Phase::Running) {
            return None;
        }
        let deadlines = [
            (self.founding.ask_at, Timer::Founding),
            (self.founding.report_at, Timer::Founding),
            (self.heartbeat_at(), Timer::QuorumHeartbeat),
            (self.election_at, Timer::Election),
        ];
        deadlines.into_iter().filter_map(|(at, timer)| Some((at?, timer))).min()
    }

    /// Appends a record for the machine above if this node leads; the offset that it gets. It is committed when it is popped
    /// with this node's term.
    pub fn propose(
        &mut self,
        payload: Vec<u8>,
        store: &mut Store,
        out: &mut Outputs,
    ) -> Option<Offset> {
        if !self.is_leader() {
            return None;
        }
        let offset = self.append_own(EntryValue::Metadata(payload.into()), store, out);
        self.replicate(out);
        Some(offset)
    }

    /// The next committed thing to apply, each once per run.
    pub fn pop_committed(&mut self) -> Option<Committed> {
        // Until all is read it may still turn out damaged, and nothing of it count.
        if !matches!(self.phase, Phase::Running) {
            return None;
        }
        if let Some(held) = self.snapshots.held()
            && held.end > self.applied
            && self.applied < self.log.start()
        {
            let (end, epoch, payload) = (held.end, held.epoch, held.payload.clone());
            self.applied = end;
            return Some(Committed::Snapshot { end, epoch, payload });
        }
        if self.applied >= self.commit {
            return None;
        }
        // While damage is being made good, what is committed is not yet here.
        let entry = self.log.get(self.applied)?;
        let (offset, epoch) = (self.applied, entry.epoch);
        let payload = match &entry.value {
            EntryValue::Metadata(payload) => payload.clone(),
            EntryValue::NoOp | EntryValue::Voters(_) => Bytes::new(),
        };
        self.applied += 1;
        Some(Committed::Entry { offset, epoch, payload })
    }

    /// Part in the quorum.
    pub fn role(&self) -> RoleName {
        match &self.role {
            Role::Unattached => RoleName::Unattached,
            Role::Follower(_) => RoleName::Follower,
            Role::Prospective { .. } => RoleName::Prospective,
            Role::Candidate { .. } => RoleName::Candidate,
            Role::Leader(_) => RoleName::Leader,
        }
    }

    /// Raft's current term.
    pub fn term(&self) -> Epoch {
        self.state.term
    }

    /// Who leads the current term, as far as known; this node included.
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leader(_) => Some(self.me.node),
            Role::Follower(following) => Some(following.leader.node),
            Role::Unattached | Role::Prospective { .. } | Role::Candidate { .. } => None,
        }
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// Whether this node leads and everything that earlier leaders committed has been popped.
    pub fn is_ready(&self) -> bool {
        matches!(&self.role, Role::Leader(leading) if self.applied > leading.no_op)
    }

    /// Everything below is committed.
    pub fn commit(&self) -> Offset {
        self.commit
    }

    /// Everything below was popped.
    pub fn applied(&self) -> Offset {
        self.applied
    }

    /// Offset after the last record of this node's log.
    pub fn log_end(&self) -> Offset {
        self.log.end()
    }

    /// The cluster, once this node holds its founding record on disk.
    pub fn cluster(&self) -> Option<u128> {
        let record = self.state.founding.as_ref()?;
        self.founding.shown.then_some(record.cluster)
    }

    /// The voters in force in this node's log.
    pub fn voters(&self) -> &Voters {
        self.log.voters()
    }

    /// Whether the voters in force name this disk, and it may vote.
    pub fn is_voter(&self) -> bool {
        self.log.voters().get(&self.me.node) == Some(&self.me.incarnation)
            && self.state.hollow_until.is_none()
    }

    /// Does what the disk now allows; at the end of every call.
    fn settle(&mut self, store: &mut Store, out: &mut Outputs) {
        self.flushed = self.flushed.max(store.flushed());
        self.finish_loading(store, out);
        while self.waiting.front().is_some_and(|(lsn, _)| *lsn <= self.flushed) {
            let (_, then) = self.waiting.pop_front().expect("it was just seen");
            self.on_flushed(then, store, out);
        }
        if !matches!(self.phase, Phase::Running) {
            return;
        }
        match &self.role {
            Role::Follower(_) => self.acknowledge(store, out),
            Role::Leader(_) => self.advance_commit(out),
            Role::Unattached | Role::Prospective { .. } | Role::Candidate { .. } => {}
        }
    }

    fn on_flushed(&mut self, then: Then, store: &mut Store, out: &mut Outputs) {
        match then {
            Then::ShowRecord => self.show_record(store, out),
            Then::ActFounded => self.begin_acting(out),
            Then::NoteTerm { term } => out.event(|| Event::Term { term }),
            Then::CountOwnVote { term } => self.count_own_vote(term, store, out),
            Then::Send { to, term, message } if term == self.state.term => {
                self.send(to, message, out);
            }
            Then::Send { .. } => {}
            Then::RetireBefore { end } => self.retire_before(end, store, out),
        }
    }

    /// Writes the state; it is durable at the number that this returns.
    fn persist(&mut self, store: &mut Store) -> Lsn {
        self.state_lsn = store.put(LogId::METADATA, self.state.encode());
        self.state_lsn
    }

    /// Does something once everything put so far is durable.
    fn when_durable(&mut self, then: Then) {
        self.waiting.push_back((self.state_lsn, then));
    }

    /// Sends once term and vote are durable, unless the term has changed by then.
    fn reply(&mut self, to: Voter, body: QuorumBody) {
        if let Some(message) = self.message(to.incarnation, body) {
            let term = self.state.term;
            self.when_durable(Then::Send { to: to.node, term, message });
        }
    }

    /// A message in this node's name. None while it belongs to no cluster.
    fn message(&self, to: Incarnation, body: QuorumBody) -> Option<QuorumMessage> {
        Some(QuorumMessage {
            cluster: self.cluster()?,
            term: self.state.term,
            incarnation: self.me.incarnation,
            start: self.state.start,
            to: Some(to),
            body,
        })
    }

    /// Lets a message go. Everything that it says is durable by now.
    fn send(&mut self, to: NodeId, message: QuorumMessage, out: &mut Outputs) {
        match &message.body {
            QuorumBody::Voted { granted: true } => {
                let vote = self.state.vote.expect("a granted vote is in the state");
                self.act(out);
                let (candidate, incarnation) = (vote.node, vote.incarnation);
                out.event(|| Event::Voted { term: message.term, candidate, incarnation });
            }
            QuorumBody::Appended { synced, .. } => {
                out.event(|| Event::QuorumAcknowledged { term: message.term, end: *synced });
            }
            _ => {}
        }
        out.send(to, message);
    }

    /// Called before this node stands, votes or appends.
    fn act(&mut self, out: &mut Outputs) {
        if !self.acted {
            self.acted = true;
            let cluster = self.state.founding.as_ref().expect("only a founded node acts").cluster;
            out.event(|| Event::Founded { cluster });
        }
    }

    /// Judges a message of the quorum by its header, then by what it says.
    fn on_raft(
        &mut self,
        from: NodeId,
        message: QuorumMessage,
        store: &mut Store,
        out: &mut Outputs,
    ) {
        let Some(cluster) = self.cluster() else {
            // Empty: it learns of the cluster by asking, never from a message that may be old.
            return;
        };
        if message.cluster != cluster {
            let (mine, other) = (cluster_id(cluster), cluster_id(message.cluster));
            return self.complain("foreign", out, || {
                format!("node {from} belongs to cluster {other}, this one to {mine}: its messages are refused")
            });
        }
        let sender = Voter { node: from, incarnation: message.incarnation };
        let for_anyone = matches!(message.body, QuorumBody::Follow { .. });
        if message.term < 0 || message.to.map_or(!for_anyone, |to| to != self.me.incarnation) {
            return;
        }
        if message.term > self.state.term.saturating_add(TERMS_AHEAD_MAX) {
            return self.refuse(from, "its term cannot have been reached", out);
        }
        if !self.is_start_believed(sender, message.start) {
            return self.complain("rollback", out, || {
                format!("node {from} speaks with a start number lower than before: an older image of its disk was put back; start it with an empty directory")
            });
        }
        if !self.state.founded {
            // Somebody acts, so every listed node holds the record.
            self.state.founded = true;
            self.persist(store);
            self.when_durable(Then::ActFounded);
        }
        // Who asks for votes or records for anyone promises nothing; where its term is the later one, it says so in its answer.
        let adopts =
            !matches!(message.body, QuorumBody::PreVote { .. } | QuorumBody::Follow { .. });
        if message.term > self.state.term && adopts {
            self.step_to_term(message.term, store, out);
        }
        self.on_body(sender, message.term, message.body, store, out);
    }

    fn on_body(
        &mut self,
        from: Voter,
        term: Epoch,
        body: QuorumBody,
        store: &mut Store,
        out: &mut Outputs,
    ) {
        let is_old = term < self.state.term;
        match body {
            QuorumBody::PreVote { last } => self.on_pre_vote(from, term, last),
            QuorumBody::PreVoted { asked, granted } => {
                self.on_pre_voted(from, asked, granted, store);
            }
            QuorumBody::Follow { end } => self.on_follow(from, end, out),
            QuorumBody::Vote { .. }
            | QuorumBody::Append { .. }
            | QuorumBody::SnapshotPart { .. }
                if is_old =>
            {
                self.reply(from, QuorumBody::Stale);
            }
            QuorumBody::Voted { .. }
            | QuorumBody::Appended { .. }
            | QuorumBody::Diverged { .. }
            | QuorumBody::SnapshotTaken { .. }
            | QuorumBody::Stand
                if is_old => {}
            QuorumBody::Stale => {}
            QuorumBody::Vote { last } => self.on_vote(from, last, store),
            QuorumBody::Voted { granted } => self.on_voted(from, granted, store, out),
            QuorumBody::Append { base, previous, batches, commit } => {
                if self.follow(from, out) {
                    self.on_append(from, (base, previous), batches, commit, store, out);
                }
            }
            QuorumBody::SnapshotPart { end, epoch, length, position, bytes } => {
                if self.follow(from, out) {
                    self.on_snapshot_part(from, (end, epoch), length, position, bytes, store, out);
                }
            }
            QuorumBody::Appended { verified, synced } => {
                self.on_appended(from, verified, synced, out);
            }
            QuorumBody::Diverged { base, end, epoch } => {
                self.on_diverged(from, base, end, epoch, out);
            }
            QuorumBody::SnapshotTaken { end, position } => {
                self.on_snapshot_taken(from, end, position, out);
            }
            QuorumBody::Stand => self.on_stand(from, store),
        }
    }

    /// Remembers the start number of a disk; false for a voter's that is lower than before. An observer's disk may have been put
    /// back to an older image: nobody counts it, and it is sent again what it lost.
    fn is_start_believed(&mut self, sender: Voter, start: u64) -> bool {
        let is_voter = self.log.voters().get(&sender.node) == Some(&sender.incarnation);
        let seen = self.starts.get(&sender).copied();
        if is_voter && seen.is_some_and(|seen| start < seen) {
            return false;
        }
        if seen.is_some() || self.starts.len() < STARTS_MAX {
            self.starts.insert(sender, start);
        }
        if let Role::Leader(leading) = &mut self.role {
            leading.on_heard(sender, self.now.mono, start);
        }
        true
    }

    /// Goes to a later term, with no vote and no leader.
    fn step_to_term(&mut self, term: Epoch, store: &mut Store, out: &mut Outputs) {
        assert!(term > self.state.term, "terms only grow");
        (self.state.term, self.state.vote) = (term, None);
        self.persist(store);
        self.when_durable(Then::NoteTerm { term });
        self.detach(out);
    }

    /// A leader, candidate or follower is so no more.
    fn detach(&mut self, out: &mut Outputs) {
        if self.is_leader() {
            out.event(|| Event::Sometimes(Mark::QuorumLeaderSteppedDown));
        }
        self.role = Role::Unattached;
        self.leader_heard = None;
        if self.election_at.is_none() {
            self.wait_for_leader();
        }
    }

    /// A new random election deadline.
    fn wait_for_leader(&mut self) {
        let timeout = self.config.quorum.election_timeout_ms.max(1);
        let millis = timeout + self.rng.next_u64() % timeout;
        self.election_at = Some(self.now.mono.after_ms(millis));
    }

    /// One log line, not again of its kind for a while.
    fn complain(&mut self, kind: &'static str, out: &mut Outputs, line: impl FnOnce() -> String) {
        let last = self.complaints.get(kind);
        if last.is_none_or(|last| self.now.mono.ms_since(*last) >= COMPLAINT_EVERY_MS) {
            self.complaints.insert(kind, self.now.mono);
            out.log(LogLevel::Warn, line());
        }
    }

    /// Ignores what cannot be true of a peer that works.
    fn refuse(&mut self, from: NodeId, what: &'static str, out: &mut Outputs) {
        out.event(|| Event::Refused { from, what });
        self.complain(what, out, || format!("a message of node {from} is refused: {what}"));
    }

    fn stop(&mut self, why: Halt, out: &mut Outputs) {
        self.phase = Phase::Stopped;
        out.halt(why);
    }
}
