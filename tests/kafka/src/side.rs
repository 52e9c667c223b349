//! One of the two brokers as a sequence sees it: a connection, and what its own identities are called on both sides.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::batches;
use crate::schema::Message;
use crate::tree;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(8);
/// How long a change of topics may take until it can be seen.
const SETTLE: Duration = Duration::from_secs(10);
/// Partitions of a topic at most.
pub const PARTITIONS_MAX: u64 = 3;
/// Ids that no topic has and that requests name.
pub const NOBODYS: [&str; 2] =
    ["0123456789abcdef0123456789abcdef", "000000000000000000000000000000ff"];
/// Topics that Kafka makes for its coordinators, when one is first looked for.
const KAFKAS: [&str; 3] = ["__consumer_offsets", "__transaction_state", "__share_group_state"];
const FETCH: i16 = 1;
const INIT_PRODUCER_ID: i16 = 22;
const ZERO: &str = "00000000000000000000000000000000";

/// Schemas by API number.
pub type Schemas = BTreeMap<i16, [Message; 2]>;

/// A request, with names in place of what differs from broker to broker.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Kafka's number of the API.
    pub api: i16,
    /// Of the request.
    pub version: i16,
    /// The body. `$id:NAME#GENERATION` is a topic's id, `$cluster` the cluster's, `$session` the last fetch session's,
    /// `$epoch` the one that the session's next fetch has, and `$producer:N` a producer's that was given.
    pub body: Value,
}

/// What came back.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A body.
    Body(Value),
    /// The broker closed the connection.
    Closed,
    /// Nothing came, and nothing should.
    Nothing,
}

/// A broker, a connection to it, and its names.
pub struct Side {
    port: u16,
    stream: Option<TcpStream>,
    correlation: i32,
    cluster: String,
    /// The latest time of a record that is not the broker's.
    latest: i64,
    /// The last fetch session, the epoch of its next request, and all sessions of the sequence.
    session: i64,
    epoch: i64,
    sessions: BTreeSet<i64>,
    /// Generations of topic ids by name, oldest first.
    ids: BTreeMap<String, Vec<String>>,
    /// Producer ids that were given in this sequence.
    producers: Vec<i64>,
}

impl Side {
    /// Connects and asks for the cluster's id.
    pub fn new(port: u16, schemas: &Schemas, latest: i64) -> Result<Side> {
        let mut side = Side {
            port,
            stream: None,
            correlation: 0,
            cluster: String::new(),
            latest,
            session: 0,
            epoch: 0,
            sessions: BTreeSet::new(),
            ids: BTreeMap::new(),
            producers: Vec::new(),
        };
        let begun = Instant::now();
        loop {
            let answer = side.ask(schemas, &metadata(Some(vec![])))?;
            if let Answer::Body(body) = &answer
                && body["brokers"].as_array().is_some_and(|brokers| !brokers.is_empty())
                && let Some(cluster) = body["cluster_id"].as_str()
            {
                side.cluster = cluster.to_owned();
                return Ok(side);
            }
            ensure!(begun.elapsed() < SETTLE * 3, "no broker in {answer:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Has Kafka make the topic that it has for the coordinators of a type, which it does when one is first looked for.
    pub fn find_coordinator(&mut self, schemas: &Schemas, key_type: i8) -> Result<()> {
        let begun = Instant::now();
        let body = json!({"key": "oracle", "key_type": key_type});
        let asked = Asked { api: 10, version: 3, body };
        loop {
            let answer = self.ask(schemas, &asked)?;
            if crate::compare::succeeded(&answer) {
                return Ok(());
            }
            ensure!(begun.elapsed() < SETTLE, "no coordinator in {answer:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Has a broker ask for its first producer ids: Kafka's makes the first producers come again until it has them.
    pub fn find_producer_id(&mut self, schemas: &Schemas) -> Result<()> {
        let begun = Instant::now();
        let body = json!({"transactional_id": null, "transaction_timeout_ms": 0});
        let asked = Asked { api: INIT_PRODUCER_ID, version: 0, body };
        loop {
            let answer = self.ask(schemas, &asked)?;
            if crate::compare::succeeded(&answer) {
                return Ok(());
            }
            ensure!(begun.elapsed() < SETTLE, "no producer id in {answer:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Begins a sequence: a new connection, and no names of the one before.
    pub fn begin(&mut self) {
        self.stream = None;
        (self.session, self.epoch) = (0, 0);
        self.ids.clear();
        self.producers.clear();
    }

    /// Ends the sequence's fetch sessions: there is room for some only.
    pub fn end_sessions(&mut self, schemas: &Schemas) -> Result<()> {
        for session in std::mem::take(&mut self.sessions) {
            let body = json!({
                "replica_id": -1, "max_wait_ms": 0, "min_bytes": 0, "max_bytes": 0, "isolation_level": 0,
                "session_id": session, "session_epoch": -1, "topics": [], "forgotten_topics_data": [],
            });
            self.ask(schemas, &Asked { api: FETCH, version: 7, body })?;
        }
        Ok(())
    }

    /// One request and its answer.
    pub fn ask(&mut self, schemas: &Schemas, asked: &Asked) -> Result<Answer> {
        self.send(schemas, asked)?;
        self.receive(schemas, asked)
    }

    /// Sends a request. What cannot be sent because the broker hung up shows when its answer is read.
    pub fn send(&mut self, schemas: &Schemas, asked: &Asked) -> Result<()> {
        let [request, _] = schemas.get(&asked.api).context("an API with a schema")?;
        let body = tree::encode(request, asked.version, &self.resolve(&asked.body))?;
        self.correlation += 1;
        let mut frame = vec![0; 4];
        frame.extend(asked.api.to_be_bytes());
        frame.extend(asked.version.to_be_bytes());
        frame.extend(self.correlation.to_be_bytes());
        frame.extend(6i16.to_be_bytes());
        frame.extend(b"oracle");
        if request.flexible.has(asked.version) {
            frame.push(0);
        }
        frame.extend(body);
        let size = (frame.len() - 4) as i32;
        frame[..4].copy_from_slice(&size.to_be_bytes());
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(("127.0.0.1", self.port))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(ANSWER))?;
                self.stream.insert(stream)
            }
        };
        let _ = stream.write_all(&frame);
        Ok(())
    }

    /// The answer to the oldest request that has none yet.
    pub fn receive(&mut self, schemas: &Schemas, asked: &Asked) -> Result<Answer> {
        if asked.api == 0 && asked.body["acks"] == 0 {
            return Ok(Answer::Nothing);
        }
        let Some(stream) = &mut self.stream else { return Ok(Answer::Closed) };
        let mut size = [0; 4];
        let frame = stream.read_exact(&mut size).and_then(|()| {
            let mut frame = vec![0; i32::from_be_bytes(size).clamp(0, 1 << 28) as usize];
            stream.read_exact(&mut frame).map(|()| frame)
        });
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                bail!("no answer within {ANSWER:?} to {asked:?}")
            }
            Err(_) => {
                self.stream = None;
                // As clients do; here a session also belongs to the worker that the connection fell to.
                (self.session, self.epoch) = (0, 0);
                return Ok(Answer::Closed);
            }
        };
        let [_, response] = &schemas[&asked.api];
        let tags = usize::from(asked.api != 18 && response.flexible.has(asked.version));
        let body = frame.get(4 + tags..).context("a frame shorter than its header")?;
        let decoded = tree::decode(response, asked.version, body);
        // Before a client knows the broker it is answered in version 0.
        let decoded = decoded.or_else(|error| match asked.api {
            18 => tree::decode(response, 0, body).map_err(|_| error),
            _ => Err(error),
        });
        let body = decoded.with_context(|| format!("the answer to {asked:?}"))?;
        if let (FETCH, Some(session @ 1..)) = (asked.api, body["session_id"].as_i64()) {
            self.epoch = if session == self.session { self.epoch + 1 } else { 1 };
            self.session = session;
            self.sessions.insert(session);
        }
        if let (INIT_PRODUCER_ID, Some(id @ 0..)) = (asked.api, body["producer_id"].as_i64()) {
            ensure!(!self.producers.contains(&id), "producer id {id} is given twice");
            self.producers.push(id);
        }
        Ok(Answer::Body(body))
    }

    /// Waits until the topics of these names are there, with leaders, or gone; and learns their ids.
    pub fn settle(&mut self, schemas: &Schemas, names: &BTreeMap<String, bool>) -> Result<()> {
        let begun = Instant::now();
        let topic = |name: &String| json!({"topic_id": ZERO, "name": name});
        while !names.is_empty() {
            // On a connection of its own, so that a pipeline of the sequence is left alone.
            let sequence = self.stream.take();
            let answer = self.ask(schemas, &metadata(Some(names.keys().map(topic).collect())));
            self.stream = sequence;
            let Answer::Body(body) = answer? else { bail!("Metadata is not answered") };
            let settled = body["topics"].as_array().into_iter().flatten().all(|topic| {
                let name = topic["name"].as_str().unwrap_or_default();
                let partitions = topic["partitions"].as_array();
                let led = partitions.into_iter().flatten().all(|one| one["leader_id"] == 1);
                match names.get(name) {
                    Some(true) => topic["error_code"] == 0 && led,
                    _ => topic["error_code"] == 3,
                }
            });
            if settled && self.leaders_know(schemas, &body)? {
                for topic in body["topics"].as_array().into_iter().flatten() {
                    self.learn(topic);
                }
                return Ok(());
            }
            ensure!(begun.elapsed() < SETTLE, "{names:?} never came to be: {body}");
            std::thread::sleep(Duration::from_millis(3));
        }
        Ok(())
    }

    /// Whether the leaders know what Metadata tells: Kafka tells of a leader before that one knows, and of a topic that is gone
    /// before its leader has let it go.
    fn leaders_know(&mut self, schemas: &Schemas, metadata: &Value) -> Result<bool> {
        let partition = |index: &Value| json!({"partition_index": index, "current_leader_epoch": -1, "timestamp": -1});
        let asked = |topic: &Value| {
            let partitions: Vec<_> = match topic["error_code"] == 0 {
                true => {
                    let there = topic["partitions"].as_array().into_iter().flatten();
                    there.map(|one| partition(&one["partition_index"])).collect()
                }
                false => (0..PARTITIONS_MAX).map(|index| partition(&index.into())).collect(),
            };
            json!({"name": topic["name"], "partitions": partitions})
        };
        let all = metadata["topics"].as_array().into_iter().flatten();
        let right: BTreeMap<_, _> =
            all.clone().map(|topic| (topic["name"].to_string(), &topic["error_code"])).collect();
        let topics: Vec<_> = all.map(asked).collect();
        let body = json!({"replica_id": -1, "isolation_level": 0, "topics": topics});
        let sequence = self.stream.take();
        let answer = self.ask(schemas, &Asked { api: 2, version: 5, body });
        self.stream = sequence;
        let Answer::Body(body) = answer? else { bail!("ListOffsets is not answered") };
        Ok(body["topics"].as_array().into_iter().flatten().all(|topic| {
            let mut partitions = topic["partitions"].as_array().into_iter().flatten();
            partitions.all(|one| Some(&&one["error_code"]) == right.get(&topic["name"].to_string()))
        }))
    }

    /// Remembers the id of a topic that an answer names.
    pub fn learn(&mut self, topic: &Value) {
        if let (Some(name), Some(id)) = (topic["name"].as_str(), topic["topic_id"].as_str())
            && id != ZERO
        {
            let generations = self.ids.entry(name.to_owned()).or_default();
            if !generations.iter().any(|known| known == id) {
                generations.push(id.to_owned());
            }
        }
    }

    fn resolve(&self, value: &Value) -> Value {
        match value {
            Value::String(text) if text == "$cluster" => Value::from(&*self.cluster),
            Value::String(text) if text == "$session" => Value::from(self.session),
            Value::String(text) if text == "$epoch" => Value::from(self.epoch),
            Value::String(text) if text.starts_with("$producer:") => {
                let known = text[10..].parse::<usize>().ok().and_then(|at| self.producers.get(at));
                Value::from(known.copied().unwrap_or(-1))
            }
            Value::String(text) if text.starts_with("$id:") => {
                let (name, generation) = text[4..].split_once('#').unwrap_or((&text[4..], "0"));
                let generation: usize = generation.parse().unwrap_or(0);
                let known = self.ids.get(name).and_then(|ids| ids.get(generation));
                Value::from(known.map_or(NOBODYS[1], |id| id))
            }
            Value::Array(all) => all.iter().map(|one| self.resolve(one)).collect(),
            Value::Object(fields) => {
                fields.iter().map(|(name, value)| (name.clone(), self.resolve(value))).collect()
            }
            other => other.clone(),
        }
    }

    /// An answer with names in place of this broker's identities, ports and times, and its records opened.
    pub fn masked(&self, name: &str, value: &Value) -> Value {
        match (name, value) {
            ("records", Value::String(hex)) => batches::described(hex),
            (_, Value::Array(all)) => {
                let named = |one: &Value, name| one["name"] == name || one["resource_name"] == name;
                let ours = all.iter().filter(|one| !KAFKAS.iter().any(|name| named(one, *name)));
                ours.map(|one| self.masked(name, one)).collect()
            }
            (_, Value::Object(fields)) => {
                let masked = |(name, value): (&String, _)| (name.clone(), self.masked(name, value));
                fields.iter().map(masked).collect()
            }
            ("port", Value::Number(port)) if port.as_u64() == Some(self.port.into()) => {
                "$port".into()
            }
            ("producer_id", Value::Number(id)) => {
                let known = self.producers.iter().position(|known| id.as_i64() == Some(*known));
                known.map_or(value.clone(), |at| format!("$producer:{at}").into())
            }
            ("session_id", Value::Number(id)) if id.as_i64() != Some(0) => "$session".into(),
            // How often a log of metadata was written to is each broker's own matter, and so is when.
            ("last_fetch_timestamp" | "last_caught_up_timestamp", Value::Number(time))
                if time.as_i64() > Some(0) =>
            {
                "$time".into()
            }
            // Of a record, if it is later than any that a sequence writes.
            ("timestamp" | "last_timestamp", Value::Number(time))
                if time.as_i64() > Some(self.latest) =>
            {
                "$time".into()
            }
            ("log_append_time_ms", Value::Number(time)) if time.as_i64() > Some(0) => {
                "$time".into()
            }
            (
                "error_message" | "batch_index_error_message" | "documentation",
                Value::String(text),
            ) => {
                if text.is_empty() {
                    "".into()
                } else {
                    "$text".into()
                }
            }
            (_, Value::String(text)) if *text == self.cluster && !text.is_empty() => {
                "$cluster".into()
            }
            ("topic_id", Value::String(id)) if id != ZERO => {
                let label = self.ids.iter().find_map(|(name, ids)| {
                    let generation = ids.iter().position(|known| known == id)?;
                    Some(Value::from(format!("$id:{name}#{generation}")))
                });
                let label = label.or_else(|| NOBODYS.contains(&id.as_str()).then(|| value.clone()));
                label.unwrap_or_else(|| "$id".into())
            }
            _ => value.clone(),
        }
    }
}

/// Metadata 12 for some topics or all.
fn metadata(topics: Option<Vec<Value>>) -> Asked {
    let body = json!({
        "topics": topics,
        "allow_auto_topic_creation": false,
        "include_topic_authorized_operations": false,
    });
    Asked { api: 3, version: 12, body }
}
