//! What would be left of a node if its power went now: its disk copied, everything unsynced taken away, and recovered by
//! core's own recovery.
//!
//! Batches are found on the disk by their checksums; a vote has none, so this is how the checkers see whether it is durable at
//! the moment it leaves (R3). It costs a whole recovery and is done for votes only, which are rare.

use std::collections::VecDeque;

use milena_core::disk::Command;
use milena_core::node::Boot;
use milena_core::{Config, Epoch, Incarnation, Input, Machine, NodeId, Now, OpId, Output, Outputs};

use crate::disk::Disk;
use crate::rng::Stream;

/// Term and vote that a disk holds.
pub type TermAndVote = (Epoch, Option<(NodeId, Incarnation)>);

/// A recovery of what is durable takes fewer commands than this.
const COMMANDS_MAX: usize = 100_000;

/// Term and vote that a power loss now would leave; none if the disk could not be recovered.
pub fn durable_vote(
    disk: &Disk,
    config: Config,
    now: Now,
    draw: &mut Stream,
) -> Option<TermAndVote> {
    let mut disk = disk.clone();
    disk.power_loss_of_all();
    disk.set_capacity(None);
    let mut boot = Boot::new(config, draw.entropy());
    let mut out = Outputs::default();
    boot.step(now, Input::Start, &mut out);
    let mut node = boot.take();
    for _ in 0..COMMANDS_MAX {
        if node.is_some() {
            break;
        }
        let (op, command) = next_command(&mut out.queue)?;
        let outcome = disk.apply(&command, draw.generator());
        boot.step(now, Input::Disk { op, outcome }, &mut out);
        node = boot.take();
    }
    let mut metadata = node?.metadata;
    let mut out = Outputs::default();
    metadata.step(now, Input::Start, &mut out);
    let view = metadata.view().quorum.view();
    Some((view.term, view.vote))
}

fn next_command(queue: &mut VecDeque<Output>) -> Option<(OpId, Command)> {
    while let Some(output) = queue.pop_front() {
        if let Output::Disk { op, command } = output {
            return Some((op, command));
        }
    }
    None
}
