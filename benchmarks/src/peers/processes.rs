//! The processes of a peer, and their directories.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::thread::{disable_transparent_huge_pages, transparent_huge_pages_are_disabled};
use tempfile::TempDir;

const READY_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

pub(super) struct PeerProcesses {
    dir: TempDir,
    children: Vec<Child>,
}

impl PeerProcesses {
    pub(super) fn new(name: &str) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix(&format!("iggy-cluster-bench-{name}-"))
            .tempdir()?;
        Ok(Self {
            dir,
            children: Vec::new(),
        })
    }

    /// The data directory of a node.
    pub(super) fn data(&self, node: usize) -> anyhow::Result<PathBuf> {
        let data = self.dir.path().join(node.to_string());
        std::fs::create_dir_all(&data)?;
        Ok(data)
    }

    fn log(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("{node}.log"))
    }

    /// Starts the next node.
    pub(super) fn start(&mut self, program: &Path, command: &mut Command) -> anyhow::Result<()> {
        let log = File::create(self.log(self.children.len()))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = with_huge_pages(|| command.spawn())
            .with_context(|| format!("cannot start {}", program.display()))?;
        self.children.push(child);
        Ok(())
    }

    /// Waits until `ready` succeeds.
    pub(super) async fn wait<T, F>(
        &mut self,
        name: &str,
        ready: impl Fn() -> F,
    ) -> anyhow::Result<T>
    where
        F: Future<Output = anyhow::Result<T>>,
    {
        let started = Instant::now();
        loop {
            let error = match ready().await {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            for node in 0..self.children.len() {
                if let Some(status) = self.children[node].try_wait()? {
                    bail!("{name} has ended ({status}):\n{}", self.last_lines(node));
                }
            }
            if started.elapsed() > READY_TIMEOUT {
                let last = self.last_lines(0);
                return Err(error.context(format!(
                    "{name} is not ready after {} s:\n{last}",
                    READY_TIMEOUT.as_secs()
                )));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn last_lines(&self, node: usize) -> String {
        let text = std::fs::read_to_string(self.log(node)).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(10).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

/// This process may have disabled huge pages, and its children would inherit that:
/// peers get the system's default.
fn with_huge_pages<T>(start: impl FnOnce() -> T) -> T {
    let disabled = transparent_huge_pages_are_disabled().unwrap_or(false);
    let _ = disable_transparent_huge_pages(false);
    let started = start();
    let _ = disable_transparent_huge_pages(disabled);
    started
}

impl Drop for PeerProcesses {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
