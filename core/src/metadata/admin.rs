//! Clients' requests on their way to the active controller and back.
//!
//! Any broker takes them. Each goes to the controller of the term that this broker's own metadata has reached, again and
//! again until it is answered; that controller does it once. Under another term, or another registration of this broker,
//! the old attempt can no longer be done, and what it did is in the metadata by then: so it is looked up there, and only
//! what is surely undone is tried again.

use std::collections::BTreeMap;

use milena_wire::{ErrorCode, Request};

use crate::controller::Topics;
use crate::controller::message::{AdminRequest, ControllerMessage};
use crate::image::Image;
use crate::{BrokerEpoch, ClientId, Epoch, Instant, Offset, Place, TopicId};

/// Requests under way at most.
const PENDING_MAX: usize = 1_000;
/// An unanswered request is sent again after this long, milliseconds.
const RETRY_MS: u64 = 200;

/// Whom the answer is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Asker {
    /// The shard that has the connection.
    pub shard: Place,
    /// The connection.
    pub client: ClientId,
    /// Number of the request on that connection.
    pub id: u64,
}

/// A request that is answered.
#[derive(Debug)]
pub(super) struct Done {
    /// Whom it is for.
    pub asker: Asker,
    /// What the client asked.
    pub request: Request,
    /// What became of it.
    pub topics: Topics,
}

#[derive(Debug)]
struct Pending {
    asker: Asker,
    /// As the client put it.
    original: Request,
    /// As the controller takes it.
    request: AdminRequest,
    deadline: Instant,
    /// Under which term and registration it was sent.
    sent: Option<(Epoch, BrokerEpoch)>,
    /// Which topics had the names that it gives when it was sent first, as far as this broker knew.
    meant: BTreeMap<String, TopicId>,
    send_at: Instant,
    /// The answer, and the metadata that must be here before the client gets it.
    answer: Option<(Offset, Topics)>,
}

/// The requests under way.
#[derive(Debug, Default)]
pub(super) struct Admin {
    next: u64,
    pending: BTreeMap<u64, Pending>,
}

impl Admin {
    /// Takes a request. What cannot be taken is answered at once.
    pub fn begin(
        &mut self,
        now: Instant,
        asker: Asker,
        original: Request,
        request: AdminRequest,
        timeout_ms: u64,
    ) -> Option<Done> {
        if self.pending.len() >= PENDING_MAX {
            let code = ErrorCode::THROTTLING_QUOTA_EXCEEDED;
            let topics = request.refuse(code, "too many requests");
            return Some(Done { asker, request: original, topics });
        }
        let deadline = now.after_ms(timeout_ms);
        let (sent, meant, send_at, answer) = (None, BTreeMap::new(), now, None);
        let pending = Pending { asker, original, request, deadline, sent, meant, send_at, answer };
        self.pending.insert(self.next, pending);
        self.next += 1;
        None
    }

    /// Requests under way.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// When to look again.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.pending
            .values()
            .map(|pending| match pending.answer {
                Some(_) => pending.deadline,
                None => pending.deadline.min(pending.send_at),
            })
            .min()
    }

    /// When the controller has answered.
    pub fn on_answer(&mut self, epoch: BrokerEpoch, id: u64, end: Offset, topics: Topics) {
        if let Some(pending) = self.pending.get_mut(&id)
            && pending.sent.is_some_and(|(_, sent)| sent == epoch)
            && topics.len() == pending.request.topics()
        {
            pending.answer.get_or_insert((end, topics));
        }
    }

    /// What to send to the controller of the image's term (where `under` is known: that term and this broker's
    /// registration), and what is done. `draw` gives ids for topics.
    pub fn poll(
        &mut self,
        now: Instant,
        image: &Image,
        under: Option<(Epoch, BrokerEpoch)>,
        draw: &mut impl FnMut() -> TopicId,
        send: &mut Vec<ControllerMessage>,
    ) -> Vec<Done> {
        let mut over = Vec::new();
        for (id, pending) in &mut self.pending {
            if let Some((_, topics)) = pending.answer.take_if(|(end, _)| image.end >= *end) {
                over.push((*id, topics));
                continue;
            }
            if now >= pending.deadline {
                let message = "the controller did not answer in time";
                let refused = pending.request.refuse(ErrorCode::REQUEST_TIMED_OUT, message);
                over.push((*id, pending.answer.take().map_or(refused, |(_, topics)| topics)));
                continue;
            }
            if now < pending.send_at || pending.answer.is_some() {
                continue;
            }
            pending.send_at = now.after_ms(RETRY_MS);
            let Some((term, epoch)) = under else { continue };
            match pending.sent {
                None => pending.meant = pending.request.meant(image),
                Some(sent) if sent != (term, epoch) => {
                    if let Some(topics) = pending.request.outcome(image, &pending.meant) {
                        over.push((*id, topics));
                        continue;
                    }
                    pending.request.draw_again(draw);
                }
                Some(_) => {}
            }
            pending.sent = Some((term, epoch));
            let (id, request) = (*id, pending.request.clone());
            send.push(ControllerMessage::Administer { term, epoch, id, request });
        }
        over.into_iter()
            .filter_map(|(id, topics)| {
                let Pending { asker, original, .. } = self.pending.remove(&id)?;
                Some(Done { asker, request: original, topics })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use milena_wire::messages::CreateTopicsRequest;

    use super::*;
    use crate::controller::message::{NewTopic, TopicReference};

    fn begun(request: AdminRequest) -> Admin {
        let mut admin = Admin::default();
        let asker = Asker { shard: Place::Shard(0), client: ClientId(1), id: 1 };
        let original = Request::CreateTopics(CreateTopicsRequest::default());
        assert!(admin.begin(Instant(0), asker, original, request, 10_000).is_none());
        admin
    }

    /// The topic that it had first may be deleted, and another have it.
    #[test]
    fn a_deletion_by_name_is_tried_again_only_while_the_topic_is_there() {
        let (first, later) = (TopicId([1; 16]), TopicId([2; 16]));
        let again = |known: Option<TopicId>, found: Option<TopicId>| {
            let topics = vec![TopicReference::Name("t".into())];
            let mut admin = begun(AdminRequest::DeleteTopics { topics });
            let mut send = Vec::new();
            let mut done = Vec::new();
            for (ms, term, id) in [(0, 7, known), (RETRY_MS, 8, found)] {
                let mut image = Image::default();
                image.names.extend(id.map(|id| ("t".to_string(), id)));
                let (now, under) = (Instant(0).after_ms(ms), Some((term, BrokerEpoch(5))));
                done = admin.poll(now, &image, under, &mut TopicId::default, &mut send);
            }
            let code = done.first().and_then(|done| done.topics[0].clone().err());
            (send.len(), code.map(|refusal| refusal.code))
        };
        assert_eq!(again(Some(first), Some(first)), (2, None));
        let in_doubt = (1, Some(ErrorCode::NOT_CONTROLLER));
        assert_eq!(again(Some(first), Some(later)), in_doubt);
        assert_eq!(again(Some(first), None), in_doubt, "done, but by whom");
        assert_eq!(again(None, Some(later)), in_doubt, "it may have had the name before");
    }

    /// What the first attempt made may have been made and deleted again before anyone looked.
    #[test]
    fn an_attempt_under_another_term_makes_topics_of_other_ids() {
        let id = TopicId([1; 16]);
        let topic = NewTopic {
            id,
            name: "t".into(),
            partitions: None,
            replication_factor: None,
            assignments: Vec::new(),
            configs: Vec::new(),
        };
        let request = AdminRequest::CreateTopics { topics: vec![topic], validate_only: false };
        let mut admin = begun(request);
        let mut sent = |ms: u64, term: Epoch| {
            let mut send = Vec::new();
            let under = Some((term, BrokerEpoch(5)));
            let (now, image) = (Instant(0).after_ms(ms), Image::default());
            admin.poll(now, &image, under, &mut || TopicId([term as u8; 16]), &mut send);
            match send.pop() {
                Some(ControllerMessage::Administer {
                    request: AdminRequest::CreateTopics { topics, .. },
                    ..
                }) => topics[0].id,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(sent(0, 7), id);
        assert_eq!(sent(RETRY_MS, 7), id, "the controller of one term does it once");
        assert_eq!(sent(2 * RETRY_MS, 8), TopicId([8; 16]));
    }
}
