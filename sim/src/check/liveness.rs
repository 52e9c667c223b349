//! L15 to L19, L22: what goes on under faults, each within a bound.
//!
//! While one node is away at most and every other one works as it should, faults excuse nothing: whoever is away is fenced, the
//! quorum has a leader and keeps it, each partition that somebody in service may lead has one, and a proposal ends. Who hears
//! nobody is away as much as who is not heard: it knows no controller, so that it must not tell one that it lives. A leader of
//! the quorum that hears nobody stands down, whatever else happens. And whatever a client asks a node that is well, it is answered.

use std::collections::BTreeMap;

use milena_core::config::QuorumConfig;
use milena_core::{Epoch, LogId, NodeId};

use super::{Checked, Checks, Violation};
use crate::queue::{MS, Time};

/// How a node fares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// When nothing disturbs it.
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
    standings: Vec<(Standing, u32)>,
    since: Time,
    /// The term in which the quorum has been led since the bound for things as they are was over.
    term: Option<Epoch>,
    /// Since when each node has been well, in which of its lives.
    well: BTreeMap<usize, (u32, Time)>,
    deaf_leaders: BTreeMap<usize, Time>,
    proposals: BTreeMap<(usize, LogId, i32), Time>,
}

/// Beside the times of the configuration: disks, messages, and the next look.
const SLACK_MS: u64 = 1_000;

impl Checks {
    /// L15 to L19, at one look at all nodes.
    ///
    /// # Errors
    /// The property that a node has kept waiting for too long.
    pub fn must_go_on(&mut self, now: Time, quorum: &QuorumConfig, looks: &[Look]) -> Checked {
        // A clock may run slower than it should by a fifth.
        let slowly = |ms: u64| (ms * 5 / 4 + SLACK_MS) * MS;
        self.who_is_well(now, looks);
        self.deaf_leaders_stand_down(now, slowly(2 * quorum.election_timeout_ms), looks)?;
        let standings: Vec<(Standing, u32)> =
            looks.iter().map(|look| (look.standing, look.life)).collect();
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
        let hindered = looks.iter().any(|look| look.standing == Standing::Hindered);
        // First a leader is elected, then a session ends, then what the fencing left to do is done.
        let bound = slowly(
            8 * quorum.election_timeout_ms
                + 2 * quorum.broker_session_ms
                + 4 * self.replication.push_retry_ms,
        );
        if hindered || away > 1 || now - self.watch.since <= bound {
            return Ok(());
        }
        self.others_go_on(now, bound, looks)
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
        let is_away = |id: NodeId| standing(id).is_away();
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
            let works = looks[*node].standing == Standing::Well;
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
