//! The metadata quorum as an interaction script, and under bad weather by seeds.
//!
//! Each script is a small story whose transcript is a snapshot: read the diff when it changes. The seeds check what may never
//! happen while nodes crash, disks forget, messages are lost, late and doubled, and one disk is destroyed.

mod check;
mod disk;
mod scripts;
mod seeds;
mod world;

use milena_core::config::{QuorumConfig, ReplicationConfig, StorageConfig};
use milena_core::{Config, NodeId};

/// A node of a cluster whose controllers are listed.
pub fn config(id: i32, controllers: &[i32]) -> Config {
    let address = |id: &i32| (NodeId(*id), format!("node{id}:9093"));
    Config {
        node: NodeId(id),
        controllers: controllers.iter().map(address).collect(),
        broker: true,
        controller: controllers.contains(&id),
        kafka: (format!("node{id}"), 9092),
        peer: format!("node{id}:9093"),
        rack: None,
        shards: 1,
        storage: StorageConfig {
            metadata_journal_file_bytes: 64 << 10,
            journal_files: 3,
            segment_bytes: 16 << 10,
            group_bytes_max: 16 << 10,
            ..StorageConfig::default()
        },
        quorum: QuorumConfig {
            election_timeout_ms: 100,
            heartbeat_ms: 20,
            snapshot_every_records: 50,
            message_bytes_max: 2_000,
            ..QuorumConfig::default()
        },
        replication: ReplicationConfig::default(),
    }
}

/// The controllers of a cluster.
pub fn cluster(ids: &[i32]) -> Vec<Config> {
    ids.iter().map(|id| config(*id, ids)).collect()
}
