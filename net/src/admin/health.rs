//! Whether a node is well, and whether it is of use yet: one plain line says what lacks.

use milena_core::{NodeId, Place};

use crate::report::{self, Report};

/// Says which of a node's threads do not answer, if any.
pub fn silent(reports: &[Option<Report>]) -> Option<String> {
    let numbered = reports.iter().enumerate().filter(|(_, report)| report.is_none());
    let named = numbered.map(|(worker, _)| match report::place(worker) {
        Place::Metadata => "metadata".to_string(),
        Place::Shard(shard) => format!("shard {shard}"),
    });
    let silent: Vec<String> = named.collect();
    (!silent.is_empty()).then(|| format!("no answer in time from {}", silent.join(", ")))
}

/// Says what a node waits for before it is of use, if anything: a broker serves clients, a controller has a quorum.
pub fn waits_for(node: NodeId, broker: bool, reports: &[Option<Report>]) -> Option<String> {
    if let Some(silent) = silent(reports) {
        return Some(silent);
    }
    let Some(known) = reports.iter().flatten().find_map(|report| report.metadata.as_ref()) else {
        return Some("no worker has the metadata".into());
    };
    if known.stopping {
        return Some("this node stops".into());
    }
    if known.leader.is_none() {
        return Some("waits for a controller: no leader of the quorum is known".into());
    }
    if !broker {
        return None;
    }
    let Some(epoch) = known.serving else {
        return Some("waits for the controller to register this broker".into());
    };
    let shown = known.image.brokers.get(&node).filter(|shown| shown.epoch == epoch);
    match shown {
        None => Some("waits for the metadata to show this broker's registration".into()),
        Some(shown) if shown.fenced => {
            Some("waits for the controller to unfence this broker".into())
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use milena_core::image::{Broker, Image};
    use milena_core::storage::{CleanerTally, StoreView};
    use milena_core::{BrokerEpoch, Incarnation};

    use super::*;
    use crate::report::MetadataReport;

    const NODE: NodeId = NodeId(1);

    fn known() -> MetadataReport {
        let broker = Broker {
            incarnation: Incarnation(7),
            epoch: BrokerEpoch(4),
            confirmed: Some(BrokerEpoch(4)),
            fenced: false,
            kafka: ("127.0.0.1".into(), 9092),
            peer: "127.0.0.1:19092".into(),
            rack: None,
        };
        let image = Image { brokers: [(NODE, broker)].into(), ..Image::default() };
        MetadataReport {
            image: Arc::new(image),
            term: 3,
            leader: Some(NodeId(2)),
            end: 10,
            commit: 10,
            active: false,
            serving: Some(BrokerEpoch(4)),
            stopping: false,
            store: StoreView {
                journal_bytes: 0,
                journal_bytes_max: 1,
                memory_bytes: 0,
                memory_bytes_max: 1,
                free_bytes: None,
                accepts_produce: true,
                is_cleaning: false,
                cleaner: CleanerTally::default(),
            },
        }
    }

    fn judge(broker: bool, change: impl FnOnce(&mut MetadataReport)) -> Option<String> {
        let mut known = known();
        change(&mut known);
        let first = Report { metadata: Some(known), ..Report::default() };
        waits_for(NODE, broker, &[Some(first), Some(Report::default())])
    }

    #[test]
    fn a_broker_is_ready_once_it_serves_unfenced_under_a_controller() {
        let says = |line: Option<String>, part: &str| {
            assert!(line.as_ref().is_some_and(|line| line.contains(part)), "{line:?}: {part}");
        };
        assert_eq!(judge(true, |_| {}), None);
        says(judge(true, |known| known.leader = None), "no leader of the quorum");
        says(judge(true, |known| known.serving = None), "to register");
        says(judge(true, |known| known.serving = Some(BrokerEpoch(5))), "registration");
        says(judge(true, |known| known.stopping = true), "stops");
        says(
            judge(true, |known| {
                let image = Arc::make_mut(&mut known.image);
                image.brokers.get_mut(&NODE).expect("it is there").fenced = true;
            }),
            "unfence",
        );
    }

    #[test]
    fn a_controller_is_ready_once_there_is_a_leader() {
        let alone = |known: &mut MetadataReport| {
            known.serving = None;
            known.image = Arc::default();
        };
        assert_eq!(judge(false, alone), None);
        assert!(judge(false, |known| known.leader = None).is_some());
    }

    #[test]
    fn silent_workers_are_named() {
        let there = || Some(Report::default());
        assert_eq!(silent(&[there(), there()]), None);
        let two = [None, there(), None];
        assert_eq!(silent(&two).as_deref(), Some("no answer in time from metadata, shard 1"));
        assert_eq!(waits_for(NODE, true, &two), silent(&two));
    }
}
