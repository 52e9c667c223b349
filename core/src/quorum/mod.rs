//! The metadata quorum: Raft over the metadata log, and how a cluster is founded.
pub mod message;
