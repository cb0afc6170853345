//! Health, status and metrics over HTTP, on loopback unless configured otherwise.

#[cfg(feature = "cli")]
mod client;
mod disk_probe;
mod listing;
mod report;
mod reporter;

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use adapters::metadata::{Identifier, Name};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tracing::debug;

use crate::metrics::{Format, Metrics, Sampled};
use crate::partitions::{LocalPartitions, Refusing};
use replicated_log::Acceptor;
use replicated_log::links::LinkCounters;

#[cfg(feature = "cli")]
pub use client::{
    ReportError, cluster_report, groups_report, is_ready, node_report, partitions_report,
};
pub(crate) use disk_probe::DiskProbe;
pub use listing::{
    GroupReport, GroupsReport, LISTED_MAX, Listing, MemberReport, PartitionReport, PartitionsReport,
};
pub use report::{ClusterReport, NodeReport};
pub(crate) use reporter::Reporter;

/// Concurrent connections; the oldest is closed for a further one. A request is served within
/// milliseconds, so that is one on which none arrives.
pub(crate) const CONNECTIONS_MAX: usize = 8;
/// A connection serves one request, and is closed after this time whatever it does.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(5);

/// What the endpoint reports.
pub(crate) struct Admin {
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) local: Arc<LocalPartitions>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) links: Arc<LinkCounters>,
}

/// What the endpoint reports, once the node has started. Before, a node may wait for the
/// others for long: it is alive, and not ready.
pub(crate) type Started = Arc<OnceLock<Admin>>;

const STARTING: (StatusCode, &str) = (
    StatusCode::SERVICE_UNAVAILABLE,
    "this node is starting: it reads its data directory, or waits for the other nodes at its first start; its log has the details\n",
);

/// Serves until the task is aborted.
pub(crate) async fn run(started: Started, listener: TcpListener) {
    let app = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/offsets/{stream}/{topic}", get(offsets))
        .route("/partitions", get(partitions))
        .route("/groups", get(groups))
        .with_state(started);
    accept(app, listener).await;
}

async fn accept(app: Router, listener: TcpListener) {
    let mut acceptor = Acceptor::new(listener, "the admin endpoint");
    let mut connections = JoinSet::new();
    let mut oldest_first = VecDeque::<AbortHandle>::new();
    loop {
        let (stream, _) = acceptor.accept().await;
        while connections.try_join_next().is_some() {}
        oldest_first.retain(|connection| !connection.is_finished());
        if oldest_first.len() >= CONNECTIONS_MAX
            && let Some(oldest) = oldest_first.pop_front()
        {
            oldest.abort();
        }
        oldest_first.push_back(connections.spawn(serve(stream, app.clone())));
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, app: Router) {
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    match tokio::time::timeout(CONNECTION_TIME_MAX, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection of the admin endpoint ended"),
        Err(_) => debug!("a connection of the admin endpoint took too long"),
    }
}

/// 200 when the node is ready and no partition refuses because the disk is full, otherwise
/// 503 and the reason.
async fn readyz(State(started): State<Started>) -> impl IntoResponse {
    let Some(admin) = started.get() else {
        return STARTING.into_response();
    };
    let reporter = &admin.reporter;
    let status = reporter.metadata.log.status().await;
    let full = || Refusing::of(&*reporter.storage).full > 0;
    let why = reporter
        .not_ready(status.as_ref())
        .or_else(|| full().then(|| "the disk is full".to_owned()));
    match why {
        None => (StatusCode::OK, "ready\n").into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response(),
    }
}

/// Of all nodes with `?nodes=all`, otherwise of this one, without the checks that take time.
async fn status(State(started): State<Started>, uri: Uri) -> impl IntoResponse {
    let Some(admin) = started.get() else {
        return STARTING.into_response();
    };
    let reporter = &admin.reporter;
    if uri.query() == Some("nodes=all") {
        return Json(reporter.all().await).into_response();
    }
    match reporter.metadata.log.status().await {
        Some(status) => Json(reporter.alone(&status)).into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// The consumer offsets that are stored in this node's partitions of a topic. Stream and topic
/// are named by name or by id.
async fn offsets(
    State(started): State<Started>,
    Path((stream, topic)): Path<(String, String)>,
) -> impl IntoResponse {
    let Some(admin) = started.get() else {
        return STARTING.into_response();
    };
    let (Some(stream), Some(topic)) = (identifier(&stream), identifier(&topic)) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    match admin.local.stored_offsets(&stream, &topic).await {
        Some(listed) => Json(listed).into_response(),
        None => (StatusCode::NOT_FOUND, "this topic does not exist\n").into_response(),
    }
}

const UNKNOWN_FILTER: (StatusCode, &str) = (
    StatusCode::BAD_REQUEST,
    "a list has the filters stream, topic, node (a replica_id), state and limit\n",
);

/// Partitions, as this node's metadata has them.
async fn partitions(State(started): State<Started>, uri: Uri) -> impl IntoResponse {
    let Some(admin) = started.get() else {
        return STARTING.into_response();
    };
    match Listing::of_query(uri.query().unwrap_or("")) {
        Some(listing) => {
            let reader = &admin.reporter.metadata.reader;
            Json(listing::partitions(reader, &listing)).into_response()
        }
        None => UNKNOWN_FILTER.into_response(),
    }
}

/// Consumer groups, as this node's metadata has them.
async fn groups(State(started): State<Started>, uri: Uri) -> impl IntoResponse {
    let Some(admin) = started.get() else {
        return STARTING.into_response();
    };
    match Listing::of_query(uri.query().unwrap_or("")) {
        Some(listing) => {
            let reader = &admin.reporter.metadata.reader;
            Json(listing::groups(reader, &listing)).into_response()
        }
        None => UNKNOWN_FILTER.into_response(),
    }
}

fn identifier(text: &str) -> Option<Identifier> {
    match text.parse() {
        Ok(id) => Some(Identifier::Id(id)),
        Err(_) => Name::new(text).ok().map(Identifier::Name),
    }
}

async fn metrics(State(started): State<Started>, headers: HeaderMap) -> impl IntoResponse {
    let Some(admin) = started.get() else {
        return STARTING.into_response();
    };
    let accept = headers.get(header::ACCEPT);
    let format = Format::accepted(accept.and_then(|value| value.to_str().ok()).unwrap_or(""));
    let reporter = &admin.reporter;
    match reporter.metadata.log.status().await {
        Some(status) => {
            let sampled = Sampled {
                status: &status,
                links: &admin.links,
                refusing: &Refusing::of(&*reporter.storage),
                memory: &admin.local.memory,
                backend: reporter.config.cluster.consensus.backend.name(),
                data: &reporter.config.storage.path,
            };
            let text = admin.metrics.render(&sampled, format);
            ([(header::CONTENT_TYPE, format.content_type())], text).into_response()
        }
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::Instant;

    use super::*;

    /// Runs the endpoint for a client that has sent this; returns the reply and the time until
    /// the connection was closed.
    async fn exchange(sent: &[u8]) -> (String, Duration) {
        let (mut client, server) = tokio::io::duplex(4 << 10);
        let app = Router::new().route("/livez", get(|| async { "ok\n" }));
        let started = Instant::now();
        let serving = tokio::spawn(serve(server, app));
        client.write_all(sent).await.unwrap();
        let mut reply = String::new();
        client.read_to_string(&mut reply).await.unwrap();
        serving.await.unwrap();
        (reply, started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_closed_after_its_request_or_its_time() {
        let request = b"GET /livez HTTP/1.1\r\nHost: n\r\n\r\n";
        let (reply, took) = exchange(request).await;
        assert!(
            reply.starts_with("HTTP/1.1 200") && reply.ends_with("ok\n"),
            "{reply}"
        );
        assert!(took < CONNECTION_TIME_MAX);
        for half_open in [&b""[..], &request[..20]] {
            let (_, took) = exchange(half_open).await;
            assert_eq!(took, CONNECTION_TIME_MAX);
        }
    }

    #[tokio::test]
    async fn idle_connections_do_not_keep_a_request_waiting() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/livez", get(|| async { "ok\n" }));
        let endpoint = tokio::spawn(accept(app, listener));
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let mut client = TcpStream::connect(address).await.unwrap();
        let request = b"GET /livez HTTP/1.1\r\nHost: n\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut reply = String::new();
        client.read_to_string(&mut reply).await.unwrap();
        assert!(reply.ends_with("ok\n"), "{reply}");
        assert_eq!(idle[0].read(&mut [0]).await.unwrap(), 0);
        endpoint.abort();
    }
}
