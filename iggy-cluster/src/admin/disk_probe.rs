//! Whether the disk of this node makes a write durable.
//!
//! The log notices a disk that hangs when it writes. In a cluster without changes it writes
//! nothing, so `status` writes a few bytes of its own.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

type Work = dyn Fn() -> io::Result<()> + Send + Sync;

/// Writes to the disk, at most once at a time: a disk that hangs keeps one thread.
pub(crate) struct DiskProbe {
    work: Arc<Work>,
    running: Mutex<Option<Running>>,
}

/// A write that is in flight, or has ended.
#[derive(Clone)]
pub(super) struct Running {
    since: Instant,
    done: watch::Receiver<Option<Result<(), String>>>,
}

impl DiskProbe {
    /// Writes to this file.
    pub(crate) fn new(file: PathBuf) -> Self {
        Self::with(move || {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o600);
            let mut file = options.open(&file)?;
            // Blocks that exist: it needs no room on the disk again.
            file.write_all(b"a write of status\n")?;
            file.sync_data()
        })
    }

    fn with(work: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self {
            work: Arc::new(work),
            running: Mutex::new(None),
        }
    }

    /// Starts a write, unless one is in flight: then that one tells as much.
    pub(super) fn start(&self) -> Running {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = &*running
            && running.done.borrow().is_none()
        {
            return running.clone();
        }
        let (ended, done) = watch::channel(None);
        let work = Arc::clone(&self.work);
        tokio::task::spawn_blocking(move || {
            let result = match work() {
                // The reports of partitions and of the log show that the disk is full.
                Err(error) if error.kind() != io::ErrorKind::StorageFull => Err(error.to_string()),
                _ => Ok(()),
            };
            ended.send_replace(Some(result));
        });
        running
            .insert(Running {
                since: Instant::now(),
                done,
            })
            .clone()
    }
}

impl Running {
    /// What is wrong with the disk, by this moment.
    pub(super) async fn problem(mut self, deadline: Instant) -> Option<String> {
        let ended = timeout_at(deadline, self.done.wait_for(Option::is_some)).await;
        match ended {
            Ok(Ok(result)) => match &*result {
                Some(Err(error)) => Some(format!("its disk refuses writes: {error}")),
                _ => None,
            },
            // The process ends.
            Ok(Err(_)) => None,
            Err(_) => Some(format!(
                "its disk hangs: a small write is not durable after {:.1} s",
                self.since.elapsed().as_secs_f64()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_disk_that_hangs_is_reported_and_keeps_one_thread() {
        let (release, released) = std::sync::mpsc::channel();
        let (released, writes) = (Mutex::new(released), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&writes);
        let probe = DiskProbe::with(move || {
            count.fetch_add(1, Ordering::Relaxed);
            let _ = released.lock().unwrap().recv();
            Ok(())
        });
        for _ in 0..3 {
            let problem = probe.start().problem(Instant::now() + SOON).await;
            assert!(problem.unwrap().starts_with("its disk hangs"));
        }
        // Started before the write ends: a later one would start another write.
        let last = probe.start();
        release.send(()).unwrap();
        assert_eq!(last.problem(Instant::now() + LONG).await, None);
        assert_eq!(writes.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_disk_that_works_or_is_full_has_no_problem_and_one_that_fails_has() {
        let dir = tempfile::tempdir().unwrap();
        let probe = DiskProbe::new(dir.path().join("probe"));
        for _ in 0..2 {
            assert_eq!(probe.start().problem(Instant::now() + LONG).await, None);
        }
        let size = std::fs::metadata(dir.path().join("probe")).unwrap().len();
        assert_eq!(size, 18);
        let of = |kind: io::ErrorKind| DiskProbe::with(move || Err(kind.into()));
        let full = of(io::ErrorKind::StorageFull).start();
        assert_eq!(full.problem(Instant::now() + LONG).await, None);
        let fails = of(io::ErrorKind::ReadOnlyFilesystem).start();
        let problem = fails.problem(Instant::now() + LONG).await.unwrap();
        assert!(problem.starts_with("its disk refuses writes"), "{problem}");
    }
}
