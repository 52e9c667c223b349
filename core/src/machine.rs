//! The one face of every machine: what goes in, what comes out.
//!
//! The contract. A machine never blocks and never fails for what a peer, a client or a disk sent. [`Output::Send`] and
//! [`Output::Reply`] are safe to do the moment they come out: the machine itself has waited for the disk. The driver reads
//! the clock once, steps, does all outputs in order, and calls again at the latest at [`Machine::next_timeout`].

use std::collections::VecDeque;
use std::sync::Arc;

use milena_wire::{Request, Response};

use crate::disk::{Command, Outcome};
use crate::local::LocalMessage;
use crate::metadata::MetadataView;
use crate::peer::PeerMessage;
use crate::shard::ShardView;
use crate::storage::Work;
use crate::trace::Event;
use crate::{ClientId, Instant, NodeId, Now, OpId};

/// A machine of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Place {
    /// Quorum, controller and the broker's own registration.
    Metadata,
    /// The owner of a share of the partitions.
    Shard(u16),
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// When the machine begins to run; once, first.
    Start,
    /// When the deadline that it named has come.
    Timeout,
    /// When another node's message for this machine has arrived (see [`crate::peer::PeerMessage::place`]).
    Peer {
        /// The sender, as its connection's hello gave it.
        from: NodeId,
        /// The message.
        message: PeerMessage,
    },
    /// When another machine of this node has something to say.
    Local {
        /// The machine.
        from: Place,
        /// The message.
        message: LocalMessage,
    },
    /// When a Kafka client asks. Requests of one connection arrive in its order.
    Request {
        /// The connection.
        client: ClientId,
        /// Number of the request on that connection, to be repeated in the reply.
        id: u64,
        /// Version of the request, and so of its answer.
        version: i16,
        /// The request, decoded.
        request: Request,
        /// Who asks.
        context: Arc<ClientContext>,
    },
    /// When a connection is gone: what it waits for need not be answered.
    Hangup {
        /// The connection.
        client: ClientId,
    },
    /// When a disk command has been carried out, or not.
    Disk {
        /// The operation.
        op: OpId,
        /// What came of it.
        outcome: Outcome,
    },
    /// When work is done that was given away with [`Output::Work`].
    Worked {
        /// The operation.
        op: OpId,
        /// What came of it.
        work: Work,
    },
}

/// What is known of a Kafka connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientContext {
    /// Who it is; `User:ANONYMOUS` until there is authentication.
    pub principal: String,
    /// What it calls itself in its request headers.
    pub client_id: String,
}

impl Default for ClientContext {
    fn default() -> Self {
        ClientContext { principal: "User:ANONYMOUS".into(), client_id: String::new() }
    }
}

/// What is to be done, at once and in order.
#[derive(Clone, Debug)]
pub enum Output {
    /// When another node is to be told. It may be lost, delayed, doubled or reordered.
    Send {
        /// The node.
        to: NodeId,
        /// The message.
        message: PeerMessage,
    },
    /// When another machine of this node is to be told. It arrives, in order.
    Local {
        /// The machine.
        to: Place,
        /// The message.
        message: LocalMessage,
    },
    /// When a client's request is answered.
    Reply {
        /// The connection.
        client: ClientId,
        /// Number of the request on that connection.
        id: u64,
        /// The answer; none where the protocol has none (acks=0).
        response: Option<Response>,
    },
    /// When a request costs its connection: it is closed once those before it are answered.
    Close {
        /// The connection.
        client: ClientId,
        /// Number of the request on that connection.
        id: u64,
        /// For the log.
        why: &'static str,
    },
    /// When the disk has work.
    Disk {
        /// To be repeated with the outcome.
        op: OpId,
        /// The work.
        command: Command,
    },
    /// When there is work that would hold up the machine: it is to be run beside it ([`Work::run`]).
    Work {
        /// To be repeated with what comes out.
        op: OpId,
        /// The work.
        work: Work,
    },
    /// When something that an operator should know has happened. Text for the log, already complete.
    Log {
        /// How bad it is.
        level: LogLevel,
        /// One line.
        line: String,
    },
    /// When a node that was to stop in good order has given away what it could, or waited long enough: it may end.
    Stop,
    /// When this node must not go on: nothing more may be acknowledged from it before a restart has recovered its disk.
    Halt(Halt),
}

/// How bad a [`Output::Log`] line is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogLevel {
    /// Of the ordinary.
    Info,
    /// An operator should look at it soon.
    Warn,
    /// Something is broken.
    Error,
}

/// Why a node stops.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Halt {
    /// A sync or a journal write failed; what is on the disk is no longer known.
    Disk(String),
    /// The operator must mend something: exit code 2 with this line, which names problem and remedy.
    Operator(String),
}

/// Where a step puts what is to be done.
#[derive(Default, Debug)]
pub struct Outputs {
    /// To be done, first in first out.
    pub queue: VecDeque<Output>,
    /// What the simulator's ghosts are told. Empty unless `tracing`.
    pub events: Vec<Event>,
    /// Whether anyone listens to events.
    pub tracing: bool,
}

impl Outputs {
    /// A sink whose events are kept, for the simulator and tests.
    pub fn traced() -> Outputs {
        Outputs { tracing: true, ..Outputs::default() }
    }

    /// Sends to another node.
    pub fn send(&mut self, to: NodeId, message: impl Into<PeerMessage>) {
        self.queue.push_back(Output::Send { to, message: message.into() });
    }

    /// Tells another machine of this node.
    pub fn local(&mut self, to: Place, message: LocalMessage) {
        self.queue.push_back(Output::Local { to, message });
    }

    /// Answers a client.
    pub fn reply(&mut self, client: ClientId, id: u64, response: impl Into<Option<Response>>) {
        self.queue.push_back(Output::Reply { client, id, response: response.into() });
    }

    /// Gives the disk work.
    pub fn disk(&mut self, op: OpId, command: Command) {
        self.queue.push_back(Output::Disk { op, command });
    }

    /// Gives work away that would hold up the machine.
    pub fn work(&mut self, op: OpId, work: Work) {
        self.queue.push_back(Output::Work { op, work });
    }

    /// Writes a line to the log.
    pub fn log(&mut self, level: LogLevel, line: impl Into<String>) {
        self.queue.push_back(Output::Log { level, line: line.into() });
    }

    /// Lets the driver end a node that was to stop in good order.
    pub fn stop(&mut self) {
        self.queue.push_back(Output::Stop);
    }

    /// Stops the node.
    pub fn halt(&mut self, why: Halt) {
        self.queue.push_back(Output::Halt(why));
    }

    /// Tells the simulator's ghosts; free when nobody listens.
    pub fn event(&mut self, event: impl FnOnce() -> Event) {
        if self.tracing {
            self.events.push(event());
        }
    }
}

/// What every machine can do.
pub trait Machine {
    /// Takes one input and says what is to be done. Never fails, never blocks.
    fn step(&mut self, now: Now, input: Input, out: &mut Outputs);

    /// The one deadline, and why; none where nothing is waited for.
    fn next_timeout(&self) -> Option<(Instant, Timer)>;

    /// What it shows of itself between two steps.
    fn view(&self) -> View<'_>;

    /// Costly assertions, for the simulator.
    fn check_invariants(&self);
}

/// What a machine shows of itself: for metrics, checkers and whether a node is ready. It is read between two steps, and costs
/// what is asked of it.
pub enum View<'a> {
    /// When it has nothing to show yet: it recovers the disk.
    Nothing,
    /// When it keeps the metadata.
    Metadata(MetadataView<'a>),
    /// When it owns partitions.
    Shard(ShardView<'a>),
}

/// Why a machine wants to be called again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Timer {
    /// When a follower has heard nothing from a leader, or a candidate has not won.
    Election,
    /// When a quorum leader sends to followers that have nothing new, or checks that a majority still hears it.
    QuorumHeartbeat,
    /// When an empty or unfinished node asks the others again, or one says that it was started with another list.
    Founding,
    /// When a broker registers again or tells the controller that it lives.
    BrokerHeartbeat,
    /// When the controller looks for brokers that have fallen silent, or for leaders to give back.
    Controller,
    /// When a leader pushes again what was not acknowledged, or looks for followers to add or drop.
    Replication,
    /// When a fetch that waits for bytes, or a lookup of offsets that waits for its epoch, is answered with what there is.
    FetchWait,
    /// When a produce that waits for followers is answered with a timeout.
    ProduceWait,
    /// When a journal has been idle and writes one more mark.
    IdleMark,
    /// When retention looks for old segments.
    Retention,
    /// When the cleaner looks for dirty logs, or goes on with one.
    Cleaning,
    /// When a disk's free space is measured.
    FreeSpace,
    /// When what found no room on a disk is tried again.
    DiskRetry,
    /// When a request to another machine or node is sent again.
    Retry,
    /// When what came before a starting node knew enough is answered with what it knows.
    Early,
    /// When a node without a controller says whom it hears.
    Waiting,
}
