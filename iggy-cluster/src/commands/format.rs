//! `format`: initializes the data directory of a node that has never run.

use std::io::Write;

use super::NodeArgs;
use crate::Node;
use crate::config;

pub(super) fn run(args: &NodeArgs) -> anyhow::Result<()> {
    let loaded = config::load(
        args.config.as_deref(),
        config::environment(),
        Some(args.replica_id),
    )?;
    Node::format(&loaded.config, args.replica_id)?;
    writeln!(
        std::io::stdout(),
        "{} is initialized for replica_id {} of cluster {:?}; `iggy-cluster serve` starts it",
        loaded.config.storage.path.display(),
        args.replica_id,
        loaded.config.cluster.name
    )?;
    Ok(())
}
