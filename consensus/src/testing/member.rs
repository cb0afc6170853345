//! A replica of a group and what it has applied.

use std::fmt::Debug;

use bytes::Bytes;

use super::Replica;
use crate::{Consensus, EntryKind, Index, ReplicaId, SnapshotMeta, Term};

/// A replica, its state machine (the list of all commands), and its answers.
#[derive(Debug)]
pub(super) struct Member<C> {
    pub(super) replica: Replica<C>,
    pub(super) fetch: Option<(ReplicaId, SnapshotMeta)>,
    pub(super) applied: Index,
    pub(super) applied_term: Term,
    pub(super) state: Vec<Bytes>,
    pub(super) reads_ready: Vec<(u64, Index)>,
    pub(super) reads_rejected: Vec<u64>,
    /// Every effect of this incarnation, to compare two runs.
    pub(super) trace: Vec<String>,
}

impl<C: Consensus> Member<C> {
    /// A replica that has applied nothing.
    pub(super) fn new(replica: Replica<C>) -> Self {
        Self {
            replica,
            fetch: None,
            applied: Index::ZERO,
            applied_term: Term(0),
            state: Vec::new(),
            reads_ready: Vec::new(),
            reads_rejected: Vec::new(),
            trace: Vec::new(),
        }
    }

    /// Loses what is not durable.
    pub(super) fn crash(&mut self) {
        self.replica.crash();
        self.fetch = None;
        self.applied = Index::ZERO;
        self.applied_term = Term(0);
        self.state.clear();
        self.reads_ready.clear();
        self.reads_rejected.clear();
        self.trace.clear();
    }

    /// Restores the state of a snapshot that is on the disk.
    pub(super) fn restore(&mut self, meta: &SnapshotMeta) {
        let (_, state) = &self.replica.disk.snapshots[&meta.index];
        self.state.clone_from(state);
        self.applied = meta.index;
        self.applied_term = meta.term;
    }

    /// Applies a committed entry.
    pub(super) fn apply(&mut self, entry: &crate::Entry) {
        let id = self.replica.id();
        assert_eq!(entry.index, self.applied.next(), "{id}: commits have a gap");
        assert!(
            entry.index <= self.replica.disk.last(),
            "{id}: {} is applied before it is durable here",
            entry.index
        );
        self.applied = entry.index;
        self.applied_term = entry.term;
        if entry.kind == EntryKind::Command {
            self.state.push(entry.payload.clone());
        }
    }
}
