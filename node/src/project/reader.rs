//! Reads what the directory has of projects, for all that run on this node.
//!
//! Every actor reads its project again now and then, many of them at the same [common moment](crate::beat). A question and an
//! answer for each cost more than what they say, so those who ask while others do are answered together. Nobody is given what
//! was asked for before they asked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use mille_shared::ProjectId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::Members;
use crate::backend::{self, Directory};

/// Projects that are asked for together.
const BATCH_MAX: usize = 64;
/// Batches under way, so that projects whose server does not answer hold up no others. Beyond it who asks waits.
const BATCHES_MAX: usize = 16;
/// How long a batch may take: longer than commands of the store, unless they are given far more time than usual. Then whoever
/// still waits is told that there is no answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Questions that wait for a batch. Beyond it who asks waits; an actor asks once at a time.
const ASKED_MAX: usize = 1_024;

/// Where to ask. Cheap to clone.
#[derive(Clone)]
pub(super) struct Reader {
    asked: mpsc::Sender<Question>,
}

/// A project with its members; `None`: there is no such project.
pub(super) type Answer = backend::Result<Option<Members>>;

struct Question {
    project: ProjectId,
    reply: oneshot::Sender<Answer>,
}

impl Reader {
    /// Reads from now on, until `stop`.
    pub(super) fn start(directory: Arc<dyn Directory>, tasks: &TaskTracker, stop: CancellationToken) -> Self {
        let (asked, questions) = mpsc::channel(ASKED_MAX);
        let answer = move |batch| answer(Arc::clone(&directory), batch);
        tasks.spawn(async move { stop.run_until_cancelled(take(questions, answer)).await });
        Self { asked }
    }

    /// A project as the directory has it.
    ///
    /// # Errors
    /// [`backend::Error`] if the directory does not answer, or the node stops.
    pub(super) async fn read(&self, project: ProjectId) -> Answer {
        let unavailable = |why: &str| backend::Error::Unavailable(why.to_owned());
        let (reply, answer) = oneshot::channel();
        let asked = self.asked.send(Question { project, reply }).await;
        asked.map_err(|_| unavailable("nobody reads the directory any more"))?;
        answer.await.map_err(|_| unavailable("the directory did not answer"))?
    }
}

/// Takes questions, as many together as there are at a time, and has them answered.
async fn take<F>(mut questions: mpsc::Receiver<Question>, answer: impl Fn(Vec<Question>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut batches = JoinSet::new();
    loop {
        let mut batch = Vec::new();
        tokio::select! {
            taken = questions.recv_many(&mut batch, BATCH_MAX), if batches.len() < BATCHES_MAX => if taken == 0 {
                return;
            },
            Some(over) = batches.join_next() => {
                match over {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => tracing::warn!("the directory did not answer for some projects"),
                    Err(error) => tracing::error!(%error, "reading projects failed"),
                }
                continue;
            }
        }
        // Whoever is about to ask at the same moment does so first.
        tokio::task::yield_now().await;
        while batch.len() < BATCH_MAX
            && let Ok(question) = questions.try_recv()
        {
            batch.push(question);
        }
        batches.spawn(timeout(PATIENCE, answer(batch)));
    }
}

async fn answer(directory: Arc<dyn Directory>, batch: Vec<Question>) {
    let mut replies: HashMap<ProjectId, Vec<oneshot::Sender<Answer>>> = HashMap::with_capacity(batch.len());
    for Question { project, reply } in batch {
        replies.entry(project).or_default().push(reply);
    }
    let projects: Vec<ProjectId> = replies.keys().copied().collect();
    let mut told = directory.contents(&projects);
    while let Some((project, contents)) = told.next().await {
        let members = contents.map(|contents| contents.and_then(Members::of));
        for reply in replies.remove(&project).into_iter().flatten() {
            // Who asked may be gone.
            let _ = reply.send(members.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use parking_lot::Mutex;

    use super::*;

    /// Says that there is no project, but never of the one with this number. Notes how many were asked for together.
    fn reader(silent: ProjectId) -> (Reader, Arc<Mutex<Vec<usize>>>) {
        let (asked, questions) = mpsc::channel(ASKED_MAX);
        let sizes = Arc::<Mutex<Vec<usize>>>::default();
        let noted = Arc::clone(&sizes);
        tokio::spawn(take(questions, move |batch| {
            noted.lock().push(batch.len());
            async move {
                for Question { project, reply } in batch {
                    if project == silent {
                        std::future::pending().await
                    }
                    let _ = reply.send(Ok(None));
                }
            }
        }));
        (Reader { asked }, sizes)
    }

    #[tokio::test]
    async fn who_asks_at_the_same_moment_is_answered_together() {
        let (reader, sizes) = reader(ProjectId(0));
        for _ in 0..2 {
            let asking = (1..=100).map(|id| {
                let reader = reader.clone();
                tokio::spawn(async move { reader.read(ProjectId(id)).await })
            });
            for answer in join_all(asking).await {
                assert!(matches!(answer, Ok(Ok(None))), "{answer:?}");
            }
        }
        assert_eq!(*sizes.lock(), [64, 36, 64, 36]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_project_that_is_not_answered_for_holds_up_no_other() {
        let (reader, _) = reader(ProjectId(0));
        for _ in 1..BATCHES_MAX {
            assert!(timeout(Duration::from_millis(1), reader.read(ProjectId(0))).await.is_err());
        }
        for id in 1..=100 {
            assert!(matches!(reader.read(ProjectId(id)).await, Ok(None)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_will_not_come_is_an_error() {
        let (reader, _) = reader(ProjectId(0));
        assert!(matches!(reader.read(ProjectId(0)).await, Err(backend::Error::Unavailable(_))));
        let (asked, questions) = mpsc::channel(ASKED_MAX);
        tokio::spawn(take(questions, async |batch| drop(batch)));
        assert!(matches!(Reader { asked }.read(ProjectId(1)).await, Err(backend::Error::Unavailable(_))));
        let (asked, _) = mpsc::channel(ASKED_MAX);
        assert!(matches!(Reader { asked }.read(ProjectId(1)).await, Err(backend::Error::Unavailable(_))));
    }
}
