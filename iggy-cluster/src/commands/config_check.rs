//! `config check`: a summary of a configuration file, or everything that is wrong with it.

use std::io::Write;
use std::path::Path;

use adapters::Printable;

use crate::config::{self, NodeSection};

pub(super) fn run(file: &Path) -> anyhow::Result<()> {
    let loaded = config::load(Some(file), config::environment(), None)?;
    let config = loaded.config;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} is valid.", file.display())?;
    let consensus = &config.cluster.consensus;
    writeln!(
        out,
        "cluster {:?}, backend {}, election timeout {}",
        config.cluster.name,
        consensus.backend.name(),
        consensus.election_timeout,
    )?;
    for node in &config.cluster.nodes {
        let NodeSection {
            name, replica_id, ..
        } = node;
        let name = Printable(name);
        let (client, replica) = (node.client_address(), node.replica_address());
        writeln!(
            out,
            "  {replica_id}  {name}  clients {client}  nodes {replica}"
        )?;
    }
    for variable in &loaded.overrides {
        writeln!(out, "overridden by {variable}")?;
    }
    Ok(())
}
