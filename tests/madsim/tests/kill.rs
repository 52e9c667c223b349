//! The production driver on madsim's deterministic executor, with only its runtime module replaced: three nodes take a
//! record with acks=all, the partition's leader is killed and started again, and the record is at its offset.
#![cfg(madsim)]

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use madsim::runtime::Handle;
use milena_core::config::StorageConfig;
use milena_core::{Config, NodeId};
use milena_madsim::runtime::{AsyncReadExt, AsyncWriteExt, TcpStream};
use milena_madsim::{files, kafka, node};
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

fn host(node: i32) -> String {
    format!("10.0.0.{node}")
}

fn settings(node: i32, data: PathBuf) -> node::Settings {
    node::Settings {
        config: Config {
            node: NodeId(node),
            controllers: (1..=NODES).map(|n| (NodeId(n), format!("{}:{PEER}", host(n)))).collect(),
            broker: true,
            controller: true,
            kafka: (host(node), KAFKA),
            peer: format!("{}:{PEER}", host(node)),
            rack: None,
            shards: 1,
            storage: StorageConfig {
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

/// Asks a node once, on a connection of its own.
async fn ask(node: i32, version: i16, request: Request) -> Result<Response, Failure> {
    let key = request.api_key();
    let exchange = async {
        let mut stream = TcpStream::connect(&format!("{}:{KAFKA}", host(node))).await?;
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
    madsim::time::timeout(Duration::from_secs(2), exchange).await?
}

async fn pause() {
    madsim::time::sleep(Duration::from_millis(100)).await;
}

async fn leader(asked: i32) -> Option<i32> {
    let topics = vec![MetadataRequestTopic { name: Some("t".into()), ..Default::default() }];
    let request = MetadataRequest { topics: Some(topics), ..Default::default() };
    let Ok(Response::Metadata(answer)) = ask(asked, 12, request.into()).await else { return None };
    let partition = answer.topics.first()?.partitions.first()?;
    (partition.error_code == ErrorCode::NONE).then_some(partition.leader_id)
}

/// Tries each node in turn until one gives what is wanted.
async fn until<T, F: Future<Output = Option<T>>>(attempt: impl Fn(i32) -> F) -> T {
    for node in (1..=NODES).cycle() {
        if let Some(found) = attempt(node).await {
            return found;
        }
        pause().await;
    }
    unreachable!("the cycle has no end")
}

async fn create(node: i32) -> Option<()> {
    let topic = CreatableTopic {
        name: "t".into(),
        num_partitions: 1,
        replication_factor: 3,
        ..Default::default()
    };
    let request =
        CreateTopicsRequest { topics: vec![topic], timeout_ms: 1_000, ..Default::default() };
    let Ok(Response::CreateTopics(answer)) = ask(node, 7, request.into()).await else {
        return None;
    };
    let code = answer.topics[0].error_code;
    (code == ErrorCode::NONE || code == ErrorCode::TOPIC_ALREADY_EXISTS).then_some(())
}

async fn produce(node: i32) -> Option<(i32, i64)> {
    let leader = leader(node).await?;
    let batch =
        BatchBuilder::new(0, -1, Compression::None).append(0, None, Some(b"kept"), &[]).build();
    let data = PartitionProduceData { index: 0, records: Some(batch) };
    let topic =
        TopicProduceData { name: "t".into(), partition_data: vec![data], ..Default::default() };
    let request = ProduceRequest {
        acks: -1,
        timeout_ms: 1_500,
        topic_data: vec![topic],
        ..Default::default()
    };
    let Ok(Response::Produce(answer)) = ask(leader, 9, request.into()).await else { return None };
    let partition = &answer.responses[0].partition_responses[0];
    (partition.error_code == ErrorCode::NONE).then_some((leader, partition.base_offset))
}

async fn fetch(node: i32, offset: i64) -> Option<Vec<u8>> {
    let leader = leader(node).await?;
    let partition = FetchPartition {
        partition: 0,
        fetch_offset: offset,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    };
    let topic = FetchTopic { topic: "t".into(), partitions: vec![partition], ..Default::default() };
    let request = FetchRequest {
        max_wait_ms: 100,
        min_bytes: 1,
        max_bytes: 1 << 20,
        topics: vec![topic],
        ..Default::default()
    };
    let Ok(Response::Fetch(answer)) = ask(leader, 12, request.into()).await else { return None };
    let records = answer.responses[0].partitions[0].records.clone()?.0.concat();
    let (_, bytes) = batch::batches(&Bytes::from(records)).next()?.ok()?;
    let record = batch::records(&bytes, DecompressLimit(1 << 20)).ok()?.into_iter().next()?;
    (record.offset == offset).then_some(record.value?.to_vec())
}

#[madsim::test]
async fn a_killed_leader_loses_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let handle = Handle::current();
    let mut nodes = Vec::new();
    for id in 1..=NODES {
        let data = directory.path().join(id.to_string());
        let address: IpAddr = host(id).parse().expect("an address");
        let node = handle.create_node().name(format!("node-{id}")).ip(address).init(move || {
            let settings = settings(id, data.clone());
            async move {
                let mut running = node::start(settings).expect("the node starts");
                let halt = running.ended().await;
                panic!("the node ended: {:?}", halt.as_ref().map(node::halt_line));
            }
        });
        nodes.push(node.build().id());
    }
    let client =
        handle.create_node().name("client").ip("10.0.0.9".parse().expect("address")).build();
    let done = client.spawn(async move {
        until(create).await;
        let (leader, offset) = until(produce).await;
        let killed = nodes[leader as usize - 1];
        Handle::current().kill(killed);
        let other = until(|node| async move {
            (node != leader).then_some(())?;
            produce(node).await.filter(|(other, _)| *other != leader)
        })
        .await;
        Handle::current().restart(killed);
        for at in [offset, other.1] {
            let value = until(|node| fetch(node, at)).await;
            assert_eq!(value, b"kept", "what was acknowledged at {at}");
        }
    });
    madsim::time::timeout(Duration::from_secs(120), done)
        .await
        .expect("in time")
        .expect("no panic");
}
