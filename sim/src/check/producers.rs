//! I3: what a replica knows of idempotent producers follows from its log, whatever was cut, trimmed, recovered or begun anew.

use std::collections::BTreeMap;

use milena_core::LogId;
use milena_core::storage::ProducerView;

use super::replica::Batch;
use super::{Checked, Checks, Violation};

/// Batches of a producer that a log remembers.
const KEPT: usize = 5;

/// A producer's epoch and its last batches, each by its base sequence, offset and length.
type Known = (i16, Vec<(i32, i64, i64)>);

impl Checks {
    /// I3, for one replica: of each producer it knows the epoch and the last batches that stand in its log, or stood there before
    /// they were trimmed. One that nobody counts on may have begun at an offset, and know less until it has what its leader had
    /// committed then.
    pub fn knows_producers<'a>(
        &self,
        node: usize,
        log: LogId,
        known: impl Iterator<Item = ProducerView<'a>>,
    ) -> Checked {
        let Some(log) = self.logs.iter().position(|truth| truth.id == log) else { return Ok(()) };
        // A power loss may bring back what was deleted with its topic.
        if self.logs[log].deleted {
            return Ok(());
        }
        let replica = self.nodes[node].logs.get(log).and_then(Option::as_ref);
        let Some(replica) = replica.filter(|replica| !replica.damaged && !replica.recovering)
        else {
            return Ok(());
        };
        // Where it begins at an offset, all below was committed.
        let first = replica.batches.first().map_or(replica.end, |batch| batch.base);
        let before = self.logs[log].committed.iter().take_while(|batch| batch.next <= first);
        let mut expected: BTreeMap<i64, Known> = BTreeMap::new();
        for Batch { base, next, produced, .. } in before.chain(&replica.batches) {
            let Some((id, epoch, sequence)) = *produced else { continue };
            let known = expected.entry(id).or_insert_with(|| (epoch, Vec::new()));
            if known.0 != epoch {
                *known = (epoch, Vec::new());
            }
            if known.1.len() == KEPT {
                known.1.remove(0);
            }
            known.1.push((sequence, *base, *next));
        }
        let batches = |view: &ProducerView| {
            let known = view.batches.iter();
            known.map(|batch| (batch.base_sequence, batch.base, batch.next())).collect()
        };
        let known: BTreeMap<i64, Known> =
            known.map(|view| (view.id, (view.epoch, batches(&view)))).collect();
        let counts = self.is_eligible(node, log);
        // Until it has all that its leader had committed, it may lack what was among the last batches then, and is not now.
        let is_compacted = self.logs[log].records.is_some();
        let fits = |id: &i64| match (known.get(id), expected.get(id)) {
            (None, Some(_)) => !counts,
            (Some(is), Some(should)) => {
                let is_behind = is.0 == should.0 && should.1.ends_with(&is.1);
                is == should || !counts && (is_behind || is_compacted)
            }
            (_, None) => false,
        };
        let mut ids = known.keys().chain(expected.keys());
        let Some(other) = ids.find(|id| !fits(id)).copied() else { return Ok(()) };
        let (is, should) = (known.get(&other), expected.get(&other));
        let at = self.at(node, log);
        let story = format!("{at} knows {is:?} of producer {other}, and its log has {should:?}");
        Err(Violation::new("I3", story))
    }
}
