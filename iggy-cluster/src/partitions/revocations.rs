//! Completes revocations of partitions from members of a group.
//!
//! The owner of a partition knows what was served of it and which offsets are committed,
//! so it reports when the next member may have the partition. Where no owner does so in
//! time, the leader completes the revocation: a member that does not commit delays the
//! others no longer, and what it was served is served again to the next member.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// Identifies a revocation: its group, the partition, and its id.
type RevocationKey = (GroupKey, u32, u64);

/// The revocations that are pending, and since when this node knows that, while it leads.
///
/// By no wall clock: one that is wrong for a moment, here or at an earlier leader, must
/// neither end all revocations nor keep them from ending.
#[derive(Default)]
pub(super) struct Pending(BTreeMap<RevocationKey, Instant>);

impl Pending {
    /// Those that are pending for this long.
    fn overdue(
        &mut self,
        state: &MetadataState,
        now: Instant,
        timeout: Duration,
    ) -> Vec<RevocationKey> {
        let known = std::mem::take(&mut self.0);
        let groups = state.revoking_groups();
        let groups = groups.filter_map(|key| Some((*key, state.group(key)?.1)));
        self.0 = groups
            .flat_map(|(key, group)| {
                let revocations = group.revocations();
                revocations.map(move |(partition, _, revocation)| (key, partition, revocation.id))
            })
            .map(|key| (key, known.get(&key).copied().unwrap_or(now)))
            .collect();
        let overdue = |since: &Instant| now.saturating_duration_since(*since) >= timeout;
        let pending = self.0.iter().filter(|(_, since)| overdue(since));
        pending.map(|(key, _)| *key).collect()
    }
}

/// Runs until the task is aborted.
pub(crate) async fn run(local: Arc<LocalPartitions>, timeout: Duration) {
    let mut pending = Pending::default();
    loop {
        let _ = tokio::time::timeout(ROUND, local.revocations.notified()).await;
        round(&local, &mut pending, Instant::now(), timeout).await;
    }
}

/// Completes the revocations that can be completed now.
pub(super) async fn round(
    local: &LocalPartitions,
    pending: &mut Pending,
    now: Instant,
    timeout: Duration,
) {
    confirm(local).await;
    expire(local, pending, now, timeout).await;
}

/// Confirms those of which everything served is committed.
async fn confirm(local: &LocalPartitions) {
    for revocation in owned_here(local) {
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

fn owned_here(local: &LocalPartitions) -> Vec<Revocation> {
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

/// The leader completes revocations that it has known for longer than the timeout.
async fn expire(local: &LocalPartitions, pending: &mut Pending, now: Instant, timeout: Duration) {
    if local.metadata.leadership().leader != Some(local.metadata.me) {
        *pending = Pending::default();
        return;
    }
    let overdue = pending.overdue(&local.metadata.reader.read(), now, timeout);
    for (group, partition, id) in overdue {
        let intent = Intent::CompleteRevocation {
            group,
            partition,
            id,
        };
        // Tried again in the next round.
        let _ = local.metadata.replicate(intent).await;
    }
}
