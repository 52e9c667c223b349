//! The D rules, tripped by what disks are told and give back; the fault budget.

use bytes::Bytes;
use milena_core::disk::{Command, Directory, DiskError, FileName};
use milena_core::trace::Event;
use milena_core::{BrokerEpoch, Halt, Incarnation, LogId, Offset, TopicId};

use crate::{JOURNAL, LOG, Stage, TOPIC, recorded, recovered};

/// A replica appends a batch, which goes to the disk as a record of a log and is synced, the directory perhaps.
fn acknowledges(log: LogId, directory_is_synced: bool) -> Result<(), String> {
    let mut stage = Stage::with_partition();
    let data = recorded(log, stage.append(1, LOG, 0, 1, 1), 1);
    let file = JOURNAL;
    stage.checks.nodes[1].locations.on_write(file, 0, &data);
    let directory = Directory::Journal;
    let commands = [
        Command::Create { file },
        Command::Write { file, offset: 0, data },
        Command::Sync { file },
        Command::SyncDirectory { directory },
    ];
    let done = if directory_is_synced { &commands[..] } else { &commands[..3] };
    for command in done {
        stage.disks[1].apply(command, stage.draw.generator()).expect("a sound disk");
    }
    stage.acknowledge(1, 1, 1)
}

#[test]
fn d1_a_directory_that_was_not_synced_holds_nothing() {
    assert_eq!(acknowledges(LOG, true), Ok(()));
    assert_eq!(acknowledges(LOG, false), Err("R3".into()), "D6: the name is not durable");
}

#[test]
fn r3_what_another_topic_holds_is_not_there() {
    let namesake = LogId { topic: TopicId([9; 16]), ..LOG };
    assert_eq!(acknowledges(namesake, true), Err("R3".into()), "a producer sent it to both");
}

#[test]
fn d2_something_leaves_after_a_failed_sync() {
    let mut stage = Stage::replicated();
    stage.checks.on_failed(1);
    assert_eq!(stage.acknowledge(1, 1, 1), Err("D2".into()));
}

#[test]
fn d3_recovery_gives_back_too_little() {
    let restarted = || {
        let mut stage = Stage::committed();
        stage.checks.on_stop(1);
        stage.checks.on_start(1);
        stage
    };
    restarted().trips("D3", 1, recovered(0, -1, false));
    restarted().trips("D8", 1, recovered(1, 0, false));
    restarted().trips("D8", 1, recovered(4, 1, false));
    restarted().trips("D3", 1, Event::Serving { epoch: BrokerEpoch(2) });
    restarted().ok(1, recovered(1, 1, false));
}

#[test]
fn d4_a_false_alarm_and_a_silent_cut() {
    Stage::committed().trips("D4", 1, Event::Damaged { log: LOG });
    Stage::committed().trips("D4", 1, recovered(1, 1, true));
    let mut stage = Stage::committed();
    stage.corrupt(1, JOURNAL);
    stage.checks.on_stop(1);
    stage.checks.on_start(1);
    stage.trips("D4", 1, recovered(0, -1, false));
    let mut stage = Stage::committed();
    let file = FileName::Journal { layout: 1, journal: 0, index: 0 };
    stage.checks.on_corrupted(1, file, Vec::new());
    stage.trips("D4", 1, Event::Damaged { log: LOG });
}

/// A checkpoint of version 4 with one entry: a sound log that ends at `end`, in one segment of so many bytes.
fn checkpoint(low: u64, mark: u64, end: Offset, segment: u64) -> Vec<Bytes> {
    numbered(1, low, mark, end, segment)
}

/// The same, with its number among those of the journal.
fn numbered(number: u64, low: u64, mark: u64, end: Offset, segment: u64) -> Vec<Bytes> {
    let mut entry = Vec::new();
    entry.extend(TOPIC.0);
    entry.extend(0_i32.to_le_bytes());
    entry.push(1);
    entry.extend([0; 24]);
    entry.extend(end.to_le_bytes());
    entry.extend([0; 8]);
    entry.extend(1_u32.to_le_bytes());
    entry.extend(0_i64.to_le_bytes());
    entry.extend(1_u32.to_le_bytes());
    entry.extend(segment.to_le_bytes());
    entry.extend([0; 49 + 8 + 4 + 4 + 8 + 8]);
    let length = entry.len() as u32 + 4;
    let mut bytes = b"MILENACP".to_vec();
    bytes.extend([0; 8]);
    bytes.extend(4_u32.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    for field in [u64::from(length), number, low, mark, 0, 0] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.extend(length.to_le_bytes());
    bytes.extend(entry);
    vec![bytes.into()]
}

impl Stage {
    /// A node begins a journal: both slots of its checkpoint are there.
    fn begin_journal(&mut self, node: usize) {
        for slot in 0..2 {
            let file = FileName::Checkpoint { layout: 1, journal: 1, slot };
            self.command(node, &Command::Create { file }).expect("a sound disk");
        }
        let directory = Directory::Journal;
        self.command(node, &Command::SyncDirectory { directory }).expect("a sound disk");
    }

    /// A node writes a checkpoint and syncs it.
    fn checkpoint(&mut self, node: usize, slot: u8, data: Vec<Bytes>) -> Result<(), String> {
        let file = FileName::Checkpoint { layout: 1, journal: 1, slot };
        self.command(node, &Command::Write { file, offset: 0, data })?;
        self.command(node, &Command::Sync { file })
    }
}

#[test]
fn d5_a_checkpoint_that_claims_too_much() {
    let two = || {
        let mut stage = Stage::with_partition();
        stage.begin_journal(1);
        stage.store(1, LOG, 0, 1, 1, true);
        stage.store(1, LOG, 1, 1, 2, true);
        stage.acknowledge(1, 2, 1).expect("both are on the disk");
        stage
    };
    let d5 = Err("D5".to_owned());
    assert_eq!(two().checkpoint(1, 0, checkpoint(1, 2, 0, 0)), Ok(()));
    assert_eq!(two().checkpoint(1, 0, checkpoint(2, 2, 0, 0)), d5, "the first is needed");
    assert_eq!(two().checkpoint(1, 0, checkpoint(2, 2, 1, 0)), Ok(()), "a segment has it");
    assert_eq!(two().checkpoint(1, 0, checkpoint(2, 2, 1, 90)), d5, "there is no segment");
    assert_eq!(two().checkpoint(1, 0, vec![Bytes::from_static(b"MILENACP")]), d5, "not whole");
    let file = FileName::Segment { log: LOG, base: 0, generation: 1 };
    let directory = Directory::Segments;
    let commands = [
        Command::Create { file },
        Command::Write { file, offset: 0, data: vec![vec![7; 90].into()] },
        Command::Sync { file },
        Command::SyncDirectory { directory },
    ];
    for missing in [Some(2), Some(3), None] {
        let mut stage = two();
        for (index, command) in commands.iter().enumerate() {
            if Some(index) != missing {
                stage.command(1, command).expect("a sound disk");
            }
        }
        let expected = if missing.is_some() { d5.clone() } else { Ok(()) };
        assert_eq!(stage.checkpoint(1, 0, checkpoint(2, 2, 1, 90)), expected, "{missing:?}");
    }
}

#[test]
fn d5_a_mark_that_covers_what_is_not_flushed() {
    let mut stage = Stage::with_partition();
    stage.begin_journal(1);
    stage.store(1, LOG, 0, 1, 1, true);
    stage.store(1, LOG, 1, 1, 2, false);
    assert_eq!(stage.checkpoint(1, 0, checkpoint(1, 1, 0, 0)), Ok(()));
    assert_eq!(stage.checkpoint(1, 1, checkpoint(1, 2, 0, 0)), Err("D5".into()));
}

#[test]
fn d5_the_newest_checkpoint_is_written_over() {
    let mut stage = Stage::committed();
    stage.begin_journal(1);
    for number in 1..=3 {
        let data = numbered(number, 1, 1, 0, 0);
        stage.checkpoint(1, (number & 1) as u8, data).expect("over the older one");
    }
    assert_eq!(stage.checkpoint(1, 1, numbered(4, 1, 1, 0, 0)), Err("D5".into()));
}

#[test]
fn d7_an_incarnation_that_moves() {
    let mut stage = Stage::new();
    let seen = stage.checks.on_incarnation(0, Incarnation(77));
    assert_eq!(seen.unwrap_err().property, "D7", "with the disk intact");
    let mut stage = Stage::new();
    stage.checks.on_destroyed(0);
    let seen = stage.checks.on_incarnation(0, Incarnation(1));
    assert_eq!(seen.unwrap_err().property, "D7", "the lost disk's own");
}

#[test]
fn the_budget_lets_no_last_copy_go() {
    let mut stage = Stage::committed();
    assert!(stage.checks.may_lose(0, &[0, 1, 2]));
    stage.checks.on_destroyed(1);
    assert!(!stage.checks.may_lose(0, &[0, 1, 2]), "a second controller of three");
    assert!(stage.checks.may_lose(0, &[]), "the third replica has all of it");
    stage.checks.on_destroyed(2);
    assert!(!stage.checks.may_lose(0, &[]));
}

#[test]
fn d10_a_node_stops_itself_with_a_sound_disk() {
    let halts = |stage: &mut Stage| {
        let halted = stage.checks.on_halt(1, &Halt::Disk("journal".into()));
        halted.map_err(|violation| violation.property)
    };
    let mut stage = Stage::committed();
    assert_eq!(halts(&mut stage), Err("D10"));
    let command = Command::Sync { file: JOURNAL };
    for (error, excused) in [(DiskError::NoSpace, false), (DiskError::Io(5), true)] {
        let disk = &stage.disks[1];
        stage.checks.on_done(1, disk, &command, &Err(error)).expect("nobody spoke");
        assert_eq!(halts(&mut stage).is_ok(), excused);
    }
    stage.checks.on_stop(1);
    stage.checks.on_start(1);
    assert_eq!(halts(&mut stage), Err("D10"), "that was another life of the node");
    stage.corrupt(1, JOURNAL);
    assert_eq!(halts(&mut stage), Ok(()));
    stage.checks.on_destroyed(1);
    assert_eq!(halts(&mut stage), Err("D10"), "the damage went with the disk");
}
