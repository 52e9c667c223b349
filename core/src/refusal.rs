//! Why a request was not done, for whoever asked.

use milena_wire::ErrorCode;

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
