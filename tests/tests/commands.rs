//! What those who type commands get to see when something is not as usual.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
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
    let commands: [(&[&str], &str); 9] = [
        (&["topic", "create", "t", "--partitions", "2", "--replication-factor", "1"], ""),
        (&["topic", "list"], ""),
        (&["topic", "describe", "t"], ""),
        (&["produce", "t"], "a\nb\n"),
        (&["consume", "t"], ""),
        (&["topic", "alter", "t", "--partitions", "3"], ""),
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
    for verb in [&["describe", "nope"][..], &["delete", "nope"], &["alter", "nope", "-p", "9"]] {
        let (code, _, fault) = told(&cluster, &[&["topic"], verb].concat(), "")?;
        ensure!(code == 1 && fault.contains("there is no such topic"), "{code} {fault}");
    }
    Ok(())
}

#[test]
fn a_topic_grows_and_is_written_to_and_read_as_a_whole() -> Result<()> {
    let cluster = Cluster::start(3, &[])?;
    cluster.must(&["topic", "create", "t", "-p", "1", "-r", "3"])?;
    let (code, ..) = told(&cluster, &["produce", "t"], "first\n")?;
    ensure!(code == 0, "{code}");
    let (code, said, fault) = told(&cluster, &["topic", "alter", "t", "--partitions", "4"], "")?;
    ensure!((code, &*said) == (0, "topic t has 4 partitions now\n"), "{code} {said} {fault}");
    for partition in ["1", "2", "3"] {
        let arguments = ["produce", "t", "--partition", partition];
        let (code, _, fault) = told(&cluster, &arguments, &format!("to {partition}\n"))?;
        ensure!(code == 0, "{code} {fault}");
    }
    let (_, said, _) = told(&cluster, &["consume", "t"], "")?;
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort_unstable();
    ensure!(lines == ["first", "to 1", "to 2", "to 3"], "{said}");
    for fewer in ["4", "3"] {
        let arguments = ["topic", "alter", "t", "--partitions", fewer];
        let (code, _, fault) = told(&cluster, &arguments, "")?;
        let why = format!("topic t has 4 partitions, and {fewer} are no more");
        ensure!(code == 1 && fault.contains(&why), "{code} {fault}");
    }
    Ok(())
}

/// A process with pipes to its three ends.
fn spawn(cluster: &Cluster, arguments: &[&str]) -> Result<Child> {
    Ok(Command::new(milena())
        .args(arguments)
        .env("MILENA_BOOTSTRAP", cluster.bootstrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?)
}

/// Lines go in and come out while nodes are killed and come back; nobody gives up and no line is lost.
#[test]
fn produce_and_consume_outlive_a_restart() -> Result<()> {
    let mut cluster = Cluster::start(3, &[])?;
    cluster.must(&["topic", "create", "t", "-p", "3", "-r", "3"])?;
    // Its only replica may be on any of the nodes: what is there is not read for a while.
    cluster.must(&["topic", "create", "single", "-p", "3", "-r", "1"])?;
    let mut pairs = Vec::new();
    for topic in ["t", "single"] {
        let mut producer = spawn(&cluster, &["produce", topic])?;
        let consumer = spawn(&cluster, &["consume", topic, "--follow"])?;
        let mut input = producer.stdin.take().expect("a pipe");
        let feeder = std::thread::spawn(move || {
            for number in 0..250 {
                writeln!(input, "line {number}").expect("it reads on");
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        pairs.push((topic, producer, consumer, feeder));
    }
    std::thread::sleep(Duration::from_millis(500));
    // First one node, then all of them.
    cluster.nodes[0].kill();
    std::thread::sleep(Duration::from_secs(1));
    cluster.nodes[0].start()?;
    std::thread::sleep(Duration::from_millis(500));
    cluster.nodes.iter_mut().for_each(|node| node.kill());
    std::thread::sleep(Duration::from_millis(1_500));
    cluster.nodes.iter_mut().try_for_each(|node| node.start())?;
    for (topic, producer, mut consumer, feeder) in pairs {
        feeder.join().expect("all lines are taken");
        let output = producer.wait_with_output()?;
        let (said, fault) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{said} {fault}");
        ensure!(said.starts_with(&format!("250 records acknowledged in {topic}")), "{said}");
        let told = fault.lines().filter(|line| line.contains("waiting to send")).count();
        ensure!((1..=3).contains(&told), "every wait is told once: {fault}");
        let mut missing: BTreeSet<String> =
            (0..250).map(|number| format!("line {number}")).collect();
        let watchdog = Watchdog::new(consumer.id(), Duration::from_secs(60));
        let mut lines = BufReader::new(consumer.stdout.take().expect("a pipe")).lines();
        while !missing.is_empty() {
            match lines.next() {
                Some(line) => missing.remove(&line?),
                None => bail!("consume ended without {missing:?}"),
            };
        }
        drop(watchdog);
        consumer.kill()?;
        consumer.wait()?;
    }
    Ok(())
}

/// Ends a process that takes too long, so that who reads from it sees its end.
struct Watchdog {
    _end: std::sync::mpsc::Sender<()>,
}

impl Watchdog {
    fn new(pid: u32, limit: Duration) -> Watchdog {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            if receiver.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
            }
        });
        Watchdog { _end: sender }
    }
}

/// Where nobody answers, a command says so after a second, once, and gives up when its time is over.
#[test]
fn a_command_waits_as_long_as_its_timeout() -> Result<()> {
    let nowhere = format!("--bootstrap=127.0.0.1:{}", free_port());
    // Where it is not built yet, that takes longer than any command.
    let milena = milena();
    for (arguments, least) in [
        (vec!["topic", "list"], 1.4),
        (vec!["topic", "create", "t"], 1.4),
        (vec!["produce", "t"], 1.4),
        (vec!["consume", "t"], 1.4),
        (vec!["cluster", "status"], 0.0),
    ] {
        let began = Instant::now();
        let output = Command::new(&milena)
            .args(&arguments)
            .args([&nowhere, "--timeout=1.6"])
            .stdin(Stdio::null())
            .output()?;
        let took = began.elapsed().as_secs_f32();
        let fault = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1), "{arguments:?} {fault}");
        ensure!((least - 0.4..20.0).contains(&took), "{arguments:?} took {took} s");
        ensure!(fault.contains("no broker answers"), "{arguments:?} {fault}");
        let told = fault.lines().filter(|line| line.contains("milena: waiting to ")).count();
        ensure!(told == usize::from(least > 0.0), "{arguments:?} {fault}");
    }
    Ok(())
}

#[test]
fn records_are_written_and_read_with_all_their_parts() -> Result<()> {
    let cluster = Cluster::start(1, &[])?;
    let made = cluster.must(&["topic", "create", "t", "-p", "2", "--format", "json"])?;
    let made: serde_json::Value = serde_json::from_str(&made)?;
    ensure!(made["partitions"] == 2 && made["replication_factor"] == 1, "{made}");
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let arguments = [
            "produce", "t", "-p", "0", "--header", "a=1", "-H", "b=x=y", "-z", codec, "--key", "k",
        ];
        let (code, said, fault) = told(&cluster, &arguments, codec)?;
        ensure!((code, &*said) == (0, "1 record acknowledged in t\n"), "{code} {said} {fault}");
    }
    let (code, said, _) = told(&cluster, &["produce", "t", "-p0", "-Z", "--acks=1"], "\n")?;
    ensure!(code == 0 && said.starts_with("1 record acknowledged"), "{said}");
    let (code, said, _) = told(&cluster, &["produce", "t", "-p1", "--acks", "0"], "x\ny\n")?;
    ensure!((code, &*said) == (0, "2 records sent, unacknowledged, in t\n"), "{said}");

    let read = |arguments: &[&str]| cluster.must(&[&["consume", "t"], arguments].concat());
    let form = r"%p %o %k/%K %s/%S %t %h\t%%\n";
    ensure!(
        read(&["-p", "0", "-f", form])?
            == "0 0 k/1 none/4 t a=1,b=x=y\t%\n0 1 k/1 gzip/4 t a=1,b=x=y\t%\n\
                0 2 k/1 snappy/6 t a=1,b=x=y\t%\n0 3 k/1 lz4/3 t a=1,b=x=y\t%\n\
                0 4 k/1 zstd/4 t a=1,b=x=y\t%\n0 5 (null)/-1 (null)/-1 t \t%\n"
    );
    ensure!(read(&["-p", "0", "--from", "-2", "-k", "->"])? == "k->zstd\n(null)->(null)\n");
    ensure!(read(&["-p", "0", "-o", "-99", "-n", "1"])? == "none\n");
    ensure!(read(&["-p", "0", "-n", "2", "--follow"])? == "none\ngzip\n");
    let end = Instant::now() + Duration::from_secs(5);
    while read(&["-p", "1"])? != "x\ny\n" {
        ensure!(Instant::now() < end, "what acks=0 sent does not come");
    }

    // Bytes that are no text are not lost in JSON.
    let mut process = spawn(&cluster, &["produce", "t", "-p", "0", "-k", ":"])?;
    process.stdin.take().expect("a pipe").write_all(b"\xff:\xfe\x00\n")?;
    ensure!(process.wait_with_output()?.status.success());
    let line = read(&["-p", "0", "-o", "-1", "--format", "json"])?;
    let line: serde_json::Value = serde_json::from_str(&line)?;
    ensure!(line["key"]["base64"] == "/w==" && line["value"]["base64"] == "/gA=", "{line}");
    let line = read(&["-p", "0", "-o", "-2", "-n", "1", "--format", "json"])?;
    let line: serde_json::Value = serde_json::from_str(&line)?;
    ensure!(line["key"].is_null() && line["value"].is_null(), "{line}");

    for (arguments, code, words) in [
        (&["consume", "absent"][..], 1, "there is no topic absent; milena topic create absent"),
        (&["produce", "t", "-p", "2"], 2, "t has 2 partitions"),
        (&["consume", "t", "-f", "%q"], 2, "there is no %q"),
        (&["consume", "t", "--from=yesterday"], 2, "-N for the last N"),
        (&["consume", "t", "-n", "0"], 2, "--count"),
        (&["topic", "create", "t", "--timeout", "never"], 2, "give seconds"),
        (&["produce", "t", "--key", "a", "-k", ":"], 2, "cannot be used with"),
    ] {
        let (found, said, fault) = told(&cluster, arguments, "")?;
        ensure!(found == code && fault.contains(words), "{arguments:?}: {found} {said} {fault}");
        // A template and JSON exclude each other.
        if arguments.contains(&"-f") {
            continue;
        }
        let (found, said, fault) =
            told(&cluster, &[arguments, &["--format", "json"]].concat(), "")?;
        let fault: serde_json::Value = serde_json::from_str(&fault)?;
        ensure!(found == code && fault["exit_code"] == code, "{arguments:?}: {said} {fault}");
        ensure!(fault["error"].as_str().is_some_and(|e| e.contains(words)), "{fault}");
    }
    Ok(())
}

/// Ctrl-C tells what is there for sure.
#[test]
fn an_interrupted_produce_says_how_many_were_acknowledged() -> Result<()> {
    let mut cluster = Cluster::start(1, &[])?;
    cluster.must(&["topic", "create", "t"])?;
    let mut producer = spawn(&cluster, &["produce", "t"])?;
    let mut input = producer.stdin.take().expect("a pipe");
    writeln!(input, "one\ntwo")?;
    while cluster.must(&["consume", "t"])?.lines().count() < 2 {}
    cluster.nodes[0].kill();
    writeln!(input, "three")?;
    std::thread::sleep(Duration::from_millis(300));
    Command::new("kill").args(["-INT", &producer.id().to_string()]).status()?;
    let output = producer.wait_with_output()?;
    let fault = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(130), "{} {fault}", output.status);
    let expected =
        "interrupted; 2 records acknowledged in t, 1 more read that may or may not be there";
    ensure!(fault.contains(expected), "{fault}");
    Ok(())
}

/// `cluster status --check` is for scripts: 0 well, 1 degraded, 2 unavailable.
#[test]
fn the_exit_code_of_a_check_says_how_the_cluster_is() -> Result<()> {
    let mut cluster = Cluster::start(3, &[])?;
    cluster.must(&["topic", "create", "t", "-p", "1", "-r", "3"])?;
    let until = |cluster: &Cluster, code: i32, words: &str| -> Result<()> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let (found, said, fault) = told(cluster, &["cluster", "status", "--check"], "")?;
            if found == code && (said.contains(words) || fault.contains(words)) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{found} in place of {code}: {said} {fault}");
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    until(&cluster, 0, "health: well")?;
    cluster.nodes[2].kill();
    until(&cluster, 1, "health: degraded: 1 partition under-replicated, 1 broker fenced")?;
    ensure!(cluster.milena(&["cluster", "status"])?.status.success());
    cluster.nodes[1].kill();
    until(&cluster, 2, "health: unavailable: no active controller")?;
    cluster.nodes[0].kill();
    until(&cluster, 2, "no broker answers")?;
    let (code, _, fault) = told(&cluster, &["cluster", "status", "--check", "--format=json"], "")?;
    let fault: serde_json::Value = serde_json::from_str(&fault)?;
    ensure!(code == 2 && fault["exit_code"] == 2, "{fault}");
    Ok(())
}

/// The completion completes, in a real shell, and there is a man page for each command.
#[test]
fn completions_and_man_pages_are_made_from_the_grammar() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().display().to_string();
    let script = Command::new(milena()).args(["completion", "bash"]).output()?;
    ensure!(script.status.success());
    let file = directory.path().join("milena.bash");
    std::fs::write(&file, script.stdout)?;
    let shell = "source \"$1\"; COMP_WORDS=(milena produce --comp); COMP_CWORD=2; \
                 _milena milena --comp produce; echo \"${COMPREPLY[@]}\"";
    let completed = Command::new("bash").args(["-c", shell, "bash"]).arg(&file).output()?;
    let completed = String::from_utf8_lossy(&completed.stdout).into_owned();
    ensure!(completed.trim() == "--compression", "{completed}");
    for shell in ["zsh", "fish"] {
        let script = Command::new(milena()).args(["completion", shell]).output()?;
        ensure!(String::from_utf8_lossy(&script.stdout).contains("compression"), "{shell}");
    }
    ensure!(Command::new(milena()).args(["man", &path]).status()?.success());
    for page in ["milena", "milena-start", "milena-topic-create", "milena-cluster-status"] {
        let text = std::fs::read_to_string(directory.path().join(format!("{page}.1")))?;
        ensure!(text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
    let absent = Command::new(milena()).args(["man", "/no/such"]).output()?;
    let fault = String::from_utf8_lossy(&absent.stderr).into_owned();
    ensure!(absent.status.code() == Some(1) && fault.contains("/no/such"), "{fault}");
    Ok(())
}
