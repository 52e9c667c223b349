//! Incremental fetch sessions (KIP-227): a client names only what changed, and is told only what changed.
//!
//! A session is a cache of this shard and nothing depends on it: lost, evicted or out of step, the client is told so and
//! begins with a full fetch. Its partitions are asked for in a rotating order, so that the limit of an answer starves
//! none of them. It remembers partitions that do not exist too, and tells of them each time: Apache Kafka does, and a client
//! whose topic is deleted and made again goes on with its session. What it remembers is bounded, names included.

use std::collections::BTreeMap;
use std::ops::Bound;

use milena_wire::messages::fetch::{
    FetchPartition, FetchTopic, FetchableTopicResponse, PartitionData,
};
use milena_wire::messages::{FetchRequest, FetchResponse};
use milena_wire::{ErrorCode, Uuid};
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;

use crate::Instant;

/// First version with sessions.
const SESSION_VERSION: i16 = 7;
/// The epoch of a full fetch that opens a session, and of one that ends its session.
const INITIAL_EPOCH: i32 = 0;
const FINAL_EPOCH: i32 = -1;
/// First version with topic ids instead of names.
pub(super) const TOPIC_ID_VERSION: i16 = 13;
/// Bytes of a topic's name that weigh as much as a partition.
const NAME_WEIGHT: usize = 64;

/// A topic by its name, or since [`TOPIC_ID_VERSION`] by its identity.
type Topic = (String, Uuid);

/// What is remembered of a partition.
#[derive(Debug)]
struct Cached {
    asked: FetchPartition,
    high_watermark: i64,
    log_start_offset: i64,
}

/// The partitions of a session. No topic is without any.
type Topics = BTreeMap<Topic, BTreeMap<i32, Cached>>;

#[derive(Debug)]
struct Session {
    by_id: bool,
    /// The epoch of the next request.
    epoch: i32,
    used_at: Instant,
    topics: Topics,
    /// The last partition that gave records; the next answer begins after it.
    rotated: Option<(Topic, i32)>,
}

/// What is to be done with the answer to a fetch.
#[derive(Debug)]
pub(super) enum Plan {
    /// When the client wants no session.
    Sessionless,
    /// When a session begins with this full fetch.
    Create { now: Instant, by_id: bool, topics: Vec<FetchTopic> },
    /// When only what changed is answered.
    Incremental { session: i32 },
}

/// The sessions of a shard.
#[derive(Debug)]
pub(super) struct Sessions {
    all: BTreeMap<i32, Session>,
    most: usize,
    evictable_ms: u64,
    weight_max: usize,
    entropy: ChaCha8Rng,
}

impl Sessions {
    /// At most so many, of which one unused for so long gives way to a new one; each of at most so many partitions.
    pub fn new(most: usize, evictable_ms: u64, weight_max: usize, entropy: ChaCha8Rng) -> Sessions {
        Sessions { all: BTreeMap::new(), most, evictable_ms, weight_max, entropy }
    }

    /// Takes the session part of a request: fills in the partitions it leaves unsaid and says what to do with the answer, or
    /// refuses.
    pub fn begin(
        &mut self,
        now: Instant,
        version: i16,
        request: &mut FetchRequest,
    ) -> Result<Plan, ErrorCode> {
        let by_id = version >= TOPIC_ID_VERSION;
        let (id, epoch) = (request.session_id, request.session_epoch);
        if version < SESSION_VERSION {
            return Ok(Plan::Sessionless);
        }
        match epoch {
            FINAL_EPOCH => {
                self.all.remove(&id);
                return Ok(Plan::Sessionless);
            }
            INITIAL_EPOCH => {
                self.all.remove(&id);
                return Ok(Plan::Create { now, by_id, topics: request.topics.clone() });
            }
            _ => {}
        }
        let Some(session) = self.all.get_mut(&id) else {
            return Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
        };
        if session.epoch != epoch {
            return Err(ErrorCode::INVALID_FETCH_SESSION_EPOCH);
        }
        if session.by_id != by_id {
            return Err(ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR);
        }
        session.epoch = session.epoch.checked_add(1).unwrap_or(1);
        session.used_at = now;
        add(&mut session.topics, request.topics.clone());
        for topic in std::mem::take(&mut request.forgotten_topics_data) {
            let key = (topic.topic, topic.topic_id);
            let Some(partitions) = session.topics.get_mut(&key) else { continue };
            for partition in &topic.partitions {
                partitions.remove(partition);
            }
            if partitions.is_empty() {
                session.topics.remove(&key);
            }
        }
        if session.topics.is_empty() {
            // Nothing is left that it could be for. The client learns so by an answer without a session, to what it named.
            self.all.remove(&id);
            return Ok(Plan::Sessionless);
        }
        if weight(&session.topics) > self.weight_max {
            self.all.remove(&id);
            return Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
        }
        request.topics = session.in_turn();
        Ok(Plan::Incremental { session: id })
    }

    /// Makes the client's answer of the full one.
    pub fn conclude(&mut self, plan: Plan, mut response: FetchResponse) -> FetchResponse {
        match plan {
            Plan::Sessionless => {}
            Plan::Create { now, by_id, topics } => {
                response.session_id = self.create(now, by_id, topics, &response);
            }
            Plan::Incremental { session: id } => {
                response.session_id = id;
                // Who ended it meanwhile by another request is told everything, and what has not changed again.
                let Some(session) = self.all.get_mut(&id) else { return response };
                for topic in &mut response.responses {
                    let key = (topic.topic.clone(), topic.topic_id);
                    let mut cached = session.topics.get_mut(&key);
                    let mut last = None;
                    topic.partitions.retain(|data| {
                        let index = data.partition_index;
                        let records = data.records.as_ref().is_some_and(|r| !r.is_empty());
                        let cached = cached.as_mut().and_then(|topic| topic.get_mut(&index));
                        let changed = cached.is_some_and(|c| c.changed(data));
                        if records {
                            last = Some(index);
                        }
                        changed || records
                    });
                    if let Some(index) = last {
                        session.rotated = Some((key, index));
                    }
                }
                response.responses.retain(|topic| !topic.partitions.is_empty());
            }
        }
        response
    }

    /// A new session; 0 if there is no room for it, which means none.
    fn create(
        &mut self,
        now: Instant,
        by_id: bool,
        topics: Vec<FetchTopic>,
        response: &FetchResponse,
    ) -> i32 {
        if self.all.len() >= self.most {
            let oldest = self.all.iter().min_by_key(|(_, session)| session.used_at);
            match oldest.map(|(id, session)| (*id, session.used_at)) {
                Some((id, used_at)) if now.ms_since(used_at) >= self.evictable_ms => {
                    self.all.remove(&id);
                }
                Some(_) | None => return 0,
            }
        }
        let mut all = Topics::new();
        add(&mut all, topics);
        if weight(&all) > self.weight_max {
            return 0;
        }
        for FetchableTopicResponse { topic, topic_id, partitions } in &response.responses {
            let Some(cached) = all.get_mut(&(topic.clone(), *topic_id)) else { continue };
            for data in partitions {
                if let Some(cached) = cached.get_mut(&data.partition_index) {
                    cached.changed(data);
                }
            }
        }
        let id = loop {
            let id = (self.entropy.next_u32() >> 1) as i32;
            if id != 0 && !self.all.contains_key(&id) {
                break id;
            }
        };
        let session = Session { by_id, epoch: 1, used_at: now, topics: all, rotated: None };
        self.all.insert(id, session);
        id
    }
}

/// Adds partitions to those of a session, or changes what is asked of them.
fn add(to: &mut Topics, topics: Vec<FetchTopic>) {
    for topic in topics.into_iter().filter(|topic| !topic.partitions.is_empty()) {
        let partitions = to.entry((topic.topic, topic.topic_id)).or_default();
        for asked in topic.partitions {
            match partitions.get_mut(&asked.partition) {
                Some(cached) => cached.asked = asked,
                None => {
                    let cached = Cached { asked, high_watermark: -1, log_start_offset: -1 };
                    partitions.insert(cached.asked.partition, cached);
                }
            }
        }
    }
}

/// Partitions, and what their topics' names take in memory beside them.
fn weight(topics: &Topics) -> usize {
    topics.iter().map(|((name, _), all)| all.len() + name.len() / NAME_WEIGHT).sum()
}

impl Cached {
    /// Whether the client must be told of this answer; remembers it as told.
    fn changed(&mut self, data: &PartitionData) -> bool {
        let told = (data.high_watermark, data.log_start_offset);
        let changed = told != (self.high_watermark, self.log_start_offset);
        (self.high_watermark, self.log_start_offset) = told;
        if data.error_code != ErrorCode::NONE {
            // So that the next good answer is told too.
            self.high_watermark = -1;
            return true;
        }
        changed || data.diverging_epoch.epoch >= 0 || data.diverging_epoch.end_offset >= 0
    }
}

impl Session {
    /// All partitions, beginning after the one that last gave records.
    fn in_turn(&self) -> Vec<FetchTopic> {
        let (key, index) = match &self.rotated {
            Some((key, index)) => (key, *index),
            None => return self.topics.iter().map(|(key, all)| asked(key, all.values())).collect(),
        };
        let mut topics = Vec::with_capacity(self.topics.len() + 1);
        if let Some(all) = self.topics.get(key) {
            topics.push(asked(
                key,
                all.range((Bound::Excluded(index), Bound::Unbounded)).map(second),
            ));
        }
        let later = self.topics.range::<Topic, _>((Bound::Excluded(key), Bound::Unbounded));
        let earlier = self.topics.range::<Topic, _>(..key);
        topics.extend(later.chain(earlier).map(|(key, all)| asked(key, all.values())));
        if let Some(all) = self.topics.get(key) {
            topics.push(asked(key, all.range(..=index).map(second)));
        }
        topics.retain(|topic| !topic.partitions.is_empty());
        topics
    }
}

fn second<'a>((_, cached): (&i32, &'a Cached)) -> &'a Cached {
    cached
}

fn asked<'a>(
    (topic, topic_id): &Topic,
    partitions: impl Iterator<Item = &'a Cached>,
) -> FetchTopic {
    let partitions = partitions.map(|cached| cached.asked.clone()).collect();
    FetchTopic { topic: topic.clone(), topic_id: *topic_id, partitions }
}

#[cfg(test)]
mod tests {
    use milena_wire::Records;
    use rand_core::SeedableRng;

    use super::*;

    const EVICTABLE_MS: u64 = 5_000;

    fn sessions(most: usize) -> Sessions {
        Sessions::new(most, EVICTABLE_MS, 100, ChaCha8Rng::from_seed([7; 32]))
    }

    fn request(id: i32, epoch: i32, partitions: &[(i32, i64)]) -> FetchRequest {
        let partitions = partitions
            .iter()
            .map(|(partition, fetch_offset)| FetchPartition {
                partition: *partition,
                fetch_offset: *fetch_offset,
                ..FetchPartition::default()
            })
            .collect();
        FetchRequest {
            session_id: id,
            session_epoch: epoch,
            topics: vec![FetchTopic { topic: "t".into(), partitions, ..FetchTopic::default() }],
            ..FetchRequest::default()
        }
    }

    fn answer(partitions: &[(i32, i64, usize)]) -> FetchResponse {
        let partitions = partitions
            .iter()
            .map(|(index, high_watermark, bytes)| PartitionData {
                partition_index: *index,
                high_watermark: *high_watermark,
                records: Some(Records::from(bytes::Bytes::from(vec![0; *bytes]))),
                ..PartitionData::default()
            })
            .collect();
        let topic = FetchableTopicResponse { topic: "t".into(), partitions, ..Default::default() };
        FetchResponse { responses: vec![topic], ..FetchResponse::default() }
    }

    fn asked(request: &FetchRequest) -> Vec<(i32, i64)> {
        let all = request.topics.iter().flat_map(|topic| &topic.partitions);
        all.map(|partition| (partition.partition, partition.fetch_offset)).collect()
    }

    fn told(response: &FetchResponse) -> Vec<i32> {
        let all = response.responses.iter().flat_map(|topic| &topic.partitions);
        all.map(|partition| partition.partition_index).collect()
    }

    #[test]
    fn a_session_remembers_adds_forgets_and_tells_only_changes() {
        let mut sessions = sessions(2);
        let mut full = request(0, 0, &[(0, 5), (1, 6)]);
        let plan = sessions.begin(Instant(0), 11, &mut full).unwrap();
        let first = sessions.conclude(plan, answer(&[(0, 9, 0), (1, 9, 0)]));
        assert_eq!(told(&first), [0, 1]);
        let id = first.session_id;
        assert_ne!(id, 0);

        // Partition 1 moved on, 2 is new; 0 is unsaid and stays.
        let mut next = request(id, 1, &[(1, 7), (2, 0)]);
        let plan = sessions.begin(Instant(1), 11, &mut next).unwrap();
        assert_eq!(asked(&next), [(0, 5), (1, 7), (2, 0)]);
        let second = sessions.conclude(plan, answer(&[(0, 9, 0), (1, 9, 10), (2, 4, 0)]));
        assert_eq!(told(&second), [1, 2], "nothing changed in partition 0");

        let mut third = request(id, 2, &[]);
        third.topics.clear();
        third.forgotten_topics_data = vec![milena_wire::messages::fetch::ForgottenTopic {
            topic: "t".into(),
            partitions: vec![0],
            ..Default::default()
        }];
        sessions.begin(Instant(2), 11, &mut third).unwrap();
        assert_eq!(asked(&third), [(2, 0), (1, 7)], "it begins after the one that gave records");
    }

    #[test]
    fn out_of_step_lost_and_mixed_sessions_are_refused() {
        let mut sessions = sessions(1);
        let plan = sessions.begin(Instant(0), 11, &mut request(0, 0, &[(0, 0)])).unwrap();
        let id = sessions.conclude(plan, answer(&[(0, 1, 0)])).session_id;
        let mut begin = |version, epoch, id| {
            sessions.begin(Instant(0), version, &mut request(id, epoch, &[])).map(|_| ())
        };
        assert_eq!(begin(11, 2, id), Err(ErrorCode::INVALID_FETCH_SESSION_EPOCH));
        assert_eq!(begin(13, 1, id), Err(ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR));
        assert_eq!(begin(11, 1, id ^ 1), Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND));
        assert_eq!(begin(11, 1, id), Ok(()));
        assert_eq!(begin(11, -1, id), Ok(()), "the last request of a session");
        assert_eq!(begin(11, 2, id), Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND));
    }

    #[test]
    fn an_epoch_that_means_nothing_is_out_of_step_and_names_no_session_away() {
        let mut sessions = sessions(1);
        let plan = sessions.begin(Instant(0), 11, &mut request(0, 0, &[(0, 0)])).unwrap();
        let id = sessions.conclude(plan, answer(&[(0, 1, 0)])).session_id;
        let mut begin = |version, epoch, id| {
            sessions.begin(Instant(0), version, &mut request(id, epoch, &[])).map(|_| ())
        };
        assert_eq!(begin(11, -2, 0), Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND));
        assert_eq!(begin(11, -2, id), Err(ErrorCode::INVALID_FETCH_SESSION_EPOCH));
        assert_eq!(begin(13, 2, id), Err(ErrorCode::INVALID_FETCH_SESSION_EPOCH), "epochs first");
        assert_eq!(begin(11, 1, id), Ok(()));
    }

    #[test]
    fn a_session_whose_last_partition_is_forgotten_ends_without_an_error() {
        let mut sessions = sessions(1);
        let plan = sessions.begin(Instant(0), 11, &mut request(0, 0, &[(0, 0)])).unwrap();
        let id = sessions.conclude(plan, answer(&[(0, 1, 0)])).session_id;
        let mut last = request(id, 1, &[(1, 7)]);
        last.forgotten_topics_data = vec![milena_wire::messages::fetch::ForgottenTopic {
            topic: "t".into(),
            partitions: vec![0, 1],
            ..Default::default()
        }];
        let plan = sessions.begin(Instant(0), 11, &mut last).unwrap();
        assert_eq!(asked(&last), [(1, 7)], "what it names is answered nevertheless");
        let answer = sessions.conclude(plan, FetchResponse::default());
        assert_eq!((answer.session_id, answer.error_code), (0, ErrorCode::NONE));
        assert!(sessions.all.is_empty());
    }

    #[test]
    fn what_a_session_remembers_is_bounded_names_included() {
        let mut sessions = sessions(1);
        let plan = sessions.begin(Instant(0), 11, &mut request(0, 0, &[(0, 0), (50, 0)]));
        let id = sessions.conclude(plan.unwrap(), answer(&[(0, 1, 0)])).session_id;
        assert_ne!(id, 0, "whether they exist is not asked");
        let mut large = request(id, 1, &[(1, 0)]);
        large.topics[0].topic = "u".repeat(30_000);
        let gone = sessions.begin(Instant(0), 11, &mut large).map(|_| ());
        assert_eq!(gone, Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND));
        assert!(sessions.all.is_empty());
        let mut large = request(0, 0, &[(1, 0)]);
        large.topics[0].topic = "u".repeat(30_000);
        let plan = sessions.begin(Instant(0), 11, &mut large).unwrap();
        assert_eq!(sessions.conclude(plan, FetchResponse::default()).session_id, 0);
    }

    #[test]
    fn every_partition_has_its_turn_over_topics() {
        let mut sessions = sessions(1);
        let topics = [("a", [0, 1]), ("b", [0, 1]), ("c", [0, 1])].map(|(topic, partitions)| {
            let partitions = partitions
                .map(|partition| FetchPartition { partition, ..FetchPartition::default() })
                .into();
            FetchTopic { topic: topic.into(), partitions, ..FetchTopic::default() }
        });
        let mut full = FetchRequest { topics: topics.into(), ..request(0, 0, &[]) };
        let plan = sessions.begin(Instant(0), 11, &mut full).unwrap();
        let id = sessions.conclude(plan, FetchResponse::default()).session_id;
        sessions.all.get_mut(&id).unwrap().rotated = Some((("b".into(), Uuid::ZERO), 0));
        let mut next = FetchRequest { topics: Vec::new(), ..request(id, 1, &[]) };
        sessions.begin(Instant(0), 11, &mut next).unwrap();
        let turns: Vec<(&str, i32)> = next
            .topics
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|p| (&*topic.topic, p.partition)))
            .collect();
        assert_eq!(turns, [("b", 1), ("c", 0), ("c", 1), ("a", 0), ("a", 1), ("b", 0)]);
    }

    #[test]
    fn a_full_cache_gives_way_only_to_sessions_long_unused() {
        let mut sessions = sessions(1);
        let mut open = |now: u64| {
            let now = Instant(0).after_ms(now);
            let plan = sessions.begin(now, 11, &mut request(0, 0, &[(0, 0)])).unwrap();
            sessions.conclude(plan, answer(&[(0, 1, 0)])).session_id
        };
        assert_ne!(open(0), 0);
        assert_eq!(open(EVICTABLE_MS - 1), 0);
        assert_ne!(open(EVICTABLE_MS), 0);
    }
}
