//! Three brokers with one shard each, a hand-made image and a disk that loses nothing: the protocol between replicas as a
//! script whose transcript is a snapshot. What a crash or a bad disk does to it is the simulator's work.

mod common;
#[path = "replica/compaction.rs"]
mod compaction;
#[path = "replica/producers.rs"]
mod producers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use common::InstantDisk;
use milena_core::disk::{Command, Directory, FileName};
use milena_core::image::{Broker, Image, Partition, Topic};
use milena_core::local::{LocalMessage, Member};
use milena_core::machine::{ClientContext, Input, Machine, Output, Outputs, Place};
use milena_core::peer::{self, PeerMessage};
use milena_core::replica::ReplicaView;
use milena_core::replica::message::{Acknowledge, Answer, Push, ReplicaMessage};
use milena_core::shard::Shard;
use milena_core::storage::Beginning;
use milena_core::trace::Event;
use milena_core::{
    Boot, BrokerEpoch, ClientId, Config, Incarnation, Instant, LogId, NodeId, Now, OpId,
    ReplicaIncarnation, TopicId, config,
};
use milena_wire::batch::{BatchBuilder, Compression};
use milena_wire::messages::fetch::{FetchPartition, FetchTopic};
use milena_wire::messages::list_offsets::{ListOffsetsPartition, ListOffsetsTopic};
use milena_wire::messages::produce::{PartitionProduceData, TopicProduceData};
use milena_wire::messages::{FetchRequest, ListOffsetsRequest, ProduceRequest};
use milena_wire::{Request, Response};

const TOPIC: TopicId = TopicId([7; 16]);
const LOG: LogId = LogId { topic: TOPIC, partition: 0 };
const CLIENT: ClientId = ClientId(1);

struct Node {
    shard: Shard,
    disk: InstantDisk,
    incarnation: Incarnation,
    out: Outputs,
}

/// Pushes to a node, those that say "begin" or those with records, and what was kept of them.
#[derive(Default)]
struct Delays {
    to: i32,
    begins: bool,
    kept: Vec<(i32, i32, PeerMessage)>,
}

struct World {
    millis: u64,
    nodes: BTreeMap<i32, Node>,
    image: Image,
    messages: VecDeque<(i32, i32, PeerMessage)>,
    /// A node that is heard so many milliseconds later.
    slow: Option<(i32, u64)>,
    /// What it has said, and when that is heard.
    late: VecDeque<(u64, i32, PeerMessage)>,
    /// Nodes that nobody hears and that hear nobody.
    cut: BTreeSet<i32>,
    /// Pushes that are kept on their way.
    delays: Option<Delays>,
    /// Journal files that are not filled before somebody says so, if they wait.
    fills: Option<Vec<(i32, OpId, Command)>>,
    requests: u64,
    /// The records of the last answer to a fetch.
    fetched: Bytes,
    transcript: String,
}

impl World {
    fn new(configs: &[(&str, &str)]) -> World {
        let mut image = Image { cluster: 1, end: 100, ..Image::default() };
        let partition = Partition {
            replicas: [1, 2, 3].map(NodeId).into(),
            incarnations: vec![ReplicaIncarnation(0); 3],
            isr: [1, 2, 3].map(NodeId).into(),
            leader: Some(NodeId(1)),
            leader_epoch: 1,
            partition_epoch: 1,
            min_isr: 2,
            ..Partition::default()
        };
        let configs = configs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let topic = Topic::new(TOPIC, "t".into(), configs, [partition]);
        image.topics.insert(TOPIC, Arc::new(topic));
        image.names.insert("t".into(), TOPIC);
        let mut world = World {
            millis: 1_000,
            nodes: BTreeMap::new(),
            image,
            messages: VecDeque::new(),
            slow: None,
            late: VecDeque::new(),
            cut: BTreeSet::new(),
            delays: None,
            fills: None,
            requests: 0,
            fetched: Bytes::new(),
            transcript: String::new(),
        };
        for id in 1..=3 {
            let node = world.boot(id, InstantDisk::default());
            let broker = Broker {
                incarnation: node.incarnation,
                epoch: BrokerEpoch(10 + i64::from(id)),
                confirmed: Some(BrokerEpoch(10 + i64::from(id))),
                fenced: false,
                kafka: (format!("b{id}"), 9092),
                peer: String::new(),
                rack: None,
            };
            world.image.brokers.insert(NodeId(id), broker);
            world.nodes.insert(id, node);
        }
        for id in 1..=3 {
            world.step(id, Input::Start);
            world.serve(id);
        }
        world.run();
        world
    }

    fn now(&self) -> Now {
        Now { mono: Instant(self.millis * 1_000_000), wall: self.millis as i64 }
    }

    /// Recovers a disk and takes the node's one shard.
    fn boot(&self, id: i32, mut disk: InstantDisk) -> Node {
        let config = Config {
            node: NodeId(id),
            controllers: (1..=3).map(|n| (NodeId(n), format!("n{n}:1"))).collect(),
            broker: true,
            controller: false,
            kafka: (format!("b{id}"), 9092),
            peer: format!("n{id}:1"),
            rack: None,
            shards: 1,
            storage: config::StorageConfig {
                journal_file_bytes: 1 << 20,
                journal_files: 3,
                retention_check_ms: 60_000,
                cleaner_backoff_ms: 1_000,
                ..Default::default()
            },
            quorum: Default::default(),
            replication: config::ReplicationConfig {
                lag_ms_max: 2_000,
                push_bytes_max: 16 << 10,
                push_window_bytes: 48 << 10,
                ..Default::default()
            },
        };
        let mut boot = Boot::new(config, [id as u8; 32]);
        let mut out = Outputs::default();
        boot.step(self.now(), Input::Start, &mut out);
        let mut node = loop {
            if let Some(node) = boot.take() {
                break node;
            }
            match out.queue.pop_front().expect("recovery waits for a disk that has answered") {
                Output::Disk { op, command } => {
                    let outcome = disk.apply(&command);
                    boot.step(self.now(), Input::Disk { op, outcome }, &mut out);
                }
                Output::Log { .. } => {}
                other => panic!("{other:?}"),
            }
        };
        let shard = node.shards.remove(0);
        let incarnation = node.superblock.incarnation;
        Node { shard, disk, incarnation, out: Outputs::traced() }
    }

    fn serve(&mut self, id: i32) {
        let epoch = self.image.brokers[&NodeId(id)].epoch;
        let image = LocalMessage::Image(Arc::new(self.image.clone()));
        self.local(id, image);
        self.local(id, LocalMessage::Serving(Some(epoch)));
    }

    fn local(&mut self, id: i32, message: LocalMessage) {
        self.step(id, Input::Local { from: Place::Metadata, message });
    }

    fn step(&mut self, id: i32, input: Input) {
        let now = self.now();
        let node = self.nodes.get_mut(&id).expect("a node");
        node.shard.step(now, input, &mut node.out);
        node.shard.check_invariants();
        for event in std::mem::take(&mut node.out.events) {
            self.note_event(id, event);
        }
        while let Some(output) = self.nodes.get_mut(&id).expect("a node").out.queue.pop_front() {
            self.take(id, output);
        }
    }

    fn take(&mut self, id: i32, output: Output) {
        match output {
            Output::Send { to, message } => {
                // As over a wire: in one piece, and as its bytes say.
                let bytes: Vec<u8> = peer::encode(&message).concat();
                let message = peer::decode(Bytes::from(bytes)).expect("a frame of ours");
                let lost = self.cut.contains(&id) || self.cut.contains(&to.0);
                self.note_message(id, to.0, &message, lost);
                if let Some(delays) = &mut self.delays
                    && delays.to == to.0
                    && let PeerMessage::Replica(ReplicaMessage::Push(push)) = &message
                    && (if delays.begins { push.begin.is_some() } else { !push.records.is_empty() })
                {
                    delays.kept.push((id, to.0, message));
                    return;
                }
                match self.slow {
                    _ if lost => {}
                    Some((slow, ms)) if slow == id => {
                        self.late.push_back((self.millis + ms, to.0, message));
                    }
                    _ => self.messages.push_back((id, to.0, message)),
                }
            }
            Output::Local { to: Place::Metadata, message } => self.note_local(id, message),
            Output::Local { to, message } => panic!("to {to:?}: {message:?}"),
            Output::Reply { response, .. } => self.note_reply(id, response),
            Output::Disk { op, command } => match &mut self.fills {
                Some(fills) if matches!(command, Command::Fill { .. }) => {
                    fills.push((id, op, command));
                }
                _ => self.disk(id, op, &command),
            },
            Output::Work { op, work } => {
                let work = work.run();
                self.step(id, Input::Worked { op, work });
            }
            Output::Log { line, .. } => self.line(format!("{id} log: {line}")),
            Output::Close { .. } | Output::Stop | Output::Halt(_) => panic!("{output:?}"),
        }
    }

    fn disk(&mut self, id: i32, op: OpId, command: &Command) {
        let outcome = self.nodes.get_mut(&id).expect("a node").disk.apply(command);
        self.step(id, Input::Disk { op, outcome });
    }

    /// Delivers messages until there are none.
    fn run(&mut self) {
        while let Some((from, to, message)) = self.messages.pop_front() {
            self.step(to, Input::Peer { from: NodeId(from), message });
        }
    }

    /// Lets time pass, deadline by deadline.
    fn pass(&mut self, millis: u64) {
        let until = self.millis + millis;
        loop {
            let due = self
                .nodes
                .iter()
                .filter_map(|(id, node)| {
                    Some((node.shard.next_timeout()?.0.0.div_ceil(1_000_000), *id))
                })
                .min()
                .filter(|(at, _)| *at <= until);
            let late = self.late.front().map(|(at, ..)| *at).filter(|at| *at <= until);
            match (due, late) {
                (Some((at, id)), _) if late.is_none_or(|late| at < late) => {
                    self.millis = self.millis.max(at);
                    self.step(id, Input::Timeout);
                }
                (_, Some(at)) => {
                    self.millis = self.millis.max(at);
                    let (slow, _) = self.slow.expect("it is slow still");
                    let (_, to, message) = self.late.pop_front().expect("just seen");
                    self.messages.push_back((slow, to, message));
                }
                (_, None) => break,
            }
            self.run();
        }
        self.millis = until;
    }

    fn title(&mut self, title: &str) {
        self.line(format!("\n== {title}"));
    }

    fn line(&mut self, line: String) {
        self.transcript.push_str(&line);
        self.transcript.push('\n');
    }

    fn note_event(&mut self, id: i32, event: Event) {
        let text = match event {
            Event::Truncated { to, .. } => format!("truncated to {to}"),
            Event::Trimmed { start, .. } => format!("trimmed to {start}"),
            Event::Reset { start, .. } => format!("reset at {start}"),
            Event::Damaged { .. } => "damaged".into(),
            Event::Leading { epoch, start, .. } => format!("leads epoch {epoch} from {start}"),
            Event::Following { epoch, leader, .. } => format!("follows {leader} in epoch {epoch}"),
            Event::HighWatermark { offset, isr, maximal, .. } => {
                let ids = |set: Vec<NodeId>| set.iter().map(|n| n.0).collect::<Vec<_>>();
                format!("high watermark {offset} over {:?} of {:?}", ids(maximal), ids(isr))
            }
            Event::FollowerMoved { follower, end, .. } => {
                format!("believes {follower} up to {end}")
            }
            Event::Produced { base, next, all: true, .. } => format!("confirms {base}..{next}"),
            Event::Produced { base, next, .. } => format!("confirms its own {base}..{next}"),
            Event::Served { base, next, .. } => format!("serves {base}..{next}"),
            Event::Sometimes(mark)
                if mark.name().starts_with("replica.") || mark.name().starts_with("fetch.") =>
            {
                format!("({})", mark.name())
            }
            _ => return,
        };
        self.line(format!("{id} {text}"));
    }

    fn note_message(&mut self, from: i32, to: i32, message: &PeerMessage, lost: bool) {
        let PeerMessage::Replica(message) = message else { panic!("{message:?}") };
        let lost = if lost { " (lost)" } else { "" };
        let text = match message {
            ReplicaMessage::Push(push) => {
                let bytes: usize = push.records.iter().map(Bytes::len).sum();
                let what = if push.begin.is_some() { "begin" } else { "push" };
                let records = if bytes > 0 { ", records" } else { "" };
                format!("{what} at {} after epoch {}{records}", push.base, push.previous_epoch)
            }
            ReplicaMessage::Acknowledge(acknowledge) => match acknowledge.answer {
                Answer::Synced { end, last_epoch, .. } => {
                    format!("synced up to {end}, last epoch {last_epoch}")
                }
                Answer::Mismatch { base, hint, last_epoch } => {
                    format!("mismatch at {base}: try {hint} after epoch {last_epoch}")
                }
            },
        };
        self.line(format!("  {from} -> {to} {text}{lost}"));
    }

    fn note_local(&mut self, id: i32, message: LocalMessage) {
        match message {
            LocalMessage::AlterPartition(proposal) => {
                let isr: Vec<i32> = proposal.isr.iter().map(|member| member.node.0).collect();
                self.line(format!(
                    "{id} proposes {isr:?} at partition epoch {}",
                    proposal.partition_epoch
                ));
            }
            LocalMessage::Damaged { replica, .. } => {
                self.line(format!("{id} reports damage of life {}", replica.0))
            }
            other => panic!("{other:?}"),
        }
    }

    fn note_reply(&mut self, id: i32, response: Option<Response>) {
        let text = match response {
            Some(Response::Produce(response)) => {
                let partition = &response.responses[0].partition_responses[0];
                format!("produce: {:?} at {}", partition.error_code, partition.base_offset)
            }
            Some(Response::Fetch(response)) => match response.responses.first() {
                Some(topic) => {
                    let partition = &topic.partitions[0];
                    self.fetched = partition.records.clone().unwrap_or_default().to_bytes();
                    let bytes = self.fetched.len();
                    let bytes = if bytes > 0 { "records" } else { "nothing" };
                    format!(
                        "fetch: {:?}, {bytes}, high watermark {}, start {}, diverging {}",
                        partition.error_code,
                        partition.high_watermark,
                        partition.log_start_offset,
                        partition.diverging_epoch.end_offset,
                    )
                }
                None => format!("fetch: {:?}", response.error_code),
            },
            Some(Response::ListOffsets(response)) => {
                let partition = &response.topics[0].partitions[0];
                format!("list offsets: {:?} {}", partition.error_code, partition.offset)
            }
            other => panic!("{other:?}"),
        };
        self.line(format!("{id} answers {text}"));
    }

    fn request(&mut self, id: i32, version: i16, request: impl Into<Request>) {
        self.requests += 1;
        let input = Input::Request {
            client: CLIENT,
            id: self.requests,
            version,
            request: request.into(),
            context: Arc::new(ClientContext::default()),
        };
        self.step(id, input);
        self.run();
    }

    fn produce(&mut self, id: i32, acks: i16, values: &[&[u8]]) {
        let mut batch = BatchBuilder::new(0, -1, Compression::None);
        for value in values {
            batch.append(self.millis as i64, None, Some(value), &[]);
        }
        let partition = PartitionProduceData { index: 0, records: Some(batch.build()) };
        let topic = TopicProduceData {
            name: "t".into(),
            partition_data: vec![partition],
            ..TopicProduceData::default()
        };
        let request = ProduceRequest {
            acks,
            timeout_ms: 5_000,
            topic_data: vec![topic],
            ..Default::default()
        };
        self.request(id, 9, request);
    }

    fn fetch(&mut self, id: i32, fetch_offset: i64, last_fetched_epoch: i32) {
        let partition = FetchPartition {
            fetch_offset,
            last_fetched_epoch,
            partition_max_bytes: 1 << 20,
            ..FetchPartition::default()
        };
        let topic =
            FetchTopic { topic: "t".into(), partitions: vec![partition], ..Default::default() };
        let request = FetchRequest {
            max_wait_ms: 500,
            min_bytes: 1,
            session_epoch: -1,
            topics: vec![topic],
            ..FetchRequest::default()
        };
        self.request(id, 12, request);
    }

    fn list_latest(&mut self, id: i32) {
        let partition = ListOffsetsPartition { timestamp: -1, ..ListOffsetsPartition::default() };
        let topic = ListOffsetsTopic { name: "t".into(), partitions: vec![partition] };
        let request =
            ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
        self.request(id, 7, request);
    }

    /// Commits a change of the partition and shows it to everyone.
    fn publish(&mut self, change: impl FnOnce(&mut Partition)) {
        self.publish_to(change, &[1, 2, 3]);
    }

    fn publish_to(&mut self, change: impl FnOnce(&mut Partition), nodes: &[i32]) {
        let partition = self.image.partition_mut(LOG).expect("it is there");
        change(partition);
        partition.partition_epoch += 1;
        self.image.end += 1;
        for id in nodes {
            self.local(*id, LocalMessage::Image(Arc::new(self.image.clone())));
        }
        self.run();
    }

    fn elect(&mut self, leader: i32, isr: &[i32]) {
        self.publish(|partition| {
            partition.leader = Some(NodeId(leader));
            partition.leader_epoch += 1;
            partition.isr = isr.iter().copied().map(NodeId).collect();
        });
    }

    /// Takes a broker out of service, or back into it; shown with the next change.
    fn fence(&mut self, id: i32, fenced: bool) {
        self.image.brokers.get_mut(&NodeId(id)).expect("a broker").fenced = fenced;
    }

    fn view(&self, id: i32) -> ReplicaView {
        self.nodes[&id].shard.view().replicas().next().expect("a replica")
    }

    /// All replicas hold the same and the leader knows it.
    fn assert_converged(&self, leader: i32) {
        let end = self.view(leader).high_watermark;
        for id in 1..=3 {
            let view = self.view(id);
            assert_eq!((view.end, view.flushed_end), (end, end), "{view:?}");
        }
        let first = self.records(1);
        assert!((2..=3).all(|id| self.records(id) == first));
    }

    /// The ends of all epochs, by which equal logs are told.
    fn records(&self, id: i32) -> Vec<Option<i32>> {
        let log = self.nodes[&id].shard.view().store().log(LOG).expect("a log");
        (0..log.end()).map(|offset| log.epoch_at(offset)).collect()
    }
}

#[test]
fn a_write_is_confirmed_once_the_in_sync_set_has_it() {
    let mut world = World::new(&[]);
    world.title("acks=all");
    world.produce(1, -1, &[b"a", b"b"]);
    world.title("idle: the followers learn the high watermark, then nothing is sent");
    world.pass(10_000);
    world.title("read");
    world.fetch(1, 1, -1);
    world.fetch(2, 0, -1);
    world.assert_converged(1);
    insta::assert_snapshot!(world.transcript);
}

/// A follower that hears of a new leader only after its first push is not waited for until the leader pushes again.
#[test]
fn a_push_that_comes_before_its_epoch_is_kept() {
    let mut world = World::new(&[]);
    world.produce(1, -1, &[b"a"]);
    world.pass(1_000);
    world.title("2 leads, and 3 does not know it yet");
    let lead = |partition: &mut Partition| {
        (partition.leader, partition.leader_epoch) = (Some(NodeId(2)), 2);
        partition.isr = vec![NodeId(2), NodeId(3)];
    };
    world.publish_to(lead, &[1, 2]);
    world.produce(2, -1, &[b"b"]);
    world.title("3 hears of it");
    world.local(3, LocalMessage::Image(Arc::new(world.image.clone())));
    world.run();
    assert_eq!(world.view(2).high_watermark, 2, "no time has passed");
    world.assert_converged(2);
    insta::assert_snapshot!(world.transcript);
}

/// A follower that has just started has no room before its journal's files are filled. Its leader does not wait longer than that.
#[test]
fn a_push_that_finds_no_room_is_kept() {
    let mut world = World::new(&[]);
    world.produce(1, -1, &[b"a"]);
    world.pass(1_000);
    let disk = world.nodes.remove(&3).expect("a node").disk;
    let node = world.boot(3, disk);
    world.nodes.insert(3, node);
    let epoch = BrokerEpoch(20);
    let broker = world.image.brokers.get_mut(&NodeId(3)).expect("a broker");
    (broker.epoch, broker.confirmed) = (epoch, Some(epoch));
    world.fills = Some(Vec::new());
    world.step(3, Input::Start);
    world.publish(|_| {});
    world.serve(3);
    world.run();
    world.produce(1, -1, &[b"b"]);
    assert_eq!((world.view(1).high_watermark, world.view(3).end), (1, 1), "it finds no room");
    world.produce(1, -1, &[b"c"]);
    for (id, op, command) in world.fills.take().expect("they wait") {
        world.disk(id, op, &command);
    }
    world.run();
    assert_eq!(world.view(1).high_watermark, 3, "no time has passed");
    world.assert_converged(1);
}

/// A push that no leader of ours makes is not taken, and takes nothing that is committed away.
#[test]
fn absurd_pushes_are_refused() {
    let mut world = World::new(&[]);
    world.produce(1, -1, &[b"a", b"b"]);
    world.elect(1, &[1, 2, 3]);
    world.produce(1, -1, &[b"c"]);
    world.pass(1_000);
    let (before, records) = (world.view(2), world.records(2));
    let epoch = before.leader_epoch.expect("it follows");
    let (newest, older) = (records[2].expect("known"), records[0].expect("known"));
    assert_eq!((before.high_watermark, before.end, newest, older < newest), (3, 3, epoch, true));
    let batch = |base, epoch| {
        let mut batch = BatchBuilder::new(base, epoch, Compression::None);
        batch.append(0, None, Some(b"x"), &[]).build()
    };
    let cluster = 1;
    let push = Push {
        cluster,
        log: LOG,
        leader: (NodeId(1), BrokerEpoch(11)),
        leader_epoch: epoch,
        follower_epoch: BrokerEpoch(12),
        epoch_start: 2,
        base: 3,
        previous_epoch: newest,
        begin: None,
        dropped: 0,
        exchange: 0,
        high_watermark: i64::MAX,
        log_start: 0,
        records: Vec::new(),
    };
    let pushes = [
        Push { cluster: 2, records: vec![batch(3, epoch)], ..push.clone() },
        Push { base: i64::MIN, ..push.clone() },
        Push { base: i64::MIN, begin: Some(Beginning::default()), ..push.clone() },
        Push { base: i64::MAX, ..push.clone() },
        Push { base: -1, records: vec![batch(-1, epoch)], ..push.clone() },
        // What is here has a later epoch, is another record, or is older than the epoch allows.
        Push { previous_epoch: 0, ..push.clone() },
        Push { base: 2, previous_epoch: older, records: vec![batch(2, older)], ..push.clone() },
        Push { epoch_start: i64::MIN, ..push.clone() },
        Push { records: vec![batch(i64::MAX, epoch)], ..push.clone() },
    ];
    for push in pushes {
        let message = PeerMessage::Replica(ReplicaMessage::Push(push.clone()));
        world.step(2, Input::Peer { from: NodeId(1), message });
        assert_eq!(
            (world.view(2), world.records(2)),
            (before.clone(), records.clone()),
            "{push:?}"
        );
        world.messages.clear();
    }
    let acknowledge = |answer| {
        let replica = ReplicaIncarnation(0);
        let incarnation = world.nodes[&2].incarnation;
        let follower =
            Member { node: NodeId(2), broker_epoch: BrokerEpoch(12), incarnation, replica };
        ReplicaMessage::Acknowledge(Acknowledge {
            cluster,
            log: LOG,
            leader_epoch: epoch,
            follower,
            exchange: u64::MAX,
            dropped: i64::MAX,
            answer,
        })
    };
    let numbers = [i64::MIN, -1, 0, 4, i64::MAX];
    let answers = numbers.into_iter().flat_map(|a| numbers.map(|b| (a, b)));
    let answers: Vec<ReplicaMessage> = answers
        .flat_map(|(a, b)| {
            let synced = Answer::Synced { end: a, last_epoch: i32::MAX, matched: b };
            let mismatch = Answer::Mismatch { base: a, hint: b, last_epoch: i32::MIN };
            [synced, mismatch].map(acknowledge)
        })
        .collect();
    for message in answers {
        world.step(1, Input::Peer { from: NodeId(2), message: PeerMessage::Replica(message) });
    }
    world.messages.clear();
    world.produce(1, -1, &[b"d"]);
    world.pass(3_000);
    world.assert_converged(1);
    assert_eq!(world.view(1).high_watermark, 4);
}

/// A replica of another cluster that is reached through a port that was used again confirms nothing.
#[test]
fn an_acknowledgement_of_another_cluster_does_not_count() {
    let mut world = World::new(&[]);
    world.cut.insert(3);
    world.produce(1, -1, &[b"a"]);
    world.pass(100);
    assert_eq!(world.view(1).high_watermark, 0, "3 is in sync and has not answered");
    let leader_epoch = world.view(1).leader_epoch.expect("it leads");
    let last_epoch = world.records(1)[0].expect("known");
    for (cluster, high_watermark) in [(2, 0), (1, 1)] {
        let follower = Member {
            node: NodeId(3),
            broker_epoch: BrokerEpoch(13),
            incarnation: world.nodes[&3].incarnation,
            replica: ReplicaIncarnation(0),
        };
        let answer = Answer::Synced { end: 1, last_epoch, matched: 1 };
        let exchange = 0;
        let acknowledge =
            Acknowledge { cluster, log: LOG, leader_epoch, follower, exchange, dropped: 0, answer };
        let message = PeerMessage::Replica(ReplicaMessage::Acknowledge(acknowledge));
        world.step(1, Input::Peer { from: NodeId(3), message });
        assert_eq!(world.view(1).high_watermark, high_watermark, "of cluster {cluster}");
    }
}

#[test]
fn the_in_sync_set_shrinks_and_grows() {
    let mut world = World::new(&[]);
    world.produce(1, -1, &[b"a"]);
    world.pass(1_000);
    world.title("3 is cut off: a write waits for it");
    world.cut.insert(3);
    world.produce(1, -1, &[b"b"]);
    assert_eq!(world.view(1).high_watermark, 1);
    world.title("3 is proposed for removal, and still counts");
    world.pass(2_200);
    assert_eq!(world.view(1).high_watermark, 1);
    world.title("the controller commits");
    world.publish(|partition| partition.isr = [1, 2].map(NodeId).into());
    assert_eq!(world.view(1).high_watermark, 2);
    world.title("3 is back: it catches up and is proposed");
    world.cut.clear();
    world.pass(600);
    world.title("while it is proposed it counts already");
    world.cut.insert(3);
    world.produce(1, -1, &[b"c"]);
    assert_eq!(world.view(1).maximal_isr, [1, 2, 3].map(NodeId));
    assert_eq!(world.view(1).high_watermark, 2);
    world.title("it lags again: the leader withdraws by proposing the present set");
    world.pass(2_500);
    world.title("both proposals stand: the first may be on its way yet");
    world.produce(1, 1, &[b"d"]);
    assert_eq!(world.view(1).maximal_isr, [1, 2, 3].map(NodeId));
    assert_eq!(world.view(1).high_watermark, 2);
    world.title("the controller commits the equal set");
    world.publish(|_| {});
    assert_eq!(world.view(1).high_watermark, 4);
    insta::assert_snapshot!(world.transcript);
}

#[test]
fn below_min_isr_nothing_is_confirmed() {
    let mut world = World::new(&[]);
    world.publish(|partition| partition.isr = vec![NodeId(1)]);
    world.title("acks=all is refused before the append, acks=1 taken but not committed");
    world.produce(1, -1, &[b"a"]);
    world.produce(1, 1, &[b"b"]);
    assert_eq!((world.view(1).high_watermark, world.view(1).end), (0, 1));
    world.fetch(1, 0, -1);
    world.pass(600);
    insta::assert_snapshot!(world.transcript);
}

#[test]
fn a_deposed_leader_cuts_what_nobody_else_has() {
    let mut world = World::new(&[]);
    world.produce(1, -1, &[b"a", b"b"]);
    world.title("1 is cut off and takes two more batches that nobody else gets");
    world.cut.insert(1);
    world.produce(1, 1, &[b"lost", b"lost too"]);
    world.produce(1, -1, &[b"unknown"]);
    world.title("2 leads in epoch 2 and takes others at the same offsets");
    world.publish_to(
        |partition| {
            partition.leader = Some(NodeId(2));
            partition.leader_epoch = 2;
            partition.isr = [2, 3].map(NodeId).into();
        },
        &[2, 3],
    );
    world.produce(2, -1, &[b"c"]);
    world.title("1 learns of it: what it had not confirmed is unknown");
    world.local(1, LocalMessage::Image(Arc::new(world.image.clone())));
    world.title("1 is back");
    world.cut.clear();
    world.pass(1_000);
    world.assert_converged(2);
    world.title("a reader that had read from 1 is told where the logs part");
    world.fetch(2, 4, 1);
    insta::assert_snapshot!(world.transcript);
}

#[test]
fn a_longer_tail_of_an_older_epoch_is_cut() {
    let mut world = World::new(&[]);
    world.title("1 takes a record that nobody else gets; the new leader's log is empty");
    world.cut.insert(1);
    world.produce(1, 1, &[b"x"]);
    world.cut.clear();
    world.elect(2, &[2, 3]);
    world.pass(1_000);
    assert_eq!(world.view(1).end, 0);
    world.assert_converged(2);
    insta::assert_snapshot!(world.transcript);
}

#[test]
fn a_new_leader_shows_no_offsets_before_it_knows_what_is_committed() {
    let mut world = World::new(&[]);
    world.produce(1, -1, &[b"a"]);
    world.title("2 leads, and hears from nobody");
    world.cut.extend([1, 3]);
    world.elect(2, &[2, 3]);
    world.fetch(2, 0, -1);
    world.list_latest(2);
    world.title("the readers' patience is over");
    world.pass(1_000);
    world.title("3 acknowledges in the new epoch");
    world.fetch(2, 0, -1);
    world.cut.clear();
    world.pass(400);
    world.list_latest(2);
    insta::assert_snapshot!(world.transcript);
}

#[test]
fn a_replica_behind_the_log_start_begins_there() {
    let configs = [("segment.bytes", "16384"), ("retention.bytes", "40000")];
    let mut world = World::new(&configs);
    world.produce(1, -1, &[b"a"]);
    world.pass(500);
    world.cut.insert(3);
    world.fence(3, true);
    world.elect(1, &[1, 2]);
    let large = vec![1; 12_000];
    for _ in 0..8 {
        world.produce(1, -1, &[&large]);
        world.pass(20);
    }
    world.transcript.clear();
    world.title("retention");
    world.pass(60_000);
    assert!(world.view(1).start > 1, "{:?}", world.view(1));
    assert_eq!(world.view(2).start, world.view(1).start, "members follow");
    world.title("3 is back");
    world.cut.clear();
    world.fence(3, false);
    world.publish(|_| {});
    world.pass(1_000);
    let (leader, third) = (world.view(1), world.view(3));
    assert_eq!((third.start, third.end), (leader.start, leader.end));
    world.title("a reader below the start");
    world.fetch(1, 0, -1);
    insta::assert_snapshot!(world.transcript);
}

#[test]
fn a_replica_that_begins_at_an_empty_log_follows_one_that_still_has_what_was_trimmed() {
    let mut world = World::new(&[("retention.ms", "1")]);
    world.cut.insert(3);
    world.fence(3, true);
    world.elect(1, &[1, 2]);
    world.produce(1, -1, &[b"a", b"b"]);
    world.pass(500);
    world.title("1 trims all it has, and 2 does not hear of it");
    world.cut.insert(2);
    world.pass(60_000);
    assert_eq!((world.view(1).start, world.view(2).start), (2, 0));
    world.title("3 begins where 1 does");
    world.cut.remove(&3);
    world.fence(3, false);
    world.publish(|_| {});
    world.pass(1_000);
    assert_eq!((world.view(3).start, world.view(3).end), (2, 2));
    world.title("2 leads");
    world.cut = [1].into();
    world.elect(2, &[2, 3]);
    world.pass(1_000);
    world.produce(2, -1, &[b"c"]);
    world.pass(1_000);
    assert_eq!((world.view(2).high_watermark, world.view(3).end), (3, 3));
}

/// It knows no epoch of the record before its log start, where the new leader's log begins lower: it is asked there.
#[test]
fn a_deposed_leader_that_had_trimmed_follows_one_that_had_not() {
    let mut world = World::new(&[("retention.ms", "1")]);
    world.cut.insert(3);
    world.fence(3, true);
    world.elect(1, &[1, 2]);
    // In two pushes, so that the first ends below the log start.
    world.produce(1, -1, &[&vec![1; 9_000]]);
    world.produce(1, -1, &[&vec![2; 9_000]]);
    world.pass(500);
    world.cut.insert(2);
    world.pass(60_000);
    assert_eq!((world.view(1).start, world.view(2).start), (2, 0));
    world.produce(1, -1, &[b"c", b"d"]);
    world.pass(500);
    world.cut = [1, 3].into();
    world.fence(1, true);
    world.elect(2, &[1, 2]);
    world.produce(2, -1, &[b"e"]);
    world.pass(500);
    world.cut = [3].into();
    world.fence(1, false);
    world.publish(|_| {});
    world.pass(2_000);
    assert_eq!((world.view(1).end, world.view(2).end, world.view(2).high_watermark), (3, 3, 3));
}

#[test]
fn a_damaged_leader_stops_and_begins_a_new_life_behind_another() {
    let mut world = World::new(&[("segment.bytes", "16384")]);
    let large = vec![1; 12_000];
    for _ in 0..4 {
        world.produce(1, -1, &[&large]);
        world.pass(50);
    }
    world.pass(1_000);
    world.transcript.clear();
    let segment = world.nodes[&1]
        .disk
        .names(Directory::Segments)
        .into_iter()
        .find(|file| matches!(file, FileName::Segment { base: 0, .. }));
    world.nodes.get_mut(&1).unwrap().disk.corrupt(segment.expect("a segment"), 200);
    world.title("a read finds the damage");
    world.fetch(1, 0, -1);
    world.produce(1, -1, &[b"x"]);
    assert!(world.view(1).damaged);
    world.title("said again until it is heard");
    world.pass(500);
    world.title("the controller takes it out; nobody leads yet: nothing is discarded");
    world.publish(|partition| {
        partition.leader = None;
        partition.leader_epoch += 1;
        partition.isr = [2, 3].map(NodeId).into();
        partition.incarnations[0] = ReplicaIncarnation(1);
    });
    assert_eq!(world.view(1).end, 4);
    world.title("2 leads: 1 discards and refetches");
    world.elect(2, &[2, 3]);
    world.pass(1_000);
    let view = world.view(1);
    assert_eq!((view.damaged, view.incarnation, view.end), (false, ReplicaIncarnation(1), 4));
    insta::assert_snapshot!(world.transcript);
}
