//! A journal's checkpoint: what the segments of each log hold, so that recovery needs only the journal above it.
//!
//! Two slots; the older one is overwritten, so that a torn write leaves the other. Frozen: a change is a new version. An entry
//! says how one log looked when its segments were last synced, and is kept encoded: a log that did not change since costs a
//! checkpoint nothing but the copy of its bytes.

use bytes::Bytes;

use super::Lsn;
use super::codec::{Put, Reader, checksum, salt};
use super::log::Shape;
use super::producers::Producers;
use super::segment::{Group, Segment};
use crate::{LogId, TopicId};

const MAGIC: &[u8; 8] = b"MILENACP";
const VERSION: u32 = 4;
/// The version without what segments count for retention, and from when.
const VERSION_WITHOUT_AGES: u32 = 1;
/// The last version without what is known of producers.
const VERSION_WITHOUT_PRODUCERS: u32 = 2;
/// The last version without what the cleaner has done.
const VERSION_WITHOUT_CLEANING: u32 = 3;
const HEADER: usize = 72;
const EXISTS: u8 = 1;
const DAMAGED: u8 = 2;
/// Where the flags stand in an entry.
const FLAGS_AT: usize = 4 + 20;

/// What a checkpoint says beside its entries.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Head {
    /// Counts up; the slot is its lowest bit.
    pub version: u64,
    /// Every record from this number on may be needed.
    pub low: Lsn,
    /// Every record up to this number is flushed.
    pub mark: Lsn,
    /// No log that was forgotten had a storage sequence above this.
    pub seq_floor: u64,
    /// Logs may be missing from here that recovery could not know of.
    pub suspect: bool,
}

impl Head {
    /// Where this version goes: over the one before the last.
    pub fn slot(&self) -> u8 {
        (self.version & 1) as u8
    }
}

/// One log's entry.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub log: LogId,
    /// Storage sequence of the last change that the segments hold.
    pub seq: u64,
    pub shape: Shape,
    pub generation: u32,
    pub segments: Vec<Segment>,
}

/// The entry of a log whose segments hold a shape.
pub(super) fn encode_entry(
    log: LogId,
    seq: u64,
    shape: &Shape,
    generation: u32,
    segments: &[Segment],
) -> Bytes {
    let mut bytes = Vec::with_capacity(256);
    bytes.u32(0);
    bytes.bytes(&log.topic.0);
    bytes.i32(log.partition);
    bytes.u8(u8::from(shape.exists) * EXISTS + u8::from(shape.damaged) * DAMAGED);
    bytes.u64(shape.damaged_at);
    bytes.u64(seq);
    bytes.i64(shape.start);
    bytes.i64(shape.end);
    bytes.u32(generation);
    bytes.u32(shape.epochs.len() as u32);
    for (epoch, start) in &shape.epochs {
        bytes.i32(*epoch);
        bytes.i64(*start);
    }
    bytes.u32(segments.len() as u32);
    for segment in segments {
        bytes.i64(segment.base);
        bytes.u32(segment.generation);
        bytes.u64(segment.length);
        bytes.i64(segment.next);
        bytes.i64(segment.max.0);
        bytes.i64(segment.max.1);
        bytes.u64(segment.counted);
        bytes.i64(segment.begun);
        bytes.i64(segment.born);
        bytes.u8(u8::from(segment.closed));
        bytes.u32(segment.filed);
        bytes.u32(segment.groups.len() as u32);
        for group in &segment.groups {
            bytes.i64(group.offset);
            bytes.u64(group.position);
            bytes.i64(group.max_timestamp);
            bytes.u64(group.chain);
        }
    }
    for part in [&shape.state, &shape.producers.encode()] {
        bytes.u32(part.len() as u32);
        bytes.bytes(part);
    }
    bytes.i64(shape.cleaned);
    bytes.i64(shape.dropped);
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes.into()
}

/// The same entry with the damage noted.
pub(super) fn with_damage(entry: &Bytes, damaged_at: u64) -> Bytes {
    let mut bytes = entry.to_vec();
    if let Some(flags) = bytes.get_mut(FLAGS_AT) {
        *flags |= DAMAGED;
        bytes[FLAGS_AT + 1..FLAGS_AT + 9].copy_from_slice(&damaged_at.to_le_bytes());
    }
    bytes.into()
}

/// Where its version has not what segments count for retention, the times stay `Timestamp::MIN`.
fn decode_entry(bytes: &Bytes, version: u32) -> Option<(Entry, usize)> {
    let mut field = Reader(bytes);
    let length = field.u32()? as usize;
    let log = LogId { topic: TopicId(field.array16()?), partition: field.i32()? };
    let (flags, damaged_at) = (field.u8()?, field.u64()?);
    let (seq, start, end, generation) = (field.u64()?, field.i64()?, field.i64()?, field.u32()?);
    let mut epochs = Vec::new();
    for _ in 0..field.u32()? {
        epochs.push((field.i32()?, field.i64()?));
    }
    let mut segments = Vec::new();
    for _ in 0..field.u32()? {
        let mut segment = Segment::new(field.i64()?, field.u32()?);
        segment.length = field.u64()?;
        segment.next = field.i64()?;
        segment.max = (field.i64()?, field.i64()?);
        if version > VERSION_WITHOUT_AGES {
            segment.counted = field.u64()?;
            (segment.begun, segment.born) = (field.i64()?, field.i64()?);
        } else {
            segment.counted = segment.length;
        }
        segment.closed = field.u8()? != 0;
        segment.filed = field.u32()?;
        for _ in 0..field.u32()? {
            segment.groups.push(Group {
                offset: field.i64()?,
                position: field.u64()?,
                max_timestamp: field.i64()?,
                chain: field.u64()?,
            });
        }
        segments.push(segment);
    }
    let size = field.u32()? as usize;
    let state = Bytes::copy_from_slice(field.bytes(size)?);
    let producers = if version > VERSION_WITHOUT_PRODUCERS {
        let size = field.u32()? as usize;
        Producers::decode(field.bytes(size)?)?
    } else {
        Producers::default()
    };
    let (cleaned, dropped) =
        if version > VERSION_WITHOUT_CLEANING { (field.i64()?, field.i64()?) } else { (0, 0) };
    if bytes.len() - field.0.len() != length {
        return None;
    }
    let (exists, damaged) = (flags & EXISTS != 0, flags & DAMAGED != 0);
    let shape = Shape {
        exists,
        damaged,
        damaged_at,
        start,
        end,
        epochs,
        state,
        producers,
        cleaned,
        dropped,
    };
    Some((Entry { log, seq, shape, generation, segments }, length))
}

/// The whole checkpoint, in pieces.
pub(super) fn encode(
    head: &Head,
    secret: &[u8; 16],
    journal: u16,
    entries: &[Bytes],
) -> Vec<Bytes> {
    let mut bytes = Vec::with_capacity(HEADER);
    bytes.bytes(MAGIC);
    bytes.u64(0);
    bytes.u32(VERSION);
    bytes.u32(entries.len() as u32);
    bytes.u64(entries.iter().map(|entry| entry.len() as u64).sum());
    bytes.u64(head.version);
    bytes.u64(head.low.0);
    bytes.u64(head.mark.0);
    bytes.u64(head.seq_floor);
    bytes.u64(u64::from(head.suspect));
    let seed = salt(secret, journal, 0);
    let body = entries.iter().map(|entry| entry.as_ref());
    let sum = checksum(seed, std::iter::once(&bytes[16..]).chain(body));
    bytes[8..16].copy_from_slice(&sum.to_le_bytes());
    std::iter::once(bytes.into()).chain(entries.iter().cloned()).collect()
}

/// A checkpoint that is whole.
#[derive(Clone, Debug)]
pub(super) struct Checkpoint {
    pub head: Head,
    pub entries: Vec<Entry>,
}

pub(super) fn decode(bytes: &Bytes, secret: &[u8; 16], journal: u16) -> Option<Checkpoint> {
    let mut field = Reader(bytes);
    if field.bytes(8)? != MAGIC {
        return None;
    }
    let sum = field.u64()?;
    let version = field.u32()?;
    if !(VERSION_WITHOUT_AGES..=VERSION).contains(&version) {
        return None;
    }
    let count = field.u32()?;
    let body = usize::try_from(field.u64()?).ok()?;
    let head = Head {
        version: field.u64()?,
        low: Lsn(field.u64()?),
        mark: Lsn(field.u64()?),
        seq_floor: field.u64()?,
        suspect: field.u64()? != 0,
    };
    let end = HEADER.checked_add(body).filter(|end| *end <= bytes.len())?;
    if checksum(salt(secret, journal, 0), [&bytes[16..end]]) != sum {
        return None;
    }
    let mut rest = bytes.slice(HEADER..end);
    let mut entries = Vec::new();
    for _ in 0..count {
        let (entry, length) = decode_entry(&rest, version)?;
        rest = rest.slice(length..);
        entries.push(entry);
    }
    Some(Checkpoint { head, entries })
}

#[cfg(test)]
mod tests {
    use super::super::codec::Pieces;
    use super::super::log::Op;
    use super::super::producers::Produced;
    use super::super::record::Kind;
    use super::*;

    const SECRET: [u8; 16] = [7; 16];
    /// What version 2 wrote of [`entry`], but for the producers.
    const OF_VERSION_2: &str = "4d494c454e41435030d25310cb62527d0200000001000000b300000000000000060000000000000002000000\
         00000000030000000000000001000000000000000000000000000000b3000000030303030303030303030303\
         0303030302000000010400000000000000110000000000000005000000000000005a00000000000000080000\
         0002000000010000000000000000000000030000002800000000000000010000000500000000000000070000\
         00e80300000000000058000000000000000d000000000000004d0000000000000084030000000000000b0000\
         00000000000c00000000000000000000000000000000050000007374617465";

    fn head() -> Head {
        Head { version: 6, low: Lsn(2), mark: Lsn(3), seq_floor: 1, suspect: false }
    }

    fn entry() -> Entry {
        let mut shape = Shape {
            exists: true,
            damaged_at: 4,
            start: 5,
            end: 88,
            epochs: vec![(1, 0), (3, 40)],
            state: Bytes::from_static(b"state"),
            cleaned: 80,
            dropped: 70,
            ..Shape::default()
        };
        let produced = Some(Produced { producer: 9, epoch: 1, base_sequence: 7 });
        let op = Op::new(Kind::Append, 88, Pieces::None);
        shape.apply(&Op { next: 90, epoch: 3, produced, ..op });
        let mut segment = Segment::new(5, 7);
        (segment.length, segment.counted, segment.next) = (1000, 900, 88);
        (segment.begun, segment.born, segment.max) = (11, 12, (13, 77));
        let log = LogId { topic: TopicId([3; 16]), partition: 2 };
        Entry { log, seq: 17, shape, generation: 8, segments: vec![segment] }
    }

    fn told(bytes: &Bytes) -> String {
        let found = decode(bytes, &SECRET, 1).expect("a checkpoint");
        assert_eq!(found.head, head());
        format!("{:?}", found.entries)
    }

    #[test]
    fn gives_back_what_it_was_given() {
        let Entry { log, seq, shape, generation, segments } = entry();
        let bytes = encode_entry(log, seq, &shape, generation, &segments);
        let all: Bytes = encode(&head(), &SECRET, 1, &[bytes]).concat().into();
        assert_eq!(told(&all), format!("{:?}", [entry()]));
    }

    #[test]
    fn version_2_is_read() {
        let digits = OF_VERSION_2.as_bytes().chunks(2);
        let byte = |two: &[u8]| u8::from_str_radix(str::from_utf8(two).expect("ASCII"), 16);
        let bytes: Vec<u8> = digits.map(|two| byte(two).expect("hexadecimal")).collect();
        let mut expected = entry();
        expected.shape.producers = Producers::default();
        (expected.shape.cleaned, expected.shape.dropped) = (0, 0);
        assert_eq!(told(&bytes.into()), format!("{:?}", [expected]));
    }
}
