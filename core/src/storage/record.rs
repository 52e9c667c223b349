//! One record of a journal, as bytes. Frozen: a change of layout is a new version beside this one.
//!
//! ```text
//!  0         8       12       13    14  16          20  24   32    40     56         60        64   72    80
//!  | checksum| length| version| kind| 0 | generation| 0 | lsn | mark| topic| partition| appended| seq | at  | body ...
//! ```
//!
//! All little-endian. The checksum covers everything behind it and is seeded by the disk's secret, the journal's number and
//! the generation of the file's contents, so that neither a stale record of a recycled file nor bytes inside a
//! client's payload pose as one. No record depends on another or on a file header. Where `appended` stands, older versions wrote 0 and
//! read nothing.

use bytes::Bytes;

use super::Lsn;
use super::codec::{Pieces, Reader, checksum, salt};
use super::log::Beginning;
use crate::{LogId, Offset, TopicId};

/// Bytes before the body.
pub(super) const HEADER: usize = 80;
/// A group begins on a border of this many bytes, and no block with flushed bytes is written again.
pub(super) const BLOCK: usize = 4096;
const VERSION: u8 = 1;

/// What a record does. Numbers are frozen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    /// One batch at the end of the log; `at` is its base offset.
    Append = 1,
    /// Cuts at and past `at`.
    Truncate = 2,
    /// Start moves up to `at`.
    Trim = 3,
    /// Empty, begins again at `at`, with the producers that the body knows.
    Reset = 4,
    /// The log is deleted.
    Delete = 5,
    /// The state beside the log is the body.
    Put = 6,
    /// Nothing but the mark that every record carries.
    Mark = 7,
    /// The producers that the body names are forgotten.
    Forget = 8,
}

impl Kind {
    fn from_number(number: u8) -> Option<Kind> {
        Some(match number {
            1 => Kind::Append,
            2 => Kind::Truncate,
            3 => Kind::Trim,
            4 => Kind::Reset,
            5 => Kind::Delete,
            6 => Kind::Put,
            7 => Kind::Mark,
            8 => Kind::Forget,
            _ => return None,
        })
    }
}

/// A record without what its place in the journal adds.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub lsn: Lsn,
    pub log: LogId,
    /// The log's own storage sequence; 0 of a mark.
    pub seq: u64,
    pub kind: Kind,
    pub at: Offset,
    /// Of a batch: when it was appended, in seconds since 1970, or that its own time counts ([`super::age::OWN_TIME`]). Of a
    /// reset with producers: when it was made.
    pub appended_s: u32,
    pub body: Pieces,
}

impl Record {
    /// One that says nothing but what every record does.
    pub fn mark() -> Record {
        let (lsn, log, kind, body) = (Lsn(0), LogId::default(), Kind::Mark, Pieces::None);
        Record { lsn, log, seq: 0, kind, at: 0, appended_s: 0, body }
    }

    pub fn size(&self) -> usize {
        HEADER + self.body.size()
    }

    /// Whether its body is one that this version makes. What stands under a good checksum was made by a version of ours.
    pub fn is_understood(&self) -> bool {
        match self.kind {
            Kind::Reset => {
                let begun = Beginning::decode(&self.body.joined());
                begun.is_some_and(|begun| begun.fits(self.at))
            }
            Kind::Forget => self.body.size().is_multiple_of(size_of::<i64>()),
            Kind::Append | Kind::Truncate | Kind::Trim | Kind::Delete | Kind::Put | Kind::Mark => {
                true
            }
        }
    }

    /// The header, to stand before the body.
    pub fn header(&self, mark: Lsn, generation: u32, seed: u64) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[8..12].copy_from_slice(&(self.size() as u32).to_le_bytes());
        header[12] = VERSION;
        header[13] = self.kind as u8;
        header[16..20].copy_from_slice(&generation.to_le_bytes());
        header[24..32].copy_from_slice(&self.lsn.0.to_le_bytes());
        header[32..40].copy_from_slice(&mark.0.to_le_bytes());
        header[40..56].copy_from_slice(&self.log.topic.0);
        header[56..60].copy_from_slice(&self.log.partition.to_le_bytes());
        header[60..64].copy_from_slice(&self.appended_s.to_le_bytes());
        header[64..72].copy_from_slice(&self.seq.to_le_bytes());
        header[72..80].copy_from_slice(&self.at.to_le_bytes());
        let body = self.body.as_slice().iter().map(|piece| piece.as_ref());
        let sum = checksum(seed, std::iter::once(&header[8..]).chain(body));
        header[..8].copy_from_slice(&sum.to_le_bytes());
        header
    }
}

/// A record as read back.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub record: Record,
    pub mark: Lsn,
    pub generation: u32,
}

/// Where a scan stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stopped {
    /// All is read.
    End,
    /// Something at this position says that it needs so many bytes, more than were given. Only if more were asked for.
    Short { at: usize, length: usize },
}

/// Reads every good record of a part of a journal file, past bad ones: after those it goes on at the next block. The part
/// begins at `base` of a file of `file_length` bytes; what would reach beyond that is bad rather than cut.
pub(super) fn scan(
    bytes: &Bytes,
    base: usize,
    file_length: usize,
    secret: &[u8; 16],
    journal: u16,
    mut each: impl FnMut(Found),
) -> Stopped {
    let mut seeds: Option<(u32, u64)> = None;
    let whole = base + bytes.len() >= file_length;
    let mut at = 0;
    while at < bytes.len() {
        if bytes.len() - at < HEADER {
            return if whole { Stopped::End } else { Stopped::Short { at, length: BLOCK } };
        }
        match decode(bytes, at, secret, journal, &mut seeds) {
            Decoded::Good(found) => {
                at += found.record.size();
                each(found);
            }
            Decoded::Short(length) if base + at + length <= file_length => {
                return Stopped::Short { at, length };
            }
            Decoded::Short(_) | Decoded::Bad => at = ((base + at) / BLOCK + 1) * BLOCK - base,
        }
    }
    Stopped::End
}

enum Decoded {
    Good(Found),
    Short(usize),
    Bad,
}

fn decode(
    bytes: &Bytes,
    at: usize,
    secret: &[u8; 16],
    journal: u16,
    seeds: &mut Option<(u32, u64)>,
) -> Decoded {
    let parse = || -> Option<(usize, u64, Found)> {
        let mut field = Reader(&bytes[at..]);
        let sum = field.u64()?;
        let length = field.u32()? as usize;
        let version = field.u8()?;
        let kind = Kind::from_number(field.u8()?)?;
        let zero = field.u16()?;
        let generation = field.u32()?;
        let zero = zero == 0 && field.u32()? == 0;
        if version != VERSION || length < HEADER || generation == 0 || !zero {
            return None;
        }
        let (lsn, mark) = (Lsn(field.u64()?), Lsn(field.u64()?));
        let log = LogId { topic: TopicId(field.array16()?), partition: field.i32()? };
        let (appended_s, seq, at) = (field.u32()?, field.u64()?, field.i64()?);
        let record = Record { lsn, log, seq, kind, at, appended_s, body: Pieces::None };
        Some((length, sum, Found { record, mark, generation }))
    };
    let Some((length, sum, mut found)) = parse() else { return Decoded::Bad };
    if length > bytes.len() - at {
        return Decoded::Short(length);
    }
    let seed = match *seeds {
        Some((generation, seed)) if generation == found.generation => seed,
        _ => {
            let seed = salt(secret, journal, found.generation);
            *seeds = Some((found.generation, seed));
            seed
        }
    };
    if checksum(seed, [&bytes[at + 8..at + length]]) != sum {
        return Decoded::Bad;
    }
    if length > HEADER {
        found.record.body = Pieces::One(bytes.slice(at + HEADER..at + length));
    }
    Decoded::Good(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u8; 16] = [7; 16];

    fn encode(record: &Record, mark: u64, generation: u32) -> Vec<u8> {
        let seed = salt(&SECRET, 1, generation);
        let mut bytes = record.header(Lsn(mark), generation, seed).to_vec();
        bytes.extend_from_slice(&record.body.joined());
        bytes
    }

    fn record(lsn: u64, body: &[u8]) -> Record {
        Record {
            lsn: Lsn(lsn),
            log: LogId::METADATA,
            seq: lsn,
            kind: Kind::Put,
            at: -5,
            appended_s: 0,
            body: Pieces::new(&[Bytes::copy_from_slice(body)]),
        }
    }

    fn lsns(bytes: Vec<u8>, secret: &[u8; 16]) -> Vec<u64> {
        let mut found = vec![];
        let length = bytes.len();
        scan(&bytes.into(), 0, length, secret, 1, |f| found.push(f.record.lsn.0));
        found
    }

    #[test]
    fn layout_is_frozen() {
        let bytes = encode(&record(9, b"state"), 3, 2);
        assert_eq!(bytes.len(), 85);
        assert_eq!(
            &bytes[8..40],
            b"\x55\0\0\0\x01\x06\0\0\x02\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0"
        );
        assert_eq!(u64::from_le_bytes(bytes[..8].try_into().unwrap()), 0xeae9fc1a1d56ef3);
    }

    #[test]
    fn scan_goes_on_behind_damage_and_refuses_other_salts() {
        let mut file = encode(&record(1, b"a"), 0, 1);
        file.extend(encode(&record(2, b"b"), 0, 1));
        file.resize(BLOCK, 0);
        file.extend(encode(&record(3, b"c"), 2, 1));
        assert_eq!(lsns(file.clone(), &SECRET), [1, 2, 3]);
        assert_eq!(lsns(file.clone(), &[8; 16]), [0; 0]);
        file[HEADER + 3] ^= 1;
        file[84] ^= 1;
        assert_eq!(lsns(file, &SECRET), [1, 3]);
    }

    #[test]
    fn what_no_version_of_ours_makes_is_not_understood() {
        let of = |kind, body: &[u8]| Record { kind, ..record(1, body) }.is_understood();
        assert_eq!([of(Kind::Reset, b""), of(Kind::Reset, b"\x01\x00\x00")], [true, true]);
        assert_eq!(
            [of(Kind::Reset, b"\x02\x00\x00"), of(Kind::Reset, b"\x01\x05")],
            [false, false]
        );
        let dropped = |bytes: &[u8]| of(Kind::Reset, &[b"\x02\x07\0\0\0\0\0\0\0", bytes].concat());
        assert_eq!(
            [dropped(b""), dropped(b"\x01\x00\x00"), dropped(b"\x01\x05")],
            [true, true, false]
        );
        assert_eq!([of(Kind::Forget, &[0; 16]), of(Kind::Forget, &[0; 15])], [true, false]);
        assert!(of(Kind::Put, b"anything"));
    }

    #[test]
    fn a_part_says_what_is_missing() {
        let file = Bytes::from(encode(&record(1, &[1; 500]), 0, 1));
        let part = file.slice(..300);
        assert_eq!(
            scan(&part, 0, 580, &SECRET, 1, |_| panic!("cut")),
            Stopped::Short { at: 0, length: 580 }
        );
        assert_eq!(scan(&part, 0, 300, &SECRET, 1, |_| panic!("cut")), Stopped::End);
    }
}
