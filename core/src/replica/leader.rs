//! A leader: appends, pushes to every follower while its own sync runs, moves the high watermark, proposes in-sync sets.
//!
//! A proposal is made once and then stands: it counts in the maximal set until metadata with a newer partition epoch
//! arrives, whatever became of the message, since a refused one may be the copy of one that was accepted. While one
//! stands, the next is said again and again, computed anew each time: to withdraw is to propose the present set.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use milena_wire::batch::{self, BatchHeader};

use super::batches;
use super::message::{Acknowledge, Answer, Push, ReplicaMessage};
use super::progress::{Flow, Progress};
use super::{Asked, Context, Host, Replica, Role, epoch_before, watermark};
use crate::image::Partition;
use crate::local::{AlterPartition, LocalMessage};
use crate::storage::{KnownBatch, Log, Read, ReadError, SequenceError, Ticket};
use crate::trace::{Event, Mark};
use crate::{Epoch, Instant, NodeId, Now, Offset, Place};

/// Where a batch stands that a leader was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placed {
    /// When it was put at the end.
    Now {
        /// Offset of its first record.
        base: Offset,
        /// Offset after its last.
        next: Offset,
    },
    /// When it is a retry of a batch that the log has, safe or not yet.
    Before(KnownBatch),
}

/// What a leader knows in its epoch.
#[derive(Debug)]
pub(super) struct Leader {
    /// Its epoch.
    pub epoch: Epoch,
    /// Where its epoch starts: all records of older epochs are below.
    pub start: Offset,
    /// The committed in-sync set, of which `partition_epoch` is the number.
    isr: Vec<NodeId>,
    min_isr: u16,
    partition_epoch: i32,
    followers: BTreeMap<NodeId, Progress>,
    /// Every member of a proposal made at this partition epoch; empty while none stands.
    standing: Vec<NodeId>,
    /// When the proposal is made again, if one stands.
    propose_at: Option<Instant>,
    /// Exchanges begun in this epoch. Each asks the followers whether they still follow this leader.
    exchange: u64,
}

impl Leader {
    /// The committed set and whatever any standing proposal adds.
    pub fn maximal(&self) -> Vec<NodeId> {
        watermark::maximal(&self.isr, &self.standing)
    }

    /// Up to where the followers that copy the log have come, of those out of the sets the one that is furthest behind.
    pub fn copied_to(&self) -> Option<Offset> {
        let copies = |(node, progress): (&NodeId, &Progress)| {
            let is_heard = progress.reachable && !progress.heads_only && !self.isr.contains(node);
            progress.acknowledged.filter(|_| is_heard)
        };
        self.followers.iter().filter_map(copies).min()
    }

    pub fn check_invariants(&self, log: &Log) {
        assert!(self.start <= log.end(), "an epoch starts in the log");
        for progress in self.followers.values() {
            assert!(
                progress.acknowledged <= Some(log.end()),
                "no follower has more than the leader"
            );
            assert!(progress.next <= log.end(), "pushes come from the log");
        }
        assert_eq!(self.standing.is_empty(), self.propose_at.is_none(), "a proposal is said again");
    }
}

impl Replica {
    pub(super) fn become_leader(&mut self, cx: &mut Context, partition: &Partition) {
        let log = cx.host.store.log(self.log).expect("made before");
        let (id, epoch) = (self.log, partition.leader_epoch);
        let (start, end) = (log.end_of_epoch(epoch - 1).1, log.end());
        self.high_watermark = self.high_watermark.max(log.start());
        self.role = Role::Leader(Box::new(Leader {
            epoch,
            start,
            isr: Vec::new(),
            min_isr: 0,
            partition_epoch: -1,
            followers: BTreeMap::new(),
            standing: Vec::new(),
            propose_at: None,
            exchange: 0,
        }));
        cx.out.event(|| Event::Leading { log: id, epoch, start: end });
        self.update_leader(cx, partition);
    }

    /// Takes the partition's record and the followers' lives from the image.
    pub(super) fn update_leader(&mut self, cx: &mut Context, partition: &Partition) {
        let Role::Leader(leader) = &mut self.role else { return };
        if partition.partition_epoch > leader.partition_epoch {
            leader.partition_epoch = partition.partition_epoch;
            leader.isr.clone_from(&partition.isr);
            leader.min_isr = partition.min_isr;
            leader.standing.clear();
            leader.propose_at = None;
        }
        let me = cx.host.config.node;
        let (now, end) = (cx.now.mono, cx.host.store.log(self.log).map_or(0, Log::end));
        leader.followers.retain(|node, _| partition.replicas.contains(node));
        for node in partition.replicas.iter().copied().filter(|node| *node != me) {
            let member = cx.host.member(node, partition);
            let reachable = cx.host.image.brokers.get(&node).is_some_and(|broker| !broker.fenced);
            match leader.followers.get_mut(&node) {
                // Another life of it: what the former one acknowledged is not known of this one.
                Some(known) if known.member == member => {
                    if known.reachable != reachable {
                        known.reachable = reachable;
                        known.probe(known.acknowledged.unwrap_or(end));
                    }
                }
                Some(_) | None => {
                    leader.followers.insert(node, Progress::new(member, reachable, end, now));
                }
            }
        }
        self.advance(cx);
        self.pump(cx);
    }

    /// Puts a validated batch at the end of the log, unless it is there already or not the next one of its producer. Pushes go out
    /// with the next [`Replica::pump`].
    ///
    /// # Panics
    /// If it does not lead.
    pub fn append(&mut self, cx: &mut Context, batch: &Bytes) -> Result<Placed, SequenceError> {
        let Role::Leader(leader) = &mut self.role else { panic!("only a leader appends") };
        let mut header = BatchHeader::parse(batch).expect("a validated batch");
        let log = cx.host.store.log(self.log).expect("a leader has a log");
        if let Some(original) = log.judge(&header)? {
            return Ok(Placed::Before(original));
        }
        let base = log.end();
        (header.base_offset, header.partition_leader_epoch) = (base, leader.epoch);
        let next = header.next_offset();
        let pieces = batch::assign(batch, base, leader.epoch);
        let (wall, committed) = (cx.now.wall, self.high_watermark);
        cx.host.store.append(self.log, &header, &pieces, wall, committed, true, cx.out);
        self.tally.records_in += (next - base) as u64;
        self.tally.bytes_in += batch.len() as u64;
        for progress in leader.followers.values_mut() {
            progress.on_appended(cx.now.mono, next);
        }
        Ok(Placed::Now { base, next })
    }

    /// Begins an exchange: every follower is asked with the next push, and one goes out for it. Its number; 0 if it does not lead.
    pub fn begin_exchange(&mut self) -> u64 {
        let Role::Leader(leader) = &mut self.role else { return 0 };
        leader.exchange += 1;
        leader.exchange
    }

    /// The last exchange that every other member of the maximal in-sync set has answered. Until it began nobody else had
    /// committed anything: a later leader is a member of that set, or follows one that was, and commits nothing before that
    /// member has turned to the later epoch, in which it answers this leader no more.
    pub fn confirmed(&self, host: &Host) -> u64 {
        let Role::Leader(leader) = &self.role else { return 0 };
        if host.acting().is_none() || leader.isr.len() < usize::from(leader.min_isr.max(1)) {
            return 0;
        }
        let answered = |node: &NodeId| leader.followers.get(node).map_or(0, |known| known.answered);
        let maximal = leader.maximal();
        let others = maximal.iter().filter(|node| **node != host.config.node);
        others.map(answered).min().unwrap_or(leader.exchange)
    }

    /// Moves the high watermark as far as the maximal in-sync set has flushed.
    pub(super) fn advance(&mut self, cx: &mut Context) {
        let Role::Leader(leader) = &mut self.role else { return };
        let me = cx.host.config.node;
        let own = cx.host.store.log(self.log).map_or(0, Log::flushed_end);
        let flushed = |node: NodeId| {
            if node == me {
                Some(own)
            } else {
                leader.followers.get(&node).and_then(|progress| progress.acknowledged)
            }
        };
        let moved = watermark::high_watermark(
            self.high_watermark,
            &leader.isr,
            &leader.standing,
            leader.min_isr,
            flushed,
        );
        if moved == self.high_watermark {
            return;
        }
        self.high_watermark = moved;
        let log = self.log;
        cx.out.event(|| Event::HighWatermark {
            log,
            epoch: leader.epoch,
            offset: moved,
            isr: leader.isr.clone(),
            maximal: leader.maximal(),
            min_isr: leader.min_isr,
            partition_epoch: leader.partition_epoch,
        });
        if leader.standing.iter().any(|node| !leader.isr.contains(node)) {
            cx.out.event(|| Event::Sometimes(Mark::ReplicaMaximalIsrDiffers));
        }
    }

    /// Takes an acknowledgement, as leader.
    pub fn on_acknowledge(&mut self, cx: &mut Context, from: NodeId, acknowledge: Acknowledge) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.followers.get_mut(&from) else { return };
        if acknowledge.leader_epoch != leader.epoch
            || progress.member != Some(acknowledge.follower)
            || cx.host.acting().is_none()
        {
            return;
        }
        progress.answered = progress.answered.max(acknowledge.exchange.min(leader.exchange));
        let log = cx.host.store.log(self.log).expect("a leader has a log");
        match acknowledge.answer {
            Answer::Synced { end, .. } if !progress.is_present(end, acknowledge.dropped) => return,
            Answer::Synced { end, last_epoch, matched } => {
                progress.dropped = Some(acknowledge.dropped);
                // Below the log start nothing can be compared, and nothing counts.
                let fits = end == log.start()
                    || end > log.start()
                        && end <= log.end()
                        && epoch_before(log, end) == Some(last_epoch);
                if end < log.start() && progress.acknowledged.is_none_or(|before| before < end) {
                    progress.probe(end);
                } else if fits {
                    let retry_ms = cx.host.config.replication.push_retry_ms;
                    let (mono, log_end) = (cx.now.mono, log.end());
                    if progress.on_synced(mono, end, matched, log_end, retry_ms) {
                        let (log, epoch) = (self.log, leader.epoch);
                        cx.out.event(|| Event::FollowerMoved {
                            log,
                            epoch,
                            follower: from,
                            end,
                            last_epoch,
                        });
                        self.advance(cx);
                    }
                } else {
                    cx.out.event(|| Event::Sometimes(Mark::ReplicaAcknowledgementDoesNotFit));
                    return;
                }
            }
            Answer::Mismatch { base, hint, last_epoch } => {
                let late = match progress.flow {
                    Flow::Probe => progress.probed != Some(base),
                    Flow::Stream => progress.acknowledged.is_some_and(|end| base <= end),
                };
                if late || hint < 0 || hint >= base {
                    return;
                }
                progress.dropped = Some(acknowledge.dropped);
                progress.heads_only = false;
                // Without an epoch the hint is the follower's log start, below which all was committed: it takes a push there,
                // and one that ends lower could never be compared with what it holds.
                let agree = match last_epoch {
                    -1 => hint,
                    epoch => hint.min(log.end_of_epoch(epoch).1),
                };
                let agree = agree.min(log.end());
                progress.probe(agree.max(progress.acknowledged.unwrap_or(0)));
            }
        }
        self.pump(cx);
    }

    /// Takes the outcome of a read for a follower, as leader.
    pub fn on_read(
        &mut self,
        cx: &mut Context,
        follower: NodeId,
        ticket: Ticket,
        result: Result<Vec<Bytes>, ReadError>,
    ) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.followers.get_mut(&follower) else { return };
        if progress.reading != Some(ticket) {
            return;
        }
        progress.reading = None;
        match result {
            Ok(records) => self.send_records(cx, follower, records),
            // Trimmed meanwhile; or damaged, which the store says apart.
            Err(ReadError::Gone | ReadError::Damaged) => {}
        }
        self.pump(cx);
    }

    pub(super) fn lead_timeout(&mut self, cx: &mut Context) {
        let now = cx.now.mono;
        let Role::Leader(leader) = &mut self.role else { return };
        for (node, progress) in &mut leader.followers {
            if progress.deadline.is_some_and(|at| at <= now) {
                progress.probe(progress.acknowledged.unwrap_or(progress.next));
                progress.heads_only = true;
                cx.host.turns.give_back(Asked::Follower(*node), self.log);
            }
        }
        self.pump(cx);
    }

    pub(super) fn lead_due(&self, host: &Host) -> Option<Instant> {
        let Role::Leader(leader) = &self.role else { return None };
        let log = host.store.log(self.log)?;
        let config = &host.config.replication;
        let proposes = !host.turns.stands(Asked::Controller, self.log);
        let followers = leader.followers.iter().flat_map(|(node, progress)| {
            let asks = !host.turns.stands(Asked::Follower(*node), self.log);
            let lag = (proposes && leader.may_shrink(*node))
                .then_some(progress.behind)
                .flatten()
                .map(|(_, since)| since.after_ms(config.lag_ms_max));
            let news = (asks
                && progress.in_step(log)
                && progress.told != (self.high_watermark, log.start()))
                .then(|| progress.sent_at.after_ms(config.push_retry_ms));
            let asked = (asks && progress.owes_answer(leader.exchange))
                .then(|| progress.sent_at.after_ms(config.push_retry_ms));
            [progress.deadline.filter(|_| progress.reachable), lag, news, asked]
        });
        followers.flatten().chain(leader.propose_at).min()
    }

    /// Whether it has asked somebody something and waits for the answer.
    pub fn waits_for(&self, asked: Asked) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        match asked {
            Asked::Controller => leader.propose_at.is_some(),
            Asked::Follower(node) => leader.followers.get(&node).is_some_and(Progress::is_probed),
        }
    }

    /// Sends what can be sent to followers, and proposes the in-sync set that now fits.
    pub fn pump(&mut self, cx: &mut Context) {
        let Role::Leader(leader) = &self.role else { return };
        let mut next = leader.followers.keys().next().copied();
        while let Some(node) = next {
            while self.push_once(cx, node) {}
            next = self.follower_after(node);
        }
        self.propose(cx);
    }

    fn follower_after(&self, node: NodeId) -> Option<NodeId> {
        let Role::Leader(leader) = &self.role else { return None };
        let later = (Bound::Excluded(node), Bound::Unbounded);
        leader.followers.range(later).next().map(|(node, _)| *node)
    }

    /// Sends one push or begins one read, if the follower can take more. Whether it is worth trying again at once.
    fn push_once(&mut self, cx: &mut Context, node: NodeId) -> bool {
        let Role::Leader(leader) = &mut self.role else { return false };
        let progress = leader.followers.get_mut(&node).expect("asked for by its key");
        let config = &cx.host.config.replication;
        let log = cx.host.store.log(self.log).expect("a leader has a log");
        if !progress.reachable || progress.member.is_none() || progress.reading.is_some() {
            return false;
        }
        let news = progress.in_step(log)
            && progress.told != (self.high_watermark, log.start())
            && progress.sent_at.after_ms(config.push_retry_ms) <= cx.now.mono;
        let asks = progress.owes_answer(leader.exchange)
            && (progress.asked < leader.exchange
                || progress.sent_at.after_ms(config.push_retry_ms) <= cx.now.mono);
        let wanted = match progress.flow {
            Flow::Probe => progress.deadline.is_none(),
            Flow::Stream => {
                news || asks
                    || progress.next < log.end()
                        && progress.in_flight_bytes() < config.push_window_bytes as usize
            }
        };
        if !wanted {
            return false;
        }
        if progress.flow == Flow::Probe && !cx.host.turns.take(Asked::Follower(node), self.log) {
            cx.out.event(|| Event::Sometimes(Mark::ReplicaWaitsForTurn));
            return false;
        }
        if progress.next < log.start() {
            self.send(cx, node, None, Vec::new());
            return false;
        }
        if progress.heads_only || progress.next == log.end() {
            let base = progress.next;
            self.send(cx, node, Some(base), Vec::new());
            return false;
        }
        let (from, upto, most) = (progress.next, log.end(), config.push_bytes_max);
        match cx.host.store.read(self.log, from, upto, most, cx.out) {
            Read::Now(records) if records.is_empty() => false,
            Read::Now(records) => {
                self.send_records(cx, node, records);
                true
            }
            Read::Later(ticket) => {
                progress.reading = Some(ticket);
                cx.host.reads.push((ticket, self.log, node));
                cx.out.event(|| Event::Sometimes(Mark::ReplicaReadsForFollower));
                false
            }
        }
    }

    /// Pushes what was read.
    fn send_records(&mut self, cx: &mut Context, node: NodeId, records: Vec<Bytes>) {
        // The first batch holds the offset that was asked for, and may begin before it.
        if let Ok(first) = batches::first(&records) {
            self.send(cx, node, Some(first.base_offset), records);
        }
    }

    /// Sends a push; without a base, "begin at the log start".
    fn send(&mut self, cx: &mut Context, node: NodeId, base: Option<Offset>, records: Vec<Bytes>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let log = cx.host.store.log(self.log).expect("a leader has a log");
        let progress = leader.followers.get_mut(&node).expect("asked for by its key");
        let (Some(member), Some(broker_epoch)) = (progress.member, cx.host.acting()) else {
            return;
        };
        let mut base = base.unwrap_or(log.start());
        let mut begin = progress.next < log.start();
        let mut previous_epoch = -1;
        if !begin {
            match epoch_before(log, base) {
                Some(epoch) => previous_epoch = epoch,
                // A member of ISR or ELR holds all that was committed, so all below the log start. Of another it is not known.
                None => {
                    let holds = leader.isr.contains(&node)
                        || self.named.as_ref().is_some_and(|(_, p)| p.elr.contains(&node))
                        || progress.acknowledged >= Some(base);
                    if !holds {
                        (begin, base) = (true, log.start());
                    }
                }
            }
        }
        if begin {
            progress.begin_at(base, log.dropped());
        }
        let is_member = leader.isr.contains(&node)
            || self.named.as_ref().is_some_and(|(_, p)| p.elr.contains(&node));
        // A member has all that was committed, and so all tombstones that were dropped.
        let mut records = records;
        if !begin && !is_member && progress.may_miss(log.dropped()) {
            records = Vec::new();
            if progress.dropped.is_some() {
                (begin, base) = (true, log.start());
                progress.begin_again(base, log.dropped());
                cx.out.event(|| Event::Sometimes(Mark::ReplicaBeginsAgain));
            }
        }
        let begin = begin.then(|| log.beginning_at(base));
        if begin.is_some() {
            records = Vec::new();
        }
        let bytes = records.iter().map(Bytes::len).sum();
        let Ok(end) = batches::end(&records) else { return };
        let end = end.unwrap_or(base);
        let bounds = (self.high_watermark, log.start());
        progress.told = bounds;
        progress.asked = leader.exchange;
        let retry_ms = cx.host.config.replication.push_retry_ms;
        progress.on_sent(cx.now.mono, base, end, bytes, retry_ms);
        let push = Push {
            cluster: cx.host.image.cluster,
            log: self.log,
            leader: (cx.host.config.node, broker_epoch),
            leader_epoch: leader.epoch,
            follower_epoch: member.broker_epoch,
            epoch_start: leader.start,
            base,
            previous_epoch,
            begin,
            dropped: log.dropped(),
            exchange: leader.exchange,
            high_watermark: bounds.0,
            log_start: bounds.1,
            records,
        };
        cx.out.send(node, ReplicaMessage::Push(push));
    }

    /// Proposes the in-sync set that now fits, if it is another one or a proposal stands and its time has come.
    fn propose(&mut self, cx: &mut Context) {
        let Role::Leader(leader) = &self.role else { return };
        let due = match leader.propose_at {
            Some(at) if at > cx.now.mono => None,
            Some(_) => Some(leader.wanted_isr(cx, self.high_watermark).into_owned()),
            None => match leader.wanted_isr(cx, self.high_watermark) {
                Cow::Borrowed(_) => None,
                Cow::Owned(wanted) => Some(wanted),
            },
        };
        let Role::Leader(leader) = &mut self.role else { return };
        let (Some(wanted), Some((_, partition)), Some(broker_epoch)) =
            (due, &self.named, cx.host.acting())
        else {
            return;
        };
        let members: Vec<_> =
            wanted.iter().filter_map(|node| cx.host.member(*node, partition)).collect();
        if members.len() != wanted.len() {
            return;
        }
        if !cx.host.turns.take(Asked::Controller, self.log) {
            cx.out.event(|| Event::Sometimes(Mark::ReplicaWaitsForTurn));
            return;
        }
        if wanted == leader.isr {
            cx.out.event(|| Event::Sometimes(Mark::ReplicaProposalWithdrawn));
        } else if wanted.len() < leader.isr.len() {
            cx.out.event(|| Event::Sometimes(Mark::ReplicaShrinkProposed));
        } else {
            cx.out.event(|| Event::Sometimes(Mark::ReplicaExpandProposed));
        }
        leader.standing.extend_from_slice(&wanted);
        leader.standing.sort_unstable();
        leader.standing.dedup();
        let retry_ms = cx.host.config.replication.push_retry_ms;
        leader.propose_at = Some(cx.now.mono.after_ms(retry_ms));
        let proposal = AlterPartition {
            log: self.log,
            leader: (cx.host.config.node, broker_epoch),
            leader_epoch: leader.epoch,
            partition_epoch: leader.partition_epoch,
            isr: members,
        };
        cx.out.local(Place::Metadata, LocalMessage::AlterPartition(proposal));
    }
}

impl Leader {
    /// The in-sync set as it should be: with those that have caught up in this epoch, without those that have not reached
    /// the leader's end for too long, but never fewer than `min.insync.replicas` by the leader's own will. It is copied where it
    /// is another one than the present.
    fn wanted_isr(&self, cx: &Context, high_watermark: Offset) -> Cow<'_, [NodeId]> {
        let (now, lag_ms_max) = (cx.now, cx.host.config.replication.lag_ms_max);
        let mut wanted = Cow::Borrowed(&self.isr[..]);
        for (node, progress) in &self.followers {
            let lags = progress.lags(now, lag_ms_max);
            let caught_up =
                progress.acknowledged.is_some_and(|end| end >= high_watermark && end >= self.start);
            if self.isr.contains(node) {
                // What is no broker of the cluster any more cannot be named in a proposal.
                let is_gone = progress.member.is_none();
                if is_gone || lags && wanted.len() > usize::from(self.min_isr) {
                    wanted.to_mut().retain(|member| member != node);
                }
            } else if caught_up && progress.reachable && !lags {
                wanted.to_mut().push(*node);
                wanted.to_mut().sort_unstable();
            }
        }
        wanted
    }

    fn may_shrink(&self, node: NodeId) -> bool {
        self.standing.is_empty()
            && self.isr.len() > usize::from(self.min_isr)
            && self.isr.contains(&node)
    }
}

impl Progress {
    /// Whether it has acknowledged everything and only news of high watermark and log start could be sent.
    fn in_step(&self, log: &Log) -> bool {
        self.reachable
            && self.flow == Flow::Stream
            && self.deadline.is_none()
            && self.next == log.end()
    }

    /// Whether an exchange waits for its answer, and a push could ask for it.
    fn owes_answer(&self, exchange: u64) -> bool {
        let can_be_asked = self.reachable && self.member.is_some() && self.reading.is_none();
        can_be_asked && self.answered < exchange
    }

    /// Whether it has not reached the leader's end for too long.
    fn lags(&self, now: Now, lag_ms_max: u64) -> bool {
        self.behind.is_some_and(|(_, since)| since.after_ms(lag_ms_max) <= now.mono)
    }
}
