//! A disk that waits for file descriptors.
//!
//! A process that has as many files and connections open as it may cannot open a segment of
//! its log. That is no failure of the disk, and passes: connections end. So the operation is
//! repeated until there is a descriptor. The replica does not stop for it; what it has
//! acknowledged is durable, and what waits becomes durable later.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use replica::disk::{Disk, DiskError, DiskFile};
use rustix::io::Errno;
use tracing::warn;

use crate::throttle::Throttle;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// Repeats what fails for want of a file descriptor. It blocks the calling thread.
pub(crate) struct PatientDisk {
    disk: Arc<dyn Disk>,
    pause: Box<dyn Fn() + Send + Sync>,
    waits: Mutex<Throttle>,
}

impl PatientDisk {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Self {
        Self::pausing(disk, || std::thread::sleep(PAUSE))
    }

    fn pausing(disk: Arc<dyn Disk>, pause: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            disk,
            pause: Box::new(pause),
            waits: Mutex::default(),
        }
    }

    fn repeat<T>(&self, work: impl Fn() -> Result<T, DiskError>) -> Result<T, DiskError> {
        loop {
            match work() {
                Err(error) if lacks_descriptor(&error.source) => self.wait(&error),
                result => return result,
            }
        }
    }

    fn wait(&self, error: &DiskError) {
        let due = {
            let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
            waits.due(Instant::now())
        };
        if let Some(suppressed) = due {
            warn!(
                %error, suppressed,
                "the log waits for a file descriptor; raise the limit on open files of this process"
            );
        }
        (self.pause)();
    }
}

/// Whether the process or the machine has as many files open as it may.
fn lacks_descriptor(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [Errno::MFILE, Errno::NFILE]
        .map(|errno| Some(errno.raw_os_error()))
        .contains(&code)
}

impl Disk for PatientDisk {
    fn create(&self, path: &str, bytes: u64) -> Result<Box<dyn DiskFile>, DiskError> {
        self.repeat(|| self.disk.create(path, bytes))
    }

    fn open(&self, path: &str) -> Result<Box<dyn DiskFile>, DiskError> {
        self.repeat(|| self.disk.open(path))
    }

    fn create_dir(&self, path: &str) -> Result<(), DiskError> {
        self.repeat(|| self.disk.create_dir(path))
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        self.repeat(|| self.disk.list(dir))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &str) -> Result<(), DiskError> {
        self.repeat(|| self.disk.sync_dir(dir))
    }

    fn nonce(&self) -> u64 {
        self.disk.nonce()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use bytes::Bytes;
    use consensus::{Entry, EntryKind, Index, PersistBatch, Term};
    use replica::disk::MemoryDisk;
    use replica::wal::{Wal, WalConfig};

    use super::*;

    /// A disk in memory, of a process that has no file descriptor for some operations.
    struct Exhausted {
        disk: MemoryDisk,
        failures: Arc<AtomicU32>,
        errno: Errno,
    }

    impl Exhausted {
        fn now(&self, path: &str) -> Result<(), DiskError> {
            let left = self.failures.load(Ordering::Relaxed);
            match left {
                0 => Ok(()),
                _ => Err(DiskError {
                    operation: "open",
                    path: path.into(),
                    source: self.errno.into(),
                }),
            }
        }
    }

    impl Disk for Exhausted {
        fn create(&self, path: &str, bytes: u64) -> Result<Box<dyn DiskFile>, DiskError> {
            self.now(path).and_then(|()| self.disk.create(path, bytes))
        }
        fn open(&self, path: &str) -> Result<Box<dyn DiskFile>, DiskError> {
            self.now(path).and_then(|()| self.disk.open(path))
        }
        fn create_dir(&self, path: &str) -> Result<(), DiskError> {
            self.now(path).and_then(|()| self.disk.create_dir(path))
        }
        fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
            self.now(dir).and_then(|()| self.disk.list(dir))
        }
        fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
            self.disk.rename(from, to)
        }
        fn remove(&self, path: &str) -> Result<(), DiskError> {
            self.disk.remove(path)
        }
        fn sync_dir(&self, dir: &str) -> Result<(), DiskError> {
            self.now(dir).and_then(|()| self.disk.sync_dir(dir))
        }
        fn nonce(&self) -> u64 {
            self.disk.nonce()
        }
    }

    fn entry(index: u64) -> PersistBatch {
        PersistBatch {
            entries: vec![Entry {
                term: Term(1),
                index: Index(index),
                kind: EntryKind::Command,
                payload: Bytes::from(vec![7; 3_000]),
            }],
            ..PersistBatch::default()
        }
    }

    /// Each pause ends one shortage.
    fn patient(errno: Errno) -> (Arc<AtomicU32>, PatientDisk) {
        let failures = Arc::<AtomicU32>::default();
        let left = Arc::clone(&failures);
        let disk = Exhausted {
            disk: MemoryDisk::new(),
            failures: Arc::clone(&failures),
            errno,
        };
        let pause = move || {
            let _ = left.fetch_sub(1, Ordering::Relaxed);
        };
        (failures, PatientDisk::pausing(Arc::new(disk), pause))
    }

    #[test]
    fn a_log_that_finds_no_descriptor_for_its_next_segment_continues_when_there_is_one() {
        for errno in [Errno::MFILE, Errno::NFILE] {
            let (failures, disk) = patient(errno);
            let config = WalConfig {
                segment_bytes: 16 << 10,
                spares_max: 0,
                ..WalConfig::new(7)
            };
            let (mut wal, _) = Wal::open(Arc::new(disk), "wal", config).unwrap();
            for index in 1..=20 {
                failures.store(3, Ordering::Relaxed);
                wal.append(&[entry(index)]).unwrap();
                wal.sync().unwrap();
            }
            assert!(wal.size().segments > 2, "no segment was opened");
        }
    }

    #[test]
    fn other_failures_are_not_repeated() {
        let (failures, disk) = patient(Errno::IO);
        failures.store(3, Ordering::Relaxed);
        assert!(disk.open("file").is_err());
        assert_eq!(failures.load(Ordering::Relaxed), 3);
    }
}
