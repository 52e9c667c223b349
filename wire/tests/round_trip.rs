//! Every message survives being written and read again, in every version.

use bytes::Bytes;
use milena_wire::{
    ApiKey, ErrorCode, Request, RequestError, RequestHeader, Response, decode_request,
    decode_request_counting, decode_response, encode_request, encode_response,
    messages::{ApiVersionsRequest, CreateTopicsResponse, create_topics::CreatableTopicResult},
    sample::Source,
    supported_versions, unsupported_api_versions_response,
};

fn versions() -> impl Iterator<Item = (ApiKey, i16)> {
    ApiKey::ALL.iter().flat_map(|&api_key| {
        let (first, last) = api_key.versions();
        (first..=last).map(move |version| (api_key, version))
    })
}

#[test]
fn requests() {
    for (api_key, version) in versions() {
        for seed in 0..100 {
            let request = Request::sample(api_key, &mut Source::new(seed), version);
            let header = RequestHeader {
                api_key: api_key as i16,
                api_version: version,
                correlation_id: seed as i32,
                client_id: (seed % 2 == 0).then(|| "client".to_owned()),
            };
            let frame = encode_request(&header, &request).concat();
            assert_eq!(
                decode_request(frame.into()),
                Ok((header, request)),
                "{api_key:?} {version} seed {seed}"
            );
        }
    }
}

#[test]
fn responses() {
    for (api_key, version) in versions() {
        for seed in 0..100 {
            let response = Response::sample(api_key, &mut Source::new(seed), version);
            let frame = encode_response(seed as i32, version, &response).concat();
            let decoded = decode_response(api_key, version, frame.into());
            assert_eq!(decoded, Ok((seed as i32, response)), "{api_key:?} {version} seed {seed}");
        }
    }
}

#[test]
fn trailing_bytes_are_counted() {
    let header = RequestHeader { api_key: 18, api_version: 3, correlation_id: 1, client_id: None };
    let mut frame =
        encode_request(&header, &Request::ApiVersions(ApiVersionsRequest::default())).concat();
    frame.extend_from_slice(&[1, 2, 3]);
    let (_, _, trailing) =
        decode_request_counting(frame.into()).expect("trailing bytes are tolerated");
    assert_eq!(trailing, 3);
}

#[test]
fn unknown_versions_are_told_apart() {
    let frame = |api_key: i16, version: i16| {
        let mut frame = Vec::new();
        frame.extend_from_slice(&api_key.to_be_bytes());
        frame.extend_from_slice(&version.to_be_bytes());
        frame.extend_from_slice(&77i32.to_be_bytes());
        Bytes::from(frame)
    };
    assert_eq!(
        decode_request(frame(18, 6)),
        Err(RequestError::UnsupportedApiVersions { correlation_id: 77 })
    );
    for (api_key, api_version) in [(0, 2), (0, 14), (4, 0), (1000, 0), (-1, 0), (1, -1)] {
        assert_eq!(
            decode_request(frame(api_key, api_version)),
            Err(RequestError::Unsupported { api_key, api_version, correlation_id: 77 })
        );
    }
    let answer = encode_response(77, 0, &unsupported_api_versions_response().into()).concat();
    // Correlation id, error 35, one API: 18 from 0 to 5.
    assert_eq!(answer, [0, 0, 0, 77, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 5]);
}

#[test]
fn produce_is_advertised_from_zero() {
    let advertised: Vec<_> = supported_versions().collect();
    assert_eq!(advertised[0], (ApiKey::Produce, 0, 13));
    assert!(advertised.contains(&(ApiKey::Fetch, 4, 18)));
    assert!(advertised.is_sorted());
}

#[test]
fn unknown_errors_survive() {
    assert_eq!(format!("{:?}", ErrorCode::NOT_LEADER_OR_FOLLOWER), "NOT_LEADER_OR_FOLLOWER");
    assert_eq!(format!("{:?}", ErrorCode(9999)), "ErrorCode(9999)");
}

/// A message may quote what a client sent and add to it. Whoever wrote it, encoding it takes down no broker.
#[test]
fn a_string_above_the_limit_is_cut_and_never_a_panic() {
    for version in [3, 4, 5] {
        let message = format!("{}ä!", "x".repeat(32_766));
        let response = CreateTopicsResponse {
            topics: vec![CreatableTopicResult {
                error_message: Some(message),
                ..CreatableTopicResult::default()
            }],
            ..CreateTopicsResponse::default()
        };
        let frame = encode_response(1, version, &response.into()).concat();
        let Ok((_, Response::CreateTopics(decoded))) =
            decode_response(ApiKey::CreateTopics, version, frame.into())
        else {
            panic!("not a response in version {version}");
        };
        let expected = "x".repeat(32_766);
        assert_eq!(decoded.topics[0].error_message.as_deref(), Some(&*expected), "{version}");
    }
}
