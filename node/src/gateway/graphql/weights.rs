//! What fields weigh when a query's complexity is counted.
//!
//! A field weighs 1 and its children; those below also do work of their own. The bounds let every field of a whole plan
//! be asked for in one query, and a screen's worth of queries at once, but not the same work a hundred times under a
//! hundred names.

/// A field that asks a project's actor, or Redis.
pub(super) const READ: usize = 10;
/// A field that changes something.
pub(super) const WRITE: usize = 10;
