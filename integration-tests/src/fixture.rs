//! Data directories of an earlier version, and what is in them.
//!
//! `fixtures/data-<version>/<backend>/` is the directory of a cluster of one node that
//! [`write()`] has filled. The example `write_fixture` makes it with the binary of that
//! version; a test opens it with this one.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, ensure};
use iggy::prelude::*;
use iggy_cluster::config::{ClusterConfig, HumanSize};

use crate::{Backend, Cluster};

/// Messages before the snapshot, and after it.
const MESSAGES: (u32, u32) = (20, 10);
const STORED_OFFSET: u64 = 11;
const PASSWORD: &str = "a password";

fn named(name: &str) -> Identifier {
    Identifier::named(name).expect("the names of the fixture are valid")
}

fn consumer() -> Consumer {
    Consumer::new(Identifier::numeric(7).expect("a number is valid"))
}

fn size(text: &str) -> HumanSize {
    text.parse().expect("the sizes of the fixture are valid")
}

/// The configuration of the fixture's node: small files, early snapshots.
pub fn configure(config: &mut ClusterConfig) {
    config.cluster.name = "upgrade".into();
    let consensus = &mut config.cluster.consensus;
    consensus.batch_size_max = size("64 KiB");
    consensus.wal_segment_size = size("256 KiB");
    consensus.snapshot_entries = 5;
    consensus.log_tail_entries = 2;
}

/// Where the fixture of a version is, in the repository.
#[must_use]
pub fn dir(version: &str, backend: Backend) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(format!("data-{version}"))
        .join(backend.name())
}

/// Fills a cluster of one node: a stream, a topic, a user, messages before and after a
/// snapshot and a restart, and an offset of a consumer.
///
/// # Errors
/// When the cluster refuses any of it.
pub async fn write(cluster: &mut Cluster) -> anyhow::Result<()> {
    let root = cluster.client(0).await?;
    root.create_stream("orders").await?;
    let options = TopicCreateOptions {
        partitions_count: Some(2),
        ..TopicCreateOptions::default()
    };
    root.create_topic(&named("orders"), "placed", &options)
        .await?;
    root.create_user("reader", PASSWORD, UserStatus::Active, None)
        .await?;
    send(&root, 0, MESSAGES.0).await?;
    // Enough commands for a snapshot.
    for number in 0..6 {
        root.create_stream(&format!("other-{number}")).await?;
    }
    cluster.counted(0, "snapshots_taken").await?;
    cluster.kill(0)?;
    cluster.start(0)?;
    cluster.ready().await?;
    let root = cluster.client(0).await?;
    root.delete_stream(&named("other-0")).await?;
    send(&root, MESSAGES.0, MESSAGES.1).await?;
    root.store_consumer_offset(
        &consumer(),
        &named("orders"),
        &named("placed"),
        Some(0),
        STORED_OFFSET,
    )
    .await?;
    Ok(())
}

async fn send(client: &IggyClient, from: u32, count: u32) -> anyhow::Result<()> {
    for partition in 0..2 {
        let mut messages = (from..from + count)
            .map(|number| IggyMessage::from_str(&text(partition, u64::from(number))))
            .collect::<Result<Vec<_>, _>>()?;
        client
            .send_messages(
                &named("orders"),
                &named("placed"),
                &Partitioning::partition_id(partition),
                &mut messages,
            )
            .await?;
    }
    Ok(())
}

fn text(partition: u32, number: u64) -> String {
    format!("order {number} of partition {partition}")
}

/// Checks that a cluster serves what [`write()`] wrote, to stock clients.
///
/// # Errors
/// When anything is missing or different.
pub async fn check(cluster: &Cluster) -> anyhow::Result<()> {
    let root = cluster.client(0).await?;
    let mut streams: Vec<_> = root.get_streams().await?;
    streams.sort_by_key(|stream| stream.id);
    let names: Vec<_> = streams.iter().map(|stream| stream.name.as_str()).collect();
    let expected = [
        "orders", "other-1", "other-2", "other-3", "other-4", "other-5",
    ];
    ensure!(names == expected, "streams {names:?}");
    let topic = root.get_topic(&named("orders"), &named("placed")).await?;
    let topic = topic.context("the topic is missing")?;
    let total = u64::from(MESSAGES.0 + MESSAGES.1);
    ensure!(topic.partitions_count == 2, "{topic:?}");
    ensure!(topic.messages_count == 2 * total, "{topic:?}");
    for partition in 0..2 {
        let polled = root
            .poll_messages(
                &named("orders"),
                &named("placed"),
                Some(partition),
                &consumer(),
                &PollingStrategy::offset(0),
                1_000,
                false,
            )
            .await?;
        let messages: Vec<_> = polled
            .messages
            .iter()
            .map(|message| (message.header.offset, message.payload.to_vec()))
            .collect();
        let expected: Vec<_> = (0..total)
            .map(|number| (number, text(partition, number).into_bytes()))
            .collect();
        ensure!(messages == expected, "messages of partition {partition}");
    }
    let offset = root
        .get_consumer_offset(&consumer(), &named("orders"), &named("placed"), Some(0))
        .await?;
    let offset = offset.context("the consumer's offset is missing")?;
    ensure!(offset.stored_offset == STORED_OFFSET, "{offset:?}");
    let address = cluster.tcp(0);
    let user = format!("iggy://reader:{PASSWORD}@{address}");
    IggyClient::from_connection_string(&user)?.connect().await?;
    // The log and the partitions continue where they ended.
    root.create_stream("new").await?;
    send(&root, MESSAGES.0 + MESSAGES.1, 1).await?;
    Ok(())
}

/// Copies the files of a data directory, without its lock, its process's log and the spare
/// segments, and without the zeros after the last frame of a segment.
///
/// # Errors
/// When a file cannot be read or written.
pub fn copy_trimmed(from: &Path, to: &Path) -> anyhow::Result<()> {
    copy(from, to, &|path, mut bytes| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let at_root = path.parent() == Some(from);
        if (at_root && ["lock", "log"].contains(&&*name)) || name.starts_with("spare-") {
            return None;
        }
        if name.ends_with(".wal") {
            let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
            bytes.truncate(used.next_multiple_of(4096));
        }
        Some(bytes)
    })
}

/// Copies a fixture to where a node expects its data.
///
/// # Errors
/// When a file cannot be read or written.
pub fn copy_whole(from: &Path, to: &Path) -> anyhow::Result<()> {
    copy(from, to, &|_, bytes| Some(bytes))
}

/// What to write for a file with these bytes; `None` leaves it out.
type Content<'a> = dyn Fn(&Path, Vec<u8>) -> Option<Vec<u8>> + 'a;

fn copy(from: &Path, to: &Path, content: &Content<'_>) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    let entries = fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))?;
    for entry in entries {
        let path = entry?.path();
        let target = to.join(path.file_name().context("a file without a name")?);
        if path.is_dir() {
            copy(&path, &target, content)?;
        } else if let Some(bytes) = content(&path, fs::read(&path)?) {
            fs::write(target, bytes)?;
        }
    }
    Ok(())
}
