//! How a run ends: faults stop, everything is healed, the clients end what they began, all comes right within a bound
//! (liveness), and everything acknowledged is read once more.

use milena_core::quorum::RoleName;
use milena_core::{LogId, Machine, TopicId};
use milena_wire::Uuid;

use super::{Cluster, Phase};
use crate::addresses::id;
use crate::check::liveness::{Look, Standing};
use crate::check::marks::Seen;
use crate::check::{Checked, QUORUM, Stop, Violation};
use crate::client::{Client, Consumer, Role};
use crate::node::State;
use crate::queue::{MS, Time};
use crate::rng::{Concern, Stream};

/// Where the theorem owes nothing, so long is still given before everything is read.
const GRACE: Time = 5_000 * MS;
/// The final read of what comes right takes at most so long.
const READ_MAX: Time = 30_000 * MS;
/// Every so many looks the costly assertions run.
const ASSERT_EVERY: u64 = 25;

/// Every so many looks it is seen whether the others go on.
const WATCH_EVERY: u64 = 5;

impl Cluster {
    /// Goes on to the next phase when its time has come.
    pub(super) fn look(&mut self) -> Checked {
        let look = self.now / (20 * MS);
        self.connect_nodes();
        self.look_at_connections()?;
        if look.is_multiple_of(ASSERT_EVERY) {
            self.assert_invariants();
            self.replicas_agree()?;
        }
        if look.is_multiple_of(WATCH_EVERY) {
            self.go_on()?;
        }
        let setup = &self.schedule.setup;
        let (heal_at, acked_min) = (setup.heal_at_ms * MS, setup.acked_min);
        let (bound, beyond) = (setup.converge_ms_max * MS, setup.beyond_budget);
        let since = self.now - self.phase_since;
        match self.phase {
            Phase::Faults => {
                self.judge_return()?;
                if self.now >= heal_at {
                    self.heal();
                    self.enter(Phase::Healed);
                }
                Ok(())
            }
            Phase::Healed => {
                if self.history.acknowledged >= acked_min || since > bound {
                    self.clients.iter_mut().for_each(|client| client.session.stopping = true);
                    self.enter(Phase::Converging);
                }
                Ok(())
            }
            Phase::Converging => match self.unconverged() {
                Some(_) if beyond && since >= GRACE => {
                    self.begin_reading();
                    Ok(())
                }
                Some(violation) if !beyond && since > bound => Err(violation),
                Some(_) => Ok(()),
                None => {
                    self.begin_reading();
                    Ok(())
                }
            },
            Phase::Reading => {
                let unread = self.unread();
                if unread.is_empty() {
                    return self.finish();
                }
                if beyond && since >= GRACE {
                    return self.finish();
                }
                if since > READ_MAX {
                    return Err(Violation::new(
                        "unseen",
                        format!("{} could not be read to the end", unread.join(", ")),
                    ));
                }
                Ok(())
            }
            Phase::Done => Ok(()),
        }
    }

    /// Where nothing but moves strikes, the cluster is back soon after its last node is.
    fn judge_return(&mut self) -> Checked {
        let Some(bound) = self.schedule.setup.back_within_ms else { return Ok(()) };
        if !self.nodes.iter().all(|node| node.is_up()) {
            self.all_up_since = None;
            return Ok(());
        }
        let since = *self.all_up_since.get_or_insert(self.now);
        if self.now - since < bound * MS {
            return Ok(());
        }
        if self.checks.nodes.iter().all(|node| node.quorum_leader.is_none()) {
            let story =
                format!("every node has been up for {bound} ms, and none is the controller");
            return Err(Violation::new("L1", story));
        }
        for (node, sim) in self.nodes.iter().enumerate() {
            let State::Up { metadata, .. } = &sim.state else { continue };
            let image = self.checks.image.as_ref();
            let fenced = image.and_then(|image| Some(image.brokers.get(&id(node))?.fenced));
            if self.schedule.setup.nodes[node].broker
                && (metadata.view().serving.is_none() || fenced != Some(false))
            {
                let story = format!(
                    "every node has been up for {bound} ms, and node {} serves not",
                    node + 1
                );
                return Err(Violation::new("L3", story));
            }
        }
        Ok(())
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.phase_since = self.now;
        self.trace(0, &format!("phase {phase:?}"));
    }

    /// L22, when a client's patience is over.
    pub(super) fn must_have_answered(&self, client: usize, id: u64) -> Checked {
        let Some((node, asked)) = self.clients[client].unanswered(self.now, id) else {
            return Ok(());
        };
        if !self.client_links.is_well(asked, client, node) {
            return Ok(());
        }
        let what =
            format!("request {id} of client {client}: {}", self.waits(&self.clients[client]));
        self.checks.must_answer(node, asked, &what)
    }

    /// L15 to L19.
    fn go_on(&mut self) -> Checked {
        let quorum = self.schedule.setup.config(0, 1, self.homes.all()).quorum;
        let looks: Vec<Look> = (0..self.nodes.len()).map(|node| self.look_at(node)).collect();
        self.checks.must_go_on(self.now, &quorum, &looks)
    }

    /// Whether a majority of the controllers is there, without this node where it is one, none of them on a disk that began anew.
    fn has_majority_without(&self, node: Option<usize>) -> bool {
        let controllers =
            || (0..self.nodes.len()).filter(|node| self.schedule.setup.nodes[*node].controller);
        let intact = |other: &usize| {
            let ghost = &self.checks.nodes[*other];
            Some(*other) != node
                && ghost.disks_lost == 0
                && !ghost.damage.may_unseat(LogId::METADATA)
        };
        controllers().filter(intact).count() > controllers().count() / 2
    }

    /// Whether the others can go on without this node.
    fn can_be_missed(&self, node: usize) -> bool {
        !self.schedule.setup.nodes[node].controller || self.has_majority_without(Some(node))
    }

    fn look_at(&self, node: usize) -> Look {
        let sim = &self.nodes[node];
        let others = || (0..self.nodes.len()).filter(move |other| *other != node);
        let stopped = !sim.is_up() || sim.paused_until > self.now;
        let unheard = self.nodes.len() > 1 && others().all(|to| self.network.is_blocked(node, to));
        let deaf = self.nodes.len() > 1 && others().all(|from| self.network.is_blocked(from, node));
        let cut = |a, b| self.network.is_blocked(a, b) || self.network.is_blocked(b, a);
        // A node that is cut off from all others is that node's matter.
        let is_alone = |node: usize| {
            let mut others = (0..self.nodes.len()).filter(|other| *other != node);
            others.clone().all(|other| self.network.is_blocked(node, other))
                || others.all(|other| self.network.is_blocked(other, node))
        };
        let alone = self.nodes.len() > 1 && is_alone(node);
        let cut_from: Vec<usize> =
            others().filter(|other| !alone && cut(node, *other) && !is_alone(*other)).collect();
        let passes = |from, to| {
            self.network.is_blocked(from, to) || self.network.is_well(self.now, from, to)
        };
        let links = others().all(|other| {
            let known = cut_from.contains(&other) && passes(node, other) && passes(other, node);
            is_alone(other)
                || known
                || self.network.is_well(self.now, node, other)
                    && self.network.is_well(self.now, other, node)
        });
        let well = links
            && self.checks.nodes[node].stop == Stop::None
            && sim.clock.is_true()
            && sim.disk_factor == 1
            && !sim.disk.has_faults()
            && !sim.disk.is_full()
            && self.has_majority_without(None);
        let standing = match (stopped || unheard, well) {
            (true, _) if self.can_be_missed(node) => Standing::Silent,
            (false, _) if deaf && self.can_be_missed(node) => Standing::Deaf,
            (false, true) if !deaf => Standing::Well,
            _ => Standing::Hindered,
        };
        let life = sim.life;
        let mut look =
            Look { standing, life, cut_from, deaf: false, leads: None, proposals: Vec::new() };
        if let State::Up { metadata, shards } = &sim.state {
            let several = self.schedule.setup.nodes.iter().filter(|n| n.controller).count() > 1;
            look.deaf = several && deaf && sim.paused_until <= self.now;
            let quorum = metadata.view().quorum.view();
            look.leads = (quorum.role == RoleName::Leader).then_some(quorum.term);
            let views = shards.iter().flat_map(|shard| shard.view().replicas());
            let waits = views.filter(|view| view.leading && view.maximal_isr != view.isr);
            look.proposals = waits.map(|view| (view.log, view.partition_epoch)).collect();
        }
        look
    }

    fn assert_invariants(&self) {
        for node in &self.nodes {
            if let State::Up { metadata, shards } = &node.state {
                metadata.check_invariants();
                shards.iter().for_each(Machine::check_invariants);
            }
        }
    }

    /// P7, I3 and K1 to K3, for every replica.
    fn replicas_agree(&mut self) -> Checked {
        for (node, sim) in self.nodes.iter().enumerate() {
            let State::Up { shards, .. } = &sim.state else { continue };
            for view in shards.iter().map(|shard| shard.view()) {
                for replica in view.replicas() {
                    self.checks.agrees_below(node, replica.log, replica.high_watermark)?;
                    if let Some(log) = view.store().log(replica.log) {
                        self.checks.knows_producers(node, replica.log, log.producers())?;
                        self.checks.is_compacted_well(node, &sim.disk, replica.log, log)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn begin_reading(&mut self) {
        if let Some(image) = self.checks.image.clone() {
            self.history.remain(|name, id| {
                image.topics.get(&TopicId(id.0)).is_some_and(|topic| topic.name == name)
            });
            for topic in image.topics.values() {
                for (&index, partition) in &topic.partitions {
                    let log = LogId { topic: topic.id, partition: index };
                    if self.checks.has_lost_too_much(log, partition) {
                        self.checks.marks.seen(Seen::OfflineForGood);
                        self.history.give_up(&topic.name, Uuid(topic.id.0), index);
                    }
                }
            }
        }
        let reader = Role::Consumer(Consumer::final_reader(&self.history));
        let index = self.clients.len();
        let stream = Stream::new(self.schedule.seed, Concern::Client(index as u32));
        let mut client = Client::new(stream, self.nodes.len(), reader);
        client.session.stopping = true;
        self.clients.push(client);
        self.clients[index].session.wake(self.now);
        self.grant(index);
        self.enter(Phase::Reading);
    }

    fn unread(&self) -> Vec<String> {
        match self.clients.last().map(|client| &client.role) {
            Some(Role::Consumer(reader)) if !reader.is_done() => reader.unfinished(),
            _ => Vec::new(),
        }
    }

    fn finish(&mut self) -> Checked {
        self.assert_invariants();
        let beyond = self.schedule.setup.beyond_budget;
        self.history.judge(beyond)?;
        if !beyond {
            self.checks.nothing_is_lost()?;
            self.topics_are_as_told()?;
        }
        self.enter(Phase::Done);
        Ok(())
    }

    fn topics_are_as_told(&self) -> Checked {
        let Some(image) = &self.checks.image else { return Ok(()) };
        let mut admins = self.clients.iter().filter_map(|client| match &client.role {
            Role::Admin(admin) => Some(admin),
            _ => None,
        });
        let partitions = |id: Uuid| image.topics.get(&TopicId(id.0)).map(|t| t.partitions.len());
        admins.try_for_each(|admin| admin.judge(partitions))
    }

    /// The first thing that has not come right (L1, L3 to L7, L12); none when everything has. There is no L2: the voters are
    /// those that the cluster was founded with.
    fn unconverged(&mut self) -> Option<Violation> {
        let wrong = |property, story: String| Some(Violation::new(property, story));
        if let Some(down) = self.nodes.iter().position(|node| !node.is_up()) {
            return wrong("L3", format!("node {} does not come up", down + 1));
        }
        let leaders = self.checks.nodes.iter().filter(|node| node.quorum_leader.is_some()).count();
        if leaders == 0 {
            return wrong("L1", "the quorum has no leader".into());
        }
        let Some(image) = self.checks.image.clone() else {
            return wrong("L1", "no metadata was ever committed".into());
        };
        for (node, sim) in self.nodes.iter().enumerate() {
            let State::Up { metadata, .. } = &sim.state else { continue };
            let (view, node) = (metadata.view(), node + 1);
            let (end, hollow) = (view.image.end, view.quorum.view().hollow_until);
            if end != image.end {
                let story = format!("node {node} knows metadata up to {end} of {}", image.end);
                return wrong("L4", story);
            }
            if hollow.is_some_and(|until| until <= end) {
                return wrong("L4", format!("node {node} has all {end} records and does not vote"));
            }
        }
        for (id, broker) in &image.brokers {
            if broker.fenced {
                return wrong("L3", format!("broker {id} stays fenced"));
            }
        }
        for (id, topic) in &image.topics {
            for (&index, partition) in &topic.partitions {
                let name = format!("{}-{index}", topic.name);
                let Some(leader) = partition.leader else {
                    let log = LogId { topic: *id, partition: index };
                    if self.checks.has_lost_too_much(log, partition) {
                        continue;
                    }
                    return wrong("L12", format!("{name} has no leader: {partition:?}"));
                };
                let mut replicas = partition.replicas.clone();
                replicas.sort_unstable();
                if partition.isr != replicas || !partition.elr.is_empty() {
                    return wrong(
                        "L7",
                        format!("{name} does not get its replicas back: {partition:?}"),
                    );
                }
                let log = self.checks.log_index(LogId { topic: *id, partition: index });
                let wall = self.nodes[(leader.0 - 1) as usize].clocks(self.now).wall;
                if let Some(story) = self.checks.kept_too_long(leader, log, wall) {
                    return wrong("L13", story);
                }
                let end_of = |node: i32| {
                    let logs = &self.checks.nodes[(node - 1) as usize].logs;
                    logs.get(log).and_then(Option::as_ref).map_or(0, |replica| replica.end)
                };
                let end = end_of(leader.0);
                if let Some(short) = replicas.iter().find(|node| end_of(node.0) != end) {
                    return wrong(
                        "L7",
                        format!(
                            "{name}: node {short} ends at {}, leader {leader} at {end}",
                            end_of(short.0)
                        ),
                    );
                }
                let committed = self.checks.logs[log].committed_end();
                if committed != end && committed > 0 {
                    return wrong("L7", format!("{name} ends at {end}, committed is {committed}"));
                }
            }
        }
        for (node, sim) in self.nodes.iter().enumerate() {
            if let Some(story) = self.checks.left_behind(node, &sim.disk) {
                return wrong("L14", story);
            }
        }
        if let Some(story) = self.undecided() {
            return wrong("L5", story);
        }
        if let Some(story) = self.remembered() {
            return wrong("L25", story);
        }
        for (index, client) in self.clients.iter().enumerate() {
            if !client.is_done() {
                return wrong(
                    "L6",
                    format!("client {index} waits for an answer: {}", self.waits(client)),
                );
            }
        }
        let metadata = self.checks.logs[QUORUM].committed_end();
        if image.end != metadata {
            return wrong(
                "L4",
                format!("metadata is committed up to {metadata}, shown up to {}", image.end),
            );
        }
        None
    }

    /// A replica that knows a producer for too long (L25).
    fn remembered(&self) -> Option<String> {
        self.nodes.iter().enumerate().find_map(|(node, sim)| {
            let State::Up { shards, .. } = &sim.state else { return None };
            let wall = sim.clocks(self.now).wall;
            let views = shards.iter().map(|shard| shard.view());
            let logs = views.flat_map(|view| {
                view.replicas().filter_map(move |replica| view.store().log(replica.log))
            });
            let mut sound = logs.filter(|log| !log.is_damaged());
            let story = sound.find_map(|log| self.checks.known_too_long(wall, log.producers()))?;
            Some(format!("node {}: {story}", node + 1))
        })
    }

    /// A leader whose proposal of an in-sync set still stands (L5).
    fn undecided(&self) -> Option<String> {
        self.nodes.iter().enumerate().find_map(|(node, sim)| {
            let State::Up { shards, .. } = &sim.state else { return None };
            let mut views = shards.iter().flat_map(|shard| shard.view().replicas());
            let waits = views.find(|view| view.leading && view.maximal_isr != view.isr)?;
            Some(format!(
                "node {} waits for an answer to {:?} as in-sync set of {:?}, which is {:?}",
                node + 1,
                waits.maximal_isr,
                waits.log,
                waits.isr
            ))
        })
    }

    fn waits(&self, client: &Client) -> String {
        let text = format!("{:?}", client.role);
        text.chars().take(400).collect()
    }
}

#[cfg(test)]
mod tests {
    use milena_core::disk::Command;

    use super::*;
    use crate::cluster::Happening;
    use crate::scenario;

    const SEEDS: u64 = 2;

    /// What is written to disks while `goes_on`, a line each.
    fn written(cluster: &mut Cluster, goes_on: impl Fn(&Cluster) -> bool) -> Vec<String> {
        let mut writes = Vec::new();
        while goes_on(cluster) {
            let next = cluster.queue.pop();
            let (at, sequence, happening) = next.expect("there is always a next look");
            cluster.now = at;
            if let Happening::Disk { node, slot, .. } = &happening
                && let Some(Some(under_way)) = cluster.nodes[*node].under_way.get(*slot)
                && let Command::Write { file, .. } | Command::Fill { file, .. } = &under_way.command
            {
                writes.push(format!("node {} at {at}: {file}", node + 1));
            }
            cluster.happen(sequence, happening).expect("a run that holds");
        }
        writes
    }

    #[test]
    fn the_disks_of_an_idle_cluster_come_to_rest() {
        for name in ["steady", "swarm"] {
            let scenario = scenario::named(name).expect("a scenario of the list");
            for seed in 0..SEEDS {
                let mut schedule = scenario.expand(seed);
                schedule.setup.producers.iter_mut().for_each(|producer| producer.pause_us = 30_000);
                schedule.setup.consumers.iter_mut().for_each(|consumer| consumer.pause_us = 60_000);
                let mut cluster = Cluster::new(schedule, false);
                let busy = written(&mut cluster, |cluster| cluster.phase != Phase::Done);
                assert!(!busy.is_empty(), "{name} {seed}");
                // The last records of a topic that keeps them for some seconds expire first.
                let rests_at = cluster.now + 8_000 * MS;
                written(&mut cluster, |cluster| cluster.now < rests_at);
                let idle = written(&mut cluster, |cluster| cluster.now < rests_at + 8_000 * MS);
                assert_eq!(idle, [""; 0], "{name} {seed}");
            }
        }
    }
}
