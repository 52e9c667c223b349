//! What a leader knows of one follower: how far it has come, and how to send to it.
//!
//! ```text
//!            Appended                 next fell below the log start
//!  ┌───────┐ ───────▶ ┌───────────┐                          ┌──────────┐
//!  │ Probe │          │ Replicate │   Probe, Replicate ────▶ │ Snapshot │ ──▶ Replicate, when it is on its disk
//!  └───────┘ ◀─────── └───────────┘                          └──────────┘
//!            Diverged, or the follower restarted
//! ```
//!
//! `Probe` sends one append and waits, since it does not know where the logs agree; `Replicate` sends ahead of the
//! answers. A lost append is noticed by the next one, which then does not fit: there is no resend timer beside the heartbeat.

use std::collections::VecDeque;

use crate::{Instant, Offset};

/// Appends on their way to one follower.
const APPENDS_IN_FLIGHT_MAX: usize = 16;

/// How to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pace {
    /// When it is not known where the logs agree.
    Probe {
        /// Whether an append is out that was not yet answered.
        waiting: bool,
    },
    /// When they agree, and records are sent as they come.
    Replicate,
    /// When the follower needs a snapshot.
    Snapshot {
        /// Which.
        end: Offset,
        /// Bytes that it has.
        position: u64,
        /// Whether a part is out that was not yet answered.
        waiting: bool,
    },
}

/// One follower.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// What it has on its disk of this leader's log; less than before only where the follower itself says so.
    pub matched: Offset,
    /// What it is sent next; never below `matched`.
    pub next: Offset,
    /// How.
    pub pace: Pace,
    /// Ends of the appends in flight, ascending.
    in_flight: VecDeque<Offset>,
    /// When it was last heard.
    pub heard: Instant,
    /// Start number that it was last heard with.
    start: u64,
}

impl Progress {
    /// A follower of which nothing is known.
    pub fn new(next: Offset, heard: Instant) -> Progress {
        let pace = Pace::Probe { waiting: false };
        Progress { matched: 0, next, pace, in_flight: VecDeque::new(), heard, start: 0 }
    }

    /// Takes note of a message. What was in flight to another run of the follower is lost, what it had synced is not; an observer
    /// whose disk was put back starts with a lower number, and says itself where it stands.
    pub fn on_heard(&mut self, now: Instant, start: u64) {
        self.heard = now;
        if start != self.start {
            if self.start != 0 {
                self.probe(self.matched);
            }
            self.start = start;
        }
    }

    /// Takes a follower's wish to be sent everything from `end` on: it has no more than that, whatever it had.
    pub fn on_follow(&mut self, now: Instant, end: Offset) {
        self.heard = now;
        self.matched = self.matched.min(end);
        self.probe(end);
    }

    /// Begins to ask where the logs agree.
    pub fn probe(&mut self, next: Offset) {
        self.next = next.max(self.matched);
        self.in_flight.clear();
        self.pace = Pace::Probe { waiting: false };
    }

    /// Begins to send the snapshot that ends at `end`.
    pub fn send_snapshot(&mut self, end: Offset) {
        self.in_flight.clear();
        self.pace = Pace::Snapshot { end, position: 0, waiting: false };
    }

    /// Takes a follower's word that it matches up to `verified` and has synced up to `synced`. Both were checked against the
    /// leader's own end.
    pub fn on_appended(&mut self, verified: Offset, synced: Offset) {
        self.matched = self.matched.max(synced);
        self.next = self.next.max(self.matched);
        match self.pace {
            Pace::Replicate => {}
            // Where the probe fits, more than its base is verified: this is an older word.
            Pace::Probe { .. } if verified < self.next => return,
            Pace::Snapshot { end, .. } if verified < end => return,
            Pace::Probe { .. } | Pace::Snapshot { .. } => {
                self.pace = Pace::Replicate;
                self.next = verified.max(self.matched);
                self.in_flight.clear();
            }
        }
        self.next = self.next.max(verified);
        while self.in_flight.front().is_some_and(|end| *end <= verified) {
            self.in_flight.pop_front();
        }
    }

    /// Takes a follower's word that the append at `base` did not fit, and that the logs agree at most up to `hint`. False if the
    /// word is an old one.
    ///
    /// A voter has on disk what it said it has, so a hint below that changes nothing: asking again at once would go on for
    /// ever. An observer's disk may have been put back to an older image; nobody counts it, and it is believed.
    pub fn on_diverged(&mut self, base: Offset, hint: Offset, is_voter: bool) -> bool {
        let current = match self.pace {
            Pace::Probe { .. } => base == self.next,
            Pace::Replicate => (base > self.matched || !is_voter) && base <= self.next,
            Pace::Snapshot { .. } => false,
        };
        let hint = hint.min(base);
        if !current || (is_voter && hint < self.matched) {
            return false;
        }
        self.matched = self.matched.min(hint);
        self.probe(hint);
        true
    }

    /// Whether an append or a part may go out now.
    pub fn may_send(&self) -> bool {
        match self.pace {
            Pace::Probe { waiting } | Pace::Snapshot { waiting, .. } => !waiting,
            Pace::Replicate => self.in_flight.len() < APPENDS_IN_FLIGHT_MAX,
        }
    }

    /// Takes note of an append of everything from `next` to `end`.
    pub fn on_sent(&mut self, end: Offset) {
        match &mut self.pace {
            Pace::Probe { waiting } => *waiting = true,
            Pace::Replicate => {
                if end > self.next {
                    self.in_flight.push_back(end);
                }
                self.next = end;
            }
            Pace::Snapshot { .. } => unreachable!("appends wait for the snapshot"),
        }
    }

    /// What went unanswered for a heartbeat may be sent again.
    pub fn on_heartbeat(&mut self) {
        match &mut self.pace {
            Pace::Probe { waiting } | Pace::Snapshot { waiting, .. } => *waiting = false,
            Pace::Replicate => {}
        }
    }

    /// Assertions, given the end of the leader's log.
    pub fn check_invariants(&self, end: Offset) {
        assert!(self.matched <= self.next && self.next <= end, "a follower is ahead of its leader");
        assert!(self.in_flight.iter().is_sorted() && self.in_flight.len() <= APPENDS_IN_FLIGHT_MAX);
        assert!(self.in_flight.is_empty() || self.pace == Pace::Replicate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_then_streams_then_falls_back() {
        let mut progress = Progress::new(10, Instant(0));
        assert!(progress.may_send());
        progress.on_sent(12);
        assert!(!progress.may_send(), "one probe at a time");
        assert!(progress.on_diverged(10, 4, true));
        assert_eq!(progress.next, 4);
        progress.on_sent(12);
        progress.on_appended(3, 3);
        assert!(!progress.may_send(), "an old word does not answer the probe");
        progress.on_appended(12, 3);
        assert_eq!((progress.pace, progress.matched, progress.next), (Pace::Replicate, 3, 12));
        for end in 13..13 + APPENDS_IN_FLIGHT_MAX as Offset {
            assert!(progress.may_send());
            progress.on_sent(end);
        }
        assert!(!progress.may_send(), "the window is full");
        progress.on_appended(14, 14);
        assert!(progress.may_send());
        assert!(!progress.on_diverged(14, 2, true), "an old word");
        assert!(progress.on_diverged(20, 17, true));
        assert_eq!((progress.next, progress.matched), (17, 14));
        progress.check_invariants(30);
    }

    #[test]
    fn never_sends_below_what_is_synced_there() {
        let mut progress = Progress::new(10, Instant(0));
        progress.on_appended(10, 8);
        assert!(!progress.on_diverged(10, 2, true), "it has more than that");
        assert!(progress.on_diverged(10, 8, true));
        assert_eq!(progress.next, 8);
        progress.on_heard(Instant(5), 3);
        progress.on_appended(10, 9);
        progress.on_heard(Instant(6), 4);
        assert_eq!((progress.next, progress.pace), (9, Pace::Probe { waiting: false }));
    }

    #[test]
    fn a_snapshot_ends_when_it_is_on_the_disk() {
        let mut progress = Progress::new(0, Instant(0));
        progress.send_snapshot(50);
        assert!(progress.may_send());
        progress.on_appended(0, 0);
        assert!(matches!(progress.pace, Pace::Snapshot { .. }));
        progress.on_appended(50, 50);
        assert_eq!((progress.pace, progress.next), (Pace::Replicate, 50));
    }

    #[test]
    fn an_observer_whose_disk_was_put_back_is_believed() {
        let mut progress = Progress::new(20, Instant(0));
        progress.on_appended(20, 20);
        progress.probe(20);
        assert!(!progress.clone().on_diverged(20, 12, true), "a voter cannot have lost it");
        assert!(progress.on_diverged(20, 12, false));
        assert_eq!((progress.next, progress.matched), (12, 12));
        // A late word of the run before must not make the leader deaf to what the present one says.
        progress.on_appended(20, 20);
        assert_eq!(progress.pace, Pace::Replicate);
        assert!(!progress.clone().on_diverged(20, 12, true));
        assert!(progress.on_diverged(20, 12, false));
        progress.on_appended(20, 20);
        progress.on_heard(Instant(5), 4);
        progress.on_appended(20, 20);
        progress.on_heard(Instant(6), 3);
        assert_eq!((progress.pace, progress.next), (Pace::Probe { waiting: false }, 20));
    }
}
