//! Changes of the metadata that copies propose, many with one command.

use std::sync::Arc;
use std::time::Duration;

use ::partitions::PartitionKey;
use ::partitions::replication::Proposal;
use adapters::metadata::{
    AlterInSync, CopiesCommand, InSyncChange, Intent, LeaderMove, Recover, Replicas,
};
use tokio::sync::mpsc;
use tracing::debug;

use super::registry::Copies;

/// Proposals that come this soon after the first share its command.
const GATHER: Duration = Duration::from_millis(2);
/// Changes in one command.
const CHANGES_MAX: usize = 10_000;
/// Commands that are proposed at the same time.
const COMMANDS_MAX: usize = 4;

/// A proposal of a copy.
#[derive(Debug)]
pub(crate) struct Proposed {
    pub(super) key: PartitionKey,
    pub(super) proposal: Proposal,
}

impl Copies {
    /// Proposes what copies propose. A proposal that fails is repeated by its copy. Runs until
    /// the copies are dropped.
    pub(crate) async fn propose(self: Arc<Self>, mut proposed: mpsc::UnboundedReceiver<Proposed>) {
        let slots = Arc::new(tokio::sync::Semaphore::new(COMMANDS_MAX));
        while let Some(first) = proposed.recv().await {
            tokio::time::sleep(GATHER).await;
            let mut gathered = vec![first];
            while gathered.len() < CHANGES_MAX
                && let Ok(next) = proposed.try_recv()
            {
                gathered.push(next);
            }
            for command in self.commands(gathered) {
                let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                    return;
                };
                let metadata = Arc::clone(&self.node.metadata);
                tokio::spawn(async move {
                    if let Err(failure) = metadata.replicate(Intent::Copies(command)).await {
                        debug!(%failure, "a change of copies was not decided yet");
                    }
                    drop(slot);
                });
            }
        }
    }

    fn commands(&self, gathered: Vec<Proposed>) -> Vec<CopiesCommand> {
        let (mut changes, mut moves, mut commands) = (Vec::new(), Vec::new(), Vec::new());
        let state = self.node.metadata.reader.read();
        for Proposed { key, proposal } in gathered {
            match proposal {
                Proposal::AlterInSync {
                    epoch,
                    version,
                    in_sync,
                } => {
                    let replicas = state.partition(&key).map(|partition| partition.replicas);
                    let (Some(replicas), Some(in_sync)) = (replicas, Replicas::new(&in_sync))
                    else {
                        continue;
                    };
                    changes.push(InSyncChange {
                        key,
                        epoch,
                        version,
                        in_sync,
                        replicas,
                    });
                }
                Proposal::Move { epoch, to } => moves.push(LeaderMove { key, epoch, to }),
                Proposal::Recover {
                    epoch,
                    leader,
                    registration,
                    offset_gap,
                } => commands.push(CopiesCommand::Recover(Recover {
                    key,
                    epoch,
                    leader,
                    incarnation: registration,
                    offset_gap,
                })),
            }
        }
        if !moves.is_empty() {
            commands.push(CopiesCommand::MoveLeaders(moves));
        }
        if !changes.is_empty() {
            commands.push(CopiesCommand::AlterInSync(AlterInSync {
                from: self.node.me(),
                incarnation: self.node.incarnation,
                changes,
            }));
        }
        commands
    }
}
