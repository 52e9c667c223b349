//! kill -9 of one, two or all three processes at randomised counts of acknowledgements, in the mode of the file layer that
//! keeps unsynced writes in the process's memory: a kill is then a power loss. Every acknowledged record must be at its
//! offset afterwards, unchanged.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use milena_tests::Cluster;
use rdkafka::ClientConfig;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

mod common;
use common::{Reports, next, producer};

const PARTITIONS: i32 = 4;

/// xorshift64*, seeded by the test: the counts at which processes die.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }
}

fn payload(number: u64) -> String {
    format!("{number:012}:{}", "x".repeat((number % 97) as usize))
}

/// Three nodes with the topic, whose unsynced writes are treated so.
fn cluster(unsynced: &str) -> Result<Cluster> {
    let cluster = Cluster::start(3, &[("MILENA_UNSYNCED", unsynced)])?;
    let partitions = PARTITIONS.to_string();
    let create = ["topic", "create", "kept", "--replication-factor", "3", "--partitions"];
    cluster.must(&[&create[..], &[&partitions]].concat())?;
    Ok(cluster)
}

/// Gives the producer the record of a number.
fn send(producer: &ThreadedProducer<Reports>, number: u64) -> Result<(), KafkaError> {
    let value = payload(number);
    let record = BaseRecord::with_opaque_to("kept", Box::new(number))
        .partition(number as i32 % PARTITIONS)
        .key("")
        .payload(&value);
    producer.send(record).map_err(|(error, _)| error)
}

/// Everything in the topic, by partition and offset.
fn read_all(cluster: &Cluster) -> Result<BTreeMap<(i32, i64), String>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap())
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .create()?;
    let (mut list, mut ends) = (TopicPartitionList::new(), BTreeMap::new());
    for partition in 0..PARTITIONS {
        let until = Instant::now() + Duration::from_secs(60);
        let (low, high) = loop {
            match consumer.fetch_watermarks("kept", partition, Duration::from_secs(5)) {
                Ok(marks) => break marks,
                Err(error) if Instant::now() > until => return Err(error.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        };
        if low < high {
            list.add_partition_offset("kept", partition, Offset::Offset(low))?;
            ends.insert(partition, high);
        }
    }
    consumer.assign(&list)?;
    let (mut seen, until) = (BTreeMap::new(), Instant::now() + Duration::from_secs(60));
    while !ends.is_empty() {
        ensure!(
            Instant::now() < until,
            "reading everything back took too long; {ends:?} are missing"
        );
        let Some(message) = next(&consumer)? else { continue };
        let value = String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned();
        seen.insert((message.partition(), message.offset()), value);
        if ends.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end) {
            ends.remove(&message.partition());
        }
    }
    Ok(seen)
}

/// Says which acknowledged records are not where they were said to be.
fn missing(cluster: &Cluster, reports: &Reports) -> Result<Vec<(u64, i32, i64)>> {
    let seen = read_all(cluster)?;
    let lost = |(number, partition, offset): &(u64, i32, i64)| {
        seen.get(&(*partition, *offset)).is_none_or(|value| *value != payload(*number))
    };
    Ok(reports.acknowledged().into_iter().filter(lost).collect())
}

#[test]
fn fifty_kills_lose_nothing_that_was_acknowledged() -> Result<()> {
    let mut cluster = cluster("memory")?;

    let seed = std::env::var("MILENA_KILL_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(0x4d69_6c65_6e61);
    println!("seed {seed}: MILENA_KILL_SEED={seed} repeats these counts");
    let mut draw = Draw(seed);
    let reports = Reports::default();
    let producer: ThreadedProducer<Reports> = producer(
        &cluster,
        &[("linger.ms", "2"), ("message.timeout.ms", "300000")],
        reports.clone(),
    );
    let (mut sent, mut kills) = (0_u64, 0);
    while kills < 50 {
        // Load until a drawn number of further acknowledgements has come, however long that takes while clients reconnect.
        let goal = reports.acknowledged().len() + 20 + draw.below(200) as usize;
        let until = Instant::now() + Duration::from_secs(60);
        while reports.acknowledged().len() < goal {
            ensure!(
                Instant::now() < until,
                "no progress after {kills} kills: {} acknowledged",
                reports.acknowledged().len()
            );
            let outstanding = sent as usize - reports.all().len();
            if outstanding < 500 {
                if send(&producer, sent).is_ok() {
                    sent += 1;
                }
            } else {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let count = [1, 1, 2, 3][draw.below(4) as usize];
        let first = draw.below(3) as usize;
        for i in 0..count {
            cluster.nodes[(first + i) % 3].kill();
            kills += 1;
        }
        for i in 0..count {
            cluster.nodes[(first + i) % 3].start()?;
        }
    }
    cluster.wait_ready(Duration::from_secs(60))?;
    producer.flush(Duration::from_secs(120))?;
    let lost = missing(&cluster, &reports)?;
    ensure!(lost.is_empty(), "acknowledged and lost (number, partition, offset): {lost:?}");
    println!("{} records acknowledged, {kills} kills, none lost", reports.acknowledged().len());
    Ok(())
}

/// The proof that the test above can fail: a file layer that answers syncs without doing them loses acknowledged records.
#[test]
fn a_driver_that_skips_its_syncs_is_caught() -> Result<()> {
    let mut cluster = cluster("memory-and-skip-syncs")?;
    ensure!(cluster.nodes[0].said().contains("acknowledged records are lost"), "no warning");
    let reports = Reports::default();
    let producer: ThreadedProducer<Reports> = producer(&cluster, &[], reports.clone());
    for number in 0..200 {
        send(&producer, number)?;
    }
    producer.flush(Duration::from_secs(30))?;
    ensure!(
        reports.acknowledged().len() == 200,
        "only {} of 200 acknowledged",
        reports.acknowledged().len()
    );
    for node in &mut cluster.nodes {
        node.kill();
    }
    for node in &mut cluster.nodes {
        node.start()?;
    }
    // Nothing was ever synced, so what comes back is an empty cluster, or one without the topic, or one without records.
    cluster.wait_ready(Duration::from_secs(60))?;
    let gone = !cluster.must(&["topic", "list"])?.contains("kept")
        || !missing(&cluster, &reports)?.is_empty();
    ensure!(
        gone,
        "two hundred records survived a power loss without one sync: the mode does not do what it says"
    );
    Ok(())
}
