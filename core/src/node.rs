//! How a node comes up: recovery of its disk first, then its machines.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::metadata::Metadata;
use crate::shard::Shard;
use crate::storage::{Recovery, Superblock};
use crate::{Config, Input, Instant, Machine, Now, Outputs, Timer, View};

/// A node whose disk is being recovered. Disk operations that it puts out are its own; once [`Boot::take`] has given the
/// machines, theirs begin.
pub struct Boot {
    config: Arc<Config>,
    recovery: Recovery,
    entropy: ChaCha8Rng,
}

/// A node's machines, none of them started: each wants [`Input::Start`] first.
pub struct Node {
    /// What the disk says of itself.
    pub superblock: Superblock,
    /// Quorum, controller and the broker's registration.
    pub metadata: Metadata,
    /// One per shard of the configuration.
    pub shards: Vec<Shard>,
}

impl Boot {
    /// Begins with 32 bytes of entropy, from which every draw of this node in this run is forked. The same bytes must never
    /// be given to two starts.
    pub fn new(config: Config, entropy: [u8; 32]) -> Boot {
        let mut entropy = ChaCha8Rng::from_seed(entropy);
        Boot {
            recovery: Recovery::new(&config, fork(&mut entropy)),
            config: Arc::new(config),
            entropy,
        }
    }

    /// The machines, once recovery is done; once.
    pub fn take(&mut self) -> Option<Node> {
        let recovered = self.recovery.take()?;
        let (config, superblock) = (&self.config, &recovered.superblock);
        let metadata = Metadata::new(
            config.clone(),
            superblock,
            recovered.quorum_damaged,
            recovered.metadata,
            fork(&mut self.entropy),
        );
        let shards = (0..)
            .zip(recovered.shards)
            .map(|(index, store)| {
                Shard::new(config.clone(), index, superblock, store, fork(&mut self.entropy))
            })
            .collect();
        Some(Node { metadata, shards, superblock: recovered.superblock })
    }
}

impl Machine for Boot {
    /// Takes [`Input::Start`] once, then each [`Input::Disk`] and its deadline.
    fn step(&mut self, now: Now, input: Input, out: &mut Outputs) {
        self.recovery.step(now, input, out);
    }

    fn next_timeout(&self) -> Option<(Instant, Timer)> {
        self.recovery.next_timeout()
    }

    fn view(&self) -> View<'_> {
        View::Nothing
    }

    fn check_invariants(&self) {}
}

fn fork(entropy: &mut ChaCha8Rng) -> [u8; 32] {
    let mut seed = [0; 32];
    entropy.fill_bytes(&mut seed);
    seed
}
