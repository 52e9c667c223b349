//! Whoever watches a node asks its workers by mail. One that does not answer in time is said to be silent; nobody waits for it
//! any longer, and it for nobody.

use std::sync::Arc;

use milena_core::NodeId;
use milena_core::replica::PartitionView;

use crate::files::{Files, SyncTimes};
use crate::host::{Mail, Mailbox};
use crate::kafka::{Counts, Limits, Load};
use crate::report::{Ask, PARTITIONS, Report};
use crate::runtime::{Clock, oneshot, select};
use crate::warnings::Warnings;

/// A worker that has not answered within this time is silent.
const PATIENCE_MS: u64 = 1_000;

/// A node's workers, for whoever watches them.
#[derive(Clone)]
pub struct Watch {
    /// The node.
    pub node: NodeId,
    /// Whether it is a broker, not a controller alone.
    pub broker: bool,
    /// The node's clock.
    pub clock: Clock,
    pub(crate) mailboxes: Vec<Mailbox>,
    pub(crate) files: Arc<Files>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) limits: Limits,
}

impl Watch {
    /// Asks every worker; nothing of those that are silent.
    pub async fn reports(&self) -> Vec<Option<Report>> {
        let until = self.clock.mono().after_ms(PATIENCE_MS);
        let asked: Vec<_> = (0..self.mailboxes.len()).map(|w| self.ask(w, Ask::Report)).collect();
        let mut reports = Vec::new();
        for answer in asked {
            reports.push(select! {
                biased;
                report = answer => report.ok(),
                () = self.clock.sleep_until(Some(until)) => None,
            });
        }
        reports
    }

    /// All partitions of a worker's shard, a few at a time; nothing where it falls silent meanwhile.
    pub async fn partitions(&self, worker: usize) -> Option<Vec<PartitionView>> {
        let mut all: Vec<PartitionView> = Vec::new();
        loop {
            let after = all.last().map(|partition| partition.log);
            let until = self.clock.mono().after_ms(PATIENCE_MS);
            let some = select! {
                biased;
                some = self.ask(worker, |sender| Ask::Partitions(after, sender)) => some.ok()?,
                () = self.clock.sleep_until(Some(until)) => return None,
            };
            let last = some.len() < PARTITIONS;
            all.extend(some);
            if last {
                return Some(all);
            }
        }
    }

    fn ask<T>(
        &self,
        worker: usize,
        ask: impl FnOnce(oneshot::Sender<T>) -> Ask,
    ) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        // One that has ended drops the sender, and so answers that there is nothing.
        let _ = self.mailboxes[worker].send(Mail::Ask(ask(sender)));
        receiver
    }

    /// What all threads of the node count together.
    pub fn load(&self) -> Load {
        self.counts.load(&self.limits)
    }

    /// How long syncs took.
    pub fn sync_times(&self) -> SyncTimes {
        self.files.sync_times()
    }

    /// For what is said of connections.
    pub fn warnings(&self) -> Arc<Warnings> {
        self.counts.warnings.clone()
    }
}
