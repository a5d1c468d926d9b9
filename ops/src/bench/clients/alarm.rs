//! An alarm for schedules: it rings within some tens of microseconds of its time, where the runtime's own timers ring up to a
//! millisecond late, which would be a large part of what is measured.

use anyhow::Result;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::time::Instant;

/// A timer of the system, `timerfd_create(2)`: one file of the process.
#[derive(Debug)]
pub(crate) struct Alarm {
    /// No pipe, but waited for and read like one.
    timer: pipe::Receiver,
    /// When it is set to ring, or rang.
    at: Option<Instant>,
}

impl Alarm {
    /// One that is not set.
    ///
    /// # Errors
    /// When the process has no file left for it.
    pub(crate) fn new() -> Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self { timer: pipe::Receiver::from_owned_fd_unchecked(timer)?, at: None })
    }

    /// Waits until `at`. Whoever stops waiting may wait for the same or another time afterwards.
    ///
    /// # Errors
    /// None that a timer is known to have.
    pub(crate) async fn ring(&mut self, at: Instant) -> Result<()> {
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        if self.at != Some(at) {
            let once = Itimerspec { it_interval: Timespec::default(), it_value: Timespec::try_from(left)? };
            // It forgets that it rang for an earlier time.
            rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
            self.at = Some(at);
        }
        let mut times = [0; size_of::<u64>()];
        self.timer.read_exact(&mut times).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn an_alarm_rings_at_its_time_and_not_before() {
        let mut alarm = Alarm::new().unwrap();
        let begun = Instant::now();
        for ms in [3, 1, 5, 5, 4] {
            let at = begun + Duration::from_millis(ms);
            alarm.ring(at).await.unwrap();
            assert!(Instant::now() >= at, "{ms} ms");
        }
    }

    #[tokio::test]
    async fn who_stops_waiting_may_wait_for_another_time() {
        let mut alarm = Alarm::new().unwrap();
        let begun = Instant::now();
        let (soon, late) = (begun + Duration::from_millis(5), begun + Duration::from_secs(3_600));
        for at in [late, soon] {
            tokio::select! {
                rung = alarm.ring(at) => rung.unwrap(),
                () = tokio::task::yield_now() => {}
            }
        }
        alarm.ring(soon).await.unwrap();
        assert!(Instant::now() >= soon);
    }
}
