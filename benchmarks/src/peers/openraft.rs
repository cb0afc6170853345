//! openraft in this process: its log and state in memory, its messages passed without
//! encoding.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Cursor;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::openraft::error::{InstallSnapshotError, RPCError, RaftError, RemoteError, Unreachable};
use ::openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use ::openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use ::openraft::storage::{LogFlushed, RaftLogStorage, RaftStateMachine};
use ::openraft::{
    BasicNode, Config, Entry, EntryPayload, LogId, LogState, Raft, RaftLogReader,
    RaftSnapshotBuilder, Snapshot, SnapshotMeta, SnapshotPolicy, StorageError, StoredMembership,
    Vote,
};
use anyhow::Context;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::Peer;
use crate::load::{Load, Measured};

const KEYS: u64 = 10_000;
const LOGS_IN_MEMORY: u64 = 100_000;
const ELECTED: Duration = Duration::from_secs(10);

/// A value for a key.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Put {
    key: u64,
    value: Arc<[u8]>,
}

::openraft::declare_raft_types!(
    Types:
        D = Put,
        R = u64,
        NodeId = u64,
        Node = BasicNode,
);

type Error = StorageError<u64>;
type RpcError<E = RaftError<u64>> = RPCError<u64, BasicNode, E>;
type Members = Arc<Mutex<BTreeMap<u64, Raft<Types>>>>;

pub(crate) struct Openraft {
    leader: Raft<Types>,
    members: Members,
    value: Arc<[u8]>,
}

impl Openraft {
    pub(crate) async fn start(replicas: u64, value_bytes: usize) -> anyhow::Result<Self> {
        let config = Config {
            heartbeat_interval: 50,
            election_timeout_min: 200,
            election_timeout_max: 400,
            max_payload_entries: 8_192,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(LOGS_IN_MEMORY),
            max_in_snapshot_log_to_keep: 10_000,
            ..Config::default()
        };
        let config = Arc::new(config.validate()?);
        let members = Members::default();
        let mut nodes = BTreeMap::new();
        for id in 1..=replicas {
            let network = Network(Arc::clone(&members));
            let (log, machine) = (Log::default(), Machine::default());
            let raft = Raft::new(id, Arc::clone(&config), network, log, machine).await?;
            lock(&members).insert(id, raft);
            nodes.insert(id, BasicNode::default());
        }
        let first = lock(&members).get(&1).cloned().context("no replicas")?;
        first.initialize(nodes).await?;
        let elected = first.wait(Some(ELECTED));
        let metrics = elected
            .metrics(|metrics| metrics.current_leader.is_some(), "a leader")
            .await?;
        let leader = metrics.current_leader.context("no leader")?;
        let leader = lock(&members).get(&leader).cloned().context("no leader")?;
        Ok(Self {
            leader,
            members,
            value: vec![b'v'; value_bytes].into(),
        })
    }
}

impl Drop for Openraft {
    fn drop(&mut self) {
        let members = std::mem::take(&mut *lock(&self.members));
        tokio::spawn(async move {
            for raft in members.into_values() {
                let _ = raft.shutdown().await;
            }
        });
    }
}

#[async_trait]
impl Peer for Openraft {
    fn name(&self) -> &'static str {
        "openraft"
    }

    async fn measure(&mut self, load: Load) -> anyhow::Result<Measured> {
        let (leader, value) = (self.leader.clone(), Arc::clone(&self.value));
        load.closed_with(move |number| {
            let (leader, value) = (leader.clone(), Arc::clone(&value));
            async move {
                let key = number as u64 % KEYS;
                leader.client_write(Put { key, value }).await?;
                Ok(())
            }
        })
        .await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<LogInner>>);

#[derive(Default)]
struct LogInner {
    entries: BTreeMap<u64, Entry<Types>>,
    purged: Option<LogId<u64>>,
    vote: Option<Vote<u64>>,
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry<Types>>, Error> {
        let log = lock(&self.0);
        Ok(log.entries.range(range).map(|(_, e)| e.clone()).collect())
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, Error> {
        let log = lock(&self.0);
        let last = log.entries.values().next_back().map(|entry| entry.log_id);
        Ok(LogState {
            last_purged_log_id: log.purged,
            last_log_id: last.or(log.purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), Error> {
        lock(&self.0).vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, Error> {
        Ok(lock(&self.0).vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), Error>
    where
        I: IntoIterator<Item = Entry<Types>> + Send,
        I::IntoIter: Send,
    {
        let entries = entries.into_iter().map(|entry| (entry.log_id.index, entry));
        lock(&self.0).entries.extend(entries);
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> Result<(), Error> {
        lock(&self.0).entries.split_off(&log_id.index);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId<u64>) -> Result<(), Error> {
        let mut log = lock(&self.0);
        log.purged = Some(log_id);
        log.entries = log.entries.split_off(&(log_id.index + 1));
        Ok(())
    }
}

#[derive(Clone, Default)]
struct Machine(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    values: BTreeMap<u64, Vec<u8>>,
    applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, BasicNode>,
    snapshot: Option<SnapshotMeta<u64, BasicNode>>,
}

impl State {
    fn snapshot(&self, meta: SnapshotMeta<u64, BasicNode>) -> Snapshot<Types> {
        let mut encoded = Vec::new();
        for (key, value) in &self.values {
            encoded.extend(key.to_le_bytes());
            encoded.extend((value.len() as u64).to_le_bytes());
            encoded.extend(value);
        }
        Snapshot {
            meta,
            snapshot: Box::new(Cursor::new(encoded)),
        }
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, Error> {
        let mut state = lock(&self.0);
        let meta = SnapshotMeta {
            last_log_id: state.applied,
            last_membership: state.membership.clone(),
            snapshot_id: format!("{:?}", state.applied),
        };
        state.snapshot = Some(meta.clone());
        Ok(state.snapshot(meta))
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>), Error> {
        let state = lock(&self.0);
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<u64>, Error>
    where
        I: IntoIterator<Item = Entry<Types>> + Send,
        I::IntoIter: Send,
    {
        let mut state = lock(&self.0);
        let mut replies = Vec::new();
        for entry in entries {
            state.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(put) => {
                    let value = state.values.entry(put.key).or_default();
                    value.clear();
                    value.extend_from_slice(&put.value);
                }
                EntryPayload::Membership(membership) => {
                    state.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
            }
            replies.push(entry.log_id.index);
        }
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, Error> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, BasicNode>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), Error> {
        let mut state = lock(&self.0);
        state.values = decode(snapshot.get_ref());
        state.applied = meta.last_log_id;
        state.membership = meta.last_membership.clone();
        state.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, Error> {
        let state = lock(&self.0);
        let meta = state.snapshot.clone();
        Ok(meta.map(|meta| state.snapshot(meta)))
    }
}

fn decode(mut rest: &[u8]) -> BTreeMap<u64, Vec<u8>> {
    std::iter::from_fn(|| {
        let key = number(&mut rest)?;
        let length = usize::try_from(number(&mut rest)?).ok()?;
        Some((key, rest.split_off(..length)?.to_vec()))
    })
    .collect()
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let (number, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(u64::from_le_bytes(*number))
}

struct Network(Members);

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _node: &BasicNode) -> Link {
        Link {
            members: Arc::clone(&self.0),
            target,
        }
    }
}

struct Link {
    members: Members,
    target: u64,
}

impl Link {
    fn peer(&self) -> Result<Raft<Types>, Unreachable> {
        let peer = lock(&self.members).get(&self.target).cloned();
        peer.ok_or_else(|| {
            let gone = std::io::Error::from(std::io::ErrorKind::NotConnected);
            Unreachable::new(&gone)
        })
    }

    fn failed<E: std::error::Error>(&self, error: E) -> RpcError<E> {
        RPCError::RemoteError(RemoteError::new(self.target, error))
    }
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RpcError> {
        let reply = self.peer()?.append_entries(request).await;
        reply.map_err(|error| self.failed(error))
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<Types>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, RpcError<RaftError<u64, InstallSnapshotError>>> {
        let reply = self.peer()?.install_snapshot(request).await;
        reply.map_err(|error| self.failed(error))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        _option: RPCOption,
    ) -> Result<VoteResponse<u64>, RpcError> {
        let reply = self.peer()?.vote(request).await;
        reply.map_err(|error| self.failed(error))
    }
}
