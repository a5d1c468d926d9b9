//! What a node reads of the projects that it has open, of all of them together.

use mille_shared::Timestamp;
use mille_shared::directory::{Member, Plan, Project};

use super::*;
use crate::backend::{Contents, Directory, MemberChange};

/// A directory that counts the questions for what projects have, and the projects in them; and that can be told not to answer
/// who changes something.
pub(super) struct Counted {
    store: Arc<dyn Directory>,
    questions: AtomicUsize,
    projects: AtomicUsize,
    /// What is changed is written, and the answer gets lost.
    pub(super) loses_answers: AtomicBool,
}

impl Counted {
    /// In the place of a store's.
    pub(super) fn of(backend: &mut Backend) -> Arc<Self> {
        let store = Arc::clone(&backend.directory);
        let counted = Self { store, questions: 0.into(), projects: 0.into(), loses_answers: false.into() };
        let counted = Arc::new(counted);
        backend.directory = counted.clone();
        counted
    }

    /// What comes of a change that was written.
    fn answer<T>(&self, written: backend::Result<T>) -> backend::Result<T> {
        if self.loses_answers.load(Ordering::Relaxed) {
            return Err(backend::Error::Unavailable("told so".to_owned()));
        }
        written
    }

    /// Both counts since it was last asked for them.
    fn take(&self) -> (usize, usize) {
        (self.questions.swap(0, Ordering::Relaxed), self.projects.swap(0, Ordering::Relaxed))
    }
}

#[async_trait]
impl Directory for Counted {
    fn contents<'a>(
        &'a self,
        projects: &'a [ProjectId],
    ) -> BoxStream<'a, (ProjectId, backend::Result<Option<Contents>>)> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        self.projects.fetch_add(projects.len(), Ordering::Relaxed);
        self.store.contents(projects)
    }

    async fn create_project(
        &self,
        name: &str,
        description: Option<&str>,
        owner: &UserId,
        at: Timestamp,
    ) -> backend::Result<Project> {
        self.store.create_project(name, description, owner, at).await
    }

    async fn projects_of(&self, user: &UserId) -> backend::Result<Vec<Project>> {
        self.store.projects_of(user).await
    }

    async fn delete_project(&self, id: ProjectId) -> backend::Result<Option<Vec<PlanId>>> {
        self.answer(self.store.delete_project(id).await)
    }

    async fn reserve_plan(&self, taken: u32) -> backend::Result<PlanId> {
        self.store.reserve_plan(taken).await
    }

    async fn add_plan(&self, plan: &Plan) -> backend::Result<bool> {
        self.store.add_plan(plan).await
    }

    async fn plan(&self, id: PlanId) -> backend::Result<Option<Plan>> {
        self.store.plan(id).await
    }

    async fn reclaim_plan(&self, project: ProjectId, plan: PlanId) -> backend::Result<bool> {
        self.store.reclaim_plan(project, plan).await
    }

    async fn members(&self, project: ProjectId) -> backend::Result<Vec<Member>> {
        self.store.members(project).await
    }

    async fn set_member(
        &self,
        project: ProjectId,
        user: &UserId,
        role: Role,
        at: Timestamp,
    ) -> backend::Result<MemberChange<Member>> {
        self.answer(self.store.set_member(project, user, role, at).await)
    }

    async fn remove_member(
        &self,
        project: ProjectId,
        user: &UserId,
        at: Timestamp,
    ) -> backend::Result<MemberChange<()>> {
        self.answer(self.store.remove_member(project, user, at).await)
    }
}

#[tokio::test(start_paused = true)]
async fn projects_that_are_read_again_are_read_in_few_questions() {
    const PROJECTS: usize = 400;
    let mut connected = Embedded::new().connect();
    let directory = Counted::of(&mut connected);
    let node = TestNode::over(connected, "one", limits::RECENT_CHANGES_BYTES_MAX).await;
    for _ in 0..PROJECTS {
        node.projects.create_project("p", None, &ada()).await.expect("a project");
    }
    directory.take();
    // Each is read again within 36 to 48 s, at one of 40 common moments, and within 72 to 96 s, at one of 80.
    sleep(Duration::from_secs(100)).await;
    let (questions, projects) = directory.take();
    assert_eq!(projects, 2 * PROJECTS);
    assert!(questions <= 130, "{questions} questions for {PROJECTS} projects, twice");
    node.stop().await;
}
