//! What a replica shows of itself: all of it to checkers, and to operators what they watch a partition by.

use std::sync::Arc;

use super::{Host, Replica, Role};
use crate::image::{Partition, Topic};
use crate::storage::Log;
use crate::{Epoch, LogId, NodeId, Offset, ReplicaIncarnation};

/// A view of a replica for checkers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaView {
    /// The partition.
    pub log: LogId,
    /// Whether it leads.
    pub leading: bool,
    /// Epoch in which it leads or follows; none while idle.
    pub leader_epoch: Option<Epoch>,
    /// Partition epoch that it knows.
    pub partition_epoch: i32,
    /// Everything below is committed.
    pub high_watermark: Offset,
    /// Log start offset.
    pub start: Offset,
    /// Log end offset.
    pub end: Offset,
    /// End of what is on stable storage.
    pub flushed_end: Offset,
    /// In-sync replicas as committed.
    pub isr: Vec<NodeId>,
    /// On a leader, those and any that stand proposed; else as `isr`.
    pub maximal_isr: Vec<NodeId>,
    /// Effective `min.insync.replicas`.
    pub min_isr: u16,
    /// Whether its data is damaged, or of an ended life.
    pub damaged: bool,
    /// The life of the data on this disk.
    pub incarnation: ReplicaIncarnation,
}

/// A replica as an operator watches it.
#[derive(Clone, Debug)]
pub struct PartitionView {
    /// The partition.
    pub log: LogId,
    /// Its topic, as the metadata has it.
    pub topic: Arc<Topic>,
    /// Its record.
    pub partition: Arc<Partition>,
    /// Whether it leads.
    pub leading: bool,
    /// Whether its data is damaged, or of an ended life.
    pub damaged: bool,
    /// Log start offset.
    pub start: Offset,
    /// Log end offset.
    pub end: Offset,
    /// Everything below is committed, as far as this replica knows.
    pub high_watermark: Offset,
    /// Bytes of its log.
    pub bytes: u64,
    /// What clients wrote and read.
    pub tally: Tally,
}

/// What clients wrote to a replica and read from it since there is this replica in this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Records that it appended as leader.
    pub records_in: u64,
    /// Bytes of their batches.
    pub bytes_in: u64,
    /// Bytes of batches that it gave to readers.
    pub bytes_out: u64,
}

impl Replica {
    /// What operators see of it; nothing where the metadata does not name it.
    pub fn shown(&self, host: &Host) -> Option<PartitionView> {
        let (log, (topic, partition)) = (host.store.log(self.log), self.named.clone()?);
        Some(PartitionView {
            log: self.log,
            topic,
            partition,
            leading: matches!(self.role, Role::Leader(_)),
            damaged: self.is_damaged(host),
            start: log.map_or(0, Log::start),
            end: log.map_or(0, Log::end),
            high_watermark: self.high_watermark,
            bytes: log.map_or(0, Log::bytes),
            tally: self.tally,
        })
    }

    /// Whether its data is damaged, or of an ended life.
    fn is_damaged(&self, host: &Host) -> bool {
        let expected = self.partition().and_then(|p| p.incarnation(host.config.node));
        host.store.log(self.log).is_some_and(Log::is_damaged) || expected > self.life
    }

    /// For checkers.
    pub fn view(&self, host: &Host) -> ReplicaView {
        let log = host.store.log(self.log);
        let partition = self.partition();
        let isr = partition.map(|p| p.isr.clone()).unwrap_or_default();
        let (leading, leader_epoch, maximal_isr) = match &self.role {
            Role::Idle => (false, None, isr.clone()),
            Role::Follower(follower) => (false, Some(follower.epoch), isr.clone()),
            Role::Leader(leader) => (true, Some(leader.epoch), leader.maximal()),
        };
        ReplicaView {
            log: self.log,
            leading,
            leader_epoch,
            partition_epoch: partition.map_or(-1, |p| p.partition_epoch),
            high_watermark: self.high_watermark,
            start: log.map_or(0, Log::start),
            end: log.map_or(0, Log::end),
            flushed_end: log.map_or(0, Log::flushed_end),
            isr,
            maximal_isr,
            min_isr: partition.map_or(0, |p| p.min_isr),
            damaged: self.is_damaged(host),
            incarnation: self.life.unwrap_or_default(),
        }
    }
}
