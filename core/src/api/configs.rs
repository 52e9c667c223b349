//! DescribeConfigs: what is in force for a topic or for this broker, and where each value comes from. Who asks for the same
//! twice is answered once.

use milena_wire::ErrorCode;
use milena_wire::messages::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult,
    DescribeConfigsResponse, DescribeConfigsResult, DescribeConfigsSynonym, RESOURCE_TYPE_BROKER,
    RESOURCE_TYPE_BROKER_LOGGER, RESOURCE_TYPE_CLIENT_METRICS, RESOURCE_TYPE_GROUP,
    RESOURCE_TYPE_TOPIC,
};

use super::{distinct, unknown_topic};
use crate::Config;
use crate::Refusal;
use crate::controller::is_topic_name;
use crate::image::settings::{Kind, TOPIC_CONFIGS, TopicConfig};
use crate::image::{Image, Topic};

/// `config_source` of a value that a topic has of its own.
pub(super) const SOURCE_TOPIC: i8 = 1;
/// `config_source` of a value with which the broker was started.
const SOURCE_BROKER: i8 = 4;
/// `config_source` of a default.
pub(super) const SOURCE_DEFAULT: i8 = 5;

/// What configurations can be of. A request that names anything else is refused as a whole, as by Apache Kafka.
pub(super) const RESOURCE_TYPES: [i8; 5] = [
    RESOURCE_TYPE_TOPIC,
    RESOURCE_TYPE_BROKER,
    RESOURCE_TYPE_BROKER_LOGGER,
    RESOURCE_TYPE_CLIENT_METRICS,
    RESOURCE_TYPE_GROUP,
];

const TYPE_BOOLEAN: i8 = 1;
const TYPE_STRING: i8 = 2;
const TYPE_INT: i8 = 3;
const TYPE_LONG: i8 = 5;
const TYPE_DOUBLE: i8 = 6;
const TYPE_LIST: i8 = 7;

/// Answers DescribeConfigs.
pub fn describe_configs(
    image: &Image,
    config: &Config,
    request: &DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let refused = |resource: &DescribeConfigsResource| DescribeConfigsResult {
        error_code: ErrorCode::INVALID_REQUEST,
        error_message: Some("the request names a type of resource that there is not".into()),
        resource_type: resource.resource_type,
        resource_name: resource.resource_name.clone(),
        configs: Vec::new(),
    };
    if !request.resources.iter().all(|resource| RESOURCE_TYPES.contains(&resource.resource_type)) {
        let results = request.resources.iter().map(refused).collect();
        return DescribeConfigsResponse { throttle_time_ms: 0, results };
    }
    let describe = |resource: &DescribeConfigsResource| {
        let (error_code, error_message, mut configs) =
            match resource_configs(image, config, resource) {
                Ok(configs) => (ErrorCode::NONE, Some(String::new()), configs),
                Err(refusal) => (refusal.code, Some(refusal.message), Vec::new()),
            };
        // An empty list names all, as an absent one does.
        if let Some(keys) = resource.configuration_keys.as_ref().filter(|keys| !keys.is_empty()) {
            configs.retain(|config| keys.contains(&config.name));
        }
        for config in &mut configs {
            if !request.include_synonyms {
                config.synonyms.clear();
            }
            if !request.include_documentation {
                config.documentation = None;
            }
        }
        DescribeConfigsResult {
            error_code,
            error_message,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
            configs,
        }
    };
    let resources = distinct(&request.resources, |resource| {
        (resource.resource_type, &resource.resource_name, &resource.configuration_keys)
    });
    DescribeConfigsResponse { throttle_time_ms: 0, results: resources.map(describe).collect() }
}

fn resource_configs(
    image: &Image,
    config: &Config,
    resource: &DescribeConfigsResource,
) -> Result<Vec<DescribeConfigsResourceResult>, Refusal> {
    let name = &resource.resource_name;
    match resource.resource_type {
        RESOURCE_TYPE_TOPIC => match image.topic(name) {
            Some(topic) => {
                Ok(TOPIC_CONFIGS.iter().map(|known| of_topic(known, topic, config)).collect())
            }
            None if !is_topic_name(name) => {
                let message = "no topic can have this name";
                Err(Refusal::new(ErrorCode::INVALID_TOPIC_EXCEPTION, message))
            }
            None => Err(Refusal::new(unknown_topic(image), format!("no topic {name}"))),
        },
        // An empty name means what is set for all brokers at once, which nothing is.
        RESOURCE_TYPE_BROKER if name.is_empty() => Ok(Vec::new()),
        RESOURCE_TYPE_BROKER if name.parse() == Ok(config.node.0) => Ok(of_broker(config)),
        // What is logged is not for clients to turn.
        RESOURCE_TYPE_BROKER_LOGGER if name.parse() == Ok(config.node.0) => Ok(Vec::new()),
        RESOURCE_TYPE_BROKER | RESOURCE_TYPE_BROKER_LOGGER => {
            let message = format!("this is broker {}, ask {name:?} itself", config.node);
            Err(Refusal::new(ErrorCode::INVALID_REQUEST, message))
        }
        _ if name.is_empty() => {
            let message = "groups and subscriptions of client metrics have names";
            Err(Refusal::new(ErrorCode::INVALID_REQUEST, message))
        }
        // There is nothing that could be set for a group or for client metrics.
        _ => Ok(Vec::new()),
    }
}

fn of_topic(known: &TopicConfig, topic: &Topic, config: &Config) -> DescribeConfigsResourceResult {
    let own = topic.configs.get(known.name);
    let synonym = |name: &str, value: String, source| DescribeConfigsSynonym {
        name: name.into(),
        value: Some(value),
        source,
    };
    let own_synonym = own.map(|value| synonym(known.name, value.clone(), SOURCE_TOPIC));
    let value = known.value(&topic.configs, topic.min_isr(), config);
    let default = if own.is_some() { (known.default)(config) } else { value.clone() };
    let default = synonym(known.broker_name, default, SOURCE_DEFAULT);
    DescribeConfigsResourceResult {
        name: known.name.into(),
        value: Some(value),
        read_only: false,
        config_source: if own.is_some() { SOURCE_TOPIC } else { SOURCE_DEFAULT },
        is_sensitive: false,
        synonyms: own_synonym.into_iter().chain([default]).collect(),
        config_type: config_type(known),
        documentation: Some(known.documentation.into()),
    }
}

fn config_type(known: &TopicConfig) -> i8 {
    match known.kind {
        Kind::Long { .. } => TYPE_LONG,
        Kind::Int { .. } => TYPE_INT,
        Kind::Ratio => TYPE_DOUBLE,
        Kind::OneOf(_) => TYPE_STRING,
        Kind::List(_) => TYPE_LIST,
    }
}

/// One of the few of Kafka's broker configurations that have a meaning here.
struct BrokerConfig {
    name: &'static str,
    config_type: i8,
    value: Option<String>,
    documentation: &'static str,
}

fn of_broker(config: &Config) -> Vec<DescribeConfigsResourceResult> {
    let defaults = TOPIC_CONFIGS.iter().map(|known| BrokerConfig {
        name: known.broker_name,
        config_type: config_type(known),
        value: Some((known.default)(config)),
        documentation: known.documentation,
    });
    let of_broker = |known: BrokerConfig| {
        let synonym = |value: &String| DescribeConfigsSynonym {
            name: known.name.into(),
            value: Some(value.clone()),
            source: SOURCE_BROKER,
        };
        DescribeConfigsResourceResult {
            name: known.name.into(),
            read_only: true,
            config_source: SOURCE_BROKER,
            is_sensitive: false,
            synonyms: known.value.iter().map(synonym).collect(),
            value: known.value,
            config_type: known.config_type,
            documentation: Some(known.documentation.into()),
        }
    };
    brokers_own(config).into_iter().chain(defaults).map(of_broker).collect()
}

/// Those that are no defaults of topics.
fn brokers_own(config: &Config) -> [BrokerConfig; 9] {
    let (replication, quorum) = (&config.replication, &config.quorum);
    let own = |name, config_type, value, documentation| BrokerConfig {
        name,
        config_type,
        value,
        documentation,
    };
    let number = |number: &dyn std::fmt::Display| Some(number.to_string());
    [
        own("broker.id", TYPE_INT, number(&config.node), "The node's number, also as node.id."),
        own("node.id", TYPE_INT, number(&config.node), "The node's number in its cluster."),
        own(
            "broker.rack",
            TYPE_STRING,
            config.rack.clone(),
            "Where the node stands; the replicas of a partition are spread over racks.",
        ),
        own(
            "auto.create.topics.enable",
            TYPE_BOOLEAN,
            Some("false".into()),
            "Whether asking for a topic makes it: it never does.",
        ),
        own(
            "unclean.leader.election.enable",
            TYPE_BOOLEAN,
            Some("false".into()),
            "Whether a replica may lead that lacks acknowledged records: none ever may.",
        ),
        own(
            "replica.lag.time.max.ms",
            TYPE_LONG,
            number(&replication.lag_ms_max),
            "Milliseconds for which a follower may stay behind its leader and in the in-sync set.",
        ),
        own(
            "broker.session.timeout.ms",
            TYPE_INT,
            number(&quorum.broker_session_ms),
            "Milliseconds of silence after which the controller fences a broker.",
        ),
        own(
            "broker.heartbeat.interval.ms",
            TYPE_INT,
            number(&quorum.broker_heartbeat_ms),
            "Milliseconds from one sign of life of a broker to the next.",
        ),
        own(
            "fetch.max.bytes",
            TYPE_INT,
            number(&replication.fetch_bytes_max),
            "Largest answer to a fetch, bytes, though one batch always fits.",
        ),
    ]
}
