//! What is to happen however the start of a project, or its actor, ends.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use crate::backend::Channel;
use crate::bridge::{Bridge, FeedSender};
use crate::metrics::Metrics;

/// Forgets a channel, unless its project starts: whoever waits for the start may hang up in the middle of it.
pub(super) struct ForgetOnDrop {
    pub(super) bridge: Bridge,
    pub(super) channel: Channel,
    pub(super) feed: Option<FeedSender>,
    pub(super) tasks: TaskTracker,
}

impl ForgetOnDrop {
    /// The actor forgets it.
    pub(super) fn keep(mut self) {
        self.feed = None;
    }
}

impl Drop for ForgetOnDrop {
    fn drop(&mut self) {
        // Without a runtime the process ends, and its subscription with it.
        if let (Some(feed), Ok(runtime)) = (self.feed.take(), tokio::runtime::Handle::try_current()) {
            let (bridge, channel) = (self.bridge.clone(), self.channel);
            self.tasks.spawn_on(async move { bridge.forget(channel, &feed).await }, &runtime);
        }
    }
}

/// Counts an actor out, also when it panics.
pub(super) struct ActorGauge(pub(super) Arc<Metrics>);

impl Drop for ActorGauge {
    fn drop(&mut self) {
        self.0.actors.active.decrement(1.0);
    }
}
