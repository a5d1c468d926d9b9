//! The promise: a node holds no more of people than it must. Who reads nothing costs a bounded memory, delays nobody and
//! is told the newest later; and of those who came and left nothing is held in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::{join_all, try_join, try_join_all};
use mille_tests::{
    Builder, Client, Cluster, KEPT_UNREAD_BYTES_MAX, Project, RawSocket, Token, documents as d, eventually, patience,
    soon,
};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

const MEGABYTE: u64 = 1024 * 1024;
/// Held by the test whose turn it is: each loads the machine by itself.
static TURN: Mutex<()> = Mutex::const_new(());

/// Nodes whose memory is in pages of the usual size: with huge ones, what they hold is told in steps of 2 MB.
fn measured(nodes: usize) -> Builder {
    Cluster::of(nodes).with("MIMALLOC_ALLOW_THP", "0")
}

// ---- who reads nothing -------------------------------------------------------------------------------------------

/// Move their cursors all the time, half of them at each node.
const MOVERS: usize = 24;
/// Come and leave all the time, at the other node.
const GUESTS: usize = 12;
/// Read nothing for a while.
const SLEEPERS: usize = 8;
/// How long everybody reads, until the node has the memory that this takes.
const WARM_TIME: Duration = Duration::from_secs(5);
/// How long the sleepers read nothing. What their systems have no room for they drop. The node's system sends it again after
/// waits that double from a fifth of a second on: the one that this falls into is over 26 to 30 s after the first try, which is
/// sooner than a node gives up a socket that takes nothing.
const SLEEP_TIME: Duration = Duration::from_secs(22);
/// What the sleepers may add to the node's memory, what it remembers of the guests included.
const HELD_BYTES_MAX: u64 = 4 * MEGABYTE;
/// What each of them is not told meanwhile: a multiple of that, or the bound means nothing.
const TOLD_BYTES_MIN: u64 = 2 * HELD_BYTES_MAX;
/// How long that wait may be for a sleeper who has read what its system kept.
const SENT_AGAIN_SECONDS: f64 = 20.0;
/// How old a position may be when somebody else sees it.
const STALE_SECONDS_MAX: f64 = 1.0;
/// Bytes of a name: long ones make for large frames.
const NAME_BYTES: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_nothing_costs_little_delays_nobody_and_finds_the_newest_later() -> Result<()> {
    let _turn = TURN.lock().await;
    let mut cluster = measured(2).start().await?;
    let mut room = Room::open(&cluster).await?;
    room.bustle(WARM_TIME, true).await.context("while everyone reads")?;
    let before = cluster.memory_bytes(0)?;
    let seen = room.bustle(SLEEP_TIME, false).await.context("while some sleep")?;
    let held = cluster.memory_bytes(0)?.saturating_sub(before);
    ensure!(seen.bytes >= TOLD_BYTES_MIN, "only {} bytes were told: this run shows little", seen.bytes);
    eprintln!("{held} bytes are held for {SLEEPERS} who read nothing of {} bytes", seen.bytes);
    ensure!(held <= HELD_BYTES_MAX, "{held} bytes more for {SLEEPERS} who read nothing of {} bytes", seen.bytes);
    ensure!(seen.stalest <= patience(STALE_SECONDS_MAX), "a position was {:?} old when it was seen", seen.stalest);
    let seconds = usize::try_from(SLEEP_TIME.as_secs())?;
    let is_often = seen.positions.values().all(|count| *count >= seconds);
    ensure!(seen.positions.len() == MOVERS && is_often, "seldom seen: {:?}", seen.positions);

    let last = room.stop().await?;
    let presence = room.owner.ask(d::PRESENCE, "projectPresence", json!({"p": room.project.id})).await?;
    let truth: BTreeSet<String> = presence.as_array().context("a list")?.iter().filter_map(user_of).collect();
    ensure!(truth.len() == MOVERS + GUESTS + SLEEPERS + 1, "everyone is there: {truth:?}");
    // All at once: whose turn came late would sleep on.
    let waking = room.sleepers.iter_mut().map(async |sleeper| {
        let bytes = sleeper.catch_up(&last, &truth).await.with_context(|| sleeper.user.clone())?;
        // What the systems at both ends had on its way is read first.
        ensure!(bytes < seen.bytes / 3 * 2, "{} was told everything after all: {bytes} bytes", sleeper.user);
        Ok(())
    });
    try_join_all(waking).await?;
    cluster.must_live()
}

/// Everyone in one document.
struct Room {
    owner: Client,
    project: Project,
    began: Instant,
    movers: Vec<Person>,
    guests: Vec<Person>,
    sleepers: Vec<Person>,
    /// Reads all the while, at the node of the sleepers.
    reader: Person,
}

/// What the reader saw.
#[derive(Debug, Default)]
struct Seen {
    bytes: u64,
    stalest: Duration,
    /// How many positions of each mover.
    positions: BTreeMap<String, usize>,
}

impl Room {
    async fn open(cluster: &Cluster) -> Result<Self> {
        let owner = cluster.user(0, "reader");
        let project = owner.create_project("harbour").await?;
        let join = async |node: usize, name: String| {
            owner.share(&project, &name, "VIEWER").await?;
            Person::in_plan(cluster, node, &project, &name).await
        };
        let (mut movers, mut guests, mut sleepers) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..MOVERS {
            movers.push(join(index % 2, format!("mover-{index}")).await?);
        }
        for index in 0..GUESTS {
            guests.push(join(1, format!("guest-{index}")).await?);
        }
        for index in 0..SLEEPERS {
            sleepers.push(join(0, format!("sleeper-{index}")).await?);
        }
        let reader = Person::in_plan(cluster, 0, &project, "reader").await?;
        Ok(Self { owner, project, began: Instant::now(), movers, guests, sleepers, reader })
    }

    /// Movers move and guests come and leave for a while. Brings what the reader saw.
    async fn bustle(&mut self, during: Duration, sleepers_read: bool) -> Result<Seen> {
        let (began, until) = (self.began, Instant::now() + during);
        let moving = try_join_all(self.movers.iter_mut().map(|mover| mover.move_about(began, until)));
        let visiting = try_join_all(self.guests.iter_mut().map(|guest| guest.come_and_leave(until)));
        let awake = self.sleepers.iter_mut().filter(|_| sleepers_read);
        let reading = try_join_all(awake.map(|sleeper| sleeper.read(began, until)));
        let (_, (_, (_, seen))) =
            try_join(moving, try_join(visiting, try_join(reading, self.reader.read(began, until)))).await?;
        Ok(seen)
    }

    /// Everyone moves once more, and the reader has seen it. Brings where they are.
    async fn stop(&mut self) -> Result<BTreeMap<String, f64>> {
        let mut last = BTreeMap::new();
        for (index, mover) in self.movers.iter_mut().enumerate() {
            let x = -1.0 - index as f64;
            mover.move_to(x).await?;
            last.insert(mover.user.clone(), x);
        }
        let mut places = BTreeMap::new();
        while places != last {
            let text = self.reader.hear().await?;
            places.extend(positions_in(&text)?);
        }
        Ok(last)
    }
}

/// Somebody with a bare socket: what is not asked for stays unread.
struct Person {
    user: String,
    socket: RawSocket,
}

impl Person {
    async fn open(cluster: &Cluster, node: usize, project: &Project, user: &str) -> Result<Self> {
        let token = Token::of(user).sign();
        let url = format!("{}/ws/collaboration?project_id={}&token={token}", cluster.ws_url(node), project.id);
        Ok(Self { user: user.to_owned(), socket: RawSocket::open(&url, &[]).await? })
    }

    async fn in_plan(cluster: &Cluster, node: usize, project: &Project, user: &str) -> Result<Self> {
        let mut person = Self::open(cluster, node, project, user).await?;
        person.join(NAME_BYTES, Some("plan")).await?;
        Ok(person)
    }

    /// Joins and has the roster.
    async fn join(&mut self, name_bytes: usize, document: Option<&str>) -> Result<()> {
        let name = format!("{:x<name_bytes$}", self.user);
        let color = format!("{:x<name_bytes$}", "#336699");
        let data = json!({"userId": self.user, "userName": name, "avatarColor": color, "documentId": document});
        self.say("join_session", data).await?;
        while !self.hear().await?.starts_with(r#"{"type":"bulk_presence""#) {}
        Ok(())
    }

    async fn leave(&mut self) -> Result<()> {
        self.say("leave_session", json!({})).await
    }

    /// Moves to where the time is, again and again, and sees it each time.
    async fn move_about(&mut self, began: Instant, until: Instant) -> Result<()> {
        while Instant::now() < until {
            let x = began.elapsed().as_micros() as f64;
            self.move_to(x).await?;
            while positions_in(&self.hear().await?)?.get(&self.user) != Some(&x) {}
        }
        Ok(())
    }

    async fn come_and_leave(&mut self, until: Instant) -> Result<()> {
        while Instant::now() < until {
            self.leave().await?;
            self.join(NAME_BYTES, Some("plan")).await?;
            // Three times that cursors are told: not more often than a connection may.
            let stay = async {
                for _ in 0..3 {
                    while !is_cursors(&self.hear().await?) {}
                }
                Ok::<_, anyhow::Error>(())
            };
            // At the end nobody moves any more.
            timeout_at(until, stay).await.unwrap_or(Ok(()))?;
        }
        Ok(())
    }

    async fn read(&mut self, began: Instant, until: Instant) -> Result<Seen> {
        let mut seen = Seen::default();
        while let Ok(text) = timeout_at(until, self.hear()).await {
            let text = text?;
            seen.bytes += text.len() as u64;
            for (mover, x) in positions_in(&text)? {
                let age = began.elapsed().saturating_sub(Duration::from_micros(x as u64));
                seen.stalest = seen.stalest.max(age);
                *seen.positions.entry(mover).or_default() += 1;
            }
        }
        Ok(seen)
    }

    /// Reads until the places and the people are these, and a ping is answered. Brings how many bytes that took.
    async fn catch_up(&mut self, places: &BTreeMap<String, f64>, people: &BTreeSet<String>) -> Result<u64> {
        let (mut bytes, mut seen, mut roster) = (0, BTreeMap::new(), BTreeSet::new());
        let (mut is_asked, mut is_answered) = (false, false);
        while !is_answered {
            let is_behind = bytes < KEPT_UNREAD_BYTES_MAX;
            let heard = self.hear_within(if is_behind { patience(SENT_AGAIN_SECONDS) } else { soon() }).await;
            let text = heard.with_context(|| format!("after {bytes} bytes it knows {seen:?} and {roster:?}"))?;
            bytes += text.len() as u64;
            seen.extend(positions_in(&text)?);
            let message: Value = serde_json::from_str(&text)?;
            let data = &message["data"];
            match message["type"].as_str() {
                Some("pong") => is_answered = true,
                Some("bulk_presence") => {
                    roster = data.as_array().context("a list")?.iter().filter_map(user_of).collect();
                }
                Some("user_presence") if data["isOnline"] == true => roster.extend(user_of(data)),
                Some("user_presence") => drop(user_of(data).map(|user| roster.remove(&user))),
                _ => {}
            }
            if !is_asked && seen == *places && roster == *people {
                self.socket.text(r#"{"type":"ping"}"#).await?;
                is_asked = true;
            }
        }
        ensure!(seen == *places && roster == *people, "it knows {seen:?} and {roster:?}");
        Ok(bytes)
    }

    async fn move_to(&mut self, x: f64) -> Result<()> {
        let position = json!({"type": "canvas", "x": x, "y": 0.0});
        let data = json!({"documentId": "plan", "documentType": "canvas", "position": position, "timestamp": 1});
        self.say("cursor_update", data).await
    }

    async fn say(&mut self, kind: &str, data: Value) -> Result<()> {
        self.socket.text(json!({"type": kind, "data": data}).to_string()).await
    }

    async fn hear(&mut self) -> Result<String> {
        self.hear_within(soon()).await
    }

    async fn hear_within(&mut self, patience: Duration) -> Result<String> {
        let text = self.socket.next_text_within(patience).await.with_context(|| self.user.clone())?;
        ensure!(!text.starts_with(r#"{"type":"error""#), "{}: {text}", self.user);
        Ok(text)
    }
}

fn is_cursors(text: &str) -> bool {
    text.starts_with(r#"{"type":"cursor_update""#)
}

/// Whose cursor is where, if this is a frame of cursors.
fn positions_in(text: &str) -> Result<BTreeMap<String, f64>> {
    if !is_cursors(text) {
        return Ok(BTreeMap::new());
    }
    let message: Value = serde_json::from_str(text)?;
    let cursors = message["data"]["cursors"].as_array().context("cursors")?;
    let places = cursors.iter().filter_map(|cursor| Some((user_of(cursor)?, cursor["position"]["x"].as_f64()?)));
    Ok(places.collect())
}

fn user_of(data: &Value) -> Option<String> {
    data["userId"].as_str().map(str::to_owned)
}

// ---- who came and left -------------------------------------------------------------------------------------------

/// Joins, each with its leave.
const STAYS: usize = 100_000;
/// The same kind of work before, until the node has the memory that it takes.
const WARM_STAYS: usize = 5_000;
/// Small rooms: what is measured is not how many are told.
const ROOMS: usize = 100;
const SEATS_PER_ROOM: usize = 3;
/// Two frames as often make as many as a connection may send.
const STAY_INTERVAL: Duration = Duration::from_millis(110);
/// Seats that are taken once more with each look at the memory.
const FEW_SEATS: usize = 30;
/// Of so many who stay one vanishes without a word, and is gone with the grace.
const VANISHING: usize = 10;
/// What may be left of all that, in hundredths of what was held before. Less would measure how soon the allocator gives back
/// what is free.
const KEPT_PERCENT_MAX: u64 = 10;
/// The grace, the minute for which it is remembered that somebody left, and twice that for the allocator.
const FORGOTTEN_SECONDS: f64 = 200.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_who_came_and_left_are_forgotten() -> Result<()> {
    let turn = TURN.lock().await;
    let mut cluster = measured(1).start().await?;
    let owner = cluster.user(0, "olga");
    let mut rooms = Vec::new();
    for room in 0..ROOMS {
        let project = owner.create_project(&format!("room {room}")).await?;
        for seat in 0..SEATS_PER_ROOM {
            let user = format!("guest-{seat}");
            owner.share(&project, &user, "VIEWER").await?;
            rooms.push((project, user));
        }
    }
    stay_and_leave(&cluster, &rooms, WARM_STAYS).await?;
    // Else what was held before had those in it who are remembered, and a tenth more might hide as many again. Meanwhile nothing
    // is done here.
    drop(turn);
    all_are_forgotten(&cluster).await?;
    let turn = TURN.lock().await;
    stay_and_leave(&cluster, &rooms[..FEW_SEATS], FEW_SEATS).await?;
    let before = cluster.memory_bytes(0)?;
    stay_and_leave(&cluster, &rooms, STAYS).await?;
    let between = cluster.memory_bytes(0)?;
    drop(turn);
    all_are_forgotten(&cluster).await?;
    eventually(patience(FORGOTTEN_SECONDS), async || {
        // A thread gives back what is free when it works, so there must be a little work.
        stay_and_leave(&cluster, &rooms[..FEW_SEATS], FEW_SEATS).await?;
        let now = cluster.memory_bytes(0)?;
        ensure!(
            now <= before + before / 100 * KEPT_PERCENT_MAX,
            "{now} bytes are held, {before} before, {between} between"
        );
        eprintln!("{now} bytes are held, {before} before, {between} between");
        Ok(())
    })
    .await?;
    cluster.must_live()
}

/// Waits until nobody is present, nor remembered as somebody who left.
async fn all_are_forgotten(cluster: &Cluster) -> Result<()> {
    eventually(patience(FORGOTTEN_SECONDS), async || {
        let told = cluster.metrics(0).await?;
        for name in ["presence_members", "presence_remembered"] {
            let count = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            ensure!(count == Some("0"), "{name}: {count:?}");
        }
        Ok(())
    })
    .await
}

/// Takes all seats, and each is left and taken again so often that it comes to so many stays, each of them in a document. Some
/// are taken once more in the end, and their sockets are dropped.
async fn stay_and_leave(cluster: &Cluster, rooms: &[(Project, String)], stays: usize) -> Result<()> {
    let mut seats = Vec::new();
    for (project, user) in rooms {
        seats.push(Person::open(cluster, 0, project, user).await?);
    }
    let each = stays.div_ceil(seats.len());
    let one = async |seat: &mut Person| {
        let mut pace = interval(STAY_INTERVAL);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for _ in 0..each {
            pace.tick().await;
            seat.join(0, Some("plan")).await?;
            seat.leave().await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    join_all(seats.iter_mut().map(one)).await.into_iter().collect::<Result<()>>()?;
    for seat in seats.iter_mut().step_by(VANISHING) {
        seat.join(0, Some("plan")).await?;
    }
    Ok(())
}
