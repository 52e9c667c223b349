//! What clients saw, judged without looking into any node: the black-box half of the checkers.
//!
//! Every record holds a value that is never used twice, so that an offset read or acknowledged names the send that it came
//! from. Judged at once: two values at one offset, a value under another's partition or with changed bytes, a value whose
//! send was refused before the append, a value sent once that stands twice, an acknowledgement at or below one that was given
//! before the send began, a high watermark below one that was told before it was asked for, a poll that goes backwards or
//! leaves a gap. Judged after the final read: an acknowledged value that nobody can read.
//!
//! A topic is its id. Who writes or reads by name while the name passes from one topic to another cannot know which of them
//! answers, so that of such traffic only what the records hold is judged (see [`History::is_contested`]).

mod folded;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;
use milena_core::{Epoch, Offset, Timestamp};
use milena_wire::{ErrorCode, Uuid};

use crate::check::{Checked, Violation};
use crate::queue::{MS, Time};

/// Number of a value.
pub type ValueId = u64;

/// What is known of a value's send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// On its way, or never answered: it may appear once for each attempt.
    Unknown,
    /// Acknowledged at an offset. With acks=all it must stay there.
    Acknowledged {
        /// Where.
        offset: Offset,
        /// With which acks.
        all: bool,
    },
    /// Refused before the append, in each of its attempts: it never appears.
    Refused,
}

/// What is looked up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// The first record of a time or later.
    From(Timestamp),
    /// The record with the largest timestamp.
    Largest,
    /// Where an epoch ends.
    EpochEnd(Epoch),
}

/// What a consumer is shown of a record beside its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shown {
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// Whether that is the broker's.
    pub stamped: bool,
    /// The epoch of the leader that took it.
    pub epoch: Epoch,
}

#[derive(Clone, Debug)]
struct Value {
    partition: usize,
    attempts: u16,
    fate: Fate,
    timestamp: Timestamp,
    /// Whether its sender names the topic by its id, so that it is of no other that has the name.
    by_id: bool,
    /// Of an idempotent producer: who that is, and its number among the values of this producer in its partition.
    number: Option<((i64, i16), u64)>,
    /// In a compacted topic: its key, and whether it ends it.
    key: Option<(u64, bool)>,
    /// Where it was seen last: the partition and the offset.
    seen: Option<(usize, Offset)>,
    /// Highest offset acknowledged with acks=all in its partition when the send began.
    floor: Offset,
}

#[derive(Clone, Debug, Default)]
struct Partition {
    topic: String,
    id: Uuid,
    index: i32,
    /// Value + 1 by offset; 0 where none was seen.
    seen: Vec<u64>,
    /// When the records seen are from; [`UNKNOWN`] where none was.
    times: Vec<Timestamp>,
    /// First and last offset that was read of each epoch.
    epochs: BTreeMap<Epoch, (Offset, Offset)>,
    acknowledged_max: Option<Offset>,
    /// The highest high watermark that was told of it, by the leader epoch that told it.
    told: BTreeMap<Epoch, Offset>,
    deleted: bool,
    /// Whether it is offline because more of its disks were lost than it may lose and still be served.
    refuses: bool,
    /// What the final read found first, and where it ended.
    last_read: Option<(Offset, Offset)>,
    /// Values by key, in the order in which they were sent; in a compacted topic.
    by_key: BTreeMap<u64, Vec<ValueId>>,
    /// Offsets that the final read found; in a compacted topic.
    found: BTreeSet<Offset>,
}

/// Everything that clients saw.
#[derive(Clone, Debug, Default)]
pub struct History {
    values: Vec<Value>,
    partitions: Vec<Partition>,
    names: BTreeMap<(String, Uuid, i32), usize>,
    /// Names that were deleted at least once, and those that are not to exist.
    contested: BTreeSet<String>,
    deleted: BTreeSet<String>,
    /// Names of topics whose records have the broker's time.
    stamped: BTreeSet<String>,
    /// Names of topics that are compacted, and how many keys each of their partitions has.
    compacted: BTreeMap<String, u64>,
    /// Producer ids that were given out.
    producers: BTreeSet<i64>,
    /// Whether logs forget producers that still write. Then a batch that is sent again may stand twice, or out of order.
    pub forgetful: bool,
    /// How long a batch may wait to be acknowledged, where that is judged.
    pub gap_max: Option<Time>,
    /// Values acknowledged with acks=all.
    pub acknowledged: u64,
    /// Of these, between the first fault and healing.
    pub acknowledged_under_faults: u64,
    /// Records read by consumers, those of the final read included.
    pub read: u64,
    /// Whether the fault phase is on.
    pub under_faults: bool,
}

/// What a broker says of a batch that it will never take.
pub const REFUSALS: [ErrorCode; 6] = [
    ErrorCode::CORRUPT_MESSAGE,
    ErrorCode::INVALID_RECORD,
    ErrorCode::INVALID_TIMESTAMP,
    ErrorCode::MESSAGE_TOO_LARGE,
    ErrorCode::UNKNOWN_SERVER_ERROR,
    ErrorCode::UNSUPPORTED_COMPRESSION_TYPE,
];

/// Time of a record that nobody has seen.
const UNKNOWN: Timestamp = Timestamp::MIN;
/// Bytes of a value's number at the front of its payload.
const NUMBER_LEN: usize = 8;

impl History {
    /// The partition's place, made where it is new.
    pub fn partition(&mut self, topic: &str, id: Uuid, index: i32) -> usize {
        let key = (topic.to_owned(), id, index);
        if let Some(found) = self.names.get(&key) {
            return *found;
        }
        let place = self.partitions.len();
        let deleted = self.deleted.contains(topic);
        let topic = topic.to_owned();
        self.partitions.push(Partition { topic, id, index, deleted, ..Partition::default() });
        self.names.insert(key, place);
        place
    }

    /// A new value about to be sent to a partition, with its record's timestamp.
    pub fn invoke(&mut self, partition: usize, timestamp: Timestamp) -> ValueId {
        let floor = self.partitions[partition].acknowledged_max.unwrap_or(-1);
        let (fate, attempts, by_id) = (Fate::Unknown, 0, false);
        let (number, key, seen) = (None, None, None);
        self.values.push(Value {
            partition,
            attempts,
            fate,
            timestamp,
            by_id,
            number,
            key,
            seen,
            floor,
        });
        self.values.len() as ValueId - 1
    }

    /// Values are sent to their topic's id, whatever has its name.
    pub fn pin(&mut self, values: &[ValueId]) {
        for value in values {
            self.values[*value as usize].by_id = true;
        }
    }

    /// Values are those of an idempotent producer, of which so many have been sent to their partition before: each of them stands
    /// there once, however often it is sent, and in this order, unless logs are forgetful.
    pub fn number(&mut self, values: &[ValueId], producer: (i64, i16), before: u64) {
        if self.forgetful {
            return;
        }
        for (value, number) in values.iter().zip(before..) {
            self.values[*value as usize].number = Some((producer, number));
        }
    }

    /// A producer was given an id, which nobody has had before.
    pub fn identify(&mut self, id: i64, epoch: i16) -> Checked {
        let is_new = self.producers.insert(id);
        if is_new && id >= 0 && epoch == 0 {
            return Ok(());
        }
        Err(Violation::new("I6", format!("producer id {id} was given out again, in epoch {epoch}")))
    }

    /// An attempt to send values leaves.
    pub fn attempt(&mut self, values: &[ValueId]) {
        for value in values {
            self.values[*value as usize].attempts += 1;
        }
    }

    /// The payload of a value: its number, then bytes that follow from it.
    pub fn payload(value: ValueId, filler: usize, compressible: bool) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(NUMBER_LEN + filler);
        bytes.extend_from_slice(&value.to_be_bytes());
        bytes.extend((0..filler).map(|position| Self::filler(value, position, compressible)));
        bytes
    }

    fn filler(value: ValueId, position: usize, compressible: bool) -> u8 {
        let position = if compressible { 0 } else { position as u64 };
        let mixed = (value ^ (position << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The first bit says how the rest was made, so that a reader can tell without being told.
        ((mixed >> 56) as u8 & 0xfe) | u8::from(compressible)
    }

    fn value_of(payload: &[u8]) -> Option<ValueId> {
        let (number, rest) = payload.split_first_chunk::<NUMBER_LEN>()?;
        let value = ValueId::from_be_bytes(*number);
        let compressible = rest.first().is_some_and(|byte| byte & 1 == 1);
        rest.iter()
            .enumerate()
            .all(|(position, byte)| *byte == Self::filler(value, position, compressible))
            .then_some(value)
    }

    /// A producer's batch was answered so long after it was handed over. Where only stops in good order happen, L20 asks that it
    /// was acknowledged in time, and refused for no other reason than that another broker leads.
    ///
    /// It is judged batch by batch, and not by the time between two acknowledgements: that depends on how much is sent, and what
    /// a batch waits is what its sender sees.
    ///
    /// # Errors
    /// The property, where it was not.
    pub fn waited(&mut self, place: usize, time: Time, error: ErrorCode) -> Checked {
        let Some(most) = self.gap_max else { return Ok(()) };
        let Partition { topic, index, deleted, .. } = &self.partitions[place];
        if *deleted || self.is_contested(topic) {
            return Ok(());
        }
        let retried = matches!(
            error,
            ErrorCode::NOT_LEADER_OR_FOLLOWER
                // Before a topic's first leader has heard of it, and once it is deleted.
                | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
                | ErrorCode::UNKNOWN_TOPIC_ID
                // Of a batch that came before the one ahead of it, which is on its way to the new leader; I1 judges the others.
                | ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
        );
        let refused = REFUSALS.contains(&error);
        if !retried && !refused && error != ErrorCode::NONE {
            let story = format!("a batch for {topic}-{index} is answered with {error:?}");
            return Err(Violation::new("L20", story));
        }
        if time > most {
            let ms = time / MS;
            let story = format!("a batch for {topic}-{index} is answered after {ms} ms: {error:?}");
            return Err(Violation::new("L20", story));
        }
        Ok(())
    }

    /// A send was acknowledged: its values stand from `base` on, if acks=all. `time` is the broker's, where it was told.
    pub fn acknowledge(
        &mut self,
        values: &[ValueId],
        base: Offset,
        all: bool,
        time: Option<Timestamp>,
    ) -> Checked {
        for (value, offset) in values.iter().zip(base..) {
            let known = &mut self.values[*value as usize];
            known.fate = Fate::Acknowledged { offset, all };
            if !all {
                continue;
            }
            let (place, time) = (known.partition, time.unwrap_or(known.timestamp));
            if offset <= known.floor {
                let partition = &self.partitions[place];
                return Err(Violation::new(
                    "linearizability",
                    format!(
                        "value {value} was acknowledged at {}-{} offset {offset}, not above {} which was acknowledged \
                         before it was sent",
                        partition.topic, partition.index, known.floor
                    ),
                ));
            }
            self.acknowledged += 1;
            self.acknowledged_under_faults += u64::from(self.under_faults);
            let partition = &mut self.partitions[place];
            partition.acknowledged_max = partition.acknowledged_max.max(Some(offset));
            self.see(place, offset, *value, time)?;
        }
        Ok(())
    }

    /// A send was refused before the append, each time that it was tried.
    pub fn refuse(&mut self, values: &[ValueId]) {
        for value in values {
            self.values[*value as usize].fate = Fate::Refused;
        }
    }

    /// A partition, with what tells it from others of its name.
    fn full_name(&self, place: usize) -> String {
        let Partition { topic, id, index, .. } = &self.partitions[place];
        format!("{topic}-{index} ({id:?})")
    }

    fn see(&mut self, place: usize, offset: Offset, value: ValueId, time: Timestamp) -> Checked {
        let partition = &mut self.partitions[place];
        let name = || format!("{}-{}", partition.topic, partition.index);
        let index = usize::try_from(offset).expect("offsets served are not negative");
        if partition.seen.len() <= index {
            partition.seen.resize(index + 1, 0);
            partition.times.resize(index + 1, UNKNOWN);
        }
        let before = partition.seen[index];
        if before != 0 && before != value + 1 {
            return Err(Violation::new(
                "inconsistent-offsets",
                format!(
                    "{} offset {offset} held value {} and later value {value}",
                    name(),
                    before - 1
                ),
            ));
        }
        let earlier = partition.times[index];
        if earlier != UNKNOWN && earlier != time {
            return Err(Violation::new(
                "content",
                format!("{} offset {offset} was of {earlier} and later of {time}", name()),
            ));
        }
        let known = &mut self.values[value as usize];
        let elsewhere = known.seen.replace((place, offset)).filter(|at| *at != (place, offset));
        if let Some((other, at)) = elsewhere
            && (known.attempts == 1 || known.number.is_some() && other == place)
        {
            let (here, other) = (self.full_name(place), self.full_name(other));
            let story = format!(
                "value {value}, which may stand once, is at {other} offset {at} and {here} offset {offset}"
            );
            return Err(Violation::new("duplicate", story));
        }
        partition.seen[index] = value + 1;
        partition.times[index] = time;
        Ok(())
    }

    /// A consumer was given a record.
    pub fn read(
        &mut self,
        place: usize,
        offset: Offset,
        shown: Shown,
        payload: &Bytes,
        exact: bool,
    ) -> Checked {
        self.read += 1;
        let partition = &self.partitions[place];
        let wrong = |property, what: String| {
            let (topic, index) = (&partition.topic, partition.index);
            Err(Violation::new(property, format!("{topic}-{index} offset {offset} holds {what}")))
        };
        let Some(value) = Self::value_of(payload).filter(|v| (*v as usize) < self.values.len())
        else {
            return wrong("content", "bytes that nobody sent".into());
        };
        let known = &self.values[value as usize];
        let meant = &self.partitions[known.partition];
        // What is sent or read by name is of whichever topic has the name.
        let here = known.partition == place
            || (!(known.by_id && exact)
                && self.contested.contains(&partition.topic)
                && (&meant.topic, meant.index) == (&partition.topic, partition.index));
        if !here || known.attempts == 0 {
            return wrong("content", format!("value {value} of another partition"));
        }
        if known.fate == Fate::Refused {
            return wrong("aborted-read", format!("value {value}, which was refused"));
        }
        if shown.stamped != self.stamped.contains(&partition.topic) {
            return wrong("content", format!("value {value} with a time of the other type"));
        }
        let (time, sent) = (shown.timestamp, known.timestamp);
        if !shown.stamped && time != sent {
            return wrong("content", format!("value {value} of {time}, which was of {sent}"));
        }
        if !exact {
            return Ok(());
        }
        match known.fate {
            Fate::Acknowledged { offset: at, .. }
                if at != offset
                    && (known.attempts == 1
                        || known.number.is_some() && known.partition == place) =>
            {
                wrong("duplicate", format!("value {value}, which was acknowledged at {at}"))
            }
            _ => {
                self.see(place, offset, value, time)?;
                self.see_epoch(place, offset, shown.epoch)
            }
        }
    }

    /// A record is of an epoch: epochs rise with offsets.
    fn see_epoch(&mut self, place: usize, offset: Offset, epoch: Epoch) -> Checked {
        let partition = &mut self.partitions[place];
        let epochs = &mut partition.epochs;
        let (first, last) = epochs.entry(epoch).or_insert((offset, offset));
        (*first, *last) = ((*first).min(offset), (*last).max(offset));
        let (first, last) = (*first, *last);
        let before = epochs.range(..epoch).next_back().is_some_and(|(_, (_, end))| *end >= first);
        let after = epochs.range(epoch + 1..).next().is_some_and(|(_, (start, _))| *start <= last);
        if !before && !after {
            return Ok(());
        }
        let (topic, index) = (&partition.topic, partition.index);
        let story = format!("{topic}-{index} offset {offset} is of epoch {epoch} among {epochs:?}");
        Err(Violation::new("epoch-order", story))
    }

    /// A lookup by time was answered by a time and an offset, each -1 for none, while all of `there` was, and perhaps more.
    pub fn judge_lookup(
        &self,
        place: usize,
        lookup: Lookup,
        there: Range<Offset>,
        (time, offset): (Timestamp, Offset),
    ) -> Checked {
        let partition = &self.partitions[place];
        let time_at = |offset: Offset| {
            let time = usize::try_from(offset).ok().and_then(|at| partition.times.get(at));
            time.copied().filter(|time| *time != UNKNOWN)
        };
        // What is missed may have gone.
        let stays = !self.compacted.contains_key(&partition.topic);
        let missed = there.clone().filter(|_| stays).find(|at| {
            time_at(*at).is_some_and(|seen| match lookup {
                Lookup::From(from) => seen >= from && (offset < 0 || *at < offset),
                Lookup::Largest => seen > time,
                Lookup::EpochEnd(_) => false,
            })
        });
        let story = if let Some(missed) = missed {
            format!("offset {missed} of {:?} was there", time_at(missed))
        } else if offset >= 0 && matches!(lookup, Lookup::From(from) if time < from) {
            "that is earlier".into()
        } else if let Some(other) = time_at(offset).filter(|seen| *seen != time) {
            format!("that record is of {other}")
        } else {
            return Ok(());
        };
        let (topic, index) = (&partition.topic, partition.index);
        Err(Violation::new(
            "lookup",
            format!("{topic}-{index}: {lookup:?} found offset {offset} of {time}, but {story}"),
        ))
    }

    /// The leader of epoch `current` said where `epoch` ends: the last epoch up to it that has records, and the offset after.
    /// All of `there` was there, and perhaps more, of which what is trimmed ends no epoch.
    pub fn judge_epoch_end(
        &self,
        place: usize,
        epoch: Epoch,
        current: Epoch,
        there: Range<Offset>,
        (found, end): (Epoch, Offset),
    ) -> Checked {
        let partition = &self.partitions[place];
        let within = partition.epochs.range(..=epoch).map(|(_, (first, last))| (*first, *last));
        let within = within.filter(|(first, _)| *first < there.end);
        let within = within.map(|(_, last)| last.min(there.end - 1));
        // Who was deposed need not know of later epochs.
        let beyond = partition.epochs.range(epoch + 1..).filter(|(later, _)| **later <= current);
        let too_low = within.max().is_some_and(|last| end <= last);
        // An epoch that was trimmed ends where the log begins.
        let too_high = beyond
            .map(|(_, (first, _))| *first)
            .min()
            .is_some_and(|first| end > first.max(there.start));
        if end < 0 || (!too_low && !too_high && found <= epoch) {
            return Ok(());
        }
        let (topic, index) = (&partition.topic, partition.index);
        Err(Violation::new(
            "epoch-end",
            format!(
                "{topic}-{index}: the leader of epoch {current} ends epoch {epoch} at {end} as epoch {found}, and epochs read \
                 are {:?}",
                partition.epochs
            ),
        ))
    }

    /// The highest high watermark that any client was told by now, by a leader of an epoch or of one before: who asks that
    /// epoch's leader from now on must not be told less.
    pub fn told(&self, place: usize, epoch: Epoch) -> Offset {
        let told = self.partitions[place].told.range(..=epoch);
        told.map(|(_, offset)| *offset).max().unwrap_or(0)
    }

    /// A client was told a high watermark by the leader of an epoch; when it asked, `floor` had been told (P6). A leader that
    /// was deposed may tell less than its successor, and what was asked before may be answered late.
    pub fn tell(&mut self, place: usize, epoch: Epoch, floor: Offset, offset: Offset) -> Checked {
        let partition = &mut self.partitions[place];
        if offset < floor && !partition.deleted {
            return Err(Violation::new(
                "P6",
                format!(
                    "{}-{}: the leader of epoch {epoch} tells high watermark {offset}, and {floor} had been told when it \
                     was asked",
                    partition.topic, partition.index
                ),
            ));
        }
        let told = partition.told.entry(epoch).or_insert(0);
        *told = (*told).max(offset);
        Ok(())
    }

    /// A topic is to be made; `keys`: of so many keys in each partition the last value stays.
    pub fn create(&mut self, topic: &str, stamped: bool, keys: Option<u64>) {
        self.deleted.remove(topic);
        if let Some(keys) = keys {
            self.compacted.insert(topic.to_owned(), keys);
        }
        if stamped {
            self.stamped.insert(topic.to_owned());
        }
    }

    /// A topic is to be deleted: nothing of it is owed any more.
    pub fn delete(&mut self, topic: &str) {
        self.deleted.insert(topic.to_owned());
        self.contested.insert(topic.to_owned());
        for partition in &mut self.partitions {
            partition.deleted |= partition.topic == topic;
        }
    }

    /// The topics that there are at last: whatever else had a name that was deleted is gone.
    pub fn remain(&mut self, is_there: impl Fn(&str, Uuid) -> bool) {
        for partition in &mut self.partitions {
            partition.deleted |= self.contested.contains(&partition.topic)
                && !is_there(&partition.topic, partition.id);
        }
    }

    /// Whether a partition's records have the broker's time.
    pub fn is_stamped(&self, place: usize) -> bool {
        self.stamped.contains(&self.partitions[place].topic)
    }

    /// Whether a name may stand for another topic than one thinks.
    pub fn is_contested(&self, topic: &str) -> bool {
        self.contested.contains(topic)
    }

    /// Whether a topic was deleted, or its deletion asked for.
    pub fn is_deleted(&self, place: usize) -> bool {
        self.partitions[place].deleted
    }

    /// A partition is offline for good: the loss is seen, and nothing can be read.
    pub fn give_up(&mut self, topic: &str, id: Uuid, index: i32) {
        let place = self.partition(topic, id, index);
        self.partitions[place].refuses = true;
    }

    /// The final read of a partition found everything from one offset to another.
    pub fn final_read(&mut self, place: usize, start: Offset, end: Offset) {
        self.partitions[place].last_read = Some((start, end));
    }

    /// Partitions with acknowledged records that the final read must reach.
    pub fn owed(&self) -> impl Iterator<Item = (&str, Uuid, i32, usize)> {
        self.partitions.iter().enumerate().filter_map(|(place, partition)| {
            (!partition.deleted && !partition.refuses && partition.acknowledged_max.is_some())
                .then_some((partition.topic.as_str(), partition.id, partition.index, place))
        })
    }

    /// After the final read: every value acknowledged with acks=all is at its offset, or below the log start.
    pub fn judge(&self, refused_partitions_are_fine: bool) -> Result<(), Violation> {
        for (value, known) in self.values.iter().enumerate() {
            let Fate::Acknowledged { offset, all: true } = known.fate else { continue };
            let partition = &self.partitions[known.partition];
            if partition.deleted || partition.refuses {
                continue;
            }
            let Some((start, end)) = partition.last_read else {
                if refused_partitions_are_fine {
                    continue;
                }
                return Err(Violation::new(
                    "unseen",
                    format!("{}-{} could not be read to its end", partition.topic, partition.index),
                ));
            };
            // The final read leaves no offset out that it must find, and another value at this one would have been noticed.
            if offset >= end {
                return Err(Violation::new(
                    "lost-write",
                    format!(
                        "value {value}, acknowledged at {}-{} offset {offset}, is not in the final read of {start}..{end}",
                        partition.topic, partition.index
                    ),
                ));
            }
        }
        self.partitions.iter().try_for_each(|partition| {
            self.judge_order(partition)?;
            self.judge_fold(partition)
        })
    }

    /// Idempotent producers' values stand in the order in which they were sent, and none is left out between two of them (I2).
    fn judge_order(&self, partition: &Partition) -> Checked {
        let Some((start, end)) = partition.last_read else { return Ok(()) };
        if self.contested.contains(&partition.topic) {
            return Ok(());
        }
        let mut last: BTreeMap<(i64, i16), u64> = BTreeMap::new();
        for offset in start..end {
            let seen = partition.seen.get(offset as usize).copied().unwrap_or(0);
            let Some(value) = seen.checked_sub(1) else { continue };
            let Some((producer, number)) = self.values[value as usize].number else { continue };
            let before = last.insert(producer, number);
            let is_right = match before {
                // What is not seen may have gone.
                _ if self.compacted.contains_key(&partition.topic) => before < Some(number),
                Some(before) => number == before + 1,
                None => start > 0 || number == 0,
            };
            if !is_right {
                let (topic, index) = (&partition.topic, partition.index);
                let story = format!(
                    "{topic}-{index} offset {offset} holds value {value}, the producer's number {number} there, after \
                     its number {before:?}"
                );
                return Err(Violation::new("I2", story));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Timestamp = 5;
    const SHOWN: Shown = Shown { timestamp: TIME, stamped: false, epoch: 1 };

    fn sent(history: &mut History, count: usize) -> (usize, Vec<ValueId>) {
        let place = history.partition("t", Uuid::ZERO, 0);
        let values: Vec<_> = (0..count).map(|_| history.invoke(place, TIME)).collect();
        history.attempt(&values);
        (place, values)
    }

    fn payload(value: ValueId) -> Bytes {
        History::payload(value, 20, false).into()
    }

    #[test]
    fn two_values_at_one_offset_are_noticed() {
        let mut history = History::default();
        let (place, values) = sent(&mut history, 2);
        history.read(place, 5, SHOWN, &payload(values[0]), true).expect("first sight");
        let seen = history.read(place, 5, SHOWN, &payload(values[1]), true);
        assert_eq!(seen.unwrap_err().property, "inconsistent-offsets");
    }

    #[test]
    fn a_refused_value_must_not_appear() {
        let mut history = History::default();
        let (place, values) = sent(&mut history, 1);
        history.refuse(&values);
        let seen = history.read(place, 0, SHOWN, &payload(values[0]), true);
        assert_eq!(seen.unwrap_err().property, "aborted-read");
    }

    #[test]
    fn a_value_sent_once_stands_once() {
        let mut history = History::default();
        let (place, values) = sent(&mut history, 1);
        history.acknowledge(&values, 3, true, None).expect("acknowledged");
        history
            .read(place, 3, SHOWN, &payload(values[0]), true)
            .expect("where it was acknowledged");
        let seen = history.read(place, 4, SHOWN, &payload(values[0]), true);
        assert_eq!(seen.unwrap_err().property, "duplicate");
        let mut history = History::default();
        let (place, values) = sent(&mut history, 1);
        history.attempt(&values);
        history.acknowledge(&values, 3, true, None).expect("acknowledged");
        history
            .read(place, 4, SHOWN, &payload(values[0]), true)
            .expect("sent twice, it may stand twice");
    }

    #[test]
    fn a_value_sent_once_stands_once_whatever_it_was_told() {
        let mut history = History::default();
        let (place, values) = sent(&mut history, 1);
        history.acknowledge(&values, 3, false, None).expect("acks=1 promises less");
        let seen = history.read(place, 4, SHOWN, &payload(values[0]), true);
        assert_eq!(seen.unwrap_err().property, "duplicate", "it may be lost, but not move");
        let mut history = History::default();
        let (place, values) = sent(&mut history, 1);
        history.read(place, 3, SHOWN, &payload(values[0]), true).expect("acks=0, or lost");
        let seen = history.read(place, 4, SHOWN, &payload(values[0]), true);
        assert_eq!(seen.unwrap_err().property, "duplicate");
    }

    #[test]
    fn a_value_with_a_number_stands_once_and_in_its_place() {
        let numbered = |count: u64| {
            let mut history = History::default();
            let (place, values) = sent(&mut history, count as usize);
            history.attempt(&values);
            history.number(&values, (7, 0), 0);
            (history, place, values)
        };
        let (mut history, place, values) = numbered(1);
        history.acknowledge(&values, 3, true, None).expect("acknowledged");
        let again = history.acknowledge(&values, 4, true, None);
        assert_eq!(again.unwrap_err().property, "duplicate", "the offset is the original's");
        let (mut history, _, values) = numbered(1);
        history.acknowledge(&values, 3, true, None).expect("acknowledged");
        let seen = history.read(place, 4, SHOWN, &payload(values[0]), true);
        assert_eq!(seen.unwrap_err().property, "duplicate");

        let judged = |order: &[usize]| {
            let (mut history, place, values) = numbered(4);
            for (offset, index) in (0..).zip(order) {
                let payload = payload(values[*index]);
                history.read(place, offset, SHOWN, &payload, true).expect("once each");
            }
            history.final_read(place, 0, order.len() as Offset);
            history.judge(false).map_err(|violation| violation.property)
        };
        assert_eq!(judged(&[0, 1, 2]), Ok(()), "the last was given up");
        assert_eq!(judged(&[0, 2, 1]), Err("I2"));
        assert_eq!(judged(&[0, 1, 3]), Err("I2"));
        assert_eq!(judged(&[1, 2]), Err("I2"), "the first is missing");
        let (mut history, ..) = numbered(1);
        assert_eq!(history.identify(7, 0), Ok(()));
        assert!(history.identify(7, 0).is_err() && history.identify(8, 1).is_err());
    }

    #[test]
    fn a_changed_time_is_noticed() {
        let seen = |stamped, reads: &[(Timestamp, bool)]| {
            let mut history = History::default();
            history.create("t", stamped, None);
            let (place, values) = sent(&mut history, 1);
            for (timestamp, stamped) in reads {
                let shown = Shown { timestamp: *timestamp, stamped: *stamped, ..SHOWN };
                let read = history.read(place, 0, shown, &payload(values[0]), true);
                read.map_err(|violation| violation.property)?;
            }
            Ok(())
        };
        assert_eq!(seen(false, &[(TIME, false)]), Ok(()));
        assert_eq!(seen(false, &[(TIME + 1, false)]), Err("content"));
        assert_eq!(seen(false, &[(TIME, true)]), Err("content"), "the topic keeps the producer's");
        assert_eq!(seen(true, &[(TIME, false)]), Err("content"), "the topic has the broker's");
        assert_eq!(seen(true, &[(7, true), (7, true)]), Ok(()));
        assert_eq!(seen(true, &[(7, true), (8, true)]), Err("content"));
    }

    #[test]
    fn what_goes_by_name_is_judged_by_its_content_alone_where_the_name_is_used_again() {
        let mut history = History::default();
        let (old, values) = sent(&mut history, 2);
        let new = history.partition("t", Uuid([1; 16]), 0);
        let read = |history: &mut History, place, offset, value: usize, exact| {
            let payload = payload(values[value]);
            let read = history.read(place, offset, SHOWN, &payload, exact);
            read.map_err(|violation| violation.property)
        };
        assert_eq!(read(&mut history, new, 3, 0, true), Err("content"));
        history.delete("t");
        history.create("t", false, None);
        assert_eq!(read(&mut history, new, 3, 0, true), Ok(()));
        assert_eq!(read(&mut history, old, 3, 0, false), Ok(()));
        assert_eq!(read(&mut history, old, 3, 1, false), Ok(()), "of the other topic, perhaps");
        let other = history.partition("u", Uuid::ZERO, 0);
        assert_eq!(read(&mut history, other, 3, 0, false), Err("content"));
        let later = history.partition("t", Uuid([1; 16]), 1);
        assert!(history.is_deleted(old) && !history.is_deleted(later));
        history.remain(|_, id| id == Uuid([1; 16]));
        assert!(!history.is_deleted(later) && !history.is_deleted(other));
        history.remain(|_, id| id == Uuid([2; 16]));
        assert!(history.is_deleted(later), "it is not the one that remained");
        assert!(!history.is_deleted(other), "its name was never deleted");
    }

    #[test]
    fn what_goes_by_id_is_of_no_other_topic_of_the_name() {
        let mut history = History::default();
        history.delete("t");
        history.create("t", false, None);
        let (old, values) = sent(&mut history, 3);
        let new = history.partition("t", Uuid([1; 16]), 0);
        history.pin(&values[..1]);
        let read = |history: &mut History, place, offset, value: usize| {
            let payload = payload(values[value]);
            let read = history.read(place, offset, SHOWN, &payload, true);
            read.map_err(|violation| violation.property)
        };
        assert_eq!(read(&mut history, old, 3, 0), Ok(()));
        assert_eq!(read(&mut history, new, 4, 0), Err("content"));
        let by_name = history.read(new, 4, SHOWN, &payload(values[0]), false);
        assert_eq!(by_name, Ok(()), "who reads by name cannot tell");
        assert_eq!(read(&mut history, new, 5, 1), Ok(()), "it went by name");
        assert_eq!(read(&mut history, old, 5, 1), Err("duplicate"), "sent once, to one of them");
        history.acknowledge(&values[2..], 7, false, None).expect("by whichever has the name");
        assert_eq!(read(&mut history, new, 8, 2), Err("duplicate"), "not where that said");
    }

    /// A partition with records at 0 and on, of these times and epochs.
    fn with_records(records: &[(Timestamp, Epoch)]) -> (usize, History) {
        let mut history = History::default();
        let place = history.partition("t", Uuid::ZERO, 0);
        for (offset, (timestamp, epoch)) in (0..).zip(records) {
            let value = history.invoke(place, *timestamp);
            history.attempt(&[value]);
            let shown = Shown { timestamp: *timestamp, epoch: *epoch, ..SHOWN };
            history.read(place, offset, shown, &payload(value), true).expect("in order");
        }
        (place, history)
    }

    #[test]
    fn a_lookup_by_time_finds_the_first() {
        let (place, history) = with_records(&[(5, 1), (9, 1), (-1, 1), (7, 1), (9, 1)]);
        let found = |from, there, answer| {
            let judged = history.judge_lookup(place, Lookup::From(from), there, answer);
            judged.map_err(|violation| violation.property)
        };
        assert_eq!(found(6, 0..5, (9, 1)), Ok(()));
        assert_eq!(found(6, 0..5, (7, 3)), Err("lookup"), "there is an earlier one");
        assert_eq!(found(6, 2..5, (7, 3)), Ok(()), "which was trimmed");
        assert_eq!(found(6, 0..5, (5, 0)), Err("lookup"), "it is too early");
        assert_eq!(found(6, 0..5, (8, 1)), Err("lookup"), "it is of another time");
        assert_eq!(found(6, 0..5, (-1, -1)), Err("lookup"), "there is one");
        assert_eq!(found(6, 5..5, (-1, -1)), Ok(()));
        assert_eq!(found(10, 0..5, (-1, -1)), Ok(()));
        assert_eq!(found(10, 0..5, (10, 5)), Ok(()), "it is new");
    }

    #[test]
    fn the_largest_timestamp_is_the_largest() {
        let (place, history) = with_records(&[(5, 1), (9, 1), (7, 1)]);
        let found = |there, answer| {
            let judged = history.judge_lookup(place, Lookup::Largest, there, answer);
            judged.map_err(|violation| violation.property)
        };
        assert_eq!(found(0..3, (9, 1)), Ok(()));
        assert_eq!(found(0..3, (7, 2)), Err("lookup"));
        assert_eq!(found(2..3, (7, 2)), Ok(()), "the larger one was trimmed");
        assert_eq!(found(0..3, (9, 2)), Err("lookup"), "it is of another time");
        assert_eq!(found(0..3, (-1, -1)), Err("lookup"));
        assert_eq!(found(0..3, (11, 3)), Ok(()), "it is new");
    }

    #[test]
    fn an_epoch_ends_between_its_records_and_the_next() {
        let (place, history) = with_records(&[(5, 1), (5, 1), (5, 3), (5, 4)]);
        let within = |there, epoch, current, answer| {
            let judged = history.judge_epoch_end(place, epoch, current, there, answer);
            judged.map_err(|violation| violation.property)
        };
        let ends = |epoch, current, answer| within(0..4, epoch, current, answer);
        assert_eq!(within(3..4, 1, 4, (1, 3)), Ok(()), "it was trimmed");
        assert_eq!(within(0..1, 1, 4, (1, 1)), Ok(()), "the rest came later");
        assert_eq!(ends(1, 4, (1, 2)), Ok(()));
        assert_eq!(ends(2, 4, (1, 2)), Ok(()));
        assert_eq!(ends(1, 4, (1, 1)), Err("epoch-end"), "below a record");
        assert_eq!(ends(1, 4, (1, 3)), Err("epoch-end"), "above a later epoch's");
        assert_eq!(ends(1, 1, (1, 3)), Ok(()), "it was deposed");
        assert_eq!(ends(2, 4, (3, 2)), Err("epoch-end"), "that epoch is later");
        assert_eq!(ends(4, 4, (4, 9)), Ok(()));
        assert_eq!(ends(4, 4, (-1, -1)), Ok(()), "it knows of none");
    }

    #[test]
    fn an_epoch_that_falls_is_noticed() {
        let (place, mut history) = with_records(&[(TIME, 1), (TIME, 3)]);
        let value = history.invoke(place, TIME);
        history.attempt(&[value]);
        let shown = Shown { epoch: 2, ..SHOWN };
        let read = history.read(place, 2, shown, &payload(value), true);
        assert_eq!(read.unwrap_err().property, "epoch-order");
    }

    #[test]
    fn changed_bytes_are_noticed() {
        let mut history = History::default();
        let (place, values) = sent(&mut history, 1);
        let mut bytes = History::payload(values[0], 20, true);
        bytes[15] ^= 4;
        assert_eq!(
            history.read(place, 0, SHOWN, &bytes.into(), true).unwrap_err().property,
            "content"
        );
    }

    #[test]
    fn acknowledgements_follow_real_time() {
        let mut history = History::default();
        let (_, first) = sent(&mut history, 1);
        history.acknowledge(&first, 7, true, None).expect("first");
        let (_, second) = sent(&mut history, 1);
        let seen = history.acknowledge(&second, 6, true, None);
        assert_eq!(seen.unwrap_err().property, "linearizability");
    }

    #[test]
    fn a_value_under_another_partition_is_noticed() {
        let mut history = History::default();
        let (_, values) = sent(&mut history, 1);
        let other = history.partition("t", Uuid::ZERO, 1);
        let seen = history.read(other, 0, SHOWN, &payload(values[0]), true);
        assert_eq!(seen.unwrap_err().property, "content");
    }

    #[test]
    fn a_high_watermark_once_told_does_not_fall() {
        let mut history = History::default();
        let place = history.partition("t", Uuid::ZERO, 0);
        let told = |history: &mut History, epoch, floor, offset| {
            history.tell(place, epoch, floor, offset).map_err(|violation| violation.property)
        };
        assert_eq!(told(&mut history, 3, 0, 7), Ok(()));
        let floor = history.told(place, 3);
        assert_eq!(told(&mut history, 3, floor, 6), Err("P6"));
        assert_eq!(told(&mut history, 3, 0, 6), Ok(()), "it was asked for before");
        let floor = history.told(place, 4);
        assert_eq!(told(&mut history, 4, floor, 6), Err("P6"), "the next leader knows as much");
        let floor = history.told(place, 2);
        assert_eq!(told(&mut history, 2, floor, 6), Ok(()), "the leader before it need not");
    }

    #[test]
    fn a_lost_write_is_seen_by_the_final_read() {
        let mut history = History::default();
        let (place, values) = sent(&mut history, 2);
        history.acknowledge(&values, 0, true, None).expect("acknowledged");
        history.final_read(place, 0, 1);
        assert_eq!(history.judge(false).unwrap_err().property, "lost-write");
        history.final_read(place, 0, 2);
        history.judge(false).expect("all there");
        history.partitions[place].last_read = None;
        assert_eq!(history.judge(false).unwrap_err().property, "unseen");
    }
}
