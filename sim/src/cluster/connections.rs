//! Clients' connections: what net's reader and writer do with sockets, done with the queue.
//!
//! Core's `Pipeline` says when requests are read and which answer is next, as it does in production. A client that has stopped
//! reading takes nothing: the answers that are offered to it wait, those after them wait in the pipeline, and what it asks
//! meanwhile waits unread. Judged are the order of answers, how much of them waits for a client and for all clients of a shard,
//! who is closed for it, and for how long they wait.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use milena_core::config::PipelineConfig;
use milena_core::pipeline::{Pipeline, fetched_by};
use milena_core::{ClientId, Input, Instant};
use milena_wire::{ApiKey, Request, Response};

use super::{Cluster, Happening};
use crate::check::marks::Seen;
use crate::check::{Checked, Violation};
use crate::client::frames;
use crate::queue::{MS, Time};

/// The answer to a request.
#[derive(Debug)]
struct Answer {
    /// By its connection.
    id: u64,
    /// By its client.
    number: u64,
    /// None where the protocol has none.
    response: Option<Box<Response>>,
}

/// From the moment that more may be read until the reader has it.
const READER_WAKES: Time = 2_000;
/// A client that takes nothing may keep its connection for so much longer than it is allowed: it is looked for now and then.
const SLACK: Time = 50 * MS;
/// What each frame takes beside its records, more or less.
const FRAME: usize = 100;

/// A client's connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: usize,
    pub(super) node: usize,
    pub(super) open: bool,
    /// Whether its machine was told that it is gone: nothing that it asked arrives any more.
    pub(super) hung_up: bool,
    pub(super) life: u32,
    pub(super) shard: u16,
    last_to_node: Time,
    last_to_client: Time,
    pipeline: Pipeline<u64, Answer>,
    /// Requests that have come and are not read.
    unread: VecDeque<(u64, i16, Request)>,
    /// Answers that the client is offered and has not taken.
    offered: VecDeque<Answer>,
    offered_at: Option<Time>,
    /// Requests that were read, whose answers have not come to the client.
    owed: VecDeque<(u64, ApiKey)>,
    /// Answers that the client has not taken, by request: since when, and their bytes.
    untaken: BTreeMap<u64, (Time, usize)>,
}

impl Connection {
    fn new(
        client: usize,
        node: usize,
        life: u32,
        shard: u16,
        pipeline: Pipeline<u64, Answer>,
    ) -> Connection {
        Connection {
            client,
            node,
            open: true,
            hung_up: false,
            life,
            shard,
            last_to_node: 0,
            last_to_client: 0,
            pipeline,
            unread: VecDeque::new(),
            offered: VecDeque::new(),
            offered_at: None,
            owed: VecDeque::new(),
            untaken: BTreeMap::new(),
        }
    }

    /// Bytes that the client has not taken.
    fn held(&self) -> usize {
        self.untaken.values().map(|(_, bytes)| bytes).sum()
    }

    /// Each of them, times how long it has waited.
    fn cost(&self, now: Time) -> u128 {
        self.untaken.values().map(|(since, bytes)| *bytes as u128 * u128::from(now - since)).sum()
    }

    /// Nobody takes anything any more.
    fn shut(&mut self) {
        self.open = false;
        self.pipeline.leave();
        self.offered.clear();
        self.untaken.clear();
    }
}

impl Cluster {
    /// A client sends a request over its connection to a node, which is opened where there is none.
    pub(super) fn ask(
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

    pub(super) fn connect(&mut self, client: usize, node: usize) -> ClientId {
        if let Some(connection) = self.clients[client].connections[node] {
            return connection;
        }
        let connection = ClientId(self.connections.len() as u64);
        let (life, shards) = (self.nodes[node].life, u64::from(self.nodes[node].shards));
        let shard = (connection.0 % shards.max(1)) as u16;
        let totals = self.totals.entry((node, shard)).or_default().clone();
        let pipeline = Pipeline::new(Instant(self.now), totals);
        self.connections.push(Connection::new(client, node, life, shard, pipeline));
        self.clients[client].connections[node] = Some(connection);
        connection
    }

    /// A request has come to a node.
    pub(super) fn on_request(
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
    pub(super) fn read(&mut self, connection: ClientId) -> Checked {
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
                if !known.untaken.is_empty() {
                    self.checks.marks.seen(Seen::ReadNoMore);
                }
                return Ok(());
            }
            let Some((number, version, request)) = known.unread.pop_front() else {
                return Ok(());
            };
            must_have_room(known, &config)?;
            let id = known.pipeline.next_id();
            let fetch = fetched_by(&request, &config);
            known.pipeline.heard(Instant(self.now));
            known.pipeline.ask(number, request_bytes(&request), fetch);
            known.owed.push_back((number, request.api_key()));
            let context = self.context.clone();
            let input = Input::Request { client: connection, id, version, request, context };
            self.step(node, 1 + usize::from(shard), input)?;
        }
    }

    /// A machine answers.
    pub(super) fn reply(
        &mut self,
        node: usize,
        connection: ClientId,
        id: u64,
        mut response: Option<Response>,
    ) -> Checked {
        let known = self.connections.get(connection.0 as usize);
        let Some(known) = known.filter(|known| known.node == node) else { return Ok(()) };
        let shard = known.shard;
        self.make_room(node, shard)?;
        if let Some(response) = &mut response {
            let config = self.schedule.setup.pipeline.config();
            self.totals[&(node, shard)].fit(response, &config);
        }
        let known = &mut self.connections[connection.0 as usize];
        let now = Instant(self.now);
        if !known.open {
            // Nobody takes it, and what was sent before the end goes on being read.
            known.pipeline.answer(id, now, |_| None);
            while known.pipeline.next_answer().is_some() {}
            known.pipeline.taken(now);
            self.read_on(connection);
            return Ok(());
        }
        let bytes = response.as_ref().map_or(0, response_bytes);
        let is_next = known.pipeline.answer(id, now, |number| {
            known.untaken.insert(id, (now.0, bytes));
            Some((Answer { id, number, response: response.map(Box::new) }, bytes))
        });
        if is_next {
            self.write(connection);
        }
        self.read_on(connection);
        Ok(())
    }

    /// Closes connections of a shard whose clients leave too much untaken, as core has it, before it keeps another answer.
    ///
    /// # Errors
    /// If too much is left, or others are closed than those who have cost the most.
    fn make_room(&mut self, node: usize, shard: u16) -> Checked {
        let config = self.schedule.setup.pipeline.config();
        let Some(totals) = self.totals.get(&(node, shard)) else { return Ok(()) };
        let opened = self.clients.iter().filter_map(|client| client.connections[node]);
        let opened = opened.filter(|connection| {
            let known = &self.connections[connection.0 as usize];
            known.open && known.shard == shard
        });
        let mut stay: Vec<ClientId> = opened.collect();
        let mut closing = Vec::new();
        if totals.is_too_much(&config) {
            let held = stay.iter().filter_map(|connection| {
                let pipeline = &self.connections[connection.0 as usize].pipeline;
                Some((*connection, pipeline.holding(Instant(self.now))?))
            });
            closing.extend(totals.give_up(&config, held).into_iter().map(|(given_up, _)| given_up));
            stay.retain(|connection| !closing.contains(connection));
        }
        let weigh = |connection: &ClientId| {
            let known = &self.connections[connection.0 as usize];
            (known.cost(self.now), known.held())
        };
        let closed: Vec<(u128, usize)> = closing.iter().map(weigh).collect();
        let left: Vec<(u128, usize)> = stay.iter().map(weigh).collect();
        for connection in closing {
            let client = self.connections[connection.0 as usize].client;
            self.trace(node, &format!("closes a connection of client {client}: too much untaken"));
            self.checks.marks.seen(Seen::ClosedForMemory);
            self.end_connection(connection);
        }
        must_leave_room(&closed, &left, config.shard_unsent_bytes_max)
    }

    /// A machine closes a connection for one of its requests.
    pub(super) fn close_at(&mut self, connection: ClientId, id: u64, why: &'static str) {
        let known = &mut self.connections[connection.0 as usize];
        known.unread.clear();
        known.untaken.split_off(&id);
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
            for Answer { id, number, response } in std::mem::take(&mut known.offered) {
                known.untaken.remove(&id);
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
    pub(super) fn takes_again(&mut self, client: usize, node: usize) {
        if let Some(connection) = self.clients[client].connections[node] {
            self.write(connection);
            self.read_on(connection);
        }
    }

    /// An answer has come to its client: that of the oldest request that was read.
    pub(super) fn on_reply(
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
    pub(super) fn look_at_connections(&mut self) -> Checked {
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
    pub(super) fn close(&mut self, connection: ClientId) {
        let known = &mut self.connections[connection.0 as usize];
        if known.open {
            known.shut();
            let arrival = self.client_links.to_node(self.now, known.client, known.node, 200_000);
            let at = arrival.max(known.last_to_node + 1);
            self.queue.push(at, Happening::HangUp { connection });
        }
    }

    /// The node's end of a connection is closed, by a machine or from outside: the client learns of it, and so does the machine,
    /// once, as from every driver.
    pub(super) fn end_connection(&mut self, connection: ClientId) {
        if self.connections[connection.0 as usize].open {
            self.break_connection(connection);
            self.queue.push(self.now + 100_000, Happening::HangUp { connection });
        }
    }

    /// A connection breaks; its client learns of it soon.
    pub(super) fn break_connection(&mut self, connection: ClientId) {
        let known = &mut self.connections[connection.0 as usize];
        if known.open {
            known.shut();
            let arrival = self.client_links.to_client(self.now, known.client, known.node, 200_000);
            let at = arrival.max(known.last_to_client + 1);
            self.queue.push(at, Happening::Broken { connection });
        }
    }
}

/// Nothing more is read of a client that leaves too much untaken.
fn must_have_room(known: &Connection, config: &PipelineConfig) -> Checked {
    let (client, held, most) = (known.client, known.held(), config.unsent_bytes_max);
    if held > most {
        let story = format!(
            "client {client} has not taken {held} bytes, of {most} at most, and is read nevertheless"
        );
        return Err(Violation::new("room", story));
    }
    Ok(())
}

/// Of what clients have cost and hold: those who stay find room, those who are closed have cost no less, and none of them could
/// stay as well.
fn must_leave_room(closed: &[(u128, usize)], left: &[(u128, usize)], most: usize) -> Checked {
    let held: usize = left.iter().map(|(_, bytes)| bytes).sum();
    let dearest = left.iter().max();
    let story = match closed.iter().min_by_key(|(cost, bytes)| (*cost, Reverse(*bytes))) {
        _ if held > most => {
            format!("{held} bytes of a shard's answers are left, of {most} at most")
        }
        Some(cheapest) if held + cheapest.1 <= most => {
            format!(
                "one is closed without need: {cheapest:?} beside {held} bytes, of {most} at most"
            )
        }
        Some((cost, _)) if dearest.is_some_and(|(dearest, _)| dearest > cost) => {
            format!("one is closed that has cost {cost}, and another stays: {dearest:?}")
        }
        _ => return Ok(()),
    };
    Err(Violation::new("room", story))
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

    /// A cluster one node of which is up, with one shard.
    fn with_a_node(settings: PipelineSettings) -> Cluster {
        let mut schedule = crate::scenario::named("steady").unwrap().expand(0);
        schedule.setup.pipeline = settings;
        schedule.setup.nodes[NODE].shards = 1;
        let mut cluster = Cluster::new(schedule, false);
        while !cluster.nodes[NODE].is_up() {
            let (at, sequence, happening) = cluster.queue.pop().unwrap();
            cluster.now = at;
            cluster.happen(sequence, happening).unwrap();
        }
        cluster.queue = Queue::default();
        cluster
    }

    /// A client asks much that is answered at once, and reads nothing.
    fn ask_in_vain(cluster: &mut Cluster, client: usize, requests: usize) -> ClientId {
        cluster.client_links.stop_reading(client, NODE, Time::MAX);
        for id in 0..requests as u64 {
            cluster.ask(client, NODE, id, 3, Request::ApiVersions(Default::default()));
        }
        cluster.clients[client].connections[NODE].unwrap()
    }

    /// A node that is up, and a connection to it over which a client has asked much that is answered at once, and reads nothing.
    fn asked_in_vain() -> (Cluster, ClientId) {
        let mut cluster = with_a_node(PipelineSettings {
            unsent_bytes_max: 250,
            frame_ms_max: 400,
            ..Default::default()
        });
        let connection = ask_in_vain(&mut cluster, CLIENT, REQUESTS);
        cluster.until(cluster.now + 300 * MS);
        let known = &cluster.connections[connection.0 as usize];
        assert_eq!((known.held(), known.owed.len()), (3 * FRAME, 3), "more than 250 bytes wait");
        assert_eq!(known.unread.len(), REQUESTS - 3);
        (cluster, connection)
    }

    /// A node two of whose clients read nothing, after a third has asked it something: they hold as much as may be and a little
    /// more.
    fn two_in_vain() -> (Cluster, [ClientId; 2]) {
        let mut cluster =
            with_a_node(PipelineSettings { shard_unsent_bytes_max: 350, ..Default::default() });
        let first = ask_in_vain(&mut cluster, 0, 2);
        cluster.until(cluster.now + 20 * MS);
        let second = ask_in_vain(&mut cluster, 1, 2);
        cluster.until(cluster.now + 20 * MS);
        ask(&mut cluster);
        (cluster, [first, second])
    }

    /// A third client asks something.
    fn ask(cluster: &mut Cluster) {
        cluster.ask(2, NODE, 0, 3, Request::ApiVersions(Default::default()));
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
        assert_eq!((known.held(), known.owed.len(), known.unread.len()), (0, 0, 0));
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
    fn who_gives_a_request_up_closes_its_connection() {
        let (mut cluster, connection) = asked_in_vain();
        let (now, request) = (cluster.now, Request::ApiVersions(Default::default()));
        let id = cluster.clients[CLIENT].session.send(now, NODE, 3, request);
        cluster.clients[CLIENT].on_deadline(now, id);
        cluster.grant(CLIENT);
        assert!(!cluster.connections[connection.0 as usize].open);
        cluster.until(cluster.now + 300 * MS);
        assert!(cluster.connections[connection.0 as usize].hung_up, "its node hears of it");
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

    #[test]
    fn who_leaves_the_most_for_the_longest_is_closed_for_the_others() {
        let (mut cluster, [first, second]) = two_in_vain();
        cluster.until(cluster.now + 20 * MS);
        let is_open = |cluster: &Cluster, id: ClientId| cluster.connections[id.0 as usize].open;
        assert!(!is_open(&cluster, first) && is_open(&cluster, second));
        let third = cluster.clients[2].connections[NODE].unwrap();
        assert!(cluster.connections[third.0 as usize].owed.is_empty(), "it is answered");
        assert_eq!(cluster.connections[first.0 as usize].held(), 0);
        assert_eq!(cluster.connections[second.0 as usize].held(), 2 * FRAME);
    }

    #[test]
    fn a_shard_that_keeps_too_much_is_noticed() {
        let (mut cluster, [first, _]) = two_in_vain();
        cluster.connections[first.0 as usize].pipeline.leave();
        assert_eq!(cluster.make_room(NODE, 0).unwrap_err().property, "room");
        let property = |closed: &[_], left: &[_]| {
            must_leave_room(closed, left, 10).map_err(|violation| violation.property)
        };
        assert_eq!(property(&[], &[(5, 4), (3, 6)]), Ok(()));
        assert_eq!(property(&[], &[(5, 4), (3, 7)]), Err("room"));
        assert_eq!(property(&[(5, 4)], &[(3, 7)]), Ok(()));
        assert_eq!(property(&[(2, 4)], &[(3, 7)]), Err("room"), "who costs more stays");
        assert_eq!(property(&[(5, 4)], &[(3, 6)]), Err("room"), "both could stay");
    }
}
