//! What the process tests share: the real binaries, a cluster of real processes on loopback, and its end.
//!
//! Only processes started here are ever signalled, by their id.

use std::fs::File;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// The binary of this workspace with that name, built once per test process by cargo in the tests' own profile.
pub fn binary(package: &str, name: &str) -> PathBuf {
    static BUILT: OnceLock<std::sync::Mutex<Vec<String>>> = OnceLock::new();
    let mut built =
        BUILT.get_or_init(Default::default).lock().expect("no test panics while building");
    // tests/target/debug/deps/x-hash -> target/debug
    let mut directory = std::env::current_exe().expect("a test has a path");
    directory.pop();
    if directory.ends_with("deps") {
        directory.pop();
    }
    let profile = directory.file_name().expect("target/PROFILE").to_string_lossy().into_owned();
    if !built.iter().any(|b| b == name) {
        let profile = if profile == "debug" { "dev" } else { &profile };
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", package, "--bin", name, "--profile", profile])
            .current_dir(workspace())
            .status()
            .expect("cargo runs");
        assert!(status.success(), "building {name} failed");
        built.push(name.into());
    }
    directory.join(name)
}

/// The `milena` binary.
pub fn milena() -> PathBuf {
    binary("milena-net", "milena")
}

/// The workspace's root.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the workspace")
}

/// A loopback port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("loopback has ports")
        .port()
}

/// A node's process and where it listens.
pub struct Node {
    /// `--node-id`.
    pub id: i32,
    /// Kafka port.
    pub kafka: u16,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    process: Option<Child>,
}

impl Node {
    /// Starts the process, appending to its log.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "node {} runs", self.id);
        let log = File::options().create(true).append(true).open(&self.log)?;
        self.process = Some(
            Command::new(milena())
                .args(&self.arguments)
                .envs(self.environment.iter().cloned())
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()?,
        );
        Ok(())
    }

    /// kill -9, as often as it takes to be true.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().ok();
            process.wait().ok();
        }
    }

    /// Sets a variable of its environment from the next start on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(n, _)| n != name);
        self.environment.push((name.into(), value.into()));
    }

    /// Gives a flag this value from the next start on.
    pub fn set_flag(&mut self, name: &str, value: &str) {
        match self.arguments.iter().position(|argument| argument == name) {
            Some(place) => self.arguments[place + 1] = value.into(),
            None => self.arguments.extend([name.into(), value.into()]),
        }
    }

    /// The value of a flag that it is started with.
    pub fn flag(&self, name: &str) -> &str {
        let place = self.arguments.iter().position(|argument| argument == name);
        &self.arguments[place.expect("it is started with that flag") + 1]
    }

    /// Names of its process's threads.
    pub fn threads(&self) -> Result<Vec<String>> {
        let pid = self.pid().context("it runs")?;
        std::fs::read_dir(format!("/proc/{pid}/task"))?
            .map(|task| Ok(std::fs::read_to_string(task?.path().join("comm"))?.trim().into()))
            .collect()
    }

    /// Whether its process runs.
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|p| matches!(p.try_wait(), Ok(None)))
    }

    /// Waits until its process has ended of itself; its exit code.
    pub fn ended(&mut self, limit: Duration) -> Result<Option<i32>> {
        let end = Instant::now() + limit;
        let process = self.process.as_mut().context("it was started")?;
        loop {
            if let Some(status) = process.try_wait()? {
                self.process = None;
                return Ok(status.code());
            }
            ensure!(Instant::now() < end, "node {} runs on", self.id);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The process id, while it was started and not killed.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Everything it has said.
    pub fn said(&self) -> String {
        let mut said = String::new();
        File::open(&self.log).and_then(|mut f| f.read_to_string(&mut said)).ok();
        said
    }
}

/// Real processes of one cluster; killed when dropped.
pub struct Cluster {
    /// The nodes, by id from 1 on.
    pub nodes: Vec<Node>,
    /// Their data, removed with this value.
    pub directory: tempfile::TempDir,
}

impl Cluster {
    /// `count` nodes, each broker and controller, started, with variables in their environment.
    pub fn start(count: usize, environment: &[(&str, &str)]) -> Result<Cluster> {
        Cluster::start_with(count, environment, &[])
    }

    /// The same, with more flags.
    pub fn start_with(
        count: usize,
        environment: &[(&str, &str)],
        flags: &[&str],
    ) -> Result<Cluster> {
        Cluster::start_in(tempfile::tempdir()?, count, environment, flags)
    }

    /// The same with `node-ID` of a directory as their data.
    pub fn start_in(
        directory: tempfile::TempDir,
        count: usize,
        environment: &[(&str, &str)],
        flags: &[&str],
    ) -> Result<Cluster> {
        let peers: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let list: Vec<String> =
            (1..).zip(&peers).map(|(id, port)| format!("{id}@127.0.0.1:{port}")).collect();
        let mut nodes = Vec::new();
        for id in 1..=count {
            let kafka = free_port();
            nodes.push(Node {
                id: id as i32,
                kafka,
                arguments: [
                    "start",
                    "--node-id",
                    &id.to_string(),
                    "--cluster",
                    &list.join(","),
                    "--kafka",
                    &format!("127.0.0.1:{kafka}"),
                    "--data",
                    &directory.path().join(format!("node-{id}")).to_string_lossy(),
                ]
                .into_iter()
                .chain(flags.iter().copied())
                .map(String::from)
                .collect(),
                environment: environment
                    .iter()
                    .map(|(n, v)| (n.to_string(), v.to_string()))
                    .collect(),
                log: directory.path().join(format!("node-{id}.log")),
                process: None,
            });
        }
        let mut cluster = Cluster { nodes, directory };
        for node in &mut cluster.nodes {
            node.start()?;
        }
        cluster.wait_ready(Duration::from_secs(60))?;
        Ok(cluster)
    }

    /// Starts one more node, a broker alone.
    pub fn add_broker(&mut self, id: i32) -> Result<()> {
        let (kafka, peer) = (free_port(), free_port());
        let data = self.directory.path().join(format!("node-{id}"));
        let flags = [
            ("--node-id", id.to_string()),
            ("--cluster", self.nodes[0].flag("--cluster").into()),
            ("--kafka", format!("127.0.0.1:{kafka}")),
            ("--peer", format!("127.0.0.1:{peer}")),
            ("--data", data.to_string_lossy().into()),
        ];
        let flags = flags.into_iter().flat_map(|(name, value)| [name.into(), value]);
        let mut node = Node {
            id,
            kafka,
            arguments: std::iter::once("start".into()).chain(flags).collect(),
            environment: Vec::new(),
            log: self.directory.path().join(format!("node-{id}.log")),
            process: None,
        };
        node.start()?;
        self.nodes.push(node);
        Ok(())
    }

    /// Addresses for a client's `bootstrap.servers`.
    pub fn bootstrap(&self) -> String {
        self.nodes.iter().map(|n| format!("127.0.0.1:{}", n.kafka)).collect::<Vec<_>>().join(",")
    }

    /// Runs a client command of the binary against this cluster.
    pub fn milena(&self, arguments: &[&str]) -> Result<Output> {
        Command::new(milena())
            .args(arguments)
            .env("MILENA_BOOTSTRAP", self.bootstrap())
            .stdin(Stdio::null())
            .output()
            .context("milena runs")
    }

    /// The same, and it must succeed; its standard output.
    pub fn must(&self, arguments: &[&str]) -> Result<String> {
        let output = self.milena(arguments)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!(
                "milena {arguments:?}: {} {said} {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(said)
    }

    /// Waits until every running node listens and topics can be listed.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            let listening = self
                .nodes
                .iter_mut()
                .all(|n| !n.runs() || TcpStream::connect(("127.0.0.1", n.kafka)).is_ok());
            if listening && self.status_is_whole() {
                return Ok(());
            }
            if Instant::now() > end {
                let said: Vec<String> =
                    self.nodes.iter().map(|n| format!("node {}:\n{}", n.id, n.said())).collect();
                bail!("the cluster was not ready in time\n{}", said.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Whether `cluster status` counts every running node as a live broker.
    fn status_is_whole(&mut self) -> bool {
        let running = self.nodes.iter_mut().filter_map(|n| n.runs().then_some(())).count();
        let Ok(output) = self.milena(&["cluster", "status", "--format", "json"]) else {
            return false;
        };
        let Ok(status) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else {
            return false;
        };
        status["brokers"].as_array().is_some_and(|b| b.len() >= running)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.kill();
        }
        if std::thread::panicking() {
            for node in &self.nodes {
                eprintln!("--- node {} said:\n{}", node.id, node.said());
            }
        }
    }
}
