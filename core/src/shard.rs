//! The machine that owns a share of the partitions: their replicas, their journal, and the Kafka requests of its
//! connections.
//!
//! It tells its two halves what there is for each: [`Partitions`], the replicas and what waits on them, and the requests
//! that append to them and read from them. A step takes one input, then settles: what the store has to say is taken, every
//! replica that was touched sends, confirms and sets its deadline, and whoever waits for any of it is told.
//!
//! What it does not do: metadata (it learns that from Metadata), consensus (the replicas do), and order among the
//! answers of one connection (the driver keeps that).

use std::ops::Bound;
use std::sync::Arc;

use crate::local::{Caller, LocalMessage};
use crate::peer::PeerMessage;
use crate::replica::{PartitionView, ReplicaView};
use crate::requests::{Asked, Origin, Partitions, Requests};
use crate::storage::{Store, Superblock};
use crate::{Config, Input, Instant, LogId, Machine, Now, Outputs, Place, Timer, View};

/// Deadlines that one step looks after; those that have come as well get the next one, after what waits meanwhile.
const DUE_MAX: usize = 250;

/// The owner of a share of the partitions.
pub struct Shard {
    partitions: Partitions,
    requests: Requests,
}

/// What a shard shows of itself.
#[derive(Clone, Copy)]
pub struct ShardView<'a> {
    partitions: &'a Partitions,
}

impl<'a> ShardView<'a> {
    /// Which of the node's shards it is.
    pub fn index(self) -> u16 {
        self.partitions.index()
    }

    /// Every replica, for checkers.
    pub fn replicas(self) -> impl Iterator<Item = ReplicaView> + use<'a> {
        self.partitions.replicas()
    }

    /// The partitions that the metadata has put here, in order, from behind a given one on: whoever wants all of many takes
    /// a few at a time, and lets the machine step in between.
    pub fn partitions(self, after: Option<LogId>) -> impl Iterator<Item = PartitionView> + use<'a> {
        self.partitions.shown(after.map_or(Bound::Unbounded, Bound::Excluded))
    }

    /// Its storage engine.
    pub fn store(self) -> &'a Store {
        self.partitions.store()
    }
}

impl Shard {
    /// Begins with what recovery found.
    pub fn new(
        config: Arc<Config>,
        index: u16,
        superblock: &Superblock,
        store: Store,
        seed: [u8; 32],
    ) -> Shard {
        let requests = Requests::new(&config, seed);
        Shard { partitions: Partitions::new(config, index, superblock, store), requests }
    }

    /// What it shows of itself, as [`Machine::view`].
    pub fn view(&self) -> ShardView<'_> {
        ShardView { partitions: &self.partitions }
    }

    fn on_local(&mut self, from: Place, message: LocalMessage, out: &mut Outputs) {
        let Shard { partitions, requests } = self;
        match (from, message) {
            (_, LocalMessage::Image(image)) => {
                partitions.on_image(image, out);
                requests.on_metadata(partitions, out);
            }
            (_, LocalMessage::Serving(epoch)) => {
                partitions.on_serving(epoch, out);
                requests.on_metadata(partitions, out);
            }
            (_, LocalMessage::Administered { client, id, response }) => {
                out.reply(client, id, response)
            }
            (Place::Shard(shard), LocalMessage::Scatter { caller, request }) => {
                requests.on_part(partitions, Origin { shard, caller }, request, out)
            }
            (Place::Shard(shard), LocalMessage::Gather { caller, response }) => {
                requests.on_answer(partitions, Origin { shard, caller }, response, out)
            }
            (Place::Shard(shard), LocalMessage::Hasten { caller }) => {
                requests.hasten(partitions, Origin { shard, caller }, out)
            }
            (Place::Shard(shard), LocalMessage::Abandon { caller }) => {
                requests.abandon(partitions, Origin { shard, caller })
            }
            // What shards say to Metadata, and what Metadata never says.
            (_, LocalMessage::AlterPartition(_))
            | (_, LocalMessage::Stop)
            | (_, LocalMessage::Damaged { .. })
            | (_, LocalMessage::Administer { .. })
            | (Place::Metadata, LocalMessage::Scatter { .. })
            | (Place::Metadata, LocalMessage::Gather { .. })
            | (Place::Metadata, LocalMessage::Hasten { .. })
            | (Place::Metadata, LocalMessage::Abandon { .. }) => {
                panic!("a machine of this node sent what is not for a shard")
            }
        }
    }

    /// Does what the first deadline that has come is for, if there is one; of two at one instant, the partitions'.
    fn on_due(&mut self, now: Instant, out: &mut Outputs) -> bool {
        let come = |due: Option<(Instant, Timer)>| due.map(|(at, _)| at).filter(|at| *at <= now);
        match (come(self.partitions.next_due()), come(self.requests.next_due())) {
            (None, None) => return false,
            (Some(replica), request) if request.is_none_or(|request| replica <= request) => {
                self.partitions.on_due(out)
            }
            (_, _) => self.requests.on_due(&mut self.partitions, out),
        }
        true
    }

    /// Takes what the store has to say and settles every replica that was touched, until nothing is left to do.
    fn settle(&mut self, out: &mut Outputs) {
        loop {
            while self.partitions.take_store_event(out) {
                self.tell_news(out);
            }
            self.partitions.take_roomless(out);
            self.requests.take_stalled(&mut self.partitions, out);
            while self.partitions.settle_next(out) {
                self.tell_news(out);
            }
            self.partitions.pump(out);
            // Filing away may have made room just now.
            if !self.partitions.is_unsettled() && !self.requests.is_unsettled(&self.partitions) {
                break;
            }
        }
    }

    /// Tells those who wait what there is for them.
    fn tell_news(&mut self, out: &mut Outputs) {
        while let Some(news) = self.partitions.pop_news() {
            self.requests.on_news(&mut self.partitions, news, out);
        }
    }
}

impl Machine for Shard {
    fn step(&mut self, now: Now, input: Input, out: &mut Outputs) {
        let Shard { partitions, requests } = self;
        partitions.begin(now);
        match input {
            Input::Start => {
                partitions.start();
                requests.start(now.mono);
            }
            Input::Timeout => {
                for _ in 0..DUE_MAX {
                    if !self.on_due(now.mono, out) {
                        break;
                    }
                }
            }
            Input::Peer { from, message: PeerMessage::Replica(message) } => {
                partitions.on_peer(from, message, out)
            }
            Input::Peer {
                message:
                    PeerMessage::Founding(_) | PeerMessage::Quorum(_) | PeerMessage::Controller(_),
                ..
            } => panic!("the driver asks a message for its machine"),
            Input::Local { from, message } => self.on_local(from, message, out),
            Input::Request { client, id, version, request, context } => {
                let caller = Caller { client, id, version, silent: false };
                requests.on_request(partitions, Asked { caller, request, context }, out)
            }
            Input::Hangup { client } => requests.on_hangup(partitions, client, out),
            Input::Disk { op, outcome } => partitions.on_disk(op, outcome, out),
            Input::Worked { op, work } => partitions.on_worked(op, work),
        }
        self.settle(out);
    }

    fn next_timeout(&self) -> Option<(Instant, Timer)> {
        let store = self.partitions.store().next_timeout();
        self.partitions.next_due().into_iter().chain(self.requests.next_due()).chain(store).min()
    }

    fn view(&self) -> View<'_> {
        View::Shard(Shard::view(self))
    }

    fn check_invariants(&self) {
        self.partitions.check_invariants();
        self.requests.check_invariants(&self.partitions);
    }
}
