//! DescribeCluster: the brokers, or the controllers.

use milena_wire::ErrorCode;
use milena_wire::messages::AUTHORIZED_OPERATIONS_OMITTED;
use milena_wire::messages::describe_cluster::{
    DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse, ENDPOINT_TYPE_BROKERS,
    ENDPOINT_TYPE_CONTROLLERS,
};

use super::{CLUSTER_OPERATIONS, cluster_id, controller_id};
use crate::metadata::Image;
use crate::quorum::message::Voters;
use crate::{Config, NodeId};

/// Answers DescribeCluster about brokers. Those out of service are told of only to those who ask for them. About controllers
/// an image knows nothing: see [`describe_controllers`].
pub fn describe_cluster(
    image: &Image,
    config: &Config,
    request: &DescribeClusterRequest,
    _version: i16,
) -> DescribeClusterResponse {
    let response = DescribeClusterResponse {
        endpoint_type: request.endpoint_type,
        cluster_id: cluster_id(image),
        ..Default::default()
    };
    let refuse = |error_code, message: &str| DescribeClusterResponse {
        error_code,
        error_message: Some(message.into()),
        ..response.clone()
    };
    match request.endpoint_type {
        ENDPOINT_TYPE_BROKERS => {}
        ENDPOINT_TYPE_CONTROLLERS => {
            let message = "a broker's image does not show the controllers";
            return refuse(ErrorCode::MISMATCHED_ENDPOINT_TYPE, message);
        }
        _ => return refuse(ErrorCode::UNSUPPORTED_ENDPOINT_TYPE, "unknown type of endpoint"),
    }
    DescribeClusterResponse {
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
        ..response
    }
}

/// Answers DescribeCluster about controllers, from the quorum: those that are listed, with their addresses for peers, and
/// the one that is active. One without a vote counts as fenced: it follows the log only.
pub fn describe_controllers(
    image: &Image,
    config: &Config,
    voters: &Voters,
    active: Option<NodeId>,
) -> DescribeClusterResponse {
    // A disk that was replaced is not the one that votes.
    let votes = |node: &NodeId| {
        let voter = voters.get(node);
        let disk = image.brokers.get(node).map(|broker| broker.incarnation);
        voter.is_some_and(|voter| disk.is_none_or(|disk| disk == *voter))
    };
    let controllers = config.controllers.iter().map(|(node, address)| {
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        DescribeClusterBroker {
            broker_id: node.0,
            host: host.into(),
            port: port.parse().unwrap_or(0),
            rack: None,
            is_fenced: !votes(node),
        }
    });
    DescribeClusterResponse {
        endpoint_type: ENDPOINT_TYPE_CONTROLLERS,
        cluster_id: cluster_id(image),
        controller_id: active.map_or(-1, |node| node.0),
        brokers: controllers.collect(),
        ..Default::default()
    }
}
