//! The parts of requests that concern this shard's partitions, whoever's connections they are of: served at once, or kept until
//! the partitions have news for them.
//!
//! Each part gets one answer, which whoever called takes out before anything else happens ([`Parts::pop_answer`]).

mod describe_producers;
pub(super) mod fetch;
pub(super) mod list_offsets;
pub(super) mod produce;

use std::collections::{BTreeMap, VecDeque};

use milena_wire::messages::ProduceRequest;
use milena_wire::{Request, Response};

use crate::local::Caller;
use crate::partitions::News;
use crate::requests::Partitions;
use crate::requests::session::Plan;
use crate::timers::Timers;
use crate::{Instant, Outputs, Timer};
use produce::Stalled;

/// Who asked for a part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Origin {
    /// The shard of the connection.
    pub shard: u16,
    /// Whose request it is there.
    pub caller: Caller,
}

/// A part of a request that is not answered yet.
#[derive(Debug)]
enum Part {
    /// When a produce waits for room.
    Stalled { request: ProduceRequest, at: Instant },
    /// When a produce waits to be confirmed.
    Produce(produce::Waiting),
    /// When a fetch reads or waits.
    Fetch(fetch::Waiting),
    /// When offsets are looked up or waited for.
    ListOffsets(list_offsets::Waiting),
}

/// What a part has come to; none where all of a produce with acks=0 was appended, and nobody waits.
#[derive(Debug)]
pub(super) struct Answer {
    pub origin: Origin,
    /// What is to be done with it, where it is the whole answer to a fetch.
    pub plan: Plan,
    pub response: Option<Response>,
}

/// All parts that are not answered yet.
#[derive(Default, Debug)]
pub(super) struct Parts {
    waiting: BTreeMap<Origin, Part>,
    stalled: Stalled,
    timers: Timers<Origin>,
    answers: VecDeque<Answer>,
}

impl Parts {
    /// Serves the part of a request that concerns this shard's partitions. A fetch is answered with its plan.
    pub fn serve(
        &mut self,
        partitions: &mut Partitions,
        origin: Origin,
        plan: Plan,
        request: Request,
        out: &mut Outputs,
    ) {
        match request {
            Request::Produce(request) => self.serve_produce(partitions, origin, request, out),
            Request::Fetch(request) => self.serve_fetch(partitions, origin, plan, request, out),
            Request::ListOffsets(request) => {
                self.serve_list_offsets(partitions, origin, request, out)
            }
            Request::OffsetForLeaderEpoch(request) => {
                self.serve_leader_epochs(partitions, origin, request)
            }
            Request::DescribeProducers(request) => {
                self.serve_describe_producers(partitions, origin, request)
            }
            other => unreachable!("{:?} has no partitions", other.api_key()),
        }
    }

    /// The next answer.
    pub fn pop_answer(&mut self) -> Option<Answer> {
        self.answers.pop_front()
    }

    fn answer(&mut self, origin: Origin, response: Option<Response>) {
        self.answers.push_back(Answer { origin, plan: Plan::Sessionless, response });
    }

    /// How many are not answered yet.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Drops all parts of a connection, of which this is the first that there could be.
    pub fn abandon_all(&mut self, partitions: &mut Partitions, first: Origin) {
        let later = self.waiting.range(first..).map(|(origin, _)| *origin);
        let of = |origin: &Origin| (origin.shard, origin.caller.client);
        let all: Vec<Origin> = later.take_while(|origin| of(origin) == of(&first)).collect();
        all.into_iter().for_each(|origin| self.abandon(partitions, origin));
    }

    /// Drops a part that nobody waits for any more.
    pub fn abandon(&mut self, partitions: &mut Partitions, origin: Origin) {
        self.timers.remove(origin);
        match self.waiting.remove(&origin) {
            Some(Part::Stalled { request, .. }) => self.forget_stalled(origin, &request),
            Some(Part::Produce(waiting)) => produce::drop_produce(partitions, origin, &waiting),
            Some(Part::Fetch(waiting)) => self.drop_fetch(partitions, origin, &waiting),
            Some(Part::ListOffsets(waiting)) => self.drop_list(partitions, origin, &waiting),
            None => {}
        }
    }

    /// The first deadline, and why.
    pub fn next_due(&self) -> Option<(Instant, Timer)> {
        self.timers.next()
    }

    /// Looks at the first part whose deadline has come.
    pub fn on_due(&mut self, partitions: &mut Partitions, out: &mut Outputs) {
        let Some(origin) = self.timers.pop(partitions.now().mono) else { return };
        match self.waiting.get(&origin) {
            Some(Part::Stalled { .. }) => {
                if let Some(Part::Stalled { request, .. }) = self.waiting.remove(&origin) {
                    self.give_up_stalled(origin, &request);
                }
            }
            Some(Part::Produce(_)) => self.time_out_produce(partitions, origin, out),
            Some(Part::Fetch(_)) => self.wake_fetch(partitions, origin, out),
            Some(Part::ListOffsets(_)) => self.wake_list(partitions, origin, out),
            None => {}
        }
    }

    /// Takes what a part has waited for.
    pub fn on_news(&mut self, partitions: &mut Partitions, news: News<Origin>, out: &mut Outputs) {
        match news {
            News::Safe { waiter, log, outcome } => {
                self.decide(partitions, log, waiter, outcome, out)
            }
            News::Moved { waiter: origin } => match self.waiting.get(&origin) {
                Some(Part::Fetch(_)) => self.wake_fetch(partitions, origin, out),
                Some(Part::ListOffsets(_)) => self.wake_list(partitions, origin, out),
                Some(Part::Stalled { .. } | Part::Produce(_)) | None => {}
            },
            News::Read { waiter, place, result } => {
                self.on_fetch_read(partitions, waiter, place, result, out)
            }
            News::Time { waiter, place, result } => {
                self.on_time(partitions, waiter, place, result, out)
            }
        }
    }

    /// Asserts what always holds between steps.
    pub fn check_invariants(&self, partitions: &Partitions) {
        assert!(
            !self.has_stalled() || partitions.must_wait(),
            "what waits for room waits no longer than that"
        );
        assert!(self.answers.is_empty(), "a step gives its answers");
        let mut watchers = partitions.watchers();
        assert!(watchers.all(|origin| self.waiting.contains_key(&origin)));
    }
}
