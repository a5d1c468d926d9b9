//! The promise: a Redis whose memory is full refuses what would add to it, and nothing else. Nodes stay, who may no longer be here
//! is shown out, and room can be made.

use std::sync::Arc;
use std::time::Duration;

use mille_node::backend::redis::{RedisSettings, connect};
use mille_node::backend::{Backend, Error, MemberChange, PlacesClaim, Retention};
use mille_shared::directory::{Plan, Role};
use mille_shared::log::{CommitOutcome, StoredSnapshot};
use mille_shared::revocation::{Revocation, Revoked};
use mille_shared::{ConnectionId, NodeId, PlanId, ProjectId, Timestamp, UserId};

use crate::kit::{Server, Writer, batch, eventually, new_changes, proposal};

const TTL: Duration = Duration::from_secs(10);
/// Nothing but the head.
const KEEP_NONE: Retention = Retention { changes: 0, age: Duration::ZERO, changes_max: 0 };

fn at(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(1_800_000_000_000 + ms)
}

fn ada() -> UserId {
    UserId::new("ada")
}

fn bob() -> UserId {
    UserId::new("bob")
}

async fn project_with_a_plan(backend: &Backend) -> (ProjectId, Writer) {
    let project = backend.directory.create_project("p", None, &ada(), at(0)).await.expect("a project").id;
    let id = backend.directory.reserve_plan(0).await.expect("a number");
    let writer = Writer::begin(backend, id).await;
    let plan = Plan { id, project_id: project, name: "Main".to_owned(), created_at: at(0) };
    assert!(backend.directory.add_plan(&plan).await.expect("an answer"));
    (project, writer)
}

/// Sets how much memory the server may use.
fn limit_memory(server: &Server, limit: &str) {
    assert_eq!(server.say(&format!("CONFIG SET maxmemory {limit}")).expect("an answer"), "+OK\r\n");
}

fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Error>) {
    assert!(matches!(&answer, Err(Error::Unavailable(why)) if why.contains("OOM")), "{answer:?}");
}

/// What every node does all the time, and what shuts somebody out.
async fn assert_serves(backend: &Backend, node: &str) {
    let node = NodeId::of(node, "1");
    backend.leases.renew(&node, "{}", TTL).await.expect("its lease");
    let presence = &backend.presence;
    presence.put(ProjectId(7), &node, &ConnectionId::new("c"), "{}", TTL).await.expect("somebody comes");
    assert_eq!(presence.renew(&[ProjectId(7)], &node, TTL).await.expect("an answer"), []);
    presence.remove(ProjectId(7), &node, &ConnectionId::new("c")).await.expect("and goes");
    backend.quotas.lease_operations(&ada(), 10, 10, 1).await.expect("operations");
    let claim = PlacesClaim { wanted: 1, kept: 0, max: 10, ttl: TTL };
    backend.quotas.hold_places(&ada(), &node, claim).await.expect("a place");
    let revocation = Revocation { what: Revoked::User(bob()), at: at(1) };
    assert!(backend.revocations.revoke(&revocation, at(i64::from(u32::MAX))).await.expect("an answer"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_refuses_edits_until_room_is_made_and_nodes_stay() {
    const LARGE: usize = 500_000;
    let server = Server::start().await;
    let backend = server.connect().await;
    let (small, mut writer) = project_with_a_plan(&backend).await;
    writer.write(&["a", "b"]).await;
    for (user, role) in [(bob(), Role::Editor), (UserId::new("cleo"), Role::Editor)] {
        backend.directory.set_member(small, &user, role, at(1)).await.expect("a member");
    }
    let (large, mut filler) = project_with_a_plan(&backend).await;
    for n in 0..40 {
        let offered = [proposal(filler.head.hash, &format!("large-{n}"), &"x".repeat(LARGE))];
        assert!(matches!(filler.offer(&offered, &new_changes()).await, CommitOutcome::Committed { .. }));
        filler.go_on(filler.head.revision.epoch, &offered);
    }

    limit_memory(&server, "10mb");
    let edit = batch(writer.head.hash, &["c"]);
    let offer = async || backend.log.commit(writer.plan, writer.head, &edit, &new_changes()).await;
    assert_refused(offer().await);
    assert_refused(backend.directory.create_project("p", None, &ada(), at(2)).await);
    assert_refused(backend.directory.set_member(small, &UserId::new("dan"), Role::Viewer, at(2)).await);
    assert_serves(&backend, "one").await;
    assert_serves(&server.connect().await, "that-starts-now").await;
    let demoted = backend.directory.set_member(small, &UserId::new("cleo"), Role::Viewer, at(2)).await;
    assert!(matches!(demoted, Ok(MemberChange::Done(_))), "{demoted:?}");
    let removed = backend.directory.remove_member(small, &bob(), at(2)).await;
    assert_eq!(removed.expect("an answer"), MemberChange::Done(()));
    let snapshot = StoredSnapshot { head: writer.head, payload: "{}".into() };
    assert!(backend.snapshots.store(writer.plan, snapshot, KEEP_NONE).await.expect("the log is trimmed"));
    assert_eq!(writer.read().await.len(), 1);
    assert_refused(offer().await);

    let plans = backend.directory.delete_project(large).await.expect("an answer").expect("it is gone now");
    assert_eq!(plans, [filler.plan]);
    backend.log.delete(filler.plan).await.expect("deleted");
    let outcome = eventually("edits are taken again", async || offer().await.ok()).await;
    assert!(matches!(outcome, CommitOutcome::Committed { .. }), "{outcome:?}");
    backend.directory.create_project("p", None, &ada(), at(3)).await.expect("a project");
}

/// Another build's text of the same library serves until there is room for ours. A server without any is not begun with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_while_memory_is_full_gives_the_server_its_library_when_there_is_room() {
    let server = Server::start().await;
    // Full of nothing: the process itself has more.
    limit_memory(&server, "100kb");
    let settings = RedisSettings::at(server.url());
    let (tasks, stop) = Default::default();
    let refused = connect(&settings, Arc::new(()), &tasks, &stop).await.err();
    assert!(refused.is_some_and(|error| error.may_pass()), "there is no library yet, and there may be one soon");

    limit_memory(&server, "0");
    let others = r##"FUNCTION LOAD "#!lua name=mille_v8\nredis.register_function{function_name='mille_v8_heads', callback=function() return {'life'} end, flags={'no-writes'}}""##;
    assert_eq!(server.say(others).expect("an answer"), "$8\r\nmille_v8\r\n");
    limit_memory(&server, "100kb");
    let backend = server.connect().await;
    assert_eq!(backend.log.heads(&[]).await.expect("an answer"), []);
    assert!(backend.leases.renew(&NodeId::of("one", "1"), "{}", TTL).await.is_err(), "the other text has no leases");
    limit_memory(&server, "0");
    let is_ours = async || server.say("FUNCTION LIST").ok()?.contains("mille_v8_lease_renew").then_some(());
    eventually("the library is ours", is_ours).await;
    assert_serves(&backend, "one").await;
    assert_eq!(Writer::begin(&backend, PlanId(7)).await.read().await.len(), 1);
}
