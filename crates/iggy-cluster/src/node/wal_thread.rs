//! The thread that makes batches durable.
//!
//! While one sync is under way the next batches gather: they share one write
//! and one sync (group commit). A failed write or sync is fatal to the node: what
//! reached the disk is then unknown, and trying again could acknowledge what is
//! not there.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use consensus::{Index, PersistBatch};
use replica::wal::Wal;

use super::handle::{Inbox, Message};
use crate::metrics::Metrics;

/// Batches that share one write at most.
const BATCHES_PER_WRITE_MAX: usize = 256;

pub(super) enum WalJob {
    Write(PersistBatch),
    Compact(Index),
}

pub(super) fn run(
    mut wal: Wal,
    jobs: &mpsc::Receiver<WalJob>,
    inbox: &Inbox,
    metrics: &Arc<Metrics>,
) {
    let mut batches = Vec::new();
    while let Ok(first) = jobs.recv() {
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
            inbox.put(Message::Fatal(format!("write-ahead log: {error}")));
            return;
        }
        if let Some(last) = batches.last() {
            inbox.put(Message::Persisted(last.id));
        }
        batches.clear();
    }
}

fn write(
    wal: &mut Wal,
    batches: &[PersistBatch],
    compact: Option<Index>,
    metrics: &Metrics,
) -> Result<(), replica::wal::WalError> {
    if !batches.is_empty() {
        wal.append(batches)?;
        let begun = Instant::now();
        wal.sync()?;
        metrics.fsync_seconds.observe(begun.elapsed().as_secs_f64());
        metrics.batches_per_fsync.observe(batches.len() as f64);
    }
    if let Some(through) = compact {
        wal.compact(through)?;
    }
    metrics.set_wal(wal.size());
    Ok(())
}
