//! Requests of this node to any peer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use consensus::ReplicaId;

use super::rpc::{RpcError, RpcLink};
use crate::memory::ReservedMemory;

type LinksByPeer = BTreeMap<ReplicaId, Arc<RpcLink>>;

/// The links of one channel to all peers, for requests with replies. Cheap to clone. It
/// follows the list of peers; a call reads the current one without a lock.
#[derive(Clone, Default)]
pub struct RequestLinks(Arc<ArcSwap<LinksByPeer>>);

impl RequestLinks {
    /// Sends a request to a peer and waits for its reply.
    ///
    /// # Errors
    /// [`RpcError::NotSent`] when it had no effect, also when there is no such peer;
    /// [`RpcError::Unknown`] when it may have had an effect; [`RpcError::NoRoom`] when it was
    /// served and its reply is long and finds no memory.
    pub async fn call(
        &self,
        to: ReplicaId,
        kind: u8,
        parts: Vec<Bytes>,
        timeout: Duration,
    ) -> Result<Bytes, RpcError> {
        self.send(to, kind, parts, timeout, None).await
    }

    /// The same with memory for the reply: a longer one is dropped, unless there is memory
    /// for it when it arrives. The memory is released when the reply is dropped, or when
    /// this is.
    ///
    /// # Errors
    /// The same, and [`RpcError::NoRoom`] when the reply was dropped.
    pub async fn call_within(
        &self,
        to: ReplicaId,
        kind: u8,
        parts: Vec<Bytes>,
        timeout: Duration,
        memory: ReservedMemory,
    ) -> Result<Bytes, RpcError> {
        self.send(to, kind, parts, timeout, Some(memory)).await
    }

    async fn send(
        &self,
        to: ReplicaId,
        kind: u8,
        parts: Vec<Bytes>,
        timeout: Duration,
        memory: Option<ReservedMemory>,
    ) -> Result<Bytes, RpcError> {
        let call = match self.0.load().get(&to) {
            Some(link) => link.send(kind, parts, memory)?,
            None => return Err(RpcError::NotSent),
        };
        let reply = tokio::time::timeout(timeout, call.reply()).await;
        reply.unwrap_or(Err(RpcError::Unknown))
    }

    #[cfg(test)]
    pub(super) fn to(&self, peer: ReplicaId) -> Option<Arc<RpcLink>> {
        self.0.load().get(&peer).cloned()
    }

    /// Adds, replaces (`Some`) or removes (`None`) the link to a peer.
    pub(super) fn set(&self, peer: ReplicaId, link: Option<RpcLink>) {
        let mut links = LinksByPeer::clone(&self.0.load());
        match link {
            Some(link) => links.insert(peer, Arc::new(link)),
            None => links.remove(&peer),
        };
        self.0.store(Arc::new(links));
    }
}
