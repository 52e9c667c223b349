//! Whom to ask instead: the addresses of the leaders that an answer names (KIP-951).

use std::collections::BTreeSet;

use milena_wire::messages::{FetchResponse, ProduceResponse, fetch, produce};

use crate::NodeId;
use crate::image::Image;

/// First version of Produce whose answer names the current leader.
const PRODUCE_VERSION: i16 = 10;
/// First version of Fetch whose answer has the leaders' addresses.
const FETCH_VERSION: i16 = 16;

pub(super) fn name_produce(image: &Image, version: i16, response: &mut ProduceResponse) {
    if version < PRODUCE_VERSION {
        return;
    }
    let partitions = response.responses.iter().flat_map(|topic| &topic.partition_responses);
    let named = partitions.map(|partition| partition.current_leader.leader_id);
    response.node_endpoints = endpoints(image, named)
        .map(|(node, host, port, rack)| produce::NodeEndpoint { node_id: node.0, host, port, rack })
        .collect();
}

pub(super) fn name_fetch(image: &Image, version: i16, response: &mut FetchResponse) {
    if version < FETCH_VERSION {
        return;
    }
    let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
    let named = partitions.map(|partition| partition.current_leader.leader_id);
    response.node_endpoints = endpoints(image, named)
        .map(|(node, host, port, rack)| fetch::NodeEndpoint { node_id: node.0, host, port, rack })
        .collect();
}

/// Each named node once, with its address as the image has it.
fn endpoints(
    image: &Image,
    named: impl Iterator<Item = i32>,
) -> impl Iterator<Item = (NodeId, String, i32, Option<String>)> {
    let nodes: BTreeSet<i32> = named.filter(|node| *node >= 0).collect();
    nodes.into_iter().filter_map(|node| {
        let broker = image.brokers.get(&NodeId(node))?;
        let (host, port) = broker.kafka.clone();
        Some((NodeId(node), host, i32::from(port), broker.rack.clone()))
    })
}
