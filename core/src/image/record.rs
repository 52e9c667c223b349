//! Metadata records: every change of the cluster is one or more of these, committed by the quorum.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Image, Partition, ProducerIds};
use crate::{BrokerEpoch, Incarnation, LogId, NodeId, ProducerId, TopicId};

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
    /// When a broker is given producer ids: all from the first free one on.
    ProducerIds {
        /// The broker.
        node: NodeId,
        /// The epoch of its registration.
        epoch: BrokerEpoch,
        /// The first that is free from then on.
        next: ProducerId,
    },
}

/// Version of an entry's encoding, its first byte. Frozen; the next one gets the next number.
const ENTRY_VERSION: u8 = 1;

/// Version of a snapshot's encoding, its first byte. Frozen; the next one gets the next number.
const SNAPSHOT_VERSION: u8 = 2;
/// The version before that, which ended before the producer ids: none was given.
const SNAPSHOT_VERSION_WITHOUT_PRODUCER_IDS: u8 = 1;

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
    encode(ENTRY_VERSION, records)
}

/// The records of an entry. An entry without bytes is one of the quorum's own and has none.
///
/// # Errors
///
/// Where the bytes are none that [`encode_records`] of this version wrote.
pub fn decode_records(bytes: &[u8]) -> Result<Vec<Record>, DecodeError> {
    match bytes.split_first() {
        None => Ok(Vec::new()),
        Some((&ENTRY_VERSION, rest)) => decode(rest),
        Some((version, _)) => Err(DecodeError::Version(*version)),
    }
}

/// The bytes of a snapshot.
pub(super) fn encode_snapshot(image: &Image) -> Vec<u8> {
    encode(SNAPSHOT_VERSION, image)
}

/// What [`encode_snapshot`] of this version or the one before wrote.
pub(super) fn decode_snapshot(bytes: &[u8]) -> Result<Image, DecodeError> {
    match bytes.split_first() {
        Some((&SNAPSHOT_VERSION, rest)) => decode(rest),
        Some((&SNAPSHOT_VERSION_WITHOUT_PRODUCER_IDS, rest)) => {
            let none = postcard::to_extend(&ProducerIds::default(), rest.to_vec());
            decode(&none.expect("a vector takes whatever it is given"))
        }
        Some((version, _)) => Err(DecodeError::Version(*version)),
        None => Err(DecodeError::Malformed),
    }
}

/// Version byte and postcard.
fn encode<T: Serialize + ?Sized>(version: u8, value: &T) -> Vec<u8> {
    let encoded = postcard::to_extend(value, vec![version]);
    encoded.expect("a vector takes whatever it is given")
}

/// What [`encode`] wrote behind the version, all of it.
fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(DecodeError::Malformed),
    }
}
