//! Subscribers that cost next to nothing: they look at a frame's head and at a few bytes of it.
//!
//! Of each event they read its kind, its revision, the one before, and the number of the edit in its operation id; the JSON
//! is not parsed. That is enough to say of each subscriber what it lost, what it got twice, and whether all came in order,
//! and of each delivery how long it took from when its edit was due. A subscriber that a bench wants to come back after a
//! loss is another one: `subscribers`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, anyhow};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hdrhistogram::Histogram;
use mille_shared::Revision;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::course::{Course, Times};
use super::stage::{CLIENT_ID, Stage};
use super::wire::{self, Field, Inbox, Outbox, contains, number, text_frame};
use crate::bench::clients::sequence::{Event, Sequence};
use crate::bench::clients::subscribers::DELTAS_WHOLE;
use crate::bench::report::Faults;

/// Sockets being opened at once.
const OPENING_MAX: usize = 64;

/// Histograms that listeners share. One for each would be gigabytes.
const SHARES: usize = 8;

/// Everyone who listens at one side of a comparison.
#[derive(Debug)]
pub(super) struct Listeners {
    tally: Arc<Tally>,
    tasks: JoinSet<()>,
}

/// What all of them saw, while they see more.
#[derive(Debug)]
struct Tally {
    deliveries: AtomicU64,
    /// Of whole frames.
    bytes: AtomicU64,
    seats: Vec<Seat>,
    times: [Mutex<Times>; SHARES],
    /// Why the first socket that ended did.
    ended: Mutex<Option<String>>,
}

/// What one of them saw since it was asked last.
#[derive(Debug, Default)]
struct Seat {
    events: AtomicU64,
    lost: AtomicU64,
    duplicates: AtomicU64,
    snapshots: AtomicU64,
}

impl Listeners {
    /// Opens `stage.listeners()` subscriptions, those of one plan spread over all nodes.
    ///
    /// # Errors
    /// When one can't be opened: a bench with fewer would measure something else.
    pub(super) async fn open(stage: &Stage, course: &watch::Receiver<Course>) -> Result<Self> {
        let mut times = Vec::with_capacity(SHARES);
        for _ in 0..SHARES {
            times.push(Mutex::new(Times::new()?));
        }
        let tally = Arc::new(Tally {
            deliveries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            seats: (0..stage.listeners()).map(|_| Seat::default()).collect(),
            times: times.try_into().map_err(|_| anyhow!("a number of histograms that is none"))?,
            ended: Mutex::new(None),
        });
        let opened = (0..stage.listeners()).map(|seat| async move {
            let (inbox, mut outbox) = wire::open(stage.url(seat), stage.listener_token(seat), CLIENT_ID).await?;
            let place = stage.place_of(seat);
            let subscribe = json!({
                "id": "1",
                "type": "subscribe",
                "payload": {
                    "query": DELTAS_WHOLE,
                    "variables": { "projectId": place.project, "planId": place.plan },
                },
            });
            outbox.send(&text_frame(&subscribe.to_string())).await?;
            anyhow::Ok((seat, inbox, outbox))
        });
        let mut opened = stream::iter(opened).buffer_unordered(OPENING_MAX);
        let mut tasks = JoinSet::new();
        while let Some((seat, inbox, outbox)) = opened.try_next().await? {
            let order = if stage.is_numbered() { Order::Begins } else { Order::Unknown };
            let listener = Listener { seat, order, tally: Arc::clone(&tally), course: course.clone() };
            tasks.spawn(listener.listen(inbox, outbox));
        }
        drop(opened);
        Ok(Self { tally, tasks })
    }

    /// Events that came so far.
    pub(super) fn deliveries(&self) -> u64 {
        self.tally.deliveries.load(Ordering::Relaxed)
    }

    /// The size of a frame, head and all: the mean.
    pub(super) fn frame_bytes(&self) -> u64 {
        self.tally.bytes.load(Ordering::Relaxed) / self.deliveries().max(1)
    }

    /// Whether each has got something since they were asked last.
    pub(super) fn all_have_heard(&self) -> bool {
        self.tally.seats.iter().all(|seat| seat.events.load(Ordering::Relaxed) > 0)
    }

    /// Why the first of those who listen no longer lost its socket.
    pub(super) fn ended(&self) -> Option<String> {
        self.tally.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What came since they were asked last, when each should have had `due(seat)` events; then they count from nothing.
    pub(super) fn take(&self, due: impl Fn(usize) -> u64, numbered: bool) -> Result<(Faults, Histogram<u64>)> {
        let mut faults = Faults::default();
        for (place, seat) in self.tally.seats.iter().enumerate() {
            let taken = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
            let (events, lost, duplicates) = (taken(&seat.events), taken(&seat.lost), taken(&seat.duplicates));
            let once = events - duplicates;
            // What is missing at the end left no hole in the numbers.
            faults.lost += lost.max(due(place).saturating_sub(once));
            faults.duplicates += if numbered { duplicates } else { once.saturating_sub(due(place)) };
            faults.snapshots += taken(&seat.snapshots);
        }
        let mut all = Times::new()?.0;
        for times in &self.tally.times {
            let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
            all.add(&times.0)?;
            times.0.reset();
        }
        Ok((faults, all))
    }

    /// Ends them, without a word to anybody.
    pub(super) async fn close(mut self) {
        self.tasks.shutdown().await;
    }
}

struct Listener {
    seat: usize,
    order: Order,
    tally: Arc<Tally>,
    course: watch::Receiver<Course>,
}

impl Listener {
    async fn listen(mut self, mut inbox: Inbox, mut outbox: Outbox) {
        let mut fields = Fields::new();
        let mut batch = Batch::default();
        loop {
            let read = inbox.read(|text| batch.take(text, &mut fields, &mut self.order)).await;
            if let Err(error) = read {
                let mut ended = self.tally.ended.lock().unwrap_or_else(PoisonError::into_inner);
                ended.get_or_insert_with(|| format!("{error:#}"));
                return;
            }
            self.note(&mut batch);
            let pong = std::mem::take(&mut batch.asked).then(|| text_frame("{\"type\":\"pong\"}"));
            for frames in pong.into_iter().chain(inbox.take_pongs()) {
                // Where the socket is gone, the next read says so.
                drop(outbox.send(&frames).await);
            }
        }
    }

    fn note(&mut self, batch: &mut Batch) {
        if batch.events == 0 {
            return;
        }
        // Not before the read, which may have waited for an edit of the next course.
        let (now, course) = (Instant::now(), *self.course.borrow());
        let mut times = self.tally.times[self.seat % SHARES].lock().unwrap_or_else(PoisonError::into_inner);
        for lateness in batch.numbers.drain(..).filter_map(|number| course.lateness(number, now)) {
            times.note(lateness);
        }
        drop(times);
        let seat = &self.tally.seats[self.seat];
        if let Order::Kept(sequence) = &mut self.order {
            seat.lost.fetch_add(std::mem::take(&mut sequence.lost), Ordering::Relaxed);
            seat.duplicates.fetch_add(std::mem::take(&mut sequence.duplicates), Ordering::Relaxed);
            seat.snapshots.fetch_add(std::mem::take(&mut sequence.snapshots), Ordering::Relaxed);
        }
        seat.lost.fetch_add(std::mem::take(&mut batch.unreadable), Ordering::Relaxed);
        self.tally.bytes.fetch_add(std::mem::take(&mut batch.bytes), Ordering::Relaxed);
        let events = std::mem::take(&mut batch.events);
        seat.events.fetch_add(events, Ordering::Relaxed);
        self.tally.deliveries.fetch_add(events, Ordering::Relaxed);
    }
}

/// What is known of the order of events.
#[derive(Debug)]
enum Order {
    /// Events say nothing of it.
    Unknown,
    /// The first event says where it begins.
    Begins,
    Kept(Sequence),
}

/// What one read brought.
#[derive(Debug, Default)]
struct Batch {
    events: u64,
    bytes: u64,
    /// Numbers of the edits that were told.
    numbers: Vec<u64>,
    /// Messages that are no event as it should be: a refusal, or one without a revision.
    unreadable: u64,
    /// The other side asked whether we are there.
    asked: bool,
}

/// Where in an event is what.
struct Fields {
    next: Field,
    kind: Field,
    revision: Field,
    previous: Field,
    operation: Field,
}

impl Fields {
    fn new() -> Self {
        Self {
            next: Field::new(b"\"type\":\"next\""),
            kind: Field::new(b"\"kind\":\""),
            revision: Field::new(b"\"revision\":\""),
            previous: Field::new(b"\"previousRevision\":\""),
            operation: Field::new(b"\"operationId\":\"bench-"),
        }
    }
}

impl Batch {
    fn take(&mut self, text: &[u8], fields: &mut Fields, order: &mut Order) {
        if fields.next.find(text).is_none() {
            self.asked |= contains(text, b"\"type\":\"ping\"");
            self.unreadable += u64::from(contains(text, b"\"type\":\"error\"") || contains(text, b"\"complete\""));
            return;
        }
        self.events += 1;
        self.bytes += wire::frame_bytes(text.len()) as u64;
        self.numbers.extend(fields.operation.find(text).and_then(number).map(|found| found.0));
        if matches!(order, Order::Unknown) {
            return;
        }
        let previous = fields.previous.find(text).and_then(revision);
        let Some(revision) = fields.revision.find(text).and_then(revision) else {
            self.unreadable += 1;
            return;
        };
        if let (Order::Begins, Some(previous)) = (&order, previous) {
            *order = Order::Kept(Sequence::new(previous));
        }
        if let Order::Kept(sequence) = order {
            let is_snapshot = fields.kind.find(text).is_none_or(|kind| kind.starts_with(b"SNAPSHOT"));
            sequence.note(&Event::of(is_snapshot, revision, previous));
        }
    }
}

/// `7-5"…`
fn revision(text: &[u8]) -> Option<Revision> {
    let (epoch, rest) = number(text)?;
    let (seq, _) = number(rest.strip_prefix(b"-")?)?;
    Some(Revision { epoch, seq })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: &str, previous: &str, number: u32) -> String {
        format!(
            "{{\"id\":\"1\",\"type\":\"next\",\"payload\":{{\"data\":{{\"event\":{{\"kind\":\"DELTA\",\"revision\":\"{revision}\",\
             \"previousRevision\":\"{previous}\",\"operationId\":\"bench-{number}\",\"operations\":[]}}}}}}}}"
        )
    }

    fn heard(texts: &[String]) -> (Batch, Sequence) {
        let (mut batch, mut fields, mut order) = (Batch::default(), Fields::new(), Order::Begins);
        for text in texts {
            batch.take(text.as_bytes(), &mut fields, &mut order);
        }
        match order {
            Order::Kept(sequence) => (batch, sequence),
            _ => (batch, Sequence::new(Revision { epoch: 0, seq: 0 })),
        }
    }

    #[test]
    fn events_in_order_are_counted_with_the_numbers_of_their_edits() {
        let (batch, sequence) = heard(&[event("7-5", "7-4", 1_000_000), event("7-6", "7-5", 1_000_001)]);
        assert_eq!((batch.events, batch.unreadable, batch.numbers), (2, 0, vec![1_000_000, 1_000_001]));
        assert_eq!((sequence.lost, sequence.duplicates, sequence.last.seq), (0, 0, 6));
    }

    #[test]
    fn a_hole_a_repeat_and_a_swap_are_seen() {
        let (_, sequence) = heard(&[event("7-5", "7-4", 1), event("7-7", "7-6", 3)]);
        assert_eq!((sequence.lost, sequence.duplicates), (1, 0));
        let (_, sequence) = heard(&[event("7-5", "7-4", 1), event("7-5", "7-4", 1)]);
        assert_eq!((sequence.lost, sequence.duplicates), (0, 1));
        let (_, sequence) = heard(&[event("7-5", "7-4", 1), event("7-7", "7-6", 3), event("7-6", "7-5", 2)]);
        assert_eq!((sequence.lost, sequence.duplicates), (1, 1));
    }

    #[test]
    fn a_refusal_is_no_event_and_a_ping_is_answered() {
        let texts = ["{\"type\":\"ping\"}", "{\"id\":\"1\",\"type\":\"error\",\"payload\":[]}"].map(str::to_owned);
        let (batch, _) = heard(&texts);
        assert_eq!((batch.events, batch.unreadable, batch.asked), (0, 1, true));
    }
}
