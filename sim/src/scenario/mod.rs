//! Scenarios: named ranges from which a seed draws a schedule.
//!
//! A scenario is a file of `scenarios/`, built into the binary: how many nodes, how long, which faults with which weights.
//! Three of them follow a script instead of weights, because the order of their faults is their point (see [`Script`]).
//! Sizes are drawn so small that journals recycle, segments roll and logs are trimmed within a few simulated seconds.

pub mod dense;
mod kinds;
pub mod layout;
mod script;
mod workload;

use std::collections::BTreeMap;

use milena_core::config::ReplicationConfig;
use serde::Deserialize;

use crate::network::NetworkSettings;
use crate::rng::{Concern, Stream};
use crate::schedule::{
    Action, CleanerSettings, ConsumerSetup, CoreSettings, DiskSettings, Entry, FORMAT, Fault,
    NodeSetup, PipelineSettings, ProducerLimits, ProducerSetup, Schedule, Setup, Subject,
    TopicSetup,
};
use layout::Layout;

/// A scenario as its file says it.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: String,
    /// One line for the list.
    pub about: String,
    /// How faults are chosen.
    #[serde(default)]
    pub script: Script,
    /// Nodes, at least and at most.
    pub nodes: [u64; 2],
    /// How many of them may be controllers; an odd number of these is drawn.
    pub controllers: Vec<usize>,
    /// How long faults go on, milliseconds.
    pub faults_ms: [u64; 2],
    /// How many faults, at least and at most.
    #[serde(default)]
    pub faults: [u64; 2],
    /// How likely each kind is, as a share of the sum.
    #[serde(default)]
    pub weights: BTreeMap<String, u64>,
    /// Whether a seed uses only a random part of the kinds.
    #[serde(default)]
    pub subset: bool,
    /// Of so many seeds one is dense, see [`dense`]; none if 0.
    #[serde(default)]
    pub dense: u64,
    /// What its dense seeds are about, if it is always the same.
    #[serde(default)]
    pub subject: Option<Subject>,
    /// Of so many seeds that are not dense one has nodes of another kind, see [`layout`]; none if 0.
    #[serde(default)]
    pub layouts: u64,
    /// How often some clients stop reading for a while, at most, in a seed that is not dense.
    #[serde(default)]
    pub stalls: u64,
    /// Chance in a million, at most, of losing, doubling or reordering a message.
    #[serde(default)]
    pub unreliable: u32,
    /// Whether every producer is idempotent.
    #[serde(default)]
    pub idempotent: bool,
    /// Whether every topic is compacted.
    #[serde(default)]
    pub compacted: bool,
    /// What a sweep of it must meet, by the names of marks: in what share of its seeds at least, in percent.
    #[serde(default)]
    pub floors: BTreeMap<String, u64>,
    /// Whether disks may be lost beyond what the theorem allows.
    #[serde(default)]
    pub beyond_budget: bool,
}

/// How faults are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Script {
    /// By weights, at random times.
    #[default]
    Weights,
    /// N-1 of N lost, in every order, by crash or by disk.
    NMinusOne,
    /// Disks destroyed before, during and after the first boot.
    Founding,
    /// Every disk that holds a partition destroyed.
    BeyondBudget,
    /// One node after the other restarted.
    Rolling,
    /// Nodes that come back at other addresses.
    Moved,
}

/// When topics exist and clients have begun, as a rule.
pub const WARM_UP_MS: u64 = 1_500;

const FILES: [&str; 16] = [
    include_str!("../../../scenarios/steady.toml"),
    include_str!("../../../scenarios/n-minus-one.toml"),
    include_str!("../../../scenarios/power-loss.toml"),
    include_str!("../../../scenarios/partition.toml"),
    include_str!("../../../scenarios/slow-disk.toml"),
    include_str!("../../../scenarios/disk-full.toml"),
    include_str!("../../../scenarios/rolling-restart.toml"),
    include_str!("../../../scenarios/moved.toml"),
    include_str!("../../../scenarios/founding.toml"),
    include_str!("../../../scenarios/beyond-budget.toml"),
    include_str!("../../../scenarios/dense.toml"),
    include_str!("../../../scenarios/disks.toml"),
    include_str!("../../../scenarios/idempotence.toml"),
    include_str!("../../../scenarios/compaction.toml"),
    include_str!("../../../scenarios/nodes.toml"),
    include_str!("../../../scenarios/swarm.toml"),
];

/// All scenarios, in the order of the list.
pub fn all() -> Vec<Scenario> {
    FILES
        .iter()
        .map(|text| toml::from_str(text).expect("a built-in scenario is well-formed"))
        .collect()
}

/// The scenario of a name.
pub fn named(name: &str) -> Option<Scenario> {
    all().into_iter().find(|scenario| scenario.name == name)
}

impl Scenario {
    /// What a seed makes of this scenario.
    pub fn expand(&self, seed: u64) -> Schedule {
        let mut draw = Stream::new(seed, Concern::Setup);
        let mut setup = self.setup(seed, &mut draw);
        let mut characters = Stream::new(seed, Concern::Workload);
        workload::characters(&mut setup, self.idempotent, self.compacted, &mut characters);
        setup.subject = self.subject(seed);
        let mut faults = Stream::new(seed, Concern::Faults);
        let mut entries = match self.script {
            Script::Weights => match setup.subject {
                Some(subject) => dense::entries(subject, &mut setup, &mut faults),
                None => self.weighted(&mut setup, &mut faults),
            },
            Script::NMinusOne => script::n_minus_one(&mut setup, seed, &mut faults),
            Script::Founding => script::founding(&mut setup, seed, &mut faults),
            Script::BeyondBudget => script::beyond_budget(&mut setup, &mut faults),
            Script::Rolling => script::rolling(&mut setup, &mut faults),
            Script::Moved => script::moved(&mut setup, seed, &mut faults),
        };
        topics_come_and_go(&setup, &mut faults, &mut entries);
        if self.stalls > 0 && setup.subject.is_none() {
            let mut draw = Stream::new(seed, Concern::Readers);
            readers_stop(self.stalls, &mut setup, &mut draw, &mut entries);
        }
        if self.script == Script::Rolling {
            script::spare_one_replica(&mut setup, &mut entries);
        }
        entries.sort_by_key(|entry| entry.at_us);
        Schedule { format: FORMAT, scenario: self.name.clone(), seed, setup, entries }
    }

    /// What a seed is about, if it is a dense one: each in its turn, so that a sweep tries all.
    fn subject(&self, seed: u64) -> Option<Subject> {
        let turn = seed.checked_div(self.dense)?;
        let is_dense = seed % self.dense == self.dense - 1;
        let in_turn = || Subject::ALL[(turn % Subject::ALL.len() as u64) as usize];
        is_dense.then(|| self.subject.unwrap_or_else(in_turn))
    }

    /// What is particular about a seed's nodes, if anything is: each in its turn.
    fn layout(&self, seed: u64) -> Option<Layout> {
        let turn = seed.checked_div(self.layouts)?;
        let has_one = seed.is_multiple_of(self.layouts) && self.subject(seed).is_none();
        has_one.then(|| Layout::ALL[(turn % Layout::ALL.len() as u64) as usize])
    }

    fn nodes(&self, draw: &mut Stream) -> Vec<NodeSetup> {
        let controllers = *draw.pick(&self.controllers);
        let nodes = draw.between(self.nodes[0], self.nodes[1]).max(controllers as u64) as usize;
        (0..nodes)
            .map(|index| NodeSetup {
                broker: true,
                controller: index < controllers,
                shards: draw.between(1, 4) as u16,
                start_ms: draw.below(100),
            })
            .collect()
    }

    fn setup(&self, seed: u64, draw: &mut Stream) -> Setup {
        let nodes = match self.layout(seed) {
            Some(layout) => layout.nodes(draw),
            None => self.nodes(draw),
        };
        let unreliable = if draw.chance(500_000) { self.unreliable } else { 0 };
        let network = NetworkSettings {
            latency_us: draw.between(30, 400),
            loss: draw.below(u64::from(unreliable) + 1) as u32,
            duplication: draw.below(u64::from(unreliable) + 1) as u32,
            reordering: draw.below(u64::from(unreliable) + 1) as u32,
        };
        let sync_us = draw.between(50, 800);
        let command_us = draw.between(2, 20);
        let disk = DiskSettings { command_us, sync_us, fill_us: None, capacity: 256 << 20 };
        // Those that join late may not be waited for.
        let brokers = nodes.iter().filter(|n| n.broker && n.start_ms < WARM_UP_MS).count();
        let topics = (0..draw.between(1, 3))
            .map(|index| topic(draw, format!("t{index}"), brokers))
            .collect::<Vec<_>>();
        let producers = (0..draw.between(2, 4))
            .map(|index| ProducerSetup {
                // The first one always asks for everything that the promise is about.
                acks: if index == 0 || draw.chance(850_000) { -1 } else { draw.below(2) as i16 },
                pause_us: draw.between(1_000, 12_000),
                records_max: draw.between(1, 4),
                bytes_max: *draw.pick(&[16, 100, 100, 400, 900]),
                in_flight: draw.between(1, 5) as usize,
                compress: draw.chance(200_000),
                ..ProducerSetup::default()
            })
            .collect();
        let consumers = (0..draw.between(1, 2))
            .map(|_| ConsumerSetup {
                pause_us: draw.between(5_000, 40_000),
                sessions: draw.chance(500_000),
                partition_bytes: draw.between(500, 8_000) as i32,
                ..ConsumerSetup::default()
            })
            .collect();
        let phase = draw.between(self.faults_ms[0], self.faults_ms[1]);
        Setup {
            nodes,
            network,
            disk,
            core: core_settings(draw),
            pipeline: PipelineSettings::default(),
            topics,
            producers,
            consumers,
            seekers: Vec::new(),
            strangers: Vec::new(),
            heal_at_ms: WARM_UP_MS + phase,
            acked_min: 50,
            converge_ms_max: 60_000,
            beyond_budget: self.beyond_budget,
            promises_faults: self.faults[1] > 0 || self.dense > 0 || self.script != Script::Weights,
            subject: None,
            back_within_ms: None,
            gap_ms_max: None,
        }
    }

    fn weighted(&self, setup: &mut Setup, draw: &mut Stream) -> Vec<Entry> {
        let mut kinds: Vec<(&str, u64)> =
            self.weights.iter().map(|(kind, weight)| (kind.as_str(), *weight)).collect();
        if self.subset {
            kinds.retain(|_| draw.chance(600_000));
            if kinds.is_empty() {
                kinds.push(("crash", 1));
            }
        }
        let sum: u64 = kinds.iter().map(|(_, weight)| weight).sum();
        let count = draw.between(self.faults[0], self.faults[1]);
        let mut entries = Vec::new();
        for _ in 0..count {
            let mut left = draw.below(sum.max(1));
            let Some((kind, _)) = kinds.iter().find(|(_, weight)| {
                let found = left < *weight;
                left = left.saturating_sub(*weight);
                found
            }) else {
                break;
            };
            let at_us = draw.between(WARM_UP_MS * 1_000, (setup.heal_at_ms - 500) * 1_000);
            entries.extend(kinds::fault(kind, at_us, setup, draw));
        }
        // Some orders of faults matter too much to wait until they are drawn one by one.
        if self.subset {
            entries.extend(match draw.below(20) {
                0 | 1 => script::slow_first_boot(setup, draw),
                2 => script::flapping_follower(setup, draw),
                3 => script::leader_left_behind(setup, draw),
                4 | 5 => script::struck_while_recovering(setup, draw),
                _ => Vec::new(),
            });
        }
        entries
    }
}

/// A topic drawn for a cluster of so many brokers.
fn topic(draw: &mut Stream, name: String, brokers: usize) -> TopicSetup {
    let replication = if draw.chance(850_000) { 3 } else { draw.between(1, 3) }.min(brokers as u64);
    // Mostly the default, and each other value often enough to be tried.
    let min_insync = if draw.chance(600_000) { 2 } else { draw.between(1, replication) };
    TopicSetup {
        name,
        partitions: draw.between(2, 6) as i32,
        replication: replication as i16,
        min_insync: min_insync.min(replication) as u16,
        segment_bytes: None,
        retention_bytes: draw.chance(500_000).then(|| draw.between(8_000, 60_000) as i64),
        // Without a limit it keeps records of every time, as strange as their producers say.
        retention_ms: Some(if draw.chance(150_000) { draw.between(200, 4_000) as i64 } else { -1 }),
        log_append_time: false,
        compaction: None,
    }
}

/// Sizes so small that everything that happens once a day on a real broker happens within seconds.
fn core_settings(draw: &mut Stream) -> CoreSettings {
    let election_timeout_ms = draw.between(100, 400);
    let batch_bytes_max = 8_192;
    CoreSettings {
        journal_file_bytes: 4096 * draw.between(5, 7) as u32,
        metadata_journal_file_bytes: 4096 * draw.between(2, 3) as u32,
        journal_files: if draw.chance(900_000) { 3 } else { draw.between(4, 5) as u32 },
        group_bytes_max: 4096 * draw.between(3, 5) as u32,
        segment_bytes: draw.between(6_000, 40_000),
        index_interval_bytes: draw.between(256, 4_096) as u32,
        memory_bytes_max: draw.between(48_000, 400_000),
        idle_mark_ms: draw.between(2, 10),
        retention_check_ms: draw.between(200, 1_000),
        reserve_bytes: 64 << 10,
        election_timeout_ms,
        heartbeat_ms: election_timeout_ms / 5,
        snapshot_every_records: draw.between(15, 120),
        message_bytes_max: draw.between(600, 8_000) as u32,
        broker_heartbeat_ms: draw.between(40, 120),
        broker_session_ms: draw.between(300, 1_200),
        preferred_leader_ms: draw.between(200, 2_000),
        lag_ms_max: draw.between(150, 1_500),
        push_retry_ms: draw.between(20, 150),
        turns_max: if draw.chance(333_000) { draw.between(1, 3) as usize } else { 500 },
        push_bytes_max: draw.between(8_192, 16_384) as u32,
        push_window_bytes: draw.between(16_384, 65_536) as u32,
        batch_bytes_max,
        fetch_bytes_max: 64 << 10,
        fetch_sessions_max: draw.between(1, 8) as usize,
        fetch_session_evictable_ms: ReplicationConfig::default().fetch_session_evictable_ms,
        cleaner: CleanerSettings::default(),
        producers: ProducerLimits::default(),
    }
}

fn topics_come_and_go(setup: &Setup, draw: &mut Stream, entries: &mut Vec<Entry>) {
    let brokers = setup.nodes.iter().filter(|node| node.broker).count();
    let span = (WARM_UP_MS * 1_000, setup.heal_at_ms.max(WARM_UP_MS + 1) * 1_000);
    for index in 0..draw.below(3) {
        let at_us = draw.between(span.0, span.1);
        let made = topic(draw, format!("later{index}"), brokers);
        let (name, partitions) = (made.name.clone(), made.partitions);
        let entry = |at_us, action| Entry { at_us, action, guards: Vec::new(), patience_us: 0 };
        entries.push(entry(at_us, Action::CreateTopic(made)));
        let grows = draw.chance(500_000);
        if grows {
            let at_us = at_us + draw.between(0, 2_000_000);
            let partitions = partitions + draw.between(1, 3) as i32;
            entries.push(entry(at_us, Action::GrowTopic { name: name.clone(), partitions }));
        }
        if draw.chance(700_000) {
            let gone = at_us + draw.between(200_000, 3_000_000);
            entries.push(entry(gone, Action::DeleteTopic { name: name.clone() }));
            // A later one of its name may have as many partitions already.
            if !grows && draw.chance(700_000) {
                let again = topic(draw, name, brokers);
                let at_us = gone + draw.between(0, 200_000);
                entries.push(entry(at_us, Action::CreateTopic(again)));
            }
        }
    }
}

/// Some clients read nothing for a while. Little may wait for them, and not for long: some are waited for, some are given up.
fn readers_stop(most: u64, setup: &mut Setup, draw: &mut Stream, entries: &mut Vec<Entry>) {
    setup.pipeline = PipelineSettings {
        unsent_bytes_max: draw.between(200, 20_000) as usize,
        frame_ms_max: draw.between(300, 2_000),
        ..PipelineSettings::default()
    };
    setup.core.fetch_session_evictable_ms = draw.between(50, 3_000);
    for _ in 0..draw.between(1, most) {
        let at_us = draw.between(WARM_UP_MS * 1_000, (setup.heal_at_ms - 500) * 1_000);
        let (node, for_ms) = (kinds::target(setup, draw), draw.between(100, 3_000));
        let action = Action::Fault(Fault::StopReading { node, for_ms });
        entries.push(Entry { at_us, action, guards: Vec::new(), patience_us: 0 });
    }
    if draw.chance(700_000) {
        setup.pipeline.shard_unsent_bytes_max = draw.between(200, 2_500) as usize;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::batch::OVERSIZE;

    #[test]
    fn every_scenario_expands_the_same_way_twice() {
        for scenario in all() {
            for seed in 0..50 {
                let schedule = scenario.expand(seed);
                assert_eq!(schedule, scenario.expand(seed));
                assert!((schedule.setup.core.batch_bytes_max as usize) < OVERSIZE);
                assert_eq!(schedule.setup.voters() % 2, 1, "{}: voters are odd", scenario.name);
                assert!(
                    schedule
                        .entries
                        .iter()
                        .all(|e| e.at_us <= 3_200_000 + schedule.setup.heal_at_ms * 1_000)
                );
            }
        }
    }

    #[test]
    fn floors_name_marks() {
        let marks = crate::check::marks::Marks::default();
        let names: Vec<&str> = marks.iter().map(|(name, _)| name).collect();
        for scenario in all() {
            let unknown = scenario.floors.keys().find(|name| !names.contains(&name.as_str()));
            assert_eq!(unknown, None, "{}", scenario.name);
        }
    }

    #[test]
    fn layouts_have_their_turns() {
        for name in ["nodes", "swarm"] {
            let scenario = named(name).expect("a scenario of the list");
            let drawn = (0..4 * scenario.layouts).filter_map(|seed| {
                let layout = scenario.layout(seed)?;
                let nodes = scenario.expand(seed).setup.nodes;
                let late = nodes.iter().filter(|node| node.start_ms >= WARM_UP_MS).count();
                let brokers = nodes.iter().filter(|node| node.broker).count();
                let controllers = nodes.iter().filter(|node| node.controller).count();
                assert!(brokers - late >= 3, "{layout:?}: a topic has three replicas");
                match layout {
                    Layout::ControllersAlone => assert_eq!(brokers + controllers, nodes.len()),
                    Layout::OneController => assert_eq!(controllers, 1),
                    Layout::LateJoiners => assert!(late > 0),
                    Layout::Seven => assert_eq!(nodes.len(), 7),
                }
                Some(layout)
            });
            assert_eq!(drawn.collect::<Vec<_>>(), Layout::ALL, "{name}");
        }
    }

    #[test]
    fn a_saved_schedule_reads_back_equal() {
        let schedule = named("swarm").expect("swarm is a scenario").expand(3);
        let text = serde_json::to_string(&schedule).expect("schedules serialise");
        assert_eq!(serde_json::from_str::<Schedule>(&text).expect("and read back"), schedule);
        let text = toml::to_string(&schedule).expect("in TOML too");
        assert_eq!(toml::from_str::<Schedule>(&text).expect("and read back"), schedule);
    }
}
