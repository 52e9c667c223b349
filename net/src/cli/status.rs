//! `milena cluster status`: controllers, brokers, and partitions that are not well.

use anyhow::bail;
use milena_wire::Response;
use milena_wire::messages::{
    DescribeClusterResponse, DescribeQuorumRequest,
    describe_cluster::DescribeClusterBroker,
    describe_quorum::{
        DescribeQuorumPartition, DescribeQuorumTopic, METADATA_TOPIC, QuorumReplica,
    },
    describe_topic_partitions::DescribeTopicPartitionsResponsePartition,
};
use serde_json::{Value, json};

use super::arguments::ClientOptions;
use super::topic::{partition_json, partitions};
use super::{ASK_TIMEOUT, Failure, count, output, table};
use crate::client::Client;

/// A controller not heard for this long is not just about to be.
const SILENT_MS: i64 = 3_000;

type Partition = (String, DescribeTopicPartitionsResponsePartition);

/// Exit code of `--check`: something lacks, everything is served.
const DEGRADED: u8 = 1;
/// Exit code of `--check`: something is not served.
const UNAVAILABLE: u8 = 2;

/// Looks once, at what is so now: a broker that is not there is an answer and not waited for.
pub fn run(options: &ClientOptions, check: bool) -> Result<(), Failure> {
    match look(options) {
        Ok(code) if check && code > 0 => Err(Failure::Found(code)),
        Err(Failure::Failed(line)) if check => Err(Failure::Unavailable(line)),
        result => result.map(drop),
    }
}

/// Prints what there is; the exit code that says how it is.
fn look(options: &ClientOptions) -> Result<u8, Failure> {
    let mut client = options.client(ASK_TIMEOUT);
    let cluster = client.cluster()?;
    let quorum = quorum(&mut client)?;
    let (active, controllers) = (quorum.leader_id, &quorum.controllers);
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
    let below_min = of(&|(topic, p)| {
        let min = min_isr.get(topic).copied().unwrap_or(1).min(p.replica_nodes.len());
        p.leader_id >= 0 && p.isr_nodes.len() < min
    });
    let fenced = cluster.brokers.iter().filter(|broker| broker.is_fenced).count();
    let (observers, silent) = (
        controllers.iter().filter(|c| c.observer).count(),
        controllers.iter().filter(|c| !c.observer && c.silent_ms >= SILENT_MS).count(),
    );
    let of_what = |number: usize, what: &str, is: &str| {
        (number > 0).then(|| format!("{} {is}", count(number as u64, what)))
    };
    let unavailable: Vec<String> = [
        (active < 0).then(|| "no active controller".into()),
        of_what(offline.len(), "partition", "without a leader"),
        of_what(below_min.len(), "partition", "with fewer in-sync replicas than acks=all needs"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let degraded = [
        of_what(under_replicated.len(), "partition", "under-replicated"),
        of_what(fenced, "broker", "fenced"),
        of_what(silent, "controller", "silent"),
        of_what(observers, "controller", "without a vote"),
    ];
    let (health, code) = match (unavailable.is_empty(), degraded.iter().any(Option::is_some)) {
        (false, _) => ("unavailable", UNAVAILABLE),
        (true, true) => ("degraded", DEGRADED),
        (true, false) => ("well", 0),
    };
    let reasons: Vec<String> =
        unavailable.into_iter().chain(degraded.into_iter().flatten()).collect();
    let human = || {
        let mut lines = vec![format!("cluster {}", cluster.cluster_id)];
        lines.push(match reasons.is_empty() {
            true => format!("health: {health}"),
            false => format!("health: {health}: {}", reasons.join(", ")),
        });
        lines.push(match active {
            -1 => "active controller: none; brokers and partitions are as last known".into(),
            id => format!("active controller: node {id}"),
        });
        lines.push(String::new());
        let rows = controllers.iter().map(|controller| controller.row(active));
        lines
            .extend(table(&["controller", "address", "state", "heard", "log end", "behind"], rows));
        lines.push(String::new());
        let rows = cluster.brokers.iter().map(|broker| {
            let state = if broker.is_fenced { "fenced" } else { "in service" };
            let address = format!("{}:{}", broker.host, broker.port);
            vec![broker.broker_id.to_string(), address, state.into()]
        });
        lines.extend(table(&["broker", "address", "state"], rows));
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
            "health": health,
            "reasons": reasons,
            "controller": (active >= 0).then_some(active),
            "controllers": controllers.iter().map(Controller::json).collect::<Vec<_>>(),
            "metadata": {"epoch": quorum.epoch, "high_watermark": quorum.high_watermark},
            "brokers": nodes_json(&live(&cluster, false)),
            "fenced_brokers": nodes_json(&live(&cluster, true)),
            "partitions": all.len(),
            "offline": json(&offline),
            "under_replicated": json(&under_replicated),
            "at_min_isr": json(&at_min),
        })
    };
    output(options.format, human, json).map(|()| code)
}

fn live(cluster: &DescribeClusterResponse, fenced: bool) -> DescribeClusterResponse {
    let mut some = cluster.clone();
    some.brokers.retain(|broker| broker.is_fenced == fenced);
    some
}

fn nodes_json(cluster: &DescribeClusterResponse) -> Vec<Value> {
    let node = |broker: &DescribeClusterBroker| json!({"id": broker.broker_id, "host": broker.host, "port": broker.port});
    cluster.brokers.iter().map(node).collect()
}

/// The metadata quorum.
struct Quorum {
    /// -1 while there is none, as the next two.
    leader_id: i32,
    epoch: i32,
    high_watermark: i64,
    controllers: Vec<Controller>,
}

struct Controller {
    id: i32,
    /// Where the broker that was asked would reach it, if it knows.
    address: Option<(String, u16)>,
    /// What the leader knows of its log, if there is a leader.
    replica: Option<QuorumReplica>,
    /// Whether that replica lost its disk and only observes.
    observer: bool,
    /// How many records it lacks.
    behind: i64,
    /// How long ago the leader heard it, on the leader's clock.
    silent_ms: i64,
}

impl Controller {
    fn row(&self, active: i32) -> Vec<String> {
        let state = match &self.replica {
            None => "not known: no leader",
            Some(_) if self.observer => "observer: it follows and does not vote",
            Some(_) if self.id == active => "leader",
            Some(_) => "voter",
        };
        let known = |number: &dyn Fn(&QuorumReplica) -> i64| {
            self.replica.as_ref().map(|replica| number(replica).to_string()).unwrap_or_default()
        };
        vec![
            self.id.to_string(),
            self.address
                .as_ref()
                .map_or("not known".into(), |(host, port)| format!("{host}:{port}")),
            state.into(),
            if self.replica.is_some() { self.heard(active) } else { String::new() },
            known(&|replica| replica.log_end_offset),
            known(&|_| self.behind),
        ]
    }

    /// How long it has been silent: a follower that lives is heard several times a second.
    fn heard(&self, active: i32) -> String {
        match self.silent_ms {
            _ if self.id == active => "now".into(),
            0..SILENT_MS => {
                format!("{}.{} s ago", self.silent_ms / 1000, self.silent_ms % 1000 / 100)
            }
            silent => format!("not for {} s", silent / 1000),
        }
    }

    fn json(&self) -> Value {
        let address = self.address.as_ref();
        let replica = self.replica.as_ref();
        json!({
            "id": self.id,
            "host": address.map(|(host, _)| host),
            "port": address.map(|(_, port)| port),
            "observer": self.observer,
            "directory": replica.map(|replica| replica.replica_directory_id.to_string()),
            "log_end": replica.map(|replica| replica.log_end_offset),
            "behind": replica.map(|_| self.behind),
            "heard": replica.map(|replica| replica.last_fetch_timestamp),
            "silent_ms": replica.map(|_| self.silent_ms),
        })
    }
}

/// The controllers as the leader of their quorum sees them; where there is none, their addresses.
fn quorum(client: &mut Client) -> anyhow::Result<Quorum> {
    let partitions = vec![DescribeQuorumPartition { partition_index: 0 }];
    let topic = DescribeQuorumTopic { topic_name: METADATA_TOPIC.into(), partitions };
    let request = DescribeQuorumRequest { topics: vec![topic] };
    let Response::DescribeQuorum(answer) = client.any(&request.into())? else {
        bail!("the broker answered something else");
    };
    let told = answer.topics.into_iter().flat_map(|topic| topic.partitions).next();
    let told = told.filter(|partition| partition.error_code.is_none());
    let end = told.iter().flat_map(|told| &told.current_voters).map(|r| r.log_end_offset).max();
    let find = |some: &[QuorumReplica], id| some.iter().find(|r| r.replica_id == id).cloned();
    // It hears itself at the moment of its answer.
    let leader = told.as_ref().and_then(|told| find(&told.current_voters, told.leader_id));
    let controllers = answer.nodes.into_iter().map(|node| {
        // A disk that was replaced observes beside the lost one, which still counts as a voter.
        let observer = told.as_ref().and_then(|told| find(&told.observers, node.node_id));
        let voter = told.as_ref().and_then(|told| find(&told.current_voters, node.node_id));
        let address = node.listeners.into_iter().next().map(|l| (l.host, l.port));
        let is_observer = observer.is_some();
        let replica = observer.or(voter);
        let behind = match (&replica, end) {
            (Some(replica), Some(end)) => (end - replica.log_end_offset).max(0),
            _ => 0,
        };
        let heard = |replica: &QuorumReplica| replica.last_fetch_timestamp;
        let silent_ms = match (&replica, &leader) {
            (Some(replica), Some(leader)) => (heard(leader) - heard(replica)).max(0),
            _ => 0,
        };
        let observer = is_observer;
        Controller { id: node.node_id, address, replica, observer, behind, silent_ms }
    });
    let controllers = controllers.collect();
    Ok(match told {
        None => Quorum { leader_id: -1, epoch: -1, high_watermark: -1, controllers },
        Some(told) => Quorum {
            leader_id: told.leader_id,
            epoch: told.leader_epoch,
            high_watermark: told.high_watermark,
            controllers,
        },
    })
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
