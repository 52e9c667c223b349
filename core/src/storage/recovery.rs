//! A start: from whatever a crash left on the disk to engines that run.
//!
//! ```text
//!  Listing ─▶ Superblocks ─▶ (both copies written again and synced; files of other layouts go)
//!          ─▶ Lengths ─▶ Contents: the checkpoints, then one journal file after the other
//!          ─▶ (merge; engines with all that is above the checkpoints as their pending records)
//!          ─▶ Writing, group by group, into new files of the next layout
//!          ─▶ (checkpoints; directory; first superblock copy = commit; second copy; old files go; new ones get blocks) ─▶ Finishing
//! ```
//!
//! Nothing that was read is believed to be on the disk: it may only be in the page cache after a failed sync. So everything above
//! the checkpoints is written again, and no segment is touched before the commit. A crash anywhere starts it all again.
//!
//! A copy takes room, and the disk may be full. Then the old journal files go that a running journal would have used next; a
//! store that is short of space keeps most of its files so. Where that is not enough, a start waits for room.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::reading::Reading;
use super::replay;
use super::restore;
use super::superblock::{self, Copy, Stored, Superblock};
use super::{RETRY_MS, Store};
use crate::disk::{Command, Directory, DiskError, FileName, Success};
use crate::trace::{Event, Mark};
use crate::{
    Config, Halt, Incarnation, Input, Instant, LogId, LogLevel, Now, OpId, Outputs, Timer,
};

/// Most bytes that a copy of the superblock may have.
const SUPERBLOCK_BYTES: u32 = 4096;

/// The machine that runs first, and once.
#[derive(Debug)]
pub struct Recovery {
    config: Config,
    random: ChaCha8Rng,
    phase: Phase,
    /// Commands to give, a batch at a time, before the phase goes on.
    script: VecDeque<Vec<Command>>,
    next_op: u64,
    /// Commands under way, and whether each is a second try.
    waiting: BTreeMap<OpId, (Command, bool)>,
    results: Vec<(Command, Option<Success>)>,
    halted: bool,
    reading: Reading,
    /// Journal files that are still to be read, with their lengths.
    to_read: VecDeque<(FileName, u32)>,
    /// The batch under way, which is given again as a whole if a part of it found no room.
    batch: Vec<Command>,
    is_full: bool,
    retry_at: Option<Instant>,
    has_waited: bool,
    /// Old journal files that nothing needs, whichever slot of the checkpoint a power loss leaves.
    spare: Vec<FileName>,
    names: BTreeSet<FileName>,
    /// What the disk says of itself; the next layout once it is drawn.
    stored: Stored,
    quorum_damaged: bool,
    stores: Vec<Store>,
    begun: Instant,
    told: Told,
    done: Option<Recovered>,
}

/// What an operator is told of a recovery.
#[derive(Debug, Default)]
struct Told {
    files: usize,
    bytes: u64,
    changes: usize,
    damaged: usize,
    torn: bool,
}

/// What recovery hands over.
#[derive(Debug)]
pub struct Recovered {
    /// The disk's own description.
    pub superblock: Superblock,
    /// Whether the quorum's journal was damaged, so that the incarnation is a new one and the metadata log is empty.
    pub quorum_damaged: bool,
    /// The quorum's engine.
    pub metadata: Store,
    /// The shards' engines, as many as the configuration says.
    pub shards: Vec<Store>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Listing,
    Superblocks,
    Lengths,
    Contents,
    Writing,
    Finishing,
    Done,
}

impl Recovery {
    /// A start of the node that `config` describes. `entropy` decides incarnation and secrets.
    pub fn new(config: &Config, entropy: [u8; 32]) -> Recovery {
        Recovery {
            config: config.clone(),
            random: ChaCha8Rng::from_seed(entropy),
            phase: Phase::Listing,
            script: VecDeque::new(),
            next_op: 0,
            waiting: BTreeMap::new(),
            results: Vec::new(),
            halted: false,
            reading: Reading::default(),
            to_read: VecDeque::new(),
            batch: Vec::new(),
            is_full: false,
            retry_at: None,
            has_waited: false,
            spare: Vec::new(),
            names: BTreeSet::new(),
            stored: Stored {
                superblock: Superblock {
                    node: config.node,
                    incarnation: Incarnation(0),
                    layout: 0,
                    shards: 0,
                    secret: [0; 16],
                },
                quorum_lost: false,
            },
            quorum_damaged: false,
            stores: Vec::new(),
            begun: Instant::default(),
            told: Told::default(),
            done: None,
        }
    }

    /// Takes [`Input::Start`], then the outcomes of its disk commands and its deadline; anything else is not for it.
    pub fn step(&mut self, now: Now, input: Input, out: &mut Outputs) {
        if self.halted {
            return;
        }
        match input {
            Input::Start => {
                self.begun = now.mono;
                let lists = Directory::ALL.map(|directory| Command::List { directory });
                self.script.push_back(lists.to_vec());
            }
            Input::Disk { op, outcome } => {
                let (command, again) = self.waiting.remove(&op).expect("a command of ours, once");
                match outcome {
                    Ok(success) => self.results.push((command, Some(success))),
                    Err(error) => self.on_error(command, again, error, out),
                }
            }
            Input::Timeout if self.retry_at.is_some_and(|at| at <= now.mono) => {
                self.retry_at = None;
            }
            Input::Timeout
            | Input::Peer { .. }
            | Input::Local { .. }
            | Input::Request { .. }
            | Input::Hangup { .. }
            | Input::Worked { .. } => return,
        }
        while self.waiting.is_empty()
            && self.retry_at.is_none()
            && !self.halted
            && self.phase != Phase::Done
        {
            if std::mem::take(&mut self.is_full) {
                self.on_full(now, out);
                continue;
            }
            match self.script.pop_front() {
                Some(commands) => {
                    self.batch.clone_from(&commands);
                    for command in commands {
                        self.issue(command, false, out);
                    }
                }
                None => self.advance(now, out),
            }
        }
    }

    /// When it tries again to write what found no room.
    pub fn next_timeout(&self) -> Option<(Instant, Timer)> {
        self.retry_at.map(|at| (at, Timer::DiskRetry))
    }

    /// What was recovered, once.
    pub fn take(&mut self) -> Option<Recovered> {
        self.done.take()
    }

    fn issue(&mut self, command: Command, again: bool, out: &mut Outputs) {
        self.next_op += 1;
        let op = OpId(self.next_op);
        self.waiting.insert(op, (command.clone(), again));
        out.disk(op, command);
    }

    fn on_error(&mut self, command: Command, again: bool, error: DiskError, out: &mut Outputs) {
        match command {
            // What cannot be read twice is damage, or not there.
            Command::Read { .. } | Command::Length { .. } if again => {
                self.results.push((command, None));
            }
            Command::Read { .. } | Command::Length { .. } => self.issue(command, true, out),
            Command::List { .. } if !again => self.issue(command, true, out),
            // It stays, and the next start tries again.
            Command::Remove { .. } => self.results.push((command, None)),
            // The running journal fills it up when there is room.
            Command::Fill { .. } if error == DiskError::NoSpace => {}
            Command::Create { .. } | Command::Write { .. } if error == DiskError::NoSpace => {
                self.is_full = true;
            }
            // Of a file that found no room before.
            Command::Write { .. } | Command::Sync { .. }
                if error == DiskError::NotFound && self.is_full => {}
            command => {
                let what = command.file().map_or_else(|| format!("{command:?}"), |f| f.to_string());
                self.halt(Halt::Disk(format!("recovery, {what}: {error}")), out);
            }
        }
    }

    /// The batch found no room. What nothing needs makes some, once; after that, others must.
    fn on_full(&mut self, now: Now, out: &mut Outputs) {
        self.script.push_front(std::mem::take(&mut self.batch));
        let spare = std::mem::take(&mut self.spare);
        if !spare.is_empty() {
            out.event(|| Event::Sometimes(Mark::RecoveryMakesRoom));
            let removes = spare.into_iter().map(|file| Command::Remove { file }).collect();
            self.script.push_front(removes);
            return;
        }
        out.event(|| Event::Sometimes(Mark::RecoveryWaitsForRoom));
        self.retry_at = Some(now.mono.after_ms(RETRY_MS));
        if !std::mem::replace(&mut self.has_waited, true) {
            let line = "the disk is full, and a start needs room for files of its own: waiting until there is some";
            out.log(LogLevel::Warn, line);
        }
    }

    fn halt(&mut self, why: Halt, out: &mut Outputs) {
        self.halted = true;
        out.halt(why);
    }

    fn advance(&mut self, now: Now, out: &mut Outputs) {
        let results = std::mem::take(&mut self.results);
        match self.phase {
            Phase::Listing => self.on_listed(results),
            Phase::Superblocks => self.on_superblocks(results, out),
            Phase::Lengths => self.on_lengths(results),
            Phase::Contents => self.on_contents(results, now, out),
            Phase::Writing => self.write_on(now),
            Phase::Finishing => self.finish(results, now, out),
            Phase::Done => {}
        }
    }

    fn on_listed(&mut self, results: Vec<(Command, Option<Success>)>) {
        for (_, success) in results {
            if let Some(Success::Names(names)) = success {
                self.names.extend(names);
            }
        }
        let copies = self.names.iter().filter(|file| is_superblock(file));
        let reads = copies
            .map(|file| Command::Read { file: *file, offset: 0, length: SUPERBLOCK_BYTES })
            .collect();
        self.script.push_back(reads);
        self.phase = Phase::Superblocks;
    }

    fn on_superblocks(&mut self, results: Vec<(Command, Option<Success>)>, out: &mut Outputs) {
        let mut copies = [Copy::Bad, Copy::Bad];
        for (command, success) in results {
            if let (Some(FileName::Superblock { copy }), Some(Success::Bytes(bytes))) =
                (command.file(), success)
                && let Some(slot) = copies.get_mut(usize::from(copy))
            {
                *slot = superblock::decode(&bytes);
            }
        }
        if let Some(version) = copies.iter().find_map(|copy| match copy {
            Copy::Newer(version) => Some(*version),
            Copy::Good(_) | Copy::Bad => None,
        }) {
            let line = format!(
                "the data directory is of format {version}, written by a newer version: run that version"
            );
            return self.halt(Halt::Operator(line), out);
        }
        let layout = |copy: &Copy| match copy {
            Copy::Good(stored) => Some(stored.superblock.layout),
            Copy::Newer(_) | Copy::Bad => None,
        };
        let newest = copies.iter().filter(|copy| layout(copy).is_some()).max_by_key(|c| layout(c));
        match newest {
            Some(Copy::Good(stored)) => self.stored = stored.clone(),
            _ if self.names.iter().all(is_superblock) => {
                // A first boot, or one that was cut short before it had shown itself to anyone.
                out.event(|| Event::Sometimes(Mark::RecoveryFirstBoot));
                self.stored.superblock.incarnation = self.draw_incarnation();
                self.random.fill_bytes(&mut self.stored.superblock.secret);
            }
            _ => {
                let line = "both superblock copies are missing or damaged while other files of the data directory are \
                            there: put a copy back, or move the directory away to rejoin with an empty disk";
                return self.halt(Halt::Operator(line.into()), out);
            }
        }
        let (owner, node) = (self.stored.superblock.node, self.config.node);
        if owner != node {
            let line = format!(
                "the data directory belongs to node {owner}, this is node {node}: give that node id, or another data directory"
            );
            return self.halt(Halt::Operator(line), out);
        }
        // The other copy must hold while one is written. A commit writes copy 0 first: where copy 1 is behind, copy 0 may be
        // in the page cache only; where copy 1 is bad, copy 0 was synced before it was written.
        let first = u8::from(layout(&copies[1]).is_none());
        for copy in [first, 1 - first] {
            let commands = self.superblock_commands(copy);
            self.script.push_back(commands);
        }
        self.script.push_back(vec![Command::SyncDirectory { directory: Directory::Root }]);
        let layout = self.stored.superblock.layout;
        let journals = self.names.iter().filter(|file| layout_of(file).is_some());
        let (mine, others): (Vec<FileName>, Vec<FileName>) =
            journals.partition(|file| layout_of(file) == Some(layout));
        self.script.push_back(others.into_iter().map(|file| Command::Remove { file }).collect());
        self.script.push_back(mine.into_iter().map(|file| Command::Length { file }).collect());
        self.reading = Reading::new(&self.stored.superblock);
        self.phase = Phase::Lengths;
    }

    fn draw_incarnation(&mut self) -> Incarnation {
        let mut bytes = [0; 16];
        self.random.fill_bytes(&mut bytes);
        Incarnation(u128::from_le_bytes(bytes))
    }

    fn superblock_commands(&mut self, copy: u8) -> Vec<Command> {
        let file = FileName::Superblock { copy };
        let mut commands = Vec::new();
        if self.names.insert(file) {
            commands.push(Command::Create { file });
        }
        let data = vec![superblock::encode(&self.stored).into()];
        commands.push(Command::Write { file, offset: 0, data });
        commands.push(Command::Sync { file });
        commands
    }

    fn on_lengths(&mut self, results: Vec<(Command, Option<Success>)>) {
        let mut checkpoints = Vec::new();
        for (command, success) in results {
            let Command::Length { file } = command else { continue };
            let length = match success {
                Some(Success::Length(length)) => Some(u32::try_from(length).unwrap_or(u32::MAX)),
                _ => None,
            };
            match (file, length) {
                (FileName::Checkpoint { .. }, Some(length)) => {
                    checkpoints.push(Command::Read { file, offset: 0, length });
                }
                (_, Some(length)) => self.to_read.push_back((file, length)),
                (_, None) => self.reading.add(file, None),
            }
        }
        self.script.push_back(checkpoints);
        self.phase = Phase::Contents;
    }

    /// Takes in what was read. The checkpoints come first, since they say what of the journals is needed; of those one file
    /// at a time is in memory.
    fn on_contents(
        &mut self,
        results: Vec<(Command, Option<Success>)>,
        now: Now,
        out: &mut Outputs,
    ) {
        for (command, success) in results {
            let Command::Read { file, .. } = command else { continue };
            let bytes = match success {
                Some(Success::Bytes(bytes)) => Some(bytes),
                _ => None,
            };
            self.told.files += 1;
            self.told.bytes += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
            self.reading.add(file, bytes);
        }
        match self.to_read.pop_front() {
            Some((file, length)) => {
                self.script.push_back(vec![Command::Read { file, offset: 0, length }]);
            }
            None => self.on_read(now, out),
        }
    }

    /// All is read: decides what it amounts to, and builds the engines.
    fn on_read(&mut self, now: Now, out: &mut Outputs) {
        let old = self.stored.superblock.clone();
        let reading = std::mem::take(&mut self.reading);
        for file in &reading.unread {
            out.log(LogLevel::Error, format!("{file} cannot be read: what it held is damaged"));
        }
        let spare = reading.spare();
        let merged = replay::merge(reading.images, old.shards, &self.names);
        self.told.changes = merged.logs.values().map(|log| log.replay.len()).sum();
        self.told.damaged = merged.logs.values().filter(|log| log.damaged).count();
        self.told.torn = merged.torn;
        if merged.torn {
            out.event(|| Event::Sometimes(Mark::RecoveryTornTail));
        }
        if merged.quorum_damaged || merged.logs.values().any(|log| log.damaged) {
            out.event(|| Event::Sometimes(Mark::RecoveryDamage));
        } else if !merged.suspect {
            self.spare = spare;
        }
        if merged.logs.values().any(|log| !log.replay.is_empty()) {
            out.event(|| Event::Sometimes(Mark::RecoveryReplayed));
        }
        let shards = self.config.shards.max(1);
        if old.layout > 0 && shards != old.shards {
            out.event(|| Event::Sometimes(Mark::RecoveryReshard));
        }
        let was_lost = self.stored.quorum_lost && !merged.logs.contains_key(&LogId::METADATA);
        self.quorum_damaged = merged.quorum_damaged || was_lost;
        self.stored.quorum_lost = self.quorum_damaged;
        self.stored.superblock.layout += 1;
        self.stored.superblock.shards = shards;
        self.random.fill_bytes(&mut self.stored.superblock.secret);
        if merged.quorum_damaged {
            self.stored.superblock.incarnation = self.draw_incarnation();
        }
        let superblock = &self.stored.superblock;
        let (config, names) = (&self.config.storage, &self.names);
        self.stores = restore::engines(merged, superblock, config, names, now.wall, out);
        let creates = self.stores.iter().flat_map(|store| store.journal.all_files());
        self.script.push_back(creates.map(|file| Command::Create { file }).collect());
        self.phase = Phase::Writing;
    }

    /// What was to be written is written and synced; the next group of each journal, or the checkpoints.
    fn write_on(&mut self, now: Now) {
        let mut commands = Vec::new();
        for store in &mut self.stores {
            let journal = &mut store.journal;
            if journal.flight.is_some() {
                journal.on_flushed(now.mono);
            }
            if journal.pending.is_empty() {
                continue;
            }
            // What is carried over may need more files than usual.
            if journal.free_files() == 0 && journal.is_stuck() {
                commands.push(Command::Create { file: journal.add_file() });
            }
            if let Some(group) = journal.form_group(u64::MAX) {
                let (file, offset, data) = (group.file, group.offset, group.data);
                commands.push(Command::Write { file, offset, data });
                commands.push(Command::Sync { file });
            }
        }
        if commands.is_empty() {
            self.script_commit();
        } else {
            self.script.push_back(commands);
        }
    }

    fn script_commit(&mut self) {
        let mut commands = Vec::new();
        let mut fills = Vec::new();
        for store in &mut self.stores {
            let journal = &mut store.journal;
            while journal.free_files() < 2 {
                commands.push(Command::Create { file: journal.add_file() });
            }
            // From here on no journal file grows as it is written.
            journal.grows = false;
            let (layout, number, first_bytes) =
                (journal.layout, journal.number, journal.first_bytes());
            for file in journal.files.iter().filter(|file| file.allocated < first_bytes) {
                let (index, offset) = (file.index, file.allocated);
                let name = FileName::Journal { layout, journal: number, index };
                fills.push(Command::Fill { file: name, offset, length: first_bytes - offset });
            }
            commands.extend(store.first_checkpoints());
        }
        self.script.push_back(commands);
        self.script.push_back(vec![Command::SyncDirectory { directory: Directory::Journal }]);
        // The first of these is the commit.
        for copy in 0..2 {
            let commands = self.superblock_commands(copy);
            self.script.push_back(commands);
        }
        let mut kept = BTreeSet::new();
        for store in &self.stores {
            for (id, log) in &store.logs {
                for segment in &log.segments {
                    kept.extend([segment.file(*id), segment.index(*id)]);
                }
                kept.extend(&log.kept);
            }
        }
        let layout = self.stored.superblock.layout;
        let gone = self.names.iter().filter(|file| match file {
            FileName::Segment { .. } | FileName::Index { .. } => !kept.contains(file),
            FileName::Journal { layout: of, .. } | FileName::Checkpoint { layout: of, .. } => {
                *of + 1 == layout
            }
            FileName::Superblock { .. } | FileName::Snapshot { .. } => false,
        });
        let removes = gone.map(|file| Command::Remove { file: *file }).collect();
        self.script.push_back(removes);
        self.script.push_back(fills);
        self.phase = Phase::Finishing;
    }

    fn finish(&mut self, results: Vec<(Command, Option<Success>)>, now: Now, out: &mut Outputs) {
        self.phase = Phase::Done;
        for (command, _) in results {
            if let Command::Fill {
                file: FileName::Journal { journal, index, .. },
                offset,
                length,
            } = command
            {
                let journal = &mut self.stores[usize::from(journal)].journal;
                journal.files[index as usize].allocated = offset + length;
            }
        }
        for store in &mut self.stores {
            store.begin_running(now);
            for (id, log) in store.logs.iter().filter(|(_, log)| log.visible.exists) {
                out.event(|| Event::Recovered {
                    log: *id,
                    start: log.start(),
                    end: log.end(),
                    last_epoch: log.last_epoch(),
                    damaged: log.is_damaged(),
                });
            }
        }
        self.tell(now, out);
        let mut stores = std::mem::take(&mut self.stores);
        let shards = stores.split_off(1);
        let metadata = stores.pop().expect("the quorum's engine");
        self.done = Some(Recovered {
            superblock: self.stored.superblock.clone(),
            quorum_damaged: self.quorum_damaged,
            metadata,
            shards,
        });
    }

    /// One line: what was found, and how long it took.
    fn tell(&self, now: Now, out: &mut Outputs) {
        let Told { files, bytes, changes, damaged, torn } = self.told;
        let took = now.mono.ms_since(self.begun);
        if files == 0 {
            let line = format!("the data directory was empty and is prepared, in {took} ms");
            return out.log(LogLevel::Info, line);
        }
        let logs: usize = self.stores.iter().map(|store| store.logs.len()).sum();
        let mut line = format!(
            "recovered {logs} logs in {took} ms: {changes} changes replayed from {files} files of {bytes} bytes"
        );
        if torn {
            line += ", a torn tail cut that nobody was told of";
        }
        if damaged > 0 {
            line += &format!(", {damaged} damaged");
        }
        out.log(if damaged > 0 { LogLevel::Warn } else { LogLevel::Info }, line);
    }
}

fn is_superblock(file: &FileName) -> bool {
    matches!(file, FileName::Superblock { .. })
}

fn layout_of(file: &FileName) -> Option<u32> {
    match file {
        FileName::Journal { layout, .. } | FileName::Checkpoint { layout, .. } => Some(*layout),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{QuorumConfig, ReplicationConfig, StorageConfig};
    use crate::{NodeId, Output};

    #[test]
    fn a_first_start_waits_for_room_to_make_files() {
        let config = Config {
            node: NodeId(7),
            controllers: vec![(NodeId(7), "localhost:1".into())],
            broker: true,
            controller: true,
            kafka: ("localhost".into(), 2),
            peer: "localhost:1".into(),
            rack: None,
            shards: 1,
            storage: StorageConfig::default(),
            quorum: QuorumConfig::default(),
            replication: ReplicationConfig::default(),
        };
        let mut recovery = Recovery::new(&config, [7; 32]);
        let now = Now { mono: Instant(1), wall: 1 };
        let mut out = Outputs::default();
        recovery.step(now, Input::Start, &mut out);
        let mut created = 0;
        while let Some(output) = out.queue.pop_front() {
            let Output::Disk { op, command } = output else {
                assert!(!matches!(output, Output::Halt(_)), "{output:?}");
                continue;
            };
            let outcome = match command {
                Command::List { .. } => Ok(Success::Names(Vec::new())),
                Command::Create { .. } => {
                    created += 1;
                    Err(DiskError::NoSpace)
                }
                _ => Err(DiskError::NotFound),
            };
            recovery.step(now, Input::Disk { op, outcome }, &mut out);
        }
        assert_eq!((created, recovery.next_timeout().is_some()), (1, true));
    }
}
