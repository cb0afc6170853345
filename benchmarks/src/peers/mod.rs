//! The alternatives, on the same work: three nodes each, on loopback.

mod etcd;
mod openraft;
mod processes;
mod zookeeper;

use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::load::{Load, Measured};
use crate::replica::Durability;
use crate::results::Missing;

pub(crate) use openraft::Openraft;

/// Nodes of a peer's cluster.
const NODES: usize = 3;

/// A system that keeps values by key.
#[async_trait]
pub(crate) trait Peer: Send {
    fn name(&self) -> &'static str;

    /// Runs the same load as ours.
    async fn measure(&mut self, load: Load) -> anyhow::Result<Measured>;
}

/// Starts the peers that are installed, and notes how to install the others.
pub(crate) async fn start(
    durability: Durability,
    value_bytes: usize,
    missing: &mut Vec<Missing>,
) -> anyhow::Result<Vec<Box<dyn Peer>>> {
    let mut peers: Vec<Box<dyn Peer>> = Vec::new();
    match etcd::find() {
        Some(binary) => match etcd::Etcd::start(&binary, durability, value_bytes).await {
            Ok(etcd) => peers.push(Box::new(etcd)),
            Err(error) => note(missing, "etcd", &format!("it does not start: {error:#}")),
        },
        None => note(
            missing,
            "etcd",
            "it is not installed; on Debian: apt install etcd-server",
        ),
    }
    match zookeeper::find() {
        Some(java) => match zookeeper::ZooKeeper::start(&java, durability, value_bytes).await {
            Ok(zookeeper) => peers.push(Box::new(zookeeper)),
            Err(error) => note(
                missing,
                "zookeeper",
                &format!("it does not start: {error:#}"),
            ),
        },
        None => note(
            missing,
            "zookeeper",
            "it is not installed; on Debian: apt install zookeeper default-jre-headless",
        ),
    }
    Ok(peers)
}

/// Notes what could not be measured of a peer, and why, once.
pub(crate) fn note(missing: &mut Vec<Missing>, peer: &str, why: &str) {
    if missing
        .iter()
        .all(|known| known.what != peer || known.why != why)
    {
        missing.push(Missing {
            what: peer.into(),
            why: why.into(),
        });
    }
}

/// A program in the directories of `PATH`, or in `/usr/sbin`.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    dirs.push(Path::new("/usr/sbin").to_owned());
    let mut found = dirs.into_iter().map(|dir| dir.join(name));
    found.find(|path| path.is_file())
}
