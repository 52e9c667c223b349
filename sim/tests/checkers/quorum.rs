//! The R rules and P18, tripped on the metadata log.

use bytes::Bytes;
use milena_core::disk::{Command, Directory, FileName};
use milena_core::trace::Event;
use milena_core::{Epoch, Incarnation, LogId, NodeId};

use crate::{Stage, appended, quorum_committed, recorded};

#[test]
fn r1_two_leaders_of_a_term() {
    let mut stage = Stage::new();
    stage.ok(0, Event::QuorumLeader { term: 3, end: 0 });
    stage.trips("R1", 1, Event::QuorumLeader { term: 3, end: 0 });
    let mut stage = Stage::new();
    stage.ok(0, Event::QuorumFollower { term: 3, leader: NodeId(1) });
    stage.trips("R1", 1, Event::QuorumFollower { term: 3, leader: NodeId(3) });
}

/// What a quorum remembers beside its log, as the body of a journal record: a small term, and a vote for a node whose disk
/// has the node's number.
fn voted(term: u8, candidate: u8) -> Vec<Bytes> {
    let state = vec![0, 1, 0, 0, 2 * term, 1, 2 * candidate, candidate, 0, 0, 0];
    let mut record = recorded(LogId::METADATA, vec![state.into()], 1);
    let mut header = record[0].to_vec();
    header[13] = 6;
    header[55] = 1;
    record[0] = header.into();
    record
}

impl Stage {
    /// A node writes a vote down, and syncs it if wanted.
    fn remember(&mut self, node: usize, term: u8, candidate: u8, sync: bool) {
        let file = FileName::Journal { layout: 1, journal: 0, index: u32::from(candidate) };
        let directory = Directory::Journal;
        let write = Command::Write { file, offset: 0, data: voted(term, candidate) };
        for command in [Command::Create { file }, write] {
            self.command(node, &command).expect("a sound disk");
        }
        if sync {
            for command in [Command::Sync { file }, Command::SyncDirectory { directory }] {
                self.command(node, &command).expect("a sound disk");
            }
        }
    }
}

fn vote(term: Epoch, candidate: i32) -> Event {
    let incarnation = Incarnation(candidate as u128);
    Event::Voted { term, candidate: NodeId(candidate), incarnation }
}

#[test]
fn r2_two_votes_in_a_term() {
    let mut stage = Stage::new();
    stage.remember(0, 2, 2, true);
    stage.ok(0, vote(2, 2));
    stage.ok(0, vote(2, 2));
    stage.checks.on_stop(0);
    stage.checks.on_start(0);
    stage.remember(0, 2, 3, true);
    stage.trips("R2", 0, vote(2, 3));
}

#[test]
fn r3_a_vote_that_is_not_on_the_disk() {
    Stage::new().trips("R3", 0, vote(2, 2));
    let remembered = |sync| {
        let mut stage = Stage::new();
        stage.remember(0, 2, 2, sync);
        stage
    };
    remembered(false).trips("R3", 0, vote(2, 2));
    remembered(true).trips("R3", 0, vote(2, 3));
    remembered(true).trips("R3", 0, vote(3, 2));
    remembered(true).ok(0, vote(2, 2));
    remembered(true).ok(0, vote(1, 3));
    let mut stage = remembered(true);
    let file = FileName::Journal { layout: 1, journal: 0, index: 2 };
    let held = stage.checks.nodes[0].locations.whole_at(&stage.disks[0], file, 83, 1);
    stage.disks[0].corrupt_at(&file, 83, 3);
    stage.checks.on_corrupted(0, file, held);
    stage.ok(0, vote(2, 2));
}

#[test]
fn r4_a_term_that_falls_or_is_led_twice() {
    let mut stage = Stage::new();
    stage.ok(0, Event::Term { term: 4 });
    stage.trips("R4", 0, Event::Term { term: 3 });
    stage.ok(0, Event::QuorumLeader { term: 4, end: 0 });
    stage.trips("R4", 0, Event::QuorumLeader { term: 4, end: 0 });
}

#[test]
fn r5_and_r10_truncations_of_the_metadata_log() {
    let mut stage = Stage::new();
    stage.store(0, LogId::METADATA, 0, 1, 1, true);
    stage.ok(0, Event::QuorumLeader { term: 1, end: 1 });
    stage.trips("R5", 0, Event::Truncated { log: LogId::METADATA, to: 0 });
    let mut stage = Stage::new();
    for node in 0..2 {
        stage.store(node, LogId::METADATA, 0, 1, 1, true);
    }
    stage.ok(1, Event::QuorumAcknowledged { term: 1, end: 1 });
    stage.ok(0, Event::QuorumLeader { term: 1, end: 0 });
    stage.ok(0, quorum_committed(1, 1, &[1, 2]));
    stage.ok(1, Event::QuorumCommitted { term: 1, end: 1, counted: Vec::new(), voters: 0 });
    stage.trips("R10", 1, Event::Truncated { log: LogId::METADATA, to: 0 });
}

#[test]
fn r5_and_r10_a_metadata_log_that_begins_again() {
    let reset = |start| Event::Reset { log: LogId::METADATA, start };
    // What was committed is held by all; the third has not learnt that it was.
    let committed = || {
        let mut stage = Stage::new();
        for node in 0..3 {
            stage.store(node, LogId::METADATA, 0, 1, 1, true);
        }
        stage.ok(0, Event::QuorumLeader { term: 1, end: 1 });
        stage.ok(1, Event::QuorumAcknowledged { term: 1, end: 1 });
        stage.ok(0, quorum_committed(1, 1, &[1, 2]));
        stage.ok(1, Event::QuorumCommitted { term: 1, end: 1, counted: Vec::new(), voters: 0 });
        stage
    };
    committed().trips("R5", 0, reset(1));
    committed().trips_as("R10", "below its commit offset", 1, reset(0));
    committed().trips_as("R10", "removes what is committed", 2, reset(0));
    committed().ok(2, reset(1));
    let mut damaged = committed();
    damaged.corrupt(2, FileName::Journal { layout: 1, journal: 0, index: 0 });
    damaged.ok(2, reset(0));
}

#[test]
fn r6_two_records_of_one_term_and_offset() {
    let mut stage = Stage::new();
    stage.append(0, LogId::METADATA, 0, 1, 1);
    let (event, _) = appended(LogId::METADATA, 0, 1, 2, false);
    stage.trips("R6", 1, event);
}

#[test]
fn r7_a_leader_without_what_is_committed() {
    let mut stage = Stage::new();
    for node in 0..2 {
        stage.store(node, LogId::METADATA, 0, 1, 1, true);
    }
    stage.ok(1, Event::QuorumAcknowledged { term: 1, end: 1 });
    stage.ok(0, quorum_committed(1, 1, &[1, 2]));
    stage.trips("R7", 2, Event::QuorumLeader { term: 2, end: 0 });
}

#[test]
fn r8_commits_without_majority_term_or_disk() {
    let two = |sync| {
        let mut stage = Stage::new();
        stage.store(0, LogId::METADATA, 0, 1, 1, sync);
        stage.store(1, LogId::METADATA, 0, 1, 1, true);
        stage.ok(1, Event::QuorumAcknowledged { term: 1, end: 1 });
        stage
    };
    two(true).trips("R8", 0, quorum_committed(1, 1, &[1]));
    two(true).trips("R8", 0, quorum_committed(2, 1, &[1, 2]));
    two(true).trips("R8", 0, quorum_committed(1, 1, &[1, 3]));
    two(false).trips("R8", 0, quorum_committed(1, 1, &[1, 2]));
    two(true).ok(0, quorum_committed(1, 1, &[1, 2]));
}

#[test]
fn r8_commits_that_fall_or_run_ahead() {
    let followed = |end| Event::QuorumCommitted { term: 1, end, counted: Vec::new(), voters: 0 };
    let committed = || {
        let mut stage = Stage::new();
        for node in 0..2 {
            stage.store(node, LogId::METADATA, 0, 1, 1, true);
        }
        stage.ok(1, Event::QuorumAcknowledged { term: 1, end: 1 });
        stage.ok(0, quorum_committed(1, 1, &[1, 2]));
        stage.ok(1, followed(1));
        stage
    };
    committed().trips_as("R8", "after 1", 1, followed(0));
    committed().trips_as("R8", "no leader committed past 1", 1, followed(2));
    let mut stage = Stage::new();
    for node in 0..2 {
        stage.store(node, LogId::METADATA, 0, 1, 1, true);
    }
    stage.ok(1, Event::QuorumAcknowledged { term: 1, end: 1 });
    let counted = vec![(NodeId(1), Incarnation(9)), (NodeId(2), Incarnation(2))];
    let event = Event::QuorumCommitted { term: 1, end: 1, counted, voters: 3 };
    stage.trips_as("R8", "another incarnation", 0, event);
}

#[test]
fn r9_another_state_or_order() {
    let mut stage = Stage::new();
    for node in 0..2 {
        stage.store(node, LogId::METADATA, 0, 1, 1, true);
        stage.store(node, LogId::METADATA, 1, 1, 2, true);
    }
    stage.ok(1, Event::QuorumAcknowledged { term: 1, end: 2 });
    stage.ok(0, quorum_committed(1, 2, &[1, 2]));
    stage.ok(0, Event::Applied { offset: 0, hash: 11 });
    stage.trips("R9", 1, Event::Applied { offset: 0, hash: 12 });
    stage.trips("R9", 0, Event::Applied { offset: 0, hash: 11 });
    stage.trips("R9", 2, Event::Applied { offset: 5, hash: 1 });
}

#[test]
fn r9_a_snapshot_that_goes_back_or_runs_ahead() {
    let installed = |end| Event::SnapshotInstalled { end, hash: 1 };
    let applied = || {
        let mut stage = Stage::new();
        for node in 0..2 {
            stage.store(node, LogId::METADATA, 0, 1, 1, true);
            stage.store(node, LogId::METADATA, 1, 1, 2, true);
        }
        stage.ok(1, Event::QuorumAcknowledged { term: 1, end: 2 });
        stage.ok(0, quorum_committed(1, 2, &[1, 2]));
        stage.ok(0, Event::Applied { offset: 0, hash: 11 });
        stage
    };
    applied().ok(0, installed(2));
    applied().trips_as("R9", "after Some(1)", 0, installed(1));
    applied().trips_as("R9", "2 is committed", 2, installed(3));
    let mut stage = applied();
    stage.ok(1, installed(2));
    stage.trips_as("R9", "another state", 0, Event::SnapshotInstalled { end: 2, hash: 2 });
}

#[test]
fn r16_a_second_founding() {
    let mut stage = Stage::new();
    stage.ok(0, Event::Founded { cluster: 5 });
    stage.trips("R16", 1, Event::Founded { cluster: 6 });
}

#[test]
fn p18_a_metadata_log_that_is_not_the_committed_one() {
    let followed = |term, content| {
        let mut stage = Stage::new();
        for node in 0..2 {
            stage.store(node, LogId::METADATA, 0, 1, 1, true);
        }
        stage.ok(1, Event::QuorumAcknowledged { term: 1, end: 1 });
        stage.ok(0, quorum_committed(1, 1, &[1, 2]));
        stage.append(2, LogId::METADATA, 0, term, content);
        stage.tell(2, Event::QuorumCommitted { term: 2, end: 1, counted: Vec::new(), voters: 0 })
    };
    assert_eq!(followed(1, 1), Ok(()));
    assert_eq!(followed(2, 8), Err("P18".into()));
}
