//! The metadata machines of a cluster with each other: founding, registration, leadership, topics, restarts. No shards.
//!
//! The disk does everything at once and loses nothing; the network delays, and where a test says so loses and doubles.

#[path = "../common/mod.rs"]
mod common;
mod producer_ids;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::InstantDisk;
use milena_core::controller::message::ControllerMessage;
use milena_core::disk::{Command, Outcome};
use milena_core::image::{Image, Partition};
use milena_core::local::{AlterPartition, LocalMessage, Member};
use milena_core::metadata::{Metadata, MetadataView};
use milena_core::peer::{self, PeerMessage};
use milena_core::storage::Recovery;
use milena_core::trace::{Event, Mark};
use milena_core::{
    ClientContext, ClientId, Config, Halt, Input, Instant, LogId, Machine, NodeId, Now, Offset,
    OpId, Output, Outputs, Place,
};
use milena_wire::messages::create_topics::{CreatableTopic, CreateTopicsRequest};
use milena_wire::messages::delete_topics::DeleteTopicsRequest;
use milena_wire::messages::describe_quorum::{
    DescribeQuorumPartition, DescribeQuorumRequest, DescribeQuorumResponse, DescribeQuorumTopic,
    METADATA_TOPIC, QuorumReplica,
};
use milena_wire::{ErrorCode, Request, Response};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

const SECOND: u64 = 1_000;

/// A process, up.
struct Process {
    metadata: Metadata,
    /// What its shards were told, in order.
    told: Vec<(Place, LocalMessage)>,
}

enum Coming {
    Peer { from: i32, message: PeerMessage },
    Disk { op: OpId, outcome: Outcome },
}

struct World {
    now: Instant,
    list: Vec<i32>,
    disks: BTreeMap<i32, InstantDisk>,
    up: BTreeMap<i32, Process>,
    /// Starts so far of each node: what was meant for an earlier process is lost.
    starts: BTreeMap<i32, u64>,
    coming: BTreeMap<(Instant, u64), (i32, u64, Coming)>,
    sequence: u64,
    rng: ChaCha8Rng,
    journal_file_bytes: u32,
    /// Disk writes so far.
    writes: u64,
    /// In a hundred messages.
    lost: u32,
    doubled: u32,
    /// What was applied at each offset, by whomever.
    hashes: BTreeMap<Offset, u64>,
    sometimes: BTreeMap<Mark, u32>,
    /// What operators were told, by which node.
    lines: Vec<(i32, String)>,
    /// What nodes knew that stopped in good order.
    left: BTreeMap<i32, Arc<Image>>,
    /// The node that is to halt, and why it did.
    halts: Option<(i32, Option<Halt>)>,
    /// Between which nodes nothing arrives, from the first to the second.
    cut: Vec<(i32, i32)>,
}

impl World {
    fn new(nodes: i32, seed: u64) -> World {
        World::with_journals(nodes, seed, 1 << 20)
    }

    fn with_journals(nodes: i32, seed: u64, journal_file_bytes: u32) -> World {
        let mut world = World {
            now: Instant(0),
            list: (1..=nodes).collect(),
            disks: (1..=nodes).map(|node| (node, InstantDisk::default())).collect(),
            up: BTreeMap::new(),
            starts: BTreeMap::new(),
            coming: BTreeMap::new(),
            sequence: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
            journal_file_bytes,
            writes: 0,
            lost: 0,
            doubled: 0,
            hashes: BTreeMap::new(),
            sometimes: BTreeMap::new(),
            lines: Vec::new(),
            left: BTreeMap::new(),
            halts: None,
            cut: Vec::new(),
        };
        for node in 1..=nodes {
            world.start(node);
        }
        world
    }

    fn config(&self, node: i32) -> Config {
        let peer = |node: i32| format!("localhost:{}", 7000 + node);
        let mut config = Config {
            node: NodeId(node),
            controllers: self.list.iter().map(|node| (NodeId(*node), peer(*node))).collect(),
            broker: true,
            controller: self.list.contains(&node),
            kafka: ("localhost".into(), 9000 + node as u16),
            peer: peer(node),
            rack: None,
            shards: 1,
            storage: Default::default(),
            quorum: Default::default(),
            replication: Default::default(),
        };
        config.storage.metadata_journal_file_bytes = self.journal_file_bytes;
        config.storage.journal_files = 4;
        config.quorum.snapshot_every_records = 20;
        config
    }

    fn clock(&self) -> Now {
        Now { mono: self.now, wall: 0 }
    }

    fn start(&mut self, node: i32) {
        let starts = self.starts.entry(node).or_default();
        *starts += 1;
        let mut entropy = [0; 32];
        self.rng.fill_bytes(&mut entropy);
        let config = self.config(node);
        let mut recovery = Recovery::new(&config, entropy);
        let mut input = vec![Input::Start];
        let recovered = loop {
            let mut out = Outputs::default();
            for input in input.drain(..) {
                recovery.step(self.clock(), input, &mut out);
            }
            if let Some(recovered) = recovery.take() {
                let told = |output: &Output| matches!(output, Output::Log { .. });
                assert!(out.queue.iter().all(told));
                break recovered;
            }
            let disk = self.disks.get_mut(&node).unwrap();
            for output in out.queue {
                let Output::Disk { op, command } = output else { panic!("{output:?}") };
                input.push(Input::Disk { op, outcome: disk.apply(&command) });
            }
            assert!(!input.is_empty(), "recovery goes on");
        };
        self.rng.fill_bytes(&mut entropy);
        let metadata = Metadata::new(
            Arc::new(config),
            &recovered.superblock,
            recovered.quorum_damaged,
            recovered.metadata,
            entropy,
        );
        self.up.insert(node, Process { metadata, told: Vec::new() });
        self.step(node, Input::Start);
    }

    fn stop(&mut self, node: i32) {
        self.up.remove(&node).expect("it was up");
    }

    fn later(&mut self, micros: u64, node: i32, coming: Coming) {
        self.sequence += 1;
        let at = Instant(self.now.0 + micros * 1_000);
        self.coming.insert((at, self.sequence), (node, self.starts[&node], coming));
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.next_u32() % 100 < percent
    }

    fn step(&mut self, node: i32, input: Input) {
        let now = self.clock();
        let Some(process) = self.up.get_mut(&node) else { return };
        let mut out = Outputs::traced();
        process.metadata.step(now, input, &mut out);
        process.metadata.check_invariants();
        for event in out.events {
            match event {
                Event::Applied { offset, hash } => {
                    let known = *self.hashes.entry(offset).or_insert(hash);
                    assert_eq!(known, hash, "node {node} applies something else at {offset}");
                }
                Event::SnapshotInstalled { end, hash } => {
                    assert_eq!(self.hashes[&(end - 1)], hash, "a snapshot is what was applied");
                }
                Event::Sometimes(mark) => *self.sometimes.entry(mark).or_default() += 1,
                _ => {}
            }
        }
        for output in out.queue {
            match output {
                Output::Send { to, message } => {
                    for _ in 0..1 + u32::from(self.chance(self.doubled)) {
                        if !self.chance(self.lost) && !self.cut.contains(&(node, to.0)) {
                            let micros = 200 + u64::from(self.rng.next_u32() % 2_000);
                            let frame = peer::encode(&message).concat();
                            let message = peer::decode(frame.into()).unwrap();
                            self.later(micros, to.0, Coming::Peer { from: node, message });
                        }
                    }
                }
                Output::Local { to, message } => {
                    self.up.get_mut(&node).unwrap().told.push((to, message));
                }
                Output::Disk { op, command } => {
                    self.writes += u64::from(matches!(command, Command::Write { .. }));
                    let outcome = self.disks.get_mut(&node).unwrap().apply(&command);
                    self.later(100, node, Coming::Disk { op, outcome });
                }
                Output::Log { line, .. } => self.lines.push((node, line)),
                Output::Halt(why) if self.halts == Some((node, None)) => {
                    self.halts = Some((node, Some(why)));
                    self.stop(node);
                    return;
                }
                Output::Stop => {
                    let process = self.up.remove(&node).expect("it stops once");
                    self.left.insert(node, process.metadata.view().image.clone());
                    return;
                }
                Output::Reply { .. }
                | Output::Close { .. }
                | Output::Work { .. }
                | Output::Halt(_) => {
                    panic!("node {node}: {output:?}")
                }
            }
        }
    }

    /// Goes on until something is so; panics where it is not so after that time.
    fn until(&mut self, what: &str, limit_ms: u64, mut done: impl FnMut(&World) -> bool) {
        let limit = self.now.after_ms(limit_ms);
        while !done(self) {
            let timeouts = self.up.iter().filter_map(|(node, process)| {
                process.metadata.next_timeout().map(|(at, _)| (at.max(self.now), *node))
            });
            let timeout = timeouts.min();
            let coming = self.coming.first_key_value().map(|((at, _), _)| *at);
            let timer_first = match (timeout, coming) {
                (Some((at, _)), Some(coming)) => at < coming,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => panic!("{what}: nothing will happen any more"),
            };
            self.now = if timer_first { timeout.unwrap().0 } else { coming.unwrap() };
            assert!(self.now <= limit, "{what}: not within {limit_ms} ms");
            if timer_first {
                self.step(timeout.unwrap().1, Input::Timeout);
            } else {
                let (_, (node, starts, coming)) = self.coming.pop_first().unwrap();
                if self.starts[&node] == starts {
                    let input = match coming {
                        Coming::Peer { from, message } => {
                            Input::Peer { from: NodeId(from), message }
                        }
                        Coming::Disk { op, outcome } => Input::Disk { op, outcome },
                    };
                    self.step(node, input);
                }
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        let end = self.now.after_ms(ms);
        self.until("time passes", ms + SECOND, |world| world.now >= end);
    }

    fn image(&self, node: i32) -> &Arc<Image> {
        self.up[&node].metadata.view().image
    }

    fn serving(&self, node: i32) -> bool {
        self.up.get(&node).is_some_and(|process| process.metadata.view().serving.is_some())
    }

    fn all_serve(&self) -> bool {
        self.list.iter().all(|node| self.serving(*node))
    }

    fn active(&self) -> Option<i32> {
        let active = |process: &Process| process.metadata.view().active;
        self.up.iter().filter_map(|(node, p)| Some((active(p)?, *node))).max().map(|(_, n)| n)
    }

    /// How often a line was logged, by any node.
    fn told(&self, line: &str) -> usize {
        self.lines.iter().filter(|(_, said)| said == line).count()
    }

    fn administer(&mut self, node: i32, id: u64, request: Request) {
        let message = LocalMessage::Administer {
            client: ClientId(1),
            id,
            request,
            context: Arc::new(ClientContext::default()),
        };
        self.step(node, Input::Local { from: Place::Shard(0), message });
    }

    fn answer(&self, node: i32, asked: u64) -> Option<Response> {
        self.up.get(&node)?.told.iter().find_map(|(_, message)| match message {
            LocalMessage::Administered { id, response, .. } if *id == asked => {
                Some(response.clone())
            }
            _ => None,
        })
    }

    /// Makes a topic through a node and waits; the error and how often it was answered.
    fn create(&mut self, node: i32, id: u64, name: &str) -> ErrorCode {
        self.administer(node, id, create(name));
        self.until("topic made", 70 * SECOND, |world| world.answer(node, id).is_some());
        let Some(Response::CreateTopics(response)) = self.answer(node, id) else {
            panic!("another answer")
        };
        response.topics[0].error_code
    }

    /// Asks a node about the quorum, and about another log, and waits.
    fn describe(&mut self, node: i32, id: u64) -> DescribeQuorumResponse {
        let topic = |name: &str, partition_index| DescribeQuorumTopic {
            topic_name: name.into(),
            partitions: vec![DescribeQuorumPartition { partition_index }],
        };
        let topics = vec![topic(METADATA_TOPIC, 0)];
        self.administer(node, id, DescribeQuorumRequest { topics }.into());
        self.until("described", 2 * SECOND, |world| world.answer(node, id).is_some());
        match self.answer(node, id) {
            Some(Response::DescribeQuorum(response)) => response,
            other => panic!("{other:?}"),
        }
    }

    fn partition(&self, node: i32, name: &str) -> Arc<Partition> {
        self.image(node).topic(name).expect("there is such a topic").partitions[&0].clone()
    }

    /// The leader proposes a set, as its shard would.
    fn propose(&mut self, name: &str, isr: &[i32]) {
        let node = self.active().unwrap();
        let image = self.image(node).clone();
        let topic = image.topic(name).unwrap();
        let partition = &topic.partitions[&0];
        let leader = partition.leader.unwrap();
        let member = |node: &i32| {
            let broker = &image.brokers[&NodeId(*node)];
            Member {
                node: NodeId(*node),
                broker_epoch: broker.epoch,
                incarnation: broker.incarnation,
                replica: partition.incarnation(NodeId(*node)).unwrap(),
            }
        };
        let message = LocalMessage::AlterPartition(AlterPartition {
            log: LogId { topic: topic.id, partition: 0 },
            leader: (leader, image.brokers[&leader].epoch),
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            isr: isr.iter().map(member).collect(),
        });
        self.step(leader.0, Input::Local { from: Place::Shard(0), message });
    }
}

fn create(name: &str) -> Request {
    let topic = CreatableTopic {
        name: name.into(),
        num_partitions: 1,
        replication_factor: -1,
        ..Default::default()
    };
    CreateTopicsRequest { topics: vec![topic], ..Default::default() }.into()
}

fn nodes(list: &[i32]) -> Vec<NodeId> {
    list.iter().copied().map(NodeId).collect()
}

#[test]
fn one_node_founds_registers_and_serves() {
    let mut world = World::new(1, 1);
    world.until("serving", 10 * SECOND, World::all_serve);
    let told = &world.up[&1].told;
    let serving = told.iter().position(|(_, m)| matches!(m, LocalMessage::Serving(Some(_))));
    let LocalMessage::Image(image) = &told[serving.unwrap() - 1].1 else {
        panic!("the image comes before")
    };
    assert!(image.unfenced(NodeId(1)), "shards have the image before they serve");

    assert_eq!(world.create(1, 7, "t"), ErrorCode::NONE);
    assert_eq!(world.create(1, 8, "t"), ErrorCode::TOPIC_ALREADY_EXISTS);
    let place = |world: &World, wanted: &dyn Fn(&LocalMessage) -> bool| {
        world.up[&1].told.iter().position(|(_, message)| wanted(message)).unwrap()
    };
    let shown = place(&world, &|m| matches!(m, LocalMessage::Image(i) if i.topic("t").is_some()));
    let answered = place(&world, &|m| matches!(m, LocalMessage::Administered { id: 7, .. }));
    assert!(shown < answered, "a Metadata request after the answer shows the topic");

    let names = DeleteTopicsRequest { topic_names: vec!["t".into()], ..Default::default() };
    world.administer(1, 9, names.into());
    world.until("deleted", SECOND, |world| world.answer(1, 9).is_some());
    assert!(world.image(1).topics.is_empty());
}

#[test]
fn three_nodes_serve_and_agree() {
    let mut world = World::new(3, 2);
    world.until("serving", 20 * SECOND, World::all_serve);
    assert_eq!(world.create(2, 1, "t"), ErrorCode::NONE);
    world.until("everywhere", SECOND, |w| (1..=3).all(|n| w.image(n).topic("t").is_some()));
    assert_eq!(world.image(1), world.image(2));
    assert_eq!(world.image(2), world.image(3));
    let partition = world.partition(1, "t");
    assert_eq!((&partition.isr, partition.min_isr), (&nodes(&[1, 2, 3]), 2));
    let quiet = world.image(1).end;
    world.pass(30 * SECOND);
    assert_eq!(world.image(1).end, quiet, "a healthy cluster changes nothing");
}

/// A topic that is asked for as soon as a node runs is placed on all brokers that start with it; what no cluster of this size
/// could ever have is refused at once, and what does not come is refused in the end.
#[test]
fn a_topic_asked_for_early_waits_for_brokers() {
    for seed in 0..10 {
        let mut world = World::new(3, seed);
        world.until("a controller", 20 * SECOND, |world| world.active().is_some());
        let node = 1 + seed as i32 % 3;
        assert_eq!(world.create(node, 1, "t"), ErrorCode::NONE);
        assert_eq!(world.partition(node, "t").replicas.len(), 3, "seed {seed}");

        // All come back, the last of them a little later.
        let late = 1 + (seed as i32 + 1) % 3;
        world.stop(late);
        world.until("fenced", 20 * SECOND, |w| !w.image(node).unfenced(NodeId(late)));
        for other in (1..=3).filter(|other| *other != late) {
            world.stop(other);
            world.start(other);
        }
        world.until("a controller", 20 * SECOND, |world| world.active().is_some());
        world.administer(node, 2, create("u"));
        world.pass(500);
        world.start(late);
        world.until("made", 5 * SECOND, |world| world.answer(node, 2).is_some());
        world.until("known", SECOND, |world| world.image(node).topic("u").is_some());
        assert_eq!(world.partition(node, "u").replicas.len(), 3, "seed {seed}: after a restart");
    }
}

#[test]
fn a_topic_asked_for_early_waits_no_longer_than_brokers_may_take() {
    let mut world = World::new(3, 1);
    world.until("serving", 20 * SECOND, World::all_serve);
    world.stop(3);
    world.until("fenced", 20 * SECOND, |world| !world.image(1).unfenced(NodeId(3)));
    for node in [1, 2] {
        world.stop(node);
        world.start(node);
    }
    world.until("a controller", 20 * SECOND, |world| world.active().is_some());
    let began = world.now;
    let topic = |factor| CreatableTopic {
        name: format!("t{factor}"),
        num_partitions: 1,
        replication_factor: factor,
        ..Default::default()
    };
    let ask = |factor| CreateTopicsRequest {
        topics: vec![topic(factor)],
        timeout_ms: 30_000,
        ..Default::default()
    };
    let error = |world: &World, id| match world.answer(1, id) {
        Some(Response::CreateTopics(response)) => Some(response.topics[0].error_code),
        Some(other) => panic!("{other:?}"),
        None => None,
    };
    world.administer(1, 1, ask(3).into());
    world.until("refused", 5 * SECOND, |world| error(world, 1).is_some());
    assert_eq!(error(&world, 1), Some(ErrorCode::INVALID_REPLICATION_FACTOR));
    assert!(world.now.ms_since(began) >= 2_500, "it waited");
    let later = world.now;
    world.administer(1, 2, ask(3).into());
    world.until("refused", 5 * SECOND, |world| error(world, 2).is_some());
    assert!(world.now.ms_since(later) < 500, "and does so no more");
}

#[test]
fn a_silent_broker_is_fenced_and_let_in_again() {
    let mut world = World::new(3, 3);
    world.until("serving", 20 * SECOND, World::all_serve);
    assert_eq!(world.create(1, 1, "t"), ErrorCode::NONE);
    let leader = world.partition(1, "t").leader.unwrap().0;
    let other = (1..=3).find(|node| *node != leader).unwrap();
    world.stop(leader);
    let gone = NodeId(leader);
    world.until("fenced", 20 * SECOND, |world| !world.image(other).unfenced(gone));
    let partition = world.partition(other, "t");
    assert!(partition.leader.is_some_and(|leader| leader != gone));
    assert_eq!((partition.isr.len(), partition.leader_epoch), (2, 1));
    let line = format!(
        "broker {leader} is fenced, for it was not heard in time: 1 partition has another leader"
    );
    assert_eq!(world.told(&line), 1, "{:?}", world.lines);

    world.start(leader);
    world.until("back", 20 * SECOND, |world| world.serving(leader));
    assert!(world.told(&format!("broker {leader} is in service")) > 0, "{:?}", world.lines);
    assert!(!world.partition(leader, "t").isr.contains(&gone));
    world.pass(100);
    world.propose("t", &[1, 2, 3]);
    let full = |world: &World| world.partition(leader, "t").isr.len() == 3;
    world.until("in sync", SECOND, full);
    let back = move |world: &World| world.partition(leader, "t").leader == Some(gone);
    world.until("the preferred replica leads again", 20 * SECOND, back);
    assert!(world.sometimes[&Mark::ControllerGivenBack] > 0);
}

/// It is heard all the time, and who hears no controller must not tell one that it lives.
#[test]
fn a_broker_that_hears_no_controller_is_fenced_and_let_in_again() {
    for (deaf_to_all, seed) in [(true, 13), (false, 14)] {
        let mut world = World::new(3, seed);
        world.until("serving", 20 * SECOND, World::all_serve);
        assert_eq!(world.create(1, 1, "t"), ErrorCode::NONE);
        let gone = world.partition(1, "t").leader.unwrap();
        let others: Vec<i32> = (1..=3).filter(|node| *node != gone.0).collect();
        let controller = world.active().unwrap();
        let from = if deaf_to_all { others.clone() } else { vec![controller] };
        world.cut = from.into_iter().map(|other| (other, gone.0)).collect();
        world.until("another leads", 20 * SECOND, |world| {
            let partition = world.partition(others[0], "t");
            partition.leader.is_some_and(|leader| leader != gone)
        });
        world.cut.clear();
        world.until("back", 20 * SECOND, |world| world.image(gone.0).unfenced(gone));
    }
}

#[test]
fn operators_are_told_of_a_missing_majority_and_of_sets_under_their_minimum() {
    let mut world = World::new(3, 5);
    world.until("serving", 20 * SECOND, World::all_serve);
    assert_eq!(world.create(1, 1, "t"), ErrorCode::NONE);
    let leader = world.partition(1, "t").leader.expect("all serve").0;
    let mut two = [leader, 1 + leader % 3];
    two.sort_unstable();
    world.propose("t", &two);
    world.until("shrunk", SECOND, |world| world.partition(1, "t").isr.len() == 2);
    let under = "fewer replicas of 1 partition are in sync than min.insync.replicas, so that acks=all is refused: t-0";
    assert_eq!(world.told(under), 0);
    world.pass(100);
    world.propose("t", &[leader]);
    world.until("shrunk", SECOND, |world| world.partition(1, "t").isr.len() == 1);
    assert_eq!(world.told(under), 1, "{:?}", world.lines);
    world.pass(100);
    world.propose("t", &[1, 2, 3]);
    world.until("grown", SECOND, |world| world.partition(1, "t").isr.len() == 3);
    let enough = "enough replicas of 1 partition are in sync again: t-0";
    assert_eq!(world.told(enough), 1, "{:?}", world.lines);

    world.stop(2);
    world.stop(3);
    world.pass(30 * SECOND);
    let alone =
        "waiting for a majority of the controllers: heard from 1 of 3, not from nodes 2 and 3";
    assert_eq!(world.told(alone), 1, "{:?}", world.lines);
    world.start(2);
    world.until("a controller again", 20 * SECOND, |world| world.active().is_some());
    world.pass(SECOND);
    let leader = world.active().expect("nobody has gone");
    let over = (1, format!("node {leader} is the active controller"));
    assert!(world.lines.contains(&over), "{:?}", world.lines);
}

#[test]
fn a_quick_restart_with_an_intact_disk_keeps_the_seat() {
    let mut world = World::new(1, 4);
    world.until("serving", 20 * SECOND, World::all_serve);
    assert_eq!(world.create(1, 1, "t"), ErrorCode::NONE);
    let epoch = world.image(1).brokers[&NodeId(1)].epoch;
    world.stop(1);
    world.start(1);
    world.until("serving", 20 * SECOND, World::all_serve);
    let partition = world.partition(1, "t");
    assert_eq!((partition.leader, partition.leader_epoch), (Some(NodeId(1)), 2));
    assert!(world.image(1).brokers[&NodeId(1)].epoch > epoch);
    assert!(world.sometimes[&Mark::ControllerElrElection] > 0);
}

#[test]
fn an_empty_disk_comes_back_without_a_seat() {
    let mut world = World::new(3, 5);
    world.until("serving", 20 * SECOND, World::all_serve);
    assert_eq!(world.create(1, 1, "t"), ErrorCode::NONE);
    let leader = world.partition(1, "t").leader.unwrap();
    let other = (1..=3).find(|node| *node != leader.0).unwrap();
    world.stop(leader.0);
    world.disks.insert(leader.0, InstantDisk::default());
    world.start(leader.0);
    let before = world.image(other).brokers[&leader].incarnation;
    world.until("serving", 30 * SECOND, World::all_serve);
    assert_ne!(world.image(leader.0).brokers[&leader].incarnation, before);
    let partition = world.partition(leader.0, "t");
    assert!(!partition.isr.contains(&leader) && !partition.elr.contains(&leader));
}

/// The old process goes on beside the new one, whose directory is empty: it is the new one that goes.
#[test]
fn an_empty_disk_beside_a_process_that_lives_is_not_registered_and_stops() {
    let mut world = World::new(3, 12);
    world.until("all serve", 10 * SECOND, World::all_serve);
    let controller = world.active().unwrap();
    let node = world.list.iter().copied().find(|node| *node != controller).unwrap();
    let before = world.image(controller).brokers[&NodeId(node)].clone();
    world.stop(node);
    world.disks.insert(node, InstantDisk::default());
    world.start(node);
    world.halts = Some((node, None));
    let end = world.now.after_ms(60 * SECOND);
    while world.halts == Some((node, None)) {
        assert!(world.now < end, "it goes on");
        let epoch = before.epoch;
        let heartbeat = PeerMessage::Controller(ControllerMessage::Heartbeat { epoch });
        world.step(controller, Input::Peer { from: NodeId(node), message: heartbeat });
        world.pass(100);
    }
    let Some((_, Some(Halt::Operator(line)))) = &world.halts else { panic!("{:?}", world.halts) };
    assert!(line.contains(&format!("another process calls itself node {node}")), "{line}");
    assert_eq!(world.image(controller).brokers[&NodeId(node)], before);
}

/// A broker hears nobody until its session is over, and another process with its id is registered meanwhile. Once it hears of
/// that it serves no more; when that one has gone it is registered again.
#[test]
fn a_broker_in_whose_place_another_one_is_registered_serves_no_more() {
    let (mut world, broker) = (World::new(3, 15), 4);
    let serves = move |world: &World| world.serving(broker);
    world.disks.insert(broker, InstantDisk::default());
    world.start(broker);
    world.until("serving", 20 * SECOND, |world| world.all_serve() && serves(world));
    let (old, old_disk) = (world.up.remove(&broker), world.disks.remove(&broker));
    let fenced = |world: &World| !world.image(1).unfenced(NodeId(broker));
    world.until("its session is over", 20 * SECOND, fenced);
    world.disks.insert(broker, InstantDisk::default());
    world.start(broker);
    world.until("the other process serves", 20 * SECOND, serves);

    world.up.insert(broker, old.expect("it was up"));
    world.disks.insert(broker, old_disk.expect("it has a disk"));
    let ours = world.up[&broker].metadata.view().serving;
    assert!(ours.is_some(), "it has heard of nothing");
    world.until("it hears of the other one", SECOND, move |world| !serves(world));
    assert_eq!(world.told("another registration of this broker is in force"), 1);
    world.until("it is registered again", 20 * SECOND, serves);
    assert!(world.up[&broker].metadata.view().serving > ours);
}

#[test]
fn any_node_describes_the_quorum_as_its_leader_sees_it() {
    let mut world = World::new(3, 9);
    world.until("serving", 20 * SECOND, World::all_serve);
    world.pass(SECOND);
    let leader = world.active().unwrap();
    let ids = |some: &[QuorumReplica]| some.iter().map(|r| r.replica_id).collect::<Vec<_>>();
    for node in 1..=3 {
        let answer = world.describe(node, 1);
        assert_eq!(answer.error_code, ErrorCode::NONE);
        assert_eq!(answer.nodes.iter().map(|n| n.node_id).collect::<Vec<_>>(), [1, 2, 3]);
        let listener = &answer.nodes[1].listeners[0];
        assert_eq!((&*listener.host, listener.port), ("localhost", 7002));
        let told = &answer.topics[0].partitions[0];
        assert_eq!((told.error_code, told.leader_id), (ErrorCode::NONE, leader));
        let quorum = world.up[&leader].metadata.view().quorum.view();
        assert_eq!((told.leader_epoch, told.high_watermark), (quorum.term, quorum.commit));
        let mut voters = ids(&told.current_voters);
        voters.sort_unstable();
        assert_eq!((voters, ids(&told.observers)), (vec![1, 2, 3], vec![]));
        for voter in &told.current_voters {
            assert_eq!(voter.log_end_offset, quorum.log_end, "{voter:?}");
            let disk = quorum.voters[&NodeId(voter.replica_id)];
            assert_eq!(voter.replica_directory_id.0, disk.0.to_be_bytes());
            assert_eq!(voter.last_caught_up_timestamp, voter.last_fetch_timestamp);
        }
    }

    // A disk that was replaced observes beside the lost one, which still counts.
    let replaced = leader % 3 + 1;
    let lost = world.image(leader).brokers[&NodeId(replaced)].incarnation;
    world.stop(replaced);
    world.disks.insert(replaced, InstantDisk::default());
    world.start(replaced);
    let new = |w: &World| w.image(leader).brokers[&NodeId(replaced)].incarnation != lost;
    world.until("registered", 30 * SECOND, |w| new(w) && w.all_serve());
    world.pass(SECOND);
    let answer = world.describe(replaced, 2);
    let told = &answer.topics[0].partitions[0];
    assert_eq!(ids(&told.observers), [replaced]);
    assert_eq!(told.observers[0].log_end_offset, told.high_watermark);
    let voter = told.current_voters.iter().find(|voter| voter.replica_id == replaced).unwrap();
    assert_eq!(voter.replica_directory_id.0, lost.0.to_be_bytes());
    assert!(voter.log_end_offset < told.high_watermark, "{voter:?}");
    assert_eq!(voter.last_caught_up_timestamp, -1);

    // Without a leader the client is told so, and where the controllers are.
    world.stop(leader);
    let answer = world.describe(replaced, 3);
    assert_eq!(answer.error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    assert_eq!((answer.topics.len(), answer.nodes.len()), (0, 3));
}

#[test]
fn requests_outlive_the_controller() {
    for seed in 0..20 {
        let mut world = World::new(3, 100 + seed);
        world.until("serving", 20 * SECOND, World::all_serve);
        let active = world.active().unwrap();
        let node = (1..=3).find(|node| *node != active).unwrap();
        for id in 0..10 {
            world.administer(node, id, create(&format!("t{id}")));
        }
        // Somewhere between the first message and the last answer.
        let micros = world.rng.next_u32() % 8_000;
        let end = Instant(world.now.0 + u64::from(micros) * 1_000);
        world.until("a moment", SECOND, |world| world.now >= end);
        world.stop(active);
        let all = |world: &World| (0..10).all(|id| world.answer(node, id).is_some());
        world.until("answers", 70 * SECOND, all);
        for id in 0..10 {
            let Some(Response::CreateTopics(response)) = world.answer(node, id) else {
                panic!("another answer")
            };
            let made = world.image(node).topic(&format!("t{id}")).is_some();
            let code = response.topics[0].error_code;
            assert_eq!((code, made), (ErrorCode::NONE, true), "seed {seed}, topic {id}");
        }
    }
}

/// Who wants to stop says so to each controller anew, and waits for one while the quorum elects.
#[test]
fn a_stop_in_good_order_outlives_the_controller() {
    for seed in 0..10 {
        let mut world = World::new(3, 300 + seed);
        world.until("serving", 20 * SECOND, World::all_serve);
        assert_eq!(world.create(1, 1, "t"), ErrorCode::NONE);
        let active = world.active().unwrap();
        let node = (1..=3).find(|node| *node != active).unwrap();
        // Before or after its followers notice: they then know of no controller.
        world.stop(active);
        let ms = u64::from(world.rng.next_u32() % 1_500);
        world.pass(ms);
        world.step(node, Input::Local { from: Place::Metadata, message: LocalMessage::Stop });
        world.until("stopped", 5 * SECOND, |world| !world.up.contains_key(&node));
        assert!(
            world.sometimes.contains_key(&Mark::BrokerStoppedInGoodOrder),
            "seed {seed}: another controller let it go"
        );
        let topic = world.left[&node].topic("t").expect("it was made");
        assert_ne!(topic.partitions[&0].leader, Some(NodeId(node)), "seed {seed}");
    }
}

/// A controller gives its office away before it stops, and brokers that are none hear of the next one at once.
#[test]
fn a_controller_gives_its_office_away_before_it_stops() {
    let broker = 4;
    for seed in 0..10 {
        let mut world = World::new(3, 500 + seed);
        world.disks.insert(broker, InstantDisk::default());
        world.start(broker);
        let serve = |world: &World| world.all_serve() && world.serving(broker);
        world.until("serving", 20 * SECOND, serve);
        for id in 0..4 {
            assert_eq!(world.create(1, id, &format!("t{id}")), ErrorCode::NONE);
        }
        let active = world.active().unwrap();
        world.step(active, Input::Local { from: Place::Metadata, message: LocalMessage::Stop });
        let timeout = world.config(active).quorum.election_timeout_ms;
        world.until("stopped", timeout / 4, |world| !world.up.contains_key(&active));
        let next = world.active().expect("another one leads already");
        world.until("all know", timeout / 8, |world| {
            let knows = |process: &Process| {
                let MetadataView { quorum, image, .. } = process.metadata.view();
                quorum.leader() == Some(NodeId(next)) && image.brokers[&NodeId(active)].fenced
            };
            world.up.values().all(knows)
        });
        let moved = world
            .image(broker)
            .partitions()
            .all(|(_, partition)| partition.leader.is_some_and(|leader| leader != NodeId(active)));
        assert!(moved, "seed {seed}");
        let about = format!("broker {active} is about to stop");
        assert!(world.lines.iter().any(|(node, line)| *node == next && line.contains(&about)));
    }
}

/// In a rolling restart, whoever was restarted last is the one that will not hand over again soon.
#[test]
fn a_controller_gives_its_office_to_who_was_registered_last() {
    for seed in 0..6 {
        let mut world = World::new(3, 700 + seed);
        world.until("serving", 20 * SECOND, World::all_serve);
        let active = world.active().unwrap();
        let others: Vec<i32> = (1..=3).filter(|node| *node != active).collect();
        let restarted = others[seed as usize % 2];
        world.stop(restarted);
        world.start(restarted);
        world.until("serving again", 20 * SECOND, World::all_serve);
        world.pass(SECOND);
        world.step(active, Input::Local { from: Place::Metadata, message: LocalMessage::Stop });
        world.until("stopped", SECOND, |world| !world.up.contains_key(&active));
        assert_eq!(world.active(), Some(restarted), "seed {seed}");
    }
}

/// Where all stop at once, none of them gives the office to one that is about to go as well.
#[test]
fn where_all_stop_at_once_the_office_does_not_go_round() {
    for seed in 0..10 {
        let mut world = World::new(3, 900 + seed);
        world.until("serving", 20 * SECOND, World::all_serve);
        let before = world.up[&1].metadata.view().quorum.term();
        for node in 1..=3 {
            world.step(node, Input::Local { from: Place::Metadata, message: LocalMessage::Stop });
        }
        let mut term = before;
        world.until("stopped", 5 * SECOND, |world| {
            let terms = world.up.values().map(|process| process.metadata.view().quorum.term());
            term = terms.max().unwrap_or(term);
            world.up.is_empty()
        });
        assert!(term <= before + 2, "seed {seed}: from term {before} to {term}");
    }
}

/// Where nobody can take the quorum's leadership, the leader goes without that.
#[test]
fn the_only_controller_stops_at_once() {
    let mut world = World::new(1, 1);
    world.until("serving", 20 * SECOND, World::all_serve);
    world.step(1, Input::Local { from: Place::Metadata, message: LocalMessage::Stop });
    world.until("stopped", 50, |world| world.up.is_empty());
    let mut world = World::new(3, 1);
    world.until("serving", 20 * SECOND, World::all_serve);
    let active = world.active().unwrap();
    (1..=3).filter(|node| *node != active).for_each(|node| world.stop(node));
    world.step(active, Input::Local { from: Place::Metadata, message: LocalMessage::Stop });
    let wait = world.config(active).quorum.stop_ms_max;
    world.until("stopped", wait + 50, |world| world.up.is_empty());
}

#[test]
fn loss_and_doubles_change_nothing_but_the_time() {
    for seed in 0..10 {
        let mut world = World::new(3, 200 + seed);
        (world.lost, world.doubled) = (15, 30);
        world.until("serving", 60 * SECOND, World::all_serve);
        for id in 0..20 {
            let node = 1 + (id % 3) as i32;
            assert_eq!(world.create(node, id, &format!("t{id}")), ErrorCode::NONE, "seed {seed}");
            if id % 2 == 0 {
                let names = vec![format!("t{id}")];
                let delete = DeleteTopicsRequest { topic_names: names, ..Default::default() };
                let ask = 100 + id;
                world.administer(node, ask, delete.into());
                world.until("deleted", 70 * SECOND, |world| world.answer(node, ask).is_some());
                let Some(Response::DeleteTopics(response)) = world.answer(node, ask) else {
                    panic!("another answer")
                };
                assert_eq!(response.responses[0].error_code, ErrorCode::NONE, "seed {seed}");
            }
        }
        world.pass(10 * SECOND);
        for node in 1..=3 {
            assert_eq!(world.image(node).topics.len(), 10, "seed {seed}: no late double made one");
        }
    }
}

/// Files so small that the blocks of copies and marks are much of them: an idle journal must still come to rest.
#[test]
fn journals_of_tiny_files_come_to_rest() {
    for seed in 0..5 {
        let mut world = World::with_journals(3, 300 + seed, 64 << 10);
        world.until("serving", 60 * SECOND, World::all_serve);
        for id in 0..100 {
            assert_eq!(world.create(1, id, &format!("t{id}")), ErrorCode::NONE, "seed {seed}");
            world.pass(SECOND);
            let before = world.writes;
            world.pass(SECOND);
            assert_eq!(world.writes, before, "seed {seed}: idle after {id} topics");
        }
        assert!(world.sometimes.contains_key(&Mark::JournalCarried), "{:?}", world.sometimes);
    }
}

#[test]
fn a_snapshot_brings_a_late_node_up() {
    let mut world = World::new(3, 6);
    world.until("serving", 20 * SECOND, World::all_serve);
    let late = (1..=3).find(|node| Some(*node) != world.active()).unwrap();
    let node = world.active().unwrap();
    world.stop(late);
    world.disks.insert(late, InstantDisk::default());
    for id in 0..60 {
        assert_eq!(world.create(node, id, &format!("t{id}")), ErrorCode::NONE);
    }
    world.start(late);
    world.until("serving", 30 * SECOND, World::all_serve);
    assert_eq!(world.image(late).topics.len(), 60);
    world.pass(SECOND);
    assert_eq!(world.image(late).hash, world.image(node).hash);
}
