//! Promises of the directory.

use futures_util::StreamExt as _;
use mille_node::backend::{Backend, Contents, MemberChange};
use mille_shared::directory::{Member, Plan, Project, Role};
use mille_shared::{PlanId, ProjectId, Timestamp, UserId};

use crate::kit::Store;

const NOBODYS: ProjectId = ProjectId(999);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_ms(1_800_000_000_000 + seconds * 1_000 + 7)
}

async fn project_of(backend: &Backend, owner: &UserId) -> Project {
    backend.directory.create_project("Harbour", None, owner, at(0)).await.expect("a project")
}

async fn contents(backend: &Backend, id: ProjectId) -> Option<Contents> {
    let mut told: Vec<_> = backend.directory.contents(&[id]).collect().await;
    let (of, contents) = told.pop().filter(|_| told.is_empty()).expect("one answer");
    assert_eq!(of, id);
    contents.expect("an answer")
}

pub(crate) async fn a_project_is_found_by_its_members(store: Store) {
    let (here, there) = (store.connect().await, store.connect().await);
    let (ada, bob) = (UserId::new("ada }{ ü"), UserId::new("bob"));
    let first = here.directory.create_project("Metro", Some(""), &ada, at(0)).await.expect("a project");
    let second = here.directory.create_project("Ünder\n\"ground\"", None, &ada, at(1)).await.expect("a project");
    assert!(first.id < second.id);
    assert_eq!((first.description.as_deref(), second.description.as_deref()), (Some(""), None));
    for project in [&first, &second] {
        assert_eq!(contents(&there, project.id).await.map(|contents| contents.project).as_ref(), Some(project));
    }
    assert_eq!(contents(&there, NOBODYS).await, None);
    assert_eq!(there.directory.members(NOBODYS).await.expect("an answer"), []);
    assert_eq!(there.directory.projects_of(&ada).await.expect("an answer"), [first.clone(), second.clone()]);
    assert_eq!(there.directory.projects_of(&bob).await.expect("an answer"), []);

    let change = here.directory.set_member(second.id, &bob, Role::Viewer, at(2)).await.expect("an answer");
    let bob_views = Member { user_id: bob.clone(), role: Role::Viewer, added_at: at(2) };
    assert_eq!(change, MemberChange::Done(bob_views.clone()));
    let ada_owns = Member { user_id: ada.clone(), role: Role::Owner, added_at: at(1) };
    assert_eq!(there.directory.members(second.id).await.expect("an answer"), [ada_owns, bob_views]);
    let second = Project { updated_at: at(2), ..second };
    assert_eq!(there.directory.projects_of(&bob).await.expect("an answer"), std::slice::from_ref(&second));

    let removed = here.directory.remove_member(second.id, &bob, at(3)).await.expect("an answer");
    assert_eq!(removed, MemberChange::Done(()));
    assert_eq!(there.directory.projects_of(&bob).await.expect("an answer"), []);
    assert_eq!(contents(&there, second.id).await.expect("a project").project.updated_at, at(3));
    let again = here.directory.set_member(second.id, &bob, Role::Editor, at(4)).await.expect("an answer");
    assert_eq!(again, MemberChange::Done(Member { user_id: bob.clone(), role: Role::Editor, added_at: at(4) }));
    assert_eq!(there.directory.projects_of(&bob).await.expect("an answer").len(), 1);
}

pub(crate) async fn a_plan_is_found_in_its_project(store: Store) {
    let (here, there) = (store.connect().await, store.connect().await);
    let project = project_of(&here, &UserId::new("ada")).await;
    let mut plans = Vec::new();
    for n in 0..12 {
        let id = here.directory.reserve_plan(0).await.expect("a number");
        assert_eq!(there.directory.plan(id).await.expect("an answer"), None, "reserved is not known");
        plans.push(Plan { id, project_id: project.id, name: format!("Plan ü \"{n}\""), created_at: at(n) });
    }
    for plan in plans.iter().rev() {
        assert!(here.directory.add_plan(plan).await.expect("an answer"));
        assert_eq!(there.directory.plan(plan.id).await.expect("an answer").as_ref(), Some(plan));
    }
    assert!(plans.is_sorted_by(|a, b| a.id < b.id), "numbers grow");
    for (project, plan, is_its) in
        [(project.id, plans[0].id, true), (NOBODYS, plans[0].id, false), (project.id, PlanId(i32::MAX), false)]
    {
        assert_eq!(there.directory.reclaim_plan(project, plan).await.expect("an answer"), is_its, "{project} {plan}");
    }
    let found = contents(&there, project.id).await.expect("a project");
    assert_eq!((found.plans, found.project.updated_at), (plans.clone(), at(0)));

    let stray =
        Plan { id: here.directory.reserve_plan(0).await.expect("a number"), project_id: NOBODYS, ..plans[0].clone() };
    assert!(!here.directory.add_plan(&stray).await.expect("an answer"));
    assert_eq!(there.directory.plan(stray.id).await.expect("an answer"), None);
}

pub(crate) async fn what_many_projects_have_is_told_of_each(store: Store) {
    let (here, there) = (store.connect().await, store.connect().await);
    let mut expected = Vec::new();
    for n in 0..40 {
        let owner = UserId::new(format!("ada-{n}"));
        let project = project_of(&here, &owner).await;
        let id = here.directory.reserve_plan(0).await.expect("a number");
        let plan = Plan { id, project_id: project.id, name: format!("Plan {n}"), created_at: at(n) };
        assert!(here.directory.add_plan(&plan).await.expect("an answer"));
        let member = Member { user_id: owner, role: Role::Owner, added_at: at(0) };
        let contents =
            Contents { project: Project { updated_at: at(n), ..project }, plans: vec![plan], members: vec![member] };
        expected.push((contents.project.id, Some(contents)));
    }
    let (gone, contents) = &mut expected[7];
    here.directory.delete_project(*gone).await.expect("an answer");
    *contents = None;
    expected.push((NOBODYS, None));
    let ids: Vec<_> = expected.iter().map(|(id, _)| *id).collect();
    let told = there.directory.contents(&ids).map(|(id, contents)| (id, contents.expect("an answer")));
    let mut told: Vec<_> = told.collect().await;
    told.sort_unstable_by_key(|(id, _)| *id);
    assert_eq!(told, expected);
    assert_eq!(there.directory.contents(&[]).count().await, 0);
}

pub(crate) async fn a_deleted_project_leaves_nothing(store: Store) {
    let backend = store.connect().await;
    let ada = UserId::new("ada");
    let (gone, stays) = (project_of(&backend, &ada).await, project_of(&backend, &ada).await);
    let mut plans = Vec::new();
    for project in [gone.id, stays.id, gone.id] {
        let id = backend.directory.reserve_plan(0).await.expect("a number");
        let plan = Plan { id, project_id: project, name: "Main".to_owned(), created_at: at(0) };
        assert!(backend.directory.add_plan(&plan).await.expect("an answer"));
        plans.push(id);
    }
    let deleted = backend.directory.delete_project(gone.id).await.expect("an answer");
    assert_eq!(deleted, Some(vec![plans[0], plans[2]]));
    assert_eq!(backend.directory.delete_project(gone.id).await.expect("an answer"), None);
    assert_eq!(contents(&backend, gone.id).await, None);
    assert_eq!(backend.directory.members(gone.id).await.expect("an answer"), []);
    assert_eq!(backend.directory.projects_of(&ada).await.expect("an answer"), std::slice::from_ref(&stays));
    let known = async |id: PlanId| backend.directory.plan(id).await.expect("an answer").is_some();
    assert_eq!([known(plans[0]).await, known(plans[1]).await, known(plans[2]).await], [false, true, false]);

    let change = backend.directory.set_member(gone.id, &ada, Role::Owner, at(1)).await.expect("an answer");
    assert_eq!(change, MemberChange::NotFound);
    assert!(project_of(&backend, &ada).await.id > stays.id, "numbers are not used again");
}

pub(crate) async fn an_owner_always_stays(store: Store) {
    let backend = store.connect().await;
    let (ada, bob) = (UserId::new("ada"), UserId::new("bob"));
    let id = project_of(&backend, &ada).await.id;
    let set = async |user: &UserId, role| backend.directory.set_member(id, user, role, at(9)).await.expect("an answer");
    let remove = async |user: &UserId| backend.directory.remove_member(id, user, at(9)).await.expect("an answer");
    let ada_is = |role| MemberChange::Done(Member { user_id: ada.clone(), role, added_at: at(0) });

    assert_eq!(set(&ada, Role::Editor).await, MemberChange::LastOwner);
    assert_eq!(remove(&ada).await, MemberChange::LastOwner);
    assert_eq!(remove(&bob).await, MemberChange::NotFound);
    assert_eq!(set(&ada, Role::Owner).await, ada_is(Role::Owner));
    assert!(matches!(set(&bob, Role::Editor).await, MemberChange::Done(_)));
    assert_eq!(remove(&ada).await, MemberChange::LastOwner);
    assert!(matches!(set(&bob, Role::Owner).await, MemberChange::Done(_)));
    assert_eq!(set(&ada, Role::Viewer).await, ada_is(Role::Viewer), "a member stays one since then");
    assert_eq!(remove(&bob).await, MemberChange::LastOwner);
    assert_eq!(remove(&ada).await, MemberChange::Done(()));
}

pub(crate) async fn two_owners_can_not_both_leave(store: Store) {
    let (here, there) = (store.connect().await, store.connect().await);
    let (ada, bob) = (UserId::new("ada"), UserId::new("bob"));
    for _ in 0..20 {
        let id = project_of(&here, &ada).await.id;
        here.directory.set_member(id, &bob, Role::Owner, at(1)).await.expect("an answer");
        let (a, b) = tokio::join!(
            here.directory.remove_member(id, &ada, at(2)),
            there.directory.remove_member(id, &bob, at(2)),
        );
        let left = [a.expect("an answer"), b.expect("an answer")];
        assert!(left.contains(&MemberChange::Done(())) && left.contains(&MemberChange::LastOwner), "{left:?}");
        assert_eq!(here.directory.members(id).await.expect("an answer").len(), 1);
    }
}
