//! The network between nodes: a directed link per pair.
//!
//! A link behaves as a connection does until it is disturbed: messages arrive in order after a delay. A partition swallows
//! what is sent (one way or both), a broken connection also what is under way, and per seed a few messages are lost, doubled
//! or reordered, as reconnecting and retrying do it. Bytes are not made: messages pass as values, and the cluster compares
//! a sample of them with what their encoding gives back.

use crate::queue::{MS, Time};
use crate::rng::{Concern, Stream};

/// How a network treats messages, in millionths where it is a chance.
#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
pub struct NetworkSettings {
    /// Typical delay of a message, microseconds.
    pub latency_us: u64,
    /// Chance of losing one.
    pub loss: u32,
    /// Chance of doubling one.
    pub duplication: u32,
    /// Chance that one is overtaken by later ones.
    pub reordering: u32,
}

/// What becomes of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// When it arrives, if it does.
    pub arrives: Option<Time>,
    /// When a second copy of it does.
    pub again: Option<Time>,
    /// The life of the link; a message of an earlier one is dropped on arrival.
    pub life: u32,
}

/// One directed link.
#[derive(Debug)]
struct Link {
    stream: Stream,
    blocked: u32,
    slow: u64,
    storm: u32,
    life: u32,
    last_arrival: Time,
}

/// All links.
#[derive(Debug)]
pub struct Network {
    settings: NetworkSettings,
    nodes: usize,
    links: Vec<Link>,
}

/// What is sent now arrives no later than so much from now on, or the link is slow for what was sent before.
const HELD_BACK: Time = 100 * MS;

/// Chance in a million that a storm adds to loss, duplication and reordering.
const STORM: u32 = 100_000;

impl Network {
    /// Links between `nodes` nodes.
    pub fn new(seed: u64, nodes: usize, settings: NetworkSettings) -> Network {
        let links = (0..nodes * nodes)
            .map(|index| Link {
                stream: Stream::new(seed, Concern::Link(index as u32)),
                blocked: 0,
                slow: 1,
                storm: 0,
                life: 0,
                last_arrival: 0,
            })
            .collect();
        Network { settings, nodes, links }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.nodes + to]
    }

    /// What becomes of a message sent now.
    pub fn send(&mut self, now: Time, from: usize, to: usize) -> Verdict {
        let settings = self.settings.clone();
        let link = self.link(from, to);
        let extra = if link.storm > 0 { STORM } else { 0 };
        let mut delay = link.stream.delay(settings.latency_us * 1_000) * link.slow;
        let lost = link.stream.chance(settings.loss + extra);
        let doubled = link.stream.chance(settings.duplication + extra);
        let overtaken = link.stream.chance(settings.reordering + extra);
        if link.blocked > 0 || lost {
            return Verdict::default();
        }
        let mut verdict = Verdict { life: link.life, ..Verdict::default() };
        if overtaken {
            delay += link.stream.delay(settings.latency_us * 8_000);
            verdict.arrives = Some(now + delay);
        } else {
            link.last_arrival = link.last_arrival.max(now + delay);
            verdict.arrives = Some(link.last_arrival);
        }
        if doubled {
            // A copy that a retry sends much later is the one that finds the world changed.
            let late = link.stream.delay(settings.latency_us * 1_000 * 20);
            verdict.again = verdict.arrives.map(|at| at + late);
        }
        verdict
    }

    /// Whether a message sent in this life of the link may still arrive.
    pub fn arrives(&self, from: usize, to: usize, life: u32) -> bool {
        let link = &self.links[from * self.nodes + to];
        link.life == life && link.blocked == 0
    }

    /// Whether one direction swallows everything.
    pub fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.links[from * self.nodes + to].blocked > 0
    }

    /// Whether one direction is as it should be, and nothing that was sent before holds back what is sent now.
    pub fn is_well(&self, now: Time, from: usize, to: usize) -> bool {
        let link = &self.links[from * self.nodes + to];
        (link.blocked, link.slow, link.storm) == (0, 1, 0) && link.last_arrival <= now + HELD_BACK
    }

    /// Blocks or unblocks one direction; blocks add up.
    pub fn block(&mut self, from: usize, to: usize, block: bool) {
        let link = self.link(from, to);
        link.blocked = if block { link.blocked + 1 } else { link.blocked.saturating_sub(1) };
    }

    /// Breaks the connection in one direction: what is under way is gone.
    pub fn sever(&mut self, from: usize, to: usize) {
        let link = self.link(from, to);
        link.life += 1;
        link.last_arrival = 0;
    }

    /// Makes one direction slower by a factor, 1 being as usual.
    pub fn slow(&mut self, from: usize, to: usize, factor: u64) {
        self.link(from, to).slow = factor.max(1);
    }

    /// Begins or ends a storm on every link.
    pub fn storm(&mut self, begins: bool) {
        for link in &mut self.links {
            link.storm = if begins { link.storm + 1 } else { link.storm.saturating_sub(1) };
        }
    }

    /// Ends every disturbance.
    pub fn heal(&mut self) {
        self.settings.loss = 0;
        self.settings.duplication = 0;
        self.settings.reordering = 0;
        for link in &mut self.links {
            (link.blocked, link.slow, link.storm) = (0, 1, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(loss: u32, duplication: u32) -> Network {
        let settings = NetworkSettings { latency_us: 100, loss, duplication, reordering: 0 };
        Network::new(3, 3, settings)
    }

    #[test]
    fn an_undisturbed_link_keeps_order() {
        let mut network = network(0, 0);
        let mut last = 0;
        for now in 0..1_000 {
            let at = network.send(now, 0, 1).arrives.expect("nothing is lost");
            assert!(at >= last && at > now);
            last = at;
        }
    }

    #[test]
    fn a_one_way_partition_swallows_one_way() {
        let mut network = network(0, 0);
        network.block(0, 1, true);
        assert_eq!(network.send(0, 0, 1).arrives, None);
        assert!(network.send(0, 1, 0).arrives.is_some());
        network.heal();
        assert!(network.send(0, 0, 1).arrives.is_some());
    }

    #[test]
    fn a_broken_connection_loses_what_is_under_way() {
        let mut network = network(0, 1_000_000);
        let verdict = network.send(0, 2, 1);
        assert!(verdict.again > verdict.arrives);
        network.sever(2, 1);
        assert!(!network.arrives(2, 1, verdict.life));
        let verdict = network.send(0, 2, 1);
        assert!(network.arrives(2, 1, verdict.life));
    }
}
