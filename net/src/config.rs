//! From flags and a TOML file to a node's settings. The file's keys are the flags' names; a flag on the command line wins.
//!
//! Whatever is wrong becomes one line that names it and what helps.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use milena_core::config::PipelineConfig;
use milena_core::image::settings::BATCH_BYTES_LIMIT;
use milena_core::{Config, NodeId};

use crate::files::Unsynced;
use crate::kafka::Limits;
use crate::node::Settings;

/// `HOST:PORT`, with an IPv6 host in brackets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostPort {
    /// As given, without brackets.
    pub host: String,
    /// From 1 on.
    pub port: u16,
}

impl HostPort {
    /// This address and those with the next ports, so many in all, as far as there are ports.
    pub fn and_next(&self, count: u16) -> impl Iterator<Item = HostPort> + '_ {
        let ports = (0..count).map_while(|more| self.port.checked_add(more));
        ports.map(|port| HostPort { host: self.host.clone(), port })
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<HostPort, String> {
        let (host, port) =
            text.rsplit_once(':').ok_or("an address is HOST:PORT, as in 127.0.0.1:9092")?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        match port.parse() {
            Ok(port) if port > 0 && !host.is_empty() => Ok(HostPort { host: host.into(), port }),
            _ => Err("an address is HOST:PORT with a port from 1 to 65535".into()),
        }
    }
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Where an admin listener is to be: a port alone is one of this machine's own.
pub fn admin_address(text: &str) -> Result<HostPort, String> {
    let address =
        if text.contains(':') { text.parse() } else { format!("127.0.0.1:{text}").parse() };
    address.map_err(|_| "it is HOST:PORT or PORT, as in 127.0.0.1:9644 or 9644".into())
}

/// One controller in `--cluster`: `ID@HOST:PORT`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Controller {
    /// Its node id.
    pub id: i32,
    /// Where its peers reach it.
    pub address: HostPort,
}

impl FromStr for Controller {
    type Err = String;

    fn from_str(text: &str) -> Result<Controller, String> {
        let wrong = "a controller is ID@HOST:PORT, as in 1@127.0.0.1:19091";
        let (id, address) = text.split_once('@').ok_or(wrong)?;
        let id = id.trim().parse().ok().filter(|id| *id >= 0).ok_or(wrong)?;
        Ok(Controller { id, address: address.parse()? })
    }
}

/// What a node may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Role {
    /// Holds partitions and serves clients.
    Broker,
    /// Votes on the cluster's metadata.
    Controller,
}

/// Sizes, times and limits that have good defaults.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub struct Tuning {
    /// Threads that own partitions; may change at a restart
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub shards: u16,
    /// Default of segment.bytes
    #[arg(long, default_value_t = 1 << 30, value_parser = clap::value_parser!(u64).range(1 << 20..=4 << 30))]
    pub segment_bytes: u64,
    /// Size of one journal file
    #[arg(long, default_value_t = 16 << 20, value_parser = clap::value_parser!(u32).range(1 << 20..=1 << 30))]
    pub journal_file_bytes: u32,
    /// Files per journal, recycled for ever
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(3..=1024))]
    pub journal_files: u32,
    /// Record batches kept in memory per shard until segments hold them; produce waits at it
    #[arg(long, default_value_t = 256 << 20, value_parser = clap::value_parser!(u64).range(8 << 20..=1 << 40))]
    pub memory_bytes: u64,
    /// Produce is refused when the file system has less room than this, or than journal files still to be filled, and the journal file in use
    #[arg(long, default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(1 << 20..=1 << 40))]
    pub reserve_bytes: u64,
    /// Default of max.message.bytes
    #[arg(long, default_value_t = 1_048_588, value_parser = clap::value_parser!(u32).range(1024..=BATCH_BYTES_LIMIT as i64))]
    pub message_max_bytes: u32,
    /// What a record batch may hold decompressed, bytes; each shard opens one at a time, for which it takes at most so much memory
    /// beside --memory-bytes
    #[arg(long, default_value_t = 128 << 20)]
    pub opened_max_bytes: usize,
    /// Default of min.insync.replicas
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=15))]
    pub min_insync_replicas: u16,
    /// How often retention is looked at, milliseconds
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(100..=86_400_000))]
    pub retention_check_ms: u64,
    /// Memory for the keys of a compacted log while it is cleaned, bytes, of all shards together (log.cleaner.dedupe.buffer.size)
    #[arg(long, default_value_t = 134_217_728, value_parser = clap::value_parser!(u64).range(1_048_576..))]
    pub cleaner_dedupe_buffer_bytes: u64,
    /// Bytes a second that the cleaner reads and writes at most, of all shards together (log.cleaner.io.max.bytes.per.second)
    #[arg(long, default_value_t = i64::MAX as u64, value_parser = clap::value_parser!(u64).range(1..=i64::MAX as u64))]
    pub cleaner_io_max_bytes_per_second: u64,
    /// How often the cleaner looks for logs to be cleaned, milliseconds (log.cleaner.backoff.ms)
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(10..=86_400_000))]
    pub cleaner_backoff_ms: u64,
    /// A log forgets an idempotent producer that has appended nothing to it for so many milliseconds
    /// (producer.id.expiration.ms)
    #[arg(long, default_value_t = 86_400_000, value_parser = clap::value_parser!(i64).range(1..))]
    pub producer_id_expiration_ms: i64,
    /// A log remembers so many idempotent producers at most, those that wrote last; all of it goes to a follower in one message
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    pub producer_ids_max: u32,
    /// A snapshot of the metadata is taken after this many of its records
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub metadata_snapshot_records: u64,
    /// A broker silent for this long is fenced, milliseconds
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(500..=600_000))]
    pub broker_session_ms: u64,
    /// A follower that lags for this long leaves the in-sync set, milliseconds
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(500..=600_000))]
    pub replica_lag_ms: u64,
    /// Largest request of a Kafka client, and so the largest record batch, whatever max.message.bytes says; no batch is larger than 120 MiB
    #[arg(long, default_value_t = 100 << 20, value_parser = clap::value_parser!(u32).range(64 << 10..=1 << 30))]
    pub request_max_bytes: u32,
    /// Requests of Kafka clients that are not answered yet, bytes, beside 64 KiB of each connection; more of them wait to be
    /// read, and one that stops growing meanwhile loses its connection
    #[arg(long, default_value_t = 512 << 20, value_parser = clap::value_parser!(u64).range(1 << 20..=1 << 40))]
    pub request_memory_bytes: u64,
    /// Answers that Kafka clients have not taken, bytes per shard; several of the largest should fit. A fetch brings at most a
    /// quarter of it, and less when more waits. Beyond it, who leaves the most for the longest loses its connection
    #[arg(long, default_value_t = 512 << 20, value_parser = clap::value_parser!(u64).range(1 << 20..=1 << 40))]
    pub response_memory_bytes: u64,
    /// Partitions of a topic, and partitions, topics or resources that a request of a Kafka client names; one that names more loses its connection
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    pub partitions_max: u32,
    /// Kafka connections of a node; without it, 10000, or as many as the limit of open files leaves room for
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections_max: Option<u32>,
    /// A Kafka connection idle for this long is closed, milliseconds
    #[arg(long, default_value_t = 600_000, value_parser = clap::value_parser!(u64).range(1_000..=86_400_000))]
    pub connection_idle_ms: u64,
    /// A Kafka connection is closed whose client takes nothing of an answer for this long, or leaves a request half sent, milliseconds
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(1_000..=86_400_000))]
    pub connection_stalled_ms: u64,
    /// Requests of one Kafka connection that are not answered yet; more of them wait to be read
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub connection_requests_max: u16,
    /// Bytes of such requests; one request may be larger
    #[arg(long, default_value_t = 64 << 20, value_parser = clap::value_parser!(u32).range(64 << 10..=1 << 30))]
    pub connection_request_bytes: u32,
    /// Bytes of answers that the client of a connection has not taken, with what its fetches may bring; beyond it no more is read
    #[arg(long, default_value_t = 64 << 20, value_parser = clap::value_parser!(u32).range(64 << 10..=1 << 30))]
    pub connection_unsent_bytes: u32,
    /// Fetch sessions remembered per shard (max.incremental.fetch.session.cache.slots)
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub fetch_sessions_max: u32,
    /// Where there are as many, a fetch session unused for this long gives way to a new one, milliseconds
    /// (min.incremental.fetch.session.eviction.ms)
    #[arg(long, default_value_t = 120_000, value_parser = clap::value_parser!(u64).range(0..=86_400_000))]
    pub fetch_session_eviction_ms: u64,
}

/// Flags of `milena start`.
#[derive(Clone, Debug, Args)]
pub struct Start {
    /// Number of this node, unique in the cluster
    #[arg(long, value_parser = clap::value_parser!(i32).range(0..))]
    pub node_id: i32,
    /// The controllers, the same on every node: ID@HOST:PORT,...
    #[arg(long, value_delimiter = ',', required = true)]
    pub cluster: Vec<Controller>,
    /// Where to listen for Kafka clients, HOST:PORT
    #[arg(long)]
    pub kafka: Option<HostPort>,
    /// The data directory
    #[arg(long)]
    pub data: PathBuf,
    /// What this node is; without it, a broker, and a controller if --cluster lists it
    #[arg(long, value_delimiter = ',')]
    pub roles: Vec<Role>,
    /// Where other nodes reach this one, HOST:PORT; without it, what --cluster says
    #[arg(long)]
    pub peer: Option<HostPort>,
    /// Where Kafka clients are told to come, HOST:PORT; without it, as --kafka
    #[arg(long)]
    pub advertise: Option<HostPort>,
    /// Where to serve /metrics for Prometheus, /healthz and /readyz over HTTP: HOST:PORT, or PORT of 127.0.0.1 alone, as in
    /// 9644; without it, nowhere. There is no authentication
    #[arg(long, value_parser = admin_address)]
    pub admin: Option<HostPort>,
    /// Name of this node's rack; replicas are spread over racks
    #[arg(long)]
    pub rack: Option<String>,
    /// A TOML file with the same names
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Sizes, times and limits.
    #[command(flatten)]
    pub tuning: Tuning,
}

impl Tuning {
    /// Core's settings for a node of which only these are given.
    pub fn config(&self, node: i32, controllers: Vec<(NodeId, String)>) -> Config {
        let mut config = Config {
            node: NodeId(node),
            controllers,
            broker: true,
            controller: true,
            kafka: (String::new(), 0),
            peer: String::new(),
            rack: None,
            shards: self.shards,
            storage: Default::default(),
            quorum: Default::default(),
            replication: Default::default(),
        };
        config.storage.segment_bytes = self.segment_bytes;
        config.storage.journal_file_bytes = self.journal_file_bytes / 4096 * 4096;
        config.storage.journal_files = self.journal_files;
        config.storage.memory_bytes_max = self.memory_bytes;
        config.storage.reserve_bytes = self.reserve_bytes;
        config.storage.retention_check_ms = self.retention_check_ms;
        config.storage.cleaner_buffer_bytes =
            self.cleaner_dedupe_buffer_bytes / u64::from(config.shards.max(1));
        config.storage.cleaner_bytes_per_s =
            (self.cleaner_io_max_bytes_per_second / u64::from(config.shards.max(1))).max(1);
        config.storage.cleaner_backoff_ms = self.cleaner_backoff_ms;
        config.storage.producer_id_expiration_ms = self.producer_id_expiration_ms;
        config.storage.producer_ids_max = self.producer_ids_max;
        config.quorum.snapshot_every_records = self.metadata_snapshot_records;
        config.quorum.broker_session_ms = self.broker_session_ms;
        config.quorum.broker_heartbeat_ms =
            config.quorum.broker_heartbeat_ms.min(self.broker_session_ms / 4);
        config.replication.lag_ms_max = self.replica_lag_ms;
        config.replication.batch_bytes_max = self.message_max_bytes;
        config.replication.opened_bytes_max = self.opened_max_bytes;
        config.replication.partitions_max = self.partitions_max;
        config.replication.min_insync_replicas = self.min_insync_replicas;
        config.replication.fetch_sessions_max = self.fetch_sessions_max as usize;
        config.replication.fetch_session_evictable_ms = self.fetch_session_eviction_ms;
        config
    }

    /// Limits of the Kafka listener.
    pub fn limits(&self) -> Limits {
        let limits = Limits::default();
        Limits {
            request_bytes_max: self.request_max_bytes as usize,
            request_memory_max: self.request_memory_bytes as usize,
            connections_max: self
                .connections_max
                .map_or(limits.connections_max, |given| given as usize),
            pipeline: PipelineConfig {
                in_flight_max: self.connection_requests_max.into(),
                in_flight_bytes_max: self.connection_request_bytes as usize,
                unsent_bytes_max: self.connection_unsent_bytes as usize,
                shard_unsent_bytes_max: self.response_memory_bytes as usize,
                frame_ms_max: self.connection_stalled_ms,
                idle_ms_max: self.connection_idle_ms,
                ..limits.pipeline
            },
        }
    }
}

impl Start {
    /// The node's settings, or what is wrong with these flags.
    pub fn settings(&self) -> Result<Settings, String> {
        let mut controllers: Vec<(NodeId, String)> =
            self.cluster.iter().map(|c| (NodeId(c.id), c.address.to_string())).collect();
        controllers.sort();
        let ids: BTreeSet<NodeId> = controllers.iter().map(|(id, _)| *id).collect();
        if ids.len() < controllers.len() {
            return Err("--cluster lists a node twice; give each id once".into());
        }
        if let Some((one, other, address)) = shared_address(&controllers) {
            return Err(format!(
                "--cluster gives nodes {one} and {other} the same address {address}; give each its own"
            ));
        }
        let node = NodeId(self.node_id);
        let listed = controllers.iter().find(|(id, _)| *id == node).map(|(_, a)| a.clone());
        let mut config = self.tuning.config(self.node_id, controllers);
        let wanted = |role| self.roles.contains(&role);
        config.broker = self.roles.is_empty() || wanted(Role::Broker);
        config.controller =
            if self.roles.is_empty() { listed.is_some() } else { wanted(Role::Controller) };
        if config.controller && listed.is_none() {
            return Err(format!(
                "node {node} is to be a controller and is not in --cluster; list it there, on every node, or leave \
                 controller out of --roles"
            ));
        }
        if listed.is_some() && !config.controller {
            return Err(format!(
                "--cluster lists node {node}, so it is a controller; add controller to --roles or take it out of --cluster"
            ));
        }
        config.peer = match (&self.peer, listed) {
            (Some(peer), _) => peer.to_string(),
            (None, Some(listed)) => listed,
            (None, None) => {
                return Err(format!(
                    "node {node} is not in --cluster; say with --peer HOST:PORT where others reach it"
                ));
            }
        };
        if self.kafka.as_ref().is_some_and(|kafka| kafka.to_string() == config.peer) {
            return Err(format!(
                "{} is to serve both Kafka clients and peers; give --kafka another port",
                config.peer
            ));
        }
        if let Some(admin) = &self.admin {
            let kafka = self.kafka.as_ref().map(HostPort::to_string);
            if [kafka.as_ref(), Some(&config.peer)].contains(&Some(&admin.to_string())) {
                return Err(format!(
                    "--admin {admin} has another purpose already; give it another port"
                ));
            }
        }
        match (&self.kafka, config.broker) {
            (Some(kafka), true) => {
                let shown = self.advertise.as_ref().unwrap_or(kafka);
                if ["0.0.0.0", "::"].contains(&shown.host.as_str()) {
                    return Err(format!(
                        "clients cannot be told to come to {shown}; say with --advertise HOST:PORT where they reach this node"
                    ));
                }
                config.kafka = (shown.host.clone(), shown.port);
            }
            (None, true) => return Err("a broker needs --kafka HOST:PORT to listen on".into()),
            (Some(_), false) => {
                return Err("--kafka is given, but this node is no broker; add broker to --roles or leave --kafka out".into());
            }
            (None, false) => {}
        }
        config.rack = self.rack.clone();
        Ok(Settings {
            config: config.clone(),
            data: self.data.clone(),
            unsynced: unsynced()?,
            kafka_listen: self.kafka.as_ref().map(HostPort::to_string),
            peer_listen: config.peer,
            limits: self.tuning.limits(),
            port_flags: ("--kafka", "--peer"),
        })
    }
}

/// Two nodes of the list with one address.
fn shared_address(controllers: &[(NodeId, String)]) -> Option<(NodeId, NodeId, &str)> {
    let mut seen = BTreeMap::new();
    controllers
        .iter()
        .find_map(|(node, address)| Some((seen.insert(address, *node)?, *node, address.as_str())))
}

/// What `MILENA_UNSYNCED` says.
pub fn unsynced() -> Result<Unsynced, String> {
    let value = std::env::var("MILENA_UNSYNCED").unwrap_or_default();
    Unsynced::parse(&value).ok_or_else(|| {
        format!(
            "MILENA_UNSYNCED is {value:?}; it may be page-cache (the default) or, for tests, memory or memory-and-skip-syncs"
        )
    })
}

/// Which flags a file gave.
#[derive(Default)]
pub struct FromFile {
    path: String,
    names: BTreeSet<String>,
}

impl FromFile {
    /// A complaint about a flag, as in `--shards <SHARDS>`, with the file and key that its value came from.
    pub fn blame(&self, complaint: &str, flag: &str) -> String {
        let name = flag.trim_start_matches("--").split([' ', '=']).next().unwrap_or(flag);
        if !self.names.contains(name) {
            return complaint.into();
        }
        complaint.replace(&format!("'{flag}'"), &format!("{name} in {}", self.path))
    }
}

/// Puts what the file of `--config` says behind arguments, as flags; flags that are given stay. `known` are the names a
/// file may have.
pub fn with_file(
    arguments: Vec<String>,
    known: &BTreeSet<String>,
) -> Result<(Vec<String>, FromFile), String> {
    let path = arguments.iter().enumerate().find_map(|(i, argument)| {
        match argument.strip_prefix("--config") {
            Some("") => arguments.get(i + 1).cloned(),
            Some(rest) => rest.strip_prefix('=').map(String::from),
            None => None,
        }
    });
    let Some(path) = path else { return Ok((arguments, FromFile::default())) };
    let given: BTreeSet<&str> = arguments
        .iter()
        .filter_map(|argument| argument.strip_prefix("--"))
        .map(|flag| flag.split('=').next().unwrap_or(flag))
        .collect();
    let mut all = arguments.clone();
    let mut names = BTreeSet::new();
    for (name, value) in read_file(Path::new(&path), known)? {
        if !given.contains(name.as_str()) {
            all.push(format!("--{name}={value}"));
            names.insert(name);
        }
    }
    Ok((all, FromFile { path, names }))
}

fn read_file(path: &Path, known: &BTreeSet<String>) -> Result<Vec<(String, String)>, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{shown}: {error}; check the path of --config"))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
        format!("{shown}, line {line}: {}", error.message())
    })?;
    let plain = |value: &toml::Value| match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(yes) => Some(yes.to_string()),
        _ => None,
    };
    let mut values = Vec::new();
    for (name, value) in table {
        if !known.contains(&name) {
            let nearest = known.iter().min_by_key(|other| distance(&name, other));
            let hint = nearest.filter(|other| distance(&name, other) <= 3);
            let hint = hint.map_or("keys are the flags of milena start".into(), |other| {
                format!("did you mean {other}?")
            });
            return Err(format!("{shown}: unknown key {name}; {hint}"));
        }
        let value = match &value {
            toml::Value::Array(items) => {
                items.iter().map(plain).collect::<Option<Vec<_>>>().map(|items| items.join(","))
            }
            other => plain(other),
        };
        let value = value.ok_or_else(|| {
            format!("{shown}: {name} must be a text, a number or a list, as its flag would be")
        })?;
        values.push((name, value));
    }
    Ok(values)
}

/// Single-character edits from one word to another.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> BTreeSet<String> {
        ["node-id", "data", "cluster", "segment-bytes"].map(String::from).into()
    }

    fn with(text: &str, arguments: &[&str]) -> Result<Vec<String>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let path = file.path().display().to_string();
        let mut all: Vec<String> = arguments.iter().map(|a| a.to_string()).collect();
        all.push(format!("--config={path}"));
        let result = with_file(all, &known());
        result
            .map(|(all, _)| all.into_iter().filter(|a| !a.starts_with("--config")).collect())
            .map_err(|error| error.replace(&path, "FILE"))
    }

    #[test]
    fn a_file_adds_what_no_flag_says() {
        let all =
            with("node-id = 3\ncluster = [\"1@a:1\", \"2@b:2\"]\ndata = \"x\"", &["--data", "y"]);
        assert_eq!(all.unwrap(), ["--data", "y", "--cluster=1@a:1,2@b:2", "--node-id=3"]);
    }

    #[test]
    fn a_bad_file_is_named_with_its_fault() {
        let fault = |text| with(text, &[]).unwrap_err();
        assert_eq!(fault("node_id = 3"), "FILE: unknown key node_id; did you mean node-id?");
        assert_eq!(
            fault("colour = 3"),
            "FILE: unknown key colour; keys are the flags of milena start"
        );
        assert_eq!(
            fault("data = {}"),
            "FILE: data must be a text, a number or a list, as its flag would be"
        );
        assert!(fault("\n= 3").starts_with("FILE, line 2: "));
        let missing = with_file(vec!["--config".into(), "/no/such".into()], &known());
        assert!(missing.err().unwrap().contains("check the path of --config"));
    }

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in ["127.0.0.1:9092", "[::1]:1", "broker.example:65535"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        for text in ["", "a", "a:", "a:0", "a:65536", ":1", "[]:1"] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
        let admin = |text| admin_address(text).map(|address| address.to_string());
        assert_eq!(admin("9644").as_deref(), Ok("127.0.0.1:9644"));
        assert_eq!(admin("[::]:9644").as_deref(), Ok("[::]:9644"));
        for text in ["", "0", "localhost", "65536", ":1"] {
            assert!(admin(text).is_err(), "{text}");
        }
        assert!("x@a:1".parse::<Controller>().is_err());
        assert!("-1@a:1".parse::<Controller>().is_err());
    }
}
