//! `format`: initializes the data directory of a node that has never run.

use std::io::Write;

use super::FormatArgs;
use crate::Node;
use crate::config;

pub(super) async fn run(args: &FormatArgs) -> anyhow::Result<()> {
    let node = &args.node;
    let loaded = config::load(
        node.config.as_deref(),
        config::environment(),
        Some(node.replica_id),
    )?;
    let unconfirmed = match args.skip_peer_check {
        true => {
            Node::format(&loaded.config, node.replica_id)?;
            Vec::new()
        }
        false => Node::format_unless_known(&loaded.config, node.replica_id).await?,
    };
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{} is initialized for replica_id {} of cluster {:?}; `iggy-cluster serve` starts it",
        loaded.config.storage.path.display(),
        node.replica_id,
        loaded.config.cluster.name
    )?;
    if !unconfirmed.is_empty() {
        writeln!(
            out,
            "not confirmed that it has never run by replica_id {unconfirmed:?}: unreachable, or without a leader; if it has run, do not start it, and remove the directory again"
        )?;
    }
    Ok(())
}
