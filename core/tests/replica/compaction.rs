//! Compaction and the replicas of a partition: each cleans for itself, and no key comes back from the dead.

use milena_wire::batch::{self, DecompressLimit, records};

use super::*;

const COMPACTED: [(&str, &str); 4] = [
    ("cleanup.policy", "compact"),
    ("segment.bytes", "200"),
    ("delete.retention.ms", "0"),
    ("min.cleanable.dirty.ratio", "0"),
];
/// Longer than the cleaner waits until it looks again.
const CLEANED: u64 = 20_000;

impl World {
    fn put(&mut self, id: i32, key: &str, value: Option<&str>) {
        let mut batch = BatchBuilder::new(0, -1, Compression::Lz4);
        batch.append(self.millis as i64, Some(key.as_bytes()), value.map(str::as_bytes), &[]);
        let partition = PartitionProduceData { index: 0, records: Some(batch.build()) };
        let topic = TopicProduceData {
            name: "t".into(),
            partition_data: vec![partition],
            ..TopicProduceData::default()
        };
        let topic_data = vec![topic];
        self.request(
            id,
            9,
            ProduceRequest { acks: -1, timeout_ms: 5_000, topic_data, ..Default::default() },
        );
    }

    /// Several of other keys, so that segments end.
    fn fill(&mut self, id: i32) {
        for number in 0..8 {
            self.put(id, &format!("other {number}"), Some("letter"));
        }
    }

    /// Key and value of each record that a leader's log has.
    fn entries(&mut self, id: i32) -> Vec<(i64, String, Option<String>)> {
        let end = self.view(id).high_watermark;
        let (mut at, mut entries) = (0, Vec::new());
        while at < end {
            self.fetch(id, at, -1);
            let fetched = std::mem::take(&mut self.fetched);
            assert!(!fetched.is_empty(), "nothing at {at} of {end}");
            for batch in batch::batches(&fetched) {
                let (header, batch) = batch.expect("a batch");
                at = header.next_offset();
                for record in records(&batch, DecompressLimit(1 << 20)).expect("records") {
                    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).expect("text");
                    let key = record.key.map(text).expect("a key");
                    entries.push((record.offset, key, record.value.map(text)));
                }
            }
        }
        entries
    }

    /// A node is cut off and leaves the in-sync set, and nobody proposes it any more.
    fn lose(&mut self, id: i32) {
        self.cut.insert(id);
        self.put(1, "other 0", Some("letter"));
        self.pass(5_000);
        self.publish(|partition| partition.isr.retain(|member| *member != NodeId(id)));
    }

    fn dropped(&self, id: i32) -> i64 {
        self.nodes[&id].shard.view().store().log(LOG).expect("a log").dropped()
    }
}

fn of_key<'a>(
    entries: &'a [(i64, String, Option<String>)],
    key: &str,
) -> Vec<(i64, Option<&'a str>)> {
    let mine = entries.iter().filter(|(_, other, _)| other == key);
    mine.map(|(offset, _, value)| (*offset, value.as_deref())).collect()
}

#[test]
fn each_replica_keeps_the_last_value_of_a_key() {
    let mut world = World::new(&COMPACTED);
    for value in ["a", "b", "c"] {
        world.put(1, "key", Some(value));
        world.fill(1);
    }
    world.pass(CLEANED);
    world.assert_converged(1);
    for leader in 1..=3 {
        world.elect(leader, &[1, 2, 3]);
        world.pass(1_000);
        let entries = world.entries(leader);
        assert_eq!(of_key(&entries, "key"), [(18, Some("c"))], "node {leader}");
        assert!(entries.len() < 20, "node {leader}: {entries:?}");
    }
}

/// It holds a value and ends before the tombstone that ended it, which nobody can show it any more.
#[test]
fn a_follower_that_missed_a_tombstone_begins_again() {
    let mut world = World::new(&COMPACTED);
    world.put(1, "key", Some("a"));
    world.pass(1_000);
    world.lose(3);
    world.put(1, "key", None);
    for _ in 0..3 {
        world.fill(1);
        world.pass(CLEANED);
    }
    assert_eq!(world.dropped(1), 3, "the tombstone at 2 has gone");
    assert_eq!(of_key(&world.entries(1), "key"), []);
    assert_eq!(world.view(3).end, 1);
    world.cut.clear();
    world.transcript.clear();
    world.pass(5_000);
    assert!(world.transcript.contains("replica.begins_again"), "{}", world.transcript);
    world.assert_converged(1);
    assert_eq!(world.dropped(3), 3, "it may lead, and then others must begin again");
    world.elect(3, &[1, 2, 3]);
    world.pass(1_000);
    assert_eq!(of_key(&world.entries(3), "key"), []);
}

/// It copies the log more slowly than tombstones go from it: those that it has not come to wait for it.
#[test]
fn a_slow_follower_does_not_begin_again_for_each_tombstone_that_goes() {
    let mut world =
        World::new(&[("segment.bytes", "150000"), COMPACTED[0], COMPACTED[2], COMPACTED[3]]);
    world.lose(3);
    let mut state = 1_u64;
    let mut letter = || -> String {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(33 + (state >> 40) as u8 % 90)
        };
        (0..6_000).map(|_| next()).collect()
    };
    for number in 0..300 {
        world.put(1, &format!("old {number}"), Some(&letter()));
    }
    world.cut.clear();
    world.slow = Some((3, 250));
    let mut dropped = BTreeSet::new();
    for number in 0..20 {
        world.put(1, &format!("old {}", 6 * number), None);
        for _ in 0..20 {
            world.put(1, "new", Some(&letter()));
        }
        world.pass(1_500);
        dropped.insert(world.dropped(1));
    }
    assert!(dropped.len() > 5, "tombstones go: {dropped:?}");
    let begun = world.transcript.matches("replica.begins_again").count();
    assert!(begun <= 1, "it begins again {begun} times");
    assert_eq!(world.view(3).end, world.view(1).end);
}

/// Its end lies inside the batch by which the leader stands for all that has gone.
#[test]
fn a_follower_inside_a_batch_without_records_takes_the_rest() {
    let mut world = World::new(&COMPACTED);
    for _ in 0..3 {
        world.put(1, "other 1", Some("a"));
    }
    world.pass(1_000);
    world.lose(3);
    for _ in 0..3 {
        world.fill(1);
        world.pass(CLEANED);
    }
    assert_eq!((world.dropped(1), world.view(3).end), (0, 3));
    world.cut.clear();
    world.transcript.clear();
    world.pass(5_000);
    assert!(world.transcript.contains("replica.took_rest_of_cover"), "{}", world.transcript);
    world.assert_converged(1);
    let entries = world.entries(1);
    world.elect(3, &[1, 2, 3]);
    world.pass(1_000);
    let last = |entries: Vec<(i64, String, Option<String>)>| {
        entries.into_iter().map(|(_, key, value)| (key, value)).collect::<BTreeMap<_, _>>()
    };
    let theirs = world.entries(3);
    assert_eq!(last(theirs), last(entries));
}

/// What it took from a deposed leader lies where the new leader's log has one batch of its own epoch without records: that is not
/// the leader's, and the rest of such a batch must not follow it.
#[test]
fn what_a_deposed_leader_wrote_goes_where_a_batch_without_records_stands() {
    let mut world = World::new(&COMPACTED);
    world.put(1, "other 1", Some("a"));
    world.pass(1_000);
    world.elect(3, &[1, 2, 3]);
    world.pass(1_000);
    world.put(3, "other 1", Some("a"));
    world.pass(1_000);
    world.cut.insert(3);
    for _ in 0..2 {
        world.put(3, "key", Some("never committed"));
    }
    world.pass(1_000);
    assert_eq!(world.view(3).end, 4);
    world.elect(1, &[1, 2]);
    for _ in 0..4 {
        world.put(1, "other 1", Some("b"));
    }
    for _ in 0..3 {
        world.fill(1);
        world.pass(CLEANED);
    }
    world.elect(1, &[1, 2]);
    world.pass(1_000);
    world.cut.clear();
    world.transcript.clear();
    world.pass(5_000);
    assert!(world.transcript.contains("replica.took_rest_of_cover"), "{}", world.transcript);
    world.assert_converged(1);
    world.elect(3, &[1, 2, 3]);
    world.pass(1_000);
    assert_eq!(of_key(&world.entries(3), "key"), []);
}

/// A push left before the leader dropped a tombstone, and comes after the follower has begun again for it.
#[test]
fn a_push_from_before_a_beginning_comes_after_it() {
    let mut world = World::new(&COMPACTED);
    world.lose(3);
    world.put(1, "key", Some("a"));
    world.delays = Some(Delays { to: 3, ..Delays::default() });
    world.cut.clear();
    world.pass(1_500);
    let mut kept = world.delays.take().expect("delayed").kept;
    assert!(!kept.is_empty(), "{}", world.transcript);
    kept.truncate(1);
    world.cut.insert(3);
    world.put(1, "key", None);
    for _ in 0..3 {
        world.fill(1);
        world.pass(CLEANED);
    }
    assert_eq!(world.dropped(1), 3, "the tombstone at 2 has gone");
    world.cut.clear();
    world.transcript.clear();
    // Only the beginning arrives of what is sent now.
    world.delays = Some(Delays { to: 3, ..Delays::default() });
    world.pass(2_500);
    assert!(world.transcript.contains("replica.begins_again"), "{}", world.transcript);
    assert_eq!((world.dropped(3), world.view(3).end), (3, 0));
    world.delays = None;
    // The old push arrives.
    world.messages.extend(kept);
    world.run();
    world.pass(10_000);
    world.assert_converged(1);
    world.elect(3, &[1, 2, 3]);
    world.pass(1_000);
    assert_eq!(of_key(&world.entries(3), "key"), [], "it is risen");
}

/// The follower is told to begin at a start past 0, does not hear it, and more tombstones go meanwhile.
#[test]
fn a_beginning_is_lost_and_more_tombstones_go() {
    let mut configs = COMPACTED.to_vec();
    configs[0].1 = "compact,delete";
    configs.push(("retention.ms", "200000"));
    let mut world = World::new(&configs);
    for _ in 0..3 {
        world.fill(1);
    }
    world.pass(300_000);
    let start = world.view(1).start;
    assert!(start > 0, "trimmed");
    world.put(1, "key", Some("a"));
    world.put(1, "yek", Some("a"));
    world.pass(1_000);
    world.lose(3);
    world.put(1, "key", None);
    for _ in 0..3 {
        world.fill(1);
        world.pass(3_000);
    }
    let first = world.dropped(1);
    assert!(first > world.view(3).end, "{first}");
    world.cut.clear();
    world.delays = Some(Delays { to: 3, begins: true, ..Delays::default() });
    world.pass(1_500);
    assert!(world.transcript.contains("replica.begins_again"), "{}", world.transcript);
    world.put(1, "yek", None);
    for _ in 0..3 {
        world.fill(1);
        world.pass(3_000);
    }
    assert!(world.dropped(1) > first, "more has gone");
    assert_eq!(world.view(1).start, start);
    world.delays = None;
    world.transcript.clear();
    world.pass(30_000);
    assert_eq!(world.view(1).start, start);
    world.assert_converged(1);
}

/// The same without a message that is late: the push waits at the follower for room in its journal, and heads and beginnings
/// go past it.
#[test]
fn a_push_from_before_a_beginning_waits_for_room() {
    let mut world = World::new(&COMPACTED);
    world.cut.insert(3);
    world.put(1, "key", Some("a"));
    world.lose(3);
    // It starts again, with a journal that is not filled yet.
    let node = world.nodes.remove(&3).expect("a node");
    let node = world.boot(3, node.disk);
    world.nodes.insert(3, node);
    world.fills = Some(Vec::new());
    world.step(3, Input::Start);
    world.cut.clear();
    let epoch = BrokerEpoch(20);
    let broker = world.image.brokers.get_mut(&NodeId(3)).expect("a broker");
    (broker.epoch, broker.confirmed) = (epoch, Some(epoch));
    world.publish(|_| {});
    world.serve(3);
    world.run();
    world.pass(100);
    assert!(world.transcript.contains("replica.push_without_room"), "{}", world.transcript);
    world.cut.insert(3);
    world.put(1, "key", None);
    for _ in 0..3 {
        world.fill(1);
        world.pass(CLEANED);
    }
    assert_eq!(world.dropped(1), 3, "the tombstone at 2 has gone");
    world.cut.clear();
    world.transcript.clear();
    // What is sent after the beginning is still under way when there is room.
    world.delays = Some(Delays { to: 3, ..Delays::default() });
    world.pass(2_500);
    assert!(world.transcript.contains("replica.begins_again"), "{}", world.transcript);
    world.delays = None;
    for (id, op, command) in world.fills.take().expect("they wait") {
        world.disk(id, op, &command);
    }
    world.run();
    world.pass(10_000);
    world.assert_converged(1);
    world.elect(3, &[1, 2, 3]);
    world.pass(1_000);
    assert_eq!(of_key(&world.entries(3), "key"), [], "it is risen");
}
