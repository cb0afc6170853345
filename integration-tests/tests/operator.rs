//! What an operator sees: `status`, probes, signals, and errors of commands.

#![expect(
    clippy::unwrap_used,
    reason = "a panic shows which line of a test failed"
)]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use integration_tests::{Backend, Cluster, PATIENCE};
use local_cluster::get;

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
        assert!(
            text.contains(&format!("leader: replica_id {leader} ")),
            "{text}"
        );
        assert!(!text.contains("unreachable"), "{text}");
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
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
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
}

/// Waits for a condition; the test fails when it stays false.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A liveness probe would otherwise kill a node that waits for the others.
#[tokio::test]
async fn a_node_that_waits_for_its_first_start_is_alive_and_not_ready() {
    let mut cluster = Cluster::prepare(NODE, Backend::Raft, 3, |_| {}).unwrap();
    cluster.start(0).unwrap();
    let started = Instant::now();
    while get(&cluster.admin(0), "/livez").await.is_err() {
        assert!(started.elapsed() < PATIENCE, "{}", cluster.last_lines(0));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let error = get(&cluster.admin(0), "/readyz")
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("this node is starting"), "{error}");
    let shown = status(&cluster.admin(0));
    assert_eq!(shown.status.code(), Some(1));
    let error = String::from_utf8_lossy(&shown.stderr).into_owned();
    assert!(error.contains("this node is starting"), "{error}");
    // It stops when it is requested to, without the others.
    signal(cluster.pid(0).unwrap(), "-TERM");
    until("the node runs on", || !cluster.is_running(0));
    assert_eq!(cluster.exit_status(0).unwrap().code(), Some(0));
}

fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([name, &pid.to_string()]).status();
    assert!(sent.unwrap().success());
}

/// Whether the first signal, SIGHUP, is in the mask of those that a process ignores.
fn hangup_is_ignored(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1))
}

#[tokio::test]
async fn a_node_whose_terminal_is_closed_stops_as_on_sigterm() {
    let mut cluster = Cluster::start(NODE, Backend::Raft, 1).await.unwrap();
    let pid = cluster.pid(0).unwrap();
    signal(pid, "-HUP");
    // Under `nohup`, the node inherits that the signal is ignored, and keeps to it.
    if hangup_is_ignored(pid) {
        assert!(cluster.is_running(0));
        signal(pid, "-TERM");
    }
    until("the node runs on", || !cluster.is_running(0));
    let ended = cluster.exit_status(0).unwrap();
    assert_eq!((ended.code(), ended.signal()), (Some(0), None));
    assert!(cluster.last_lines(0).contains("stopping"));
}

/// A first port for `dev` with one node, whose ports are all free.
fn dev_port() -> u16 {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let candidates = local_cluster::free_ports(300).unwrap();
    let all_free = |port: &u16| free(*port) && free(port + 1_000) && free(port - 4_790);
    candidates.into_iter().find(all_free).unwrap()
}

/// `dev` with one node, its directory, and the process id of the node.
fn dev(temporary: &Path) -> (Child, PathBuf, u32) {
    let mut child = Command::new(NODE)
        .args(["dev", "--nodes", "1", "--tcp-port", &dev_port().to_string()])
        .env("TMPDIR", temporary)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let (mut directory, mut pid) = (None, None);
    let mut text = String::new();
    while !text.contains("Ctrl-C stops the cluster") {
        let mut line = String::new();
        assert!(out.read_line(&mut line).unwrap() > 0, "{text}");
        if let Some(path) = line.strip_prefix("data and logs: ") {
            directory = Some(PathBuf::from(path.trim()));
        }
        let mut cells = line.trim_matches(['│', ' ', '\n']).split_whitespace();
        if cells.next() == Some("0") {
            pid = cells.next().and_then(|pid| pid.parse().ok());
        }
        text.push_str(&line);
    }
    // What it writes afterwards must not fill the pipe.
    std::thread::spawn(move || out.read_to_end(&mut Vec::new()));
    (child, directory.unwrap(), pid.unwrap())
}

/// A process that no longer runs may remain as a zombie, where nothing reaps it.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    !state.is_empty() && !state.starts_with('Z')
}

#[test]
fn nodes_of_a_killed_dev_stop_and_the_next_dev_removes_their_directory() {
    let temporary = tempfile::tempdir().unwrap();
    let (mut killed, directory, node) = dev(temporary.path());
    assert!(runs(node) && directory.exists());
    killed.kill().unwrap();
    killed.wait().unwrap();
    until("the node of a killed dev runs on", || !runs(node));
    assert!(directory.exists());
    let (mut next, own, node) = dev(temporary.path());
    assert!(!directory.exists());
    signal(next.id(), "-TERM");
    assert!(next.wait().unwrap().success());
    assert!(!own.exists() && !runs(node));
}
