//! Engines of the next layout, out of what the journals of the old one amount to: all that is above the checkpoints becomes
//! their pending records, so that it is written again.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use milena_wire::batch::{BatchHeader, HEADER_LEN};

use super::age::SegmentRules;
use super::checkpoint::{Entry, Head};
use super::journal::Journal;
use super::log::{Log, Op};
use super::producers::Produced;
use super::record::{Kind, Record};
use super::replay::{Outcome, Restored, journal_of};
use super::segment::largest_time;
use super::superblock::Superblock;
use super::{Lsn, Store, age};
use crate::config::StorageConfig;
use crate::disk::{Command, FileName};
use crate::trace::{Event, Mark};
use crate::{LogId, Now, Outputs, Timestamp};

/// The engines: the quorum's, then those of the shards.
pub(super) fn engines(
    merged: Outcome,
    superblock: &Superblock,
    config: &StorageConfig,
    names: &BTreeSet<FileName>,
    wall: Timestamp,
    out: &mut Outputs,
) -> Vec<Store> {
    let Superblock { layout, shards, secret, .. } = *superblock;
    let mut stores = Vec::new();
    for number in 0..=shards {
        let file_bytes = u64::from(match number {
            0 => config.metadata_journal_file_bytes,
            _ => config.journal_file_bytes,
        });
        let mut journal = Journal::new(layout, number, secret, file_bytes);
        for _ in 0..config.journal_files {
            journal.add_file();
        }
        let suspect = merged.suspect && number > 0;
        let head = Head { seq_floor: merged.seq_floor, suspect, ..Head::default() };
        stores.push(Store::new(config, journal, head));
    }
    let mut of_log: BTreeMap<LogId, Vec<FileName>> = BTreeMap::new();
    if merged.logs.values().any(Restored::ends_damaged) {
        for file in names {
            if let FileName::Segment { log, .. } | FileName::Index { log, .. } = file {
                of_log.entry(*log).or_default().push(*file);
            }
        }
    }
    for (id, restored) in merged.logs {
        let files = of_log.remove(&id).unwrap_or_default();
        let store = &mut stores[usize::from(journal_of(id, shards))];
        store.restore(id, restored, files, names, wall, out);
    }
    stores
}

impl Store {
    /// Takes over a log as it was found; its changes above the checkpoint become pending records.
    fn restore(
        &mut self,
        id: LogId,
        restored: Restored,
        files: Vec<FileName>,
        names: &BTreeSet<FileName>,
        wall: Timestamp,
        out: &mut Outputs,
    ) {
        let (damaged, damaged_now) = (restored.ends_damaged(), restored.damaged);
        let Restored { entry, replay, .. } = restored;
        let floor = replay.first().map_or(0, |record| record.seq - 1);
        // Those of a partition's log are the topic's, which the image will tell.
        let own = self.journal.number == 0;
        let rules = own.then(|| SegmentRules::of_bytes(self.config.segment_bytes));
        let mut log = Log::new(rules, floor);
        if let Some(Entry { seq, shape, generation, segments, .. }) = entry {
            (log.seq, log.applied_seq, log.saved_seq) = (seq, seq, seq);
            (log.visible, log.applied) = (shape.clone(), shape);
            (log.generation, log.segments) = (generation, segments);
            log.flushed_end = log.visible.end;
            log.segments.iter_mut().for_each(|segment| segment.count_from(wall));
        }
        for segment in &mut log.segments {
            let index = segment.filed == 0 || names.contains(&segment.index(id));
            if !index || !names.contains(&segment.file(id)) {
                // A change that is about to be made again had removed it. What comes before that goes elsewhere.
                segment.closed = true;
                segment.groups = Vec::new();
            }
        }
        for record in replay {
            let Some(op) = self.op_of(record, wall) else { continue };
            self.memory += op.size;
            self.order.push_back((op.lsn, id));
            log.submit(op);
        }
        if damaged {
            out.event(|| Event::Sometimes(Mark::RecoveryLogDamaged));
            (log.visible.damaged, log.applied.damaged) = (true, true);
            let at = if damaged_now { log.seq } else { log.visible.damaged_at };
            (log.visible.damaged_at, log.applied.damaged_at) = (at, at);
            let named = |file: &FileName| match file {
                FileName::Segment { generation, .. } | FileName::Index { generation, .. } => {
                    *generation
                }
                _ => 0,
            };
            let highest = files.iter().map(named).max().unwrap_or(0);
            log.generation = log.generation.max(highest.wrapping_add(1));
            let known: BTreeSet<FileName> = log
                .segments
                .iter()
                .flat_map(|segment| [segment.file(id), segment.index(id)])
                .collect();
            log.kept = files.into_iter().filter(|file| !known.contains(file)).collect();
            if let Some(last) = log.segments.last_mut() {
                last.closed = true;
            }
        }
        if log.saved_seq > 0 || damaged {
            log.saved = log.entry(id, log.saved_seq);
        }
        if !log.visible.exists {
            self.deleted.insert(id);
        }
        self.logs.insert(id, log);
    }

    fn op_of(&mut self, record: Record, wall: Timestamp) -> Option<Op> {
        let Record { seq, kind, at, appended_s, ref body, .. } = record;
        let mut op = Op::new(kind, at, body.clone());
        if kind == Kind::Append {
            // Under a good checksum stands what was validated once, so this holds.
            let (head, filled) = op.body.prefix::<HEADER_LEN>();
            let header = BatchHeader::parse(&head[..filled]).ok()?;
            (op.next, op.epoch) = (header.next_offset(), header.partition_leader_epoch);
            op.max_timestamp = largest_time(&header);
            op.produced = Produced::of(&header);
        }
        let lsn = self.journal.push(record);
        let born = age::born(op.max_timestamp, appended_s, wall);
        let appended = age::appended(appended_s, wall);
        Some(Op { lsn, seq, born, appended, ..op })
    }

    /// The first checkpoints of a layout, one in each slot, so that one bad sector is not the end of them: what recovery found
    /// in the segments, and a mark over all that it wrote.
    pub(super) fn first_checkpoints(&mut self) -> Vec<Command> {
        let flushed = self.journal.flushed;
        let entries: Vec<Bytes> = self
            .logs
            .values()
            .map(|log| log.saved.clone())
            .filter(|entry| !entry.is_empty())
            .collect();
        let (layout, journal) = (self.journal.layout, self.journal.number);
        let mut commands = Vec::new();
        for version in 1..=2 {
            self.head = Head { version, low: Lsn(1), mark: flushed, ..self.head.clone() };
            let (data, slot_bytes) = self.checkpoint_data(&self.head, &entries);
            self.slots[usize::from(self.head.slot())] = slot_bytes;
            let file = FileName::Checkpoint { layout, journal, slot: self.head.slot() };
            commands.extend([Command::Write { file, offset: 0, data }, Command::Sync { file }]);
        }
        commands
    }

    /// The layout is committed: all that was written is flushed, and covered by the checkpoint's mark.
    pub(super) fn begin_running(&mut self, now: Now) {
        self.journal.idle_since = now.mono;
        self.journal.marked = self.head.mark;
        self.low_before = self.head.low;
        for log in self.logs.values_mut() {
            log.on_flushed(self.journal.flushed);
        }
        self.on_marked();
    }
}
