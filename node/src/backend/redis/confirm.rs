//! Waiting until replicas have what was added.
//!
//! `WAIT` holds up whatever comes after it on its connection, so it has one of its own. Operations that are asked about
//! meanwhile wait together: one `WAIT` is an answer to all of them. That the primary still has an entry is looked at right
//! before, on the same connection; between the commit and this another server may have taken its place.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use fred::clients::Client;
use fred::error::{Error as FredError, ErrorKind};
use fred::interfaces::{ClientLike, EventInterface, FredResult, FunctionInterface};
use fred::types::config::Options;
use fred::types::{Builder, ClusterHash, CustomCommand, Value};
use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::functions::CONFIRM;
use super::line::forget;
use super::link::Link;
use super::server::here;
use super::watchdog;

/// Operations that are asked about together.
const TOGETHER_MAX: usize = 256;
/// Operations that wait to be asked about, at one server. Beyond it the next wait to get in. All of them within their own time.
const WAITING_MAX: usize = 4_096;
/// What a replica may take is the server's to watch; its answer may come so much later.
const ANSWER_GRACE: Duration = Duration::from_secs(1);

/// When an edit is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AckLevel {
    /// When the primary has it.
    #[default]
    Applied,
    /// When so many of its replicas have it, too.
    Replicated(NonZeroU32),
}

/// What an acknowledgement needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Who must have it.
    pub level: AckLevel,
    /// How long replicas may take.
    pub timeout: Duration,
}

impl FromStr for AckLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let replicas = text.strip_prefix("replicated:").and_then(|number| number.parse().ok());
        match (text, replicas) {
            ("applied", _) => Ok(Self::Applied),
            (_, Some(replicas)) => Ok(Self::Replicated(replicas)),
            _ => Err("expected applied, or replicated:N with N from 1".to_owned()),
        }
    }
}

impl std::fmt::Display for AckLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Applied => f.write_str("applied"),
            Self::Replicated(replicas) => write!(f, "replicated:{replicas}"),
        }
    }
}

/// Whether replicas have an entry.
pub(super) struct Question {
    /// `confirm`'s keys and arguments.
    pub(super) keys: Vec<String>,
    pub(super) args: Vec<Value>,
    /// The plan is on its way to this server.
    pub(super) is_asking: bool,
}

struct Asked {
    question: Question,
    reply: oneshot::Sender<FredResult<bool>>,
}

/// Asks one server. Ends with it.
pub(super) struct Confirmer(mpsc::Sender<Asked>);

impl Confirmer {
    pub(super) async fn open(
        builder: &Builder,
        replicas: NonZeroU32,
        timeout: Duration,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> FredResult<Self> {
        let client = builder.build()?;
        let link = Link::make(client.clone()).await?;
        tasks.spawn(link.leave_when_stopped(stop.clone()));
        let (sender, questions) = mpsc::channel(WAITING_MAX);
        let stop = stop.clone();
        tasks.spawn(async move { stop.run_until_cancelled(serve(client, replicas, timeout, questions)).await });
        Ok(Self(sender))
    }

    /// Whether the entry is there, and as many replicas have it as must.
    ///
    /// # Errors
    /// What the server says; `Canceled` if it was left.
    pub(super) async fn ask(&self, question: Question) -> FredResult<bool> {
        let left = || FredError::new(ErrorKind::Canceled, "the server was left");
        let (reply, answer) = oneshot::channel();
        self.0.send(Asked { question, reply }).await.map_err(|_| left())?;
        answer.await.unwrap_or_else(|_| Err(left()))
    }
}

async fn serve(client: Client, replicas: NonZeroU32, timeout: Duration, mut questions: mpsc::Receiver<Asked>) {
    let (mut losses, mut reconnects) = (client.error_rx(), client.reconnect_rx());
    let mut together = Vec::with_capacity(TOGETHER_MAX);
    while questions.recv_many(&mut together, TOGETHER_MAX).await > 0 {
        // Whoever asked may have given up.
        together.retain(|asked: &Asked| !asked.reply.is_closed());
        forget(&mut reconnects);
        forget(&mut losses);
        let found = join_all(together.iter().map(|asked| look(&client, &asked.question))).await;
        let is_any_there = found.iter().any(|found| matches!(found, Ok(1)));
        let mut have = if is_any_there { wait(&client, replicas, timeout).await } else { Ok(0) };
        // To a connection on which nothing was written, WAIT says at once how many replicas there are.
        if !(losses.is_empty() && reconnects.is_empty()) {
            have = Err(FredError::new(ErrorKind::Canceled, "the connection was made anew meanwhile"));
        }
        let is_late = |error: &FredError| *error.kind() == ErrorKind::Timeout;
        if have.as_ref().is_err_and(is_late) || found.iter().any(|found| found.as_ref().is_err_and(is_late)) {
            // Nobody else watches this connection.
            watchdog::reconnect(&client).await;
        }
        let is_enough = have.map(|have| have >= i64::from(replicas.get()));
        for (Asked { reply, .. }, found) in together.drain(..).zip(found) {
            let _ = reply.send(found.and_then(|found| if found == 1 { is_enough.clone() } else { Ok(false) }));
        }
    }
}

/// Whether the entry is there.
async fn look(client: &Client, question: &Question) -> FredResult<i64> {
    let Question { keys, args, is_asking } = question;
    let (keys, args) = (keys.clone(), args.clone());
    if !is_asking {
        return client.fcall(CONFIRM.0, keys, args).await;
    }
    // Nothing comes between commands that are sent as one.
    let both = client.pipeline();
    both.custom::<Value, Value>(here("asking"), Vec::new()).await?;
    both.fcall::<Value, _, _, _>(CONFIRM.0, keys, args).await?;
    both.last().await
}

/// How many replicas have all that was written before.
async fn wait(client: &Client, replicas: NonZeroU32, timeout: Duration) -> FredResult<i64> {
    let patience = Options { timeout: Some(timeout + ANSWER_GRACE), ..Options::default() };
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let words: Vec<Value> = vec![replicas.to_string().into(), timeout_ms.to_string().into()];
    // The library must know that it may take long: it gives up connections that are silent for a second.
    client.with_options(&patience).custom(CustomCommand::new_static("wait", ClusterHash::Random, true), words).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_read_as_it_is_written() {
        for text in ["applied", "replicated:1", "replicated:3"] {
            assert_eq!(text.parse::<AckLevel>().map(|level| level.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "replicated", "replicated:", "replicated:0", "replicated:-1", "Applied", "replicated:x"] {
            assert!(text.parse::<AckLevel>().is_err(), "{text}");
        }
    }
}
