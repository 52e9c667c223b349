//! The R rules, at the events of the metadata quorum.

use milena_core::{Epoch, Incarnation, LogId, NodeId, Offset};

use super::marks::Seen;
use super::{Checked, Checks, QUORUM, Violation};
use crate::disk::Disk;

impl Checks {
    /// R16: at most one founding record is ever acted upon, unless every disk was lost.
    pub(super) fn on_founded(&mut self, node: usize, cluster: u128) -> Checked {
        self.founded.insert(cluster);
        if self.founded.len() > 1 && !self.all_disks_lost {
            return Err(Violation::new(
                "R16",
                format!(
                    "node {} acts for cluster {cluster:x}, and another one was founded before",
                    node + 1
                ),
            ));
        }
        Ok(())
    }

    /// R4.
    pub(super) fn on_term(&mut self, node: usize, term: Epoch) -> Checked {
        let ghost = &mut self.nodes[node];
        if term < ghost.term {
            return Err(Violation::new(
                "R4",
                format!("node {} falls from term {} to {term}", node + 1, ghost.term),
            ));
        }
        if term > ghost.term {
            ghost.quorum_leader = None;
        }
        ghost.term = term;
        Ok(())
    }

    /// R2, over the whole life of a disk; R3: term and vote are on the disk of the voter when its vote leaves.
    pub(super) fn on_voted(
        &mut self,
        node: usize,
        disk: &Disk,
        term: Epoch,
        vote: (NodeId, Incarnation),
    ) -> Checked {
        self.speaks(node, "votes")?;
        let candidate = vote.0;
        let ghost = &self.nodes[node];
        if !ghost.locations.has_vote(disk, term, vote) {
            return Err(Violation::new(
                "R3",
                format!(
                    "node {} votes for {candidate} in term {term}, which is not on its disk",
                    node + 1
                ),
            ));
        }
        let voter = ghost.incarnation.map_or(0, |i| i.0);
        let before = *self.votes.entry((voter, term)).or_insert(vote);
        if before != vote {
            return Err(Violation::new(
                "R2",
                format!(
                    "node {} votes for {candidate} in term {term}, and before for {}",
                    node + 1,
                    before.0
                ),
            ));
        }
        Ok(())
    }

    /// R1, R4, R7.
    pub(super) fn on_quorum_leader(&mut self, node: usize, term: Epoch, end: Offset) -> Checked {
        if let Some(before) = self.elected.insert(term, node) {
            let property = if before == node { "R4" } else { "R1" };
            return Err(Violation::new(
                property,
                format!("nodes {} and {} both begin to lead term {term}", before + 1, node + 1),
            ));
        }
        self.on_quorum_follower(node, term, node as i32 + 1)?;
        self.nodes[node].quorum_leader = Some(term);
        let newest = self.elected.keys().next_back() == Some(&term);
        let committed = self.logs[QUORUM].committed_end();
        if newest && !self.quorum_holds_all(node) {
            let replica = self.replica(node, QUORUM);
            return Err(Violation::new(
                "R7",
                format!(
                    "node {} leads term {term} with a log up to {end} of which {} agrees, where {committed} is committed",
                    node + 1,
                    replica.agrees_to
                ),
            ));
        }
        Ok(())
    }

    /// How many leaders the quorum has had.
    pub fn leaders_elected(&self) -> usize {
        self.elected.len()
    }

    fn quorum_holds_all(&mut self, node: usize) -> bool {
        self.quorum_agrees_to(node) >= self.logs[QUORUM].committed_end()
    }

    fn quorum_agrees_to(&mut self, node: usize) -> Offset {
        self.replica(node, QUORUM);
        let committed = &self.logs[QUORUM].committed;
        let replica = self.nodes[node].logs[QUORUM].as_mut().expect("made above");
        replica.agree(committed);
        replica.agrees_to
    }

    /// R1 in its stronger form: no two nodes name different leaders of one term.
    pub(super) fn on_quorum_follower(&mut self, node: usize, term: Epoch, leader: i32) -> Checked {
        let named = *self.leaders_named.entry(term).or_insert(leader);
        if leader != node as i32 + 1 {
            self.nodes[node].quorum_leader = None;
        }
        if named != leader {
            return Err(Violation::new(
                "R1",
                format!("node {} follows {leader} in term {term}, others follow {named}", node + 1),
            ));
        }
        Ok(())
    }

    /// R3.
    pub(super) fn on_quorum_acknowledged(
        &mut self,
        node: usize,
        disk: &Disk,
        term: Epoch,
        end: Offset,
    ) -> Checked {
        self.speaks(node, "acknowledges to the quorum")?;
        self.must_be_durable(node, disk, QUORUM, end, "R3")?;
        let acknowledged = self.logs[QUORUM].acknowledged.entry((node, term)).or_insert(0);
        *acknowledged = (*acknowledged).max(end);
        Ok(())
    }

    /// R8 on a leader; on a follower that it commits nothing new.
    pub(super) fn on_quorum_committed(
        &mut self,
        node: usize,
        disk: &Disk,
        term: Epoch,
        end: Offset,
        counted: &[(NodeId, Incarnation)],
        voters: usize,
    ) -> Checked {
        let at = format!("node {} commits metadata up to {end} in term {term}", node + 1);
        let ghost = &mut self.nodes[node];
        if end < ghost.quorum_committed {
            return Err(Violation::new("R8", format!("{at}, after {}", ghost.quorum_committed)));
        }
        ghost.quorum_committed = end;
        if voters == 0 {
            let known = self.logs[QUORUM].committed_end();
            if end > known {
                return Err(Violation::new(
                    "R8",
                    format!("{at}, and no leader committed past {known}"),
                ));
            }
            return self.holds_what_is_committed(node, end, &at);
        }
        let last = self.replica(node, QUORUM).epoch_at(end - 1);
        if last != Some(term) {
            return Err(Violation::new("R8", format!("{at} by a record of term {last:?}")));
        }
        if counted.len() * 2 <= voters {
            return Err(Violation::new("R8", format!("{at} on {counted:?} of {voters} voters")));
        }
        let mut copies = 0_u32;
        for (member, incarnation) in counted {
            let index = (member.0 - 1) as usize;
            copies |= 1 << index;
            if index == node {
                self.must_be_durable(node, disk, QUORUM, end, "R8")?;
                if self.nodes[node].incarnation != Some(*incarnation) {
                    return Err(Violation::new(
                        "R8",
                        format!("{at} and counts itself as another incarnation"),
                    ));
                }
                continue;
            }
            let synced = self.logs[QUORUM].acknowledged.get(&(index, term)).copied();
            if synced.is_none_or(|synced| synced < end) {
                return Err(Violation::new(
                    "R8",
                    format!("{at} and counts node {member}, which acknowledged {synced:?}"),
                ));
            }
        }
        self.speaks(node, "commits")?;
        let truth = &mut self.logs[QUORUM];
        let replica = self.nodes[node].logs[QUORUM].as_mut().expect("a leader has a log");
        replica.agree(&truth.committed);
        let known = truth.committed_end();
        if replica.agrees_to < known.min(end) {
            return Err(Violation::new(
                "R9",
                format!("{at}, and differs from what is committed at {}", replica.agrees_to),
            ));
        }
        let first = replica.batches.partition_point(|batch| batch.base < known);
        for batch in &replica.batches[first..] {
            if batch.next > end {
                break;
            }
            truth.committed.push(*batch);
            truth.copies.push(copies);
        }
        Ok(())
    }

    /// P18: up to its commit offset the metadata log of a node is what the controllers committed.
    fn holds_what_is_committed(&mut self, node: usize, end: Offset, at: &str) -> Checked {
        if self.quorum_agrees_to(node) < end {
            let agrees = self.replica(node, QUORUM).agrees_to;
            return Err(Violation::new(
                "P18",
                format!("{at}, and its log is what is committed only up to {agrees}"),
            ));
        }
        Ok(())
    }

    /// R5, R10: a metadata log begins again only behind a snapshot that covers what it committed, or because it is damaged.
    pub(super) fn metadata_may_begin_again(&mut self, node: usize, start: Offset) -> Checked {
        let at = format!("node {} begins its metadata log again at {start}", node + 1);
        let agrees = self.quorum_agrees_to(node);
        let ghost = &self.nodes[node];
        if ghost.quorum_leader.is_some() {
            return Err(Violation::new("R5", format!("{at} while it leads")));
        }
        if start < ghost.quorum_committed {
            return Err(Violation::new(
                "R10",
                format!("{at}, below its commit offset {}", ghost.quorum_committed),
            ));
        }
        let replica = ghost.logs[QUORUM].as_ref().expect("made above");
        let held = agrees.min(self.logs[QUORUM].committed_end());
        if start < held && held > replica.start && !ghost.damage.touches(LogId::METADATA) {
            return Err(Violation::new(
                "R10",
                format!("{at}, and so removes what is committed up to {held}"),
            ));
        }
        Ok(())
    }

    /// R9: in order, once, and with one result everywhere.
    pub(super) fn on_applied(&mut self, node: usize, offset: Offset, hash: u64) -> Checked {
        let committed = self.logs[QUORUM].committed_end();
        let ghost = &mut self.nodes[node];
        if let Some(next) = ghost.applied.filter(|next| *next != offset) {
            return Err(Violation::new(
                "R9",
                format!("node {} applies {offset} where {next} is next", node + 1),
            ));
        }
        ghost.applied = Some(offset + 1);
        if offset >= committed {
            return Err(Violation::new(
                "R9",
                format!("node {} applies {offset}, and {committed} is committed", node + 1),
            ));
        }
        self.state_hash(node, offset + 1, hash)
    }

    /// R9 for a state that came as a snapshot: it is ahead of what was applied, and committed.
    pub(super) fn on_snapshot(&mut self, node: usize, end: Offset, hash: u64) -> Checked {
        let committed = self.logs[QUORUM].committed_end();
        let applied = self.nodes[node].applied.replace(end);
        if applied.is_some_and(|applied| end <= applied) || end > committed {
            return Err(Violation::new(
                "R9",
                format!(
                    "node {} takes a snapshot up to {end} after {applied:?}, and {committed} is committed",
                    node + 1
                ),
            ));
        }
        self.marks.seen(Seen::SnapshotInstalled);
        self.state_hash(node, end, hash)
    }

    fn state_hash(&mut self, node: usize, end: Offset, hash: u64) -> Checked {
        let index = usize::try_from(end).unwrap_or(0);
        if self.applied.len() <= index {
            self.applied.resize(index + 1, 0);
        }
        let known = &mut self.applied[index];
        if *known == 0 {
            *known = hash;
        }
        if *known != hash {
            return Err(Violation::new(
                "R9",
                format!("node {} has another state than others at offset {end}", node + 1),
            ));
        }
        Ok(())
    }
}
