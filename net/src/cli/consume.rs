//! `milena consume`: prints records, from any offset or time, once or following.
//!
//! Without --follow it reads up to where each partition ended when it began. With several partitions, records come in order
//! within each.

use std::io::{BufWriter, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use milena_wire::batch::{self, DecompressLimit};
use milena_wire::messages::{
    FetchRequest, ListOffsetsRequest,
    fetch::{FetchPartition, FetchTopic},
    list_offsets::{EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, ListOffsetsPartition, ListOffsetsTopic},
    metadata::MetadataResponseTopic,
};
use milena_wire::{ErrorCode, Response};
use serde_json::{Value, json};

use super::Failure;
use super::arguments::{Consume, Format, From};
use crate::client::{Client, check, is_passing};

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
    let mut client = command.client.client();
    let mut topic = client.topic(&command.topic)?;
    let mut positions = begin(&mut client, &topic, command)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    loop {
        positions.retain(|position| position.end.is_none_or(|end| position.next < end));
        if positions.is_empty() {
            break;
        }
        match round(&mut client, &topic, &mut positions, command, &mut out) {
            Ok(()) => out.flush().map_err(Failure::of_output)?,
            Err(error) => {
                match error.downcast::<Ended>() {
                    Ok(Ended::Output(error)) => return Err(Failure::of_output(error)),
                    Ok(Ended::Final(line)) => return Err(Failure::Failed(line)),
                    Err(error) => tracing::debug!("{error:#}"),
                }
                crate::runtime::pause(Duration::from_millis(100));
                topic = client.topic(&command.topic)?;
            }
        }
    }
    Ok(())
}

/// What asking again does not mend.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Final(String),
    #[error("standard output: {0}")]
    Output(std::io::Error),
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
        let mut ask =
            |time| client.again(|client| offset_at(client, &command.topic, partition, time));
        let next = match command.from {
            From::Beginning => ask(EARLIEST_TIMESTAMP)?,
            From::End => ask(LATEST_TIMESTAMP)?,
            From::Offset(offset) => {
                let end = ask(LATEST_TIMESTAMP)?;
                if end < offset && command.follow {
                    return Err(past_the_end(&command.topic, partition, offset, end));
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
    let topic = client.topic(name)?;
    let address = client.address(leader(&topic, partition)?)?;
    let Response::ListOffsets(answer) = client.at(&address, &request.into())? else {
        bail!("the broker answered something else");
    };
    let found = answer
        .topics
        .first()
        .and_then(|topic| topic.partitions.first())
        .context("the broker left the partition out")?;
    check(found.error_code, None)?;
    Ok(found.offset)
}

fn leader(topic: &MetadataResponseTopic, partition: i32) -> Result<i32> {
    let found = topic.partitions.iter().find(|p| p.partition_index == partition);
    Ok(found.with_context(|| format!("there is no partition {partition}"))?.leader_id)
}

/// Asks each leader once for its partitions.
fn round(
    client: &mut Client,
    topic: &MetadataResponseTopic,
    positions: &mut [Position],
    command: &Consume,
    out: &mut impl Write,
) -> Result<()> {
    let mut leaders: Vec<i32> =
        positions.iter().map(|p| leader(topic, p.partition)).collect::<Result<_>>()?;
    leaders.sort_unstable();
    leaders.dedup();
    // With one leader the broker may wait for records; with several, none may hold up the others.
    let max_wait_ms = if leaders.len() == 1 { WAIT_MS } else { WAIT_MS / 5 };
    for node in leaders {
        let wanted =
            positions.iter().filter(|p| leader(topic, p.partition).is_ok_and(|l| l == node));
        let partitions = wanted
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
            topics: vec![FetchTopic {
                topic: command.topic.clone(),
                topic_id: topic.topic_id,
                partitions,
            }],
            ..Default::default()
        };
        let address = client.address(node)?;
        let Response::Fetch(answer) = client.at(&address, &request.into())? else {
            bail!("the broker answered something else");
        };
        check(answer.error_code, None)?;
        for data in answer.responses.into_iter().flat_map(|topic| topic.partitions) {
            let Some(position) = positions.iter_mut().find(|p| p.partition == data.partition_index)
            else {
                continue;
            };
            if data.error_code == ErrorCode::OFFSET_OUT_OF_RANGE {
                let line = format!(
                    "{}-{} has no offset {}; it begins at {} and ends at {}",
                    command.topic,
                    position.partition,
                    position.next,
                    data.log_start_offset,
                    data.high_watermark
                );
                return Err(Ended::Final(line).into());
            }
            if data.error_code.is_some() && !is_passing(data.error_code) {
                let error = check(data.error_code, None).expect_err("there is an error code");
                return Err(Ended::Final(format!(
                    "{}-{}: {error}",
                    command.topic, position.partition
                ))
                .into());
            }
            check(data.error_code, None)?;
            let records = data.records.map(|records| records.to_bytes()).unwrap_or_default();
            print(&records, position, command, out)?;
        }
    }
    Ok(())
}

fn print(
    records: &Bytes,
    position: &mut Position,
    command: &Consume,
    out: &mut impl Write,
) -> Result<()> {
    for batch in batch::batches(records) {
        // The last batch of an answer may be cut to size; it comes again, whole.
        let Ok((header, bytes)) = batch else { break };
        batch::validate(&bytes)
            .map_err(|error| Ended::Final(format!("a damaged batch came: {error}")))?;
        if header.is_control() {
            position.next = position.next.max(header.next_offset());
            continue;
        }
        for record in batch::record_iterator(&bytes, DecompressLimit(OPENED_BYTES_MAX))? {
            let record =
                record.map_err(|error| Ended::Final(format!("a damaged record came: {error}")))?;
            let wanted = record.offset >= position.next
                && position.end.is_none_or(|end| record.offset < end);
            if !wanted {
                continue;
            }
            match command.client.format {
                Format::Human => {
                    let value = record.value.as_deref().unwrap_or_default();
                    out.write_all(value)
                        .and_then(|()| out.write_all(b"\n"))
                        .map_err(Ended::Output)?;
                }
                Format::Json => {
                    let headers: Vec<Value> = record
                        .headers
                        .iter()
                        .map(|(name, value)| json!([text(name), value.as_deref().map(text)]))
                        .collect();
                    let line = json!({
                        "partition": position.partition,
                        "offset": record.offset,
                        "timestamp": record.timestamp,
                        "key": record.key.as_deref().map(text),
                        "value": record.value.as_deref().map(text),
                        "headers": headers,
                    });
                    writeln!(out, "{line}").map_err(Ended::Output)?;
                }
            }
        }
        position.next = position.next.max(header.next_offset());
    }
    Ok(())
}

/// Bytes for JSON: what is not UTF-8 is shown by its replacement character.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
