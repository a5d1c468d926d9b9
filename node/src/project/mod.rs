//! Projects: one actor each, started once per node, and the handles others hold.
//!
//! The actor owns everything of its project on this node: the open plans' replicas, who listens to them, who is present.
//! It asks `mille-core` what to do and performs it; it never waits for a socket or for the store, so one slow client or
//! one slow plan delays nobody else. What must be awaited (a commit, a read of the log) runs beside it and comes back
//! as an input.

mod access;
mod actor;
mod aside;
mod command;
mod config;
mod died;
mod follow;
mod guards;
mod handle;
mod past;
mod plans;
pub mod presence;
mod reader;
mod registry;
mod replay;
mod slots;
mod store;

pub use access::{Access, Members};
pub use command::{Accepted, DeltaPage, Pace, PlanEvent, Progress, Rejection};
pub use config::ProjectsConfig;
pub use follow::{Ended, Following, Place, Start, Telling};
pub use handle::ProjectHandle;
pub use plans::PlanSettings;
pub use registry::{Mailboxes, OpenError, Projects};

#[cfg(test)]
pub(crate) mod tests;
