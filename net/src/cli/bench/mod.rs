//! `milena bench`: what this machine can do, and what a cluster of this binary on it does beside that.
//!
//! The cluster runs in this process on ordinary sockets and files, and the generator in it too, so figures are those of the
//! whole machine. Every figure is acks=all with fsync. One that contains an fdatasync means nothing where the disk's own
//! takes no time; the bench says so.

mod limits;
mod load;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use milena_core::storage::CleanerTally;
use serde_json::{Value, json};

use super::arguments::Bench;
use super::{Failure, count, output, serve};
use crate::node::{self, Running};
use crate::runtime;
use crate::watch::Watch;
use limits::{Limits, VOID_BELOW_US, micros};
use load::{IN_FLIGHT, Produces, Target, Throughput};

/// Records of the bench, bytes.
const RECORD_BYTES: [usize; 2] = [100, 1024];
/// How often the bench's cleaners look for something to clean, milliseconds.
const CLEANER_BACKOFF_MS: u64 = 200;

/// One cluster's figures.
struct Figures {
    nodes: usize,
    /// Of a lone record of 100 bytes, nanoseconds.
    lone: Histogram<u64>,
    /// The disk's own, measured right after.
    fdatasync: Histogram<u64>,
    /// By size of records.
    loads: Vec<Load>,
    cleaning: Cleaning,
}

/// A compacted log of 1 KiB records is cleaned while lone records are produced beside it.
struct Cleaning {
    /// Of a lone record of 100 bytes meanwhile.
    lone: Histogram<u64>,
    /// Bytes of the log.
    bytes: u64,
    records_gone: u64,
    seconds: f64,
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
        .map(|mut settings| {
            settings.config.storage.cleaner_backoff_ms = CLEANER_BACKOFF_MS;
            node::start(settings).map_err(serve::failure)
        })
        .collect::<Result<_, _>>()?;
    let bootstrap: Vec<String> = kafka.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    while !serve::is_ready(&bootstrap) {
        runtime::pause(Duration::from_millis(5));
    }
    let duration = Duration::from_secs(u64::from(bench.seconds));
    let replicas = nodes.min(3);
    let syncs = || running.iter().map(Running::syncs).sum::<u64>();

    let target = Target::create(&bootstrap, "lone", 1, replicas, &[])?;
    let end = Instant::now() + duration;
    let lone = target.lone_records(RECORD_BYTES[0], || Instant::now() < end)?;
    let fdatasync = limits::fdatasync(directory)?;
    target.delete()?;

    let mut loads = Vec::new();
    for record_bytes in RECORD_BYTES {
        let name = format!("load-{record_bytes}");
        let target =
            Target::create(&bootstrap, &name, usize::from(bench.partitions), replicas, &[])?;
        let batch_bytes = bench.batch_bytes as usize;
        let (mut produce, mut idempotent) = (Throughput::default(), Throughput::default());
        let mut fdatasyncs = 0;
        // In turns, so that a disk that slows down costs both the same.
        for how in [Produces::Plainly, Produces::Numbered, Produces::Numbered, Produces::Plainly] {
            let before = syncs();
            let half = target.produce(how, record_bytes, batch_bytes, duration / 2)?;
            match how {
                Produces::Numbered => idempotent.add(half),
                Produces::Plainly | Produces::Keyed => {
                    produce.add(half);
                    fdatasyncs += syncs() - before;
                }
            }
        }
        let consume = target.consume(record_bytes, duration)?;
        target.delete()?;
        loads.push(Load { record_bytes, produce, idempotent, consume, fdatasyncs });
    }
    let cleaning = clean(bench, &bootstrap, &running[0].watch(), replicas)?;
    running.into_iter().for_each(Running::stop);
    Ok(Figures { nodes, lone, fdatasync, loads, cleaning })
}

/// Fills a compacted log, and produces beside it while it is cleaned.
fn clean(
    bench: &Bench,
    bootstrap: &[String],
    watch: &Watch,
    replicas: usize,
) -> Result<Cleaning, Failure> {
    let duration = Duration::from_secs(u64::from(bench.seconds));
    // It is cleaned in one go, once it is written.
    let lag_ms = (duration.as_millis() + 2_000).to_string();
    let configs = [
        ("cleanup.policy", "compact"),
        ("segment.bytes", "16777216"),
        ("min.cleanable.dirty.ratio", "0"),
        ("min.compaction.lag.ms", &lag_ms),
    ];
    let keyed = Target::create(bootstrap, "keyed", 1, replicas, &configs)?;
    let beside = Target::create(bootstrap, "beside", 1, replicas, &[])?;
    keyed.produce(Produces::Keyed, RECORD_BYTES[1], bench.batch_bytes as usize, duration)?;
    let waits_until = Instant::now() + 2 * duration + Duration::from_secs(20);
    while !cleaner(watch)?.0 {
        if Instant::now() > waits_until {
            return Err(Failure::Failed("the cleaner of node 1 does not begin".into()));
        }
        runtime::pause(Duration::from_millis(5));
    }
    let (before, began) = (cleaner(watch)?.1, Instant::now());
    let is_over = AtomicBool::new(false);
    let (lone, after, seconds) = thread::scope(|scope| {
        let lone = scope
            .spawn(|| beside.lone_records(RECORD_BYTES[0], || !is_over.load(Ordering::Relaxed)));
        let watched = (|| {
            while cleaner(watch)?.0 {
                runtime::pause(Duration::from_millis(5));
            }
            Ok::<_, Failure>((cleaner(watch)?.1, began.elapsed().as_secs_f64()))
        })();
        is_over.store(true, Ordering::Relaxed);
        let lone = lone.join().expect("a thread that does not panic")?;
        watched.map(|(after, seconds)| (lone, after, seconds))
    })?;
    keyed.delete()?;
    beside.delete()?;
    Ok(Cleaning {
        lone,
        // Each byte is read twice: for its key, and to be kept or not.
        bytes: (after.read_bytes - before.read_bytes) / 2,
        records_gone: after.records_gone - before.records_gone,
        seconds,
    })
}

/// Whether a cleaner of a node is at work, and what all of them have done.
fn cleaner(watch: &Watch) -> Result<(bool, CleanerTally), Failure> {
    let reports = runtime::block_on(watch.reports());
    let reports = reports.map_err(|error| Failure::Failed(format!("runtime: {error}")))?;
    let shards = reports.into_iter().flatten().filter_map(|report| report.shard);
    Ok(shards.fold((false, CleanerTally::default()), |(works, all), (_, store)| {
        let all = CleanerTally {
            logs: all.logs + store.cleaner.logs,
            read_bytes: all.read_bytes + store.cleaner.read_bytes,
            written_bytes: all.written_bytes + store.cleaner.written_bytes,
            records_gone: all.records_gone + store.cleaner.records_gone,
        };
        (works || store.is_cleaning, all)
    }))
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
        let Cleaning { lone, bytes, records_gone, seconds } = &figures.cleaning;
        let (while_cleaning, without) = (micros(lone, 99.0), micros(&figures.lone, 99.0));
        lines.push(format!(
            "{nodes}, compaction of 1024 B: {:.1} MB/s, {records_gone} records gone; a lone record meanwhile: p99 \
             {while_cleaning:.0} us, {:.2} x without",
            *bytes as f64 / 1e6 / seconds,
            while_cleaning / without,
        ));
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
                "compaction": {
                    "mb_per_s": figures.cleaning.bytes as f64 / 1e6 / figures.cleaning.seconds,
                    "records_gone": figures.cleaning.records_gone,
                    "lone_record": times(&figures.cleaning.lone),
                    "lone_record_p99_ratio": micros(&figures.cleaning.lone, 99.0) / micros(&figures.lone, 99.0),
                },
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
