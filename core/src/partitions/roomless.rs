//! Pushes that find no room in the store, as all do for a while after a start: the journal's files are filled ahead of their use
//! first. A leader that hears nothing of a push asks again only when it has waited for long, and whatever waits for this
//! replica waits with it. So the last such push of each log is kept until there is room, within a share of the memory.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{Partitions, ROOMLESS_SHARE};
use crate::replica::message::Push;
use crate::{LogId, NodeId, Outputs};

/// The last push of each log that found no room, in the order in which they are to have it.
#[derive(Default, Debug)]
pub(super) struct Roomless {
    order: VecDeque<LogId>,
    pushes: BTreeMap<LogId, (NodeId, Push)>,
    bytes: u64,
}

impl<W: Copy + Ord> Partitions<W> {
    /// Keeps a push until there is room; where even that is too much, the leader sends it again.
    pub(super) fn keep_roomless(&mut self, from: NodeId, push: Push) {
        let most = self.host.config.storage.memory_bytes_max / ROOMLESS_SHARE;
        let roomless = &mut self.roomless;
        let log = push.log;
        let before = roomless.pushes.get(&log).map_or(0, |(_, before)| bytes_of(before));
        let bytes = roomless.bytes - before + bytes_of(&push);
        if bytes > most {
            return;
        }
        roomless.bytes = bytes;
        // Both begin at or before this log's end; what the later one has not, the leader sends once that is acknowledged.
        if roomless.pushes.insert(log, (from, push)).is_none() {
            roomless.order.push_back(log);
        }
    }

    /// Whether a push waits for room.
    pub(super) fn has_roomless(&self) -> bool {
        !self.roomless.order.is_empty()
    }

    /// Takes what found no room, while there is some.
    pub fn take_roomless(&mut self, out: &mut Outputs) {
        while self.host.store.has_room()
            && let Some(log) = self.roomless.order.pop_front()
        {
            let (from, push) = self.roomless.pushes.remove(&log).expect("in the order");
            self.roomless.bytes -= bytes_of(&push);
            self.take_push(from, push, out);
        }
    }
}

fn bytes_of(push: &Push) -> u64 {
    push.records.iter().map(Bytes::len).sum::<usize>() as u64
}
