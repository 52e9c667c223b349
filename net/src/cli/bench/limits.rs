//! The machine's own limits, measured in the same run as what they bound: a round trip over loopback, an fdatasync, a CRC.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;

/// Below this an fdatasync reaches no disk, and no figure that contains one means anything.
pub const VOID_BELOW_US: f64 = 20.0;
/// How long each limit is measured.
const MEASURED_FOR: Duration = Duration::from_millis(1_000);

/// What the machine can do at best.
#[derive(Debug)]
pub struct Limits {
    /// Of the file system that holds the data.
    pub file_system: String,
    /// A 4 KiB write and fdatasync on a recycled file, nanoseconds.
    pub fdatasync: Histogram<u64>,
    /// 100 bytes there and back between two threads, nanoseconds.
    pub round_trip: Histogram<u64>,
    /// CRC-32C over 64 KiB pieces, bytes per second.
    pub crc_bytes_per_second: f64,
}

/// A histogram of nanoseconds up to a minute.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("constant bounds are sound")
}

/// A percentile in microseconds.
pub fn micros(histogram: &Histogram<u64>, percentile: f64) -> f64 {
    histogram.value_at_percentile(percentile) as f64 / 1e3
}

/// Measures all of them; `directory` is on the disk that matters.
pub fn measure(directory: &Path) -> Result<Limits> {
    Ok(Limits {
        file_system: file_system(directory)?,
        fdatasync: fdatasync(directory)?,
        round_trip: round_trip()?,
        crc_bytes_per_second: crc(),
    })
}

/// Measures the disk alone, again: its figure moves.
pub fn fdatasync(directory: &Path) -> Result<Histogram<u64>> {
    const BLOCK: usize = 4096;
    const BLOCKS: usize = 4096;
    let path = directory.join("probe");
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
    let zeros = vec![0; 1 << 20];
    for i in 0..BLOCK * BLOCKS / zeros.len() {
        file.write_all_at(&zeros, (i * zeros.len()) as u64)?;
    }
    file.sync_all()?;
    let (block, mut times) = (vec![7; BLOCK], histogram());
    let end = Instant::now() + MEASURED_FOR;
    for i in 0.. {
        let began = Instant::now();
        if began > end {
            break;
        }
        file.write_all_at(&block, ((i % BLOCKS) * BLOCK) as u64)?;
        file.sync_data()?;
        times.saturating_record(began.elapsed().as_nanos() as u64);
    }
    std::fs::remove_file(&path)?;
    Ok(times)
}

fn round_trip() -> Result<Histogram<u64>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let echo = crate::runtime::Thread::start("echo".into(), move || async move {
        let mut bytes = [0; 100];
        while server.read_exact(&mut bytes).is_ok() && server.write_all(&bytes).is_ok() {}
    })?;
    let (mut bytes, mut times) = ([1; 100], histogram());
    let end = Instant::now() + MEASURED_FOR;
    loop {
        let began = Instant::now();
        if began > end {
            break;
        }
        client.write_all(&bytes)?;
        client.read_exact(&mut bytes)?;
        times.saturating_record(began.elapsed().as_nanos() as u64);
    }
    drop(client);
    echo.join();
    Ok(times)
}

fn crc() -> f64 {
    let bytes = vec![7; 64 << 10];
    let (began, mut sum, mut count) = (Instant::now(), 0, 0);
    while began.elapsed() < MEASURED_FOR / 4 {
        sum ^= crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, std::hint::black_box(&bytes));
        count += bytes.len();
    }
    std::hint::black_box(sum);
    count as f64 / began.elapsed().as_secs_f64()
}

fn file_system(directory: &Path) -> Result<String> {
    let kind = rustix::fs::statfs(directory)?.f_type as u64 & 0xffff_ffff;
    let name = match kind {
        0xef53 => "ext2/3/4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlayfs",
        0x2fc1_2fc1 => "zfs",
        0x6969 => "nfs",
        _ => return Ok(format!("file system {kind:#x}")),
    };
    Ok(name.into())
}
