//! Requests of this node to any peer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use consensus::ReplicaId;

use super::rpc::{RpcError, RpcLink};

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
    /// [`RpcError::Unknown`] when it may have had an effect.
    pub async fn call(
        &self,
        to: ReplicaId,
        kind: u8,
        parts: Vec<Bytes>,
        timeout: Duration,
    ) -> Result<Bytes, RpcError> {
        let replied = match self.0.load().get(&to) {
            Some(link) => link.send(kind, parts)?,
            None => return Err(RpcError::NotSent),
        };
        match tokio::time::timeout(timeout, replied).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) | Err(_) => Err(RpcError::Unknown),
        }
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
