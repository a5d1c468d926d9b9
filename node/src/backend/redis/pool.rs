//! The bulkhead: a few connections of their own for what is large, such as pages of a log and snapshots.
//!
//! A thousand resumes after a node's death queue here and not in front of edits. Whoever waits too long for a
//! connection is told [`Error::Busy`]. A connection that failed once is closed, and the next caller makes another.

use std::future::Future;
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{Manager, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult, TimeoutType};
use fred::clients::Client;
use fred::error::Error as FredError;
use fred::interfaces::{ClientLike, FredResult};
use fred::types::{Builder, ConnectHandle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{CONNECT_TIMEOUT, timed, translate};
use crate::backend::{Error, Result};

/// Connections for large reads and writes. Redis serves one command at a time anyway.
const READERS_MAX: usize = 4;
/// How long to wait for one of them. Then [`Error::Busy`].
const WAIT_TIMEOUT: Duration = Duration::from_millis(500);

/// The pool. Connections are made when they are first needed.
pub(super) type Readers = Pool<Connections>;

/// Makes the pool; it is closed when `stop` is cancelled.
pub(super) fn readers(builder: Builder, tasks: &TaskTracker, stop: &CancellationToken) -> Readers {
    let pool = Pool::builder(Connections { builder })
        .max_size(READERS_MAX)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(WAIT_TIMEOUT))
        .create_timeout(Some(2 * CONNECT_TIMEOUT))
        .build()
        .expect("a pool with timeouts has a runtime");
    let (closing, stop) = (pool.clone(), stop.clone());
    tasks.spawn(async move {
        stop.cancelled().await;
        closing.close();
    });
    pool
}

/// Runs a command on one of the pool's connections.
pub(super) async fn aside<T, F>(readers: &Readers, name: &'static str, command: impl FnOnce(Client) -> F) -> Result<T>
where
    F: Future<Output = FredResult<T>> + Send,
{
    let reader = readers.get().await.map_err(|error| refused(name, error))?;
    let answer = timed(name, command(reader.client.clone())).await;
    if let Err(Error::Unavailable(_)) = answer {
        drop(Object::take(reader));
    }
    answer
}

fn refused(name: &'static str, error: PoolError<FredError>) -> Error {
    match error {
        PoolError::Timeout(TimeoutType::Wait) => {
            Error::Busy(format!("{name}: {READERS_MAX} large reads are under way"))
        }
        PoolError::Backend(error) => translate(name, &error),
        other => Error::Unavailable(format!("{name}: {other}")),
    }
}

/// Makes connections.
pub(super) struct Connections {
    builder: Builder,
}

/// A connection of the pool. Dropping it closes it.
pub(super) struct Reader {
    client: Client,
    connection: ConnectHandle,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Manager for Connections {
    type Type = Reader;
    type Error = FredError;

    async fn create(&self) -> FredResult<Reader> {
        let client = self.builder.build()?;
        let connection = client.init().await?;
        Ok(Reader { client, connection })
    }

    async fn recycle(&self, reader: &mut Reader, _: &Metrics) -> RecycleResult<FredError> {
        if reader.client.is_connected() { Ok(()) } else { Err(RecycleError::message("the connection was lost")) }
    }
}
