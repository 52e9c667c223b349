//! Clients' connections: what net's reader and writer do with sockets, done with the queue.
//!
//! Core's `Pipeline` says when requests are read and which answer is next, as it does in production. A client that has stopped
//! reading takes nothing: the answers that are offered to it wait, those after them wait in the pipeline, and what it asks
//! meanwhile waits unread. Judged are the order of answers, how much of them waits for a client, and for how long.

use std::collections::VecDeque;

use milena_core::config::PipelineConfig;
use milena_core::pipeline::{self, Pipeline};
use milena_core::{ClientId, Input, Instant};
use milena_wire::{ApiKey, Request, Response};

use crate::check::marks::Seen;
use crate::check::{Checked, Violation};
use crate::client::frames;
use crate::cluster::{Cluster, Happening};
use crate::queue::{MS, Time};

/// A request's number by its client, and the answer; none where the protocol has none.
type Answer = (u64, Option<Box<Response>>);

/// From the moment that more may be read until the reader has it.
const READER_WAKES: Time = 2_000;
/// A client that takes nothing may keep its connection for so much longer than it is allowed: it is looked for now and then.
const SLACK: Time = 50 * MS;
/// What each frame takes beside its records, more or less.
const FRAME: usize = 100;

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) client: usize,
    pub(crate) node: usize,
    pub(crate) open: bool,
    /// Whether its machine was told that it is gone: nothing that it asked arrives any more.
    pub(crate) hung_up: bool,
    pub(crate) life: u32,
    pub(crate) shard: u16,
    last_to_node: Time,
    last_to_client: Time,
    pipeline: Pipeline<u64, Answer>,
    /// Requests that have come and are not read.
    unread: VecDeque<(u64, i16, Request)>,
    /// Answers that the client is offered and has not taken.
    offered: VecDeque<Answer>,
    offered_at: Option<Time>,
    /// Requests that were read, whose answers have not come to the client, and bytes of answers that it has not taken.
    owed: VecDeque<(u64, ApiKey)>,
    held: usize,
}

impl Connection {
    fn new(client: usize, node: usize, life: u32, shard: u16, now: Time) -> Connection {
        Connection {
            client,
            node,
            open: true,
            hung_up: false,
            life,
            shard,
            last_to_node: 0,
            last_to_client: 0,
            pipeline: Pipeline::new(Instant(now)),
            unread: VecDeque::new(),
            offered: VecDeque::new(),
            offered_at: None,
            owed: VecDeque::new(),
            held: 0,
        }
    }
}

impl Cluster {
    /// A client sends a request over its connection to a node, which is opened where there is none.
    pub(crate) fn ask(
        &mut self,
        client: usize,
        node: usize,
        id: u64,
        version: i16,
        request: Request,
    ) {
        let connection = self.connect(client, node);
        let delay = self.clients[client].session.stream.delay(120_000);
        let known = &mut self.connections[connection.0 as usize];
        let arrival = self.client_links.to_node(self.now, client, node, delay);
        known.last_to_node = arrival.max(known.last_to_node + 1);
        let request = Box::new(request);
        let arrival = Happening::Request { connection, id, version, request };
        self.queue.push(known.last_to_node, arrival);
    }

    pub(crate) fn connect(&mut self, client: usize, node: usize) -> ClientId {
        if let Some(connection) = self.clients[client].connections[node] {
            return connection;
        }
        let connection = ClientId(self.connections.len() as u64);
        let (life, shards) = (self.nodes[node].life, u64::from(self.nodes[node].shards));
        let shard = (connection.0 % shards.max(1)) as u16;
        self.connections.push(Connection::new(client, node, life, shard, self.now));
        self.clients[client].connections[node] = Some(connection);
        connection
    }

    /// A request has come to a node.
    pub(crate) fn on_request(
        &mut self,
        connection: ClientId,
        id: u64,
        version: i16,
        request: Request,
    ) -> Checked {
        // What was sent before its client closed the connection still arrives.
        let known = &mut self.connections[connection.0 as usize];
        if known.hung_up {
            return Ok(());
        }
        let encoded = self.clients[known.client].session.encoded;
        let request = if encoded { frames::request(version, &request)? } else { request };
        known.unread.push_back((id, version, request));
        self.read(connection)
    }

    /// Reads what has come, as long as the pipeline lets it.
    pub(crate) fn read(&mut self, connection: ClientId) -> Checked {
        let config = self.schedule.setup.pipeline.config();
        loop {
            let known = &mut self.connections[connection.0 as usize];
            let (node, shard) = (known.node, known.shard);
            if known.hung_up || known.unread.is_empty() {
                return Ok(());
            }
            if self.nodes[node].life != known.life || !self.nodes[node].is_up() {
                self.break_connection(connection);
                return Ok(());
            }
            if !known.pipeline.may_read(&config) {
                if known.held > 0 {
                    self.checks.marks.seen(Seen::ReadNoMore);
                }
                return Ok(());
            }
            let Some((number, version, request)) = known.unread.pop_front() else { return Ok(()) };
            must_have_room(known, &config)?;
            let id = known.pipeline.next_id();
            let fetch = pipeline::fetched_by(&request, &config);
            known.pipeline.heard(Instant(self.now));
            known.pipeline.ask(number, request_bytes(&request), fetch);
            known.owed.push_back((number, request.api_key()));
            let context = self.context.clone();
            let input = Input::Request { client: connection, id, version, request, context };
            self.step(node, 1 + usize::from(shard), input)?;
        }
    }

    /// A machine answers.
    pub(crate) fn reply(
        &mut self,
        node: usize,
        connection: ClientId,
        id: u64,
        response: Option<Response>,
    ) {
        let Some(known) = self.connections.get_mut(connection.0 as usize) else { return };
        if known.node != node {
            return;
        }
        if !known.open {
            // Nobody takes it, and what was sent before the end goes on being read.
            known.pipeline.answer(id, |_| None);
            while known.pipeline.next_answer().is_some() {}
            known.pipeline.taken(Instant(self.now));
            known.offered.clear();
            known.held = 0;
            self.read_on(connection);
            return;
        }
        let bytes = response.as_ref().map_or(0, response_bytes);
        let answer = |number| Some(((number, response.map(Box::new)), bytes));
        let is_next = known.pipeline.answer(id, answer);
        known.held += bytes;
        if is_next {
            self.write(connection);
        }
        self.read_on(connection);
    }

    /// A machine closes a connection for one of its requests.
    pub(crate) fn close_at(&mut self, connection: ClientId, id: u64, why: &'static str) {
        let known = &mut self.connections[connection.0 as usize];
        known.unread.clear();
        known.pipeline.close_at(id, why, Instant(self.now));
        self.write(connection);
    }

    /// Offers the client what is to be sent, and sends what it takes.
    fn write(&mut self, connection: ClientId) {
        loop {
            let known = &mut self.connections[connection.0 as usize];
            if !known.open {
                return;
            }
            if known.offered.is_empty() {
                known.offered.extend(std::iter::from_fn(|| known.pipeline.next_answer()));
                if known.offered.is_empty() {
                    if known.pipeline.over().is_some() {
                        self.end_connection(connection);
                    }
                    return;
                }
                known.pipeline.offer(Instant(self.now));
                known.offered_at = Some(self.now);
            }
            let (client, node) = (known.client, known.node);
            if !self.client_links.reads(self.now, client, node) {
                self.checks.marks.seen(Seen::AnswersHeld);
                return;
            }
            for (number, response) in std::mem::take(&mut known.offered) {
                known.held -= response.as_deref().map_or(0, response_bytes);
                let delay = self.clients[client].session.stream.delay(120_000);
                let arrival = self.client_links.to_client(self.now, client, node, delay);
                known.last_to_client = arrival.max(known.last_to_client + 1);
                let reply = Happening::Reply { connection, id: number, response };
                self.queue.push(known.last_to_client, reply);
            }
            known.offered_at = None;
            known.pipeline.taken(Instant(self.now));
        }
    }

    /// Lets the reader look again, where something waits for it.
    fn read_on(&mut self, connection: ClientId) {
        if !self.connections[connection.0 as usize].unread.is_empty() {
            self.queue.push(self.now + READER_WAKES, Happening::Read { connection });
        }
    }

    /// A client may take again what it did not take from a node.
    pub(crate) fn takes_again(&mut self, client: usize, node: usize) {
        if let Some(connection) = self.clients[client].connections[node] {
            self.write(connection);
            self.read_on(connection);
        }
    }

    /// An answer has come to its client: that of the oldest request that was read.
    pub(crate) fn on_reply(
        &mut self,
        connection: ClientId,
        id: u64,
        response: Option<Box<Response>>,
    ) -> Checked {
        let known = &mut self.connections[connection.0 as usize];
        if !known.open {
            return Ok(());
        }
        let (client, owed) = (known.client, known.owed.pop_front());
        let api = response.as_ref().map(|response| response.api_key());
        if !owed.is_some_and(|(next, asked)| next == id && api.is_none_or(|api| api == asked)) {
            let story = format!(
                "client {client} was answered {id} with {api:?} where {owed:?} is the next answer"
            );
            return Err(Violation::new("order", story));
        }
        let session = &self.clients[client].session;
        let response = match (response, session.version(id).filter(|_| session.encoded)) {
            (Some(response), Some(version)) => Some(frames::response(version, &response)?),
            (response, _) => response.map(|response| *response),
        };
        self.clients[client].on_reply(self.now, id, response, &mut self.history)?;
        self.grant(client);
        Ok(())
    }

    /// Closes connections on which something waits for too long, as core has it.
    ///
    /// # Errors
    /// If one stays open whose client takes nothing.
    pub(crate) fn look_at_connections(&mut self) -> Checked {
        let config = self.schedule.setup.pipeline.config();
        for client in 0..self.clients.len() {
            for node in 0..self.nodes.len() {
                let Some(connection) = self.clients[client].connections[node] else { continue };
                let known = &self.connections[connection.0 as usize];
                if !known.open {
                    continue;
                }
                if let Some(why) = known.pipeline.late(Instant(self.now), &config) {
                    self.trace(node, &format!("closes a connection of client {client}: {why}"));
                    self.checks.marks.seen(Seen::ClosedAsLate);
                    self.end_connection(connection);
                    continue;
                }
                let waits = known.offered_at.map_or(0, |since| self.now - since);
                if waits > config.frame_ms_max * MS + SLACK {
                    let ms = waits / MS;
                    let story = format!("client {client} has taken nothing for {ms} ms");
                    return Err(Violation::new("stall", story));
                }
            }
        }
        Ok(())
    }

    /// The client closes a connection; its node learns of it later.
    pub(crate) fn close(&mut self, connection: ClientId) {
        let known = &mut self.connections[connection.0 as usize];
        self.clients[known.client].connections[known.node] = None;
        if std::mem::take(&mut known.open) {
            let arrival = self.client_links.to_node(self.now, known.client, known.node, 200_000);
            let at = arrival.max(known.last_to_node + 1);
            self.queue.push(at, Happening::HangUp { connection });
        }
    }

    /// The node's end of a connection is closed, by a machine or from outside: the client learns of it, and so does the machine,
    /// once, as from every driver.
    pub(crate) fn end_connection(&mut self, connection: ClientId) {
        if self.connections[connection.0 as usize].open {
            self.break_connection(connection);
            self.queue.push(self.now + 100_000, Happening::HangUp { connection });
        }
    }

    /// A connection breaks; its client learns of it soon.
    pub(crate) fn break_connection(&mut self, connection: ClientId) {
        let known = &mut self.connections[connection.0 as usize];
        if known.open {
            known.open = false;
            let arrival = self.client_links.to_client(self.now, known.client, known.node, 200_000);
            let at = arrival.max(known.last_to_client + 1);
            self.queue.push(at, Happening::Broken { connection });
        }
    }
}

/// Nothing more is read of a client that leaves too much untaken.
fn must_have_room(known: &Connection, config: &PipelineConfig) -> Checked {
    if known.held > config.unsent_bytes_max {
        let (client, held, most) = (known.client, known.held, config.unsent_bytes_max);
        let story = format!(
            "client {client} has not taken {held} bytes, of {most} at most, and is read nevertheless"
        );
        return Err(Violation::new("room", story));
    }
    Ok(())
}

fn request_bytes(request: &Request) -> usize {
    let Request::Produce(produce) = request else { return FRAME };
    let partitions = produce.topic_data.iter().flat_map(|topic| &topic.partition_data);
    let records = partitions.filter_map(|partition| partition.records.as_ref());
    FRAME + records.map(|records| records.len()).sum::<usize>()
}

fn response_bytes(response: &Response) -> usize {
    let Response::Fetch(fetch) = response else { return FRAME };
    let partitions = fetch.responses.iter().flat_map(|topic| &topic.partitions);
    let records = partitions.filter_map(|partition| partition.records.as_ref());
    FRAME + records.map(|records| records.len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Queue;
    use crate::schedule::PipelineSettings;

    const CLIENT: usize = 0;
    const NODE: usize = 0;
    const REQUESTS: usize = 10;

    impl Cluster {
        /// Lets happen what is to happen before a time.
        fn until(&mut self, end: Time) {
            while let Some((at, sequence, happening)) =
                self.queue.pop().filter(|(at, ..)| *at < end)
            {
                self.now = at;
                self.happen(sequence, happening).unwrap();
            }
            self.now = end;
        }
    }

    /// A node that is up, and a connection to it over which a client has asked much that is answered at once, and reads nothing.
    fn asked_in_vain() -> (Cluster, ClientId) {
        let mut schedule = crate::scenario::named("steady").unwrap().expand(0);
        schedule.setup.pipeline = PipelineSettings { unsent_bytes_max: 250, frame_ms_max: 400 };
        let mut cluster = Cluster::new(schedule, false);
        while !cluster.nodes[NODE].is_up() {
            let (at, sequence, happening) = cluster.queue.pop().unwrap();
            cluster.now = at;
            cluster.happen(sequence, happening).unwrap();
        }
        cluster.queue = Queue::default();
        cluster.client_links.stop_reading(CLIENT, NODE, Time::MAX);
        for id in 0..REQUESTS as u64 {
            cluster.ask(CLIENT, NODE, id, 3, Request::ApiVersions(Default::default()));
        }
        let connection = cluster.clients[CLIENT].connections[NODE].unwrap();
        cluster.until(cluster.now + 300 * MS);
        let known = &cluster.connections[connection.0 as usize];
        assert_eq!((known.held, known.owed.len()), (3 * FRAME, 3), "more than 250 bytes wait");
        assert_eq!(known.unread.len(), REQUESTS - 3);
        (cluster, connection)
    }

    #[test]
    fn who_reads_again_gets_every_answer() {
        let (mut cluster, connection) = asked_in_vain();
        cluster.look_at_connections().unwrap();
        cluster.client_links.heal(cluster.now);
        cluster.takes_again(CLIENT, NODE);
        cluster.until(cluster.now + 300 * MS);
        cluster.look_at_connections().unwrap();
        let known = &cluster.connections[connection.0 as usize];
        assert_eq!((known.held, known.owed.len(), known.unread.len()), (0, 0, 0));
        assert!(known.open);
    }

    #[test]
    fn who_reads_nothing_for_too_long_is_given_up() {
        let (mut cluster, connection) = asked_in_vain();
        cluster.until(cluster.now + 120 * MS);
        cluster.look_at_connections().unwrap();
        assert!(!cluster.connections[connection.0 as usize].open);
        cluster.until(cluster.now + 100 * MS);
        assert_eq!(cluster.clients[CLIENT].connections[NODE], None, "its client learns of it");
    }

    #[test]
    fn an_answer_out_of_turn_and_a_client_that_is_spared_are_noticed() {
        let (mut cluster, connection) = asked_in_vain();
        let violation = cluster.on_reply(connection, 1, None).unwrap_err();
        assert_eq!(violation.property, "order");

        let (mut cluster, connection) = asked_in_vain();
        cluster.connections[connection.0 as usize].pipeline.offer(Instant(cluster.now));
        cluster.now += 200 * MS;
        assert_eq!(cluster.look_at_connections().unwrap_err().property, "stall");

        let (mut cluster, connection) = asked_in_vain();
        cluster.connections[connection.0 as usize].pipeline.taken(Instant(cluster.now));
        assert_eq!(cluster.read(connection).unwrap_err().property, "room");
    }
}
