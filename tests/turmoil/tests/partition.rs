//! The production driver as it is, its connections, worker and disk loops included, with only its runtime module replaced
//! by one over turmoil's simulated network: three nodes take records, the leader is cut off, another leads, the cut heals,
//! and every acknowledged record is at its offset.

use std::collections::BTreeMap;
use std::time::Duration;

use milena_turmoil as driver;

#[path = "../../simulated/client.rs"]
mod client;
use client::{Failure, NODES, create, fetch, leader, produce, settings, until};

fn host(node: i32) -> String {
    format!("node-{node}")
}

/// Writes twenty records through whoever leads in the eyes of some nodes; their values by offset.
async fn write(moment: &str, asked: &[i32], but: Option<i32>) -> BTreeMap<i64, String> {
    let mut acknowledged = BTreeMap::new();
    for i in 0..20 {
        let value = format!("{moment} {i}");
        let (_, offset) = until(asked, |node| produce(node, &value, but)).await;
        acknowledged.insert(offset, value);
    }
    acknowledged
}

async fn write_cut_off_heal_read() -> Result<(), Failure> {
    let everyone = [1, 2, 3];
    until(&everyone, create).await;
    let mut acknowledged = write("before", &everyone, None).await;

    let cut = until(&everyone, leader).await;
    let others: Vec<i32> = everyone.into_iter().filter(|n| *n != cut).collect();
    others.iter().for_each(|other| turmoil::partition(host(cut), host(*other)));
    acknowledged.extend(write("during", &others, Some(cut)).await);
    others.iter().for_each(|other| turmoil::repair(host(cut), host(*other)));
    acknowledged.extend(write("after", &everyone, None).await);

    assert_eq!(acknowledged.len(), 60, "every record has an offset of its own");
    for (offset, value) in &acknowledged {
        let seen = until(&everyone, |node| fetch(node, *offset)).await;
        assert_eq!(seen, *value, "what was acknowledged at {offset}");
    }
    Ok(())
}

#[test]
fn a_cut_off_leader_loses_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut sim = turmoil::Builder::new()
        .simulation_duration(Duration::from_secs(180))
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(5))
        .tcp_capacity(4096)
        .rng_seed(1)
        .build();
    for id in 1..=NODES {
        let data = directory.path().join(host(id));
        sim.host(host(id), move || {
            let settings = settings(id, data.clone());
            async move {
                let mut running = driver::node::start(settings)?;
                match running.ended().await {
                    Some(halt) => Err(driver::node::halt_line(&halt).into()),
                    None => Err("the node ended".into()),
                }
            }
        });
    }
    sim.client("client", write_cut_off_heal_read());
    sim.run().expect("the scenario holds");
}
