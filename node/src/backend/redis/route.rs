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
use tokio::sync::watch;
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
        self.go(Way::Commands, name, key, command).await
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
        self.go(Way::Aside(lane), name, key, command).await
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

    async fn go<T, F>(
        &self,
        way: Way,
        name: &'static str,
        key: &str,
        command: impl Fn(Client) -> F + Send + Sync,
    ) -> Result<T>
    where
        T: Send,
        F: Future<Output = FredResult<T>> + Send,
    {
        let mut server = self.at(key)?;
        let (mut is_asking, mut has_loaded, mut pause, mut sent_on) = (false, false, PAUSE, 0);
        let began = Instant::now();
        loop {
            let error = match server.run(way, name, &command, is_asking).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Refused(error)) => return Err(error),
                Err(Failure::Told(error)) => error,
            };
            let deadline = began + self.patience();
            let remedy = self.remedy(&error, &server.address);
            let Some(remedy) = remedy.filter(|_| sent_on < SENT_ON_MAX && Instant::now() < deadline) else {
                return Err(translate(name, &error));
            };
            tracing::debug!(command = name, ?remedy, server = %server.address, "not executed here; sent on");
            sent_on += 1;
            is_asking = false;
            match remedy {
                Remedy::Load if has_loaded => return Err(translate(name, &error)),
                Remedy::Load => {
                    has_loaded = true;
                    server.load_library(name).await.map_err(|failure| told(name, failure))?;
                }
                Remedy::Moved(address) => {
                    let known = address.and_then(|address| self.map.load().server(&address).cloned());
                    // A server that says of itself, or of a stranger, is asked about once more when we know better.
                    server = match known.filter(|known| !Arc::ptr_eq(known, &server)) {
                        Some(known) => {
                            self.context.trouble.notify_one();
                            known
                        }
                        None => {
                            self.look_again(deadline).await;
                            self.at(key)?
                        }
                    };
                }
                Remedy::Ask(address) => {
                    let known = address.and_then(|address| self.map.load().server(&address).cloned());
                    server = known.ok_or_else(|| translate(name, &error))?;
                    is_asking = true;
                }
                Remedy::Deposed => {
                    self.look_again(deadline).await;
                    server = self.at(key)?;
                }
                Remedy::Later => {
                    sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
                    pause *= 2;
                    server = self.at(key)?;
                }
            }
        }
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

/// What is told of a command that failed.
pub(super) fn told(name: &'static str, failure: Failure) -> Error {
    match failure {
        Failure::Refused(error) => error,
        Failure::Told(error) => translate(name, &error),
    }
}
