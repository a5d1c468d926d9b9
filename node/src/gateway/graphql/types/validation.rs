//! What is wrong with a document, and what looks unfinished.

use async_graphql::SimpleObject;
use mille_core::Problem;
use mille_core::plan::Findings;

/// What a check of a document found.
#[derive(SimpleObject)]
pub(crate) struct ValidationResult {
    /// Whether the document could become a plan: whether `errors` is empty.
    is_valid: bool,
    /// The rules it breaks, each with where.
    errors: Vec<ValidationIssue>,
    /// What is allowed and looks unfinished.
    warnings: Vec<ValidationIssue>,
}

impl From<Findings> for ValidationResult {
    fn from(findings: Findings) -> Self {
        Self {
            is_valid: findings.errors.is_empty(),
            errors: findings.errors.into_iter().map(ValidationIssue::from).collect(),
            warnings: findings.warnings.into_iter().map(ValidationIssue::from).collect(),
        }
    }
}

/// One rule that a document breaks, or one thing that looks unfinished.
#[derive(SimpleObject)]
struct ValidationIssue {
    /// The plan node it is about.
    node_id: Option<String>,
    /// The edge it is about.
    edge_id: Option<String>,
    /// Which rule: `DUPLICATE_ID`, `INVALID_ID`, `MISSING_NODE`, `SELF_LOOP`, `CYCLE`, `DUPLICATE_EDGE`,
    /// `INVALID_CONNECTION`, `OUT_OF_RANGE`, `TOO_MANY`, `TOO_LARGE`; as warnings `UNCONNECTED`, `MISSING_INPUT`.
    error_type: &'static str,
    /// In words.
    message: String,
}

impl From<Problem> for ValidationIssue {
    fn from(problem: Problem) -> Self {
        Self {
            node_id: problem.node_id.map(|id| id.to_string()),
            edge_id: problem.edge_id.map(|id| id.to_string()),
            error_type: problem.kind.as_str(),
            message: problem.message,
        }
    }
}
