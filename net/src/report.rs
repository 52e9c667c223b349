//! What a worker says of itself when it is asked, between two turns: what its machines show and what it has counted, in numbers
//! of its own thread.

use std::sync::Arc;

use milena_core::image::Image;
use milena_core::metadata::MetadataView;
use milena_core::replica::PartitionView;
use milena_core::storage::StoreView;
use milena_core::{BrokerEpoch, Epoch, LogId, NodeId, Offset, Place, View};

use crate::metrics::Traffic;
use crate::runtime::oneshot;

/// Partitions of one answer: as many as a worker looks at in a small part of a millisecond.
pub const PARTITIONS: usize = 128;

/// What a worker shows.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Of the metadata, where it is there.
    pub metadata: Option<MetadataReport>,
    /// The shard's number and its storage engine, where it has one.
    pub shard: Option<(u16, StoreView)>,
    /// Of the worker's Kafka connections.
    pub traffic: Traffic,
}

/// What a node knows of its cluster and of its own part.
#[derive(Clone, Debug)]
pub struct MetadataReport {
    /// The metadata that is applied.
    pub image: Arc<Image>,
    /// The term.
    pub term: Epoch,
    /// The leader of the quorum, as far as known.
    pub leader: Option<NodeId>,
    /// Offset after the last record of the metadata log here.
    pub end: Offset,
    /// Everything below is committed.
    pub commit: Offset,
    /// Whether this node is the active controller.
    pub active: bool,
    /// The registration under which this broker serves.
    pub serving: Option<BrokerEpoch>,
    /// Whether the node is to stop.
    pub stopping: bool,
    /// The storage engine of the metadata log.
    pub store: StoreView,
}

/// What is asked of a worker.
pub enum Ask {
    /// What its machines show, but for the partitions.
    Report(oneshot::Sender<Report>),
    /// The next of its shard's partitions.
    Partitions(Option<LogId>, oneshot::Sender<Vec<PartitionView>>),
}

/// The machine of a worker, by its number.
pub fn place(worker: usize) -> Place {
    match worker.checked_sub(1) {
        None => Place::Metadata,
        Some(shard) => Place::Shard(shard as u16),
    }
}

/// Answers what a worker is asked, of what its machine shows and of what it has counted.
pub fn answer(ask: Ask, view: View<'_>, traffic: impl FnOnce() -> Traffic) {
    // Who asked may have gone, which is all the same here.
    match ask {
        Ask::Report(sender) => {
            let mut report = Report { traffic: traffic(), ..Report::default() };
            match view {
                View::Metadata(view) => report.metadata = Some(MetadataReport::new(&view)),
                View::Shard(shard) => report.shard = Some((shard.index(), shard.store().view())),
                View::Nothing => {}
            }
            let _ = sender.send(report);
        }
        Ask::Partitions(after, sender) => {
            let some = match view {
                View::Shard(shard) => shard.partitions(after).take(PARTITIONS).collect(),
                View::Metadata(_) | View::Nothing => Vec::new(),
            };
            let _ = sender.send(some);
        }
    }
}

impl MetadataReport {
    fn new(view: &MetadataView) -> MetadataReport {
        let quorum = view.quorum.view();
        MetadataReport {
            image: view.image.clone(),
            term: quorum.term,
            leader: quorum.leader,
            end: quorum.log_end,
            commit: quorum.commit,
            active: view.active.is_some(),
            serving: view.serving,
            stopping: view.stopping,
            store: view.store.view(),
        }
    }
}
