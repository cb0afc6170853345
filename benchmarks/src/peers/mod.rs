//! What people would pick instead, on the same work: three nodes each, on loopback.

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

    /// The same load as ours.
    async fn measure(&mut self, load: Load) -> anyhow::Result<Measured>;
}

/// Starts what is installed, and says of the rest how to install it.
pub(crate) async fn start(
    durability: Durability,
    value_bytes: usize,
    missing: &mut Vec<Missing>,
) -> anyhow::Result<Vec<Box<dyn Peer>>> {
    let mut peers: Vec<Box<dyn Peer>> = Vec::new();
    match etcd::find() {
        Some(binary) => match etcd::Etcd::start(&binary, durability, value_bytes).await {
            Ok(etcd) => peers.push(Box::new(etcd)),
            Err(error) => note(missing, "etcd", &format!("does not start: {error:#}")),
        },
        None => note(
            missing,
            "etcd",
            "not installed; on Debian: apt install etcd-server",
        ),
    }
    match zookeeper::find() {
        Some(java) => match zookeeper::ZooKeeper::start(&java, durability, value_bytes).await {
            Ok(zookeeper) => peers.push(Box::new(zookeeper)),
            Err(error) => note(missing, "zookeeper", &format!("does not start: {error:#}")),
        },
        None => note(
            missing,
            "zookeeper",
            "not installed; on Debian: apt install zookeeper default-jre-headless",
        ),
    }
    Ok(peers)
}

/// Notes, once, what of a peer could not be measured.
pub(crate) fn note(missing: &mut Vec<Missing>, peer: &str, why: &str) {
    if missing
        .iter()
        .all(|known| known.peer != peer || known.why != why)
    {
        missing.push(Missing {
            peer: peer.into(),
            why: why.into(),
        });
    }
}

/// A program among those that the shell would find, or beside them.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    dirs.push(Path::new("/usr/sbin").to_owned());
    let mut found = dirs.into_iter().map(|dir| dir.join(name));
    found.find(|path| path.is_file())
}
