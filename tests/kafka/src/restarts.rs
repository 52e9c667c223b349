//! Three nodes restarted one after the other under load, of Apache Kafka and of Milena: what Java's producer sees of it. The
//! figures are printed beside each other; how long others take on this machine is not ours to assert. Beside each gap stands
//! what the machine has in it: an fsync that took long at the same time, and the gap while nothing was restarted.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::brokers::{BRIEF, Broker, free_port, kafka_node};
use crate::install::Installed;

/// What the load does before, between and after restarts.
const BETWEEN: Duration = Duration::from_secs(3);
/// How often an fsync is measured.
const FSYNC_EVERY: Duration = Duration::from_millis(20);

/// A node that can be started again on its data.
struct Node {
    command: Command,
    port: u16,
    room: TempDir,
    broker: Option<Broker>,
}

impl Node {
    fn start(&mut self) -> Result<()> {
        self.broker = Some(Broker::start(&mut self.command, self.port, self.room.path())?);
        Ok(())
    }

    fn listens(&mut self) -> Result<()> {
        self.broker.as_mut().context("it runs")?.listens()
    }

    /// Asks it to stop, and waits until it has.
    fn stop(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        let mut broker = self.broker.take().context("it runs")?;
        kill_process(Pid::from_child(broker.process()), Signal::TERM)?;
        broker.process().wait()?;
        Ok(begun.elapsed())
    }
}

/// Restarts both clusters, one after the other.
pub fn restart_both(installed: &Installed, milena: &Path) -> Result<()> {
    restart("Apache Kafka", installed, kafka(installed)?)?;
    restart("Milena", installed, milena_nodes(milena)?)
}

fn restart(name: &str, installed: &Installed, mut nodes: Vec<Node>) -> Result<()> {
    nodes.iter_mut().try_for_each(Node::start)?;
    nodes.iter_mut().try_for_each(Node::listens)?;
    let bootstrap: Vec<String> =
        nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
    let mut load = Load::start(installed, &bootstrap.join(","))?;
    let disk = Disk::watch()?;
    std::thread::sleep(BETWEEN);
    load.ask("forget")?;
    disk.longest_ms();
    std::thread::sleep(BETWEEN);
    let undisturbed = load.ask("tell")?;
    println!(
        "{name}, undisturbed: {undisturbed}; longest fsync beside it {} ms",
        disk.longest_ms()
    );
    for (number, node) in (1..).zip(&mut nodes) {
        load.ask("forget")?;
        disk.longest_ms();
        let stop = node.stop()?.as_millis();
        let begun = Instant::now();
        node.start()?;
        node.listens()?;
        load.ask("whole")?;
        let back = begun.elapsed().as_millis();
        std::thread::sleep(BETWEEN);
        println!(
            "{name}, node {number} restarted: {}; longest fsync beside it {} ms; stopped in {stop} ms, in all sets again after {back} ms",
            load.ask("tell")?,
            disk.longest_ms()
        );
    }
    Ok(())
}

/// How long the disk takes for an fsync of a few bytes, again and again.
struct Disk {
    longest_us: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Disk {
    fn watch() -> Result<Disk> {
        let longest_us = Arc::new(AtomicU64::new(0));
        let file = tempfile::tempfile()?;
        let longest = Arc::downgrade(&longest_us);
        let body = move || {
            while let Some(longest) = longest.upgrade() {
                if let Ok(took) = sync_few_bytes(&file) {
                    longest.fetch_max(took.as_micros() as u64, Ordering::Relaxed);
                }
                drop(longest);
                std::thread::sleep(FSYNC_EVERY);
            }
        };
        Ok(Disk { longest_us, thread: Some(std::thread::spawn(body)) })
    }

    /// The longest since it was last asked, milliseconds.
    fn longest_ms(&self) -> u64 {
        self.longest_us.swap(0, Ordering::Relaxed) / 1_000
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.longest_us = Arc::default();
        self.thread.take().map(JoinHandle::join);
    }
}

fn sync_few_bytes(file: &File) -> Result<Duration> {
    // At the same place, so that only data is waited for, as in a journal.
    file.write_all_at(&[0; 512], 0)?;
    let begun = Instant::now();
    file.sync_data()?;
    Ok(begun.elapsed())
}

fn kafka(installed: &Installed) -> Result<Vec<Node>> {
    let ports = (0..3).map(|_| free_port()).collect::<Result<Vec<u16>>>()?;
    let controllers = (0..3).map(|_| free_port()).collect::<Result<Vec<u16>>>()?;
    let peers: Vec<(usize, u16)> = (1..).zip(controllers).collect();
    let voters: Vec<String> = peers.iter().map(|(id, at)| format!("{id}@127.0.0.1:{at}")).collect();
    let node = |((id, peer), port): (&(usize, u16), &u16)| {
        let room = tempfile::tempdir()?;
        let voters = voters.join(",");
        let command = kafka_node(installed, &BRIEF, room.path(), *id, *port, *peer, &voters)?;
        Ok(Node { command, port: *port, room, broker: None })
    };
    peers.iter().zip(&ports).map(node).collect()
}

fn milena_nodes(milena: &Path) -> Result<Vec<Node>> {
    let ports = (0..3).map(|_| free_port()).collect::<Result<Vec<u16>>>()?;
    let peers = (0..3).map(|_| free_port()).collect::<Result<Vec<u16>>>()?;
    let listed = (1..).zip(peers).map(|(id, peer): (usize, _)| format!("{id}@127.0.0.1:{peer}"));
    let cluster = listed.collect::<Vec<String>>().join(",");
    let node = |(id, port): (usize, &u16)| {
        let room = tempfile::tempdir()?;
        let mut command = Command::new(milena);
        command.args(["start", "--node-id", &id.to_string(), "--cluster", &cluster]);
        command.args(["--kafka", &format!("127.0.0.1:{port}"), "--data"]);
        command.arg(room.path().join("data"));
        Ok(Node { command, port: *port, room, broker: None })
    };
    (1..).zip(&ports).map(node).collect()
}

/// Java's producer, which says what it has seen.
struct Load {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Load {
    fn start(installed: &Installed, bootstrap: &str) -> Result<Load> {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/Restarts.java");
        let mut child = Command::new("java")
            .args(["-Xmx256m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"])
            .args(["-cp", &installed.class_path, source, bootstrap])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("`java` runs a source file; Debian has it as default-jdk-headless")?;
        let input = child.stdin.take().context("a pipe")?;
        let output = BufReader::new(child.stdout.take().context("a pipe")?);
        let mut load = Load { child, input, output };
        // Its answer comes once the topic is there.
        load.ask("whole")?;
        Ok(load)
    }

    fn ask(&mut self, what: &str) -> Result<String> {
        writeln!(self.input, "{what}")?;
        let mut line = String::new();
        let bytes = self.output.read_line(&mut line)?;
        ensure!(bytes > 0, "Java's producer ended before the restarts");
        Ok(line.trim().to_owned())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
