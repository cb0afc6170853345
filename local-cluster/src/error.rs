//! Errors of processes, directories and ports.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a process cannot be started or controlled.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// A file, directory or program cannot be used.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What failed, as `cannot create`.
        action: &'static str,
        /// The file, directory or program.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The node has no process.
    #[error("node {0} is not running")]
    NotRunning(u8),
    /// The node has a process already.
    #[error("node {0} is running already")]
    Running(u8),
    /// Too few ports of 127.0.0.1 are free.
    #[error("fewer than {0} ports of 127.0.0.1 are free: stop other clusters on this machine")]
    NoFreePorts(usize),
    /// The other program of the same build does not exist.
    #[error("{} does not exist: build it with the same cargo command", .0.display())]
    NoSibling(PathBuf),
}

impl ProcessError {
    /// Adds what failed to an error of the system.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
