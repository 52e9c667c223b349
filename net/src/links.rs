//! A worker's connections with other nodes: a link to each node that it has something to say to, made by the side that sends.
//!
//! ```text
//!   node 1                                              node 2
//!   metadata ──hello, quorum and controller messages──▶ metadata     each arrow is one TCP connection; a node answers on
//!   shard 0  ──hello, messages of its replicas────────▶ shard 0      arrows of its own
//!   shard 1  ──hello, messages of its replicas────────▶ shard 1
//! ```
//!
//! So a message is written and read by the thread whose machine sends and takes it, and the quorum's stand behind no record
//! batches, neither in a queue nor in a TCP stream. Who the other nodes are and where, [`crate::peers`] decides on the metadata's
//! worker; the shards' workers connect to whom that one reaches, and for as long as it does.
//!
//! A message may be lost: that is what `core` is written for. So queues are bounded and drop what does not fit, and a
//! connection that breaks takes its queue with it.
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
use milena_core::addresses::Process;
use milena_core::image::settings::BATCH_BYTES_LIMIT;
use milena_core::peer::{self, PeerMessage};
use milena_core::{Incarnation, NodeId, cluster_id};
use tracing::{debug, info, warn};

use crate::frames::{FrameReader, push_frame, write_some};
use crate::runtime::{
    self, AsyncReadExt, AsyncWriteExt, Clock, Detached, Notify, OwnedReadHalf,
    OwnedSemaphorePermit, OwnedWriteHalf, TcpStream, select,
};
use crate::warnings::{Kind, Warnings};

/// First bytes of a connection. Frozen.
const MAGIC: &[u8; 6] = b"milena";
/// Version of the hello and of the frames behind it.
const FORMAT: u16 = 11;
/// Largest hello.
pub const HELLO_BYTES_MAX: usize = 1 << 10;
/// Largest frame.
const FRAME_BYTES_MAX: usize = 128 << 20;
/// A push holds one batch at least, whatever its size.
const _: () = assert!(FRAME_BYTES_MAX >= BATCH_BYTES_LIMIT as usize + (1 << 20));
/// Bytes that wait for a peer that is reached: so many of the metadata's, and as many of all shards together. What is beyond that
/// is dropped, but for a single message.
const QUEUE_BYTES_MAX: usize = 128 << 20;
/// Messages kept for a peer that is not reached: the newest.
const QUEUE_UNREACHED_MAX: usize = 64;
/// Bytes handed to the socket before looking again for a beat.
const WRITE_BYTES: usize = 256 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A shard's link that broke alone is made again after this long.
const AGAIN: Duration = Duration::from_millis(100);
/// An empty frame is sent this often, and answered with one byte. So is each piece of a larger frame, which lets no empty one
/// through while it is on its way. Nothing else is ever said in that direction, but why the connection is refused.
const BEAT: Duration = Duration::from_millis(500);
/// The same on a shard's link, which goes with the metadata's where the host has gone: a shard that is busy for seconds keeps it.
const SHARD_BEAT: Duration = Duration::from_secs(2);
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
    /// Which of its shards speaks; none where its metadata does.
    pub shard: Option<u16>,
    /// Where it can be reached.
    pub address: String,
}

impl Hello {
    /// Its frame.
    pub fn encode(&self) -> Vec<Bytes> {
        let mut out = BytesMut::new();
        out.put_slice(MAGIC);
        out.put_u16(FORMAT);
        out.put_u128(self.cluster);
        out.put_i32(self.from.0);
        out.put_i32(self.to.0);
        out.put_u128(self.process.incarnation.0);
        out.put_u64(self.process.run);
        out.put_i32(self.shard.map_or(-1, i32::from));
        out.put_slice(self.address.as_bytes());
        vec![out.freeze()]
    }

    /// A hello from its frame, or what is wrong with it.
    pub fn decode(mut frame: Bytes) -> Result<Hello, String> {
        if frame.len() < 8 || !frame.starts_with(MAGIC) {
            return Err("it does not speak the peer protocol".into());
        }
        frame.advance(MAGIC.len());
        let format = frame.get_u16();
        if format != FORMAT {
            return Err(format!("it speaks format {format}, this version {FORMAT}"));
        }
        if frame.len() < 16 + 4 + 4 + 16 + 8 + 4 {
            return Err("its hello is too short".into());
        }
        Ok(Hello {
            cluster: frame.get_u128(),
            from: NodeId(frame.get_i32()),
            to: NodeId(frame.get_i32()),
            process: Process { incarnation: Incarnation(frame.get_u128()), run: frame.get_u64() },
            shard: match frame.get_i32() {
                -1 => None,
                shard => Some(u16::try_from(shard).map_err(|_| "its shard is no number of one")?),
            },
            address: String::from_utf8(frame.to_vec()).map_err(|_| "its address is no text")?,
        })
    }
}

/// A connection that another node has made, and which of this node's workers it is for has been found out.
pub struct Incoming {
    /// What comes behind the hello is still to be read.
    pub stream: Detached,
    /// Where it comes from.
    pub from: SocketAddr,
    /// What it said first.
    pub hello: Hello,
    /// Its place among those that there may be.
    pub room: OwnedSemaphorePermit,
}

/// The links of one worker, and what comes on those of others to it. Lives on one thread.
pub struct Links {
    /// What this worker says of itself; `to` is filled in.
    hello: RefCell<Hello>,
    clock: Clock,
    warnings: Arc<Warnings>,
    /// Most bytes that wait for one peer.
    queue_bytes_max: usize,
    /// How often a beat is sent.
    beat: Duration,
    known: RefCell<BTreeMap<NodeId, Rc<Link>>>,
    /// Takes what arrives.
    deliver: Box<dyn Fn(NodeId, PeerMessage)>,
}

/// The way to one node.
pub struct Link {
    node: NodeId,
    queue: RefCell<Queue>,
    /// When there is something to write.
    wake: Notify,
    /// Where the metadata's worker reaches the node, as a shard's worker was told.
    reached_at: RefCell<Option<String>>,
    /// When it is worth looking again where to connect to.
    news: Notify,
    /// Whether somebody sees to it that it is connected.
    is_kept: Cell<bool>,
}

#[derive(Default)]
struct Queue {
    /// Whether the peer is reached, so that what waits will leave soon.
    reached: bool,
    frames: VecDeque<Vec<Bytes>>,
    bytes: usize,
    dropped: u64,
}

/// How a connection to a peer ended.
pub enum End {
    /// When there was none.
    Unreached(String),
    /// When it broke.
    Broken(String),
    /// When the other side does not want it.
    Refused(String),
    /// When the other side hears another process with this node's id.
    Duplicate(String),
}

/// Why a connection is refused.
pub struct Refusal {
    /// [`REFUSED`] or [`DUPLICATE`].
    kind: u8,
    why: String,
}

impl Refusal {
    /// Because another process has the id of the one that is refused.
    pub fn duplicate(why: String) -> Refusal {
        Refusal { kind: DUPLICATE, why }
    }
}

impl From<String> for Refusal {
    fn from(why: String) -> Refusal {
        Refusal { kind: REFUSED, why }
    }
}

impl Links {
    /// No link yet of a worker of a node with so many shards that introduces itself with `hello`.
    pub fn new(
        hello: Hello,
        shards: u16,
        clock: Clock,
        warnings: Arc<Warnings>,
        deliver: impl Fn(NodeId, PeerMessage) + 'static,
    ) -> Rc<Links> {
        let (parts, beat) = match hello.shard {
            None => (1, BEAT),
            Some(_) => (usize::from(shards.max(1)), SHARD_BEAT),
        };
        Rc::new(Links {
            hello: RefCell::new(hello),
            clock,
            warnings,
            queue_bytes_max: QUEUE_BYTES_MAX / parts,
            beat,
            known: RefCell::default(),
            deliver: Box::new(deliver),
        })
    }

    /// Says which cluster this is, once it is known, on the connections that are open too.
    pub fn set_cluster(&self, cluster: u128) {
        let before = std::mem::replace(&mut self.hello.borrow_mut().cluster, cluster);
        if before == cluster {
            return;
        }
        for link in self.known.borrow().values().filter(|link| link.queue.borrow().reached) {
            link.say_first(self.hello_to(link.node));
        }
    }

    fn hello_to(&self, node: NodeId) -> Vec<Bytes> {
        Hello { to: node, ..self.hello.borrow().clone() }.encode()
    }

    /// Sends a message, or drops it.
    pub fn send(&self, to: NodeId, message: &PeerMessage) {
        let link = self.link(to);
        link.queue.borrow_mut().push(peer::encode(message), self.queue_bytes_max);
        link.wake.notify_one();
    }

    /// The link to a node.
    pub fn link(&self, node: NodeId) -> Rc<Link> {
        let mut known = self.known.borrow_mut();
        let link = known.entry(node).or_insert_with(|| {
            Rc::new(Link {
                node,
                queue: RefCell::default(),
                wake: Notify::new(),
                reached_at: RefCell::default(),
                news: Notify::new(),
                is_kept: Cell::default(),
            })
        });
        link.clone()
    }

    /// When the metadata's worker reaches a node somewhere, or has lost it.
    pub fn set_reached(self: &Rc<Self>, node: NodeId, at: Option<String>) {
        let link = self.link(node);
        link.queue.borrow_mut().reached = at.is_some();
        *link.reached_at.borrow_mut() = at;
        if link.worth_looking() {
            runtime::spawn(self.clone().keep(link));
        }
    }

    /// Keeps a shard's link where the metadata's worker reaches the node, from the first message on.
    async fn keep(self: Rc<Self>, link: Rc<Link>) {
        loop {
            let Some(address) = link.reached_at.borrow().clone() else {
                link.news.notified().await;
                continue;
            };
            let connected = async {
                link.something_to_say().await;
                self.connect(&link, &address, || {}).await
            };
            let end = select! {
                biased;
                () = link.lost_from(&address) => End::Broken("the node is lost".into()),
                end = connected => end,
            };
            link.drop_queue();
            match end {
                End::Refused(why) => self.refused(&link, &address, &why),
                End::Unreached(why) | End::Broken(why) | End::Duplicate(why) => {
                    debug!("connection of a shard to node {} at {address} ended: {why}", link.node);
                }
            }
            runtime::sleep(AGAIN).await;
        }
    }

    /// Warns that a node does not want this one's connection.
    pub fn refused(&self, link: &Link, address: &str, why: &str) {
        let line = || format!("{address} refuses to be peer {} of this node: {why}", link.node);
        self.warnings.warn(self.clock.mono(), Kind::RefusedByPeer, address, line);
    }

    /// Connects to a node and writes what is queued and what will be, until that ends. `alive` hears each sign of the other side's
    /// life.
    pub async fn connect(&self, link: &Link, address: &str, alive: impl Fn()) -> End {
        let connecting = select! {
            connected = TcpStream::connect(address) => connected,
            () = runtime::sleep(CONNECT_TIMEOUT) => return End::Unreached("no answer".into()),
        };
        let stream = match connecting {
            Ok(stream) => stream,
            Err(error) => return End::Unreached(error.to_string()),
        };
        debug!("connected to node {} at {address}", link.node);
        if let Err(error) = stream.set_nodelay(true) {
            return End::Broken(error.to_string());
        }
        let (mut from, mut to) = stream.into_split();
        let mut out = VecDeque::new();
        push_frame(&mut out, self.hello_to(link.node));
        link.queue.borrow_mut().reached = true;
        // Right behind the hello: the first beat asks whether that is accepted.
        link.say_first(Vec::new());
        let unanswered = Cell::new(1);
        select! {
            result = link.drain(&mut to, &mut out) => match result {
                Ok(()) => End::Broken(String::new()),
                Err(error) => End::Broken(error.to_string()),
            },
            end = answers(&mut from, || {
                unanswered.set(0);
                alive();
            }) => end,
            () = link.beat(self.beat, &unanswered) => End::Broken("no sign of life".into()),
        }
    }

    /// Takes over a connection that another node has made to this worker.
    pub fn take_over(self: &Rc<Self>, incoming: Incoming) -> std::io::Result<()> {
        let Incoming { stream, from, hello, room } = incoming;
        let (stream, links) = (stream.attach()?, self.clone());
        runtime::spawn(async move {
            links.read(stream, from, hello, || {}).await;
            drop(room);
        });
        Ok(())
    }

    /// Delivers what comes on a connection until it ends, or is refused. `heard` hears each beat.
    pub async fn read(&self, stream: TcpStream, from: SocketAddr, hello: Hello, heard: impl Fn()) {
        let (half, mut to) = stream.into_split();
        let mut frames = FrameReader::new(half, FRAME_BYTES_MAX);
        if let Err(why) = self.deliver_all(hello, &mut frames, &mut to, heard).await {
            self.refuse(from, frames, to, why.into()).await;
        }
    }

    async fn deliver_all(
        &self,
        mut hello: Hello,
        frames: &mut FrameReader,
        to: &mut OwnedWriteHalf,
        heard: impl Fn(),
    ) -> Result<(), String> {
        let node = hello.from;
        loop {
            let frame = match next_answered(frames, to).await {
                Ok(frame) => frame,
                Err(error) => {
                    match hello.shard {
                        None => info!("connection from node {node} ended: {error}"),
                        Some(shard) => {
                            debug!("connection from shard {shard} of node {node} ended: {error}");
                        }
                    }
                    return Ok(());
                }
            };
            if frame.is_empty() {
                heard();
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
    pub fn check_cluster(&self, hello: &Hello) -> Result<(), String> {
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

    /// Says here and to the other side why it is refused, and closes once that has had the time to read it.
    pub async fn refuse(
        &self,
        from: SocketAddr,
        mut frames: FrameReader,
        mut to: OwnedWriteHalf,
        refusal: Refusal,
    ) {
        self.warnings.warn(self.clock.mono(), Kind::RefusedPeer, from.ip(), || {
            format!("peer connection from {from} is refused: {}", refusal.why)
        });
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

impl Link {
    /// The node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// When it is worth looking again where to connect to. True if nobody does so yet: the caller is to begin.
    pub fn worth_looking(&self) -> bool {
        self.news.notify_one();
        !self.is_kept.replace(true)
    }

    /// Waits for a reason to look again where to connect to.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// When its connection is gone, and what waited with it.
    pub fn drop_queue(&self) {
        let reached = self.reached_at.borrow().is_some();
        *self.queue.borrow_mut() = Queue { reached, ..Queue::default() };
    }

    /// Waits until the metadata's worker does not reach the node there any more.
    async fn lost_from(&self, address: &str) {
        while self.reached_at.borrow().as_deref() == Some(address) {
            self.news.notified().await;
        }
    }

    async fn something_to_say(&self) {
        while self.queue.borrow().frames.is_empty() {
            self.wake.notified().await;
        }
    }

    fn say_first(&self, frame: Vec<Bytes>) {
        self.queue.borrow_mut().push_first(frame);
        self.wake.notify_one();
    }

    /// Sends beats after the first; done when too many got no answer. A host that has gone without a word would otherwise be noticed
    /// by TCP after minutes.
    async fn beat(&self, every: Duration, unanswered: &Cell<usize>) {
        loop {
            runtime::sleep(every).await;
            if unanswered.get() >= BEATS_UNANSWERED_MAX {
                return;
            }
            unanswered.set(unanswered.get() + 1);
            self.say_first(Vec::new());
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
    fn push(&mut self, frame: Vec<Bytes>, bytes_max: usize) {
        let length: usize = frame.iter().map(Bytes::len).sum();
        if !self.reached {
            while self.frames.len() >= QUEUE_UNREACHED_MAX {
                let oldest = self.frames.pop_front();
                self.bytes -= oldest.iter().flatten().map(Bytes::len).sum::<usize>();
            }
        }
        if self.bytes > 0 && self.bytes + length > bytes_max {
            self.dropped += 1;
            if self.dropped.is_power_of_two() {
                warn!("{} messages to a slow peer were dropped", self.dropped);
            }
            return;
        }
        self.bytes += length;
        self.frames.push_back(frame);
    }

    /// Puts a hello or a beat before all messages. Few of them wait: beats that are not answered end the connection.
    fn push_first(&mut self, frame: Vec<Bytes>) {
        self.bytes += frame.iter().map(Bytes::len).sum::<usize>();
        self.frames.push_front(frame);
    }

    /// Moves frames to what is about to be written.
    fn take(&mut self, out: &mut VecDeque<Bytes>) {
        let mut taken = 0;
        while taken < WRITE_BYTES {
            let Some(frame) = self.frames.pop_front() else { break };
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
        let metadata = Hello {
            cluster: 7,
            from: NodeId(1),
            to: NodeId(2),
            process: Process { incarnation: Incarnation(5), run: 9 },
            shard: None,
            address: "localhost:19092".into(),
        };
        for hello in [metadata.clone(), Hello { shard: Some(u16::MAX), ..metadata.clone() }] {
            assert_eq!(Hello::decode(hello.encode().concat().into()), Ok(hello));
        }
        let bytes = metadata.encode().concat();
        for length in 0..8 + 52 {
            assert!(Hello::decode(bytes[..length].to_vec().into()).is_err(), "{length}");
        }
        let with = |at: usize, byte| {
            let mut other = bytes.clone();
            other[at] = byte;
            Hello::decode(other.into())
        };
        assert_eq!(with(7, 1), Err(format!("it speaks format 1, this version {FORMAT}")));
        assert_eq!(with(8 + 48, 0), Err("its shard is no number of one".into()));
    }

    #[test]
    fn a_queue_is_bounded_and_puts_beats_first() {
        let mut queue = Queue::default();
        for i in 0..100_u8 {
            queue.push(vec![vec![i].into()], 1_000);
        }
        assert_eq!(queue.frames.len(), QUEUE_UNREACHED_MAX);
        queue.reached = true;
        let large = Bytes::from(vec![0; 500]);
        for _ in 0..3 {
            queue.push(vec![large.clone()], 1_000);
        }
        assert!(queue.bytes <= 1_000 && queue.dropped == 2);
        queue.push_first(vec![vec![200].into()]);
        let mut out = VecDeque::new();
        while queue.bytes > 0 {
            queue.take(&mut out);
        }
        let first: Vec<u8> = out.iter().skip(1).step_by(2).take(65).map(|piece| piece[0]).collect();
        assert_eq!(first, Vec::from_iter([200].into_iter().chain(36..100)));
        queue.push(vec![vec![0; 5_000].into()], 1_000);
        assert_eq!((queue.frames.len(), queue.bytes), (1, 5_000), "alone, however large it is");
    }
}
