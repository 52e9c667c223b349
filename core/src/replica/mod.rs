//! Replicas of a partition: leader, follower, high watermark, in-sync set.
pub mod message;
