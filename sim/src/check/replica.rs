//! What the simulator knows of one replica's log: the batches it appended, what recovery may bring back, how far its disk
//! was seen to hold them, and how far it agrees with what is committed.

use std::collections::BTreeMap;

use milena_core::{Epoch, Instant, NodeId, Offset, Timestamp};

/// One batch, equal to those of other replicas in all but `born` and `appended`.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// Offset of its first record.
    pub base: Offset,
    /// Offset after its last.
    pub next: Offset,
    /// Leader epoch, or term.
    pub epoch: Epoch,
    /// Its CRC-32C, which stands for its content.
    pub crc: u32,
    /// Bytes.
    pub size: u32,
    /// From when it counts for retention on this node.
    pub born: Timestamp,
    /// When this node appended it, by its wall clock, or when it last started, if that showed less.
    pub appended: Timestamp,
    /// Of an idempotent producer: its id, its epoch and its number of the first record.
    pub produced: Option<(i64, i16, i32)>,
}

impl PartialEq for Batch {
    fn eq(&self, other: &Batch) -> bool {
        let content = |batch: &Batch| (batch.base, batch.next, batch.epoch, batch.crc, batch.size);
        content(self) == content(other)
    }
}

impl Eq for Batch {}

/// A truncation that a power loss may undo, because nothing says yet that it is on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Undo {
    to: Offset,
    removed: Vec<Batch>,
}

/// What recovery gave back does not follow from what was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecoveryError {
    /// Less than what was acknowledged as durable.
    Short {
        /// What must be there at least.
        durable: Offset,
    },
    /// No state that the log ever had.
    Foreign,
}

/// One replica's log on one life of its disk.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReplicaLog {
    /// First offset.
    pub start: Offset,
    /// Offset after the last record, in memory.
    pub end: Offset,
    /// Batches from some offset at or below the start on, dense.
    pub batches: Vec<Batch>,
    undo: Vec<Undo>,
    /// Where truncations cut it.
    pub cuts: Vec<Offset>,
    /// Everything below was found on the modelled disk when it was acknowledged.
    pub durable_to: Offset,
    /// Everything from the start to here equals what is committed.
    pub agrees_to: Offset,
    /// Whether the replica said that its data is damaged.
    pub damaged: bool,
    /// Whether its node was started and has not yet said what it recovered of it.
    pub recovering: bool,
    /// The epoch that it leads, if it leads.
    pub leading: Option<Epoch>,
    /// Epochs that it led in this run of its node.
    pub led: Vec<Epoch>,
    /// The highest epoch that it led or followed in this run of its node.
    pub epoch: Epoch,
    /// Its high watermark in the epoch that it leads.
    pub high_watermark: Offset,
    /// Of each follower in the epoch that it leads: how far it has come, and when it last had all there was.
    pub followers: BTreeMap<NodeId, (Offset, Option<Instant>)>,
}

impl ReplicaLog {
    /// Index of the batch that begins at an offset.
    pub fn at(&self, base: Offset) -> Option<usize> {
        self.batches.binary_search_by_key(&base, |batch| batch.base).ok()
    }

    /// Epoch of the record at an offset.
    pub fn epoch_at(&self, offset: Offset) -> Option<Epoch> {
        let after = self.batches.partition_point(|batch| batch.base <= offset);
        let batch = self.batches.get(after.checked_sub(1)?)?;
        (offset < batch.next).then_some(batch.epoch)
    }

    /// Puts a batch at the end.
    pub fn append(&mut self, batch: Batch) {
        if self.batches.is_empty() && self.start == self.end {
            self.end = batch.base;
        }
        self.end = batch.next;
        self.batches.push(batch);
    }

    /// Cuts at an offset and gives what was cut.
    pub fn truncate(&mut self, to: Offset) -> &[Batch] {
        let keep = self.batches.partition_point(|batch| batch.next <= to);
        let removed = self.batches.split_off(keep);
        self.end = to.min(self.end);
        self.durable_to = self.durable_to.min(to);
        self.agrees_to = self.agrees_to.min(to);
        self.cuts.push(to);
        self.undo.push(Undo { to, removed });
        &self.undo.last().expect("just pushed").removed
    }

    /// Begins again, empty, at an offset.
    pub fn reset(&mut self, start: Offset) {
        let removed = std::mem::take(&mut self.batches);
        self.cuts.clear();
        let keep = Undo { to: Offset::MIN, removed };
        self.undo.push(keep);
        (self.start, self.end) = (start, start);
        // Until something after it is acknowledged, a power loss may bring back the log as it was.
        self.durable_to = self.durable_to.min(start);
        self.agrees_to = start;
        self.damaged = false;
    }

    /// Everything below an offset is on disk, and with it every truncation below it: of one at the offset or above nothing is
    /// said, since what stands below is the same with it and without.
    pub fn durable(&mut self, to: Offset) {
        self.durable_to = self.durable_to.max(to);
        self.undo.retain(|undo| undo.to >= to);
    }

    /// Moves `agrees_to` along what is committed.
    pub fn agree(&mut self, committed: &[Batch]) {
        self.agrees_to = self.agrees_to.max(self.start);
        let (Some(mut mine), Ok(mut theirs)) = (
            self.at(self.agrees_to),
            committed.binary_search_by_key(&self.agrees_to, |batch| batch.base),
        ) else {
            return;
        };
        while let (Some(a), Some(b)) = (self.batches.get(mine), committed.get(theirs)) {
            if a != b {
                return;
            }
            self.agrees_to = a.next;
            mine += 1;
            theirs += 1;
        }
    }

    /// Takes what recovery gave back: some state that the log had, no older than what was acknowledged.
    pub fn recover(
        &mut self,
        start: Offset,
        end: Offset,
        last_epoch: Epoch,
    ) -> Result<(), RecoveryError> {
        self.leading = None;
        self.epoch = 0;
        self.high_watermark = 0;
        self.recovering = false;
        // What a failing read called damage may read well in the next run; if not, the replica says so again.
        self.damaged = false;
        let durable = self.durable_to;
        let mut state = std::mem::take(&mut self.batches);
        let mut undo = std::mem::take(&mut self.undo);
        let found = loop {
            let keep = state.partition_point(|batch| batch.next <= end);
            let last = keep.checked_sub(1).map(|index| state[index]);
            let fits = last.is_some_and(|last| last.next == end && last.epoch == last_epoch);
            if fits || end == start {
                state.truncate(keep);
                break Some(state);
            }
            // Perhaps the last truncation never reached the disk: what it cut is back.
            let Some(last) = undo.pop() else { break None };
            if last.to == Offset::MIN {
                state = last.removed;
            } else {
                state.truncate(state.partition_point(|batch| batch.next <= last.to));
                state.extend(last.removed);
            }
        };
        self.start = start;
        self.end = end;
        self.agrees_to = self.agrees_to.min(end).max(start);
        let Some(state) = found else {
            self.durable_to = end;
            return Err(RecoveryError::Foreign);
        };
        self.batches = state;
        // What was cut by a truncation that is undone must be compared again.
        self.agrees_to = start;
        self.durable_to = durable.min(end);
        if end < durable { Err(RecoveryError::Short { durable }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(base: Offset, epoch: Epoch) -> Batch {
        let crc = (base * 100) as u32 + epoch as u32;
        Batch { base, next: base + 2, epoch, crc, size: 100, born: 0, appended: 0, produced: None }
    }

    fn log(batches: &[Batch]) -> ReplicaLog {
        let mut log = ReplicaLog::default();
        batches.iter().for_each(|batch| log.append(*batch));
        log
    }

    #[test]
    fn agreement_stops_at_the_first_difference() {
        let mut log = log(&[batch(0, 1), batch(2, 1), batch(4, 1)]);
        log.agree(&[batch(0, 1), batch(2, 1), batch(4, 2), batch(6, 2)]);
        assert_eq!(log.agrees_to, 4);
        log.truncate(4);
        log.append(batch(4, 2));
        log.agree(&[batch(0, 1), batch(2, 1), batch(4, 2), batch(6, 2)]);
        assert_eq!(log.agrees_to, 6);
    }

    #[test]
    fn recovery_may_lose_what_was_not_acknowledged_and_no_more() {
        let mut log = log(&[batch(0, 1), batch(2, 1), batch(4, 1)]);
        log.durable(4);
        assert_eq!(log.clone().recover(0, 4, 1), Ok(()));
        assert_eq!(log.clone().recover(0, 6, 1), Ok(()));
        assert_eq!(log.clone().recover(0, 2, 1), Err(RecoveryError::Short { durable: 4 }));
        assert_eq!(log.clone().recover(0, 4, 2), Err(RecoveryError::Foreign));
        assert_eq!(log.recover(0, 8, 1), Err(RecoveryError::Foreign));
    }

    #[test]
    fn a_truncation_may_be_undone_until_something_after_it_was_acknowledged() {
        let mut log = log(&[batch(0, 1), batch(2, 1)]);
        log.durable(4);
        log.truncate(2);
        log.append(batch(2, 3));
        let mut undone = log.clone();
        assert_eq!(undone.recover(0, 4, 1), Ok(()));
        assert_eq!(undone.batches, [batch(0, 1), batch(2, 1)]);
        log.durable(2);
        assert_eq!(log.clone().recover(0, 4, 1), Ok(()), "what is below it is the same");
        log.durable(4);
        assert_eq!(log.clone().recover(0, 4, 1), Err(RecoveryError::Foreign));
        assert_eq!(log.recover(0, 4, 3), Ok(()));
    }

    #[test]
    fn a_log_begun_again_may_come_back_as_it_was_until_that_was_acknowledged() {
        let mut log = log(&[batch(0, 1), batch(2, 1)]);
        log.durable(4);
        log.reset(10);
        assert_eq!(log.clone().recover(0, 4, 1), Ok(()));
        assert_eq!(log.clone().recover(10, 10, -1), Ok(()));
        assert_eq!(log.clone().recover(0, 2, 1), Err(RecoveryError::Short { durable: 4 }));
        log.durable(10);
        assert_eq!(log.recover(0, 4, 1), Err(RecoveryError::Foreign));
    }

    #[test]
    fn epochs_are_found_inside_batches() {
        let log = log(&[batch(0, 1), batch(2, 4)]);
        assert_eq!(log.epoch_at(1), Some(1));
        assert_eq!(log.epoch_at(3), Some(4));
        assert_eq!(log.epoch_at(4), None);
    }
}
