//! The thread that makes batches durable.
//!
//! While one fsync is in flight the next batches gather: they share one write and one
//! fsync (group commit). A failed write or fsync is fatal to the node: what has reached
//! the disk is then unknown, and a second attempt could acknowledge what is not there.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use consensus::{Index, PersistBatch};
use replica::wal::Wal;
use tracing::{info, warn};

use crate::inbox::{Inbox, Message};
use crate::metrics::LogMetrics;

/// Batches that share one write at most.
const BATCHES_PER_WRITE_MAX: usize = 256;

/// Between two attempts of an idle thread to prepare a segment on a full disk.
const RETRY: Duration = Duration::from_secs(5);

pub(crate) enum WalJob {
    Write(PersistBatch),
    Compact(Index),
}

pub(crate) fn run(
    mut wal: Wal,
    jobs: &mpsc::Receiver<WalJob>,
    inbox: &Inbox,
    metrics: &Arc<LogMetrics>,
) {
    let mut batches = Vec::new();
    let mut reserve_missing = false;
    while let Some(first) = next_job(&mut wal, jobs, metrics, &mut reserve_missing) {
        let mut compact = None;
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                WalJob::Write(batch) => batches.push(batch),
                WalJob::Compact(through) => compact = Some(through),
            }
            if batches.len() == BATCHES_PER_WRITE_MAX {
                break;
            }
            next = jobs.try_recv().ok();
        }
        if let Err(error) = write(&mut wal, &batches, compact, metrics) {
            inbox.post_and_wake(Message::Fatal(Box::new(error.into())));
            return;
        }
        if let Some(last) = batches.last() {
            let persisted = Message::Persisted(last.id);
            // Under load the next batches wait already: this thread writes them first.
            match batches.len() {
                1 => inbox.post(persisted),
                _ => inbox.post_and_wake(persisted),
            }
        }
        batches.clear();
    }
}

/// The next job. While there is none, a spare segment is prepared slice by slice, so that
/// the next segment is ready when the current one is full. On a full disk that is tried
/// again and again.
fn next_job(
    wal: &mut Wal,
    jobs: &mpsc::Receiver<WalJob>,
    metrics: &LogMetrics,
    reserve_missing: &mut bool,
) -> Option<WalJob> {
    loop {
        match jobs.try_recv() {
            Ok(job) => return Some(job),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => {}
        }
        match wal.prepare() {
            Ok(true) => {
                // A segment that is being prepared counts as room that is reserved.
                metrics.set_wal(wal.size());
                continue;
            }
            Ok(false) => {}
            Err(error) => {
                if !std::mem::replace(reserve_missing, true) {
                    warn!(%error, "cannot prepare the next segment of the write-ahead log, so the node stops when the current one is full; make room on the disk");
                }
            }
        }
        metrics.set_wal(wal.size());
        if wal.has_reserve() {
            if std::mem::take(reserve_missing) {
                info!("the next segment of the write-ahead log is prepared: there is room again");
            }
            return jobs.recv().ok();
        }
        match jobs.recv_timeout(RETRY) {
            Err(RecvTimeoutError::Timeout) => wal.retry_prepare(),
            next => return next.ok(),
        }
    }
}

fn write(
    wal: &mut Wal,
    batches: &[PersistBatch],
    compact: Option<Index>,
    metrics: &LogMetrics,
) -> Result<(), replica::wal::WalError> {
    if !batches.is_empty() {
        wal.append(batches)?;
        let started = Instant::now();
        wal.sync()?;
        metrics
            .fsync_seconds
            .observe(started.elapsed().as_secs_f64());
        metrics.batches_per_fsync.observe(batches.len() as f64);
    }
    if let Some(through) = compact {
        wal.compact(through)?;
    }
    metrics.set_wal(wal.size());
    Ok(())
}
