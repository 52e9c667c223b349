//! The simulator: the other driver of core's machines, in virtual time, with a simulated network, simulated disks, faults,
//! clients and checkers.
//!
//! ```text
//!   scenario ── a seed expands into ──▶ schedule ──▶ cluster ──▶ report
//!                                                      │ the loop; faults: what strikes; phases: how it ends
//!                                                      │ queue, node, disk, network, addresses, client
//!                                                      └ check, history: what must hold
//! ```
//!
//! Nothing here decides anything about the protocol, and nothing of it is seen by a node.

mod addresses;
pub mod check;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod disk;
pub mod fingerprint;
pub mod history;
pub mod network;
pub mod node;
pub mod queue;
pub mod report;
pub mod rng;
pub mod scenario;
pub mod schedule;
