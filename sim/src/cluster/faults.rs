//! How entries of a schedule strike: targets resolved, guards asked, and what a fault does to nodes, links and disks.

use std::sync::Arc;

use milena_core::disk::FileName;
use milena_core::image::Image;
use milena_core::local::LocalMessage;
use milena_core::{LogId, NodeId};

use super::{Cluster, Happening, Phase, Restore};
use crate::addresses::id;
use crate::check::marks::Seen;
use crate::check::{Checked, Stop};
use crate::client::{Admin, Role};
use crate::disk::{self, FileKind};
use crate::history::History;
use crate::node::SimNode;
use crate::queue::MS;
use crate::schedule::{Action, Direction, Fault, Guard, Target};

/// Guards that wait are asked again this often.
const ASK_AGAIN: u64 = MS / 2;

impl Cluster {
    /// An entry of the schedule is due.
    pub(super) fn on_entry(&mut self, index: usize) -> Checked {
        if self.phase != Phase::Faults {
            self.counts.skipped += 1;
            return Ok(());
        }
        let entry = self.schedule.entries[index].clone();
        let deadline = entry.at_us * 1_000 + entry.patience_us * 1_000;
        let node = self.node_of(&entry.action);
        let holds = match node {
            Err(()) => false,
            Ok(node) => {
                entry.guards.iter().all(|guard| self.guard(*guard, index, node, &entry.action))
            }
        };
        if holds {
            let struck = self.strike(&entry.action, node.unwrap_or(None));
            self.counts.skipped += u64::from(!struck);
        } else if self.now + ASK_AGAIN <= deadline {
            self.queue.push(self.now + ASK_AGAIN, Happening::Entry { index });
        } else {
            self.counts.skipped += 1;
        }
        Ok(())
    }

    fn resolve(&self, target: Target) -> Option<usize> {
        let partitions = || {
            self.checks
                .image
                .iter()
                .flat_map(|image| image.partitions().map(|(_, partition)| partition))
        };
        let index = |id: &NodeId| (id.0 - 1) as usize;
        match target {
            Target::Node(node) => (node < self.nodes.len()).then_some(node),
            Target::Leader(place) => {
                let count = partitions().count();
                let partition = partitions().nth(place.checked_rem(count)?)?;
                partition.leader.as_ref().map(index)
            }
            Target::Follower(place) => {
                let count = partitions().count();
                let partition = partitions().nth(place.checked_rem(count)?)?;
                partition.replicas.iter().find(|r| Some(**r) != partition.leader).map(index)
            }
            Target::Controller => (0..self.nodes.len())
                .filter(|node| self.checks.nodes[*node].running)
                .filter_map(|node| Some((self.checks.nodes[node].quorum_leader?, node)))
                .max()
                .map(|(_, node)| node),
        }
    }

    /// The one node that an action concerns, if it is one; an error where its role is empty.
    fn node_of(&self, action: &Action) -> Result<Option<usize>, ()> {
        let target = match action {
            Action::Reshard { node, .. } => Some(*node),
            Action::CreateTopic(_) | Action::DeleteTopic { .. } | Action::GrowTopic { .. } => None,
            Action::Fault(fault) => match fault {
                Fault::OrderlyStop { node, .. }
                | Fault::Crash { node, .. }
                | Fault::Pause { node, .. }
                | Fault::ClockJump { node, .. }
                | Fault::ClockRate { node, .. }
                | Fault::Break { node }
                | Fault::SlowLinks { node, .. }
                | Fault::SlowDisk { node, .. }
                | Fault::FullDisk { node, .. }
                | Fault::SyncFailure { node }
                | Fault::WriteFailure { node }
                | Fault::ReadFailure { node, .. }
                | Fault::NameFailure { node, .. }
                | Fault::Rot { node, .. }
                | Fault::DestroyDisk { node, .. }
                | Fault::Rollback { node, .. }
                | Fault::TakeImage { node }
                | Fault::CorruptSegment { node }
                | Fault::CorruptJournal { node, .. }
                | Fault::CutClients { node, .. }
                | Fault::SlowClients { node, .. }
                | Fault::StopReading { node, .. }
                | Fault::CutLink { node, .. }
                | Fault::SlowLink { from: node, .. }
                | Fault::HangUp { node } => Some(*node),
                Fault::PowerLoss { nodes, .. } | Fault::Move { nodes, .. } => {
                    nodes.first().copied()
                }
                Fault::Partition { side, .. } => side.first().copied(),
                Fault::Storm { .. } => None,
            },
        };
        target.map(|target| self.resolve(target).ok_or(())).transpose()
    }

    fn guard(&mut self, guard: Guard, entry: usize, node: Option<usize>, action: &Action) -> bool {
        match guard {
            Guard::Up => node.is_some_and(|node| self.nodes[node].is_up()),
            Guard::Recovering(us) => node.is_some_and(|node| {
                let sim = &self.nodes[node];
                sim.is_booting() && self.now >= sim.down_until + us * 1_000
            }),
            Guard::Elected(leaders, us) => {
                let elected = self.checks.leaders_elected();
                let (before, since) = self.offices.entry(entry).or_insert((elected, None));
                if elected >= *before + leaders as usize {
                    self.now >= *since.get_or_insert(self.now) + us * 1_000
                } else {
                    false
                }
            }
            Guard::Acked(count) => self.history.acknowledged >= count,
            Guard::Whole => self.is_whole(),
            Guard::Budget => {
                let controllers: Vec<usize> = self.controllers();
                node.is_some_and(|node| self.checks.may_lose(node, &controllers))
            }
            Guard::Unsynced => match action {
                Action::Fault(Fault::PowerLoss { nodes, .. }) => {
                    nodes.iter().filter_map(|target| self.resolve(*target)).any(|node| {
                        self.nodes[node].is_up() && self.nodes[node].disk.unsynced_bytes() > 0
                    })
                }
                _ => node.is_some_and(|node| self.nodes[node].disk.unsynced_bytes() > 0),
            },
        }
    }

    /// Whether every node works and each replica is in sync.
    fn is_whole(&self) -> bool {
        let works = |node: &SimNode| node.is_up();
        let stops = self.checks.nodes.iter().any(|node| node.stop != Stop::None);
        let in_sync = |image: &Arc<Image>| {
            image.brokers.values().all(|broker| !broker.fenced)
                && image.partitions().all(|(_, p)| p.isr.len() == p.replicas.len())
        };
        self.nodes.iter().all(works) && !stops && self.checks.image.as_ref().is_some_and(in_sync)
    }

    /// Takes back the failures that wait for a node's reads where its disk may not be lost any more: since they were
    /// injected, it may have become the only one to hold a record. A scenario that goes beyond the budget spares none.
    pub(super) fn spare_reads_beyond_budget(&mut self, node: usize) {
        if self.schedule.setup.beyond_budget {
            return;
        }
        let controllers = self.controllers();
        if self.checks.may_reads_fail(node) && !self.checks.may_lose(node, &controllers) {
            self.nodes[node].disk.spare_reads();
            self.checks.on_reads_sound(node);
        }
    }

    /// The same of bits that were turned over in a segment, which is about to be read.
    pub(super) fn spare_segment_beyond_budget(&mut self, node: usize, file: &FileName) {
        let FileName::Segment { log, .. } = file else { return };
        let spares = !self.schedule.setup.beyond_budget && self.nodes[node].disk.is_turned(file);
        if spares && *log != LogId::METADATA && !self.checks.may_lose_log(node, *log) {
            self.nodes[node].disk.turn_back(file);
        }
    }

    /// The controllers, by index.
    pub(super) fn controllers(&self) -> Vec<usize> {
        let nodes = &self.schedule.setup.nodes;
        (0..nodes.len()).filter(|node| nodes[*node].controller).collect()
    }

    fn admin(&mut self, act: impl FnOnce(&mut Admin, &mut History)) {
        for client in 0..self.clients.len() {
            if let Role::Admin(admin) = &mut self.clients[client].role {
                act(admin, &mut self.history);
                self.clients[client].session.wake(self.now);
                self.grant(client);
                return;
            }
        }
    }

    /// Does it; false where there was nothing to do it to.
    fn strike(&mut self, action: &Action, node: Option<usize>) -> bool {
        match action {
            Action::CreateTopic(topic) => {
                let topic = topic.clone();
                self.admin(|admin, history| admin.create(topic, history));
                true
            }
            Action::DeleteTopic { name } => {
                let name = name.clone();
                self.admin(|admin, history| admin.delete(&name, history));
                true
            }
            Action::GrowTopic { name, partitions } => {
                let (name, partitions) = (name.clone(), *partitions);
                self.admin(|admin, _| admin.grow(&name, partitions));
                true
            }
            Action::Reshard { shards, down_ms, .. } => {
                let node = node.expect("a reshard names its node");
                self.stop(node);
                self.nodes[node].shards = *shards;
                self.start_later(node, down_ms * MS);
                *self.counts.faults.entry("reshard").or_default() += 1;
                true
            }
            Action::Fault(fault) => {
                self.trace(node.unwrap_or(0), &format!("fault: {fault:?}"));
                let struck = self.fault(fault, node);
                if struck && fault.counts() {
                    *self.counts.faults.entry(fault.kind()).or_default() += 1;
                    self.history.under_faults |= fault.opens_fault_phase();
                }
                struck
            }
        }
    }

    fn fault(&mut self, fault: &Fault, node: Option<usize>) -> bool {
        let at = node.unwrap_or(0);
        if matches!(fault, Fault::Crash { .. } | Fault::PowerLoss { .. })
            && self.nodes[at].is_booting()
        {
            self.checks.marks.seen(Seen::StruckWhileRecovering);
        }
        match fault {
            Fault::OrderlyStop { down_ms, shards, .. } => {
                if !self.nodes[at].is_up() {
                    return false;
                }
                self.nodes[at].shards = shards.unwrap_or(self.nodes[at].shards);
                self.nodes[at].away = down_ms * MS;
                self.checks.nodes[at].stop = Stop::Asked;
                let (life, message) = (self.nodes[at].life, LocalMessage::Stop);
                let stop = Happening::Local { node: at, life, from: 0, to: 0, message };
                self.queue.push(self.now + 1, stop);
            }
            Fault::Crash { down_ms, .. } => {
                self.stop(at);
                self.start_later(at, down_ms * MS);
            }
            Fault::PowerLoss { nodes, down_ms } => {
                let mut lost: Vec<usize> =
                    nodes.iter().filter_map(|target| self.resolve(*target)).collect();
                lost.sort_unstable();
                lost.dedup();
                lost.retain(|node| !self.nodes[*node].is_down());
                if lost.is_empty() {
                    return false;
                }
                for node in lost {
                    self.lose_power(node);
                    let pause = down_ms * MS + self.strike.below(300) * MS;
                    self.start_later(node, pause);
                }
            }
            Fault::Move { nodes, among_themselves, down_ms, gap_ms } => {
                let mut moved: Vec<usize> =
                    nodes.iter().filter_map(|target| self.resolve(*target)).collect();
                moved.sort_unstable();
                moved.dedup();
                moved.retain(|node| !self.nodes[*node].is_down());
                if !self.brokers_are_known() {
                    return false;
                }
                moved.iter().for_each(|node| self.stop(*node));
                self.homes.change(&moved, *among_themselves);
                for (node, turn) in moved.iter().zip(0..) {
                    self.start_later(*node, (down_ms + turn * gap_ms) * MS);
                }
            }
            Fault::Pause { for_ms, .. } => {
                let until = self.now + for_ms * MS;
                self.nodes[at].paused_until = self.nodes[at].paused_until.max(until);
            }
            Fault::ClockJump { by_ms, .. } => self.nodes[at].clock.wall_offset_ms += by_ms,
            Fault::ClockRate { ppm, .. } => {
                let now = self.now;
                self.nodes[at].clock.set_rate(now, *ppm);
            }
            Fault::Partition { side, direction, for_ms } => {
                let side: Vec<usize> =
                    side.iter().filter_map(|target| self.resolve(*target)).collect();
                let others = |node: &usize| !side.contains(node);
                let outside: Vec<usize> = (0..self.nodes.len()).filter(others).collect();
                self.cut(&side, &outside, *direction, for_ms * MS);
            }
            Fault::CutLink { from, direction, for_ms, .. } => {
                let next = (at + 1) % self.nodes.len();
                let other = self.resolve(*from).filter(|from| *from != at).unwrap_or(next);
                if other == at {
                    return false;
                }
                self.cut(&[at], &[other], *direction, for_ms * MS);
            }
            Fault::Break { .. } => {
                for other in 0..self.nodes.len() {
                    self.network.sever(at, other);
                    self.network.sever(other, at);
                }
            }
            Fault::SlowLinks { factor, for_ms, .. } => {
                for other in 0..self.nodes.len() {
                    self.network.slow(at, other, *factor);
                    self.network.slow(other, at, *factor);
                }
                self.restore_later(Restore::SlowLinks(at), *for_ms);
            }
            Fault::Storm { for_ms } => {
                self.network.storm(true);
                self.restore_later(Restore::Storm, *for_ms);
            }
            Fault::SlowDisk { factor, for_ms, .. } => {
                self.nodes[at].disk_factor = *factor;
                self.restore_later(Restore::SlowDisk(at), *for_ms);
            }
            Fault::FullDisk { for_ms, room, copies_on_write, .. } => {
                let disk = &mut self.nodes[at].disk;
                disk.set_capacity(Some(disk.used_bytes() + room));
                disk.copy_on_write(*copies_on_write);
                self.restore_later(Restore::FullDisk(at), *for_ms);
            }
            Fault::SyncFailure { .. } => self.nodes[at].disk.inject(disk::Fault::Sync),
            Fault::WriteFailure { .. } => self.nodes[at].disk.inject(disk::Fault::Write),
            Fault::ReadFailure { reads, .. } => {
                // A read that fails once is tried again; two that wait may fail it twice.
                let waiting = self.nodes[at].disk.has_faults();
                // Four that wait from two strikes would make both copies of a superblock unreadable.
                let there = self.nodes[at].disk.waiting(disk::Fault::Read) as u32;
                (there..*reads).for_each(|_| self.nodes[at].disk.inject(disk::Fault::Read));
                if *reads > 1 || waiting {
                    self.checks.on_reads_may_fail(at);
                }
            }
            Fault::NameFailure { of, times, down_ms, .. } => {
                if let Some(down_ms) = down_ms {
                    self.stop(at);
                    self.start_later(at, down_ms * MS);
                }
                (0..*times).for_each(|_| self.nodes[at].disk.inject(*of));
            }
            Fault::Rot { of, down_ms, both_slots, .. } => {
                if !self.rot(at, *of, *both_slots) {
                    return false;
                }
                if let Some(down_ms) = down_ms {
                    self.lose_power(at);
                    self.start_later(at, down_ms * MS);
                }
            }
            Fault::DestroyDisk { down_ms, .. } => {
                self.stop(at);
                self.nodes[at].disk.destroy();
                self.journals[at].forget();
                self.checks.on_destroyed(at);
                self.start_later(at, down_ms * MS);
            }
            Fault::TakeImage { .. } => {
                let image = self.checks.image.as_ref();
                let epoch = image.and_then(|image| image.brokers.get(&id(at))?.confirmed);
                let image = (self.nodes[at].disk.clone(), self.checks.image_of(at), epoch);
                self.images.insert(at, image);
            }
            Fault::Rollback { down_ms, .. } => return self.roll_back(at, down_ms * MS),
            Fault::CorruptSegment { .. } => return self.corrupt_segment(at),
            Fault::CorruptJournal { down_ms, .. } => {
                return self.corrupt_journal(at, down_ms * MS);
            }
            Fault::CutClients { direction, for_ms, .. } => {
                let until = self.now + for_ms * MS;
                let (inward, outward) =
                    (*direction != Direction::Outward, *direction != Direction::Inward);
                for client in self.some_clients() {
                    self.client_links.cut(client, at, inward, outward, until);
                }
            }
            Fault::SlowClients { factor, for_ms, .. } => {
                let until = self.now + for_ms * MS;
                for client in self.some_clients() {
                    self.client_links.slow(client, at, *factor, until);
                }
            }
            Fault::StopReading { for_ms, .. } => {
                for client in self.some_clients() {
                    self.client_links.stop_reading(client, at, self.now + for_ms * MS);
                    self.restore_later(Restore::Reading(client, at), *for_ms);
                }
            }
            Fault::SlowLink { to, factor, for_ms, .. } => {
                let Some(to) = self.resolve(*to).filter(|to| *to != at) else { return false };
                self.network.slow(at, to, *factor);
                self.restore_later(Restore::SlowLink(at, to), *for_ms);
            }
            Fault::HangUp { .. } => {
                for index in 0..self.connections.len() {
                    if self.connections[index].open && self.connections[index].node == at {
                        self.end_connection(milena_core::ClientId(index as u64));
                    }
                }
            }
        }
        true
    }

    /// Whether the metadata shows each broker alone where it is. It is in no list, so one that has moved and is not registered
    /// again must not lose the controllers that it knows: then neither could find the other.
    fn brokers_are_known(&self) -> bool {
        let Some(image) = &self.checks.image else { return false };
        (self.schedule.setup.nodes.iter().zip(self.homes.all()).enumerate())
            .filter(|(_, (setup, _))| !setup.controller)
            .all(|(node, (_, address))| {
                image.brokers.get(&id(node)).is_some_and(|broker| *broker.peer == **address)
            })
    }

    /// Ends a node's process and takes what no sync covers.
    pub(super) fn lose_power(&mut self, node: usize) {
        let unsynced = self.nodes[node].disk.unsynced_bytes() > 0;
        self.counts.power_losses_unsynced += u64::from(unsynced);
        self.stop(node);
        let Cluster { nodes, strike, .. } = self;
        let _choices = nodes[node].disk.power_loss(strike.generator());
    }

    fn cut(&mut self, side: &[usize], others: &[usize], direction: Direction, time: u64) {
        let mut cut = Vec::new();
        for &inside in side {
            for &outside in others {
                if direction != Direction::Inward {
                    cut.push((inside, outside));
                }
                if direction != Direction::Outward {
                    cut.push((outside, inside));
                }
            }
        }
        for (from, to) in &cut {
            self.network.block(*from, *to, true);
            self.network.sever(*from, *to);
        }
        self.queue.push(self.now + time, Happening::Restore(Restore::Links(cut)));
    }

    fn restore_later(&mut self, restore: Restore, after_ms: u64) {
        self.queue.push(self.now + after_ms * MS, Happening::Restore(restore));
    }

    /// Something that a fault began is over.
    pub(super) fn restore(&mut self, restore: &Restore) {
        match restore {
            Restore::Links(cut) => {
                cut.iter().for_each(|(from, to)| self.network.block(*from, *to, false));
            }
            Restore::SlowLinks(node) => {
                for other in 0..self.nodes.len() {
                    self.network.slow(*node, other, 1);
                    self.network.slow(other, *node, 1);
                }
            }
            Restore::SlowLink(from, to) => self.network.slow(*from, *to, 1),
            Restore::Storm => self.network.storm(false),
            Restore::SlowDisk(node) => self.nodes[*node].disk_factor = 1,
            Restore::FullDisk(node) => self.free_disk(*node),
            Restore::Reading(client, node) => self.takes_again(*client, *node),
        }
    }

    fn free_disk(&mut self, node: usize) {
        let capacity = self.schedule.setup.disk.capacity;
        self.nodes[node].disk.set_capacity(Some(capacity));
        self.nodes[node].disk.copy_on_write(false);
    }

    /// Puts a broker's disk back, if it has registered again since the image was taken: otherwise nobody could know.
    fn roll_back(&mut self, node: usize, down: u64) -> bool {
        let confirmed =
            self.checks.image.as_ref().and_then(|image| image.brokers.get(&id(node))?.confirmed);
        let Some((image, ghost, epoch)) = self.images.get(&node).cloned() else { return false };
        if confirmed <= epoch {
            return false;
        }
        self.stop(node);
        self.nodes[node].disk = image;
        self.journals[node].forget();
        self.checks.on_rollback(node, &ghost);
        self.start_later(node, down);
        true
    }

    fn corrupt_segment(&mut self, node: usize) -> bool {
        let segments: Vec<FileName> = self.nodes[node]
            .disk
            .durable_names()
            .filter(|file| matches!(file, FileName::Segment { .. }))
            .copied()
            .collect();
        if segments.is_empty() {
            return false;
        }
        let file = *self.strike.pick(&segments);
        let whole = self.nodes[node].disk.durable_bytes(&file, 0, usize::MAX);
        let length = whole.map_or(0, |bytes| bytes.len() as u64);
        if length == 0 {
            return false;
        }
        let at = self.strike.below(length);
        self.flip(node, file, at)
    }

    /// Turns a bit of what some file of a kind holds, or one of each slot of some checkpoint. Of two superblocks it takes one, and
    /// only where the other says the same: without both nothing is known of the disk any more.
    fn rot(&mut self, node: usize, of: FileKind, both_slots: bool) -> bool {
        let disk = &self.nodes[node].disk;
        let whole = |file: &FileName| disk.flushed_bytes(file, 0, usize::MAX);
        let copies = [0, 1].map(|copy| whole(&FileName::Superblock { copy }));
        let files: Vec<FileName> =
            disk.durable_names().filter(|file| FileKind::of(file) == of).copied().collect();
        if files.is_empty() || of == FileKind::Superblock && copies[0] != copies[1] {
            return false;
        }
        match *self.strike.pick(&files) {
            FileName::Checkpoint { layout, journal, .. } if both_slots => {
                let slots = [0, 1].map(|slot| FileName::Checkpoint { layout, journal, slot });
                let turned = slots.map(|file| self.turn_a_bit(node, file));
                turned.contains(&true)
            }
            file => self.turn_a_bit(node, file),
        }
    }

    /// Turns a bit of a sector of a file that has something in it: of another, nobody could tell.
    fn turn_a_bit(&mut self, node: usize, file: FileName) -> bool {
        let bytes = self.nodes[node].disk.flushed_bytes(&file, 0, usize::MAX).unwrap_or_default();
        let filled: Vec<usize> = bytes
            .chunks(disk::SECTOR)
            .enumerate()
            .filter(|(_, sector)| sector.iter().any(|byte| *byte != 0))
            .map(|(sector, _)| sector * disk::SECTOR)
            .collect();
        if filled.is_empty() {
            return false;
        }
        let (sector, length) = (*self.strike.pick(&filled), bytes.len());
        let at = sector + self.strike.below(disk::SECTOR.min(length - sector) as u64) as usize;
        self.flip(node, file, at as u64)
    }

    fn corrupt_journal(&mut self, node: usize, down: u64) -> bool {
        let covered = self.journals[node].covered();
        if covered.is_empty() {
            return false;
        }
        let (file, offset, length) = if self.strike.chance(500_000) {
            covered[covered.len() - 1]
        } else {
            *self.strike.pick(&covered)
        };
        // The head of a group is never padding.
        let at = offset + self.strike.below(length.min(96));
        let damaged = match self.strike.chance(300_000) {
            true => self.make_unreadable(node, file),
            false => self.flip(node, file, at),
        };
        if !damaged {
            return false;
        }
        self.lose_power(node);
        self.start_later(node, down);
        true
    }

    fn flip(&mut self, node: usize, file: FileName, at: u64) -> bool {
        let bit = self.strike.below(8) as u8;
        let held = self.checks.nodes[node].locations.whole_at(&self.nodes[node].disk, file, at, 1);
        let flipped = self.nodes[node].disk.corrupt_at(&file, at as usize, bit);
        if flipped {
            self.checks.on_corrupted(node, file, held);
        }
        flipped
    }

    fn make_unreadable(&mut self, node: usize, file: FileName) -> bool {
        let disk = &mut self.nodes[node].disk;
        let held = self.checks.nodes[node].locations.whole_at(disk, file, 0, u64::MAX);
        let made = disk.make_unreadable(&file);
        if made {
            self.checks.on_corrupted(node, file, held);
        }
        made
    }

    /// One client at least, and each other as likely as not.
    fn some_clients(&mut self) -> Vec<usize> {
        let certain = self.strike.below(self.clients.len() as u64) as usize;
        let mut chosen = Vec::new();
        for client in 0..self.clients.len() {
            if self.strike.chance(500_000) || client == certain {
                chosen.push(client);
            }
        }
        chosen
    }

    /// Ends every disturbance and starts every node.
    pub(super) fn heal(&mut self) {
        self.network.heal();
        self.client_links.heal(self.now);
        self.history.under_faults = false;
        for client in 0..self.clients.len() {
            (0..self.nodes.len()).for_each(|node| self.takes_again(client, node));
        }
        for node in 0..self.nodes.len() {
            self.nodes[node].disk_factor = 1;
            self.nodes[node].disk.clear_faults();
            self.checks.on_reads_sound(node);
            self.free_disk(node);
            self.nodes[node].paused_until = self.nodes[node].paused_until.min(self.now);
            let now = self.now;
            self.nodes[node].clock.set_rate(now, 0);
            if self.nodes[node].is_down() {
                self.nodes[node].down_until = self.now;
                self.start_later(node, MS);
            }
        }
    }
}
