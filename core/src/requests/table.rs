//! One row per API: who serves it, and what is to be known of a request before anyone does.

use milena_wire::Request;

/// Who serves a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Server {
    /// The owners of its partitions, each a part of it.
    Owners,
    /// This shard, from the image.
    Image,
    /// The machine `Metadata`: for what the quorum or its leader, the controller, decides.
    Metadata,
}

/// What is known of a request before it is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Row {
    pub server: Server,
    /// How many partitions, topics or other things it names. A topic without partitions counts too.
    pub elements: usize,
    /// Whether it asks who is there and who leads, so that it waits while a node starts.
    pub asks_about_cluster: bool,
    /// Whether it means all topics.
    pub all_topics: bool,
}

/// The row of a request's API.
pub(super) fn row(request: &Request, version: i16) -> Row {
    use Server::{Image, Metadata, Owners};
    match request {
        Request::Produce(r) => {
            Owners.row(r.topic_data.iter().map(|t| t.partition_data.len().max(1)).sum())
        }
        Request::Fetch(r) => {
            let forgotten = r.forgotten_topics_data.iter().map(|t| t.partitions.len().max(1));
            let asked = r.topics.iter().map(|t| t.partitions.len().max(1));
            Owners.row(forgotten.chain(asked).sum())
        }
        Request::ListOffsets(r) => {
            Owners.row(r.topics.iter().map(|t| t.partitions.len().max(1)).sum())
        }
        Request::OffsetForLeaderEpoch(r) => {
            Owners.row(r.topics.iter().map(|t| t.partitions.len().max(1)).sum())
        }
        Request::DescribeProducers(r) => {
            Owners.row(r.topics.iter().map(|t| t.partition_indexes.len().max(1)).sum())
        }
        Request::Metadata(r) => {
            // Before version 1 an empty list means all of them.
            let all = |topics: &Vec<_>| version == 0 && topics.is_empty();
            Row {
                asks_about_cluster: true,
                all_topics: r.topics.as_ref().is_none_or(all),
                ..Image.row(r.topics.as_ref().map_or(0, Vec::len))
            }
        }
        Request::DescribeTopicPartitions(r) => Row {
            asks_about_cluster: true,
            all_topics: r.topics.is_empty(),
            ..Image.row(r.topics.len())
        },
        Request::DescribeCluster(_) => Row { asks_about_cluster: true, ..Image.row(0) },
        Request::ListConfigResources(r) => Row {
            asks_about_cluster: true,
            all_topics: version > 0,
            ..Image.row(r.resource_types.len())
        },
        Request::DescribeConfigs(r) => Image.row(r.resources.len()),
        Request::FindCoordinator(r) => Image.row(r.coordinator_keys.len()),
        Request::ApiVersions(_) => Image.row(0),
        Request::CreateTopics(r) => Metadata.row(r.topics.len()),
        Request::CreatePartitions(r) => Metadata.row(r.topics.len()),
        Request::DeleteTopics(r) => Metadata.row(r.topics.len() + r.topic_names.len()),
        Request::InitProducerId(_) => Metadata.row(0),
        Request::DescribeQuorum(r) => {
            Metadata.row(r.topics.iter().map(|t| t.partitions.len().max(1)).sum())
        }
    }
}

impl Server {
    fn row(self, elements: usize) -> Row {
        Row { server: self, elements, asks_about_cluster: false, all_topics: false }
    }
}
