//! A sweep over many seeds, on all cores, and the figures that say whether it proved anything.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use super::leave_behind;
use crate::check::marks::RARER;
use crate::report::{self, Report, Verdict};
use crate::scenario::Scenario;

/// A sweep of so many seeds takes every rare path at least once, or it proves too little.
const MARKS_REACHED_WITHIN: usize = 1_000;

/// From so many seeds on, the shares that a scenario asks for mean something.
const FLOORS_JUDGED_FROM: usize = 100;

/// What to sweep.
pub(super) struct Sweep {
    pub(super) scenario: Scenario,
    pub(super) range: Vec<u64>,
    pub(super) jobs: usize,
    pub(super) failures_max: usize,
    pub(super) out: PathBuf,
    pub(super) json: bool,
}

/// Runs all seeds and gives the exit code.
pub(super) fn run(sweep: &Sweep) -> anyhow::Result<u8> {
    let began = Instant::now();
    let bar = if sweep.json { ProgressBar::hidden() } else { progress(sweep.range.len() as u64) };
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let reports: Mutex<Vec<Report>> = Mutex::new(Vec::new());
    let failed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..sweep.jobs {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(seed) = sweep.range.get(index) else { break };
                    let report = one(sweep, *seed, &bar);
                    if report.verdict != Verdict::Held
                        && failed.fetch_add(1, Ordering::Relaxed) + 1 >= sweep.failures_max
                    {
                        stop.store(true, Ordering::Relaxed);
                    }
                    bar.set_message(format!("{} failed", failed.load(Ordering::Relaxed)));
                    bar.inc(1);
                    reports.lock().expect("no thread panics while it holds this").push(report);
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut reports = reports.into_inner().expect("all threads are done");
    reports.sort_by_key(|report| report.seed);
    let figures = Figures::new(&reports, began.elapsed().as_millis() as u64, sweep.jobs);
    if sweep.json {
        for report in &reports {
            println!("{}", serde_json::to_string(report)?);
        }
    } else {
        print!("{}", figures.human(&sweep.scenario.name));
    }
    let never = figures.never(&sweep.scenario);
    if !never.is_empty() {
        eprintln!("never taken in {} seeds: {}", figures.runs, never.join(", "));
    }
    let never: Vec<&str> = never.into_iter().filter(|name| !RARER.contains(name)).collect();
    let too_rare = figures.too_rare(&sweep.scenario);
    for (name, seeds, floor) in &too_rare {
        eprintln!("\"{name}\" was taken in {seeds} of {} seeds, it takes {floor} %", figures.runs);
    }
    let worst = |verdict| reports.iter().any(|report| report.verdict == verdict);
    Ok(if worst(Verdict::Crashed) {
        70
    } else if worst(Verdict::Failed) {
        1
    } else if worst(Verdict::Vacuous) || !never.is_empty() || !too_rare.is_empty() {
        3
    } else {
        0
    })
}

fn one(sweep: &Sweep, seed: u64, bar: &ProgressBar) -> Report {
    let schedule = sweep.scenario.expand(seed);
    let report = report::run(schedule.clone(), false);
    if report.verdict != Verdict::Held {
        // A schedule that cannot be saved can still be made again from its seed.
        let left = leave_behind(&sweep.out, &schedule, &report);
        if !sweep.json {
            let kept = left.is_ok();
            bar.suspend(|| {
                println!(
                    "seed {seed}: {:?} {} at step {}: {}\n  again: {}{}",
                    report.verdict,
                    report.property,
                    report.step,
                    report.story,
                    report.again,
                    if kept { "" } else { " (its schedule could not be saved)" }
                );
            });
        }
    }
    report
}

fn progress(count: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}  {per_sec}  ETA {eta}")
        .expect("the template is well-formed");
    ProgressBar::new(count).with_style(style).with_message("0 failed")
}

/// A figure's name, its median and its tenth percentile.
type Spread = Vec<(&'static str, u64, u64)>;

/// What a sweep adds up to.
struct Figures {
    runs: usize,
    failed: usize,
    wall_ms: u64,
    busy_ms: u64,
    events: u64,
    acked: u64,
    jobs: usize,
    /// Of the seeds that are not dense, and of those that are.
    spreads: [Spread; 2],
    kinds: BTreeMap<String, usize>,
    unsynced: usize,
    sometimes: BTreeMap<String, (u64, u64)>,
}

/// How the figures of some runs spread; nothing of no runs.
fn spread(reports: &[&Report]) -> Spread {
    let row = |name, figure: fn(&Report) -> u64| {
        let mut values: Vec<u64> = reports.iter().map(|report| figure(report)).collect();
        values.sort_unstable();
        let at = |share: usize| values[values.len() * share / 100];
        (name, at(50), at(10))
    };
    if reports.is_empty() {
        return Vec::new();
    }
    vec![
        row("events", |report| report.events),
        row("acknowledged", |report| report.acked_records),
        row("acknowledged under faults", |report| report.acked_under_faults),
        row("faults", |report| report.faults.values().sum()),
        row("read", |report| report.read_records),
        row("passes of the slowest journal", |report| {
            report.journal_passes.first().copied().unwrap_or(0)
        }),
        row("passes of the median journal", |report| {
            let passes = &report.journal_passes;
            passes.get(passes.len() / 2).copied().unwrap_or(0)
        }),
        row("simulated ms", |report| report.simulated_ms),
        row("CPU ms", |report| report.cpu_ms),
    ]
}

impl Figures {
    fn new(reports: &[Report], wall_ms: u64, jobs: usize) -> Figures {
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        let mut names: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for report in reports {
            for kind in report.faults.keys() {
                *kinds.entry(kind.clone()).or_default() += 1;
            }
            for (name, count) in &report.sometimes {
                names.entry(name.clone()).or_default().push(*count);
            }
        }
        let sometimes = names
            .into_iter()
            .map(|(name, mut counts)| {
                counts.resize(reports.len(), 0);
                counts.sort_unstable();
                let median = counts[counts.len() / 2];
                let seeds = counts.iter().filter(|count| **count > 0).count() as u64;
                (name, (median, seeds))
            })
            .collect();
        Figures {
            runs: reports.len(),
            failed: reports.iter().filter(|report| report.verdict != Verdict::Held).count(),
            wall_ms,
            busy_ms: reports.iter().map(|report| report.cpu_ms).sum(),
            events: reports.iter().map(|report| report.events).sum(),
            acked: reports.iter().map(|report| report.acked_records).sum(),
            jobs,
            spreads: [false, true].map(|dense| {
                let chosen = reports.iter().filter(|report| report.subject.is_some() == dense);
                spread(&chosen.collect::<Vec<_>>())
            }),
            kinds,
            unsynced: reports.iter().filter(|report| report.power_losses_unsynced > 0).count(),
            sometimes,
        }
    }

    /// The marks that a sweep must reach and did not: one that is long enough, of the scenario that draws from every fault.
    fn never(&self, scenario: &Scenario) -> Vec<&str> {
        if !scenario.subset || self.runs < MARKS_REACHED_WITHIN {
            return Vec::new();
        }
        let untaken = self.sometimes.iter().filter(|(_, (_, seeds))| *seeds == 0);
        untaken.map(|(name, _)| name.as_str()).collect()
    }

    /// What the scenario is about and too few seeds met: the name, seeds that met it, and what share of all it takes.
    fn too_rare<'a>(&self, scenario: &'a Scenario) -> Vec<(&'a str, u64, u64)> {
        if self.runs < FLOORS_JUDGED_FROM {
            return Vec::new();
        }
        let met = |name: &String| self.sometimes.get(name).map_or(0, |(_, seeds)| *seeds);
        let floors = scenario.floors.iter().map(|(name, floor)| (name.as_str(), met(name), *floor));
        floors.filter(|(_, seeds, floor)| seeds * 100 < floor * self.runs as u64).collect()
    }

    fn human(&self, scenario: &str) -> String {
        let share = |seeds: u64| seeds * 100 / (self.runs as u64).max(1);
        let mut text = format!(
            "{scenario}: {} seeds, {} failed, {} s on {} threads\n{} events per CPU-second, {} acknowledged records per CPU-second\n",
            self.runs,
            self.failed,
            self.wall_ms / 1_000,
            self.jobs,
            self.events * 1_000 / self.busy_ms.max(1),
            self.acked * 1_000 / self.busy_ms.max(1),
        );
        for (seeds, spread) in ["per seed", "per dense seed"].iter().zip(&self.spreads) {
            if spread.is_empty() {
                continue;
            }
            text += &format!("{seeds:<30} {:>10} {:>10}\n", "median", "tenth pct");
            for (name, median, tenth) in spread {
                text += &format!("{name:<30} {median:>10} {tenth:>10}\n");
            }
        }
        text += "faults, share of seeds struck:\n";
        for (kind, seeds) in &self.kinds {
            text += &format!("  {kind:<26} {:>3} %\n", share(*seeds as u64));
        }
        text += &format!(
            "  {:<26} {:>3} %\n",
            "power loss, bytes unsynced",
            share(self.unsynced as u64)
        );
        text += "sometimes, median and share of seeds:\n";
        for (name, (median, seeds)) in &self.sometimes {
            text += &format!("  {name:<42} {median:>8} {:>3} %\n", share(*seeds));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_says_what_it_met_too_rarely() {
        let scenario = crate::scenario::named("idempotence").expect("a scenario of the list");
        let mut figures = Figures::new(&[], 0, 1);
        let mut too_rare = |runs, seeds| {
            figures.runs = runs;
            figures.sometimes.insert("produce.duplicate".to_owned(), (1, seeds));
            figures.sometimes.insert("produce.out_of_order".to_owned(), (1, seeds));
            let names: Vec<&str> =
                figures.too_rare(&scenario).into_iter().map(|(name, _, _)| name).collect();
            names
        };
        assert_eq!(too_rare(100, 80), [""; 0]);
        assert_eq!(too_rare(100, 79), ["produce.duplicate"]);
        assert_eq!(too_rare(100, 0), ["produce.duplicate", "produce.out_of_order"]);
        assert_eq!(too_rare(99, 0), [""; 0], "so few seeds say nothing");
    }
}
