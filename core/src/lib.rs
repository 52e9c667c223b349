//! Every decision of the broker, as state machines that touch nothing.
//!
//! A node is a few machines that share nothing and exchange messages:
//!
//! ```text
//!            Boot  ── recovery of the disk, then it hands over to ──┐
//!                                                                  ▼
//!   peers ──▶ Metadata (one)            Shard 0 .. Shard S-1 (own partitions by hash)
//!             quorum, controller,  ◀──▶ replicas, journal, segments,
//!             broker lifecycle   Local  Kafka requests of their connections
//! ```
//!
//! Each machine has one face, see [`Machine`]: `step(now, Input, &mut Outputs)`, one deadline with its reason, and a
//! read-only [`View`]. A driver (`net` with sockets, files and clocks; `sim` with none of them) waits for the first of
//! message, disk result, request and deadline, reads the clock once, steps, and does at once whatever came out.
//!
//! There is no clock, file, socket, thread, async or entropy here: `clippy.toml` holds that line.

pub mod addresses;
pub mod api;
pub mod config;
pub mod controller;
pub mod disk;
pub mod ids;
pub mod image;
pub mod local;
pub mod machine;
pub mod metadata;
pub mod node;
pub mod partitions;
pub mod peer;
pub mod pipeline;
pub mod quorum;
mod refusal;
pub mod replica;
mod requests;
pub mod shard;
pub mod storage;
pub mod time;
mod timers;
pub mod trace;

pub use config::Config;
pub use ids::*;
pub use machine::*;
pub use node::{Boot, Node};
pub use refusal::Refusal;
pub use storage::Work;
pub(crate) use time::{EARLY_MS, OTHERS_MS};
pub use time::{Instant, Now, Timestamp};
