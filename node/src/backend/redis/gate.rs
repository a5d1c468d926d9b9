//! The door before the command connection: lets commands through, or refuses them while Redis does not answer.
//!
//! It feeds the [`Breaker`] with what it sees and tells the observer. A refused command was never sent, so it is known not to
//! have happened; one that ran out of time may have.

use std::sync::Arc;
use std::time::Duration;

use fred::error::{Error as FredError, ErrorKind};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::breaker::{Breaker, Why};
use super::is_answer;
use super::observer::{Connection, Part, RedisObserver as _};
use super::server::REPLICA;
use super::watchdog::Watched;
use crate::backend::{Error, Result, StoreHealth};

/// The door. Everyone who asks Redis passes here.
pub(super) struct Gate {
    /// Held only to look or to change; `is_open` is changed under it, so that the two agree.
    breaker: Mutex<Breaker>,
    is_open: watch::Sender<bool>,
    observer: Part,
    /// Told when it opens.
    trouble: Arc<Notify>,
    role: Mutex<Option<Role>>,
}

/// What the server last said of its role.
struct Role {
    /// `master` or `replica`.
    name: String,
    said_at: Instant,
    /// Since when it has said this.
    since: Instant,
}

impl Gate {
    /// A door to a server that just answered.
    pub(super) fn new(observer: Part, trouble: Arc<Notify>) -> Self {
        observer.up(true);
        observer.breaker(false);
        let (breaker, is_open, role) = (Mutex::default(), watch::Sender::new(false), Mutex::new(None));
        Self { breaker, is_open, observer, trouble, role }
    }

    /// Lets a command through.
    ///
    /// # Errors
    /// [`Error::Unavailable`] at once while the breaker is open; nothing is sent then.
    pub(super) fn pass(&self, name: &'static str) -> Result<()> {
        if !*self.is_open.borrow() {
            return Ok(());
        }
        let Some(why) = self.breaker.lock().refuses() else { return Ok(()) };
        self.observer.refused();
        Err(Error::Unavailable(format!("{name}: not asked, since redis does not answer ({why:?})")))
    }

    /// Whether commands are let through.
    pub(super) fn is_closed(&self) -> bool {
        !*self.is_open.borrow()
    }

    /// Waits until the breaker is open.
    pub(super) async fn opened(&self) {
        // The sender lives as long as we do.
        let _ = self.is_open.subscribe().wait_for(|is_open| *is_open).await;
    }

    /// Takes note of what became of a command.
    pub(super) fn judge<T>(&self, answer: &std::result::Result<T, FredError>, took: Duration) {
        self.observer.done(took);
        match answer {
            Err(error) if *error.kind() == ErrorKind::Timeout => {
                self.change(|breaker| breaker.timed_out(Instant::now()));
            }
            // What is wrong with the connection is told by the watchdog; what a server says that can't serve is no answer.
            Err(error) if !is_answer(error) => {}
            Ok(_) | Err(_) => {
                self.observer.answered(took);
                self.alive();
            }
        }
    }

    /// Remembers the server's role, and since when it has it.
    pub(super) fn learn_role(&self, role: &str) {
        let (now, mut known) = (Instant::now(), self.role.lock());
        let since = known.as_ref().filter(|known| known.name == role).map_or(now, |known| known.since);
        *known = Some(Role { name: role.to_owned(), said_at: now, since });
    }

    /// How Redis is, as far as we know without asking.
    pub(super) fn health(&self) -> StoreHealth {
        let why = self.breaker.lock().refuses();
        let breaker = why.map_or_else(|| "closed".to_owned(), |why| format!("open ({why:?})"));
        let (role, replica_for) = match &*self.role.lock() {
            Some(Role { name, said_at, since }) => {
                let replica_for = (name == REPLICA).then(|| since.elapsed());
                (format!("{name}, said {} ms ago", said_at.elapsed().as_millis()), replica_for)
            }
            None => ("not asked yet".to_owned(), None),
        };
        StoreHealth { answers: why.is_none(), breaker, role, replica_for, sick: Vec::new() }
    }

    fn alive(&self) {
        let mut breaker = self.breaker.lock();
        if breaker.answered() {
            tracing::info!("redis answers again; commands are let through");
            self.is_open.send_replace(false);
            self.observer.breaker(false);
        }
    }

    fn change(&self, change: impl FnOnce(&mut Breaker) -> bool) {
        let mut breaker = self.breaker.lock();
        if change(&mut breaker) {
            let why = breaker.refuses();
            tracing::warn!(?why, "redis does not answer; commands are refused until it does");
            self.is_open.send_replace(true);
            self.observer.breaker(true);
            self.trouble.notify_one();
        }
    }
}

impl Watched for Gate {
    const CONNECTION: Connection = Connection::Commands;

    fn answered(&self, took: Duration) {
        self.observer.up(true);
        self.observer.answered(took);
        self.alive();
    }

    fn unanswered(&self) {
        self.observer.up(false);
    }

    fn given_up(&self) {
        self.change(|breaker| breaker.failed(Why::Silent));
    }

    fn lost(&self) {
        self.observer.up(false);
        self.change(|breaker| breaker.failed(Why::Lost));
    }

    fn reconnected(&self) {
        self.observer.reconnected(Self::CONNECTION);
    }
}
