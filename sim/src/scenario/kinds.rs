//! Faults by their kinds: how one of each is drawn, at whom it is aimed, and what must hold before it strikes.

use milena_core::disk::Directory;

use crate::disk::{self, FileKind};
use crate::rng::Stream;
use crate::schedule::{Action, Direction, Entry, Fault, Guard, Setup, Target};

/// A node by number, or by the role it has when the fault strikes.
pub(super) fn target(setup: &Setup, draw: &mut Stream) -> Target {
    match draw.below(6) {
        0 => Target::Controller,
        1 | 2 => Target::Leader(draw.below(16) as usize),
        3 => Target::Follower(draw.below(16) as usize),
        _ => Target::Node(draw.below(setup.nodes.len() as u64) as usize),
    }
}

/// One fault of a kind, with what must go before it.
pub(super) fn fault(kind: &str, at_us: u64, setup: &Setup, draw: &mut Stream) -> Vec<Entry> {
    let node = target(setup, draw);
    let down_ms = if draw.chance(300_000) { draw.between(1, 30) } else { draw.between(30, 2_000) };
    let for_ms = draw.between(50, 2_500);
    let count = setup.nodes.len() as u64;
    let some = |draw: &mut Stream, most: u64| -> Vec<Target> {
        let first = draw.below(count);
        (0..draw.between(1, most)).map(|i| Target::Node(((first + i) % count) as usize)).collect()
    };
    let (fault, guards, patience_us) = match kind {
        "orderly-stop" => {
            (Fault::OrderlyStop { node, down_ms, shards: None }, vec![Guard::Up], 200_000)
        }
        "crash" => (Fault::Crash { node, down_ms }, vec![Guard::Up], 200_000),
        "power-loss" => {
            let (nodes, guards) = match draw.below(3) {
                0 => ((0..count as usize).map(Target::Node).collect(), vec![Guard::Unsynced]),
                1 => (some(draw, count), vec![Guard::Unsynced]),
                _ => (vec![node], vec![Guard::Up, Guard::Unsynced]),
            };
            (Fault::PowerLoss { nodes, down_ms }, guards, 500_000)
        }
        "moved" => {
            let nodes = if draw.chance(500_000) { vec![node] } else { some(draw, count) };
            let (among_themselves, gap_ms) = (draw.chance(300_000), draw.below(600));
            (Fault::Move { nodes, among_themselves, down_ms, gap_ms }, vec![Guard::Up], 200_000)
        }
        "pause" => (Fault::Pause { node, for_ms }, vec![Guard::Up], 0),
        "clock-jump" => {
            let by_ms = draw.between(0, 200_000) as i64 - 100_000;
            (Fault::ClockJump { node, by_ms }, vec![], 0)
        }
        "clock-rate" => {
            let ppm = draw.between(0, 400_000) as i64 - 200_000;
            (Fault::ClockRate { node, ppm }, vec![], 0)
        }
        "partition" => {
            let side = if draw.chance(500_000) { vec![node] } else { some(draw, count / 2) };
            (Fault::Partition { side, direction: Direction::Both, for_ms }, vec![], 0)
        }
        "one-way-partition" => {
            let direction =
                if draw.chance(500_000) { Direction::Outward } else { Direction::Inward };
            (Fault::Partition { side: vec![node], direction, for_ms }, vec![], 0)
        }
        "broken-connections" => (Fault::Break { node }, vec![], 0),
        "hang-up" => (Fault::HangUp { node }, vec![], 0),
        "cut-clients" => {
            (Fault::CutClients { node, direction: Direction::Both, for_ms }, vec![], 0)
        }
        "one-way-cut-clients" => {
            let direction =
                if draw.chance(500_000) { Direction::Outward } else { Direction::Inward };
            (Fault::CutClients { node, direction, for_ms }, vec![], 0)
        }
        "slow-clients" => {
            (Fault::SlowClients { node, factor: draw.between(5, 4_000), for_ms }, vec![], 0)
        }
        "slow-links" => {
            (Fault::SlowLinks { node, factor: draw.between(5, 400), for_ms }, vec![], 0)
        }
        "storm" => (Fault::Storm { for_ms }, vec![], 0),
        "slow-disk" => (Fault::SlowDisk { node, factor: draw.between(5, 300), for_ms }, vec![], 0),
        "full-disk" => (full_disk(draw, node, for_ms), vec![Guard::Up], 0),
        "sync-failure" => (Fault::SyncFailure { node }, vec![Guard::Up], 0),
        "write-failure" => (Fault::WriteFailure { node }, vec![Guard::Up], 0),
        "read-failure" => {
            // What fails twice is damage, and counts as a lost disk.
            let reads = draw.between(1, 2) as u32;
            let guards = if reads > 1 { losing(setup) } else { vec![Guard::Up] };
            (Fault::ReadFailure { node, reads }, guards, 0)
        }
        "destroyed-disk" => (Fault::DestroyDisk { node, down_ms }, losing(setup), 500_000),
        "corrupt-segment" => (Fault::CorruptSegment { node }, losing(setup), 500_000),
        "corrupt-journal" => (Fault::CorruptJournal { node, down_ms }, losing(setup), 500_000),
        "name-failure" => (name_failure(draw, node, down_ms), vec![Guard::Up], 0),
        "rot" => (rot(draw, node, down_ms), losing(setup), 500_000),
        "rollback" => {
            let Some(index) = setup.nodes.iter().position(|node| !node.controller) else {
                return Vec::new();
            };
            let node = Target::Node(index);
            let image = at_us.saturating_sub(draw.between(200_000, 2_000_000));
            let entry = |at_us, fault, guards| Entry {
                at_us,
                action: Action::Fault(fault),
                guards,
                patience_us: 500_000,
            };
            // Only a registration after the image tells the old disk from the present one.
            let again = image + draw.between(1_000, 20_000);
            let restart = Fault::Crash { node, down_ms: draw.between(1, 30) };
            return vec![
                entry(image, Fault::TakeImage { node }, vec![Guard::Up]),
                entry(again, restart, vec![Guard::Up]),
                entry(at_us, Fault::Rollback { node, down_ms }, losing(setup)),
            ];
        }
        "reshard" => {
            let shards = draw.between(1, 4) as u16;
            let action = Action::Reshard { node, shards, down_ms };
            return vec![Entry { at_us, action, guards: vec![Guard::Up], patience_us: 0 }];
        }
        other => panic!("no fault is called {other}"),
    };
    vec![Entry { at_us, action: Action::Fault(fault), guards, patience_us }]
}

/// A disk that is full, or nearly so; one of three copies on write.
pub(super) fn full_disk(draw: &mut Stream, node: Target, for_ms: u64) -> Fault {
    let room = if draw.chance(500_000) { 0 } else { draw.below(16 << 10) };
    Fault::FullDisk { node, for_ms, room, copies_on_write: draw.chance(330_000) }
}

/// A failure of a command about names: a listing while a node starts, and perhaps again where it is tried again; the others
/// whenever they come.
pub(super) fn name_failure(draw: &mut Stream, node: Target, down_ms: u64) -> Fault {
    let of = *draw.pick(&[
        disk::Fault::Create,
        disk::Fault::Rename,
        disk::Fault::Remove,
        disk::Fault::List,
    ]);
    let starts = of == disk::Fault::List || draw.chance(300_000);
    // A start lists all folders before it tries any again.
    let most = if of == disk::Fault::List { 2 * Directory::ALL.len() as u64 } else { 2 };
    let times = draw.between(1, most) as u32;
    Fault::NameFailure { node, of, times, down_ms: starts.then_some(down_ms) }
}

/// Damage to a file that is no journal, at rest or under a running node.
pub(super) fn rot(draw: &mut Stream, node: Target, down_ms: u64) -> Fault {
    let of = *draw.pick(&[
        FileKind::Snapshot,
        FileKind::Checkpoint,
        FileKind::Checkpoint,
        FileKind::Index,
        FileKind::Segment,
    ]);
    let at_rest = draw.chance(600_000);
    // Under a running node the next checkpoint would soon write over one of them.
    let both_slots = at_rest && of == FileKind::Checkpoint && draw.chance(500_000);
    Fault::Rot { node, of, down_ms: at_rest.then_some(down_ms), both_slots }
}

/// When a copy may be lost: within the budget, and once the run has acknowledged what it must. A partition may be offline for
/// good afterwards, where its replicas fail one after the other.
pub(super) fn losing(setup: &Setup) -> Vec<Guard> {
    vec![Guard::Up, Guard::Budget, Guard::Acked(setup.acked_min)]
}
