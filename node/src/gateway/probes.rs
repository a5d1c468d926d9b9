//! What load balancers and operators ask: does it live, should it get connections, who is it.
//!
//! `/livez` answers as long as the process can answer anything: restarting a node that only lost Redis would help
//! nobody. `/readyz` asks the checks that the node was built with; what they look at is the node's affair.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use mille_shared::NodeId;
use serde_json::json;

/// One thing that is looked at when a node is asked whether it should get new connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Its name, `snake_case`.
    pub name: &'static str,
    /// Whether it holds.
    pub ok: bool,
    /// What an operator should know about it.
    pub detail: String,
    /// Whether the node gets new connections only if it holds. What is not needed is only told.
    pub is_needed: bool,
}

impl Check {
    /// Something that must hold.
    pub fn needed(name: &'static str, ok: bool, detail: impl Into<String>) -> Self {
        Self { name, ok, detail: detail.into(), is_needed: true }
    }
}

/// Asks all checks. Cheap to clone.
#[derive(Clone)]
pub struct Readiness {
    node_id: NodeId,
    checks: Arc<dyn Fn() -> Vec<Check> + Send + Sync>,
}

impl Readiness {
    /// A node's readiness. `checks` is called for every probe, so it looks and never waits.
    pub fn new(node_id: NodeId, checks: impl Fn() -> Vec<Check> + Send + Sync + 'static) -> Self {
        Self { node_id, checks: Arc::new(checks) }
    }

    fn ask(&self) -> (bool, Vec<Check>) {
        let checks = (self.checks)();
        (checks.iter().all(|check| check.ok || !check.is_needed), checks)
    }
}

/// `/livez`, `/readyz` and `/health`.
pub fn router(readiness: Readiness) -> Router {
    Router::new()
        .route("/livez", get(|| async { ([(header::CACHE_CONTROL, "no-store")], "ok\n") }))
        .route("/readyz", get(readyz))
        .route("/health", get(health))
        .with_state(readiness)
}

async fn readyz(State(readiness): State<Readiness>, RawQuery(query): RawQuery) -> Response {
    let (ready, checks) = readiness.ask();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose =
        query.is_some_and(|query| query.split('&').any(|pair| pair == "verbose" || pair.starts_with("verbose=")));
    let fresh = [(header::CACHE_CONTROL, "no-store")];
    if verbose {
        let checks: Vec<_> = checks.iter().map(|c| json!({"name": c.name, "ok": c.ok, "detail": c.detail})).collect();
        return (status, fresh, Json(json!({"ready": ready, "checks": checks}))).into_response();
    }
    let failing: Vec<_> = checks.iter().filter(|check| check.is_needed && !check.ok).map(|check| check.name).collect();
    let text = if ready { "ok\n".to_owned() } else { format!("not ready: {}\n", failing.join(", ")) };
    (status, fresh, text).into_response()
}

async fn health(State(readiness): State<Readiness>) -> Response {
    let (ready, _) = readiness.ask();
    Json(json!({
        "status": if ready { "ok" } else { "unavailable" },
        "service": "mille-node",
        "version": env!("CARGO_PKG_VERSION"),
        "nodeId": readiness.node_id.as_str(),
    }))
    .into_response()
}
