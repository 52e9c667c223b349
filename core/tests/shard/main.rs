//! One broker with three shards: client requests that are cut by partition, answered apart and put together again, and
//! what a client is told when something is wrong with its request.

#[path = "../common/mod.rs"]
mod common;
mod compacted;
mod describe_producers;
mod early;
mod producers;
mod strange;
mod views;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use common::InstantDisk;
use milena_core::disk::{Command, FileName};
use milena_core::image::{Broker, Image, Partition, Topic};
use milena_core::local::LocalMessage;
use milena_core::machine::{ClientContext, Input, Machine, Output, Outputs, Place};
use milena_core::shard::Shard;
use milena_core::{
    Boot, BrokerEpoch, ClientId, Config, Instant, LogId, NodeId, Now, ReplicaIncarnation, TopicId,
    config,
};
use milena_wire::batch::{BatchBuilder, BatchHeader, Compression, HEADER_LEN, records};
use milena_wire::messages::fetch::{FetchPartition, FetchTopic};
use milena_wire::messages::list_offsets::{
    EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, ListOffsetsPartition, ListOffsetsTopic, MAX_TIMESTAMP,
};
use milena_wire::messages::metadata::MetadataRequestTopic;
use milena_wire::messages::offset_for_leader_epoch::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use milena_wire::messages::produce::{PartitionProduceData, TopicProduceData};
use milena_wire::messages::{
    FetchRequest, FetchResponse, ListOffsetsRequest, MetadataRequest, OffsetForLeaderEpochRequest,
    ProduceRequest, ProduceResponse,
};
use milena_wire::{ErrorCode, Request, Response, Uuid};

const SHARDS: u16 = 3;
const PARTITIONS: i32 = 8;
const TOPIC: TopicId = TopicId([5; 16]);
const ME: NodeId = NodeId(1);

struct Broker1 {
    millis: u64,
    shards: Vec<Shard>,
    disk: InstantDisk,
    image: Image,
    local: VecDeque<(Place, u16, LocalMessage)>,
    replies: Vec<(u64, Option<Response>)>,
    closed: Vec<ClientId>,
    requests: u64,
    /// Requests that went to `Metadata`.
    passed: usize,
    /// Scatter and gather messages so far.
    scattered: usize,
    /// Whether disk commands wait.
    stalled: bool,
    /// Whether writes of segments wait.
    segments_stalled: bool,
    waiting: VecDeque<(u16, milena_core::OpId, Command)>,
}

impl Broker1 {
    fn new() -> Broker1 {
        Broker1::start(InstantDisk::default(), |_| {})
    }

    /// Recovers a disk and shows it the image after a change.
    fn start(mut disk: InstantDisk, change: impl FnOnce(&mut Image)) -> Broker1 {
        let config = Config {
            node: ME,
            controllers: vec![(ME, "n1:1".into())],
            broker: true,
            controller: false,
            kafka: ("b1".into(), 9092),
            peer: "n1:1".into(),
            rack: None,
            shards: SHARDS,
            storage: config::StorageConfig {
                journal_file_bytes: 2 << 20,
                journal_files: 3,
                memory_bytes_max: 1 << 20,
                producer_ids_max: 30,
                ..Default::default()
            },
            quorum: Default::default(),
            replication: config::ReplicationConfig {
                partitions_max: 50,
                batch_bytes_max: 10_000,
                opened_bytes_max: 640_000,
                fetch_bytes_max: 200_000,
                ..Default::default()
            },
        };
        let mut boot = Boot::new(config, [1; 32]);
        let mut out = Outputs::default();
        boot.step(Now::default(), Input::Start, &mut out);
        let node = loop {
            if let Some(node) = boot.take() {
                break node;
            }
            if let Some(Output::Disk { op, command }) = out.queue.pop_front() {
                let outcome = disk.apply(&command);
                boot.step(Now::default(), Input::Disk { op, outcome }, &mut out);
            }
        };
        let mut image = Image { cluster: 1, end: 10, ..Image::default() };
        let broker = Broker {
            incarnation: node.superblock.incarnation,
            epoch: BrokerEpoch(3),
            confirmed: Some(BrokerEpoch(3)),
            fenced: false,
            kafka: ("b1".into(), 9092),
            peer: String::new(),
            rack: None,
        };
        image.brokers.insert(ME, broker);
        let partition = Partition {
            replicas: vec![ME],
            incarnations: vec![ReplicaIncarnation(0)],
            isr: vec![ME],
            leader: Some(ME),
            leader_epoch: 4,
            partition_epoch: 1,
            min_isr: 1,
            ..Partition::default()
        };
        let partitions = vec![partition; PARTITIONS as usize];
        let topic = Topic::new(TOPIC, "t".into(), BTreeMap::new(), partitions);
        image.topics.insert(TOPIC, Arc::new(topic));
        image.names.insert("t".into(), TOPIC);
        change(&mut image);
        let mut broker = Broker1 {
            millis: 1_000,
            shards: node.shards,
            disk,
            image,
            local: VecDeque::new(),
            replies: Vec::new(),
            closed: Vec::new(),
            requests: 0,
            passed: 0,
            scattered: 0,
            stalled: false,
            segments_stalled: false,
            waiting: VecDeque::new(),
        };
        for shard in 0..SHARDS {
            broker.step(shard, Input::Start);
            broker.show(shard);
            let serving = LocalMessage::Serving(Some(BrokerEpoch(3)));
            broker.step(shard, Input::Local { from: Place::Metadata, message: serving });
        }
        broker.run();
        broker
    }

    fn show(&mut self, shard: u16) {
        let image = LocalMessage::Image(Arc::new(self.image.clone()));
        self.step(shard, Input::Local { from: Place::Metadata, message: image });
    }

    fn now(&self) -> Now {
        Now { mono: Instant(self.millis * 1_000_000), wall: self.millis as i64 }
    }

    fn logs(&self) -> usize {
        self.shards.iter().map(|shard| shard.view().store().logs().len()).sum()
    }

    fn step(&mut self, shard: u16, input: Input) {
        let mut out = Outputs::default();
        let now = self.now();
        let machine = &mut self.shards[usize::from(shard)];
        machine.step(now, input, &mut out);
        machine.check_invariants();
        while let Some(output) = out.queue.pop_front() {
            match output {
                Output::Local { to: Place::Shard(to), message } => {
                    self.scattered += 1;
                    self.local.push_back((Place::Shard(shard), to, message));
                }
                Output::Reply { id, response, .. } => self.replies.push((id, response)),
                Output::Close { client, .. } => self.closed.push(client),
                Output::Disk { op, command } if self.waits(&command) => {
                    self.waiting.push_back((shard, op, command))
                }
                Output::Disk { op, command } => {
                    let outcome = self.disk.apply(&command);
                    let machine = &mut self.shards[usize::from(shard)];
                    machine.step(now, Input::Disk { op, outcome }, &mut out);
                }
                // There is no controller and no other broker.
                Output::Local { to: Place::Metadata, message } => {
                    self.passed += usize::from(matches!(message, LocalMessage::Administer { .. }));
                }
                Output::Send { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn waits(&self, command: &Command) -> bool {
        match command {
            Command::FreeSpace => false,
            Command::Write { file: FileName::Segment { .. }, .. } if self.segments_stalled => true,
            _ => self.stalled,
        }
    }

    fn run(&mut self) {
        while let Some((from, to, message)) = self.local.pop_front() {
            self.step(to, Input::Local { from, message });
        }
    }

    fn release_disk(&mut self) {
        (self.stalled, self.segments_stalled) = (false, false);
        while let Some((shard, op, command)) = self.waiting.pop_front() {
            let outcome = self.disk.apply(&command);
            self.step(shard, Input::Disk { op, outcome });
        }
        self.run();
    }

    fn pass(&mut self, millis: u64) {
        self.millis += millis;
        for shard in 0..SHARDS {
            self.step(shard, Input::Timeout);
        }
        self.run();
    }

    /// Sends a request to the shard of a connection; its number.
    fn send(&mut self, client: u64, version: i16, request: impl Into<Request>) -> u64 {
        self.requests += 1;
        let input = Input::Request {
            client: ClientId(client),
            id: self.requests,
            version,
            request: request.into(),
            context: Arc::new(ClientContext::default()),
        };
        self.step((client % u64::from(SHARDS)) as u16, input);
        self.run();
        self.requests
    }

    fn answer(&mut self, id: u64) -> Option<Response> {
        let place = self.replies.iter().position(|(reply, _)| *reply == id)?;
        self.replies.remove(place).1
    }

    fn answered(&self, id: u64) -> bool {
        self.replies.iter().any(|(reply, _)| *reply == id)
    }

    fn produce(&mut self, version: i16, acks: i16, data: Vec<(i32, Bytes)>) -> u64 {
        self.send(0, version, produce_request(acks, data))
    }

    fn produced(&mut self, id: u64) -> ProduceResponse {
        match self.answer(id) {
            Some(Response::Produce(response)) => response,
            other => panic!("{other:?}"),
        }
    }

    fn fetched(&mut self, id: u64) -> FetchResponse {
        match self.answer(id) {
            Some(Response::Fetch(response)) => response,
            other => panic!("{other:?}"),
        }
    }
}

fn produce_request(acks: i16, data: Vec<(i32, Bytes)>) -> ProduceRequest {
    let partition_data = data
        .into_iter()
        .map(|(index, records)| PartitionProduceData { index, records: Some(records) })
        .collect();
    let topic = TopicProduceData { name: "t".into(), topic_id: Uuid(TOPIC.0), partition_data };
    ProduceRequest { acks, timeout_ms: 1_000, topic_data: vec![topic], ..Default::default() }
}

fn batch(value: &str) -> Bytes {
    let mut batch = BatchBuilder::new(0, -1, Compression::None);
    batch.append(1_000, None, Some(value.as_bytes()), &[]);
    batch.build()
}

fn fetch_request(offsets: &[(i32, i64)]) -> FetchRequest {
    let partitions = offsets
        .iter()
        .map(|(partition, fetch_offset)| FetchPartition {
            partition: *partition,
            fetch_offset: *fetch_offset,
            partition_max_bytes: 1 << 20,
            ..FetchPartition::default()
        })
        .collect();
    let topic = FetchTopic { topic: "t".into(), topic_id: Uuid(TOPIC.0), partitions };
    FetchRequest {
        max_wait_ms: 500,
        min_bytes: 1,
        session_epoch: -1,
        topics: vec![topic],
        ..FetchRequest::default()
    }
}

/// Partition, error and values of each partition of a fetch, sorted.
fn values(response: &FetchResponse) -> Vec<(i32, ErrorCode, Vec<String>)> {
    let mut found: Vec<_> = response
        .responses
        .iter()
        .flat_map(|topic| &topic.partitions)
        .map(|data| {
            let bytes = data.records.as_ref().expect("never null").to_bytes();
            let values = milena_wire::batch::batches(&bytes)
                .map(|batch| batch.expect("whole batches").1)
                .flat_map(|batch| {
                    records(&batch, milena_wire::batch::DecompressLimit(1 << 20)).expect("records")
                })
                .map(|record| String::from_utf8_lossy(&record.value.expect("a value")).into_owned())
                .collect();
            (data.partition_index, data.error_code, values)
        })
        .collect();
    found.sort();
    found
}

fn errors(response: &ProduceResponse) -> Vec<(i32, ErrorCode, i64)> {
    let mut found: Vec<_> = response
        .responses
        .iter()
        .flat_map(|topic| &topic.partition_responses)
        .map(|answer| (answer.index, answer.error_code, answer.base_offset))
        .collect();
    found.sort();
    found
}

#[test]
fn a_request_over_all_shards_gets_one_answer() {
    let mut broker = Broker1::new();
    let all = |text: &str| (0..PARTITIONS).map(|p| (p, batch(&format!("{text}{p}")))).collect();
    let id = broker.produce(9, -1, all("a"));
    let response = broker.produced(id);
    assert_eq!(response.responses.len(), 1, "one entry for the topic");
    let expected: Vec<_> = (0..PARTITIONS).map(|p| (p, ErrorCode::NONE, 0)).collect();
    assert_eq!(errors(&response), expected);
    assert!(broker.scattered > 0, "partitions are spread over shards");
    let id = broker.produce(13, 1, all("b"));
    let response = broker.produced(id);
    assert!(errors(&response).iter().all(|(_, code, base)| (*code, *base) == (ErrorCode::NONE, 1)));

    // What is in a segment and what is not yet there come in one answer or in two.
    for version in [4, 12, 13, 18] {
        let mut read: BTreeMap<i32, Vec<String>> = BTreeMap::new();
        for _ in 0..2 {
            let next = |p| (p, read.get(&p).map_or(0, |values| values.len() as i64));
            let offsets: Vec<_> = (0..PARTITIONS).map(next).collect();
            let id = broker.send(1, version, fetch_request(&offsets));
            broker.pass(500);
            let response = broker.fetched(id);
            for (partition, code, values) in values(&response) {
                assert_eq!(code, ErrorCode::NONE);
                read.entry(partition).or_default().extend(values);
            }
        }
        for (partition, values) in read {
            assert_eq!(values, [format!("a{partition}"), format!("b{partition}")], "{version}");
        }
    }
}

#[test]
fn a_fetch_waits_until_any_shard_has_records_or_its_time_is_over() {
    let mut broker = Broker1::new();
    let all: Vec<_> = (0..PARTITIONS).map(|p| (p, 0)).collect();
    let waits = broker.send(1, 12, fetch_request(&all));
    assert!(!broker.answered(waits));
    let id = broker.produce(9, -1, vec![(5, batch("x"))]);
    broker.produced(id);
    let response = broker.fetched(waits);
    let found = values(&response);
    assert_eq!(found.len(), PARTITIONS as usize, "every partition is in a full answer");
    assert_eq!(found[5], (5, ErrorCode::NONE, vec!["x".to_string()]));

    // What one shard would answer with at once, several do too.
    let owner = |partition| LogId { topic: TOPIC, partition }.shard(SHARDS);
    let apart = (0..PARTITIONS).find(|p| owner(*p) != owner(5)).expect("a partition elsewhere");
    let id = broker.produce(9, -1, vec![(apart, batch("y"))]);
    broker.produced(id);
    let mut request = fetch_request(&[(5, 0), (apart, 0)]);
    request.min_bytes = 2 * batch("y").len() as i32;
    let together = broker.send(1, 12, request);
    assert_eq!(values(&broker.fetched(together)).len(), 2);

    let waits = broker.send(1, 12, fetch_request(&[(apart, 1), (5, 1)]));
    broker.pass(499);
    assert!(!broker.answered(waits));
    broker.pass(1);
    let response = broker.fetched(waits);
    assert!(
        values(&response)
            .iter()
            .all(|(_, code, values)| { *code == ErrorCode::NONE && values.is_empty() })
    );
}

/// So many partitions that each shard has more of them than it reads at a time.
const MANY: i32 = 40;

/// A broker with a topic of [`MANY`] partitions whose records are in segments.
fn broker_with_segments() -> Broker1 {
    let mut broker = Broker1::start(InstantDisk::default(), |image| {
        let topic = image.topics.get_mut(&TOPIC).expect("the topic");
        let partition = topic.partitions[&0].clone();
        Arc::make_mut(topic).partitions =
            (0..MANY).map(|index| (index, partition.clone())).collect();
    });
    let id = broker.produce(9, -1, (0..MANY).map(|p| (p, batch("x"))).collect());
    broker.produced(id);
    (0..3).for_each(|_| broker.pass(100));
    broker
}

fn waiting_reads(broker: &Broker1) -> usize {
    let read = |command: &&_| matches!(command, Command::Read { .. });
    broker.waiting.iter().map(|(_, _, command)| command).filter(read).count()
}

#[test]
fn a_fetch_reads_a_few_partitions_at_a_time_and_each_once() {
    let mut broker = broker_with_segments();
    let twice: Vec<_> = (0..MANY).chain(0..9).map(|p| (p, 0)).collect();
    for most in [1, 1 << 20] {
        let mut request = fetch_request(&twice);
        for partition in &mut request.topics[0].partitions {
            partition.partition_max_bytes = most;
        }
        broker.stalled = true;
        let id = broker.send(1, 12, request);
        let reads = waiting_reads(&broker);
        assert!(reads > 0 && reads <= 8 * usize::from(SHARDS), "{reads} reads at once");
        broker.release_disk();
        let found = values(&broker.fetched(id));
        let partitions: Vec<i32> = found.iter().map(|(partition, ..)| *partition).collect();
        assert_eq!(partitions, (0..MANY).collect::<Vec<_>>(), "each is answered once");
        let with_records = found.iter().filter(|(_, _, values)| values == &["x"]).count();
        // What exceeds its limit counts only as the first of an answer.
        assert_eq!(with_records, if most == 1 { SHARDS.into() } else { MANY as usize });
    }
}

#[test]
fn what_one_partition_may_take_and_does_not_is_left_to_the_others() {
    let mut broker = broker_with_segments();
    let request = fetch_request(&(0..MANY).map(|p| (p, 0)).collect::<Vec<_>>());
    let max_bytes = request.topics[0].partitions[0].partition_max_bytes;
    let id = broker.send(1, 12, FetchRequest { max_bytes, ..request });
    let found = values(&broker.fetched(id));
    assert_eq!(found.len(), MANY as usize);
    assert!(found.iter().all(|(_, _, values)| values == &["x"]), "{found:?}");
}

#[test]
fn what_moves_while_a_fetch_reads_wakes_it() {
    let mut broker = broker_with_segments();
    // Some have all that was ever produced, and cannot be enough.
    let offsets: Vec<_> = (0..MANY).map(|p| (p, i64::from(p % 2))).collect();
    let mut request = fetch_request(&offsets);
    request.min_bytes = 1 << 20;
    broker.stalled = true;
    let id = broker.send(1, 12, request);
    assert!(waiting_reads(&broker) > 0);
    for partition in (1..MANY).step_by(2) {
        let log = LogId { topic: TOPIC, partition };
        let partition = broker.image.partition_mut(log).expect("it exists");
        (partition.leader, partition.leader_epoch) = (None, 5);
    }
    broker.image.end += 1;
    (0..SHARDS).for_each(|shard| broker.show(shard));
    broker.release_disk();
    let found = values(&broker.fetched(id));
    let moved = found.iter().filter(|(_, code, _)| *code == ErrorCode::NOT_LEADER_OR_FOLLOWER);
    assert_eq!(moved.count(), MANY as usize / 2);
}

#[test]
fn a_few_times_are_looked_up_at_a_time_and_no_partition_twice() {
    let mut broker = broker_with_segments();
    let asked = |partition_index| ListOffsetsPartition {
        partition_index,
        current_leader_epoch: -1,
        timestamp: 5,
    };
    let partitions = (0..MANY).chain(0..9).map(asked).collect();
    let topic = ListOffsetsTopic { name: "t".into(), partitions };
    let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
    broker.stalled = true;
    let id = broker.send(1, 7, request);
    let reads = waiting_reads(&broker);
    assert!(reads > 0 && reads <= 8 * usize::from(SHARDS), "{reads} reads at once");
    // The disk is asked for all of them, however long that takes.
    broker.pass(40_000);
    broker.release_disk();
    let Some(Response::ListOffsets(response)) = broker.answer(id) else { panic!() };
    let told = |code| {
        let partitions = response.topics[0].partitions.iter();
        partitions.filter(|p| p.error_code == code).map(|p| p.offset).collect::<Vec<_>>()
    };
    assert_eq!(told(ErrorCode::NONE), [0; MANY as usize]);
    assert_eq!(told(ErrorCode::INVALID_REQUEST).len(), 9);
}

#[test]
fn a_session_tells_only_what_changed() {
    let mut broker = Broker1::new();
    let all: Vec<_> = (0..PARTITIONS).map(|p| (p, 0)).collect();
    let mut request = fetch_request(&all);
    (request.session_epoch, request.max_wait_ms) = (0, 0);
    let id = broker.send(1, 13, request);
    broker.pass(0);
    let response = broker.fetched(id);
    assert_ne!(response.session_id, 0);
    let mut next = fetch_request(&[]);
    (next.session_id, next.session_epoch) = (response.session_id, 1);
    let waits = broker.send(1, 13, next.clone());
    assert!(!broker.answered(waits), "the session's partitions have nothing");
    let id = broker.produce(13, -1, vec![(3, batch("y"))]);
    broker.produced(id);
    let response = broker.fetched(waits);
    assert_eq!(values(&response), [(3, ErrorCode::NONE, vec!["y".to_string()])]);
    let again = broker.send(1, 13, next);
    assert_eq!(broker.fetched(again).error_code, ErrorCode::INVALID_FETCH_SESSION_EPOCH);
}

#[test]
fn what_is_wrong_with_a_produce_is_said_by_partition() {
    let mut broker = Broker1::new();
    let mut corrupt = batch("x").to_vec();
    *corrupt.last_mut().expect("bytes") ^= 1;
    let transactional = lying(&batch("x"), |header| header.attributes |= 1 << 4);
    let two = [batch("x"), batch("y")].concat();
    let mut zstd = BatchBuilder::new(0, -1, Compression::Zstd);
    zstd.append(0, None, Some(b"x"), &[]);
    let data = vec![
        (0, corrupt.into()),
        (1, transactional),
        (2, two.into()),
        (3, batch(&"z".repeat(20_000))),
        (4, Bytes::new()),
        (5, zstd.build()),
        (6, batch("good")),
        (99, batch("x")),
    ];
    let id = broker.produce(6, -1, data);
    let expected = [
        (0, ErrorCode::CORRUPT_MESSAGE, -1),
        (1, ErrorCode::INVALID_RECORD, -1),
        (2, ErrorCode::INVALID_RECORD, -1),
        (3, ErrorCode::MESSAGE_TOO_LARGE, -1),
        (4, ErrorCode::INVALID_RECORD, -1),
        (5, ErrorCode::UNSUPPORTED_COMPRESSION_TYPE, -1),
        (6, ErrorCode::NONE, 0),
        (99, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, -1),
    ];
    let response = broker.produced(id);
    assert_eq!(errors(&response), expected);

    let mut unknown = produce_request(-1, vec![(0, batch("x"))]);
    unknown.topic_data[0].topic_id = Uuid([9; 16]);
    let id = broker.send(0, 13, unknown);
    let response = broker.produced(id);
    assert_eq!(errors(&response)[0].1, ErrorCode::UNKNOWN_TOPIC_ID);
    let id = broker.produce(9, 2, vec![(0, batch("x"))]);
    let response = broker.produced(id);
    assert_eq!(errors(&response)[0].1, ErrorCode::INVALID_REQUIRED_ACKS);
    let many = (0..51).map(|p| (p, batch("x"))).collect();
    broker.produce(9, -1, many);
    assert_eq!(broker.closed, [ClientId(0)]);
    let topics = vec![MetadataRequestTopic::default(); 51];
    let id = broker.send(7, 9, MetadataRequest { topics: Some(topics), ..Default::default() });
    assert!(!broker.answered(id));
    assert_eq!(broker.closed, [ClientId(0), ClientId(7)]);
}

/// A copy of a batch whose header says something else, with a checksum that fits.
fn lying(batch: &Bytes, lie: impl FnOnce(&mut BatchHeader)) -> Bytes {
    let mut header = BatchHeader::parse(batch).expect("a batch");
    lie(&mut header);
    let mut bytes = [&header.to_bytes(), &batch[HEADER_LEN..]].concat();
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[21..]) as u32;
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

#[test]
fn records_are_opened_before_they_are_stored() {
    let mut broker = Broker1::new();
    for compression in Compression::ALL {
        let mut three = BatchBuilder::new(0, -1, compression);
        for i in 0..3 {
            three.append(i, None, Some(b"value"), &[]);
        }
        let three = three.build();
        let mut zeros = BatchBuilder::new(0, -1, compression);
        // More than any batch of this topic may hold when it is opened.
        zeros.append(0, None, Some(&vec![0; 2 << 20]), &[]);
        let count = lying(&three, |header| header.records_count = 2);
        let fewer = lying(&three, |header| {
            (header.records_count, header.last_offset_delta) = (2, 1);
        });
        let more = lying(&three, |header| {
            (header.records_count, header.last_offset_delta) = (4, 3);
        });
        let mut garbage = three.to_vec();
        garbage[HEADER_LEN..].fill(0x55);
        let garbage = lying(&garbage.into(), |_| ());
        let codec = lying(&three, |header| header.attributes = header.attributes % 4 + 1);
        let data = [count, fewer, more, garbage, codec, zeros.build(), three];
        let id = broker.produce(9, -1, (0..).zip(data).collect());
        let said = errors(&broker.produced(id));
        for (partition, code, offset) in &said[..5] {
            let damaged = [ErrorCode::INVALID_RECORD, ErrorCode::UNKNOWN_SERVER_ERROR];
            assert!(damaged.contains(code), "{compression:?}: {said:?}");
            assert_eq!(*offset, -1, "{compression:?}: partition {partition} took it");
        }
        assert_eq!(said[5].1, ErrorCode::MESSAGE_TOO_LARGE, "{compression:?}: {said:?}");
        let base = 3 * i64::from(compression as i16);
        assert_eq!(said[6], (6, ErrorCode::NONE, base), "{compression:?}");
    }
}

/// The first record at or after a time: error, time and offset.
fn listed(broker: &mut Broker1, partition_index: i32, timestamp: i64) -> (ErrorCode, i64, i64) {
    let asked = ListOffsetsPartition { partition_index, current_leader_epoch: -1, timestamp };
    let topic = ListOffsetsTopic { name: "t".into(), partitions: vec![asked] };
    let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
    let id = broker.send(1, 7, request);
    match broker.answer(id) {
        Some(Response::ListOffsets(response)) => {
            let found = &response.topics[0].partitions[0];
            (found.error_code, found.timestamp, found.offset)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_header_that_says_nothing_of_times_is_looked_up_by_those_of_its_records() {
    for compression in Compression::ALL {
        let mut broker = Broker1::new();
        for time in [1_000, 2_000, 3_000] {
            let mut builder = BatchBuilder::new(0, -1, compression);
            for delta in [0, 50, 10, 50] {
                builder.append(time + delta, None, Some(b"x"), &[]);
            }
            let lying = lying(&builder.build(), |header| header.max_timestamp = -1);
            let id = broker.produce(9, -1, vec![(2, lying)]);
            assert_eq!(errors(&broker.produced(id))[0].1, ErrorCode::NONE);
        }
        let none = ErrorCode::NONE;
        assert_eq!(listed(&mut broker, 2, 1_010), (none, 1_050, 1), "{compression:?}");
        assert_eq!(listed(&mut broker, 2, 2_000), (none, 2_000, 4));
        assert_eq!(listed(&mut broker, 2, 2_051), (none, 3_000, 8));
        assert_eq!(listed(&mut broker, 2, 3_051), (none, -1, -1));
        assert_eq!(listed(&mut broker, 2, MAX_TIMESTAMP), (none, 3_050, 9), "the first of two");
    }
}

#[test]
fn a_time_too_far_ahead_is_refused() {
    let mut broker = Broker1::new();
    let hour = 60 * 60 * 1000;
    let mut said = |time| {
        let mut builder = BatchBuilder::new(0, -1, Compression::None);
        builder.append(time, None, Some(b"x"), &[]);
        let id = broker.produce(9, -1, vec![(2, builder.build())]);
        errors(&broker.produced(id))[0].1
    };
    assert_eq!([said(-1), said(0), said(hour)], [ErrorCode::NONE; 3]);
    assert_eq!([said(3 * hour), said(i64::MAX)], [ErrorCode::INVALID_TIMESTAMP; 2]);
}

#[test]
fn a_lone_replica_makes_no_client_wait_in_vain() {
    let mut broker = Broker1::new();
    let mut request = produce_request(-1, vec![(2, batch("x"))]);
    request.timeout_ms = 0;
    broker.stalled = true;
    let id = broker.send(0, 9, request);
    broker.pass(10_000);
    assert!(!broker.answered(id), "nothing failed that may happen");
    broker.release_disk();
    assert_eq!(errors(&broker.produced(id))[0].1, ErrorCode::NONE);
}

#[test]
fn acks_decide_what_is_waited_for() {
    let mut broker = Broker1::new();
    broker.stalled = true;
    let all = broker.produce(9, -1, vec![(0, batch("a")), (1, batch("b"))]);
    let one = broker.produce(9, 1, vec![(0, batch("c"))]);
    let none = broker.produce(9, 0, vec![(0, batch("d"))]);
    assert!(!broker.answered(all) && !broker.answered(one), "nothing is on the disk");
    assert!(broker.answered(none));
    assert_eq!(broker.answer(none), None);
    let mut request = fetch_request(&[(0, 0)]);
    request.min_bytes = 200;
    let waits = broker.send(2, 12, request);
    broker.release_disk();
    assert_eq!(errors(&broker.produced(all)), [(0, ErrorCode::NONE, 0), (1, ErrorCode::NONE, 0)]);
    assert_eq!(errors(&broker.produced(one)), [(0, ErrorCode::NONE, 1)]);
    assert_eq!(values(&broker.fetched(waits))[0].2, ["a", "c", "d"]);

    // What an acks=0 client did wrong can only be told by closing.
    broker.produce(9, 0, vec![(99, batch("x"))]);
    assert_eq!(broker.closed, [ClientId(0)]);
}

/// Its time over, a client hears that nothing is known of its records.
#[test]
fn a_time_out_runs_where_other_replicas_are_waited_for() {
    let mut broker = Broker1::start(InstantDisk::default(), |image| {
        for partition in 0..PARTITIONS {
            let log = LogId { topic: TOPIC, partition };
            let partition = image.partition_mut(log).expect("it exists");
            partition.replicas.push(NodeId(2));
            partition.incarnations.push(ReplicaIncarnation(0));
            partition.isr.push(NodeId(2));
        }
    });
    let late = broker.produce(9, -1, vec![(0, batch("e"))]);
    broker.pass(1_000);
    assert_eq!(errors(&broker.produced(late)), [(0, ErrorCode::REQUEST_TIMED_OUT, -1)]);

    // Where none of them is left in sync and that is too few, it waits for one to come back, no longer than it was to.
    let late = broker.produce(9, -1, vec![(0, batch("f"))]);
    for partition in 0..PARTITIONS {
        let log = LogId { topic: TOPIC, partition };
        let partition = broker.image.partition_mut(log).expect("it exists");
        (partition.isr, partition.min_isr) = (vec![ME], 2);
        partition.partition_epoch += 1;
    }
    (0..SHARDS).for_each(|shard| broker.show(shard));
    broker.pass(1_000);
    let said = ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND;
    assert_eq!(errors(&broker.produced(late)), [(0, said, -1)]);
}

#[test]
fn what_waits_for_memory_is_refused_once_the_disk_takes_no_more() {
    let mut broker = Broker1::new();
    broker.stalled = true;
    let full = (0..200).find_map(|_| {
        let mut request = produce_request(-1, vec![(0, batch(&"x".repeat(9_000)))]);
        request.timeout_ms = 600_000;
        broker.send(0, 9, request);
        let refused = broker.replies.pop()?;
        Some(refused.0)
    });
    assert!(full.is_some(), "the queue of what waits is bounded");
    let waiting = broker.requests - 1;
    broker.disk.full = true;
    broker.pass(60_000);
    assert_eq!(errors(&broker.produced(waiting)), [(0, ErrorCode::KAFKA_STORAGE_ERROR, -1)]);
    let id = broker.produce(9, -1, vec![(1, batch("y")), (99, batch("z"))]);
    let refused =
        [(1, ErrorCode::KAFKA_STORAGE_ERROR, -1), (99, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, -1)];
    assert_eq!(errors(&broker.produced(id)), refused);
}

/// Room may come and go within one step: the last of what waits must not miss it.
#[test]
fn what_waits_for_memory_is_taken_when_a_deleted_topic_frees_it() {
    const OTHER: TopicId = TopicId([6; 16]);
    let mut broker = Broker1::start(InstantDisk::default(), |image| {
        let topic = image.topics[&TOPIC].clone();
        let other = Topic { id: OTHER, name: "other".into(), ..(*topic).clone() };
        image.topics.insert(OTHER, Arc::new(other));
        image.names.insert("other".into(), OTHER);
    });
    let shard = LogId { topic: TOPIC, partition: 0 }.shard(SHARDS);
    let partition = (0..PARTITIONS)
        .find(|partition| LogId { topic: OTHER, partition: *partition }.shard(SHARDS) == shard)
        .expect("one partition of the shard");
    let produce = |broker: &mut Broker1, topic: &str, partition| {
        let mut request = produce_request(-1, vec![(partition, batch(&"x".repeat(9_000)))]);
        request.topic_data[0].name = topic.into();
        request.timeout_ms = 600_000;
        broker.send(0, 9, request)
    };
    broker.segments_stalled = true;
    let mut stalled = Vec::new();
    while stalled.is_empty() {
        let id = produce(&mut broker, "t", 0);
        stalled.extend((!broker.answered(id)).then_some(id));
        assert!(id < 200, "memory is bounded");
    }
    stalled.extend((0..5).map(|_| produce(&mut broker, "other", partition)));
    delete_topic(&mut broker.image);
    (0..SHARDS).for_each(|shard| broker.show(shard));
    (0..3).for_each(|_| broker.pass(100));
    broker.release_disk();
    for id in stalled {
        assert!(broker.answered(id), "{id} still waits");
    }
}

#[test]
fn a_connection_that_is_gone_is_waited_for_no_more() {
    let mut broker = Broker1::new();
    broker.stalled = true;
    let all: Vec<_> = (0..PARTITIONS).map(|p| (p, 0)).collect();
    let fetch = broker.send(1, 12, fetch_request(&all));
    let data = (0..PARTITIONS).map(|p| (p, batch("x"))).collect();
    let produce = broker.send(1, 9, produce_request(-1, data));
    broker.step(1, Input::Hangup { client: ClientId(1) });
    broker.run();
    broker.release_disk();
    broker.pass(10_000);
    assert!(!broker.answered(fetch) && !broker.answered(produce));
    let idle = broker.shards.iter().filter_map(Machine::next_timeout);
    use milena_core::Timer::{Cleaning, FreeSpace, Retention};
    let is_upkeep = |why| matches!(why, Cleaning | FreeSpace | Retention);
    assert!(idle.map(|(_, why)| why).all(is_upkeep));
}

#[test]
fn offsets_and_epochs_are_looked_up() {
    let mut broker = Broker1::new();
    for (time, value) in [(100, "a"), (300, "b"), (200, "c")] {
        let mut batch = BatchBuilder::new(0, -1, Compression::None);
        batch.append(time, None, Some(value.as_bytes()), &[]);
        broker.produce(9, -1, vec![(2, batch.build())]);
    }
    let mut list = |partition_index: i32, timestamp: i64, current_leader_epoch: i32| {
        let asked = ListOffsetsPartition { partition_index, current_leader_epoch, timestamp };
        let topic = ListOffsetsTopic { name: "t".into(), partitions: vec![asked] };
        let request =
            ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
        let id = broker.send(1, 7, request);
        match broker.answer(id) {
            Some(Response::ListOffsets(response)) => {
                let found = response.topics[0].partitions[0].clone();
                (found.error_code, found.timestamp, found.offset, found.leader_epoch)
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(list(2, EARLIEST_TIMESTAMP, -1), (ErrorCode::NONE, -1, 0, 4));
    assert_eq!(list(2, LATEST_TIMESTAMP, 4), (ErrorCode::NONE, -1, 3, 4));
    assert_eq!(list(2, MAX_TIMESTAMP, -1), (ErrorCode::NONE, 300, 1, 4));
    assert_eq!(list(2, 150, -1), (ErrorCode::NONE, 300, 1, 4));
    assert_eq!(list(2, 301, -1), (ErrorCode::NONE, -1, -1, -1));
    assert_eq!(list(2, LATEST_TIMESTAMP, 3).0, ErrorCode::FENCED_LEADER_EPOCH);
    assert_eq!(list(2, LATEST_TIMESTAMP, 5).0, ErrorCode::UNKNOWN_LEADER_EPOCH);
    assert_eq!(list(88, LATEST_TIMESTAMP, -1).0, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);

    let asked = |leader_epoch| OffsetForLeaderPartition {
        partition: 2,
        current_leader_epoch: 4,
        leader_epoch,
    };
    let topic =
        OffsetForLeaderTopic { topic: "t".into(), partitions: vec![asked(4), asked(3), asked(9)] };
    let request = OffsetForLeaderEpochRequest { topics: vec![topic], ..Default::default() };
    let id = broker.send(0, 4, request);
    let Some(Response::OffsetForLeaderEpoch(response)) = broker.answer(id) else { panic!() };
    let found: Vec<_> =
        response.topics[0].partitions.iter().map(|p| (p.leader_epoch, p.end_offset)).collect();
    // Of an epoch from before the log the records went with the log start, and the log goes on there.
    assert_eq!(found, [(4, 3), (3, 0), (-1, -1)]);
}

/// Under load there always is a newer record that is not committed: it is not waited for.
#[test]
fn the_largest_timestamp_is_that_of_a_committed_record() {
    let mut broker = Broker1::new();
    // All stays in memory, or the lookup would wait for a disk that is stalled below.
    broker.segments_stalled = true;
    let produce = |broker: &mut Broker1, time| {
        let mut batch = BatchBuilder::new(0, -1, Compression::None);
        batch.append(time, None, Some(b"x"), &[]);
        broker.produce(9, -1, vec![(2, batch.build())])
    };
    for time in [100, 300, 200] {
        produce(&mut broker, time);
    }
    broker.stalled = true;
    let open = produce(&mut broker, 400);
    let asked = ListOffsetsPartition {
        partition_index: 2,
        current_leader_epoch: -1,
        timestamp: MAX_TIMESTAMP,
    };
    let topic = ListOffsetsTopic { name: "t".into(), partitions: vec![asked] };
    let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
    let id = broker.send(1, 7, request);
    let Some(Response::ListOffsets(response)) = broker.answer(id) else { panic!("it waits") };
    let found = &response.topics[0].partitions[0];
    assert_eq!((found.timestamp, found.offset, found.leader_epoch), (300, 1, 4));
    assert!(!broker.answered(open));
}

#[test]
fn a_deleted_topic_takes_its_logs_with_it() {
    let mut broker = Broker1::new();
    let data = (0..PARTITIONS).map(|p| (p, batch("x"))).collect();
    let id = broker.produce(9, -1, data);
    broker.produced(id);
    let waits = broker.send(1, 12, fetch_request(&[(0, 1), (1, 1)]));
    delete_topic(&mut broker.image);
    (0..SHARDS).for_each(|shard| broker.show(shard));
    broker.run();
    let response = broker.fetched(waits);
    assert!(values(&response).iter().all(|v| v.1 == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    assert_eq!(broker.logs(), 0);
}

#[test]
fn logs_of_a_topic_deleted_meanwhile_go_and_those_not_yet_named_stay() {
    let mut broker = Broker1::new();
    let data = (0..PARTITIONS).map(|p| (p, batch("x"))).collect();
    let id = broker.produce(9, -1, data);
    broker.produced(id);
    broker.pass(100);
    let disk = broker.disk;
    // A node that restarts may first see an image from before the topic was made.
    let older = |image: &mut Image| {
        delete_topic(image);
        image.end = 4;
    };
    let mut broker = Broker1::start(disk, older);
    assert_eq!(broker.logs(), PARTITIONS as usize);
    broker.image.end = 11;
    (0..SHARDS).for_each(|shard| broker.show(shard));
    assert_eq!(broker.logs(), 0, "this image is newer than the one that named the topic");
}

fn delete_topic(image: &mut Image) {
    let topic = image.names.remove("t").expect("the topic");
    image.topics.remove(&topic);
    image.end += 1;
}
