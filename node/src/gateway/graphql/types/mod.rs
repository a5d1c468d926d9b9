//! What the schema gives out.
//!
//! Types hold the shared records of a plan and resolve their fields by reference: a plan of a thousand plan nodes is
//! read without copying one. What a field means is written at the field, since it becomes the schema's documentation.

mod cluster;
mod plan;
mod project;
mod validation;

pub(super) use cluster::ClusterStatus;
pub(super) use plan::{
    DataSourceExecutionMetadata, EdgeDataType, GraphExecutionMetadata, PlanDag, PlanDagEdge, PlanDagMetadata,
    PlanDagNode, PlanDagNodeType,
};
pub(super) use project::{Collaborator, Plan, Project, ProjectRole, Viewer};
pub(super) use validation::ValidationResult;
