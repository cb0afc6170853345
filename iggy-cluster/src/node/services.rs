//! What a node does for other nodes and after changes of the metadata.

use std::sync::Arc;

use adapters::metadata::MetadataEvent;
use async_trait::async_trait;
use bytes::Bytes;
use consensus::ReplicaId;
use replicated_log::links::{Channel, RpcHandler, RpcReply};
use tokio::sync::mpsc;

use crate::admin::Reporter;
use crate::cluster::{Metadata, control};
use crate::partitions::LocalPartitions;

/// Serves requests of other nodes.
pub(super) struct Requests {
    pub(super) metadata: Arc<Metadata>,
    pub(super) local: Arc<LocalPartitions>,
    pub(super) reporter: Arc<Reporter>,
}

#[async_trait]
impl RpcHandler for Requests {
    async fn handle(
        &self,
        from: ReplicaId,
        channel: Channel,
        kind: u8,
        payload: Bytes,
    ) -> RpcReply {
        match channel {
            Channel::Data => self.local.serve_bytes(from, payload).await,
            _ if kind == control::REPORT => self.reporter.answer().await,
            _ => self.metadata.serve_control(kind, payload).await,
        }
    }

    fn without_memory(&self) -> RpcReply {
        self.local.refuse_bytes()
    }
}

/// Removes files and offsets of partitions and groups that were deleted, during this run
/// and before it, and notifies the task that completes revocations.
pub(super) async fn clean_up(
    metadata: Arc<Metadata>,
    local: Arc<LocalPartitions>,
    mut events: mpsc::UnboundedReceiver<MetadataEvent>,
) {
    while metadata.barrier().await.is_err() {}
    local.remove_deleted().await;
    while let Some(event) = events.recv().await {
        match event {
            MetadataEvent::PartitionsRemoved(keys) => local.remove(keys).await,
            MetadataEvent::GroupRemoved(group) => local.remove_group(group).await,
            MetadataEvent::Revoking => local.revocations.notify_one(),
            MetadataEvent::Restored => local.remove_deleted().await,
            _ => {}
        }
    }
}
