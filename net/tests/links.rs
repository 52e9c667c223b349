//! The links between nodes over real sockets: the metadata's worker and each shard's have one of their own, so none of them waits
//! for another, and a shard's comes and goes with the metadata's.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use milena_core::addresses::Process;
use milena_core::controller::message::ControllerMessage;
use milena_core::local::Member;
use milena_core::node::Boot;
use milena_core::peer::{self, PeerMessage};
use milena_core::replica::message::{Acknowledge, Answer, ReplicaMessage};
use milena_core::{
    BrokerEpoch, Config, Incarnation, Input, LogId, Machine, NodeId, Now, Output, Outputs, Place,
    ReplicaIncarnation, Timer, View,
};
use milena_net::files::{Files, Unsynced};
use milena_net::host::{self, Doors, Mail, Mailbox, Shared};
use milena_net::kafka::{Counts, Limits};
use milena_net::links::Hello;
use milena_net::report::{Ask, Report};
use milena_net::runtime::{self, Bound, Clock, Thread, mpsc, oneshot};

/// Longer than anything here takes on a machine that is busy with much else.
const PATIENCE: Duration = Duration::from_secs(60);

type Boxed = Box<dyn Machine + Send>;

/// The workers of a node.
struct Node {
    mailboxes: Vec<Mailbox>,
    threads: Vec<Thread>,
}

impl Node {
    /// A node with its metadata and its shards, and the peers that it is told of.
    fn start(
        hello: Hello,
        files: Arc<Files>,
        machines: Vec<Boxed>,
        peers: Vec<(NodeId, String)>,
        peer_listener: Bound,
    ) -> Node {
        let (mailboxes, mails): (Vec<Mailbox>, Vec<_>) =
            machines.iter().map(|_| mpsc::unbounded_channel()).unzip();
        let limits = Limits::default();
        let shared = Shared {
            hello,
            clock: Clock::start(),
            files,
            mailboxes: mailboxes.clone(),
            counts: Arc::new(Counts::new(&limits)),
            limits,
            serving: Arc::default(),
            halted: Arc::default(),
            ended: mpsc::unbounded_channel().0,
        };
        let mut doors = Some(Doors { peers, peer_listener, kafka_listener: None });
        let places = std::iter::once(Place::Metadata).chain((0..).map(Place::Shard));
        let threads = places.zip(machines).zip(mails).map(|((place, machine), mail)| {
            let (shared, doors) = (shared.clone(), doors.take());
            let work = move || host::work(place, machine, shared, mail, doors);
            Thread::start("test".into(), work).unwrap()
        });
        let threads = threads.collect();
        Node { mailboxes, threads }
    }

    fn report(&self, worker: usize) -> Report {
        let (sender, receiver) = oneshot::channel();
        self.mailboxes[worker].send(Mail::Ask(Ask::Report(sender))).ok();
        receiver.blocking_recv().expect("the worker lives")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.mailboxes.iter().for_each(|mailbox| {
            mailbox.send(Mail::Stop).ok();
        });
        for thread in self.threads.drain(..) {
            assert!(thread.join() || std::thread::panicking(), "a worker ended badly");
        }
    }
}

fn hello(from: i32, to: i32, shard: Option<u16>, address: String) -> Hello {
    let process = Process { incarnation: Incarnation(from as u128), run: 1 };
    Hello { cluster: 0, from: NodeId(from), to: NodeId(to), process, shard, address }
}

/// A shard that does nothing, and lets nothing else on its thread do anything, until its gate is gone.
struct Busy {
    shard: Boxed,
    gate: Option<Receiver<()>>,
}

impl Machine for Busy {
    fn step(&mut self, now: Now, input: Input, out: &mut Outputs) {
        if let Some(gate) = self.gate.take() {
            gate.recv().expect_err("nothing comes through it");
        }
        self.shard.step(now, input, out);
    }

    fn next_timeout(&self) -> Option<(milena_core::Instant, Timer)> {
        self.shard.next_timeout()
    }

    fn view(&self) -> View<'_> {
        self.shard.view()
    }

    fn check_invariants(&self) {}
}

/// The machines of a node whose directory is empty.
fn machines(config: &Config, files: &Files) -> (Vec<Boxed>, Incarnation) {
    let clock = Clock::start();
    let mut boot = Boot::new(config.clone(), [config.node.0 as u8; 32]);
    let mut inputs = VecDeque::from([Input::Start]);
    let mut out = Outputs::default();
    loop {
        boot.step(clock.now(), inputs.pop_front().unwrap_or(Input::Timeout), &mut out);
        while let Some(output) = out.queue.pop_front() {
            if let Output::Disk { op, command } = output {
                inputs.push_back(Input::Disk { op, outcome: files.execute(&command) });
            }
        }
        if let Some(node) = boot.take() {
            let metadata: Boxed = Box::new(node.metadata);
            let shards = node.shards.into_iter().map(|shard| Box::new(shard) as Boxed);
            let machines = std::iter::once(metadata).chain(shards).collect();
            return (machines, node.superblock.incarnation);
        }
    }
}

/// Three nodes, each of which has a shard that stands still: they found their cluster, elect a leader and keep the sessions of
/// their brokers all the same.
#[test]
fn shards_that_stand_still_cost_the_quorum_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let bound: Vec<Bound> = (0..3).map(|_| runtime::bind("127.0.0.1:0").unwrap()).collect();
    let address = |bound: &Bound| bound.address().unwrap().to_string();
    let controllers: Vec<(NodeId, String)> =
        (1..).map(NodeId).zip(bound.iter().map(address)).collect();
    let mut gates: Vec<Sender<()>> = Vec::new();
    let nodes: Vec<Node> = controllers
        .iter()
        .zip(bound)
        .map(|((node, peer), bound)| {
            let config = Config {
                node: *node,
                controllers: controllers.clone(),
                broker: true,
                controller: true,
                kafka: ("127.0.0.1".into(), 1),
                peer: peer.clone(),
                rack: None,
                shards: 2,
                storage: Default::default(),
                quorum: Default::default(),
                replication: Default::default(),
            };
            let data = Path::new(directory.path()).join(node.to_string());
            let files = Arc::new(Files::open(&data, Unsynced::PageCache).unwrap());
            let (mut machines, incarnation) = machines(&config, &files);
            let (gate, receiver) = channel();
            gates.push(gate);
            let shard = machines.pop().expect("there are shards");
            machines.push(Box::new(Busy { shard, gate: Some(receiver) }));
            let mut hello = hello(node.0, node.0, None, peer.clone());
            hello.process.incarnation = incarnation;
            Node::start(hello, files, machines, controllers.clone(), bound)
        })
        .collect();
    let until = Instant::now() + PATIENCE;
    loop {
        let known: Vec<_> = nodes.iter().filter_map(|node| node.report(0).metadata).collect();
        let serves = |known: &&milena_net::report::MetadataReport| known.serving.is_some();
        if known.iter().filter(serves).count() == nodes.len() {
            assert!(known.iter().all(|one| one.leader == known[0].leader));
            break;
        }
        assert!(Instant::now() < until, "{known:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(gates);
    assert!(nodes.iter().all(|node| node.report(2).shard.is_some_and(|(shard, _)| shard == 1)));
}

/// Says something to node 2 every few milliseconds, and passes on what it hears.
struct Speaks {
    message: PeerMessage,
    due: milena_core::Instant,
    heard: Sender<PeerMessage>,
}

impl Machine for Speaks {
    fn step(&mut self, now: Now, input: Input, out: &mut Outputs) {
        if let Input::Peer { message, .. } = input {
            self.heard.send(message).ok();
        }
        if self.due <= now.mono {
            self.due = now.mono.after_ms(5);
            out.send(NodeId(2), self.message.clone());
        }
    }

    fn next_timeout(&self) -> Option<(milena_core::Instant, Timer)> {
        Some((self.due, Timer::Retry))
    }

    fn view(&self) -> View<'_> {
        View::Nothing
    }

    fn check_invariants(&self) {}
}

fn of_metadata() -> PeerMessage {
    ControllerMessage::Heartbeat { epoch: BrokerEpoch(3) }.into()
}

fn of_shard() -> PeerMessage {
    let follower = Member {
        node: NodeId(1),
        broker_epoch: BrokerEpoch(3),
        incarnation: Incarnation(1),
        replica: ReplicaIncarnation(0),
    };
    let log = LogId { topic: Default::default(), partition: 0 };
    ReplicaMessage::Acknowledge(Acknowledge {
        cluster: 0,
        log,
        leader_epoch: 1,
        follower,
        exchange: 0,
        dropped: 0,
        answer: Answer::Synced { end: 1, last_epoch: 1, matched: 1 },
    })
    .into()
}

/// Node 1, which has one shard, seen by its only peer, node 2, which is this test.
struct Seen {
    _node: Node,
    address: String,
    listener: TcpListener,
    metadata: Receiver<PeerMessage>,
    shard: Receiver<PeerMessage>,
    _directory: tempfile::TempDir,
}

impl Seen {
    fn new() -> Seen {
        let directory = tempfile::tempdir().unwrap();
        let files = Arc::new(Files::open(directory.path(), Unsynced::PageCache).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peers = vec![(NodeId(2), listener.local_addr().unwrap().to_string())];
        let bound = runtime::bind("127.0.0.1:0").unwrap();
        let address = bound.address().unwrap().to_string();
        let speaks = |message| {
            let (heard, receiver) = channel();
            let machine: Boxed = Box::new(Speaks { message, due: milena_core::Instant(0), heard });
            (machine, receiver)
        };
        let ((metadata, of_metadata), (shard, of_shard)) =
            (speaks(of_metadata()), speaks(of_shard()));
        let hello = hello(1, 1, None, address.clone());
        let node = Node::start(hello, files, vec![metadata, shard], peers, bound);
        Seen {
            _node: node,
            address,
            listener,
            metadata: of_metadata,
            shard: of_shard,
            _directory: directory,
        }
    }

    /// The next link that node 1 makes: of which shard, if of one.
    fn next(&self) -> (Option<u16>, TcpStream) {
        let (mut stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let hello = Hello::decode(frame(&mut stream).into()).unwrap();
        (hello.shard, stream)
    }

    /// Says hello to node 1.
    fn call(&self, shard: Option<u16>) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let hello = hello(2, 1, shard, self.listener.local_addr().unwrap().to_string());
        say(&mut stream, &hello.encode().concat());
        stream
    }
}

fn frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut frame).unwrap();
    frame
}

fn say(stream: &mut TcpStream, frame: &[u8]) {
    stream.write_all(&[&(frame.len() as u32).to_be_bytes(), frame].concat()).unwrap();
}

/// The next message on a link, each beat before it answered.
fn message(stream: &mut TcpStream) -> PeerMessage {
    loop {
        match frame(stream) {
            beat if beat.is_empty() => stream.write_all(&[0]).unwrap(),
            message => return peer::decode(message.into()).unwrap(),
        }
    }
}

fn is_closed(mut stream: TcpStream) -> bool {
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest);
    end.is_ok() || end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

#[test]
fn a_shards_link_carries_its_own_and_comes_and_goes_with_the_metadatas() {
    let seen = Seen::new();
    let (of, mut metadata) = seen.next();
    assert_eq!(of, None);
    assert_eq!(message(&mut metadata), of_metadata(), "it is a beat that asks for the answer");
    let (of, mut shard) = seen.next();
    assert_eq!(of, Some(0));
    for _ in 0..100 {
        assert_eq!(message(&mut shard), of_shard());
        assert_eq!(message(&mut metadata), of_metadata());
    }
    for _ in 0..3 {
        drop(shard);
        let (of, again) = seen.next();
        assert_eq!(of, Some(0), "it comes back alone");
        shard = again;
        assert_eq!(message(&mut shard), of_shard());
        assert_eq!(message(&mut metadata), of_metadata());
    }
    drop(metadata);
    assert!(is_closed(shard), "a shard's link to a node that is lost");
    let (of, mut metadata) = seen.next();
    assert_eq!(of, None);
    assert_eq!(message(&mut metadata), of_metadata());
    assert_eq!(seen.next().0, Some(0));
}

#[test]
fn a_shard_is_heard_while_its_nodes_metadata_is() {
    let seen = Seen::new();
    assert!(is_closed(seen.call(Some(0))), "a shard of nobody who is heard");
    let alive = |stream: &mut TcpStream| {
        say(stream, &[]);
        stream.read_exact(&mut [0]).unwrap();
    };
    let speak = |stream: &mut TcpStream, message: PeerMessage| {
        say(stream, &peer::encode(&message).concat());
    };
    let mut metadata = seen.call(None);
    alive(&mut metadata);
    // Of more shards than node 1 has; a hello and what comes behind it may arrive at once.
    for shard in [0, 7] {
        let mut shard = seen.call(Some(shard));
        speak(&mut shard, of_shard());
        assert_eq!(seen.shard.recv_timeout(PATIENCE), Ok(of_shard()));
        // Whatever comes there finds its machine.
        speak(&mut shard, of_metadata());
        assert_eq!(seen.metadata.recv_timeout(PATIENCE), Ok(of_metadata()));
        alive(&mut shard);
    }
    speak(&mut metadata, of_metadata());
    assert_eq!(seen.metadata.recv_timeout(PATIENCE), Ok(of_metadata()));
}
