//! An independent codec as judge: the bytes of every message, in every version both know, are what `kafka-protocol`
//! writes for the same message, and each side reads what the other wrote.

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        self as theirs, RequestHeader as TheirRequestHeader, ResponseHeader as TheirResponseHeader,
    },
    protocol::{Decodable, Encodable, HeaderVersion, Message},
    records as their_records,
};
use milena_wire::{
    ApiKey, ErrorCode, Request, RequestHeader, Response,
    batch::{self, BatchBuilder, Compression, DecompressLimit},
    decode_request, decode_response, encode_request, encode_response,
    sample::Source,
};
use proptest::prelude::*;

/// Reads `bytes` as `T` and writes what was read. Panics if any byte is left over.
fn through<T: Decodable + Encodable + Message + Debug>(bytes: &[u8], version: i16) -> Vec<u8> {
    // Version 11 of ListOffsets, which they do not know yet, is version 10 with one more special timestamp.
    let version = version.min(T::VERSIONS.max);
    let mut input = Bytes::copy_from_slice(bytes);
    let message = T::decode(&mut input, version).expect("they read it");
    assert!(input.is_empty(), "{} bytes left", input.len());
    // They would pass on a tag they do not know, and hide that ours is wrong.
    let known = format!("{message:?}").replace("unknown_tagged_fields: {}", "");
    assert!(!known.contains("unknown_tagged_fields"), "a tag they do not know: {known}");
    let mut output = BytesMut::new();
    message.encode(&mut output, version).expect("they write it");
    output.to_vec()
}

/// For each API: a request or response body through their codec, and the version of the header that goes with it.
macro_rules! oracle {
    ($($name:ident $request:ident $response:ident,)*) => {
        fn request_through(api_key: ApiKey, bytes: &[u8], version: i16) -> (Vec<u8>, i16) {
            match api_key {
                $(ApiKey::$name => {
                    (through::<theirs::$request>(bytes, version), theirs::$request::header_version(version))
                })*
            }
        }

        fn response_through(api_key: ApiKey, bytes: &[u8], version: i16) -> (Vec<u8>, i16) {
            match api_key {
                $(ApiKey::$name => {
                    (through::<theirs::$response>(bytes, version), theirs::$response::header_version(version))
                })*
            }
        }

        fn their_versions(api_key: ApiKey) -> (i16, i16) {
            match api_key {
                $(ApiKey::$name => {
                    let (request, response) = (theirs::$request::VERSIONS, theirs::$response::VERSIONS);
                    assert_eq!(request, response);
                    (request.min, request.max)
                })*
            }
        }
    };
}

oracle! {
    Produce ProduceRequest ProduceResponse,
    Fetch FetchRequest FetchResponse,
    ListOffsets ListOffsetsRequest ListOffsetsResponse,
    Metadata MetadataRequest MetadataResponse,
    FindCoordinator FindCoordinatorRequest FindCoordinatorResponse,
    ApiVersions ApiVersionsRequest ApiVersionsResponse,
    CreateTopics CreateTopicsRequest CreateTopicsResponse,
    DeleteTopics DeleteTopicsRequest DeleteTopicsResponse,
    InitProducerId InitProducerIdRequest InitProducerIdResponse,
    OffsetForLeaderEpoch OffsetForLeaderEpochRequest OffsetForLeaderEpochResponse,
    DescribeConfigs DescribeConfigsRequest DescribeConfigsResponse,
    CreatePartitions CreatePartitionsRequest CreatePartitionsResponse,
    DescribeQuorum DescribeQuorumRequest DescribeQuorumResponse,
    DescribeCluster DescribeClusterRequest DescribeClusterResponse,
    DescribeProducers DescribeProducersRequest DescribeProducersResponse,
    ListConfigResources ListConfigResourcesRequest ListConfigResourcesResponse,
    DescribeTopicPartitions DescribeTopicPartitionsRequest DescribeTopicPartitionsResponse,
}

fn versions() -> impl Iterator<Item = (ApiKey, i16)> {
    ApiKey::ALL.iter().flat_map(|&api_key| {
        let (first, last) = api_key.versions();
        // Version 5 of ApiVersions has fields that they do not know yet.
        let last = if api_key == ApiKey::ApiVersions { 4 } else { last };
        (first..=last).map(move |version| (api_key, version))
    })
}

fn header_through<T: Decodable + Encodable>(bytes: &[u8], version: i16) -> Vec<u8> {
    let mut input = Bytes::copy_from_slice(bytes);
    let header = T::decode(&mut input, version).expect("they read the header");
    assert!(input.is_empty());
    let mut output = BytesMut::new();
    header.encode(&mut output, version).expect("they write the header");
    output.to_vec()
}

proptest! {
    #[test]
    fn requests(seed: u64, named: bool) {
        for (api_key, api_version) in versions() {
            let request = Request::sample(api_key, &mut Source::new(seed), api_version);
            let body = request.encode(api_version).concat();
            let (their_body, header_version) = request_through(api_key, &body, api_version);
            prop_assert_eq!(&their_body, &body, "{:?} version {}", api_key, api_version);

            let header = RequestHeader {
                api_key: api_key as i16,
                api_version,
                correlation_id: seed as i32,
                client_id: named.then(|| "a client".to_owned()),
            };
            let frame = encode_request(&header, &request).concat();
            let (head, tail) = frame.split_at(frame.len() - body.len());
            prop_assert_eq!(tail, &body);
            prop_assert_eq!(header_through::<TheirRequestHeader>(head, header_version), head);
            let their_frame = [head, &their_body].concat();
            prop_assert_eq!(decode_request(their_frame.into()), Ok((header, request)));
        }
    }

    #[test]
    fn responses(seed: u64) {
        for (api_key, version) in versions() {
            let response = Response::sample(api_key, &mut Source::new(seed), version);
            let body = response.encode(version).concat();
            let (their_body, header_version) = response_through(api_key, &body, version);
            prop_assert_eq!(&their_body, &body, "{:?} version {}", api_key, version);

            let frame = encode_response(seed as i32, version, &response).concat();
            let (head, tail) = frame.split_at(frame.len() - body.len());
            prop_assert_eq!(tail, &body);
            prop_assert_eq!(header_through::<TheirResponseHeader>(head, header_version), head);
            let their_frame = [head, &their_body].concat();
            prop_assert_eq!(decode_response(api_key, version, their_frame.into()), Ok((seed as i32, response)));
        }
    }
}

#[test]
fn version_ranges_are_theirs() {
    for &api_key in ApiKey::ALL {
        let expected = match api_key {
            ApiKey::ListOffsets => (1, 11),
            ApiKey::ApiVersions => (0, 5),
            // Kafka calls version 6 unstable.
            ApiKey::InitProducerId => (0, 5),
            _ => their_versions(api_key),
        };
        assert_eq!(api_key.versions(), expected, "{api_key:?}");
    }
}

#[test]
fn error_names_are_theirs() {
    let plain = |name: &str| name.replace('_', "").to_lowercase();
    let mut compared = 0;
    for code in -1..200 {
        let their_name =
            kafka_protocol::ResponseError::try_from_code(code).map(|error| format!("{error:?}"));
        if let Some(their_name) = their_name.filter(|name| !name.starts_with("Unknown(")) {
            let name = ErrorCode(code).name().unwrap_or_else(|| panic!("{code} is {their_name}"));
            assert_eq!(plain(name), plain(&their_name), "{code}");
            compared += 1;
        }
    }
    assert!(compared > 100, "{compared}");
}

#[derive(Debug, Clone)]
struct Content {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

prop_compose! {
    fn content()(
        timestamp in 0..2_000_000_000_000i64,
        key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
        value in proptest::option::of(proptest::collection::vec(0..4u8, 0..2_000)),
        // Names differ, since they keep headers in a map.
        names in proptest::collection::btree_set("[a-z]{0,8}", 0..4),
        header_value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
    ) -> Content {
        Content { timestamp, key, value, headers: names.into_iter().map(|name| (name, header_value.clone())).collect() }
    }
}

fn their_compression(compression: Compression) -> their_records::Compression {
    match compression {
        Compression::None => their_records::Compression::None,
        Compression::Gzip => their_records::Compression::Gzip,
        Compression::Snappy => their_records::Compression::Snappy,
        Compression::Lz4 => their_records::Compression::Lz4,
        Compression::Zstd => their_records::Compression::Zstd,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn batches(
        base_offset in 0..i64::from(i32::MAX),
        contents in proptest::collection::vec(content(), 1..40),
        codec in 0..5usize,
    ) {
        let compression = Compression::ALL[codec];
        let mut builder = BatchBuilder::new(base_offset, 5, compression);
        builder.producer(77, 2, 100);
        for content in &contents {
            let headers: Vec<_> =
                content.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
            builder.append(content.timestamp, content.key.as_deref(), content.value.as_deref(), &headers);
        }
        let ours = builder.build();
        batch::validate(&ours).expect("valid");
        let mut sent = ours.to_vec();
        // A producer's offsets begin at 0.
        sent[..8].fill(0);
        batch::validate_produce(&sent, DecompressLimit(1 << 20), &batch::TimestampRules::ANY).expect("valid");

        // They read ours.
        let set = their_records::RecordBatchDecoder::decode(&mut ours.clone()).expect("they read it");
        prop_assert_eq!(set.records.len(), contents.len());
        for (index, (record, content)) in set.records.iter().zip(&contents).enumerate() {
            prop_assert_eq!(record.offset, base_offset + index as i64);
            prop_assert_eq!(record.timestamp, content.timestamp);
            prop_assert_eq!(record.key.as_deref(), content.key.as_deref());
            prop_assert_eq!(record.value.as_deref(), content.value.as_deref());
            prop_assert_eq!(record.headers.len(), content.headers.len());
            prop_assert_eq!((record.producer_id, record.producer_epoch), (77, 2));
            prop_assert_eq!(record.partition_leader_epoch, 5);
        }

        // We read theirs, and it is ours but for compressed bytes and what they choose as base timestamp.
        let mut theirs = BytesMut::new();
        let options = their_records::RecordEncodeOptions { version: 2, compression: their_compression(compression) };
        their_records::RecordBatchEncoder::encode(&mut theirs, &set.records, &options).expect("they write it");
        let theirs = theirs.freeze();
        batch::validate(&theirs).expect("valid");
        let limit = DecompressLimit(1 << 20);
        prop_assert_eq!(batch::records(&theirs, limit), batch::records(&ours, limit));
        if compression == Compression::None {
            let header = batch::BatchHeader::parse(&ours).expect("valid");
            let their_header = batch::BatchHeader::parse(&theirs).expect("valid");
            if header.base_timestamp == their_header.base_timestamp {
                prop_assert_eq!(&ours, &theirs);
            }
        }
    }
}
