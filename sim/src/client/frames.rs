//! Requests and answers as a socket would carry them: through the wire's encoder and decoder, at the version that the client
//! speaks, so that what a version cannot say is lost here as it is there.

use bytes::{Bytes, BytesMut};
use milena_wire::{
    Request, RequestHeader, Response, decode_request, decode_response, encode_request,
    encode_response,
};

use crate::check::Violation;

const CORRELATION: i32 = 7;

/// What a broker reads of a request.
///
/// # Errors
/// If it cannot be read.
pub fn request(version: i16, request: &Request) -> Result<Request, Violation> {
    let header = RequestHeader {
        api_key: request.api_key() as i16,
        api_version: version,
        correlation_id: CORRELATION,
        client_id: Some("simulated".into()),
    };
    match decode_request(joined(encode_request(&header, request))) {
        Ok((read, request)) if read == header => Ok(request),
        other => Err(Violation::new(
            "encoding",
            format!("{request:?} in version {version} came back as {other:?}"),
        )),
    }
}

/// What a client reads of an answer.
///
/// # Errors
/// If it cannot be read.
pub fn response(version: i16, response: &Response) -> Result<Response, Violation> {
    let api = response.api_key();
    if !api.supports(version) {
        return Err(Violation::new(
            "answer",
            format!("a request in version {version} was answered by {response:?}"),
        ));
    }
    match decode_response(api, version, joined(encode_response(CORRELATION, version, response))) {
        Ok((CORRELATION, response)) => Ok(response),
        other => Err(Violation::new(
            "encoding",
            format!("{response:?} in version {version} came back as {other:?}"),
        )),
    }
}

fn joined(pieces: Vec<Bytes>) -> Bytes {
    let mut frame = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| frame.extend_from_slice(piece));
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use milena_wire::Uuid;
    use milena_wire::messages::fetch::{FetchableTopicResponse, PartitionData};
    use milena_wire::messages::{FetchResponse, OffsetForLeaderEpochResponse};

    use super::*;

    #[test]
    fn what_a_version_cannot_say_is_lost() {
        let partition = PartitionData { preferred_read_replica: 3, ..PartitionData::default() };
        let topic = FetchableTopicResponse {
            topic: "t".into(),
            topic_id: Uuid([1; 16]),
            partitions: vec![partition],
        };
        let sent: Response =
            FetchResponse { responses: vec![topic], ..FetchResponse::default() }.into();
        let read = |version| match response(version, &sent) {
            Ok(Response::Fetch(read)) => {
                let topic = &read.responses[0];
                let replica = topic.partitions[0].preferred_read_replica;
                (topic.topic.clone(), topic.topic_id, replica)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(read(4), ("t".into(), Uuid::ZERO, -1));
        assert_eq!(read(12), ("t".into(), Uuid::ZERO, 3));
        assert_eq!(read(13), (String::new(), Uuid([1; 16]), 3));
    }

    #[test]
    fn an_answer_that_its_version_does_not_know_is_noticed() {
        let answer = OffsetForLeaderEpochResponse::default().into();
        assert_eq!(response(9, &answer).map_err(|violation| violation.property), Err("answer"));
    }
}
