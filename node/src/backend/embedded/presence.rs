//! What expires: presence tables and leases. Expiry is judged when they are looked at; what expired is then dropped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mille_shared::{ConnectionId, NodeId, ProjectId};
use tokio::time::Instant;

use super::{Store, lock};
use crate::backend::{Leases, PresenceField, PresenceStore, Result, StoreHealth, StoreStatus};

/// Per project and node, its connections.
pub(super) type PresenceTables = BTreeMap<(ProjectId, NodeId), Expiring<BTreeMap<ConnectionId, Arc<str>>>>;

/// Per node, its record.
pub(super) type LeaseTable = BTreeMap<NodeId, Expiring<Arc<str>>>;

/// Something that holds until its time.
pub(super) struct Expiring<T> {
    value: T,
    until: Instant,
}

impl<T> Expiring<T> {
    fn holds(&self) -> bool {
        Instant::now() < self.until
    }
}

#[async_trait]
impl PresenceStore for Store {
    async fn put(
        &self,
        project: ProjectId,
        node: &NodeId,
        connection: &ConnectionId,
        presence: &str,
        ttl: Duration,
    ) -> Result<()> {
        let mut tables = lock(&self.presence);
        tables.retain(|_, table| table.holds());
        let until = Instant::now() + ttl;
        let table = tables.entry((project, node.clone())).or_insert_with(|| Expiring { value: BTreeMap::new(), until });
        table.value.insert(connection.clone(), presence.into());
        table.until = until;
        Ok(())
    }

    async fn remove(&self, project: ProjectId, node: &NodeId, connection: &ConnectionId) -> Result<()> {
        let mut tables = lock(&self.presence);
        let id = (project, node.clone());
        if let Some(table) = tables.get_mut(&id) {
            table.value.remove(connection);
            if table.value.is_empty() {
                tables.remove(&id);
            }
        }
        Ok(())
    }

    async fn renew(&self, projects: &[ProjectId], node: &NodeId, ttl: Duration) -> Result<Vec<ProjectId>> {
        let mut tables = lock(&self.presence);
        tables.retain(|_, table| table.holds());
        let mut gone = Vec::new();
        for project in projects {
            match tables.get_mut(&(*project, node.clone())) {
                Some(table) => table.until = Instant::now() + ttl,
                None => gone.push(*project),
            }
        }
        Ok(gone)
    }

    async fn load(&self, project: ProjectId) -> Result<Vec<(NodeId, Vec<PresenceField>)>> {
        let tables = lock(&self.presence);
        let theirs = tables.iter().filter(|((of, _), table)| *of == project && table.holds());
        Ok(theirs
            .map(|((_, node), table)| {
                let fields = table.value.iter().map(|(connection, text)| (connection.clone(), text.clone()));
                (node.clone(), fields.collect())
            })
            .collect())
    }

    async fn clear(&self, project: ProjectId, node: &NodeId) -> Result<()> {
        lock(&self.presence).remove(&(project, node.clone()));
        Ok(())
    }
}

#[async_trait]
impl Leases for Store {
    async fn renew(&self, node: &NodeId, record: &str, ttl: Duration) -> Result<()> {
        let lease = Expiring { value: record.into(), until: Instant::now() + ttl };
        lock(&self.leases).insert(node.clone(), lease);
        Ok(())
    }

    async fn release(&self, node: &NodeId) -> Result<()> {
        lock(&self.leases).remove(node);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<(NodeId, Arc<str>)>> {
        let mut leases = lock(&self.leases);
        leases.retain(|_, lease| lease.holds());
        Ok(leases.iter().map(|(node, lease)| (node.clone(), lease.value.clone())).collect())
    }

    fn health(&self) -> StoreHealth {
        let here = "in this node's own memory".to_owned();
        StoreHealth { answers: true, breaker: here.clone(), role: here, replica_for: None, sick: Vec::new() }
    }

    async fn status(&self) -> StoreStatus {
        StoreStatus {
            mode: "embedded".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role: "master".to_owned(),
            connected: true,
            latency_ms: Some(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use crate::backend::embedded::Embedded;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_table_expires_at_its_time_and_not_before() {
        let backend = Embedded::new().connect();
        let (project, node, ttl) = (ProjectId(1), NodeId::new("a.1"), Duration::from_secs(10));
        let connection = ConnectionId::new("c");
        backend.presence.put(project, &node, &connection, "here", ttl).await.expect("put");
        advance(ttl - Duration::from_millis(1)).await;
        assert_eq!(backend.presence.load(project).await.expect("load").len(), 1);
        assert!(backend.presence.renew(&[project], &node, ttl).await.expect("renew").is_empty());
        advance(ttl).await;
        assert!(backend.presence.load(project).await.expect("load").is_empty());
        assert_eq!(backend.presence.renew(&[project], &node, ttl).await.expect("renew"), [project]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_expires_unless_renewed() {
        let backend = Embedded::new().connect();
        let (node, ttl) = (NodeId::new("a.1"), Duration::from_secs(10));
        backend.leases.renew(&node, "{}", ttl).await.expect("take");
        advance(ttl / 2).await;
        backend.leases.renew(&node, "{}", ttl).await.expect("renew");
        advance(ttl - Duration::from_millis(1)).await;
        assert_eq!(backend.leases.list().await.expect("list").len(), 1);
        advance(Duration::from_millis(1)).await;
        assert!(backend.leases.list().await.expect("list").is_empty());
    }
}
