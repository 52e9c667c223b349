//! Compacted logs of both, given the same keyed writes under the same settings: what is left of them, when each has cleaned all
//! that it may, is the same, record by record and tombstone by tombstone.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::brokers::Broker;
use crate::install::Installed;

/// How long both may take to clean.
const CLEANED: Duration = Duration::from_secs(90);
/// Records of each topic, but for those that only end segments.
const RECORDS: usize = 40_000;
/// Their keys.
const KEYS: u64 = 300;
/// The key of what ends segments: the active one holds nothing else.
const FILLER: &str = "filler";
/// A topic each, with how long tombstones stay.
const TOPICS: [(&str, &str); 2] = [("keeps", "86400000"), ("drops", "0")];

/// A record: its offset, key and value, none of a tombstone.
type Entry = (i64, String, Option<String>);

/// Writes the same to both, waits until both have cleaned it, and compares.
pub fn compare(installed: &Installed, milena: &Path) -> Result<()> {
    let brokers = [Broker::kafka_that_cleans(installed)?, Broker::milena_that_cleans(milena)?];
    let sides = brokers.each_ref().map(|broker| Side { milena, port: broker.port });
    let (text, last) = writes();
    for (topic, delete_retention_ms) in TOPICS {
        for side in &sides {
            side.create(topic, delete_retention_ms)?;
            side.write(topic, &text)?;
        }
    }
    for (topic, _) in TOPICS {
        let expected: Vec<Entry> = {
            let stays = |(key, (offset, value)): (&String, &(i64, Option<String>))| {
                (value.is_some() || topic == "keeps").then(|| (*offset, key.clone(), value.clone()))
            };
            let mut stays: Vec<Entry> = last.iter().filter_map(stays).collect();
            stays.sort();
            stays
        };
        for (side, name) in sides.iter().zip(["Apache Kafka", "Milena"]) {
            let begun = Instant::now();
            let left = loop {
                // Something new, so that the cleaner looks again: a tombstone goes when it is cleaned for the second time.
                side.write(topic, &filler())?;
                std::thread::sleep(Duration::from_millis(700));
                let left = side.read(topic)?;
                if left.len() <= expected.len() || begun.elapsed() > CLEANED {
                    break left;
                }
            };
            let other = left.iter().zip(&expected).find(|(is, should)| is != should);
            ensure!(
                left == expected,
                "{name}, {topic}: {} records are left where {} should be; first {other:?}",
                left.len(),
                expected.len()
            );
        }
        println!("{topic}: both keep the same {} of {RECORDS} records", expected.len());
    }
    Ok(())
}

/// Lines of keys and values, and the last of each key with its offset.
fn writes() -> (String, BTreeMap<String, (i64, Option<String>)>) {
    let (mut text, mut last, mut state) = (String::new(), BTreeMap::new(), 1_u64);
    for offset in 0..RECORDS {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (key, ends) =
            (format!("key-{}", (state >> 33) % KEYS), (state >> 50).is_multiple_of(8));
        let value = (!ends).then(|| format!("{offset:0>200}"));
        let _ = writeln!(text, "{key}:{}", value.as_deref().unwrap_or(""));
        last.insert(key, (offset as i64, value));
    }
    text += &filler();
    (text, last)
}

/// More than two segments.
fn filler() -> String {
    let line = format!("{FILLER}:{}\n", "x".repeat(1_000));
    line.repeat(2_300)
}

/// One of the two, reached by our commands.
struct Side<'a> {
    milena: &'a Path,
    port: u16,
}

impl Side<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.milena);
        command.args(words).args(["--bootstrap", &format!("127.0.0.1:{}", self.port)]);
        command
    }

    fn create(&self, topic: &str, delete_retention_ms: &str) -> Result<()> {
        let retention = format!("delete.retention.ms={delete_retention_ms}");
        let mut command = self.command(&["topic", "create", topic, "--partitions", "1"]);
        command.args(["--replication-factor", "1"]);
        for config in [
            "cleanup.policy=compact",
            "segment.bytes=1048576",
            "min.cleanable.dirty.ratio=0.01",
            &retention,
        ] {
            command.args(["--config", config]);
        }
        succeed(&mut command, "").map(drop)
    }

    fn write(&self, topic: &str, text: &str) -> Result<()> {
        let words = ["produce", topic, "--key-separator", ":", "--tombstones"];
        succeed(&mut self.command(&words), text).map(drop)
    }

    /// What is left, but for what ends segments.
    fn read(&self, topic: &str) -> Result<Vec<Entry>> {
        let words = ["consume", topic, "--template", "%o %k %s\\n"];
        let text = succeed(&mut self.command(&words), "")?;
        let mut entries = Vec::new();
        for line in text.lines() {
            let mut words = line.splitn(3, ' ');
            let mut word = || words.next().context("a record has an offset, a key and a value");
            let (offset, key, value) = (word()?.parse()?, word()?.to_owned(), word()?.to_owned());
            if key != FILLER {
                entries.push((offset, key, Some(value).filter(|value| value != "(null)")));
            }
        }
        Ok(entries)
    }
}

/// Runs a command that must succeed, and gives what it printed.
fn succeed(command: &mut Command, input: &str) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command:?}: {said}");
        Ok(String::from_utf8(output.stdout)?)
    })
}
