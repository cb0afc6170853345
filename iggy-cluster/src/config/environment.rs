//! `IGGY_*` variables: those that override a key, those of Iggy's own server that have no
//! meaning here, and misspelt ones.

use ipnet::IpNet;
use toml::{Table, Value};

use super::nearest::distance;
use super::{AdvertisedAddress, ClusterConfig, NodeSection};

const PREFIX: &str = "IGGY_";
const SECTIONS: [&str; 7] = [
    "cluster",
    "tcp",
    "storage",
    "data_maintenance",
    "consumer_group",
    "heartbeat",
    "admin",
];
/// Variables that are not keys of the file.
const OTHERS: [&str; 3] = ["config_path", "root_username", "root_password"];
/// Of programs beside the server.
const PROGRAMS: [&str; 3] = ["connectors_", "mcp_", "bench_"];
/// A variable that differs from a known one by so many letters is taken for misspelt.
const MISSPELT_MAX: usize = 2;

/// Variables of Iggy's own server without their prefix, or all that start so where the name
/// ends with `_`, and what to use instead. The first that matches counts.
const OF_IGGYS_SERVER: &[(&str, &str)] = &[
    (
        "tcp_address",
        "set ip and ports.tcp of each node: IGGY_CLUSTER_NODES_0_IP and IGGY_CLUSTER_NODES_0_PORTS_TCP for the first",
    ),
    ("tcp_enabled", "TCP is always served"),
    ("tcp_ipv6", "write an IPv6 address as the ip of a node"),
    ("tcp_socket_", "options of sockets cannot be set"),
    (
        "http_",
        "HTTP is not served: clients use TCP; metrics are on the admin endpoint, see IGGY_ADMIN_IP",
    ),
    ("quic_", "QUIC is not served: clients use TCP"),
    ("websocket_", "WebSocket is not served: clients use TCP"),
    ("system_path", "set IGGY_STORAGE_PATH"),
    (
        "system_encryption_key",
        "messages are not encrypted: encrypt the file system",
    ),
    (
        "system_logging_",
        "logs are written to the standard error output, and RUST_LOG sets their level",
    ),
    (
        "system_partition_enforce_fsync",
        "create topics with the option durability = persisted",
    ),
    (
        "system_state_enforce_fsync",
        "metadata is always fsynced before it is acknowledged",
    ),
    (
        "message_saver_",
        "every send is written before it is acknowledged; durability = persisted of a topic fsyncs it too",
    ),
    (
        "system_segment_",
        "set segment_size and message_expiry of each topic",
    ),
    ("system_topic_", "set max_topic_size of each topic"),
    (
        "system_compression_",
        "set compression_algorithm of each topic",
    ),
    (
        "system_message_deduplication_",
        "messages are not deduplicated",
    ),
    (
        "message_cleaner_",
        "set IGGY_DATA_MAINTENANCE_MESSAGES_CLEANER_ENABLED and _INTERVAL",
    ),
    (
        "data_maintenance_archiver_",
        "there is no archiver: see the documents on backup",
    ),
    ("telemetry_", "metrics are on the admin endpoint"),
    (
        "personal_access_token_",
        "expired tokens are removed as they expire, and their number is not limited",
    ),
    ("system_", "it has no counterpart"),
];

/// Variables of Iggy's own server that promise security when they are true, and what to do.
const PROMISES: &[(&str, &str)] = &[(
    "system_encryption_enabled",
    "messages would be stored in plain text: encrypt the file system of storage.path, and remove the variable",
)];

/// A variable that overrides a key.
struct Override {
    variable: String,
    path: Vec<Step>,
    value: Value,
}

enum Step {
    Key(String),
    Index(usize),
}

/// What a variable is.
enum Meaning {
    Override(Vec<Step>, Value),
    /// It has no effect, for this reason.
    Ignored(String),
    /// It is not about the configuration of this program.
    Foreign,
}

/// Adds the environment to the table of a file, and returns the configuration and the
/// variables that override keys. What is wrong is added to `wrong`, and leaves the value as
/// it was; what has no effect is added to `warnings`.
pub(super) fn apply(
    table: &Table,
    environment: &[(String, String)],
    wrong: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> (ClusterConfig, Vec<String>) {
    let mut overrides = Vec::new();
    let schema = schema();
    for (variable, text) in environment {
        let Some(name) = variable.strip_prefix(PREFIX) else {
            continue;
        };
        match meaning(&schema, &name.to_ascii_lowercase(), text) {
            Ok(Meaning::Override(path, value)) => overrides.push(Override {
                variable: variable.clone(),
                path,
                value,
            }),
            Ok(Meaning::Ignored(why)) => {
                warnings.push(format!("{variable} has no effect: {why}"));
            }
            Ok(Meaning::Foreign) => {}
            Err(what) => wrong.push(format!("{variable}: {what}")),
        }
    }
    let config = merge(table, &mut overrides, wrong);
    let names = overrides.into_iter().map(|found| found.variable);
    (config, names.collect())
}

/// The configuration with these overrides, without those that do not fit.
fn merge(table: &Table, overrides: &mut Vec<Override>, wrong: &mut Vec<String>) -> ClusterConfig {
    loop {
        let (position, what) = match config_of(table, overrides, None) {
            Ok(config) => return config,
            Err((Some(position), what)) => (Some(position), what),
            // The one without which the error disappears or changes.
            Err((None, what)) => {
                let is_cause = |position: &usize| {
                    let without = config_of(table, overrides, Some(*position));
                    without.map_or_else(|(_, other)| other != what, |_| true)
                };
                ((0..overrides.len()).find(is_cause), what)
            }
        };
        match position {
            Some(position) => {
                let found = overrides.remove(position);
                wrong.push(format!("{}: {what}", found.variable));
            }
            None => {
                wrong.push(what);
                return ClusterConfig::default();
            }
        }
    }
}

/// The error has the position of the override that cannot be put into the table, if it is
/// one.
fn config_of(
    table: &Table,
    overrides: &[Override],
    without: Option<usize>,
) -> Result<ClusterConfig, (Option<usize>, String)> {
    let mut table = table.clone();
    for (position, found) in overrides.iter().enumerate() {
        if Some(position) != without {
            put(&mut table, &found.path, found.value.clone())
                .map_err(|what| (Some(position), what))?;
        }
    }
    let config: Result<ClusterConfig, toml::de::Error> = table.try_into();
    config.map_err(|error| (None, error.message().to_owned()))
}

fn meaning(schema: &Value, name: &str, text: &str) -> Result<Meaning, String> {
    if is_of_kubernetes(name, text) || OTHERS.contains(&name) {
        return Ok(Meaning::Foreign);
    }
    if let Some((path, kind)) = find(schema, name) {
        return Ok(Meaning::Override(path, value(kind, text)?));
    }
    let promise = PROMISES.iter().find(|(promised, _)| *promised == name);
    if let Some((_, instead)) = promise {
        return match text.parse() {
            Ok(false) => Ok(Meaning::Foreign),
            _ => Err((*instead).to_owned()),
        };
    }
    let of_server = OF_IGGYS_SERVER.iter().find(|(of_server, _)| {
        *of_server == name || (of_server.ends_with('_') && name.starts_with(of_server))
    });
    if let Some((_, instead)) = of_server {
        return Ok(Meaning::Ignored(format!(
            "it is of Iggy's own server; {instead}"
        )));
    }
    let known = keys(schema);
    let known = known.iter().map(String::as_str).chain(OTHERS);
    let nearest = known.map(|key| (unlike(name, key), key)).min();
    let in_section = SECTIONS.iter().any(|section| {
        name.strip_prefix(section)
            .is_some_and(|rest| rest.starts_with('_'))
    });
    let misspelt = nearest.is_some_and(|(letters, _)| letters <= MISSPELT_MAX);
    if in_section || misspelt {
        let hint = nearest.map_or(String::new(), |(_, key)| {
            format!("; the nearest is {PREFIX}{}", key.to_ascii_uppercase())
        });
        return Err(format!("names no key of the configuration{hint}"));
    }
    if PROGRAMS.iter().any(|program| name.starts_with(program)) {
        return Ok(Meaning::Foreign);
    }
    Ok(Meaning::Ignored(
        "it names no key of the configuration".into(),
    ))
}

/// The edit distance of a variable to a key. A node's number is not a difference.
fn unlike(name: &str, key: &str) -> usize {
    let zeros = |text: &str| -> String {
        let digits = |c: char| if c.is_ascii_digit() { '0' } else { c };
        text.chars().map(digits).collect()
    };
    distance(&zeros(name), key)
}

/// Kubernetes sets variables for every service, which may be called iggy or iggy-cluster:
/// `IGGY_SERVICE_HOST`, `IGGY_CLUSTER_PORT`, `IGGY_CLUSTER_PORT_8090_TCP_ADDR`.
fn is_of_kubernetes(name: &str, text: &str) -> bool {
    let of_port = |(before, after): (&str, &str)| {
        (before.is_empty() || before.ends_with('_'))
            && (after.is_empty() && text.contains("://")
                || after
                    .strip_prefix('_')
                    .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())))
    };
    name.contains("service_host")
        || name.contains("service_port")
        || name.split_once("port").is_some_and(of_port)
}

/// A value of the kind that the key has.
fn value(kind: &Value, text: &str) -> Result<Value, String> {
    Ok(match kind {
        Value::Integer(_) => Value::Integer(
            text.parse()
                .map_err(|_| format!("{text:?} is not a whole number"))?,
        ),
        Value::Boolean(_) => Value::Boolean(
            text.parse()
                .map_err(|_| format!("{text:?} is neither true nor false"))?,
        ),
        _ => Value::String(text.to_owned()),
    })
}

/// A configuration with every key.
fn schema() -> Value {
    let mut schema = ClusterConfig::default();
    schema.cluster.nodes = vec![NodeSection {
        advertised_address: Some(String::new()),
        advertised_addresses: vec![AdvertisedAddress {
            client_cidr: IpNet::default(),
            address: String::new(),
        }],
        ..NodeSection::default()
    }];
    // The defaults can be written.
    Value::try_from(&schema).unwrap_or_else(|_| Value::Table(Table::new()))
}

/// The path in the schema that a variable's name stands for. Keys contain underscores
/// too, so every split is tried.
fn find<'a>(schema: &'a Value, name: &str) -> Option<(Vec<Step>, &'a Value)> {
    match schema {
        Value::Table(table) => table.iter().find_map(|(key, value)| {
            let rest = name.strip_prefix(key.as_str())?;
            let (mut path, found) = match rest.strip_prefix('_') {
                Some(rest) => find(value, rest)?,
                None if rest.is_empty() && !value.is_table() && !value.is_array() => {
                    (Vec::new(), value)
                }
                None => return None,
            };
            path.insert(0, Step::Key(key.clone()));
            Some((path, found))
        }),
        Value::Array(items) => {
            let digits = name.find(|c: char| !c.is_ascii_digit())?;
            let index = name[..digits].parse().ok()?;
            let rest = name[digits..].strip_prefix('_')?;
            let (mut path, found) = find(items.first()?, rest)?;
            path.insert(0, Step::Index(index));
            Some((path, found))
        }
        _ => None,
    }
}

fn put(table: &mut Table, path: &[Step], value: Value) -> Result<(), String> {
    let Some((Step::Key(key), rest)) = path.split_first() else {
        return Ok(());
    };
    match rest.first() {
        None => {
            table.insert(key.clone(), value);
            Ok(())
        }
        Some(Step::Key(_)) => {
            let below = table
                .entry(key.clone())
                .or_insert_with(|| Value::Table(Table::new()));
            match below {
                Value::Table(below) => put(below, rest, value),
                _ => Err(format!("{key} is not a section")),
            }
        }
        Some(Step::Index(index)) => {
            let below = table
                .entry(key.clone())
                .or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(items) = below else {
                return Err(format!("{key} is not a list"));
            };
            if *index > items.len() {
                return Err(format!(
                    "the list {key} has {} entries; number {index} would leave a gap",
                    items.len()
                ));
            }
            if *index == items.len() {
                items.push(Value::Table(Table::new()));
            }
            match &mut items[*index] {
                Value::Table(below) => put(below, &rest[1..], value),
                _ => Err(format!("{key} has no sections")),
            }
        }
    }
}

/// Every key of the schema, as in the names of variables.
pub(super) fn keys(schema: &Value) -> Vec<String> {
    match schema {
        Value::Table(table) => table
            .iter()
            .flat_map(|(key, value)| {
                let below = keys(value);
                match below.is_empty() {
                    true => vec![key.clone()],
                    false => below.iter().map(|rest| format!("{key}_{rest}")).collect(),
                }
            })
            .collect(),
        Value::Array(items) => items
            .first()
            .map(|first| keys(first).iter().map(|rest| format!("0_{rest}")).collect())
            .unwrap_or_default(),
        _ => Vec::new(),
    }
}
