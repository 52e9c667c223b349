//! Deadlines of a shard, each under a key: what is idle has none and costs nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::scatter::Origin;
use crate::{Instant, LogId, Timer};

/// What a deadline belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Key {
    /// When a replica pushes again, proposes again, looks at lag or reports damage again.
    Replica(LogId),
    /// When a part of a client's request has waited long enough.
    Part(Origin),
    /// When retention looks for old segments.
    Retention,
    /// When what came early is answered with what is known.
    Early,
}

/// Deadlines by key.
#[derive(Default, Debug)]
pub(super) struct Timers {
    order: BTreeSet<(Instant, Key)>,
    due: BTreeMap<Key, (Instant, Timer)>,
}

impl Timers {
    /// Sets a key's only deadline; none removes it.
    pub fn set(&mut self, key: Key, at: Option<Instant>, why: Timer) {
        if self.due.get(&key).map(|(at, _)| *at) == at {
            return;
        }
        if let Some((before, _)) = self.due.remove(&key) {
            self.order.remove(&(before, key));
        }
        if let Some(at) = at {
            self.due.insert(key, (at, why));
            self.order.insert((at, key));
        }
    }

    /// Removes a key's deadline.
    pub fn remove(&mut self, key: Key) {
        if let Some((before, _)) = self.due.remove(&key) {
            self.order.remove(&(before, key));
        }
    }

    /// The first deadline, and why.
    pub fn next(&self) -> Option<(Instant, Timer)> {
        let (_, key) = self.order.first()?;
        self.due.get(key).copied()
    }

    /// Takes the first key whose deadline has come.
    pub fn pop(&mut self, now: Instant) -> Option<Key> {
        let (at, key) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.remove(key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_deadline_and_they_come_in_order() {
        let mut timers = Timers::default();
        let replica = Key::Replica(LogId::METADATA);
        timers.set(replica, Some(Instant(5)), Timer::Replication);
        timers.set(Key::Retention, Some(Instant(3)), Timer::Retention);
        timers.set(replica, Some(Instant(2)), Timer::Replication);
        assert_eq!(timers.next(), Some((Instant(2), Timer::Replication)));
        assert_eq!(timers.pop(Instant(1)), None);
        assert_eq!(timers.pop(Instant(4)), Some(replica));
        assert_eq!(timers.pop(Instant(4)), Some(Key::Retention));
        assert_eq!(timers.pop(Instant(9)), None);
        timers.set(replica, Some(Instant(7)), Timer::Replication);
        timers.set(replica, None, Timer::Replication);
        assert_eq!(timers.next(), None);
    }
}
