//! DescribeCluster: the brokers.

use milena_wire::ErrorCode;
use milena_wire::messages::AUTHORIZED_OPERATIONS_OMITTED;
use milena_wire::messages::describe_cluster::{
    DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse, ENDPOINT_TYPE_BROKERS,
    ENDPOINT_TYPE_CONTROLLERS,
};

use super::{CLUSTER_OPERATIONS, controller_id, is_unknown};
use crate::image::Image;
use crate::{Config, cluster_id};

/// Answers DescribeCluster about brokers. Those out of service are told of only to those who ask for them. As Kafka's do, a
/// broker's listener refuses to tell of controllers: DescribeQuorum does.
pub fn describe_cluster(
    image: &Image,
    config: &Config,
    request: &DescribeClusterRequest,
) -> DescribeClusterResponse {
    let refuse = |error_code, message: &str| DescribeClusterResponse {
        error_code,
        error_message: Some(message.into()),
        ..Default::default()
    };
    match request.endpoint_type {
        ENDPOINT_TYPE_BROKERS if is_unknown(image) => {
            let message = "this node does not know its cluster yet: it has just started, or no controller leads";
            return refuse(ErrorCode::BROKER_NOT_AVAILABLE, message);
        }
        ENDPOINT_TYPE_BROKERS => {}
        ENDPOINT_TYPE_CONTROLLERS => {
            let message = "this is a broker's listener: ask it for DescribeQuorum";
            return refuse(ErrorCode::MISMATCHED_ENDPOINT_TYPE, message);
        }
        _ => return refuse(ErrorCode::UNSUPPORTED_ENDPOINT_TYPE, "unknown type of endpoint"),
    }
    DescribeClusterResponse {
        endpoint_type: request.endpoint_type,
        cluster_id: cluster_id(image.cluster).to_string(),
        controller_id: controller_id(image, config),
        brokers: image
            .brokers
            .iter()
            .filter(|(_, broker)| request.include_fenced_brokers || !broker.fenced)
            .map(|(node, broker)| DescribeClusterBroker {
                broker_id: node.0,
                host: broker.kafka.0.clone(),
                port: i32::from(broker.kafka.1),
                rack: broker.rack.clone(),
                is_fenced: broker.fenced,
            })
            .collect(),
        cluster_authorized_operations: if request.include_cluster_authorized_operations {
            CLUSTER_OPERATIONS
        } else {
            AUTHORIZED_OPERATIONS_OMITTED
        },
        ..Default::default()
    }
}
