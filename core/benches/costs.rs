//! What a request costs core: allocations, and instructions where `valgrind` is installed. Both are counted and not timed, so that
//! they are the same on any machine that is busy or not, and what a change costs is seen to the percent.
//!
//! One node or three run in this process with disks that do everything at once; the clock stands still while it is counted. What
//! is counted is every step of every machine, from the request to its answer and to whatever that leaves behind; the driver, its
//! codec and the disk are not.

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::{BTreeMap, VecDeque};
use std::process::Command;
use std::sync::Arc;

use common::InstantDisk;
use milena_core::machine::{ClientContext, Input, Machine, Output, Outputs, Place};
use milena_core::{Boot, ClientId, Config, Instant, LogId, NodeId, Now, TopicId, config};
use milena_wire::batch::{BatchBuilder, Compression};
use milena_wire::messages::create_topics::CreatableTopic;
use milena_wire::messages::fetch::{FetchPartition, FetchTopic};
use milena_wire::messages::metadata::{MetadataRequestTopic, MetadataResponsePartition};
use milena_wire::messages::produce::{PartitionProduceData, TopicProduceData};
use milena_wire::messages::{
    CreateTopicsRequest, FetchRequest, MetadataRequest, MetadataResponse, ProduceRequest,
};
use milena_wire::{ErrorCode, Request, Response, Uuid};

const SHARDS: u16 = 2;
const PARTITIONS: i32 = 12;
/// Partitions of a topic at most.
const PARTITIONS_MAX: i32 = 10_000;
/// The argument with which this program runs one row under `valgrind`.
const ONE_ROW: &str = "--one-row";

struct Row {
    name: &'static str,
    nodes: i32,
    /// Whether the partition is another shard's than the connection.
    elsewhere: bool,
    /// Partitions that there are beside those of the topic that is asked for.
    others: i32,
    /// Allocations that it may make, so that no step takes back unseen what another has saved.
    allocations_max: f64,
    /// Operations that are counted, after as many that are not.
    counted: u64,
    /// What is asked the nth time.
    ask: fn(&Target, u64) -> (i16, Request),
}

impl Row {
    const fn new(name: &'static str, nodes: i32, ask: fn(&Target, u64) -> (i16, Request)) -> Row {
        let allocations_max = f64::INFINITY;
        Row { name, nodes, elsewhere: false, others: 0, allocations_max, counted: 2_000, ask }
    }

    const fn at_most(self, allocations_max: f64) -> Row {
        Row { allocations_max, ..self }
    }

    const fn elsewhere(name: &'static str, ask: fn(&Target, u64) -> (i16, Request)) -> Row {
        Row { elsewhere: true, ..Row::new(name, 1, ask) }
    }

    const fn change(name: &'static str, others: i32) -> Row {
        Row { others, counted: 100, ..Row::new(name, 1, create) }
    }
}

const ROWS: [Row; 8] = [
    Row::new("produce, one node, its own shard", 1, produce).at_most(8.0),
    Row::elsewhere("produce, one node, another shard", produce).at_most(11.0),
    Row::new("produce, one node, its own shard, idempotent", 1, produce_idempotent).at_most(8.0),
    Row::new("produce, three nodes: leader and two pushes", 3, produce).at_most(19.0),
    Row::new("fetch of one batch, its own shard", 1, fetch).at_most(5.0),
    Row::elsewhere("fetch of one batch, another shard", fetch).at_most(8.0),
    Row::change("a topic more, among few partitions", 0),
    Row::change("a topic more, among 100,000 partitions", 100_000),
];

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(ONE_ROW) {
        let row: usize = arguments.next().and_then(|row| row.parse().ok()).expect("a row");
        run(&ROWS[row]);
        return;
    }
    println!("{:<45}{:>14}{:>14}", "per request", "allocations", "instructions");
    let mut too_many = Vec::new();
    for (index, row) in ROWS.iter().enumerate() {
        let counted = row.counted as f64;
        let allocations = run(row) as f64 / counted;
        let instructions = match instructions(index) {
            Some(all) => format!("{:.0}", all as f64 / counted),
            None => "no valgrind".into(),
        };
        println!("{:<45}{allocations:>14.1}{instructions:>14}", row.name);
        if allocations > row.allocations_max {
            too_many.push(format!("{}: at most {} allocations", row.name, row.allocations_max));
        }
    }
    assert!(too_many.is_empty(), "{}", too_many.join("; "));
}

/// Runs a row in a process of its own, and has the instructions of [`counted`] counted.
fn instructions(row: usize) -> Option<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg("--toggle-collect=*counted*")
        .arg(std::env::current_exe().ok()?)
        .args([ONE_ROW, &row.to_string()])
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().find_map(|line| line.split_once("Collected :"))?;
    line.1.trim().parse().ok()
}

/// Allocations of the operations that count.
fn run(row: &Row) -> u64 {
    let mut cluster = Cluster::start(row.nodes);
    let target = cluster.target(row.elsewhere);
    cluster.ask(&target, produce(&target, 0));
    for number in 0..row.others / PARTITIONS_MAX {
        cluster.ask(&target, topic(format!("other-{number}"), PARTITIONS_MAX, 1));
    }
    for number in 0..2 * row.counted {
        cluster.counts = number >= row.counted;
        cluster.ask(&target, (row.ask)(&target, number));
    }
    cluster.allocations
}

/// Where the requests of a row go: the shard of a connection, and a partition that its node leads.
struct Target {
    node: i32,
    shard: u16,
    topic: Uuid,
    partition: i32,
}

fn produce(target: &Target, _: u64) -> (i16, Request) {
    produce_batch(target, BatchBuilder::new(0, -1, Compression::None))
}

fn produce_idempotent(target: &Target, number: u64) -> (i16, Request) {
    let mut batch = BatchBuilder::new(0, -1, Compression::None);
    batch.producer(1_000, 0, number as i32);
    produce_batch(target, batch)
}

fn produce_batch(target: &Target, mut batch: BatchBuilder) -> (i16, Request) {
    batch.append(1_000, None, Some(&[7; 100]), &[]);
    let data = PartitionProduceData { index: target.partition, records: Some(batch.build()) };
    let topic = TopicProduceData {
        topic_id: target.topic,
        partition_data: vec![data],
        ..TopicProduceData::default()
    };
    let request = ProduceRequest {
        acks: -1,
        timeout_ms: 1_000,
        topic_data: vec![topic],
        ..ProduceRequest::default()
    };
    (13, request.into())
}

fn fetch(target: &Target, _: u64) -> (i16, Request) {
    let partition = FetchPartition {
        partition: target.partition,
        fetch_offset: 0,
        partition_max_bytes: 1,
        ..FetchPartition::default()
    };
    let topic =
        FetchTopic { topic_id: target.topic, partitions: vec![partition], ..FetchTopic::default() };
    let request = FetchRequest {
        max_wait_ms: 500,
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_epoch: -1,
        topics: vec![topic],
        ..FetchRequest::default()
    };
    (15, request.into())
}

fn create(_: &Target, number: u64) -> (i16, Request) {
    topic(format!("made-{number}"), 1, 1)
}

fn topic(name: String, num_partitions: i32, nodes: i32) -> (i16, Request) {
    let replication_factor = nodes as i16;
    let topic =
        CreatableTopic { name, num_partitions, replication_factor, ..CreatableTopic::default() };
    let request =
        CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
    (7, request.into())
}

/// The step that is counted. It has a name of its own in the program, by which its instructions are told from all others.
#[inline(never)]
fn counted(machine: &mut dyn Machine, now: Now, input: Input, out: &mut Outputs) {
    machine.step(now, input, out);
}

/// Nodes in one process.
struct Cluster {
    nodes: BTreeMap<i32, BTreeMap<Place, Box<dyn Machine>>>,
    disks: BTreeMap<i32, InstantDisk>,
    now: Instant,
    queue: VecDeque<(i32, Place, Input)>,
    /// Kept from step to step, as drivers keep theirs.
    out: Outputs,
    requests: u64,
    answer: Option<Response>,
    counts: bool,
    allocations: u64,
}

impl Cluster {
    /// Brings up a cluster with a topic that has a replica on every node.
    fn start(count: i32) -> Cluster {
        let mut cluster = Cluster {
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            now: Instant::default(),
            queue: VecDeque::new(),
            out: Outputs::default(),
            requests: 0,
            answer: None,
            counts: false,
            allocations: 0,
        };
        (1..=count).for_each(|node| cluster.boot(node, count));
        loop {
            let answer = cluster.answer(1, 0, topic("t".into(), PARTITIONS, count));
            let Response::CreateTopics(created) = answer else { panic!("{answer:?}") };
            match created.topics[0].error_code {
                ErrorCode::NONE | ErrorCode::TOPIC_ALREADY_EXISTS => return cluster,
                _ => cluster.pass(),
            }
        }
    }

    fn boot(&mut self, node: i32, count: i32) {
        let peer = |node: i32| format!("n{node}:1");
        let config = Config {
            node: NodeId(node),
            controllers: (1..=count).map(|node| (NodeId(node), peer(node))).collect(),
            broker: true,
            controller: true,
            kafka: (format!("n{node}"), 9092),
            peer: peer(node),
            rack: None,
            shards: SHARDS,
            storage: config::StorageConfig::default(),
            quorum: config::QuorumConfig::default(),
            replication: config::ReplicationConfig { min_insync_replicas: 1, ..Default::default() },
        };
        let mut boot = Boot::new(config, [node as u8; 32]);
        let (mut disk, mut out) = (InstantDisk::default(), Outputs::default());
        boot.step(Now::default(), Input::Start, &mut out);
        let recovered = loop {
            if let Some(node) = boot.take() {
                break node;
            }
            if let Some(Output::Disk { op, command }) = out.queue.pop_front() {
                let outcome = disk.apply(&command);
                boot.step(Now::default(), Input::Disk { op, outcome }, &mut out);
            }
        };
        let mut machines: BTreeMap<Place, Box<dyn Machine>> = BTreeMap::new();
        machines.insert(Place::Metadata, Box::new(recovered.metadata));
        for (index, shard) in (0..).zip(recovered.shards) {
            machines.insert(Place::Shard(index), Box::new(shard));
        }
        self.queue.extend(machines.keys().map(|place| (node, *place, Input::Start)));
        self.disks.insert(node, disk);
        self.nodes.insert(node, machines);
    }

    /// A partition that is led, and a connection to its leader, at its shard or at another one.
    fn target(&mut self, elsewhere: bool) -> Target {
        loop {
            let topic = MetadataRequestTopic { name: Some("t".into()), ..Default::default() };
            let request = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
            let answer = self.answer(1, 0, (12, request.into()));
            let Response::Metadata(MetadataResponse { topics, .. }) = answer else {
                panic!("{answer:?}")
            };
            let all_in_sync = |p: &&_| is_in_sync(p, self.nodes.len());
            match topics[0].partitions.iter().find(all_in_sync) {
                Some(found) => {
                    let topic = topics[0].topic_id;
                    let log = LogId { topic: TopicId(topic.0), partition: found.partition_index };
                    let shard = (log.shard(SHARDS) + u16::from(elsewhere)) % SHARDS;
                    let (node, partition) = (found.leader_id, found.partition_index);
                    return Target { node, shard, topic, partition };
                }
                None => self.pass(),
            }
        }
    }

    /// Asks and demands an answer without an error.
    fn ask(&mut self, target: &Target, request: (i16, Request)) {
        match self.answer(target.node, target.shard, request) {
            Response::Produce(answer) => {
                let partition = &answer.responses[0].partition_responses[0];
                assert_eq!(partition.error_code, ErrorCode::NONE, "{answer:?}");
            }
            Response::Fetch(answer) => {
                let partition = &answer.responses[0].partitions[0];
                assert!(partition.records.as_ref().is_some_and(|r| !r.is_empty()), "{answer:?}");
            }
            Response::CreateTopics(answer) => {
                assert_eq!(answer.topics[0].error_code, ErrorCode::NONE, "{answer:?}");
            }
            other => panic!("{other:?}"),
        }
    }

    fn answer(&mut self, node: i32, shard: u16, (version, request): (i16, Request)) -> Response {
        self.requests += 1;
        let context = Arc::new(ClientContext::default());
        let (client, id) = (ClientId(1), self.requests);
        let input = Input::Request { client, id, version, request, context };
        self.queue.push_back((node, Place::Shard(shard), input));
        loop {
            self.run();
            match self.answer.take() {
                Some(answer) => return answer,
                None => self.pass(),
            }
        }
    }

    /// Lets the first deadline come.
    fn pass(&mut self) {
        assert!(!self.counts, "an operation that is counted waits for a deadline");
        let machines =
            self.nodes.iter().flat_map(|(node, all)| all.iter().map(move |one| (*node, one)));
        let deadlines = machines.filter_map(|(node, (place, machine))| {
            machine.next_timeout().map(|(at, _)| (at, node, *place))
        });
        let (at, node, place) = deadlines.min().expect("somebody waits");
        self.now = self.now.max(at);
        self.queue.push_back((node, place, Input::Timeout));
        self.run();
    }

    fn run(&mut self) {
        let mut out = std::mem::take(&mut self.out);
        while let Some((node, place, input)) = self.queue.pop_front() {
            let now = Now { mono: self.now, wall: 1_000 + (self.now.0 / 1_000_000) as i64 };
            let machine = self.nodes.get_mut(&node).and_then(|all| all.get_mut(&place));
            let machine = machine.expect("a machine").as_mut();
            if self.counts {
                let step = || counted(machine, now, input, &mut out);
                self.allocations += allocation_counter::measure(step).count_total;
            } else {
                machine.step(now, input, &mut out);
            }
            while let Some(output) = out.queue.pop_front() {
                self.carry_out(node, place, output);
            }
        }
        self.out = out;
    }

    fn carry_out(&mut self, node: i32, place: Place, output: Output) {
        match output {
            Output::Send { to, message } => {
                let (to, from) = (to.0, NodeId(node));
                let at = message.place(SHARDS);
                self.queue.push_back((to, at, Input::Peer { from, message }));
            }
            Output::Local { to, message } => {
                self.queue.push_back((node, to, Input::Local { from: place, message }));
            }
            Output::Reply { response, .. } => self.answer = response,
            Output::Work { op, work } => {
                self.queue.push_back((node, place, Input::Worked { op, work: work.run() }));
            }
            Output::Disk { op, command } => {
                let outcome = self.disks.get_mut(&node).expect("a disk").apply(&command);
                self.queue.push_back((node, place, Input::Disk { op, outcome }));
            }
            Output::Log { .. } => {}
            Output::Close { .. } | Output::Stop | Output::Halt(_) => panic!("{output:?}"),
        }
    }
}

fn is_in_sync(partition: &MetadataResponsePartition, nodes: usize) -> bool {
    partition.leader_id >= 0 && partition.isr_nodes.len() == nodes
}
