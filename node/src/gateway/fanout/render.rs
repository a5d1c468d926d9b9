//! What a subscription's selection comes to, for everybody who asked the same.
//!
//! Some selections can be written straight from an event. Any other is executed once, over events that are put in one by
//! one. What is made of each is written down once, as the bytes that everybody is sent. Nothing in it may wait, or depend on
//! who asked.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use async_graphql::{Response, Value};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, stream};
use mille_shared::log::Head;
use mille_shared::{ErrorCode, PlanId, ProjectId};
use parking_lot::Mutex;

use crate::gateway::errors::{ApiError, complete_errors};
use crate::project::PlanEvent;

/// What a plan's event comes to for everybody with the same selection.
#[derive(Debug)]
pub struct Rendered {
    /// How far whoever has it is.
    pub head: Head,
    /// Whether it tells of the change that leads there; else of the whole plan.
    pub is_change: bool,
    /// The answers, each as JSON. None, if the selection's field has nothing to say of it.
    pub payloads: Vec<Bytes>,
    /// The answer that ends the subscription, if the selection failed.
    pub failure: Option<Response>,
}

impl Rendered {
    /// Bytes of all its answers.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.payloads.iter().map(Bytes::len).sum()
    }
}

/// Where the events of a shared execution come from. In the data of its request: a resolver that finds it takes its events
/// from here, and asks nobody's right, since none of what it makes is for a user.
#[derive(Clone)]
pub struct RenderFeed {
    /// The project.
    pub project: ProjectId,
    /// The plan.
    pub plan: PlanId,
    slot: Arc<Mutex<Slot>>,
}

#[derive(Default)]
struct Slot {
    event: Option<PlanEvent>,
    waker: Option<Waker>,
}

impl RenderFeed {
    fn new(project: ProjectId, plan: PlanId) -> Self {
        Self { project, plan, slot: Arc::default() }
    }

    fn put(&self, event: PlanEvent) {
        let mut slot = self.slot.lock();
        slot.event = Some(event);
        if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
    }

    /// The events, as they are put in.
    pub fn events(&self) -> impl Stream<Item = PlanEvent> + Send + use<> {
        let slot = Arc::clone(&self.slot);
        stream::poll_fn(move |cx| {
            let mut slot = slot.lock();
            if let Some(event) = slot.event.take() {
                return Poll::Ready(Some(event));
            }
            slot.waker = Some(cx.waker().clone());
            Poll::Pending
        })
    }
}

/// Starts the execution of a selection over a feed.
pub type Execution = Box<dyn FnOnce(RenderFeed) -> BoxStream<'static, Response> + Send>;

/// Writes what an event comes to, as JSON. `None`: nothing. Several events may be written at a time.
pub type Writer = Box<dyn Fn(PlanEvent) -> Option<serde_json::Result<Vec<u8>>> + Send + Sync>;

/// How a selection comes to its answers.
pub enum Rendering {
    /// It is written.
    Written(Writer),
    /// It is executed.
    Executed(Execution),
}

/// What makes the answers of a group.
pub(super) enum Renderer {
    Writer(Writer),
    /// Nobody waits for the lock: see [`Self::is_one_by_one`].
    Run(Mutex<Run>),
}

/// An execution that is under way.
pub(super) struct Run {
    responses: BoxStream<'static, Response>,
    feed: RenderFeed,
    woken: Arc<Woken>,
    is_over: bool,
}

/// Whether the execution has more to do at once.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Renderer {
    pub(super) fn new(project: ProjectId, plan: PlanId, rendering: Rendering) -> Self {
        match rendering {
            Rendering::Written(write) => Self::Writer(write),
            Rendering::Executed(execution) => {
                let feed = RenderFeed::new(project, plan);
                let responses = execution(feed.clone());
                Self::Run(Mutex::new(Run { responses, feed, woken: Arc::default(), is_over: false }))
            }
        }
    }

    /// Whether an event is only to be rendered when no other is.
    pub(super) fn is_one_by_one(&self) -> bool {
        matches!(self, Self::Run(_))
    }

    /// What an event that leads to `head` comes to.
    pub(super) fn render(&self, event: PlanEvent, head: Head) -> Rendered {
        let mut rendered = Rendered {
            head,
            is_change: matches!(event, PlanEvent::Changed(_)),
            payloads: Vec::with_capacity(1),
            failure: None,
        };
        match self {
            Self::Writer(write) => match std::panic::catch_unwind(AssertUnwindSafe(|| write(event))) {
                Ok(Some(Ok(payload))) => rendered.payloads.push(payload.into()),
                Ok(None) => {}
                // A mistake of ours, which the panic hook has told.
                Ok(Some(Err(_))) | Err(_) => rendered.failure = Some(broken()),
            },
            Self::Run(run) => run.lock().render(event, &mut rendered),
        }
        rendered
    }
}

impl Run {
    fn render(&mut self, event: PlanEvent, rendered: &mut Rendered) {
        if self.is_over {
            rendered.failure = Some(broken());
            return;
        }
        self.feed.put(event);
        while let Some(mut response) = self.next() {
            complete_errors(&mut response);
            let is_lost = response.data == Value::Null && response.is_err();
            match serde_json::to_vec(&response) {
                // Behind a failure comes nothing more of this event.
                _ if rendered.failure.is_some() => {}
                Ok(payload) if !is_lost => rendered.payloads.push(payload.into()),
                _ => rendered.failure = Some(response),
            }
        }
        if self.is_over {
            rendered.failure.get_or_insert_with(broken);
        }
    }

    /// What the execution says next, if it says it at once.
    fn next(&mut self) -> Option<Response> {
        let waker = Waker::from(Arc::clone(&self.woken));
        let mut cx = Context::from_waker(&waker);
        loop {
            self.woken.0.store(false, Ordering::Relaxed);
            let polled = std::panic::catch_unwind(AssertUnwindSafe(|| self.responses.poll_next_unpin(&mut cx)));
            match polled {
                Ok(Poll::Ready(Some(response))) => return Some(response),
                Ok(Poll::Pending) if self.woken.0.load(Ordering::Relaxed) => {}
                Ok(Poll::Pending) => return None,
                // It is over, as if by its own will; or by a mistake of ours, which the panic hook has told.
                Ok(Poll::Ready(None)) | Err(_) => {
                    self.is_over = true;
                    return None;
                }
            }
        }
    }
}

fn broken() -> Response {
    ApiError::new(ErrorCode::InternalError, "internal error").to_response()
}
