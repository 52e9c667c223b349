//! A leader proposes an in-sync set (KIP-497, KIP-841, KIP-903).
//!
//! The leader decides who has caught up; the controller decides whether each member is still the one that the leader
//! meant. A set equal to the present one is committed as well, with the next partition epoch: that is how a leader takes
//! back a proposal whose fate it does not know.

use milena_wire::ErrorCode;

use super::{Change, partition_change};
use crate::image::{Image, Record};
use crate::local::{AlterPartition, Member};
use crate::{NodeId, Refusal};

/// The record of a proposal from `from`. Who is `stopping` joins no set.
///
/// # Errors
///
/// As Kafka's AlterPartition, by the same codes. A refusal ends nothing at the leader: what was refused may be the double
/// of what was accepted.
pub fn alter_partition(
    image: &Image,
    from: NodeId,
    request: &AlterPartition,
    stopping: impl Fn(NodeId) -> bool,
) -> Result<Record, Refusal> {
    let refuse = |code, message: &str| Err(Refusal::new(code, message));
    let Some((_, partition)) = image.partition(request.log) else {
        return refuse(ErrorCode::UNKNOWN_TOPIC_ID, "there is no such partition");
    };
    let (leader, leader_broker_epoch) = request.leader;
    if leader != from {
        return refuse(ErrorCode::INVALID_REQUEST, "only the leader itself proposes");
    }
    if image.brokers.get(&leader).map(|broker| broker.epoch) != Some(leader_broker_epoch) {
        return refuse(ErrorCode::STALE_BROKER_EPOCH, "the leader has registered again");
    }
    if request.leader_epoch > partition.leader_epoch
        || request.partition_epoch > partition.partition_epoch
    {
        return refuse(ErrorCode::NOT_CONTROLLER, "the proposal is ahead of this controller");
    }
    if request.leader_epoch < partition.leader_epoch {
        return refuse(ErrorCode::FENCED_LEADER_EPOCH, "the leader epoch has ended");
    }
    if partition.leader != Some(leader) {
        return refuse(ErrorCode::INVALID_REQUEST, "another broker leads");
    }
    if request.partition_epoch != partition.partition_epoch {
        return refuse(ErrorCode::INVALID_UPDATE_VERSION, "the partition has changed meanwhile");
    }
    let mut isr: Vec<NodeId> = request.isr.iter().map(|member| member.node).collect();
    isr.sort_unstable();
    if isr.windows(2).any(|pair| pair[0] == pair[1])
        || !isr.iter().all(|node| partition.is_replica(*node))
        || !isr.contains(&leader)
    {
        return refuse(ErrorCode::INVALID_REQUEST, "not a set of replicas with the leader");
    }
    for member in &request.isr {
        if let Some(why) = ineligible(image, partition.incarnation(member.node), member) {
            let message = format!("broker {} {why}", member.node);
            return Err(Refusal::new(ErrorCode::INELIGIBLE_REPLICA, message));
        }
        if stopping(member.node) && !partition.isr.contains(&member.node) {
            let message = format!("broker {} is about to stop", member.node);
            return Err(Refusal::new(ErrorCode::INELIGIBLE_REPLICA, message));
        }
    }
    let change = Change { isr: Some(isr), ..Change::default() };
    let partition = partition_change(partition, &change, |node| image.unfenced(node));
    Ok(Record::Partition { log: request.log, partition })
}

/// Why a member is not, or is no longer, the replica that the leader saw catch up.
fn ineligible(
    image: &Image,
    replica: Option<crate::ReplicaIncarnation>,
    member: &Member,
) -> Option<&'static str> {
    let Some(broker) = image.brokers.get(&member.node) else { return Some("is not registered") };
    if broker.fenced {
        Some("is fenced")
    } else if broker.epoch != member.broker_epoch {
        Some("has registered again")
    } else if broker.incarnation != member.incarnation {
        Some("has another disk")
    } else if replica != Some(member.replica) {
        Some("has lost this replica's data since")
    } else {
        None
    }
}
