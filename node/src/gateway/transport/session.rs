//! Who is at the other end of a request or socket, for as long as it lasts.
//!
//! Every operation carries an `Arc<Session>` in its data: resolvers read the identity there, at the time they need
//! it, since a fresh token may have taken the old one's place.

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use mille_shared::{ClientId, ConnectionId, Revision};
use tokio_util::sync::CancellationToken;

use crate::gateway::auth::{Authenticator, BearerToken, Identity, TokenRefused};
use crate::gateway::errors::ApiError;

/// The way a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// One request, one answer.
    Http,
    /// One request, a stream of answers.
    EventStream,
    /// A socket that carries many operations.
    WebSocket,
}

/// One caller, from the handshake to the end of the socket or request.
pub struct Session {
    connection_id: ConnectionId,
    client_id: ClientId,
    via: Via,
    identity: ArcSwap<Identity>,
    authenticator: Authenticator,
    ended: CancellationToken,
}

impl Session {
    /// A session of somebody who was just recognised.
    #[must_use]
    pub fn new(identity: Identity, client_id: ClientId, via: Via, authenticator: Authenticator) -> Self {
        Self {
            connection_id: ConnectionId::new(uuid::Uuid::new_v4().simple().to_string()),
            client_id,
            via,
            identity: ArcSwap::from_pointee(identity),
            authenticator,
            ended: CancellationToken::new(),
        }
    }

    /// The socket's id, unique over the cluster. A request without a socket has one of its own.
    #[must_use]
    pub fn connection_id(&self) -> &ConnectionId {
        &self.connection_id
    }

    /// The client program, as it names itself.
    #[must_use]
    pub fn client_id(&self) -> &ClientId {
        &self.client_id
    }

    /// The way this session's operations come.
    #[must_use]
    pub fn via(&self) -> Via {
        self.via
    }

    /// Who it is, by the newest token shown.
    #[must_use]
    pub fn identity(&self) -> Arc<Identity> {
        self.identity.load_full()
    }

    /// Takes a fresh token of the same user. From here on its name, scopes and expiry count.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` when the token is not good or belongs to somebody else; the old one stays in force.
    pub async fn refresh(&self, token: &str) -> Result<Arc<Identity>, ApiError> {
        let fresh = self.authenticator.verify(&BearerToken::new(token)).await?;
        if fresh.user_id != self.identity.load().user_id {
            return Err(self.authenticator.refused(TokenRefused::OtherUser).into());
        }
        let fresh = Arc::new(fresh);
        self.identity.store(Arc::clone(&fresh));
        Ok(fresh)
    }

    /// Cancelled when the socket or request is over: for what lives as long as it.
    #[must_use]
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

/// The revision after which a subscription goes on, as the transport knows it: a reconnecting event stream repeats
/// its old body, so this beats the argument `after`. In the data of every operation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResumeAfter(pub Option<String>);

/// Where a subscription says up to which revision whoever has the event that it just gave out has everything. The event
/// stream makes the event's `id:` of it; the other transports have no use for it. Present in the data of operations that
/// come by event stream.
#[derive(Debug, Clone, Default)]
pub struct EventRevision(Arc<Mutex<Option<Option<Revision>>>>);

impl EventRevision {
    /// To be called right before the event is given out. `None`: more of the same change follow, or it is of none. Such an
    /// event has no `id:`, so that a client who is cut behind it is told the whole change again rather than half of it.
    pub fn set(&self, revision: Option<Revision>) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(revision);
    }

    /// What was set since the last call, if anything was.
    #[must_use]
    pub fn take(&self) -> Option<Option<Revision>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}
