//! Dense runs: one subject, and its faults in such short succession that they meet.
//!
//! Faults drawn over a whole run at random seldom fall into the same tenth of a second, and a bug that needs three of them in
//! order is then not found by thousands of seeds. Here each round of faults begins before the last one is over, aims at whoever
//! holds the office that the subject is about, and is timed by the cluster's own time-outs. What may be lost stays within the
//! budget of the theorem, by the same guards.

mod disks;

use super::WARM_UP_MS;
use super::kinds::{full_disk, losing, name_failure, rot};
use crate::rng::Stream;
use crate::schedule::{Action, Direction, Entry, Fault, Guard, Setup, Subject, Target, TopicSetup};

/// The faults of a run about a subject. Sizes and times of the cluster are drawn anew where the subject needs others.
pub(super) fn entries(subject: Subject, setup: &mut Setup, draw: &mut Stream) -> Vec<Entry> {
    let mut rounds = Rounds::new(draw);
    match subject {
        Subject::Elections => elections(&mut rounds, setup),
        Subject::StaleEpochs => stale_epochs(&mut rounds, setup),
        Subject::LostDisks => lost_disks(&mut rounds, setup),
        Subject::Recovery => recovery(&mut rounds, setup),
        Subject::FullDisks => full_disks(&mut rounds, setup),
        Subject::Topics => topics(&mut rounds, setup),
        Subject::Retention => retention(&mut rounds, setup),
        Subject::Absences => absences(&mut rounds, setup),
        Subject::Disks => disks::disks(&mut rounds, setup),
    }
    setup.heal_at_ms = rounds.now_us / 1_000 + 500;
    rounds.entries
}

/// A schedule as it is written, from its beginning on.
struct Rounds<'a> {
    draw: &'a mut Stream,
    entries: Vec<Entry>,
    /// What is added next strikes no earlier.
    now_us: u64,
    topics: u64,
}

impl Rounds<'_> {
    fn new(draw: &mut Stream) -> Rounds<'_> {
        let now_us = (WARM_UP_MS + draw.between(0, 500)) * 1_000;
        Rounds { draw, entries: Vec::new(), now_us, topics: 0 }
    }

    fn add(&mut self, action: Action, guards: Vec<Guard>, patience_us: u64) {
        self.entries.push(Entry { at_us: self.now_us, action, guards, patience_us });
    }

    fn fault(&mut self, fault: Fault, guards: Vec<Guard>, patience_us: u64) {
        self.add(Action::Fault(fault), guards, patience_us);
    }

    fn wait_ms(&mut self, low: u64, high: u64) {
        self.now_us += self.draw.between(low * 1_000, high * 1_000);
    }

    fn direction(&mut self) -> Direction {
        *self.draw.pick(&[Direction::Both, Direction::Outward, Direction::Inward])
    }

    fn node(&mut self, setup: &Setup) -> Target {
        Target::Node(self.draw.below(setup.nodes.len() as u64) as usize)
    }

    fn leader(&mut self) -> Target {
        Target::Leader(self.draw.below(16) as usize)
    }

    fn follower(&mut self) -> Target {
        Target::Follower(self.draw.below(16) as usize)
    }

    fn crash(&mut self, node: Target, low_ms: u64, high_ms: u64) {
        let down_ms = self.draw.between(low_ms, high_ms);
        let fault = match self.draw.chance(500_000) {
            true => Fault::Crash { node, down_ms },
            false => Fault::PowerLoss { nodes: vec![node], down_ms },
        };
        self.fault(fault, vec![Guard::Up], 50_000);
    }

    fn cut(&mut self, node: Target, low_ms: u64, high_ms: u64) {
        let (direction, for_ms) = (self.direction(), self.draw.between(low_ms, high_ms));
        let fault = match self.draw.below(8) {
            0 => Fault::CutLink { node, from: Target::Controller, direction, for_ms },
            1 => Fault::CutLink { node, from: self.follower(), direction, for_ms },
            _ => Fault::Partition { side: vec![node], direction, for_ms },
        };
        self.fault(fault, vec![], 0);
    }

    fn pause(&mut self, node: Target, low_ms: u64, high_ms: u64) {
        let for_ms = self.draw.between(low_ms, high_ms);
        self.fault(Fault::Pause { node, for_ms }, vec![Guard::Up], 0);
    }

    /// Lets much wait for each sync, so that groups have several blocks; mostly such that a record begins at each of these,
    /// which recovery finds behind a hole.
    fn long_groups(&mut self, setup: &mut Setup) {
        setup.core.group_bytes_max = 4096 * 5;
        setup.disk.sync_us = self.draw.between(2_000, 8_000);
        setup.nodes.iter_mut().for_each(|node| node.shards = self.draw.between(1, 2) as u16);
        let even = self.draw.chance(700_000);
        for producer in &mut setup.producers {
            producer.bytes_max = 16;
            producer.in_flight = self.draw.between(10, 40) as usize;
            producer.pause_us = self.draw.between(400, 1_500);
            producer.even = even;
        }
    }

    fn name(&mut self) -> String {
        self.topics += 1;
        format!("brief{}", self.topics - 1)
    }

    fn make(&mut self, setup: &Setup, name: &str) {
        let replication = setup.nodes.iter().filter(|node| node.broker).count().min(3) as i16;
        let topic = TopicSetup {
            name: name.into(),
            partitions: self.draw.between(1, 3) as i32,
            replication,
            min_insync: self.draw.between(1, replication as u64) as u16,
            segment_bytes: None,
            retention_bytes: None,
            // Without a limit it keeps records of every time, as strange as their producers say.
            retention_ms: Some(-1),
            log_append_time: false,
            compaction: None,
        };
        self.add(Action::CreateTopic(topic), Vec::new(), 0);
    }

    /// Makes a topic, and mostly deletes it again within `lives_ms`.
    fn topic(&mut self, setup: &Setup, lives_ms: u64) {
        let name = self.name();
        self.make(setup, &name);
        if self.draw.chance(700_000) {
            let made_us = self.now_us;
            self.now_us += self.draw.between(1_000, lives_ms * 1_000);
            self.add(Action::DeleteTopic { name }, Vec::new(), 0);
            self.now_us = made_us;
        }
    }

    /// Makes topics of one name one after the other, each of which is deleted within `lives_ms`, the last one perhaps.
    fn namesakes(&mut self, setup: &Setup, lives_ms: u64) {
        let (name, first_us) = (self.name(), self.now_us);
        let count = self.draw.between(2, 4);
        for one in 1..=count {
            self.make(setup, &name);
            if one == count && self.draw.chance(600_000) {
                break;
            }
            self.wait_ms(1, lives_ms);
            self.add(Action::DeleteTopic { name: name.clone() }, Vec::new(), 0);
            self.wait_ms(0, 30);
        }
        self.now_us = first_us;
    }
}

/// Leaders of the quorum fall silent one after the other, are heard late, stop.
fn elections(rounds: &mut Rounds<'_>, setup: &mut Setup) {
    let timeout_ms = rounds.draw.between(80, 200);
    setup.core.election_timeout_ms = timeout_ms;
    setup.core.heartbeat_ms = timeout_ms / 5;
    // Shrunk sets are proposals: they fill the tails.
    setup.core.lag_ms_max = rounds.draw.between(40, timeout_ms);
    setup.core.push_retry_ms = rounds.draw.between(10, 40);
    // Messages take long enough to be struck on their way.
    setup.network.latency_us = rounds.draw.between(500, 2_500);
    // Of three voters any two decide, so that logs grow apart sooner.
    if rounds.draw.chance(600_000) {
        setup.nodes.iter_mut().skip(3).for_each(|node| node.controller = false);
    }
    for _ in 0..rounds.draw.between(5, 9) {
        match rounds.draw.below(10) {
            0..=3 => tail_of_an_earlier_term(rounds, setup, timeout_ms),
            4..=6 => unheard_leaders(rounds, timeout_ms),
            _ => silent_leader(rounds, setup, timeout_ms),
        }
        rounds.wait_ms(timeout_ms, timeout_ms * 4);
    }
}

/// A leader of the quorum is cut off with much that it has appended and nobody else has; another is elected, commits little and
/// fails; the first one is back while that one is away.
fn tail_of_an_earlier_term(rounds: &mut Rounds<'_>, setup: &mut Setup, timeout_ms: u64) {
    let for_ms = timeout_ms * rounds.draw.between(25, 45) / 10;
    let cut_us = rounds.now_us;
    for _ in 0..rounds.draw.between(2, 5) {
        rounds.topic(setup, 2_000);
        rounds.wait_ms(0, 1);
    }
    let side = vec![Target::Controller];
    rounds.now_us = cut_us + rounds.draw.below(3_000);
    rounds.fault(Fault::Partition { side, direction: Direction::Both, for_ms }, vec![], 0);
    let down_ms = for_ms + timeout_ms * rounds.draw.between(10, 40) / 10;
    let little_us = rounds.draw.below(4 * (setup.disk.sync_us + setup.network.latency_us) + 2_000);
    let fault = Fault::Crash { node: Target::Controller, down_ms };
    rounds.fault(fault, vec![Guard::Elected(1, little_us), Guard::Up], for_ms * 1_000);
    rounds.now_us += for_ms * 1_000;
}

/// Leaders of the quorum are cut off as they are elected, the first of them for long and later ones again and again: these have
/// the first records of several terms of which nobody else has heard when the first one is back, leads with a shorter log of a
/// newer term, commits, and fails.
fn unheard_leaders(rounds: &mut Rounds<'_>, timeout_ms: u64) {
    let patience_us = 20 * timeout_ms * 1_000;
    let unheard = rounds.draw.between(3, 5) as u32;
    for election in 0..=unheard {
        let tenths = match election {
            1 => rounds.draw.between(50, 100),
            last if last == unheard => rounds.draw.between(25, 60),
            _ => rounds.draw.between(11, 18),
        };
        let side = vec![Target::Controller];
        let guards = if election > 0 { vec![Guard::Elected(election, 0)] } else { vec![] };
        let for_ms = timeout_ms * tenths / 10;
        let cut = Fault::Partition { side, direction: Direction::Both, for_ms };
        rounds.fault(cut, guards, patience_us);
    }
    let down_ms = timeout_ms * rounds.draw.between(40, 90) / 10;
    let little_us = rounds.draw.between(3_000, 25_000);
    let fault = Fault::Crash { node: Target::Controller, down_ms };
    rounds.fault(fault, vec![Guard::Elected(unheard + 1, little_us), Guard::Up], patience_us);
    rounds.now_us += patience_us;
}

/// A leader of the quorum is heard late, or not at all, and whoever comes next fails soon.
fn silent_leader(rounds: &mut Rounds<'_>, setup: &mut Setup, timeout_ms: u64) {
    let (node, for_ms) = (Target::Controller, timeout_ms * rounds.draw.between(8, 35) / 10);
    match rounds.draw.below(4) {
        0 => rounds.cut(node, for_ms, for_ms),
        1 => rounds.pause(node, for_ms, for_ms),
        2 => {
            let late_us = timeout_ms * 100 * rounds.draw.between(3, 20);
            let factor = late_us / setup.network.latency_us;
            rounds.fault(Fault::SlowLinks { node, factor, for_ms }, vec![], 0);
        }
        _ => {
            let side = vec![node];
            let outward = Direction::Outward;
            rounds.fault(Fault::Partition { side, direction: outward, for_ms }, vec![], 0);
        }
    }
    for _ in 0..rounds.draw.below(4) {
        rounds.wait_ms(0, timeout_ms / 4);
        rounds.topic(setup, 1_000);
    }
    rounds.wait_ms(timeout_ms / 2, timeout_ms * 2);
    match rounds.draw.below(4) {
        0 | 1 => rounds.crash(node, 1, timeout_ms * 6),
        2 => rounds.cut(node, timeout_ms, timeout_ms * 4),
        _ => rounds.pause(node, timeout_ms / 2, timeout_ms * 4),
    }
}

/// What a leader sends a follower, or a follower its leader, takes as long as it takes to change leaders twice.
fn stale_epochs(rounds: &mut Rounds<'_>, setup: &mut Setup) {
    let session_ms = rounds.draw.between(150, 350);
    setup.core.broker_session_ms = session_ms;
    setup.core.broker_heartbeat_ms = session_ms / 6;
    setup.core.preferred_leader_ms = rounds.draw.between(60, 400);
    setup.core.push_retry_ms = rounds.draw.between(15, 60);
    // Where all are needed, whoever is away is eligible at once, and stays so if it comes back with all that it had.
    let all = rounds.draw.chance(300_000);
    for topic in &mut setup.topics {
        topic.min_insync = if all { topic.replication as u16 } else { topic.min_insync.min(2) };
    }
    for _ in 0..rounds.draw.between(5, 9) {
        let place = rounds.draw.below(16) as usize;
        let (leader, follower) = (Target::Leader(place), Target::Follower(place));
        let late_ms = rounds.draw.between(50, session_ms * 3);
        let factor = (late_ms * 1_000 / setup.network.latency_us).max(2);
        let for_ms = rounds.draw.between(20, session_ms * 2);
        let (from, to) = match rounds.draw.chance(500_000) {
            true => (leader, follower),
            false => (follower, leader),
        };
        rounds.fault(Fault::SlowLink { from, to, factor, for_ms }, vec![], 0);
        rounds.wait_ms(5, 150);
        for _ in 0..2 {
            match rounds.draw.below(4) {
                0 | 1 => rounds.pause(leader, session_ms / 2, session_ms * 2),
                2 => rounds.crash(leader, 1, session_ms),
                _ => rounds.cut(leader, session_ms / 2, session_ms * 2),
            }
            rounds.wait_ms(session_ms / 3, session_ms * 3 / 2);
        }
        if rounds.draw.chance(400_000) {
            unconfirmed_epoch(rounds, setup);
        }
    }
}

/// A broker comes back several times in a row, and what it says of a registration that its disk has is lost on its way.
fn unconfirmed_epoch(rounds: &mut Rounds<'_>, setup: &Setup) {
    let from = rounds.node(setup);
    let late_ms = rounds.draw.between(20, 80);
    let factor = (late_ms * 1_000 / setup.network.latency_us).max(2);
    let slow = Fault::SlowLink { from, to: Target::Controller, factor, for_ms: late_ms * 12 };
    rounds.fault(slow, vec![], 0);
    for _ in 0..rounds.draw.between(2, 4) {
        rounds.fault(Fault::Break { node: from }, vec![], 0);
        rounds.crash(from, 1, 20);
        rounds.wait_ms(late_ms, late_ms * 4);
    }
}

/// Disks are lost as soon as the budget allows another loss, while others fail to sync, stop, or are cut off.
fn lost_disks(rounds: &mut Rounds<'_>, setup: &mut Setup) {
    setup.core.lag_ms_max = rounds.draw.between(100, 400);
    let restored = setup.nodes.iter().position(|node| !node.controller).map(Target::Node);
    for _ in 0..rounds.draw.between(8, 14) {
        let node = match rounds.draw.below(3) {
            0 => rounds.leader(),
            1 => Target::Follower(rounds.draw.below(16) as usize),
            _ => rounds.node(setup),
        };
        let down_ms = rounds.draw.between(1, 300);
        let guards = losing(setup);
        match rounds.draw.below(9) {
            0..=2 => rounds.fault(Fault::DestroyDisk { node, down_ms }, guards, 400_000),
            3 => rounds.fault(Fault::CorruptJournal { node, down_ms }, guards, 400_000),
            4 => {
                rounds.fault(Fault::CorruptSegment { node }, guards, 400_000);
                // Damage to a segment shows when somebody reads it: a recovery, or a follower that begins anew.
                rounds.wait_ms(1, 50);
                rounds.crash(node, 1, 100);
            }
            5 => rounds.fault(Fault::ReadFailure { node, reads: 2 }, guards, 400_000),
            6 | 7 => {
                let rot = rot(rounds.draw, node, down_ms);
                let at_rest = matches!(rot, Fault::Rot { down_ms: Some(_), .. });
                rounds.fault(rot, guards, 400_000);
                if !at_rest {
                    rounds.wait_ms(1, 100);
                    rounds.crash(node, 1, 100);
                }
            }
            _ => {
                let Some(node) = restored else { continue };
                rounds.fault(Fault::TakeImage { node }, vec![Guard::Up], 0);
                rounds.wait_ms(1, 20);
                rounds.crash(node, 1, 30);
                rounds.wait_ms(50, 400);
                rounds.fault(Fault::Rollback { node, down_ms }, guards, 400_000);
            }
        }
        rounds.wait_ms(0, 250);
        let other = rounds.node(setup);
        match rounds.draw.below(5) {
            0 => rounds.crash(other, 1, 200),
            1 => rounds.cut(other, 50, 500),
            2 => rounds.fault(Fault::SyncFailure { node: other }, vec![Guard::Up], 0),
            3 => rounds.pause(other, 50, 500),
            _ => {}
        }
        rounds.wait_ms(20, 400);
    }
}

/// Groups as long as they get are torn by power losses, and the recovery that finds them is struck itself.
fn recovery(rounds: &mut Rounds<'_>, setup: &mut Setup) {
    rounds.long_groups(setup);
    let depth_us = 40 * (setup.disk.command_us + setup.disk.sync_us);
    for _ in 0..rounds.draw.between(5, 9) {
        let node = rounds.node(setup);
        let count = setup.nodes.len() as u64;
        let mut nodes = vec![node];
        nodes.extend((0..rounds.draw.below(count)).map(|index| Target::Node(index as usize)));
        let down_ms = rounds.draw.between(1, 50);
        let lost = Fault::PowerLoss { nodes, down_ms };
        rounds.fault(lost, vec![Guard::Up, Guard::Unsynced], 300_000);
        for _ in 0..rounds.draw.between(1, 4) {
            rounds.now_us += 1;
            let down_ms = rounds.draw.between(1, 50);
            let fault = match rounds.draw.below(8) {
                0 | 1 => Fault::Crash { node, down_ms },
                2 => Fault::SyncFailure { node },
                3 => Fault::WriteFailure { node },
                4 => match rounds.draw.below(2) {
                    0 => Fault::ReadFailure { node, reads: 1 },
                    _ => name_failure(rounds.draw, node, down_ms),
                },
                5 => {
                    let for_ms = rounds.draw.between(20, 400);
                    full_disk(rounds.draw, node, for_ms)
                }
                _ => Fault::PowerLoss { nodes: vec![node], down_ms },
            };
            let guards = vec![Guard::Recovering(rounds.draw.below(depth_us))];
            rounds.fault(fault, guards, 400_000);
        }
        rounds.wait_ms(50, 600);
        if rounds.draw.chance(250_000) {
            let shards = rounds.draw.between(1, 4) as u16;
            let down_ms = rounds.draw.between(1, 50);
            let again = Action::Reshard { node, shards, down_ms };
            rounds.add(again, vec![Guard::Up], 300_000);
            rounds.wait_ms(20, 200);
        }
    }
}

/// Disks fill up, several at once, and are full when their nodes stop, start, elect, delete and trim.
fn full_disks(rounds: &mut Rounds<'_>, setup: &mut Setup) {
    for topic in &mut setup.topics {
        topic.retention_bytes = Some(rounds.draw.between(6_000, 30_000) as i64);
    }
    for _ in 0..rounds.draw.between(6, 10) {
        let first = rounds.draw.below(setup.nodes.len() as u64) as usize;
        for step in 0..rounds.draw.between(1, setup.nodes.len() as u64) as usize {
            let node = Target::Node((first + step) % setup.nodes.len());
            let for_ms = rounds.draw.between(50, 900);
            let full = full_disk(rounds.draw, node, for_ms);
            rounds.fault(full, vec![Guard::Up], 100_000);
            rounds.wait_ms(0, 60);
        }
        rounds.topic(setup, 500);
        for _ in 0..rounds.draw.between(1, 3) {
            match rounds.draw.below(4) {
                0 => rounds.crash(Target::Node(first), 1, 100),
                1 => {
                    let leader = rounds.leader();
                    rounds.crash(leader, 1, 200);
                }
                2 => rounds.cut(Target::Controller, 50, 600),
                _ => {
                    let node = rounds.node(setup);
                    rounds.fault(Fault::WriteFailure { node }, vec![Guard::Up], 0);
                }
            }
            rounds.wait_ms(10, 200);
        }
        rounds.wait_ms(50, 400);
    }
}

/// Topics live for moments, and those who should hear of it are away.
fn topics(rounds: &mut Rounds<'_>, setup: &mut Setup) {
    for _ in 0..rounds.draw.between(8, 14) {
        for _ in 0..rounds.draw.between(1, 2) {
            match rounds.draw.chance(500_000) {
                true => rounds.namesakes(setup, 600),
                false => rounds.topic(setup, 600),
            }
            rounds.wait_ms(0, 60);
        }
        let node = match rounds.draw.below(3) {
            0 => Target::Controller,
            1 => rounds.leader(),
            _ => rounds.node(setup),
        };
        match rounds.draw.below(6) {
            0 | 1 => rounds.crash(node, 1, 500),
            2 => rounds.cut(node, 50, 600),
            3 => rounds.pause(node, 50, 600),
            4 => {
                let (shards, down_ms) =
                    (rounds.draw.between(1, 4) as u16, rounds.draw.between(1, 300));
                rounds.add(Action::Reshard { node, shards, down_ms }, vec![Guard::Up], 50_000);
            }
            _ => {
                let (factor, for_ms) = (rounds.draw.between(5, 100), rounds.draw.between(50, 500));
                rounds.fault(Fault::SlowDisk { node, factor, for_ms }, vec![], 0);
            }
        }
        rounds.wait_ms(20, 400);
    }
}

/// Every log is trimmed all the time, also by leaders that nobody follows any more and on nodes whose clocks jump.
fn retention(rounds: &mut Rounds<'_>, setup: &mut Setup) {
    setup.core.retention_check_ms = rounds.draw.between(30, 150);
    setup.core.segment_bytes = rounds.draw.between(1_500, 6_000);
    setup.core.lag_ms_max = rounds.draw.between(100, 600);
    for topic in &mut setup.topics {
        let by_size = rounds.draw.chance(700_000);
        topic.retention_bytes = by_size.then(|| rounds.draw.between(0, 10_000) as i64);
        topic.retention_ms = Some(if by_size { -1 } else { rounds.draw.between(50, 800) as i64 });
    }
    for _ in 0..rounds.draw.between(7, 12) {
        let place = rounds.draw.below(16) as usize;
        let (leader, follower) = (Target::Leader(place), Target::Follower(place));
        match rounds.draw.below(6) {
            0 => rounds.cut(leader, 100, 900),
            1 => rounds.pause(follower, 100, 900),
            2 => rounds.cut(follower, 100, 900),
            3 => {
                let by_ms = rounds.draw.below(20_000) as i64 - 10_000;
                rounds.fault(Fault::ClockJump { node: leader, by_ms }, vec![], 0);
            }
            4 => {
                let (factor, for_ms) = (rounds.draw.between(5, 100), rounds.draw.between(50, 500));
                rounds.fault(Fault::SlowDisk { node: leader, factor, for_ms }, vec![], 0);
            }
            _ => rounds.crash(follower, 1, 700),
        }
        rounds.wait_ms(20, 400);
        match rounds.draw.below(3) {
            0 | 1 => rounds.crash(leader, 1, 400),
            _ => rounds.pause(leader, 100, 700),
        }
        rounds.wait_ms(50, 500);
    }
}

/// One node after the other is away for longer than any time-out of its cluster, in each way that a node can be: the others must
/// go on without it.
fn absences(rounds: &mut Rounds<'_>, setup: &mut Setup) {
    let timeout_ms = rounds.draw.between(80, 150);
    setup.core.election_timeout_ms = timeout_ms;
    setup.core.heartbeat_ms = timeout_ms / 5;
    let session_ms = rounds.draw.between(150, 300);
    setup.core.broker_session_ms = session_ms;
    setup.core.broker_heartbeat_ms = session_ms / 6;
    setup.core.push_retry_ms = rounds.draw.between(15, 40);
    setup.core.lag_ms_max = rounds.draw.between(100, 300);
    for _ in 0..rounds.draw.between(2, 3) {
        let node = match rounds.draw.below(3) {
            0 => Target::Controller,
            1 => rounds.leader(),
            _ => rounds.node(setup),
        };
        let for_ms = rounds.draw.between(4_000, 7_000);
        match rounds.draw.below(7) {
            0 => {
                let fault = Fault::Crash { node, down_ms: for_ms };
                rounds.fault(fault, vec![Guard::Up], 50_000);
            }
            1 => rounds.pause(node, for_ms, for_ms),
            2 | 3 => {
                let (place, direction) = (rounds.draw.below(16) as usize, rounds.direction());
                let (node, from) = (Target::Leader(place), Target::Follower(place));
                rounds.fault(Fault::CutLink { node, from, direction, for_ms }, vec![], 0);
            }
            _ => rounds.cut(node, for_ms, for_ms),
        }
        rounds.now_us += for_ms * 1_000;
        rounds.wait_ms(200, 1_000);
    }
    // Of what only the one that is away has, the others can say so, and must not wait for it.
    if rounds.draw.chance(500_000)
        && let Some(topic) = setup.topics.last_mut()
    {
        (topic.replication, topic.min_insync) = (1, 1);
    }
}
