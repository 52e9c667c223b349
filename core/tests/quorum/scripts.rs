//! Stories whose transcripts are snapshots.

use bytes::Bytes;
use milena_core::quorum::message::{LogEnd, QuorumBody};
use milena_core::trace::Mark;
use milena_core::{Config, Halt, NodeId};
use milena_wire::batch::{BatchBuilder, Compression};

use crate::world::{MS, World};
use crate::{cluster, config};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);

fn start_all(world: &mut World) {
    let ids: Vec<NodeId> = world.nodes.keys().copied().collect();
    ids.into_iter().for_each(|id| world.start(id));
}

fn everyone_applied(world: &World, offset: i64) -> bool {
    world.nodes.keys().all(|id| world.running(*id).is_none_or(|run| run.applied > offset))
}

#[test]
fn three_found_a_cluster_and_elect() {
    let mut world = World::new(1, cluster(&[1, 2, 3]));
    world.verbose = true;
    start_all(&mut world);
    world.run_to("a leader", |world| world.leader().is_some());
    let leader = world.leader().expect("just seen");
    world.run_ms(10);
    let offset = world.propose(leader, b"a record").expect("it leads");
    world.run_to("everyone has it", |world| everyone_applied(world, offset));
    insta::assert_snapshot!(world.transcript);
}

#[test]
fn one_founds_alone_at_once() {
    let mut world = World::new(1, cluster(&[1]));
    start_all(&mut world);
    world.run_ms(100);
    assert!(world.running(ONE).expect("it runs").quorum.is_ready());
    let before = world.running(ONE).expect("it runs").quorum.cluster();
    world.propose(ONE, b"kept");
    world.run_ms(50);
    let chain = world.running(ONE).expect("it runs").chain;
    world.crash(ONE);
    world.start(ONE);
    world.run_ms(100);
    let run = world.running(ONE).expect("it runs");
    assert_eq!((run.quorum.cluster(), run.chain), (before, chain));
    insta::assert_snapshot!(world.transcript);
}

#[test]
fn a_new_leader_cuts_what_the_old_one_had_alone() {
    let mut world = World::new(3, cluster(&[1, 2, 3]));
    start_all(&mut world);
    world.run_to("a leader", |world| world.leader().is_some());
    let old = world.leader().expect("just seen");
    world.run_ms(20);
    world.transcript.clear();
    world.verbose = true;
    let others: Vec<NodeId> = [ONE, TWO, THREE].into_iter().filter(|id| *id != old).collect();
    for other in &others {
        world.cut.insert((old, *other));
    }
    world.say("-- the old leader is heard no more, and appends two records");
    world.propose(old, b"lost 1");
    world.propose(old, b"lost 2");
    world.run_ms(10);
    world.crash(old);
    world.say("-- it crashes, another one is elected and commits");
    world.run_to("a new leader", |world| world.leader().is_some());
    let new = world.leader().expect("just seen");
    let offset = world.propose(new, b"kept").expect("it leads");
    world.run_ms(20);
    world.say("-- the old leader comes back");
    world.cut.clear();
    world.start(old);
    world.run_to("the old leader follows", |world| {
        world.running(old).is_some_and(|run| run.applied > offset)
    });
    assert_eq!(world.ghost.sometimes.get(&Mark::QuorumTruncated), Some(&1));
    insta::assert_snapshot!(world.transcript);
}

#[test]
fn a_broker_and_a_destroyed_controller_observe() {
    let mut configs = cluster(&[1, 2, 3]);
    configs.push(config(7, &[1, 2, 3]));
    let mut world = World::new(5, configs);
    world.start(ONE);
    world.start(TWO);
    world.start(THREE);
    world.run_to("a leader", |world| world.leader().is_some());
    world.run_ms(50);
    let leader = world.leader().expect("just seen");
    let lost = if leader == THREE { TWO } else { THREE };
    world.verbose = true;
    world.transcript.clear();
    world.say("-- a broker that is no controller starts");
    world.start(NodeId(7));
    world.run_to("it follows", |world| world.running(NodeId(7)).is_some_and(|run| run.applied > 1));
    world.say("-- a controller's disk is destroyed");
    world.destroy(lost);
    world.start(lost);
    world.run_to("it follows", |world| world.running(lost).is_some_and(|run| run.applied > 1));
    let view = world.running(lost).expect("it runs").quorum.view();
    assert!(!view.is_voter && view.founded);
    world.say("-- with it, the other two still commit; with one more gone they do not");
    let offset = world.propose(leader, b"by two").expect("it leads");
    world.run_ms(20);
    assert!(everyone_applied(&world, offset));
    let other = [ONE, TWO, THREE].into_iter().find(|id| *id != leader && *id != lost);
    world.crash(other.expect("three less two"));
    let offset = world.propose(leader, b"by one").expect("it leads");
    world.run_ms(1_000);
    assert!(!everyone_applied(&world, offset) && world.leader().is_none());
    insta::assert_snapshot!(world.transcript);
}

#[test]
fn an_observer_whose_disk_is_put_back_follows_again() {
    const SEVEN: NodeId = NodeId(7);
    let has = |world: &World, offset| world.running(SEVEN).is_some_and(|run| run.applied > offset);
    let mut configs = cluster(&[1, 2, 3]);
    configs.push(config(7, &[1, 2, 3]));
    let mut world = World::new(11, configs);
    start_all(&mut world);
    world.run_to("a leader", |world| world.leader().is_some());
    world.run_ms(500);
    world.crash(SEVEN);
    let image = world.nodes[&SEVEN].disk.clone();
    for run in 0..2 {
        world.start(SEVEN);
        let leader = world.leader().expect("nothing happened to it");
        let offset = world.propose(leader, b"not in the image").expect("it leads");
        world.run_to("it has it", |world| has(world, offset));
        world.crash(SEVEN);
        world.say(&format!("-- run {run} is over"));
    }
    world.put_back(SEVEN, image);
    world.transcript.clear();
    world.verbose = true;
    world.start(SEVEN);
    let leader = world.leader().expect("nothing happened to it");
    let last = world.running(leader).expect("it leads").quorum.log_end() - 1;
    world.run_to("it has all again", |world| has(world, last));
    insta::assert_snapshot!(world.transcript);
}

#[test]
fn far_behind_joins_by_a_snapshot() {
    let mut world = World::new(7, cluster(&[1, 2, 3]));
    world.start(ONE);
    world.start(TWO);
    world.start(THREE);
    world.run_to("a leader", |world| world.leader().is_some());
    world.run_ms(20);
    let leader = world.leader().expect("just seen");
    let late = if leader == THREE { TWO } else { THREE };
    world.crash(late);
    for n in 0..10_000 {
        world.propose(leader, format!("record {n}").as_bytes());
        if n % 20 == 0 {
            world.run_ms(1);
        }
    }
    world.run_ms(200);
    world.transcript.clear();
    world.verbose = true;
    world.start(late);
    let offset = world.running(leader).expect("it leads").quorum.log_end() - 1;
    world.run_to("it has all", |world| world.running(late).is_some_and(|run| run.applied > offset));
    assert!(world.ghost.sometimes.contains_key(&Mark::QuorumSnapshotInstalled));
    let chain = |id| world.running(id).map(|run| run.chain);
    assert_eq!(chain(late), chain(leader));
    insta::assert_snapshot!(world.transcript);
}

/// Starts three and lets them work until they have snapshots: who leads, and another.
fn run_with_snapshots(world: &mut World) -> (NodeId, NodeId) {
    start_all(world);
    world.run_to("a leader", |world| world.leader().is_some());
    world.run_ms(20);
    let leader = world.leader().expect("just seen");
    for n in 0..100 {
        world.propose(leader, format!("record {n}").as_bytes());
        world.run_ms(5);
    }
    world.run_ms(100);
    (leader, if leader == THREE { TWO } else { THREE })
}

#[test]
fn a_damaged_snapshot_is_not_an_empty_disk() {
    let mut world = World::new(9, cluster(&[1, 2, 3]));
    let (leader, hurt) = run_with_snapshots(&mut world);
    assert!(world.running(hurt).expect("it runs").quorum.view().snapshot_end.is_some());
    world.crash(hurt);
    world.crash(leader);
    world.damage_snapshots(hurt, true);
    world.transcript.clear();
    world.start(hurt);
    world.run_ms(2_000);
    world.say(
        "-- of three one is down and one damaged: nobody leads, the damaged one does not vote",
    );
    assert_eq!(world.leader(), None);
    assert!(!world.running(hurt).expect("it runs").quorum.is_voter());
    world.start(leader);
    world.run_to("a leader", |world| world.leader().is_some());
    world.run_to("whole again", |world| world.running(hurt).expect("it runs").quorum.is_voter());
    insta::assert_snapshot!(world.transcript);
}

fn is_voter(world: &World, id: NodeId) -> bool {
    world.running(id).is_some_and(|run| run.quorum.is_voter())
}

fn hollow_then_whole(world: &mut World, hurt: NodeId) {
    world.run_to("hollow", |world| world.running(hurt).is_some() && !is_voter(world, hurt));
    world.run_to("whole again", |world| is_voter(world, hurt));
}

/// One more restart does not make it hollow again.
fn votes_at_once(world: &mut World, id: NodeId) {
    world.run_ms(100);
    world.crash(id);
    let hollow = world.ghost.sometimes.get(&Mark::QuorumHollow).copied();
    world.start(id);
    world.run_to("it votes", |world| is_voter(world, id));
    assert_eq!(world.ghost.sometimes.get(&Mark::QuorumHollow).copied(), hollow);
}

#[test]
fn a_damaged_snapshot_is_replaced_while_the_leader_stays() {
    let mut world = World::new(9, cluster(&[1, 2, 3]));
    let (leader, hurt) = run_with_snapshots(&mut world);
    world.crash(hurt);
    world.damage_snapshots(hurt, true);
    world.start(hurt);
    hollow_then_whole(&mut world, hurt);
    assert_eq!(world.leader(), Some(leader), "nobody else had to lead");
    // The leader's snapshot had the name of the damaged one, which is on the disk now.
    world.damage_snapshots(hurt, false);
    votes_at_once(&mut world, hurt);
    assert!(world.running(hurt).expect("it runs").quorum.view().snapshot_end.is_some());
}

/// A leader that has no snapshot gives the whole log again, and the snapshot that was damaged stands for none of it.
#[test]
fn a_log_given_anew_needs_no_damaged_snapshot() {
    let mut world = World::new(9, cluster(&[1, 2, 3]));
    let never = |config: &mut Config| config.quorum.snapshot_every_records = u64::MAX;
    world.reconfigure(ONE, never);
    world.reconfigure(TWO, never);
    let (leader, _) = run_with_snapshots(&mut world);
    let hurt = THREE;
    assert_ne!(leader, hurt);
    assert!(world.running(hurt).expect("it runs").quorum.view().snapshot_end.is_some());
    world.crash(hurt);
    world.reconfigure(hurt, never);
    world.damage_snapshots(hurt, true);
    world.start(hurt);
    hollow_then_whole(&mut world, hurt);
    votes_at_once(&mut world, hurt);
}

/// Of what it is given again, before it is whole, the last may be replaced.
#[test]
fn a_hollow_voter_gives_up_what_a_deposed_leader_had_alone() {
    let mut world = World::new(9, cluster(&[1, 2, 3, 4, 5]));
    let (hurt, _) = run_with_snapshots(&mut world);
    let all: Vec<NodeId> = world.nodes.keys().copied().collect();
    let part = |world: &mut World, from: &[NodeId], to: &[NodeId]| {
        let pairs = from.iter().flat_map(|a| to.iter().map(|b| (*a, *b)));
        world.cut.extend(pairs.flat_map(|(a, b)| [(a, b), (b, a)]));
    };
    part(&mut world, &[hurt], &all);
    (0..10).for_each(|_| _ = world.propose(hurt, b"what makes its old end a high one"));
    world.run_ms(10);
    world.crash(hurt);
    world.run_to("a second leader", |world| world.leader().is_some());
    let second = world.leader().expect("just seen");
    world.propose(second, b"kept");
    world.run_ms(50);
    world.cut.clear();
    let others: Vec<NodeId> =
        all.iter().copied().filter(|id| ![hurt, second].contains(id)).collect();
    part(&mut world, &[hurt, second], &others);
    let lost = world.propose(second, b"lost").and_then(|_| world.propose(second, b"lost too"));
    world.damage_snapshots(hurt, true);
    world.start(hurt);
    let end = lost.expect("it leads") + 1;
    world.run_to("it has what is lost", |world| {
        world.running(hurt).is_some_and(|run| run.quorum.log_end() == end)
    });
    world.run_ms(10);
    world.crash(second);
    assert!(!is_voter(&world, hurt));
    world.cut.clear();
    world.run_to("a third leader", |world| world.leader().is_some());
    let third = world.leader().expect("just seen");
    let offset = world.propose(third, b"kept").expect("it leads");
    assert!(offset <= end, "the log of the third leader goes no further than what is lost");
    world
        .run_to("it follows", |world| world.running(hurt).is_some_and(|run| run.applied >= offset));
}

/// Others have a copy, whatever list it was started with.
#[test]
fn a_controller_that_lists_itself_alone_is_not_the_only_one() {
    let mut world = World::new(9, cluster(&[1, 2, 3]));
    run_with_snapshots(&mut world);
    world.crash(ONE);
    world.reconfigure(ONE, |config| config.controllers.truncate(1));
    world.damage_snapshots(ONE, true);
    world.start(ONE);
    hollow_then_whole(&mut world, ONE);
}

/// Nothing was damaged: a majority of them may vote as soon as they can read.
#[test]
fn snapshots_that_can_be_read_again_are_whole() {
    for ids in [&[1, 2, 3][..], &[1]] {
        let mut world = World::new(9, cluster(ids));
        run_with_snapshots(&mut world);
        let all: Vec<NodeId> = world.nodes.keys().copied().collect();
        for damages in [true, false] {
            for id in &all {
                world.crash(*id);
                world.damage_snapshots(*id, damages);
                world.start(*id);
            }
            world.run_ms(2_000);
            assert_eq!(world.leader().is_none(), damages, "of {ids:?}");
            // Where nobody has a copy, it says so.
            let asks = matches!(world.nodes[&ONE].halted, Some(Halt::Operator(_)));
            assert_eq!(asks, damages && all == [ONE]);
        }
        let leader = world.leader().expect("just seen");
        let offset = world.propose(leader, b"kept").expect("it leads");
        world.run_to("everyone has it", |world| everyone_applied(world, offset));
    }
}

#[test]
fn a_lost_record_is_not_an_empty_disk() {
    let founded = |world: &World, id: NodeId| world.running(id).and_then(|r| r.quorum.cluster());
    let all_found = |world: &World| {
        world.nodes.keys().all(|id| world.running(*id).is_some_and(|r| r.quorum.view().founded))
    };
    let lose = |world: &mut World, id: NodeId| {
        world.destroy(id);
        world.nodes.get_mut(&id).expect("known").is_lost = true;
        world.start(id);
    };
    // Beside two that hold the record it becomes an observer.
    let mut world = World::new(11, cluster(&[1, 2, 3]));
    start_all(&mut world);
    world.run_to("founded", all_found);
    let cluster_id = founded(&world, TWO);
    assert!(cluster_id.is_some());
    lose(&mut world, ONE);
    world.run_to("it follows", |world| founded(world, ONE) == cluster_id);
    assert!(!world.running(ONE).expect("it runs").quorum.is_voter());
    // Beside two empty ones it waits, however often it is started.
    let mut world = World::new(12, cluster(&[1, 2, 3]));
    start_all(&mut world);
    world.run_to("founded", all_found);
    for id in [ONE, TWO] {
        world.destroy(id);
    }
    lose(&mut world, THREE);
    world.run_ms(1_000);
    world.crash(THREE);
    for id in [ONE, TWO, THREE] {
        world.start(id);
    }
    world.run_ms(5_000);
    assert_eq!([ONE, TWO, THREE].map(|id| founded(&world, id)), [None; 3]);
    // Alone it asks for an operator.
    let mut world = World::new(13, cluster(&[1]));
    start_all(&mut world);
    world.run_to("founded", all_found);
    lose(&mut world, ONE);
    world.run_ms(100);
    assert!(matches!(&world.nodes[&ONE].halted, Some(Halt::Operator(_))));
}

#[test]
fn two_empty_disks_wait_for_the_third() {
    let mut world = World::new(11, cluster(&[1, 2, 3]));
    start_all(&mut world);
    world.run_to("founded", |world| {
        world.nodes.keys().all(|id| world.running(*id).is_some_and(|r| r.quorum.view().founded))
    });
    for id in [ONE, TWO] {
        world.destroy(id);
        world.start(id);
    }
    world.crash(THREE);
    world.run_ms(5_000);
    assert!(world.running(ONE).expect("it runs").quorum.cluster().is_none());
    world.start(THREE);
    world.run_ms(5_000);
    let cluster = world.running(THREE).expect("it runs").quorum.cluster();
    for id in [ONE, TWO] {
        let view = world.running(id).expect("it runs").quorum.view();
        assert_eq!(view.founding.map(|record| record.cluster), cluster);
        assert!(!view.is_voter);
    }
    assert_eq!(world.leader(), None, "a lost majority waits for an operator");
}

#[test]
fn one_slow_and_one_destroyed_do_not_found_twice() {
    let mut world = World::new(17, cluster(&[1, 2, 3]));
    world.start(ONE);
    world.start(TWO);
    world.run_ms(1_000);
    // The third was slow since the first boot; now the second is away, and the first comes with an empty disk.
    world.destroy(ONE);
    world.crash(TWO);
    world.start(ONE);
    world.start(THREE);
    world.run_ms(1_000);
    world.start(TWO);
    world.run_to("a leader", |world| world.leader().is_some());
    assert_eq!(world.running(ONE).expect("it runs").quorum.voters().len(), 3);
}

#[test]
fn a_contradicting_list_stops_the_newcomer_alone() {
    // Before founding: the one that most others contradict.
    let configs = vec![config(1, &[1, 2, 3]), config(2, &[1, 2, 3]), config(3, &[1, 3])];
    let mut world = World::new(13, configs);
    start_all(&mut world);
    world.run_ms(5_000);
    let halted = |world: &World, id: NodeId| world.nodes[&id].halted.clone();
    assert!(
        matches!(halted(&world, THREE), Some(Halt::Operator(line)) if line.contains("--cluster"))
    );
    assert_eq!((halted(&world, ONE), halted(&world, TWO)), (None, None));
    world
        .reconfigure(THREE, |config| config.controllers = crate::config(3, &[1, 2, 3]).controllers);
    world.start(THREE);
    world.run_to("a leader", |world| world.leader().is_some());
    // After founding: an empty newcomer.
    world.nodes.insert(
        NodeId(4),
        World::new(0, vec![config(4, &[1, 2, 3, 4])]).nodes.remove(&NodeId(4)).expect("made"),
    );
    world.start(NodeId(4));
    world.run_until(world.now + 5_000 * MS);
    assert!(matches!(halted(&world, NodeId(4)), Some(Halt::Operator(_))));
    assert!([ONE, TWO, THREE].iter().all(|id| halted(&world, *id).is_none()));
}

#[test]
fn a_founded_node_says_that_its_record_wins_over_another_list() {
    let mut world = World::new(13, cluster(&[1, 2, 3]));
    start_all(&mut world);
    world.run_to("a leader", |world| world.leader().is_some());
    world.run_ms(50);
    world.crash(THREE);
    let said = |world: &World| {
        assert!(!world.transcript.contains("--cluster"), "{}", world.transcript);
        let line = "--nodes says that the controllers are nodes 3,4, but cluster ";
        world.transcript.matches(line).count()
    };
    world.start(THREE);
    world.run_ms(500);
    world.crash(THREE);
    assert!(!world.transcript.contains("--cluster"), "{}", world.transcript);
    world.reconfigure(THREE, |config| {
        config.controllers = crate::config(3, &[3, 4]).controllers;
        config.quorum.controllers_flag = "--nodes";
    });
    world.start(THREE);
    world.run_ms(500);
    assert_eq!(said(&world), 1, "{}", world.transcript);
    assert!(world.running(THREE).expect("it runs").quorum.is_voter());
    [ONE, TWO].into_iter().for_each(|id| world.crash(id));
    world.run_ms(300_000);
    assert_eq!(said(&world), 2, "seldom, and again");
}

/// A peer that says what cannot be true is not believed, and ends nothing.
#[test]
fn absurd_messages_are_refused() {
    let mut configs = cluster(&[1, 2, 3]);
    configs.push(config(7, &[1, 2, 3]));
    let mut world = World::new(9, configs);
    let (old, _) = run_with_snapshots(&mut world);
    world.crash(old);
    world.run_to("another leader", |world| world.leader().is_some());
    world.start(old);
    let (leader, follower) = (world.leader().expect("just seen"), old);
    let view = |world: &World, id: NodeId| world.running(id).expect("it runs").quorum.view();
    world.run_to("it has all", |world| {
        let (ours, theirs) = (world.running(follower), world.running(leader));
        ours.zip(theirs).is_some_and(|(a, b)| a.applied > 0 && a.applied == b.quorum.log_end())
    });
    let term = view(&world, leader).term;
    let no_op = view(&world, leader).log_end - 1;
    assert!(view(&world, follower).log_start < no_op);
    let batch = |offset: i64, epoch: i32| -> Bytes {
        // No-ops: the first of the kinds of records.
        let mut batch = BatchBuilder::new(offset, epoch, Compression::None);
        batch.append(0, None, Some(&[0]), &[]).build()
    };
    let append = |base: i64, previous: i32, epochs: &[i32]| {
        let batches = epochs.iter().zip(0..);
        let batches = batches.map(|(epoch, n)| batch(base.saturating_add(n), *epoch)).collect();
        QuorumBody::Append { base, previous, batches, commit: i64::MAX }
    };
    // Another record than the leader had in this term.
    world.forge(leader, follower, term, append(no_op, term - 1, &[term - 1]));
    // Nothing but a snapshot, and terms that fall behind it: below the start of the log nothing is compared.
    let is_trimmed = |world: &World| {
        let view = view(world, follower);
        view.log_start == view.log_end
    };
    while !is_trimmed(&world) {
        world.propose(leader, b"more");
        world.run_ms(30);
    }
    let start = view(&world, follower).log_start;
    let last = LogEnd { epoch: i32::MAX, end: i64::MAX };
    let part = QuorumBody::SnapshotPart {
        end: i64::MAX,
        epoch: i32::MAX,
        length: 1,
        position: 0,
        bytes: Bytes::from_static(b"x"),
    };
    let bodies = [
        (term, append(start - 1, -1, &[0, 0, 0, 0])),
        (term, append(i64::MIN, -1, &[])),
        (term, append(i64::MAX, -1, &[term])),
        (term, part),
        (i32::MAX, QuorumBody::Vote { last }),
        (i32::MAX, QuorumBody::PreVote { last }),
        (i32::MAX, QuorumBody::Stale),
        (term, QuorumBody::Stale),
    ];
    for (term, body) in bodies {
        world.forge(leader, follower, term, body);
    }
    // To the leader, of an observer.
    for (base, end) in [(-5, -5), (i64::MIN, i64::MAX), (i64::MAX, i64::MIN)] {
        world.forge(NodeId(7), leader, term, QuorumBody::Diverged { base, end, epoch: -1 });
        world.forge(NodeId(7), leader, term, QuorumBody::Follow { end: base });
        let body = QuorumBody::Appended { verified: base, synced: end };
        world.forge(NodeId(7), leader, term, body);
        world.forge(NodeId(7), leader, term, QuorumBody::SnapshotTaken { end, position: u64::MAX });
    }
    assert!(view(&world, follower).term == term && view(&world, leader).term == term);
    for refused in [
        "its log is not what it was",
        "its terms fall along its log",
        "its term cannot have been reached",
        "its snapshot is of a later term",
        "its log has no such offset",
    ] {
        assert!(world.transcript.contains(refused), "{refused}\n{}", world.last_lines());
    }
    // All goes on.
    let offset = world.propose(leader, b"after").expect("it still leads");
    world.run_to("everyone has it", |world| everyone_applied(world, offset));
    assert_eq!(view(&world, leader).term, term);
}
