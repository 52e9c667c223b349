//! A replica's data is damaged, on a disk that is otherwise sound.
//!
//! The replica leaves ISR and ELR first, under the next replica incarnation, and another one leads; only then may it
//! discard anything and fetch again. Where it was the last member, nobody leads, the partition waits for an operator, and
//! the damaged file is kept.

use milena_wire::ErrorCode;

use super::message::Damage;
use super::{Change, partition_change};
use crate::image::{Image, Record};
use crate::{NodeId, Refusal};

/// The record that takes a damaged replica out.
///
/// # Errors
///
/// Where the report is not from the replica's present life: it was answered before, or the broker registered again.
pub fn damaged(image: &Image, from: NodeId, report: &Damage) -> Result<Record, Refusal> {
    let refuse = |code, message: &str| Err(Refusal::new(code, message));
    let Some((_, partition)) = image.partition(report.log) else {
        return refuse(ErrorCode::UNKNOWN_TOPIC_ID, "there is no such partition");
    };
    let broker = image.brokers.get(&from);
    if broker.map(|broker| (broker.epoch, broker.incarnation))
        != Some((report.broker_epoch, report.incarnation))
    {
        return refuse(ErrorCode::STALE_BROKER_EPOCH, "the broker has registered again");
    }
    if partition.incarnation(from) != Some(report.replica) {
        return refuse(ErrorCode::INELIGIBLE_REPLICA, "not this replica's present incarnation");
    }
    let change = Change { renew: true, ..Change::without_unclean(partition, from) };
    let partition = partition_change(partition, &change, |node| image.unfenced(node));
    Ok(Record::Partition { log: report.log, partition })
}
