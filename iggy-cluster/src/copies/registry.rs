//! Which copies are open.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ::partitions::replication::{Assignment, PartitionReplica, Settings};
use ::partitions::{LogState, NodeStorage, PartitionKey, PartitionStorage, StorageError};
use adapters::metadata::{ErrorCode, MetadataState, code};
use consensus::ReplicaId;
use replicated_log::links::Lanes;
use tokio::sync::{Notify, OnceCell, RwLock, RwLockReadGuard, mpsc};

use super::copy::Copy;
use super::lock;
use super::outbound::Outbound;
use super::proposals::Proposed;
use crate::cluster::Metadata;
use crate::partitions::{Place, refusal};

/// What the copies of a node need beside its metadata and its storage.
pub(crate) struct CopiesSettings {
    /// The start of this process: messages are valid for one.
    pub(crate) incarnation: u64,
    /// What the files may have lost at this start.
    pub(crate) log: LogState,
    /// Files of the node beside those of its partitions.
    pub(crate) files: Arc<NodeStorage>,
    /// A leader without a quorum resigns after this time.
    pub(crate) failover_timeout: Duration,
}

/// The copies of partitions on this node.
pub(crate) struct Copies {
    pub(super) node: Arc<CopyNode>,
    slots: Mutex<HashMap<PartitionKey, Arc<OnceCell<Arc<Copy>>>>>,
    storage: Arc<dyn PartitionStorage>,
    log: LogState,
    /// Whether partitions are served by copies; see [`Self::enter`].
    used: AtomicBool,
    /// Notified when a partition has another leader, perhaps.
    pub(super) leaders: Notify,
    /// Held by requests of the former kind while they are served.
    former: RwLock<()>,
}

/// What all copies of a node share.
pub(super) struct CopyNode {
    pub(super) metadata: Arc<Metadata>,
    pub(super) incarnation: u64,
    pub(super) files: Arc<NodeStorage>,
    pub(super) outbound: Outbound,
    pub(super) proposals: mpsc::UnboundedSender<Proposed>,
    settings: Settings,
    started: Instant,
}

impl CopyNode {
    /// The time of the copies.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn me(&self) -> ReplicaId {
        self.metadata.me
    }
}

/// How a request for a partition is served.
pub(crate) enum Served<'a> {
    /// By the storage alone, until this is dropped: the cluster has nodes that know nothing
    /// else.
    Alone(#[expect(dead_code, reason = "held for its drop")] RwLockReadGuard<'a, ()>),
    /// By a copy.
    ByCopy,
}

impl Copies {
    pub(crate) fn new(
        metadata: Arc<Metadata>,
        storage: Arc<dyn PartitionStorage>,
        settings: CopiesSettings,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Proposed>) {
        let (proposals, proposed) = mpsc::unbounded_channel();
        let copies = Self {
            node: Arc::new(CopyNode {
                metadata,
                incarnation: settings.incarnation,
                files: settings.files,
                outbound: Outbound::default(),
                proposals,
                settings: Settings {
                    failover_timeout: settings.failover_timeout,
                    ..Settings::default()
                },
                started: Instant::now(),
            }),
            slots: Mutex::default(),
            storage,
            log: settings.log,
            used: AtomicBool::new(false),
            leaders: Notify::new(),
            former: RwLock::new(()),
        };
        (Arc::new(copies), proposed)
    }

    /// Through which lanes the copies send. Until then, what they have to send waits.
    pub(crate) fn connect(&self, lanes: Lanes) {
        self.node.outbound.connect(lanes);
    }

    /// How requests are served from now on. Requests of the former kind end before the first
    /// copy is opened, because they change a log that a copy has to itself.
    pub(crate) async fn enter(&self) -> Served<'_> {
        if !self.are_used() {
            let former = self.former.read().await;
            if !self.node.metadata.reader.read().leaders_change() {
                return Served::Alone(former);
            }
        }
        Served::ByCopy
    }

    /// Returns when a partition may have another leader, or after this time.
    pub(crate) async fn leaders_change_within(&self, pause: Duration) {
        let _ = tokio::time::timeout(pause, self.leaders.notified()).await;
    }

    fn are_used(&self) -> bool {
        self.used.load(Ordering::Acquire)
    }

    /// What the metadata states about a partition of which this node has a copy, once it
    /// contains the registration of this start.
    pub(super) fn assignment(
        &self,
        state: &MetadataState,
        key: &PartitionKey,
    ) -> Result<Assignment, ErrorCode> {
        let me = self.node.me();
        let assignment = state.assignment(key).ok_or(code::PARTITION_NOT_FOUND)?;
        let member = assignment.members.get(&me);
        let registered = member.is_some_and(|it| it.registration == self.node.incarnation);
        match registered && state.leaders_change() {
            true => Ok(assignment),
            false => Err(code::TRANSIENT_NOT_ACCEPTED),
        }
    }

    /// The copy of this node, opened if it is not.
    ///
    /// # Errors
    /// *Partition not found* when the local state has no such generation; *not accepted* when
    /// this node has no copy of it, or does not take part yet; or why it cannot be opened.
    pub(crate) async fn open(&self, key: PartitionKey) -> Result<Arc<Copy>, ErrorCode> {
        let slot = Arc::clone(lock(&self.slots).entry(key).or_default());
        if let Some(copy) = slot.get() {
            return Ok(Arc::clone(copy));
        }
        let opened = slot.get_or_try_init(|| self.open_anew(key)).await.cloned();
        match &opened {
            // What has changed while it was opened went to no copy.
            Ok(copy) => self.refresh(copy),
            Err(_) => {
                let mut slots = lock(&self.slots);
                // Only if no other caller is about to open it in this slot: there is one copy.
                let unused = |it: &Arc<OnceCell<_>>| {
                    Arc::ptr_eq(it, &slot) && !it.initialized() && Arc::strong_count(it) == 2
                };
                if slots.get(&key).is_some_and(unused) {
                    slots.remove(&key);
                }
            }
        }
        opened
    }

    async fn open_anew(&self, key: PartitionKey) -> Result<Arc<Copy>, ErrorCode> {
        let options = {
            let state = self.node.metadata.reader.read();
            self.assignment(&state, &key)?;
            let place = Place::of(&state, &key).ok_or(code::PARTITION_NOT_FOUND)?;
            place.options
        };
        let failed = |error: StorageError| refusal(&key, &error);
        if !self.are_used() {
            let _none_is_served = self.former.write().await;
            self.used.store(true, Ordering::Release);
        }
        // A request of the former kind may have opened it.
        self.storage.close(key).await.map_err(failed)?;
        let stored = self.storage.open(key, options).await.map_err(failed)?;
        // It reads what is not in memory.
        let recovering = Arc::clone(&stored);
        let log = tokio::task::spawn_blocking(move || recovering.recovered()).await;
        let log = log.unwrap_or(Err(StorageError::Closed)).map_err(failed)?;
        let adopted = self.node.files.adopted(&key);
        let recovered = log.for_copy(
            adopted,
            self.log,
            options.durability,
            options.offset_durability,
        );
        let settings = Settings {
            partition_id: key.partition_id,
            segment_bytes_max: options.segment_bytes_max,
            ..self.node.settings
        };
        // Not before the files are open: what has changed meanwhile is in it.
        let assignment = self.assignment(&self.node.metadata.reader.read(), &key)?;
        let replica = PartitionReplica::new(
            self.node.me(),
            settings,
            recovered,
            assignment,
            self.node.now(),
        );
        Ok(Copy::new(key, stored, Arc::clone(&self.node), replica))
    }

    /// Passes the assignment of now to a copy.
    pub(super) fn refresh(&self, copy: &Arc<Copy>) {
        let assignment = {
            let state = self.node.metadata.reader.read();
            self.assignment(&state, &copy.key)
        };
        if let Ok(assignment) = assignment {
            copy.assigned(assignment);
        }
    }

    /// The copy, if it is open.
    pub(crate) fn opened(&self, key: &PartitionKey) -> Option<Arc<Copy>> {
        let slots = lock(&self.slots);
        slots.get(key).and_then(|slot| slot.get().cloned())
    }

    /// The copies that are open.
    pub(super) fn all_opened(&self) -> Vec<Arc<Copy>> {
        let slots = lock(&self.slots);
        let opened = slots.values().filter_map(|slot| slot.get().cloned());
        opened.collect()
    }

    /// Ends the use of partitions whose files are about to be removed.
    pub(crate) fn forget(&self, keys: &[PartitionKey]) {
        for key in keys {
            let slot = lock(&self.slots).remove(key);
            if let Some(copy) = slot.as_ref().and_then(|slot| slot.get()) {
                copy.end();
            }
        }
    }

    /// Ends the use of all partitions: the node stops.
    pub(crate) fn end(&self) {
        let slots = std::mem::take(&mut *lock(&self.slots));
        for copy in slots.values().filter_map(|slot| slot.get()) {
            copy.end();
        }
    }

    /// Whether the files may lack something since the last start.
    pub(super) fn has_lost(&self) -> bool {
        self.log != LogState::Intact
    }
}
