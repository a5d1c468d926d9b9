//! What a group makes of events: each once, for everybody who is told it.
//!
//! A large plan takes a while to write down. Meanwhile nothing is locked: whoever wants the same waits for it as tasks do, and
//! other events are written beside it. Only an execution takes one event at a time, and who needs it waits likewise. Whoever
//! makes something does so without awaiting anything: a subscription is not polled while its socket takes nothing, and nobody
//! may have to wait for that. For the same reason no turn is handed on: who waited looks again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mille_shared::log::Head;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::render::{Rendered, Renderer};
use crate::pressure::Backlog;
use crate::project::PlanEvent;

/// Answers that are kept for those who catch up, and their bytes. Beyond it the oldest go, and are made again; the newest stays.
const MADE_MAX: usize = 16_384;
const MADE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The execution, and what it made for those who catch up.
pub(super) struct Press {
    renderer: Renderer,
    state: Mutex<State>,
    /// Subscriptions that catch up alone: for them is kept what is made.
    alone: AtomicUsize,
}

struct State {
    /// What is being made now: bounded by the threads that do it.
    jobs: Vec<Job>,
    made: HashMap<Made, Arc<Rendered>>,
    order: VecDeque<Made>,
    /// Counts what is kept with what waits for sockets: it is there for those who are slow.
    kept: Backlog,
}

/// Something is being made.
struct Job {
    made: Made,
    /// Who waits for it. Mostly nobody does.
    waiting: Option<watch::Sender<Option<Arc<Rendered>>>>,
}

/// An event, as far as what it comes to goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Made {
    Change(Head),
    Snapshot(Head, &'static str),
}

impl Made {
    /// `None`: of such an event nothing is shown.
    fn of(event: &PlanEvent) -> Option<Self> {
        match event {
            PlanEvent::Changed(applied) => Some(Self::Change(applied.head)),
            PlanEvent::Snapshot { plan, reason } => Some(Self::Snapshot(plan.head(), reason)),
            PlanEvent::Progress(_) | PlanEvent::MembersChanged => None,
        }
    }

    fn head(self) -> Head {
        let (Self::Change(head) | Self::Snapshot(head, _)) = self;
        head
    }
}

/// How somebody comes to what they want.
enum Way<'a> {
    /// It was made.
    Made(Arc<Rendered>),
    /// It is being made.
    Wait(watch::Receiver<Option<Arc<Rendered>>>),
    /// Something else is being made first.
    WaitAndLookAgain(watch::Receiver<Option<Arc<Rendered>>>),
    /// They make it.
    Make(Turn<'a>),
}

impl Press {
    /// `kept` counts what is kept for those who catch up.
    pub(super) fn new(renderer: Renderer, kept: Backlog) -> Self {
        let state = State { jobs: Vec::new(), made: HashMap::new(), order: VecDeque::new(), kept };
        Self { renderer, state: Mutex::new(state), alone: AtomicUsize::new(0) }
    }

    /// What an event comes to. `None`: nothing that is shown. `note` is told when it is made here and now.
    pub(super) async fn render(&self, event: &PlanEvent, note: impl Fn(&Rendered)) -> Option<Arc<Rendered>> {
        let made = Made::of(event)?;
        loop {
            match self.way_to(made) {
                Way::Made(rendered) => return Some(rendered),
                Way::Make(turn) => return Some(turn.render(event, note)),
                Way::Wait(mut done) => {
                    // Whoever was to make it may have failed: then it is somebody else's turn.
                    if let Ok(rendered) = done.wait_for(Option::is_some).await {
                        return rendered.clone();
                    }
                }
                Way::WaitAndLookAgain(mut done) => {
                    let _ = done.changed().await;
                }
            }
        }
    }

    fn way_to(&self, made: Made) -> Way<'_> {
        let mut state = self.state.lock();
        if let Some(rendered) = state.made.get(&made) {
            return Way::Made(Arc::clone(rendered));
        }
        let one_by_one = self.renderer.is_one_by_one();
        if let Some(job) = state.jobs.iter_mut().find(|job| one_by_one || job.made == made) {
            let done = job.waiting.get_or_insert_with(|| watch::channel(None).0).subscribe();
            return if job.made == made { Way::Wait(done) } else { Way::WaitAndLookAgain(done) };
        }
        state.jobs.push(Job { made, waiting: None });
        Way::Make(Turn { press: self, made, rendered: None })
    }

    /// Somebody begins to catch up alone.
    pub(super) fn begin_alone(&self) {
        self.alone.fetch_add(1, Ordering::Relaxed);
    }

    /// They have caught up, or left. Whether they were the last.
    pub(super) fn end_alone(&self) -> bool {
        self.alone.fetch_sub(1, Ordering::Relaxed) == 1
    }

    /// Forgets what was made, unless somebody catches up again.
    pub(super) fn forget_made(&self) {
        let mut state = self.state.lock();
        if self.alone.load(Ordering::Relaxed) == 0 {
            (state.made, state.order) = (HashMap::new(), VecDeque::new());
            state.kept.set(0, 0);
        }
    }
}

impl State {
    fn keep(&mut self, made: Made, rendered: Arc<Rendered>) {
        self.kept.add(rendered.bytes());
        self.made.insert(made, rendered);
        self.order.push_back(made);
        // The newest is kept however large it is: it would be made anew for everybody else.
        while self.order.len() > MADE_MAX || self.order.len() > 1 && self.kept.bytes() > MADE_BYTES_MAX {
            let Some(oldest) = self.order.pop_front().and_then(|oldest| self.made.remove(&oldest)) else { return };
            self.kept.remove(oldest.bytes());
        }
    }
}

/// The turn to make something. It ends when this is dropped: with what was made, or with nothing.
struct Turn<'a> {
    press: &'a Press,
    made: Made,
    rendered: Option<Arc<Rendered>>,
}

impl Turn<'_> {
    fn render(mut self, event: &PlanEvent, note: impl Fn(&Rendered)) -> Arc<Rendered> {
        let rendered = Arc::new(self.press.renderer.render(event.clone(), self.made.head()));
        note(&rendered);
        self.rendered = Some(Arc::clone(&rendered));
        rendered
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let rendered = self.rendered.take();
        let mut state = self.press.state.lock();
        let job = state.jobs.iter().position(|job| job.made == self.made).map(|job| state.jobs.swap_remove(job));
        // Whoever comes from here on finds it there; who waits is told.
        if self.press.alone.load(Ordering::Relaxed) > 0 {
            rendered.iter().for_each(|rendered| state.keep(self.made, Arc::clone(rendered)));
        }
        drop(state);
        if let Some(waiting) = job.and_then(|job| job.waiting) {
            waiting.send_replace(rendered);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
    use std::time::Duration;

    use async_graphql::{Response, Value};
    use futures_util::future::{BoxFuture, join_all};
    use futures_util::{FutureExt as _, StreamExt as _, poll};
    use mille_core::{Applied, Plan, chain};
    use mille_shared::change::{Change, Fact};
    use mille_shared::log::{ChainHash, LogEntry};
    use mille_shared::plan::PlanMetadata;
    use mille_shared::{ClientId, OperationId, PlanId, ProjectId, Revision, Timestamp, UserId};
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::super::render::Rendering;
    use super::*;
    use crate::pressure::Pressure;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn change(facts: Vec<Fact>) -> Change {
        Change {
            operation_id: OperationId::new("o"),
            user_id: UserId::new("ada"),
            client_id: ClientId::none(),
            at: Timestamp::from_unix_ms(1),
            facts,
        }
    }

    fn snapshot() -> PlanEvent {
        let facts = vec![Fact::Created { metadata: PlanMetadata::default() }];
        let payload = serde_json::to_string(&change(facts)).expect("JSON");
        let revision = Revision { epoch: 1, seq: 0 };
        let hash = chain::link(ChainHash::ROOT, revision, &payload);
        let plan = Plan::begin(&LogEntry { revision, hash, payload: payload.into() }).expect("a plan");
        PlanEvent::Snapshot { plan: Arc::new(plan), reason: "requested" }
    }

    fn changed() -> PlanEvent {
        PlanEvent::Changed(Arc::new(Applied {
            head: Head { revision: Revision { epoch: 1, seq: 1 }, hash: ChainHash::ROOT },
            previous: Revision { epoch: 1, seq: 0 },
            change: change(Vec::new()),
            payload: "{}".into(),
            patch: Vec::new(),
            touches: Vec::new(),
        }))
    }

    /// What takes its time to make something of a plan: until the other end of `go` is dropped. So long it holds a thread; if
    /// somebody who waits held another, there must be a third for the clock.
    struct Slow {
        began: mpsc::Sender<()>,
        go: Mutex<Receiver<()>>,
    }

    impl Slow {
        fn new() -> (Self, mpsc::Receiver<()>, SyncSender<()>) {
            let (began, has_begun) = mpsc::channel(8);
            let (release, go) = sync_channel(0);
            (Self { began, go: Mutex::new(go) }, has_begun, release)
        }

        fn take_time(&self, event: &PlanEvent) {
            if matches!(event, PlanEvent::Snapshot { .. }) {
                self.began.try_send(()).expect("few plans");
                let _ = self.go.lock().recv();
            }
        }
    }

    fn press(rendering: Rendering) -> Arc<Press> {
        let press = Press::new(Renderer::new(ProjectId(1), PlanId(1), rendering), Pressure::default().backlog());
        press.begin_alone();
        Arc::new(press)
    }

    /// Somebody who wants an event, and how often something was made for them.
    fn want(press: &Arc<Press>, event: PlanEvent, made: &Arc<AtomicUsize>) -> BoxFuture<'static, Arc<Rendered>> {
        let (press, made) = (Arc::clone(press), Arc::clone(made));
        let note = move |_: &Rendered| {
            made.fetch_add(1, Ordering::SeqCst);
        };
        async move { press.render(&event, note).await.expect("it is shown") }.boxed()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn while_a_plan_is_written_down_changes_are_told_and_who_wants_the_same_holds_no_thread() {
        let (slow, mut has_begun, release) = Slow::new();
        let press = press(Rendering::Written(Box::new(move |event| {
            slow.take_time(&event);
            Some(Ok(b"{}".to_vec()))
        })));
        let made = Arc::new(AtomicUsize::new(0));
        let first = tokio::spawn(want(&press, snapshot(), &made));
        timeout(PATIENCE, has_begun.recv()).await.expect("it is begun");

        let mut openers: Vec<_> = (0..20).map(|_| want(&press, snapshot(), &made)).collect();
        let change = want(&press, changed(), &made);
        let meanwhile = tokio::spawn(async move {
            for opener in &mut openers {
                assert!(poll!(opener).is_pending(), "it is not made yet");
            }
            assert!(change.await.is_change);
            openers
        });
        let openers = timeout(PATIENCE, meanwhile).await.expect("nobody waits for the plan").expect("no panic");
        drop(release);
        let first = first.await.expect("no panic");
        let told = timeout(PATIENCE, join_all(openers)).await.expect("it is made");
        assert!(told.iter().all(|rendered| Arc::ptr_eq(rendered, &first)));
        assert_eq!(made.load(Ordering::SeqCst), 2, "the plan and the change, once each");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn an_execution_takes_one_event_at_a_time_and_who_needs_it_meanwhile_holds_no_thread() {
        let (slow, mut has_begun, release) = Slow::new();
        let press = press(Rendering::Executed(Box::new(move |feed| {
            let responses = feed.events().map(move |event| {
                slow.take_time(&event);
                Response::new(Value::Boolean(true))
            });
            responses.boxed()
        })));
        let made = Arc::new(AtomicUsize::new(0));
        let first = tokio::spawn(want(&press, snapshot(), &made));
        timeout(PATIENCE, has_begun.recv()).await.expect("it is begun");

        let mut next =
            vec![want(&press, changed(), &made), want(&press, snapshot(), &made), want(&press, changed(), &made)];
        let meanwhile = tokio::spawn(async move {
            for waits in &mut next {
                assert!(poll!(waits).is_pending(), "the execution is taken");
            }
            next
        });
        let mut next = timeout(PATIENCE, meanwhile).await.expect("they hold no thread").expect("no panic");
        drop(release);
        assert!(!first.await.expect("no panic").is_change);
        // The first of those who wait is never polled again: its socket takes nothing.
        let _stalled = next.remove(0);
        let told = timeout(PATIENCE, join_all(next)).await.expect("nobody waits for it");
        assert!(!told[0].is_change && told[1].is_change && told.iter().all(|rendered| rendered.failure.is_none()));
        assert_eq!(made.load(Ordering::SeqCst), 2, "the plan and the change, once each");
    }

    #[tokio::test]
    async fn what_somebody_failed_to_make_is_made_by_who_waits_for_it() {
        let press = press(Rendering::Written(Box::new(|_| Some(Ok(b"{}".to_vec())))));
        let made = Arc::new(AtomicUsize::new(0));
        let event = changed();
        let Way::Make(turn) = press.way_to(Made::of(&event).expect("it is shown")) else {
            panic!("nobody makes it yet")
        };
        let mut waits = want(&press, event, &made);
        assert!(poll!(&mut waits).is_pending());
        drop(turn);
        assert!(waits.await.is_change);
        assert_eq!(made.load(Ordering::SeqCst), 1);
    }
}
