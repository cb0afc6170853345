//! The reports of this node and, over the links between nodes, of all others.
//!
//! ```text
//! request: nothing          answer: 0u8 | NodeReport as JSON
//!                                   1u8 | code u32      (a node of version 0.1)
//! ```
//!
//! Nodes of version 0.1 refuse the kind of request and stay as they are.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ::partitions::PartitionStorage;
use bytes::Bytes;
use consensus::{ReplicaId, Role};
use replica::driver::ReplicaStatus;
use replicated_log::LogMetrics;
use replicated_log::links::RpcReply;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::disk_probe::DiskProbe;
use super::report::{OLDER, UNKNOWN, UNREACHABLE};
use super::{ClusterReport, NodeReport};
use crate::cluster::Metadata;
use crate::config::{ClusterConfig, NodeSection, join_host_port};
use crate::partitions::Refusing;

/// What does not return within this time counts as a replica that cannot serve.
const PROBE: Duration = Duration::from_secs(1);
/// A peer whose report does not arrive within this time counts as unreachable.
const PEER_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two checks whether the log commits.
const POLL: Duration = Duration::from_millis(20);
/// A longer report of a peer is not read.
const REPORT_BYTES_MAX: usize = 64 << 10;
const REPORTED: u8 = 0;
const NOT_CURRENT: &str = "this node has not caught up with the log for the fencing timeout: its links or its disk may hang";
const NO_RESERVE: &str = "the disk is full, or was just now; make room";

/// Reports the state of this node, and of the others as they report it.
pub(crate) struct Reporter {
    pub(crate) config: ClusterConfig,
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) storage: Arc<dyn PartitionStorage>,
    pub(crate) log: Arc<LogMetrics>,
    pub(crate) disk: DiskProbe,
    /// The incarnation of this process.
    pub(crate) incarnation: u64,
}

impl Reporter {
    /// Why this node cannot serve requests.
    pub(super) fn not_ready(&self, status: Option<&ReplicaStatus>) -> Option<String> {
        let registered = {
            let state = self.metadata.reader.read();
            let me = state.node(self.metadata.me);
            me.is_some_and(|node| node.live && node.info.incarnation == self.incarnation)
                && state.user_by_id(0).is_some()
        };
        not_ready(registered, self.metadata.is_current(), status)
    }

    /// What this node knows: its whole state, and the addresses of the others.
    pub(super) fn alone(&self, status: &ReplicaStatus) -> ClusterReport {
        let sections = self.config.cluster.nodes.iter();
        let nodes = sections.map(|section| match section.replica() == self.metadata.me {
            true => self.own(section, status),
            false => NodeReport {
                role: UNKNOWN.into(),
                ..self.known_of(section)
            },
        });
        ClusterReport {
            cluster: self.config.cluster.name.clone(),
            leader: status.core.leader.map(number),
            nodes: nodes.collect(),
            ..ClusterReport::default()
        }
    }

    /// The report of this node, which checks that it can serve, and of all others, which
    /// they send over the links between nodes.
    pub(super) async fn all(self: &Arc<Self>) -> ClusterReport {
        let mut reports = JoinSet::new();
        for (position, section) in self.config.cluster.nodes.iter().enumerate() {
            let (reporter, section) = (Arc::clone(self), section.clone());
            reports.spawn(async move {
                let report = match section.replica() == reporter.metadata.me {
                    true => reporter.checked(&section).await,
                    false => reporter.of_peer(&section).await,
                };
                (position, report)
            });
        }
        let mut nodes = reports.join_all().await;
        nodes.sort_by_key(|(position, _)| *position);
        let mut report = ClusterReport {
            cluster: self.config.cluster.name.clone(),
            leader: self.metadata.leadership().leader.map(number),
            nodes: nodes.into_iter().map(|(_, node)| node).collect(),
            ..ClusterReport::default()
        };
        let voters = self.config.membership().map_or_else(
            |_| Vec::new(),
            |membership| membership.voters().iter().copied().map(number).collect(),
        );
        report.summarize(&voters);
        report
    }

    /// Replies to another node with the report of this one.
    pub(crate) async fn answer(&self) -> RpcReply {
        let Some(section) = self.config.node_of(self.metadata.me) else {
            return RpcReply::new();
        };
        let report = self.checked(section).await;
        match serde_json::to_vec(&report) {
            Ok(json) => vec![Bytes::from_static(&[REPORTED]), json.into()],
            Err(error) => {
                warn!(%error, "this node's report cannot be written");
                RpcReply::new()
            }
        }
    }

    async fn of_peer(&self, section: &NodeSection) -> NodeReport {
        let peer = section.replica();
        let known = self.known_of(section);
        match self.metadata.request_report(peer, PEER_TIMEOUT).await {
            Ok(answer) => decode(&answer, known),
            Err(_) => unreachable(known, self.metadata.reader.read().node(peer).is_some()),
        }
    }

    /// What this node knows of any node without its report.
    fn known_of(&self, section: &NodeSection) -> NodeReport {
        let live = {
            let state = self.metadata.reader.read();
            state.node(section.replica()).is_some_and(|node| node.live)
        };
        NodeReport {
            replica_id: section.replica_id,
            name: section.name.clone(),
            backend: self.config.cluster.consensus.backend.name().into(),
            tcp: section.client_address(),
            admin: join_host_port(&section.ip, section.ports.admin),
            healthy: live,
            ..NodeReport::default()
        }
    }

    fn own(&self, section: &NodeSection, status: &ReplicaStatus) -> NodeReport {
        let core = &status.core;
        let detail = status.detail.iter();
        let detail = detail.map(|(key, value)| ((*key).to_owned(), value.clone()));
        let refusing = Refusing::of(&*self.storage).describe();
        let reserve = self.log.has_reserve();
        let refuse = refusing
            .as_ref()
            .map(|text| format!("partitions refuse: {text}"));
        let full = (!reserve).then(|| format!("no room is reserved for its log: {NO_RESERVE}"));
        let problems = self.not_ready(Some(status)).into_iter();
        let problems: Vec<_> = problems.chain(refuse).chain(full).collect();
        let mut report = NodeReport {
            pid: Some(std::process::id()),
            version: env!("CARGO_PKG_VERSION").into(),
            role: core.role.as_str().into(),
            term: core.term.0,
            commit: core.commit.0,
            applied: status.applied.0,
            refused_messages: status.counters.messages_refused.total(),
            healthy: problems.is_empty(),
            problems,
            refuses_leader: status.refuses_leader.as_ref().map(ToString::to_string),
            admin: join_host_port(self.admin_host(section), section.ports.admin),
            detail: detail.collect(),
            ..self.known_of(section)
        };
        // In the order of VR's primaries.
        let voters = core.membership.voters().iter();
        let voters: Vec<_> = voters.map(|id| number(*id).to_string()).collect();
        report.detail.insert("voters".into(), voters.join(","));
        let level = self.metadata.reader.read().feature_level();
        let level = ("feature_level".to_owned(), level.to_string());
        report.detail.extend([level]);
        let refusing = refusing.map(|text| ("partitions_refusing".to_owned(), text));
        report.detail.extend(refusing);
        if !reserve {
            let text = format!("missing: {NO_RESERVE}");
            report.detail.insert("log_reserve".into(), text);
        }
        report
    }

    /// Where the admin endpoint of this node is reached.
    fn admin_host<'a>(&'a self, section: &'a NodeSection) -> &'a str {
        let listens = &self.config.admin.ip;
        match listens.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() => &section.ip,
            _ => listens,
        }
    }

    /// The report of this node, after a read and, on a leader with work, a commit.
    async fn checked(&self, section: &NodeSection) -> NodeReport {
        let deadline = Instant::now() + PROBE;
        let disk = self.disk.start();
        let log = &self.metadata.log;
        let status = match timeout_at(deadline, log.status()).await {
            Ok(Some(status)) => status,
            Ok(None) => return self.silent(section, "its replica has stopped"),
            Err(_) => {
                return self.silent(
                    section,
                    "its replica does not respond: its disk or its processor may hang",
                );
            }
        };
        let mut report = self.own(section, &status);
        if status.core.leader.is_some() {
            let read = timeout_at(deadline, log.read()).await;
            if !matches!(read, Ok(Ok(_))) {
                report.problems.push(format!(
                    "a current read is not confirmed within {} s",
                    PROBE.as_secs()
                ));
            }
            if status.core.role == Role::Leader && !self.commits(&status, deadline).await {
                report.problems.push(format!(
                    "it leads and commits nothing for {} s, with {} batches in flight: check the disks of the voters",
                    PROBE.as_secs(),
                    status.batches_in_flight
                ));
            }
        }
        report.problems.extend(disk.problem(deadline).await);
        report.healthy = report.problems.is_empty();
        report
    }

    fn silent(&self, section: &NodeSection, problem: &str) -> NodeReport {
        NodeReport {
            role: UNKNOWN.into(),
            pid: Some(std::process::id()),
            version: env!("CARGO_PKG_VERSION").into(),
            healthy: false,
            problems: vec![problem.into()],
            ..self.known_of(section)
        }
    }

    /// Whether batches in flight are committed until the deadline, if there are any.
    async fn commits(&self, before: &ReplicaStatus, deadline: Instant) -> bool {
        if before.batches_in_flight == 0 {
            return true;
        }
        loop {
            match timeout_at(deadline, self.metadata.log.status()).await {
                Ok(Some(now)) if now.core.commit > before.core.commit => return true,
                Ok(Some(now)) if now.core.role != Role::Leader => return true,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return false,
            }
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Why a node cannot serve requests: it is ready when this incarnation is registered in the
/// state that it has applied, that state is `current`, and it knows a leader and follows it.
/// A node whose disk hangs knows a leader and applies nothing.
fn not_ready(registered: bool, current: bool, status: Option<&ReplicaStatus>) -> Option<String> {
    let Some(status) = status else {
        return Some("this node has stopped".into());
    };
    if let Some(refused) = &status.refuses_leader {
        return Some(format!("this node refuses its leader: {refused}"));
    }
    match (registered, status.core.leader) {
        (false, _) => Some("this node is not registered yet".into()),
        (_, None) => Some("no leader is known".into()),
        (true, Some(_)) if !current => Some(NOT_CURRENT.into()),
        (true, Some(_)) => None,
    }
}

/// A peer's answer. What it knows of itself is better than what others know.
fn decode(answer: &[u8], known: NodeReport) -> NodeReport {
    let report = match answer.split_first() {
        Some((&REPORTED, json)) if json.len() <= REPORT_BYTES_MAX => serde_json::from_slice(json),
        _ => {
            return NodeReport {
                role: OLDER.into(),
                ..known
            };
        }
    };
    match report {
        Ok(report) => NodeReport {
            replica_id: known.replica_id,
            name: known.name,
            ..report
        },
        // A later version may report in another way.
        Err(_) => NodeReport {
            role: UNKNOWN.into(),
            ..known
        },
    }
}

fn unreachable(known: NodeReport, has_run: bool) -> NodeReport {
    let problem = match has_run {
        true => "does not reply on the link between the nodes",
        false => {
            "does not reply on the link between the nodes, and was never registered: it may wait for its first start"
        }
    };
    NodeReport {
        role: UNREACHABLE.into(),
        healthy: false,
        problems: vec![problem.into()],
        ..known
    }
}

fn number(id: ReplicaId) -> u8 {
    u8::try_from(id.number()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ::partitions::{EmbeddedStorage, EmbeddedStorageConfig};
    use consensus::{Index, Membership, RefusalReason, RefusedMessage, Term};
    use replica::driver::Counters;

    use super::*;
    use crate::cluster::testing::{FakeLog, ME};
    use crate::config::{Backend, PortsSection};

    fn known() -> NodeReport {
        NodeReport {
            replica_id: 1,
            name: "node-1".into(),
            healthy: true,
            ..NodeReport::default()
        }
    }

    /// The answer of version 0.1 to a request that it does not know.
    #[test]
    fn a_node_of_version_0_1_is_shown_as_an_older_version() {
        let report = decode(&[1, 58, 0, 0, 0], known());
        assert_eq!(report.role, "unknown (older version)");
        assert!(report.healthy && report.problems.is_empty());
    }

    #[test]
    fn a_peer_cannot_report_for_another_node() {
        let foreign = NodeReport {
            replica_id: 0,
            name: "other".into(),
            role: "leader".into(),
            ..NodeReport::default()
        };
        let mut answer = vec![REPORTED];
        answer.extend(serde_json::to_vec(&foreign).unwrap());
        let report = decode(&answer, known());
        assert_eq!((report.replica_id, report.name.as_str()), (1, "node-1"));
        assert_eq!(decode(b"\x00{", known()).role, UNKNOWN);
    }

    fn reporter(metadata: Arc<Metadata>, data: &Path) -> Reporter {
        let ports = PortsSection::default();
        let storage = EmbeddedStorage::new(data, EmbeddedStorageConfig::default());
        Reporter {
            config: ClusterConfig::on_this_machine(Backend::Raft, [ports]),
            metadata,
            storage: Arc::new(storage.unwrap()),
            log: Arc::default(),
            disk: DiskProbe::new(data.join("probe")),
            incarnation: 1,
        }
    }

    /// Without those about the log's files, of which the fake has none.
    fn problems(report: &NodeReport) -> Vec<&String> {
        let problems = report.problems.iter();
        problems
            .filter(|text| !text.contains("no room is reserved"))
            .collect()
    }

    fn status(leader: Option<ReplicaId>, refuses_leader: Option<RefusedMessage>) -> ReplicaStatus {
        ReplicaStatus {
            core: consensus::Status {
                role: Role::Follower,
                term: Term(1),
                leader,
                commit: Index(7),
                first: Index(1),
                last: Index(7),
                membership: Membership::new(1, [ReplicaId(1), ReplicaId(2)], []).unwrap(),
                elections_started: 0,
                peers: Vec::new(),
            },
            applied: Index(7),
            snapshot: None,
            commands_waiting: 0,
            batches_in_flight: 0,
            reads_waiting: 0,
            log_bytes: 0,
            detail: Vec::new(),
            refuses_leader,
            counters: Counters::default(),
        }
    }

    /// Of a leader with this many batches in flight.
    fn leading(batches_in_flight: usize) -> ReplicaStatus {
        let mut status = status(Some(ME), None);
        status.core.role = Role::Leader;
        status.batches_in_flight = batches_in_flight;
        status
    }

    #[test]
    fn a_node_that_refuses_its_leader_is_not_ready_and_states_why() {
        let leader = Some(ReplicaId(2));
        let refused = RefusedMessage {
            from: ReplicaId(2),
            kind: "AppendEntries",
            reason: RefusalReason::Impossible("entry 7 differs from the committed one".into()),
        };
        let why = not_ready(true, true, Some(&status(leader, Some(refused)))).unwrap();
        assert!(why.contains("entry 7 differs"), "{why}");
        assert!(why.contains("AppendEntries of replica 1"), "{why}");
        assert_eq!(not_ready(true, true, Some(&status(leader, None))), None);
    }

    #[test]
    fn a_node_without_registration_or_leader_or_replica_is_not_ready() {
        let leader = Some(ReplicaId(2));
        for (registered, status) in [
            (false, Some(status(leader, None))),
            (true, Some(status(None, None))),
            (true, None),
        ] {
            assert!(not_ready(registered, true, status.as_ref()).is_some());
        }
        let follows = status(leader, None);
        let why = not_ready(true, false, Some(&follows)).unwrap();
        assert!(why.starts_with("this node has not caught up"), "{why}");
    }

    #[tokio::test]
    async fn a_node_that_cannot_serve_reports_why() {
        type Case<'a> = (&'a dyn Fn(&FakeLog), &'a str);
        let cases: [Case<'_>; 3] = [
            (&|_| {}, "its replica has stopped"),
            (
                &|log| {
                    log.set_status(leading(0));
                    log.stop_reads();
                },
                "a current read is not confirmed within 1 s",
            ),
            (
                &|log| log.set_status(leading(3)),
                "it leads and commits nothing",
            ),
        ];
        let data = tempfile::tempdir().unwrap();
        for (stop, expected) in cases {
            let (log, metadata) = FakeLog::start(PROBE);
            stop(&log);
            let reporter = reporter(metadata, data.path());
            let report = reporter.checked(&reporter.config.cluster.nodes[0]).await;
            let problems = problems(&report);
            assert_eq!(problems.len(), 1, "{report:?}");
            assert!(problems[0].starts_with(expected), "{report:?}");
            assert!(!report.healthy);
        }
        let (log, metadata) = FakeLog::start(PROBE);
        log.set_status(leading(0));
        let reporter = Arc::new(reporter(metadata, data.path()));
        let report = reporter.all().await;
        assert_eq!(report.leader, Some(0), "{report:?}");
        assert!(problems(&report.nodes[0]).is_empty(), "{report:?}");
    }
}
