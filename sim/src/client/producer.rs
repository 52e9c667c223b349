//! A producer: batches of new values to random partitions, several of them in one request, again and again until each is
//! answered.
//!
//! A batch keeps its values through all attempts, so that a retry after an unanswered one may stand twice in the log, unless
//! the producer is idempotent. It is given up when its topic is gone or after many attempts.

use std::collections::BTreeMap;

use milena_wire::messages::produce::{
    PartitionProduceData, PartitionProduceResponse, ProduceResponse, TopicProduceData,
};
use milena_wire::messages::{InitProducerIdRequest, ProduceRequest};
use milena_wire::{ApiKey, ErrorCode, Response, Uuid};

use super::batch::{self, Draft};
use super::identity::{Identity, Stamp};
use super::{Pace, Session};
use crate::check::{Checked, Violation};
use crate::history::{History, REFUSALS};
use crate::queue::{MS, Time};
use crate::schedule::ProducerSetup;

const ATTEMPTS_MAX: u32 = 200;
/// Who goes on with a topic that is gone tries so often to send it a batch.
const CLINGING_ATTEMPTS_MAX: u32 = 5;
/// A batch whose partition has no leader is given up after so long (`message.timeout.ms`).
const DELIVERY_TIMEOUT: Time = 15_000 * MS;
/// First version with topic ids instead of names.
const TOPIC_ID_VERSION: i16 = 13;

#[derive(Debug)]
struct Batch {
    topic: String,
    id: Uuid,
    partition: i32,
    place: usize,
    draft: Draft,
    attempts: u32,
    /// Whether some attempt may have been appended.
    maybe_appended: bool,
    not_before: Time,
    begun: Time,
    /// Its number, where its producer is idempotent.
    stamp: Option<Stamp>,
    /// Whether all that comes before it was acknowledged when it was last sent.
    is_next: bool,
}

/// A producer.
#[derive(Debug)]
pub struct Producer {
    pub(super) setup: ProducerSetup,
    sent: BTreeMap<u64, Vec<Batch>>,
    waiting: Vec<Batch>,
    pace: Pace,
    /// Who it is, where it is idempotent and has been told.
    identity: Option<Identity>,
    /// The request for an id that is not answered.
    asked: Option<u64>,
    /// An id is asked for no earlier.
    ask_after: Time,
}

impl Producer {
    /// One that has not begun.
    pub fn new(setup: ProducerSetup) -> Producer {
        Producer {
            pace: Pace::new(setup.pause_us),
            setup,
            sent: BTreeMap::new(),
            waiting: Vec::new(),
            identity: None,
            asked: None,
            ask_after: 0,
        }
    }

    /// Whether it names topics by their ids.
    fn names_ids(&self) -> bool {
        self.setup.dialect.produce >= TOPIC_ID_VERSION
    }

    /// Whether each batch has found its end.
    pub fn is_done(&self) -> bool {
        self.sent.is_empty() && self.waiting.is_empty()
    }

    /// Sends what may be sent.
    pub fn act(&mut self, now: Time, session: &mut Session, history: &mut History) {
        self.send_waiting(now, session, history);
        self.identify(now, session);
        let open = self.sent.len() + self.waiting.len();
        let has_room = open < self.setup.in_flight && !session.stopping && self.knows_itself();
        if has_room && self.pace.is_due(now, session) {
            self.draw(now, session, history);
            self.send_waiting(now, session, history);
        }
        // Where nothing more may be on its way, an answer or a broken connection is what calls next.
        if self.sent.len() >= self.setup.in_flight {
            return;
        }
        let waiting = self.waiting.iter().map(|batch| batch.not_before).min();
        let open = self.sent.len() + self.waiting.len();
        let draws = !session.stopping && open < self.setup.in_flight && self.knows_itself();
        let next = draws.then(|| self.pace.next(now));
        if let Some(at) = waiting.into_iter().chain(next).min() {
            session.wake(at.max(now + 1));
        }
    }

    /// Asks for an id, or begins a new epoch, where that is what comes next.
    fn identify(&mut self, now: Time, session: &mut Session) {
        if !self.setup.idempotent || session.stopping {
            return;
        }
        let is_idle = self.sent.is_empty() && self.waiting.is_empty();
        if is_idle && self.identity.as_ref().is_some_and(Identity::is_broken) {
            self.identity = self.identity.take().and_then(|identity| identity.next_epoch());
        }
        if self.identity.is_some() || self.asked.is_some() {
            return;
        }
        if now < self.ask_after {
            return session.wake(self.ask_after);
        }
        let request = InitProducerIdRequest { transactional_id: None, ..Default::default() };
        let (node, version) = (session.any_broker(), ApiKey::InitProducerId.versions().1);
        self.asked = Some(session.send(now, node, version, request.into()));
    }

    /// Whether it has the id that its batches need.
    fn knows_itself(&self) -> bool {
        self.identity.is_some() || !self.setup.idempotent
    }

    /// Whether another batch may go to a partition.
    fn may_go(&self, place: usize) -> bool {
        let retried = |batch: &Batch| batch.place == place && batch.attempts > 0;
        let has_room = |identity: &Identity| identity.has_room(place);
        !self.setup.idempotent
            || self.identity.as_ref().is_some_and(has_room) && !self.waiting.iter().any(retried)
    }

    /// New batches for different partitions.
    fn draw(&mut self, now: Time, session: &mut Session, history: &mut History) {
        let known =
            session.topics.iter().chain(session.former.iter().map(|(name, view)| (name, view)));
        let partitions: Vec<(&String, Uuid, i32)> = known
            .flat_map(|(name, view)| {
                (0..view.partitions.len() as i32).map(move |partition| (name, view.id, partition))
            })
            .collect();
        let mut drawn = BTreeMap::new();
        if !partitions.is_empty() {
            for _ in 0..session.stream.between(1, self.setup.partitions_max as u64) {
                let index = session.stream.below(partitions.len() as u64) as usize;
                let (topic, id, partition) = partitions[index];
                drawn.insert(index, (topic.clone(), id, partition));
            }
        }
        let before = self.waiting.len();
        for (topic, id, partition) in drawn.into_values() {
            let place = history.partition(&topic, id, partition);
            if history.is_deleted(place) && !self.setup.clings || !self.may_go(place) {
                continue;
            }
            let mut draft = batch::draw(&self.setup, now, place, &mut session.stream, history);
            if self.names_ids() {
                history.pin(&draft.values);
            }
            // What must be refused would leave a gap.
            let stamp = self.identity.as_mut().filter(|_| draft.valid).map(|identity| {
                let (stamp, before) = identity.stamp(place, draft.values.len());
                draft.stamp(stamp);
                history.number(&draft.values, (stamp.id, stamp.epoch), before);
                stamp
            });
            self.waiting.push(Batch {
                topic,
                id,
                partition,
                place,
                draft,
                attempts: 0,
                maybe_appended: false,
                not_before: 0,
                begun: now,
                stamp,
                is_next: false,
            });
        }
        if self.waiting.len() == before {
            session.want_metadata();
        }
    }

    /// Sends the batches whose time has come, those for one broker together.
    fn send_waiting(&mut self, now: Time, session: &mut Session, history: &mut History) {
        let mut requests: Vec<(usize, Vec<Batch>)> = Vec::new();
        let mut index = 0;
        let by_id = self.names_ids();
        while index < self.waiting.len() {
            let batch = &mut self.waiting[index];
            if batch.not_before > now {
                index += 1;
                continue;
            }
            // Where the name has passed to another topic, who names the id finds no leader.
            let leader = match by_id {
                true => session.leader_by_id(&batch.topic, batch.id, batch.partition),
                false => session.leader(&batch.topic, batch.partition),
            };
            let late = session.stopping && now > batch.begun + DELIVERY_TIMEOUT && leader.is_none();
            let goes_on = self.setup.clings && !session.stopping && leader.is_some();
            let most = if goes_on { CLINGING_ATTEMPTS_MAX } else { 0 };
            let is_over = history.is_deleted(batch.place) && batch.attempts >= most;
            if is_over || batch.attempts >= ATTEMPTS_MAX || late {
                let batch = self.waiting.remove(index);
                self.give_up(&batch, history);
                continue;
            }
            let Some((node, _)) = leader else {
                session.want_metadata();
                batch.not_before = now + session.backoff();
                index += 1;
                continue;
            };
            let fits = requests.iter().position(|(to, batches)| {
                *to == node
                    && batches.len() < self.setup.partitions_max
                    && batches.iter().all(|other| !other.is_beside(batch))
            });
            if fits.is_none() && self.sent.len() + requests.len() >= self.setup.in_flight {
                index += 1;
                continue;
            }
            let batch = self.waiting.remove(index);
            match fits {
                Some(place) => requests[place].1.push(batch),
                None => requests.push((node, vec![batch])),
            }
        }
        for (node, batches) in requests {
            self.send(now, node, batches, session, history);
        }
    }

    /// A batch is sent no more. Where it has a number none follows it, as with librdkafka: once all others have found their end, the
    /// epoch goes up.
    fn give_up(&mut self, batch: &Batch, history: &mut History) {
        if !batch.maybe_appended {
            history.refuse(&batch.draft.values);
        }
        if batch.stamp.is_some() {
            self.identity.iter_mut().for_each(Identity::give_up);
        }
    }

    fn send(
        &mut self,
        now: Time,
        node: usize,
        mut batches: Vec<Batch>,
        session: &mut Session,
        history: &mut History,
    ) {
        let mut topic_data: Vec<TopicProduceData> = Vec::new();
        for batch in &mut batches {
            batch.attempts += 1;
            batch.is_next = self
                .identity
                .as_ref()
                .zip(batch.stamp)
                .is_some_and(|(identity, stamp)| identity.is_next(batch.place, stamp));
            history.attempt(&batch.draft.values);
            let data = PartitionProduceData {
                index: batch.partition,
                records: Some(batch.draft.records.clone()),
            };
            match topic_data.iter_mut().find(|topic| topic.topic_id == batch.id) {
                Some(topic) => topic.partition_data.push(data),
                None => topic_data.push(TopicProduceData {
                    name: batch.topic.clone(),
                    topic_id: batch.id,
                    partition_data: vec![data],
                }),
            }
        }
        let request = ProduceRequest {
            acks: self.setup.acks,
            timeout_ms: 1_500,
            topic_data,
            ..ProduceRequest::default()
        };
        let id = session.send(now, node, self.setup.dialect.produce, request.into());
        self.sent.insert(id, batches);
    }

    /// A request was never answered.
    pub fn on_lost(&mut self, now: Time, id: u64, session: &mut Session) {
        if self.asked == Some(id) {
            self.asked = None;
        }
        for mut batch in self.sent.remove(&id).unwrap_or_default() {
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
    ) -> Checked {
        if self.asked == Some(id) {
            self.asked = None;
            return self.on_identity(now, response, session, history);
        }
        let Some(batches) = self.sent.remove(&id) else { return Ok(()) };
        // acks=0 has no answer: it may have been written.
        if self.setup.acks != 0 {
            let Some(Response::Produce(answer)) = &response else {
                let story = format!("a produce was answered by {response:?}");
                return Err(Violation::new("answer", story));
            };
            for batch in batches {
                let partition = self.answer_to(&batch, answer)?;
                self.on_answer(now, batch, partition, session, history)?;
            }
        }
        Ok(())
    }

    /// It is told who it is.
    fn on_identity(
        &mut self,
        now: Time,
        response: Option<Response>,
        session: &mut Session,
        history: &mut History,
    ) -> Checked {
        let Some(Response::InitProducerId(answer)) = response else {
            let story = format!("a request for a producer id was answered by {response:?}");
            return Err(Violation::new("answer", story));
        };
        match answer.error_code {
            ErrorCode::NONE => {
                let (id, epoch) = (answer.producer_id, answer.producer_epoch);
                history.identify(id, epoch)?;
                // As if it had gone on for long: a partition that knows nothing of an id takes any number.
                let last = session.stream.chance(250_000);
                let first = if last { i32::MAX - session.stream.below(40) as i32 } else { 0 };
                self.identity = Some(Identity::new(id, epoch, first));
                Ok(())
            }
            ErrorCode::COORDINATOR_LOAD_IN_PROGRESS | ErrorCode::COORDINATOR_NOT_AVAILABLE => {
                self.ask_after = now + session.backoff();
                Ok(())
            }
            error => {
                let story = format!("a request for a producer id was refused: {error:?}");
                Err(Violation::new("answer", story))
            }
        }
    }

    /// What an answer says of a batch: exactly one thing.
    fn answer_to<'a>(
        &self,
        batch: &Batch,
        answer: &'a ProduceResponse,
    ) -> Result<&'a PartitionProduceResponse, Violation> {
        let by_id = self.names_ids();
        let mut found = answer
            .responses
            .iter()
            .filter(|t| if by_id { t.topic_id == batch.id } else { t.name == batch.topic })
            .flat_map(|topic| &topic.partition_responses)
            .filter(|partition| partition.index == batch.partition);
        match (found.next(), found.next()) {
            (Some(partition), None) => Ok(partition),
            _ => Err(Violation::new(
                "answer",
                format!("{}-{} was answered by {answer:?}", batch.topic, batch.partition),
            )),
        }
    }

    fn on_answer(
        &mut self,
        now: Time,
        mut batch: Batch,
        answer: &PartitionProduceResponse,
        session: &mut Session,
        history: &mut History,
    ) -> Checked {
        let (error, Draft { values, valid, .. }) = (answer.error_code, &batch.draft);
        let wrong = |what: &str| {
            let (topic, index) = (&batch.topic, batch.partition);
            let told = answer.error_message.as_deref().unwrap_or("");
            let story = format!("{topic}-{index}: {what}: {error:?} {told}");
            Err(Violation::new("refusal", story))
        };
        history.waited(batch.place, now - batch.begun, error)?;
        if error == ErrorCode::NONE {
            if !valid {
                return wrong("what must be refused was taken");
            }
            if let Some((identity, stamp)) = self.identity.as_mut().zip(batch.stamp) {
                identity.acknowledge(batch.place, stamp);
            }
            let by_id = self.names_ids();
            let owed = self.setup.acks == -1 && (by_id || !history.is_contested(&batch.topic));
            let time = Some(answer.log_append_time_ms).filter(|time| *time >= 0);
            return history.acknowledge(values, answer.base_offset, owed, time);
        }
        if REFUSALS.contains(&error) {
            if *valid {
                return wrong("what must be taken was refused");
            }
            return Ok(());
        }
        let disordered = matches!(
            error,
            ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER | ErrorCode::INVALID_PRODUCER_EPOCH
        );
        if disordered && (batch.is_next || error == ErrorCode::INVALID_PRODUCER_EPOCH) {
            // A name that has passed to another topic meets a log that knows other numbers, or none.
            let is_same = self.names_ids() || !history.is_contested(&batch.topic);
            if is_same && !history.forgetful {
                let (topic, index, stamp) = (&batch.topic, batch.partition, batch.stamp);
                let story =
                    format!("{topic}-{index}: {stamp:?} comes next and is refused: {error:?}");
                return Err(Violation::new("I1", story));
            }
            self.give_up(&batch, history);
            return Ok(());
        }
        // Only these are said before the append and never after.
        batch.maybe_appended |= error != ErrorCode::NOT_ENOUGH_REPLICAS && !disordered;
        if error != ErrorCode::NOT_ENOUGH_REPLICAS {
            session.want_metadata();
        }
        batch.not_before = now + session.backoff();
        self.waiting.push(batch);
        Ok(())
    }
}

impl Batch {
    /// Whether both are for the same partition, or for topics that one request cannot tell apart.
    fn is_beside(&self, other: &Batch) -> bool {
        self.topic == other.topic && (self.partition == other.partition || self.id != other.id)
    }
}

#[cfg(test)]
mod tests {
    use milena_wire::messages::produce::TopicProduceResponse;

    use super::*;
    use crate::rng::{Concern, Stream};

    /// What is said of a producer whose one batch was answered so.
    fn answered(valid: bool, answers: &[(i32, ErrorCode)]) -> Result<History, &'static str> {
        let mut history = History::default();
        let place = history.partition("t", Uuid::ZERO, 0);
        let values = vec![history.invoke(place, 1)];
        history.attempt(&values);
        let draft = Draft { values, records: bytes::Bytes::new(), valid };
        let mut producer = Producer::new(ProducerSetup::default());
        let batch = Batch {
            topic: "t".into(),
            id: Uuid::ZERO,
            partition: 0,
            place,
            draft,
            attempts: 1,
            maybe_appended: false,
            not_before: 0,
            begun: 0,
            stamp: None,
            is_next: false,
        };
        producer.sent.insert(7, vec![batch]);
        let partition_responses = answers
            .iter()
            .map(|(index, error_code)| PartitionProduceResponse {
                index: *index,
                error_code: *error_code,
                ..PartitionProduceResponse::default()
            })
            .collect();
        let topic = TopicProduceResponse {
            name: "t".into(),
            partition_responses,
            ..TopicProduceResponse::default()
        };
        let answer = ProduceResponse { responses: vec![topic], ..ProduceResponse::default() };
        let mut session = Session::new(Stream::new(1, Concern::Client(0)), 1);
        producer
            .on_reply(0, 7, Some(answer.into()), &mut session, &mut history)
            .map_err(|violation| violation.property)?;
        Ok(history)
    }

    #[test]
    fn an_answer_names_each_partition_once() {
        assert!(answered(true, &[(0, ErrorCode::NONE)]).is_ok());
        assert_eq!(answered(true, &[]).err(), Some("answer"));
        assert_eq!(answered(true, &[(1, ErrorCode::NONE)]).err(), Some("answer"));
        let twice = [(0, ErrorCode::NONE), (0, ErrorCode::NONE)];
        assert_eq!(answered(true, &twice).err(), Some("answer"));
    }

    #[test]
    fn what_must_be_refused_is_and_nothing_else() {
        let said =
            |valid, error| answered(valid, &[(0, error)]).map(|history| history.acknowledged);
        assert_eq!(said(false, ErrorCode::CORRUPT_MESSAGE), Ok(0));
        assert_eq!(said(false, ErrorCode::NONE), Err("refusal"));
        assert_eq!(said(true, ErrorCode::NONE), Ok(1));
        assert_eq!(said(true, ErrorCode::INVALID_RECORD), Err("refusal"));
        assert_eq!(said(true, ErrorCode::NOT_LEADER_OR_FOLLOWER), Ok(0), "it tries again");
    }
}
