//! Kafka messages as Rust types, their bounded codec, and record batches.
