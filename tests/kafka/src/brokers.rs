//! Nodes of Apache Kafka and of Milena, each with a fresh directory and on loopback ports of its own.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::install::{Installed, run};

/// How long a broker may take until it answers.
const START: Duration = Duration::from_secs(90);
/// For the Java machine where a broker runs for a few seconds only: it starts sooner, and its code stays slower.
pub const BRIEF: [&str; 3] = ["-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"];
/// The same as Apache Kafka's own scripts have it, where it counts how fast it is.
const FAST: [&str; 3] = ["-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"];

/// A running broker, which ends with this value.
pub struct Broker {
    child: Child,
    /// Where Kafka clients reach it.
    pub port: u16,
    log: PathBuf,
    /// Its directory, where it goes with this value.
    room: Option<TempDir>,
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Broker {
    /// Apache Kafka, one node.
    pub fn kafka(installed: &Installed) -> Result<Broker> {
        Broker::kafka_with(installed, &BRIEF, "")
    }

    /// The same with its cleaner at work, which looks often.
    pub fn kafka_that_cleans(installed: &Installed) -> Result<Broker> {
        Broker::kafka_with(
            installed,
            &BRIEF,
            "log.cleaner.enable=true\nlog.cleaner.backoff.ms=200\n",
        )
    }

    /// The same where it counts how fast it is.
    pub fn kafka_that_cleans_fast(installed: &Installed) -> Result<Broker> {
        Broker::kafka_with(installed, &FAST, "log.cleaner.enable=true\nlog.cleaner.backoff.ms=50\n")
    }

    /// Milena, one node in memory's stead of a data directory.
    pub fn milena(binary: &Path) -> Result<Broker> {
        Broker::milena_with(binary, &[])
    }

    /// The same with a cleaner that looks often.
    pub fn milena_that_cleans(binary: &Path) -> Result<Broker> {
        Broker::milena_with(binary, &["--cleaner-backoff-ms", "200"])
    }

    /// Of a property that is given twice, Java takes the later one.
    fn kafka_with(installed: &Installed, java: &[&str], more: &str) -> Result<Broker> {
        let room = tempfile::tempdir()?;
        let (port, controller) = (free_port()?, free_port()?);
        let voters = format!("1@127.0.0.1:{controller}");
        let mut command = kafka_node(installed, java, room.path(), 1, port, controller, &voters)?;
        let file = room.path().join("server.properties");
        fs::write(&file, fs::read_to_string(&file)? + more)?;
        Broker::start_in(&mut command, port, room)
    }

    /// The same with flags.
    pub fn milena_with(binary: &Path, flags: &[&str]) -> Result<Broker> {
        let room = tempfile::tempdir()?;
        let port = free_port()?;
        let mut command = Command::new(binary);
        command.args(["dev", "--ephemeral", "--nodes", "1", "--min-insync-replicas", "1"]);
        command.args(flags).args(["--port", &port.to_string()]);
        Broker::start_in(&mut command, port, room)
    }

    /// Starts one whose directory goes with it.
    fn start_in(command: &mut Command, port: u16, room: TempDir) -> Result<Broker> {
        let mut broker = Broker::start(command, port, room.path())?;
        broker.room = Some(room);
        broker.listens()?;
        Ok(broker)
    }

    /// Starts one.
    pub fn start(command: &mut Command, port: u16, room: &Path) -> Result<Broker> {
        let log = room.join("log");
        let file = File::create(&log)?;
        command.stdin(Stdio::null()).stderr(file.try_clone()?).stdout(file);
        let child = command.spawn().with_context(|| format!("{command:?}"))?;
        Ok(Broker { child, port, log, room: None })
    }

    /// Waits until it listens.
    pub fn listens(&mut self) -> Result<()> {
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if !self.lives() || begun.elapsed() > START {
                bail!("no broker listens at port {}: {}", self.port, self.last_words());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Its directory, where it goes with this value.
    pub fn room(&self) -> Option<&Path> {
        self.room.as_ref().map(TempDir::path)
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Whether the process is still there.
    pub fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

/// The command that starts one node of Apache Kafka, controller and broker in one, on a directory that is made ready for it. Its
/// settings are ours where they would differ by choice alone; flags are for the Java machine.
pub fn kafka_node(
    installed: &Installed,
    flags: &[&str],
    room: &Path,
    id: usize,
    port: u16,
    controller: u16,
    voters: &str,
) -> Result<Command> {
    let properties = format!(
        "process.roles=broker,controller\n\
         node.id={id}\n\
         controller.quorum.voters={voters}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         controller.listener.names=CONTROLLER\n\
         log.dirs={}\n\
         auto.create.topics.enable=false\n\
         offsets.topic.num.partitions=1\n\
         offsets.topic.replication.factor=1\n\
         transaction.state.log.num.partitions=1\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         share.coordinator.state.topic.num.partitions=1\n\
         share.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\n\
         log.cleaner.enable=false\n\
         num.partitions=1\n",
        room.join("data").display()
    );
    let file = room.join("server.properties");
    fs::write(&file, properties)?;
    let java = |flags: &[&str], class: &str| {
        let mut java = Command::new("java");
        java.args(flags);
        java.args([
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp",
            &installed.class_path,
            class,
        ]);
        java.current_dir(room);
        java
    };
    let mut format = java(&BRIEF, "kafka.tools.StorageTool");
    format.args(["format", "--cluster-id", "AAAAAAAAQACAAAAAAAAAAQ", "--config"]).arg(&file);
    run(&mut format)?;
    let mut command = java(flags, "kafka.Kafka");
    command.arg(&file);
    Ok(command)
}

/// A port of this machine that nobody uses. Kept below 50000, since our node takes this one plus 10000 too.
pub fn free_port() -> Result<u16> {
    loop {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        if port < 50_000 && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return Ok(port);
        }
    }
}
