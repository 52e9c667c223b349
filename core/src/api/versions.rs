//! ApiVersions and FindCoordinator.

use milena_wire::messages::api_versions::{ApiVersion, ApiVersionsRequest, ApiVersionsResponse};
use milena_wire::messages::find_coordinator::{
    Coordinator, FindCoordinatorRequest, FindCoordinatorResponse,
};
use milena_wire::{ErrorCode, supported_versions};

use super::is_unknown;
use crate::Config;
use crate::image::Image;

/// The first version of FindCoordinator that asks for several keys.
const MANY_KEYS_FIRST: i16 = 4;

/// `key_type` of consumer groups.
const KEY_TYPE_GROUP: i8 = 0;
/// `key_type` of transactions.
const KEY_TYPE_TRANSACTION: i8 = 1;

/// The first version of ApiVersions in which a client says what it is.
const SOFTWARE_FIRST: i16 = 3;
/// `node_id` of a client that does not say which broker it means to reach.
const NO_NODE: i32 = -1;

/// Answers ApiVersions: what this program speaks, or the advice to look for brokers anew, to a client that means to reach
/// another cluster or another node than this one.
pub fn api_versions(
    image: &Image,
    config: &Config,
    request: &ApiVersionsRequest,
    version: i16,
) -> ApiVersionsResponse {
    let refuse = |error_code| ApiVersionsResponse { error_code, ..Default::default() };
    let ApiVersionsRequest { client_software_name, client_software_version, cluster_id, node_id } =
        request;
    let named = is_software(client_software_name) && is_software(client_software_version);
    if version >= SOFTWARE_FIRST && !named {
        return refuse(ErrorCode::INVALID_REQUEST);
    }
    match (cluster_id, *node_id) {
        (None, NO_NODE) => {}
        (None, _) | (Some(_), NO_NODE) => return refuse(ErrorCode::INVALID_REQUEST),
        (Some(cluster), node) => {
            let here =
                is_unknown(image) || *cluster == crate::cluster_id(image.cluster).to_string();
            if !here || node != config.node.0 {
                return refuse(ErrorCode::REBOOTSTRAP_REQUIRED);
            }
        }
    }
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

/// Whether a client may call its software or its version so: letters and digits, between them dots and hyphens.
fn is_software(name: &str) -> bool {
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let outer = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    outer(bytes.first()) && outer(bytes.last()) && bytes.iter().all(inner)
}

/// Answers FindCoordinator: there are no groups and no transactions here.
///
/// On UNSUPPORTED_VERSION librdkafka tells the application, once, and Java's consumer, its admin client, kafkajs,
/// kafka-python and aiokafka give up at once, and it is what is the case. COORDINATOR_NOT_AVAILABLE makes each of them ask
/// for ever; GROUP_AUTHORIZATION_FAILED and INVALID_REQUEST stop them too, but send people to look for rights that nobody
/// has to be given, or for a mistake in the client.
pub fn find_coordinator(request: &FindCoordinatorRequest, version: i16) -> FindCoordinatorResponse {
    let (error_code, message) = match request.key_type {
        KEY_TYPE_GROUP | KEY_TYPE_TRANSACTION => {
            let message = "this broker coordinates no groups and no transactions";
            (ErrorCode::UNSUPPORTED_VERSION, message)
        }
        _ => (ErrorCode::INVALID_REQUEST, "this broker knows no coordinators of this type"),
    };
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
