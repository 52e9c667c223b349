//! A small blocking Kafka client, for the command line and the benchmark: our own wire crate over one socket per broker.
//!
//! It finds leaders in the metadata and outlives restarts: what may pass is tried again for as long as its time lasts. It is
//! no library: no groups.

mod patience;

use std::collections::BTreeMap;
use std::io::{self, IoSlice, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use milena_wire::messages::{
    ApiVersionsRequest, DescribeClusterRequest, DescribeClusterResponse, InitProducerIdRequest,
    MetadataRequest, MetadataResponse,
    metadata::{MetadataRequestTopic, MetadataResponseTopic},
};
use milena_wire::{
    ApiKey, ErrorCode, Request, RequestHeader, Response, decode_response, encode_request,
};

pub use patience::{Final, Patience, finally};

/// Largest answer taken.
const RESPONSE_BYTES_MAX: usize = 1 << 30;
/// A broker that is there takes a connection within this.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// One answer may take this long: more than the 10 s that requests give the broker.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// A connection to one broker. Requests may be sent ahead; answers come in order.
pub struct Connection {
    stream: TcpStream,
    versions: BTreeMap<i16, (i16, i16)>,
    next_correlation: i32,
}

impl Connection {
    /// Connects and asks what the broker speaks.
    pub fn open(address: &str, timeout: Duration) -> Result<Connection> {
        let mut last = anyhow!("{address} has no address");
        for resolved in
            address.to_socket_addrs().with_context(|| format!("looking up {address}"))?
        {
            match TcpStream::connect_timeout(&resolved, timeout.min(CONNECT_MAX)) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(timeout))?;
                    stream.set_write_timeout(Some(timeout))?;
                    let versions = BTreeMap::from([(ApiKey::ApiVersions as i16, (3, 3))]);
                    let mut connection = Connection { stream, versions, next_correlation: 0 };
                    connection.negotiate().with_context(|| format!("talking to {address}"))?;
                    return Ok(connection);
                }
                Err(error) => last = anyhow!("connecting to {address}: {error}"),
            }
        }
        Err(last)
    }

    fn negotiate(&mut self) -> Result<()> {
        let request = ApiVersionsRequest {
            client_software_name: "milena".into(),
            client_software_version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        };
        let Response::ApiVersions(answer) = self.call(&request.into())? else {
            bail!("the broker answered something else");
        };
        check(answer.error_code, None)?;
        self.versions = answer
            .api_keys
            .iter()
            .map(|api| (api.api_key, (api.min_version, api.max_version)))
            .collect();
        Ok(())
    }

    /// How long an answer may take.
    pub fn set_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(timeout))
    }

    /// The newest version of an API that both sides speak.
    pub fn version(&self, api: ApiKey) -> Result<i16> {
        let (ours_first, ours_last) = api.versions();
        let (first, last) = *self
            .versions
            .get(&(api as i16))
            .ok_or_else(|| finally(format!("the broker has no {api:?}")))?;
        let version = ours_last.min(last);
        if version < ours_first.max(first) {
            return Err(finally(format!(
                "the broker speaks {api:?} {first} to {last}, this client {ours_first} to {ours_last}"
            )));
        }
        Ok(version)
    }

    /// Sends a request; the version it was sent in.
    pub fn send(&mut self, request: &Request) -> Result<i16> {
        let version = self.version(request.api_key())?;
        let header = RequestHeader {
            api_key: request.api_key() as i16,
            api_version: version,
            correlation_id: self.next_correlation,
            client_id: Some("milena".into()),
        };
        self.next_correlation = self.next_correlation.wrapping_add(1);
        let pieces = encode_request(&header, request);
        let length: usize = pieces.iter().map(Bytes::len).sum();
        let prefix = u32::try_from(length)?.to_be_bytes();
        let mut slices: Vec<IoSlice<'_>> = std::iter::once(&prefix[..])
            .chain(pieces.iter().map(|p| &p[..]))
            .map(IoSlice::new)
            .collect();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            match self.stream.write_vectored(rest) {
                Ok(0) => bail!("the broker closed the connection"),
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(version)
    }

    /// The next answer.
    pub fn receive(&mut self, api: ApiKey, version: i16) -> Result<Response> {
        let mut prefix = [0; 4];
        self.stream.read_exact(&mut prefix).map_err(readable)?;
        let length = u32::from_be_bytes(prefix) as usize;
        if length > RESPONSE_BYTES_MAX {
            bail!("an answer of {length} bytes");
        }
        // Grows as bytes come, never by what is declared.
        let mut frame = Vec::with_capacity(length.min(4 << 20));
        let read =
            (&mut self.stream).take(length as u64).read_to_end(&mut frame).map_err(readable)?;
        if read < length {
            bail!("the broker closed the connection");
        }
        let (_, response) = decode_response(api, version, frame.into())?;
        Ok(response)
    }

    /// Sends a request and waits for its answer.
    pub fn call(&mut self, request: &Request) -> Result<Response> {
        let version = self.send(request)?;
        self.receive(request.api_key(), version)
    }
}

fn readable(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => anyhow!("no answer in time"),
        io::ErrorKind::UnexpectedEof => anyhow!("the broker closed the connection"),
        _ => error.into(),
    }
}

/// An error for Kafka's error code, if it is one, and a [`Final`] one if asking again does not help; `detail` is what the
/// broker said beside it.
pub fn check(code: ErrorCode, detail: Option<&str>) -> Result<()> {
    if code.is_none() {
        return Ok(());
    }
    let name = code.name().map_or_else(|| format!("error {}", code.0), String::from);
    let line = match detail {
        Some(detail) if !detail.is_empty() => format!("{name}: {detail}"),
        _ => name,
    };
    Err(if is_passing(code) { anyhow!(line) } else { finally(line) })
}

/// The same for a topic or partition that was there before: a broker that has just started may not know it yet.
pub fn check_known(code: ErrorCode, detail: Option<&str>) -> Result<()> {
    match code {
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => bail!("UNKNOWN_TOPIC_OR_PARTITION"),
        _ => check(code, detail),
    }
}

/// Whether asking again, perhaps elsewhere, may help: what Kafka calls retriable, but for topics that may not exist.
fn is_passing(code: ErrorCode) -> bool {
    [
        ErrorCode::CORRUPT_MESSAGE,
        ErrorCode::LEADER_NOT_AVAILABLE,
        ErrorCode::NOT_LEADER_OR_FOLLOWER,
        ErrorCode::REQUEST_TIMED_OUT,
        ErrorCode::BROKER_NOT_AVAILABLE,
        ErrorCode::REPLICA_NOT_AVAILABLE,
        ErrorCode::NETWORK_EXCEPTION,
        ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode::COORDINATOR_NOT_AVAILABLE,
        ErrorCode::NOT_ENOUGH_REPLICAS,
        ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        ErrorCode::NOT_CONTROLLER,
        ErrorCode::KAFKA_STORAGE_ERROR,
        ErrorCode::FENCED_LEADER_EPOCH,
        ErrorCode::UNKNOWN_LEADER_EPOCH,
        ErrorCode::STALE_BROKER_EPOCH,
        ErrorCode::OFFSET_NOT_AVAILABLE,
        ErrorCode::UNKNOWN_TOPIC_ID,
        ErrorCode::INCONSISTENT_TOPIC_ID,
        ErrorCode::THROTTLING_QUOTA_EXCEEDED,
    ]
    .contains(&code)
}

/// A client of a cluster.
pub struct Client {
    bootstrap: Vec<String>,
    timeout: Duration,
    brokers: BTreeMap<i32, String>,
    connections: BTreeMap<String, Connection>,
    watch: patience::Watch,
}

impl Client {
    /// A client that asks these brokers first and waits in silence. Nothing is connected yet.
    pub fn new(bootstrap: Vec<String>, timeout: Duration) -> Client {
        Client::telling(bootstrap, timeout, |_| {})
    }

    /// A client that tells what it waits for, where that takes more than a second.
    pub fn telling(bootstrap: Vec<String>, timeout: Duration, tell: fn(&str)) -> Client {
        let (brokers, connections) = (BTreeMap::new(), BTreeMap::new());
        Client { bootstrap, timeout, brokers, connections, watch: patience::Watch::new(tell) }
    }

    /// A request to one address.
    pub fn at(&mut self, address: &str, request: &Request) -> Result<Response> {
        let result = self.connection(address)?.call(request);
        if result.is_err() {
            self.connections.remove(address);
        }
        result
    }

    /// A request to one address that is not answered.
    pub fn post(&mut self, address: &str, request: &Request) -> Result<()> {
        let result = self.connection(address)?.send(request);
        if result.is_err() {
            self.connections.remove(address);
        }
        result.map(drop)
    }

    /// The connection to an address, made if there is none.
    pub fn connection(&mut self, address: &str) -> Result<&mut Connection> {
        if !self.connections.contains_key(address) {
            let connection = Connection::open(address, self.timeout.min(ANSWER_MAX))?;
            self.connections.insert(address.into(), connection);
        }
        self.connections.get_mut(address).context("just connected")
    }

    /// A request to whichever broker answers first.
    pub fn any(&mut self, request: &Request) -> Result<Response> {
        let mut addresses = self.bootstrap.clone();
        addresses.extend(self.brokers.values().filter(|a| !self.bootstrap.contains(a)).cloned());
        // Who answered the last time probably does again.
        addresses.sort_by_key(|address| !self.connections.contains_key(address));
        let mut why = anyhow!("no broker is known");
        for address in addresses {
            match self.at(&address, request) {
                Ok(response) => return Ok(response),
                Err(error) => why = error,
            }
        }
        Err(why.context(
            "no broker answers; `milena dev` starts a cluster, --bootstrap or MILENA_BOOTSTRAP says where one is",
        ))
    }

    /// Whether a broker that it has spoken with has an API.
    pub fn offers(&self, api: ApiKey) -> bool {
        self.connections.values().any(|connection| connection.version(api).is_ok())
    }

    /// A new id for a producer that writes each record once, and its epoch.
    pub fn producer_id(&mut self) -> Result<(i64, i16)> {
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: i32::MAX,
            ..Default::default()
        };
        let Response::InitProducerId(answer) = self.any(&request.into())? else {
            bail!("the broker answered something else");
        };
        check(answer.error_code, None)?;
        Ok((answer.producer_id, answer.producer_epoch))
    }

    /// The brokers, the fenced ones too, and the active controller.
    pub fn cluster(&mut self) -> Result<DescribeClusterResponse> {
        let request = DescribeClusterRequest { include_fenced_brokers: true, ..Default::default() };
        let Response::DescribeCluster(answer) = self.any(&request.into())? else {
            bail!("the broker answered something else");
        };
        check(answer.error_code, answer.error_message.as_deref())?;
        Ok(answer)
    }

    /// Metadata of some topics, or of all.
    pub fn metadata(&mut self, topics: Option<&[&str]>) -> Result<MetadataResponse> {
        let named = |name: &&str| MetadataRequestTopic {
            name: Some(name.to_string()),
            ..Default::default()
        };
        let request = MetadataRequest {
            topics: topics.map(|topics| topics.iter().map(named).collect()),
            allow_auto_topic_creation: false,
            ..Default::default()
        };
        let Response::Metadata(answer) = self.any(&request.into())? else {
            bail!("the broker answered something else");
        };
        for broker in &answer.brokers {
            let host = &broker.host;
            let address = if host.contains(':') {
                format!("[{host}]:{}", broker.port)
            } else {
                format!("{host}:{}", broker.port)
            };
            self.brokers.insert(broker.node_id, address);
        }
        Ok(answer)
    }

    /// One topic; where there is none of that name, waits for it only if it `exists` for sure.
    pub fn topic(&mut self, name: &str, exists: bool) -> Result<MetadataResponseTopic> {
        let answer = self.metadata(Some(&[name]))?;
        let topic = answer.topics.into_iter().next().context("the broker left the topic out")?;
        match topic.error_code {
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION if !exists => Err(finally(format!(
                "there is no topic {name}; milena topic create {name} makes it"
            ))),
            code => check_known(code, None).with_context(|| format!("topic {name}")),
        }?;
        if topic.partitions.is_empty() {
            bail!("topic {name}: no partition is known yet");
        }
        Ok(topic)
    }

    /// Address of a broker of the last metadata.
    pub fn address(&self, broker: i32) -> Result<String> {
        self.brokers.get(&broker).cloned().with_context(|| format!("broker {broker} is not known"))
    }

    /// Does something again until it succeeds, fails for good, or the time is over; `what` completes "waiting to".
    pub fn again<T>(
        &mut self,
        what: &str,
        mut attempt: impl FnMut(&mut Client) -> Result<T>,
    ) -> Result<T> {
        let mut patience = self.begin(what);
        let result = loop {
            match attempt(self) {
                Ok(done) => break Ok(done),
                Err(error) => match patience.failed(error) {
                    Ok(()) => {}
                    Err(error) => break Err(error),
                },
            }
        };
        self.end();
        result
    }

    /// A wait that the caller drives, until [`Client::end`].
    pub fn begin(&mut self, what: &str) -> Patience {
        Patience::begin(&mut self.watch, what, self.timeout)
    }

    /// Ends the wait that began last.
    pub fn end(&mut self) {
        Patience::ended(&mut self.watch);
    }
}

/// The leader of a partition, or what may pass where it has none.
pub fn leader(topic: &MetadataResponseTopic, partition: i32) -> Result<i32> {
    let name = topic.name.as_deref().unwrap_or_default();
    let found = topic.partitions.iter().find(|p| p.partition_index == partition);
    match found {
        None => bail!("{name} has no partition {partition}"),
        Some(found) if found.leader_id < 0 => bail!("{name}-{partition} has no leader"),
        Some(found) => Ok(found.leader_id),
    }
}
