//! What a disk remembers beside the log: one small struct, written whole and synced before anyone hears of it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::message::{FoundingRecord, Voter};
use crate::{Epoch, Offset};

/// Kept by `Store::put` beside the metadata log.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct State {
    /// How often this disk was started.
    pub start: u64,
    /// The founding record that it holds; set once.
    pub founding: Option<FoundingRecord>,
    /// Whether every listed node is known to hold it, so that this one may act.
    pub founded: bool,
    /// Raft's current term.
    pub term: Epoch,
    /// For whom it voted in that term.
    pub vote: Option<Voter>,
    /// The snapshot that stands for everything below its end.
    pub snapshot: Option<SnapshotName>,
    /// Set when something that this disk had acknowledged was found damaged: until a leader has confirmed everything below
    /// this offset again, the node does not vote.
    pub hollow_until: Option<Offset>,
    /// Set when what this disk held of the quorum was damaged beyond knowing what it was: until it holds a founding record
    /// again, which another must offer, it is not an empty disk and founds nothing.
    pub is_lost: bool,
}

/// Which snapshot file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct SnapshotName {
    /// End offset.
    pub end: Offset,
    /// Term of the last record below it.
    pub epoch: Epoch,
}

/// The formats ever written. The numbers are frozen; a new format is a new variant at the end.
#[derive(Serialize, Deserialize)]
enum Versioned {
    V1(State),
}

impl State {
    /// As written to disk.
    pub fn encode(&self) -> Bytes {
        let bytes = postcard::to_allocvec(&Versioned::V1(self.clone()));
        Bytes::from(bytes.expect("writing to memory cannot fail"))
    }

    /// Empty bytes are a disk that was never started. None is a format that this program does not know.
    pub fn decode(bytes: &[u8]) -> Option<State> {
        if bytes.is_empty() {
            return Some(State::default());
        }
        let Versioned::V1(state) = postcard::from_bytes(bytes).ok()?;
        Some(state)
    }
}

/// The cluster whose founding record a disk's state holds.
pub fn cluster(state: &[u8]) -> Option<u128> {
    State::decode(state)?.founding.map(|record| record.cluster)
}

/// For checkers: the term that a disk's state names, and for whom it voted in that.
pub fn term_and_vote(state: &[u8]) -> Option<(Epoch, Option<Voter>)> {
    State::decode(state).map(|state| (state.term, state.vote))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Incarnation, NodeId};

    #[test]
    fn comes_back_as_it_was_put() {
        let state = State {
            start: 7,
            founding: Some(FoundingRecord {
                cluster: 9,
                list: vec![NodeId(1)],
                voters: [(NodeId(1), Incarnation(4))].into(),
            }),
            founded: true,
            term: 3,
            vote: Some(Voter { node: NodeId(1), incarnation: Incarnation(4) }),
            snapshot: Some(SnapshotName { end: 10, epoch: 2 }),
            hollow_until: None,
            is_lost: false,
        };
        assert_eq!(cluster(&state.encode()), Some(9));
        assert_eq!(State::decode(&state.encode()), Some(state));
        assert_eq!(State::decode(&[]), Some(State::default()));
        assert_eq!(State::decode(&[9, 9]), None);
    }
}
