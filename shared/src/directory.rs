//! Projects, their plans and their members.

use serde::{Deserialize, Serialize};

use crate::{PlanId, ProjectId, Timestamp, UserId};

/// A project, without its plans and members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Project {
    /// Its id.
    pub id: ProjectId,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its name, members or list of plans last changed.
    pub updated_at: Timestamp,
}

/// A plan's entry in its project: all but the document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Its id.
    pub id: PlanId,
    /// The project it belongs to.
    pub project_id: ProjectId,
    /// The name it was made with.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A user's part in a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Who.
    pub user_id: UserId,
    /// What they may do.
    pub role: Role,
    /// Since when.
    pub added_at: Timestamp,
}

/// What a member may do. Ordered: each may all that the ones before may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Read, subscribe, be present.
    Viewer,
    /// Also edit plans and report executions.
    Editor,
    /// Also choose members and delete the project.
    Owner,
}

impl Role {
    /// The name in stores and control messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Owner => "owner",
        }
    }

    /// The role of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Viewer, Self::Editor, Self::Owner].into_iter().find(|role| role.as_str() == text)
    }
}
