//! What fields weigh when a query's complexity is counted.
//!
//! A field weighs 1 and its children; those below also do work of their own. The bounds let every field of a whole plan
//! be asked for in one query, and a screen's worth of queries at once, but not the same work a hundred times under a
//! hundred names.

/// A field that asks a project's actor, or Redis.
pub(super) const READ: usize = 10;
/// A field that may hold as much as a whole plan, by itself or all together where it stands in a list: plan nodes, patch
/// operations, their texts and values.
pub(super) const BULK: usize = 20;
/// A field that judges a whole document: with a cycle in it, each edge is asked where it leads.
pub(super) const JUDGE: usize = 100;
/// A field that changes something.
pub(super) const WRITE: usize = 10;
