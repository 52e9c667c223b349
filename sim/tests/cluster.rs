//! Whole clusters: a few seeds of every scenario hold, and a seed gives the same run in another process.
//!
//! What a sweep of `cargo sim` says in depth, `cargo test` says of little: that nothing is broken at first sight.

use std::process::Command;

use milena_sim::report::{self, Verdict};
use milena_sim::scenario;
use serde_json::Value;

/// Seeds of each scenario.
const SEEDS: u64 = 2;

/// Clients take their time, so that the faults of a schedule are felt and the test is short without optimisation too.
fn holds(name: &str) {
    let scenario = scenario::named(name).expect("a scenario of the list");
    for seed in 0..SEEDS {
        let mut schedule = scenario.expand(seed);
        schedule.setup.producers.iter_mut().for_each(|producer| producer.pause_us = 30_000);
        schedule.setup.consumers.iter_mut().for_each(|consumer| consumer.pause_us = 60_000);
        let report = report::run(schedule, false);
        assert_eq!(report.verdict, Verdict::Held, "{}", report.human());
    }
}

macro_rules! each_holds {
    ($($test:ident $name:literal)*) => {
        $(
            #[test]
            fn $test() {
                holds($name);
            }
        )*
        const TRIED: &[&str] = &[$($name),*];
    };
}

each_holds! {
    steady_holds "steady"
    n_minus_one_holds "n-minus-one"
    power_loss_holds "power-loss"
    partition_holds "partition"
    slow_disk_holds "slow-disk"
    disk_full_holds "disk-full"
    rolling_restart_holds "rolling-restart"
    moved_holds "moved"
    founding_holds "founding"
    beyond_budget_holds "beyond-budget"
    dense_holds "dense"
    disks_hold "disks"
    idempotence_holds "idempotence"
    compaction_holds "compaction"
    nodes_holds "nodes"
    swarm_holds "swarm"
}

#[test]
fn every_scenario_is_tried() {
    let all: Vec<String> = scenario::all().into_iter().map(|scenario| scenario.name).collect();
    assert_eq!(all, TRIED);
}

/// What a run in a process of its own says of itself: fingerprint, and how many steps it took.
fn fingerprint(seed: u64) -> (String, u64) {
    let output = Command::new(env!("CARGO_BIN_EXE_milena-sim"))
        .args(["--format", "json", "--out", env!("CARGO_TARGET_TMPDIR"), "run", "partition"])
        .args(["--seed", &seed.to_string()])
        .output()
        .expect("the simulator was built with this test");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_str(&said).expect("a report");
    let text = report["fingerprint"].as_str().expect("a fingerprint").to_owned();
    (text, report["step"].as_u64().expect("steps"))
}

#[test]
fn a_seed_gives_the_same_run_in_another_process() {
    let (first, again, other) = (fingerprint(1), fingerprint(1), fingerprint(2));
    assert_eq!(first, again);
    assert_ne!(first, other, "a fingerprint tells runs apart");
}
