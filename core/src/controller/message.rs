//! What brokers and the active controller say to each other.

use serde::{Deserialize, Serialize};

/// Between a broker and the active controller.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum ControllerMessage {}
