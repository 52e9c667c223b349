//! `milena consume`: prints records, from any offset or time, once or following.
//!
//! Without --follow it reads up to where each partition ended when it began. With several partitions, records come in order
//! within each. A leader that is gone holds up its own partitions alone, until there is another.

use std::collections::BTreeMap;
use std::io::{BufWriter, StdoutLock, Write};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use milena_wire::batch::{self, BatchError, DecompressLimit, Record};
use milena_wire::messages::{
    FetchRequest, ListOffsetsRequest,
    fetch::{FetchPartition, FetchTopic, PartitionData},
    list_offsets::{EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, ListOffsetsPartition, ListOffsetsTopic},
    metadata::MetadataResponseTopic,
};
use milena_wire::{ErrorCode, Response};
use serde_json::{Value, json};

use super::arguments::{Consume, Format, From};
use super::template::Template;
use super::{Failure, STREAM_TIMEOUT, bytes_json};
use crate::client::{Client, check_known, finally, leader};

/// How long the broker may wait for records.
const WAIT_MS: i32 = 500;
/// Records of one answer, per partition.
const FETCH_BYTES: i32 = 1 << 20;
/// Records of one batch may be this large, opened.
const OPENED_BYTES_MAX: usize = 256 << 20;

struct Position {
    partition: i32,
    next: i64,
    /// Where reading stops; nowhere when following.
    end: Option<i64>,
}

/// Prints records.
pub fn run(command: &Consume) -> Result<(), Failure> {
    let name = &command.topic;
    let mut client = command.client.client(STREAM_TIMEOUT);
    let mut topic =
        client.again(&format!("find topic {name}"), |client| client.topic(name, false))?;
    let mut positions = begin(&mut client, &topic, command)?;
    let mut printer = Printer::new(command);
    let mut patience = None;
    loop {
        positions.retain(|position| position.end.is_none_or(|end| position.next < end));
        if positions.is_empty() || printer.left == 0 {
            return Ok(());
        }
        let wait = patience.get_or_insert_with(|| client.begin(&format!("read {name}")));
        let (fetched, fault) = round(&mut client, &topic, &positions, name);
        for data in fetched {
            let place = positions.iter_mut().find(|p| p.partition == data.partition_index);
            if let Some(position) = place {
                let records = data.records.map(|records| records.to_bytes()).unwrap_or_default();
                printer.print(&records, position)?;
            }
        }
        printer.out.flush().map_err(Failure::of_output)?;
        let Some(error) = fault else {
            client.end();
            patience = None;
            continue;
        };
        wait.failed(error)?;
        if let Ok(seen) = client.topic(name, true) {
            if seen.topic_id != topic.topic_id {
                return Err(Failure::Failed(format!(
                    "topic {name} was deleted and made again; its offsets are new"
                )));
            }
            topic = seen;
        }
    }
}

fn begin(
    client: &mut Client,
    topic: &MetadataResponseTopic,
    command: &Consume,
) -> Result<Vec<Position>, Failure> {
    let mut partitions: Vec<i32> = topic.partitions.iter().map(|p| p.partition_index).collect();
    partitions.sort_unstable();
    if let Some(wanted) = command.partition {
        if !partitions.contains(&wanted) {
            let there = match partitions.len() - 1 {
                0 => "partition 0 alone".into(),
                last => format!("partitions 0 to {last}"),
            };
            return Err(Failure::Usage(format!("{} has {there}", command.topic)));
        }
        partitions = vec![wanted];
    }
    let mut positions = Vec::new();
    // Where the furthest partition ends that does not reach the offset.
    let mut short = None;
    for partition in partitions {
        let what = format!("find an offset of {}-{partition}", command.topic);
        let mut ask =
            |time| client.again(&what, |client| offset_at(client, &command.topic, partition, time));
        let next = match command.from {
            From::Beginning => ask(EARLIEST_TIMESTAMP)?,
            From::End => ask(LATEST_TIMESTAMP)?,
            From::Last(count) => {
                let end = ask(LATEST_TIMESTAMP)?;
                ask(EARLIEST_TIMESTAMP)?.max(end.saturating_sub(count))
            }
            From::Offset(offset) => {
                let end = ask(LATEST_TIMESTAMP)?;
                if end < offset && command.follow {
                    return Err(past_the_end(&command.topic, partition, offset, end));
                }
                let start = ask(EARLIEST_TIMESTAMP)?;
                if offset < start {
                    let topic = &command.topic;
                    let line = format!(
                        "offset {offset} of {topic}-{partition} is gone; it begins at {start}"
                    );
                    return Err(Failure::Usage(line));
                }
                if end < offset {
                    short = short.max(Some((end, partition)));
                    continue;
                }
                offset
            }
            // No record so late: only what comes is wanted.
            From::Time(time) => match ask(time)? {
                -1 => ask(LATEST_TIMESTAMP)?,
                found => found,
            },
        };
        let end = if command.follow { None } else { Some(ask(LATEST_TIMESTAMP)?) };
        positions.push(Position { partition, next, end });
    }
    match (command.from, short) {
        (From::Offset(offset), Some((end, partition))) if positions.is_empty() => {
            Err(past_the_end(&command.topic, partition, offset, end))
        }
        _ => Ok(positions),
    }
}

fn past_the_end(topic: &str, partition: i32, offset: i64, end: i64) -> Failure {
    Failure::Usage(format!("offset {offset} is past the end {end} of {topic}-{partition}"))
}

fn offset_at(client: &mut Client, name: &str, partition: i32, timestamp: i64) -> Result<i64> {
    let request = ListOffsetsRequest {
        replica_id: -1,
        topics: vec![ListOffsetsTopic {
            name: name.into(),
            partitions: vec![ListOffsetsPartition {
                partition_index: partition,
                timestamp,
                ..Default::default()
            }],
        }],
        ..Default::default()
    };
    let topic = client.topic(name, true)?;
    let address = client.address(leader(&topic, partition)?)?;
    let Response::ListOffsets(answer) = client.at(&address, &request.into())? else {
        bail!("the broker answered something else");
    };
    let found = answer
        .topics
        .first()
        .and_then(|topic| topic.partitions.first())
        .context("the broker left the partition out")?;
    check_known(found.error_code, None)?;
    Ok(found.offset)
}

/// Asks each leader once for its partitions: what came, and one of the faults if there was any.
fn round(
    client: &mut Client,
    topic: &MetadataResponseTopic,
    positions: &[Position],
    name: &str,
) -> (Vec<PartitionData>, Option<anyhow::Error>) {
    let mut leaders: BTreeMap<i32, Vec<&Position>> = BTreeMap::new();
    let (mut fetched, mut fault) = (Vec::new(), None);
    for position in positions {
        match leader(topic, position.partition) {
            Ok(leader) => leaders.entry(leader).or_default().push(position),
            Err(error) => fault = Some(error),
        }
    }
    // With one leader the broker may wait for records; with several, none may hold up the others.
    let max_wait_ms = if leaders.len() == 1 { WAIT_MS } else { WAIT_MS / 5 };
    for (node, positions) in leaders {
        match fetch(client, topic, node, &positions, name, max_wait_ms) {
            Ok(answer) => {
                for data in answer {
                    match judge(&data, &positions, name) {
                        Ok(()) => fetched.push(data),
                        Err(error) => fault = Some(error),
                    }
                }
            }
            Err(error) => fault = Some(error),
        }
    }
    (fetched, fault)
}

fn fetch(
    client: &mut Client,
    topic: &MetadataResponseTopic,
    node: i32,
    positions: &[&Position],
    name: &str,
    max_wait_ms: i32,
) -> Result<Vec<PartitionData>> {
    let partitions = positions
        .iter()
        .map(|position| FetchPartition {
            partition: position.partition,
            fetch_offset: position.next,
            partition_max_bytes: FETCH_BYTES,
            ..Default::default()
        })
        .collect();
    let request = FetchRequest {
        max_wait_ms,
        min_bytes: 1,
        max_bytes: 16 * FETCH_BYTES,
        topics: vec![FetchTopic { topic: name.into(), topic_id: topic.topic_id, partitions }],
        ..Default::default()
    };
    let address = client.address(node)?;
    let Response::Fetch(answer) = client.at(&address, &request.into())? else {
        bail!("the broker answered something else");
    };
    check_known(answer.error_code, None)?;
    Ok(answer.responses.into_iter().flat_map(|topic| topic.partitions).collect())
}

fn judge(data: &PartitionData, positions: &[&Position], name: &str) -> Result<()> {
    let partition = data.partition_index;
    if data.error_code == ErrorCode::OFFSET_OUT_OF_RANGE
        && let Some(position) = positions.iter().find(|p| p.partition == partition)
    {
        return Err(finally(format!(
            "{name}-{partition} has no offset {} any more: its log was trimmed, or made again",
            position.next
        )));
    }
    check_known(data.error_code, None).with_context(|| format!("{name}-{partition}"))
}

/// Where and how records are written.
struct Printer<'a> {
    command: &'a Consume,
    template: Template,
    out: BufWriter<StdoutLock<'static>>,
    /// Records that are still wanted.
    left: u64,
}

impl Printer<'_> {
    fn new(command: &Consume) -> Printer<'_> {
        let lines = || Template::lines(command.key_separator.as_deref());
        Printer {
            command,
            template: command.template.clone().unwrap_or_else(lines),
            out: BufWriter::new(std::io::stdout().lock()),
            left: command.count.unwrap_or(u64::MAX),
        }
    }

    /// Prints what an answer brought, and moves the position behind it.
    fn print(&mut self, records: &Bytes, position: &mut Position) -> Result<(), Failure> {
        let damaged = |what: &str, error: BatchError| {
            Failure::Failed(format!("a damaged {what} came: {error}"))
        };
        for batch in batch::batches(records) {
            // The last batch of an answer may be cut to size; it comes again, whole.
            let Ok((header, bytes)) = batch else { break };
            batch::validate(&bytes).map_err(|error| damaged("batch", error))?;
            if header.is_control() {
                position.next = position.next.max(header.next_offset());
                continue;
            }
            let opened = batch::record_iterator(&bytes, DecompressLimit(OPENED_BYTES_MAX));
            for record in opened.map_err(|error| damaged("batch", error))? {
                let record = record.map_err(|error| damaged("record", error))?;
                let wanted = record.offset >= position.next
                    && position.end.is_none_or(|end| record.offset < end);
                if wanted && self.left > 0 {
                    self.left -= 1;
                    self.write(position.partition, &record).map_err(Failure::of_output)?;
                }
            }
            position.next = position.next.max(header.next_offset());
        }
        Ok(())
    }

    fn write(&mut self, partition: i32, record: &Record) -> std::io::Result<()> {
        if self.command.client.format == Format::Human {
            return self.template.write(&mut self.out, &self.command.topic, partition, record);
        }
        let headers: Vec<Value> = record
            .headers
            .iter()
            .map(|(name, value)| json!([bytes_json(name), value.as_deref().map(bytes_json)]))
            .collect();
        let line = json!({
            "partition": partition,
            "offset": record.offset,
            "timestamp": record.timestamp,
            "key": record.key.as_deref().map(bytes_json),
            "value": record.value.as_deref().map(bytes_json),
            "headers": headers,
        });
        writeln!(self.out, "{line}")
    }
}
