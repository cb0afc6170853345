//! A node's status as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The role of a node that does not reply.
pub(super) const UNREACHABLE: &str = "unreachable";
/// The role of a node that runs a version which cannot report to other nodes.
pub(super) const OLDER: &str = "unknown (older version)";
/// The role of another node in a report of one node alone.
pub(super) const UNKNOWN: &str = "unknown";

/// The state of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its `replica_id` in the configuration.
    pub replica_id: u8,
    /// Its name in the configuration.
    pub name: String,
    /// Its process id, in its own report.
    pub pid: Option<u32>,
    /// The version of its program, in its own report.
    #[serde(default)]
    pub version: String,
    /// leader, follower, candidate, learner, unreachable, `unknown (older version)`, or
    /// unknown where only one node reports.
    pub role: String,
    /// Its term (Raft) or view (VR).
    pub term: u64,
    /// The index of the last entry that it knows to be committed.
    pub commit: u64,
    /// The index of the last entry applied to its state.
    pub applied: u64,
    /// Entries that it lags behind the most advanced node; zero in a node's own report.
    #[serde(default)]
    pub lag: u64,
    /// Consensus messages of peers that it has refused since its start.
    #[serde(default)]
    pub refused_messages: u64,
    /// The consensus backend.
    pub backend: String,
    /// Where clients reach it.
    pub tcp: String,
    /// Its admin endpoint.
    pub admin: String,
    /// Whether it replies and has no problem; of a node that does not report itself, whether
    /// it is registered.
    pub healthy: bool,
    /// Why it cannot serve, or not everything.
    #[serde(default)]
    pub problems: Vec<String>,
    /// What it refuses of its leader, when it does: then it does not follow the log.
    #[serde(default)]
    pub refuses_leader: Option<String>,
    /// State that not every node has: of its backend, `partitions_refusing`, and
    /// `log_reserve` when it is missing.
    #[serde(default)]
    pub detail: BTreeMap<String, String>,
}

/// The state of the cluster, as one node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterReport {
    /// The cluster's name.
    pub cluster: String,
    /// The leader's `replica_id`, when known.
    pub leader: Option<u8>,
    /// Why the cluster, or one of its nodes, cannot serve. Empty in a report of one node
    /// alone.
    #[serde(default)]
    pub problems: Vec<String>,
    /// What does not keep the cluster from serving, and should be looked into.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The nodes, in the order of the configuration.
    pub nodes: Vec<NodeReport>,
}

impl NodeReport {
    /// Whether its own report is known.
    #[must_use]
    pub fn replied(&self) -> bool {
        ![UNREACHABLE, OLDER, UNKNOWN].contains(&self.role.as_str())
    }

    pub(super) fn title(&self) -> String {
        format!("{} (replica_id {})", self.name, self.replica_id)
    }
}

impl ClusterReport {
    /// Leader, lag, problems and warnings from the reports of the nodes, of which `voters`
    /// vote.
    pub(super) fn summarize(&mut self, voters: &[u8]) {
        // Of several nodes that report themselves leader, the one with the highest term is it.
        let leaders = self.nodes.iter().filter(|node| node.role == "leader");
        if let Some(leader) = leaders.max_by_key(|node| node.term) {
            self.leader = Some(leader.replica_id);
        }
        let commits = self.nodes.iter().map(|node| node.commit);
        let commit = commits.max().unwrap_or(0);
        for node in self.nodes.iter_mut().filter(|node| node.replied()) {
            node.lag = commit.saturating_sub(node.applied);
        }
        let votes = |node: &&NodeReport| voters.contains(&node.replica_id);
        let voting = self.nodes.iter().filter(votes);
        let up = voting.filter(|node| node.role != UNREACHABLE).count();
        let quorum = voters.len() / 2 + 1;
        if up < quorum {
            self.problems.push(format!(
                "no quorum: {up} of {} voters reply, and {quorum} are needed; there are no changes, logins and current reads until more of them run",
                voters.len()
            ));
        } else if self.leader.is_none() {
            self.problems
                .push("no leader: there are no changes, logins and current reads".into());
        }
        for node in &self.nodes {
            let title = node.title();
            for problem in &node.problems {
                self.problems.push(format!("{title}: {problem}"));
            }
            if node.refused_messages > 0 {
                self.warnings.push(format!(
                    "{title} has refused {} messages of peers since its start; its log has the reasons",
                    node.refused_messages
                ));
            }
        }
    }
}

impl ClusterReport {
    /// The report of a node of version 0.1, which knows only itself, with what it lacks.
    /// Reports of later versions stay as they are.
    #[cfg(feature = "cli")]
    pub(super) fn completed(mut self) -> Self {
        if self.nodes.iter().any(|node| !node.version.is_empty()) {
            return self;
        }
        let unhealthy = self.nodes.iter().filter(|node| !node.healthy);
        let problems = unhealthy.map(|node| format!("{}: not healthy", node.title()));
        self.problems = problems.collect();
        self.warnings
            .push("the node that was named runs an older version, which reports only itself; name one of this version with --address".into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(nodes: &[(&str, &[&str])]) -> ClusterReport {
        let node = |(replica_id, (role, problems)): (u8, &(&str, &[&str]))| NodeReport {
            replica_id,
            name: format!("node-{replica_id}"),
            role: (*role).into(),
            commit: 10 * u64::from(replica_id),
            applied: 10 * u64::from(replica_id),
            problems: problems.iter().map(|text| (*text).to_owned()).collect(),
            ..NodeReport::default()
        };
        let mut report = ClusterReport {
            nodes: (0..).zip(nodes).map(node).collect(),
            ..ClusterReport::default()
        };
        report.summarize(&[0, 1, 2]);
        report
    }

    #[test]
    fn a_cluster_that_cannot_serve_has_problems() {
        let lost: &[&str] = &["does not reply"];
        for (nodes, expected) in [
            (
                [("leader", &[][..]), ("follower", &[]), ("follower", &[])],
                &[][..],
            ),
            // One node is down: the cluster serves, without its partitions.
            (
                [("leader", &[]), ("follower", &[]), (UNREACHABLE, lost)],
                &["node-2 (replica_id 2): does not reply"],
            ),
            (
                [("follower", &[]), (UNREACHABLE, lost), (UNREACHABLE, lost)],
                &["no quorum: 1 of 3 voters reply, and 2 are needed"],
            ),
            (
                [("candidate", &[]), ("follower", &[]), ("follower", &[])],
                &["no leader"],
            ),
            // What an older version does not report is not a problem.
            ([("leader", &[]), (OLDER, &[]), (OLDER, &[])], &[]),
        ] {
            let report = cluster(&nodes);
            assert_eq!(report.problems.is_empty(), expected.is_empty());
            for text in expected {
                let found = report
                    .problems
                    .iter()
                    .any(|problem| problem.starts_with(text));
                assert!(found, "{text:?} is not in {:?}", report.problems);
            }
        }
    }

    #[test]
    fn lag_is_of_nodes_that_reply() {
        let report = cluster(&[("leader", &[]), (UNREACHABLE, &[]), ("follower", &[])]);
        let lags: Vec<_> = report.nodes.iter().map(|node| node.lag).collect();
        assert_eq!(lags, [20, 0, 0]);
        assert_eq!(report.leader, Some(0));
    }

    /// Nodes of version 0.1 send no more than this.
    #[test]
    fn a_report_of_version_0_1_can_be_read() {
        let text = r#"{"cluster":"c","leader":1,"nodes":[{"replica_id":1,"name":"n","pid":7,
            "role":"leader","term":3,"commit":9,"applied":9,"backend":"raft","tcp":"h:1",
            "admin":"h:2","healthy":true}]}"#;
        let report: ClusterReport = serde_json::from_str(text).unwrap();
        assert_eq!((report.leader, report.nodes[0].commit), (Some(1), 9));
        assert!(report.nodes[0].healthy);
        #[cfg(feature = "cli")]
        {
            let report = report.completed();
            assert_eq!((report.problems.len(), report.warnings.len()), (0, 1));
        }
    }
}
