//! How the cores of a test are configured.

use crate::{CoreConfig, Limits, Membership, ReplicaId};

/// The group id of all tests.
pub const GROUP: u128 = 7;
/// The heartbeat interval, in ticks.
pub const HEARTBEAT_TICKS: u64 = 3;
/// The election timeout, in ticks.
pub const ELECTION_TICKS: u64 = 10;

/// Configures replica `id` of a group of replicas 1 to `voters`, followed by learners.
///
/// # Panics
/// When there are no voters or too many.
#[must_use]
pub fn config(id: ReplicaId, voters: u64, learners: u64, limits: Limits) -> CoreConfig {
    let membership = Membership::new(
        1,
        (1..=voters).map(ReplicaId),
        (voters + 1..=voters + learners).map(ReplicaId),
    );
    CoreConfig {
        id,
        group: GROUP,
        membership: membership.expect("a small group is a membership"),
        heartbeat_ticks: HEARTBEAT_TICKS,
        election_ticks: ELECTION_TICKS,
        seed: id.0 * 1000,
        limits,
    }
}
