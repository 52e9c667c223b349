//! Apache Kafka beside Milena.
//!
//! `schemas` holds our message types against the schemas in Kafka's own jar. `codecs` has Kafka's own reader read what our
//! codecs take and what compaction leaves of batches. `folds` has both compact the same writes, `cleaning` measures how fast they do it.
//! `restarts` restarts clusters of both under load. `compare` starts one node of each, sends both the same requests and compares
//! the answers field by field. `bugs` sees that planted bugs are found so.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

mod batches;
mod brokers;
mod bugs;
mod check;
mod cleaning;
mod codecs;
mod compacted;
mod compare;
mod folds;
mod generate;
mod install;
mod oracle;
mod restarts;
mod schema;
mod side;
mod table;
mod tree;

use brokers::Broker;
use oracle::Oracle;
use side::Schemas;
use table::Table;

/// Percent of the requests that succeed at Apache Kafka's; fewer, and errors are all that is compared.
const SUCCESSES_MIN: u64 = 40;

#[derive(Parser)]
#[command(about = "Apache Kafka beside Milena")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Hold our message types against Kafka's schemas.
    Schemas,
    /// Have Apache Kafka's own reader and ours read compressed batches, sound and spoilt, and what compaction makes of batches.
    Codecs,
    /// Send both brokers the same requests.
    Compare(Compare),
    /// Write the same keys to compacted topics of both, and compare what is left once both have cleaned.
    Folds {
        /// The broker to compare; without it, the one of this workspace, built now
        #[arg(long)]
        milena: Option<PathBuf>,
    },
    /// Have both compact the same logs, one broker after the other, and print how fast they are.
    Cleaning {
        /// Size of each log, 10^6 bytes of values
        #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(1..=1_000))]
        megabytes: u64,
        /// The broker to measure, which is worth it only where it is optimized; without it, the one of this workspace, built so now
        #[arg(long)]
        milena: Option<PathBuf>,
    },
    /// Restart three nodes of each, one after the other, under load, and print what Java's producer sees of it.
    Restarts {
        /// The broker to restart; without it, the one of this workspace, built now
        #[arg(long)]
        milena: Option<PathBuf>,
    },
    /// Plant the bugs of `tests/kafka/bugs` in a copy of the last commit, and see that comparing finds each.
    Bugs {
        /// How the names of the patches begin; all, if none is given
        names: Vec<String>,
        /// Sequences for each at most
        #[arg(long, default_value_t = 150)]
        sequences: u64,
    },
}

#[derive(clap::Args)]
struct Compare {
    /// The first sequence's seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many sequences
    #[arg(long, default_value_t = 200)]
    sequences: u64,
    /// Stop after so many seconds
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// Rows of the table that no difference needed are no failure: few sequences meet few of them
    #[arg(long)]
    spare_rows: bool,
    /// Only the answers of these APIs count; of all, if none is named
    #[arg(long = "api", value_name = "NAME")]
    apis: Vec<String>,
    /// Print both answers beside the first of each kind of difference
    #[arg(long)]
    whole: bool,
    /// Print every request with both answers as it happens, to read one sequence by
    #[arg(long)]
    trace: bool,
    /// The broker to compare; without it, the one of this workspace, built now
    #[arg(long)]
    milena: Option<PathBuf>,
}

fn main() -> Result<()> {
    let command = Arguments::parse().command;
    let installed = install::install()?;
    let schemas = schema::load(&installed.schemas)?;
    match command {
        Command::Schemas => {
            let found = check::check(&schemas);
            found.iter().for_each(|sentence| println!("{sentence}"));
            ensure!(found.is_empty(), "{} differences from Kafka's schemas", found.len());
            println!("all messages are Kafka's, field by field and version by version");
            Ok(())
        }
        Command::Codecs => {
            codecs::compare(&installed)?;
            compacted::compare(&installed)
        }
        Command::Folds { milena } => folds::compare(&installed, &milena.map_or_else(build, Ok)?),
        Command::Cleaning { megabytes, milena } => {
            cleaning::measure(&installed, &milena.map_or_else(build_optimized, Ok)?, megabytes)
        }
        Command::Restarts { milena } => {
            restarts::restart_both(&installed, &milena.map_or_else(build, Ok)?)
        }
        Command::Bugs { names, sequences } => bugs::find(&installed, &schemas, &names, sequences),
        Command::Compare(arguments) => {
            let milena = arguments.milena.clone().map_or_else(build, Ok)?;
            let begun = Instant::now();
            let brokers = [Broker::kafka(&installed)?, Broker::milena(&milena)?];
            compare_both(&schemas, &arguments, brokers, begun)
        }
    }
}

/// Builds the broker of this workspace.
fn build() -> Result<PathBuf> {
    build_as("debug", &[])
}

/// The same as people run it.
fn build_optimized() -> Result<PathBuf> {
    build_as("release", &["--release"])
}

fn build_as(profile: &str, flags: &[&str]) -> Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut cargo = Process::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "milena-net"]).args(flags).current_dir(&workspace);
    install::run(&mut cargo)?;
    Ok(workspace.join("target").join(profile).join("milena").canonicalize()?)
}

fn compare_both(
    schemas: &Schemas,
    arguments: &Compare,
    brokers: [Broker; 2],
    begun: Instant,
) -> Result<()> {
    let table = Table::load()?;
    let mut oracle = Oracle::new(schemas, &table, brokers)?;
    println!("both are ready after {:.1} s", begun.elapsed().as_secs_f32());
    let time = Duration::from_secs(arguments.seconds);
    oracle.only = arguments.apis.iter().cloned().collect();
    oracle.whole = arguments.whole;
    oracle.trace = arguments.trace;
    let sequences = oracle.run(arguments.seed, arguments.sequences, time)?;

    let (asked, succeeded) =
        oracle.counts.values().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    let percent = succeeded * 100 / asked.max(1);
    let kinds = oracle.counts.len();
    println!(
        "{sequences} sequences, {asked} requests of {kinds} APIs and versions, {percent} % succeeded, {:.0} s",
        begun.elapsed().as_secs_f32()
    );
    for (api, uses) in table.uses() {
        println!("{uses:>8} differences of {api} stand in the table");
    }
    // One request often differs in several ways, and is printed once.
    let mut seen = BTreeMap::<&str, Vec<_>>::new();
    for (kind, (count, first)) in &oracle.open {
        seen.entry(first).or_default().push((count, kind));
    }
    for (first, kinds) in seen {
        kinds.iter().for_each(|(count, kind)| println!("{count:>6} x {kind}"));
        println!("         {first}");
    }
    let unused: Vec<_> = table.unused().collect();
    if !arguments.spare_rows {
        unused.iter().for_each(|row| println!("no difference needs {row:?}"));
    }
    ensure!(oracle.open.is_empty(), "{} differences have no row", oracle.open.len());
    ensure!(percent >= SUCCESSES_MIN, "{percent} % of the requests succeeded");
    ensure!(arguments.spare_rows || unused.is_empty(), "{} rows are not needed", unused.len());
    Ok(())
}
