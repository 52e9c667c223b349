//! The machine that owns a share of the partitions.

use std::sync::Arc;

use crate::storage::{Store, Superblock};
use crate::{Config, Input, Instant, Machine, Now, Outputs, Timer};

/// The owner of a share of the partitions.
pub struct Shard {}

#[allow(unused_variables)]
impl Shard {
    /// Begins with what recovery found.
    pub fn new(
        config: Arc<Config>,
        index: u16,
        superblock: &Superblock,
        store: Store,
        seed: [u8; 32],
    ) -> Shard {
        todo!()
    }
}

#[allow(unused_variables)]
impl Machine for Shard {
    fn step(&mut self, now: Now, input: Input, out: &mut Outputs) {
        todo!()
    }
    fn next_timeout(&self) -> Option<(Instant, Timer)> {
        todo!()
    }
    fn check_invariants(&self) {}
}
