//! Clients that ask and read nothing or little, against a real process: they cost little memory, harm nobody, and lose their
//! connections.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// A node with a topic that holds more than one fetch brings.
fn filled(flags: &[&str]) -> Result<Cluster> {
    let common = ["--min-insync-replicas", "1", "--memory-bytes", "8388608"];
    let cluster = Cluster::start_with(1, &[], &[&common[..], flags].concat())?;
    cluster.must(&["topic", "create", "t", "-p", "1", "-r", "1"])?;
    let reports = Reports::default();
    // Each record in a batch of its own.
    let sender = producer(&cluster, &[("batch.num.messages", "1")], reports.clone());
    let value = vec![7; 100_000];
    for number in 0..20 {
        let record = BaseRecord::with_opaque_to("t", Box::new(number)).key("").payload(&value);
        sender.send(record).map_err(|(error, _)| error)?;
    }
    sender.flush(Duration::from_secs(30))?;
    ensure!(reports.acknowledged().len() == 20);
    Ok(cluster)
}

/// A client that has asked for gigabytes.
fn greedy(cluster: &Cluster) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.nodes[0].kafka))?;
    stream.write_all(&fetch().repeat(FETCHES))?;
    Ok(stream)
}

/// Whether a client that has taken little so far, and now takes what comes, is given no more than what was on its way.
fn is_closed(mut stream: TcpStream) -> Result<bool> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let (mut taken, mut piece) = (0, vec![0; 1 << 20]);
    while taken < FETCHES * ANSWER / 4 {
        match stream.read(&mut piece) {
            Ok(0) => return Ok(true),
            Ok(bytes) => taken += bytes,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

/// Somebody else is served meanwhile.
fn must_serve(cluster: &Cluster) -> Result<()> {
    let asked = Instant::now();
    send_one(cluster, "t", "of somebody else")?;
    ensure!(read(cluster, "t", 0, Offset::Beginning, 1)?.len() == 1);
    ensure!(asked.elapsed() < Duration::from_secs(3), "others wait: {:?}", asked.elapsed());
    Ok(())
}

#[test]
fn clients_that_read_nothing_cost_little_harm_nobody_and_are_closed() -> Result<()> {
    let stalls = ["--connection-unsent-bytes", "65536", "--connection-stalled-ms", "4000"];
    let cluster = filled(&stalls)?;
    let before = memory(&cluster.nodes[0])?;
    let began = Instant::now();
    let greedy: Vec<TcpStream> = (0..CLIENTS).map(|_| greedy(&cluster)).collect::<Result<_>>()?;
    let mut most = 0;
    let mut served = 0;
    while began.elapsed() < Duration::from_secs(3) {
        must_serve(&cluster)?;
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
    for stream in greedy {
        ensure!(is_closed(stream)?, "it is given what it asks for");
    }
    Ok(())
}

/// None of them is late: each lets a little be taken, or has come a moment ago. Together they would take hundreds of megabytes.
#[test]
fn what_all_clients_leave_untaken_is_bounded_and_the_healthy_are_served() -> Result<()> {
    let cluster =
        filled(&["--connection-unsent-bytes", "8388608", "--response-memory-bytes", "16777216"])?;
    let before = memory(&cluster.nodes[0])?;
    let mut trickle = greedy(&cluster)?;
    let is_over = Arc::new(AtomicBool::new(false));
    let trickling = std::thread::spawn({
        let is_over = is_over.clone();
        move || {
            while !is_over.load(Ordering::Relaxed)
                && matches!(trickle.read(&mut [0; 16 << 10]), Ok(1..))
            {
                std::thread::sleep(Duration::from_millis(200));
            }
            is_closed(trickle)
        }
    });
    let mut open = Vec::new();
    let mut most = 0;
    for _ in 0..40 {
        open.push(greedy(&cluster)?);
        must_serve(&cluster)?;
        most = most.max(memory(&cluster.nodes[0])?);
    }
    let grown = most.saturating_sub(before);
    ensure!(grown < (16 << 20) + (64 << 20), "{grown} bytes for clients that read nothing");
    is_over.store(true, Ordering::Relaxed);
    ensure!(trickling.join().expect("no panic")?, "who takes a little now and then is spared");
    // Each that is left holds some megabytes.
    let closed = open.into_iter().map(is_closed).collect::<Result<Vec<bool>>>()?;
    let left = closed.iter().filter(|is_closed| !**is_closed).count();
    ensure!((1..10).contains(&left), "{left} are left");
    let said = cluster.nodes[0].said();
    ensure!(said.contains("more than --response-memory-bytes, 16777216"), "{said}");
    must_serve(&cluster)
}

/// Each asks for as much as fits, all at once, and takes it: what they may bring together is made to fit.
#[test]
fn many_that_catch_up_at_once_are_all_served() -> Result<()> {
    let cluster = filled(&["--response-memory-bytes", "4194304"])?;
    let port = cluster.nodes[0].kafka;
    let catching_up = (0..CLIENTS).map(|_| {
        std::thread::spawn(move || -> Result<()> {
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            for _ in 0..50 {
                stream.write_all(&fetch())?;
                let mut length = [0; 4];
                stream.read_exact(&mut length)?;
                let mut answer = vec![0; u32::from_be_bytes(length) as usize];
                stream.read_exact(&mut answer)?;
                ensure!(answer.len() > 100_000, "it has brought no record: {}", answer.len());
            }
            Ok(())
        })
    });
    let catching_up: Vec<_> = catching_up.collect();
    for client in catching_up {
        client.join().expect("no panic")?;
    }
    let said = cluster.nodes[0].said();
    ensure!(!said.contains("--response-memory-bytes"), "{said}");
    Ok(())
}
