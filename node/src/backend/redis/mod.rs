//! The backend of a cluster: the ports' promises kept by Redis 7.0 or newer.
//!
//! One server, one that sentinels watch over, or a cluster: `topology` knows which server serves what, `route` brings each
//! command there, `pubsub` each channel, and `server` is one of them with all our connections to it. A command is sent once,
//! unless a server says that it did not execute it. If its answer does not come in time it may have been executed all the
//! same, and only whoever asked knows whether asking again is right.
//!
//! What must be atomic is in `library.lua`, names are in `keys`.

mod access;
mod breaker;
mod cluster;
mod confirm;
mod directory;
mod facts;
mod functions;
mod gate;
mod keys;
mod leases;
mod line;
mod link;
mod log;
mod map;
mod observer;
mod page;
mod pool;
mod presence;
mod pubsub;
mod quotas;
mod revocations;
mod route;
mod scout;
mod secure;
mod sentinel;
mod server;
mod snapshots;
mod sweep;
mod topology;
mod values;
mod watchdog;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fred::error::{Error as FredError, ErrorKind};
use futures_util::future::try_join_all;
use futures_util::{StreamExt as _, stream};
use mille_shared::limits::{ACK_TIMEOUT, REDIS_COMMAND_TIMEOUT};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::incoming::outlet;
use super::{Backend, Error, INCOMING_MESSAGES_MAX, Result};
use access::Access;
use keys::Channels;
use observer::Tally;
use pubsub::Subscription;
use route::Redis;
use server::Context;
use topology::Topology;

pub use confirm::{AckLevel, Acknowledgement};
pub use observer::{Connection, RedisObserver};
pub use sweep::Sweep;

/// Commands that one call of a port has in flight at most, so that a large one leaves room for others.
const FAN_OUT_MAX: usize = 64;
/// How long connecting to the server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long leaving a connection in order may take. Then it is cut.
const QUIT_TIMEOUT: Duration = Duration::from_secs(1);
/// Messages of a subscription between the client library and our queue, which is as long. What comes while it is full is lost, and
/// whoever listens is told so. The library makes eight such queues for each connection, with all their room at once: 12 MiB.
const BROADCAST_MESSAGES_MAX: usize = INCOMING_MESSAGES_MAX;
/// The same of connections that are subscribed to nothing.
const NO_BROADCAST_MESSAGES_MAX: usize = 64;
/// The first major version with what we use: functions, and streams that number entries within an epoch.
const SERVER_MAJOR_MIN: u32 = 7;

/// How to reach Redis. Not to be printed: the URL may hold a password.
#[derive(Clone)]
pub struct RedisSettings {
    /// `redis://`, `redis-sentinel://`, `redis-cluster://`, or `rediss…` for TLS; with user and password if need be.
    pub url: String,
    /// A PEM file with the authorities that may vouch for Redis; absent: those the system trusts.
    pub ca_file: Option<PathBuf>,
    /// How long a command may take. Then [`Error::Unavailable`].
    pub command_timeout: Duration,
    /// When an edit is acknowledged.
    pub acknowledgement: Acknowledgement,
    /// How slowly it is swept behind deleted projects.
    pub sweep: Sweep,
}

impl RedisSettings {
    /// The server at `url`, with the usual patience.
    #[must_use]
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ca_file: None,
            command_timeout: REDIS_COMMAND_TIMEOUT,
            acknowledgement: Acknowledgement { level: AckLevel::default(), timeout: ACK_TIMEOUT },
            sweep: Sweep::default(),
        }
    }
}

/// Why a node can't begin with its Redis. The texts name the setting and never hold the URL: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL is none, or of a kind we can't use.
    #[error("REDIS_URL can't be used: {0}")]
    Url(String),
    /// The file with the authorities is of no use.
    #[error("MILLE_REDIS_CA_FILE: {path} can't be used: {reason}")]
    Ca {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// TLS is asked for, and there is nobody to vouch for the server.
    #[error("REDIS_URL asks for TLS, but the system trusts no authority: name one in MILLE_REDIS_CA_FILE")]
    NoRoots,
    /// The server is not who it should be, or speaks no TLS.
    #[error("the Redis at REDIS_URL is not trusted, or speaks no TLS (see MILLE_REDIS_CA_FILE): {0}")]
    Tls(String),
    /// User or password are wrong, or missing.
    #[error("the Redis at REDIS_URL does not take the user and password that stand there")]
    Credentials,
    /// The user lacks a right.
    #[error("the user in REDIS_URL lacks a right (see ops/redis-users.acl): {0}")]
    NotAllowed(String),
    /// It does not answer, or refuses us.
    #[error("the Redis at REDIS_URL can't be reached: {0}")]
    Unreachable(String),
    /// Its version lacks what we need.
    #[error("Redis {SERVER_MAJOR_MIN}.0 or newer is needed at REDIS_URL, this is {0}")]
    TooOld(String),
    /// It does not take our function library.
    #[error("the Redis at REDIS_URL refuses the function library: {0}")]
    Library(String),
}

impl ConnectError {
    /// Whether someone must change the settings, here or in Redis.
    #[must_use]
    pub fn is_of_settings(&self) -> bool {
        !matches!(self, Self::Unreachable(_) | Self::Library(_) | Self::TooOld(_))
    }

    /// Whether waiting may help: it is not there yet, or still starts, or is no primary yet.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Library(_))
    }
}

/// Connects, and loads the function library. `observer` is told how the connections are from then on. Their tasks run on
/// `tasks`; when `stop` is cancelled, they leave and every port answers [`Error::Unavailable`]. So cancel it last.
///
/// # Errors
/// [`ConnectError`]. Tasks begun until then end when `stop` is cancelled.
pub async fn connect(
    settings: &RedisSettings,
    observer: Arc<dyn RedisObserver>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> std::result::Result<Backend, ConnectError> {
    let access = Access::of(settings)?;
    let channels = Channels::of(&uuid::Uuid::new_v4().simple().to_string(), access.is_cluster());
    let (outlet, incoming) = outlet(INCOMING_MESSAGES_MAX);
    let context = Arc::new(Context {
        access,
        channels,
        tally: Tally::new(observer),
        outlet: Arc::new(Mutex::new(outlet)),
        trouble: Arc::new(Notify::new()),
        moved: Arc::new(Notify::new()),
        tasks: tasks.clone(),
        stop: stop.clone(),
    });
    let (topology, map) = Topology::begin(Arc::clone(&context)).await?;
    let redis = Arc::new(Redis::new(Arc::clone(&context), map));
    let pubsub = Arc::new(Subscription::new(Arc::clone(&redis), incoming));
    tasks.spawn(sweep::keep(Arc::clone(&redis), settings.sweep, stop.clone()));
    tasks.spawn(topology.keep(Arc::clone(&redis)));
    tasks.spawn(topology::follow(Arc::clone(&pubsub), context));
    Ok(Backend {
        log: redis.clone(),
        snapshots: redis.clone(),
        pubsub,
        directory: redis.clone(),
        presence: redis.clone(),
        leases: redis.clone(),
        revocations: redis.clone(),
        quotas: redis,
    })
}

/// Asks for each item, a bounded number at a time, and answers in their order; the first error is the answer.
async fn fan_out<I, T, F>(items: &[I], ask: impl Fn(&I) -> F) -> Result<Vec<T>>
where
    F: Future<Output = Result<T>>,
{
    let mut answers = Vec::with_capacity(items.len());
    for some in items.chunks(FAN_OUT_MAX) {
        answers.extend(try_join_all(some.iter().map(&ask)).await?);
    }
    Ok(answers)
}

/// As [`fan_out`], so many at a time; but what fails for one is told of that one.
async fn fan_out_each<I, T, F>(items: &[I], at_once: usize, ask: impl Fn(&I) -> F) -> Vec<Result<T>>
where
    F: Future<Output = Result<T>>,
{
    let numbered = |(number, item)| {
        let answer = ask(item);
        async move { (number, answer.await) }
    };
    let asking: Vec<_> = items.iter().enumerate().map(numbered).collect();
    // One that takes long holds up no other.
    let mut answers: Vec<(usize, Result<T>)> = stream::iter(asking).buffer_unordered(at_once).collect().await;
    answers.sort_unstable_by_key(|(number, _)| *number);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// Answers of a server that works, but can't do it now.
const NOT_NOW: &[&str] = &[
    "LOADING",
    "READONLY",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "TRYAGAIN",
    "NOREPLICAS",
    "BUSY",
    "MISCONF",
    "OOM",
    "MOVED",
    "ASK",
];

/// What the server answers begins with a code in capitals; what the client library says does not.
fn server_code(error: &FredError) -> Option<&str> {
    let code = error.details().split([' ', ':']).next().unwrap_or_default();
    (code.len() > 2 && code.bytes().all(|b| b.is_ascii_uppercase())).then_some(code)
}

/// Whether a server that can serve said so.
fn is_answer(error: &FredError) -> bool {
    server_code(error).is_some_and(|code| !NOT_NOW.contains(&code))
}

fn translate(name: &'static str, error: &FredError) -> Error {
    let text = format!("{name}: {error}");
    let code = server_code(error);
    match error.kind() {
        ErrorKind::Backpressure => Error::Busy(text),
        ErrorKind::Unknown if code.is_none() => Error::Unavailable(text),
        _ if code.is_some_and(|code| NOT_NOW.contains(&code)) => Error::Unavailable(text),
        ErrorKind::Timeout
        | ErrorKind::IO
        | ErrorKind::Canceled
        | ErrorKind::Routing
        | ErrorKind::Cluster
        | ErrorKind::Sentinel
        | ErrorKind::Tls => Error::Unavailable(text),
        _ => Error::Corrupt(text),
    }
}

/// A version that we can't read is given the benefit of the doubt: loading the library will tell.
fn is_too_old(version: &str) -> bool {
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    major.is_some_and(|major| major < SERVER_MAJOR_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_whether_asking_again_may_help() {
        let judged = |kind, details: &'static str| translate("test", &FredError::new(kind, details));
        let unavailable = [
            (ErrorKind::Timeout, "Request timed out."),
            (ErrorKind::IO, "Connection reset"),
            (ErrorKind::Canceled, "Canceled."),
            (ErrorKind::Unknown, "Client is not initialized."),
            (ErrorKind::Unknown, "READONLY You can't write against a read only replica."),
            (ErrorKind::Unknown, "LOADING Redis is loading the dataset in memory"),
            (ErrorKind::Unknown, "OOM command not allowed when used memory > 'maxmemory'."),
        ];
        for (kind, details) in unavailable {
            assert!(matches!(judged(kind, details), Error::Unavailable(_)), "{details}");
        }
        let corrupt = [
            (ErrorKind::InvalidArgument, "WRONGTYPE Operation against a key holding the wrong kind of value"),
            (ErrorKind::Unknown, "ERR Function not found"),
            (ErrorKind::Parse, "Cannot convert to map."),
            (ErrorKind::Unknown, "NOPERM this user has no permissions"),
        ];
        for (kind, details) in corrupt {
            assert!(matches!(judged(kind, details), Error::Corrupt(_)), "{details}");
        }
    }

    #[test]
    fn a_server_without_functions_is_too_old() {
        assert!(is_too_old("6.2.14"));
        for version in ["7.0.15", "8.0.1", "10.0.0", "unknown"] {
            assert!(!is_too_old(version), "{version}");
        }
    }
}
