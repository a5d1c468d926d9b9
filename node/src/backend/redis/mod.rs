//! The backend of a cluster: the ports' promises kept by Redis 7.0 or newer.
//!
//! Three kinds of connections, so that none delays another: one for commands, pipelined; one for the subscription; and
//! a few for large reads and writes (`pool`). A command is sent once. If its answer does not come in time it may have
//! been executed all the same, and only whoever asked knows whether asking again is right.
//!
//! What must be atomic is in `library.lua`, names are in `keys`. The client library does not notice every dead
//! connection; `watchdog` does. While Redis does not answer, `gate` refuses at once what would only wait.

mod breaker;
mod directory;
mod facts;
mod functions;
mod gate;
mod keys;
mod leases;
mod log;
mod observer;
mod pool;
mod presence;
mod pubsub;
mod quotas;
mod revocations;
mod secure;
mod snapshots;
mod values;
mod watchdog;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fred::clients::Client;
use fred::error::{Error as FredError, ErrorKind};
use fred::interfaces::{ClientLike, FredResult, PubsubInterface};
use fred::types::config::{Config, ReconnectPolicy, ServerConfig, TcpConfig, UnresponsiveConfig};
use fred::types::{Builder, ConnectHandle, InfoKind, RespVersion, Value};
use futures_util::future::try_join_all;
use mille_shared::limits::REDIS_COMMAND_TIMEOUT;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Backend, Error, Lane, Result};
use gate::Gate;
use keys::Channels;
use secure::not_let_in;

pub use observer::{Connection, RedisObserver};

/// Commands of one node that wait for their answers on the command connection. The throughput of a connection levels
/// off below a hundred; more would only lengthen the queue in which an edit waits. Further ones wait here, as long as a
/// command may take, and then get [`Error::Busy`].
const IN_FLIGHT_MAX: usize = 256;
/// Commands that one call of a port has in flight at most, so that a large one leaves room for others.
const FAN_OUT_MAX: usize = 64;
/// How often the server is asked for its role, for operators: a replica that we write to by mistake, or a failover.
const ROLE_INTERVAL: Duration = Duration::from_secs(5);
/// How long connecting to the server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long leaving a connection in order may take. Then it is cut.
const QUIT_TIMEOUT: Duration = Duration::from_secs(1);
/// Messages of the subscription between the client library and our queue. Small ones lose messages in bursts.
const BROADCAST_MESSAGES_MAX: usize = 65_536;
/// The same of connections that are subscribed to nothing. The library makes seven such queues for each connection, with all
/// their room at once: 47 MiB at the size above.
const NO_BROADCAST_MESSAGES_MAX: usize = 64;
/// The role of a server that takes no writes.
const REPLICA: &str = "replica";
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
}

impl RedisSettings {
    /// The server at `url`, with the usual patience.
    #[must_use]
    pub fn at(url: impl Into<String>) -> Self {
        Self { url: url.into(), ca_file: None, command_timeout: REDIS_COMMAND_TIMEOUT }
    }
}

/// Why a node can't begin with its Redis. None of them heals without someone doing something, except perhaps waiting
/// in the case of [`Unreachable`](Self::Unreachable). The texts name the setting and never hold the URL: it may hold a
/// password.
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
    /// Whether someone must change the settings, here or in Redis; otherwise waiting may help.
    #[must_use]
    pub fn is_of_settings(&self) -> bool {
        !matches!(self, Self::Unreachable(_) | Self::Library(_) | Self::TooOld(_))
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
    let builder = builder(settings)?;

    let client = builder.build().map_err(|error| ConnectError::Url(error.to_string()))?;
    let connection = client.init().await.map_err(|error| not_let_in(&error))?;
    tasks.spawn(leave_when_stopped(client.clone(), connection, stop.clone()));
    let version = server_version(&client).await.map_err(|error| not_let_in(&error))?;
    if is_too_old(&version) {
        return Err(ConnectError::TooOld(version));
    }
    functions::load(&client).await.map_err(|error| match not_let_in(&error) {
        ConnectError::Unreachable(reason) => ConnectError::Library(reason),
        other => other,
    })?;
    let channels = Channels::of(&uuid::Uuid::new_v4().simple().to_string());
    // Nobody listens there yet. The client library does not tell of a refused subscription, but of this it does.
    let nothing = client.publish::<Value, _, _>(channels.name(super::Channel::Probe), "");
    nothing.await.map_err(|error| not_let_in(&error))?;
    let gate = Arc::new(Gate::new(Arc::clone(&observer)));
    tasks.spawn(watchdog::watch(client.clone(), Arc::clone(&gate), stop.clone()));

    let redis = Arc::new(Redis {
        client,
        gate,
        in_flight: Semaphore::new(IN_FLIGHT_MAX),
        lanes: pool::Lanes::open(&builder, tasks, stop),
        channels,
        command_timeout: settings.command_timeout,
        version,
    });
    let pubsub =
        pubsub::open(&builder, Arc::clone(&redis), observer, tasks, stop).await.map_err(|error| not_let_in(&error))?;
    tasks.spawn(Arc::clone(&redis).keep_role(stop.clone()));
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

/// What every port but the subscription works with.
struct Redis {
    client: Client,
    gate: Arc<Gate>,
    in_flight: Semaphore,
    lanes: pool::Lanes,
    channels: Channels,
    command_timeout: Duration,
    version: String,
}

impl Redis {
    /// Sends a command on the command connection, when there is room, and waits for its answer. While Redis does not answer
    /// it is refused without being sent.
    ///
    /// The waiting for room is ours; the waiting for the answer is the client's, which drops what it has not sent when
    /// time is up. A future that we dropped ourselves would still be sent later.
    async fn send<T>(&self, name: &'static str, command: impl Future<Output = FredResult<T>> + Send) -> Result<T> {
        self.gate.pass(name)?;
        let _room = match self.in_flight.try_acquire() {
            Ok(room) => room,
            Err(_) => self.wait_for_room(name).await?,
        };
        let began = Instant::now();
        let answer = command.await;
        self.gate.judge(&answer, began.elapsed());
        told(name, began, answer)
    }

    /// Whoever waits in the queue is refused too when the door closes.
    async fn wait_for_room(&self, name: &'static str) -> Result<SemaphorePermit<'_>> {
        let room = tokio::select! {
            biased;
            () = self.gate.opened() => None,
            room = timeout(self.command_timeout, self.in_flight.acquire()) => room.ok().and_then(|room| room.ok()),
        };
        self.gate.pass(name)?;
        room.ok_or_else(|| Error::Busy(format!("{name}: {IN_FLIGHT_MAX} commands wait for answers")))
    }

    /// Asks the server for its role from time to time, until `stop`.
    async fn keep_role(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(ROLE_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            if let Ok(role) = self.role().await {
                self.gate.learn_role(&role);
            }
        }
    }

    /// `master` or `replica`, as the server says.
    async fn role(&self) -> Result<String> {
        let info: String = self.send("info", self.client.info(Some(InfoKind::Replication))).await?;
        Ok(match values::info_field(&info, "role") {
            Some("slave") => REPLICA,
            Some(role) => role,
            None => "unknown",
        }
        .to_owned())
    }

    /// Runs a command with or for something large on one of the lane's connections.
    async fn aside<T, F>(&self, lane: Lane, name: &'static str, command: impl FnOnce(Client) -> F) -> Result<T>
    where
        F: Future<Output = FredResult<T>> + Send,
    {
        self.gate.pass(name)?;
        self.lanes.run(lane, name, command).await
    }
}

/// Runs a command, takes its time and translates its error: the one place where every command passes.
async fn timed<T>(name: &'static str, command: impl Future<Output = FredResult<T>> + Send) -> Result<T> {
    let began = Instant::now();
    let answer = command.await;
    told(name, began, answer)
}

fn told<T>(name: &'static str, began: Instant, answer: FredResult<T>) -> Result<T> {
    let took_ms = began.elapsed().as_secs_f64() * 1000.0;
    tracing::trace!(command = name, took_ms, failed = answer.is_err(), "redis answered");
    answer.map_err(|error| translate(name, &error))
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

fn builder(settings: &RedisSettings) -> std::result::Result<Builder, ConnectError> {
    let (url, tls) = secure::tls_of(&settings.url, settings.ca_file.as_deref())?;
    let mut config = Config::from_url(&url).map_err(|error| ConnectError::Url(error.to_string()))?;
    if !config.username.iter().chain(&config.password).all(|credential| secure::can_be_sent(credential)) {
        return Err(ConnectError::Url(
            "user and password must be without blanks, quotes and control characters".into(),
        ));
    }
    config.tls = tls;
    config.version = RespVersion::RESP3;
    let mut builder = Builder::from_config(config);
    builder.with_performance_config(|performance| {
        performance.default_command_timeout = settings.command_timeout;
        performance.broadcast_channel_capacity = NO_BROADCAST_MESSAGES_MAX;
    });
    builder.with_connection_config(|connection| {
        // Sending again what was perhaps executed is not the connection's to decide.
        connection.max_command_attempts = 1;
        // The library's own bound loses count once it was reached; ours is `IN_FLIGHT_MAX`.
        connection.max_command_buffer_len = 0;
        connection.connection_timeout = CONNECT_TIMEOUT;
        connection.internal_command_timeout = CONNECT_TIMEOUT;
        connection.auto_client_setname = true;
        // A write into a dead connection would block the library for good; so the kernel gives up on it.
        connection.tcp =
            TcpConfig { nodelay: Some(true), user_timeout: Some(Duration::from_secs(1)), ..TcpConfig::default() };
        connection.unresponsive =
            UnresponsiveConfig { max_timeout: Some(Duration::from_secs(1)), interval: Duration::from_millis(200) };
    });
    // Without end, from 50 ms up to 1 s apart, with jitter.
    builder.set_policy(ReconnectPolicy::new_exponential(0, 50, 1000, 2));
    Ok(builder)
}

async fn server_version(client: &Client) -> std::result::Result<String, FredError> {
    let info: String = client.info(Some(InfoKind::Server)).await?;
    Ok(values::info_field(&info, "redis_version").unwrap_or("unknown").to_owned())
}

/// A version that we can't read is given the benefit of the doubt: loading the library will tell.
fn is_too_old(version: &str) -> bool {
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    major.is_some_and(|major| major < SERVER_MAJOR_MIN)
}

fn mode_of(server: &ServerConfig) -> &'static str {
    match server {
        ServerConfig::Clustered { .. } => "cluster",
        ServerConfig::Sentinel { .. } => "sentinel",
        _ => "standalone",
    }
}

/// Closes a connection when the node stops: dropping a client leaves its connection open.
async fn leave_when_stopped(client: impl ClientLike, connection: ConnectHandle, stop: CancellationToken) {
    stop.cancelled().await;
    let _ = timeout(QUIT_TIMEOUT, client.quit()).await;
    connection.abort();
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

    #[test]
    fn a_url_that_is_none_is_told_without_repeating_it() {
        let error = builder(&RedisSettings::at("http//:secret@nowhere")).err().map(|e| e.to_string());
        assert!(error.is_some_and(|text| !text.contains("secret")));
    }
}
