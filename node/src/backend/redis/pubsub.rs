//! Channels in Redis: what this node listens to, wherever that is served.
//!
//! Each server has a line of its own (`line`). A channel is listened to at the server of its slot; when another server takes
//! its place, or the slot moves, the channel follows: first it is subscribed at the new server, then those who listen are
//! told of an interruption, for what was said in between was said there and not heard.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use fred::clients::Client;
use fred::interfaces::PubsubInterface;
use fred::types::Value;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::access::Address;
use super::route::Redis;
use super::server::Server;
use super::translate;
use crate::backend::{Channel, Incoming, PubSub, Result, Shard};

/// Times that a subscription is sent after its slot.
const FOLLOWS_MAX: u32 = 3;

/// What is to be done at one server.
pub(super) struct Repair {
    pub(super) server: Arc<Server>,
    /// Channels that it serves and are to be heard there.
    missing: Vec<Channel>,
    /// Channels that nobody wants any more.
    strays: Vec<Channel>,
}

/// What this node listens to.
pub(super) struct Subscription {
    redis: Arc<Redis>,
    wanted: ArcSwap<imbl::HashSet<Channel>>,
    incoming: Mutex<Option<mpsc::Receiver<Incoming>>>,
}

#[async_trait]
impl PubSub for Subscription {
    async fn publish(&self, channel: Channel, message: Bytes) -> Result<()> {
        let name = self.redis.channels().name(channel);
        let is_sharded = self.redis.channels().are_sharded();
        let say = |client: Client| {
            let (name, message) = (name.clone(), message.clone());
            async move {
                if is_sharded {
                    client.spublish::<Value, _, _>(name, message).await
                } else {
                    client.publish::<Value, _, _>(name, message).await
                }
            }
        };
        self.redis.send("publish", &name, say).await.map(drop)
    }

    async fn subscribe(&self, channel: Channel) -> Result<()> {
        // First noted, so that it follows its slot from now on.
        self.wanted.rcu(|wanted| wanted.update(channel));
        let answer = self.listen(channel).await;
        if answer.is_err() {
            // It may have followed its slot meanwhile.
            let _ = self.unsubscribe(channel).await;
        }
        answer
    }

    async fn unsubscribe(&self, channel: Channel) -> Result<()> {
        self.wanted.rcu(|wanted| wanted.without(&channel));
        let map = self.redis.map();
        let leaving = map.servers().iter().filter(|server| server.line.channels().contains(&channel));
        let left = join_all(leaving.map(|server| server.line.unsubscribe(channel))).await;
        left.into_iter().collect::<std::result::Result<(), _>>().map_err(|error| translate("unsubscribe", &error))
    }

    fn shards(&self) -> Vec<Shard> {
        self.redis.map().shards().to_vec()
    }

    fn shard_of(&self, channel: Channel) -> Option<Shard> {
        if !self.redis.channels().are_sharded() {
            return Some(Shard::ONLY);
        }
        self.redis.map().shard_of(&self.redis.channels().name(channel))
    }

    async fn reconnect(&self, shard: Shard) {
        let map = self.redis.map();
        if let Some(server) = map.at_slot(shard.0) {
            server.line.reconnect().await;
        }
    }

    fn is_in_force(&self, shard: Shard) -> bool {
        self.redis.map().at_slot(shard.0).is_some_and(|server| server.line.is_in_force())
    }

    fn incoming(&self) -> Option<mpsc::Receiver<Incoming>> {
        self.incoming.lock().take()
    }
}

impl Subscription {
    pub(super) fn new(redis: Arc<Redis>, incoming: mpsc::Receiver<Incoming>) -> Self {
        Self { redis, wanted: ArcSwap::default(), incoming: Mutex::new(Some(incoming)) }
    }

    /// Listens to a channel where it is served; and if that is elsewhere by the time it does, there.
    async fn listen(&self, channel: Channel) -> Result<()> {
        let name = self.redis.channels().name(channel);
        let deadline = Instant::now() + self.redis.patience();
        let mut follows = 0;
        loop {
            let server = self.redis.at(&name)?;
            // A server that answers no commands answers this no better.
            server.gate.pass("subscribe")?;
            match server.line.subscribe(channel).await {
                Ok(()) if self.redis.at(&name).is_ok_and(|now| Arc::ptr_eq(&now, &server)) => return Ok(()),
                Ok(()) if follows < FOLLOWS_MAX => server.line.forget(channel),
                Err(error) if error.is_moved() && follows < FOLLOWS_MAX && Instant::now() < deadline => {
                    self.redis.look_again(deadline).await;
                }
                // It moves on and on. What is missed meanwhile, the checks of its head find.
                Ok(()) => return Ok(()),
                Err(error) => return Err(translate("subscribe", &error)),
            }
            follows += 1;
        }
    }

    /// What is to be done so that every channel is heard where it is served, by server, without `busy` ones. And whether that
    /// is all: a channel may be of a slot that nobody is known to serve.
    pub(super) fn repairs(&self, busy: &HashSet<Address>) -> (Vec<Repair>, bool) {
        let map = self.redis.map();
        let at = |channel: &Channel| map.at(&self.redis.channels().name(*channel));
        let mut is_all = true;
        let mut missing: HashMap<&Address, Vec<Channel>> = HashMap::new();
        for channel in self.wanted.load().iter() {
            match at(channel) {
                Some(server) if server.line.channels().contains(channel) => {}
                Some(server) => missing.entry(&server.address).or_default().push(*channel),
                None => is_all = false,
            }
        }
        let mut repairs = Vec::new();
        for server in map.servers() {
            let missing = missing.remove(&server.address).unwrap_or_default();
            let mut strays = Vec::new();
            for channel in server.line.channels().iter() {
                match at(channel) {
                    Some(here) if Arc::ptr_eq(here, server) => {
                        if !self.wants(*channel) {
                            strays.push(*channel);
                        }
                    }
                    // Until it is heard there, it may be heard here.
                    Some(there) if self.wants(*channel) && !there.line.channels().contains(channel) => {}
                    // The server has ended this subscription itself, if the slot has moved; it would refuse to be asked.
                    _ => server.line.forget(*channel),
                }
            }
            if missing.is_empty() && strays.is_empty() && !server.line.is_doubted() {
                continue;
            }
            if busy.contains(&server.address) {
                is_all = false;
            } else {
                repairs.push(Repair { server: Arc::clone(server), missing, strays });
            }
        }
        (repairs, is_all)
    }

    /// Does it. Answers whether everything is as it should be; if not, it is to be tried again.
    pub(super) async fn repair(&self, Repair { server, missing, strays }: Repair) -> bool {
        let mut is_whole = missing.is_empty() || self.bring(&server, &missing).await;
        if server.line.is_doubted() {
            is_whole &= server.line.look_after().await;
        }
        for channel in strays {
            is_whole &= self.wants(channel) || self.leave(&server, channel).await;
        }
        is_whole
    }

    async fn bring(&self, server: &Arc<Server>, channels: &[Channel]) -> bool {
        let taken = server.line.take_over(channels).await;
        match &taken {
            Ok(taken) => {
                tracing::info!(channels = taken, of = channels.len(), server = %server.address, "channels are heard here now")
            }
            Err(error) => tracing::warn!(%error, server = %server.address, "channels can't be heard here yet"),
        }
        taken.is_ok_and(|taken| taken == channels.len())
    }

    /// Listens no more to what was left while it was on its way. Answers whether nobody wants it still: who came back to it
    /// meanwhile may have been taken away what was just given.
    async fn leave(&self, server: &Server, channel: Channel) -> bool {
        let _ = server.line.unsubscribe(channel).await;
        let is_wanted = self.wants(channel);
        if is_wanted {
            server.line.forget(channel);
        }
        !is_wanted
    }

    fn wants(&self, channel: Channel) -> bool {
        self.wanted.load().contains(&channel)
    }
}
