//! The way of a command to the server that serves its key.
//!
//! A server of a cluster that does not serve a key says who does, and a primary that was deposed says that it takes no
//! writes. Both mean that nothing was executed, so the command goes on to the right server; likewise where a slot is on its way
//! from one to another, and where a server has lost the function library. All of it within the time that a command may
//! take. Whatever else fails is told: it may have been executed, and only whoever asked knows whether asking again is right.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use fred::clients::Client;
use fred::error::Error as FredError;
use fred::interfaces::{ClientLike, FredResult};
use fred::types::{FromValue, Value};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::access::Address;
use super::keys::{self, Channels};
use super::map::Map;
use super::server::{Context, Failure, Server, Way, here};
use super::{functions, server_code, translate};
use crate::backend::{Error, Lane, Result};

/// Times that a command is sent on. A slot that moves costs one, a failover two.
const SENT_ON_MAX: u32 = 8;
/// Pause before a command is sent once more to a server that could not take it just now; doubled each time.
const PAUSE: Duration = Duration::from_millis(10);

/// What every port works with.
pub(super) struct Redis {
    pub(super) context: Arc<Context>,
    map: ArcSwap<Map>,
    /// How often it was looked who serves what.
    pub(super) looks: watch::Sender<u64>,
}

/// What to do with a command that was certainly not executed.
#[derive(Debug, PartialEq, Eq)]
enum Remedy {
    /// The server has lost the library: load it, and send it there again.
    Load,
    /// Another server serves the key.
    Moved(Option<Address>),
    /// Another server is about to, and has this key already.
    Ask(Option<Address>),
    /// The server is no primary any more.
    Deposed,
    /// Not just now.
    Later,
}

impl Redis {
    pub(super) fn new(context: Arc<Context>, map: Map) -> Self {
        Self { context, map: ArcSwap::from_pointee(map), looks: watch::Sender::new(0) }
    }

    pub(super) fn channels(&self) -> &Channels {
        &self.context.channels
    }

    /// Who serves what, as far as it is known.
    pub(super) fn map(&self) -> Arc<Map> {
        self.map.load_full()
    }

    pub(super) fn set_map(&self, map: Map) {
        self.map.store(Arc::new(map));
    }

    /// The server of a key or channel.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if none is known.
    pub(super) fn at(&self, name: &str) -> Result<Arc<Server>> {
        let server = self.map.load().at(name).cloned();
        server.ok_or_else(|| Error::Unavailable("no server is known to serve its slot".to_owned()))
    }

    /// The server that has the leases: without it no node serves.
    pub(super) fn home(&self) -> Result<Arc<Server>> {
        self.at(keys::LEASES)
    }

    /// How long a command is sent on at most.
    pub(super) fn patience(&self) -> Duration {
        self.context.access.command_timeout
    }

    /// Has it looked again who serves what, and waits for that, not beyond `deadline`.
    pub(super) async fn look_again(&self, deadline: Instant) {
        let mut looks = self.looks.subscribe();
        self.context.trouble.notify_one();
        // Whether or not it changed anything: the next answer will tell.
        let _ = timeout_at(deadline, looks.changed()).await;
    }

    /// Sends a command to the server of its key.
    pub(super) async fn send<T, F>(
        &self,
        name: &'static str,
        key: &str,
        command: impl Fn(Client) -> F + Send + Sync,
    ) -> Result<T>
    where
        T: Send,
        F: Future<Output = FredResult<T>> + Send,
    {
        self.go(Way::Commands, name, key, command, None).await
    }

    /// Sends a command with or for something large, on one of the lane's connections.
    pub(super) async fn aside<T, F>(
        &self,
        lane: Lane,
        name: &'static str,
        key: &str,
        command: impl Fn(Client) -> F + Send + Sync,
    ) -> Result<T>
    where
        T: Send,
        F: Future<Output = FredResult<T>> + Send,
    {
        self.go(Way::Aside(lane), name, key, command, None).await
    }

    /// Sends a command of that name, about this key, with these arguments.
    pub(super) async fn ask<T: FromValue + Send>(
        &self,
        name: &'static str,
        key: impl Into<String>,
        args: impl IntoIterator<Item = Value>,
    ) -> Result<T> {
        let key = key.into();
        let all: Vec<Value> = std::iter::once(Value::from(key.as_str())).chain(args).collect();
        self.send(name, &key, |client: Client| {
            let all = all.clone();
            async move { client.custom(here(name), all).await }
        })
        .await
    }

    /// Sends a command one way or the other, and on. `room`: what it needs a part of while it is at a server.
    pub(super) async fn go<T, F>(
        &self,
        way: Way,
        name: &'static str,
        key: &str,
        command: impl Fn(Client) -> F + Send + Sync,
        room: Option<&Semaphore>,
    ) -> Result<T>
    where
        T: Send,
        F: Future<Output = FredResult<T>> + Send,
    {
        let mut journey = self.journey(name, key, self.patience())?;
        loop {
            let answer = {
                let _part = match room {
                    Some(room) => room.acquire().await.ok(),
                    None => None,
                };
                journey.server.run(way, name, &command, journey.is_asking).await
            };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(Failure::Refused(error)) => return Err(error),
                Err(Failure::Told(error)) => journey.go_on(error).await?,
            }
        }
    }

    /// Begins at the server that is known to serve a key. `patience`: how long it may last.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if none is known.
    pub(super) fn journey<'a>(&'a self, name: &'static str, key: &'a str, patience: Duration) -> Result<Journey<'a>> {
        let (server, deadline) = (self.at(key)?, Instant::now() + patience);
        let (is_asking, has_loaded, pause, sent_on) = (false, false, PAUSE, 0);
        Ok(Journey { redis: self, name, key, server, is_asking, deadline, has_loaded, pause, sent_on })
    }

    fn remedy(&self, error: &FredError, asked: &Address) -> Option<Remedy> {
        if functions::is_missing(error) {
            return Some(Remedy::Load);
        }
        // Without anybody who could take its place, a server's word is the last.
        if !self.context.access.is_moving() {
            return None;
        }
        let elsewhere = || error.details().split_whitespace().nth(2).and_then(|text| Address::read(text, asked));
        match server_code(error)? {
            "MOVED" => Some(Remedy::Moved(elsewhere())),
            "ASK" => Some(Remedy::Ask(elsewhere())),
            "READONLY" => Some(Remedy::Deposed),
            "TRYAGAIN" => Some(Remedy::Later),
            _ => None,
        }
    }
}

/// The way of one command from server to server.
pub(super) struct Journey<'a> {
    redis: &'a Redis,
    name: &'static str,
    key: &'a str,
    /// Where it is now.
    pub(super) server: Arc<Server>,
    /// The key is on its way to this server, which must be said right before the command.
    pub(super) is_asking: bool,
    pub(super) deadline: Instant,
    has_loaded: bool,
    pause: Duration,
    sent_on: u32,
}

impl Journey<'_> {
    /// Goes on to where a server that did not execute the command sends it; waits first if need be.
    ///
    /// # Errors
    /// What the server said, if it may have executed the command, or if the journey has been too long.
    pub(super) async fn go_on(&mut self, error: FredError) -> Result<()> {
        let Self { redis, name, key, deadline, .. } = *self;
        let remedy = redis.remedy(&error, &self.server.address);
        let Some(remedy) = remedy.filter(|_| self.sent_on < SENT_ON_MAX && Instant::now() < deadline) else {
            return Err(translate(name, &error));
        };
        tracing::debug!(command = name, ?remedy, server = %self.server.address, "not executed here; sent on");
        self.sent_on += 1;
        self.is_asking = false;
        let known = |address: Option<Address>| redis.map.load().server(&address?).cloned();
        match remedy {
            Remedy::Load if self.has_loaded => return Err(translate(name, &error)),
            Remedy::Load => {
                self.has_loaded = true;
                self.server.load_library(name).await.map_err(|failure| told(name, failure))?;
            }
            Remedy::Moved(address) => {
                // A server that says of itself, or of a stranger, is asked about once more when we know better.
                match known(address).filter(|known| !Arc::ptr_eq(known, &self.server)) {
                    Some(known) => {
                        redis.context.trouble.notify_one();
                        self.server = known;
                    }
                    None => self.look_again().await?,
                }
            }
            Remedy::Ask(address) => {
                self.server = known(address).ok_or_else(|| translate(name, &error))?;
                self.is_asking = true;
            }
            Remedy::Deposed => self.look_again().await?,
            Remedy::Later => {
                sleep(self.pause.mul_f64(0.5 + rand::random::<f64>())).await;
                self.pause *= 2;
                self.server = redis.at(key)?;
            }
        }
        Ok(())
    }

    /// Has it looked who serves the key, and goes there.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if nobody is known to.
    pub(super) async fn look_again(&mut self) -> Result<()> {
        self.redis.look_again(self.deadline).await;
        self.is_asking = false;
        self.server = self.redis.at(self.key)?;
        Ok(())
    }
}

/// What is told of a command that failed.
pub(super) fn told(name: &'static str, failure: Failure) -> Error {
    match failure {
        Failure::Refused(error) => error,
        Failure::Told(error) => translate(name, &error),
    }
}
