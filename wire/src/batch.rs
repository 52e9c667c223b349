//! Record batches (message format 2): what Produce brings, segments hold and Fetch returns, the same bytes throughout.
//!
//! ```text
//!  0         8        12       16    17   21         23          27         35         43
//!  | base    | batch  | leader | mag | crc| attributes| last      | base     | max      | producer id, epoch,
//!  | offset  | length | epoch  | ic  |    |           | offset    | timestamp| timestamp| sequence, count,
//!  |<--- outside the checksum --->|    |  |<--------- covered by the checksum: all that follows ... records
//! ```
//!
//! Offset and leader epoch stand before the checksum, so a leader places a batch in its log by patching 12 of its bytes
//! ([`assign`]) and never touches the rest. Records are opened only by those who need them ([`records`]).

mod builder;
mod compact;
mod compression;
mod header;
mod lz4;
mod records;

use bytes::{Bytes, BytesMut};

pub use builder::BatchBuilder;
pub use compact::{Candidate, Retained, covering, emptied, retain};
pub use compression::{Compression, DecompressLimit};
pub use header::{BatchHeader, TimestampType};
pub use records::{Record, RecordIterator, record_iterator, records};

use crate::ErrorCode;

/// Size of a batch header in bytes.
pub const HEADER_LEN: usize = 61;
/// Bytes before those that `batch_length` counts: base offset and the length itself.
pub const LENGTH_PREFIX_LEN: usize = 12;
/// Where the bytes that the checksum covers begin.
const CHECKSUM_START: usize = 21;
/// Where the number of the format stands, in every format.
const MAGIC_PLACE: usize = 16;
/// The fewest bytes after the length in the oldest format.
const OLD_HEADER_LEN: i32 = 14;
/// The fewest bytes of a record: seven fields of one byte.
const RECORD_SIZE_MIN: usize = 7;
/// The one message format that is served.
const MAGIC: i8 = 2;
/// The timestamp of a record that has none.
const NO_TIMESTAMP: i64 = -1;

/// Why bytes are not a batch, or not one that may be appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes end before the batch does; the usual end of a fetch reply that was cut to size.
    #[error("{needed} bytes are needed where {remaining} remain")]
    Truncated {
        /// Bytes the batch, its header or a record needs.
        needed: usize,
        /// Bytes left.
        remaining: usize,
    },
    /// A batch length that cannot hold a header, or does not match the bytes.
    #[error("batch length {0} is wrong")]
    Length(i32),
    /// A message format other than 2.
    #[error("message format {0} is not supported")]
    Magic(i8),
    /// The checksum does not match: the bytes are damaged.
    #[error("checksum {computed:08x} where the header says {declared:08x}")]
    Checksum {
        /// In the header.
        declared: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// Offsets that are negative or overflow, or a producer's batch that does not begin at 0.
    #[error("offsets out of range")]
    Offsets,
    /// A count of records that does not fit the offsets or the bytes.
    #[error("{count} records do not fit the batch")]
    Count {
        /// Declared records.
        count: i32,
    },
    /// A control batch from a client.
    #[error("a client may not write control batches")]
    Control,
    /// A record's time, or that of all of them, that the topic does not take.
    #[error("timestamp {time} is out of the topic's range")]
    Timestamp {
        /// Milliseconds since the epoch.
        time: i64,
        /// The record's place in the batch.
        record: i32,
    },
    /// A record without a key, where compaction goes by keys.
    #[error("record {record} has no key, and the topic is compacted")]
    Key {
        /// The record's place in the batch.
        record: i32,
    },
    /// A client's batch that claims to have the broker's time.
    #[error("a producer may not set the timestamp type to LogAppendTime")]
    TimestampType,
    /// A producer id without a sequence.
    #[error("sequence {0} is negative in a batch with a producer id")]
    Sequence(i32),
    /// A codec number that Kafka has not assigned.
    #[error("compression codec {0} is not known")]
    UnknownCompression(u8),
    /// The compressed bytes are damaged.
    #[error("the records cannot be decompressed")]
    Decompress,
    /// Decompressed, the records would be larger than allowed.
    #[error("the records are larger than {0} bytes")]
    TooLarge(usize),
    /// A record whose fields contradict its length, the header or each other.
    #[error("a malformed record")]
    Record,
}

impl BatchError {
    /// What a client whose batch this is should be told.
    pub fn error_code(&self) -> ErrorCode {
        match self {
            BatchError::Truncated { .. } | BatchError::Length(_) | BatchError::Checksum { .. } => {
                ErrorCode::CORRUPT_MESSAGE
            }
            // Apache Kafka's word for them: the client does not send it again and again.
            BatchError::Decompress | BatchError::UnknownCompression(_) => {
                ErrorCode::UNKNOWN_SERVER_ERROR
            }
            // No format at all, and not one that is merely not served.
            BatchError::Magic(magic) if !(0..=MAGIC).contains(magic) => ErrorCode::CORRUPT_MESSAGE,
            BatchError::Timestamp { .. } | BatchError::TimestampType => {
                ErrorCode::INVALID_TIMESTAMP
            }
            BatchError::Magic(_)
            | BatchError::Offsets
            | BatchError::Count { .. }
            | BatchError::Control
            | BatchError::Key { .. }
            | BatchError::Sequence(_)
            | BatchError::Record => ErrorCode::INVALID_RECORD,
            BatchError::TooLarge(_) => ErrorCode::MESSAGE_TOO_LARGE,
        }
    }

    /// The place in its batch of the record that is to blame, where it is the first of those that are.
    pub fn record(&self) -> Option<i32> {
        match self {
            BatchError::Timestamp { record, .. } | BatchError::Key { record } => Some(*record),
            BatchError::TimestampType => Some(0),
            _ => None,
        }
    }
}

/// The size of the batch at the start of `bytes`, whatever its format, or none where they end before it does. No more is
/// looked at than its length and its format, as Apache Kafka does before anything else.
pub fn frame(bytes: &[u8]) -> Result<Option<usize>, BatchError> {
    let Some(length) = bytes.get(LENGTH_PREFIX_LEN - 4..LENGTH_PREFIX_LEN) else { return Ok(None) };
    let length = i32::from_be_bytes(length.try_into().expect("four bytes"));
    if length < OLD_HEADER_LEN {
        return Err(BatchError::Length(length));
    }
    let Some(&magic) = bytes.get(MAGIC_PLACE) else { return Ok(None) };
    if magic > MAGIC as u8 {
        return Err(BatchError::Magic(magic as i8));
    }
    let size = LENGTH_PREFIX_LEN + length as usize;
    Ok((size <= bytes.len()).then_some(size))
}

/// Walks the batches of a buffer: each item is a header and the bytes of that batch, which share the buffer's memory.
/// Lengths are checked, checksums are not ([`validate`] does). After an error there are no more items.
pub fn batches(
    bytes: &Bytes,
) -> impl Iterator<Item = Result<(BatchHeader, Bytes), BatchError>> + use<> {
    let mut rest = bytes.clone();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let next = BatchHeader::parse(&rest).and_then(|header| {
            let (needed, remaining) = (header.size(), rest.len());
            if needed > remaining {
                return Err(BatchError::Truncated { needed, remaining });
            }
            Ok((header, rest.split_to(needed)))
        });
        if next.is_err() {
            rest.clear();
        }
        Some(next)
    })
}

/// Checks one whole batch: exactly its length, format 2, checksum, and counts that are possible. The records are not
/// opened.
pub fn validate(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
    let header = whole(bytes)?;
    check_intact(&header, bytes)?;
    // Compaction may have taken records out, so there may be fewer than offsets, and none.
    if header.base_offset < 0
        || header.base_offset.checked_add(i64::from(header.last_offset_delta) + 1).is_none()
    {
        return Err(BatchError::Offsets);
    }
    Ok(header)
}

/// Which times a topic takes from producers, and whose it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampRules {
    /// The broker's time, milliseconds since the epoch.
    pub now: i64,
    /// Whose times are kept.
    pub timestamp_type: TimestampType,
    /// A producer's record may be so much older, milliseconds.
    pub before_max_ms: i64,
    /// A producer's record may be so far ahead, milliseconds.
    pub after_max_ms: i64,
}

impl TimestampRules {
    /// The producer's times, whichever they are.
    pub const ANY: TimestampRules = TimestampRules {
        now: 0,
        timestamp_type: TimestampType::CreateTime,
        before_max_ms: i64::MAX,
        after_max_ms: i64::MAX,
    };

    /// Judges a time that a producer gave; -1 is none.
    fn check(&self, time: i64, record: i32) -> Result<(), BatchError> {
        // Wrapping, as Apache Kafka's: what lies out of all reason is out of range either way.
        let behind = self.now.wrapping_sub(time);
        let taken = self.timestamp_type == TimestampType::LogAppendTime
            || time == NO_TIMESTAMP
            || (behind <= self.before_max_ms && behind.wrapping_neg() <= self.after_max_ms);
        if taken { Ok(()) } else { Err(BatchError::Timestamp { time, record }) }
    }
}

/// Checks one whole batch as a producer may send it: as [`validate`], and with as many records as offsets, no control
/// batch, a known codec, times that `rules` take, and a sequence if it has a producer id. The base offset is 0: the leader
/// assigns it. The records are checked one by one; compressed ones may have `limit` bytes, of which few are in
/// memory at a time.
///
/// What comes back is the header to store ([`with_header`]): what follows from the records is computed from them, whatever
/// the client wrote there. A sequence without a producer id is accepted, since some clients always write zero.
pub fn validate_produce(
    bytes: &[u8],
    limit: DecompressLimit,
    rules: &TimestampRules,
) -> Result<BatchHeader, BatchError> {
    validate_records(bytes, limit, rules, false)
}

/// As [`validate_produce`], for a topic of which the last record of each key stays: every record must have a key.
pub fn validate_keyed_produce(
    bytes: &[u8],
    limit: DecompressLimit,
    rules: &TimestampRules,
) -> Result<BatchHeader, BatchError> {
    validate_records(bytes, limit, rules, true)
}

fn validate_records(
    bytes: &[u8],
    limit: DecompressLimit,
    rules: &TimestampRules,
    keyed: bool,
) -> Result<BatchHeader, BatchError> {
    let mut header = whole(bytes)?;
    // As Apache Kafka, before the checksum, which does not cover it.
    if header.base_offset != 0 {
        return Err(BatchError::Offsets);
    }
    check_intact(&header, bytes)?;
    if i64::from(header.records_count) != i64::from(header.last_offset_delta) + 1 {
        return Err(BatchError::Count { count: header.records_count });
    }
    if header.is_control() {
        return Err(BatchError::Control);
    }
    if header.producer_id >= 0 && header.base_sequence < 0 {
        return Err(BatchError::Sequence(header.base_sequence));
    }
    if header.timestamp_type() == TimestampType::LogAppendTime {
        // Apache Kafka takes the claim where the topic keeps producers' times and this one is in range, and drops it.
        let keeps = rules.timestamp_type == TimestampType::CreateTime;
        if !keeps || header.max_timestamp == NO_TIMESTAMP {
            return Err(BatchError::TimestampType);
        }
        rules.check(header.max_timestamp, 0)?;
    }
    let (mut max_timestamp, mut record) = (NO_TIMESTAMP, -1);
    records::check(&header, &bytes[HEADER_LEN..], limit, |time, has_key| {
        max_timestamp = max_timestamp.max(time);
        record += 1;
        // As Apache Kafka, before its time.
        if keyed && !has_key {
            return Err(BatchError::Key { record });
        }
        rules.check(time, record)
    })?;
    let kept = match rules.timestamp_type {
        TimestampType::CreateTime => max_timestamp,
        TimestampType::LogAppendTime => rules.now,
    };
    header.set_times(rules.timestamp_type, kept);
    Ok(header)
}

/// The header of a batch that ends where it says.
fn whole(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
    let header = BatchHeader::parse(bytes)?;
    let (needed, remaining) = (header.size(), bytes.len());
    if needed > remaining {
        return Err(BatchError::Truncated { needed, remaining });
    }
    if needed < remaining {
        return Err(BatchError::Length(header.batch_length));
    }
    Ok(header)
}

fn check_intact(header: &BatchHeader, bytes: &[u8]) -> Result<(), BatchError> {
    let computed = checksum(&bytes[CHECKSUM_START..]);
    if computed != header.crc {
        return Err(BatchError::Checksum { declared: header.crc, computed });
    }
    let count = header.records_count;
    let fits_offsets = count >= 0 && i64::from(count) <= i64::from(header.last_offset_delta) + 1;
    let compressed = header.compression() != Ok(Compression::None);
    let fits_bytes = compressed || count as usize <= (bytes.len() - HEADER_LEN) / RECORD_SIZE_MIN;
    if header.last_offset_delta < 0 || !fits_offsets || !fits_bytes {
        return Err(BatchError::Count { count });
    }
    Ok(())
}

/// CRC-32C.
fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// The batch under another header, and with the checksum that follows from it; the same bytes where nothing changes.
///
/// # Panics
/// If `batch` is shorter than a header; check it first.
pub fn with_header(batch: &Bytes, header: &BatchHeader) -> Bytes {
    assert!(batch.len() >= HEADER_LEN, "not a batch");
    let written = header.to_bytes();
    if batch[..HEADER_LEN] == written {
        return batch.clone();
    }
    let mut batch = BytesMut::from(&batch[..]);
    batch[..HEADER_LEN].copy_from_slice(&written);
    let crc = checksum(&batch[CHECKSUM_START..]);
    batch[CHECKSUM_START - 4..CHECKSUM_START].copy_from_slice(&crc.to_be_bytes());
    batch.freeze()
}

/// The batch at its place in a log: the bytes up to the checksum's reach are copied and patched, the rest is shared.
/// Both pieces together are the batch.
///
/// # Panics
/// If `batch` is shorter than a header; check it first.
pub fn assign(batch: &Bytes, base_offset: i64, leader_epoch: i32) -> [Bytes; 2] {
    assert!(batch.len() >= HEADER_LEN, "not a batch");
    let mut prefix = [0; CHECKSUM_START];
    prefix.copy_from_slice(&batch[..CHECKSUM_START]);
    prefix[..8].copy_from_slice(&base_offset.to_be_bytes());
    prefix[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
    [Bytes::from_owner(prefix), batch.slice(CHECKSUM_START..)]
}
