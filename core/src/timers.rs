//! Deadlines, each under a key: what is idle has none and costs nothing.

use std::collections::BTreeMap;

use crate::{Instant, Timer};

/// Deadlines by key. Of those of one instant the least key comes first.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    order: BTreeMap<(Instant, K), Timer>,
    due: BTreeMap<K, Instant>,
}

impl<K> Default for Timers<K> {
    fn default() -> Timers<K> {
        Timers { order: BTreeMap::new(), due: BTreeMap::new() }
    }
}

impl<K: Copy + Ord> Timers<K> {
    /// Sets a key's only deadline; none removes it.
    pub fn set(&mut self, key: K, at: Option<Instant>, why: Timer) {
        if self.due.get(&key).copied() == at {
            return;
        }
        self.remove(key);
        if let Some(at) = at {
            self.due.insert(key, at);
            self.order.insert((at, key), why);
        }
    }

    /// Removes a key's deadline.
    pub fn remove(&mut self, key: K) {
        if let Some(before) = self.due.remove(&key) {
            self.order.remove(&(before, key));
        }
    }

    /// The first deadline, and why.
    pub fn next(&self) -> Option<(Instant, Timer)> {
        self.order.first_key_value().map(|((at, _), why)| (*at, *why))
    }

    /// Takes the first key whose deadline has come.
    pub fn pop(&mut self, now: Instant) -> Option<K> {
        let ((at, key), _) = self.order.first_key_value()?;
        let (at, key) = (*at, *key);
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
        let replica = "of a replica";
        timers.set(replica, Some(Instant(5)), Timer::Replication);
        timers.set("retention", Some(Instant(3)), Timer::Retention);
        timers.set(replica, Some(Instant(2)), Timer::Replication);
        assert_eq!(timers.next(), Some((Instant(2), Timer::Replication)));
        assert_eq!(timers.pop(Instant(1)), None);
        assert_eq!(timers.pop(Instant(4)), Some(replica));
        assert_eq!(timers.pop(Instant(4)), Some("retention"));
        assert_eq!(timers.pop(Instant(9)), None);
        timers.set(replica, Some(Instant(7)), Timer::Replication);
        timers.set(replica, None, Timer::Replication);
        assert_eq!(timers.next(), None);
    }
}
