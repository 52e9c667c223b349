//! The Kafka listener's connections: frames in, requests to the shard of the same thread, answers out in order.
//!
//! A connection is two tasks on one thread. The reader cuts frames and decodes them; the writer sends what is answered, in
//! order. Between them stand the shard's machine, which may answer in any order, and core's `Pipeline`, which says whether to
//! read and what to send. Nothing here knows what a request means.
//!
//! Limits: size of a frame, requests, fetches and bytes in flight per connection, request bytes per node, bytes not yet taken
//! by the client and by all clients of the shard, time for a frame to become whole, idle time, connections per node. Past a
//! limit the reader stops or a connection closes.
//!
//! A request takes its bytes as they come, never as they are declared, and gives them back when it is answered; until then it
//! may stand in any queue between the node's threads, which is what bounds those. The first `own_bytes` come from what each
//! connection has for itself, so that small requests wait for nobody; all else comes from the node's budget. Where requests
//! that have only begun hold all of the budget, one at a time may go past it, so that there is always one that comes to its
//! end; and one that has stopped growing loses its connection while others wait.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use milena_core::config::PipelineConfig;
use milena_core::pipeline::{Pipeline, Totals, fetched_by};
use milena_core::{ClientContext, ClientId, Input, Instant};
use milena_wire::{
    ApiKey, RequestError, Response, decode_request, encode_response,
    unsupported_api_versions_response,
};
use tracing::debug;

use crate::frames::{FrameError, FrameReader, push_frame, write_some};
use crate::metrics::Traffic;
use crate::runtime::{
    self, AbortHandle, Clock, Notify, OwnedReadHalf, OwnedSemaphorePermit, OwnedWriteHalf,
    Semaphore, TcpStream, select,
};
use crate::warnings::{Kind, Warnings};

/// How often connections are looked over for those that wait too long.
const SWEEP: Duration = Duration::from_secs(2);
/// Waiting for memory is worth a word after this long.
const WAIT_MS: u64 = 1_000;

/// Limits of a node's Kafka listener.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Largest request, bytes (`socket.request.max.bytes`).
    pub request_bytes_max: usize,
    /// What a connection may have in flight.
    pub pipeline: PipelineConfig,
    /// Bytes of requests of all connections that are not answered yet, beside a little of each; beyond it no more of them are
    /// read.
    pub request_memory_max: usize,
    /// Connections of the node (`max.connections`).
    pub connections_max: usize,
}

/// Descriptors of a node that are not for Kafka connections: its open files, its peers, and what the process needs besides.
const OTHER_DESCRIPTORS: u64 = 1_024;

impl Limits {
    /// No more connections than fit beside all else into so many descriptors.
    pub fn within(self, descriptors: u64) -> Limits {
        let most = usize::try_from(descriptors.saturating_sub(OTHER_DESCRIPTORS).max(1));
        Limits { connections_max: self.connections_max.min(most.unwrap_or(usize::MAX)), ..self }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            request_bytes_max: 100 << 20,
            pipeline: PipelineConfig::default(),
            request_memory_max: 512 << 20,
            connections_max: 10_000,
        }
    }
}

/// What all threads of a node count together.
pub struct Counts {
    next_client: AtomicU64,
    connections: AtomicUsize,
    /// Bytes that requests may still take. First come, first served, so that none waits for ever.
    request_memory: Arc<Semaphore>,
    /// The right of one request to take more.
    overdraft: Arc<Semaphore>,
    /// Connections that wait for either.
    waiting: AtomicUsize,
    /// What is said of connections, so that it is not said without end.
    pub warnings: Arc<Warnings>,
}

impl Counts {
    /// No connection yet.
    pub fn new(limits: &Limits) -> Counts {
        Counts {
            next_client: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
            request_memory: Arc::new(Semaphore::new(limits.request_memory_max)),
            overdraft: Arc::new(Semaphore::new(1)),
            waiting: AtomicUsize::new(0),
            warnings: Arc::default(),
        }
    }

    /// What is held at the moment.
    pub fn load(&self, limits: &Limits) -> Load {
        let (request_memory_max, free) =
            (limits.request_memory_max, self.request_memory.available_permits());
        Load {
            connections: self.connections.load(Ordering::Relaxed),
            request_memory: request_memory_max.saturating_sub(free),
            request_memory_max,
            waiting: self.waiting.load(Ordering::Relaxed),
            untaken_bytes_max: limits.pipeline.shard_unsent_bytes_max,
        }
    }
}

/// What the Kafka connections of a node hold at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Connections.
    pub connections: usize,
    /// Bytes of requests that are not answered, beside a little of each connection.
    pub request_memory: usize,
    /// The most that there may be.
    pub request_memory_max: usize,
    /// Connections that wait for some of it.
    pub waiting: usize,
    /// The most bytes of answers that the clients of a shard may leave untaken.
    pub untaken_bytes_max: usize,
}

/// The connections of one thread.
pub struct Connections {
    limits: Limits,
    counts: Arc<Counts>,
    clock: Clock,
    /// Gives the machine that answers an input.
    deliver: Box<dyn Fn(Input)>,
    open: RefCell<BTreeMap<ClientId, Rc<Connection>>>,
    /// What their pipelines come to together.
    totals: Totals,
    traffic: RefCell<Traffic>,
}

struct Connection {
    id: ClientId,
    address: SocketAddr,
    pipeline: RefCell<Pipeline<Asked, Vec<Bytes>>>,
    /// Memory that only this connection's requests take.
    own: Arc<Semaphore>,
    reading: RefCell<Reading>,
    /// When there is something for the writer.
    answered: Notify,
    /// When the reader may look again whether it may read.
    room: Notify,
    tasks: RefCell<Vec<AbortHandle>>,
}

/// The frame that is not whole.
#[derive(Default)]
struct Reading {
    memory: Memory,
    /// Whether this connection's waiting was spoken of.
    told: bool,
}

/// What is kept of a request until it is answered.
struct Asked {
    api: ApiKey,
    correlation_id: i32,
    version: i16,
    /// When it was whole.
    at: Instant,
    /// Given back by being dropped.
    _memory: Memory,
}

/// A request's memory, until it is answered.
#[derive(Default)]
struct Memory {
    bytes: usize,
    permits: Vec<OwnedSemaphorePermit>,
}

impl Connections {
    /// None yet.
    pub fn new(
        limits: Limits,
        counts: Arc<Counts>,
        clock: Clock,
        deliver: impl Fn(Input) + 'static,
    ) -> Rc<Connections> {
        let deliver = Box::new(deliver);
        let (open, totals, traffic) = Default::default();
        let connections = Connections { limits, counts, clock, deliver, open, totals, traffic };
        let connections = Rc::new(connections);
        runtime::spawn(connections.clone().sweep());
        connections
    }

    /// Takes a new connection, or closes it where there are too many.
    pub fn open(self: &Rc<Self>, stream: TcpStream) {
        let (Ok(address), Ok(())) = (stream.peer_addr(), stream.set_nodelay(true)) else { return };
        if self.counts.connections.fetch_add(1, Ordering::Relaxed) >= self.limits.connections_max {
            self.counts.connections.fetch_sub(1, Ordering::Relaxed);
            let most = self.limits.connections_max;
            self.warn(Kind::TooManyConnections, address, || {
                format!("connection of {address} closed: there are {most} already")
            });
            return;
        }
        let id = ClientId(self.counts.next_client.fetch_add(1, Ordering::Relaxed));
        let now = self.clock.mono();
        let connection = Rc::new(Connection {
            id,
            address,
            pipeline: RefCell::new(Pipeline::new(now, self.totals.clone())),
            own: Arc::new(Semaphore::new(self.limits.pipeline.own_bytes)),
            reading: RefCell::default(),
            answered: Notify::new(),
            room: Notify::new(),
            tasks: RefCell::default(),
        });
        self.open.borrow_mut().insert(id, connection.clone());
        let (from, to) = stream.into_split();
        let reader = runtime::spawn(self.clone().read(connection.clone(), from));
        let writer = runtime::spawn(self.clone().write(connection.clone(), to));
        connection.tasks.borrow_mut().extend([reader, writer]);
    }

    /// Gives a connection the answer to one of its requests.
    pub fn reply(&self, client: ClientId, id: u64, mut response: Option<Response>) {
        let now = self.clock.mono();
        self.make_room(now);
        if let Some(response) = &mut response {
            self.totals.fit(response, &self.limits.pipeline);
        }
        let open = self.open.borrow();
        let Some(connection) = open.get(&client) else { return };
        let is_next = connection.pipeline.borrow_mut().answer(id, now, |asked| {
            let encode = |response| encode_response(asked.correlation_id, asked.version, response);
            let frame = response.as_ref().map(encode);
            let bytes = frame.iter().flatten().map(Bytes::len).sum();
            let took = Duration::from_nanos(now.0.saturating_sub(asked.at.0));
            self.traffic.borrow_mut().answered(asked.api, response.as_ref(), bytes, took);
            Some((frame?, bytes))
        });
        connection.room.notify_one();
        if is_next {
            connection.answered.notify_one();
        }
    }

    /// Closes connections whose clients leave too much untaken for too long, where the next answer would find no room.
    fn make_room(&self, now: Instant) {
        if !self.totals.is_too_much(&self.limits.pipeline) {
            return;
        }
        let closing = {
            let open = self.open.borrow();
            let held = open.values().filter_map(|connection| {
                let holding = connection.pipeline.borrow().holding(now)?;
                Some(((connection.id, connection.address), holding))
            });
            self.totals.give_up(&self.limits.pipeline, held)
        };
        let budget = self.limits.pipeline.shard_unsent_bytes_max;
        for ((client, address), holding) in closing {
            let (bytes, ms) = (holding.bytes, now.ms_since(holding.since));
            self.warn(Kind::LeavesAnswers, address, || {
                format!("connection of {address} closed: it has not taken {bytes} bytes of answers, some for {ms} ms, and those of all clients of this shard hold more than --response-memory-bytes, {budget}")
            });
            self.remove(client);
        }
    }

    /// What this thread has counted since its start, and what it holds now.
    pub fn traffic(&self) -> Traffic {
        let untaken_bytes = self.totals.unsent_bytes();
        Traffic { untaken_bytes, ..self.traffic.borrow().clone() }
    }

    /// Closes a connection for one of its requests: once those before it are answered; that one and all after it get none.
    pub fn close_at(&self, client: ClientId, id: u64, why: &'static str) {
        if let Some(connection) = self.open.borrow().get(&client) {
            connection.pipeline.borrow_mut().close_at(id, why, self.clock.mono());
            connection.read_no_more();
        }
    }

    /// Stops reading requests, waits a little for answers that are under way, and closes everything. Since other threads'
    /// answers may need this one, it waits for the connections of the whole node.
    pub async fn stop(&self, patience: Duration) {
        for connection in self.open.borrow().values() {
            connection.close("this node stops", self.clock.mono());
        }
        let end = self.clock.mono().after_ms(patience.as_millis() as u64);
        while self.clock.mono() < end && self.counts.connections.load(Ordering::Relaxed) > 0 {
            runtime::sleep(Duration::from_millis(2)).await;
        }
        let left: Vec<ClientId> = self.open.borrow().keys().copied().collect();
        left.into_iter().for_each(|client| self.remove(client));
    }

    fn closed_for(&self, address: SocketAddr, error: &dyn std::fmt::Display) {
        let line = || format!("connection of {address} closed: {error}");
        self.warn(Kind::BadRequest, address, line);
    }

    fn warn(&self, kind: Kind, from: SocketAddr, line: impl FnOnce() -> String) {
        self.counts.warnings.warn(self.clock.mono(), kind, from.ip(), line);
    }

    fn remove(&self, client: ClientId) {
        let Some(connection) = self.open.borrow_mut().remove(&client) else { return };
        self.counts.connections.fetch_sub(1, Ordering::Relaxed);
        connection.pipeline.borrow_mut().leave();
        (self.deliver)(Input::Hangup { client });
        connection.tasks.borrow().iter().for_each(AbortHandle::abort);
    }

    async fn read(self: Rc<Self>, connection: Rc<Connection>, from: OwnedReadHalf) {
        let mut frames = FrameReader::new(from, self.limits.request_bytes_max);
        match self.serve(&connection, &mut frames).await {
            Refusal::Frame(error @ FrameError::Length { .. }) => {
                self.closed_for(connection.address, &error);
            }
            Refusal::Request(error) => self.closed_for(connection.address, &error),
            // A client that has nothing more to say may still read.
            Refusal::Frame(error @ (FrameError::Closed | FrameError::Cut)) => {
                debug!("{}: {error}", connection.address);
            }
            Refusal::Frame(error @ FrameError::Io(_)) => {
                debug!("{}: {error}", connection.address);
                return self.remove(connection.id);
            }
        }
        // The end of what is read does not cost the answers to what came before.
        connection.close("nothing more is read", self.clock.mono());
    }

    async fn serve(&self, connection: &Connection, frames: &mut FrameReader) -> Refusal {
        let mut context = Arc::new(ClientContext::default());
        loop {
            while !connection.may_read(&self.limits) {
                connection.room.notified().await;
            }
            match frames.ready() {
                Ok(Some(frame)) => {
                    self.reserve(connection, frame.len()).await;
                    let memory = std::mem::take(&mut connection.reading.borrow_mut().memory);
                    if let Err(error) = self.request(connection, frame, memory, &mut context) {
                        return Refusal::Request(error);
                    }
                    continue;
                }
                Ok(None) => {
                    connection.pipeline.borrow_mut().grow(frames.begun(), self.clock.mono());
                    self.reserve(connection, frames.growth()).await;
                }
                Err(error) => return Refusal::Frame(error),
            }
            if let Err(error) = frames.read().await {
                return Refusal::Frame(error);
            }
            connection.pipeline.borrow_mut().heard(self.clock.mono());
        }
    }

    /// Lets the request that is being read have so many bytes in all, waiting for them if need be.
    async fn reserve(&self, connection: &Connection, bytes: usize) {
        let bytes = bytes.min(self.limits.request_memory_max);
        let held = connection.reading.borrow().memory.bytes;
        let Some(more) = bytes.checked_sub(held).filter(|more| *more > 0) else { return };
        let Counts { request_memory, overdraft, waiting, .. } = &*self.counts;
        let (more, own) = (more as u32, &connection.own);
        let at_once = own.clone().try_acquire_many_owned(more);
        let at_once = at_once.or_else(|_| request_memory.clone().try_acquire_many_owned(more));
        let (bytes, permit) = match at_once {
            Ok(permit) => (bytes, permit),
            Err(_) => {
                connection.pipeline.borrow_mut().wait(self.clock.mono());
                let waits = Waiting::new(waiting);
                let (bytes, permit) = select! {
                    biased;
                    permit = own.clone().acquire_many_owned(more) => (bytes, permit),
                    permit = overdraft.clone().acquire_owned() => (usize::MAX, permit),
                    permit = request_memory.clone().acquire_many_owned(more) => (bytes, permit),
                };
                drop(waits);
                connection.pipeline.borrow_mut().go_on(self.clock.mono());
                (bytes, permit.expect("it is never closed"))
            }
        };
        let memory = &mut connection.reading.borrow_mut().memory;
        memory.bytes = bytes;
        memory.permits.push(permit);
    }

    fn request(
        &self,
        connection: &Connection,
        frame: Bytes,
        memory: Memory,
        context: &mut Arc<ClientContext>,
    ) -> Result<(), RequestError> {
        let mut pipeline = connection.pipeline.borrow_mut();
        let request_bytes = frame.len();
        let (header, request) = match decode_request(frame) {
            Ok(decoded) => decoded,
            Err(RequestError::UnsupportedApiVersions { correlation_id }) => {
                let response = Response::ApiVersions(unsupported_api_versions_response());
                let answer = encode_response(correlation_id, 0, &response);
                let bytes = answer.iter().map(Bytes::len).sum();
                let mut traffic = self.traffic.borrow_mut();
                traffic.asked(ApiKey::ApiVersions, request_bytes);
                traffic.answered(ApiKey::ApiVersions, Some(&response), bytes, Duration::ZERO);
                pipeline.ask_answered(answer, bytes, self.clock.mono());
                connection.answered.notify_one();
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let name = header.client_id.as_deref().unwrap_or_default();
        if context.client_id != name {
            *context = Arc::new(ClientContext { client_id: name.into(), ..Default::default() });
        }
        let version = header.api_version;
        // A fetch may wait for as long as its client says, and keeps nothing of its frame.
        let fetch = fetched_by(&request, &self.limits.pipeline);
        let memory = if fetch.is_some() { Memory::default() } else { memory };
        let (api, at) = (request.api_key(), self.clock.mono());
        self.traffic.borrow_mut().asked(api, request_bytes);
        let correlation_id = header.correlation_id;
        let asked = Asked { api, correlation_id, version, at, _memory: memory };
        let (client, id) = (connection.id, pipeline.next_id());
        pipeline.ask(asked, request_bytes, fetch);
        let context = context.clone();
        (self.deliver)(Input::Request { client, id, version, request, context });
        Ok(())
    }

    async fn write(self: Rc<Self>, connection: Rc<Connection>, mut to: OwnedWriteHalf) {
        let mut out = VecDeque::new();
        loop {
            while let Some(frame) = connection.next_answer() {
                push_frame(&mut out, frame);
            }
            if out.is_empty() {
                // What needed no answer has left its place.
                connection.room.notify_one();
                if let Some(why) = connection.pipeline.borrow().over() {
                    debug!("{}: {why}", connection.address);
                    break;
                }
                connection.answered.notified().await;
                continue;
            }
            while !out.is_empty() {
                connection.pipeline.borrow_mut().offer(self.clock.mono());
                if let Err(error) = write_some(&mut to, &mut out).await {
                    debug!("{}: {error}", connection.address);
                    self.remove(connection.id);
                    return;
                }
            }
            connection.pipeline.borrow_mut().taken(self.clock.mono());
            connection.room.notify_one();
        }
        self.remove(connection.id);
    }

    /// Closes what waits too long.
    async fn sweep(self: Rc<Self>) {
        loop {
            runtime::sleep(SWEEP).await;
            let now = self.clock.mono();
            let late: Vec<(ClientId, SocketAddr, &str)> = self
                .open
                .borrow()
                .values()
                .filter_map(|c| Some((c.id, c.address, c.is_late(now, &self.limits)?)))
                .collect();
            for (client, address, why) in late {
                debug!("{address}: {why}");
                self.remove(client);
            }
            self.relieve(now);
        }
    }

    /// Where requests wait for memory, says so once for each connection and takes it from requests that have stopped growing.
    fn relieve(&self, now: Instant) {
        if self.counts.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let budget = self.limits.request_memory_max;
        let mut stalled = Vec::new();
        for connection in self.open.borrow().values() {
            let mut reading = connection.reading.borrow_mut();
            let pipeline = connection.pipeline.borrow();
            if pipeline.waits_since().is_some_and(|at| now.ms_since(at) > WAIT_MS) && !reading.told
            {
                reading.told = true;
                let address = connection.address;
                self.warn(Kind::WaitsForMemory, address, || {
                    format!("connection of {address} waits: requests that are not answered hold all of --request-memory-bytes, {budget}")
                });
            }
            if pipeline.has_stalled(now, reading.memory.bytes, &self.limits.pipeline) {
                stalled.push((connection.id, connection.address));
            }
        }
        for (client, address) in stalled {
            let ms = self.limits.pipeline.stalled_ms_max;
            self.warn(Kind::HoldsMemory, address, || {
                format!("connection of {address} closed: its request has not grown for {ms} ms and others wait for the memory that it holds")
            });
            self.remove(client);
        }
    }
}

/// One more connection that waits for memory, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Waiting<'_> {
    fn new(count: &AtomicUsize) -> Waiting<'_> {
        count.fetch_add(1, Ordering::Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a connection is not read any further.
enum Refusal {
    Frame(FrameError),
    Request(RequestError),
}

impl Connection {
    /// Reads no more; the writer closes once nothing waits for an answer.
    fn close(&self, why: &'static str, now: Instant) {
        self.pipeline.borrow_mut().close(why, now);
        self.read_no_more();
    }

    /// What was begun is given up, with the memory that it has or waits for.
    fn read_no_more(&self) {
        self.answered.notify_one();
        self.reading.take();
        if let Some(reader) = self.tasks.borrow().first() {
            reader.abort();
        }
    }

    fn next_answer(&self) -> Option<Vec<Bytes>> {
        self.pipeline.borrow_mut().next_answer()
    }

    fn may_read(&self, limits: &Limits) -> bool {
        self.pipeline.borrow().may_read(&limits.pipeline)
    }

    fn is_late(&self, now: Instant, limits: &Limits) -> Option<&'static str> {
        self.pipeline.borrow().late(now, &limits.pipeline)
    }
}
