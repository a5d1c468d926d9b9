//! A node, put together: the one place that knows every part.
//!
//! Built bottom up (store, bridge, projects, gateway), ports bound before anything runs; until all of it does, whoever comes is told
//! that the node is starting. Taken apart by [`crate::shutdown`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use mille_shared::facts::NodeFacts;
use mille_shared::{ErrorCode, NodeId, UserId, limits};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backend::embedded::Embedded;
use crate::backend::redis::{self, RedisSettings};
use crate::backend::{self, Backend};
use crate::bridge::Bridge;
use crate::cluster::{Cluster, Load};
use crate::config::Config;
use crate::drain::{Drain, Phase};
use crate::gateway::auth::{Authenticator, KeyError, Revoker, RevokerSettings};
use crate::gateway::errors::ApiError;
use crate::gateway::facts::{self, FactsDoor};
use crate::gateway::fanout::Groups;
use crate::gateway::listener::{self, ListenerSettings};
use crate::gateway::origins::AllowedOrigins;
use crate::gateway::probes::{Check, Readiness};
use crate::gateway::router::{self, Doors, DrainDoor};
use crate::gateway::shedding::Shedding;
use crate::gateway::strangers::Strangers;
use crate::gateway::tls::{Tls, TlsError};
use crate::gateway::transport::{BodyRoom, Documents, Transport, TransportObserver};
use crate::gateway::{crowded, graphql, presence, probes, welcome};
use crate::metrics::Metrics;
use crate::pressure::sampler::Sampler;
use crate::pressure::{Level, Pressure};
use crate::project::presence::PresenceSettings;
use crate::project::{OpenError, Projects, ProjectsConfig};
use crate::quota::UserQuotas;
use crate::shutdown::Shutdown;
use crate::vigil::{Findings, STUCK_LOOKS, Vigil};

/// A running node.
pub struct Node {
    id: NodeId,
    listen: SocketAddr,
    admin_listen: SocketAddr,
    welcome: Option<String>,
    metrics: Arc<Metrics>,
    cluster: Cluster,
    shutdown: Shutdown,
    drain_asked: CancellationToken,
}

/// Why a node can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store can't be used.
    #[error(transparent)]
    Redis(#[from] redis::ConnectError),
    /// The store stopped answering, or lets us do less than we must, while the node was put together.
    #[error("the store at REDIS_URL did not do what a node needs (for NOPERM see ops/redis-users.acl): {0}")]
    Backend(#[from] backend::Error),
    /// The keys can't be used.
    #[error("tokens can't be judged: {0} (see JWT_SECRET, JWT_PUBLIC_KEY_FILE, JWKS_FILE, JWKS_URL, JWT_ALGORITHMS)")]
    Keys(#[from] KeyError),
    /// The certificate can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address can't be listened on.
    #[error("{address} can't be listened on: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The system gives no thread.
    #[error("no thread to look at the load: {0}")]
    Sampler(std::io::Error),
    /// The development project could not be made.
    #[error("the development project was not made: {0}")]
    DevProject(#[from] OpenError),
}

impl StartError {
    /// What the process ends with: 2 for settings that can't be used, 1 for what may be otherwise in a moment.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Redis(error) if error.is_of_settings() => 2,
            Self::Keys(_) | Self::Tls(_) => 2,
            _ => 1,
        }
    }
}

/// Time between two attempts to reach Redis at the start.
const REDIS_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How long Redis may be silent before the node wants no new connections: blips pass.
const READY_GRACE: Duration = Duration::from_secs(10);

/// Connections at a time that a node answers which is starting, and how long each may take to ask.
const STARTING_CONNECTIONS_MAX: usize = 256;
const STARTING_HEAD_TIMEOUT: Duration = Duration::from_secs(2);

/// How late the event loop may be. Overload passes; this does not.
const LIFE_GRACE: Duration = Duration::from_secs(60);

impl Node {
    /// Starts a node. When it returns, the node serves.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running that matters.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        crate::crypto::backend();
        let metrics = Arc::new(Metrics::new());
        let drain =
            Drain::new(config.drain, metrics.connections.drain_phase.clone(), metrics.connections.rotated.clone());
        let shutdown = Shutdown::of(drain.clone());
        let id = NodeId::of(&config.node_name, &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let client_listener = bind(config.listen)?;
        let admin_listener = bind(config.admin_listen)?;
        let (listen, admin_listen) = (address_of(&client_listener)?, address_of(&admin_listener)?);

        let tls = config.tls.clone().map(|files| Tls::read(files, Arc::clone(&metrics))).transpose()?;
        let (client_listener, meanwhile) =
            twin(client_listener).map_err(|source| StartError::Listen { address: listen, source })?;
        let (admin_listener, admin_meanwhile) =
            twin(admin_listener).map_err(|source| StartError::Listen { address: admin_listen, source })?;
        let starting = CancellationToken::new();
        for (listener, tls) in [(meanwhile, tls.clone()), (admin_meanwhile, None)] {
            let settings = ListenerSettings {
                tls,
                connections_max: config.connections_max.min(STARTING_CONNECTIONS_MAX),
                header_read_timeout: STARTING_HEAD_TIMEOUT,
                ..ListenerSettings::default()
            };
            shutdown.tasks.spawn(listener::serve(
                listener,
                not_yet(&id, config.allowed_origins.clone()),
                settings,
                shutdown.tasks.clone(),
                starting.clone(),
            ));
        }
        let starting = starting.drop_guard();
        let authenticator = Authenticator::new(&config.auth).await?.counting(Arc::clone(&metrics));
        authenticator.start_refresh(&shutdown.tasks, shutdown.stop.clone());
        let backend = connect(&config, &metrics, &shutdown).await?;
        let (bridge, controls) =
            Bridge::start(backend.clone(), Arc::clone(&metrics), &shutdown.tasks, &shutdown.stop).await?;
        let heard_by_revoker = controls.another();
        let revoker = Revoker::load(
            Arc::clone(&backend.revocations),
            bridge.clone(),
            authenticator.revoked().clone(),
            RevokerSettings { sweep: config.sweep, kept: config.revocation_kept },
            Arc::clone(&metrics),
        )
        .await?;
        let projects = Projects::new(
            ProjectsConfig {
                node: id.clone(),
                backend: backend.clone(),
                bridge: bridge.clone(),
                metrics: Arc::clone(&metrics),
                plans: config.plans,
                presence: PresenceSettings { table_ttl: config.node_lease, ..PresenceSettings::default() },
                idle_timeout: config.project_idle,
                lifetime: config.project_lifetime,
                sweep: config.sweep,
            },
            shutdown.tasks.clone(),
            shutdown.stop.clone(),
        );
        let load = {
            let (metrics, bridge) = (Arc::clone(&metrics), bridge.clone());
            move || load(&metrics, &bridge)
        };
        let address = config.advertise.clone().unwrap_or_else(|| listen.to_string());
        let cluster = Cluster::new(backend.clone(), id.clone(), address.clone(), config.node_lease, load);
        cluster.join().await?;

        let readiness = readiness(&id, &backend, &cluster, &bridge, &authenticator, &metrics, &shutdown);
        shutdown.tasks.spawn(metrics.vigil.clone().keep(shutdown.stop.clone()));
        let sampler = Sampler {
            thresholds: config.pressure,
            has_store: config.redis_url.is_some(),
            metrics: Arc::clone(&metrics),
        };
        sampler.start(&shutdown.tasks, shutdown.stop.clone()).map_err(StartError::Sampler)?;
        let shedding = Shedding::new(Arc::clone(&metrics));
        let quotas = UserQuotas::new(
            Arc::clone(&backend.quotas),
            id.clone(),
            config.limits.user.clone(),
            Arc::clone(&metrics),
            shutdown.tasks.clone(),
        );
        let observer: Arc<dyn TransportObserver> = Arc::clone(&metrics) as _;
        let moment_max = config.limits.transport.fan_out_moment_max;
        let transport = Transport {
            groups: Groups::new(
                authenticator.revoked().clone(),
                Arc::clone(&observer),
                moment_max,
                shutdown.sockets.clone(),
            ),
            executor: graphql::executor(projects.clone(), cluster.clone(), revoker.clone(), config.dev),
            authenticator: authenticator.clone(),
            shedding: shedding.clone(),
            limits: config.limits.transport.clone(),
            drain: drain.clone(),
            tasks: shutdown.sockets.clone(),
            observer,
            quotas: quotas.clone(),
            documents: Documents::default(),
            bodies: BodyRoom::new(config.limits.request_bytes_in_flight_max),
        };
        let doors = router::doors(Doors {
            transport,
            readiness: readiness.clone(),
            presence: presence::door(presence::PresenceDoor {
                authenticator: authenticator.clone(),
                projects: projects.clone(),
                shedding,
                metrics: Arc::clone(&metrics),
                drain: drain.clone(),
                tasks: shutdown.sockets.clone(),
                quotas: quotas.clone(),
            }),
            allowed_origins: config.allowed_origins.clone(),
            dev: config.dev,
        });
        let drain_asked = CancellationToken::new();
        let facts = facts::door(FactsDoor {
            node: NodeFacts {
                id: id.as_str().to_owned(),
                name: config.node_name.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                listen: listen.to_string(),
                admin_listen: admin_listen.to_string(),
                advertise: address,
                is_dev: config.dev,
                tls: None,
            },
            keys: facts::of_keys(&config.auth.keys),
            settings: config.told(),
            connections_max: config.connections_max,
            authenticator: authenticator.clone(),
            tls: tls.clone(),
            readiness: readiness.clone(),
            backend: backend.clone(),
            projects: projects.clone(),
            pressure: metrics.pressure.clone(),
        });
        let admin = router::admin(
            readiness,
            facts,
            {
                let metrics = Arc::clone(&metrics);
                move || metrics.render()
            },
            DrainDoor { drain: drain.clone(), asked: drain_asked.clone(), sockets: shutdown.sockets.clone() },
        );

        let welcome = if config.dev {
            let project = dev_project(&config, &projects).await?;
            Some(welcome::text(listen, tls.is_some(), admin_listen, config.dev_secret.as_deref(), project))
        } else {
            None
        };
        let Shutdown { stop, tasks, .. } = &shutdown;
        let settings = ListenerSettings { connections_max: config.connections_max, ..ListenerSettings::default() };
        let strangers = Strangers::new(config.limits.unauthenticated_connections_max, Arc::clone(&metrics));
        let client_settings = ListenerSettings {
            crowded: Some(crowded::one_request_each(crowded::router(
                listener::is_full(config.connections_max),
                config.allowed_origins.clone(),
            ))),
            strangers: Some(strangers),
            tls: tls.clone(),
            drain,
            ..settings.clone()
        };
        drop(starting);
        // The doors stay open while sockets are told to leave, so that the probes can say "draining".
        tasks.spawn(listener::serve(client_listener, doors, client_settings, tasks.clone(), stop.clone()));
        tasks.spawn(listener::serve(admin_listener, admin, settings, tasks.clone(), stop.clone()));
        if let Some(tls) = tls {
            tasks.spawn(tls.follow(stop.clone()));
        }
        tasks.spawn(projects.clone().serve_control(controls));
        tasks.spawn({
            let stop = stop.clone();
            async move {
                stop.run_until_cancelled(revoker.follow(heard_by_revoker)).await;
            }
        });
        tasks.spawn(quotas.run(stop.clone()));
        tasks.spawn(cluster.clone().run(projects.clone(), stop.clone()));
        tasks.spawn({
            let (metrics, stop) = (Arc::clone(&metrics), stop.clone());
            async move {
                stop.run_until_cancelled(metrics.upkeep()).await;
            }
        });
        let store = if config.redis_url.is_some() { "redis" } else { "embedded" };
        tracing::info!(node.id = %id, %listen, %admin_listen, store, "serving");
        Ok(Self { id, listen, admin_listen, welcome, metrics, cluster, shutdown, drain_asked })
    }

    /// Where to count.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// This life of the node.
    #[must_use]
    pub fn id(&self) -> &NodeId {
        &self.id
    }

    /// Where clients connect.
    #[must_use]
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where operators and probes connect.
    #[must_use]
    pub fn admin_listen(&self) -> SocketAddr {
        self.admin_listen
    }

    /// Ready links, in development.
    #[must_use]
    pub fn welcome(&self) -> Option<&str> {
        self.welcome.as_deref()
    }

    /// Waits until an operator asks for the drain at the admin listener.
    pub async fn asked_to_drain(&self) {
        self.drain_asked.cancelled().await;
    }

    /// Where the node stands between in and out.
    #[must_use]
    pub fn drain(&self) -> &Drain {
        &self.shutdown.drain
    }

    /// Leaves in order. `false`: something did not end within the deadline.
    pub async fn stop(self) -> bool {
        let (left, ()) =
            tokio::join!(self.shutdown.leave(self.cluster.leave()), self.cluster.start_drain(&self.shutdown.stop));
        left
    }
}

async fn connect(config: &Config, metrics: &Arc<Metrics>, shutdown: &Shutdown) -> Result<Backend, StartError> {
    let Some(url) = &config.redis_url else { return Ok(Embedded::new().connect()) };
    let settings = RedisSettings {
        ca_file: config.redis_ca_file.clone(),
        command_timeout: config.redis_command_timeout,
        acknowledgement: config.acknowledgement,
        ..RedisSettings::at(url)
    };
    let until = Instant::now() + config.redis_wait;
    loop {
        // An attempt that failed may have left something running.
        let close = shutdown.close.child_token();
        let observer = Arc::clone(metrics) as _;
        match redis::connect(&settings, observer, &shutdown.connections, &close).await {
            Err(error) if error.may_pass() && Instant::now() < until => {
                close.cancel();
                tracing::warn!(%error, wait_seconds = config.redis_wait.as_secs(), "no redis yet; trying again");
                tokio::time::sleep(REDIS_RETRY_PAUSE).await;
            }
            connected => return Ok(connected?),
        }
    }
}

/// A node alone begins empty, so in development it makes something to look at.
async fn dev_project(config: &Config, projects: &Projects) -> Result<Option<i32>, StartError> {
    if config.redis_url.is_some() {
        return Ok(None);
    }
    let owner = UserId::new(welcome::DEV_USER);
    let access = projects.create_project("Demo", Some("An empty plan to try things on"), &owner).await?;
    Ok(Some(access.project.id().0))
}

fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    listener::bind(address).map_err(|source| StartError::Listen { address, source })
}

/// Two that accept at the same port: what one does not take, the other does.
fn twin(listener: TcpListener) -> io::Result<(TcpListener, TcpListener)> {
    let listener = listener.into_std()?;
    let other = listener.try_clone()?;
    Ok((TcpListener::from_std(listener)?, TcpListener::from_std(other)?))
}

/// What a node says until it serves: that it lives, and is not ready.
fn not_yet(id: &NodeId, allowed: AllowedOrigins) -> Router {
    let why = || vec![Check::needed("started", false, "the node is starting")];
    let error = ApiError::new(ErrorCode::Unavailable, "the node is starting").retry_after(Duration::from_secs(1));
    // Not for a next request: that is for who serves then.
    let probes = probes::router(Readiness::new(id.clone(), why));
    crowded::one_request_each(probes.fallback_service(crowded::router(error, allowed)))
}

fn address_of(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    listener.local_addr().map_err(|source| StartError::Listen { address: unknown, source })
}

fn load(metrics: &Metrics, bridge: &Bridge) -> Load {
    Load {
        connections: metrics.connections.now(),
        subscriptions: metrics.connections.subscriptions_now(),
        plans: i32::try_from(bridge.open_plans()).unwrap_or(i32::MAX),
    }
}

/// What must hold for a node to get new connections.
fn readiness(
    id: &NodeId,
    backend: &Backend,
    cluster: &Cluster,
    bridge: &Bridge,
    authenticator: &Authenticator,
    metrics: &Metrics,
    shutdown: &Shutdown,
) -> Readiness {
    let (cluster, bridge, authenticator) = (cluster.clone(), bridge.clone(), authenticator.clone());
    let (drain, leases) = (shutdown.drain.clone(), Arc::clone(&backend.leases));
    let (pressure, vigil) = (metrics.pressure.clone(), metrics.vigil.clone());
    let life = {
        let (pressure, vigil) = (pressure.clone(), vigil.clone());
        move || life(&pressure, &vigil)
    };
    Readiness::new(id.clone(), move || {
        let (lease, delivery, store) = (cluster.renewed_age(), bridge.delivery_age(), leases.health());
        let grace = READY_GRACE + limits::HEARTBEAT_INTERVAL;
        let breaker = std::iter::once(store.breaker).chain(store.sick.iter().cloned()).collect::<Vec<_>>().join("; ");
        let failure = cluster.renewal_failure().map(|why| format!("; {why}")).unwrap_or_default();
        vec![
            Check::needed("serving", drain.phase() == Phase::Serving, drain.phase().as_str()),
            Check::needed("lease", lease < grace, format!("renewed {} ms ago{failure}", lease.as_millis())),
            Check::needed("delivery", delivery < grace, format!("proved {} ms ago", delivery.as_millis())),
            Check::needed("role", store.replica_for.is_none_or(|since| since < grace), store.role),
            Check::needed("pressure", pressure.level() < Level::RefuseConnections, pressure.to_string()),
            Check::needed("keys", authenticator.has_keys(), "false while no token can be judged"),
            answering(vigil.findings()),
            // What it means for clients is judged by the lease and the delivery, with their grace. A shard without which the
            // node serves is told here and nowhere else: its plans would be no better off on another node.
            Check::told("breaker", store.answers && store.sick.is_empty(), breaker),
        ]
    })
    .with_life(life)
}

/// Whether the actors answer. One of many that hangs is a reason to look, not to send everybody elsewhere, where it may hang as
/// well; so it takes half of them.
fn answering(Findings { actors, slow_actors, .. }: Findings) -> Check {
    let is_needed = slow_actors > 0 && 2 * slow_actors >= actors;
    Check { is_needed, ..Check::told("actors", slow_actors == 0, format!("{slow_actors} of {actors} do not answer")) }
}

/// What must hold for the process to make progress, and what nothing but a restart brings back.
fn life(pressure: &Pressure, vigil: &Vigil) -> Vec<Check> {
    let (lag, Findings { actors, stuck_actors, stuck_tasks, .. }) = (pressure.event_loop_lag(), vigil.findings());
    let stuck = format!("{stuck_actors} of {actors} have stood still for {STUCK_LOOKS} s");
    vec![
        Check::needed("event_loop", lag < LIFE_GRACE, format!("{} ms late", lag.as_millis())),
        // One project that hangs would hang on the next node as well: a restart helps only if most of them do.
        Check { is_needed: 2 * stuck_actors > actors, ..Check::needed("actors", stuck_actors == 0, stuck) },
        Check::needed("tasks", stuck_tasks == 0, format!("{stuck_tasks} that the node needs stand still or ended")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vigil::Part;

    #[test]
    fn it_takes_half_of_the_actors_to_take_a_node_out() {
        let of = |slow_actors, actors| {
            let check = answering(Findings { actors, slow_actors, ..Findings::default() });
            (check.ok, check.is_needed)
        };
        assert_eq!(of(0, 0), (true, false));
        assert_eq!(of(1, 3), (false, false), "told, and nobody is sent elsewhere for it");
        assert_eq!(of(2, 4), (false, true));
        assert_eq!(of(1, 1), (false, true));
    }

    #[test]
    fn a_task_that_ended_and_an_actor_that_hangs_are_what_a_restart_mends() {
        let failing = |vigil: &Vigil| {
            let checks = life(&Pressure::default(), vigil);
            checks.into_iter().filter(|check| !check.ok && check.is_needed).map(|check| check.name).collect::<Vec<_>>()
        };
        let vigil = Vigil::default();
        assert!(failing(&vigil).is_empty());
        drop(vigil.pulse(Part::Heartbeat));
        (0..STUCK_LOOKS).for_each(|_| vigil.look());
        assert_eq!(failing(&vigil), ["tasks"]);
        let _actor = vigil.pulse(Part::Actor);
        (0..STUCK_LOOKS).for_each(|_| vigil.look());
        assert_eq!(failing(&vigil), ["actors", "tasks"]);
    }
}
