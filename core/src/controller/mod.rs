//! The controller: pure functions from the image and a request to metadata records.
//!
//! Each function here looks at an image and a request and gives the records that answer it, or a refusal; it keeps and
//! sends nothing. What commits the records, and the little that is remembered between requests (sessions, the queue), is
//! [`crate::metadata`]. Every change of a partition goes through one function, [`partition_change`], whose result is
//! asserted to be a sane one: KIP-966 is in that file and nowhere else.

mod alter_partition;
mod broker;
pub mod configs;
mod damaged;
pub mod message;
mod partition_change;
mod preferred;
mod topics;

use milena_wire::ErrorCode;

pub use alter_partition::alter_partition;
pub use broker::{Leaving, confirm, fence, leave, register};
pub use damaged::damaged;
pub use partition_change::{Change, partition_change};
pub use preferred::{Preferred, give_back};
pub use topics::{awaits_brokers, create_topic, delete_topic, is_topic_name, named_twice};

/// Why a request was not done. Nothing was changed by it.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Refusal {
    /// Kafka's code for it.
    pub code: ErrorCode,
    /// A sentence for whoever asked.
    pub message: String,
}

/// Longest sentence of a refusal, bytes: it may repeat what a client sent, which can be as long as a string on the wire.
const MESSAGE_BYTES_MAX: usize = 500;

impl Refusal {
    /// A refusal with its sentence, which is cut where it is too long.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Refusal {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
            message.push_str("...");
        }
        Refusal { code, message }
    }
}

#[cfg(test)]
pub(crate) mod tests;
