//! The life of this node as a broker, from its start to serving.
//!
//! ```text
//!   Unregistered ──▶ Syncing ──▶ Confirming ──▶ Serving
//!    ▲  register      the epoch    heartbeats     │
//!    │                to disk      confirm it     │
//!    └────────── metadata shows another registration
//! ```
//!
//! A registration is taken only from the controller's answer to this very life: that the metadata shows one says nothing,
//! since it may be that of the life before. Being fenced does not end a registration: a broker that is only slow keeps
//! following and is let in again at its next heartbeat.

use bytes::Bytes;

use crate::controller::message::{ControllerMessage, Registration};
use crate::image::Image;
use crate::storage::{Lsn, Store};
use crate::{BrokerEpoch, Config, Incarnation, Instant, LogId, Outputs};

/// How far this broker is, as the diagram above has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// When no registration of this life is in force, as far as it knows.
    Unregistered,
    /// When the epoch is on its way to the disk.
    Syncing(BrokerEpoch, Lsn),
    /// When the epoch is synced and the controller is being told.
    Confirming(BrokerEpoch),
    /// When it may lead and acknowledge.
    Serving(BrokerEpoch),
}

/// What came of an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// When the broker may serve from now on.
    Serve(BrokerEpoch),
    /// When it must stop serving.
    Stop,
}

/// While this broker tells the controller that it wants to stop, it says so this often.
const STOPPING_EVERY_MS: u64 = 20;

/// This broker's registration.
#[derive(Debug)]
pub(super) struct Lifecycle {
    incarnation: Incarnation,
    /// Tells this run's registrations from those of earlier ones.
    life: u64,
    stage: Stage,
    /// The last epoch on this disk.
    synced: Option<BrokerEpoch>,
    /// The last epoch given to the disk: lower ones are late doubles.
    taken: Option<BrokerEpoch>,
    /// Whether another broker of this id was in the way of this life.
    refused: bool,
    /// When to speak to the controller next.
    speak_at: Instant,
    /// Whether it wants to stop.
    stopping: bool,
}

impl Lifecycle {
    /// A broker that has just started on a disk.
    pub fn new(incarnation: Incarnation, life: u64) -> Lifecycle {
        let stage = Stage::Unregistered;
        let (synced, taken, speak_at) = (None, None, Instant(0));
        let (refused, stopping) = (false, false);
        Lifecycle { incarnation, life, stage, synced, taken, refused, speak_at, stopping }
    }

    /// Reads the last epoch off the disk. One whose place is damaged proves nothing and goes.
    pub fn start(&mut self, store: &mut Store, out: &mut Outputs) {
        if store.log(LogId::BROKER).is_some_and(|log| log.is_damaged()) {
            store.delete(LogId::BROKER, out);
        }
        store.create(LogId::BROKER, out);
        self.synced = store.log(LogId::BROKER).and_then(|log| decode(log.state()));
        self.taken = self.synced;
    }

    /// The registration under which this broker speaks to the controller, once its epoch is synced.
    pub fn epoch(&self) -> Option<BrokerEpoch> {
        match self.stage {
            Stage::Unregistered | Stage::Syncing(..) => None,
            Stage::Confirming(epoch) | Stage::Serving(epoch) => Some(epoch),
        }
    }

    /// The registration under which it serves.
    pub fn serving(&self) -> Option<BrokerEpoch> {
        match self.stage {
            Stage::Serving(epoch) => Some(epoch),
            Stage::Unregistered | Stage::Syncing(..) | Stage::Confirming(_) => None,
        }
    }

    /// This disk.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// When to call [`Lifecycle::speak`]; none while the disk is waited for.
    pub fn speak_at(&self) -> Option<Instant> {
        match self.stage {
            Stage::Syncing(..) => None,
            Stage::Unregistered | Stage::Confirming(_) | Stage::Serving(_) => Some(self.speak_at),
        }
    }

    /// Speaks at the next opportunity: there is a new controller, or metadata with news of this broker.
    pub fn speak_soon(&mut self) {
        self.speak_at = Instant(0);
    }

    /// What to tell the controller now.
    pub fn speak(&mut self, now: Instant, config: &Config, image: &Image) -> ControllerMessage {
        self.speak_at = now.after_ms(config.quorum.broker_heartbeat_ms);
        match self.epoch() {
            Some(epoch) if self.stopping => {
                self.speak_at = now.after_ms(STOPPING_EVERY_MS);
                ControllerMessage::Stopping { epoch }
            }
            Some(epoch) => ControllerMessage::Heartbeat { epoch },
            None => ControllerMessage::Register(Registration {
                cluster: image.cluster,
                life: self.life,
                replaces: image.brokers.get(&config.node).map(|broker| broker.epoch),
                incarnation: self.incarnation,
                synced: self.synced,
                kafka: config.kafka.clone(),
                peer: config.peer.clone(),
                rack: config.rack.clone(),
            }),
        }
    }

    /// When this node is to stop.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.speak_soon();
    }

    /// When the controller has registered this broker: its epoch goes to the disk first.
    pub fn on_registered(&mut self, life: u64, epoch: BrokerEpoch, store: &mut Store) {
        let newer = self.taken.is_none_or(|taken| epoch > taken);
        if life == self.life && self.stage == Stage::Unregistered && newer {
            let lsn = store.put(LogId::BROKER, encode(epoch));
            self.stage = Stage::Syncing(epoch, lsn);
            self.taken = Some(epoch);
        }
    }

    /// When the controller has not registered this broker because another one of its id is in service. Whether that is news;
    /// none where another life or state is spoken of.
    pub fn on_refused(&mut self, life: u64) -> Option<bool> {
        let speaks_of_this = life == self.life && self.stage == Stage::Unregistered;
        speaks_of_this.then(|| !std::mem::replace(&mut self.refused, true))
    }

    /// When more of the journal is on stable storage.
    pub fn on_flushed(&mut self, flushed: Lsn) {
        if let Stage::Syncing(epoch, lsn) = self.stage
            && lsn <= flushed
        {
            self.stage = Stage::Confirming(epoch);
            self.synced = Some(epoch);
            self.speak_soon();
        }
    }

    /// What follows from the metadata, new or looked at again.
    pub fn on_image(&mut self, config: &Config, image: &Image) -> Option<Turn> {
        let epoch = match self.stage {
            Stage::Unregistered => return None,
            Stage::Syncing(epoch, _) | Stage::Confirming(epoch) | Stage::Serving(epoch) => epoch,
        };
        let broker = image.brokers.get(&config.node);
        // An image that does not reach the registration yet says nothing about it.
        if image.end > epoch.0 && broker.is_none_or(|broker| broker.epoch != epoch) {
            let served = self.serving().is_some();
            self.stage = Stage::Unregistered;
            self.speak_soon();
            return served.then_some(Turn::Stop);
        }
        let in_service =
            broker.is_some_and(|broker| broker.confirmed == Some(epoch) && !broker.fenced);
        if self.stage == Stage::Confirming(epoch) && in_service {
            self.stage = Stage::Serving(epoch);
            return Some(Turn::Serve(epoch));
        }
        None
    }
}

/// Version of the state that lies on the disk, its first byte. Frozen.
const VERSION: u8 = 1;

fn encode(epoch: BrokerEpoch) -> Bytes {
    let mut bytes = vec![VERSION];
    bytes.extend(epoch.0.to_le_bytes());
    bytes.into()
}

/// What was put last; none where nothing was, or nothing that can be read: then the disk proves nothing.
fn decode(bytes: &[u8]) -> Option<BrokerEpoch> {
    let (VERSION, rest) = bytes.split_first().map(|(version, rest)| (*version, rest))? else {
        return None;
    };
    Some(BrokerEpoch(i64::from_le_bytes(rest.try_into().ok()?)))
}
