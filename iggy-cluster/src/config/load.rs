//! From a file and the environment to a checked configuration.
//!
//! `IGGY_<SECTION>_<KEY>` overrides a key, with an index for a node:
//! `IGGY_CLUSTER_NODES_0_PORTS_TCP`. Values have the type that the key has in the
//! file. Variables that start with the name of a section, such as `IGGY_TCP_`, and name
//! no key are errors; other variables that start with `IGGY_` are ignored.

use std::path::{Path, PathBuf};

use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use thiserror::Error;
use toml::{Table, Value};

use super::{AdvertisedAddress, ClusterConfig, NodeSection, RootUser, check};

/// The path of the file, without `--config`.
const PATH_VARIABLE: &str = "IGGY_CONFIG_PATH";
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

/// Why a configuration is refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// There is no file to read.
    #[error("no configuration: give --config FILE, or set {PATH_VARIABLE}")]
    NoFile,
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or has an unknown key or a wrong value.
    #[error("{path}: {what}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        what: String,
    },
    /// A variable names no key, or its value does not fit.
    #[error("{variable}: {what}")]
    Variable {
        /// The variable.
        variable: String,
        /// What is wrong.
        what: String,
    },
    /// The name or the password of the root user has the wrong length.
    #[error("IGGY_ROOT_USERNAME must have 1 to 255 bytes, IGGY_ROOT_PASSWORD 3 to 100")]
    Root,
    /// Values contradict each other or exceed a bound.
    #[error("the configuration is invalid:\n  - {}", .0.join("\n  - "))]
    Invalid(Vec<String>),
}

/// A checked configuration and its sources.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: ClusterConfig,
    /// The root user of a new cluster.
    pub root: RootUser,
    /// The file.
    pub path: PathBuf,
    /// The variables that override keys of the file.
    pub overrides: Vec<String>,
}

/// Reads the file at `path` or the one that the environment names, applies the
/// environment, and checks everything. `replica_id` is the node that will run.
///
/// # Errors
/// What is wrong, and what to do.
pub fn load(
    path: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    replica_id: Option<u8>,
) -> Result<Loaded, ConfigError> {
    let mut environment: Vec<_> = environment.into_iter().collect();
    environment.sort();
    let variable = |name: &str| {
        let found = environment.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.clone())
    };
    let path = match path {
        Some(path) => path.to_path_buf(),
        None => variable(PATH_VARIABLE).ok_or(ConfigError::NoFile)?.into(),
    };
    let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Read {
        path: path.clone(),
        source,
    })?;
    let (config, overrides) = parse(&path, &text, &environment, replica_id)?;
    let mut root = RootUser::default();
    if let Some(username) = variable("IGGY_ROOT_USERNAME") {
        root.username = username;
    }
    if let Some(password) = variable("IGGY_ROOT_PASSWORD") {
        root.password = SecretString::from(password);
    }
    let password = root.password.expose_secret().len();
    if !(1..=255).contains(&root.username.len()) || !(3..=100).contains(&password) {
        return Err(ConfigError::Root);
    }
    Ok(Loaded {
        config,
        root,
        path,
        overrides,
    })
}

/// This process's environment, without variables that are not UTF-8.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
}

/// The same for the text of a file.
///
/// # Errors
/// What is wrong, and what to do.
pub fn parse(
    path: &Path,
    text: &str,
    environment: &[(String, String)],
    replica_id: Option<u8>,
) -> Result<(ClusterConfig, Vec<String>), ConfigError> {
    let failed = |what: String| ConfigError::Parse {
        path: path.to_path_buf(),
        what,
    };
    // Once for errors with a line, once to merge the environment into.
    let _: ClusterConfig =
        toml::from_str(text).map_err(|error| failed(explain(&error.to_string())))?;
    let mut table: Table = toml::from_str(text).map_err(|error| failed(error.to_string()))?;
    let mut overrides = Vec::new();
    for (variable, value) in environment {
        if apply(&mut table, variable, value)? {
            overrides.push(variable.clone());
        }
    }
    let config: ClusterConfig =
        table
            .try_into()
            .map_err(|error: toml::de::Error| ConfigError::Variable {
                variable: overrides.join(", "),
                what: error.message().to_owned(),
            })?;
    let wrong = check::violations(&config, replica_id);
    match wrong.is_empty() {
        true => Ok((config, overrides)),
        false => Err(ConfigError::Invalid(wrong)),
    }
}

/// Adds the most similar known key to an error about an unknown one.
fn explain(error: &str) -> String {
    let unknown = error
        .split_once("unknown field `")
        .and_then(|(_, rest)| rest.split_once('`'))
        .map(|(field, _)| field);
    let known = error
        .split_once("expected one of ")
        .or_else(|| error.split_once("expected "))
        .map(|(_, known)| known);
    let nearest = unknown.zip(known).and_then(|(unknown, known)| {
        known
            .split('`')
            .filter(|word| {
                word.chars().all(|c| c.is_ascii_lowercase() || c == '_') && !word.is_empty()
            })
            .map(|word| (distance(unknown, word), word))
            .min()
            .filter(|(distance, _)| *distance <= 3)
            .map(|(_, word)| word)
    });
    match nearest {
        Some(nearest) => format!("{error}\ndid you mean `{nearest}`?"),
        None => error.to_owned(),
    }
}

/// Applies one variable; false when it is not about the configuration.
fn apply(table: &mut Table, variable: &str, text: &str) -> Result<bool, ConfigError> {
    let Some(name) = variable.strip_prefix(PREFIX) else {
        return Ok(false);
    };
    let name = name.to_ascii_lowercase();
    // Variables that Kubernetes sets for a service with the name iggy-cluster.
    if name.starts_with("cluster_service_") || name.starts_with("cluster_port") {
        return Ok(false);
    }
    let ours = |section: &&str| {
        name.strip_prefix(*section)
            .is_some_and(|rest| rest.starts_with('_'))
    };
    if !SECTIONS.iter().any(ours) {
        return Ok(false);
    }
    let failed = |what: String| ConfigError::Variable {
        variable: variable.to_owned(),
        what,
    };
    let mut schema = ClusterConfig::default();
    schema.cluster.nodes = vec![NodeSection {
        advertised_address: Some(String::new()),
        advertised_addresses: vec![AdvertisedAddress {
            client_cidr: IpNet::default(),
            address: String::new(),
        }],
        ..NodeSection::default()
    }];
    let schema = Value::try_from(&schema).map_err(|error| failed(error.to_string()))?;
    let Some((path, kind)) = find(&schema, &name) else {
        let known = keys(&schema);
        let nearest = known.iter().min_by_key(|key| distance(&name, key));
        let hint = nearest.map_or(String::new(), |key| {
            format!("; the nearest is {PREFIX}{}", key.to_ascii_uppercase())
        });
        return Err(failed(format!("names no key of the configuration{hint}")));
    };
    let value = match kind {
        Value::Integer(_) => Value::Integer(
            text.parse()
                .map_err(|_| failed(format!("{text:?} is not a whole number")))?,
        ),
        Value::Boolean(_) => Value::Boolean(
            text.parse()
                .map_err(|_| failed(format!("{text:?} is neither true nor false")))?,
        ),
        _ => Value::String(text.to_owned()),
    };
    put(table, &path, value).map_err(failed)?;
    Ok(true)
}

enum Step {
    Key(String),
    Index(usize),
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
fn keys(schema: &Value) -> Vec<String> {
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

/// The edit distance of two texts.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

impl ClusterConfig {
    /// The configuration as a file.
    ///
    /// # Errors
    /// When a value cannot be written, a path that is not UTF-8 for instance.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error>
    where
        Self: Serialize,
    {
        toml::to_string(self)
    }
}

#[cfg(test)]
mod tests;
