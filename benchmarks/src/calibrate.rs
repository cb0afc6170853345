//! What the machine is, and what it can do at best.
//!
//! A round trip over loopback takes ten times as long when it goes to another core that
//! sleeps: both are measured, and the report has limits for both.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use hdrhistogram::Histogram;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::load::{histogram, record};
use crate::results::{Calibration, Machine, Percentiles};

const BLOCK_BYTES: usize = 4 << 10;
const FILE_BYTES: u64 = 4 << 20;
const SYNCS: usize = 300;
const ROUND_TRIPS: usize = 5_000;

/// Measures in a temporary directory, where the clusters will be too.
pub(crate) fn calibrate() -> anyhow::Result<Calibration> {
    let dir = tempfile::Builder::new()
        .prefix("iggy-cluster-calibration-")
        .tempdir()?;
    Ok(Calibration {
        fdatasync: concurrent_syncs(dir.path(), 1)?,
        three_fdatasyncs: concurrent_syncs(dir.path(), 3)?,
        round_trip: round_trips(false)?,
        round_trip_one_core: round_trips(true)?,
    })
}

/// Several writers call fdatasync concurrently.
fn concurrent_syncs(dir: &Path, writers: usize) -> anyhow::Result<Percentiles> {
    let mut all = histogram();
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let writers: Vec<_> = (0..writers)
            .map(|number| scope.spawn(move || syncs(&dir.join(format!("{writers}-{number}")))))
            .collect();
        for writer in writers {
            let one = writer.join().expect("a writer does not panic")?;
            all.add(&one)?;
        }
        Ok(())
    })?;
    Ok(Percentiles::from(&all))
}

fn syncs(path: &Path) -> anyhow::Result<Histogram<u64>> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let block = [1_u8; BLOCK_BYTES];
    for offset in (0..FILE_BYTES).step_by(BLOCK_BYTES) {
        file.write_all_at(&block, offset)?;
    }
    file.sync_all()?;
    let mut took = histogram();
    for number in 0..SYNCS {
        let started = Instant::now();
        let offset = (number * BLOCK_BYTES) as u64 % FILE_BYTES;
        file.write_all_at(&block, offset)?;
        file.sync_data()?;
        record(&mut took, started.elapsed());
    }
    Ok(took)
}

/// A byte there and back, between two cores or on one.
fn round_trips(one_core: bool) -> anyhow::Result<Percentiles> {
    std::thread::spawn(move || exchange(one_core))
        .join()
        .expect("an exchange does not panic")
}

/// The first two cores that this process may use, or one of them twice.
fn two_cores(one_core: bool) -> [Option<CpuSet>; 2] {
    let allowed = sched_getaffinity(None).unwrap_or_default();
    let mut cores = (0..CpuSet::MAX_CPU)
        .filter(|core| allowed.is_set(*core))
        .map(|core| {
            let mut only = CpuSet::new();
            only.set(core);
            only
        });
    let first = cores.next();
    let second = if one_core { first } else { cores.next() };
    [first, second]
}

/// Pins this thread to a core. Where that is not allowed, it runs anywhere.
fn stay_on(core: Option<CpuSet>) {
    if let Some(core) = core {
        let _ = sched_setaffinity(None, &core);
    }
}

fn exchange(one_core: bool) -> anyhow::Result<Percentiles> {
    let [here, there] = two_cores(one_core);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        stay_on(there);
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut byte = [0];
        while stream.read(&mut byte)? > 0 {
            stream.write_all(&byte)?;
        }
        Ok(())
    });
    stay_on(here);
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut took = histogram();
    let mut byte = [1];
    for _ in 0..ROUND_TRIPS {
        let started = Instant::now();
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        record(&mut took, started.elapsed());
    }
    drop(stream);
    echo.join().expect("the echo does not panic")?;
    Ok(Percentiles::from(&took))
}

/// The machine, as the operating system describes it.
pub(crate) fn machine() -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let memory = after(&read("/proc/meminfo"), "MemTotal");
    let kib = memory.split(' ').next().and_then(|kib| kib.parse().ok());
    Machine {
        cpu: after(&read("/proc/cpuinfo"), "model name"),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: kib.unwrap_or(0_u64) << 10,
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        file_system: file_system(&std::env::temp_dir(), &read("/proc/mounts")),
    }
}

/// The type of the mount that holds a path.
fn file_system(path: &Path, mounts: &str) -> String {
    let holding = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (at, kind) = (fields.next()?, fields.next()?);
        path.starts_with(at).then_some((at.len(), kind))
    });
    let longest = holding.max_by_key(|(length, _)| *length);
    longest.map_or(String::new(), |(_, kind)| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_mount_holds_a_path() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\ntmpfs /tmpx xfs rw 0 0\n";
        assert_eq!(file_system(Path::new("/tmp/x"), mounts), "tmpfs");
        assert_eq!(file_system(Path::new("/var"), mounts), "ext4");
    }
}
