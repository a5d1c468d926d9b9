//! Channels inside one process: every line that listens gets every message, in the order of publishing.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Store, lock};
use crate::backend::incoming::{Outlet, outlet};
use crate::backend::{Channel, INCOMING_MESSAGES_MAX, Incoming, Interruption, PubSub, Reach, Result, Shard};

/// Whoever may listen.
#[derive(Default)]
pub(super) struct Hub {
    lines: Vec<Weak<Line>>,
}

impl Hub {
    /// Tells every line that listens to `channel`. A node's probe is heard by that node only: see [`Line::publish`].
    pub(super) fn publish(&mut self, channel: Channel, payload: &Bytes) {
        self.lines.retain(|line| {
            let Some(line) = line.upgrade() else { return false };
            line.hear(channel, payload);
            true
        });
    }
}

/// One node's subscription.
pub(super) struct Line {
    store: Arc<Store>,
    listening: Mutex<Listening>,
    incoming: Mutex<Option<mpsc::Receiver<Incoming>>>,
}

struct Listening {
    channels: HashSet<Channel>,
    outlet: Outlet,
}

impl Line {
    pub(super) fn open(store: &Arc<Store>) -> Arc<Self> {
        let (outlet, incoming) = outlet(INCOMING_MESSAGES_MAX);
        let line = Arc::new(Self {
            store: Arc::clone(store),
            listening: Mutex::new(Listening { channels: HashSet::new(), outlet }),
            incoming: Mutex::new(Some(incoming)),
        });
        lock(&store.hub).lines.push(Arc::downgrade(&line));
        line
    }

    fn hear(&self, channel: Channel, payload: &Bytes) {
        let mut listening = lock(&self.listening);
        if listening.channels.contains(&channel) {
            listening.outlet.send(Incoming::Message { channel, payload: payload.clone() });
        }
    }
}

#[async_trait]
impl PubSub for Line {
    async fn publish(&self, channel: Channel, message: Bytes) -> Result<()> {
        match channel {
            Channel::Probe(_) => self.hear(channel, &message),
            _ => lock(&self.store.hub).publish(channel, &message),
        }
        Ok(())
    }

    async fn subscribe(&self, channel: Channel) -> Result<()> {
        lock(&self.listening).channels.insert(channel);
        Ok(())
    }

    async fn unsubscribe(&self, channel: Channel) -> Result<()> {
        lock(&self.listening).channels.remove(&channel);
        Ok(())
    }

    fn shards(&self) -> Vec<Shard> {
        vec![Shard::ONLY]
    }

    fn shard_of(&self, _channel: Channel) -> Option<Shard> {
        Some(Shard::ONLY)
    }

    async fn reconnect(&self, _shard: Shard) {
        // There is no connection that could be lost. What was asked for is said all the same: the contract is one.
        let anew = Incoming::Interrupted { why: Interruption::Probe, reach: Reach::Everything };
        lock(&self.listening).outlet.send(anew);
    }

    fn is_in_force(&self, _shard: Shard) -> bool {
        true
    }

    fn incoming(&self) -> Option<mpsc::Receiver<Incoming>> {
        lock(&self.incoming).take()
    }
}
