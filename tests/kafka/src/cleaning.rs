//! How fast Apache Kafka's cleaner and ours are on the same logs, one broker after the other, each alone on the machine.
//!
//! A log is written while all of it is too young to be cleaned, and comes of age at once: its records say themselves when they
//! were made. From then on time counts, until the broker says that the log is clean, and the processor time that the broker
//! takes meanwhile. What is left must be a record of each key.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use milena_net::client::{Client, Connection, check, check_known, leader};
use milena_wire::batch::{BatchBuilder, Compression, batches};
use milena_wire::messages::create_topics::{CreatableTopic, CreatableTopicConfig};
use milena_wire::messages::fetch::{FetchPartition, FetchTopic};
use milena_wire::messages::produce::{PartitionProduceData, TopicProduceData};
use milena_wire::messages::{CreateTopicsRequest, FetchRequest, ProduceRequest};
use milena_wire::{ApiKey, Request, Response, Uuid};

use crate::brokers::{Broker, free_port};
use crate::install::Installed;

/// Bytes of a producer's batch: the default of Java's.
const BATCH_BYTES: usize = 16_384;
const SEGMENT_BYTES: &str = "33554432";
/// A record that is so much younger ends a segment.
const SEGMENT_MS: i64 = 60_000;
/// Within this a log is written, and its bytes reach the disk; then it comes of age.
const YOUNG: Duration = Duration::from_secs(20);
/// How long cleaning may take.
const CLEANED: Duration = Duration::from_secs(300);
/// Batches that are not acknowledged yet.
const IN_FLIGHT: usize = 32;
/// Of a hundred records, so many keys: of keys that are drawn at random, half of the records then have a later one.
const KEYS_PERCENT: u64 = 63;
const TIMEOUT: Duration = Duration::from_secs(30);

/// A log.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    value_bytes: usize,
    compression: Compression,
}

/// The first is for the Java machine to get warm.
const ROWS: [Row; 4] = [
    Row { name: "warming-up", value_bytes: 1_000, compression: Compression::None },
    Row { name: "1000-bytes", value_bytes: 1_000, compression: Compression::None },
    Row { name: "100-bytes", value_bytes: 100, compression: Compression::None },
    Row { name: "1000-bytes-lz4", value_bytes: 1_000, compression: Compression::Lz4 },
];

/// What became of one log.
struct Cleaned {
    /// Of the log, before.
    bytes: u64,
    records: u64,
    left: u64,
    seconds: f64,
    processor_seconds: f64,
}

impl Cleaned {
    fn rates(&self) -> [f64; 2] {
        [self.seconds, self.processor_seconds].map(|seconds| self.bytes as f64 / 1e6 / seconds)
    }
}

/// Has both clean logs of so many megabytes, and prints how fast they were.
pub fn measure(installed: &Installed, milena: &Path, megabytes: u64) -> Result<()> {
    let kafka = measure_one(&mut Side::kafka(installed)?, megabytes)?;
    let ours = measure_one(&mut Side::milena(milena)?, megabytes)?;
    println!(
        "                     records     left   Apache Kafka: MB/s, per CPU-second   Milena: MB/s, per CPU-second   ratios"
    );
    for ((row, theirs), ours) in ROWS.iter().zip(&kafka).zip(&ours).skip(1) {
        let ([their_rate, their_cost], [rate, cost]) = (theirs.rates(), ours.rates());
        println!(
            "{:<18} {:>9} {:>8} {their_rate:>18.0} {their_cost:>17.0} {rate:>14.0} {cost:>16.0} {:>10.2} {:.2}",
            row.name,
            ours.records,
            ours.left,
            rate / their_rate,
            cost / their_cost
        );
    }
    Ok(())
}

fn measure_one(side: &mut Side, megabytes: u64) -> Result<Vec<Cleaned>> {
    (0..).zip(ROWS).map(|(cleaned, row)| side.clean(&row, megabytes, cleaned)).collect()
}

/// One of the two.
struct Side {
    broker: Broker,
    says: Says,
}

/// Where a broker says that it has cleaned a log.
enum Says {
    /// In a file, which names the log.
    File,
    /// Over HTTP, where logs are counted.
    Metrics { port: u16 },
}

impl Side {
    fn kafka(installed: &Installed) -> Result<Side> {
        Ok(Side { broker: Broker::kafka_that_cleans_fast(installed)?, says: Says::File })
    }

    fn milena(binary: &Path) -> Result<Side> {
        let port = free_port()?;
        let admin = format!("127.0.0.1:{port}");
        let flags = ["--cleaner-backoff-ms", "50", "--admin", &admin];
        Ok(Side { broker: Broker::milena_with(binary, &flags)?, says: Says::Metrics { port } })
    }

    /// Writes a log, and measures how it is cleaned; some others have been before.
    fn clean(&mut self, row: &Row, megabytes: u64, others: u64) -> Result<Cleaned> {
        let mut log = Log::create(self.broker.port, row.name)?;
        let (begun, wall) = (Instant::now(), SystemTime::now());
        let born = wall.duration_since(SystemTime::UNIX_EPOCH)?.as_millis() as i64;
        let Written { bytes, records, keys } = log.write(row, megabytes, born)?;
        let rest = YOUNG.checked_sub(begun.elapsed());
        sleep(rest.context("it was not written while it was young; fewer --megabytes may be")?);
        let (begun, before) = (Instant::now(), self.processor_seconds()?);
        while !self.has_cleaned(row.name, others)? {
            ensure!(begun.elapsed() < CLEANED, "{} is not cleaned", row.name);
            sleep(Duration::from_millis(10));
        }
        let seconds = begun.elapsed().as_secs_f64();
        let processor_seconds = self.processor_seconds()? - before;
        // The one that ended the last segment is there too.
        let left = log.count()? - 1;
        ensure!(left == keys, "{}: of {keys} keys {left} records are left", row.name);
        Ok(Cleaned { bytes, records, left, seconds, processor_seconds })
    }

    fn has_cleaned(&self, topic: &str, others: u64) -> Result<bool> {
        match self.says {
            Says::File => {
                let file = self
                    .broker
                    .room()
                    .context("it has a directory")?
                    .join("data/cleaner-offset-checkpoint");
                let text = fs::read_to_string(file).unwrap_or_default();
                Ok(text.lines().any(|line| line.starts_with(&format!("{topic} "))))
            }
            Says::Metrics { port } => {
                let mut stream = TcpStream::connect(("127.0.0.1", port))?;
                stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
                let mut text = String::new();
                stream.read_to_string(&mut text)?;
                let counts =
                    text.lines().filter(|line| line.starts_with("milena_cleaner_logs_total{"));
                let counts = counts.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
                Ok(counts.sum::<u64>() > others)
            }
        }
    }

    /// What its process has taken so far.
    fn processor_seconds(&mut self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.broker.process().id()))?;
        let (_, fields) = stat.rsplit_once(") ").context("a name in brackets")?;
        let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
        let ticks = ticks.sum::<Result<u64, _>>()?;
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }
}

/// What a log was given.
struct Written {
    /// Of its batches.
    bytes: u64,
    records: u64,
    keys: u64,
}

/// A topic of one partition.
struct Log {
    connection: Connection,
    topic: &'static str,
    id: Uuid,
}

impl Log {
    fn create(port: u16, topic: &'static str) -> Result<Log> {
        let address = format!("127.0.0.1:{port}");
        let mut client = Client::new(vec![address.clone()], TIMEOUT);
        let lag_ms = YOUNG.as_millis().to_string();
        let configs = [
            ("cleanup.policy", "compact"),
            ("min.cleanable.dirty.ratio", "0"),
            ("segment.bytes", SEGMENT_BYTES),
            ("segment.ms", &SEGMENT_MS.to_string()),
            ("min.compaction.lag.ms", &lag_ms),
        ];
        let configs = configs.map(|(name, value)| CreatableTopicConfig {
            name: name.into(),
            value: Some(value.into()),
        });
        let topics = vec![CreatableTopic {
            name: topic.into(),
            num_partitions: 1,
            replication_factor: 1,
            configs: configs.into(),
            ..Default::default()
        }];
        let request = CreateTopicsRequest { topics, timeout_ms: 10_000, ..Default::default() };
        client.again("create a topic", |client| {
            let Response::CreateTopics(answer) = client.any(&request.clone().into())? else {
                bail!("the broker answered something else");
            };
            let topic = answer.topics.first().context("the broker left the topic out")?;
            check(topic.error_code, topic.error_message.as_deref())
        })?;
        let found = client.again("see a topic", |client| {
            let found = client.topic(topic, true)?;
            leader(&found, 0)?;
            Ok(found)
        })?;
        let connection = Connection::open(&address, TIMEOUT)?;
        let mut log = Log { connection, topic, id: found.topic_id };
        // Others may see a topic before its leader does.
        client.again("reach the leader of a topic", |_| log.count())?;
        Ok(log)
    }

    /// Writes so many megabytes of values, of which all records have the same time, and a later one that ends their last segment.
    fn write(&mut self, row: &Row, megabytes: u64, born: i64) -> Result<Written> {
        let records = (megabytes * 1_000_000).div_ceil(row.value_bytes as u64);
        let keys = records * KEYS_PERCENT / 100;
        let (mut random, mut bytes) = (Random(1), 0);
        let (mut in_flight, mut written, mut value) = (VecDeque::new(), 0, Vec::new());
        let mut drawn = BTreeSet::new();
        while written < records || !in_flight.is_empty() {
            if in_flight.len() == IN_FLIGHT || written == records {
                let version = in_flight.pop_front().expect("some are in flight");
                acknowledge(self.connection.receive(ApiKey::Produce, version)?)?;
                continue;
            }
            let mut builder = BatchBuilder::new(0, -1, row.compression);
            while written < records && builder.size() < BATCH_BYTES {
                let key = random.below(keys);
                drawn.insert(key);
                random.fill(&mut value, row.value_bytes);
                builder.append(born, Some(format!("key-{key:010}").as_bytes()), Some(&value), &[]);
                written += 1;
            }
            let batch = builder.build();
            bytes += batch.len() as u64;
            in_flight.push_back(self.send(batch)?);
        }
        let mut builder = BatchBuilder::new(0, -1, Compression::None);
        builder.append(born + SEGMENT_MS + 1, Some(b"end"), Some(b""), &[]);
        let version = self.send(builder.build())?;
        acknowledge(self.connection.receive(ApiKey::Produce, version)?)?;
        Ok(Written { bytes, records, keys: drawn.len() as u64 })
    }

    fn send(&mut self, batch: Bytes) -> Result<i16> {
        let partition_data = vec![PartitionProduceData { index: 0, records: Some(batch) }];
        let topic = TopicProduceData { name: self.topic.into(), topic_id: self.id, partition_data };
        let request: Request = ProduceRequest {
            transactional_id: None,
            acks: -1,
            timeout_ms: 10_000,
            topic_data: vec![topic],
        }
        .into();
        self.connection.send(&request)
    }

    /// Records that are there.
    fn count(&mut self) -> Result<u64> {
        let (mut next, mut count) = (0, 0);
        loop {
            let asked = FetchPartition {
                partition: 0,
                fetch_offset: next,
                partition_max_bytes: 16 << 20,
                ..Default::default()
            };
            let topic =
                FetchTopic { topic: self.topic.into(), topic_id: self.id, partitions: vec![asked] };
            let request = FetchRequest {
                max_wait_ms: 100,
                min_bytes: 1,
                max_bytes: 16 << 20,
                topics: vec![topic],
                ..Default::default()
            };
            let Response::Fetch(answer) = self.connection.call(&request.into())? else {
                bail!("the broker answered something else");
            };
            check(answer.error_code, None)?;
            let data = answer.responses.into_iter().flat_map(|topic| topic.partitions).next();
            let data = data.context("the broker left the partition out")?;
            check_known(data.error_code, None)?;
            let records = data.records.map(|records| records.to_bytes()).unwrap_or_default();
            for batch in batches(&records) {
                let Ok((header, _)) = batch else { break };
                count += header.records_count as u64;
                next = header.next_offset();
            }
            if next >= data.high_watermark {
                return Ok(count);
            }
        }
    }
}

fn acknowledge(response: Response) -> Result<()> {
    let Response::Produce(answer) = response else { bail!("the broker answered something else") };
    let topic = answer.responses.first();
    let partition = topic.and_then(|topic| topic.partition_responses.first());
    let partition = partition.context("the broker left the partition out")?;
    check(partition.error_code, partition.error_message.as_deref())
}

/// The same numbers each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Something that can be compressed to about a third.
    fn fill(&mut self, value: &mut Vec<u8>, bytes: usize) {
        value.clear();
        while value.len() < bytes {
            let _ =
                write!(value, "{{\"field\": \"a value of it\", \"number\": {}}}, ", self.next());
        }
        value.truncate(bytes);
    }
}
