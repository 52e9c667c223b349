//! Record batches as fields.

use serde_json::{Value, json};

use crate::tree::{hex, unhex};

/// Bytes of a batch before its records.
const HEADER: usize = 61;

/// The whole batches of an answer, each as its header's fields and a digest of its records. What follows the last whole
/// batch is left out, as clients do: Kafka cuts where the limit falls.
pub fn described(records: &str) -> Value {
    let bytes = unhex(records).expect("a tree holds hexadecimal text");
    let mut rest = &bytes[..];
    let mut batches = Vec::new();
    while rest.len() >= HEADER {
        let int = |at: usize| i32::from_be_bytes(rest[at..at + 4].try_into().expect("four bytes"));
        let long =
            |at: usize| i64::from_be_bytes(rest[at..at + 8].try_into().expect("eight bytes"));
        let size = 12 + int(8).max(0) as usize;
        if size < HEADER || rest.len() < size {
            break;
        }
        batches.push(json!({
            "base_offset": long(0),
            "partition_leader_epoch": int(12),
            "magic": rest[16],
            "attributes": i16::from_be_bytes([rest[21], rest[22]]),
            "last_offset_delta": int(23),
            "base_timestamp": long(27),
            "max_timestamp": if rest[22] & 8 != 0 { json!("$time") } else { json!(long(35)) },
            "producer_id": long(43),
            "producer_epoch": i16::from_be_bytes([rest[51], rest[52]]),
            "base_sequence": int(53),
            "count": int(57),
            "payload": hex(&rest[HEADER..size]),
        }));
        rest = &rest[size..];
    }
    Value::Array(batches)
}
