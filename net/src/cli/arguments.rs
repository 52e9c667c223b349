//! The grammar of the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::template::Template;
use crate::config::{HostPort, Start, Tuning, admin_address};

/// A broker that speaks the Apache Kafka protocol and keeps every acknowledged record
#[derive(Debug, Parser)]
#[command(name = "milena", version, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole cluster in this process, for development
    Dev(Dev),
    /// Run one node
    Start(Box<Start>),
    /// Create, list, describe, alter or delete topics
    #[command(subcommand)]
    Topic(TopicCommand),
    /// Write lines of standard input to a topic
    Produce(Produce),
    /// Print the records of a topic
    Consume(Consume),
    /// Look at the cluster
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Measure this machine and clusters on it
    Bench(Box<Bench>),
    /// Print a shell's completion of these commands
    Completion {
        /// Which shell
        shell: Shell,
    },
    /// Write the man pages
    Man {
        /// A directory that exists
        directory: PathBuf,
    },
}

/// Flags of `milena dev`.
#[derive(Debug, Args)]
pub struct Dev {
    /// Where to keep data
    #[arg(long, default_value = "./milena-data", conflicts_with = "ephemeral")]
    pub data: PathBuf,
    /// Keep nothing: data goes to a temporary directory that is removed at the end
    #[arg(long)]
    pub ephemeral: bool,
    /// Kafka port of the first node; the others count on from it. Between themselves nodes take the same ports plus 10000, or
    /// minus 10000 where that is above 65535
    #[arg(long, default_value_t = 9092, value_parser = clap::value_parser!(u16).range(1..=65_000))]
    pub port: u16,
    /// Where the first node serves /metrics, /healthz and /readyz over HTTP, as --admin of milena start; the others count on from
    /// its port. Without it, nowhere
    #[arg(long, value_parser = admin_address)]
    pub admin: Option<HostPort>,
    /// Nodes, each broker and controller
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: u16,
    /// Sizes, times and limits.
    #[command(flatten)]
    pub tuning: Tuning,
}

/// Flags of `milena bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// A directory on the disk to measure; without it, the current one
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Sizes of the clusters
    #[arg(long, value_delimiter = ',', default_value = "1,3", value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: Vec<u16>,
    /// Partitions under load, with one client each
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub partitions: u16,
    /// Size of a client's batches
    #[arg(long, default_value_t = 256 << 10, value_parser = clap::value_parser!(u32).range(1024..=1 << 20))]
    pub batch_bytes: u32,
    /// How long each figure is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub seconds: u16,
    /// How to write the answer
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
    /// Sizes, times and limits.
    #[command(flatten)]
    pub tuning: Tuning,
}

/// How answers are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// For people.
    Human,
    /// For scripts.
    Json,
}

/// What every client command takes.
#[derive(Debug, Args)]
pub struct ClientOptions {
    /// Brokers to ask first, HOST:PORT,...
    #[arg(
        short,
        long,
        env = "MILENA_BOOTSTRAP",
        default_value = "127.0.0.1:9092",
        value_delimiter = ','
    )]
    pub bootstrap: Vec<HostPort>,
    /// How to write the answer; json is one object, or one a line, in which bytes that are not UTF-8 are {"base64": "..."};
    /// errors are then {"error": "...", "exit_code": N} on standard error
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
    /// Give up when the cluster has not answered for so many seconds: lost connections and errors that may pass are tried again
    /// until then, and what takes more than a second is said. Without it, 60 for produce and consume, 10 for all others
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
}

/// What to do with topics.
#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// Create a topic
    Create {
        /// Its name
        name: String,
        /// How many partitions; without it, the cluster's default
        #[arg(short, long, value_parser = clap::value_parser!(i32).range(1..=10_000))]
        partitions: Option<i32>,
        /// Replicas of each partition; without it, the cluster's default
        #[arg(short, long, value_parser = clap::value_parser!(i16).range(1..=15))]
        replication_factor: Option<i16>,
        /// A configuration, name=value; may be repeated
        #[arg(long = "config", value_parser = name_value)]
        configs: Vec<(String, String)>,
        /// Where and how.
        #[command(flatten)]
        client: ClientOptions,
    },
    /// List topics
    List {
        /// Where and how.
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Show a topic's partitions and configurations
    Describe {
        /// Its name
        name: String,
        /// Where and how.
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Give a topic more partitions. Records with keys written from then on may go to other partitions than before
    Alter {
        /// Its name
        name: String,
        /// How many partitions it is to have in all
        #[arg(short, long, value_parser = clap::value_parser!(i32).range(1..=10_000))]
        partitions: i32,
        /// Where and how.
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Delete a topic with all its records
    Delete {
        /// Its name
        name: String,
        /// Where and how.
        #[command(flatten)]
        client: ClientOptions,
    },
}

/// What to look at.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show controllers, brokers, and partitions that are not well
    Status {
        /// Say it with the exit code too: 0 all is well, 1 degraded (a replica, broker or controller lacks), 2 unavailable (no
        /// broker answers, there is no active controller, a partition has no leader or fewer replicas than acks=all needs)
        #[arg(long)]
        check: bool,
        /// Where and how.
        #[command(flatten)]
        client: ClientOptions,
    },
}

/// Flags of `milena produce`.
#[derive(Debug, Args)]
pub struct Produce {
    /// The topic, which exists
    pub topic: String,
    /// Split each line at the first of these: key before, value behind
    #[arg(
        short = 'k',
        long = "key-separator",
        value_name = "TEXT",
        allow_hyphen_values = true,
        conflicts_with = "key"
    )]
    pub key_separator: Option<String>,
    /// One key for all records
    #[arg(long)]
    pub key: Option<String>,
    /// One partition for all records; without it, a key decides, and records without a key go wherever there is a leader
    #[arg(short, long, value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
    /// A header of each record, NAME=VALUE; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = name_value)]
    pub headers: Vec<(String, String)>,
    /// Make an empty value a tombstone (null)
    #[arg(short = 'Z', long)]
    pub tombstones: bool,
    /// How batches are compressed
    #[arg(short = 'z', long, value_enum, default_value_t = Codec::None)]
    pub compression: Codec,
    /// Who has a record on disk when it counts as acknowledged: all in-sync replicas, the leader alone (1), or nobody (0)
    #[arg(long, value_enum, default_value_t = Acks::All)]
    pub acks: Acks,
    /// Whether a batch that is sent again after a lost answer is written once, whichever was taken; needs --acks all. Without this
    /// flag it is, where --acks is all and the brokers give producer ids
    #[arg(long, value_name = "BOOL")]
    pub idempotence: Option<bool>,
    /// Where and how.
    #[command(flatten)]
    pub client: ClientOptions,
}

/// Who acknowledges.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Acks {
    /// All replicas in sync.
    #[value(alias = "-1")]
    All,
    /// The leader.
    #[value(name = "1")]
    Leader,
    /// Nobody: the broker does not answer.
    #[value(name = "0")]
    Nobody,
}

/// How batches are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Codec {
    /// Not at all.
    None,
    /// Gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// Flags of `milena consume`.
#[derive(Debug, Args)]
pub struct Consume {
    /// The topic
    pub topic: String,
    /// beginning, end, an offset, -N for the last N of each partition, or a time: YYYY-MM-DD[THH:MM[:SS[.mmm]]], in UTC unless
    /// an offset such as +01:00 follows, as in 2026-01-31, 2026-01-31T12:00Z or 2026-01-31T13:00:00+01:00
    #[arg(short = 'o', long, default_value = "beginning", allow_negative_numbers = true)]
    pub from: From,
    /// One partition; without it, all
    #[arg(short, long, value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
    /// End after so many records
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Go on with records that are yet to come
    #[arg(long)]
    pub follow: bool,
    /// Print keys too, and this between key and value
    #[arg(short = 'k', long = "key-separator", value_name = "TEXT", allow_hyphen_values = true, conflicts_with_all = ["template", "format"])]
    pub key_separator: Option<String>,
    /// Print each record in this form: %k key, %K its length, %s value, %S its length, %t topic, %p partition, %o offset,
    /// %T timestamp, %h headers, %% percent, and \n \r \t \0 \xHH \\. What is null is (null), its length -1. Without
    /// it, %s\n
    #[arg(short = 'f', long, conflicts_with = "format")]
    pub template: Option<Template>,
    /// Where and how.
    #[command(flatten)]
    pub client: ClientOptions,
}

/// Where to begin reading.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// The first record that is there.
    Beginning,
    /// The next record that comes.
    End,
    /// A record's offset.
    Offset(i64),
    /// So many before the end.
    Last(i64),
    /// The first record at or after it, milliseconds since 1970 UTC.
    Time(i64),
}

impl std::str::FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<From, String> {
        match text {
            "beginning" => return Ok(From::Beginning),
            "end" => return Ok(From::End),
            _ => {}
        }
        if let Ok(offset) = text.parse() {
            return match offset {
                0.. => Ok(From::Offset(offset)),
                i64::MIN => Err("there are not so many records".into()),
                before => Ok(From::Last(-before)),
            };
        }
        parse_time(text).map(From::Time).ok_or_else(|| {
            "give beginning, end, an offset, -N for the last N, or a time such as 2026-01-31T12:00:00Z or 2026-01-31T13:00:00+01:00".into()
        })
    }
}

/// A time of up to a day.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.001..=86_400.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or("give seconds, from 0.001 to 86400".into())
}

fn name_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it is name=value")?;
    Ok((name.into(), value.into()))
}

/// Milliseconds since 1970 of `YYYY-MM-DD[THH:MM[:SS[.mmm]]]`, in UTC, behind which `Z`, or `+HH:MM` or `-HH:MM` say what the
/// clock is ahead of UTC.
fn parse_time(text: &str) -> Option<i64> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00"));
    let (time, ahead) = match time.find(['+', '-']) {
        Some(at) => (&time[..at], &time[at..]),
        None => (time, "+00:00"),
    };
    let numbers = |text: &str, by: char| -> Option<Vec<i64>> {
        text.split(by)
            .map(|part| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())?)
            .collect()
    };
    let [year, month, day] = numbers(date, '-')?.try_into().ok()?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let clock = numbers(time, ':')?;
    let (hour, minute) = (*clock.first()?, *clock.get(1)?);
    let second = clock.get(2).copied().unwrap_or(0);
    let millis = format!("{fraction:0<3}").get(..3)?.parse::<i64>().ok()?;
    let fits = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60
        && clock.len() <= 3;
    let [ahead_hours, ahead_minutes] = numbers(&ahead[1..], ':')?.try_into().ok()?;
    let fits = fits && ahead.len() == 6 && ahead_hours < 24 && ahead_minutes < 60;
    let ahead = (ahead_hours * 60 + ahead_minutes) * if ahead.starts_with('-') { -1 } else { 1 };
    let days = (1970..year).map(|y| if is_leap(y) { 366 } else { 365 }).sum::<i64>()
        + (1..month).map(|m| days_of(year, m)).sum::<i64>()
        + day
        - 1;
    fits.then_some((((days * 24 + hour) * 60 + minute - ahead) * 60 + second) * 1000 + millis)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_utc_or_with_their_offset() {
        assert_eq!(parse_time("1970-01-01"), Some(0));
        assert_eq!(parse_time("2026-11-24T07:06:43Z"), Some(1_795_504_003_000));
        assert_eq!(parse_time("2024-02-29 00:00:00.5"), Some(1_709_164_800_500));
        assert_eq!(parse_time("2026-11-24T08:06:43+01:00"), Some(1_795_504_003_000));
        assert_eq!(parse_time("2026-11-24T01:36:43.000-05:30"), Some(1_795_504_003_000));
        for bad in ["1970-01-01+01:00", "1970-01-02T00:00+1:00", "1970-01-02T00:00+24:00"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
        for bad in ["", "now", "2025-02-29", "2025-13-01", "2025-01-01T24:00", "2025-01-01T1", "-5"]
        {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
        assert_eq!("7".parse(), Ok(From::Offset(7)));
        assert_eq!("-7".parse(), Ok(From::Last(7)));
        assert!(i64::MIN.to_string().parse::<From>().is_err());
        for bad in ["0", "-1", "nan", "inf", "1e9", ""] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
    }
}
