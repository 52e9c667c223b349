//! The command line: `list`, `run`, `swarm`, `twice`, `mutants`.
//!
//! Exit codes: 0 all held, 1 a property failed, 2 usage, 3 vacuous, 4 nothing selected, 5 non-determinism, 70 the simulator's
//! own crash; of `mutants` 0 every bug caught, 1 one escaped, 2 a patch that does not apply or build.

mod mutants;
mod swarm;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand, ValueEnum};

use crate::report::{self, Report, Verdict};
use crate::scenario;
use crate::schedule::Schedule;

/// Milena's simulator: a whole cluster with simulated network, disks, clients and faults.
#[derive(Debug, Parser)]
#[command(name = "cargo sim", version)]
struct Cli {
    /// How to print: for people or one JSON object per run.
    #[arg(long, value_enum, global = true, default_value = "human", env = "MILENA_SIM_FORMAT")]
    format: Format,
    /// Where failing schedules are left.
    #[arg(long, global = true, default_value = "out", env = "MILENA_SIM_OUT")]
    out: PathBuf,
    #[command(subcommand)]
    command: What,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    Human,
    Json,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Lists the scenarios.
    List,
    /// Runs one scenario with one seed, or a saved schedule.
    Run {
        /// A scenario's name or a schedule's file.
        what: String,
        /// A number, or a commit's 40 hexadecimal digits.
        #[arg(long, env = "MILENA_SIM_SEED")]
        seed: Option<String>,
        /// Prints everything that happens to standard error.
        #[arg(long)]
        trace: bool,
    },
    /// Runs the swarm scenario, or another, over many seeds on all cores.
    Swarm {
        /// `A..B`, `A..+N` or `COMMIT..+N`.
        #[arg(long)]
        seeds: String,
        /// Runs at once; all cores if not given.
        #[arg(long, env = "MILENA_SIM_JOBS")]
        jobs: Option<NonZeroUsize>,
        /// Which scenario.
        #[arg(long, default_value = "swarm")]
        scenario: String,
        /// Stops after so many failures.
        #[arg(long, default_value_t = 10)]
        failures_max: usize,
    },
    /// Runs one seed in two processes and compares the fingerprints.
    Twice {
        /// A scenario's name.
        name: String,
        /// As for `run`.
        #[arg(long)]
        seed: String,
    },
    /// Plants each known bug in a copy of the workspace and says which seed catches it, by which property.
    Mutants {
        /// Rows of the catalogue; all that have a patch if none is named.
        rows: Vec<u32>,
        /// Where the patches are.
        #[arg(long, default_value = "scenarios/bugs")]
        dir: PathBuf,
        /// Seeds to try.
        #[arg(long, default_value = "0..1000")]
        seeds: String,
    },
}

/// Exit codes that no single run gives.
const USAGE: u8 = 2;
const NOTHING: u8 = 4;
const NONDETERMINISM: u8 = 5;

/// Runs the command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    report::catch_panics();
    match dispatch(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(USAGE)
        }
    }
}

fn dispatch(cli: &Cli) -> anyhow::Result<u8> {
    match &cli.command {
        What::List => {
            list(cli.format);
            Ok(0)
        }
        What::Run { what, seed, trace } => run(cli, what, seed.as_deref(), *trace),
        What::Swarm { seeds, jobs, scenario, failures_max } => {
            let range = seed_range(seeds)?;
            if range.is_empty() {
                return Ok(nothing(&format!("{seeds} has no seed in it")));
            }
            let sweep = swarm::Sweep {
                scenario: named(scenario)?,
                range,
                jobs: jobs.map_or_else(cores, NonZeroUsize::get),
                failures_max: *failures_max,
                out: cli.out.clone(),
                json: cli.format == Format::Json,
            };
            swarm::run(&sweep)
        }
        What::Twice { name, seed } => twice(cli, name, seed),
        What::Mutants { rows, dir, seeds } => {
            let range = seed_range(seeds)?;
            if range.is_empty() {
                return Ok(nothing(&format!("{seeds} has no seed in it")));
            }
            mutants::run(rows, dir, range, cli.format == Format::Json)
        }
    }
}

/// Says why there was nothing to do.
fn nothing(why: &str) -> u8 {
    eprintln!("nothing to run: {why}");
    NOTHING
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn named(name: &str) -> anyhow::Result<scenario::Scenario> {
    scenario::named(name)
        .with_context(|| format!("no scenario is called {name}; see `cargo sim list`"))
}

fn list(format: Format) {
    for scenario in scenario::all() {
        match format {
            Format::Human => println!("{:<16} {}", scenario.name, scenario.about),
            Format::Json => println!(
                "{}",
                serde_json::json!({ "scenario": scenario.name, "about": scenario.about })
            ),
        }
    }
}

fn run(cli: &Cli, what: &str, seed: Option<&str>, trace: bool) -> anyhow::Result<u8> {
    let path = Path::new(what);
    let is_saved = path.is_file();
    let schedule = if is_saved {
        if seed.is_some() {
            bail!("a saved schedule has its seed in it; leave --seed away");
        }
        Schedule::load(path)?
    } else {
        let scenario = scenario::named(what).with_context(|| {
            format!("{what} is neither a scenario, see `cargo sim list`, nor a schedule's file")
        })?;
        scenario.expand(parse_seed(seed.unwrap_or("0"))?)
    };
    let mut report = report::run(schedule.clone(), trace);
    // A saved schedule is there already, and its seed may expand into another one today.
    let left = if is_saved {
        report.again = format!("cargo sim run {}", path.display());
        None
    } else {
        leave_behind(&cli.out, &schedule, &report)?
    };
    match cli.format {
        Format::Human => {
            print!("{}", report.human());
            if let Some(left) = left {
                println!("schedule left in {0}; cargo sim run {0}", left.display());
            }
        }
        Format::Json => println!("{}", serde_json::to_string(&report)?),
    }
    Ok(report.exit_code())
}

/// Saves the schedule of a run that did not hold.
fn leave_behind(
    out: &Path,
    schedule: &Schedule,
    report: &Report,
) -> anyhow::Result<Option<PathBuf>> {
    if report.verdict == Verdict::Held {
        return Ok(None);
    }
    let path = out.join(format!("{}-{}.json", report.scenario, report.seed));
    schedule.save(&path)?;
    Ok(Some(path))
}

fn twice(cli: &Cli, name: &str, seed: &str) -> anyhow::Result<u8> {
    let program = std::env::current_exe()?;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let output = Command::new(&program)
            .args(["--format", "json", "run", name, "--seed", seed, "--out"])
            .arg(&cli.out)
            .output()
            .context("cannot start a second simulator")?;
        let text = String::from_utf8(output.stdout)?;
        let report: serde_json::Value = serde_json::from_str(text.trim()).with_context(|| {
            format!("the run said: {}", String::from_utf8_lossy(&output.stderr))
        })?;
        let code = output.status.code().unwrap_or(70);
        let fingerprint = report["fingerprint"].as_str().unwrap_or("none").to_owned();
        seen.push((fingerprint, report["step"].clone(), code));
    }
    let same = seen[0] == seen[1];
    match cli.format {
        Format::Human => println!(
            "{}: {} at step {}, {} at step {}",
            if same { "the same in two processes" } else { "NOT DETERMINISTIC" },
            seen[0].0,
            seen[0].1,
            seen[1].0,
            seen[1].1
        ),
        Format::Json => println!(
            "{}",
            serde_json::json!({
                "scenario": name,
                "seed": seed,
                "same": same,
                "fingerprints": [seen[0].0, seen[1].0],
            })
        ),
    }
    if same { Ok(seen[0].2 as u8) } else { Ok(NONDETERMINISM) }
}

/// A seed: a number, or the first 16 digits of a commit.
fn parse_seed(text: &str) -> anyhow::Result<u64> {
    if text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(u64::from_str_radix(&text[..16], 16)?);
    }
    text.parse().with_context(|| format!("{text} is neither a number nor a commit"))
}

/// Seeds: `A..B`, or `A..+N` for N of them from A on.
fn seed_range(text: &str) -> anyhow::Result<Vec<u64>> {
    let (from, to) = text.split_once("..").with_context(|| format!("{text} is not A..B"))?;
    let from = parse_seed(from)?;
    let count = match to.strip_prefix('+') {
        Some(count) => count.parse().with_context(|| format!("{count} is no number"))?,
        None => parse_seed(to)?.saturating_sub(from),
    };
    Ok((0..count).map(|step| from.wrapping_add(step)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_numbers_or_commits() {
        assert_eq!(parse_seed("7").unwrap(), 7);
        let commit = "00000000000000ff0123456789abcdef01234567";
        assert_eq!(parse_seed(commit).unwrap(), 255);
        assert!(parse_seed("seven").is_err());
        assert_eq!(seed_range("3..6").unwrap(), [3, 4, 5]);
        assert_eq!(seed_range(&format!("{commit}..+2")).unwrap(), [255, 256]);
        assert!(seed_range("5..5").unwrap().is_empty());
        assert!(seed_range("5").is_err());
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
