//! What a log knows of the idempotent producers that wrote to it: of each its epoch and its last batches, by which a retry is
//! told from a new batch and a gap from the next one.
//!
//! It is a part of the log's shape, so a function of the log's changes and of nothing else: leader and follower come to the same,
//! a checkpoint holds it with the rest of the shape, and a start makes again what follows the checkpoint. For that to hold:
//!
//! - A truncation gives back what the batches that it cuts had taken away. What was known before each of them is kept in `undo`
//!   until it is committed, since what is committed is never cut.
//! - Who is forgotten, because it has appended nothing for long or because there are too many, is a change of the log like any
//!   other ([`super::record::Kind::Forget`]), which names the producers; no clock and no configuration decides it again later.
//! - A log that begins at an offset takes the state at that offset with it ([`Producers::at`]).
//!
//! Trimming changes nothing. Whether a batch is taken is judged by the leader alone ([`Producers::judge`], the rules of Apache
//! Kafka); a follower takes what the leader took.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use milena_wire::batch::BatchHeader;
use serde::{Deserialize, Serialize};

use crate::{Offset, ProducerId, Timestamp};

/// Batches that are remembered of each producer: as many as one has in flight at most.
const BATCHES_MAX: usize = 5;
/// First byte of the encoded state. Frozen for what postcard writes of [`Known`].
const VERSION: u8 = 1;

/// What a batch says of the idempotent producer that it is from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Produced {
    /// The producer's id.
    pub producer: ProducerId,
    /// Its epoch.
    pub epoch: i16,
    /// Sequence number of the first record.
    pub base_sequence: i32,
}

impl Produced {
    /// None where it is from no such producer.
    pub fn of(header: &BatchHeader) -> Option<Produced> {
        let (producer, epoch) = (header.producer_id, header.producer_epoch);
        let base_sequence = header.base_sequence;
        let is_whole = producer >= 0 && epoch >= 0 && base_sequence >= 0;
        is_whole.then_some(Produced { producer, epoch, base_sequence })
    }
}

/// A batch that is remembered.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct KnownBatch {
    /// Sequence number of its first record.
    pub base_sequence: i32,
    /// Offset of its last record, less that of the first.
    pub last_offset_delta: i32,
    /// Offset of its first record.
    pub base: Offset,
    /// Its largest time.
    pub timestamp: Timestamp,
}

impl KnownBatch {
    /// Sequence number of its last record.
    pub fn last_sequence(&self) -> i32 {
        sequence_after(self.base_sequence, self.last_offset_delta)
    }

    /// Offset after its last record.
    pub fn next(&self) -> Offset {
        self.base + i64::from(self.last_offset_delta) + 1
    }

    fn is_possible(&self) -> bool {
        let next = self.base.checked_add(i64::from(self.last_offset_delta) + 1);
        self.base_sequence >= 0 && self.last_offset_delta >= 0 && self.base >= 0 && next.is_some()
    }
}

/// Sequence numbers go on with 0 after the largest.
fn sequence_after(sequence: i32, count: i32) -> i32 {
    sequence.wrapping_add(count) & i32::MAX
}

/// What is known of one producer: at least one batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "SavedProducer", try_from = "SavedProducer")]
struct Producer {
    epoch: i16,
    /// When it last appended, by this replica's clock.
    appended: Timestamp,
    count: u8,
    /// The oldest first; the places past the last one are empty.
    batches: [KnownBatch; BATCHES_MAX],
}

impl Producer {
    fn new(epoch: i16, batch: KnownBatch, appended: Timestamp) -> Producer {
        let mut batches = [KnownBatch::default(); BATCHES_MAX];
        batches[0] = batch;
        Producer { epoch, appended, count: 1, batches }
    }

    fn batches(&self) -> &[KnownBatch] {
        &self.batches[..usize::from(self.count)]
    }

    fn last(&self) -> &KnownBatch {
        &self.batches[usize::from(self.count) - 1]
    }

    fn push(&mut self, batch: KnownBatch, appended: Timestamp) {
        if usize::from(self.count) == BATCHES_MAX {
            self.batches.copy_within(1.., 0);
        } else {
            self.count += 1;
        }
        self.batches[usize::from(self.count) - 1] = batch;
        self.appended = appended;
    }

    /// The same without the batches that reach past an offset, if any is left.
    fn below(&self, offset: Offset) -> Option<Producer> {
        let mut below = *self;
        while below.count > 0 && below.last().next() > offset {
            below.count -= 1;
            below.batches[usize::from(below.count)] = KnownBatch::default();
        }
        (below.count > 0).then_some(below)
    }
}

/// The same as it is written. Frozen as postcard writes it.
#[derive(Serialize, Deserialize)]
struct SavedProducer {
    epoch: i16,
    appended: Timestamp,
    batches: Vec<KnownBatch>,
}

impl From<Producer> for SavedProducer {
    fn from(producer: Producer) -> SavedProducer {
        let Producer { epoch, appended, .. } = producer;
        SavedProducer { epoch, appended, batches: producer.batches().to_vec() }
    }
}

impl TryFrom<SavedProducer> for Producer {
    type Error = &'static str;

    fn try_from(
        SavedProducer { epoch, appended, batches }: SavedProducer,
    ) -> Result<Self, &'static str> {
        let [first, later @ ..] = &batches[..] else { return Err("a producer without a batch") };
        let are_possible = batches.iter().all(KnownBatch::is_possible)
            && batches.is_sorted_by(|before, batch| before.next() <= batch.base);
        if later.len() >= BATCHES_MAX || epoch < 0 || !are_possible {
            return Err("batches that nobody remembers so");
        }
        let mut producer = Producer::new(epoch, *first, appended);
        later.iter().for_each(|batch| producer.push(*batch, appended));
        Ok(producer)
    }
}

/// What is known of the producers of a log. A log without any holds nothing.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Producers(Option<Box<Known>>);

#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
struct Known {
    producers: BTreeMap<ProducerId, Producer>,
    /// The producers by the first offset of their last batch, which is of nobody else.
    #[serde(skip)]
    order: BTreeMap<Offset, ProducerId>,
    /// What the changes that may still be cut have replaced, the oldest first.
    undo: VecDeque<Undo>,
}

/// What was known of a producer before a change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Undo {
    /// End of the log after the change: a truncation to less undoes it.
    next: Offset,
    producer: ProducerId,
    before: Option<Producer>,
}

impl Known {
    /// Replaces what is known of a producer; what was known before.
    fn set(&mut self, id: ProducerId, now: Option<Producer>) -> Option<Producer> {
        let before = match now {
            Some(producer) => self.producers.insert(id, producer),
            None => self.producers.remove(&id),
        };
        if let Some(before) = &before {
            self.order.remove(&before.last().base);
        }
        if let Some(now) = &now {
            self.order.insert(now.last().base, id);
        }
        before
    }
}

impl Producers {
    /// A batch now stands at the end of the log. Whether it should is not asked.
    pub fn append(&mut self, produced: &Produced, batch: KnownBatch, appended: Timestamp) {
        let Produced { producer: id, epoch, .. } = *produced;
        let known = self.0.get_or_insert_default();
        let before = match known.producers.get_mut(&id) {
            Some(now) if now.epoch == epoch => {
                let before = *now;
                now.push(batch, appended);
                known.order.remove(&before.last().base);
                known.order.insert(batch.base, id);
                Some(before)
            }
            Some(_) | None => known.set(id, Some(Producer::new(epoch, batch, appended))),
        };
        known.undo.push_back(Undo { next: batch.next(), producer: id, before });
    }

    /// The log, which ends at `end`, forgets these.
    pub fn forget(&mut self, ids: impl Iterator<Item = ProducerId>, end: Offset) {
        let Some(known) = &mut self.0 else { return };
        for id in ids {
            if let Some(before) = known.set(id, None) {
                known.undo.push_back(Undo { next: end, producer: id, before: Some(before) });
            }
        }
    }

    /// All at and past an offset is cut.
    pub fn truncate(&mut self, to: Offset) {
        let Some(known) = &mut self.0 else { return };
        while let Some(undo) = known.undo.pop_back_if(|undo| undo.next > to) {
            known.set(undo.producer, undo.before);
        }
        // What is committed is never cut. If it were, nothing would be known of it any more.
        while let Some((_, id)) = known.order.range(to..).next_back() {
            let id = *id;
            let below = known.producers[&id].below(to);
            known.set(id, below);
        }
        self.tidy();
    }

    /// Nothing below an offset is cut any more.
    pub fn settle(&mut self, committed: Offset) {
        let Some(known) = &mut self.0 else { return };
        while known.undo.pop_front_if(|undo| undo.next <= committed).is_some() {}
        self.tidy();
    }

    /// Whether something is kept for a truncation that cannot come.
    pub fn is_unsettled(&self, committed: Offset) -> bool {
        let oldest = self.0.as_ref().and_then(|known| known.undo.front());
        oldest.is_some_and(|undo| undo.next <= committed)
    }

    fn tidy(&mut self) {
        if self.0.as_ref().is_some_and(|known| known.producers.is_empty() && known.undo.is_empty())
        {
            self.0 = None;
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |known| known.producers.len())
    }

    /// First offsets of all batches that are known, or would be after a truncation, sorted.
    pub fn bases(&self) -> Vec<Offset> {
        let Some(known) = &self.0 else { return Vec::new() };
        let before = known.undo.iter().filter_map(|undo| undo.before.as_ref());
        let all = known.producers.values().chain(before).flat_map(Producer::batches);
        let mut bases: Vec<Offset> = all.map(|batch| batch.base).collect();
        bases.sort_unstable();
        bases.dedup();
        bases
    }

    /// The ids of those that are known, now or where a truncation brings them back. Sorted.
    pub fn ids(&self) -> Vec<ProducerId> {
        let Some(known) = &self.0 else { return Vec::new() };
        let undone = known.undo.iter().map(|undo| undo.producer);
        let mut ids: Vec<ProducerId> = known.producers.keys().copied().chain(undone).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Those whose last batch lies lowest in the log.
    pub fn lowest(&self, count: usize) -> Vec<ProducerId> {
        let all = self.0.iter().flat_map(|known| known.order.values());
        all.take(count).copied().collect()
    }

    /// Those that have appended nothing since a time, from the lowest in the log on up to the first that has: where a clock went
    /// back, some wait for those below them.
    pub fn silent_since(&self, time: Timestamp) -> Vec<ProducerId> {
        let Some(known) = &self.0 else { return Vec::new() };
        let is_silent = |id: &&ProducerId| known.producers[id].appended <= time;
        known.order.values().take_while(is_silent).copied().collect()
    }

    /// What is known of each, sorted by id.
    pub fn iter(&self) -> impl Iterator<Item = ProducerView<'_>> {
        self.0.iter().flat_map(|known| &known.producers).map(|(id, producer)| ProducerView {
            id: *id,
            epoch: producer.epoch,
            appended: producer.appended,
            batches: producer.batches(),
        })
    }

    /// What a batch of so many records is, to a leader: the next one of its producer, or one that the log has already.
    pub fn judge(
        &self,
        produced: &Produced,
        last_offset_delta: i32,
    ) -> Result<Option<KnownBatch>, SequenceError> {
        let Produced { producer: id, epoch, base_sequence: given } = *produced;
        let Some(known) = self.0.as_ref().and_then(|known| known.producers.get(&id)) else {
            return Ok(None);
        };
        if epoch < known.epoch {
            return Err(SequenceError::Fenced { id, epoch, known: known.epoch });
        }
        if epoch > known.epoch {
            return if given == 0 {
                Ok(None)
            } else {
                Err(SequenceError::Begin { id, epoch, given })
            };
        }
        let same = |batch: &&KnownBatch| {
            batch.base_sequence == given && batch.last_offset_delta == last_offset_delta
        };
        if let Some(original) = known.batches().iter().find(same) {
            return Ok(Some(*original));
        }
        let next = sequence_after(known.last().last_sequence(), 1);
        if given == next { Ok(None) } else { Err(SequenceError::Order { id, epoch, given, next }) }
    }

    /// The state at an offset, from which the records that follow make the present one: without the batches that lie past it, and
    /// as it was before anything that may still be cut. When each has appended is left to the replica that takes it.
    pub fn at(&self, offset: Offset) -> Producers {
        let mut at = self.clone();
        let Some(known) = &mut at.0 else { return at };
        while let Some(undo) = known.undo.pop_back() {
            known.set(undo.producer, undo.before);
        }
        let mut below = Known::default();
        for (id, producer) in &known.producers {
            let now = producer.below(offset).map(|below| Producer { appended: 0, ..below });
            below.set(*id, now);
        }
        **known = below;
        at.tidy();
        at
    }

    /// The state that [`Producers::at`] gave of another replica's log; none where the bytes say no such thing.
    pub fn begin(bytes: &[u8], offset: Offset, appended: Timestamp) -> Option<Producers> {
        let mut producers = Producers::decode(bytes)?;
        if let Some(known) = &mut producers.0 {
            known.producers.values_mut().for_each(|producer| producer.appended = appended);
            let end = known.order.values().map(|id| known.producers[id].last().next()).max();
            if end > Some(offset) || !known.undo.is_empty() {
                return None;
            }
        }
        Some(producers)
    }

    /// As bytes; none of nothing.
    pub fn encode(&self) -> Bytes {
        let Some(known) = &self.0 else { return Bytes::new() };
        postcard::to_extend(known, vec![VERSION]).expect("numbers have bytes").into()
    }

    /// None where the bytes are not what [`Producers::encode`] writes. Nothing is allocated beyond what they hold.
    pub fn decode(bytes: &[u8]) -> Option<Producers> {
        let Some((version, body)) = bytes.split_first() else { return Some(Producers::default()) };
        let (mut known, rest) = postcard::take_from_bytes::<Known>(body).ok()?;
        let last = |(id, producer): (&ProducerId, &Producer)| (producer.last().base, *id);
        known.order = known.producers.iter().map(last).collect();
        let ids = known.producers.keys().chain(known.undo.iter().map(|undo| &undo.producer));
        let is_whole = *version == VERSION
            && rest.is_empty()
            && known.order.len() == known.producers.len()
            && ids.min().is_none_or(|id| *id >= 0)
            && known.undo.iter().is_sorted_by_key(|undo| undo.next);
        is_whole.then(|| {
            let mut producers = Producers(Some(Box::new(known)));
            producers.tidy();
            producers
        })
    }
}

/// The body of a change that forgets producers.
pub(super) fn encode_ids(ids: &[ProducerId]) -> Bytes {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>().into()
}

/// The producers that such a change names.
pub(super) fn decode_ids(body: &[u8]) -> impl Iterator<Item = ProducerId> {
    body.as_chunks().0.iter().map(|id| ProducerId::from_le_bytes(*id))
}

/// What is known of one producer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProducerView<'a> {
    /// Its id.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: i16,
    /// When it last appended, by this replica's clock.
    pub appended: Timestamp,
    /// Its last batches, one at least, the oldest first.
    pub batches: &'a [KnownBatch],
}

impl ProducerView<'_> {
    /// Its last batch.
    pub fn last(&self) -> &KnownBatch {
        self.batches.last().expect("one at least")
    }
}

/// Why a batch is neither the next one of its producer nor one that the log has already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SequenceError {
    /// When its producer has a later epoch.
    #[error("epoch {epoch} of producer {id} is over: it has written here in epoch {known}")]
    Fenced {
        /// The producer.
        id: ProducerId,
        /// The batch's epoch.
        epoch: i16,
        /// The producer's.
        known: i16,
    },
    /// When the first batch of an epoch does not begin with 0.
    #[error(
        "the first batch of epoch {epoch} of producer {id} begins with sequence number {given}, not with 0"
    )]
    Begin {
        /// The producer.
        id: ProducerId,
        /// The batch's epoch.
        epoch: i16,
        /// Its first sequence number.
        given: i32,
    },
    /// When its sequence numbers do not follow the last one.
    #[error(
        "producer {id} goes on with sequence number {next} in epoch {epoch}, and this batch begins with {given}"
    )]
    Order {
        /// The producer.
        id: ProducerId,
        /// Its epoch.
        epoch: i16,
        /// The batch's first sequence number.
        given: i32,
        /// The one that is due.
        next: i32,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::codec::Pieces;
    use super::super::log::{Op, Shape};
    use super::super::record::Kind;
    use super::*;
    use crate::config::{ReplicationConfig, StorageConfig};

    /// What everything else is derived from.
    #[derive(Clone, Debug)]
    enum Item {
        Batch(Produced, KnownBatch),
        Forget(Vec<i64>, Offset),
    }

    impl Item {
        /// End of the log after it.
        fn next(&self) -> Offset {
            match self {
                Item::Batch(_, batch) => batch.next(),
                Item::Forget(_, end) => *end,
            }
        }
    }

    type Told = BTreeMap<i64, (i16, Vec<KnownBatch>)>;

    /// What is known after all of that, computed anew.
    fn fold<'a>(items: impl IntoIterator<Item = &'a Item>) -> Told {
        let mut known = Told::new();
        for item in items {
            match item {
                Item::Batch(of, batch) => {
                    let (epoch, batches) = known.entry(of.producer).or_default();
                    if *epoch != of.epoch {
                        (*epoch, *batches) = (of.epoch, Vec::new());
                    }
                    batches.push(*batch);
                    let old = batches.len().saturating_sub(5);
                    batches.drain(..old);
                }
                Item::Forget(ids, _) => known.retain(|id, _| !ids.contains(id)),
            }
        }
        known
    }

    fn told(producers: &Producers) -> Told {
        let known = producers.0.iter().flat_map(|known| known.order.iter());
        assert!(known.clone().all(|(base, id)| {
            producers.0.as_ref().expect("some").producers[id].last().base == *base
        }));
        assert_eq!(known.count(), producers.len());
        producers.iter().map(|view| (view.id, (view.epoch, view.batches.to_vec()))).collect()
    }

    fn appended(of: Produced, batch: KnownBatch, committed: Offset) -> Op {
        let op = Op::new(Kind::Append, batch.base, Pieces::None);
        let (next, produced) = (batch.next(), Some(of));
        Op { next, committed, produced, max_timestamp: batch.timestamp, ..op }
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// A producer, whether in a new epoch, records.
        Append(i64, bool, i32),
        /// How much of what may be, in hundredths.
        Commit(i64),
        Truncate(i64),
        Trim(i64),
        Forget(Vec<i64>),
        /// The log begins again at its end, all of which is committed, with what is known there.
        Begin,
        /// So many changes go to the segments.
        Write(usize),
        /// Of the shape that the segments have, and the changes above it.
        Restart,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let share = || 0..=100i64;
        let step = prop_oneof![
            12 => (0..5i64, prop::bool::weighted(0.1), 1..4i32).prop_map(|(id, new, n)| Step::Append(id, new, n)),
            3 => share().prop_map(Step::Commit),
            2 => share().prop_map(Step::Truncate),
            1 => share().prop_map(Step::Trim),
            1 => prop::collection::vec(0..5i64, 0..3).prop_map(Step::Forget),
            1 => Just(Step::Begin),
            2 => (0..6usize).prop_map(Step::Write),
            1 => Just(Step::Restart),
        ];
        prop::collection::vec(step, 1..80)
    }

    /// A log as the engine keeps it, and what was done to it.
    #[derive(Default)]
    struct World {
        visible: Shape,
        applied: Shape,
        ops: VecDeque<Op>,
        items: Vec<Item>,
        epochs: BTreeMap<i64, i16>,
        committed: Offset,
    }

    impl World {
        fn submit(&mut self, op: Op) {
            self.visible.apply(&op);
            self.ops.push_back(op);
        }

        /// The last border between batches up to so much of the way.
        fn border(&self, from: Offset, share: i64) -> Offset {
            let to = from + (self.visible.end - from) * share / 100;
            let ends = self.items.iter().map(Item::next).filter(|end| (from..=to).contains(end));
            ends.max().unwrap_or(from)
        }

        fn step(&mut self, step: Step) {
            let (end, committed) = (self.visible.end, self.committed);
            match step {
                Step::Append(producer, new, records) => {
                    let epoch = self.epochs.entry(producer).or_insert(1);
                    *epoch += i16::from(new);
                    // Nobody judges here.
                    let (epoch, base_sequence) = (*epoch, end as i32 % 7);
                    let of = Produced { producer, epoch, base_sequence };
                    let last_offset_delta = records - 1;
                    let (base, timestamp) = (end, end * 10);
                    let batch = KnownBatch { base_sequence, last_offset_delta, base, timestamp };
                    self.items.push(Item::Batch(of, batch));
                    self.submit(appended(of, batch, committed));
                }
                Step::Commit(share) => self.committed = self.border(committed, share),
                Step::Truncate(share) => {
                    let to = self.border(committed.max(self.visible.start), share);
                    self.items.retain(|item| item.next() <= to);
                    self.submit(Op::new(Kind::Truncate, to, Pieces::None));
                }
                Step::Trim(share) => {
                    let start = self.visible.start;
                    let to = self.border(start, share).min(committed).max(start);
                    self.submit(Op::new(Kind::Trim, to, Pieces::None));
                }
                Step::Forget(ids) => {
                    let body = Pieces::One(encode_ids(&ids));
                    self.submit(Op { committed, ..Op::new(Kind::Forget, end, body) });
                    self.items.push(Item::Forget(ids, end));
                }
                Step::Begin => {
                    self.committed = end;
                    self.visible.producers.settle(end);
                    let body = Pieces::One(self.visible.producers.at(end).encode());
                    self.submit(Op::new(Kind::Reset, end, body));
                }
                Step::Write(count) => {
                    for op in self.ops.drain(..count.min(self.ops.len())) {
                        self.applied.apply(&op);
                    }
                }
                Step::Restart => {
                    let producers = Producers::decode(&self.applied.producers.encode());
                    let producers = producers.expect("what was written");
                    assert_eq!(producers, self.applied.producers);
                    self.applied.producers = producers;
                    self.visible = self.applied.clone();
                    for op in &mut self.ops {
                        op.committed = 0;
                        self.visible.apply(op);
                    }
                }
            }
        }

        fn check(&self) {
            let all = fold(&self.items);
            assert_eq!(told(&self.visible.producers), all);
            let mut shape = self.applied.clone();
            self.ops.iter().for_each(|op| shape.apply(op));
            assert_eq!(told(&shape.producers), all);

            // Another log that begins where this one does and is given what follows, cut anywhere that it may be.
            let start = self.visible.start;
            let state = self.visible.producers.at(start).encode();
            let begun = Producers::begin(&state, start, 7).expect("a state");
            assert!(begun.iter().all(|view| view.appended == 7 && view.last().next() <= start));
            let ends = self.items.iter().map(Item::next).filter(|end| *end >= self.committed);
            for to in ends.chain([self.committed.max(start)]) {
                let mut shape = Shape { producers: begun.clone(), ..Shape::default() };
                (shape.start, shape.end) = (start, start);
                for item in &self.items {
                    if let Item::Batch(of, batch) = item
                        && (start..to).contains(&batch.base)
                    {
                        shape.apply(&appended(*of, *batch, self.committed));
                    }
                }
                // What this log has forgotten the other may know: each forgets by its own clock.
                let known = told(&shape.producers);
                let here = fold(self.items.iter().filter(|item| item.next() <= to));
                let forgotten = self.items.iter().flat_map(|item| match item {
                    Item::Forget(ids, _) => &ids[..],
                    Item::Batch(..) => &[],
                });
                let forgotten: Vec<i64> = forgotten.copied().collect();
                let differ = |id: &&i64| known.get(*id) != here.get(*id) && !forgotten.contains(id);
                let ids: Vec<&i64> = known.keys().chain(here.keys()).filter(differ).collect();
                assert!(ids.is_empty(), "{ids:?}: {known:?} and not {here:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_state_is_what_the_log_says(steps in steps()) {
            let mut world = World::default();
            for step in steps {
                world.step(step);
                world.check();
            }
        }

        #[test]
        fn strange_bytes_are_nothing(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(version) = bytes.first_mut() {
                *version = VERSION;
            }
            if let Some(producers) = Producers::decode(&bytes) {
                told(&producers);
                told(&producers.at(5));
            }
        }
    }

    fn batch(base_sequence: i32, last_offset_delta: i32, base: Offset) -> KnownBatch {
        KnownBatch { base_sequence, last_offset_delta, base, timestamp: base + 1_000 }
    }

    fn of(producer: i64, epoch: i16, base_sequence: i32) -> Produced {
        Produced { producer, epoch, base_sequence }
    }

    /// Producer 7 in epoch 2, with seven batches of two records.
    fn seven() -> Producers {
        let mut producers = Producers::default();
        for number in 0..7 {
            let (sequence, base) = (2 * number, 10 * i64::from(number));
            producers.append(&of(7, 2, sequence), batch(sequence, 1, base), 50);
        }
        producers
    }

    #[test]
    fn a_batch_is_judged_as_apache_kafka_does() {
        let producers = seven();
        let judge = |epoch, sequence, delta| producers.judge(&of(7, epoch, sequence), delta);
        assert_eq!(judge(2, 14, 3), Ok(None), "the next one");
        for number in 2..7 {
            let original = batch(2 * number, 1, 10 * i64::from(number));
            assert_eq!(judge(2, 2 * number, 1), Ok(Some(original)));
        }
        let order = |given| SequenceError::Order { id: 7, epoch: 2, given, next: 14 };
        for (sequence, delta) in [(2, 1), (12, 0), (12, 2), (13, 0), (15, 0), (0, 0)] {
            assert_eq!(judge(2, sequence, delta), Err(order(sequence)), "{sequence}");
        }
        let fenced = SequenceError::Fenced { id: 7, epoch: 1, known: 2 };
        assert_eq!(judge(1, 12, 1), Err(fenced));
        assert_eq!(judge(3, 0, 1), Ok(None));
        assert_eq!(judge(3, 14, 1), Err(SequenceError::Begin { id: 7, epoch: 3, given: 14 }));
        assert_eq!(producers.judge(&of(8, 0, 99), 1), Ok(None), "nothing is known of it");
    }

    #[test]
    fn sequence_numbers_go_on_with_0() {
        let mut producers = Producers::default();
        let original = batch(i32::MAX - 1, 3, 0);
        producers.append(&of(7, 0, i32::MAX - 1), original, 50);
        assert_eq!(original.last_sequence(), 1);
        assert_eq!(producers.judge(&of(7, 0, i32::MAX - 1), 3), Ok(Some(original)));
        assert_eq!(producers.judge(&of(7, 0, 2), 0), Ok(None));
        let next = SequenceError::Order { id: 7, epoch: 0, given: 0, next: 2 };
        assert_eq!(producers.judge(&of(7, 0, 0), 0), Err(next));
        producers.append(&of(7, 0, 2), batch(2, i32::MAX - 2, 4), 50);
        assert_eq!(producers.judge(&of(7, 0, 0), 0), Ok(None));
    }

    #[test]
    fn of_what_should_never_be_cut_and_is_nothing_is_known() {
        let mut producers = seven();
        producers.append(&of(8, 0, 0), batch(0, 0, 70), 50);
        producers.settle(71);
        producers.truncate(40);
        assert_eq!(
            told(&producers),
            Told::from([(7, (2, vec![batch(4, 1, 20), batch(6, 1, 30)]))])
        );
        producers.truncate(0);
        assert_eq!(producers, Producers::default());
    }

    #[test]
    fn the_lowest_and_those_that_are_silent_are_found() {
        let mut producers = Producers::default();
        for (base, (producer, appended)) in (0..).zip([(5, 100), (3, 200), (4, 150), (9, 300)]) {
            producers.append(&of(producer, 0, 0), batch(0, 0, base), appended);
        }
        producers.append(&of(5, 0, 1), batch(1, 0, 4), 400);
        assert_eq!((producers.lowest(2), producers.len()), (vec![3, 4], 4));
        assert_eq!(producers.silent_since(199), [0; 0], "one waits where the clock went back");
        assert_eq!(producers.silent_since(200), [3, 4]);
        assert_eq!(producers.silent_since(i64::MAX), [3, 4, 9, 5]);
        producers.forget([4, 3, 77].into_iter(), 5);
        assert_eq!((producers.len(), producers.lowest(1)), (2, vec![9]));
        assert!(!producers.is_unsettled(0) && producers.is_unsettled(1));
        producers.truncate(5);
        assert_eq!(producers.len(), 2, "what was forgotten there stays so");
        producers.truncate(4);
        assert_eq!(producers.lowest(5), [5, 3, 4, 9]);
    }

    #[test]
    fn bytes_are_frozen() {
        let mut producers = Producers::default();
        producers.append(&of(300, 2, 7), batch(7, 1, 9), 100);
        producers.append(&of(300, 2, 9), batch(9, 0, 11), 200);
        producers.settle(11);
        let bytes = producers.encode();
        let known = b"\x01\x01\xd8\x04\x04\x90\x03\x02\x0e\x02\x12\xe2\x0f\x12\x00\x16\xe6\x0f";
        let undo = b"\x01\x18\xd8\x04\x01\x04\xc8\x01\x01\x0e\x02\x12\xe2\x0f";
        assert_eq!(bytes, [&known[..], undo].concat());
        assert_eq!(Producers::decode(&bytes), Some(producers));
        for cut in 1..bytes.len() {
            assert_eq!(Producers::decode(&bytes[..cut]), None, "{cut}");
        }
        assert_eq!(Producers::decode(&[&bytes[..], &[0]].concat()), None);
        assert_eq!(Producers::decode(&[&[2], &bytes[1..]].concat()), None);
        assert_eq!(Producers::begin(&bytes, 100, 0), None, "what may be cut begins no log");
        let at = Producers::decode(&bytes).expect("a state").at(11).encode();
        assert_eq!(
            (Producers::begin(&at, 10, 0), Producers::begin(&at, 11, 0).is_some()),
            (None, true)
        );
        assert_eq!(Producers::decode(&[]), Some(Producers::default()));
        let strange = [of(-1, 0, 0), of(1, -1, 0), of(1, 0, -1)];
        for of in strange {
            let mut producers = Producers::default();
            producers.append(&of, batch(of.base_sequence, 0, 0), 0);
            assert_eq!(Producers::decode(&producers.encode()), None, "{of:?}");
        }
    }

    #[test]
    fn all_that_a_log_may_know_fits_into_a_push_and_a_journal_file() {
        let most = i64::from(StorageConfig::default().producer_ids_max);
        let mut producers = Producers::default();
        for id in 0..most {
            for number in 0..5 {
                let base = i64::MAX / 2 + 10 * id + number;
                let batch = KnownBatch { timestamp: i64::MIN, ..batch(i32::MAX, 0, base) };
                let of = of(i64::MAX - id, i16::MAX, i32::MAX);
                producers.append(&of, batch, i64::MIN);
            }
        }
        producers.settle(i64::MAX);
        let size = producers.encode().len();
        assert!(size <= 170 * most as usize, "{size} bytes");
        assert!(size <= ReplicationConfig::default().push_bytes_max as usize);
        assert!(size <= StorageConfig::default().journal_file_bytes as usize / 4);
    }
}
