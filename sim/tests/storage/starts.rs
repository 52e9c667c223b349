//! Single starts: on the directory of another node, without superblocks or journals, with a spoilt checkpoint, on a full disk.

use super::*;

#[test]
fn a_directory_of_another_node_needs_an_operator() {
    let mut random = Random::new(1, 1);
    let mut config = config(&mut random);
    let (mut disk, mut out) = (Disk::new(), Outputs::default());
    let first = recover(&config, &mut disk, &mut random, &mut out, usize::MAX).unwrap();
    assert!(!first.quorum_damaged);
    config.node = NodeId(8);
    let other = recover(&config, &mut disk, &mut random, &mut out, usize::MAX);
    assert!(matches!(other, Err(Some(Halt::Operator(line))) if line.contains("node 7")));
}

#[test]
fn both_superblock_copies_lost_need_an_operator() {
    let mut random = Random::new(2, 1);
    let config = config(&mut random);
    let (mut disk, mut out) = (Disk::new(), Outputs::default());
    let first = recover(&config, &mut disk, &mut random, &mut out, usize::MAX).unwrap();
    let file = FileName::Superblock { copy: 0 };
    disk.apply(&Command::Remove { file }, &mut random.0).unwrap();
    let again = recover(&config, &mut disk, &mut random, &mut out, usize::MAX).unwrap();
    assert_eq!(again.superblock.incarnation, first.superblock.incarnation, "one copy is enough");
    disk.apply(&Command::Remove { file }, &mut random.0).unwrap();
    let file = FileName::Superblock { copy: 1 };
    let junk = Command::Write { file, offset: 90, data: vec![vec![7; 9].into()] };
    disk.apply(&junk, &mut random.0).unwrap();
    let lost = recover(&config, &mut disk, &mut random, &mut out, usize::MAX);
    assert!(matches!(lost, Err(Some(Halt::Operator(line))) if line.contains("superblock")));
}

/// Overwrites the journals' records of shards, so that the next start misses numbers below the marks.
fn ruin_shard_journals(disk: &mut Disk, random: &mut Random) {
    let Ok(Success::Names(names)) =
        disk.apply(&Command::List { directory: Directory::Journal }, &mut random.0)
    else {
        panic!("a list of journals");
    };
    for file in names {
        if matches!(file, FileName::Journal { journal: 1.., index: 0, .. }) {
            let junk = Command::Write { file, offset: 0, data: vec![vec![7; 64].into()] };
            disk.apply(&junk, &mut random.0).unwrap();
            disk.apply(&Command::Sync { file }, &mut random.0).unwrap();
        }
    }
}

/// A log of which a start found nothing in a damaged journal is damaged until someone asks for it, however many checkpoints
/// and starts later; what is made afterwards is new, after another start too.
#[test]
fn a_log_that_went_with_its_journal_is_damaged_whenever_it_is_asked_for() {
    let mut random = Random::new(3, 1);
    let config = Config { shards: 1, ..config(&mut random) };
    let (mut disk, mut out) = (Disk::new(), Outputs::default());
    let named = |number: i32| LogId { topic: TopicId([9; 16]), partition: number };
    let (lost, other, later) = (named(0), named(1), named(2));
    let start = |disk: &mut Disk, random: &mut Random, out: &mut Outputs| {
        disk.power_loss_of_all();
        recover(&config, disk, random, out, usize::MAX).unwrap().shards.remove(0)
    };
    // So much that the journal goes round, with checkpoints on the way.
    let work = |store: &mut Store, disk: &mut Disk, random: &mut Random, out: &mut Outputs| {
        for number in 0..200_u8 {
            store.put(other, vec![number; 900].into());
            settle(store, disk, random, out);
        }
    };
    let is_damaged = |store: &Store, log: LogId| store.log(log).unwrap().is_damaged();

    let mut store = start(&mut disk, &mut random, &mut out);
    store.create(lost, &mut out);
    store.put(lost, vec![1; 10].into());
    settle(&mut store, &mut disk, &mut random, &mut out);
    ruin_shard_journals(&mut disk, &mut random);
    let mut store = start(&mut disk, &mut random, &mut out);
    assert!(store.log(lost).is_none(), "nothing is left of it");
    // Nobody asks before the journal has gone round.
    work(&mut store, &mut disk, &mut random, &mut out);
    let mut store = start(&mut disk, &mut random, &mut out);
    store.create(lost, &mut out);
    assert!(is_damaged(&store, lost), "asked for after a checkpoint and a start");
    store.create(other, &mut out);
    store.all_asked_for();
    store.create(later, &mut out);
    assert!(!is_damaged(&store, later) && !is_damaged(&store, other));
    settle(&mut store, &mut disk, &mut random, &mut out);
    let mut store = start(&mut disk, &mut random, &mut out);
    assert!(is_damaged(&store, lost), "it was not reset since");
    store.create(named(3), &mut out);
    assert!(!is_damaged(&store, named(3)), "a checkpoint said so, without any work");
}

/// One bad sector in either slot costs nothing, right after a start too.
#[test]
fn either_slot_of_the_first_checkpoint_is_enough() {
    for slot in 0..2 {
        let mut random = Random::new(4, 1);
        let config = Config { shards: 1, ..config(&mut random) };
        let (mut disk, mut out) = (Disk::new(), Outputs::default());
        recover(&config, &mut disk, &mut random, &mut out, usize::MAX).unwrap();
        for journal in 0..2 {
            let file = FileName::Checkpoint { layout: 1, journal, slot };
            assert!(disk.corrupt_at(&file, 9, 3), "it is there");
        }
        let again = recover(&config, &mut disk, &mut random, &mut out, usize::MAX).unwrap();
        assert!(!again.quorum_damaged);
    }
}

/// A checkpoint that found no room may have left its slot half written. The other one still says which journal files a start on
/// the full disk can do without.
#[test]
fn a_start_on_a_full_disk_needs_one_whole_slot() {
    for slot in 0..2 {
        let mut random = Random::new(5, 1);
        let mut config = Config { shards: 1, ..config(&mut random) };
        // What the quorum's files have is not enough.
        config.storage.metadata_journal_file_bytes = 4096;
        config.storage.journal_file_bytes = 40_960;
        let (mut disk, mut out) = (Disk::new(), Outputs::default());
        let recovered = recover(&config, &mut disk, &mut random, &mut out, usize::MAX).unwrap();
        let mut store = recovered.shards.into_iter().next().unwrap();
        let log = LogId { topic: TopicId([9; 16]), partition: 0 };
        for number in 0..200_u8 {
            store.put(log, vec![number; 900].into());
            settle(&mut store, &mut disk, &mut random, &mut out);
        }
        let file = FileName::Checkpoint { layout: 1, journal: 1, slot };
        let half = Command::Write { file, offset: 0, data: vec![vec![7; 64].into()] };
        disk.apply(&half, &mut random.0).unwrap();
        disk.apply(&Command::Sync { file }, &mut random.0).unwrap();
        disk.set_capacity(Some(disk.used_bytes()));
        let mut out = Outputs::traced();
        let again = recover(&config, &mut disk, &mut random, &mut out, usize::MAX).unwrap();
        assert_eq!(&again.shards[0].log(log).unwrap().state()[..], [199; 900]);
        let seen = |mark| out.events.contains(&Event::Sometimes(mark));
        assert!(seen(Mark::RecoveryMakesRoom) && !seen(Mark::RecoveryWaitsForRoom), "slot {slot}");
    }
}
