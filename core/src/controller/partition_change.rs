//! The one place that changes a partition's record: in-sync set, eligible leader replicas, leader, epochs (KIP-966).
//!
//! The in-sync replicas (ISR) have every committed record. So does, while fewer than `min.insync.replicas` of them are
//! left, whoever left the set since then: nothing was committed without them. Those are the eligible leader replicas
//! (ELR), and from either set a leader may be taken without loss:
//!
//! ```text
//!            fenced, or slow, and the set stays at min ISR or more
//!      ISR ────────────────────────────────────────────────────────▶ out ◀── unclean: disk or data lost
//!       │ ▲                                                            │
//!       │ └── caught up in the present leader epoch (AlterPartition) ◀─┤
//!       ▼                                                              │
//!      ELR ── the set is at min ISR again ─────────────────────────────┘
//!        └─── elected, where the ISR is empty: the ISR is then this one
//! ```
//!
//! What Kafka has beside that, a last known leader that is elected when both sets are empty, is an unclean election by
//! itself and is not here: such a partition waits.

use crate::NodeId;
use crate::image::Partition;

/// What is to become of a partition.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// The new in-sync set, in any order; the present one if none.
    pub isr: Option<Vec<NodeId>>,
    /// A replica that may not have what was committed: it goes into neither set.
    pub unclean: Option<NodeId>,
    /// Whether the life of the unclean replica's data has ended, so that it must begin again under the next.
    pub renew: bool,
    /// A replica that takes over from a leader that could stay.
    pub prefer: Option<NodeId>,
}

impl Change {
    /// Without one replica, which left in good order.
    pub fn without(partition: &Partition, node: NodeId) -> Change {
        let isr = partition.isr.iter().copied().filter(|member| *member != node).collect();
        Change { isr: Some(isr), ..Change::default() }
    }

    /// Without one replica, which may not have what was committed.
    pub fn without_unclean(partition: &Partition, node: NodeId) -> Change {
        Change { unclean: Some(node), ..Change::without(partition, node) }
    }
}

/// The partition after a change. `unfenced` says who is in service once the change is done.
///
/// # Panics
///
/// Where the result would not be sane: the caller asked for a set that it had to refuse.
pub fn partition_change(
    old: &Partition,
    change: &Change,
    unfenced: impl Fn(NodeId) -> bool,
) -> Partition {
    let mut new = old.clone();
    new.partition_epoch = old.partition_epoch.checked_add(1).expect("epochs do not run out");
    if let Some(isr) = &change.isr {
        new.isr.clone_from(isr);
        new.isr.sort_unstable();
    }
    new.elr = eligible(old, &new.isr, change.unclean);
    elect(&mut new, change.prefer, &unfenced);
    if new.leader != old.leader {
        new.leader_epoch = old.leader_epoch.checked_add(1).expect("epochs do not run out");
    }
    if change.renew
        && let Some(index) = old.replicas.iter().position(|r| Some(*r) == change.unclean)
    {
        new.incarnations[index].0 += 1;
    }
    assert_sane(old, &new, &unfenced);
    new
}

/// E' = (E u I) \ I' \ U while I' is smaller than min ISR, nothing otherwise.
fn eligible(old: &Partition, isr: &[NodeId], unclean: Option<NodeId>) -> Vec<NodeId> {
    if isr.len() >= usize::from(old.min_isr) {
        return Vec::new();
    }
    let mut elr: Vec<NodeId> = old.elr.iter().chain(&old.isr).copied().collect();
    elr.retain(|node| !isr.contains(node) && Some(*node) != unclean);
    elr.sort_unstable();
    elr.dedup();
    elr
}

/// The leader stays if it can; else one in sync; else, where nobody is, an eligible one, which is then alone in sync;
/// else nobody leads. Among several the first by preference.
fn elect(new: &mut Partition, prefer: Option<NodeId>, unfenced: &impl Fn(NodeId) -> bool) {
    let valid = |node: &NodeId| new.isr.contains(node) && unfenced(*node);
    if let Some(node) = prefer.filter(valid) {
        new.leader = Some(node);
        return;
    }
    if new.leader.as_ref().is_some_and(valid) {
        return;
    }
    new.leader = new.replicas.iter().copied().find(valid);
    if new.leader.is_none() && new.isr.is_empty() {
        let eligible = |node: &NodeId| new.elr.contains(node) && unfenced(*node);
        new.leader = new.replicas.iter().copied().find(eligible);
        if let Some(leader) = new.leader {
            new.isr.push(leader);
            new.elr.retain(|node| *node != leader);
            if new.isr.len() >= usize::from(new.min_isr) {
                new.elr.clear();
            }
        }
    }
}

/// What holds of every partition, and of every step from one record of it to the next.
pub(super) fn assert_sane(old: &Partition, new: &Partition, unfenced: &impl Fn(NodeId) -> bool) {
    let set = |nodes: &[NodeId]| {
        nodes.windows(2).all(|pair| pair[0] < pair[1])
            && nodes.iter().all(|node| new.replicas.contains(node))
    };
    let min_isr = usize::from(new.min_isr);
    assert!((1..=new.replicas.len()).contains(&min_isr), "min ISR is an effective one");
    assert!(new.incarnations.len() == new.replicas.len(), "each replica has its incarnation");
    assert!(set(&new.isr) && set(&new.elr), "both sets are sorted sets of replicas");
    assert!(!new.isr.iter().any(|node| new.elr.contains(node)), "ISR and ELR share nobody");
    assert!(new.isr.iter().all(|node| unfenced(*node)), "nobody in sync is fenced");
    assert!(new.isr.len() < min_isr || new.elr.is_empty(), "no ELR beside a full ISR");
    assert!(new.leader.is_none_or(|node| new.isr.contains(&node)), "the leader is in sync");
    assert!(!new.isr.is_empty() || new.leader.is_none(), "nobody in sync, nobody leads");
    assert!(new.partition_epoch > old.partition_epoch, "every change raises the partition epoch");
    assert!(new.leader_epoch >= old.leader_epoch, "leader epochs do not fall");
    assert!(
        new.leader == old.leader || new.leader_epoch > old.leader_epoch,
        "a leader's own epoch"
    );
}
