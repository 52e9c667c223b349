//! `milena cluster status`: controllers, brokers, and partitions that are not well.

use std::time::Duration;

use anyhow::bail;
use milena_wire::Response;
use milena_wire::messages::{
    DescribeClusterRequest, DescribeClusterResponse,
    describe_cluster::{DescribeClusterBroker, ENDPOINT_TYPE_CONTROLLERS},
    describe_topic_partitions::DescribeTopicPartitionsResponsePartition,
};
use serde_json::{Value, json};

use super::arguments::ClientOptions;
use super::topic::{partition_json, partitions};
use super::{Failure, output, table};
use crate::client::Client;

type Partition = (String, DescribeTopicPartitionsResponsePartition);

/// Looks once.
pub fn run(options: &ClientOptions) -> Result<(), Failure> {
    let mut client = Client::new(
        options.bootstrap.iter().map(ToString::to_string).collect(),
        Duration::from_secs(5),
    );
    let cluster = client.cluster()?;
    let controllers = controllers(&mut client).ok();
    // A broker names any broker as the controller for clients' requests; the controllers know which of them is active.
    let active = controllers.as_ref().map_or(-1, |controllers| controllers.controller_id);
    let topics = partitions(&mut client, None)?;
    let all: Vec<Partition> = topics
        .into_iter()
        .flat_map(|topic| {
            let name = topic.name.unwrap_or_default();
            topic.partitions.into_iter().map(move |partition| (name.clone(), partition))
        })
        .collect();
    let min_isr = min_insync(&mut client, &all);
    let of = |wanted: &dyn Fn(&Partition) -> bool| -> Vec<&Partition> {
        all.iter().filter(|partition| wanted(partition)).collect()
    };
    let offline = of(&|(_, p)| p.leader_id < 0);
    let under_replicated = of(&|(_, p)| p.isr_nodes.len() < p.replica_nodes.len());
    let at_min = of(&|(topic, p)| {
        let min = min_isr.get(topic).copied().unwrap_or(1).min(p.replica_nodes.len());
        p.leader_id >= 0 && p.isr_nodes.len() <= min && p.replica_nodes.len() > min
    });
    let human = || {
        let mut lines = vec![format!("cluster {}", cluster.cluster_id)];
        lines.push(match active {
            -1 => "active controller: none".into(),
            id => format!("active controller: node {id}"),
        });
        let nodes = |cluster: &DescribeClusterResponse, fenced, well| -> Vec<Vec<String>> {
            let row = |node: &DescribeClusterBroker| {
                let state = if node.is_fenced { fenced } else { well };
                let address = format!("{}:{}", node.host, node.port);
                vec![node.broker_id.to_string(), address, String::from(state)]
            };
            cluster.brokers.iter().map(row).collect()
        };
        if let Some(controllers) = &controllers {
            lines.push(String::new());
            let rows = nodes(controllers, "observer: it follows and does not vote", "voter");
            lines.extend(table(&["controller", "address", "state"], rows.into_iter()));
        }
        lines.push(String::new());
        let rows = nodes(&cluster, "fenced", "in service");
        lines.extend(table(&["broker", "address", "state"], rows.into_iter()));
        lines.push(String::new());
        lines.push(format!(
            "partitions: {} in all, {} offline, {} under-replicated, {} at min ISR",
            all.len(),
            offline.len(),
            under_replicated.len(),
            at_min.len()
        ));
        lines.extend(under_replicated.iter().map(|(topic, p)| {
            let leader = if p.leader_id < 0 { "none".into() } else { p.leader_id.to_string() };
            let (isr, replicas) = (&p.isr_nodes, &p.replica_nodes);
            format!("  {topic}-{}: leader {leader}, isr {isr:?} of {replicas:?}", p.partition_index)
        }));
        lines.join("\n")
    };
    let json = || {
        let json = |partitions: &[&Partition]| -> Vec<Value> {
            partitions.iter().map(|(topic, p)| partition_json(topic, p)).collect()
        };
        json!({
            "cluster": cluster.cluster_id,
            "controller": (active >= 0).then_some(active),
            "controllers": controllers.as_ref().map(nodes_json),
            "brokers": nodes_json(&live(&cluster, false)),
            "fenced_brokers": nodes_json(&live(&cluster, true)),
            "partitions": all.len(),
            "offline": json(&offline),
            "under_replicated": json(&under_replicated),
            "at_min_isr": json(&at_min),
        })
    };
    output(options.format, human, json)
}

fn live(cluster: &DescribeClusterResponse, fenced: bool) -> DescribeClusterResponse {
    let mut some = cluster.clone();
    some.brokers.retain(|broker| broker.is_fenced == fenced);
    some
}

fn nodes_json(cluster: &DescribeClusterResponse) -> Vec<Value> {
    cluster
        .brokers
        .iter()
        .map(|broker| {
            let observer =
                (cluster.endpoint_type == ENDPOINT_TYPE_CONTROLLERS).then_some(broker.is_fenced);
            let mut node =
                json!({"id": broker.broker_id, "host": broker.host, "port": broker.port});
            if let Some(observer) = observer {
                node["observer"] = observer.into();
            }
            node
        })
        .collect()
}

/// The controllers. One that lost its disk and only observes is marked as a fenced broker would be.
fn controllers(client: &mut Client) -> anyhow::Result<DescribeClusterResponse> {
    let request = DescribeClusterRequest {
        endpoint_type: ENDPOINT_TYPE_CONTROLLERS,
        include_fenced_brokers: true,
        ..Default::default()
    };
    match client.any(&request.into())? {
        Response::DescribeCluster(answer) if answer.error_code.is_none() => Ok(answer),
        _ => bail!("this broker does not list controllers"),
    }
}

/// `min.insync.replicas` of each topic.
fn min_insync(client: &mut Client, all: &[Partition]) -> std::collections::BTreeMap<String, usize> {
    use milena_wire::messages::{
        DescribeConfigsRequest,
        describe_configs::{DescribeConfigsResource, RESOURCE_TYPE_TOPIC},
    };
    let mut names: Vec<&String> = all.iter().map(|(topic, _)| topic).collect();
    names.dedup();
    let resources = names
        .into_iter()
        .map(|name| DescribeConfigsResource {
            resource_type: RESOURCE_TYPE_TOPIC,
            resource_name: name.clone(),
            configuration_keys: Some(vec!["min.insync.replicas".into()]),
        })
        .collect();
    let request = DescribeConfigsRequest { resources, ..Default::default() };
    let Ok(Response::DescribeConfigs(answer)) = client.any(&request.into()) else {
        return Default::default();
    };
    answer
        .results
        .into_iter()
        .filter_map(|result| {
            let value = result.configs.first()?.value.as_ref()?.parse().ok()?;
            Some((result.resource_name, value))
        })
        .collect()
}
