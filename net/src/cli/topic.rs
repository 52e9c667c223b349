//! `milena topic`: create, list, describe, alter, delete.

use anyhow::{Context, bail};
use milena_wire::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest,
    create_partitions::CreatePartitionsTopic,
    create_topics::{CreatableTopic, CreatableTopicConfig},
    delete_topics::DeleteTopicState,
    describe_configs::{
        DescribeConfigsResource, DescribeConfigsResourceResult, RESOURCE_TYPE_TOPIC,
    },
    describe_topic_partitions::{
        Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
        TopicRequest,
    },
    metadata::MetadataResponseTopic,
};
use milena_wire::{ErrorCode, Request, Response};
use serde_json::{Value, json};

use super::arguments::{ClientOptions, TopicCommand};
use super::{ASK_TIMEOUT, Failure, count, output, table};
use crate::client::{Client, check, leader};

/// In the place of a number: the cluster's default.
const DEFAULT: i16 = -1;
/// `source` of a configuration that was set on the topic.
const SET_ON_TOPIC: i8 = 1;

/// Does what the command says.
pub fn run(command: &TopicCommand) -> Result<(), Failure> {
    match command {
        TopicCommand::Create { name, partitions, replication_factor, configs, client } => {
            create(name, *partitions, *replication_factor, configs, client)
        }
        TopicCommand::List { client } => list(client),
        TopicCommand::Describe { name, client } => describe(name, client),
        TopicCommand::Alter { name, partitions, client } => alter(name, *partitions, client),
        TopicCommand::Delete { name, client } => delete(name, client),
    }
}

/// Asks until it is done or refused, and says so where an earlier attempt whose answer was lost may be why.
fn administer(
    client: &mut Client,
    what: &str,
    request: &Request,
    result: impl Fn(&Response) -> anyhow::Result<()>,
) -> anyhow::Result<Response> {
    let mut attempts = 0;
    let done = client.again(what, |client| {
        let response = client.any(request)?;
        attempts += 1;
        result(&response)?;
        Ok(response)
    });
    done.map_err(|error| match attempts {
        0 | 1 => error,
        _ => error.context("an earlier attempt may have been carried out"),
    })
}

fn create(
    name: &str,
    partitions: Option<i32>,
    replication_factor: Option<i16>,
    configs: &[(String, String)],
    options: &ClientOptions,
) -> Result<(), Failure> {
    let configs = configs
        .iter()
        .map(|(name, value)| CreatableTopicConfig {
            name: name.clone(),
            value: Some(value.clone()),
        })
        .collect();
    let topic = CreatableTopic {
        name: name.into(),
        num_partitions: partitions.unwrap_or(DEFAULT.into()),
        replication_factor: replication_factor.unwrap_or(DEFAULT),
        configs,
        ..Default::default()
    };
    let request =
        CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
    let mut client = options.client(ASK_TIMEOUT);
    let response =
        administer(&mut client, &format!("create {name}"), &request.into(), |response| {
            let Response::CreateTopics(answer) = response else {
                bail!("the broker answered something else")
            };
            let topic = answer.topics.first().context("the broker left the topic out")?;
            check(topic.error_code, topic.error_message.as_deref())
        })
        .with_context(|| format!("topic {name}"))?;
    let Response::CreateTopics(answer) = response else { return Ok(()) };
    let Some(topic) = answer.topics.first() else { return Ok(()) };
    let known = ready(&mut client, name, 1)?;
    let partitions = known.partitions.len();
    let replication_factor = known.partitions.first().map_or(0, |p| p.replica_nodes.len());
    output(
        options.format,
        || {
            let partitions = count(partitions as u64, "partition");
            let replicas = count(replication_factor as u64, "replica");
            format!("topic {name} created: {partitions}, {replicas} each")
        },
        || json!({"topic": name, "id": topic.topic_id.to_string(), "partitions": partitions, "replication_factor": replication_factor}),
    )
}

/// Waits until brokers know the leaders of so many partitions: made is known to the controller.
fn ready(
    client: &mut Client,
    name: &str,
    partitions: usize,
) -> anyhow::Result<MetadataResponseTopic> {
    client.again(&format!("see leaders of {name}"), |client| {
        let known = client.topic(name, true)?;
        for index in 0..partitions.max(known.partitions.len()) {
            leader(&known, index as i32)?;
        }
        Ok(known)
    })
}

fn alter(name: &str, partitions: i32, options: &ClientOptions) -> Result<(), Failure> {
    let topic = CreatePartitionsTopic { name: name.into(), count: partitions, assignments: None };
    let request =
        CreatePartitionsRequest { topics: vec![topic], timeout_ms: 10_000, validate_only: false };
    let mut client = options.client(ASK_TIMEOUT);
    administer(&mut client, &format!("give {name} more partitions"), &request.into(), |response| {
        let Response::CreatePartitions(answer) = response else {
            bail!("the broker answered something else")
        };
        let topic = answer.results.first().context("the broker left the topic out")?;
        check(topic.error_code, topic.error_message.as_deref())
    })
    .with_context(|| format!("topic {name}"))?;
    ready(&mut client, name, usize::try_from(partitions).unwrap_or(0))?;
    output(
        options.format,
        || format!("topic {name} has {} now", count(partitions as u64, "partition")),
        || json!({"topic": name, "partitions": partitions}),
    )
}

fn list(options: &ClientOptions) -> Result<(), Failure> {
    let answer =
        options.client(ASK_TIMEOUT).again("list topics", |client| client.metadata(None))?;
    let mut topics: Vec<(String, String, usize, usize)> = answer
        .topics
        .into_iter()
        .map(|topic| {
            let replicas = topic.partitions.first().map_or(0, |p| p.replica_nodes.len());
            let name = topic.name.unwrap_or_default();
            (name, topic.topic_id.to_string(), topic.partitions.len(), replicas)
        })
        .collect();
    topics.sort();
    let human = || {
        let rows = topics.iter().map(|(name, _, partitions, replicas)| {
            vec![name.clone(), partitions.to_string(), replicas.to_string()]
        });
        table(&["topic", "partitions", "replicas"], rows).join("\n")
    };
    let json = || {
        let topics = topics.iter().map(|(name, id, partitions, replicas)| {
            json!({"topic": name, "id": id, "partitions": partitions, "replication_factor": replicas})
        });
        topics.collect::<Vec<Value>>().into()
    };
    output(options.format, human, json)
}

/// Partitions of one topic or of all, page by page.
pub fn partitions(
    client: &mut Client,
    name: Option<&str>,
) -> anyhow::Result<Vec<DescribeTopicPartitionsResponseTopic>> {
    let mut topics: Vec<DescribeTopicPartitionsResponseTopic> = Vec::new();
    let mut cursor: Option<Cursor> = None;
    loop {
        let request = milena_wire::messages::DescribeTopicPartitionsRequest {
            topics: name.iter().map(|name| TopicRequest { name: name.to_string() }).collect(),
            cursor: cursor.take(),
            ..Default::default()
        };
        let Response::DescribeTopicPartitions(answer) = client.any(&request.into())? else {
            bail!("the broker answered something else");
        };
        for topic in answer.topics {
            // A topic that two pages share comes back in both.
            match topics.last_mut() {
                Some(last) if last.name == topic.name => last.partitions.extend(topic.partitions),
                _ => topics.push(topic),
            }
        }
        match answer.next_cursor {
            Some(next) => cursor = Some(next),
            None => return Ok(topics),
        }
    }
}

/// A partition for scripts.
pub fn partition_json(topic: &str, partition: &DescribeTopicPartitionsResponsePartition) -> Value {
    json!({
        "topic": topic,
        "partition": partition.partition_index,
        "leader": (partition.leader_id >= 0).then_some(partition.leader_id),
        "leader_epoch": partition.leader_epoch,
        "replicas": partition.replica_nodes,
        "isr": partition.isr_nodes,
        "elr": partition.eligible_leader_replicas.as_deref().unwrap_or_default(),
    })
}

/// The configurations of a topic.
pub fn topic_configs(
    client: &mut Client,
    name: &str,
) -> anyhow::Result<Vec<DescribeConfigsResourceResult>> {
    let resource = DescribeConfigsResource {
        resource_type: RESOURCE_TYPE_TOPIC,
        resource_name: name.into(),
        configuration_keys: None,
    };
    let request = DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
    let Response::DescribeConfigs(answer) = client.any(&request.into())? else {
        bail!("the broker answered something else");
    };
    let configs = answer.results.into_iter().next().context("the broker left the topic out")?;
    check(configs.error_code, configs.error_message.as_deref())?;
    Ok(configs.configs)
}

fn describe(name: &str, options: &ClientOptions) -> Result<(), Failure> {
    let asked = options.client(ASK_TIMEOUT).again(&format!("describe {name}"), |client| {
        let topics = partitions(client, Some(name))?;
        let topic = topics.into_iter().next().context("the broker left the topic out")?;
        let is_absent = topic.error_code == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
        check(topic.error_code, is_absent.then_some("there is no such topic"))
            .with_context(|| format!("topic {name}"))?;
        Ok((topic, topic_configs(client, name)?))
    });
    let (topic, configs) = asked?;
    let human = || {
        let mut lines = vec![format!("topic {name}, id {}", topic.topic_id)];
        let ids = |ids: &[i32]| ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
        let rows = topic.partitions.iter().map(|p| {
            let leader = if p.leader_id < 0 { "none".into() } else { p.leader_id.to_string() };
            vec![
                p.partition_index.to_string(),
                leader,
                p.leader_epoch.to_string(),
                ids(&p.replica_nodes),
                ids(&p.isr_nodes),
                ids(p.eligible_leader_replicas.as_deref().unwrap_or_default()),
            ]
        });
        lines.extend(table(&["partition", "leader", "epoch", "replicas", "isr", "elr"], rows));
        let rows = configs.iter().map(|config| {
            let set = if config.config_source == SET_ON_TOPIC { "set" } else { "default" };
            vec![config.name.clone(), config.value.clone().unwrap_or_default(), set.into()]
        });
        lines.push(String::new());
        lines.extend(table(&["configuration", "value", ""], rows));
        lines.join("\n")
    };
    let json = || {
        let partitions: Vec<Value> =
            topic.partitions.iter().map(|p| partition_json(name, p)).collect();
        let configs: serde_json::Map<String, Value> = configs
            .iter()
            .map(|config| {
                let set = config.config_source == SET_ON_TOPIC;
                (config.name.clone(), json!({"value": config.value, "set": set}))
            })
            .collect();
        json!({"topic": name, "id": topic.topic_id.to_string(), "partitions": partitions, "configs": configs})
    };
    output(options.format, human, json)
}

fn delete(name: &str, options: &ClientOptions) -> Result<(), Failure> {
    let request = DeleteTopicsRequest {
        topics: vec![DeleteTopicState { name: Some(name.into()), ..Default::default() }],
        topic_names: vec![name.into()],
        timeout_ms: 10_000,
    };
    let mut client = options.client(ASK_TIMEOUT);
    administer(&mut client, &format!("delete {name}"), &request.into(), |response| {
        let Response::DeleteTopics(answer) = response else {
            bail!("the broker answered something else")
        };
        let topic = answer.responses.first().context("the broker left the topic out")?;
        check(topic.error_code, topic.error_message.as_deref())
    })
    .with_context(|| format!("topic {name}"))?;
    output(
        options.format,
        || format!("topic {name} deleted"),
        || json!({"topic": name, "deleted": true}),
    )
}
