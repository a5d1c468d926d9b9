//! The schema, put together and bounded.

use async_graphql::{Schema, SchemaBuilder, ValidationMode};
use mille_shared::limits;

use super::presence::Guests;
use super::{MilleExecutor, Mutation, Query, Subscription};
use crate::cluster::Cluster;
use crate::gateway::auth::Revoker;
use crate::project::Projects;

/// The schema of a node.
pub type MilleSchema = Schema<Query, Mutation, Subscription>;

/// Selection sets inside each other, fragments included. Above [`limits::QUERY_DEPTH_MAX`], which speaks first.
const RECURSION_MAX: usize = 32;
/// Nested selections in development: what tools ask of a schema is deeper than anything in ours.
const DEV_DEPTH_MAX: usize = 24;
/// Complexity in development, for the same reason.
const DEV_COMPLEXITY_MAX: usize = 2_000;

/// What runs requests over a node's projects and cluster.
///
/// With `dev` the schema tells about itself: introspection, suggestions for misspelt names, and bounds that let the usual
/// tools ask for both.
#[must_use]
pub fn executor(projects: Projects, cluster: Cluster, revoker: Revoker, dev: bool) -> MilleExecutor {
    let guests = Guests::default();
    let over = |builder: SchemaBuilder<Query, Mutation, Subscription>| {
        builder.data(projects.clone()).data(cluster.clone()).data(revoker.clone()).data(guests.clone()).finish()
    };
    let strict = over(builder(dev));
    let sdl = strict.sdl();
    MilleExecutor::new(strict, over(builder(dev).validation_mode(ValidationMode::Fast)), &sdl)
}

pub(super) fn builder(dev: bool) -> SchemaBuilder<Query, Mutation, Subscription> {
    let builder = Schema::build(Query, Mutation::default(), Subscription)
        .limit_recursive_depth(RECURSION_MAX)
        .limit_directives(limits::QUERY_DIRECTIVES_MAX);
    if dev {
        builder.limit_depth(DEV_DEPTH_MAX).limit_complexity(DEV_COMPLEXITY_MAX)
    } else {
        builder
            .limit_depth(limits::QUERY_DEPTH_MAX)
            .limit_complexity(limits::QUERY_COMPLEXITY_MAX)
            .disable_introspection()
            .disable_suggestions()
    }
}
