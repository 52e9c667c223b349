//! The simulator: the other driver of core's machines, in virtual time, with a simulated network, simulated disks, faults,
//! clients and checkers.
//!
//! ```text
//!   scenario, script ── a seed expands into ──▶ schedule ──▶ cluster (the loop) ──▶ report
//!                                                              │ queue, node, disk, network, client
//!                                                              │ faults: what strikes; phases: how it ends
//!                                                              └ check, history: what must hold
//! ```
//!
//! Nothing here decides anything about the protocol, and nothing of it is seen by a node.

mod addresses;
pub mod check;
pub mod cli;
pub mod client;
pub mod cluster;
mod connections;
pub mod disk;
mod faults;
pub mod fingerprint;
pub mod history;
pub mod network;
pub mod node;
mod phases;
pub mod queue;
pub mod report;
pub mod rng;
pub mod scenario;
pub mod schedule;
