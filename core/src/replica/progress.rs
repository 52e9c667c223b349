//! What a leader knows of one follower, and what is on its way to it.
//!
//! ```text
//!            a push matched (Synced)                   Mismatch, or no answer for push_retry_ms
//!   Probe ─────────────────────────────▶ Stream ─────────────────────────────────────────▶ Probe
//!   one push at a time, to find where    push after push, up to the window
//!   the logs agree
//! ```
//!
//! Everything here is of one leader epoch and of one life of the follower: a new epoch makes new ones, another broker
//! epoch or incarnation in the image resets it.

use std::collections::VecDeque;

use crate::local::Member;
use crate::storage::Ticket;
use crate::{Instant, Offset};

/// How pushes go out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// When it is not known where the logs agree: one push at a time.
    Probe,
    /// When they agree up to what was acknowledged: as many as the window takes.
    Stream,
}

/// Whether a log that ends at `end` may hold values without the tombstones that ended them, once it goes on as a copy of another
/// one: below an offset at or past that end one of the two has dropped tombstones that it has not seen. `own` is up to where it
/// says that they may be gone, which beyond its end is what it was told when it began, and so true of a copy of that log alone;
/// `other` is the same of the log that it is to go on with.
pub fn misses(end: Offset, own: Offset, other: Offset) -> bool {
    own != other && end < own.max(other)
}

/// What a leader knows of one follower.
#[derive(Debug)]
pub struct Progress {
    /// The life of it that is meant; none while the image does not know its broker.
    pub member: Option<Member>,
    /// Whether its broker is in service, so that a push may be answered.
    pub reachable: bool,
    /// Its synced end, as it said in this epoch; falls only where it has to begin again ([`Progress::begin_again`]). None until
    /// a push has matched.
    pub acknowledged: Option<Offset>,
    /// Tombstones below this offset may have gone from its log, as it said; none before it has said anything.
    pub dropped: Option<Offset>,
    /// It was last told to begin again from a log that had dropped the tombstones below this offset: what it acknowledges of a log
    /// that misses some is of its log before.
    required: Option<Offset>,
    /// Where the next push begins, at most the leader's end.
    pub next: Offset,
    /// Probe or stream.
    pub flow: Flow,
    /// While it is so, pushes carry no records: nothing has been heard for a while.
    pub heads_only: bool,
    /// Base of the probe that waits for its answer.
    pub probed: Option<Offset>,
    /// Ends and bytes of the pushes on their way, in order.
    in_flight: VecDeque<(Offset, usize)>,
    in_flight_bytes: usize,
    /// When what is on its way counts as lost.
    pub deadline: Option<Instant>,
    /// The read of older records that the next push waits for.
    pub reading: Option<Ticket>,
    /// High watermark and log start that were last sent.
    pub told: (Offset, Offset),
    /// The exchange of the last push.
    pub asked: u64,
    /// The last exchange that it has answered.
    pub answered: u64,
    /// When a push was last sent.
    pub sent_at: Instant,
    /// Where it is behind: an end of the leader's log that it has not acknowledged, and when that was the end.
    pub behind: Option<(Offset, Instant)>,
}

impl Progress {
    /// Nothing is known yet; the first push asks at the leader's end.
    pub fn new(member: Option<Member>, reachable: bool, end: Offset, now: Instant) -> Progress {
        Progress {
            member,
            reachable,
            acknowledged: None,
            dropped: None,
            required: None,
            next: end,
            flow: Flow::Probe,
            heads_only: false,
            probed: None,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            deadline: None,
            reading: None,
            told: (-1, -1),
            asked: 0,
            answered: 0,
            sent_at: now,
            behind: Some((end, now)),
        }
    }

    /// Record bytes on their way.
    pub fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes
    }

    /// Whether it has been asked where it stands, or what it is to be asked with is being read.
    pub fn is_probed(&self) -> bool {
        let on_its_way = self.deadline.is_some() || self.reading.is_some();
        self.reachable && self.flow == Flow::Probe && on_its_way
    }

    /// Goes back to probing at an offset, forgetting what is on its way.
    pub fn probe(&mut self, next: Offset) {
        self.flow = Flow::Probe;
        self.next = next;
        self.probed = None;
        self.deadline = None;
        self.reading = None;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
    }

    /// Whether its log may lack tombstones for values that it holds, or come to, if it goes on as a copy of a log that has dropped
    /// those below an offset: while that is not known it may.
    pub fn may_miss(&self, dropped: Offset) -> bool {
        self.dropped.is_none_or(|own| misses(self.next, own, dropped))
    }

    /// It is told to begin again, since it may miss tombstones, as a copy of a log that has dropped those below an offset.
    pub fn begin_again(&mut self, base: Offset, dropped: Offset) {
        self.acknowledged = None;
        self.begin_at(base, dropped);
    }

    /// It is told to begin at an offset, as a copy of a log that has dropped those below an offset.
    pub fn begin_at(&mut self, base: Offset, dropped: Offset) {
        self.required = Some(dropped);
        self.probe(base);
    }

    /// Whether an acknowledgement up to `end`, of a log without tombstones below `dropped`, is of its present log.
    pub fn is_present(&self, end: Offset, dropped: Offset) -> bool {
        self.required.is_none_or(|required| !misses(end, dropped, required))
    }

    /// Notes that a push left: it covers up to `end` with `bytes` of records.
    pub fn on_sent(
        &mut self,
        now: Instant,
        base: Offset,
        end: Offset,
        bytes: usize,
        retry_ms: u64,
    ) {
        self.sent_at = now;
        if self.deadline.is_none() {
            self.deadline = Some(now.after_ms(retry_ms));
        }
        match self.flow {
            Flow::Probe => self.probed = Some(base),
            Flow::Stream => {
                self.next = end;
                if bytes > 0 {
                    self.in_flight.push_back((end, bytes));
                    self.in_flight_bytes += bytes;
                }
            }
        }
    }

    /// Takes a believed acknowledgement up to `end`; `matched` is what it has received. `log_end` is the leader's end.
    /// Whether the acknowledged end has moved.
    pub fn on_synced(
        &mut self,
        now: Instant,
        end: Offset,
        matched: Offset,
        log_end: Offset,
        retry_ms: u64,
    ) -> bool {
        let moved = self.acknowledged.is_none_or(|before| end > before);
        let acknowledged = self.acknowledged.map_or(end, |before| before.max(end));
        self.acknowledged = Some(acknowledged);
        self.heads_only = false;
        while self.in_flight.front().is_some_and(|(end, _)| *end <= acknowledged) {
            let (_, bytes) = self.in_flight.pop_front().expect("just seen");
            self.in_flight_bytes -= bytes;
        }
        let received = matched.clamp(acknowledged, log_end);
        match self.flow {
            Flow::Probe => {
                self.probe(received);
                self.flow = Flow::Stream;
            }
            // A read under way begins at `next`, so that one stays where it is.
            Flow::Stream if self.reading.is_none() => self.next = self.next.max(acknowledged),
            Flow::Stream => {}
        }
        self.deadline = (self.next > acknowledged).then(|| now.after_ms(retry_ms));
        if self.behind.is_some_and(|(target, _)| acknowledged >= target) {
            self.behind = None;
        }
        self.on_appended(now, log_end);
        moved
    }

    /// Notes what it is behind, if it is not noted yet.
    pub fn on_appended(&mut self, now: Instant, log_end: Offset) {
        if self.behind.is_none() && self.acknowledged.is_none_or(|end| end < log_end) {
            self.behind = Some((log_end, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A follower began from a log that had dropped tombstones below 51, and has copied 30 records of it.
    #[test]
    fn what_was_dropped_elsewhere_is_true_of_a_copy_of_that_log_alone() {
        let mut progress = Progress::new(None, true, 30, Instant(0));
        assert!(progress.may_miss(51) && progress.may_miss(0), "nothing is known");
        progress.dropped = Some(51);
        assert!(!progress.may_miss(51), "the copy of the same log");
        assert!(progress.may_miss(60), "more has gone there since");
        assert!(progress.may_miss(0), "another log has tombstones that are gone in the first");
        progress.next = 51;
        assert!(!progress.may_miss(0), "its copy is past all of them");
    }

    #[test]
    fn what_was_said_before_a_beginning_does_not_count_after_it() {
        let mut progress = Progress::new(None, true, 30, Instant(0));
        assert!(progress.is_present(30, 51));
        progress.begin_again(0, 0);
        assert!(!progress.is_present(30, 51), "of the copy of another log");
        assert!(progress.is_present(51, 51), "past all that went there");
        assert!(progress.is_present(0, 0) && progress.is_present(30, 0));
        progress.begin_again(0, 60);
        assert!(!progress.is_present(30, 0) && progress.is_present(30, 60));
    }
}
