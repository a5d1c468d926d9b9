//! Every name in Redis, in one place.
//!
//! What must change in one step shares a hash tag, so that a Redis Cluster keeps it in one slot: all of a plan under
//! `{plan:<id>}`, all of a project under `{project:<id>}`. What the keys hold is told in `library.lua`.

use fred::util::redis_keyslot;
use mille_shared::{NodeId, PlanId, ProjectId, UserId};

use crate::backend::{Channel, Shard};

/// Counts projects up.
pub(super) const PROJECTS_COUNTER: &str = "mille:{directory}:projects";
/// Counts plans up.
pub(super) const PLANS_COUNTER: &str = "mille:{directory}:plans";
/// Who sweeps, until it expires.
pub(super) const SWEEPER: &str = "mille:{directory}:sweeper";
/// The last plan that was looked at while sweeping.
pub(super) const SWEPT: &str = "mille:{directory}:swept";
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
const SHARDED_CONTROL: &str = "mille:{nodes}:control";
const PROBE_PREFIX: &str = "mille:probe:";

pub(super) fn log(plan: PlanId) -> String {
    format!("{PLAN_PREFIX}{plan}}}:log")
}

pub(super) fn operations(plan: PlanId) -> String {
    format!("{PLAN_PREFIX}{plan}}}:operations")
}

/// Operations that changed nothing.
pub(super) fn unchanged(plan: PlanId) -> String {
    format!("{PLAN_PREFIX}{plan}}}:unchanged")
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

/// Since when the plan's project is known to be gone.
pub(super) fn orphaned_since(plan: PlanId) -> String {
    format!("{PLAN_PREFIX}{plan}}}:orphaned")
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

/// The slot of a name in a cluster.
pub(super) fn slot(name: &str) -> u16 {
    redis_keyslot(name.as_bytes())
}

/// The names of channels, as one node knows them: the probes' are its own.
#[derive(Debug, Clone)]
pub(super) struct Channels {
    probe: String,
    /// Whether each channel is one server's, by its slot, rather than the whole store's.
    is_sharded: bool,
}

impl Channels {
    /// `token` tells this node's connections from all others.
    pub(super) fn of(token: &str, is_sharded: bool) -> Self {
        Self { probe: format!("{PROBE_PREFIX}{token}"), is_sharded }
    }

    pub(super) fn are_sharded(&self) -> bool {
        self.is_sharded
    }

    pub(super) fn name(&self, channel: Channel) -> String {
        match channel {
            Channel::Plan(plan) => format!("{PLAN_PREFIX}{plan}{EVENTS_SUFFIX}"),
            Channel::Project(project) => format!("{PROJECT_PREFIX}{project}{EVENTS_SUFFIX}"),
            // Where the leases are: a node needs both, so it needs one server for both.
            Channel::Control if self.is_sharded => SHARDED_CONTROL.to_owned(),
            Channel::Control => CONTROL.to_owned(),
            Channel::Probe(shard) if self.is_sharded => format!("{}:{{{}}}", self.probe, tag_in(shard.0)),
            Channel::Probe(_) => self.probe.clone(),
        }
    }

    /// The channel of that name; `None` for a name that is none of ours.
    pub(super) fn parse(&self, name: &str) -> Option<Channel> {
        if let Some(events) = name.strip_suffix(EVENTS_SUFFIX) {
            if let Some(plan) = events.strip_prefix(PLAN_PREFIX) {
                return plan.parse().ok().map(|id| Channel::Plan(PlanId(id)));
            }
            return events.strip_prefix(PROJECT_PREFIX)?.parse().ok().map(|id| Channel::Project(ProjectId(id)));
        }
        if name == if self.is_sharded { SHARDED_CONTROL } else { CONTROL } {
            return Some(Channel::Control);
        }
        match name.strip_prefix(&self.probe)? {
            "" if !self.is_sharded => Some(Channel::Probe(Shard::ONLY)),
            tag if self.is_sharded && tag.starts_with(":{") => Some(Channel::Probe(Shard(slot(name)))),
            _ => None,
        }
    }
}

/// A hash tag whose slot this is. One in so many numbers is; the search ends soon.
fn tag_in(wanted: u16) -> u32 {
    let tags = 0..u32::MAX;
    tags.into_iter().find(|tag| slot(&tag.to_string()) == wanted).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_found_by_its_name() {
        for is_sharded in [false, true] {
            let channels = Channels::of("here", is_sharded);
            let probe = Channel::Probe(Shard::ONLY);
            for channel in [Channel::Plan(PlanId(7)), Channel::Project(ProjectId(7)), Channel::Control, probe] {
                assert_eq!(channels.parse(&channels.name(channel)), Some(channel));
            }
            assert_eq!(channels.parse("mille:{plan:x}:events"), None);
            assert_eq!(channels.parse(&Channels::of("elsewhere", is_sharded).name(probe)), None);
        }
    }

    #[test]
    fn a_probe_lies_in_the_slot_that_names_its_shard() {
        let channels = Channels::of("here", true);
        for shard in [0, 1, 5_461, 16_383].map(Shard) {
            let name = channels.name(Channel::Probe(shard));
            assert_eq!(slot(&name), shard.0);
            assert_eq!(channels.parse(&name), Some(Channel::Probe(shard)));
        }
    }

    #[test]
    fn what_belongs_together_has_one_hash_tag() {
        let tag =
            |key: String| key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(t, _)| t.to_owned());
        let (id, node) = (PlanId(3), NodeId::new("n.1"));
        for key in [
            log(id),
            operations(id),
            snapshots(id),
            written(id),
            plan(id),
            Channels::of("x", true).name(Channel::Plan(id)),
        ] {
            assert_eq!(tag(key).as_deref(), Some("plan:3"));
        }
        let id = ProjectId(3);
        for key in [record(id), members(id), plans(id), presence_index(id), presence_table(id, &node)] {
            assert_eq!(tag(key).as_deref(), Some("project:3"));
        }
        assert_eq!(tag(lease(&node)), tag(LEASES.to_owned()));
        assert_eq!(tag(Channels::of("x", true).name(Channel::Control)), tag(LEASES.to_owned()));
        assert_eq!(tag(REVOCATIONS.to_owned()), tag(REVOKED_AT.to_owned()));
    }
}
