//! The P rules, tripped at the events of partitions; R3 for what their replicas acknowledge.

use milena_core::disk::{Command, Directory, FileName};
use milena_core::image::Partition;
use milena_core::trace::Event;
use milena_core::{BrokerEpoch, Incarnation, LogId, NodeId};

use crate::{
    JOURNAL, LOG, Stage, acknowledged, appended, high_watermark, high_watermark_in, nodes,
    recorded, recovered,
};

#[test]
fn r3_spoken_before_it_is_on_the_disk() {
    let mut stage = Stage::with_partition();
    stage.store(1, LOG, 0, 1, 1, false);
    assert_eq!(stage.acknowledge(1, 1, 1), Err("R3".into()));
    let mut stage = Stage::new();
    stage.store(1, LogId::METADATA, 0, 1, 1, false);
    stage.trips("R3", 1, Event::QuorumAcknowledged { term: 1, end: 1 });
}

#[test]
fn r3_damage_excuses_what_it_touched_and_nothing_else() {
    let stored = |sync| {
        let mut stage = Stage::with_partition();
        stage.store(1, LOG, 0, 1, 1, true);
        stage.store(1, LOG, 1, 1, 2, sync);
        stage
    };
    let mut stage = stored(true);
    stage.corrupt(1, JOURNAL);
    stage.acknowledge(1, 2, 1).expect("the first batch was on the disk until it was damaged");
    let mut stage = stored(false);
    stage.corrupt(1, JOURNAL);
    assert_eq!(stage.acknowledge(1, 2, 1), Err("R3".into()), "the second was never synced");
}

#[test]
fn p1_a_leader_commits_something_else() {
    let alone = || Event::HighWatermark {
        log: LOG,
        epoch: 2,
        offset: 1,
        isr: nodes(&[3]),
        maximal: nodes(&[3]),
        min_isr: 1,
        partition_epoch: 9,
    };
    let lost = || {
        let mut stage = Stage::committed();
        stage.checks.on_destroyed(2);
        stage.checks.on_incarnation(2, Incarnation(9)).expect("a new disk");
        let other = Partition {
            isr: nodes(&[3]),
            leader: Some(NodeId(3)),
            leader_epoch: 2,
            partition_epoch: 9,
            min_isr: 1,
            ..stage.partition()
        };
        stage.ok(2, Event::Leading { log: LOG, epoch: 2, start: 0 });
        stage.show_with(other, |_| {}).expect("not the disk that the controller means");
        stage
    };
    let mut stage = lost();
    let (event, _) = appended(LOG, 0, 2, 9, true);
    stage.ok(2, event);
    // Its own copy is not looked at on the disk here: whoever commits must agree before anything else.
    let told = stage.tell(2, alone());
    assert_eq!(told, Err("P5".into()), "and without a disk not even that");
    let mut stage = lost();
    let (event, data) = appended(LOG, 0, 2, 9, true);
    let data = recorded(LOG, data, 1);
    stage.ok(2, event);
    let file = FileName::Journal { layout: 1, journal: 1, index: 5 };
    stage.checks.nodes[2].locations.on_write(file, 0, &data);
    for command in [
        Command::Create { file },
        Command::Write { file, offset: 0, data },
        Command::Sync { file },
        Command::SyncDirectory { directory: Directory::Journal },
    ] {
        stage.disks[2].apply(&command, stage.draw.generator()).expect("a sound disk");
    }
    stage.trips("P1", 2, alone());
}

#[test]
fn p3_an_eligible_replica_lacks_something() {
    let mut stage = Stage::with_partition();
    for node in 0..2 {
        stage.store(node, LOG, 0, 1, 1, true);
    }
    stage.acknowledge(1, 1, 1).expect("it is on the disk");
    stage.show(|partition| partition.isr = nodes(&[1, 2])).expect("one has left");
    // The third is in sync for the controller again, and the leader did not wait for it; P4 would say so first.
    stage
        .show(|partition| {
            (partition.leader, partition.isr) = (Some(NodeId(2)), nodes(&[1, 2, 3]));
        })
        .expect_err("P11: one epoch, two leaders");
    stage.trips("P3", 0, high_watermark_in(2, &[1, 2], &[1, 2]));
}

#[test]
fn p4_the_maximal_set_is_too_small() {
    let mut stage = Stage::replicated();
    stage.show(|partition| partition.isr = nodes(&[1, 2])).expect("one has left");
    stage.ok(2, Event::Serving { epoch: BrokerEpoch(1) });
    stage.acknowledge(2, 1, 1).expect("it is on the disk");
    stage.show(|partition| partition.isr = nodes(&[1, 2, 3])).expect("it is back");
    stage.trips("P4", 0, high_watermark_in(2, &[1, 2], &[1, 2]));
}

#[test]
fn p5_a_high_watermark_without_enough_disks() {
    Stage::replicated().trips("P5", 0, high_watermark(1, &[1], &[1]));
    let mut stage = Stage::with_partition();
    for node in 0..3 {
        stage.store(node, LOG, 0, 1, 1, true);
    }
    stage.trips("P5", 0, high_watermark(1, &[1, 2, 3], &[1, 2, 3]));
}

#[test]
fn p5_the_leader_believes_in_another_set_than_the_controller() {
    let mut stage = Stage::replicated();
    stage.show(|partition| partition.min_isr = 3).expect("a larger minimum");
    let word = |isr: &[i32], epoch| high_watermark_in(epoch, isr, &[1, 2, 3]);
    stage.trips_as("P5", "nobody committed", 0, word(&[1, 2, 3], 3));
    stage.trips_as("P5", "a minimum of 2", 0, word(&[1, 2, 3], 2));
    stage.trips_as("P5", "the controller says", 0, word(&[1, 2], 1));
    stage.ok(0, word(&[1, 2, 3], 1));
}

#[test]
fn r9_two_images_of_one_partition_epoch() {
    let mut stage = Stage::with_partition();
    let mut other = stage.partition();
    other.isr = nodes(&[1, 2]);
    assert_eq!(stage.show_with(other, |_| {}), Err("R9".into()));
}

#[test]
fn a_batch_sent_again_and_again_is_found_at_each_of_its_offsets() {
    let mut stage = Stage::with_partition();
    for base in 0..100 {
        stage.store(1, LOG, base, 1, 1, true);
    }
    stage.acknowledge(1, 100, 1).expect("each is on the disk");
}

#[test]
fn p6_a_high_watermark_that_falls() {
    let mut stage = Stage::committed();
    stage.trips("P6", 0, high_watermark(0, &[1, 2, 3], &[1, 2, 3]));
}

#[test]
fn p7_equal_records_after_different_ones() {
    let mut stage = Stage::with_partition();
    stage.append(0, LOG, 0, 1, 1);
    stage.ok(0, Event::Leading { log: LOG, epoch: 3, start: 1 });
    stage.append(0, LOG, 1, 3, 2);
    stage.ok(1, Event::Following { log: LOG, epoch: 3, leader: NodeId(1) });
    let (other, _) = appended(LOG, 0, 2, 8, false);
    stage.ok(1, other);
    let (event, _) = appended(LOG, 1, 3, 2, false);
    stage.trips("P7", 1, event);
}

#[test]
fn p7_replicas_that_differ_below_their_high_watermarks() {
    let mut stage = Stage::committed();
    stage.checks.agrees_below(1, LOG, 1).expect("they are equal");
    stage.checks.on_destroyed(2);
    stage.checks.on_incarnation(2, Incarnation(9)).expect("a new disk");
    stage.ok(2, Event::Following { log: LOG, epoch: 2, leader: NodeId(1) });
    let (event, _) = appended(LOG, 0, 2, 9, false);
    stage.ok(2, event);
    stage.checks.agrees_below(2, LOG, 0).expect("it believes nothing");
    assert_eq!(stage.checks.agrees_below(2, LOG, 1).unwrap_err().property, "P7");
}

#[test]
fn p8_a_committed_record_is_truncated() {
    let mut stage = Stage::committed();
    stage.trips("P8", 1, Event::Truncated { log: LOG, to: 0 });
}

#[test]
fn p8_a_replica_that_is_out_may_believe_an_earlier_leader() {
    let stage = |follows: i32, isr: &[i32]| {
        let mut stage = Stage::replicated();
        let leader = NodeId(1);
        let change = |partition: &mut Partition| {
            (partition.leader_epoch, partition.isr) = (2, nodes(isr));
        };
        stage.show(change).expect("a sane partition");
        stage.ok(0, Event::Leading { log: LOG, epoch: 2, start: 1 });
        for node in 1..follows {
            stage.ok(node as usize, Event::Following { log: LOG, epoch: 2, leader });
        }
        for node in 1..isr.len() {
            let mut event = acknowledged(1, 2);
            if let Event::Acknowledged { last_epoch, .. } = &mut event {
                *last_epoch = 1;
            }
            stage.ok(node, event);
        }
        let (isr, maximal) = (nodes(isr), nodes(isr));
        let partition_epoch = 2;
        let (log, epoch, offset, min_isr) = (LOG, 2, 1, 2);
        let high =
            Event::HighWatermark { log, epoch, offset, isr, maximal, min_isr, partition_epoch };
        stage.ok(0, high);
        stage
    };
    let truncated = || Event::Truncated { log: LOG, to: 0 };
    stage(2, &[1, 2]).ok(2, truncated());
    stage(3, &[1, 2]).trips("P8", 2, truncated());
    stage(3, &[1, 2, 3]).trips("P8", 2, truncated());
    stage(2, &[1, 2]).trips("P8", 1, truncated());
}

#[test]
fn p9_two_batches_of_one_epoch_and_offset() {
    let mut stage = Stage::with_partition();
    stage.append(0, LOG, 0, 1, 1);
    let (event, _) = appended(LOG, 0, 1, 2, false);
    stage.trips("P9", 1, event);
}

#[test]
fn p10_an_append_of_another_epoch() {
    let mut stage = Stage::with_partition();
    let (event, _) = appended(LOG, 0, 2, 1, true);
    stage.trips("P10", 0, event);
    let (event, _) = appended(LOG, 0, 2, 1, false);
    stage.trips("P10", 1, event);
}

#[test]
fn p10_what_another_epoch_has_caused() {
    let moved = |epoch, end| Event::FollowerMoved {
        log: LOG,
        epoch,
        follower: NodeId(2),
        end,
        last_epoch: 1,
    };
    Stage::replicated().ok(0, moved(1, 1));
    Stage::replicated().trips("P10", 0, moved(2, 1));
    Stage::replicated().trips("P10", 0, moved(1, 2));
    let mut stage = Stage::replicated();
    stage.ok(0, Event::Following { log: LOG, epoch: 2, leader: NodeId(2) });
    stage.trips("P10", 0, moved(1, 1));
    stage.trips("P10", 0, high_watermark(1, &[1, 2, 3], &[1, 2, 3]));
    let served = |asked| Event::Served { log: LOG, base: 0, next: 1, asked };
    Stage::committed().trips("P10", 0, served(2));
    Stage::committed().trips("P10", 1, served(-1));
    Stage::committed().ok(0, served(-1));
}

#[test]
fn p13_acknowledged_and_not_committed() {
    let mut stage = Stage::replicated();
    let produced = Event::Produced { log: LOG, epoch: 1, base: 0, next: 1, all: true };
    stage.trips("P13", 0, produced.clone());
    let mut stage = Stage::committed();
    stage.ok(0, produced);
    stage.trips("P13", 0, Event::Produced { log: LOG, epoch: 2, base: 0, next: 1, all: true });
}

#[test]
fn p13_acknowledged_on_too_few_disks() {
    let mut stage = Stage::with_partition();
    let alone = |partition: &mut Partition| (partition.isr, partition.min_isr) = (nodes(&[1]), 1);
    stage.show(alone).expect("two have left");
    stage.store(0, LOG, 0, 1, 1, true);
    let mut moved = high_watermark_in(2, &[1], &[1]);
    if let Event::HighWatermark { min_isr, .. } = &mut moved {
        *min_isr = 1;
    }
    stage.ok(0, moved);
    stage.show(|partition| partition.min_isr = 2).expect("one is not enough any more");
    let produced = Event::Produced { log: LOG, epoch: 1, base: 0, next: 1, all: true };
    stage.trips_as("P13", "on 1 disks where 2 are needed", 0, produced);
}

#[test]
fn p25_acknowledged_by_the_leader_alone_and_not_on_its_disk() {
    let produced = |epoch| Event::Produced { log: LOG, epoch, base: 0, next: 1, all: false };
    for (epoch, synced, fine) in [(1, true, true), (1, false, false), (2, true, false)] {
        let mut stage = Stage::with_partition();
        stage.store(0, LOG, 0, 1, 1, synced);
        match fine {
            true => stage.ok(0, produced(epoch)),
            false => stage.trips("P25", 0, produced(epoch)),
        }
    }
    Stage::with_partition().trips("P25", 0, produced(1));
}

#[test]
fn p14_nothing_is_left_of_a_committed_record() {
    let mut stage = Stage::committed();
    stage.checks.nothing_is_lost().expect("three copies");
    for node in 0..3 {
        stage.checks.on_destroyed(node);
    }
    assert_eq!(stage.checks.nothing_is_lost().unwrap_err().property, "P14");
    let mut stage = Stage::committed();
    for node in 0..3 {
        stage.corrupt(node, JOURNAL);
        stage.ok(node, Event::Damaged { log: LOG });
    }
    let lost = stage.checks.nothing_is_lost();
    assert_eq!(lost.unwrap_err().property, "P14", "what is damaged holds nothing for sure");
}

#[test]
fn p15_uncommitted_records_are_served() {
    let mut stage = Stage::replicated();
    stage.trips("P15", 0, Event::Served { log: LOG, base: 0, next: 1, asked: 1 });
    Stage::committed().ok(0, Event::Served { log: LOG, base: 0, next: 1, asked: 1 });
    let mut stage = Stage::new();
    stage.show(|_| {}).expect("a sane partition");
    let served = Event::Served { log: LOG, base: 0, next: 1, asked: 1 };
    stage.trips_as("P15", "holds nothing", 0, served);
}

#[test]
fn p16_gaps_and_starts_that_fall() {
    let mut stage = Stage::committed();
    let (event, _) = appended(LOG, 5, 1, 3, true);
    stage.trips("P16", 0, event);
    stage.trips("P16", 0, Event::Trimmed { log: LOG, start: 2 });
    let mut stage = Stage::committed();
    stage.ok(0, Event::Trimmed { log: LOG, start: 1 });
    stage.trips("P16", 0, Event::Trimmed { log: LOG, start: 0 });
}

#[test]
fn p16_a_log_that_keeps_everything_is_trimmed() {
    let trimmed = Event::Trimmed { log: LOG, start: 1 };
    let mut stage = Stage::committed();
    stage.configs.clear();
    stage.show(|_| {}).expect("its retention is gone");
    stage.trips_as("P16", "no retention", 0, trimmed.clone());
    Stage::committed().ok(0, trimmed);
    let mut stage = Stage::committed();
    stage.show(|partition| partition.isr = nodes(&[1, 2])).expect("one has left");
    stage.trips_as("P16", "begins again at 1", 2, Event::Reset { log: LOG, start: 1 });
}

#[test]
fn p19_a_second_life_in_an_epoch() {
    let mut stage = Stage::committed();
    stage.checks.on_stop(0);
    stage.checks.on_start(0);
    stage.ok(0, recovered(1, 1, false));
    let partition =
        stage.checks.image.as_ref().and_then(|image| image.partition(LOG)).map(|(_, p)| p.clone());
    stage
        .show_with((*partition.expect("it was shown")).clone(), |brokers| {
            brokers.get_mut(&NodeId(1)).expect("three brokers").epoch = BrokerEpoch(7);
        })
        .expect("it registers again");
    stage.ok(0, Event::Serving { epoch: BrokerEpoch(7) });
    stage.trips("P19", 0, Event::Leading { log: LOG, epoch: 1, start: 1 });
    let (event, _) = appended(LOG, 1, 1, 5, true);
    stage.trips("P19", 0, event);
}

#[test]
fn p20_an_acknowledgement_that_does_not_match() {
    let mut stage = Stage::replicated();
    stage.trips(
        "P20",
        0,
        Event::FollowerMoved { log: LOG, epoch: 1, follower: NodeId(2), end: 1, last_epoch: 0 },
    );
}

#[test]
fn p21_an_eligible_replica_discards() {
    Stage::committed().trips("P21", 1, Event::Reset { log: LOG, start: 0 });
    Stage::committed().trips("P21", 1, Event::Deleted { log: LOG });
    let trimmed = Event::Trimmed { log: LOG, start: 1 };
    Stage::committed().trips_as("P21", "no leader has trimmed", 1, trimmed.clone());
    let mut stage = Stage::committed();
    stage.ok(0, trimmed.clone());
    stage.ok(1, trimmed);
    let mut stage = Stage::committed();
    stage.corrupt(1, JOURNAL);
    stage.ok(1, Event::Damaged { log: LOG });
    let (event, _) = appended(LOG, 1, 1, 4, false);
    stage.trips("P21", 1, event);
}
