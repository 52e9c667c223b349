//! The loop that runs machines: wait for the first of message, disk result, request and deadline; read the clock once; step;
//! do what came out. It decides nothing; it reads along where peers are and whether the broker serves.
//!
//! A worker is a thread with one machine, its disk lanes and its links to other nodes. The shards' workers share the Kafka
//! connections; the metadata's, which has little else to do, accepts all connections and knows where the peers are. So a shard
//! that is busy for long takes no time from the quorum. What belongs to another worker goes there by its mailbox.
//!
//! Whatever has arrived is stepped before the disk is woken, so that one waking serves all of it. What comes while a sync is
//! under way shares the next one.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use milena_core::local::LocalMessage;
use milena_core::peer::PeerMessage;
use milena_core::{
    Halt, Input, LogLevel, Machine, NodeId, Now, OpId, Output, Outputs, Place, Work,
};

use crate::accept::{self, Acceptor};
use crate::files::Files;
use crate::files::lanes::{Done, Lanes};
use crate::kafka::{Connections, Counts, Limits};
use crate::links::{Hello, Incoming, Links};
use crate::peers::{Peers, Workers};
use crate::report::{self, Ask};
use crate::runtime::{self, Bound, Clock, Detached, Notify, TcpListener, WorkThread, mpsc, select};
use crate::warnings::{self, Kind};

/// Inputs stepped before the disk and the sockets get their turn.
const INPUTS_PER_TURN: usize = 512;
/// How long answers that are under way are waited for when a node stops.
const PATIENCE: Duration = Duration::from_millis(300);

/// Inputs of a worker's machine that have arrived.
#[derive(Default)]
struct Inbox {
    queue: RefCell<VecDeque<Input>>,
    wake: Notify,
}

impl Inbox {
    fn push(&self, input: Input) {
        self.queue.borrow_mut().push_back(input);
        self.wake.notify_one();
    }

    fn pop(&self) -> Option<Input> {
        self.queue.borrow_mut().pop_front()
    }

    fn is_empty(&self) -> bool {
        self.queue.borrow().is_empty()
    }
}

/// What comes to a worker from other threads.
pub enum Mail {
    /// The disk is done with commands.
    Disk(Vec<Done>),
    /// Work that would have held up the machine is done.
    Worked(OpId, Work),
    /// Another worker's machine speaks to this one's.
    Local {
        /// Who.
        from: Place,
        /// What.
        message: LocalMessage,
    },
    /// A peer speaks to this worker's machine, on a connection of another worker.
    Peer {
        /// Who.
        from: NodeId,
        /// What.
        message: PeerMessage,
    },
    /// The metadata's worker reaches a peer somewhere, or has lost it.
    Reached(NodeId, Option<String>),
    /// A peer's shard has connected.
    Incoming(Incoming),
    /// A Kafka client has connected.
    Client(Detached),
    /// Someone watches.
    Ask(Ask),
    /// The node stops.
    Stop,
}

/// The way to a worker.
pub type Mailbox = mpsc::UnboundedSender<Mail>;

/// What the workers of a node share and need to know to run.
#[derive(Clone)]
pub struct Shared {
    /// How this node introduces itself.
    pub hello: Hello,
    /// The node's clock.
    pub clock: Clock,
    /// The data directory.
    pub files: Arc<Files>,
    /// The ways to the workers: the metadata's first, then each shard's.
    pub mailboxes: Vec<Mailbox>,
    /// Of the Kafka listener.
    pub limits: Limits,
    /// Of Kafka connections.
    pub counts: Arc<Counts>,
    /// Whether the broker serves: it is registered, and its registration confirmed.
    pub serving: Arc<AtomicBool>,
    /// Whether a machine has halted, so that nothing more may leave this node, whichever worker it comes from.
    pub halted: Arc<AtomicBool>,
    /// Told when a worker has ended, and why if a machine wanted it.
    pub ended: mpsc::UnboundedSender<Option<Halt>>,
}

/// The number of the worker that has a machine.
fn worker(place: Place) -> usize {
    match place {
        Place::Metadata => 0,
        Place::Shard(shard) => 1 + usize::from(shard),
    }
}

/// The name of a machine's thread, and the beginning of those of its disk lanes.
pub fn thread_name(node: NodeId, place: Place) -> String {
    match place {
        Place::Metadata => format!("n{node}-meta"),
        Place::Shard(shard) => format!("n{node}-s{shard}"),
    }
}

impl Shared {
    fn shards(&self) -> u16 {
        (self.mailboxes.len() - 1) as u16
    }

    /// Sends mail to the worker of a machine, if there is such a machine.
    fn post(&self, to: Place, mail: Mail) {
        if let Some(mailbox) = self.mailboxes.get(worker(to)) {
            // A worker that has ended takes the node with it.
            let _ = mailbox.send(mail);
        }
    }

    fn tell_all_to_stop(&self) {
        for mailbox in &self.mailboxes {
            // One that has ended already needs no telling.
            let _ = mailbox.send(Mail::Stop);
        }
    }
}

impl Workers for Shared {
    fn tell_reached(&self, node: NodeId, at: Option<&str>) {
        for shard in 0..self.shards() {
            self.post(Place::Shard(shard), Mail::Reached(node, at.map(str::to_string)));
        }
    }

    fn give(&self, incoming: Incoming) {
        // A peer may have more shards than this node.
        let shard = incoming.hello.shard.unwrap_or(0) % self.shards().max(1);
        self.post(Place::Shard(shard), Mail::Incoming(incoming));
    }

    fn halt(&self, why: Halt) {
        // First said, then done, so that no other worker's end is taken for the reason.
        let _ = self.ended.send(Some(why));
        self.halted.store(true, Ordering::Release);
        self.tell_all_to_stop();
    }
}

/// Where connections come in, which is for the metadata's worker.
pub struct Doors {
    /// Peers known from the configuration.
    pub peers: Vec<(NodeId, String)>,
    /// For peers.
    pub peer_listener: Bound,
    /// For Kafka clients, if this node serves any.
    pub kafka_listener: Option<Bound>,
}

struct Worker {
    place: Place,
    machine: Box<dyn Machine + Send>,
    lanes: Lanes,
    /// Does what would hold up the machine.
    beside: WorkThread<(OpId, Work)>,
    shared: Shared,
    inbox: Rc<Inbox>,
    out: Outputs,
    links: Rc<Links>,
    /// Of a shard.
    connections: Option<Rc<Connections>>,
    /// Of the metadata.
    peers: Option<Rc<Peers<Shared>>>,
    /// Whether nothing more may leave this node.
    ended: bool,
    stopping: bool,
}

/// Runs a worker to its end.
pub async fn work(
    place: Place,
    machine: Box<dyn Machine + Send>,
    shared: Shared,
    mail: mpsc::UnboundedReceiver<Mail>,
    doors: Option<Doors>,
) {
    let ended = shared.ended.clone();
    let halt = match Worker::start(place, machine, shared, doors).await {
        Ok(worker) => {
            worker.run(mail).await;
            None
        }
        Err(error) => Some(Halt::Operator(format!("this node cannot run: {error}"))),
    };
    // Nobody listens any more when the whole process stops.
    let _ = ended.send(halt);
}

impl Worker {
    async fn start(
        place: Place,
        machine: Box<dyn Machine + Send>,
        shared: Shared,
        doors: Option<Doors>,
    ) -> std::io::Result<Worker> {
        let mailbox = shared.mailboxes[worker(place)].clone();
        let name = thread_name(shared.hello.from, place);
        let to_work = mailbox.clone();
        let beside = WorkThread::start(format!("{name}-c"), move |(op, work): (OpId, Work)| {
            let _ = to_work.send(Mail::Worked(op, work.run()));
        })?;
        let report = move |done| {
            // A worker that has ended needs no answers.
            let _ = mailbox.send(Mail::Disk(done));
        };
        let lanes = Lanes::start(&name, &shared.files, report)?;
        let inbox = Rc::new(Inbox::default());
        inbox.push(Input::Start);
        let links = links(place, &shared, inbox.clone());
        let connections = matches!(place, Place::Shard(_)).then(|| {
            let (limits, counts) = (shared.limits.clone(), shared.counts.clone());
            let inbox = inbox.clone();
            Connections::new(limits, counts, shared.clock, move |input| inbox.push(input))
        });
        let peers = match doors {
            Some(doors) => Some(open(doors, links.clone(), &shared).await?),
            None => None,
        };
        Ok(Worker {
            place,
            machine,
            lanes,
            beside,
            shared,
            inbox,
            out: Outputs::default(),
            links,
            connections,
            peers,
            ended: false,
            stopping: false,
        })
    }

    async fn run(mut self, mut mail: mpsc::UnboundedReceiver<Mail>) {
        loop {
            while let Ok(mail) = mail.try_recv() {
                self.on_mail(mail);
            }
            self.turn();
            if self.ended {
                return;
            }
            if self.stopping {
                break;
            }
            if !self.inbox.is_empty() {
                runtime::yield_now().await;
                continue;
            }
            let deadline = self.machine.next_timeout().map(|(at, _)| at);
            select! {
                biased;
                () = self.inbox.wake.notified() => {}
                Some(mail) = mail.recv() => self.on_mail(mail),
                () = self.shared.clock.sleep_until(deadline) => {}
            }
        }
        self.stop(mail).await;
    }

    /// Answers what is under way for a little while, then ends.
    async fn stop(mut self, mut mail: mpsc::UnboundedReceiver<Mail>) {
        let (connections, shared) = (self.connections.clone(), self.shared.clone());
        let stopping = async move {
            match connections {
                Some(connections) => connections.stop(PATIENCE).await,
                None => clients_gone(&shared).await,
            }
        };
        let mut stopping = std::pin::pin!(stopping);
        while !self.ended {
            let deadline = self.machine.next_timeout().map(|(at, _)| at);
            select! {
                biased;
                () = &mut stopping => break,
                () = self.inbox.wake.notified() => {}
                Some(mail) = mail.recv() => self.on_mail(mail),
                () = self.shared.clock.sleep_until(deadline) => {}
            }
            self.turn();
        }
    }

    fn on_mail(&mut self, mail: Mail) {
        match mail {
            Mail::Disk(done) => {
                for done in done {
                    self.lanes.done(&done);
                    let Done { op, outcome, .. } = done;
                    self.inbox.push(Input::Disk { op, outcome });
                }
            }
            Mail::Worked(op, work) => self.inbox.push(Input::Worked { op, work }),
            Mail::Local { from, message } => {
                self.read_along(&message);
                self.inbox.push(Input::Local { from, message });
            }
            Mail::Peer { from, message } => self.inbox.push(Input::Peer { from, message }),
            Mail::Reached(node, at) => self.links.set_reached(node, at),
            Mail::Incoming(incoming) => {
                if let Err(error) = self.links.take_over(incoming) {
                    lost(&self.shared, &error);
                }
            }
            Mail::Client(stream) => match (stream.attach(), &self.connections) {
                (Ok(stream), Some(connections)) => connections.open(stream),
                (Err(error), _) => lost(&self.shared, &error),
                (_, None) => {}
            },
            Mail::Ask(ask) => {
                let connections = self.connections.as_ref();
                let traffic = || connections.map(|all| all.traffic()).unwrap_or_default();
                report::answer(ask, self.machine.view(), traffic);
            }
            Mail::Stop => self.stopping = true,
        }
    }

    /// Steps what has arrived and what is due, then lets the disk and the sockets have what came out.
    fn turn(&mut self) {
        let now = self.shared.clock.now();
        for _ in 0..INPUTS_PER_TURN {
            let Some(input) = self.inbox.pop() else { break };
            self.step(now, input);
            if self.ended {
                return;
            }
        }
        if self.machine.next_timeout().is_some_and(|(at, _)| at <= now.mono) {
            self.step(now, Input::Timeout);
            if self.ended {
                return;
            }
        }
        self.lanes.flush();
    }

    fn step(&mut self, now: Now, input: Input) {
        self.machine.step(now, input, &mut self.out);
        if self.shared.halted.load(Ordering::Acquire) {
            // Another worker's machine, whose halt was reported by that one.
            self.out.queue.clear();
            self.ended = true;
            return;
        }
        while let Some(output) = self.out.queue.pop_front() {
            match output {
                Output::Send { to, message } => self.links.send(to, &message),
                Output::Local { to, message } => {
                    self.read_along(&message);
                    if to == self.place {
                        self.inbox.push(Input::Local { from: self.place, message });
                    } else {
                        self.shared.post(to, Mail::Local { from: self.place, message });
                    }
                }
                Output::Reply { client, id, response } => {
                    if let Some(connections) = &self.connections {
                        connections.reply(client, id, response);
                    }
                }
                Output::Close { client, id, why } => {
                    if let Some(connections) = &self.connections {
                        connections.close_at(client, id, why);
                    }
                }
                Output::Disk { op, command } => self.lanes.submit(op, command),
                Output::Work { op, work } => self.beside.send((op, work)),
                Output::Log { level, line } => log(self.shared.hello.from, level, &line),
                Output::Stop => self.shared.tell_all_to_stop(),
                Output::Halt(why) => {
                    self.shared.halt(why);
                    self.out.queue.clear();
                    self.ended = true;
                    return;
                }
            }
        }
    }

    /// What the metadata tells a shard says also which cluster this is, where brokers are that the configuration does not
    /// name, and whether this one serves.
    fn read_along(&self, message: &LocalMessage) {
        match message {
            LocalMessage::Image(image) => {
                self.links.set_cluster(image.cluster);
                if let Some(peers) = &self.peers {
                    peers.on_image(image);
                }
            }
            LocalMessage::Serving(epoch) if self.place == Place::Metadata => {
                self.shared.serving.store(epoch.is_some(), Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

/// The links of a worker. What comes on them is for its own machine, where the other side has as many shards.
fn links(place: Place, shared: &Shared, inbox: Rc<Inbox>) -> Rc<Links> {
    let shard = match place {
        Place::Metadata => None,
        Place::Shard(shard) => Some(shard),
    };
    let hello = Hello { shard, ..shared.hello.clone() };
    let (clock, warnings) = (shared.clock, shared.counts.warnings.clone());
    let (shards, shared) = (shared.shards(), shared.clone());
    let deliver = move |from, message: PeerMessage| {
        let to = message.place(shards);
        if to == place {
            inbox.push(Input::Peer { from, message });
        } else {
            shared.post(to, Mail::Peer { from, message });
        }
    };
    Links::new(hello, shards, clock, warnings, deliver)
}

/// Lets peers and Kafka clients in.
async fn open(
    doors: Doors,
    links: Rc<Links>,
    shared: &Shared,
) -> std::io::Result<Rc<Peers<Shared>>> {
    let (clock, warnings) = (shared.clock, shared.counts.warnings.clone());
    runtime::spawn(look_after(shared.clone()));
    let peers = Peers::new(shared.hello.from, links, clock, warnings, shared.clone());
    doors.peers.iter().for_each(|(node, address)| peers.given(*node, address));
    runtime::spawn(peers.clone().accept(runtime::listen(doors.peer_listener).await?));
    if let Some(listener) = doors.kafka_listener {
        runtime::spawn(accept(runtime::listen(listener).await?, shared.clone()));
    }
    Ok(peers)
}

/// Waits until the shards' workers have closed the Kafka connections: answers that are under way may need the metadata.
async fn clients_gone(shared: &Shared) {
    let end = shared.clock.mono().after_ms(PATIENCE.as_millis() as u64);
    while shared.clock.mono() < end && shared.counts.load(&shared.limits).connections > 0 {
        runtime::sleep(Duration::from_millis(2)).await;
    }
}

/// Accepts Kafka clients and spreads them over the shards.
async fn accept(listener: TcpListener, shared: Shared) {
    let (clock, warnings) = (shared.clock, shared.counts.warnings.clone());
    let acceptor = Acceptor { listener, whom: "Kafka clients", clock, warnings };
    for shard in (0..shared.shards()).cycle() {
        let (stream, _) = match acceptor.next().await {
            Ok(accepted) => accepted,
            Err(halt) => return shared.halt(halt),
        };
        match Detached::new(stream) {
            Ok(stream) => shared.post(Place::Shard(shard), Mail::Client(stream)),
            Err(error) => lost(&shared, &error),
        }
    }
}

/// A connection did not come from one thread to another.
fn lost(shared: &Shared, error: &std::io::Error) {
    let line = || format!("a connection was lost: {error}");
    shared.counts.warnings.warn_of_own(shared.clock.mono(), Kind::LostConnection, line);
}

/// Says what was counted meanwhile, and ends the node where its files have had no descriptor for too long.
async fn look_after(shared: Shared) {
    loop {
        runtime::sleep(warnings::SWEEP).await;
        shared.counts.warnings.sweep(shared.clock.mono());
        if shared.files.is_exhausted() {
            return shared.halt(accept::exhausted());
        }
    }
}

/// Writes a line of core to the log.
pub fn log(node: NodeId, level: LogLevel, line: &str) {
    match level {
        LogLevel::Info => tracing::info!(target: "milena", %node, "{line}"),
        LogLevel::Warn => tracing::warn!(target: "milena", %node, "{line}"),
        LogLevel::Error => tracing::error!(target: "milena", %node, "{line}"),
    }
}
