//! What may be looked at from outside: for metrics, traces and checkers. And what must always hold.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::message::{FoundingRecord, Voter, Voters};
use super::{Quorum, Role, RoleName};
use crate::{Epoch, Incarnation, NodeId, Now, Offset, Timestamp};

/// A node's part in the quorum at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuorumView {
    /// The node.
    pub node: NodeId,
    /// Its disk.
    pub incarnation: Incarnation,
    /// How often that disk was started.
    pub start: u64,
    /// The founding record that it holds, durable or about to be.
    pub founding: Option<FoundingRecord>,
    /// Whether it may stand, vote and append.
    pub founded: bool,
    /// Part.
    pub role: RoleName,
    /// Current term.
    pub term: Epoch,
    /// Who leads that term, as far as known.
    pub leader: Option<NodeId>,
    /// For whom it voted in that term.
    pub vote: Option<(NodeId, Incarnation)>,
    /// First offset of its log.
    pub log_start: Offset,
    /// Offset after the last record.
    pub log_end: Offset,
    /// Term of the last record, -1 of an empty log.
    pub last_epoch: Epoch,
    /// Offset after the last record that would be there after a power loss now.
    pub flushed_end: Offset,
    /// Everything below is committed.
    pub commit: Offset,
    /// Everything below was popped.
    pub applied: Offset,
    /// End of the snapshot in force.
    pub snapshot_end: Option<Offset>,
    /// Voters in force.
    pub voters: Voters,
    /// Whether it is one of them and may vote.
    pub is_voter: bool,
    /// Below this offset a leader must confirm again what was damaged here.
    pub hollow_until: Option<Offset>,
}

/// The quorum as its leader sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QuorumDescription {
    /// Who leads.
    pub leader: NodeId,
    /// In which term.
    pub term: Epoch,
    /// Everything below is committed.
    pub commit: Offset,
    /// Offset after the last record.
    pub end: Offset,
    /// The voters in force, the leader among them.
    pub voters: Vec<FollowerDescription>,
    /// Who else follows.
    pub observers: Vec<FollowerDescription>,
}

/// A replica of the metadata log as its leader sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FollowerDescription {
    /// Which.
    pub replica: Voter,
    /// Offset after the last record that it is known to have.
    pub end: Offset,
    /// When it was last heard, or its silence began to count.
    pub heard: Timestamp,
}

impl Quorum {
    /// What a leader knows of all; none where this node does not lead.
    pub fn describe(&self, now: Now) -> Option<QuorumDescription> {
        let Role::Leader(leading) = &self.role else { return None };
        let end = self.log.end();
        let known = leading.progress.iter().map(|(replica, progress)| FollowerDescription {
            replica: *replica,
            end: progress.matched,
            heard: now.wall - now.mono.ms_since(progress.heard) as Timestamp,
        });
        let own = FollowerDescription { replica: self.me, end, heard: now.wall };
        let votes =
            |replica: &Voter| self.log.voters().get(&replica.node) == Some(&replica.incarnation);
        let (voters, observers) =
            std::iter::once(own).chain(known).partition(|follower| votes(&follower.replica));
        let (leader, term, commit) = (self.me.node, self.state.term, self.commit);
        Some(QuorumDescription { leader, term, commit, end, voters, observers })
    }

    /// This node's part at this moment.
    pub fn view(&self) -> QuorumView {
        QuorumView {
            node: self.me.node,
            incarnation: self.me.incarnation,
            start: self.state.start,
            founding: self.state.founding.clone(),
            founded: self.founding.acts,
            role: self.role(),
            term: self.state.term,
            leader: self.leader(),
            vote: self.state.vote.map(|vote| (vote.node, vote.incarnation)),
            log_start: self.log.start(),
            log_end: self.log.end(),
            last_epoch: self.log.last().epoch,
            flushed_end: self.log.flushed_end(self.flushed).unwrap_or(0),
            commit: self.commit,
            applied: self.applied,
            snapshot_end: self.snapshots.held().map(|held| held.end),
            voters: self.log.voters().clone(),
            is_voter: self.is_voter(),
            hollow_until: self.state.hollow_until,
        }
    }

    /// The record at an offset of this node's log, as on disk, with its term.
    pub fn record(&self, offset: Offset) -> Option<(Epoch, &Bytes)> {
        self.log.get(offset).map(|entry| (entry.epoch, &entry.batch))
    }

    /// Costly assertions.
    pub fn check_invariants(&self) {
        self.log.check_invariants();
        assert!(self.commit <= self.log.end(), "committed beyond the log");
        assert!(self.log.start() <= self.commit, "the log begins with what is not committed");
        assert!(self.applied <= self.commit, "applied beyond what is committed");
        let covered = self.snapshots.held().map_or(0, |held| held.end);
        assert!(self.log.start() <= covered, "the log begins past every snapshot");
        assert!(self.waiting.iter().map(|(lsn, _)| *lsn).is_sorted(), "the journal is in order");
        match &self.role {
            Role::Leader(leading) => {
                assert!(self.state.vote == Some(self.me), "a leader voted for itself");
                assert!(
                    self.log.epoch_before(leading.no_op + 1) == Some(self.state.term)
                        || leading.no_op < self.log.start()
                );
                assert!(
                    !leading.progress.contains_key(&self.me),
                    "a leader does not follow itself"
                );
                for (node, incarnation) in self.log.voters() {
                    let voter = Voter { node: *node, incarnation: *incarnation };
                    assert!(voter == self.me || leading.progress.contains_key(&voter));
                }
                for progress in leading.progress.values() {
                    progress.check_invariants(self.log.end());
                }
            }
            Role::Follower(following) => {
                assert!(following.verified <= self.log.end(), "verified beyond the log");
            }
            Role::Candidate { .. } => {
                assert!(self.state.vote == Some(self.me), "a candidate voted for itself");
            }
            Role::Prospective { granted } => assert!(granted.contains(&self.me)),
            Role::Unattached => {}
        }
        assert!(!self.founding.acts || self.founding.shown, "acts on what is not durable");
    }
}
