//! Producer ids: brokers give them to producers, out of blocks that the metadata gives to brokers.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{NodeId, ProducerId};

/// Ids of a block, as in Kafka.
const BLOCK: i64 = 1_000;

/// Which producer ids are given to whom. An id is given once in the life of a cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ProducerIds {
    /// The first that is free.
    pub next: ProducerId,
    /// The last block of each broker under its present registration. Under another one it is another process, which knows
    /// nothing of what was given out of that block.
    pub blocks: BTreeMap<NodeId, Range<ProducerId>>,
}

impl ProducerIds {
    /// What the first free id will be when another block is given; none where so many are not left.
    pub fn end_of_next_block(&self) -> Option<ProducerId> {
        self.next.checked_add(BLOCK)
    }

    /// Which block a broker has, by its first id.
    pub fn last_of(&self, node: NodeId) -> Option<ProducerId> {
        self.blocks.get(&node).map(|block| block.start)
    }

    /// Gives a broker all ids from the first free one up to here.
    pub(super) fn give(&mut self, node: NodeId, next: ProducerId) {
        assert!(next > self.next, "ids are given once");
        self.blocks.insert(node, self.next..next);
        self.next = next;
    }
}
