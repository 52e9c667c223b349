//! `milena produce`: lines of standard input become records, acknowledged with acks=all.
//!
//! Records with a key go where every client of Kafka would send them (murmur2 of the key); those without fill one batch per
//! partition in turn. Lines that are there at once travel together; a lone line is not held back.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use milena_wire::batch::{BatchBuilder, Compression};
use milena_wire::messages::{
    ProduceRequest,
    metadata::MetadataResponseTopic,
    produce::{PartitionProduceData, TopicProduceData},
};
use milena_wire::{Request, Response};
use serde_json::json;

use super::arguments::Produce;
use super::topic::topic_configs;
use super::{Failure, count, output};
use crate::client::{Client, check, is_passing};

/// A batch is sent at this size, before compression.
const BATCH_BYTES: usize = 512 << 10;
/// How long one batch may take, its repetitions included.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(60);

/// What a record adds to its batch beside key and value, at most.
const RECORD_OVERHEAD_MAX: usize = 32;

/// Sends all lines, up to the first that cannot be sent.
pub fn run(command: &Produce) -> Result<(), Failure> {
    let client = Client::new(
        command.client.bootstrap.iter().map(ToString::to_string).collect(),
        DELIVERY_TIMEOUT,
    );
    let mut sender = Sender::new(client, &command.topic)?;
    let ended = send_all(&mut sender, command.key_separator.as_deref());
    let (topic, acknowledged) = (&command.topic, sender.acknowledged);
    let shown = count(acknowledged, "record");
    if let Err(error) = ended {
        return Err(Failure::Failed(format!("{error:#}; {shown} acknowledged before")));
    }
    output(
        command.client.format,
        || format!("{shown} acknowledged in {topic}"),
        || json!({"topic": topic, "acknowledged": acknowledged}),
    )
}

fn send_all(sender: &mut Sender, separator: Option<&str>) -> Result<()> {
    let mut input = BufReader::with_capacity(1 << 20, std::io::stdin());
    let (mut line, mut number) = (Vec::new(), 0_u64);
    loop {
        line.clear();
        number += 1;
        if input.read_until(b'\n', &mut line).context("standard input")? == 0 {
            return sender.flush();
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        let (key, value) = match separator {
            Some(separator) => {
                let Some(parts) = split(&line, separator.as_bytes()) else {
                    sender.flush()?;
                    bail!(
                        "{}, line {number}: there is no {separator:?} between key and value",
                        sender.name
                    );
                };
                parts
            }
            None => (None, &line[..]),
        };
        sender.add(number, key, value)?;
        // Nothing more is there at once: what waits must not wait for it.
        if !input.buffer().contains(&b'\n') {
            sender.flush()?;
        }
    }
}

fn split<'a>(line: &'a [u8], separator: &[u8]) -> Option<(Option<&'a [u8]>, &'a [u8])> {
    let at = line.windows(separator.len().max(1)).position(|window| window == separator)?;
    Some((Some(&line[..at]), &line[at + separator.len()..]))
}

struct Sender {
    client: Client,
    name: String,
    topic: MetadataResponseTopic,
    /// Largest batch that the topic takes, if its broker says.
    batch_bytes_max: Option<usize>,
    /// By partition.
    waiting: BTreeMap<i32, Batch>,
    turn: usize,
    acknowledged: u64,
}

/// Lines that travel together, and their numbers.
struct Batch {
    records: BatchBuilder,
    first_line: u64,
    last_line: u64,
}

impl Sender {
    fn new(mut client: Client, name: &str) -> Result<Sender> {
        let topic = client.topic(name)?;
        // A broker that does not say will judge the batches itself.
        let configs = topic_configs(&mut client, name).unwrap_or_default();
        let batch_bytes_max = configs
            .iter()
            .find(|config| config.name == "max.message.bytes")
            .and_then(|config| config.value.as_ref()?.parse().ok());
        let (waiting, name) = (BTreeMap::new(), name.into());
        Ok(Sender { client, name, topic, batch_bytes_max, waiting, turn: 0, acknowledged: 0 })
    }

    /// Takes a line, and sends what waits where it has become enough or would become too much.
    fn add(&mut self, line: u64, key: Option<&[u8]>, value: &[u8]) -> Result<()> {
        let enough = self.batch_bytes_max.map_or(BATCH_BYTES, |most| most.min(BATCH_BYTES));
        let partition = self.partition(key);
        let more = key.map_or(0, <[u8]>::len) + value.len() + RECORD_OVERHEAD_MAX;
        if let Some(batch) = self.waiting.get(&partition)
            && batch.records.size() + more > enough
        {
            self.flush()?;
        }
        let partition = self.partition(key);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let batch = self.waiting.entry(partition).or_insert_with(|| Batch {
            records: BatchBuilder::new(0, -1, Compression::None),
            first_line: line,
            last_line: line,
        });
        batch.records.append(now.as_millis() as i64, key, Some(value), &[]);
        batch.last_line = line;
        if batch.records.size() >= enough { self.flush() } else { Ok(()) }
    }

    fn partition(&self, key: Option<&[u8]>) -> i32 {
        let count = self.topic.partitions.len();
        let index = match key {
            Some(key) => (murmur2(key) & 0x7fff_ffff) as usize % count,
            None => self.turn % count,
        };
        self.topic.partitions[index].partition_index
    }

    /// Sends what waits, what came first before the rest.
    fn flush(&mut self) -> Result<()> {
        self.turn += 1;
        let mut batches: Vec<(i32, Batch)> =
            std::mem::take(&mut self.waiting).into_iter().collect();
        batches.sort_by_key(|(_, batch)| batch.first_line);
        for (partition, batch) in batches {
            self.send(partition, batch.records.build()).with_context(|| {
                let (name, first, last) = (&self.name, batch.first_line, batch.last_line);
                match first == last {
                    true => format!("{name}-{partition}, line {first}"),
                    false => format!("{name}-{partition}, a batch of lines {first} to {last}"),
                }
            })?;
            self.acknowledged += batch.records.records_count() as u64;
        }
        Ok(())
    }

    fn send(&mut self, partition: i32, records: bytes::Bytes) -> Result<()> {
        if let Some(most) = self.batch_bytes_max.filter(|most| records.len() > *most) {
            bail!("{} bytes as a batch, max.message.bytes is {most}", records.len());
        }
        let (name, topic) = (&self.name, &mut self.topic);
        self.client.again(|client| {
            let leader = topic
                .partitions
                .iter()
                .find(|p| p.partition_index == partition)
                .with_context(|| format!("{name} has no partition {partition}"))?
                .leader_id;
            let request = request(topic, name, partition, records.clone());
            let sent = client
                .address(leader)
                .and_then(|address| client.at(&address, &request))
                .and_then(answer);
            match sent {
                Ok(done) => Ok(done),
                Err(error) => {
                    *topic = client.topic(name)?;
                    Err(error)
                }
            }
        })?
    }
}

fn request(
    topic: &MetadataResponseTopic,
    name: &str,
    partition: i32,
    records: bytes::Bytes,
) -> Request {
    ProduceRequest {
        transactional_id: None,
        acks: -1,
        timeout_ms: 10_000,
        topic_data: vec![TopicProduceData {
            name: name.into(),
            topic_id: topic.topic_id,
            partition_data: vec![PartitionProduceData { index: partition, records: Some(records) }],
        }],
    }
    .into()
}

/// Whether it was taken: an error outside for what may pass, inside for what will not.
fn answer(response: Response) -> Result<Result<()>> {
    let Response::Produce(answer) = response else { bail!("the broker answered something else") };
    let partition = answer
        .responses
        .first()
        .and_then(|topic| topic.partition_responses.first())
        .context("the broker left the partition out")?;
    match check(partition.error_code, partition.error_message.as_deref()) {
        Err(error) if is_passing(partition.error_code) => Err(error),
        result => Ok(result),
    }
}

/// Kafka's hash of keys: Austin Appleby's murmur2, with the seed that the Java client took.
fn murmur2(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ key.len() as u32;
    let mut words = key.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that Kafka's own documentation of the hash gives for its tests.
    #[test]
    fn keys_hash_as_in_kafka() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    #[test]
    fn lines_are_split_at_the_first_separator() {
        assert_eq!(split(b"a:b:c", b":"), Some((Some(&b"a"[..]), &b"b:c"[..])));
        assert_eq!(split(b"a=>b", b"=>"), Some((Some(&b"a"[..]), &b"b"[..])));
        assert_eq!(split(b"ab", b":"), None);
    }
}
