//! The benchmarks run and write a report.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One at a time: each uses all cores.
static TURN: Mutex<()> = Mutex::new(());

fn bench(out: &Path, arguments: &[&str]) -> serde_json::Value {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let done = Command::new(env!("CARGO_BIN_EXE_node"))
        .args(["bench", arguments[0], "--quick", "--out"])
        .arg(out)
        .args(&arguments[1..])
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{text}");
    let page = std::fs::read_to_string(out.join("report.html")).expect("a report");
    assert!(page.contains("<svg") && page.ends_with("</html>\n"));
    let results = std::fs::read(out.join("results.json")).expect("results");
    serde_json::from_slice(&results).expect("JSON")
}

#[test]
fn both_backends_are_measured_on_the_same_work() {
    let dir = tempfile::tempdir().expect("a directory");
    let few = ["--seconds", "0.1", "--in-flight", "64", "--batch", "8"];
    let results = bench(dir.path(), &[&["throughput"], &few[..]].concat());
    let points = results["throughput"].as_array().expect("points");
    let measured: Vec<_> = points
        .iter()
        .map(|point| (point["durability"].as_str(), point["system"].as_str()))
        .collect();
    let expected = [
        (Some("fsync"), Some("raft")),
        (Some("fsync"), Some("vr")),
        (Some("none"), Some("raft")),
        (Some("none"), Some("vr")),
    ];
    assert_eq!(measured, expected);
    for point in points {
        let run = &point["runs"][0];
        assert!(run["per_second"].as_f64() > Some(0.0), "{point}");
        let syncs = run["cost"]["syncs"].as_f64();
        assert_eq!(syncs > Some(0.0), point["durability"] == "fsync", "{point}");
    }
    // A report can be rendered again from the results.
    let again = Command::new(env!("CARGO_BIN_EXE_node"))
        .args(["bench", "report"])
        .arg(dir.path().join("results.json"))
        .output()
        .expect("it starts");
    assert!(String::from_utf8_lossy(&again.stdout).contains("VR / Raft"));
}

#[test]
fn a_killed_leader_is_followed_by_another() {
    let dir = tempfile::tempdir().expect("a directory");
    let results = bench(dir.path(), &["failover", "--trials", "1"]);
    for failover in results["failover"].as_array().expect("both") {
        assert_eq!(failover["gaps_micros"].as_array().map(Vec::len), Some(1));
        let winners = failover["winners"].as_array().expect("counts");
        let all: u64 = winners.iter().filter_map(serde_json::Value::as_u64).sum();
        assert_eq!(all, 1, "{failover}");
    }
}

/// The processes that the threads of a process have started and that still run.
fn children(of: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{of}/task"));
    let threads = threads.into_iter().flatten().flatten();
    let texts = threads.map(|thread| std::fs::read_to_string(thread.path().join("children")));
    let texts: Vec<_> = texts.map(Result::unwrap_or_default).collect();
    let ids = texts.iter().flat_map(|text| text.split_whitespace());
    ids.filter_map(|id| id.parse().ok()).collect()
}

fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_benchmark_that_is_killed_leaves_no_replicas() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().expect("a directory");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_node"))
        .args(["bench", "throughput", "--seconds", "600", "--out"])
        .arg(dir.path())
        .env("TMPDIR", dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let replicas = until("no replicas start", || {
        let found = children(bench.id());
        (found.len() == 3).then_some(found)
    });
    bench.kill().expect("it runs");
    bench.wait().expect("it has ended");
    until("replicas are left", || {
        let runs =
            |id: &u32| std::fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|it| !it.is_empty());
        (!replicas.iter().any(runs)).then_some(())
    });
}

#[test]
fn a_file_that_is_no_result_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("results.json");
    std::fs::write(&file, "{}").expect("it is written");
    for arguments in [["bench", "report"], ["advise", "--results"]] {
        let refused = Command::new(env!("CARGO_BIN_EXE_node"))
            .args(arguments)
            .arg(&file)
            .output()
            .expect("it starts");
        assert!(!refused.status.success());
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(text.contains("is not a results.json"), "{text}");
    }
}
