//! What the documents state about files, configuration keys and metrics is true.

#![expect(clippy::unwrap_used, reason = "a test that fails shows where")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use iggy_binary_protocol::COMMAND_TABLE;
use iggy_cluster::config;
use integration_tests::{Backend, Cluster};
use serde_json::Value;

const NODE: &str = env!("CARGO_BIN_EXE_node");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The cells of the tables' rows that start with a name in backticks, without the name.
fn rows(text: &str) -> BTreeMap<String, Vec<String>> {
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.trim_matches('|').split(" | ").map(str::trim);
        let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        Some((name.to_owned(), cells.map(str::to_owned).collect()))
    });
    rows.collect()
}

fn markdown_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if path.is_dir() {
            markdown_below(&path, found);
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// The text outside of code blocks.
fn prose(text: &str) -> String {
    let mut in_code = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The anchors that GitHub gives to the headings of a document.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let slug = |heading: &str| -> String {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(slug).collect()
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let mut documents = Vec::new();
    markdown_below(&root(), &mut documents);
    let mut broken = Vec::new();
    for document in documents {
        let text = prose(&fs::read_to_string(&document).unwrap());
        for target in text.split("](").skip(1) {
            let Some((target, _)) = target.split_once(')') else {
                continue;
            };
            if target.contains("://") || target.contains(char::is_whitespace) {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = match path {
                "" => document.clone(),
                path => document.parent().unwrap().join(path),
            };
            let leads = file.exists()
                && (anchor.is_empty()
                    || anchors(&prose(&fs::read_to_string(&file).unwrap_or_default()))
                        .contains(anchor));
            if !leads {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Keys with their values; of the list of nodes the first stands for all.
fn flatten(prefix: &str, value: &Value, keys: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let separator = if prefix.is_empty() { "" } else { "." };
                flatten(&format!("{prefix}{separator}{name}"), value, keys);
            }
        }
        Value::Array(nodes) if prefix == "cluster.nodes" => {
            flatten("cluster.nodes[]", &nodes[0], keys);
        }
        Value::String(text) => drop(keys.insert(prefix.to_owned(), text.clone())),
        other => drop(keys.insert(prefix.to_owned(), other.to_string())),
    }
}

#[test]
fn every_configuration_key_is_documented_with_its_default() {
    let sample = root().join("config/iggy-cluster.toml");
    let loaded = config::load(Some(&sample), [], None).unwrap();
    let mut keys = BTreeMap::new();
    flatten(
        "",
        &serde_json::to_value(&loaded.config).unwrap(),
        &mut keys,
    );
    let documented = rows(&read("docs/reference/configuration.md"));
    let names = |of: &BTreeMap<String, _>| of.keys().cloned().collect::<BTreeSet<_>>();
    let documented_names: BTreeSet<_> = documented.keys().cloned().collect();
    assert_eq!(documented_names, names(&keys));
    for (key, value) in keys {
        // The sample has one of each for nodes; they have no default.
        let is_of_a_node = key.starts_with("cluster.nodes") && !key.contains("ports");
        if !is_of_a_node {
            assert_eq!(documented[&key][0], format!("`{value}`"), "{key}");
        }
    }
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

#[tokio::test]
async fn every_metric_is_documented_with_its_type() {
    let cluster = Cluster::start(NODE, Backend::Raft, 1).await.unwrap();
    let metrics = get(&cluster.admin(0), "/metrics");
    let types = metrics.lines().filter_map(|line| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        Some((name.to_owned(), kind.to_owned()))
    });
    let served: BTreeMap<String, String> = types.collect();
    let mut documented = rows(&read("docs/reference/metrics.md"));
    // One with labels is served from its first value on.
    let is_optional = |meaning: &str| meaning.contains("by `") || meaning.starts_with("only with");
    documented.retain(|name, cells| served.contains_key(name) || !is_optional(&cells[1]));
    let documented: BTreeMap<String, String> = documented
        .into_iter()
        .map(|(name, cells)| (name, cells[0].clone()))
        .collect();
    let differ = |(name, kind): &(&String, &String)| {
        documented.get(*name) != Some(*kind) || served.get(*name) != Some(*kind)
    };
    let wrong: Vec<_> = documented.iter().chain(&served).filter(differ).collect();
    assert!(wrong.is_empty(), "documented or served alone: {wrong:#?}");
}

/// The numbers in a text such as `20, 21` or `33 to 37`.
fn numbers(text: &str) -> Vec<u32> {
    let parts = text.split(',').map(str::trim);
    let ranges = parts.filter_map(|part| {
        let (first, last) = part.split_once(" to ").unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

#[test]
fn every_command_of_the_protocol_is_in_the_table_of_commands() {
    let text = read("docs/reference/compatibility.md");
    let table = text.split("## Commands").nth(1).unwrap();
    let table = table.split("## ").next().unwrap();
    let cells = table.lines().filter_map(|line| line.split('|').nth(2));
    let mut documented: Vec<u32> = cells.flat_map(numbers).collect();
    documented.sort_unstable();
    let mut known: Vec<_> = COMMAND_TABLE.iter().map(|command| command.code).collect();
    known.sort_unstable();
    assert_eq!(documented, known);
}

/// A name in backticks that stands for a test is one.
#[test]
fn the_tests_that_compatibility_names_exist() {
    let text = prose(&read("docs/reference/compatibility.md"));
    // Options of topics are in a table.
    let text = text.lines().filter(|line| !line.starts_with("| `"));
    let text = text.collect::<Vec<_>>().join("\n");
    let names = text.split('`').skip(1).step_by(2);
    let tests = names.filter(|name| name.matches('_').count() >= 3);
    let mut sources = String::new();
    for dir in [
        "integration-tests/tests",
        "iggy-cluster/src",
        "adapters/src",
        "partitions/src",
    ] {
        sources_below(&root().join(dir), &mut sources);
    }
    let mut count = 0;
    for name in tests {
        assert!(sources.contains(&format!("fn {name}(")), "no test {name}");
        count += 1;
    }
    assert!(count > 10, "{count}");
}

fn sources_below(dir: &Path, sources: &mut String) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources_below(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}
