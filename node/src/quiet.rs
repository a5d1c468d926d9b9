//! A future that costs nothing until it is woken.
//!
//! A socket's task runs for many reasons, and each time it asks everything that it waits for. Some of that hardly ever
//! comes and is the same for all sockets: the node is taken out, a token is revoked. To ask takes a lock which all of them
//! share, once per socket and event. A quiet future is asked once; from then on it is asked again only when something has
//! woken it, and until then an answer is a look at a flag of its own.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Asks a future only when it was woken.
#[derive(Debug)]
pub struct Quiet<F> {
    future: F,
    bell: Arc<Bell>,
}

#[derive(Debug)]
struct Bell {
    has_rung: AtomicBool,
    task: AtomicWaker,
}

impl<F: Future + Unpin> Quiet<F> {
    /// Nothing was asked yet.
    pub fn new(future: F) -> Self {
        let bell = Arc::new(Bell { has_rung: AtomicBool::new(true), task: AtomicWaker::new() });
        Self { future, bell }
    }
}

impl<F: Future + Unpin> Future for Quiet<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { future, bell } = &mut *self;
        // In this order: a bell that rings before the task is known to it is seen below, one that rings later wakes the task.
        bell.task.register(cx.waker());
        if !bell.has_rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let waker = Waker::from(Arc::clone(bell));
        Pin::new(future).poll(&mut Context::from_waker(&waker))
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use tokio::sync::Notify;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn it_is_asked_once_and_then_when_it_was_woken() {
        let (asked, notify) = (Cell::new(0), Notify::new());
        let mut wanted = Box::pin(notify.notified());
        let mut quiet = Quiet::new(poll_fn(|cx| {
            asked.set(asked.get() + 1);
            wanted.as_mut().poll(cx)
        }));
        for _ in 0..100 {
            assert!(poll_fn(|cx| Poll::Ready(quiet.poll_unpin(cx))).await.is_pending());
        }
        assert_eq!(asked.get(), 1);
        notify.notify_one();
        quiet.await;
        assert_eq!(asked.get(), 2);
    }

    #[tokio::test]
    async fn whoever_asked_last_is_woken_each_time() {
        let notify = Arc::new(Notify::new());
        let (first, again) = (Arc::clone(&notify), Arc::clone(&notify));
        let (asked, mut was_asked) = tokio::sync::mpsc::channel(1);
        let mut quiet = Quiet::new(
            async move {
                first.notified().await;
                asked.send(()).await.expect("somebody waits");
                again.notified().await;
            }
            .boxed(),
        );
        assert!((&mut quiet).now_or_never().is_none(), "by a waker that wakes nobody");
        let waiting = tokio::spawn(quiet);
        tokio::task::yield_now().await;
        notify.notify_one();
        was_asked.recv().await.expect("woken once");
        notify.notify_one();
        timeout(PATIENCE, waiting).await.expect("woken again").expect("no panic");
    }

    #[tokio::test]
    async fn what_wakes_it_while_it_is_asked_is_not_forgotten() {
        let mut turns = 0;
        let quiet = Quiet::new(poll_fn(move |cx| {
            turns += 1;
            cx.waker().wake_by_ref();
            if turns == 3 { Poll::Ready(turns) } else { Poll::Pending }
        }));
        assert_eq!(timeout(PATIENCE, quiet).await.expect("in time"), 3);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rings_from_another_thread_are_not_lost() {
        for _ in 0..10_000 {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let waiting = tokio::spawn(Quiet::new(receiver));
            sender.send(()).expect("it waits");
            timeout(PATIENCE, waiting).await.expect("in time").expect("no panic").expect("sent");
        }
    }
}
