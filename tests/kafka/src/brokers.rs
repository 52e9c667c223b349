//! One node of Apache Kafka and one of Milena, each with a fresh directory and on loopback ports of its own.

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

/// A running broker, which ends with this value.
pub struct Broker {
    child: Child,
    /// Where Kafka clients reach it.
    pub port: u16,
    log: PathBuf,
    _room: TempDir,
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Broker {
    /// Apache Kafka, controller and broker in one, whose settings are ours where they would differ by choice alone.
    pub fn kafka(installed: &Installed) -> Result<Broker> {
        let room = tempfile::tempdir()?;
        let (port, controller) = (free_port()?, free_port()?);
        let properties = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
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
            room.path().join("data").display()
        );
        let file = room.path().join("server.properties");
        fs::write(&file, properties)?;
        let java = |heap: &str, class: &str| {
            let mut java = Command::new("java");
            java.args([heap, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]);
            java.args([
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                "-cp",
                &installed.class_path,
                class,
            ]);
            java.current_dir(room.path());
            java
        };
        let mut format = java("-Xmx128m", "kafka.tools.StorageTool");
        format.args(["format", "--cluster-id", "AAAAAAAAQACAAAAAAAAAAQ", "--config"]).arg(&file);
        run(&mut format)?;
        let mut command = java("-Xmx512m", "kafka.Kafka");
        command.arg(&file);
        Broker::start(command, port, room)
    }

    /// Milena, one node in memory's stead of a data directory.
    pub fn milena(binary: &Path) -> Result<Broker> {
        let room = tempfile::tempdir()?;
        let port = free_port()?;
        let mut command = Command::new(binary);
        command.args([
            "dev",
            "--ephemeral",
            "--nodes",
            "1",
            "--min-insync-replicas",
            "1",
            "--port",
        ]);
        command.arg(port.to_string());
        Broker::start(command, port, room)
    }

    fn start(mut command: Command, port: u16, room: TempDir) -> Result<Broker> {
        let log = room.path().join("log");
        let file = File::create(&log)?;
        command.stdin(Stdio::null()).stderr(file.try_clone()?).stdout(file);
        let child = command.spawn().with_context(|| format!("{command:?}"))?;
        let mut broker = Broker { child, port, log, _room: room };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if broker.child.try_wait()?.is_some() || begun.elapsed() > START {
                bail!("{command:?} does not listen: {}", broker.last_words());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(broker)
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Whether the process is still there.
    pub fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

/// A port of this machine that nobody uses. Kept below 50000, since our node takes this one plus 10000 too.
fn free_port() -> Result<u16> {
    loop {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        if port < 50_000 && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return Ok(port);
        }
    }
}
