//! InitProducerId: what is refused of it. An id comes from the machine `Metadata`.

use milena_wire::ErrorCode;
use milena_wire::messages::init_producer_id::{
    InitProducerIdRequest, InitProducerIdResponse, NO_PRODUCER_EPOCH, NO_PRODUCER_ID,
};

/// The answer to a request that gets no id. As in Kafka, who only wants each record written once gets a new id also where it
/// names the one that it had.
///
/// There are no transactions here. UNSUPPORTED_VERSION is what FindCoordinator says of that, which a client with a
/// transactional id asks first; on it those that come here all the same stop as well, since it is not one that they try again.
pub fn refuse_init_producer_id(request: &InitProducerIdRequest) -> Option<InitProducerIdResponse> {
    let id = request.producer_id != NO_PRODUCER_ID;
    let epoch = request.producer_epoch != NO_PRODUCER_EPOCH;
    let error_code = match request.transactional_id.as_deref() {
        _ if id != epoch => ErrorCode::INVALID_REQUEST,
        Some("") => ErrorCode::INVALID_REQUEST,
        Some(_) => ErrorCode::UNSUPPORTED_VERSION,
        None => return None,
    };
    let producer_epoch = NO_PRODUCER_EPOCH;
    Some(InitProducerIdResponse { error_code, producer_epoch, ..Default::default() })
}
