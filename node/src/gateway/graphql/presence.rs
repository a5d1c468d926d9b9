//! Who is there, for GraphQL clients: asked, and joined without a presence socket.
//!
//! A guest is somebody who is present through a GraphQL session. The session's end is the end of their outbox, and that
//! is how their project learns that they are gone; then they keep their place for the grace like anyone else. A request
//! over HTTP is such a session too, a short one.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_graphql::{Context, Json, Object, SimpleObject};
use mille_core::presence::{Census, Count, Join, SeatId};
use mille_shared::directory::Role;
use mille_shared::presence::server::DocumentPresence;
use mille_shared::presence::{self, DocumentId, Status};
use mille_shared::{ConnectionId, ErrorCode, NodeId, ProjectId, limits};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::weights::WRITE;
use super::{codes, guard};
use crate::gateway::auth::Identity;
use crate::gateway::errors::ApiError;
use crate::gateway::transport::Session;
use crate::project::presence::{OutboxReader, Outgoing, PresenceCommand, silent_outbox};
use crate::project::{Access, ProjectHandle};

/// The colour of who has none in their token.
const COLOR_DEFAULT: &str = "#6b7280";

/// Presence without a presence socket.
#[derive(Default)]
pub(super) struct PresenceMutations;

#[Object]
impl PresenceMutations {
    /// Makes the caller present in a project for as long as this GraphQL socket lives; over HTTP, for the grace of 10 s.
    /// Joining twice is joining once.
    #[graphql(complexity = "WRITE")]
    async fn join_project_collaboration(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
    ) -> Result<bool, ApiError> {
        let access = guard::project(ctx, project_id, Role::Viewer).await?;
        guests(ctx)?.join(guard::session(ctx)?, &access.project).await?;
        Ok(true)
    }

    /// Ends the presence that this GraphQL socket gave the caller, at once. True also if there was none.
    #[graphql(complexity = "WRITE")]
    async fn leave_project_collaboration(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The project.")] project_id: i32,
    ) -> Result<bool, ApiError> {
        let access = guard::project(ctx, project_id, Role::Viewer).await?;
        guests(ctx)?.leave(guard::session(ctx)?, &access.project).await?;
        Ok(true)
    }
}

fn guests<'c>(ctx: &Context<'c>) -> Result<&'c Guests, ApiError> {
    let missing = || ApiError::new(ErrorCode::InternalError, "the schema was built without guests");
    ctx.data_opt::<Guests>().ok_or_else(missing)
}

/// Everyone present, over all nodes.
pub(super) async fn users(access: &Access) -> Result<Vec<UserPresence>, ApiError> {
    let users = ask(&access.project, |reply| PresenceCommand::Users { reply }).await?;
    Ok(users.into_iter().map(UserPresence).collect())
}

/// How many are present where.
pub(super) async fn health(access: &Access) -> Result<ProjectHealthReport, ApiError> {
    let census = ask(&access.project, |reply| PresenceCommand::Census { reply }).await?;
    Ok(ProjectHealthReport::new(access.project.id(), census))
}

/// Asks a project's presence and waits for the answer.
pub(super) async fn ask<T>(
    project: &ProjectHandle,
    command: impl FnOnce(oneshot::Sender<T>) -> PresenceCommand,
) -> Result<T, ApiError> {
    let (reply, answer) = oneshot::channel();
    project.presence(command(reply)).await?;
    answer.await.map_err(|_| codes::draining("the project is stopping on this node"))
}

/// Everyone who is present through a GraphQL session of this node. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Guests {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Who sits where. Locked only to look up or change.
    seated: Mutex<HashMap<(ConnectionId, ProjectId), Guest>>,
}

struct Guest {
    seat: SeatId,
    /// Cancelled when they leave before their session ends.
    left: CancellationToken,
}

impl Guests {
    async fn join(&self, session: &Session, project: &ProjectHandle) -> Result<(), ApiError> {
        let seat = SeatId(rand::random());
        let key = (session.connection_id().clone(), project.id());
        let left = CancellationToken::new();
        {
            let mut seated = self.inner.seated();
            if seated.contains_key(&key) {
                return Ok(());
            }
            seated.insert(key.clone(), Guest { seat, left: left.clone() });
        }
        let (outbox, reader) = silent_outbox();
        let join = Box::new(join_of(seat, &session.identity()));
        if let Err(why) = project.presence(PresenceCommand::Join { join, outbox }).await {
            self.inner.seated().remove(&key);
            return Err(why.into());
        }
        // Ends with the session, and every session ends before the node does.
        tokio::spawn(sit(Arc::clone(&self.inner), key, seat, project.clone(), reader, session.ended().clone(), left));
        Ok(())
    }

    async fn leave(&self, session: &Session, project: &ProjectHandle) -> Result<(), ApiError> {
        let key = (session.connection_id().clone(), project.id());
        let Some(guest) = self.inner.seated().remove(&key) else { return Ok(()) };
        let left = project.presence(PresenceCommand::Leave { seat: guest.seat }).await;
        guest.left.cancel();
        Ok(left?)
    }
}

impl Inner {
    /// A panic while the lock was held can't leave the map in a state that matters: it is used on.
    fn seated(&self) -> MutexGuard<'_, HashMap<(ConnectionId, ProjectId), Guest>> {
        self.seated.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a guest's seat until they leave, their session ends, or the project shows them out.
async fn sit(
    guests: Arc<Inner>,
    key: (ConnectionId, ProjectId),
    seat: SeatId,
    project: ProjectHandle,
    mut reader: OutboxReader,
    ended: CancellationToken,
    left: CancellationToken,
) {
    let shown_out = async { while !matches!(reader.next().await, Outgoing::Close(..) | Outgoing::Ended) {} };
    tokio::select! {
        () = left.cancelled() => return,
        () = ended.cancelled() => {}
        () = shown_out => {}
    }
    {
        let mut seated = guests.seated();
        if seated.get(&key).is_some_and(|guest| guest.seat == seat) {
            seated.remove(&key);
        }
    }
    // Sent as well as seen by the reader's end, because it is quicker. A project that stops needs neither.
    let _ = project.presence(PresenceCommand::Lost { seat }).await;
}

fn join_of(seat: SeatId, identity: &Identity) -> Join {
    Join {
        seat,
        connection: ConnectionId::new(uuid::Uuid::new_v4().simple().to_string()),
        user: identity.user_id.clone(),
        name: shown(identity.name.as_deref().unwrap_or_else(|| identity.user_id.as_str())),
        color: shown(identity.color.as_deref().unwrap_or(COLOR_DEFAULT)),
        agent: identity.agent,
        document: None,
        resume: None,
        secret: rand::random(),
        is_welcomed: false,
    }
}

/// As much of a token's name or colour as presence tells.
fn shown(text: &str) -> Arc<str> {
    text[..text.floor_char_boundary(limits::USER_NAME_BYTES_MAX)].into()
}

/// A user's presence, over all their connections and nodes.
pub(super) struct UserPresence(presence::UserPresence);

/// A user's presence in a project, over all their connections and nodes.
#[Object]
impl UserPresence {
    /// Who.
    async fn user_id(&self) -> &str {
        self.0.user_id.as_str()
    }

    /// Their name, as their newest connection gave it.
    async fn user_name(&self) -> &str {
        &self.0.user_name
    }

    /// Their colour, as their newest connection gave it.
    async fn avatar_color(&self) -> &str {
        &self.0.avatar_color
    }

    /// Whether any connection is left.
    async fn is_online(&self) -> bool {
        self.0.is_online
    }

    /// Whether they are a program.
    async fn is_agent(&self) -> bool {
        self.0.is_agent
    }

    /// `active`, `idle` or `away`: that of the most present connection.
    async fn status(&self) -> &'static str {
        Status::as_str(self.0.status)
    }

    /// When they last did something, RFC 3339 UTC.
    async fn last_active(&self) -> String {
        self.0.last_active.to_string()
    }

    /// How many sockets they have.
    async fn connections(&self) -> i32 {
        int(self.0.connections)
    }

    /// The documents they are in, by id: `{documentType, position, selectedNodeId, lastActiveInDocument}` each.
    async fn documents(&self) -> Json<&BTreeMap<DocumentId, DocumentPresence>> {
        Json(&self.0.documents)
    }
}

/// How many are present in a project.
#[derive(SimpleObject)]
pub(super) struct ProjectHealthReport {
    /// The project.
    project_id: i32,
    /// Users present, each counted once.
    active_users: i32,
    /// Their connections, those in their grace included.
    active_connections: i32,
    /// Documents with somebody in them.
    active_documents: i32,
    /// The same per node, ordered by id. A user may be on several.
    nodes: Vec<NodeHealthReport>,
}

/// How many are present in a project through one node.
#[derive(SimpleObject)]
struct NodeHealthReport {
    /// The node: name and incarnation.
    node_id: String,
    /// Users present there.
    active_users: i32,
    /// Their connections there, those in their grace included.
    active_connections: i32,
    /// Documents with somebody of that node in them.
    active_documents: i32,
}

impl ProjectHealthReport {
    fn new(project: ProjectId, census: Census) -> Self {
        let Count { users, connections, documents } = census.total;
        Self {
            project_id: project.0,
            active_users: int(users),
            active_connections: int(connections),
            active_documents: int(documents),
            nodes: census.nodes.into_iter().map(NodeHealthReport::from).collect(),
        }
    }
}

impl From<(NodeId, Count)> for NodeHealthReport {
    fn from((node, Count { users, connections, documents }): (NodeId, Count)) -> Self {
        Self {
            node_id: node.to_string(),
            active_users: int(users),
            active_connections: int(connections),
            active_documents: int(documents),
        }
    }
}

fn int(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_where_presence_cuts_it_and_never_inside_a_letter() {
        assert_eq!(&*shown("Ada"), "Ada");
        let long = shown(&format!("a{}", "ä".repeat(limits::USER_NAME_BYTES_MAX)));
        assert!(long.len() <= limits::USER_NAME_BYTES_MAX && long.ends_with('ä'));
    }
}
