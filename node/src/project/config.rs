//! What the projects of a node are started with.

use std::sync::Arc;
use std::time::Duration;

use mille_shared::NodeId;

use super::plans::PlanSettings;
use super::presence::PresenceSettings;
use crate::backend::Backend;
use crate::bridge::Bridge;
use crate::metrics::Metrics;

/// What projects are started with.
pub struct ProjectsConfig {
    /// This node's id.
    pub node: NodeId,
    /// Where everything is kept.
    pub backend: Backend,
    /// The line to other nodes.
    pub bridge: Bridge,
    /// Where to count.
    pub metrics: Arc<Metrics>,
    /// How plans are kept.
    pub plans: PlanSettings,
    /// How presence is kept.
    pub presence: PresenceSettings,
    /// How long a project that nobody uses stays.
    pub idle_timeout: Duration,
    /// How old a project's actor gets before it begins anew, without closing a socket; up to a tenth less, by chance, so
    /// that projects that were opened together do not begin anew together.
    pub lifetime: Duration,
    /// What is known of members is read again at least this often, in case a control message was lost.
    pub sweep: Duration,
}
