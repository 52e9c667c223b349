//! Building batches, as a producer does.

use bytes::Bytes;

use super::{
    BatchHeader, CHECKSUM_START, Compression, HEADER_LEN, LENGTH_PREFIX_LEN, MAGIC, checksum,
};

/// Gathers records into a batch with consecutive offsets.
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    header: BatchHeader,
    compression: Compression,
    records: Vec<u8>,
    /// The record being written, whose length must be known before it.
    record: Vec<u8>,
}

impl BatchBuilder {
    /// An empty batch that starts at `base_offset`; a producer writes 0 there, and -1 as the leader epoch.
    pub fn new(base_offset: i64, leader_epoch: i32, compression: Compression) -> BatchBuilder {
        let header = BatchHeader {
            base_offset,
            batch_length: 0,
            partition_leader_epoch: leader_epoch,
            magic: MAGIC,
            crc: 0,
            attributes: compression as i16,
            last_offset_delta: -1,
            base_timestamp: -1,
            max_timestamp: -1,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            records_count: 0,
        };
        BatchBuilder { header, compression, records: Vec::new(), record: Vec::new() }
    }

    /// Makes it a batch of an idempotent producer.
    pub fn producer(&mut self, id: i64, epoch: i16, base_sequence: i32) -> &mut BatchBuilder {
        self.header.producer_id = id;
        self.header.producer_epoch = epoch;
        self.header.base_sequence = base_sequence;
        self
    }

    /// Adds a record; `timestamp` in milliseconds since the epoch.
    pub fn append(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> &mut BatchBuilder {
        let header = &mut self.header;
        if header.records_count == 0 {
            header.base_timestamp = timestamp;
            header.max_timestamp = timestamp;
        }
        header.max_timestamp = header.max_timestamp.max(timestamp);
        let record = &mut self.record;
        record.clear();
        record.push(0);
        put_varint(record, timestamp.wrapping_sub(header.base_timestamp));
        put_varint(record, i64::from(header.records_count));
        put_bytes(record, key);
        put_bytes(record, value);
        put_varint(record, headers.len() as i64);
        for (name, value) in headers {
            put_bytes(record, Some(name.as_bytes()));
            put_bytes(record, *value);
        }
        put_varint(&mut self.records, record.len() as i64);
        self.records.append(record);
        header.records_count += 1;
        header.last_offset_delta += 1;
        self
    }

    /// Records so far.
    pub fn records_count(&self) -> i32 {
        self.header.records_count
    }

    /// Size of the batch so far, in bytes, before compression.
    pub fn size(&self) -> usize {
        HEADER_LEN + self.records.len()
    }

    /// The batch.
    ///
    /// # Panics
    /// If it has no record, or is larger than Kafka's format can say.
    pub fn build(&self) -> Bytes {
        assert!(self.header.records_count > 0, "a batch has a record");
        let mut batch = Vec::with_capacity(self.size());
        batch.resize(HEADER_LEN, 0);
        self.compression.compress(&self.records, &mut batch);
        sealed(self.header, batch)
    }
}

/// The batch whose records stand behind room for a header, which is given their length and checksum.
///
/// # Panics
/// If it is larger than Kafka's format can say.
pub(super) fn sealed(mut header: BatchHeader, mut batch: Vec<u8>) -> Bytes {
    header.batch_length =
        i32::try_from(batch.len() - LENGTH_PREFIX_LEN).expect("a batch is smaller than 2 GiB");
    batch[..HEADER_LEN].copy_from_slice(&header.to_bytes());
    let crc = checksum(&batch[CHECKSUM_START..]);
    batch[CHECKSUM_START - 4..CHECKSUM_START].copy_from_slice(&crc.to_be_bytes());
    batch.into()
}

/// A zigzag variable-length integer; 32-bit and 64-bit ones look alike.
pub(super) fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = (value << 1 ^ value >> 63) as u64;
    while zigzag >= 0x80 {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    put_varint(out, bytes.map_or(-1, |bytes| bytes.len() as i64));
    out.extend_from_slice(bytes.unwrap_or_default());
}
