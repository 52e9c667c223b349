//! The replicas of a shard and what waits on them.
//!
//! ```text
//!   Image, Serving ──▶ replicas ◀── pushes, acknowledgements of other nodes
//!                         │ ▲
//!                         ▼ │ flushed, reads
//!        append, read ──▶ store ──▶ disk
//! ```
//!
//! Whoever appends or reads here gives a token that says who wants to know, and takes the [`News`] when they are there: what it
//! appended is flushed or committed, a partition has moved, a read is done. Who that is, and what for, nobody here knows.
//!
//! A replica that has something to do is *touched*, and settled before the step ends: it sends, it confirms, and its deadline
//! is set. Nothing here passes over all partitions but a new broker's state in the image, this broker's own registration,
//! retention, and the search for dirty logs, so that an idle partition costs nothing.

mod ahead;
mod cleaning;
mod metadata;
mod retention;
mod roomless;
mod waits;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use milena_wire::ErrorCode;

use crate::disk::Outcome;
use crate::image::Image;
use crate::replica::message::{Push, ReplicaMessage};
use crate::replica::{
    Context, Host, PartitionView, Placed, Replica, ReplicaView, Turns, Unavailable,
};
use crate::storage::{Log, SequenceError, Store, StoreEvent, Superblock, Ticket};
use crate::timers::Timers;
use crate::{Config, Epoch, Instant, LogId, NodeId, Now, OpId, Outputs, Timer};
use ahead::Ahead;
use roomless::Roomless;
pub use waits::{News, Reading, Safety, Standing};
use waits::{ReadFor, Wait, Watch};

/// Record bytes that wait for room in the store, those of clients and those of leaders each: a share of the memory that a
/// shard's store may use.
pub(crate) const ROOMLESS_SHARE: u64 = 8;

/// The replicas of a shard. `W`: how those who wait call themselves.
pub struct Partitions<W> {
    index: u16,
    /// Time of the step under way.
    now: Now,
    host: Host,
    replicas: BTreeMap<LogId, Replica>,
    /// Logs on this disk that no image has named since the start.
    orphans: BTreeSet<LogId>,
    timers: Timers<Key>,
    /// Replicas to be looked at before the step ends.
    touched: BTreeSet<LogId>,
    /// Replicas with something that is not on stable storage yet.
    unflushed: BTreeSet<LogId>,
    /// What each read of the store is for.
    reads: BTreeMap<Ticket, ReadFor<W>>,
    /// Who waits for what was appended to become safe, with the epoch in which that was.
    waits: BTreeMap<Wait<W>, Epoch>,
    /// Who waits for a partition to move.
    watches: BTreeMap<LogId, Watch<W>>,
    /// What those who wait have not been told yet.
    news: VecDeque<News<W>>,
    ahead: Ahead,
    roomless: Roomless,
    /// Logs that are to be cleaned, the dirtiest last.
    dirty: Vec<LogId>,
}

/// What a deadline belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Key {
    /// When a replica pushes again, proposes again, looks at lag or reports damage again.
    Replica(LogId),
    /// When retention looks for old segments.
    Retention,
    /// When the cleaner looks for dirty logs.
    Cleaning,
}

impl<W: Copy + Ord> Partitions<W> {
    /// Begins with what recovery found.
    pub fn new(
        config: Arc<Config>,
        index: u16,
        superblock: &Superblock,
        store: Store,
    ) -> Partitions<W> {
        Partitions {
            index,
            now: Now::default(),
            orphans: store.logs().into_iter().collect(),
            host: Host {
                incarnation: superblock.incarnation,
                image: Arc::new(Image::default()),
                serving: None,
                store,
                turns: Turns::new(config.replication.turns_max),
                config,
                reads: Vec::new(),
            },
            replicas: BTreeMap::new(),
            timers: Timers::default(),
            touched: BTreeSet::new(),
            unflushed: BTreeSet::new(),
            reads: BTreeMap::new(),
            waits: BTreeMap::new(),
            watches: BTreeMap::new(),
            news: VecDeque::new(),
            ahead: Ahead::default(),
            roomless: Roomless::default(),
            dirty: Vec::new(),
        }
    }

    /// Every replica, for checkers.
    pub fn replicas(&self) -> impl Iterator<Item = ReplicaView> {
        self.replicas.values().map(|replica| replica.view(&self.host))
    }

    /// Those that the metadata names, from a log on, as operators watch them.
    pub fn shown(&self, from: Bound<LogId>) -> impl Iterator<Item = PartitionView> {
        let range = self.replicas.range((from, Bound::Unbounded));
        range.filter_map(|(_, replica)| replica.shown(&self.host))
    }

    /// The store, to look at.
    pub fn store(&self) -> &Store {
        &self.host.store
    }

    /// The number of the shard whose partitions these are.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Time of the step under way.
    pub fn now(&self) -> Now {
        self.now
    }

    /// The node's settings.
    pub fn config(&self) -> &Config {
        &self.host.config
    }

    /// The metadata as last seen; the empty image before the first.
    pub fn image(&self) -> &Image {
        &self.host.image
    }

    /// Whether this broker has a registration under which it may serve.
    pub fn is_serving(&self) -> bool {
        self.host.serving.is_some()
    }

    /// A partition's replica on this shard.
    pub fn replica(&self, log: LogId) -> Option<&Replica> {
        self.replicas.get(&log)
    }

    /// A partition's log on this shard.
    pub fn log(&self, log: LogId) -> Option<&Log> {
        self.host.store.log(log)
    }

    /// The epoch in which this broker leads a partition.
    pub fn leading(&self, log: LogId) -> Result<Epoch, ErrorCode> {
        let Some(replica) = self.replicas.get(&log) else {
            let known = self.host.image.partition(log).is_some();
            return Err(if known {
                ErrorCode::NOT_LEADER_OR_FOLLOWER
            } else {
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
            });
        };
        replica.leading(&self.host.store).map_err(|why| match why {
            Unavailable::NotLeader => ErrorCode::NOT_LEADER_OR_FOLLOWER,
            Unavailable::Damaged => ErrorCode::KAFKA_STORAGE_ERROR,
        })
    }

    /// The epoch in which this broker leads a partition, if it is the one that the client believes in; a client that does
    /// not say (-1) is believed.
    pub fn check_epoch(&self, log: LogId, believed: Epoch) -> Result<Epoch, ErrorCode> {
        let known = self.host.image.partition(log).map(|(_, partition)| partition.leader_epoch);
        match known {
            Some(known) if believed != -1 && believed < known => {
                Err(ErrorCode::FENCED_LEADER_EPOCH)
            }
            Some(known) if believed > known => Err(ErrorCode::UNKNOWN_LEADER_EPOCH),
            Some(_) | None => self.leading(log),
        }
    }

    /// Begins a step.
    pub fn begin(&mut self, now: Now) {
        self.now = now;
    }

    /// Begins to look after what needs no news to be done.
    pub fn start(&mut self) {
        self.begin_retention();
        self.schedule_cleaning();
    }

    /// Takes what another node says.
    pub fn on_peer(&mut self, from: NodeId, message: ReplicaMessage, out: &mut Outputs) {
        let own = self.host.image.cluster;
        if message.cluster() != own {
            // Before the first image nothing is led or followed.
            if own != 0 {
                let what = "a replica of another cluster";
                out.event(|| crate::trace::Event::Refused { from, what });
            }
            return;
        }
        match message {
            ReplicaMessage::Push(push) => {
                // What came earlier goes first.
                self.take_roomless(out);
                if let Some(push) = self.keep_ahead(from, push) {
                    self.take_push(from, push, out);
                }
            }
            ReplicaMessage::Acknowledge(acknowledge) => {
                self.touch(acknowledge.log, out, |replica, cx| {
                    replica.on_acknowledge(cx, from, acknowledge)
                });
            }
        }
    }

    /// Has a replica do something, and settles it before the step ends; nothing where there is none.
    fn touch<T>(
        &mut self,
        log: LogId,
        out: &mut Outputs,
        act: impl FnOnce(&mut Replica, &mut Context) -> T,
    ) -> Option<T> {
        let replica = self.replicas.get_mut(&log)?;
        let mut cx = Context { now: self.now, host: &mut self.host, out };
        let done = act(replica, &mut cx);
        self.touched.insert(log);
        Some(done)
    }

    fn take_push(&mut self, from: NodeId, push: Push, out: &mut Outputs) {
        let roomless = self.touch(push.log, out, |replica, cx| replica.on_push(cx, from, push));
        if let Some(push) = roomless.flatten() {
            self.keep_roomless(from, push);
        }
    }

    /// Takes the outcome of a disk operation.
    pub fn on_disk(&mut self, op: OpId, outcome: Outcome, out: &mut Outputs) {
        self.host.store.on_disk(self.now, op, outcome, out);
    }

    /// The first deadline, but for those of the store, and why.
    pub fn next_due(&self) -> Option<(Instant, Timer)> {
        self.timers.next()
    }

    /// Does what the first deadline that has come is for.
    pub fn on_due(&mut self, out: &mut Outputs) {
        match self.timers.pop(self.now.mono) {
            Some(Key::Retention) => self.retain(out),
            Some(Key::Cleaning) => self.look_for_dirt(),
            Some(Key::Replica(log)) => {
                self.touch(log, out, |replica, cx| replica.on_timeout(cx));
            }
            None => {}
        }
    }

    /// Gives a batch to a partition that this broker leads, which has it at its end now, or has had it before.
    pub fn append(
        &mut self,
        log: LogId,
        batch: &Bytes,
        out: &mut Outputs,
    ) -> Result<Placed, SequenceError> {
        self.touch(log, out, |replica, cx| replica.append(cx, batch)).expect("it leads")
    }

    /// Whether whoever appends should wait for room. What a full disk refuses need not.
    pub fn must_wait(&self) -> bool {
        self.host.store.accepts_produce() && !self.host.store.has_room()
    }

    /// Takes the next thing that the store has to say, if there is any.
    pub fn take_store_event(&mut self, out: &mut Outputs) -> bool {
        let Some(event) = self.host.store.pop_event() else { return false };
        self.on_store_event(event, out);
        true
    }

    fn on_store_event(&mut self, event: StoreEvent, out: &mut Outputs) {
        match event {
            StoreEvent::Flushed => {
                while let Some(log) = self.unflushed.pop_first() {
                    self.touch(log, out, |replica, cx| replica.on_flushed(cx));
                }
            }
            StoreEvent::Read { ticket, result } => match self.reads.remove(&ticket) {
                Some(ReadFor::Follower(log, node)) => {
                    self.touch(log, out, |replica, cx| replica.on_read(cx, node, ticket, result));
                }
                Some(ReadFor::Records(waiter, place)) => {
                    self.news.push_back(News::Read { waiter, place, result })
                }
                Some(ReadFor::Time(..)) | None => panic!("a read that nobody began"),
            },
            StoreEvent::Time { ticket, result } => match self.reads.remove(&ticket) {
                Some(ReadFor::Time(waiter, place)) => {
                    self.news.push_back(News::Time { waiter, place, result })
                }
                Some(ReadFor::Follower(..) | ReadFor::Records(..)) | None => {
                    panic!("a lookup that nobody began")
                }
            },
            StoreEvent::Cleaned => self.clean_next(),
            StoreEvent::Damaged { log } => {
                self.touch(log, out, |replica, cx| replica.on_damaged(cx));
            }
            StoreEvent::Command { .. } => panic!("a shard gives the disk no commands of its own"),
        }
    }

    /// Settles one replica that was touched, if there is any: it sends what it has to send, whoever has waited for it gets
    /// news, and its deadline is set.
    pub fn settle_next(&mut self, out: &mut Outputs) -> bool {
        let Some(log) = self.touched.pop_first() else { return false };
        if let Some(replica) = self.replicas.get_mut(&log) {
            let mut cx = Context { now: self.now, host: &mut self.host, out };
            replica.pump(&mut cx);
            for (ticket, log, node) in self.host.reads.drain(..) {
                self.reads.insert(ticket, ReadFor::Follower(log, node));
            }
            if replica.unflushed(&self.host.store) {
                self.unflushed.insert(log);
            }
            let due = replica.due(&self.host);
            self.timers.set(Key::Replica(log), due, Timer::Replication);
        }
        let replica = self.replicas.get(&log);
        self.host.turns.keep(log, |asked| replica.is_some_and(|replica| replica.waits_for(asked)));
        while let Some(log) = self.host.turns.pop_granted() {
            self.touched.insert(log);
        }
        self.tell_of_safety(log);
        self.tell_of_moves(log);
        true
    }

    /// Has the store give the disk what it has for it.
    pub fn pump(&mut self, out: &mut Outputs) {
        self.host.store.pump(self.now, out);
    }

    /// Whether the store has something to say, or made room that a push waits for.
    pub fn is_unsettled(&self) -> bool {
        self.host.store.has_event() || self.has_roomless() && self.host.store.has_room()
    }

    /// Asserts what always holds between steps.
    pub fn check_invariants(&self) {
        self.host.store.check_invariants();
        for replica in self.replicas.values() {
            replica.check_invariants(&self.host.store);
        }
        self.host.turns.check_invariants(|log, asked| {
            self.replicas.get(&log).is_some_and(|replica| replica.waits_for(asked))
        });
        assert!(self.touched.is_empty(), "a step settles what it touches");
        assert!(self.news.is_empty(), "a step tells its news");
    }
}
