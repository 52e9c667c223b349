//! Metadata records: every change of the cluster is one or more of these, committed by the quorum.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Partition;
use crate::{BrokerEpoch, Incarnation, LogId, NodeId, TopicId};

/// One change. The order of variants and fields is frozen: it is what postcard writes. New ones go to the end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Record {
    /// When a broker registers, fenced. Its epoch is this record's offset.
    RegisterBroker {
        /// The broker.
        node: NodeId,
        /// Its disk.
        incarnation: Incarnation,
        /// Where Kafka clients reach it.
        kafka: (String, u16),
        /// Where other nodes reach it.
        peer: String,
        /// Its rack.
        rack: Option<String>,
    },
    /// When a broker has said that the epoch is synced on its disk.
    ConfirmBroker {
        /// The broker.
        node: NodeId,
        /// The epoch of its registration.
        epoch: BrokerEpoch,
    },
    /// When a broker goes out of service or comes back into it.
    FenceBroker {
        /// The broker.
        node: NodeId,
        /// Out or in.
        fenced: bool,
    },
    /// When a topic is made. Its partitions follow as [`Record::Partition`].
    Topic {
        /// Identity.
        id: TopicId,
        /// Name.
        name: String,
        /// Its own configurations.
        configs: BTreeMap<String, String>,
    },
    /// When a partition is made or changed: the whole of it.
    Partition {
        /// Topic and index.
        log: LogId,
        /// What it is now.
        partition: Partition,
    },
    /// When a topic is deleted with all its partitions.
    RemoveTopic {
        /// Identity.
        id: TopicId,
    },
}

/// Version of the encoding, the first byte of every entry and snapshot. Frozen; the next one gets the next number.
pub(super) const VERSION: u8 = 1;

/// Bytes that are not metadata of a version known here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// They begin with another version: this node's program is older than the cluster's.
    #[error("metadata of format version {0}, which this version of the program does not know")]
    Version(u8),
    /// They are not what that version writes.
    #[error("metadata that cannot be read")]
    Malformed,
}

/// One entry of the metadata log: records that are applied together or not at all.
pub fn encode_records(records: &[Record]) -> Vec<u8> {
    encode(records)
}

/// The records of an entry. An entry without bytes is one of the quorum's own and has none.
///
/// # Errors
///
/// Where the bytes are none that [`encode_records`] of this version wrote.
pub fn decode_records(bytes: &[u8]) -> Result<Vec<Record>, DecodeError> {
    if bytes.is_empty() { Ok(Vec::new()) } else { decode(bytes) }
}

/// Version byte and postcard.
pub(super) fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let encoded = postcard::to_extend(value, vec![VERSION]);
    encoded.expect("a vector takes whatever it is given")
}

/// What [`encode`] wrote, all of it.
pub(super) fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => match postcard::take_from_bytes(rest) {
            Ok((value, [])) => Ok(value),
            _ => Err(DecodeError::Malformed),
        },
        Some((version, _)) => Err(DecodeError::Version(*version)),
        None => Err(DecodeError::Malformed),
    }
}
