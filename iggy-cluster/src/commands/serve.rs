//! `serve`: runs one node.

use anyhow::{Context, bail};
use tracing::{info, warn};

use super::{ServeArgs, logging, stop_signal};
use crate::Node;
use crate::config;

pub(super) async fn run(args: &ServeArgs) -> anyhow::Result<()> {
    logging::init(args.log_format);
    let loaded = config::load(
        args.node.config.as_deref(),
        config::environment(),
        Some(args.node.replica_id),
    )?;
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let stop = stop_request(args.stop_with_input);
    tokio::pin!(stop);
    // At its first start, a node may wait for the others for long.
    let started = tokio::select! {
        started = Node::start(loaded.config, loaded.root, args.node.replica_id) => started,
        result = &mut stop => return result,
    };
    let mut node = started.context("the node cannot start")?;
    tokio::select! {
        result = node.stopped() => match result {
            Ok(()) => bail!("the node stopped by itself"),
            Err(why) => bail!("the node had to stop: {why}"),
        },
        result = stop => result?,
    }
    info!("stopping");
    node.stop().await;
    Ok(())
}

/// Resolves on a signal, and with `stop_with_input` at the end of the standard input.
async fn stop_request(stop_with_input: bool) -> anyhow::Result<()> {
    let input = async {
        match stop_with_input {
            true => local_cluster::end_of_input().await,
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        result = stop_signal() => result,
        () = input => Ok(()),
    }
}
