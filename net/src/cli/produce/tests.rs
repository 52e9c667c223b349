//! What `milena produce` sends to a broker that loses answers and knows producers again or does not.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread;

use clap::Parser;
use milena_wire::batch::BatchHeader;
use milena_wire::messages::{
    ApiVersionsResponse, DescribeConfigsResponse, InitProducerIdResponse, MetadataResponse,
    ProduceResponse,
    api_versions::ApiVersion,
    metadata::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic},
    produce::{PartitionProduceResponse, TopicProduceResponse},
};
use milena_wire::{decode_request, encode_response};

use super::super::arguments::{Cli, Command};
use super::*;

/// Values that Kafka's own documentation of the hash gives for its tests.
#[test]
fn keys_hash_as_in_kafka() {
    for (key, hash) in [
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
    ] {
        assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
    }
}

#[test]
fn lines_are_split_at_the_first_separator() {
    assert_eq!(split(b"a:b:c", b":"), Some((Some(&b"a"[..]), &b"b:c"[..])));
    assert_eq!(split(b"a=>b", b"=>"), Some((Some(&b"a"[..]), &b"b"[..])));
    assert_eq!(split(b"ab", b":"), None);
}

#[test]
fn numbers_begin_again_after_the_largest() {
    let mut producer = Producer { id: 1, epoch: 0, next: BTreeMap::from([(3, i32::MAX - 1)]) };
    producer.advance(3, 1);
    assert_eq!((producer.next(3), producer.next(4)), (i32::MAX, 0));
    producer.advance(3, 2);
    assert_eq!(producer.next(3), 1);
}

/// What becomes of a batch that a broker was sent.
#[derive(Clone, Copy)]
enum Fate {
    Answered(ErrorCode),
    /// When its connection is lost instead.
    Lost,
}

/// A broker that gives producer ids from 7 on, and what it was sent.
struct Broker {
    port: u16,
    fates: Mutex<VecDeque<Fate>>,
    ids: Mutex<i64>,
    /// Producer, first sequence number and records of each batch.
    seen: Mutex<Vec<(i64, i32, i32)>>,
}

impl Broker {
    fn begin(fates: &[Fate]) -> Arc<Broker> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let broker = Arc::new(Broker {
            port: listener.local_addr().expect("it is bound").port(),
            fates: Mutex::new(fates.iter().copied().collect()),
            ids: Mutex::new(7),
            seen: Mutex::default(),
        });
        let serving = broker.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                // One ends, and the next begins.
                let _ = stream.and_then(|stream| serving.serve(stream));
            }
        });
        broker
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let mut prefix = [0; 4];
            stream.read_exact(&mut prefix)?;
            let mut frame = vec![0; u32::from_be_bytes(prefix) as usize];
            stream.read_exact(&mut frame)?;
            let (header, request) = decode_request(frame.into()).expect("a request");
            let Some(response) = self.answer(request) else { return Ok(()) };
            let answer = encode_response(header.correlation_id, header.api_version, &response);
            let answer = answer.concat();
            stream.write_all(&(answer.len() as u32).to_be_bytes())?;
            stream.write_all(&answer)?;
        }
    }

    fn answer(&self, request: Request) -> Option<Response> {
        Some(match request {
            Request::ApiVersions(_) => {
                let known = |api: &ApiKey| {
                    let (min_version, max_version) = api.versions();
                    ApiVersion { api_key: *api as i16, min_version, max_version }
                };
                let api_keys = ApiKey::ALL.iter().map(known).collect();
                ApiVersionsResponse { api_keys, ..Default::default() }.into()
            }
            Request::Metadata(_) => {
                let broker = MetadataResponseBroker {
                    node_id: 1,
                    host: "127.0.0.1".into(),
                    port: self.port.into(),
                    ..Default::default()
                };
                let partition = MetadataResponsePartition { leader_id: 1, ..Default::default() };
                let topic = MetadataResponseTopic {
                    name: Some("t".into()),
                    partitions: vec![partition],
                    ..Default::default()
                };
                let (brokers, topics) = (vec![broker], vec![topic]);
                MetadataResponse { brokers, topics, ..Default::default() }.into()
            }
            Request::DescribeConfigs(_) => DescribeConfigsResponse::default().into(),
            Request::InitProducerId(_) => {
                let mut next = self.ids.lock().expect("nobody panics");
                *next += 1;
                InitProducerIdResponse { producer_id: *next - 1, ..Default::default() }.into()
            }
            Request::Produce(request) => {
                let records = request.topic_data[0].partition_data[0].records.clone();
                let header = BatchHeader::parse(&records.expect("records")).expect("a batch");
                let BatchHeader { producer_id, base_sequence, records_count, .. } = header;
                let batch = (producer_id, base_sequence, records_count);
                self.seen.lock().expect("nobody panics").push(batch);
                let fate = self.fates.lock().expect("nobody panics").pop_front();
                let Fate::Answered(error_code) = fate.unwrap_or(TAKEN) else { return None };
                let partition = PartitionProduceResponse { error_code, ..Default::default() };
                let (name, partition_responses) = ("t".into(), vec![partition]);
                let topic =
                    TopicProduceResponse { name, partition_responses, ..Default::default() };
                ProduceResponse { responses: vec![topic], ..Default::default() }.into()
            }
            other => panic!("{other:?}"),
        })
    }
}

const TAKEN: Fate = Fate::Answered(ErrorCode::NONE);

/// Sends batches of two lines each with these flags: what the broker saw, how many records may be there twice, and why it
/// ended.
fn produce(flags: &[&str], fates: &[Fate], batches: u64) -> (Vec<(i64, i32, i32)>, u64, String) {
    let broker = Broker::begin(fates);
    let bootstrap = format!("127.0.0.1:{}", broker.port);
    let arguments = ["milena", "produce", "t", "--bootstrap", &bootstrap];
    let arguments = arguments.iter().chain(flags);
    let Command::Produce(command) = Cli::parse_from(arguments).command else { panic!("another") };
    let mut sender = Sender::new(&command).expect("it begins");
    let mut all = || {
        for batch in 0..batches {
            sender.add(2 * batch + 1, None, Some(b"one"))?;
            sender.add(2 * batch + 2, None, Some(b"two"))?;
            sender.flush()?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let ended = all().map_or_else(|error| format!("{error:#}"), |()| String::new());
    let seen = broker.seen.lock().expect("nobody panics").clone();
    (seen, sender.repeated, ended)
}

#[test]
fn a_batch_whose_answer_was_lost_is_sent_again_with_its_numbers() {
    let again = Fate::Answered(ErrorCode::NOT_LEADER_OR_FOLLOWER);
    let doubled = Fate::Answered(ErrorCode::DUPLICATE_SEQUENCE_NUMBER);
    let sent = produce(&[], &[TAKEN, Fate::Lost, again, TAKEN, Fate::Lost, doubled], 4);
    let batches = [0, 2, 2, 2, 4, 4, 6].map(|sequence| (7, sequence, 2));
    assert_eq!(sent, (batches.to_vec(), 0, String::new()));
}

#[test]
fn without_numbers_it_may_be_there_twice() {
    for flags in [&["--acks=1"][..], &["--idempotence=false"], &["--idempotence", "false"]] {
        let sent = produce(flags, &[Fate::Lost, TAKEN, TAKEN], 2);
        assert_eq!(sent, ([(-1, -1, 2); 3].to_vec(), 2, String::new()), "{flags:?}");
    }
}

#[test]
fn a_producer_that_is_forgotten_takes_another_id() {
    let forgotten = Fate::Answered(ErrorCode::UNKNOWN_PRODUCER_ID);
    let sent = produce(&["--idempotence", "true"], &[TAKEN, forgotten, TAKEN, TAKEN], 3);
    let batches = vec![(7, 0, 2), (7, 2, 2), (8, 0, 2), (8, 2, 2)];
    assert_eq!(sent, (batches, 0, String::new()));
    let sent = produce(&[], &[TAKEN, Fate::Lost, forgotten, TAKEN], 2);
    assert_eq!(sent.1, 2, "the lost attempt may have come after all");
}

#[test]
fn numbers_that_do_not_fit_end_it_with_advice() {
    for code in [ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, ErrorCode::INVALID_PRODUCER_EPOCH] {
        let (seen, _, ended) = produce(&[], &[TAKEN, Fate::Answered(code)], 3);
        assert_eq!(seen.len(), 2, "{code} is not tried again");
        let advice = "look at the end of the partition, and send from there on";
        assert!(ended.contains(code.name().unwrap()) && ended.contains(advice), "{ended}");
    }
}

#[test]
fn idempotence_without_safety_is_refused() {
    let arguments = ["milena", "produce", "t", "--idempotence=true", "--acks", "1"];
    let Command::Produce(command) = Cli::parse_from(arguments).command else { panic!("another") };
    let Err(Failure::Usage(line)) = run(&command) else { panic!("it ran") };
    assert!(line.contains("--acks all"), "{line}");
}
