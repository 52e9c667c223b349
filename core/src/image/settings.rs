//! The configurations of topics: one table with their names, defaults and ranges.
//!
//! Creating a topic checks against it, describing one lists it, and whoever acts on a value reads it from here. What is
//! not in the table is refused by name rather than silently ignored.

use std::collections::BTreeMap;

use milena_wire::ErrorCode;
use milena_wire::batch::{TimestampRules, TimestampType};

use crate::storage::{AFTER_MAX_MS, SegmentRules};
use crate::{Config, Refusal, Timestamp};

/// The configuration whose value each partition's record settles.
const MIN_INSYNC_REPLICAS: &str = "min.insync.replicas";

/// The configuration that says whether a topic's old records go.
const CLEANUP_POLICY: &str = "cleanup.policy";
/// Its value when they do.
const DELETE: &str = "delete";
/// Its value when of each key the last record stays.
const COMPACT: &str = "compact";

/// For how long a compacted topic's tombstones stay.
const DELETE_RETENTION: &str = "delete.retention.ms";
/// How dirty a compacted log is cleaned.
const MIN_CLEANABLE_DIRTY_RATIO: &str = "min.cleanable.dirty.ratio";
/// How old a record is before compaction may, and must, look at it.
const MIN_COMPACTION_LAG: &str = "min.compaction.lag.ms";
const MAX_COMPACTION_LAG: &str = "max.compaction.lag.ms";

/// What values a configuration takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A number of 64 bits in a range.
    Long {
        /// Least.
        min: i64,
        /// Greatest.
        max: i64,
    },
    /// A number of 32 bits in a range.
    Int {
        /// Least.
        min: i64,
        /// Greatest.
        max: i64,
    },
    /// A part of a whole, from 0 to 1.
    Ratio,
    /// One of a few words.
    OneOf(&'static [&'static str]),
    /// Any of a few words with commas between them, as often as they like, or nothing.
    List(&'static [&'static str]),
}

/// A configuration of a topic.
#[derive(Clone, Copy, Debug)]
pub struct TopicConfig {
    /// Kafka's name.
    pub name: &'static str,
    /// Kafka's name of the broker-wide default, for those who look for it.
    pub broker_name: &'static str,
    /// Its values.
    pub kind: Kind,
    /// The value of a topic that has none of its own.
    pub default: fn(&Config) -> String,
    /// A sentence.
    pub documentation: &'static str,
}

/// `retention.ms`: a week.
const RETENTION_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// `delete.retention.ms`: a day.
const DELETE_RETENTION_MS: i64 = 24 * 60 * 60 * 1000;
/// `min.cleanable.dirty.ratio`.
const DIRTY_RATIO: f64 = 0.5;
/// `segment.ms`: a week.
const SEGMENT_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// Least `segment.bytes`: a segment is to hold more than its files' own cost.
const SEGMENT_BYTES_MIN: i64 = 16 * 1024;

/// Largest batch of any topic, whatever its `max.message.bytes`: it goes to a follower in one message, of which peers take
/// 128 MiB. No request of a client is that large unless `--request-max-bytes` is raised.
pub const BATCH_BYTES_LIMIT: u32 = 120 << 20;

/// Every configuration that a topic can have, by name.
pub const TOPIC_CONFIGS: &[TopicConfig] = &[
    TopicConfig {
        name: CLEANUP_POLICY,
        broker_name: "log.cleanup.policy",
        kind: Kind::List(&[COMPACT, DELETE]),
        default: |_| DELETE.into(),
        documentation: "What happens to old records: 'delete' removes whole segments by retention.ms and retention.bytes, \
                        'compact' keeps the last record of each key, and both do both; nothing happens if this is \
                        empty, whatever the others say.",
    },
    TopicConfig {
        name: "compression.type",
        broker_name: "compression.type",
        kind: Kind::OneOf(&["producer"]),
        default: |_| "producer".into(),
        documentation: "Batches are kept as the producer compressed them.",
    },
    TopicConfig {
        name: DELETE_RETENTION,
        broker_name: "log.cleaner.delete.retention.ms",
        kind: Kind::Long { min: 0, max: i64::MAX },
        default: |_| DELETE_RETENTION_MS.to_string(),
        documentation: "Milliseconds that a record without a value stays in a compacted topic, so that who reads from the \
                        beginning in that time learns that its key is gone.",
    },
    TopicConfig {
        name: MAX_COMPACTION_LAG,
        broker_name: "log.cleaner.max.compaction.lag.ms",
        kind: Kind::Long { min: 1, max: i64::MAX },
        default: |_| i64::MAX.to_string(),
        documentation: "Milliseconds after which a record is compacted however little of the log is dirty; segments end as \
                        early as that takes.",
    },
    TopicConfig {
        name: "max.message.bytes",
        broker_name: "message.max.bytes",
        kind: Kind::Int { min: 0, max: i32::MAX as i64 },
        default: |config| config.replication.batch_bytes_max.to_string(),
        documentation: "Largest record batch taken from a producer, bytes.",
    },
    TopicConfig {
        name: "message.timestamp.after.max.ms",
        broker_name: "log.message.timestamp.after.max.ms",
        kind: Kind::Long { min: 0, max: i64::MAX },
        default: |_| AFTER_MAX_MS.to_string(),
        documentation: "Milliseconds by which a producer's timestamp may lie ahead of the broker's clock.",
    },
    TopicConfig {
        name: "message.timestamp.before.max.ms",
        broker_name: "log.message.timestamp.before.max.ms",
        kind: Kind::Long { min: 0, max: i64::MAX },
        default: |_| i64::MAX.to_string(),
        documentation: "Milliseconds by which a producer's timestamp may lie behind the broker's clock.",
    },
    TopicConfig {
        name: "message.timestamp.type",
        broker_name: "log.message.timestamp.type",
        kind: Kind::OneOf(&["CreateTime", "LogAppendTime"]),
        default: |_| "CreateTime".into(),
        documentation: "Whether a record keeps the producer's timestamp or gets the broker's.",
    },
    TopicConfig {
        name: MIN_CLEANABLE_DIRTY_RATIO,
        broker_name: "log.cleaner.min.cleanable.ratio",
        kind: Kind::Ratio,
        default: |_| DIRTY_RATIO.to_string(),
        documentation: "The part of a compacted log, from 0 to 1, that must have come since it was last cleaned before it is \
                        cleaned again.",
    },
    TopicConfig {
        name: MIN_COMPACTION_LAG,
        broker_name: "log.cleaner.min.compaction.lag.ms",
        kind: Kind::Long { min: 0, max: i64::MAX },
        default: |_| "0".into(),
        documentation: "Milliseconds that a record stays as it is before compaction may remove it.",
    },
    TopicConfig {
        name: MIN_INSYNC_REPLICAS,
        broker_name: MIN_INSYNC_REPLICAS,
        kind: Kind::Int { min: 1, max: i32::MAX as i64 },
        default: |config| config.replication.min_insync_replicas.to_string(),
        documentation: "Copies on stable storage before a record is acknowledged with acks=all; at most the \
                        replication factor counts.",
    },
    TopicConfig {
        name: "retention.bytes",
        broker_name: "log.retention.bytes",
        kind: Kind::Long { min: -1, max: i64::MAX },
        default: |_| "-1".into(),
        documentation: "Bytes of a partition beyond which its oldest segments go; -1 for no limit.",
    },
    TopicConfig {
        name: "retention.ms",
        broker_name: "log.retention.ms",
        kind: Kind::Long { min: -1, max: i64::MAX },
        default: |_| RETENTION_MS.to_string(),
        documentation: "Age in milliseconds beyond which records go; -1 for no limit.",
    },
    TopicConfig {
        name: "segment.bytes",
        broker_name: "log.segment.bytes",
        kind: Kind::Int { min: SEGMENT_BYTES_MIN, max: i32::MAX as i64 },
        default: |config| config.storage.segment_bytes.to_string(),
        documentation: "Size of a segment file, bytes; retention goes by whole segments.",
    },
    TopicConfig {
        name: "segment.jitter.ms",
        broker_name: "log.roll.jitter.ms",
        kind: Kind::Long { min: 0, max: i64::MAX },
        default: |_| "0".into(),
        documentation: "Milliseconds taken off segment.ms at most, differently for each segment, so that not all end at once.",
    },
    TopicConfig {
        name: "segment.ms",
        broker_name: "log.roll.ms",
        kind: Kind::Long { min: 1, max: i64::MAX },
        default: |_| SEGMENT_MS.to_string(),
        documentation: "Milliseconds that a segment file spans before the next begins; less where retention.ms is less.",
    },
];

/// The configuration of a name, if there is one.
pub fn topic_config(name: &str) -> Option<&'static TopicConfig> {
    TOPIC_CONFIGS.iter().find(|config| config.name == name)
}

/// A value as it is meant: as in Kafka, spaces around it are kept and mean nothing.
fn bare(value: &str) -> &str {
    value.trim_matches(|c| c <= ' ')
}

/// The words of a list.
fn listed(value: &str) -> impl Iterator<Item = &str> {
    let all = (!value.is_empty()).then(|| value.split(',').map(bare));
    all.into_iter().flatten()
}

/// A topic's own configurations as asked for, checked.
///
/// # Errors
///
/// `INVALID_CONFIG` with the name of the first that is unknown, given twice, without a value, or out of range.
pub fn check_topic_configs(
    asked: &[(String, Option<String>)],
) -> Result<BTreeMap<String, String>, Refusal> {
    let mut configs = BTreeMap::new();
    let mut seen = Vec::new();
    for (name, value) in asked {
        let refuse = |message: String| Err(Refusal::new(ErrorCode::INVALID_CONFIG, message));
        let Some(config) = topic_config(name) else {
            return refuse(format!("topic configuration {name} is not supported"));
        };
        if seen.contains(&config.name) {
            return refuse(format!("topic configuration {name} is given twice"));
        }
        seen.push(config.name);
        let Some(value) = value else {
            return refuse(format!("topic configuration {name} has no value"));
        };
        if let Err(expected) = config.check(value) {
            return refuse(format!("{name} takes {expected}, not {value:?}"));
        }
        configs.insert(name.clone(), value.clone());
    }
    // Whether it is compacted or not, as Apache Kafka.
    let lag = |name, default| {
        let own = configs.get(name).and_then(|value| bare(value).parse::<i64>().ok());
        own.unwrap_or(default)
    };
    let (least, most) = (lag(MIN_COMPACTION_LAG, 0), lag(MAX_COMPACTION_LAG, i64::MAX));
    if least > most {
        let message =
            format!("{MIN_COMPACTION_LAG} ({least}) is more than {MAX_COMPACTION_LAG} ({most})");
        return Err(Refusal::new(ErrorCode::INVALID_CONFIG, message));
    }
    Ok(configs)
}

impl TopicConfig {
    /// Whether a value is one of its values; if not, which are.
    ///
    /// # Errors
    ///
    /// What it takes, in words.
    pub fn check(&self, value: &str) -> Result<(), String> {
        let value = bare(value);
        match self.kind {
            Kind::Long { min, max } | Kind::Int { min, max } => {
                let number = value.parse::<i64>().ok();
                if number.is_some_and(|number| (min..=max).contains(&number)) {
                    Ok(())
                } else {
                    Err(format!("a number from {min} to {max}"))
                }
            }
            Kind::Ratio => match value.parse::<f64>() {
                Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(()),
                _ => Err("a number from 0 to 1".into()),
            },
            Kind::OneOf(words) if words.contains(&value) => Ok(()),
            Kind::OneOf(words) => Err(words.join(" or ")),
            Kind::List(words) if listed(value).all(|word| words.contains(&word)) => Ok(()),
            Kind::List(words) => Err(format!("a list of {}", words.join(", "))),
        }
    }

    /// The value in force for a topic: its own, or the default. Of `min.insync.replicas` the default is what stands in the
    /// partitions' records as `min_isr`: it was settled when they were made, whatever this node was started with.
    pub fn value(&self, own: &BTreeMap<String, String>, min_isr: u16, config: &Config) -> String {
        match own.get(self.name) {
            Some(own) => own.clone(),
            None if self.name == MIN_INSYNC_REPLICAS => min_isr.to_string(),
            None => (self.default)(config),
        }
    }
}

/// When a compacted topic's logs are cleaned, and what stays.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct CompactionSettings {
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// `min.compaction.lag.ms`.
    pub min_lag_ms: i64,
    /// `max.compaction.lag.ms`.
    pub max_lag_ms: i64,
    /// `min.cleanable.dirty.ratio`.
    pub dirty_ratio: f64,
}

/// A topic's configurations as numbers, for those who act on them.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TopicSettings {
    /// What `cleanup.policy` says of compaction; none where it is not among its words.
    pub compaction: Option<CompactionSettings>,
    /// `retention.ms`, negative for no limit, as where `cleanup.policy` is empty.
    pub retention_ms: i64,
    /// `retention.bytes`, negative for no limit, as where `cleanup.policy` is empty.
    pub retention_bytes: i64,
    /// `segment.bytes`.
    pub segment_bytes: u64,
    /// `segment.ms`.
    pub segment_ms: i64,
    /// `segment.jitter.ms`.
    pub segment_jitter_ms: i64,
    /// `max.message.bytes`.
    pub batch_bytes_max: u32,
    /// `min.insync.replicas` as configured; a partition's record holds the effective one.
    pub min_insync_replicas: u16,
    /// Whether `message.timestamp.type` is `LogAppendTime`.
    pub log_append_time: bool,
    /// `message.timestamp.before.max.ms`.
    pub before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub after_max_ms: i64,
}

impl TopicSettings {
    /// What is in force for a topic with these configurations of its own.
    pub fn new(own: &BTreeMap<String, String>, config: &Config) -> TopicSettings {
        let own = |name: &str| own.get(name).map(|value| bare(value));
        // What is in an image was checked before it was committed; what could not be read would have its default.
        let number = |name: &str| own(name).and_then(|value| value.parse::<i64>().ok());
        let (retention_ms, retention_bytes) = match own(CLEANUP_POLICY) {
            Some(policy) if !listed(policy).any(|word| word == DELETE) => (-1, -1),
            _ => {
                let ms = number("retention.ms").unwrap_or(RETENTION_MS);
                (ms, number("retention.bytes").unwrap_or(-1))
            }
        };
        let is_compacted =
            own(CLEANUP_POLICY).is_some_and(|policy| listed(policy).any(|word| word == COMPACT));
        let ratio = || own(MIN_CLEANABLE_DIRTY_RATIO).and_then(|value| value.parse().ok());
        let compaction = is_compacted.then(|| CompactionSettings {
            delete_retention_ms: number(DELETE_RETENTION).unwrap_or(DELETE_RETENTION_MS),
            min_lag_ms: number(MIN_COMPACTION_LAG).unwrap_or(0),
            max_lag_ms: number(MAX_COMPACTION_LAG).unwrap_or(i64::MAX),
            dirty_ratio: ratio().unwrap_or(DIRTY_RATIO),
        });
        TopicSettings {
            compaction,
            retention_ms,
            retention_bytes,
            segment_bytes: number("segment.bytes")
                .and_then(|bytes| bytes.try_into().ok())
                .unwrap_or(config.storage.segment_bytes),
            segment_ms: number("segment.ms").unwrap_or(SEGMENT_MS),
            segment_jitter_ms: number("segment.jitter.ms").unwrap_or(0),
            batch_bytes_max: number("max.message.bytes")
                .and_then(|bytes| bytes.try_into().ok())
                .unwrap_or(config.replication.batch_bytes_max)
                .min(BATCH_BYTES_LIMIT),
            min_insync_replicas: number(MIN_INSYNC_REPLICAS)
                .map(|replicas| replicas.clamp(1, i64::from(u16::MAX)) as u16)
                .unwrap_or(config.replication.min_insync_replicas),
            log_append_time: own("message.timestamp.type") == Some("LogAppendTime"),
            before_max_ms: number("message.timestamp.before.max.ms").unwrap_or(i64::MAX),
            after_max_ms: number("message.timestamp.after.max.ms").unwrap_or(AFTER_MAX_MS),
        }
    }

    /// When this topic's segments end: early enough for a trickle of records to expire and to be compacted, though no more
    /// often than retention and the cleaner look.
    pub fn segment_rules(&self, config: &Config) -> SegmentRules {
        let check_ms = i64::try_from(config.storage.retention_check_ms).unwrap_or(i64::MAX);
        let ms = match self.retention_ms {
            ..0 => self.segment_ms,
            retention_ms => self.segment_ms.min(retention_ms.max(check_ms)),
        };
        let looks_ms = i64::try_from(config.storage.cleaner_backoff_ms).unwrap_or(i64::MAX);
        let ms = self.compaction.map_or(ms, |compaction| {
            ms.min(compaction.max_lag_ms.max(self.segment_ms.min(looks_ms)))
        });
        let (bytes, jitter_ms) = (self.segment_bytes, self.segment_jitter_ms);
        SegmentRules { bytes, ms, jitter_ms, ahead_ms_max: self.after_max_ms }
    }

    /// Which times are taken from producers at this one, and whose are kept.
    pub fn timestamp_rules(&self, now: Timestamp) -> TimestampRules {
        let timestamp_type = if self.log_append_time {
            TimestampType::LogAppendTime
        } else {
            TimestampType::CreateTime
        };
        let (before_max_ms, after_max_ms) = (self.before_max_ms, self.after_max_ms);
        TimestampRules { now, timestamp_type, before_max_ms, after_max_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::tests::config;

    /// As in Apache Kafka, an empty policy keeps everything.
    #[test]
    fn without_a_cleanup_policy_nothing_is_too_old_or_too_much() {
        let in_force = |policy: &str| {
            let limits = ["retention.ms", "retention.bytes"].map(|name| (name, " 1\t"));
            let asked = limits.into_iter().chain([("cleanup.policy", policy)]);
            let asked: Vec<_> =
                asked.map(|(name, value)| (name.into(), Some(value.into()))).collect();
            let own = check_topic_configs(&asked).unwrap();
            let settings = TopicSettings::new(&own, &config());
            (settings.retention_ms, settings.retention_bytes)
        };
        assert_eq!(in_force("delete"), (1, 1));
        assert_eq!(in_force(" delete ,delete"), (1, 1));
        assert_eq!(in_force(" "), (-1, -1));
    }

    fn settings(asked: &[(&str, &str)]) -> Result<TopicSettings, Refusal> {
        let asked: Vec<_> =
            asked.iter().map(|(name, value)| (name.to_string(), Some(value.to_string()))).collect();
        Ok(TopicSettings::new(&check_topic_configs(&asked)?, &config()))
    }

    #[test]
    fn what_a_policy_compacts_and_deletes() {
        let in_force = |policy: &str| {
            let asked = [("retention.ms", "7"), ("retention.bytes", "8"), (CLEANUP_POLICY, policy)];
            let settings = settings(&asked).unwrap();
            (settings.compaction.is_some(), settings.retention_ms, settings.retention_bytes)
        };
        assert_eq!(in_force("compact"), (true, -1, -1));
        assert_eq!(in_force("compact,delete"), (true, 7, 8));
        assert_eq!(in_force(" delete , compact,compact"), (true, 7, 8));
        assert_eq!(in_force("delete"), (false, 7, 8));
        assert_eq!(in_force(""), (false, -1, -1));
        let refused = settings(&[(CLEANUP_POLICY, "compact,")]).unwrap_err();
        assert_eq!(refused.code, ErrorCode::INVALID_CONFIG);
    }

    #[test]
    fn a_compacted_topic_has_kafkas_defaults_or_its_own() {
        let own = |more: &[(&str, &str)]| {
            let asked = [&[(CLEANUP_POLICY, "compact")], more].concat();
            settings(&asked).unwrap().compaction.unwrap()
        };
        let defaults = CompactionSettings {
            delete_retention_ms: 86_400_000,
            min_lag_ms: 0,
            max_lag_ms: i64::MAX,
            dirty_ratio: 0.5,
        };
        assert_eq!(own(&[]), defaults);
        let all = own(&[
            (DELETE_RETENTION, "0"),
            (MIN_COMPACTION_LAG, " 5"),
            (MAX_COMPACTION_LAG, "5 "),
            (MIN_CLEANABLE_DIRTY_RATIO, " 1e-2 "),
        ]);
        let expected = CompactionSettings {
            delete_retention_ms: 0,
            min_lag_ms: 5,
            max_lag_ms: 5,
            dirty_ratio: 0.01,
        };
        assert_eq!(all, expected);
    }

    #[test]
    fn what_compaction_cannot_go_by_is_refused() {
        for asked in [
            &[(DELETE_RETENTION, "-1")][..],
            &[(MIN_COMPACTION_LAG, "-1")],
            &[(MAX_COMPACTION_LAG, "0")],
            &[(MIN_CLEANABLE_DIRTY_RATIO, "-0.1")],
            &[(MIN_CLEANABLE_DIRTY_RATIO, "1.1")],
            &[(MIN_CLEANABLE_DIRTY_RATIO, "nan")],
            &[(MIN_CLEANABLE_DIRTY_RATIO, "half")],
            // Of a topic that is not compacted too.
            &[(MIN_COMPACTION_LAG, "6"), (MAX_COMPACTION_LAG, "5")],
        ] {
            assert_eq!(settings(asked).unwrap_err().code, ErrorCode::INVALID_CONFIG, "{asked:?}");
        }
        for ratio in ["0", "1", "0.0", "1.0", ".5"] {
            assert!(settings(&[(MIN_CLEANABLE_DIRTY_RATIO, ratio)]).is_ok(), "{ratio}");
        }
    }

    #[test]
    fn segments_end_early_enough_to_be_compacted_in_time() {
        let ms = |policy: &str, segment: &str, lag: &str| {
            let asked =
                [(CLEANUP_POLICY, policy), ("segment.ms", segment), (MAX_COMPACTION_LAG, lag)];
            settings(&asked).unwrap().segment_rules(&config()).ms
        };
        assert_eq!(ms("compact", "100000", "60000"), 60_000);
        assert_eq!(ms("compact", "50000", "60000"), 50_000);
        assert_eq!(ms("compact", "100000", "1"), 15_000);
        assert_eq!(ms("compact", "10", "1"), 10);
        assert_eq!(ms("delete", "100000", "60000"), 100_000);
    }

    /// A batch that no peer takes in one message could be appended and never be replicated.
    #[test]
    fn a_batch_is_never_larger_than_what_peers_take() {
        let value = |bytes: u32| vec![("max.message.bytes".to_string(), Some(bytes.to_string()))];
        for (asked, in_force) in [(64 << 20, 64 << 20), (i32::MAX as u32, BATCH_BYTES_LIMIT)] {
            let own = check_topic_configs(&value(asked)).unwrap();
            assert_eq!(TopicSettings::new(&own, &config()).batch_bytes_max, in_force);
        }
        let refused = check_topic_configs(&value(1 << 31)).unwrap_err();
        assert_eq!(refused.code, ErrorCode::INVALID_CONFIG);
    }
}
