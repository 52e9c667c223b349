//! Record batches: built, checked, placed, walked and opened.

use bytes::Bytes;
use milena_wire::ErrorCode;
use milena_wire::batch::{
    BatchBuilder, BatchError, BatchHeader, Compression, DecompressLimit, HEADER_LEN, Record,
    TimestampRules, TimestampType::LogAppendTime, assign, batches, frame, records, validate,
    validate_produce, with_header,
};
use milena_wire::forge::forged;

const LIMIT: DecompressLimit = DecompressLimit(1 << 20);

fn batch(base_offset: i64, compression: Compression, count: i64) -> Bytes {
    let mut builder = BatchBuilder::new(base_offset, 3, compression);
    for index in 0..count {
        let value = format!("value {index} {}", "x".repeat(index as usize % 50));
        builder.append(
            1_000 - index,
            None,
            Some(value.as_bytes()),
            &[("name", Some(b"v")), ("empty", None)],
        );
    }
    builder.build()
}

#[test]
fn built_batches_are_valid_and_open_again() {
    for compression in Compression::ALL {
        let batch = batch(40, compression, 3_000);
        let produced = altered(&batch, |header| header.base_offset = 0);
        let header = validate_produce(&produced, LIMIT, &TimestampRules::ANY).expect("valid");
        assert_eq!(validate(&batch), Ok(BatchHeader { base_offset: 40, ..header }));
        let header = validate(&batch).expect("valid");
        assert_eq!(
            (header.last_offset(), header.next_offset(), header.size()),
            (3_039, 3_040, batch.len())
        );
        assert_eq!(header.compression(), Ok(compression));
        assert_eq!(header.max_timestamp, 1_000);
        let records = records(&batch, LIMIT).expect("opens");
        assert_eq!(records.len(), 3_000);
        let expected = Record {
            offset: 2_540,
            timestamp: -1_500,
            key: None,
            value: Some(Bytes::from("value 2500 ")),
            headers: vec![("name".into(), Some("v".into())), ("empty".into(), None)],
        };
        assert_eq!(records[2_500], expected, "{compression:?}");
    }
}

#[test]
fn assigning_keeps_the_checksum() {
    let batch = batch(0, Compression::None, 3);
    let placed = Bytes::from(assign(&batch, 1 << 40, 9).concat());
    let header = validate(&placed).expect("still valid");
    assert_eq!((header.base_offset, header.partition_leader_epoch), (1 << 40, 9));
    assert_eq!(placed[HEADER_LEN..], batch[HEADER_LEN..]);
    assert_eq!(placed[..HEADER_LEN], header.to_bytes());
}

#[test]
fn the_append_time_is_that_of_every_record() {
    for compression in Compression::ALL {
        let batch = batch(0, compression, 3);
        let rules =
            TimestampRules { now: 77, timestamp_type: LogAppendTime, ..TimestampRules::ANY };
        let header = validate_produce(&batch, LIMIT, &rules).expect("valid");
        let stamped = with_header(&batch, &header);
        let header = validate(&stamped).expect("still valid");
        assert_eq!((header.timestamp_type(), header.max_timestamp), (LogAppendTime, 77));
        assert_eq!(header.compression(), Ok(compression));
        let times = |bytes| -> Vec<i64> {
            records(bytes, LIMIT).expect("opens").iter().map(|record| record.timestamp).collect()
        };
        assert_eq!((times(&stamped), times(&batch)), (vec![77; 3], vec![1_000, 999, 998]));
    }
}

#[test]
fn walking_stops_at_a_cut_batch() {
    let whole = [batch(0, Compression::None, 2), batch(2, Compression::Lz4, 5)].concat();
    let offsets = |bytes: &[u8]| -> Vec<Result<i64, ()>> {
        batches(&Bytes::copy_from_slice(bytes))
            .map(|item| item.map(|(h, _)| h.base_offset).map_err(|_| ()))
            .collect()
    };
    assert_eq!(offsets(&whole), [Ok(0), Ok(2)]);
    assert_eq!(offsets(&whole[..whole.len() - 1]), [Ok(0), Err(())]);
    assert_eq!(offsets(&[]), []);
}

#[test]
fn any_flipped_bit_is_noticed() {
    let batch = batch(0, Compression::None, 2);
    // Offset and epoch are outside the checksum on purpose.
    for position in (8..12).chain(16..batch.len()) {
        for bit in 0..8 {
            let mut damaged = batch.to_vec();
            damaged[position] ^= 1 << bit;
            assert!(validate(&damaged).is_err(), "byte {position} bit {bit}");
        }
    }
}

/// A copy with a changed header and a checksum that fits again.
fn altered(batch: &Bytes, alter: impl FnOnce(&mut BatchHeader)) -> Bytes {
    forged(batch, &batch[HEADER_LEN..], alter)
}

#[test]
fn what_a_producer_may_not_send() {
    let batch = batch(0, Compression::None, 3);
    let produce = |alter: fn(&mut BatchHeader)| {
        validate_produce(&altered(&batch, alter), LIMIT, &TimestampRules::ANY).map(|_| ())
    };
    assert_eq!(produce(|_| ()), Ok(()));
    assert_eq!(produce(|header| header.base_offset = 1), Err(BatchError::Offsets));
    let mut damaged = altered(&batch, |header| header.base_offset = 1).to_vec();
    damaged[HEADER_LEN] ^= 1;
    let produced = validate_produce(&damaged, LIMIT, &TimestampRules::ANY);
    assert_eq!(produced, Err(BatchError::Offsets), "which of two mistakes is told");
    assert_eq!(produce(|header| header.base_sequence = 0), Ok(()));
    assert_eq!(produce(|header| header.attributes |= 1 << 5), Err(BatchError::Control));
    assert_eq!(produce(|header| header.attributes |= 7), Err(BatchError::UnknownCompression(7)));
    assert_eq!(produce(|header| header.producer_id = 5), Err(BatchError::Sequence(-1)));
    assert_eq!(produce(|header| header.magic = 1), Err(BatchError::Magic(1)));
    assert_eq!(produce(|header| header.last_offset_delta = 7), Err(BatchError::Count { count: 3 }));
    assert_eq!(
        produce(|header| header.last_offset_delta = -1),
        Err(BatchError::Count { count: 3 })
    );
    assert_eq!(produce(|header| header.records_count = -1), Err(BatchError::Count { count: -1 }));
    assert_eq!(
        produce(|header| {
            header.records_count = i32::MAX;
            header.last_offset_delta = i32::MAX - 1;
        }),
        Err(BatchError::Count { count: i32::MAX })
    );
    assert_eq!(
        validate(&altered(&batch, |header| header.base_offset = i64::MAX)).map(|_| ()),
        Err(BatchError::Offsets)
    );
    // Compaction leaves gaps, and batches without a record.
    assert!(validate(&altered(&batch, |header| header.last_offset_delta = 7)).is_ok());
    assert_eq!(
        validate_produce(&[&batch[..], &[0]].concat(), LIMIT, &TimestampRules::ANY).map(|_| ()),
        Err(BatchError::Length(BatchHeader::parse(&batch).expect("valid").batch_length))
    );
}

/// Clients in wide use leave the largest timestamp unset; others make up what they like.
#[test]
fn what_follows_from_the_records_is_computed_from_them() {
    for compression in Compression::ALL {
        let sound = batch(0, compression, 3);
        for (attributes, max_timestamp) in [(0, -1), (0, 0), (0, i64::MAX), (1 << 6, 1_000)] {
            let lying = altered(&sound, |header| {
                header.attributes |= attributes;
                header.max_timestamp = max_timestamp;
            });
            let header = validate_produce(&lying, LIMIT, &TimestampRules::ANY).expect("taken");
            assert_eq!(with_header(&lying, &header), sound, "{compression:?} {max_timestamp}");
        }
    }
}

#[test]
fn times_out_of_range_are_refused() {
    let rules = TimestampRules {
        now: 1_000_000,
        before_max_ms: 5_000,
        after_max_ms: 1_000,
        ..TimestampRules::ANY
    };
    let with_time = |time| {
        let mut builder = BatchBuilder::new(0, -1, Compression::Lz4);
        builder.append(1_000_000, None, None, &[]).append(time, None, None, &[]);
        builder.build()
    };
    let judged =
        |time, rules: &TimestampRules| validate_produce(&with_time(time), LIMIT, rules).map(|_| ());
    for time in [-1, 995_000, 1_001_000] {
        assert_eq!(judged(time, &rules), Ok(()), "{time}");
    }
    for time in [-2, 0, 994_999, 1_001_001, 1_000_000_000, i64::MAX, i64::MIN] {
        assert_eq!(judged(time, &rules), Err(BatchError::Timestamp { time, record: 1 }));
        let broker = TimestampRules { timestamp_type: LogAppendTime, ..rules };
        assert_eq!(judged(time, &broker), Ok(()), "the broker's time counts");
    }
    let claims = altered(&with_time(999_999), |header| header.attributes |= 1 << 3);
    let header = validate_produce(&claims, LIMIT, &rules).expect("the claim is dropped");
    assert_eq!((header.attributes, header.max_timestamp), (3, 1_000_000));
    let broker = TimestampRules { timestamp_type: LogAppendTime, ..rules };
    assert_eq!(validate_produce(&claims, LIMIT, &broker), Err(BatchError::TimestampType));
    let none = altered(&claims, |header| header.max_timestamp = -1);
    assert_eq!(validate_produce(&none, LIMIT, &rules), Err(BatchError::TimestampType));
}

#[test]
fn bytes_are_divided_into_batches_by_length_and_format_alone() {
    let batch = batch(0, Compression::None, 2);
    let size = batch.len();
    let with = |place: usize, value: u8| {
        let mut bytes = batch.to_vec();
        bytes[place] = value;
        frame(&bytes)
    };
    assert_eq!(frame(&batch), Ok(Some(size)));
    assert_eq!(frame(&[&batch[..], &[0; 40]].concat()), Ok(Some(size)));
    for cut in [0, 11, 16, 60, size - 1] {
        assert_eq!(frame(&batch[..cut]), Ok(None), "{cut}");
    }
    assert_eq!(with(16, 0), Ok(Some(size)), "old formats too");
    assert_eq!(with(16, 3), Err(BatchError::Magic(3)));
    assert_eq!(with(16, 3).unwrap_err().error_code(), ErrorCode::CORRUPT_MESSAGE);
    assert_eq!(with(8, 0xff).unwrap_err().error_code(), ErrorCode::CORRUPT_MESSAGE);
    assert_eq!(frame(&[0; 12]), Err(BatchError::Length(0)));
}
