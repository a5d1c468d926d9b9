//! News for collaborators: who comes and goes, where cursors are, what happens to plan nodes and edges.
//!
//! Two sources become one stream: the plan's changes and the project's people. Unlike a delta stream it promises no
//! completeness: it begins with the next event, and what a listener was too slow for is not told again.

use std::sync::Arc;

use async_graphql::{Enum, Object, SimpleObject};
use mille_core::presence::Event;
use mille_core::{Applied, Touch};
use mille_shared::{PlanId, Timestamp, UserId};

use super::events::{touched_edge, touched_node};
use super::types::{PlanDagEdge, PlanDagNode};
use crate::clock;
use crate::project::PlanEvent;

/// One piece of news.
pub(super) struct CollaborationEvent {
    plan: PlanId,
    told: Told,
}

enum Told {
    /// The change's touch with this index.
    Touch(Arc<Applied>, usize),
    Person {
        id: String,
        at: Timestamp,
        event: Person,
    },
}

struct Person {
    user: UserId,
    name: Arc<str>,
    color: Arc<str>,
    what: What,
}

enum What {
    Joined,
    Left,
    Moved { x: f64, y: f64, selected: Option<Arc<str>> },
}

impl CollaborationEvent {
    /// What a plan's event has to tell collaborators.
    pub(super) fn of_plan(plan: PlanId, event: PlanEvent) -> Vec<Self> {
        let PlanEvent::Changed(applied) = event else { return Vec::new() };
        let told = applied.touches.iter().enumerate().filter(|(_, touch)| kind_of(touch).is_some());
        told.map(|(index, _)| Self { plan, told: Told::Touch(Arc::clone(&applied), index) }).collect()
    }

    /// What happened to a project's people, if it concerns this plan: everyone who comes or goes, and the cursors that have
    /// an x and a y, on a canvas or in space, in the document that bears the plan's id.
    pub(super) fn of_people(plan: PlanId, event: Event) -> Option<Self> {
        let event = match event {
            Event::Joined { user, name, color } => Person { user, name, color, what: What::Joined },
            Event::Left { user, name, color } => Person { user, name, color, what: What::Left },
            Event::CursorMoved { user, name, color, document, position, selected } => {
                let (x, y) = position.plane()?;
                // Clients choose their documents' ids. Only one that is the number of another plan is surely not this one's.
                if document.as_str().parse::<i32>().is_ok_and(|other| other != plan.0) {
                    return None;
                }
                Person { user, name, color, what: What::Moved { x, y, selected } }
            }
        };
        let id = uuid::Uuid::new_v4().to_string();
        Some(Self { plan, told: Told::Person { id, at: clock::now(), event } })
    }
}

/// What collaborators of a plan do.
#[Object]
impl CollaborationEvent {
    /// Unique. Of what happens to plan nodes and edges it is the same for every listener: `<revision>.<n>`.
    async fn event_id(&self) -> String {
        match &self.told {
            Told::Touch(applied, index) => format!("{}.{index}", applied.revision()),
            Told::Person { id, .. } => id.clone(),
        }
    }

    /// The plan's id, as text.
    async fn plan_id(&self) -> String {
        self.plan.to_string()
    }

    /// Who.
    async fn user_id(&self) -> &str {
        match &self.told {
            Told::Touch(applied, _) => applied.change.user_id.as_str(),
            Told::Person { event, .. } => event.user.as_str(),
        }
    }

    /// What happened.
    async fn event_type(&self) -> CollaborationEventType {
        match &self.told {
            Told::Touch(applied, index) => {
                kind_of(&applied.touches[*index]).unwrap_or(CollaborationEventType::NodeUpdated)
            }
            Told::Person { event, .. } => match event.what {
                What::Joined => CollaborationEventType::UserJoined,
                What::Left => CollaborationEventType::UserLeft,
                What::Moved { .. } => CollaborationEventType::CursorMoved,
            },
        }
    }

    /// When, RFC 3339 UTC.
    async fn timestamp(&self) -> String {
        match &self.told {
            Told::Touch(applied, _) => applied.change.at.to_string(),
            Told::Person { at, .. } => at.to_string(),
        }
    }

    /// The details: exactly one of these is there.
    async fn data(&self) -> CollaborationEventData<'_> {
        match &self.told {
            Told::Touch(applied, index) => {
                let touch = &applied.touches[*index];
                let node = touched_node(touch).map(|record| PlanDagNode(Arc::clone(record)));
                let edge = touched_edge(touch).map(|record| PlanDagEdge(Arc::clone(record)));
                CollaborationEventData {
                    node_event: node.map(|node| NodeEventData { node }),
                    edge_event: edge.map(|edge| EdgeEventData { edge }),
                    ..CollaborationEventData::default()
                }
            }
            Told::Person { event: Person { user, name, color, what }, .. } => match what {
                What::Joined | What::Left => {
                    let user = UserEventData { user_id: user.as_str(), user_name: name, avatar_color: color };
                    CollaborationEventData { user_event: Some(user), ..CollaborationEventData::default() }
                }
                What::Moved { x, y, selected } => {
                    let cursor = CursorEventData {
                        user_id: user.as_str(),
                        user_name: name,
                        avatar_color: color,
                        position_x: *x,
                        position_y: *y,
                        selected_node_id: selected.as_deref(),
                    };
                    CollaborationEventData { cursor_event: Some(cursor), ..CollaborationEventData::default() }
                }
            },
        }
    }
}

/// What kind of news a touch is. `None`: none of those there are.
fn kind_of(touch: &Touch) -> Option<CollaborationEventType> {
    Some(match touch {
        Touch::NodeAdded(_) => CollaborationEventType::NodeCreated,
        Touch::NodeUpdated(_) | Touch::ExecutionChanged { .. } => CollaborationEventType::NodeUpdated,
        Touch::NodeRemoved(_) => CollaborationEventType::NodeDeleted,
        Touch::EdgeAdded(_) => CollaborationEventType::EdgeCreated,
        Touch::EdgeRemoved(_) => CollaborationEventType::EdgeDeleted,
        Touch::EdgeUpdated(_) | Touch::MetadataUpdated(_) => return None,
    })
}

/// The details of what collaborators do: exactly one of these is there.
#[derive(SimpleObject, Default)]
struct CollaborationEventData<'a> {
    /// What happened to a plan node.
    node_event: Option<NodeEventData>,
    /// What happened to an edge.
    edge_event: Option<EdgeEventData>,
    /// Who came or went.
    user_event: Option<UserEventData<'a>>,
    /// Whose cursor moved where.
    cursor_event: Option<CursorEventData<'a>>,
}

/// What happened to a plan node.
#[derive(SimpleObject)]
struct NodeEventData {
    /// The plan node after it; of a deleted one, as it was.
    node: PlanDagNode,
}

/// What happened to an edge.
#[derive(SimpleObject)]
struct EdgeEventData {
    /// The edge after it; of a deleted one, as it was.
    edge: PlanDagEdge,
}

/// Who came or went.
#[derive(SimpleObject)]
struct UserEventData<'a> {
    /// Who.
    user_id: &'a str,
    /// Their name.
    user_name: &'a str,
    /// Their colour.
    avatar_color: &'a str,
}

/// Whose cursor moved where.
#[derive(SimpleObject)]
struct CursorEventData<'a> {
    /// Who.
    user_id: &'a str,
    /// Their name.
    user_name: &'a str,
    /// Their colour.
    avatar_color: &'a str,
    /// To the right, in the editor's units.
    position_x: f64,
    /// Downwards, in the editor's units.
    position_y: f64,
    /// The plan node they have selected.
    selected_node_id: Option<&'a str>,
}

/// What collaborators do.
#[derive(Enum, Debug, Clone, Copy, PartialEq, Eq)]
enum CollaborationEventType {
    /// A plan node was added.
    NodeCreated,
    /// A plan node has new values, or its execution went on.
    NodeUpdated,
    /// A plan node was deleted.
    NodeDeleted,
    /// An edge was added.
    EdgeCreated,
    /// An edge was deleted.
    EdgeDeleted,
    /// A user came online.
    UserJoined,
    /// A user went offline.
    UserLeft,
    /// A cursor moved.
    CursorMoved,
}
