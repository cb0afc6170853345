//! The metrics of a replica, for Prometheus.
//!
//! Frequent events are counted where they happen; the state of the replica is read from it
//! when the metrics are rendered.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use consensus::{Role, Status};
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use replica::driver::{Counters, ReplicaStatus, SizeHistogram};
use replica::wal::WalSize;

use crate::links::{LaneCounts, LaneLabels, LinkCounters};

/// A replica's metrics.
pub struct LogMetrics {
    pub(crate) fsync_seconds: Histogram,
    pub(crate) commit_seconds: Histogram,
    pub(crate) batches_per_fsync: Histogram,
    wal_bytes: AtomicU64,
    wal_segments: AtomicU64,
    wal_spares: AtomicU64,
    snapshot_bytes: AtomicU64,
    /// Messages of peers that wait for a round, and those dropped at a full inbox.
    inbox: AtomicU64,
    inbox_dropped: AtomicU64,
}

impl Default for LogMetrics {
    fn default() -> Self {
        let latency = || Histogram::new(exponential_buckets(0.000_05, 2.0, 18));
        Self {
            fsync_seconds: latency(),
            commit_seconds: latency(),
            batches_per_fsync: Histogram::new(exponential_buckets(1.0, 2.0, 9)),
            wal_bytes: AtomicU64::new(0),
            wal_segments: AtomicU64::new(0),
            wal_spares: AtomicU64::new(0),
            snapshot_bytes: AtomicU64::new(0),
            inbox: AtomicU64::new(0),
            inbox_dropped: AtomicU64::new(0),
        }
    }
}

impl LogMetrics {
    pub(crate) fn set_wal(&self, size: WalSize) {
        self.wal_bytes.store(size.bytes, Ordering::Relaxed);
        self.wal_segments
            .store(size.segments as u64, Ordering::Relaxed);
        self.wal_spares.store(size.spares as u64, Ordering::Relaxed);
    }

    /// Whether room on the disk is reserved for the next segment of the log, or is being
    /// reserved. Without it, the replica stops when the current segment is full.
    #[must_use]
    pub fn has_reserve(&self) -> bool {
        self.wal_spares.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn set_snapshot_bytes(&self, bytes: u64) {
        self.snapshot_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn set_inbox(&self, waiting: u64, dropped: u64) {
        self.inbox.store(waiting, Ordering::Relaxed);
        self.inbox_dropped.store(dropped, Ordering::Relaxed);
    }

    /// Registers the histograms, which are updated in place.
    pub fn register(&self, registry: &mut Registry) {
        for (name, help, histogram) in [
            (
                "fsync_seconds",
                "Duration of an fsync of the write-ahead log",
                &self.fsync_seconds,
            ),
            (
                "commit_seconds",
                "Time from the proposal of a command to its reply",
                &self.commit_seconds,
            ),
            (
                "batches_per_fsync",
                "Batches made durable by one fsync",
                &self.batches_per_fsync,
            ),
        ] {
            registry.register(name, help, histogram.clone());
        }
    }

    /// Registers gauges and counters with the present state of the replica.
    pub fn register_status(
        &self,
        registry: &mut Registry,
        status: &ReplicaStatus,
        links: &LinkCounters,
    ) {
        self.gauges(registry, status);
        counters(registry, status, links);
        let dropped: Counter = Counter::default();
        dropped.inc_by(self.inbox_dropped.load(Ordering::Relaxed));
        registry.register(
            "peer_messages_dropped",
            "Messages of peers dropped because too many were waiting",
            dropped,
        );
    }

    fn gauges(&self, registry: &mut Registry, status: &ReplicaStatus) {
        let core = &status.core;
        roles(registry, core);
        let mut gauge = |name: &str, help: &str, value: u64| {
            register_gauge(registry, name, help, to_i64(value));
        };
        gauge("term", "The current term", core.term.0);
        gauge(
            "commit_index",
            "Index up to which the log is known to be committed",
            core.commit.0,
        );
        gauge(
            "applied_index",
            "Index up to which the log is applied to the state machine",
            status.applied.0,
        );
        gauge(
            "log_first_index",
            "Index of the first entry in memory",
            core.first.0,
        );
        gauge("log_last_index", "Index of the last entry", core.last.0);
        gauge(
            "log_bytes",
            "Bytes of the log since the newest snapshot",
            status.log_bytes,
        );
        gauge(
            "snapshot_index",
            "Index of the newest snapshot, 0 for none",
            status.snapshot.map_or(0, |index| index.0),
        );
        gauge(
            "snapshot_bytes",
            "Size of the newest snapshot, 0 for none",
            self.snapshot_bytes.load(Ordering::Relaxed),
        );
        gauge(
            "wal_bytes",
            "Bytes of the write-ahead log on disk",
            self.wal_bytes.load(Ordering::Relaxed),
        );
        gauge(
            "wal_segments",
            "Files of the write-ahead log in use",
            self.wal_segments.load(Ordering::Relaxed),
        );
        gauge(
            "wal_spares",
            "Files reserved for the write-ahead log to continue in; 0 on a full disk",
            self.wal_spares.load(Ordering::Relaxed),
        );
        gauge(
            "commands_waiting",
            "Commands that wait for a batch",
            status.commands_waiting as u64,
        );
        gauge(
            "batches_in_flight",
            "Batches proposed here and not yet committed",
            status.batches_in_flight as u64,
        );
        gauge(
            "peer_messages_waiting",
            "Messages of peers that wait for the replica",
            self.inbox.load(Ordering::Relaxed),
        );
        gauge(
            "reads_waiting",
            "Linearizable reads that wait for a quorum or for the state machine",
            status.reads_waiting as u64,
        );
    }
}

/// One gauge for each role and each voter, of which at most one is 1: a sum over the nodes
/// has a meaning, and a role that is added later changes no number.
fn roles(registry: &mut Registry, core: &Status) {
    let leader = Family::<Label, Gauge>::default();
    for voter in core.membership.voters() {
        let is_leader = core.leader == Some(*voter);
        let labels = [("replica_id", voter.to_string())];
        leader.get_or_create(&labels).set(i64::from(is_leader));
    }
    registry.register(
        "leader",
        "1 for the voter that this replica knows as the leader, by its replica_id",
        leader,
    );
    let role = Family::<Label, Gauge>::default();
    for each in [Role::Leader, Role::Follower, Role::Candidate, Role::Learner] {
        let labels = [("role", each.as_str().to_owned())];
        role.get_or_create(&labels)
            .set(i64::from(each == core.role));
    }
    registry.register("role", "1 for the role of this replica", role);
}

type Label = [(&'static str, String); 1];

fn to_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn register_gauge(registry: &mut Registry, name: &str, help: &str, value: i64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

fn counters(registry: &mut Registry, status: &ReplicaStatus, links: &LinkCounters) {
    let counters = &status.counters;
    let mut counter = |name: &str, help: &str, value: u64| {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    };
    counter(
        "elections",
        "Elections started by this replica",
        status.core.elections_started,
    );
    counter(
        "leader_changes",
        "Changes of the leader that this replica has seen",
        counters.leader_changes,
    );
    counter(
        "commands_proposed",
        "Commands proposed by this replica",
        counters.commands_proposed,
    );
    counter(
        "batches_proposed",
        "Batches proposed by this replica",
        counters.batch_commands.count(),
    );
    counter(
        "timestamps_limited",
        "Batches proposed by this replica with an earlier time than its wall clock's, which is far ahead of the log",
        counters.timestamps_limited,
    );
    counter(
        "commands_committed",
        "Commands proposed by this replica and committed",
        counters.commands_committed,
    );
    counter(
        "commands_not_leader",
        "Commands rejected because another replica leads",
        counters.not_leader,
    );
    counter(
        "commands_overloaded",
        "Commands rejected because too many were waiting",
        counters.overloaded,
    );
    counter(
        "commands_unknown",
        "Commands whose outcome is unknown because leadership was lost",
        counters.outcome_unknown,
    );
    counter(
        "commands_applied",
        "Commands applied to the state machine, from any replica",
        counters.commands_applied,
    );
    counter(
        "snapshots_taken",
        "Snapshots taken by this replica",
        counters.snapshots_taken,
    );
    counter(
        "snapshots_installed",
        "Snapshots fetched from a peer and installed",
        counters.snapshots_installed,
    );
    counter(
        "sends_dropped",
        "Messages to peers dropped because too many were waiting for the write-ahead log",
        counters.sends_dropped,
    );
    counter(
        "link_messages_sent",
        "One-way messages sent to peers",
        links.sent.load(Ordering::Relaxed),
    );
    counter(
        "link_bytes_sent",
        "Bytes of one-way messages sent to peers",
        links.sent_bytes.load(Ordering::Relaxed),
    );
    counter(
        "link_messages_dropped",
        "One-way messages dropped at a full queue or a broken connection",
        links.dropped.load(Ordering::Relaxed),
    );
    counter(
        "link_refused",
        "Frames and handshakes refused, by this node or by a peer",
        links.refused.load(Ordering::Relaxed),
    );
    counter(
        "link_connections",
        "Connections established to peers",
        links.connected.load(Ordering::Relaxed),
    );
    proposals_and_refusals(registry, counters);
    lanes(registry, links);
}

fn lanes(registry: &mut Registry, links: &LinkCounters) {
    let lanes = links.lanes.all();
    let mut counter = |name: &str, help: &str, of: fn(&LaneCounts) -> &AtomicU64| {
        let family = Family::<LaneLabels, Counter>::default();
        for (labels, counts) in &lanes {
            let value = of(counts).load(Ordering::Relaxed);
            family.get_or_create(labels).inc_by(value);
        }
        registry.register(name, help, family);
    };
    counter(
        "lane_frames_sent",
        "Frames sent on a lane to a peer",
        |counts| &counts.sent,
    );
    counter("lane_bytes_sent", "Bytes of these frames", |counts| {
        &counts.sent_bytes
    });
    counter(
        "lane_frames_received",
        "Frames received on a lane from a peer",
        |counts| &counts.received,
    );
    counter("lane_bytes_received", "Bytes of these frames", |counts| {
        &counts.received_bytes
    });
    counter(
        "lane_stalls",
        "How often a frame had to wait until the peer released earlier ones",
        |counts| &counts.stalls,
    );
    counter(
        "lane_connections",
        "Connections of a lane established to a peer",
        |counts| &counts.connections,
    );
    let mut gauge = |name: &str, help: &str, of: fn(&LaneCounts) -> &AtomicU64| {
        let family = Family::<LaneLabels, Gauge>::default();
        for (labels, counts) in &lanes {
            let value = of(counts).load(Ordering::Relaxed);
            family.get_or_create(labels).set(to_i64(value));
        }
        registry.register(name, help, family);
    };
    gauge(
        "lane_unreleased_bytes",
        "Bytes sent on a lane that the peer has not released",
        |counts| &counts.unreleased_bytes,
    );
    gauge(
        "lane_held_bytes",
        "Bytes received on a lane that this node has not released",
        |counts| &counts.held_bytes,
    );
}

fn proposals_and_refusals(registry: &mut Registry, counters: &Counters) {
    registry.register(
        "batch_commands",
        "Commands in a batch proposed here",
        Sizes(counters.batch_commands),
    );
    let refused = Family::<RefusedLabels, Counter>::default();
    for (peer, reason, count) in counters.messages_refused.iter() {
        let labels = [("peer", peer.to_string()), ("reason", reason.to_owned())];
        refused.get_or_create(&labels).inc_by(count);
    }
    registry.register(
        "peer_messages_refused",
        "Messages of peers that were refused, by the peer's replica_id and the reason",
        refused,
    );
    let requests_refused: Counter = Counter::default();
    requests_refused.inc_by(counters.requests_refused);
    registry.register(
        "core_requests_refused",
        "Requests of this replica that its consensus core refused",
        requests_refused,
    );
}

type RefusedLabels = [(&'static str, String); 2];

/// A histogram that the replica keeps itself.
#[derive(Debug)]
struct Sizes(SizeHistogram);

impl EncodeMetric for Sizes {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let Self(sizes) = self;
        let mut below = 0;
        let mut buckets: Vec<_> = sizes
            .cumulative()
            .map(|(bound, at_most)| {
                let count = at_most - std::mem::replace(&mut below, at_most);
                (bound as f64, count)
            })
            .collect();
        buckets.push((f64::INFINITY, sizes.count() - below));
        encoder.encode_histogram::<NoLabelSet>(sizes.sum() as f64, sizes.count(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    #[test]
    fn a_histogram_of_the_replica_reads_as_one_of_prometheus() {
        let mut sizes = SizeHistogram::default();
        for size in [1, 3, 3, 40_000] {
            sizes.observe(size);
        }
        let mut registry = Registry::default();
        registry.register("batch_commands", "Commands", Sizes(sizes));
        let mut text = String::new();
        text::encode(&mut text, &registry).unwrap();
        for line in [
            "# TYPE batch_commands histogram",
            "batch_commands_sum 40007.0",
            "batch_commands_count 4",
            "batch_commands_bucket{le=\"1.0\"} 1",
            "batch_commands_bucket{le=\"2.0\"} 1",
            "batch_commands_bucket{le=\"4.0\"} 3",
            "batch_commands_bucket{le=\"32768.0\"} 3",
            "batch_commands_bucket{le=\"+Inf\"} 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
