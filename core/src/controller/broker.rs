//! Brokers come, prove their disk, fall silent and come back.
//!
//! Registration fences first, so that every leadership the broker held has ended before its new life begins: otherwise it
//! could write other bytes under an epoch and offset that it used before it crashed. What fencing leaves of its seats it
//! keeps if it proves its disk: then every record that it acknowledged is still there.
//!
//! ```text
//!                 register                     confirm
//!    (unknown) ─────────────▶ fenced, E ────────────────────▶ in service, E confirmed
//!                               ▲  │ ▲                          │   │
//!                               └──┘ └── silent for a session ──┘   │
//!                     register: E' ◀───────────── register: E' ─────┘
//! ```
//!
//! Two processes may call themselves by one id, by a slip of whoever started them. An incarnation is a disk, and one disk serves
//! one process at a time, for a process locks its directory. So a registration that names the disk of the one in force
//! comes from a next life of the same broker and is taken at once: the life before is over, and a restart waits for no
//! session. One that names another disk comes from another process, or from the same broker on a disk that was replaced.
//! Which of them it is only time tells: it is refused until the session of the one in force is over (KIP-631), and where that
//! one keeps on being heard, the newcomer is told so for good.

use milena_wire::ErrorCode;

use super::message::Registration;
use super::{Change, partition_change};
use crate::image::{Broker, Image, Record};
use crate::{BrokerEpoch, NodeId, Refusal};

/// When a broker asks to be registered: the records, or none where the request is not about the registration that is in
/// force (it was delayed or doubled, and a newer one may have come after it) or comes from another cluster.
///
/// Every partition that it holds gets a new partition epoch, so that no proposal made with its former life stands.
///
/// # Errors
///
/// DUPLICATE_BROKER_REGISTRATION while the registration in force `lives` and is of another disk.
pub fn register(
    image: &Image,
    node: NodeId,
    request: &Registration,
    lives: bool,
) -> Result<Option<Vec<Record>>, Refusal> {
    let known = image.brokers.get(&node);
    let replaces = known.map(|broker| broker.epoch);
    if request.cluster != image.cluster || request.replaces != replaces {
        return Ok(None);
    }
    let is_another = |other: &&Broker| other.incarnation != request.incarnation;
    if let Some(other) = known.filter(is_another).filter(|_| lives) {
        let line = format!(
            "node {node} at {} is refused: another process calls itself node {node}, at {}, with a directory of \
             its own; check --node-id of both",
            request.peer, other.peer
        );
        return Err(Refusal::new(ErrorCode::DUPLICATE_BROKER_REGISTRATION, line));
    }
    let intact = known.is_some_and(|broker| proves_disk(broker, request));
    let mut records = vec![Record::RegisterBroker {
        node,
        incarnation: request.incarnation,
        kafka: request.kafka.clone(),
        peer: request.peer.clone(),
        rack: request.rack.clone(),
    }];
    changes(image, node, &mut records, |partition| {
        if intact {
            Change::without(partition, node)
        } else {
            Change::without_unclean(partition, node)
        }
    });
    Ok(Some(records))
}

/// Whether what a broker says of its disk shows that it holds everything it ever acknowledged: it is the same disk, and
/// the last epoch synced on it is the last one that was confirmed, or a later one (issued since to the same disk, and
/// never confirmed). A disk put back to an older image names an older one.
fn proves_disk(broker: &Broker, request: &Registration) -> bool {
    let same_disk = broker.incarnation == request.incarnation;
    let up_to_date = match (broker.confirmed, request.synced) {
        (Some(confirmed), Some(synced)) => (confirmed..=broker.epoch).contains(&synced),
        // Never confirmed, never in service: there is no seat to keep.
        (None, _) | (_, None) => false,
    };
    same_disk && up_to_date
}

/// When a broker says that its epoch is synced on its disk: it is confirmed and comes into service, and partitions that
/// have no leader may take it, from the ISR or else the ELR. Nothing where all that is so already, or where it speaks of
/// another registration than the one in force.
pub fn confirm(image: &Image, node: NodeId, epoch: BrokerEpoch) -> Vec<Record> {
    let mut records = Vec::new();
    let Some(broker) = image.brokers.get(&node).filter(|broker| broker.epoch == epoch) else {
        return records;
    };
    if broker.confirmed != Some(epoch) {
        records.push(Record::ConfirmBroker { node, epoch });
    }
    if broker.fenced {
        records.push(Record::FenceBroker { node, fenced: false });
        let unfenced = |other| other == node || image.unfenced(other);
        for (log, old) in image.partitions() {
            if old.leader.is_none() && (old.isr.contains(&node) || old.elr.contains(&node)) {
                let new = partition_change(old, &Change::default(), unfenced);
                if new.leader.is_some() {
                    records.push(Record::Partition { log, partition: new });
                }
            }
        }
    }
    records
}

/// When a broker was silent for a session: out of every ISR, no leader of anything. Its seats in the ELR it keeps.
///
/// Every partition that it holds gets a new partition epoch, so that a proposal that names it does not stand for ever.
pub fn fence(image: &Image, node: NodeId) -> Vec<Record> {
    let mut records = Vec::new();
    if image.unfenced(node) {
        records.push(Record::FenceBroker { node, fenced: true });
        changes(image, node, &mut records, |partition| Change::without(partition, node));
    }
    records
}

/// What a broker leaves behind that wants to stop.
#[derive(Debug, Default)]
pub struct Leaving {
    /// What is to be committed.
    pub records: Vec<Record>,
    /// Whether somebody is still catching up who would let it leave one more set.
    pub waits: bool,
}

/// When a broker wants to stop: others lead what it leads, and it leaves each in-sync set in which `min.insync.replicas`
/// members remain that are in service and not `stopping` themselves; in the others it stays, so that their records keep
/// their copies in the set. Out of all of them, it is out of service too.
pub fn leave(image: &Image, node: NodeId, stopping: impl Fn(NodeId) -> bool) -> Leaving {
    let mut leaving = Leaving::default();
    if !image.unfenced(node) {
        return leaving;
    }
    let stays = |other: &NodeId| *other != node && image.unfenced(*other) && !stopping(*other);
    let unfenced = |other| image.unfenced(other);
    let mut out_of_all = true;
    let mut elsewhere = Vec::new();
    for (log, old) in image.partitions().filter(|(_, partition)| partition.is_replica(node)) {
        if !old.isr.contains(&node) {
            elsewhere.push((log, old));
            continue;
        }
        let in_sync = |other: &NodeId| old.isr.contains(other) && stays(other);
        let heir = old.replicas.iter().copied().find(in_sync);
        let remain = old.replicas.iter().filter(|other| in_sync(other)).count();
        let prefer = heir.filter(|_| old.leader == Some(node));
        let change = if remain >= usize::from(old.min_isr) {
            Change { prefer, ..Change::without(old, node) }
        } else {
            out_of_all = false;
            leaving.waits |=
                old.replicas.iter().any(|other| stays(other) && !old.isr.contains(other));
            if prefer.is_none() {
                continue;
            }
            Change { prefer, ..Change::default() }
        };
        let partition = partition_change(old, &change, unfenced);
        leaving.records.push(Record::Partition { log, partition });
    }
    if out_of_all {
        // A proposal that names it must not stand where it was catching up.
        for (log, old) in elsewhere {
            let partition = partition_change(old, &Change::default(), unfenced);
            leaving.records.push(Record::Partition { log, partition });
        }
        leaving.records.push(Record::FenceBroker { node, fenced: true });
    }
    leaving
}

/// The change of every partition that a broker holds, while it is out of service.
fn changes(
    image: &Image,
    node: NodeId,
    records: &mut Vec<Record>,
    change: impl Fn(&crate::image::Partition) -> Change,
) {
    let unfenced = |other| other != node && image.unfenced(other);
    for (log, old) in image.partitions().filter(|(_, partition)| partition.is_replica(node)) {
        let partition = partition_change(old, &change(old), unfenced);
        records.push(Record::Partition { log, partition });
    }
}
