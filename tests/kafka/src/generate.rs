//! Requests drawn from a seed by Kafka's schemas: the structure comes from the schema, and the values from what a field's name
//! says it means, mostly right, sometimes at a border, sometimes wrong. An API comes under it by being advertised.

use std::collections::BTreeMap;

use milena_wire::batch::{BatchBuilder, Compression};
use milena_wire::forge::seal;
use milena_wire::sample::Source;
use serde_json::{Map, Value, json};

use crate::compare::identity;
use crate::schema::{Field, Kind, Message};
use crate::side::{Asked, NOBODYS, PARTITIONS_MAX, Schemas};
use crate::tree::{self, hex};

const PRODUCE: i16 = 0;
const FETCH: i16 = 1;
/// First version of a fetch with sessions.
const SESSIONS_VERSION: i16 = 7;
/// First version of a fetch that names topics by their ids.
const IDS_VERSION: i16 = 13;
const CREATE: i16 = 19;
const INIT_PRODUCER_ID: i16 = 22;
/// Ids of idempotent producers: far from those that brokers give.
const PRODUCERS: [i64; 2] = [1 << 40, (1 << 40) + 1];
const DESCRIBE_TOPIC_PARTITIONS: i16 = 75;
/// Milliseconds before and after [`Generator::now`] in which records are.
pub const AROUND_MS: i64 = 2;
const ZERO: &str = "00000000000000000000000000000000";

/// Draws the requests of one sequence.
pub struct Generator<'a> {
    source: Source,
    schemas: &'a Schemas,
    /// What both brokers advertise.
    apis: &'a [(i16, i16, i16)],
    /// Names of topics that begin with the sequence's own.
    names: Vec<String>,
    /// Milliseconds since the epoch around which records are.
    now: i64,
    /// The version of most fetches.
    fetches: i16,
    /// The versions of fetches with sessions, by name and by id: no client changes its version within a session.
    sessions: [i16; 2],
    api: i16,
    version: i16,
    /// Whether what is drawn belongs to a configuration.
    config: bool,
    /// The topic and the partition that records are drawn for.
    place: (String, i64),
    /// What producers last wrote there: epoch, first sequence number, records.
    written: BTreeMap<(String, i64, i64), (i16, i32, i32)>,
}

impl<'a> Generator<'a> {
    /// Of a seed alone, but for the time of day.
    pub fn new(seed: u64, schemas: &'a Schemas, apis: &'a [(i16, i16, i16)], now: i64) -> Self {
        let names = ["a", "b", "c"].map(|name| format!("s{seed}-{name}")).into();
        let mut source = Source::new(seed);
        let (_, first, last) = versions(apis, FETCH);
        let fetches = first + source.below((last - first + 1) as u64) as i16;
        let mut between =
            |first: i16, last: i16| first + source.below((last - first + 1) as u64) as i16;
        let sessions = [between(SESSIONS_VERSION, IDS_VERSION - 1), between(IDS_VERSION, last)];
        let (api, version, config) = (0, 0, false);
        let (place, written) = Default::default();
        Generator {
            source,
            schemas,
            apis,
            names,
            now,
            fetches,
            sessions,
            api,
            version,
            config,
            place,
            written,
        }
    }

    /// The two topics that a sequence begins with.
    pub fn topics(&mut self) -> Asked {
        let topic = |name: &str, partitions| json!({"name": name, "num_partitions": partitions, "replication_factor": 1});
        let partitions = 1 + self.below(PARTITIONS_MAX);
        let mut first = topic(&self.names[0], partitions);
        if self.one_in(4) {
            first["configs"] =
                json!([{"name": "message.timestamp.type", "value": "LogAppendTime"}]);
        }
        let body = json!({"topics": [first, topic(&self.names[1], 1)], "timeout_ms": 10_000});
        Asked { api: CREATE, version: 7, body }
    }

    /// A request of any API.
    pub fn request(&mut self) -> Asked {
        // Half of them are of the three APIs that most clients live by.
        let api = match self.below(10) {
            0 | 1 => 0,
            2 | 3 => 1,
            4 => 2,
            _ => self.pick(self.apis).0,
        };
        let (api, first, last) = versions(self.apis, api);
        let version = match api {
            FETCH if !self.one_in(4) => self.fetches,
            _ => first + self.below((last - first + 1) as u64) as i16,
        };
        let version = match (api, version) {
            (FETCH, SESSIONS_VERSION..) => self.sessions[usize::from(version >= IDS_VERSION)],
            _ => version,
        };
        (self.api, self.version) = (api, version);
        let [request, _]: &[Message; 2] = &self.schemas[&api];
        let mut body = self.object(&request.fields);
        if api == DESCRIBE_TOPIC_PARTITIONS && body["topics"] == json!([]) {
            // A page of all topics would end among those that Kafka keeps for itself.
            body["response_partition_limit"] = json!(2000);
        }
        if api == FETCH && version >= SESSIONS_VERSION && self.one_in(2) {
            // Begins a session, or goes on with it as its client would, which says only what is new.
            body["session_id"] = "$session".into();
            body["session_epoch"] = "$epoch".into();
            if self.one_in(2) {
                body["topics"] = json!([]);
            }
        }
        if api == FETCH && version >= SESSIONS_VERSION && body["session_epoch"] != -1 {
            leave_room(&mut body);
        }
        Asked { api, version, body }
    }

    /// Whether the next request is sent before this one is answered.
    pub fn pipelined(&mut self) -> bool {
        self.one_in(5)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.source.below(bound)
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// One of the first most of the time, and of the others now and then.
    fn mostly<const R: usize, const W: usize>(
        &mut self,
        right: [i64; R],
        wrong: [i64; W],
    ) -> Value {
        let wrong_one = self.one_in(12);
        Value::from(if wrong_one { *self.pick(&wrong) } else { *self.pick(&right) })
    }

    fn object(&mut self, fields: &[Field]) -> Value {
        let mut object = Map::new();
        let version = self.version;
        for field in fields.iter().filter(|field| field.versions.has(version)) {
            // Tagged fields are what followers and other strangers say.
            let value = if field.tagged.has(version) && !self.one_in(20) {
                tree::default(field)
            } else {
                self.field(field)
            };
            if self.api == PRODUCE {
                self.note_place(&field.name, &value);
            }
            object.insert(field.name.clone(), value);
        }
        // Who may be named in two ways is named in one of them, and now and then in both.
        if object.contains_key("topic_id")
            && let Some(name) = object.get("name").cloned()
            && fields.iter().any(|field| field.name == "name" && field.nullable.has(version))
            && !self.one_in(12)
        {
            let by_id = self.api != 3 || version >= 12;
            if by_id && (name.is_null() || self.one_in(2)) {
                object.insert("name".into(), Value::Null);
            } else {
                object.insert("topic_id".into(), ZERO.into());
                if name.is_null() {
                    object.insert("name".into(), self.names[0].clone().into());
                }
            }
        }
        Value::Object(object)
    }

    fn note_place(&mut self, field: &str, value: &Value) {
        match (field, value) {
            ("name" | "topic_id", Value::String(topic)) => {
                let id =
                    topic.strip_prefix("$id:").map_or(&**topic, |id| id.trim_end_matches("#0"));
                self.place.0 = id.to_owned();
            }
            ("index", index) => self.place.1 = index.as_i64().unwrap_or(-1),
            _ => {}
        }
    }

    fn field(&mut self, field: &Field) -> Value {
        let nullable = field.nullable.has(self.version);
        match &field.kind {
            Kind::Struct(_) if nullable && !self.one_in(4) => Value::Null,
            Kind::Struct(fields) => self.object(fields),
            Kind::Array(_) if nullable && self.one_in(6) => Value::Null,
            Kind::Array(element) => {
                let count = match (field.name.as_str(), self.below(12)) {
                    ("assignments" | "forgotten_topics_data" | "configs", 0..9) => 0,
                    (_, 0) => 0,
                    (_, 1 | 2) => 2,
                    _ => 1,
                };
                let outer = std::mem::replace(&mut self.config, field.name == "configs");
                let all: Vec<_> = (0..count).map(|_| self.value(&field.name, element)).collect();
                self.config = outer;
                // What is named twice in one of these comes back in the order of a hash map, once or twice as it falls.
                let scattered = [0, 1, 2, 23].contains(&self.api);
                let twice = scattered && all.len() == 2 && identity(&all[0]) == identity(&all[1]);
                all.into_iter().skip(usize::from(twice)).collect()
            }
            Kind::Plain(name) if name == "records" => self.records(),
            Kind::Plain(_) if nullable && self.nulls(&field.name) => Value::Null,
            kind => self.value(&field.name, kind),
        }
    }

    fn nulls(&mut self, name: &str) -> bool {
        match name {
            "transactional_id" if self.api == INIT_PRODUCER_ID => !self.one_in(4),
            "transactional_id" => !self.one_in(40),
            "cluster_id" => !self.one_in(3),
            _ => self.one_in(8),
        }
    }

    fn value(&mut self, name: &str, kind: &Kind) -> Value {
        match kind {
            Kind::Struct(fields) => self.object(fields),
            Kind::Array(element) => json!([self.value(name, element)]),
            Kind::Plain(plain) => match plain.as_str() {
                "bool" => Value::from(self.one_in(2)),
                "string" => self.string(name).into(),
                "uuid" => self.uuid().into(),
                "float64" => Value::from(self.below(3) as f64),
                "bytes" => hex(&[1, 2, 3][..self.below(4) as usize]).into(),
                _ => self.integer(name),
            },
        }
    }

    fn uuid(&mut self) -> String {
        match self.below(16) {
            // Kafka fails at a topic without an id beside another: it compares their names, which it lacks.
            0 if self.api != FETCH => ZERO.into(),
            1 => NOBODYS[0].into(),
            2..=4 => format!("$id:{}#0", self.names[1]),
            5 => format!("$id:{}#1", self.names[0]),
            _ => format!("$id:{}#0", self.names[0]),
        }
    }

    fn string(&mut self, name: &str) -> String {
        let configs = [
            "retention.ms",
            "retention.bytes",
            "segment.bytes",
            "min.insync.replicas",
            "max.message.bytes",
            "message.timestamp.type",
            "cleanup.policy",
            "compression.type",
            "delete.retention.ms",
            "min.compaction.lag.ms",
            "max.compaction.lag.ms",
            "min.cleanable.dirty.ratio",
            "no.such.config",
        ];
        let text = match (self.api, name) {
            (_, "client_software_name" | "client_software_version") => match self.below(8) {
                0 => *self.pick(&["", "a b", "-x", "x-", "\u{e9}"]),
                _ => *self.pick(&["client", "1.0-beta.2", "9"]),
            },
            (_, "cluster_id") => *self.pick(&["$cluster", "$cluster", "$cluster", "other", ""]),
            (_, "rack_id" | "transactional_id") => *self.pick(&["", "rack"]),
            (_, "key" | "coordinator_keys") => *self.pick(&["group", "another", ""]),
            (CREATE, "value") => {
                let numbers = ["1000", "100000", "2000000", "-1", "0", " 5 ", "+7", "9999999999"];
                let words = [
                    "delete",
                    "producer",
                    "CreateTime",
                    "x",
                    "",
                    " delete",
                    "delete, delete",
                    "compact",
                    "compact,delete",
                    "0.5",
                    "delete,",
                ];
                if self.one_in(2) { *self.pick(&numbers) } else { *self.pick(&words) }
            }
            (CREATE, "name") if self.config => *self.pick(&configs),
            // Two of the names are taken already.
            (CREATE, "name") if self.one_in(2) => return self.names[2].clone(),
            (32, "configuration_keys") => *self.pick(&configs),
            (32, "resource_name") if self.one_in(3) => *self.pick(&["1", "", "2", "x"]),
            (55, _) if !self.one_in(8) => "__cluster_metadata",
            _ => {
                return match self.below(20) {
                    0 => (*self.pick(&["", ".", "..", "a b", "\u{e9}", "a/b"])).to_owned(),
                    1 => "x".repeat(249 + self.below(2) as usize),
                    2..=4 => self.names[2].clone(),
                    5..=8 => self.names[1].clone(),
                    _ => self.names[0].clone(),
                };
            }
        };
        text.to_owned()
    }

    fn integer(&mut self, name: &str) -> Value {
        let far = i64::from(i32::MAX);
        match name {
            "partition" | "partition_index" | "partition_indexes" | "partitions" | "index" => {
                self.mostly([0, 0, 0, 0, 0, 1], [2, 3, -1, far])
            }
            // A change that times out has happened or has not.
            "timeout_ms" => Value::from(10_000),
            "max_wait_ms" => self.mostly([0, 0, 1, 20], [-1]),
            "min_bytes" => self.mostly([0, 1, 1], [-1, 1000]),
            // Less than any batch: of several, Kafka also counts the part of one that it cuts off.
            "max_bytes" => self.mostly([1 << 20, far], [0, 1, -1, 60]),
            "partition_max_bytes" => self.mostly([1 << 20, 1 << 20, 200], [0, 1, -1]),
            "isolation_level" => self.mostly([0, 1], [2, -1]),
            "session_id" if self.one_in(2) => "$session".into(),
            "session_id" => self.mostly([0], [17, -1]),
            "session_epoch" => self.mostly([-1, 0, 0, 1, 1, 2, 3], [-2, 7]),
            "current_leader_epoch" => self.mostly([-1, -1, 0], [1, -2, far]),
            "last_fetched_epoch" => self.mostly([-1, -1, -1, 0], [1, -2]),
            "leader_epoch" => self.mostly([0], [1, -1, -2, far]),
            "fetch_offset" => self.mostly([0, 0, 0, 1, 2], [3, 5, 40, -1, i64::MAX, i64::MIN]),
            "log_start_offset" => self.mostly([-1], [0, 5]),
            "producer_id" if self.one_in(3) => "$producer:0".into(),
            "producer_id" => self.mostly([-1], [0, 7, -2, i64::MAX]),
            "producer_epoch" => self.mostly([-1, -1, -1, 0], [1, -2, i64::from(i16::MAX)]),
            "transaction_timeout_ms" => self.mostly([far, 60_000], [0, -1]),
            "replica_id" => self.mostly([-1], [-2]),
            "acks" => self.mostly([-1, -1, 1], [2, -2, 0]),
            "num_partitions" => self.mostly([1, 2, 3, -1], [0, -2]),
            "replication_factor" => self.mostly([1, 1, -1], [0, 2, -2]),
            "broker_ids" => self.mostly([1], [2, -1]),
            "node_id" => self.mostly([1, -1, -1], [2, -2]),
            "timestamp" => {
                let now = self.now;
                self.mostly(
                    [-1, -2, -3, now, now + 1, now - 1],
                    [-4, -5, -6, -7, 0, i64::MAX, i64::MIN],
                )
            }
            "resource_type" => self.mostly([2, 2, 2, 4], [0, 1, 3, 8, 16, 32, 99]),
            "endpoint_type" => self.mostly([1], [0, 2, 3]),
            "key_type" => self.mostly([0, 0, 1], [2, 3, -1]),
            "response_partition_limit" => self.mostly([2000, 2000, 1, 2], [0, -1]),
            _ => self.mostly([0, 1], [-1, far]),
        }
    }

    /// Record batches as clients send them, and as they should not.
    fn records(&mut self) -> Value {
        let compression = match self.below(3) {
            0 => *self.pick(&Compression::ALL),
            _ => Compression::None,
        };
        let mut builder = BatchBuilder::new(0, -1, compression);
        for _ in 0..1 + self.below(3) {
            let time = self.now - AROUND_MS + self.below(2 * AROUND_MS as u64 + 1) as i64;
            let key = self.one_in(2).then_some(&b"key"[..]);
            let value = (!self.one_in(4)).then_some(&b"value"[..]);
            let header = [("header", Some(&b"x"[..]))];
            builder.append(time, key, value, if self.one_in(4) { &header } else { &[] });
        }
        if self.one_in(2) {
            self.number(&mut builder);
        }
        let mut batch = builder.build().to_vec();
        if self.one_in(12) {
            self.misdescribe(&mut batch);
        }
        match self.below(40) {
            // Not null: Kafka 4.4 then fails while it describes the request in its log, and never answers.
            0 | 1 => batch.clear(),
            // The checksum fails.
            2 => *batch.last_mut().expect("a batch has bytes") ^= 1,
            3 => batch.truncate(batch.len() - 1),
            // An older and a newer format.
            4 => batch[16] = 1,
            5 => batch[16] = 3,
            // Two batches where Kafka takes one.
            6 => batch.extend(batch.clone()),
            _ => {}
        }
        hex(&batch).into()
    }

    /// Makes it a batch of an idempotent producer: most often its next one, or one that it has written already.
    fn number(&mut self, builder: &mut BatchBuilder) {
        let id = *self.pick(&PRODUCERS);
        let place = (self.place.0.clone(), self.place.1, id);
        let known = self.written.get(&place).copied();
        let (epoch, base, count) = known.unwrap_or((0, 0, 0));
        let after = |count: i32| base.wrapping_add(count) & i32::MAX;
        let next = after(count);
        let (epoch, sequence, taken) = match self.below(16) {
            0..8 => (epoch, next, true),
            8..11 => (epoch, base, known.is_none()),
            // One that is older, or never was.
            11 => (epoch, (base - 1).max(0), known.is_none()),
            12 => (epoch, after(count + 1 + self.below(3) as i32), known.is_none()),
            13 if self.one_in(4) => (epoch + 1, next, next == 0),
            13 => (epoch + 1, 0, true),
            14 => ((epoch - 1).max(0), [0, next][self.below(2) as usize], known.is_none()),
            _ if self.one_in(2) => (epoch, i32::MAX, known.is_none()),
            _ => ([epoch, -1][self.below(2) as usize], -1, false),
        };
        if taken {
            self.written.insert(place, (epoch, sequence, builder.records_count()));
        }
        builder.producer(id, epoch, sequence);
    }

    /// Has the header say what the records do not, under a checksum that is right.
    fn misdescribe(&mut self, batch: &mut [u8]) {
        let wrong_count = [0, 1, 2, 9][self.below(4) as usize];
        match self.below(10) {
            // Where the batch lies in a log is for the broker to say.
            0 => batch[..8].copy_from_slice(&7i64.to_be_bytes()),
            1 => batch[12..16].copy_from_slice(&5i32.to_be_bytes()),
            // Codecs that nobody has, the broker's time, a control batch, and bits without a meaning.
            // Of requests that may not have Zstandard either, Kafka fails at all partitions then, by an exception that nothing
            // expects.
            2 if self.version >= 7 => batch[22] |= 5 + self.below(3) as u8,
            3 => batch[22] |= 8,
            4 => batch[22] |= 32,
            5 if batch[22] & 7 == 0 => batch[22] |= 128,
            // Offsets and records that do not go together.
            6 => batch[23..27].copy_from_slice(&i32::to_be_bytes(wrong_count)),
            7 => batch[57..61].copy_from_slice(&i32::to_be_bytes(wrong_count)),
            // Times far from ours.
            8 => {
                let hours = [-2, 2, 1_000_000][self.below(3) as usize];
                let time = self.now + hours * 3_600_000;
                batch[27..35].copy_from_slice(&time.to_be_bytes());
            }
            // The largest time is what the records say.
            _ => batch[35..43].copy_from_slice(&0i64.to_be_bytes()),
        }
        seal(batch);
    }
}

/// Gives each partition of a session room for a batch: in which order a session reads them is each broker's own matter, and
/// limits show it.
fn leave_room(fetch: &mut Value) {
    if fetch["session_epoch"] != 0 {
        fetch["max_bytes"] = i32::MAX.into();
    }
    let topics = fetch["topics"].as_array_mut().into_iter().flatten();
    for partition in topics.filter_map(|topic| topic["partitions"].as_array_mut()).flatten() {
        if [json!(0), json!(1)].contains(&partition["partition_max_bytes"]) {
            partition["partition_max_bytes"] = 200.into();
        }
    }
}

/// The versions of an API, or those of the first where it is not advertised.
fn versions(apis: &[(i16, i16, i16)], api: i16) -> (i16, i16, i16) {
    *apis.iter().find(|row| row.0 == api).unwrap_or(&apis[0])
}
