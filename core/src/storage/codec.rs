//! Little-endian fields and the one checksum of everything that this engine writes but record batches.
//!
//! Reading never trusts a length: every field is bounds-checked, and what does not fit is `None`.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};

/// CRC-64/NVME over pieces, begun from a seed (a salted checksum cannot be made without knowing the salt).
pub(super) fn checksum<'a>(seed: u64, pieces: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc64Nvme, !seed);
    for piece in pieces {
        digest.update(piece);
    }
    digest.finalize()
}

/// The seed of a journal file's records or of a checkpoint: known only to who knows the disk's secret.
pub(super) fn salt(secret: &[u8; 16], journal: u16, generation: u32) -> u64 {
    checksum(
        0,
        [secret.as_slice(), journal.to_le_bytes().as_slice(), generation.to_le_bytes().as_slice()],
    )
}

/// Fields put one after the other.
pub(super) trait Put {
    fn bytes(&mut self, bytes: &[u8]);
    fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }
    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }
    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }
    fn i32(&mut self, value: i32) {
        self.bytes(&value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }
    fn i64(&mut self, value: i64) {
        self.bytes(&value.to_le_bytes());
    }
}

impl Put for Vec<u8> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Fields taken one after the other.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }
    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    pub fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_le_bytes)
    }
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    pub fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }
    pub fn array16(&mut self) -> Option<[u8; 16]> {
        self.array()
    }
}

/// Bytes in no, one or two pieces, cheap to clone and never joined: a leader gives a batch a beginning of its own.
#[derive(Clone, Default, Debug)]
pub(super) enum Pieces {
    #[default]
    None,
    One(Bytes),
    Two([Bytes; 2]),
}

impl Pieces {
    /// Shares them; copies where they are more than two.
    pub fn new(pieces: &[Bytes]) -> Pieces {
        match pieces {
            [] => Pieces::None,
            [one] => Pieces::One(one.clone()),
            [one, two] => Pieces::Two([one.clone(), two.clone()]),
            more => Pieces::One(more.concat().into()),
        }
    }
    pub fn as_slice(&self) -> &[Bytes] {
        match self {
            Pieces::None => &[],
            Pieces::One(bytes) => std::slice::from_ref(bytes),
            Pieces::Two(pieces) => pieces,
        }
    }
    pub fn size(&self) -> usize {
        self.as_slice().iter().map(Bytes::len).sum()
    }
    /// The first bytes, across pieces; fewer where there are fewer.
    pub fn prefix<const N: usize>(&self) -> ([u8; N], usize) {
        let mut head = [0; N];
        let mut filled = 0;
        for piece in self.as_slice() {
            let count = piece.len().min(N - filled);
            head[filled..filled + count].copy_from_slice(&piece[..count]);
            filled += count;
            if filled == N {
                break;
            }
        }
        (head, filled)
    }
    /// All as one; copies only where there are several pieces.
    pub fn joined(&self) -> Bytes {
        match self {
            Pieces::None => Bytes::new(),
            Pieces::One(bytes) => bytes.clone(),
            Pieces::Two(pieces) => pieces.concat().into(),
        }
    }
}
