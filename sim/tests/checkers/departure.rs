//! P22: who leaves ISR or ELR without cause.

use milena_core::local::{AlterPartition, Member};
use milena_core::trace::Event;
use milena_core::{BrokerEpoch, Incarnation, NodeId, Now, ReplicaIncarnation};

use crate::{LOG, Stage, nodes};

/// How long a follower may lag here.
const LAG_MS: u64 = 100;

fn proposal(isr: &[i32]) -> AlterPartition {
    let member = |id: &i32| Member {
        node: NodeId(*id),
        broker_epoch: BrokerEpoch(1),
        incarnation: Incarnation(*id as u128),
        replica: ReplicaIncarnation(0),
    };
    AlterPartition {
        log: LOG,
        leader: (NodeId(1), BrokerEpoch(1)),
        leader_epoch: 1,
        partition_epoch: 1,
        isr: isr.iter().map(member).collect(),
    }
}

impl Stage {
    fn at_ms(&mut self, ms: u64) {
        self.checks.clocks = Now::default();
        self.checks.clocks.mono = self.checks.clocks.mono.after_ms(ms);
    }

    /// The leader believes that both followers have all there is, at 0 ms, and appends more at 10 ms.
    fn left_behind() -> Stage {
        let mut stage = Stage::committed();
        stage.checks.replication.lag_ms_max = LAG_MS;
        stage.at_ms(0);
        for follower in [2, 3] {
            let (follower, last_epoch) = (NodeId(follower), 1);
            stage.ok(0, Event::FollowerMoved { log: LOG, epoch: 1, follower, end: 1, last_epoch });
        }
        stage.at_ms(10);
        stage.append(0, LOG, 1, 1, 2);
        stage
    }

    fn propose(&mut self, isr: &[i32]) -> Result<(), String> {
        let proposed = self.checks.on_proposal(0, &proposal(isr));
        proposed.map_err(|violation| self.noted(violation))
    }
}

#[test]
fn p22_a_leader_gives_up_who_does_not_lag() {
    let mut stage = Stage::left_behind();
    stage.at_ms(10 + LAG_MS);
    assert_eq!(stage.propose(&[1, 2]), Ok(()));
    let mut stage = Stage::left_behind();
    stage.at_ms(9 + LAG_MS);
    assert_eq!(stage.propose(&[1, 2]), Err("P22".into()));
    let mut stage = Stage::left_behind();
    stage.store(2, LOG, 1, 1, 2, true);
    stage.acknowledge(2, 2, 1).expect("it is on the disk");
    let (follower, last_epoch) = (NodeId(3), 1);
    stage.ok(0, Event::FollowerMoved { log: LOG, epoch: 1, follower, end: 2, last_epoch });
    stage.at_ms(1_000);
    assert_eq!(stage.propose(&[1, 2]), Err("P22".into()), "it has everything");
    assert_eq!(stage.propose(&[1, 3]), Ok(()));
}

#[test]
fn p22_out_of_the_in_sync_set_without_cause() {
    let without =
        |stage: &mut Stage| stage.at_once().show(|partition| partition.isr = nodes(&[1, 2]));
    assert_eq!(without(&mut Stage::left_behind()), Err("P22".into()));
    let mut stage = Stage::left_behind();
    stage.at_ms(1_000);
    stage.propose(&[1, 2]).expect("it lags");
    assert_eq!(without(&mut stage), Ok(()));
    let mut stage = Stage::left_behind();
    let mut partition = stage.partition();
    (partition.partition_epoch, partition.isr) = (2, nodes(&[1, 2]));
    let fenced = stage.at_once().show_with(partition, |brokers| {
        brokers.get_mut(&NodeId(3)).expect("three brokers").fenced = true;
    });
    assert_eq!(fenced, Ok(()));
}

#[test]
fn p22_out_of_the_eligible_replicas_without_cause() {
    // The third is fenced beside a second that is gone, and so eligible.
    let eligible = || {
        let mut stage = Stage::left_behind();
        stage.ok(2, Event::Serving { epoch: BrokerEpoch(1) });
        let mut partition = stage.partition();
        (partition.partition_epoch, partition.isr) = (2, nodes(&[1]));
        partition.elr = nodes(&[2, 3]);
        stage
            .at_once()
            .show_with(partition, out_of_service(BrokerEpoch(1)))
            .expect("both are fenced");
        stage
    };
    let gone = |stage: &mut Stage, epoch| {
        let mut partition = stage.partition();
        (partition.partition_epoch, partition.elr) = (3, nodes(&[2]));
        stage.at_once().show_with(partition, out_of_service(epoch))
    };
    assert_eq!(gone(&mut eligible(), BrokerEpoch(1)), Err("P22".into()), "nothing happened to it");
    assert_eq!(gone(&mut eligible(), BrokerEpoch(5)), Err("P22".into()), "it proved its disk");
    let mut stage = eligible();
    stage.checks.on_destroyed(2);
    assert_eq!(gone(&mut stage, BrokerEpoch(5)), Ok(()));
}

/// The second and the third broker are fenced, the third under a registration.
fn out_of_service(
    epoch: BrokerEpoch,
) -> impl FnOnce(&mut std::collections::BTreeMap<NodeId, milena_core::image::Broker>) {
    move |brokers| {
        for (node, broker) in brokers {
            broker.fenced = node.0 > 1;
            if node.0 == 3 {
                broker.epoch = epoch;
            }
        }
    }
}

#[test]
fn only_a_disk_lost_since_it_was_in_sync_excuses_a_partition_without_leader() {
    let mut stage = Stage::committed();
    let partition = stage.partition();
    let mut offline = partition.clone();
    (offline.isr, offline.leader) = (Vec::new(), None);
    stage.checks.on_destroyed(1);
    stage.checks.on_destroyed(2);
    assert!(stage.checks.has_lost_too_much(LOG, &offline));
    stage.checks.on_incarnation(2, Incarnation(9)).expect("a new disk");
    let mut alone = partition.clone();
    (alone.partition_epoch, alone.isr) = (3, nodes(&[1]));
    stage.show_with(alone, |_| {}).expect("both are gone");
    stage.disks[2].destroy();
    stage.ok(2, Event::Following { log: LOG, epoch: 1, leader: NodeId(1) });
    stage.store(2, LOG, 0, 1, 1, true);
    stage.ok(2, Event::Serving { epoch: BrokerEpoch(7) });
    stage.acknowledge(2, 1, 1).expect("it is on the disk");
    let back = milena_core::image::Partition {
        partition_epoch: 4,
        isr: nodes(&[1, 3]),
        ..partition.clone()
    };
    stage
        .show_with(back, |brokers| {
            let broker = brokers.get_mut(&NodeId(3)).expect("three brokers");
            (broker.incarnation, broker.epoch) = (Incarnation(9), BrokerEpoch(7));
        })
        .expect("it has come");
    assert!(!stage.checks.has_lost_too_much(LOG, &offline), "the third has everything again");
    let image = stage.checks.image_of(0);
    stage.checks.on_rollback(0, &image);
    assert!(stage.checks.has_lost_too_much(LOG, &offline));
}
