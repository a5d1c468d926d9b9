//! What went wrong below the schema, as the codes of the contract.
//!
//! Every refusal of a plan, a project or a stream becomes an [`ApiError`] here and nowhere else, so the same cause has
//! the same code at every field. The texts are those of the causes, clipped: they may quote an id that a client sent.

use mille_core::refusal::Element;
use mille_core::{Problem, Refusal};
use mille_shared::ids::IdError;
use mille_shared::revision::MalformedRevision;
use mille_shared::{ErrorCode, LimitName, limits};
use serde::Serialize;

use crate::gateway::errors::{ApiError, clipped};
use crate::project::{Ended, OpenError, Rejection};

/// When an overloaded plan may be asked again, in milliseconds.
const OVERLOADED_RETRY_MS: u64 = 500;
/// When a store that did not answer may be asked again, in milliseconds.
const UNAVAILABLE_RETRY_MS: u64 = 1_000;
/// When another node may be asked instead of one that stops, in milliseconds.
const DRAINING_RETRY_MS: u64 = 100;

/// A refusal of what can never succeed as it is.
pub(super) fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::ValidationFailed, clipped(message.into()))
}

/// The same answer for what does not exist and for what the caller may not know of.
pub(super) fn no_such_project() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "there is no such project, or you are no member of it")
}

/// The plan is none of the project's, or of no project that the caller is in.
pub(super) fn no_such_plan() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "there is no such plan")
}

/// The caller is known and may not do this.
pub(super) fn forbidden(message: &'static str) -> ApiError {
    ApiError::new(ErrorCode::Forbidden, message)
}

/// Redis, or whatever stands in its place, did not answer.
pub(super) fn unavailable(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Unavailable, message.into()).retry_after_ms(UNAVAILABLE_RETRY_MS)
}

/// The node has too much to do for this right now.
pub(super) fn overloaded(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Overloaded, message.into()).retry_after_ms(OVERLOADED_RETRY_MS)
}

/// The node, or what this needs of it, is being taken out.
pub(super) fn draining(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Draining, message.into()).retry_after_ms(DRAINING_RETRY_MS)
}

impl From<OpenError> for ApiError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NotFound => no_such_project(),
            OpenError::Forbidden => forbidden("your role in this project does not allow this"),
            OpenError::LastOwner => invalid("a project keeps at least one owner"),
            OpenError::NoSuchMember => Self::new(ErrorCode::NotFound, "there is no such member in this project"),
            OpenError::Unavailable => unavailable("the directory of projects does not answer"),
            OpenError::Stopping => draining("this node is stopping"),
        }
    }
}

impl From<Rejection> for ApiError {
    fn from(rejection: Rejection) -> Self {
        let message = rejection.to_string();
        match rejection {
            Rejection::Refused(refusal) => Self::from(*refusal),
            Rejection::NoSuchPlan => no_such_plan(),
            Rejection::Unrecoverable { head, .. } => {
                Self::new(ErrorCode::UnrecoverableRevision, message).revision(head)
            }
            Rejection::Forbidden => Self::new(ErrorCode::Forbidden, message),
            Rejection::Overloaded => {
                let (name, limit) = (LimitName::PendingOperations, limits::PENDING_OPERATIONS_MAX);
                overloaded(format!("{name}: {message}, at most {limit} may")).limit(name, limit)
            }
            Rejection::Unavailable | Rejection::Unconfirmed => unavailable(message),
            Rejection::Stopping => draining(message),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let message = clipped(refusal.to_string());
        match refusal {
            Refusal::NotFound(_) => Self::new(ErrorCode::NotFound, message),
            Refusal::Invalid(Problem { .. }) => Self::new(ErrorCode::ValidationFailed, message),
            Refusal::Conflict { current, revision, .. } => {
                Self::new(ErrorCode::Conflict, message).revision(revision).current(as_json(&current))
            }
            Refusal::TooMany { what, limit } => Self::new(ErrorCode::LimitExceeded, message).limit(what, limit),
            Refusal::TooLarge { what, limit } => Self::new(ErrorCode::PayloadTooLarge, message).limit(what, limit),
        }
    }
}

impl From<Ended> for ApiError {
    fn from(ended: Ended) -> Self {
        let message = ended.to_string();
        match ended {
            Ended::Forbidden => Self::new(ErrorCode::Forbidden, message),
            Ended::Gone => Self::new(ErrorCode::NotFound, message),
            Ended::Stopping => draining(message),
        }
    }
}

impl From<IdError> for ApiError {
    fn from(error: IdError) -> Self {
        invalid(error.to_string())
    }
}

impl From<MalformedRevision> for ApiError {
    fn from(error: MalformedRevision) -> Self {
        invalid(error.to_string())
    }
}

/// The element that a conflicting edit did not know, in the shape of the document, with its revision beside.
fn as_json(element: &Element) -> serde_json::Value {
    fn shape(element: &impl Serialize) -> serde_json::Value {
        serde_json::to_value(element).unwrap_or_default()
    }
    let (mut value, revision) = match element {
        Element::Node(record) => (shape(&record.node), Some(record.revision)),
        Element::Edge(record) => (shape(&record.edge), Some(record.revision)),
        Element::Metadata(metadata) => (shape(metadata), None),
    };
    if let (Some(fields), Some(revision)) = (value.as_object_mut(), revision) {
        fields.insert("revision".to_owned(), revision.to_string().into());
    }
    value
}

#[cfg(test)]
mod tests {
    use crate::gateway::errors::MESSAGE_BYTES_MAX;
    use mille_core::refusal::{ElementId, ProblemKind};
    use mille_shared::{PlanNodeId, Revision};

    use super::*;

    fn code_of(cause: impl Into<ApiError>) -> &'static str {
        cause.into().code.as_str()
    }

    #[test]
    fn every_cause_has_the_code_of_the_contract() {
        let id = PlanNodeId::new("a");
        let problem = Problem::of_node(&id, ProblemKind::Cycle, "round and round");
        assert_eq!(code_of(Refusal::NotFound(ElementId::Node(id))), "NOT_FOUND");
        assert_eq!(code_of(Refusal::Invalid(problem)), "VALIDATION_FAILED");
        assert_eq!(code_of(Refusal::TooMany { what: LimitName::PlanEdges, limit: 3 }), "LIMIT_EXCEEDED");
        assert_eq!(code_of(Refusal::TooLarge { what: LimitName::ConfigBytes, limit: 3 }), "PAYLOAD_TOO_LARGE");
        assert_eq!(code_of(OpenError::NotFound), "NOT_FOUND");
        assert_eq!(code_of(OpenError::LastOwner), "VALIDATION_FAILED");
        assert_eq!(code_of(Ended::Forbidden), "FORBIDDEN");
        assert_eq!(code_of(Ended::Stopping), "DRAINING");
        assert_eq!(code_of(IdError::Empty), "VALIDATION_FAILED");
        assert_eq!(code_of(MalformedRevision), "VALIDATION_FAILED");
    }

    #[test]
    fn what_may_succeed_later_says_when() {
        for rejection in [Rejection::Overloaded, Rejection::Unavailable, Rejection::Unconfirmed, Rejection::Stopping] {
            let error = ApiError::from(rejection.clone());
            assert!(error.code.is_retryable() && error.retry_after_ms.is_some(), "{rejection:?}");
        }
        assert!(!ApiError::from(Rejection::Forbidden).code.is_retryable());
    }

    #[test]
    fn an_unrecoverable_revision_is_told_where_the_log_is() {
        let head = Revision { epoch: 7, seq: 9 };
        let error = ApiError::from(Rejection::Unrecoverable { after: Revision { epoch: 6, seq: 1 }, head });
        assert_eq!((error.code, error.revision), (ErrorCode::UnrecoverableRevision, Some(head)));
    }

    #[test]
    fn a_long_id_is_not_sent_back() {
        let id = PlanNodeId::new("ä".repeat(100_000));
        let error = ApiError::from(Refusal::NotFound(ElementId::Node(id)));
        assert!(error.message.len() < 2 * MESSAGE_BYTES_MAX, "{} bytes", error.message.len());
    }
}
