//! The links between clients and brokers: cut one way or both, or slow, for a while.
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

/// All links of the clients of a run.
#[derive(Debug)]
pub struct ClientLinks {
    nodes: usize,
    /// By client and node: to the node, and to the client.
    links: Vec<[Way; 2]>,
}

impl ClientLinks {
    /// Undisturbed links to so many nodes.
    pub fn new(nodes: usize) -> ClientLinks {
        ClientLinks { nodes, links: Vec::new() }
    }

    fn link(&mut self, client: usize, node: usize) -> &mut [Way; 2] {
        let index = client * self.nodes + node;
        if self.links.len() <= index {
            self.links.resize(index + 1, [Way::default(); 2]);
        }
        &mut self.links[index]
    }

    /// When something that a client sends now with a usual delay reaches a node.
    pub fn to_node(&mut self, now: Time, client: usize, node: usize, delay: Time) -> Time {
        self.link(client, node)[0].arrival(now, delay)
    }

    /// When something that a node sends now with a usual delay reaches a client.
    pub fn to_client(&mut self, now: Time, client: usize, node: usize, delay: Time) -> Time {
        self.link(client, node)[1].arrival(now, delay)
    }

    /// Cuts the way to a node, that to a client, or both.
    pub fn cut(&mut self, client: usize, node: usize, to_node: bool, to_client: bool, until: Time) {
        let [there, back] = self.link(client, node);
        for (way, cut) in [(there, to_node), (back, to_client)] {
            if cut {
                way.cut_until = way.cut_until.max(until);
            }
        }
    }

    /// Makes both ways slower by a factor.
    pub fn slow(&mut self, client: usize, node: usize, factor: u64, until: Time) {
        for way in self.link(client, node) {
            (way.slow_until, way.factor) = (until, factor);
        }
    }

    /// Whether nothing has disturbed either way since a time.
    pub fn is_well(&self, since: Time, client: usize, node: usize) -> bool {
        let link = self.links.get(client * self.nodes + node);
        link.is_none_or(|ways| ways.iter().all(|way| way.cut_until.max(way.slow_until) <= since))
    }

    /// Ends every disturbance by now. What was held back before stays so.
    pub fn heal(&mut self, now: Time) {
        for way in self.links.iter_mut().flatten() {
            way.cut_until = way.cut_until.min(now);
            way.slow_until = way.slow_until.min(now);
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
        links.heal(2_500);
        assert!(!links.is_well(2_499, 1, 2), "what was sent before may be on its way still");
        assert_eq!(links.to_client(2_500, 1, 2, 5), 2_505);
    }
}
