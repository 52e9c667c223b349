//! L24: a leader that nothing hinders takes what its partition may take.
//!
//! A refusal in time is an answer (L22), and a client that tries again and again is told what it may be told, each time. So the
//! refusals are counted, while the others go on or all are well: whoever leads with enough members in its set must not refuse
//! for long what a client would try again.

use std::collections::BTreeMap;

use milena_core::{LogId, NodeId, TopicId};
use milena_wire::{ErrorCode, Response, Uuid};

use super::{Checked, Checks, Violation};
use crate::queue::{MS, Time};

/// Refusals of a partition that follow each other, by the broker that leads it.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusals(BTreeMap<(usize, LogId, Asked), Streak>);

/// What was asked. That one of them is done says nothing of the other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Asked {
    Produce,
    Fetch,
}

#[derive(Clone, Copy, Debug)]
struct Streak {
    since: Time,
    count: u32,
}

/// A leader may refuse for so long, while it learns that it leads, and so often.
const REFUSES_MAX: Time = 500 * MS;
const REFUSALS_MAX: u32 = 10;

/// What clients take for a state that ends.
const RETRIED: [ErrorCode; 8] = [
    ErrorCode::NOT_LEADER_OR_FOLLOWER,
    ErrorCode::LEADER_NOT_AVAILABLE,
    ErrorCode::NOT_ENOUGH_REPLICAS,
    ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    ErrorCode::REQUEST_TIMED_OUT,
    ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
    ErrorCode::UNKNOWN_TOPIC_ID,
    ErrorCode::KAFKA_STORAGE_ERROR,
];

impl Checks {
    /// L24, at an answer that a node gives.
    ///
    /// # Errors
    /// The property, where it has refused for too long.
    pub fn must_serve(&mut self, now: Time, node: usize, response: Option<&Response>) -> Checked {
        if !self.others_must_go_on() {
            self.refusals.0.clear();
            return Ok(());
        }
        match response {
            Some(Response::Produce(answer)) => {
                for topic in &answer.responses {
                    for part in &topic.partition_responses {
                        let log = self.log_of(&topic.name, topic.topic_id, part.index);
                        self.must_take(now, node, log, (Asked::Produce, part.error_code))?;
                    }
                }
            }
            Some(Response::Fetch(answer)) => {
                for topic in &answer.responses {
                    for part in &topic.partitions {
                        let log = self.log_of(&topic.topic, topic.topic_id, part.partition_index);
                        self.must_take(now, node, log, (Asked::Fetch, part.error_code))?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A produce with acks=all is done. One that asks for less says nothing of it.
    pub(super) fn has_taken(&mut self, node: usize, log: LogId) {
        self.refusals.0.remove(&(node, log, Asked::Produce));
    }

    /// The partition that exists now under an id or, where none is given, under a name.
    fn log_of(&self, name: &str, id: Uuid, partition: i32) -> Option<LogId> {
        let image = self.image.as_ref()?;
        let topic = if id == Uuid::ZERO { image.topic(name)?.id } else { TopicId(id.0) };
        Some(LogId { topic, partition })
    }

    fn must_take(
        &mut self,
        now: Time,
        node: usize,
        log: Option<LogId>,
        (asked, error): (Asked, ErrorCode),
    ) -> Checked {
        let Some((log, image)) = log.zip(self.image.as_ref()) else { return Ok(()) };
        let Some((_, partition)) = image.partition(log) else { return Ok(()) };
        let leads = partition.leader == Some(NodeId(node as i32 + 1));
        let may_take = leads
            && partition.isr.len() >= usize::from(partition.min_isr)
            && partition.isr.iter().all(|member| self.reaches(node, (member.0 - 1) as usize));
        let key = (node, log, asked);
        if !may_take || (asked, error) == (Asked::Fetch, ErrorCode::NONE) {
            self.refusals.0.remove(&key);
        }
        if !may_take || !RETRIED.contains(&error) {
            return Ok(());
        }
        let streak = self.refusals.0.entry(key).or_insert(Streak { since: now, count: 0 });
        streak.count += 1;
        if now - streak.since > REFUSES_MAX && streak.count > REFUSALS_MAX {
            let (ms, count) = ((now - streak.since) / MS, streak.count);
            let story = format!(
                "node {} leads {log:?} and has refused {count} times in {ms} ms, now with {error:?}",
                node + 1
            );
            return Err(Violation::new("L24", story));
        }
        Ok(())
    }
}
