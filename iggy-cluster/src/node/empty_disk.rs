//! Initialization of an empty data directory, when the other nodes confirm that this node
//! has never run.

use std::path::Path;
use std::sync::Arc;

use replica::disk::DiskError;
use replica::superblock::SuperblockError;
use replicated_log::links::Links;
use replicated_log::{LogConfig, LogError};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::{StartError, admission};

/// Initializes the directory if it is empty. Waits until the other nodes have confirmed
/// that this node has never run.
pub(super) async fn initialize(
    config: &LogConfig,
    listener: &Arc<TcpListener>,
) -> Result<(), StartError> {
    let path = &config.data;
    let failed = |source: SuperblockError| LogError::Open {
        path: path.clone(),
        source: source.into(),
    };
    if !is_empty(path).map_err(failed)? {
        return Ok(());
    }
    let links = Links::new(config, 0);
    let mut answering = JoinSet::new();
    answering.spawn(links.listener(None).run(Arc::clone(listener)));
    let formatted = || is_empty(path).is_ok_and(|empty| !empty);
    admission::admit(links.voters(&config.membership), formatted)
        .await
        .map_err(|peer| StartError::DiskLost {
            path: path.clone(),
            peer: peer.number(),
        })?;
    answering.shutdown().await;
    match replicated_log::format(config, path) {
        // An operator was quicker.
        Ok(()) | Err(SuperblockError::Formatted) => Ok(()),
        Err(error) => Err(failed(error).into()),
    }
}

/// Whether the directory has never been initialized. One with messages but without a
/// superblock is not empty but damaged.
fn is_empty(data: &Path) -> Result<bool, SuperblockError> {
    match replicated_log::is_empty(data)? {
        true if contains_messages(data)? => Err(SuperblockError::Corrupt),
        empty => Ok(empty),
    }
}

fn contains_messages(data: &Path) -> Result<bool, SuperblockError> {
    let path = data.join("partitions");
    let unreadable = |source| {
        SuperblockError::Disk(DiskError {
            operation: "list",
            path: path.display().to_string(),
            source,
        })
    };
    let entries = match std::fs::read_dir(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        entries => entries.map_err(unreadable)?,
    };
    for entry in entries {
        // The storage creates hidden files before there is any partition.
        let name = entry.map_err(unreadable)?.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            return Ok(true);
        }
    }
    Ok(false)
}
