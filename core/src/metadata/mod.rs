//! The cluster's metadata: its records, the image they make, and the machine that keeps both.
mod active;
mod admin;
mod broker;
mod departure;
mod describe;
mod image;
mod machine;
mod news;
mod record;
mod waiting;
pub use image::{Broker, Image, Partition, Topic};
pub use machine::{Metadata, MetadataView};
pub use record::{DecodeError, Record, decode_records, encode_records};
