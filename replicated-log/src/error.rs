//! Errors of a node, each with what the operator can do.

use std::fmt;
use std::path::PathBuf;

use consensus::{ReplicaId, StepError};
use replica::driver::ReplicaError;
use replica::open::OpenError;
use replica::wal::WalError;
use thiserror::Error;

/// Why a replica of the log cannot start.
#[derive(Debug, Error)]
pub enum LogError {
    /// The data directory cannot be opened.
    #[error("{path}: {source}")]
    Open {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: Box<OpenError>,
    },
    /// The data directory is empty, and a peer knows that this replica has run.
    #[error(
        "{path} is empty, but replica {peer} knows this replica as one that has run: its disk is lost, and with it what it has acknowledged; restore the directory as it was when the node stopped, but no older backup; the other nodes stay available without this one"
    )]
    DiskLost {
        /// The directory.
        path: PathBuf,
        /// The peer that knows this replica.
        peer: ReplicaId,
    },
    /// The data directory was initialized and not started yet, and a peer knows that this
    /// replica has run.
    #[error(
        "{path} was initialized anew, but replica {peer} knows this replica as one that has run: its disk is lost, and with it what it has acknowledged; remove this directory, and restore the former one as it was when the node stopped, but no older backup; the other nodes stay available without this one"
    )]
    Reformatted {
        /// The directory.
        path: PathBuf,
        /// The peer that knows this replica.
        peer: ReplicaId,
    },
    /// A peer belongs to a cluster with other replicas.
    #[error("{path} is new, and this replica does not fit into the cluster: {reason}")]
    OtherMembers {
        /// The directory.
        path: PathBuf,
        /// Both lists, and what to do.
        reason: String,
    },
    /// An address is in use, or not one of this machine.
    #[error(
        "cannot listen on {address} for {purpose}: {source}; check that no other node is running, and that the address is one of this machine"
    )]
    Listen {
        /// The address.
        address: String,
        /// The kind of connections.
        purpose: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// A thread cannot be started.
    #[error(
        "cannot start the {thread} thread: {source}; check the limits on threads and memory of this process"
    )]
    Thread {
        /// The thread.
        thread: LogThread,
        /// The cause.
        source: std::io::Error,
    },
}

/// The threads of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogThread {
    /// Runs rounds of the replica.
    Consensus,
    /// Makes batches durable.
    Wal,
    /// Reads and writes snapshots.
    Snapshots,
}

impl LogThread {
    /// The name of the thread in the operating system.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Consensus => "consensus",
            Self::Wal => "wal",
            Self::Snapshots => "snapshots",
        }
    }
}

impl fmt::Display for LogThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a replica that was running had to stop. It stops rather than acknowledge what it
/// cannot keep.
#[derive(Debug, Error)]
#[error("{}", describe(*.thread, .cause))]
pub struct FatalError {
    /// The thread that failed.
    pub thread: LogThread,
    /// The cause.
    #[source]
    pub cause: FatalCause,
}

fn describe(thread: LogThread, cause: &FatalCause) -> String {
    match cause {
        FatalCause::Outdated { .. } | FatalCause::Replica(ReplicaError::Diverged(_)) => {
            cause.to_string()
        }
        _ => format!("the {thread} thread failed: {cause}"),
    }
}

fn advise(error: &ReplicaError) -> String {
    match error {
        ReplicaError::Diverged(_) | ReplicaError::Command { .. } => error.to_string(),
        ReplicaError::Entry { .. } | ReplicaError::Snapshot { .. } => format!(
            "{error}; start the version of the program that runs on the other nodes, on the same directory"
        ),
    }
}

impl FatalError {
    pub(crate) fn outdated(peer: ReplicaId, reason: String) -> Self {
        Self {
            thread: LogThread::Consensus,
            cause: FatalCause::Outdated { peer, reason },
        }
    }

    pub(crate) fn panic(thread: LogThread) -> Self {
        Self {
            thread,
            cause: FatalCause::Panic,
        }
    }
}

impl From<ReplicaError> for FatalError {
    fn from(error: ReplicaError) -> Self {
        Self {
            thread: LogThread::Consensus,
            cause: FatalCause::Replica(error),
        }
    }
}

impl From<WalError> for FatalError {
    fn from(error: WalError) -> Self {
        Self {
            thread: LogThread::Wal,
            cause: FatalCause::Wal(error),
        }
    }
}

/// The cause of a [`FatalError`].
#[derive(Debug, Error)]
pub enum FatalCause {
    /// What was committed cannot be applied here, or is not what is committed elsewhere.
    #[error("{}", advise(.0))]
    Replica(ReplicaError),
    /// The write-ahead log cannot be written, so nothing more can become durable.
    #[error("{0}; check the disk, then restart the node: it recovers what is durable")]
    Wal(WalError),
    /// The cluster has recorded a later start of this replica than its disk.
    #[error("replica {peer} refuses this one: {reason}; the data directory is kept as it is")]
    Outdated {
        /// The peer.
        peer: ReplicaId,
        /// What it replied, and what to do.
        reason: String,
    },
    /// A panic, whose message is on standard error.
    #[error("it panicked; keep the message and the backtrace for a report, then restart the node")]
    Panic,
}

/// Why a transfer of leadership did not start.
#[derive(Debug, Error)]
pub enum TransferError {
    /// This replica does not lead, or the target does not vote.
    #[error(transparent)]
    Refused(#[from] StepError),
    /// This replica has stopped.
    #[error("this replica has stopped; send the request to a node that runs")]
    Stopped,
}
