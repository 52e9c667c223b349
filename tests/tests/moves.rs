//! Nodes that come back at other ports, alone and all at once, as real processes: the cluster is whole again within seconds,
//! and every acknowledged record is where it was. A process that comes beside another one of its id does not stay.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use milena_tests::{Cluster, Node, free_port, milena};
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::topic_partition_list::Offset;

mod common;
use common::{Reports, producer, read};

/// How long a cluster may take to come back after its last node has started.
const BACK: Duration = Duration::from_secs(5);
const RECORDS: u64 = 100;

fn value(number: u64) -> String {
    format!("letter {number}")
}

/// Writes more records, each acknowledged by all replicas.
fn write(cluster: &Cluster, reports: &Reports) -> Result<()> {
    let before = reports.acknowledged().len() as u64;
    let producer = producer(cluster, &[], reports.clone());
    for number in before..before + RECORDS {
        let value = value(number);
        let record = BaseRecord::with_opaque_to("kept", Box::new(number)).partition(0).key("");
        producer.send(record.payload(&value)).map_err(|(error, _)| error)?;
    }
    producer.flush(Duration::from_secs(30))?;
    let now = reports.acknowledged().len() as u64;
    ensure!(now == before + RECORDS, "only {} of {RECORDS} were acknowledged", now - before);
    Ok(())
}

/// Whether everything acknowledged is at its offset.
fn keeps_everything(cluster: &Cluster, reports: &Reports) -> Result<()> {
    let acknowledged = reports.acknowledged();
    let seen = read(cluster, "kept", 0, Offset::Beginning, acknowledged.len())?;
    for (number, _, offset) in acknowledged {
        let found = seen.iter().find(|record| record.offset == offset);
        let is_there = found.is_some_and(|r| r.value.as_deref() == Some(value(number).as_bytes()));
        ensure!(is_there, "record {number} is not at offset {offset}");
    }
    Ok(())
}

/// The list of the controllers with some of them at new ports.
fn moved(cluster: &Cluster, nodes: &[usize]) -> String {
    let list = cluster.nodes[0].flag("--cluster").split(',');
    let entry = |(index, entry): (usize, &str)| match nodes.contains(&index) {
        true => format!("{}@127.0.0.1:{}", index + 1, free_port()),
        false => entry.to_string(),
    };
    list.enumerate().map(entry).collect::<Vec<_>>().join(",")
}

/// How often a node has come into service, in all its lives.
fn services(node: &Node) -> usize {
    node.said().matches("serving under broker epoch").count()
}

/// Every node has come into service so many times, and every partition has all its replicas in sync, in time.
fn is_back(cluster: &Cluster, since: Instant, served: &[usize]) -> Result<()> {
    let mut last = String::new();
    while since.elapsed() < BACK {
        std::thread::sleep(Duration::from_millis(50));
        if cluster.nodes.iter().map(services).ne(served.iter().copied()) {
            continue;
        }
        if let Ok(said) = cluster.must(&["cluster", "status", "--format", "json"]) {
            let status: serde_json::Value = serde_json::from_str(&said)?;
            let none = |name: &str| status[name].as_array().is_some_and(Vec::is_empty);
            let live = status["brokers"].as_array().map_or(0, Vec::len);
            if live == cluster.nodes.len() && none("under_replicated") && none("offline") {
                println!("back after {:?}", since.elapsed());
                return Ok(());
            }
            last = said;
        }
    }
    let said: Vec<String> = cluster.nodes.iter().map(Node::said).collect();
    anyhow::bail!("not back within {BACK:?}: {last}\n{}", said.join("\n---\n"))
}

/// Whether a node has a snapshot of the metadata on its disk.
fn has_snapshot(node: &Node) -> Result<bool> {
    let names = std::fs::read_dir(Path::new(node.flag("--data")).join("snapshots"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    Ok(names.iter().any(|name| name.ends_with(".snapshot")))
}

#[test]
fn nodes_that_move_alone_or_together_come_back_with_everything() -> Result<()> {
    let mut cluster = Cluster::start_with(3, &[], &["--metadata-snapshot-records", "5"])?;
    cluster.must(&["topic", "create", "kept", "--replication-factor", "3", "--partitions", "1"])?;
    let reports = Reports::default();
    write(&cluster, &reports)?;

    // One alone: the others go on with the list and the metadata that name its old address.
    let list = moved(&cluster, &[2]);
    cluster.nodes[2].kill();
    cluster.nodes[2].set_flag("--cluster", &list);
    let started = Instant::now();
    cluster.nodes[2].start()?;
    is_back(&cluster, started, &[1, 1, 2])?;
    write(&cluster, &reports)?;

    // All of them, one after the other, with the same new list and snapshots that name the old addresses.
    let list = moved(&cluster, &[0, 1, 2]);
    for node in &mut cluster.nodes {
        ensure!(has_snapshot(node)?, "node {} has no snapshot", node.id);
        node.kill();
    }
    for node in &mut cluster.nodes {
        node.set_flag("--cluster", &list);
    }
    for index in 0..3 {
        if index > 0 {
            std::thread::sleep(Duration::from_secs(3));
        }
        cluster.nodes[index].start()?;
    }
    is_back(&cluster, Instant::now(), &[2, 2, 3])?;
    write(&cluster, &reports)?;
    keeps_everything(&cluster, &reports)
}

#[test]
fn a_second_process_with_a_node_id_in_use_is_refused_and_stops() -> Result<()> {
    let cluster = Cluster::start(3, &[])?;
    cluster.must(&["topic", "create", "kept", "--replication-factor", "3", "--partitions", "1"])?;
    let directory = tempfile::tempdir()?;
    is_refused(&cluster, directory.path(), "each with a directory of its own")
}

#[test]
fn a_second_process_with_a_copied_directory_is_refused_and_stops() -> Result<()> {
    let mut cluster = Cluster::start(3, &[])?;
    cluster.must(&["topic", "create", "kept", "--replication-factor", "3", "--partitions", "1"])?;
    write(&cluster, &Reports::default())?;
    let directory = tempfile::tempdir()?;
    let node = &mut cluster.nodes[1];
    node.kill();
    let copied = Command::new("cp")
        .arg("-a")
        .arg(node.flag("--data"))
        .arg(directory.path().join("data"))
        .status()?;
    ensure!(copied.success(), "the directory is not copied");
    node.start()?;
    is_back(&cluster, Instant::now(), &[1, 2, 1])?;
    is_refused(&cluster, directory.path(), "with copies of one directory")
}

/// Starts a second node 2, with what is in `data` of the directory.
fn is_refused(cluster: &Cluster, directory: &Path, why: &str) -> Result<()> {
    let list = moved(cluster, &[1]);
    let served: Vec<_> = cluster.nodes.iter().map(services).collect();
    let said = directory.join("said");
    let mut second = Command::new(milena())
        .args(["start", "--node-id", "2", "--cluster", &list, "--kafka"])
        .arg(format!("127.0.0.1:{}", free_port()))
        .arg("--data")
        .arg(directory.join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&said)?)
        .spawn()?;
    let end = Instant::now() + Duration::from_secs(15);
    let status = loop {
        match second.try_wait()? {
            Some(status) => break status,
            None if Instant::now() < end => std::thread::sleep(Duration::from_millis(50)),
            None => {
                second.kill()?;
                second.wait()?;
                anyhow::bail!("it goes on: {}", std::fs::read_to_string(&said)?);
            }
        }
    };
    let said = std::fs::read_to_string(&said)?;
    let last = said.lines().last().unwrap_or_default();
    let line = format!("two processes call themselves node 2, {why}");
    ensure!(!status.success() && last.contains(&line), "{said}");
    // Nobody takes the one that was there for the other.
    write(cluster, &Reports::default())?;
    ensure!(cluster.nodes.iter().map(services).eq(served), "somebody lost its place");
    Ok(())
}
