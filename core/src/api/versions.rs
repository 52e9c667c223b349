//! ApiVersions and FindCoordinator.

use milena_wire::messages::api_versions::{ApiVersion, ApiVersionsResponse};
use milena_wire::messages::find_coordinator::{
    Coordinator, FindCoordinatorRequest, FindCoordinatorResponse,
};
use milena_wire::{ErrorCode, supported_versions};

/// The first version of FindCoordinator that asks for several keys.
const MANY_KEYS_FIRST: i16 = 4;

/// Answers ApiVersions, whatever the client says of itself: what this program speaks.
pub fn api_versions() -> ApiVersionsResponse {
    ApiVersionsResponse {
        error_code: ErrorCode::NONE,
        api_keys: supported_versions()
            .map(|(api_key, min_version, max_version)| ApiVersion {
                api_key: api_key as i16,
                min_version,
                max_version,
            })
            .collect(),
        ..Default::default()
    }
}

/// Answers FindCoordinator: there are no groups and transactions here, which a client takes as "not yet".
pub fn find_coordinator(request: &FindCoordinatorRequest, version: i16) -> FindCoordinatorResponse {
    let error_code = ErrorCode::COORDINATOR_NOT_AVAILABLE;
    let message = "this broker coordinates no groups and no transactions";
    let none = FindCoordinatorResponse { node_id: -1, port: -1, ..Default::default() };
    if version < MANY_KEYS_FIRST {
        return FindCoordinatorResponse { error_code, error_message: Some(message.into()), ..none };
    }
    let coordinators = request.coordinator_keys.iter().map(|key| Coordinator {
        key: key.clone(),
        node_id: -1,
        host: String::new(),
        port: -1,
        error_code,
        error_message: Some(message.into()),
    });
    FindCoordinatorResponse { coordinators: coordinators.collect(), ..none }
}
