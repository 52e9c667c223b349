//! The committed image: what the controller says is sane, only moves forward, and names only replicas that deserve it.

use std::sync::Arc;

use milena_core::image::{Changes, Image, Partition};
use milena_core::{BrokerEpoch, Epoch, LogId, NodeId};
use milena_wire::Response;

use super::marks::Seen;
use super::{Checked, Checks, Stop, Violation};
use crate::queue::{MS, Time};

/// A node that does not serve yet lets those wait for so long who ask about the cluster: three seconds, by a clock that may be
/// faster than it should by a fifth.
const WAITS_AT_A_START: Time = 2_400 * MS;

impl Checks {
    /// A node shows an image to its shards. Only one newer than any before is looked at.
    pub fn on_image(&mut self, image: &Arc<Image>) -> Checked {
        self.remember(image)?;
        if self.image.as_ref().is_some_and(|known| known.end >= image.end) {
            return Ok(());
        }
        let before = self.image.replace(image.clone());
        let registered = self.registrations(image, before.as_deref())?;
        let mut changed = Vec::new();
        let Changes { gone, changed: logs } = match &before {
            Some(before) => image.changes_since(before),
            None => image.changes_since(&Image::default()),
        };
        for (id, partition) in logs.iter().filter_map(|id| Some((*id, image.partition(*id)?.1))) {
            let log = self.log_index(id);
            if self.logs[log].partition.as_ref() != Some(partition) {
                self.on_partition(image, before.as_deref(), log, partition)?;
                changed.push(log);
            }
        }
        for truth in self.logs.iter_mut().filter(|truth| gone.contains(&truth.id.topic)) {
            truth.deleted = true;
            truth.partition = None;
        }
        for log in changed {
            self.all_eligible_hold_all(log)?;
        }
        // A replica that comes back under a registration is judged in every set that still names it.
        for node in registered {
            for log in 0..self.logs.len() {
                self.eligible_holds_all(node, log)?;
            }
        }
        Ok(())
    }

    /// Takes note of what an image says of each partition, whether or not another node has shown a newer one: a leader may act on
    /// it. Two images never say different things of one partition epoch.
    fn remember(&mut self, image: &Image) -> Checked {
        if !self.shown.insert(image.end) {
            return Ok(());
        }
        for (id, partition) in image.partitions() {
            let log = self.log_index(id);
            let epoch = partition.partition_epoch;
            let truth = &mut self.logs[log];
            if is_compacted(image, id) {
                truth.records.get_or_insert_default();
            }
            let known = truth.partitions.entry(epoch).or_insert_with(|| partition.clone());
            if known != partition {
                return Err(Violation::new(
                    "R9",
                    format!(
                        "{id:?} in partition epoch {epoch} is {partition:?}, and was {known:?}"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Who joins the in-sync set with the disk that it has now holds everything again.
    fn joined(
        &mut self,
        image: &Image,
        log: usize,
        before: Option<&Partition>,
        partition: &Partition,
    ) {
        for member in &partition.isr {
            let node = (member.0 - 1) as usize;
            let ghost = &self.nodes[node];
            let registered = image.brokers.get(member).map(|broker| broker.incarnation);
            let stays = before.is_some_and(|before| before.isr.contains(member));
            if !stays && registered == ghost.incarnation && !ghost.suspect {
                self.logs[log].lost.remove(&node);
            } else if before.is_none() {
                // Its disk was lost before anybody showed that it was to hold this.
                self.logs[log].lost.insert(node);
            }
        }
    }

    /// Brokers that registered: their leaderships of before are over (P19), and nobody took the id of one that was in service on
    /// another disk (P24).
    fn registrations(
        &mut self,
        image: &Image,
        before: Option<&Image>,
    ) -> Result<Vec<usize>, Violation> {
        let mut registered = Vec::new();
        for (id, broker) in &image.brokers {
            let node = (id.0 - 1) as usize;
            if self.registered.insert(node, broker.epoch) == Some(broker.epoch) {
                continue;
            }
            registered.push(node);
            let replaced = before.filter(|before| before.end + 1 == image.end);
            let replaced = replaced.and_then(|before| before.brokers.get(id));
            let in_service = replaced.filter(|other| !other.fenced);
            if let Some(other) = in_service.filter(|o| o.incarnation != broker.incarnation) {
                let story = format!(
                    "node {id} is registered on disk {:?} while it is in service on {:?}",
                    broker.incarnation, other.incarnation
                );
                return Err(Violation::new("P24", story));
            }
            let known = before.into_iter().flat_map(Image::partitions);
            let mut epochs: Vec<(usize, Epoch)> = Vec::new();
            for (id, partition) in known {
                epochs.push((self.log_index(id), partition.leader_epoch));
            }
            self.nodes[node].pending_barrier = Some((broker.epoch, epochs));
        }
        Ok(registered)
    }

    /// A node answers a client: who is there and who leads it says only once it serves, or when it was up for so long that
    /// whoever asks should wait no longer (L21).
    ///
    /// # Errors
    /// The property, where it said so before.
    pub fn answers_when_it_knows(
        &self,
        node: usize,
        up_for: Time,
        response: Option<&Response>,
    ) -> Checked {
        let asked = matches!(
            response,
            Some(
                Response::Metadata(_)
                    | Response::DescribeCluster(_)
                    | Response::DescribeTopicPartitions(_)
            )
        );
        if asked && self.nodes[node].serving.is_none() && up_for < WAITS_AT_A_START {
            let (id, ms) = (node + 1, up_for / MS);
            let story =
                format!("node {id} names leaders before it serves, {ms} ms after its start");
            return Err(Violation::new("L21", story));
        }
        Ok(())
    }

    /// A broker begins to serve under a registration.
    pub(super) fn on_serving(&mut self, node: usize, epoch: BrokerEpoch) -> Checked {
        self.speaks(node, "serves")?;
        self.nodes[node].serving = Some(epoch);
        self.nodes[node].synced = Some(epoch);
        if self.nodes[node].stop == Stop::Over {
            self.nodes[node].stop = Stop::None;
        }
        // A registration may be one that its disk asked for before it was put back; who serves has made its own.
        if std::mem::take(&mut self.nodes[node].suspect) {
            for log in 0..self.logs.len() {
                self.eligible_holds_all(node, log)?;
            }
        }
        if let Some((pending, epochs)) = self.nodes[node].pending_barrier.take() {
            if pending == epoch {
                let barrier = &mut self.nodes[node].barrier;
                for (log, epoch) in epochs {
                    barrier.insert(log as u64, epoch);
                }
            } else {
                self.nodes[node].pending_barrier = Some((pending, epochs));
            }
        }
        self.nothing_vanished(node)
    }

    /// P11, P12.
    fn on_partition(
        &mut self,
        image: &Image,
        shown: Option<&Image>,
        log: usize,
        partition: &Partition,
    ) -> Checked {
        let id = self.logs[log].id;
        let name = image.partition(id).map_or_else(String::new, |(topic, _)| {
            format!(
                "{}-{} in partition epoch {}",
                topic.name, id.partition, partition.partition_epoch
            )
        });
        let insane = |what: String| Err(Violation::new("P11", format!("{name}: {what}")));
        let replicas = &partition.replicas;
        for member in partition.isr.iter().chain(&partition.elr) {
            if !replicas.contains(member) {
                return insane(format!("node {member} is in sync and no replica"));
            }
        }
        if let Some(both) = partition.isr.iter().find(|member| partition.elr.contains(member)) {
            return insane(format!("node {both} is in ISR and in ELR"));
        }
        if partition.leader.is_some_and(|leader| !partition.isr.contains(&leader)) {
            return insane(format!(
                "leader {:?} is not in ISR {:?}",
                partition.leader, partition.isr
            ));
        }
        if partition.isr.len() >= usize::from(partition.min_isr) && !partition.elr.is_empty() {
            return insane(format!(
                "ISR {:?} is large enough and ELR is {:?}",
                partition.isr, partition.elr
            ));
        }
        for member in &partition.isr {
            if image.brokers.get(member).is_none_or(|broker| broker.fenced) {
                return insane(format!("node {member} is fenced and in ISR"));
            }
        }
        if usize::from(partition.min_isr) > replicas.len() || partition.min_isr == 0 {
            return insane(format!("min.insync.replicas {}", partition.min_isr));
        }
        let before = self.logs[log].partition.replace(partition.clone());
        self.joined(image, log, before.as_ref(), partition);
        let Some(before) = before else { return Ok(()) };
        if partition.partition_epoch <= before.partition_epoch
            || partition.leader_epoch < before.leader_epoch
        {
            return insane(format!(
                "after partition epoch {}, leader epoch {} follows {}",
                before.partition_epoch, partition.leader_epoch, before.leader_epoch
            ));
        }
        if partition.leader.is_some()
            && partition.leader != before.leader
            && partition.leader_epoch == before.leader_epoch
        {
            return insane("another leader in the same leader epoch".into());
        }
        self.counters(&before, partition);
        clean_members(&before, partition, &name)?;
        if let Some(shown) = shown.filter(|shown| shown.end + 1 == image.end) {
            self.members_have_cause_to_leave((shown, image), log, (&before, partition), &name)?;
        }
        self.members_have_come(image, log, &before, partition, &name)
    }

    /// P10: who joins the in-sync set has acknowledged in the leader's epoch, under the registration that it has.
    fn members_have_come(
        &self,
        image: &Image,
        log: usize,
        before: &Partition,
        partition: &Partition,
        name: &str,
    ) -> Checked {
        let elected = partition.leader_epoch > before.leader_epoch;
        for member in &partition.isr {
            let stays = before.isr.contains(member) || elected && before.elr.contains(member);
            if stays || partition.leader == Some(*member) {
                continue;
            }
            let registered = image.brokers.get(member).map(|broker| broker.epoch);
            let latest = self.logs[log].acknowledged_as.get(&((member.0 - 1) as usize));
            let came = latest.is_some_and(|(epoch, serving)| {
                *epoch >= before.leader_epoch && *serving == registered
            });
            if !came {
                return Err(Violation::new(
                    "P10",
                    format!(
                        "{name}: node {member}, registered as {registered:?}, joins the in-sync set; the epoch and \
                         registration that it last acknowledged under: {latest:?}"
                    ),
                ));
            }
        }
        Ok(())
    }

    fn counters(&mut self, before: &Partition, partition: &Partition) {
        let mut count = |seen, taken: bool| {
            if taken {
                self.marks.seen(seen);
            }
        };
        let from_elr = partition.leader.is_some_and(|leader| before.elr.contains(&leader));
        count(Seen::ElectionFromElr, from_elr);
        count(Seen::InSyncSetShrunk, partition.isr.len() < before.isr.len());
        count(Seen::InSyncSetGrown, partition.isr.len() > before.isr.len());
        count(Seen::PartitionOffline, partition.leader.is_none() && before.leader.is_some());
        count(Seen::ReplicaRemovedAsDamaged, partition.incarnations != before.incarnations);
    }
}

/// P12: a replica under a new incarnation of its data keeps no seat.
fn clean_members(before: &Partition, partition: &Partition, name: &str) -> Checked {
    for (index, node) in partition.replicas.iter().enumerate() {
        let renewed = before.incarnation(*node) != Some(partition.incarnations[index]);
        let kept = |members: &[NodeId]| members.contains(node);
        if renewed && (kept(&partition.isr) || kept(&partition.elr)) {
            return Err(Violation::new(
                "P12",
                format!("{name}: node {node} keeps its seat under a new replica incarnation"),
            ));
        }
    }
    Ok(())
}

/// Whether a log's topic keeps the last value of each key.
fn is_compacted(image: &Image, log: LogId) -> bool {
    let configs = image.topics.get(&log.topic).map(|topic| &topic.configs);
    configs
        .and_then(|own| own.get("cleanup.policy"))
        .is_some_and(|policy| policy.contains("compact"))
}
