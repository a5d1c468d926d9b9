//! Root fields that may be null: one that fails is null with its error beside, and leaves the others of its operation be.
//!
//! The library voids the whole answer when a resolver returns `Err`, even where the schema allows null; a client would
//! then not learn what the mutation before it did. It keeps to the specification for an error inside an `Option`.

use crate::gateway::errors::ApiError;

/// The result of a field that may be null.
pub(super) type Nullable<T> = Option<Result<T, ApiError>>;

/// Runs a resolver whose failure is null.
pub(super) async fn nullable<T>(resolver: impl Future<Output = Result<T, ApiError>>) -> Nullable<T> {
    Some(resolver.await)
}
