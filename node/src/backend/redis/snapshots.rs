//! Snapshots in Redis. They are large: they go by the pools' connections, never in front of an edit.

use async_trait::async_trait;
use mille_shared::log::{Head, StoredSnapshot};
use mille_shared::{PlanId, Revision};

use super::functions::{SNAPSHOT_LOAD, SNAPSHOT_STORE};
use super::keys;
use super::route::Redis;
use super::values::{corrupt, parse, parsed, text};
use crate::backend::{Lane, Result, Retention, SnapshotStore};

#[async_trait]
impl SnapshotStore for Redis {
    async fn load(&self, plan: PlanId, at_or_before: Option<Revision>, lane: Lane) -> Result<Option<StoredSnapshot>> {
        let args = at_or_before.map(|revision| revision.to_string().into()).into_iter().collect();
        let answer = self.call_aside(lane, SNAPSHOT_LOAD, vec![keys::snapshots(plan)], args).await?;
        if answer.is_null() {
            return Ok(None);
        }
        let answer = answer.into_array();
        let [revision, kept] = answer.as_slice() else { return Err(corrupt("a snapshot")) };
        let kept = text(kept, "a snapshot")?;
        let (hash, payload) = kept.split_once(' ').ok_or_else(|| corrupt("a snapshot"))?;
        let head = Head { revision: parsed(revision, "a snapshot")?, hash: parse(hash, "a snapshot")? };
        Ok(Some(StoredSnapshot { head, payload: payload.into() }))
    }

    async fn store(&self, plan: PlanId, snapshot: StoredSnapshot, retention: Retention) -> Result<bool> {
        let keys = vec![keys::log(plan), keys::operations(plan), keys::snapshots(plan), keys::unchanged(plan)];
        let args = vec![
            snapshot.head.revision.to_string().into(),
            snapshot.head.hash.to_string().into(),
            (&*snapshot.payload).into(),
            retention.changes.to_string().into(),
            retention.age.as_millis().to_string().into(),
            retention.changes_max.to_string().into(),
        ];
        // Nobody waits for it, and it can come later: it does not take a repair's place.
        Ok(self.call_aside(Lane::Replay, SNAPSHOT_STORE, keys, args).await?.as_i64() == Some(1))
    }
}
