//! Dense runs about disks: power is lost in the middle of groups, and what is found then is struck by all else that a disk may do.
//!
//! Each round aims at one node. What may be lost for good stays within the budget, but for some runs with one node, of which nobody
//! else has anything: there a loss must be seen, and what is lost is refused.

use super::Rounds;
use crate::disk::{self, FileKind};
use crate::scenario::kinds::{full_disk, losing, name_failure};
use crate::schedule::{Fault, Guard, Setup, Target};

/// What rots, as often as it is named: the two that nothing else damages come first.
const ROTS: [FileKind; 10] = [
    FileKind::Snapshot,
    FileKind::Snapshot,
    FileKind::Snapshot,
    FileKind::Checkpoint,
    FileKind::Checkpoint,
    FileKind::Checkpoint,
    FileKind::Index,
    FileKind::Index,
    FileKind::Segment,
    FileKind::Superblock,
];

pub(super) fn disks(rounds: &mut Rounds<'_>, setup: &mut Setup) {
    shape(rounds, setup);
    let depth_us = 40 * (setup.disk.command_us + setup.disk.sync_us);
    for _ in 0..rounds.draw.between(8, 13) {
        let node = match rounds.draw.below(3) {
            0 => rounds.leader(),
            _ => rounds.node(setup),
        };
        for _ in 0..rounds.draw.between(1, 3) {
            while_it_runs(rounds, setup, node);
            rounds.wait_ms(0, 60);
        }
        let down_ms = rounds.draw.between(1, 50);
        match rounds.draw.below(7) {
            0..=2 => {
                let fault = Fault::PowerLoss { nodes: vec![node], down_ms };
                rounds.fault(fault, vec![Guard::Up, Guard::Unsynced], 200_000);
            }
            3 => {
                // Others may be down for some disk's error: then nobody can take over from one that stops in good order.
                let fault = match rounds.draw.chance(500_000) {
                    true => Fault::OrderlyStop { node, down_ms, shards: None },
                    false => Fault::Crash { node, down_ms },
                };
                rounds.fault(fault, vec![Guard::Up], 50_000);
            }
            4 | 5 => {
                let rot = rot(rounds, node, Some(down_ms));
                rounds.fault(rot, beyond_or_losing(setup), 200_000);
            }
            _ => rounds.fault(Fault::CorruptJournal { node, down_ms }, beyond_or_losing(setup), 0),
        }
        for _ in 0..rounds.draw.below(4) {
            rounds.now_us += 1;
            let fault = while_it_recovers(rounds, node);
            let guards = vec![Guard::Recovering(rounds.draw.below(depth_us))];
            rounds.fault(fault, guards, 200_000);
        }
        rounds.wait_ms(50, 450);
    }
}

/// One node or three; groups of several blocks, of which each begins with a record; files that are soon full, snapshots and
/// indexes that are soon made.
fn shape(rounds: &mut Rounds<'_>, setup: &mut Setup) {
    if rounds.draw.chance(350_000) {
        setup.nodes.truncate(1);
        setup.beyond_budget = rounds.draw.chance(500_000);
    } else {
        setup.nodes.truncate(3);
    }
    let brokers = setup.nodes.len() as u64;
    for topic in &mut setup.topics {
        topic.replication = topic.replication.min(brokers as i16);
        topic.min_insync = topic.min_insync.min(topic.replication as u16);
    }
    setup.core.snapshot_every_records = rounds.draw.between(5, 15);
    setup.core.segment_bytes = rounds.draw.between(3_000, 12_000);
    setup.core.index_interval_bytes = rounds.draw.between(64, 512) as u32;
    rounds.long_groups(setup);
}

/// What a disk does under a running node.
fn while_it_runs(rounds: &mut Rounds<'_>, setup: &Setup, node: Target) {
    let (up, lost) = (vec![Guard::Up], beyond_or_losing(setup));
    let times = rounds.draw.between(1, 2) as u32;
    match rounds.draw.below(10) {
        0..=2 => {
            let for_ms = rounds.draw.between(50, 700);
            let full = full_disk(rounds.draw, node, for_ms);
            rounds.fault(full, up, 0);
            // A topic, or its end, is what makes files and snapshots, and removes them.
            rounds.topic(setup, 300);
        }
        3 => rounds.fault(Fault::SyncFailure { node }, up, 0),
        4 => rounds.fault(Fault::WriteFailure { node }, up, 0),
        5 | 6 => {
            let of = *rounds.draw.pick(&[
                disk::Fault::Create,
                disk::Fault::Rename,
                disk::Fault::Rename,
                disk::Fault::Remove,
            ]);
            rounds.fault(Fault::NameFailure { node, of, times, down_ms: None }, up, 0);
            rounds.topic(setup, 300);
        }
        7 => {
            let guards = if times > 1 { lost } else { up };
            rounds.fault(Fault::ReadFailure { node, reads: times }, guards, 0);
        }
        _ => {
            let rot = rot(rounds, node, None);
            rounds.fault(rot, lost, 200_000);
        }
    }
}

/// What strikes a node that finds what the last strike left.
fn while_it_recovers(rounds: &mut Rounds<'_>, node: Target) -> Fault {
    let down_ms = rounds.draw.between(1, 30);
    match rounds.draw.below(9) {
        0 => Fault::Crash { node, down_ms },
        1 => Fault::SyncFailure { node },
        2 => Fault::WriteFailure { node },
        3 => Fault::ReadFailure { node, reads: 1 },
        4 | 5 => {
            let for_ms = rounds.draw.between(20, 400);
            full_disk(rounds.draw, node, for_ms)
        }
        6 => name_failure(rounds.draw, node, down_ms),
        _ => Fault::PowerLoss { nodes: vec![node], down_ms },
    }
}

/// Rot of one file, or of both slots of a checkpoint while no node writes over them.
fn rot(rounds: &mut Rounds<'_>, node: Target, down_ms: Option<u64>) -> Fault {
    let of = *rounds.draw.pick(&ROTS);
    let both_slots = of == FileKind::Checkpoint && down_ms.is_some() && rounds.draw.chance(700_000);
    Fault::Rot { node, of, down_ms, both_slots }
}

/// When a copy may be lost: as in any run, or at any time once enough is acknowledged where no budget is kept.
fn beyond_or_losing(setup: &Setup) -> Vec<Guard> {
    match setup.beyond_budget {
        true => vec![Guard::Up, Guard::Acked(setup.acked_min)],
        false => losing(setup),
    }
}
