use toml::{Table, Value};

use super::variables::keys;
use super::*;
use crate::config::{Backend, PortsSection};

fn config_of_three() -> ClusterConfig {
    let ports = (0..3).map(|node| PortsSection::for_dev(node, 8090, 100));
    ClusterConfig::on_this_machine(Backend::Raft, ports)
}

fn three() -> String {
    config_of_three().to_toml().unwrap()
}

fn parsed(text: &str, environment: &[(&str, &str)]) -> Result<ClusterConfig, String> {
    let environment: Vec<_> = environment
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    parse(Path::new("c.toml"), text, &environment, Some(0))
        .map(|(config, _)| config)
        .map_err(|error| error.to_string())
}

#[test]
fn a_written_configuration_reads_back() {
    let config = config_of_three();
    assert_eq!(parsed(&three(), &[]).unwrap(), config);
    let ports: Vec<_> = config
        .cluster
        .nodes
        .iter()
        .map(|n| (n.ports.tcp, n.ports.tcp_replica, n.ports.admin))
        .collect();
    assert_eq!(
        ports,
        [(8090, 9090, 3300), (8190, 9190, 3400), (8290, 9290, 3500)]
    );
}

/// The sample that people copy is complete and has the defaults.
#[test]
fn the_sample_has_every_key_with_its_default() {
    let sample = include_str!("../../../../config/iggy-cluster.toml");
    let config = parsed(sample, &[]).unwrap();
    let mut expected = ClusterConfig::default();
    expected.cluster.nodes.clone_from(&config.cluster.nodes);
    assert_eq!(config, expected);
    let table: Table = toml::from_str(sample).unwrap();
    let schema = Value::try_from(&expected).unwrap();
    let written = keys(&Value::Table(table));
    for key in keys(&schema) {
        assert!(written.contains(&key), "{key} is missing in the sample");
    }
}

#[test]
fn variables_override_keys_of_any_depth() {
    let config = parsed(
        &three(),
        &[
            ("IGGY_CLUSTER_NODES_0_PORTS_TCP", "7000"),
            ("IGGY_CLUSTER_NODES_2_ADVERTISED_ADDRESS", "iggy.example"),
            ("IGGY_CLUSTER_CONSENSUS_ELECTION_TIMEOUT", "400ms"),
            ("IGGY_CLUSTER_NAME", "other"),
            ("IGGY_TCP_CONNECTIONS_MAX", "5"),
            ("IGGY_ADMIN_ENABLED", "false"),
            ("IGGY_ROOT_USERNAME", "admin"),
            ("IGGY_OTHER_PROGRAM", "1"),
            ("IGGY_CLUSTER_PORT", "tcp://10.0.0.1:8090"),
            ("IGGY_CLUSTER_SERVICE_HOST", "10.0.0.1"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    assert_eq!(config.cluster.nodes[0].ports.tcp, 7000);
    assert_eq!(config.cluster.nodes[2].client_host(), "iggy.example");
    assert_eq!(
        config.cluster.consensus.election_timeout.to_string(),
        "400ms"
    );
    assert_eq!(
        (config.cluster.name.as_str(), config.tcp.connections_max),
        ("other", 5)
    );
    assert!(!config.admin.enabled);
}

const NETWORK_0: &str = "IGGY_CLUSTER_NODES_0_ADVERTISED_ADDRESSES_0_CLIENT_CIDR";
const HOST_0: &str = "IGGY_CLUSTER_NODES_0_ADVERTISED_ADDRESSES_0_ADDRESS";
const NETWORK_1: &str = "IGGY_CLUSTER_NODES_0_ADVERTISED_ADDRESSES_1_CLIENT_CIDR";
const HOST_1: &str = "IGGY_CLUSTER_NODES_0_ADVERTISED_ADDRESSES_1_ADDRESS";

#[test]
fn a_client_receives_the_address_for_its_network() {
    let config = parsed(
        &three(),
        &[
            ("IGGY_CLUSTER_NODES_0_ADVERTISED_ADDRESS", "iggy.example"),
            (NETWORK_0, "10.0.0.0/8"),
            (HOST_0, "wide"),
            (NETWORK_1, "10.1.0.0/16"),
            (HOST_1, "narrow"),
        ],
    )
    .unwrap();
    for (client, host) in [
        ("192.0.2.1", "iggy.example"),
        ("10.2.3.4", "wide"),
        ("10.1.3.4", "narrow"),
        // As a listener on both families reports it.
        ("::ffff:10.1.3.4", "narrow"),
        ("2001:db8::1", "iggy.example"),
    ] {
        let node = &config.cluster.nodes[0];
        assert_eq!(node.client_host_for(client.parse().unwrap()), host);
    }
}

#[test]
fn errors_name_the_violation_and_what_to_do() {
    let base = three();
    let with = |from: &str, to: &str| base.replacen(from, to, 1);
    type Case = (String, Vec<(&'static str, &'static str)>, &'static str);
    let cases: Vec<Case> = vec![
        (
            with("election_timeout", "election_timeoutt"),
            vec![],
            "did you mean `election_timeout`?",
        ),
        (
            with("backend = \"raft\"", "backend = \"paxos\""),
            vec![],
            "unknown variant `paxos`, expected `raft` or `vr`",
        ),
        (
            with("\"200ms\"", "\"200 parsecs\""),
            vec![],
            "write for instance \"50ms\"",
        ),
        (with("[tcp]", "[tcpp]"), vec![], "unknown field `tcpp`"),
        (with("= true", "= maybe"), vec![], "line"),
        (
            with("\"200ms\"", "\"60ms\""),
            vec![],
            "must be at least twice the heartbeat_interval",
        ),
        (
            with("replica_id = 1", "replica_id = 2"),
            vec![],
            "have the same replica_id 2",
        ),
        (
            with("tcp = 8190", "tcp = 8090"),
            vec![],
            "have the same address 127.0.0.1:8090",
        ),
        (
            with("replica_id = 0", "replica_id = 9"),
            vec![],
            "--replica-id 0 is not in cluster.nodes, which has the replica ids 9, 1, 2",
        ),
        (
            base.clone(),
            vec![("IGGY_CLUSTER_NODES_0_PORTS_TPC", "1")],
            "the nearest is IGGY_CLUSTER_NODES_0_PORTS_TCP",
        ),
        (
            base.clone(),
            vec![("IGGY_CLUSTER_NODES_7_NAME", "x")],
            "number 7 would leave a gap",
        ),
        (
            base.clone(),
            vec![("IGGY_TCP_CONNECTIONS_MAX", "many")],
            "\"many\" is not a whole number",
        ),
        (
            base.clone(),
            vec![("IGGY_ADMIN_ENABLED", "yes")],
            "neither true nor false",
        ),
        (
            base.clone(),
            vec![(NETWORK_0, "127.0.0.0/99"), (HOST_0, "x")],
            "invalid IP address syntax",
        ),
        (
            base.clone(),
            vec![
                (NETWORK_0, "127.0.0.0/8"),
                (HOST_0, "x"),
                (NETWORK_1, "127.1.0.0/8"),
                (HOST_1, "y"),
            ],
            "has client_cidr 127.1.0.0/8 twice",
        ),
        (
            base.clone(),
            vec![
                ("IGGY_CLUSTER_NODES_0_IP", "127.0.0.9"),
                ("IGGY_CLUSTER_NODES_0_PORTS_TCP", "8190"),
                (NETWORK_0, "10.0.0.0/8"),
                (HOST_0, "127.0.0.1"),
            ],
            "have the same address for clients 127.0.0.1:8190 in 10.0.0.0/8",
        ),
        (
            String::new(),
            vec![],
            "list every node in [[cluster.nodes]]",
        ),
    ];
    for (text, environment, expected) in cases {
        let error = parsed(&text, &environment).unwrap_err();
        assert!(error.contains(expected), "{expected:?} is not in:\n{error}");
    }
}

#[test]
fn all_violations_are_reported_together() {
    let text = three()
        .replacen("\"200ms\"", "\"60ms\"", 1)
        .replacen("pipeline_max = 4", "pipeline_max = 0", 1)
        .replacen("connections_max = 20000", "connections_max = 0", 1);
    let error = parsed(&text, &[]).unwrap_err();
    assert_eq!(error.lines().count(), 4, "{error}");
}

/// A replica whose log has no tail, or takes a snapshot of every batch, sends snapshots to
/// replicas that lag by one entry.
#[test]
fn the_tail_of_the_log_and_the_log_between_snapshots_hold_at_least_one_batch() {
    for (from, to) in [
        ("log_tail_entries = 10000", "log_tail_entries = 0"),
        (
            "log_tail_size_max = \"64 MiB\"",
            "log_tail_size_max = \"512 KiB\"",
        ),
        (
            "snapshot_log_size = \"64 MiB\"",
            "snapshot_log_size = \"512 KiB\"",
        ),
    ] {
        let error = parsed(&three().replacen(from, to, 1), &[]).unwrap_err();
        assert!(
            error.contains(&format!("cluster.consensus.{to}")),
            "{error}"
        );
    }
}

/// Each start used to report one of them.
#[test]
fn errors_of_the_file_the_environment_and_the_values_are_reported_together() {
    let text = three()
        .replacen("\"200ms\"", "\"200 parsecs\"", 1)
        .replacen("[tcp]", "[tcp]\nconections_max = 5", 1)
        .replacen("frame_timeout = \"30s\"", "frame_timeout = 7", 1)
        .replacen("name = \"node-1\"", "nmae = \"node-1\"", 1)
        .replacen("pipeline_max = 4", "pipeline_max = 0", 1);
    let environment = [
        ("IGGY_TCP_CONNECTIONS_MAX", "many"),
        ("IGGY_STORAG_PATH", "/var/lib/iggy"),
        ("IGGY_CLUSTER_FENCING_TIMEOUT", "soon"),
    ];
    let error = parsed(&text, &environment).unwrap_err();
    for expected in [
        "write for instance \"50ms\"",
        "did you mean `connections_max`?",
        "did you mean `name`?",
        "frame_timeout = 7",
        "IGGY_TCP_CONNECTIONS_MAX: \"many\" is not a whole number",
        "IGGY_STORAG_PATH: names no key of the configuration; the nearest is IGGY_STORAGE_PATH",
        "IGGY_CLUSTER_FENCING_TIMEOUT: ",
        "cluster.consensus.pipeline_max = 0 must be",
    ] {
        assert!(error.contains(expected), "{expected:?} is not in:\n{error}");
    }
    assert_eq!(error.matches("\n  - ").count(), 8, "{error}");
}

#[test]
fn errors_of_the_syntax_are_reported_together() {
    let error = parsed("[cluster\nname = = 3\n", &[("IGGY_STORAG_PATH", "x")]).unwrap_err();
    assert!(
        error.contains("line 1") && error.contains("line 2"),
        "{error}"
    );
    assert!(error.contains("IGGY_STORAGE_PATH"), "{error}");
}

fn found(environment: &[(&str, &str)]) -> Parsed {
    let environment: Vec<_> = environment
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    Parsed::new(Path::new("c.toml"), &three(), &environment, Some(0))
}

/// As compose files of Iggy's own server set them.
#[test]
fn variables_of_iggys_own_server_are_warned_about() {
    let parsed = found(&[
        ("IGGY_TCP_ADDRESS", "0.0.0.0:8090"),
        ("IGGY_HTTP_ADDRESS", "0.0.0.0:3000"),
        ("IGGY_SYSTEM_PATH", "/data"),
        ("IGGY_SYSTEM_SHARDING_CPU_ALLOCATION", "4"),
        ("IGGY_MESSAGE_SAVER_ENFORCE_FSYNC", "true"),
    ]);
    assert_eq!(parsed.wrong, Vec::<String>::new());
    assert_eq!(parsed.config, config_of_three());
    let warnings = parsed.warnings.join("\n");
    for expected in [
        "IGGY_TCP_ADDRESS has no effect: it is of Iggy's own server; set ip and ports.tcp",
        "HTTP is not served",
        "set IGGY_STORAGE_PATH",
        "it has no counterpart",
        "durability = persisted",
    ] {
        assert!(
            warnings.contains(expected),
            "{expected:?} is not in:\n{warnings}"
        );
    }
}

/// The operator would believe that messages are encrypted.
#[test]
fn a_promise_of_security_that_is_not_kept_refuses_the_start() {
    let on = found(&[("IGGY_SYSTEM_ENCRYPTION_ENABLED", "true")]);
    assert!(on.wrong[0].contains("plain text"), "{:?}", on.wrong);
    let off = found(&[("IGGY_SYSTEM_ENCRYPTION_ENABLED", "false")]);
    assert!(off.wrong.is_empty() && off.warnings.is_empty());
}

#[test]
fn variables_of_other_programs_are_not_misspelt_keys() {
    for (variable, value) in [
        ("IGGY_CONNECTORS_CONFIG_PATH", "x"),
        ("IGGY_SERVICE_HOST", "10.0.0.1"),
        ("IGGY_TCP_PORT", "tcp://10.0.0.1:8090"),
        ("IGGY_TCP_PORT_8090_TCP_ADDR", "10.0.0.1"),
    ] {
        let parsed = found(&[(variable, value)]);
        assert!(
            parsed.wrong.is_empty() && parsed.warnings.is_empty(),
            "{variable}"
        );
    }
    let error = found(&[("IGGY_TCP_PORT", "8090")]).wrong;
    assert!(error[0].contains("names no key"), "{error:?}");
}
