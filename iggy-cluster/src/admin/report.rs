//! A node's status as JSON.

use std::collections::BTreeMap;

use replica::driver::ReplicaStatus;
use serde::{Deserialize, Serialize};

use super::Admin;
use crate::config::join_host_port;
use crate::partitions::Refusing;

/// The detail of a node with partitions that refuse: how many and why.
pub(crate) const PARTITIONS_REFUSING: &str = "partitions_refusing";

/// The state of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its `replica_id` in the configuration.
    pub replica_id: u8,
    /// Its name in the configuration.
    pub name: String,
    /// Its process id, in its own report.
    pub pid: Option<u32>,
    /// leader, follower, candidate, learner, unreachable, or unknown in another node's
    /// report.
    pub role: String,
    /// Its term (Raft) or view (VR).
    pub term: u64,
    /// The index of the last entry that it knows to be committed.
    pub commit: u64,
    /// The index of the last entry applied to its state.
    pub applied: u64,
    /// Entries that it lags behind the most advanced node; zero in a node's own report.
    #[serde(default)]
    pub lag: u64,
    /// The consensus backend.
    pub backend: String,
    /// Where clients reach it.
    pub tcp: String,
    /// Its admin endpoint.
    pub admin: String,
    /// Whether it replies, is registered, knows a leader and follows it, none of its
    /// partitions refuses, and its log has room reserved; another node's report has only the
    /// registration.
    pub healthy: bool,
    /// What it refuses of its leader, when it does: then it does not follow the log.
    #[serde(default)]
    pub refuses_leader: Option<String>,
    /// State that not every node has: of its backend, `partitions_refusing`, and
    /// `log_reserve` when it is missing.
    #[serde(default)]
    pub detail: BTreeMap<String, String>,
}

/// The state of the cluster, as one node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterReport {
    /// The cluster's name.
    pub cluster: String,
    /// The leader's `replica_id`, when known.
    pub leader: Option<u8>,
    /// The nodes, in the order of the configuration.
    pub nodes: Vec<NodeReport>,
}

impl Admin {
    /// What this node knows: its whole state, and the addresses of the others.
    pub(super) fn report(&self, status: &ReplicaStatus) -> ClusterReport {
        let number = |id: consensus::ReplicaId| u8::try_from(id.number()).unwrap_or(0);
        let me = number(self.metadata.me);
        let state = self.metadata.reader.read();
        let nodes = self.config.cluster.nodes.iter().map(|node| {
            let live = state.node(node.replica()).is_some_and(|node| node.live);
            let mut report = NodeReport {
                replica_id: node.replica_id,
                name: node.name.clone(),
                role: "unknown".into(),
                backend: self.config.cluster.consensus.backend.name().into(),
                tcp: node.client_address(),
                admin: join_host_port(&node.ip, node.ports.admin),
                healthy: live,
                ..NodeReport::default()
            };
            if node.replica_id == me {
                report.pid = Some(std::process::id());
                report.role = status.core.role.as_str().into();
                report.term = status.core.term.0;
                report.commit = status.core.commit.0;
                report.applied = status.applied.0;
                report.refuses_leader = status.refuses_leader.as_ref().map(ToString::to_string);
                let refusing = Refusing::of(&*self.storage).describe();
                let reserve = self.metrics.log.has_reserve();
                let follows = status.core.leader.is_some() && report.refuses_leader.is_none();
                report.healthy = live && follows && refusing.is_none() && reserve;
                report.detail = status
                    .core
                    .detail
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), value.clone()))
                    .collect();
                // In the order of VR's primaries.
                let voters = status.core.membership.voters().iter();
                let voters: Vec<_> = voters.map(|id| number(*id).to_string()).collect();
                report.detail.insert("voters".into(), voters.join(","));
                let refusing = refusing.map(|text| (PARTITIONS_REFUSING.to_owned(), text));
                report.detail.extend(refusing);
                if !reserve {
                    let text = "missing: the disk is full, or was just now; make room";
                    report.detail.insert("log_reserve".into(), text.into());
                }
            }
            report
        });
        ClusterReport {
            cluster: self.config.cluster.name.clone(),
            leader: status.core.leader.map(number),
            nodes: nodes.collect(),
        }
    }
}
