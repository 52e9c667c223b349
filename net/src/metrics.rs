//! What a thread counts while it serves: requests and bytes by API and error, and how long things take. They are plain numbers
//! of one thread; whoever wants those of a node asks its threads one by one and adds them up.

use std::collections::BTreeMap;
use std::time::Duration;

use milena_wire::{ApiKey, ErrorCode, Response};

/// Bounds of a histogram's buckets, microseconds.
const BOUNDS_US: [u64; 16] = [
    100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000, 2_000_000, 5_000_000, 10_000_000,
];

/// How often something took how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Histogram {
    /// By the first bound that is no less; the last is for what is beyond all bounds.
    counts: [u64; BOUNDS_US.len() + 1],
    sum_ns: u64,
}

impl Histogram {
    /// Once more.
    pub fn record(&mut self, took: Duration) {
        let us = took.as_nanos().div_ceil(1_000);
        let bucket = BOUNDS_US.partition_point(|bound| u128::from(*bound) < us);
        self.counts[bucket] += 1;
        self.sum_ns =
            self.sum_ns.saturating_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(other.counts).for_each(|(own, other)| *own += other);
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// How often.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How long in all, seconds.
    pub fn sum(&self) -> f64 {
        Duration::from_nanos(self.sum_ns).as_secs_f64()
    }

    /// Upper bound of each bucket, seconds, and how often that was the first bound kept; the last has none.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
        bounds.zip(self.counts).collect()
    }
}

/// The requests of a thread's Kafka connections.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// By API; those that were asked for.
    pub apis: BTreeMap<ApiKey, ApiTraffic>,
    /// Bytes of answers that clients have not taken, at the moment.
    pub untaken_bytes: usize,
}

/// The requests of one API.
#[derive(Clone, Debug, Default)]
pub struct ApiTraffic {
    /// How many came.
    pub requests: u64,
    /// Bytes of their frames.
    pub request_bytes: u64,
    /// Bytes of the frames that answered them.
    pub response_bytes: u64,
    /// Error codes in the answers, of the whole and of its parts, "none" among them.
    pub errors: BTreeMap<ErrorCode, u64>,
    /// From the whole request to its answer, as the node has it: with what a fetch waited for, without what the client takes to
    /// read.
    pub times: Histogram,
}

impl Traffic {
    /// A request is there.
    pub fn asked(&mut self, api: ApiKey, bytes: usize) {
        let api = self.apis.entry(api).or_default();
        api.requests += 1;
        api.request_bytes += bytes as u64;
    }

    /// It is answered; with nothing, where the protocol has no answer.
    pub fn answered(
        &mut self,
        api: ApiKey,
        response: Option<&Response>,
        bytes: usize,
        took: Duration,
    ) {
        let api = self.apis.entry(api).or_default();
        api.response_bytes += bytes as u64;
        api.times.record(took);
        if let Some(response) = response {
            response.errors(&mut |code| *api.errors.entry(code).or_default() += 1);
        }
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Traffic) {
        self.untaken_bytes += other.untaken_bytes;
        for (api, other) in &other.apis {
            let own = self.apis.entry(*api).or_default();
            own.requests += other.requests;
            own.request_bytes += other.request_bytes;
            own.response_bytes += other.response_bytes;
            own.times.add(&other.times);
            for (code, count) in &other.errors {
                *own.errors.entry(*code).or_default() += count;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milena_wire::messages::ProduceResponse;
    use milena_wire::messages::produce::{PartitionProduceResponse, TopicProduceResponse};

    #[test]
    fn a_bucket_has_what_is_no_longer_than_its_bound() {
        let mut histogram = Histogram::default();
        let us = Duration::from_micros;
        for took in [us(0), us(100), us(100) + Duration::from_nanos(1), us(10_000_000), us(1 << 40)]
        {
            histogram.record(took);
        }
        let filled: Vec<_> =
            histogram.buckets().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.0001, 2), (0.0002, 1), (10.0, 1), (f64::INFINITY, 1)]);
        assert_eq!(histogram.count(), 5);
        let mut twice = histogram;
        twice.add(&histogram);
        assert_eq!((twice.count(), twice.sum()), (10, 2.0 * histogram.sum()));
        histogram.record(Duration::MAX);
        assert!(histogram.sum() > 1e10, "it does not wrap around");
    }

    #[test]
    fn errors_are_counted_by_partition_and_api() {
        let partition = |error_code| PartitionProduceResponse { error_code, ..Default::default() };
        let codes = [ErrorCode::NONE, ErrorCode::NOT_LEADER_OR_FOLLOWER, ErrorCode::NONE];
        let partition_responses = codes.map(partition).into();
        let topic = TopicProduceResponse { partition_responses, ..Default::default() };
        let response = ProduceResponse { responses: vec![topic], ..Default::default() };
        let response = Response::Produce(response);
        let mut traffic = Traffic::default();
        traffic.asked(ApiKey::Produce, 100);
        traffic.asked(ApiKey::Produce, 10);
        traffic.answered(ApiKey::Produce, Some(&response), 30, Duration::from_millis(1));
        traffic.answered(ApiKey::Produce, None, 0, Duration::from_millis(1));
        let mut sum = traffic.clone();
        sum.add(&traffic);
        let of = &sum.apis[&ApiKey::Produce];
        assert_eq!((of.requests, of.request_bytes, of.response_bytes), (4, 220, 60));
        assert_eq!((of.times.count(), sum.apis.len()), (4, 1));
        let errors: Vec<_> = of.errors.iter().map(|(code, count)| (code.name(), *count)).collect();
        assert_eq!(errors, [(Some("NONE"), 4), (Some("NOT_LEADER_OR_FOLLOWER"), 2)]);
    }
}
