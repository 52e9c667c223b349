//! The fixed header of a batch.

use bytes::{Buf, BufMut};

use super::{BatchError, Compression, HEADER_LEN, LENGTH_PREFIX_LEN, MAGIC, NO_TIMESTAMP};

const COMPRESSION_MASK: i16 = 0x07;
const TIMESTAMP_TYPE_BIT: i16 = 1 << 3;
const TRANSACTIONAL_BIT: i16 = 1 << 4;
const CONTROL_BIT: i16 = 1 << 5;
const DELETE_HORIZON_BIT: i16 = 1 << 6;

/// Whose clock the timestamps of a batch are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's; each record has its own.
    CreateTime,
    /// The broker's when it appended the batch; the header's `max_timestamp` holds for all records.
    LogAppendTime,
}

/// The header of a record batch, field by field as on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record; a producer's is meaningless.
    pub base_offset: i64,
    /// Bytes of the batch after this field.
    pub batch_length: i32,
    /// Epoch of the leader that appended it.
    pub partition_leader_epoch: i32,
    /// Message format.
    pub magic: i8,
    /// CRC-32C of everything from `attributes` on.
    pub crc: u32,
    /// Codec, timestamp type, transactional, control and delete horizon bits.
    pub attributes: i16,
    /// Offset of the last record, less the base offset.
    pub last_offset_delta: i32,
    /// Milliseconds since the epoch, from which the records' timestamps count; the delete horizon, where there is one.
    pub base_timestamp: i64,
    /// Largest timestamp of the records.
    pub max_timestamp: i64,
    /// The idempotent producer, or -1.
    pub producer_id: i64,
    /// Its epoch, or -1.
    pub producer_epoch: i16,
    /// Its sequence number of the first record, or -1.
    pub base_sequence: i32,
    /// Records in the batch.
    pub records_count: i32,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`, which may end before the batch does. Refuses other formats and a
    /// length that cannot hold a header; what the other fields say is not judged.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        // All formats have their number at the same place, so an old one is told from a cut one.
        if let Some(&magic) = bytes.get(16)
            && magic as i8 != MAGIC
        {
            return Err(BatchError::Magic(magic as i8));
        }
        let Some(mut field) = bytes.get(..HEADER_LEN) else {
            return Err(BatchError::Truncated { needed: HEADER_LEN, remaining: bytes.len() });
        };
        let header = BatchHeader {
            base_offset: field.get_i64(),
            batch_length: field.get_i32(),
            partition_leader_epoch: field.get_i32(),
            magic: field.get_i8(),
            crc: field.get_u32(),
            attributes: field.get_i16(),
            last_offset_delta: field.get_i32(),
            base_timestamp: field.get_i64(),
            max_timestamp: field.get_i64(),
            producer_id: field.get_i64(),
            producer_epoch: field.get_i16(),
            base_sequence: field.get_i32(),
            records_count: field.get_i32(),
        };
        if header.batch_length < (HEADER_LEN - LENGTH_PREFIX_LEN) as i32 {
            return Err(BatchError::Length(header.batch_length));
        }
        Ok(header)
    }

    /// The header as on the wire.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut field = bytes.as_mut_slice();
        field.put_i64(self.base_offset);
        field.put_i32(self.batch_length);
        field.put_i32(self.partition_leader_epoch);
        field.put_i8(self.magic);
        field.put_u32(self.crc);
        field.put_i16(self.attributes);
        field.put_i32(self.last_offset_delta);
        field.put_i64(self.base_timestamp);
        field.put_i64(self.max_timestamp);
        field.put_i64(self.producer_id);
        field.put_i16(self.producer_epoch);
        field.put_i32(self.base_sequence);
        field.put_i32(self.records_count);
        bytes
    }

    /// Size of the whole batch in bytes.
    pub fn size(&self) -> usize {
        LENGTH_PREFIX_LEN + self.batch_length as usize
    }

    /// Offset of the last record (before compaction).
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// Offset of the record after this batch.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    /// How the records are compressed.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        Compression::from_number((self.attributes & COMPRESSION_MASK) as u8)
    }

    /// From when on the tombstones of the batch may go, milliseconds since the epoch: a cleaner wrote it when it first
    /// kept one.
    pub fn delete_horizon(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON_BIT != 0).then_some(self.base_timestamp)
    }

    /// Has the records' timestamps count from a delete horizon.
    pub(super) fn set_delete_horizon(&mut self, horizon: i64) {
        self.attributes |= DELETE_HORIZON_BIT;
        self.base_timestamp = horizon;
    }

    /// Leaves nothing that speaks of records: neither codec nor times.
    pub(super) fn set_no_records(&mut self) {
        self.attributes &= !(COMPRESSION_MASK | DELETE_HORIZON_BIT);
        self.base_timestamp = NO_TIMESTAMP;
        self.max_timestamp = NO_TIMESTAMP;
        self.records_count = 0;
    }

    /// Gives it the attributes and the largest timestamp that a broker stores: what a client says beyond codec and
    /// transaction is not kept.
    pub(super) fn set_times(&mut self, timestamp_type: TimestampType, max_timestamp: i64) {
        self.attributes &= COMPRESSION_MASK | TRANSACTIONAL_BIT;
        if timestamp_type == TimestampType::LogAppendTime {
            self.attributes |= TIMESTAMP_TYPE_BIT;
        }
        self.max_timestamp = max_timestamp;
    }

    /// Whether the batch holds a marker of the broker and no client's records.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// Whether the records belong to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whose clock the timestamps are from.
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & TIMESTAMP_TYPE_BIT == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }
}
