//! What happens when: entries ordered by (time, sequence), so that two of one instant keep the order in which they were
//! planned, in every run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use milena_core::Timestamp;

/// Simulated nanoseconds since the run began.
pub type Time = u64;

/// One millisecond.
pub const MS: Time = 1_000_000;

/// Wall clock of every node when a run begins, milliseconds since 1970.
pub const WALL_START: Timestamp = 1_800_000_000_000;

/// The wall clock of whoever has the right time.
pub fn wall(at: Time) -> Timestamp {
    WALL_START + (at / MS) as Timestamp
}

/// The agenda.
#[derive(Debug)]
pub struct Queue<T> {
    heap: BinaryHeap<Reverse<(Time, u64, u32)>>,
    // Entries lie apart from the heap, which then moves 24 bytes per level and not a whole message.
    slots: Vec<Option<T>>,
    free: Vec<u32>,
    sequence: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue { heap: BinaryHeap::new(), slots: Vec::new(), free: Vec::new(), sequence: 0 }
    }
}

impl<T> Queue<T> {
    /// Plans an entry.
    pub fn push(&mut self, at: Time, entry: T) {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                (self.slots.len() - 1) as u32
            }
        };
        self.slots[slot as usize] = Some(entry);
        self.heap.push(Reverse((at, self.sequence, slot)));
        self.sequence += 1;
    }

    /// The next entry, its time and its number.
    pub fn pop(&mut self) -> Option<(Time, u64, T)> {
        let Reverse((at, sequence, slot)) = self.heap.pop()?;
        let entry = self.slots[slot as usize].take().expect("a planned entry is in its slot");
        self.free.push(slot);
        Some((at, sequence, entry))
    }

    /// How much is planned.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing is planned.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_times_keep_their_order() {
        let mut queue = Queue::default();
        for (at, entry) in [(5, 'c'), (1, 'a'), (5, 'd'), (2, 'b')] {
            queue.push(at, entry);
        }
        let order: String = std::iter::from_fn(|| queue.pop().map(|(_, _, e)| e)).collect();
        assert_eq!(order, "abcd");
        assert!(queue.is_empty());
    }
}
