//! One server, and all our connections to it.
//!
//! Three kinds, so that none delays another: one for commands, pipelined; one for the subscription (`line`); and a few for
//! large reads and writes (`pool`). The client library does not notice every dead connection; `watchdog` does. While the
//! server does not answer, `gate` refuses at once what would only wait. A server that is left, because another took its
//! place, takes all of this with it; the others do not notice.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use fred::clients::Client;
use fred::error::Error as FredError;
use fred::interfaces::{ClientLike, FredResult, PubsubInterface};
use fred::types::{ClusterHash, CustomCommand, InfoKind, Value};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::{Access, Address};
use super::confirm::{AckLevel, Confirmer};
use super::functions::Text;
use super::gate::Gate;
use super::keys::Channels;
use super::line::{Line, SharedOutlet};
use super::link::Link;
use super::observer::Tally;
use super::pool::Lanes;
use super::secure::not_let_in;
use super::{ConnectError, functions, is_too_old, line, values, watchdog};
use crate::backend::{Channel, Error, Lane, Shard};
use crate::beat;

/// Commands of one node that wait for their answers on the command connection. The throughput of a connection levels
/// off below a hundred; more would only lengthen the queue in which an edit waits. Further ones wait here, as long as a
/// command may take, and then get [`Error::Busy`].
const IN_FLIGHT_MAX: usize = 256;
/// How often the server is asked for its role, for operators: a replica that we write to by mistake, or a failover.
const ROLE_INTERVAL: Duration = Duration::from_secs(5);
/// The role of a server that takes no writes.
pub(super) const REPLICA: &str = "replica";
/// The role of one that does.
pub(super) const PRIMARY: &str = "master";

/// What all servers of one node have in common.
pub(super) struct Context {
    pub(super) access: Access,
    pub(super) channels: Channels,
    pub(super) tally: Arc<Tally>,
    pub(super) outlet: SharedOutlet,
    /// Told when a server seems lost, or is no primary any more: another may have taken its place.
    pub(super) trouble: Arc<Notify>,
    /// Told when channels may not be listened to where they are served.
    pub(super) moved: Arc<Notify>,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

/// Why a command brought nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// It was not sent.
    Refused(Error),
    /// The server, or the connection to it, said so.
    Told(FredError),
}

/// On which connections a command goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The command connection.
    Commands,
    /// One of the lane's: for something large.
    Aside(Lane),
}

/// One server.
pub(super) struct Server {
    pub(super) address: Address,
    pub(super) client: Client,
    pub(super) gate: Arc<Gate>,
    pub(super) line: Arc<Line>,
    pub(super) version: String,
    /// Absent: nothing is to be confirmed.
    pub(super) confirmer: Option<Confirmer>,
    in_flight: Semaphore,
    lanes: Lanes,
    command_timeout: Duration,
    stop: CancellationToken,
}

impl Server {
    /// Connects, and loads the function library.
    ///
    /// # Errors
    /// [`ConnectError`]. Tasks begun until then end by themselves.
    pub(super) async fn open(context: &Arc<Context>, address: &Address) -> Result<Arc<Self>, ConnectError> {
        let stop = context.stop.child_token();
        // Whatever fails from here on takes with it what was begun.
        let unfinished = stop.clone().drop_guard();
        let builder = context.access.to(address);
        let client = builder.build().map_err(|error| ConnectError::Url(error.to_string()))?;
        let link = Link::make(client.clone()).await.map_err(|error| not_let_in(&error))?;
        context.tasks.spawn(link.leave_when_stopped(stop.clone()));
        let info: String = client.info(None).await.map_err(|error| not_let_in(&error))?;
        let version = values::info_field(&info, "redis_version").unwrap_or("unknown").to_owned();
        if is_too_old(&version) {
            return Err(ConnectError::TooOld(version));
        }
        let is_of_cluster = values::info_field(&info, "redis_mode") == Some("cluster");
        if is_of_cluster != context.access.is_cluster() {
            let scheme =
                if is_of_cluster { "belongs to a cluster: redis-cluster://" } else { "is none of a cluster: redis://" };
            return Err(ConnectError::Url(format!("{address} {scheme}")));
        }
        // Whoever may be another's replica tomorrow may be so today, and is then not the server we look for.
        if context.access.is_moving() && values::info_field(&info, "role") != Some(PRIMARY) {
            return Err(ConnectError::Unreachable(format!("{address} is a replica")));
        }
        let library = functions::load(&client).await.map_err(|error| match not_let_in(&error) {
            ConnectError::Unreachable(reason) => ConnectError::Library(reason),
            other => other,
        })?;
        may_publish(&client, &context.channels).await?;
        let gate = Arc::new(Gate::new(context.tally.part(), Arc::clone(&context.trouble)));
        if let Some(role) = role_in(&info) {
            gate.learn_role(role);
        }
        context.tasks.spawn(watchdog::watch(client.clone(), Arc::clone(&gate), stop.clone()));
        let line = line::open(&builder, context, &stop).await.map_err(|error| not_let_in(&error))?;
        let acknowledgement = context.access.acknowledgement;
        let confirmer = match acknowledgement.level {
            AckLevel::Applied => None,
            AckLevel::Replicated(replicas) => {
                let opened = Confirmer::open(&builder, replicas, acknowledgement.timeout, &context.tasks, &stop).await;
                Some(opened.map_err(|error| not_let_in(&error))?)
            }
        };
        let server = Arc::new(Self {
            address: address.clone(),
            client,
            gate,
            line,
            version,
            confirmer,
            in_flight: Semaphore::new(IN_FLIGHT_MAX),
            lanes: Lanes::open(&builder, &context.tasks, &stop),
            command_timeout: context.access.command_timeout,
            stop: unfinished.disarm(),
        });
        context.tasks.spawn(Arc::clone(&server).keep_role(Arc::clone(&context.trouble), library));
        Ok(server)
    }

    /// Leaves it: its connections end, and whatever waits for an answer waits no more.
    pub(super) fn leave(&self) {
        self.stop.cancel();
    }

    /// Sends a command on the command connection, when there is room, and waits for its answer. While the server does not
    /// answer it is refused without being sent.
    ///
    /// The waiting for room is ours; the waiting for the answer is the client's, which drops what it has not sent when
    /// time is up. A future that we dropped ourselves would still be sent later.
    pub(super) async fn send<T>(
        &self,
        name: &'static str,
        command: impl Future<Output = FredResult<T>> + Send,
    ) -> Result<T, Failure> {
        self.gate.pass(name).map_err(Failure::Refused)?;
        let _room = match self.in_flight.try_acquire() {
            Ok(room) => room,
            Err(_) => self.wait_for_room(name).await.map_err(Failure::Refused)?,
        };
        let began = Instant::now();
        let answer = command.await;
        let took = began.elapsed();
        self.gate.judge(&answer, took);
        tracing::trace!(
            command = name,
            took_ms = took.as_secs_f64() * 1000.0,
            failed = answer.is_err(),
            "redis answered"
        );
        answer.map_err(Failure::Told)
    }

    /// Runs a command one way or the other. `is_asking`: it is about a key that is on its way to this server, which must
    /// be said right before it; so it goes on a connection that nobody else uses meanwhile.
    pub(super) async fn run<T, F>(
        &self,
        way: Way,
        name: &'static str,
        command: &(impl Fn(Client) -> F + Send + Sync),
        is_asking: bool,
    ) -> Result<T, Failure>
    where
        F: Future<Output = FredResult<T>> + Send,
    {
        let lane = match way {
            Way::Commands if !is_asking => return self.send(name, command(self.client.clone())).await,
            Way::Commands => Lane::Repair,
            Way::Aside(lane) => lane,
        };
        self.gate.pass(name).map_err(Failure::Refused)?;
        let ask = |client: Client| async move {
            if is_asking {
                client.custom::<Value, Value>(here("asking"), Vec::new()).await?;
            }
            command(client).await
        };
        self.lanes.run(lane, name, ask).await
    }

    /// Gives the server our library again.
    pub(super) async fn load_library(&self, name: &'static str) -> Result<(), Failure> {
        tracing::warn!(function = name, server = %self.address, "redis has lost the function library; loading it again");
        self.send("function load", functions::load(&self.client)).await.map(drop)
    }

    /// `master` or `replica`, as the server says.
    pub(super) async fn role(&self) -> Result<String, Failure> {
        let info: String = self.send("info", self.client.info(Some(InfoKind::Replication))).await?;
        Ok(role_in(&info).unwrap_or("unknown").to_owned())
    }

    /// Whoever waits in the queue is refused too when the door closes.
    async fn wait_for_room(&self, name: &'static str) -> Result<SemaphorePermit<'_>, Error> {
        let room = tokio::select! {
            biased;
            () = self.gate.opened() => None,
            room = timeout(self.command_timeout, self.in_flight.acquire()) => room.ok().and_then(|room| room.ok()),
        };
        self.gate.pass(name)?;
        room.ok_or_else(|| Error::Busy(format!("{name}: {IN_FLIGHT_MAX} commands wait for answers")))
    }

    /// Asks the server for its role from time to time, until it is left. If it did not take our library, it is offered again.
    async fn keep_role(self: Arc<Self>, trouble: Arc<Notify>, mut library: Text) {
        let mut ticks = beat::ticks(ROLE_INTERVAL);
        while self.stop.run_until_cancelled(ticks.tick()).await.is_some() {
            if library != Text::Ours {
                library = self.send("function load", functions::load(&self.client)).await.unwrap_or(library);
            }
            if let Ok(role) = self.role().await {
                self.gate.learn_role(&role);
                if role == REPLICA {
                    trouble.notify_one();
                }
            }
        }
    }
}

fn role_in(info: &str) -> Option<&str> {
    match values::info_field(info, "role") {
        Some("slave") => Some(REPLICA),
        role => role,
    }
}

/// A command of a name, to the server of the connection.
pub(super) fn here(name: &'static str) -> CustomCommand {
    CustomCommand::new_static(name, ClusterHash::Random, false)
}

/// Says something where nobody listens. The client library does not tell of a refused subscription, but of this it does.
async fn may_publish(client: &Client, channels: &Channels) -> Result<(), ConnectError> {
    let name = channels.name(Channel::Probe(Shard::ONLY));
    let said = if channels.are_sharded() {
        client.spublish::<Value, _, _>(name, "").await
    } else {
        client.publish::<Value, _, _>(name, "").await
    };
    match said {
        // It is another server's channel: the right was looked at before that.
        Err(error) if error.is_moved() => Ok(()),
        said => said.map(drop).map_err(|error| not_let_in(&error)),
    }
}
