//! P22: nobody leaves the in-sync set or the eligible replicas without cause.
//!
//! Out of the in-sync set goes who is fenced, who registers again, who is damaged, who is about to stop where enough others
//! are left, and whom the leader proposes to remove because it has not had everything for too long. Out of the eligible replicas goes whose data may not be what it was, and
//! everybody once enough are in sync. One that is wrongly out costs availability, and where it was the last, everything.

use milena_core::NodeId;
use milena_core::image::{Broker, Image, Partition};
use milena_core::local::AlterPartition;

use super::marks::Seen;
use super::{Checked, Checks, Stop, Violation};

impl Checks {
    /// A leader appends: who had everything until now has not from now on.
    pub(super) fn leaves_behind(&mut self, node: usize, log: usize, leading: bool) {
        let now = self.clocks.mono;
        let replica = self.replica(node, log);
        if !leading {
            return;
        }
        for (end, since) in replica.followers.values_mut() {
            if *end == replica.end {
                *since = Some(now);
            }
        }
    }

    /// A leader believes that a follower has come as far as `end`.
    pub(super) fn catches_up(&mut self, node: usize, log: usize, follower: i32, end: i64) {
        let now = self.clocks.mono;
        let replica = self.replica(node, log);
        let known = replica.followers.entry(NodeId(follower)).or_insert((end, None));
        known.0 = end;
        if end == replica.end {
            known.1 = Some(now);
        }
    }

    /// A leader proposes an in-sync set: whom it leaves out has not had everything for as long as it may lag.
    ///
    /// # Errors
    /// The property, where it has.
    pub fn on_proposal(&mut self, node: usize, proposal: &AlterPartition) -> Checked {
        let now = self.clocks.mono;
        let log = self.log_index(proposal.log);
        let mut isr: Vec<NodeId> = proposal.isr.iter().map(|member| member.node).collect();
        isr.sort_unstable();
        let record = self.logs[log].partitions.get(&proposal.partition_epoch);
        let replica = self.nodes[node].logs.get(log).and_then(Option::as_ref);
        if let (Some(record), Some(replica)) = (record, replica) {
            for left in record.isr.iter().filter(|member| !isr.contains(member)) {
                let Some((end, since)) = replica.followers.get(left) else { continue };
                let lagged = since.map_or(u64::MAX, |since| now.ms_since(since));
                if *end == replica.end || lagged < self.replication.lag_ms_max {
                    return Err(Violation::new(
                        "P22",
                        format!(
                            "{} proposes {isr:?} without node {left}, which is at {end} of {} and had everything {lagged} ms ago",
                            self.at(node, log),
                            replica.end
                        ),
                    ));
                }
            }
        }
        self.proposed.insert((log, proposal.partition_epoch, isr));
        Ok(())
    }

    /// One record of the controller has changed a partition: whoever is not in a set any more has left it for a cause.
    pub(super) fn members_have_cause_to_leave(
        &mut self,
        (shown, image): (&Image, &Image),
        log: usize,
        (before, after): (&Partition, &Partition),
        name: &str,
    ) -> Checked {
        if before.partition_epoch + 1 != after.partition_epoch {
            return Ok(());
        }
        let wrong = |what: String| Err(Violation::new("P22", format!("{name}: {what}")));
        let enough = after.isr.len() >= usize::from(after.min_isr);
        let proposed = (log, before.partition_epoch, after.isr.clone());
        let wished = before.leader == after.leader && self.proposed.contains(&proposed);
        for member in before.isr.iter().chain(&before.elr) {
            let was_in_sync = before.isr.contains(member);
            if after.isr.contains(member) || after.elr.contains(member) && !was_in_sync {
                continue;
            }
            self.marks.seen(Seen::DepartureJudged);
            let brokers = (shown.brokers.get(member), image.brokers.get(member));
            let (Some(was), Some(is)) = brokers else { continue };
            let renewed = before.incarnation(*member) != after.incarnation(*member);
            let stops = self.nodes[(member.0 - 1) as usize].stop != Stop::None && enough;
            if was_in_sync && !is.fenced && was.epoch == is.epoch && !renewed && !wished && !stops {
                return wrong(format!(
                    "node {member} leaves the in-sync set, neither fenced nor damaged nor proposed by the leader, nor about to stop with enough others left"
                ));
            }
            let kept = enough || after.elr.contains(member);
            if !kept && !renewed && !self.came_back_unclean(*member, was, is) {
                return wrong(format!(
                    "node {member} is not eligible any more, registered as {is:?} after {was:?}"
                ));
            }
        }
        Ok(())
    }

    /// Whether a broker registered anew without the proof that its disk holds all that it ever acknowledged.
    fn came_back_unclean(&self, member: NodeId, was: &Broker, is: &Broker) -> bool {
        let ghost = &self.nodes[(member.0 - 1) as usize];
        let proves = match (was.confirmed, ghost.synced) {
            (Some(confirmed), Some(synced)) => (confirmed..=was.epoch).contains(&synced),
            _ => false,
        };
        was.epoch != is.epoch && (was.incarnation != is.incarnation || !proves)
    }
}
