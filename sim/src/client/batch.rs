//! Batches as producers in the wild make them: every codec, timestamps of every strangeness, and some that no broker may take.

use bytes::{Bytes, BytesMut};
use milena_core::Timestamp;
use milena_wire::batch::{BatchBuilder, Compression};

use super::identity::Stamp;
use crate::history::{History, ValueId};
use crate::queue::{Time, WALL_START, wall};
use crate::rng::Stream;
use crate::schedule::ProducerSetup;

/// Larger than the largest batch that any scenario lets a topic take.
pub const OVERSIZE: usize = 16 << 10;
/// Beyond its number, what a value has that makes a journal's record of its batch a sector long.
const EVEN_FILLER: usize = 354;
/// First version of Produce with Zstandard.
const ZSTD_VERSION: i16 = 7;
/// Of so many batches of a strange producer one must be refused, and one has strange timestamps.
const SPOILT: u64 = 10;
const STRANGE_TIMES: u64 = 4;
/// Records that end their key, of a million.
const TOMBSTONES: u32 = 150_000;

/// Of so many batches of a strange producer one has a header that does not know its records' times, as some clients write it.
const HEADER_WITHOUT_TIMES: u64 = 5;
/// A clock that is no more than this ahead of the broker's is near enough, whatever jumps the two have made (milliseconds)...
const AHEAD: Timestamp = 20 * 60_000;
/// ...and one that is as far ahead as this is not.
const FAR_AHEAD: Timestamp = 2 * 60 * 60_000;

/// Where fields of a batch stand, and where what the checksum covers begins.
const MAGIC_AT: usize = 16;
const CHECKSUM_AT: usize = 17;
const COVERED_FROM: usize = 21;
const ATTRIBUTES_LOW_AT: usize = 22;
const MAX_TIMESTAMP_AT: usize = 35;
const PRODUCER_AT: usize = 43;
const COUNT_AT: usize = 57;

/// A batch as it goes out.
#[derive(Debug)]
pub struct Draft {
    /// Its values, in order.
    pub values: Vec<ValueId>,
    /// Its bytes.
    pub records: Bytes,
    /// Whether a broker must take it; otherwise it must refuse it.
    pub valid: bool,
}

impl Draft {
    /// Makes it a batch of an idempotent producer.
    pub fn stamp(&mut self, stamp: Stamp) {
        let Stamp { id, epoch, sequence } = stamp;
        let mut fields = id.to_be_bytes().to_vec();
        fields.extend(epoch.to_be_bytes());
        fields.extend(sequence.to_be_bytes());
        self.records = patched(&self.records, PRODUCER_AT, &fields);
    }
}

/// Draws a batch of new values for a partition.
pub fn draw(
    setup: &ProducerSetup,
    now: Time,
    place: usize,
    stream: &mut Stream,
    history: &mut History,
) -> Draft {
    let count = if setup.even { 1 } else { stream.between(1, setup.records_max) };
    let compression = match (setup.strange && !setup.even, setup.compress && !setup.even) {
        (true, _) => *stream.pick(&[
            Compression::None,
            Compression::Gzip,
            Compression::Snappy,
            Compression::Lz4,
            Compression::Zstd,
        ]),
        (false, true) => *stream.pick(&[Compression::Lz4, Compression::Snappy, Compression::Gzip]),
        (false, false) => Compression::None,
    };
    let times = if setup.strange && stream.below(STRANGE_TIMES) == 0 {
        Times::draw(stream)
    } else {
        Times::Now
    };
    let mut builder = BatchBuilder::new(0, -1, compression);
    let mut values = Vec::with_capacity(count as usize);
    let keys = history.keys(place);
    // Which a compacted topic must not take.
    let without_keys = keys.is_some() && setup.strange && stream.below(SPOILT) == 0;
    for index in 0..count {
        let timestamp = times.at(wall(now), index as i64);
        let value = history.invoke(place, timestamp);
        let mut filler = match setup.even {
            true => EVEN_FILLER,
            false => stream.below(setup.bytes_max + 1) as usize,
        };
        values.push(value);
        let Some(keys) = keys.filter(|_| !without_keys) else {
            let payload = History::payload(value, filler, setup.compress);
            builder.append(timestamp, None, Some(&payload), &[]);
            continue;
        };
        let (number, ends) = (stream.below(keys), !setup.even && stream.chance(TOMBSTONES));
        let key = format!("k{number}");
        history.key(value, number, ends);
        if ends {
            // It has no value to be known by.
            let payload = History::payload(value, 0, false);
            builder.append(timestamp, Some(key.as_bytes()), None, &[("value", Some(&payload))]);
        } else {
            filler = if setup.even { filler - key.len() } else { filler };
            let payload = History::payload(value, filler, setup.compress);
            builder.append(timestamp, Some(key.as_bytes()), Some(&payload), &[]);
        }
    }
    let mut records = builder.build();
    // Where the broker's time counts, it does not look at the producer's.
    let mut valid = (!times.are_far_ahead() || history.is_stamped(place)) && !without_keys;
    if setup.strange && stream.below(HEADER_WITHOUT_TIMES) == 0 {
        let unset = *stream.pick(&[0i64, -1]);
        records = patched(&records, MAX_TIMESTAMP_AT, &unset.to_be_bytes());
    }
    if compression == Compression::Zstd && setup.dialect.produce < ZSTD_VERSION {
        valid = false;
    }
    if setup.strange && stream.below(SPOILT) == 0 {
        records = spoilt(&records, stream);
        valid = false;
    }
    if !valid {
        history.refuse(&values);
    }
    Draft { values, records, valid }
}

/// What a producer takes for the time.
#[derive(Clone, Copy, Debug)]
enum Times {
    Now,
    /// When no record has one.
    Unset,
    Past(Timestamp),
    Future(Timestamp),
    /// When the clock is so far ahead.
    Ahead(Timestamp),
    Decreasing,
    /// When the first record's is far from the others'.
    Torn,
}

impl Times {
    fn draw(stream: &mut Stream) -> Times {
        match stream.below(7) {
            0 => Times::Unset,
            1 => Times::Past(*stream.pick(&[0, 1, 1_000_000_000_000])),
            2 => Times::Future(*stream.pick(&[WALL_START * 2, i64::MAX - 1, i64::MAX])),
            3 => Times::Torn,
            4 => Times::Ahead(*stream.pick(&[AHEAD, FAR_AHEAD])),
            _ => Times::Decreasing,
        }
    }

    fn at(self, now: Timestamp, index: i64) -> Timestamp {
        match self {
            Times::Now => now,
            Times::Unset => -1,
            Times::Past(time) | Times::Future(time) => time,
            Times::Ahead(by) => now + by,
            Times::Decreasing => now - 7 * index,
            Times::Torn if index == 0 => 5,
            Times::Torn => now,
        }
    }

    /// Whether they lie further ahead than `message.timestamp.after.max.ms` allows.
    fn are_far_ahead(self) -> bool {
        matches!(self, Times::Future(_) | Times::Ahead(FAR_AHEAD))
    }
}

/// The batch made such that nobody may take it.
fn spoilt(records: &Bytes, stream: &mut Stream) -> Bytes {
    match stream.below(8) {
        // A bit that the checksum covers.
        0 => {
            let mut bytes = BytesMut::from(&records[..]);
            let at = COVERED_FROM + stream.below((records.len() - COVERED_FROM) as u64) as usize;
            bytes[at] ^= 1 << stream.below(8);
            bytes.freeze()
        }
        // More records than there are.
        1 => patched(records, COUNT_AT, &1_000_000i32.to_be_bytes()),
        // A codec that is not assigned.
        2 => patched(records, ATTRIBUTES_LOW_AT, &[*stream.pick(&[5, 6, 7])]),
        // A control batch.
        3 => patched(records, ATTRIBUTES_LOW_AT, &[records[ATTRIBUTES_LOW_AT] | 0x20]),
        // A message format of the past. One of the future would have all of its request refused.
        4 => patched(records, MAGIC_AT, &[1]),
        // Two batches where one is allowed.
        5 => {
            let mut bytes = BytesMut::from(&records[..]);
            bytes.extend_from_slice(records);
            bytes.freeze()
        }
        // The end is missing.
        6 => records.slice(..records.len() - 1 - stream.below(8) as usize),
        _ => {
            let mut builder = BatchBuilder::new(0, -1, Compression::None);
            builder.append(WALL_START, None, Some(&[7; OVERSIZE]), &[]).build()
        }
    }
}

/// The batch with other bytes at a place, and the checksum that follows.
fn patched(batch: &Bytes, at: usize, bytes: &[u8]) -> Bytes {
    let mut batch = BytesMut::from(&batch[..]);
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &batch[COVERED_FROM..]) as u32;
    batch[CHECKSUM_AT..COVERED_FROM].copy_from_slice(&crc.to_be_bytes());
    batch.freeze()
}

#[cfg(test)]
mod tests {
    use milena_wire::batch::{DecompressLimit, TimestampRules, TimestampType, validate_produce};

    use super::*;
    use crate::disk::SECTOR;
    use crate::queue::MS;
    use crate::rng::Concern;

    /// What a journal's record has before its batch; its layout is frozen.
    const JOURNAL_HEADER: usize = 80;

    #[test]
    fn an_even_batch_makes_a_record_that_is_a_sector_long() {
        let setup =
            ProducerSetup { records_max: 4, compress: true, even: true, ..Default::default() };
        let mut stream = Stream::new(1, Concern::Client(0));
        let mut history = History::default();
        let place = history.partition("t", milena_wire::Uuid([1; 16]), 0);
        for now in [0, 5_000 * MS] {
            let draft = draw(&setup, now, place, &mut stream, &mut history);
            assert_eq!(draft.records.len() + JOURNAL_HEADER, SECTOR);
        }
    }

    #[test]
    fn what_must_be_taken_is_what_the_wire_takes() {
        let setup = ProducerSetup { strange: true, records_max: 4, ..ProducerSetup::default() };
        for stamped in [false, true] {
            let mut history = History::default();
            history.create("t", stamped, None);
            let place = history.partition("t", milena_wire::Uuid::ZERO, 0);
            let mut stream = Stream::new(1, Concern::Client(0));
            let rules = TimestampRules {
                now: wall(0),
                timestamp_type: match stamped {
                    true => TimestampType::LogAppendTime,
                    false => TimestampType::CreateTime,
                },
                before_max_ms: i64::MAX,
                after_max_ms: 60 * 60_000,
            };
            let (mut valid, mut without_times) = (0, 0);
            for _ in 0..2_000 {
                let draft = draw(&setup, 0, place, &mut stream, &mut history);
                let limit = DecompressLimit(1 << 20);
                let checked = validate_produce(&draft.records, limit, &rules);
                let is_taken = checked.is_ok() && draft.records.len() < OVERSIZE;
                assert_eq!(is_taken, draft.valid, "{checked:?}");
                valid += usize::from(draft.valid);
                let said = draft.records.get(MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8);
                without_times += usize::from(draft.valid && said == Some(&[0; 8]));
            }
            assert!(
                (1_000..1_900).contains(&valid) && without_times > 100,
                "{valid}, {without_times}"
            );
        }
    }
}
