//! Requests and responses as enums, and their frames.
//!
//! One row of `each_api!`, beside the messages, makes an API known: its key, its range of versions (from the types),
//! encoding and decoding. A frame here is what stands between two length prefixes: a header, then a body whose form the
//! header's version fixes.

use bytes::Bytes;

use crate::ErrorCode;
use crate::api_names::ApiName;
use crate::codec::{Codec, DecodeError, Decoder, Encoder, TopLevel};
use crate::messages::api_versions::ApiVersion;
use crate::messages::*;

/// Client libraries take the codecs a broker knows from the range of Produce, so Kafka advertises it from version 0
/// although it refuses 0 to 2.
const PRODUCE_VERSION_MIN_ADVERTISED: i16 = 0;

macro_rules! apis {
    ($($name:ident = $key:literal ($request:ident, $response:ident),)*) => {
        /// The APIs this crate speaks, by Kafka's numbers.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        pub enum ApiKey {
            $(
                #[doc = concat!("[`", stringify!($request), "`] and [`", stringify!($response), "`].")]
                $name = $key,
            )*
        }

        impl ApiKey {
            /// Every API, by number.
            pub const ALL: &[ApiKey] = &[$(ApiKey::$name),*];

            /// The API of a number, if this crate speaks it.
            pub fn from_number(number: i16) -> Option<ApiKey> {
                match number {
                    $($key => Some(ApiKey::$name),)*
                    _ => None,
                }
            }

            /// First and last version that can be encoded and decoded.
            pub fn versions(self) -> (i16, i16) {
                match self {
                    $(ApiKey::$name => (<$request>::VERSION_MIN, <$request>::VERSION_MAX),)*
                }
            }

            /// Of what a request and a response consist.
            #[cfg(feature = "testing")]
            pub fn shapes(self) -> [crate::shape::Kind; 2] {
                use crate::shape::Shaped;
                match self {
                    $(ApiKey::$name => [$request::kind(), $response::kind()],)*
                }
            }

            /// Whether `version` has compact lengths and tagged fields.
            pub fn is_flexible(self, version: i16) -> bool {
                match self {
                    $(ApiKey::$name => version >= <$request>::FLEXIBLE_MIN,)*
                }
            }
        }

        $(const _: () = {
            assert!(<$request>::API_KEY == $key && <$response>::API_KEY == $key);
            assert!(<$request>::VERSION_MIN == <$response>::VERSION_MIN);
            assert!(<$request>::VERSION_MAX == <$response>::VERSION_MAX);
            assert!(<$request>::FLEXIBLE_MIN == <$response>::FLEXIBLE_MIN);
        };)*

        /// The body of a request.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs)]
        pub enum Request {
            $($name($request),)*
        }

        /// The body of a response.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs)]
        pub enum Response {
            $($name($response),)*
        }

        impl Request {
            /// The API this is a request of.
            pub fn api_key(&self) -> ApiKey {
                match self {
                    $(Request::$name(_) => ApiKey::$name,)*
                }
            }

            fn write(&self, out: &mut Encoder) {
                match self {
                    $(Request::$name(body) => body.encode(out),)*
                }
            }

            fn read(api_key: ApiKey, input: &mut Decoder) -> Result<Request, DecodeError> {
                match api_key {
                    $(ApiKey::$name => Codec::decode(input).map(Request::$name),)*
                }
            }

            /// An arbitrary request that `version` can carry.
            #[cfg(feature = "testing")]
            pub fn sample(api_key: ApiKey, source: &mut crate::sample::Source, version: i16) -> Request {
                match api_key {
                    $(ApiKey::$name => Request::$name(crate::sample::Sample::sample(source, version)),)*
                }
            }
        }

        impl Response {
            /// The API this is a response of.
            pub fn api_key(&self) -> ApiKey {
                match self {
                    $(Response::$name(_) => ApiKey::$name,)*
                }
            }

            /// Gives each error code of the answer, of the whole and of its parts, also those that say that nothing went
            /// wrong.
            pub fn errors(&self, each: &mut dyn FnMut(ErrorCode)) {
                match self {
                    $(Response::$name(body) => body.errors(each),)*
                }
            }

            fn write(&self, out: &mut Encoder) {
                match self {
                    $(Response::$name(body) => body.encode(out),)*
                }
            }

            fn read(api_key: ApiKey, input: &mut Decoder) -> Result<Response, DecodeError> {
                match api_key {
                    $(ApiKey::$name => Codec::decode(input).map(Response::$name),)*
                }
            }

            /// An arbitrary response that `version` can carry.
            #[cfg(feature = "testing")]
            pub fn sample(api_key: ApiKey, source: &mut crate::sample::Source, version: i16) -> Response {
                match api_key {
                    $(ApiKey::$name => Response::$name(crate::sample::Sample::sample(source, version)),)*
                }
            }
        }

        $(
            impl From<$request> for Request {
                fn from(body: $request) -> Request {
                    Request::$name(body)
                }
            }

            impl From<$response> for Response {
                fn from(body: $response) -> Response {
                    Response::$name(body)
                }
            }
        )*
    };
}

each_api!(apis);

impl ApiKey {
    /// Whether `version` can be encoded and decoded.
    pub fn supports(self, version: i16) -> bool {
        let (first, last) = self.versions();
        (first..=last).contains(&version)
    }

    fn check(self, version: i16) -> Result<(), DecodeError> {
        if self.supports(version) {
            Ok(())
        } else {
            Err(DecodeError::Unsupported { api_key: self as i16, api_version: version })
        }
    }

    /// A response header ends with tagged fields in flexible versions, but never for ApiVersions: a client must be able
    /// to read that reply before it knows what the broker speaks.
    fn response_header_has_tags(self, version: i16) -> bool {
        self != ApiKey::ApiVersions && self.is_flexible(version)
    }
}

/// What precedes the body of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeader {
    /// Kafka's number of the API.
    pub api_key: i16,
    /// The version of the body, and of the response.
    pub api_version: i16,
    /// A number the response repeats.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: Option<String>,
}

/// Why a frame cannot be answered as a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A version of ApiVersions that is newer than ours. The one case with an answer: the body of
    /// [`unsupported_api_versions_response`], encoded in version 0, on a connection that stays open.
    #[error("ApiVersions in a version that is not supported")]
    UnsupportedApiVersions {
        /// Of the request.
        correlation_id: i32,
    },
    /// Another API or version that is not served. Kafka closes the connection.
    #[error("version {api_version} of {} is not supported", ApiName(*api_key))]
    Unsupported {
        /// Kafka's number of the API.
        api_key: i16,
        /// The version asked for.
        api_version: i16,
        /// Of the request.
        correlation_id: i32,
    },
    /// Not a request at all. Kafka closes the connection.
    #[error("malformed request: {0}")]
    Malformed(#[from] DecodeError),
}

impl Request {
    /// The body alone, as segments.
    ///
    /// # Panics
    /// If the version is not supported.
    pub fn encode(&self, version: i16) -> Vec<Bytes> {
        let mut out = encoder(self.api_key(), version);
        self.write(&mut out);
        out.finish()
    }
}

impl Response {
    /// The body alone, as segments.
    ///
    /// # Panics
    /// If the version is not supported.
    pub fn encode(&self, version: i16) -> Vec<Bytes> {
        let mut out = encoder(self.api_key(), version);
        self.write(&mut out);
        out.finish()
    }
}

fn encoder(api_key: ApiKey, version: i16) -> Encoder {
    assert!(api_key.supports(version), "{api_key:?} has no version {version}");
    Encoder::new(version, api_key.is_flexible(version))
}

/// Decodes one frame, without its length prefix. Record bytes are slices of `frame`.
pub fn decode_request(frame: Bytes) -> Result<(RequestHeader, Request), RequestError> {
    decode_request_counting(frame).map(|(header, request, _trailing)| (header, request))
}

/// As [`decode_request`], and tells how many bytes followed the body. Kafka tolerates them; they deserve a metric.
pub fn decode_request_counting(
    frame: Bytes,
) -> Result<(RequestHeader, Request, usize), RequestError> {
    let mut input = Decoder::new(frame);
    let number = input.i16()?;
    let api_version = input.i16()?;
    let correlation_id = input.i32()?;
    let unsupported = RequestError::Unsupported { api_key: number, api_version, correlation_id };
    let Some(api_key) = ApiKey::from_number(number) else { return Err(unsupported) };
    if !api_key.supports(api_version) {
        let answerable = api_key == ApiKey::ApiVersions;
        return Err(if answerable {
            RequestError::UnsupportedApiVersions { correlation_id }
        } else {
            unsupported
        });
    }
    // The client's name keeps its old form in the flexible header.
    let client_id = input.lossy_string()?;
    input.set_version(api_version, api_key.is_flexible(api_version));
    if input.flexible() {
        input.tagged_fields(|_tag, input| {
            input.skip_rest();
            Ok(())
        })?;
    }
    let request = Request::read(api_key, &mut input)?;
    let header = RequestHeader { api_key: number, api_version, correlation_id, client_id };
    Ok((header, request, input.remaining()))
}

/// Encodes a frame, without its length prefix. `header` names the API and version of `request`.
///
/// # Panics
/// If it does not, or the version is not supported.
pub fn encode_request(header: &RequestHeader, request: &Request) -> Vec<Bytes> {
    assert_eq!(header.api_key, request.api_key() as i16, "the header names another API");
    let mut out = encoder(request.api_key(), header.api_version);
    out.put_i16(header.api_key);
    out.put_i16(header.api_version);
    out.put_i32(header.correlation_id);
    out.put_classic_string(header.client_id.as_deref());
    if out.flexible() {
        out.unsigned_varint(0);
    }
    request.write(&mut out);
    out.finish()
}

/// Encodes a frame, without its length prefix, as segments to be sent one after another. Record bytes are not copied:
/// they are segments of their own.
///
/// # Panics
/// If the version is not supported.
pub fn encode_response(correlation_id: i32, version: i16, response: &Response) -> Vec<Bytes> {
    let mut out = encoder(response.api_key(), version);
    out.put_i32(correlation_id);
    if response.api_key().response_header_has_tags(version) {
        out.unsigned_varint(0);
    }
    response.write(&mut out);
    out.finish()
}

/// Decodes the frame of a response, without its length prefix, to a request of `api_key` and `version`; the number is
/// the correlation id.
pub fn decode_response(
    api_key: ApiKey,
    version: i16,
    frame: Bytes,
) -> Result<(i32, Response), DecodeError> {
    api_key.check(version)?;
    let mut input = Decoder::new(frame);
    input.set_version(version, api_key.is_flexible(version));
    let correlation_id = input.i32()?;
    if api_key.response_header_has_tags(version) {
        input.tagged_fields(|_tag, input| {
            input.skip_rest();
            Ok(())
        })?;
    }
    Response::read(api_key, &mut input).map(|response| (correlation_id, response))
}

/// What an ApiVersions reply advertises: APIs with their first and last version, by number.
pub fn supported_versions() -> impl Iterator<Item = (ApiKey, i16, i16)> {
    ApiKey::ALL.iter().map(|&api_key| match (api_key, api_key.versions()) {
        (ApiKey::Produce, (_, last)) => (api_key, PRODUCE_VERSION_MIN_ADVERTISED, last),
        (_, (first, last)) => (api_key, first, last),
    })
}

/// The answer to ApiVersions in a version we do not know, to be encoded in version 0: the error, and the range of
/// ApiVersions itself, from which clients choose what to try next.
pub fn unsupported_api_versions_response() -> ApiVersionsResponse {
    let (min_version, max_version) = ApiKey::ApiVersions.versions();
    ApiVersionsResponse {
        error_code: ErrorCode::UNSUPPORTED_VERSION,
        api_keys: vec![ApiVersion {
            api_key: ApiKey::ApiVersions as i16,
            min_version,
            max_version,
        }],
        ..Default::default()
    }
}
