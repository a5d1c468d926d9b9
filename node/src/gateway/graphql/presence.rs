//! Who is there, for GraphQL clients: asked, and joined without a presence socket.
//!
//! A guest is somebody who is present through a GraphQL session. The session's end is the end of their outbox, and that
//! is how their project learns that they are gone; then they keep their place for the grace like anyone else. A request
//! over HTTP is such a session too, a short one.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_graphql::{Context, Json, Object, SimpleObject};
use mille_core::presence::{Census, Count, Join, SeatId};
use mille_shared::directory::Role;
use mille_shared::presence::server::DocumentPresence;
use mille_shared::presence::{self, DocumentId, Status};
use mille_shared::{CloseCode, ConnectionId, ErrorCode, NodeId, ProjectId, limits};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::weights::WRITE;
use super::{codes, guard};
use crate::gateway::auth::Identity;
use crate::gateway::errors::ApiError;
use crate::gateway::transport::Session;
use crate::project::presence::{Outgoing, PresenceCommand, silent_outbox};
use crate::project::{Access, OpenError, ProjectHandle, Projects};

/// The colour of who has none in their token.
const COLOR_DEFAULT: &str = "#6b7280";

/// How often a seat is tried to be taken before whoever asked for it is told to come back.
const SEATS_TRIED_MAX: u32 = 3;
/// How soon a guest who lost their seat takes another.
const SIT_AGAIN_AFTER: Duration = Duration::from_millis(200);

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
        guests(ctx)?.join(guard::session(ctx)?, guard::projects(ctx)?, access.project).await?;
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

/// One guest's stay, from the seat they take until they leave, their session ends, or they may not be there any more.
struct Stay {
    guests: Guests,
    key: (ConnectionId, ProjectId),
    projects: Projects,
    identity: Arc<Identity>,
    ended: CancellationToken,
    left: CancellationToken,
}

/// Why a stay goes on no longer, or not here.
enum Over {
    /// They left.
    Left,
    /// Their session ended.
    Ended,
    /// The project let go of its people on this node, or of this one before they sat: there may be another seat.
    Unseated,
    /// They may not be there any more.
    ShownOut,
}

impl Guests {
    /// Takes a seat and answers when it is taken. From then on it is kept, whatever becomes of the project's actor.
    async fn join(&self, session: &Session, projects: &Projects, project: ProjectHandle) -> Result<(), ApiError> {
        let session = (session.connection_id().clone(), session.identity(), session.ended().clone());
        self.seat(session, projects, project).await
    }

    async fn seat(
        &self,
        (connection, identity, ended): (ConnectionId, Arc<Identity>, CancellationToken),
        projects: &Projects,
        project: ProjectHandle,
    ) -> Result<(), ApiError> {
        let key = (connection, project.id());
        let left = CancellationToken::new();
        match self.inner.seated().entry(key.clone()) {
            Entry::Occupied(_) => return Ok(()),
            Entry::Vacant(free) => free.insert(Guest { seat: SeatId(rand::random()), left: left.clone() }),
        };
        let (guests, projects) = (self.clone(), projects.clone());
        let stay = Stay { guests, key, projects, identity, ended, left };
        let (seated, answer) = oneshot::channel();
        // A task of its own, so that an operation which is given up leaves no half a guest behind. Ends with the session, and
        // every session ends before the node does.
        tokio::spawn(stay.last(project, seated));
        answer.await.map_err(|_| codes::draining("the project is stopping on this node"))?
    }

    async fn leave(&self, session: &Session, project: &ProjectHandle) -> Result<(), ApiError> {
        let key = (session.connection_id().clone(), project.id());
        let seat = {
            let mut seated = self.inner.seated();
            let Some(Guest { seat, left }) = seated.remove(&key) else { return Ok(()) };
            left.cancel();
            seat
        };
        Ok(project.presence(PresenceCommand::Leave { seat }).await?)
    }
}

impl Inner {
    /// A panic while the lock was held can't leave the map in a state that matters: it is used on.
    fn seated(&self) -> MutexGuard<'_, HashMap<(ConnectionId, ProjectId), Guest>> {
        self.seated.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stay {
    /// Takes a seat, says so, and takes another whenever it is lost and there may be one.
    async fn last(self, project: ProjectHandle, seated: oneshot::Sender<Result<(), ApiError>>) {
        let mut seated = Some(seated);
        let mut next = Ok(project);
        let mut attempts = 0;
        let refusal: ApiError = loop {
            attempts += 1;
            let over = match next {
                Ok(project) => self.sit(&project, &mut seated).await,
                Err(OpenError::Unavailable) if seated.is_none() => Over::Unseated,
                Err(why) => break why.into(),
            };
            match over {
                Over::Unseated if seated.is_none() || attempts < SEATS_TRIED_MAX => {}
                Over::Unseated => break codes::draining("the project lets go of its people on this node"),
                Over::ShownOut => break codes::no_such_project(),
                Over::Left | Over::Ended => break codes::draining("you left meanwhile"),
            }
            // The first seat is waited for, and is tried again at once. A project that failed again and again is given a while.
            if seated.is_none() {
                tokio::select! {
                    () = self.left.cancelled() => break codes::draining("you left meanwhile"),
                    () = self.ended.cancelled() => break codes::draining("your session ended"),
                    () = tokio::time::sleep(SIT_AGAIN_AFTER) => {}
                }
            }
            let access = self.projects.access(self.key.1, &self.identity.user_id, Role::Viewer).await;
            next = access.map(|access| access.project);
        };
        self.get_up();
        // Who asked may be gone.
        seated.into_iter().for_each(|seated| drop(seated.send(Err(refusal.clone()))));
    }

    /// Takes a seat and keeps it as long as it is there. Answers why it is not any more.
    async fn sit(&self, project: &ProjectHandle, seated: &mut Option<oneshot::Sender<Result<(), ApiError>>>) -> Over {
        let seat = SeatId(rand::random());
        match self.guests.inner.seated().get_mut(&self.key).filter(|_| !self.left.is_cancelled()) {
            Some(guest) => guest.seat = seat,
            None => return Over::Left,
        }
        let (outbox, mut reader) = silent_outbox();
        let join = Box::new(join_of(seat, &self.identity));
        if project.presence(PresenceCommand::Join { join, outbox }).await.is_err() {
            return Over::Unseated;
        }
        // What is asked after it is answered after it: then the seat is taken, or was refused.
        if ask(project, |reply| PresenceCommand::Census { reply }).await.is_err() {
            return Over::Unseated;
        }
        if let Some(outgoing) = reader.try_next() {
            return why_no_seat(&outgoing);
        }
        seated.take().into_iter().for_each(|seated| drop(seated.send(Ok(()))));
        let over = tokio::select! {
            () = self.left.cancelled() => Over::Left,
            () = self.ended.cancelled() => Over::Ended,
            outgoing = reader.next() => why_no_seat(&outgoing),
        };
        // Sent as well as seen by the reader's end, because it is quicker. A project that stops needs neither.
        let command = match over {
            // They may have left while they were about to sit: then this seat was not the one that they left.
            Over::Left => PresenceCommand::Leave { seat },
            _ => PresenceCommand::Lost { seat },
        };
        let _ = project.presence(command).await;
        over
    }

    fn get_up(&self) {
        let mut seated = self.guests.inner.seated();
        // Who left and joined again has another stay.
        if !self.left.is_cancelled() {
            seated.remove(&self.key);
        }
    }
}

/// What the end of a silent outbox means: nothing else comes out of one.
fn why_no_seat(outgoing: &Outgoing) -> Over {
    match outgoing {
        Outgoing::Close(CloseCode::Forbidden, _) => Over::ShownOut,
        _ => Over::Unseated,
    }
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
    use mille_shared::UserId;
    use tokio::time::sleep;

    use super::*;
    use crate::backend::embedded::Embedded;
    use crate::gateway::auth::Scopes;
    use crate::project::tests::{TestNode, eventually};

    async fn present(project: &ProjectHandle) -> Count {
        ask(project, |reply| PresenceCommand::Census { reply }).await.map(|census| census.total).unwrap_or_default()
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_is_seated_when_told_so_and_keeps_a_seat_though_the_project_is_given_up() {
        let node = TestNode::start(&Embedded::new(), "a").await;
        let ada = UserId::new("ada");
        let project = node.projects.create_project("harbour", None, &ada).await.unwrap().project;
        let identity = Identity {
            user_id: ada.clone(),
            name: None,
            color: None,
            agent: true,
            scopes: Scopes::default(),
            expires_at: u64::MAX,
            issued_at: None,
            token_id: None,
        };
        let (guests, ended) = (Guests::default(), CancellationToken::new());
        let session = (ConnectionId::new("s"), Arc::new(identity), ended.clone());
        guests.seat(session, &node.projects, project.clone()).await.unwrap();
        assert_eq!(present(&project).await.connections, 1);
        for _ in 0..4 {
            project.fail().await;
        }
        eventually("it is given up", async || !project.is_served()).await;
        // Beyond the grace of the place that was lost.
        sleep(Duration::from_secs(30)).await;
        let again = node.projects.access(project.id(), &ada, Role::Viewer).await.unwrap().project;
        let Count { users, connections, .. } = present(&again).await;
        assert_eq!((users, connections), (1, 1));
        ended.cancel();
        eventually("they go with their session", async || present(&again).await.users == 0).await;
        assert!(guests.inner.seated().is_empty());
        node.stop().await;
    }

    #[test]
    fn a_name_is_cut_where_presence_cuts_it_and_never_inside_a_letter() {
        assert_eq!(&*shown("Ada"), "Ada");
        let long = shown(&format!("a{}", "ä".repeat(limits::USER_NAME_BYTES_MAX)));
        assert!(long.len() <= limits::USER_NAME_BYTES_MAX && long.ends_with('ä'));
    }
}
