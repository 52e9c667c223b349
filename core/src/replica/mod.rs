//! One replica of a partition: leader, follower, or neither.
//!
//! In-sync-set replication in the line of PacificA and Kafka with the rules of KIP-966, but pushed: the leader sends
//! batches to its followers while its own sync runs, and a follower acknowledges what it has synced. Three things keep
//! that safe, each in a file of its own: the high watermark over the maximal in-sync set ([`watermark`]), log matching
//! by the epoch of the record before a push (`follower`), and proposals that stand until the controller has answered by
//! a newer partition epoch (`leader`).
//!
//! ```text
//!             image: leads, newer epoch                     image: another leads
//!   Leader ◀──────────────────────────── Idle ────────────────────────────────────▶ Follower
//!      │                                 ▲  ▲                                          │
//!      └── not serving, damaged, ────────┘  └──────── not serving, damaged, ───────────┘
//!          another or no leader                       no leader
//! ```
//!
//! A replica decides nothing by itself: the image says who leads, and the broker's registration (`Serving`) whether it
//! may act at all. It reads and writes its log through the shard's [`Store`] and keeps no record bytes.

pub(crate) mod batches;
mod follower;
mod leader;
pub mod message;
mod progress;
mod turns;
mod view;
pub mod watermark;

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::image::settings::TopicSettings;
use crate::image::{Image, Partition, Topic};
use crate::local::{LocalMessage, Member};
use crate::storage::{CleaningRules, Log, Lsn, Store, Ticket};
use crate::{
    BrokerEpoch, Config, Epoch, Incarnation, Instant, LogId, LogLevel, NodeId, Now, Offset,
    Outputs, Place, ReplicaIncarnation,
};
use follower::Follower;
use leader::Leader;
pub use leader::Placed;
pub use turns::{Asked, Turns};
pub use view::{PartitionView, ReplicaView, Tally};

/// What the replicas of a shard share.
pub struct Host {
    /// The node's settings.
    pub config: Arc<Config>,
    /// This life of the disk.
    pub incarnation: Incarnation,
    /// The metadata as last seen; the empty image before the first.
    pub image: Arc<Image>,
    /// The registration under which this broker may serve.
    pub serving: Option<BrokerEpoch>,
    /// The shard's logs.
    pub store: Store,
    /// Who of them may ask followers and the controller.
    pub turns: Turns,
    /// Reads for followers that have begun and are not yet assigned to their replica by the shard.
    pub reads: Vec<(Ticket, LogId, NodeId)>,
}

impl Host {
    /// The broker epoch under which replicas may lead and follow: serving, and the image shows that registration
    /// confirmed. An older image could name leaderships that the registration has ended.
    pub fn acting(&self) -> Option<BrokerEpoch> {
        let epoch = self.serving?;
        let broker = self.image.brokers.get(&self.config.node)?;
        (broker.epoch == epoch && broker.confirmed == Some(epoch)).then_some(epoch)
    }

    /// A replica in the life that the image gives it.
    fn member(&self, node: NodeId, partition: &Partition) -> Option<Member> {
        let broker = self.image.brokers.get(&node)?;
        Some(Member {
            node,
            broker_epoch: broker.epoch,
            incarnation: broker.incarnation,
            replica: partition.incarnation(node)?,
        })
    }
}

/// What a call may read and change beside the replica itself.
pub struct Context<'a> {
    /// The time.
    pub now: Now,
    /// What the replicas share.
    pub host: &'a mut Host,
    /// What is to be done.
    pub out: &'a mut Outputs,
}

/// What is kept beside a log on disk. Frozen as postcard writes it, after one byte of version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    /// The life of the data.
    pub incarnation: ReplicaIncarnation,
    /// End of an image that named this partition. A later image without it means deletion; an earlier one, which a
    /// restarted node may see first, does not.
    pub named_at: Offset,
    /// Whose image that was.
    pub cluster: u128,
}

const STATE_VERSION: u8 = 1;

impl State {
    fn encode(&self) -> Bytes {
        postcard::to_extend(self, vec![STATE_VERSION]).expect("two numbers have bytes").into()
    }

    /// None if nothing was kept. An unknown version counts as nothing: no log is deleted or reset by what is not understood.
    pub fn decode(bytes: &[u8]) -> Option<State> {
        let (version, body) = bytes.split_first()?;
        (*version == STATE_VERSION).then(|| postcard::from_bytes(body).ok())?
    }
}

/// What a replica is at the moment.
enum Role {
    /// When it neither leads nor follows.
    Idle,
    /// When it leads.
    Leader(Box<Leader>),
    /// When another leads and this one takes its pushes.
    Follower(Follower),
}

/// One replica of a partition.
pub struct Replica {
    log: LogId,
    /// Its topic and its record, as of the last change of either.
    named: Option<(Arc<Topic>, Arc<Partition>)>,
    /// Its settings, parsed.
    settings: Option<TopicSettings>,
    /// The life on disk; none before the log exists or while that is not known.
    life: Option<ReplicaIncarnation>,
    /// Everything below is committed. Of a follower: as its leader said, as far as its own log is matched. Survives changes
    /// of role, since what is committed stays so.
    high_watermark: Offset,
    /// Journal record that must be flushed before anything is acknowledged: the last truncation, reset or state.
    barrier: Lsn,
    /// When the controller is told of the damage again.
    report_at: Option<Instant>,
    /// Whether the operator was told of it.
    is_damage_told: bool,
    /// What clients wrote and read, for whoever watches.
    pub(crate) tally: Tally,
    role: Role,
}

/// Why a partition cannot be read or written here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unavailable {
    /// When this replica does not lead.
    NotLeader,
    /// When its data is damaged.
    Damaged,
}

impl Replica {
    /// A replica of a log that may or may not be on this disk.
    pub fn new(log: LogId, store: &Store) -> Replica {
        let found = store.log(log);
        Replica {
            log,
            named: None,
            settings: None,
            // Of a log that recovery found damaged even the state may be an old one.
            life: found.filter(|log| !log.is_damaged()).map(life),
            high_watermark: found.map_or(0, Log::start),
            barrier: Lsn(0),
            report_at: None,
            is_damage_told: false,
            tally: Tally::default(),
            role: Role::Idle,
        }
    }

    /// The partition's record as the image has it.
    pub fn partition(&self) -> Option<&Arc<Partition>> {
        self.named.as_ref().map(|(_, partition)| partition)
    }

    /// What is set for its topic, where the image has it.
    pub fn settings(&self) -> Option<&TopicSettings> {
        self.settings.as_ref()
    }

    /// Looks at new metadata: another record of the partition, another life of a broker, serving begun or ended.
    pub fn on_metadata(&mut self, cx: &mut Context) {
        let named = cx.host.image.partition(self.log);
        let configs = named.map(|(topic, _)| &topic.configs);
        if configs != self.named.as_ref().map(|(topic, _)| &topic.configs) {
            self.settings = configs.map(|configs| TopicSettings::new(configs, &cx.host.config));
        }
        self.named = named.map(|(topic, partition)| (topic.clone(), partition.clone()));
        let me = cx.host.config.node;
        let Some(partition) = self.partition().cloned() else { return self.become_idle() };
        let (Some(_), Some(expected)) = (cx.host.acting(), partition.incarnation(me)) else {
            return self.become_idle();
        };
        if !self.live(cx, &partition, expected) {
            return self.become_idle();
        }
        match partition.leader {
            Some(leader) if leader == me => match &mut self.role {
                Role::Leader(known) if known.epoch == partition.leader_epoch => {
                    self.update_leader(cx, &partition)
                }
                Role::Idle | Role::Leader(_) | Role::Follower(_) => {
                    self.become_leader(cx, &partition)
                }
            },
            Some(leader) => match &self.role {
                Role::Follower(known) if known.epoch == partition.leader_epoch => {}
                Role::Idle | Role::Leader(_) | Role::Follower(_) => {
                    self.become_follower(cx, leader, partition.leader_epoch)
                }
            },
            None => self.become_idle(),
        }
    }

    /// Makes sure that the data on disk is of the life that the image gives this replica. Data of an ended life, damaged or
    /// not, is discarded only once another replica leads: until then it may be the last copy.
    fn live(
        &mut self,
        cx: &mut Context,
        partition: &Partition,
        expected: ReplicaIncarnation,
    ) -> bool {
        let store = &mut cx.host.store;
        store.create(self.log, cx.out);
        let log = store.log(self.log).expect("just made");
        let (damaged, empty) = (log.is_damaged(), log.end() == 0);
        if damaged && self.life.is_none() {
            // Which life it was is not known, so nothing says that it has ended: it is reported as the present one.
            self.life = Some(expected);
        } else if !damaged && empty && self.life < Some(expected) {
            self.begin_life(cx, expected);
        }
        let life = self.life.expect("set above");
        if life > expected {
            // The image is older than what this disk has seen.
            return false;
        }
        if life < expected {
            let another = partition.leader.is_some_and(|leader| leader != cx.host.config.node);
            if !another {
                return false;
            }
            cx.host.store.reset(self.log, 0, cx.out);
            self.begin_life(cx, expected);
            self.high_watermark = 0;
            (self.report_at, self.is_damage_told) = (None, false);
            let line = format!(
                "the data of {} on this disk is given up: it is fetched again",
                self.name(cx)
            );
            cx.out.log(LogLevel::Info, line);
            cx.out.event(|| crate::trace::Event::Sometimes(crate::trace::Mark::ReplicaNewLife));
            return true;
        }
        if damaged {
            self.report_damage(cx);
            return false;
        }
        true
    }

    fn begin_life(&mut self, cx: &mut Context, incarnation: ReplicaIncarnation) {
        let image = &cx.host.image;
        let state = State { incarnation, named_at: image.end, cluster: image.cluster };
        self.barrier = cx.host.store.put(self.log, state.encode());
        self.life = Some(incarnation);
    }

    /// Stops at once when the store has found the data damaged, and asks the controller to take this replica out.
    pub fn on_damaged(&mut self, cx: &mut Context) {
        self.become_idle();
        self.on_metadata(cx);
    }

    fn report_damage(&mut self, cx: &mut Context) {
        let Some(replica) = self.life else { return };
        if !std::mem::replace(&mut self.is_damage_told, true) {
            let line = format!(
                "the data of {} on this disk is damaged: it asks to be taken out, and is fetched again",
                self.name(cx)
            );
            cx.out.log(LogLevel::Warn, line);
        }
        cx.out.event(|| crate::trace::Event::Sometimes(crate::trace::Mark::ReplicaDamageReported));
        cx.out.local(Place::Metadata, LocalMessage::Damaged { log: self.log, replica });
        self.report_at = Some(cx.now.mono.after_ms(cx.host.config.replication.push_retry_ms));
    }

    /// As operators call it.
    fn name(&self, cx: &Context) -> String {
        match cx.host.image.partition(self.log) {
            Some((topic, _)) => format!("{}-{}", topic.name, self.log.partition),
            None => format!("{:?}", self.log),
        }
    }

    fn become_idle(&mut self) {
        self.role = Role::Idle;
    }

    /// Looks at what the journal has flushed meanwhile. Whether there is still something to wait for.
    pub fn on_flushed(&mut self, cx: &mut Context) -> bool {
        match self.role {
            Role::Idle => return false,
            Role::Leader(_) => self.advance(cx),
            Role::Follower(_) => self.acknowledge(cx),
        }
        self.unflushed(&cx.host.store)
    }

    /// Whether anything of this log is not on stable storage yet.
    pub fn unflushed(&self, store: &Store) -> bool {
        store.log(self.log).is_some_and(|log| log.flushed_end() < log.end())
            || self.barrier > store.flushed()
    }

    /// Does what is due.
    pub fn on_timeout(&mut self, cx: &mut Context) {
        if self.report_at.is_some_and(|at| at <= cx.now.mono) {
            self.report_at = None;
            self.on_metadata(cx);
        }
        self.lead_timeout(cx);
    }

    /// When [`Replica::on_timeout`] is due. None where nothing is waited for, as in an idle partition.
    pub fn due(&self, cx: &Host) -> Option<Instant> {
        self.report_at.into_iter().chain(self.lead_due(cx)).min()
    }

    /// Whether it leads and may be read and written; its leader epoch.
    pub fn leading(&self, store: &Store) -> Result<Epoch, Unavailable> {
        match &self.role {
            Role::Leader(leader) => Ok(leader.epoch),
            Role::Idle | Role::Follower(_) => {
                let damaged = store.log(self.log).is_some_and(Log::is_damaged);
                Err(if damaged { Unavailable::Damaged } else { Unavailable::NotLeader })
            }
        }
    }

    /// Whether everything before the leader's epoch is known to be committed, so that offsets shown to clients cannot go back.
    pub fn reached_epoch_start(&self) -> bool {
        match &self.role {
            Role::Leader(leader) => self.high_watermark >= leader.start,
            Role::Idle | Role::Follower(_) => false,
        }
    }

    /// Everything below is committed.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// Whether the committed in-sync set has enough members for acks=all.
    pub fn enough_in_sync(&self) -> bool {
        self.partition().is_some_and(|p| p.isr.len() >= usize::from(p.min_isr))
    }

    /// Whether no other replica is in the in-sync set.
    pub fn is_alone(&self) -> bool {
        self.partition().is_some_and(|p| p.isr.len() == 1)
    }

    /// Moves the log start up to what retention allows, as leader; followers are told with the next push.
    pub fn retain(&mut self, cx: &mut Context) {
        let (Role::Leader(_), Some(settings)) = (&self.role, &self.settings) else { return };
        let (ms, bytes) = (settings.retention_ms, settings.retention_bytes);
        let (log, upto) = (self.log, self.high_watermark);
        let store = &mut cx.host.store;
        let to = store.retention_start(log, cx.now.wall, ms, bytes, upto).min(upto);
        if store.log(log).is_some_and(|log| to > log.start()) {
            store.trim(log, to, cx.out);
            cx.out.event(|| crate::trace::Event::Sometimes(crate::trace::Mark::ReplicaRetained));
        }
    }

    /// How its log is cleaned and up to where, if it is a compacted topic's.
    pub fn cleaning(&self, config: &Config) -> Option<(CleaningRules, Offset)> {
        let settings = self.settings.as_ref()?.compaction?;
        let copied = match &self.role {
            Role::Leader(leader) => leader.copied_to(),
            Role::Idle | Role::Follower(_) => None,
        };
        let rules = CleaningRules {
            delete_retention_ms: settings.delete_retention_ms,
            min_lag_ms: settings.min_lag_ms,
            max_lag_ms: settings.max_lag_ms,
            dirty_ratio: settings.dirty_ratio,
            opened_bytes_max: config.replication.opened_bytes_max,
            tombstones_go_below: copied.unwrap_or(Offset::MAX),
        };
        Some((rules, self.high_watermark))
    }

    /// Forgets producers that have appended nothing for long, whatever the role.
    pub fn expire_producers(&self, cx: &mut Context) {
        cx.host.store.expire_producers(self.log, cx.now.wall, self.high_watermark, cx.out);
    }

    /// Costly assertions.
    pub fn check_invariants(&self, store: &Store) {
        let Some(log) = store.log(self.log) else { return };
        if matches!(self.role, Role::Idle) {
            return;
        }
        assert!(!log.is_damaged(), "a damaged replica neither leads nor follows");
        assert!(self.high_watermark <= log.end(), "the high watermark is in the log");
        assert!(log.start() <= self.high_watermark, "what is trimmed was committed");
        if let Role::Leader(leader) = &self.role {
            leader.check_invariants(log);
        }
    }

    /// Cuts everything at and past `to`, as a push of `leader` wants it. What is committed is never cut: false if any of that is.
    fn truncate(&mut self, cx: &mut Context, to: Offset, leader: NodeId) -> bool {
        if to < self.high_watermark {
            let what = "a committed record is to be cut";
            cx.out.event(|| crate::trace::Event::Refused { from: leader, what });
            let line = format!(
                "partition {:?}: a push from node {leader} would cut the log at {to}, and everything below {} is committed: ignored",
                self.log, self.high_watermark
            );
            cx.out.log(LogLevel::Error, line);
            return false;
        }
        self.barrier = cx.host.store.truncate(self.log, to, cx.out);
        cx.out.event(|| crate::trace::Event::Sometimes(crate::trace::Mark::ReplicaTruncated));
        true
    }
}

/// The life that a log on disk is of. One whose state is not understood counts as the first.
fn life(log: &Log) -> ReplicaIncarnation {
    State::decode(log.state()).map_or(ReplicaIncarnation(0), |state| state.incarnation)
}

/// Epoch of the record before an offset, as far as the log knows it; -1 at offset 0.
fn epoch_before(log: &Log, offset: Offset) -> Option<Epoch> {
    if offset == 0 {
        return Some(-1);
    }
    if offset == log.end() && log.last_epoch() >= 0 {
        return Some(log.last_epoch());
    }
    log.epoch_at(offset - 1)
}
