//! A real file system that somebody else fills: a node on a small tmpfs refuses produce and goes on with everything else, from
//! its first boot on, comes up on it after a crash, and takes records again when there is room.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use milena_tests::Cluster;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;

mod common;
use common::{Reports, producer};

/// A tmpfs; unmounted when dropped, though a process may still be on it.
struct Mount(PathBuf);

impl Mount {
    /// None where mounting is not allowed.
    fn new(path: &Path, megabytes: u32) -> Result<Option<Mount>> {
        std::fs::create_dir_all(path)?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "none"])
            .arg(path)
            .stderr(Stdio::null())
            .status();
        Ok(mounted.is_ok_and(|status| status.success()).then(|| Mount(path.to_path_buf())))
    }

    /// Takes every byte that is left, as somebody else would. The file to remove.
    fn fill(&self) -> Result<PathBuf> {
        let path = self.0.join("somebody-else");
        let mut file = File::options().create(true).append(true).open(&path)?;
        let mut size = 1 << 20;
        while size > 0 {
            match file.write_all(&vec![1; size]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => size /= 2,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(path)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

/// In the order in which they must go.
struct Bed {
    mount: Mount,
    cluster: Cluster,
}

impl Bed {
    /// One record, tried once.
    fn send(&self, topic: &str, value: &str) -> Result<i64, KafkaError> {
        let reports = Reports::default();
        let settings = [("retries", "0"), ("message.timeout.ms", "5000")];
        let producer = producer(&self.cluster, &settings, reports.clone());
        producer
            .send(BaseRecord::with_opaque_to(topic, Box::new(0)).key("").payload(value))
            .map_err(|(error, _)| error)?;
        producer.flush(Duration::from_secs(10)).ok();
        reports.all().pop().expect("every record gets a report").1.map(|(_, offset)| offset)
    }

    /// Sends until it is refused for want of room; how many were taken until then.
    fn until_refused(&self, topic: &str) -> Result<usize> {
        let end = Instant::now() + Duration::from_secs(20);
        for taken in 0.. {
            match self.send(topic, "before the disk was seen to be full") {
                Err(KafkaError::MessageProduction(RDKafkaErrorCode::KafkaStorageError)) => {
                    return Ok(taken);
                }
                Err(other) => bail!("refused as {other}"),
                Ok(_) => ensure!(Instant::now() < end, "a full disk still takes records"),
            }
        }
        unreachable!("a loop without an end")
    }

    /// Sends until it is taken; its offset.
    fn until_taken(&self, topic: &str) -> Result<i64> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match self.send(topic, "room again") {
                Ok(offset) => return Ok(offset),
                Err(error) => ensure!(Instant::now() < end, "still refused: {error}"),
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn create(&self, topic: &str) -> Result<()> {
        let one = ["--partitions", "1", "--replication-factor", "1"];
        self.cluster.must(&[&["topic", "create", topic], &one[..]].concat())?;
        Ok(())
    }

    /// Metadata is written, and what it says is served.
    fn topics_come_and_go(&self, prefix: &str, count: usize) -> Result<()> {
        for i in 0..count {
            let name = format!("{prefix}-{i}");
            self.create(&name)?;
            ensure!(self.cluster.must(&["topic", "list"])?.contains(&name), "{name} is not listed");
            self.cluster.must(&["topic", "delete", &name]).context(name)?;
        }
        Ok(())
    }

    /// Crashes and comes up with what it held.
    fn restart(&mut self) -> Result<()> {
        let all = self.read("kept")?;
        self.cluster.nodes[0].kill();
        self.cluster.nodes[0].start()?;
        self.cluster.wait_ready(Duration::from_secs(30))?;
        ensure!(self.read("kept")? == all, "a restart lost records");
        Ok(())
    }

    fn read(&self, topic: &str) -> Result<usize> {
        let arguments = ["consume", topic, "--from", "beginning"];
        Ok(self.cluster.must(&arguments)?.lines().count())
    }
}

#[test]
fn a_full_disk_refuses_produce_and_nothing_else() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let Some(mount) = Mount::new(&directory.path().join("node-1"), 160)? else {
        eprintln!("SKIPPED: a full disk needs leave to mount a tmpfs, which is not given here");
        return Ok(());
    };
    let flags = ["--reserve-bytes", "4194304", "--journal-file-bytes", "4194304"];
    let cluster = Cluster::start_in(directory, 1, &[], &flags)?;
    let mut bed = Bed { mount, cluster };
    let pid = bed.cluster.nodes[0].pid();

    // Before the first record, when no journal file was ever written to its end.
    let foreign = bed.mount.fill()?;
    bed.create("kept")?;
    ensure!(bed.until_refused("kept")? == 0, "a journal without room ahead takes records");
    bed.topics_come_and_go("first", 10)?;
    std::fs::remove_file(foreign)?;
    ensure!(bed.until_taken("kept")? == 0, "something was taken while it was refused");

    // And with records that are still on their way to segments.
    bed.create("doomed")?;
    let big = "x".repeat(900_000);
    for _ in 0..20 {
        bed.send("doomed", &big)?;
    }
    let before = 1 + (0..10).map(|_| bed.send("kept", "early")).filter(Result::is_ok).count();
    let foreign = bed.mount.fill()?;
    let before = before + bed.until_refused("kept")?;
    ensure!(bed.read("kept")? == before, "a full disk hides records");
    bed.topics_come_and_go("second", 30)?;
    // What a deletion frees is room again.
    bed.cluster.must(&["topic", "delete", "doomed"])?;
    bed.until_taken("kept")?;
    let foreign_again = bed.mount.fill()?;
    ensure!(foreign_again == foreign);
    bed.until_refused("kept")?;
    ensure!(bed.cluster.nodes[0].runs() && bed.cluster.nodes[0].pid() == pid, "it went down");

    // A start finds the disk as full as the crash left it, time and again.
    for round in 0..3 {
        bed.restart()?;
        bed.topics_come_and_go(&format!("restart-{round}"), 5)?;
        // What the start gave back of its old journals goes to others as well.
        bed.mount.fill()?;
        bed.until_refused("kept")?;
    }
    std::fs::remove_file(foreign)?;
    bed.until_taken("kept")?;
    bed.restart()
}
