//! The grammar of the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{HostPort, Start, Tuning};

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
    /// Create, list, describe or delete topics
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
    #[arg(long, env = "MILENA_BOOTSTRAP", default_value = "127.0.0.1:9092", value_delimiter = ',')]
    pub bootstrap: Vec<HostPort>,
    /// How to write the answer
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
}

/// What to do with topics.
#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// Create a topic
    Create {
        /// Its name
        name: String,
        /// How many partitions
        #[arg(long, value_parser = clap::value_parser!(i32).range(1..=10_000))]
        partitions: i32,
        /// Replicas of each partition
        #[arg(long, value_parser = clap::value_parser!(i16).range(1..=15))]
        replication_factor: i16,
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
    Status(ClientOptions),
}

/// Flags of `milena produce`.
#[derive(Debug, Args)]
pub struct Produce {
    /// The topic, which exists
    pub topic: String,
    /// Split each line at the first of these: key before, value behind
    #[arg(short = 'k', long = "key-separator")]
    pub key_separator: Option<String>,
    /// Where and how.
    #[command(flatten)]
    pub client: ClientOptions,
}

/// Flags of `milena consume`.
#[derive(Debug, Args)]
pub struct Consume {
    /// The topic
    pub topic: String,
    /// beginning, end, an offset, or a time: YYYY-MM-DD[THH:MM[:SS[.mmm]]], in UTC unless an offset such as +01:00 follows, as
    /// in 2026-01-31, 2026-01-31T12:00Z or 2026-01-31T13:00:00+01:00
    #[arg(long, default_value = "beginning")]
    pub from: From,
    /// One partition; without it, all
    #[arg(long, value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
    /// Go on with records that are yet to come
    #[arg(long)]
    pub follow: bool,
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
            return if offset >= 0 {
                Ok(From::Offset(offset))
            } else {
                Err("offsets begin at 0".into())
            };
        }
        parse_time(text).map(From::Time).ok_or_else(|| {
            "give beginning, end, an offset, or a time such as 2026-01-31T12:00:00Z or 2026-01-31T13:00:00+01:00".into()
        })
    }
}

fn name_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a configuration is name=value")?;
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
        assert!("-7".parse::<From>().is_err());
    }
}
