//! Reads and lookups by time.
//!
//! What is in the tail is answered at once. The rest is read from one segment: whole groups, so that all of it can be verified
//! before a byte leaves, and at most one index interval beside the answer. A read that fails or does not verify is
//! tried once more; then it is damage.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use milena_wire::batch::{BatchHeader, DecompressLimit, record_iterator};

use super::log::{Log, Op};
use super::segment::{
    Batch, ENTRY, Group, Segment, Span, decode_groups, largest_time, plan, verify,
};
use super::{Read, ReadError, Store, StoreEvent, Ticket, Waiting};
use crate::disk::{Command, FileName, Outcome, Success};
use crate::trace::{Event, Mark};
use crate::{Epoch, LogId, Offset, Outputs, Timestamp};

/// Bytes of indexes kept after they were needed.
const INDEXES_BYTES: usize = 16 << 20;
/// Decompressed bytes of a batch in which a timestamp is looked for.
const RECORDS_BYTES: usize = 64 << 20;

/// A read or lookup that waits for the disk.
#[derive(Debug)]
pub(super) struct Job {
    log: LogId,
    wanted: Wanted,
    /// The log's count of cuts when it began.
    cuts: u64,
    step: Step,
    tried: bool,
    /// What a lookup of the largest time has learnt.
    learnt: Learnt,
}

/// What a lookup of the largest time has learnt of segments that a cut or the log's start goes through. It keeps that itself: of
/// several such segments the indexes need not fit into the memory for indexes at once.
#[derive(Debug, Default)]
struct Learnt {
    segments: BTreeMap<FileName, Summary>,
    /// Largest times of groups of which not all records count, by file and position.
    groups: BTreeMap<(FileName, u64), Timestamp>,
}

/// What an index tells of the records of a segment between two offsets.
#[derive(Debug)]
struct Summary {
    from: Offset,
    until: Offset,
    /// The largest time of the groups of which all records count.
    whole: Option<Timestamp>,
    /// The others: where each begins in the file, the largest time of all its records, and how it is read.
    open: Vec<(u64, Timestamp, Step)>,
}

#[derive(Clone, Copy, Debug)]
enum Wanted {
    Batches {
        from: Offset,
        upto: Offset,
        bytes_max: u32,
    },
    /// Nothing below `from` is it.
    Time {
        time: Timestamp,
        from: Offset,
        upto: Offset,
    },
    /// The largest time from `from` on; then the first record that has it.
    Largest {
        from: Offset,
        upto: Offset,
    },
}

/// What the disk was asked for.
#[derive(Clone, Debug)]
enum Step {
    Index {
        base: Offset,
        generation: u32,
        count: u32,
    },
    /// `beyond`: offset after the groups of the span.
    Span {
        file: FileName,
        span: Span,
        upto: Offset,
        beyond: Offset,
    },
}

/// What to do next about a job.
enum Next {
    Ask(Step),
    Batches(Vec<Bytes>),
    Time(Option<(Offset, Timestamp, Epoch)>),
    Largest(Option<Timestamp>),
}

/// Log, base offset and generation of a segment.
type IndexKey = (LogId, Offset, u32);

/// Entries of `Index` files that were read, least recently used out first.
#[derive(Default, Debug)]
pub(super) struct Indexes {
    /// With the clock of their last use.
    loaded: BTreeMap<IndexKey, (u64, Arc<[Group]>)>,
    clock: u64,
    bytes: usize,
}

impl Indexes {
    fn find(&mut self, id: LogId, segment: &Segment) -> Option<Arc<[Group]>> {
        let entry = self.loaded.get_mut(&(id, segment.base, segment.generation))?;
        self.clock += 1;
        entry.0 = self.clock;
        (entry.1.len() == segment.filed as usize).then(|| entry.1.clone())
    }

    fn keep(&mut self, log: LogId, base: Offset, generation: u32, groups: Vec<Group>) {
        self.forget(log, base, generation);
        self.clock += 1;
        self.bytes += size_of_val(groups.as_slice());
        self.loaded.insert((log, base, generation), (self.clock, groups.into()));
        while self.bytes > INDEXES_BYTES && self.loaded.len() > 1 {
            let oldest = self.loaded.iter().min_by_key(|(_, (used, _))| *used);
            let Some(((log, base, generation), _)) = oldest.map(|(key, value)| (*key, value))
            else {
                return;
            };
            self.forget(log, base, generation);
        }
    }

    pub fn forget(&mut self, log: LogId, base: Offset, generation: u32) {
        if let Some((_, groups)) = self.loaded.remove(&(log, base, generation)) {
            self.bytes -= size_of_val(&*groups);
        }
    }
}

impl Store {
    /// Batches from the one that holds `from` on, all of them wholly below `upto`, as many as `bytes_max` allows but one at
    /// least. Verified (batch CRC and the checksum over the rest of the header) if they come from a segment; those end with
    /// their segment, or sooner where another group of batches would not fit, so ask again from where they end. Below the
    /// log's start all is [`ReadError::Gone`]: who goes on from an earlier read must not skip what was trimmed meanwhile.
    pub fn read(
        &mut self,
        id: LogId,
        from: Offset,
        upto: Offset,
        bytes_max: u32,
        out: &mut Outputs,
    ) -> Read {
        let Some(log) = self.log(id) else { return Read::Now(Vec::new()) };
        let refused = match log {
            log if log.is_damaged() => Some(ReadError::Damaged),
            log if from < log.start() => Some(ReadError::Gone),
            _ => None,
        };
        if let Some(error) = refused {
            self.next_ticket += 1;
            let ticket = Ticket(self.next_ticket);
            self.events.push_back(StoreEvent::Read { ticket, result: Err(error) });
            return Read::Later(ticket);
        }
        if from >= log.border() || from >= upto {
            return Read::Now(read_tail(log, from, upto, bytes_max));
        }
        Read::Later(self.start_job(id, Wanted::Batches { from, upto, bytes_max }, out))
    }

    /// The most bytes that a read under way may give: what it reads, or all of the segment that it looks at.
    pub fn bytes_read_by(&self, ticket: Ticket) -> u64 {
        let Some(job) = self.reads.get(&ticket) else { return 0 };
        match &job.step {
            Step::Span { span, .. } => span.length,
            Step::Index { base, .. } => {
                let mut segments =
                    self.logs.get(&job.log).into_iter().flat_map(|log| &log.segments);
                segments.find(|segment| segment.base == *base).map_or(0, |segment| segment.length)
            }
        }
    }

    /// The first record at or after a time, below `upto`. Always answered by [`StoreEvent::Time`].
    pub fn find_time(
        &mut self,
        id: LogId,
        time: Timestamp,
        upto: Offset,
        out: &mut Outputs,
    ) -> Ticket {
        let from = self.log(id).map_or(0, Log::start);
        self.start_job(id, Wanted::Time { time, from, upto }, out)
    }

    /// The first record with the largest time of those below `upto`; none where no record has a time. Always answered by
    /// [`StoreEvent::Time`].
    pub fn find_largest(&mut self, id: LogId, upto: Offset, out: &mut Outputs) -> Ticket {
        let from = self.log(id).map_or(0, Log::start);
        self.start_job(id, Wanted::Largest { from, upto }, out)
    }

    /// The ticket of the next read.
    pub(super) fn upcoming_ticket(&self) -> Ticket {
        Ticket(self.next_ticket + 1)
    }

    /// Reads what segments hold, also below the log's start. The answer may come at once.
    pub(super) fn start_read(
        &mut self,
        id: LogId,
        from: Offset,
        upto: Offset,
        bytes_max: u32,
        out: &mut Outputs,
    ) {
        self.start_job(id, Wanted::Batches { from, upto, bytes_max }, out);
    }

    fn start_job(&mut self, log: LogId, wanted: Wanted, out: &mut Outputs) -> Ticket {
        let ticket = self.upcoming_ticket();
        self.next_ticket += 1;
        let cuts = self.logs.get(&log).map_or(0, |log| log.cuts);
        let step = Step::Index { base: 0, generation: 0, count: 0 };
        let learnt = Learnt::default();
        self.go_on(ticket, Job { log, wanted, cuts, step, tried: false, learnt }, out);
        ticket
    }

    /// Takes a job as far as it goes without the disk.
    fn go_on(&mut self, ticket: Ticket, mut job: Job, out: &mut Outputs) {
        let next = match self.logs.get(&job.log) {
            None => match job.wanted {
                Wanted::Batches { .. } => Next::Batches(Vec::new()),
                Wanted::Time { .. } | Wanted::Largest { .. } => Next::Time(None),
            },
            Some(log) if log.visible.damaged => {
                return self.answer_error(ticket, &job, ReadError::Damaged);
            }
            Some(log) => match job.wanted {
                Wanted::Batches { from, upto, bytes_max } => {
                    next_of_batches(job.log, log, &mut self.indexes, from, upto, bytes_max)
                }
                Wanted::Time { time, from, upto } => {
                    next_of_time(job.log, log, &mut self.indexes, time, from, upto)
                }
                Wanted::Largest { from, upto } => {
                    next_of_largest(job.log, log, &mut self.indexes, &mut job.learnt, from, upto)
                }
            },
        };
        match next {
            Next::Ask(step) => {
                job.step = step;
                job.tried = false;
                self.ask(ticket, &job, out);
                self.reads.insert(ticket, job);
            }
            Next::Batches(batches) => self.answer(ticket, Ok(batches)),
            Next::Time(found) => {
                self.events.push_back(StoreEvent::Time { ticket, result: Ok(found) });
            }
            Next::Largest(Some(time)) if time >= 0 => {
                let (Wanted::Batches { from, upto, .. }
                | Wanted::Time { from, upto, .. }
                | Wanted::Largest { from, upto }) = job.wanted;
                job.wanted = Wanted::Time { time, from, upto };
                self.go_on(ticket, job, out);
            }
            Next::Largest(_) => {
                self.events.push_back(StoreEvent::Time { ticket, result: Ok(None) });
            }
        }
    }

    fn ask(&mut self, ticket: Ticket, job: &Job, out: &mut Outputs) {
        let (file, offset, length) = match &job.step {
            Step::Index { base, generation, count } => {
                let (log, base, generation) = (job.log, *base, *generation);
                (FileName::Index { log, base, generation }, 0, count * ENTRY as u32)
            }
            Step::Span { file, span, .. } => (*file, span.position, span.length as u32),
        };
        self.issue(Command::Read { file, offset, length }, Waiting::Read(ticket), out);
    }

    pub(super) fn on_read(&mut self, ticket: Ticket, outcome: Outcome, out: &mut Outputs) {
        let Some(mut job) = self.reads.remove(&ticket) else { return };
        let current = self.logs.get(&job.log).map(|log| log.cuts);
        if current != Some(job.cuts) {
            return self.answer_error(ticket, &job, ReadError::Gone);
        }
        let bytes = match outcome {
            Ok(Success::Bytes(bytes)) => bytes,
            _ => Bytes::new(),
        };
        let good = match &job.step {
            Step::Index { base, generation, count } => {
                let groups = decode_groups(job.log, *base, *generation, *count, &bytes);
                groups.map(|groups| {
                    self.indexes.keep(job.log, *base, *generation, groups);
                    None
                })
            }
            Step::Span { span, upto, .. } => {
                let (Wanted::Batches { from, .. }
                | Wanted::Time { from, .. }
                | Wanted::Largest { from, .. }) = job.wanted;
                verify(span, &bytes, from, *upto).map(Some)
            }
        };
        let Some(batches) = good else {
            if job.tried {
                out.event(|| Event::Sometimes(Mark::SegmentDamaged));
                self.damage(job.log, out);
                self.answer_error(ticket, &job, ReadError::Damaged);
            } else {
                job.tried = true;
                self.ask(ticket, &job, out);
                self.reads.insert(ticket, job);
            }
            return;
        };
        match (batches, &mut job.wanted) {
            (Some(batches), Wanted::Largest { from, upto }) => {
                let Step::Span { file, span, .. } = &job.step else { return };
                let times = batches.iter().map(|batch| largest_of(batch, *from, *upto));
                let largest = times.max().unwrap_or(Timestamp::MIN);
                job.learnt.groups.insert((*file, span.position), largest);
                self.go_on(ticket, job, out);
            }
            (None, _) => self.go_on(ticket, job, out),
            (Some(batches), Wanted::Batches { bytes_max, .. }) => {
                let batches = limited(batches.into_iter().map(|batch| batch.bytes), *bytes_max);
                self.answer(ticket, Ok(batches));
            }
            (Some(batches), Wanted::Time { time, from, upto }) => {
                let found = batches.iter().find_map(|batch| record_at(batch, *time, *from, *upto));
                if found.is_some() {
                    self.events.push_back(StoreEvent::Time { ticket, result: Ok(found) });
                    return;
                }
                // Not in this group after all: its timestamps lie below the start, or were cut.
                let Step::Span { beyond, .. } = job.step else { return };
                *from = (*from).max(beyond);
                self.go_on(ticket, job, out);
            }
        }
    }

    fn answer_error(&mut self, ticket: Ticket, job: &Job, error: ReadError) {
        match job.wanted {
            Wanted::Batches { .. } => self.answer(ticket, Err(error)),
            Wanted::Time { .. } | Wanted::Largest { .. } => {
                self.events.push_back(StoreEvent::Time { ticket, result: Err(error) });
            }
        }
    }

    /// A read is done: the cleaner's is not for those who wait outside.
    fn answer(&mut self, ticket: Ticket, result: Result<Vec<Bytes>, ReadError>) {
        if !self.cleaner.waits_for(ticket) {
            return self.events.push_back(StoreEvent::Read { ticket, result });
        }
        self.cleaner.on_read(result);
    }

    /// Where the log should start by `retention.ms` and `retention.bytes` (negative: no limit), never above `upto`, in
    /// steps of whole segments.
    pub fn retention_start(
        &self,
        id: LogId,
        wall: Timestamp,
        ms: i64,
        bytes: i64,
        upto: Offset,
    ) -> Offset {
        let Some(log) = self.log(id) else { return 0 };
        let mut start = log.start();
        if log.ops.iter().any(Op::cuts) {
            // The segments hold what is cut until that has reached them; the next look knows better.
            return start;
        }
        let mut left = log.bytes();
        for segment in &log.segments {
            let next = segment.next.min(log.border());
            let last = next >= log.end();
            let expired = ms >= 0 && wall.saturating_sub(segment.born) > ms;
            let too_large = bytes >= 0 && left.saturating_sub(segment.counted) >= bytes as u64;
            if next > upto || next <= segment.base || !(expired || too_large && !last) {
                break;
            }
            left -= segment.counted;
            start = start.max(next);
        }
        start
    }
}

/// Whole batches of the tail.
fn read_tail(log: &Log, from: Offset, upto: Offset, bytes_max: u32) -> Vec<Bytes> {
    let first = log.tail.partition_point(|batch| batch.next <= from);
    let mut pieces = Vec::new();
    let mut size = 0;
    for batch in log.tail.range(first..).take_while(|batch| batch.next <= upto) {
        size += batch.size;
        if !pieces.is_empty() && size > u64::from(bytes_max) {
            break;
        }
        pieces.extend_from_slice(batch.body.as_slice());
    }
    pieces
}

fn limited(batches: impl Iterator<Item = Bytes>, bytes_max: u32) -> Vec<Bytes> {
    let mut size = 0;
    let mut first = true;
    batches
        .take_while(|batch| {
            size += batch.len() as u64;
            std::mem::take(&mut first) || size <= u64::from(bytes_max)
        })
        .collect()
}

fn next_of_batches(
    id: LogId,
    log: &Log,
    indexes: &mut Indexes,
    from: Offset,
    upto: Offset,
    bytes_max: u32,
) -> Next {
    let segment = log.segments.iter().rfind(|segment| segment.base <= from);
    let Some(segment) = segment.filter(|segment| from < log.border().min(segment.next)) else {
        return Next::Batches(read_tail(log, from, upto, bytes_max));
    };
    let upto = upto.min(segment.next).min(log.border());
    let (filed, groups) = match filed_groups(id, segment, indexes, from) {
        Ok(found) => found,
        Err(step) => return Next::Ask(step),
    };
    let all = filed.iter().chain(groups).copied();
    match plan(all, segment.length, from, upto, u64::from(bytes_max)) {
        Some(span) => {
            let beyond = segment.next;
            Next::Ask(Step::Span { file: segment.file(id), span, upto, beyond })
        }
        None => Next::Batches(Vec::new()),
    }
}

/// The groups of a segment from the one that holds `from` on: the part from its `Index` file, which may have to be loaded
/// first, and the part in memory.
fn filed_groups<'a>(
    id: LogId,
    segment: &'a Segment,
    indexes: &mut Indexes,
    from: Offset,
) -> Result<(Vec<Group>, &'a [Group]), Step> {
    let at = segment.groups.partition_point(|group| group.offset <= from);
    if at > 0 || segment.filed == 0 {
        return Ok((Vec::new(), &segment.groups[at.saturating_sub(1)..]));
    }
    let (base, generation, count) = (segment.base, segment.generation, segment.filed);
    let Some(loaded) = indexes.find(id, segment) else {
        return Err(Step::Index { base, generation, count });
    };
    let at = loaded.partition_point(|group| group.offset <= from).saturating_sub(1);
    Ok((loaded[at..].to_vec(), &segment.groups))
}

/// A group, and where it ends.
struct Part {
    group: Group,
    next: Offset,
    end: u64,
}

impl Part {
    /// Reads it, below `until`: what lies past that is about to be cut.
    fn read(&self, file: FileName, until: Offset) -> Step {
        let (position, length) = (self.group.position, self.end - self.group.position);
        let span = Span { position, length, groups: vec![self.group] };
        Step::Span { file, span, upto: until, beyond: self.next.min(until) }
    }
}

/// The groups of a segment that hold something from `from` on and below `until`, or what has to be loaded first.
fn parts(
    id: LogId,
    segment: &Segment,
    indexes: &mut Indexes,
    from: Offset,
    until: Offset,
) -> Result<Vec<Part>, Step> {
    let (filed, groups) = filed_groups(id, segment, indexes, from.max(segment.base))?;
    let all: Vec<Group> = filed.iter().chain(groups).copied().collect();
    let later = all.iter().skip(1).map(|group| (group.offset, group.position));
    let ends = later.chain([(segment.next, segment.length)]);
    let parts = all.iter().zip(ends).map(|(group, (next, end))| Part { group: *group, next, end });
    Ok(parts.filter(|part| part.next > from && part.group.offset < until).collect())
}

fn next_of_time(
    id: LogId,
    log: &Log,
    indexes: &mut Indexes,
    time: Timestamp,
    from: Offset,
    upto: Offset,
) -> Next {
    let from = from.max(log.start());
    let border = log.border().min(upto);
    for segment in &log.segments {
        let until = segment.next.min(border);
        if until <= from || segment.base >= until || segment.max.0 < time {
            continue;
        }
        let parts = match parts(id, segment, indexes, from, until) {
            Ok(parts) => parts,
            Err(step) => return Next::Ask(step),
        };
        if let Some(part) = parts.iter().find(|part| part.group.max_timestamp >= time) {
            return Next::Ask(part.read(segment.file(id), until));
        }
    }
    let tail = log.tail.iter().filter(|batch| batch.next > from && batch.max_timestamp >= time);
    Next::Time(tail.take_while(|batch| batch.base < upto).find_map(|batch| {
        let bytes = batch.body.joined();
        let header = BatchHeader::parse(&bytes).ok()?;
        record_at(&Batch { header, bytes }, time, from, upto)
    }))
}

impl Summary {
    fn new(file: FileName, segment: &Segment, parts: &[Part], from: Offset, until: Offset) -> Self {
        let mut summary = Summary { from, until, whole: None, open: Vec::new() };
        for part in parts {
            let Part { group, next, end } = part;
            // The last group may hold batches past a cut.
            if group.offset >= from && *next <= until && *end < segment.length {
                summary.whole = summary.whole.max(Some(group.max_timestamp));
            } else {
                let step = part.read(file, until);
                summary.open.push((group.position, group.max_timestamp, step));
            }
        }
        summary
    }
}

/// The largest time below `upto`. What an index tells of a group holds where all its records count; where a cut or the start goes
/// through one that may have the largest, it is read.
fn next_of_largest(
    id: LogId,
    log: &Log,
    indexes: &mut Indexes,
    learnt: &mut Learnt,
    from: Offset,
    upto: Offset,
) -> Next {
    let from = from.max(log.start());
    let border = log.border().min(upto);
    let mut largest = None;
    let mut to_read: Option<(Timestamp, &Step)> = None;
    for segment in &log.segments {
        let until = segment.next.min(border);
        if until <= from || segment.base >= until {
            continue;
        }
        if segment.base >= from && segment.max.1 < until {
            largest = largest.max(Some(segment.max.0));
            continue;
        }
        let file = segment.file(id);
        let known = learnt.segments.get(&file);
        if known.is_none_or(|summary| (summary.from, summary.until) != (from, until)) {
            match parts(id, segment, indexes, from, until) {
                Ok(parts) => {
                    let summary = Summary::new(file, segment, &parts, from, until);
                    learnt.segments.insert(file, summary);
                    // Its last group may have grown since it was read.
                    learnt.groups.retain(|(other, _), _| *other != file);
                }
                Err(step) => return Next::Ask(step),
            }
        }
    }
    for (file, summary) in learnt.segments.iter().filter(|(_, summary)| summary.until > from) {
        largest = largest.max(summary.whole);
        for (position, time, step) in &summary.open {
            match learnt.groups.get(&(*file, *position)) {
                Some(time) => largest = largest.max(Some(*time)),
                None if to_read.is_none_or(|(most, _)| most < *time) => {
                    to_read = Some((*time, step));
                }
                None => {}
            }
        }
    }
    for batch in log.tail.iter().filter(|batch| batch.next > from && batch.base < upto) {
        let is_whole = batch.base >= from && batch.next <= upto;
        let time = if is_whole {
            batch.max_timestamp
        } else {
            let bytes = batch.body.joined();
            let header = BatchHeader::parse(&bytes);
            header.map_or(Timestamp::MIN, |header| largest_of(&Batch { header, bytes }, from, upto))
        };
        largest = largest.max(Some(time));
    }
    match to_read {
        Some((time, step)) if Some(time) > largest => Next::Ask(step.clone()),
        _ => Next::Largest(largest),
    }
}

/// The largest time of a batch's records between two offsets.
fn largest_of(batch: &Batch, from: Offset, upto: Offset) -> Timestamp {
    let header = &batch.header;
    if header.base_offset >= from && header.next_offset() <= upto {
        return largest_time(header);
    }
    let limit = DecompressLimit(RECORDS_BYTES);
    let times = record_iterator(&batch.bytes, limit).and_then(|records| {
        let mut largest = Timestamp::MIN;
        for record in records {
            let record = record?;
            if (from..upto).contains(&record.offset) {
                largest = largest.max(record.timestamp);
            }
        }
        Ok(largest)
    });
    // Its CRC is good, so this is what the producer sent; where that cannot be opened, all that is known is the batch.
    times.unwrap_or(header.max_timestamp)
}

/// The first record of a batch at or after a time.
fn record_at(
    batch: &Batch,
    time: Timestamp,
    from: Offset,
    upto: Offset,
) -> Option<(Offset, Timestamp, Epoch)> {
    let header = &batch.header;
    if header.max_timestamp < time {
        return None;
    }
    let epoch = header.partition_leader_epoch;
    let found = record_iterator(&batch.bytes, DecompressLimit(RECORDS_BYTES)).and_then(|records| {
        for record in records {
            let record = record?;
            if record.timestamp >= time && record.offset >= from {
                return Ok((record.offset < upto).then_some((
                    record.offset,
                    record.timestamp,
                    epoch,
                )));
            }
        }
        Ok(None)
    });
    // Its CRC is good, so this is what the producer sent; where that cannot be opened, all that is known is the batch.
    found.unwrap_or_else(|_| {
        let offset = header.base_offset.max(from);
        (offset < upto).then_some((offset, header.max_timestamp, epoch))
    })
}
