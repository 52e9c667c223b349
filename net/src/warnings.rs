//! Warnings that others bring about, so that who sends a thousand bad requests does not write a thousand lines: the first of
//! a kind from an address is said at once, the rest are counted and said now and then.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use milena_core::Instant;
use tracing::warn;

/// What is counted is said this often.
const EVERY_MS: u64 = 10_000;
/// How often to call [`Warnings::sweep`].
pub const SWEEP: Duration = Duration::from_secs(2);
/// Kinds and addresses that are told apart at most; beyond it all others are one address.
const KEPT_MAX: usize = 1_000;
/// Stands for all addresses that are not told apart, and for none.
const SOMEWHERE: &str = "";

/// What a warning is about. Those of one kind from one address are counted together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// When a Kafka connection is closed for what it asked.
    BadRequest,
    /// When a Kafka connection finds no room.
    TooManyConnections,
    /// When a Kafka connection waits for memory.
    WaitsForMemory,
    /// When a Kafka connection lets others wait for memory.
    HoldsMemory,
    /// When a Kafka connection leaves answers untaken that take the memory of others.
    LeavesAnswers,
    /// When a Kafka connection could not be taken over.
    LostConnection,
    /// When a peer connection is refused.
    RefusedPeer,
    /// When a peer refuses a connection.
    RefusedByPeer,
    /// When a peer connection finds no room.
    TooManyPeers,
    /// When no connection can be accepted.
    NotAccepted,
}

/// A kind and address that were warned of lately.
#[derive(Debug)]
struct Held {
    since: Instant,
    more: u64,
    last: String,
}

/// The warnings of a node.
#[derive(Debug, Default)]
pub struct Warnings {
    held: Mutex<BTreeMap<(Kind, String), Held>>,
}

impl Warnings {
    /// Warns of something that came from an address, or counts it.
    pub fn warn(
        &self,
        now: Instant,
        kind: Kind,
        from: impl ToString,
        line: impl FnOnce() -> String,
    ) {
        let said = self.take(now, kind, from.to_string(), line);
        if let Some(line) = said {
            warn!("{line}");
        }
    }

    /// The same where it came from nobody else.
    pub fn warn_of_own(&self, now: Instant, kind: Kind, line: impl FnOnce() -> String) {
        self.warn(now, kind, SOMEWHERE, line);
    }

    /// Says what was counted. Called every [`SWEEP`].
    pub fn sweep(&self, now: Instant) {
        self.due(now).iter().for_each(|line| warn!("{line}"));
    }

    fn take(
        &self,
        now: Instant,
        kind: Kind,
        from: String,
        line: impl FnOnce() -> String,
    ) -> Option<String> {
        let mut held = self.held.lock().expect("no panic while it is held");
        let mut key = (kind, from);
        if held.len() >= KEPT_MAX && !held.contains_key(&key) {
            key.1 = SOMEWHERE.into();
        }
        if let Some(held) = held.get_mut(&key) {
            held.more += 1;
            held.last = line();
            return None;
        }
        held.insert(key, Held { since: now, more: 0, last: String::new() });
        Some(line())
    }

    /// The lines of what was counted for long enough. What was quiet meanwhile is forgotten.
    fn due(&self, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        let mut held = self.held.lock().expect("no panic while it is held");
        held.retain(|_, held| {
            if now.ms_since(held.since) < EVERY_MS {
                return true;
            }
            let (more, seconds) =
                (std::mem::take(&mut held.more), now.ms_since(held.since) / 1_000);
            held.since = now;
            match more {
                0 => return false,
                1 => lines.push(std::mem::take(&mut held.last)),
                more => {
                    let others = more - 1;
                    let last = &held.last;
                    lines
                        .push(format!("{last}; and {others} more of this kind within {seconds} s"));
                }
            }
            true
        });
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "127.0.0.1";
    const B: &str = "127.0.0.2";

    fn at(ms: u64) -> Instant {
        Instant(0).after_ms(ms)
    }

    #[test]
    fn the_first_is_said_and_the_rest_is_counted() {
        let warnings = Warnings::default();
        let take =
            |ms, kind, from: &str| warnings.take(at(ms), kind, from.into(), || format!("at {ms}"));
        assert_eq!(take(0, Kind::BadRequest, A), Some("at 0".into()));
        for ms in 1..=300 {
            assert_eq!(take(ms, Kind::BadRequest, A), None);
        }
        assert_eq!(take(301, Kind::BadRequest, B), Some("at 301".into()), "of another address");
        assert_eq!(take(302, Kind::RefusedPeer, A), Some("at 302".into()), "of another kind");
        assert!(warnings.due(at(9_999)).is_empty());
        let counted = "at 300; and 299 more of this kind within 12 s";
        assert_eq!(warnings.due(at(12_000)), [counted]);
        assert_eq!(take(12_001, Kind::BadRequest, A), None, "what goes on is counted");
        assert_eq!(warnings.due(at(22_000)), ["at 12001"]);
        assert!(warnings.due(at(32_000)).is_empty());
        assert_eq!(take(32_001, Kind::BadRequest, A), Some("at 32001".into()), "it was quiet");
    }

    #[test]
    fn addresses_without_end_take_no_memory_without_end() {
        let warnings = Warnings::default();
        for number in 0..5_000_u32 {
            warnings.take(at(0), Kind::BadRequest, number.to_string(), String::new);
        }
        assert_eq!(warnings.held.lock().unwrap().len(), KEPT_MAX + 1);
    }
}
