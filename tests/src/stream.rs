//! A reader of a graphql-sse stream: one operation, its events, its end.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::patience::within;

/// An open stream. It lasts as long as one answer of an HTTP client may take.
#[derive(Debug)]
pub struct EventStream {
    response: reqwest::Response,
    held: String,
}

impl EventStream {
    pub(crate) fn over(response: reqwest::Response) -> Self {
        Self { response, held: String::new() }
    }

    /// The next event: its name and its data. `None`: the stream is over.
    ///
    /// # Errors
    /// When none comes soon, or it can't be read.
    pub async fn next(&mut self) -> Result<Option<(String, Value)>> {
        within(crate::soon(), "an event of a stream", self.read()).await?
    }

    async fn read(&mut self) -> Result<Option<(String, Value)>> {
        loop {
            if let Some((event, rest)) = self.held.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.held = rest;
                // A line that begins with a colon only says that the stream lives.
                if !event.starts_with(':') {
                    return parsed(&event).map(Some);
                }
            }
            match self.response.chunk().await? {
                Some(bytes) => self.held.push_str(std::str::from_utf8(&bytes)?),
                None => return Ok(None),
            }
        }
    }
}

fn parsed(event: &str) -> Result<(String, Value)> {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let name = field("event").with_context(|| format!("an event without a name: {event}"))?;
    let data = field("data").with_context(|| format!("an event without data: {event}"))?;
    Ok((name.to_owned(), serde_json::from_str(data).with_context(|| format!("data that is no JSON: {event}"))?))
}
