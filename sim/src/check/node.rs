//! Starts, disks and recoveries: the D rules, and the fault budget.

use milena_core::disk::FileName;
use milena_core::image::Partition;
use milena_core::{BrokerEpoch, Epoch, Halt, Incarnation, LogId, NodeId, Offset};

use super::checkpoint::Checkpoints;
use super::damage::Damage;
use super::locations::{Locations, Place};
use super::marks::Seen;
use super::replica::{RecoveryError, ReplicaLog};
use super::{Checked, Checks, QUORUM, Stop, Violation};

/// What a disk image means to the ghosts, kept beside it.
#[derive(Clone, Debug)]
pub struct ImageGhost {
    logs: Vec<Option<ReplicaLog>>,
    incarnation: Option<Incarnation>,
    term: Epoch,
    locations: Locations,
    checkpoints: Checkpoints,
    damage: Damage,
    synced: Option<BrokerEpoch>,
}

impl Checks {
    /// A node's process begins; its disk is about to be recovered.
    pub fn on_start(&mut self, node: usize) {
        let ghost = &mut self.nodes[node];
        ghost.running = true;
        ghost.serving = None;
        if ghost.stop == Stop::Asked {
            ghost.stop = Stop::Over;
        }
        ghost.disk_failed = false;
        ghost.disk_erred = false;
        ghost.removal_failed = false;
        for replica in ghost.logs.iter_mut().flatten() {
            replica.led.clear();
        }
        ghost.quorum_emptied = false;
    }

    /// Recovery has handed over: the disk says who it is (D7).
    pub fn on_incarnation(&mut self, node: usize, incarnation: Incarnation) -> Checked {
        let ghost = &mut self.nodes[node];
        let known = ghost.incarnation.replace(incarnation);
        if known.is_some_and(|known| known != incarnation) {
            // Another life of the disk: its metadata log and its votes begin again.
            ghost.term = 0;
            ghost.locations.forget_votes();
            if let Some(log) = ghost.logs.get_mut(QUORUM) {
                *log = None;
            }
        }
        let ghost = &mut self.nodes[node];
        match known {
            Some(known) if known == incarnation && !ghost.quorum_emptied => Ok(()),
            Some(_) if !ghost.damage.touches(LogId::METADATA) && !ghost.suspect => {
                Err(Violation::new(
                    "D7",
                    format!(
                        "node {} comes back under another incarnation with its disk intact",
                        node + 1
                    ),
                ))
            }
            Some(known) if known == incarnation => Err(Violation::new(
                "D4",
                format!("node {} keeps its incarnation with an emptied metadata log", node + 1),
            )),
            _ if !self.incarnations.insert(incarnation.0) && !ghost.suspect => Err(Violation::new(
                "D7",
                format!("node {} takes an incarnation that was used before", node + 1),
            )),
            _ => Ok(()),
        }
    }

    /// A node's process is gone.
    pub fn on_stop(&mut self, node: usize) {
        let ghost = &mut self.nodes[node];
        ghost.running = false;
        ghost.damage.reads_are_sound();
        ghost.quorum_leader = None;
        ghost.quorum_committed = 0;
        ghost.applied = None;
        for replica in ghost.logs.iter_mut().flatten() {
            replica.recovering = true;
            replica.leading = None;
            replica.high_watermark = 0;
        }
    }

    /// A node's disk is lost and replaced by an empty one.
    pub fn on_destroyed(&mut self, node: usize) {
        let ghost = &mut self.nodes[node];
        ghost.logs.clear();
        ghost.locations.forget();
        ghost.checkpoints = Checkpoints::default();
        ghost.incarnation = None;
        ghost.damage = Damage::default();
        ghost.synced = None;
        ghost.suspect = false;
        ghost.term = 0;
        ghost.disks_lost += 1;
        self.all_disks_lost = self.nodes.iter().all(|node| node.disks_lost > 0);
        self.on_lost(node);
    }

    /// What an image of a node's disk means.
    pub fn image_of(&self, node: usize) -> ImageGhost {
        let ghost = &self.nodes[node];
        ImageGhost {
            logs: ghost.logs.clone(),
            incarnation: ghost.incarnation,
            term: ghost.term,
            locations: ghost.locations.clone(),
            checkpoints: ghost.checkpoints.clone(),
            damage: ghost.damage.clone(),
            synced: ghost.synced,
        }
    }

    /// A node's disk is put back to an image. Until it serves again it is not what the controller counts on.
    pub fn on_rollback(&mut self, node: usize, image: &ImageGhost) {
        let ghost = &mut self.nodes[node];
        ghost.logs.clone_from(&image.logs);
        (ghost.incarnation, ghost.term) = (image.incarnation, image.term);
        ghost.locations.put_back(&image.locations);
        ghost.checkpoints.clone_from(&image.checkpoints);
        ghost.damage.clone_from(&image.damage);
        ghost.synced = image.synced;
        ghost.suspect = true;
        ghost.rolled_back = true;
        for replica in ghost.logs.iter_mut().flatten() {
            replica.recovering = true;
            // The image was taken of a running node: what it had not synced may be missing.
            replica.leading = None;
        }
        self.on_lost(node);
    }

    /// What a node held of each partition is gone, or not what it was.
    fn on_lost(&mut self, node: usize) {
        let id = NodeId(node as i32 + 1);
        for truth in &mut self.logs {
            if truth.partition.as_ref().is_some_and(|partition| partition.replicas.contains(&id)) {
                truth.lost.insert(node);
            }
        }
    }

    /// D10: nothing but a failing or damaged disk stops a node.
    ///
    /// # Errors
    /// The property, where its disk is sound.
    pub fn on_halt(&mut self, node: usize, why: &Halt) -> Checked {
        self.marks.seen(Seen::Halt);
        let ghost = &self.nodes[node];
        if ghost.disk_erred || ghost.damage.is_outstanding() {
            return Ok(());
        }
        let story = format!("node {} stops itself, and its disk is sound: {why:?}", node + 1);
        Err(Violation::new("D10", story))
    }

    /// A sync or a journal write of this node has failed: from now on it must be silent (D2).
    pub fn on_failed(&mut self, node: usize) {
        self.nodes[node].disk_failed = true;
        self.nodes[node].disk_erred = true;
    }

    /// The fault injector turned a bit of a file of this node. `held`: the copies of batches there, whole until then.
    pub fn on_corrupted(&mut self, node: usize, file: FileName, held: Vec<Place>) {
        let ghost = &mut self.nodes[node];
        ghost.damage.add(file, ghost.shards);
        ghost.locations.damaged(held);
    }

    /// Reads of this node are about to fail so often that what they read counts as damaged.
    pub fn on_reads_may_fail(&mut self, node: usize) {
        self.nodes[node].damage.reads_may_fail();
    }

    /// A read of a file of this node has failed; `more` if others are to fail.
    pub fn on_failed_read(&mut self, node: usize, file: FileName, more: bool) {
        let ghost = &mut self.nodes[node];
        ghost.damage.on_failed_read(file, ghost.shards, more);
    }

    /// Whether reads of this node are about to fail so often that what they read counts as damaged.
    pub fn may_reads_fail(&self, node: usize) -> bool {
        self.nodes[node].damage.may_reads_fail()
    }

    /// No fault waits for this node's reads any more.
    pub fn on_reads_sound(&mut self, node: usize) {
        self.nodes[node].damage.reads_are_sound();
    }

    /// D3, D4, D8: recovery gives back some state that the log had, no older than what was acknowledged, or says that it is
    /// damaged, which it must not say without cause.
    pub(super) fn on_recovered(
        &mut self,
        node: usize,
        log: LogId,
        start: Offset,
        end: Offset,
        last_epoch: Epoch,
        damaged: bool,
    ) -> Checked {
        let touched = self.nodes[node].damage.touches(log);
        let may_be_damaged = self.may_be_damaged(node, log);
        let log = self.log_index(log);
        let at =
            format!("{} recovers {start}..{end} with last epoch {last_epoch}", self.at(node, log));
        let deleted = self.logs[log].deleted;
        if damaged {
            self.is_damaged(node, log);
            self.replica(node, log).recovering = false;
            self.marks.seen(Seen::RecoveredAsDamaged);
            if !may_be_damaged {
                return Err(Violation::new(
                    "D4",
                    format!("{at} as damaged, and nothing of it was damaged"),
                ));
            }
            return Ok(());
        }
        let replica = self.replica(node, log);
        if log == QUORUM && touched && end == 0 && replica.durable_to > 0 {
            // A damaged metadata log is emptied, and the disk must then take another incarnation.
            *replica = ReplicaLog::default();
            self.nodes[node].quorum_emptied = true;
            return Ok(());
        }
        let outcome = replica.recover(start, end, last_epoch);
        let started = self.clocks.wall;
        let replica = self.replica(node, log);
        replica.batches.iter_mut().for_each(|batch| batch.appended = batch.appended.min(started));
        let held = (replica.start, replica.end);
        if !deleted {
            match outcome {
                Ok(()) => {}
                Err(RecoveryError::Short { durable }) => {
                    let property = if touched { "D4" } else { "D3" };
                    return Err(Violation::new(
                        property,
                        format!("{at}, and {durable} was acknowledged as durable"),
                    ));
                }
                Err(RecoveryError::Foreign) => {
                    return Err(Violation::new(
                        "D8",
                        format!("{at}, a state that the log never had ({}..{})", held.0, held.1),
                    ));
                }
            }
        }
        self.marks.seen(Seen::Recovered);
        if log == QUORUM { Ok(()) } else { self.eligible_holds_all(node, log) }
    }

    /// Whether a node may say that a log is damaged: something of it is, or recovery could not know of it, which has nothing
    /// of it left.
    fn may_be_damaged(&mut self, node: usize, id: LogId) -> bool {
        let damage = &self.nodes[node].damage;
        let (touched, hidden) = (damage.touches(id), damage.hides_logs());
        let log = self.log_index(id);
        touched || hidden && self.replica(node, log).batches.is_empty()
    }

    /// Damage found while running.
    pub(super) fn on_damaged(&mut self, node: usize, log: LogId) -> Checked {
        let may_be_damaged = self.may_be_damaged(node, log);
        let log = self.log_index(log);
        self.is_damaged(node, log);
        self.marks.seen(Seen::DamageFoundByReading);
        if !may_be_damaged {
            return Err(Violation::new(
                "D4",
                format!("{} is said to be damaged, and nothing of it was", self.at(node, log)),
            ));
        }
        Ok(())
    }

    /// What a node held of one partition cannot be relied on: until it is in sync again it counts as lost, also when it has begun
    /// anew meanwhile.
    fn is_damaged(&mut self, node: usize, log: usize) {
        self.replica(node, log).damaged = true;
        self.logs[log].lost.insert(node);
    }

    /// D3: a log that was acknowledged as durable is among those recovered.
    pub(super) fn nothing_vanished(&mut self, node: usize) -> Checked {
        for log in 0..self.nodes[node].logs.len() {
            let truth = &self.logs[log];
            let known = truth.partition.is_some() && !truth.deleted && log != QUORUM;
            let Some(replica) = self.nodes[node].logs[log].as_mut() else { continue };
            if !replica.recovering {
                continue;
            }
            replica.recovering = false;
            let durable = replica.durable_to > replica.start.max(truth.trimmed_to);
            let had_something = durable || replica.damaged;
            *replica = ReplicaLog::default();
            if had_something && self.nodes[node].damage.touches(self.logs[log].id) {
                // It went with the journal that was damaged, and is said to be damaged as soon as somebody asks for it. One of
                // which nothing was on the disk yet went with the process, whatever was damaged before it was made.
                self.is_damaged(node, log);
                continue;
            }
            if durable && known {
                return Err(Violation::new(
                    "D3",
                    format!("{} is not among the logs that recovery gave back", self.at(node, log)),
                ));
            }
            self.eligible_holds_all(node, log)?;
        }
        Ok(())
    }

    /// Whether the theorem lets this node's disk be lost now: each partition has another eligible replica, on an intact
    /// disk, with everything that is committed or that a leader may yet commit because this disk has acknowledged it; and a
    /// majority of the controllers' disks stays.
    pub fn may_lose(&mut self, node: usize, controllers: &[usize]) -> bool {
        if controllers.contains(&node) {
            let lost = |n: &usize| {
                let ghost = &self.nodes[*n];
                ghost.disks_lost > 0 || ghost.damage.may_unseat(LogId::METADATA)
            };
            let gone = controllers.iter().filter(|n| lost(n) || **n == node).count();
            if gone > (controllers.len() - 1) / 2 {
                return false;
            }
        }
        (1..self.logs.len()).all(|log| self.may_lose_replica(node, log))
    }

    /// The same of one partition alone.
    pub fn may_lose_log(&mut self, node: usize, log: LogId) -> bool {
        let log = self.log_index(log);
        self.may_lose_replica(node, log)
    }

    fn may_lose_replica(&mut self, node: usize, log: usize) -> bool {
        let truth = &self.logs[log];
        let Some(partition) = &truth.partition else { return true };
        let holds = partition.replicas.iter().any(|replica| (replica.0 - 1) as usize == node);
        truth.deleted || !holds || self.survives_without(log, node)
    }

    fn survives_without(&mut self, log: usize, lost: usize) -> bool {
        (0..self.nodes.len()).any(|node| {
            let damaged = self.nodes[node].damage.may_unseat(self.logs[log].id);
            if node == lost || damaged || !self.is_eligible(node, log) {
                return false;
            }
            let truth = &self.logs[log];
            let (end, trimmed) = (truth.committed_end(), truth.trimmed_to);
            let said = truth.acknowledged.range((lost, Epoch::MIN)..=(lost, Epoch::MAX));
            let promised = end.max(said.last().map_or(0, |(_, end)| *end));
            if promised <= trimmed {
                return true;
            }
            match self.nodes[node].logs.get_mut(log).and_then(Option::as_mut) {
                None => false,
                Some(replica) => {
                    replica.agree(&truth.committed);
                    !replica.damaged
                        && replica.start <= trimmed
                        && replica.agrees_to >= end
                        && replica.durable_to >= promised
                }
            }
        })
    }

    /// Whether a partition may be offline for good: nobody is eligible, and as many of its replicas lost their disks since they
    /// were last in sync as it asks to be in sync.
    pub fn has_lost_too_much(&mut self, id: LogId, partition: &Partition) -> bool {
        let log = self.log_index(id);
        let lost = |member: &&NodeId| {
            let node = (member.0 - 1) as usize;
            let ghost = &self.nodes[node];
            // Said to be damaged with cause (D4): a node whose journal is damaged, and which gets a new replica before its
            // next registration, cannot know that nothing of it went with the journal.
            let damaged = ghost.logs.get(log).and_then(Option::as_ref).is_some_and(|r| r.damaged);
            damaged || self.logs[log].lost.contains(&node) || ghost.damage.may_unseat(id)
        };
        partition.isr.is_empty()
            && partition.elr.is_empty()
            && partition.replicas.iter().filter(lost).count() >= usize::from(partition.min_isr)
    }

    /// P14, at the end: each committed record is on some disk, but for those of partitions that may be offline for good: that
    /// loss is one that everybody sees.
    pub fn nothing_is_lost(&mut self) -> Checked {
        for log in 1..self.logs.len() {
            let truth = &self.logs[log];
            let Some(partition) = truth.partition.clone().filter(|_| !truth.deleted) else {
                continue;
            };
            if self.has_lost_too_much(truth.id, &partition) {
                continue;
            }
            let on_some_disk = (0..self.nodes.len()).any(|node| {
                self.nodes[node].logs.get(log).is_some_and(Option::is_some)
                    && self.holds_all(node, log)
            });
            let truth = &self.logs[log];
            if truth.committed_end() > truth.trimmed_to && !on_some_disk {
                return Err(Violation::new(
                    "P14",
                    format!(
                        "{:?} was committed up to {}, and no disk holds all of it",
                        truth.id,
                        truth.committed_end()
                    ),
                ));
            }
        }
        Ok(())
    }
}
