//! One segment file and its index, as the engine keeps them.
//!
//! A segment is only ever appended to: a truncation leaves its bytes where they are, lowers `next` and closes it, and what
//! comes after begins a file of its own. So no byte that a checkpoint names changes, and whatever was verified once
//! can be verified again.
//!
//! Its batches form groups of about one index interval. The index knows of each group where it begins, the largest
//! timestamp, and a chain over what the batches' own CRCs leave out (base offset, length, leader epoch) and over those CRCs. The
//! first groups stand in the `Index` file, the last ones (and the one still growing) in memory and in the checkpoint.

use bytes::Bytes;
use milena_wire::batch::{BatchHeader, validate};

use super::age::born_before;
use super::codec::{Put, Reader, checksum, salt};
use crate::disk::FileName;
use crate::{LogId, Offset, Timestamp};

/// Bytes of an entry of an `Index` file.
pub(super) const ENTRY: usize = 40;
/// So many closed groups in memory make it worth writing them to the `Index` file.
pub(super) const GROUPS_IN_MEMORY: usize = 32;
/// What stands for the time of a record that has none.
const NO_TIMESTAMP: Timestamp = -1;
/// Bytes of a batch's beginning that its group's chain covers: all that its CRC leaves out, and the CRC.
const CHAINED: usize = 21;

/// Some batches in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Group {
    /// Base offset of the first.
    pub offset: Offset,
    /// Where it begins, bytes.
    pub position: u64,
    /// Largest timestamp.
    pub max_timestamp: Timestamp,
    /// Chain over the beginnings of all its batches.
    pub chain: u64,
}

/// The chain, one batch further.
fn chained(chain: u64, batch: &[u8]) -> u64 {
    checksum(chain, [&batch[..CHAINED]])
}

/// What a segment notes of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub size: u64,
    /// Offset after its last record.
    pub next: Offset,
    pub max_timestamp: Timestamp,
    /// From when it counts for retention.
    pub born: Timestamp,
}

/// The largest time of a batch's records, for lookups: none of a batch without records.
pub(super) fn largest_time(header: &BatchHeader) -> Timestamp {
    if header.records_count == 0 { NO_TIMESTAMP } else { header.max_timestamp }
}

/// One segment of a log.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub base: Offset,
    pub generation: u32,
    /// Bytes that hold batches and may be read.
    pub length: u64,
    /// Bytes of it that surely hold records that count: where a cut went through a group, none from that group on.
    pub counted: u64,
    /// Offset after the last record that counts; batches past it are cut.
    pub next: Offset,
    /// Largest timestamp and the last offset of its batch. Stays as it was where a truncation took that batch.
    pub max: (Timestamp, Offset),
    /// From when its first batch counts.
    pub begun: Timestamp,
    /// From when it counts: the latest of its batches. Stays where a truncation took that one.
    pub born: Timestamp,
    /// Groups in the `Index` file.
    pub filed: u32,
    /// The groups after those.
    pub groups: Vec<Group>,
    /// Nothing is appended any more.
    pub closed: bool,
    /// Written to since the last sync.
    pub dirty: bool,
    /// The same of the `Index` file.
    pub index_dirty: bool,
}

impl Segment {
    pub fn new(base: Offset, generation: u32) -> Segment {
        Segment {
            base,
            generation,
            length: 0,
            counted: 0,
            next: base,
            max: (Timestamp::MIN, base),
            begun: Timestamp::MIN,
            born: Timestamp::MIN,
            filed: 0,
            groups: Vec::new(),
            closed: false,
            dirty: false,
            index_dirty: false,
        }
    }

    pub fn file(&self, log: LogId) -> FileName {
        FileName::Segment { log, base: self.base, generation: self.generation }
    }

    pub fn index(&self, log: LogId) -> FileName {
        FileName::Index { log, base: self.base, generation: self.generation }
    }

    /// Takes note of a batch that now stands at its end. `beginning`: at least its first 21 bytes.
    pub fn push(&mut self, beginning: &[u8], batch: &Placed, interval: u64) {
        let Placed { size, next, max_timestamp, born } = *batch;
        let base = self.next;
        let starts =
            self.groups.last().is_none_or(|group| self.length - group.position + size > interval);
        if starts {
            let chain = chained(0, beginning);
            self.groups.push(Group { offset: base, position: self.length, max_timestamp, chain });
        } else if let Some(group) = self.groups.last_mut() {
            group.chain = chained(group.chain, beginning);
            group.max_timestamp = group.max_timestamp.max(max_timestamp);
        }
        if max_timestamp > self.max.0 {
            self.max = (max_timestamp, next - 1);
        }
        if self.length == 0 {
            self.begun = born;
        }
        self.born = self.born.max(born);
        self.length += size;
        self.counted += size;
        self.next = next;
    }

    /// Says from when it counts where an older version has not.
    pub fn count_from(&mut self, now: Timestamp) {
        if self.length > 0 && self.born == Timestamp::MIN {
            self.born = born_before(self.max.0, now);
            self.begun = self.born;
        }
    }

    /// Cuts at `to`, which lies inside.
    pub fn cut(&mut self, to: Offset) {
        self.next = to;
        self.closed = true;
        // Where the group that holds the cut is known by the file alone, nobody knows how much lies before it.
        let whole = self.groups.iter().rfind(|group| group.offset <= to);
        self.counted = self.counted.min(whole.map_or(0, |group| group.position));
        // Groups wholly past the cut need not be known; one that straddles it stays as it is, to be verified as a whole.
        while let Some(group) = self.groups.last()
            && group.offset >= to
        {
            self.length = group.position;
            self.groups.pop();
        }
    }

    /// How many groups could go to the `Index` file now: all of a closed segment, else all but the one that still grows.
    pub fn to_file(&self) -> usize {
        let closed = self.groups.len() - usize::from(!self.closed && !self.groups.is_empty());
        if self.closed || closed >= GROUPS_IN_MEMORY { closed } else { 0 }
    }
}

/// The next entries of a segment's `Index` file.
pub(super) fn encode_groups(log: LogId, segment: &Segment, groups: &[Group]) -> Bytes {
    let seed = index_seed(log, segment.base, segment.generation);
    let mut bytes = Vec::with_capacity(groups.len() * ENTRY);
    for (number, group) in (u64::from(segment.filed)..).zip(groups) {
        let start = bytes.len();
        bytes.i64(group.offset);
        bytes.u64(group.position);
        bytes.i64(group.max_timestamp);
        bytes.u64(group.chain);
        let sum = checksum(seed, [&bytes[start..], number.to_le_bytes().as_slice()]);
        bytes.u64(sum);
    }
    bytes.into()
}

/// Reads back exactly `count` entries from the first on, if all are good.
pub(super) fn decode_groups(
    log: LogId,
    base: Offset,
    generation: u32,
    count: u32,
    bytes: &[u8],
) -> Option<Vec<Group>> {
    let seed = index_seed(log, base, generation);
    if bytes.len() != count as usize * ENTRY {
        return None;
    }
    let mut groups = Vec::with_capacity(count as usize);
    for (number, entry) in (0u64..).zip(bytes.chunks_exact(ENTRY)) {
        let mut field = Reader(entry);
        let group = Group {
            offset: field.i64()?,
            position: field.u64()?,
            max_timestamp: field.i64()?,
            chain: field.u64()?,
        };
        let (covered, _) = entry.split_at(ENTRY - 8);
        if field.u64()? != checksum(seed, [covered, number.to_le_bytes().as_slice()]) {
            return None;
        }
        groups.push(group);
    }
    Some(groups)
}

/// Ties an entry to the one file that it belongs to. The disk's secret has no part in it: it changes while segments stay, and
/// no bytes of a client stand in an index.
fn index_seed(log: LogId, base: Offset, generation: u32) -> u64 {
    let seed = salt(&log.topic.0, 0, generation);
    checksum(seed, [log.partition.to_le_bytes().as_slice(), base.to_le_bytes().as_slice()])
}

/// A run of groups about to be read: what to expect.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub position: u64,
    pub length: u64,
    /// Start and chain of each group, and where the last one ends.
    pub groups: Vec<Group>,
}

/// Chooses what to read of a segment for an answer that begins with the batch that holds `from`: the whole group of that
/// batch, and whole groups after it while they fit in `bytes_max` and begin below `upto`. `groups` are those of the
/// segment from one at or before `from` on; the last one ends at `end`.
pub(super) fn plan(
    groups: impl Iterator<Item = Group>,
    end: u64,
    from: Offset,
    upto: Offset,
    bytes_max: u64,
) -> Option<Span> {
    let mut span: Option<Span> = None;
    let mut groups = groups.peekable();
    while let Some(group) = groups.next() {
        let until = groups.peek().map_or(end, |next| next.position);
        match &mut span {
            // The last group that begins at or below `from` is the first to read.
            _ if groups.peek().is_some_and(|next| next.offset <= from) => {}
            None => {
                let length = until - group.position;
                span = Some(Span { position: group.position, length, groups: vec![group] });
            }
            Some(span) => {
                if group.offset >= upto || until - span.position > bytes_max {
                    break;
                }
                span.length = until - span.position;
                span.groups.push(group);
            }
        }
    }
    span
}

/// A verified batch.
pub(super) struct Batch {
    pub header: BatchHeader,
    pub bytes: Bytes,
}

/// Checks what was read of a span, all of it: the chain of each group, and the CRC of every batch that would leave (those
/// that end past `from` and at or below `upto`), and that the others are where their neighbours say. None where anything
/// does not fit.
pub(super) fn verify(span: &Span, bytes: &Bytes, from: Offset, upto: Offset) -> Option<Vec<Batch>> {
    if bytes.len() as u64 != span.length {
        return None;
    }
    let mut batches = Vec::new();
    let mut at = 0;
    // Where the batch before ended, by its own header. A batch that does not leave is not checked by its CRC, which covers
    // where it ends; that the next one begins there shows that it was skipped for good reason.
    let mut reached: Option<Offset> = None;
    for (i, group) in span.groups.iter().enumerate() {
        let until =
            span.groups.get(i + 1).map_or(span.length, |next| next.position - span.position);
        let mut chain = 0;
        let mut first = true;
        while (at as u64) < until {
            let header = BatchHeader::parse(&bytes[at..]).ok()?;
            let end = at.checked_add(header.size()).filter(|end| *end as u64 <= until)?;
            if first && header.base_offset != group.offset {
                return None;
            }
            first = false;
            chain = chained(chain, &bytes[at..]);
            if reached.replace(header.next_offset()).is_some_and(|end| end != header.base_offset) {
                return None;
            }
            let leaves = header.next_offset() > from && header.next_offset() <= upto;
            // What stays behind at the end has no batch after it that would show why.
            if leaves || header.next_offset() > upto || end as u64 == span.length {
                let batch = bytes.slice(at..end);
                validate(&batch).ok()?;
                if leaves {
                    batches.push(Batch { header, bytes: batch });
                }
            }
            at = end;
        }
        if chain != group.chain {
            return None;
        }
    }
    Some(batches)
}
