//! What an operator sees: `status`, probes, signals, and errors of commands.

#![expect(
    clippy::unwrap_used,
    reason = "a panic shows which line of a test failed"
)]

use std::process::{Command, Output};

use integration_tests::{Backend, Cluster};

const NODE: &str = env!("CARGO_BIN_EXE_node");

fn status(address: &str) -> Output {
    let mut command = Command::new(NODE);
    command.args(["status", "--address", address]);
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Each node has an address of its own, and its admin endpoint listens on loopback only, as
/// by default.
#[tokio::test]
async fn status_of_all_nodes_needs_the_admin_endpoint_of_one() {
    let mut cluster = Cluster::start_with(NODE, Backend::Raft, 3, |config| {
        for (node, section) in (1..).zip(&mut config.cluster.nodes) {
            section.ip = format!("127.0.0.{node}");
        }
    })
    .await
    .unwrap();
    let leader = cluster.leader().await.unwrap();
    for node in 0..3 {
        let shown = status(&cluster.admin(node));
        let text = stdout(&shown);
        assert!(shown.status.success(), "{text}");
        assert!(text.contains(&format!("leader: replica_id {leader} ")), "{text}");
        assert!(!text.contains("unreachable"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
    // One node down: the cluster serves, without its partitions. Two: it serves nothing.
    let last = (leader + 1) % 3;
    cluster.kill((leader + 2) % 3).unwrap();
    let shown = status(&cluster.admin(last));
    assert_eq!(shown.status.code(), Some(1));
    assert!(stdout(&shown).contains("does not reply"), "{shown:?}");
    cluster.kill(leader).unwrap();
    let shown = status(&cluster.admin(last));
    assert_eq!(shown.status.code(), Some(1));
    let text = stdout(&shown);
    assert!(text.contains("no quorum: 1 of 3 voters reply"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}
