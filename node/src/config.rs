//! A node's settings: flags and environment variables, read here and nowhere else.
//!
//! What is unknown, contradictory or out of bounds ends the process with a sentence that names it. Every default stands in
//! [`mille_shared::limits`] or here, with its unit in the name.

mod bounds;
mod leaving;
mod told;
mod traces;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{CommandFactory, Parser};
use mille_shared::limits;
use rand::Rng;
use rand::distr::Alphanumeric;

use crate::backend::Retention;
use crate::backend::redis::{AckLevel, Acknowledgement};
use crate::clock::whole_ms;
use crate::drain::DrainSettings;
use crate::gateway::auth::{Algorithm, AuthSettings, KeySettings, Url};
use crate::gateway::origins::AllowedOrigins;
use crate::gateway::tls::TlsFiles;
use crate::pressure::Thresholds;
use crate::pressure::settings::PressureArguments;
use crate::project::PlanSettings;
use crate::telemetry::{DEFAULT_FILTER, LogFormat};
use crate::traces::ExportSettings;
pub use bounds::{LimitArguments, Limits, PlanArguments};
pub use leaving::LeavingArguments;
pub use traces::TraceArguments;

/// One node of a Mille cluster.
#[derive(Debug, Parser)]
#[command(name = "mille-node", version, about)]
pub struct Arguments {
    /// Where clients connect.
    #[arg(long, env = "MILLE_LISTEN", default_value = "127.0.0.1:4000")]
    pub listen: SocketAddr,
    /// Where operators and probes connect. Not for the internet.
    #[arg(long, env = "MILLE_ADMIN_LISTEN", default_value = "127.0.0.1:4100")]
    pub admin_listen: SocketAddr,
    /// The certificate (chain, PEM) with which clients are spoken to over TLS. Absent: plain HTTP.
    #[arg(long, env = "MILLE_TLS_CERT_FILE")]
    pub tls_cert_file: Option<PathBuf>,
    /// The private key (PEM) of the certificate.
    #[arg(long, env = "MILLE_TLS_KEY_FILE", hide_env_values = true)]
    pub tls_key_file: Option<PathBuf>,
    /// The node's name; with the incarnation it is the node's id.
    #[arg(long, env = "MILLE_NODE_NAME", default_value = "node")]
    pub node_name: String,
    /// The address others see; where it listens, if not given.
    #[arg(long, env = "MILLE_ADVERTISE")]
    pub advertise: Option<String>,
    /// `redis://`, `rediss://`, `redis-sentinel://` or `redis-cluster://`. Absent: this node alone, in its own memory.
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    pub redis_url: Option<String>,
    /// A PEM file with the authorities that may vouch for a Redis over TLS; those the system trusts, if not given.
    #[arg(long, env = "MILLE_REDIS_CA_FILE")]
    pub redis_ca_file: Option<PathBuf>,
    /// How long a node that starts waits for a Redis that can't be reached. 0 to 3,600; 0: not at all.
    #[arg(long, env = "MILLE_REDIS_WAIT_SECONDS", default_value_t = limits::REDIS_WAIT.as_secs(),
          value_parser = clap::value_parser!(u64).range(0..=3_600))]
    pub redis_wait_seconds: u64,
    /// How long one Redis command may take.
    #[arg(long, env = "MILLE_REDIS_COMMAND_TIMEOUT_MS", default_value_t = whole_ms(limits::REDIS_COMMAND_TIMEOUT))]
    pub redis_command_timeout_ms: u64,
    /// When an edit is acknowledged: `applied` (Redis has it) or `replicated:N` (N of its replicas have it, too).
    #[arg(long, env = "MILLE_ACK", default_value_t)]
    pub ack: AckLevel,
    /// How long replicas may take, 1 to 60,000. Then the edit is answered with UNAVAILABLE, although it is applied.
    #[arg(long, env = "MILLE_ACK_TIMEOUT_MS", default_value_t = whole_ms(limits::ACK_TIMEOUT),
          value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub ack_timeout_ms: u64,
    /// The secret of HS256 tokens, at least 16 bytes.
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    pub jwt_secret: Option<String>,
    /// The secret that follows, taken as well while secrets are changed.
    #[arg(long, env = "JWT_NEXT_SECRET", hide_env_values = true)]
    pub jwt_next_secret: Option<String>,
    /// A PEM file with the public key of RS256, ES256 or EdDSA tokens; while keys are changed, with both. Read again now and then.
    #[arg(long, env = "JWT_PUBLIC_KEY_FILE")]
    pub jwt_public_key_file: Option<PathBuf>,
    /// A file with a JSON Web Key Set.
    #[arg(long, env = "JWKS_FILE")]
    pub jwks_file: Option<PathBuf>,
    /// Where a JSON Web Key Set is fetched.
    #[arg(long, env = "JWKS_URL")]
    pub jwks_url: Option<Url>,
    /// Algorithms that are taken, separated by commas.
    #[arg(long, env = "JWT_ALGORITHMS", value_delimiter = ',')]
    pub jwt_algorithms: Vec<Algorithm>,
    /// The `iss` every token must have.
    #[arg(long, env = "JWT_ISSUER")]
    pub jwt_issuer: Option<String>,
    /// The `aud` every token must be meant for.
    #[arg(long, env = "JWT_AUDIENCE")]
    pub jwt_audience: Option<String>,
    /// How far the issuer's clock may differ from ours.
    #[arg(long, env = "MILLE_JWT_LEEWAY_SECONDS", default_value_t = limits::TOKEN_LEEWAY.as_secs())]
    pub jwt_leeway_seconds: u64,
    /// Where browsers may come from, separated by commas; `*` for anywhere.
    #[arg(long, env = "MILLE_ALLOWED_ORIGINS", value_delimiter = ',')]
    pub allowed_origins: Vec<String>,
    /// How long this node's presences outlive its last sign of life. 2 to 300.
    #[arg(long, env = "MILLE_NODE_LEASE_SECONDS", default_value_t = limits::NODE_LEASE.as_secs(),
          value_parser = clap::value_parser!(u64).range(2..=300))]
    pub node_lease_seconds: u64,
    /// Changes between two snapshots of a plan.
    #[arg(long, env = "MILLE_SNAPSHOT_EVERY_CHANGES", default_value_t = limits::SNAPSHOT_EVERY_CHANGES,
          value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub snapshot_every_changes: u64,
    /// The longest that edits of one plan wait for more of them, where other nodes edit it too, so that they share a commit.
    /// Nobody waits while edits are further apart. 0: never.
    #[arg(long, env = "MILLE_COMMIT_MOMENT_MS", default_value_t = whole_ms(limits::COMMIT_MOMENT),
          value_parser = clap::value_parser!(u64).range(0..=100))]
    pub commit_moment_ms: u64,
    /// Bytes of recent changes that all open plans keep in memory together, for those who come back and for a Redis that lost
    /// some. Beyond it each forgets its oldest; every plan keeps a few, and the log has them all.
    #[arg(long, env = "MILLE_RECENT_CHANGES_BYTES_MAX", default_value_t = limits::RECENT_CHANGES_BYTES_MAX)]
    pub recent_changes_bytes_max: usize,
    /// Changes the log keeps at least.
    #[arg(long, env = "MILLE_LOG_RETENTION_CHANGES", default_value_t = limits::LOG_RETENTION_CHANGES)]
    pub log_retention_changes: u64,
    /// Younger changes are kept too, up to the most.
    #[arg(long, env = "MILLE_LOG_RETENTION_SECONDS", default_value_t = limits::LOG_RETENTION_AGE.as_secs())]
    pub log_retention_seconds: u64,
    /// Changes the log keeps at most.
    #[arg(long, env = "MILLE_LOG_CHANGES_MAX", default_value_t = limits::LOG_CHANGES_MAX)]
    pub log_changes_max: u64,
    /// How much a plan may have.
    #[command(flatten)]
    pub plan: PlanArguments,
    /// Threads that serve, at least 1 [default: one per core that this process may use]. Nodes that share a machine share its
    /// cores too: threads beyond them wake each other for nothing.
    #[arg(long, env = "MILLE_WORKER_THREADS")]
    pub worker_threads: Option<NonZeroUsize>,
    /// Connections of this node, of each of its two listeners. At least 1.
    #[arg(long, env = "MILLE_CONNECTIONS_MAX", default_value = "50000")]
    pub connections_max: NonZeroUsize,
    /// What users, connections and strangers may do.
    #[command(flatten)]
    pub limits: LimitArguments,
    /// How long a project that nobody uses stays on this node.
    #[arg(long, env = "MILLE_PROJECT_IDLE_SECONDS", default_value_t = limits::PROJECT_IDLE.as_secs())]
    pub project_idle_seconds: u64,
    /// How long a project stays as it is before it begins anew, without closing a socket. At least 10.
    #[arg(long, env = "MILLE_PROJECT_LIFETIME_SECONDS", default_value_t = limits::PROJECT_LIFETIME.as_secs(),
          value_parser = clap::value_parser!(u64).range(10..))]
    pub project_lifetime_seconds: u64,
    /// How long a right that was taken away may last when the message that says so is lost. 1 to 3600.
    #[arg(long, env = "MILLE_SWEEP_SECONDS", default_value_t = limits::RIGHTS_SWEEP.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub sweep_seconds: u64,
    /// How long a revocation is kept when nobody says when its tokens expire: longer than any token lives. At least 60.
    #[arg(long, env = "MILLE_REVOCATION_SECONDS", default_value_t = limits::REVOCATION_KEPT.as_secs(),
          value_parser = clap::value_parser!(u64).range(60..=31_536_000))]
    pub revocation_seconds: u64,
    /// From where on the node gives something up.
    #[command(flatten)]
    pub pressure: PressureArguments,
    /// How nodes are taken out.
    #[command(flatten)]
    pub leaving: LeavingArguments,
    /// How log lines look.
    #[arg(long, env = "MILLE_LOG_FORMAT", value_enum, default_value = "pretty")]
    pub log_format: LogFormat,
    /// What is logged, in the words of tracing's `EnvFilter`. Libraries are not heard below `debug`.
    #[arg(long, env = "RUST_LOG", default_value = DEFAULT_FILTER)]
    pub log_filter: String,
    /// Where traces go.
    #[command(flatten)]
    pub traces: TraceArguments,
    /// For development: makes its own secret if no key is given, shows GraphiQL and the schema, prints ready links, with a token
    /// if the secret is its own.
    #[arg(long, env = "MILLE_DEV", value_parser = BoolishValueParser::new())]
    pub dev: bool,
}

/// The kinds of Redis we know how to reach; those with a double s over TLS.
const REDIS_SCHEMES: [&str; 6] =
    ["redis", "rediss", "redis-sentinel", "rediss-sentinel", "redis-cluster", "rediss-cluster"];

/// What a node is built from.
#[derive(Clone)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where operators and probes connect.
    pub admin_listen: SocketAddr,
    /// The certificate for clients; absent: plain HTTP.
    pub tls: Option<TlsFiles>,
    /// The node's name.
    pub node_name: String,
    /// The address others see.
    pub advertise: Option<String>,
    /// Where the cluster's Redis is; absent: this node alone.
    pub redis_url: Option<String>,
    /// The authorities that may vouch for Redis; absent: those the system trusts.
    pub redis_ca_file: Option<PathBuf>,
    /// How long a node that starts waits for a Redis that can't be reached.
    pub redis_wait: Duration,
    /// How long one Redis command may take.
    pub redis_command_timeout: Duration,
    /// When an edit is acknowledged.
    pub acknowledgement: Acknowledgement,
    /// Who may come in.
    pub auth: AuthSettings,
    /// The secret that `--dev` made, if it was given no keys: for the links it prints.
    pub dev_secret: Option<String>,
    /// Where browsers may come from.
    pub allowed_origins: AllowedOrigins,
    /// How long this node's presences outlive its last sign of life.
    pub node_lease: Duration,
    /// How plans are kept.
    pub plans: PlanSettings,
    /// Threads that serve; absent: one per core.
    pub worker_threads: Option<NonZeroUsize>,
    /// Connections of this node.
    pub connections_max: usize,
    /// What users, connections and strangers may do.
    pub limits: Limits,
    /// How long a project that nobody uses stays.
    pub project_idle: Duration,
    /// How long a project stays as it is before it begins anew.
    pub project_lifetime: Duration,
    /// What is known of rights is read again at least this often.
    pub sweep: Duration,
    /// How long a revocation is kept when nobody says when its tokens expire.
    pub revocation_kept: Duration,
    /// From where on the node gives something up.
    pub pressure: Thresholds,
    /// How the node is taken out.
    pub drain: DrainSettings,
    /// How traces are sent; absent: nothing is traced.
    pub traces: Option<ExportSettings>,
    /// Whether this is for development.
    pub dev: bool,
}

/// Why the settings can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A variable of ours that we do not know: usually a slip of the pen.
    #[error("unknown environment variable {name}{}", .meant.as_ref().map(|m| format!("; did you mean {m}?")).unwrap_or_default())]
    UnknownVariable {
        /// The variable.
        name: String,
        /// The known one it looks like.
        meant: Option<String>,
    },
    /// Nobody could come in, and nobody said that this is for development.
    #[error(
        "no keys to judge tokens: give one of JWT_SECRET, JWT_PUBLIC_KEY_FILE, JWKS_FILE, JWKS_URL (or --dev to try it out)"
    )]
    NoKeys,
    /// More than one source of keys.
    #[error("only one source of keys may be given, these are {0}")]
    SeveralKeys(String),
    /// Two settings that contradict each other.
    #[error("{0}")]
    Contradiction(String),
}

impl Config {
    /// The settings of this process, and how its log should look.
    ///
    /// # Errors
    /// [`ConfigError`]. Flags that make no sense end the process right here, with the usage.
    pub fn from_process() -> Result<(Self, LogFormat, String), ConfigError> {
        check_variables(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))?;
        let arguments = Arguments::try_parse().unwrap_or_else(|error| end_with_usage(&error));
        let (format, filter) = (arguments.log_format, arguments.log_filter.clone());
        Ok((Self::new(arguments)?, format, filter))
    }

    /// The settings that arguments mean.
    ///
    /// # Errors
    /// [`ConfigError`] if they contradict each other.
    pub fn new(mut arguments: Arguments) -> Result<Self, ConfigError> {
        let contradiction = |text: String| Err(ConfigError::Contradiction(text));
        if arguments.listen == arguments.admin_listen && arguments.listen.port() != 0 {
            return contradiction(format!("MILLE_LISTEN and MILLE_ADMIN_LISTEN are both {}", arguments.listen));
        }
        if arguments.log_retention_changes < 2 * arguments.snapshot_every_changes {
            return contradiction(format!(
                "MILLE_LOG_RETENTION_CHANGES ({}) must be at least twice MILLE_SNAPSHOT_EVERY_CHANGES ({})",
                arguments.log_retention_changes, arguments.snapshot_every_changes
            ));
        }
        if arguments.log_changes_max < arguments.log_retention_changes {
            return contradiction(format!(
                "MILLE_LOG_CHANGES_MAX ({}) must not be below MILLE_LOG_RETENTION_CHANGES ({})",
                arguments.log_changes_max, arguments.log_retention_changes
            ));
        }
        if arguments.node_name.is_empty() || arguments.node_name.contains(|c: char| c.is_whitespace() || c.is_control())
        {
            return contradiction("MILLE_NODE_NAME must be a word".to_owned());
        }
        if arguments.jwt_next_secret.is_some() && arguments.jwt_secret.is_none() {
            return contradiction("JWT_NEXT_SECRET needs JWT_SECRET beside it".to_owned());
        }
        if let Some(url) = &arguments.redis_url
            && !REDIS_SCHEMES.iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|rest| rest.starts_with("://")))
        {
            let known = REDIS_SCHEMES.map(|scheme| format!("{scheme}://")).join(", ");
            return contradiction(format!("REDIS_URL must begin with one of {known}"));
        }
        let pressure = arguments.pressure.thresholds().map_err(ConfigError::Contradiction)?;
        if arguments.redis_ca_file.is_some()
            && !arguments.redis_url.as_ref().is_some_and(|url| url.starts_with("rediss"))
        {
            return contradiction("MILLE_REDIS_CA_FILE needs a REDIS_URL with TLS (rediss://) beside it".to_owned());
        }
        if arguments.ack != AckLevel::Applied && arguments.redis_url.is_none() {
            return contradiction(format!("MILLE_ACK ({}) needs a REDIS_URL beside it", arguments.ack));
        }
        let tls = match (arguments.tls_cert_file.take(), arguments.tls_key_file.take()) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            (Some(_), None) => {
                return contradiction("MILLE_TLS_CERT_FILE needs MILLE_TLS_KEY_FILE beside it".to_owned());
            }
            (None, Some(_)) => {
                return contradiction("MILLE_TLS_KEY_FILE needs MILLE_TLS_CERT_FILE beside it".to_owned());
            }
        };
        let allowed_origins = AllowedOrigins::parse(&arguments.allowed_origins)
            .map_err(|error| ConfigError::Contradiction(format!("MILLE_ALLOWED_ORIGINS: {error}")))?;
        let (auth, dev_secret) = auth(&arguments)?;
        let bounds = arguments.plan.bounds();
        let retention = Retention {
            changes: arguments.log_retention_changes,
            age: Duration::from_secs(arguments.log_retention_seconds),
            changes_max: arguments.log_changes_max,
        };
        let node_lease = Duration::from_secs(arguments.node_lease_seconds);
        let redis_command_timeout = Duration::from_millis(arguments.redis_command_timeout_ms);
        Ok(Self {
            limits: Limits::new(&arguments.limits, node_lease, redis_command_timeout)?,
            listen: arguments.listen,
            admin_listen: arguments.admin_listen,
            tls,
            node_name: arguments.node_name,
            advertise: arguments.advertise,
            redis_url: arguments.redis_url,
            redis_wait: Duration::from_secs(arguments.redis_wait_seconds),
            redis_command_timeout,
            acknowledgement: Acknowledgement {
                level: arguments.ack,
                timeout: Duration::from_millis(arguments.ack_timeout_ms),
            },
            auth,
            dev_secret,
            redis_ca_file: arguments.redis_ca_file,
            allowed_origins,
            node_lease,
            plans: PlanSettings {
                bounds,
                snapshot_every: arguments.snapshot_every_changes,
                retention,
                commit_moment_max: Duration::from_millis(arguments.commit_moment_ms),
                recent_bytes_max: arguments.recent_changes_bytes_max,
            },
            worker_threads: arguments.worker_threads,
            connections_max: arguments.connections_max.get(),
            project_idle: Duration::from_secs(arguments.project_idle_seconds),
            project_lifetime: Duration::from_secs(arguments.project_lifetime_seconds),
            sweep: Duration::from_secs(arguments.sweep_seconds),
            revocation_kept: Duration::from_secs(arguments.revocation_seconds),
            pressure,
            drain: arguments.leaving.settings()?,
            traces: arguments.traces.settings()?,
            dev: arguments.dev,
        })
    }
}

/// The source of keys, of which there must be exactly one, and the development secret.
fn auth(arguments: &Arguments) -> Result<(AuthSettings, Option<String>), ConfigError> {
    let mut sources = Vec::new();
    if let Some(secret) = &arguments.jwt_secret {
        let next = arguments.jwt_next_secret.clone();
        sources.push(("JWT_SECRET", KeySettings::Secret { secret: secret.clone(), next }));
    }
    if let Some(path) = &arguments.jwt_public_key_file {
        sources.push(("JWT_PUBLIC_KEY_FILE", KeySettings::PublicKeyFile(path.clone())));
    }
    if let Some(path) = &arguments.jwks_file {
        sources.push(("JWKS_FILE", KeySettings::JwksFile(path.clone())));
    }
    if let Some(url) = &arguments.jwks_url {
        sources.push(("JWKS_URL", KeySettings::JwksUrl(url.clone())));
    }
    if sources.len() > 1 {
        let names: Vec<_> = sources.iter().map(|(name, _)| *name).collect();
        return Err(ConfigError::SeveralKeys(names.join(", ")));
    }
    let mut dev_secret = None;
    let keys = match sources.pop() {
        Some((_, keys)) => keys,
        None if arguments.dev => {
            let secret: String = rand::rng().sample_iter(Alphanumeric).take(48).map(char::from).collect();
            dev_secret = Some(secret.clone());
            KeySettings::Secret { secret, next: None }
        }
        None => return Err(ConfigError::NoKeys),
    };
    let settings = AuthSettings {
        algorithms: arguments.jwt_algorithms.clone(),
        issuer: arguments.jwt_issuer.clone(),
        audience: arguments.jwt_audience.clone(),
        leeway: Duration::from_secs(arguments.jwt_leeway_seconds),
        ..AuthSettings::new(keys)
    };
    Ok((settings, dev_secret))
}

/// Ends the process as clap would, and names the variable too: a wrong value usually came from there.
fn end_with_usage(error: &clap::Error) -> ! {
    use clap::error::{ContextKind, ContextValue};
    if let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) {
        let command = Arguments::command();
        let long = flag.trim_start_matches('-').split(' ').next().unwrap_or_default();
        let argument = command.get_arguments().find(|argument| argument.get_long() == Some(long));
        if let Some(variable) = argument.and_then(clap::Arg::get_env) {
            eprintln!("mille-node: {} is the variable of --{long}", variable.to_string_lossy());
        }
    }
    error.exit()
}

/// Every variable that begins with `MILLE_`, `JWT_` or `JWKS_` must be ours, and those for traces ones that we know.
fn check_variables(names: impl Iterator<Item = String>) -> Result<(), ConfigError> {
    let command = Arguments::command();
    let known: Vec<String> = command
        .get_arguments()
        .filter_map(|argument| argument.get_env().map(|name| name.to_string_lossy().into_owned()))
        .collect();
    let is_ours = |name: &String| {
        ["MILLE_", "JWT_", "JWKS_"].iter().any(|family| name.starts_with(family)) || traces::is_ours(name)
    };
    for name in names.filter(is_ours) {
        if !known.contains(&name) {
            let looks_like = |other: &&String| other.starts_with(&name) || name.starts_with(other.as_str());
            let meant = known.iter().find(looks_like).cloned();
            return Err(ConfigError::UnknownVariable { name, meant });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(arguments: &[&str]) -> Result<Config, ConfigError> {
        let arguments = std::iter::once("mille-node").chain(arguments.iter().copied());
        Config::new(Arguments::try_parse_from(arguments).expect("the flags themselves are right"))
    }

    const SECRET: &str = "a secret of at least thirty-two bytes";

    #[test]
    fn nobody_comes_in_without_keys_unless_it_is_for_development() {
        assert_eq!(config(&[]).err(), Some(ConfigError::NoKeys));
        let dev = config(&["--dev"]).expect("development needs nothing");
        assert!(dev.dev_secret.is_some_and(|secret| secret.len() >= 32));
        for given in [&["--jwt-secret", SECRET][..], &["--dev", "--jwt-secret", SECRET]] {
            assert!(
                config(given).is_ok_and(|config| config.dev_secret.is_none()),
                "a secret that is given is not told"
            );
        }
    }

    #[test]
    fn every_bound_of_plans_and_requests_is_a_setting() {
        let given = [
            "--dev",
            "--plan-nodes-max=1",
            "--plan-edges-max=2",
            "--plan-bytes-max=3",
            "--config-bytes-max=4",
            "--metadata-bytes-max=5",
            "--coordinate-abs-max=6.5",
            "--changes-per-request-max=7",
            "--request-bytes-max=1008",
        ];
        let config = config(&given).expect("settings");
        let expected = mille_core::PlanBounds {
            nodes_max: 1,
            edges_max: 2,
            plan_bytes_max: 3,
            config_bytes_max: 4,
            metadata_bytes_max: 5,
            coordinate_abs_max: 6.5,
            changes_max: 7,
        };
        assert_eq!(config.plans.bounds, expected);
        assert_eq!(config.limits.transport.request_bytes_max, 1_008);
        for wrong in [
            "--changes-per-request-max=2049",
            "--request-bytes-max=999",
            "--coordinate-abs-max=inf",
            "--connections-max=0",
        ] {
            assert!(Arguments::try_parse_from(["mille-node", "--dev", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn contradictions_are_named() {
        let several = config(&["--jwt-secret", SECRET, "--jwks-file", "keys.json"]).err();
        assert_eq!(several, Some(ConfigError::SeveralKeys("JWT_SECRET, JWKS_FILE".to_owned())));
        let same = ["--dev", "--listen", "127.0.0.1:1", "--admin-listen", "127.0.0.1:1"];
        assert!(matches!(config(&same), Err(ConfigError::Contradiction(_))));
        for half in ["--tls-cert-file", "--tls-key-file"] {
            let alone = config(&["--dev", half, "node.pem"]).err().map(|error| error.to_string());
            assert!(
                alone.is_some_and(|text| text.contains("MILLE_TLS_CERT_FILE") && text.contains("MILLE_TLS_KEY_FILE"))
            );
        }
        for url in [&["--redis-url", "redis://127.0.0.1"][..], &[]] {
            let ca = [&["--dev", "--redis-ca-file", "ca.pem"], url].concat();
            assert!(matches!(config(&ca), Err(ConfigError::Contradiction(_))));
        }
        let origin =
            config(&["--dev", "--allowed-origins", "https://a.example,null"]).err().map(|error| error.to_string());
        assert!(origin.is_some_and(|text| text.contains("MILLE_ALLOWED_ORIGINS") && text.contains("null")));
        let short = ["--dev", "--log-retention-changes", "100"];
        assert!(matches!(config(&short), Err(ConfigError::Contradiction(_))));
        let hasty = config(&["--dev", "--shutdown-seconds", "25"]).err().map(|error| error.to_string());
        assert!(hasty.is_some_and(|text| text.contains("MILLE_SHUTDOWN_SECONDS") && text.contains("WINDOW")));
    }

    #[test]
    fn a_variable_that_is_none_of_ours_is_named() {
        let check = |name: &str| check_variables(std::iter::once(name.to_owned()));
        assert!(check("MILLE_LISTEN").is_ok());
        assert!(check("HOME").is_ok());
        assert!(check("OTEL_TRACES_SAMPLER").is_ok() && check("OTEL_METRICS_EXPORTER").is_ok());
        assert!(matches!(check("OTEL_BSP_SCHEDULE"), Err(ConfigError::UnknownVariable { meant: Some(_), .. })));
        for mistyped in ["MILLE_LISTE", "JWT_ISSUERS", "JWKS_UR"] {
            let answer = check(mistyped);
            assert!(
                matches!(answer, Err(ConfigError::UnknownVariable { meant: Some(_), .. })),
                "{mistyped}: {answer:?}"
            );
        }
    }
}
