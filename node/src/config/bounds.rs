//! Settings of limits: those that an operator would change. What is met names itself; [`mille_shared::limits`] says what
//! happens there.

use std::time::Duration;

use clap::{Args, value_parser};
use mille_core::PlanBounds;
use mille_core::allowance::Rate;
use mille_shared::limits;

use super::ConfigError;
use crate::clock::whole_ms;
use crate::gateway::transport::TransportLimits;
use crate::quota::QuotaSettings;

/// The flags.
#[derive(Debug, Clone, Args)]
pub struct LimitArguments {
    /// Connections of one user over the whole cluster.
    #[arg(long, env = "MILLE_USER_CONNECTIONS_MAX", default_value_t = limits::USER_CONNECTIONS_MAX,
          value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub user_connections_max: u32,
    /// Operations of one user over the whole cluster, per second in the long run.
    #[arg(long, env = "MILLE_USER_OPERATIONS_PER_SECOND", default_value_t = limits::USER_OPERATIONS_PER_SECOND,
          value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub user_operations_per_second: u32,
    /// Operations of one user over the whole cluster at once. At least a tenth of those per second.
    #[arg(long, env = "MILLE_USER_OPERATIONS_BURST", default_value_t = limits::USER_OPERATIONS_BURST,
          value_parser = value_parser!(u32).range(1..=10_000_000))]
    pub user_operations_burst: u32,
    /// Operations of one GraphQL socket, per second in the long run.
    #[arg(long, env = "MILLE_CONNECTION_OPERATIONS_PER_SECOND",
          default_value_t = limits::CONNECTION_OPERATIONS_PER_SECOND,
          value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub connection_operations_per_second: u32,
    /// Operations of one GraphQL socket at once.
    #[arg(long, env = "MILLE_CONNECTION_OPERATIONS_BURST", default_value_t = limits::CONNECTION_OPERATIONS_BURST,
          value_parser = value_parser!(u32).range(1..=10_000_000))]
    pub connection_operations_burst: u32,
    /// Subscriptions of one GraphQL socket.
    #[arg(long, env = "MILLE_CONNECTION_SUBSCRIPTIONS_MAX",
          default_value_t = limits::SUBSCRIPTIONS_PER_CONNECTION_MAX)]
    pub connection_subscriptions_max: usize,
    /// Connections of this node that have not shown a good token.
    #[arg(long, env = "MILLE_UNAUTHENTICATED_CONNECTIONS_MAX",
          default_value_t = limits::UNAUTHENTICATED_CONNECTIONS_MAX)]
    pub unauthenticated_connections_max: usize,
    /// Bytes of one request: a body over HTTP, a frame of a GraphQL socket. 1000 to 4194304, which a socket may send in a second.
    #[arg(long, env = "MILLE_REQUEST_BYTES_MAX", default_value_t = limits::REQUEST_BYTES_MAX,
          value_parser = between(1_000, limits::OPERATION_BYTES_PER_CONNECTION_MAX))]
    pub request_bytes_max: usize,
    /// Bytes of request bodies that this node reads at a time.
    #[arg(long, env = "MILLE_REQUEST_BYTES_IN_FLIGHT_MAX", default_value_t = limits::REQUEST_BYTES_IN_FLIGHT_MAX)]
    pub request_bytes_in_flight_max: usize,
    /// The longest that subscribers of one plan wait for more changes after they were told some, so that a burst shares
    /// system calls. Nobody waits while changes are further apart, or few listen. 0: never.
    #[arg(long, env = "MILLE_FAN_OUT_MOMENT_MS", default_value_t = whole_ms(limits::FAN_OUT_MOMENT),
          value_parser = value_parser!(u64).range(0..=100))]
    pub fan_out_moment_ms: u64,
}

/// How much a plan may have, as flags. What is there already stays, whatever they say.
#[derive(Debug, Clone, Args)]
pub struct PlanArguments {
    /// Plan nodes in one plan.
    #[arg(long, env = "MILLE_PLAN_NODES_MAX", default_value_t = limits::PLAN_NODES_MAX)]
    pub plan_nodes_max: usize,
    /// Edges in one plan.
    #[arg(long, env = "MILLE_PLAN_EDGES_MAX", default_value_t = limits::PLAN_EDGES_MAX)]
    pub plan_edges_max: usize,
    /// Bytes of all texts of one plan.
    #[arg(long, env = "MILLE_PLAN_BYTES_MAX", default_value_t = limits::PLAN_BYTES_MAX)]
    pub plan_bytes_max: usize,
    /// Bytes of one plan node's config.
    #[arg(long, env = "MILLE_CONFIG_BYTES_MAX", default_value_t = limits::CONFIG_BYTES_MAX)]
    pub config_bytes_max: usize,
    /// Bytes of the metadata of one plan node, one edge or one plan.
    #[arg(long, env = "MILLE_METADATA_BYTES_MAX", default_value_t = limits::METADATA_BYTES_MAX)]
    pub metadata_bytes_max: usize,
    /// How far from 0 the x and the y of a plan node may be.
    #[arg(long, env = "MILLE_COORDINATE_ABS_MAX", default_value_t = limits::COORDINATE_ABS_MAX, value_parser = distance)]
    pub coordinate_abs_max: f64,
    /// Changes of one `applyPlanDagChanges`, and plan nodes that are moved together. 1 to 2048, so that they fit the queue of a plan.
    #[arg(long, env = "MILLE_CHANGES_PER_REQUEST_MAX", default_value_t = limits::CHANGES_PER_REQUEST_MAX,
          value_parser = between(1, limits::PENDING_OPERATIONS_MAX))]
    pub changes_per_request_max: usize,
}

impl PlanArguments {
    pub(super) fn bounds(&self) -> PlanBounds {
        PlanBounds {
            nodes_max: self.plan_nodes_max,
            edges_max: self.plan_edges_max,
            config_bytes_max: self.config_bytes_max,
            metadata_bytes_max: self.metadata_bytes_max,
            plan_bytes_max: self.plan_bytes_max,
            coordinate_abs_max: self.coordinate_abs_max,
            changes_max: self.changes_per_request_max,
        }
    }
}

/// Reads a whole number between two others.
fn between(least: usize, most: usize) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| format!("not a whole number from {least} to {most}"))
    }
}

fn distance(text: &str) -> Result<f64, String> {
    let distance = text.parse().ok().filter(|distance: &f64| distance.is_finite() && *distance > 0.0);
    distance.ok_or_else(|| "not a finite number above 0".to_owned())
}

/// The bounds they mean.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Of one user.
    pub user: QuotaSettings,
    /// Of one caller.
    pub transport: TransportLimits,
    /// Connections that have not shown a good token.
    pub unauthenticated_connections_max: usize,
    /// Bytes of request bodies at a time.
    pub request_bytes_in_flight_max: usize,
}

impl Limits {
    /// `places_ttl`: how long a node's places outlive it; `patience`: how long the store may take.
    pub(super) fn new(
        arguments: &LimitArguments,
        places_ttl: Duration,
        patience: Duration,
    ) -> Result<Self, ConfigError> {
        let operations =
            Rate { per_second: arguments.user_operations_per_second, burst: arguments.user_operations_burst };
        // Less than what is leased at a time would never be given whole.
        if operations.burst < operations.per_second / 10 {
            return Err(ConfigError::Contradiction(format!(
                "MILLE_USER_OPERATIONS_BURST ({}) must be at least a tenth of MILLE_USER_OPERATIONS_PER_SECOND ({})",
                operations.burst, operations.per_second
            )));
        }
        for (value, name) in [
            (arguments.unauthenticated_connections_max, "MILLE_UNAUTHENTICATED_CONNECTIONS_MAX"),
            (arguments.connection_subscriptions_max, "MILLE_CONNECTION_SUBSCRIPTIONS_MAX"),
        ] {
            if value == 0 {
                return Err(ConfigError::Contradiction(format!("{name} must be at least 1")));
            }
        }
        let transport = TransportLimits {
            operations_per_second: arguments.connection_operations_per_second,
            operations_burst: arguments.connection_operations_burst,
            subscriptions_max: arguments.connection_subscriptions_max,
            fan_out_moment_max: Duration::from_millis(arguments.fan_out_moment_ms),
            request_bytes_max: arguments.request_bytes_max,
            ..TransportLimits::default()
        };
        if arguments.request_bytes_in_flight_max < transport.request_bytes_max {
            return Err(ConfigError::Contradiction(format!(
                "MILLE_REQUEST_BYTES_IN_FLIGHT_MAX ({}) must have room for one request ({})",
                arguments.request_bytes_in_flight_max, transport.request_bytes_max
            )));
        }
        let user = QuotaSettings { operations, connections_max: arguments.user_connections_max, places_ttl, patience };
        Ok(Self {
            user,
            transport,
            unauthenticated_connections_max: arguments.unauthenticated_connections_max,
            request_bytes_in_flight_max: arguments.request_bytes_in_flight_max,
        })
    }
}
