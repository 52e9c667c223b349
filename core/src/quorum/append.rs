//! Replication: what a leader sends, what a follower takes and acknowledges, and when something is committed.
//!
//! A follower acknowledges what its disk has, one acknowledgement per flush rather than one per append; a leader sends
//! ahead of the answers. Committed is what a majority of the voters in force has on disk, once that reaches a record of the
//! leader's own term: an older record can be on a majority and still be replaced (Raft, figure 8).

use std::collections::BTreeMap;

use bytes::Bytes;
use milena_wire::batch::BatchHeader;

use super::handover::HandOver;
use super::log::{Entry, EntryValue, MemoryLog, decode, encode, is_majority, majority_end};
use super::message::{QuorumBody, Voter};
use super::progress::{Pace, Progress};
use super::{Quorum, Role};
use crate::storage::Store;
use crate::trace::{Event, Mark};
use crate::{Epoch, Instant, LogId, LogLevel, Offset, Outputs};

/// A snapshot larger than this is refused.
pub(super) const SNAPSHOT_BYTES_MAX: u64 = 1 << 30;
/// Observers that a leader serves at most.
const OBSERVERS_MAX: usize = 4_096;
/// An observer silent for this many election timeouts is forgotten; it asks again.
const OBSERVER_TIMEOUTS: u64 = 20;

/// What a follower knows in a leader's term.
#[derive(Debug)]
pub(super) struct Following {
    pub leader: Voter,
    /// Up to here the log is known to be the leader's.
    pub verified: Offset,
    /// The end that was last acknowledged.
    told: Offset,
    /// Whether the leader is owed an answer even if nothing moved.
    pub owes: bool,
}

/// What a leader knows in its term.
#[derive(Debug)]
pub(super) struct Leading {
    /// Offset of the first record of its term.
    pub no_op: Offset,
    pub heartbeat_at: Instant,
    pub progress: BTreeMap<Voter, Progress>,
    /// Its wish to lead no more, if it has that.
    pub hand_over: Option<HandOver>,
}

impl Leading {
    pub fn on_heard(&mut self, sender: Voter, now: Instant, start: u64) {
        if let Some(progress) = self.progress.get_mut(&sender) {
            progress.on_heard(now, start);
        }
    }
}

impl Quorum {
    /// Takes the sender of an append as the leader of this term; false where that cannot be.
    pub(super) fn follow(&mut self, from: Voter, out: &mut Outputs) -> bool {
        match &self.role {
            Role::Follower(following) if following.leader == from => {}
            Role::Leader(_) | Role::Follower(_) => {
                let term = self.state.term;
                self.complain("two_leaders", out, || {
                    format!(
                        "node {} claims to lead term {term}, which another one leads",
                        from.node
                    )
                });
                return false;
            }
            Role::Unattached | Role::Prospective { .. } | Role::Candidate { .. } => {
                let (leader, term) = (from, self.state.term);
                self.role = Role::Follower(Following { leader, verified: 0, told: 0, owes: false });
                out.event(|| Event::QuorumFollower { term, leader: from.node });
            }
        }
        self.leader_heard = Some(self.now.mono);
        self.wait_for_leader();
        true
    }

    /// Takes records from the leader of this term.
    pub(super) fn on_append(
        &mut self,
        leader: Voter,
        (base, previous): (Offset, Epoch),
        batches: Vec<Bytes>,
        commit: Offset,
        store: &mut Store,
        out: &mut Outputs,
    ) {
        if self.store_stale && base == 0 {
            let voters = self.log.voters().clone();
            // The state comes first in the journal: no snapshot, which may be what is damaged, stands for anything of a log
            // that begins anew. The next start removes its file.
            self.state.snapshot = None;
            self.persist(store);
            let lsn = store.reset(LogId::METADATA, 0, out);
            self.log = MemoryLog::new(0, -1, lsn, voters);
            self.store_stale = false;
        }
        // What a snapshot covers is committed, so it is the leader's too.
        let is_covered = base < self.log.start() && !self.store_stale;
        if !is_covered && self.log.epoch_before(base) != Some(previous) {
            if self.state.hollow_until.is_some() && base > self.log.end() {
                // It once acknowledged more than it has, and the leader would not believe less.
                return self.ask_to_follow(out);
            }
            let (end, epoch) = self.log.agree_at_most(base, previous);
            return self.reply(leader, QuorumBody::Diverged { base, end, epoch });
        }
        let Some(entries) = self.open(base, previous, batches) else {
            return self.complain("append", out, || {
                format!("an append of node {} cannot be read and is refused", leader.node)
            });
        };
        let Role::Follower(Following { verified, .. }) = self.role else {
            unreachable!("only a follower takes appends")
        };
        let end = base + entries.len() as Offset;
        let mut appended = false;
        for (offset, mut entry) in (base..).zip(entries) {
            if offset < self.log.start() {
                continue;
            }
            let here = self.log.get(offset).map(|here| here.epoch);
            if here == Some(entry.epoch) {
                continue;
            }
            if self.log.epoch_before(offset) > Some(entry.epoch) {
                return self.refuse(leader.node, "its terms fall along its log", out);
            }
            if here.is_some() {
                if offset < verified {
                    return self.refuse(
                        leader.node,
                        "its log is not what it was in this term",
                        out,
                    );
                }
                if offset < self.commit {
                    return out.log(
                        LogLevel::Error,
                        format!(
                            "node {} would replace the committed record at {offset}: refused",
                            leader.node
                        ),
                    );
                }
                out.event(|| Event::Sometimes(Mark::QuorumTruncated));
                store.truncate(LogId::METADATA, offset, out);
                self.log.truncate(offset);
            }
            self.act(out);
            let (wall, commit) = (self.now.wall, self.commit);
            let header = BatchHeader::parse(&entry.batch).expect("it was opened");
            let pieces = std::slice::from_ref(&entry.batch);
            entry.lsn = store.append(LogId::METADATA, &header, pieces, wall, commit, false, out);
            self.log.push(entry);
            appended = true;
        }
        let Role::Follower(following) = &mut self.role else {
            unreachable!("only a follower takes appends")
        };
        following.verified = following.verified.max(end).max(self.log.start());
        // An append with something new is answered when it is on the disk.
        following.owes |= !appended;
        let commit = commit.min(following.verified).min(self.log.end());
        if commit > self.commit {
            self.move_commit(commit, out);
        }
    }

    /// The records of an append; none unless all of them can be read and could be a leader's of this term.
    fn open(&self, base: Offset, previous: Epoch, batches: Vec<Bytes>) -> Option<Vec<Entry>> {
        let mut epoch = previous;
        let end = base.checked_add(batches.len() as Offset)?;
        let mut entries = Vec::with_capacity(batches.len());
        for (offset, batch) in (base..end).zip(&batches) {
            let entry = decode(offset, batch)?;
            if entry.epoch < epoch || entry.epoch > self.state.term || base < 0 {
                return None;
            }
            epoch = entry.epoch;
            entries.push(entry);
        }
        Some(entries)
    }

    /// Tells the leader what is on the disk, if that is news or the leader is owed an answer.
    pub(super) fn acknowledge(&mut self, store: &mut Store, out: &mut Outputs) {
        let synced = self.log.flushed_end(self.flushed);
        let Role::Follower(following) = &mut self.role else { return };
        let synced = synced.unwrap_or(0).min(following.verified);
        if let Some(until) = self.state.hollow_until
            && !self.store_stale
            && synced >= until
        {
            self.state.hollow_until = None;
            out.log(LogLevel::Info, "what was damaged is whole again: this node may vote");
            self.persist(store);
            return;
        }
        // The term must be durable before any answer in it.
        if self.state_lsn > self.flushed || !(following.owes || synced > following.told) {
            return;
        }
        (following.told, following.owes) = (synced, false);
        let (leader, verified) = (following.leader, following.verified);
        let body = QuorumBody::Appended { verified, synced };
        if let Some(message) = self.message(leader.incarnation, body) {
            self.send(leader.node, message, out);
        }
    }

    /// Moves the commit offset of a node that does not lead.
    pub(super) fn move_commit(&mut self, end: Offset, out: &mut Outputs) {
        assert!(end >= self.commit && end <= self.log.end(), "commit moves up, inside the log");
        self.commit = end;
        let term = self.state.term;
        out.event(|| Event::QuorumCommitted { term, end, counted: Vec::new(), voters: 0 });
    }

    /// Begins to lead the current term.
    pub(super) fn become_leader(&mut self, store: &mut Store, out: &mut Outputs) {
        assert!(matches!(self.role, Role::Candidate { .. }), "a leader was a candidate");
        let (term, end) = (self.state.term, self.log.end());
        out.event(|| Event::QuorumLeader { term, end });
        out.log(LogLevel::Info, format!("leads the metadata quorum in term {term}"));
        let (heartbeat_at, progress) = (self.now.mono, BTreeMap::new());
        self.role = Role::Leader(Leading { no_op: end, heartbeat_at, progress, hand_over: None });
        self.election_at = None;
        self.leader_heard = None;
        if end == 0 {
            // From its first record on, the log itself says who votes.
            let voters = self.log.voters().clone();
            self.append_own(EntryValue::Voters(voters), store, out);
        }
        let no_op = self.append_own(EntryValue::NoOp, store, out);
        if let Role::Leader(leading) = &mut self.role {
            leading.no_op = no_op;
        }
        self.serve_voters();
        self.heartbeat(out);
    }

    /// Every voter in force but this node is a follower.
    fn serve_voters(&mut self) {
        let (next, now) = (self.log.end(), self.now.mono);
        let Role::Leader(leading) = &mut self.role else { return };
        for (node, incarnation) in self.log.voters() {
            let voter = Voter { node: *node, incarnation: *incarnation };
            if voter != self.me {
                leading.progress.entry(voter).or_insert_with(|| Progress::new(next, now));
            }
        }
    }

    /// Sends the log to observers as well that have not asked this leader for it, since they may not have heard of it yet. Those
    /// that are not there are forgotten.
    pub fn serve_observers(&mut self, known: impl Iterator<Item = Voter>, out: &mut Outputs) {
        for observer in known {
            let (next, now) = (self.log.end(), self.now.mono);
            let Role::Leader(leading) = &mut self.role else { return };
            let is_served =
                observer.node == self.me.node || leading.progress.contains_key(&observer);
            if is_served || leading.progress.len() >= OBSERVERS_MAX {
                continue;
            }
            leading.progress.insert(observer, Progress::new(next, now));
            self.send_to(observer, true, out);
        }
    }

    /// Appends a record of this leader's term.
    pub(super) fn append_own(
        &mut self,
        value: EntryValue,
        store: &mut Store,
        out: &mut Outputs,
    ) -> Offset {
        assert!(self.is_leader(), "only a leader appends");
        self.act(out);
        let (offset, epoch) = (self.log.end(), self.state.term);
        let batch = encode(offset, epoch, self.now.wall, &value);
        let header = BatchHeader::parse(&batch).expect("a batch of ours");
        let (wall, pieces) = (self.now.wall, std::slice::from_ref(&batch));
        let lsn = store.append(LogId::METADATA, &header, pieces, wall, self.commit, true, out);
        let entry = decode(offset, &batch).expect("what was written can be read");
        self.log.push(Entry { lsn, ..entry });
        offset
    }

    pub(super) fn heartbeat_at(&self) -> Option<Instant> {
        match &self.role {
            Role::Leader(leading) => Some(leading.heartbeat_at),
            _ => None,
        }
    }

    /// Sends to every follower, and steps down where no majority is heard any more.
    pub(super) fn heartbeat(&mut self, out: &mut Outputs) {
        let quorum = self.config.quorum.clone();
        let now = self.now.mono;
        let Role::Leader(leading) = &mut self.role else { return };
        leading.heartbeat_at = now.after_ms(quorum.heartbeat_ms.max(1));
        let voters = self.log.voters();
        let is_voter = |peer: &Voter| voters.get(&peer.node) == Some(&peer.incarnation);
        let heard = leading.progress.iter().filter(|(peer, progress)| {
            is_voter(peer) && now.ms_since(progress.heard) <= quorum.election_timeout_ms
        });
        if !is_majority(heard.count() + usize::from(is_voter(&self.me)), voters.len()) {
            out.event(|| Event::Sometimes(Mark::QuorumCheckQuorumFailed));
            out.log(LogLevel::Warn, "no majority of the controllers is heard: leads no more");
            return self.detach(out);
        }
        let patience = quorum.election_timeout_ms.saturating_mul(OBSERVER_TIMEOUTS);
        leading.progress.retain(|peer, progress| {
            progress.on_heartbeat();
            is_voter(peer) || now.ms_since(progress.heard) <= patience
        });
        self.send_to_all(true, out);
    }

    /// Sends what followers do not have yet.
    pub(super) fn replicate(&mut self, out: &mut Outputs) {
        self.send_to_all(false, out);
    }

    fn send_to_all(&mut self, even_empty: bool, out: &mut Outputs) {
        let Role::Leader(leading) = &self.role else { return };
        let peers: Vec<Voter> = leading.progress.keys().copied().collect();
        for peer in peers {
            self.send_to(peer, even_empty, out);
        }
    }

    /// Sends one follower what it does not have yet; `even_empty` says the commit offset at least.
    fn send_to(&mut self, peer: Voter, even_empty: bool, out: &mut Outputs) {
        let bytes_max = self.config.quorum.message_bytes_max.max(1) as usize;
        let is_silent = |progress: &Progress| {
            self.now.mono.ms_since(progress.heard) > self.config.quorum.election_timeout_ms
        };
        let mut even_empty = even_empty;
        while let Role::Leader(leading) = &mut self.role
            && let Some(progress) = leading.progress.get_mut(&peer)
        {
            if progress.next < self.log.start() && !matches!(progress.pace, Pace::Snapshot { .. }) {
                progress.send_snapshot(self.log.start());
            }
            if let Pace::Snapshot { .. } = progress.pace {
                return self.send_part(peer, out);
            }
            let may_send = progress.may_send();
            let has_more = progress.next < self.log.end() && may_send;
            if !has_more && !even_empty {
                return;
            }
            let base = progress.next;
            let batches = match has_more {
                // Nobody is there to take records; whether somebody is, an empty append asks as well.
                true if is_silent(progress) => Vec::new(),
                true => self.log.batches(base, bytes_max),
                false => Vec::new(),
            };
            even_empty = false;
            if may_send {
                progress.on_sent(base + batches.len() as Offset);
            }
            let is_over = batches.is_empty();
            let previous = self.log.epoch_before(base).expect("the offset is inside the log");
            let body = QuorumBody::Append { base, previous, batches, commit: self.commit };
            let message = self.message(peer.incarnation, body);
            out.send(peer.node, message.expect("a leader has a cluster"));
            if is_over {
                return;
            }
        }
    }

    fn send_part(&mut self, peer: Voter, out: &mut Outputs) {
        let held = self.snapshots.held().expect("the log begins at a snapshot");
        let (Role::Leader(leading), file) = (&mut self.role, held.file.clone()) else { return };
        let Some(progress) = leading.progress.get_mut(&peer) else { return };
        let Pace::Snapshot { end, position, waiting } = &mut progress.pace else { return };
        if *end != held.end {
            (*end, *position, *waiting) = (held.end, 0, false);
        }
        if *waiting {
            return;
        }
        *waiting = true;
        out.event(|| Event::Sometimes(Mark::QuorumSnapshotSent));
        let length = file.len() as u64;
        let from = (*position).min(length) as usize;
        let upto = file
            .len()
            .min(from.saturating_add(self.config.quorum.message_bytes_max.max(1) as usize));
        let body = QuorumBody::SnapshotPart {
            end: held.end,
            epoch: held.epoch,
            length,
            position: from as u64,
            bytes: file.slice(from..upto),
        };
        let message = self.message(peer.incarnation, body);
        out.send(peer.node, message.expect("a leader has a cluster"));
    }

    /// Takes a follower's acknowledgement.
    pub(super) fn on_appended(
        &mut self,
        from: Voter,
        verified: Offset,
        synced: Offset,
        out: &mut Outputs,
    ) {
        let end = self.log.end();
        let Role::Leader(leading) = &mut self.role else { return };
        let Some(progress) = leading.progress.get_mut(&from) else { return };
        if synced < 0 || synced > verified || verified > end {
            return self.complain("acknowledgement", out, || {
                format!("node {} acknowledges what was never sent", from.node)
            });
        }
        progress.on_appended(verified, synced);
        self.send_to(from, false, out);
    }

    pub(super) fn on_diverged(
        &mut self,
        from: Voter,
        base: Offset,
        end: Offset,
        epoch: Epoch,
        out: &mut Outputs,
    ) {
        let Role::Leader(leading) = &mut self.role else { return };
        let Some(progress) = leading.progress.get_mut(&from) else { return };
        if base < 0 || end < 0 {
            return self.refuse(from.node, "its log has no such offset", out);
        }
        let hint = self.log.next_probe(end, epoch);
        let counts = self.log.voters().get(&from.node) == Some(&from.incarnation);
        if progress.on_diverged(base, hint, counts) {
            self.send_to(from, false, out);
        }
    }

    pub(super) fn on_snapshot_taken(
        &mut self,
        from: Voter,
        end: Offset,
        position: u64,
        out: &mut Outputs,
    ) {
        let length = self.snapshots.held().map_or(0, |held| held.file.len() as u64);
        let Role::Leader(leading) = &mut self.role else { return };
        let Some(progress) = leading.progress.get_mut(&from) else { return };
        let Pace::Snapshot { end: sending, position: has, waiting } = &mut progress.pace else {
            return;
        };
        if *sending != end {
            return;
        }
        *has = position;
        // The whole is there and being written: the next heartbeat asks again.
        *waiting = position >= length;
        self.send_part(from, out);
    }

    /// Takes the wish to follow of an observer, or of a voter that has lost records.
    pub(super) fn on_follow(&mut self, from: Voter, end: Offset, out: &mut Outputs) {
        let (log_end, now) = (self.log.end(), self.now.mono);
        let Role::Leader(leading) = &mut self.role else { return };
        if leading.progress.len() >= OBSERVERS_MAX && !leading.progress.contains_key(&from) {
            return self.complain("observers", out, || "too many nodes follow the metadata".into());
        }
        let next = end.clamp(0, log_end);
        let progress = leading.progress.entry(from).or_insert_with(|| Progress::new(next, now));
        progress.on_follow(now, next);
        self.send_to(from, true, out);
    }

    /// Commits what a majority of the voters in force has on disk.
    pub(super) fn advance_commit(&mut self, out: &mut Outputs) {
        let own = self.log.flushed_end(self.flushed).unwrap_or(0);
        let Role::Leader(leading) = &self.role else { return };
        let voters = self.log.voters();
        let synced: Vec<(Voter, Offset)> = voters
            .iter()
            .map(|(node, incarnation)| {
                let voter = Voter { node: *node, incarnation: *incarnation };
                let matched = leading.progress.get(&voter).map_or(0, |progress| progress.matched);
                (voter, if voter == self.me { own } else { matched })
            })
            .collect();
        let Some(end) = majority_end(synced.iter().map(|(_, end)| *end)) else { return };
        if end <= self.commit || self.log.epoch_before(end) != Some(self.state.term) {
            return;
        }
        self.commit = end;
        let (term, size) = (self.state.term, voters.len());
        out.event(|| {
            let counted = synced.iter().filter(|(_, synced)| *synced >= end);
            let counted = counted.map(|(voter, _)| (voter.node, voter.incarnation)).collect();
            Event::QuorumCommitted { term, end, counted, voters: size }
        });
        // Followers apply no sooner than they hear of it.
        self.send_to_all(true, out);
    }
}
