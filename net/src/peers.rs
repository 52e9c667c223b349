//! Who the other nodes of a cluster are, and where: decided in one place, on the worker of the metadata.
//!
//! It keeps the address book and looks for each peer that is in it, with the metadata's own link. When a peer has answered
//! there, the shards' workers hear where, and make their links to it; when it is lost, they let go of theirs. So one node is
//! sought, warned of and refused once, however many shards it has, and no second process with its id is heard by a shard.
//!
//! The other way round, whoever connects says here who it is. A shard's link is taken from a process alone that is heard on
//! its metadata's, and goes on to the worker of the shard with that number; where this node has fewer, they share.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use milena_core::addresses::{Addresses, Dial, Failure};
use milena_core::image::Image;
use milena_core::{Halt, NodeId};
use tracing::{debug, info, warn};

use crate::accept::Acceptor;
use crate::frames::{FrameError, FrameReader, read_first};
use crate::links::{End, HELLO_BYTES_MAX, Hello, Incoming, Link, Links, Refusal};
use crate::runtime::{
    self, Clock, Detached, OwnedSemaphorePermit, Semaphore, TcpListener, TcpStream, select,
};
use crate::warnings::{Kind, Warnings};

const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections of peers' metadata, with those that have not said who they are.
const CONNECTIONS_MAX: usize = 100;
/// Connections of peers' shards.
const SHARD_CONNECTIONS_MAX: usize = 1_000;
/// Nodes that are known by their hello alone. Each that said where it is reached is connected to.
const STRANGERS_MAX: usize = 100;

/// The other workers of this node.
pub trait Workers {
    /// Tells those of shards where a peer is reached, or that it is lost.
    fn tell_reached(&self, node: NodeId, at: Option<&str>);
    /// Gives the connection of a peer's shard to the one that it is for.
    fn give(&self, incoming: Incoming);
    /// Ends them all.
    fn halt(&self, why: Halt);
}

/// All peers of this node. Lives on one thread.
pub struct Peers<W> {
    me: NodeId,
    /// Where the others are.
    book: RefCell<Addresses>,
    links: Rc<Links>,
    clock: Clock,
    warnings: Arc<Warnings>,
    /// For connections of peers.
    room: Arc<Semaphore>,
    /// For those of their shards.
    shard_room: Arc<Semaphore>,
    workers: W,
}

impl<W: Workers + 'static> Peers<W> {
    /// Knows nobody yet.
    pub fn new(
        me: NodeId,
        links: Rc<Links>,
        clock: Clock,
        warnings: Arc<Warnings>,
        workers: W,
    ) -> Rc<Self> {
        Rc::new(Peers {
            me,
            book: RefCell::new(Addresses::new(me)),
            links,
            clock,
            warnings,
            room: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            shard_room: Arc::new(Semaphore::new(SHARD_CONNECTIONS_MAX)),
            workers,
        })
    }

    /// Takes where a node is from the configuration; connects to it.
    pub fn given(self: &Rc<Self>, node: NodeId, address: &str) {
        if self.book.borrow_mut().given(node, address) {
            self.look_for(node);
        }
    }

    /// Takes where nodes are from the metadata; connects to them.
    pub fn on_image(self: &Rc<Self>, image: &Image) {
        let news = self.book.borrow_mut().on_image(image);
        news.into_iter().for_each(|node| self.look_for(node));
    }

    fn look_for(self: &Rc<Self>, node: NodeId) {
        let link = self.links.link(node);
        if link.worth_looking() {
            runtime::spawn(self.clone().keep(link));
        }
    }

    /// Keeps a connection to one peer.
    async fn keep(self: Rc<Self>, link: Rc<Link>) {
        let node = link.node();
        loop {
            let (address, again_at) = match self.book.borrow().dial(self.clock.mono(), node) {
                Dial::Now(address) => (Some(address.to_string()), None),
                Dial::At(at) => (None, Some(at)),
                Dial::Nowhere => (None, None),
            };
            let Some(address) = address else {
                select! {
                    () = self.clock.sleep_until(again_at) => {}
                    () = link.news() => {}
                }
                continue;
            };
            let reached = Cell::new(false);
            let alive = || {
                self.book.borrow_mut().reached(node, &address);
                if !reached.replace(true) {
                    self.workers.tell_reached(node, Some(&address));
                }
            };
            let end = self.links.connect(&link, &address, alive).await;
            link.drop_queue();
            if reached.get() {
                self.workers.tell_reached(node, None);
            }
            let failure = match end {
                End::Unreached(why) => {
                    debug!("node {node} at {address}: {why}");
                    Failure::Unreached
                }
                End::Broken(why) => {
                    info!("connection to node {node} at {address} ended: {why}");
                    Failure::Unreached
                }
                End::Refused(why) => {
                    self.links.refused(&link, &address, &why);
                    Failure::Refused
                }
                End::Duplicate(why) => {
                    if self.book.borrow().is_duplicate(self.clock.mono(), node) {
                        return self.workers.halt(Halt::Operator(why));
                    }
                    self.links.refused(&link, &address, &why);
                    Failure::Duplicate
                }
            };
            let now = self.clock.mono();
            let warning = self.book.borrow_mut().failed(now, node, &address, failure);
            if let Some(line) = warning {
                warn!("{line}");
            }
        }
    }

    /// Accepts connections for ever.
    pub async fn accept(self: Rc<Self>, listener: TcpListener) {
        let (clock, warnings) = (self.clock, self.warnings.clone());
        let acceptor = Acceptor { listener, whom: "peers", clock, warnings };
        loop {
            let (stream, from) = match acceptor.next().await {
                Ok(accepted) => accepted,
                Err(halt) => return self.workers.halt(halt),
            };
            if let Some(room) = self.find(&self.room, CONNECTIONS_MAX, from) {
                runtime::spawn(self.clone().receive(stream, from, room));
            }
        }
    }

    /// Room for a connection, if there is some.
    fn find(
        &self,
        room: &Arc<Semaphore>,
        most: usize,
        from: SocketAddr,
    ) -> Option<OwnedSemaphorePermit> {
        let found = room.clone().try_acquire_owned();
        if found.is_err() {
            self.warnings.warn(self.clock.mono(), Kind::TooManyPeers, from.ip(), || {
                format!("peer connection from {from} closed: there are {most}")
            });
        }
        found.ok()
    }

    /// Finds out who has connected. A peer's metadata is heard here until its connection ends; those of its shards go on.
    async fn receive(
        self: Rc<Self>,
        mut stream: TcpStream,
        from: SocketAddr,
        room: OwnedSemaphorePermit,
    ) {
        // What goes back is single bytes that show a sign of life; a connection that is gone says so when it is read.
        let _ = stream.set_nodelay(true);
        let hello = match self.hello(&mut stream, from).await {
            Ok(Some(hello)) => hello,
            Ok(None) => return,
            Err(refusal) => {
                let (half, to) = stream.into_split();
                let frames = FrameReader::new(half, HELLO_BYTES_MAX);
                return self.links.refuse(from, frames, to, refusal).await;
            }
        };
        if hello.shard.is_some() {
            return self.hand_over(stream, from, hello);
        }
        let (node, at) = (hello.from, from.to_string());
        self.look_for(node);
        let heard = || self.book.borrow_mut().heard(self.clock.mono(), node, &at);
        self.links.read(stream, from, hello, heard).await;
        self.book.borrow_mut().closed(node, &at);
        drop(room);
    }

    /// What is said first on a connection, if that is to be listened to.
    async fn hello(
        &self,
        stream: &mut TcpStream,
        from: SocketAddr,
    ) -> Result<Option<Hello>, Refusal> {
        let hello = select! {
            frame = read_first(stream, HELLO_BYTES_MAX) => match frame {
                Ok(frame) => Hello::decode(frame)?,
                // Somebody looked whether the port is open.
                Err(FrameError::Closed) => return Ok(None),
                Err(error) => return Err(error.to_string().into()),
            },
            () = runtime::sleep(HELLO_TIMEOUT) => {
                return Err("it did not say who it is".to_string().into());
            }
        };
        self.check(&hello)?;
        if let Some(shard) = hello.shard {
            if self.book.borrow().hears(hello.from, hello.process) {
                return Ok(Some(hello));
            }
            // Its metadata's connection has ended meanwhile; it comes again with that.
            debug!("connection of shard {shard} of node {} closed: it is not heard", hello.from);
            return Ok(None);
        }
        let (now, at) = (self.clock.mono(), from.to_string());
        let mut book = self.book.borrow_mut();
        let opened = book.opened(now, hello.from, &at, hello.process, &hello.address);
        opened.map_err(Refusal::duplicate)?;
        Ok(Some(hello))
    }

    fn hand_over(&self, stream: TcpStream, from: SocketAddr, hello: Hello) {
        let Some(room) = self.find(&self.shard_room, SHARD_CONNECTIONS_MAX, from) else { return };
        match Detached::new(stream) {
            Ok(stream) => self.workers.give(Incoming { stream, from, hello, room }),
            // Its peer makes it again.
            Err(error) => debug!("connection from {from} was lost: {error}"),
        }
    }

    fn check(&self, hello: &Hello) -> Result<(), String> {
        let (from, to, me) = (hello.from, hello.to, self.me);
        if to != me {
            return Err(format!(
                "node {from} looks for node {to} here, but this is node {me}; check --cluster"
            ));
        }
        if from == me {
            return Err(format!(
                "another process calls itself node {from} as well; check --node-id"
            ));
        }
        self.links.check_cluster(hello)?;
        let book = self.book.borrow();
        if !book.knows(from) && book.strangers() >= STRANGERS_MAX {
            return Err(format!("node {from} is one too many of which nothing else is known"));
        }
        Ok(())
    }
}
