//! Opening a batch: its records one by one.
//!
//! A declared length is held against the bytes of its record, and a record against those of the batch; keys and values
//! are slices of the (decompressed) batch. Who only wants to know whether they are sound needs none of them in memory.

use std::io::{BufRead, BufReader};
use std::ops::Range;

use bytes::{Buf, Bytes, buf::Reader};

use super::compression::read_error;
use super::{
    BatchError, BatchHeader, Compression, DecompressLimit, HEADER_LEN, RECORD_SIZE_MIN,
    TimestampType,
};

/// Decompressed bytes that are looked at together.
const WINDOW_BYTES: usize = 32 << 10;

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
    /// All records, decompressed.
    bytes: Bytes,
    walk: Walk<Reader<Bytes>>,
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
    let bytes = match header.compression()? {
        Compression::None => body,
        compression => compression.decompress(&body, limit)?.into(),
    };
    let count = header.records_count;
    if count < 0 || count as usize > bytes.len() / RECORD_SIZE_MIN {
        return Err(BatchError::Count { count });
    }
    let walk = Walk::new(&header, bytes.clone().reader())?;
    Ok(RecordIterator { header, bytes, walk })
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
        if self.walk.is_done() {
            return None;
        }
        let header = &self.header;
        let mut headers = Vec::new();
        let share = |range: Range<usize>| self.bytes.slice(range);
        let fields = self.walk.next(|name, value| headers.push((share(name), value.map(share))));
        let record = fields.and_then(|fields| {
            let offset = header
                .base_offset
                .checked_add(i64::from(fields.offset_delta))
                .ok_or(BatchError::Record)?;
            let timestamp = match header.timestamp_type() {
                TimestampType::LogAppendTime => header.max_timestamp,
                TimestampType::CreateTime => {
                    header.base_timestamp.wrapping_add(fields.timestamp_delta)
                }
            };
            let (key, value) = (fields.key.map(share), fields.value.map(share));
            Ok(Record { offset, timestamp, key, value, headers })
        });
        if record.is_err() {
            self.walk.records_left = 0;
        }
        Some(record)
    }
}

/// Checks the records of a batch as [`record_iterator`] would, without taking them out: however many bytes they have, only
/// a window of them is in memory. `on_record` judges the timestamp that the producer gave each of them, and whether it has a key.
pub(super) fn check(
    header: &BatchHeader,
    records: &[u8],
    limit: DecompressLimit,
    on_record: impl FnMut(i64, bool) -> Result<(), BatchError>,
) -> Result<(), BatchError> {
    let base = header.base_timestamp;
    match header.compression()? {
        Compression::None => Walk::new(header, records)?.check(base, on_record),
        compression => {
            let reader = compression.reader(records, limit)?;
            let reader = BufReader::with_capacity(WINDOW_BYTES, reader);
            Walk::new(header, reader)?.check(base, on_record)
        }
    }
}

/// Where the fields of a record lie.
pub(super) struct RecordFields {
    /// All of it, its length too.
    pub whole: Range<usize>,
    /// Behind the length.
    pub attributes: usize,
    /// Behind the timestamp's delta.
    pub after_timestamp: usize,
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub key: Option<Range<usize>>,
    pub value: Option<Range<usize>>,
}

/// A walk over records that lie one after another.
pub(super) struct Walk<R> {
    cursor: Cursor<R>,
    records_left: i32,
    /// The least offset delta the next record may have.
    offset_delta_min: i32,
    offset_delta_max: i32,
}

impl<R: BufRead> Walk<R> {
    pub fn new(header: &BatchHeader, records: R) -> Result<Walk<R>, BatchError> {
        let count = header.records_count;
        if count < 0 {
            return Err(BatchError::Count { count });
        }
        let cursor = Cursor { reader: records, position: 0, end: usize::MAX };
        let offset_delta_max = header.last_offset_delta;
        let mut walk = Walk { cursor, records_left: count, offset_delta_min: 0, offset_delta_max };
        if count == 0 {
            walk.cursor.expect_end()?;
        }
        Ok(walk)
    }

    pub fn is_done(&self) -> bool {
        self.records_left == 0
    }

    fn check(
        mut self,
        base_timestamp: i64,
        mut on_record: impl FnMut(i64, bool) -> Result<(), BatchError>,
    ) -> Result<(), BatchError> {
        while !self.is_done() {
            let fields = self.next(|_name, _value| ())?;
            let time = base_timestamp.wrapping_add(fields.timestamp_delta);
            on_record(time, fields.key.is_some())?;
        }
        Ok(())
    }

    /// Reads a record; `on_header` sees where name and value of each of its headers lie. An error ends the walk.
    pub fn next(
        &mut self,
        mut on_header: impl FnMut(Range<usize>, Option<Range<usize>>),
    ) -> Result<RecordFields, BatchError> {
        self.records_left -= 1;
        let cursor = &mut self.cursor;
        let start = cursor.position;
        let size = cursor.varint32()?;
        cursor.end = usize::try_from(size)
            .ok()
            .and_then(|size| cursor.position.checked_add(size))
            .ok_or(BatchError::Record)?;
        let attributes = cursor.take(1)?.start;
        let timestamp_delta = cursor.varint64()?;
        let after_timestamp = cursor.position;
        let offset_delta = cursor.varint32()?;
        if !(self.offset_delta_min..=self.offset_delta_max).contains(&offset_delta) {
            return Err(BatchError::Record);
        }
        self.offset_delta_min = offset_delta.saturating_add(1);
        let key = cursor.nullable()?;
        let value = cursor.nullable()?;
        let headers = cursor.varint32()?;
        if headers < 0 {
            return Err(BatchError::Record);
        }
        // A count is not believed: each header takes bytes, and the record ends soon.
        for _ in 0..headers {
            let name = cursor.nullable()?.ok_or(BatchError::Record)?;
            on_header(name, cursor.nullable()?);
        }
        if cursor.position < cursor.end {
            return Err(BatchError::Record);
        }
        let whole = start..cursor.position;
        cursor.end = usize::MAX;
        if self.records_left == 0 {
            cursor.expect_end()?;
        }
        Ok(RecordFields {
            whole,
            attributes,
            after_timestamp,
            timestamp_delta,
            offset_delta,
            key,
            value,
        })
    }
}

/// A position that never passes the end of what is read, nor `end`.
struct Cursor<R> {
    reader: R,
    position: usize,
    /// Of the record that is being read.
    end: usize,
}

impl<R: BufRead> Cursor<R> {
    fn expect_end(&mut self) -> Result<(), BatchError> {
        match self.reader.fill_buf().map_err(read_error)? {
            [] => Ok(()),
            _ => Err(BatchError::Record),
        }
    }

    fn take(&mut self, size: i32) -> Result<Range<usize>, BatchError> {
        let mut left = usize::try_from(size).map_err(|_| BatchError::Record)?;
        if left > self.end - self.position {
            return Err(BatchError::Record);
        }
        let start = self.position;
        while left > 0 {
            let there = self.reader.fill_buf().map_err(read_error)?.len();
            if there == 0 {
                return Err(BatchError::Record);
            }
            self.consume(there.min(left));
            left -= there.min(left);
        }
        Ok(start..self.position)
    }

    fn consume(&mut self, size: usize) {
        self.reader.consume(size);
        self.position += size;
    }

    fn nullable(&mut self) -> Result<Option<Range<usize>>, BatchError> {
        match self.varint32()? {
            -1 => Ok(None),
            size => self.take(size).map(Some),
        }
    }

    fn varint32(&mut self) -> Result<i32, BatchError> {
        let value = self.zigzag(5)?;
        i32::try_from(value).map_err(|_| BatchError::Record)
    }

    fn varint64(&mut self) -> Result<i64, BatchError> {
        self.zigzag(10)
    }

    /// A zigzag variable-length integer of at most `groups_max` bytes.
    fn zigzag(&mut self, groups_max: usize) -> Result<i64, BatchError> {
        let mut value = 0u64;
        for index in 0..groups_max.min(self.end - self.position) {
            let there = self.reader.fill_buf().map_err(read_error)?;
            let Some(&byte) = there.first() else { break };
            // Ten groups hold 70 bits: the tenth may bring only one.
            if index == 9 && byte > 1 {
                return Err(BatchError::Record);
            }
            self.consume(1);
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(BatchError::Record)
    }
}
