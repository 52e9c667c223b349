//! What each codec takes is what Apache Kafka's own reader takes: what is acknowledged can be read by its consumer.

use bytes::Bytes;
use milena_wire::batch::{
    BatchBuilder, BatchError, Compression, DecompressLimit, HEADER_LEN, TimestampRules, records,
    validate_produce,
};
use milena_wire::forge::forged;

const LIMIT: DecompressLimit = DecompressLimit(1 << 20);

/// One record as it lies in a batch.
fn record() -> Vec<u8> {
    let mut builder = BatchBuilder::new(0, -1, Compression::None);
    builder.append(0, None, Some(&[b'v'; 300]), &[]);
    builder.build()[HEADER_LEN..].to_vec()
}

/// A batch of that record, compressed as `payload` says.
fn batch(compression: Compression, payload: &[u8]) -> Bytes {
    let mut builder = BatchBuilder::new(0, -1, Compression::None);
    builder.append(0, None, Some(&[b'v'; 300]), &[]);
    forged(&builder.build(), payload, |header| header.attributes = compression as i16)
}

fn taken(compression: Compression, payload: &[u8]) -> bool {
    let batch = batch(compression, payload);
    let result = validate_produce(&batch, LIMIT, &TimestampRules::ANY);
    match &result {
        Ok(_) => assert_eq!(records(&batch, LIMIT).expect("opens").len(), 1),
        Err(error) => assert_eq!(*error, BatchError::Decompress),
    }
    result.is_ok()
}

/// A frame of one stored block: its two descriptor bytes and their checksum, the block, what comes after.
fn lz4(descriptor: &[u8], after: &[u8]) -> Vec<u8> {
    let block = record();
    let length = block.len() as u32 | 1 << 31;
    let magic = 0x184d_2204u32.to_le_bytes();
    [&magic, descriptor, &length.to_le_bytes(), &block, after].concat()
}

const END: &[u8] = &[0; 4];

#[test]
fn lz4_frames_are_those_that_java_reads() {
    let lz4_taken = |frame: &[u8]| taken(Compression::Lz4, frame);
    let independent = &[0x60, 0x40, 0x82];
    assert!(lz4_taken(&lz4(independent, END)));
    assert!(!lz4_taken(&lz4(&[0x40, 0x40, 0xc0], END)), "linked blocks");
    assert!(!lz4_taken(&lz4(&[0x60, 0x40, 0x83], END)), "header checksum");
    assert!(!lz4_taken(&lz4(independent, &[])), "no end mark");
    assert!(!lz4_taken(&lz4(independent, &END[1..])), "half an end mark");
    assert!(
        lz4_taken(&lz4(independent, &[0, 0, 0, 0x80])),
        "a block that is stored and empty ends too"
    );
    assert!(lz4_taken(&lz4(independent, &[END, b"behind"].concat())), "what follows is not read");
    let mut linked = Vec::new();
    {
        use std::io::Write;
        let frame = lz4_flex::frame::FrameInfo::new()
            .block_mode(lz4_flex::frame::BlockMode::Linked)
            .block_size(lz4_flex::frame::BlockSize::Max64KB);
        let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, &mut linked);
        encoder.write_all(&record()).unwrap();
        encoder.finish().unwrap();
    }
    assert!(!lz4_taken(&linked));
    for (block_checksums, content_checksum, sized) in
        [(true, false, false), (false, true, false), (true, true, true)]
    {
        use std::io::Write;
        let frame = lz4_flex::frame::FrameInfo::new()
            .block_mode(lz4_flex::frame::BlockMode::Independent)
            .block_checksums(block_checksums)
            .content_checksum(content_checksum)
            .content_size(sized.then_some(record().len() as u64));
        let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, Vec::new());
        encoder.write_all(&record()).unwrap();
        let mut frame = encoder.finish().unwrap();
        assert!(lz4_taken(&frame), "{block_checksums} {content_checksum} {sized}");
        let cut = lz4_taken(&frame[..frame.len() - 1]);
        assert!(!cut, "a byte is missing of the end mark or of the checksum behind it");
        if block_checksums {
            let last = frame.len() - 4 * (2 + usize::from(content_checksum));
            frame[last] ^= 1;
            assert!(!lz4_taken(&frame), "block checksum");
        }
    }
}

fn gzip() -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&record()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn gzip_members_are_those_that_java_reads() {
    let gzip_taken = |stream: &[u8]| taken(Compression::Gzip, stream);
    let whole = gzip();
    assert!(gzip_taken(&whole));
    for cut in 1..=8 {
        assert!(!gzip_taken(&whole[..whole.len() - cut]), "{cut} bytes of the trailer are missing");
    }
    let mut wrong = whole.clone();
    *wrong.last_mut().unwrap() ^= 1;
    assert!(!gzip_taken(&wrong), "size");
    assert!(gzip_taken(&[&whole[..], b"behind"].concat()), "what follows is not read");
    let empty = {
        let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.finish().unwrap()
    };
    assert!(gzip_taken(&[&empty[..], &whole].concat()), "members in a row");
}

#[test]
fn snappy_streams_are_those_that_java_reads() {
    let snappy_taken = |stream: &[u8]| taken(Compression::Snappy, stream);
    let bare = snap::raw::Encoder::new().compress_vec(&record()).unwrap();
    assert!(snappy_taken(&bare));
    let framed = |version: i32, blocks: &[&[u8]]| -> Vec<u8> {
        let mut stream = b"\x82SNAPPY\0".to_vec();
        stream.extend([version.to_be_bytes(), 1i32.to_be_bytes()].concat());
        for block in blocks {
            stream.extend((block.len() as i32).to_be_bytes());
            stream.extend(*block);
        }
        stream
    };
    assert!(snappy_taken(&framed(1, &[&bare])));
    assert!(snappy_taken(&framed(0, &[&bare])), "versions are not looked at");
    assert!(snappy_taken(&[framed(1, &[]), framed(1, &[&bare])].concat()), "a header again");
    let whole = framed(1, &[&bare]);
    assert!(snappy_taken(&[&whole[..], &[0; 3]].concat()), "no length fits behind it");
    assert!(!snappy_taken(&whole[..whole.len() - 1]), "a block is cut");
}

#[test]
fn zstandard_frames_are_whole() {
    let zstd_taken = |stream: &[u8]| taken(Compression::Zstd, stream);
    let whole = zstd::encode_all(&record()[..], 3).unwrap();
    assert!(zstd_taken(&whole));
    let empty = zstd::encode_all(&b""[..], 3).unwrap();
    assert!(zstd_taken(&[&empty[..], &whole].concat()), "frames in a row");
    assert!(!zstd_taken(&whole[..whole.len() - 1]), "a frame is cut");
    assert!(!zstd_taken(&[&whole[..], b"behind"].concat()), "no frame follows");
}
