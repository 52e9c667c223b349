//! `milena bench`: what this machine can do, and what a cluster of this binary on it does beside that.
//!
//! The cluster runs in this process on ordinary sockets and files, and the generator in it too, so figures are those of the
//! whole machine. Every figure is acks=all with fsync. One that contains an fdatasync means nothing where the disk's own
//! takes no time; the bench says so.

mod limits;
mod load;

use std::path::{Path, PathBuf};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::arguments::Bench;
use super::{Failure, count, output, serve};
use crate::node::{self, Running};
use crate::runtime;
use limits::{Limits, VOID_BELOW_US, micros};
use load::{IN_FLIGHT, Target, Throughput};

/// Records of the bench, bytes.
const RECORD_BYTES: [usize; 2] = [100, 1024];

/// One cluster's figures.
struct Figures {
    nodes: usize,
    /// Of a lone record of 100 bytes, nanoseconds.
    lone: Histogram<u64>,
    /// The disk's own, measured right after.
    fdatasync: Histogram<u64>,
    /// By size of records.
    loads: Vec<Load>,
}

struct Load {
    record_bytes: usize,
    produce: Throughput,
    /// With producer ids and sequence numbers.
    idempotent: Throughput,
    consume: Throughput,
    fdatasyncs: u64,
}

/// Measures and prints.
pub fn run(bench: &Bench) -> Result<(), Failure> {
    serve::begin_logging("warn")?;
    let directory = Directory::new(bench.data.as_deref())?;
    let limits = limits::measure(&directory.0)?;
    let mut all = Vec::new();
    for nodes in &bench.nodes {
        all.push(measure(bench, &directory.0, usize::from(*nodes))?);
    }
    let human = || to_lines(bench, &limits, &all).join("\n");
    output(bench.format, human, || to_json(bench, &limits, &all))
}

fn measure(bench: &Bench, directory: &Path, nodes: usize) -> Result<Figures, Failure> {
    let data = directory.join(format!("{nodes}-nodes"));
    let ports = free_ports(2 * nodes)?;
    let (kafka, peers) = ports.split_at(nodes);
    let running: Vec<Running> = serve::cluster(&bench.tuning, &data, kafka, peers)?
        .into_iter()
        .map(|settings| node::start(settings).map_err(serve::failure))
        .collect::<Result<_, _>>()?;
    let bootstrap: Vec<String> = kafka.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    while !serve::is_ready(&bootstrap) {
        runtime::pause(Duration::from_millis(5));
    }
    let duration = Duration::from_secs(u64::from(bench.seconds));
    let replicas = nodes.min(3);
    let syncs = || running.iter().map(Running::syncs).sum::<u64>();

    let target = Target::create(&bootstrap, "lone", 1, replicas)?;
    let lone = target.lone_records(RECORD_BYTES[0], duration)?;
    let fdatasync = limits::fdatasync(directory)?;
    target.delete()?;

    let mut loads = Vec::new();
    for record_bytes in RECORD_BYTES {
        let name = format!("load-{record_bytes}");
        let target = Target::create(&bootstrap, &name, usize::from(bench.partitions), replicas)?;
        let before = syncs();
        let batch_bytes = bench.batch_bytes as usize;
        let produce = target.produce(false, record_bytes, batch_bytes, duration)?;
        let fdatasyncs = syncs() - before;
        let idempotent = target.produce(true, record_bytes, batch_bytes, duration)?;
        let consume = target.consume(record_bytes, duration)?;
        target.delete()?;
        loads.push(Load { record_bytes, produce, idempotent, consume, fdatasyncs });
    }
    running.into_iter().for_each(Running::stop);
    Ok(Figures { nodes, lone, fdatasync, loads })
}

fn to_lines(bench: &Bench, limits: &Limits, all: &[Figures]) -> Vec<String> {
    let sync = micros(&limits.fdatasync, 50.0);
    let trip = micros(&limits.round_trip, 50.0);
    let mut lines = vec![format!(
        "limits: fdatasync of 4 KiB on a recycled file p50 {sync:.0} us p99 {:.0} us ({}); loopback round trip p50 \
         {trip:.0} us p99 {:.0} us; CRC-32C {:.1} GB/s",
        micros(&limits.fdatasync, 99.0),
        limits.file_system,
        micros(&limits.round_trip, 99.0),
        limits.crc_bytes_per_second / 1e9,
    )];
    if sync < VOID_BELOW_US {
        lines.push(format!(
            "void: an fdatasync in under {VOID_BELOW_US} us reaches no disk; every figure below that contains one means nothing"
        ));
    }
    lines.push(format!(
        "load: {}, one client each with {IN_FLIGHT} batches of {} bytes in flight, {} per node, acks=all with fsync, {} s each",
        count(bench.partitions.into(), "partition"),
        bench.batch_bytes,
        count(bench.tuning.shards.into(), "shard"),
        bench.seconds
    ));
    for figures in all {
        let nodes = count(figures.nodes as u64, "node");
        let (p50, p99) = (micros(&figures.lone, 50.0), micros(&figures.lone, 99.0));
        let floor = micros(&figures.fdatasync, 50.0) + trip;
        lines.push(format!(
            "{nodes}, lone record of 100 B: p50 {p50:.0} us, p99 {p99:.0} us; {:.2} x (fdatasync {:.0} us + round trip \
             {trip:.0} us)",
            p50 / floor,
            micros(&figures.fdatasync, 50.0),
        ));
        for load in &figures.loads {
            let megabytes = load.produce.bytes as f64 / 1e6;
            lines.push(format!(
                "{nodes}, {} B: produce {:.1} MB/s, {:.0} records/s; idempotent {:.1} MB/s; consume {:.1} MB/s; {:.2} fdatasyncs per \
                 acknowledged MB",
                load.record_bytes,
                load.produce.megabytes_per_second(),
                load.produce.records_per_second(),
                load.idempotent.megabytes_per_second(),
                load.consume.megabytes_per_second(),
                load.fdatasyncs as f64 / megabytes,
            ));
        }
    }
    lines
}

fn to_json(bench: &Bench, limits: &Limits, all: &[Figures]) -> Value {
    let times = |h: &Histogram<u64>| json!({"p50_us": micros(h, 50.0), "p99_us": micros(h, 99.0)});
    let clusters: Vec<Value> = all
        .iter()
        .map(|figures| {
            let loads: Vec<Value> = figures
                .loads
                .iter()
                .map(|load| {
                    json!({
                        "record_bytes": load.record_bytes,
                        "produce_mb_per_s": load.produce.megabytes_per_second(),
                        "produce_records_per_s": load.produce.records_per_second(),
                        "idempotent_produce_mb_per_s": load.idempotent.megabytes_per_second(),
                        "consume_mb_per_s": load.consume.megabytes_per_second(),
                        "fdatasyncs_per_acked_mb": load.fdatasyncs as f64 / (load.produce.bytes as f64 / 1e6),
                    })
                })
                .collect();
            let floor = micros(&figures.fdatasync, 50.0) + micros(&limits.round_trip, 50.0);
            json!({
                "nodes": figures.nodes,
                "lone_record": times(&figures.lone),
                "lone_record_ratio": micros(&figures.lone, 50.0) / floor,
                "fdatasync": times(&figures.fdatasync),
                "loads": loads,
            })
        })
        .collect();
    json!({
        "limits": {
            "file_system": limits.file_system,
            "fdatasync": times(&limits.fdatasync),
            "round_trip": times(&limits.round_trip),
            "crc_gb_per_s": limits.crc_bytes_per_second / 1e9,
        },
        "void": micros(&limits.fdatasync, 50.0) < VOID_BELOW_US,
        "partitions": bench.partitions,
        "clients": bench.partitions,
        "in_flight": IN_FLIGHT,
        "batch_bytes": bench.batch_bytes,
        "shards": bench.tuning.shards,
        "clusters": clusters,
    })
}

/// Loopback ports that are free now.
fn free_ports(count: usize) -> Result<Vec<u16>, Failure> {
    let bind = || -> std::io::Result<Vec<u16>> {
        let listeners = (0..count)
            .map(|_| std::net::TcpListener::bind("127.0.0.1:0"))
            .collect::<std::io::Result<Vec<_>>>()?;
        listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
    };
    bind().map_err(|error| Failure::Failed(format!("loopback: {error}")))
}

/// Where the bench keeps its data, gone afterwards.
struct Directory(PathBuf);

impl Directory {
    fn new(parent: Option<&Path>) -> Result<Directory, Failure> {
        let parent = parent.unwrap_or(Path::new("."));
        let path = parent.join(format!("milena-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| {
            Failure::Usage(format!("{}: {error}; give another --data", path.display()))
        })?;
        Ok(Directory(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("milena: {} is left behind: {error}", self.0.display());
        }
    }
}
