//! `serve`: runs one node.

use anyhow::{Context, bail};
use tracing::info;

use super::{NodeArgs, stop_signal};
use crate::Node;
use crate::config;
use crate::log_lines::Tee;

pub(super) async fn run(args: &NodeArgs) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("RUST_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .with_writer(|| Tee)
        .init();
    let loaded = config::load(
        args.config.as_deref(),
        config::environment(),
        Some(args.replica_id),
    )?;
    let mut node = Node::start(loaded.config, loaded.root, args.replica_id)
        .await
        .context("the node cannot start")?;
    tokio::select! {
        result = node.stopped() => match result {
            Ok(()) => bail!("the node stopped by itself"),
            Err(why) => bail!("the node had to stop: {why}"),
        },
        result = stop_signal() => result?,
    }
    info!("stopping");
    node.stop().await;
    Ok(())
}
