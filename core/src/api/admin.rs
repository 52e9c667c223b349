//! CreateTopics, DeleteTopics and CreatePartitions, from Kafka's form into the controller's and back.

use std::collections::{BTreeMap, BTreeSet};

use milena_wire::messages::create_partitions::{
    CreatePartitionsAssignment, CreatePartitionsRequest, CreatePartitionsResponse,
    CreatePartitionsTopic, CreatePartitionsTopicResult,
};
use milena_wire::messages::create_topics::{
    CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreateTopicsRequest,
    CreateTopicsResponse,
};
use milena_wire::messages::delete_topics::{
    DeletableTopicResult, DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse,
};
use milena_wire::{ErrorCode, Request, Response, Uuid};

use super::configs::{SOURCE_DEFAULT, SOURCE_TOPIC};
use crate::Refusal;
use crate::controller::message::{
    AdminRequest, NewPartitions, NewTopic, TopicReference, TopicSummary,
};
use crate::image::settings::TOPIC_CONFIGS;
use crate::{Config, NodeId, TopicId};

/// A client waits at least this long, milliseconds, whatever it says: an entry has to be committed.
const TIMEOUT_MS_MIN: i32 = 1_000;
/// A client waits at most this long, milliseconds: what it asks for is remembered meanwhile.
const TIMEOUT_MS_MAX: i32 = 60_000;

/// Why a topic to delete is refused that the request names more than once; it is answered once, as Apache Kafka does.
const TWICE: &str = "a topic is named twice";

/// A request in the controller's form, and how long its client waits in milliseconds; none where it is not the controller's
/// to answer. `draw` gives each topic to be made its identity.
pub fn admin_request(
    request: &Request,
    draw: &mut impl FnMut() -> TopicId,
) -> Option<(AdminRequest, u64)> {
    let (request, timeout_ms) = match request {
        Request::CreateTopics(request) => (create(request, draw), request.timeout_ms),
        Request::DeleteTopics(request) => (delete(request), request.timeout_ms),
        Request::CreatePartitions(request) => (grow(request), request.timeout_ms),
        _ => return None,
    };
    Some((request, timeout_ms.clamp(TIMEOUT_MS_MIN, TIMEOUT_MS_MAX) as u64))
}

/// The response to a request that [`admin_request`] has translated; `topics` are the controller's answers in its order.
///
/// # Panics
///
/// Where the request is another one.
pub fn admin_response(
    config: &Config,
    request: &Request,
    topics: Vec<Result<TopicSummary, Refusal>>,
) -> Response {
    match request {
        Request::CreateTopics(request) => {
            // A name that is there twice is refused, and answered once.
            let mut seen = BTreeSet::new();
            let results = request.topics.iter().zip(topics);
            let results = results.filter(|(asked, _)| seen.insert(&asked.name));
            CreateTopicsResponse {
                throttle_time_ms: 0,
                topics: results.map(|(asked, made)| created(config, asked, made)).collect(),
            }
            .into()
        }
        Request::DeleteTopics(request) => {
            let mut decided = topics.into_iter();
            let mut outcome = |wrong: Option<&str>| match wrong {
                Some(why) => Err(Refusal::new(ErrorCode::INVALID_REQUEST, why)),
                None => decided.next().expect("an answer for each topic that was passed on"),
            };
            let mut seen = BTreeSet::new();
            let results = named_topics(request)
                .zip(contradictions(request))
                .filter(|(named, wrong)| *wrong != Some(TWICE) || seen.insert(*named))
                .map(|(named, wrong)| (named, outcome(wrong)));
            DeleteTopicsResponse {
                throttle_time_ms: 0,
                responses: results.map(|(asked, gone)| deleted(asked, gone)).collect(),
            }
            .into()
        }
        Request::CreatePartitions(request) => {
            let mut seen = BTreeSet::new();
            let results = request.topics.iter().zip(topics);
            let results = results.filter(|(asked, _)| seen.insert(&asked.name));
            CreatePartitionsResponse {
                throttle_time_ms: 0,
                results: results.map(|(asked, grown)| grew(asked, grown)).collect(),
            }
            .into()
        }
        _ => panic!("only what was translated is answered here"),
    }
}

fn create(request: &CreateTopicsRequest, draw: &mut impl FnMut() -> TopicId) -> AdminRequest {
    let topics = request.topics.iter().map(|topic| NewTopic {
        id: draw(),
        name: topic.name.clone(),
        partitions: (topic.num_partitions != -1).then_some(topic.num_partitions),
        replication_factor: (topic.replication_factor != -1).then_some(topic.replication_factor),
        assignments: topic
            .assignments
            .iter()
            .map(|assignment| {
                let replicas = assignment.broker_ids.iter().copied().map(NodeId).collect();
                (assignment.partition_index, replicas)
            })
            .collect(),
        configs: topic.configs.iter().map(|c| (c.name.clone(), c.value.clone())).collect(),
    });
    AdminRequest::CreateTopics { topics: topics.collect(), validate_only: request.validate_only }
}

fn created(
    config: &Config,
    asked: &CreatableTopic,
    made: Result<TopicSummary, Refusal>,
) -> CreatableTopicResult {
    let refused = CreatableTopicResult {
        name: asked.name.clone(),
        topic_id: Uuid::ZERO,
        error_code: ErrorCode::NONE,
        error_message: None,
        topic_config_error_code: ErrorCode::NONE,
        num_partitions: -1,
        replication_factor: -1,
        configs: Some(Vec::new()),
    };
    match made {
        Ok(made) => CreatableTopicResult {
            topic_id: Uuid(made.id.0),
            num_partitions: made.partitions,
            replication_factor: made.replication_factor,
            configs: Some(
                TOPIC_CONFIGS
                    .iter()
                    .map(|known| CreatableTopicConfigs {
                        name: known.name.into(),
                        value: Some(known.value(&made.configs, made.min_isr, config)),
                        read_only: false,
                        config_source: if made.configs.contains_key(known.name) {
                            SOURCE_TOPIC
                        } else {
                            SOURCE_DEFAULT
                        },
                        is_sensitive: false,
                    })
                    .collect(),
            ),
            ..refused
        },
        Err(Refusal { code, message }) => {
            CreatableTopicResult { error_code: code, error_message: Some(message), ..refused }
        }
    }
}

fn grow(request: &CreatePartitionsRequest) -> AdminRequest {
    let topics = request.topics.iter().map(|topic| NewPartitions {
        topic: topic.name.clone(),
        count: topic.count,
        assignments: topic.assignments.as_ref().map(|all| {
            let ids = |one: &CreatePartitionsAssignment| {
                one.broker_ids.iter().copied().map(NodeId).collect()
            };
            all.iter().map(ids).collect()
        }),
    });
    let (topics, validate_only) = (topics.collect(), request.validate_only);
    AdminRequest::CreatePartitions { topics, validate_only }
}

fn grew(
    asked: &CreatePartitionsTopic,
    grown: Result<TopicSummary, Refusal>,
) -> CreatePartitionsTopicResult {
    let name = asked.name.clone();
    match grown {
        Ok(_) => {
            CreatePartitionsTopicResult { name, error_code: ErrorCode::NONE, error_message: None }
        }
        Err(Refusal { code, message }) => {
            CreatePartitionsTopicResult { name, error_code: code, error_message: Some(message) }
        }
    }
}

/// What the request itself shows to be wrong is not passed on; the controller judges the rest as a whole. It knows best which
/// topic has a name: this broker may not have heard yet that one was deleted and made again.
fn delete(request: &DeleteTopicsRequest) -> AdminRequest {
    let sound = named_topics(request).zip(contradictions(request));
    let sound = sound.filter(|(_, wrong)| wrong.is_none()).map(|(named, _)| named);
    let topics = sound.map(|(name, id)| match name {
        Some(name) => TopicReference::Name(name.into()),
        None => TopicReference::Id(id),
    });
    AdminRequest::DeleteTopics { topics: topics.collect() }
}

/// What is wrong with each topic of a request, whatever topics there are: neither name nor identity, both, or the same
/// twice, where all of them are refused.
fn contradictions(request: &DeleteTopicsRequest) -> Vec<Option<&'static str>> {
    let mut times = BTreeMap::new();
    for named in named_topics(request) {
        *times.entry(named).or_insert(0) += 1;
    }
    let wrong = |named: (Option<&str>, TopicId)| match named {
        (Some(_), id) if id != TopicId::default() => Some("a topic is named by both name and id"),
        (None, id) if id == TopicId::default() => Some("a topic has neither name nor id"),
        named if times[&named] > 1 => Some(TWICE),
        _ => None,
    };
    named_topics(request).map(wrong).collect()
}

/// How a client names the topics to delete: before version 6 by name, since then by name or identity.
fn named_topics(request: &DeleteTopicsRequest) -> impl Iterator<Item = (Option<&str>, TopicId)> {
    let state = |topic: &DeleteTopicState| TopicId(topic.topic_id.0);
    let states = request.topics.iter().map(move |topic| (topic.name.as_deref(), state(topic)));
    let names = request.topic_names.iter().map(|name| (Some(name.as_str()), TopicId::default()));
    states.chain(names)
}

fn deleted(
    (name, id): (Option<&str>, TopicId),
    gone: Result<TopicSummary, Refusal>,
) -> DeletableTopicResult {
    let name = name.map(String::from);
    match gone {
        Ok(gone) => DeletableTopicResult {
            name: Some(gone.name),
            topic_id: Uuid(gone.id.0),
            error_code: ErrorCode::NONE,
            error_message: None,
        },
        Err(Refusal { code, message }) => DeletableTopicResult {
            name,
            topic_id: Uuid(id.0),
            error_code: code,
            error_message: Some(message),
        },
    }
}
