//! What compaction makes of a batch: the same one with fewer records, or with none.
//!
//! A batch that lost records keeps its offsets, its producer's fields and its codec, so whoever looks at headers sees no
//! difference but the count. Records that stay are copied as they are, runs of them at once. They are written anew only where
//! the first tombstone is kept: as in Apache Kafka the batch then says from when on that one may go, in its base timestamp,
//! and every record's timestamp counts from there.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

use super::builder::{put_varint, sealed};
use super::records::Walk;
use super::{
    BatchError, BatchHeader, Compression, DecompressLimit, HEADER_LEN, LENGTH_PREFIX_LEN, MAGIC,
    NO_TIMESTAMP, TimestampType,
};

/// A record that may stay or go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Its offset in the partition.
    pub offset: i64,
    /// The key, or null.
    pub key: Option<&'a [u8]>,
    /// Whether its value is null: it says that its key is gone.
    pub is_tombstone: bool,
}

/// What remains of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retained {
    /// The batch as it is, to the byte.
    All,
    /// This batch: records have gone, or it has a delete horizon now.
    Some(Bytes),
    /// No record; see [`emptied`] and [`covering`]. Also where it had none before.
    None,
}

/// A batch without records, producer and times, in place of all that lay from `base_offset` to before `next_offset`.
///
/// # Panics
/// If there is no offset between them, or there are more than one batch can say.
pub fn covering(base_offset: i64, next_offset: i64, leader_epoch: i32) -> Bytes {
    let last_offset_delta = next_offset.checked_sub(base_offset).map(|offsets| offsets - 1);
    let last_offset_delta = last_offset_delta
        .and_then(|delta| i32::try_from(delta).ok())
        .filter(|delta| *delta >= 0)
        .expect("as many offsets as one batch covers");
    emptied(&BatchHeader {
        base_offset,
        batch_length: 0,
        partition_leader_epoch: leader_epoch,
        magic: MAGIC,
        crc: 0,
        attributes: 0,
        last_offset_delta,
        base_timestamp: NO_TIMESTAMP,
        max_timestamp: NO_TIMESTAMP,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        records_count: 0,
    })
}

/// The batch of a header without its records: with its offsets, leader epoch and producer's fields, and without times.
pub fn emptied(header: &BatchHeader) -> Bytes {
    let mut header = *header;
    header.set_no_records();
    sealed(header, vec![0; HEADER_LEN])
}

/// What remains of a batch where only those of its records stay that `keep` says, which it is asked in their order. Where a
/// tombstone stays and the batch has no delete horizon yet, it gets `horizon`.
///
/// What remains may be larger than the batch was: the producer may have compressed better, and timestamps that count from a
/// horizon take a few bytes more. In memory are the records as opened, those that stay, and 16 bytes for each run of them.
///
/// The checksum is not looked at ([`super::validate`] does).
///
/// # Errors
/// If the batch is malformed, or its records, or those that stay, have more than `limit` bytes where they are compressed.
pub fn retain(
    batch: &Bytes,
    limit: DecompressLimit,
    horizon: i64,
    mut keep: impl FnMut(Candidate<'_>) -> bool,
) -> Result<Retained, BatchError> {
    let mut header = BatchHeader::parse(batch)?;
    let (needed, remaining) = (header.size(), batch.len());
    if needed > remaining {
        return Err(BatchError::Truncated { needed, remaining });
    }
    let compression = header.compression()?;
    let body = &batch[HEADER_LEN..needed];
    let opened = match compression {
        Compression::None => Cow::Borrowed(body),
        compression => Cow::Owned(compression.decompress(body, limit)?),
    };
    let chosen = choose(&header, &opened, &mut keep)?;
    if chosen.count == 0 {
        return Ok(Retained::None);
    }
    let rebased = chosen.has_tombstone && header.delete_horizon().is_none();
    if chosen.count == header.records_count && !rebased {
        return Ok(Retained::All);
    }

    // Room for the header, where what follows it is the batch itself.
    let before = if compression == Compression::None { HEADER_LEN } else { 0 };
    let bytes: usize = chosen.runs.iter().map(Range::len).sum();
    let mut records = Vec::with_capacity(before + bytes);
    records.resize(before, 0);
    if rebased {
        let earlier = header.base_timestamp.wrapping_sub(horizon);
        rebase(&header, &opened, &chosen.runs, earlier, &mut records)?;
        header.set_delete_horizon(horizon);
    } else {
        chosen.runs.iter().for_each(|run| records.extend_from_slice(&opened[run.clone()]));
    }
    drop(opened);
    header.records_count = chosen.count;
    if header.timestamp_type() == TimestampType::CreateTime {
        header.max_timestamp = chosen.max_timestamp;
    }
    let remaining = match compression {
        Compression::None => records,
        // What does not open within the limit would never be compacted again.
        _ if records.len() > limit.0 => return Err(BatchError::TooLarge(limit.0)),
        compression => {
            let mut batch = vec![0; HEADER_LEN];
            compression.compress(&records, &mut batch);
            batch
        }
    };
    if i32::try_from(remaining.len() - LENGTH_PREFIX_LEN).is_err() {
        return Err(BatchError::TooLarge(i32::MAX as usize));
    }
    Ok(Retained::Some(sealed(header, remaining)))
}

/// Which records stay.
struct Chosen {
    count: i32,
    has_tombstone: bool,
    max_timestamp: i64,
    /// Where they lie, those together that lie together.
    runs: Vec<Range<usize>>,
}

fn choose(
    header: &BatchHeader,
    records: &[u8],
    keep: &mut impl FnMut(Candidate<'_>) -> bool,
) -> Result<Chosen, BatchError> {
    let mut chosen =
        Chosen { count: 0, has_tombstone: false, max_timestamp: NO_TIMESTAMP, runs: Vec::new() };
    let mut walk = Walk::new(header, records)?;
    while !walk.is_done() {
        let fields = walk.next(|_name, _value| ())?;
        let offset = header
            .base_offset
            .checked_add(i64::from(fields.offset_delta))
            .ok_or(BatchError::Record)?;
        let is_tombstone = fields.value.is_none();
        let key = fields.key.map(|key| &records[key]);
        if !keep(Candidate { offset, key, is_tombstone }) {
            continue;
        }
        let timestamp = header.base_timestamp.wrapping_add(fields.timestamp_delta);
        chosen.count += 1;
        chosen.has_tombstone |= is_tombstone;
        chosen.max_timestamp = chosen.max_timestamp.max(timestamp);
        match chosen.runs.last_mut() {
            Some(run) if run.end == fields.whole.start => run.end = fields.whole.end,
            _ => chosen.runs.push(fields.whole),
        }
    }
    Ok(chosen)
}

/// Writes the records of some runs with timestamps that count from a base which lies `earlier` milliseconds before theirs.
fn rebase(
    header: &BatchHeader,
    records: &[u8],
    runs: &[Range<usize>],
    earlier: i64,
    output: &mut Vec<u8>,
) -> Result<(), BatchError> {
    let mut runs = runs.iter();
    let mut run = runs.next();
    let mut walk = Walk::new(header, records)?;
    let mut delta = Vec::new();
    while let Some(within) = run {
        let fields = walk.next(|_name, _value| ())?;
        if fields.whole.start < within.start {
            continue;
        }
        delta.clear();
        put_varint(&mut delta, fields.timestamp_delta.wrapping_add(earlier));
        let rest = &records[fields.after_timestamp..fields.whole.end];
        put_varint(output, (1 + delta.len() + rest.len()) as i64);
        output.push(records[fields.attributes]);
        output.extend_from_slice(&delta);
        output.extend_from_slice(rest);
        if fields.whole.end == within.end {
            run = runs.next();
        }
    }
    Ok(())
}
