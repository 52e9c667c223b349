//! A consumer: reads every partition from some offset on, with full fetches or incremental sessions, or once to its end.
//!
//! What it is given must go on where it left off: no gap, nothing twice, nothing backwards.

use std::collections::{BTreeMap, BTreeSet};

use milena_core::Offset;
use milena_wire::batch::{self, DecompressLimit};
use milena_wire::messages::fetch::{FetchPartition, FetchResponse, FetchTopic, PartitionData};
use milena_wire::messages::list_offsets::{
    EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, ListOffsetsPartition, ListOffsetsResponse,
    ListOffsetsTopic,
};
use milena_wire::messages::{FetchRequest, ListOffsetsRequest};
use milena_wire::{ErrorCode, Response, Uuid};

use super::Session;
use crate::check::Violation;
use crate::history::History;
use crate::queue::Time;
use crate::schedule::ConsumerSetup;

type Key = (String, i32);

#[derive(Clone, Debug)]
struct Position {
    place: usize,
    /// Where to read on; none until it was asked for.
    next: Option<Offset>,
    start: Offset,
    asked: bool,
}

#[derive(Clone, Debug, Default)]
struct FetchSession {
    id: i32,
    epoch: i32,
    /// Offsets as the broker last heard them.
    known: BTreeMap<Key, Offset>,
}

#[derive(Debug)]
enum Sent {
    Fetch { offsets: BTreeMap<Key, Offset>, session_id: i32 },
    Offsets(Key),
}

/// A consumer.
#[derive(Debug)]
pub struct Consumer {
    setup: ConsumerSetup,
    positions: BTreeMap<Key, Position>,
    sessions: BTreeMap<usize, FetchSession>,
    sent: BTreeMap<u64, (usize, Sent)>,
    next_act: Time,
    /// Whether it reads each partition once, from its start to its end.
    to_the_end: bool,
    finished: BTreeSet<Key>,
}

impl Consumer {
    /// One that reads again and again.
    pub fn new(setup: ConsumerSetup) -> Consumer {
        Consumer {
            setup,
            positions: BTreeMap::new(),
            sessions: BTreeMap::new(),
            sent: BTreeMap::new(),
            next_act: 0,
            to_the_end: false,
            finished: BTreeSet::new(),
        }
    }

    /// One that reads everything that is owed, once.
    pub fn final_reader(history: &History) -> Consumer {
        let setup = ConsumerSetup { pause_us: 1_000, sessions: false, partition_bytes: 32_768 };
        let mut consumer = Consumer { to_the_end: true, ..Consumer::new(setup) };
        for (topic, index, place) in history.owed() {
            consumer.positions.insert((topic.to_owned(), index), Position::unknown(place));
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
            .map(|(topic, partition)| format!("{topic}-{partition}"))
            .collect()
    }

    /// Asks for what comes next.
    pub fn act(&mut self, now: Time, session: &mut Session, history: &mut History) {
        if session.stopping && !self.to_the_end {
            return;
        }
        if now >= self.next_act {
            self.next_act = now + session.stream.delay(self.setup.pause_us * 1_000);
            self.choose(session, history);
            self.ask_offsets(now, session);
            self.fetch(now, session);
            if session.stream.below(20) == 0 || self.to_the_end {
                session.want_metadata();
            }
        }
        session.wake(self.next_act.max(now + 1));
    }

    fn choose(&mut self, session: &mut Session, history: &mut History) {
        if self.to_the_end {
            return;
        }
        self.positions.retain(|(topic, _), _| session.topics.contains_key(topic));
        for (topic, view) in &session.topics {
            for partition in 0..view.partitions.len() as i32 {
                let key = (topic.clone(), partition);
                self.positions
                    .entry(key)
                    .or_insert_with(|| Position::unknown(history.partition(topic, partition)));
            }
        }
    }

    fn ask_offsets(&mut self, now: Time, session: &mut Session) {
        let unknown: Vec<Key> = self
            .positions
            .iter()
            .filter(|(_, position)| position.next.is_none() && !position.asked)
            .map(|(key, _)| key.clone())
            .take(2)
            .collect();
        for key in unknown {
            let Some((node, epoch)) = session.leader(&key.0, key.1) else {
                session.want_metadata();
                continue;
            };
            let earliest = self.to_the_end || session.stream.below(4) > 0;
            let request = ListOffsetsRequest {
                replica_id: -1,
                topics: vec![ListOffsetsTopic {
                    name: key.0.clone(),
                    partitions: vec![ListOffsetsPartition {
                        partition_index: key.1,
                        current_leader_epoch: epoch,
                        timestamp: if earliest { EARLIEST_TIMESTAMP } else { LATEST_TIMESTAMP },
                    }],
                }],
                ..ListOffsetsRequest::default()
            };
            let id = session.send(now, node, 5, request.into());
            self.positions.get_mut(&key).expect("taken from there").asked = true;
            self.sent.insert(id, (node, Sent::Offsets(key)));
        }
    }

    fn fetch(&mut self, now: Time, session: &mut Session) {
        let busy: BTreeSet<usize> = self
            .sent
            .values()
            .filter(|(_, sent)| matches!(sent, Sent::Fetch { .. }))
            .map(|(node, _)| *node)
            .collect();
        let mut wanted: BTreeMap<usize, BTreeMap<Key, (Offset, i32, Uuid)>> = BTreeMap::new();
        for (key, position) in &self.positions {
            let Some(next) = position.next.filter(|_| !self.finished.contains(key)) else {
                continue;
            };
            match session.leader(&key.0, key.1) {
                Some((node, epoch)) if !busy.contains(&node) => {
                    let id = session.topics[&key.0].id;
                    wanted.entry(node).or_default().insert(key.clone(), (next, epoch, id));
                }
                Some(_) => {}
                None => session.want_metadata(),
            }
        }
        for (node, partitions) in wanted {
            let offsets: BTreeMap<Key, Offset> =
                partitions.iter().map(|(key, (next, ..))| (key.clone(), *next)).collect();
            let mut request = FetchRequest {
                max_wait_ms: session.stream.between(0, 120) as i32,
                min_bytes: 1,
                max_bytes: 32_768,
                ..FetchRequest::default()
            };
            let mut named: Vec<&Key> = partitions.keys().collect();
            if self.setup.sessions {
                let known = self.sessions.entry(node).or_default();
                request.session_id = known.id;
                request.session_epoch = known.epoch;
                if known.epoch > 0 {
                    named.retain(|key| known.known.get(*key) != offsets.get(*key));
                    for key in known.known.keys().filter(|key| !offsets.contains_key(*key)) {
                        request.forgotten_topics_data.push(
                            milena_wire::messages::fetch::ForgottenTopic {
                                topic: key.0.clone(),
                                topic_id: session.topics.get(&key.0).map_or(Uuid::ZERO, |t| t.id),
                                partitions: vec![key.1],
                            },
                        );
                    }
                }
                known.known.clone_from(&offsets);
            }
            for key in named {
                let (next, epoch, id) = partitions[key];
                let partition = FetchPartition {
                    partition: key.1,
                    current_leader_epoch: epoch,
                    fetch_offset: next,
                    partition_max_bytes: self.setup.partition_bytes,
                    ..FetchPartition::default()
                };
                match request.topics.iter_mut().find(|topic| topic.topic == key.0) {
                    Some(topic) => topic.partitions.push(partition),
                    None => request.topics.push(FetchTopic {
                        topic: key.0.clone(),
                        topic_id: id,
                        partitions: vec![partition],
                    }),
                }
            }
            let session_id = request.session_id;
            let id = session.send(now, node, 12, request.into());
            self.sent.insert(id, (node, Sent::Fetch { offsets, session_id }));
        }
    }

    /// A request was never answered.
    pub fn on_lost(&mut self, id: u64) {
        if let Some((_, Sent::Offsets(key))) = self.sent.remove(&id)
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
        now: Time,
        node: usize,
        id: u64,
        response: Option<Response>,
        session: &mut Session,
        history: &mut History,
    ) -> Result<(), Violation> {
        let Some((_, sent)) = self.sent.remove(&id) else { return Ok(()) };
        match (sent, response) {
            (Sent::Offsets(key), Some(Response::ListOffsets(answer))) => {
                self.on_offsets(&key, &answer, session);
            }
            (Sent::Fetch { offsets, session_id }, Some(Response::Fetch(answer))) => {
                self.on_fetch(node, &offsets, session_id, answer, session, history)?;
            }
            (sent, response) => {
                return Err(Violation::new(
                    "answer",
                    format!("{sent:?} was answered by {response:?}"),
                ));
            }
        }
        self.act(now, session, history);
        Ok(())
    }

    fn on_offsets(&mut self, key: &Key, answer: &ListOffsetsResponse, session: &mut Session) {
        let Some(position) = self.positions.get_mut(key) else { return };
        position.asked = false;
        let found = answer.topics.first().and_then(|topic| topic.partitions.first());
        match found {
            Some(partition) if partition.error_code.is_none() && partition.offset >= 0 => {
                position.next = Some(partition.offset);
                position.start = partition.offset;
            }
            _ => session.want_metadata(),
        }
    }

    fn on_fetch(
        &mut self,
        node: usize,
        offsets: &BTreeMap<Key, Offset>,
        session_id: i32,
        answer: FetchResponse,
        session: &mut Session,
        history: &mut History,
    ) -> Result<(), Violation> {
        if answer.error_code.is_some() {
            self.sessions.remove(&node);
            return Ok(());
        }
        if self.setup.sessions
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
        for topic in answer.responses {
            for partition in topic.partitions {
                let key = (topic.topic.clone(), partition.partition_index);
                if let Some(from) = offsets.get(&key) {
                    self.on_partition(&key, *from, partition, session, history)?;
                }
            }
        }
        Ok(())
    }

    fn on_partition(
        &mut self,
        key: &Key,
        from: Offset,
        data: PartitionData,
        session: &mut Session,
        history: &mut History,
    ) -> Result<(), Violation> {
        let Some(position) = self.positions.get_mut(key) else { return Ok(()) };
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
        let bytes = data.records.unwrap_or_default().to_bytes();
        let mut next = from;
        for item in batch::batches(&bytes) {
            // The last batch of an answer may be cut.
            let Ok((header, bytes)) = item else { break };
            let damaged =
                |what: String| Violation::new("content", format!("{}-{}: {what}", key.0, key.1));
            batch::validate(&bytes).map_err(|error| {
                damaged(format!("batch at {} served: {error}", header.base_offset))
            })?;
            let records = batch::records(&bytes, DecompressLimit(1 << 20))
                .map_err(|error| damaged(format!("batch at {}: {error}", header.base_offset)))?;
            for record in records {
                if record.offset < next {
                    continue;
                }
                if record.offset > next {
                    return Err(Violation::new(
                        "poll-skip",
                        format!(
                            "{}-{}: offset {} was followed by {}",
                            key.0, key.1, next, record.offset
                        ),
                    ));
                }
                if data.high_watermark <= record.offset {
                    return Err(Violation::new(
                        "P15",
                        format!(
                            "{}-{}: offset {} served with high watermark {}",
                            key.0, key.1, record.offset, data.high_watermark
                        ),
                    ));
                }
                let value = record.value.unwrap_or_default();
                history.read(position.place, record.offset, &value)?;
                next += 1;
            }
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
        Position { place, next: None, start: 0, asked: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Concern, Stream};
    use milena_wire::Records;
    use milena_wire::batch::{BatchBuilder, Compression, assign};

    /// A consumer at offset 3 that is given a batch of two records from `base` on, and where it stands then.
    fn given(base: Offset, high_watermark: Offset) -> Result<Option<Offset>, &'static str> {
        let mut history = History::default();
        let place = history.partition("t", 0);
        let mut builder = BatchBuilder::new(0, -1, Compression::None);
        for _ in 0..2 {
            let value = history.invoke(place);
            history.attempt(&[value]);
            builder.append(1, None, Some(&History::payload(value, 9, false)), &[]);
        }
        let records = Some(Records(assign(&builder.build(), base, 1).to_vec()));
        let data = PartitionData { high_watermark, records, ..PartitionData::default() };
        let setup = ConsumerSetup { pause_us: 1_000, sessions: false, partition_bytes: 1_000 };
        let mut consumer = Consumer::new(setup);
        let key = ("t".to_owned(), 0);
        let position = Position { next: Some(3), ..Position::unknown(place) };
        consumer.positions.insert(key.clone(), position);
        let mut session = Session::new(Stream::new(1, Concern::Client(0)), 1);
        consumer
            .on_partition(&key, 3, data, &mut session, &mut history)
            .map_err(|violation| violation.property)?;
        Ok(consumer.positions[&key].next)
    }

    #[test]
    fn a_gap_in_a_poll_is_noticed() {
        assert_eq!(given(3, 9), Ok(Some(5)));
        assert_eq!(given(2, 9), Ok(Some(4)), "the batch may begin before what was asked for");
        assert_eq!(given(4, 9), Err("poll-skip"));
    }

    #[test]
    fn a_record_past_the_high_watermark_is_noticed() {
        assert_eq!(given(3, 4), Err("P15"));
    }
}
