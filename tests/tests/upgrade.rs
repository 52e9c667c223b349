//! A data directory of an older format: `fixtures/format-1.tar.gz` is what commit 0f3bdf1 left behind when it was killed. Two
//! topics hold 200 records each, most in segments that a checkpoint names, the last ones in the journal alone. Those of
//! `strange` have in turn no time, one in the year 58000, and that of the day; their topic keeps them for two seconds, and
//! nothing was removed yet.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use milena_tests::{Cluster, workspace};
use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::Offset;

mod common;
use common::{consumer, read, send_one};

/// Where a topic begins and ends.
fn bounds(cluster: &Cluster, topic: &str) -> Result<(i64, i64)> {
    Ok(consumer(cluster).fetch_watermarks(topic, 0, Duration::from_secs(10))?)
}

#[test]
fn a_directory_of_format_1_is_read_and_kept() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let fixture = workspace().join("tests/fixtures/format-1.tar.gz");
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(fixture).arg("-C").arg(directory.path());
    ensure!(tar.status()?.success(), "the fixture is unpacked");
    let flags = ["--min-insync-replicas", "1", "--retention-check-ms", "200"];
    let mut cluster = Cluster::start_in(directory, 1, &[], &flags)?;
    let read_all = |cluster: &Cluster| -> Result<()> {
        let records = read(cluster, "kept", 0, Offset::Beginning, 200)?;
        for (number, record) in (0..).zip(&records) {
            ensure!(record.offset == number, "{number} is at {}", record.offset);
            let value = format!("letter {:06} ", 2 * number + 1).repeat(600).into_bytes();
            ensure!(record.value.as_ref() == Some(&value), "another record at {number}");
        }
        Ok(())
    };
    read_all(&cluster)?;
    ensure!(bounds(&cluster, "kept")? == (0, 200), "no more and no less");
    ensure!(send_one(&cluster, "kept", "of today")? == (0, 200), "it goes on");
    // No time from outside keeps them: they count from the start, since nobody knows from when else.
    let end = Instant::now() + Duration::from_secs(20);
    while bounds(&cluster, "strange")? != (200, 200) {
        ensure!(
            Instant::now() < end,
            "strange times stop retention: {:?}",
            bounds(&cluster, "strange")?
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    cluster.nodes[0].kill();
    cluster.nodes[0].start()?;
    cluster.wait_ready(Duration::from_secs(30))?;
    read_all(&cluster)?;
    ensure!(bounds(&cluster, "kept")? == (0, 201), "all of it, in the new format");
    ensure!(bounds(&cluster, "strange")? == (200, 200), "what was removed stays so");
    Ok(())
}
