//! Recovery: raft-rs's storage and configuration from what the disk has.

use consensus::rule;
use consensus::{CoreConfig, Index, LogWindow, RecoverError, Recovered, Term};
use raft::{Config, ReadOnlyOption};

use crate::hard_state;
use crate::storage::RaftStorage;

pub(super) fn build_storage(
    config: &CoreConfig,
    recovered: Recovered,
) -> Result<(RaftStorage, u64), RecoverError> {
    let mut state = match &recovered.hard_state {
        Some(bytes) => hard_state::decode(bytes)?,
        None => raft::eraftpb::HardState::default(),
    };
    let base = recovered
        .snapshot
        .as_ref()
        .map_or((Index::ZERO, Term(0)), |meta| (meta.index, meta.term));
    let mut window = match recovered.entries.first() {
        // The term of the entry before a tail is not recorded anywhere; the
        // first entry of the tail stands in for it.
        Some(first) if first.index.prev() != base.0 => LogWindow::new(first.index, first.term),
        _ => LogWindow::new(base.0, base.1),
    };
    let skip = usize::from(
        recovered
            .entries
            .first()
            .is_some_and(|first| first.index < window.first()),
    );
    window.append(&recovered.entries[skip..]);
    if state.commit > window.last().0 {
        return Err(RecoverError::LostLog {
            commit: Index(state.commit),
            last: window.last(),
        });
    }
    if !rule!(VoteRecovered) {
        state.vote = raft::INVALID_ID;
    }
    state.commit = state.commit.max(base.0.0);
    // A batch may have been cut between its entries and its hard state. No
    // message revealed the newer term, so no vote was cast in it.
    let newest_term = window.last_term().0.max(base.1.0);
    if state.term < newest_term {
        state.term = newest_term;
        state.vote = raft::INVALID_ID;
    }
    let membership = recovered
        .snapshot
        .as_ref()
        .map_or_else(|| config.membership.clone(), |meta| meta.membership.clone());
    if !membership.contains(config.id) {
        return Err(RecoverError::Config(format!(
            "replica {} is not in the membership of its own snapshot",
            config.id
        )));
    }
    Ok((
        RaftStorage::new(window, membership, recovered.snapshot, state),
        base.0.0,
    ))
}

pub(super) fn raft_config(config: &CoreConfig, applied: u64) -> Config {
    let limits = &config.limits;
    Config {
        id: config.id.0,
        election_tick: config.election_ticks as usize,
        heartbeat_tick: config.heartbeat_ticks as usize,
        applied,
        max_size_per_msg: limits.message_bytes_max as u64,
        max_inflight_msgs: limits.inflight_messages_max,
        check_quorum: rule!(LeaderStepsDownWithoutQuorum),
        pre_vote: true,
        read_only_option: match rule!(ReadIndexByQuorum) {
            true => ReadOnlyOption::Safe,
            false => ReadOnlyOption::LeaseBased,
        },
        // The commit index rides on the next append or heartbeat.
        skip_bcast_commit: true,
        batch_append: true,
        max_uncommitted_size: match rule!(UncommittedBytesBounded) {
            true => limits.uncommitted_bytes_max as u64,
            false => raft::NO_LIMIT,
        },
        max_committed_size_per_ready: limits.uncommitted_bytes_max as u64,
        ..Config::default()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "an adapter for map_err")]
pub(super) fn config_error(error: raft::Error) -> RecoverError {
    RecoverError::Config(error.to_string())
}
