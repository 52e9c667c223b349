//! How a leader that is about to stop gives its leadership away, so that nobody waits for an election timeout (the leadership
//! transfer of Raft): it lets the voter that has most of its log catch up, and then asks it to stand at once.
//!
//! That voter asks nobody whether it could win, since the others still hear the leader; all else is an election as any other,
//! with a term and votes that are on disks. Whether it comes to one is not promised: then the leader goes on, or is missed.

use super::message::{QuorumBody, Voter};
use super::{Quorum, Role};
use crate::storage::Store;
use crate::{Instant, NodeId, Now, Outputs};

/// A leader's wish to lead no more.
#[derive(Clone, Copy, Debug)]
pub(super) struct HandOver {
    /// When it began.
    since: Instant,
    /// When a voter was last asked to stand.
    asked_at: Option<Instant>,
}

impl Quorum {
    /// Gives the leadership to another voter where there is one: to who has most of the log, and of equals to who ranks highest;
    /// not to who has no rank. True while that is under way, for an election timeout at most: then this is to be called again
    /// with each step, and nothing to be proposed, since what has not reached the other voter keeps it waiting.
    pub fn hand_over<R: Ord>(
        &mut self,
        now: Now,
        rank: impl Fn(NodeId) -> Option<R>,
        out: &mut Outputs,
    ) -> bool {
        let (timeout, pause) =
            (self.config.quorum.election_timeout_ms, self.config.quorum.heartbeat_ms);
        let (now, end, voters) = (now.mono, self.log.end(), self.log.voters());
        let Role::Leader(leading) = &mut self.role else { return false };
        let begun = HandOver { since: now, asked_at: None };
        let hand_over = leading.hand_over.get_or_insert(begun);
        if now.ms_since(hand_over.since) >= timeout {
            return false;
        }
        if hand_over.asked_at.is_some_and(|at| now.ms_since(at) < pause) {
            return true;
        }
        let heirs = leading.progress.iter().filter(|(peer, progress)| {
            let is_voter = voters.get(&peer.node) == Some(&peer.incarnation);
            let is_heard = now.ms_since(progress.heard) < timeout;
            is_voter && is_heard && rank(peer.node).is_some()
        });
        let most = heirs.max_by_key(|(peer, progress)| (progress.matched, rank(peer.node)));
        let Some((heir, progress)) = most else { return false };
        if progress.matched == end {
            hand_over.asked_at = Some(now);
            let heir = *heir;
            let message = self.message(heir.incarnation, QuorumBody::Stand);
            out.send(heir.node, message.expect("a leader has a cluster"));
        }
        true
    }

    /// When this node is about to stop: it takes over from nobody.
    pub fn leave(&mut self) {
        self.leaves = true;
    }

    /// Stands because the leader of this term wants it to.
    pub(super) fn on_stand(&mut self, from: Voter, store: &mut Store) {
        let is_leader = matches!(&self.role, Role::Follower(following) if following.leader == from);
        if is_leader && !self.leaves && self.founding.acts && self.is_voter() {
            self.become_candidate(store);
        }
    }
}
