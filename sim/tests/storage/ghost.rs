//! What a log should be: every change ever made, in order, and how many of them were reported durable.

use milena_core::storage::{Lsn, Store};
use milena_core::{Epoch, LogId, Offset, Timestamp};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    pub base: Offset,
    pub next: Offset,
    pub epoch: Epoch,
    pub crc: u32,
    /// Of each record.
    pub times: Vec<Timestamp>,
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct State {
    pub exists: bool,
    pub start: Offset,
    pub end: Offset,
    pub batches: Vec<Batch>,
    pub state: Vec<u8>,
}

#[derive(Clone, Debug)]
pub enum Change {
    Append(Batch),
    Truncate(Offset),
    Trim(Offset),
    Reset(Offset),
    Delete,
    Put(Vec<u8>),
}

impl State {
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Append(batch) => {
                self.exists = true;
                self.end = batch.next;
                self.batches.push(batch.clone());
            }
            Change::Truncate(to) => {
                self.batches.retain(|batch| batch.next <= *to);
                self.end = *to;
            }
            Change::Trim(start) => {
                self.start = *start;
                self.batches.retain(|batch| batch.next > *start);
            }
            Change::Reset(start) => {
                self.exists = true;
                self.batches.clear();
                (self.start, self.end) = (*start, *start);
            }
            Change::Delete => *self = State::default(),
            Change::Put(state) => {
                self.exists = true;
                self.state = state.clone();
            }
        }
    }

    /// Offset, time and epoch of each record below an offset.
    fn records(&self, upto: Offset) -> impl Iterator<Item = (Offset, Timestamp, Epoch)> {
        let records = self.batches.iter().flat_map(|batch| {
            let offsets = batch.base..batch.next;
            offsets.zip(&batch.times).map(|(offset, time)| (offset, *time, batch.epoch))
        });
        records.filter(move |(offset, ..)| *offset >= self.start && *offset < upto)
    }

    /// The first record at or after a time; where none is given, the first one with the largest.
    pub fn find_time(
        &self,
        time: Option<Timestamp>,
        upto: Offset,
    ) -> Option<(Offset, Timestamp, Epoch)> {
        let time = time.or_else(|| self.records(upto).map(|(_, at, _)| at).max())?;
        self.records(upto).find(|(_, at, _)| *at >= time)
    }
}

#[derive(Clone, Debug)]
pub struct Log {
    pub id: LogId,
    /// As the last recovery left it.
    pub base: State,
    pub changes: Vec<(Change, Lsn)>,
    /// With all changes.
    pub now: State,
    pub epoch: Epoch,
}

impl Log {
    pub fn new(id: LogId) -> Log {
        Log { id, base: State::default(), changes: Vec::new(), now: State::default(), epoch: 1 }
    }

    pub fn push(&mut self, change: Change, lsn: Lsn) {
        self.now.apply(&change);
        self.changes.push((change, lsn));
    }

    /// How many changes have a number up to this one.
    pub fn count(&self, upto: Lsn) -> usize {
        self.changes.partition_point(|(_, lsn)| *lsn <= upto)
    }

    /// How many changes, at least `floor`, give what was seen.
    pub fn matching(&self, seen: &State, floor: usize) -> Option<usize> {
        let mut state = self.base.clone();
        let mut found = (floor == 0 && state == *seen).then_some(0);
        for (i, (change, _)) in self.changes.iter().enumerate() {
            state.apply(change);
            if i + 1 >= floor && state == *seen {
                found = Some(i + 1);
            }
        }
        found
    }

    /// Recovery kept so many of the changes; they are durable now.
    pub fn recovered(&mut self, count: usize) {
        for (change, _) in self.changes.drain(..).take(count) {
            self.base.apply(&change);
        }
        self.now = self.base.clone();
        self.epoch += 1;
    }

    /// Whether the engine's view of offsets and epochs is this one, without a look at the batches.
    pub fn fits(&self, store: &Store) -> bool {
        let Some(log) = store.log(self.id) else { return !self.now.exists };
        let epochs = self.now.batches.iter().all(|batch| {
            let first = batch.base.max(self.now.start);
            log.epoch_at(first) == Some(batch.epoch)
        });
        let ends = (log.start(), log.end()) == (self.now.start, self.now.end);
        self.now.exists && ends && epochs && log.state()[..] == self.now.state[..]
    }
}
