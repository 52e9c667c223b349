//! What the image and this broker's registration mean for the replicas: which there are, what they are, which logs go.

use std::sync::Arc;

use super::{Key, Partitions};
use crate::image::{Broker, Changes, Image};
use crate::replica::{Context, Replica, State};
use crate::trace::{Event, Mark};
use crate::{BrokerEpoch, Config, Incarnation, LogId, NodeId, Outputs};

impl<W: Copy + Ord> Partitions<W> {
    /// Takes this broker's registration, or the end of one.
    pub fn on_serving(&mut self, epoch: Option<BrokerEpoch>, out: &mut Outputs) {
        self.host.serving = epoch;
        self.look_at_all(out);
        self.take_ahead(out);
    }

    /// Takes a newer image.
    pub fn on_image(&mut self, image: Arc<Image>, out: &mut Outputs) {
        if image.end < self.host.image.end {
            return;
        }
        let before = std::mem::replace(&mut self.host.image, image.clone());
        let Changes { gone, changed } = image.changes_since(&before);
        for topic in gone {
            let first = LogId { topic, partition: 0 };
            let last = LogId { topic, partition: i32::MAX };
            let logs: Vec<LogId> = self.replicas.range(first..=last).map(|(log, _)| *log).collect();
            logs.into_iter().for_each(|log| self.delete(log, out));
        }
        self.delete_orphans(out);
        for log in changed {
            self.take(log, &image);
        }
        if lives(&before).ne(lives(&image)) {
            self.look_at_all(out);
        } else {
            for log in std::mem::take(&mut self.touched) {
                self.look_at(log, out);
            }
        }
        self.take_ahead(out);
    }

    /// Makes a replica for a partition that this broker holds and this shard owns; it is looked at next.
    fn take(&mut self, log: LogId, image: &Image) {
        let Config { node, shards, .. } = *self.host.config;
        let Some((_, partition)) = image.partition(log) else { return };
        let mine = log.shard(shards) == self.index;
        if mine && (partition.is_replica(node) || self.replicas.contains_key(&log)) {
            self.orphans.remove(&log);
            let store = &self.host.store;
            self.replicas.entry(log).or_insert_with(|| Replica::new(log, store));
            self.touched.insert(log);
        }
    }

    /// Deletes logs left by topics that were deleted while this node was down. An image that is older than the one which
    /// named a log knows nothing of it; one that is as new and does not name it means that it was deleted since. Where what says
    /// which image that was is damaged, the one under which this broker serves is new enough.
    fn delete_orphans(&mut self, out: &mut Outputs) {
        let image = self.host.image.clone();
        let serves = self.host.acting().is_some();
        let deleted = |log: &LogId| {
            let Some(found) = self.host.store.log(*log) else { return false };
            let is_news = match State::decode(found.state()) {
                Some(state) => state.cluster == image.cluster && state.named_at <= image.end,
                None => serves && found.is_damaged(),
            };
            is_news && !image.topics.contains_key(&log.topic)
        };
        let deleted: Vec<LogId> = self.orphans.iter().copied().filter(deleted).collect();
        for log in deleted {
            out.event(|| Event::Sometimes(Mark::ShardOrphanDeleted));
            self.delete(log, out);
        }
    }

    fn delete(&mut self, log: LogId, out: &mut Outputs) {
        self.replicas.remove(&log);
        self.orphans.remove(&log);
        self.unflushed.remove(&log);
        self.timers.remove(Key::Replica(log));
        if self.host.store.log(log).is_some() {
            self.host.store.delete(log, out);
        }
        // What waits for it is answered at the end of the step.
        self.touched.insert(log);
    }

    fn look_at_all(&mut self, out: &mut Outputs) {
        let logs: Vec<LogId> = self.replicas.keys().copied().collect();
        logs.into_iter().for_each(|log| self.look_at(log, out));
        if self.host.acting().is_some() {
            // The image is at least as new as all that this disk may hold of a partition that still is.
            self.host.store.all_asked_for();
            self.delete_orphans(out);
        }
    }

    /// Shows a replica the new image.
    fn look_at(&mut self, log: LogId, out: &mut Outputs) {
        self.touched.insert(log);
        let Some(replica) = self.replicas.get_mut(&log) else { return };
        let mut cx = Context { now: self.now, host: &mut self.host, out };
        replica.on_metadata(&mut cx);
        if let (Some(settings), Some(_)) = (replica.settings(), self.host.store.log(log)) {
            let rules = settings.segment_rules(&self.host.config);
            self.host.store.set_segment_rules(log, rules);
        }
    }
}

/// What replicas care for of each broker: which life of it is in service.
fn lives(
    image: &Image,
) -> impl Iterator<Item = (NodeId, Incarnation, BrokerEpoch, Option<BrokerEpoch>, bool)> {
    image.brokers.iter().map(|(node, broker)| {
        let Broker { incarnation, epoch, confirmed, fenced, .. } = broker;
        (*node, *incarnation, *epoch, *confirmed, *fenced)
    })
}
