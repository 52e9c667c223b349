//! DescribeProducers: which producers a replica knows, of those that have each record written once.
//!
//! As in Kafka any replica answers, the leader or not, with what its own log says.

use milena_wire::messages::describe_producers::{
    DescribeProducersPartitionResponse, DescribeProducersTopicResponse, ProducerState,
};
use milena_wire::messages::{DescribeProducersRequest, DescribeProducersResponse};
use milena_wire::{ErrorCode, Uuid};

use super::{Origin, Parts};
use crate::controller::is_topic_name;
use crate::requests::Partitions;
use crate::requests::named::locate;
use crate::storage::ProducerView;

/// There are no transactions, whose coordinators have epochs.
const NO_COORDINATOR_EPOCH: i32 = -1;

impl Parts {
    pub(super) fn serve_describe_producers(
        &mut self,
        partitions: &Partitions,
        origin: Origin,
        request: DescribeProducersRequest,
    ) {
        let mut response = DescribeProducersResponse::default();
        for topic in request.topics {
            let describe = |index: &i32| {
                let partition_index = *index;
                match producers(partitions, &topic.name, partition_index) {
                    Ok(active_producers) => DescribeProducersPartitionResponse {
                        partition_index,
                        active_producers,
                        ..Default::default()
                    },
                    Err((error_code, message)) => DescribeProducersPartitionResponse {
                        partition_index,
                        error_code,
                        error_message: Some(message.into()),
                        ..Default::default()
                    },
                }
            };
            let partitions = topic.partition_indexes.iter().map(describe).collect();
            let name = topic.name;
            response.topics.push(DescribeProducersTopicResponse { name, partitions });
        }
        self.answer(origin, Some(response.into()));
    }
}

fn producers(
    partitions: &Partitions,
    topic: &str,
    index: i32,
) -> Result<Vec<ProducerState>, (ErrorCode, &'static str)> {
    if !is_topic_name(topic) {
        return Err((ErrorCode::INVALID_TOPIC_EXCEPTION, "no topic can have this name"));
    }
    let found = locate(partitions.image(), topic, Uuid::ZERO, false, index);
    let log = found.map_err(|code| (code, "there is no such partition"))?;
    let log = partitions.replica(log).and_then(|_| partitions.log(log));
    match log {
        None => Err((ErrorCode::NOT_LEADER_OR_FOLLOWER, "this broker has no replica of it")),
        Some(log) if log.is_damaged() => {
            Err((ErrorCode::KAFKA_STORAGE_ERROR, "the replica's data is damaged"))
        }
        Some(log) => Ok(log.producers().map(state).collect()),
    }
}

fn state(producer: ProducerView) -> ProducerState {
    ProducerState {
        producer_id: producer.id,
        producer_epoch: producer.epoch.into(),
        last_sequence: producer.last().last_sequence(),
        last_timestamp: producer.last().timestamp,
        coordinator_epoch: NO_COORDINATOR_EPOCH,
        current_txn_start_offset: -1,
    }
}
