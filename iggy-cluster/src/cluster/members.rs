//! Registration and fencing of nodes.
//!
//! Each node registers itself, and does so again when it finds that it was fenced. The
//! leader creates the root user of a new cluster, fences nodes that are silent, and raises
//! the feature level when all nodes know a higher one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use adapters::metadata::{
    CopiesCommand, Intent, LogState, MetadataState, Name, NodeInfo, NodeStart, Reply, code,
};
use consensus::{ReplicaId, Term};
use replicated_log::links::Links;
use secrecy::ExposeSecret;
use tracing::{error, info, warn};

use super::failure::Failure;
use super::metadata::Metadata;
use crate::config::RootUser;
use crate::password::hash_password;

const ROUND: Duration = Duration::from_millis(100);
/// How often the leader looks for nodes that are silent.
const WATCH: Duration = Duration::from_millis(25);
/// For so long after an election, the silence of others may be that of the former leader.
const ELECTION_GRACE: Duration = Duration::from_millis(150);
/// Expired tokens that a command has left are due by this node's clock and not by the time
/// of the log, which follows: the next command waits this long.
const EXPIRY_PAUSE: Duration = Duration::from_secs(60);

/// What a node finds on its disk when it starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FoundStorage {
    /// Identifies the disk, above zero.
    pub(crate) storage_id: u128,
    /// What the messages on it may lack.
    pub(crate) log: ::partitions::LogState,
}

/// Looks after the registration of nodes.
pub(crate) struct Members {
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) info: NodeInfo,
    /// What the storage has at this start.
    pub(crate) storage: FoundStorage,
    pub(crate) root: RootUser,
    pub(crate) fencing_timeout: Duration,
    /// Other nodes lead the partitions of a node that is silent for this long.
    pub(crate) failover_timeout: Duration,
    pub(crate) links: Links,
    /// When this process has started.
    pub(crate) started: Instant,
}

impl Members {
    /// Lets other nodes lead the partitions of those that are silent, as the leader of the
    /// metadata. Their sessions last until they are fenced. Runs until the task is aborted.
    pub(crate) async fn replace_silent_leaders(self: Arc<Self>) {
        let mut leading_since: Option<(Term, Instant)> = None;
        let mut replaced: BTreeMap<ReplicaId, (Term, u64)> = BTreeMap::new();
        loop {
            tokio::time::sleep(WATCH).await;
            let leadership = self.metadata.leadership();
            if leadership.leader != Some(self.metadata.me) {
                leading_since = None;
                continue;
            }
            let since = match leading_since {
                Some((term, since)) if term == leadership.term => since,
                _ => Instant::now(),
            };
            leading_since = Some((leadership.term, since));
            if since.elapsed() < ELECTION_GRACE {
                continue;
            }
            for (node, registration) in self.silent_leaders() {
                let attempt = (leadership.term, registration);
                if replaced.insert(node, attempt) != Some(attempt) {
                    warn!(replica_id = %node, "other nodes lead the partitions of a node that is silent");
                }
                let replace = CopiesCommand::ReplaceLeader { node, registration };
                let _ = self.metadata.replicate(Intent::Copies(replace)).await;
            }
        }
    }

    /// The nodes that lead partitions and are silent, with their registrations.
    fn silent_leaders(&self) -> Vec<(ReplicaId, u64)> {
        let state = self.metadata.reader.read();
        if !state.leaders_change() {
            return Vec::new();
        }
        let others = state
            .nodes()
            .filter(|node| node.live && node.leads > 0 && node.info.node != self.metadata.me);
        let silent = others.filter(|node| {
            let silence = self.links.silence(node.info.node, self.started);
            silence >= self.failover_timeout
        });
        silent
            .map(|node| (node.info.node, node.registration))
            .collect()
    }

    /// Runs until the task is aborted.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut leading_since: Option<(Term, Instant)> = None;
        let mut tried = None;
        loop {
            let leadership = self.metadata.leadership();
            if leadership.leader == Some(self.metadata.me) {
                let since = match leading_since {
                    Some((term, since)) if term == leadership.term => since,
                    _ => Instant::now(),
                };
                leading_since = Some((leadership.term, since));
                self.bootstrap_root().await;
                self.fence_silent(since).await;
                raise_feature_level(&self.metadata).await;
                let now = Instant::now();
                expire_tokens(&self.metadata, &mut tried, now, wall_clock()).await;
            } else {
                leading_since = None;
            }
            self.register().await;
            tokio::time::sleep(ROUND).await;
        }
    }

    /// Registers this node unless its registration is up to date.
    async fn register(&self) {
        let due = {
            let state = self.metadata.reader.read();
            registration(&state, &self.info, self.storage)
        };
        let Some(intent) = due.filter(|_| self.metadata.leadership().leader.is_some()) else {
            return;
        };
        match self.metadata.replicate(intent).await {
            Ok((_, Reply::NodeRegistered { .. })) => info!(
                incarnation = self.info.incarnation,
                "this node is registered"
            ),
            Ok((_, Reply::Refused(code::FEATURE_UNAVAILABLE)))
            | Err(Failure::Refused(code::FEATURE_UNAVAILABLE)) => error!(
                version = self.info.version,
                "the cluster does not register this node: it uses features that this version does not know; upgrade this node"
            ),
            Ok((_, reply)) => {
                warn!(?reply, "this node could not register yet; it tries again");
            }
            Err(failure) => warn!(%failure, "this node could not register yet; it tries again"),
        }
        // The reply may be ahead of the local state.
        let _ = self.metadata.barrier().await;
    }

    async fn bootstrap_root(&self) {
        if self.metadata.reader.read().user_by_id(0).is_some() {
            return;
        }
        // Another leader may have done it: the log decides, not the local state.
        if self.metadata.barrier().await.is_err()
            || self.metadata.reader.read().user_by_id(0).is_some()
        {
            return;
        }
        let Ok(username) = Name::new(&self.root.username) else {
            error!(
                "no root user can be created: set IGGY_ROOT_USERNAME to 1 to 255 bytes and restart this node"
            );
            return;
        };
        let mut salt = [0; 16];
        if let Err(failure) = getrandom::fill(&mut salt) {
            error!(%failure, "no root user can be created yet: the operating system has no randomness");
            return;
        }
        let hashed = hash_password(self.root.password.expose_secret(), &salt);
        let Ok(password_hash) = hashed else {
            error!(
                "no root user can be created: IGGY_ROOT_PASSWORD cannot be hashed; set another one and restart this node"
            );
            return;
        };
        let intent = Intent::BootstrapRoot {
            username,
            password_hash,
        };
        if self.metadata.replicate(intent).await.is_ok() {
            info!(username = self.root.username, "created the root user");
        }
    }

    async fn fence_silent(&self, leading_since: Instant) {
        let silent: Vec<_> = {
            let state = self.metadata.reader.read();
            state
                .nodes()
                .filter(|node| node.live && node.info.node != self.metadata.me)
                .map(|node| (node.info.node, node.registration))
                .filter(|(node, _)| {
                    self.links.silence(*node, leading_since) >= self.fencing_timeout
                })
                .collect()
        };
        for (node, registration) in silent {
            warn!(replica_id = %node, "fencing a node that is silent");
            let intent = Intent::FenceNode { node, registration };
            let _ = self.metadata.replicate(intent).await;
        }
    }
}

/// What registers a node, unless its registration is up to date. Not before there are users: a
/// registered node answers logins.
fn registration(state: &MetadataState, info: &NodeInfo, storage: FoundStorage) -> Option<Intent> {
    let storage_id = storage.storage_id;
    state.user_by_id(0)?;
    let names_storage = state.leaders_change();
    let registered = state.node(info.node).is_some_and(|node| {
        let same_storage = !names_storage || node.storage_id == storage_id;
        node.live && node.info == *info && same_storage
    });
    let info = info.clone();
    let intent = match names_storage {
        true => Intent::Copies(CopiesCommand::StartNode(NodeStart {
            info,
            storage_id,
            log: match storage.log {
                ::partitions::LogState::Intact => LogState::Intact,
                ::partitions::LogState::TailLost => LogState::TailLost,
                ::partitions::LogState::Lost => LogState::Lost,
            },
        })),
        false => Intent::RegisterNode(info),
    };
    (!registered).then_some(intent)
}

/// The log decides: a node of a lower version may register meanwhile.
async fn raise_feature_level(metadata: &Metadata) {
    let next = metadata.reader.read().next_feature_level();
    let Some(level) = next else {
        return;
    };
    let raised = metadata.replicate(Intent::RaiseFeatureLevel(level)).await;
    if raised.is_ok() && metadata.reader.read().feature_level() == level {
        info!(
            feature_level = %level,
            "all nodes know this feature level: it is used from now on, and nodes of lower versions are refused"
        );
    }
}

/// Expired tokens are refused anyway; this only removes them. `tried` is the earliest expiry
/// of the last attempt, and when that was.
async fn expire_tokens(
    metadata: &Metadata,
    tried: &mut Option<(u64, Instant)>,
    now: Instant,
    wall_clock: Duration,
) {
    let next = metadata.reader.read().users().next_expiry();
    let Some(next) = next.filter(|at| Duration::from_micros(*at) <= wall_clock) else {
        return;
    };
    let recently = |(expiry, at): (u64, Instant)| {
        expiry == next && now.saturating_duration_since(at) < EXPIRY_PAUSE
    };
    if !tried.is_some_and(recently) {
        *tried = Some((next, now));
        let _ = metadata.replicate(Intent::ExpireTokens).await;
    }
}

fn wall_clock() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use adapters::metadata::{
        ClientOperation, ClientRequest, Command, FeatureLevel, UserOperation,
    };
    use consensus::ReplicaId;

    use super::*;
    use crate::cluster::testing::FakeLog;

    /// The time of the log stands still here: a clock that is years ahead must not fill the
    /// log with commands that remove nothing.
    #[tokio::test]
    async fn tokens_that_are_due_by_the_clock_alone_are_tried_once_a_minute() {
        let (log, metadata) = FakeLog::start(Duration::from_secs(5));
        let session = log.register(7);
        let create = UserOperation::CreateToken {
            name: Name::new("token").unwrap(),
            hash: [7; 32],
            expiry_micros: 1_000,
        };
        log.apply(&Command::Client(ClientRequest {
            client: 7,
            session,
            request: 1,
            checksum: 0,
            operation: ClientOperation::User(create),
        }));
        let start = Instant::now();
        let (mut tried, years_ahead) = (None, Duration::from_secs(1 << 30));
        let mut commands = Vec::new();
        for seconds in [0, 1, 59, 60] {
            let before = metadata.applied();
            let now = start + Duration::from_secs(seconds);
            expire_tokens(&metadata, &mut tried, now, years_ahead).await;
            commands.push(metadata.applied() - before);
        }
        assert_eq!(commands, [1, 0, 0, 1]);
    }

    /// A node names its storage once the level allows it, and keeps its registration then.
    #[tokio::test]
    async fn a_node_registers_until_it_is_registered_with_its_storage() {
        let (log, metadata) = FakeLog::start(Duration::from_secs(5));
        let info = FakeLog::node_info(metadata.me, env!("CARGO_PKG_VERSION"));
        let storage = FoundStorage {
            storage_id: 77,
            log: ::partitions::LogState::Intact,
        };
        let due = || registration(&metadata.reader.read(), &info, storage);
        let number = || {
            metadata
                .reader
                .read()
                .node(metadata.me)
                .unwrap()
                .registration
        };
        let first = due().unwrap();
        assert_eq!(first, Intent::RegisterNode(info.clone()));
        metadata.replicate(first).await.unwrap();
        assert_eq!(due(), None);
        let registered = number();
        raise_feature_level(&metadata).await;
        let named = due().unwrap();
        assert!(
            matches!(&named, Intent::Copies(CopiesCommand::StartNode(it)) if it.storage_id == 77)
        );
        metadata.replicate(named).await.unwrap();
        assert_eq!((due(), number()), (None, registered));
        log.apply(&Command::FenceNode {
            node: metadata.me,
            registration: registered,
        });
        metadata.replicate(due().unwrap()).await.unwrap();
        assert_eq!(due(), None);
        assert!(number() > registered);
    }

    #[tokio::test]
    async fn the_level_is_raised_when_all_nodes_know_it() {
        let (log, metadata) = FakeLog::start(Duration::from_secs(5));
        let me = metadata.me;
        let other = ReplicaId(me.0 + 1);
        log.register_node(other);
        let level = || metadata.reader.read().feature_level();
        for node in [me, other] {
            raise_feature_level(&metadata).await;
            assert_eq!(level(), FeatureLevel::V0_1);
            log.register_version(node, env!("CARGO_PKG_VERSION"));
        }
        raise_feature_level(&metadata).await;
        assert_eq!(level(), FeatureLevel::V0_2);
        let before = metadata.applied();
        raise_feature_level(&metadata).await;
        assert_eq!(metadata.applied(), before);

        let info = FakeLog::node_info(other, "0.1.0");
        let refused = metadata.replicate(Intent::RegisterNode(info)).await;
        let refused_with = Failure::Refused(code::FEATURE_UNAVAILABLE);
        assert_eq!(refused.unwrap_err(), refused_with);
        assert_eq!(metadata.applied(), before);
    }
}
