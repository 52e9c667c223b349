//! A producer: batches of new values to random partitions, again and again until they are answered.
//!
//! A batch keeps its values through all attempts, so that a retry after an unanswered one may stand twice in the log, as
//! with any producer that is not idempotent. It is given up when its topic is gone or after many attempts.

use std::collections::BTreeMap;

use milena_wire::batch::{BatchBuilder, Compression};
use milena_wire::messages::ProduceRequest;
use milena_wire::messages::produce::{PartitionProduceData, TopicProduceData};
use milena_wire::{ErrorCode, Response};

use super::Session;
use crate::check::Violation;
use crate::history::{History, ValueId};
use crate::queue::{MS, Time};
use crate::schedule::ProducerSetup;

const ATTEMPTS_MAX: u32 = 200;
/// A batch whose partition has no leader is given up after so long (`message.timeout.ms`).
const DELIVERY_TIMEOUT: Time = 15_000 * MS;

#[derive(Debug)]
struct Batch {
    topic: String,
    partition: i32,
    place: usize,
    values: Vec<ValueId>,
    records: bytes::Bytes,
    attempts: u32,
    /// Whether some attempt may have been appended.
    maybe_appended: bool,
    not_before: Time,
    begun: Time,
}

/// A producer.
#[derive(Debug)]
pub struct Producer {
    setup: ProducerSetup,
    sent: BTreeMap<u64, Batch>,
    waiting: Vec<Batch>,
    next_send: Time,
}

impl Producer {
    /// One that has not begun.
    pub fn new(setup: ProducerSetup) -> Producer {
        Producer { setup, sent: BTreeMap::new(), waiting: Vec::new(), next_send: 0 }
    }

    /// Whether each batch has found its end.
    pub fn is_done(&self) -> bool {
        self.sent.is_empty() && self.waiting.is_empty()
    }

    /// Sends what may be sent.
    pub fn act(&mut self, now: Time, session: &mut Session, history: &mut History) {
        let mut index = 0;
        while index < self.waiting.len() && self.sent.len() < self.setup.in_flight {
            if self.waiting[index].not_before > now {
                index += 1;
                continue;
            }
            let batch = self.waiting.remove(index);
            self.try_send(now, batch, session, history);
        }
        let open = self.sent.len() + self.waiting.len();
        if now >= self.next_send && open < self.setup.in_flight && !session.stopping {
            self.next_send = now + session.stream.delay(self.setup.pause_us * 1_000);
            if let Some(batch) = self.draw(now, session, history) {
                self.try_send(now, batch, session, history);
            } else {
                session.want_metadata();
            }
        }
        // Where nothing more may be on its way, an answer or a broken connection is what calls next.
        if self.sent.len() >= self.setup.in_flight {
            return;
        }
        let waiting = self.waiting.iter().map(|batch| batch.not_before).min();
        let open = self.sent.len() + self.waiting.len();
        let next = (!session.stopping && open < self.setup.in_flight).then_some(self.next_send);
        if let Some(at) = waiting.into_iter().chain(next).min() {
            session.wake(at.max(now + 1));
        }
    }

    fn draw(&self, now: Time, session: &mut Session, history: &mut History) -> Option<Batch> {
        let topics: Vec<(&String, usize)> =
            session.topics.iter().map(|(name, view)| (name, view.partitions.len())).collect();
        if topics.is_empty() {
            return None;
        }
        let drawn = session.stream.below(topics.len() as u64) as usize;
        let (topic, partitions) = (topics[drawn].0.clone(), topics[drawn].1);
        let partition = session.stream.below(partitions as u64) as i32;
        let place = history.partition(&topic, partition);
        if history.is_deleted(place) {
            return None;
        }
        let count = session.stream.between(1, self.setup.records_max);
        let compression = if self.setup.compress {
            *session.stream.pick(&[Compression::Lz4, Compression::Snappy, Compression::Gzip])
        } else {
            Compression::None
        };
        let mut builder = BatchBuilder::new(0, -1, compression);
        let mut values = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let value = history.invoke(place);
            let filler = session.stream.below(self.setup.bytes_max + 1) as usize;
            let payload = History::payload(value, filler, self.setup.compress);
            let timestamp = crate::node::WALL_START + (now / crate::queue::MS) as i64;
            builder.append(timestamp, None, Some(&payload), &[]);
            values.push(value);
        }
        Some(Batch {
            topic,
            partition,
            place,
            values,
            records: builder.build(),
            attempts: 0,
            maybe_appended: false,
            not_before: 0,
            begun: now,
        })
    }

    fn try_send(
        &mut self,
        now: Time,
        mut batch: Batch,
        session: &mut Session,
        history: &mut History,
    ) {
        let leader = session.leader(&batch.topic, batch.partition);
        let late = session.stopping && now > batch.begun + DELIVERY_TIMEOUT && leader.is_none();
        let gone = history.is_deleted(batch.place) || batch.attempts >= ATTEMPTS_MAX || late;
        if gone {
            if !batch.maybe_appended {
                history.refuse(&batch.values);
            }
            return;
        }
        let Some((node, _)) = leader else {
            session.want_metadata();
            batch.not_before = now + session.backoff();
            self.waiting.push(batch);
            return;
        };
        batch.attempts += 1;
        history.attempt(&batch.values);
        let request = ProduceRequest {
            acks: self.setup.acks,
            timeout_ms: 1_500,
            topic_data: vec![TopicProduceData {
                name: batch.topic.clone(),
                partition_data: vec![PartitionProduceData {
                    index: batch.partition,
                    records: Some(batch.records.clone()),
                }],
                ..TopicProduceData::default()
            }],
            ..ProduceRequest::default()
        };
        let id = session.send(now, node, 10, request.into());
        self.sent.insert(id, batch);
    }

    /// A request was never answered.
    pub fn on_lost(&mut self, now: Time, id: u64, session: &mut Session) {
        if let Some(mut batch) = self.sent.remove(&id) {
            batch.maybe_appended = true;
            if self.setup.acks != 0 {
                batch.not_before = now + session.backoff();
                self.waiting.push(batch);
            }
        }
    }

    /// A request was answered.
    pub fn on_reply(
        &mut self,
        now: Time,
        id: u64,
        response: Option<Response>,
        session: &mut Session,
        history: &mut History,
    ) -> Result<(), Violation> {
        let Some(mut batch) = self.sent.remove(&id) else { return Ok(()) };
        let answer = match &response {
            Some(Response::Produce(produce)) => produce
                .responses
                .first()
                .and_then(|topic| topic.partition_responses.first())
                .map(|partition| (partition.error_code, partition.base_offset)),
            _ => None,
        };
        match answer {
            Some((ErrorCode::NONE, base)) => {
                history.acknowledge(&batch.values, base, self.setup.acks == -1)?;
            }
            // acks=0 has no answer: it may have been written.
            None if self.setup.acks == 0 => {}
            None => {
                return Err(Violation::new(
                    "answer",
                    format!("a produce was answered by {response:?}"),
                ));
            }
            Some((error, _)) => {
                // Only this one is said before the append and never after.
                batch.maybe_appended |= error != ErrorCode::NOT_ENOUGH_REPLICAS;
                if error != ErrorCode::NOT_ENOUGH_REPLICAS {
                    session.want_metadata();
                }
                batch.not_before = now + session.backoff();
                self.waiting.push(batch);
            }
        }
        self.act(now, session, history);
        Ok(())
    }
}
