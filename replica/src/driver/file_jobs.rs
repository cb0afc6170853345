//! Work on snapshot files, and its results.

use bytes::Bytes;
use consensus::{FrozenState, Index, ReplicaId, SnapshotMeta};

/// Work on snapshot files. Jobs are carried out in order, concurrently with the replica.
pub enum FileJob {
    /// Encode and store a snapshot; [`FileEvent::Saved`].
    Save {
        /// The index, term and membership of the snapshot.
        meta: SnapshotMeta,
        /// The state.
        state: Box<dyn FrozenState>,
    },
    /// Read a piece of a stored snapshot for a peer; [`FileEvent::Chunk`] or
    /// [`FileEvent::NoChunk`].
    Read {
        /// The peer.
        to: ReplicaId,
        /// The index of the snapshot.
        index: Index,
        /// The first byte of the piece.
        offset: u64,
    },
    /// Find out how much of this snapshot has been received; [`FileEvent::Received`].
    Resume(SnapshotMeta),
    /// Store a piece; [`FileEvent::Received`] or [`FileEvent::ReceiveFailed`].
    Receive {
        /// The snapshot.
        meta: SnapshotMeta,
        /// The first byte of the piece.
        offset: u64,
        /// Length of the whole snapshot in bytes.
        total: u64,
        /// The piece.
        bytes: Bytes,
    },
}

/// The result of a [`FileJob`].
pub enum FileEvent {
    /// The snapshot is durable, with the size of its state in bytes, or why it is not.
    Saved(Result<(SnapshotMeta, u64), String>),
    /// A piece for a peer.
    Chunk {
        /// The peer.
        to: ReplicaId,
        /// The index of the snapshot.
        index: Index,
        /// The first byte of the piece.
        offset: u64,
        /// Length of the whole snapshot in bytes.
        total: u64,
        /// The piece.
        bytes: Bytes,
    },
    /// This replica no longer has the snapshot, or cannot read it.
    NoChunk {
        /// The peer that requested it.
        to: ReplicaId,
        /// The index of the snapshot.
        index: Index,
    },
    /// A part of the snapshot, or all of it, is durable here.
    Received {
        /// The snapshot.
        meta: SnapshotMeta,
        /// The first byte that is missing.
        next: u64,
        /// The verified state, when nothing is missing and all is durable.
        state: Option<Bytes>,
    },
    /// What arrived is not part of the snapshot, or could not be stored; what had been
    /// received of it is removed.
    ReceiveFailed {
        /// The snapshot.
        meta: SnapshotMeta,
        /// The reason.
        why: String,
    },
}
