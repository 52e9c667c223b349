//! Kafka messages as Rust types, their bounded codec, and record batches.

/// A request of a Kafka client.
#[derive(Clone, PartialEq, Debug)]
pub enum Request {}

/// The answer to one.
#[derive(Clone, PartialEq, Debug)]
pub enum Response {}
