//! An administrator: creates and deletes topics, asking one broker after the other until it is answered.

use std::collections::BTreeMap;

use milena_wire::messages::create_topics::{CreatableTopic, CreatableTopicConfig};
use milena_wire::messages::{CreateTopicsRequest, DeleteTopicsRequest};
use milena_wire::{ErrorCode, Request, Response};

use super::Session;
use crate::check::Violation;
use crate::history::History;
use crate::queue::Time;
use crate::schedule::TopicSetup;

#[derive(Clone, Debug)]
enum Job {
    Create(TopicSetup),
    Delete(String),
}

/// An administrator.
#[derive(Debug, Default)]
pub struct Admin {
    waiting: Vec<(Time, Job)>,
    sent: BTreeMap<u64, Job>,
    /// Topics whose creation was confirmed.
    pub created: Vec<String>,
}

impl Admin {
    /// Wants a topic.
    pub fn create(&mut self, topic: TopicSetup, history: &mut History) {
        history.create(&topic.name, topic.log_append_time);
        self.waiting.push((0, Job::Create(topic)));
    }

    /// Wants a topic gone. From here on nothing of it is owed.
    pub fn delete(&mut self, name: &str, history: &mut History) {
        history.delete(name);
        self.waiting.push((0, Job::Delete(name.to_owned())));
    }

    /// Whether everything asked for has been answered.
    pub fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.sent.is_empty()
    }

    /// Sends what may be sent.
    pub fn act(&mut self, now: Time, session: &mut Session, _history: &mut History) {
        let mut later = Vec::new();
        for (not_before, job) in std::mem::take(&mut self.waiting) {
            if not_before > now {
                later.push((not_before, job));
                continue;
            }
            let node = session.stream.below(session.nodes as u64) as usize;
            let request = match &job {
                Job::Create(topic) => create(topic),
                Job::Delete(name) => DeleteTopicsRequest {
                    topic_names: vec![name.clone()],
                    timeout_ms: 1_000,
                    ..DeleteTopicsRequest::default()
                }
                .into(),
            };
            let version = if matches!(job, Job::Create(_)) { 7 } else { 5 };
            let id = session.send(now, node, version, request);
            self.sent.insert(id, job);
        }
        self.waiting = later;
        if let Some(at) = self.waiting.iter().map(|(at, _)| *at).min() {
            session.wake(at.max(now + 1));
        }
    }

    /// A request was never answered.
    pub fn on_lost(&mut self, id: u64) {
        if let Some(job) = self.sent.remove(&id) {
            self.waiting.push((0, job));
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
        let Some(job) = self.sent.remove(&id) else { return Ok(()) };
        let error = match &response {
            Some(Response::CreateTopics(answer)) => answer.topics.first().map(|t| t.error_code),
            Some(Response::DeleteTopics(answer)) => answer.responses.first().map(|t| t.error_code),
            _ => None,
        };
        let Some(error) = error else {
            return Err(Violation::new("answer", format!("{job:?} was answered by {response:?}")));
        };
        let done = match &job {
            Job::Create(_) => [ErrorCode::NONE, ErrorCode::TOPIC_ALREADY_EXISTS].contains(&error),
            Job::Delete(_) => {
                [ErrorCode::NONE, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION].contains(&error)
            }
        };
        if done {
            if let Job::Create(topic) = job {
                self.created.push(topic.name);
            }
        } else {
            let pause = session.backoff();
            self.waiting.push((now + pause, job));
        }
        self.act(now, session, history);
        Ok(())
    }
}

fn create(topic: &TopicSetup) -> Request {
    let mut configs = vec![("min.insync.replicas", topic.min_insync.to_string())];
    configs.extend(topic.segment_bytes.map(|bytes| ("segment.bytes", bytes.to_string())));
    configs.extend(topic.retention_bytes.map(|bytes| ("retention.bytes", bytes.to_string())));
    configs.extend(topic.retention_ms.map(|ms| ("retention.ms", ms.to_string())));
    let stamped = topic.log_append_time.then(|| "LogAppendTime".to_owned());
    configs.extend(stamped.map(|kind| ("message.timestamp.type", kind)));
    CreateTopicsRequest {
        topics: vec![CreatableTopic {
            name: topic.name.clone(),
            num_partitions: topic.partitions,
            replication_factor: topic.replication,
            configs: configs
                .into_iter()
                .map(|(name, value)| CreatableTopicConfig { name: name.into(), value: Some(value) })
                .collect(),
            ..CreatableTopic::default()
        }],
        timeout_ms: 1_000,
        ..CreateTopicsRequest::default()
    }
    .into()
}
