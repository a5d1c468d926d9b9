//! People who move plan nodes, each over sockets of their own.
//!
//! An edit goes out as a mutation over graphql-transport-ws, and counts once it is answered with its revision. In a closed
//! loop each socket keeps a few on their way; on a schedule each edit has its time, whatever became of those before it, and
//! its latency counts from then. One that is refused for a while is sent again with its id.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use mille_shared::Revision;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until};
use tokio_websockets::Message;

use crate::bench::clients::alarm::Alarm;
use crate::client::GraphqlError;
use crate::socket::{Inward, Link, Outward};

/// Edits on their way on one socket at once, on a schedule. When so many hang, the next waits, and its latency says so.
const IN_FLIGHT_MAX: usize = 256;

/// Pause before an edit that was refused for a while is sent again, if the cluster names none.
const PAUSE: Duration = Duration::from_millis(50);

/// What an edit that is on its way gets after the end: a node that was pressed may have it come back after ten seconds, and
/// is pressed no more then.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

const MOVE: &str = "mutation Bench($project: Int!, $plan: Int, $node: String!, $to: PositionInput!, $id: String) { \
                    moved: movePlanDagNode(projectId: $project, planId: $plan, nodeId: $node, position: $to, operationId: $id) \
                    { revision } }";

/// When edits are sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// Each as soon as fewer than so many are on their way.
    Closed(usize),
    /// Each at its time: so far apart, the first one so long after the beginning.
    Open { period: Duration, phase: Duration },
}

/// When is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// From which all times are counted.
    pub(super) start: Instant,
    /// Edits before it only warm up.
    pub(super) opens: Instant,
    /// No edit is due any more.
    pub(super) closes: Instant,
}

impl Window {
    /// Whether this moment is measured.
    pub(super) fn holds(&self, due: Instant) -> bool {
        (self.opens..self.closes).contains(&due)
    }
}

/// Where a socket writes.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    /// Among all sockets; in it each edit gets a place where no other socket puts anything.
    pub(super) number: usize,
    pub(super) url: String,
    pub(super) token: Arc<str>,
    pub(super) project: i32,
    pub(super) plan: i32,
    /// Ids of plan nodes to move.
    pub(super) plan_nodes: Arc<[String]>,
    /// The number of the plan's newest revision that was answered.
    pub(super) head: Arc<AtomicU64>,
}

/// What became of a socket's edits.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Of those that were due in the window, from then to the answer.
    pub(super) latencies: Vec<Duration>,
    /// Answers with a revision that came in the window.
    pub(super) accepted: u64,
    /// Answers that sent an edit back for a while.
    pub(super) sent_back: u64,
    /// Edits without an answer.
    pub(super) unanswered: usize,
}

/// A writer's socket.
pub(super) struct Writer {
    seat: Seat,
    outward: Outward,
    inward: Inward,
    alarm: Alarm,
    /// Edits on their way, and when they were due.
    on_their_way: HashMap<u32, Instant>,
    /// Edits that were sent back, and when to send them again.
    again: VecDeque<(Instant, u32, Instant)>,
    next: u32,
    told: Told,
}

/// A message of the protocol.
#[derive(Deserialize)]
struct Incoming<'a> {
    r#type: &'a str,
    id: Option<&'a str>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Answer {
    data: Option<Data>,
    #[serde(default)]
    errors: Vec<Value>,
}

#[derive(Deserialize)]
struct Data {
    moved: Option<Moved>,
}

#[derive(Deserialize)]
struct Moved {
    revision: Revision,
}

impl Writer {
    /// Connects and shows the token.
    ///
    /// # Errors
    /// When the node does not take it.
    pub(super) async fn open(seat: Seat) -> Result<Self> {
        let refused = |ended| anyhow!("a writer can't connect: {ended:?}");
        let mut link = Link::open_graphql(&seat.url).await.map_err(refused)?;
        link.greet(&seat.token).await.map_err(refused)?;
        let (outward, inward) = link.split();
        let (alarm, told) = (Alarm::new()?, Told::default());
        Ok(Self { seat, outward, inward, alarm, on_their_way: HashMap::new(), again: VecDeque::new(), next: 0, told })
    }

    /// Writes until the window closes and all is answered.
    ///
    /// # Errors
    /// When the node closes the socket or refuses an edit for good: then the bench itself is wrong.
    pub(super) async fn run(mut self, pace: Pace, window: Window) -> Result<Told> {
        sleep_until(window.start).await;
        loop {
            let now = Instant::now();
            self.send_due(pace, window, now).await?;
            let is_over = now >= window.closes;
            if is_over && self.on_their_way.is_empty() && self.again.is_empty() {
                break;
            }
            if now >= window.closes + ANSWER_WITHIN {
                self.told.unanswered = self.on_their_way.len() + self.again.len();
                break;
            }
            let wake = self.wake(pace, window, is_over);
            tokio::select! {
                message = self.inward.next() => self.take(message, window)?,
                rung = self.alarm.ring(wake) => rung?,
            }
            // What came together is answered together.
            while let Some(message) = self.inward.next().now_or_never() {
                self.take(message, window)?;
            }
        }
        Ok(self.told)
    }

    async fn send_due(&mut self, pace: Pace, window: Window, now: Instant) -> Result<()> {
        let mut is_anything = false;
        while let Some((_, number, due)) = self.again.pop_front_if(|(when, ..)| *when <= now) {
            self.feed(number, due, window).await?;
            is_anything = true;
        }
        loop {
            let due = match pace {
                Pace::Closed(in_flight) if self.on_their_way.len() + self.again.len() < in_flight => now,
                Pace::Open { .. } if self.on_their_way.len() < IN_FLIGHT_MAX => due(pace, window, self.next),
                Pace::Closed(_) | Pace::Open { .. } => break,
            };
            if due > now || due >= window.closes {
                break;
            }
            self.feed(self.next, due, window).await?;
            self.next += 1;
            is_anything = true;
        }
        if is_anything {
            self.outward.flush().await?;
        }
        Ok(())
    }

    async fn feed(&mut self, number: u32, due: Instant, window: Window) -> Result<()> {
        self.on_their_way.insert(number, due);
        let Seat { number: seat, project, plan, plan_nodes, .. } = &self.seat;
        let node = &plan_nodes[(number as usize + seat) % plan_nodes.len()];
        let (x, y) = (number % 50_000 + 1, seat * 100 + number as usize / 50_000);
        let id = operation_id(*seat, number, due - window.start);
        let text = format!(
            r#"{{"id":"{number}","type":"subscribe","payload":{{"query":"{MOVE}","variables":{{"project":{project},"plan":{plan},"node":"{node}","to":{{"x":{x},"y":{y}}},"id":"{id}"}}}}}}"#
        );
        Ok(self.outward.feed(Message::text(text)).await?)
    }

    /// When something is to be done although nothing came.
    fn wake(&self, pace: Pace, window: Window, is_over: bool) -> Instant {
        let end = if is_over { window.closes + ANSWER_WITHIN } else { window.closes };
        let next = match pace {
            Pace::Open { .. } if !is_over && self.on_their_way.len() < IN_FLIGHT_MAX => due(pace, window, self.next),
            Pace::Closed(_) | Pace::Open { .. } => end,
        };
        let again = self.again.front().map_or(end, |(when, ..)| *when);
        end.min(next).min(again)
    }

    fn take(&mut self, message: Option<Result<Message, tokio_websockets::Error>>, window: Window) -> Result<()> {
        let Some(message) = message else { bail!("a node closed a writer's socket") };
        let message = message?;
        if let Some((code, reason)) = message.as_close() {
            bail!("a node closed a writer's socket: {} {reason}", u16::from(code));
        }
        let Some(text) = message.as_text() else { return Ok(()) };
        let incoming: Incoming<'_> = serde_json::from_str(text)?;
        let number = incoming.id.and_then(|id| id.parse::<u32>().ok());
        let (Some(number), Some(payload)) = (number, incoming.payload.map(RawValue::get)) else { return Ok(()) };
        let error = match incoming.r#type {
            "next" => {
                let answer: Answer = serde_json::from_str(payload)?;
                if let Some(moved) = answer.data.and_then(|data| data.moved) {
                    self.answered(number, moved.revision, window);
                    return Ok(());
                }
                answer.errors.into_iter().next()
            }
            "error" => serde_json::from_str::<Vec<Value>>(payload)?.into_iter().next(),
            _ => return Ok(()),
        };
        let error = GraphqlError::from_json(&error.unwrap_or_default());
        let Some(due) = self.on_their_way.remove(&number) else { return Ok(()) };
        if !error.retryable {
            return Err(anyhow::Error::new(error).context("an edit was refused"));
        }
        self.told.sent_back += 1;
        let when = Instant::now() + error.retry_after.unwrap_or(PAUSE);
        self.again.push_back((when, number, due));
        Ok(())
    }

    fn answered(&mut self, number: u32, revision: Revision, window: Window) {
        let Some(due) = self.on_their_way.remove(&number) else { return };
        let now = Instant::now();
        self.seat.head.fetch_max(revision.seq, Ordering::Relaxed);
        if window.holds(due) {
            self.told.latencies.push(now - due);
        }
        self.told.accepted += u64::from(window.holds(now));
    }
}

/// When an edit is due on a schedule. From the start, so that rounding does not add up.
fn due(pace: Pace, window: Window, number: u32) -> Instant {
    match pace {
        Pace::Closed(_) => window.start,
        Pace::Open { period, phase } => window.start + phase + period * number,
    }
}

/// An id that tells whoever sees it which socket sent the edit, and from when its latency counts.
fn operation_id(socket: usize, number: u32, due: Duration) -> String {
    format!("{socket}-{number}-{}", due.as_micros())
}

/// The socket, and from when the latency counts after the start, of an edit that this bench made.
pub(super) fn origin(operation_id: &str) -> Option<(usize, Duration)> {
    let mut parts = operation_id.split('-');
    let (socket, _, due) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?.parse().ok()?);
    Some((socket, Duration::from_micros(due)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_id_tells_where_and_when_it_began() {
        let id = operation_id(7, 31, Duration::from_micros(1_500));
        assert_eq!(origin(&id), Some((7, Duration::from_micros(1_500))));
        assert_eq!(origin("bench-3"), None);
    }

    #[test]
    fn on_a_schedule_edits_keep_their_times() {
        let start = Instant::now();
        let window = Window { start, opens: start, closes: start + Duration::from_secs(1) };
        let pace = Pace::Open { period: Duration::from_millis(3), phase: Duration::from_millis(1) };
        assert_eq!(due(pace, window, 0) - start, Duration::from_millis(1));
        assert_eq!(due(pace, window, 1_000) - start, Duration::from_millis(3_001));
        assert!(window.holds(start) && !window.holds(window.closes));
    }
}
