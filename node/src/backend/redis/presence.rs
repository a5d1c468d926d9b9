//! Presence in Redis: per project and node a hash that expires, and per project an index of the nodes that have one.
//!
//! The index may name tables that are gone, never the reverse for longer than a renewal: who reads it asks for the
//! tables and skips what is not there.

use std::time::Duration;

use async_trait::async_trait;
use fred::types::Value;
use mille_shared::{ConnectionId, NodeId, ProjectId};

use super::functions::{PRESENCE_PUT, PRESENCE_RENEW};
use super::route::Redis;
use super::values::{pairs, text};
use super::{FAN_OUT_MAX, fan_out, fan_out_each, keys};
use crate::backend::{PresenceField, PresenceStore, Result};

#[async_trait]
impl PresenceStore for Redis {
    async fn put(
        &self,
        project: ProjectId,
        node: &NodeId,
        connection: &ConnectionId,
        presence: &str,
        ttl: Duration,
    ) -> Result<()> {
        let args = vec![node.as_str().into(), millis(ttl), connection.as_str().into(), presence.into()];
        self.call(PRESENCE_PUT, table_and_index(project, node), args).await.map(drop)
    }

    async fn remove(&self, project: ProjectId, node: &NodeId, connection: &ConnectionId) -> Result<()> {
        let table = keys::presence_table(project, node);
        self.ask::<Value>("hdel", table, [connection.as_str().into()]).await.map(drop)
    }

    async fn renew(&self, projects: &[ProjectId], node: &NodeId, ttl: Duration) -> Result<Vec<ProjectId>> {
        let renewed = fan_out_each(projects, FAN_OUT_MAX, |project| {
            let keys = table_and_index(*project, node);
            self.call(PRESENCE_RENEW, keys, vec![node.as_str().into(), millis(ttl)])
        });
        let (mut gone, mut failure) = (Vec::new(), None);
        for (project, renewed) in projects.iter().zip(renewed.await) {
            match renewed {
                Ok(answer) if answer.as_i64() == Some(1) => {}
                Ok(_) => gone.push(*project),
                Err(error) => failure = Some(error),
            }
        }
        // A table that could not be renewed will be, or expires: what is known of the others is told all the same.
        match failure {
            Some(error) if gone.is_empty() => Err(error),
            _ => Ok(gone),
        }
    }

    async fn load(&self, project: ProjectId) -> Result<Vec<(NodeId, Vec<PresenceField>)>> {
        let index = keys::presence_index(project);
        let nodes: Value = self.ask("zrange", index, [0.into(), Value::from(-1)]).await?;
        let mut nodes: Vec<_> = (nodes.into_array().iter())
            .map(|node| text(node, "a node's id").map(NodeId::new))
            .collect::<Result<_>>()?;
        nodes.sort_unstable();
        let tables = fan_out(&nodes, |node| {
            let table = keys::presence_table(project, node);
            async move { pairs(self.ask("hgetall", table, []).await?, "a presence table") }
        });
        let tables = tables.await?;
        Ok(nodes
            .into_iter()
            .zip(tables)
            .filter(|(_, table)| !table.is_empty())
            .map(|(node, table)| {
                let mut fields: Vec<_> = table.into_iter().map(|(id, text)| (ConnectionId::new(id), text)).collect();
                fields.sort_unstable_by(|a, b| a.0.cmp(&b.0));
                (node, fields)
            })
            .collect())
    }

    async fn clear(&self, project: ProjectId, node: &NodeId) -> Result<()> {
        self.ask::<Value>("unlink", keys::presence_table(project, node), []).await?;
        let index = keys::presence_index(project);
        self.ask::<Value>("zrem", index, [node.as_str().into()]).await.map(drop)
    }
}

fn table_and_index(project: ProjectId, node: &NodeId) -> Vec<String> {
    vec![keys::presence_table(project, node), keys::presence_index(project)]
}

/// A time to live as Redis takes it: at least a millisecond, as it takes none for a mistake.
pub(super) fn millis(ttl: Duration) -> Value {
    ttl.as_millis().max(1).to_string().into()
}
