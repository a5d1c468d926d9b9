//! Every name in Redis, in one place.
//!
//! What must change in one step shares a hash tag, so that a Redis Cluster keeps it in one slot: all of a plan under
//! `{plan:<id>}`, all of a project under `{project:<id>}`. What the keys hold is told in `library.lua`.

use mille_shared::{NodeId, PlanId, ProjectId, UserId};

use crate::backend::Channel;

/// Counts projects up.
pub(super) const PROJECTS_COUNTER: &str = "mille:{directory}:projects";
/// Counts plans up.
pub(super) const PLANS_COUNTER: &str = "mille:{directory}:plans";
/// Which tokens count no more, by when that is forgotten.
pub(super) const REVOCATIONS: &str = "mille:{revocations}";
/// Since when each of them counts no more.
pub(super) const REVOKED_AT: &str = "mille:{revocations}:at";
/// Which nodes have or had a lease.
pub(super) const LEASES: &str = "mille:{nodes}:leases";

const PLAN_PREFIX: &str = "mille:{plan:";
const PROJECT_PREFIX: &str = "mille:{project:";
const EVENTS_SUFFIX: &str = "}:events";
const CONTROL: &str = "mille:control";
const PROBE_PREFIX: &str = "mille:probe:";

pub(super) fn log(plan: PlanId) -> String {
    format!("{PLAN_PREFIX}{plan}}}:log")
}

pub(super) fn operations(plan: PlanId) -> String {
    format!("{PLAN_PREFIX}{plan}}}:operations")
}

pub(super) fn snapshots(plan: PlanId) -> String {
    format!("{PLAN_PREFIX}{plan}}}:snapshots")
}

/// The life of the server in which the plan's log was written last.
pub(super) fn written(plan: PlanId) -> String {
    format!("{PLAN_PREFIX}{plan}}}:written")
}

/// The plan's entry, to find its project by its id.
pub(super) fn plan(plan: PlanId) -> String {
    format!("{PLAN_PREFIX}{plan}}}:plan")
}

pub(super) fn record(project: ProjectId) -> String {
    format!("{PROJECT_PREFIX}{project}}}:record")
}

pub(super) fn members(project: ProjectId) -> String {
    format!("{PROJECT_PREFIX}{project}}}:members")
}

pub(super) fn plans(project: ProjectId) -> String {
    format!("{PROJECT_PREFIX}{project}}}:plans")
}

/// Where a user's projects are looked for. The member list decides; this only saves looking at all projects.
pub(super) fn projects_of(user: &UserId) -> String {
    format!("mille:{{user:{user}}}:projects")
}

/// What is left of a user's operations.
pub(super) fn bucket(user: &UserId) -> String {
    format!("mille:{{user:{user}}}:operations")
}

/// Which node holds how many of a user's connections.
pub(super) fn places(user: &UserId) -> String {
    format!("mille:{{user:{user}}}:places")
}

/// Which nodes have or had a presence table in the project.
pub(super) fn presence_index(project: ProjectId) -> String {
    format!("{PROJECT_PREFIX}{project}}}:presence")
}

pub(super) fn presence_table(project: ProjectId, node: &NodeId) -> String {
    format!("{PROJECT_PREFIX}{project}}}:presence:{node}")
}

pub(super) fn lease(node: &NodeId) -> String {
    format!("mille:{{nodes}}:lease:{node}")
}

/// The names of channels, as one node knows them: the probe's is its own.
#[derive(Debug, Clone)]
pub(super) struct Channels {
    probe: String,
}

impl Channels {
    /// `token` tells this connection from all others.
    pub(super) fn of(token: &str) -> Self {
        Self { probe: format!("{PROBE_PREFIX}{token}") }
    }

    pub(super) fn name(&self, channel: Channel) -> String {
        match channel {
            Channel::Plan(plan) => format!("{PLAN_PREFIX}{plan}{EVENTS_SUFFIX}"),
            Channel::Project(project) => format!("{PROJECT_PREFIX}{project}{EVENTS_SUFFIX}"),
            Channel::Control => CONTROL.to_owned(),
            Channel::Probe => self.probe.clone(),
        }
    }

    /// The channel of that name; `None` for a name that is none of ours.
    pub(super) fn parse(&self, name: &str) -> Option<Channel> {
        if name == CONTROL {
            return Some(Channel::Control);
        }
        if name == self.probe {
            return Some(Channel::Probe);
        }
        let events = name.strip_suffix(EVENTS_SUFFIX)?;
        if let Some(plan) = events.strip_prefix(PLAN_PREFIX) {
            return plan.parse().ok().map(|id| Channel::Plan(PlanId(id)));
        }
        events.strip_prefix(PROJECT_PREFIX)?.parse().ok().map(|id| Channel::Project(ProjectId(id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_found_by_its_name() {
        let channels = Channels::of("here");
        let all = [Channel::Plan(PlanId(7)), Channel::Project(ProjectId(7)), Channel::Control, Channel::Probe];
        for channel in all {
            assert_eq!(channels.parse(&channels.name(channel)), Some(channel));
        }
        assert_eq!(channels.parse("mille:{plan:x}:events"), None);
        assert_eq!(channels.parse(&Channels::of("elsewhere").name(Channel::Probe)), None);
    }

    #[test]
    fn what_belongs_together_has_one_hash_tag() {
        let tag =
            |key: String| key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(t, _)| t.to_owned());
        let (id, node) = (PlanId(3), NodeId::new("n.1"));
        for key in
            [log(id), operations(id), snapshots(id), written(id), plan(id), Channels::of("x").name(Channel::Plan(id))]
        {
            assert_eq!(tag(key).as_deref(), Some("plan:3"));
        }
        let id = ProjectId(3);
        for key in [record(id), members(id), plans(id), presence_index(id), presence_table(id, &node)] {
            assert_eq!(tag(key).as_deref(), Some("project:3"));
        }
        assert_eq!(tag(lease(&node)), tag(LEASES.to_owned()));
        assert_eq!(tag(REVOCATIONS.to_owned()), tag(REVOKED_AT.to_owned()));
    }
}
