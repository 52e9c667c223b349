//! The image: everything the committed metadata log says, immutable once shown.
//!
//! Each broker and controller has its own, made by applying the same records in the same order; `hash` chains over them, so
//! that two images at one offset are equal or the simulator says so.
//!
//! Its large maps are persistent trees: a copy costs nothing and shares all that is not changed after it. So the controller
//! decides on a copy of its own, each shard keeps the image that it has seen, and two images are compared in the time that
//! their difference takes ([`Image::changes_since`]), however many partitions the cluster has.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use serde::{Deserialize, Serialize};

use crate::{BrokerEpoch, Epoch, Incarnation, LogId, NodeId, Offset, ReplicaIncarnation, TopicId};

mod producer_ids;
mod record;
pub mod settings;

pub use producer_ids::ProducerIds;
pub use record::{DecodeError, Record, decode_records, encode_records};

/// The metadata at one offset of its log.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Image {
    /// The cluster's id, drawn when it was founded.
    pub cluster: u128,
    /// Everything below this offset of the metadata log is in here.
    pub end: Offset,
    /// Term of the last record.
    pub epoch: Epoch,
    /// Hash chain over all records applied.
    pub hash: u64,
    /// Brokers that ever registered and were not removed.
    pub brokers: BTreeMap<NodeId, Broker>,
    /// Topics that exist.
    pub topics: OrdMap<TopicId, Arc<Topic>>,
    /// Their names.
    pub names: OrdMap<String, TopicId>,
    /// Producer ids that are given.
    pub producer_ids: ProducerIds,
}

/// A registered broker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Broker {
    /// Its disk.
    pub incarnation: Incarnation,
    /// Given by the record that registered it.
    pub epoch: BrokerEpoch,
    /// The last epoch of which it said that it is synced on its disk; kept when it registers again.
    pub confirmed: Option<BrokerEpoch>,
    /// Whether it is out of service: no leader, no member of an in-sync set.
    pub fenced: bool,
    /// Where Kafka clients reach it.
    pub kafka: (String, u16),
    /// Where other nodes reach it, `HOST:PORT`.
    pub peer: String,
    /// Its rack, if it has one.
    pub rack: Option<String>,
}

/// A topic.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Topic {
    /// Identity.
    pub id: TopicId,
    /// Name.
    pub name: String,
    /// Its own configurations, by Kafka's names; what is not here has its default.
    pub configs: BTreeMap<String, String>,
    /// By index, dense from 0.
    #[serde(with = "dense")]
    pub partitions: OrdMap<i32, Arc<Partition>>,
}

/// A partition's record: who holds it, who leads it (KIP-966).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Partition {
    /// In order of preference for leadership.
    pub replicas: Vec<NodeId>,
    /// The life of each replica's data, in the order of `replicas`.
    pub incarnations: Vec<ReplicaIncarnation>,
    /// In-sync replicas, sorted.
    pub isr: Vec<NodeId>,
    /// Eligible leader replicas, sorted.
    pub elr: Vec<NodeId>,
    /// Who leads, if anyone.
    pub leader: Option<NodeId>,
    /// Raised with each new leader, and when the same one begins anew.
    pub leader_epoch: Epoch,
    /// Raised with every change of this record.
    pub partition_epoch: i32,
    /// Effective `min.insync.replicas`, never above the replication factor.
    pub min_isr: u16,
}

impl Image {
    /// The partition of a log, with its topic.
    pub fn partition(&self, log: LogId) -> Option<(&Arc<Topic>, &Arc<Partition>)> {
        let topic = self.topics.get(&log.topic)?;
        Some((topic, topic.partitions.get(&log.partition)?))
    }

    /// The record of a partition, to be written over: for images that no log made.
    pub fn partition_mut(&mut self, log: LogId) -> Option<&mut Partition> {
        let topic = Arc::make_mut(self.topics.get_mut(&log.topic)?);
        topic.partitions.get_mut(&log.partition).map(Arc::make_mut)
    }

    /// The topic of a name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(self.names.get(name)?)
    }

    /// Whether a broker is registered and in service.
    pub fn unfenced(&self, node: NodeId) -> bool {
        self.brokers.get(&node).is_some_and(|broker| !broker.fenced)
    }

    /// Every partition, by topic and index.
    pub fn partitions(&self) -> impl Iterator<Item = (LogId, &Partition)> {
        self.topics.values().flat_map(|topic| {
            let log = |partition| LogId { topic: topic.id, partition };
            topic.partitions.iter().map(move |(index, partition)| (log(*index), &**partition))
        })
    }

    /// What it says of topics that an earlier image did not.
    pub fn changes_since(&self, before: &Image) -> Changes {
        let mut changes = Changes::default();
        for item in before.topics.diff(&self.topics) {
            match item {
                DiffItem::Remove(id, _) => changes.gone.push(*id),
                DiffItem::Add(_, topic) => changes.all_of(topic),
                DiffItem::Update { old: (_, old), new: (_, new) } if old.configs != new.configs => {
                    changes.all_of(new);
                }
                DiffItem::Update { old: (_, old), new: (id, new) } => {
                    for item in old.partitions.diff(&new.partitions) {
                        let (DiffItem::Add(index, _)
                        | DiffItem::Update { new: (index, _), .. }
                        | DiffItem::Remove(index, _)) = item;
                        changes.changed.push(LogId { topic: *id, partition: *index });
                    }
                }
            }
        }
        changes
    }

    /// Takes the entry at an offset of the log: all its records, or none where it is one of the quorum's own.
    ///
    /// # Panics
    ///
    /// Where the offset is not the next one, or a record does not fit: no controller of ours writes such a thing.
    pub fn apply(&mut self, offset: Offset, epoch: Epoch, records: &[Record]) {
        assert!(offset >= self.end, "an entry is applied once and in order");
        assert!(epoch >= self.epoch, "terms do not fall");
        let mut hash = Hash(self.hash);
        hash.write(&offset.to_le_bytes());
        hash.write(&epoch.to_le_bytes());
        if !records.is_empty() {
            hash.write(&encode_records(records));
        }
        self.draft(offset, records);
        (self.end, self.epoch, self.hash) = (offset + 1, epoch, hash.0);
    }

    /// What the image would be with some records of an entry that is still being written: the controller decides on such a
    /// draft of its own.
    pub(super) fn draft(&mut self, offset: Offset, records: &[Record]) {
        for record in records {
            self.apply_record(offset, record);
        }
    }

    fn apply_record(&mut self, offset: Offset, record: &Record) {
        match record.clone() {
            Record::RegisterBroker { node, incarnation, kafka, peer, rack } => {
                let confirmed = self.brokers.get(&node).and_then(|broker| broker.confirmed);
                let epoch = BrokerEpoch(offset);
                let fenced = true;
                let broker = Broker { incarnation, epoch, confirmed, fenced, kafka, peer, rack };
                self.brokers.insert(node, broker);
                self.producer_ids.blocks.remove(&node);
            }
            Record::ConfirmBroker { node, epoch } => {
                let broker = self.brokers.get_mut(&node).expect("who confirms has registered");
                assert!(broker.epoch == epoch, "only the present registration is confirmed");
                broker.confirmed = Some(epoch);
            }
            Record::FenceBroker { node, fenced } => {
                self.brokers.get_mut(&node).expect("who is fenced has registered").fenced = fenced;
            }
            Record::Topic { id, name, configs } => {
                let old = self.topics.get(&id).map(|topic| topic.partitions.clone());
                let taken = self.names.insert(name.clone(), id);
                assert!(taken.is_none_or(|other| other == id), "a name has one topic");
                let partitions = old.unwrap_or_default();
                self.topics.insert(id, Arc::new(Topic { id, name, configs, partitions }));
            }
            Record::Partition { log, partition } => {
                let topic = self.topics.get_mut(&log.topic).expect("a partition has a topic");
                let partitions = &mut Arc::make_mut(topic).partitions;
                match partitions.get_mut(&log.partition) {
                    Some(old) => {
                        assert!(partition.partition_epoch > old.partition_epoch, "it only grows");
                        *old = Arc::new(partition);
                    }
                    None => {
                        assert!(log.partition as usize == partitions.len(), "partitions are dense");
                        partitions.insert(log.partition, Arc::new(partition));
                    }
                }
            }
            Record::RemoveTopic { id } => {
                let topic = self.topics.remove(&id).expect("only what exists is removed");
                self.names.remove(&topic.name);
            }
            Record::ProducerIds { node, epoch, next } => {
                let known = self.brokers.get(&node).map(|broker| broker.epoch);
                assert!(known == Some(epoch), "only the present registration is given ids");
                self.producer_ids.give(node, next);
            }
        }
    }

    /// The bytes of a snapshot.
    pub fn encode(&self) -> Vec<u8> {
        record::encode_snapshot(self)
    }

    /// The image of a snapshot.
    ///
    /// # Errors
    ///
    /// Where the bytes are none that [`Image::encode`] of this version or an earlier one wrote.
    pub fn decode(bytes: &[u8]) -> Result<Image, DecodeError> {
        record::decode_snapshot(bytes)
    }
}

/// FNV-1a with 64 bits: chains the records, so that two images that should be equal are seen not to be.
struct Hash(u64);

impl Hash {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        // The length, so that two neighbours are not taken for two others with the same bytes.
        self.0 = (self.0 ^ bytes.len() as u64).wrapping_add(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

/// What changed from one image to a later one, of topics.
#[derive(PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Topics that are no more.
    pub gone: Vec<TopicId>,
    /// Partitions that are new or have another record, and all of those topics that are configured otherwise.
    pub changed: Vec<LogId>,
}

impl Changes {
    fn all_of(&mut self, topic: &Topic) {
        let log = |index: &i32| LogId { topic: topic.id, partition: *index };
        self.changed.extend(topic.partitions.keys().map(log));
    }
}

/// Partitions of a topic in a snapshot: one after the other, without their indexes.
mod dense {
    use std::sync::Arc;

    use imbl::OrdMap;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Partition;

    pub fn serialize<S: Serializer>(
        partitions: &OrdMap<i32, Arc<Partition>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(partitions.values())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<OrdMap<i32, Arc<Partition>>, D::Error> {
        let partitions = Vec::<Partition>::deserialize(deserializer)?;
        Ok((0..).zip(partitions.into_iter().map(Arc::new)).collect())
    }
}

impl Topic {
    /// A topic with these partitions, from the first on.
    pub fn new(
        id: TopicId,
        name: String,
        configs: BTreeMap<String, String>,
        partitions: impl IntoIterator<Item = Partition>,
    ) -> Topic {
        let partitions = (0..).zip(partitions.into_iter().map(Arc::new)).collect();
        Topic { id, name, configs, partitions }
    }

    /// How many replicas its first partition has, and with that any that is added.
    pub fn replication_factor(&self) -> usize {
        self.partitions.get(&0).map_or(0, |first| first.replicas.len())
    }

    /// Effective `min.insync.replicas`: of its partitions, which may have different numbers of replicas, the largest.
    pub fn min_isr(&self) -> u16 {
        self.partitions.values().map(|partition| partition.min_isr).max().unwrap_or(0)
    }
}

impl Partition {
    /// The life that the metadata gives a replica.
    pub fn incarnation(&self, node: NodeId) -> Option<ReplicaIncarnation> {
        self.replicas.iter().position(|r| *r == node).map(|i| self.incarnations[i])
    }

    /// Whether a broker holds it.
    pub fn is_replica(&self, node: NodeId) -> bool {
        self.replicas.contains(&node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use super::{decode_records, encode_records};

    /// What an earlier version wrote is read.
    #[test]
    fn a_snapshot_from_before_producer_ids_has_given_none() {
        let empty = [1, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Image::decode(&empty), Ok(Image::default()));
        let mut image = Image::default();
        image.apply(4, 2, &records()[..5]);
        let mut bytes = image.encode();
        assert_eq!(bytes.split_off(bytes.len() - 2), [0, 0], "no id and no block");
        bytes[0] = 1;
        assert_eq!(Image::decode(&bytes), Ok(image));
        bytes[0] = 3;
        assert_eq!(Image::decode(&bytes), Err(DecodeError::Version(3)));
    }

    fn records() -> Vec<Record> {
        let id = TopicId([3; 16]);
        let partition = Partition {
            replicas: vec![NodeId(1)],
            incarnations: vec![ReplicaIncarnation(0)],
            isr: vec![NodeId(1)],
            leader: Some(NodeId(1)),
            min_isr: 1,
            ..Partition::default()
        };
        vec![
            Record::RegisterBroker {
                node: NodeId(1),
                incarnation: Incarnation(u128::MAX),
                kafka: ("localhost".into(), 9092),
                peer: "localhost:7000".into(),
                rack: Some("a".into()),
            },
            Record::ConfirmBroker { node: NodeId(1), epoch: BrokerEpoch(4) },
            Record::FenceBroker { node: NodeId(1), fenced: false },
            Record::Topic { id, name: "t".into(), configs: BTreeMap::new() },
            Record::Partition { log: LogId { topic: id, partition: 0 }, partition },
            Record::ProducerIds { node: NodeId(1), epoch: BrokerEpoch(4), next: 1_000 },
        ]
    }

    #[test]
    fn entries_and_snapshots_round_trip() {
        let bytes = encode_records(&records());
        assert_eq!(decode_records(&bytes), Ok(records()));
        assert_eq!(decode_records(&[]), Ok(vec![]));
        assert_eq!(decode_records(&[9, 0]), Err(DecodeError::Version(9)));
        assert_eq!(decode_records(&bytes[..bytes.len() - 1]), Err(DecodeError::Malformed));
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(decode_records(&longer), Err(DecodeError::Malformed));

        let mut image = Image::default();
        image.apply(4, 2, &records());
        assert_eq!(Image::decode(&image.encode()), Ok(image));
        assert_eq!(Image::decode(&[]), Err(DecodeError::Malformed));
    }

    #[test]
    fn entries_make_the_image() {
        let mut image = Image::default();
        image.apply(4, 2, &records());
        assert_eq!((image.end, image.epoch), (5, 2));
        let broker = &image.brokers[&NodeId(1)];
        assert_eq!((broker.epoch, broker.confirmed), (BrokerEpoch(4), Some(BrokerEpoch(4))));
        assert!(image.unfenced(NodeId(1)));
        assert_eq!(image.topic("t").map(|topic| topic.partitions.len()), Some(1));
        let ids = &image.producer_ids;
        assert_eq!((ids.next, ids.last_of(NodeId(1))), (1_000, Some(0)));

        let again = Record::RegisterBroker {
            node: NodeId(1),
            incarnation: Incarnation(1),
            kafka: ("localhost".into(), 9092),
            peer: "localhost:7000".into(),
            rack: None,
        };
        image.apply(5, 2, &[again, Record::RemoveTopic { id: TopicId([3; 16]) }]);
        let broker = &image.brokers[&NodeId(1)];
        assert_eq!((broker.epoch, broker.confirmed), (BrokerEpoch(5), Some(BrokerEpoch(4))));
        assert!(!image.unfenced(NodeId(1)));
        let ids = &image.producer_ids;
        assert_eq!((ids.next, ids.last_of(NodeId(1))), (1_000, None), "of another process");
        assert_eq!(image.topics.len() + image.names.len(), 0);
    }

    #[test]
    fn the_hash_chains_offsets_terms_and_records() {
        let hash = |steps: &[(Offset, Epoch, &[Record])]| {
            let mut image = Image::default();
            steps.iter().for_each(|(offset, epoch, records)| image.apply(*offset, *epoch, records));
            image.hash
        };
        let all = records();
        let hashes = [
            hash(&[]),
            hash(&[(0, 1, &[])]),
            hash(&[(0, 2, &[])]),
            hash(&[(1, 1, &[])]),
            hash(&[(0, 1, &[]), (1, 1, &[])]),
            hash(&[(0, 1, &all[..1])]),
            hash(&[(0, 1, &all[..1]), (1, 1, &all[2..3])]),
        ];
        for (index, one) in hashes.iter().enumerate() {
            assert!(!hashes[..index].contains(one), "{hashes:?}");
        }
    }
}
