//! A consumer: reads every partition from some offset on, with full fetches or incremental sessions, or once to its end.
//!
//! What it is given must go on where it left off: no gap, nothing twice, nothing backwards.

use std::collections::{BTreeMap, BTreeSet};

use milena_core::{Epoch, Offset};
use milena_wire::batch::{self, DecompressLimit, TimestampType};
use milena_wire::messages::fetch::{FetchPartition, FetchResponse, FetchTopic, PartitionData};
use milena_wire::messages::list_offsets::{
    EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, ListOffsetsPartition, ListOffsetsResponse,
    ListOffsetsTopic,
};
use milena_wire::messages::{FetchRequest, ListOffsetsRequest};
use milena_wire::{ErrorCode, Response, Uuid};

use super::{Pace, Session};
use crate::check::{Checked, Violation};
use crate::history::{History, Shown};
use crate::queue::Time;
use crate::schedule::ConsumerSetup;

/// First version of Fetch with sessions, with the leader's epoch, with that of the last record, and with ids instead of names.
const SESSION_VERSION: i16 = 7;
const EPOCH_VERSION: i16 = 9;
const FETCHED_EPOCH_VERSION: i16 = 12;
const TOPIC_ID_VERSION: i16 = 13;
/// First version of ListOffsets with the leader's epoch.
const LIST_EPOCH_VERSION: i16 = 4;
/// The epoch of who has none to name.
const NO_EPOCH: Epoch = -1;

/// A partition of a topic: its name, its id, its index.
type Key = (String, Uuid, i32);

#[derive(Clone, Debug)]
struct Position {
    place: usize,
    /// Where to read on; none until it was asked for.
    next: Option<Offset>,
    start: Offset,
    /// Of the last record that it was given.
    epoch: Epoch,
    /// Highest epoch of the leaders that gave it records.
    led: Epoch,
    asked: bool,
}

#[derive(Clone, Debug, Default)]
struct FetchSession {
    id: i32,
    epoch: i32,
    /// Offsets and epochs as the broker last heard them.
    known: BTreeMap<Key, (Offset, Epoch, Epoch)>,
}

/// What a request asked of one partition.
#[derive(Clone, Copy, Debug)]
struct Asked {
    offset: Offset,
    /// Only the leader of this epoch answers, or any for none.
    epoch: Epoch,
    /// The epoch of the last record that it has, if it says so.
    fetched: Epoch,
    /// The high watermark that had been told by then.
    floor: Offset,
}

#[derive(Debug)]
enum Sent {
    Fetch {
        node: usize,
        asked: BTreeMap<Key, Asked>,
        session_id: i32,
    },
    /// The offset asked for is a timestamp that stands for one.
    Offsets(Key, Asked),
}

/// A consumer.
#[derive(Debug)]
pub struct Consumer {
    pub(super) setup: ConsumerSetup,
    positions: BTreeMap<Key, Position>,
    sessions: BTreeMap<usize, FetchSession>,
    sent: BTreeMap<u64, Sent>,
    pace: Pace,
    /// Whether it reads each partition once, from its start to its end.
    to_the_end: bool,
    finished: BTreeSet<Key>,
}

impl Consumer {
    /// One that reads again and again.
    pub fn new(setup: ConsumerSetup) -> Consumer {
        Consumer {
            pace: Pace::new(setup.pause_us),
            setup,
            positions: BTreeMap::new(),
            sessions: BTreeMap::new(),
            sent: BTreeMap::new(),
            to_the_end: false,
            finished: BTreeSet::new(),
        }
    }

    /// One that reads everything that is owed, once.
    pub fn final_reader(history: &History) -> Consumer {
        let setup = ConsumerSetup { partition_bytes: 32_768, ..ConsumerSetup::default() };
        let mut consumer = Consumer { to_the_end: true, ..Consumer::new(setup) };
        for (topic, id, index, place) in history.owed() {
            consumer.positions.insert((topic.to_owned(), id, index), Position::unknown(place));
        }
        consumer
    }

    /// Whether it has nothing left to read.
    pub fn is_done(&self) -> bool {
        !self.to_the_end || self.finished.len() == self.positions.len()
    }

    /// Partitions that could not be read to their end yet.
    pub fn unfinished(&self) -> Vec<String> {
        self.positions
            .keys()
            .filter(|key| !self.finished.contains(*key))
            .map(|(topic, _, partition)| format!("{topic}-{partition}"))
            .collect()
    }

    /// Asks for what comes next.
    pub fn act(&mut self, now: Time, session: &mut Session, history: &mut History) {
        if session.stopping && !self.to_the_end {
            return;
        }
        if self.pace.is_due(now, session) {
            self.choose(session, history);
            self.ask_offsets(now, session, history);
            self.fetch(now, session, history);
            if session.stream.below(20) == 0 || self.to_the_end {
                session.want_metadata();
            }
        }
        session.wake(self.pace.next(now));
    }

    fn choose(&mut self, session: &mut Session, history: &mut History) {
        if self.to_the_end {
            return;
        }
        let topics = &session.topics;
        // Of a topic that it is told no more of it goes on where it was, if at all: nobody can say where it begins.
        self.positions.retain(|(name, id, _), position| {
            topics.get(name).is_some_and(|view| view.id == *id)
                || (position.next.is_some() && session.view(name, *id).is_some())
        });
        for (topic, view) in topics {
            for partition in 0..view.partitions.len() as i32 {
                let key = (topic.clone(), view.id, partition);
                self.positions.entry(key).or_insert_with(|| {
                    Position::unknown(history.partition(topic, view.id, partition))
                });
            }
        }
    }

    fn ask_offsets(&mut self, now: Time, session: &mut Session, history: &History) {
        let unknown: Vec<Key> = self
            .positions
            .iter()
            .filter(|(_, position)| position.next.is_none() && !position.asked)
            .map(|(key, _)| key.clone())
            .take(2)
            .collect();
        for key in unknown {
            let Some((node, epoch)) = session.leader(&key.0, key.2) else {
                session.want_metadata();
                continue;
            };
            let version = self.setup.dialect.list_offsets;
            let epoch = if version >= LIST_EPOCH_VERSION { epoch } else { NO_EPOCH };
            let earliest = self.to_the_end || session.stream.below(4) > 0;
            let offset = if earliest { EARLIEST_TIMESTAMP } else { LATEST_TIMESTAMP };
            let request = ListOffsetsRequest {
                replica_id: -1,
                topics: vec![ListOffsetsTopic {
                    name: key.0.clone(),
                    partitions: vec![ListOffsetsPartition {
                        partition_index: key.2,
                        current_leader_epoch: epoch,
                        timestamp: offset,
                    }],
                }],
                ..ListOffsetsRequest::default()
            };
            let id = session.send(now, node, version, request.into());
            let position = self.positions.get_mut(&key).expect("taken from there");
            position.asked = true;
            let floor = history.told(position.place, epoch);
            let asked = Asked { offset, epoch, fetched: NO_EPOCH, floor };
            self.sent.insert(id, Sent::Offsets(key, asked));
        }
    }

    fn fetch(&mut self, now: Time, session: &mut Session, history: &History) {
        let asked = |sent: &Sent| match sent {
            Sent::Fetch { node, .. } => Some(*node),
            Sent::Offsets(..) => None,
        };
        let busy: BTreeSet<usize> = self.sent.values().filter_map(asked).collect();
        let version = self.setup.dialect.fetch;
        let mut wanted: BTreeMap<usize, BTreeMap<Key, Asked>> = BTreeMap::new();
        for (key, position) in &self.positions {
            let Some(next) = position.next.filter(|_| !self.finished.contains(key)) else {
                continue;
            };
            let leader = match version >= TOPIC_ID_VERSION {
                true => session.leader_by_id(&key.0, key.1, key.2),
                false => session.leader(&key.0, key.2),
            };
            match leader {
                Some((node, epoch)) if !busy.contains(&node) => {
                    let epoch = if version >= EPOCH_VERSION { epoch } else { NO_EPOCH };
                    let says = self.setup.says_epoch && version >= FETCHED_EPOCH_VERSION;
                    let fetched = if says { position.epoch } else { NO_EPOCH };
                    let floor = history.told(position.place, epoch);
                    let asked = Asked { offset: next, epoch, fetched, floor };
                    wanted.entry(node).or_default().insert(key.clone(), asked);
                }
                Some(_) => {}
                None => session.want_metadata(),
            }
        }
        for (node, partitions) in wanted {
            let heard: BTreeMap<Key, (Offset, Epoch, Epoch)> = partitions
                .iter()
                .map(|(key, asked)| (key.clone(), (asked.offset, asked.epoch, asked.fetched)))
                .collect();
            let mut request = FetchRequest {
                max_wait_ms: session.stream.between(0, 120) as i32,
                min_bytes: session.stream.between(1, self.setup.min_bytes as u64) as i32,
                max_bytes: 32_768,
                ..FetchRequest::default()
            };
            let mut named: Vec<&Key> = partitions.keys().collect();
            if self.uses_sessions() {
                let known = self.sessions.entry(node).or_default();
                request.session_id = known.id;
                request.session_epoch = known.epoch;
                if known.epoch > 0 {
                    named.retain(|key| known.known.get(*key) != heard.get(*key));
                    for key in known.known.keys().filter(|key| !heard.contains_key(*key)) {
                        request.forgotten_topics_data.push(
                            milena_wire::messages::fetch::ForgottenTopic {
                                topic: key.0.clone(),
                                topic_id: key.1,
                                partitions: vec![key.2],
                            },
                        );
                    }
                }
                known.known = heard;
            }
            for key in named {
                let asked = partitions[key];
                let partition = FetchPartition {
                    partition: key.2,
                    current_leader_epoch: asked.epoch,
                    fetch_offset: asked.offset,
                    last_fetched_epoch: asked.fetched,
                    partition_max_bytes: self.setup.partition_bytes,
                    ..FetchPartition::default()
                };
                match request.topics.iter_mut().find(|topic| topic.topic_id == key.1) {
                    Some(topic) => topic.partitions.push(partition),
                    None => request.topics.push(FetchTopic {
                        topic: key.0.clone(),
                        topic_id: key.1,
                        partitions: vec![partition],
                    }),
                }
            }
            let session_id = request.session_id;
            let id = session.send(now, node, version, request.into());
            self.sent.insert(id, Sent::Fetch { node, asked: partitions, session_id });
        }
    }

    fn uses_sessions(&self) -> bool {
        self.setup.sessions && self.setup.dialect.fetch >= SESSION_VERSION
    }

    /// Whether who answers to a partition's name is surely that partition.
    fn is_exact(&self, key: &Key, by_id: bool, history: &History) -> bool {
        self.to_the_end || by_id || !history.is_contested(&key.0)
    }

    /// A request was never answered.
    pub fn on_lost(&mut self, id: u64) {
        if let Some(Sent::Offsets(key, _)) = self.sent.remove(&id)
            && let Some(position) = self.positions.get_mut(&key)
        {
            position.asked = false;
        }
    }

    /// A connection is gone, and the fetch session on it is not trusted any more.
    pub fn forget_session(&mut self, node: usize) {
        self.sessions.remove(&node);
    }

    /// A request was answered.
    pub fn on_reply(
        &mut self,
        id: u64,
        response: Option<Response>,
        session: &mut Session,
        history: &mut History,
    ) -> Result<(), Violation> {
        let Some(sent) = self.sent.remove(&id) else { return Ok(()) };
        match (sent, response) {
            (Sent::Offsets(key, asked), Some(Response::ListOffsets(answer))) => {
                self.on_offsets(&key, asked, &answer, session, history)?;
            }
            (Sent::Fetch { node, asked, session_id }, Some(Response::Fetch(answer))) => {
                self.on_fetch(node, &asked, session_id, answer, session, history)?;
            }
            (sent, response) => {
                return Err(Violation::new(
                    "answer",
                    format!("{sent:?} was answered by {response:?}"),
                ));
            }
        }
        Ok(())
    }

    fn on_offsets(
        &mut self,
        key: &Key,
        asked: Asked,
        answer: &ListOffsetsResponse,
        session: &mut Session,
        history: &mut History,
    ) -> Checked {
        let exact = self.is_exact(key, false, history);
        let Some(position) = self.positions.get_mut(key) else { return Ok(()) };
        position.asked = false;
        let found = answer.topics.first().and_then(|topic| topic.partitions.first());
        match found {
            Some(partition) if partition.error_code.is_none() && partition.offset >= 0 => {
                position.next = Some(partition.offset);
                position.start = partition.offset;
                position.epoch = NO_EPOCH;
                if asked.offset == LATEST_TIMESTAMP && asked.epoch != NO_EPOCH && exact {
                    history.tell(position.place, asked.epoch, asked.floor, partition.offset)?;
                }
            }
            _ => session.want_metadata(),
        }
        Ok(())
    }

    fn on_fetch(
        &mut self,
        node: usize,
        asked: &BTreeMap<Key, Asked>,
        session_id: i32,
        answer: FetchResponse,
        session: &mut Session,
        history: &mut History,
    ) -> Result<(), Violation> {
        if answer.error_code.is_some() {
            self.sessions.remove(&node);
            return Ok(());
        }
        if self.uses_sessions()
            && let Some(known) = self.sessions.get_mut(&node)
        {
            // A broker that keeps no session answers 0: then each fetch is a full one.
            known.epoch = if answer.session_id == 0 { 0 } else { known.epoch + 1 };
            known.id = answer.session_id;
            if session_id != 0 && answer.session_id != session_id {
                known.epoch = 0;
                known.id = 0;
            }
        }
        let by_id = self.setup.dialect.fetch >= TOPIC_ID_VERSION;
        for topic in answer.responses {
            // In one request a name stands for one topic.
            let named =
                asked.keys().find(
                    |(name, id, _)| {
                        if by_id { *id == topic.topic_id } else { *name == topic.topic }
                    },
                );
            let Some((name, id, _)) = named.cloned() else { continue };
            for partition in topic.partitions {
                let key = (name.clone(), id, partition.partition_index);
                if let Some(asked) = asked.get(&key) {
                    self.on_partition(&key, *asked, partition, session, history)?;
                }
            }
        }
        Ok(())
    }

    fn on_partition(
        &mut self,
        key: &Key,
        asked: Asked,
        data: PartitionData,
        session: &mut Session,
        history: &mut History,
    ) -> Result<(), Violation> {
        let by_id = self.setup.dialect.fetch >= TOPIC_ID_VERSION;
        let exact = self.is_exact(key, by_id, history);
        let Some(position) = self.positions.get_mut(key) else { return Ok(()) };
        let from = asked.offset;
        if data.error_code.is_none() && asked.epoch != NO_EPOCH && exact {
            history.tell(position.place, asked.epoch, asked.floor, data.high_watermark)?;
        }
        if position.next != Some(from) {
            return Ok(());
        }
        match data.error_code {
            ErrorCode::NONE => {}
            ErrorCode::OFFSET_OUT_OF_RANGE => {
                position.next = None;
                return Ok(());
            }
            _ => {
                session.want_metadata();
                return Ok(());
            }
        }
        if data.diverging_epoch.end_offset >= 0 {
            // A leader of the epoch in which it was read, or of a later one, has all of it. One that was deposed meanwhile may not:
            // its successor has committed what is of an epoch before.
            let read_in = asked.fetched.max(position.led);
            if exact && (asked.fetched == NO_EPOCH || read_in <= asked.epoch) {
                return Err(Violation::new(
                    "divergence",
                    format!(
                        "{}-{}: {:?} is said to who read up to {from} in epoch {}",
                        key.0, key.2, data.diverging_epoch, asked.fetched
                    ),
                ));
            }
            position.next = None;
            return Ok(());
        }
        let bytes = data.records.unwrap_or_default().to_bytes();
        let is_compacted = history.keys(position.place).is_some();
        let (mut next, mut batches, mut empty) = (from, 0, 0);
        let mut last = None;
        for item in batch::batches(&bytes) {
            // The last batch of an answer may be cut.
            let Ok((header, bytes)) = item else { break };
            let damaged =
                |what: String| Violation::new("content", format!("{}-{}: {what}", key.0, key.2));
            let backwards = |offset: Offset, next: Offset| {
                Violation::new(
                    "nonmonotonic-poll",
                    format!("{}-{}: offset {offset} came where {next} was next", key.0, key.2),
                )
            };
            batch::validate(&bytes).map_err(|error| {
                damaged(format!("batch at {} served: {error}", header.base_offset))
            })?;
            let records = batch::records(&bytes, DecompressLimit(1 << 20))
                .map_err(|error| damaged(format!("batch at {}: {error}", header.base_offset)))?;
            for record in records {
                if last.is_some_and(|last| record.offset <= last) {
                    return Err(backwards(record.offset, next));
                }
                last = Some(record.offset);
                // The first batch may begin before what was asked for.
                if record.offset < next {
                    continue;
                }
                if record.offset > next && is_compacted {
                    history.skip(position.place, next..record.offset)?;
                } else if record.offset > next {
                    return Err(Violation::new(
                        "poll-skip",
                        format!(
                            "{}-{}: offset {} was followed by {}",
                            key.0, key.2, next, record.offset
                        ),
                    ));
                }
                if data.high_watermark <= record.offset {
                    return Err(Violation::new(
                        "P15",
                        format!(
                            "{}-{}: offset {} served with high watermark {}",
                            key.0, key.2, record.offset, data.high_watermark
                        ),
                    ));
                }
                // What ends a key says in a header who it is.
                let told = record.headers.into_iter().next().and_then(|(_, value)| value);
                let value = record.value.or(told).unwrap_or_default();
                let shown = Shown {
                    timestamp: record.timestamp,
                    stamped: header.timestamp_type() == TimestampType::LogAppendTime,
                    epoch: header.partition_leader_epoch,
                };
                history.read(position.place, record.offset, shown, &value, exact)?;
                if is_compacted && self.to_the_end {
                    history.found(position.place, record.offset);
                }
                next = record.offset + 1;
            }
            let end = header.next_offset();
            if is_compacted && end > next {
                history.skip(position.place, next..end)?;
                next = end;
            }
            if data.high_watermark < next {
                return Err(Violation::new(
                    "P15",
                    format!(
                        "{}-{}: a batch up to {next} served with high watermark {}",
                        key.0, key.2, data.high_watermark
                    ),
                ));
            }
            (batches, empty) = (batches + 1, empty + usize::from(header.records_count == 0));
            if empty > 0 && batches > 1 {
                return Err(damaged(format!(
                    "a batch without records at {} beside others",
                    header.base_offset
                )));
            }
            if next == from {
                return Err(backwards(header.base_offset, next));
            }
            position.epoch = header.partition_leader_epoch;
            position.led = position.led.max(asked.epoch);
        }
        position.next = Some(next);
        if self.to_the_end && next >= data.high_watermark {
            history.final_read(position.place, position.start, next);
            self.finished.insert(key.clone());
        }
        Ok(())
    }
}

impl Position {
    fn unknown(place: usize) -> Position {
        Position { place, next: None, start: 0, epoch: NO_EPOCH, led: NO_EPOCH, asked: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Concern, Stream};
    use milena_wire::Records;
    use milena_wire::batch::{BatchBuilder, Compression, assign};
    use milena_wire::messages::fetch::EpochEndOffset;
    use milena_wire::messages::list_offsets::{
        ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
    };

    const ASKED: Asked = Asked { offset: 3, epoch: 1, fetched: NO_EPOCH, floor: 0 };

    /// A consumer at offset 3, asked about so, that is given batches of two records from each of `bases` on, and where it
    /// stands then.
    fn given(
        asked: Asked,
        bases: &[Offset],
        high_watermark: Offset,
    ) -> Result<Option<Offset>, &'static str> {
        let mut history = History::default();
        let place = history.partition("t", Uuid::ZERO, 0);
        let mut records = Vec::new();
        for base in bases {
            let mut builder = BatchBuilder::new(0, -1, Compression::None);
            for _ in 0..2 {
                let value = history.invoke(place, 1);
                history.attempt(&[value]);
                builder.append(1, None, Some(&History::payload(value, 9, false)), &[]);
            }
            records.extend(assign(&builder.build(), *base, 1));
        }
        let records = Some(Records(records));
        let data = PartitionData { high_watermark, records, ..PartitionData::default() };
        let setup = ConsumerSetup::default();
        let mut consumer = Consumer::new(setup);
        let key = ("t".to_owned(), Uuid::ZERO, 0);
        let position = Position { next: Some(3), ..Position::unknown(place) };
        consumer.positions.insert(key.clone(), position);
        let mut session = Session::new(Stream::new(1, Concern::Client(0)), 1);
        consumer
            .on_partition(&key, asked, data, &mut session, &mut history)
            .map_err(|violation| violation.property)?;
        Ok(consumer.positions[&key].next)
    }

    #[test]
    fn a_gap_in_a_poll_is_noticed() {
        assert_eq!(given(ASKED, &[3], 9), Ok(Some(5)));
        assert_eq!(
            given(ASKED, &[2], 9),
            Ok(Some(4)),
            "a batch may begin before what was asked for"
        );
        assert_eq!(given(ASKED, &[4], 9), Err("poll-skip"));
        assert_eq!(given(ASKED, &[3, 6], 9), Err("poll-skip"));
    }

    #[test]
    fn a_poll_that_goes_backwards_is_noticed() {
        assert_eq!(given(ASKED, &[2, 4], 9), Ok(Some(6)));
        assert_eq!(given(ASKED, &[3, 3], 9), Err("nonmonotonic-poll"), "the same again");
        assert_eq!(
            given(ASKED, &[2, 3], 9),
            Err("nonmonotonic-poll"),
            "only the first may begin before"
        );
        assert_eq!(
            given(ASKED, &[1], 9),
            Err("nonmonotonic-poll"),
            "all of it before what was asked for"
        );
    }

    #[test]
    fn a_record_past_the_high_watermark_is_noticed() {
        assert_eq!(given(ASKED, &[3], 4), Err("P15"));
    }

    #[test]
    fn a_high_watermark_that_falls_is_noticed() {
        let asked = Asked { floor: 9, ..ASKED };
        assert_eq!(given(asked, &[3], 9), Ok(Some(5)));
        assert_eq!(given(asked, &[3], 8), Err("P6"));
        assert_eq!(given(asked, &[], 8), Err("P6"), "records or none");
    }

    #[test]
    fn a_log_that_parts_from_what_was_read_is_noticed() {
        let told = |fetched, epoch| {
            let mut history = History::default();
            let place = history.partition("t", Uuid::ZERO, 0);
            let mut consumer = Consumer::new(ConsumerSetup::default());
            let key = ("t".to_owned(), Uuid::ZERO, 0);
            let position = Position { next: Some(3), ..Position::unknown(place) };
            consumer.positions.insert(key.clone(), position);
            let diverging_epoch = EpochEndOffset { epoch: 1, end_offset: 2 };
            let data = PartitionData { diverging_epoch, ..PartitionData::default() };
            let asked = Asked { fetched, epoch, ..ASKED };
            let mut session = Session::new(Stream::new(1, Concern::Client(0)), 1);
            consumer
                .on_partition(&key, asked, data, &mut session, &mut history)
                .map_err(|violation| violation.property)?;
            Ok(consumer.positions[&key].next)
        };
        assert_eq!(told(2, 2), Err("divergence"));
        assert_eq!(told(2, 1), Ok(None), "who was deposed may know less");
    }

    #[test]
    fn a_latest_offset_that_falls_is_noticed() {
        let answered = |asked: Asked, offset| {
            let mut history = History::default();
            let place = history.partition("t", Uuid::ZERO, 0);
            let setup = ConsumerSetup::default();
            let mut consumer = Consumer::new(setup);
            let key = ("t".to_owned(), Uuid::ZERO, 0);
            consumer.positions.insert(key.clone(), Position::unknown(place));
            let mut session = Session::new(Stream::new(1, Concern::Client(0)), 1);
            let partition = ListOffsetsPartitionResponse { offset, ..Default::default() };
            let topic = ListOffsetsTopicResponse { name: "t".into(), partitions: vec![partition] };
            let answer = ListOffsetsResponse { topics: vec![topic], ..Default::default() };
            let told = consumer.on_offsets(&key, asked, &answer, &mut session, &mut history);
            told.map_err(|violation| violation.property)
        };
        let latest = Asked { offset: LATEST_TIMESTAMP, floor: 9, ..ASKED };
        assert_eq!(answered(latest, 9), Ok(()));
        assert_eq!(answered(latest, 8), Err("P6"));
        let earliest = Asked { offset: EARLIEST_TIMESTAMP, ..latest };
        assert_eq!(answered(earliest, 0), Ok(()), "the log start is no high watermark");
    }
}
