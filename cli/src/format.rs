//! `format`: the data directory of a node that has never run.

use std::io::Write;

use super::NodeArgs;
use iggy_cluster::Node;
use iggy_cluster::config;

pub(super) fn run(args: &NodeArgs) -> anyhow::Result<()> {
    let loaded = config::load(
        args.config.as_deref(),
        config::environment(),
        Some(args.replica_id),
    )?;
    Node::format(&loaded.config, args.replica_id)?;
    writeln!(
        std::io::stdout(),
        "{} is the data directory of replica {} of cluster {:?}; `iggy-cluster serve` starts it",
        loaded.config.storage.path.display(),
        args.replica_id,
        loaded.config.cluster.name
    )?;
    Ok(())
}
