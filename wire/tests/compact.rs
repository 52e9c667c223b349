//! What compaction makes of batches, held against their records as opened and filtered.

use bytes::Bytes;
use milena_wire::batch::{
    BatchBuilder, BatchError, BatchHeader, Candidate, Compression, DecompressLimit, HEADER_LEN,
    Record, Retained, TimestampRules, TimestampType, covering, emptied, records, retain, validate,
    validate_produce,
};
use milena_wire::forge::forged;

const LIMIT: DecompressLimit = DecompressLimit(1 << 20);
const HORIZON: i64 = 1_700_000_000_000;
const LOG_APPEND_TIME: i16 = 1 << 3;
const DELETE_HORIZON: i16 = 1 << 6;

/// Times that go back and forth, keys with and without values, headers.
fn batch(compression: Compression, values: &[Option<&[u8]>]) -> Bytes {
    let mut builder = BatchBuilder::new(1 << 33, 5, compression);
    builder.producer(9_000, 3, 77);
    for (index, value) in values.iter().enumerate() {
        let time = HORIZON - 86_400_000 + [0, 70_000, -5, 3][index % 4] * (index as i64 + 1);
        let key = format!("key {index}");
        let headers: &[(&str, Option<&[u8]>)] = &[("name", Some(b"v")), ("empty", None)];
        builder.append(time, Some(key.as_bytes()), *value, &headers[..index % 3]);
    }
    builder.build()
}

fn some(retained: Result<Retained, BatchError>) -> Bytes {
    match retained {
        Ok(Retained::Some(batch)) => batch,
        other => panic!("a batch with fewer records, not {other:?}"),
    }
}

#[test]
fn a_covering_batch_is_valid_and_says_nothing_but_its_offsets() {
    for (base, next) in [(0, 1), (7, 9), (1 << 40, (1 << 40) + (1 << 31))] {
        let batch = covering(base, next, 4);
        let header = validate(&batch).expect("valid");
        assert_eq!((header.base_offset, header.next_offset()), (base, next));
        assert_eq!((header.partition_leader_epoch, header.records_count), (4, 0));
        assert_eq!((header.attributes, header.size()), (0, HEADER_LEN));
        assert_eq!((header.base_timestamp, header.max_timestamp), (-1, -1));
        let producer = (header.producer_id, header.producer_epoch, header.base_sequence);
        assert_eq!(producer, (-1, -1, -1));
        assert_eq!(records(&batch, LIMIT), Ok(vec![]));
        assert_eq!(retain(&batch, LIMIT, 0, |_| true), Ok(Retained::None));
    }
}

#[test]
#[should_panic(expected = "as many offsets as one batch covers")]
fn a_covering_batch_does_not_reach_further_than_it_can_say() {
    covering(0, (1 << 31) + 1, 4);
}

#[test]
#[should_panic(expected = "as many offsets as one batch covers")]
fn a_covering_batch_covers_an_offset() {
    covering(5, 5, 4);
}

#[test]
fn an_emptied_batch_keeps_offsets_and_producer() {
    for compression in Compression::ALL {
        let full = batch(compression, &[Some(b"value"), None, Some(b"")]);
        // With a delete horizon too, of which nothing may stay.
        let kept = some(retain(&full, LIMIT, HORIZON, |_| true));
        for full in [&full, &kept] {
            let before = validate(full).expect("valid");
            let batch = emptied(&before);
            let header = validate(&batch).expect("valid");
            let expected = BatchHeader {
                batch_length: header.batch_length,
                crc: header.crc,
                attributes: 0,
                base_timestamp: -1,
                max_timestamp: -1,
                records_count: 0,
                ..before
            };
            assert_eq!((header, header.size()), (expected, HEADER_LEN));
            assert_eq!(header.delete_horizon(), None);
            assert_eq!(records(&batch, LIMIT), Ok(vec![]));
            assert_eq!(emptied(&header), batch);
        }
    }
}

/// Every choice of seven records, of which some are tombstones, of every codec, with producers' times and brokers'.
#[test]
fn what_stays_is_what_was_there() {
    let values: [Option<&[u8]>; 7] =
        [Some(b"one"), None, Some(b""), Some(&[7; 300]), None, Some(b"six"), Some(b"seven")];
    for compression in Compression::ALL {
        let created = batch(compression, &values);
        let stamped = forged(&created, &created[HEADER_LEN..], |header| {
            header.attributes |= LOG_APPEND_TIME;
            header.max_timestamp = 42;
        });
        for batch in [created, stamped] {
            let all = records(&batch, LIMIT).expect("sound");
            for mask in 0..1 << values.len() {
                check_choice(&batch, &all, |index| mask >> index & 1 == 1);
            }
        }
    }
}

fn check_choice(batch: &Bytes, all: &[Record], stays: impl Fn(usize) -> bool) {
    let mut asked = 0;
    let retained = retain(batch, LIMIT, HORIZON, |candidate| {
        let record = &all[asked];
        let expected = Candidate {
            offset: record.offset,
            key: record.key.as_deref(),
            is_tombstone: record.value.is_none(),
        };
        assert_eq!(candidate, expected);
        asked += 1;
        stays(asked - 1)
    });
    assert_eq!(asked, all.len());
    let kept = all.iter().enumerate().filter(|(index, _)| stays(*index));
    let kept: Vec<Record> = kept.map(|(_, record)| record.clone()).collect();
    let has_tombstone = kept.iter().any(|record| record.value.is_none());
    if kept.is_empty() {
        assert_eq!(retained, Ok(Retained::None));
        return;
    }
    if kept.len() == all.len() && !has_tombstone {
        assert_eq!(retained, Ok(Retained::All));
        return;
    }
    let remaining = some(retained);
    let (before, header) = (validate(batch).expect("valid"), validate(&remaining).expect("valid"));
    assert_eq!(records(&remaining, LIMIT), Ok(kept.clone()));
    let largest = kept.iter().map(|record| record.timestamp).max().expect("some stay");
    let expected = BatchHeader {
        batch_length: header.batch_length,
        crc: header.crc,
        attributes: before.attributes | if has_tombstone { DELETE_HORIZON } else { 0 },
        base_timestamp: if has_tombstone { HORIZON } else { before.base_timestamp },
        max_timestamp: largest,
        records_count: kept.len() as i32,
        ..before
    };
    assert_eq!(header, expected);
    assert_eq!(header.delete_horizon(), has_tombstone.then_some(HORIZON));

    // A second time nothing is left to do, and a horizon is not moved.
    assert_eq!(retain(&remaining, LIMIT, HORIZON + 1, |_| true), Ok(Retained::All));
    if kept.len() > 1 {
        let last = kept[kept.len() - 1].offset;
        let fewer = some(retain(&remaining, LIMIT, HORIZON + 1, |record| record.offset != last));
        assert_eq!(records(&fewer, LIMIT).expect("sound"), kept[..kept.len() - 1]);
        let fewer = validate(&fewer).expect("valid");
        let horizon = if has_tombstone { Some(HORIZON) } else { None };
        assert_eq!(fewer.delete_horizon(), horizon);
    }
}

#[test]
fn timestamps_at_the_ends_of_time_outlive_a_horizon() {
    for (first, second) in [(i64::MIN, i64::MAX), (i64::MAX, i64::MIN), (-1, -1)] {
        for horizon in [0, -1, i64::MAX, i64::MIN] {
            let mut builder = BatchBuilder::new(0, 0, Compression::None);
            builder.append(first, Some(b"k"), None, &[]).append(second, None, Some(b"v"), &[]);
            let remaining = some(retain(&builder.build(), LIMIT, horizon, |_| true));
            let times: Vec<i64> = records(&remaining, LIMIT)
                .expect("sound")
                .iter()
                .map(|record| record.timestamp)
                .collect();
            assert_eq!(times, [first, second]);
            let header = validate(&remaining).expect("valid");
            assert_eq!(header.delete_horizon(), Some(horizon));
            assert_eq!(header.max_timestamp, first.max(second));
        }
    }
}

#[test]
fn a_record_is_copied_with_all_its_bytes() {
    let original = batch(Compression::None, &[Some(b"a"), Some(b"b"), Some(b"c"), Some(b"d")]);
    // An attribute that nobody has given a meaning yet, in each record: its length takes one byte.
    let mut bytes = original[HEADER_LEN..].to_vec();
    let mut at = 0;
    while at < bytes.len() {
        bytes[at + 1] = 0x55;
        at += 1 + usize::from(bytes[at] >> 1);
    }
    let marked = forged(&original, &bytes, |_| ());
    let without_second = some(retain(&marked, LIMIT, 0, |record| record.offset & 3 != 1));
    let first = 1 + usize::from(bytes[0] >> 1);
    let second = 1 + usize::from(bytes[first] >> 1);
    assert_eq!(without_second[HEADER_LEN..], [&bytes[..first], &bytes[first + second..]].concat());
}

#[test]
fn what_is_too_large_or_malformed_is_an_error() {
    let value = [b'v'; 1_000];
    for compression in Compression::ALL {
        let batch = batch(compression, &[Some(&value[..]); 20]);
        let retained = retain(&batch, DecompressLimit(2_000), 0, |record| record.offset & 1 == 0);
        if compression == Compression::None {
            assert_eq!(records(&some(retained), LIMIT).expect("sound").len(), 10);
        } else {
            assert_eq!(retained, Err(BatchError::TooLarge(2_000)));
        }
        let more = forged(&batch, &batch[HEADER_LEN..], |header| header.records_count += 1);
        assert!(retain(&more, LIMIT, 0, |_| true).is_err());
        let cut = batch.slice(..batch.len() - 1);
        assert!(matches!(retain(&cut, LIMIT, 0, |_| true), Err(BatchError::Truncated { .. })));
    }
    let unknown = batch(Compression::None, &[Some(b"v")]);
    let unknown = forged(&unknown, &unknown[HEADER_LEN..], |header| header.attributes = 6);
    assert_eq!(retain(&unknown, LIMIT, 0, |_| true), Err(BatchError::UnknownCompression(6)));
}

#[test]
fn a_batch_does_not_grow_out_of_the_limit_under_which_it_opened() {
    let tombstones = [None; 100];
    for compression in [Compression::Lz4, Compression::Zstd] {
        let batch = batch(compression, &tombstones);
        let plain = self::batch(Compression::None, &tombstones).len() - HEADER_LEN;
        let limit = DecompressLimit(plain);
        // So far away that each delta takes more bytes than before.
        assert_eq!(retain(&batch, limit, 1 << 60, |_| true), Err(BatchError::TooLarge(plain)));
        let few = some(retain(&batch, limit, 1 << 60, |record| record.offset & 1 == 0));
        assert_eq!(records(&few, limit).expect("opens").len(), 50);
    }
}

#[test]
fn a_producer_sets_no_delete_horizon() {
    let batch = batch(Compression::None, &[Some(b"v"), None]);
    let claimed = forged(&batch, &batch[HEADER_LEN..], |header| {
        header.base_offset = 0;
        header.attributes |= DELETE_HORIZON;
    });
    let header = validate_produce(&claimed, LIMIT, &TimestampRules::ANY).expect("taken");
    assert_eq!(header.delete_horizon(), None);
    assert_eq!(header.timestamp_type(), TimestampType::CreateTime);
}
