//! What those who type commands get to see when something is not as usual.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use milena_tests::{Cluster, free_port, milena};

/// Runs a command whose standard output nobody reads any more, with lines on its standard input.
fn unheard(cluster: &Cluster, arguments: &[&str], input: &str) -> Result<Output> {
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut process = Command::new(milena())
        .args(arguments)
        .env("MILENA_BOOTSTRAP", cluster.bootstrap())
        .stdin(Stdio::piped())
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()?;
    process.stdin.take().expect("a pipe").write_all(input.as_bytes())?;
    Ok(process.wait_with_output()?)
}

#[test]
fn a_command_that_nobody_listens_to_ends_quietly() -> Result<()> {
    let cluster = Cluster::start(1, &[])?;
    let commands: [(&[&str], &str); 8] = [
        (&["topic", "create", "t", "--partitions", "2", "--replication-factor", "1"], ""),
        (&["topic", "list"], ""),
        (&["topic", "describe", "t"], ""),
        (&["produce", "t"], "a\nb\n"),
        (&["consume", "t"], ""),
        (&["cluster", "status"], ""),
        (&["topic", "delete", "t"], ""),
        (&["--help"], ""),
    ];
    for format in ["human", "json"] {
        for (arguments, input) in commands {
            let mut arguments = arguments.to_vec();
            if arguments != ["--help"] {
                arguments.extend(["--format", format]);
            }
            let output = unheard(&cluster, &arguments, input)?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.code() == Some(0) && said.is_empty(),
                "milena {arguments:?}: {}, {said}",
                output.status
            );
        }
    }
    // What failed still says so.
    let output = unheard(&cluster, &["topic", "describe", "absent"], "")?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    Ok(())
}

/// Whether a command ended with one line of its own, whatever it logged before.
fn is_one_line(said: &str) -> bool {
    let own = |line: &&str| line.starts_with("milena: ");
    said.lines().last().as_ref().is_some_and(own) && said.lines().filter(own).count() == 1
}

/// What an operator got wrong is one line that names it and what helps, with exit code 2.
#[test]
fn a_node_that_cannot_run_says_why_in_one_line() -> Result<()> {
    let cluster = Cluster::start(1, &[])?;
    let kafka = format!("127.0.0.1:{}", cluster.nodes[0].kafka);
    let used = cluster.directory.path().join("node-1").display().to_string();
    let fresh = cluster.directory.path().join("fresh").display().to_string();
    let file = cluster.directory.path().join("file.toml");
    std::fs::write(&file, "node-id = 1\nsegment-byte = 3\n")?;
    let file = file.display().to_string();
    let low = cluster.directory.path().join("low.toml");
    std::fs::write(&low, "segment-bytes = 3\n")?;
    let low = format!("--config={}", low.display());
    let (free, peer) = (free_port(), free_port());
    let (free, peer) = (format!("127.0.0.1:{free}"), format!("1@127.0.0.1:{peer}"));
    let twice = format!("{peer},2@{}", &peer[2..]);
    let start = |cluster: &str, kafka: &str, data: &str| {
        let flags =
            ["start", "--node-id=1", "--cluster", cluster, "--kafka", kafka, "--data", data];
        flags.map(String::from).to_vec()
    };
    let with = |more: &str| [start(&peer, &free, &fresh), vec![more.into()]].concat();
    let dev = |flags: &[&str]| [&["dev"], flags].concat().into_iter().map(String::from).collect();
    let port = cluster.nodes[0].kafka.to_string();
    let cases: [(Vec<String>, &[&str]); 10] = [
        (start(&peer, &kafka, &fresh), &[&kafka, "in use", "another port with --kafka"]),
        (dev(&["--data", &fresh, "--port", &port]), &[&kafka, "another port with --port"]),
        (start(&peer, &free, &used), &["in use by another process", "another --data"]),
        (start(&twice, &free, &fresh), &["nodes 1 and 2", "the same address", "give each its own"]),
        (start(&peer, &peer[2..], &fresh), &["both", "give --kafka another port"]),
        (with("--segmnt-bytes=3"), &["--segmnt-bytes", "'--segment-bytes'"]),
        (with("--segment-bytes=3"), &["--segment-bytes", "3 is not in 1048576..="]),
        (with(&low), &["segment-bytes in ", "low.toml: 3 is not in 1048576..="]),
        (
            with(&format!("--config={file}")),
            &["file.toml", "segment-byte;", "did you mean segment-bytes?"],
        ),
        (dev(&["--nodes", "10"]), &["--nodes", "10 is not in 1..=9"]),
    ];
    for (arguments, words) in cases {
        let output = Command::new(milena()).args(&arguments).stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(2) && is_one_line(&said),
            "milena {arguments:?}: {}, {said}",
            output.status
        );
        for word in words {
            ensure!(said.contains(word), "milena {arguments:?} does not say {word}: {said}");
        }
    }
    // A directory of another node, which its owner has left.
    let mut cluster = cluster;
    cluster.nodes[0].kill();
    let mut other = start(&format!("{peer},2@{free}"), &kafka, &used);
    other[1] = "--node-id=2".into();
    let output = Command::new(milena()).args(&other).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(2) && is_one_line(&said), "{said}");
    ensure!(said.contains("belongs to node 1, this is node 2"), "{said}");
    Ok(())
}

/// A node with the data of one cluster and the addresses of another disturbs neither, and both sides say what is wrong.
#[test]
fn a_data_directory_of_another_cluster_is_refused() -> Result<()> {
    let mut own = Cluster::start(1, &[])?;
    let mut other = Cluster::start(1, &[])?;
    own.add_broker(2)?;
    own.wait_ready(Duration::from_secs(30))?;
    let list = |cluster: &Cluster| cluster.nodes[0].flag("--cluster").to_string();
    own.nodes[1].kill();
    let other_list = list(&other);
    own.nodes[1].set_flag("--cluster", &other_list);
    own.nodes[1].start()?;
    let remedy = "check --cluster and --data of the one that is wrong";
    let end = Instant::now() + Duration::from_secs(20);
    while ![&own.nodes[1], &other.nodes[0]].iter().all(|node| node.said().contains(remedy)) {
        ensure!(Instant::now() < end, "{}{}", own.nodes[1].said(), other.nodes[0].said());
        std::thread::sleep(Duration::from_millis(50));
    }
    ensure!(own.nodes[1].said().contains("refuses to be peer 1"), "{}", own.nodes[1].said());
    other.wait_ready(Duration::from_secs(30))?;
    Ok(())
}

/// A controller that is gone is told from one that lives, and what is known only from before from what is so now.
#[test]
fn status_tells_the_dead_from_the_living() -> Result<()> {
    let mut cluster = Cluster::start(3, &[])?;
    let status: serde_json::Value =
        serde_json::from_str(&cluster.must(&["cluster", "status", "--format", "json"])?)?;
    let leader = status["controller"].as_i64().expect("there is one");
    let mut followers = (1..=3).filter(|id| *id != leader);
    let mut kill = || {
        let id = followers.next().expect("there are two");
        cluster.nodes[id as usize - 1].kill();
        id
    };
    let first = kill();
    std::thread::sleep(Duration::from_secs(4));
    let second = kill();
    let said = cluster.must(&["cluster", "status"])?;
    let row = |id: i64| said.lines().find(|line| line.starts_with(&format!("{id} "))).unwrap_or("");
    ensure!(row(first).contains("not for "), "{said}");
    ensure!(row(second).contains(" s ago") && row(leader).contains("now"), "{said}");
    let end = Instant::now() + Duration::from_secs(10);
    while !cluster
        .must(&["cluster", "status"])?
        .contains("active controller: none; brokers and partitions are as last known")
    {
        ensure!(Instant::now() < end, "the leader without followers goes on");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Runs a command with lines on its standard input: its exit code, and what it said on standard output and error.
fn told(cluster: &Cluster, arguments: &[&str], input: &str) -> Result<(i32, String, String)> {
    let mut process = Command::new(milena())
        .args(arguments)
        .env("MILENA_BOOTSTRAP", cluster.bootstrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // One that has failed reads no further.
    let _ = process.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let output = process.wait_with_output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr)))
}

#[test]
fn produce_says_which_line_failed_and_how_many_were_acknowledged() -> Result<()> {
    let cluster = Cluster::start(1, &[])?;
    let create = |name, partitions| {
        let base = ["topic", "create", name, "--partitions", partitions];
        let more = ["--replication-factor", "1", "--config", "max.message.bytes=2000"];
        cluster.must(&[&base[..], &more[..]].concat())
    };
    ensure!(create("t", "1")?.contains("1 partition, 1 replica each"));
    create("keyed", "3")?;
    // Each fits, all together do not: that is nobody's fault.
    let (code, said, fault) =
        told(&cluster, &["produce", "t"], &"a line of a few bytes\n".repeat(500))?;
    ensure!((code, &*said) == (0, "500 records acknowledged in t\n"), "{code} {said} {fault}");

    let input = format!("one\ntwo\n{}\nfour\n", "x".repeat(3000));
    let (code, _, fault) = told(&cluster, &["produce", "t"], &input)?;
    let expected = "milena: t-0, line 3: 3070 bytes as a batch, max.message.bytes is 2000; \
                    2 records acknowledged before\n";
    ensure!((code, &*fault) == (1, expected), "{code} {fault}");
    let (_, said, _) = told(&cluster, &["consume", "t", "--from", "500"], "")?;
    ensure!(said == "one\ntwo\n", "{said}");

    let input = "a:1\nb:2\nc:3\nd\ne:5\n";
    let (code, _, fault) = told(&cluster, &["produce", "keyed", "-k", ":"], input)?;
    let expected = "milena: keyed, line 4: there is no \":\" between key and value; \
                    3 records acknowledged before\n";
    ensure!((code, &*fault) == (1, expected), "{code} {fault}");
    let (_, said, _) = told(&cluster, &["consume", "keyed"], "")?;
    ensure!(said.lines().count() == 3, "{said}");

    let (code, _, fault) = told(&cluster, &["consume", "t", "--from", "999"], "")?;
    ensure!(
        (code, &*fault) == (2, "milena: offset 999 is past the end 502 of t-0\n"),
        "{code} {fault}"
    );
    let (code, said, _) = told(&cluster, &["consume", "t", "--from", "502"], "")?;
    ensure!((code, &*said) == (0, ""), "{code} {said}");
    let (code, said, _) =
        told(&cluster, &["consume", "t", "--from", "2099-01-01T00:00+01:00"], "")?;
    ensure!((code, &*said) == (0, ""), "{code} {said}");
    for verb in ["describe", "delete"] {
        let (code, _, fault) = told(&cluster, &["topic", verb, "nope"], "")?;
        ensure!(code == 1 && fault.contains("there is no such topic"), "{code} {fault}");
    }
    Ok(())
}
