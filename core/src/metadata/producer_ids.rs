//! Producer ids on their way from the controller to producers.
//!
//! A broker asks the controller for a block of ids, naming the one that it has, until its own metadata shows the next: that is
//! the answer, so that nothing is lost with a message or a controller, and a double finds another block than it names. Of its
//! blocks a process gives each id once. It knows none of the blocks given to earlier processes, whose ids are forgotten.

use std::collections::VecDeque;
use std::ops::Range;

use milena_wire::ErrorCode;
use milena_wire::messages::InitProducerIdResponse;

use super::admin::Asker;
use crate::controller::message::ControllerMessage;
use crate::image::Image;
use crate::{BrokerEpoch, Instant, NodeId, ProducerId};

/// Producers that wait for an id at most.
const WAITING_MAX: usize = 1_000;
/// How long a producer waits for an id, milliseconds.
const PATIENCE_MS: u64 = 1_000;
/// The controller is asked again after this long, milliseconds.
const RETRY_MS: u64 = 200;
/// The next block is asked for when so few ids are left.
const LEFT_MIN: i64 = 100;

/// The ids that this broker may give, and who waits for one.
#[derive(Debug, Default)]
pub(super) struct ProducerIds {
    /// Ids that nobody has; no block is empty.
    blocks: VecDeque<Range<ProducerId>>,
    /// The last block that was taken from the metadata, by its first id.
    taken: Option<ProducerId>,
    /// In the order of their deadlines.
    waiting: VecDeque<(Instant, Asker)>,
    ask_at: Instant,
}

/// An answer, and for whom.
pub(super) type Initialized = (Asker, InitProducerIdResponse);

impl ProducerIds {
    /// When a producer wants an id. Who cannot wait is answered at once.
    pub fn begin(&mut self, now: Instant, asker: Asker) -> Option<Initialized> {
        if self.waiting.len() >= WAITING_MAX {
            return Some((asker, refused(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS)));
        }
        self.waiting.push_back((now.after_ms(PATIENCE_MS), asker));
        None
    }

    /// Asks at the next opportunity: there may be another controller.
    pub fn ask_soon(&mut self) {
        self.ask_at = Instant(0);
    }

    /// When to look again.
    pub fn next_timeout(&self) -> Option<Instant> {
        let deadline = self.waiting.front().map(|(deadline, _)| *deadline);
        let ask_at = self.wants_block().then_some(self.ask_at);
        deadline.into_iter().chain(ask_at).min()
    }

    /// Takes the block that the metadata shows for this broker, where it is registered under this epoch; and gives what to ask
    /// the controller for.
    pub fn poll(
        &mut self,
        now: Instant,
        image: &Image,
        node: NodeId,
        epoch: Option<BrokerEpoch>,
    ) -> Option<ControllerMessage> {
        let known = image.brokers.get(&node).map(|broker| broker.epoch);
        let epoch = epoch.filter(|epoch| known == Some(*epoch));
        let block = image.producer_ids.blocks.get(&node).filter(|_| epoch.is_some());
        if let Some(block) = block.filter(|block| self.taken.is_none_or(|last| block.start > last))
        {
            self.taken = Some(block.start);
            self.blocks.push_back(block.clone());
            self.ask_soon();
        }
        if !self.wants_block() || now < self.ask_at {
            return None;
        }
        self.ask_at = now.after_ms(RETRY_MS);
        let (epoch, after) = (epoch?, image.producer_ids.last_of(node));
        Some(ControllerMessage::AllocateProducerIds { epoch, after })
    }

    /// The next answer: an id, or the news that there is none yet, or will be none any more.
    pub fn pop_answer(&mut self, now: Instant, image: &Image) -> Option<Initialized> {
        let (deadline, asker) = *self.waiting.front()?;
        let response = match self.blocks.front_mut() {
            Some(block) => {
                let producer_id = block.next().expect("no block is empty");
                self.blocks.retain(|block| !block.is_empty());
                InitProducerIdResponse { producer_id, producer_epoch: 0, ..Default::default() }
            }
            None if image.producer_ids.end_of_next_block().is_none() => {
                refused(ErrorCode::UNKNOWN_SERVER_ERROR)
            }
            None if deadline <= now => refused(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS),
            None => return None,
        };
        self.waiting.pop_front();
        Some((asker, response))
    }

    /// Whether another block is needed, or will be soon. Before the first producer comes none is.
    fn wants_block(&self) -> bool {
        let left: i64 = self.blocks.iter().map(|block| block.end - block.start).sum();
        left < self.waiting.len() as i64 || self.taken.is_some() && left < LEFT_MIN
    }
}

fn refused(error_code: ErrorCode) -> InitProducerIdResponse {
    InitProducerIdResponse { error_code, producer_epoch: -1, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClientId, Place};

    #[test]
    fn who_asks_when_no_id_is_left_is_told_so_at_once() {
        let mut image = Image::default();
        let mut ids = ProducerIds::default();
        let asker = Asker { shard: Place::Shard(0), client: ClientId(1), id: 1 };
        let ask = |image: &Image, ids: &mut ProducerIds| {
            assert!(ids.begin(Instant(0), asker).is_none());
            let answer = ids.pop_answer(Instant(0), image);
            answer.map(|(_, answer)| (answer.error_code, answer.producer_id))
        };
        image.producer_ids.next = i64::MAX;
        ids.blocks.push_back(i64::MAX - 1..i64::MAX);
        let last = Some((ErrorCode::NONE, i64::MAX - 1));
        assert_eq!(ask(&image, &mut ids), last);
        assert_eq!(ask(&image, &mut ids), Some((ErrorCode::UNKNOWN_SERVER_ERROR, -1)));
        assert_eq!(ids.next_timeout(), None, "nothing is waited for");
    }
}
