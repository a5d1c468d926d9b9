//! People of several benches: who subscribes, who edits and when, who is present, and how events are checked for holes.

pub(crate) mod alarm;
pub(crate) mod frames;
pub(crate) mod load;
pub(crate) mod presence;
pub(crate) mod schedule;
pub(crate) mod sequence;
pub(crate) mod subscribers;
