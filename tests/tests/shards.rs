//! A node's shards are its own affair: clients see partitions, whatever number of threads owns them, and a restart may
//! change that number.

use std::time::Duration;

use anyhow::{Result, ensure};
use milena_tests::Cluster;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};

mod common;
use common::{Reports, producer, read};
use rdkafka::topic_partition_list::Offset;

const PARTITIONS: i32 = 6;
const RECORDS: u64 = 60;

/// Writes a round of records over all partitions.
fn write(cluster: &Cluster, round: u64) -> Result<()> {
    let reports = Reports::default();
    let producer: ThreadedProducer<Reports> = producer(cluster, &[], reports.clone());
    for number in round * RECORDS..(round + 1) * RECORDS {
        let value = number.to_string();
        let record = BaseRecord::with_opaque_to("spread", Box::new(number))
            .partition(number as i32 % PARTITIONS)
            .key("")
            .payload(&value);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    producer.flush(Duration::from_secs(60))?;
    let acknowledged = reports.acknowledged().len();
    ensure!(acknowledged as u64 == RECORDS, "round {round}: {acknowledged} acknowledged");
    Ok(())
}

#[test]
fn the_number_of_shards_may_change_at_a_restart() -> Result<()> {
    let shards = [2_u16, 5, 1, 3];
    let mut cluster = Cluster::start_with(3, &[], &["--shards", &shards[0].to_string()])?;
    let partitions = PARTITIONS.to_string();
    let create = ["topic", "create", "spread", "--replication-factor", "3", "--partitions"];
    cluster.must(&[&create[..], &[&partitions]].concat())?;
    for (round, count) in (0..).zip(shards) {
        if round > 0 {
            for node in &mut cluster.nodes {
                node.kill();
                node.set_flag("--shards", &count.to_string());
            }
            for node in &mut cluster.nodes {
                node.start()?;
            }
            cluster.wait_ready(Duration::from_secs(60))?;
        }
        write(&cluster, round)?;
        for partition in 0..PARTITIONS {
            let expected: Vec<String> = (0..(round + 1) * RECORDS)
                .filter(|number| *number as i32 % PARTITIONS == partition)
                .map(|number| number.to_string())
                .collect();
            let seen = read(&cluster, "spread", partition, Offset::Beginning, expected.len())?;
            for (offset, (record, value)) in (0..).zip(seen.iter().zip(&expected)) {
                ensure!(
                    record.offset == offset && record.value.as_deref() == Some(value.as_bytes()),
                    "{count} shards, partition {partition}: {record:?} is not {value} at {offset}"
                );
            }
        }
        let threads = cluster.nodes[0].threads()?;
        let is_shard = |name: &&String| {
            name.strip_prefix("n1-s").is_some_and(|number| number.parse::<u16>().is_ok())
        };
        let workers = threads.iter().filter(is_shard).count();
        ensure!(workers == usize::from(count), "{count} shards run on {threads:?}");
    }
    Ok(())
}
