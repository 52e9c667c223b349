//! What the benchmark sends and reads: prebuilt batches, a few in flight per partition, so that the generator costs little
//! of what it measures.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use milena_wire::batch::{BatchBuilder, BatchHeader, Compression, with_header};
use milena_wire::messages::{
    CreateTopicsRequest, FetchRequest, ProduceRequest,
    create_topics::{CreatableTopic, CreatableTopicConfig},
    fetch::{FetchPartition, FetchTopic},
    metadata::MetadataResponseTopic,
    produce::{PartitionProduceData, TopicProduceData},
};
use milena_wire::{ApiKey, Request, Response, Uuid};

use super::limits::histogram;
use crate::client::{Client, Connection, check, leader};
use crate::runtime;

/// Batches of one partition that are not acknowledged yet.
pub const IN_FLIGHT: usize = 5;
const TIMEOUT: Duration = Duration::from_secs(30);

/// How records are produced.
#[derive(Clone, Copy)]
pub enum Produces {
    /// Without keys and numbers.
    Plainly,
    /// With producer ids and sequence numbers.
    Numbered,
    /// With keys that come again.
    Keyed,
}

/// After so many batches the same keys come again.
const KEYED_BATCHES: usize = 16;

/// A topic under load.
pub struct Target {
    bootstrap: Vec<String>,
    name: String,
    id: Uuid,
    /// Leader's address, by partition.
    leaders: Vec<String>,
}

/// What a load came to.
#[derive(Clone, Copy, Default)]
pub struct Throughput {
    /// Records.
    pub records: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

impl Throughput {
    /// Counts another load of the same kind, after this one.
    pub fn add(&mut self, other: Throughput) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.seconds += other.seconds;
    }

    /// Megabytes (10^6) per second.
    pub fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds
    }

    /// Records per second.
    pub fn records_per_second(&self) -> f64 {
        self.records as f64 / self.seconds
    }
}

impl Target {
    /// Makes a topic.
    pub fn create(
        bootstrap: &[String],
        name: &str,
        partitions: usize,
        replicas: usize,
        configs: &[(&str, &str)],
    ) -> Result<Target> {
        let mut client = Client::new(bootstrap.to_vec(), TIMEOUT);
        let topic = CreatableTopic {
            name: name.into(),
            num_partitions: partitions as i32,
            replication_factor: replicas as i16,
            configs: configs
                .iter()
                .map(|(name, value)| CreatableTopicConfig {
                    name: (*name).into(),
                    value: Some((*value).into()),
                })
                .collect(),
            ..Default::default()
        };
        let request =
            CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
        client.again("create a topic", |client| {
            let Response::CreateTopics(answer) = client.any(&request.clone().into())? else {
                bail!("the broker answered something else");
            };
            let topic = answer.topics.first().context("the broker left the topic out")?;
            check(topic.error_code, topic.error_message.as_deref())
        })?;
        let topic: MetadataResponseTopic = client.again("see a topic", |client| {
            let topic = client.topic(name, true)?;
            for partition in &topic.partitions {
                leader(&topic, partition.partition_index)?;
            }
            Ok(topic)
        })?;
        let mut partitions = topic.partitions;
        partitions.sort_by_key(|partition| partition.partition_index);
        let leaders =
            partitions.iter().map(|p| client.address(p.leader_id)).collect::<Result<_>>()?;
        let (bootstrap, name) = (bootstrap.to_vec(), name.into());
        let target = Target { bootstrap, name, id: topic.topic_id, leaders };
        // Others may see a topic before its leaders do.
        for (partition, leader) in target.leaders.iter().enumerate() {
            let request = target.produce_request(partition, batch(1, 1, Some(0)));
            let first = |client: &mut Client| acknowledge(client.at(leader, &request)?);
            client.again("write the first record of a topic", first)?;
        }
        Ok(target)
    }

    /// The leader of a partition.
    fn connect(&self, partition: usize) -> Result<Connection> {
        Connection::open(&self.leaders[partition], TIMEOUT)
    }

    fn produce_request(&self, partition: usize, records: Bytes) -> Request {
        ProduceRequest {
            transactional_id: None,
            acks: -1,
            timeout_ms: TIMEOUT.as_millis() as i32,
            topic_data: vec![TopicProduceData {
                name: self.name.clone(),
                topic_id: self.id,
                partition_data: vec![PartitionProduceData {
                    index: partition as i32,
                    records: Some(records),
                }],
            }],
        }
        .into()
    }

    /// Produces to every partition at once for a while.
    pub fn produce(
        &self,
        how: Produces,
        record_bytes: usize,
        batch_bytes: usize,
        duration: Duration,
    ) -> Result<Throughput> {
        let per_batch = (batch_bytes / record_bytes).max(1);
        let batches: Vec<Bytes> = match how {
            Produces::Keyed => (0..KEYED_BATCHES)
                .map(|number| batch(record_bytes, per_batch, Some(number * per_batch)))
                .collect(),
            Produces::Plainly | Produces::Numbered => vec![batch(record_bytes, per_batch, None)],
        };
        let producers = match how {
            Produces::Numbered => Some(self.producers()?),
            Produces::Plainly | Produces::Keyed => None,
        };
        let producer = |partition: usize| producers.as_ref().map(|all| all[partition]);
        let began = Instant::now();
        let batches: u64 = self
            .each_partition(|partition| {
                self.produce_one(partition, &batches, producer(partition), began + duration)
            })?
            .into_iter()
            .sum();
        let records = batches * per_batch as u64;
        Ok(Throughput {
            records,
            bytes: records * record_bytes as u64,
            seconds: began.elapsed().as_secs_f64(),
        })
    }

    /// A producer of each partition.
    fn producers(&self) -> Result<Vec<(i64, i16)>> {
        let mut client = Client::new(self.bootstrap.clone(), TIMEOUT);
        let mut begin = |_| client.again("get a producer id", Client::producer_id);
        self.leaders.iter().map(&mut begin).collect()
    }

    fn produce_one(
        &self,
        partition: usize,
        batches: &[Bytes],
        producer: Option<(i64, i16)>,
        end: Instant,
    ) -> Result<u64> {
        let mut connection = self.connect(partition)?;
        let (mut in_flight, mut acknowledged, mut sequence) = (VecDeque::new(), 0, 0_i32);
        for batch in batches.iter().cycle() {
            if in_flight.len() == IN_FLIGHT || Instant::now() >= end {
                let Some(version) = in_flight.pop_front() else { break };
                acknowledge(connection.receive(ApiKey::Produce, version)?)?;
                acknowledged += 1;
            }
            if Instant::now() < end {
                // Without numbers, too, each batch gets its checksum anew, so that this costs both the same.
                let mut header = BatchHeader { crc: 0, ..BatchHeader::parse(batch)? };
                if let Some((id, epoch)) = producer {
                    (header.producer_id, header.producer_epoch) = (id, epoch);
                    header.base_sequence = sequence;
                    sequence = sequence.wrapping_add(header.records_count) & i32::MAX;
                }
                let request = self.produce_request(partition, with_header(batch, &header));
                in_flight.push_back(connection.send(&request)?);
            }
        }
        Ok(acknowledged)
    }

    /// Reads every partition from its beginning, again and again, for a while.
    pub fn consume(&self, record_bytes: usize, duration: Duration) -> Result<Throughput> {
        let began = Instant::now();
        let end = began + duration;
        let bytes: u64 =
            self.each_partition(|partition| self.consume_one(partition, end))?.into_iter().sum();
        Ok(Throughput {
            // What a record costs beside its value is small, but it is there.
            records: bytes / record_bytes as u64,
            bytes,
            seconds: began.elapsed().as_secs_f64(),
        })
    }

    fn consume_one(&self, partition: usize, end: Instant) -> Result<u64> {
        let mut connection = self.connect(partition)?;
        let (mut next, mut bytes) = (0, 0);
        while Instant::now() < end {
            let request = FetchRequest {
                max_wait_ms: 100,
                min_bytes: 1,
                max_bytes: 4 << 20,
                topics: vec![FetchTopic {
                    topic: self.name.clone(),
                    topic_id: self.id,
                    partitions: vec![FetchPartition {
                        partition: partition as i32,
                        fetch_offset: next,
                        partition_max_bytes: 4 << 20,
                        ..Default::default()
                    }],
                }],
                ..Default::default()
            };
            let Response::Fetch(answer) = connection.call(&request.into())? else {
                bail!("the broker answered something else");
            };
            check(answer.error_code, None)?;
            let data = answer
                .responses
                .into_iter()
                .flat_map(|topic| topic.partitions)
                .next()
                .context("the broker left the partition out")?;
            check(data.error_code, None)?;
            let records = data.records.map(|records| records.to_bytes()).unwrap_or_default();
            let mut after = next;
            for batch in milena_wire::batch::batches(&records) {
                let Ok((header, batch)) = batch else { break };
                bytes += batch.len() as u64;
                after = header.next_offset();
            }
            next = if after >= data.high_watermark { 0 } else { after };
        }
        Ok(bytes)
    }

    /// Sends one record after the other, each when the last is acknowledged, while something goes on.
    pub fn lone_records(
        &self,
        record_bytes: usize,
        goes_on: impl Fn() -> bool,
    ) -> Result<Histogram<u64>> {
        let mut connection = self.connect(0)?;
        let request = self.produce_request(0, batch(record_bytes, 1, None));
        let mut times = histogram();
        for _ in 0..50 {
            acknowledge(connection.call(&request)?)?;
        }
        while goes_on() {
            let began = Instant::now();
            acknowledge(connection.call(&request)?)?;
            times.saturating_record(began.elapsed().as_nanos() as u64);
        }
        Ok(times)
    }

    fn each_partition<T: Send>(&self, work: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
        runtime::in_parallel(self.leaders.len(), work).into_iter().collect()
    }

    /// Deletes the topic.
    pub fn delete(self) -> Result<()> {
        let request = milena_wire::messages::DeleteTopicsRequest {
            topics: vec![milena_wire::messages::delete_topics::DeleteTopicState {
                name: Some(self.name.clone()),
                ..Default::default()
            }],
            topic_names: vec![self.name.clone()],
            timeout_ms: 10_000,
        };
        Client::new(self.bootstrap, TIMEOUT).any(&request.into())?;
        Ok(())
    }
}

/// A batch of records, with keys from a number on or without keys.
fn batch(record_bytes: usize, records: usize, keys: Option<usize>) -> Bytes {
    let mut builder = BatchBuilder::new(0, -1, Compression::None);
    for i in 0..records {
        // Incompressible enough for a file system that would like to help.
        let value: Vec<u8> =
            (0..record_bytes).map(|j| (i * 31 + j * 131 + (i * j) % 251) as u8).collect();
        let key = keys.map(|from| format!("key-{}", from + i));
        let key = key.as_ref().map(String::as_bytes);
        builder.append(1_700_000_000_000 + i as i64, key, Some(&value), &[]);
    }
    builder.build()
}

fn acknowledge(response: Response) -> Result<()> {
    let Response::Produce(answer) = response else { bail!("the broker answered something else") };
    let partition = answer
        .responses
        .first()
        .and_then(|topic| topic.partition_responses.first())
        .context("the broker left the partition out")?;
    check(partition.error_code, partition.error_message.as_deref())
}
