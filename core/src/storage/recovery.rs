//! From what a disk holds to what a node may believe.

use super::Recovered;
use crate::{Config, Input, Now, Outputs};

/// Reads the disk, writes everything above the checkpoints again, and hands over.
pub struct Recovery {}

#[allow(unused_variables)]
impl Recovery {
    /// Begins.
    pub fn new(config: &Config, entropy: [u8; 32]) -> Recovery {
        todo!()
    }
    /// Takes [`Input::Start`] once and then each [`Input::Disk`].
    pub fn step(&mut self, now: Now, input: Input, out: &mut Outputs) {
        todo!()
    }
    /// What was recovered, once, when it is done.
    pub fn take(&mut self) -> Option<Recovered> {
        todo!()
    }
}
