//! The machine that keeps the cluster's metadata.

use std::sync::Arc;

use crate::storage::{Store, Superblock};
use crate::{Config, Input, Instant, Machine, Now, Outputs, Timer};

/// Quorum, controller and the broker's registration.
pub struct Metadata {}

#[allow(unused_variables)]
impl Metadata {
    /// Begins with what recovery found.
    pub fn new(
        config: Arc<Config>,
        superblock: &Superblock,
        quorum_damaged: bool,
        store: Store,
        seed: [u8; 32],
    ) -> Metadata {
        todo!()
    }
}

#[allow(unused_variables)]
impl Machine for Metadata {
    fn step(&mut self, now: Now, input: Input, out: &mut Outputs) {
        todo!()
    }
    fn next_timeout(&self) -> Option<(Instant, Timer)> {
        todo!()
    }
    fn check_invariants(&self) {}
}
