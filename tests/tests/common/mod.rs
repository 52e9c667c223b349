//! librdkafka with its delivery reports kept.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use milena_tests::Cluster;
use rdkafka::client::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
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
