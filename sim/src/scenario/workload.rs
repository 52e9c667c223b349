//! What clients are like: which versions they speak, how much they put into a request, how strange their batches are.
//!
//! It is drawn from a stream of its own, so that a seed's cluster and faults do not depend on it.

use milena_wire::ApiKey;

use crate::rng::Stream;
use crate::schedule::{
    CleanerSettings, Compaction, Dialect, ProducerLimits, SeekerSetup, Setup, StrangerSetup,
};

/// Runs with idempotent producers, of a million.
const IDEMPOTENT: u32 = 670_000;
/// Runs with compacted topics, of a million.
const COMPACTED: u32 = 330_000;
/// Runs with idempotent producers in which logs forget them while they still write, of a million.
const FORGETFUL: u32 = 200_000;
/// What a cleaner keeps of a key.
const KEY_BYTES: u64 = 24;
/// So many batches of a producer a partition remembers.
const KEPT: usize = 5;

/// Gives each client and topic of a run its character. `idempotent`: all producers are; `compacted`: all topics are.
pub fn characters(setup: &mut Setup, idempotent: bool, compacted: bool, draw: &mut Stream) {
    for producer in &mut setup.producers {
        producer.partitions_max =
            if draw.chance(500_000) { 1 } else { draw.between(2, 6) as usize };
        producer.strange = draw.chance(300_000);
        producer.dialect = dialect(draw);
    }
    for consumer in &mut setup.consumers {
        consumer.min_bytes = if draw.chance(700_000) { 1 } else { draw.between(2, 4_000) as usize };
        consumer.says_epoch = draw.chance(500_000);
        consumer.dialect = dialect(draw);
    }
    if draw.chance(700_000) {
        let pause_us = draw.between(15_000, 80_000);
        setup.seekers.push(SeekerSetup { pause_us, dialect: dialect(draw) });
    }
    for topic in &mut setup.topics {
        topic.log_append_time = draw.chance(150_000);
    }
    // Who names topics by their ids can tell one that is gone from the next one of its name.
    for producer in &mut setup.producers {
        if draw.chance(300_000) {
            producer.clings = true;
            producer.dialect.produce = ApiKey::Produce.versions().1;
        }
    }
    for consumer in &mut setup.consumers {
        if draw.chance(400_000) {
            consumer.clings = true;
            consumer.dialect.fetch = ApiKey::Fetch.versions().1;
        }
    }
    if draw.chance(500_000) {
        let pause_us = draw.between(20_000, 100_000);
        setup.strangers.push(StrangerSetup { pause_us, encoded: draw.chance(500_000) });
    }
    if draw.chance(IDEMPOTENT) || idempotent {
        let some = setup.producers.iter_mut().filter(|_| draw.chance(800_000) || idempotent);
        some.for_each(|producer| {
            producer.idempotent = true;
            // As clients insist.
            producer.acks = -1;
            producer.in_flight = producer.in_flight.min(KEPT);
        });
    }
    if draw.chance(COMPACTED) || compacted {
        compact(setup, compacted, draw);
    }
    if setup.producers.iter().any(|producer| producer.idempotent) && draw.chance(FORGETFUL) {
        let default = ProducerLimits::default();
        let few = draw.between(1, 4) as u32;
        setup.core.producers = ProducerLimits {
            expiration_ms: draw.between(100, 2_500) as i64,
            ids_max: if draw.chance(400_000) { few } else { default.ids_max },
        };
    }
}

/// Has topics compacted, all of them or some, in segments so small that there is always one to clean.
fn compact(setup: &mut Setup, all: bool, draw: &mut Stream) {
    for topic in &mut setup.topics {
        if !all && draw.chance(300_000) {
            continue;
        }
        let min_lag_ms = if draw.chance(600_000) { 0 } else { draw.between(50, 1_500) as i64 };
        topic.compaction = Some(Compaction {
            deletes: draw.chance(250_000),
            delete_retention_ms: match draw.chance(300_000) {
                true => 0,
                false => draw.between(100, 3_000) as i64,
            },
            min_lag_ms,
            max_lag_ms: draw.chance(200_000).then(|| min_lag_ms + draw.between(200, 3_000) as i64),
            dirty_percent: draw.between(0, 60),
            keys: *draw.pick(&[1, 4, 12, 40]),
        });
    }
    setup.core.segment_bytes = draw.between(3_000, 12_000);
    setup.core.cleaner =
        CleanerSettings { backoff_ms: draw.between(30, 500), ..CleanerSettings::default() };
    let cleaner = &mut setup.core.cleaner;
    // Both together a log would not be clean before the run is over.
    match draw.below(3) {
        0 => cleaner.buffer_bytes = KEY_BYTES * draw.between(2, 20),
        1 => cleaner.bytes_per_s = draw.between(500_000, 5_000_000),
        _ => {}
    }
}

/// Mostly what today's libraries speak, and else any version that is advertised.
fn dialect(draw: &mut Stream) -> Dialect {
    let usual = Dialect { encoded: draw.chance(500_000), ..Dialect::default() };
    if draw.chance(300_000) {
        return usual;
    }
    let mut version = |api: ApiKey| {
        let (first, last) = api.versions();
        draw.between(first as u64, last as u64) as i16
    };
    Dialect {
        produce: version(ApiKey::Produce),
        fetch: version(ApiKey::Fetch),
        list_offsets: version(ApiKey::ListOffsets),
        epoch_ends: version(ApiKey::OffsetForLeaderEpoch),
        ..usual
    }
}
