//! The door for coordinators: a toy one keeps a sum in a partition's log. It appends, waits, reads and confirms through
//! `Partitions`, and names neither a shard nor a request.

mod common;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use common::InstantDisk;
use milena_core::image::{Broker, Image, Partition, Topic};
use milena_core::machine::{Input, Output, Outputs};
use milena_core::partitions::{News, Partitions, Reading, Safety};
use milena_core::peer::PeerMessage;
use milena_core::replica::Placed;
use milena_core::storage::Recovery;
use milena_core::{
    BrokerEpoch, Config, Epoch, Instant, LogId, NodeId, Now, Offset, ReplicaIncarnation, TopicId,
    config,
};
use milena_wire::batch::{BatchBuilder, BatchHeader, Compression, DecompressLimit, records};

const TOPIC: TopicId = TopicId([7; 16]);
const LOG: LogId = LogId { topic: TOPIC, partition: 0 };

/// What the coordinator waits for: its own token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Wait {
    /// The log up to the end of what an earlier leader left.
    Load,
    /// The leadership, to be over.
    Lead,
    Add(u32),
    Ask(u32),
}

/// The coordinator: sums up what is in the log while its broker leads the partition.
#[derive(Default)]
struct Sum {
    /// The epoch whose log it reads or has read, and the offset up to which it has.
    epoch: Option<(Epoch, Offset)>,
    loaded: bool,
    sum: i64,
    next: u32,
    /// What was asked for and is not answered yet.
    adding: BTreeMap<u32, i64>,
    answers: Vec<(u32, Result<i64, &'static str>)>,
}

struct Node {
    partitions: Partitions<Wait>,
    sum: Sum,
    disk: InstantDisk,
    out: Outputs,
}

impl Node {
    /// Wants a number added; the number of the question.
    fn add(&mut self, number: i64) -> u32 {
        self.sum.next += 1;
        let id = self.sum.next;
        match (self.sum.loaded, self.sum.epoch) {
            (true, Some((epoch, _))) => {
                let mut batch = BatchBuilder::new(0, -1, Compression::None);
                batch.append(0, None, Some(&number.to_be_bytes()), &[]);
                let placed = self.partitions.append(LOG, &batch.build(), &mut self.out);
                let Ok(Placed::Now { next, .. }) = placed else { panic!("{placed:?}") };
                let wait = Wait::Add(id);
                self.partitions.wait(LOG, next, epoch, Safety::Committed, wait);
                self.sum.adding.insert(id, number);
            }
            _ => self.sum.answers.push((id, Err("not the coordinator"))),
        }
        id
    }

    /// Wants to know the sum of all that anyone was told is added; the number of the question.
    fn ask(&mut self) -> u32 {
        self.sum.next += 1;
        let id = self.sum.next;
        match (self.sum.loaded, self.sum.epoch) {
            (true, Some((epoch, _))) => {
                self.partitions.confirm(LOG, epoch, Wait::Ask(id), &mut self.out);
            }
            _ => self.sum.answers.push((id, Err("not the coordinator"))),
        }
        id
    }

    /// Begins to lead, or looks again at what there is to load.
    fn look(&mut self) {
        let (leads, knows_committed, high_watermark) = self.partitions.standing(LOG);
        let Ok(epoch) = leads else {
            let (next, answers) = (self.sum.next, std::mem::take(&mut self.sum.answers));
            self.sum = Sum { next, answers, ..Sum::default() };
            self.partitions.watch(LOG, Wait::Lead);
            return;
        };
        if self.sum.epoch.is_none_or(|(before, _)| before != epoch) {
            let (next, answers) = (self.sum.next, std::mem::take(&mut self.sum.answers));
            self.sum = Sum { epoch: Some((epoch, 0)), next, answers, ..Sum::default() };
        }
        self.partitions.watch(LOG, Wait::Lead);
        if !self.sum.loaded && knows_committed {
            self.load(high_watermark);
        }
    }

    fn load(&mut self, upto: Offset) {
        let Some((_, from)) = self.sum.epoch else { return };
        if from >= upto {
            self.sum.loaded = true;
            return;
        }
        match self.partitions.read(LOG, (from, upto), 1, (Wait::Load, 0), &mut self.out) {
            Reading::Done(batches) => self.take_loaded(batches, upto),
            Reading::Begun { .. } => {}
        }
    }

    fn take_loaded(&mut self, batches: Vec<Bytes>, upto: Offset) {
        for batch in batches {
            for record in records(&batch, DecompressLimit(1 << 20)).expect("records of ours") {
                let value = record.value.expect("it has one");
                self.sum.sum += i64::from_be_bytes(value[..].try_into().expect("eight bytes"));
            }
            let (_, at) = self.sum.epoch.as_mut().expect("it loads");
            *at = BatchHeader::parse(&batch).expect("a batch of ours").next_offset();
        }
        self.load(upto);
    }

    fn hear(&mut self, news: News<Wait>) {
        match news {
            News::Moved { .. } => self.look(),
            News::Read { result, .. } => {
                let (_, _, upto) = self.partitions.standing(LOG);
                self.take_loaded(result.expect("nothing is trimmed"), upto);
            }
            News::Safe { waiter: Wait::Add(id), outcome, .. } => {
                let number = self.sum.adding.remove(&id);
                let added = outcome.map_err(|_| "not the coordinator any more");
                if let (Ok(()), Some(number)) = (added, number) {
                    self.sum.sum += number;
                }
                self.sum.answers.push((id, added.map(|()| self.sum.sum)));
            }
            News::Safe { waiter: Wait::Ask(id), outcome, .. } => {
                let known = outcome.map_err(|_| "not the coordinator any more");
                self.sum.answers.push((id, known.map(|()| self.sum.sum)));
            }
            other => panic!("{other:?}"),
        }
    }

    /// As a shard does at the end of a step.
    fn settle(&mut self) {
        loop {
            while self.partitions.take_store_event(&mut self.out) {
                self.hear_all();
            }
            self.partitions.take_roomless(&mut self.out);
            while self.partitions.settle_next(&mut self.out) {
                self.hear_all();
            }
            self.partitions.pump(&mut self.out);
            if !self.partitions.is_unsettled() {
                return self.partitions.check_invariants();
            }
        }
    }

    fn hear_all(&mut self) {
        while let Some(news) = self.partitions.pop_news() {
            self.hear(news);
        }
    }
}

struct World {
    millis: u64,
    nodes: BTreeMap<i32, Node>,
    image: Image,
    messages: VecDeque<(i32, i32, PeerMessage)>,
    /// Nodes that nobody hears and that hear nobody.
    cut: BTreeSet<i32>,
}

impl World {
    fn new() -> World {
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
        let (name, configs) = ("sums".to_owned(), BTreeMap::new());
        let topic = Topic::new(TOPIC, name.clone(), configs, [partition]);
        let mut image = Image { cluster: 1, end: 100, ..Image::default() };
        image.names.insert(name, TOPIC);
        image.topics.insert(TOPIC, Arc::new(topic));
        let mut world = World {
            millis: 1_000,
            nodes: BTreeMap::new(),
            image,
            messages: VecDeque::new(),
            cut: BTreeSet::new(),
        };
        (1..=3).for_each(|id| world.boot(id));
        for id in 1..=3 {
            world.step(id, |node| node.partitions.start());
            world.publish(id);
            let epoch = world.image.brokers[&NodeId(id)].epoch;
            world.step(id, |node| node.partitions.on_serving(Some(epoch), &mut node.out));
            world.step(id, Node::look);
        }
        world.run();
        world
    }

    /// Recovers an empty disk.
    fn boot(&mut self, id: i32) {
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
                ..Default::default()
            },
            quorum: Default::default(),
            replication: Default::default(),
        };
        let (mut disk, mut out) = (InstantDisk::default(), Outputs::default());
        let mut recovery = Recovery::new(&config, [id as u8; 32]);
        recovery.step(self.now(), Input::Start, &mut out);
        let found = loop {
            if let Some(found) = recovery.take() {
                break found;
            }
            if let Some(Output::Disk { op, command }) = out.queue.pop_front() {
                let outcome = disk.apply(&command);
                recovery.step(self.now(), Input::Disk { op, outcome }, &mut out);
            }
        };
        let incarnation = found.superblock.incarnation;
        let store = found.shards.into_iter().next().expect("one share of the partitions");
        let partitions = Partitions::new(Arc::new(config), 0, &found.superblock, store);
        let epoch = BrokerEpoch(10 + i64::from(id));
        let broker = Broker {
            incarnation,
            epoch,
            confirmed: Some(epoch),
            fenced: false,
            kafka: (format!("b{id}"), 9092),
            peer: String::new(),
            rack: None,
        };
        self.image.brokers.insert(NodeId(id), broker);
        let (sum, out) = (Sum::default(), Outputs::default());
        self.nodes.insert(id, Node { partitions, sum, disk, out });
    }

    fn now(&self) -> Now {
        Now { mono: Instant(self.millis * 1_000_000), wall: self.millis as i64 }
    }

    /// Shows a node the image.
    fn publish(&mut self, id: i32) {
        let image = Arc::new(self.image.clone());
        self.step(id, |node| node.partitions.on_image(image, &mut node.out));
    }

    /// Has a node do something and carries out what it puts out.
    fn step<T>(&mut self, id: i32, act: impl FnOnce(&mut Node) -> T) -> T {
        let now = self.now();
        let node = self.nodes.get_mut(&id).expect("a node");
        node.partitions.begin(now);
        let done = act(node);
        node.settle();
        while let Some(output) = node.out.queue.pop_front() {
            match output {
                Output::Disk { op, command } => {
                    let outcome = node.disk.apply(&command);
                    node.partitions.on_disk(op, outcome, &mut node.out);
                    node.settle();
                }
                Output::Send { to, message } => {
                    if !self.cut.contains(&id) && !self.cut.contains(&to.0) {
                        self.messages.push_back((id, to.0, message));
                    }
                }
                // There is no controller.
                Output::Local { .. } | Output::Log { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        done
    }

    /// Delivers messages until there are none.
    fn run(&mut self) {
        while let Some((from, to, message)) = self.messages.pop_front() {
            let PeerMessage::Replica(message) = message else { panic!("{message:?}") };
            let from = NodeId(from);
            self.step(to, |node| node.partitions.on_peer(from, message, &mut node.out));
        }
    }

    /// Lets time pass, deadline by deadline.
    fn pass(&mut self, millis: u64) {
        let until = self.millis + millis;
        let due = |node: &Node| {
            let store = node.partitions.store().next_timeout();
            node.partitions.next_due().into_iter().chain(store).map(|(at, _)| at).min()
        };
        loop {
            let first = self.nodes.iter().filter_map(|(id, node)| Some((due(node)?, *id))).min();
            let Some((at, id)) = first.filter(|(at, _)| at.0.div_ceil(1_000_000) <= until) else {
                break;
            };
            self.millis = self.millis.max(at.0.div_ceil(1_000_000));
            self.step(id, |node| node.partitions.on_due(&mut node.out));
            self.run();
        }
        self.millis = until;
    }

    /// Another node leads, and these know of it.
    fn elect(&mut self, leader: i32, who: &[i32]) {
        let partition = self.image.partition_mut(LOG).expect("it is there");
        partition.leader = Some(NodeId(leader));
        partition.leader_epoch += 1;
        partition.partition_epoch += 1;
        self.image.end += 1;
        who.iter().for_each(|id| self.publish(*id));
        self.run();
    }

    fn answers(&mut self, id: i32) -> Vec<(u32, Result<i64, &'static str>)> {
        std::mem::take(&mut self.nodes.get_mut(&id).expect("a node").sum.answers)
    }
}

#[test]
fn it_adds_and_tells_what_was_added() {
    let mut world = World::new();
    let (first, second) = (world.step(1, |node| node.add(5)), world.step(1, |node| node.add(7)));
    assert_eq!(world.answers(1), [], "nothing is on the others' disks");
    world.run();
    assert_eq!(world.answers(1), [(first, Ok(5)), (second, Ok(12))]);
    let asked = world.step(1, Node::ask);
    assert_eq!(world.answers(1), [], "another may lead by now");
    world.run();
    assert_eq!(world.answers(1), [(asked, Ok(12))], "no time has passed");
    let elsewhere = world.step(2, Node::ask);
    assert_eq!(world.answers(2), [(elsewhere, Err("not the coordinator"))]);
}

#[test]
fn the_next_one_reads_what_was_added() {
    let mut world = World::new();
    for number in 1..=3 {
        world.step(1, |node| node.add(number));
    }
    world.run();
    world.elect(2, &[1, 2, 3]);
    let asked = world.step(2, Node::ask);
    world.run();
    assert_eq!(world.answers(2), [(asked, Ok(6))]);
    let added = world.step(2, |node| node.add(10));
    world.run();
    assert_eq!(world.answers(2), [(added, Ok(16))]);
}

/// A leader that has not heard of the next one does not tell what was true before.
#[test]
fn a_deposed_one_confirms_nothing() {
    let mut world = World::new();
    world.step(1, |node| node.add(1));
    world.run();
    world.answers(1);
    // The others hear of it, and 1 does not; it hears the others and they hear it.
    let partition = world.image.partition_mut(LOG).expect("it is there");
    partition.isr = [2, 3].map(NodeId).into();
    world.elect(2, &[2, 3]);
    let added = world.step(2, |node| node.add(10));
    world.run();
    assert_eq!(world.answers(2), [(added, Ok(11))]);
    let asked = world.step(1, Node::ask);
    world.run();
    world.pass(2_000);
    assert_eq!(world.answers(1), [], "it would tell 1");
    world.publish(1);
    world.run();
    assert_eq!(world.answers(1), [(asked, Err("not the coordinator any more"))]);
}

#[test]
fn an_exchange_that_is_lost_is_held_again() {
    let mut world = World::new();
    world.step(1, |node| node.add(1));
    world.run();
    world.answers(1);
    world.cut.insert(3);
    let first = world.step(1, Node::ask);
    world.run();
    assert_eq!(world.answers(1), [], "3 is in sync and has not answered");
    world.cut.clear();
    world.pass(1_000);
    assert_eq!(world.answers(1), [(first, Ok(1))]);
    // One that began before does not do for one that is asked for later.
    world.cut.insert(2);
    let second = world.step(1, Node::ask);
    world.run();
    let third = world.step(1, Node::ask);
    world.cut.clear();
    world.pass(1_000);
    assert_eq!(world.answers(1), [(second, Ok(1)), (third, Ok(1))]);
}

#[test]
fn below_min_isr_nothing_is_confirmed() {
    let mut world = World::new();
    let partition = world.image.partition_mut(LOG).expect("it is there");
    partition.isr = vec![NodeId(1)];
    partition.elr = [2, 3].map(NodeId).into();
    partition.partition_epoch += 1;
    world.image.end += 1;
    (1..=3).for_each(|id| world.publish(id));
    world.run();
    world.step(1, Node::ask);
    world.run();
    assert_eq!(world.answers(1), [], "one of the others may be elected while this one serves");
}
