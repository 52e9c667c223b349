//! The production driver on madsim's deterministic executor, with only its runtime module replaced: three nodes take a
//! record with acks=all, the partition's leader is killed and started again, and the record is at its offset.
#![cfg(madsim)]

use std::net::IpAddr;
use std::time::Duration;

use madsim::runtime::Handle;
use milena_madsim as driver;

#[path = "../../simulated/client.rs"]
mod client;
use client::{NODES, create, fetch, produce, settings, until};

fn host(node: i32) -> String {
    format!("10.0.0.{node}")
}

#[madsim::test]
async fn a_killed_leader_loses_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let handle = Handle::current();
    let mut nodes = Vec::new();
    for id in 1..=NODES {
        let data = directory.path().join(id.to_string());
        let address: IpAddr = host(id).parse().expect("an address");
        let node = handle.create_node().name(format!("node-{id}")).ip(address).init(move || {
            let settings = settings(id, data.clone());
            async move {
                let mut running = driver::node::start(settings).expect("the node starts");
                let halt = running.ended().await;
                panic!("the node ended: {:?}", halt.as_ref().map(driver::node::halt_line));
            }
        });
        nodes.push(node.build().id());
    }
    let client =
        handle.create_node().name("client").ip("10.0.0.9".parse().expect("address")).build();
    let done = client.spawn(async move {
        let everyone = [1, 2, 3];
        until(&everyone, create).await;
        let (leader, before) = until(&everyone, |node| produce(node, "before", None)).await;
        let killed = nodes[leader as usize - 1];
        Handle::current().kill(killed);
        let others: Vec<i32> = everyone.into_iter().filter(|node| *node != leader).collect();
        let (_, after) = until(&others, |node| produce(node, "after", Some(leader))).await;
        Handle::current().restart(killed);
        for (at, value) in [(before, "before"), (after, "after")] {
            let seen = until(&everyone, |node| fetch(node, at)).await;
            assert_eq!(seen, value, "what was acknowledged at {at}");
        }
    });
    madsim::time::timeout(Duration::from_secs(120), done)
        .await
        .expect("in time")
        .expect("no panic");
}
