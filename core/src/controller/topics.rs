//! Topics are made, grow, and are deleted.

use std::collections::{BTreeMap, BTreeSet};

use milena_wire::ErrorCode;
use milena_wire::messages::describe_quorum::METADATA_TOPIC;

use super::admin::Topics;
use super::message::{NewPartitions, NewTopic, TopicReference, TopicSummary};
use super::partition_change::assert_sane;
use crate::image::settings::{TopicSettings, check_topic_configs};
use crate::image::{Image, Partition, Record, Topic};
use crate::{Config, LogId, NodeId, Offset, Refusal, ReplicaIncarnation};

/// Longest name of a topic, bytes.
const NAME_BYTES_MAX: usize = 249;
/// Partitions of a topic whose creator did not say how many (`num.partitions`).
const PARTITIONS_DEFAULT: i32 = 1;
/// Replicas of a topic whose creator did not say how many, where there are so many brokers.
const REPLICATION_FACTOR_DEFAULT: usize = 3;

/// Whether topics are to be placed on more brokers than are in service, while others are known of that may come: those that
/// were registered once, and the controllers of a configuration where controllers are brokers.
pub(super) fn awaits_brokers(image: &Image, config: &Config, topics: &[NewTopic]) -> bool {
    let in_service = image.brokers.values().filter(|broker| !broker.fenced).count();
    let listed = if config.broker { config.controllers.len() } else { 0 };
    let known = image.brokers.len().max(listed);
    let is_short = |topic: &NewTopic| {
        let asked = topic.replication_factor.map(|factor| usize::try_from(factor).unwrap_or(0));
        in_service < asked.unwrap_or(REPLICATION_FACTOR_DEFAULT).min(known)
    };
    topics.iter().any(|topic| topic.assignments.is_empty() && is_short(topic))
}

/// Makes topics, one after the other on the draft. A name that is there twice is refused, and so is what goes past the
/// partitions that one request may make.
pub(super) fn create_topics(
    draft: &mut Image,
    config: &Config,
    offset: Offset,
    asked: &[NewTopic],
    placement: &mut usize,
    stopping: impl Fn(NodeId) -> bool,
) -> (Vec<Record>, Topics) {
    let mut left = config.replication.partitions_max as usize;
    let mut named: BTreeMap<&str, usize> = BTreeMap::new();
    for topic in asked {
        *named.entry(&topic.name).or_default() += 1;
    }
    let mut all = Vec::new();
    let mut create = |topic: &NewTopic| {
        if named[&*topic.name] > 1 {
            let message = "the request names this topic twice";
            return Err(Refusal::new(ErrorCode::INVALID_REQUEST, message));
        }
        if topic.partitions.unwrap_or(1).max(1) as usize > left {
            // Not even planned: a request names as many topics as fit in it.
            return Err(beyond(config));
        }
        let (records, made) = create_topic(draft, config, topic, *placement, &stopping)?;
        left = left.saturating_sub(made.partitions.max(1) as usize);
        *placement = placement.wrapping_add(1);
        draft.draft(offset, &records);
        all.extend(records);
        Ok(made)
    };
    let topics = asked.iter().map(&mut create).collect();
    (all, topics)
}

/// Gives topics more partitions, one after the other on the draft; a topic that is named twice gets none.
pub(super) fn create_partitions(
    draft: &mut Image,
    config: &Config,
    offset: Offset,
    asked: &[NewPartitions],
    placement: &mut usize,
    stopping: impl Fn(NodeId) -> bool,
) -> (Vec<Record>, Topics) {
    let mut left = config.replication.partitions_max as usize;
    let mut named: BTreeMap<&str, usize> = BTreeMap::new();
    for new in asked {
        *named.entry(&new.topic).or_default() += 1;
    }
    let mut all = Vec::new();
    let mut grow = |new: &NewPartitions| {
        if named[&*new.topic] > 1 {
            let message = "the request names this topic twice";
            return Err(Refusal::new(ErrorCode::INVALID_REQUEST, message));
        }
        let records = grow_topic(draft, config, new, (*placement, left), &stopping)?;
        left -= records.len();
        *placement = placement.wrapping_add(records.len());
        draft.draft(offset, &records);
        all.extend(records);
        Ok(TopicSummary::from(&**draft.topic(&new.topic).expect("it has just grown")))
    };
    let topics = asked.iter().map(&mut grow).collect();
    (all, topics)
}

/// Whether new partitions are to be placed on more brokers than are in service.
pub(super) fn lacks_brokers(image: &Image, new: &NewPartitions) -> bool {
    let in_service = image.brokers.values().filter(|broker| !broker.fenced).count();
    let topic = image.topic(&new.topic).filter(|_| new.assignments.is_none());
    let factor = topic.map(|topic| topic.replication_factor());
    factor.is_some_and(|factor| factor > in_service)
}

/// The records of a topic's new partitions, as many as `left` at most. They have as many replicas as its first has.
fn grow_topic(
    image: &Image,
    config: &Config,
    new: &NewPartitions,
    (start, left): (usize, usize),
    stopping: impl Fn(NodeId) -> bool,
) -> Result<Vec<Record>, Refusal> {
    let stays = |node: NodeId| image.unfenced(node) && !stopping(node);
    let invalid = |message: String| Err(Refusal::new(ErrorCode::INVALID_PARTITIONS, message));
    let Some(topic) = image.topic(&new.topic) else {
        let message = "there is no such topic";
        return Err(Refusal::new(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, message));
    };
    let had = topic.partitions.len();
    let count = match usize::try_from(new.count) {
        Ok(count) if count > had => count,
        _ => {
            let (name, count) = (&new.topic, new.count);
            return invalid(format!("topic {name} has {had} partitions, and {count} are no more"));
        }
    };
    if count - had > left || count > config.replication.partitions_max as usize {
        return Err(beyond(config));
    }
    let factor = topic.replication_factor();
    let assignments = match &new.assignments {
        Some(chosen) if chosen.len() != count - had => {
            let (more, given) = (count - had, chosen.len());
            let message = format!("{more} more partitions, and replicas chosen for {given}");
            return Err(Refusal::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, message));
        }
        Some(chosen) => {
            for (index, replicas) in (had..).zip(chosen) {
                check_replicas(image, index as i32, replicas, factor)?;
            }
            chosen.clone()
        }
        None => {
            let brokers = by_turns_of_racks(image, stays);
            if brokers.len() < factor {
                let message =
                    format!("{factor} replicas each with {} brokers in service", brokers.len());
                return Err(Refusal::new(ErrorCode::INVALID_REPLICATION_FACTOR, message));
            }
            let place = |index| place_replicas(&brokers, factor, start.wrapping_add(index), index);
            (had..count).map(place).collect()
        }
    };
    let min_isr = TopicSettings::new(&topic.configs, config).min_insync_replicas;
    let partition = |(index, replicas)| Record::Partition {
        log: LogId { topic: topic.id, partition: index },
        partition: new_partition(image, replicas, min_isr, stays),
    };
    Ok((had as i32..).zip(assignments).map(partition).collect())
}

/// For what goes past the partitions that one request may make.
fn beyond(config: &Config) -> Refusal {
    let most = config.replication.partitions_max;
    let message = format!("a request makes at most {most} partitions, and a topic has no more");
    Refusal::new(ErrorCode::POLICY_VIOLATION, message)
}

/// Deletes topics. All are read before any goes: a name and an identity may mean the same topic.
pub(super) fn delete_topics(
    draft: &mut Image,
    offset: Offset,
    asked: &[TopicReference],
) -> (Vec<Record>, Topics) {
    let ambiguous = named_twice(draft, asked);
    let mut all = Vec::new();
    let mut delete = |(topic, ambiguous): (&TopicReference, Option<Refusal>)| {
        let (record, gone) = match ambiguous {
            Some(refusal) => return Err(refusal),
            None => delete_topic(draft, topic)?,
        };
        draft.draft(offset, std::slice::from_ref(&record));
        all.push(record);
        Ok(gone)
    };
    let topics = asked.iter().zip(ambiguous).map(&mut delete).collect();
    (all, topics)
}

/// The records that make a topic, and what it will be. `start` rotates from one topic to the next, so that not all first
/// partitions are led by the same broker. A topic of the same identity is there already: no records. Who is `stopping` gets no
/// replica unless the client names it, and then not in sync.
///
/// # Errors
///
/// By Kafka's codes for CreateTopics.
pub(super) fn create_topic(
    image: &Image,
    config: &Config,
    topic: &NewTopic,
    start: usize,
    stopping: impl Fn(NodeId) -> bool,
) -> Result<(Vec<Record>, TopicSummary), Refusal> {
    let stays = |node: NodeId| image.unfenced(node) && !stopping(node);
    if let Some(made) = image.topics.get(&topic.id).filter(|made| made.name == topic.name) {
        return Ok((Vec::new(), TopicSummary::from(&**made)));
    }
    check_name(image, &topic.name)?;
    let configs = check_topic_configs(&topic.configs)?;
    let assignments = if topic.assignments.is_empty() {
        place_partitions(image, config, topic, start, stays)?
    } else {
        check_assignments(image, config, topic)?
    };
    let settings = TopicSettings::new(&configs, config);
    let partition = |replicas| new_partition(image, replicas, settings.min_insync_replicas, stays);
    let partitions: Vec<Partition> = assignments.into_iter().map(partition).collect();
    let (id, name) = (topic.id, topic.name.clone());
    let summary = TopicSummary {
        id,
        name: name.clone(),
        partitions: partitions.len() as i32,
        replication_factor: partitions.first().map_or(0, |p| p.replicas.len()) as i16,
        min_isr: partitions.iter().map(|p| p.min_isr).max().unwrap_or(0),
        configs: configs.clone(),
    };
    let mut records = vec![Record::Topic { id, name, configs }];
    records.extend((0..).zip(partitions).map(|(index, partition)| Record::Partition {
        log: LogId { topic: id, partition: index },
        partition,
    }));
    Ok((records, summary))
}

/// Of each topic that is to be deleted, why not, where another of the same request means the same one.
pub(super) fn named_twice(image: &Image, asked: &[TopicReference]) -> Vec<Option<Refusal>> {
    let meant = |topic: &TopicReference| match topic {
        TopicReference::Name(name) => image.names.get(name).copied(),
        TopicReference::Id(id) => Some(*id),
    };
    let mut times = BTreeMap::new();
    for id in asked.iter().filter_map(meant) {
        *times.entry(id).or_insert(0) += 1;
    }
    let twice = |topic: &TopicReference| meant(topic).is_some_and(|id| times[&id] > 1);
    let refusal = || Refusal::new(ErrorCode::INVALID_REQUEST, "a topic is named twice");
    asked.iter().map(|topic| twice(topic).then(refusal)).collect()
}

/// The record that deletes a topic, and what it was.
///
/// # Errors
///
/// Where there is no such topic.
pub(super) fn delete_topic(
    image: &Image,
    topic: &TopicReference,
) -> Result<(Record, TopicSummary), Refusal> {
    let (found, code) = match topic {
        TopicReference::Name(name) => (image.topic(name), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        TopicReference::Id(id) => (image.topics.get(id), ErrorCode::UNKNOWN_TOPIC_ID),
    };
    match found {
        Some(topic) => Ok((Record::RemoveTopic { id: topic.id }, TopicSummary::from(&**topic))),
        None => Err(Refusal::new(code, "there is no such topic")),
    }
}

impl From<&Topic> for TopicSummary {
    fn from(topic: &Topic) -> TopicSummary {
        TopicSummary {
            id: topic.id,
            name: topic.name.clone(),
            partitions: topic.partitions.len() as i32,
            replication_factor: topic.replication_factor() as i16,
            min_isr: topic.min_isr(),
            configs: topic.configs.clone(),
        }
    }
}

/// Whether Kafka lets a topic have this name.
pub fn is_topic_name(name: &str) -> bool {
    let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(legal)
}

/// Kafka's rules for new names, one of which is that `.` and `_` are the same to its metrics.
fn check_name(image: &Image, name: &str) -> Result<(), Refusal> {
    let invalid = |message: String| Err(Refusal::new(ErrorCode::INVALID_TOPIC_EXCEPTION, message));
    if !is_topic_name(name) {
        return invalid(format!(
            "a name is not . or .. and has 1 to {NAME_BYTES_MAX} letters, digits, '.', '_' and '-'"
        ));
    }
    if name == METADATA_TOPIC {
        return invalid(format!("{METADATA_TOPIC} is the cluster's own"));
    }
    if image.names.contains_key(name) {
        let message = format!("topic {name} exists");
        return Err(Refusal::new(ErrorCode::TOPIC_ALREADY_EXISTS, message));
    }
    let alike = |c: u8| if c == b'.' { b'_' } else { c };
    let same = |other: &&String| {
        other.len() == name.len() && other.bytes().map(alike).eq(name.bytes().map(alike))
    };
    if name.contains(['.', '_'])
        && let Some(other) = image.names.keys().find(same)
    {
        return invalid(format!("{name} and {other} differ only in '.' and '_'"));
    }
    Ok(())
}

/// Replicas of each partition, spread over the brokers that stay and, where they have racks, over racks.
fn place_partitions(
    image: &Image,
    config: &Config,
    topic: &NewTopic,
    start: usize,
    stays: impl Fn(NodeId) -> bool,
) -> Result<Vec<Vec<NodeId>>, Refusal> {
    let brokers = by_turns_of_racks(image, stays);
    let factor_refused =
        |message: String| Err(Refusal::new(ErrorCode::INVALID_REPLICATION_FACTOR, message));
    // As in Kafka, this comes before the number of partitions, and how many brokers there are after it.
    if topic.replication_factor.is_some_and(|factor| factor < 1) {
        return factor_refused("the replication factor is at least 1".into());
    }
    let partitions = topic.partitions.unwrap_or(PARTITIONS_DEFAULT);
    let Some(partitions) = usize::try_from(partitions).ok().filter(|partitions| *partitions > 0)
    else {
        let message = format!("a topic has at least one partition, not {partitions}");
        return Err(Refusal::new(ErrorCode::INVALID_PARTITIONS, message));
    };
    if partitions > config.replication.partitions_max as usize {
        return Err(beyond(config));
    }
    let default = REPLICATION_FACTOR_DEFAULT.min(brokers.len()) as i16;
    let asked = topic.replication_factor.unwrap_or(default);
    let Some(factor) =
        usize::try_from(asked).ok().filter(|factor| (1..=brokers.len()).contains(factor))
    else {
        let count = brokers.len();
        return factor_refused(format!(
            "a replication factor of {asked} with {count} brokers in service"
        ));
    };
    let place = |index| place_replicas(&brokers, factor, start.wrapping_add(index), index);
    Ok((0..partitions).map(place).collect())
}

/// The brokers that stay with their racks: one of each rack, then a second of each, and so on.
fn by_turns_of_racks(image: &Image, stays: impl Fn(NodeId) -> bool) -> Vec<(NodeId, Option<&str>)> {
    let mut racks: BTreeMap<Option<&str>, Vec<NodeId>> = BTreeMap::new();
    for (node, broker) in image.brokers.iter().filter(|(node, _)| stays(**node)) {
        racks.entry(broker.rack.as_deref()).or_default().push(*node);
    }
    let longest = racks.values().map(Vec::len).max().unwrap_or(0);
    (0..longest)
        .flat_map(|turn| {
            racks.iter().filter_map(move |(rack, nodes)| Some((*nodes.get(turn)?, *rack)))
        })
        .collect()
}

/// The replicas of one partition: the preferred leader is the `first`-th broker, the followers come after a gap that
/// widens with each round, so that the followers of one broker's partitions are spread too. Racks that have none yet come
/// before others.
fn place_replicas(
    brokers: &[(NodeId, Option<&str>)],
    factor: usize,
    first: usize,
    index: usize,
) -> Vec<NodeId> {
    let count = brokers.len();
    let (leader, rack) = brokers[first % count];
    let mut replicas = vec![leader];
    let mut used = BTreeSet::from([rack]);
    let gap = index / count;
    let others: Vec<_> = (0..count - 1)
        .map(|turn| brokers[(first % count + 1 + (gap + turn) % (count - 1)) % count])
        .collect();
    for (node, rack) in &others {
        if replicas.len() < factor && used.insert(*rack) {
            replicas.push(*node);
        }
    }
    for (node, _) in &others {
        if replicas.len() < factor && !replicas.contains(node) {
            replicas.push(*node);
        }
    }
    replicas
}

/// The client's own choice of replicas, by index.
fn check_assignments(
    image: &Image,
    config: &Config,
    topic: &NewTopic,
) -> Result<Vec<Vec<NodeId>>, Refusal> {
    let invalid =
        |message: String| Err(Refusal::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, message));
    if topic.partitions.is_some() || topic.replication_factor.is_some() {
        let message = "replicas are chosen, so that their numbers cannot be given as well";
        return Err(Refusal::new(ErrorCode::INVALID_REQUEST, message));
    }
    if topic.assignments.len() > config.replication.partitions_max as usize {
        let message = format!("at most {} partitions", config.replication.partitions_max);
        return Err(Refusal::new(ErrorCode::INVALID_PARTITIONS, message));
    }
    let by_index: BTreeMap<i32, &Vec<NodeId>> =
        topic.assignments.iter().map(|(index, replicas)| (*index, replicas)).collect();
    if by_index.len() != topic.assignments.len()
        || !by_index.keys().copied().eq(0..by_index.len() as i32)
    {
        return invalid("partitions are numbered from 0 without gaps, each once".into());
    }
    let factor = by_index.values().next().map_or(0, |replicas| replicas.len());
    for (index, replicas) in &by_index {
        check_replicas(image, *index, replicas, factor)?;
    }
    Ok(by_index.into_values().cloned().collect())
}

/// The client's own choice of one partition's replicas, of which there are to be so many.
fn check_replicas(
    image: &Image,
    index: i32,
    replicas: &[NodeId],
    factor: usize,
) -> Result<(), Refusal> {
    let invalid =
        |message: String| Err(Refusal::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, message));
    let distinct: BTreeSet<_> = replicas.iter().collect();
    if replicas.is_empty() || distinct.len() != replicas.len() {
        return invalid(format!("partition {index} needs replicas on different brokers"));
    }
    if replicas.len() != factor {
        return invalid("all partitions have the same number of replicas".into());
    }
    if let Some(node) = replicas.iter().find(|node| !image.brokers.contains_key(node)) {
        return invalid(format!("broker {node} is not registered"));
    }
    if !replicas.iter().any(|node| image.unfenced(*node)) {
        return invalid(format!("no broker of partition {index} is in service"));
    }
    Ok(())
}

/// A partition without a record: everyone who stays is in sync, or where nobody does, everyone in service.
fn new_partition(
    image: &Image,
    replicas: Vec<NodeId>,
    min_insync_replicas: u16,
    stays: impl Fn(NodeId) -> bool,
) -> Partition {
    let mut isr: Vec<NodeId> = replicas.iter().copied().filter(|node| stays(*node)).collect();
    if isr.is_empty() {
        isr = replicas.iter().copied().filter(|node| image.unfenced(*node)).collect();
    }
    let leader = isr.first().copied();
    isr.sort_unstable();
    let partition = Partition {
        incarnations: vec![ReplicaIncarnation(0); replicas.len()],
        min_isr: min_insync_replicas.clamp(1, replicas.len() as u16),
        replicas,
        isr,
        elr: Vec::new(),
        leader,
        leader_epoch: 0,
        partition_epoch: 0,
    };
    let before = Partition { leader_epoch: -1, partition_epoch: -1, ..partition.clone() };
    assert_sane(&before, &partition, &|node| image.unfenced(node));
    partition
}
