//! One view of the metadata for each request.
//!
//! A request evaluates everything that it needs to know in one function of the state: the
//! session, permissions, the partition, its owner and its options. It does so under one
//! read guard, so all of them are of one position of the log. The local state may lag. So
//! it decides alone only when it contains what the client has seen and permits the
//! request; otherwise the node catches up with the log, and the function is evaluated
//! again. A refusal is therefore never made from an old state.

use adapters::metadata::MetadataState;

use crate::cluster::{Failure, Metadata};

/// Evaluates `look`: by the local state, if that contains the position `seen` and its lease
/// has not ended, or by a state that has caught up with the log.
///
/// # Errors
/// The error of `look` by a state that has caught up, or the failure to catch up.
pub(crate) async fn view<T>(
    metadata: &Metadata,
    seen: u64,
    look: impl Fn(&MetadataState) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let local = metadata.is_current().then(|| {
        let state = metadata.reader.read();
        (state.applied() >= seen).then(|| look(&state))
    });
    match local.flatten() {
        Some(Ok(found)) => Ok(found),
        _ => {
            metadata.barrier().await?;
            look(&metadata.reader.read())
        }
    }
}
