//! The node's metrics, for Prometheus.
//!
//! Frequent events are counted where they happen; the state of the replica is read for
//! each scrape.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use replica::driver::ReplicaStatus;

use crate::partitions::Refusing;
use replicated_log::links::LinkCounters;
use replicated_log::{LogMetrics, MemoryBudget};

/// The node's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    started: Instant,
    pub(crate) connections: Gauge,
    pub(crate) connections_refused: Counter,
    pub(crate) frames_refused: Counter,
    pub(crate) logins_refused: Counter,
    pub(crate) requests_without_memory: Counter,
    pub(crate) polls_shortened: Counter,
    pub(crate) clients_not_reading: Counter,
    pub(crate) messages_in: Counter,
    pub(crate) message_bytes_in: Counter,
    pub(crate) messages_out: Counter,
    /// Of clients, from the complete frame to the reply.
    pub(crate) request_seconds: Histogram,
    /// Partitions, once for each pass of retention and each request to delete segments.
    pub(crate) retention_blocked: Counter,
    /// When the certificate for clients expires, in seconds since 1970; with TLS only.
    pub(crate) certificate_expiry: OnceLock<u64>,
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
            polls_shortened: Counter::default(),
            clients_not_reading: Counter::default(),
            messages_in: Counter::default(),
            message_bytes_in: Counter::default(),
            messages_out: Counter::default(),
            retention_blocked: Counter::default(),
            request_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 18)),
            certificate_expiry: OnceLock::new(),
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
                "Requests refused because requests and replies take up tcp.memory_max, or the part of it of their user or node",
                &metrics.requests_without_memory,
            ),
            (
                "polls_shortened",
                "Polls that returned fewer messages because requests and replies take up tcp.memory_max, or the part of it of their user or node",
                &metrics.polls_shortened,
            ),
            (
                "clients_not_reading",
                "Connections closed because the client has not read a reply within tcp.frame_timeout",
                &metrics.clients_not_reading,
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

    /// All metrics.
    pub(crate) fn render(&self, sampled: &Sampled<'_>, format: Format) -> String {
        let mut node = Registry::with_prefix("iggy_cluster");
        self.sample(&mut node, sampled);
        self.log
            .register_status(&mut node, sampled.status, sampled.links);
        // With the names that libraries for Prometheus use for every process.
        let mut process = Registry::default();
        descriptors(&mut process);
        let mut out = String::new();
        // Writing into a string cannot fail.
        let _ = encode_registry(&mut out, &self.registry);
        let _ = encode_registry(&mut out, &node);
        let _ = encode_registry(&mut out, &process);
        match format {
            Format::OpenMetrics => {
                let _ = encode_eof(&mut out);
                out
            }
            Format::Prometheus => prometheus_text(&out),
        }
    }

    fn sample(&self, registry: &mut Registry, sampled: &Sampled<'_>) {
        gauge(
            registry,
            "uptime_seconds",
            "Seconds since the node started",
            self.started.elapsed().as_secs(),
        );
        partitions(registry, sampled.refusing);
        gauge(
            registry,
            "memory_reserved_bytes",
            "Bytes of requests and replies in memory, of tcp.memory_max",
            sampled.memory.reserved_bytes() as u64,
        );
        gauge(
            registry,
            "memory_waiting",
            "Polls that wait for memory",
            sampled.memory.waiting() as u64,
        );
        if let Ok(disk) = rustix::fs::statvfs(sampled.data) {
            gauge(
                registry,
                "disk_free_bytes",
                "Free space on the disk of the data directory",
                disk.f_bavail * disk.f_frsize,
            );
            gauge(
                registry,
                "disk_size_bytes",
                "Size of the disk of the data directory",
                disk.f_blocks * disk.f_frsize,
            );
        }
        if let Some(expiry) = self.certificate_expiry.get() {
            gauge(
                registry,
                "certificate_expiry_timestamp_seconds",
                "When the certificate for clients expires, in seconds since 1970",
                *expiry,
            );
        }
        let build = Family::<[(&'static str, String); 2], Gauge>::default();
        let labels = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("backend", sampled.backend.to_owned()),
        ];
        build.get_or_create(&labels).set(1);
        registry.register("build_info", "The version of the program, always 1", build);
    }
}

/// What is read for each scrape.
pub(crate) struct Sampled<'a> {
    pub(crate) status: &'a ReplicaStatus,
    pub(crate) links: &'a LinkCounters,
    pub(crate) refusing: &'a Refusing,
    pub(crate) memory: &'a MemoryBudget,
    pub(crate) backend: &'static str,
    /// The data directory.
    pub(crate) data: &'a Path,
}

/// The text format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Version 1.0.0, for servers that request it.
    OpenMetrics,
    /// The older one of Prometheus, for all others.
    Prometheus,
}

impl Format {
    /// By the header `Accept` of a request.
    pub(crate) fn accepted(accept: &str) -> Self {
        match accept.contains("application/openmetrics-text") {
            true => Self::OpenMetrics,
            false => Self::Prometheus,
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// In OpenMetrics, the name of a counter lacks the `_total` of its value; in the older format,
/// both are the same.
fn prometheus_text(openmetrics: &str) -> String {
    let counters: BTreeSet<_> = openmetrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut out = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        let mut words = line.splitn(4, ' ');
        let comment = (words.next(), words.next(), words.next(), words.next());
        match comment {
            (Some("#"), Some(kind), Some(name), Some(rest)) if counters.contains(name) => {
                // Writing into a string cannot fail.
                let _ = writeln!(out, "# {kind} {name}_total {rest}");
            }
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

fn partitions(registry: &mut Registry, refusing: &Refusing) {
    let partitions = Family::<[(&str, &str); 1], Gauge>::default();
    for (reason, count) in refusing.by_reason() {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        partitions.get_or_create(&[("reason", reason)]).set(count);
    }
    registry.register(
        "partitions_refusing",
        "Partitions of this node that refuse, by the reason",
        partitions,
    );
    let damaged: Counter = Counter::default();
    damaged.inc_by(refusing.damaged_offsets);
    registry.register(
        "consumer_offsets_damaged",
        "Damaged records of consumer offsets that were found",
        damaged,
    );
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register(name, help, gauge);
}

/// Open descriptors of this process and their limit.
fn descriptors(registry: &mut Registry) {
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        gauge(
            registry,
            "process_open_fds",
            "Open file descriptors",
            open.count() as u64,
        );
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    gauge(
        registry,
        "process_max_fds",
        "Most open file descriptors",
        limit.current.unwrap_or(u64::MAX),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `promtool check metrics` reads the older format, and finds counters without `_total`.
    #[test]
    fn counters_have_one_name_in_the_format_of_prometheus() {
        let openmetrics = "# HELP a_b Things total.\n# TYPE a_b counter\na_b_total 3\n\
                           # HELP c Level.\n# TYPE c gauge\nc 1\n";
        assert_eq!(
            prometheus_text(openmetrics),
            "# HELP a_b_total Things total.\n# TYPE a_b_total counter\na_b_total 3\n\
             # HELP c Level.\n# TYPE c gauge\nc 1\n"
        );
    }

    #[test]
    fn openmetrics_is_served_to_those_that_request_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        assert_eq!(Format::accepted("*/*"), Format::Prometheus);
        assert_eq!(Format::accepted(""), Format::Prometheus);
    }
}
