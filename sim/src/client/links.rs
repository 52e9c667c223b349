//! The links between clients and brokers: cut one way or both, or slow, for a while; and clients that read nothing for a while.
//!
//! A client's connection keeps its order and loses nothing while it lives, so a cut holds back what is sent until it ends; by
//! then the client may have given the connection up, and what it had sent still arrives.

use crate::queue::Time;

/// One way of one link.
#[derive(Clone, Copy, Default, Debug)]
struct Way {
    cut_until: Time,
    slow_until: Time,
    factor: u64,
}

impl Way {
    fn arrival(&self, now: Time, delay: Time) -> Time {
        let factor = if now < self.slow_until { self.factor.max(1) } else { 1 };
        now.max(self.cut_until) + delay * factor
    }
}

/// What is between a client and a node.
#[derive(Clone, Copy, Default, Debug)]
struct Link {
    /// To the node, and to the client.
    ways: [Way; 2],
    /// Until then the client takes nothing of what comes.
    reads_from: Time,
}

/// All links of the clients of a run.
#[derive(Debug)]
pub struct ClientLinks {
    nodes: usize,
    /// By client and node.
    links: Vec<Link>,
}

impl ClientLinks {
    /// Undisturbed links to so many nodes.
    pub fn new(nodes: usize) -> ClientLinks {
        ClientLinks { nodes, links: Vec::new() }
    }

    fn link(&mut self, client: usize, node: usize) -> &mut Link {
        let index = client * self.nodes + node;
        if self.links.len() <= index {
            self.links.resize(index + 1, Link::default());
        }
        &mut self.links[index]
    }

    /// When something that a client sends now with a usual delay reaches a node.
    pub fn to_node(&mut self, now: Time, client: usize, node: usize, delay: Time) -> Time {
        self.link(client, node).ways[0].arrival(now, delay)
    }

    /// When something that a node sends now with a usual delay reaches a client.
    pub fn to_client(&mut self, now: Time, client: usize, node: usize, delay: Time) -> Time {
        self.link(client, node).ways[1].arrival(now, delay)
    }

    /// Cuts the way to a node, that to a client, or both.
    pub fn cut(&mut self, client: usize, node: usize, to_node: bool, to_client: bool, until: Time) {
        let [there, back] = &mut self.link(client, node).ways;
        for (way, cut) in [(there, to_node), (back, to_client)] {
            if cut {
                way.cut_until = way.cut_until.max(until);
            }
        }
    }

    /// Makes both ways slower by a factor.
    pub fn slow(&mut self, client: usize, node: usize, factor: u64, until: Time) {
        for way in &mut self.link(client, node).ways {
            (way.slow_until, way.factor) = (until, factor);
        }
    }

    /// The client takes nothing from a node until then.
    pub fn stop_reading(&mut self, client: usize, node: usize, until: Time) {
        let link = self.link(client, node);
        link.reads_from = link.reads_from.max(until);
    }

    /// Whether a client takes what comes from a node.
    pub fn reads(&mut self, now: Time, client: usize, node: usize) -> bool {
        self.link(client, node).reads_from <= now
    }

    /// Whether nothing has disturbed it since a time.
    pub fn is_well(&self, since: Time, client: usize, node: usize) -> bool {
        let link = self.links.get(client * self.nodes + node);
        link.is_none_or(|link| {
            let undisturbed = |way: &Way| way.cut_until.max(way.slow_until) <= since;
            link.reads_from <= since && link.ways.iter().all(undisturbed)
        })
    }

    /// Ends every disturbance by now. What was held back before stays so.
    pub fn heal(&mut self, now: Time) {
        for link in &mut self.links {
            link.reads_from = link.reads_from.min(now);
            for way in &mut link.ways {
                way.cut_until = way.cut_until.min(now);
                way.slow_until = way.slow_until.min(now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_holds_back_and_ends() {
        let mut links = ClientLinks::new(3);
        links.cut(1, 2, true, false, 1_000);
        assert_eq!(links.to_node(10, 1, 2, 5), 1_005);
        assert_eq!(links.to_client(10, 1, 2, 5), 15);
        assert_eq!(links.to_node(10, 1, 1, 5), 15);
        assert_eq!(links.to_node(2_000, 1, 2, 5), 2_005);
        links.slow(1, 2, 10, 3_000);
        assert_eq!(links.to_client(2_000, 1, 2, 5), 2_050);
        assert!(!links.is_well(2_999, 1, 2) && links.is_well(3_000, 1, 2));
        links.stop_reading(0, 1, 4_000);
        links.stop_reading(0, 1, 3_500);
        assert!(!links.reads(3_999, 0, 1) && links.reads(4_000, 0, 1) && links.reads(0, 0, 2));
        assert!(!links.is_well(3_999, 0, 1) && links.is_well(4_000, 0, 1));
        links.heal(2_500);
        assert!(links.reads(2_500, 0, 1));
        assert!(!links.is_well(2_499, 1, 2), "what was sent before may be on its way still");
        assert_eq!(links.to_client(2_500, 1, 2, 5), 2_505);
    }
}
