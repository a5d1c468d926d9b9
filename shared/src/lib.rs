//! What every part of Mille agrees on: ids, revisions, plan documents, changes, presence, codes and limits.
//!
//! Nothing here does I/O, reads a clock or decides anything: it is the vocabulary and the wire format. The rules
//! live in `mille-core`, the doors in `mille-node`. A name means one thing:
//!
//! | word | meaning |
//! |---|---|
//! | node | one process of the cluster; its id is a name and an incarnation |
//! | plan node | a vertex of a plan's DAG |
//! | operation | what a user asks for |
//! | change | an accepted operation, as facts; it has a revision |
//! | delta | a change as a JSON Patch |
//! | revision | a place in a plan's log, `<epoch>-<seq>` |
//! | position | where a cursor or a plan node is; never a place in a log |
//! | connection, user | one socket; a user may have several |

pub mod change;
pub mod codes;
pub mod delta;
pub mod directory;
pub mod execution;
pub mod facts;
pub mod ids;
pub mod limit_name;
pub mod limits;
pub mod log;
pub mod operation;
pub mod plan;
pub mod presence;
pub mod revision;
pub mod revocation;
pub mod timestamp;
pub mod trace;

pub use codes::{CloseCode, ErrorCode};
pub use ids::{
    ClientId, ConnectionId, EdgeId, NodeId, OperationId, PlanId, PlanNodeId, ProjectId, RunId, TokenId, UserId,
};
pub use limit_name::LimitName;
pub use revision::Revision;
pub use timestamp::Timestamp;
pub use trace::TraceParent;
