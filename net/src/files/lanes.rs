//! Which thread does which disk command, and when it may begin.
//!
//! Four lanes per machine, each a thread that does its commands in order. The journal has one for itself, so that nothing
//! stands in front of the sync that clients wait for; segments are written in another, and synced in a third, where journal
//! files are filled too, since both take long; reads have the fourth. What keeps the order within a file: a command waits
//! here while a file of its has commands running in another lane, or others that wait for longer. The one exception lets a read
//! pass a sync, which changes nothing that it could see.
//!
//! A lane is woken once per [`Lanes::flush`], and reports after each sync, after each read, so that what it brought does not
//! wait in memory for others, and at the end of what it was given.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use milena_core::OpId;
use milena_core::disk::{Command, Directory, FileName, Outcome};

use super::Files;
use crate::runtime::WorkThread;

const JOURNAL: usize = 0;
const BEHIND: usize = 1;
const BEHIND_SYNCS: usize = 2;
const READS: usize = 3;
const LANES: usize = 4;

/// One machine's way to the disk.
pub struct Lanes {
    threads: Vec<WorkThread<Vec<(OpId, Command)>>>,
    /// Given out since the last flush, by lane.
    batches: [Vec<(OpId, Command)>; LANES],
    /// Files with something running or waiting.
    files: HashMap<FileName, Queue>,
    /// What waits in the queues of its files.
    waiting: HashMap<OpId, Command>,
}

#[derive(Default)]
struct Queue {
    running: [u32; LANES],
    waiting: VecDeque<OpId>,
}

/// A command that is done.
pub struct Done {
    /// Its number.
    pub op: OpId,
    /// What came of it.
    pub outcome: Outcome,
    files: [Option<FileName>; 2],
    lane: usize,
}

impl Lanes {
    /// Starts the lanes of one machine. `report` is called on their threads; each [`Done`] must come back to
    /// [`Lanes::done`].
    pub fn start(
        name: &str,
        files: &Arc<Files>,
        report: impl Fn(Vec<Done>) + Clone + Send + 'static,
    ) -> io::Result<Lanes> {
        let start = |lane: usize| {
            let (files, report) = (files.clone(), report.clone());
            let label = ["j", "w", "s", "r"][lane];
            WorkThread::start(format!("{name}-{label}"), move |batch| {
                run(&files, lane, batch, &report);
            })
        };
        let threads = (0..LANES).map(start).collect::<io::Result<_>>()?;
        Ok(Lanes {
            threads,
            batches: Default::default(),
            files: HashMap::new(),
            waiting: HashMap::new(),
        })
    }

    /// Takes a command; it begins with the next flush, or when its files allow.
    pub fn submit(&mut self, op: OpId, command: Command) {
        let lane = lane(&command);
        let files = || command.files().into_iter().flatten();
        let mut may_begin = true;
        for file in files() {
            let queue = self.files.entry(file).or_default();
            may_begin &= queue.waiting.is_empty() && queue.free_for(lane);
        }
        for file in files() {
            let queue = self.files.entry(file).or_default();
            if may_begin {
                queue.running[lane] += 1;
            } else {
                queue.waiting.push_back(op);
            }
        }
        if may_begin {
            self.batches[lane].push((op, command));
        } else {
            self.waiting.insert(op, command);
        }
    }

    /// Notes what is done, and lets go what waited for it.
    pub fn done(&mut self, done: &Done) {
        for file in done.files.into_iter().flatten() {
            if let Some(queue) = self.files.get_mut(&file) {
                queue.running[done.lane] -= 1;
            }
        }
        for file in done.files.into_iter().flatten() {
            while self.begin_first(file) {}
            if self.files.get(&file).is_some_and(Queue::is_idle) {
                self.files.remove(&file);
            }
        }
    }

    /// Lets go what has waited longest for a file, if all its files allow.
    fn begin_first(&mut self, file: FileName) -> bool {
        let Some(&op) = self.files.get(&file).and_then(|queue| queue.waiting.front()) else {
            return false;
        };
        let command = &self.waiting[&op];
        let (lane, files) = (lane(command), command.files());
        let is_next = |file: FileName| {
            let queue = &self.files[&file];
            queue.waiting.front() == Some(&op) && queue.free_for(lane)
        };
        if !files.into_iter().flatten().all(is_next) {
            return false;
        }
        for file in files.into_iter().flatten() {
            let queue = self.files.entry(file).or_default();
            queue.waiting.pop_front();
            queue.running[lane] += 1;
        }
        let command = self.waiting.remove(&op);
        self.batches[lane].extend(command.map(|command| (op, command)));
        true
    }

    /// Wakes the lanes that were given something.
    pub fn flush(&mut self) {
        for (thread, batch) in self.threads.iter().zip(&mut self.batches) {
            if !batch.is_empty() {
                thread.send(std::mem::take(batch));
            }
        }
    }
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running == [0; LANES]
    }

    fn free_for(&self, lane: usize) -> bool {
        (0..LANES).all(|other| {
            let passes = lane == READS && other == BEHIND_SYNCS;
            other == lane || passes || self.running[other] == 0
        })
    }
}

fn lane(command: &Command) -> usize {
    let journal =
        |file: &FileName| matches!(file, FileName::Journal { .. } | FileName::Superblock { .. });
    match command {
        Command::Read { .. }
        | Command::Length { .. }
        | Command::List { .. }
        | Command::FreeSpace => READS,
        Command::Fill { .. } => BEHIND_SYNCS,
        Command::Sync { file } => {
            if journal(file) {
                JOURNAL
            } else {
                BEHIND_SYNCS
            }
        }
        Command::SyncDirectory { directory } => match directory {
            Directory::Root | Directory::Journal => JOURNAL,
            Directory::Segments | Directory::Snapshots => BEHIND_SYNCS,
        },
        Command::Create { file }
        | Command::Write { file, .. }
        | Command::Rename { from: file, .. }
        | Command::Remove { file } => {
            if journal(file) {
                JOURNAL
            } else {
                BEHIND
            }
        }
    }
}

fn run(files: &Files, lane: usize, batch: Vec<(OpId, Command)>, report: &impl Fn(Vec<Done>)) {
    let mut finished = Vec::with_capacity(batch.len());
    for (op, command) in batch {
        let outcome = files.execute(&command);
        if files.is_exhausted() {
            return;
        }
        finished.push(Done { op, outcome, files: command.files(), lane });
        if matches!(command, Command::Sync { .. } | Command::Read { .. }) {
            report(std::mem::take(&mut finished));
        }
    }
    if !finished.is_empty() {
        report(finished);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Unsynced;
    use bytes::Bytes;
    use milena_core::LogId;
    use milena_core::disk::{DiskError, Success};
    use std::sync::mpsc;
    use std::time::Duration;

    /// Interleaved writes, reads, syncs and new beginnings of a few files, all submitted at once: each file's answers come in
    /// order and as if it had been alone.
    #[test]
    fn commands_of_a_file_keep_their_order() {
        let directory = tempfile::tempdir().unwrap();
        let files = Arc::new(Files::open(directory.path(), Unsynced::PageCache).unwrap());
        let (sender, receiver) = mpsc::channel();
        let mut lanes =
            Lanes::start("test", &files, move |done| sender.send(done).unwrap()).unwrap();
        let names: Vec<FileName> = (0..3)
            .map(|base| FileName::Segment { log: LogId::default(), base, generation: 0 })
            .chain([FileName::Journal { layout: 0, journal: 1, index: 0 }])
            .collect();
        let mut expected = HashMap::new();
        let mut op = 0;
        let mut submit = |lanes: &mut Lanes, command: Command, outcome: Success| {
            op += 1;
            expected.insert(OpId(op), (command.file().unwrap(), outcome));
            lanes.submit(OpId(op), command);
        };
        for file in &names {
            submit(&mut lanes, Command::Create { file: *file }, Success::Done);
        }
        for round in 0..50_u8 {
            for file in &names {
                let file = *file;
                let data = vec![Bytes::from(vec![round; 9])];
                submit(&mut lanes, Command::Write { file, offset: 0, data }, Success::Done);
                if round % 3 == 0 {
                    submit(&mut lanes, Command::Sync { file }, Success::Done);
                }
                let bytes = Success::Bytes(Bytes::from(vec![round; 9]));
                submit(&mut lanes, Command::Read { file, offset: 0, length: 99 }, bytes);
                if round % 5 == 0 {
                    submit(&mut lanes, Command::Create { file }, Success::Done);
                    submit(&mut lanes, Command::Length { file }, Success::Length(0));
                }
            }
        }
        lanes.flush();
        let mut last: HashMap<FileName, OpId> = HashMap::new();
        while !expected.is_empty() {
            for done in receiver.recv_timeout(Duration::from_secs(20)).unwrap() {
                let (file, outcome) = expected.remove(&done.op).unwrap();
                assert_eq!(done.outcome, Ok(outcome), "{:?}", done.op);
                // A read may pass a sync; that it saw the right bytes was checked above.
                if done.lane != READS {
                    let before = last.insert(file, done.op);
                    assert!(before.is_none_or(|before| before < done.op), "{file}");
                }
                lanes.done(&done);
            }
            lanes.flush();
        }
        assert!(lanes.files.is_empty());
    }

    /// A rename comes after what was asked before of either name, and before what is asked later.
    #[test]
    fn a_rename_keeps_the_order_of_both_names() {
        let directory = tempfile::tempdir().unwrap();
        let files = Arc::new(Files::open(directory.path(), Unsynced::PageCache).unwrap());
        let (sender, receiver) = mpsc::channel();
        let mut lanes =
            Lanes::start("test", &files, move |done| sender.send(done).unwrap()).unwrap();
        let segment = |generation| FileName::Segment { log: LogId::default(), base: 0, generation };
        let (from, to) = (segment(0), segment(1));
        let read = |file| Command::Read { file, offset: 0, length: 9 };
        let bytes = |round: u8| Ok(Success::Bytes(Bytes::from(vec![round; 9])));
        let mut expected = HashMap::new();
        let mut op = 0;
        for round in 0..50_u8 {
            let write = |file, round| Command::Write {
                file,
                offset: 0,
                data: vec![Bytes::from(vec![round; 9])],
            };
            let commands = [
                (Command::Create { file: from }, Ok(Success::Done)),
                (write(from, round), Ok(Success::Done)),
                (Command::Create { file: to }, Ok(Success::Done)),
                (write(to, !round), Ok(Success::Done)),
                // Each takes its time in a lane that is not the rename's.
                (Command::Sync { file: [from, to][usize::from(round % 2)] }, Ok(Success::Done)),
                (read(to), bytes(!round)),
                (Command::Rename { from, to }, Ok(Success::Done)),
                (read(to), bytes(round)),
                (read(from), Err(DiskError::NotFound)),
            ];
            for (command, outcome) in commands {
                op += 1;
                expected.insert(OpId(op), outcome);
                lanes.submit(OpId(op), command);
            }
        }
        lanes.flush();
        while !expected.is_empty() {
            for done in receiver.recv_timeout(Duration::from_secs(20)).unwrap() {
                assert_eq!(done.outcome, expected.remove(&done.op).unwrap(), "{:?}", done.op);
                lanes.done(&done);
            }
            lanes.flush();
        }
        assert!(lanes.files.is_empty() && lanes.waiting.is_empty());
    }

    /// What a read brought does not wait for the reads after it.
    #[test]
    fn each_read_is_reported_by_itself() {
        let directory = tempfile::tempdir().unwrap();
        let files = Arc::new(Files::open(directory.path(), Unsynced::PageCache).unwrap());
        let (sender, receiver) = mpsc::channel();
        let mut lanes =
            Lanes::start("test", &files, move |done| sender.send(done).unwrap()).unwrap();
        for op in 0..3 {
            let file = FileName::Segment { log: LogId::default(), base: 0, generation: op };
            lanes.submit(OpId(op.into()), Command::Read { file, offset: 0, length: 9 });
        }
        lanes.flush();
        for op in 0..3 {
            let done = receiver.recv_timeout(Duration::from_secs(20)).unwrap();
            assert_eq!(done.iter().map(|done| done.op).collect::<Vec<_>>(), [OpId(op)]);
        }
    }
}
