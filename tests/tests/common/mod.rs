//! librdkafka with its delivery reports kept, and what its consumer sees.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::ensure;
use milena_tests::Cluster;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Headers};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientConfig, Message};

/// One delivery report: the number that the record was sent with, and where it went.
pub type Report = (u64, Result<(i32, i64), KafkaError>);

/// Delivery reports in the order in which they came.
#[derive(Clone, Default)]
pub struct Reports(Arc<Mutex<Vec<Report>>>);

impl Reports {
    /// All reports so far.
    pub fn all(&self) -> Vec<Report> {
        self.0.lock().expect("no report panics").clone()
    }

    /// Number, partition and offset of each record acknowledged so far.
    #[allow(dead_code, reason = "each test binary uses its share of this module")]
    pub fn acknowledged(&self) -> Vec<(u64, i32, i64)> {
        self.all().into_iter().filter_map(|(n, r)| r.ok().map(|(p, o)| (n, p, o))).collect()
    }
}

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<u64>;

    fn delivery(&self, result: &DeliveryResult<'_>, number: Box<u64>) {
        let report = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.clone()),
        };
        self.0.lock().expect("no report panics").push((*number, report));
    }
}

/// A producer against the cluster; acks=all unless the settings say otherwise.
pub fn producer(
    cluster: &Cluster,
    settings: &[(&str, &str)],
    reports: Reports,
) -> ThreadedProducer<Reports> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", cluster.bootstrap())
        .set("message.timeout.ms", "60000")
        .set("acks", "all");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    config.create_with_context(reports).expect("a producer")
}

/// Sends one record and says what became of it within three seconds.
#[allow(dead_code, reason = "each test binary uses its share of this module")]
pub fn send_one(cluster: &Cluster, topic: &str, value: &str) -> Result<(i32, i64), KafkaError> {
    let reports = Reports::default();
    let producer = producer(cluster, &[("message.timeout.ms", "3000")], reports.clone());
    producer
        .send(BaseRecord::with_opaque_to(topic, Box::new(0)).key("").payload(value))
        .map_err(|(error, _)| error)?;
    producer.flush(Duration::from_secs(10)).ok();
    reports.all().pop().expect("every record gets a report").1
}

/// A consumer against the cluster, which takes what it is assigned.
#[allow(dead_code, reason = "each test binary uses its share of this module")]
pub fn consumer(cluster: &Cluster) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap())
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .create()
        .expect("a consumer")
}

/// The next record that comes soon. A client with a group hears once that there is no coordinator; an assignment needs none.
#[allow(dead_code, reason = "each test binary uses its share of this module")]
pub fn next(consumer: &BaseConsumer) -> anyhow::Result<Option<BorrowedMessage<'_>>> {
    let no_coordinator = KafkaError::MessageConsumption(RDKafkaErrorCode::UnsupportedVersion);
    match consumer.poll(Duration::from_millis(100)) {
        Some(Err(error)) if error == no_coordinator => Ok(None),
        message => Ok(message.transpose()?),
    }
}

/// One record as a consumer saw it.
#[derive(Debug, PartialEq)]
#[allow(dead_code, reason = "each test binary uses its share of this module")]
pub struct Seen {
    /// Where it lies.
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its headers.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Reads `count` records of a partition from an offset on, by assignment.
#[allow(dead_code, reason = "each test binary uses its share of this module")]
pub fn read(
    cluster: &Cluster,
    topic: &str,
    partition: i32,
    from: Offset,
    count: usize,
) -> anyhow::Result<Vec<Seen>> {
    let consumer = consumer(cluster);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, from)?;
    consumer.assign(&list)?;
    let (mut seen, end) = (Vec::new(), Instant::now() + Duration::from_secs(30));
    while seen.len() < count {
        ensure!(
            Instant::now() < end,
            "read {} of {count} records of {topic}-{partition}",
            seen.len()
        );
        if let Some(message) = next(&consumer)? {
            seen.push(Seen {
                offset: message.offset(),
                timestamp: message.timestamp().to_millis().unwrap_or(-1),
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
                headers: message.headers().map_or(Vec::new(), |h| {
                    h.iter().map(|h| (h.key.to_string(), h.value.map(<[u8]>::to_vec))).collect()
                }),
            });
        }
    }
    Ok(seen)
}
