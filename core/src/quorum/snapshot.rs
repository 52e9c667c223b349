//! Snapshots: written beside the log, sent in parts, read back at a start.
//!
//! A snapshot is a file of one header and the image of the machine above. It is written as a part, synced, renamed and its folder
//! synced; then the state names it, and only when that is durable the log below its end goes. So at every moment the log
//! begins no later than a snapshot that is whole on the disk.
//!
//! The snapshot in force is also kept in memory: for followers that need it, and because it is one image.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::append::SNAPSHOT_BYTES_MAX;
use super::log::MemoryLog;
use super::message::{QuorumBody, Voter, Voters};
use super::state::SnapshotName;
use super::{Quorum, Role, Then};
use crate::disk::{Command, Directory, DiskError, FileName, Outcome};
use crate::storage::Store;
use crate::trace::{Event, Mark};
use crate::{Epoch, Halt, LogId, LogLevel, Offset, OpId, Outputs};

/// First bytes of every snapshot.
const MAGIC: &[u8; 8] = b"MILSNAP\x01";
/// Magic and checksum.
const PREFIX_LEN: usize = 16;

/// What stands before the image. The numbers are frozen; a new format is a new variant at the end.
#[derive(Serialize, Deserialize)]
enum Header {
    V1 { cluster: u128, end: Offset, epoch: Epoch, voters: Voters },
}

/// A whole snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Held {
    pub cluster: u128,
    pub end: Offset,
    pub epoch: Epoch,
    /// In force at `end`.
    pub voters: Voters,
    pub payload: Bytes,
    /// The whole file, of which `payload` is the end.
    pub file: Bytes,
}

fn checksum(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes)
}

/// The file of a snapshot.
fn compose(cluster: u128, end: Offset, epoch: Epoch, voters: Voters, payload: &[u8]) -> Held {
    let header = Header::V1 { cluster, end, epoch, voters: voters.clone() };
    let header = postcard::to_allocvec(&header).expect("writing to memory cannot fail");
    let mut file = BytesMut::with_capacity(PREFIX_LEN + header.len() + payload.len());
    file.put_slice(MAGIC);
    file.put_u64(0);
    file.put_slice(&header);
    file.put_slice(payload);
    let sum = checksum(&file[PREFIX_LEN..]);
    file[MAGIC.len()..PREFIX_LEN].copy_from_slice(&sum.to_be_bytes());
    let file = file.freeze();
    let payload = file.slice(PREFIX_LEN + header.len()..);
    Held { cluster, end, epoch, voters, payload, file }
}

/// Opens a snapshot's file; none where it is damaged or of another format.
pub(super) fn parse(file: Bytes) -> Option<Held> {
    if file.len() < PREFIX_LEN || &file[..MAGIC.len()] != MAGIC {
        return None;
    }
    if file[MAGIC.len()..PREFIX_LEN] != checksum(&file[PREFIX_LEN..]).to_be_bytes() {
        return None;
    }
    let (header, payload) = postcard::take_from_bytes(&file[PREFIX_LEN..]).ok()?;
    let Header::V1 { cluster, end, epoch, voters } = header;
    let payload = file.slice_ref(payload);
    (end > 0).then_some(Held { cluster, end, epoch, voters, payload, file })
}

/// A file being written, one command after the other.
#[derive(Debug)]
struct Writing {
    held: Held,
    /// Whether it came from a leader, to replace what is here.
    installs: bool,
    step: Step,
    op: OpId,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Create,
    Write,
    Sync,
    Rename,
    SyncDirectory,
}

/// A snapshot on its way from a leader.
#[derive(Debug)]
struct Receiving {
    end: Offset,
    epoch: Epoch,
    length: u64,
    bytes: Vec<u8>,
}

/// All that is under way about snapshots.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    held: Option<Held>,
    writing: Option<Writing>,
    receiving: Option<Receiving>,
    /// Files of snapshots that are in force until the state that names a newer one is durable.
    older: Vec<SnapshotName>,
    /// Removals, whose outcome does not matter: what stays is removed at the next start.
    removing: BTreeSet<OpId>,
}

impl Snapshots {
    /// The snapshot in force.
    pub fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    pub fn hold(&mut self, held: Held) {
        self.held = Some(held);
    }

    pub fn forget(&mut self) {
        self.held = None;
    }

    /// Whether no file may be written now. Commands about different files overtake each other, so one being removed must be gone
    /// before its name is used again.
    fn is_busy(&self) -> bool {
        self.writing.is_some() || !self.removing.is_empty()
    }

    /// Removes parts and older snapshots.
    pub fn remove_all_but(
        &mut self,
        kept: Option<SnapshotName>,
        names: &[FileName],
        store: &mut Store,
        out: &mut Outputs,
    ) {
        for file in names {
            let FileName::Snapshot { end, epoch, whole } = *file else { continue };
            if !whole || kept != Some(SnapshotName { end, epoch }) {
                self.removing.insert(store.command(Command::Remove { file: *file }, out));
            }
        }
    }
}

impl Quorum {
    /// Whether the machine above should hand in its image, of everything below `applied`.
    pub fn snapshot_due(&self, applied: Offset) -> bool {
        let covered = self.snapshots.held().map_or(0, |held| held.end);
        let records = applied.saturating_sub(covered).max(0) as u64;
        matches!(self.phase, super::Phase::Running)
            && !self.snapshots.is_busy()
            && !self.store_stale
            && records >= self.config.quorum.snapshot_every_records.max(1)
    }

    /// Takes the image of everything below `end`, which is what was popped so far, writes it to a file and, when that is durable,
    /// trims the log. Does nothing while another snapshot is being written.
    pub fn take_snapshot(
        &mut self,
        end: Offset,
        epoch: Epoch,
        payload: Vec<u8>,
        store: &mut Store,
        out: &mut Outputs,
    ) {
        assert!(end <= self.applied, "a snapshot holds what was applied");
        let covered = self.snapshots.held().map_or(0, |held| held.end);
        if self.snapshots.is_busy() || end <= covered || self.store_stale {
            return;
        }
        assert_eq!(
            self.log.epoch_before(end),
            Some(epoch),
            "a snapshot's epoch is its last record's"
        );
        let cluster = self.cluster().expect("records were applied");
        let held = compose(cluster, end, epoch, self.log.voters_at(end).clone(), &payload);
        self.write_snapshot(held, false, store, out);
    }

    fn write_snapshot(&mut self, held: Held, installs: bool, store: &mut Store, out: &mut Outputs) {
        let file = part_of(&held);
        let op = store.command(Command::Create { file }, out);
        self.snapshots.writing = Some(Writing { held, installs, step: Step::Create, op });
    }

    /// Takes the outcome of a command of this room.
    pub(super) fn on_command(
        &mut self,
        op: OpId,
        outcome: &Outcome,
        store: &mut Store,
        out: &mut Outputs,
    ) {
        if self.on_loading_command(op, outcome, store, out) || self.snapshots.removing.remove(&op) {
            return;
        }
        let Some(mut writing) = self.snapshots.writing.take_if(|writing| writing.op == op) else {
            return;
        };
        let part = part_of(&writing.held);
        match outcome {
            Ok(_) => {}
            Err(DiskError::Io(_)) if matches!(writing.step, Step::Sync | Step::SyncDirectory) => {
                let line = "a snapshot of the metadata could not be synced".into();
                return self.stop(Halt::Disk(line), out);
            }
            Err(error) => {
                // The log stays as long as it is, and it is tried again when due.
                let error = *error;
                self.complain("snapshot", out, || {
                    format!("a snapshot of the metadata could not be written: {error}")
                });
                self.snapshots.removing.insert(store.command(Command::Remove { file: part }, out));
                return;
            }
        }
        let (step, command) = match writing.step {
            Step::Create => {
                let data = vec![writing.held.file.clone()];
                (Step::Write, Command::Write { file: part, offset: 0, data })
            }
            Step::Write => (Step::Sync, Command::Sync { file: part }),
            Step::Sync => {
                let Held { end, epoch, .. } = writing.held;
                let to = FileName::Snapshot { end, epoch, whole: true };
                (Step::Rename, Command::Rename { from: part, to })
            }
            Step::Rename => {
                let directory = Directory::Snapshots;
                (Step::SyncDirectory, Command::SyncDirectory { directory })
            }
            Step::SyncDirectory => {
                return self.put_in_force(writing.held, writing.installs, store, out);
            }
        };
        writing.op = store.command(command, out);
        writing.step = step;
        self.snapshots.writing = Some(writing);
    }

    /// The file is whole and durable.
    fn put_in_force(&mut self, held: Held, installs: bool, store: &mut Store, out: &mut Outputs) {
        let (end, epoch) = (held.end, held.epoch);
        let is_newer = if installs { end > self.commit } else { end > self.log.start() };
        if !is_newer {
            // The log has come past it meanwhile.
            if self.state.snapshot != Some(SnapshotName { end, epoch }) {
                let file = FileName::Snapshot { end, epoch, whole: true };
                self.snapshots.removing.insert(store.command(Command::Remove { file }, out));
            }
            return;
        }
        let name = SnapshotName { end, epoch };
        // A damaged one is replaced by another of the same name.
        self.snapshots.older.extend(self.state.snapshot.filter(|older| *older != name));
        self.state.snapshot = Some(name);
        // The state comes first in the journal: a log that begins at `end` is never there without it.
        let lsn = self.persist(store);
        if installs {
            let keeps = !self.store_stale
                && self.log.epoch_before(end) == Some(epoch)
                && (self.log.start()..=self.log.end()).contains(&end);
            if keeps {
                store.trim(LogId::METADATA, end, out);
                self.log.trim(end, lsn);
            } else {
                let lsn = store.reset(LogId::METADATA, end, out);
                self.log = MemoryLog::new(end, epoch, lsn, held.voters.clone());
                self.store_stale = false;
            }
            self.move_commit(end, out);
            out.event(|| Event::Sometimes(Mark::QuorumSnapshotInstalled));
            if let Role::Follower(following) = &mut self.role {
                // Committed, so the leader of any later term has it too.
                following.verified = following.verified.max(end);
                following.owes = true;
            }
        }
        self.snapshots.hold(held);
        self.when_durable(Then::RetireBefore { end });
    }

    /// The state that names the snapshot is durable.
    pub(super) fn retire_before(&mut self, end: Offset, store: &mut Store, out: &mut Outputs) {
        if end > self.log.start() && !self.store_stale {
            store.trim(LogId::METADATA, end, out);
            self.log.trim(end, self.flushed);
        }
        // A later one may be in force by now whose state is not durable yet: then the disk still names the one at `end`.
        let (older, still_named): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.snapshots.older).into_iter().partition(|name| name.end < end);
        self.snapshots.older = still_named;
        for SnapshotName { end, epoch } in older {
            let file = FileName::Snapshot { end, epoch, whole: true };
            self.snapshots.removing.insert(store.command(Command::Remove { file }, out));
        }
    }

    /// Takes a part of the leader's snapshot.
    pub(super) fn on_snapshot_part(
        &mut self,
        leader: Voter,
        (end, epoch): (Offset, Epoch),
        length: u64,
        position: u64,
        bytes: Bytes,
        store: &mut Store,
        out: &mut Outputs,
    ) {
        if epoch > self.state.term {
            return self.refuse(leader.node, "its snapshot is of a later term than its own", out);
        }
        self.snapshots.receiving.take_if(|receiving| receiving.end <= self.commit);
        if end <= self.commit {
            if let Role::Follower(following) = &mut self.role {
                // Committed here means that this leader has it too.
                following.verified = following.verified.max(self.commit.min(self.log.end()));
                following.owes = true;
            }
            return;
        }
        if self.snapshots.writing.as_ref().is_some_and(|writing| writing.held.end == end) {
            return self.reply(leader, QuorumBody::SnapshotTaken { end, position: length });
        }
        let same = |r: &Receiving| (r.end, r.epoch, r.length) == (end, epoch, length);
        if !self.snapshots.receiving.as_ref().is_some_and(same) {
            let bytes = Vec::new();
            self.snapshots.receiving = Some(Receiving { end, epoch, length, bytes });
        }
        let receiving = self.snapshots.receiving.as_mut().expect("it was just made");
        let has = receiving.bytes.len() as u64;
        let fits = length <= SNAPSHOT_BYTES_MAX && has + bytes.len() as u64 <= length;
        if position == has && fits {
            receiving.bytes.extend_from_slice(&bytes);
        }
        let position = receiving.bytes.len() as u64;
        if position < length || self.snapshots.is_busy() {
            return self.reply(leader, QuorumBody::SnapshotTaken { end, position });
        }
        let file = self.snapshots.receiving.take().expect("it is whole").bytes;
        let whole = parse(file.into()).filter(|held| {
            (held.end, held.epoch, Some(held.cluster)) == (end, epoch, self.cluster())
        });
        match whole {
            Some(held) => {
                self.write_snapshot(held, true, store, out);
                self.reply(leader, QuorumBody::SnapshotTaken { end, position });
            }
            None => {
                out.log(
                    LogLevel::Error,
                    format!("a snapshot from node {} is damaged", leader.node),
                );
                self.reply(leader, QuorumBody::SnapshotTaken { end, position: 0 });
            }
        }
    }
}

fn part_of(held: &Held) -> FileName {
    FileName::Snapshot { end: held.end, epoch: held.epoch, whole: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Incarnation, NodeId};

    #[test]
    fn a_file_is_whole_or_nothing() {
        let voters = Voters::from([(NodeId(1), Incarnation(8))]);
        let held = compose(5, 10, 2, voters, b"the image");
        assert_eq!(parse(held.file.clone()), Some(held.clone()));
        assert_eq!(&held.payload[..], b"the image");
        for i in 0..held.file.len() {
            let mut damaged = held.file.to_vec();
            damaged[i] ^= 0x40;
            assert_eq!(parse(damaged.into()), None, "byte {i}");
            assert_eq!(parse(held.file.slice(..i)), None, "cut at {i}");
        }
    }
}
