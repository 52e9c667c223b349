//! `milena produce`: lines of standard input become records.
//!
//! Records with a key go where every client of Kafka would send them (murmur2 of the key); those without fill one batch per
//! partition in turn, among the partitions that have a leader. Lines that are there at once travel together; a lone line is
//! not held back. What may pass is tried again. A batch whose answer was lost is then sent twice; by the producer's id and the
//! batch's sequence number the leader knows it again and writes it once. Without those it may be there twice, which is counted
//! and said. One batch is under way at a time, so that none overtakes another.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use milena_wire::batch::{BatchBuilder, Compression};
use milena_wire::messages::{
    ProduceRequest,
    metadata::MetadataResponseTopic,
    produce::{PartitionProduceData, TopicProduceData},
};
use milena_wire::{ApiKey, ErrorCode, Request, Response};
use serde_json::json;

use super::arguments::{Acks, Codec, Format, Produce};
use super::topic::topic_configs;
use super::{Failure, STREAM_TIMEOUT, count, output};
use crate::client::{Client, check_known, finally, leader};

/// A batch is sent at this size, before compression.
const BATCH_BYTES: usize = 512 << 10;
/// What a record adds to its batch beside key, value and headers, at most.
const RECORD_OVERHEAD_MAX: usize = 32;
/// How often to look whether a partition without a leader has one now.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Exit code of what Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Sends all lines, up to the first that cannot be sent.
pub fn run(command: &Produce) -> Result<(), Failure> {
    if command.idempotence == Some(true) && command.acks != Acks::All {
        let line = "--idempotence true needs --acks all: a leader that is lost would forget which batches it has taken";
        return Err(Failure::Usage(line.into()));
    }
    let mut sender = Sender::new(command)?;
    if let Some(wanted) = command.partition
        && !sender.topic.partitions.iter().any(|p| p.partition_index == wanted)
    {
        let partitions = count(sender.topic.partitions.len() as u64, "partition");
        return Err(Failure::Usage(format!("{} has {partitions}, from 0 on", command.topic)));
    }
    let progress = sender.progress.clone();
    let (topic, format) = (command.topic.clone(), command.client.format);
    crate::runtime::aside(move || {
        if crate::runtime::block_on(crate::runtime::asked_to_stop()).is_ok_and(|r| r.is_ok()) {
            progress.interrupted(&topic, format);
        }
    });
    if std::io::stdin().is_terminal() {
        let _ = writeln!(
            std::io::stderr(),
            "milena: each line becomes a record of {}; end with Ctrl-D",
            command.topic
        );
    }
    let ended = send_all(&mut sender, command);
    let topic = &command.topic;
    let (acknowledged, repeated) = (sender.progress.acknowledged(), sender.repeated);
    let verb = if command.acks == Acks::Nobody { "sent, unacknowledged," } else { "acknowledged" };
    let shown = count(acknowledged, "record");
    let mut notes = String::new();
    if repeated > 0 {
        notes =
            format!("; {} may be there twice, since answers were lost", count(repeated, "record"));
    }
    if let Err(error) = ended {
        return Err(Failure::Failed(format!("{error:#}; {shown} {verb} before{notes}")));
    }
    output(
        command.client.format,
        || format!("{shown} {verb} in {topic}{notes}"),
        || json!({"topic": topic, "acknowledged": acknowledged, "perhaps_twice": repeated}),
    )
}

fn send_all(sender: &mut Sender, command: &Produce) -> Result<()> {
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
        let (key, value) = match &command.key_separator {
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
            None => (command.key.as_ref().map(String::as_bytes), &line[..]),
        };
        let is_tombstone = command.tombstones && value.is_empty();
        sender.add(number, key, (!is_tombstone).then_some(value))?;
        // Nothing more is there at once: what waits must not wait for it.
        if !input.buffer().contains(&b'\n') {
            sender.flush()?;
        }
    }
}

/// What Ctrl-C reports, counted by the thread that sends.
#[derive(Default)]
struct Progress {
    read: AtomicU64,
    acknowledged: AtomicU64,
}

impl Progress {
    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    fn interrupted(&self, topic: &str, format: Format) -> ! {
        let acknowledged = self.acknowledged();
        let open = self.read.load(Ordering::SeqCst).saturating_sub(acknowledged);
        let shown = count(acknowledged, "record");
        let mut line = format!("interrupted; {shown} acknowledged in {topic}");
        if open > 0 {
            line += &format!(", {open} more read that may or may not be there");
        }
        let line = match format {
            Format::Human => format!("milena: {line}"),
            Format::Json => {
                json!({"error": line, "exit_code": INTERRUPTED, "acknowledged": acknowledged})
                    .to_string()
            }
        };
        let _ = writeln!(std::io::stderr(), "{line}");
        std::process::exit(INTERRUPTED)
    }
}

fn split<'a>(line: &'a [u8], separator: &[u8]) -> Option<(Option<&'a [u8]>, &'a [u8])> {
    let at = line.windows(separator.len().max(1)).position(|window| window == separator)?;
    Some((Some(&line[..at]), &line[at + separator.len()..]))
}

struct Sender<'a> {
    command: &'a Produce,
    client: Client,
    name: String,
    topic: MetadataResponseTopic,
    /// As whom leaders know its batches again; none where they do not.
    producer: Option<Producer>,
    /// When that was asked.
    looked: Instant,
    /// Largest batch that the topic takes, if its broker says.
    batch_bytes_max: Option<usize>,
    /// By partition.
    waiting: BTreeMap<i32, Batch>,
    turn: usize,
    progress: Arc<Progress>,
    /// Records that were sent again when their answer was lost.
    repeated: u64,
}

/// Lines that travel together, and their numbers.
struct Batch {
    records: BatchBuilder,
    first_line: u64,
    last_line: u64,
    /// Whether neither key nor flag says which partition it is for.
    anywhere: bool,
}

impl<'a> Sender<'a> {
    fn new(command: &'a Produce) -> Result<Sender<'a>> {
        let mut client = command.client.client(STREAM_TIMEOUT);
        let name = command.topic.clone();
        let topic =
            client.again(&format!("find topic {name}"), |client| client.topic(&name, false))?;
        // A broker that does not say will judge the batches itself.
        let configs = topic_configs(&mut client, &name).unwrap_or_default();
        let batch_bytes_max = configs
            .iter()
            .find(|config| config.name == "max.message.bytes")
            .and_then(|config| config.value.as_ref()?.parse().ok());
        let wanted = match command.idempotence {
            Some(wanted) => wanted,
            None => command.acks == Acks::All && client.offers(ApiKey::InitProducerId),
        };
        let producer = match wanted {
            true => Some(client.again("get a producer id", Producer::begin)?),
            false => None,
        };
        Ok(Sender {
            command,
            client,
            name,
            topic,
            producer,
            looked: Instant::now(),
            batch_bytes_max,
            waiting: BTreeMap::new(),
            turn: 0,
            progress: Arc::default(),
            repeated: 0,
        })
    }

    /// Takes a line, and sends what waits where it has become enough or would become too much.
    fn add(&mut self, line: u64, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<()> {
        let enough = self.batch_bytes_max.map_or(BATCH_BYTES, |most| most.min(BATCH_BYTES));
        let headers: Vec<(&str, Option<&[u8]>)> = (self.command.headers.iter())
            .map(|(name, value)| (name.as_str(), Some(value.as_bytes())))
            .collect();
        let headers_len: usize = (self.command.headers.iter())
            .map(|(name, value)| name.len() + value.len() + 2 * RECORD_OVERHEAD_MAX)
            .sum();
        let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        let more = length(key) + length(value) + headers_len + RECORD_OVERHEAD_MAX;
        self.progress.read.fetch_add(1, Ordering::SeqCst);
        let partition = self.partition(key);
        if let Some(batch) = self.waiting.get(&partition)
            && batch.records.size() + more > enough
        {
            self.flush()?;
        }
        let partition = self.partition(key);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let anywhere = key.is_none() && self.command.partition.is_none();
        let batch = self.waiting.entry(partition).or_insert_with(|| Batch {
            records: BatchBuilder::new(0, -1, codec(self.command.compression)),
            first_line: line,
            last_line: line,
            anywhere,
        });
        batch.records.append(now.as_millis() as i64, key, value, &headers);
        batch.last_line = line;
        if batch.records.size() >= enough { self.flush() } else { Ok(()) }
    }

    fn partition(&self, key: Option<&[u8]>) -> i32 {
        let partitions = &self.topic.partitions;
        match (self.command.partition, key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => ((murmur2(key) & 0x7fff_ffff) as usize % partitions.len()) as i32,
            (None, None) => led(&self.topic, self.turn).unwrap_or(0),
        }
    }

    /// Sends what waits, what came first before the rest.
    fn flush(&mut self) -> Result<()> {
        self.turn += 1;
        let has_none = self.topic.partitions.iter().any(|partition| partition.leader_id < 0);
        if has_none && self.looked.elapsed() > LOOK_AGAIN {
            look(&mut self.client, &self.name, &mut self.topic);
            self.looked = Instant::now();
        }
        let mut batches: Vec<(i32, Batch)> =
            std::mem::take(&mut self.waiting).into_iter().collect();
        batches.sort_by_key(|(_, batch)| batch.first_line);
        for (partition, mut batch) in batches {
            let (first, last) = (batch.first_line, batch.last_line);
            let lines = match first == last {
                true => format!("line {first}"),
                false => format!("a batch of lines {first} to {last}"),
            };
            self.send(partition, &mut batch, &lines)
                .with_context(|| format!("{}-{partition}, {lines}", self.name))?;
            let records = batch.records.records_count() as u64;
            self.progress.acknowledged.fetch_add(records, Ordering::SeqCst);
        }
        Ok(())
    }

    fn send(&mut self, mut partition: i32, batch: &mut Batch, lines: &str) -> Result<()> {
        let Sender { client, name, topic, producer, turn, .. } = self;
        let (acks, turn) = (self.command.acks, *turn);
        let mut records = batch.build(producer, partition);
        if let Some(most) = self.batch_bytes_max.filter(|most| records.len() > *most) {
            bail!("{} bytes as a batch, max.message.bytes is {most}", records.len());
        }
        let what = format!("send {name}-{partition} {lines}");
        // Attempts that may have reached a log, where another one is not known to be the same.
        let (mut reached, mut doubled) = (0, false);
        let sent = client.again(&what, |client| {
            // Elsewhere nobody would know a batch again.
            let stays = producer.is_some() && reached > 0;
            if batch.anywhere && !stays && leader(topic, partition).is_err() {
                partition = led(topic, turn).unwrap_or(partition);
                records = batch.build(producer, partition);
            }
            let mut attempt = || {
                let address = client.address(leader(topic, partition)?)?;
                client.connection(&address)?;
                reached += 1;
                doubled |= reached > 1 && producer.is_none();
                let request = request(topic, name, partition, acks, records.clone());
                if acks == Acks::Nobody {
                    return client.post(&address, &request);
                }
                let (code, message) = client.at(&address, &request).and_then(answer)?;
                match code {
                    // It is there, and so long that the broker no longer knows at which offset.
                    ErrorCode::DUPLICATE_SEQUENCE_NUMBER => Ok(()),
                    // Java's producer takes a new id then, too.
                    ErrorCode::UNKNOWN_PRODUCER_ID if producer.is_some() => {
                        *producer = Some(Producer::begin(client)?);
                        doubled |= reached > 1;
                        records = batch.build(producer, partition);
                        bail!("UNKNOWN_PRODUCER_ID")
                    }
                    code => check_known(code, advice(code).or(message.as_deref())),
                }
            };
            let sent = attempt();
            if sent.is_err() {
                look(client, name, topic);
            }
            sent
        });
        let count = batch.records.records_count();
        if doubled {
            self.repeated += count as u64;
        }
        if let Some(producer) = &mut self.producer {
            producer.advance(partition, count);
        }
        sent
    }
}

impl Batch {
    /// Its bytes, with the next sequence numbers of the partition.
    fn build(&mut self, producer: &Option<Producer>, partition: i32) -> Bytes {
        if let Some(producer) = producer {
            self.records.producer(producer.id, producer.epoch, producer.next(partition));
        }
        self.records.build()
    }
}

/// Whom leaders know batches by, and how far each partition's numbers have come.
struct Producer {
    id: i64,
    epoch: i16,
    next: BTreeMap<i32, i32>,
}

impl Producer {
    fn begin(client: &mut Client) -> Result<Producer> {
        let (id, epoch) = client.producer_id()?;
        Ok(Producer { id, epoch, next: BTreeMap::new() })
    }

    /// The number of the next record.
    fn next(&self, partition: i32) -> i32 {
        self.next.get(&partition).copied().unwrap_or(0)
    }

    /// Counts records that are sent. After the largest number comes 0.
    fn advance(&mut self, partition: i32, records: i32) {
        let next = self.next(partition).wrapping_add(records) & i32::MAX;
        self.next.insert(partition, next);
    }
}

/// What to do about an error that says little by itself; none of these goes away by trying again.
fn advice(code: ErrorCode) -> Option<&'static str> {
    match code {
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER => Some(
            "the leader does not have what this producer wrote before, although it was acknowledged: look at the end of the \
             partition, and send from there on",
        ),
        ErrorCode::INVALID_PRODUCER_EPOCH => Some(
            "another producer goes on under the id of this one: look at the end of the partition, and send from there on",
        ),
        _ => None,
    }
}

/// Looks at the topic again; what is known of it stays where nobody answers.
fn look(client: &mut Client, name: &str, topic: &mut MetadataResponseTopic) {
    if let Ok(seen) = client.topic(name, true) {
        *topic = seen;
    }
}

/// The partition whose turn it is, among those that have a leader.
fn led(topic: &MetadataResponseTopic, turn: usize) -> Option<i32> {
    let led: Vec<i32> =
        topic.partitions.iter().filter(|p| p.leader_id >= 0).map(|p| p.partition_index).collect();
    led.get(turn.checked_rem(led.len())?).copied()
}

fn codec(codec: Codec) -> Compression {
    match codec {
        Codec::None => Compression::None,
        Codec::Gzip => Compression::Gzip,
        Codec::Snappy => Compression::Snappy,
        Codec::Lz4 => Compression::Lz4,
        Codec::Zstd => Compression::Zstd,
    }
}

fn request(
    topic: &MetadataResponseTopic,
    name: &str,
    partition: i32,
    acks: Acks,
    records: Bytes,
) -> Request {
    ProduceRequest {
        transactional_id: None,
        acks: match acks {
            Acks::All => -1,
            Acks::Leader => 1,
            Acks::Nobody => 0,
        },
        timeout_ms: 10_000,
        topic_data: vec![TopicProduceData {
            name: name.into(),
            topic_id: topic.topic_id,
            partition_data: vec![PartitionProduceData { index: partition, records: Some(records) }],
        }],
    }
    .into()
}

/// What became of it, and what the broker says beside that.
fn answer(response: Response) -> Result<(ErrorCode, Option<String>)> {
    let Response::Produce(answer) = response else {
        return Err(finally("the broker answered something else"));
    };
    let partition = answer
        .responses
        .into_iter()
        .next()
        .and_then(|topic| topic.partition_responses.into_iter().next())
        .context("the broker left the partition out")?;
    Ok((partition.error_code, partition.error_message))
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
mod tests;
