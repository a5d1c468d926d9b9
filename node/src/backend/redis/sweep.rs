//! Removes what a crash left of plans whose project was deleted.
//!
//! A project and its plans lie in different slots, so they can't go in one step. Whoever deletes a project removes its record
//! first and its plans after it; if that node dies in between, plans stay that nobody can reach. Here all plans are looked at,
//! one part after the other, by one node at a time: slowly, since nobody waits for it, and with a long delay between the
//! finding and the removal. For a record may be missing because its server lost it, and then the plans are worth keeping until
//! somebody has looked.

use std::sync::Arc;
use std::time::Duration;

use fred::types::Value;
use mille_shared::{PlanId, Timestamp};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::directory::plan as read_plan;
use super::route::Redis;
use super::values::{parsed, text};
use super::{FAN_OUT_MAX, fan_out_each, keys};
use crate::backend::Result;
use crate::clock;

/// Plans in one part: at one part a minute, 288,000 a day.
const PLANS_MAX: i32 = 200;

/// How slowly it is swept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sweep {
    /// Time between two parts.
    pub pause: Duration,
    /// How long a plan is kept after its project was found to be gone.
    pub kept_for: Duration,
}

impl Default for Sweep {
    fn default() -> Self {
        Self { pause: Duration::from_secs(60), kept_for: Duration::from_secs(7 * 24 * 3_600) }
    }
}

/// Sweeps from time to time, until `stop`.
pub(super) async fn keep(redis: Arc<Redis>, sweep: Sweep, stop: CancellationToken) {
    let mut ticks = interval(sweep.pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        match stop.run_until_cancelled(part(&redis, sweep)).await {
            None => return,
            Some(Ok(0)) => {}
            Some(Ok(removed)) => tracing::info!(removed, "plans of deleted projects were removed"),
            Some(Err(error)) => tracing::debug!(%error, "sweeping goes on later"),
        }
    }
}

/// Looks at the next few plans, unless another node does. Answers how many were removed.
async fn part(redis: &Redis, sweep: Sweep) -> Result<usize> {
    let ttl_ms = i64::try_from(sweep.pause.as_millis()).unwrap_or(i64::MAX) / 10 * 9;
    let words = ["1".into(), "NX".into(), "PX".into(), Value::from(ttl_ms.max(1))];
    if redis.ask::<Value>("set", keys::SWEEPER, words).await?.is_null() {
        return Ok(0);
    }
    let number = async |key: &str| -> Result<i32> {
        let value: Value = redis.ask("get", key, []).await?;
        if value.is_null() { Ok(0) } else { parsed(&value, "a plan's id") }
    };
    let (swept, last) = (number(keys::SWEPT).await?, number(keys::PLANS_COUNTER).await?);
    let from = if swept < last { swept } else { 0 };
    let until = last.min(from.saturating_add(PLANS_MAX));
    let plans: Vec<PlanId> = (from..until).map(|before| PlanId(before + 1)).collect();
    let looked_at = fan_out_each(&plans, FAN_OUT_MAX, |plan| redis.sweep(*plan, clock::now(), sweep.kept_for)).await;
    // What can't be looked at now is looked at in the next round: nobody waits for it, and it must not hold up the rest.
    redis.ask::<Value>("set", keys::SWEPT, [until.into()]).await?;
    Ok(looked_at.into_iter().filter(|removed| matches!(removed, Ok(true))).count())
}

impl Redis {
    /// Removes a plan if its project has been known to be gone for `kept_for`. Answers whether it did.
    async fn sweep(&self, plan: PlanId, now: Timestamp, kept_for: Duration) -> Result<bool> {
        let entry: Value = self.ask("get", keys::plan(plan), []).await?;
        if entry.is_null() {
            return Ok(false);
        }
        let project = read_plan(&text(&entry, "a plan's entry")?)?.project_id;
        if self.ask("exists", keys::record(project), []).await? {
            // So that another absence, much later, is not taken for the same.
            self.ask::<Value>("unlink", keys::orphaned_since(plan), []).await?;
            return Ok(false);
        }
        let since: Value = self.ask("get", keys::orphaned_since(plan), []).await?;
        if since.is_null() {
            tracing::warn!(plan.id = %plan, project.id = %project, "a plan is left of a project that is gone; it will be removed");
            self.ask::<Value>("set", keys::orphaned_since(plan), [now.unix_ms.to_string().into()]).await?;
            return Ok(false);
        }
        let age_ms = now.unix_ms.saturating_sub(parsed(&since, "a moment")?);
        if u128::try_from(age_ms).is_ok_and(|age_ms| age_ms >= kept_for.as_millis()) {
            self.forget_plan(plan).await?;
            return Ok(true);
        }
        Ok(false)
    }
}
