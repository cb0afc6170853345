//! Health, status and metrics over HTTP, on loopback unless configured otherwise.

#[cfg(feature = "cli")]
mod client;
mod report;

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tracing::error;

use crate::cluster::Metadata;
use crate::config::ClusterConfig;
use crate::metrics::Metrics;
use replicated_log::links::LinkCounters;

#[cfg(feature = "cli")]
pub use client::{ReportError, cluster_report, is_ready, node_report};
pub use report::{ClusterReport, NodeReport};

/// What the endpoint reports.
pub(crate) struct Admin {
    pub(crate) config: ClusterConfig,
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) links: Arc<LinkCounters>,
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
        .with_state(Arc::new(admin));
    if let Err(failure) = axum::serve(listener, app).await {
        error!(%failure, "the admin endpoint has stopped");
    }
}

/// A node is ready when it can serve requests: this incarnation is registered in the
/// state that it has applied, and it knows a leader.
async fn readyz(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    let registered = {
        let state = admin.metadata.reader.read();
        let me = state.node(admin.metadata.me);
        me.is_some_and(|node| node.live && node.info.incarnation == admin.incarnation)
            && state.user_by_id(0).is_some()
    };
    match (registered, admin.metadata.leadership().leader) {
        (true, Some(_)) => (StatusCode::OK, "ready\n"),
        (false, _) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "this node is not registered yet\n",
        ),
        (_, None) => (StatusCode::SERVICE_UNAVAILABLE, "no leader is known\n"),
    }
}

async fn status(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    match admin.metadata.log.status().await {
        Some(status) => Json(admin.report(&status)).into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match admin.metadata.log.status().await {
        Some(status) => (
            [(header::CONTENT_TYPE, format)],
            admin.metrics.render(&status, &admin.links),
        )
            .into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}
