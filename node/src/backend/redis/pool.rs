//! The bulkheads: a few connections of their own for what is large, such as pages of a log and snapshots.
//!
//! There are two, which share nothing. A thousand resumes after a node's death queue in one, in front of neither edits nor
//! the reads by which a node catches up; those have the other. Whoever waits too long for a connection is told
//! [`Error::Busy`]. A connection that failed once is closed, and the next caller makes another.

use std::future::Future;
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{Manager, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult, TimeoutType};
use fred::clients::Client;
use fred::error::Error as FredError;
use fred::interfaces::{ClientLike, FredResult};
use fred::types::Builder;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::link::Link;
use super::server::Failure;
use super::{CONNECT_TIMEOUT, is_answer, translate};
use crate::backend::{Error, Lane};

/// Connections for what clients read, and for snapshots that are written. Redis serves one command at a time anyway.
const REPLAY_CONNECTIONS_MAX: usize = 4;
/// How long a client's read waits for one of them. Then [`Error::Busy`]: the client is better off with a snapshot.
const REPLAY_WAIT_TIMEOUT: Duration = Duration::from_millis(500);
/// Connections for a node that catches up. Two, so that one large plan does not hold up all the others.
const REPAIR_CONNECTIONS_MAX: usize = 2;
/// How long a repair waits for one of them. Then [`Error::Busy`], and the next head check asks again. It may take long:
/// there is one read per open plan at a time, and until it is done the plan takes no edits anyway.
const REPAIR_WAIT_TIMEOUT: Duration = Duration::from_secs(5);

/// The pools. Connections are made when they are first needed.
pub(super) struct Lanes {
    repair: Pool<Connections>,
    replay: Pool<Connections>,
}

impl Lanes {
    /// Makes the pools; they are closed when `stop` is cancelled.
    pub(super) fn open(builder: &Builder, tasks: &TaskTracker, stop: &CancellationToken) -> Self {
        let builder = patient(builder);
        let lanes = Self {
            repair: pool(builder.clone(), REPAIR_CONNECTIONS_MAX, REPAIR_WAIT_TIMEOUT),
            replay: pool(builder, REPLAY_CONNECTIONS_MAX, REPLAY_WAIT_TIMEOUT),
        };
        let (repair, replay, stop) = (lanes.repair.clone(), lanes.replay.clone(), stop.clone());
        tasks.spawn(async move {
            stop.cancelled().await;
            repair.close();
            replay.close();
        });
        lanes
    }

    /// Runs a command on one of the lane's connections.
    pub(super) async fn run<T, F>(
        &self,
        lane: Lane,
        name: &'static str,
        command: impl FnOnce(Client) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = FredResult<T>> + Send,
    {
        let pool = match lane {
            Lane::Repair => &self.repair,
            Lane::Replay => &self.replay,
        };
        let reader = pool.get().await.map_err(|error| refused(name, lane, error))?;
        let answer = command(Client::clone(&reader)).await;
        if answer.as_ref().is_err_and(|error| !is_answer(error)) {
            drop(Object::take(reader));
        }
        answer.map_err(Failure::Told)
    }
}

/// The client library cuts a connection whose answer is not whole in time, also while it comes: a large one takes as long as it
/// takes, within the time of a command. A connection that is dead is closed by the command that it fails.
fn patient(builder: &Builder) -> Builder {
    let mut builder = builder.clone();
    builder.with_connection_config(|connection| connection.unresponsive.max_timeout = None);
    builder
}

fn pool(builder: Builder, connections_max: usize, wait_timeout: Duration) -> Pool<Connections> {
    Pool::builder(Connections { builder })
        .max_size(connections_max)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(wait_timeout))
        .create_timeout(Some(2 * CONNECT_TIMEOUT))
        .build()
        .expect("a pool with timeouts has a runtime")
}

fn refused(name: &'static str, lane: Lane, error: PoolError<FredError>) -> Failure {
    Failure::Refused(match error {
        PoolError::Timeout(TimeoutType::Wait) => Error::Busy(format!("{name}: too many reads of the lane {lane:?}")),
        PoolError::Backend(error) => translate(name, &error),
        other => Error::Unavailable(format!("{name}: {other}")),
    })
}

/// Makes connections.
struct Connections {
    builder: Builder,
}

impl Manager for Connections {
    type Type = Link<Client>;
    type Error = FredError;

    async fn create(&self) -> FredResult<Link<Client>> {
        Link::make(self.builder.build()?).await
    }

    async fn recycle(&self, reader: &mut Link<Client>, _: &Metrics) -> RecycleResult<FredError> {
        if reader.is_connected() { Ok(()) } else { Err(RecycleError::message("the connection was lost")) }
    }
}

#[cfg(test)]
mod tests {
    use fred::interfaces::KeysInterface as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::RedisSettings;
    use super::super::access::{Access, Address};
    use super::*;

    /// Pieces of a large answer.
    const PIECES: usize = 15;
    const PIECE_BYTES: usize = 64 * 1024;
    /// Time between two of them: all take longer than a connection may be silent, and less than a command may take.
    const PIECE_INTERVAL: Duration = Duration::from_millis(100);

    /// A server over a slow line: it answers GET with pieces of a large text, one after the other.
    async fn slow_server() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket));
            }
        });
        port
    }

    async fn serve(mut socket: TcpStream) -> std::io::Result<()> {
        let mut asked = [0; 4_096];
        while let length @ 1.. = socket.read(&mut asked).await? {
            let asked = String::from_utf8_lossy(&asked[..length]).to_uppercase();
            if asked.contains("HELLO") {
                socket.write_all(b"%1\r\n+server\r\n+redis\r\n").await?;
            } else if asked.contains("\r\nGET\r\n") {
                socket.write_all(format!("${}\r\n", PIECES * PIECE_BYTES).as_bytes()).await?;
                let mut pace = tokio::time::interval(PIECE_INTERVAL);
                for _ in 0..PIECES {
                    pace.tick().await;
                    socket.write_all(&[b'x'; PIECE_BYTES]).await?;
                }
                socket.write_all(b"\r\n").await?;
            } else {
                socket.write_all(b"+OK\r\n").await?;
            }
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_large_answer_over_a_slow_line_comes_whole() {
        let port = slow_server().await;
        let settings = RedisSettings {
            command_timeout: Duration::from_secs(10),
            ..RedisSettings::at(format!("redis://127.0.0.1:{port}"))
        };
        let access = Access::of(&settings).expect("an address");
        let builder = access.to(&Address { host: "127.0.0.1".into(), port });
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let lanes = Lanes::open(&builder, &tasks, &stop);
        let read = |client: Client| async move { client.get::<String, _>("plan").await };
        let answer = lanes.run(Lane::Replay, "get", read).await.expect("an answer");
        assert_eq!(answer.len(), PIECES * PIECE_BYTES);
        stop.cancel();
    }
}
