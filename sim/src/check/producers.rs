//! I3: what a replica knows of idempotent producers follows from its log, whatever was cut, trimmed, recovered or begun anew.
//! I7: it forgets those that have appended nothing for long, and the lowest where it knows too many, and nobody else.

use std::collections::{BTreeMap, BTreeSet};

use milena_core::storage::ProducerView;
use milena_core::{LogId, Offset, ProducerId, Timestamp};

use super::marks::Seen;
use super::replica::{Batch, ReplicaLog};
use super::{Checked, Checks, Violation};

/// Batches of a producer that a log remembers.
const KEPT: usize = 5;

/// A batch of a producer: its base sequence, its first offset and the one after its last.
type Numbered = (i32, Offset, Offset);

/// A producer's epoch and its batches in that epoch.
type Known = (i16, Vec<Numbered>);

impl Checks {
    /// The batches of a replica, with what was committed below the first that it holds: where it begins at an offset, all below
    /// was.
    fn history_of(
        &self,
        node: usize,
        log: usize,
    ) -> Option<(&ReplicaLog, impl Iterator<Item = &Batch>)> {
        // A power loss may bring back what was deleted with its topic.
        if self.logs[log].deleted {
            return None;
        }
        let replica = self.nodes[node].logs.get(log)?.as_ref()?;
        if replica.damaged || replica.recovering {
            return None;
        }
        let first = replica.batches.first().map_or(replica.end, |batch| batch.base);
        let before = self.logs[log].committed.iter().take_while(move |batch| batch.next <= first);
        Some((replica, before.chain(&replica.batches)))
    }

    /// I7: a replica has just forgotten a producer. It has appended nothing here for as long as it is to be known, by this node's
    /// clock, or as many others as may be known have appended since.
    pub(super) fn on_forgot(&mut self, node: usize, id: LogId, producer: ProducerId) -> Checked {
        let log = self.log_index(id);
        let (wall, limits) = (self.clocks.wall, &self.storage);
        let Some((replica, batches)) = self.history_of(node, log) else { return Ok(()) };
        let end = replica.end;
        let mut last = None;
        let mut later = BTreeSet::new();
        for batch in batches {
            match batch.produced {
                Some((id, ..)) if id == producer => {
                    last = Some(batch);
                    later.clear();
                }
                Some((id, ..)) => drop(later.insert(id)),
                None => {}
            }
        }
        // Of one below the log's start nobody knows when this node heard of it.
        let own = last.filter(|last| replica.at(last.base).is_some());
        let since = own.map(|last| last.appended);
        let is_silent = |since: Timestamp| since + limits.producer_id_expiration_ms <= wall;
        let seen = if later.len() >= limits.producer_ids_max as usize {
            Seen::ProducerCrowdedOut
        } else if last.is_some() && since.is_none_or(is_silent) {
            Seen::ProducerExpired
        } else {
            let (at, later) = (self.at(node, log), later.len());
            let story = format!(
                "{at} forgets producer {producer} at {wall}, which appended last at {since:?}, and {later} others since"
            );
            return Err(Violation::new("I7", story));
        };
        self.logs[log].forgotten.push((producer, end));
        self.marks.seen(seen);
        Ok(())
    }

    /// I3, for one replica: of each producer it knows the epoch and the last batches that stand in its log, or stood there before
    /// they were trimmed, since it or one that it has copied forgot that producer. One that nobody counts on may have begun at an
    /// offset, and know less until it has what its leader had committed then.
    pub fn knows_producers<'a>(
        &self,
        node: usize,
        log: LogId,
        known: impl Iterator<Item = ProducerView<'a>>,
    ) -> Checked {
        let Some(&log) = self.indices.get(&log) else { return Ok(()) };
        let Some((replica, batches)) = self.history_of(node, log) else { return Ok(()) };
        let first = replica.batches.first().map_or(replica.end, |batch| batch.base);
        let mut expected: BTreeMap<ProducerId, Known> = BTreeMap::new();
        for Batch { base, next, produced, .. } in batches {
            let Some((id, epoch, sequence)) = *produced else { continue };
            let known = expected.entry(id).or_insert_with(|| (epoch, Vec::new()));
            if known.0 != epoch {
                *known = (epoch, Vec::new());
            }
            known.1.push((sequence, *base, *next));
        }
        let batches = |view: &ProducerView| {
            let known = view.batches.iter();
            known.map(|batch| (batch.base_sequence, batch.base, batch.next())).collect()
        };
        let known: BTreeMap<ProducerId, Known> =
            known.map(|view| (view.id, (view.epoch, batches(&view)))).collect();
        let counts = self.is_eligible(node, log);
        let is_compacted = self.logs[log].records.is_some();
        let none = (0, Vec::new());
        let fits = |id: &ProducerId| {
            let Some((epoch, all)) = expected.get(id) else { return false };
            let (known_epoch, known) = known.get(id).unwrap_or(&none);
            let (missing, rest) = all.split_at(all.len().saturating_sub(known.len()));
            let forgotten = self.logs[log].forgotten.iter().filter(|(other, _)| other == id);
            let ends: Vec<Offset> = forgotten.map(|(_, end)| *end).collect();
            // What a leader that had forgotten it has cleaned names it no more.
            if is_compacted && !ends.is_empty() {
                return known.iter().all(|batch| all.contains(batch));
            }
            let is_last = rest == known && (known.is_empty() || epoch == known_epoch);
            let (from, upto) = (
                missing.last().map_or(0, |(.., next)| *next),
                rest.first().map_or(Offset::MAX, |(_, base, _)| *base),
            );
            // A leader that had forgotten it said nothing of it where this replica began.
            let was_forgotten = !ends.is_empty()
                && ends.iter().chain([&first]).any(|end| (from..=upto).contains(end));
            let is_all = known.len() == all.len().min(KEPT) || was_forgotten;
            // Until it has all that its leader had committed, it may lack what was among the last batches then, and is not now.
            is_last && is_all || !counts && (is_last || is_compacted)
        };
        let mut ids = known.keys().chain(expected.keys());
        let Some(other) = ids.find(|id| !fits(id)).copied() else { return Ok(()) };
        let (is, should) = (known.get(&other), expected.get(&other));
        let at = self.at(node, log);
        let story = format!("{at} knows {is:?} of producer {other}, and its log has {should:?}");
        Err(Violation::new("I3", story))
    }

    /// L25: of a log's producers the one that appended first, where it should have been forgotten for that: it is known still,
    /// after so long.
    pub fn known_too_long<'a>(
        &self,
        wall: Timestamp,
        known: impl Iterator<Item = ProducerView<'a>>,
    ) -> Option<String> {
        let lowest = known.min_by_key(|view| view.last().base)?;
        let limits = &self.storage;
        let until = lowest.appended.saturating_add(limits.producer_id_expiration_ms);
        let slack = 2 * limits.retention_check_ms as i64;
        (until.saturating_add(slack) < wall).then(|| {
            let (id, appended) = (lowest.id, lowest.appended);
            format!("producer {id}, which appended last at {appended}, is known at {wall}")
        })
    }
}
