//! What one Kafka connection has asked and not been given: answers go out in the order of their requests, while too much
//! waits no more is read, and a client that takes nothing for too long loses its connection.
//!
//! Every driver keeps one for each connection. It decides; what a request or an answer is, is the driver's. The bytes of an
//! answer count from the moment that a machine gives it until the client's socket has taken it, those of a request until it is
//! answered, and what a fetch may bring while it waits.

use std::collections::VecDeque;

use milena_wire::Request;

use crate::Instant;
use crate::config::PipelineConfig;

/// Fetches of one connection in flight: the one that waits and the next. Answers go out in order, so more of them would only
/// hold memory, and how much is known only then: each has at least one batch.
const FETCHES_MAX: usize = 2;

/// The requests of a connection in their order: with each what is kept until it is answered, then its answer.
#[derive(Debug)]
pub struct Pipeline<R, A> {
    /// Number of the request at the front.
    first: u64,
    slots: VecDeque<Slot<R, A>>,
    unanswered: Unanswered,
    /// Bytes of answers that the client has not taken, those that are being written among them.
    unsent_bytes: usize,
    writing_bytes: usize,
    /// When the client last took bytes, or was first offered some, while there are any that it is to take.
    offered_at: Option<Instant>,
    /// When the last bytes came, or the last answer had been taken.
    busy_at: Instant,
    /// Why it is to be closed once what was asked is answered, and since when.
    closing: Option<(&'static str, Instant)>,
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
        bytes: usize,
    },
    /// The protocol has no answer.
    Silent,
}

impl<R, A> Pipeline<R, A> {
    /// Of a connection that begins now.
    pub fn new(now: Instant) -> Pipeline<R, A> {
        Pipeline {
            first: 0,
            slots: VecDeque::new(),
            unanswered: Unanswered::default(),
            unsent_bytes: 0,
            writing_bytes: 0,
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
            && self.unsent_bytes + self.unanswered.promised_bytes <= config.unsent_bytes_max
    }

    /// Bytes of a request have come.
    pub fn heard(&mut self, now: Instant) {
        self.busy_at = now;
    }

    /// The number of the next request.
    pub fn next_id(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// A request has come that a machine is to answer. `fetch`: what [`fetched_by`] says of it.
    pub fn ask(&mut self, request: R, bytes: usize, fetch: Option<usize>) {
        self.slots.push_back(Slot::Awaited { request, bytes, fetch });
        self.unanswered.request_bytes += bytes;
        self.unanswered.fetches += usize::from(fetch.is_some());
        self.unanswered.promised_bytes += fetch.unwrap_or(0);
    }

    /// One has come whose answer is known without any.
    pub fn ask_answered(&mut self, answer: A, bytes: usize) {
        self.slots.push_back(Slot::Answered { answer, bytes });
        self.unsent_bytes += bytes;
    }

    /// A request is answered: what was kept with it becomes its answer and that one's size, or none where the protocol has none.
    /// One that is not awaited is left alone. Says whether there is something to send now.
    pub fn answer(&mut self, id: u64, make: impl FnOnce(R) -> Option<(A, usize)>) -> bool {
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
            *slot = Slot::Answered { answer, bytes };
            self.unsent_bytes += bytes;
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
            if let Some(Slot::Answered { answer, bytes }) = self.slots.pop_front() {
                self.writing_bytes += bytes;
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
        self.unsent_bytes -= std::mem::take(&mut self.writing_bytes);
        self.offered_at = None;
        self.busy_at = now;
        // Who takes what is left for it gets the time for the rest.
        self.closing = self.closing.map(|(why, _)| (why, now));
    }

    /// Whether there is an answer that the client could take now, and has not taken.
    pub fn is_offering(&self) -> bool {
        self.offered_at.is_some()
    }

    /// No more is read; once what was asked is answered, it is over.
    pub fn close(&mut self, why: &'static str, now: Instant) {
        let since = self.closing.map_or(now, |(_, since)| since);
        self.closing = Some((why, since));
    }

    /// The same; this request and those after it get no answer.
    pub fn close_at(&mut self, id: u64, why: &'static str, now: Instant) {
        let most = usize::try_from(id.saturating_sub(self.first)).unwrap_or(usize::MAX);
        for slot in self.slots.drain(most.min(self.slots.len())..) {
            match slot {
                Slot::Awaited { bytes, fetch, .. } => self.unanswered.forget(bytes, fetch),
                Slot::Answered { bytes, .. } => self.unsent_bytes -= bytes,
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

    /// Why the connection is to be closed at once, if something waits for too long.
    pub fn late(&self, now: Instant, config: &PipelineConfig) -> Option<&'static str> {
        let too_old =
            |at: Option<Instant>| at.is_some_and(|at| now.ms_since(at) > config.frame_ms_max);
        if too_old(self.offered_at) {
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
    use super::*;

    fn pipeline() -> Pipeline<(), &'static str> {
        Pipeline::new(Instant(0))
    }

    fn all(pipeline: &mut Pipeline<(), &'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| pipeline.next_answer()).collect()
    }

    #[test]
    fn answers_go_out_in_the_order_of_their_requests() {
        let mut pipeline = pipeline();
        (0..4).for_each(|_| pipeline.ask((), 10, None));
        pipeline.ask_answered("e", 1);
        assert!(!pipeline.answer(3, |()| Some(("d", 1))));
        assert!(!pipeline.answer(1, |()| None), "the protocol has none");
        assert_eq!(all(&mut pipeline), [""; 0]);
        assert!(pipeline.answer(0, |()| Some(("a", 1))));
        assert!(!pipeline.answer(0, |()| panic!("it is answered")));
        assert_eq!(all(&mut pipeline), ["a"]);
        assert!(!pipeline.answer(1, |()| panic!("it has gone")));
        assert!(pipeline.answer(2, |()| Some(("c", 1))));
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
        pipeline.answer(0, |()| Some(("a", 51)));
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
        pipeline.answer(2, |()| None);
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
        pipeline.answer(0, |()| Some(("a", 20)));
        assert!(!pipeline.may_read(&config), "the other one may bring too much");
        pipeline.answer(1, |()| Some(("b", 20)));
        assert!(pipeline.may_read(&config), "it has not");
        pipeline.ask((), 1, Some(40));
        assert!(!pipeline.may_read(&config));
        pipeline.close_at(2, "a reason", Instant(0));
        assert_eq!((pipeline.unsent_bytes, pipeline.unanswered.promised_bytes), (40, 0));
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
        pipeline.answer(0, |()| Some(("a", 1)));
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
    fn what_was_asked_before_the_end_is_answered_and_nothing_else() {
        let config = PipelineConfig { frame_ms_max: 100, ..PipelineConfig::default() };
        let mut pipeline = pipeline();
        (0..3).for_each(|_| pipeline.ask((), 10, Some(20)));
        pipeline.answer(2, |()| Some(("c", 10)));
        pipeline.close_at(1, "a reason", Instant(0));
        pipeline.close("another", Instant(0).after_ms(50));
        assert_eq!(
            (pipeline.over(), pipeline.unsent_bytes, pipeline.unanswered.fetches),
            (None, 0, 1)
        );
        let late = Some("what was asked before the end was not answered in time");
        pipeline.offer(Instant(0).after_ms(99));
        assert_eq!(pipeline.late(Instant(0).after_ms(101), &config), None, "it is being taken");
        pipeline.taken(Instant(0));
        assert_eq!(pipeline.late(Instant(0).after_ms(101), &config), late);
        pipeline.answer(0, |()| Some(("a", 10)));
        assert_eq!(all(&mut pipeline), ["a"]);
        assert_eq!(pipeline.over(), Some("another"));
    }
}
