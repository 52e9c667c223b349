//! LZ4's frame format as far as Apache Kafka reads it: version 1, independent blocks, no dictionary, a header checksum that
//! fits and an end mark; block checksums are held to where there are any. A size of the contents and their checksum must be
//! there where the frame says so, and are passed over, as is what stands behind the frame.

use std::hash::Hasher;
use std::io::{self, Read};

use twox_hash::XxHash32;

use super::BatchError;

const MAGIC: u32 = 0x184d_2204;
/// Bits of a frame's first byte.
const VERSION_MASK: u8 = 0b1100_0000;
const VERSION: u8 = 0b0100_0000;
const INDEPENDENT: u8 = 0b0010_0000;
const BLOCK_CHECKSUMS: u8 = 0b0001_0000;
const CONTENT_SIZE: u8 = 0b0000_1000;
const CONTENT_CHECKSUM: u8 = 0b0000_0100;
const RESERVED: u8 = 0b0000_0011;
/// The bits of the second byte that say how large a block may be; the others are zero.
const BLOCK_SIZE_MASK: u8 = 0b0111_0000;
/// Of a block that is not compressed, in its length.
const STORED: u32 = 1 << 31;

/// Reads one frame, block by block.
pub(super) struct Lz4Reader<'a> {
    rest: &'a [u8],
    block_bytes_max: usize,
    block_checksums: bool,
    content_checksum: bool,
    block: Vec<u8>,
    /// How much of the block has been read.
    position: usize,
    ended: bool,
}

impl<'a> Lz4Reader<'a> {
    pub fn new(frame: &'a [u8]) -> Result<Lz4Reader<'a>, BatchError> {
        let mut rest = frame;
        if take_u32(&mut rest)? != MAGIC {
            return Err(BatchError::Decompress);
        }
        let described = rest;
        let (flags, sizes) = (take(&mut rest, 1)?[0], take(&mut rest, 1)?[0]);
        if flags & VERSION_MASK != VERSION
            || flags & INDEPENDENT == 0
            || flags & RESERVED != 0
            || sizes & !BLOCK_SIZE_MASK != 0
        {
            return Err(BatchError::Decompress);
        }
        let block_bytes_max = match sizes >> 4 {
            4 => 64 << 10,
            5 => 256 << 10,
            6 => 1 << 20,
            7 => 4 << 20,
            _ => return Err(BatchError::Decompress),
        };
        if flags & CONTENT_SIZE != 0 {
            take(&mut rest, 8)?;
        }
        let described = &described[..described.len() - rest.len()];
        if take(&mut rest, 1)?[0] != (hash(described) >> 8) as u8 {
            return Err(BatchError::Decompress);
        }
        let block_checksums = flags & BLOCK_CHECKSUMS != 0;
        let content_checksum = flags & CONTENT_CHECKSUM != 0;
        Ok(Lz4Reader {
            rest,
            block_bytes_max,
            block_checksums,
            content_checksum,
            block: Vec::new(),
            position: 0,
            ended: false,
        })
    }

    fn next_block(&mut self) -> Result<(), BatchError> {
        let declared = take_u32(&mut self.rest)?;
        let length = (declared & !STORED) as usize;
        if length == 0 {
            if self.content_checksum {
                take_u32(&mut self.rest)?;
            }
            self.ended = true;
            return Ok(());
        }
        if length > self.block_bytes_max {
            return Err(BatchError::Decompress);
        }
        let block = take(&mut self.rest, length)?;
        if self.block_checksums && take_u32(&mut self.rest)? != hash(block) {
            return Err(BatchError::Decompress);
        }
        self.position = 0;
        if declared & STORED != 0 {
            self.block.clear();
            self.block.extend_from_slice(block);
            return Ok(());
        }
        self.block.resize(self.block_bytes_max, 0);
        let size = lz4_flex::block::decompress_into(block, &mut self.block)
            .map_err(|_| BatchError::Decompress)?;
        self.block.truncate(size);
        Ok(())
    }
}

impl Read for Lz4Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.block.len() && !self.ended {
            self.next_block().map_err(io::Error::other)?;
        }
        let read = (&self.block[self.position..]).read(buffer)?;
        self.position += read;
        Ok(read)
    }
}

fn hash(bytes: &[u8]) -> u32 {
    let mut hasher = XxHash32::with_seed(0);
    hasher.write(bytes);
    hasher.finish() as u32
}

fn take<'a>(rest: &mut &'a [u8], size: usize) -> Result<&'a [u8], BatchError> {
    let (taken, after) = rest.split_at_checked(size).ok_or(BatchError::Decompress)?;
    *rest = after;
    Ok(taken)
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, BatchError> {
    let bytes = take(rest, 4)?;
    Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
}
