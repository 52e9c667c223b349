//! Bytes of strangers: nothing panics, and nothing allocates more than the bytes that came can account for.
//!
//! An allocator that counts measures every decoding here. Named attacks first, then random and mutated frames.

use bytes::Bytes;
use milena_wire::forge::forged;
use milena_wire::{
    ApiKey, DecodeError, Request, RequestError, RequestHeader, Response,
    batch::{
        self, BatchBuilder, BatchError, Compression, DecompressLimit, HEADER_LEN, TimestampRules,
        batches, record_iterator, validate, validate_produce,
    },
    decode_request, decode_response, encode_request, encode_response,
    sample::Source,
};
use peak_alloc::PeakAlloc;
use proptest::prelude::*;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What the largest struct of a message takes in memory per byte of its shortest form, with room to spare.
const MEMORY_PER_BYTE: usize = 64;
/// How the Java library's frame of Snappy begins.
const SNAPPY_HEAD: &[u8] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
/// What else may be allocated meanwhile, by the test harness too.
const SLACK: usize = 128 << 10;

/// The one allocator measures for one test at a time: each holds this lock, as what another allocates would count.
#[allow(clippy::disallowed_types, reason = "a test may wait for another")]
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[allow(clippy::disallowed_types, reason = "a test may wait for another")]
fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Runs `work` and tells the most memory it held at once, in bytes.
fn measured<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let result = work();
    let peak = ALLOCATOR.peak_usage();
    (result, peak.saturating_sub(before))
}

/// Decodes a frame as a request, within bounds.
fn request(frame: &[u8]) -> Result<(RequestHeader, Request), RequestError> {
    let bytes = Bytes::copy_from_slice(frame);
    let (result, memory) = measured(|| decode_request(bytes));
    let bound = frame.len() * MEMORY_PER_BYTE + SLACK;
    assert!(memory <= bound, "{memory} bytes of memory for a frame of {}", frame.len());
    result
}

/// A frame whose header is fine, with `body` after it.
fn frame(api_key: ApiKey, version: i16, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend_from_slice(&(api_key as i16).to_be_bytes());
    frame.extend_from_slice(&version.to_be_bytes());
    frame.extend_from_slice(&1i32.to_be_bytes());
    frame.extend_from_slice(&(-1i16).to_be_bytes());
    if api_key.is_flexible(version) {
        frame.push(0);
    }
    frame.extend_from_slice(body);
    frame
}

fn malformed(api_key: ApiKey, version: i16, body: &[u8]) -> DecodeError {
    match request(&frame(api_key, version, body)) {
        Err(RequestError::Malformed(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_count_that_no_frame_could_hold() {
    let _alone = alone();
    // Compact, the largest count of 32 bits; then the same as a classic count.
    let compact = malformed(ApiKey::Metadata, 12, &[0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert_eq!(compact, DecodeError::ArrayTooLong { count: u32::MAX as usize - 1, remaining: 0 });
    let classic = malformed(ApiKey::Metadata, 8, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0]);
    assert_eq!(classic, DecodeError::ArrayTooLong { count: i32::MAX as usize, remaining: 3 });
}

#[test]
fn a_count_that_the_bytes_cannot_hold() {
    let _alone = alone();
    // Ten bytes hold at most five topics with two bytes of name length each.
    let mut body = 6i32.to_be_bytes().to_vec();
    body.extend_from_slice(&[0; 11]);
    assert_eq!(
        malformed(ApiKey::Metadata, 1, &body),
        DecodeError::ArrayTooLong { count: 6, remaining: 11 }
    );
}

#[test]
fn many_small_elements_hit_the_memory_limit() {
    let _alone = alone();
    // Five million empty names: one byte each on the wire, twenty-four in memory.
    let count = 5_000_000u32;
    let mut body = vec![0, 0xc1, 0x96, 0xb1, 0x02];
    assert_eq!(count + 1, 0x41 | 0x16 << 7 | 0x31 << 14 | 2 << 21);
    body.resize(body.len() + count as usize, 1);
    let bytes = Bytes::from(frame(ApiKey::FindCoordinator, 6, &body));
    let length = bytes.len();
    let (result, memory) = measured(|| decode_request(bytes));
    assert!(
        matches!(result, Err(RequestError::Malformed(DecodeError::MemoryLimit(_)))),
        "{result:?}"
    );
    assert!(memory <= (8 << 20) + 4 * length + SLACK, "{memory}");
}

#[test]
fn lengths_below_null() {
    let _alone = alone();
    assert_eq!(
        malformed(ApiKey::Metadata, 1, &(-2i32).to_be_bytes()),
        DecodeError::NegativeLength(-2)
    );
    assert_eq!(
        malformed(ApiKey::FindCoordinator, 0, &[0x80, 0]),
        DecodeError::NegativeLength(i64::from(i16::MIN))
    );
}

#[test]
fn null_where_none_may_stand() {
    let _alone = alone();
    assert_eq!(malformed(ApiKey::Metadata, 0, &(-1i32).to_be_bytes()), DecodeError::UnexpectedNull);
    assert_eq!(malformed(ApiKey::FindCoordinator, 0, &[0xff, 0xff]), DecodeError::UnexpectedNull);
    assert_eq!(malformed(ApiKey::FindCoordinator, 4, &[0, 0, 0]), DecodeError::UnexpectedNull);
    // No topics, a limit, and a cursor that is neither null nor there.
    let cursor = [1, 0, 0, 0, 0, 2];
    assert_eq!(malformed(ApiKey::DescribeTopicPartitions, 0, &cursor), DecodeError::UnexpectedNull);
}

#[test]
fn variable_length_integers_end() {
    let _alone = alone();
    let body = |bytes: &[u8]| malformed(ApiKey::Metadata, 12, bytes);
    assert_eq!(body(&[0x80; 40]), DecodeError::VarintTooLong);
    assert_eq!(body(&[0xff, 0xff, 0xff, 0xff, 0x1f]), DecodeError::VarintTooLong);
    // One, padded to two bytes.
    assert_eq!(body(&[0x81, 0x00]), DecodeError::VarintTooLong);
    assert_eq!(body(&[0x80]), DecodeError::UnexpectedEnd { needed: 1, remaining: 0 });
}

#[test]
fn strings_are_text_and_short() {
    let _alone = alone();
    assert_eq!(
        malformed(ApiKey::FindCoordinator, 0, &[0, 2, 0xc3, 0x28]),
        DecodeError::InvalidUtf8
    );
    assert_eq!(
        malformed(ApiKey::FindCoordinator, 0, &[0x7f, 0xff, b'a']),
        DecodeError::UnexpectedEnd { needed: 32_767, remaining: 1 }
    );
    // A compact string of 32,768 bytes that is all there.
    let mut body = vec![0x81, 0x80, 0x02];
    body.resize(body.len() + 32_768, b'a');
    assert_eq!(malformed(ApiKey::FindCoordinator, 3, &body), DecodeError::StringTooLong(32_768));
}

#[test]
fn tags_are_bounded_and_in_order() {
    let _alone = alone();
    // ApiVersions: two empty names, then tagged fields.
    let tags = |bytes: &[u8]| request(&frame(ApiKey::ApiVersions, 4, &[&[1, 1], bytes].concat()));
    assert!(tags(&[2, 5, 1, 9, 200, 1, 0]).is_ok(), "unknown tags are passed over");
    let error = |bytes: &[u8]| match tags(bytes) {
        Err(RequestError::Malformed(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(error(&[2, 5, 0, 5, 0]), DecodeError::TagOrder(5));
    assert_eq!(error(&[2, 5, 0, 4, 0]), DecodeError::TagOrder(4));
    assert_eq!(error(&[1, 5, 100, 1]), DecodeError::UnexpectedEnd { needed: 100, remaining: 1 });
    assert_eq!(
        error(&[0xff, 0xff, 0xff, 0xff, 0x0f]),
        DecodeError::UnexpectedEnd { needed: 1, remaining: 0 }
    );
    // A cluster id of one letter in a tagged field declared one byte longer, and one byte shorter. The fields before it
    // are four integers of four bytes, one of one, two empty arrays and an empty string.
    let fetch = |size: u8| {
        let mut body = vec![0; 12 + 1 + 8];
        body.extend_from_slice(&[1, 1, 1, 1, 0, size, 2, b'c', 0, 0]);
        malformed(ApiKey::Fetch, 15, &body)
    };
    assert_eq!(fetch(3), DecodeError::TagSize(0));
    assert_eq!(fetch(1), DecodeError::UnexpectedEnd { needed: 1, remaining: 0 });
}

#[test]
fn cut_frames() {
    let _alone = alone();
    for &api_key in ApiKey::ALL {
        let (first, last) = api_key.versions();
        for api_version in first..=last {
            let message = Request::sample(api_key, &mut Source::new(1), api_version);
            let header = RequestHeader {
                api_key: api_key as i16,
                api_version,
                correlation_id: 1,
                client_id: Some("client".to_owned()),
            };
            let frame = encode_request(&header, &message).concat();
            for length in 0..frame.len() {
                assert!(
                    matches!(request(&frame[..length]), Err(RequestError::Malformed(_))),
                    "{api_key:?} version {api_version} cut at {length} of {}",
                    frame.len()
                );
            }
        }
    }
}

fn small_batch(compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(0, 0, compression);
    for index in 0..20i64 {
        builder.append(index, Some(b"key"), Some(&[7; 100]), &[("name", Some(b"value"))]);
    }
    builder.build()
}

/// Bytes in each of the ways in which a producer may compress them.
fn compressed(bytes: &[u8]) -> Vec<(Compression, Vec<u8>)> {
    use std::io::Write;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).expect("into memory");
    let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
    lz4.write_all(bytes).expect("into memory");
    let bare = snap::raw::Encoder::new().compress_vec(bytes).expect("into memory");
    let framed = bytes.chunks(32 << 10).fold(SNAPPY_HEAD.to_vec(), |mut framed, block| {
        let block = snap::raw::Encoder::new().compress_vec(block).expect("into memory");
        framed.extend_from_slice(&(block.len() as i32).to_be_bytes());
        framed.extend_from_slice(&block);
        framed
    });
    vec![
        (Compression::Gzip, gzip.finish().expect("into memory")),
        (Compression::Snappy, bare),
        (Compression::Snappy, framed),
        (Compression::Lz4, lz4.finish().expect("into memory")),
        (Compression::Zstd, zstd::encode_all(bytes, 3).expect("into memory")),
    ]
}

/// Checks a batch as a producer's, within bounds that are the codec's and know nothing of the output.
fn produced(batch: &Bytes, limit: usize) -> Result<(), BatchError> {
    let (result, memory) = measured(|| {
        validate_produce(batch, DecompressLimit(limit), &TimestampRules::ANY).map(|_| ())
    });
    // LZ4 holds blocks of 4 MiB, and a bare block of Snappy 22 times its bytes.
    let bound = (13 << 20) + 22 * batch.len() + SLACK;
    assert!(memory <= bound, "{memory} bytes of memory for a batch of {}", batch.len());
    result
}

/// Opens a batch and counts its records, within bounds.
fn open(batch: &Bytes, limit: usize) -> Result<usize, BatchError> {
    let (result, memory) = measured(|| {
        let mut count = 0;
        for record in record_iterator(batch, DecompressLimit(limit))? {
            record?;
            count += 1;
        }
        Ok(count)
    });
    // Output may double while it grows; a header of a record takes 64 bytes for its two; LZ4 holds blocks of 4 MiB.
    let bound = 2 * limit + 32 * batch.len().max(limit) + (13 << 20) + SLACK;
    assert!(
        memory <= bound,
        "{memory} bytes of memory for a batch of {} and a limit of {limit}",
        batch.len()
    );
    result
}

#[test]
fn a_count_of_records_that_no_batch_could_hold() {
    let _alone = alone();
    for compression in Compression::ALL {
        let batch = small_batch(compression);
        let forged = forged(&batch, &batch[HEADER_LEN..], |header| {
            header.records_count = i32::MAX;
            header.last_offset_delta = i32::MAX - 1;
        });
        let expected = Err(BatchError::Count { count: i32::MAX });
        assert_eq!(open(&forged, 1 << 20), expected, "{compression:?}");
        if compression == Compression::None {
            assert_eq!(validate(&forged).map(|_| 0), expected);
        }
    }
}

#[test]
fn lengths_within_records() {
    let _alone = alone();
    let batch = small_batch(Compression::None);
    let open_one = |record: &[u8]| {
        open(
            &forged(&batch, record, |header| {
                (header.records_count, header.last_offset_delta) = (1, 0)
            }),
            1 << 20,
        )
    };
    // Length 6: attributes, timestamp, offset, null key, null value, no headers.
    assert_eq!(open_one(&[12, 0, 0, 0, 1, 1, 0]), Ok(1));
    for wrong in [
        // A record longer than the batch, and one of negative length.
        [14, 0, 0, 0, 1, 1, 0].as_slice(),
        &[1, 0, 0, 0, 1, 1, 0],
        // A key that is longer than the record, and one of length -2.
        &[12, 0, 0, 0, 2, 1, 0],
        &[12, 0, 0, 0, 3, 1, 0],
        // A header that is not there, and a count of -1.
        &[12, 0, 0, 0, 1, 1, 2],
        &[12, 0, 0, 0, 1, 1, 1],
        // Two billion headers.
        &[20, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f],
        // A header without a name.
        &[16, 0, 0, 0, 1, 1, 2, 1, 1],
        // An offset past the batch's last.
        &[12, 0, 0, 2, 1, 1, 0],
        // A byte after the fields, and one after the record.
        &[14, 0, 0, 0, 1, 1, 0, 0],
        &[12, 0, 0, 0, 1, 1, 0, 0],
        // A length of six groups.
        &[0x8c, 0x80, 0x80, 0x80, 0x80, 0, 0, 0, 0, 1, 1, 0],
    ] {
        assert_eq!(open_one(wrong), Err(BatchError::Record), "{wrong:?}");
    }
}

#[test]
fn offsets_within_a_batch_ascend() {
    let _alone = alone();
    let batch = small_batch(Compression::None);
    let open_two = |first: u8, second: u8| {
        let records = [12, 0, 0, first, 1, 1, 0, 12, 0, 0, second, 1, 1, 0];
        let forged = forged(&batch, &records, |header| {
            (header.records_count, header.last_offset_delta) = (2, 5);
        });
        open(&forged, 1 << 20)
    };
    // Compaction leaves gaps. Zigzag: an even byte is twice the offset.
    assert_eq!(open_two(2, 10), Ok(2));
    assert_eq!(open_two(2, 2), Err(BatchError::Record));
    assert_eq!(open_two(4, 2), Err(BatchError::Record));
    assert_eq!(open_two(2, 12), Err(BatchError::Record));
    assert_eq!(open_two(1, 2), Err(BatchError::Record));
}

/// Whatever a producer compressed is looked at: a header that lies about it, and what is no record, is refused.
#[test]
fn compressed_records_are_opened() {
    let _alone = alone();
    let batch = small_batch(Compression::None);
    let records = &batch[HEADER_LEN..];
    let as_sent = |compression: Compression, body: &[u8], count: i32| {
        let forged = forged(&batch, body, |header| {
            header.attributes = compression as i16;
            (header.records_count, header.last_offset_delta) = (count, count - 1);
        });
        produced(&forged, 1 << 20)
    };
    for (compression, body) in compressed(records) {
        assert_eq!(as_sent(compression, &body, 20), Ok(()), "{compression:?}");
        for lie in [1, 19, 21, i32::MAX] {
            let refused = Err(BatchError::Record);
            assert_eq!(as_sent(compression, &body, lie), refused, "{compression:?}: {lie} records");
        }
        let cut = as_sent(compression, &body[..body.len() - 9], 20);
        assert!(cut.is_err(), "{compression:?}: cut short");
        for garbage in [b"0123456789abcdef".as_slice(), &[0; 16]] {
            let refused = as_sent(compression, garbage, 20);
            assert!(refused.is_err(), "{compression:?}: {garbage:?} for records");
            let behind = as_sent(compression, &[&body, garbage].concat(), 20);
            // Kafka's readers of gzip and LZ4 pass over what stands behind the end, and so do we.
            let taken = matches!(compression, Compression::Gzip | Compression::Lz4);
            assert_eq!(behind.is_ok(), taken, "{compression:?}: {garbage:?} behind the records");
        }
    }
    // Three records whose offsets count 0, 2, 1; whose second is too short by one; with a fourth one behind them.
    let record = |offset: u8| [12, 0, 0, 2 * offset, 1, 1, 0];
    let sound = [record(0), record(1), record(2)].concat();
    let unordered = [record(0), record(2), record(1)].concat();
    let repeated = [record(0), record(1), record(1)].concat();
    let mut short = sound.clone();
    short[7] = 10;
    let more = [&sound[..], &record(3)].concat();
    for (records, expected) in [
        (&sound, Ok(())),
        (&unordered, Err(BatchError::Record)),
        (&repeated, Err(BatchError::Record)),
        (&short, Err(BatchError::Record)),
        (&more, Err(BatchError::Record)),
    ] {
        assert_eq!(as_sent(Compression::None, records, 3), expected, "{records:?}");
        for (compression, body) in compressed(records) {
            let seen = as_sent(compression, &body, 3);
            assert_eq!(seen, expected, "{compression:?}: {records:?}");
        }
    }
}

/// Checking takes memory for a window, not for what comes out: neither for large values nor for headers without number.
#[test]
fn bombs_from_producers() {
    let _alone = alone();
    let (zeros, headers) = (32 << 20, 1 << 20);
    let varint = |value: usize| -> Vec<u8> {
        let groups = (0..5).map(|group| ((2 * value) >> (7 * group)) as u8 & 0x7f);
        groups.enumerate().map(|(i, group)| if i < 4 { group | 0x80 } else { group }).collect()
    };
    // Attributes, timestamp, offset, null key; a value of many zeros, or many headers without name and value.
    let value = [&[0, 0, 0, 1][..], &varint(zeros), &vec![0; zeros], &[0]].concat();
    let names = [&[0, 0, 0, 1, 1][..], &varint(headers), &[0, 1].repeat(headers)].concat();
    for record in [value, names] {
        let records = [varint(record.len()), record].concat();
        for (compression, body) in compressed(&records) {
            let bomb = forged(&small_batch(Compression::None), &body, |header| {
                header.attributes = compression as i16;
                (header.records_count, header.last_offset_delta) = (1, 0);
            });
            assert!(bomb.len() < 4 << 20, "{compression:?}: {}", bomb.len());
            assert_eq!(produced(&bomb, records.len()), Ok(()), "{compression:?}");
            let limit = records.len() - 1;
            let refused = Err(BatchError::TooLarge(limit));
            assert_eq!(produced(&bomb, limit), refused, "{compression:?}");
        }
    }
}

#[test]
fn bombs() {
    let _alone = alone();
    let limit = 1 << 20;
    for compression in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
    {
        let mut builder = BatchBuilder::new(0, 0, compression);
        builder.append(0, None, Some(&vec![0; 64 << 20]), &[]);
        let bomb = builder.build();
        assert!(bomb.len() < 4 << 20);
        assert_eq!(open(&bomb, limit), Err(BatchError::TooLarge(limit)), "{compression:?}");
        assert_eq!(open(&bomb, 65 << 20), Ok(1), "{compression:?}");
    }
}

#[test]
fn snappy_sizes_are_not_believed() {
    let _alone = alone();
    let batch = small_batch(Compression::Snappy);
    let open_body = |body: &[u8]| {
        let forged = forged(&batch, body, |_| ());
        let (result, memory) =
            measured(|| record_iterator(&forged, DecompressLimit(64 << 20)).map(|_| ()));
        assert!(memory < 1 << 20, "{memory} bytes of memory");
        result
    };
    let magic = SNAPPY_HEAD;
    // A bare block that claims 60 MB, the same in a frame, and blocks longer than what is there.
    let claim = [0x80, 0x8e, 0xce, 0x1c, 0];
    assert_eq!(open_body(&claim), Err(BatchError::Decompress));
    assert_eq!(open_body(&[magic, &[0, 0, 0, 5], &claim].concat()), Err(BatchError::Decompress));
    assert_eq!(
        open_body(&[magic, &[0x7f, 0xff, 0xff, 0xff, 1]].concat()),
        Err(BatchError::Decompress)
    );
    assert_eq!(
        open_body(&[magic, &[0xff, 0xff, 0xff, 0xff, 1]].concat()),
        Err(BatchError::Decompress)
    );
    // As in Java, the end is where no length fits any more: here before any record.
    let none = Err(BatchError::Count { count: 20 });
    assert_eq!(open_body(&[magic, &[0, 0]].concat()), none);
    assert_eq!(open_body(&magic[..12]), Err(BatchError::Decompress));
}

#[test]
fn a_zstandard_window_is_capped() {
    let _alone = alone();
    // A frame header that asks for a window of two to the power of 10 + `log`, then an empty last block.
    let open_window = |log: u8| {
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, log << 3, 0x01, 0x00, 0x00];
        open(&forged(&small_batch(Compression::Zstd), &frame, |_| ()), 1 << 20)
    };
    assert_eq!(
        open_window(13),
        Err(BatchError::Count { count: 20 }),
        "8 MiB will do, but there is no record"
    );
    assert_eq!(open_window(14), Err(BatchError::Decompress));
    assert_eq!(open_window(21), Err(BatchError::Decompress));
}

/// Changes `bytes` in a few places, with a liking for what lengths and counts stumble over.
fn mutate(bytes: &mut Vec<u8>, source: &mut Source) {
    for _ in 0..=source.below(4) {
        let position = source.below(bytes.len() as u64 + 1) as usize;
        let interesting = [0x00, 0x01, 0x7f, 0x80, 0x81, 0xfe, 0xff][source.below(7) as usize];
        match source.below(6) {
            0 => bytes.truncate(position.max(8)),
            1 => bytes.insert(position, interesting),
            2 if position + 4 <= bytes.len() => {
                bytes[position..position + 4].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff]);
            }
            3 if position < bytes.len() => {
                bytes.remove(position);
            }
            4 if position < bytes.len() => bytes[position] ^= 1 << source.below(8),
            _ if position < bytes.len() => bytes[position] = interesting,
            _ => bytes.push(interesting),
        }
    }
}

fn versions() -> impl Iterator<Item = (ApiKey, i16)> {
    ApiKey::ALL.iter().flat_map(|&api_key| {
        let (first, last) = api_key.versions();
        (first..=last).map(move |version| (api_key, version))
    })
}

proptest! {
    #[test]
    fn mutated_requests(seed: u64) {
        let _alone = alone();
        let source = &mut Source::new(seed);
        for (api_key, api_version) in versions() {
            let header = RequestHeader {
                api_key: api_key as i16,
                api_version,
                correlation_id: 1,
                client_id: Some("client".to_owned()),
            };
            let message = Request::sample(api_key, source, api_version);
            let mut bytes = encode_request(&header, &message).concat();
            mutate(&mut bytes, source);
            // Whatever was understood can be written and is understood again.
            if let Ok((header, message)) = request(&bytes) {
                let again = encode_request(&header, &message).concat();
                prop_assert_eq!(decode_request(again.into()), Ok((header, message)));
            }
        }
    }

    #[test]
    fn mutated_responses(seed: u64) {
        let _alone = alone();
        let source = &mut Source::new(seed);
        for (api_key, version) in versions() {
            let message = Response::sample(api_key, source, version);
            let mut bytes = encode_response(1, version, &message).concat();
            mutate(&mut bytes, source);
            let length = bytes.len();
            let frame = Bytes::from(bytes);
            let (result, memory) = measured(|| decode_response(api_key, version, frame));
            prop_assert!(memory <= length * MEMORY_PER_BYTE + SLACK, "{} for {}", memory, length);
            if let Ok((correlation_id, message)) = result {
                let again = encode_response(correlation_id, version, &message).concat();
                prop_assert_eq!(decode_response(api_key, version, again.into()), Ok((correlation_id, message)));
            }
        }
    }

    #[test]
    fn random_bodies(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _alone = alone();
        let _any_result = request(&body);
        for (api_key, version) in versions() {
            let _any_result = request(&frame(api_key, version, &body));
        }
    }

    #[test]
    fn mutated_batches(seed: u64, codec in 0..5usize) {
        let _alone = alone();
        let source = &mut Source::new(seed);
        let batch = small_batch(Compression::ALL[codec]);
        for _ in 0..20 {
            // Damage anywhere is found; damage with a checksum that fits is survived.
            let mut damaged = batch.to_vec();
            mutate(&mut damaged, source);
            let damaged = Bytes::from(damaged);
            let _any_result = produced(&damaged, 1 << 20);
            let walked: usize = batches(&damaged).flatten().map(|(_, bytes)| bytes.len()).sum();
            prop_assert!(walked <= damaged.len());
            let _any_result = open(&damaged, 1 << 20);

            let mut records = batch[HEADER_LEN..].to_vec();
            mutate(&mut records, source);
            let forged = forged(&batch, &records, |header| {
                if source.below(2) == 0 {
                    header.records_count = source.below(30) as i32 - 2;
                    header.base_offset = [0, -1, i64::MAX, i64::MIN][source.below(4) as usize];
                    header.last_offset_delta = [19, i32::MAX, -1, i32::MIN][source.below(4) as usize];
                }
            });
            if let Ok(header) = validate_produce(&forged, DecompressLimit(1 << 20), &TimestampRules::ANY) {
                prop_assert!(header.next_offset() >= header.base_offset);
            }
            let _any_result = open(&forged, 1 << 20);
            let _any_result = batch::records(&forged, DecompressLimit(1 << 20));
        }
    }
}
