//! What the committed image may not say, and of whom: P2, P10, P11, P12.

use milena_core::image::Partition;
use milena_core::trace::Event;
use milena_core::{BrokerEpoch, Incarnation, NodeId, ReplicaIncarnation};
use milena_sim::queue::MS;
use milena_wire::Response;
use milena_wire::messages::{FindCoordinatorResponse, MetadataResponse};

use crate::{JOURNAL, LOG, Stage, nodes, recovered};

#[test]
fn p2_the_named_leader_lacks_something() {
    let mut stage = Stage::committed();
    let partition = Partition {
        isr: nodes(&[3]),
        leader: Some(NodeId(3)),
        leader_epoch: 2,
        partition_epoch: 9,
        replicas: nodes(&[1, 2, 3]),
        incarnations: vec![ReplicaIncarnation(0); 3],
        elr: Vec::new(),
        min_isr: 1,
    };
    stage.checks.on_destroyed(2);
    stage.checks.on_incarnation(2, Incarnation(9)).expect("a new disk");
    stage.show_with(partition, |_| {}).expect("not the disk that the controller means");
    stage.trips("P2", 2, Event::Leading { log: LOG, epoch: 2, start: 0 });
}

#[test]
fn p10_a_member_that_has_not_come() {
    let gone = || {
        let mut stage = Stage::committed();
        stage.ok(2, Event::Serving { epoch: BrokerEpoch(1) });
        stage.show(|partition| partition.isr = nodes(&[1, 2])).expect("it is removed");
        stage
    };
    let back = |stage: &mut Stage| stage.show(|partition| partition.isr = nodes(&[1, 2, 3]));
    let mut stage = gone();
    stage.acknowledge(2, 1, 1).expect("it holds it");
    assert_eq!(back(&mut stage), Ok(()));
    // What it said before was said under no registration, and in another life.
    assert_eq!(back(&mut gone()), Err("P10".into()));
    let mut stage = gone();
    stage.acknowledge(2, 1, 1).expect("it holds it");
    stage.checks.on_stop(2);
    stage.checks.on_start(2);
    stage.ok(2, recovered(1, 1, false));
    stage.ok(2, Event::Serving { epoch: BrokerEpoch(2) });
    let partition = stage.checks.image.as_ref().and_then(|image| image.partition(LOG));
    let mut partition = (**partition.expect("it was shown").1).clone();
    partition.partition_epoch += 1;
    partition.isr = nodes(&[1, 2, 3]);
    let joined = stage.show_with(partition, |brokers| {
        brokers.get_mut(&NodeId(3)).expect("three brokers").epoch = BrokerEpoch(2);
    });
    assert_eq!(joined, Err("P10".into()));
}

#[test]
fn p11_sets_that_make_no_sense() {
    type Change = fn(&mut Partition);
    let insane: [(Change, &str); 10] = [
        (|p| p.isr = nodes(&[1, 2, 9]), "in sync and no replica"),
        (|p| (p.isr, p.elr) = (nodes(&[1]), nodes(&[9])), "in sync and no replica"),
        (|p| p.elr = nodes(&[2]), "in ISR and in ELR"),
        (|p| p.isr = nodes(&[2, 3]), "is not in ISR"),
        (|p| (p.isr, p.elr) = (nodes(&[1, 2]), nodes(&[3])), "large enough"),
        (|p| p.min_isr = 4, "min.insync.replicas 4"),
        (|p| p.min_isr = 0, "min.insync.replicas 0"),
        (|p| p.partition_epoch -= 2, "after partition epoch"),
        (|p| p.leader_epoch -= 1, "leader epoch 0 follows 1"),
        (|p| p.leader = Some(NodeId(2)), "another leader"),
    ];
    for (change, words) in insane {
        let mut stage = Stage::with_partition();
        assert_eq!(stage.show(change), Err("P11".into()), "{words}");
        assert!(stage.story.contains(words), "{} says nothing of {words:?}", stage.story);
    }
    let mut stage = Stage::with_partition();
    let partition =
        stage.checks.image.as_ref().and_then(|image| image.partition(LOG)).map(|(_, p)| p.clone());
    let partition = Partition { partition_epoch: 5, ..(*partition.expect("it was shown")).clone() };
    let fenced = stage.show_with(partition, |brokers| {
        brokers.get_mut(&NodeId(2)).expect("three brokers").fenced = true;
    });
    assert_eq!(fenced, Err("P11".into()));
}

#[test]
fn p12_an_unclean_replica_keeps_its_seat() {
    let mut stage = Stage::committed();
    let kept = stage.show(|partition| partition.incarnations[1] = ReplicaIncarnation(1));
    assert_eq!(kept, Err("P12".into()));
    let mut stage = Stage::committed();
    stage.corrupt(1, JOURNAL);
    stage.ok(1, Event::Damaged { log: LOG });
    assert_eq!(stage.acknowledge(1, 1, 1), Err("P12".into()));
    stage.trips("P12", 1, Event::Leading { log: LOG, epoch: 2, start: 1 });
}

#[test]
fn l21_a_node_names_leaders_before_it_serves() {
    let mut stage = Stage::with_partition();
    let metadata = Response::Metadata(MetadataResponse::default());
    let answers = |stage: &Stage, ms: u64, response: &Response| {
        let judged = stage.checks.answers_when_it_knows(2, ms * MS, Some(response));
        judged.map_err(|violation| violation.property)
    };
    stage.checks.on_start(2);
    assert_eq!(answers(&stage, 100, &metadata), Err("L21"));
    assert_eq!(answers(&stage, 2_600, &metadata), Ok(()));
    let other = Response::FindCoordinator(FindCoordinatorResponse::default());
    assert_eq!(answers(&stage, 100, &other), Ok(()));
    stage.ok(2, Event::Serving { epoch: BrokerEpoch(1) });
    assert_eq!(answers(&stage, 100, &metadata), Ok(()));
}
