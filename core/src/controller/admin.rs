//! What clients ask of the controller: what each request changes and what is said of each of its topics, and what became of
//! one whose answer may be lost.

use std::collections::BTreeMap;

use milena_wire::ErrorCode;

use super::message::{AdminRequest, NewPartitions, NewTopic, TopicReference, TopicSummary};
use super::topics::{
    awaits_brokers, create_partitions, create_topics, delete_topics, lacks_brokers,
};
use crate::image::{Image, Record, Topic};
use crate::{Config, NodeId, Offset, Refusal, TopicId};

/// What became of each topic of a request, in its order.
pub type Topics = Vec<Result<TopicSummary, Refusal>>;

/// Decides a request on a draft, which then shows what it changes, as records of the entry at `offset`. `placement` rotates
/// from one topic to the next; who is `stopping` gets no replica unless the client names it.
pub fn administer(
    request: &AdminRequest,
    draft: &mut Image,
    config: &Config,
    offset: Offset,
    placement: &mut usize,
    stopping: impl Fn(NodeId) -> bool,
) -> (Vec<Record>, Topics) {
    match request {
        AdminRequest::CreateTopics { topics, validate_only: false } => {
            create_topics(draft, config, offset, topics, placement, stopping)
        }
        AdminRequest::CreateTopics { topics, validate_only: true } => {
            // Against one another too.
            let mut draft = draft.clone();
            let (_, said) = create_topics(&mut draft, config, offset, topics, placement, stopping);
            (Vec::new(), said)
        }
        AdminRequest::DeleteTopics { topics } => delete_topics(draft, offset, topics),
        AdminRequest::CreatePartitions { topics, validate_only: false } => {
            create_partitions(draft, config, offset, topics, placement, stopping)
        }
        AdminRequest::CreatePartitions { topics, validate_only: true } => {
            let mut draft = draft.clone();
            let (_, said) =
                create_partitions(&mut draft, config, offset, topics, placement, stopping);
            (Vec::new(), said)
        }
    }
}

impl AdminRequest {
    /// Gives the topics that are to be made other ids, for another attempt: what the one before made may have been deleted
    /// since, and an id is never used again.
    pub fn draw_again(&mut self, draw: &mut impl FnMut() -> TopicId) {
        if let AdminRequest::CreateTopics { topics, .. } = self {
            topics.iter_mut().for_each(|topic| topic.id = draw());
        }
    }

    /// Which topics have the names that it gives. The controller goes by the names, since this broker's metadata may be behind;
    /// but it is of no use to try again what may have been done, for a later topic may have the name by then.
    pub fn meant(&self, image: &Image) -> BTreeMap<String, TopicId> {
        let names: Vec<&String> = match self {
            AdminRequest::CreateTopics { .. } => Vec::new(),
            AdminRequest::DeleteTopics { topics } => {
                let named = topics.iter().filter_map(|topic| match topic {
                    TopicReference::Name(name) => Some(name),
                    TopicReference::Id(_) => None,
                });
                named.collect()
            }
            AdminRequest::CreatePartitions { topics, .. } => {
                topics.iter().map(|topic| &topic.topic).collect()
            }
        };
        let known = |name: &String| Some((name.clone(), *image.names.get(name)?));
        names.into_iter().filter_map(known).collect()
    }

    /// How many topics it asks about.
    pub fn topics(&self) -> usize {
        match self {
            AdminRequest::CreateTopics { topics, .. } => topics.len(),
            AdminRequest::DeleteTopics { topics } => topics.len(),
            AdminRequest::CreatePartitions { topics, .. } => topics.len(),
        }
    }

    /// What an attempt has done that can no longer be under way, from metadata that shows all it may have done; none where
    /// that is surely nothing, so that it may be tried again.
    pub fn outcome(&self, image: &Image, meant: &BTreeMap<String, TopicId>) -> Option<Topics> {
        let unknown = || {
            let message = "the controller changed meanwhile";
            Err(Refusal::new(ErrorCode::NOT_CONTROLLER, message))
        };
        match self {
            AdminRequest::CreateTopics { validate_only: true, .. }
            | AdminRequest::CreatePartitions { validate_only: true, .. } => None,
            AdminRequest::CreateTopics { topics, validate_only: false } => {
                let made = |topic: &NewTopic| image.topics.get(&topic.id);
                if topics.iter().all(|topic| made(topic).is_none()) {
                    return None;
                }
                let outcome = |topic| {
                    made(topic).map_or_else(unknown, |made| Ok(TopicSummary::from(&**made)))
                };
                Some(topics.iter().map(outcome).collect())
            }
            AdminRequest::DeleteTopics { topics } => {
                let present = |topic: &TopicReference| match topic {
                    TopicReference::Id(id) => image.topics.contains_key(id),
                    // Another topic may have the name by now.
                    TopicReference::Name(name) => {
                        meant.get(name).is_some_and(|id| image.names.get(name) == Some(id))
                    }
                };
                if topics.iter().all(present) {
                    return None;
                }
                Some(topics.iter().map(|_| unknown()).collect())
            }
            AdminRequest::CreatePartitions { topics, validate_only: false } => {
                // Another topic may have the name by now.
                let still = |asked: &NewPartitions| {
                    let topic = image.topic(&asked.topic)?;
                    (meant.get(&asked.topic) == Some(&topic.id)).then_some(topic)
                };
                let has = |topic: &Topic| topic.partitions.len() as i64;
                let is_undone =
                    |asked| still(asked).is_some_and(|topic| has(topic) < i64::from(asked.count));
                if topics.iter().all(is_undone) {
                    return None;
                }
                let outcome = |asked: &NewPartitions| match still(asked) {
                    Some(topic) if has(topic) == i64::from(asked.count) => {
                        Ok(TopicSummary::from(&**topic))
                    }
                    _ => unknown(),
                };
                Some(topics.iter().map(outcome).collect())
            }
        }
    }

    /// Whether it is to wait for brokers that may still come.
    pub fn is_early(&self, image: &Image, config: &Config) -> bool {
        match self {
            AdminRequest::CreateTopics { topics, .. } => awaits_brokers(image, config, topics),
            AdminRequest::CreatePartitions { topics, .. } => {
                topics.iter().any(|topic| lacks_brokers(image, topic))
            }
            AdminRequest::DeleteTopics { .. } => false,
        }
    }

    /// The same refusal for every topic.
    pub fn refuse(&self, code: ErrorCode, message: &str) -> Topics {
        (0..self.topics()).map(|_| Err(Refusal::new(code, message))).collect()
    }
}
