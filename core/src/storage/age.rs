//! From when records count as written: what retention and the time at which a segment ends go by.
//!
//! A batch counts from its largest record time where that can be true, and from when this node appended it where there is none or
//! it lies too far ahead: a time from outside decides no lifetime unchecked. A segment counts from the latest of its
//! batches, so none of them goes before its time.

use super::codec::checksum;
use crate::{LogId, Offset, Timestamp};

/// How far ahead of its append a record's time may lie and be believed, and what a topic's `message.timestamp.after.max.ms` is
/// unless it says otherwise: an hour.
pub const AFTER_MAX_MS: i64 = 60 * 60 * 1000;

/// A journal record says so where its batch counts from its own time. Records of older versions say 0.
pub(super) const OWN_TIME: u32 = u32::MAX;

/// When the segments of a log end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentRules {
    /// Most bytes, where more than one batch makes them up.
    pub bytes: u64,
    /// Most milliseconds between its first batch and a later one.
    pub ms: i64,
    /// So many of those are taken off at most, differently for each segment: that not all end at once.
    pub jitter_ms: i64,
    /// Milliseconds by which a time may lie ahead of this node's clock and be believed.
    pub ahead_ms_max: i64,
}

impl SegmentRules {
    /// Segments of so many bytes that no time ends, of batches whose times are all believed.
    pub fn of_bytes(bytes: u64) -> SegmentRules {
        SegmentRules { bytes, ms: i64::MAX, jitter_ms: 0, ahead_ms_max: i64::MAX }
    }

    /// When a batch is appended, as its journal record keeps it: seconds since 1970, rounded up so that no record goes early, or
    /// [`OWN_TIME`].
    pub(super) fn appended_s(&self, own: Timestamp, wall: Timestamp) -> u32 {
        if is_believed(own, wall, self.ahead_ms_max) { OWN_TIME } else { seconds(wall) }
    }

    /// Whether a batch that counts from `born` is too late for a segment whose first one counts from `begun`.
    pub(super) fn too_late(
        &self,
        log: LogId,
        base: Offset,
        begun: Timestamp,
        born: Timestamp,
    ) -> bool {
        let jitter = match self.jitter_ms.min(self.ms) {
            0 => 0,
            most => {
                let partition = log.partition.to_le_bytes();
                let of = [log.topic.0.as_slice(), partition.as_slice(), &base.to_le_bytes()];
                (checksum(0, of) % most.unsigned_abs()) as i64
            }
        };
        born.saturating_sub(begun) > self.ms - jitter
    }
}

fn is_believed(own: Timestamp, wall: Timestamp, ahead_ms_max: i64) -> bool {
    (0..=wall.saturating_add(ahead_ms_max)).contains(&own)
}

/// A time as a journal record keeps it.
pub(super) fn seconds(wall: Timestamp) -> u32 {
    let seconds = wall.saturating_add(999).div_euclid(1_000);
    seconds.clamp(1, i64::from(OWN_TIME - 1)) as u32
}

/// When a change was made, as far as its journal record says, else now.
pub(super) fn appended(appended_s: u32, now: Timestamp) -> Timestamp {
    match appended_s {
        0 | OWN_TIME => now,
        seconds => i64::from(seconds) * 1_000,
    }
}

/// From when a batch counts, by its own time and its journal record.
pub(super) fn born(own: Timestamp, appended_s: u32, now: Timestamp) -> Timestamp {
    match appended_s {
        0 => born_before(own, now),
        OWN_TIME => own,
        seconds => i64::from(seconds) * 1_000,
    }
}

/// From when something counts of which an older version has not said so: from its own time if that can be true, else from now.
pub(super) fn born_before(own: Timestamp, now: Timestamp) -> Timestamp {
    if is_believed(own, now, AFTER_MAX_MS) { own } else { now }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: SegmentRules =
        SegmentRules { bytes: 1, ms: 1_000, jitter_ms: 0, ahead_ms_max: 500 };

    fn counted(own: Timestamp, wall: Timestamp) -> Timestamp {
        born(own, RULES.appended_s(own, wall), 7)
    }

    #[test]
    fn a_time_is_believed_unless_it_is_missing_or_far_ahead() {
        assert_eq!(
            [counted(0, 9_001), counted(8_000, 9_001), counted(9_501, 9_001)],
            [0, 8_000, 9_501]
        );
        assert_eq!(
            [counted(-1, 9_001), counted(9_502, 9_001), counted(i64::MAX, 9_000)],
            [10_000, 10_000, 9_000]
        );
        assert_eq!(counted(-1, -5), 1_000, "a clock before 1970 still leaves a mark in the record");
        let old = |own| born(own, 0, 7);
        assert_eq!(
            [old(-1), old(3), old(8 + AFTER_MAX_MS)],
            [7, 3, 7],
            "records of older versions"
        );
    }

    #[test]
    fn a_segment_ends_by_time_and_jitter_takes_some_of_it() {
        let late =
            |rules: SegmentRules, base, born| rules.too_late(LogId::METADATA, base, 100, born);
        assert_eq!(
            [late(RULES, 0, 1_100), late(RULES, 0, 1_101), late(RULES, 0, -9)],
            [false, true, false]
        );
        let jittered = SegmentRules { jitter_ms: 300, ..RULES };
        let least = |base| (0..2_000).find(|born| late(jittered, base, *born)).expect("it ends");
        let ends: Vec<Timestamp> = (0..50).map(least).collect();
        assert!(ends.iter().all(|end| (801..=1_101).contains(end)), "{ends:?}");
        assert!(
            ends.iter().any(|end| *end < 900) && ends.iter().any(|end| *end > 1_000),
            "{ends:?}"
        );
        assert!(!SegmentRules::of_bytes(1).too_late(LogId::METADATA, 0, i64::MIN, i64::MAX));
    }
}
