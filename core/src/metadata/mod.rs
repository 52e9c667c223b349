//! The machine that keeps the cluster's metadata: the quorum, the controller while it leads, the broker's registration.
mod active;
mod admin;
mod broker;
mod departure;
mod describe;
mod machine;
mod news;
mod producer_ids;
mod waiting;
pub use machine::{Metadata, MetadataView};
