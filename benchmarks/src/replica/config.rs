//! The configuration of a benchmark's replicas: one file for all of a cluster.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use consensus::{Membership, ReplicaId};
use local_cluster::Ports;
use replicated_log::{ConsensusSettings, LogConfig, PeerAddress};
use serde::{Deserialize, Serialize};

/// The name of every cluster of a benchmark.
const CLUSTER: &str = "bench";
/// Where the processes of a local cluster find their data directory.
const DATA_VARIABLE: &str = "IGGY_STORAGE_PATH";

/// What all replicas of a cluster have in common.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReplicaConfig {
    /// Backend, timeouts and bounds.
    pub(crate) settings: ConsensusSettings,
    /// By replica id.
    pub(crate) replicas: BTreeMap<u8, Addresses>,
}

/// Where one replica listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Addresses {
    /// For the load generator.
    pub(crate) client: String,
    /// For the other replicas.
    pub(crate) replica: String,
}

impl ReplicaConfig {
    pub(crate) fn new(settings: ConsensusSettings, ports: &[Ports]) -> Self {
        let addresses = ports.iter().map(|ports| Addresses {
            client: ports.client_address(),
            replica: ports.replica_address(),
        });
        Self {
            settings,
            replicas: (0..).zip(addresses).collect(),
        }
    }

    pub(crate) fn to_json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("cannot use {}", path.display()))
    }

    /// Where one replica listens.
    pub(super) fn addresses(&self, replica: u8) -> anyhow::Result<&Addresses> {
        let addresses = self.replicas.get(&replica);
        addresses.with_context(|| format!("no replica has the id {replica}"))
    }

    /// The log of one replica, in the data directory of this process.
    pub(super) fn log(&self, replica: u8) -> anyhow::Result<LogConfig> {
        let id = |replica: u8| ReplicaId::from_number(replica.into());
        let data = std::env::var_os(DATA_VARIABLE)
            .with_context(|| format!("{DATA_VARIABLE} is not set"))?;
        Ok(LogConfig {
            cluster: CLUSTER.into(),
            me: id(replica),
            listen: self.addresses(replica)?.replica.clone(),
            peers: self
                .replicas
                .iter()
                .map(|(replica, addresses)| PeerAddress {
                    replica: id(*replica),
                    address: addresses.replica.clone(),
                })
                .collect(),
            membership: Membership::new(1, self.replicas.keys().map(|n| id(*n)), [])?,
            data: PathBuf::from(data),
            settings: self.settings.clone(),
        })
    }
}
