//! The codecs of record batches, with bounded decompression.
//!
//! What a stream claims about its own size is never used to allocate: output grows as it is produced and stops at the
//! limit. Snappy comes in the framing of the Java library (blocks behind a magic number) or bare; both are read, the
//! framed form is written, as the Java client expects.

use std::{
    borrow::Cow,
    io::{Read, Write},
};

use super::BatchError;

/// The first bytes of the Java library's Snappy framing; its version and the oldest compatible one follow.
const SNAPPY_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
const SNAPPY_HEADER_LEN: usize = 16;
/// Input bytes per Snappy block, as the Java library chooses them.
const SNAPPY_BLOCK_SIZE: usize = 32 << 10;
/// No element of Snappy yields more output per byte: three bytes copy at most 64.
const SNAPPY_RATIO_MAX: usize = 22;
const ZSTD_LEVEL: i32 = 3;
/// Bounds of the window a Zstandard frame may ask for, as powers of two; in between, the output limit decides.
const ZSTD_WINDOW_LOG: std::ops::RangeInclusive<u32> = 23..=27;

/// The most bytes that decompression may yield.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecompressLimit(pub usize);

/// How the records of a batch are compressed; the numbers are Kafka's and frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Compression {
    /// Not at all.
    #[default]
    None = 0,
    /// Gzip.
    Gzip = 1,
    /// Snappy, framed or bare.
    Snappy = 2,
    /// LZ4 in its frame format.
    Lz4 = 3,
    /// Zstandard.
    Zstd = 4,
}

impl Compression {
    /// All of them, by number.
    pub const ALL: [Compression; 5] = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];

    /// The codec of a number.
    pub fn from_number(number: u8) -> Result<Compression, BatchError> {
        Compression::ALL
            .get(usize::from(number))
            .copied()
            .ok_or(BatchError::UnknownCompression(number))
    }

    /// Compresses records.
    pub(super) fn compress(self, records: &[u8]) -> Cow<'_, [u8]> {
        // Writing to memory does not fail.
        const WRITES: &str = "compression into memory succeeds";
        match self {
            Compression::None => Cow::Borrowed(records),
            Compression::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(records).expect(WRITES);
                Cow::Owned(encoder.finish().expect(WRITES))
            }
            Compression::Snappy => Cow::Owned(snappy_compress(records)),
            Compression::Lz4 => {
                // Java's reader knows independent blocks only.
                let frame = lz4_flex::frame::FrameInfo::new()
                    .block_mode(lz4_flex::frame::BlockMode::Independent)
                    .block_size(lz4_flex::frame::BlockSize::Max64KB);
                let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, Vec::new());
                encoder.write_all(records).expect(WRITES);
                Cow::Owned(encoder.finish().expect(WRITES))
            }
            Compression::Zstd => Cow::Owned(zstd::encode_all(records, ZSTD_LEVEL).expect(WRITES)),
        }
    }

    /// Decompresses records into at most `limit` bytes.
    pub(super) fn decompress(
        self,
        compressed: &[u8],
        limit: DecompressLimit,
    ) -> Result<Vec<u8>, BatchError> {
        match self {
            Compression::None => read_limited(compressed, limit),
            Compression::Gzip => read_limited(flate2::read::MultiGzDecoder::new(compressed), limit),
            Compression::Snappy => snappy_decompress(compressed, limit),
            Compression::Lz4 => read_limited(lz4_flex::frame::FrameDecoder::new(compressed), limit),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)
                    .map_err(|_| BatchError::Decompress)?;
                let window = limit.0.checked_next_power_of_two().map_or(u32::MAX, usize::ilog2);
                let window = window.clamp(*ZSTD_WINDOW_LOG.start(), *ZSTD_WINDOW_LOG.end());
                decoder.window_log_max(window).map_err(|_| BatchError::Decompress)?;
                read_limited(decoder, limit)
            }
        }
    }
}

fn read_limited(from: impl Read, limit: DecompressLimit) -> Result<Vec<u8>, BatchError> {
    let mut output = Vec::new();
    // One byte more than allowed tells an output of exactly the limit from a larger one.
    let read_max = (limit.0 as u64).saturating_add(1);
    from.take(read_max).read_to_end(&mut output).map_err(|_| BatchError::Decompress)?;
    if output.len() > limit.0 { Err(BatchError::TooLarge(limit.0)) } else { Ok(output) }
}

fn snappy_compress(records: &[u8]) -> Vec<u8> {
    let mut output = SNAPPY_MAGIC.to_vec();
    output.extend_from_slice(&1i32.to_be_bytes());
    output.extend_from_slice(&1i32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in records.chunks(SNAPPY_BLOCK_SIZE) {
        let block = encoder.compress_vec(block).expect("a block is far below Snappy's limit");
        output.extend_from_slice(&(block.len() as i32).to_be_bytes());
        output.extend_from_slice(&block);
    }
    output
}

fn snappy_decompress(compressed: &[u8], limit: DecompressLimit) -> Result<Vec<u8>, BatchError> {
    let mut output = Vec::new();
    if !compressed.starts_with(SNAPPY_MAGIC) {
        snappy_block(compressed, limit, &mut output)?;
        return Ok(output);
    }
    let mut rest = compressed.get(SNAPPY_HEADER_LEN..).ok_or(BatchError::Decompress)?;
    while !rest.is_empty() {
        let (length, tail) = rest.split_first_chunk::<4>().ok_or(BatchError::Decompress)?;
        let length =
            usize::try_from(i32::from_be_bytes(*length)).map_err(|_| BatchError::Decompress)?;
        let (block, tail) = tail.split_at_checked(length).ok_or(BatchError::Decompress)?;
        snappy_block(block, limit, &mut output)?;
        rest = tail;
    }
    Ok(output)
}

/// Appends one decompressed block. Its declared size is believed only as far as its bytes could reach.
fn snappy_block(
    block: &[u8],
    limit: DecompressLimit,
    output: &mut Vec<u8>,
) -> Result<(), BatchError> {
    let size = snap::raw::decompress_len(block).map_err(|_| BatchError::Decompress)?;
    if size > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        return Err(BatchError::Decompress);
    }
    let start = output.len();
    if size > limit.0 - start {
        return Err(BatchError::TooLarge(limit.0));
    }
    output.resize(start + size, 0);
    let written = snap::raw::Decoder::new()
        .decompress(block, &mut output[start..])
        .map_err(|_| BatchError::Decompress)?;
    output.truncate(start + written);
    Ok(())
}
