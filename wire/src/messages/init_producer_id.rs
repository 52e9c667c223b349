//! InitProducerId: an id and an epoch for a producer that writes each record once.

use milena_wire_derive::Message;

use crate::ErrorCode;

/// `producer_id` of who has none.
pub const NO_PRODUCER_ID: i64 = -1;
/// `producer_epoch` of who has none.
pub const NO_PRODUCER_EPOCH: i16 = -1;

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 22, versions = "0-5", flexible = "2+")]
pub struct InitProducerIdRequest {
    /// Null for a producer that only wants to write each record once.
    #[field(nullable = "0+", default = "Some(String::new())")]
    pub transactional_id: Option<String>,
    pub transaction_timeout_ms: i32,
    /// The id that the producer has and wants a higher epoch of, or -1.
    #[field(versions = "3+", default = "NO_PRODUCER_ID")]
    pub producer_id: i64,
    #[field(versions = "3+", default = "NO_PRODUCER_EPOCH")]
    pub producer_epoch: i16,
}

#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[message(api_key = 22, versions = "0-5", flexible = "2+")]
pub struct InitProducerIdResponse {
    pub throttle_time_ms: i32,
    pub error_code: ErrorCode,
    #[field(default = "NO_PRODUCER_ID")]
    pub producer_id: i64,
    pub producer_epoch: i16,
}
