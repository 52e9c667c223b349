//! A simulated node: machines or none, a disk whose commands take time, clocks of its own.
//!
//! Commands of one file are carried out in their order, those of different files in any; what a command does to the disk
//! happens when it completes. A crash finds some of those under way done and the others not.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use milena_core::disk::{Command, FileName, Outcome};
use milena_core::metadata::Metadata;
use milena_core::node::Boot;
use milena_core::shard::Shard;
use milena_core::{Incarnation, Instant, Machine, Now, OpId, Place};

use crate::addresses::Contacts;
use crate::check::locations::AsItIs;
use crate::disk::Disk;
use crate::queue::{MS, Time, wall};
use crate::rng::{Concern, Stream};
use crate::schedule::DiskSettings;

/// What runs on a node.
pub enum State {
    /// When there is no process.
    Down,
    /// When the disk is being recovered.
    Booting(Box<Boot>),
    /// When its machines run.
    Up {
        /// Quorum, controller, registration.
        metadata: Box<Metadata>,
        /// Owners of partitions.
        shards: Vec<Shard>,
    },
}

/// A disk command under way.
#[derive(Debug)]
pub struct UnderWay {
    /// When it completes.
    pub due: Time,
    /// Whose it is.
    pub machine: usize,
    /// To be repeated with the outcome.
    pub op: OpId,
    /// The work.
    pub command: Command,
}

/// A node's two clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    since: Time,
    mono: u64,
    /// How much faster than true the monotonic clock runs, parts per million.
    ppm: i64,
    /// How far off the wall clock is, milliseconds.
    pub wall_offset_ms: i64,
}

/// A node.
pub struct SimNode {
    /// Its disk.
    pub disk: Disk,
    /// Shards at the next start.
    pub shards: u16,
    /// Counts starts and stops: what belongs to an earlier life is dropped.
    pub life: u32,
    /// What runs on it.
    pub state: State,
    /// Until when its process is stopped.
    pub paused_until: Time,
    /// Its clocks.
    pub clock: Clock,
    /// How much slower than usual its disk is.
    pub disk_factor: u64,
    /// When each machine is to be called, as planned.
    pub planned: Vec<Time>,
    /// Disk commands under way, by slot.
    pub under_way: Vec<Option<UnderWay>>,
    /// When it was last started.
    pub started: Time,
    /// For how long it stays down when it stops in good order.
    pub away: Time,
    /// Until when it must stay down.
    pub down_until: Time,
    /// What it knows of where the others are.
    pub(crate) contacts: Contacts,
    /// Its disk's, once that was recovered.
    pub incarnation: Incarnation,
    /// Draws for starts.
    pub entropy: Stream,
    free_slots: Vec<usize>,
    file_ready: HashMap<FileName, Time, BuildHasherDefault<AsItIs>>,
    local_ready: Vec<Time>,
    disk_stream: Stream,
    scheduling: Stream,
    settings: DiskSettings,
}

/// Never: no call is planned.
pub const NEVER: Time = Time::MAX;
/// Machines of a node at most: one and the shards.
const MACHINES_MAX: usize = 9;

impl SimNode {
    /// A node that was never started.
    pub fn new(seed: u64, index: usize, shards: u16, settings: DiskSettings) -> SimNode {
        let number = index as u32;
        SimNode {
            disk: {
                let mut disk = Disk::new();
                disk.set_capacity(Some(settings.capacity));
                disk
            },
            shards,
            life: 0,
            state: State::Down,
            paused_until: 0,
            clock: Clock { since: 0, mono: 1_000 * MS, ppm: 0, wall_offset_ms: 0 },
            disk_factor: 1,
            planned: Vec::new(),
            under_way: Vec::new(),
            started: 0,
            away: 0,
            down_until: 0,
            contacts: Contacts::new(index, &[]),
            incarnation: Incarnation(0),
            entropy: Stream::new(seed, Concern::Entropy(number)),
            free_slots: Vec::new(),
            file_ready: HashMap::default(),
            local_ready: vec![0; MACHINES_MAX * MACHINES_MAX],
            disk_stream: Stream::new(seed, Concern::Disk(number)),
            scheduling: Stream::new(seed, Concern::Scheduling(number)),
            settings,
        }
    }

    /// Whether its machines run.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// Whether its disk is being recovered.
    pub fn is_booting(&self) -> bool {
        matches!(self.state, State::Booting(_))
    }

    /// Whether there is no process.
    pub fn is_down(&self) -> bool {
        matches!(self.state, State::Down)
    }

    /// The machine of a number.
    pub fn machine(&mut self, index: usize) -> Option<&mut dyn Machine> {
        match (&mut self.state, index) {
            (State::Booting(boot), 0) => Some(boot.as_mut()),
            (State::Up { metadata, .. }, 0) => Some(metadata.as_mut()),
            (State::Up { shards, .. }, index) => {
                shards.get_mut(index - 1).map(|shard| shard as &mut dyn Machine)
            }
            _ => None,
        }
    }

    /// A slot for a disk command, and when it will be done.
    pub fn submit(
        &mut self,
        now: Time,
        machine: usize,
        op: OpId,
        command: Command,
    ) -> (usize, Time) {
        let typical = match &command {
            Command::Fill { .. } => self.settings.fill_us.unwrap_or(self.settings.sync_us),
            Command::Sync { .. } | Command::SyncDirectory { .. } => self.settings.sync_us,
            _ => self.settings.command_us,
        };
        let takes = self.disk_stream.delay(typical * 1_000) * self.disk_factor;
        let mut due = now + takes.max(1);
        let files = || command.files().into_iter().flatten();
        for file in files() {
            due = due.max(self.file_ready.get(&file).map_or(0, |ready| ready + 1));
        }
        self.file_ready.extend(files().map(|file| (file, due)));
        let entry = Some(UnderWay { due, machine, op, command });
        let slot = match self.free_slots.pop() {
            Some(slot) => {
                self.under_way[slot] = entry;
                slot
            }
            None => {
                self.under_way.push(entry);
                self.under_way.len() - 1
            }
        };
        (slot, due)
    }

    /// Does a command to the disk.
    pub fn execute(&mut self, command: &Command) -> Outcome {
        self.disk.apply(command, self.disk_stream.generator())
    }

    /// Takes a command that is done.
    pub fn complete(&mut self, slot: usize) -> Option<UnderWay> {
        let entry = self.under_way.get_mut(slot)?.take()?;
        self.free_slots.push(slot);
        Some(entry)
    }

    /// When a message from one machine to another arrives: soon, in order.
    pub fn local_arrival(&mut self, now: Time, from: usize, to: usize) -> Time {
        let delay = 500 + self.scheduling.below(20_000);
        let ready = &mut self.local_ready[from * MACHINES_MAX + to];
        *ready = (now + delay).max(*ready + 1);
        *ready
    }

    /// When work beside a machine is done that opens so many bytes.
    pub fn work_done(&mut self, now: Time, bytes: usize) -> Time {
        now + 1_000 + bytes as u64 * 10 + self.scheduling.below(2_000_000)
    }

    /// The process is gone: some of the commands under way have been done, one perhaps in part, the others have not.
    pub fn stop(&mut self, now: Time, strike: &mut Stream) {
        let mut under_way: Vec<UnderWay> = self.under_way.drain(..).flatten().collect();
        under_way.sort_by_key(|entry| entry.due);
        let last = under_way.last().map_or(now, |entry| entry.due);
        let cut = now + strike.below(last.saturating_sub(now) + 1);
        let random = self.disk_stream.generator();
        let mut under_way = under_way.into_iter().peekable();
        while let Some(entry) = under_way.next_if(|entry| entry.due <= cut) {
            // Nobody hears of it any more.
            let _outcome = self.disk.apply(&entry.command, random);
        }
        if let Some(entry) = under_way.next() {
            self.disk.begin(&entry.command, random);
        }
        self.disk.crash();
        self.free_slots.clear();
        self.file_ready.clear();
        self.planned.clear();
        self.state = State::Down;
        self.life += 1;
        self.paused_until = 0;
    }

    /// What its clocks show.
    pub fn clocks(&self, now: Time) -> Now {
        Now { mono: Instant(self.clock.mono(now)), wall: wall(now) + self.clock.wall_offset_ms }
    }
}

impl Clock {
    fn mono(&self, now: Time) -> u64 {
        let passed = now.saturating_sub(self.since) as i128;
        let shown = passed * (1_000_000 + i128::from(self.ppm)) / 1_000_000;
        self.mono + shown as u64
    }

    /// Whether it runs at the true rate.
    pub fn is_true(&self) -> bool {
        self.ppm == 0
    }

    /// Runs at another rate from now on.
    pub fn set_rate(&mut self, now: Time, ppm: i64) {
        self.mono = self.mono(now);
        self.since = now;
        self.ppm = ppm;
    }

    /// When the monotonic clock will show an instant.
    pub fn reaches(&self, instant: Instant) -> Time {
        let left = i128::from(instant.0.saturating_sub(self.mono));
        let takes = (left * 1_000_000 + 999_999 + i128::from(self.ppm))
            / (1_000_000 + i128::from(self.ppm));
        self.since.saturating_add(u64::try_from(takes).unwrap_or(u64::MAX))
    }
}

/// Number of a machine on its node.
pub fn machine_index(place: Place) -> usize {
    match place {
        Place::Metadata => 0,
        Place::Shard(shard) => 1 + usize::from(shard),
    }
}

/// The machine of a number.
pub fn machine_place(index: usize) -> Place {
    match index {
        0 => Place::Metadata,
        index => Place::Shard(index as u16 - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milena_core::LogId;

    /// A rename comes after what was asked before of either name, and before what is asked later.
    #[test]
    fn a_rename_keeps_the_order_of_both_names() {
        let settings =
            DiskSettings { sync_us: 5_000, command_us: 50, fill_us: None, capacity: 1 << 20 };
        let mut node = SimNode::new(1, 0, 1, settings);
        let segment = |generation| FileName::Segment { log: LogId::default(), base: 0, generation };
        let (from, to) = (segment(0), segment(1));
        for round in 0..200 {
            // Either name has something slow before it.
            let slow = [from, to][round % 2];
            let commands = [
                Command::Sync { file: slow },
                Command::Rename { from, to },
                Command::Length { file: from },
                Command::Length { file: to },
            ];
            let due = commands.map(|command| node.submit(0, 0, OpId(0), command).1);
            assert!(due[0] < due[1] && due[1] < due[2] && due[1] < due[3], "{due:?}");
        }
    }

    #[test]
    fn a_clock_reaches_what_it_will_show() {
        let mut clock = Clock { since: 0, mono: 500, ppm: 0, wall_offset_ms: 0 };
        for ppm in [0, 100_000, -150_000, 3] {
            clock.set_rate(1_000, ppm);
            for ahead in [0, 1, 7, 1_000, 123_456_789] {
                let instant = Instant(clock.mono(1_000) + ahead);
                let at = clock.reaches(instant);
                assert!(clock.mono(at) >= instant.0, "{ppm} {ahead}");
                assert!(at <= 1_000 || clock.mono(at - 2) <= instant.0);
            }
        }
    }
}
