//! Looks at a node's load some ten times a second, and three times while there is nothing to see: each look wakes a thread, and
//! the event loop twice.
//!
//! It has a thread of its own: one that is polled by the event loop could not look while the loop is late. How late the loop
//! is shows a small task that is handed to it from outside, as new work is: how long until it runs, and how late its timer
//! then fires. While it is under way, its lateness so far counts.

use std::sync::{Arc, Weak, mpsc};
use std::thread;
use std::time::Duration;

use mille_core::pressure::{Pressure as Machine, Sample, Store};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Level, Pressure, Thresholds};
use crate::metrics::Metrics;

/// Time between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// The same while the machine is at ease. A level is reached up to 0.4 s later for it: the small task that shows the loop's
/// lateness may have been back just before the loop became late, and is looked at one pause after that.
const EASY_INTERVAL: Duration = Duration::from_millis(300);
/// How long the small task sleeps. A timer counts in milliseconds, so it may come one late without any load.
const NAP: Duration = Duration::from_millis(20);
/// Silence after which the store is taken not to answer. It is asked every 300 ms and given 500 ms each time.
const STORE_SILENT_AFTER: Duration = Duration::from_secs(1);

/// What is looked at, and what for.
pub struct Sampler {
    /// From where on something is given up.
    pub thresholds: Thresholds,
    /// Whether there is a store outside this process.
    pub has_store: bool,
    /// Where the level is written, and what is measured.
    pub metrics: Arc<Metrics>,
}

impl Sampler {
    /// Looks from now on, until `stop`, or until nobody holds the metrics any more. `tasks` has one that ends with it.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(self, tasks: &TaskTracker, stop: CancellationToken) -> std::io::Result<()> {
        let (end, mut ended) = oneshot::channel::<()>();
        let runtime = Handle::current();
        let stopped = stop.clone();
        let sampler = thread::Builder::new().name("pressure".to_owned()).spawn(move || {
            self.run(&runtime, &stopped);
            drop(end);
        })?;
        tasks.spawn(async move {
            // It says nothing; it ends.
            if stop.run_until_cancelled(&mut ended).await.is_none() {
                sampler.thread().unpark();
                let _ = ended.await;
            }
        });
        Ok(())
    }

    fn run(self, runtime: &Handle, stop: &CancellationToken) {
        let mut machine = Machine::new(self.thresholds);
        let mut latency = StoreLatency { has_store: self.has_store, last: Duration::ZERO, answered_at: Instant::now() };
        let metrics: Weak<Metrics> = Arc::downgrade(&self.metrics);
        drop(self.metrics);
        let began = Instant::now();
        let mut probe = Probe::send(runtime);
        loop {
            thread::park_timeout(if machine.is_at_ease() { EASY_INTERVAL } else { SAMPLE_INTERVAL });
            let Some(metrics) = metrics.upgrade().filter(|_| !stop.is_cancelled()) else { return };
            let lag = probe.lag();
            if probe.is_back {
                probe = Probe::send(runtime);
            }
            let store = latency.look(&metrics.pressure);
            let queued_bytes = metrics.pressure.queued_bytes();
            tell(&metrics, lag, queued_bytes, latency.told(store));
            if let Some(level) = machine.note(began.elapsed(), Sample { lag, queued_bytes, store }) {
                change(&metrics, level);
            }
        }
    }
}

/// `latency` is `None` while the store is silent.
fn tell(metrics: &Metrics, lag: Duration, queued_bytes: u64, latency: Option<Duration>) {
    metrics.pressure.set_told(lag, latency);
    metrics.load.event_loop_lag_seconds.record(lag.as_secs_f64());
    metrics.load.send_queue_bytes.set(queued_bytes as f64);
    metrics.load.send_queue_messages.set(metrics.pressure.queued_messages() as f64);
    metrics.redis.latency_seconds.set(latency.map_or(f64::INFINITY, |latency| latency.as_secs_f64()));
}

fn change(metrics: &Metrics, level: Level) {
    let rises = level > metrics.pressure.level();
    metrics.pressure.set_level(level);
    metrics.load.pressure_level.set(f64::from(level as u8));
    let (level, why) = (level.as_str(), &metrics.pressure);
    // How often these come is bounded by the machine: a step up per 0.3 s, a step down per 3 s, four each way.
    if rises {
        tracing::warn!(level, %why, "the node is under pressure and gives more up");
    } else {
        tracing::info!(level, %why, "the pressure eases");
    }
}

/// How the store is, from what was noted of its answers.
struct StoreLatency {
    has_store: bool,
    last: Duration,
    answered_at: Instant,
}

impl StoreLatency {
    fn look(&mut self, pressure: &Pressure) -> Store {
        if let Some(latency) = pressure.take_store_latency() {
            self.last = latency;
            self.answered_at = Instant::now();
            Store::Answers(latency)
        } else if !self.has_store {
            Store::Answers(Duration::ZERO)
        } else if self.answered_at.elapsed() > STORE_SILENT_AFTER {
            Store::Silent
        } else {
            Store::Unheard
        }
    }

    /// What is written down of a store that was found so: the last that was heard, which may have been some looks ago.
    fn told(&self, store: Store) -> Option<Duration> {
        (store != Store::Silent).then_some(self.last)
    }
}

/// A small task under way.
struct Probe {
    sent: Instant,
    lateness: mpsc::Receiver<Duration>,
    is_back: bool,
}

impl Probe {
    fn send(runtime: &Handle) -> Self {
        let (report, lateness) = mpsc::sync_channel(1);
        let sent = Instant::now();
        runtime.spawn(async move {
            let waited = sent.elapsed();
            let slept_at = Instant::now();
            tokio::time::sleep(NAP).await;
            // Nobody listens any more when the node ends.
            let _ = report.try_send(waited.max(slept_at.elapsed().saturating_sub(NAP)));
        });
        Self { sent, lateness, is_back: false }
    }

    /// How late it was, or is so far.
    fn lag(&mut self) -> Duration {
        match self.lateness.try_recv() {
            Ok(lateness) => {
                self.is_back = true;
                lateness
            }
            Err(mpsc::TryRecvError::Empty) => self.sent.elapsed().saturating_sub(NAP),
            // The event loop dropped it: it is over with it, and `stop` follows.
            Err(mpsc::TryRecvError::Disconnected) => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_does_nothing_else_is_seen_to_be_late_while_it_is_busy() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let (release, held) = mpsc::sync_channel::<()>(1);
        let (busy, is_busy) = mpsc::sync_channel(1);
        runtime.spawn(async move {
            busy.send(()).unwrap();
            // The only worker stands still.
            held.recv().unwrap();
        });
        is_busy.recv().unwrap();
        let mut probe = Probe::send(runtime.handle());
        let sent = Instant::now();
        while probe.lag() < Duration::from_millis(50) {
            assert!(!probe.is_back && sent.elapsed() < Duration::from_secs(30));
            thread::yield_now();
        }
        release.send(()).unwrap();
        let mut lag = Duration::ZERO;
        while !probe.is_back {
            lag = probe.lag();
            thread::yield_now();
        }
        assert!(lag >= Duration::from_millis(50), "it stood still for longer than it says: {lag:?}");
    }

    #[test]
    fn a_store_that_was_not_heard_for_a_while_is_silent_and_one_that_is_not_there_never_is() {
        let pressure = Pressure::default();
        let long_ago = Instant::now().checked_sub(2 * STORE_SILENT_AFTER).unwrap();
        let mut latency = StoreLatency { has_store: true, last: Duration::ZERO, answered_at: long_ago };
        assert_eq!((latency.look(&pressure), latency.told(Store::Silent)), (Store::Silent, None));
        let took = Duration::from_millis(7);
        pressure.store_answered(took);
        assert_eq!(latency.look(&pressure), Store::Answers(took));
        assert_eq!(latency.look(&pressure), Store::Unheard, "it is not asked all the time, and an answer counts once");
        assert_eq!(latency.told(Store::Unheard), Some(took));
        let mut alone = StoreLatency { has_store: false, last: Duration::ZERO, answered_at: long_ago };
        assert_eq!(alone.look(&pressure), Store::Answers(Duration::ZERO));
    }
}
