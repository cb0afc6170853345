//! Commands that this node has decided as the leader, and that are not applied yet.
//!
//! Their effects are not in the state. Without counting the partitions that they create,
//! concurrent commands would all be placed on the node that owned the fewest before; and
//! without their logins, two users could log in with the same client id concurrently, or one
//! that is repeated late could replace the session of a newer one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adapters::metadata::{
    Command, DecisionError, Intent, Load, MetadataCommand, MetadataReader, PlacementError, decide,
};
use consensus::{ReplicaId, Term};
use tracing::warn;

use super::failure::Failure;

/// What is in flight.
#[derive(Default)]
struct InFlight {
    /// New partitions of each node.
    partitions: BTreeMap<ReplicaId, Load>,
    /// The client's ids of logins.
    logins: BTreeSet<u128>,
}

#[derive(Default)]
pub(super) struct Decisions {
    in_flight: Arc<Mutex<InFlight>>,
    /// The last term in which the state contained all that was decided in earlier ones.
    caught_up: Mutex<Option<Term>>,
}

/// A decided command. It is in flight until this is dropped.
pub(super) struct Decision {
    pub(super) command: Command,
    in_flight: Arc<Mutex<InFlight>>,
}

impl Decisions {
    /// The command to propose for an intent.
    pub(super) fn decide(
        &self,
        intent: Intent,
        reader: &MetadataReader,
    ) -> Result<Decision, Failure> {
        let mut in_flight = lock(&self.in_flight);
        let login = login_of(&intent);
        if let Some(client) = login
            && in_flight.logins.contains(&client)
        {
            // It is repeated when the state has the outcome of that login, and judged by it.
            return Err(Failure::NotAccepted);
        }
        let command = decide(intent, reader, &in_flight.partitions);
        let command = command.inspect_err(|refused| {
            if matches!(refused, DecisionError::VersionTooLow { .. }) {
                warn!(%refused, "a node is not registered");
            }
            if let DecisionError::Placement(PlacementError::TooFewNodes { .. }) = refused {
                warn!(%refused, "partitions are not created");
            }
        })?;
        for replicas in command.placement() {
            for node in replicas.iter() {
                let load = in_flight.partitions.entry(node).or_default();
                load.copies += 1;
                load.leads += u64::from(node == replicas.preferred());
            }
        }
        in_flight.logins.extend(login);
        Ok(Decision {
            command,
            in_flight: Arc::clone(&self.in_flight),
        })
    }

    /// Whether the state has contained all decisions of earlier terms in this one.
    pub(super) fn is_caught_up(&self, term: Term) -> bool {
        *lock(&self.caught_up) == Some(term)
    }

    /// The state contains all decisions of terms before this one.
    pub(super) fn caught_up(&self, term: Term) {
        *lock(&self.caught_up) = Some(term);
    }
}

impl Drop for Decision {
    fn drop(&mut self) {
        let placement = self.command.placement();
        let login = login_of(&self.command);
        if placement.is_empty() && login.is_none() {
            return;
        }
        let mut in_flight = lock(&self.in_flight);
        for replicas in placement {
            for node in replicas.iter() {
                if let Some(load) = in_flight.partitions.get_mut(&node) {
                    let leads = u64::from(node == replicas.preferred());
                    load.copies = load.copies.saturating_sub(1);
                    load.leads = load.leads.saturating_sub(leads);
                }
            }
        }
        if let Some(client) = login {
            in_flight.logins.remove(&client);
        }
    }
}

/// The client's id of a login.
fn login_of<P>(command: &MetadataCommand<P>) -> Option<u128> {
    match command {
        MetadataCommand::Register { client, .. } => Some(*client),
        _ => None,
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
