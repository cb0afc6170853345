//! Sizes of partitions on other nodes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::partitions::PartitionStats;
use adapters::metadata::PartitionKey;
use consensus::ReplicaId;

use super::{DataReply, DataRequest, LocalPartitions, REQUEST};
use replicated_log::links::RequestLinks;

/// An owner that takes longer is answered for from what was last known.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Partitions remembered; beyond it the memory begins anew.
const REMEMBERED_MAX: usize = 1_000_000;

/// What was last known of partitions.
#[derive(Default)]
pub(super) struct Cache {
    known: Mutex<HashMap<PartitionKey, PartitionStats>>,
}

impl Cache {
    pub(super) fn merge(
        &self,
        found: &mut HashMap<PartitionKey, PartitionStats>,
        keys: Vec<PartitionKey>,
        answer: Option<Vec<PartitionStats>>,
    ) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() > REMEMBERED_MAX {
            known.clear();
        }
        let answer = answer.filter(|answer| answer.len() == keys.len());
        for (number, key) in keys.into_iter().enumerate() {
            let stats = match &answer {
                Some(answer) => answer[number],
                None => known.get(&key).copied().unwrap_or_default(),
            };
            known.insert(key, stats);
            found.insert(key, stats);
        }
    }
}

/// Asks the owner of these partitions.
pub(super) async fn ask(
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
