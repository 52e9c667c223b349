//! Requests that come before a node that has just started knows what it takes to answer them. Tools that ask once would fail
//! on an answer that is outdated a moment later, so these wait, for a few seconds at most.
//!
//! Only those that ask about the cluster: what asks a partition's leader is told at once that this broker leads nothing yet. That
//! sends a client to whoever took over when this broker stopped, and sooner than this one could serve.

use super::Partitions;
use super::asked::Asked;
use crate::image::Partition;
use crate::{ClientId, EARLY_MS, Instant, OTHERS_MS, Timer, api};

/// What waits, and for how long.
#[derive(Debug, Default)]
pub(super) struct Early {
    /// When it is answered with what is known; none once enough was.
    until: Option<Instant>,
    /// Whether this broker serves, and only others are waited for.
    serves: bool,
    waiting: Vec<Asked>,
}

impl Early {
    /// Begins with a node that has just started.
    pub fn begin(&mut self, now: Instant) {
        self.until = Some(now.after_ms(EARLY_MS));
    }

    /// When to end, and why.
    pub fn next_due(&self) -> Option<(Instant, Timer)> {
        self.until.map(|at| (at, Timer::Early))
    }

    /// Whether a request that asks who is there must wait.
    pub fn must_wait(&self, partitions: &Partitions) -> bool {
        self.until.is_some() && !knows_enough(partitions)
    }

    /// Keeps a request that must wait.
    pub fn keep(&mut self, asked: Asked) {
        self.waiting.push(asked);
    }

    /// Gives back what waited once enough is known; from then on nothing waits any more.
    pub fn look(&mut self, partitions: &Partitions) -> Vec<Asked> {
        if self.until.is_none() {
            return Vec::new();
        }
        if knows_enough(partitions) {
            return self.end();
        }
        if serves_and_knows(partitions) && !self.serves {
            // Whoever may lead what has no leader may be down for long.
            self.serves = true;
            let soon = partitions.now().mono.after_ms(OTHERS_MS);
            self.until = self.until.map(|until| until.min(soon));
        }
        Vec::new()
    }

    /// Gives back what waited, to be answered with what is known.
    pub fn end(&mut self) -> Vec<Asked> {
        self.until = None;
        std::mem::take(&mut self.waiting)
    }

    /// Drops what nobody waits for any more.
    pub fn forget(&mut self, client: ClientId) {
        self.waiting.retain(|asked| asked.caller.client != client);
    }
}

/// Whether this broker serves, and each partition has a leader or nobody who could be one, as far as it knows.
fn knows_enough(partitions: &Partitions) -> bool {
    let is_settled = |partition: &Partition| {
        partition.leader.is_some() || (partition.isr.is_empty() && partition.elr.is_empty())
    };
    serves_and_knows(partitions)
        && partitions.image().partitions().all(|(_, partition)| is_settled(partition))
}

fn serves_and_knows(partitions: &Partitions) -> bool {
    partitions.is_serving() && !api::is_unknown(partitions.image())
}
