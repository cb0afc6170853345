//! Writes the data directories that the upgrade test opens.
//!
//!     cargo run -p integration-tests --example write_fixture -- BINARY VERSION
//!
//! BINARY is the `iggy-cluster` of that version.

use anyhow::Context;
use integration_tests::{Backend, Cluster, fixture};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let binary = arguments.next().context("the binary is missing")?;
    let version = arguments.next().context("the version is missing")?;
    for backend in [Backend::Raft, Backend::Vr] {
        let mut cluster = Cluster::start_with(&binary, backend, 1, fixture::configure).await?;
        fixture::write(&mut cluster).await?;
        cluster.kill(0)?;
        let dir = fixture::dir(&version, backend);
        fixture::copy_trimmed(&cluster.data(0), &dir)?;
        eprintln!("{}", dir.display());
    }
    Ok(())
}
