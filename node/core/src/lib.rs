//! The rules of Mille as machines without I/O: inputs in, effects out.
//!
//! No clock, no task, no random number, no socket: time and chance come in as parameters, what must happen goes out as
//! values. So every rule can be tested in microseconds, and whole clusters can be simulated from a seed. The actors in
//! `mille-node` wait, ask these machines, and perform what they answer.
//!
//! | module | decides |
//! |---|---|
//! | [`plan`] | which operations a plan accepts, and what a change does to it |
//! | [`chain`] | whether two histories are the same |
//! | [`replica`] | in which order changes are applied, committed, repaired |
//! | [`opened`] | how a plan is opened from snapshot and log |
//! | [`replay`] | how the past is told again from snapshot and log |
//! | [`presence`] | who is present, where, and who must hear of it |
//! | [`pressure`] | what a node gives up when it has more to do than it can |
//! | [`allowance`] | what one user may do, over the cluster |

pub mod allowance;
pub mod applied;
pub mod chain;
pub mod opened;
pub mod plan;
pub mod presence;
pub mod pressure;
pub mod refusal;
pub mod replay;
pub mod replica;
mod ring;

pub use applied::{Applied, Touch};
pub use opened::Opened;
pub use plan::{EdgeRecord, NodeRecord, Plan, PlanBounds};
pub use refusal::{Element, Problem, ProblemKind, Refusal};
