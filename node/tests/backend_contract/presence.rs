//! Promises of what expires: presence and leases.

use std::sync::Arc;
use std::time::Duration;

use mille_shared::{ConnectionId, NodeId, ProjectId};

use crate::kit::{Store, eventually};

const PROJECT: ProjectId = ProjectId(7);
const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(50);

pub(crate) async fn presence_is_kept_per_node_and_connection(store: Store) {
    let (here, there) = (store.connect().await.presence, store.connect().await.presence);
    let (one, two) = (NodeId::new("one.1"), NodeId::new("two.1"));
    let connection = |id: &str| ConnectionId::new(id);
    let field = |id: &str, text: &str| (ConnectionId::new(id), Arc::<str>::from(text));
    here.put(PROJECT, &one, &connection("b"), "{\"b\":1}", LONG).await.expect("put");
    here.put(PROJECT, &one, &connection("a"), "{\"a\":1}", LONG).await.expect("put");
    here.put(PROJECT, &one, &connection("b"), "{\"b\":2}", LONG).await.expect("put again");
    there.put(PROJECT, &two, &connection("c"), "{}", LONG).await.expect("put");
    there.put(ProjectId(8), &two, &connection("d"), "{}", LONG).await.expect("put elsewhere");
    let ones = (one.clone(), vec![field("a", "{\"a\":1}"), field("b", "{\"b\":2}")]);
    let twos = (two.clone(), vec![field("c", "{}")]);
    assert_eq!(there.load(PROJECT).await.expect("tables"), [ones.clone(), twos.clone()]);

    here.remove(PROJECT, &one, &connection("a")).await.expect("removed");
    here.remove(PROJECT, &one, &connection("nobody")).await.expect("removing nothing is no error");
    let ones = (one.clone(), vec![field("b", "{\"b\":2}")]);
    assert_eq!(there.load(PROJECT).await.expect("tables"), [ones, twos.clone()]);
    here.remove(PROJECT, &one, &connection("b")).await.expect("removed");
    assert_eq!(there.load(PROJECT).await.expect("tables"), [twos]);
    assert_eq!(here.renew(&[PROJECT], &one, LONG).await.expect("renewed"), [PROJECT], "an empty table is gone");

    there.clear(PROJECT, &two).await.expect("cleared");
    assert_eq!(here.load(PROJECT).await.expect("tables"), []);
    assert_eq!(here.load(ProjectId(8)).await.expect("tables").len(), 1);
}

pub(crate) async fn presence_expires_unless_renewed(store: Store) {
    let presence = store.connect().await.presence;
    let (node, connection) = (NodeId::new("one.1"), ConnectionId::new("a"));
    // More tables than one call renews at once; two thirds of them are there, and a third lives on.
    let projects: Vec<_> = (1..=150).map(ProjectId).collect();
    let (put, missing): (Vec<_>, Vec<_>) = projects.iter().partition(|project| project.0 % 3 != 0);
    for project in &put {
        presence.put(*project, &node, &connection, "{}", LONG).await.expect("put");
    }
    assert_eq!(presence.renew(&projects, &node, LONG).await.expect("renewed"), missing);
    let (stays, goes): (Vec<_>, Vec<_>) = put.iter().partition(|project| project.0 % 3 == 1);
    assert_eq!(presence.renew(&goes, &node, SHORT).await.expect("renewed"), []);
    let brief = ProjectId(1_000);
    presence.put(brief, &node, &connection, "{}", SHORT).await.expect("put for a moment");
    eventually("what was put or renewed for a moment is gone", async || {
        let mut held = 0;
        for project in goes.iter().chain([&brief]) {
            held += presence.load(*project).await.expect("tables").len();
        }
        (held == 0).then_some(())
    })
    .await;
    assert_eq!(presence.renew(&[brief], &node, LONG).await.expect("renewed"), [brief]);
    assert_eq!(presence.renew(&projects, &node, LONG).await.expect("renewed").len(), goes.len() + missing.len());
    assert_eq!(presence.load(stays[0]).await.expect("tables").len(), 1);
}

pub(crate) async fn a_lease_expires_unless_renewed(store: Store) {
    let (here, there) = (store.connect().await.leases, store.connect().await.leases);
    let (one, two, three) = (NodeId::new("one.1"), NodeId::new("two.1"), NodeId::new("three.1"));
    let lease = |node: &NodeId, record: &str| (node.clone(), Arc::<str>::from(record));
    here.renew(&two, "{\"n\":1}", SHORT).await.expect("taken");
    here.renew(&two, "{\"n\":2}", LONG).await.expect("renewed");
    here.renew(&one, "{}", LONG).await.expect("taken");
    here.renew(&three, "{}", SHORT).await.expect("taken");
    let held = [lease(&one, "{}"), lease(&two, "{\"n\":2}")];
    eventually("the short lease is over and the others hold", async || {
        (there.list().await.expect("leases") == held).then_some(())
    })
    .await;
    here.release(&one).await.expect("released");
    assert_eq!(there.list().await.expect("leases"), [lease(&two, "{\"n\":2}")]);

    let status = here.status().await;
    assert!(status.connected && status.role == "master" && !status.version.is_empty(), "{status:?}");
    assert!(status.latency_ms.is_some());
}
