//! What one Kafka connection has asked and not been given: answers go out in the order of their requests, while too much
//! waits no more is read, and a client that takes nothing for too long, or leaves a request half sent, loses its connection.
//!
//! Every driver keeps one for each connection. It decides; what a request or an answer is, is the driver's. The bytes of an
//! answer count from the moment that a machine gives it until the client's socket has taken it, those of a request until it is
//! answered, and what a fetch may bring while it waits.
//!
//! What all clients of a shard leave untaken is bounded too. Half of that room is for what fetches bring: each may bring half of
//! what other answers leave of it when it is answered, so that many at once bring less each and a fetch that waits takes nothing
//! from anyone. The other half is for what has no such bound, a single batch and all other answers. Where an answer finds too
//! much nevertheless, those whose untaken answers have cost the most lose their connections at once: bytes times how long they
//! have waited, so that it strikes who takes nothing or little for long, and not who is about to take much. Nobody waits for it,
//! so nothing can wait for ever.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use milena_wire::{Request, Response};

use crate::Instant;
use crate::config::PipelineConfig;
use crate::replica::batches;

/// Fetches of one connection in flight: the one that waits and the next. Answers go out in order, so more of them would only
/// hold memory, and how much is known only then: each has at least one batch.
const FETCHES_MAX: usize = 2;
/// A request that has begun grows when this much more of it has come.
const PIECE: usize = 64 << 10;

/// The requests of a connection in their order: with each what is kept until it is answered, then its answer.
#[derive(Debug)]
pub struct Pipeline<R, A> {
    /// Number of the request at the front.
    first: u64,
    slots: VecDeque<Slot<R, A>>,
    /// The request after them, which is not whole.
    begun: Option<Begun>,
    /// Since when it waits for memory.
    waits_since: Option<Instant>,
    unanswered: Unanswered,
    share: Share,
    /// Answers that are being written.
    writing: Vec<Held>,
    /// When the client last took bytes, or was first offered some, while there are any that it is to take.
    offered_at: Option<Instant>,
    /// When the last bytes came, or the last answer had been taken.
    busy_at: Instant,
    /// Why it is to be closed once what was asked is answered, and since when.
    closing: Option<(&'static str, Instant)>,
}

/// A request that is not whole.
#[derive(Clone, Copy, Debug)]
struct Begun {
    /// When its first bytes came, or memory for more of them.
    at: Instant,
    /// When it last grew, and to what size.
    grown_at: Instant,
    bytes: usize,
}

/// What the requests without an answer come to.
#[derive(Default, Debug)]
struct Unanswered {
    request_bytes: usize,
    fetches: usize,
    /// The most that the answers of fetches may have.
    promised_bytes: usize,
}

/// The most that the answer of a request may bring, where it is a fetch: what it asks for, and no more than may wait unsent.
pub fn fetched_by(request: &Request, config: &PipelineConfig) -> Option<usize> {
    let Request::Fetch(fetch) = request else { return None };
    let asked = usize::try_from(fetch.max_bytes).unwrap_or(0);
    Some(asked.min(config.unsent_bytes_max))
}

/// What the pipelines of one shard come to together.
#[derive(Clone, Default, Debug)]
pub struct Totals {
    unsent_bytes: Rc<Cell<usize>>,
}

/// The share of one pipeline in them, which goes with it.
#[derive(Default, Debug)]
struct Share {
    totals: Totals,
    /// Bytes of answers that the client has not taken, those that are being written among them.
    unsent_bytes: usize,
}

/// An answer that the client has not taken, and when a machine gave it.
#[derive(Clone, Copy, Debug)]
struct Held {
    bytes: usize,
    since: Instant,
}

/// What a client leaves untaken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holding {
    /// All of it.
    pub bytes: usize,
    /// The oldest of it.
    pub since: Instant,
    /// The sum over its answers of their bytes, times how long they have waited.
    pub cost: u128,
}

impl Totals {
    /// Whether there is so much that some of it is to be given up before the next answer is kept.
    pub fn is_too_much(&self, config: &PipelineConfig) -> bool {
        self.unsent_bytes.get() > config.shard_unsent_bytes_max
    }

    /// Whose connections are to be closed at once, of all those of the shard that hold something.
    pub fn give_up<C>(
        &self,
        config: &PipelineConfig,
        held: impl IntoIterator<Item = (C, Holding)>,
    ) -> Vec<(C, Holding)> {
        let mut excess = self.unsent_bytes.get().saturating_sub(config.shard_unsent_bytes_max);
        let mut held: Vec<(C, Holding)> = held.into_iter().collect();
        held.sort_by_key(|(_, holding)| Reverse(holding.cost));
        let is_one_too_many = |(_, holding): &(C, Holding)| {
            let is_too_much = excess > 0;
            excess = excess.saturating_sub(holding.bytes);
            is_too_much
        };
        held.into_iter().take_while(is_one_too_many).collect()
    }

    /// Leaves of a fetch's answer as much as there is room for: whole batches from the front, one at least, however large. Its
    /// client asks for the rest again.
    pub fn fit(&self, response: &mut Response, config: &PipelineConfig) {
        let Response::Fetch(fetch) = response else { return };
        let half = config.shard_unsent_bytes_max / 2;
        let mut left = half.saturating_sub(self.unsent_bytes.get()) / 2;
        let mut any = false;
        for partition in fetch.responses.iter_mut().flat_map(|topic| &mut topic.partitions) {
            let Some(records) = &mut partition.records else { continue };
            let found = records.len();
            if found > left {
                records.0 = batches::front(&records.0, left, !any);
                if records.len() < found / 2 {
                    // What is dropped would stay in memory with what is kept, where they are pieces of one.
                    records.0.iter_mut().for_each(|piece| *piece = Bytes::copy_from_slice(piece));
                }
            }
            any |= !records.is_empty();
            left = left.saturating_sub(records.len());
        }
    }

    /// Bytes of answers that clients have not taken.
    pub fn unsent_bytes(&self) -> usize {
        self.unsent_bytes.get()
    }
}

impl Share {
    fn add_unsent(&mut self, bytes: usize) {
        self.unsent_bytes += bytes;
        self.totals.unsent_bytes.update(|all| all + bytes);
    }

    fn remove_unsent(&mut self, bytes: usize) {
        self.unsent_bytes -= bytes;
        self.totals.unsent_bytes.update(|all| all - bytes);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.remove_unsent(self.unsent_bytes);
    }
}

#[derive(Debug)]
enum Slot<R, A> {
    Awaited {
        request: R,
        bytes: usize,
        /// The most that its answer may have, where it is a fetch.
        fetch: Option<usize>,
    },
    Answered {
        answer: A,
        held: Held,
    },
    /// The protocol has no answer.
    Silent,
}

impl<R, A> Pipeline<R, A> {
    /// Of a connection that begins now, one of those of a shard.
    pub fn new(now: Instant, totals: Totals) -> Pipeline<R, A> {
        Pipeline {
            first: 0,
            slots: VecDeque::new(),
            begun: None,
            waits_since: None,
            unanswered: Unanswered::default(),
            share: Share { totals, ..Share::default() },
            writing: Vec::new(),
            offered_at: None,
            busy_at: now,
            closing: None,
        }
    }

    /// Whether more is to be read for now.
    pub fn may_read(&self, config: &PipelineConfig) -> bool {
        self.closing.is_none()
            && self.slots.len() < config.in_flight_max
            && self.unanswered.request_bytes <= config.in_flight_bytes_max
            && self.unanswered.fetches < FETCHES_MAX
            && self.share.unsent_bytes + self.unanswered.promised_bytes <= config.unsent_bytes_max
    }

    /// Bytes of a request have come.
    pub fn heard(&mut self, now: Instant) {
        self.busy_at = now;
    }

    /// So much of a request is there, now, and it is not whole.
    pub fn grow(&mut self, bytes: usize, now: Instant) {
        if bytes == 0 {
            return;
        }
        let begun = self.begun.get_or_insert(Begun { at: now, grown_at: now, bytes });
        if bytes >= begun.bytes + PIECE {
            (begun.grown_at, begun.bytes) = (now, bytes);
        }
    }

    /// There is no memory for more of it.
    pub fn wait(&mut self, now: Instant) {
        self.waits_since = Some(now);
    }

    /// There is some. The client is not to blame for the time that this took.
    pub fn go_on(&mut self, now: Instant) {
        self.waits_since = None;
        if let Some(begun) = &mut self.begun {
            (begun.at, begun.grown_at) = (now, now);
        }
    }

    /// Since when a request waits for memory, if one does.
    pub fn waits_since(&self) -> Option<Instant> {
        self.waits_since
    }

    /// The number of the next request.
    pub fn next_id(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// A request has come that a machine is to answer. `fetch`: what [`fetched_by`] says of it.
    pub fn ask(&mut self, request: R, bytes: usize, fetch: Option<usize>) {
        self.begun = None;
        self.slots.push_back(Slot::Awaited { request, bytes, fetch });
        self.unanswered.request_bytes += bytes;
        self.unanswered.fetches += usize::from(fetch.is_some());
        self.unanswered.promised_bytes += fetch.unwrap_or(0);
    }

    /// One has come whose answer is known without any.
    pub fn ask_answered(&mut self, answer: A, bytes: usize, now: Instant) {
        self.begun = None;
        self.slots.push_back(Slot::Answered { answer, held: Held { bytes, since: now } });
        self.share.add_unsent(bytes);
    }

    /// A request is answered: what was kept with it becomes its answer and that one's size, or none where the protocol has none.
    /// One that is not awaited is left alone. Says whether there is something to send now.
    pub fn answer(
        &mut self,
        id: u64,
        now: Instant,
        make: impl FnOnce(R) -> Option<(A, usize)>,
    ) -> bool {
        let index = id.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let Some(slot) = index.and_then(|index| self.slots.get_mut(index)) else { return false };
        let (request, bytes, fetch) = match std::mem::replace(slot, Slot::Silent) {
            Slot::Awaited { request, bytes, fetch } => (request, bytes, fetch),
            other => {
                *slot = other;
                return false;
            }
        };
        self.unanswered.forget(bytes, fetch);
        if let Some((answer, bytes)) = make(request) {
            *slot = Slot::Answered { answer, held: Held { bytes, since: now } };
            self.share.add_unsent(bytes);
        }
        index == Some(0)
    }

    /// The next answer to send, if those before it are sent.
    pub fn next_answer(&mut self) -> Option<A> {
        loop {
            if matches!(self.slots.front()?, Slot::Awaited { .. }) {
                return None;
            }
            self.first += 1;
            if let Some(Slot::Answered { answer, held }) = self.slots.pop_front() {
                self.writing.push(held);
                return Some(answer);
            }
        }
    }

    /// The client is offered what it has not taken yet, and may have taken some of it just now.
    pub fn offer(&mut self, now: Instant) {
        self.offered_at = Some(now);
    }

    /// The client has taken every answer that was to be sent.
    pub fn taken(&mut self, now: Instant) {
        self.share.remove_unsent(self.writing.drain(..).map(|held| held.bytes).sum());
        self.offered_at = None;
        self.busy_at = now;
        // Who takes what is left for it gets the time for the rest.
        self.closing = self.closing.map(|(why, _)| (why, now));
    }

    /// What its client leaves untaken, if it leaves anything.
    pub fn holding(&self, now: Instant) -> Option<Holding> {
        let answered = self.slots.iter().filter_map(|slot| match slot {
            Slot::Answered { held, .. } => Some(held),
            _ => None,
        });
        let mut all = Holding { bytes: 0, since: now, cost: 0 };
        for held in self.writing.iter().chain(answered) {
            all.bytes += held.bytes;
            all.since = all.since.min(held.since);
            all.cost += held.bytes as u128 * u128::from(now.0.saturating_sub(held.since.0));
        }
        (all.bytes > 0).then_some(all)
    }

    /// The connection is gone. Nobody takes what was answered, so nothing of it is kept, and nothing counts for the shard.
    pub fn leave(&mut self) {
        for slot in &mut self.slots {
            if matches!(slot, Slot::Answered { .. }) {
                *slot = Slot::Silent;
            }
        }
        self.writing.clear();
        self.share = Share::default();
    }

    /// No more is read, nor of what has begun; once what was asked is answered, it is over.
    pub fn close(&mut self, why: &'static str, now: Instant) {
        (self.begun, self.waits_since) = (None, None);
        let since = self.closing.map_or(now, |(_, since)| since);
        self.closing = Some((why, since));
    }

    /// The same; this request and those after it get no answer.
    pub fn close_at(&mut self, id: u64, why: &'static str, now: Instant) {
        let most = usize::try_from(id.saturating_sub(self.first)).unwrap_or(usize::MAX);
        for slot in self.slots.drain(most.min(self.slots.len())..) {
            match slot {
                Slot::Awaited { bytes, fetch, .. } => {
                    self.unanswered.forget(bytes, fetch);
                }
                Slot::Answered { held, .. } => self.share.remove_unsent(held.bytes),
                Slot::Silent => {}
            }
        }
        self.close(why, now);
    }

    /// Why it is over, if it is: nothing that was asked waits for an answer any more, and nothing will be asked.
    pub fn over(&self) -> Option<&'static str> {
        let (why, _) = self.closing?;
        self.slots.is_empty().then_some(why)
    }

    /// The request that has begun, if it is the client that keeps it from getting whole: there is memory for it, and it is read,
    /// or would be where answers were taken.
    fn left_by_client(&self, config: &PipelineConfig) -> Option<&Begun> {
        let is_read = self.may_read(config) || self.offered_at.is_some();
        self.begun.as_ref().filter(|_| is_read && self.waits_since.is_none())
    }

    /// Whether a request has begun that has not grown for too long, where others wait for the memory that it holds, so many bytes.
    /// One that holds no more than its connection's own keeps nobody waiting.
    pub fn has_stalled(&self, now: Instant, held_bytes: usize, config: &PipelineConfig) -> bool {
        let begun = self.left_by_client(config).filter(|_| held_bytes > config.own_bytes);
        begun.is_some_and(|begun| now.ms_since(begun.grown_at) > config.stalled_ms_max)
    }

    /// Why the connection is to be closed at once, if something waits for too long.
    pub fn late(&self, now: Instant, config: &PipelineConfig) -> Option<&'static str> {
        let too_old =
            |at: Option<Instant>| at.is_some_and(|at| now.ms_since(at) > config.frame_ms_max);
        if too_old(self.left_by_client(config).map(|begun| begun.at)) {
            Some("a request was not whole in time")
        } else if too_old(self.offered_at) {
            Some("an answer was not taken in time")
        } else if self.offered_at.is_none() && too_old(self.closing.map(|(_, since)| since)) {
            Some("what was asked before the end was not answered in time")
        } else if self.slots.is_empty()
            && self.offered_at.is_none()
            && now.ms_since(self.busy_at) > config.idle_ms_max
        {
            Some("idle for too long")
        } else {
            None
        }
    }
}

impl Unanswered {
    /// A request is not awaited any more.
    fn forget(&mut self, bytes: usize, fetch: Option<usize>) {
        self.request_bytes -= bytes;
        self.fetches -= usize::from(fetch.is_some());
        self.promised_bytes -= fetch.unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use milena_wire::Records;
    use milena_wire::batch::{BatchBuilder, Compression};
    use milena_wire::messages::FetchResponse;
    use milena_wire::messages::fetch::{FetchableTopicResponse, PartitionData};

    use super::*;

    fn pipeline() -> Pipeline<(), &'static str> {
        Pipeline::new(Instant(0), Totals::default())
    }

    fn all(pipeline: &mut Pipeline<(), &'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| pipeline.next_answer()).collect()
    }

    #[test]
    fn answers_go_out_in_the_order_of_their_requests() {
        let mut pipeline = pipeline();
        (0..4).for_each(|_| pipeline.ask((), 10, None));
        pipeline.ask_answered("e", 1, Instant(0));
        assert!(!pipeline.answer(3, Instant(0), |()| Some(("d", 1))));
        assert!(!pipeline.answer(1, Instant(0), |()| None), "the protocol has none");
        assert_eq!(all(&mut pipeline), [""; 0]);
        assert!(pipeline.answer(0, Instant(0), |()| Some(("a", 1))));
        assert!(!pipeline.answer(0, Instant(0), |()| panic!("it is answered")));
        assert_eq!(all(&mut pipeline), ["a"]);
        assert!(!pipeline.answer(1, Instant(0), |()| panic!("it has gone")));
        assert!(pipeline.answer(2, Instant(0), |()| Some(("c", 1))));
        assert_eq!(all(&mut pipeline), ["c", "d", "e"]);
        assert_eq!(pipeline.next_id(), 5);
    }

    #[test]
    fn no_more_is_read_while_too_much_waits() {
        let config = PipelineConfig {
            in_flight_max: 3,
            in_flight_bytes_max: 100,
            unsent_bytes_max: 50,
            ..PipelineConfig::default()
        };
        let mut pipeline = pipeline();
        pipeline.ask((), 101, None);
        assert!(!pipeline.may_read(&config), "bytes of requests");
        pipeline.answer(0, Instant(0), |()| Some(("a", 51)));
        assert!(!pipeline.may_read(&config), "bytes of answers");
        assert_eq!(all(&mut pipeline), ["a"]);
        pipeline.offer(Instant(1));
        assert!(!pipeline.may_read(&config), "which are being written");
        pipeline.taken(Instant(2));
        assert!(pipeline.may_read(&config));
        pipeline.ask((), 1, Some(20));
        assert!(pipeline.may_read(&config));
        pipeline.ask((), 1, Some(20));
        assert!(!pipeline.may_read(&config), "fetches");
        pipeline.answer(2, Instant(0), |()| None);
        assert!(pipeline.may_read(&config));
        pipeline.ask((), 1, None);
        assert!(!pipeline.may_read(&config), "requests");
    }

    #[test]
    fn what_fetches_may_bring_counts_as_what_waits() {
        let config = PipelineConfig { unsent_bytes_max: 50, ..PipelineConfig::default() };
        let mut pipeline = pipeline();
        pipeline.ask((), 1, Some(40));
        assert!(pipeline.may_read(&config));
        pipeline.ask((), 1, Some(40));
        pipeline.answer(0, Instant(0), |()| Some(("a", 20)));
        assert!(!pipeline.may_read(&config), "the other one may bring too much");
        pipeline.answer(1, Instant(0), |()| Some(("b", 20)));
        assert!(pipeline.may_read(&config), "it has not");
        pipeline.ask((), 1, Some(40));
        assert!(!pipeline.may_read(&config));
        pipeline.close_at(2, "a reason", Instant(0));
        assert_eq!((pipeline.share.unsent_bytes, pipeline.unanswered.promised_bytes), (40, 0));
    }

    #[test]
    fn who_takes_nothing_for_too_long_is_late() {
        let config =
            PipelineConfig { frame_ms_max: 100, idle_ms_max: 1_000, ..PipelineConfig::default() };
        let at = |ms| Instant(0).after_ms(ms);
        let mut pipeline = pipeline();
        assert_eq!(pipeline.late(at(1_000), &config), None);
        assert_eq!(pipeline.late(at(1_001), &config), Some("idle for too long"));
        pipeline.ask((), 1, None);
        assert_eq!(pipeline.late(at(9_000), &config), None, "the client waits, not the node");
        pipeline.answer(0, Instant(0), |()| Some(("a", 1)));
        pipeline.next_answer();
        pipeline.offer(at(9_000));
        assert_eq!(pipeline.late(at(9_100), &config), None);
        assert_eq!(pipeline.late(at(9_101), &config), Some("an answer was not taken in time"));
        pipeline.offer(at(9_101));
        assert_eq!(pipeline.late(at(9_201), &config), None, "it took a little");
        pipeline.taken(at(9_201));
        assert_eq!(pipeline.late(at(10_201), &config), None);
    }

    #[test]
    fn who_leaves_a_request_half_sent_is_late() {
        let config = PipelineConfig {
            frame_ms_max: 1_000,
            own_bytes: 50,
            stalled_ms_max: 100,
            unsent_bytes_max: 0,
            ..PipelineConfig::default()
        };
        let at = |ms| Instant(0).after_ms(ms);
        let late = Some("a request was not whole in time");
        let mut pipeline = pipeline();
        let has_stalled =
            |pipeline: &Pipeline<_, _>, ms, held| pipeline.has_stalled(at(ms), held, &config);
        pipeline.grow(0, at(0));
        assert!(!has_stalled(&pipeline, 101, 51), "nothing has begun");
        pipeline.grow(10, at(200));
        pipeline.grow(PIECE, at(250));
        assert!(!has_stalled(&pipeline, 300, 51));
        assert!(has_stalled(&pipeline, 301, 51), "a few bytes are not enough");
        assert!(!has_stalled(&pipeline, 301, 50), "nobody waits for what is its connection's own");
        pipeline.grow(10 + PIECE, at(301));
        assert!(!has_stalled(&pipeline, 401, 51), "it has grown");
        assert_eq!(pipeline.late(at(1_200), &config), None);
        assert_eq!(pipeline.late(at(1_201), &config), late, "however it grows");
        // Nobody is to blame who waits for memory, or whom the node does not read.
        pipeline.wait(at(1_201));
        assert_eq!(pipeline.waits_since(), Some(at(1_201)));
        assert_eq!(pipeline.late(at(9_000), &config), None);
        pipeline.go_on(at(9_000));
        assert_eq!((pipeline.waits_since(), pipeline.late(at(10_000), &config)), (None, None));
        assert_eq!(pipeline.late(at(10_001), &config), late);
        pipeline.ask((), 1, Some(0));
        pipeline.ask((), 1, Some(0));
        pipeline.grow(10, at(10_001));
        assert_eq!(pipeline.late(at(20_000), &config), None, "it is not read");
        pipeline.answer(0, at(20_000), |()| Some(("a", 1)));
        pipeline.next_answer();
        pipeline.offer(at(20_000));
        assert_eq!(pipeline.late(at(20_000), &config), late, "it would be if answers were taken");
        pipeline.close("a reason", at(20_000));
        assert_eq!(pipeline.late(at(20_000), &config), None, "it is given up");
    }

    #[test]
    fn what_was_asked_before_the_end_is_answered_and_nothing_else() {
        let config = PipelineConfig { frame_ms_max: 100, ..PipelineConfig::default() };
        let mut pipeline = pipeline();
        (0..3).for_each(|_| pipeline.ask((), 10, Some(20)));
        pipeline.answer(2, Instant(0), |()| Some(("c", 10)));
        pipeline.close_at(1, "a reason", Instant(0));
        pipeline.close("another", Instant(0).after_ms(50));
        assert_eq!(
            (pipeline.over(), pipeline.share.unsent_bytes, pipeline.unanswered.fetches),
            (None, 0, 1)
        );
        let late = Some("what was asked before the end was not answered in time");
        pipeline.offer(Instant(0).after_ms(99));
        assert_eq!(pipeline.late(Instant(0).after_ms(101), &config), None, "it is being taken");
        pipeline.taken(Instant(0));
        assert_eq!(pipeline.late(Instant(0).after_ms(101), &config), late);
        pipeline.answer(0, Instant(0), |()| Some(("a", 10)));
        assert_eq!(all(&mut pipeline), ["a"]);
        assert_eq!(pipeline.over(), Some("another"));
    }

    /// A pipeline whose client has been given answers of such sizes at such times, in milliseconds.
    fn given(shard: &Totals, answers: &[(usize, u64)]) -> Pipeline<(), &'static str> {
        let mut pipeline = Pipeline::new(Instant(0), shard.clone());
        for (bytes, ms) in answers {
            let id = pipeline.next_id();
            pipeline.ask((), 1, None);
            pipeline.answer(id, Instant(0).after_ms(*ms), |()| Some(("", *bytes)));
        }
        pipeline
    }

    fn unsent(shard: &Totals) -> usize {
        shard.unsent_bytes()
    }

    fn to_close(
        shard: &Totals,
        config: &PipelineConfig,
        pipelines: &[Pipeline<(), &'static str>],
        now: Instant,
    ) -> Vec<usize> {
        let held = pipelines.iter().enumerate();
        let held = held.filter_map(|(index, pipeline)| Some((index, pipeline.holding(now)?)));
        shard.give_up(config, held).into_iter().map(|(index, _)| index).collect()
    }

    #[test]
    fn a_shard_counts_what_its_clients_have_not_taken() {
        let shard = Totals::default();
        let mut first = given(&shard, &[(10, 0), (20, 0)]);
        let second = given(&shard, &[(40, 0)]);
        assert_eq!(unsent(&shard), 70);
        first.next_answer();
        first.offer(Instant(0));
        assert_eq!(unsent(&shard), 70, "what is being written is not taken");
        first.taken(Instant(0));
        assert_eq!(unsent(&shard), 60);
        drop(second);
        assert_eq!(unsent(&shard), 20);
        first.ask((), 1, None);
        first.leave();
        assert_eq!((unsent(&shard), first.holding(Instant(0))), (0, None));
        assert_eq!(all(&mut first), [""; 0]);
        assert!(first.answer(2, Instant(0), |()| Some(("c", 1))), "what is asked stays asked");
        first.close_at(0, "a reason", Instant(0));
        assert_eq!(unsent(&shard), 0);
    }

    #[test]
    fn who_costs_the_most_is_closed_for_the_memory_of_all() {
        let config = PipelineConfig { shard_unsent_bytes_max: 100, ..PipelineConfig::default() };
        let at = |ms| Instant(0).after_ms(ms);
        let shard = Totals::default();
        let mut pipelines = vec![
            given(&shard, &[(1, 0)]),
            given(&shard, &[]),
            given(&shard, &[(10, 500), (20, 990)]),
            given(&shard, &[(69, 990)]),
        ];
        assert_eq!(to_close(&shard, &config, &pipelines, at(1_000)), [0; 0], "it is not too much");
        assert!(!shard.is_too_much(&config));
        pipelines.push(given(&shard, &[(60, 1_000)]));
        assert!(shard.is_too_much(&config));
        // 1 x 1000, 10 x 500 + 20 x 10, 69 x 10, 60 x 0: what is little or new is spared.
        assert_eq!(to_close(&shard, &config, &pipelines, at(1_000)), [2, 0, 3]);
        assert_eq!(to_close(&shard, &config, &pipelines, at(2_000)), [3]);
        // Who takes a little now and then takes none of its answers in full, and costs more and more.
        pipelines[2].next_answer();
        pipelines[2].offer(at(9_999));
        let holding = pipelines[2].holding(at(10_000)).unwrap();
        assert_eq!((holding.bytes, holding.since), (30, at(500)));
        assert_eq!(holding.cost, (10 * 9_500 + 20 * 9_010) * 1_000_000);
    }

    #[test]
    fn the_less_room_there_is_the_less_a_fetch_brings() {
        let config = PipelineConfig { shard_unsent_bytes_max: 4_000, ..PipelineConfig::default() };
        let batch = || {
            let mut builder = BatchBuilder::new(0, 0, Compression::None);
            builder.append(0, None, Some(&[7; 32]), &[]);
            builder.build()
        };
        assert_eq!(batch().len(), 100);
        // What is left of so many batches of two partitions each; a piece has one and a half.
        let fit = |shard: &Totals, counts: [usize; 2]| {
            let partition = |count| {
                let run = vec![batch(); count].concat();
                let records = Records(run.chunks(150).map(Bytes::copy_from_slice).collect());
                PartitionData { records: Some(records), ..Default::default() }
            };
            let partitions = counts.map(partition).into();
            let topic = FetchableTopicResponse { partitions, ..Default::default() };
            let mut response =
                FetchResponse { responses: vec![topic], ..Default::default() }.into();
            shard.fit(&mut response, &config);
            let Response::Fetch(fetch) = response else { unreachable!() };
            let kept = fetch.responses[0].partitions.iter();
            let kept: Vec<_> = kept.map(|p| p.records.as_ref().unwrap().to_bytes()).collect();
            kept.iter().for_each(|run| assert_eq!(**run, vec![batch(); run.len() / 100].concat()));
            kept.iter().map(|run| run.len() / 100).collect::<Vec<_>>()
        };
        let shard = Totals::default();
        assert_eq!(fit(&shard, [5, 5]), [5, 5], "half of what fetches may have");
        assert_eq!(fit(&shard, [5, 6]), [5, 5]);
        assert_eq!(fit(&shard, [11, 3]), [10, 0]);
        let mut held = given(&shard, &[(1_400, 0)]);
        assert_eq!(fit(&shard, [5, 5]), [3, 0], "half of what is left");
        assert_eq!(fit(&shard, [0, 5]), [0, 3]);
        let _more = given(&shard, &[(600, 0)]);
        assert_eq!(fit(&shard, [0, 5]), [0, 1], "one batch, however large");
        assert_eq!(fit(&shard, [2, 5]), [1, 0]);
        held.leave();
        assert_eq!(fit(&shard, [5, 5]), [5, 2], "who has left counts no more");
    }
}
