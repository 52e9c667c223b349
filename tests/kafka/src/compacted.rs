//! What compaction makes of batches, read by Apache Kafka's own reader: it finds the records that stayed, each with its
//! offset, time and sequence, the producer's fields, and the delete horizon where a tombstone stayed.

use std::fmt::Write;

use anyhow::{Result, ensure};
use bytes::Bytes;
use milena_wire::batch::{
    BatchBuilder, BatchHeader, Compression, DecompressLimit, HEADER_LEN, Record, Retained,
    TimestampType, covering, emptied, records, retain,
};
use milena_wire::forge::forged;

use crate::codecs::{Case, java};
use crate::install::Installed;

const LIMIT: DecompressLimit = DecompressLimit(64 << 20);
const HORIZON: i64 = 1_800_000_000_000;
const LOG_APPEND_TIME: i16 = 1 << 3;
/// Records of each batch: every choice of them is made.
const COUNT: usize = 6;

/// Has Apache Kafka's reader say what it sees, and compares that with what the records were before.
pub fn compare(installed: &Installed) -> Result<()> {
    let (cases, expected): (Vec<Case>, Vec<String>) = cases().into_iter().unzip();
    let theirs = java(installed, &["whole"], &cases)?;
    for ((case, theirs), expected) in cases.iter().zip(&theirs).zip(&expected) {
        ensure!(theirs == expected, "{}:\n  {theirs}\n  {expected}", case.name);
    }
    println!("{} batches that compaction made are read as they are meant", cases.len());
    Ok(())
}

fn cases() -> Vec<(Case, String)> {
    let mut cases = Vec::new();
    for (base, next) in [(0, 1), (7, 90), (1 << 40, (1 << 40) + (1 << 31))] {
        let expected = format!(
            "read 0 from {base} to {} epoch 4 producer -1 -1 -1 -1 CreateTime max -1 horizon -1:",
            next - 1
        );
        let batch = covering(base, next, 4);
        cases.push((Case { name: format!("covering {base} to {next}"), batch }, expected));
    }
    for compression in Compression::ALL {
        let created = full(compression);
        let stamped = forged(&created, &created[HEADER_LEN..], |header| {
            header.attributes |= LOG_APPEND_TIME;
            header.max_timestamp = 1_750_000_000_000;
        });
        for full in [created, stamped] {
            let header = BatchHeader::parse(&full).expect("a header");
            let all = records(&full, LIMIT).expect("sound records");
            for mask in 0..1 << COUNT {
                let stays = |offset: i64| mask >> (offset - header.base_offset) & 1 == 1;
                let name = format!("{compression:?} {:?} {mask:06b}", header.timestamp_type());
                let retained = retain(&full, LIMIT, HORIZON, |record| stays(record.offset));
                let batch = match retained.expect("sound records") {
                    Retained::All => full.clone(),
                    Retained::Some(batch) => batch,
                    Retained::None => emptied(&header),
                };
                let kept: Vec<_> = all.iter().filter(|record| stays(record.offset)).collect();
                cases.push((Case { name, batch }, told(&header, &kept)));
            }
        }
    }
    cases
}

/// What the reader should say of a batch where these records stayed.
fn told(header: &BatchHeader, kept: &[&Record]) -> String {
    let max = kept.iter().map(|record| record.timestamp).max().unwrap_or(-1);
    let has_tombstone = kept.iter().any(|record| record.value.is_none());
    let horizon = if has_tombstone { HORIZON } else { -1 };
    let timestamp_type = match header.timestamp_type() {
        TimestampType::CreateTime => "CreateTime",
        TimestampType::LogAppendTime => "LogAppendTime",
    };
    let mut told = format!(
        "read {} from {} to {} epoch {} producer {} {} {} {} {timestamp_type} max {max} horizon {horizon}:",
        kept.len(),
        header.base_offset,
        header.last_offset(),
        header.partition_leader_epoch,
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
        header.base_sequence + header.last_offset_delta,
    );
    for record in kept {
        let size = |bytes: &Option<Bytes>| bytes.as_ref().map_or(-1, |bytes| bytes.len() as i64);
        write!(
            told,
            " {}@{}={}/{}/{}/{}",
            record.offset,
            record.timestamp,
            size(&record.key),
            size(&record.value),
            record.headers.len(),
            i64::from(header.base_sequence) + record.offset - header.base_offset,
        )
        .expect("a string grows");
    }
    told
}

/// Times that go back and forth, tombstones, empty values, headers, a record without a key.
fn full(compression: Compression) -> Bytes {
    let values: [Option<&[u8]>; COUNT] =
        [Some(b"one"), None, Some(b""), Some(&[7; 3_000]), None, Some(b"six")];
    let mut builder = BatchBuilder::new(1 << 33, 5, compression);
    builder.producer(9_000, 3, 77);
    for (index, value) in values.into_iter().enumerate() {
        let time = 1_700_000_000_000 + [0, 7_000_000, -5][index % 3] * (index as i64 + 1);
        let key = format!("key {index}");
        let key = (index != 2).then_some(key.as_bytes());
        let headers: &[(&str, Option<&[u8]>)] = &[("name", Some(b"v")), ("empty", None)];
        builder.append(time, key, value, &headers[..index % 3]);
    }
    builder.build()
}
