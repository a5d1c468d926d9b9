//! The tasks that talk to the outside for one project's presence, so that its actor never waits.
//!
//! The keeper writes records: per connection in order, and only the newest of what waits. The reader reads all tables.
//! The speaker publishes, in order; what finds no room is dropped, which the digests repair.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use mille_shared::presence::Record;
use mille_shared::{ConnectionId, NodeId, ProjectId};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::backend::{Channel, PresenceStore, PubSub};
use crate::metrics::Metrics;

/// Messages that wait to be published. A Redis that does not answer fills it; then they are dropped.
const MESSAGES_MAX: usize = 256;
/// Cursor batches leave this part of the queue to messages that nothing replaces.
const MESSAGES_RESERVED: usize = MESSAGES_MAX / 2;
/// Writes that are under way at once.
const WRITES_AT_ONCE: usize = 16;
/// Writes that may wait. More: they are dropped, and everything is written anew when the store answers again.
const WRITES_MAX: usize = 8_192;
/// How long the tasks may take to finish.
const FINISH_WITHIN: Duration = Duration::from_secs(2);
/// How long the keeper waits after a write that failed.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// A connection's place in a node's table.
type Field = (NodeId, ConnectionId);

/// What a project's presence needs of the node.
#[derive(Clone)]
pub struct Surroundings {
    /// Where records are kept.
    pub store: Arc<dyn PresenceStore>,
    /// How other nodes are told.
    pub pubsub: Arc<dyn PubSub>,
    /// Where to count.
    pub metrics: Arc<Metrics>,
    /// Where its tasks run; they end by themselves when the presence is dropped.
    pub tasks: TaskTracker,
}

/// What the store answered.
#[derive(Debug)]
pub enum StoreAnswer {
    /// All tables; `None` when it could not be read.
    Tables(Option<Vec<(NodeId, Vec<Record>)>>),
    /// Writes were dropped while it did not answer: everything must be written again.
    Lost,
    /// One of the tasks failed; nothing more comes of it.
    Failed,
}

/// The actor's side of the tasks. Dropping it lets them finish what waits and end.
#[derive(Debug)]
pub(super) struct Workers {
    ledger: Arc<Ledger>,
    /// Closed when they are to finish.
    doors: Option<Doors>,
    answers: mpsc::Receiver<StoreAnswer>,
    tasks: FuturesUnordered<JoinHandle<()>>,
}

#[derive(Debug)]
struct Doors {
    loads: mpsc::Sender<()>,
    messages: mpsc::Sender<Bytes>,
}

#[derive(Debug, Default)]
struct Ledger {
    pending: Mutex<Pending>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    /// The newest wish per field: a text to put, or none to remove.
    writes: BTreeMap<Field, Option<String>>,
    /// Whether writes were dropped.
    lost: bool,
    closed: bool,
}

impl Workers {
    pub(super) fn start(project: ProjectId, node: NodeId, table_ttl: Duration, around: &Surroundings) -> Self {
        Self::start_after(std::future::ready(()), project, node, table_ttl, around)
    }

    /// New tasks in place of these, which finish what waits as far as [`FINISH_WITHIN`] reaches. The new ones write and read
    /// after that: else the last of the old could write over what the first of the new wrote. Nobody waits for it.
    pub(super) fn start_anew(&mut self, project: ProjectId, node: NodeId, table_ttl: Duration, around: &Surroundings) {
        let finished = CancellationToken::new();
        let (former, done) = (self.end(), finished.clone().drop_guard());
        around.tasks.spawn(async move {
            former.await;
            drop(done);
        });
        *self = Self::start_after(finished.cancelled_owned(), project, node, table_ttl, around);
    }

    fn start_after(
        turn: impl Future<Output = ()> + Send + 'static,
        project: ProjectId,
        node: NodeId,
        table_ttl: Duration,
        around: &Surroundings,
    ) -> Self {
        let turn = turn.shared();
        let ledger = Arc::new(Ledger::default());
        let (loads, wanted) = mpsc::channel(1);
        let (messages, outgoing) = mpsc::channel(MESSAGES_MAX);
        let (answer, answers) = mpsc::channel(4);
        let keeper = Keeper { project, node, table_ttl, store: Arc::clone(&around.store), answer: answer.clone() };
        let tasks = FuturesUnordered::from_iter([
            around.tasks.spawn(turn.clone().then({
                let ledger = Arc::clone(&ledger);
                |()| keeper.run(ledger)
            })),
            around.tasks.spawn(turn.then({
                let store = Arc::clone(&around.store);
                move |()| read(project, store, wanted, answer)
            })),
            around.tasks.spawn(speak(project, Arc::clone(&around.pubsub), outgoing)),
        ]);
        Self { ledger, doors: Some(Doors { loads, messages }), answers, tasks }
    }

    pub(super) fn put(&self, node: NodeId, connection: ConnectionId, text: String) {
        self.write(node, connection, Some(text));
    }

    pub(super) fn remove(&self, node: NodeId, connection: ConnectionId) {
        self.write(node, connection, None);
    }

    /// Asks for all tables. Answers whether that is another answer to come; if not, one is asked for already.
    pub(super) fn load(&self) -> bool {
        self.doors.as_ref().is_some_and(|doors| doors.loads.try_send(()).is_ok())
    }

    /// Publishes a message if there is room. Answers whether there was.
    pub(super) fn publish(&self, message: Bytes, is_replaceable: bool) -> bool {
        let Some(Doors { messages, .. }) = &self.doors else { return false };
        let has_room = !is_replaceable || messages.capacity() > MESSAGES_RESERVED;
        has_room && messages.try_send(message).is_ok()
    }

    /// The next answer of the store. Cancel-safe.
    pub(super) async fn answer(&mut self) -> StoreAnswer {
        tokio::select! {
            biased;
            Some(answer) = self.answers.recv() => answer,
            // None ends by itself before it is told to.
            Some(Err(_)) = self.tasks.next() => StoreAnswer::Failed,
            else => std::future::pending().await,
        }
    }

    /// Lets the tasks finish what waits. The future waits for them up to [`FINISH_WITHIN`].
    pub(super) fn end(&mut self) -> impl Future<Output = ()> + use<> {
        self.doors = None;
        self.close();
        self.answers.close();
        let mut tasks = std::mem::take(&mut self.tasks);
        async move {
            let done = async { while tasks.next().await.is_some() {} };
            if tokio::time::timeout(FINISH_WITHIN, done).await.is_err() {
                // Who is not done by then waits for a store that does not answer; its table ends with its expiry.
                tasks.iter().for_each(JoinHandle::abort);
            }
        }
    }

    fn close(&self) {
        self.ledger.lock().closed = true;
        self.ledger.changed.notify_one();
    }

    fn write(&self, node: NodeId, connection: ConnectionId, text: Option<String>) {
        let mut pending = self.ledger.lock();
        if pending.writes.len() >= WRITES_MAX {
            pending.writes.clear();
            pending.lost = true;
        }
        pending.writes.insert((node, connection), text);
        drop(pending);
        self.ledger.changed.notify_one();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.close();
    }
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Keeper {
    project: ProjectId,
    node: NodeId,
    table_ttl: Duration,
    store: Arc<dyn PresenceStore>,
    answer: mpsc::Sender<StoreAnswer>,
}

impl Keeper {
    async fn run(self, ledger: Arc<Ledger>) {
        let mut was_failing = false;
        loop {
            let (writes, lost, closed) = {
                let mut pending = ledger.lock();
                (std::mem::take(&mut pending.writes), std::mem::take(&mut pending.lost), pending.closed)
            };
            if writes.is_empty() && !lost {
                if closed {
                    return;
                }
                ledger.changed.notified().await;
                continue;
            }
            let failed = self.write(writes).await;
            if failed.is_empty() {
                was_failing = false;
                if lost && self.store.clear(self.project, &self.node).await.is_ok() {
                    // Whether anybody still wants to know is not ours to care.
                    let _ = self.answer.send(StoreAnswer::Lost).await;
                } else if lost {
                    if closed {
                        return;
                    }
                    ledger.lock().lost = true;
                    tokio::time::sleep(RETRY_AFTER).await;
                }
                continue;
            }
            if closed {
                // Nobody is left to be right for; the table ends with its expiry.
                return;
            }
            if !was_failing {
                warn!(project.id = %self.project, failed = failed.len(), "presence can't be stored, trying on");
                was_failing = true;
            }
            {
                let mut pending = ledger.lock();
                pending.lost |= lost;
                for (field, text) in failed {
                    // A newer wish is the one that counts.
                    pending.writes.entry(field).or_insert(text);
                }
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// Does the writes, several at once: each is of another connection. Answers those that failed.
    async fn write(&self, writes: BTreeMap<Field, Option<String>>) -> Vec<(Field, Option<String>)> {
        let one = |((node, connection), text): (Field, Option<String>)| async move {
            let done = match &text {
                Some(text) => self.store.put(self.project, &node, &connection, text, self.table_ttl).await,
                None => self.store.remove(self.project, &node, &connection).await,
            };
            done.is_err().then_some(((node, connection), text))
        };
        stream::iter(writes).map(one).buffer_unordered(WRITES_AT_ONCE).filter_map(std::future::ready).collect().await
    }
}

async fn read(
    project: ProjectId,
    store: Arc<dyn PresenceStore>,
    mut wanted: mpsc::Receiver<()>,
    answer: mpsc::Sender<StoreAnswer>,
) {
    while wanted.recv().await.is_some() {
        let tables = match store.load(project).await {
            Ok(tables) => Some(tables.into_iter().map(|(node, fields)| (node, records(&fields))).collect()),
            Err(error) => {
                warn!(project.id = %project, %error, "presence can't be read from the store");
                None
            }
        };
        if answer.send(StoreAnswer::Tables(tables)).await.is_err() {
            return;
        }
    }
}

fn records(fields: &[(ConnectionId, Arc<str>)]) -> Vec<Record> {
    let read = |(connection, text): &(ConnectionId, Arc<str>)| {
        let record = serde_json::from_str::<Record>(text);
        record.inspect_err(|error| warn!(connection.id = %connection, %error, "a stored presence makes no sense")).ok()
    };
    fields.iter().filter_map(read).collect()
}

async fn speak(project: ProjectId, pubsub: Arc<dyn PubSub>, mut outgoing: mpsc::Receiver<Bytes>) {
    while let Some(message) = outgoing.recv().await {
        if let Err(error) = pubsub.publish(Channel::Project(project), message).await {
            debug!(project.id = %project, %error, "a presence message is lost; a digest will repair it");
        }
    }
}
