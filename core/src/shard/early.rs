//! Requests that come before a node that has just started knows what it takes to answer them. Tools that ask once would fail
//! on an answer that is outdated a moment later, so these wait, for a few seconds at most.
//!
//! Only those that ask about the cluster: what asks a partition's leader is told at once that this broker leads nothing yet. That
//! sends a client to whoever took over when this broker stopped, and sooner than this one could serve.

use std::sync::Arc;

use milena_wire::Request;

use super::{Key, Shard};
use crate::image::Partition;
use crate::{ClientContext, ClientId, EARLY_MS, Instant, OTHERS_MS, Outputs, Timer, api};

/// A request as it came.
#[derive(Debug)]
struct Held {
    client: ClientId,
    id: u64,
    version: i16,
    request: Request,
    context: Arc<ClientContext>,
}

/// What waits, and for how long.
#[derive(Debug, Default)]
pub(super) struct Early {
    /// When it is answered with what is known; none once enough was.
    until: Option<Instant>,
    /// Whether this broker serves, and only others are waited for.
    serves: bool,
    waiting: Vec<Held>,
}

impl Shard {
    pub(super) fn begin_early(&mut self) {
        self.early.until = Some(self.partitions.now().mono.after_ms(EARLY_MS));
        self.timers.set(Key::Early, self.early.until, Timer::Early);
    }

    /// Keeps a request that must wait; gives back any other.
    pub(super) fn hold(
        &mut self,
        client: ClientId,
        id: u64,
        version: i16,
        request: Request,
        context: &Arc<ClientContext>,
    ) -> Option<Request> {
        let must_wait =
            self.early.until.is_some() && asks_about_cluster(&request) && !self.knows_enough();
        if !must_wait {
            return Some(request);
        }
        let context = context.clone();
        self.early.waiting.push(Held { client, id, version, request, context });
        None
    }

    /// Whether this broker serves, and each partition has a leader or nobody who could be one, as far as it knows.
    fn knows_enough(&self) -> bool {
        let image = self.partitions.image();
        let is_settled = |partition: &Partition| {
            partition.leader.is_some() || (partition.isr.is_empty() && partition.elr.is_empty())
        };
        self.serves_and_knows() && image.partitions().all(|(_, partition)| is_settled(partition))
    }

    fn serves_and_knows(&self) -> bool {
        self.partitions.is_serving() && !api::is_unknown(self.partitions.image())
    }

    /// Answers what waited once enough is known; from then on nothing waits any more.
    pub(super) fn look_at_early(&mut self, out: &mut Outputs) {
        if self.early.until.is_none() {
            return;
        }
        if self.knows_enough() {
            return self.end_early(out);
        }
        if self.serves_and_knows() && !self.early.serves {
            // Whoever may lead what has no leader may be down for long.
            self.early.serves = true;
            let soon = self.partitions.now().mono.after_ms(OTHERS_MS);
            self.early.until = self.early.until.map(|until| until.min(soon));
            self.timers.set(Key::Early, self.early.until, Timer::Early);
        }
    }

    /// Answers what waited with what is known.
    pub(super) fn end_early(&mut self, out: &mut Outputs) {
        self.timers.remove(Key::Early);
        self.early.until = None;
        for Held { client, id, version, request, context } in
            std::mem::take(&mut self.early.waiting)
        {
            self.on_request(client, id, version, request, context, out);
        }
    }

    /// Drops what nobody waits for any more.
    pub(super) fn forget_early(&mut self, client: ClientId) {
        self.early.waiting.retain(|held| held.client != client);
    }
}

/// Whether it asks who is there and who leads.
fn asks_about_cluster(request: &Request) -> bool {
    matches!(
        request,
        Request::Metadata(_) | Request::DescribeCluster(_) | Request::DescribeTopicPartitions(_)
    )
}
