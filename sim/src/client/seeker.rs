//! A client that looks things up: the first record from a time on, the one with the largest timestamp, the end of an epoch.
//!
//! After each lookup it asks the same leader, in the same epoch, where the log begins. A log's start only rises there,
//! so that all from that offset on was still there when the lookup was made, and the answer can be judged exactly.

use std::collections::BTreeMap;

use milena_core::{Epoch, Offset};
use milena_wire::messages::list_offsets::{
    EARLIEST_TIMESTAMP, ListOffsetsPartition, ListOffsetsTopic, MAX_TIMESTAMP,
};
use milena_wire::messages::offset_for_leader_epoch::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use milena_wire::messages::{ListOffsetsRequest, OffsetForLeaderEpochRequest};
use milena_wire::{Request, Response};

use super::{Pace, Session};
use crate::check::{Checked, Violation};
use crate::history::{History, Lookup};
use crate::queue::{Time, wall};
use crate::schedule::SeekerSetup;

/// First version of ListOffsets with the leader's epoch, and with the largest timestamp.
const EPOCH_VERSION: i16 = 4;
const LARGEST_VERSION: i16 = 7;
/// How far back it looks, milliseconds.
const PAST_MS: u64 = 10_000;

/// A lookup of one partition, asked of the leader of an epoch.
#[derive(Clone, Debug)]
struct Asked {
    node: usize,
    topic: String,
    partition: i32,
    place: usize,
    epoch: Epoch,
    /// The high watermark that had been told by then: all below it is there, as far as it was not trimmed.
    floor: Offset,
    lookup: Lookup,
}

#[derive(Clone, Debug)]
enum Sent {
    Lookup(Asked),
    /// After a lookup that found a time or an epoch, and an offset.
    Start(Asked, (i64, Offset)),
}

/// A client that looks things up.
#[derive(Debug)]
pub struct Seeker {
    pub(super) setup: SeekerSetup,
    sent: BTreeMap<u64, Sent>,
    pace: Pace,
}

impl Seeker {
    /// One that has not begun.
    pub fn new(setup: SeekerSetup) -> Seeker {
        Seeker { pace: Pace::new(setup.pause_us), setup, sent: BTreeMap::new() }
    }

    /// Asks for the next thing.
    pub fn act(&mut self, now: Time, session: &mut Session, history: &mut History) {
        if session.stopping {
            return;
        }
        if self.pace.is_due(now, session) {
            match self.draw(now, session, history) {
                Some(asked) => self.ask(now, asked, session),
                None => session.want_metadata(),
            }
        }
        session.wake(self.pace.next(now));
    }

    fn draw(&self, now: Time, session: &mut Session, history: &mut History) -> Option<Asked> {
        let led: Vec<(&String, i32)> = session
            .topics
            .iter()
            .flat_map(|(name, view)| (0..view.partitions.len() as i32).map(move |p| (name, p)))
            .collect();
        let index = session.stream.below(led.len().max(1) as u64) as usize;
        let (topic, partition) = led.get(index).map(|(name, p)| ((*name).clone(), *p))?;
        let (node, epoch) = session.leader(&topic, partition)?;
        let stream = &mut session.stream;
        let lookup = match stream.below(4) {
            0 => Lookup::EpochEnd(stream.between(0, epoch.max(0) as u64) as Epoch),
            1 if self.setup.dialect.list_offsets >= LARGEST_VERSION => Lookup::Largest,
            _ => Lookup::From(match stream.below(8) {
                0 => *stream.pick(&[0, 6, i64::MAX]),
                _ => wall(now) - stream.below(PAST_MS) as i64 + 10,
            }),
        };
        let place = history.partition(&topic, session.topics[&topic].id, partition);
        let floor = history.told(place, epoch);
        Some(Asked { node, topic, partition, place, epoch, floor, lookup })
    }

    fn ask(&mut self, now: Time, asked: Asked, session: &mut Session) {
        let dialect = &self.setup.dialect;
        let (version, request) = match asked.lookup {
            Lookup::From(time) => (dialect.list_offsets, list_offsets(&asked, time)),
            Lookup::Largest => (dialect.list_offsets, list_offsets(&asked, MAX_TIMESTAMP)),
            Lookup::EpochEnd(leader_epoch) => {
                let partition = OffsetForLeaderPartition {
                    partition: asked.partition,
                    current_leader_epoch: asked.epoch,
                    leader_epoch,
                };
                let topic = OffsetForLeaderTopic {
                    topic: asked.topic.clone(),
                    partitions: vec![partition],
                };
                let request = OffsetForLeaderEpochRequest { replica_id: -1, topics: vec![topic] };
                (dialect.epoch_ends, request.into())
            }
        };
        let id = session.send(now, asked.node, version, request);
        self.sent.insert(id, Sent::Lookup(asked));
    }

    fn ask_start(&mut self, now: Time, asked: Asked, answer: (i64, Offset), session: &mut Session) {
        let request = list_offsets(&asked, EARLIEST_TIMESTAMP);
        let id = session.send(now, asked.node, self.setup.dialect.list_offsets, request);
        self.sent.insert(id, Sent::Start(asked, answer));
    }

    /// A request was never answered.
    pub fn on_lost(&mut self, id: u64) {
        self.sent.remove(&id);
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
        let Some(sent) = self.sent.remove(&id) else { return Ok(()) };
        let wrong = Violation::new("answer", format!("{sent:?} was answered by {response:?}"));
        match (sent, response) {
            (Sent::Lookup(asked), Some(Response::OffsetForLeaderEpoch(answer))) => {
                if !matches!(asked.lookup, Lookup::EpochEnd(_)) {
                    return Err(wrong);
                }
                let topic = answer.topics.first();
                let Some(found) = topic.and_then(|t| t.partitions.first()) else {
                    return Err(wrong);
                };
                if found.error_code.is_some() {
                    session.want_metadata();
                } else {
                    let answer = (i64::from(found.leader_epoch), found.end_offset);
                    self.ask_start(now, asked, answer, session);
                }
            }
            (sent, Some(Response::ListOffsets(answer))) => {
                let topic = answer.topics.first();
                let Some(found) = topic.and_then(|t| t.partitions.first()) else {
                    return Err(wrong);
                };
                match sent {
                    Sent::Lookup(Asked { lookup: Lookup::EpochEnd(_), .. }) => return Err(wrong),
                    _ if found.error_code.is_some() => session.want_metadata(),
                    // Where no epoch is named, nobody knows who answers.
                    _ if self.setup.dialect.list_offsets < EPOCH_VERSION => {}
                    Sent::Lookup(asked) => {
                        let answer = (found.timestamp, found.offset);
                        self.ask_start(now, asked, answer, session);
                    }
                    Sent::Start(asked, answer) if !history.is_contested(&asked.topic) => {
                        judge(&asked, answer, found.offset, history)?;
                    }
                    Sent::Start(..) => {}
                }
            }
            _ => return Err(wrong),
        }
        Ok(())
    }
}

/// Judges an answer, now that it is known where the log began at the latest.
fn judge(asked: &Asked, answer: (i64, Offset), start: Offset, history: &History) -> Checked {
    match asked.lookup {
        Lookup::EpochEnd(epoch) => {
            let found = (answer.0 as Epoch, answer.1);
            let there = start..asked.floor;
            history.judge_epoch_end(asked.place, epoch, asked.epoch, there, found)
        }
        Lookup::From(_) | Lookup::Largest => {
            history.judge_lookup(asked.place, asked.lookup, start..asked.floor, answer)
        }
    }
}

fn list_offsets(asked: &Asked, timestamp: i64) -> Request {
    let partition = ListOffsetsPartition {
        partition_index: asked.partition,
        current_leader_epoch: asked.epoch,
        timestamp,
    };
    let topic = ListOffsetsTopic { name: asked.topic.clone(), partitions: vec![partition] };
    ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..ListOffsetsRequest::default() }
        .into()
}
