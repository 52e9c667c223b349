//! The superblock's bytes: who the disk is and which layout of journals holds. Two copies of one block each, written one
//! after the other; a torn one is told by its checksum and the other holds. Frozen: a change is a new version.

use super::codec::{Put, Reader, checksum};
use super::record::BLOCK;
use crate::{Incarnation, NodeId};

const MAGIC: &[u8; 8] = b"MILENASB";
/// Of the whole directory's format: 2 has checkpoints with the times from which segments count, 3 knows of producers in
/// checkpoints and journals, 4 of what the cleaner has done. Everything is written in it at each start, whatever was read.
const VERSION: u32 = 4;
const VERSIONS_READ: std::ops::RangeInclusive<u32> = 1..=VERSION;
/// Bit of the flags: the quorum's log was lost to damage and has not been written since.
const QUORUM_LOST: u32 = 1;

/// What a disk says of itself. Both copies of it are written again at every start, before anything is believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// Whose directory this is.
    pub node: NodeId,
    /// This life of the disk.
    pub incarnation: Incarnation,
    /// Number of the journals' layout.
    pub layout: u32,
    /// Shards of that layout.
    pub shards: u16,
    /// Salt of the journals' checksums.
    pub secret: [u8; 16],
}

/// What a copy says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Stored {
    pub superblock: Superblock,
    pub quorum_lost: bool,
}

/// What reading a copy gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Copy {
    Good(Stored),
    /// Whole, but of a version that this program does not know.
    Newer(u32),
    Bad,
}

pub(super) fn encode(stored: &Stored) -> Vec<u8> {
    let s = &stored.superblock;
    let mut bytes = Vec::with_capacity(BLOCK);
    bytes.bytes(MAGIC);
    bytes.u32(VERSION);
    bytes.u32(if stored.quorum_lost { QUORUM_LOST } else { 0 });
    bytes.i32(s.node.0);
    bytes.u32(s.layout);
    bytes.u16(s.shards);
    bytes.bytes(&s.incarnation.0.to_le_bytes());
    bytes.bytes(&s.secret);
    bytes.resize(BLOCK - 8, 0);
    let sum = checksum(0, [bytes.as_slice()]);
    bytes.u64(sum);
    bytes
}

pub(super) fn decode(bytes: &[u8]) -> Copy {
    let parse = || -> Option<Copy> {
        let (covered, sum) = bytes.get(..BLOCK)?.split_at(BLOCK - 8);
        if checksum(0, [covered]).to_le_bytes() != sum {
            return None;
        }
        let mut field = Reader(covered);
        if field.bytes(8)? != MAGIC {
            return None;
        }
        let version = field.u32()?;
        if !VERSIONS_READ.contains(&version) {
            return Some(Copy::Newer(version));
        }
        let flags = field.u32()?;
        let (node, layout, shards) = (NodeId(field.i32()?), field.u32()?, field.u16()?);
        let incarnation = Incarnation(u128::from_le_bytes(field.array16()?));
        let secret = field.array16()?;
        Some(Copy::Good(Stored {
            superblock: Superblock { node, incarnation, layout, shards, secret },
            quorum_lost: flags & QUORUM_LOST != 0,
        }))
    };
    parse().unwrap_or(Copy::Bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_wrote_and_nothing_else() {
        let stored = Stored {
            superblock: Superblock {
                node: NodeId(3),
                incarnation: Incarnation(77 << 64),
                layout: 5,
                shards: 2,
                secret: [9; 16],
            },
            quorum_lost: true,
        };
        let bytes = encode(&stored);
        assert_eq!(bytes.len(), BLOCK);
        assert_eq!(decode(&bytes), Copy::Good(stored));
        for at in (0..BLOCK).step_by(7) {
            let mut torn = bytes.clone();
            torn[at] ^= 4;
            assert_eq!(decode(&torn), Copy::Bad);
        }
        assert_eq!(decode(&bytes[..BLOCK - 1]), Copy::Bad);
    }
}
