//! People who are just there. A *guest* has a presence socket, keeps the roster as it is told, and does what a drain asks
//! of it: comes back in the time it was given, with its resume token. What it must never be told is that somebody went
//! who did not.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mille_tests::{Client, Closing, Frame, PresenceSocket, Project, eventually, patience};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::history::{Event, Recorder};
use crate::watchers::chosen_between;

/// Seconds within which some node must let a guest in.
const WELCOME_SECONDS: f64 = 20.0;

/// One guest.
#[derive(Debug)]
pub struct Guest {
    /// Their number.
    pub index: usize,
    /// Where they go.
    pub client: Client,
    /// Whose project it is.
    pub project: Project,
    /// Where it is written down.
    pub recorder: Recorder,
    /// Whether all are there: from then on nobody comes or goes.
    pub complete: watch::Receiver<bool>,
    /// Whether it is over.
    pub stop: watch::Receiver<bool>,
    /// Who is online, as far as they were told.
    pub online: BTreeSet<String>,
    /// What takes their place back.
    pub resume_token: Option<String>,
}

impl Guest {
    /// Stays until the end, on however many sockets.
    ///
    /// # Errors
    /// When nobody lets them in, or what they are told makes no sense.
    pub async fn stay(mut self) -> Result<()> {
        loop {
            let socket = eventually(patience(WELCOME_SECONDS), async || {
                PresenceSocket::connect(&self.client, self.project.id).await
            })
            .await
            .with_context(|| format!("nobody lets guest {} in", self.index))?;
            let Some((closing, hint)) = self.listen(socket).await? else { return Ok(()) };
            let is_hinted = hint.is_some();
            self.recorder.note(Event::Moved { guest: self.index, code: closing.code, is_hinted });
            tokio::time::sleep(hint.unwrap_or_default()).await;
        }
    }

    /// Until the socket ends: how, and when to come back if that was said. `None`: it is over.
    async fn listen(&mut self, mut socket: PresenceSocket) -> Result<Option<(Closing, Option<Duration>)>> {
        let (name, token) = (self.client.user().to_owned(), self.resume_token.clone());
        let join = json!({"userId": name, "userName": name, "avatarColor": "#336699", "resumeToken": token});
        socket.send("join_session", join).await?;
        let mut hint = None;
        loop {
            let frame = tokio::select! {
                frame = socket.raw().next() => frame,
                stopped = self.stop.wait_for(|stop| *stop) => {
                    stopped.context("the scenario ended without an end")?;
                    return Ok(None);
                }
            };
            match frame {
                Frame::Text(text) => {
                    let message: Value = serde_json::from_str(&text)?;
                    let data = &message["data"];
                    match message["type"].as_str() {
                        Some("welcome") => self.resume_token = data["resumeToken"].as_str().map(str::to_owned),
                        Some("bulk_presence") => self.see_all(data.as_array().context("a roster")?),
                        Some("user_presence") => self.see(data),
                        Some("reconnect") => hint = Some(chosen_between(&data["minMs"], &data["maxMs"])),
                        Some("error") => bail!("guest {} is told {text}", self.index),
                        _ => {}
                    }
                }
                Frame::Control => {}
                Frame::Binary(_) => bail!("guest {} is sent a binary frame", self.index),
                Frame::Closed(closing) => return Ok(Some((closing, hint))),
            }
        }
    }

    fn see_all(&mut self, roster: &[Value]) {
        let told = roster.iter().filter(|presence| presence["isOnline"] == true).filter_map(user_of).collect();
        let before = std::mem::replace(&mut self.online, told);
        if *self.complete.borrow() && self.online != before {
            let missing: Vec<&String> = before.symmetric_difference(&self.online).collect();
            self.flicker(format!("another roster after a reconnect: {missing:?}"));
        }
        self.recorder.note(Event::Met { guest: self.index, people: self.online.len() });
    }

    fn see(&mut self, presence: &Value) {
        let Some(user) = user_of(presence) else { return self.flicker(format!("nobody's presence: {presence}")) };
        let is_online = presence["isOnline"] == true;
        let is_news = match is_online {
            true => self.online.insert(user.clone()),
            false => self.online.remove(&user),
        };
        if is_news && *self.complete.borrow() {
            self.flicker(format!("{user} {}", if is_online { "came" } else { "went" }));
        }
        self.recorder.note(Event::Met { guest: self.index, people: self.online.len() });
    }

    fn flicker(&self, what: String) {
        self.recorder.note(Event::Flickered { guest: self.index, what });
    }
}

fn user_of(presence: &Value) -> Option<String> {
    presence["userId"].as_str().map(str::to_owned)
}
