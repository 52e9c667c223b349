//! `milena start` and `milena dev`: nodes that run until they are asked to stop.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use milena_core::{Halt, NodeId};

use super::arguments::Dev;
use super::{Failure, count};
use crate::admin;
use crate::client::Client;
use crate::config::{self, HostPort, Start, Tuning};
use crate::files::Unsynced;
use crate::kafka::Limits;
use crate::node::{self, Running, Settings, StartError};
use crate::runtime::{self, Bound, select};

/// Runs one node.
pub fn start(start: &Start) -> Result<(), Failure> {
    let mut settings = start.settings().map_err(Failure::Usage)?;
    begin_logging("info")?;
    warn_of_unsynced(settings.unsynced);
    settings.limits = fitting(&start.tuning, 1);
    let admin = start.admin.as_ref().map(listen_for_admin).transpose()?;
    let id = settings.config.node;
    let what = match (settings.config.broker, settings.config.controller) {
        (true, true) => "broker and controller",
        (true, false) => "broker",
        _ => "controller",
    };
    let listens = match &settings.kafka_listen {
        Some(kafka) => format!("Kafka clients on {kafka}, peers on {}", settings.peer_listen),
        None => format!("peers on {}", settings.peer_listen),
    };
    let watched = start.admin.as_ref().map(|admin| format!(", HTTP on {admin}"));
    let node = node::start(settings).map_err(failure)?;
    admin.map(|bound| serve_admin(bound, &node)).transpose()?;
    tracing::info!("node {id} runs: {what}, {listens}{}", watched.unwrap_or_default());
    run_to_the_end(vec![(id, node)], || {})
}

/// Runs a cluster in this process.
pub fn dev(dev: &Dev) -> Result<(), Failure> {
    let last = dev.port.checked_add(dev.nodes - 1).map(u32::from);
    if last.is_none() {
        return Err(Failure::Usage(
            "--port plus --nodes goes past 65535; take a lower port".into(),
        ));
    }
    let admin: Vec<HostPort> =
        dev.admin.iter().flat_map(|first| first.and_next(dev.nodes)).collect();
    if dev.admin.is_some() && admin.len() < usize::from(dev.nodes) {
        return Err(Failure::Usage(
            "the port of --admin plus --nodes goes past 65535; take a lower port".into(),
        ));
    }
    begin_logging("info")?;
    warn_of_unsynced(config::unsynced().map_err(Failure::Usage)?);
    let temporary = dev.ephemeral.then(Temporary::new).transpose()?;
    let data = temporary.as_ref().map_or(dev.data.as_path(), |temporary| &temporary.0);
    // Peers are where nobody else looks: ten thousand above the Kafka ports, or below where there is no above.
    let peer_port = |port: u16| port.checked_add(10_000).unwrap_or_else(|| port - 10_000);
    let kafka: Vec<u16> = (0..dev.nodes).map(|i| dev.port + i).collect();
    let peers: Vec<u16> = kafka.iter().map(|port| peer_port(*port)).collect();
    let admin = admin.iter().map(listen_for_admin).collect::<Result<Vec<_>, _>>()?;
    let mut admin = admin.into_iter();
    let mut nodes = Vec::new();
    for settings in cluster(&dev.tuning, data, &kafka, &peers)? {
        let id = settings.config.node;
        let node = node::start(settings).map_err(failure)?;
        admin.next().map(|bound| serve_admin(bound, &node)).transpose()?;
        nodes.push((id, node));
    }
    let serving = nodes.iter().map(|(_, node)| Box::new(node.serving()) as Serving).collect();
    let announce = Announce {
        serving,
        bootstrap: kafka.iter().map(|port| format!("127.0.0.1:{port}")).collect(),
        data: if dev.ephemeral { "kept nowhere".into() } else { format!("in {}", data.display()) },
        default_port: dev.port == 9092,
    };
    run_to_the_end(nodes, move || announce.when_ready())
}

/// Nodes of a cluster on loopback, each broker and controller, by their ports.
pub fn cluster(
    tuning: &Tuning,
    data: &Path,
    kafka: &[u16],
    peers: &[u16],
) -> Result<Vec<Settings>, Failure> {
    let unsynced = config::unsynced().map_err(Failure::Usage)?;
    let limits = fitting(tuning, kafka.len());
    let controllers: Vec<(NodeId, String)> =
        (1..).zip(peers).map(|(id, port)| (NodeId(id), format!("127.0.0.1:{port}"))).collect();
    let settings = controllers.iter().zip(kafka).map(|((id, peer), port)| {
        let mut config = tuning.config(id.0, controllers.clone());
        config.kafka = ("127.0.0.1".into(), *port);
        config.peer = peer.clone();
        config.quorum.controllers_flag = "--nodes";
        Settings {
            config,
            data: data.join(format!("node-{id}")),
            unsynced,
            kafka_listen: Some(format!("127.0.0.1:{port}")),
            peer_listen: peer.clone(),
            limits: limits.clone(),
            port_flags: ("--port", "--port"),
        }
    });
    Ok(settings.collect())
}

/// Takes the port of an admin listener.
fn listen_for_admin(address: &HostPort) -> Result<Bound, Failure> {
    let bound = node::listen(&address.to_string(), "admin clients", "--admin").map_err(failure)?;
    if !bound.address().is_ok_and(|bound| bound.ip().is_loopback()) {
        tracing::warn!(
            "--admin {address} is reached from other machines too, and asks nobody who they are: they may read the names of topics and how much goes through them"
        );
    }
    Ok(bound)
}

/// Serves an admin listener beside its node until the process ends.
fn serve_admin(bound: Bound, node: &Running) -> Result<(), Failure> {
    let watch = node.watch();
    let name = format!("n{}-admin", watch.node);
    runtime::Thread::start(name, move || admin::serve(bound, watch))
        .map(|_| ())
        .map_err(|error| Failure::Failed(error.to_string()))
}

/// Says that this process keeps less than it acknowledges, or less than it could, because a variable meant for tests is set.
fn warn_of_unsynced(unsynced: Unsynced) {
    match unsynced {
        Unsynced::PageCache => {}
        Unsynced::Memory => tracing::warn!(
            "MILENA_UNSYNCED=memory is for tests: when this process ends, it loses what was not synced; unset it"
        ),
        Unsynced::MemoryAndSkipSyncs => tracing::warn!(
            "MILENA_UNSYNCED=memory-and-skip-syncs is for tests: nothing is synced, so acknowledged records are lost when this process ends; unset it"
        ),
    }
}

/// Waits for a signal or for a node that ends by itself; stops all.
fn run_to_the_end(
    mut nodes: Vec<(NodeId, Running)>,
    beside: impl FnOnce() + Send + 'static,
) -> Result<(), Failure> {
    // Not waited for: it looks for an answer that may never come.
    runtime::Thread::start("announce".into(), move || async move { beside() })
        .map_err(|error| Failure::Failed(error.to_string()))?;
    let ended = runtime::block_on(async {
        let endings = nodes.iter_mut().map(|(id, node)| {
            let id = *id;
            Box::pin(async move { (id, node.ended().await) })
        });
        let endings: Vec<_> = endings.collect();
        select! {
            asked = runtime::asked_to_stop() => asked.map(|()| None),
            ended = runtime::first(endings) => Ok(Some(ended)),
        }
    });
    let ended =
        ended.and_then(|ended| ended).map_err(|error| Failure::Failed(error.to_string()))?;
    match ended {
        None => {
            tracing::info!("stopping");
            if nodes.len() == 1 {
                nodes.into_iter().for_each(|(_, node)| node.stop_in_good_order());
            } else {
                // They are one another's heirs, and all of them go.
                nodes.iter().for_each(|(_, node)| node.begin_to_stop());
                nodes.into_iter().for_each(|(_, node)| node.stop());
            }
            tracing::info!("stopped");
            Ok(())
        }
        Some((id, halt)) => {
            let line = match &halt {
                Some(halt) => format!("node {id}: {}", node::halt_line(halt)),
                None => format!("node {id} ended; its log says why"),
            };
            Err(match halt {
                Some(Halt::Operator(_)) => Failure::Usage(line),
                Some(Halt::Disk(_)) | None => {
                    tracing::error!("{line}");
                    Failure::Failed(line)
                }
            })
        }
    }
}

/// How a node that could not start ends its command.
pub fn failure(error: StartError) -> Failure {
    let line = error.to_string();
    match error {
        StartError::Files(_) | StartError::Listen { .. } => Failure::Usage(line),
        StartError::Halt(Halt::Operator(_)) => Failure::Usage(line),
        StartError::Halt(Halt::Disk(_)) | StartError::System(_) => Failure::Failed(line),
    }
}

/// Lets this process have as many open files as the system allows it, for files and connections.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!("the limit of open files stays as it is: {error}");
        }
    }
}

/// Limits of one of so many nodes in this process, which share its descriptors. Fewer connections than were asked for is worth
/// a warning, fewer than there might be is not.
fn fitting(tuning: &Tuning, nodes: usize) -> Limits {
    use rustix::process::{Resource, getrlimit};
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let limits = tuning.limits();
    let asked = limits.connections_max;
    let fitting = limits.within(descriptors / nodes.max(1) as u64);
    if fitting.connections_max < asked {
        let line = format!(
            "a node takes {} Kafka connections instead of {asked}: the limit of open files is {descriptors}",
            fitting.connections_max
        );
        match tuning.connections_max {
            Some(_) => tracing::warn!("{line}"),
            None => tracing::info!("{line}"),
        }
    }
    fitting
}

/// Logs go to standard error; `MILENA_LOG` filters them, or `default`. A panic is a bug and ends the process, not one thread of it.
pub fn begin_logging(default: &str) -> Result<(), Failure> {
    use tracing_subscriber::EnvFilter;
    let filter = std::env::var("MILENA_LOG").unwrap_or_else(|_| default.into());
    let filter = EnvFilter::try_new(&filter).map_err(|error| {
        Failure::Usage(format!("MILENA_LOG is {filter:?}: {error}; give a level such as debug"))
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
    raise_open_files();
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        std::process::exit(70);
    }));
    Ok(())
}

/// Tells whether a node's broker serves.
type Serving = Box<dyn Fn() -> bool + Send>;

struct Announce {
    serving: Vec<Serving>,
    bootstrap: Vec<String>,
    data: String,
    default_port: bool,
}

impl Announce {
    /// Waits until every broker is registered and there is a leader, then says what to type next.
    fn when_ready(&self) {
        let began = std::time::Instant::now();
        while !(self.serving.iter().all(|serves| serves()) && is_ready(&self.bootstrap)) {
            runtime::pause(Duration::from_millis(10));
        }
        let took = began.elapsed().as_millis();
        let milena = shown_program();
        let where_to = if self.default_port {
            String::new()
        } else {
            format!(" --bootstrap {}", self.bootstrap[0])
        };
        let replicas = self.bootstrap.len().min(3);
        let lines = [
            format!(
                "ready: {} after {took} ms, Kafka clients on {}; data {}",
                count(self.bootstrap.len() as u64, "node"),
                self.bootstrap.join(" "),
                self.data
            ),
            "next, in another terminal:".into(),
            format!(
                "  {milena} topic create letters --partitions 3 --replication-factor {replicas}{where_to}"
            ),
            format!("  echo hello | kcat -b {} -P -t letters -X acks=all", self.bootstrap[0]),
            format!("  {milena} consume letters --from beginning{where_to}"),
            "Ctrl-C stops it.".into(),
        ];
        // The cluster runs on where nobody hears this.
        let _ = writeln!(std::io::stdout(), "{}", lines.join("\n"));
    }
}

/// Whether each of these brokers knows all of them in service, and an active controller.
pub fn is_ready(bootstrap: &[String]) -> bool {
    bootstrap.iter().all(|address| {
        let mut client = Client::new(vec![address.clone()], Duration::from_millis(500));
        client.cluster().is_ok_and(|cluster| {
            let live = cluster.brokers.iter().filter(|broker| !broker.is_fenced).count();
            live == bootstrap.len() && cluster.controller_id >= 0
        })
    })
}

/// How this program would be called from here.
fn shown_program() -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("milena"));
    let here = std::env::current_dir().unwrap_or_default();
    match program.strip_prefix(&here) {
        Ok(relative) => Path::new(".").join(relative).display().to_string(),
        Err(_) => "milena".into(),
    }
}

/// A directory that is gone when this is.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Result<Temporary, Failure> {
        let path = std::env::temp_dir().join(format!("milena-dev-{}", std::process::id()));
        std::fs::create_dir_all(&path)
            .map_err(|error| Failure::Usage(format!("{}: {error}; set TMPDIR", path.display())))?;
        Ok(Temporary(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!("{} is left behind: {error}", self.0.display());
        }
    }
}
