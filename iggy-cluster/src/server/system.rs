//! Statistics of this process and its machine, from `/proc`.

use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use adapters::wire::SystemStats;

/// Reads statistics of the system.
pub(crate) struct System {
    data: PathBuf,
    started: Instant,
    started_micros: u64,
}

impl System {
    pub(super) fn new(data: PathBuf) -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            data,
            started: Instant::now(),
            started_micros: u64::try_from(since.as_micros()).unwrap_or(0),
        }
    }

    /// The current statistics. What cannot be read is zero.
    pub(super) fn read(&self, clients: u32) -> SystemStats {
        let status = read("/proc/self/status");
        let memory = read("/proc/meminfo");
        let io = read("/proc/self/io");
        let release = read("/etc/os-release");
        let disk = rustix::fs::statvfs(&self.data).ok();
        let disk = disk.as_ref();
        let run = self.started.elapsed();
        SystemStats {
            process_id: std::process::id(),
            cpu_usage: process_cpu_percent(run.as_secs_f32()),
            total_cpu_usage: load_percent(),
            memory_bytes: field(&status, "VmRSS:") << 10,
            total_memory_bytes: field(&memory, "MemTotal:") << 10,
            available_memory_bytes: field(&memory, "MemAvailable:") << 10,
            run_time_micros: u64::try_from(run.as_micros()).unwrap_or(u64::MAX),
            start_time_micros: self.started_micros,
            read_bytes: field(&io, "read_bytes:"),
            written_bytes: field(&io, "write_bytes:"),
            threads: u32::try_from(field(&status, "Threads:")).unwrap_or(0),
            free_disk_bytes: disk.map_or(0, |disk| disk.f_bavail * disk.f_frsize),
            total_disk_bytes: disk.map_or(0, |disk| disk.f_blocks * disk.f_frsize),
            hostname: read("/proc/sys/kernel/hostname").trim().to_owned(),
            os_name: quoted(&release, "NAME="),
            os_version: quoted(&release, "VERSION_ID="),
            kernel_version: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            clients,
        }
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The number after a name at the start of a line.
fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

fn quoted(text: &str, name: &str) -> String {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .map(|value| value.trim_matches('"').to_owned())
        .unwrap_or_default()
}

/// The process's use of one processor since it started, in percent.
fn process_cpu_percent(seconds: f32) -> f32 {
    let stat = read("/proc/self/stat");
    // The command's name, in parentheses, may contain spaces and parentheses.
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return 0.0;
    };
    let fields: Vec<f32> = rest
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0.0))
        .collect();
    let ticks = fields.get(11).unwrap_or(&0.0) + fields.get(12).unwrap_or(&0.0);
    100.0 * ticks / 100.0 / seconds.max(0.001)
}

/// Runnable processes per processor, in percent.
fn load_percent() -> f32 {
    let load: f32 = read("/proc/loadavg")
        .split_whitespace()
        .next()
        .and_then(|load| load.parse().ok())
        .unwrap_or(0.0);
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (100.0 * load / processors as f32).min(100.0)
}
