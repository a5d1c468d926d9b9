//! Short questions to servers and sentinels that we do not work with: who serves what.
//!
//! One connection each, kept as long as it answers, if only by a refusal. One that failed is dropped, and the next question
//! makes another, so a connection that is open and dead costs one question.

use std::time::Duration;

use fred::clients::Client;
use fred::error::{Error as FredError, ErrorKind};
use fred::interfaces::{ClientLike, FredResult};
use fred::types::config::Options;
use fred::types::{Builder, Value};
use tokio::time::timeout;

use super::link::Link;
use super::server::here;

/// How long a question may take.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// The same, with the connection that must be made first.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Somebody who can be asked.
pub(super) struct Scout {
    builder: Builder,
    connection: Option<Link<Client>>,
}

impl Scout {
    pub(super) fn new(builder: Builder) -> Self {
        Self { builder, connection: None }
    }

    /// Asks.
    pub(super) async fn ask(&mut self, command: &'static str, words: &[&str]) -> FredResult<Value> {
        let late = FredError::new(ErrorKind::Timeout, "no answer");
        let answer = timeout(FIRST_ANSWER_TIMEOUT, self.try_ask(command, words)).await.unwrap_or(Err(late));
        // A refusal is an answer too; the library has no name for most of them.
        if answer.as_ref().is_err_and(|error| *error.kind() != ErrorKind::Unknown) {
            self.connection = None;
        }
        answer
    }

    async fn try_ask(&mut self, command: &'static str, words: &[&str]) -> FredResult<Value> {
        let connection = match self.connection.take().filter(|connection| connection.is_connected()) {
            Some(connection) => connection,
            None => Link::make(self.builder.build()?).await?,
        };
        let answer = ask(&connection, command, words).await;
        self.connection = Some(connection);
        answer
    }
}

/// Asks a server that we are connected to, past its queue of commands.
pub(super) async fn ask(client: &Client, command: &'static str, words: &[&str]) -> FredResult<Value> {
    let patience = Options { timeout: Some(ANSWER_TIMEOUT), fail_fast: true, ..Options::default() };
    let words: Vec<Value> = words.iter().map(|word| Value::from(*word)).collect();
    client.with_options(&patience).custom(here(command), words).await
}
