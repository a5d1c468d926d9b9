//! Those who flood: what each of them does, at a rate of its own and without regard, and what it is told.
//!
//! A flooder reads all it is sent, as fast as it comes: one that did not would only be stopped by its own socket. When it
//! is thrown out it comes back at once. Frames are due on an open schedule; what a socket does not take in time is sent
//! later, up to a bound, so that no flooder waits forever behind its own past.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_websockets::Message;

use crate::bench::clients::presence::PresenceSocket;
use crate::bench::cluster::ground::Ground;
use crate::socket::{Ended, Inward, Link, Outward};

/// How often frames that are due are sent: as one write each time.
const BURST_INTERVAL: Duration = Duration::from_millis(5);
/// Frames in one write, whatever is due.
const BURST_MAX: u64 = 1_000;
/// Until one who was thrown out, or not let in, tries again.
const BACK_AFTER: Duration = Duration::from_millis(50);
/// How long a half-open socket is held. The node gives it up before.
const HELD_FOR: Duration = Duration::from_secs(600);
/// Half-open sockets being made at once.
const OPENING_MAX: usize = 256;
/// Different things that flooders are told; more are counted together.
const KINDS_MAX: usize = 64;

/// A way to flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Flood {
    /// One connection begins queries.
    Operations,
    /// One connection changes its status and its document.
    Presence,
    /// One connection moves its cursor.
    Cursors,
    /// One user begins queries over many connections to all nodes.
    User,
    /// Many TCP connections say nothing.
    SilentTcp,
    /// Many sockets are upgraded and say nothing.
    SilentSockets,
}

impl Flood {
    pub(super) const ALL: [Self; 6] =
        [Self::Operations, Self::Presence, Self::Cursors, Self::User, Self::SilentTcp, Self::SilentSockets];

    /// The name in reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Operations => "operations",
            Self::Presence => "presence",
            Self::Cursors => "cursors",
            Self::User => "user",
            Self::SilentTcp => "silent-tcp",
            Self::SilentSockets => "silent-sockets",
        }
    }
}

/// How hard.
#[derive(Debug, Clone, Copy)]
pub(super) struct Force {
    /// Frames per second of a flood, all its connections together.
    pub(super) frames_per_second: u32,
    /// Connections of the one user.
    pub(super) connections: usize,
    /// Connections that say nothing.
    pub(super) silent: usize,
}

/// What flooders did and were told, while they run.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) sent: AtomicU64,
    /// Connections that were made.
    pub(super) opened: AtomicU64,
    what: Mutex<BTreeMap<String, u64>>,
}

impl Told {
    fn note(&self, what: &str) {
        let mut known = self.what.lock().unwrap_or_else(PoisonError::into_inner);
        let what = if known.len() < KINDS_MAX || known.contains_key(what) { what } else { "other" };
        match known.get_mut(what) {
            Some(count) => *count += 1,
            None => drop(known.insert(what.to_owned(), 1)),
        }
    }

    /// How often they were told what.
    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        self.what.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ended(&self, ended: &Ended) {
        match ended {
            Ended::Closed { code, reason } if reason.len() <= 40 => self.note(&format!("close {code} {reason}")),
            Ended::Closed { code, .. } => self.note(&format!("close {code}")),
            Ended::Completed | Ended::Refused(_) => self.note("refused"),
            Ended::Lost(_) => self.note("connection lost or not made"),
        }
    }
}

/// A flood under way. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) told: Arc<Told>,
    _tasks: JoinSet<()>,
}

/// Who floods, and where.
#[derive(Debug, Clone)]
struct Flooder {
    url: String,
    user: String,
    token: Arc<str>,
    project: i32,
    told: Arc<Told>,
}

impl Running {
    /// Begins a flood by `user`, who is a member.
    pub(super) fn start(flood: Flood, force: Force, ground: &Ground, user: &str, token: &Arc<str>) -> Self {
        let told = Arc::new(Told::default());
        let urls = ground.urls();
        let flooder = |number: usize| Flooder {
            url: urls[number % urls.len()].clone(),
            user: user.to_owned(),
            token: Arc::clone(token),
            project: ground.project,
            told: Arc::clone(&told),
        };
        let mut tasks = JoinSet::new();
        match flood {
            Flood::Operations | Flood::Presence | Flood::Cursors => {
                let rate = f64::from(force.frames_per_second);
                tasks.spawn(flooder(0).talk(flood, rate));
            }
            Flood::User => {
                let rate = f64::from(force.frames_per_second) / force.connections as f64;
                (0..force.connections).for_each(|number| drop(tasks.spawn(flooder(number).talk(flood, rate))));
            }
            Flood::SilentTcp | Flood::SilentSockets => {
                let opening = Arc::new(tokio::sync::Semaphore::new(OPENING_MAX));
                for number in 0..force.silent {
                    tasks.spawn(flooder(number).say_nothing(flood, Arc::clone(&opening)));
                }
            }
        }
        Self { told, _tasks: tasks }
    }
}

impl Flooder {
    /// Talks without end, and comes back when it is thrown out.
    async fn talk(self, flood: Flood, rate: f64) {
        let mut number = 0;
        loop {
            match self.open(flood).await {
                Ok(link) => {
                    self.told.opened.fetch_add(1, Ordering::Relaxed);
                    let (outward, inward) = link.split();
                    let ended = tokio::select! {
                        ended = self.listen(inward) => ended,
                        ended = self.send(flood, rate, outward, &mut number) => ended,
                    };
                    self.told.ended(&ended);
                }
                Err(ended) => self.told.ended(&ended),
            }
            sleep(BACK_AFTER).await;
        }
    }

    async fn open(&self, flood: Flood) -> Result<Link, Ended> {
        if matches!(flood, Flood::Presence | Flood::Cursors) {
            let mut socket = PresenceSocket::open(&self.url, self.project, &self.token).await?;
            socket.join(&self.user, "flood-0").await?;
            return Ok(socket.into_link());
        }
        let mut link = Link::open_graphql(&self.url).await?;
        link.greet(&self.token).await?;
        Ok(link)
    }

    async fn send(&self, flood: Flood, rate: f64, mut outward: Outward, number: &mut u64) -> Ended {
        let mut ticks = interval(BURST_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (began, mut sent) = (Instant::now(), 0);
        let lost = |error: tokio_websockets::Error| Ended::Lost(error.to_string());
        loop {
            ticks.tick().await;
            let due = (began.elapsed().as_secs_f64() * rate) as u64;
            let burst = due.saturating_sub(sent).min(BURST_MAX);
            for _ in 0..burst {
                *number += 1;
                if let Err(error) = outward.feed(Message::text(frame(flood, *number))).await {
                    return lost(error);
                }
            }
            if let Err(error) = outward.flush().await {
                return lost(error);
            }
            // What is more than a burst behind is given up.
            sent = due.saturating_sub(BURST_MAX).max(sent + burst);
            self.told.sent.fetch_add(burst, Ordering::Relaxed);
        }
    }

    /// Reads all that comes, and counts refusals.
    async fn listen(&self, mut inward: Inward) -> Ended {
        while let Some(message) = inward.next().await {
            match message {
                Err(error) => return Ended::Lost(error.to_string()),
                Ok(message) => {
                    if let Some((code, reason)) = message.as_close() {
                        return Ended::Closed { code: u16::from(code), reason: reason.to_owned() };
                    }
                    if let Some(code) = message.as_text().and_then(code_in) {
                        self.told.note(code);
                    }
                }
            }
        }
        Ended::Closed { code: 1006, reason: "the connection broke".into() }
    }

    /// Connects and says nothing, again and again.
    async fn say_nothing(self, flood: Flood, opening: Arc<tokio::sync::Semaphore>) {
        loop {
            let ended = {
                let permit = opening.acquire().await;
                match flood {
                    Flood::SilentSockets => match Link::open_graphql(&self.url).await {
                        Ok(link) => {
                            drop(permit);
                            self.told.opened.fetch_add(1, Ordering::Relaxed);
                            let (_outward, inward) = link.split();
                            self.listen(inward).await
                        }
                        Err(ended) => ended,
                    },
                    _ => match TcpStream::connect(self.url.trim_start_matches("http://")).await {
                        Ok(mut stream) => {
                            drop(permit);
                            self.told.opened.fetch_add(1, Ordering::Relaxed);
                            until_closed(&mut stream).await
                        }
                        Err(error) => Ended::Lost(error.to_string()),
                    },
                }
            };
            self.told.ended(&ended);
            sleep(BACK_AFTER).await;
        }
    }
}

/// Waits until the node has enough of it.
async fn until_closed(stream: &mut TcpStream) -> Ended {
    let mut heard = [0; 256];
    let said = tokio::time::timeout(HELD_FOR, stream.read(&mut heard)).await;
    match said {
        Ok(Ok(length)) if heard[..length].starts_with(b"HTTP/1.1 503") => {
            Ended::Closed { code: 503, reason: "at the TCP connection".into() }
        }
        _ => Ended::Closed { code: 1006, reason: "a silent TCP connection".into() },
    }
}

fn frame(flood: Flood, number: u64) -> String {
    let place = number % 100;
    let value = match flood {
        Flood::Presence if number.is_multiple_of(2) => {
            json!({ "type": "update_status", "data": { "status": if place < 50 { "away" } else { "active" } } })
        }
        Flood::Presence => {
            json!({ "type": "switch_document", "data": { "documentId": format!("flood-{place}"), "documentType": "canvas" } })
        }
        Flood::Cursors => {
            let position = json!({ "type": "canvas", "x": place, "y": place });
            json!({ "type": "cursor_update", "data": {
                "documentId": "flood-0", "documentType": "canvas", "position": position, "timestamp": number,
            } })
        }
        _ => json!({ "type": "subscribe", "id": number.to_string(), "payload": { "query": "{ me { id name } }" } }),
    };
    value.to_string()
}

/// The code of the first error in a frame, if it has one.
fn code_in(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("\"code\":\"")?;
    rest.split_once('"').map(|(code, _)| code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_by_its_code() {
        let refused = r#"{"type":"error","id":"1","payload":[{"message":"m","extensions":{"code":"RATE_LIMITED"}}]}"#;
        assert_eq!(code_in(refused), Some("RATE_LIMITED"));
        assert_eq!(code_in(r#"{"type":"next","id":"1","payload":{"data":{"me":{"id":"x"}}}}"#), None);
    }

    #[test]
    fn what_flooders_are_told_is_counted_by_kind_and_kinds_are_bounded() {
        let told = Told::default();
        told.ended(&Ended::Closed { code: 1013, reason: "overloaded".into() });
        told.ended(&Ended::Closed { code: 1013, reason: "overloaded".into() });
        assert_eq!(told.counts(), BTreeMap::from([("close 1013 overloaded".to_owned(), 2)]));
        (0..1_000).for_each(|number| told.note(&number.to_string()));
        assert!(told.counts().len() <= KINDS_MAX + 1);
    }

    #[test]
    fn frames_are_what_they_should_be() {
        for flood in Flood::ALL {
            let text = frame(flood, 7);
            serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
        }
        assert!(frame(Flood::Cursors, 1).contains("cursor_update"));
        assert!(frame(Flood::Operations, 1).contains("subscribe"));
    }
}
