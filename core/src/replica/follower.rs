//! A follower: matches pushes against its log, appends, and acknowledges what it has synced.
//!
//! Two logs that have the same epoch at one offset are equal up to there, since only one leader writes in an epoch and
//! each log takes a record only after the one before it matched. So a follower compares epochs, never high watermarks,
//! and it cuts only what the leader's log provably does not hold: what has another epoch than the leader's record at the
//! same offset, and what is older than the leader's epoch at or past that epoch's start. A push that ends does not
//! mean that the leader's log ends.
//!
//! It cuts at borders of batches only, which it knows where epochs change. So where the record before a push is of an
//! older epoch than the leader's, nothing is cut yet: the leader steps back by the hint, and the push that then matches
//! shows where its own log goes on differently.

use milena_wire::batch::{self, BatchHeader};

use super::batches;
use super::message::{Acknowledge, Answer, Push};
use super::progress::misses;
use super::{Context, Replica, Role, epoch_before};
use crate::local::Member;
use crate::storage::{Beginning, Log};
use crate::trace::{Event, Mark};
use crate::{Epoch, LogLevel, NodeId, Offset};

/// Whether a batch says nothing but that there were records of one epoch.
fn is_covering(header: &BatchHeader) -> bool {
    header.records_count == 0 && header.producer_id < 0
}

/// What a follower knows in one leader epoch.
#[derive(Debug)]
pub(super) struct Follower {
    /// Who leads.
    pub leader: NodeId,
    /// In which epoch.
    pub epoch: Epoch,
    /// Up to where its log is known to be the leader's; none before a push of this epoch matched.
    matched: Option<Offset>,
    /// Where the last push that matched began, and of which epoch the leader says the record before it is: at this log's start
    /// nobody else knows.
    before_start: Option<(Offset, Epoch)>,
    /// The end that was last acknowledged.
    acknowledged: Option<Offset>,
    /// The last exchange that it has heard of.
    exchange: u64,
    /// Whether the leader waits for an answer though nothing new was synced.
    owes: bool,
}

impl Replica {
    pub(super) fn become_follower(&mut self, cx: &mut Context, leader: NodeId, epoch: Epoch) {
        self.role = Role::Follower(Follower {
            leader,
            epoch,
            matched: None,
            before_start: None,
            acknowledged: None,
            exchange: 0,
            owes: false,
        });
        let log = self.log;
        cx.out.event(|| Event::Following { log, epoch, leader });
    }

    /// Takes a push, as follower of the leader that it is from; gives it back where there is no room for its records.
    pub fn on_push(&mut self, cx: &mut Context, from: NodeId, push: Push) -> Option<Push> {
        let Role::Follower(follower) = &mut self.role else { return None };
        let registered = cx.host.image.brokers.get(&from).map(|broker| broker.epoch);
        if cx.host.acting() != Some(push.follower_epoch)
            || (from, follower.leader) != (push.leader.0, from)
            || registered != Some(push.leader.1)
            || follower.epoch != push.leader_epoch
        {
            return None;
        }
        follower.exchange = follower.exchange.max(push.exchange);
        if push.base < 0 {
            self.refuse(cx, &push);
            return None;
        }
        if let Some(beginning) = &push.begin {
            self.begin_at(cx, &push, beginning);
            return None;
        }
        let log = cx.host.store.log(self.log).expect("a follower has a log");
        if !push.records.is_empty()
            && misses(log.end(), log.dropped(), push.dropped)
            && !self.is_eligible(cx)
        {
            // It left before this log began again.
            return None;
        }
        match self.find_match(cx, &push) {
            Ok(()) if !push.records.is_empty() && !cx.host.store.has_room() => {
                cx.out.event(|| Event::Sometimes(Mark::ReplicaPushWithoutRoom));
                return Some(push);
            }
            Ok(()) => self.take_records(cx, &push),
            Err(None) => {}
            Err(Some((hint, last_epoch))) => {
                cx.out.event(|| Event::Sometimes(Mark::ReplicaMismatch));
                self.answer(cx, Answer::Mismatch { base: push.base, hint, last_epoch });
            }
        }
        None
    }

    /// Whether the record before the push is here; where the leader should look next if not, unless the push is refused.
    fn find_match(&mut self, cx: &mut Context, push: &Push) -> Result<(), Option<(Offset, Epoch)>> {
        let log = cx.host.store.log(self.log).expect("a follower has a log");
        if push.base > log.end() {
            return Err(Some((log.end(), epoch_before(log, log.end()).unwrap_or(-1))));
        }
        // What lies below the log start was committed, and so is the leader's too. Where the leader no longer has the record
        // before the push it vouches for this replica, see `Push::previous_epoch`.
        if push.base <= log.start() || push.previous_epoch < 0 {
            return Ok(());
        }
        let own = epoch_before(log, push.base).unwrap_or(-1);
        if own == push.previous_epoch {
            return Ok(());
        }
        if own > push.previous_epoch {
            // The leader's records up to the push are at most of that epoch: all of ours past its end are not the leader's.
            let to = log.end_of_epoch(push.previous_epoch).1.max(log.start());
            if !self.truncate(cx, to, push.leader.0) {
                return Err(None);
            }
            let log = cx.host.store.log(self.log).expect("a follower has a log");
            return Err(Some((to, epoch_before(log, to).unwrap_or(-1))));
        }
        let hint = push.base - 1;
        Err(Some((hint, epoch_before(log, hint).unwrap_or(-1))))
    }

    fn take_records(&mut self, cx: &mut Context, push: &Push) {
        let id = self.log;
        if batches::end(&push.records).is_err() {
            return self.refuse(cx, push);
        }
        let mut at = push.base;
        let mut appended = false;
        for batch in batches::split(&push.records).flatten() {
            let header = &batch.header;
            let (base, next, epoch) =
                (header.base_offset, header.next_offset(), header.partition_leader_epoch);
            if base != at || next <= base || epoch < 0 || epoch > push.leader_epoch {
                return self.refuse(cx, push);
            }
            let log = cx.host.store.log(id).expect("a follower has a log");
            at = next;
            if next <= log.start() {
                continue;
            }
            if base < log.end() {
                if epoch_before(log, base + 1) == Some(epoch) && next <= log.end() {
                    continue;
                }
                if is_covering(header) {
                    if !self.take_rest(cx, push, header) {
                        return;
                    }
                    appended = true;
                    continue;
                }
                if base < log.start() || epoch_before(log, base + 1) == Some(epoch) {
                    return self.refuse(cx, push);
                }
                if !self.truncate(cx, base, push.leader.0) {
                    return;
                }
            }
            // It came over a network, and from here on it counts as a copy.
            let whole = batch.join();
            if batch::validate(&whole).is_err() || epoch < self.last_epoch(cx) {
                return self.refuse(cx, push);
            }
            let (wall, committed) = (cx.now.wall, self.high_watermark);
            cx.host.store.append(id, header, &[whole], wall, committed, false, cx.out);
            appended = true;
        }
        let Role::Follower(follower) = &mut self.role else { return };
        let matched = follower.matched.map_or(at, |before| before.max(at));
        follower.matched = Some(matched);
        if push.previous_epoch >= 0 {
            follower.before_start = Some((push.base, push.previous_epoch));
        }
        follower.owes |= !appended;
        if matched >= push.epoch_start {
            let log = cx.host.store.log(id).expect("a follower has a log");
            if let Some(to) = log.first_older(push.epoch_start, push.leader_epoch)
                && !self.truncate(cx, to, push.leader.0)
            {
                return;
            }
        }
        self.learn_bounds(cx, push, matched);
        self.acknowledge(cx);
    }

    /// Takes of a batch that only covers offsets those that this log does not have. It begins below this log's end, since the
    /// leader's cleaner has put one batch where there were several; what this log has of its epoch is the leader's. Whether
    /// that went well.
    fn take_rest(&mut self, cx: &mut Context, push: &Push, header: &BatchHeader) -> bool {
        let (id, epoch) = (self.log, header.partition_leader_epoch);
        let log = cx.host.store.log(id).expect("a follower has a log");
        // The leader's records there are all of this epoch: from the first one here that is of another, none is the leader's.
        let from = header.base_offset.max(log.start());
        let to = if log.epoch_at(from) == Some(epoch) { log.end_of_epoch(epoch).1 } else { from };
        if to < log.end() && !self.truncate(cx, to, push.leader.0) {
            return false;
        }
        let log = cx.host.store.log(id).expect("a follower has a log");
        let (end, next) = (log.end(), header.next_offset());
        if end >= next {
            return true;
        }
        if epoch < log.last_epoch() {
            self.refuse(cx, push);
            return false;
        }
        let rest = batch::covering(end, next, epoch);
        let header = BatchHeader::parse(&rest).expect("a batch of ours");
        let (wall, committed) = (cx.now.wall, self.high_watermark);
        cx.host.store.append(id, &header, &[rest], wall, committed, false, cx.out);
        cx.out.event(|| Event::Sometimes(Mark::ReplicaTookRestOfCover));
        true
    }

    fn last_epoch(&self, cx: &Context) -> Epoch {
        cx.host.store.log(self.log).expect("a follower has a log").last_epoch()
    }

    /// A follower's high watermark and log start follow the leader's, as far as its log is matched.
    fn learn_bounds(&mut self, cx: &mut Context, push: &Push, matched: Offset) {
        let end = cx.host.store.log(self.log).expect("a follower has a log").end();
        let committed = push.high_watermark.min(matched).min(end);
        self.high_watermark = self.high_watermark.max(committed);
        let start = push.log_start.min(self.high_watermark);
        if cx.host.store.log(self.log).is_some_and(|log| start > log.start()) {
            cx.host.store.trim(self.log, start, cx.out);
        }
    }

    /// Takes "begin at S", which drops everything. Only outside ISR and ELR, and not if this log has come that far in this
    /// epoch and misses no tombstone: then it is an old one, come late.
    fn begin_at(&mut self, cx: &mut Context, push: &Push, beginning: &Beginning) {
        if self.is_eligible(cx) {
            return;
        }
        let Role::Follower(follower) = &mut self.role else { return };
        let log = cx.host.store.log(self.log).expect("a follower has a log");
        // What it has not matched in this epoch may not be the leader's.
        let end = follower.matched.map_or(log.end(), |matched| matched.min(log.end()));
        let missed = misses(end, log.dropped(), beginning.dropped);
        if missed || follower.matched.is_none_or(|matched| matched < push.base) {
            let (log, wall) = (self.log, cx.now.wall);
            let begun = cx.host.store.begin_at(log, push.base, beginning, wall, cx.out);
            let Some(barrier) = begun else { return self.refuse(cx, push) };
            follower.matched = Some(push.base);
            follower.acknowledged = None;
            self.barrier = barrier;
            self.high_watermark = push.base;
            cx.out.event(|| Event::Sometimes(Mark::ReplicaBeginAt));
        }
        let Role::Follower(follower) = &mut self.role else { return };
        follower.owes = true;
        self.acknowledge(cx);
    }

    /// Whether it is in ISR or ELR, as far as is known.
    fn is_eligible(&self, cx: &Context) -> bool {
        let me = cx.host.config.node;
        self.partition().is_none_or(|p| p.isr.contains(&me) || p.elr.contains(&me))
    }

    /// Acknowledges if there is something to say: only what is synced and matched in this epoch, and only once every
    /// truncation is synced too.
    pub(super) fn acknowledge(&mut self, cx: &mut Context) {
        let Role::Follower(follower) = &mut self.role else { return };
        let Some(matched) = follower.matched else { return };
        let store = &cx.host.store;
        let log = store.log(self.log).expect("a follower has a log");
        if self.barrier > store.flushed() || log.is_damaged() {
            return;
        }
        let end = log.flushed_end().min(matched);
        if !follower.owes && follower.acknowledged.is_some_and(|before| end <= before) {
            return;
        }
        // A log that begins at `end` knows no record before it, while the leader may have it still and compares. All below a
        // log start was committed, so the leader's own word is the true one.
        let told = || follower.before_start.filter(|(base, _)| *base == end && end == log.start());
        let own = epoch_before(log, end).or_else(|| told().map(|(_, epoch)| epoch));
        let last_epoch = own.unwrap_or(-1);
        follower.owes = false;
        follower.acknowledged = Some(end);
        self.answer(cx, Answer::Synced { end, last_epoch, matched });
    }

    fn answer(&self, cx: &mut Context, answer: Answer) {
        let (Role::Follower(follower), Some(broker_epoch), Some(replica)) =
            (&self.role, cx.host.acting(), self.life)
        else {
            return;
        };
        let Follower { epoch, leader, exchange, .. } = *follower;
        let log = self.log;
        let dropped = cx.host.store.log(log).map_or(0, Log::dropped);
        if let Answer::Synced { end, last_epoch, .. } = answer {
            cx.out.event(|| Event::Acknowledged { log, epoch, leader, end, last_epoch, replica });
        }
        let member = Member {
            node: cx.host.config.node,
            broker_epoch,
            incarnation: cx.host.incarnation,
            replica,
        };
        let message = super::message::ReplicaMessage::Acknowledge(Acknowledge {
            cluster: cx.host.image.cluster,
            log,
            leader_epoch: epoch,
            follower: member,
            exchange,
            dropped,
            answer,
        });
        cx.out.send(leader, message);
    }

    /// A push that no leader of ours makes: not taken, and the operator is told.
    fn refuse(&self, cx: &mut Context, push: &Push) {
        let line = format!(
            "partition {:?}: a push from node {} at offset {} is malformed, ignored",
            self.log, push.leader.0, push.base
        );
        cx.out.log(LogLevel::Error, line);
    }
}
