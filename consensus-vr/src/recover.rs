//! Restart (VRR 4.3, and why it is not needed).
//!
//! Everything that a replica has sent to others is on its disk, so its log is trusted
//! and no recovery protocol is run: it comes back as the replica that it was, after
//! losing some messages. A backup whose log is of its view continues in it; one that was
//! changing views continues to change; a primary does not continue, because it may have
//! sent prepares that are not on its disk and must not send others under the same
//! numbers: it votes for the next view.
//!
//! E8: what is not known to be committed is not delivered. The commit number on the disk
//! is a lower bound; the rest is up to the primary of a view.

use consensus::rule;
use consensus::{CoreConfig, Index, RecoverError, Recovered, Term};

use crate::context::{CoreContext, Snapshot, Start};
use crate::hard_state::HardState;
use crate::log::Log;

/// What the replica knows after its restart; the role follows from it.
pub(crate) fn recover(
    config: &CoreConfig,
    recovered: Recovered,
) -> Result<CoreContext, RecoverError> {
    config.check()?;
    let recovered = recovered.checked()?;
    let state = match &recovered.hard_state {
        Some(bytes) => HardState::decode(bytes)?,
        None => HardState::default(),
    };
    let snapshot = recovered.snapshot;
    let base = snapshot
        .as_ref()
        .map_or((Index::ZERO, Term(0)), |meta| (meta.index, meta.term));
    let log = Log::recover(base, state.anchor(base.0), &recovered.entries)?;
    if state.commit > log.last() {
        return Err(RecoverError::LostLog {
            commit: state.commit,
            last: log.last(),
        });
    }
    let membership = snapshot
        .as_ref()
        .map_or_else(|| config.membership.clone(), |meta| meta.membership.clone());
    if !membership.contains(config.id) {
        return Err(RecoverError::Config(format!(
            "replica {} is not in the membership of its own snapshot",
            config.id
        )));
    }
    let known = state.commit.max(base.0);
    let start = Start {
        membership,
        view: if rule!(ViewRecovered) {
            state.view
        } else {
            state.log_view
        },
        log_view: state.log_view,
        commit: if rule!(RecoveredLogUncommitted) {
            known
        } else {
            log.last()
        },
        delivered: base.0,
        snapshot: snapshot.map(|meta| Snapshot {
            checksum: log.checksum(meta.index),
            meta,
        }),
        log,
    };
    Ok(CoreContext::new(config, start))
}
