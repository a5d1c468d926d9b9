//! How a node is taken out without anybody noticing: what is told to whom, and when.
//!
//! First load balancers, by the probes; whoever still comes is served. Then the sockets, each at a moment of its own within
//! a window, so that they do not come back to the other nodes all at once. Each is told between when and when to come back.
//! The same farewell is said to a socket that has grown old, where sockets are to move on to nodes that were added.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use metrics::{Counter, Gauge};
use rand::Rng as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::whole_ms;
use crate::metrics::CloseReason;
use crate::quiet::Quiet;

/// How far a node is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// It is in.
    Serving,
    /// `/readyz` says 503; everything else is as ever.
    Unready,
    /// Sockets are sent away, and no new ones are let in.
    Closing,
    /// Sockets are gone, or out of time; projects and listeners end.
    Stopping,
}

impl Phase {
    const ALL: [Self; 4] = [Self::Serving, Self::Unready, Self::Closing, Self::Stopping];

    /// As operators see it, `snake_case`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Unready => "unready",
            Self::Closing => "closing",
            Self::Stopping => "stopping",
        }
    }
}

/// How much time leaving takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainSettings {
    /// From the first 503 of `/readyz` to the first close: as long as load balancers need to notice.
    pub notice: Duration,
    /// The closes are spread over this.
    pub window: Duration,
    /// After which all of it is over, whatever has not ended.
    pub deadline: Duration,
    /// The age at which a socket is sent to look for another node, at the latest; a fifth less at the earliest. None: never.
    pub connection_age_max: Option<Duration>,
}

impl Default for DrainSettings {
    /// Everything at once, and no socket grows too old.
    fn default() -> Self {
        let (notice, window) = (Duration::ZERO, Duration::ZERO);
        Self { notice, window, deadline: mille_shared::limits::SHUTDOWN_DEADLINE, connection_age_max: None }
    }
}

/// Why a socket is sent away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The node is taken out.
    Drain,
    /// The socket has grown old.
    Rotate,
    /// Its project has ended on this node.
    Moved,
}

impl Reason {
    /// As clients read it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Rotate => "rotate",
            Self::Moved => "moved",
        }
    }
}

impl From<Reason> for CloseReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Drain => Self::Drain,
            Reason::Rotate => Self::Rotate,
            Reason::Moved => Self::ProjectMoved,
        }
    }
}

/// What a socket is told at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Farewell {
    /// Why it ends.
    pub reason: Reason,
    /// The client should come back at a moment of its choice, not before this,
    pub min: Duration,
    /// and not after this.
    pub max: Duration,
}

/// The soonest return, and the time after it within which returns are spread.
const RETURN_AFTER: Duration = Duration::from_millis(100);
/// For sockets that go one by one, at moments spread already.
const RETURN_WITHIN: Duration = Duration::from_secs(1);
/// For sockets that go all at once: half the time for which their places are kept.
const RETURN_WITHIN_AT_ONCE: Duration = Duration::from_secs(5);
/// A window from which on the closes are spread enough.
const WIDE_WINDOW: Duration = Duration::from_secs(5);

impl Farewell {
    /// A farewell to one of many who all go at this moment.
    #[must_use]
    pub fn at_once(reason: Reason) -> Self {
        Self::new(reason, RETURN_WITHIN_AT_ONCE)
    }

    /// Both ends by chance: no two clients are told the same.
    fn new(reason: Reason, within: Duration) -> Self {
        let mut random = rand::rng();
        let min = RETURN_AFTER.mul_f64(random.random_range(1.0..3.0));
        Self { reason, min, max: min + within.mul_f64(random.random_range(0.5..1.0)) }
    }

    /// The least in whole milliseconds.
    #[must_use]
    pub fn min_ms(&self) -> u64 {
        whole_ms(self.min)
    }

    /// The most in whole milliseconds.
    #[must_use]
    pub fn max_ms(&self) -> u64 {
        whole_ms(self.max)
    }
}

/// Where a node stands between in and out. Cheap to clone.
#[derive(Clone)]
pub struct Drain(Arc<Inner>);

struct Inner {
    settings: DrainSettings,
    phase: AtomicU8,
    began: OnceLock<Instant>,
    closing: CancellationToken,
    hurry: CancellationToken,
    phase_gauge: Gauge,
    rotated: Counter,
}

impl Default for Drain {
    fn default() -> Self {
        Self::new(DrainSettings::default(), Gauge::noop(), Counter::noop())
    }
}

impl Drain {
    /// A node that serves. `phase_gauge` shows the phase, `rotated` counts sockets that grew old.
    #[must_use]
    pub fn new(settings: DrainSettings, phase_gauge: Gauge, rotated: Counter) -> Self {
        Self(Arc::new(Inner {
            settings,
            phase: AtomicU8::new(Phase::Serving as u8),
            began: OnceLock::new(),
            closing: CancellationToken::new(),
            hurry: CancellationToken::new(),
            phase_gauge,
            rotated,
        }))
    }

    /// How much time it takes.
    #[must_use]
    pub fn settings(&self) -> &DrainSettings {
        &self.0.settings
    }

    /// How far the node is out.
    #[must_use]
    pub fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.0.phase.load(Ordering::Acquire))]
    }

    /// How long ago it began; zero if it did not.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.began.get().map(Instant::elapsed).unwrap_or_default()
    }

    /// Goes on to a phase; never back.
    pub fn enter(&self, phase: Phase) {
        let inner = &self.0;
        if inner.phase.fetch_max(phase as u8, Ordering::AcqRel) >= phase as u8 {
            return;
        }
        inner.phase_gauge.set(f64::from(phase as u8));
        inner.began.get_or_init(Instant::now);
        if phase >= Phase::Closing {
            inner.closing.cancel();
        }
        tracing::info!(phase = phase.as_str(), "leaving");
    }

    /// Nobody waits for a load balancer or a window any more.
    pub fn hurry(&self) {
        self.0.hurry.cancel();
    }

    /// Waits until load balancers have had the time to notice.
    pub async fn noticed(&self) {
        self.0.hurry.run_until_cancelled(tokio::time::sleep(self.0.settings.notice)).await;
    }

    /// Ready when a socket that opens now is to go: in its turn when the node is taken out, at once if that is under way,
    /// or when it has grown old. To be asked in each of a socket's turns: that costs nothing while nothing has happened.
    pub fn farewell(&self) -> Quiet<BoxFuture<'static, Farewell>> {
        let drain = self.clone();
        let DrainSettings { window, connection_age_max, .. } = drain.0.settings;
        let mut random = rand::rng();
        let turn = match self.phase() {
            Phase::Serving | Phase::Unready => window.mul_f64(random.random_range(0.0..1.0)),
            Phase::Closing | Phase::Stopping => Duration::ZERO,
        };
        let age = connection_age_max.map(|max| max.mul_f64(random.random_range(0.8..1.0)));
        let farewell = async move {
            let Inner { closing, hurry, .. } = &*drain.0;
            if let Some(age) = age
                && closing.run_until_cancelled(Box::pin(tokio::time::sleep(age))).await.is_some()
            {
                drain.0.rotated.increment(1);
                return Farewell::new(Reason::Rotate, RETURN_WITHIN);
            }
            closing.cancelled().await;
            let waits = !turn.is_zero();
            let is_hurried = waits && hurry.run_until_cancelled(Box::pin(tokio::time::sleep(turn))).await.is_none();
            match is_hurried || window < WIDE_WINDOW {
                true => Farewell::at_once(Reason::Drain),
                false => Farewell::new(Reason::Drain, RETURN_WITHIN),
            }
        };
        Quiet::new(farewell.boxed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(window_seconds: u64, age_max_seconds: Option<u64>) -> Drain {
        let settings = DrainSettings {
            notice: Duration::from_secs(3),
            window: Duration::from_secs(window_seconds),
            connection_age_max: age_max_seconds.map(Duration::from_secs),
            ..DrainSettings::default()
        };
        Drain::new(settings, Gauge::noop(), Counter::noop())
    }

    #[tokio::test(start_paused = true)]
    async fn sockets_go_one_by_one_within_the_window() {
        let drain = drain(10, None);
        let sockets: Vec<_> = (0..1_000).map(|_| tokio::spawn(drain.farewell())).collect();
        drain.enter(Phase::Unready);
        drain.noticed().await;
        assert!(sockets.iter().all(|socket| !socket.is_finished()), "notice comes first");
        drain.enter(Phase::Closing);
        for second in 1..=10 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let gone = sockets.iter().filter(|socket| socket.is_finished()).count();
            assert!(gone.abs_diff(second * 100) < 60, "{gone} are gone after {second} s");
        }
        let told: Vec<Farewell> = futures_util::future::try_join_all(sockets).await.expect("no panic");
        assert!(told.iter().all(|told| told.reason == Reason::Drain));
        assert!(told.iter().all(|told| (100..300).contains(&told.min_ms()) && told.max_ms() < 1_300), "{:?}", told[0]);
        assert!(told.iter().any(|one| one.min != told[0].min && one.max != told[0].max), "all are told the same");
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_late_goes_at_once_and_so_do_all_when_there_is_hurry() {
        let drain = drain(10, None);
        let early: Vec<_> = (0..50).map(|_| tokio::spawn(drain.farewell())).collect();
        drain.enter(Phase::Closing);
        let late = drain.farewell().now_or_never().expect("at once");
        assert_eq!(late.reason, Reason::Drain);
        drain.hurry();
        let within = tokio::time::timeout(Duration::from_millis(1), futures_util::future::try_join_all(early)).await;
        let told = within.expect("at once").expect("no panic");
        assert!(told.iter().any(|told| told.max > RETURN_WITHIN * 2), "they all come back at once");
        assert!(drain.noticed().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_grows_old_moves_on_before_it_is_too_old() {
        let drain = drain(10, Some(100));
        let (now, mut ages) = (Instant::now(), Vec::new());
        let mut sockets: futures_util::stream::FuturesUnordered<_> = (0..200).map(|_| drain.farewell()).collect();
        while let Some(told) = futures_util::StreamExt::next(&mut sockets).await {
            assert_eq!(told.reason, Reason::Rotate);
            ages.push(now.elapsed().as_secs());
        }
        assert!(ages.iter().all(|age| (80..=100).contains(age)), "{ages:?}");
        assert!(ages.last() > ages.first(), "all at once");
        assert_eq!(drain.phase(), Phase::Serving);
    }

    #[tokio::test(start_paused = true)]
    async fn phases_only_go_on() {
        let drain = drain(0, None);
        assert_eq!((drain.phase(), drain.elapsed()), (Phase::Serving, Duration::ZERO));
        drain.enter(Phase::Closing);
        tokio::time::sleep(Duration::from_secs(2)).await;
        drain.enter(Phase::Unready);
        assert_eq!((drain.phase(), drain.elapsed()), (Phase::Closing, Duration::from_secs(2)));
    }
}
