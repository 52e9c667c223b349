//! L15 to L19, L22, L23: what goes on under faults, each within a bound.
//!
//! While one node is away at most and every other one works as it should, faults excuse nothing: whoever is away is fenced, the
//! quorum has a leader and keeps it, each partition that somebody in service may lead has one, and a proposal ends. Who hears
//! nobody is away as much as who is not heard: it knows no controller, so that it must not tell one that it lives. Two nodes that
//! do not reach each other alone count as one that is away: where one of them leads, it is the other. A leader of the quorum that
//! hears nobody stands down, whatever else happens. And whatever a client asks a node that is well, it is answered.

use std::collections::BTreeMap;

use milena_core::config::QuorumConfig;
use milena_core::{Epoch, LogId, NodeId, Offset};

use super::marks::Seen;
use super::{Checked, Checks, Violation};
use crate::queue::{MS, Time};

/// How a node fares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// When nothing disturbs it, and it is not about to stop.
    Well,
    /// When nothing that it says is heard.
    Silent,
    /// When it is heard and hears no other node.
    Deaf,
    /// When something else is the matter with it.
    Hindered,
}

impl Standing {
    /// Whether the others are to go on without it.
    fn is_away(self) -> bool {
        matches!(self, Standing::Silent | Standing::Deaf)
    }
}

/// What a look at a node shows.
#[derive(Clone, Debug)]
pub struct Look {
    /// How it fares.
    pub standing: Standing,
    /// Which of its lives this is: a stop may be over before the next look.
    pub life: u32,
    /// Nodes that it does not reach, or that do not reach it, and that the others do.
    pub cut_from: Vec<usize>,
    /// Whether it runs and hears no other node.
    pub deaf: bool,
    /// The term for which it takes itself for the quorum's leader, if it does.
    pub leads: Option<Epoch>,
    /// Partitions that it leads in whose in-sync set a proposal of its stands, with the partition epoch.
    pub proposals: Vec<(LogId, i32)>,
}

/// Since when things are as they are.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    standings: Vec<(Standing, u32, Vec<usize>)>,
    since: Time,
    /// Whether the bound for things as they are is over, and one node is away at most.
    settled: bool,
    /// The term in which the quorum has been led since the bound for things as they are was over.
    term: Option<Epoch>,
    /// Since when each node has been well, in which of its lives.
    well: BTreeMap<usize, (u32, Time)>,
    deaf_leaders: BTreeMap<usize, Time>,
    proposals: BTreeMap<(usize, LogId, i32), Time>,
    /// Since when replicas have been out of their sets.
    out: BTreeMap<(LogId, NodeId), Time>,
    /// Members of sets that do not follow, with the leader's epoch: where its log ended at first, and since when it has more.
    behind: BTreeMap<(LogId, NodeId, Epoch), (Offset, Option<Time>)>,
}

/// Beside the times of the configuration: disks, messages, and the next look.
const SLACK_MS: u64 = 1_000;
/// From a proposal to the next look at what has become of it.
const DECIDING_MS: u64 = 300;

impl Checks {
    /// L15 to L19 and L23, at one look at all nodes.
    ///
    /// # Errors
    /// The property that a node has kept waiting for too long.
    pub fn must_go_on(&mut self, now: Time, quorum: &QuorumConfig, looks: &[Look]) -> Checked {
        // A clock may run slower than it should by a fifth.
        let slowly = |ms: u64| (ms * 5 / 4 + SLACK_MS) * MS;
        self.who_is_well(now, looks);
        self.deaf_leaders_stand_down(now, slowly(2 * quorum.election_timeout_ms), looks)?;
        let standings: Vec<(Standing, u32, Vec<usize>)> =
            looks.iter().map(|look| (look.standing, look.life, look.cut_from.clone())).collect();
        if self.watch.standings != standings {
            (self.watch.since, self.watch.standings) = (now, standings);
            self.watch.term = None;
        }
        let proposals = looks.iter().enumerate().flat_map(|(node, look)| {
            look.proposals.iter().map(move |(log, epoch)| (node, *log, *epoch))
        });
        let known = std::mem::take(&mut self.watch.proposals);
        let since = |proposal| known.get(&proposal).copied().unwrap_or(now);
        self.watch.proposals = proposals.map(|proposal| (proposal, since(proposal))).collect();
        let away = looks.iter().filter(|look| look.standing.is_away()).count();
        let cuts = looks.iter().map(|look| look.cut_from.len()).sum::<usize>() / 2;
        let hindered = looks.iter().any(|look| look.standing == Standing::Hindered);
        // First a leader is elected, then a session ends, then what the fencing left to do is done.
        let bound = slowly(
            8 * quorum.election_timeout_ms
                + 2 * quorum.broker_session_ms
                + 4 * self.replication.push_retry_ms,
        );
        self.who_is_out(now);
        self.watch.settled = !hindered && away + cuts <= 1 && now - self.watch.since > bound;
        if !self.watch.settled {
            self.watch.behind.clear();
            return Ok(());
        }
        self.others_go_on(now, bound, looks)?;
        match (away, cuts) {
            (1, _) => self.marks.seen(Seen::WentOnWithoutOne),
            (_, 1) => self.marks.seen(Seen::WentOnWithACut),
            _ => {}
        }
        self.sets_hold_who_follows(now, bound, looks)
    }

    fn who_is_out(&mut self, now: Time) {
        let Some(image) = &self.image else { return };
        let known = std::mem::take(&mut self.watch.out);
        for (log, partition) in image.partitions() {
            for replica in partition.replicas.iter().filter(|id| !partition.isr.contains(id)) {
                let key = (log, *replica);
                self.watch.out.insert(key, known.get(&key).copied().unwrap_or(now));
            }
        }
    }

    /// Whether each node but one at most has been well for as long as the others may need to go on without that one.
    pub(super) fn others_must_go_on(&self) -> bool {
        self.watch.settled
    }

    /// Whether a node reaches another one and is reached by it, and neither is away.
    pub(super) fn reaches(&self, node: usize, other: usize) -> bool {
        let [from, to] = [node, other].map(|node| &self.watch.standings[node]);
        !from.0.is_away() && !to.0.is_away() && !from.2.contains(&other)
    }

    /// L23: a leader has in its set who follows it, and nobody else where `min.insync.replicas` do. Who misses nothing has not
    /// stopped to follow: a member is given the time that it may lag from the first look on that finds more in the leader's log.
    /// Who has left for what it found on its disk is given the time to follow again.
    fn sets_hold_who_follows(&mut self, now: Time, bound: Time, looks: &[Look]) -> Checked {
        let Some(image) = self.image.clone() else { return Ok(()) };
        let lag = (self.replication.lag_ms_max * 5 / 4 + DECIDING_MS) * MS;
        let index = |id: NodeId| (id.0 - 1) as usize;
        let serves = |id: NodeId| !is_away(looks, index(id));
        let known = std::mem::take(&mut self.watch.behind);
        for (log, partition) in image.partitions() {
            let Some(leader) = partition.leader.filter(|leader| serves(*leader)) else { continue };
            let cut_from = &looks[index(leader)].cut_from;
            let end = self.end_of(index(leader), log);
            for replica in &partition.replicas {
                let is_member = partition.isr.contains(replica);
                let follows = serves(*replica) && !cut_from.contains(&index(*replica));
                if follows == is_member
                    || is_member && partition.isr.len() <= usize::from(partition.min_isr)
                {
                    continue;
                }
                let is = if is_member { "" } else { "not " };
                let out = self.watch.out.get(&(log, *replica)).copied();
                if out.is_some_and(|since| now - since.max(self.watch.since) <= bound + lag) {
                    continue;
                }
                if is_member {
                    let key = (log, *replica, partition.leader_epoch);
                    let (first, mut since) = known.get(&key).copied().unwrap_or((end, None));
                    since = since.or((end > first).then_some(now));
                    self.watch.behind.insert(key, (first, since));
                    if since.is_none_or(|since| now - since <= lag) {
                        continue;
                    }
                }
                let ms = (now - self.watch.since) / MS;
                let story = format!(
                    "node {replica} is {is}in the set of {log:?}, {ms} ms after the last \
                     disturbance: {partition:?}"
                );
                return Err(Violation::new("L23", story));
            }
        }
        Ok(())
    }

    fn end_of(&mut self, node: usize, log: LogId) -> Offset {
        let index = self.log_index(log);
        self.nodes[node].logs.get(index).and_then(Option::as_ref).map_or(0, |replica| replica.end)
    }

    fn who_is_well(&mut self, now: Time, looks: &[Look]) {
        for (node, look) in looks.iter().enumerate() {
            let life = self.watch.well.get(&node).map(|(life, _)| *life);
            if look.standing != Standing::Well {
                self.watch.well.remove(&node);
            } else if life != Some(look.life) {
                self.watch.well.insert(node, (look.life, now));
            }
        }
    }

    /// L22: what a client asked a node at a time, over a link that works, and now gives up to wait for. All that a node does has
    /// an end, whatever the others do: what cannot be done in time is refused in time.
    ///
    /// # Errors
    /// If nothing has been the matter with the node since some time before it was asked.
    pub fn must_answer(&self, node: usize, asked: Time, what: &str) -> Checked {
        let well = self.watch.well.get(&node);
        if well.is_some_and(|(_, since)| since + SLACK_MS * MS <= asked) {
            let story = format!("node {} is well and does not answer {what}", node + 1);
            return Err(Violation::new("L22", story));
        }
        Ok(())
    }

    fn deaf_leaders_stand_down(&mut self, now: Time, bound: Time, looks: &[Look]) -> Checked {
        for (node, look) in looks.iter().enumerate() {
            if !(look.deaf && look.leads.is_some()) {
                self.watch.deaf_leaders.remove(&node);
                continue;
            }
            let since = *self.watch.deaf_leaders.entry(node).or_insert(now);
            if now - since > bound {
                let ms = (now - since) / MS;
                let story =
                    format!("node {} leads the quorum and hears nobody for {ms} ms", node + 1);
                return Err(Violation::new("L15", story));
            }
        }
        Ok(())
    }

    fn others_go_on(&mut self, now: Time, bound: Time, looks: &[Look]) -> Checked {
        let after = (now - self.watch.since) / MS;
        let late = |property, what: String| {
            Err(Violation::new(property, format!("{what}, {after} ms after the last disturbance")))
        };
        let well = looks.iter().filter(|look| look.standing == Standing::Well);
        let Some(term) = well.filter_map(|look| look.leads).max() else {
            return late("L17", "the quorum has no leader".into());
        };
        let before = *self.watch.term.get_or_insert(term);
        if term != before {
            return late("L19", format!("the quorum was led in term {before} and is in {term}"));
        }
        let Some(image) = &self.image else { return Ok(()) };
        let standing = |id: NodeId| looks[(id.0 - 1) as usize].standing;
        let is_away = |id: NodeId| is_away(looks, (id.0 - 1) as usize);
        for (id, broker) in &image.brokers {
            if is_away(*id) && !broker.fenced {
                return late("L16", format!("node {id} is {:?} and not fenced", standing(*id)));
            }
        }
        for (log, partition) in image.partitions() {
            let mut members = partition.isr.iter().chain(&partition.elr);
            let may_lead = members.find(|member| image.unfenced(**member) && !is_away(**member));
            if let Some(member) = may_lead
                && partition.leader.is_none_or(is_away)
            {
                return late("L17", format!("node {member} may lead {log:?}: {partition:?}"));
            }
        }
        for ((node, log, epoch), since) in &self.watch.proposals {
            let works =
                looks[*node].standing == Standing::Well && !is_away(NodeId(*node as i32 + 1));
            if works && now - since > bound {
                let id = node + 1;
                return late(
                    "L18",
                    format!("node {id} waits in partition epoch {epoch} of {log:?}"),
                );
            }
        }
        Ok(())
    }
}

/// Whether a node is away, from all others or from the leader of the quorum.
fn is_away(looks: &[Look], node: usize) -> bool {
    let leaders = looks.iter().enumerate().filter_map(|(node, look)| Some((look.leads?, node)));
    let cut = leaders.max().is_some_and(|(_, leader)| looks[node].cut_from.contains(&leader));
    looks[node].standing.is_away() || cut
}
