//! The production driver: real sockets, files, clocks and threads around the machines of `core`. It decides nothing that
//! could lose a record.
//!
//! A produce on its way: [`frames`] cuts the bytes, [`kafka`] decodes the request and leaves a slot for its answer,
//! [`host`] steps the shard's machine and gives [`files`] what it wants written and [`links`] what it wants sent; disk and
//! peers answer to the host, which steps the machine again, and the answer goes to the slot and out.

pub mod accept;
pub mod admin;
pub mod cli;
pub mod client;
pub mod config;
pub mod files;
pub mod frames;
pub mod host;
pub mod kafka;
pub mod links;
pub mod metrics;
pub mod node;
pub mod peers;
pub mod report;
pub mod runtime;
pub mod warnings;
pub mod watch;
