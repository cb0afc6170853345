//! One copy of a partition: its state machine, its log, and who waits for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::partitions::replication::{
    Alarm, AppendPlan, Assignment, Effect, Envelope, Epoch, Event, Message, Outcome,
    PartitionReplica, Position,
};
use ::partitions::{Operation, PartitionKey, Record, StorageError, StoredPartition};
use consensus::{Index, ReplicaId};
use replicated_log::links::{Credit, LaneFrame};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tracing::{error, warn};
use twox_hash::XxHash3_64;

use super::disk::Queue;
use super::outbound::Wake;
use super::proposals::Proposed;
use super::recent::Recent;
use super::registry::CopyNode;

/// A copy is idle when nothing happens for so long; longer than a follower may lag.
const IDLE_AFTER: Duration = Duration::from_secs(10);
/// Bytes of records that are read together for the leader of a new epoch.
const SERVED_BYTES_MAX: usize = 1 << 20;

/// One copy of a partition on this node.
pub(crate) struct Copy {
    pub(crate) key: PartitionKey,
    pub(crate) stored: Arc<dyn StoredPartition>,
    pub(super) node: Arc<CopyNode>,
    /// Identifies it among the frames of a lane, with few others.
    stream: u64,
    runtime: Handle,
    state: Mutex<State>,
    /// When it handled anything but a tick last, in milliseconds of the node's time.
    active: AtomicU64,
    /// Notified when a request that was refused may be accepted.
    pub(super) changed: Notify,
}

pub(super) struct State {
    pub(super) replica: PartitionReplica,
    pub(super) waiting: HashMap<u64, oneshot::Sender<Outcome>>,
    pub(super) requests: u64,
    /// A request that was refused waits for a change.
    pub(super) refused: bool,
    pub(super) log: Queue,
    pub(super) table: Queue,
    recent: Recent,
    /// The peers for which the copy is in the queue of appends.
    queued: Vec<ReplicaId>,
    /// Reads from the disk for peers: what follows has to wait for them.
    reading: Vec<(ReplicaId, u64)>,
    reads: u64,
    led: bool,
    /// Its files are being removed, or the node stops.
    ended: bool,
}

impl Copy {
    pub(super) fn new(
        key: PartitionKey,
        stored: Arc<dyn StoredPartition>,
        node: Arc<CopyNode>,
        replica: PartitionReplica,
    ) -> Arc<Self> {
        let numbers = [key.stream_id, key.topic_id, key.partition_id];
        let bytes = numbers.map(u32::to_le_bytes).concat();
        let copy = Arc::new(Self {
            key,
            stored,
            node,
            stream: XxHash3_64::oneshot_with_seed(key.generation, &bytes),
            runtime: Handle::current(),
            state: Mutex::new(State {
                replica,
                waiting: HashMap::new(),
                requests: 0,
                refused: false,
                log: Queue::default(),
                table: Queue::default(),
                recent: Recent::default(),
                queued: Vec::new(),
                reading: Vec::new(),
                reads: 0,
                led: false,
                ended: false,
            }),
            active: AtomicU64::new(0),
            changed: Notify::new(),
        });
        copy.step(|_, _| None);
        copy
    }

    /// Follows the metadata.
    pub(super) fn assigned(self: &Arc<Self>, assignment: Assignment) {
        self.step(|_, state| {
            state.refused = true;
            Some(Event::Assigned(assignment))
        });
    }

    /// Handles a message of another copy. `credit` is held until its records are written.
    pub(super) fn received(
        self: &Arc<Self>,
        from: ReplicaId,
        registration: u64,
        message: Message,
        credit: Option<Credit>,
    ) {
        let event = Event::Message {
            from,
            registration,
            message,
        };
        self.step_with(credit, |_, _| Some(event));
    }

    pub(super) fn reconnected(self: &Arc<Self>, peer: ReplicaId) {
        self.step(|_, state| {
            state.reading.retain(|(reading, _)| *reading != peer);
            Some(Event::Reconnected { peer })
        });
    }

    pub(super) fn tick(self: &Arc<Self>) {
        self.step(|copy, state| {
            copy.retry_delayed(state);
            Some(Event::Tick)
        });
    }

    /// Whether nothing has happened for a while but that time has passed.
    pub(super) fn is_idle(&self, now: Duration) -> bool {
        let active = Duration::from_millis(self.active.load(Ordering::Relaxed));
        now.saturating_sub(active) > IDLE_AFTER
    }

    /// Requests that wait end with an unknown outcome, and nothing is done any more.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        state.waiting.clear();
        drop(state);
        self.changed.notify_waiters();
    }

    /// The next append to another copy, encoded. `None` when there is nothing to be sent, or
    /// when it is being read from the disk.
    pub(super) fn next_append(self: &Arc<Self>, to: ReplicaId) -> Option<LaneFrame> {
        let mut guard = self.state();
        let state = &mut *guard;
        if state.reading.iter().any(|(reading, _)| *reading == to) || state.ended {
            state.queued.retain(|queued| *queued != to);
            return None;
        }
        let Some(plan) = state.replica.next_append(to) else {
            state.queued.retain(|queued| *queued != to);
            return None;
        };
        let after = plan.predecessor.index;
        match state.recent.range(after, plan.through, plan.bytes_max) {
            Some(records) => Some(self.append_of(state, to, &plan, records)),
            None => {
                state.queued.retain(|queued| *queued != to);
                state.reads += 1;
                let read = state.reads;
                state.reading.push((to, read));
                drop(guard);
                let copy = Arc::clone(self);
                self.runtime
                    .spawn_blocking(move || copy.read_append(to, read, &plan));
                None
            }
        }
    }

    fn append_of(
        &self,
        state: &mut State,
        to: ReplicaId,
        plan: &AppendPlan,
        records: Vec<Record>,
    ) -> LaneFrame {
        let last = records.last().map_or(plan.predecessor, |it| it.position);
        let bytes = records.iter().map(Record::bytes).sum();
        state.replica.sent(to, plan, last.index, bytes);
        self.encode(Message::Append {
            epoch: plan.epoch,
            predecessor: plan.predecessor,
            records,
            beat: plan.beat,
        })
    }

    /// Reads the records of an append from the disk, and sends it.
    fn read_append(self: &Arc<Self>, to: ReplicaId, read: u64, plan: &AppendPlan) {
        let after = plan.predecessor.index;
        let records = self.stored.records(after, plan.through, plan.bytes_max);
        let mut wake = Wake::default();
        {
            let mut guard = self.state();
            let state = &mut *guard;
            let before = state.reading.len();
            state.reading.retain(|reading| *reading != (to, read));
            if state.reading.len() == before || state.ended {
                // The connection was replaced meanwhile.
                return;
            }
            match records {
                Ok(records) => {
                    let frame = self.append_of(state, to, plan, records);
                    self.node.outbound.queue_append(to, frame);
                    self.queue(state, to);
                }
                // The follower is stuck then, which the leader notices: it tries again.
                Err(StorageError::NotKept { .. }) => {}
                Err(error) => {
                    warn!(key = ?self.key, peer = %to, %error, "cannot read records for another copy");
                }
            }
            wake.appends(to);
        }
        self.node.outbound.wake(wake);
    }

    /// Reads records for the leader of a new epoch.
    fn serve(self: &Arc<Self>, to: ReplicaId, epoch: Epoch, after: Position) {
        let copy = Arc::clone(self);
        self.runtime.spawn_blocking(move || {
            let last = Index(u64::MAX);
            match copy.stored.records(after.index, last, SERVED_BYTES_MAX) {
                Ok(records) => {
                    let frame = copy.encode(Message::Fetched {
                        epoch,
                        predecessor: after,
                        records,
                    });
                    copy.node.outbound.queue_append(to, frame);
                    let mut wake = Wake::default();
                    wake.appends(to);
                    copy.node.outbound.wake(wake);
                }
                Err(error) => {
                    warn!(key = ?copy.key, peer = %to, %error, "cannot read records for a new leader");
                }
            }
        });
    }

    fn encode(&self, message: Message) -> LaneFrame {
        let envelope = Envelope {
            key: self.key,
            registration: self.node.incarnation,
            message,
        };
        LaneFrame {
            stream: self.stream,
            parts: envelope.encode(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the state machine handle an input, and carries out what it returns.
    pub(super) fn step(
        self: &Arc<Self>,
        event: impl FnOnce(&Arc<Self>, &mut State) -> Option<Event>,
    ) {
        self.step_with(None, event);
    }

    fn step_with(
        self: &Arc<Self>,
        credit: Option<Credit>,
        event: impl FnOnce(&Arc<Self>, &mut State) -> Option<Event>,
    ) {
        let mut wake = Wake::default();
        {
            let mut guard = self.state();
            let state = &mut *guard;
            if state.ended {
                return;
            }
            if let Some(event) = event(self, state) {
                let now = self.node.now();
                if !matches!(event, Event::Tick) {
                    let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
                    self.active.store(millis, Ordering::Relaxed);
                }
                state.replica.handle(now, event);
            }
            self.carry_out(state, credit, &mut wake);
        }
        self.node.outbound.wake(wake);
    }

    fn carry_out(self: &Arc<Self>, state: &mut State, mut credit: Option<Credit>, wake: &mut Wake) {
        while let Some(effect) = state.replica.poll() {
            match effect {
                Effect::Send { to, message } => {
                    self.node.outbound.queue_control(to, self.encode(message));
                    wake.control(to);
                }
                Effect::Ready { to } => {
                    self.queue(state, to);
                    wake.appends(to);
                }
                Effect::Serve { to, epoch, after } => self.serve(to, epoch, after),
                Effect::StartSegment { sessions } => {
                    self.submit(state, Operation::StartSegment { sessions }, None, None);
                }
                Effect::Write { ticket, records } => {
                    if state.replica.assignment().replicas.len() > 1 {
                        state.recent.add(&records);
                    }
                    let write = Operation::Write(records);
                    self.submit(state, write, Some(ticket), credit.take());
                }
                Effect::Truncate { ticket, end } => {
                    state.recent.clear();
                    self.submit(state, Operation::Truncate { end }, Some(ticket), None);
                }
                Effect::Reset {
                    ticket,
                    start,
                    sessions,
                } => {
                    state.recent.clear();
                    let reset = Operation::Reset { start, sessions };
                    self.submit(state, reset, Some(ticket), None);
                }
                Effect::WriteTable { ticket, write } => {
                    self.submit(state, Operation::Table(write), Some(ticket), None);
                }
                Effect::Trim { start } => self.trim(start),
                Effect::Sync { ticket } => {
                    self.submit(state, Operation::Sync, Some(ticket), None);
                }
                Effect::Adopt { ticket, epoch } => {
                    let copy = Arc::clone(self);
                    let done = move |result: Result<(), StorageError>| {
                        copy.step(|_, _| {
                            Some(match result {
                                Ok(()) => Event::Done { ticket },
                                Err(_) => Event::Failed { ticket },
                            })
                        });
                    };
                    self.node.files.adopt(self.key, epoch, Box::new(done));
                }
                Effect::Trusted => self.submit(state, Operation::Trust, None, None),
                Effect::Committed { through } => {
                    state.refused = true;
                    // Repeated with the next one if it fails.
                    let commit = Operation::Commit { through };
                    self.stored.submit(commit, Box::new(drop));
                }
                Effect::Reply { request, outcome } => {
                    if let Some(waiting) = state.waiting.remove(&request) {
                        // Its sender may be gone.
                        let _ = waiting.send(outcome);
                    }
                }
                // The other end is dropped when the node stops.
                Effect::Propose(proposal) => drop(self.node.proposals.send(Proposed {
                    key: self.key,
                    proposal,
                })),
                Effect::Alarm(alarm) => self.report(alarm),
            }
        }
        let leads = state.replica.leads();
        if std::mem::replace(&mut state.led, leads) != leads || state.refused {
            state.refused = false;
            self.changed.notify_waiters();
        }
    }

    fn queue(self: &Arc<Self>, state: &mut State, to: ReplicaId) {
        if !state.queued.contains(&to) {
            state.queued.push(to);
            self.node.outbound.queue_ready(to, Arc::clone(self));
        }
    }

    fn report(&self, alarm: Alarm) {
        match alarm {
            Alarm::CommittedRecordsConflict { after } => error!(
                key = ?self.key, ?after,
                "this copy of a partition contradicts its leader about committed messages and has stopped: keep its files for a diagnosis, and check the disks of the nodes with copies"
            ),
            Alarm::WentBack { node } => error!(
                key = ?self.key, replica_id = %node,
                "a copy of a partition has fewer messages than it has acknowledged: it is not counted until its node has started again; check the disk of that node"
            ),
            Alarm::WriteFailed => error!(
                key = ?self.key,
                "this copy of a partition cannot be written and has stopped: check the disk, and start the node again"
            ),
            Alarm::NotEnoughTrusted => error!(
                key = ?self.key,
                "too few copies of a partition have kept what they acknowledged: start the other nodes with copies, or accept the loss with `partitions recover --accept-loss`"
            ),
        }
    }
}

/// For how long a request waits until its copy accepts it, before its sender looks for the
/// leader again.
pub(super) const ACCEPT_TIMEOUT: Duration = Duration::from_secs(1);
