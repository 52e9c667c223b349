//! ListOffsets and OffsetForLeaderEpoch: where a partition begins, ends, stood at a time, and where an epoch ended.
//!
//! A leader that does not yet know that everything before its epoch is committed lets the question wait: an offset once
//! told must not fall.

use std::collections::BTreeSet;

use milena_wire::messages::list_offsets::{
    EARLIEST_LOCAL_TIMESTAMP, EARLIEST_PENDING_UPLOAD_TIMESTAMP, EARLIEST_TIMESTAMP,
    LATEST_TIERED_TIMESTAMP, LATEST_TIMESTAMP, ListOffsetsPartition, ListOffsetsPartitionResponse,
    ListOffsetsTopicResponse, MAX_TIMESTAMP,
};
use milena_wire::messages::offset_for_leader_epoch::{EpochEndOffset, OffsetForLeaderTopicResult};
use milena_wire::messages::{
    ListOffsetsRequest, ListOffsetsResponse, OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
};
use milena_wire::{ErrorCode, Response, Uuid};

use super::{Origin, Part, Parts};
use crate::requests::Partitions;
use crate::requests::named::locate;
use crate::storage::ReadError;
use crate::trace::{Event, Mark};
use crate::{Epoch, Instant, LogId, Offset, Outputs, Timer, Timestamp};

/// First version that knows `OFFSET_NOT_AVAILABLE`.
const NOT_AVAILABLE_VERSION: i16 = 5;
/// Who names it asks of no epoch.
const NO_EPOCH: Epoch = -1;
/// The versions that brought the special timestamps. An older request that has one means something that it cannot say.
const SPECIAL_TIMESTAMPS: [(Timestamp, i16); 6] = [
    (EARLIEST_TIMESTAMP, 1),
    (LATEST_TIMESTAMP, 1),
    (MAX_TIMESTAMP, 7),
    (EARLIEST_LOCAL_TIMESTAMP, 8),
    (LATEST_TIERED_TIMESTAMP, 9),
    (EARLIEST_PENDING_UPLOAD_TIMESTAMP, 11),
];
/// First version with a time limit of its own.
const TIMEOUT_VERSION: i16 = 10;
/// How long a question without a time limit waits, and every one at most, milliseconds.
const WAIT_MS: u64 = 1_000;
const WAIT_MS_MAX: u64 = 30_000;

/// Lookups by time of one part under way at a time.
const SEARCHES_MAX: usize = 8;

/// A part that waits for lookups or for its leaders to know what is committed.
#[derive(Debug)]
pub(super) struct Waiting {
    at: Instant,
    topics: Vec<String>,
    items: Vec<Item>,
    /// The partition that is next to be looked at.
    place: usize,
    /// Lookups by time under way.
    searching: usize,
}

#[derive(Debug)]
struct Item {
    topic: usize,
    log: Result<LogId, ErrorCode>,
    asked: ListOffsetsPartition,
    found: Found,
}

#[derive(Debug)]
enum Found {
    /// When the leader does not yet know what is committed.
    NotYet,
    /// When a lookup by time is under way.
    Searching,
    /// When it is known: timestamp, offset, epoch, each -1 where there is none.
    Known(Timestamp, Offset, Epoch),
    /// When it cannot be known.
    Failed(ErrorCode),
}

impl Parts {
    pub(super) fn serve_list_offsets(
        &mut self,
        partitions: &mut Partitions,
        origin: Origin,
        request: ListOffsetsRequest,
        out: &mut Outputs,
    ) {
        let version = origin.caller.version;
        let wait_ms = match u64::try_from(request.timeout_ms) {
            Ok(wait_ms) if version >= TIMEOUT_VERSION => wait_ms.min(WAIT_MS_MAX),
            Ok(_) | Err(_) => WAIT_MS,
        };
        let image = partitions.image();
        let (mut topics, mut items) = (Vec::new(), Vec::new());
        let mut named = BTreeSet::new();
        for topic in request.topics {
            for asked in topic.partitions {
                let name = &topic.name;
                let log = locate(image, name, Uuid::ZERO, false, asked.partition_index);
                // Who names a partition twice would be answered twice, and not know which is which.
                let twice = log.is_ok_and(|log| !named.insert(log));
                let log = match log {
                    Ok(_) if twice => Err(ErrorCode::INVALID_REQUEST),
                    _ if !knows(version, asked.timestamp) => Err(ErrorCode::UNSUPPORTED_VERSION),
                    log => log,
                };
                items.push(Item { topic: topics.len(), log, asked, found: Found::NotYet });
            }
            topics.push(topic.name);
        }
        let at = partitions.now().mono.after_ms(wait_ms);
        self.attempt_list(
            partitions,
            origin,
            Waiting { at, topics, items, place: 0, searching: 0 },
            out,
        );
    }

    /// Looks at the partitions that are not known yet, as far as lookups may begin.
    fn attempt_list(
        &mut self,
        partitions: &mut Partitions,
        origin: Origin,
        mut waiting: Waiting,
        out: &mut Outputs,
    ) {
        while waiting.searching < SEARCHES_MAX && waiting.place < waiting.items.len() {
            let place = waiting.place;
            waiting.place += 1;
            let item = &mut waiting.items[place];
            if !matches!(item.found, Found::NotYet) {
                continue;
            }
            let found =
                item.log.and_then(|log| find(partitions, origin, place, log, &item.asked, out));
            item.found = found.unwrap_or_else(Found::Failed);
            waiting.searching += usize::from(matches!(item.found, Found::Searching));
        }
        if waiting.searching > 0 {
            // It needs no deadline: the disk answers.
            self.waiting.insert(origin, Part::ListOffsets(waiting));
        } else {
            self.conclude_list(partitions, origin, waiting);
        }
    }

    /// Takes the outcome of a lookup by time.
    pub(super) fn on_time(
        &mut self,
        partitions: &mut Partitions,
        origin: Origin,
        place: usize,
        result: Result<Option<(Offset, Timestamp, Epoch)>, ReadError>,
        out: &mut Outputs,
    ) {
        let Some(Part::ListOffsets(mut waiting)) = self.waiting.remove(&origin) else { return };
        waiting.searching -= 1;
        waiting.items[place].found = match result {
            Ok(Some((offset, timestamp, epoch))) => Found::Known(timestamp, offset, epoch),
            Ok(None) => Found::Known(-1, -1, -1),
            Err(ReadError::Damaged) => Found::Failed(ErrorCode::KAFKA_STORAGE_ERROR),
            // The log was trimmed or cut meanwhile: looked up again.
            Err(ReadError::Gone) => Found::NotYet,
        };
        if waiting.searching == 0 {
            // Whoever was not ready before may be now.
            waiting.place = 0;
        }
        self.attempt_list(partitions, origin, waiting, out);
    }

    /// Looks again at a part that waits, because a partition has moved or its time is over.
    pub(super) fn wake_list(
        &mut self,
        partitions: &mut Partitions,
        origin: Origin,
        out: &mut Outputs,
    ) {
        match self.waiting.remove(&origin) {
            Some(Part::ListOffsets(mut waiting)) => {
                self.drop_list(partitions, origin, &waiting);
                waiting.place = 0;
                self.attempt_list(partitions, origin, waiting, out);
            }
            Some(other) => drop(self.waiting.insert(origin, other)),
            None => {}
        }
    }

    /// Ends what a part has set up to be woken.
    pub(super) fn drop_list(
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

    fn conclude_list(&mut self, partitions: &mut Partitions, origin: Origin, mut waiting: Waiting) {
        if waiting.at <= partitions.now().mono {
            let code = if origin.caller.version >= NOT_AVAILABLE_VERSION {
                ErrorCode::OFFSET_NOT_AVAILABLE
            } else {
                ErrorCode::LEADER_NOT_AVAILABLE
            };
            for item in &mut waiting.items {
                if matches!(item.found, Found::NotYet) {
                    item.found = Found::Failed(code);
                }
            }
        }
        let not_yet = |item: &&Item| matches!(item.found, Found::NotYet);
        let waits: Vec<LogId> =
            waiting.items.iter().filter(not_yet).filter_map(|item| item.log.ok()).collect();
        if !waits.is_empty() {
            self.timers.set(origin, Some(waiting.at), Timer::FetchWait);
            waits.into_iter().for_each(|log| partitions.watch(log, origin));
            self.waiting.insert(origin, Part::ListOffsets(waiting));
            return;
        }
        let mut response = ListOffsetsResponse::default();
        for name in waiting.topics {
            response.topics.push(ListOffsetsTopicResponse { name, partitions: Vec::new() });
        }
        for item in waiting.items {
            let mut answer = ListOffsetsPartitionResponse {
                partition_index: item.asked.partition_index,
                ..ListOffsetsPartitionResponse::default()
            };
            match item.found {
                Found::Known(timestamp, offset, epoch) => {
                    (answer.timestamp, answer.offset, answer.leader_epoch) =
                        (timestamp, offset, epoch);
                }
                Found::Failed(code) => answer.error_code = code,
                Found::NotYet | Found::Searching => unreachable!("waited for above"),
            }
            response.topics[item.topic].partitions.push(answer);
        }
        self.answer(origin, Some(Response::ListOffsets(response)));
    }

    pub(super) fn serve_leader_epochs(
        &mut self,
        partitions: &Partitions,
        origin: Origin,
        request: OffsetForLeaderEpochRequest,
    ) {
        let image = partitions.image();
        let mut response = OffsetForLeaderEpochResponse::default();
        for topic in request.topics {
            let partitions = topic
                .partitions
                .into_iter()
                .map(|asked| {
                    let mut answer =
                        EpochEndOffset { partition: asked.partition, ..EpochEndOffset::default() };
                    let found = locate(image, &topic.topic, Uuid::ZERO, false, asked.partition)
                        .and_then(|log| {
                            let epoch = partitions.check_epoch(log, asked.current_leader_epoch)?;
                            Ok((epoch, partitions.log(log).expect("a leader has a log")))
                        });
                    match found {
                        Ok((led, log)) if asked.leader_epoch != NO_EPOCH => {
                            // Of an epoch that is still to come nothing can be said.
                            (answer.leader_epoch, answer.end_offset) = log
                                .end_of_epoch_for_consumers(asked.leader_epoch, led)
                                .unwrap_or((NO_EPOCH, -1));
                        }
                        Ok(_) => {}
                        Err(code) => answer.error_code = code,
                    }
                    answer
                })
                .collect();
            response.topics.push(OffsetForLeaderTopicResult { topic: topic.topic, partitions });
        }
        self.answer(origin, Some(Response::OffsetForLeaderEpoch(response)));
    }
}

fn find(
    partitions: &mut Partitions,
    origin: Origin,
    place: usize,
    log: LogId,
    asked: &ListOffsetsPartition,
    out: &mut Outputs,
) -> Result<Found, ErrorCode> {
    let epoch = partitions.check_epoch(log, asked.current_leader_epoch)?;
    let replica = partitions.replica(log).expect("it leads");
    if !replica.reached_epoch_start() {
        out.event(|| Event::Sometimes(Mark::ListOffsetsWaitsForEpochStart));
        return Ok(Found::NotYet);
    }
    let high_watermark = replica.high_watermark();
    let found = partitions.log(log).expect("a leader has a log");
    Ok(match asked.timestamp {
        EARLIEST_TIMESTAMP | EARLIEST_LOCAL_TIMESTAMP => {
            let start = found.start();
            Found::Known(-1, start, found.epoch_at(start).unwrap_or(epoch))
        }
        LATEST_TIMESTAMP => Found::Known(-1, high_watermark, epoch),
        MAX_TIMESTAMP => {
            partitions.find_largest(log, high_watermark, (origin, place), out);
            Found::Searching
        }
        // Nothing is in tiered storage.
        LATEST_TIERED_TIMESTAMP | EARLIEST_PENDING_UPLOAD_TIMESTAMP => Found::Known(-1, -1, -1),
        ..0 => return Err(ErrorCode::UNSUPPORTED_VERSION),
        timestamp => {
            let lookup = (origin, place);
            partitions.find_time(log, timestamp, high_watermark, lookup, out);
            Found::Searching
        }
    })
}

/// Whether a version of the request has a timestamp, special or not.
fn knows(version: i16, timestamp: Timestamp) -> bool {
    let since = SPECIAL_TIMESTAMPS.iter().find(|(special, _)| *special == timestamp);
    timestamp >= 0 || since.is_some_and(|(_, since)| version >= *since)
}

/// The answer at an isolation level that does not exist: Apache Kafka's word for it.
pub(in crate::requests) fn refuse_isolation(request: ListOffsetsRequest) -> ListOffsetsResponse {
    let partition = |asked: ListOffsetsPartition| ListOffsetsPartitionResponse {
        partition_index: asked.partition_index,
        error_code: ErrorCode::UNKNOWN_SERVER_ERROR,
        ..ListOffsetsPartitionResponse::default()
    };
    let topics = request.topics.into_iter().map(|topic| ListOffsetsTopicResponse {
        name: topic.name,
        partitions: topic.partitions.into_iter().map(partition).collect(),
    });
    ListOffsetsResponse { topics: topics.collect(), ..ListOffsetsResponse::default() }
}
