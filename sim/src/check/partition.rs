//! The P rules, at the events that could break them.

use milena_core::{Epoch, LogId, NodeId, Offset};

use super::marks::Seen;
use super::replica::Batch;
use super::{Checked, Checks, QUORUM, Violation};
use crate::disk::Disk;

/// Key of a (epoch, offset) pair.
fn key(epoch: Epoch, base: Offset) -> u64 {
    ((epoch as u64) << 40) ^ base as u64
}

/// The sets that a leader counted.
pub(super) struct Sets<'a> {
    pub(super) isr: &'a [NodeId],
    pub(super) maximal: &'a [NodeId],
    pub(super) min_isr: u16,
}

impl Checks {
    /// P9, P10, P16, P19; R6 for the metadata log.
    pub(super) fn on_appended(
        &mut self,
        node: usize,
        log: LogId,
        batch: Batch,
        leading: bool,
    ) -> Checked {
        let log = self.log_index(log);
        self.nodes[node].locations.expect(batch.crc);
        let barrier = self.nodes[node].barrier.get(&(log as u64)).copied();
        let replica = self.replica(node, log);
        let (end, empty, epoch) = (replica.end, replica.batches.is_empty(), replica.epoch);
        let (is_leading, damaged) = (replica.leading, replica.damaged);
        let before = replica.batches.last().map_or(-1, |batch| batch.epoch);
        let rule = |quorum: &'static str, partition: &'static str| {
            if log == QUORUM { quorum } else { partition }
        };
        let at = |checks: &Checks| {
            format!(
                "{} appends {}..{} of epoch {}",
                checks.at(node, log),
                batch.base,
                batch.next,
                batch.epoch
            )
        };
        if batch.base != end && !(empty && end == 0) {
            return Err(Violation::new("P16", format!("{} at log end {end}", at(self))));
        }
        if batch.epoch < before {
            return Err(Violation::new("P9", format!("{} after epoch {before}", at(self))));
        }
        if damaged {
            return Err(Violation::new("P21", format!("{} to a damaged replica", at(self))));
        }
        if log != QUORUM {
            if leading && is_leading != Some(batch.epoch) {
                return Err(Violation::new(
                    "P10",
                    format!("{} as leader, and leads {is_leading:?}", at(self)),
                ));
            }
            if !leading && batch.epoch > epoch {
                return Err(Violation::new(
                    "P10",
                    format!("{} while it follows epoch {epoch}", at(self)),
                ));
            }
            if leading && barrier.is_some_and(|barrier| batch.epoch <= barrier) {
                return Err(Violation::new(
                    "P19",
                    format!("{} as leader, in force when it last registered", at(self)),
                ));
            }
        }
        self.leaves_behind(node, log, leading);
        if !leading && self.stands_for_others(node, log, &batch) {
            return Ok(());
        }
        self.replica(node, log).append(batch);
        let entry = (batch.crc, batch.next, before);
        let known = *self.logs[log].unique.entry(key(batch.epoch, batch.base)).or_insert(entry);
        if (known.0, known.1) != (batch.crc, batch.next) {
            return Err(Violation::new(
                rule("R6", "P9"),
                format!(
                    "{} with content {:08x} where {:08x} was known",
                    at(self),
                    batch.crc,
                    known.0
                ),
            ));
        }
        if before != -1 && known.2 != -1 && known.2 != before {
            return Err(Violation::new(
                rule("R6", "P7"),
                format!("{} after epoch {before}, elsewhere after epoch {}", at(self), known.2),
            ));
        }
        Ok(())
    }

    /// P8, P21; R5 and R10 for the metadata log. A replica that nobody counts on and that has not heard of the epoch in which a
    /// record was committed may still take an earlier leader's word against it.
    pub(super) fn on_truncated(&mut self, node: usize, log: LogId, to: Offset) -> Checked {
        let log = self.log_index(log);
        let at = format!("{} truncates to {to}", self.at(node, log));
        if log == QUORUM {
            let ghost = &self.nodes[node];
            if ghost.quorum_leader.is_some() {
                return Err(Violation::new("R5", format!("{at} while it leads")));
            }
            if to < ghost.quorum_committed {
                return Err(Violation::new(
                    "R10",
                    format!("{at}, below its commit offset {}", ghost.quorum_committed),
                ));
            }
        }
        let counts = log == QUORUM || self.is_eligible(node, log);
        let truth = &self.logs[log];
        let replica = self.nodes[node].logs.get_mut(log).and_then(Option::as_mut);
        let Some(replica) = replica else { return Ok(()) };
        replica.agree(&truth.committed);
        let (agreed, epoch) = (replica.agrees_to, replica.epoch);
        let is_known = |batch: &Batch| {
            let index = truth.committed.partition_point(|committed| committed.base < batch.base);
            counts || truth.committed_in[index] <= epoch
        };
        let removed = replica.truncate(to);
        let lost = removed.iter().find(|batch| batch.base < agreed && is_known(batch)).copied();
        self.marks.seen(Seen::Truncation);
        if let Some(lost) = lost
            && !truth.deleted
        {
            let property = if log == QUORUM { "R7" } else { "P8" };
            return Err(Violation::new(
                property,
                format!("{at} and so removes {}..{}, which is committed", lost.base, lost.next),
            ));
        }
        self.eligible_holds_all(node, log)
    }

    /// P16; P21: followers trim what their leader has trimmed, and leaders only where the topic has a retention.
    pub(super) fn on_trimmed(&mut self, node: usize, log: LogId, start: Offset) -> Checked {
        let log = self.log_index(log);
        let at = format!("{} moves its log start to {start}", self.at(node, log));
        let keeps = self.keeps_everything(log);
        let committed = self.logs[log].committed_end();
        let replica = self.replica(node, log);
        if start < replica.start {
            return Err(Violation::new("P16", format!("{at} from {}", replica.start)));
        }
        let taken = match replica.leading {
            Some(_) => self.retention_may_take(node, log, start),
            None => Ok(()),
        };
        let replica = self.replica(node, log);
        replica.start = start;
        let leads = replica.leading.is_some();
        if start > committed && !self.logs[log].deleted && log != QUORUM {
            return Err(Violation::new(
                "P16",
                format!("{at}, past {committed}, up to which it is committed"),
            ));
        }
        self.marks.seen(Seen::LogTrimmed);
        if keeps {
            return Err(Violation::new("P16", format!("{at}, and its topic has no retention")));
        }
        taken?;
        let truth = &mut self.logs[log];
        if leads || log == QUORUM {
            truth.trimmed_to = truth.trimmed_to.max(start);
        } else if start > truth.trimmed_to && !truth.deleted {
            return Err(Violation::new(
                "P21",
                format!("{at}, and no leader has trimmed past {}", truth.trimmed_to),
            ));
        }
        Ok(())
    }

    /// Whether nothing of a log may ever be trimmed: its topic limits neither bytes nor time. A week, as long as records are
    /// kept by default, no run lasts.
    fn keeps_everything(&self, log: usize) -> bool {
        let topic = self.logs[log].id.topic;
        let found = self.image.as_ref().and_then(|image| image.topics.get(&topic));
        let limits = ["retention.bytes", "retention.ms"];
        let unlimited = |limit: Option<&String>| limit.is_none_or(|limit| limit == "-1");
        let policy = |policy: &String| !policy.contains("delete");
        found.is_some_and(|topic| {
            topic.configs.get("cleanup.policy").is_some_and(policy)
                || limits.iter().all(|name| unlimited(topic.configs.get(*name)))
        })
    }

    /// P21: what is eligible discards nothing; P16: nobody begins past what was trimmed. R5 and R10 for the metadata log.
    pub(super) fn on_reset(&mut self, node: usize, log: LogId, start: Offset) -> Checked {
        let log = self.log_index(log);
        let eligible = self.is_eligible(node, log);
        if log == QUORUM {
            self.metadata_may_begin_again(node, start)?;
        }
        let replica = self.replica(node, log);
        let held = replica.end;
        replica.reset(start);
        self.marks.seen(Seen::LogBegunAgain);
        let truth = &self.logs[log];
        if start > truth.trimmed_to && log != QUORUM && !truth.deleted {
            return Err(Violation::new(
                "P16",
                format!(
                    "{} begins again at {start}, and no leader has trimmed past {}",
                    self.at(node, log),
                    truth.trimmed_to
                ),
            ));
        }
        let discarded = held.min(truth.committed_end()) > truth.trimmed_to;
        if eligible && discarded && !truth.deleted {
            return Err(Violation::new(
                "P21",
                format!(
                    "{} begins again at {start} while the controller counts on it",
                    self.at(node, log)
                ),
            ));
        }
        Ok(())
    }

    pub(super) fn on_deleted(&mut self, node: usize, log: LogId) -> Checked {
        let log = self.log_index(log);
        let held = self.nodes[node].logs.get(log).and_then(Option::as_ref).map_or(0, |r| r.end);
        let gone =
            self.image.as_ref().is_some_and(|image| image.partition(self.logs[log].id).is_none());
        let kept_elsewhere = !self.is_eligible(node, log);
        if let Some(slot) = self.nodes[node].logs.get_mut(log) {
            *slot = None;
        }
        if held > 0 && !gone && !kept_elsewhere {
            return Err(Violation::new(
                "P21",
                format!("{} deletes a log that still exists", self.at(node, log)),
            ));
        }
        Ok(())
    }

    pub(super) fn on_leading(&mut self, node: usize, log: LogId, epoch: Epoch) -> Checked {
        let log = self.log_index(log);
        let barrier = self.nodes[node].barrier.get(&(log as u64)).copied();
        let replica = self.replica(node, log);
        let damaged = replica.damaged;
        replica.leading = Some(epoch);
        replica.led.push(epoch);
        replica.epoch = replica.epoch.max(epoch);
        replica.high_watermark = 0;
        replica.followers.clear();
        if damaged {
            return Err(Violation::new(
                "P12",
                format!("{} leads epoch {epoch} with damaged data", self.at(node, log)),
            ));
        }
        if barrier.is_some_and(|barrier| epoch <= barrier) {
            return Err(Violation::new(
                "P19",
                format!(
                    "{} leads epoch {epoch}, in force when it last registered",
                    self.at(node, log)
                ),
            ));
        }
        // P2: the leader that the controller names, in its present epoch, has everything.
        let named = self.logs[log].partition.as_ref().is_some_and(|partition| {
            partition.leader == Some(NodeId(node as i32 + 1)) && partition.leader_epoch == epoch
        });
        if named && !self.holds_all(node, log) {
            return Err(Violation::new("P2", self.lacking(node, log, "leads and")));
        }
        Ok(())
    }

    pub(super) fn on_following(&mut self, node: usize, log: LogId, epoch: Epoch) -> Checked {
        let log = self.log_index(log);
        let replica = self.replica(node, log);
        replica.leading = None;
        replica.epoch = replica.epoch.max(epoch);
        Ok(())
    }

    /// P1, P3, P4, P5, P6; D1 for the leader's own copy.
    pub(super) fn on_high_watermark(
        &mut self,
        node: usize,
        disk: &Disk,
        log: LogId,
        epoch: Epoch,
        offset: Offset,
        partition_epoch: i32,
        sets: &Sets<'_>,
    ) -> Checked {
        let log = self.log_index(log);
        let at =
            format!("{} moves its high watermark to {offset} in epoch {epoch}", self.at(node, log));
        self.speaks(node, "moves a high watermark")?;
        let replica = self.replica(node, log);
        if replica.leading != Some(epoch) {
            return Err(Violation::new("P10", format!("{at}, and leads {:?}", replica.leading)));
        }
        if offset < replica.high_watermark {
            return Err(Violation::new("P6", format!("{at} from {}", replica.high_watermark)));
        }
        replica.high_watermark = offset;
        // What counts is what the controller committed as that partition epoch, whatever the leader says of it.
        let Some(record) = self.logs[log].partitions.get(&partition_epoch).cloned() else {
            return Err(Violation::new(
                "P5",
                format!("{at} by partition epoch {partition_epoch}, which nobody committed"),
            ));
        };
        if (sets.isr, sets.min_isr) != (&record.isr, record.min_isr) {
            return Err(Violation::new(
                "P5",
                format!(
                    "{at} by {:?} and a minimum of {}, where the controller says {:?} and {}",
                    sets.isr, sets.min_isr, record.isr, record.min_isr
                ),
            ));
        }
        if record.isr.len() < usize::from(record.min_isr) {
            return Err(Violation::new(
                "P5",
                format!(
                    "{at} with in-sync replicas {:?} where {} are needed",
                    record.isr, record.min_isr
                ),
            ));
        }
        self.must_be_durable(node, disk, log, offset, "P5")?;
        let mut copies = 1_u32 << node;
        let others = record.isr.iter().filter(|member| !sets.maximal.contains(member));
        for member in sets.maximal.iter().chain(others) {
            let index = (member.0 - 1) as usize;
            if index == node {
                continue;
            }
            let synced = self.logs[log].acknowledged.get(&(index, epoch)).copied();
            if synced.is_none_or(|end| end < offset) {
                return Err(Violation::new(
                    "P5",
                    format!("{at}, and node {member} of its maximal set acknowledged {synced:?}"),
                ));
            }
            copies |= 1 << index;
        }
        self.maximal_covers(node, log, epoch, partition_epoch, sets, &at)?;
        self.commit(node, log, epoch, offset, copies, &at)?;
        self.note_records(node, disk, log);
        Ok(())
    }

    /// P4: what the leader waits for covers what the controller counts on.
    fn maximal_covers(
        &self,
        node: usize,
        log: usize,
        epoch: Epoch,
        partition_epoch: i32,
        sets: &Sets<'_>,
        at: &str,
    ) -> Checked {
        let Some(partition) = &self.logs[log].partition else { return Ok(()) };
        let current =
            partition.leader == Some(NodeId(node as i32 + 1)) && partition.leader_epoch == epoch;
        if !current {
            return Ok(());
        }
        let missing = partition
            .isr
            .iter()
            .chain(&partition.elr)
            .find(|member| !sets.maximal.contains(member));
        if let Some(missing) = missing {
            return Err(Violation::new(
                "P4",
                format!(
                    "{at} over {:?} of partition epoch {partition_epoch}, while the controller counts on node \
                     {missing} in partition epoch {}",
                    sets.maximal, partition.partition_epoch
                ),
            ));
        }
        Ok(())
    }

    /// P1: what a leader commits is what is committed, or the first word on it.
    fn commit(
        &mut self,
        node: usize,
        log: usize,
        epoch: Epoch,
        to: Offset,
        copies: u32,
        at: &str,
    ) -> Checked {
        let truth = &mut self.logs[log];
        let replica = self.nodes[node].logs[log].as_mut().expect("a leader has a log");
        replica.agree(&truth.committed);
        let known = truth.committed_end();
        if replica.agrees_to < known.min(to) {
            let mine = replica.at(replica.agrees_to).map(|index| replica.batches[index]);
            return Err(Violation::new(
                "P1",
                format!(
                    "{at}, and holds {mine:?} at {} where something else is committed",
                    replica.agrees_to
                ),
            ));
        }
        if to <= known {
            return Ok(());
        }
        let first = replica.batches.partition_point(|batch| batch.base < known);
        for batch in &replica.batches[first..] {
            if batch.next > to {
                break;
            }
            truth.committed.push(*batch);
            truth.copies.push(copies);
            truth.committed_in.push(epoch);
        }
        replica.agree(&truth.committed);
        self.all_eligible_hold_all(log)
    }

    /// R3: what is acknowledged is on the disk; D2.
    pub(super) fn on_acknowledged(
        &mut self,
        node: usize,
        disk: &Disk,
        log: LogId,
        epoch: Epoch,
        end: Offset,
        last_epoch: Epoch,
    ) -> Checked {
        let log = self.log_index(log);
        self.speaks(node, "acknowledges")?;
        self.must_be_durable(node, disk, log, end, "R3")?;
        let replica = self.replica(node, log);
        let (mine, damaged) = (replica.epoch_at(end - 1), replica.damaged);
        let at_start = end <= replica.start;
        if damaged {
            return Err(Violation::new(
                "P12",
                format!("{} acknowledges {end} with damaged data", self.at(node, log)),
            ));
        }
        // A log that was trimmed or began again knows no epoch before its start; what lies there is committed.
        if mine.is_some_and(|mine| mine != last_epoch) && !(at_start && last_epoch == -1) {
            return Err(Violation::new(
                "R3",
                format!(
                    "{} acknowledges {end} as of epoch {last_epoch}, and holds epoch {mine:?} there",
                    self.at(node, log)
                ),
            ));
        }
        let acknowledged = self.logs[log].acknowledged.entry((node, epoch)).or_insert(0);
        *acknowledged = (*acknowledged).max(end);
        let serving = self.nodes[node].serving;
        self.logs[log].acknowledged_as.insert(node, (epoch, serving));
        Ok(())
    }

    /// P20; P10: the leader leads that epoch still, and the follower has said so in it.
    pub(super) fn on_follower_moved(
        &mut self,
        node: usize,
        log: LogId,
        epoch: Epoch,
        follower: i32,
        end: Offset,
        last_epoch: Epoch,
    ) -> Checked {
        let log = self.log_index(log);
        let replica = self.replica(node, log);
        let (mine, leading) = (replica.epoch_at(end - 1), replica.leading);
        let said = self.logs[log].acknowledged.get(&((follower - 1) as usize, epoch)).copied();
        if leading != Some(epoch) || said.is_none_or(|said| said < end) {
            return Err(Violation::new(
                "P10",
                format!(
                    "{} leads {leading:?} and believes node {follower} at {end} in epoch {epoch}, in which it has said {said:?}",
                    self.at(node, log)
                ),
            ));
        }
        // Without an epoch only the end of a log at its own start is told, as its acknowledgement was held against.
        if last_epoch != -1 && mine.is_some_and(|mine| mine != last_epoch) {
            return Err(Violation::new(
                "P20",
                format!(
                    "{} in epoch {epoch} believes node {follower} at {end} with epoch {last_epoch}, and holds epoch {mine:?} there",
                    self.at(node, log)
                ),
            ));
        }
        self.catches_up(node, log, follower, end);
        Ok(())
    }

    /// P13: what is acknowledged with acks=all is committed, and on as many disks as are needed; P25: with acks=1 it is on its
    /// leader's disk. Both in the epoch that it was written in.
    pub(super) fn on_produced(
        &mut self,
        node: usize,
        disk: &Disk,
        log: LogId,
        epoch: Epoch,
        (base, next): (Offset, Offset),
        all: bool,
    ) -> Checked {
        let log = self.log_index(log);
        self.speaks(node, "acknowledges a produce")?;
        let at = format!("{} acknowledges {base}..{next} of epoch {epoch}", self.at(node, log));
        // An idempotent producer's retry is answered with what an earlier leader took.
        let may_be_of =
            |batch: &Batch| batch.epoch == epoch || batch.produced.is_some() && batch.epoch < epoch;
        if !all {
            let replica = self.replica(node, log);
            let held = replica.at(base).map(|index| replica.batches[index]);
            if held.is_none_or(|batch| batch.next != next || !may_be_of(&batch)) {
                return Err(Violation::new("P25", format!("{at} and has it not")));
            }
            return self.must_be_durable(node, disk, log, next, "P25");
        }
        let truth = &self.logs[log];
        let first = truth.committed.partition_point(|batch| batch.next <= base);
        let committed = truth.committed.get(first);
        if next > truth.committed_end() || committed.is_none_or(|batch| batch.base > base) {
            return Err(Violation::new(
                "P13",
                format!("{at}, and only {} is committed", truth.committed_end()),
            ));
        }
        let (batch, copies) = (truth.committed[first], truth.copies[first].count_ones());
        let is_whole = batch.produced.is_none() || (batch.base, batch.next) == (base, next);
        if !may_be_of(&batch) || !is_whole {
            let Batch { base, next, epoch, .. } = batch;
            return Err(Violation::new(
                "P13",
                format!("{at}, and {base}..{next} of epoch {epoch} is committed"),
            ));
        }
        let needed = truth.partition.as_ref().map_or(1, |partition| u32::from(partition.min_isr));
        if copies < needed {
            return Err(Violation::new(
                "P13",
                format!("{at} on {copies} disks where {needed} are needed"),
            ));
        }
        Ok(())
    }

    /// P15: only what is committed is served; P10: and only by who has led the epoch that was asked for.
    pub(super) fn on_served(
        &mut self,
        node: usize,
        log: LogId,
        (base, next): (Offset, Offset),
        asked: Epoch,
    ) -> Checked {
        let log = self.log_index(log);
        let at = format!("{} serves {base}..{next}", self.at(node, log));
        let truth = &self.logs[log];
        if truth.deleted {
            // A read that was under way may still be answered.
            return Ok(());
        }
        let Some(replica) = self.nodes[node].logs.get_mut(log).and_then(Option::as_mut) else {
            return Err(Violation::new("P15", format!("{at} and holds nothing")));
        };
        let has_led =
            if asked < 0 { !replica.led.is_empty() } else { replica.led.contains(&asked) };
        if !has_led {
            return Err(Violation::new(
                "P10",
                format!("{at} to who asked epoch {asked}, and has led {:?}", replica.led),
            ));
        }
        replica.agree(&truth.committed);
        if next > truth.committed_end() || replica.agrees_to < next {
            return Err(Violation::new(
                "P15",
                format!(
                    "{at}; {} is committed, and it agrees with that up to {}",
                    truth.committed_end(),
                    replica.agrees_to
                ),
            ));
        }
        Ok(())
    }

    /// P7: what a replica believes to be committed is the same on each of them.
    pub fn agrees_below(&mut self, node: usize, log: LogId, high_watermark: Offset) -> Checked {
        let log = self.log_index(log);
        let truth = &self.logs[log];
        let Some(replica) = self.nodes[node].logs.get_mut(log).and_then(Option::as_mut) else {
            return Ok(());
        };
        replica.agree(&truth.committed);
        let believed = high_watermark.min(replica.end);
        if believed > replica.agrees_to.max(truth.trimmed_to) && !truth.deleted && !replica.damaged
        {
            return Err(Violation::new(
                "P7",
                self.lacking(node, log, &format!("believes {believed} to be committed and")),
            ));
        }
        Ok(())
    }

    /// Whether the controller counts on this replica in its present life.
    pub(super) fn is_eligible(&self, node: usize, log: usize) -> bool {
        let Some(image) = &self.image else { return false };
        let Some(partition) = &self.logs[log].partition else { return false };
        let id = NodeId(node as i32 + 1);
        let ghost = &self.nodes[node];
        let present = image.brokers.get(&id).map(|broker| broker.incarnation) == ghost.incarnation;
        present
            && !ghost.suspect
            && !self.logs[log].deleted
            && (partition.isr.contains(&id) || partition.elr.contains(&id))
    }

    /// Whether a replica is known to hold everything that is committed and not trimmed.
    pub(super) fn holds_all(&mut self, node: usize, log: usize) -> bool {
        let truth = &self.logs[log];
        let end = truth.committed_end();
        if end <= truth.trimmed_to {
            return true;
        }
        match self.nodes[node].logs.get_mut(log).and_then(Option::as_mut) {
            None => false,
            Some(replica) => {
                replica.agree(&truth.committed);
                !replica.recovering
                    && !replica.damaged
                    && replica.start <= truth.trimmed_to
                    && replica.agrees_to >= end
            }
        }
    }

    /// P3 for one replica, after something was taken from it. One that is being recovered is judged when it has said what it
    /// has; one that said that it is damaged keeps its seat until the controller has taken it, and must not use it (P12).
    pub(super) fn eligible_holds_all(&mut self, node: usize, log: usize) -> Checked {
        let replica = self.nodes[node].logs.get(log).and_then(Option::as_ref);
        let excused = replica.is_some_and(|replica| replica.recovering || replica.damaged);
        let judged = self.nodes[node].running && !excused && self.is_eligible(node, log);
        if !judged || self.holds_all(node, log) {
            return Ok(());
        }
        Err(Violation::new("P3", self.lacking(node, log, "is eligible to lead and")))
    }

    /// P3 for every replica, after something was committed or a set has changed.
    pub(super) fn all_eligible_hold_all(&mut self, log: usize) -> Checked {
        (0..self.nodes.len()).try_for_each(|node| self.eligible_holds_all(node, log))
    }

    fn lacking(&self, node: usize, log: usize, what: &str) -> String {
        let truth = &self.logs[log];
        let (start, end, agrees) = self.nodes[node]
            .logs
            .get(log)
            .and_then(Option::as_ref)
            .map_or((0, 0, 0), |r| (r.start, r.end, r.agrees_to));
        format!(
            "{} {what} holds {start}..{end}, of which {agrees} agrees, where {} is committed and {} trimmed",
            self.at(node, log),
            truth.committed_end(),
            truth.trimmed_to
        )
    }
}
