//! One node: its directory locked and its ports bound, its disk recovered, its threads started, and its end.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use milena_core::addresses::Process;
use milena_core::local::LocalMessage;
use milena_core::node::{Boot, Node};
use milena_core::{Config, Halt, Input, Machine, Output, Outputs, Place};

use crate::accept;
use crate::files::{Files, OpenError, Unsynced};
use crate::host::{self, Doors, Mail, Mailbox, Shared};
use crate::kafka::{Counts, Limits};
use crate::links::Hello;
use crate::runtime::{self, Bound, Clock, Thread, entropy, mpsc};
use crate::watch::Watch;

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For core.
    pub config: Config,
    /// The data directory.
    pub data: PathBuf,
    /// What happens to writes before their sync.
    pub unsynced: Unsynced,
    /// Where to listen for Kafka clients; none where this node serves none.
    pub kafka_listen: Option<String>,
    /// Where to listen for peers.
    pub peer_listen: String,
    /// Of the Kafka listener.
    pub limits: Limits,
    /// The flags that choose the ports for Kafka clients and for peers, for advice.
    pub port_flags: (&'static str, &'static str),
}

/// Why a node could not start. Each says in one line what is wrong and what helps.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error("{0}")]
    Files(#[from] OpenError),
    /// A port.
    #[error("cannot listen on {address} for {whom}: {error}; {remedy}")]
    Listen {
        /// As configured.
        address: String,
        /// Who would connect.
        whom: &'static str,
        /// The operating system's word.
        error: io::Error,
        /// What helps.
        remedy: String,
    },
    /// A thread or the source of entropy.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// Recovery will not go on.
    #[error("{}", halt_line(.0))]
    Halt(Halt),
}

/// The line of a halt.
pub fn halt_line(halt: &Halt) -> &str {
    match halt {
        Halt::Disk(line) | Halt::Operator(line) => line,
    }
}

/// A node that runs.
pub struct Running {
    watch: Watch,
    serving: Arc<AtomicBool>,
    threads: Vec<Thread>,
    ended: mpsc::UnboundedReceiver<Option<Halt>>,
}

/// Starts a node. When this returns, it listens; whether it is of use yet depends on the others.
pub fn start(settings: Settings) -> Result<Running, StartError> {
    let Settings { config, data, unsynced, kafka_listen, peer_listen, limits, port_flags } =
        settings;
    let files = Arc::new(Files::open(&data, unsynced)?);
    // The port that its user named comes first, so that what is in the way is said of that one.
    let kafka_listener =
        kafka_listen.map(|address| listen(&address, "Kafka clients", port_flags.0)).transpose()?;
    let peer_listener = listen(&peer_listen, "peers", port_flags.1)?;
    let clock = Clock::start();
    let node = recover(&config, &files, clock)?;

    let cluster = node.metadata.cluster_on_disk().unwrap_or(0);
    let incarnation = node.superblock.incarnation;
    let run = u64::from_le_bytes(entropy()?);
    let shards = (0..).zip(node.shards);
    let machines: Vec<(Place, Box<dyn Machine + Send>)> =
        std::iter::once((Place::Metadata, Box::new(node.metadata) as _))
            .chain(shards.map(|(index, shard)| (Place::Shard(index), Box::new(shard) as _)))
            .collect();
    let (mailboxes, mails): (Vec<Mailbox>, Vec<_>) =
        machines.iter().map(|_| mpsc::unbounded_channel()).unzip();
    let serving = Arc::new(AtomicBool::new(false));
    let (ended_sender, ended) = mpsc::unbounded_channel();
    let counts = Arc::new(Counts::new(&limits));
    let watch = Watch {
        node: config.node,
        broker: config.broker,
        clock,
        mailboxes: mailboxes.clone(),
        files: files.clone(),
        counts: counts.clone(),
        limits: limits.clone(),
    };
    let shared = Shared {
        hello: Hello {
            cluster,
            from: config.node,
            to: config.node,
            process: Process { incarnation, run },
            shard: None,
            address: config.peer.clone(),
        },
        clock,
        files,
        mailboxes,
        counts,
        limits,
        serving: serving.clone(),
        halted: Arc::new(AtomicBool::new(false)),
        ended: ended_sender,
    };
    let mut doors =
        Some(Doors { peers: config.controllers.clone(), peer_listener, kafka_listener });
    let mut threads = Vec::new();
    for ((place, machine), mail) in machines.into_iter().zip(mails) {
        let (shared, doors) = (shared.clone(), doors.take());
        let name = host::thread_name(config.node, place);
        threads.push(Thread::start(name, move || host::work(place, machine, shared, mail, doors))?);
    }
    Ok(Running { watch, serving, threads, ended })
}

impl Running {
    /// Waits until a thread of the node ends by itself, which takes the node with it, and says why.
    pub async fn ended(&mut self) -> Option<Halt> {
        self.ended.recv().await.flatten()
    }

    /// Tells, now and later, whether its broker serves.
    pub fn serving(&self) -> impl Fn() -> bool + Send + 'static {
        let serving = self.serving.clone();
        move || serving.load(Ordering::Relaxed)
    }

    /// How many files it synced.
    pub fn syncs(&self) -> u64 {
        let times = self.watch.sync_times();
        times.journals.count() + times.segments.count()
    }

    /// Lets others watch it.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// Stops it in good order: first others take over what it leads, for a few seconds at most.
    pub fn stop_in_good_order(self) {
        let from = Place::Metadata;
        // One that has ended already needs no asking.
        let _ = self.watch.mailboxes[0].send(Mail::Local { from, message: LocalMessage::Stop });
        self.join();
    }

    /// Stops it: connections are closed once what is under way is answered. Nothing acknowledged is lost however it stops.
    pub fn stop(self) {
        self.begin_to_stop();
        self.join();
    }

    /// Tells it to stop and does not wait for it.
    pub fn begin_to_stop(&self) {
        for mailbox in &self.watch.mailboxes {
            // One that has ended already needs no asking.
            let _ = mailbox.send(Mail::Stop);
        }
    }

    fn join(self) {
        self.threads.into_iter().for_each(|thread| {
            thread.join();
        });
    }
}

/// Takes a port, or says what is in the way and which flag chooses another.
pub fn listen(address: &str, whom: &'static str, flag: &str) -> Result<Bound, StartError> {
    runtime::bind(address).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!("another process has it: stop that one or choose another port with {flag}")
            }
            io::ErrorKind::PermissionDenied => {
                format!("ports below 1024 need privileges: choose another with {flag}")
            }
            _ => format!("check the host and port of {flag}"),
        };
        StartError::Listen { address: address.into(), whom, error, remedy }
    })
}

/// Runs recovery to its end on this thread, each command at once.
fn recover(config: &Config, files: &Files, clock: Clock) -> Result<Node, StartError> {
    let mut boot = Boot::new(config.clone(), entropy()?);
    let mut inputs = VecDeque::from([Input::Start]);
    let mut out = Outputs::default();
    loop {
        let input = inputs.pop_front().unwrap_or_else(|| {
            let (at, _) = boot.next_timeout().expect("recovery waits for something or is done");
            runtime::pause(Duration::from_nanos(at.0.saturating_sub(clock.now().mono.0)));
            Input::Timeout
        });
        boot.step(clock.now(), input, &mut out);
        while let Some(output) = out.queue.pop_front() {
            match output {
                Output::Disk { op, command } => {
                    let outcome = files.execute(&command);
                    if files.is_exhausted() {
                        return Err(StartError::Halt(accept::exhausted()));
                    }
                    inputs.push_back(Input::Disk { op, outcome });
                }
                Output::Log { level, line } => host::log(config.node, level, &line),
                Output::Halt(halt) => return Err(StartError::Halt(halt)),
                Output::Send { .. }
                | Output::Work { .. }
                | Output::Local { .. }
                | Output::Reply { .. }
                | Output::Stop
                | Output::Close { .. } => unreachable!("recovery talks to the disk alone"),
            }
        }
        if let Some(node) = boot.take() {
            return Ok(node);
        }
    }
}
