//! `config check`: a summary of a configuration file, or everything that is wrong with it.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use adapters::Printable;
use anyhow::bail;

use super::text::wrapped;
use crate::config::{self, ConfigError, Loaded, NodeSection};
use crate::server::check_certificate;

pub(super) fn run(file: &Path) -> anyhow::Result<()> {
    let (wrong, text) = match config::load(Some(file), config::environment(), None) {
        Ok(mut loaded) => {
            let certificate = check_certificate(&loaded.config.tcp.tls, SystemTime::now());
            let wrong = match certificate {
                Ok(warning) => {
                    loaded.warnings.extend(warning);
                    Vec::new()
                }
                Err(what) => vec![format!("tcp.tls: {what}")],
            };
            let text = summary(file, &loaded, wrong.is_empty());
            (wrong, text)
        }
        Err(ConfigError::Invalid(wrong)) => (wrong, String::new()),
        Err(error) => return Err(error.into()),
    };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    for what in &wrong {
        out.write_all(wrapped("- ", what).as_bytes())?;
    }
    out.flush()?;
    match wrong.len() {
        0 => Ok(()),
        1 => bail!("{} is not valid", file.display()),
        count => bail!("{} is not valid: {count} violations", file.display()),
    }
}

fn summary(file: &Path, loaded: &Loaded, is_valid: bool) -> String {
    let config = &loaded.config;
    let consensus = &config.cluster.consensus;
    let mut text = String::new();
    if is_valid {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "{} is valid.", file.display());
    }
    let about = format!(
        "cluster {:?}, backend {}, election timeout {}",
        config.cluster.name,
        consensus.backend.name(),
        consensus.election_timeout,
    );
    text.push_str(&wrapped("", &about));
    for node in &config.cluster.nodes {
        let NodeSection {
            name, replica_id, ..
        } = node;
        let name = Printable(name);
        let (client, replica) = (node.client_address(), node.replica_address());
        let about = format!("{replica_id}  {name}  clients {client}  nodes {replica}");
        text.push_str(&wrapped("  ", &about));
    }
    for variable in &loaded.overrides {
        text.push_str(&wrapped("", &format!("overridden by {variable}")));
    }
    if !loaded.warnings.is_empty() {
        text.push_str("warnings:\n");
    }
    for warning in &loaded.warnings {
        text.push_str(&wrapped("- ", warning));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sample is for one machine: only its password is unsafe.
    #[test]
    fn the_summary_has_warnings_and_fits_80_columns() {
        let sample = Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../config/iggy-cluster.toml"
        ));
        let loaded = config::load(Some(sample), [], None).unwrap();
        let text = summary(Path::new("iggy-cluster.toml"), &loaded, true);
        assert!(text.starts_with("iggy-cluster.toml is valid.\n"), "{text}");
        assert!(
            text.contains("warnings:\n- the root user \"iggy\""),
            "{text}"
        );
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }
}
