//! Pushes of leaders that this node's metadata does not show yet. A new leader and its followers hear of the same change, each
//! in its own time; a follower that hears last would drop the first push, and the leader send the next one only when it has
//! waited for an answer for long. So the head of such a push is kept until the metadata is here: that is no other than a push
//! that came a little later. Its records are not, since whoever leads sends them again where the logs are found to agree.

use std::collections::BTreeMap;

use super::Partitions;
use crate::replica::message::Push;
use crate::{Instant, LogId, NodeId, Outputs};

/// Heads kept at most.
const HEADS_MAX: usize = 10_000;

/// The last push that was ahead, of each log.
#[derive(Debug, Default)]
pub(super) struct Ahead(BTreeMap<LogId, Head>);

#[derive(Debug)]
struct Head {
    from: NodeId,
    push: Push,
    /// From then on the leader has sent another one.
    until: Instant,
}

impl<W: Copy + Ord> Partitions<W> {
    /// Keeps a push that speaks of what this node's metadata does not show yet; gives back any other.
    pub(super) fn keep_ahead(&mut self, from: NodeId, push: Push) -> Option<Push> {
        if !self.is_ahead(&push) {
            return Some(push);
        }
        let heads = &mut self.ahead.0;
        // What a log begins with may be large.
        let is_small = push.begin.is_none();
        if is_small && (heads.len() < HEADS_MAX || heads.contains_key(&push.log)) {
            let until = self.now.mono.after_ms(self.host.config.replication.push_retry_ms);
            let push = Push { records: Vec::new(), ..push };
            heads.insert(push.log, Head { from, push, until });
        }
        None
    }

    /// Takes what is ahead no more.
    pub(super) fn take_ahead(&mut self, out: &mut Outputs) {
        let now = self.now.mono;
        for (log, head) in std::mem::take(&mut self.ahead.0) {
            if now >= head.until {
                continue;
            }
            if self.is_ahead(&head.push) {
                self.ahead.0.insert(log, head);
            } else {
                self.take_push(head.from, head.push, out);
            }
        }
    }

    /// Whether it is of a later epoch of its leader, or for a later registration of this broker.
    fn is_ahead(&self, push: &Push) -> bool {
        let led = self.host.image.partition(push.log).map(|(_, partition)| partition.leader_epoch);
        led.is_none_or(|epoch| epoch < push.leader_epoch)
            || self.host.acting().is_none_or(|epoch| epoch < push.follower_epoch)
    }
}
