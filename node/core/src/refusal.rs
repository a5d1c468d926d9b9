//! Why an operation is not accepted.
//!
//! A refusal is final for the operation as it is: it names the element and the rule. What may succeed when repeated
//! (a full queue, a store that does not answer) is the replica's and the actor's to say.

use std::fmt;
use std::sync::Arc;

use mille_shared::plan::PlanMetadata;
use mille_shared::{EdgeId, LimitName, PlanNodeId, Revision};

use crate::plan::{EdgeRecord, NodeRecord};

/// Why an operation is not accepted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// What should be edited does not exist (any more).
    #[error("{0} does not exist")]
    NotFound(ElementId),
    /// It breaks a rule of plans.
    #[error("{0}")]
    Invalid(Problem),
    /// An element it touches changed after the revision it expected, or may have, since the log does not have that one.
    #[error("{} changed {}", .current.id(), after(*expected, *revision))]
    Conflict {
        /// The revision the operation expected.
        expected: Revision,
        /// The element as it is now.
        current: Element,
        /// The change that made it so.
        revision: Revision,
    },
    /// More of something than a plan holds.
    #[error("{what}: at most {limit} {}", .what.in_words())]
    TooMany {
        /// What there would be too many of.
        what: LimitName,
        /// How many there may be.
        limit: usize,
    },
    /// A text is larger than its field takes.
    #[error("{what}: at most {limit} {}", .what.in_words())]
    TooLarge {
        /// Which field.
        what: LimitName,
        /// How many bytes it may have.
        limit: usize,
    },
}

fn after(expected: Revision, revision: Revision) -> String {
    if revision > expected {
        return format!("after {expected}");
    }
    format!("with {revision}; {expected} is not in the log")
}

/// Which element of a plan is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElementId {
    /// A plan node.
    Node(PlanNodeId),
    /// An edge.
    Edge(EdgeId),
    /// What the plan says of itself.
    Metadata,
}

impl fmt::Display for ElementId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "plan node '{id}'"),
            Self::Edge(id) => write!(f, "edge '{id}'"),
            Self::Metadata => f.write_str("the plan's metadata"),
        }
    }
}

/// An element of a plan as it is.
#[derive(Debug, Clone, PartialEq)]
pub enum Element {
    /// A plan node.
    Node(Arc<NodeRecord>),
    /// An edge.
    Edge(Arc<EdgeRecord>),
    /// What the plan says of itself.
    Metadata(Box<PlanMetadata>),
}

impl Element {
    /// Which one it is.
    #[must_use]
    pub fn id(&self) -> ElementId {
        match self {
            Self::Node(record) => ElementId::Node(record.node.id.clone()),
            Self::Edge(record) => ElementId::Edge(record.edge.id.clone()),
            Self::Metadata(_) => ElementId::Metadata,
        }
    }
}

/// A rule of plans that something breaks (or, as a warning, a plan that is allowed but looks unfinished).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The plan node it is about.
    pub node_id: Option<PlanNodeId>,
    /// The edge it is about.
    pub edge_id: Option<EdgeId>,
    /// Which rule.
    pub kind: ProblemKind,
    /// In words.
    pub message: String,
}

impl Problem {
    /// A problem of a plan node.
    pub fn of_node(id: &PlanNodeId, kind: ProblemKind, message: impl Into<String>) -> Self {
        Self { node_id: Some(id.clone()), edge_id: None, kind, message: message.into() }
    }

    /// A problem of an edge.
    pub fn of_edge(id: &EdgeId, kind: ProblemKind, message: impl Into<String>) -> Self {
        Self { node_id: None, edge_id: Some(id.clone()), kind, message: message.into() }
    }

    /// A problem of the plan or the request as a whole.
    pub fn of_plan(kind: ProblemKind, message: impl Into<String>) -> Self {
        Self { node_id: None, edge_id: None, kind, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The rules of plans, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProblemKind {
    /// An id is taken.
    DuplicateId,
    /// An id has characters or a length that ids may not have.
    InvalidId,
    /// An edge begins or ends at a plan node that does not exist.
    MissingNode,
    /// An edge leads from a plan node to itself.
    SelfLoop,
    /// An edge would close a cycle.
    Cycle,
    /// A second edge between the same pair with the same data type.
    DuplicateEdge,
    /// An input into a `DataSourceNode`, an output from an `OutputNode`, a second input into anything but a `MergeNode`.
    InvalidConnection,
    /// A number is not finite or out of bounds.
    OutOfRange,
    /// An execution report that its run's history rules out.
    InvalidTransition,
    /// More elements than a plan holds.
    TooMany,
    /// A text larger than its field takes.
    TooLarge,
    /// Warning: a plan node without any edge.
    Unconnected,
    /// Warning: an `OutputNode` without an input, or a `MergeNode` with fewer than two.
    MissingInput,
}

impl ProblemKind {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DuplicateId => "DUPLICATE_ID",
            Self::InvalidId => "INVALID_ID",
            Self::MissingNode => "MISSING_NODE",
            Self::SelfLoop => "SELF_LOOP",
            Self::Cycle => "CYCLE",
            Self::DuplicateEdge => "DUPLICATE_EDGE",
            Self::InvalidConnection => "INVALID_CONNECTION",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::InvalidTransition => "INVALID_TRANSITION",
            Self::TooMany => "TOO_MANY",
            Self::TooLarge => "TOO_LARGE",
            Self::Unconnected => "UNCONNECTED",
            Self::MissingInput => "MISSING_INPUT",
        }
    }
}
