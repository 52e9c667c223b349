//! What controllers say to each other.

use serde::{Deserialize, Serialize};

/// Between controllers before there is a cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FoundingMessage {}

/// Between the replicas of the metadata log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum QuorumMessage {}
