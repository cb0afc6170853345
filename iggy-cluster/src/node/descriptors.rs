//! File descriptors: how many the process may have, and who gets them.
//!
//! Connections must not leave the log without a descriptor for its next segment. So each
//! user of descriptors has a share of the limit, and the log, the links between nodes and
//! the admin endpoint have theirs before clients and partitions.

use consensus::ReplicaId;
use replicated_log::links;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

use super::StartError;
use crate::admin;
use crate::config::{ClusterConfig, TcpSection};

/// For the log, snapshots, directories that are fsynced, the runtime, the listeners and the
/// standard streams.
const OWN: usize = 32;
/// Files of partitions that stay open, where the limit allows it.
const PARTITION_FILES_MAX: usize = 512;
/// The fewest connections of clients with which a node starts.
const CLIENTS_MIN: usize = 16;
/// The fewest files of partitions.
const PARTITION_FILES_MIN: usize = 4;

/// The shares of the limit on open files that vary with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shares {
    /// Connections of clients.
    pub(super) clients: usize,
    /// Files of partitions that stay open.
    pub(super) partition_files: usize,
}

impl Shares {
    /// The shares of a node with so many peers under this limit.
    fn of(limit: usize, peers: usize, connections_max: usize) -> Result<Self, StartError> {
        let reserved = OWN + links::descriptors_max(peers) + admin::CONNECTIONS_MAX;
        let needed = reserved + CLIENTS_MIN + PARTITION_FILES_MIN;
        if limit < needed {
            return Err(StartError::OpenFiles { limit, needed });
        }
        let rest = limit - reserved;
        let partition_files = (rest / 4).clamp(PARTITION_FILES_MIN, PARTITION_FILES_MAX);
        Ok(Self {
            clients: connections_max.min(rest - partition_files),
            partition_files,
        })
    }
}

/// Raises the soft limit on open files to the hard one, and fits the configuration to it.
pub(super) fn share(config: &mut ClusterConfig, me: ReplicaId) -> Result<Shares, StartError> {
    let nodes = config.cluster.nodes.iter();
    let peers = nodes.filter(|node| node.replica() != me).count();
    let limit = raised_limit();
    let shares = Shares::of(limit, peers, config.tcp.connections_max)?;
    lower(&mut config.tcp, shares.clients, limit);
    Ok(shares)
}

/// Lowers the limits of connections to what there are descriptors for.
fn lower(tcp: &mut TcpSection, clients: usize, limit: usize) {
    if tcp.connections_max > clients {
        warn!(
            open_files = limit,
            configured = tcp.connections_max,
            used = clients,
            "tcp.connections_max does not fit the limit on open files and is lowered; raise the limit (LimitNOFILE), or lower the key"
        );
        tcp.connections_max = clients;
    }
    // What is left is for clients that are logged in.
    let without_login = clients.div_ceil(2);
    if tcp.connections_without_login_max > without_login {
        info!(
            configured = tcp.connections_without_login_max,
            used = without_login,
            "tcp.connections_without_login_max is lowered to half of the connections"
        );
        tcp.connections_without_login_max = without_login;
    }
}

/// The limit on open files of this process, after raising it as far as it may.
fn raised_limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(error) => {
            warn!(%error, "cannot raise the limit on open files");
            current
        }
    };
    // `None` is no limit.
    limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_a_reserve_for_the_log_under_every_limit() {
        for (peers, limit) in [(2, 144), (2, 1_024), (2, 20_000), (6, 288), (0, 100)] {
            let shares = Shares::of(limit, peers, 20_000).unwrap();
            let reserved = links::descriptors_max(peers) + admin::CONNECTIONS_MAX;
            let used = shares.clients + shares.partition_files + reserved;
            assert!(used + OWN <= limit, "{limit}: {shares:?}");
            assert!(shares.clients >= CLIENTS_MIN, "{limit}: {shares:?}");
        }
        let plenty = Shares::of(1 << 20, 2, 20_000).unwrap();
        assert_eq!(plenty.clients, 20_000);
        assert_eq!(plenty.partition_files, PARTITION_FILES_MAX);
    }

    #[test]
    fn a_limit_that_is_too_low_is_refused_with_the_one_that_is_needed() {
        let Err(StartError::OpenFiles { limit, needed }) = Shares::of(64, 2, 20_000) else {
            panic!("a node starts with 64 descriptors");
        };
        assert_eq!(limit, 64);
        Shares::of(needed, 2, 20_000).unwrap();
        Shares::of(needed - 1, 2, 20_000).unwrap_err();
    }

    #[test]
    fn configured_limits_that_do_not_fit_are_lowered() {
        let mut tcp = TcpSection::default();
        lower(&mut tcp, 100, 256);
        assert_eq!(tcp.connections_max, 100);
        assert_eq!(tcp.connections_without_login_max, 50);
        let mut fits = TcpSection::default();
        lower(&mut fits, 20_000, 1 << 20);
        assert_eq!(fits, TcpSection::default());
    }
}
