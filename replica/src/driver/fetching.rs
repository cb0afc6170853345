//! Fetching a snapshot from a peer, piece by piece.

use std::collections::BTreeMap;

use bytes::Bytes;
use consensus::{Index, Input, ReplicaId, SnapshotMeta, Tick, rule};

use super::events::{Channel, Output, Outputs};
use super::file_jobs::FileJob;
use super::peer_message::PeerMessage;

/// A request that is not answered for so long is repeated.
const RETRY_TICKS: u64 = 50;
/// A fetch without progress after so many requests has failed.
const ATTEMPTS_MAX: u32 = 10;

/// The fetch in progress, and the snapshots that it has fetched.
///
/// Methods that return an [`Input`] report it to the core.
#[derive(Default)]
pub(super) struct Fetching {
    fetch: Option<Fetch>,
    /// Fetched and not installed: the newest, and one that the core may be about
    /// to install.
    fetched: BTreeMap<Index, (SnapshotMeta, Bytes)>,
}

/// One fetch.
struct Fetch {
    from: ReplicaId,
    meta: SnapshotMeta,
    /// The first byte that is missing, once known.
    next: Option<u64>,
    /// A piece is being stored.
    storing: bool,
    requested_at: Tick,
    attempts: u32,
}

/// What a fetch needs when time passes.
enum Due {
    Nothing,
    Request { offset: u64 },
    GiveUp,
}

/// A piece of a snapshot from a peer.
pub(super) struct Chunk {
    pub(super) from: ReplicaId,
    pub(super) index: Index,
    /// The first byte of the piece.
    pub(super) offset: u64,
    /// Length of the whole snapshot in bytes.
    pub(super) total: u64,
    pub(super) bytes: Bytes,
}

impl Fetching {
    /// Fetches a snapshot instead of the one before.
    pub(super) fn start(
        &mut self,
        from: ReplicaId,
        meta: SnapshotMeta,
        now: Tick,
        outputs: &mut Outputs,
    ) {
        self.fetch = Some(Fetch::new(from, meta.clone(), now));
        outputs.push_back(Output::File(FileJob::Resume(meta)));
    }

    /// Time passed: repeats a request without an answer, or gives up.
    pub(super) fn tick(&mut self, now: Tick, outputs: &mut Outputs) -> Option<Input> {
        let fetch = self.fetch.as_mut()?;
        match fetch.due(now) {
            Due::Nothing => None,
            Due::Request { offset } => {
                outputs.push_back(request(fetch.from, fetch.meta.index, offset));
                None
            }
            Due::GiveUp => self.fail(),
        }
    }

    /// Stores a piece, when it is the one that is missing.
    pub(super) fn chunk(&mut self, chunk: Chunk, outputs: &mut Outputs) {
        // An empty piece would make no progress, forever.
        if let Some(fetch) = &mut self.fetch
            && fetch.expects(&chunk)
            && !chunk.bytes.is_empty()
        {
            fetch.storing = true;
            outputs.push_back(Output::File(FileJob::Receive {
                meta: fetch.meta.clone(),
                offset: chunk.offset,
                total: chunk.total,
                bytes: chunk.bytes,
            }));
        }
    }

    /// The peer no longer has the snapshot.
    pub(super) fn gone(&mut self, from: ReplicaId, index: Index) -> Option<Input> {
        let fetch = self.fetch.as_ref()?;
        (fetch.from == from && fetch.meta.index == index)
            .then(|| self.fail())
            .flatten()
    }

    /// Everything before `next` is stored; `state` when that is all of it.
    pub(super) fn received(
        &mut self,
        meta: SnapshotMeta,
        next: u64,
        state: Option<Bytes>,
        now: Tick,
        outputs: &mut Outputs,
    ) -> Option<Input> {
        let fetch = self.fetch.as_mut().filter(|fetch| fetch.meta == meta)?;
        if let Some(state) = state {
            self.fetch = None;
            self.fetched.insert(meta.index, (meta.clone(), state));
            return Some(Input::SnapshotFetched(meta));
        }
        fetch.advanced(next, now);
        outputs.push_back(request(fetch.from, meta.index, next));
        None
    }

    pub(super) fn receive_failed(&mut self, meta: &SnapshotMeta) -> Option<Input> {
        let fetch = self.fetch.as_ref()?;
        (fetch.meta == *meta).then(|| self.fail()).flatten()
    }

    fn fail(&mut self) -> Option<Input> {
        let fetch = self.fetch.take()?;
        Some(Input::SnapshotFetchFailed(fetch.meta))
    }

    /// The state of a fetched snapshot, which the core installs.
    pub(super) fn take(&mut self, meta: &SnapshotMeta) -> Bytes {
        let (fetched, state) = self
            .fetched
            .remove(&meta.index)
            .expect("a core installs only what was reported as fetched");
        assert_eq!(fetched, *meta, "another snapshot was fetched");
        state
    }

    /// Drops fetched snapshots that will not be installed.
    pub(super) fn prune(&mut self, applied: Index) {
        self.fetched.retain(|index, _| *index > applied);
        while self.fetched.len() > 1 {
            self.fetched.pop_first();
        }
    }
}

fn request(from: ReplicaId, index: Index, offset: u64) -> Output {
    Output::Send {
        to: from,
        channel: Channel::Bulk,
        message: PeerMessage::Request { index, offset }.encode(),
    }
}

impl Fetch {
    fn new(from: ReplicaId, meta: SnapshotMeta, now: Tick) -> Self {
        Self {
            from,
            meta,
            next: None,
            storing: false,
            requested_at: now,
            attempts: 0,
        }
    }

    /// Everything before `next` is stored: progress was made.
    fn advanced(&mut self, next: u64, now: Tick) {
        self.next = Some(next);
        self.storing = false;
        self.attempts = 0;
        self.requested_at = now;
    }

    /// Whether the piece is the one that is missing.
    fn expects(&self, chunk: &Chunk) -> bool {
        !self.storing
            && self.from == chunk.from
            && self.meta.index == chunk.index
            && self.next == Some(chunk.offset)
    }

    fn due(&mut self, now: Tick) -> Due {
        let Some(offset) = self.next else {
            return Due::Nothing;
        };
        if self.storing || now.0 < self.requested_at.0 + RETRY_TICKS {
            return Due::Nothing;
        }
        self.attempts += 1;
        self.requested_at = now;
        if self.attempts > ATTEMPTS_MAX && rule!(FetchGivesUp) {
            return Due::GiveUp;
        }
        Due::Request { offset }
    }
}
