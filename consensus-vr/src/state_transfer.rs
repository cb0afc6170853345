//! Checkpoints and snapshots (VRR 5.1, 5.2).
//!
//! The driver takes snapshots and carries their bytes; here is decided when one
//! replaces the log. Never while the log goes on behind it (E2): a log that holds
//! the snapshot's last op needs no snapshot, and one that differs from it there or
//! ends before it has nothing behind it that may be committed.

use consensus::{Effect, Index, RefusalReason, ReplicaId, SnapshotMeta, StepError};

use crate::core::{Phase, VrCore};
use crate::ids::{Checksum, View};
use crate::message::Message;

impl VrCore {
    pub(crate) fn snapshot_taken(&mut self, meta: SnapshotMeta) -> Result<(), StepError> {
        if meta.index > self.delivered {
            return Err(StepError::Request(format!(
                "snapshot at {}, but only {} is applied",
                meta.index, self.delivered
            )));
        }
        let newest = self.snapshot.as_ref().map(|(held, _)| held.index);
        if newest.is_some_and(|newest| newest >= meta.index) {
            return Ok(());
        }
        let limits = &self.limits;
        let through = self.log.compactable(
            meta.index,
            limits.log_tail_entries,
            limits.log_tail_bytes_max,
        );
        let checksum = self.log.checksum(meta.index);
        self.snapshot = Some((meta, checksum));
        self.log.compact_through(through);
        self.effects.push_back(Effect::Compact(through));
        Ok(())
    }

    /// Offers the newest snapshot to a replica whose log ends before this one
    /// begins.
    pub(crate) fn offer_snapshot(&mut self, to: ReplicaId) {
        if let Some((snapshot, checksum)) = self.snapshot.clone() {
            self.send_durable(to, Message::SnapshotOffer { snapshot, checksum });
        }
    }

    pub(crate) fn on_snapshot_offer(
        &mut self,
        from: ReplicaId,
        view: View,
        snapshot: SnapshotMeta,
        checksum: Option<Checksum>,
    ) -> Result<(), RefusalReason> {
        if view != self.view || matches!(self.phase, Phase::Primary(_)) {
            return Ok(());
        }
        if let Phase::ViewChange(change) = &mut self.phase {
            change.since = self.clock;
        }
        if snapshot.index <= self.commit {
            return Ok(());
        }
        if self.holds(&snapshot) {
            self.committed_by_snapshot(snapshot.index);
            return self.catch_up();
        }
        if self.fetching.is_none() {
            self.fetching = Some((snapshot.clone(), checksum));
            // The checksum has to be known when a crash follows the fetch at once.
            self.durability.state_changed();
            self.effects
                .push_back(Effect::FetchSnapshot { from, snapshot });
        }
        Ok(())
    }

    /// Whether the log has the snapshot's last op, and so all that it covers.
    fn holds(&self, snapshot: &SnapshotMeta) -> bool {
        self.log
            .view(snapshot.index)
            .is_some_and(|view| view.term() == snapshot.term)
    }

    fn committed_by_snapshot(&mut self, index: Index) {
        self.commit_up_to(index);
        if let Phase::ViewChange(change) = &mut self.phase
            && let Some(catch_up) = &mut change.catch_up
        {
            catch_up.skip_to(index);
        }
    }

    pub(crate) fn snapshot_fetched(&mut self, meta: &SnapshotMeta) {
        let Some((_, checksum)) = self.fetching.take_if(|(wanted, _)| wanted == meta) else {
            return;
        };
        if meta.index <= self.commit || matches!(self.phase, Phase::Primary(_)) {
            return;
        }
        if self.holds(meta) {
            self.committed_by_snapshot(meta.index);
        } else {
            self.install(meta, checksum);
        }
        // Nothing here can contradict a peer.
        let _ = self.catch_up();
    }

    fn install(&mut self, meta: &SnapshotMeta, checksum: Option<Checksum>) {
        self.log = crate::log::Log::new(meta.index, meta.term, checksum);
        self.durability.reset(meta.index, meta.term);
        self.membership = meta.membership.clone();
        self.snapshot = Some((meta.clone(), checksum));
        self.commit = meta.index;
        self.delivered = meta.index;
        self.effects
            .push_back(Effect::InstallSnapshot(meta.clone()));
        match &mut self.phase {
            Phase::ViewChange(change) => {
                if let Some(catch_up) = &mut change.catch_up {
                    catch_up.skip_to(meta.index);
                }
            }
            Phase::Backup(backup) => backup.ack_due = true,
            Phase::Primary(_) => {}
        }
    }
}
