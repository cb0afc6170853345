//! Restart (VRR 4.3, and why it is not needed).
//!
//! Everything that a replica has told anybody is on its disk, so its log is
//! trusted and no recovery protocol is run: it comes back as the replica that it
//! was, after losing some messages. A backup whose log is of its view goes on in
//! it; one that was changing views goes on changing; a primary does not go on,
//! because it may have sent prepares that are not on its disk and must not send
//! others under the same numbers: it asks for the next view.
//!
//! E8: what is not known to be committed is not delivered. The commit number of
//! the disk is a lower bound; the primary of a view tells the rest.

use std::collections::{BTreeMap, VecDeque};

use consensus::rule;
use consensus::{CoreConfig, Index, PersistId, RecoverError, Recovered, Term, Tick};

use crate::backup::Backup;
use crate::core::{Phase, VrCore};
use crate::durability::Durability;
use crate::guard;
use crate::hard_state::HardState;
use crate::log::Log;
use crate::primary::Primary;
use crate::reads::Reads;
use crate::view_change::{Suspicion, ViewChange};

pub(crate) fn recover(config: &CoreConfig, recovered: Recovered) -> Result<VrCore, RecoverError> {
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
    let mut state = state;
    if !rule!(ViewRecovered) {
        state.view = state.log_view;
    }
    let leads = guard::primary(&membership, state.view) == config.id;
    let phase = if state.log_view < state.view {
        Phase::ViewChange(ViewChange::default())
    } else if leads && !rule!(PrimaryStepsDownAtRestart) {
        let others = membership.members().filter(|id| *id != config.id);
        Phase::Primary(Primary::new(others, 0, log.last(), 0))
    } else if leads {
        Phase::Backup(Backup::ceded())
    } else {
        Phase::Backup(Backup::new(0))
    };
    Ok(VrCore {
        id: config.id,
        group: config.group,
        limits: config.limits.clone(),
        heartbeat_ticks: config.heartbeat_ticks,
        election_ticks: config.election_ticks,
        membership,
        now: Tick(0),
        clock: 0,
        effects: VecDeque::new(),
        outbox: Vec::new(),
        view: state.view,
        log_view: state.log_view,
        commit: match rule!(RecoveredLogUncommitted) {
            true => state.commit.max(base.0),
            false => log.last(),
        },
        delivered: base.0,
        durability: Durability::new(log.last()),
        entered: PersistId(0),
        joined: PersistId(0),
        phase,
        suspicion: Suspicion::default(),
        proposals: BTreeMap::new(),
        reads: Reads::new(config.seed),
        snapshot: snapshot.map(|meta| {
            let checksum = log.checksum(meta.index);
            (meta, checksum)
        }),
        fetching: None,
        leader: (state.view.term(), None),
        log,
    })
}
