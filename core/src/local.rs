//! What the machines of one node say to each other. These messages arrive, once and in order.

use std::sync::Arc;

use milena_wire::{Request, Response};

use crate::image::Image;
use crate::{
    BrokerEpoch, ClientContext, ClientId, Epoch, Incarnation, LogId, NodeId, ReplicaIncarnation,
};

/// Who made a request, and how it is to be answered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Caller {
    /// The connection.
    pub client: ClientId,
    /// Number of the request on that connection.
    pub id: u64,
    /// Version of the request, and so of its answer.
    pub version: i16,
    /// Whether nobody waits for the answer (acks=0): what fails can only be told by closing the connection.
    pub silent: bool,
}

impl Caller {
    /// The first of a connection, where callers are in order.
    pub(crate) fn first(client: ClientId) -> Caller {
        Caller { client, id: 0, version: i16::MIN, silent: false }
    }
}

/// From one machine of a node to another.
#[derive(Clone, Debug)]
pub enum LocalMessage {
    /// When committed metadata has changed, from Metadata to every shard.
    Image(Arc<Image>),
    /// When this broker may serve under a registration: its epoch is synced here and confirmed by the controller. From
    /// Metadata to every shard, after the image that shows it. None when the broker must stop serving.
    Serving(Option<BrokerEpoch>),
    /// When the operator wants this node to stop in good order, from the driver to Metadata, which puts out
    /// [`Output::Stop`](crate::Output::Stop) once nothing is left to give away, or in any case soon.
    Stop,
    /// When a leader proposes an in-sync set, from a shard to Metadata, which takes it to the active controller. Not
    /// answered: an image with a newer partition epoch is the answer, and the shard says it again until then.
    AlterPartition(AlterPartition),
    /// When a replica's data is damaged and its broker asks to be taken out of that partition, likewise said again until an
    /// image shows the new incarnation.
    Damaged {
        /// The partition.
        log: LogId,
        /// The incarnation that its disk holds; the controller gives the next.
        replica: ReplicaIncarnation,
    },
    /// When a client's request is the controller's to answer (topics created and deleted), or about its quorum, or for a
    /// producer id, from a shard to Metadata.
    Administer {
        /// The connection.
        client: ClientId,
        /// Number of the request on that connection.
        id: u64,
        /// The request.
        request: Request,
        /// Who asks.
        context: Arc<ClientContext>,
    },
    /// The answer to [`LocalMessage::Administer`].
    Administered {
        /// The connection.
        client: ClientId,
        /// Number of the request on that connection.
        id: u64,
        /// The answer.
        response: Response,
    },
    /// When a client's request has parts for another shard's partitions: from the connection's shard to the partitions'.
    Scatter {
        /// Who made the request.
        caller: Caller,
        /// The part that concerns the receiver.
        request: Request,
    },
    /// The answer to [`LocalMessage::Scatter`].
    Gather {
        /// Who made the request.
        caller: Caller,
        /// The answer to that part; none where the protocol has none.
        response: Option<Response>,
    },
    /// When a scattered fetch is to be answered with what there is, since another part of it has enough.
    Hasten {
        /// Who made the request.
        caller: Caller,
    },
    /// When a scattered part need not be answered any more.
    Abandon {
        /// Who made the request.
        caller: Caller,
    },
}

/// A leader's proposal of an in-sync set (KIP-497, KIP-903).
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct AlterPartition {
    /// The partition.
    pub log: LogId,
    /// The leader that proposes, and its broker epoch.
    pub leader: (NodeId, BrokerEpoch),
    /// Its leader epoch.
    pub leader_epoch: Epoch,
    /// The partition epoch that the proposal starts from.
    pub partition_epoch: i32,
    /// The set, each member with everything that says which life of it was meant.
    pub isr: Vec<Member>,
}

/// A replica in one exact life.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize,
)]
pub struct Member {
    /// The broker.
    pub node: NodeId,
    /// Of its registration.
    pub broker_epoch: BrokerEpoch,
    /// Of its disk.
    pub incarnation: Incarnation,
    /// Of this replica on that disk.
    pub replica: ReplicaIncarnation,
}
