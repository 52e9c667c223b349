//! What an operator reads in the log of a real process: a line for each thing that happens, not for each time that it does.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use milena_tests::{Cluster, Node};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

/// Lets a node that runs have so many descriptors from now on.
fn allow_descriptors(node: &Node, count: u64) -> Result<()> {
    let pid = Pid::from_raw(node.pid().context("it runs")? as i32).context("a process id")?;
    let maximum = getrlimit(Resource::Nofile).maximum;
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(count), maximum })?;
    Ok(())
}

fn lines(node: &Node, part: &str) -> usize {
    node.said().lines().filter(|line| line.contains(part)).count()
}

#[test]
fn out_of_descriptors_is_waited_out_for_a_while_and_ends_a_node_for_ever() -> Result<()> {
    let mut cluster = Cluster::start(1, &[])?;
    allow_descriptors(&cluster.nodes[0], 4)?;
    let waits = TcpStream::connect(("127.0.0.1", cluster.nodes[0].kafka))?;
    std::thread::sleep(Duration::from_secs(3));
    allow_descriptors(&cluster.nodes[0], 1_024)?;
    cluster.must(&["topic", "create", "t", "-p", "1", "-r", "1"])?;
    let told = lines(&cluster.nodes[0], "can be accepted");
    ensure!((1..=2).contains(&told), "{told} lines:\n{}", cluster.nodes[0].said());
    drop(waits);

    allow_descriptors(&cluster.nodes[0], 4)?;
    let began = Instant::now();
    let _waits = TcpStream::connect(("127.0.0.1", cluster.nodes[0].kafka))?;
    let code = cluster.nodes[0].ended(Duration::from_secs(40))?;
    ensure!(began.elapsed() > Duration::from_secs(8), "after {:?}", began.elapsed());
    let said = cluster.nodes[0].said();
    ensure!(code.is_some_and(|code| code != 0), "{code:?}");
    ensure!(said.contains("out of file descriptors for 10 s") && said.contains("LimitNOFILE"));
    ensure!(lines(&cluster.nodes[0], "can be accepted") <= 5, "a line for each attempt:\n{said}");

    cluster.nodes[0].start()?;
    cluster.wait_ready(Duration::from_secs(30))?;
    cluster.must(&["topic", "describe", "t"])?;
    ensure!(lines(&cluster.nodes[0], "changes replayed from") == 1, "{}", cluster.nodes[0].said());
    Ok(())
}

/// A client of an API that is not served is closed each time, and named twice.
#[test]
fn what_is_refused_a_hundred_times_is_counted() -> Result<()> {
    let cluster = Cluster::start(1, &[])?;
    let node = &cluster.nodes[0];
    // Length, JoinGroup, version 0, correlation id, no client id.
    let request = [0, 0, 0, 10, 0, 11, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
    for _ in 0..100 {
        let mut stream = TcpStream::connect(("127.0.0.1", node.kafka))?;
        stream.write_all(&request)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        ensure!(answer.is_empty());
    }
    ensure!(lines(node, "version 0 of JoinGroup is not supported") == 1, "{}", node.said());
    let counted = || lines(node, "and 98 more of this kind within") == 1;
    let end = Instant::now() + Duration::from_secs(20);
    while !counted() {
        ensure!(Instant::now() < end, "{}", node.said());
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(lines(node, "JoinGroup") == 2, "{}", node.said());
    Ok(())
}
