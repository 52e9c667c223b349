//! Clusters that are not a few nodes of one kind: who is a controller, who a broker, and who is there from the beginning.

use super::WARM_UP_MS;
use crate::rng::Stream;
use crate::schedule::NodeSetup;

/// What is particular about the nodes of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// Controllers that hold no partition, beside brokers that have no vote.
    ControllersAlone,
    /// A quorum of one, so that nothing is decided while it is away.
    OneController,
    /// Brokers that join when there are topics already.
    LateJoiners,
    /// Seven nodes, with as many controllers as that allows or fewer.
    Seven,
}

impl Layout {
    /// Every one, in the order in which seeds have their turn.
    pub const ALL: [Layout; 4] =
        [Layout::ControllersAlone, Layout::OneController, Layout::LateJoiners, Layout::Seven];

    /// The nodes. At least three brokers are there from the beginning, controllers first.
    pub fn nodes(self, draw: &mut Stream) -> Vec<NodeSetup> {
        let (controllers, count) = match self {
            Layout::ControllersAlone => (3, 6 + draw.below(2) as usize),
            Layout::OneController => (1, 3 + draw.below(2) as usize),
            Layout::LateJoiners => (3, 4 + draw.below(2) as usize),
            Layout::Seven => (*draw.pick(&[3, 5, 7]), 7),
        };
        let node = |index| {
            let controller = index < controllers;
            let joins_late = self == Layout::LateJoiners && !controller;
            let late_ms = if joins_late { WARM_UP_MS + draw.below(4_000) } else { 0 };
            NodeSetup {
                broker: self != Layout::ControllersAlone || !controller,
                controller,
                shards: draw.between(1, 4) as u16,
                start_ms: late_ms + draw.below(100),
            }
        };
        (0..count).map(node).collect()
    }
}
