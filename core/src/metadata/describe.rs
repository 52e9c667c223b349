//! Questions about the quorum on their way to its leader, who alone knows how far each follower has come.
//!
//! Each is asked once. Where no answer comes in time the client is told that there is none now, and asks again.

use std::collections::BTreeMap;

use milena_wire::messages::{DescribeQuorumRequest, DescribeQuorumResponse};

use super::admin::Asker;
use crate::api::describe_quorum;
use crate::quorum::QuorumDescription;
use crate::quorum::message::Voters;
use crate::{Config, Instant};

/// Questions under way at most.
const PENDING_MAX: usize = 1_000;
/// How long a leader is waited for, milliseconds.
const PATIENCE_MS: u64 = 1_000;

#[derive(Debug)]
struct Pending {
    asker: Asker,
    request: DescribeQuorumRequest,
    deadline: Instant,
}

/// An answer, and for whom.
pub(super) type Described = (Asker, DescribeQuorumResponse);

/// The questions under way.
#[derive(Debug, Default)]
pub(super) struct Describing {
    next: u64,
    pending: BTreeMap<u64, Pending>,
}

impl Describing {
    /// Takes a question: its number, to be sent to the leader; none where there are too many already.
    pub fn begin(
        &mut self,
        now: Instant,
        asker: Asker,
        request: DescribeQuorumRequest,
    ) -> Result<u64, DescribeQuorumRequest> {
        if self.pending.len() >= PENDING_MAX {
            return Err(request);
        }
        let id = self.next;
        self.next += 1;
        let deadline = now.after_ms(PATIENCE_MS);
        self.pending.insert(id, Pending { asker, request, deadline });
        Ok(id)
    }

    /// When to call [`Describing::overdue`]. All wait equally long, so the first is due first.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.pending.first_key_value().map(|(_, pending)| pending.deadline)
    }

    /// When the leader has answered.
    pub fn on_answer(
        &mut self,
        config: &Config,
        voters: &Voters,
        id: u64,
        description: &QuorumDescription,
    ) -> Option<Described> {
        let pending = self.pending.remove(&id)?;
        let answer = describe_quorum(config, voters, &pending.request, Some(description));
        Some((pending.asker, answer))
    }

    /// An answer to a question that waited in vain, if there is one.
    pub fn overdue(&mut self, now: Instant, config: &Config, voters: &Voters) -> Option<Described> {
        let first = self.pending.first_entry().filter(|first| first.get().deadline <= now)?;
        let pending = first.remove();
        Some((pending.asker, describe_quorum(config, voters, &pending.request, None)))
    }
}
