//! What a run says of itself: one screen for a person, one JSON object for a script.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use serde::Serialize;

use crate::cluster::Cluster;
use crate::schedule::{Schedule, Subject};

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// When every property held.
    Held,
    /// When a property failed.
    Failed,
    /// When too little happened for the run to prove anything.
    Vacuous,
    /// When the simulator itself broke.
    Crashed,
}

/// What a run says of itself.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// The scenario.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// What it was about, if it was dense.
    pub subject: Option<Subject>,
    /// How it ended.
    pub verdict: Verdict,
    /// The property that failed; empty if none.
    pub property: String,
    /// What was seen, in one sentence.
    pub story: String,
    /// The step that the run reached.
    pub step: u64,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// Real milliseconds.
    pub wall_ms: u64,
    /// Milliseconds of processor time, where the system says; else as `wall_ms`.
    pub cpu_ms: u64,
    /// Events that did something.
    pub events: u64,
    /// Records acknowledged with acks=all.
    pub acked_records: u64,
    /// Of these, between the first crash, power loss, partition or disk fault and healing.
    pub acked_under_faults: u64,
    /// Records read.
    pub read_records: u64,
    /// Faults that struck, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Entries of the schedule whose guards did not hold.
    pub skipped: u64,
    /// Power losses with unsynced bytes outstanding.
    pub power_losses_unsynced: u64,
    /// How often each journal that was written to has used all its files again, from the fewest to the most.
    pub journal_passes: Vec<u64>,
    /// How often each rare path was taken, those never taken included.
    pub sometimes: BTreeMap<String, u64>,
    /// Hash over every input and output, in hexadecimal.
    pub fingerprint: String,
    /// The one command that runs this again.
    pub again: String,
}

thread_local! {
    static PANIC: RefCell<Option<(String, String)>> = const { RefCell::new(None) };
}

/// Keeps panics quiet and remembers where they came from. Called once, before any run.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place =
            info.location().map_or_else(String::new, |l| format!("{}:{}", l.file(), l.line()));
        if std::env::var_os("MILENA_SIM_BACKTRACE").is_some() {
            eprintln!("{}", std::backtrace::Backtrace::force_capture());
        }
        PANIC.with(|panic| *panic.borrow_mut() = Some((place, text_of(info.payload()))));
    }));
}

fn text_of(payload: &dyn Any) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

/// Runs a schedule and judges it.
pub fn run(schedule: Schedule, tracing: bool) -> Report {
    let began = (Instant::now(), processor_time());
    let mut cluster = Cluster::new(schedule, tracing);
    let outcome = catch_unwind(AssertUnwindSafe(|| cluster.run()));
    let mut report = summary(&cluster, began);
    match outcome {
        Ok(Ok(())) => report.judge_vacuity(&cluster),
        Ok(Err(violation)) => {
            report.verdict = Verdict::Failed;
            report.property = violation.property.to_owned();
            report.story = violation.story;
        }
        Err(_) => {
            let (place, text) = PANIC.with(|panic| panic.borrow_mut().take()).unwrap_or_default();
            // An assertion of ours that fails inside core is a property like any other.
            let ours = ["core/src/", "wire/src/"].iter().any(|room| place.contains(room));
            report.verdict = if ours { Verdict::Failed } else { Verdict::Crashed };
            report.property = if ours { "assertion" } else { "" }.to_owned();
            report.story = format!("{place}: {text}");
        }
    }
    report
}

/// Nanoseconds that this thread has run, as Linux counts them.
fn processor_time() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

fn summary(cluster: &Cluster, began: (Instant, Option<u64>)) -> Report {
    let wall_ms = began.0.elapsed().as_millis() as u64;
    let used = processor_time().zip(began.1).map(|(now, then)| now.saturating_sub(then));
    let turned = cluster.checks.journals.values();
    let mut passes: Vec<u64> = turned.map(|(files, again)| again / u64::from(*files)).collect();
    passes.sort_unstable();
    let owned = |(name, count): (&&'static str, &u64)| ((*name).to_owned(), *count);
    Report {
        scenario: cluster.schedule().scenario.clone(),
        seed: cluster.schedule().seed,
        subject: cluster.schedule().setup.subject,
        verdict: Verdict::Held,
        property: String::new(),
        story: String::new(),
        step: cluster.steps(),
        simulated_ms: cluster.simulated_ms(),
        wall_ms,
        cpu_ms: used.map_or(wall_ms, |nanoseconds| nanoseconds / 1_000_000),
        events: cluster.counts.events,
        acked_records: cluster.history.acknowledged,
        acked_under_faults: cluster.history.acknowledged_under_faults,
        read_records: cluster.history.read,
        faults: cluster.counts.faults.iter().map(owned).collect(),
        skipped: cluster.counts.skipped,
        power_losses_unsynced: cluster.counts.power_losses_unsynced,
        journal_passes: passes,
        sometimes: cluster
            .checks
            .marks
            .iter()
            .map(|(name, count)| (name.to_owned(), count))
            .collect(),
        fingerprint: format!("{:016x}", cluster.fingerprint.value()),
        again: format!(
            "cargo sim run {} --seed {}",
            cluster.schedule().scenario,
            cluster.schedule().seed
        ),
    }
}

impl Report {
    fn judge_vacuity(&mut self, cluster: &Cluster) {
        let setup = &cluster.schedule().setup;
        let lacking = if self.acked_records < setup.acked_min {
            Some(format!(
                "{} records were acknowledged, {} are needed",
                self.acked_records, setup.acked_min
            ))
        } else if setup.promises_faults && self.faults.is_empty() {
            Some("no fault struck".to_owned())
        } else {
            None
        };
        if let Some(story) = lacking {
            self.verdict = Verdict::Vacuous;
            self.story = story;
        }
    }

    /// The exit code that stands for the verdict.
    pub fn exit_code(&self) -> u8 {
        match self.verdict {
            Verdict::Held => 0,
            Verdict::Failed => 1,
            Verdict::Vacuous => 3,
            Verdict::Crashed => 70,
        }
    }

    /// One screen for a person.
    pub fn human(&self) -> String {
        let list = |counts: &BTreeMap<String, u64>| {
            let some = counts.iter().filter(|(_, count)| **count > 0);
            let each: Vec<String> = some.map(|(name, count)| format!("{name} {count}")).collect();
            if each.is_empty() { "none".to_owned() } else { each.join(", ") }
        };
        let verdict = match self.verdict {
            Verdict::Held => "all properties held".to_owned(),
            Verdict::Failed => format!("FAILED {}: {}", self.property, self.story),
            Verdict::Vacuous => format!("vacuous: {}", self.story),
            Verdict::Crashed => format!("the simulator itself broke: {}", self.story),
        };
        let mut text = format!(
            "scenario {}  seed {}\n{verdict}\n\
             step {}  simulated {} ms  wall {} ms  events {} ({} per CPU-second)\n\
             acknowledged {} (under faults {})  read {}\n\
             journal passes {:?}\n\
             faults: {}\n",
            self.scenario,
            self.seed,
            self.step,
            self.simulated_ms,
            self.wall_ms,
            self.events,
            self.events * 1_000 / self.cpu_ms.max(1),
            self.acked_records,
            self.acked_under_faults,
            self.read_records,
            self.journal_passes,
            list(&self.faults),
        );
        text +=
            &format!("sometimes: {}\nfingerprint {}\n", list(&self.sometimes), self.fingerprint);
        if self.verdict != Verdict::Held {
            text += &format!("again: {}\n", self.again);
        }
        text
    }
}
