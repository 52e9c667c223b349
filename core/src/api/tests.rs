//! Answers from a small image.

use crate::image::settings::TOPIC_CONFIGS;
use std::sync::Arc;

use milena_wire::messages::AUTHORIZED_OPERATIONS_OMITTED;
use milena_wire::messages::api_versions::ApiVersionsRequest;
use milena_wire::messages::create_topics::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use milena_wire::messages::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use milena_wire::messages::describe_cluster::DescribeClusterRequest;
use milena_wire::messages::describe_configs::{DescribeConfigsRequest, DescribeConfigsResource};
use milena_wire::messages::describe_quorum::{
    DescribeQuorumNode, DescribeQuorumPartition, DescribeQuorumRequest, DescribeQuorumTopic,
};
use milena_wire::messages::describe_topic_partitions::{
    Cursor, DescribeTopicPartitionsRequest, TopicRequest,
};
use milena_wire::messages::find_coordinator::{FindCoordinatorRequest, FindCoordinatorResponse};
use milena_wire::messages::list_config_resources::ListConfigResourcesRequest;
use milena_wire::messages::metadata::{MetadataRequest, MetadataRequestTopic};
use milena_wire::{Request, Response};

use super::admin::{admin_request, admin_response};
use super::cluster::describe_cluster;
use super::config_resources::list_config_resources;
use super::configs::describe_configs;
use super::metadata::metadata;
use super::partitions::describe_topic_partitions;
use super::versions::{api_versions, find_coordinator};
use super::*;
use crate::Refusal;
use crate::controller::message::{AdminRequest, TopicReference, TopicSummary};
use crate::image::{Broker, Topic};
use crate::{BrokerEpoch, Incarnation, ReplicaIncarnation};

fn config() -> Config {
    Config {
        node: NodeId(2),
        controllers: vec![(NodeId(2), "localhost:1".into())],
        broker: true,
        controller: true,
        kafka: ("localhost".into(), 9092),
        peer: "localhost:1".into(),
        rack: None,
        shards: 1,
        storage: Default::default(),
        quorum: Default::default(),
        replication: Default::default(),
    }
}

/// Brokers 1 to 3, of which 3 is fenced; topics `a` with one partition and `b` with five, the last of which is offline.
fn image() -> Image {
    let mut image = Image { end: 9, cluster: 1, ..Image::default() };
    for node in 1..=3 {
        let broker = Broker {
            incarnation: Incarnation(node as u128),
            epoch: BrokerEpoch(node as i64),
            confirmed: Some(BrokerEpoch(node as i64)),
            fenced: node == 3,
            kafka: (format!("host{node}"), 9092),
            peer: format!("host{node}:7000"),
            rack: None,
        };
        image.brokers.insert(NodeId(node), broker);
    }
    for (name, byte, count) in [("a", 1, 1), ("b", 2, 5)] {
        let replicas: Vec<NodeId> = [1, 2, 3].map(NodeId).into();
        let led = |index| index < 4;
        let partition = |index| crate::image::Partition {
            incarnations: vec![ReplicaIncarnation(0); 3],
            isr: if led(index) { [1, 2].map(NodeId).into() } else { vec![] },
            elr: if led(index) { vec![] } else { vec![NodeId(3)] },
            leader: led(index).then_some(NodeId(1)),
            leader_epoch: 4,
            partition_epoch: 5,
            min_isr: 2,
            replicas: replicas.clone(),
        };
        let id = TopicId([byte; 16]);
        let configs = [("retention.ms".to_string(), "5".to_string())].into();
        let topic = Topic::new(id, name.into(), configs, (0..count).map(partition));
        image.names.insert(name.into(), id);
        image.topics.insert(id, Arc::new(topic));
    }
    image
}

fn ask_names(names: &[&str]) -> MetadataRequest {
    let topic =
        |name: &&str| MetadataRequestTopic { name: Some(name.to_string()), ..Default::default() };
    MetadataRequest { topics: Some(names.iter().map(topic).collect()), ..Default::default() }
}

#[test]
fn metadata_never_tells_of_no_broker_at_all() {
    let nodes = |image: &Image| -> Vec<i32> {
        let answer = metadata(image, &config(), &ask_names(&[]), 13);
        answer.brokers.iter().map(|broker| broker.node_id).collect()
    };
    let mut image = image();
    assert_eq!(nodes(&image), [1, 2]);
    image.brokers.values_mut().for_each(|broker| broker.fenced = true);
    assert_eq!(nodes(&image), [1, 2, 3]);
    assert_eq!(nodes(&Image::default()), [2]);
}

#[test]
fn metadata_tells_topics_by_name_by_identity_and_all() {
    let (image, config) = (image(), config());
    let answer = metadata(&image, &config, &ask_names(&["b", "c", "no!"]), 13);
    let errors: Vec<ErrorCode> = answer.topics.iter().map(|topic| topic.error_code).collect();
    let expected = [
        ErrorCode::NONE,
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode::INVALID_TOPIC_EXCEPTION,
    ];
    assert_eq!(errors, expected);
    let nodes: Vec<i32> = answer.brokers.iter().map(|broker| broker.node_id).collect();
    assert_eq!((nodes, answer.controller_id), (vec![1, 2], 2), "a fenced broker is not shown");
    assert_eq!(answer.cluster_id.as_deref(), Some("AAAAAAAAAAAAAAAAAAAAAQ"));
    let early = metadata(&Image::default(), &config, &ask_names(&["b"]), 13);
    assert_eq!(early.cluster_id, None, "none is better than another one than the next answer's");
    assert_eq!(early.topics[0].error_code, ErrorCode::LEADER_NOT_AVAILABLE);
    let first = &answer.topics[0].partitions[0];
    assert_eq!((first.leader_id, first.leader_epoch, &*first.offline_replicas), (1, 4, &[3][..]));
    let last = &answer.topics[0].partitions[4];
    assert_eq!((last.leader_id, last.error_code), (-1, ErrorCode::LEADER_NOT_AVAILABLE));

    let by_id = |byte| {
        let topic = MetadataRequestTopic { topic_id: Uuid([byte; 16]), name: None };
        let request = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
        metadata(&image, &config, &request, 12).topics.remove(0)
    };
    assert_eq!(by_id(1).name.as_deref(), Some("a"));
    assert_eq!((by_id(9).name, by_id(9).error_code), (None, ErrorCode::UNKNOWN_TOPIC_ID));

    let count = |topics, version| {
        let request = MetadataRequest { topics, ..Default::default() };
        metadata(&image, &config, &request, version).topics.len()
    };
    assert_eq!(count(None, 12), 2);
    assert_eq!(count(Some(vec![]), 12), 0);
    assert_eq!(count(Some(vec![]), 0), 2, "in version 0 an empty list is all");
}

#[test]
fn without_an_image_errors_are_retriable() {
    let (none, config) = (Image::default(), config());
    let answer = metadata(&none, &config, &ask_names(&["a"]), 9);
    assert_eq!(answer.topics[0].error_code, ErrorCode::LEADER_NOT_AVAILABLE);
    assert_eq!(answer.controller_id, -1);
    let topics = vec![TopicRequest { name: "a".into() }];
    let request = DescribeTopicPartitionsRequest { topics, ..Default::default() };
    let answer = describe_topic_partitions(&none, &request);
    assert_eq!(answer.topics[0].error_code, ErrorCode::LEADER_NOT_AVAILABLE);
}

#[test]
fn pages_of_partitions_join_without_gap_or_overlap() {
    let image = image();
    for limit in 1..=7 {
        let mut request = DescribeTopicPartitionsRequest {
            response_partition_limit: limit,
            ..Default::default()
        };
        let (mut seen, mut pages) = (Vec::new(), 0);
        loop {
            let answer = describe_topic_partitions(&image, &request);
            for topic in &answer.topics {
                let name = topic.name.clone().unwrap();
                seen.extend(topic.partitions.iter().map(|p| (name.clone(), p.partition_index)));
            }
            pages += 1;
            let Some(cursor) = answer.next_cursor else { break };
            request.cursor = Some(cursor);
        }
        let all = [("a", 0), ("b", 0), ("b", 1), ("b", 2), ("b", 3), ("b", 4)];
        assert_eq!(seen, all.map(|(name, index)| (name.to_string(), index)), "limit {limit}");
        assert_eq!(pages, 6i32.div_euclid(limit) + i32::from(6 % limit != 0), "limit {limit}");
    }
    let request = DescribeTopicPartitionsRequest::default();
    let answer = describe_topic_partitions(&image, &request);
    assert_eq!(answer.topics[1].partitions[4].eligible_leader_replicas, Some(vec![3]));
}

#[test]
fn clusters_are_described_from_brokers() {
    let (image, config) = (image(), config());
    let brokers = |include_fenced_brokers| {
        let request = DescribeClusterRequest { include_fenced_brokers, ..Default::default() };
        describe_cluster(&image, &config, &request).brokers.len()
    };
    assert_eq!((brokers(false), brokers(true)), (2, 3));
    let request = DescribeClusterRequest { endpoint_type: 2, ..Default::default() };
    let answer = describe_cluster(&image, &config, &request);
    assert_eq!(answer.error_code, ErrorCode::MISMATCHED_ENDPOINT_TYPE);
}

#[test]
fn configurations_say_where_they_come_from() {
    let (image, mut config) = (image(), config());
    // What this node was started with says nothing about topics that were made before.
    config.replication.min_insync_replicas = 3;
    let describe = |resource_type, name: &str, keys: Option<&[&str]>| {
        let resource = DescribeConfigsResource {
            resource_type,
            resource_name: name.into(),
            configuration_keys: keys.map(|keys| keys.iter().map(|k| k.to_string()).collect()),
        };
        let request = DescribeConfigsRequest {
            resources: vec![resource],
            include_synonyms: true,
            include_documentation: true,
        };
        describe_configs(&image, &config, &request).results.remove(0)
    };
    let own = describe(2, "a", Some(&["retention.ms"])).configs.remove(0);
    assert_eq!((own.value.as_deref(), own.config_source), (Some("5"), configs::SOURCE_TOPIC));
    assert_eq!(own.synonyms.len(), 2);
    assert_eq!(own.synonyms[1].value.as_deref(), Some("604800000"));
    let default = describe(2, "a", Some(&["min.insync.replicas"])).configs.remove(0);
    assert_eq!(
        (default.value.as_deref(), default.config_source),
        (Some("2"), configs::SOURCE_DEFAULT)
    );
    assert_eq!(default.synonyms[0].value.as_deref(), Some("2"));
    assert_eq!(describe(2, "a", None).configs.len(), TOPIC_CONFIGS.len());
    let all = describe(2, "a", Some(&[])).configs.len();
    assert_eq!(all, TOPIC_CONFIGS.len(), "an empty list names all");
    assert_eq!(describe(2, "x", None).error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert!(describe(4, "2", None).configs.iter().any(|config| config.name == "broker.id"));
    let of_broker = describe(4, "2", None).configs;
    assert!(of_broker.iter().all(|config| config.documentation.is_some()));
    assert_eq!(describe(4, "1", None).error_code, ErrorCode::INVALID_REQUEST);
    // What a broker logs, client metrics and groups: there is nothing to be set.
    for (resource_type, name) in [(8, "2"), (16, "x"), (32, "x")] {
        let described = describe(resource_type, name, None);
        assert_eq!((described.error_code, described.configs.len()), (ErrorCode::NONE, 0));
        assert_eq!(describe(resource_type, "", None).error_code, ErrorCode::INVALID_REQUEST);
    }
    assert_eq!(describe(8, "1", None).error_code, ErrorCode::INVALID_REQUEST);
}

#[test]
fn an_unknown_type_of_resource_spoils_the_request() {
    let resource = |resource_type| DescribeConfigsResource {
        resource_type,
        resource_name: "a".into(),
        configuration_keys: None,
    };
    let resources = vec![resource(2), resource(3), resource(3)];
    let request = DescribeConfigsRequest { resources, ..Default::default() };
    let results = describe_configs(&image(), &config(), &request).results;
    let told: Vec<_> = results.iter().map(|r| (r.resource_type, r.configs.len())).collect();
    assert_eq!(told, [(2, 0), (3, 0), (3, 0)]);
    assert!(results.iter().all(|result| result.error_code == ErrorCode::INVALID_REQUEST));
}

/// With an error that is to be tried again, clients do so, for ever.
#[test]
fn a_client_that_looks_for_a_coordinator_stops() {
    let ask = |key_type, version| {
        let coordinator_keys = vec!["g".into(), "h".into()];
        let request = FindCoordinatorRequest { key_type, coordinator_keys, ..Default::default() };
        let FindCoordinatorResponse { error_code, coordinators, .. } =
            find_coordinator(&request, version);
        match version {
            ..4 => vec![error_code],
            _ => coordinators.iter().map(|one| one.error_code).collect(),
        }
    };
    let (stop, wrong) = (ErrorCode::UNSUPPORTED_VERSION, ErrorCode::INVALID_REQUEST);
    for (key_type, code) in [(0, stop), (1, stop), (2, wrong), (-1, wrong)] {
        assert_eq!(ask(key_type, 3), [code]);
        assert_eq!(ask(key_type, 6), [code, code]);
    }
}

#[test]
fn produce_is_advertised_from_version_0() {
    let answer = api_versions(&image(), &config(), &ApiVersionsRequest::default(), 0);
    let produce = answer.api_keys.iter().find(|api| api.api_key == 0).unwrap();
    assert_eq!(produce.min_version, 0);
}

#[test]
fn api_versions_says_who_is_meant() {
    let here = crate::cluster_id(1).to_string();
    let ask = |name: &str, cluster: Option<&str>, node_id| {
        let request = ApiVersionsRequest {
            client_software_name: name.into(),
            client_software_version: "1.0".into(),
            cluster_id: cluster.map(String::from),
            node_id,
        };
        let answer = api_versions(&image(), &config(), &request, 5);
        assert_eq!(answer.api_keys.is_empty(), answer.error_code != ErrorCode::NONE);
        answer.error_code
    };
    assert_eq!(ask("client", None, -1), ErrorCode::NONE);
    assert_eq!(ask("client", Some(&here), 2), ErrorCode::NONE);
    for (cluster, node) in [(&*here, 1), ("another", 2), ("", -5)] {
        assert_eq!(ask("client", Some(cluster), node), ErrorCode::REBOOTSTRAP_REQUIRED);
    }
    for (cluster, node) in [(None, 2), (Some(&*here), -1)] {
        assert_eq!(ask("client", cluster, node), ErrorCode::INVALID_REQUEST);
    }
    for name in ["", "-x", "x.", "a b", "\u{e9}"] {
        assert_eq!(ask(name, None, -1), ErrorCode::INVALID_REQUEST, "{name:?}");
    }
}

#[test]
fn an_identity_goes_before_a_name() {
    let image = image();
    let (a, others) = (TopicId([1; 16]), Uuid([9; 16]));
    let both = |name: &str, topic_id| MetadataRequestTopic { name: Some(name.into()), topic_id };
    let topics = vec![both("z", Uuid(a.0)), both("a", others), both("a", Uuid::ZERO)];
    let request = MetadataRequest { topics: Some(topics), ..Default::default() };
    let answer = metadata(&image, &config(), &request, 12);
    let told: Vec<_> = answer.topics.iter().map(|t| (t.error_code, t.name.as_deref())).collect();
    assert_eq!(told, [(ErrorCode::NONE, Some("a")), (ErrorCode::UNKNOWN_TOPIC_ID, None)]);
    assert_eq!(answer.topics[1].topic_id, others);
}

#[test]
fn topics_to_delete_that_contradict_each_other_all_stay() {
    let state = |name: Option<&str>, id: u8| DeleteTopicState {
        name: name.map(String::from),
        topic_id: Uuid([id; 16]),
    };
    let topics = vec![
        state(Some("z"), 1),
        state(None, 0),
        state(Some("twice"), 0),
        state(Some("y"), 0),
        state(Some("twice"), 0),
    ];
    let request = Request::DeleteTopics(DeleteTopicsRequest { topics, ..Default::default() });
    let (admin, _) = admin_request(&request, &mut TopicId::default).unwrap();
    let sound = vec![TopicReference::Name("y".into())];
    assert_eq!(admin, AdminRequest::DeleteTopics { topics: sound });
    let unknown = Err(Refusal::new(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, "none"));
    let Response::DeleteTopics(response) = admin_response(&config(), &request, vec![unknown])
    else {
        panic!("another response");
    };
    let codes: Vec<_> = response.responses.iter().map(|topic| topic.error_code).collect();
    let (wrong, none) = (ErrorCode::INVALID_REQUEST, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(codes, [wrong, wrong, wrong, none], "what is there twice is answered once");
}

/// All that were refused for being there twice come from the controller, which sees them as they are.
#[test]
fn a_topic_to_make_that_is_named_twice_is_answered_once() {
    let topic = |name: &str| CreatableTopic { name: name.into(), ..Default::default() };
    let topics = vec![topic("x"), topic("y"), topic("x")];
    let request = Request::CreateTopics(CreateTopicsRequest { topics, ..Default::default() });
    let twice = || Err(Refusal::new(ErrorCode::INVALID_REQUEST, "twice"));
    let none = Err(Refusal::new(ErrorCode::INVALID_PARTITIONS, "none"));
    let Response::CreateTopics(response) =
        admin_response(&config(), &request, vec![twice(), none, twice()])
    else {
        panic!("another response");
    };
    let told: Vec<_> = response.topics.iter().map(|t| (&*t.name, t.error_code)).collect();
    assert_eq!(told, [("x", ErrorCode::INVALID_REQUEST), ("y", ErrorCode::INVALID_PARTITIONS)]);
}

/// Before version 12 there is room for an identity and for no name, and neither may be used.
#[test]
fn a_topic_that_is_named_in_no_way_of_its_version_spoils_the_request() {
    let named = |name: Option<&str>, id| MetadataRequestTopic {
        name: name.map(String::from),
        topic_id: Uuid([id; 16]),
    };
    let ask = |other, version| {
        let topics = Some(vec![named(Some("a"), 0), other]);
        let request = MetadataRequest { topics, ..Default::default() };
        metadata(&image(), &config(), &request, version)
    };
    for (other, version) in [(named(None, 0), 11), (named(Some("b"), 2), 10), (named(None, 0), 12)]
    {
        let answer = ask(other, version);
        let codes: Vec<_> = answer.topics.iter().map(|topic| topic.error_code).collect();
        assert_eq!(codes, [ErrorCode::INVALID_REQUEST; 2]);
        assert_eq!(answer.error_code, ErrorCode::INVALID_REQUEST);
        assert_eq!((answer.brokers.len(), answer.cluster_id), (0, None));
    }
    assert_eq!(ask(named(None, 2), 12).error_code, ErrorCode::NONE);
}

#[test]
fn a_name_that_no_topic_has_may_be_used_like_any_other() {
    let operations = |topics, version| -> Vec<i32> {
        let topics = Some(topics);
        let include_topic_authorized_operations = true;
        let request =
            MetadataRequest { topics, include_topic_authorized_operations, ..Default::default() };
        let answer = metadata(&image(), &config(), &request, version);
        answer.topics.iter().map(|topic| topic.topic_authorized_operations).collect()
    };
    let name = |name: &str| MetadataRequestTopic { name: Some(name.into()), ..Default::default() };
    assert_eq!(operations(vec![name("a"), name("z"), name("..")], 8), [TOPIC_OPERATIONS; 3]);
    let id = MetadataRequestTopic { name: None, topic_id: Uuid([9; 16]) };
    assert_eq!(operations(vec![id], 12), [AUTHORIZED_OPERATIONS_OMITTED]);
}

#[test]
fn what_is_asked_for_twice_is_told_once() {
    let topic = |name: &str| MetadataRequestTopic { name: Some(name.into()), ..Default::default() };
    let topics = Some(vec![topic("b"), topic("a"), topic("b"), topic("z"), topic("z")]);
    let request = MetadataRequest { topics, ..Default::default() };
    let answer = metadata(&image(), &config(), &request, 9);
    let told: Vec<_> = answer.topics.iter().filter_map(|topic| topic.name.as_deref()).collect();
    assert_eq!(told, ["b", "a", "z"]);

    let resource = |resource_type, name: &str| DescribeConfigsResource {
        resource_type,
        resource_name: name.into(),
        configuration_keys: None,
    };
    let mut resources =
        vec![resource(2, "a"), resource(4, "2"), resource(2, "a"), resource(4, "2")];
    resources.push(DescribeConfigsResource {
        configuration_keys: Some(vec!["retention.ms".into()]),
        ..resource(2, "a")
    });
    let request = DescribeConfigsRequest { resources, ..Default::default() };
    let answer = describe_configs(&image(), &config(), &request);
    let told: Vec<_> =
        answer.results.iter().map(|r| (r.resource_type, &*r.resource_name)).collect();
    assert_eq!(told, [(2, "a"), (4, "2"), (2, "a")], "other keys are another question");
}

/// What a client sends can be as long as a string on the wire; a sentence that quotes it may not be.
#[test]
fn a_refusal_does_not_repeat_all_that_was_sent() {
    let long = "ä".repeat(16_383);
    for resource_type in [2, 4] {
        let resource = DescribeConfigsResource {
            resource_type,
            resource_name: long.clone(),
            configuration_keys: None,
        };
        let request = DescribeConfigsRequest {
            resources: vec![resource],
            ..DescribeConfigsRequest::default()
        };
        let answer = describe_configs(&image(), &config(), &request).results.remove(0);
        assert!(answer.error_message.unwrap().len() < 1_000);
        assert_eq!(answer.resource_name, long);
    }
    for (name, value) in [(&*long, "1"), ("retention.ms", &*long)] {
        let asked = [(name.to_string(), Some(value.to_string()))];
        let refused = crate::image::settings::check_topic_configs(&asked).unwrap_err();
        assert!(refused.message.len() < 1_000);
    }
}

#[test]
fn topics_to_make_go_to_the_controller_and_come_back() {
    let config = config();
    let mut request = CreateTopicsRequest {
        topics: vec![
            CreatableTopic {
                name: "x".into(),
                num_partitions: -1,
                replication_factor: 3,
                configs: vec![CreatableTopicConfig { name: "k".into(), value: Some("v".into()) }],
                ..Default::default()
            },
            CreatableTopic {
                name: "y".into(),
                num_partitions: -1,
                replication_factor: -1,
                assignments: vec![CreatableReplicaAssignment {
                    partition_index: 0,
                    broker_ids: vec![3, 1],
                }],
                ..Default::default()
            },
        ],
        timeout_ms: 10,
        validate_only: true,
    };
    let mut drawn = 0;
    let mut draw = || {
        drawn += 1;
        TopicId([drawn; 16])
    };
    let translated = admin_request(&request.clone().into(), &mut draw);
    let (AdminRequest::CreateTopics { topics, validate_only: true }, 1_000) = translated.unwrap()
    else {
        panic!("another request");
    };
    assert_eq!((topics[0].partitions, topics[0].replication_factor), (None, Some(3)));
    assert_eq!(topics[1].assignments, [(0, vec![NodeId(3), NodeId(1)])]);
    assert_eq!((topics[0].id, topics[1].id), (TopicId([1; 16]), TopicId([2; 16])));

    request.topics.truncate(2);
    let summary = TopicSummary {
        id: TopicId([1; 16]),
        name: "x".into(),
        partitions: 1,
        replication_factor: 3,
        min_isr: 2,
        configs: Default::default(),
    };
    let refusal = Refusal::new(ErrorCode::INVALID_CONFIG, "k is not supported");
    let Response::CreateTopics(response) =
        admin_response(&config, &request.into(), vec![Ok(summary), Err(refusal)])
    else {
        panic!("another response");
    };
    assert_eq!((&*response.topics[0].name, response.topics[0].replication_factor), ("x", 3));
    assert_eq!(response.topics[1].error_code, ErrorCode::INVALID_CONFIG);
    assert_eq!(response.topics[1].error_message.as_deref(), Some("k is not supported"));
}

#[test]
fn the_controller_decides_which_topic_has_a_name() {
    let by_id = DeleteTopicState { name: None, topic_id: Uuid([8; 16]) };
    let by_name = DeleteTopicState { name: Some("a".into()), ..Default::default() };
    let request = DeleteTopicsRequest { topics: vec![by_id, by_name], ..Default::default() };
    let request = Request::DeleteTopics(request);
    let (admin, _) = admin_request(&request, &mut TopicId::default).unwrap();
    let topics = vec![TopicReference::Id(TopicId([8; 16])), TopicReference::Name("a".into())];
    assert_eq!(admin, AdminRequest::DeleteTopics { topics });
}

#[test]
fn a_voter_whose_address_is_not_known_is_there_all_the_same() {
    let voters = [2, 7].map(|node| (NodeId(node), Incarnation(1))).into();
    let answer = describe_quorum(&config(), &voters, &Default::default(), None);
    let shown = |node: &DescribeQuorumNode| (node.node_id, node.listeners.len());
    assert_eq!(answer.nodes.iter().map(shown).collect::<Vec<_>>(), [(2, 1), (7, 0)]);
}

#[test]
fn the_quorum_is_described_to_whoever_asks_for_nothing_else() {
    let description = crate::quorum::QuorumDescription {
        leader: NodeId(2),
        term: 4,
        commit: 7,
        end: 7,
        voters: vec![],
        observers: vec![],
    };
    let topic = |name: &str, partitions: &[i32]| DescribeQuorumTopic {
        topic_name: name.into(),
        partitions: partitions
            .iter()
            .map(|&partition_index| DescribeQuorumPartition { partition_index })
            .collect(),
    };
    let ask = |topics: Vec<DescribeQuorumTopic>| {
        let request = DescribeQuorumRequest { topics };
        describe_quorum(&config(), &Default::default(), &request, Some(&description))
    };
    let metadata = "__cluster_metadata";
    let answer = ask(vec![topic(metadata, &[0])]);
    assert_eq!((answer.topics[0].partitions[0].leader_id, answer.nodes.len()), (2, 1));
    for topics in [
        vec![topic(metadata, &[0, 1])],
        vec![topic(metadata, &[0]), topic("a", &[0])],
        vec![topic("a", &[0])],
    ] {
        let answer = ask(topics);
        assert!(answer.nodes.is_empty());
        let mut partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
        assert!(partitions.all(|p| p.error_code == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    }
}

#[test]
fn a_cursor_that_no_page_has_given_is_refused() {
    let ask = |topics: &[&str], topic_name: &str, partition_index| {
        let topics =
            topics.iter().map(|name| TopicRequest { name: (*name).into() }).collect::<Vec<_>>();
        let cursor = Some(Cursor { topic_name: topic_name.into(), partition_index });
        let request = DescribeTopicPartitionsRequest { topics, cursor, ..Default::default() };
        let answer = describe_topic_partitions(&image(), &request);
        answer.topics.iter().map(|topic| topic.error_code).collect::<Vec<_>>()
    };
    assert_eq!(ask(&["a", "b"], "b", 0), [ErrorCode::NONE]);
    assert_eq!(ask(&[], "b", 0), [ErrorCode::NONE]);
    assert_eq!(ask(&["a"], "b", 0), [ErrorCode::INVALID_REQUEST]);
    assert_eq!(ask(&["a", "b", "a"], "b", -1), [ErrorCode::INVALID_REQUEST; 3]);
    assert_eq!(ask(&[], "b", -1), []);
}

#[test]
fn resources_with_configurations_are_listed_by_type() {
    let image = image();
    let ask = |resource_types: &[i8], version| {
        let request = ListConfigResourcesRequest { resource_types: resource_types.to_vec() };
        let answer = list_config_resources(&image, &request, version);
        let all = answer.config_resources.into_iter();
        let named: Vec<_> = all.map(|one| (one.resource_type, one.resource_name)).collect();
        (answer.error_code, named)
    };
    let topics: Vec<_> = image.names.keys().map(|name| (2, name.clone())).collect();
    let brokers = |kind| ["1", "2", "3"].map(|node: &str| (kind, node.to_owned())).to_vec();
    let none = ErrorCode::NONE;
    assert_eq!(ask(&[2, 2], 1), (none, topics.clone()));
    assert_eq!(ask(&[4], 1), (none, brokers(4)), "those out of service too");
    assert_eq!(ask(&[16, 32], 1), (none, vec![]));
    assert_eq!(ask(&[], 1), (none, [topics, brokers(4), brokers(8)].concat()));
    assert_eq!(ask(&[2, 1], 1), (ErrorCode::UNSUPPORTED_VERSION, vec![]));
    assert_eq!(ask(&[], 0), (none, vec![]), "nobody subscribes to clients' metrics");
}
