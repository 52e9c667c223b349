//! The codecs of record batches, with bounded decompression.
//!
//! What a stream claims about its own size is never used to allocate: output grows as it is produced and stops at the
//! limit. Snappy comes in the framing of the Java library (blocks behind a magic number) or bare; both are read, the
//! framed form is written, as the Java client expects. Each codec takes what Apache Kafka's own reader takes, no more and no less, for what is
//! acknowledged must be readable by its consumer; `tests/kafka` has both read the same streams, sound and spoilt.

use std::io::{self, Read, Write};

use flate2::bufread::GzDecoder;

use super::BatchError;
use super::lz4::Lz4Reader;

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

    /// Compresses records, behind what `output` holds.
    pub(super) fn compress(self, records: &[u8], output: &mut Vec<u8>) {
        // Writing to memory does not fail.
        const WRITES: &str = "compression into memory succeeds";
        match self {
            Compression::None => output.extend_from_slice(records),
            Compression::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(output, flate2::Compression::default());
                encoder.write_all(records).expect(WRITES);
                encoder.finish().expect(WRITES);
            }
            Compression::Snappy => snappy_compress(records, output),
            Compression::Lz4 => {
                // Java's reader knows independent blocks only.
                let frame = lz4_flex::frame::FrameInfo::new()
                    .block_mode(lz4_flex::frame::BlockMode::Independent)
                    .block_size(lz4_flex::frame::BlockSize::Max64KB);
                let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, output);
                encoder.write_all(records).expect(WRITES);
                encoder.finish().expect(WRITES);
            }
            Compression::Zstd => {
                zstd::stream::copy_encode(records, output, ZSTD_LEVEL).expect(WRITES);
            }
        }
    }

    /// Decompresses records as they are read, at most `limit` bytes of them; an error of the reader that is no
    /// [`BatchError`] is one of the codec. Memory goes to windows and blocks, not to the output.
    pub(super) fn reader(
        self,
        compressed: &[u8],
        limit: DecompressLimit,
    ) -> Result<impl Read + '_, BatchError> {
        let reader: Box<dyn Read + '_> = match self {
            Compression::None => Box::new(compressed),
            Compression::Gzip => Box::new(GzipReader(GzDecoder::new(compressed))),
            Compression::Snappy => Box::new(SnappyReader::new(compressed, limit)?),
            Compression::Lz4 => Box::new(Lz4Reader::new(compressed)?),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)
                    .map_err(|_| BatchError::Decompress)?;
                let window = limit.0.checked_next_power_of_two().map_or(u32::MAX, usize::ilog2);
                let window = window.clamp(*ZSTD_WINDOW_LOG.start(), *ZSTD_WINDOW_LOG.end());
                decoder.window_log_max(window).map_err(|_| BatchError::Decompress)?;
                Box::new(decoder)
            }
        };
        Ok(Limited { reader, limit, read: 0 })
    }

    /// Decompresses records into at most `limit` bytes.
    pub(super) fn decompress(
        self,
        compressed: &[u8],
        limit: DecompressLimit,
    ) -> Result<Vec<u8>, BatchError> {
        let mut output = Vec::new();
        self.reader(compressed, limit)?.read_to_end(&mut output).map_err(read_error)?;
        Ok(output)
    }
}

/// What a failed read of records means.
pub(super) fn read_error(error: io::Error) -> BatchError {
    error.downcast().unwrap_or(BatchError::Decompress)
}

/// A reader that fails where more comes than the limit.
struct Limited<R> {
    reader: R,
    limit: DecompressLimit,
    read: usize,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.read += read;
        if self.read > self.limit.0 {
            return Err(io::Error::other(BatchError::TooLarge(self.limit.0)));
        }
        Ok(read)
    }
}

/// Gzip members one after another, as Java reads them: what follows a whole member and does not begin another is passed
/// over.
struct GzipReader<'a>(GzDecoder<&'a [u8]>);

impl Read for GzipReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.0.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let next = GzDecoder::new(*self.0.get_ref());
            if next.header().is_none() {
                return Ok(0);
            }
            self.0 = next;
        }
    }
}

fn snappy_compress(records: &[u8], output: &mut Vec<u8>) {
    output.extend_from_slice(SNAPPY_MAGIC);
    output.extend_from_slice(&1i32.to_be_bytes());
    output.extend_from_slice(&1i32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in records.chunks(SNAPPY_BLOCK_SIZE) {
        let block = encoder.compress_vec(block).expect("a block is far below Snappy's limit");
        output.extend_from_slice(&(block.len() as i32).to_be_bytes());
        output.extend_from_slice(&block);
    }
}

/// Snappy's blocks, one after the other.
struct SnappyReader<'a> {
    rest: &'a [u8],
    framed: bool,
    limit: DecompressLimit,
    block: Vec<u8>,
    /// How much of the block has been read.
    position: usize,
}

impl<'a> SnappyReader<'a> {
    fn new(compressed: &'a [u8], limit: DecompressLimit) -> Result<SnappyReader<'a>, BatchError> {
        let framed = compressed.starts_with(SNAPPY_MAGIC);
        let start = if framed { framing(compressed)? } else { 0 };
        let rest = &compressed[start..];
        Ok(SnappyReader { rest, framed, limit, block: Vec::new(), position: 0 })
    }

    /// Decompresses the next block. Its declared size is believed only as far as its bytes could reach.
    fn next_block(&mut self) -> Result<(), BatchError> {
        let mut block = std::mem::take(&mut self.rest);
        if self.framed {
            while block.starts_with(&SNAPPY_MAGIC[..4]) {
                block = &block[framing(block)?..];
            }
            if block.len() < 4 {
                // Java's reader ends where no length fits any more.
                return Ok(());
            }
            let (length, tail) = block.split_first_chunk::<4>().ok_or(BatchError::Decompress)?;
            let length =
                usize::try_from(i32::from_be_bytes(*length)).map_err(|_| BatchError::Decompress)?;
            (block, self.rest) = tail.split_at_checked(length).ok_or(BatchError::Decompress)?;
        }
        let size = snap::raw::decompress_len(block).map_err(|_| BatchError::Decompress)?;
        if size > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
            return Err(BatchError::Decompress);
        }
        if size > self.limit.0 {
            return Err(BatchError::TooLarge(self.limit.0));
        }
        self.block.resize(size, 0);
        self.position = 0;
        snap::raw::Decoder::new()
            .decompress(block, &mut self.block)
            .map_err(|_| BatchError::Decompress)?;
        Ok(())
    }
}

/// Size of the framing's header, where one stands first. Its versions are passed over, as Java's reader does.
fn framing(bytes: &[u8]) -> Result<usize, BatchError> {
    let header = bytes.get(..SNAPPY_HEADER_LEN).ok_or(BatchError::Decompress)?;
    if header.starts_with(SNAPPY_MAGIC) {
        Ok(SNAPPY_HEADER_LEN)
    } else {
        Err(BatchError::Decompress)
    }
}

impl Read for SnappyReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.block.len() && !self.rest.is_empty() {
            self.next_block().map_err(io::Error::other)?;
        }
        let read = (&self.block[self.position..]).read(buffer)?;
        self.position += read;
        Ok(read)
    }
}
