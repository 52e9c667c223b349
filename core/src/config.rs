//! What a node is told once, when it starts. Every bound and time of core stands here with its unit; the driver fills it
//! from flags and file, the simulator draws it per seed.

use crate::NodeId;

/// A node's settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// The controllers of the cluster, sorted by id, the same on every node: id and `HOST:PORT` for peers.
    pub controllers: Vec<(NodeId, String)>,
    /// Whether this node holds partitions and serves clients.
    pub broker: bool,
    /// Whether this node is a controller. It is then in `controllers`.
    pub controller: bool,
    /// Where Kafka clients are told to come.
    pub kafka: (String, u16),
    /// Where other nodes reach this one, `HOST:PORT`.
    pub peer: String,
    /// Rack, if any.
    pub rack: Option<String>,
    /// Shards of this node, at least 1; may differ from one start to the next.
    pub shards: u16,
    /// The storage engine.
    pub storage: StorageConfig,
    /// The quorum and the brokers' sessions.
    pub quorum: QuorumConfig,
    /// Replicas and client requests.
    pub replication: ReplicationConfig,
}

/// Sizes and times of the storage engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StorageConfig {
    /// Size of one journal file of a shard, bytes, a multiple of 4096.
    pub journal_file_bytes: u32,
    /// The same of the metadata log's journal, through which little goes.
    pub metadata_journal_file_bytes: u32,
    /// Journal files per journal, at least 3. Each begins with a 64th of its size, is filled up ahead of its use, and is recycled
    /// ever after.
    pub journal_files: u32,
    /// A group is closed at this many bytes even if more is waiting.
    pub group_bytes_max: u32,
    /// Default of `segment.bytes`.
    pub segment_bytes: u64,
    /// A lookup reads at most this many bytes of a segment beside the answer.
    pub index_interval_bytes: u32,
    /// Batches kept in memory until segments hold them, bytes per machine; produce and pushes wait at it.
    pub memory_bytes_max: u64,
    /// An idle journal writes one more mark after this many milliseconds.
    pub idle_mark_ms: u64,
    /// Retention is looked at this often, milliseconds, and which producers are to be forgotten.
    pub retention_check_ms: u64,
    /// A log forgets an idempotent producer that has appended nothing to it for so many milliseconds
    /// (`producer.id.expiration.ms`).
    pub producer_id_expiration_ms: i64,
    /// Idempotent producers that a log knows at most. What it knows of each takes 170 bytes at most where it is written, and all
    /// of it goes into one push.
    pub producer_ids_max: u32,
    /// What the cleaner of one shard keeps of the keys of a log takes so many bytes at most, 32 for a key; of a log with more
    /// keys it cleans a part at a time (`log.cleaner.dedupe.buffer.size`, of which each shard has its share).
    pub cleaner_buffer_bytes: u64,
    /// The cleaner of one shard reads and writes so many bytes a second at most (`log.cleaner.io.max.bytes.per.second`, likewise).
    pub cleaner_bytes_per_s: u64,
    /// The cleaner looks for dirty logs this often, milliseconds (`log.cleaner.backoff.ms`).
    pub cleaner_backoff_ms: u64,
    /// Produce is refused when the file system has less than this many bytes free, or than what the journal is still to fill
    /// ahead, beyond a second copy of what is live.
    pub reserve_bytes: u64,
}

/// The quorum, its times in milliseconds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuorumConfig {
    /// A follower that hears nothing for this long, or up to twice of it, asks for pre-votes.
    pub election_timeout_ms: u64,
    /// A leader sends at least this often.
    pub heartbeat_ms: u64,
    /// A snapshot is taken after this many records since the last.
    pub snapshot_every_records: u64,
    /// Bytes of one part of a snapshot on its way to a follower, or of one append.
    pub message_bytes_max: u32,
    /// A broker says that it lives this often.
    pub broker_heartbeat_ms: u64,
    /// A broker silent for this long is fenced.
    pub broker_session_ms: u64,
    /// The preferred leader gets its partition back when it has been in sync this long.
    pub preferred_leader_ms: u64,
    /// A broker that is to stop waits this long at most for others to take over.
    pub stop_ms_max: u64,
    /// How the operator says who the controllers are, for advice.
    pub controllers_flag: &'static str,
}

/// Replicas and client requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicationConfig {
    /// A follower that has not reached the leader's end for this long is proposed for removal (`replica.lag.time.max.ms`).
    pub lag_ms_max: u64,
    /// Unacknowledged pushes are sent again after this long.
    pub push_retry_ms: u64,
    /// How many replicas of a shard ask one follower where it stands at a time, and how many ask the controller for another
    /// in-sync set.
    pub turns_max: usize,
    /// Record bytes of one push.
    pub push_bytes_max: u32,
    /// Record bytes on their way to one follower of one partition.
    pub push_window_bytes: u32,
    /// Largest batch taken from a producer (`message.max.bytes`).
    pub batch_bytes_max: u32,
    /// What a batch may hold decompressed, bytes; a produced batch is opened to be checked, a window of it at a time.
    pub opened_bytes_max: usize,
    /// Record bytes of one fetch answer at most, whatever the client asks for.
    pub fetch_bytes_max: u32,
    /// Fetch sessions remembered per shard (`max.incremental.fetch.session.cache.slots`).
    pub fetch_sessions_max: usize,
    /// A fetch session unused for this long gives way to a new one where there are as many as may be
    /// (`min.incremental.fetch.session.eviction.ms` of KIP-227).
    pub fetch_session_evictable_ms: u64,
    /// Default of `min.insync.replicas`.
    pub min_insync_replicas: u16,
    /// Partitions of one topic at most, and partitions, topics or resources of one request.
    pub partitions_max: u32,
}

/// What a Kafka connection may have in flight, see [`crate::pipeline`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PipelineConfig {
    /// Requests of one connection that are not answered yet.
    pub in_flight_max: usize,
    /// Bytes of such requests; one request may be larger.
    pub in_flight_bytes_max: usize,
    /// Bytes answered and not taken by the client, with what its fetches in flight may bring; beyond it no more requests are read.
    pub unsent_bytes_max: usize,
    /// Bytes answered and not taken by the clients of one shard, see [`crate::pipeline`]. Give it several times the largest answer.
    pub shard_unsent_bytes_max: usize,
    /// A request that has begun must be whole after this long, and of an answer the client must take some.
    pub frame_ms_max: u64,
    /// Memory that each connection has for its requests alone, bytes. What they take beyond it is what others may wait for.
    pub own_bytes: usize,
    /// While others wait for memory, a request that has begun and holds more than its connection's own must grow within this long.
    pub stalled_ms_max: u64,
    /// A connection without any request in flight for this long is closed (`connections.max.idle.ms`).
    pub idle_ms_max: u64,
}

impl Default for PipelineConfig {
    fn default() -> Self {
        PipelineConfig {
            in_flight_max: 128,
            in_flight_bytes_max: 64 << 20,
            unsent_bytes_max: 64 << 20,
            shard_unsent_bytes_max: 512 << 20,
            frame_ms_max: 60_000,
            own_bytes: 64 << 10,
            stalled_ms_max: 5_000,
            idle_ms_max: 600_000,
        }
    }
}

impl Default for StorageConfig {
    fn default() -> Self {
        StorageConfig {
            journal_file_bytes: 16 << 20,
            metadata_journal_file_bytes: 2 << 20,
            journal_files: 8,
            group_bytes_max: 4 << 20,
            segment_bytes: 1 << 30,
            index_interval_bytes: 64 << 10,
            memory_bytes_max: 256 << 20,
            idle_mark_ms: 5,
            retention_check_ms: 300_000,
            producer_id_expiration_ms: 24 * 60 * 60 * 1000,
            producer_ids_max: 10_000,
            cleaner_buffer_bytes: 128 << 20,
            cleaner_bytes_per_s: u64::MAX,
            cleaner_backoff_ms: 15_000,
            reserve_bytes: 64 << 20,
        }
    }
}

impl Default for QuorumConfig {
    fn default() -> Self {
        QuorumConfig {
            election_timeout_ms: 500,
            heartbeat_ms: 100,
            snapshot_every_records: 5_000,
            message_bytes_max: 1 << 20,
            broker_heartbeat_ms: 200,
            broker_session_ms: 2_000,
            preferred_leader_ms: 5_000,
            stop_ms_max: 5_000,
            controllers_flag: "--cluster",
        }
    }
}

impl Default for ReplicationConfig {
    fn default() -> Self {
        ReplicationConfig {
            lag_ms_max: 10_000,
            push_retry_ms: 300,
            turns_max: 500,
            push_bytes_max: 4 << 20,
            push_window_bytes: 32 << 20,
            batch_bytes_max: 1_048_588,
            opened_bytes_max: 128 << 20,
            fetch_bytes_max: 55 << 20,
            fetch_sessions_max: 1_000,
            fetch_session_evictable_ms: 120_000,
            min_insync_replicas: 2,
            partitions_max: 10_000,
        }
    }
}
