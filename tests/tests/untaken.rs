//! Clients that ask and read nothing, against a real process: they cost little memory, harm nobody, and lose their connections.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use milena_tests::{Cluster, Node};
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::topic_partition_list::Offset;

mod common;
use common::{Reports, producer, read, send_one};

const CLIENTS: usize = 16;
const FETCHES: usize = 200;
/// Bytes that each fetch asks for, and is given.
const ANSWER: usize = 1 << 20;

/// A request for records of partition 0 of topic `t` from its beginning on.
fn fetch() -> Vec<u8> {
    // Fetch, version 4, correlation id, no client id.
    let mut request = vec![0, 1, 0, 4, 0, 0, 0, 7, 0xff, 0xff];
    let (replica, wait_ms, min_bytes) = (-1_i32, 0_i32, 1_i32);
    for number in [replica, wait_ms, min_bytes, ANSWER as i32] {
        request.extend(number.to_be_bytes());
    }
    // Isolation level; one topic; one partition of it, from offset 0 on.
    request.extend([0, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 0]);
    request.extend(0_i64.to_be_bytes());
    request.extend((ANSWER as i32).to_be_bytes());
    [&(request.len() as u32).to_be_bytes(), &request[..]].concat()
}

/// What its process has in memory, bytes.
fn memory(node: &Node) -> Result<usize> {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", node.pid().context("it runs")?))?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("it is there")?;
    let kilobytes: usize = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes << 10)
}

#[test]
fn clients_that_read_nothing_cost_little_harm_nobody_and_are_closed() -> Result<()> {
    let flags = ["--min-insync-replicas", "1", "--memory-bytes", "8388608"];
    let stalls = ["--connection-unsent-bytes", "65536", "--connection-stalled-ms", "4000"];
    let cluster = Cluster::start_with(1, &[], &[flags, stalls].concat())?;
    cluster.must(&["topic", "create", "t", "-p", "1", "-r", "1"])?;
    let reports = Reports::default();
    let sender = producer(&cluster, &[], reports.clone());
    let value = vec![7; 100_000];
    for number in 0..20 {
        let record = BaseRecord::with_opaque_to("t", Box::new(number)).key("").payload(&value);
        sender.send(record).map_err(|(error, _)| error)?;
    }
    sender.flush(Duration::from_secs(30))?;
    ensure!(reports.acknowledged().len() == 20);

    let before = memory(&cluster.nodes[0])?;
    let began = Instant::now();
    let asked = fetch().repeat(FETCHES);
    let mut greedy = Vec::new();
    for _ in 0..CLIENTS {
        let mut stream = TcpStream::connect(("127.0.0.1", cluster.nodes[0].kafka))?;
        stream.write_all(&asked)?;
        greedy.push(stream);
    }
    let mut most = 0;
    let mut served = 0;
    while began.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        send_one(&cluster, "t", "of somebody else")?;
        ensure!(read(&cluster, "t", 0, Offset::Beginning, 1)?.len() == 1);
        ensure!(asked.elapsed() < Duration::from_secs(3), "others wait: {:?}", asked.elapsed());
        most = most.max(memory(&cluster.nodes[0])?);
        served += 1;
    }
    ensure!(served > 0);
    // Of each connection two fetches are in flight, and more are read only when their answers are taken. All that was asked
    // would be gigabytes.
    let grown = most.saturating_sub(before);
    ensure!(
        grown < CLIENTS * 3 * ANSWER + (64 << 20),
        "{grown} bytes for clients that read nothing"
    );

    std::thread::sleep(Duration::from_secs(6));
    for mut stream in greedy {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut given = Vec::new();
        match stream.read_to_end(&mut given) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => return Err(error.into()),
            _ => ensure!(given.len() < FETCHES * ANSWER / 2, "it was given {} bytes", given.len()),
        }
    }
    Ok(())
}
