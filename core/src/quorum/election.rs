//! Elections: when a node looks for a leader, asks whether it could win (KIP-996), stands, and for whom it votes.
//!
//! A node votes only for a candidate whose log names the voter's own disk: the requests carry that name as the disk that they are
//! meant for, so the check is that of every message's header. Its own log may not show yet that it was added.

use std::collections::BTreeSet;

use super::log::is_majority;
use super::message::{LogEnd, QuorumBody, QuorumMessage, Voter};
use super::{Quorum, Role, Then};
use crate::storage::Store;
use crate::trace::Event;
use crate::{Epoch, NodeId, Outputs};

impl Quorum {
    /// The election deadline has come.
    pub(super) fn look_for_leader(&mut self, store: &mut Store, out: &mut Outputs) {
        self.wait_for_leader();
        if !self.founding.acts {
            self.election_at = None;
            return;
        }
        if self.is_voter() {
            return self.become_prospective(store, out);
        }
        if matches!(self.role, Role::Follower(_)) {
            self.detach(out);
        }
        self.ask_to_follow(out);
    }

    /// Asks whoever may lead for the log.
    pub(super) fn ask_to_follow(&mut self, out: &mut Outputs) {
        let mut nodes: BTreeSet<NodeId> = self.list.iter().copied().collect();
        nodes.extend(self.log.voters().keys());
        nodes.remove(&self.me.node);
        // A damaged log that waits to be replaced has nothing to go on from.
        let body = QuorumBody::Follow { end: self.log.end() };
        let Some(message) = self.message(self.me.incarnation, body) else { return };
        for node in nodes {
            out.send(node, QuorumMessage { to: None, ..message.clone() });
        }
    }

    fn become_prospective(&mut self, store: &mut Store, out: &mut Outputs) {
        self.leader_heard = None;
        self.role = Role::Prospective { granted: BTreeSet::from([self.me]) };
        self.ask_voters(QuorumBody::PreVote { last: self.log.last() }, out);
        self.count_pre_votes(store);
    }

    /// Sends to every voter in force but this node, naming its disk.
    fn ask_voters(&mut self, body: QuorumBody, out: &mut Outputs) {
        for (node, incarnation) in self.log.voters() {
            if *node != self.me.node
                && let Some(message) = self.message(*incarnation, body.clone())
            {
                out.send(*node, message);
            }
        }
    }

    fn is_majority_of_voters(&self, granted: &BTreeSet<Voter>) -> bool {
        let voters = self.log.voters();
        let named = granted.iter().filter(|v| voters.get(&v.node) == Some(&v.incarnation));
        is_majority(named.count(), voters.len())
    }

    /// Says whether the sender could win, and promises nothing. In particular this is no sign of life of a leader.
    pub(super) fn on_pre_vote(&mut self, from: Voter, term: Epoch, last: LogEnd) {
        let timeout = self.config.quorum.election_timeout_ms;
        let has_leader = match &self.role {
            Role::Leader(_) => true,
            Role::Follower(_) => {
                self.leader_heard.is_some_and(|heard| self.now.mono.ms_since(heard) < timeout)
            }
            Role::Unattached | Role::Prospective { .. } | Role::Candidate { .. } => false,
        };
        let granted = self.state.hollow_until.is_none()
            && !has_leader
            && term >= self.state.term
            && last >= self.log.last();
        self.reply(from, QuorumBody::PreVoted { asked: term, granted });
    }

    pub(super) fn on_pre_voted(
        &mut self,
        from: Voter,
        asked: Epoch,
        is_granted: bool,
        store: &mut Store,
    ) {
        if asked == self.state.term
            && is_granted
            && let Role::Prospective { granted } = &mut self.role
        {
            granted.insert(from);
            self.count_pre_votes(store);
        }
    }

    fn count_pre_votes(&mut self, store: &mut Store) {
        let Role::Prospective { granted } = &self.role else { return };
        if self.is_majority_of_voters(granted) {
            self.become_candidate(store);
        }
    }

    /// Stands in a new term, as soon as that and the vote for itself are durable.
    pub(super) fn become_candidate(&mut self, store: &mut Store) {
        let Some(term) = self.state.term.checked_add(1) else { return };
        (self.state.term, self.state.vote) = (term, Some(self.me));
        self.persist(store);
        self.when_durable(Then::NoteTerm { term });
        self.role = Role::Candidate { granted: BTreeSet::new() };
        self.wait_for_leader();
        self.when_durable(Then::CountOwnVote { term });
    }

    pub(super) fn count_own_vote(&mut self, term: Epoch, store: &mut Store, out: &mut Outputs) {
        let me = self.me;
        if term != self.state.term {
            return;
        }
        let Role::Candidate { granted } = &mut self.role else { return };
        granted.insert(me);
        self.act(out);
        out.event(|| Event::Voted { term, candidate: me.node, incarnation: me.incarnation });
        self.ask_voters(QuorumBody::Vote { last: self.log.last() }, out);
        self.count_votes(store, out);
    }

    /// Votes at most once in a term, for a log that has everything this one has.
    pub(super) fn on_vote(&mut self, from: Voter, last: LogEnd, store: &mut Store) {
        let is_free = self.state.vote.is_none_or(|vote| vote == from);
        let has_leader = matches!(self.role, Role::Leader(_) | Role::Follower(_));
        let granted =
            self.state.hollow_until.is_none() && is_free && !has_leader && last >= self.log.last();
        if granted {
            if self.state.vote.is_none() {
                self.state.vote = Some(from);
                self.persist(store);
            }
            if matches!(self.role, Role::Prospective { .. }) {
                self.role = Role::Unattached;
            }
            self.wait_for_leader();
        }
        self.reply(from, QuorumBody::Voted { granted });
    }

    pub(super) fn on_voted(
        &mut self,
        from: Voter,
        is_granted: bool,
        store: &mut Store,
        out: &mut Outputs,
    ) {
        if is_granted && let Role::Candidate { granted } = &mut self.role {
            granted.insert(from);
            self.count_votes(store, out);
        }
    }

    fn count_votes(&mut self, store: &mut Store, out: &mut Outputs) {
        let Role::Candidate { granted } = &self.role else { return };
        // Its own vote counts only from the disk, and nobody leads without it.
        if granted.contains(&self.me) && self.is_majority_of_voters(granted) {
            self.become_leader(store, out);
        }
    }
}
