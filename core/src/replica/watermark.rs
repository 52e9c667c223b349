//! The high watermark of a partition as a pure function of what its leader knows.
//!
//! Two authorities keep the in-sync set, the controller that commits it and the leader that proposes it, and each is
//! behind the other at times. Everything that keeps that safe for the reader stands in these two functions: a proposal
//! counts as soon as it may have been committed (so the maximal set only grows while proposals stand), and only the
//! committed set's size can allow the high watermark to move (strict `min.insync.replicas`, KIP-966).

use crate::{NodeId, Offset};

/// The maximal in-sync set: the committed one and whatever any standing proposal adds. Sorted, each once.
pub fn maximal(committed: &[NodeId], standing: &[NodeId]) -> Vec<NodeId> {
    let mut all: Vec<NodeId> = committed.iter().chain(standing).copied().collect();
    all.sort_unstable();
    all.dedup();
    assert!(committed.iter().all(|node| all.binary_search(node).is_ok()), "maximal is a superset");
    assert!(
        !standing.is_empty() || all.iter().all(|node| committed.contains(node)),
        "without a proposal the maximal set is the committed one"
    );
    all
}

/// The high watermark after `current`: the least flushed end over the maximal set, if the committed set has `min_isr`
/// members; never lower than `current`. `flushed` gives the end that a member has on stable storage, none where it has
/// not acknowledged in this leader epoch.
pub fn high_watermark(
    current: Offset,
    committed: &[NodeId],
    standing: &[NodeId],
    min_isr: u16,
    flushed: impl Fn(NodeId) -> Option<Offset>,
) -> Offset {
    if committed.len() < usize::from(min_isr) || committed.is_empty() {
        return current;
    }
    let maximal = || committed.iter().chain(standing).copied();
    let Some(least) =
        maximal().map(&flushed).try_fold(Offset::MAX, |least, end| end.map(|end| least.min(end)))
    else {
        return current;
    };
    let moved = current.max(least);
    assert!(
        moved == current
            || committed.len() >= usize::from(min_isr)
                && maximal().all(|node| flushed(node).is_some_and(|end| end >= moved)),
        "the high watermark moves only over what every member of the maximal set has flushed"
    );
    moved
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule, offset by offset, as the text has it.
    fn naive(
        current: Offset,
        committed: &[NodeId],
        standing: &[NodeId],
        min_isr: u16,
        ends: &[Option<Offset>],
    ) -> Offset {
        let mut at = current;
        loop {
            let holds = |node: &NodeId| ends[node.0 as usize].is_some_and(|end| end > at);
            let all = committed.iter().all(holds) && standing.iter().all(holds);
            if committed.is_empty() || committed.len() < min_isr as usize || !all {
                return at;
            }
            at += 1;
        }
    }

    fn members() -> impl Strategy<Value = Vec<NodeId>> {
        prop::collection::btree_set(0..5, 0..=5)
            .prop_map(|set| set.into_iter().map(NodeId).collect())
    }

    proptest! {
        #[test]
        fn agrees_with_the_rule_taken_offset_by_offset(
            current in 0..12i64,
            committed in members(),
            standing in members(),
            min_isr in 0..4u16,
            ends in prop::collection::vec(prop::option::weighted(0.9, 0..12i64), 5),
        ) {
            let found = high_watermark(current, &committed, &standing, min_isr, |n| ends[n.0 as usize]);
            prop_assert_eq!(found, naive(current, &committed, &standing, min_isr, &ends));
        }

        #[test]
        fn is_never_lowered_by_a_smaller_proposal(
            committed in members(),
            ends in prop::collection::vec(prop::option::weighted(0.9, 0..12i64), 5),
            keep in 0..5usize,
        ) {
            let smaller = &committed[..keep.min(committed.len())];
            prop_assert_eq!(
                high_watermark(0, &committed, smaller, 1, |n| ends[n.0 as usize]),
                high_watermark(0, &committed, &[], 1, |n| ends[n.0 as usize]),
            );
        }
    }
}
