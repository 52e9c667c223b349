//! The loop that runs machines: wait for the first of message, disk result, request and deadline; read the clock once; step;
//! do what came out. It decides nothing; it reads along where peers are and whether the broker serves.
//!
//! A worker is a thread with one or two machines, their disk lanes, and a share of the Kafka connections. The first worker
//! of a node also has the connections to peers. What belongs to another worker goes there by its mailbox.
//!
//! Whatever has arrived is stepped before the disk is woken, so that one waking serves all of it. What comes while a sync is
//! under way shares the next one.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use milena_core::local::LocalMessage;
use milena_core::peer::PeerMessage;
use milena_core::{Halt, Input, LogLevel, Machine, NodeId, Now, Output, Outputs, Place};

use crate::accept::{self, Acceptor};
use crate::files::Files;
use crate::files::lanes::{Done, Lanes};
use crate::kafka::{Connections, Counts, Limits};
use crate::peers::{Hello, Peers};
use crate::report::{self, Ask};
use crate::runtime::{self, Bound, Clock, Detached, Notify, TcpListener, mpsc, select};
use crate::warnings::{self, Kind};

/// Inputs stepped before the disk and the sockets get their turn.
const INPUTS_PER_TURN: usize = 512;
/// How long answers that are under way are waited for when a node stops.
const PATIENCE: Duration = Duration::from_millis(300);

/// Inputs of a worker's machines that have arrived.
#[derive(Default)]
struct Inbox {
    queue: RefCell<VecDeque<(usize, Input)>>,
    wake: Notify,
}

impl Inbox {
    /// Adds an input for a machine, by its number on this worker.
    fn push(&self, machine: usize, input: Input) {
        self.queue.borrow_mut().push_back((machine, input));
        self.wake.notify_one();
    }

    fn pop(&self) -> Option<(usize, Input)> {
        self.queue.borrow_mut().pop_front()
    }

    fn is_empty(&self) -> bool {
        self.queue.borrow().is_empty()
    }
}

/// What comes to a worker from other threads.
pub enum Mail {
    /// The disk is done with commands of a machine, by its number.
    Disk(usize, Vec<Done>),
    /// Another worker's machine speaks.
    Local {
        /// To whom.
        to: Place,
        /// Who.
        from: Place,
        /// What.
        message: LocalMessage,
    },
    /// A peer speaks.
    Peer {
        /// To whom.
        to: Place,
        /// Who.
        from: NodeId,
        /// What.
        message: PeerMessage,
    },
    /// A machine speaks to a peer; for the worker that has the connections.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: PeerMessage,
    },
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
    /// For log lines.
    pub node: NodeId,
    /// The node's clock.
    pub clock: Clock,
    /// The data directory.
    pub files: Arc<Files>,
    /// Where each machine runs: number of the worker.
    pub places: BTreeMap<Place, usize>,
    /// The ways to the workers.
    pub mailboxes: Vec<Mailbox>,
    /// Shards of this node.
    pub shards: u16,
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

impl Shared {
    /// Ends the whole node.
    fn halt(&self, why: Halt) {
        // First said, then done, so that no other worker's end is taken for the reason.
        let _ = self.ended.send(Some(why));
        self.halted.store(true, Ordering::Release);
        self.tell_all_to_stop();
    }

    fn tell_all_to_stop(&self) {
        for mailbox in &self.mailboxes {
            // One that has ended already needs no telling.
            let _ = mailbox.send(Mail::Stop);
        }
    }
}

/// What only the first worker of a node gets.
pub struct First {
    /// How this node introduces itself.
    pub hello: Hello,
    /// Peers known from the configuration.
    pub peers: Vec<(NodeId, String)>,
    /// For peers.
    pub peer_listener: Bound,
    /// For Kafka clients, if this node serves any.
    pub kafka_listener: Option<Bound>,
}

/// A machine with its place.
pub type Placed = (Place, Box<dyn Machine + Send>);

struct Seat {
    place: Place,
    machine: Box<dyn Machine + Send>,
    lanes: Lanes,
}

struct Worker {
    index: usize,
    shared: Shared,
    seats: Vec<Seat>,
    inbox: Rc<Inbox>,
    out: Outputs,
    connections: Option<Rc<Connections>>,
    peers: Option<Rc<Peers>>,
    /// Whether nothing more may leave this node.
    ended: bool,
    stopping: bool,
}

/// Runs a worker to its end.
pub async fn work(
    index: usize,
    shared: Shared,
    machines: Vec<Placed>,
    mail: mpsc::UnboundedReceiver<Mail>,
    first: Option<First>,
) {
    let ended = shared.ended.clone();
    let halt = match Worker::start(index, shared, machines, first).await {
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
        index: usize,
        shared: Shared,
        machines: Vec<Placed>,
        first: Option<First>,
    ) -> std::io::Result<Worker> {
        let mut seats = Vec::new();
        for (number, (place, machine)) in machines.into_iter().enumerate() {
            let mailbox = shared.mailboxes[index].clone();
            let name = match place {
                Place::Metadata => format!("n{}-meta", shared.node),
                Place::Shard(shard) => format!("n{}-s{shard}", shared.node),
            };
            let report = move |done| {
                // A worker that has ended needs no answers.
                let _ = mailbox.send(Mail::Disk(number, done));
            };
            let lanes = Lanes::start(&name, &shared.files, report)?;
            seats.push(Seat { place, machine, lanes });
        }
        let inbox = Rc::new(Inbox::default());
        (0..seats.len()).for_each(|number| inbox.push(number, Input::Start));
        let shard = seats.iter().position(|seat| matches!(seat.place, Place::Shard(_)));
        let connections = shard.map(|machine| {
            let (limits, counts) = (shared.limits.clone(), shared.counts.clone());
            let inbox = inbox.clone();
            let deliver = move |input| inbox.push(machine, input);
            Connections::new(limits, counts, shared.clock, deliver)
        });
        let mut worker = Worker {
            index,
            shared,
            seats,
            inbox,
            out: Outputs::default(),
            connections,
            peers: None,
            ended: false,
            stopping: false,
        };
        if let Some(first) = first {
            worker.listen(first).await?;
        }
        Ok(worker)
    }

    async fn listen(&mut self, first: First) -> std::io::Result<()> {
        let (inbox, shared) = (self.inbox.clone(), self.shared.clone());
        let numbers: BTreeMap<Place, usize> = self.numbers();
        let halting = shared.clone();
        let deliver = move |from, message: PeerMessage| {
            let to = message.place(shared.shards);
            match numbers.get(&to) {
                Some(number) => inbox.push(*number, Input::Peer { from, message }),
                None => post(&shared, to, Mail::Peer { to, from, message }),
            }
        };
        let halt = move |why| halting.halt(why);
        let (clock, warnings) = (self.shared.clock, self.shared.counts.warnings.clone());
        runtime::spawn(look_after(self.shared.clone()));
        let peers = Peers::new(first.hello, clock, warnings, deliver, halt);
        first.peers.iter().for_each(|(node, address)| peers.given(*node, address));
        runtime::spawn(peers.clone().accept(runtime::listen(first.peer_listener).await?));
        self.peers = Some(peers);
        if let (Some(listener), Some(connections)) = (first.kafka_listener, &self.connections) {
            let listener = runtime::listen(listener).await?;
            runtime::spawn(accept(self.index, listener, connections.clone(), self.shared.clone()));
        }
        Ok(())
    }

    fn numbers(&self) -> BTreeMap<Place, usize> {
        self.seats.iter().enumerate().map(|(number, seat)| (seat.place, number)).collect()
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
            let deadline =
                self.seats.iter().filter_map(|s| s.machine.next_timeout()).map(|(at, _)| at).min();
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
        if let Some(connections) = self.connections.clone() {
            let stopping = connections.stop(PATIENCE);
            let mut stopping = std::pin::pin!(stopping);
            while !self.ended {
                let deadline = self
                    .seats
                    .iter()
                    .filter_map(|s| s.machine.next_timeout())
                    .map(|(at, _)| at)
                    .min();
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
    }

    fn on_mail(&mut self, mail: Mail) {
        match mail {
            Mail::Disk(number, done) => {
                for done in done {
                    self.seats[number].lanes.done(&done);
                    let Done { op, outcome, .. } = done;
                    self.inbox.push(number, Input::Disk { op, outcome });
                }
            }
            Mail::Local { to, from, message } => self.local(from, to, message),
            Mail::Peer { to, from, message } => {
                if let Some(number) = self.seats.iter().position(|seat| seat.place == to) {
                    self.inbox.push(number, Input::Peer { from, message });
                }
            }
            Mail::Send { to, message } => {
                if let Some(peers) = &self.peers {
                    peers.send(to, &message);
                }
            }
            Mail::Client(stream) => match (stream.attach(), &self.connections) {
                (Ok(stream), Some(connections)) => connections.open(stream),
                (Err(error), _) => lost(&self.shared, &error),
                (_, None) => {}
            },
            Mail::Ask(ask) => {
                let machines = self.seats.iter().map(|seat| &*seat.machine as &dyn Machine);
                let connections = self.connections.as_ref();
                let traffic = || connections.map(|all| all.traffic()).unwrap_or_default();
                report::answer(ask, machines, traffic);
            }
            Mail::Stop => self.stopping = true,
        }
    }

    /// Steps what has arrived and what is due, then lets the disk and the sockets have what came out.
    fn turn(&mut self) {
        let now = self.shared.clock.now();
        for _ in 0..INPUTS_PER_TURN {
            let Some((number, input)) = self.inbox.pop() else { break };
            self.step(number, now, input);
            if self.ended {
                return;
            }
        }
        for number in 0..self.seats.len() {
            let due = self.seats[number].machine.next_timeout();
            if due.is_some_and(|(at, _)| at <= now.mono) {
                self.step(number, now, Input::Timeout);
                if self.ended {
                    return;
                }
            }
        }
        self.seats.iter_mut().for_each(|seat| seat.lanes.flush());
    }

    fn step(&mut self, number: usize, now: Now, input: Input) {
        let place = self.seats[number].place;
        self.seats[number].machine.step(now, input, &mut self.out);
        if self.shared.halted.load(Ordering::Acquire) {
            // Another worker's machine, whose halt was reported by that one.
            self.out.queue.clear();
            self.ended = true;
            return;
        }
        while let Some(output) = self.out.queue.pop_front() {
            match output {
                Output::Send { to, message } => match &self.peers {
                    Some(peers) => peers.send(to, &message),
                    None => {
                        let _ = self.shared.mailboxes[0].send(Mail::Send { to, message });
                    }
                },
                Output::Local { to, message } => self.local(place, to, message),
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
                Output::Disk { op, command } => self.seats[number].lanes.submit(op, command),
                Output::Log { level, line } => log(self.shared.node, level, &line),
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

    fn local(&mut self, from: Place, to: Place, message: LocalMessage) {
        // The image says where brokers are that the configuration does not name.
        if let (LocalMessage::Image(image), Some(peers)) = (&message, &self.peers) {
            peers.set_cluster(image.cluster);
            peers.on_image(image);
        }
        if let LocalMessage::Serving(epoch) = &message {
            self.shared.serving.store(epoch.is_some(), Ordering::Relaxed);
        }
        match self.seats.iter().position(|seat| seat.place == to) {
            Some(number) => self.inbox.push(number, Input::Local { from, message }),
            None => post(&self.shared, to, Mail::Local { to, from, message }),
        }
    }
}

/// Sends mail to the worker that has a machine, if there is such a machine.
fn post(shared: &Shared, to: Place, mail: Mail) {
    if let Some(worker) = shared.places.get(&to) {
        // A worker that has ended takes the node with it.
        let _ = shared.mailboxes[*worker].send(mail);
    }
}

/// Accepts Kafka clients and spreads them over the workers that have a shard.
async fn accept(own: usize, listener: TcpListener, connections: Rc<Connections>, shared: Shared) {
    let workers: Vec<usize> = shared
        .places
        .iter()
        .filter(|(place, _)| matches!(place, Place::Shard(_)))
        .map(|(_, worker)| *worker)
        .collect();
    let mut turns = workers.iter().copied().cycle();
    let (clock, warnings) = (shared.clock, shared.counts.warnings.clone());
    let acceptor = Acceptor { listener, whom: "Kafka clients", clock, warnings };
    loop {
        let (stream, _) = match acceptor.next().await {
            Ok(accepted) => accepted,
            Err(halt) => return shared.halt(halt),
        };
        match turns.next() {
            Some(worker) if worker != own => match Detached::new(stream) {
                Ok(stream) => {
                    let _ = shared.mailboxes[worker].send(Mail::Client(stream));
                }
                Err(error) => lost(&shared, &error),
            },
            _ => connections.open(stream),
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
