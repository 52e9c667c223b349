//! P23: retention takes too much; L13 and L14: something is left that was to go.

use milena_core::disk::{Command, FileName};
use milena_core::trace::Event;
use milena_core::{LogId, NodeId, Offset, TopicId};

use crate::{LOG, Stage, TOPIC, WRITTEN_AT, appended, high_watermark};

/// Bytes of each batch here.
const BATCH: u64 = 88;

fn trimmed(start: Offset) -> Event {
    Event::Trimmed { log: LOG, start }
}

impl Stage {
    /// Ten committed batches of a topic with these configurations, all of the same time.
    fn kept(configs: &[(&str, &str)]) -> Stage {
        let mut stage = Stage::with_partition();
        stage.configs =
            configs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        stage.show(|_| {}).expect("other configurations");
        for base in 0..10 {
            for node in 0..3 {
                stage.store(node, LOG, base, 1, 1, true);
            }
        }
        for node in 1..3 {
            stage.acknowledge(node, 10, 1).expect("all is on the disk");
        }
        stage.ok(0, high_watermark(10, &[1, 2, 3], &[1, 2, 3]));
        let log = stage.checks.nodes[0].logs[1].as_ref().expect("a log");
        assert!(log.end == 10 && log.batches.iter().all(|batch| u64::from(batch.size) == BATCH));
        stage
    }

    fn at_wall(mut self, wall: i64) -> Stage {
        self.checks.clocks.wall = wall;
        self
    }

    /// What retention should have removed and has not, by a clock.
    fn overdue(&mut self, wall: i64) -> bool {
        let log = self.checks.log_index(LOG);
        self.checks.kept_too_long(NodeId(1), log, wall).is_some()
    }
}

#[test]
fn p23_fewer_bytes_are_left_than_are_to_be_kept() {
    let six = (6 * BATCH).to_string();
    let kept = || Stage::kept(&[("retention.bytes", &six)]);
    kept().ok(0, trimmed(4));
    kept().trips_as("P23", "removes 4..5", 0, trimmed(5));
    kept().trips("P23", 0, trimmed(10));
    let mut stage = kept();
    stage.ok(0, trimmed(4));
    stage.trips("P23", 0, trimmed(5));
}

#[test]
fn p23_younger_records_go_than_are_to_be_kept() {
    let kept = || Stage::kept(&[("retention.ms", "1000")]);
    kept().at_wall(WRITTEN_AT + 1_001).ok(0, trimmed(10));
    kept().at_wall(WRITTEN_AT + 1_000).trips("P23", 0, trimmed(1));
    let mut stage = kept().at_wall(WRITTEN_AT + 1_001);
    stage.checks.nodes[0].logs[1].as_mut().expect("a log").batches[3].born += 1;
    stage.ok(0, trimmed(3));
    stage.trips_as("P23", "removes 3..4", 0, trimmed(10));
}

#[test]
fn p23_a_time_from_outside_decides_a_lifetime() {
    let counted = |own: i64, counts: i64| {
        let mut stage = Stage::kept(&[]).at_wall(WRITTEN_AT + 300);
        let (mut event, _) = appended(LOG, 10, 1, 1, true);
        if let Event::Appended { max_timestamp, born, .. } = &mut event {
            (*max_timestamp, *born) = (own, counts);
        }
        stage.tell(0, event)
    };
    let hour = 3_600_000;
    counted(5, 5).expect("an old record");
    assert!(counted(5, 6).is_err(), "another time than its own");
    counted(WRITTEN_AT + 300 + hour, WRITTEN_AT + 300 + hour).expect("a clock that is ahead");
    for unbelieved in [-1, WRITTEN_AT + 301 + hour, i64::MAX] {
        assert!(counted(unbelieved, unbelieved).is_err(), "{unbelieved} is believed");
        counted(unbelieved, WRITTEN_AT + 300).expect("it counts from now");
        counted(unbelieved, WRITTEN_AT + 1_000).expect("rounded up");
        assert!(counted(unbelieved, WRITTEN_AT).is_err(), "it goes early");
    }
}

#[test]
fn l13_retention_that_never_happens() {
    let six = (6 * BATCH).to_string();
    let mut stage = Stage::kept(&[("retention.bytes", &six), ("segment.bytes", "100")]);
    stage.checks.replication.batch_bytes_max = 100;
    assert!(stage.overdue(0), "more than the limit and a segment");
    stage.ok(0, trimmed(2));
    assert!(!stage.overdue(0), "the oldest segment may reach down to the limit");
    let mut stage = Stage::kept(&[("retention.ms", "1000")]);
    assert!(!stage.overdue(WRITTEN_AT + 1_000));
    assert!(stage.overdue(WRITTEN_AT + 1_001));
    stage.checks.clocks.wall = WRITTEN_AT + 1_001;
    stage.ok(0, trimmed(10));
    assert!(!stage.overdue(i64::MAX));
}

#[test]
fn l14_files_that_hold_nothing_any_more() {
    let segment = |log, base| FileName::Segment { log, base, generation: 1 };
    let with = |files: &[FileName]| {
        let mut stage = Stage::kept(&[("retention.bytes", "1")]);
        for file in files {
            stage.command(1, &Command::Create { file: *file }).expect("a sound disk");
        }
        stage
    };
    let left = |stage: &mut Stage| stage.checks.left_behind(1, &stage.disks[1]).is_some();
    let mut stage = with(&[segment(LOG, 0), segment(LOG, 4)]);
    assert!(!left(&mut stage));
    stage.ok(0, trimmed(4));
    stage.ok(1, trimmed(4));
    assert!(left(&mut stage), "all of the first was trimmed");
    stage.command(1, &Command::Remove { file: segment(LOG, 0) }).expect("a sound disk");
    assert!(!left(&mut stage));
    let other = LogId { topic: TOPIC, partition: 1 };
    let gone = LogId { topic: TopicId([9; 16]), partition: 0 };
    assert!(left(&mut with(&[segment(other, 0)])));
    assert!(left(&mut with(&[segment(gone, 0)])));
}
