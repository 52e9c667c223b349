//! librdkafka against three real processes: every acks, every codec, headers, timestamps, offsets and times.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use milena_tests::Cluster;
use rdkafka::consumer::Consumer;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

mod common;
use common::{Reports, consumer, producer, read};

/// The attributes' codec bits of every batch in every segment and journal file of the cluster that holds `needle`-free
/// bytes of this topic: what really lies on disk.
fn codecs_on_disk(cluster: &Cluster) -> Vec<u8> {
    let mut found = Vec::new();
    for node in 1..=cluster.nodes.len() {
        for folder in ["journal", "segments"] {
            let directory = cluster.directory.path().join(format!("node-{node}")).join(folder);
            for entry in fs::read_dir(directory).into_iter().flatten() {
                let bytes = fs::read(entry.expect("readable").path()).expect("readable");
                // Magic 2 stands 16 bytes into a batch; the two bytes at 21 are the attributes; -1 producer fields follow.
                for at in 0..bytes.len().saturating_sub(61) {
                    if bytes[at + 16] == 2
                        && bytes[at + 21] == 0
                        && bytes[at + 43..at + 57] == [0xff; 14]
                    {
                        found.push(bytes[at + 22] & 7);
                    }
                }
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[test]
fn librdkafka_produces_and_consumes_everything() -> Result<()> {
    let cluster = Cluster::start(3, &[])?;

    // A topic must exist before it is written to.
    let report = common::send_one(&cluster, "absent", "x");
    ensure!(report.is_err(), "a topic was made by writing to it");

    cluster.must(&[
        "topic",
        "create",
        "letters",
        "--partitions",
        "3",
        "--replication-factor",
        "3",
    ])?;
    for (partition, acks) in [(0, "0"), (1, "1"), (2, "all")] {
        let reports = Reports::default();
        let producer: ThreadedProducer<Reports> =
            producer(&cluster, &[("acks", acks)], reports.clone());
        for i in 0..100_i64 {
            let (key, value) = (format!("k{i}"), format!("v{i}"));
            let mut record = BaseRecord::with_opaque_to("letters", Box::new(i as u64))
                .partition(partition)
                .key(&key)
                .payload(&value)
                .timestamp(1_000_000_000_000 + i)
                .headers(OwnedHeaders::new().insert(Header { key: "h", value: Some(&value) }));
            if i == 7 {
                record.payload = None; // a tombstone
            }
            producer.send(record).map_err(|(e, _)| e)?;
        }
        producer.flush(Duration::from_secs(30))?;
        ensure!(
            reports.acknowledged().len() == 100,
            "acks={acks}: {} of 100 reports",
            reports.acknowledged().len()
        );

        let seen = read(&cluster, "letters", partition, Offset::Beginning, 100)?;
        for (i, record) in seen.iter().enumerate() {
            let value = (i != 7).then(|| format!("v{i}").into_bytes());
            let expected = common::Seen {
                offset: i as i64,
                timestamp: 1_000_000_000_000 + i as i64,
                key: Some(format!("k{i}").into_bytes()),
                value,
                headers: vec![("h".into(), Some(format!("v{i}").into_bytes()))],
            };
            ensure!(*record == expected, "acks={acks}: {record:?} is not {expected:?}");
        }
        // Any offset, again and again; and by time.
        for from in [0, 57, 99] {
            let again =
                read(&cluster, "letters", partition, Offset::Offset(from), 100 - from as usize)?;
            ensure!(again == seen[from as usize..], "reading again from {from} differs");
        }
        let mut times = TopicPartitionList::new();
        times.add_partition_offset("letters", partition, Offset::Offset(1_000_000_000_042))?;
        let found = consumer(&cluster).offsets_for_times(times, Duration::from_secs(10))?;
        let offset = found.elements_for_topic("letters")[0].offset();
        ensure!(offset == Offset::Offset(42), "time 42 was found at {offset:?}");
    }
    Ok(())
}

#[test]
fn records_that_were_sent_compressed_lie_compressed_on_disk() -> Result<()> {
    for (bits, codec) in [(1, "gzip"), (2, "snappy"), (3, "lz4"), (4, "zstd")] {
        let cluster = Cluster::start(1, &[])?;
        cluster.must(&[
            "topic",
            "create",
            "pressed",
            "--partitions",
            "1",
            "--replication-factor",
            "1",
        ])?;
        let reports = Reports::default();
        let producer: ThreadedProducer<Reports> = producer(
            &cluster,
            &[("compression.type", codec), ("linger.ms", "50")],
            reports.clone(),
        );
        let value = "the same words again and again ".repeat(64);
        for i in 0..50 {
            let record = BaseRecord::with_opaque_to("pressed", Box::new(i)).key("").payload(&value);
            producer.send(record).map_err(|(e, _)| e)?;
        }
        producer.flush(Duration::from_secs(30))?;
        ensure!(reports.acknowledged().len() == 50, "{codec}: not everything was acknowledged");
        let seen = read(&cluster, "pressed", 0, Offset::Beginning, 50)?;
        ensure!(
            seen.iter().all(|r| r.value.as_deref() == Some(value.as_bytes())),
            "{codec}: other bytes came back"
        );
        let codecs = codecs_on_disk(&cluster);
        ensure!(codecs.contains(&bits), "{codec}: batches on disk have codecs {codecs:?}");
    }
    Ok(())
}
