//! Where a bench takes place, and what that cost: its project on a cluster, the nodes' processes, and Redis.

pub(crate) mod ground;
pub(crate) mod redis;
pub(crate) mod redis_calls;
pub(crate) mod usage;
