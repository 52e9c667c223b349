//! An administrator: creates, grows and deletes topics, asking one broker after the other until it is answered.
//!
//! What it wants of one name it asks for in turn, so that it knows what there is. An attempt that was not answered for certain
//! may still be carried out at any time, on whatever has the name by then: of such a name nothing is judged any more. Otherwise
//! what it was told holds: a topic that was created is there until its deletion, with as many partitions as it was given since,
//! and one that was deleted never again.

use std::collections::{BTreeMap, BTreeSet};

use milena_wire::messages::create_partitions::CreatePartitionsTopic;
use milena_wire::messages::create_topics::{CreatableTopic, CreatableTopicConfig};
use milena_wire::messages::delete_topics::DeleteTopicState;
use milena_wire::messages::{CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest};
use milena_wire::{ErrorCode, Request, Response, Uuid};

use super::Session;
use crate::check::{Checked, Violation};
use crate::history::History;
use crate::queue::Time;
use crate::schedule::TopicSetup;

/// Version of CreateTopics whose answer has the topic's id; of DeleteTopics the last with names alone, and the first with ids.
const CREATE_VERSION: i16 = 7;
const DELETE_BY_NAME_VERSION: i16 = 5;
const DELETE_BY_ID_VERSION: i16 = 6;
const GROW_VERSION: i16 = 3;

#[derive(Clone, Debug)]
enum What {
    Create(TopicSetup),
    /// The topic of a name, and its id where that is known.
    Delete(String, Option<Uuid>),
    /// How many partitions the topic of a name is to have, and its id where that is known.
    Grow(String, i32, Option<Uuid>),
}

#[derive(Clone, Debug)]
struct Job {
    what: What,
    not_before: Time,
    attempts: u32,
    /// Whether the request on its way names the topic's id alone.
    by_id: bool,
}

impl Job {
    fn new(what: What) -> Job {
        Job { what, not_before: 0, attempts: 0, by_id: false }
    }

    fn name(&self) -> &str {
        match &self.what {
            What::Create(topic) => &topic.name,
            What::Delete(name, _) | What::Grow(name, ..) => name,
        }
    }
}

/// An administrator.
#[derive(Debug, Default)]
pub struct Admin {
    /// In the order in which they were wanted.
    waiting: Vec<Job>,
    sent: BTreeMap<u64, Job>,
    /// Topics whose creation was confirmed and whose deletion was not asked for.
    there: BTreeMap<String, Uuid>,
    /// Partitions that topics were confirmed to have been given.
    grown: BTreeMap<Uuid, i32>,
    /// Topics whose deletion was confirmed.
    gone: BTreeSet<Uuid>,
    /// Names of which some attempt may still be carried out.
    doubtful: BTreeSet<String>,
}

impl Admin {
    /// Wants a topic.
    pub fn create(&mut self, topic: TopicSetup, history: &mut History) {
        let keys = topic.compaction.as_ref().map(|compaction| compaction.keys);
        history.create(&topic.name, topic.log_append_time, keys);
        self.waiting.push(Job::new(What::Create(topic)));
    }

    /// Wants a topic gone. From here on nothing of it is owed.
    pub fn delete(&mut self, name: &str, history: &mut History) {
        history.delete(name);
        self.waiting.push(Job::new(What::Delete(name.to_owned(), None)));
    }

    /// Wants a topic to have more partitions.
    pub fn grow(&mut self, name: &str, partitions: i32) {
        self.waiting.push(Job::new(What::Grow(name.to_owned(), partitions, None)));
    }

    /// Whether everything asked for has been answered.
    pub fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.sent.is_empty()
    }

    /// Judges what there is at last by what was confirmed; of a topic that is there, its partitions.
    ///
    /// # Errors
    /// If a topic is gone that nobody deleted, there that was deleted, or without partitions that it was given.
    pub fn judge(&self, partitions: impl Fn(Uuid) -> Option<usize>) -> Checked {
        let wrong = |story| Err(Violation::new("topics", story));
        let certain = self.there.iter().filter(|(name, _)| !self.doubtful.contains(*name));
        for (name, id) in certain {
            if partitions(*id).is_none() {
                let story =
                    format!("{name} ({id:?}) was created and is gone, and nobody deleted it");
                return wrong(story);
            }
        }
        for (id, given) in &self.grown {
            if let Some(has) = partitions(*id).filter(|has| (*has as i32) < *given) {
                return wrong(format!("{id:?} was given {given} partitions and has {has}"));
            }
        }
        match self.gone.iter().find(|id| partitions(**id).is_some()) {
            Some(id) => wrong(format!("{id:?} was deleted and is there")),
            None => Ok(()),
        }
    }

    /// Sends what may be sent.
    pub fn act(&mut self, now: Time, session: &mut Session) {
        let mut busy: BTreeSet<String> = self.sent.values().map(|job| job.name().into()).collect();
        let mut later = Vec::new();
        for mut job in std::mem::take(&mut self.waiting) {
            if !busy.insert(job.name().to_owned()) {
                later.push(job);
                continue;
            }
            if job.not_before > now {
                session.wake(job.not_before);
                later.push(job);
                continue;
            }
            job.attempts += 1;
            match &mut job.what {
                What::Create(_) => {}
                What::Delete(name, id) => *id = id.or(self.there.remove(name)),
                What::Grow(name, _, id) => *id = self.there.get(name).copied(),
            }
            let node = session.stream.below(session.nodes as u64) as usize;
            let (version, request) = request(&mut job, session);
            let id = session.send(now, node, version, request);
            self.sent.insert(id, job);
        }
        self.waiting = later;
    }

    /// A request was never answered.
    pub fn on_lost(&mut self, id: u64) {
        if let Some(job) = self.sent.remove(&id) {
            self.try_again(job, 0);
        }
    }

    /// What is tried again comes before all that was wanted of its name later.
    fn try_again(&mut self, job: Job, not_before: Time) {
        if !job.by_id && !matches!(job.what, What::Grow(..)) {
            self.doubtful.insert(job.name().to_owned());
        }
        self.waiting.insert(0, Job { not_before, ..job });
    }

    /// A request was answered.
    pub fn on_reply(
        &mut self,
        now: Time,
        id: u64,
        response: Option<Response>,
        session: &mut Session,
    ) -> Result<(), Violation> {
        let Some(job) = self.sent.remove(&id) else { return Ok(()) };
        let answer = match (&job.what, &response) {
            (What::Create(_), Some(Response::CreateTopics(answer))) => match &answer.topics[..] {
                [topic] => Some((topic.error_code, topic.topic_id)),
                _ => None,
            },
            (What::Delete(..), Some(Response::DeleteTopics(answer))) => match &answer.responses[..]
            {
                [topic] => Some((topic.error_code, topic.topic_id)),
                _ => None,
            },
            (What::Grow(.., id), Some(Response::CreatePartitions(answer))) => {
                match &answer.results[..] {
                    [topic] => Some((topic.error_code, id.unwrap_or(Uuid::ZERO))),
                    _ => None,
                }
            }
            _ => None,
        };
        let wrong = || Violation::new("answer", format!("{job:?} was answered by {response:?}"));
        let (error, id) = answer.ok_or_else(wrong)?;
        let known = job.attempts == 1 && !self.doubtful.contains(job.name());
        match (&job.what, error) {
            (What::Create(topic), ErrorCode::NONE) => {
                self.there.insert(topic.name.clone(), id);
            }
            // Of an attempt before, which was carried out.
            (What::Create(_), ErrorCode::TOPIC_ALREADY_EXISTS) if !known => {}
            (What::Delete(_, id), ErrorCode::NONE) => self.gone.extend(*id),
            // Of a name that is in doubt nobody knows which topic has grown.
            (What::Grow(name, partitions, Some(id)), ErrorCode::NONE)
                if !self.doubtful.contains(name) =>
            {
                self.grown.insert(*id, *partitions);
            }
            (What::Grow(..), ErrorCode::NONE) => {}
            // Of an attempt before, which was carried out.
            (What::Grow(..), ErrorCode::INVALID_PARTITIONS) if !known => {}
            (What::Grow(_, _, id), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
                if !known || id.is_none() => {}
            (
                What::Delete(_, id),
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION | ErrorCode::UNKNOWN_TOPIC_ID,
            ) if !known || id.is_none() => self.gone.extend(*id),
            (
                _,
                ErrorCode::TOPIC_ALREADY_EXISTS
                | ErrorCode::INVALID_PARTITIONS
                | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
                | ErrorCode::UNKNOWN_TOPIC_ID,
            ) => return Err(wrong()),
            _ => {
                let pause = session.backoff();
                self.try_again(job, now + pause);
            }
        }
        Ok(())
    }
}

/// The next attempt: a deletion names the topic in one form or the other.
fn request(job: &mut Job, session: &mut Session) -> (i16, Request) {
    let (name, known) = match &job.what {
        What::Create(topic) => return (CREATE_VERSION, create(topic)),
        What::Delete(name, id) => (name.clone(), *id),
        What::Grow(name, count, _) => {
            let topic =
                CreatePartitionsTopic { name: name.clone(), count: *count, assignments: None };
            let (topics, timeout_ms) = (vec![topic], 1_000);
            let request = CreatePartitionsRequest { topics, timeout_ms, validate_only: false };
            return (GROW_VERSION, request.into());
        }
    };
    let form = session.stream.below(4);
    let mut request = DeleteTopicsRequest { timeout_ms: 1_000, ..DeleteTopicsRequest::default() };
    job.by_id = known.is_some() && form < 2;
    let version = match (known, form) {
        (Some(topic_id), 0 | 1) => {
            request.topics.push(DeleteTopicState { name: None, topic_id });
            DELETE_BY_ID_VERSION
        }
        (_, 2) => {
            request.topics.push(DeleteTopicState { name: Some(name), topic_id: Uuid::ZERO });
            DELETE_BY_ID_VERSION
        }
        _ => {
            request.topic_names.push(name);
            DELETE_BY_NAME_VERSION
        }
    };
    (version, request.into())
}

fn create(topic: &TopicSetup) -> Request {
    let mut configs = vec![("min.insync.replicas", topic.min_insync.to_string())];
    configs.extend(topic.segment_bytes.map(|bytes| ("segment.bytes", bytes.to_string())));
    configs.extend(topic.retention_bytes.map(|bytes| ("retention.bytes", bytes.to_string())));
    configs.extend(topic.retention_ms.map(|ms| ("retention.ms", ms.to_string())));
    let stamped = topic.log_append_time.then(|| "LogAppendTime".to_owned());
    configs.extend(stamped.map(|kind| ("message.timestamp.type", kind)));
    if let Some(compaction) = &topic.compaction {
        let policy = if compaction.deletes { "compact,delete" } else { "compact" };
        let ratio = format!("0.{:02}", compaction.dirty_percent);
        configs.extend([
            ("cleanup.policy", policy.to_owned()),
            ("delete.retention.ms", compaction.delete_retention_ms.to_string()),
            ("min.compaction.lag.ms", compaction.min_lag_ms.to_string()),
            ("min.cleanable.dirty.ratio", ratio),
        ]);
        let most = compaction.max_lag_ms.map(|ms| ms.to_string());
        configs.extend(most.map(|ms| ("max.compaction.lag.ms", ms)));
    }
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

#[cfg(test)]
mod tests {
    use milena_wire::messages::create_partitions::{
        CreatePartitionsResponse, CreatePartitionsTopicResult,
    };
    use milena_wire::messages::create_topics::{CreatableTopicResult, CreateTopicsResponse};
    use milena_wire::messages::delete_topics::{DeletableTopicResult, DeleteTopicsResponse};

    use super::*;
    use crate::rng::{Concern, Stream};

    const ID: Uuid = Uuid([1; 16]);

    fn topic() -> TopicSetup {
        TopicSetup {
            name: "t".into(),
            partitions: 1,
            replication: 1,
            min_insync: 1,
            segment_bytes: None,
            retention_bytes: None,
            retention_ms: None,
            log_append_time: false,
            compaction: None,
        }
    }

    /// An administrator that made a topic, had it grow to three partitions and deleted it, where each attempt got these answers;
    /// none is an answer that was lost.
    fn after(
        made: &[Option<ErrorCode>],
        grown: &[Option<ErrorCode>],
        gone: &[Option<ErrorCode>],
    ) -> Result<Admin, &'static str> {
        let (mut admin, mut history) = (Admin::default(), History::default());
        let mut session = Session::new(Stream::new(1, Concern::Client(0)), 1);
        for (step, answers) in [made, grown, gone].into_iter().enumerate() {
            match step {
                _ if answers.is_empty() => continue,
                0 => admin.create(topic(), &mut history),
                1 => admin.grow("t", 3),
                _ => admin.delete("t", &mut history),
            }
            for said in answers {
                let now = 1_000_000_000_000 * (session.next_id + 1);
                admin.act(now, &mut session);
                let (id, job) = admin.sent.first_key_value().expect("one is on its way");
                let Some(error_code) = *said else {
                    admin.on_lost(*id);
                    continue;
                };
                let response = answer(&job.what, error_code);
                let replied = admin.on_reply(now, *id, Some(response), &mut session);
                replied.map_err(|violation| violation.property)?;
            }
        }
        assert!(admin.is_done());
        Ok(admin)
    }

    fn answer(what: &What, error_code: ErrorCode) -> Response {
        match what {
            What::Create(_) => {
                let topic = CreatableTopicResult { error_code, topic_id: ID, ..Default::default() };
                CreateTopicsResponse { topics: vec![topic], ..Default::default() }.into()
            }
            What::Delete(..) => {
                let topic = DeletableTopicResult { error_code, topic_id: ID, ..Default::default() };
                DeleteTopicsResponse { responses: vec![topic], ..Default::default() }.into()
            }
            What::Grow(..) => {
                let topic = CreatePartitionsTopicResult { error_code, ..Default::default() };
                CreatePartitionsResponse { results: vec![topic], ..Default::default() }.into()
            }
        }
    }

    const DONE: Option<ErrorCode> = Some(ErrorCode::NONE);
    const EXISTS: Option<ErrorCode> = Some(ErrorCode::TOPIC_ALREADY_EXISTS);
    const UNKNOWN: Option<ErrorCode> = Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);

    #[test]
    fn what_was_confirmed_holds() {
        let judged = |made: &[_], gone: &[_], is_there: bool| {
            let partitions = |_| is_there.then_some(1);
            after(made, &[], gone)?.judge(partitions).map_err(|violation| violation.property)
        };
        assert_eq!(judged(&[DONE], &[], true), Ok(()));
        assert_eq!(judged(&[DONE], &[], false), Err("topics"));
        assert_eq!(judged(&[DONE], &[DONE], false), Ok(()));
        assert_eq!(judged(&[DONE], &[DONE], true), Err("topics"));
        assert_eq!(judged(&[None, EXISTS], &[], false), Ok(()), "nobody knows which one there was");
    }

    #[test]
    fn partitions_that_were_given_stay() {
        let judged = |made: &[_], grown: &[_], partitions: Option<usize>| {
            let admin = after(made, grown, &[])?;
            admin.judge(|_| partitions).map_err(|violation| violation.property)
        };
        assert_eq!(judged(&[DONE], &[DONE], Some(3)), Ok(()));
        assert_eq!(judged(&[DONE], &[DONE], Some(2)), Err("topics"));
        assert_eq!(judged(&[DONE], &[None, DONE], Some(2)), Err("topics"));
        assert_eq!(judged(&[None, EXISTS], &[DONE], Some(1)), Ok(()), "nobody knows which");
        let (no_more, busy) =
            (Some(ErrorCode::INVALID_PARTITIONS), Some(ErrorCode::REQUEST_TIMED_OUT));
        assert_eq!(judged(&[DONE], &[no_more], Some(1)), Err("answer"), "it has one");
        assert_eq!(judged(&[DONE], &[UNKNOWN], Some(1)), Err("answer"), "it is there");
        assert_eq!(judged(&[DONE], &[busy, no_more], Some(3)), Ok(()), "the first was carried out");
    }

    #[test]
    fn an_answer_at_the_first_attempt_is_what_there_is() {
        assert_eq!(after(&[EXISTS], &[], &[]).err(), Some("answer"), "nobody made it");
        assert_eq!(after(&[DONE], &[], &[UNKNOWN]).err(), Some("answer"), "nobody deleted it");
        assert_eq!(after(&[None, EXISTS], &[], &[UNKNOWN]).err(), None, "the first may come late");
        assert_eq!(after(&[DONE], &[], &[None, UNKNOWN]).err(), None, "the first was carried out");
        let busy = Some(ErrorCode::REQUEST_TIMED_OUT);
        assert_eq!(after(&[busy, EXISTS], &[], &[]).err(), None, "it may have been made");
        assert_eq!(after(&[DONE], &[], &[busy, UNKNOWN]).err(), None, "it may have been deleted");
    }
}
