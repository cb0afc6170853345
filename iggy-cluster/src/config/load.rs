//! From a file and the environment to a checked configuration.
//!
//! `IGGY_<SECTION>_<KEY>` overrides a key, with an index for a node:
//! `IGGY_CLUSTER_NODES_0_PORTS_TCP`. Values have the type that the key has in the file.
//! A variable that starts with the name of a section, such as `IGGY_TCP_`, and names no key
//! is an error, and so is one that is nearly spelt as a known one. Variables of Iggy's own
//! server that have no meaning here are warned about, unless they promise security.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use thiserror::Error;

use super::{ClusterConfig, RootUser, check, environment as variables, file, warnings};

/// The path of the file, without `--config`.
const PATH_VARIABLE: &str = "IGGY_CONFIG_PATH";

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
    /// Everything that is wrong: the syntax of the file, unknown keys and variables, values
    /// that do not fit, contradict each other or exceed a bound.
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
    /// What is allowed and unsafe, and variables without effect.
    pub warnings: Vec<String>,
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
    let mut parsed = Parsed::new(&path, &text, &environment, replica_id);
    let mut root = RootUser::default();
    if let Some(username) = variable("IGGY_ROOT_USERNAME") {
        root.username = username;
    }
    if let Some(password) = variable("IGGY_ROOT_PASSWORD") {
        root.password = SecretString::from(password);
    }
    let password = root.password.expose_secret().len();
    if !(1..=255).contains(&root.username.len()) || !(3..=100).contains(&password) {
        parsed.wrong.push(
            "IGGY_ROOT_USERNAME must have 1 to 255 bytes, IGGY_ROOT_PASSWORD 3 to 100".into(),
        );
    }
    if !parsed.wrong.is_empty() {
        return Err(ConfigError::Invalid(parsed.wrong));
    }
    parsed
        .warnings
        .extend(warnings::unsafe_settings(&parsed.config, &root));
    Ok(Loaded {
        config: parsed.config,
        root,
        path,
        overrides: parsed.overrides,
        warnings: parsed.warnings,
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
    let parsed = Parsed::new(path, text, environment, replica_id);
    match parsed.wrong.is_empty() {
        true => Ok((parsed.config, parsed.overrides)),
        false => Err(ConfigError::Invalid(parsed.wrong)),
    }
}

/// A configuration, and what is wrong with it.
struct Parsed {
    config: ClusterConfig,
    overrides: Vec<String>,
    wrong: Vec<String>,
    warnings: Vec<String>,
}

impl Parsed {
    fn new(
        path: &Path,
        text: &str,
        environment: &[(String, String)],
        replica_id: Option<u8>,
    ) -> Self {
        let (mut wrong, mut warnings) = (Vec::new(), Vec::new());
        let file = file::read(path, text, &mut wrong);
        let (config, overrides) =
            variables::apply(&file.table, environment, &mut wrong, &mut warnings);
        // What was left out because it is wrong is not missing too.
        let is_known =
            |violation: &String| file.nodes_are_complete || !check::is_of_nodes(violation);
        let violations = check::violations(&config, replica_id);
        wrong.extend(violations.into_iter().filter(is_known));
        Self {
            config,
            overrides,
            wrong,
            warnings,
        }
    }
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
