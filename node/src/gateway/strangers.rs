//! Connections whose owner is not known yet: how many there may be, for how long, and what they may send.
//!
//! Everyone begins as a stranger and is none any more once a good token was shown over the connection; for requests that
//! follow on the same connection it stays so. A stranger's place is taken back when others want it and it has had its
//! time, so whoever says nothing keeps nobody out: a newcomer waits about a second at most, and 503 is for those who come
//! when as many wait already.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mille_shared::{ErrorCode, LimitName, limits};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::errors::ApiError;
use crate::metrics::{ConnectionRefused, Metrics};

/// The places of a node for strangers.
pub struct Strangers {
    max: usize,
    places: Arc<Semaphore>,
    /// Places for those who wait for a place.
    waiting: Semaphore,
    /// Who is here, the longest first.
    here: Mutex<BTreeMap<u64, Guest>>,
    /// The last turn to send one away that somebody took, or will take.
    turn: Mutex<Instant>,
    next: AtomicU64,
    metrics: Arc<Metrics>,
}

/// A stranger, as the others see it.
struct Guest {
    since: Instant,
    superseded: CancellationToken,
}

impl Strangers {
    /// Room for `max` of them, and as many who wait.
    #[must_use]
    pub fn new(max: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            max,
            places: Arc::new(Semaphore::new(max)),
            waiting: Semaphore::new(max),
            here: Mutex::default(),
            turn: Mutex::new(Instant::now()),
            next: AtomicU64::new(0),
            metrics,
        })
    }

    /// How many there may be.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }

    /// A place for one more. Waits up to [`limits::STRANGER_WAITS_MAX`]; `None`: it is to be turned away.
    pub async fn admit(self: &Arc<Self>) -> Option<Introduction> {
        let place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) => self.wait_for_place().await,
        };
        match place {
            Some(place) => Some(self.introduce(place)),
            None => {
                self.refused(ConnectionRefused::Strangers, LimitName::UnauthenticatedConnections);
                None
            }
        }
    }

    /// Notes somebody whom the node turned away because it is full.
    pub(super) fn node_is_full(&self) {
        self.refused(ConnectionRefused::NodeFull, LimitName::NodeConnections);
    }

    fn refused(&self, why: ConnectionRefused, name: LimitName) {
        self.metrics.limits.refused(why);
        self.metrics.limits.limited(name);
    }

    async fn wait_for_place(&self) -> Option<OwnedSemaphorePermit> {
        let _waiting = self.waiting.try_acquire().ok()?;
        let deadline = Instant::now() + limits::STRANGER_WAITS_MAX;
        let mut place = std::pin::pin!(Arc::clone(&self.places).acquire_owned());
        let mut look_again = self.next_turn(Instant::now());
        loop {
            tokio::select! {
                biased;
                place = place.as_mut() => return place.ok(),
                () = sleep_until(look_again.min(deadline)) => {}
            }
            if look_again >= deadline {
                return None;
            }
            look_again = self.make_room().map_or(deadline, |due| self.next_turn(due));
        }
    }

    /// A turn to send one away, at `from` or later: there is one per [`limits::STRANGERS_LEAVE_EVERY`].
    fn next_turn(&self, from: Instant) -> Instant {
        let mut turn = self.turn.lock();
        *turn = from.max(*turn + limits::STRANGERS_LEAVE_EVERY);
        *turn
    }

    /// Sends away who has been here longest, if that is long enough; if not, answers when it will be. So everyone who waits
    /// sends one away.
    fn make_room(&self) -> Option<Instant> {
        let mut here = self.here.lock();
        let oldest = here.first_entry()?;
        let due = oldest.get().since + limits::STRANGER_KEEPS_PLACE;
        if Instant::now() < due {
            return Some(due);
        }
        oldest.remove().superseded.cancel();
        self.metrics.limits.refused(ConnectionRefused::Superseded);
        None
    }

    fn introduce(self: &Arc<Self>, place: OwnedSemaphorePermit) -> Introduction {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let guest = Guest { since: Instant::now(), superseded: CancellationToken::new() };
        self.here.lock().insert(number, guest);
        Introduction(Some(Arc::new(Stranger {
            strangers: Arc::clone(self),
            number,
            place: Mutex::new(Some(place)),
            is_known: AtomicBool::new(false),
            has_asked: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
        })))
    }
}

impl fmt::Debug for Strangers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Strangers").field("max", &self.max).finish_non_exhaustive()
    }
}

/// Whether a connection has shown a good token. In the extensions of every request; empty where nobody counts strangers.
#[derive(Clone, Default)]
pub struct Introduction(Option<Arc<Stranger>>);

struct Stranger {
    strangers: Arc<Strangers>,
    number: u64,
    place: Mutex<Option<OwnedSemaphorePermit>>,
    is_known: AtomicBool,
    has_asked: AtomicBool,
    bytes: AtomicU64,
}

impl Introduction {
    /// That of the connection over which a request came.
    pub(super) fn of<B>(request: &hyper::Request<B>) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or_default()
    }

    /// A good token was shown over this connection.
    pub fn known(&self) {
        if let Some(stranger) = &self.0 {
            stranger.is_known.store(true, Ordering::Relaxed);
            stranger.leave();
        }
    }

    /// The head of a request has come.
    pub(super) fn asked(&self) {
        if let Some(stranger) = &self.0 {
            stranger.has_asked.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the head of a first request is still to come, as far as anybody counts.
    pub(super) fn is_to_ask(&self) -> bool {
        self.0.as_ref().is_some_and(|stranger| !stranger.has_asked.load(Ordering::Relaxed))
    }

    /// Whether the head of a request has come and somebody noted it.
    pub(super) fn has_asked(&self) -> bool {
        self.0.as_ref().is_some_and(|stranger| stranger.has_asked.load(Ordering::Relaxed))
    }

    /// Whether this is still a stranger.
    pub(super) fn is_stranger(&self) -> bool {
        self.0.as_ref().is_some_and(|stranger| !stranger.is_known.load(Ordering::Relaxed))
    }

    /// Counts bytes that a stranger sent. `false`: too many in all.
    pub(super) fn may_send(&self, bytes: usize) -> bool {
        let Some(stranger) = self.0.as_ref().filter(|_| self.is_stranger()) else { return true };
        let sent = stranger.bytes.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        let may = sent <= limits::UNAUTHENTICATED_BYTES_MAX;
        if !may {
            stranger.strangers.metrics.limits.refused(ConnectionRefused::StrangerBytes);
        }
        may
    }

    /// Ready when the place is wanted by others; `None` of who has none. To be asked for at the beginning.
    pub(super) fn superseded(&self) -> Option<WaitForCancellationFutureOwned> {
        let stranger = self.0.as_ref()?;
        let here = stranger.strangers.here.lock();
        here.get(&stranger.number).map(|guest| guest.superseded.clone().cancelled_owned())
    }

    /// What to say to one whose place is wanted.
    pub(super) fn too_many(&self) -> ApiError {
        let max = self.0.as_ref().map_or(0, |stranger| stranger.strangers.max);
        ApiError::met(ErrorCode::Overloaded, LimitName::UnauthenticatedConnections, max)
    }

    /// Whether a stranger has sent so much that its next request might be cut off in the middle.
    pub(super) fn has_sent_much(&self) -> bool {
        let sent = self.0.as_ref().map(|stranger| stranger.bytes.load(Ordering::Relaxed));
        self.is_stranger() && sent.is_some_and(|sent| sent >= limits::UNAUTHENTICATED_BYTES_MAX / 2)
    }

    /// The connection is over, or its end has begun.
    pub(super) fn gone(&self) {
        if let Some(stranger) = &self.0 {
            stranger.leave();
        }
    }
}

impl Stranger {
    fn leave(&self) {
        if self.place.lock().take().is_some() {
            self.strangers.here.lock().remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::time::Duration;

    use super::*;

    fn room_for(max: usize) -> Arc<Strangers> {
        Strangers::new(max, Arc::new(Metrics::new()))
    }

    async fn is_over(superseded: &mut Pin<Box<WaitForCancellationFutureOwned>>) -> bool {
        tokio::time::timeout(Duration::ZERO, superseded).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn who_shows_a_token_makes_room() {
        let strangers = room_for(1);
        let first = strangers.admit().await.expect("a place");
        let began = Instant::now();
        first.known();
        assert!(strangers.admit().await.is_some());
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(!first.is_stranger() && first.may_send(1_000_000_000), "what is known is not bounded here");
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_makes_room_after_a_second_the_oldest_first() {
        let strangers = room_for(2);
        let first = strangers.admit().await.expect("a place");
        tokio::time::advance(Duration::from_millis(500)).await;
        let second = strangers.admit().await.expect("a place");
        let superseded = |of: &Introduction| Box::pin(of.superseded().expect("it has a place"));
        let (mut first_goes, mut second_goes) = (superseded(&first), superseded(&second));
        let waiting = tokio::spawn({
            let strangers = Arc::clone(&strangers);
            async move { strangers.admit().await }
        });
        tokio::time::sleep(Duration::from_millis(499)).await;
        assert!(!is_over(&mut first_goes).await, "it keeps its place for a second");
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(is_over(&mut first_goes).await && !is_over(&mut second_goes).await);
        first.gone();
        assert!(waiting.await.expect("no panic").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn when_as_many_wait_the_next_is_turned_away_at_once() {
        let strangers = room_for(1);
        let _first = strangers.admit().await.expect("a place");
        let waiting = tokio::spawn({
            let strangers = Arc::clone(&strangers);
            async move { strangers.admit().await.is_some() }
        });
        tokio::task::yield_now().await;
        let began = Instant::now();
        assert!(strangers.admit().await.is_none());
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(!waiting.await.expect("no panic"), "nobody went, although asked to");
    }

    #[tokio::test]
    async fn what_a_stranger_may_send_is_bounded_over_the_connection() {
        let strangers = room_for(1);
        let introduction = strangers.admit().await.expect("a place");
        assert!(introduction.may_send(60_000) && introduction.may_send(5_000));
        assert!(!introduction.may_send(1_000));
        assert!(Introduction::default().may_send(usize::MAX), "where nobody counts");
    }
}
