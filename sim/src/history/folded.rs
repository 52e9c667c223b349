//! What clients saw of compacted topics: of each key the last value stays, earlier ones may go.

use std::collections::BTreeMap;
use std::ops::Range;

use milena_core::Offset;

use super::{Fate, History, Partition, ValueId};
use crate::check::{Checked, Violation};

impl History {
    /// How many keys a partition has, where its topic is compacted.
    pub fn keys(&self, place: usize) -> Option<u64> {
        self.compacted.get(&self.partitions[place].topic).copied()
    }

    /// A value is one of a key, or ends it.
    pub fn key(&mut self, value: ValueId, key: u64, ends: bool) {
        let known = &mut self.values[value as usize];
        known.key = Some((key, ends));
        self.partitions[known.partition].by_key.entry(key).or_default().push(value);
    }

    /// Whether a value stands, or may, where nobody has seen it: one that was sent twice without a number may stand twice.
    fn may_stand_unseen(&self, value: ValueId) -> bool {
        let known = &self.values[value as usize];
        let may_be_twice = known.attempts > 1 && known.number.is_none();
        known.attempts > 0 && known.fate != Fate::Refused && (known.seen.is_none() || may_be_twice)
    }

    /// A consumer was led past these offsets. What is known to have stood there may go where a later value of its key stands,
    /// or may, or where it ends its key.
    pub fn skip(&self, place: usize, offsets: Range<Offset>) -> Checked {
        let partition = &self.partitions[place];
        if self.contested.contains(&partition.topic) {
            // What was sent by name may stand in this topic or in another one.
            return Ok(());
        }
        for offset in offsets {
            let seen = partition.seen.get(offset as usize).copied().unwrap_or(0);
            let Some(value) = seen.checked_sub(1) else { continue };
            let may_go = self.values[value as usize].key.is_some_and(|(key, ends)| {
                ends || partition.by_key[&key].iter().rev().any(|other| {
                    let seen = self.values[*other as usize].seen;
                    seen.is_some_and(|(_, at)| at > offset) || self.may_stand_unseen(*other)
                })
            });
            if !may_go {
                let story = format!(
                    "{}-{}: offset {offset} is left out, where value {value} stood, the last of its key",
                    partition.topic, partition.index
                );
                return Err(Violation::new("poll-skip", story));
            }
        }
        Ok(())
    }

    /// The final read found a record of a compacted topic.
    pub fn found(&mut self, place: usize, offset: Offset) {
        self.partitions[place].found.insert(offset);
    }

    /// After the final read: of each key it found the last value. If that ended it, it may be gone, and an earlier one may have been
    /// read before it went; what a log has at one time is judged by the ghosts (K3). What nobody has seen may have ended it.
    pub(super) fn judge_fold(&self, partition: &Partition) -> Checked {
        let Some((start, end)) = partition.last_read else { return Ok(()) };
        let is_unsure = self.contested.contains(&partition.topic) || partition.deleted;
        if !self.compacted.contains_key(&partition.topic) || is_unsure || partition.refuses {
            return Ok(());
        }
        let mut last: BTreeMap<u64, (Offset, ValueId, bool)> = BTreeMap::new();
        let mut found: BTreeMap<u64, Offset> = BTreeMap::new();
        for offset in start..end {
            let seen = partition.seen.get(offset as usize).copied().unwrap_or(0);
            let Some(value) = seen.checked_sub(1) else { continue };
            let Some((key, ends)) = self.values[value as usize].key else { continue };
            last.insert(key, (offset, value, ends));
            if partition.found.contains(&offset) {
                found.insert(key, offset);
            }
        }
        for (key, (offset, value, ends)) in last {
            let is_unseen_end = |other: &ValueId| {
                let known = &self.values[*other as usize];
                known.key == Some((key, true)) && self.may_stand_unseen(*other)
            };
            let has_ended = || ends || partition.by_key[&key].iter().any(is_unseen_end);
            if found.get(&key) != Some(&offset) && !has_ended() {
                let story = format!(
                    "{}-{}: the last value of key {key} is {value} at offset {offset}, and the final read of {start}..{end} \
                     found {:?}",
                    partition.topic,
                    partition.index,
                    found.get(&key)
                );
                return Err(Violation::new("fold", story));
            }
        }
        Ok(())
    }
}
