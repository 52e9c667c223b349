//! Produce: batches are checked, appended by the partition's leader and answered once they are as safe as was asked.
//!
//! acks=1 waits for the leader's own sync, acks=all for the high watermark. A batch that was appended and not confirmed in
//! time is answered as such: it may still become committed. A retry of a batch that the log has already waits and is answered
//! as the original. One that is not the next of its producer is refused, once it is confirmed that this broker leads still: clients
//! take that word for a sign that records are lost. While the store has no room, whole parts wait in order in a bounded queue, before anything of them is
//! appended. Where the disk takes no more, nothing waits: it is refused.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use milena_wire::batch::{self, BatchHeader, Compression, DecompressLimit, TimestampType};
use milena_wire::messages::produce::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, PartitionProduceResponse, TopicProduceData,
    TopicProduceResponse,
};
use milena_wire::messages::{ProduceRequest, ProduceResponse};
use milena_wire::{ErrorCode, Response};

use super::{Origin, Part, Parts};
use crate::image::settings::TopicSettings;
use crate::partitions::{ROOMLESS_SHARE, Safety};
use crate::replica::Placed;
use crate::requests::Partitions;
use crate::requests::named::locate;
use crate::storage::SequenceError;
use crate::trace::{Event, Mark};
use crate::{Epoch, Instant, LogId, Offset, Outputs, Timer};

/// First version with topic ids instead of names.
pub(in crate::requests) const TOPIC_ID_VERSION: i16 = 13;
/// First version with Zstandard.
const ZSTD_VERSION: i16 = 7;

/// A produce part whose batches are appended.
#[derive(Debug)]
pub(super) struct Waiting {
    acks: i16,
    response: ProduceResponse,
    /// Where each partition that is not confirmed stands in the response, and what became of its batch.
    open: BTreeMap<LogId, Open>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    topic: usize,
    partition: usize,
    fate: Fate,
}

/// What is waited for before a partition's batch is answered.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// When it is in the log.
    Written { epoch: Epoch, base: Offset, next: Offset },
    /// When it is refused, by what the log holds: that this is still the log to ask, by an exchange of that number.
    Refused { exchange: Offset },
}

impl Fate {
    /// Up to where it is waited for, and what.
    fn waits_for(self, acks: i16) -> (Offset, Safety) {
        match self {
            Fate::Written { next, .. } => (next, safety(acks)),
            Fate::Refused { exchange } => (exchange, Safety::Confirmed),
        }
    }
}

/// Produce parts that wait for room, first in first out.
#[derive(Default, Debug)]
pub(super) struct Stalled {
    queue: VecDeque<Origin>,
    bytes: u64,
}

/// Why a partition's records are not taken.
struct Refusal {
    code: ErrorCode,
    message: Option<String>,
    /// The place in its batch of the record that is to blame, if it is one.
    record: Option<i32>,
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Refusal {
        Refusal { code, message: None, record: None }
    }
}

impl From<batch::BatchError> for Refusal {
    fn from(error: batch::BatchError) -> Refusal {
        let (code, message) = (error.error_code(), Some(error.to_string()));
        Refusal { code, message, record: error.record() }
    }
}

impl From<SequenceError> for Refusal {
    fn from(error: SequenceError) -> Refusal {
        let code = match error {
            SequenceError::Fenced { .. } => ErrorCode::INVALID_PRODUCER_EPOCH,
            SequenceError::Begin { .. } | SequenceError::Order { .. } => {
                ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
            }
        };
        Refusal::new(code, &error.to_string())
    }
}

impl Parts {
    pub(super) fn serve_produce(
        &mut self,
        partitions: &mut Partitions,
        origin: Origin,
        request: ProduceRequest,
        out: &mut Outputs,
    ) {
        let wait_ms = u64::try_from(request.timeout_ms).unwrap_or(0);
        let at = partitions.now().mono.after_ms(wait_ms);
        let waits = (partitions.must_wait() || self.has_stalled())
            && leads_any(partitions, origin.caller.version, &request);
        if !waits {
            return self.append_part(partitions, origin, request, at, out);
        }
        let bytes = records_bytes(&request);
        let most = partitions.config().storage.memory_bytes_max / ROOMLESS_SHARE;
        if self.stalled.bytes + bytes > most && !self.stalled.queue.is_empty() {
            let why = "the broker is overloaded, nothing was written: try again";
            let refused = refuse_all(&request, ErrorCode::REQUEST_TIMED_OUT, why);
            return self.answer(origin, Some(Response::Produce(refused)));
        }
        out.event(|| Event::Sometimes(Mark::ProduceWaitsForRoom));
        self.stalled.bytes += bytes;
        self.stalled.queue.push_back(origin);
        self.waiting.insert(origin, Part::Stalled { request, at });
        self.timers.set(origin, Some(at), Timer::ProduceWait);
    }

    /// Whether any part waits for room.
    pub(in crate::requests) fn has_stalled(&self) -> bool {
        !self.stalled.queue.is_empty()
    }

    /// Appends or refuses what has waited for room for longest, if there is any and room.
    pub(in crate::requests) fn take_stalled(
        &mut self,
        partitions: &mut Partitions,
        out: &mut Outputs,
    ) -> bool {
        if partitions.must_wait() {
            return false;
        }
        let Some(origin) = self.stalled.queue.pop_front() else { return false };
        let Some(Part::Stalled { request, at }) = self.waiting.remove(&origin) else {
            panic!("what is in the queue is stalled");
        };
        self.timers.remove(origin);
        self.stalled.bytes -= records_bytes(&request);
        self.append_part(partitions, origin, request, at, out);
        true
    }

    /// Answers a part that never got room.
    pub(super) fn give_up_stalled(&mut self, origin: Origin, request: &ProduceRequest) {
        self.forget_stalled(origin, request);
        let why = "no memory became free in time, nothing was written";
        let refused = refuse_all(request, ErrorCode::REQUEST_TIMED_OUT, why);
        self.answer(origin, Some(Response::Produce(refused)));
    }

    /// Takes a part out of the queue.
    pub(super) fn forget_stalled(&mut self, origin: Origin, request: &ProduceRequest) {
        self.stalled.bytes -= records_bytes(request);
        self.stalled.queue.retain(|queued| *queued != origin);
    }

    fn append_part(
        &mut self,
        partitions: &mut Partitions,
        origin: Origin,
        request: ProduceRequest,
        at: Instant,
        out: &mut Outputs,
    ) {
        let (acks, version) = (request.acks, origin.caller.version);
        let mut responses = Vec::with_capacity(request.topic_data.len());
        let mut open = BTreeMap::new();
        let mut failed = false;
        for TopicProduceData { name, topic_id, partition_data, .. } in request.topic_data {
            let mut partition_responses = Vec::with_capacity(partition_data.len());
            for data in partition_data {
                let index = data.index;
                let mut answer = PartitionProduceResponse {
                    index,
                    base_offset: -1,
                    ..PartitionProduceResponse::default()
                };
                let by_id = version >= TOPIC_ID_VERSION;
                let outcome = locate(partitions.image(), &name, topic_id, by_id, index)
                    .map_err(Refusal::from)
                    .and_then(|log| {
                        if open.contains_key(&log) {
                            let why = "a partition is named twice in one request";
                            return Err(Refusal::new(ErrorCode::INVALID_REQUEST, why));
                        }
                        let records = framed(version, data.records.unwrap_or_default())?;
                        append_one(partitions, acks, log, records, &mut answer, out)
                    });
                let mut wait = |log, fate| {
                    let (topic, partition) = (responses.len(), partition_responses.len());
                    open.insert(log, Open { topic, partition, fate });
                };
                match outcome {
                    Ok(Taken { log, epoch, placed: Ok((base, next)) }) => {
                        if acks != 0 {
                            wait(log, Fate::Written { epoch, base, next });
                            partitions.wait(log, next, epoch, safety(acks), origin);
                        }
                    }
                    Ok(Taken { log, epoch, placed: Err(refusal) }) => {
                        failed = true;
                        refusal.fill(&mut answer);
                        if acks != 0 {
                            let exchange = partitions.confirm(log, epoch, origin, out);
                            wait(log, Fate::Refused { exchange });
                        }
                    }
                    Err(refusal) => {
                        failed = true;
                        refusal.fill(&mut answer);
                    }
                }
                partition_responses.push(answer);
            }
            responses.push(TopicProduceResponse { name, topic_id, partition_responses });
        }
        let response = ProduceResponse { responses, ..ProduceResponse::default() };
        if open.is_empty() {
            let response = (acks != 0 || failed).then_some(Response::Produce(response));
            return self.answer(origin, response);
        }
        self.waiting.insert(origin, Part::Produce(Waiting { acks, response, open }));
        self.timers.set(origin, Some(at), Timer::ProduceWait);
    }

    /// Notes what became of one partition of a part; the last one answers it.
    pub(super) fn decide(
        &mut self,
        partitions: &Partitions,
        log: LogId,
        origin: Origin,
        outcome: Result<(), ErrorCode>,
        out: &mut Outputs,
    ) {
        let current_leader = current_leader(partitions, log);
        let Some(Part::Produce(waiting)) = self.waiting.get_mut(&origin) else { return };
        let Open { topic, partition, fate } =
            waiting.open.remove(&log).expect("listed with its log");
        let answer = &mut waiting.response.responses[topic].partition_responses[partition];
        match (outcome, fate) {
            (Ok(()), Fate::Refused { .. }) => {}
            (Ok(()), Fate::Written { epoch, base, next }) => {
                let all = waiting.acks == -1;
                // A duplicate may have been written in an earlier one.
                let of_batch = || partitions.log(log).and_then(|log| log.epoch_at(base));
                out.event(|| {
                    let epoch = of_batch().unwrap_or(epoch);
                    Event::Produced { log, epoch, base, next, all }
                });
            }
            (Err(code), _) => {
                answer.error_code = code;
                answer.error_message = None;
                answer.base_offset = -1;
                answer.log_append_time_ms = -1;
                if code == ErrorCode::NOT_LEADER_OR_FOLLOWER {
                    answer.current_leader = current_leader;
                }
            }
        }
        if waiting.open.is_empty()
            && let Some(Part::Produce(done)) = self.waiting.remove(&origin)
        {
            self.timers.remove(origin);
            self.answer(origin, Some(Response::Produce(done.response)));
        }
    }

    /// Answers a part whose time is over: what is not confirmed may still become so.
    pub(super) fn time_out_produce(
        &mut self,
        partitions: &mut Partitions,
        origin: Origin,
        out: &mut Outputs,
    ) {
        let Some(Part::Produce(waiting)) = self.waiting.get(&origin) else { return };
        let acks = waiting.acks;
        let open: Vec<(LogId, Fate)> =
            waiting.open.iter().map(|(log, open)| (*log, open.fate)).collect();
        for (log, fate) in open {
            let replica = partitions.replica(log);
            let enough = replica.is_some_and(|replica| replica.enough_in_sync());
            if replica.is_some_and(|replica| replica.is_alone()) && (enough || acks != -1) {
                // Nobody else is waited for: it becomes safe or this node halts.
                continue;
            }
            let (upto, safety) = fate.waits_for(acks);
            partitions.forget(log, upto, safety, origin);
            let code = match fate {
                Fate::Written { .. } if acks == -1 && !enough => {
                    ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND
                }
                Fate::Written { .. } | Fate::Refused { .. } => ErrorCode::REQUEST_TIMED_OUT,
            };
            self.decide(partitions, log, origin, Err(code), out);
        }
    }
}

/// Whether any of it may be written here. What may not needs no room, of which a shard without logs has none, and is
/// refused at once: its client is to look for the leader.
fn leads_any(partitions: &Partitions, version: i16, request: &ProduceRequest) -> bool {
    let by_id = version >= TOPIC_ID_VERSION;
    request.topic_data.iter().any(|topic| {
        topic.partition_data.iter().any(|data| {
            let log = locate(partitions.image(), &topic.name, topic.topic_id, by_id, data.index);
            log.and_then(|log| partitions.leading(log)).is_ok()
        })
    })
}

/// What a leader has made of a batch.
struct Taken {
    log: LogId,
    epoch: Epoch,
    /// Where it stands; none where the log says that it is not the next of its producer.
    placed: Result<(Offset, Offset), Refusal>,
}

fn append_one(
    partitions: &mut Partitions,
    acks: i16,
    log: LogId,
    records: Bytes,
    answer: &mut PartitionProduceResponse,
    out: &mut Outputs,
) -> Result<Taken, Refusal> {
    if !matches!(acks, -1..=1) {
        return Err(ErrorCode::INVALID_REQUIRED_ACKS.into());
    }
    let epoch = match partitions.leading(log) {
        Ok(epoch) => epoch,
        Err(code) => {
            answer.current_leader = current_leader(partitions, log);
            return Err(code.into());
        }
    };
    answer.log_start_offset = partitions.log(log).map_or(-1, |log| log.start());
    let replica = partitions.replica(log).expect("it leads");
    if acks == -1 && !replica.enough_in_sync() {
        return Err(ErrorCode::NOT_ENOUGH_REPLICAS.into());
    }
    if !partitions.store().accepts_produce() {
        let why = "the disk is nearly full; what is left is kept for metadata and deletions";
        return Err(Refusal::new(ErrorCode::KAFKA_STORAGE_ERROR, why));
    }
    let settings = replica.settings().expect("a leader knows its topic");
    let opened_max = partitions.config().replication.opened_bytes_max;
    let rules = settings.timestamp_rules(partitions.now().wall);
    let batch = check(&records, settings, opened_max, &rules)?;
    let (base, next, appended) = match partitions.append(log, &batch, out) {
        Ok(Placed::Now { base, next }) => (base, next, rules.now),
        Ok(Placed::Before(original)) => {
            out.event(|| Event::Sometimes(Mark::ProduceDuplicate));
            (original.base, original.next(), original.timestamp)
        }
        Err(error) => {
            out.event(|| Event::Sometimes(Mark::ProduceOutOfOrder));
            return Ok(Taken { log, epoch, placed: Err(error.into()) });
        }
    };
    let time = (rules.timestamp_type == TimestampType::LogAppendTime).then_some(appended);
    answer.base_offset = base;
    answer.log_append_time_ms = time.unwrap_or(-1);
    Ok(Taken { log, epoch, placed: Ok((base, next)) })
}

/// Drops a part that nobody waits for.
pub(super) fn drop_produce(partitions: &mut Partitions, origin: Origin, waiting: &Waiting) {
    for (log, open) in &waiting.open {
        let (upto, safety) = open.fate.waits_for(waiting.acks);
        partitions.forget(*log, upto, safety, origin);
    }
}

/// Who leads, for a client that came to the wrong broker.
fn current_leader(partitions: &Partitions, log: LogId) -> LeaderIdAndEpoch {
    match partitions.image().partition(log) {
        Some((_, partition)) => LeaderIdAndEpoch {
            leader_id: partition.leader.map_or(-1, |leader| leader.0),
            leader_epoch: partition.leader_epoch,
        },
        None => LeaderIdAndEpoch::default(),
    }
}

impl Refusal {
    fn new(code: ErrorCode, message: &str) -> Refusal {
        Refusal { code, message: Some(message.into()), record: None }
    }

    fn fill(self, answer: &mut PartitionProduceResponse) {
        answer.error_code = self.code;
        if matches!(
            self.code,
            ErrorCode::MESSAGE_TOO_LARGE
                | ErrorCode::CORRUPT_MESSAGE
                | ErrorCode::KAFKA_STORAGE_ERROR
        ) {
            // As Apache Kafka, which tells the log start with the other refusals of what leads.
            answer.log_start_offset = -1;
        }
        if let Some(batch_index) = self.record {
            let batch_index_error_message = self.message.clone();
            answer.record_errors =
                vec![BatchIndexAndErrorMessage { batch_index, batch_index_error_message }];
        }
        answer.error_message = self.message;
    }
}

/// The one whole batch that a producer sent for a partition, in a format that the request's version has. What follows it and
/// is no batch is dropped.
fn framed(version: i16, records: Bytes) -> Result<Bytes, Refusal> {
    let invalid = |message: &str| Refusal::new(ErrorCode::INVALID_RECORD, message);
    let size = batch::frame(&records)?;
    let size = size.ok_or_else(|| invalid("a partition without a whole record batch"))?;
    let header = BatchHeader::parse(&records)?;
    if header.compression() == Ok(Compression::Zstd) && version < ZSTD_VERSION {
        return Err(ErrorCode::UNSUPPORTED_COMPRESSION_TYPE.into());
    }
    if batch::frame(&records[size..])?.is_some() {
        return Err(invalid("more than one record batch for a partition"));
    }
    Ok(records.slice(..size))
}

/// The answer to a request of which a partition's bytes cannot even be divided into batches: nothing of it is carried out.
pub(in crate::requests) fn refuse_unframed(request: &ProduceRequest) -> Option<ProduceResponse> {
    let partitions = request.topic_data.iter().flat_map(|topic| &topic.partition_data);
    let error = partitions
        .filter_map(|data| data.records.as_ref())
        .find_map(|records| batch::frame(records).err())?;
    Some(refuse_all(request, error.error_code(), &error.to_string()))
}

/// Checks a batch: intact, not too large, with records that can be read and times that the topic takes; as it is to be
/// stored.
fn check(
    records: &Bytes,
    settings: &TopicSettings,
    opened_max: usize,
    rules: &batch::TimestampRules,
) -> Result<Bytes, Refusal> {
    if records.len() > settings.batch_bytes_max as usize {
        return Err(ErrorCode::MESSAGE_TOO_LARGE.into());
    }
    let limit = DecompressLimit(opened_max);
    let header = match settings.compaction {
        Some(_) => batch::validate_keyed_produce(records, limit, rules)?,
        None => batch::validate_produce(records, limit, rules)?,
    };
    if header.is_transactional() {
        let why = "transactions are not supported: use a producer without a transactional id";
        return Err(Refusal::new(ErrorCode::INVALID_RECORD, why));
    }
    if header.producer_id >= 0 && header.producer_epoch < 0 {
        let why = "a batch with a producer id has no producer epoch";
        return Err(Refusal::new(ErrorCode::INVALID_PRODUCER_EPOCH, why));
    }
    Ok(batch::with_header(records, &header))
}

/// What a produce waits for.
fn safety(acks: i16) -> Safety {
    if acks == 1 { Safety::Flushed } else { Safety::Committed }
}

fn records_bytes(request: &ProduceRequest) -> u64 {
    let partitions = request.topic_data.iter().flat_map(|topic| &topic.partition_data);
    partitions.map(|data| data.records.as_ref().map_or(0, Bytes::len) as u64).sum()
}

fn refuse_all(request: &ProduceRequest, code: ErrorCode, why: &str) -> ProduceResponse {
    let responses = request
        .topic_data
        .iter()
        .filter(|topic| !topic.partition_data.is_empty())
        .map(|topic| TopicProduceResponse {
            name: topic.name.clone(),
            topic_id: topic.topic_id,
            partition_responses: topic
                .partition_data
                .iter()
                .map(|data| PartitionProduceResponse {
                    index: data.index,
                    error_code: code,
                    base_offset: -1,
                    error_message: Some(why.into()),
                    ..PartitionProduceResponse::default()
                })
                .collect(),
        })
        .collect();
    ProduceResponse { responses, ..ProduceResponse::default() }
}
