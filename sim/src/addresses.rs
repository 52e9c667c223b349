//! Where nodes are, and what they know of it: the address book of core, asked as the other driver asks it.
//!
//! A connection is made to everyone whom the book knows, at the address that it names, whether or not there is something to
//! send. Where the peer is not, or no longer, a message is lost and the book hears of it. What arrives first from a peer's
//! life brings its hello along.

use std::collections::BTreeMap;
use std::sync::Arc;

use milena_core::addresses::{Addresses, Process};
use milena_core::{Incarnation, Instant, NodeId};

/// Where the nodes of a run are.
#[derive(Debug)]
pub(crate) struct Homes {
    /// Where each node is, or will be when it is back.
    homes: Vec<Arc<str>>,
    /// The list that each node is started with: that of the last time when it moved itself.
    lists: Vec<Vec<Arc<str>>>,
    /// How many addresses were ever somebody's.
    used: usize,
}

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
fn address(number: usize) -> Arc<str> {
    format!("node-{}:19091", number + 1).into()
}

/// A node's id.
pub(crate) fn id(node: usize) -> NodeId {
    NodeId(node as i32 + 1)
}

impl Homes {
    /// Those of nodes that have never moved.
    pub(crate) fn new(count: usize) -> Homes {
        let homes: Vec<Arc<str>> = (0..count).map(address).collect();
        Homes { lists: vec![homes.clone(); count], homes, used: count }
    }

    /// All of them, by node.
    pub(crate) fn all(&self) -> &[Arc<str>] {
        &self.homes
    }

    /// The list that a node is started with.
    pub(crate) fn list(&self, node: usize) -> &[Arc<str>] {
        &self.lists[node]
    }

    /// How a node introduces itself in one of its lives.
    pub(crate) fn hello(&self, node: usize, life: u32) -> Hello {
        Hello { life, address: self.homes[node].clone() }
    }

    /// Nodes are at home elsewhere from now on, and have a list that says so. Who does not move keeps the list that it was started
    /// with, and hears of the others from themselves.
    pub(crate) fn change(&mut self, moved: &[usize], among_themselves: bool) {
        if among_themselves && moved.len() > 1 {
            let first = self.homes[moved[0]].clone();
            for pair in moved.windows(2) {
                self.homes[pair[0]] = self.homes[pair[1]].clone();
            }
            self.homes[moved[moved.len() - 1]] = first;
        } else {
            for node in moved {
                self.homes[*node] = address(self.used);
                self.used += 1;
            }
        }
        for node in moved {
            self.lists[*node] = self.homes.clone();
        }
    }
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

    /// Whether it has heard of this life of a node.
    pub(crate) fn has_heard(&self, from: usize, life: u32) -> bool {
        self.heard.get(&from).is_some_and(|heard| heard.life == life)
    }

    /// A message arrives on a connection that its sender opened in this life, or an earlier one.
    pub(crate) fn on_hello(
        &mut self,
        now: Instant,
        from: usize,
        hello: Hello,
        incarnation: Incarnation,
    ) {
        let process = Process { incarnation, run: u64::from(hello.life) };
        match self.heard.get(&from) {
            Some(known) if known.life >= hello.life => return,
            Some(known) => self.book.closed(id(from), &known.address),
            None => {}
        }
        let at = &hello.address;
        let opened = self.book.opened(now, id(from), at, process, at);
        assert_eq!(opened, Ok(()), "a node is one process");
        self.heard.insert(from, hello);
    }
}
