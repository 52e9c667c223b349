//! K1 to K3: what compaction leaves of a log, read from the segments that its node shows.
//!
//! Offsets stay as they are, so a cleaned batch stands exactly where some committed batches of one epoch stood. A replica that
//! has it counts as having those; which of their records are left is asked here alone.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use bytes::Bytes;
use milena_core::storage::Log;
use milena_core::{Epoch, LogId, Offset, ProducerId, Timestamp};
use milena_wire::batch::{self, BatchHeader, DecompressLimit, record_iterator};

use super::locations::Map;
use super::marks::Seen;
use super::replica::Batch;
use super::{Checked, Checks, Violation};
use crate::disk::Disk;

/// More than any simulated batch opens to.
const OPENED_MAX: DecompressLimit = DecompressLimit(16 << 20);

/// What is compared of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Content {
    offset: Offset,
    /// Stands for its key.
    key: u64,
    /// Stands for all of it.
    whole: u64,
    /// Whether it has no value, and so ends its key.
    ends: bool,
}

/// What is committed of a compacted log, record by record.
#[derive(Debug, Default)]
pub struct Records {
    /// By offset.
    all: Vec<Content>,
    /// Whether the records of some batch could not be read when it was committed: then nobody can say which may go.
    unknown: bool,
    /// The offset of the last record of each key.
    last: Map<u64, Offset>,
    /// The earliest time at which a cleaned tombstone may go, of all times that some replica has given it.
    horizons: BTreeMap<Offset, Timestamp>,
    /// Batches that were taken from the truth so far.
    batches: usize,
}

fn hash(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

fn contents(batch: &[u8]) -> Option<Vec<Content>> {
    let records = record_iterator(&Bytes::copy_from_slice(batch), OPENED_MAX).ok()?;
    let content = |record: batch::Record| Content {
        offset: record.offset,
        key: hash(&record.key),
        whole: hash(&(&record.key, &record.value, &record.headers, record.timestamp)),
        ends: record.value.is_none(),
    };
    records.map(|record| record.ok().map(content)).collect()
}

/// Of committed batches those that another one stands for, if it stands for some: all of one epoch, from its first offset to its
/// last.
pub(super) fn stood_for(
    committed: &[Batch],
    base: Offset,
    next: Offset,
    epoch: Epoch,
) -> Option<&[Batch]> {
    let first = committed.binary_search_by_key(&base, |batch| batch.base).ok()?;
    let count = committed[first..].iter().position(|batch| batch.next >= next)? + 1;
    let run = &committed[first..first + count];
    let fits = run[count - 1].next == next && run.iter().all(|batch| batch.epoch == epoch);
    fits.then_some(run)
}

impl Checks {
    /// Takes note of the records of what a leader has just committed, as they stand on its disk.
    pub(super) fn note_records(&mut self, node: usize, disk: &Disk, log: usize) {
        let truth = &mut self.logs[log];
        let Some(records) = truth.records.as_mut() else { return };
        for batch in &truth.committed[records.batches..] {
            let bytes = self.nodes[node].locations.bytes(disk, truth.id, batch);
            let Some(found) = bytes.and_then(contents) else {
                records.unknown = true;
                continue;
            };
            for content in &found {
                records.last.insert(content.key, content.offset);
            }
            records.all.extend(found);
        }
        records.batches = truth.committed.len();
    }

    /// A follower of a compacted log is given what its leader has made of some committed batches: it counts as having them.
    /// False where the batch is what was written, or stands for nothing.
    pub(super) fn stands_for_others(&mut self, node: usize, log: usize, batch: &Batch) -> bool {
        let truth = &self.logs[log];
        if truth.records.is_none() {
            return false;
        }
        let Some(run) = stood_for(&truth.committed, batch.base, batch.next, batch.epoch) else {
            return false;
        };
        if let [only] = run
            && only.crc == batch.crc
        {
            return false;
        }
        let Batch { born, appended, .. } = *batch;
        let mut run: Vec<Batch> =
            run.iter().map(|original| Batch { born, appended, ..*original }).collect();
        // Of whom the leader has forgotten the batch says nothing, and so nothing is known here.
        for original in &mut run {
            let is_forgotten = |(id, ..): &mut (ProducerId, i16, i32)| {
                truth.forgotten.iter().any(|(forgotten, _)| forgotten == id)
            };
            if original.produced.take_if(is_forgotten).is_some() {
                original.produced = batch.produced;
            }
        }
        self.nodes[node].locations.stand_in(truth.id, batch, &run);
        let replica = self.replica(node, log);
        run.into_iter().for_each(|original| replica.append(original));
        true
    }

    /// K1: what stands in a compacted log stands for committed batches of one epoch, exactly, and each of its records is theirs. K2:
    /// a record that is gone has a later one of its key that is committed, or was a tombstone whose time had come, of which the
    /// log says that it may be gone. K3: where a tombstone is gone, so is what it ended.
    pub fn is_compacted_well(&mut self, node: usize, disk: &Disk, id: LogId, log: &Log) -> Checked {
        let latest = self.latest;
        let index = self.log_index(id);
        let at = self.at(node, index);
        let truth = &mut self.logs[index];
        let Some(records) = truth.records.as_mut() else { return Ok(()) };
        let ghost = &mut self.nodes[node];
        let Some(replica) = ghost.logs.get_mut(index).and_then(Option::as_mut) else {
            return Ok(());
        };
        let is_unsure = replica.damaged || replica.recovering || ghost.damage.touches(id);
        if records.unknown || truth.deleted || is_unsure || log.is_damaged() {
            return Ok(());
        }
        replica.agree(&truth.committed);
        let (start, upto) = (replica.start, replica.agrees_to);
        let wrong = |property, what: String| Err(Violation::new(property, format!("{at} {what}")));
        let mut present: Vec<Content> = Vec::new();
        let mut till = None;
        let mut is_cleaned = false;
        for (file, next, length) in log.files(id) {
            let mut bytes = disk.seen_bytes(&file, length);
            while let Some((header, batch)) = first_batch(bytes) {
                bytes = &bytes[batch.len()..];
                let (base, after) = (header.base_offset, header.next_offset());
                if after <= start {
                    continue;
                }
                if after > upto.min(next) {
                    break;
                }
                if till.is_some_and(|till| till != base) {
                    return wrong("K1", format!("goes on at {base} in {file}, after {till:?}"));
                }
                let epoch = header.partition_leader_epoch;
                let run = stood_for(&truth.committed, base, after, epoch);
                let within = records.all.partition_point(|record| record.offset < base)
                    ..records.all.partition_point(|record| record.offset < after);
                let theirs = &records.all[within];
                if let Some([batch]) = run
                    && batch.crc == header.crc
                {
                    present.extend(theirs);
                } else {
                    is_cleaned = true;
                    let found = contents(batch);
                    let Some(found) = found.filter(|_| run.is_some()) else {
                        return wrong(
                            "K1",
                            format!(
                                "has {base}..{after} of epoch {epoch} in {file}, which stands for nothing committed"
                            ),
                        );
                    };
                    if let Some(other) = found.iter().find(|record| !theirs.contains(record)) {
                        return wrong(
                            "K1",
                            format!("has {other:?} in {file}, which was never committed"),
                        );
                    }
                    if let Some(horizon) = header.delete_horizon() {
                        for record in found.iter().filter(|record| record.ends) {
                            let known = records.horizons.entry(record.offset).or_insert(horizon);
                            *known = horizon.min(*known);
                        }
                    }
                    present.extend(found);
                }
                till = Some(after);
            }
            // A write that is under way, or what is not committed: whatever comes after it is not judged.
            if till.is_none_or(|till| till < next.min(upto)) {
                break;
            }
        }
        let Some(till) = till.filter(|_| is_cleaned) else { return Ok(()) };
        let mut left = present.iter().map(|record| record.offset).peekable();
        let mut earliest: Map<u64, Offset> = Map::default();
        for record in present.iter().rev() {
            earliest.insert(record.key, record.offset);
        }
        let judged = records.all.partition_point(|record| record.offset < start)
            ..records.all.partition_point(|record| record.offset < till);
        for record in &records.all[judged] {
            if left.next_if_eq(&record.offset).is_some() {
                continue;
            }
            let offset = record.offset;
            if records.last[&record.key] > offset {
                continue;
            }
            let horizon = records.horizons.get(&offset);
            let has_come = horizon.is_some_and(|horizon| *horizon <= latest);
            if !record.ends || offset >= log.dropped() || !has_come {
                return wrong(
                    "K2",
                    format!(
                        "has lost {record:?}, the last of its key, before {} and at {latest}, where its horizon is {horizon:?}",
                        log.dropped()
                    ),
                );
            }
            if let Some(risen) = earliest.get(&record.key) {
                return wrong(
                    "K3",
                    format!("has offset {risen}, and not {record:?}, which ended its key"),
                );
            }
        }
        self.marks.seen(Seen::CompactionJudged);
        Ok(())
    }
}

/// The batch at the beginning of some bytes, if all of it is there.
fn first_batch(bytes: &[u8]) -> Option<(BatchHeader, &[u8])> {
    let size = batch::frame(bytes).ok()??;
    Some((BatchHeader::parse(bytes).ok()?, &bytes[..size]))
}
