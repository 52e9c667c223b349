//! Where chance comes from: one `u64` seed, split into streams that do not disturb each other.
//!
//! Each concern (a link of the network, a node's disk, the workload, the faults, ...) draws from a ChaCha8 stream of its own,
//! so that removing one fault from a schedule does not shift the draws of anything else. ChaCha8 is stable by definition:
//! the same seed means the same run on another day and with another version of the crate.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// Who draws. The number of a concern is part of the meaning of a seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Concern {
    /// The cluster's shape and sizes.
    Setup,
    /// What is broken when, as written into the schedule.
    Faults,
    /// What is left open by a schedule entry until it strikes (which sectors survive, which bit flips).
    Strike,
    /// What a client asks, and when.
    Client(u32),
    /// Delay, doubling and reordering on a directed link.
    Link(u32),
    /// Latency of a node's disk.
    Disk(u32),
    /// Order of messages among the machines of a node.
    Scheduling(u32),
    /// Entropy of a node at its starts.
    Entropy(u32),
    /// What clients and topics are like, as written into the schedule.
    Workload,
    /// When clients stop reading, and how much may wait for them, as written into the schedule.
    Readers,
}

impl Concern {
    fn stream(self) -> u64 {
        let (kind, index) = match self {
            Concern::Setup => (1, 0),
            Concern::Faults => (2, 0),
            Concern::Strike => (3, 0),
            Concern::Client(index) => (4, index),
            Concern::Link(index) => (5, index),
            Concern::Disk(index) => (6, index),
            Concern::Scheduling(index) => (7, index),
            Concern::Entropy(index) => (8, index),
            Concern::Workload => (9, 0),
            Concern::Readers => (10, 0),
        };
        (kind << 32) | u64::from(index)
    }
}

/// One stream of draws.
#[derive(Clone, Debug)]
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// The stream of a concern under a seed.
    pub fn new(seed: u64, concern: Concern) -> Stream {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(concern.stream());
        Stream(rng)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The bias of a multiplication by a 64-bit draw is far below anything a run could show.
        ((u128::from(self.0.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True `per_million` times in a million.
    pub fn chance(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.below(1_000_000) < u64::from(per_million)
    }

    /// One of a slice that is not empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// A delay around `typical`: between half and one and a half of it, one in fifty up to eight times as long.
    pub fn delay(&mut self, typical: u64) -> u64 {
        let draw = self.0.next_u64();
        let part = (draw >> 32) as u32;
        let spread = (u128::from(typical) * u128::from(part)) >> 32;
        let base = typical / 2 + spread as u64;
        if draw.is_multiple_of(50) { base + (draw % 8) * typical } else { base }
    }

    /// Fills bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }

    /// 32 bytes, as a machine's constructor takes them.
    pub fn entropy(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.fill(&mut bytes);
        bytes
    }

    /// The generator itself, for those that take one.
    pub fn generator(&mut self) -> &mut ChaCha8Rng {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_one_seed_are_apart_and_repeat() {
        let draw = |concern| Stream::new(7, concern).number();
        assert_eq!(draw(Concern::Disk(1)), draw(Concern::Disk(1)));
        assert_ne!(draw(Concern::Disk(1)), draw(Concern::Disk(2)));
        assert_ne!(draw(Concern::Disk(1)), draw(Concern::Link(1)));
    }

    #[test]
    fn draws_stay_inside_their_bounds() {
        let mut stream = Stream::new(1, Concern::Setup);
        for _ in 0..10_000 {
            assert!((3..=9).contains(&stream.between(3, 9)));
            assert!(stream.delay(1000) < 10_000);
        }
        assert_eq!(stream.below(0), 0);
    }
}
