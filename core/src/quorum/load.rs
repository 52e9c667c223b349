//! What happens between the start of a run and its first word: state, snapshot and log are read back, and the start number
//! is synced.
//!
//! Damage is never taken for emptiness. A node whose snapshot or log cannot be read still knows its term and vote (they
//! are in the journal, which recovery has vouched for), but not all that it had acknowledged: it is *hollow*, does not
//! vote, and becomes whole when a leader has confirmed everything up to its old end, or when a later start reads all of it.

use bytes::Bytes;
use milena_wire::batch::batches as wire_batches;

use super::log::{MemoryLog, decode};
use super::snapshot::{Held, parse};
use super::state::State;
use super::{Phase, Quorum};
use crate::disk::{Command, Directory, FileName, Outcome, Success};
use crate::storage::{Lsn, Read, ReadError, Store, Ticket};
use crate::trace::{Event, Mark};
use crate::{Halt, LogId, LogLevel, Offset, OpId, Outputs};

/// Bytes read at once.
const READ_BYTES: u32 = 1 << 20;

/// What is awaited, one thing after the other.
#[derive(Debug)]
pub(super) enum Loading {
    /// When the names of all snapshot files are.
    Names { op: OpId },
    /// When the snapshot's next bytes are. A failed read is tried once more.
    Snapshot { op: OpId, file: FileName, bytes: Vec<u8>, tried: bool },
    /// When records are.
    Log { ticket: Ticket },
    /// When the start number is being synced.
    StartNumber,
}

/// The only controller cannot read what it kept.
fn lost_by_all() -> Halt {
    let line = "what the only controller kept of the metadata is damaged, and nobody has a copy: start again in case only a read \
                failed; the partitions' data stays as it is; to begin a new cluster, start with an empty data directory";
    Halt::Operator(line.into())
}

impl Quorum {
    pub(super) fn load(&mut self, is_lost: bool, store: &mut Store, out: &mut Outputs) {
        assert!(matches!(self.phase, Phase::New), "started once");
        store.create(LogId::METADATA, out);
        let log = store.log(LogId::METADATA).expect("it was just created");
        let Some(state) = State::decode(log.state()) else {
            let line = "the quorum's state was written by a newer version: start that version";
            return self.stop(Halt::Operator(line.into()), out);
        };
        self.state = state;
        self.state.is_lost |= is_lost;
        self.state.start += 1;
        if self.state.is_lost && self.is_only_controller() {
            return self.stop(lost_by_all(), out);
        }
        self.persist(store);
        let op = store.command(Command::List { directory: Directory::Snapshots }, out);
        self.phase = Phase::Loading(Loading::Names { op });
    }

    /// Whether the founding record, or without one the list, names this node alone.
    fn is_only_controller(&self) -> bool {
        let list = self.state.founding.as_ref().map_or(&self.list, |record| &record.list);
        *list == [self.me.node]
    }

    /// Takes a command's outcome while loading; false if it was for somebody else.
    pub(super) fn on_loading_command(
        &mut self,
        op: OpId,
        outcome: &Outcome,
        store: &mut Store,
        out: &mut Outputs,
    ) -> bool {
        let Phase::Loading(loading) = &mut self.phase else { return false };
        match loading {
            Loading::Names { op: expected } if *expected == op => {
                if let Ok(Success::Names(names)) = outcome
                    && !self.state.is_lost
                {
                    self.snapshots.remove_all_but(self.state.snapshot, names, store, out);
                }
                let Some(name) = self.state.snapshot else {
                    self.load_log(store, out);
                    return true;
                };
                let file = FileName::Snapshot { end: name.end, epoch: name.epoch, whole: true };
                let op = store.command(Command::Read { file, offset: 0, length: READ_BYTES }, out);
                let (bytes, tried) = (Vec::new(), false);
                self.phase = Phase::Loading(Loading::Snapshot { op, file, bytes, tried });
                true
            }
            Loading::Snapshot { op: expected, file, bytes, tried } if *expected == op => {
                match outcome {
                    Ok(Success::Bytes(part)) => {
                        bytes.extend_from_slice(part);
                        *tried = false;
                        if part.len() < READ_BYTES as usize {
                            let file = Bytes::from(std::mem::take(bytes));
                            self.load_snapshot(file, store, out);
                            return true;
                        }
                    }
                    _ if *tried => {
                        self.load_snapshot(Bytes::new(), store, out);
                        return true;
                    }
                    _ => *tried = true,
                }
                let (file, offset) = (*file, bytes.len() as u64);
                *expected = store.command(Command::Read { file, offset, length: READ_BYTES }, out);
                true
            }
            Loading::Names { .. }
            | Loading::Snapshot { .. }
            | Loading::Log { .. }
            | Loading::StartNumber => false,
        }
    }

    fn load_snapshot(&mut self, file: Bytes, store: &mut Store, out: &mut Outputs) {
        let name = self.state.snapshot.expect("only a named snapshot is loaded");
        let held = parse(file).filter(|held| {
            let cluster = self.state.founding.as_ref().map(|record| record.cluster);
            (held.end, held.epoch, Some(held.cluster)) == (name.end, name.epoch, cluster)
        });
        match held {
            Some(held) => {
                self.snapshots.hold(held);
                self.load_log(store, out);
            }
            None => self.become_hollow("the snapshot of the metadata", store, out),
        }
    }

    /// Puts the log behind the snapshot, or behind the founding record, and begins to read it.
    fn load_log(&mut self, store: &mut Store, out: &mut Outputs) {
        let log = store.log(LogId::METADATA).expect("created at the start");
        if log.is_damaged() {
            return self.become_hollow("the metadata log", store, out);
        }
        let (start, end) = (log.start(), log.end());
        self.log = match self.snapshots.held() {
            Some(Held { end, epoch, voters, .. }) => {
                MemoryLog::new(*end, *epoch, Lsn(0), voters.clone())
            }
            None => {
                let voters = self.state.founding.as_ref().map(|record| record.voters.clone());
                MemoryLog::new(0, -1, Lsn(0), voters.unwrap_or_default())
            }
        };
        let covered = self.log.start();
        self.commit = covered;
        if start > covered {
            return self.become_hollow("the metadata log's beginning", store, out);
        }
        if let Some(name) = self.state.snapshot {
            // A crash came between the snapshot's installation and what it does to the log.
            let fits = end == covered && log.last_epoch() == name.epoch
                || end > covered && log.epoch_at(covered - 1) == Some(name.epoch)
                || start == covered;
            if end < covered || !fits {
                store.reset(LogId::METADATA, covered, out);
            } else if start < covered {
                store.trim(LogId::METADATA, covered, out);
            }
        }
        self.read_log(store, out);
    }

    fn read_log(&mut self, store: &mut Store, out: &mut Outputs) {
        loop {
            let end = store.log(LogId::METADATA).expect("created at the start").end();
            if self.log.end() >= end {
                if self.state.hollow_until.is_some_and(|until| self.log.end() >= until) {
                    // A read failed at an earlier start; what it was to read is there, as it was acknowledged or as a leader
                    // has replaced it.
                    self.state.hollow_until = None;
                    self.persist(store);
                    out.log(LogLevel::Info, "all of the metadata can be read: this node may vote");
                }
                self.phase = Phase::Loading(Loading::StartNumber);
                return;
            }
            match store.read(LogId::METADATA, self.log.end(), end, READ_BYTES, out) {
                Read::Now(batches) => {
                    if !self.take_loaded(&batches, store, out) {
                        return;
                    }
                }
                Read::Later(ticket) => {
                    self.phase = Phase::Loading(Loading::Log { ticket });
                    return;
                }
            }
        }
    }

    pub(super) fn on_loaded(
        &mut self,
        ticket: Ticket,
        result: &Result<Vec<Bytes>, ReadError>,
        store: &mut Store,
        out: &mut Outputs,
    ) {
        if !matches!(&self.phase, Phase::Loading(Loading::Log { ticket: t }) if *t == ticket) {
            return;
        }
        match result {
            Ok(batches) => {
                if self.take_loaded(batches, store, out) {
                    self.read_log(store, out);
                }
            }
            // What lies below the snapshot was trimmed meanwhile; this part is still there.
            Err(ReadError::Gone) => self.read_log(store, out),
            Err(ReadError::Damaged) => self.become_hollow("the metadata log", store, out),
        }
    }

    /// Appends what was read back to the log in memory; false where it is damaged, and dealt with.
    fn take_loaded(&mut self, batches: &[Bytes], store: &mut Store, out: &mut Outputs) -> bool {
        let before = self.log.end();
        // However the store cuts what it read, batches stand in it one after the other.
        for next in wire_batches(&Bytes::from(batches.concat())) {
            let entry = next.ok().and_then(|(_, batch)| decode(self.log.end(), &batch));
            match entry.filter(|entry| entry.epoch >= self.log.last().epoch) {
                Some(entry) => self.log.push(entry),
                None => {
                    self.become_hollow("a record of the metadata log", store, out);
                    return false;
                }
            }
        }
        if self.log.end() == before {
            // The store says that there is more, and gives nothing.
            self.become_hollow("the metadata log's end", store, out);
            return false;
        }
        true
    }

    /// What this disk had acknowledged is not all there.
    fn become_hollow(&mut self, what: &str, store: &mut Store, out: &mut Outputs) {
        if self.is_only_controller() {
            out.log(LogLevel::Error, format!("{what} is damaged"));
            return self.stop(lost_by_all(), out);
        }
        let end = store.log(LogId::METADATA).map_or(0, |log| log.end());
        let covered = self.state.snapshot.map_or(0, |name| name.end);
        let until: Offset = end.max(covered).max(self.state.hollow_until.unwrap_or(0));
        self.state.hollow_until = Some(until);
        self.persist(store);
        out.log(
            LogLevel::Error,
            format!("{what} is damaged: this node does not vote until a leader has given it everything below offset {until} again"),
        );
        out.event(|| Event::Sometimes(Mark::QuorumHollow));
        let voters = self.state.founding.as_ref().map(|record| record.voters.clone());
        self.log = MemoryLog::new(0, -1, Lsn(0), voters.unwrap_or_default());
        self.commit = 0;
        self.snapshots.forget();
        self.store_stale = true;
        self.phase = Phase::Loading(Loading::StartNumber);
    }

    /// Damage found after loading: only a restart knows what is left.
    pub(super) fn on_damaged(&mut self, out: &mut Outputs) {
        match self.phase {
            // The read that found it is answered with it.
            Phase::New | Phase::Loading(_) | Phase::Stopped => {}
            Phase::Running => {
                self.stop(Halt::Disk("the metadata log is damaged".into()), out);
            }
        }
    }

    /// Takes part once everything is read and the start number is durable.
    pub(super) fn finish_loading(&mut self, store: &mut Store, out: &mut Outputs) {
        let is_read = matches!(self.phase, Phase::Loading(Loading::StartNumber));
        if !is_read || self.state_lsn > self.flushed {
            return;
        }
        self.phase = Phase::Running;
        self.founding.shown = self.state.founding.is_some();
        self.report_other_list(out);
        if self.state.founded {
            self.begin_acting(out);
        } else {
            self.ask(store, out);
        }
    }
}
