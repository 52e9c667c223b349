//! The first request to nodes that have just been started, by tools that ask once: they are told what is true a moment later,
//! not that there is no leader yet, or one broker of three.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use milena_tests::Cluster;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};

const LIMIT: Duration = Duration::from_secs(10);

fn client(cluster: &Cluster, node: usize) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", format!("127.0.0.1:{}", cluster.nodes[node].kafka));
    config
}

fn wait_until_it_listens(cluster: &Cluster, node: usize) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while TcpStream::connect(("127.0.0.1", cluster.nodes[node].kafka)).is_err() {
        ensure!(Instant::now() < end, "it does not listen: {}", cluster.nodes[node].said());
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

#[tokio::test]
async fn whoever_asks_once_is_told_leaders_and_finds_all_brokers() -> Result<()> {
    let mut cluster = Cluster::start(3, &[])?;
    cluster.must(&["topic", "create", "t", "-p", "6", "-r", "3"])?;
    for round in 0..3 {
        cluster.nodes.iter_mut().for_each(|node| node.kill());
        for node in &mut cluster.nodes {
            node.start()?;
        }
        let asked = round % 3;
        wait_until_it_listens(&cluster, asked)?;
        let consumer: BaseConsumer = client(&cluster, asked).create()?;
        let metadata = consumer.fetch_metadata(Some("t"), LIMIT)?;
        let topic = metadata.topics().first().context("one topic was asked for")?;
        ensure!(topic.error().is_none(), "round {round}: {:?}", topic.error());
        ensure!(topic.partitions().len() == 6);
        for partition in topic.partitions() {
            ensure!(partition.leader() >= 0, "round {round}: {} has no leader", partition.id());
        }

        // One node alone; the others know all.
        cluster.wait_ready(Duration::from_secs(30))?;
        cluster.nodes[asked].kill();
        cluster.nodes[asked].start()?;
        wait_until_it_listens(&cluster, asked)?;
        let admin: AdminClient<DefaultClientContext> = client(&cluster, asked).create()?;
        let name = format!("new-{round}");
        let topic = NewTopic::new(&name, 1, TopicReplication::Fixed(3));
        let made = admin.create_topics([&topic], &AdminOptions::new()).await?;
        ensure!(made == [Ok(name)], "round {round}: {made:?}");
    }
    Ok(())
}
