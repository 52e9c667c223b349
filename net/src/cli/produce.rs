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
use super::{Failure, output};
use crate::client::{Client, check, is_passing};

/// A batch is sent at this size, before compression.
const BATCH_BYTES: usize = 512 << 10;
/// How long one batch may take, its repetitions included.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(60);

/// Sends all lines.
pub fn run(command: &Produce) -> Result<(), Failure> {
    let mut client = Client::new(
        command.client.bootstrap.iter().map(ToString::to_string).collect(),
        DELIVERY_TIMEOUT,
    );
    let mut sender =
        Sender { topic: client.topic(&command.topic)?, waiting: BTreeMap::new(), turn: 0 };
    let mut input = BufReader::with_capacity(1 << 20, std::io::stdin());
    let (mut line, mut sent) = (Vec::new(), 0_u64);
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line).context("standard input")? == 0 {
            break;
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        let (key, value) = match &command.key_separator {
            Some(separator) => split(&line, separator.as_bytes()).with_context(|| {
                format!("line {} has no {separator:?} between key and value", sent + 1)
            })?,
            None => (None, &line[..]),
        };
        sender.add(key, value);
        sent += 1;
        // Nothing more is there at once: what waits must not wait for it.
        if sender.is_full() || !input.buffer().contains(&b'\n') {
            sender.flush(&mut client, &command.topic)?;
        }
    }
    sender.flush(&mut client, &command.topic)?;
    let topic = &command.topic;
    output(
        command.client.format,
        || format!("{sent} records acknowledged in {topic}"),
        || json!({"topic": topic, "acknowledged": sent}),
    )
}

fn split<'a>(line: &'a [u8], separator: &[u8]) -> Option<(Option<&'a [u8]>, &'a [u8])> {
    let at = line.windows(separator.len().max(1)).position(|window| window == separator)?;
    Some((Some(&line[..at]), &line[at + separator.len()..]))
}

struct Sender {
    topic: MetadataResponseTopic,
    /// By partition.
    waiting: BTreeMap<i32, BatchBuilder>,
    turn: usize,
}

impl Sender {
    fn add(&mut self, key: Option<&[u8]>, value: &[u8]) {
        let count = self.topic.partitions.len();
        let index = match key {
            Some(key) => (murmur2(key) & 0x7fff_ffff) as usize % count,
            None => self.turn % count,
        };
        let partition = self.topic.partitions[index].partition_index;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.waiting
            .entry(partition)
            .or_insert_with(|| BatchBuilder::new(0, -1, Compression::None))
            .append(now.as_millis() as i64, key, Some(value), &[]);
    }

    fn is_full(&self) -> bool {
        self.waiting.values().any(|batch| batch.size() >= BATCH_BYTES)
    }

    fn flush(&mut self, client: &mut Client, name: &str) -> Result<()> {
        self.turn += 1;
        for (partition, batch) in std::mem::take(&mut self.waiting) {
            let records = batch.build();
            client.again(|client| {
                let leader = self
                    .topic
                    .partitions
                    .iter()
                    .find(|p| p.partition_index == partition)
                    .with_context(|| format!("{name} has no partition {partition}"))?
                    .leader_id;
                let request = request(&self.topic, name, partition, records.clone());
                let sent = client
                    .address(leader)
                    .and_then(|address| client.at(&address, &request))
                    .and_then(answer);
                match sent {
                    Ok(done) => Ok(done),
                    Err(error) => {
                        self.topic = client.topic(name)?;
                        Err(error)
                    }
                }
            })??;
        }
        Ok(())
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
