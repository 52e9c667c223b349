//! How a cluster is founded, once.
//!
//! ```text
//!   empty ── answered "empty" by every listed node (the lowest listed only) ──▶ holder ── all hold it ──▶ founded
//!     │                                                                           ▲  │                      ▲
//!     └── offered a record, for its latest answer and its own list ───────────────┘  └── hears so ──────────┘
//! ```
//!
//! An empty directory is either a first boot or a destroyed disk. So nothing is founded while any listed node has not said that
//! it is empty, and what was drawn once is finished by whoever holds it, never replaced. Two things make late messages
//! harmless: an empty node's answer is for the disk that asked alone, and an offer must cite the number of the latest answer.
//!
//! A node outside the list (a broker that is no controller) takes the record of a founded cluster and observes. So does one
//! whose record was damaged: it is not empty, so it neither founds nor says to the founder that it is.

use std::collections::{BTreeMap, BTreeSet};

use rand_core::Rng;

use super::log::MemoryLog;
use super::message::{AnswerNumber, FoundingMessage, FoundingRecord, Holding, LIST_MAX, Voters};
use super::{Quorum, Then};
use crate::storage::{Lsn, Store};
use crate::trace::{Event, Mark};
use crate::{Halt, Incarnation, Instant, LogLevel, NodeId, Outputs, cluster_id};

/// Nodes that disagree about the list are given this many election timeouts to hear of the others.
const DISAGREEMENT_TIMEOUTS: u64 = 10;
/// A founded node whose list is not its record's says so again after this long: its operator may have missed the start.
const OTHER_LIST_EVERY_MS: u64 = 300_000;

/// What a node remembers of founding within one run.
#[derive(Debug, Default)]
pub(super) struct Founding {
    /// Whether the founding record is durable, so that it may be shown.
    pub shown: bool,
    /// Whether that the cluster is founded is durable, so that it may be acted upon.
    pub acts: bool,
    /// When to ask the others again.
    pub ask_at: Option<Instant>,
    /// Number of the latest answer.
    latest: AnswerNumber,
    /// A holder was answered: until then nobody else is, or its offer would cite an old number.
    answered_holder_until: Option<Instant>,
    /// As the founder: who answered that it is empty, with which disk.
    empty: BTreeMap<NodeId, Incarnation>,
    /// As a holder: who else holds the record.
    holders: BTreeSet<NodeId>,
    /// Listed nodes, empty like this one, with another list.
    disagree: BTreeSet<NodeId>,
    /// Listed nodes, empty like this one, with the same list.
    agree: BTreeSet<NodeId>,
    disagree_since: Option<Instant>,
    /// When to say again that this node was started with another list than its record's.
    pub report_at: Option<Instant>,
}

impl Quorum {
    fn is_listed(&self) -> bool {
        self.list.contains(&self.me.node)
    }

    /// What this node says that it holds.
    fn holding(&self) -> Option<Holding> {
        let record = self.state.founding.as_ref().filter(|_| self.founding.shown)?;
        Some(Holding {
            cluster: record.cluster,
            list: record.list.clone(),
            voter: record.voters.get(&self.me.node) == Some(&self.me.incarnation),
            founded: self.founding.acts,
        })
    }

    /// Asks every listed node what it is, until this one may act.
    pub(super) fn ask(&mut self, store: &mut Store, out: &mut Outputs) {
        if self.founding.acts {
            self.founding.ask_at = None;
            return;
        }
        let quarter = (self.config.quorum.election_timeout_ms / 4).max(1);
        let millis = quarter + self.rng.next_u64() % quarter;
        self.founding.ask_at = Some(self.now.mono.after_ms(millis));
        self.judge_disagreement(out);
        self.draw_if_alone(store, out);
        if self.state.founding.is_some() && !self.founding.shown {
            return;
        }
        let message = self.ask_message();
        let mut nodes: BTreeSet<NodeId> = self.list.iter().copied().collect();
        if let Some(record) = &self.state.founding {
            nodes.extend(&record.list);
        }
        nodes.remove(&self.me.node);
        for node in nodes {
            out.send(node, message.clone());
        }
    }

    fn ask_message(&self) -> FoundingMessage {
        FoundingMessage::Ask {
            incarnation: self.me.incarnation,
            list: self.list.clone(),
            holds: self.holding(),
        }
    }

    fn holds_message(&self) -> Option<FoundingMessage> {
        let holds = self.holding()?;
        let (incarnation, list) = (self.me.incarnation, self.list.clone());
        Some(FoundingMessage::Holds { incarnation, list, holds })
    }

    /// A message of another node about founding.
    pub(super) fn on_founding(
        &mut self,
        from: NodeId,
        message: FoundingMessage,
        store: &mut Store,
        out: &mut Outputs,
    ) {
        match message {
            FoundingMessage::Ask { incarnation, list, holds } => {
                let asker_is_empty = holds.is_none();
                if let Some(holds) = holds {
                    self.on_holding(from, &list, holds, store, out);
                }
                self.on_ask(from, incarnation, &list, asker_is_empty, out);
            }
            FoundingMessage::Blank { incarnation, list, number, to } => {
                if to == self.me.incarnation {
                    self.on_blank(from, incarnation, &list, number, store, out);
                }
            }
            FoundingMessage::Holds { list, holds, .. } => {
                self.on_holding(from, &list, holds, store, out);
            }
            FoundingMessage::Offer { number, to, record, founded, list } => {
                if to == self.me.incarnation {
                    self.on_offer(number, record, founded, &list, store);
                }
            }
        }
    }

    fn on_ask(
        &mut self,
        from: NodeId,
        incarnation: Incarnation,
        list: &[NodeId],
        asker_is_empty: bool,
        out: &mut Outputs,
    ) {
        if self.state.founding.is_none() {
            if asker_is_empty {
                self.compare_lists(from, list);
                if self.state.is_lost {
                    return self.complain("lost", out, || {
                        format!("this disk's metadata is damaged and node {from} is empty: no cluster is founded while a node that holds the old one's record may come; to found a new one, empty this data directory")
                    });
                }
            }
            let waits = self.founding.answered_holder_until.is_some_and(|at| at > self.now.mono);
            if waits || !matches!(self.phase, super::Phase::Running) {
                return;
            }
            if !asker_is_empty {
                let timeout = self.config.quorum.election_timeout_ms;
                self.founding.answered_holder_until = Some(self.now.mono.after_ms(timeout));
            }
            let latest = &mut self.founding.latest;
            *latest = AnswerNumber { start: self.state.start, count: latest.count + 1 };
            let answer = FoundingMessage::Blank {
                incarnation: self.me.incarnation,
                list: self.list.clone(),
                number: *latest,
                to: incarnation,
            };
            return out.send(from, answer);
        }
        if !asker_is_empty {
            if let Some(message) = self.holds_message() {
                out.send(from, message);
            }
        } else if self.founding.shown && self.may_offer(from, list, out) {
            // Its answer's number is what an offer must cite.
            out.send(from, self.ask_message());
        }
    }

    /// Whether an empty node is one to be given the record.
    fn may_offer(&mut self, to: NodeId, list: &[NodeId], out: &mut Outputs) -> bool {
        let record = self.state.founding.as_ref().expect("only a holder offers");
        let flag = self.config.quorum.controllers_flag;
        if self.founding.acts {
            if list != record.list && list != self.list {
                // It is told, so that it stops; nobody else does.
                self.complain("list", out, || {
                    format!(
                        "node {to} is empty and was started with another {flag}; it is not taken in"
                    )
                });
            }
            return true;
        }
        record.list.contains(&to)
    }

    /// An empty node's answer to this disk.
    fn on_blank(
        &mut self,
        from: NodeId,
        incarnation: Incarnation,
        list: &[NodeId],
        number: AnswerNumber,
        store: &mut Store,
        out: &mut Outputs,
    ) {
        let Some(record) = &self.state.founding else {
            self.compare_lists(from, list);
            if self.list.contains(&from) && list == self.list {
                self.founding.empty.insert(from, incarnation);
                self.draw_if_complete(store, out);
            }
            return;
        };
        if !self.founding.shown {
            return;
        }
        let record = record.clone();
        if self.may_offer(from, list, out) {
            let (founded, list) = (self.founding.acts, self.list.clone());
            out.event(|| Event::Sometimes(Mark::QuorumRecordOffered));
            out.send(
                from,
                FoundingMessage::Offer { number, to: incarnation, record, founded, list },
            );
        }
    }

    /// Notes whether another empty node was started with the same list.
    fn compare_lists(&mut self, from: NodeId, list: &[NodeId]) {
        if !self.list.contains(&from) {
            return;
        }
        if list == self.list {
            self.founding.agree.insert(from);
            self.founding.disagree.remove(&from);
        } else {
            self.founding.agree.remove(&from);
            self.founding.disagree.insert(from);
            self.founding.disagree_since.get_or_insert(self.now.mono);
        }
    }

    /// An empty node whose list is not the others' stops, once those it could hear have been heard: unless most of
    /// them have its own list, for then it is another one that is wrong.
    fn judge_disagreement(&mut self, out: &mut Outputs) {
        let Some(since) = self.founding.disagree_since else { return };
        if self.state.founding.is_some() || self.founding.disagree.is_empty() {
            self.founding.disagree_since = None;
            return;
        }
        let (disagree, agree) = (self.founding.disagree.len(), self.founding.agree.len());
        let others = self.list.iter().filter(|node| **node != self.me.node).count();
        let patience = self.config.quorum.election_timeout_ms.saturating_mul(DISAGREEMENT_TIMEOUTS);
        let all_heard = disagree + agree >= others;
        if !all_heard && self.now.mono.ms_since(since) < patience {
            return;
        }
        let node = *self.founding.disagree.first().expect("somebody disagrees");
        if disagree > agree {
            self.stop_for_list(node, out);
        } else {
            let flag = self.config.quorum.controllers_flag;
            self.complain("list", out, || {
                format!("node {node} was started with another {flag} than this node and others: no cluster is founded before it is started with the same")
            });
        }
    }

    fn stop_for_list(&mut self, other: NodeId, out: &mut Outputs) {
        let flag = self.config.quorum.controllers_flag;
        let line = format!(
            "{flag} of this node contradicts that of node {other}: start every controller with the same list"
        );
        self.stop(Halt::Operator(line), out);
    }

    /// A node that holds a record was started with another list than the record's: it goes by the record, and says
    /// so now and then.
    pub(super) fn report_other_list(&mut self, out: &mut Outputs) {
        let Some(record) = self.state.founding.as_ref().filter(|r| r.list != self.list) else {
            return;
        };
        self.founding.report_at = Some(self.now.mono.after_ms(OTHER_LIST_EVERY_MS));
        let shown = |list: &[NodeId]| {
            let ids: Vec<String> = list.iter().map(ToString::to_string).collect();
            ids.join(",")
        };
        let (founded, given) = (shown(&record.list), shown(&self.list));
        let (flag, cluster) = (self.config.quorum.controllers_flag, cluster_id(record.cluster));
        out.log(
            LogLevel::Warn,
            format!("{flag} says that the controllers are nodes {given}, but cluster {cluster} of this data directory was founded by nodes {founded}: the record wins, and {flag} gives addresses alone; start with all nodes of the record, or check --data"),
        );
    }

    /// A node started with a list of itself alone needs nobody's answer.
    fn draw_if_alone(&mut self, store: &mut Store, out: &mut Outputs) {
        if self.list == [self.me.node] {
            self.draw_if_complete(store, out);
        }
    }

    /// The lowest listed node founds once every other listed one has said that it is empty.
    fn draw_if_complete(&mut self, store: &mut Store, out: &mut Outputs) {
        let is_founder = self.list.first() == Some(&self.me.node);
        let all_empty = (self.list.iter())
            .all(|node| *node == self.me.node || self.founding.empty.contains_key(node));
        if self.state.founding.is_some() || self.state.is_lost || !is_founder || !all_empty {
            return;
        }
        let cluster = u128::from(self.rng.next_u64()) << 64 | u128::from(self.rng.next_u64());
        let mut voters: Voters = std::mem::take(&mut self.founding.empty);
        voters.insert(self.me.node, self.me.incarnation);
        out.log(LogLevel::Info, format!("founds cluster {}", cluster_id(cluster)));
        let record = FoundingRecord { cluster, list: self.list.clone(), voters };
        let is_alone = self.list.len() == 1;
        self.take_record(record, is_alone, store);
    }

    /// A holder offers its record.
    fn on_offer(
        &mut self,
        number: AnswerNumber,
        record: FoundingRecord,
        founded: bool,
        list: &[NodeId],
        store: &mut Store,
    ) {
        let is_latest = number == self.founding.latest && number.count > 0;
        let is_sound = !record.list.is_empty()
            && record.list.len() <= LIST_MAX
            && record.voters.len() <= LIST_MAX;
        if self.state.founding.is_some() || !is_latest || !is_sound {
            return;
        }
        let same_list = record.list == self.list || founded && list == self.list;
        if same_list && (founded || record.list.contains(&self.me.node)) {
            self.take_record(record, founded, store);
        }
    }

    /// Makes a record this disk's own, for ever.
    fn take_record(&mut self, record: FoundingRecord, founded: bool, store: &mut Store) {
        assert!(self.state.founding.is_none(), "a founding record is never replaced");
        assert!(self.log.end() == 0, "an empty node has an empty log");
        self.log = MemoryLog::new(0, -1, Lsn(0), record.voters.clone());
        self.state.founding = Some(record);
        self.state.founded = founded;
        self.state.is_lost = false;
        self.founding.empty.clear();
        self.persist(store);
        self.when_durable(Then::ShowRecord);
        if founded {
            self.when_durable(Then::ActFounded);
        }
    }

    /// The record is durable: the others may hear of it.
    pub(super) fn show_record(&mut self, store: &mut Store, out: &mut Outputs) {
        self.founding.shown = true;
        let voter = self.holding().is_some_and(|holding| holding.voter);
        let kind = if voter { "a voter" } else { "an observer" };
        let cluster = cluster_id(self.cluster().expect("it is shown"));
        out.log(LogLevel::Info, format!("belongs to cluster {cluster} as {kind}"));
        if !voter && self.is_listed() {
            out.event(|| Event::Sometimes(Mark::QuorumListedObserver));
        }
        self.ask(store, out);
    }

    /// Another node says which record it holds.
    fn on_holding(
        &mut self,
        from: NodeId,
        list: &[NodeId],
        holds: Holding,
        store: &mut Store,
        out: &mut Outputs,
    ) {
        let Some(record) = &self.state.founding else {
            // Who holds a record is not empty, whatever it said before.
            self.founding.empty.remove(&from);
            let same_list = holds.list == self.list || holds.founded && list == self.list;
            if !same_list && self.list.contains(&from) {
                self.stop_for_list(from, out);
            }
            return;
        };
        if holds.cluster != record.cluster {
            let (mine, other) = (cluster_id(record.cluster), cluster_id(holds.cluster));
            return self.complain("two_records", out, || {
                format!("node {from} holds the founding record of cluster {other}, this one of {mine}: an operator must empty the one that is wrong")
            });
        }
        if self.state.founded || !self.founding.shown {
            return;
        }
        self.founding.holders.insert(from);
        let all_hold = (record.list.iter())
            .all(|node| *node == self.me.node || self.founding.holders.contains(node));
        if all_hold || holds.founded {
            self.state.founded = true;
            self.persist(store);
            self.when_durable(Then::ActFounded);
        }
    }

    /// That the cluster is founded is durable: from now on this node stands, votes and appends.
    pub(super) fn begin_acting(&mut self, out: &mut Outputs) {
        if self.founding.acts {
            return;
        }
        self.founding.acts = true;
        self.founding.ask_at = None;
        self.founding.holders.clear();
        let record = self.state.founding.as_ref().expect("founded is said of a record");
        let others: Vec<NodeId> =
            record.list.iter().copied().filter(|node| *node != self.me.node).collect();
        let message = self.holds_message().expect("it acts");
        for node in others {
            out.send(node, message.clone());
        }
        self.wait_for_leader();
        let is_alone = self.log.voters().len() == 1;
        let is_founder = self.log.end() == 0 && self.list.first() == Some(&self.me.node);
        if is_alone || is_founder || !self.is_voter() {
            // Nobody else can stand, or nobody led before; and an observer has nobody to wait for.
            self.election_at = Some(self.now.mono);
        }
    }
}
