//! Ends hand-overs of partitions between members of a group.
//!
//! The owner of a partition knows what was served of it and what is committed, so
//! it says when the next member may take over. Where nobody says so in time, the
//! leader ends the hand-over: a member that does not commit holds nobody up, and
//! what it was served comes again to the next.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adapters::metadata::{GroupKey, Intent, MetadataState, PartitionKey};

use super::LocalPartitions;

/// Looked at so often when nothing else calls for it.
const ROUND: Duration = Duration::from_secs(1);

/// A hand-over of a partition that this node owns.
struct HandOver {
    group: GroupKey,
    key: PartitionKey,
    holder: u128,
    id: u64,
}

/// Runs until the task is aborted.
pub(crate) async fn run(local: Arc<LocalPartitions>, timeout: Duration) {
    loop {
        let _ = tokio::time::timeout(ROUND, local.hand_overs.notified()).await;
        round(&local, timeout).await;
    }
}

/// Ends what can end now.
pub(super) async fn round(local: &LocalPartitions, timeout: Duration) {
    confirm(local).await;
    expire(local, timeout).await;
}

/// Confirms those of which everything served is committed.
async fn confirm(local: &LocalPartitions) {
    let pending = pending(local);
    for hand_over in pending {
        let HandOver {
            group,
            key,
            holder,
            id,
        } = hand_over;
        if local.is_busy(key, group.group_id, holder).await {
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

fn pending(local: &LocalPartitions) -> Vec<HandOver> {
    let state = local.metadata.reader.read();
    let groups = state.revoking_groups().copied();
    groups
        .flat_map(|group| owned(local, &state, group))
        .collect()
}

fn owned(local: &LocalPartitions, state: &MetadataState, group: GroupKey) -> Vec<HandOver> {
    let Some((topic, found)) = state.group(&group) else {
        return Vec::new();
    };
    found
        .revocations()
        .filter_map(|(partition, holder, revocation)| {
            let owner = topic.partitions.get(partition as usize)?.owner;
            let key = topic.key(group.stream_id, partition)?;
            (owner == local.metadata.me).then_some(HandOver {
                group,
                key,
                holder,
                id: revocation.id,
            })
        })
        .collect()
}

/// The leader ends what takes too long, by its own clock.
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

/// When the oldest hand-over began, in microseconds since the epoch.
fn oldest(state: &MetadataState) -> Option<u64> {
    state
        .revoking_groups()
        .filter_map(|key| state.group(key))
        .flat_map(|(_, group)| group.revocations())
        .map(|(_, _, revocation)| revocation.since)
        .min()
}
