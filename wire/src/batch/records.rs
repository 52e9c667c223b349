//! Opening a batch: its records one by one.
//!
//! A declared length is held against the bytes of its record, and a record against those of the batch; keys and values
//! are slices of the (decompressed) batch.

use bytes::Bytes;

use super::{
    BatchError, BatchHeader, Compression, DecompressLimit, HEADER_LEN, RECORD_SIZE_MIN,
    TimestampType,
};

/// The fewest bytes of a record's header: two lengths.
const RECORD_HEADER_SIZE_MIN: usize = 2;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its offset in the partition.
    pub offset: i64,
    /// Milliseconds since the epoch, or -1.
    pub timestamp: i64,
    /// The key, or null.
    pub key: Option<Bytes>,
    /// The value, or null.
    pub value: Option<Bytes>,
    /// Names and values, in order; a name may repeat.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// The records of one batch; see [`record_iterator`].
pub struct RecordIterator {
    header: BatchHeader,
    rest: Bytes,
    records_left: i32,
    /// The least offset delta the next record may have.
    next_offset_delta: i32,
}

/// The records of a batch, in order, checked as they are read: consistent lengths, ascending offsets within the
/// header's range, exactly the declared count and nothing after it. After an error there are no more items.
///
/// The checksum is not looked at ([`super::validate`] does).
///
/// # Errors
/// If the header is wrong or the records cannot be decompressed within `limit`.
pub fn record_iterator(
    batch: &Bytes,
    limit: DecompressLimit,
) -> Result<RecordIterator, BatchError> {
    let header = BatchHeader::parse(batch)?;
    let (needed, remaining) = (header.size(), batch.len());
    if needed > remaining {
        return Err(BatchError::Truncated { needed, remaining });
    }
    let body = batch.slice(HEADER_LEN..needed);
    let rest = match header.compression()? {
        Compression::None => body,
        compression => compression.decompress(&body, limit)?.into(),
    };
    let count = header.records_count;
    if count < 0 || count as usize > rest.len() / RECORD_SIZE_MIN {
        return Err(BatchError::Count { count });
    }
    Ok(RecordIterator { header, rest, records_left: count, next_offset_delta: 0 })
}

/// All records of a batch at once. A list of many tiny records takes some fifteen times their bytes in memory; use
/// [`record_iterator`] for batches of strangers.
///
/// # Errors
/// As [`record_iterator`], and if any record is malformed.
pub fn records(batch: &Bytes, limit: DecompressLimit) -> Result<Vec<Record>, BatchError> {
    record_iterator(batch, limit)?.collect()
}

impl Iterator for RecordIterator {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.records_left == 0 {
            let trailing = !self.rest.is_empty();
            self.rest.clear();
            return trailing.then_some(Err(BatchError::Record));
        }
        self.records_left -= 1;
        let record = self.read();
        if record.is_err() {
            self.records_left = 0;
            self.rest.clear();
        }
        Some(record)
    }
}

impl RecordIterator {
    fn read(&mut self) -> Result<Record, BatchError> {
        let size = varint32(&mut self.rest)?;
        let mut field = take(&mut self.rest, size)?;
        let _attributes = take(&mut field, 1)?;
        let timestamp_delta = varint64(&mut field)?;
        let offset_delta = varint32(&mut field)?;
        if !(self.next_offset_delta..=self.header.last_offset_delta).contains(&offset_delta) {
            return Err(BatchError::Record);
        }
        self.next_offset_delta = offset_delta.saturating_add(1);
        let key = nullable(&mut field)?;
        let value = nullable(&mut field)?;
        let headers_count = varint32(&mut field)?;
        if headers_count < 0 || headers_count as usize > field.len() / RECORD_HEADER_SIZE_MIN {
            return Err(BatchError::Record);
        }
        let mut headers = Vec::with_capacity(headers_count as usize);
        for _ in 0..headers_count {
            let name = nullable(&mut field)?.ok_or(BatchError::Record)?;
            headers.push((name, nullable(&mut field)?));
        }
        if !field.is_empty() {
            return Err(BatchError::Record);
        }
        let offset = self
            .header
            .base_offset
            .checked_add(i64::from(offset_delta))
            .ok_or(BatchError::Record)?;
        let timestamp = match self.header.timestamp_type() {
            TimestampType::LogAppendTime => self.header.max_timestamp,
            TimestampType::CreateTime => self.header.base_timestamp.wrapping_add(timestamp_delta),
        };
        Ok(Record { offset, timestamp, key, value, headers })
    }
}

fn take(from: &mut Bytes, size: i32) -> Result<Bytes, BatchError> {
    let size = usize::try_from(size).map_err(|_| BatchError::Record)?;
    if size > from.len() {
        return Err(BatchError::Record);
    }
    Ok(from.split_to(size))
}

fn nullable(from: &mut Bytes) -> Result<Option<Bytes>, BatchError> {
    match varint32(from)? {
        -1 => Ok(None),
        size => take(from, size).map(Some),
    }
}

fn varint32(from: &mut Bytes) -> Result<i32, BatchError> {
    let value = zigzag(from, 5)?;
    i32::try_from(value).map_err(|_| BatchError::Record)
}

fn varint64(from: &mut Bytes) -> Result<i64, BatchError> {
    zigzag(from, 10)
}

/// A zigzag variable-length integer of at most `groups_max` bytes.
fn zigzag(from: &mut Bytes, groups_max: usize) -> Result<i64, BatchError> {
    let mut value = 0u64;
    for (index, &byte) in from.iter().take(groups_max).enumerate() {
        // Ten groups hold 70 bits: the tenth may bring only one.
        if index == 9 && byte > 1 {
            return Err(BatchError::Record);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            let _read = from.split_to(index + 1);
            return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    Err(BatchError::Record)
}
