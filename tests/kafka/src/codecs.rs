//! Compressed batches, sound and spoilt in every place, read by Apache Kafka's own reader and by ours: what we acknowledge
//! its consumer can read, and what it can read we take.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use milena_wire::batch::{
    BatchBuilder, BatchError, Compression, DecompressLimit, HEADER_LEN, TimestampRules,
    validate_produce,
};
use milena_wire::forge::forged;

use crate::install::Installed;

const LIMIT: DecompressLimit = DecompressLimit(64 << 20);
/// Each kind of difference is shown so many times.
const SHOWN: usize = 5;

/// A batch, and how it came to be.
pub struct Case {
    pub name: String,
    pub batch: Bytes,
}

/// Compares both readers over all cases.
pub fn compare(installed: &Installed) -> Result<()> {
    let cases = cases();
    let theirs = java(installed, &[], &cases)?;
    let (mut both, mut refused, mut stricter) = (0, 0, 0);
    let mut differences = Vec::new();
    for (case, theirs) in cases.iter().zip(&theirs) {
        let ours = validate_produce(&case.batch, LIMIT, &TimestampRules::ANY);
        match (&ours, theirs.starts_with("read ")) {
            (Ok(_), true) => both += 1,
            (Err(_), false) => refused += 1,
            // Its broker checks more of the records than its reader does, and so do we.
            (Err(error), true) if *error != BatchError::Decompress => stricter += 1,
            (Err(_), true) if is_refused_here_alone(case) => stricter += 1,
            _ => differences.push(format!("{}: ours {ours:?}, theirs {theirs}", case.name)),
        }
    }
    println!(
        "{} batches: {both} are read by both, {refused} refused by both, {stricter} refused here alone for what the format forbids",
        cases.len()
    );
    let mut last = "";
    let mut shown = 0;
    for difference in &differences {
        let kind = difference.split(" at ").next().unwrap_or_default();
        shown = if kind == last { shown + 1 } else { 0 };
        last = kind;
        if shown < SHOWN {
            println!("{difference}");
        }
    }
    ensure!(differences.is_empty(), "{} batches are read by one alone", differences.len());
    Ok(())
}

/// What no encoder writes and Java's reader does not look at: Gzip's reserved flags, which RFC 1952 has a reader refuse, and
/// half a frame of Zstandard behind a whole one.
fn is_refused_here_alone(case: &Case) -> bool {
    let codec = case.batch[22] & 7;
    let reserved = case.batch.get(HEADER_LEN + 3).is_some_and(|flags| flags & 0xe0 != 0);
    (codec == Compression::Gzip as u8 && reserved)
        || (codec == Compression::Zstd as u8 && case.name.ends_with("half of itself"))
}

/// What Apache Kafka's reader says of each.
pub fn java(installed: &Installed, arguments: &[&str], cases: &[Case]) -> Result<Vec<String>> {
    let reader = concat!(env!("CARGO_MANIFEST_DIR"), "/Reader.java");
    let mut java = Command::new("java")
        .args(["-cp", &installed.class_path, reader])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("`java` runs a source file; Debian has it as default-jdk-headless")?;
    let mut input = java.stdin.take().context("a pipe")?;
    let output = BufReader::new(java.stdout.take().context("a pipe")?);
    let lines = thread::scope(|scope| {
        scope.spawn(move || {
            for case in cases {
                let length = (case.batch.len() as u32).to_be_bytes();
                // Where Java has gone, too few lines come back.
                if input.write_all(&length).and_then(|()| input.write_all(&case.batch)).is_err() {
                    return;
                }
            }
        });
        output.lines().collect::<std::io::Result<Vec<String>>>()
    })?;
    let ended = java.wait()?;
    ensure!(
        ended.success() && lines.len() == cases.len(),
        "Java's reader ended before the batches"
    );
    Ok(lines)
}

/// Streams of every encoder, whole, cut, spoilt and followed by more.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, compression, count, stream) in streams() {
        let mut add = |name: String, stream: &[u8]| {
            cases.push(Case { name, batch: batch(compression, count, stream) });
        };
        add(format!("{name} whole"), &stream);
        let half = &stream[..stream.len() / 2];
        for (what, behind) in [
            ("a zero", &[0][..]),
            ("four zeros", &[0; 4]),
            ("many zeros", &[0; 64]),
            ("words", b"behind"),
            ("itself", &stream),
            ("half of itself", half),
        ] {
            add(format!("{name} followed at its end by {what}"), &[&stream[..], behind].concat());
        }
        for (what, before) in [("a zero", &[0][..]), ("words", b"before")] {
            add(format!("{name} preceded at its begin by {what}"), &[before, &stream].concat());
        }
        for (place, bits) in places(stream.len()) {
            add(format!("{name} cut at {place}"), &stream[..place]);
            for bit in bits {
                let mut spoilt = stream.clone();
                spoilt[place] ^= 1 << bit;
                add(format!("{name} flipped at {place} bit {bit}"), &spoilt);
            }
        }
    }
    cases
}

/// The places that are looked at, with the bits that are flipped there: all near both ends, where formats keep what they say
/// of themselves, and one here and there between.
fn places(length: usize) -> impl Iterator<Item = (usize, std::ops::Range<u32>)> {
    let near = 48;
    let step = (length / 40).max(1);
    (0..length).filter_map(move |place| {
        let at_an_end = place < near || place + near >= length;
        let drawn = place.is_multiple_of(step);
        let bit = (place % 8) as u32;
        (at_an_end || drawn).then_some((place, if at_an_end { 0..8 } else { bit..bit + 1 }))
    })
}

/// Records that compress well and badly.
fn records(count: usize, value_bytes: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(0, -1, Compression::None);
    let mut state = 1u32;
    for index in 0..count {
        let value: Vec<u8> = (0..value_bytes)
            .map(|place| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if place % 3 == 0 { (state >> 24) as u8 } else { b'v' }
            })
            .collect();
        builder.append(index as i64, Some(b"key"), Some(&value), &[]);
    }
    builder.build()[HEADER_LEN..].to_vec()
}

/// How many records each stream has, and how large they are.
const SIZES: [(usize, usize); 2] = [(3, 50), (24, 4_000)];

fn streams() -> Vec<(String, Compression, usize, Vec<u8>)> {
    let mut streams = Vec::new();
    for (count, value_bytes) in SIZES {
        let records = records(count, value_bytes);
        let mut add = |name: &str, compression: Compression, stream: Vec<u8>| {
            streams.push((format!("{name} of {count} records"), compression, count, stream));
        };
        for compression in Compression::ALL {
            let mut builder = BatchBuilder::new(0, -1, compression);
            let opened = batch(Compression::None, count, &records);
            for record in milena_wire::batch::records(&opened, LIMIT).expect("sound records") {
                builder.append(
                    record.timestamp,
                    record.key.as_deref(),
                    record.value.as_deref(),
                    &[],
                );
            }
            add(
                &format!("our {compression:?}"),
                compression,
                builder.build()[HEADER_LEN..].to_vec(),
            );
        }
        for level in [0, 1, 9] {
            let mut encoder = flate2::GzBuilder::new()
                .filename("name")
                .comment("comment")
                .extra("extra")
                .write(Vec::new(), flate2::Compression::new(level));
            encoder.write_all(&records).expect("into memory");
            add(
                &format!("Gzip {level} with every field"),
                Compression::Gzip,
                encoder.finish().expect("into memory"),
            );
        }
        let bare = snap::raw::Encoder::new().compress_vec(&records).expect("into memory");
        add("bare Snappy", Compression::Snappy, bare);
        for flags in 0..16 {
            use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
            let linked = flags & 8 != 0;
            let frame = FrameInfo::new()
                .block_mode(if linked { BlockMode::Linked } else { BlockMode::Independent })
                .block_checksums(flags & 1 != 0)
                .content_checksum(flags & 2 != 0)
                .content_size((flags & 4 != 0).then_some(records.len() as u64))
                .block_size(BlockSize::Max64KB);
            let mut encoder = FrameEncoder::with_frame_info(frame, Vec::new());
            encoder.write_all(&records).expect("into memory");
            add(
                &format!("LZ4 {flags:04b}"),
                Compression::Lz4,
                encoder.finish().expect("into memory"),
            );
        }
        for (checksum, sized) in [(false, false), (true, false), (true, true)] {
            let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("into memory");
            encoder.include_checksum(checksum).expect("an option");
            encoder.include_contentsize(sized).expect("an option");
            if sized {
                encoder.set_pledged_src_size(Some(records.len() as u64)).expect("an option");
            }
            encoder.write_all(&records).expect("into memory");
            add(
                &format!("Zstandard {checksum} {sized}"),
                Compression::Zstd,
                encoder.finish().expect("into memory"),
            );
        }
    }
    streams
}

/// The batch whose `count` records are `stream`.
fn batch(compression: Compression, count: usize, stream: &[u8]) -> Bytes {
    let mut builder = BatchBuilder::new(0, -1, Compression::None);
    for _ in 0..count {
        builder.append(0, None, None, &[]);
    }
    forged(&builder.build(), stream, |header| header.attributes = compression as i16)
}
