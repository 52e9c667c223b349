//! A cluster's settings and a client for it on a simulated network. The test that takes this file in says by `driver` which
//! build of the driver it drives, and by `host` what its nodes are called.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use milena_core::config::StorageConfig;
use milena_core::{Config, NodeId};
use milena_wire::batch::{self, BatchBuilder, Compression, DecompressLimit};
use milena_wire::messages::create_topics::CreatableTopic;
use milena_wire::messages::fetch::{FetchPartition, FetchTopic};
use milena_wire::messages::metadata::MetadataRequestTopic;
use milena_wire::messages::produce::{PartitionProduceData, TopicProduceData};
use milena_wire::messages::{CreateTopicsRequest, FetchRequest, MetadataRequest, ProduceRequest};
use milena_wire::{ErrorCode, Request, RequestHeader, Response, decode_response, encode_request};

use crate::driver::runtime::{AsyncReadExt, AsyncWriteExt, TcpStream, select, sleep};
use crate::driver::{files, kafka, node};
use crate::host;

const KAFKA: u16 = 9092;
const PEER: u16 = 19092;
/// Nodes 1 to this, each broker and controller.
pub const NODES: i32 = 3;
/// What may go wrong with a request.
pub type Failure = Box<dyn std::error::Error>;

/// A node of two shards with small files.
pub fn settings(node: i32, data: PathBuf) -> node::Settings {
    node::Settings {
        config: Config {
            node: NodeId(node),
            controllers: (1..=NODES).map(|n| (NodeId(n), format!("{}:{PEER}", host(n)))).collect(),
            broker: true,
            controller: true,
            kafka: (host(node), KAFKA),
            peer: format!("{}:{PEER}", host(node)),
            rack: None,
            shards: 2,
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

/// Asks a node once, on a connection of its own; an error where no answer comes within two simulated seconds.
async fn ask(node: i32, version: i16, request: Request) -> Result<Response, Failure> {
    let key = request.api_key();
    let exchange = async {
        let mut stream = TcpStream::connect(&*format!("{}:{KAFKA}", host(node))).await?;
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
    select! {
        answer = exchange => answer,
        () = sleep(Duration::from_secs(2)) => Err("no answer in time".into()),
    }
}

/// Tries nodes in turn until one gives what is wanted.
pub async fn until<T, F: Future<Output = Option<T>>>(
    nodes: &[i32],
    attempt: impl Fn(i32) -> F,
) -> T {
    loop {
        for node in nodes {
            if let Some(found) = attempt(*node).await {
                return found;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Makes the topic: one partition on all nodes.
pub async fn create(node: i32) -> Option<()> {
    let topic = CreatableTopic {
        name: "t".into(),
        num_partitions: 1,
        replication_factor: NODES as i16,
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

/// The partition's leader in the eyes of a node.
pub async fn leader(asked: i32) -> Option<i32> {
    let topics = vec![MetadataRequestTopic { name: Some("t".into()), ..Default::default() }];
    let request = MetadataRequest { topics: Some(topics), ..Default::default() };
    let Ok(Response::Metadata(answer)) = ask(asked, 12, request.into()).await else { return None };
    let partition = answer.topics.first()?.partitions.first()?;
    (partition.error_code == ErrorCode::NONE).then_some(partition.leader_id)
}

/// Produces a record with acks=all to whoever leads in the eyes of a node, unless that is `but`: leader and offset.
pub async fn produce(asked: i32, value: &str, but: Option<i32>) -> Option<(i32, i64)> {
    let leader = leader(asked).await.filter(|leader| Some(*leader) != but)?;
    let batch = BatchBuilder::new(0, -1, Compression::None)
        .append(0, None, Some(value.as_bytes()), &[])
        .build();
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

/// The record at an offset, from whoever leads in the eyes of a node.
pub async fn fetch(asked: i32, offset: i64) -> Option<String> {
    let leader = leader(asked).await?;
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
    let value = record.value.filter(|_| record.offset == offset)?;
    Some(String::from_utf8_lossy(&value).into_owned())
}
