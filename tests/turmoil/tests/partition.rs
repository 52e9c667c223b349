//! The production driver as it is, its connections, worker and disk loops included, with only its runtime module replaced
//! by one over turmoil's simulated network: three nodes take records, the leader is cut off, another leads, the cut heals,
//! and every acknowledged record is at its offset.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use milena_core::{Config, NodeId};
use milena_turmoil::runtime::{AsyncReadExt, AsyncWriteExt, TcpStream};
use milena_turmoil::{files, kafka, node};
use milena_wire::batch::{self, BatchBuilder, Compression, DecompressLimit};
use milena_wire::messages::create_topics::CreatableTopic;
use milena_wire::messages::fetch::{FetchPartition, FetchTopic};
use milena_wire::messages::metadata::MetadataRequestTopic;
use milena_wire::messages::produce::{PartitionProduceData, TopicProduceData};
use milena_wire::messages::{CreateTopicsRequest, FetchRequest, MetadataRequest, ProduceRequest};
use milena_wire::{ErrorCode, Request, RequestHeader, Response, decode_response, encode_request};

const KAFKA: u16 = 9092;
const PEER: u16 = 19092;
const NODES: i32 = 3;
type Failure = Box<dyn std::error::Error>;

fn name(node: i32) -> String {
    format!("node-{node}")
}

fn settings(node: i32, data: PathBuf) -> node::Settings {
    node::Settings {
        config: Config {
            node: NodeId(node),
            controllers: (1..=NODES).map(|n| (NodeId(n), format!("{}:{PEER}", name(n)))).collect(),
            broker: true,
            controller: true,
            kafka: (name(node), KAFKA),
            peer: format!("{}:{PEER}", name(node)),
            rack: None,
            shards: 2,
            storage: milena_core::config::StorageConfig {
                journal_file_bytes: 1 << 20,
                journal_files: 4,
                ..Default::default()
            },
            quorum: Default::default(),
            replication: Default::default(),
        },
        data,
        unsynced: files::Unsynced::PageCache,
        kafka_listen: Some(format!("0.0.0.0:{KAFKA}")),
        peer_listen: format!("0.0.0.0:{PEER}"),
        limits: kafka::Limits::default(),
        port_flags: ("--kafka", "--peer"),
    }
}

/// Asks a node once, on a connection of its own; an error where no answer comes within two simulated seconds.
async fn ask(node: i32, version: i16, request: Request) -> Result<Response, Failure> {
    let key = request.api_key();
    let exchange = async {
        let mut stream = TcpStream::connect((name(node).as_str(), KAFKA)).await?;
        let header = RequestHeader {
            api_key: key as i16,
            api_version: version,
            correlation_id: 1,
            client_id: None,
        };
        let frame = encode_request(&header, &request).concat();
        stream.write_all(&(frame.len() as u32).to_be_bytes()).await?;
        stream.write_all(&frame).await?;
        let length = stream.read_u32().await?;
        let mut answer = vec![0; length as usize];
        stream.read_exact(&mut answer).await?;
        Ok::<_, Failure>(decode_response(key, version, Bytes::from(answer))?.1)
    };
    tokio::time::timeout(Duration::from_secs(2), exchange).await?
}

async fn create_topic() -> Result<(), Failure> {
    for attempt in 0.. {
        let topic = CreatableTopic {
            name: "t".into(),
            num_partitions: 1,
            replication_factor: 3,
            ..Default::default()
        };
        let request =
            CreateTopicsRequest { topics: vec![topic], timeout_ms: 1_000, ..Default::default() };
        if let Ok(Response::CreateTopics(answer)) =
            ask(1 + attempt % NODES, 7, Request::CreateTopics(request)).await
        {
            let code = answer.topics[0].error_code;
            if code == ErrorCode::NONE || code == ErrorCode::TOPIC_ALREADY_EXISTS {
                return Ok(());
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    unreachable!("the simulation's duration ends this")
}

/// The partition's leader as a node sees it.
async fn leader(asked: i32) -> Option<i32> {
    let topics = vec![MetadataRequestTopic { name: Some("t".into()), ..Default::default() }];
    let request = MetadataRequest { topics: Some(topics), ..Default::default() };
    match ask(asked, 12, Request::Metadata(request)).await {
        Ok(Response::Metadata(answer)) => {
            let partition = answer.topics.first()?.partitions.first()?;
            (partition.error_code == ErrorCode::NONE).then_some(partition.leader_id)
        }
        _ => None,
    }
}

/// Produces one record with acks=all through whoever leads in the eyes of these nodes, until it is acknowledged.
async fn produce(value: &str, asked: &[i32]) -> i64 {
    loop {
        for node in asked {
            let Some(leader) = leader(*node).await else { continue };
            if !asked.contains(&leader) {
                continue;
            }
            let batch = BatchBuilder::new(0, -1, Compression::None)
                .append(0, None, Some(value.as_bytes()), &[])
                .build();
            let data = PartitionProduceData { index: 0, records: Some(batch) };
            let request = ProduceRequest {
                acks: -1,
                timeout_ms: 1_500,
                topic_data: vec![TopicProduceData {
                    name: "t".into(),
                    partition_data: vec![data],
                    ..Default::default()
                }],
                ..Default::default()
            };
            if let Ok(Response::Produce(answer)) = ask(leader, 9, Request::Produce(request)).await {
                let partition = &answer.responses[0].partition_responses[0];
                if partition.error_code == ErrorCode::NONE {
                    return partition.base_offset;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Everything in the partition, by offset.
async fn read_all(upto: i64) -> BTreeMap<i64, String> {
    let mut seen = BTreeMap::new();
    while seen.last_key_value().is_none_or(|(offset, _)| *offset < upto) {
        let next = seen.last_key_value().map_or(0, |(offset, _)| offset + 1);
        let Some(leader) = leader(1).await else { continue };
        let partition = FetchPartition {
            partition: 0,
            fetch_offset: next,
            partition_max_bytes: 1 << 20,
            ..Default::default()
        };
        let request = FetchRequest {
            max_wait_ms: 100,
            min_bytes: 1,
            max_bytes: 1 << 20,
            topics: vec![FetchTopic {
                topic: "t".into(),
                partitions: vec![partition],
                ..Default::default()
            }],
            ..Default::default()
        };
        if let Ok(Response::Fetch(answer)) = ask(leader, 12, Request::Fetch(request)).await {
            let data = &answer.responses[0].partitions[0];
            let records = data.records.clone().unwrap_or_default().0.concat();
            for batch in batch::batches(&Bytes::from(records)) {
                let (_, bytes) = batch.expect("whole batches");
                let limit = DecompressLimit(1 << 20);
                for record in batch::records(&bytes, limit).expect("sound batches") {
                    let value = record.value.expect("values");
                    seen.insert(record.offset, String::from_utf8_lossy(&value).into_owned());
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    seen
}

async fn write_cut_off_heal_read() -> Result<(), Failure> {
    create_topic().await?;
    let everyone = [1, 2, 3];
    let mut acknowledged = BTreeMap::new();
    for i in 0..20 {
        let value = format!("before {i}");
        acknowledged.insert(produce(&value, &everyone).await, value);
    }

    let cut = loop {
        if let Some(leader) = leader(1).await {
            break leader;
        }
    };
    let others: Vec<i32> = everyone.into_iter().filter(|n| *n != cut).collect();
    others.iter().for_each(|other| turmoil::partition(name(cut), name(*other)));
    for i in 0..20 {
        let value = format!("during {i}");
        acknowledged.insert(produce(&value, &others).await, value);
    }
    others.iter().for_each(|other| turmoil::repair(name(cut), name(*other)));
    for i in 0..20 {
        let value = format!("after {i}");
        acknowledged.insert(produce(&value, &everyone).await, value);
    }

    let (last, _) = acknowledged.last_key_value().expect("sixty records");
    let seen = read_all(*last).await;
    for (offset, value) in &acknowledged {
        assert_eq!(seen.get(offset), Some(value), "what was acknowledged at {offset}");
    }
    assert_eq!(acknowledged.len(), 60, "every record has an offset of its own");
    Ok(())
}

#[test]
fn a_cut_off_leader_loses_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut sim = turmoil::Builder::new()
        .simulation_duration(Duration::from_secs(180))
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(5))
        .tcp_capacity(4096)
        .rng_seed(1)
        .build();
    for id in 1..=NODES {
        let data = directory.path().join(name(id));
        sim.host(name(id), move || {
            let settings = settings(id, data.clone());
            async move {
                let mut running = node::start(settings)?;
                match running.ended().await {
                    Some(halt) => Err(node::halt_line(&halt).into()),
                    None => Err("the node ended".into()),
                }
            }
        });
    }
    sim.client("client", write_cut_off_heal_read());
    sim.run().expect("the scenario holds");
}
