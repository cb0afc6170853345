//! The record of nodes that have run, for the admission of one whose disk is empty.

use std::sync::Arc;

use adapters::metadata::Intent;
use async_trait::async_trait;
use consensus::ReplicaId;
use replicated_log::{Registration, ReplicaRegistry};

use crate::cluster::Metadata;

/// Nodes are registered in the metadata.
pub(super) struct Registered(pub(super) Arc<Metadata>);

#[async_trait]
impl ReplicaRegistry for Registered {
    fn is_registered(&self, replica: ReplicaId) -> bool {
        self.0.reader.read().node(replica).is_some()
    }

    fn registration(&self, replica: ReplicaId) -> Option<Registration> {
        let state = self.0.reader.read();
        state.node(replica).map(|node| Registration {
            incarnation: node.info.incarnation,
            storage_id: node.storage_id,
        })
    }

    async fn commit_noop(&self) -> bool {
        self.0.replicate(Intent::Noop).await.is_ok() && self.0.barrier().await.is_ok()
    }
}
