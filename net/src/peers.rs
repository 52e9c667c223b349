//! Connections between the nodes of a cluster: one per direction and pair, made by the side that sends.
//!
//! ```text
//!   node 1 ──hello, frames──▶ node 2        each arrow is one TCP connection; a node answers on its own arrow
//!   node 1 ◀──hello, frames── node 2
//! ```
//!
//! A message may be lost: that is what `core` is written for. So queues are bounded and drop what does not fit, and a
//! connection that breaks takes its queue with it. Messages of the quorum and the controller are small and go in front of
//! record batches.
//!
//! Both sides of a connection are of one cluster, as far as they know theirs: each says which with its hello, and again when it
//! has joined one. Who is refused is told why. What could change a record or a registration says it too, and core compares. So
//! a node that was started with another cluster's data or addresses disturbs nobody.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use milena_core::addresses::{Addresses, Dial, Failure, Process};
use milena_core::image::Image;
use milena_core::image::settings::BATCH_BYTES_LIMIT;
use milena_core::peer::{self, PeerMessage};
use milena_core::{Halt, Incarnation, NodeId, cluster_id};
use tracing::{debug, info, warn};

use crate::accept::Acceptor;
use crate::frames::{FrameError, FrameReader, push_frame, write_some};
use crate::runtime::{
    self, AsyncReadExt, AsyncWriteExt, Clock, Notify, OwnedReadHalf, OwnedWriteHalf, TcpListener,
    TcpStream, select,
};
use crate::warnings::{Kind, Warnings};

/// First bytes of a connection. Frozen.
const MAGIC: &[u8; 6] = b"milena";
/// Version of the hello and of the frames behind it.
const FORMAT: u16 = 7;
/// Largest hello.
const HELLO_BYTES_MAX: usize = 1 << 10;
/// Largest frame.
const FRAME_BYTES_MAX: usize = 128 << 20;
/// A push holds one batch at least, whatever its size.
const _: () = assert!(FRAME_BYTES_MAX >= BATCH_BYTES_LIMIT as usize + (1 << 20));
/// Bytes that wait for a connected peer; beyond it pushes are dropped, and beyond twice of it everything.
const QUEUE_BYTES_MAX: usize = 128 << 20;
/// Messages kept for a peer that is not connected: the newest, as far as they fit.
const QUEUE_UNCONNECTED_MAX: usize = 64;
/// Bytes handed to the socket before looking again for something more urgent.
const WRITE_BYTES: usize = 256 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// An empty frame is sent this often, and answered with one byte. So is each piece of a larger frame, which lets no empty one
/// through while it is on its way. Nothing else is ever said in that direction, but why the connection is refused.
const BEAT: Duration = Duration::from_millis(500);
/// The answer to a beat or piece.
const ALIVE: u8 = 0;
/// The answer behind which stands why the connection is refused, up to its end.
const REFUSED: u8 = 1;
/// The same, where it is because another process has the id.
const DUPLICATE: u8 = 2;
/// How long a refusal may take to be read.
const REFUSING: Duration = Duration::from_secs(1);
/// Longest reason that is listened to.
const REASON_BYTES_MAX: usize = 1 << 10;
const BEATS_UNANSWERED_MAX: usize = 5;
/// The piece of a frame that is answered.
const ANSWERED_BYTES: usize = 128 << 10;
/// A connection on which nothing comes for this long is closed.
const SILENCE_MAX: Duration = Duration::from_secs(10);
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections from peers, with those that have not said who they are.
const CONNECTIONS_MAX: usize = 100;
/// Nodes that are known by their hello alone. Each that said where it is reached is connected to.
const STRANGERS_MAX: usize = 100;

/// What a node says first on a connection that it makes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Its cluster; 0 while it knows none.
    pub cluster: u128,
    /// Who it is.
    pub from: NodeId,
    /// Whom it wants.
    pub to: NodeId,
    /// Which process it is.
    pub process: Process,
    /// Where it can be reached.
    pub address: String,
}

impl Hello {
    fn encode(&self) -> Vec<Bytes> {
        let mut out = BytesMut::new();
        out.put_slice(MAGIC);
        out.put_u16(FORMAT);
        out.put_u128(self.cluster);
        out.put_i32(self.from.0);
        out.put_i32(self.to.0);
        out.put_u128(self.process.incarnation.0);
        out.put_u64(self.process.run);
        out.put_slice(self.address.as_bytes());
        vec![out.freeze()]
    }

    fn decode(mut frame: Bytes) -> Result<Hello, String> {
        if frame.len() < 8 || !frame.starts_with(MAGIC) {
            return Err("it does not speak the peer protocol".into());
        }
        frame.advance(MAGIC.len());
        let format = frame.get_u16();
        if format != FORMAT {
            return Err(format!("it speaks format {format}, this version {FORMAT}"));
        }
        if frame.len() < 16 + 4 + 4 + 16 + 8 {
            return Err("its hello is too short".into());
        }
        Ok(Hello {
            cluster: frame.get_u128(),
            from: NodeId(frame.get_i32()),
            to: NodeId(frame.get_i32()),
            process: Process { incarnation: Incarnation(frame.get_u128()), run: frame.get_u64() },
            address: String::from_utf8(frame.to_vec()).map_err(|_| "its address is no text")?,
        })
    }
}

/// All peers of this node. Lives on one thread.
pub struct Peers {
    /// What this node says of itself; `to` is filled in.
    hello: RefCell<Hello>,
    /// Where the others are.
    book: RefCell<Addresses>,
    clock: Clock,
    warnings: Arc<Warnings>,
    known: RefCell<BTreeMap<NodeId, Rc<Peer>>>,
    /// Connections from peers that are open.
    connections: Cell<usize>,
    /// Takes what arrives.
    deliver: Box<dyn Fn(NodeId, PeerMessage)>,
    /// Told when this node must not go on, and why.
    halt: Box<dyn Fn(Halt)>,
}

struct Peer {
    node: NodeId,
    queue: RefCell<Queue>,
    /// When there is something to write.
    wake: Notify,
    /// When there is a new address, or it is worth connecting at once.
    news: Notify,
}

#[derive(Default)]
struct Queue {
    connected: bool,
    urgent: VecDeque<Vec<Bytes>>,
    bulk: VecDeque<Vec<Bytes>>,
    bytes: usize,
    dropped: u64,
}

impl Peers {
    /// Peers of a node that introduces itself with `hello`.
    pub fn new(
        hello: Hello,
        clock: Clock,
        warnings: Arc<Warnings>,
        deliver: impl Fn(NodeId, PeerMessage) + 'static,
        halt: impl Fn(Halt) + 'static,
    ) -> Rc<Peers> {
        Rc::new(Peers {
            book: RefCell::new(Addresses::new(hello.from)),
            clock,
            warnings,
            hello: RefCell::new(hello),
            known: RefCell::default(),
            connections: Cell::new(0),
            deliver: Box::new(deliver),
            halt: Box::new(halt),
        })
    }

    /// Says which cluster this is, once it is known, on the connections that are open too.
    pub fn set_cluster(&self, cluster: u128) {
        let before = std::mem::replace(&mut self.hello.borrow_mut().cluster, cluster);
        if before == cluster {
            return;
        }
        for peer in self.known.borrow().values().filter(|p| p.queue.borrow().connected) {
            peer.queue.borrow_mut().push(self.hello_to(peer.node), true);
            peer.wake.notify_one();
        }
    }

    fn hello_to(&self, node: NodeId) -> Vec<Bytes> {
        Hello { to: node, ..self.hello.borrow().clone() }.encode()
    }

    /// Takes where a node is from the configuration; connects to it.
    pub fn given(self: &Rc<Self>, node: NodeId, address: &str) {
        if self.book.borrow_mut().given(node, address) {
            self.peer(node).news.notify_one();
        }
    }

    /// Takes where nodes are from the metadata; connects to them.
    pub fn on_image(self: &Rc<Self>, image: &Image) {
        let news = self.book.borrow_mut().on_image(image);
        news.into_iter().for_each(|node| self.peer(node).news.notify_one());
    }

    /// Sends a message, or drops it.
    pub fn send(self: &Rc<Self>, to: NodeId, message: &PeerMessage) {
        let peer = self.peer(to);
        let urgent = !matches!(message, PeerMessage::Replica(_));
        peer.queue.borrow_mut().push(peer::encode(message), urgent);
        peer.wake.notify_one();
    }

    fn peer(self: &Rc<Self>, node: NodeId) -> Rc<Peer> {
        let mut known = self.known.borrow_mut();
        let peer = known.entry(node).or_insert_with(|| {
            let peer = Rc::new(Peer {
                node,
                queue: RefCell::default(),
                wake: Notify::new(),
                news: Notify::new(),
            });
            runtime::spawn(self.clone().sending(peer.clone()));
            peer
        });
        peer.clone()
    }

    /// Connects to one peer, again and again, and writes what is queued.
    async fn sending(self: Rc<Self>, peer: Rc<Peer>) {
        loop {
            let (address, again_at) = match self.book.borrow().dial(self.clock.mono(), peer.node) {
                Dial::Now(address) => (Some(address.to_string()), None),
                Dial::At(at) => (None, Some(at)),
                Dial::Nowhere => (None, None),
            };
            let Some(address) = address else {
                select! {
                    () = self.clock.sleep_until(again_at) => {}
                    () = peer.news.notified() => {}
                }
                continue;
            };
            let connecting = select! {
                connected = TcpStream::connect(address.as_str()) => Some(connected),
                () = runtime::sleep(CONNECT_TIMEOUT) => None,
            };
            let failure = match connecting {
                Some(Ok(stream)) => {
                    debug!("connected to node {} at {address}", peer.node);
                    match self.write(&peer, &address, stream).await {
                        End::Broken(why) => {
                            info!("connection to node {} at {address} ended: {why}", peer.node);
                            Failure::Unreached
                        }
                        End::Refused(why) => {
                            self.refused(&peer, &address, &why);
                            Failure::Refused
                        }
                        End::Duplicate(why) => {
                            if self.book.borrow().is_duplicate(self.clock.mono(), peer.node) {
                                return (self.halt)(Halt::Operator(why));
                            }
                            self.refused(&peer, &address, &why);
                            Failure::Duplicate
                        }
                    }
                }
                Some(Err(error)) => {
                    debug!("node {} at {address}: {error}", peer.node);
                    Failure::Unreached
                }
                None => {
                    debug!("node {} at {address}: no answer", peer.node);
                    Failure::Unreached
                }
            };
            let now = self.clock.mono();
            let warning = self.book.borrow_mut().failed(now, peer.node, &address, failure);
            if let Some(line) = warning {
                warn!("{line}");
            }
        }
    }

    fn refused(&self, peer: &Peer, address: &str, why: &str) {
        let line = || format!("{address} refuses to be peer {} of this node: {why}", peer.node);
        self.warnings.warn(self.clock.mono(), Kind::RefusedByPeer, address, line);
    }

    async fn write(&self, peer: &Peer, address: &str, stream: TcpStream) -> End {
        if let Err(error) = stream.set_nodelay(true) {
            return End::Broken(error.to_string());
        }
        let (mut from, mut to) = stream.into_split();
        let mut out = VecDeque::new();
        push_frame(&mut out, self.hello_to(peer.node));
        peer.queue.borrow_mut().connected = true;
        let unanswered = Cell::new(0);
        let end = select! {
            result = peer.drain(&mut to, &mut out) => match result {
                Ok(()) => End::Broken(String::new()),
                Err(error) => End::Broken(error.to_string()),
            },
            end = answers(&mut from, || {
                unanswered.set(0);
                self.book.borrow_mut().reached(peer.node, address);
            }) => end,
            () = peer.beat(&unanswered) => End::Broken("no sign of life".into()),
        };
        *peer.queue.borrow_mut() = Queue::default();
        end
    }

    /// Accepts connections for ever.
    pub async fn accept(self: Rc<Self>, listener: TcpListener) {
        let (clock, warnings) = (self.clock, self.warnings.clone());
        let acceptor = Acceptor { listener, whom: "peers", clock, warnings };
        loop {
            let (stream, address) = match acceptor.next().await {
                Ok(accepted) => accepted,
                Err(halt) => return (self.halt)(halt),
            };
            if self.connections.get() >= CONNECTIONS_MAX {
                self.warn(Kind::TooManyPeers, address, || {
                    format!("peer connection from {address} closed: there are {CONNECTIONS_MAX}")
                });
                continue;
            }
            let peers = self.clone();
            peers.connections.set(peers.connections.get() + 1);
            runtime::spawn(async move {
                // What goes back is single bytes that show a sign of life; a connection that is gone says so when it is read.
                let _ = stream.set_nodelay(true);
                let (from, mut to) = stream.into_split();
                let mut frames = FrameReader::new(from, HELLO_BYTES_MAX);
                if let Err(refusal) = peers.clone().read(address, &mut frames, &mut to).await {
                    peers.warn(Kind::RefusedPeer, address, || {
                        format!("peer connection from {address} is refused: {}", refusal.why)
                    });
                    refuse(&mut frames, &mut to, &refusal).await;
                }
                peers.connections.set(peers.connections.get() - 1);
            });
        }
    }

    fn warn(&self, kind: Kind, from: SocketAddr, line: impl FnOnce() -> String) {
        self.warnings.warn(self.clock.mono(), kind, from.ip(), line);
    }

    /// Delivers what comes on a connection until it ends, or is to be refused.
    async fn read(
        self: Rc<Self>,
        from: SocketAddr,
        frames: &mut FrameReader,
        to: &mut OwnedWriteHalf,
    ) -> Result<(), Refusal> {
        let hello = select! {
            frame = frames.next() => match frame {
                Ok(frame) => Hello::decode(frame)?,
                // Somebody looked whether the port is open.
                Err(FrameError::Closed) => return Ok(()),
                Err(error) => return Err(error.to_string().into()),
            },
            () = runtime::sleep(HELLO_TIMEOUT) => {
                return Err("it did not say who it is".to_string().into());
            }
        };
        self.check(&hello)?;
        let (node, from) = (hello.from, from.to_string());
        let (now, process) = (self.clock.mono(), hello.process);
        let opened = self.book.borrow_mut().opened(now, node, &from, process, &hello.address);
        opened.map_err(|why| Refusal { kind: DUPLICATE, why })?;
        self.peer(node).news.notify_one();
        frames.set_limit(FRAME_BYTES_MAX);
        let end = self.deliver_all(hello, &from, frames, to).await;
        self.book.borrow_mut().closed(node, &from);
        end.map_err(Refusal::from)
    }

    async fn deliver_all(
        &self,
        mut hello: Hello,
        from: &str,
        frames: &mut FrameReader,
        to: &mut OwnedWriteHalf,
    ) -> Result<(), String> {
        let node = hello.from;
        loop {
            let frame = match next_answered(frames, to).await {
                Ok(frame) => frame,
                Err(error) => {
                    info!("connection from node {node} ended: {error}");
                    return Ok(());
                }
            };
            if frame.is_empty() {
                self.book.borrow_mut().heard(self.clock.mono(), node, from);
                if to.write_all(&[ALIVE]).await.is_err() {
                    return Ok(());
                }
                continue;
            }
            if frame.starts_with(MAGIC) {
                hello.cluster = Hello::decode(frame)?.cluster;
                continue;
            }
            // Either may have learnt of its cluster meanwhile.
            self.check_cluster(&hello)?;
            let message =
                peer::decode(frame).map_err(|error| format!("node {node} sent {error}"))?;
            (self.deliver)(node, message);
        }
    }

    /// Whether the other side may be of this node's cluster.
    fn check_cluster(&self, hello: &Hello) -> Result<(), String> {
        let own = self.hello.borrow();
        if hello.cluster == 0 || own.cluster == 0 || hello.cluster == own.cluster {
            return Ok(());
        }
        Err(format!(
            "node {} belongs to cluster {} and node {} to {}; check --cluster and --data of the one that is wrong",
            hello.from,
            cluster_id(hello.cluster),
            own.from,
            cluster_id(own.cluster)
        ))
    }

    fn check(&self, hello: &Hello) -> Result<(), String> {
        let own = self.hello.borrow();
        let (from, to) = (hello.from, hello.to);
        if to != own.from {
            return Err(format!(
                "node {from} looks for node {to} here, but this is node {}; check --cluster",
                own.from
            ));
        }
        if from == own.from {
            return Err(format!(
                "another process calls itself node {from} as well; check --node-id"
            ));
        }
        self.check_cluster(hello)?;
        let book = self.book.borrow();
        if !book.knows(from) && book.strangers() >= STRANGERS_MAX {
            return Err(format!("node {from} is one too many of which nothing else is known"));
        }
        Ok(())
    }
}

/// Why a connection is refused.
struct Refusal {
    /// [`REFUSED`] or [`DUPLICATE`].
    kind: u8,
    why: String,
}

impl From<String> for Refusal {
    fn from(why: String) -> Refusal {
        Refusal { kind: REFUSED, why }
    }
}

/// Tells the other side why it is refused, and closes once it has had the time to read that.
async fn refuse(frames: &mut FrameReader, to: &mut OwnedWriteHalf, refusal: &Refusal) {
    let mut reason = vec![refusal.kind];
    reason.extend_from_slice(refusal.why.as_bytes());
    let telling = async {
        // What cannot be told is in this node's log.
        let _ = to.write_all(&reason).await;
        let _ = to.shutdown().await;
        while frames.next().await.is_ok() {}
    };
    select! {
        () = telling => {}
        () = runtime::sleep(REFUSING) => {}
    }
}

/// The next frame. Its pieces are answered as they come.
async fn next_answered(frames: &mut FrameReader, to: &mut OwnedWriteHalf) -> Result<Bytes, String> {
    let mut answered = 0;
    loop {
        if let Some(frame) = frames.ready().map_err(|error| error.to_string())? {
            return Ok(frame);
        }
        select! {
            read = frames.read() => read.map_err(|error| error.to_string())?,
            () = runtime::sleep(SILENCE_MAX) => return Err("no sign of life".into()),
        }
        if frames.begun() >= answered + ANSWERED_BYTES {
            answered = frames.begun();
            to.write_all(&[ALIVE]).await.map_err(|error| error.to_string())?;
        }
    }
}

/// How a connection to a peer ended.
enum End {
    Broken(String),
    Refused(String),
    Duplicate(String),
}

/// Reads the answers to beats and pieces, until the connection ends. Any of them shows that the other side lives, and that it is
/// the peer: nobody else answers a hello with that byte.
async fn answers(from: &mut OwnedReadHalf, alive: impl Fn()) -> End {
    let mut bytes = [0; 16];
    loop {
        match from.read(&mut bytes).await {
            Ok(0) => return End::Broken("closed by the other side".into()),
            Ok(count) => match bytes[..count].iter().position(|byte| *byte != ALIVE) {
                Some(at) => {
                    let mut reason = bytes[at + 1..count].to_vec();
                    // As much as can be read of it.
                    let _ = from.take(REASON_BYTES_MAX as u64).read_to_end(&mut reason).await;
                    let reason = String::from_utf8_lossy(&reason).escape_debug().to_string();
                    return match bytes[at] {
                        REFUSED => End::Refused(reason),
                        DUPLICATE => End::Duplicate(reason),
                        _ => End::Broken("it does not speak the peer protocol".into()),
                    };
                }
                None => alive(),
            },
            Err(error) => return End::Broken(error.to_string()),
        }
    }
}

impl Peer {
    /// Sends beats; done when too many got no answer. A host that has gone without a word would otherwise be noticed by TCP
    /// after minutes.
    async fn beat(&self, unanswered: &Cell<usize>) {
        while unanswered.get() < BEATS_UNANSWERED_MAX {
            runtime::sleep(BEAT).await;
            unanswered.set(unanswered.get() + 1);
            self.queue.borrow_mut().push(Vec::new(), true);
            self.wake.notify_one();
        }
    }

    /// Writes what is queued and what will be, until the connection fails.
    async fn drain(
        &self,
        to: &mut OwnedWriteHalf,
        out: &mut VecDeque<Bytes>,
    ) -> std::io::Result<()> {
        loop {
            self.queue.borrow_mut().take(out);
            if out.is_empty() {
                self.wake.notified().await;
                continue;
            }
            while !out.is_empty() {
                write_some(to, out).await?;
            }
        }
    }
}

impl Queue {
    fn push(&mut self, frame: Vec<Bytes>, urgent: bool) {
        let length: usize = frame.iter().map(Bytes::len).sum();
        if !self.connected {
            while self.urgent.len() + self.bulk.len() >= QUEUE_UNCONNECTED_MAX {
                let oldest = self.bulk.pop_front().or_else(|| self.urgent.pop_front());
                self.bytes -= oldest.iter().flatten().map(Bytes::len).sum::<usize>();
            }
        }
        // Pushes that a slow peer lets wait must not cost it the controller's word, and so its session.
        let most = if urgent { 2 * QUEUE_BYTES_MAX } else { QUEUE_BYTES_MAX };
        if self.bytes + length > most {
            self.dropped += 1;
            if self.dropped.is_power_of_two() {
                warn!("{} messages to a slow peer were dropped", self.dropped);
            }
            return;
        }
        self.bytes += length;
        if urgent { &mut self.urgent } else { &mut self.bulk }.push_back(frame);
    }

    /// Moves frames to what is about to be written, urgent ones first.
    fn take(&mut self, out: &mut VecDeque<Bytes>) {
        let mut taken = 0;
        while taken < WRITE_BYTES {
            let Some(frame) = self.urgent.pop_front().or_else(|| self.bulk.pop_front()) else {
                break;
            };
            taken += push_frame(out, frame) - 4;
        }
        self.bytes -= taken;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_comes_back_and_bad_ones_are_refused() {
        let hello = Hello {
            cluster: 7,
            from: NodeId(1),
            to: NodeId(2),
            address: "localhost:19092".into(),
            process: Process { incarnation: Incarnation(5), run: 9 },
        };
        let bytes = hello.encode().concat();
        assert_eq!(Hello::decode(bytes.clone().into()), Ok(hello));
        for length in 0..32 + 24 {
            assert!(Hello::decode(bytes[..length].to_vec().into()).is_err(), "{length}");
        }
        let mut other = bytes;
        other[7] = 1;
        assert_eq!(
            Hello::decode(other.into()),
            Err(format!("it speaks format 1, this version {FORMAT}"))
        );
    }

    #[test]
    fn a_queue_is_bounded_and_puts_urgent_frames_first() {
        let mut queue = Queue::default();
        for i in 0..100_u8 {
            queue.push(vec![vec![i].into()], i % 2 == 0);
        }
        assert_eq!(queue.urgent.len() + queue.bulk.len(), QUEUE_UNCONNECTED_MAX);
        queue.connected = true;
        let large = Bytes::from(vec![0; QUEUE_BYTES_MAX / 2]);
        for _ in 0..3 {
            queue.push(vec![large.clone()], false);
        }
        assert!(queue.bytes <= QUEUE_BYTES_MAX && queue.dropped == 2);
        let mut out = VecDeque::new();
        while queue.bytes > 0 {
            queue.take(&mut out);
        }
        let first: Vec<u8> = out.iter().skip(1).step_by(2).take(50).map(|p| p[0]).collect();
        assert!(first.iter().all(|i| i % 2 == 0) && first.len() == 50);
        assert!(queue.urgent.is_empty() && queue.bulk.is_empty());
    }
}
