//! ListConfigResources: of what there can be configurations.

use std::collections::BTreeSet;

use milena_wire::ErrorCode;
use milena_wire::messages::describe_configs::{
    RESOURCE_TYPE_BROKER, RESOURCE_TYPE_BROKER_LOGGER, RESOURCE_TYPE_TOPIC,
};
use milena_wire::messages::list_config_resources::{
    ConfigResource, ListConfigResourcesRequest, ListConfigResourcesResponse,
};

use super::configs::RESOURCE_TYPES;
use crate::image::Image;

/// First version that asks by type.
const TYPES_FIRST: i16 = 1;

/// Answers ListConfigResources.
pub fn list_config_resources(
    image: &Image,
    request: &ListConfigResourcesRequest,
    version: i16,
) -> ListConfigResourcesResponse {
    let asked: BTreeSet<i8> = match &request.resource_types[..] {
        // Subscriptions to clients' metrics, of which there are none.
        _ if version < TYPES_FIRST => return ListConfigResourcesResponse::default(),
        [] => RESOURCE_TYPES.into(),
        some => some.iter().copied().collect(),
    };
    if !asked.iter().all(|asked| RESOURCE_TYPES.contains(asked)) {
        let error_code = ErrorCode::UNSUPPORTED_VERSION;
        return ListConfigResourcesResponse { error_code, ..Default::default() };
    }
    let names = |resource_type| match resource_type {
        RESOURCE_TYPE_TOPIC => image.names.keys().cloned().collect(),
        RESOURCE_TYPE_BROKER | RESOURCE_TYPE_BROKER_LOGGER => {
            image.brokers.keys().map(|node| node.0.to_string()).collect()
        }
        // Nothing is set for groups and for clients' metrics.
        _ => Vec::new(),
    };
    let all = asked.into_iter().flat_map(|resource_type| {
        let resource = move |resource_name| ConfigResource { resource_name, resource_type };
        names(resource_type).into_iter().map(resource)
    });
    ListConfigResourcesResponse { config_resources: all.collect(), ..Default::default() }
}
