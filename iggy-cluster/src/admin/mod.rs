//! Health, status and metrics over HTTP, on loopback unless configured otherwise.

#[cfg(feature = "cli")]
mod client;
mod report;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ::partitions::PartitionStorage;
use adapters::metadata::{Identifier, Name};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
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

use crate::cluster::Metadata;
use crate::config::ClusterConfig;
use crate::metrics::Metrics;
use crate::partitions::{LocalPartitions, Refusing};
use replica::driver::ReplicaStatus;
use replicated_log::Acceptor;
use replicated_log::links::LinkCounters;

#[cfg(feature = "cli")]
pub use client::{ReportError, cluster_report, is_ready, node_report};
#[cfg(feature = "cli")]
pub(crate) use report::PARTITIONS_REFUSING;
pub use report::{ClusterReport, NodeReport};

/// Concurrent connections; the oldest is closed for a further one. A request is served within
/// milliseconds, so that is one on which none arrives.
pub(crate) const CONNECTIONS_MAX: usize = 8;
/// A connection serves one request, and is closed after this time whatever it does.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(5);

/// What the endpoint reports.
pub(crate) struct Admin {
    pub(crate) config: ClusterConfig,
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) local: Arc<LocalPartitions>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) links: Arc<LinkCounters>,
    pub(crate) storage: Arc<dyn PartitionStorage>,
    /// The incarnation of this process.
    pub(crate) incarnation: u64,
}

/// Serves until the task is aborted.
pub(crate) async fn run(admin: Admin, listener: TcpListener) {
    let app = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/offsets/{stream}/{topic}", get(offsets))
        .with_state(Arc::new(admin));
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
async fn readyz(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    let registered = {
        let state = admin.metadata.reader.read();
        let me = state.node(admin.metadata.me);
        me.is_some_and(|node| node.live && node.info.incarnation == admin.incarnation)
            && state.user_by_id(0).is_some()
    };
    let status = admin.metadata.log.status().await;
    let full = || Refusing::of(&*admin.storage).full > 0;
    let why = not_ready(registered, status.as_ref())
        .or_else(|| full().then(|| "the disk is full".to_owned()));
    match why {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
    }
}

/// Why the node cannot serve requests: it is ready when this incarnation is registered in
/// the state that it has applied, and it knows a leader and follows it.
fn not_ready(registered: bool, status: Option<&ReplicaStatus>) -> Option<String> {
    let Some(status) = status else {
        return Some("this node has stopped".into());
    };
    if let Some(refused) = &status.refuses_leader {
        return Some(format!("this node refuses its leader: {refused}"));
    }
    match (registered, status.core.leader) {
        (false, _) => Some("this node is not registered yet".into()),
        (_, None) => Some("no leader is known".into()),
        (true, Some(_)) => None,
    }
}

async fn status(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    match admin.metadata.log.status().await {
        Some(status) => Json(admin.report(&status)).into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// The consumer offsets that are stored in this node's partitions of a topic. Stream and topic
/// are named by name or by id.
async fn offsets(
    State(admin): State<Arc<Admin>>,
    Path((stream, topic)): Path<(String, String)>,
) -> impl IntoResponse {
    let (Some(stream), Some(topic)) = (identifier(&stream), identifier(&topic)) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    match admin.local.stored_offsets(&stream, &topic).await {
        Some(listed) => Json(listed).into_response(),
        None => (StatusCode::NOT_FOUND, "this topic does not exist\n").into_response(),
    }
}

fn identifier(text: &str) -> Option<Identifier> {
    match text.parse() {
        Ok(id) => Some(Identifier::Id(id)),
        Err(_) => Name::new(text).ok().map(Identifier::Name),
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match admin.metadata.log.status().await {
        Some(status) => (
            [(header::CONTENT_TYPE, format)],
            admin
                .metrics
                .render(&status, &admin.links, &Refusing::of(&*admin.storage)),
        )
            .into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use consensus::{
        Index, Membership, RefusalReason, RefusedMessage, ReplicaId, Role, Status, Term,
    };
    use replica::driver::Counters;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::Instant;

    use super::*;

    fn status(leader: Option<ReplicaId>, refuses_leader: Option<RefusedMessage>) -> ReplicaStatus {
        ReplicaStatus {
            core: Status {
                role: Role::Follower,
                term: Term(1),
                leader,
                commit: Index::ZERO,
                first: Index(1),
                last: Index::ZERO,
                membership: Membership::new(1, [ReplicaId(1), ReplicaId(2)], []).unwrap(),
                elections_started: 0,
                peers: Vec::new(),
                detail: Vec::new(),
            },
            applied: Index::ZERO,
            snapshot: None,
            commands_waiting: 0,
            batches_in_flight: 0,
            reads_waiting: 0,
            log_bytes: 0,
            refuses_leader,
            counters: Counters::default(),
        }
    }

    #[test]
    fn a_node_that_refuses_its_leader_is_not_ready_and_states_why() {
        let leader = Some(ReplicaId(2));
        let refused = RefusedMessage {
            from: ReplicaId(2),
            kind: "AppendEntries",
            reason: RefusalReason::Impossible("entry 7 differs from the committed one".into()),
        };
        let why = not_ready(true, Some(&status(leader, Some(refused)))).unwrap();
        assert!(why.contains("entry 7 differs"), "{why}");
        assert!(why.contains("AppendEntries of replica 1"), "{why}");
        assert_eq!(not_ready(true, Some(&status(leader, None))), None);
    }

    #[test]
    fn a_node_without_registration_or_leader_or_replica_is_not_ready() {
        let leader = Some(ReplicaId(2));
        for (registered, status) in [
            (false, Some(status(leader, None))),
            (true, Some(status(None, None))),
            (true, None),
        ] {
            assert!(not_ready(registered, status.as_ref()).is_some());
        }
    }

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
