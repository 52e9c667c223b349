//! The loop: takes the next thing that happens, steps the machine that it concerns, and carries out what comes of it.
//!
//! It holds no `if` about protocol state. Checkers see each event of core before its outputs are carried out, and each disk
//! command before the disk does.

mod connections;
mod faults;
mod journals;
mod peers;
mod phases;

use std::collections::BTreeMap;
use std::sync::Arc;

use milena_core::disk::{Command, Directory, DiskError, FileName, Success};
use milena_core::local::LocalMessage;
use milena_core::node::Boot;
use milena_core::peer::PeerMessage;
use milena_core::pipeline::Totals;
use milena_core::{
    ClientContext, ClientId, Halt, Input, LogId, LogLevel, OpId, Output, Outputs, Work,
};
use milena_wire::{Request, Response};

use crate::addresses::{Contacts, Hello, Homes, id};
use crate::check::marks::Seen;
use crate::check::node::ImageGhost;
use crate::check::{Checked, Checks, Violation};
use crate::client::{
    Admin, Client, ClientLinks, Consumer, Producer, Role, Seeker, Stranger, Wake, Wish,
};
use crate::disk::Disk;
use crate::fingerprint::Fingerprint;
use crate::history::History;
use crate::network::Network;
use crate::node::{NEVER, SimNode, State, machine_index, machine_place};
use crate::queue::{MS, Queue, Time};
use crate::rng::{Concern, Stream};
use crate::schedule::{Action, Fault, ProducerLimits, Schedule};
use connections::Connection;
use journals::JournalGroups;

/// Something that happens.
#[derive(Debug)]
enum Happening {
    /// When a machine's deadline may have come.
    Deadline { node: usize, machine: usize, life: u32 },
    /// When a message of another node arrives, or a connection that brings none yet.
    Peer { from: usize, to: usize, link: u32, hello: Hello, message: Option<Box<PeerMessage>> },
    /// When a message of another machine of the same node arrives.
    Local { node: usize, life: u32, from: usize, to: usize, message: LocalMessage },
    /// When work beside a machine is done.
    Worked { node: usize, life: u32, machine: usize, op: OpId, work: Box<Work> },
    /// When a disk command is done.
    Disk { node: usize, life: u32, slot: usize },
    /// When a client's request arrives.
    Request { connection: ClientId, id: u64, version: i16, request: Box<Request> },
    /// When a node looks again whether it may read what has come from a client.
    Read { connection: ClientId },
    /// When an answer arrives at its client.
    Reply { connection: ClientId, id: u64, response: Option<Box<Response>> },
    /// When a client learns that its connection is gone.
    Broken { connection: ClientId },
    /// When a node learns that a client's connection is gone.
    HangUp { connection: ClientId },
    /// When a client wanted to be called.
    Client { client: usize, why: Wake },
    /// When a node that stops in good order has answered what was under way.
    Answered { node: usize, life: u32 },
    /// When a node starts.
    Start { node: usize, life: u32 },
    /// When an entry of the schedule is due.
    Entry { index: usize },
    /// When something that a fault began ends.
    Restore(Restore),
    /// When the run looks at itself: phases, convergence, costly assertions.
    Look,
}

/// The end of a disturbance that lasts.
#[derive(Clone, Debug)]
enum Restore {
    Links(Vec<(usize, usize)>),
    SlowLinks(usize),
    SlowLink(usize, usize),
    Storm,
    SlowDisk(usize),
    FullDisk(usize),
    /// A client, and the node whose answers it takes again.
    Reading(usize, usize),
}

/// Where a run stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// When faults strike and clients work.
    Faults,
    /// When everything is healed and the clients work until enough is acknowledged.
    Healed,
    /// When the clients end what they began, and everything comes right.
    Converging,
    /// When everything is read once.
    Reading,
    /// When the run is over.
    Done,
}

/// Counts of a run.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Events that did something: steps of machines, timers that did nothing left out.
    pub events: u64,
    /// Everything that happened.
    pub steps: u64,
    /// Faults that struck, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Entries whose guards did not hold.
    pub skipped: u64,
    /// Power losses with unsynced bytes outstanding.
    pub power_losses_unsynced: u64,
    /// Peer messages compared with what their encoding gives back.
    pub encodings_compared: u64,
}

/// A run.
pub struct Cluster {
    schedule: Schedule,
    now: Time,
    queue: Queue<Happening>,
    nodes: Vec<SimNode>,
    network: Network,
    homes: Homes,
    /// Since when no node is down or recovering.
    all_up_since: Option<Time>,
    clients: Vec<Client>,
    connections: Vec<Connection>,
    /// What the pipelines of each node's shards come to.
    totals: BTreeMap<(usize, u16), Totals>,
    client_links: ClientLinks,
    /// The checkers.
    pub checks: Checks,
    /// What clients saw.
    pub history: History,
    /// Hash over every input and output.
    pub fingerprint: Fingerprint,
    /// Counts.
    pub counts: Counts,
    /// Whether each thing that happens is printed.
    pub tracing: bool,
    strike: Stream,
    phase: Phase,
    phase_since: Time,
    images: BTreeMap<usize, (Disk, ImageGhost, Option<milena_core::BrokerEpoch>)>,
    journals: Vec<JournalGroups>,
    /// Of each entry that waits for elections: how many leaders there had been when it came due, and when enough had come since.
    offices: BTreeMap<usize, (usize, Option<Time>)>,
    context: Arc<ClientContext>,
    out: Outputs,
    messages: u64,
}

/// How often the run looks at itself.
const LOOK: Time = 20 * MS;
/// A node that stops in good order answers what is under way for so long.
const ANSWERING: Time = 5 * MS;
/// A simulated run that is longer than this has lost its way.
const STEPS_MAX: u64 = 20_000_000;

impl Cluster {
    /// A run that has not begun.
    pub fn new(schedule: Schedule, tracing: bool) -> Cluster {
        let setup = &schedule.setup;
        let seed = schedule.seed;
        let count = setup.nodes.len();
        let nodes: Vec<SimNode> = setup
            .nodes
            .iter()
            .enumerate()
            .map(|(index, node)| SimNode::new(seed, index, node.shards, setup.disk.clone()))
            .collect();
        let damages_journals = schedule
            .entries
            .iter()
            .any(|entry| matches!(entry.action, Action::Fault(Fault::CorruptJournal { .. })));
        let mut roles = Vec::new();
        let mut admin = Admin::default();
        let mut history = History::default();
        history.gap_max = setup.gap_ms_max.map(|ms| ms * MS);
        history.forgetful = setup.core.producers != ProducerLimits::default();
        setup.topics.iter().for_each(|topic| admin.create(topic.clone(), &mut history));
        roles.push(Role::Admin(admin));
        roles.extend(setup.producers.iter().cloned().map(|p| Role::Producer(Producer::new(p))));
        roles.extend(setup.consumers.iter().cloned().map(|c| Role::Consumer(Consumer::new(c))));
        roles.extend(setup.seekers.iter().cloned().map(|s| Role::Seeker(Seeker::new(s))));
        roles.extend(setup.strangers.iter().map(|s| Role::Stranger(Stranger::new(*s))));
        let clients = (0..)
            .zip(roles)
            .map(|(index, role)| {
                Client::new(Stream::new(seed, Concern::Client(index)), count, role)
            })
            .collect();
        let mut checks = Checks::new(count);
        let homes = Homes::new(count);
        let config = setup.config(0, 1, homes.all());
        (checks.storage, checks.replication) = (config.storage, config.replication);
        let mut cluster = Cluster {
            now: 0,
            queue: Queue::default(),
            network: Network::new(seed, count, setup.network.clone()),
            homes,
            all_up_since: None,
            clients,
            connections: Vec::new(),
            totals: BTreeMap::new(),
            client_links: ClientLinks::new(count),
            checks,
            history,
            fingerprint: Fingerprint::default(),
            counts: Counts::default(),
            tracing,
            strike: Stream::new(seed, Concern::Strike),
            phase: Phase::Faults,
            phase_since: 0,
            images: BTreeMap::new(),
            journals: (0..count).map(|_| JournalGroups::watching(damages_journals)).collect(),
            offices: BTreeMap::new(),
            context: Arc::new(ClientContext::default()),
            out: Outputs::traced(),
            messages: 0,
            nodes,
            schedule,
        };
        cluster.plan();
        cluster
    }

    /// What it runs.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    fn plan(&mut self) {
        for (node, setup) in self.schedule.setup.nodes.iter().enumerate() {
            self.queue.push(setup.start_ms * MS, Happening::Start { node, life: 0 });
        }
        for (index, entry) in self.schedule.entries.iter().enumerate() {
            self.queue.push(entry.at_us * 1_000, Happening::Entry { index });
        }
        for client in 0..self.clients.len() {
            let at = 200 * MS + client as u64 * MS;
            self.clients[client].session.wake(at);
            self.grant(client);
        }
        self.queue.push(LOOK, Happening::Look);
    }

    /// Runs to the end, or to the first property that does not hold.
    ///
    /// # Errors
    /// The property, with its story.
    pub fn run(&mut self) -> Checked {
        while self.phase != Phase::Done {
            let (at, sequence, happening) =
                self.queue.pop().expect("the run looks at itself until it is done");
            self.now = at;
            self.counts.steps += 1;
            if self.counts.steps > STEPS_MAX {
                return Err(Violation::new("L11", "the run does not come to rest"));
            }
            self.happen(sequence, happening)?;
        }
        Ok(())
    }

    fn happen(&mut self, sequence: u64, happening: Happening) -> Checked {
        if let Some((node, until)) = self.paused(&happening) {
            if let Happening::Deadline { machine, life, .. } = &happening {
                let sim = &mut self.nodes[node];
                match sim.planned.get_mut(*machine).filter(|at| **at == self.now) {
                    Some(planned) if sim.life == *life => *planned = until,
                    _ => return Ok(()),
                }
            }
            self.queue.push(until, happening);
            return Ok(());
        }
        self.fingerprint.number(self.now);
        self.fingerprint.number(sequence);
        match happening {
            Happening::Deadline { node, machine, life } => self.on_deadline(node, machine, life),
            Happening::Peer { from, to, link, hello, message } => {
                if !self.network.arrives(from, to, link) || !self.nodes[to].is_up() {
                    return Ok(());
                }
                let (now, incarnation) =
                    (self.nodes[to].clocks(self.now).mono, self.nodes[from].incarnation);
                self.nodes[to].contacts.on_hello(now, from, hello, incarnation);
                let Some(message) = message else { return Ok(()) };
                let machine = machine_index(message.place(self.nodes[to].shards));
                self.step(to, machine, Input::Peer { from: id(from), message: *message })
            }
            Happening::Local { node, life, from, to, message } => {
                if self.nodes[node].life != life {
                    return Ok(());
                }
                let from = machine_place(from);
                self.step(node, to, Input::Local { from, message })
            }
            Happening::Worked { node, life, machine, op, work } => {
                if self.nodes[node].life != life {
                    return Ok(());
                }
                self.step(node, machine, Input::Worked { op, work: work.run() })
            }
            Happening::Disk { node, life, slot } => self.on_disk(node, life, slot),
            Happening::Request { connection, id, version, request } => {
                self.on_request(connection, id, version, *request)
            }
            Happening::Reply { connection, id, response } => {
                self.on_reply(connection, id, response)
            }
            Happening::Read { connection } => self.read(connection),
            Happening::Broken { connection } => {
                let Connection { client, node, .. } = self.connections[connection.0 as usize];
                if self.clients[client].connections[node] == Some(connection) {
                    self.clients[client].on_broken(self.now, node);
                    self.grant(client);
                }
                Ok(())
            }
            Happening::HangUp { connection } => {
                let Connection { node, life, shard, .. } = self.connections[connection.0 as usize];
                self.connections[connection.0 as usize].hung_up = true;
                if self.nodes[node].life != life || !self.nodes[node].is_up() {
                    return Ok(());
                }
                self.step(node, 1 + usize::from(shard), Input::Hangup { client: connection })
            }
            Happening::Client { client, why } => {
                match why {
                    Wake::Act if !self.clients[client].is_due(self.now) => return Ok(()),
                    Wake::Act => self.clients[client].act(self.now, &mut self.history),
                    Wake::Deadline(id) => {
                        self.must_have_answered(client, id)?;
                        self.clients[client].on_deadline(self.now, id);
                    }
                }
                self.grant(client);
                Ok(())
            }
            Happening::Answered { node, life } => {
                if self.nodes[node].life == life && !self.nodes[node].is_down() {
                    let away = self.nodes[node].away;
                    self.stop(node);
                    self.start_later(node, away);
                }
                Ok(())
            }
            Happening::Start { node, life } => self.on_start(node, life),
            Happening::Entry { index } => self.on_entry(index),
            Happening::Restore(restore) => {
                self.restore(&restore);
                Ok(())
            }
            Happening::Look => {
                self.queue.push(self.now + LOOK, Happening::Look);
                self.look()
            }
        }
    }

    /// Whether this must wait because the process that it concerns is stopped for a while.
    fn paused(&self, happening: &Happening) -> Option<(usize, Time)> {
        let node = match happening {
            Happening::Deadline { node, .. }
            | Happening::Local { node, .. }
            | Happening::Worked { node, .. }
            | Happening::Disk { node, .. } => *node,
            Happening::Peer { to, .. } => *to,
            Happening::Request { connection, .. }
            | Happening::Read { connection }
            | Happening::HangUp { connection } => self.connections[connection.0 as usize].node,
            _ => return None,
        };
        let until = self.nodes[node].paused_until;
        (until > self.now).then_some((node, until))
    }

    fn on_start(&mut self, node: usize, life: u32) -> Checked {
        let sim = &mut self.nodes[node];
        if sim.life != life || !sim.is_down() {
            return Ok(());
        }
        let config = self.schedule.setup.config(node, sim.shards, self.homes.list(node));
        sim.contacts = Contacts::new(node, &config.controllers);
        let entropy = sim.entropy.entropy();
        sim.state = State::Booting(Box::new(Boot::new(config, entropy)));
        sim.planned = vec![NEVER];
        sim.started = self.now;
        self.checks.on_start(node);
        self.trace(node, "starts");
        self.step(node, 0, Input::Start)
    }

    fn on_deadline(&mut self, node: usize, machine: usize, life: u32) -> Checked {
        let sim = &mut self.nodes[node];
        if sim.life != life || sim.planned.get(machine) != Some(&self.now) {
            return Ok(());
        }
        sim.planned[machine] = NEVER;
        let Some(target) = sim.machine(machine) else { return Ok(()) };
        let due = target.next_timeout();
        let reached = due.is_some_and(|(at, _)| sim.clock.reaches(at) <= self.now);
        if reached {
            self.step(node, machine, Input::Timeout)
        } else {
            self.plan_deadline(node, machine);
            Ok(())
        }
    }

    fn plan_deadline(&mut self, node: usize, machine: usize) {
        let now = self.now;
        let sim = &mut self.nodes[node];
        let Some((due, _)) = sim.machine(machine).and_then(|machine| machine.next_timeout()) else {
            return;
        };
        let at = sim.clock.reaches(due).max(now + 1);
        if at < sim.planned[machine] {
            sim.planned[machine] = at;
            let life = sim.life;
            self.queue.push(at, Happening::Deadline { node, machine, life });
        }
    }

    fn on_disk(&mut self, node: usize, life: u32, slot: usize) -> Checked {
        let sim = &mut self.nodes[node];
        if sim.life != life {
            return Ok(());
        }
        let Some(done) = sim.complete(slot) else { return Ok(()) };
        if let Command::Read { file, .. } = &done.command {
            self.spare_reads_beyond_budget(node);
            self.spare_segment_beyond_budget(node, file);
        }
        let outcome = self.nodes[node].execute(&done.command);
        self.fingerprint.outcome(&outcome);
        let syncs = matches!(
            done.command,
            Command::Sync { .. } | Command::SyncDirectory { .. } | Command::Fill { .. }
        );
        let full = outcome == Err(DiskError::NoSpace);
        self.journals[node].on_done(&done.command, outcome.is_ok());
        self.checks.on_done(node, &self.nodes[node].disk, &done.command, &outcome)?;
        if self.tracing && !matches!(outcome, Ok(Success::Done)) {
            let brief = match &outcome {
                Ok(Success::Bytes(bytes)) => format!("{} bytes", bytes.len()),
                other => format!("{other:?}"),
            };
            self.trace(node, &format!("disk {:?}: {brief}", done.op));
        }
        // What a failed write has left of a journal nobody knows either.
        let writes = matches!(done.command, Command::Write { file: FileName::Journal { .. }, .. });
        // Nor is there another way than to stop where a sync, or overwriting what the journal has blocks for, takes room that is
        // not there. A snapshot has none to lose: what was written of it goes.
        let of_snapshot = match &done.command {
            Command::SyncDirectory { directory } => *directory == Directory::Snapshots,
            command => command.file().is_some_and(|f| f.directory() == Directory::Snapshots),
        };
        let filling = matches!(done.command, Command::Fill { .. });
        let lacks_room = full
            && self.nodes[node].disk.copies_on_write()
            && (syncs && !of_snapshot && !filling || writes && self.nodes[node].is_up());
        let failed = (syncs || writes) && matches!(outcome, Err(DiskError::Io(_))) || lacks_room;
        if failed {
            self.checks.on_failed(node);
        }
        let (life, erred) = (self.nodes[node].life, self.checks.nodes[node].disk_erred);
        self.step(node, done.machine, Input::Disk { op: done.op, outcome })?;
        // Beyond the budget a damaged disk may be what it stops for, as soon as it knows; and what failed beside what lacked room
        // anywhere.
        let damaged = self.schedule.setup.beyond_budget
            && self.checks.nodes[node].damage.may_unseat(milena_core::LogId::METADATA);
        if full && !lacks_room && !damaged && !erred && self.nodes[node].life != life {
            return Err(Violation::new(
                "D9",
                format!("node {} stops at {:?} on a full disk", node + 1, done.command.file()),
            ));
        }
        if failed && self.nodes[node].life == life {
            let what = if writes { "journal write" } else { "sync" };
            return Err(Violation::new(
                "D2",
                format!("node {} goes on after a failed {what}", node + 1),
            ));
        }
        Ok(())
    }

    /// Steps one machine and carries out what comes of it.
    fn step(&mut self, node: usize, machine: usize, input: Input) -> Checked {
        let timer = matches!(input, Input::Timeout);
        let now = self.nodes[node].clocks(self.now);
        self.checks.clocks = now;
        self.checks.latest = self.checks.latest.max(now.wall);
        let mut out = std::mem::take(&mut self.out);
        if self.tracing {
            self.trace(node, &format!("{:?} <- {}", machine_place(machine), brief(&input)));
        }
        self.fingerprint.number(((node as u64) << 8) | machine as u64);
        if let Some(machine) = self.nodes[node].machine(machine) {
            machine.step(now, input, &mut out);
        }
        let idle = timer && out.queue.is_empty() && out.events.is_empty();
        self.counts.events += u64::from(!idle);
        let checked = self.carry_out(node, machine, &mut out).and_then(|()| self.judge_cleaned());
        out.events.clear();
        out.queue.clear();
        self.out = out;
        checked?;
        self.hand_over(node)?;
        self.plan_deadline(node, machine);
        Ok(())
    }

    fn carry_out(&mut self, node: usize, machine: usize, out: &mut Outputs) -> Checked {
        for event in out.events.drain(..) {
            if self.tracing {
                self.trace(node, &format!("  {event:?}"));
            }
            self.checks.on_event(node, &self.nodes[node].disk, &event)?;
        }
        let life = self.nodes[node].life;
        while let Some(output) = out.queue.pop_front() {
            self.fingerprint.output(&output);
            match output {
                Output::Send { to, message } => self.send(node, to, message)?,
                Output::Local { to, message } => {
                    match &message {
                        LocalMessage::Image(image) => {
                            self.checks.on_image(image)?;
                            self.nodes[node].contacts.book.on_image(image);
                        }
                        LocalMessage::AlterPartition(proposal) => {
                            self.checks.on_proposal(node, proposal)?;
                        }
                        _ => {}
                    }
                    let to = machine_index(to);
                    let at = self.nodes[node].local_arrival(self.now, machine, to);
                    let local = Happening::Local { node, life, from: machine, to, message };
                    self.queue.push(at, local);
                }
                Output::Reply { client, id, response } => {
                    let up_for = self.now - self.nodes[node].started;
                    self.checks.answers_when_it_knows(node, up_for, response.as_ref())?;
                    self.checks.must_serve(self.now, node, response.as_ref())?;
                    self.reply(node, client, id, response)?;
                }
                Output::Close { client, id, why } => self.close_at(client, id, why),
                Output::Disk { op, command } => {
                    self.checks.on_issued(node, &command)?;
                    self.journals[node].on_issued(&command);
                    let (slot, due) = self.nodes[node].submit(self.now, machine, op, command);
                    self.queue.push(due, Happening::Disk { node, life, slot });
                }
                Output::Work { op, work } => {
                    let at = self.nodes[node].work_done(self.now, work.size());
                    let work = Box::new(work);
                    self.queue.push(at, Happening::Worked { node, life, machine, op, work });
                }
                Output::Log { level, line } => {
                    if self.tracing {
                        self.trace(node, &format!("  log {level:?}: {line}"));
                    }
                    if level == LogLevel::Error {
                        self.checks.marks.seen(Seen::ErrorLogged);
                    }
                }
                Output::Stop => {
                    self.trace(node, "stops in good order");
                    self.queue.push(self.now + ANSWERING, Happening::Answered { node, life });
                }
                Output::Halt(why) => return self.on_halt(node, &why),
            }
        }
        Ok(())
    }

    /// Judges what the cleaner has made of logs, before anything else happens to them.
    fn judge_cleaned(&mut self) -> Checked {
        let cleaned = std::mem::take(&mut self.checks.cleaned);
        cleaned.into_iter().try_for_each(|(node, log)| self.is_compacted_well(node, log))
    }

    /// K1 to K3 of one replica.
    fn is_compacted_well(&mut self, node: usize, log: LogId) -> Checked {
        let sim = &self.nodes[node];
        let State::Up { shards, .. } = &sim.state else { return Ok(()) };
        let found = shards.iter().find_map(|shard| shard.view().store().log(log));
        found.map_or(Ok(()), |found| self.checks.is_compacted_well(node, &sim.disk, log, found))
    }

    fn on_halt(&mut self, node: usize, why: &Halt) -> Checked {
        self.trace(node, &format!("halts: {why:?}"));
        // Beyond the budget an operator is what is left; without damage (D10) even there nobody need ask for one.
        if let Halt::Operator(line) = why
            && !self.schedule.setup.beyond_budget
        {
            return Err(Violation::new(
                "L3",
                format!("node {} asks for an operator: {line}", node + 1),
            ));
        }
        self.checks.on_halt(node, why)?;
        self.stop(node);
        let pause = self.strike.between(5, 400) * MS;
        self.start_later(node, pause);
        Ok(())
    }

    /// Recovery is done: the machines take over.
    fn hand_over(&mut self, node: usize) -> Checked {
        let State::Booting(boot) = &mut self.nodes[node].state else { return Ok(()) };
        let Some(ready) = boot.take() else { return Ok(()) };
        self.checks.on_incarnation(node, ready.superblock.incarnation)?;
        self.checks.nodes[node].shards = ready.shards.len() as u16;
        let sim = &mut self.nodes[node];
        let count = 1 + ready.shards.len();
        sim.planned = vec![NEVER; count];
        sim.incarnation = ready.superblock.incarnation;
        sim.state = State::Up { metadata: Box::new(ready.metadata), shards: ready.shards };
        let life = sim.life;
        for machine in 0..count {
            if self.nodes[node].life == life {
                self.step(node, machine, Input::Start)?;
            }
        }
        Ok(())
    }

    /// Carries out what a client wishes.
    fn grant(&mut self, client: usize) {
        for wish in self.clients[client].take_wishes() {
            match wish {
                Wish::Wake { at, why } => self.queue.push(at, Happening::Client { client, why }),
                Wish::Close { connection } => self.close(connection),
                Wish::Send { node, id, version, request } => {
                    self.ask(client, node, id, version, request);
                }
            }
        }
    }

    /// Ends a node's process.
    fn stop(&mut self, node: usize) {
        if self.nodes[node].is_down() {
            return;
        }
        self.trace(node, "stops");
        self.nodes[node].stop(self.now, &mut self.strike);
        self.journals[node].on_stop();
        self.checks.on_stop(node);
        for index in 0..self.connections.len() {
            if self.connections[index].open && self.connections[index].node == node {
                self.break_connection(ClientId(index as u64));
            }
        }
    }

    /// Starts a node after a while.
    fn start_later(&mut self, node: usize, pause: Time) {
        let sim = &mut self.nodes[node];
        sim.down_until = sim.down_until.max(self.now + pause);
        let life = sim.life;
        self.queue.push(sim.down_until, Happening::Start { node, life });
    }

    fn trace(&self, node: usize, line: &str) {
        if self.tracing {
            eprintln!(
                "{:>12.6} {:>9} n{} {line}",
                self.now as f64 / 1e9,
                self.counts.steps,
                node + 1
            );
        }
    }

    /// Simulated milliseconds so far.
    pub fn simulated_ms(&self) -> u64 {
        self.now / MS
    }

    /// The step that the run has reached.
    pub fn steps(&self) -> u64 {
        self.counts.steps
    }
}

fn brief(input: &Input) -> String {
    match input {
        Input::Disk { op, outcome } => match outcome {
            Ok(Success::Bytes(bytes)) => format!("Disk {op:?} {} bytes", bytes.len()),
            outcome => format!("Disk {op:?} {outcome:?}"),
        },
        Input::Local { from, message } => {
            format!("Local {from:?} {}", clipped(&format!("{message:?}")))
        }
        input => clipped(&format!("{input:?}")),
    }
}

fn clipped(text: &str) -> String {
    let end = (0..=400.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whichever end closes first, and where both do, the machine hears once that the connection is gone, and no request after it.
    #[test]
    fn a_connection_ends_once() {
        let schedule = crate::scenario::named("steady").unwrap().expand(0);
        let mut cluster = Cluster::new(schedule, false);
        while !cluster.nodes[0].is_up() {
            let (at, sequence, happening) = cluster.queue.pop().unwrap();
            cluster.now = at;
            cluster.happen(sequence, happening).unwrap();
        }
        let client = 0;
        for ends in ["n", "c", "nn", "nc", "cn"] {
            cluster.queue = Queue::default();
            let connection = cluster.connect(client, 0);
            for end in ends.chars() {
                match end {
                    'n' => cluster.end_connection(connection),
                    _ => cluster.close(connection),
                }
            }
            let mut told = 0;
            while let Some((at, sequence, happening)) = cluster.queue.pop() {
                if matches!(happening, Happening::HangUp { .. }) {
                    cluster.now = at;
                    told += 1;
                    cluster.happen(sequence, happening).unwrap();
                }
            }
            assert_eq!(told, 1, "{ends}");
            let steps = cluster.counts.events;
            let request = Request::Metadata(Default::default());
            cluster.on_request(connection, 0, 9, request).unwrap();
            assert_eq!(cluster.counts.events, steps, "a request after the end");
            cluster.clients[client].connections[0] = None;
        }
    }
}
