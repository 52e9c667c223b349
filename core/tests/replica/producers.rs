//! Idempotent producers and the replicas of a partition: a retry is known wherever its original is, and is safe when that is.

use milena_core::storage::{Beginning, KnownBatch};

use super::*;

impl World {
    /// Sends a batch of one record.
    fn send(&mut self, id: i32, acks: i16, (epoch, sequence): (i16, i32), value: &[u8]) {
        let mut batch = BatchBuilder::new(0, -1, Compression::None);
        batch.producer(7, epoch, sequence).append(self.millis as i64, None, Some(value), &[]);
        let partition = PartitionProduceData { index: 0, records: Some(batch.build()) };
        let topic = TopicProduceData {
            name: "t".into(),
            partition_data: vec![partition],
            ..TopicProduceData::default()
        };
        let topic_data = vec![topic];
        let request = ProduceRequest { acks, timeout_ms: 60_000, topic_data, ..Default::default() };
        self.request(id, 9, request);
    }

    /// The answers to produce since this was last asked.
    fn answers(&mut self) -> Vec<String> {
        let lines = std::mem::take(&mut self.transcript);
        let answers = lines.lines().filter_map(|line| line.split_once(" answers produce: "));
        answers.map(|(_, answer)| answer.to_string()).collect()
    }

    /// What a node knows of producers.
    fn known(&self, id: i32) -> Vec<(i64, i16, Vec<KnownBatch>)> {
        let log = self.nodes[&id].shard.view().store().log(LOG).expect("a log");
        log.producers().map(|known| (known.id, known.epoch, known.batches.to_vec())).collect()
    }

    /// Starts a node again from its disk.
    fn restart(&mut self, id: i32) {
        let disk = self.nodes.remove(&id).expect("a node").disk;
        let node = self.boot(id, disk);
        self.nodes.insert(id, node);
        self.step(id, Input::Start);
        self.serve(id);
        self.run();
    }
}

#[test]
fn a_retry_is_confirmed_with_its_original() {
    let mut world = World::new(&[]);
    world.cut.insert(3);
    world.send(1, -1, (0, 0), b"a");
    world.send(1, -1, (0, 0), b"a");
    world.send(1, -1, (0, 1), b"b");
    world.send(1, 1, (0, 0), b"a");
    assert_eq!(world.answers(), ["NONE at 0"], "the leader has it on its disk");
    world.cut.clear();
    world.pass(1_000);
    assert_eq!(world.answers(), ["NONE at 0", "NONE at 0", "NONE at 1"]);
    world.send(1, -1, (0, 0), b"a");
    assert_eq!(world.answers(), ["NONE at 0"], "at once");
    world.assert_converged(1);
    assert!((2..=3).all(|id| world.known(id) == world.known(1)));
}

#[test]
fn a_new_leader_knows_what_the_one_before_took() {
    let mut world = World::new(&[]);
    for sequence in 0..7 {
        world.send(1, -1, (4, sequence), b"x");
    }
    world.pass(1_000);
    world.elect(2, &[1, 2, 3]);
    world.pass(1_000);
    world.answers();
    world.send(2, -1, (4, 6), b"x");
    world.send(2, -1, (4, 2), b"x");
    world.send(2, -1, (4, 1), b"x");
    world.send(2, -1, (4, 8), b"x");
    world.send(2, -1, (3, 7), b"x");
    world.send(2, -1, (4, 7), b"x");
    world.pass(1_000);
    let refused = "OUT_OF_ORDER_SEQUENCE_NUMBER at -1";
    let fenced = "INVALID_PRODUCER_EPOCH at -1";
    assert_eq!(world.answers(), ["NONE at 6", "NONE at 2", refused, refused, fenced, "NONE at 7"]);
    world.assert_converged(2);
    assert!([1, 3].iter().all(|id| world.known(*id) == world.known(2)));
}

/// A retry of what an earlier leader took is answered only once this one knows that it is committed.
#[test]
fn a_retry_at_a_new_leader_waits_until_the_original_is_committed() {
    let mut world = World::new(&[]);
    world.send(1, -1, (0, 0), b"a");
    world.cut.extend([1, 3]);
    world.elect(2, &[2, 3]);
    world.answers();
    world.send(2, -1, (0, 0), b"a");
    assert_eq!(world.answers(), [""; 0]);
    world.cut.remove(&3);
    world.pass(1_000);
    assert_eq!(world.answers(), ["NONE at 0"]);
}

/// What it lacks its successor has: whoever is told of a gap takes records for lost.
#[test]
fn a_deposed_leader_that_has_not_heard_of_it_calls_nothing_out_of_order() {
    let mut world = World::new(&[]);
    world.send(1, -1, (0, 0), b"a");
    world.cut.insert(1);
    world.publish_to(
        |partition| {
            (partition.leader, partition.leader_epoch) = (Some(NodeId(2)), 2);
            partition.isr = [2, 3].map(NodeId).into();
        },
        &[2, 3],
    );
    world.send(2, -1, (0, 1), b"b");
    world.pass(1_000);
    world.cut.clear();
    world.answers();
    for acks in [-1, 1] {
        world.send(1, acks, (0, 2), b"c");
    }
    world.pass(10_000);
    assert_eq!(world.answers(), [""; 0]);
    world.local(1, LocalMessage::Image(Arc::new(world.image.clone())));
    world.pass(1_000);
    assert_eq!(world.answers(), ["NOT_LEADER_OR_FOLLOWER at -1"; 2]);
    world.send(2, -1, (0, 2), b"c");
    world.send(2, -1, (0, 4), b"e");
    world.pass(1_000);
    assert_eq!(world.answers(), ["NONE at 2", "OUT_OF_ORDER_SEQUENCE_NUMBER at -1"]);
}

/// Nor does one that hears nobody: it says when the time is over that it cannot tell.
#[test]
fn a_gap_that_is_not_confirmed_in_time_is_none() {
    let mut world = World::new(&[]);
    world.send(1, -1, (0, 0), b"a");
    world.answers();
    world.cut.insert(1);
    world.send(1, -1, (0, 2), b"c");
    world.pass(61_000);
    assert_eq!(world.answers(), ["REQUEST_TIMED_OUT at -1"]);
}

/// The batches that a deposed leader took alone had pushed out older ones: those are known again.
#[test]
fn what_a_truncation_cuts_was_never_there() {
    for restart in [false, true] {
        let mut world = World::new(&[]);
        for sequence in 0..6 {
            world.send(1, -1, (0, sequence), b"x");
        }
        world.pass(1_000);
        let before = world.known(1);
        world.cut.insert(1);
        for sequence in 6..9 {
            world.send(1, 1, (0, sequence), b"lost");
        }
        world.send(1, 1, (1, 0), b"lost");
        assert_ne!(world.known(1), before);
        world.publish_to(
            |partition| {
                (partition.leader, partition.leader_epoch) = (Some(NodeId(2)), 2);
                partition.isr = [2, 3].map(NodeId).into();
            },
            &[2, 3],
        );
        assert_eq!(world.known(2), before);
        if restart {
            world.restart(1);
        }
        world.local(1, LocalMessage::Image(Arc::new(world.image.clone())));
        world.cut.clear();
        world.send(2, -1, (0, 6), b"kept");
        world.pass(1_000);
        world.assert_converged(2);
        assert_ne!(world.known(2), before);
        assert!([1, 3].iter().all(|id| world.known(*id) == world.known(2)), "{:?}", world.known(1));
    }
}

#[test]
fn a_replica_that_begins_at_the_log_start_knows_who_wrote_before_it() {
    let configs = [("segment.bytes", "16384"), ("retention.bytes", "40000")];
    let mut world = World::new(&configs);
    world.send(1, -1, (5, 0), b"a");
    world.pass(500);
    world.cut.insert(3);
    world.fence(3, true);
    world.elect(1, &[1, 2]);
    let large = vec![1; 12_000];
    for number in 0..8 {
        if number < 3 {
            world.send(1, -1, (5, 1 + number), &large);
        } else {
            world.produce(1, -1, &[&large]);
        }
        world.pass(20);
    }
    world.pass(60_000);
    let start = world.view(1).start;
    assert!(world.known(1)[0].2.iter().all(|batch| batch.next() <= start), "all of it is gone");

    // What says no such thing is not believed, and nothing is dropped for it.
    world.cut.clear();
    world.fence(3, false);
    let image = world.image.clone();
    world.local(3, LocalMessage::Image(Arc::new(image)));
    let (before, records) = (world.view(3), world.known(3));
    let push = Push {
        cluster: 1,
        log: LOG,
        leader: (NodeId(1), BrokerEpoch(11)),
        leader_epoch: 2,
        follower_epoch: BrokerEpoch(13),
        epoch_start: 1,
        base: start,
        previous_epoch: -1,
        begin: Some(Beginning { producers: Bytes::from_static(b"\x01\x01\x07"), dropped: 0 }),
        dropped: 0,
        exchange: 0,
        high_watermark: start,
        log_start: start,
        records: Vec::new(),
    };
    let message = PeerMessage::Replica(ReplicaMessage::Push(push));
    world.step(3, Input::Peer { from: NodeId(1), message });
    assert!(world.transcript.contains("malformed"));
    assert_eq!((world.view(3).end, world.known(3)), (before.end, records));
    world.messages.clear();

    world.publish(|_| {});
    world.pass(1_000);
    assert_eq!((world.view(3).start, world.view(3).end), (start, world.view(1).end));
    assert_eq!(world.known(3), world.known(1));
    world.restart(3);
    world.pass(1_000);
    assert_eq!(world.known(3), world.known(1), "it is in the journal");
    world.elect(3, &[1, 2, 3]);
    world.pass(1_000);
    world.answers();
    world.send(3, -1, (5, 3), &large);
    world.send(3, -1, (5, 0), b"a");
    world.send(3, -1, (5, 4), b"b");
    world.pass(1_000);
    let end = world.view(3).end;
    assert_eq!(world.answers(), ["NONE at 3", "NONE at 0", &format!("NONE at {}", end - 1)]);
}
