//! What no node may ever do, judged from outside (R1 to R10 and R16 of the invariants).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use milena_core::quorum::Quorum;
use milena_core::storage::Store;
use milena_core::trace::{Event, Mark};
use milena_core::{Epoch, Incarnation, LogId, NodeId, Offset};

/// The truth that no node knows.
#[derive(Default)]
pub struct Ghost {
    leaders: BTreeMap<Epoch, NodeId>,
    votes: BTreeMap<(NodeId, Incarnation, Epoch), (NodeId, Incarnation)>,
    terms: BTreeMap<(NodeId, Incarnation), Epoch>,
    /// Every record ever appended: what it is, and the term before it.
    records: BTreeMap<(Offset, Epoch), (Bytes, Epoch)>,
    /// What some leader committed, by offset.
    pub committed: Vec<(Epoch, Bytes)>,
    applied: BTreeMap<Offset, (Epoch, Bytes)>,
    clusters: BTreeSet<u128>,
    /// Disks destroyed so far, by node.
    pub destroyed: BTreeSet<NodeId>,
    nodes: usize,
    /// Rare paths taken.
    pub sometimes: BTreeMap<Mark, u64>,
}

/// Where a node stood before the call that is judged.
pub struct Before {
    pub commit: Offset,
    /// Whether its term and vote were on the disk.
    pub promise_is_durable: bool,
    pub was_leader_in: Option<Epoch>,
}

impl Ghost {
    /// Before anything happened to so many controllers.
    pub fn new(nodes: usize) -> Ghost {
        Ghost { nodes, ..Ghost::default() }
    }

    /// Judges what one call of one node said.
    pub fn judge(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        before: &Before,
        quorum: &Quorum,
        store: &Store,
        events: &[Event],
    ) {
        let on_disk = || store.log(LogId::METADATA).map_or(0, |log| log.flushed_end());
        for event in events {
            match event {
                Event::QuorumLeader { term, end } => {
                    let earlier = self.leaders.insert(*term, node);
                    assert!(
                        earlier.is_none(),
                        "R1/R4: node {node} and {earlier:?} lead term {term}"
                    );
                    let newest = self.leaders.keys().last() == Some(term);
                    if newest {
                        let known = *end as usize >= self.committed.len();
                        assert!(known, "R7: leader {node} of term {term} ends at {end}");
                        for (offset, (epoch, batch)) in self.committed.iter().enumerate() {
                            if offset as Offset >= quorum.view().log_start {
                                let here = quorum.record(offset as Offset);
                                assert_eq!(
                                    here,
                                    Some((*epoch, batch)),
                                    "R7: leader {node} at {offset}"
                                );
                            }
                        }
                    }
                }
                Event::QuorumFollower { term, leader } => {
                    let known = self.leaders.get(term);
                    assert_eq!(
                        known,
                        Some(leader),
                        "R1: node {node} follows another one in {term}"
                    );
                }
                Event::Voted { term, candidate, incarnation: disk } => {
                    assert!(
                        before.promise_is_durable,
                        "R3: node {node} votes before it is durable"
                    );
                    let vote = (*candidate, *disk);
                    let earlier = self.votes.insert((node, incarnation, *term), vote);
                    assert!(
                        earlier.is_none_or(|e| e == vote),
                        "R2: node {node} votes twice in {term}"
                    );
                }
                Event::Term { term } => {
                    let last = self.terms.insert((node, incarnation), *term);
                    assert!(
                        last.is_none_or(|last| last < *term),
                        "R4: node {node} falls to {term}"
                    );
                }
                Event::Appended { log, base, epoch, .. } if *log == LogId::METADATA => {
                    // Appended and cut within one call is judged when it is appended again.
                    if let Some((here, batch)) = quorum.record(*base)
                        && here == *epoch
                    {
                        let previous = base.checked_sub(1).and_then(|at| quorum.record(at));
                        let previous = previous.map_or(-1, |(epoch, _)| epoch);
                        let earlier = self.records.entry((*base, *epoch));
                        let earlier = earlier.or_insert_with(|| (batch.clone(), previous));
                        assert_eq!(&earlier.0, batch, "R6: two records at {base} in term {epoch}");
                        if previous >= 0 && earlier.1 >= 0 {
                            assert_eq!(earlier.1, previous, "R6: two records before {base}");
                        }
                    }
                }
                Event::Truncated { log, to } if *log == LogId::METADATA => {
                    assert!(*to >= before.commit, "R10: node {node} cuts at {to}");
                    assert!(
                        before.was_leader_in != Some(quorum.term()),
                        "R5: leader {node} cuts its own log"
                    );
                }
                Event::QuorumAcknowledged { end, .. } => {
                    assert!(on_disk() >= *end, "R3: node {node} acknowledges {end}");
                }
                Event::QuorumCommitted { term, end, counted, voters } => {
                    assert!(*end > before.commit || *end >= quorum.commit());
                    if *voters == 0 {
                        assert!(self.committed.len() as Offset >= *end, "R8: {node} commits ahead");
                        continue;
                    }
                    assert!(counted.len() * 2 > *voters, "R8: {counted:?} of {voters}");
                    let last = quorum.record(*end - 1).map(|(epoch, _)| epoch);
                    assert_eq!(last, Some(*term), "R8: committed by counting an older term");
                    if counted.contains(&(node, incarnation)) {
                        assert!(on_disk() >= *end, "R3/R8: {node} counts itself before its disk");
                    }
                    self.commit(quorum, *end);
                }
                Event::Founded { cluster } => {
                    self.clusters.insert(*cluster);
                    let excused = self.destroyed.len() >= self.nodes;
                    assert!(self.clusters.len() <= 1 || excused, "R16: a second cluster");
                }
                Event::Sometimes(mark) => *self.sometimes.entry(*mark).or_default() += 1,
                _ => {}
            }
        }
    }

    fn commit(&mut self, quorum: &Quorum, end: Offset) {
        for offset in quorum.view().log_start..end {
            let (epoch, batch) = quorum.record(offset).expect("committed is in the log");
            match self.committed.get(offset as usize) {
                Some(known) => assert_eq!(known, &(epoch, batch.clone()), "R9: two at {offset}"),
                None => {
                    assert_eq!(self.committed.len() as Offset, offset, "committed without a gap");
                    self.committed.push((epoch, batch.clone()));
                }
            }
        }
    }

    /// Judges one applied record.
    pub fn apply(&mut self, node: NodeId, offset: Offset, epoch: Epoch, payload: &Bytes) {
        assert!(
            (offset as usize) < self.committed.len(),
            "R9: {node} applies what is not committed"
        );
        let known = self.applied.entry(offset).or_insert_with(|| (epoch, payload.clone()));
        assert_eq!(
            known,
            &(epoch, payload.clone()),
            "R9: {node} applies another record at {offset}"
        );
    }
}
