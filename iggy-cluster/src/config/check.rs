//! What a configuration must satisfy. All violations are reported together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use adapters::metadata::COPIES_MAX;
use consensus::Membership;

use super::{AdvertisedAddress, ClusterConfig, ConsensusSettings, NodeSection, join_host_port};

/// A slower write must not change leaders.
const FAILOVER_TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// The most nodes of a cluster; the first seven vote.
const NODES_MAX: usize = 255;

/// All violations, each with the key, the value and what to do.
pub(super) fn violations(config: &ClusterConfig, replica_id: Option<u8>) -> Vec<String> {
    let mut wrong = Vec::new();
    cluster(config, replica_id, &mut wrong);
    consensus(config, &mut wrong);
    if config.tcp.connections_max == 0 {
        wrong.push("tcp.connections_max = 0 refuses every client; raise it".into());
    }
    if config.tcp.connections_without_login_max == 0 {
        wrong.push(
            "tcp.connections_without_login_max = 0 closes every connection before its login; raise it".into(),
        );
    }
    let frame = config.tcp.frame_size_max;
    if frame.bytes() < 4 << 10 || frame.bytes() > 64 << 20 {
        wrong.push(format!(
            "tcp.frame_size_max = \"{frame}\" must be \"4 KiB\" to the protocol's \"64 MiB\""
        ));
    }
    // What other nodes send in one frame must fit with another one.
    let (memory, memory_min) = (config.tcp.memory_max, 256 << 20);
    if memory.bytes() < memory_min || memory.bytes() > 1 << 40 {
        wrong.push(format!(
            "tcp.memory_max = \"{memory}\" must be \"256 MiB\" (four frames) to \"1 TiB\""
        ));
    }
    wrong
}

/// Whether a violation is about the list of nodes.
pub(super) fn is_of_nodes(violation: &str) -> bool {
    violation.starts_with("cluster.nodes") || violation.starts_with("--replica-id")
}

fn cluster(config: &ClusterConfig, replica_id: Option<u8>, wrong: &mut Vec<String>) {
    let cluster = &config.cluster;
    if !cluster.enabled {
        wrong.push("cluster.enabled = false: this program is always a node of a cluster; set it to true, or run Iggy's own server".into());
    }
    if cluster.name.is_empty() || cluster.name.len() > 255 {
        wrong.push("cluster.name must have 1 to 255 bytes".into());
    }
    if cluster.nodes.is_empty() {
        wrong.push("cluster.nodes is empty; list every node in [[cluster.nodes]]".into());
    }
    if cluster.nodes.len() > NODES_MAX {
        wrong.push(format!(
            "cluster.nodes lists {} nodes; the most are {NODES_MAX}",
            cluster.nodes.len()
        ));
    }
    if let Some(replica_id) = replica_id
        && !cluster.nodes.is_empty()
        && config.node(replica_id).is_none()
    {
        let known: Vec<_> = cluster
            .nodes
            .iter()
            .map(|node| node.replica_id.to_string())
            .collect();
        wrong.push(format!(
            "--replica-id {replica_id} is not in cluster.nodes, which has the replica ids {}",
            known.join(", ")
        ));
    }
    for (number, node) in cluster.nodes.iter().enumerate() {
        if node.name.is_empty() {
            wrong.push(format!("cluster.nodes[{number}].name is empty"));
        }
        for (key, host) in [
            ("ip", node.ip.as_str()),
            ("advertised_address", node.client_host()),
        ] {
            if !is_host(host) {
                wrong.push(format!(
                    "cluster.nodes[{number}].{key} = {host:?} is neither an address nor a host's name"
                ));
            }
        }
        for advertised in &node.advertised_addresses {
            let same = |other: &&AdvertisedAddress| {
                other.client_cidr.trunc() == advertised.client_cidr.trunc()
            };
            if node.advertised_addresses.iter().filter(same).count() > 1 {
                wrong.push(format!(
                    "cluster.nodes[{number}].advertised_addresses has client_cidr {} twice",
                    advertised.client_cidr
                ));
            }
            if !is_host(&advertised.address) {
                wrong.push(format!(
                    "cluster.nodes[{number}].advertised_addresses: {:?} for {} is neither an address nor a host's name",
                    advertised.address, advertised.client_cidr
                ));
            }
        }
        for (port, value) in ports(node) {
            if value == 0 {
                wrong.push(format!("cluster.nodes[{number}].ports.{port} = 0: choose a port; other nodes and clients must know it"));
            }
        }
    }
    duplicates(config, wrong);
}

fn is_host(host: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    !host.is_empty() && host.len() <= 253 && host.chars().all(allowed)
}

fn ports(node: &NodeSection) -> [(&'static str, u16); 3] {
    [
        ("tcp", node.ports.tcp),
        ("tcp_replica", node.ports.tcp_replica),
        ("admin", node.ports.admin),
    ]
}

/// What must be unique.
fn duplicates(config: &ClusterConfig, wrong: &mut Vec<String>) {
    let mut seen: BTreeMap<(&str, String), usize> = BTreeMap::new();
    let mut see = |what: &'static str, value: String, number: usize| {
        if let Some(other) = seen.insert((what, value.clone()), number) {
            wrong.push(format!(
                "cluster.nodes[{other}] and cluster.nodes[{number}] have the same {what} {value}"
            ));
        }
    };
    for (number, node) in config.cluster.nodes.iter().enumerate() {
        see("replica_id", node.replica_id.to_string(), number);
        see("name", node.name.clone(), number);
        for (_, port) in ports(node) {
            see("address", format!("{}:{port}", node.ip), number);
        }
        see("address for clients", node.client_address(), number);
    }
    let networks: BTreeSet<_> = config
        .cluster
        .nodes
        .iter()
        .flat_map(|node| &node.advertised_addresses)
        .map(|advertised| advertised.client_cidr.trunc())
        .collect();
    for network in networks {
        for (number, node) in config.cluster.nodes.iter().enumerate() {
            let host = node.client_host_for(network.addr());
            let address = join_host_port(host, node.ports.tcp);
            see(
                "address for clients",
                format!("{address} in {network}"),
                number,
            );
        }
    }
}

fn consensus(config: &ClusterConfig, wrong: &mut Vec<String>) {
    let consensus = &config.cluster.consensus;
    let tick = consensus.tick_interval.duration();
    if tick.as_micros() < 1_000 || tick.as_millis() > 1_000 {
        wrong.push(format!(
            "cluster.consensus.tick_interval = \"{}\" must be \"1ms\" to \"1s\"",
            consensus.tick_interval
        ));
        return;
    }
    if consensus.heartbeat_ticks() == 0 {
        wrong.push(format!(
            "cluster.consensus.heartbeat_interval = \"{}\" is less than a tick of \"{}\"",
            consensus.heartbeat_interval, consensus.tick_interval
        ));
    }
    if consensus.election_ticks() < 2 * consensus.heartbeat_ticks() {
        wrong.push(format!(
            "cluster.consensus.election_timeout = \"{}\" must be at least twice the heartbeat_interval of \"{}\", so that one late heartbeat does not cause an election",
            consensus.election_timeout, consensus.heartbeat_interval
        ));
    }
    if config.cluster.fencing_timeout.duration() < 2 * consensus.election_timeout.duration() {
        wrong.push(format!(
            "cluster.fencing_timeout = \"{}\" must be at least twice the election_timeout of \"{}\", so that an election does not fence healthy nodes",
            config.cluster.fencing_timeout, consensus.election_timeout
        ));
    }
    let failover = config.cluster.partition_failover_timeout;
    if failover.duration() < FAILOVER_TIMEOUT_MIN {
        wrong.push(format!(
            "cluster.partition_failover_timeout = \"{failover}\" must be at least \"100ms\", so that a slow write does not change leaders"
        ));
    }
    let copies = config.cluster.default_replication_factor;
    if !(1..=COPIES_MAX).contains(&usize::from(copies)) {
        wrong.push(format!(
            "cluster.default_replication_factor = {copies} must be 1 to {COPIES_MAX}"
        ));
    }
    for (key, value) in [
        (
            "consumer_group.rebalancing_timeout",
            config.consumer_group.rebalancing_timeout,
        ),
        ("heartbeat.interval", config.heartbeat.interval),
        ("tcp.login_timeout", config.tcp.login_timeout),
        (
            "data_maintenance.messages.interval",
            config.data_maintenance.messages.interval,
        ),
    ] {
        if value.duration().is_zero() {
            wrong.push(format!("{key} must be longer than zero"));
        }
    }
    sizes(consensus, wrong);
    if let Err(error) = config.membership()
        && !config.cluster.nodes.is_empty()
        && config.cluster.nodes.len() <= Membership::VOTERS_MAX
    {
        let reported = wrong.iter().any(|text| text.contains("same replica_id"));
        if !reported {
            wrong.push(format!("cluster.nodes: {error}"));
        }
    }
}

/// Bounds of batches, of the pipeline and of the files of the log.
fn sizes(consensus: &ConsensusSettings, wrong: &mut Vec<String>) {
    let bounds = [
        (
            "batch_commands_max",
            consensus.batch_commands_max as u64,
            1,
            1 << 20,
        ),
        ("pipeline_max", consensus.pipeline_max as u64, 1, 256),
        ("snapshot_entries", consensus.snapshot_entries, 1, u64::MAX),
        ("log_tail_entries", consensus.log_tail_entries, 1, u64::MAX),
    ];
    for (key, value, min, max) in bounds {
        if value < min || value > max {
            wrong.push(format!(
                "cluster.consensus.{key} = {value} must be {min} to {max}"
            ));
        }
    }
    let mib = |bytes: u64| bytes << 20;
    let batch = consensus.batch_size_max.bytes();
    if batch < 64 << 10 || batch > mib(16) {
        wrong.push(format!(
            "cluster.consensus.batch_size_max = \"{}\" must be \"64 KiB\" to \"16 MiB\"",
            consensus.batch_size_max
        ));
    }
    for (key, size) in [
        ("uncommitted_size_max", consensus.uncommitted_size_max),
        ("snapshot_log_size", consensus.snapshot_log_size),
        ("log_tail_size_max", consensus.log_tail_size_max),
    ] {
        if size.bytes() < batch {
            wrong.push(format!(
                "cluster.consensus.{key} = \"{size}\" is less than one batch of \"{}\" (batch_size_max); raise it",
                consensus.batch_size_max
            ));
        }
    }
    let segment = consensus.wal_segment_size.bytes();
    if segment < 4 * batch || segment > mib(1024) || !segment.is_multiple_of(4096) {
        wrong.push(format!(
            "cluster.consensus.wal_segment_size = \"{}\" must be a multiple of \"4 KiB\", at least four batches of \"{}\" and at most \"1 GiB\"",
            consensus.wal_segment_size, consensus.batch_size_max
        ));
    }
}
