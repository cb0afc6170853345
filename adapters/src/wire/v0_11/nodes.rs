//! Bodies of replies about nodes.

use bytes::Bytes;
use iggy_binary_protocol::WireEncode;
use iggy_binary_protocol::requests::system::AttachConsumerSessionRequest;
use iggy_binary_protocol::responses::messages::PollRoutingResponse;
use iggy_binary_protocol::responses::system::{ClusterMetadataResponse, ClusterNodeResponse};

use crate::wire::facts::NodeView;

/// Iggy's numbers for roles and states of nodes.
const LEADER: u8 = 0;
const FOLLOWER: u8 = 1;
const HEALTHY: u8 = 0;
const UNREACHABLE: u8 = 3;

/// All nodes of the cluster.
#[must_use]
pub fn cluster(name: &str, nodes: &[NodeView]) -> Bytes {
    ClusterMetadataResponse {
        name: name.to_owned(),
        nodes: nodes.iter().map(node).collect(),
    }
    .to_bytes()
}

/// The node that owns a partition, and the session that its client attaches to there.
#[must_use]
pub fn routing(client: u128, session: u64, watermark: u64, owner: &NodeView) -> Bytes {
    PollRoutingResponse {
        consumer_session: AttachConsumerSessionRequest {
            client_id: client,
            session,
            metadata_watermark: watermark,
        },
        primary: node(owner),
    }
    .to_bytes()
}

fn node(view: &NodeView) -> ClusterNodeResponse {
    ClusterNodeResponse {
        name: view.name.clone(),
        ip: view.host.clone(),
        tcp_port: view.tcp_port,
        quic_port: 0,
        http_port: 0,
        websocket_port: 0,
        role: if view.leader { LEADER } else { FOLLOWER },
        status: if view.healthy { HEALTHY } else { UNREACHABLE },
    }
}
