//! Scenarios whose faults follow an order: which one, a seed draws by its own remainder, so that a sweep tries each.

use super::WARM_UP_MS;
use crate::rng::Stream;
use crate::schedule::{
    Action, Direction, Entry, Fault, Guard, NodeSetup, ProducerLimits, Setup, Target,
};

fn entry(at_us: u64, fault: Fault, guards: Vec<Guard>) -> Entry {
    Entry { at_us, action: Action::Fault(fault), guards, patience_us: 2_000_000 }
}

/// Every order of the first `count` numbers, by its index.
fn order(count: usize, mut index: u64) -> Vec<usize> {
    let mut left: Vec<usize> = (0..count).collect();
    let mut order = Vec::with_capacity(count);
    while !left.is_empty() {
        let next = (index % left.len() as u64) as usize;
        index /= left.len() as u64;
        order.push(left.remove(next));
    }
    order
}

/// All but one of the replicas lost: even seeds by crash with three nodes, odd seeds by disk with five controllers and three
/// replicas, in the order that the seed names.
pub fn n_minus_one(setup: &mut Setup, seed: u64, draw: &mut Stream) -> Vec<Entry> {
    let by_disk = seed % 2 == 1;
    let nodes = if by_disk { 5 } else { 3 };
    setup.nodes = (0..nodes)
        .map(|_| NodeSetup {
            broker: true,
            controller: true,
            shards: draw.between(1, 4) as u16,
            start_ms: draw.below(100),
        })
        .collect();
    for topic in &mut setup.topics {
        topic.replication = 3;
        // With m = N the promise holds whatever the in-sync set was; otherwise the budget waits until it is full again.
        topic.min_insync = if draw.chance(500_000) { 3 } else { 2 };
    }
    let order = order(nodes, seed / 2);
    let mut at_us = (WARM_UP_MS + draw.between(200, 2_000)) * 1_000;
    let mut entries = Vec::new();
    for round in 0..2 {
        for victim in order.iter().take(2) {
            let node = Target::Node(*victim);
            if by_disk {
                if round == 0 {
                    let down_ms = draw.between(10, 1_000);
                    let fault = Fault::DestroyDisk { node, down_ms };
                    entries.push(entry(at_us, fault, vec![Guard::Up, Guard::Budget]));
                } else {
                    entries.push(entry(
                        at_us,
                        Fault::Crash { node, down_ms: draw.between(10, 2_000) },
                        vec![Guard::Up],
                    ));
                }
            } else if draw.chance(500_000) {
                let fault = Fault::Crash { node, down_ms: draw.between(500, 3_000) };
                entries.push(entry(at_us, fault, vec![Guard::Up]));
            } else {
                let fault =
                    Fault::PowerLoss { nodes: vec![node], down_ms: draw.between(500, 3_000) };
                entries.push(entry(at_us, fault, vec![Guard::Up, Guard::Unsynced]));
            }
            at_us += draw.between(1, 1_500_000);
        }
        at_us += draw.between(500_000, 3_000_000);
    }
    setup.heal_at_ms = setup.heal_at_ms.max(at_us / 1_000 + 1_000);
    entries
}

/// Disks destroyed before, during and after the first boot. Every fourth seed destroys two of three and owes no
/// convergence: there only a second cluster would be wrong.
pub fn founding(setup: &mut Setup, seed: u64, draw: &mut Stream) -> Vec<Entry> {
    let mut entries = Vec::new();
    let two = seed % 4 == 3;
    setup.beyond_budget = two;
    if two {
        // Nothing may ever be acknowledged where no cluster is founded.
        setup.acked_min = 0;
    }
    for node in &mut setup.nodes {
        node.start_ms = draw.below(1_000);
    }
    let controllers = setup.voters() as u64;
    let losses = if two { 2 } else { draw.between(1, controllers / 2) };
    let first = draw.below(controllers);
    for loss in 0..losses {
        let node = Target::Node(((first + loss) % controllers) as usize);
        let guards = if two { vec![Guard::Up] } else { vec![Guard::Up, Guard::Budget] };
        let at_us = draw.below(1_600_000);
        let fault = Fault::DestroyDisk { node, down_ms: draw.between(1, 800) };
        entries.push(entry(at_us, fault, guards));
    }
    for _ in 0..draw.between(1, 4) {
        let node = Target::Node(draw.below(setup.nodes.len() as u64) as usize);
        let at_us = draw.below(2_000_000);
        let down_ms = draw.between(1, 500);
        entries.push(match draw.below(3) {
            0 => entry(at_us, Fault::Crash { node, down_ms }, vec![Guard::Up]),
            1 => entry(at_us, Fault::PowerLoss { nodes: vec![node], down_ms }, vec![Guard::Up]),
            _ => entry(at_us, Fault::SlowLinks { node, factor: 200, for_ms: down_ms }, vec![]),
        });
    }
    entries
}

/// As many controllers are slow to start for the first time as make a majority with one more; before they do, that one loses
/// its disk while the rest are away. Those that are then empty must not found a cluster of their own. Mostly the one is the
/// first of the list, which is the one that founds.
pub fn slow_first_boot(setup: &mut Setup, draw: &mut Stream) -> Vec<Entry> {
    let controllers = setup.voters();
    let emptied = if draw.chance(750_000) { 0 } else { draw.below(controllers as u64) as usize };
    let shift = draw.below(controllers as u64 - 1) as usize;
    let mut others: Vec<usize> = (0..controllers).filter(|node| *node != emptied).collect();
    others.rotate_left(shift);
    let (slow, away) = others.split_at(controllers / 2);
    let at_us = draw.between(600_000, 1_000_000);
    let down_ms = draw.between(20, 200);
    for node in slow {
        setup.nodes[*node].start_ms = at_us / 1_000 + down_ms + draw.below(50);
    }
    let mut entries: Vec<Entry> = away
        .iter()
        .map(|node| {
            let fault = Fault::Crash { node: Target::Node(*node), down_ms: 1_500 };
            entry(at_us - 20_000, fault, vec![Guard::Up])
        })
        .collect();
    let fault = Fault::DestroyDisk { node: Target::Node(emptied), down_ms };
    entries.push(entry(at_us, fault, vec![Guard::Up, Guard::Budget]));
    entries
}

/// A follower stops again and again, just long enough to be dropped from the in-sync set, and no sooner comes back than it stops
/// again, while what the leader proposes takes longer than that to reach the controller: a proposal is out of date
/// when it is committed.
pub fn flapping_follower(setup: &mut Setup, draw: &mut Stream) -> Vec<Entry> {
    let lag_ms = draw.between(100, 180);
    setup.core.lag_ms_max = lag_ms;
    setup.core.broker_session_ms = draw.between(900, 1_500);
    setup.core.push_retry_ms = draw.between(15, 40);
    for topic in &mut setup.topics {
        topic.replication = 3;
        topic.min_insync = topic.min_insync.min(2);
    }
    let place = draw.below(16) as usize;
    let (leader, follower) = (Target::Leader(place), Target::Follower(place));
    let mut at_us = (WARM_UP_MS + draw.between(200, 1_500)) * 1_000;
    let factor = lag_ms * 1_000 * draw.between(12, 20) / 10 / setup.network.latency_us;
    let rounds = draw.between(6, 12);
    let slow = Fault::SlowLink { from: leader, to: Target::Controller, factor, for_ms: 9_000 };
    let mut entries = vec![entry(at_us, slow, vec![])];
    at_us += 500_000;
    for _ in 0..rounds {
        let for_ms = lag_ms * draw.between(15, 25) / 10;
        entries.push(entry(at_us, Fault::Pause { node: follower, for_ms }, vec![Guard::Up]));
        at_us += (for_ms + draw.between(20, 200)) * 1_000;
    }
    setup.heal_at_ms = setup.heal_at_ms.max(at_us / 1_000 + 500);
    entries
}

/// A leader is cut off from the others for longer than its session, with clients that still reach it: it comes back as a
/// follower with records that nobody else has. Where every replica is asked for, nothing that is appended later hides them.
pub fn leader_left_behind(setup: &mut Setup, draw: &mut Stream) -> Vec<Entry> {
    for topic in &mut setup.topics {
        (topic.replication, topic.min_insync) = (3, 3);
    }
    let session_ms = setup.core.broker_session_ms;
    let mut at_us = (WARM_UP_MS + draw.between(200, 1_500)) * 1_000;
    let mut entries = Vec::new();
    for _ in 0..draw.between(2, 4) {
        let side = vec![Target::Leader(draw.below(16) as usize)];
        let for_ms = session_ms + draw.between(300, 1_500);
        let cut = Fault::Partition { side, direction: Direction::Both, for_ms };
        entries.push(entry(at_us, cut, vec![]));
        at_us += (for_ms + draw.between(300, 1_500)) * 1_000;
    }
    setup.heal_at_ms = setup.heal_at_ms.max(at_us / 1_000);
    entries
}

/// A node loses power with bytes unsynced, and stops again and again while it recovers.
pub fn struck_while_recovering(setup: &Setup, draw: &mut Stream) -> Vec<Entry> {
    let node = Target::Node(draw.below(setup.nodes.len() as u64) as usize);
    let lost = Fault::PowerLoss { nodes: vec![node], down_ms: draw.between(1, 30) };
    let mut at_us = draw.between(WARM_UP_MS * 1_000, (setup.heal_at_ms - 1_500) * 1_000);
    let mut entries = vec![entry(at_us, lost, vec![Guard::Up, Guard::Unsynced])];
    for _ in 0..draw.between(1, 4) {
        at_us += 1;
        let down_ms = draw.between(1, 30);
        let fault = match draw.below(3) {
            0 => Fault::Crash { node, down_ms },
            _ => Fault::PowerLoss { nodes: vec![node], down_ms },
        };
        let depth_us = draw.below(40 * (setup.disk.command_us + setup.disk.sync_us));
        entries.push(entry(at_us, fault, vec![Guard::Recovering(depth_us)]));
    }
    entries
}

/// Every disk that holds some partition destroyed within a short time: the loss is seen or the partition refuses.
pub fn beyond_budget(setup: &mut Setup, draw: &mut Stream) -> Vec<Entry> {
    setup.beyond_budget = true;
    setup.nodes = (0..6)
        .map(|index| NodeSetup {
            broker: index >= 3,
            controller: index < 3,
            shards: draw.between(1, 4) as u16,
            start_ms: draw.below(100),
        })
        .collect();
    for topic in &mut setup.topics {
        topic.replication = 3;
        topic.min_insync = draw.between(1, 3) as u16;
    }
    let mut at_us = (WARM_UP_MS + draw.between(500, 3_000)) * 1_000;
    let start = draw.below(3);
    let mut entries = Vec::new();
    for index in 0..3 {
        let node = Target::Node(3 + ((start + index) % 3) as usize);
        let fault = Fault::DestroyDisk { node, down_ms: draw.between(10, 1_000) };
        entries.push(entry(at_us, fault, vec![Guard::Up, Guard::Acked(60)]));
        at_us += draw.between(1, 100_000);
    }
    entries
}

/// One node after the other restarted in good order, each as soon as the one before is back, some with another number of
/// shards. No batch waits for long.
pub fn rolling(setup: &mut Setup, draw: &mut Stream) -> Vec<Entry> {
    setup.gap_ms_max = Some(GAP_MS_MAX);
    // Whoever finds no room is served later, which is another matter than a stop.
    setup.core.memory_bytes_max = 16 << 20;
    setup.core.journal_file_bytes *= 16;
    setup.core.journal_files = 8;
    setup.core.producers = ProducerLimits::default();
    // Nor may it be long without room because it has just started, which takes two files filled.
    setup.disk.fill_us = Some(draw.between(1, 20) * 1_000);
    let mut entries = Vec::new();
    let mut at_us = WARM_UP_MS * 1_000;
    for _ in 0..draw.between(2, 4) {
        for index in 0..setup.nodes.len() {
            let node = Target::Node(index);
            let down_ms = draw.between(20, 400);
            let shards = draw.chance(400_000).then(|| draw.between(1, 4) as u16);
            entries.push(Entry {
                at_us,
                action: Action::Fault(Fault::OrderlyStop { node, down_ms, shards }),
                guards: vec![Guard::Up, Guard::Whole],
                patience_us: 3_000_000,
            });
            at_us += (down_ms + draw.between(50, 900)) * 1_000;
        }
    }
    setup.heal_at_ms = setup.heal_at_ms.max(at_us / 1_000 + 3_000);
    // As in production: nothing that is lost is said again in time, so that nothing may be.
    setup.core.push_retry_ms = draw.between(GAP_MS_MAX + 50, 400);
    entries
}

/// How long a cluster may take to be back once its last node is.
const BACK_MS: u64 = 5_000;

/// Nodes that come back elsewhere: all of them one after the other, at places that nobody had or at one another's, and one alone,
/// while the others go on or all fail just after, with lists that do not have its new place. Nothing else strikes, so that what takes long is seen.
pub fn moved(setup: &mut Setup, seed: u64, draw: &mut Stream) -> Vec<Entry> {
    setup.back_within_ms = Some(BACK_MS);
    let count = setup.nodes.len();
    let mut entries = Vec::new();
    // Soon there is a snapshot, which names the old addresses.
    setup.core.snapshot_every_records = draw.between(5, 20);
    let mut at_us = (WARM_UP_MS + draw.between(1_000, 3_000)) * 1_000;
    for round in 0..2 {
        let kind = (seed + round) % 4;
        let nodes: Vec<Target> = match kind {
            0 | 3 => vec![Target::Node(draw.below(count as u64) as usize)],
            _ => (0..count).map(Target::Node).collect(),
        };
        let (down_ms, gap_ms) = (draw.between(10, 1_500), draw.between(0, 3_000));
        let mut away_ms = down_ms + gap_ms * (nodes.len() as u64 - 1);
        let fault = Fault::Move { nodes, among_themselves: kind == 2, down_ms, gap_ms };
        entries.push(entry(at_us, fault, vec![Guard::Up]));
        if kind == 3 {
            // Sooner or later than it serves at its new place.
            let at_us = at_us + (down_ms + draw.between(1, 400)) * 1_000;
            let nodes = (0..count).map(Target::Node).collect();
            entries.push(entry(at_us, Fault::PowerLoss { nodes, down_ms: 50 }, vec![]));
            away_ms += 1_000;
        }
        at_us += (away_ms + BACK_MS + draw.between(500, 1_500)) * 1_000;
    }
    setup.heal_at_ms = setup.heal_at_ms.max(at_us / 1_000);
    entries
}

/// What a stop in good order may cost a batch.
const GAP_MS_MAX: u64 = 200;

/// Every topic has three replicas and needs two of them, so that each broker can be spared.
pub fn spare_one_replica(setup: &mut Setup, entries: &mut [Entry]) {
    let made = entries.iter_mut().filter_map(|entry| match &mut entry.action {
        Action::CreateTopic(topic) => Some(topic),
        _ => None,
    });
    for topic in setup.topics.iter_mut().chain(made) {
        topic.replication = 3;
        topic.min_insync = topic.min_insync.min(2);
    }
}
