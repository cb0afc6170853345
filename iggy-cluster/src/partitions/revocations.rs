//! Completes revocations of partitions from members of a group.
//!
//! The owner of a partition knows what was served of it and which offsets are committed,
//! so it reports when the next member may have the partition. Where no owner does so in
//! time, the leader completes the revocation: a member that does not commit delays the
//! others no longer, and what it was served is served again to the next member.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::partitions::PartitionOptions;
use adapters::metadata::{GroupKey, Intent, MetadataState, PartitionKey};

use super::local::LocalPartitions;
use super::place::Place;

/// The longest time between two rounds; notifications start them earlier.
const ROUND: Duration = Duration::from_secs(1);

/// A revocation of a partition that this node owns.
struct Revocation {
    group: GroupKey,
    key: PartitionKey,
    options: PartitionOptions,
    holder: u128,
    id: u64,
}

/// Runs until the task is aborted.
pub(crate) async fn run(local: Arc<LocalPartitions>, timeout: Duration) {
    loop {
        let _ = tokio::time::timeout(ROUND, local.revocations.notified()).await;
        round(&local, timeout).await;
    }
}

/// Completes the revocations that can be completed now.
pub(super) async fn round(local: &LocalPartitions, timeout: Duration) {
    confirm(local).await;
    expire(local, timeout).await;
}

/// Confirms those of which everything served is committed.
async fn confirm(local: &LocalPartitions) {
    let pending = pending(local);
    for revocation in pending {
        let Revocation {
            group,
            key,
            options,
            holder,
            id,
        } = revocation;
        let group_id = group.group_id;
        if local.is_busy(key, options, group_id, holder).await {
            continue;
        }
        let intent = Intent::CompleteRevocation {
            group,
            partition: key.partition_id,
            id,
        };
        // Tried again in the next round.
        let _ = local.metadata.replicate(intent).await;
    }
}

fn pending(local: &LocalPartitions) -> Vec<Revocation> {
    let state = local.metadata.reader.read();
    let groups = state.revoking_groups().copied();
    groups
        .flat_map(|group| owned(local, &state, group))
        .collect()
}

fn owned(local: &LocalPartitions, state: &MetadataState, group: GroupKey) -> Vec<Revocation> {
    let Some((topic, found)) = state.group(&group) else {
        return Vec::new();
    };
    found
        .revocations()
        .filter_map(|(partition, holder, revocation)| {
            let key = topic.key(group.stream_id, partition)?;
            let place = Place::of(state, &key)?;
            (place.owner == local.metadata.me).then_some(Revocation {
                group,
                key,
                options: place.options,
                holder,
                id: revocation.id,
            })
        })
        .collect()
}

/// The leader completes revocations that are older than the timeout, by its own clock.
async fn expire(local: &LocalPartitions, timeout: Duration) {
    if local.metadata.leadership().leader != Some(local.metadata.me) {
        return;
    }
    let Some(oldest) = oldest(&local.metadata.reader.read()) else {
        return;
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    if now >= Duration::from_micros(oldest).saturating_add(timeout) {
        let timeout_micros = u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX);
        let intent = Intent::ExpireRevocations { timeout_micros };
        let _ = local.metadata.replicate(intent).await;
    }
}

/// When the oldest revocation started, in microseconds since the epoch.
fn oldest(state: &MetadataState) -> Option<u64> {
    state
        .revoking_groups()
        .filter_map(|key| state.group(key))
        .flat_map(|(_, group)| group.revocations())
        .map(|(_, _, revocation)| revocation.since)
        .min()
}
