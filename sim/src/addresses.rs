//! Where nodes are, and what they know of it: the address book of core, asked as the other driver asks it.
//!
//! A connection is made to everyone whom the book knows, at the address that it names, whether or not there is something to
//! send. Where the peer is not, or no longer, a message is lost and the book hears of it. What arrives first from a peer's
//! life brings its hello along.

use std::collections::BTreeMap;
use std::sync::Arc;

use milena_core::NodeId;
use milena_core::addresses::{Addresses, Dial, Failure, Process};

use crate::check::{Checked, Violation};
use crate::cluster::Cluster;
use crate::node::{SimNode, State};
use crate::queue::{MS, Time};

/// What a node says of itself on the connections that it opens in one life.
#[derive(Clone, Debug)]
pub(crate) struct Hello {
    life: u32,
    address: Arc<str>,
}

/// What one node knows of where the others are.
#[derive(Debug)]
pub(crate) struct Contacts {
    /// What it goes by.
    pub(crate) book: Addresses,
    /// Who has an open connection to it.
    heard: BTreeMap<usize, Hello>,
}

/// Where a node is that has never moved, or that has moved to somewhere new.
pub(crate) fn address(number: usize) -> Arc<str> {
    format!("node-{}:19091", number + 1).into()
}

pub(crate) fn id(node: usize) -> NodeId {
    NodeId(node as i32 + 1)
}

impl Contacts {
    /// Those of a node that starts with this list of controllers.
    pub(crate) fn new(node: usize, controllers: &[(NodeId, String)]) -> Contacts {
        let mut book = Addresses::new(id(node));
        for (controller, address) in controllers {
            book.given(*controller, address);
        }
        Contacts { book, heard: BTreeMap::new() }
    }
}

impl Cluster {
    /// How a node introduces itself.
    pub(crate) fn hello(&self, node: usize) -> Hello {
        Hello { life: self.nodes[node].life, address: self.addresses[node].clone() }
    }

    /// Whether a node that has something to send finds its peer.
    pub(crate) fn finds(&mut self, from: usize, to: usize) -> bool {
        let now = self.nodes[from].clocks(self.now).mono;
        let is_up = self.nodes[to].is_up();
        let book = &mut self.nodes[from].contacts.book;
        let tried = match book.dial(now, id(to)) {
            Dial::Now(tried) if is_up && *tried == *self.addresses[to] => {
                book.reached(id(to), &self.addresses[to]);
                return true;
            }
            Dial::Now(tried) => tried.to_string(),
            Dial::At(_) | Dial::Nowhere => return false,
        };
        let answers = |(sim, address): (&SimNode, &Arc<str>)| sim.is_up() && **address == *tried;
        let somebody = self.nodes.iter().zip(&self.addresses).any(answers);
        let how = if somebody { Failure::Refused } else { Failure::Unreached };
        let line = self.nodes[from].contacts.book.failed(now, id(to), &tried, how);
        self.trace(from, &format!("  node {} is not at {tried}: {how:?}", to + 1));
        if let Some(line) = line {
            self.trace(from, &format!("  log Warn: {line}"));
        }
        false
    }

    /// Every node connects to those whom it knows and who have not heard of this life of it.
    pub(crate) fn connect_nodes(&mut self) {
        for from in 0..self.nodes.len() {
            let sim = &self.nodes[from];
            if !sim.is_up() || sim.paused_until > self.now {
                continue;
            }
            for to in 0..self.nodes.len() {
                let heard = self.nodes[to].contacts.heard.get(&from);
                let is_connected = heard.is_some_and(|heard| heard.life == self.nodes[from].life);
                let knows = self.nodes[from].contacts.book.knows(id(to));
                if knows && !is_connected && self.finds(from, to) {
                    self.deliver(from, to, None);
                }
            }
        }
    }

    /// A message arrives on a connection that its sender opened in this life, or an earlier one.
    pub(crate) fn on_hello(&mut self, from: usize, to: usize, hello: Hello) {
        let now = self.nodes[to].clocks(self.now).mono;
        let incarnation = self.nodes[from].incarnation;
        let process = Process { incarnation, run: u64::from(hello.life) };
        let contacts = &mut self.nodes[to].contacts;
        match contacts.heard.get(&from) {
            Some(known) if known.life >= hello.life => return,
            Some(known) => contacts.book.closed(id(from), &known.address),
            None => {}
        }
        let at = &hello.address;
        let opened = contacts.book.opened(now, id(from), at, process, at);
        assert_eq!(opened, Ok(()), "a node is one process");
        contacts.heard.insert(from, hello);
    }

    /// Nodes come back at other addresses, one after the other, with a list that has them. Who does not move keeps the list that it
    /// was started with, and hears of the others from themselves.
    pub(crate) fn move_nodes(
        &mut self,
        moved: &[usize],
        among_themselves: bool,
        times: (Time, Time),
    ) {
        let (down, gap) = times;
        moved.iter().for_each(|node| self.stop(*node));
        if among_themselves && moved.len() > 1 {
            let first = self.addresses[moved[0]].clone();
            for pair in moved.windows(2) {
                self.addresses[pair[0]] = self.addresses[pair[1]].clone();
            }
            self.addresses[moved[moved.len() - 1]] = first;
        } else {
            for node in moved {
                self.addresses[*node] = address(self.addresses_used);
                self.addresses_used += 1;
            }
        }
        for node in moved {
            self.lists[*node] = self.addresses.clone();
        }
        for (node, turn) in moved.iter().zip(0..) {
            self.start_later(*node, down + turn * gap);
        }
    }

    /// Whether the metadata shows each broker alone where it is. It is in no list, so one that has moved and is not registered
    /// again must not lose the controllers that it knows: then neither could find the other.
    pub(crate) fn brokers_are_known(&self) -> bool {
        let Some(image) = &self.checks.image else { return false };
        (self.schedule.setup.nodes.iter().zip(&self.addresses).enumerate())
            .filter(|(_, (setup, _))| !setup.controller)
            .all(|(node, (_, address))| {
                image.brokers.get(&id(node)).is_some_and(|broker| *broker.peer == **address)
            })
    }

    /// Where nothing but moves strikes, the cluster is back soon after its last node is.
    pub(crate) fn judge_return(&mut self) -> Checked {
        let Some(bound) = self.schedule.setup.back_within_ms else { return Ok(()) };
        if !self.nodes.iter().all(|node| node.is_up()) {
            self.all_up_since = None;
            return Ok(());
        }
        let since = *self.all_up_since.get_or_insert(self.now);
        if self.now - since < bound * MS {
            return Ok(());
        }
        if self.checks.nodes.iter().all(|node| node.quorum_leader.is_none()) {
            let story =
                format!("every node has been up for {bound} ms, and none is the controller");
            return Err(Violation::new("L1", story));
        }
        for (node, sim) in self.nodes.iter().enumerate() {
            let State::Up { metadata, .. } = &sim.state else { continue };
            let image = self.checks.image.as_ref();
            let fenced = image.and_then(|image| Some(image.brokers.get(&id(node))?.fenced));
            if self.schedule.setup.nodes[node].broker
                && (metadata.view().serving.is_none() || fenced != Some(false))
            {
                let story = format!(
                    "every node has been up for {bound} ms, and node {} serves not",
                    node + 1
                );
                return Err(Violation::new("L3", story));
            }
        }
        Ok(())
    }
}
