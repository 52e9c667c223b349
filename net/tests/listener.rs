//! The Kafka listener and the peer connections over real sockets, with a machine that only answers: order of answers, limits,
//! and what bad bytes may do (nothing, to anyone else).

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use milena_core::addresses::Process;
use milena_core::config::PipelineConfig;
use milena_core::{
    ClientId, Config, Incarnation, Input, Machine, NodeId, Now, Output, Outputs, Place, Timer, View,
};
use milena_net::client::Connection;
use milena_net::files::{Files, Unsynced};
use milena_net::host::{self, Doors, Mail, Mailbox, Shared};
use milena_net::kafka::{Counts, Limits};
use milena_net::links::Hello;
use milena_net::runtime::{self, Clock, Thread, mpsc};
use milena_wire::messages::{
    ApiVersionsResponse, DescribeClusterRequest, FetchRequest, FetchResponse,
    FindCoordinatorRequest, MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse,
    api_versions::ApiVersion,
    produce::{PartitionProduceData, TopicProduceData},
};
use milena_wire::{ApiKey, Request, RequestHeader, Response, encode_request, supported_versions};

/// Answers Metadata with the request's number, three at a time and backwards, or what there is after 20 ms; Produce at once,
/// not at all with acks=0, and with it every Fetch that waits; closes the connection for FindCoordinator, and leaves
/// DescribeCluster without an answer.
#[derive(Default)]
struct Backwards {
    held: Vec<(ClientId, u64)>,
    fetches: Vec<(ClientId, u64)>,
    due: Option<milena_core::Instant>,
    hangups: Hangups,
    fetched: Arc<AtomicUsize>,
}

/// The connections of which the machine was told that they are gone.
type Hangups = Arc<Mutex<Vec<ClientId>>>;

impl Machine for Backwards {
    fn step(&mut self, now: Now, input: Input, out: &mut Outputs) {
        if let Input::Request { client, .. } = &input {
            assert!(!self.hangups.lock().unwrap().contains(client), "a request after the end");
        }
        match input {
            Input::Request { client, id, request, .. } => match request {
                Request::ApiVersions(_) => {
                    let api_keys = supported_versions()
                        .map(|(api, min_version, max_version)| ApiVersion {
                            api_key: api as i16,
                            min_version,
                            max_version,
                        })
                        .collect();
                    let answer = ApiVersionsResponse { api_keys, ..Default::default() };
                    out.reply(client, id, Response::ApiVersions(answer));
                }
                Request::Produce(produce) => {
                    let answer = Response::Produce(ProduceResponse::default());
                    out.reply(client, id, (produce.acks != 0).then_some(answer));
                    for (client, id) in self.fetches.drain(..) {
                        out.reply(client, id, Response::Fetch(FetchResponse::default()));
                    }
                }
                Request::Fetch(_) => {
                    self.fetched.fetch_add(1, Ordering::Relaxed);
                    self.fetches.push((client, id));
                }
                Request::FindCoordinator(_) => {
                    out.queue.push_back(Output::Close { client, id, why: "a test" })
                }
                Request::DescribeCluster(_) => {}
                _ => {
                    self.held.push((client, id));
                    self.due = Some(now.mono.after_ms(20));
                }
            },
            Input::Hangup { client } => {
                self.held.retain(|(held, _)| *held != client);
                self.hangups.lock().unwrap().push(client);
            }
            _ => {}
        }
        if self.held.len() >= 3 || self.due.is_some_and(|due| due <= now.mono) {
            self.due = None;
            for (client, id) in self.held.drain(..).rev() {
                let answer =
                    MetadataResponse { cluster_id: Some(id.to_string()), ..Default::default() };
                out.reply(client, id, Response::Metadata(answer));
            }
        }
    }

    fn next_timeout(&self) -> Option<(milena_core::Instant, Timer)> {
        self.due.map(|due| (due, Timer::Retry))
    }

    fn view(&self) -> View<'_> {
        View::Nothing
    }

    fn check_invariants(&self) {}
}

fn pipelines(pipeline: PipelineConfig) -> Limits {
    Limits { pipeline, ..Limits::default() }
}

struct Server {
    address: String,
    peer_address: String,
    mailboxes: Vec<Mailbox>,
    threads: Vec<Thread>,
    hangups: Hangups,
    /// How many fetches its machine was given.
    fetched: Arc<AtomicUsize>,
    _directory: tempfile::TempDir,
}

impl Server {
    fn start(limits: Limits) -> Server {
        Server::start_in(0, limits)
    }

    /// A node of a cluster, or of none yet.
    fn start_in(cluster: u128, limits: Limits) -> Server {
        let directory = tempfile::tempdir().unwrap();
        let bind = || runtime::bind("127.0.0.1:0").unwrap();
        let (kafka, peer) = (bind(), bind());
        let address = kafka.address().unwrap().to_string();
        let peer_address = peer.address().unwrap().to_string();
        let (mailboxes, mails): (Vec<Mailbox>, Vec<_>) =
            (0..2).map(|_| mpsc::unbounded_channel()).unzip();
        let (ended, _) = mpsc::unbounded_channel();
        let shared = Shared {
            hello: Hello {
                cluster,
                from: NodeId(1),
                to: NodeId(1),
                process: Process { incarnation: Incarnation(1), run: 0 },
                shard: None,
                address: String::new(),
            },
            halted: Arc::default(),
            clock: Clock::start(),
            files: Arc::new(Files::open(directory.path(), Unsynced::PageCache).unwrap()),
            mailboxes: mailboxes.clone(),
            counts: Arc::new(Counts::new(&limits)),
            limits,
            serving: Default::default(),
            ended,
        };
        let mut doors =
            Some(Doors { peers: Vec::new(), peer_listener: peer, kafka_listener: Some(kafka) });
        let machine = Backwards::default();
        let (hangups, fetched) = (machine.hangups.clone(), machine.fetched.clone());
        let machines = [(Place::Metadata, Backwards::default()), (Place::Shard(0), machine)];
        let threads = machines.into_iter().zip(mails).map(|((place, machine), mail)| {
            let (shared, doors) = (shared.clone(), doors.take());
            let work = move || host::work(place, Box::new(machine), shared, mail, doors);
            Thread::start("test".into(), work).unwrap()
        });
        let threads = threads.collect();
        Server {
            address,
            peer_address,
            mailboxes,
            threads,
            hangups,
            fetched,
            _directory: directory,
        }
    }

    fn connect(&self) -> Connection {
        Connection::open(&self.address, Duration::from_secs(10)).unwrap()
    }

    fn raw(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    /// A connection on which node `from` has said who it is. One that is refused may be gone before that is said.
    fn peer(&self, from: i32) -> TcpStream {
        let mut stream = TcpStream::connect(&self.peer_address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let _ = stream.write_all(&hello(0, from));
        stream
    }
}

/// The frame in which a node says to node 1 who it is.
fn hello(cluster: u128, from: i32) -> Vec<u8> {
    let mut hello = b"milena".to_vec();
    hello.extend(11_u16.to_be_bytes());
    hello.extend(cluster.to_be_bytes());
    hello.extend(from.to_be_bytes());
    hello.extend(1_i32.to_be_bytes());
    hello.extend(u128::from(from as u32).to_be_bytes());
    hello.extend(1_u64.to_be_bytes());
    hello.extend((-1_i32).to_be_bytes());
    [&(hello.len() as u32).to_be_bytes(), &hello[..]].concat()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.mailboxes.iter().for_each(|mailbox| {
            mailbox.send(Mail::Stop).ok();
        });
        for thread in self.threads.drain(..) {
            assert!(thread.join(), "a worker ended badly");
        }
    }
}

fn cluster_id(response: Response) -> String {
    match response {
        Response::Metadata(metadata) => metadata.cluster_id.unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Whether the other side closes, and what it said before.
fn said_until_closed(mut stream: TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => said,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => said,
        Err(error) => panic!("it was not closed: {error}"),
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server =
        Server::start(pipelines(PipelineConfig { in_flight_max: 7, ..Default::default() }));
    let mut connections = [server.connect(), server.connect()];
    let request = Request::Metadata(MetadataRequest::default());
    let mut version = 0;
    // More than may be in flight: the rest waits in the sockets.
    for _ in 0..50 {
        for connection in &mut connections {
            version = connection.send(&request).unwrap();
        }
    }
    for i in 1..=50 {
        for connection in &mut connections {
            let answer = connection.receive(ApiKey::Metadata, version).unwrap();
            assert_eq!(cluster_id(answer), i.to_string());
        }
    }
}

/// Apache Kafka reads the end of a connection only after it has answered what came before.
#[test]
fn a_client_that_has_nothing_more_to_say_is_answered() {
    // A whole request and then the end; the same with a part of another one before it.
    for part in [&[][..], &[0, 0]] {
        let server = Server::start(Limits::default());
        let mut stream = server.raw();
        for id in 1..=3 {
            // Metadata 1 of no topics, from nobody.
            let request = [0, 0, 0, 14, 0, 3, 0, 1, 0, 0, 0, id, 0xff, 0xff, 0, 0, 0, 0];
            stream.write_all(&request).unwrap();
        }
        stream.write_all(part).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let said = said_until_closed(stream);
        let mut answers = &said[..];
        for id in 1..=3 {
            let (length, rest) = answers.split_first_chunk().expect("an answer");
            assert_eq!(rest[..4], [0, 0, 0, id]);
            answers = &rest[u32::from_be_bytes(*length) as usize..];
        }
        assert!(answers.is_empty());
        let end = Instant::now() + Duration::from_secs(5);
        while server.hangups.lock().unwrap().is_empty() {
            assert!(Instant::now() < end, "the machine is told that it has gone");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_produce_without_acks_gets_no_answer_and_holds_up_none() {
    let server =
        Server::start(pipelines(PipelineConfig { in_flight_max: 3, ..Default::default() }));
    let mut connection = server.connect();
    for _ in 0..20 {
        let produce = ProduceRequest { acks: 0, ..Default::default() };
        connection.send(&Request::Produce(produce)).unwrap();
    }
    let answer = connection.call(&Request::Metadata(MetadataRequest::default())).unwrap();
    assert_eq!(cluster_id(answer), "21");
    let produce = Request::Produce(ProduceRequest { acks: -1, ..Default::default() });
    assert!(matches!(connection.call(&produce).unwrap(), Response::Produce(_)));
}

/// However little it asks for, a fetch may be answered with a whole batch.
#[test]
fn fetches_in_flight_are_bounded() {
    let server = Server::start(Limits::default());
    let mut connection = server.connect();
    let fetch = Request::Fetch(FetchRequest { max_bytes: 1, ..Default::default() });
    let mut version = 0;
    for _ in 0..5 {
        version = connection.send(&fetch).unwrap();
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(server.fetched.load(Ordering::Relaxed), 2);
    let produce = Request::Produce(ProduceRequest { acks: -1, ..Default::default() });
    let mut other = server.connect();
    for expected in [4, 5, 5] {
        other.call(&produce).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(server.fetched.load(Ordering::Relaxed), expected);
    }
    for _ in 0..5 {
        assert!(connection.receive(ApiKey::Fetch, version).is_ok());
    }
}

#[test]
fn what_was_asked_before_the_request_that_costs_the_connection_is_answered() {
    let server = Server::start(Limits { request_bytes_max: 1 << 20, ..Limits::default() });
    let metadata = [0, 0, 0, 14, 0, 3, 0, 1, 0, 0, 0, 9, 0xff, 0xff, 0, 0, 0, 0];
    let bad: [&[u8]; 3] = [
        // FindCoordinator 0, for which the machine closes, and another Metadata; an API that is not served; too long a frame.
        &[&[0, 0, 0, 12, 0, 10, 0, 0, 0, 0, 0, 10, 0xff, 0xff, 0, 0], &metadata[..]].concat(),
        &[0, 0, 0, 10, 0, 11, 0, 0, 0, 0, 0, 10, 0, 0],
        &[0, 0x10, 0, 1],
    ];
    for bytes in bad {
        let mut stream = server.raw();
        stream.write_all(&[&metadata[..], bytes].concat()).unwrap();
        let said = said_until_closed(stream);
        let length = said.first_chunk().map_or(0, |length| u32::from_be_bytes(*length) as usize);
        assert_eq!(said.get(4..8), Some(&[0, 0, 0, 9][..]), "{bytes:?}");
        assert_eq!(said.len(), 4 + length, "one answer after {bytes:?}");
    }
}

/// Neither the request for which the machine closes nor one before it that is never answered keeps the connection open. The
/// machine hears that it is gone, once, as of one that its client closes.
#[test]
fn a_connection_that_the_machine_closes_is_closed_though_something_is_not_answered() {
    let server =
        Server::start(pipelines(PipelineConfig { frame_ms_max: 200, ..Default::default() }));
    let mut connection = server.connect();
    let produce = Request::Produce(ProduceRequest { acks: -1, ..Default::default() });
    let version = connection.send(&produce).unwrap();
    connection.send(&Request::DescribeCluster(DescribeClusterRequest::default())).unwrap();
    connection.send(&produce).unwrap();
    connection.send(&Request::FindCoordinator(FindCoordinatorRequest::default())).unwrap();
    let began = Instant::now();
    assert!(connection.receive(ApiKey::Produce, version).is_ok());
    assert!(connection.receive(ApiKey::DescribeCluster, 0).is_err());
    assert!(began.elapsed() < Duration::from_secs(5), "it was not closed");
    let other = server.connect();
    while server.hangups.lock().unwrap().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(5), "the machine was not told");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop((connection, other));
    std::thread::sleep(Duration::from_millis(200));
    let told = server.hangups.lock().unwrap().clone();
    assert!(told.len() == 2 && told[0] != told[1], "{told:?}");
}

#[test]
fn bad_bytes_close_their_connection_and_no_other() {
    let server = Server::start(Limits { request_bytes_max: 1 << 20, ..Limits::default() });
    let mut other = server.connect();
    let bad: [&[u8]; 7] = [
        // Above the limit, negative, HTTP, TLS.
        &[0, 0x10, 0, 1],
        &[0xff, 0xff, 0xff, 0xff],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x16, 0x03, 0x01, 0x02],
        // Empty; an API that is not served (JoinGroup 0); Metadata cut short.
        &[0, 0, 0, 0],
        &[0, 0, 0, 10, 0, 11, 0, 0, 0, 0, 0, 1, 0, 0],
        &[0, 0, 0, 10, 0, 3, 0, 9, 0, 0, 0, 1, 0, 0],
    ];
    for bytes in bad {
        let mut stream = server.raw();
        stream.write_all(bytes).unwrap();
        assert_eq!(said_until_closed(stream), b"", "{bytes:?}");
    }
    let answer = other.call(&Request::Metadata(MetadataRequest::default())).unwrap();
    assert_eq!(cluster_id(answer), "1");
}

#[test]
fn api_versions_too_new_is_answered_in_version_0_and_the_connection_stays() {
    let server = Server::start(Limits::default());
    let mut stream = server.raw();
    stream.write_all(&[0, 0, 0, 11, 0, 18, 0, 99, 0, 0, 0, 7, 0xff, 0xff, 0]).unwrap();
    let mut answer = [0; 20];
    stream.read_exact(&mut answer).unwrap();
    // Length, correlation id, error 35, one API: 18 from 0 to 5.
    let expected = [0, 0, 0, 16, 0, 0, 0, 7, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 5];
    assert_eq!(answer, expected);
    stream.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 8, 0xff, 0xff]).unwrap();
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[4..], [0, 0, 0, 8]);
}

/// A client's name is for logs and metrics; Apache Kafka takes what is no UTF-8 too.
#[test]
fn a_client_id_of_any_bytes_is_answered() {
    let server = Server::start(Limits::default());
    let mut stream = server.raw();
    // Metadata 1 of no topics, from the client ff fe.
    let request = [0, 0, 0, 16, 0, 3, 0, 1, 0, 0, 0, 9, 0, 2, 0xff, 0xfe, 0, 0, 0, 0];
    stream.write_all(&request).unwrap();
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[4..], [0, 0, 0, 9]);
}

fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn a_declared_length_costs_no_memory() {
    let server = Server::start(Limits::default());
    let before = resident_bytes();
    let declared = (99_u32 << 20).to_be_bytes();
    let streams: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = server.raw();
            stream.write_all(&declared).unwrap();
            stream.write_all(&[0; 1000]).unwrap();
            stream
        })
        .collect();
    server.connect().call(&Request::Metadata(MetadataRequest::default())).unwrap();
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 256 << 20, "{grown} bytes more for 100 declarations of 99 MiB");
    drop(streams);
}

#[test]
fn connections_that_wait_too_long_or_are_too_many_are_closed() {
    let pipeline =
        PipelineConfig { idle_ms_max: 300, frame_ms_max: 200, ..PipelineConfig::default() };
    let limits = Limits { connections_max: 3, ..pipelines(pipeline) };
    let server = Server::start(limits);
    let began = Instant::now();
    let idle = server.raw();
    let mut slow = server.raw();
    slow.write_all(&[0, 0, 0, 50, 0]).unwrap();
    let third = server.connect();
    assert_eq!(said_until_closed(server.raw()), b"", "a fourth connection");
    assert!(began.elapsed() < Duration::from_secs(1), "the fourth was not closed at once");
    assert_eq!(said_until_closed(slow), b"");
    assert_eq!(said_until_closed(idle), b"");
    drop(third);
    server.connect();
}

/// While a large frame is on its way no beat gets through: its pieces are answered instead.
#[test]
fn a_large_frame_between_peers_is_a_sign_of_life() {
    let server = Server::start(Limits::default());
    let mut peer = server.peer(2);
    peer.write_all(&(50_u32 << 20).to_be_bytes()).unwrap();
    for _ in 0..3 {
        peer.write_all(&vec![0; 256 << 10]).unwrap();
        peer.read_exact(&mut [0]).unwrap();
    }
}

#[test]
fn connections_of_peers_and_strangers_among_them_are_bounded() {
    let server = Server::start(Limits::default());
    let lives = |mut peer: &TcpStream| {
        let mut answer = [1];
        peer.write_all(&[0; 4]).is_ok()
            && peer.read(&mut answer).is_ok_and(|count| count == 1)
            && answer == [0]
    };
    // One at a time: each stays known.
    for node in 2..102 {
        assert!(lives(&server.peer(node)), "node {node}");
    }
    assert!(!lives(&server.peer(102)), "one too many of which nothing else is known");
    // Those of before are gone as soon as the node has noticed.
    let patiently = |node| {
        (0..100).map(|_| server.peer(node)).find(|peer| {
            lives(peer) || {
                std::thread::sleep(Duration::from_millis(50));
                false
            }
        })
    };
    let peers: Vec<TcpStream> =
        (2..102).map(|node| patiently(node).expect("there is room")).collect();
    assert!(peers.iter().all(lives));
    assert!(!lives(&server.peer(2)), "one connection too many");
}

/// A peer is of the same cluster where both know theirs, also when it has said so late; else it is told why it is refused.
#[test]
fn a_peer_of_another_cluster_is_refused_and_told_so() {
    let server = Server::start_in(7, Limits::default());
    let beat = [0; 4];
    for said in [0, 7] {
        let mut peer = server.peer(2);
        peer.write_all(&[&beat[..], &hello(said, 2), &beat].concat()).unwrap();
        let mut answers = [1; 2];
        peer.read_exact(&mut answers).unwrap();
        assert_eq!(answers, [0; 2]);
    }
    let mut stranger = server.peer(3);
    let message = [&1_u32.to_be_bytes()[..], &[9]].concat();
    stranger.write_all(&[&beat[..], &hello(8, 3), &message].concat()).unwrap();
    let said = said_until_closed(stranger);
    assert_eq!(said[..2], [0, 1]);
    let reason = String::from_utf8(said[2..].to_vec()).unwrap();
    assert!(reason.starts_with("node 3 belongs to cluster AAAA"), "{reason}");
    assert!(reason.contains("check --cluster and --data"), "{reason}");
}

#[test]
fn connections_leave_descriptors_for_all_else() {
    let most = |descriptors| Limits::default().within(descriptors).connections_max;
    assert_eq!((most(u64::MAX), most(4_096), most(100)), (10_000, 3_072, 1));
}

/// A large request, whose buffer grows as it comes, arrives whole.
#[test]
fn a_large_request_arrives_whole() {
    let server = Server::start(Limits::default());
    let mut connection = server.connect();
    for size in [100, 100_000, 5_000_000, 70, 5_000_000, 5_000_000] {
        let records = Some(Bytes::from(vec![7; size]));
        let data = PartitionProduceData { index: 0, records };
        let topic = TopicProduceData { partition_data: vec![data], ..Default::default() };
        let produce = ProduceRequest { acks: -1, topic_data: vec![topic], ..Default::default() };
        assert!(matches!(
            connection.call(&Request::Produce(produce)).unwrap(),
            Response::Produce(_)
        ));
    }
}

/// Settings that no test above needs still have to be accepted by core.
#[test]
fn flags_make_a_configuration() {
    use clap::Parser;
    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        start: milena_net::config::Start,
    }
    let parse = |more: &[&str]| {
        let base = ["x", "--node-id=1", "--cluster=1@h:1,2@h:2", "--data=d"];
        let flags = Flags::parse_from(base.iter().chain(more));
        flags.start.settings().map(|settings| settings.config)
    };
    let config: Config = parse(&["--kafka=a:9092"]).unwrap();
    assert!(config.broker && config.controller && config.peer == "h:1");
    assert_eq!(config.kafka, ("a".into(), 9092));
    let fault = |more: &[&str]| parse(more).unwrap_err();
    assert!(fault(&[]).contains("--kafka"));
    assert!(fault(&["--kafka=0.0.0.0:1"]).contains("--advertise"));
    assert!(fault(&["--kafka=a:1", "--roles=broker"]).contains("--roles"));
    assert!(fault(&["--kafka=h:1"]).contains("--kafka another port"));
    assert!(fault(&["--kafka=a:1", "--cluster=3@h:2"]).contains("nodes 2 and 3"));
    assert!(parse(&["--kafka=0.0.0.0:1", "--advertise=b:2"]).is_ok());
}

/// A produce request of so many bytes and some, as a frame.
fn produce_frame(bytes: usize) -> Vec<u8> {
    let records = Some(Bytes::from(vec![7; bytes]));
    let data = PartitionProduceData { index: 0, records };
    let topic = TopicProduceData { partition_data: vec![data], ..Default::default() };
    let produce = ProduceRequest { acks: -1, topic_data: vec![topic], ..Default::default() };
    let header = RequestHeader { api_key: 0, api_version: 9, correlation_id: 1, client_id: None };
    let frame = encode_request(&header, &produce.into()).concat();
    [&(frame.len() as u32).to_be_bytes(), &frame[..]].concat()
}

/// Whether an answer comes within a time.
fn is_answered(stream: &mut TcpStream, millis: u64) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(millis))).unwrap();
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Ok(()) => {
            let mut answer = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut answer).unwrap();
            true
        }
        Err(error) => {
            let waits = [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut];
            assert!(waits.contains(&error.kind()), "{error}");
            false
        }
    }
}

#[test]
fn requests_wait_for_the_memory_that_others_have() {
    let pipeline = PipelineConfig { frame_ms_max: 3_000, ..PipelineConfig::default() };
    let limits = Limits { request_memory_max: 1 << 20, ..pipelines(pipeline) };
    let server = Server::start(limits);
    let frame = produce_frame(900 << 10);
    // The first has nearly all of it, the second goes past it, as one may; both are slow.
    let mut slow = [server.raw(), server.raw()];
    for stream in &mut slow {
        stream.write_all(&frame[..600 << 10]).unwrap();
        std::thread::sleep(Duration::from_millis(300));
    }
    let mut third = server.raw();
    let mut behind = third.try_clone().unwrap();
    let sender = std::thread::spawn(move || behind.write_all(&frame).unwrap());
    assert!(!is_answered(&mut third, 500), "there is no room for three");
    // A small one has no need of that room.
    let mut small = server.raw();
    small.write_all(&produce_frame(100)).unwrap();
    assert!(is_answered(&mut small, 1_000), "a small one waits for nobody");
    // Those who wait have time; those who hold what they do not use have not.
    for stream in slow {
        assert_eq!(said_until_closed(stream), b"");
    }
    assert!(is_answered(&mut third, 10_000), "the room was given back");
    sender.join().unwrap();
    // A request larger than all of it comes through; and what was answered was given back each time.
    for _ in 0..5 {
        third.write_all(&produce_frame(3 << 20)).unwrap();
        assert!(is_answered(&mut third, 10_000));
    }
}

/// Neither a fetch that waits, nor what was begun on a connection that reads no more, holds memory that others need.
#[test]
fn what_needs_no_memory_any_more_gives_it_back() {
    let limits = Limits { request_memory_max: 1 << 20, ..Limits::default() };
    let server = Server::start(limits);
    // Fetches, each with much behind it that means nothing: one in the memory of all, one past it, as one may.
    let mut fetch = [0, 1, 0, 4, 0, 0, 0, 9, 0xff, 0xff].to_vec();
    fetch.resize(fetch.len() + (900 << 10), 0);
    let fetch = [&(fetch.len() as u32).to_be_bytes(), &fetch[..]].concat();
    let waiting: Vec<TcpStream> = (1..=2)
        .map(|count| {
            let mut stream = server.raw();
            stream.write_all(&fetch).unwrap();
            while server.fetched.load(Ordering::Relaxed) < count {
                std::thread::sleep(Duration::from_millis(5));
            }
            stream
        })
        .collect();
    let mut third = server.raw();
    third.write_all(&produce_frame(700 << 10)).unwrap();
    drop(waiting);
    // Nor the beginnings of large requests, after each of which its client has nothing more to say, behind a request that is
    // not answered.
    let unanswered = [0, 0, 0, 13, 0, 60, 0, 0, 0, 0, 0, 9, 0xff, 0xff, 0, 0, 0];
    let ended: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = server.raw();
            stream.write_all(&unanswered).unwrap();
            stream.write_all(&produce_frame(900 << 10)[..600 << 10]).unwrap();
            std::thread::sleep(Duration::from_millis(300));
            stream.shutdown(Shutdown::Write).unwrap();
            stream
        })
        .collect();
    assert!(is_answered(&mut third, 5_000), "the fetches keep what they came with");
    third.write_all(&produce_frame(700 << 10)).unwrap();
    assert!(is_answered(&mut third, 5_000), "what is read no more keeps what it had");
    drop(ended);
}

/// Requests that are sent for the most part and then no further take neither small requests' time nor, for long, large ones'.
#[test]
fn frames_that_stop_growing_silence_nobody() {
    let pipeline = PipelineConfig { stalled_ms_max: 1_000, ..PipelineConfig::default() };
    let limits = Limits { request_memory_max: 8 << 20, ..pipelines(pipeline) };
    let server = Server::start(limits);
    let hogs: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = server.raw();
            stream.write_all(&(4_u32 << 20).to_be_bytes()).unwrap();
            stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
            // As much as is taken: where there is no memory left, not all.
            let _ = stream.write_all(&vec![0; 3 << 20]);
            stream
        })
        .collect();
    // Slow, and no hog: it goes on.
    let mut slow = server.raw();
    let mut piecemeal = slow.try_clone().unwrap();
    let slow_sender = std::thread::spawn(move || {
        for piece in produce_frame(1 << 20).chunks(128 << 10) {
            piecemeal.write_all(piece).unwrap();
            std::thread::sleep(Duration::from_millis(600));
        }
    });
    let began = Instant::now();
    server.connect().call(&Request::Metadata(MetadataRequest::default())).unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "small requests waited");
    let mut large = server.raw();
    let mut behind = large.try_clone().unwrap();
    let sender = std::thread::spawn(move || behind.write_all(&produce_frame(2 << 20)).unwrap());
    assert!(is_answered(&mut large, 20_000), "the memory was not given back");
    assert!(is_answered(&mut slow, 20_000), "one that grew was closed");
    sender.join().unwrap();
    slow_sender.join().unwrap();
    let is_closed = |mut hog: &TcpStream| {
        hog.set_nonblocking(true).unwrap();
        !hog.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    assert!(hogs.iter().any(is_closed), "no hog was closed");
}
