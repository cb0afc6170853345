//! Sizes of partitions on other nodes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::partitions::PartitionStats;
use adapters::metadata::PartitionKey;
use consensus::ReplicaId;

use super::local::LocalPartitions;
use super::messages::{DataReply, DataRequest, REQUEST};
use replicated_log::links::RequestLinks;

/// For an owner that takes longer, the last known sizes are used.
const TIMEOUT: Duration = Duration::from_millis(500);
/// The most partitions that are remembered; with more, the cache is cleared.
const CACHED_MAX: usize = 1_000_000;

/// The last known sizes of partitions.
#[derive(Default)]
pub(super) struct Cache {
    known: Mutex<HashMap<PartitionKey, PartitionStats>>,
}

impl Cache {
    pub(super) fn merge(
        &self,
        found: &mut HashMap<PartitionKey, PartitionStats>,
        keys: Vec<PartitionKey>,
        reply: Option<Vec<PartitionStats>>,
    ) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() > CACHED_MAX {
            known.clear();
        }
        let reply = reply.filter(|reply| reply.len() == keys.len());
        for (number, key) in keys.into_iter().enumerate() {
            let stats = match &reply {
                Some(reply) => reply[number],
                None => known.get(&key).copied().unwrap_or_default(),
            };
            known.insert(key, stats);
            found.insert(key, stats);
        }
    }
}

/// Requests the sizes of these partitions from their owner.
pub(super) async fn request(
    local: Option<Arc<LocalPartitions>>,
    links: RequestLinks,
    owner: ReplicaId,
    keys: Vec<PartitionKey>,
) -> (Vec<PartitionKey>, Option<Vec<PartitionStats>>) {
    let request = DataRequest::Stats(keys.clone());
    let reply = match local {
        Some(local) => Some(local.serve(request).await),
        None => {
            let call = links.call(owner, REQUEST, request.encode(), TIMEOUT);
            call.await.ok().and_then(DataReply::decode)
        }
    };
    match reply {
        Some(DataReply::Stats(stats)) => (keys, Some(stats)),
        _ => (keys, None),
    }
}
