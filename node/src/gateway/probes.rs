//! What load balancers and operators ask: does it live, should it get connections, who is it.
//!
//! `/livez` fails only for what a restart would mend: a node that only lost Redis lives, and one whose event loop stands still
//! does not answer at all. `/readyz` says whether the node should get new connections. Both ask the checks that the node was
//! built with; what they look at is the node's affair.

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

    /// Something that is only told.
    pub fn told(name: &'static str, ok: bool, detail: impl Into<String>) -> Self {
        Self { is_needed: false, ..Self::needed(name, ok, detail) }
    }
}

/// The question a probe asks.
type Question = Arc<dyn Fn() -> Vec<Check> + Send + Sync>;

/// Asks all checks. Cheap to clone.
#[derive(Clone)]
pub struct Readiness {
    node_id: NodeId,
    checks: Question,
    life: Question,
}

impl Readiness {
    /// A node's readiness. `checks` is called for every probe, so it looks and never waits.
    pub fn new(node_id: NodeId, checks: impl Fn() -> Vec<Check> + Send + Sync + 'static) -> Self {
        Self { node_id, checks: Arc::new(checks), life: Arc::new(Vec::new) }
    }

    /// Also with what must hold for the process to make progress; asked like the others. Without, it lives if it answers.
    #[must_use]
    pub fn with_life(self, life: impl Fn() -> Vec<Check> + Send + Sync + 'static) -> Self {
        Self { life: Arc::new(life), ..self }
    }

    /// Whether the node should get new connections, and why.
    pub(super) fn ask(&self) -> (bool, Vec<Check>) {
        judged((self.checks)())
    }
}

fn judged(checks: Vec<Check>) -> (bool, Vec<Check>) {
    (checks.iter().all(|check| check.ok || !check.is_needed), checks)
}

/// `/livez`, `/readyz` and `/health`.
pub fn router(readiness: Readiness) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/health", get(health))
        .with_state(readiness)
}

async fn livez(State(readiness): State<Readiness>, RawQuery(query): RawQuery) -> Response {
    answer("alive", judged((readiness.life)()), query.as_deref())
}

async fn readyz(State(readiness): State<Readiness>, RawQuery(query): RawQuery) -> Response {
    answer("ready", readiness.ask(), query.as_deref())
}

/// Two words for machines, or with `?verbose` each check.
fn answer(word: &str, (holds, checks): (bool, Vec<Check>), query: Option<&str>) -> Response {
    let status = if holds { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose =
        query.is_some_and(|query| query.split('&').any(|pair| pair == "verbose" || pair.starts_with("verbose=")));
    let fresh = [(header::CACHE_CONTROL, "no-store")];
    if verbose {
        let checks: Vec<_> = checks.iter().map(|c| json!({"name": c.name, "ok": c.ok, "detail": c.detail})).collect();
        return (status, fresh, Json(json!({word: holds, "checks": checks}))).into_response();
    }
    let failing: Vec<_> = checks.iter().filter(|check| check.is_needed && !check.ok).map(|check| check.name).collect();
    let text = if holds { "ok\n".to_owned() } else { format!("not {word}: {}\n", failing.join(", ")) };
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
