//! People in one document: one socket and one small task each. Some of them move their cursors; all of them look.
//!
//! All clocks here are one clock, so what a mover writes into its move tells each viewer how old it is. The frames that
//! a node sends to its viewers in one tick are the same to the letter, so each is read once for all of them
//! ([`Lookout`]): else there would be over a hundred megabytes of JSON to read per second, and the bench would measure
//! itself.
//!
//! A mover that is late sends the newest place only, as a hand would: what it missed makes its position older for
//! everyone, and shows in the moves per second.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::staleness::{Known, News, Staleness, Window};
use crate::bench::clients::presence::{Heard, PresenceSocket, Sighting, sightings};
use crate::bench::cluster::ground::Ground;
use crate::bench::wait_until;
use crate::socket::Ended;

/// Sockets being opened, and people joining, at once.
const AT_ONCE: usize = 64;

/// Until the node has sent the roster to who joined.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Frames of a node that are remembered as they were read. Viewers of one node are not further apart than a few ticks.
const FRAMES_REMEMBERED: usize = 4;

/// How long nobody must be told anything until all has been told.
const QUIET: Duration = Duration::from_secs(1);

/// How far a move goes, in the editor's units.
const STRIDE: f64 = 7.0;

/// Moves in one direction, then back.
const STRIDES: u32 = 100;

/// The clock of everyone, in milliseconds: it looks like the time of day, but never jumps.
#[derive(Debug, Clone, Copy)]
struct Clock {
    origin: Instant,
    origin_ms: i64,
}

impl Clock {
    fn start() -> Self {
        let day = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { origin: Instant::now(), origin_ms: i64::try_from(day.as_millis()).unwrap_or_default() }
    }

    fn ms(&self, at: Instant) -> i64 {
        self.origin_ms + i64::try_from((at - self.origin).as_millis()).unwrap_or(i64::MAX)
    }
}

/// Who is to come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Party {
    /// All of them; they are spread over the nodes.
    pub(crate) connections: usize,
    /// The first so many move.
    pub(crate) movers: usize,
    /// Those who only look share users, so many each. Each mover is a user.
    pub(crate) viewers_per_user: usize,
    /// Moves of a mover per second.
    pub(crate) hz: u32,
}

impl Party {
    /// Everyone's ids, each once. Movers come first.
    pub(crate) fn users(&self) -> Vec<String> {
        let count = self.connections.checked_sub(1).map_or(0, |last| self.user(last) + 1);
        (0..count).map(name_of).collect()
    }

    /// The place in [`users`](Self::users) of the user with this connection.
    fn user(&self, number: usize) -> usize {
        let viewer = number.checked_sub(self.movers);
        viewer.map_or(number, |viewer| self.movers + viewer / self.viewers_per_user)
    }

    /// When a mover's move is due, counted from the beginning. Phases are spread evenly over the time between two
    /// moves.
    fn due(&self, mover: usize, turn: u32) -> Duration {
        let period = Duration::from_secs(1) / self.hz;
        period.mul_f64(mover as f64 / self.movers as f64) + Duration::from_secs(1) * turn / self.hz
    }

    /// The first turn that is due later than `since` after the beginning.
    fn turn_after(&self, mover: usize, since: Duration) -> u32 {
        let late = since.saturating_sub(self.due(mover, 0));
        (late.as_secs_f64() * f64::from(self.hz)) as u32 + 1
    }
}

/// What everyone does now.
#[derive(Debug, Clone, Copy)]
enum Phase {
    Gathering,
    Moving(Instant),
    Over,
}

/// What all of them share.
#[derive(Debug)]
struct Course {
    party: Party,
    clock: Clock,
    document: String,
    /// Movers by their connections.
    movers: HashMap<String, usize>,
    window: OnceLock<Window>,
    /// One for each node.
    lookouts: Vec<Mutex<Lookout>>,
    /// Those who have seen every mover.
    oriented: AtomicUsize,
    /// Those who are gone.
    gone: AtomicUsize,
    /// Frames that were no cursors, in the whole time.
    others: AtomicUsize,
}

/// What the viewers of one node share.
#[derive(Debug)]
struct Lookout {
    frames: VecDeque<(String, Arc<[Sighting]>)>,
    /// Frames that differed from those remembered.
    distinct: u64,
    /// Of movers at the same node, and of those elsewhere.
    near: Staleness,
    far: Staleness,
}

/// One of them, and after the bench what they have to tell.
#[derive(Debug)]
struct Viewer {
    number: usize,
    /// The node's place in the cluster's list.
    home: usize,
    known: Known,
    told: Told,
    tally: Tally,
}

/// What one viewer, or all of them, counted in the window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Cursor frames.
    pub(crate) frames: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Positions in them.
    pub(crate) positions: u64,
    /// Positions that were older than what was known.
    pub(crate) older: u64,
    /// Frames that were no cursors.
    pub(crate) others: u64,
    /// Moves sent.
    pub(crate) moves: u64,
}

/// The ticks that a viewer was told, and how many frames they allow in the window.
#[derive(Debug, Clone, Copy)]
struct Told {
    tick_ms: u64,
    since_ms: i64,
    allowed: f64,
}

impl Told {
    fn new(tick_ms: u64, now_ms: i64) -> Self {
        Self { tick_ms, since_ms: now_ms, allowed: 0.0 }
    }

    /// Another tick holds from now on.
    fn change(&mut self, tick_ms: u64, now_ms: i64, window: Option<Window>) {
        if let Some(window) = window {
            let (begin_ms, end_ms) = window.cut(self.since_ms, now_ms);
            self.allowed += (end_ms - begin_ms).max(0) as f64 / self.tick_ms.max(1) as f64;
        }
        (self.tick_ms, self.since_ms) = (tick_ms, now_ms);
    }
}

/// What one viewer saw, when all is over.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) tally: Tally,
    /// The tick it was told last, in milliseconds.
    pub(crate) tick_ms: u64,
    /// Cursor frames that the ticks it was told allow.
    pub(crate) frames_allowed: f64,
    /// Movers it never saw.
    pub(crate) unknown: usize,
    /// Why it is gone, if it is.
    pub(crate) failure: Option<String>,
}

/// What all of them saw.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) seen: Vec<Seen>,
    /// Ages of positions of movers at the viewer's node, and of those elsewhere.
    pub(crate) near: Staleness,
    pub(crate) far: Staleness,
    /// Frames in the whole time that differed from what others of the node got.
    pub(crate) distinct_frames: u64,
}

/// Everyone, together in the document.
#[derive(Debug)]
pub(crate) struct Gathering {
    course: Arc<Course>,
    tasks: JoinSet<Seen>,
    phase: watch::Sender<Phase>,
}

impl Gathering {
    /// Opens everyone's sockets, and lets them join one document: the plan. `tokens` are those of the party's users.
    ///
    /// # Errors
    /// When one can't come: a bench with fewer would measure something else.
    pub(crate) async fn join(ground: &Ground, party: Party, tokens: &[Arc<str>]) -> Result<Self> {
        let urls = ground.urls();
        let clock = Clock::start();
        let opened = (0..party.connections).map(|number| {
            let home = number % urls.len();
            let (url, token) = (&urls[home], &tokens[party.user(number)]);
            async move {
                let socket = PresenceSocket::open(url, ground.project, token).await;
                socket.map(|socket| (number, home, socket)).map_err(|ended| anyhow!("one can't connect: {ended:?}"))
            }
        });
        let sockets: Vec<_> = stream::iter(opened).buffer_unordered(AT_ONCE).try_collect().await?;
        // Everyone is known by then, so that nobody's first position is a stranger's.
        let is_mover = |(number, _, _): &&(usize, usize, PresenceSocket)| *number < party.movers;
        let movers = sockets.iter().filter(is_mover).map(|(number, _, socket)| (socket.connection.clone(), *number));
        let course = Arc::new(Course {
            party,
            clock,
            document: ground.plan.to_string(),
            movers: movers.collect(),
            window: OnceLock::new(),
            lookouts: urls.iter().map(|_| Mutex::new(Lookout::new())).collect(),
            oriented: AtomicUsize::new(0),
            gone: AtomicUsize::new(0),
            others: AtomicUsize::new(0),
        });
        let mut gathering = Self { course, tasks: JoinSet::new(), phase: watch::channel(Phase::Gathering).0 };
        let course = &gathering.course;
        let joined = sockets.into_iter().map(|(number, home, mut socket)| async move {
            let now_ms = course.now_ms();
            let mut viewer = Viewer {
                number,
                home,
                known: Known::new(party.movers),
                told: Told::new(socket.tick_ms, now_ms),
                tally: Tally::default(),
            };
            timeout(JOIN_TIMEOUT, viewer.join(&mut socket, course)).await.context("a join took too long")??;
            anyhow::Ok((viewer, socket))
        });
        let mut joined = stream::iter(joined).buffer_unordered(AT_ONCE);
        while let Some(present) = joined.next().await {
            let (viewer, socket) = present?;
            gathering.tasks.spawn(viewer.stay(socket, Arc::clone(course), gathering.phase.subscribe()));
        }
        drop(joined);
        Ok(gathering)
    }

    /// Waits until nobody has been told anything for a moment: telling a crowd of each other takes longer than their
    /// joins. Answers when the last was told something; nothing when there was no end within `patience`.
    pub(crate) async fn quiet(&self, patience: Duration) -> Option<Instant> {
        let heard = || self.course.others.load(Ordering::Relaxed);
        let last = Cell::new((heard(), Instant::now()));
        let is_quiet = wait_until(patience, || {
            let (count, since) = last.get();
            let is_more = heard() != count;
            if is_more {
                last.set((heard(), Instant::now()));
            }
            !is_more && since.elapsed() >= QUIET
        });
        is_quiet.await.then(|| last.get().1)
    }

    /// From now on the movers move.
    pub(crate) fn begin(&self) {
        self.phase.send_replace(Phase::Moving(Instant::now()));
    }

    /// How many have seen every mover.
    pub(crate) fn oriented(&self) -> usize {
        self.course.oriented.load(Ordering::Relaxed)
    }

    /// How many are gone.
    pub(crate) fn gone(&self) -> usize {
        self.course.gone.load(Ordering::Relaxed)
    }

    /// What is between these two moments is measured. To be said before the first of them, and once.
    ///
    /// # Errors
    /// When it was said before.
    pub(crate) fn measure(&self, from: Instant, to: Instant) -> Result<Window> {
        let clock = &self.course.clock;
        let window = Window { from_ms: clock.ms(from), to_ms: clock.ms(to) };
        ensure!(self.course.window.set(window).is_ok(), "only one time can be measured");
        Ok(window)
    }

    /// Ends it, after the measured time, and lets everyone tell.
    ///
    /// # Errors
    /// When a viewer panicked.
    pub(crate) async fn part(mut self) -> Result<Outcome> {
        self.phase.send_replace(Phase::Over);
        let mut seen = Vec::with_capacity(self.tasks.len());
        while let Some(told) = self.tasks.join_next().await {
            seen.push(told?);
        }
        let mut outcome = Outcome { seen, near: Staleness::new(), far: Staleness::new(), distinct_frames: 0 };
        for lookout in &self.course.lookouts {
            let lookout = lock(lookout);
            outcome.near.add(&lookout.near);
            outcome.far.add(&lookout.far);
            outcome.distinct_frames += lookout.distinct;
        }
        Ok(outcome)
    }
}

impl Course {
    fn now_ms(&self) -> i64 {
        self.clock.ms(Instant::now())
    }

    fn window(&self) -> Option<Window> {
        self.window.get().copied()
    }
}

impl Viewer {
    /// Joins, and waits for the roster.
    async fn join(&mut self, socket: &mut PresenceSocket, course: &Course) -> Result<()> {
        let user = name_of(course.party.user(self.number));
        let lost = |ended: Ended| anyhow!("{user} could not join: {ended:?}");
        socket.join(&user, &course.document).await.map_err(lost)?;
        loop {
            match socket.next().await.map_err(lost)? {
                Heard::Roster => return Ok(()),
                heard => self.hear(heard, course).map_err(lost)?,
            }
        }
    }

    /// Looks, and moves if it is to, until all is over.
    async fn stay(
        mut self,
        mut socket: PresenceSocket,
        course: Arc<Course>,
        mut phase: watch::Receiver<Phase>,
    ) -> Seen {
        let is_mover = self.number < course.party.movers;
        let mut turn = 0;
        let mut began = None;
        let ended = loop {
            let due = began.map(|began: Instant| began + course.party.due(self.number, turn));
            let step = tokio::select! {
                biased;
                changed = phase.changed() => match (changed, *phase.borrow_and_update()) {
                    (Err(_), _) | (_, Phase::Over) => break None,
                    (Ok(()), Phase::Moving(start)) if is_mover => {
                        began = Some(start);
                        Ok(())
                    }
                    _ => Ok(()),
                },
                () = until(due) => {
                    let moved = self.make_move(&mut socket, &course, turn).await;
                    turn = course.party.turn_after(self.number, began.map_or(Duration::ZERO, |began| began.elapsed()));
                    moved
                }
                heard = socket.next() => heard.and_then(|heard| self.hear(heard, &course)),
            };
            if let Err(ended) = step {
                course.gone.fetch_add(1, Ordering::Relaxed);
                break Some(ended);
            }
        };
        if let Some(window) = course.window() {
            self.told.change(self.told.tick_ms, window.to_ms, Some(window));
            lock(&course.lookouts[self.home]).close(&self.known, window, &course, self.home);
        }
        if ended.is_none() {
            socket.close().await;
        }
        Seen {
            tally: self.tally,
            tick_ms: self.told.tick_ms,
            frames_allowed: self.told.allowed,
            unknown: self.known.unknown(),
            failure: ended.map(|ended| format!("{ended:?}")),
        }
    }

    async fn make_move(&mut self, socket: &mut PresenceSocket, course: &Course, turn: u32) -> Result<(), Ended> {
        let step = f64::from((turn % (2 * STRIDES)).abs_diff(STRIDES)) * STRIDE;
        let sent_ms = course.now_ms();
        socket.move_cursor(&course.document, (step, self.number as f64 + step / 2.0), sent_ms).await?;
        if course.window().is_some_and(|window| window.contains(sent_ms)) {
            self.tally.moves += 1;
        }
        Ok(())
    }

    fn hear(&mut self, heard: Heard, course: &Course) -> Result<(), Ended> {
        let now_ms = course.now_ms();
        let window = course.window();
        let counts = window.is_some_and(|window| window.contains(now_ms));
        match heard {
            Heard::Cursors(message) => {
                let text = message.as_text().unwrap_or_default();
                let unknown = self.known.unknown();
                let mut lookout = lock(&course.lookouts[self.home]);
                let sightings = lookout.read(text, &course.movers)?;
                let older = lookout.note(&mut self.known, &sightings, now_ms, course, self.home);
                drop(lookout);
                if unknown > 0 && self.known.unknown() == 0 {
                    course.oriented.fetch_add(1, Ordering::Relaxed);
                }
                if counts {
                    self.tally.frames += 1;
                    self.tally.bytes += text.len() as u64;
                    self.tally.positions += sightings.len() as u64;
                    self.tally.older += older;
                }
            }
            Heard::Throttle(tick_ms) => self.told.change(tick_ms, now_ms, window),
            Heard::Refusal(text) => return Err(Ended::Lost(format!("the node refused something: {text}"))),
            Heard::Roster | Heard::Other => {
                course.others.fetch_add(1, Ordering::Relaxed);
                self.tally.others += u64::from(counts);
            }
        }
        Ok(())
    }
}

impl Lookout {
    fn new() -> Self {
        let frames = VecDeque::with_capacity(FRAMES_REMEMBERED);
        Self { frames, distinct: 0, near: Staleness::new(), far: Staleness::new() }
    }

    /// What a frame says; read only if it is none of the last ones.
    fn read(&mut self, text: &str, movers: &HashMap<String, usize>) -> Result<Arc<[Sighting]>, Ended> {
        if let Some((_, known)) = self.frames.iter().rev().find(|(frame, _)| frame == text) {
            return Ok(Arc::clone(known));
        }
        let said: Arc<[Sighting]> = sightings(text, movers)?.into();
        if self.frames.len() == FRAMES_REMEMBERED {
            self.frames.pop_front();
        }
        self.frames.push_back((text.to_owned(), Arc::clone(&said)));
        self.distinct += 1;
        Ok(said)
    }

    /// A viewer at `home` has learned this. Answers how many positions were older than what it knew.
    fn note(&mut self, known: &mut Known, said: &[Sighting], now_ms: i64, course: &Course, home: usize) -> u64 {
        let window = course.window();
        let mut older = 0;
        for &Sighting { mover, sent_ms } in said {
            let staleness = self.staleness(mover, course, home);
            older += u64::from(known.see(mover, sent_ms, now_ms, window, staleness) == News::Older);
        }
        older
    }

    fn close(&mut self, known: &Known, window: Window, course: &Course, home: usize) {
        for mover in 0..course.party.movers {
            known.close(mover, window, self.staleness(mover, course, home));
        }
    }

    fn staleness(&mut self, mover: usize, course: &Course, home: usize) -> &mut Staleness {
        if mover % course.lookouts.len() == home { &mut self.near } else { &mut self.far }
    }
}

impl Tally {
    /// Adds what another one counted.
    pub(crate) fn add(&mut self, other: &Self) {
        let Self { frames, bytes, positions, older, others, moves } = other;
        self.frames += frames;
        self.bytes += bytes;
        self.positions += positions;
        self.older += older;
        self.others += others;
        self.moves += moves;
    }
}

fn name_of(user: usize) -> String {
    format!("bench-viewer-{user}")
}

/// Nothing that is done under the lock leaves it in a state that matters.
fn lock(lookout: &Mutex<Lookout>) -> MutexGuard<'_, Lookout> {
    lookout.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTY: Party = Party { connections: 1_000, movers: 100, viewers_per_user: 120, hz: 20 };

    #[test]
    fn phases_are_spread_evenly_and_turns_do_not_drift() {
        assert_eq!(PARTY.due(0, 0), Duration::ZERO);
        assert_eq!(PARTY.due(50, 0), Duration::from_millis(25));
        assert_eq!(PARTY.due(50, 20 * 3_600), Duration::from_millis(3_600_025));
        let thirds = Party { hz: 30, ..PARTY };
        assert_eq!(thirds.due(0, 30 * 60), Duration::from_secs(60));
    }

    #[test]
    fn who_is_late_leaves_out_what_was_due_meanwhile() {
        assert_eq!(PARTY.turn_after(50, Duration::from_millis(26)), 1);
        assert_eq!(PARTY.turn_after(50, Duration::from_millis(1_026)), 21);
        let turn = PARTY.turn_after(7, PARTY.due(7, 12) + Duration::from_micros(1));
        assert_eq!(turn, 13);
    }

    #[test]
    fn each_mover_is_a_user_and_viewers_share_theirs() {
        let users = PARTY.users();
        assert_eq!(users.len(), 100 + 900_usize.div_ceil(120));
        assert_eq!([0, 99, 100, 219, 220, 999].map(|number| PARTY.user(number)), [0, 99, 100, 100, 101, 107]);
        let alone = Party { viewers_per_user: 1, ..PARTY };
        assert_eq!((alone.users().len(), alone.user(999)), (1_000, 999));
        assert_eq!(Party { connections: 100, ..PARTY }.users().len(), 100);
    }

    #[test]
    fn frames_are_allowed_by_the_tick_that_held_at_each_time_of_the_window() {
        let window = Some(Window { from_ms: 1_000, to_ms: 3_000 });
        let mut told = Told::new(50, 0);
        told.change(100, 500, None);
        told.change(50, 2_000, window);
        told.change(50, 3_000, window);
        assert_eq!(told.allowed, 10.0 + 20.0);
    }

    #[test]
    fn a_frame_that_many_get_is_read_once() {
        let movers = HashMap::from([("a".to_owned(), 0)]);
        let frame = |at: u32| {
            let data = format!(r#"{{"documentId":"d","cursors":[{{"connectionId":"a","timestamp":{at}}}]}}"#);
            format!(r#"{{"type":"cursor_update","data":{data}}}"#)
        };
        let mut lookout = Lookout::new();
        for at in [1, 1, 2, 1, 2] {
            let said = lookout.read(&frame(at), &movers).expect("a frame");
            assert_eq!(*said, [Sighting { mover: 0, sent_ms: at.into() }]);
        }
        assert_eq!((lookout.distinct, lookout.frames.len()), (2, 2));
        (0..100).for_each(|at| drop(lookout.read(&frame(at), &movers)));
        assert_eq!(lookout.frames.len(), FRAMES_REMEMBERED);
    }
}
