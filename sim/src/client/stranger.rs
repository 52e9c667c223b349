//! A client that asks for what is not there: topics that never were, by name and by id, partitions past the last one, and topics
//! to delete that are named in two ways at once.
//!
//! Clients act on which error they get: by an unknown name they try again, by an unknown id they ask for the names anew. And
//! nothing may be done for them that they did not mean: what is written nowhere is read by nobody, and what is there stays.

use std::collections::BTreeMap;

use milena_wire::batch::{BatchBuilder, Compression};
use milena_wire::messages::delete_topics::DeleteTopicState;
use milena_wire::messages::fetch::{FetchPartition, FetchTopic};
use milena_wire::messages::list_offsets::{
    EARLIEST_TIMESTAMP, ListOffsetsPartition, ListOffsetsTopic,
};
use milena_wire::messages::metadata::MetadataRequestTopic;
use milena_wire::messages::offset_for_leader_epoch::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use milena_wire::messages::produce::{PartitionProduceData, TopicProduceData};
use milena_wire::messages::{
    DeleteTopicsRequest, FetchRequest, ListOffsetsRequest, MetadataRequest,
    OffsetForLeaderEpochRequest, ProduceRequest,
};
use milena_wire::{ErrorCode, Request, Response, Uuid};

use super::{Pace, Session};
use crate::check::{Checked, Violation};
use crate::queue::{Time, wall};
use crate::schedule::StrangerSetup;

/// What no topic is called, and no topic's id.
const NOBODY: &str = "nobody";
const NO_ID: Uuid = Uuid([0xee; 16]);
/// A partition past the last one of every topic.
const PAST_THE_LAST: i32 = 1_000;
/// The epoch of who has none to name.
const NO_EPOCH: i32 = -1;
/// A fetch outside of any session.
const NO_SESSION: i32 = -1;

/// A question about what is not there, and the error that says so.
#[derive(Debug)]
struct Asked {
    version: i16,
    request: Request,
    error: ErrorCode,
}

/// A client that asks for what is not there.
#[derive(Debug)]
pub struct Stranger {
    pub(super) setup: StrangerSetup,
    sent: BTreeMap<u64, (Request, ErrorCode)>,
    pace: Pace,
}

impl Stranger {
    /// One that has not begun.
    pub fn new(setup: StrangerSetup) -> Stranger {
        Stranger { setup, sent: BTreeMap::new(), pace: Pace::new(setup.pause_us) }
    }

    /// Asks for the next thing.
    pub fn act(&mut self, now: Time, session: &mut Session) {
        if session.stopping {
            return;
        }
        if self.pace.is_due(now, session) {
            if session.topics.is_empty() || session.stream.below(20) == 0 {
                session.want_metadata();
            }
            let node = session.stream.below(session.nodes as u64) as usize;
            let Asked { version, request, error } = draw(now, session);
            let id = session.send(now, node, version, request.clone());
            self.sent.insert(id, (request, error));
        }
        session.wake(self.pace.next(now));
    }

    /// A request was never answered.
    pub fn on_lost(&mut self, id: u64) {
        self.sent.remove(&id);
    }

    /// A request was answered.
    pub fn on_reply(&mut self, id: u64, response: Option<Response>) -> Checked {
        let Some((request, error)) = self.sent.remove(&id) else { return Ok(()) };
        if !is_said(&request, error, response.as_ref()) {
            let story = format!("{request:?}, for which {error:?} is due, got {response:?}");
            return Err(Violation::new("stranger", story));
        }
        Ok(())
    }
}

/// Whether an answer says this error and nothing else.
fn is_said(request: &Request, error: ErrorCode, response: Option<&Response>) -> bool {
    let Some(errors) = response.and_then(errors) else { return false };
    // Only the controller decides about a topic that might be there, and there may be none.
    let decides =
        matches!(request, Request::DeleteTopics(_)) && error != ErrorCode::INVALID_REQUEST;
    let is_undecided = |said: &ErrorCode| decides && UNDECIDED.contains(said);
    // A broker that has no room for records looks at none of them before it has.
    let is_unread = |said: &ErrorCode| {
        matches!(request, Request::Produce(_)) && *said == ErrorCode::REQUEST_TIMED_OUT
    };
    // One that has never heard of its cluster cannot know that a topic is not there.
    let knows_nothing =
        matches!(response, Some(Response::Metadata(answer)) if answer.cluster_id.is_none());
    let is_unknown = |said: &ErrorCode| knows_nothing && *said == ErrorCode::LEADER_NOT_AVAILABLE;
    let is_due = |said: &ErrorCode| {
        *said == error || is_undecided(said) || is_unread(said) || is_unknown(said)
    };
    matches!(&errors[..], [said] if is_due(said))
}

/// What is said of a deletion that no controller has decided about.
const UNDECIDED: [ErrorCode; 3] =
    [ErrorCode::REQUEST_TIMED_OUT, ErrorCode::NOT_CONTROLLER, ErrorCode::THROTTLING_QUOTA_EXCEEDED];

/// All errors of an answer; none of one that is of no kind that was asked for, or has an error beside them.
fn errors(response: &Response) -> Option<Vec<ErrorCode>> {
    Some(match response {
        Response::Metadata(answer) => answer.topics.iter().map(|t| t.error_code).collect(),
        Response::DeleteTopics(answer) => answer.responses.iter().map(|t| t.error_code).collect(),
        Response::Fetch(answer) if answer.error_code.is_none() => {
            let partitions = answer.responses.iter().flat_map(|t| &t.partitions);
            partitions.map(|p| p.error_code).collect()
        }
        Response::Produce(answer) => {
            let partitions = answer.responses.iter().flat_map(|t| &t.partition_responses);
            partitions.map(|p| p.error_code).collect()
        }
        Response::ListOffsets(answer) => {
            answer.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).collect()
        }
        Response::OffsetForLeaderEpoch(answer) => {
            answer.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).collect()
        }
        _ => return None,
    })
}

fn draw(now: Time, session: &mut Session) -> Asked {
    let known: Vec<(String, Uuid)> =
        session.topics.iter().map(|(name, view)| (name.clone(), view.id)).collect();
    let stream = &mut session.stream;
    let index = stream.below(known.len().max(1) as u64) as usize;
    let known = known.into_iter().nth(index);
    let by_id = stream.chance(500_000);
    // Mostly a topic that never was, else a partition of one that is, or was when this client asked.
    let (name, topic_id, partition) = match known.clone().filter(|_| stream.chance(300_000)) {
        Some((name, _)) if !by_id => (name, Uuid::ZERO, PAST_THE_LAST),
        _ => (NOBODY.into(), if by_id { NO_ID } else { Uuid::ZERO }, 0),
    };
    let error =
        if by_id { ErrorCode::UNKNOWN_TOPIC_ID } else { ErrorCode::UNKNOWN_TOPIC_OR_PARTITION };
    let nobody = || (!by_id).then(|| NOBODY.to_owned());
    match stream.below(7) {
        0 => {
            let topics = Some(vec![MetadataRequestTopic { topic_id: id(by_id), name: nobody() }]);
            let request = MetadataRequest { topics, ..MetadataRequest::default() };
            Asked { version: 12, request: request.into(), error }
        }
        1 => {
            let topic = DeleteTopicState { topic_id: id(by_id), name: nobody() };
            let request = DeleteTopicsRequest {
                topics: vec![topic],
                timeout_ms: 1_000,
                ..DeleteTopicsRequest::default()
            };
            Asked { version: 6, request: request.into(), error }
        }
        2 => {
            // The topic is there by both, by one of them, or by none.
            let (name, topic_id) = known.unwrap_or((NOBODY.into(), NO_ID));
            let (name, topic_id) = match stream.below(3) {
                0 => (name, topic_id),
                1 => (name, NO_ID),
                _ => (NOBODY.into(), topic_id),
            };
            let topic = DeleteTopicState { topic_id, name: Some(name) };
            let request = DeleteTopicsRequest {
                topics: vec![topic],
                timeout_ms: 1_000,
                ..DeleteTopicsRequest::default()
            };
            let error = ErrorCode::INVALID_REQUEST;
            Asked { version: 6, request: request.into(), error }
        }
        3 => {
            let partition = FetchPartition {
                partition,
                current_leader_epoch: NO_EPOCH,
                last_fetched_epoch: NO_EPOCH,
                partition_max_bytes: 1_000,
                ..FetchPartition::default()
            };
            let topic = FetchTopic { topic: name, topic_id, partitions: vec![partition] };
            let request = FetchRequest {
                max_wait_ms: 100,
                min_bytes: 1,
                max_bytes: 1_000,
                session_epoch: NO_SESSION,
                topics: vec![topic],
                ..FetchRequest::default()
            };
            Asked { version: if by_id { 13 } else { 12 }, request: request.into(), error }
        }
        4 => {
            let mut builder = BatchBuilder::new(0, -1, Compression::None);
            builder.append(wall(now), None, Some(NOBODY.as_bytes()), &[]);
            let records = Some(builder.build());
            let partition = PartitionProduceData { index: partition, records };
            let topic = TopicProduceData { name, topic_id, partition_data: vec![partition] };
            let request = ProduceRequest {
                acks: -1,
                timeout_ms: 1_500,
                topic_data: vec![topic],
                ..ProduceRequest::default()
            };
            Asked { version: if by_id { 13 } else { 12 }, request: request.into(), error }
        }
        // These two name topics by their names alone.
        5 => {
            let error = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
            let partition = ListOffsetsPartition {
                partition_index: partition,
                current_leader_epoch: NO_EPOCH,
                timestamp: EARLIEST_TIMESTAMP,
            };
            let topic = ListOffsetsTopic { name, partitions: vec![partition] };
            let request = ListOffsetsRequest {
                replica_id: -1,
                topics: vec![topic],
                ..ListOffsetsRequest::default()
            };
            Asked { version: 7, request: request.into(), error }
        }
        _ => {
            let error = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
            let partition = OffsetForLeaderPartition {
                partition,
                current_leader_epoch: NO_EPOCH,
                leader_epoch: 0,
            };
            let topic = OffsetForLeaderTopic { topic: name, partitions: vec![partition] };
            let request = OffsetForLeaderEpochRequest { replica_id: -1, topics: vec![topic] };
            Asked { version: 4, request: request.into(), error }
        }
    }
}

fn id(by_id: bool) -> Uuid {
    if by_id { NO_ID } else { Uuid::ZERO }
}

#[cfg(test)]
mod tests {
    use milena_wire::messages::delete_topics::{DeletableTopicResult, DeleteTopicsResponse};
    use milena_wire::messages::list_offsets::{
        ListOffsetsPartitionResponse, ListOffsetsResponse, ListOffsetsTopicResponse,
    };

    use super::*;

    #[test]
    fn one_error_is_due_and_no_other() {
        let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
        let says = |errors: &[ErrorCode]| {
            let partitions = errors.iter().map(|error| ListOffsetsPartitionResponse {
                error_code: *error,
                ..Default::default()
            });
            let topic =
                ListOffsetsTopicResponse { name: "t".into(), partitions: partitions.collect() };
            let answer = ListOffsetsResponse { topics: vec![topic], ..Default::default() };
            is_said(&ListOffsetsRequest::default().into(), unknown, Some(&answer.into()))
        };
        assert!(says(&[unknown]));
        assert!(!says(&[]) && !says(&[ErrorCode::NONE]) && !says(&[unknown, unknown]));
        assert!(!says(&[ErrorCode::UNKNOWN_TOPIC_ID]) && !says(&[ErrorCode::REQUEST_TIMED_OUT]));
    }

    #[test]
    fn a_deletion_may_wait_for_a_controller_in_vain() {
        let says = |due, error_code| {
            let responses = vec![DeletableTopicResult { error_code, ..Default::default() }];
            let answer = DeleteTopicsResponse { responses, ..Default::default() };
            is_said(&DeleteTopicsRequest::default().into(), due, Some(&answer.into()))
        };
        assert!(says(ErrorCode::UNKNOWN_TOPIC_ID, ErrorCode::REQUEST_TIMED_OUT));
        assert!(!says(ErrorCode::UNKNOWN_TOPIC_ID, ErrorCode::NONE), "it was there");
        assert!(!says(ErrorCode::INVALID_REQUEST, ErrorCode::REQUEST_TIMED_OUT), "whoever leads");
    }
}
