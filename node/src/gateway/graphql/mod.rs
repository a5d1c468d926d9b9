//! The schema: the public words of the system, and nothing behind them.
//!
//! A field finds out who asks and what they may do ([`guard`]), asks the project or the cluster, and puts the answer into
//! the schema's types. Rules of plans are the core's, rights are the directory's, codes are given in [`codes`]. What the
//! schema says is kept in `schema.graphql`, and a test compares.

mod codes;
mod collaboration;
#[cfg(test)]
mod contract;
mod edits;
mod events;
mod execution;
mod executor;
mod guard;
mod inputs;
mod mutation;
mod nullable;
mod operation;
mod presence;
mod projection;
mod query;
mod schema;
mod steps;
mod subscription;
mod tokens;
mod types;
mod weights;

pub use executor::MilleExecutor;
pub use mutation::Mutation;
pub use query::Query;
pub use schema::{MilleSchema, executor};
#[doc(hidden)]
pub use steps::writer_of;
pub use subscription::Subscription;
