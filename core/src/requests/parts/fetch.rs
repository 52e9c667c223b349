//! Fetch: batches below the high watermark, from memory or segments, at once or when there are enough of them.
//!
//! A part looks at its partitions, reads what is there, and answers; or it waits, watched over by its partitions, until
//! one of them moves, the client's patience is over, or another shard's part has enough. The first batch of an answer may
//! exceed every limit, so that a large one never blocks a consumer.
//!
//! Batches that compaction left without records are passed over, since several clients take them badly. Where that is all
//! there was, the last of them is given, so that the client's position moves past all; until then the fetch waits as one at
//! the end of the log does, for who does not move would ask again at once.

use std::collections::BTreeSet;

use bytes::Bytes;
use milena_wire::batch::BatchHeader;
use milena_wire::messages::fetch::{
    EpochEndOffset, FetchPartition, FetchTopic, FetchableTopicResponse, LeaderIdAndEpoch,
    PartitionData,
};
use milena_wire::messages::{FetchRequest, FetchResponse};
use milena_wire::{ErrorCode, Records};

use super::{Answer, Origin, Part, Parts};
use crate::partitions::{Reading, Standing};
use crate::replica::batches;
use crate::requests::Partitions;
use crate::requests::named::locate;
use crate::requests::session::{self, Plan};
use crate::storage::ReadError;
use crate::trace::{Event, Mark};
use crate::{Instant, LogId, Offset, Outputs, Timer};

/// First version that asks for and is told of diverging epochs and leaders.
const LEADER_VERSION: i16 = 12;
/// Reads of one part under way at a time. Each may bring a whole group of batches, however little of it was asked for.
const READS_MAX: usize = 8;
/// Reads of one part that begin again because the log was cut under them, before the client is told to come again.
const READS_AGAIN_MAX: u32 = 3;

/// A fetch part that reads or waits.
#[derive(Debug)]
pub(super) struct Waiting {
    /// What is to be done with the answer.
    plan: Plan,
    min_bytes: usize,
    max_bytes: usize,
    read_committed: bool,
    /// When it is answered with what there is.
    at: Instant,
    hastened: bool,
    /// The answer's topics, still without their partitions.
    topics: Vec<FetchableTopicResponse>,
    items: Vec<Item>,
    /// The partition that is next to be read.
    place: usize,
    /// Bytes of records read so far, and of batches without records that were passed over.
    bytes: usize,
    passed_bytes: usize,
    /// At so many of the latter it is answered: as many as an answer may have.
    passed_bytes_max: usize,
    /// Reads under way, and the most they may give of what was asked for.
    reading: usize,
    promised: usize,
    reads_again: u32,
}

/// One partition of a part.
#[derive(Debug)]
struct Item {
    topic: usize,
    log: Result<LogId, ErrorCode>,
    asked: FetchPartition,
    found: Found,
    /// Whole batches with records read so far, and the offset after them.
    records: Vec<Bytes>,
    end: Offset,
    /// The last batch without records before those.
    passed: Option<Bytes>,
    /// Offset after all that was looked at.
    next: Offset,
    /// Whether the last read ended for want of more, or of room for it.
    ended: bool,
    /// High watermark and log start offset when it was looked at.
    bounds: (Offset, Offset),
    /// Where the partition stood then.
    stood: Option<Standing>,
    /// Most bytes to give.
    limit: usize,
    /// The most of them that the read under way may give.
    promised: usize,
}

/// What there is for one partition.
#[derive(Debug)]
enum Found {
    /// When there is nothing (more) below the high watermark, or no room for it in the answer.
    Nothing,
    /// When there is something to read.
    Available,
    /// When a read is under way.
    Reading,
    /// When the leader does not yet know what is committed.
    NotYet,
    /// When the client's log parts from this one.
    Diverging(EpochEndOffset),
    /// When it cannot be read.
    Failed(ErrorCode),
}

impl Parts {
    pub(super) fn serve_fetch(
        &mut self,
        partitions: &mut Partitions,
        origin: Origin,
        plan: Plan,
        request: FetchRequest,
        out: &mut Outputs,
    ) {
        let by_id = origin.caller.version >= session::TOPIC_ID_VERSION;
        let image = partitions.image();
        let count = request.topics.iter().map(|topic| topic.partitions.len()).sum();
        let mut topics = Vec::with_capacity(request.topics.len());
        let mut items = Vec::with_capacity(count);
        let mut named = BTreeSet::new();
        // A negative limit is that of the first partition, and leaves nothing for the others.
        let mut limit = Some(request.max_bytes);
        for FetchTopic { topic, topic_id, partitions } in request.topics {
            for mut asked in partitions {
                let log = locate(image, &topic, topic_id, by_id, asked.partition);
                // Named again, it is answered once, as it was named first.
                if count > 1 && log.is_ok_and(|log| !named.insert(log)) {
                    continue;
                }
                if log.is_ok()
                    && let Some(limit) = limit.take()
                {
                    asked.partition_max_bytes = asked.partition_max_bytes.min(limit);
                }
                items.push(Item {
                    topic: topics.len(),
                    log,
                    next: asked.fetch_offset,
                    asked,
                    found: Found::Nothing,
                    records: Vec::new(),
                    end: -1,
                    passed: None,
                    ended: true,
                    bounds: (-1, -1),
                    stood: None,
                    limit: 0,
                    promised: 0,
                });
            }
            topics.push(FetchableTopicResponse { topic, topic_id, partitions: Vec::new() });
        }
        let most = partitions.config().replication.fetch_bytes_max as usize;
        let wait_ms = u64::try_from(request.max_wait_ms).unwrap_or(0);
        let waiting = Waiting {
            plan,
            min_bytes: usize::try_from(request.min_bytes).unwrap_or(0),
            max_bytes: usize::try_from(request.max_bytes).unwrap_or(0).min(most),
            read_committed: request.isolation_level == 1,
            at: partitions.now().mono.after_ms(wait_ms),
            hastened: false,
            topics,
            items,
            place: 0,
            bytes: 0,
            passed_bytes: 0,
            passed_bytes_max: most,
            reading: 0,
            promised: 0,
            reads_again: 0,
        };
        self.attempt_fetch(partitions, origin, waiting, out);
    }

    /// Looks at every partition; reads if that can make an answer, and waits if not.
    pub(super) fn attempt_fetch(
        &mut self,
        partitions: &mut Partitions,
        origin: Origin,
        mut waiting: Waiting,
        out: &mut Outputs,
    ) {
        for item in &mut waiting.items {
            look(partitions, item);
        }
        let last = waiting.is_last_chance(partitions.now().mono);
        if waiting.items.iter().any(|item| matches!(item.found, Found::NotYet)) {
            out.event(|| Event::Sometimes(Mark::FetchWaitsForEpochStart));
        }
        let any = waiting.items.iter().any(|item| matches!(item.found, Found::Available));
        if !any && !last && !waiting.has_news() && waiting.min_bytes > 0 {
            return self.park_fetch(partitions, origin, waiting, out);
        }
        waiting.place = 0;
        self.read_fetch(partitions, origin, waiting, out);
    }

    /// Reads everything that is available, within the limits, a few partitions at a time. A read gives one batch at least,
    /// however large; beyond the limits only the first of an answer counts.
    fn read_fetch(
        &mut self,
        partitions: &mut Partitions,
        origin: Origin,
        mut waiting: Waiting,
        out: &mut Outputs,
    ) {
        while waiting.reading < READS_MAX && waiting.place < waiting.items.len() {
            let place = waiting.place;
            waiting.place += 1;
            let passed_enough = waiting.has_passed_enough();
            let item = &mut waiting.items[place];
            let Found::Available = item.found else { continue };
            // Its turn may come steps after it was looked at.
            if item.bytes() == 0 {
                look(partitions, item);
            }
            let (Found::Available, Ok(log)) = (&item.found, item.log) else { continue };
            let rest = waiting.max_bytes.saturating_sub(waiting.bytes + waiting.promised);
            let most = usize::try_from(item.asked.partition_max_bytes).unwrap_or(0);
            let most = most.saturating_sub(item.bytes());
            if most > rest && waiting.promised > 0 {
                // Those under way may leave it more room than they are promised.
                waiting.place = place;
                break;
            }
            item.found = Found::Nothing;
            item.limit = most.min(rest);
            item.ended = true;
            let any = waiting.bytes > 0 || waiting.reading > 0;
            if item.limit == 0 && any || passed_enough {
                continue;
            }
            // Where batches without records lie, others may, and a whole group is read for any.
            let group = partitions.config().storage.index_interval_bytes as usize;
            let most =
                if item.passed.is_some() { item.limit.max(group) } else { item.limit.max(1) };
            let most = u32::try_from(most).unwrap_or(u32::MAX);
            let range = (item.next, item.bounds.0);
            match partitions.read(log, range, most, (origin, place), out) {
                Reading::Done(records) => {
                    let taken = item.take(records, any, None);
                    waiting.count(taken);
                }
                Reading::Begun { bytes_max } => {
                    item.found = Found::Reading;
                    item.promised =
                        item.limit.min(usize::try_from(bytes_max).unwrap_or(usize::MAX));
                    waiting.promised += item.promised;
                    waiting.reading += 1;
                    out.event(|| Event::Sometimes(Mark::FetchReadsSegment));
                }
            }
        }
        if waiting.reading > 0 {
            self.timers.remove(origin);
            self.waiting.insert(origin, Part::Fetch(waiting));
        } else {
            self.conclude_fetch(partitions, origin, waiting, out);
        }
    }

    /// Takes the outcome of one read of a part.
    pub(super) fn on_fetch_read(
        &mut self,
        partitions: &mut Partitions,
        origin: Origin,
        place: usize,
        result: Result<Vec<Bytes>, ReadError>,
        out: &mut Outputs,
    ) {
        let Some(Part::Fetch(mut waiting)) = self.waiting.remove(&origin) else { return };
        let any = waiting.bytes > 0;
        let item = &mut waiting.items[place];
        waiting.reading -= 1;
        waiting.promised -= std::mem::take(&mut item.promised);
        item.found = Found::Nothing;
        match result {
            Ok(records) => {
                let group = partitions.config().storage.index_interval_bytes as usize;
                let taken = item.take(records, any, Some(group));
                waiting.count(taken);
            }
            Err(ReadError::Damaged) => item.found = Found::Failed(ErrorCode::KAFKA_STORAGE_ERROR),
            // What was read before is good, and may be there no more. The rest can be asked for again.
            Err(ReadError::Gone) if item.bytes() > 0 => waiting.hastened = true,
            Err(ReadError::Gone) => {
                waiting.reads_again += 1;
                look(partitions, item);
                if waiting.reads_again > READS_AGAIN_MAX {
                    item.found = Found::Failed(ErrorCode::NOT_LEADER_OR_FOLLOWER);
                }
                waiting.place = waiting.place.min(place);
            }
        }
        self.read_fetch(partitions, origin, waiting, out);
    }

    /// Answers if there is enough, or no more time; reads on where a read ended before the high watermark; waits otherwise.
    fn conclude_fetch(
        &mut self,
        partitions: &mut Partitions,
        origin: Origin,
        mut waiting: Waiting,
        out: &mut Outputs,
    ) {
        let enough = waiting.bytes >= waiting.min_bytes.min(waiting.max_bytes)
            || waiting.has_passed_enough();
        if enough || waiting.has_news() || waiting.hastened {
            return self.answer_fetch(partitions, origin, waiting, out);
        }
        let mut more = false;
        for item in &mut waiting.items {
            if !item.ended && item.next < item.bounds.0 {
                item.found = Found::Available;
                more = true;
            }
        }
        if more {
            waiting.place = 0;
            self.read_fetch(partitions, origin, waiting, out);
        } else if waiting.is_last_chance(partitions.now().mono) {
            self.answer_fetch(partitions, origin, waiting, out);
        } else {
            self.park_fetch(partitions, origin, waiting, out);
        }
    }

    fn park_fetch(
        &mut self,
        partitions: &mut Partitions,
        origin: Origin,
        mut waiting: Waiting,
        out: &mut Outputs,
    ) {
        (waiting.bytes, waiting.passed_bytes) = (0, 0);
        let mut moved = false;
        for item in &mut waiting.items {
            item.found = Found::Nothing;
            item.records.clear();
            item.next = item.begin();
            item.ended = true;
            if let Ok(log) = item.log {
                partitions.watch(log, origin);
                moved |= item.stood != Some(partitions.standing(log));
            }
        }
        self.timers.set(origin, Some(waiting.at), Timer::FetchWait);
        self.waiting.insert(origin, Part::Fetch(waiting));
        if moved {
            // While others were being read, when nobody watched it.
            self.wake_fetch(partitions, origin, out);
        }
    }

    /// Looks again at a part that waits, because a partition has moved or its time is over. One that reads is left alone.
    pub(super) fn wake_fetch(
        &mut self,
        partitions: &mut Partitions,
        origin: Origin,
        out: &mut Outputs,
    ) {
        let waits = matches!(self.waiting.get(&origin), Some(Part::Fetch(w)) if w.reading == 0);
        if waits && let Some(Part::Fetch(waiting)) = self.waiting.remove(&origin) {
            self.drop_fetch(partitions, origin, &waiting);
            self.attempt_fetch(partitions, origin, waiting, out);
        }
    }

    /// Has a part answered with what there is.
    pub(in crate::requests) fn hasten(
        &mut self,
        partitions: &mut Partitions,
        origin: Origin,
        out: &mut Outputs,
    ) {
        if let Some(Part::Fetch(waiting)) = self.waiting.get_mut(&origin) {
            waiting.hastened = true;
            self.wake_fetch(partitions, origin, out);
        }
    }

    /// Ends what a part has set up to be woken.
    pub(super) fn drop_fetch(
        &mut self,
        partitions: &mut Partitions,
        origin: Origin,
        waiting: &Waiting,
    ) {
        self.timers.remove(origin);
        for log in waiting.items.iter().filter_map(|item| item.log.ok()) {
            partitions.unwatch(log, origin);
        }
    }

    fn answer_fetch(
        &mut self,
        partitions: &mut Partitions,
        origin: Origin,
        waiting: Waiting,
        out: &mut Outputs,
    ) {
        self.drop_fetch(partitions, origin, &waiting);
        let version = origin.caller.version;
        let mut responses = waiting.topics;
        for item in waiting.items {
            let mut data = PartitionData {
                partition_index: item.asked.partition,
                high_watermark: item.bounds.0,
                last_stable_offset: item.bounds.0,
                log_start_offset: item.bounds.1,
                aborted_transactions: waiting.read_committed.then(Vec::new),
                records: Some(Records::default()),
                ..PartitionData::default()
            };
            let (mut records, mut next) = (item.records, item.end);
            let failed = match item.found {
                Found::Failed(code) => Some(code),
                Found::NotYet => Some(ErrorCode::OFFSET_NOT_AVAILABLE),
                Found::Nothing | Found::Available | Found::Reading => {
                    if records.is_empty()
                        && let Some(passed) = item.passed
                    {
                        (records, next) = (vec![passed], item.next);
                    }
                    None
                }
                Found::Diverging(epoch_end) => {
                    data.diverging_epoch = epoch_end;
                    data.aborted_transactions = None;
                    None
                }
            };
            if failed.is_none()
                && let (Ok(log), Ok(first)) = (item.log, batches::first(&records))
            {
                let base = first.base_offset;
                let asked = item.asked.current_leader_epoch;
                out.event(|| Event::Served { log, base, next, asked });
                let records = Records(records);
                partitions.count_read(log, records.len());
                data.records = Some(records);
            }
            if let Some(code) = failed {
                data.error_code = code;
                // As Apache Kafka: none where there is no partition, null where there is nothing to read.
                data.aborted_transactions = item.log.is_err().then(Vec::new);
                (data.high_watermark, data.last_stable_offset, data.log_start_offset) =
                    (-1, -1, -1);
                let leader = [ErrorCode::NOT_LEADER_OR_FOLLOWER, ErrorCode::FENCED_LEADER_EPOCH];
                if version >= LEADER_VERSION
                    && leader.contains(&code)
                    && let Some((_, partition)) =
                        item.log.ok().and_then(|l| partitions.image().partition(l))
                {
                    data.current_leader = LeaderIdAndEpoch {
                        leader_id: partition.leader.map_or(-1, |leader| leader.0),
                        leader_epoch: partition.leader_epoch,
                    };
                }
            }
            responses[item.topic].partitions.push(data);
        }
        let response = FetchResponse { responses, ..FetchResponse::default() }.into();
        self.answers.push_back(Answer { origin, plan: waiting.plan, response: Some(response) });
    }
}

/// What there is for one partition now.
fn look(partitions: &Partitions, item: &mut Item) {
    item.found = match item.log.and_then(|log| found_at(partitions, log, item)) {
        Ok(found) => found,
        Err(code) => Found::Failed(code),
    };
    item.stood = item.log.ok().map(|log| partitions.standing(log));
    if let Ok(log) = item.log
        && let (Some(replica), Some(log)) = (partitions.replica(log), partitions.log(log))
    {
        item.bounds = (replica.high_watermark(), log.start());
    }
}

fn found_at(partitions: &Partitions, log: LogId, item: &Item) -> Result<Found, ErrorCode> {
    let asked = &item.asked;
    // In a fetch every negative one says nothing.
    let led = partitions.check_epoch(log, asked.current_leader_epoch.max(-1))?;
    let replica = partitions.replica(log).expect("it leads");
    if !replica.reached_epoch_start() {
        return Ok(Found::NotYet);
    }
    let found = partitions.log(log).expect("a leader has a log");
    if asked.last_fetched_epoch >= 0 {
        let (epoch, end_offset) = found
            .end_of_epoch_for_consumers(asked.last_fetched_epoch, led)
            .ok_or(ErrorCode::OFFSET_OUT_OF_RANGE)?;
        let diverges = epoch < asked.last_fetched_epoch || end_offset < asked.fetch_offset;
        if asked.fetch_offset >= found.start() && diverges {
            return Ok(Found::Diverging(EpochEndOffset { epoch, end_offset }));
        }
    }
    if asked.fetch_offset < found.start() || asked.fetch_offset > found.end() {
        return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
    }
    if item.next >= replica.high_watermark() {
        return Ok(Found::Nothing);
    }
    // Apache Kafka's word for it.
    let readable = asked.partition_max_bytes >= 0;
    if readable { Ok(Found::Available) } else { Err(ErrorCode::UNKNOWN_SERVER_ERROR) }
}

impl Waiting {
    fn count(&mut self, taken: Taken) {
        self.bytes += taken.bytes;
        self.passed_bytes += taken.passed_bytes;
    }

    fn has_passed_enough(&self) -> bool {
        self.passed_bytes >= self.passed_bytes_max
    }

    fn is_last_chance(&self, now: Instant) -> bool {
        self.hastened || self.at <= now
    }

    /// Whether a partition has something to say that should not wait.
    fn has_news(&self) -> bool {
        let news = |item: &Item| matches!(item.found, Found::Failed(_) | Found::Diverging(_));
        self.items.iter().any(news)
    }
}

/// The answer to a fetch at an isolation level that does not exist: Apache Kafka's word for it, which older versions can
/// give for each partition only.
pub(in crate::requests) fn refuse_isolation(
    version: i16,
    session_id: i32,
    topics: Vec<FetchTopic>,
) -> FetchResponse {
    let error_code = ErrorCode::UNKNOWN_SERVER_ERROR;
    let partition = |asked: FetchPartition| PartitionData {
        partition_index: asked.partition,
        aborted_transactions: Some(Vec::new()),
        records: Some(Records::default()),
        error_code,
        high_watermark: -1,
        ..PartitionData::default()
    };
    let topics = topics.into_iter().map(|FetchTopic { topic, topic_id, partitions }| {
        let partitions = partitions.into_iter().map(partition).collect();
        FetchableTopicResponse { topic, topic_id, partitions }
    });
    let responses = if version < session::TOPIC_ID_VERSION { topics.collect() } else { Vec::new() };
    FetchResponse { error_code, session_id, responses, ..FetchResponse::default() }
}

/// Batches that a read gave, as they may be kept: a few small ones would keep the whole group in memory that was read for
/// them, and are copied.
fn unshared(records: Vec<Bytes>, group: usize) -> Vec<Bytes> {
    let bytes: usize = records.iter().map(Bytes::len).sum();
    if bytes > group / 2 {
        return records;
    }
    records.iter().map(|batch| Bytes::copy_from_slice(batch)).collect()
}

impl Item {
    fn bytes(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }

    /// Where reading begins: what was passed over for want of records is not read again.
    fn begin(&self) -> Offset {
        let passed = self.passed.as_ref().and_then(|batch| BatchHeader::parse(batch).ok());
        passed.map_or(self.asked.fetch_offset, |header| header.next_offset())
    }

    /// Takes what a read gave, without batches that have no records, up to what is beyond the limit and not the first of the
    /// answer. A few small ones of a `group` of batches that was read for them are copied.
    fn take(&mut self, mut run: Vec<Bytes>, mut any: bool, group: Option<usize>) -> Taken {
        let mut taken = Taken::default();
        let (mut end, mut bytes, mut all) = (None, 0, true);
        for batch in batches::split(&run) {
            let Ok(batch) = batch else { return taken };
            end = Some(batch.header.next_offset());
            bytes += batch.header.size();
            all &= batch.header.records_count > 0;
        }
        let Some(end) = end else { return taken };
        self.ended = false;
        if all && bytes <= self.limit {
            (self.next, self.end, taken.bytes) = (end, end, bytes);
        } else {
            let (mut records, mut passed) = (Vec::new(), None);
            for batch in batches::split(&run).flatten() {
                let (size, next) = (batch.header.size(), batch.header.next_offset());
                if batch.header.records_count == 0 {
                    taken.passed_bytes += size;
                    passed = Some(batch).filter(|_| records.is_empty()).or(passed);
                } else if any && taken.bytes + size > self.limit {
                    self.ended = true;
                    break;
                } else {
                    any = true;
                    taken.bytes += size;
                    records.extend(batch.pieces());
                    self.end = next;
                }
                self.next = next;
            }
            if self.records.is_empty()
                && let Some(passed) = passed
            {
                self.passed = Some(Bytes::copy_from_slice(&passed.join()));
            }
            run = records;
        }
        self.limit = self.limit.saturating_sub(taken.bytes);
        let records = match group {
            Some(group) => unshared(run, group),
            None => run,
        };
        if self.records.is_empty() {
            self.records = records;
        } else {
            self.records.extend(records);
        }
        taken
    }
}

/// Bytes of a read that were taken, and those of batches without records among them.
#[derive(Default)]
struct Taken {
    bytes: usize,
    passed_bytes: usize,
}
