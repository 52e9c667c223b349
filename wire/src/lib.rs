//! Kafka messages as Rust types, their bounded codec, and record batches.
//!
//! A message is a struct whose fields carry the versions that have them ([`messages`]); a derive macro writes its
//! codec. What arrives is never trusted: no input panics, allocates what it merely declares, or loops ([`codec`]).
//! Record batches ([`batch`]) are checked and patched as bytes and opened only when somebody needs their records.
//!
//! What this crate does not do: sockets, length prefixes, and the meaning of any message.

pub mod api;
mod api_names;
pub mod batch;
pub mod codec;
mod error_code;
#[cfg(feature = "testing")]
pub mod forge;
pub mod messages;
mod primitives;
#[cfg(feature = "testing")]
pub mod sample;
#[cfg(feature = "testing")]
pub mod shape;
mod uuid;

pub use api::{
    ApiKey, Request, RequestError, RequestHeader, Response, decode_request,
    decode_request_counting, decode_response, encode_request, encode_response, supported_versions,
    unsupported_api_versions_response,
};
pub use codec::DecodeError;
pub use error_code::ErrorCode;
pub use primitives::Records;
pub use uuid::{Uuid, UuidError};
