//! What a run does, written down before it begins: the cluster's shape and sizes, and every fault with its time and the
//! conditions on the live state under which it may strike.
//!
//! A seed and a scenario expand into a schedule (see [`crate::scenario`]); the run itself knows only the schedule, and a
//! failure leaves it behind as a file. An entry whose conditions do not hold is skipped and recorded as skipped, so that
//! one schedule stays meaningful while code and other entries change around it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use milena_core::NodeId;
use milena_core::config::{Config, PipelineConfig, QuorumConfig, ReplicationConfig, StorageConfig};
use serde::{Deserialize, Serialize};

use crate::disk::{self, FileKind};
use crate::network::NetworkSettings;

/// Version of the file format. Another one is refused.
pub const FORMAT: u32 = 1;

/// A whole run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Schedule {
    /// See [`FORMAT`].
    pub format: u32,
    /// The scenario that it came from.
    pub scenario: String,
    /// The seed, which every draw during the run comes from.
    pub seed: u64,
    /// Shape and sizes.
    pub setup: Setup,
    /// What happens, by time.
    pub entries: Vec<Entry>,
}

/// The cluster, its sizes and its clients.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// The nodes, whose ids count from 1.
    pub nodes: Vec<NodeSetup>,
    /// The network.
    pub network: NetworkSettings,
    /// The disks.
    pub disk: DiskSettings,
    /// Sizes and times of core.
    pub core: CoreSettings,
    /// What a client's connection may have in flight.
    #[serde(default)]
    pub pipeline: PipelineSettings,
    /// Topics made at the start.
    pub topics: Vec<TopicSetup>,
    /// Producers.
    pub producers: Vec<ProducerSetup>,
    /// Consumers.
    pub consumers: Vec<ConsumerSetup>,
    /// Clients that look things up.
    #[serde(default)]
    pub seekers: Vec<SeekerSetup>,
    /// Clients that ask for what is not there.
    #[serde(default)]
    pub strangers: Vec<StrangerSetup>,
    /// Clients begin no earlier, and entries strike no earlier than they say.
    pub heal_at_ms: u64,
    /// The workload goes on beyond healing until so many records are acknowledged with acks=all.
    pub acked_min: u64,
    /// After healing everything must have come right within this long.
    pub converge_ms_max: u64,
    /// Whether the scenario goes beyond what the theorem allows: then loss must be seen or refused, and convergence is not
    /// owed.
    pub beyond_budget: bool,
    /// Whether the scenario promises faults, so that a run without any proves nothing.
    pub promises_faults: bool,
    /// What it is about, if it is dense.
    #[serde(default)]
    pub subject: Option<Subject>,
    /// Where nothing but what the scenario is about strikes: while every node has been up for this long, there is a controller and
    /// each broker serves.
    #[serde(default)]
    pub back_within_ms: Option<u64>,
    /// A batch is acknowledged within this long, and no producer sees an error but that another broker leads: where nothing but
    /// stops in good order happens.
    #[serde(default)]
    pub gap_ms_max: Option<u64>,
}

/// What a dense run is about, see [`crate::scenario::dense`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// Leaders of the quorum fall silent one after the other, each with a tail of its own.
    Elections,
    /// Partitions change leaders while pushes and acknowledgements of earlier epochs are still on their way.
    StaleEpochs,
    /// Disks are destroyed, put back and damaged.
    LostDisks,
    /// Nodes stop, and their disks fail, while they recover.
    Recovery,
    /// Disks have no room.
    FullDisks,
    /// Topics are made and deleted, several of one name after each other.
    Topics,
    /// Logs are trimmed.
    Retention,
    /// One node is away for long, and nothing else disturbs the others.
    Absences,
    /// Disks do all that disks do, on one node and on three.
    Disks,
}

impl Subject {
    /// All of them.
    pub const ALL: [Subject; 9] = [
        Subject::Elections,
        Subject::StaleEpochs,
        Subject::LostDisks,
        Subject::Recovery,
        Subject::FullDisks,
        Subject::Topics,
        Subject::Retention,
        Subject::Absences,
        Subject::Disks,
    ];
}

/// A node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeSetup {
    /// Whether it holds partitions.
    pub broker: bool,
    /// Whether it is a controller.
    pub controller: bool,
    /// Shards.
    pub shards: u16,
    /// When it starts for the first time.
    pub start_ms: u64,
}

/// How disks behave when nothing is wrong.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DiskSettings {
    /// Typical time of a command other than a sync, microseconds.
    pub command_us: u64,
    /// Typical time of a sync, microseconds.
    pub sync_us: u64,
    /// Typical time of filling a journal file, microseconds; as a sync if none.
    #[serde(default)]
    pub fill_us: Option<u64>,
    /// Bytes.
    pub capacity: u64,
}

/// Sizes and times of core that are drawn per seed; see [`Config`] for their meaning.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct CoreSettings {
    pub journal_file_bytes: u32,
    pub metadata_journal_file_bytes: u32,
    pub journal_files: u32,
    pub group_bytes_max: u32,
    pub segment_bytes: u64,
    pub index_interval_bytes: u32,
    pub memory_bytes_max: u64,
    pub idle_mark_ms: u64,
    pub retention_check_ms: u64,
    pub reserve_bytes: u64,
    pub election_timeout_ms: u64,
    pub heartbeat_ms: u64,
    pub snapshot_every_records: u64,
    pub message_bytes_max: u32,
    pub broker_heartbeat_ms: u64,
    pub broker_session_ms: u64,
    pub preferred_leader_ms: u64,
    pub lag_ms_max: u64,
    pub push_retry_ms: u64,
    #[serde(default = "turns")]
    pub turns_max: usize,
    pub push_bytes_max: u32,
    pub push_window_bytes: u32,
    pub batch_bytes_max: u32,
    pub fetch_bytes_max: u32,
    pub fetch_sessions_max: usize,
    #[serde(default = "evictable")]
    pub fetch_session_evictable_ms: u64,
    #[serde(default)]
    pub cleaner: CleanerSettings,
    #[serde(default)]
    pub producers: ProducerLimits,
}

/// What is drawn per seed of how long and of how many producers a log knows; see [`StorageConfig`] for the meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ProducerLimits {
    pub expiration_ms: i64,
    pub ids_max: u32,
}

impl Default for ProducerLimits {
    fn default() -> ProducerLimits {
        let StorageConfig { producer_id_expiration_ms, producer_ids_max, .. } =
            StorageConfig::default();
        ProducerLimits { expiration_ms: producer_id_expiration_ms, ids_max: producer_ids_max }
    }
}

/// What is drawn per seed of a node's cleaner; see [`StorageConfig`] for the meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct CleanerSettings {
    pub backoff_ms: u64,
    pub buffer_bytes: u64,
    pub bytes_per_s: u64,
}

impl Default for CleanerSettings {
    fn default() -> CleanerSettings {
        let StorageConfig { cleaner_backoff_ms, cleaner_buffer_bytes, cleaner_bytes_per_s, .. } =
            StorageConfig::default();
        CleanerSettings {
            backoff_ms: cleaner_backoff_ms,
            buffer_bytes: cleaner_buffer_bytes,
            bytes_per_s: cleaner_bytes_per_s,
        }
    }
}

/// What is drawn per seed of what a client's connection may have in flight; see [`PipelineConfig`] for the meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PipelineSettings {
    pub unsent_bytes_max: usize,
    #[serde(default = "shard_unsent")]
    pub shard_unsent_bytes_max: usize,
    pub frame_ms_max: u64,
}

impl Default for PipelineSettings {
    fn default() -> PipelineSettings {
        let PipelineConfig { unsent_bytes_max, shard_unsent_bytes_max, frame_ms_max, .. } =
            PipelineConfig::default();
        PipelineSettings { unsent_bytes_max, shard_unsent_bytes_max, frame_ms_max }
    }
}

impl PipelineSettings {
    /// Core's configuration.
    pub fn config(self) -> PipelineConfig {
        let PipelineSettings { unsent_bytes_max, shard_unsent_bytes_max, frame_ms_max } = self;
        PipelineConfig {
            unsent_bytes_max,
            shard_unsent_bytes_max,
            frame_ms_max,
            ..PipelineConfig::default()
        }
    }
}

/// What a shard's clients might leave untaken before that was drawn.
fn shard_unsent() -> usize {
    PipelineConfig::default().shard_unsent_bytes_max
}

/// When a fetch session might give way before that was drawn.
fn evictable() -> u64 {
    ReplicationConfig::default().fetch_session_evictable_ms
}

/// Turns to ask before they were drawn.
fn turns() -> usize {
    ReplicationConfig::default().turns_max
}

/// A topic.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TopicSetup {
    /// Its name.
    pub name: String,
    /// Partitions.
    pub partitions: i32,
    /// Replication factor.
    pub replication: i16,
    /// `min.insync.replicas`.
    pub min_insync: u16,
    /// `segment.bytes`, if not the default.
    pub segment_bytes: Option<u64>,
    /// `retention.bytes`, if limited.
    pub retention_bytes: Option<i64>,
    /// `retention.ms`, if not the default.
    #[serde(default)]
    pub retention_ms: Option<i64>,
    /// Whether records have the broker's time (`message.timestamp.type`).
    #[serde(default)]
    pub log_append_time: bool,
    /// How it is compacted, if it is.
    #[serde(default)]
    pub compaction: Option<Compaction>,
}

/// How a topic is compacted.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Compaction {
    /// Whether its old records go too (`cleanup.policy=compact,delete`).
    pub deletes: bool,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// `min.compaction.lag.ms`.
    pub min_lag_ms: i64,
    /// `max.compaction.lag.ms`, if it is limited.
    pub max_lag_ms: Option<i64>,
    /// `min.cleanable.dirty.ratio`, in hundredths.
    pub dirty_percent: u64,
    /// How many keys each of its partitions has.
    pub keys: u64,
}

/// A producer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ProducerSetup {
    /// 0, 1 or -1 (all).
    pub acks: i16,
    /// Typical pause between two sends, microseconds.
    pub pause_us: u64,
    /// Most records of one batch.
    pub records_max: u64,
    /// Most bytes of one value beyond its number.
    pub bytes_max: u64,
    /// Requests on their way at most.
    pub in_flight: usize,
    /// Whether values compress.
    pub compress: bool,
    /// Partitions of one request at most.
    #[serde(default = "one")]
    pub partitions_max: usize,
    /// Whether each batch has one record, and with it a journal's record is a sector long: one begins at each block of a group.
    #[serde(default)]
    pub even: bool,
    /// Whether batches are of every codec, with timestamps of every strangeness, and some such that they must be refused.
    #[serde(default)]
    pub strange: bool,
    /// Whether it goes on for a while with topics that are gone, by their ids.
    #[serde(default)]
    pub clings: bool,
    /// Whether it has a producer id and numbers its batches, so that each stands once however often it is sent.
    #[serde(default)]
    pub idempotent: bool,
    /// What it speaks.
    #[serde(default)]
    pub dialect: Dialect,
}

impl Default for ProducerSetup {
    /// One that sends small values one by one with acks=all.
    fn default() -> ProducerSetup {
        ProducerSetup {
            acks: -1,
            pause_us: 1_000,
            records_max: 1,
            bytes_max: 10,
            in_flight: 1,
            compress: false,
            partitions_max: 1,
            even: false,
            strange: false,
            clings: false,
            idempotent: false,
            dialect: Dialect::default(),
        }
    }
}

fn one() -> usize {
    1
}

/// A consumer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ConsumerSetup {
    /// Typical pause between two fetches, microseconds.
    pub pause_us: u64,
    /// Whether it uses incremental fetch sessions.
    pub sessions: bool,
    /// Bytes per partition and fetch.
    pub partition_bytes: i32,
    /// Most bytes that an answer waits for; 1 waits for any.
    #[serde(default = "one")]
    pub min_bytes: usize,
    /// Whether it says of which epoch the last record is that it has.
    #[serde(default)]
    pub says_epoch: bool,
    /// Whether it goes on with topics that are gone, by their ids.
    #[serde(default)]
    pub clings: bool,
    /// What it speaks.
    #[serde(default)]
    pub dialect: Dialect,
}

impl Default for ConsumerSetup {
    /// One that polls each millisecond for whatever is there.
    fn default() -> ConsumerSetup {
        ConsumerSetup {
            pause_us: 1_000,
            sessions: false,
            partition_bytes: 1_000,
            min_bytes: 1,
            says_epoch: false,
            clings: false,
            dialect: Dialect::default(),
        }
    }
}

/// A client that looks things up: by time, by largest timestamp, by epoch.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SeekerSetup {
    /// Typical pause between two lookups, microseconds.
    pub pause_us: u64,
    /// What it speaks.
    pub dialect: Dialect,
}

/// A client that asks for what is not there.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct StrangerSetup {
    /// Typical pause between two questions, microseconds.
    pub pause_us: u64,
    /// Whether its requests and answers pass through the wire's encoder and decoder on their way.
    pub encoded: bool,
}

/// What a client speaks: a version of each API, and whether its requests and answers pass through the wire's encoder and
/// decoder on their way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Dialect {
    pub produce: i16,
    pub fetch: i16,
    pub list_offsets: i16,
    pub epoch_ends: i16,
    pub encoded: bool,
}

impl Default for Dialect {
    /// What every client spoke before there was a choice.
    fn default() -> Dialect {
        Dialect { produce: 10, fetch: 12, list_offsets: 5, epoch_ends: 4, encoded: false }
    }
}

/// One thing that happens.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// When, microseconds since the run began.
    pub at_us: u64,
    /// What.
    pub action: Action,
    /// What must hold of the live state for it to strike.
    #[serde(default)]
    pub guards: Vec<Guard>,
    /// How long to wait for the guards before it is skipped, microseconds.
    #[serde(default)]
    pub patience_us: u64,
}

/// A condition on the live state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guard {
    /// When the target is up.
    Up,
    /// When the target has been recovering its disk for so many microseconds.
    Recovering(u64),
    /// When the target's disk holds bytes that no sync covers.
    Unsynced,
    /// When the theorem still lets this disk be lost: elsewhere an eligible replica holds each committed record, and enough
    /// voters keep their disks.
    Budget,
    /// When the quorum has elected so many leaders since the entry came due, the last of them so many microseconds ago.
    Elected(u32, u64),
    /// When the run has acknowledged at least this many records.
    Acked(u64),
    /// When every node is up and no stop is under way, and each replica is in sync: so an operator waits between two restarts.
    Whole,
}

/// Which node is meant. Roles are resolved when the entry strikes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// By index, from 0.
    Node(usize),
    /// The leader of a partition, counted over all that exist.
    Leader(usize),
    /// A follower of a partition, counted likewise.
    Follower(usize),
    /// The quorum's leader.
    Controller,
}

/// Something that happens.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// When something breaks.
    Fault(Fault),
    /// When a topic is made.
    CreateTopic(TopicSetup),
    /// When a topic is deleted, the oldest that a run made beyond its first.
    DeleteTopic {
        /// Its name.
        name: String,
    },
    /// When a topic gets more partitions.
    GrowTopic {
        /// Its name.
        name: String,
        /// How many it is to have in all.
        partitions: i32,
    },
    /// When a node starts again with another number of shards, in good order otherwise.
    Reshard {
        /// Which.
        node: Target,
        /// Shards from now on.
        shards: u16,
        /// How long it is away, milliseconds.
        down_ms: u64,
    },
}

/// Something that breaks.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Fault {
    /// When a process is asked to stop in good order.
    OrderlyStop {
        node: Target,
        down_ms: u64,
        /// Shards from then on; as many as before if none.
        #[serde(default)]
        shards: Option<u16>,
    },
    /// When a process dies. The page cache stays.
    Crash { node: Target, down_ms: u64 },
    /// When processes die and come back at other addresses, one after the other, with the list of all new ones: at fresh ones,
    /// or each at the one that the next had. The others keep the list that they have.
    Move { nodes: Vec<Target>, among_themselves: bool, down_ms: u64, gap_ms: u64 },
    /// When power is lost: what no sync covers survives sector by sector, as chance has it.
    PowerLoss { nodes: Vec<Target>, down_ms: u64 },
    /// When a process is stopped for a while and sees nothing of it.
    Pause { node: Target, for_ms: u64 },
    /// When a wall clock jumps.
    ClockJump { node: Target, by_ms: i64 },
    /// When a monotonic clock runs fast or slow, in parts per million.
    ClockRate { node: Target, ppm: i64 },
    /// When some nodes are cut off from the others.
    Partition { side: Vec<Target>, direction: Direction, for_ms: u64 },
    /// When two nodes are cut off from each other, and both reach all others. Outward is what the first one sends; where there is
    /// no second one, or it is the first, the next is.
    CutLink { node: Target, from: Target, direction: Direction, for_ms: u64 },
    /// When the connections of a node break.
    Break { node: Target },
    /// When a node's links are slow.
    SlowLinks { node: Target, factor: u64, for_ms: u64 },
    /// When every link loses, doubles and reorders much.
    Storm { for_ms: u64 },
    /// When a disk is slow.
    SlowDisk { node: Target, factor: u64, for_ms: u64 },
    /// When a disk is full
    /// but for so many bytes, and where it copies on write, overwriting takes room too.
    FullDisk {
        node: Target,
        for_ms: u64,
        #[serde(default)]
        room: u64,
        #[serde(default)]
        copies_on_write: bool,
    },
    /// When the next sync fails: the pages read new, count as clean, and the next sync succeeds.
    SyncFailure { node: Target },
    /// When the next write fails.
    WriteFailure { node: Target },
    /// When the next reads fail.
    ReadFailure { node: Target, reads: u32 },
    /// When the next creation, rename, removal or listing fails; with a time, a process dies and meets it as it comes back.
    NameFailure { node: Target, of: disk::Fault, times: u32, down_ms: Option<u64> },
    /// When a disk is lost and replaced by an empty one.
    DestroyDisk { node: Target, down_ms: u64 },
    /// When a broker's disk is put back to the image taken earlier in the run.
    Rollback { node: Target, down_ms: u64 },
    /// When the image that a later rollback needs is taken.
    TakeImage { node: Target },
    /// When bits of a synced segment turn.
    CorruptSegment { node: Target },
    /// When bits of a synced journal group turn that a mark on the disk covers.
    CorruptJournal { node: Target, down_ms: u64 },
    /// When a bit of a synced file of a kind turns, or of a checkpoint one of each slot; with a time, while its node has no power for
    /// so long.
    Rot {
        node: Target,
        of: FileKind,
        down_ms: Option<u64>,
        #[serde(default)]
        both_slots: bool,
    },
    /// When the clients' connections to a node break.
    HangUp { node: Target },
    /// When nothing passes between some clients and a node; inward is what the clients send.
    CutClients { node: Target, direction: Direction, for_ms: u64 },
    /// When the links between some clients and a node are slow.
    SlowClients { node: Target, factor: u64, for_ms: u64 },
    /// When some clients take nothing of what a node answers.
    StopReading { node: Target, for_ms: u64 },
    /// When what one node sends to another is slow, and nothing else is.
    SlowLink { from: Target, to: Target, factor: u64, for_ms: u64 },
}

/// Which way a partition swallows messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Both ways.
    Both,
    /// What the side sends.
    Outward,
    /// What is sent to the side.
    Inward,
}

impl Fault {
    /// Its kind, as the report counts it.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::OrderlyStop { .. } => "orderly-stop",
            Fault::Crash { .. } => "crash",
            Fault::PowerLoss { .. } => "power-loss",
            Fault::Move { .. } => "moved",
            Fault::Pause { .. } => "pause",
            Fault::ClockJump { .. } => "clock-jump",
            Fault::ClockRate { .. } => "clock-rate",
            Fault::Partition { direction: Direction::Both, .. } => "partition",
            Fault::Partition { .. } => "one-way-partition",
            Fault::CutLink { .. } => "cut-link",
            Fault::Break { .. } => "broken-connections",
            Fault::SlowLinks { .. } => "slow-links",
            Fault::Storm { .. } => "storm",
            Fault::SlowDisk { .. } => "slow-disk",
            Fault::FullDisk { .. } => "full-disk",
            Fault::SyncFailure { .. } => "sync-failure",
            Fault::WriteFailure { .. } => "write-failure",
            Fault::ReadFailure { .. } => "read-failure",
            Fault::DestroyDisk { .. } => "destroyed-disk",
            Fault::Rollback { .. } => "rollback",
            Fault::TakeImage { .. } => "image",
            Fault::CorruptSegment { .. } => "corrupt-segment",
            Fault::CorruptJournal { .. } => "corrupt-journal",
            Fault::NameFailure { .. } => "name-failure",
            Fault::Rot { .. } => "rot",
            Fault::HangUp { .. } => "hang-up",
            Fault::CutClients { direction: Direction::Both, .. } => "cut-clients",
            Fault::CutClients { .. } => "one-way-cut-clients",
            Fault::SlowClients { .. } => "slow-clients",
            Fault::StopReading { .. } => "stop-reading",
            Fault::SlowLink { .. } => "slow-link",
        }
    }

    /// Whether it breaks anything by itself.
    pub fn counts(&self) -> bool {
        !matches!(self, Fault::TakeImage { .. })
    }

    /// Whether records acknowledged from here on count as acknowledged under faults.
    pub fn opens_fault_phase(&self) -> bool {
        match self {
            Fault::OrderlyStop { .. }
            | Fault::Crash { .. }
            | Fault::PowerLoss { .. }
            | Fault::Move { .. }
            | Fault::Partition { .. }
            | Fault::CutLink { .. }
            | Fault::CutClients { .. }
            | Fault::SlowDisk { .. }
            | Fault::FullDisk { .. }
            | Fault::SyncFailure { .. }
            | Fault::WriteFailure { .. }
            | Fault::ReadFailure { .. }
            | Fault::NameFailure { .. }
            | Fault::Rot { .. }
            | Fault::DestroyDisk { .. }
            | Fault::Rollback { .. }
            | Fault::CorruptSegment { .. }
            | Fault::CorruptJournal { .. } => true,
            Fault::Pause { .. }
            | Fault::ClockJump { .. }
            | Fault::ClockRate { .. }
            | Fault::Break { .. }
            | Fault::SlowLinks { .. }
            | Fault::Storm { .. }
            | Fault::TakeImage { .. }
            | Fault::SlowClients { .. }
            | Fault::StopReading { .. }
            | Fault::SlowLink { .. }
            | Fault::HangUp { .. } => false,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Node(index) => write!(f, "node {}", index + 1),
            Target::Leader(partition) => write!(f, "leader of partition {partition}"),
            Target::Follower(partition) => write!(f, "follower of partition {partition}"),
            Target::Controller => f.write_str("controller"),
        }
    }
}

impl Schedule {
    /// Reads a saved schedule, JSON or TOML by its name.
    ///
    /// # Errors
    /// If the file cannot be read, is not a schedule, or is one of another format.
    pub fn load(path: &Path) -> anyhow::Result<Schedule> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let schedule: Schedule = if path.extension().is_some_and(|e| e == "toml") {
            toml::from_str(&text).with_context(|| format!("{} is no schedule", path.display()))?
        } else {
            serde_json::from_str(&text)
                .with_context(|| format!("{} is no schedule", path.display()))?
        };
        anyhow::ensure!(
            schedule.format == FORMAT,
            "{} is of format {}, this version reads {FORMAT}",
            path.display(),
            schedule.format
        );
        Ok(schedule)
    }

    /// Writes it where [`Schedule::load`] finds it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Setup {
    /// Core's configuration of a node, started with this list of where the nodes are.
    pub fn config(&self, index: usize, shards: u16, addresses: &[Arc<str>]) -> Config {
        let address = |index: usize| addresses[index].to_string();
        let core = &self.core;
        Config {
            node: NodeId(index as i32 + 1),
            controllers: (0..self.nodes.len())
                .filter(|i| self.nodes[*i].controller)
                .map(|i| (NodeId(i as i32 + 1), address(i)))
                .collect(),
            broker: self.nodes[index].broker,
            controller: self.nodes[index].controller,
            kafka: (format!("node-{}", index + 1), 9092),
            peer: address(index),
            rack: None,
            shards,
            storage: StorageConfig {
                journal_file_bytes: core.journal_file_bytes,
                metadata_journal_file_bytes: core.metadata_journal_file_bytes,
                journal_files: core.journal_files,
                group_bytes_max: core.group_bytes_max,
                segment_bytes: core.segment_bytes,
                index_interval_bytes: core.index_interval_bytes,
                memory_bytes_max: core.memory_bytes_max,
                idle_mark_ms: core.idle_mark_ms,
                retention_check_ms: core.retention_check_ms,
                reserve_bytes: core.reserve_bytes,
                cleaner_backoff_ms: core.cleaner.backoff_ms,
                cleaner_buffer_bytes: core.cleaner.buffer_bytes,
                cleaner_bytes_per_s: core.cleaner.bytes_per_s,
                producer_id_expiration_ms: core.producers.expiration_ms,
                producer_ids_max: core.producers.ids_max,
            },
            quorum: QuorumConfig {
                election_timeout_ms: core.election_timeout_ms,
                heartbeat_ms: core.heartbeat_ms,
                snapshot_every_records: core.snapshot_every_records,
                message_bytes_max: core.message_bytes_max,
                broker_heartbeat_ms: core.broker_heartbeat_ms,
                broker_session_ms: core.broker_session_ms,
                preferred_leader_ms: core.preferred_leader_ms,
                stop_ms_max: 1_000,
                ..QuorumConfig::default()
            },
            replication: ReplicationConfig {
                lag_ms_max: core.lag_ms_max,
                push_retry_ms: core.push_retry_ms,
                turns_max: core.turns_max,
                push_bytes_max: core.push_bytes_max,
                push_window_bytes: core.push_window_bytes,
                batch_bytes_max: core.batch_bytes_max,
                opened_bytes_max: 16 << 20,
                fetch_bytes_max: core.fetch_bytes_max,
                fetch_sessions_max: core.fetch_sessions_max,
                fetch_session_evictable_ms: core.fetch_session_evictable_ms,
                min_insync_replicas: 2,
                partitions_max: 1_000,
            },
        }
    }

    /// How many controllers there are.
    pub fn voters(&self) -> usize {
        self.nodes.iter().filter(|node| node.controller).count()
    }
}
