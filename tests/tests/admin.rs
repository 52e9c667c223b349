//! The admin listener of real processes: what Prometheus and a load balancer see of a node while it works, stops and waits, and
//! what bad clients may do (nothing, to anyone else).

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use milena_tests::{Cluster, Node, free_port};

const LIMIT: Duration = Duration::from_secs(30);

/// What came over a connection until its end, after these bytes were sent.
fn converse(port: u16, request: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(LIMIT))?;
    // Who does not like the head of a request may close before the rest of it is written.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Ok(String::from_utf8(answer)?)
}

/// Status, headers and body.
fn get(port: u16, path: &str) -> Result<(u16, String, String)> {
    let answer = converse(port, format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes())?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, head.to_ascii_lowercase(), body.into()))
}

/// Every series of a scrape; fails on what a scraper would not take.
fn scrape(port: u16) -> Result<BTreeMap<String, f64>> {
    let (status, head, body) = get(port, "/metrics")?;
    ensure!(status == 200 && head.contains("content-type: application/openmetrics-text"), "{head}");
    ensure!(body.ends_with("\n# EOF\n"), "{body}");
    let mut series = BTreeMap::new();
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').context("a series has a value")?;
        ensure!(series.insert(name.into(), value.parse()?).is_none(), "{line} is there twice");
    }
    Ok(series)
}

/// The sum of all series whose name begins so.
fn sum(series: &BTreeMap<String, f64>, prefix: &str) -> f64 {
    series.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, value)| value).sum()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while !is_so()? {
        ensure!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Starts a cluster whose nodes have admin listeners; their ports.
fn start(count: usize) -> Result<(Cluster, Vec<u16>)> {
    let mut cluster = Cluster::start(count, &[])?;
    let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
    for (node, port) in cluster.nodes.iter_mut().zip(&ports) {
        node.kill();
        node.set_flag("--admin", &port.to_string());
        node.start()?;
    }
    cluster.wait_ready(LIMIT)?;
    Ok((cluster, ports))
}

fn alone() -> Result<(Cluster, u16)> {
    let port = free_port();
    Ok((Cluster::start_with(1, &[], &["--admin", &port.to_string()])?, port))
}

fn produce(cluster: &Cluster, lines: usize) -> Result<()> {
    use std::process::{Command, Stdio};
    let mut child = Command::new(milena_tests::milena())
        .args(["produce", "letters"])
        .env("MILENA_BOOTSTRAP", cluster.bootstrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let mut input = child.stdin.take().context("it is piped")?;
    (0..lines).try_for_each(|line| writeln!(input, "line {line}"))?;
    drop(input);
    ensure!(child.wait()?.success());
    Ok(())
}

#[test]
fn a_scrape_moves_with_what_clients_do() -> Result<()> {
    let (cluster, port) = alone()?;
    cluster.must(&["topic", "create", "letters", "-p", "2", "-r", "1"])?;
    let before = scrape(port)?;
    ensure!(before["kafka_server_replicamanager_leadercount"] == 2.0, "{before:?}");
    ensure!(sum(&before, "kafka_server_brokertopicmetrics_messagesin_total") == 0.0);
    produce(&cluster, 50)?;
    cluster.must(&["consume", "letters", "-n", "50"])?;
    let after = scrape(port)?;
    let letters = "{topic=\"letters\"";
    for (prefix, least) in [
        ("kafka_server_brokertopicmetrics_bytesin_total", 50.0 * 6.0),
        ("kafka_server_brokertopicmetrics_bytesout_total", 50.0 * 6.0),
        ("kafka_network_requestmetrics_requests_total{request=\"Produce\"", 1.0),
        ("kafka_network_requestmetrics_totaltime_seconds_count{request=\"Produce\"", 1.0),
        ("kafka_network_requestmetrics_totaltime_seconds_count{request=\"Fetch\"", 1.0),
        ("kafka_network_requestmetrics_errors_total{request=\"Fetch\",error=\"NONE\"", 1.0),
        ("kafka_network_requestmetrics_requestbytes_total{request=\"Produce\"", 300.0),
        ("kafka_network_requestmetrics_responsebytes_total{request=\"Fetch\"", 300.0),
        ("kafka_log_logflushstats_logflushtime_seconds_count{file=\"journal\"", 1.0),
        ("milena_store_journal_bytes{shard=\"0\"", 300.0),
        ("process_open_fds", 5.0),
    ] {
        let moved =
            sum(&after, prefix) - if prefix.contains("total") { sum(&before, prefix) } else { 0.0 };
        ensure!(moved >= least, "{prefix} has moved by {moved}: {after:#?}");
    }
    for name in [
        "kafka_server_brokertopicmetrics_messagesin_total",
        "kafka_log_log_logendoffset",
        "kafka_topic_partition_current_offset",
    ] {
        ensure!(sum(&after, &format!("{name}{letters}")) == 50.0, "{name}: {after:#?}");
    }
    // Of one replica each, none lacks, and each is needed.
    ensure!(after["kafka_server_replicamanager_underreplicatedpartitions"] == 0.0);
    ensure!(after["kafka_server_replicamanager_atminisrpartitioncount"] == 2.0);
    ensure!(after["kafka_controller_kafkacontroller_activecontrollercount"] == 1.0);
    ensure!(after["milena_worker_up{shard=\"0\"}"] == 1.0);
    // What is refused is counted by its error.
    cluster.milena(&["topic", "create", "letters"])?;
    let refused = "kafka_network_requestmetrics_errors_total{request=\"CreateTopics\",error=\"TOPIC_ALREADY_EXISTS\"}";
    ensure!(scrape(port)?.contains_key(refused));
    Ok(())
}

#[test]
fn a_node_is_ready_while_it_serves_under_a_controller() -> Result<()> {
    let (mut cluster, ports) = start(3)?;
    cluster.must(&["topic", "create", "letters", "-p", "3", "-r", "3"])?;
    for port in &ports {
        wait_until("ready", || Ok(get(*port, "/readyz")?.0 == 200))?;
        ensure!(get(*port, "/healthz")?.0 == 200);
    }
    let active = |ports: &[u16]| -> Result<f64> {
        let all = ports.iter().map(|port| {
            Ok(scrape(*port)?["kafka_controller_kafkacontroller_activecontrollercount"])
        });
        all.sum()
    };
    ensure!(active(&ports)? == 1.0);
    cluster.nodes[2].kill();
    wait_until("followers lack", || {
        let all = ports[..2].iter().map(|port| {
            Ok(scrape(*port)?["kafka_server_replicamanager_underreplicatedpartitions"])
        });
        Ok(all.sum::<Result<f64>>()? == 3.0)
    })?;
    // Of three controllers one is left: it is alive and of no use.
    cluster.nodes[1].kill();
    let mut why = String::new();
    wait_until("without a controller", || {
        let (status, _, body) = get(ports[0], "/readyz")?;
        why = body;
        Ok(status == 503)
    })?;
    ensure!(why.lines().count() == 1 && why.contains("no leader of the quorum"), "{why}");
    ensure!(get(ports[0], "/healthz")?.0 == 200);
    ensure!(scrape(ports[0])?["kafka_server_raftmetrics_current_leader"] == -1.0);
    cluster.nodes[1].start()?;
    wait_until("ready again", || Ok(get(ports[0], "/readyz")?.0 == 200))
}

#[test]
fn bad_clients_are_told_or_closed_and_disturb_nobody() -> Result<()> {
    let (mut cluster, port) = alone()?;
    let (status, head, body) = get(port, "/secrets")?;
    ensure!(status == 404 && body.contains("/metrics"), "{head}\n{body}");
    let post =
        converse(port, b"POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")?;
    ensure!(post.starts_with("HTTP/1.1 405 ") && post.contains("allow: GET, HEAD"), "{post}");
    let head = converse(port, b"HEAD /healthz HTTP/1.0\r\n\r\n")?;
    ensure!(head.starts_with("HTTP/1.0 200 ") && head.ends_with("\r\n\r\n"), "{head}");

    let huge = format!("GET /metrics HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let refused = converse(port, huge.as_bytes())?;
    ensure!(!refused.contains("200 OK"), "{refused}");
    for bytes in
        [&b"\0\0\0\x0a\0\x0b\0\0\0\0\0\x01\xff\xff"[..], b"GET\r\n\r\n", b"\xff\xfe\r\n\r\n", b""]
    {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(bytes)?;
        stream.shutdown(Shutdown::Write)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        ensure!(!answer.starts_with(b"HTTP/1.1 200"), "{bytes:?}");
    }

    // More clients than it takes at a time, of which none ever ends its request: they lose their places.
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nho")?;
        slow.push(stream);
    }
    cluster.must(&["topic", "create", "letters", "-p", "1", "-r", "1"])?;
    ensure!(scrape(port)?["kafka_server_replicamanager_partitioncount"] == 1.0);
    drop(slow);
    ensure!(cluster.nodes[0].runs(), "{}", cluster.nodes[0].said());
    Ok(())
}

#[test]
fn a_listener_that_others_reach_is_warned_of_and_a_taken_port_named() -> Result<()> {
    let port = free_port();
    let all = format!("0.0.0.0:{port}");
    let cluster = Cluster::start_with(1, &[], &["--admin", &all])?;
    let warned = |node: &Node| node.said().lines().filter(|line| line.contains("--admin")).count();
    ensure!(warned(&cluster.nodes[0]) == 1, "{}", cluster.nodes[0].said());
    ensure!(get(port, "/healthz")?.0 == 200);
    let data = cluster.directory.path().join("other").to_string_lossy().into_owned();
    let (kafka, peer) =
        (format!("127.0.0.1:{}", free_port()), format!("1@127.0.0.1:{}", free_port()));
    let start = ["start", "--node-id", "1", "--cluster", &peer, "--kafka", &kafka, "--data", &data];
    for (admin, word) in [(port.to_string(), "with --admin"), (kafka.clone(), "another purpose")] {
        let output = cluster.milena(&[&start[..], &["--admin", &admin]].concat())?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2) && said.contains(word), "{said}");
    }
    Ok(())
}
