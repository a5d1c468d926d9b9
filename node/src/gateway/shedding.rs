//! What the doors do under pressure: first nobody new comes in, then nothing new is begun.
//!
//! A socket is upgraded and closed with 1013, since a browser can't read an HTTP error of a handshake; whatever comes over
//! HTTP is refused with 503. Who is refused costs next to nothing: no query is parsed. What is open stays open, and what
//! was accepted is carried out. Probes and the admin listener are never asked.

use std::sync::Arc;
use std::time::Duration;

use async_graphql::parser::types::{OperationType, Selection};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use mille_shared::ErrorCode;
use rand::Rng as _;

use super::auth::{Authenticator, BearerToken};
use super::errors::ApiError;
use super::router::is_upgrade;
use super::transport::Operation;
use crate::clock::whole_ms;
use crate::metrics::Metrics;
use crate::pressure::{Backlog, Level, Shed};

/// Why a socket is closed that was not let in.
pub const REASON: &str = "overloaded";
/// Between when and when whoever is refused should come back. They are told a time in between by chance, so that they do
/// not come back at once. The least is the time the pressure must be gone for until a level is left.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(10));
/// Mutations that are taken at any level: they keep what is open open, or end it. Whoever shuts somebody out may be
/// mending the pressure.
const SPARED: [&str; 5] =
    ["refreshAuth", "leaveProjectCollaboration", "removeCollaborator", "setCollaborator", "revokeTokens"];

/// What the doors ask. Cheap to clone.
#[derive(Clone, Default)]
pub struct Shedding(Arc<Metrics>);

impl Shedding {
    /// Doors that look at the pressure these metrics know of.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self(metrics)
    }

    /// A count for what waits for one socket.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        self.0.pressure.backlog()
    }

    /// Whether the node is under any pressure.
    #[must_use]
    pub fn is_pressed(&self) -> bool {
        self.0.pressure.level() > Level::Calm
    }

    /// Whether a new socket is not to be let in. Counts it then.
    #[must_use]
    pub fn refuses_socket(&self) -> bool {
        self.refuses(Level::RefuseConnections, Shed::Socket)
    }

    /// Why an operation is not to be begun; `None` if it is, or if it may be one that is always taken, which
    /// [`Self::refusal_of`] tells once it is parsed.
    #[must_use]
    pub fn refusal(&self, query: Option<&str>) -> Option<ApiError> {
        let may_be_spared = query.is_some_and(|query| SPARED.iter().any(|name| query.contains(name)));
        (!may_be_spared && self.refuses(Level::RefuseOperations, Shed::Operation)).then(overloaded)
    }

    /// As [`Self::refusal`], for an operation that is parsed.
    #[must_use]
    pub fn refusal_of(&self, operation: &mut Operation) -> Option<ApiError> {
        let is_pressed = self.0.pressure.level() >= Level::RefuseOperations;
        (is_pressed && !is_spared(operation) && self.refuses(Level::RefuseOperations, Shed::Operation)).then(overloaded)
    }

    fn refuses(&self, from: Level, what: Shed) -> bool {
        let refuses = self.0.pressure.level() >= from;
        if refuses {
            self.0.load.shed(what).increment(1);
        }
        refuses
    }
}

/// Doors behind which a handshake is nothing but a handshake. Anywhere else it is a request, whatever its headers say.
pub(super) const SOCKET_DOORS: [&str; 3] = ["/graphql", "/graphql/ws", "/ws/collaboration"];

/// Refuses what comes over HTTP. Handshakes pass: their doors close them in their own way. So do requests of those who steer
/// the cluster, who may be about to end what presses it.
pub async fn refuse_requests(
    State((shedding, authenticator)): State<(Shedding, Authenticator)>,
    request: Request,
    next: Next,
) -> Response {
    let is_handshake = request.method() == Method::GET
        && is_upgrade(request.headers())
        && SOCKET_DOORS.contains(&request.uri().path());
    let is_full = shedding.0.pressure.level() >= Level::RefuseConnections;
    if is_full && !is_handshake && !steers(&authenticator, request.headers()).await {
        shedding.0.load.shed(Shed::Request).increment(1);
        return overloaded().into_response();
    }
    next.run(request).await
}

async fn steers(authenticator: &Authenticator, headers: &HeaderMap) -> bool {
    match BearerToken::from_authorization(headers) {
        Some(token) => authenticator.verify(&token).await.is_ok_and(|identity| identity.scopes.admin),
        None => false,
    }
}

fn overloaded() -> ApiError {
    let (min, max) = RETRY_AFTER;
    let after = rand::rng().random_range(min..=max);
    ApiError::new(ErrorCode::Overloaded, "this node has more to do than it can; try again later or elsewhere")
        .retry_after_ms(whole_ms(after))
}

/// Whether an operation is made of nothing but what is always taken.
fn is_spared(operation: &mut Operation) -> bool {
    if operation.kind != OperationType::Mutation {
        return false;
    }
    let name = operation.request.operation_name.clone();
    let Ok(document) = operation.request.parsed_query() else { return false };
    let mut asked = document
        .operations
        .iter()
        .filter(|(known, _)| name.as_deref().is_none_or(|name| known.is_some_and(|known| known.as_str() == name)));
    let Some((_, definition)) = asked.next() else { return false };
    definition.node.selection_set.node.items.iter().all(|selection| match &selection.node {
        Selection::Field(field) => SPARED.contains(&field.node.name.node.as_str()),
        Selection::FragmentSpread(_) | Selection::InlineFragment(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::transport::prepared;

    #[test]
    fn only_what_keeps_or_ends_what_is_open_is_spared() {
        for (query, spared) in [
            ("mutation { refreshAuth(token: \"t\") { id } }", true),
            ("mutation { renewed: refreshAuth(token: \"t\") { id } }", true),
            ("mutation M { leaveProjectCollaboration(projectId: 1) }", true),
            ("mutation { revokeTokens(userId: \"u\") }", true),
            ("mutation { refreshAuth(token: \"t\") { id } deleteProject(projectId: 1) }", false),
            ("mutation { ... { refreshAuth(token: \"t\") { id } } }", false),
            ("mutation { deleteProject(projectId: 1) }", false),
            ("query refreshAuth { me { id } }", false),
            ("{ refreshAuth }", false),
        ] {
            assert_eq!(is_spared(&mut prepared(query)), spared, "{query}");
        }
    }

    #[test]
    fn who_is_refused_is_told_when_to_come_back_and_not_all_the_same() {
        let told: Vec<u64> = (0..50).filter_map(|_| overloaded().retry_after_ms).collect();
        assert!(told.iter().all(|ms| (3_000..=10_000).contains(ms)), "{told:?}");
        assert!(told.iter().any(|ms| *ms != told[0]), "all come back at once");
    }

    #[test]
    fn a_calm_node_refuses_nothing() {
        let shedding = Shedding::default();
        assert!(!shedding.refuses_socket());
        assert_eq!(shedding.refusal(Some("{ me { id } }")), None);
    }
}
