//! Rights that end: at once when a node is told, within the sweep when it is not, and for whoever is in the middle of asking.

use futures_util::FutureExt as _;
use mille_core::presence::{Join, SeatId};
use mille_shared::CloseCode;

use super::reading::Counted;
use super::*;
use crate::pressure::Pressure;
use crate::project::presence::{NO_MEMBER, Outgoing, PresenceCommand, outbox};

fn bob() -> UserId {
    UserId::new("bob")
}

fn join_of(user: UserId) -> Join {
    Join {
        seat: SeatId(7),
        connection: ConnectionId::new("c7"),
        name: user.as_str().into(),
        user,
        color: "#123".into(),
        agent: false,
        document: None,
        resume: None,
        secret: [3; 32],
        is_welcomed: false,
    }
}

#[tokio::test(start_paused = true)]
async fn who_lost_the_right_on_the_way_to_the_actor_is_neither_let_in_nor_edits() {
    let (one, two, here, _, plan) = pair().await;
    let (outbox, mut reader) = outbox(&Pressure::default());
    let join = Box::new(join_of(bob()));
    here.presence(PresenceCommand::Join { join, outbox }).await.expect("a mailbox");
    let shown_out = timeout(Duration::from_secs(1), reader.next()).await.expect("at once");
    assert_eq!(shown_out, Outgoing::Close(CloseCode::Forbidden, NO_MEMBER));

    let edit = Operation { user_id: bob(), ..rename("late", "late") };
    assert!(matches!(here.submit(plan, edit, true).await, Err(Rejection::Forbidden)));
    let access = one.projects.access(here.id(), &ada(), Role::Owner).await.expect("access");
    one.projects.set_member(&access, &bob(), Role::Viewer).await.expect("a member");
    let edit = Operation { user_id: bob(), ..rename("demoted", "demoted") };
    assert!(matches!(here.submit(plan, edit, true).await, Err(Rejection::Forbidden)));
    assert_eq!(here.read(plan).await.expect("a plan").revision().seq, 0);
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_edit_that_waits_is_refused_when_its_author_loses_the_right() {
    let (one, two, here, _, plan) = pair().await;
    let access = one.projects.access(here.id(), &ada(), Role::Owner).await.expect("access");
    one.projects.set_member(&access, &bob(), Role::Editor).await.expect("a member");
    here.read(plan).await.expect("a plan");
    one.log.commit_takes_ms.store(5_000, Ordering::Relaxed);
    let under_way = here.submit(plan, rename("first", "first"), true);
    let waits = here.submit(plan, Operation { user_id: bob(), ..rename("second", "second") }, true);
    let demoted = async {
        sleep(Duration::from_secs(1)).await;
        one.projects.set_member(&access, &bob(), Role::Viewer).await.expect("a member");
    };
    let (first, second, ()) = tokio::join!(under_way, waits, demoted);
    assert_eq!(first.expect("it was under way").revision.seq, 1);
    assert!(matches!(second, Err(Rejection::Forbidden)), "{second:?}");
    assert_eq!(here.read(plan).await.expect("a plan").revision().seq, 1);
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_right_ends_within_the_sweep_when_the_message_is_lost() {
    let (one, two, here, there, plan) = pair().await;
    let access = one.projects.access(here.id(), &ada(), Role::Owner).await.expect("access");
    one.projects.set_member(&access, &bob(), Role::Viewer).await.expect("a member");
    two.projects.access(here.id(), &bob(), Role::Viewer).await.expect("a member at once, everywhere");
    let mut bobs = there.follow(plan, &bob(), Start::Next, false).await.expect("follow");
    one.backend.directory.remove_member(here.id(), &bob(), clock::now()).await.expect("written, and not told");
    let ended = timeout(limits::RIGHTS_SWEEP, bobs.next()).await.expect("within the sweep");
    assert_eq!(ended.err(), Some(Ended::Forbidden));
    one.stop().await;
    two.stop().await;
}

/// Two nodes of one store, whose directory loses the answers of the first when it is told so; handles to a project on both.
async fn pair_whose_answers_get_lost() -> (TestNode, TestNode, Arc<Counted>, Access, ProjectHandle, PlanId) {
    let store = Embedded::new();
    let mut connected = store.connect();
    let directory = Counted::of(&mut connected);
    let one = TestNode::over(connected, "one", limits::RECENT_CHANGES_BYTES_MAX).await;
    let two = TestNode::start(&store, "two").await;
    let access = one.projects.create_project("p", None, &ada()).await.expect("a project");
    let plan = access.project.plan_id(None).await.expect("a plan");
    one.projects.set_member(&access, &bob(), Role::Editor).await.expect("a member");
    let there = two.projects.access(access.project.id(), &bob(), Role::Editor).await.expect("a member").project;
    (one, two, directory, access, there, plan)
}

#[tokio::test(start_paused = true)]
async fn a_right_that_was_taken_away_without_an_answer_ends_at_once() {
    let (one, two, directory, access, there, plan) = pair_whose_answers_get_lost().await;
    let mut bobs = there.follow(plan, &bob(), Start::Next, false).await.expect("follow");
    directory.loses_answers.store(true, Ordering::Relaxed);
    let unknown = one.projects.remove_member(&access, &bob()).await;
    assert_eq!(unknown.err(), Some(OpenError::Unavailable));
    let ended = timeout(Duration::from_secs(1), bobs.next()).await.expect("at once");
    assert_eq!(ended.err(), Some(Ended::Forbidden));
    assert_eq!(access.project.members().role_of(&bob()), None);

    one.projects.set_member(&access, &bob(), Role::Viewer).await.expect_err("no answer");
    eventually("the other node has heard of it", async || there.members().role_of(&bob()) == Some(Role::Viewer)).await;
    let asked = tokio::time::Instant::now();
    let unknown = one.projects.delete_project(&access).await;
    assert_eq!(unknown.err(), Some(OpenError::Unavailable));
    let entered = async || two.projects.access(there.id(), &ada(), Role::Owner).await.err();
    eventually("it is gone on the other node too", async || entered().await == Some(OpenError::NotFound)).await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    one.stop().await;
    two.stop().await;
}

/// Somebody was removed, the answer got lost, and nobody heard of it: who asks again makes it known.
#[tokio::test(start_paused = true)]
async fn to_take_out_again_who_is_out_already_tells_those_who_have_not_heard() {
    let (one, two, _, access, there, plan) = pair_whose_answers_get_lost().await;
    let mut bobs = there.follow(plan, &bob(), Start::Next, false).await.expect("follow");
    let id = access.project.id();
    one.backend.directory.remove_member(id, &bob(), clock::now()).await.expect("written, and not told");
    let again = one.projects.remove_member(&access, &bob()).await;
    assert_eq!(again.err(), Some(OpenError::NoSuchMember));
    let ended = timeout(Duration::from_secs(1), bobs.next()).await.expect("at once");
    assert_eq!(ended.err(), Some(Ended::Forbidden));
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_reads_slowly_is_not_told_what_waits_once_the_right_has_ended() {
    let (one, two, here, there, plan) = pair().await;
    let access = one.projects.access(here.id(), &ada(), Role::Owner).await.expect("access");
    one.projects.set_member(&access, &bob(), Role::Viewer).await.expect("a member");
    two.projects.access(here.id(), &bob(), Role::Viewer).await.expect("a member at once, everywhere");
    let mut bobs = there.follow(plan, &bob(), Start::Next, false).await.expect("follow");
    let mut adas = there.follow(plan, &ada(), Start::Next, false).await.expect("follow");
    rename_often(&here, plan, "n", 5).await;
    for _ in 0..5 {
        timeout(Duration::from_secs(1), adas.next()).await.expect("soon").expect("a change");
    }
    one.projects.remove_member(&access, &bob()).await.expect("removed");
    eventually("the node has heard of it", async || there.members().role_of(&bob()).is_none()).await;
    assert_eq!(bobs.next().await.err(), Some(Ended::Forbidden));
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_lost_the_right_elsewhere_can_not_use_what_is_left_of_it_to_get_it_back() {
    let (one, two, here, _, _) = pair().await;
    let access = one.projects.access(here.id(), &ada(), Role::Owner).await.expect("access");
    one.projects.set_member(&access, &bob(), Role::Owner).await.expect("a member");
    let bobs = two.projects.access(here.id(), &bob(), Role::Owner).await.expect("an owner, everywhere");
    one.backend.directory.remove_member(here.id(), &bob(), clock::now()).await.expect("written, and not told");
    assert_eq!(two.projects.set_member(&bobs, &bob(), Role::Owner).await.err(), Some(OpenError::NotFound));
    let members = one.backend.directory.members(here.id()).await.expect("members");
    assert!(members.iter().all(|member| member.user_id != bob()));

    one.projects.set_member(&access, &bob(), Role::Owner).await.expect("a member");
    let bobs = two.projects.access(here.id(), &bob(), Role::Owner).await.expect("an owner again");
    one.backend.directory.set_member(here.id(), &bob(), Role::Viewer, clock::now()).await.expect("demoted, not told");
    assert_eq!(two.projects.remove_member(&bobs, &ada()).await.err(), Some(OpenError::Forbidden));
    assert_eq!(two.projects.delete_project(&bobs).await.err(), Some(OpenError::Forbidden));
    assert!(two.projects.remove_member(&bobs, &bob()).await.is_ok(), "who leaves needs no right");
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_project_is_deleted_whole_although_whoever_asked_went_away() {
    let (one, two, here, there, plan) = pair().await;
    let access = one.projects.access(here.id(), &ada(), Role::Owner).await.expect("access");
    let is_there = async || !one.backend.directory.projects_of(&ada()).await.expect("a store").is_empty();
    let mut deletion = Box::pin(one.projects.delete_project(&access));
    while is_there().await {
        // One step at a time, until it has begun.
        let step = (&mut deletion).now_or_never();
        assert!(step.is_none(), "it was not given up in the middle: {step:?}");
        tokio::task::yield_now().await;
    }
    drop(deletion);
    let log = async || one.backend.log.range(plan, None, 1, Lane::Replay).await.expect("a store").entries;
    eventually("its log is gone", async || log().await.is_empty()).await;
    let entered = two.projects.access(there.id(), &ada(), Role::Owner).await;
    assert_eq!(entered.err(), Some(OpenError::NotFound));
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_project_is_made_whole_although_whoever_asked_went_away() {
    let node = TestNode::start(&Embedded::new(), "one").await;
    let owner = ada();
    let mut creation = Box::pin(node.projects.create_project("p", None, &owner));
    let made = async || node.backend.directory.projects_of(&ada()).await.expect("a store").first().map(|made| made.id);
    let project = loop {
        match made().await {
            Some(project) => break project,
            None => assert!((&mut creation).now_or_never().is_none(), "it was not given up in the middle"),
        }
        tokio::task::yield_now().await;
    };
    drop(creation);
    let has_a_plan = async || match node.projects.access(project, &ada(), Role::Owner).await {
        Ok(access) => access.project.plan_id(None).await.is_ok(),
        Err(_) => false,
    };
    eventually("it has its plan", has_a_plan).await;
    node.stop().await;
}
