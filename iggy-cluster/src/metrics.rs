//! The node's metrics, for Prometheus.
//!
//! Frequent events are counted where they happen; the state of the replica is read for
//! each scrape.

use std::sync::Arc;
use std::time::Instant;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use replica::driver::ReplicaStatus;

use crate::partitions::Refusing;
use replicated_log::LogMetrics;
use replicated_log::links::LinkCounters;

/// The node's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    started: Instant,
    pub(crate) connections: Gauge,
    pub(crate) connections_refused: Counter,
    pub(crate) frames_refused: Counter,
    pub(crate) logins_refused: Counter,
    pub(crate) requests_without_memory: Counter,
    pub(crate) messages_in: Counter,
    pub(crate) message_bytes_in: Counter,
    pub(crate) messages_out: Counter,
    /// Of clients, from the complete frame to the reply.
    pub(crate) request_seconds: Histogram,
    /// Partitions, once for each pass of retention and each request to delete segments.
    pub(crate) retention_blocked: Counter,
    /// Metrics of the replicated log.
    pub(crate) log: Arc<LogMetrics>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("iggy_cluster");
        let metrics = Self {
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            frames_refused: Counter::default(),
            logins_refused: Counter::default(),
            requests_without_memory: Counter::default(),
            messages_in: Counter::default(),
            message_bytes_in: Counter::default(),
            messages_out: Counter::default(),
            retention_blocked: Counter::default(),
            request_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 18)),
            log: Arc::default(),
            registry: Registry::default(),
            started: Instant::now(),
        };
        registry.register(
            "connections",
            "Clients connected",
            metrics.connections.clone(),
        );
        for (name, help, counter) in [
            (
                "connections_refused",
                "Connections refused because of a limit or a failed TLS handshake",
                &metrics.connections_refused,
            ),
            (
                "frames_refused",
                "Client frames that were refused",
                &metrics.frames_refused,
            ),
            (
                "logins_refused",
                "Logins with wrong credentials, or with the id of another user's client",
                &metrics.logins_refused,
            ),
            (
                "requests_without_memory",
                "Client requests refused because requests and replies take up tcp.memory_max",
                &metrics.requests_without_memory,
            ),
            (
                "messages_received",
                "Messages received from clients",
                &metrics.messages_in,
            ),
            (
                "message_bytes_received",
                "Bytes of batches received",
                &metrics.message_bytes_in,
            ),
            (
                "messages_polled",
                "Messages sent to clients",
                &metrics.messages_out,
            ),
            (
                "retention_blocked",
                "Passes of retention and requests that kept old segments of a partition for a consumer",
                &metrics.retention_blocked,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "request_seconds",
            "Time from a client's complete frame to its reply",
            metrics.request_seconds.clone(),
        );
        metrics.log.register(&mut registry);
        Self {
            registry,
            ..metrics
        }
    }

    /// All metrics in the text format of Prometheus.
    pub(crate) fn render(
        &self,
        status: &ReplicaStatus,
        links: &LinkCounters,
        refusing: &Refusing,
    ) -> String {
        let mut out = String::new();
        let mut sampled = Registry::with_prefix("iggy_cluster");
        let uptime = Gauge::<i64>::default();
        uptime.set(i64::try_from(self.started.elapsed().as_secs()).unwrap_or(i64::MAX));
        sampled.register("uptime_seconds", "Seconds since the node started", uptime);
        let partitions = Family::<[(&str, &str); 1], Gauge>::default();
        for (reason, count) in refusing.by_reason() {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            partitions.get_or_create(&[("reason", reason)]).set(count);
        }
        sampled.register(
            "partitions_refusing",
            "Partitions of this node that refuse, by the reason",
            partitions,
        );
        let damaged: Counter = Counter::default();
        damaged.inc_by(refusing.damaged_offsets);
        sampled.register(
            "consumer_offsets_damaged",
            "Damaged records of consumer offsets that were found",
            damaged,
        );
        self.log.register_status(&mut sampled, status, links);
        // Writing into a string cannot fail.
        let _ = encode(&mut out, &self.registry);
        let _ = encode(&mut out, &sampled);
        out.replacen("# EOF\n", "", 1)
    }
}
