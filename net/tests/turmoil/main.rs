//! The driver's own loops over a simulated network: its modules as they are, with another runtime below them.
//!
//! Three nodes found a cluster; a client produces with acks=all; the leader is cut off from the others, which elect another
//! and go on; the network heals, the old leader follows; every acknowledged record is at its offset.
//!
//! Without the test harness, so that the modules' own tests, which want real threads, stay where they belong.

#![allow(
    dead_code,
    unused_imports,
    reason = "the driver's modules are here whole; this test uses what it needs"
)]
#![allow(missing_docs, reason = "a test has no interface")]

#[path = "../../src/files/mod.rs"]
mod files;
#[path = "../../src/frames.rs"]
mod frames;
#[path = "../../src/host.rs"]
mod host;
#[path = "../../src/kafka.rs"]
mod kafka;
#[path = "../../src/node.rs"]
mod node;
#[path = "../../src/peers.rs"]
mod peers;
mod runtime;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::Duration;

use milena_core::{Config, NodeId};
use milena_wire::batch::{BatchBuilder, Compression, DecompressLimit, batches, record_iterator};
use milena_wire::messages::{
    CreateTopicsRequest, FetchRequest, MetadataRequest, ProduceRequest,
    create_topics::CreatableTopic,
    fetch::{FetchPartition, FetchTopic},
    metadata::{MetadataRequestTopic, MetadataResponseTopic},
    produce::{PartitionProduceData, TopicProduceData},
};
use milena_wire::{ErrorCode, Request, RequestHeader, Response, decode_response, encode_request};

use files::Unsynced;
use frames::{FrameReader, push_frame, write_some};
use node::Settings;
use runtime::TcpStream;

type Outcome<T> = Result<T, String>;

const NODES: [&str; 3] = ["n1", "n2", "n3"];

fn settings(index: usize, data: &Path) -> Settings {
    let controllers: Vec<(NodeId, String)> =
        (1..).zip(NODES).map(|(id, host)| (NodeId(id), format!("{host}:19092"))).collect();
    let config = Config {
        node: controllers[index].0,
        peer: controllers[index].1.clone(),
        controllers,
        broker: true,
        controller: true,
        kafka: (NODES[index].into(), 9092),
        rack: None,
        shards: 1,
        storage: Default::default(),
        quorum: Default::default(),
        replication: Default::default(),
    };
    Settings {
        config,
        data: data.join(NODES[index]),
        unsynced: Unsynced::Memory,
        kafka_listen: Some("0.0.0.0:9092".into()),
        peer_listen: "0.0.0.0:19092".into(),
        limits: Default::default(),
        port_flags: ("--kafka", "--peer"),
    }
}

/// One request on a connection of its own.
async fn call(host: &str, request: &Request, version: i16) -> Outcome<Response> {
    let exchange = async {
        let stream = TcpStream::connect(format!("{host}:9092")).await?;
        let (from, mut to) = stream.into_split();
        let header = RequestHeader {
            api_key: request.api_key() as i16,
            api_version: version,
            correlation_id: 1,
            client_id: None,
        };
        let mut out = VecDeque::new();
        push_frame(&mut out, encode_request(&header, request));
        while !out.is_empty() {
            write_some(&mut to, &mut out).await?;
        }
        FrameReader::new(from, 1 << 24).next().await.map_err(std::io::Error::other)
    };
    tokio::select! {
        frame = exchange => {
            let frame = frame.map_err(|error| format!("{host}: {error}"))?;
            let decoded = decode_response(request.api_key(), version, frame);
            decoded.map(|(_, response)| response).map_err(|error| error.to_string())
        }
        () = runtime::sleep(Duration::from_secs(3)) => Err(format!("{host}: no answer")),
    }
}

async fn create(host: &str) -> Outcome<()> {
    let topic = CreatableTopic {
        name: "kept".into(),
        num_partitions: 1,
        replication_factor: 3,
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], ..Default::default() };
    let Response::CreateTopics(answer) = call(host, &request.into(), 7).await? else {
        return Err("another answer".into());
    };
    match answer.topics[0].error_code {
        ErrorCode::NONE | ErrorCode::TOPIC_ALREADY_EXISTS => Ok(()),
        error => Err(format!("{error:?} {:?}", answer.topics[0].error_message)),
    }
}

async fn metadata(host: &str) -> Outcome<MetadataResponseTopic> {
    let topic = MetadataRequestTopic { name: Some("kept".into()), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
    let Response::Metadata(answer) = call(host, &request.into(), 12).await? else {
        return Err("another answer".into());
    };
    let topic = answer.topics.into_iter().next().ok_or("no topic")?;
    match topic.error_code {
        ErrorCode::NONE => Ok(topic),
        error => Err(format!("{error:?}")),
    }
}

async fn leader(host: &str) -> Outcome<usize> {
    let topic = metadata(host).await?;
    usize::try_from(topic.partitions[0].leader_id - 1).map_err(|_| "no leader".into())
}

async fn produce(host: &str, value: &str) -> Outcome<i64> {
    let mut batch = BatchBuilder::new(0, -1, Compression::None);
    batch.append(1, None, Some(value.as_bytes()), &[]);
    let request = ProduceRequest {
        transactional_id: None,
        acks: -1,
        timeout_ms: 2_000,
        topic_data: vec![TopicProduceData {
            name: "kept".into(),
            partition_data: vec![PartitionProduceData { index: 0, records: Some(batch.build()) }],
            ..Default::default()
        }],
    };
    let Response::Produce(answer) = call(host, &request.into(), 9).await? else {
        return Err("another answer".into());
    };
    let partition = &answer.responses[0].partition_responses[0];
    match partition.error_code {
        ErrorCode::NONE => Ok(partition.base_offset),
        error => Err(format!("{error:?}")),
    }
}

async fn fetch_all(host: &str) -> Outcome<BTreeMap<i64, String>> {
    let mut records = BTreeMap::new();
    loop {
        let next = records.last_key_value().map_or(0, |(offset, _)| offset + 1);
        let request = FetchRequest {
            max_wait_ms: 200,
            topics: vec![FetchTopic {
                topic: "kept".into(),
                partitions: vec![FetchPartition {
                    fetch_offset: next,
                    partition_max_bytes: 1 << 20,
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let Response::Fetch(answer) = call(host, &request.into(), 11).await? else {
            return Err("another answer".into());
        };
        let data = &answer.responses[0].partitions[0];
        if data.error_code.is_some() {
            return Err(format!("{:?}", data.error_code));
        }
        for batch in batches(&data.records.clone().unwrap_or_default().to_bytes()) {
            let (_, batch) = batch.map_err(|error| error.to_string())?;
            for record in
                record_iterator(&batch, DecompressLimit(1 << 20)).map_err(|e| e.to_string())?
            {
                let record = record.map_err(|error| error.to_string())?;
                let value = String::from_utf8_lossy(&record.value.unwrap_or_default()).into_owned();
                records.insert(record.offset, value);
            }
        }
        if records.last_key_value().map_or(0, |(offset, _)| offset + 1) >= data.high_watermark {
            return Ok(records);
        }
    }
}

/// Does something again until it succeeds.
async fn again<T, F: Future<Output = Outcome<T>>>(what: &str, mut attempt: impl FnMut() -> F) -> T {
    let mut why = String::new();
    for _ in 0..100 {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => why = error,
        }
        runtime::sleep(Duration::from_millis(300)).await;
    }
    panic!("{what}: {why}");
}

/// Produces numbered records by way of whoever leads in the eyes of `host`.
async fn produce_some(
    host: &str,
    numbers: std::ops::Range<u32>,
    acked: &mut BTreeMap<i64, String>,
) {
    for number in numbers {
        let value = format!("record {number}");
        let offset = again("produce", || async {
            let leads = leader(host).await?;
            produce(NODES[leads], &value).await
        })
        .await;
        assert_eq!(acked.insert(offset, value), None, "offset {offset} was given twice");
    }
}

async fn scenario() -> turmoil::Result {
    again("create the topic", || create("n1")).await;
    let mut acked = BTreeMap::new();
    produce_some("n1", 0..20, &mut acked).await;

    let old = again("find the leader", || leader("n1")).await;
    let others: Vec<usize> = (0..3).filter(|node| *node != old).collect();
    others.iter().for_each(|other| turmoil::partition(NODES[old], NODES[*other]));
    let refused = produce(NODES[old], "from the minority").await;
    assert!(refused.is_err(), "a leader alone acknowledged at {refused:?}");
    again("elect another leader", || async {
        let now = leader(NODES[others[0]]).await?;
        if now == old { Err("the old one still leads".into()) } else { Ok(()) }
    })
    .await;
    produce_some(NODES[others[0]], 20..40, &mut acked).await;

    others.iter().for_each(|other| turmoil::repair(NODES[old], NODES[*other]));
    again("bring the old leader back in sync", || async {
        let topic = metadata(NODES[old]).await?;
        let isr = &topic.partitions[0].isr_nodes;
        if isr.len() == 3 { Ok(()) } else { Err(format!("in sync: {isr:?}")) }
    })
    .await;
    produce_some(NODES[old], 40..50, &mut acked).await;
    let leads = again("find the leader", || leader(NODES[old])).await;
    let there = again("fetch", || fetch_all(NODES[leads])).await;
    for (offset, value) in &acked {
        assert_eq!(there.get(offset), Some(value), "offset {offset}");
    }
    assert_eq!(acked.len(), 50);
    Ok(())
}

fn main() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut simulation = turmoil::Builder::new()
        .simulation_duration(Duration::from_secs(300))
        .min_message_latency(Duration::from_micros(200))
        .max_message_latency(Duration::from_millis(3))
        .tcp_capacity(1 << 14)
        .rng_seed(7)
        .build();
    for (index, name) in NODES.into_iter().enumerate() {
        let data = directory.path().to_path_buf();
        simulation.host(name, move || {
            let settings = settings(index, &data);
            async move {
                let mut running = node::start(settings)?;
                let halt = running.ended().await;
                panic!("node {} ended: {halt:?}", NODES[index]);
            }
        });
    }
    simulation.client("client", scenario());
    simulation.run().expect("the scenario holds");
    println!(
        "turmoil: produce, partition and heal held over {:.1} simulated seconds",
        simulation.elapsed().as_secs_f64()
    );
}
