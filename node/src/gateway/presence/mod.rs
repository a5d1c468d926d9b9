//! The presence socket: `GET /ws/collaboration`.
//!
//! Here is the door: which project, which token, and the upgrade. A handshake with a usable address always upgrades;
//! whoever may not enter is told by a close code, since browsers can't read HTTP errors of a handshake. The conversation
//! is [`session`]'s, what goes out is [`writer`]'s, and what presence means is the project's.

mod limiter;
mod moves;
mod session;
mod token;
mod writer;

use std::borrow::Cow;
use std::sync::Arc;

use axum::Extension;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get};
use futures_util::FutureExt as _;
use mille_shared::directory::Role;
use mille_shared::{CloseCode, ProjectId, limits};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::drain::{Drain, Phase};
use crate::gateway::auth::{Authenticator, BearerToken, Identity, offered_subprotocols};
use crate::gateway::listener::BytesTaken;
use crate::gateway::shedding::{self, Shedding};
use crate::gateway::strangers::Introduction;
use crate::metrics::{CloseReason, Kind, Metrics};
use crate::project::{OpenError, ProjectHandle, Projects};
use crate::quota::{Excess, Place, UserQuotas};

use super::transport::{READ_BUFFER_BYTES, WRITE_BUFFER_BYTES};
use session::Session;
use token::TokenClock;
use writer::{Incoming, Writer};

/// Bytes that may wait in a socket beyond its buffer: a roster of a few thousand people.
const WRITE_BUFFER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What the presence socket needs of the node.
#[derive(Clone)]
pub struct PresenceDoor {
    /// Judges tokens.
    pub authenticator: Authenticator,
    /// Opens projects.
    pub projects: Projects,
    /// What is refused under pressure.
    pub shedding: Shedding,
    /// Counts sockets.
    pub metrics: Arc<Metrics>,
    /// Says when a socket is to go.
    pub drain: Drain,
    /// Where sockets are counted, so that a drain can wait for them.
    pub tasks: TaskTracker,
    /// What users may do over the cluster.
    pub quotas: UserQuotas,
}

/// The route's handler.
pub fn door(door: PresenceDoor) -> MethodRouter<()> {
    get(
        move |taken: Option<Extension<BytesTaken>>,
              introduction: Option<Extension<Introduction>>,
              headers: HeaderMap,
              uri: Uri,
              upgrade: WebSocketUpgrade| async move {
            let introduction = introduction.map(|Extension(introduction)| introduction).unwrap_or_default();
            let taken = taken.map(|Extension(taken)| taken).unwrap_or_default();
            enter(door, taken, introduction, headers, uri, upgrade)
        },
    )
}

fn enter(
    door: PresenceDoor,
    taken: BytesTaken,
    introduction: Introduction,
    headers: HeaderMap,
    uri: Uri,
    upgrade: WebSocketUpgrade,
) -> Response {
    let Some(project) = project_id(uri.query()) else {
        return (StatusCode::BAD_REQUEST, "project_id must be a whole number\n").into_response();
    };
    let token = BearerToken::from_handshake(&headers, uri.query());
    // A browser that offered a subprotocol takes no socket that does not name it.
    let subprotocol = offered_subprotocols(&headers).find(|entry| entry.starts_with("bearer.")).map(str::to_owned);
    let upgrade = upgrade
        .protocols(subprotocol)
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(limits::PRESENCE_FRAME_BYTES_MAX)
        .max_frame_size(limits::PRESENCE_FRAME_BYTES_MAX);
    // In a box: a task reserves all that it ever captures for as long as it runs. The same goes for what happens once.
    let captured = Box::new((door, taken, introduction, token));
    upgrade.on_upgrade(move |socket| {
        let (door, taken, introduction, token) = *captured;
        let opened_at = Instant::now();
        let (tasks, metrics) = (door.tasks.clone(), Arc::clone(&door.metrics));
        metrics.connections.opened(Kind::Presence);
        let (writer, incoming) = Writer::split(socket, taken, Arc::clone(&metrics));
        let beginning = begin(door, introduction, project, token, writer, incoming).boxed();
        let serving = async move {
            let (why, code) = match beginning.await {
                Ok((session, _place)) => session.run().await,
                Err(refused) => refused,
            };
            metrics.connections.closed(Kind::Presence, why, code, opened_at.elapsed());
            tracing::debug!(project.id = %project, code, "presence socket closed");
        };
        // Without a span, as any socket.
        tasks.track_future(serving)
    })
}

/// Lets somebody in, or closes the socket and says why and with which code.
async fn begin(
    door: PresenceDoor,
    introduction: Introduction,
    project: ProjectId,
    token: Option<BearerToken>,
    writer: Writer,
    incoming: Incoming,
) -> Result<(Box<Session>, Place), (CloseReason, u16)> {
    // Before the token is judged, so that no revocation falls in between.
    let revocations = door.authenticator.revoked().watch();
    let span = tracing::info_span!("presence", project.id = %project);
    match admit(&door, &introduction, project, token).instrument(span).await {
        Ok((identity, handle, place)) => {
            let clock = TokenClock::new(&identity, door.authenticator.leeway());
            let session = Session::new(&door, handle, identity, clock, revocations, writer, incoming);
            Ok((Box::new(session), place))
        }
        Err((why, code, reason)) => {
            writer.close(incoming, code, &reason, None).await;
            Err((why, code.as_u16()))
        }
    }
}

/// Lets in who has a good token and is a member. Every other reason is told alike.
async fn admit(
    door: &PresenceDoor,
    introduction: &Introduction,
    project: ProjectId,
    token: Option<BearerToken>,
) -> Result<(Identity, ProjectHandle, Place), (CloseReason, CloseCode, Cow<'static, str>)> {
    if door.drain.phase() >= Phase::Closing {
        return Err((CloseReason::Drain, CloseCode::ServiceRestart, "drain".into()));
    }
    if door.shedding.refuses_socket() {
        return Err((CloseReason::Pressure, CloseCode::TryAgainLater, shedding::REASON.into()));
    }
    let identity = door.authenticator.require(token.as_ref()).await.map_err(|refused| {
        tracing::debug!(%refused, "token refused");
        let (why, code) = refused.closes();
        (why, code, if code == CloseCode::Forbidden { "not allowed" } else { "try again later" }.into())
    })?;
    introduction.known();
    let place = door.quotas.connection(&identity.user_id).await;
    let too_many = |excess: Excess| (CloseReason::TooMany, CloseCode::TryAgainLater, excess.in_words().into());
    let place = place.map_err(too_many)?;
    match door.projects.access(project, &identity.user_id, Role::Viewer).await {
        Ok(access) => Ok((identity, access.project, place)),
        Err(OpenError::Unavailable) => {
            Err((CloseReason::Unavailable, CloseCode::TryAgainLater, "try again later".into()))
        }
        Err(OpenError::Stopping) => Err((CloseReason::Drain, CloseCode::ServiceRestart, "drain".into())),
        Err(_) => Err((CloseReason::NotAMember, CloseCode::Forbidden, "not allowed".into())),
    }
}

fn project_id(query: Option<&str>) -> Option<ProjectId> {
    let value = query?.split('&').find_map(|pair| pair.strip_prefix("project_id="))?;
    let digits = value.strip_prefix('-').unwrap_or(value);
    let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // A number that is too large for a project is that of none.
    is_whole.then(|| ProjectId(value.parse().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_named_by_a_whole_number() {
        assert_eq!(project_id(Some("token=x&project_id=7")), Some(ProjectId(7)));
        assert_eq!(project_id(Some("project_id=99999999999")), Some(ProjectId(0)), "of which there is none");
        for bad in
            [None, Some(""), Some("project_id="), Some("project_id=x"), Some("project_id=1.5"), Some("project=1")]
        {
            assert_eq!(project_id(bad), None, "{bad:?}");
        }
    }
}
