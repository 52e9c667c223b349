//! Requests that come before a node knows what it takes to answer them.

use super::*;

/// A tool that asks once is told what a moment later is true.
#[test]
fn what_is_asked_early_waits_until_partitions_have_leaders() {
    let lead = |image: &mut Image, leader| {
        let first = LogId { topic: TOPIC, partition: 0 };
        image.partition_mut(first).expect("it exists").leader = leader;
        image.end += 1;
    };
    let ask = || MetadataRequest { topics: None, ..MetadataRequest::default() };
    let mut broker = Broker1::start(InstantDisk::default(), |image| lead(image, None));
    let gone = broker.send(1, 12, ask());
    let id = broker.send(4, 12, ask());
    broker.pass(900);
    assert!(!broker.answered(id));
    broker.step(1, Input::Hangup { client: ClientId(1) });
    lead(&mut broker.image, Some(ME));
    (0..SHARDS).for_each(|shard| broker.show(shard));
    assert!(!broker.answered(gone), "nobody waits for it any more");
    let Some(Response::Metadata(response)) = broker.answer(id) else { panic!("it waits") };
    assert_eq!(response.topics[0].partitions[0].leader_id, ME.0);

    lead(&mut broker.image, None);
    (0..SHARDS).for_each(|shard| broker.show(shard));
    let id = broker.send(1, 12, ask());
    let Some(Response::Metadata(response)) = broker.answer(id) else { panic!("it waits") };
    let code = response.topics[0].partitions[0].error_code;
    assert_eq!(code, ErrorCode::LEADER_NOT_AVAILABLE, "what is so later is told at once");
}

/// Who may lead a partition may be down for long, or there may be nobody: that is not waited for at each start.
#[test]
fn what_is_asked_early_waits_for_no_partition_that_stays_without_a_leader() {
    let ask = || MetadataRequest { topics: None, ..MetadataRequest::default() };
    let leaderless = |eligible: bool| {
        move |image: &mut Image| {
            let first = LogId { topic: TOPIC, partition: 0 };
            let partition = image.partition_mut(first).expect("it exists");
            partition.leader = None;
            if !eligible {
                (partition.isr, partition.elr) = (vec![], vec![]);
            }
        }
    };
    let mut broker = Broker1::start(InstantDisk::default(), leaderless(true));
    let id = broker.send(1, 12, ask());
    broker.pass(1_100);
    assert!(broker.answered(id), "a second is enough for who starts with it");
    let mut broker = Broker1::start(InstantDisk::default(), leaderless(false));
    let id = broker.send(1, 12, ask());
    assert!(broker.answered(id), "nobody may come");
}

/// An empty list would be believed, and what is missing from it created again.
#[test]
fn a_node_that_does_not_know_its_cluster_yet_lists_nothing() {
    let mut broker = Broker1::start(InstantDisk::default(), |image| *image = Image::default());
    let all = MetadataRequest { topics: None, ..MetadataRequest::default() };
    let id = broker.send(0, 12, all.clone());
    broker.pass(2_900);
    assert!(!broker.answered(id) && broker.closed.is_empty(), "it waits");
    broker.pass(200);
    assert!(!broker.answered(id), "an empty list would be believed");
    assert_eq!(broker.closed, [ClientId(0)]);
    let brokers_alone = MetadataRequest { topics: Some(Vec::new()), ..MetadataRequest::default() };
    let id = broker.send(1, 12, brokers_alone);
    let Some(Response::Metadata(response)) = broker.answer(id) else { panic!() };
    assert_eq!((response.brokers.len(), response.cluster_id), (1, None));
    let mut broker = Broker1::new();
    let id = broker.send(0, 12, all);
    assert!(matches!(broker.answer(id), Some(Response::Metadata(r)) if r.topics.len() == 1));
}
