//! Whether it makes sense to ask Redis now: a machine without I/O, time being its parameter.
//!
//! Without it every command to a server that is gone waits for its timeout, and hundreds queue behind it. With it they are
//! refused at once, and callers may try again. It opens when the connection is lost, when the watchdog has given the
//! connection up, or when command after command runs out of time. It closes with the first answer; while it is open
//! only the watchdog's PING asks for one, so nothing has to be let through to try.
//!
//! A pause of ours must not open it: after one, the answers are there, but our timers are looked at first. So timeouts that
//! come together count as one, and the answers that were waiting undo it. The watchdog's strikes are of the same kind.

use std::time::Duration;

use tokio::time::Instant;

/// Commands in a row that ran out of time, each a while after the one before, until the breaker opens.
const TIMEOUTS_MAX: u32 = 3;
/// Timeouts closer together than this have one cause and count as one.
const TIMEOUTS_TOGETHER: Duration = Duration::from_millis(100);

/// Why a breaker opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The connection was lost. The client makes a new one.
    Lost,
    /// The watchdog asked often enough and heard nothing. It makes the connection anew.
    Silent,
    /// Commands ran out of time one after the other.
    Slow,
}

/// The state of one connection's breaker.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// Set while it is open.
    open: Option<Why>,
    timeouts: u32,
    timed_out: Option<Instant>,
}

impl Breaker {
    /// Whether commands are refused, and why.
    pub(super) fn refuses(&self) -> Option<Why> {
        self.open
    }

    /// An answer came, whatever it says. Whether that closes it.
    pub(super) fn answered(&mut self) -> bool {
        (self.timeouts, self.timed_out) = (0, None);
        self.open.take().is_some()
    }

    /// The connection is no use. Whether that opens it.
    pub(super) fn failed(&mut self, why: Why) -> bool {
        let opens = self.open.is_none();
        self.open.get_or_insert(why);
        opens
    }

    /// A command ran out of time. Whether that opens it.
    pub(super) fn timed_out(&mut self, now: Instant) -> bool {
        let together = self.timed_out.is_some_and(|last| now.duration_since(last) < TIMEOUTS_TOGETHER);
        if together {
            return false;
        }
        self.timed_out = Some(now);
        self.timeouts += 1;
        self.timeouts >= TIMEOUTS_MAX && self.failed(Why::Slow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When the breaker opened, the timeouts being that many milliseconds after the beginning.
    fn opened_at(breaker: &mut Breaker, began: Instant, timeouts_ms: &[u64]) -> Option<u64> {
        let mut timeouts = timeouts_ms.iter().copied();
        timeouts.find(|ms| breaker.timed_out(began + Duration::from_millis(*ms)))
    }

    #[test]
    fn a_lost_connection_opens_it_and_the_first_answer_closes_it() {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.refuses(), None);
        assert!(breaker.failed(Why::Lost));
        assert!(!breaker.failed(Why::Silent), "it is open already");
        assert_eq!(breaker.refuses(), Some(Why::Lost));
        assert!(breaker.answered());
        assert_eq!(breaker.refuses(), None);
        assert!(!breaker.answered(), "it is closed already");
    }

    #[test]
    fn command_after_command_without_an_answer_opens_it() {
        let mut breaker = Breaker::default();
        assert_eq!(opened_at(&mut breaker, Instant::now(), &[0, 300, 600, 900]), Some(600));
        assert_eq!(breaker.refuses(), Some(Why::Slow));
    }

    #[test]
    fn timeouts_that_come_together_are_one() {
        let mut breaker = Breaker::default();
        let burst: Vec<u64> = (0..90).collect();
        assert_eq!(opened_at(&mut breaker, Instant::now(), &burst), None);
    }

    #[test]
    fn an_answer_in_between_makes_timeouts_begin_anew() {
        let mut breaker = Breaker::default();
        let began = Instant::now();
        for round in 0..10 {
            let from = round * 1_000;
            assert_eq!(opened_at(&mut breaker, began, &[from, from + 200]), None);
            assert!(!breaker.answered());
        }
    }

    #[test]
    fn it_opens_again_after_it_closed() {
        let mut breaker = Breaker::default();
        assert!(breaker.failed(Why::Silent) && breaker.answered());
        assert!(breaker.failed(Why::Lost));
        assert_eq!(breaker.refuses(), Some(Why::Lost));
    }
}
