//! Time as core sees it: handed in with each step, never read.

use serde::{Deserialize, Serialize};

/// Nanoseconds on the node's own monotonic clock. Compared only with others of the same node and run.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct Instant(pub u64);

impl Instant {
    /// This instant moved `millis` later; saturates.
    pub const fn after_ms(self, millis: u64) -> Instant {
        Instant(self.0.saturating_add(millis.saturating_mul(1_000_000)))
    }

    /// Whole milliseconds since `earlier`, 0 if that is later.
    pub const fn ms_since(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000_000
    }
}

/// Wall clock, milliseconds since 1970 UTC. Data for records and retention; never compared for safety.
pub type Timestamp = i64;

/// What the driver read once before a step.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Now {
    /// The monotonic clock, for deadlines.
    pub mono: Instant,
    /// The wall clock, for data.
    pub wall: Timestamp,
}

/// For so long after a start, or after a controller has begun, a request waits for what it needs and is not known yet,
/// milliseconds.
pub(crate) const EARLY_MS: u64 = 3_000;
/// For so long a broker that serves waits for others that may lead what has no leader: who starts when it does is there by then,
/// milliseconds.
pub(crate) const OTHERS_MS: u64 = 1_000;
