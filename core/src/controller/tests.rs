//! The controller's rules one by one, and random sequences of them beside a naive picture of who holds which record.

use std::collections::{BTreeMap, BTreeSet};

use milena_wire::ErrorCode;
use proptest::prelude::*;

use super::message::{AdminRequest, Damage, NewPartitions, NewTopic, Registration, TopicReference};
use super::topics::{create_topic, delete_topic, named_twice};
use super::*;
use crate::image::{Image, Partition, Record};
use crate::local::{AlterPartition, Member};
use crate::{
    BrokerEpoch, Config, Incarnation, Instant, LogId, NodeId, ReplicaIncarnation, TopicId,
};

const TOPIC: TopicId = TopicId([7; 16]);
const LOG: LogId = LogId { topic: TOPIC, partition: 0 };

pub fn config() -> Config {
    Config {
        node: NodeId(1),
        controllers: vec![(NodeId(1), "localhost:1".into())],
        broker: true,
        controller: true,
        kafka: ("localhost".into(), 9092),
        peer: "localhost:1".into(),
        rack: None,
        shards: 1,
        storage: Default::default(),
        quorum: Default::default(),
        replication: Default::default(),
    }
}

/// Nobody is stopping.
fn nobody(_: NodeId) -> bool {
    false
}

/// An image to which the controller's records are applied as if they were committed at once.
struct Cluster {
    image: Image,
}

impl Cluster {
    /// Brokers 1 to `brokers` in service, no topic.
    fn new(brokers: i32) -> Cluster {
        let mut cluster = Cluster { image: Image::default() };
        for node in (1..=brokers).map(NodeId) {
            cluster.register(node, disk(node), None);
            cluster.confirm(node);
        }
        cluster
    }

    /// With topic `t`, one partition on brokers 1 to `factor`.
    fn with_topic(brokers: i32, factor: i32, min_isr: u16) -> Cluster {
        let mut cluster = Cluster::new(brokers);
        let topic = NewTopic {
            assignments: vec![(0, (1..=factor).map(NodeId).collect())],
            configs: vec![("min.insync.replicas".into(), Some(min_isr.to_string()))],
            partitions: None,
            replication_factor: None,
            ..new_topic("t", 0, 0)
        };
        let (records, _) = create_topic(&cluster.image, &config(), &topic, 0, nobody).unwrap();
        cluster.commit(records);
        cluster
    }

    fn commit(&mut self, records: Vec<Record>) {
        self.image.apply(self.image.end, 1, &records);
    }

    fn register(&mut self, node: NodeId, disk: Incarnation, synced: Option<BrokerEpoch>) -> bool {
        let request = self.registration(node, disk, synced);
        // Whatever was in force, its session is over.
        let records = register(&self.image, node, &request, false).expect("nobody is in the way");
        let done = records.is_some();
        self.commit(records.unwrap_or_default());
        done
    }

    fn registration(
        &self,
        node: NodeId,
        incarnation: Incarnation,
        synced: Option<BrokerEpoch>,
    ) -> Registration {
        let replaces = self.image.brokers.get(&node).map(|broker| broker.epoch);
        let kafka = ("localhost".into(), 9092);
        let peer = format!("host-{:?}:1", incarnation.0);
        let cluster = self.image.cluster;
        Registration { cluster, life: 1, replaces, incarnation, synced, kafka, peer, rack: None }
    }

    fn confirm(&mut self, node: NodeId) {
        let epoch = self.image.brokers[&node].epoch;
        self.commit(confirm(&self.image, node, epoch));
    }

    fn fence(&mut self, node: NodeId) {
        self.commit(fence(&self.image, node));
    }

    fn partition(&self) -> &Partition {
        self.image.partition(LOG).unwrap().1
    }

    fn member(&self, node: NodeId) -> Member {
        let broker = &self.image.brokers[&node];
        Member {
            node,
            broker_epoch: broker.epoch,
            incarnation: broker.incarnation,
            replica: self.partition().incarnation(node).unwrap_or_default(),
        }
    }

    /// The leader's proposal of a set, all of it as it is now.
    fn proposal(&self, isr: &[i32]) -> AlterPartition {
        let partition = self.partition();
        let leader = partition.leader.expect("somebody leads");
        AlterPartition {
            log: LOG,
            leader: (leader, self.image.brokers[&leader].epoch),
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            isr: isr.iter().map(|node| self.member(NodeId(*node))).collect(),
        }
    }

    fn propose(&mut self, proposal: &AlterPartition) -> ErrorCode {
        match alter_partition(&self.image, proposal.leader.0, proposal, |_| false) {
            Ok(record) => {
                self.commit(vec![record]);
                ErrorCode::NONE
            }
            Err(refusal) => refusal.code,
        }
    }

    fn damage(&self, node: NodeId) -> Damage {
        let member = self.member(node);
        Damage {
            log: LOG,
            broker_epoch: member.broker_epoch,
            incarnation: member.incarnation,
            replica: member.replica,
        }
    }
}

fn disk(node: NodeId) -> Incarnation {
    Incarnation(node.0 as u128 * 1000)
}

fn new_topic(name: &str, partitions: i32, replication_factor: i16) -> NewTopic {
    NewTopic {
        id: TOPIC,
        name: name.into(),
        partitions: Some(partitions),
        replication_factor: Some(replication_factor),
        assignments: Vec::new(),
        configs: Vec::new(),
    }
}

fn nodes(list: &[i32]) -> Vec<NodeId> {
    list.iter().copied().map(NodeId).collect()
}

#[test]
fn while_a_broker_lives_its_id_is_not_given_to_another_disk_and_its_own_next_life_does_not_wait() {
    let cluster = Cluster::new(1);
    let (node, before) = (NodeId(1), cluster.image.brokers[&NodeId(1)].clone());
    let other = cluster.registration(node, disk(NodeId(9)), None);
    let refusal = register(&cluster.image, node, &other, true).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::DUPLICATE_BROKER_REGISTRATION);
    assert!(refusal.message.contains(&other.peer) && refusal.message.contains(&before.peer));
    let late = Registration { replaces: None, ..other.clone() };
    assert_eq!(register(&cluster.image, node, &late, true), Ok(None), "it speaks of another time");

    let stray = Registration { cluster: cluster.image.cluster + 1, ..other.clone() };
    assert_eq!(register(&cluster.image, node, &stray, false), Ok(None), "of another cluster");

    let next_life = cluster.registration(node, disk(node), before.confirmed);
    let records = register(&cluster.image, node, &next_life, true).unwrap();
    assert!(records.is_some_and(|records| !records.is_empty()));
    assert!(
        register(&cluster.image, node, &other, false).unwrap().is_some(),
        "the session is over"
    );
}

#[test]
fn fencing_keeps_the_seat_below_min_isr_only() {
    let mut cluster = Cluster::with_topic(3, 3, 2);
    cluster.fence(NodeId(3));
    assert_eq!((&cluster.partition().isr, &cluster.partition().elr), (&nodes(&[1, 2]), &vec![]));
    assert_eq!(cluster.partition().leader_epoch, 0, "a shrink is no new leader epoch");
    cluster.fence(NodeId(1));
    assert_eq!((&cluster.partition().isr, &cluster.partition().elr), (&nodes(&[2]), &nodes(&[1])));
    assert_eq!(
        (cluster.partition().leader, cluster.partition().leader_epoch),
        (Some(NodeId(2)), 1)
    );
    cluster.fence(NodeId(2));
    assert_eq!((&cluster.partition().isr, &cluster.partition().elr), (&vec![], &nodes(&[1, 2])));
    assert_eq!((cluster.partition().leader, cluster.partition().leader_epoch), (None, 2));

    cluster.confirm(NodeId(3));
    assert_eq!(cluster.partition().leader, None, "a replica that left a full set is not elected");
    cluster.confirm(NodeId(1));
    assert_eq!((&cluster.partition().isr, &cluster.partition().elr), (&nodes(&[1]), &nodes(&[2])));
    assert_eq!(
        (cluster.partition().leader, cluster.partition().leader_epoch),
        (Some(NodeId(1)), 3)
    );
}

#[test]
fn a_leader_that_registers_again_is_a_new_leader() {
    let mut cluster = Cluster::with_topic(1, 1, 1);
    let synced = cluster.image.brokers[&NodeId(1)].epoch;
    assert!(cluster.register(NodeId(1), disk(NodeId(1)), Some(synced)));
    assert_eq!((cluster.partition().leader, cluster.partition().leader_epoch), (None, 1));
    assert_eq!(cluster.partition().elr, nodes(&[1]), "with an intact disk the seat is kept");
    cluster.confirm(NodeId(1));
    assert_eq!(
        (cluster.partition().leader, cluster.partition().leader_epoch),
        (Some(NodeId(1)), 2)
    );
}

#[test]
fn a_disk_is_proved_by_incarnation_and_last_synced_epoch() {
    let first = |cluster: &Cluster| cluster.image.brokers[&NodeId(3)].epoch;
    // With m = 3 fencing leaves a seat, so that proof decides.
    let seat = |incarnation: Incarnation, synced: fn(BrokerEpoch) -> Option<BrokerEpoch>| {
        let mut cluster = Cluster::with_topic(3, 3, 3);
        let epoch = first(&cluster);
        assert!(cluster.register(NodeId(3), incarnation, synced(epoch)));
        cluster.partition().elr.contains(&NodeId(3))
    };
    assert!(seat(disk(NodeId(3)), Some));
    assert!(!seat(Incarnation(9), Some), "another disk");
    assert!(!seat(disk(NodeId(3)), |_| None), "nothing synced");
    assert!(!seat(disk(NodeId(3)), |epoch| Some(BrokerEpoch(epoch.0 - 1))), "an older image of it");
    assert!(!seat(disk(NodeId(3)), |epoch| Some(BrokerEpoch(epoch.0 + 1))), "never issued");

    // A later epoch, issued to the same disk and never confirmed, proves it as well; so does the last confirmed one.
    let mut cluster = Cluster::with_topic(3, 3, 3);
    let confirmed = first(&cluster);
    assert!(cluster.register(NodeId(3), disk(NodeId(3)), Some(confirmed)));
    let unconfirmed = first(&cluster);
    assert!(cluster.register(NodeId(3), disk(NodeId(3)), Some(unconfirmed)));
    assert!(cluster.register(NodeId(3), disk(NodeId(3)), Some(confirmed)));
    assert!(cluster.partition().elr.contains(&NodeId(3)));
}

#[test]
fn a_late_registration_changes_nothing() {
    let mut cluster = Cluster::with_topic(3, 3, 2);
    let late = cluster.registration(NodeId(3), disk(NodeId(3)), None);
    let synced = cluster.image.brokers[&NodeId(3)].epoch;
    assert!(cluster.register(NodeId(3), disk(NodeId(3)), Some(synced)));
    assert_eq!(register(&cluster.image, NodeId(3), &late, false), Ok(None));
}

#[test]
fn registration_and_fencing_end_standing_proposals() {
    let mut cluster = Cluster::with_topic(4, 3, 2);
    cluster.fence(NodeId(3));
    let before = cluster.partition().partition_epoch;
    cluster.register(NodeId(3), Incarnation(5), None);
    assert_eq!(cluster.partition().partition_epoch, before + 1);
    cluster.confirm(NodeId(3));
    cluster.fence(NodeId(3));
    assert_eq!(cluster.partition().partition_epoch, before + 2);
    cluster.fence(NodeId(4));
    assert_eq!(cluster.partition().partition_epoch, before + 2, "broker 4 holds nothing");
}

#[test]
fn confirmation_is_of_the_registration_in_force() {
    let mut cluster = Cluster::with_topic(3, 3, 2);
    let old = cluster.image.brokers[&NodeId(2)].epoch;
    cluster.register(NodeId(2), disk(NodeId(2)), Some(old));
    assert_eq!(confirm(&cluster.image, NodeId(2), old), vec![]);
    cluster.confirm(NodeId(2));
    assert!(cluster.image.unfenced(NodeId(2)));
    assert_eq!(confirm(&cluster.image, NodeId(2), cluster.image.brokers[&NodeId(2)].epoch), vec![]);
}

#[test]
fn proposals_are_committed_or_refused_by_name() {
    let mut cluster = Cluster::with_topic(3, 3, 2);
    assert_eq!(cluster.propose(&cluster.proposal(&[1, 2])), ErrorCode::NONE);
    assert_eq!(cluster.partition().isr, nodes(&[1, 2]));
    let epoch = cluster.partition().partition_epoch;
    assert_eq!(cluster.propose(&cluster.proposal(&[1, 2])), ErrorCode::NONE);
    assert_eq!(cluster.partition().partition_epoch, epoch + 1, "an equal set is committed too");

    let good = cluster.proposal(&[3, 1, 2]);
    let mut refused = |code: ErrorCode, change: &dyn Fn(&mut AlterPartition)| {
        let mut proposal = good.clone();
        change(&mut proposal);
        assert_eq!(cluster.propose(&proposal), code, "{proposal:?}");
    };
    refused(ErrorCode::UNKNOWN_TOPIC_ID, &|p| p.log.partition = 1);
    refused(ErrorCode::UNKNOWN_TOPIC_ID, &|p| p.log.topic = TopicId([1; 16]));
    refused(ErrorCode::STALE_BROKER_EPOCH, &|p| p.leader.1.0 += 1);
    refused(ErrorCode::NOT_CONTROLLER, &|p| p.leader_epoch += 1);
    refused(ErrorCode::NOT_CONTROLLER, &|p| p.partition_epoch += 1);
    refused(ErrorCode::FENCED_LEADER_EPOCH, &|p| p.leader_epoch -= 1);
    refused(ErrorCode::INVALID_UPDATE_VERSION, &|p| p.partition_epoch -= 1);
    refused(ErrorCode::INVALID_REQUEST, &|p| p.isr.retain(|m| m.node != NodeId(1)));
    refused(ErrorCode::INVALID_REQUEST, &|p| p.isr[0].node = NodeId(4));
    refused(ErrorCode::INVALID_REQUEST, &|p| p.isr[0] = p.isr[1]);
    refused(ErrorCode::INELIGIBLE_REPLICA, &|p| p.isr[0].broker_epoch.0 -= 1);
    refused(ErrorCode::INELIGIBLE_REPLICA, &|p| p.isr[0].incarnation.0 += 1);
    refused(ErrorCode::INELIGIBLE_REPLICA, &|p| p.isr[0].replica.0 += 1);
    refused(ErrorCode::NONE, &|_| ());
    assert_eq!(cluster.partition().isr, nodes(&[1, 2, 3]));

    cluster.fence(NodeId(3));
    assert_eq!(cluster.propose(&cluster.proposal(&[1, 2, 3])), ErrorCode::INELIGIBLE_REPLICA);
    let other = cluster.proposal(&[1, 2]);
    let answer = alter_partition(&cluster.image, NodeId(2), &other, |_| false).unwrap_err();
    assert_eq!(answer.code, ErrorCode::INVALID_REQUEST, "only the leader proposes");
    let zombie = AlterPartition {
        leader: (NodeId(2), cluster.image.brokers[&NodeId(2)].epoch),
        ..cluster.proposal(&[1, 2])
    };
    assert_eq!(cluster.propose(&zombie), ErrorCode::INVALID_REQUEST);
}

#[test]
fn who_is_about_to_stop_leaves_where_enough_remain_and_joins_nothing() {
    let mut cluster = Cluster::with_topic(3, 3, 2);
    let leaving = leave(&cluster.image, NodeId(1), |node| node == NodeId(1));
    assert!(!leaving.waits);
    cluster.commit(leaving.records);
    let partition = cluster.partition();
    assert_eq!((&partition.isr, &partition.elr), (&nodes(&[2, 3]), &vec![]));
    assert_eq!((partition.leader, partition.leader_epoch), (Some(NodeId(2)), 1));
    assert!(!cluster.image.unfenced(NodeId(1)), "it is in no set, and out of service");
    assert!(leave(&cluster.image, NodeId(1), nobody).records.is_empty(), "it has left already");

    // The next one would leave fewer than two: it gives away what it leads and stays in the set.
    let leaving = leave(&cluster.image, NodeId(2), |node| node == NodeId(2));
    assert!(!leaving.waits, "nobody alive is catching up");
    cluster.commit(leaving.records);
    let partition = cluster.partition();
    assert_eq!((&partition.isr, partition.leader), (&nodes(&[2, 3]), Some(NodeId(3))));
    assert!(cluster.image.unfenced(NodeId(2)));

    // The first is back and catches up: the second may wait for it.
    cluster.register(NodeId(1), disk(NodeId(1)), cluster.image.brokers[&NodeId(1)].confirmed);
    cluster.confirm(NodeId(1));
    assert!(leave(&cluster.image, NodeId(2), |node| node == NodeId(2)).waits);
    let back = cluster.proposal(&[1, 2, 3]);
    let refused = alter_partition(&cluster.image, NodeId(3), &back, |node| node == NodeId(1));
    assert_eq!(refused.unwrap_err().code, ErrorCode::INELIGIBLE_REPLICA);
    assert_eq!(cluster.propose(&back), ErrorCode::NONE);

    // Two that stop at once do not count on each other.
    let both = |node| node != NodeId(3);
    let leaving = leave(&cluster.image, NodeId(2), both);
    assert!(!leaving.waits && leaving.records.is_empty());
    let all = leave(&cluster.image, NodeId(3), |_| true);
    assert!(!all.waits && all.records.is_empty(), "nobody is left to take over");
}

#[test]
fn a_damaged_replica_leaves_both_sets_and_gets_another_life() {
    let mut cluster = Cluster::with_topic(3, 3, 2);
    let report = cluster.damage(NodeId(1));
    cluster.commit(vec![damaged(&cluster.image, NodeId(1), &report).unwrap()]);
    let partition = cluster.partition();
    assert_eq!((&partition.isr, &partition.elr), (&nodes(&[2, 3]), &vec![]));
    assert_eq!((partition.leader, partition.leader_epoch), (Some(NodeId(2)), 1));
    assert_eq!(partition.incarnation(NodeId(1)), Some(ReplicaIncarnation(1)));
    let again = damaged(&cluster.image, NodeId(1), &report).unwrap_err();
    assert_eq!(again.code, ErrorCode::INELIGIBLE_REPLICA, "a double of the report");
    let stranger = Damage { replica: ReplicaIncarnation(0), ..cluster.damage(NodeId(2)) };
    assert_eq!(
        damaged(&cluster.image, NodeId(3), &stranger).unwrap_err().code,
        ErrorCode::STALE_BROKER_EPOCH
    );
}

#[test]
fn the_last_member_damaged_leaves_the_partition_offline() {
    let mut cluster = Cluster::with_topic(2, 2, 1);
    cluster.fence(NodeId(2));
    let report = cluster.damage(NodeId(1));
    cluster.commit(vec![damaged(&cluster.image, NodeId(1), &report).unwrap()]);
    cluster.confirm(NodeId(2));
    let partition = cluster.partition();
    assert_eq!((&partition.isr, &partition.elr, partition.leader), (&vec![], &vec![], None));
}

#[test]
fn damage_in_the_isr_elects_from_the_elr() {
    let mut cluster = Cluster::with_topic(2, 2, 2);
    cluster.fence(NodeId(2));
    cluster.confirm(NodeId(2));
    assert_eq!((&cluster.partition().isr, &cluster.partition().elr), (&nodes(&[1]), &nodes(&[2])));
    let report = cluster.damage(NodeId(1));
    cluster.commit(vec![damaged(&cluster.image, NodeId(1), &report).unwrap()]);
    let partition = cluster.partition();
    assert_eq!((&partition.isr, &partition.elr), (&nodes(&[2]), &vec![]));
    assert_eq!(partition.leader, Some(NodeId(2)));
}

#[test]
fn the_preferred_replica_leads_again_after_a_while() {
    let mut cluster = Cluster::with_topic(3, 3, 2);
    let mut preferred = Preferred::default();
    let mut due = |image: &Image, ms| preferred.due(Instant::default().after_ms(ms), image, 100, 9);
    assert_eq!(due(&cluster.image, 0), vec![]);
    cluster.fence(NodeId(1));
    cluster.confirm(NodeId(1));
    assert_eq!(due(&cluster.image, 10), vec![], "not in sync");
    assert_eq!(cluster.propose(&cluster.proposal(&[1, 2, 3])), ErrorCode::NONE);
    assert_eq!(due(&cluster.image, 20), vec![]);
    assert_eq!(due(&cluster.image, 119), vec![]);
    assert_eq!(due(&cluster.image, 120), vec![LOG]);
    let epoch = cluster.partition().leader_epoch;
    cluster.commit(vec![give_back(&cluster.image, LOG).unwrap()]);
    assert_eq!(cluster.partition().leader, Some(NodeId(1)));
    assert_eq!(cluster.partition().leader_epoch, epoch + 1);
    assert_eq!(give_back(&cluster.image, LOG), None);
}

#[test]
fn names_numbers_and_configurations_are_checked() {
    let cluster = Cluster::with_topic(3, 3, 2);
    let refused = |topic: NewTopic| {
        let topic = NewTopic { id: TopicId([9; 16]), ..topic };
        create_topic(&cluster.image, &config(), &topic, 0, nobody).unwrap_err().code
    };
    for name in ["", ".", "..", "a b", "é", "__cluster_metadata", &"x".repeat(250)] {
        assert_eq!(refused(new_topic(name, 1, 1)), ErrorCode::INVALID_TOPIC_EXCEPTION, "{name}");
    }
    assert_eq!(refused(new_topic("t", 1, 1)), ErrorCode::TOPIC_ALREADY_EXISTS);
    assert_eq!(refused(new_topic("u", 0, 1)), ErrorCode::INVALID_PARTITIONS);
    assert_eq!(refused(new_topic("u", 10_001, 1)), ErrorCode::POLICY_VIOLATION);
    assert_eq!(refused(new_topic("u", 1, 4)), ErrorCode::INVALID_REPLICATION_FACTOR);
    assert_eq!(refused(new_topic("u", 1, 0)), ErrorCode::INVALID_REPLICATION_FACTOR);
    assert_eq!(refused(new_topic("u", -2, 0)), ErrorCode::INVALID_REPLICATION_FACTOR);
    assert_eq!(refused(new_topic("u", -2, 4)), ErrorCode::INVALID_PARTITIONS);
    let with = |name: &str, value: &str| NewTopic {
        configs: vec![(name.into(), Some(value.into()))],
        ..new_topic("u", 1, 1)
    };
    for (name, value) in [
        ("unclean.leader.election.enable", "true"),
        ("min.insync.replicas", "0"),
        ("retention.ms", "soon"),
        ("cleanup.policy", "compacted"),
        ("cleanup.policy", "delete,"),
        ("compression.type", "gzip"),
        ("segment.bytes", "1"),
    ] {
        assert_eq!(refused(with(name, value)), ErrorCode::INVALID_CONFIG, "{name}={value}");
    }
    let assigned = |assignments: &[(i32, &[i32])]| NewTopic {
        assignments: assignments.iter().map(|(index, list)| (*index, nodes(list))).collect(),
        partitions: None,
        replication_factor: None,
        ..new_topic("u", 1, 1)
    };
    for wrong in [
        &[(1, &[1][..])][..],
        &[(0, &[1][..]), (0, &[2][..])],
        &[(0, &[][..])],
        &[(0, &[1, 1][..])],
        &[(0, &[1, 2][..]), (1, &[1][..])],
        &[(0, &[8][..])],
    ] {
        assert_eq!(refused(assigned(wrong)), ErrorCode::INVALID_REPLICA_ASSIGNMENT, "{wrong:?}");
    }
    let both = NewTopic { partitions: Some(1), ..assigned(&[(0, &[1])]) };
    assert_eq!(refused(both), ErrorCode::INVALID_REQUEST);
}

#[test]
fn names_that_differ_in_dots_collide() {
    let mut cluster = Cluster::new(1);
    let (records, _) =
        create_topic(&cluster.image, &config(), &new_topic("a.b", 1, 1), 0, nobody).unwrap();
    cluster.commit(records);
    let topic = NewTopic { id: TopicId([9; 16]), ..new_topic("a_b", 1, 1) };
    let refusal = create_topic(&cluster.image, &config(), &topic, 0, nobody).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::INVALID_TOPIC_EXCEPTION);
}

#[test]
fn a_topic_is_made_once_and_deleted_once() {
    let mut cluster = Cluster::new(3);
    let topic = new_topic("t", 2, 3);
    let (records, made) = create_topic(&cluster.image, &config(), &topic, 5, nobody).unwrap();
    cluster.commit(records);
    assert_eq!(cluster.partition().min_isr, 2);
    assert_eq!(cluster.partition().isr, nodes(&[1, 2, 3]));
    let (records, again) = create_topic(&cluster.image, &config(), &topic, 5, nobody).unwrap();
    assert_eq!((records, again), (vec![], made.clone()));
    let name = TopicReference::Name("t".into());
    let (record, deleted) = delete_topic(&cluster.image, &name).unwrap();
    assert_eq!(deleted, made);
    cluster.commit(vec![record]);
    assert_eq!(cluster.image.topics.len() + cluster.image.names.len(), 0);
    let refused = |topic| delete_topic(&cluster.image, topic).unwrap_err().code;
    assert_eq!(refused(&name), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(refused(&TopicReference::Id(TOPIC)), ErrorCode::UNKNOWN_TOPIC_ID);
}

#[test]
fn a_topic_that_a_request_means_twice_stays() {
    let cluster = Cluster::with_topic(1, 1, 1);
    let (name, id) = (TopicReference::Name("t".into()), TopicReference::Id(TOPIC));
    let others = [TopicReference::Name("none".into()), TopicReference::Id(TopicId([77; 16]))];
    let asked = [&[name.clone(), id.clone()], &others[..]].concat();
    let refused: Vec<_> = named_twice(&cluster.image, &asked)
        .into_iter()
        .map(|refusal| refusal.map(|refusal| refusal.code))
        .collect();
    let twice = Some(ErrorCode::INVALID_REQUEST);
    assert_eq!(refused, [twice, twice, None, None], "under its name and under its id");
    assert_eq!(named_twice(&cluster.image, &[id]), [None]);
}

/// Has topics of a cluster grow, and says of each how many partitions it has then or why it does not.
fn grow(
    cluster: &mut Cluster,
    topics: Vec<NewPartitions>,
    validate_only: bool,
) -> Vec<Result<i32, ErrorCode>> {
    let request = AdminRequest::CreatePartitions { topics, validate_only };
    let (mut draft, end, mut placement) = (cluster.image.clone(), cluster.image.end, 0);
    let (records, topics) =
        administer(&request, &mut draft, &config(), end, &mut placement, nobody);
    cluster.commit(records);
    assert_eq!(draft.topics, cluster.image.topics, "the draft shows what the records do");
    topics
        .into_iter()
        .map(|topic| topic.map(|topic| topic.partitions).map_err(|refusal| refusal.code))
        .collect()
}

fn more(topic: &str, count: i32) -> NewPartitions {
    NewPartitions { topic: topic.into(), count, assignments: None }
}

#[test]
fn a_topic_grows_and_its_partitions_stay() {
    let mut cluster = Cluster::with_topic(3, 2, 2);
    let first = cluster.partition().clone();
    assert_eq!(grow(&mut cluster, vec![more("t", 4)], true), [Ok(4)]);
    assert_eq!(cluster.image.topics[&TOPIC].partitions.len(), 1, "that was only asked");
    assert_eq!(grow(&mut cluster, vec![more("t", 4)], false), [Ok(4)]);
    let partitions = cluster.image.topics[&TOPIC].partitions.clone();
    assert_eq!((partitions.len(), &*partitions[&0]), (4, &first));
    for (_, partition) in partitions.range(1..) {
        assert_eq!((partition.replicas.len(), partition.min_isr), (2, 2), "as its first");
        assert!(partition.leader.is_some());
    }
    let leaders: BTreeSet<_> = partitions.range(1..).map(|(_, one)| one.leader).collect();
    assert_eq!(leaders.len(), 3, "each broker leads one");

    let chosen = |lists: &[&[i32]], count| NewPartitions {
        assignments: Some(lists.iter().map(|list| nodes(list)).collect()),
        ..more("t", count)
    };
    assert_eq!(grow(&mut cluster, vec![chosen(&[&[3, 1]], 5)], false), [Ok(5)]);
    let last = &cluster.image.topics[&TOPIC].partitions[&4];
    assert_eq!((&last.replicas, last.leader), (&nodes(&[3, 1]), Some(NodeId(3))));

    for wrong in [&[&[1, 1][..]][..], &[&[1][..]], &[&[1, 8][..]], &[&[1, 2][..], &[2, 3][..]], &[]]
    {
        let refused = grow(&mut cluster, vec![chosen(wrong, 6)], false);
        assert_eq!(refused, [Err(ErrorCode::INVALID_REPLICA_ASSIGNMENT)], "{wrong:?}");
    }
    for count in [-1, 0, 1, 5] {
        let refused = grow(&mut cluster, vec![more("t", count)], false);
        assert_eq!(refused, [Err(ErrorCode::INVALID_PARTITIONS)], "{count}");
    }
    for count in [10_001, i32::MAX] {
        let refused = grow(&mut cluster, vec![more("t", count)], false);
        assert_eq!(refused, [Err(ErrorCode::POLICY_VIOLATION)], "{count}");
    }
    let twice = grow(&mut cluster, vec![more("t", 6), more("u", 2), more("t", 7)], false);
    let refused = Err(ErrorCode::INVALID_REQUEST);
    assert_eq!(twice, [refused, Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION), refused]);
    let request = AdminRequest::CreatePartitions {
        topics: vec![more("t", 6), more("u", 2)],
        validate_only: false,
    };
    assert!(!request.is_early(&cluster.image, &config()));
    for node in [2, 3] {
        cluster.commit(fence(&cluster.image, NodeId(node)));
    }
    assert!(request.is_early(&cluster.image, &config()), "the others may still come");
    let alone = grow(&mut cluster, vec![more("t", 6)], false);
    assert_eq!(alone, [Err(ErrorCode::INVALID_REPLICATION_FACTOR)]);
    assert_eq!(cluster.image.topics[&TOPIC].partitions.len(), 5);
}

/// The answer to it may have been lost, with the controller that gave it.
#[test]
fn what_became_of_a_growth_is_seen_in_the_metadata() {
    let mut cluster = Cluster::with_topic(1, 1, 1);
    let asked = |count| AdminRequest::CreatePartitions {
        topics: vec![more("t", count)],
        validate_only: false,
    };
    let meant = asked(3).meant(&cluster.image);
    assert_eq!(asked(3).outcome(&cluster.image, &meant), None, "to be tried again");
    grow(&mut cluster, vec![more("t", 3)], false);
    let outcome = |cluster: &Cluster, count, meant| {
        let topics = asked(count).outcome(&cluster.image, meant).expect("it cannot be undone");
        topics.into_iter().map(|t| t.map(|t| t.partitions).map_err(|r| r.code)).next()
    };
    assert_eq!(outcome(&cluster, 3, &meant), Some(Ok(3)));
    let in_doubt = Some(Err(ErrorCode::NOT_CONTROLLER));
    assert_eq!(outcome(&cluster, 2, &meant), in_doubt, "or more was there before");
    let other = BTreeMap::from([("t".to_owned(), TopicId([77; 16]))]);
    assert_eq!(outcome(&cluster, 3, &other), in_doubt, "another topic has the name");
    assert_eq!(outcome(&cluster, 3, &BTreeMap::new()), in_doubt);
}

#[test]
fn effective_min_isr_is_at_most_the_replication_factor() {
    let cluster = Cluster::with_topic(1, 1, 2);
    assert_eq!(cluster.partition().min_isr, 1);
}

#[test]
fn replicas_are_spread_over_brokers_and_racks() {
    let mut cluster = Cluster::new(6);
    for node in 1..=6 {
        let rack = Some(["a", "b", "c"][node as usize % 3].to_string());
        let broker = cluster.image.brokers.get_mut(&NodeId(node)).unwrap();
        broker.rack = rack;
    }
    let (records, _) =
        create_topic(&cluster.image, &config(), &new_topic("t", 60, 3), 4, nobody).unwrap();
    cluster.commit(records);
    let (mut leaders, mut held) = (BTreeMap::new(), BTreeMap::new());
    for (_, partition) in cluster.image.partitions() {
        *leaders.entry(partition.leader.unwrap()).or_insert(0) += 1;
        partition.replicas.iter().for_each(|node| *held.entry(*node).or_insert(0) += 1);
        let mut racks: Vec<i32> = partition.replicas.iter().map(|node| node.0 % 3).collect();
        racks.sort_unstable();
        assert_eq!(racks, [0, 1, 2], "one replica per rack");
    }
    assert!(leaders.values().all(|count| *count == 10), "{leaders:?}");
    assert!(held.values().all(|count| (25..=35).contains(count)), "{held:?}");
}

/// What may happen to a cluster of three replicas, as far as the controller sees it.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The leader commits a record: every member of the ISR holds it then.
    Write,
    /// The broker's disk is destroyed.
    Wipe(usize),
    /// The disk is put back to what it held at its last registration but one.
    Rollback(usize),
    Register(usize),
    Confirm(usize),
    Fence(usize),
    /// The leader brings those up to date that it can, and proposes them.
    Propose(u8),
    /// The same proposal once more.
    Again,
    Damage(usize),
    GiveBack,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = 0..3usize;
    let step = prop_oneof![
        4 => Just(Step::Write),
        1 => node.clone().prop_map(Step::Wipe),
        1 => node.clone().prop_map(Step::Rollback),
        3 => node.clone().prop_map(Step::Register),
        4 => node.clone().prop_map(Step::Confirm),
        2 => node.clone().prop_map(Step::Fence),
        6 => any::<u8>().prop_map(Step::Propose),
        2 => Just(Step::Again),
        1 => node.prop_map(Step::Damage),
        1 => Just(Step::GiveBack),
    ];
    prop::collection::vec(step, 1..80)
}

/// A broker's disk, as naive as can be: how many of the committed records it holds.
#[derive(Clone, Copy, Debug)]
struct Disk {
    incarnation: Incarnation,
    synced: Option<BrokerEpoch>,
    records: usize,
    /// Not what it was when it was last heard of, and not registered since.
    foreign: bool,
    /// Its image before its last registration.
    older: (Option<BrokerEpoch>, usize),
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..Default::default() })]

    /// After any sequence the partition is sane, epochs have only grown, and every member of ISR and ELR whose disk is
    /// the one that it was registered with holds every committed record.
    #[test]
    fn members_hold_what_is_committed(min_isr in 1..=3u16, steps in steps()) {
        let mut cluster = Cluster::with_topic(3, 3, min_isr);
        let mut disks = [1, 2, 3].map(|node| {
            let synced = Some(cluster.image.brokers[&NodeId(node)].epoch);
            let incarnation = disk(NodeId(node));
            Disk { incarnation, synced, records: 0, foreign: false, older: (None, 0) }
        });
        let mut committed = 0;
        let mut last = None;
        for step in steps {
            let before = cluster.partition().clone();
            let index = |node: NodeId| node.0 as usize - 1;
            match step {
                Step::Write => {
                    let able = |node: &NodeId| !disks[index(*node)].foreign;
                    if before.leader.is_some()
                        && before.isr.len() >= usize::from(min_isr)
                        && before.isr.iter().all(able)
                    {
                        committed += 1;
                        before.isr.iter().for_each(|node| disks[index(*node)].records = committed);
                    }
                }
                Step::Wipe(at) => {
                    let incarnation = Incarnation(disks[at].incarnation.0 + 1);
                    let older = (None, 0);
                    disks[at] = Disk { incarnation, synced: None, records: 0, foreign: true, older };
                }
                Step::Rollback(at) => {
                    (disks[at].synced, disks[at].records) = disks[at].older;
                    disks[at].foreign = true;
                }
                Step::Register(at) => {
                    let node = NodeId(at as i32 + 1);
                    let (incarnation, synced) = (disks[at].incarnation, disks[at].synced);
                    prop_assert!(cluster.register(node, incarnation, synced));
                    disks[at].foreign = false;
                    if before.leader == Some(node) {
                        prop_assert!(cluster.partition().leader_epoch > before.leader_epoch);
                    }
                }
                Step::Confirm(at) => {
                    let node = NodeId(at as i32 + 1);
                    if !disks[at].foreign {
                        let epoch = cluster.image.brokers[&node].epoch;
                        if disks[at].synced != Some(epoch) {
                            disks[at].older = (disks[at].synced, disks[at].records);
                            disks[at].synced = Some(epoch);
                        }
                        cluster.confirm(node);
                    }
                }
                Step::Fence(at) => cluster.fence(NodeId(at as i32 + 1)),
                Step::Propose(mask) => {
                    if let Some(leader) = before.leader.filter(|node| !disks[index(*node)].foreign) {
                        let mut isr = vec![leader.0];
                        for node in (1..=3).filter(|node| mask >> node & 1 == 1 && *node != leader.0) {
                            let disk = &mut disks[node as usize - 1];
                            if !disk.foreign && cluster.image.unfenced(NodeId(node)) {
                                disk.records = committed;
                                isr.push(node);
                            }
                        }
                        let proposal = cluster.proposal(&isr);
                        prop_assert_eq!(cluster.propose(&proposal), ErrorCode::NONE);
                        last = Some(proposal);
                    }
                }
                Step::Again => {
                    if let Some(proposal) = &last {
                        prop_assert_ne!(cluster.propose(proposal), ErrorCode::NONE);
                    }
                }
                Step::Damage(at) => {
                    let node = NodeId(at as i32 + 1);
                    if !disks[at].foreign {
                        let report = cluster.damage(node);
                        let record = damaged(&cluster.image, node, &report).unwrap();
                        cluster.commit(vec![record]);
                        disks[at].records = 0;
                        prop_assert_eq!(
                            cluster.partition().incarnation(node).unwrap().0,
                            before.incarnation(node).unwrap().0 + 1
                        );
                    }
                }
                Step::GiveBack => {
                    let record = give_back(&cluster.image, LOG);
                    cluster.commit(record.into_iter().collect());
                }
            }
            let after = cluster.partition();
            prop_assert!(after.leader_epoch >= before.leader_epoch);
            prop_assert!(after.partition_epoch >= before.partition_epoch);
            prop_assert!(*after == before || after.partition_epoch == before.partition_epoch + 1);
            prop_assert!(after.leader == before.leader || after.leader_epoch > before.leader_epoch);
            prop_assert!(after.leader.is_none_or(|node| after.isr.contains(&node)));
            prop_assert!(after.isr.iter().all(|node| cluster.image.unfenced(*node)));
            prop_assert!(after.isr.iter().all(|node| !after.elr.contains(node)));
            prop_assert!(after.isr.len() < usize::from(min_isr) || after.elr.is_empty());
            for node in after.isr.iter().chain(&after.elr) {
                let disk = disks[index(*node)];
                prop_assert!(disk.foreign || disk.records == committed, "{step:?}: {node} {disk:?} {after:?}");
            }
        }
    }
}
