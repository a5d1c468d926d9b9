//! A real `redis-server` of the test's own: a free loopback port, a directory that goes with it.
//!
//! With [`Redis::persistent`] it keeps what it acknowledged through a kill, as the shipped configuration does.
//! With [`Redis::replica_of`] it follows another one over a line that can be cut, and can take its place. Several of them
//! make a [`RedisCluster`] or stand behind [`RedisSentinels`].

mod cluster;
mod migration;
mod operator;
mod sentinels;
mod several;
mod users;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

pub use cluster::RedisCluster;
pub use sentinels::{MASTER_NAME, RedisSentinels};
pub use several::Setup;
pub use users::{NODES_PASSWORD, NODES_USER};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::patience::{eventually, soon, within};
use crate::process::{Process, free_port};
use crate::proxy::Proxy;
use crate::resp::{self, Reply};
use crate::tls::{Authority, Tunnel};

/// Entries of a stream read at once.
const PAGE_ENTRIES: &str = "200";
/// Pages of a stream; more than any test writes.
const PAGES_MAX: usize = 10_000;
/// Its configuration, in its directory. Redis writes it anew when a Sentinel tells it to.
const SETTINGS_FILE: &str = "redis.conf";

/// A private Redis. Dropping it ends the process and removes its data.
#[derive(Debug)]
pub struct Redis {
    process: Option<Process>,
    port: u16,
    kind: Kind,
    is_paused: AtomicBool,
    /// The line to the Redis it follows.
    line: Option<Proxy>,
    /// The way in for the test, where there is TLS.
    tunnel: Option<Tunnel>,
    /// What whoever comes without a name must show.
    password: Option<&'static str>,
    home: TempDir,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Store,
    Sentinel,
}

/// What a server is started with.
#[derive(Debug)]
struct Recipe {
    port: u16,
    kind: Kind,
    /// Whether what it keeps is to be on a disk.
    is_persistent: bool,
    /// Lines of its configuration.
    settings: Vec<String>,
    /// Files that it finds in its directory: name and text.
    files: Vec<(&'static str, String)>,
    line: Option<Proxy>,
}

/// An entry of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its id, `<epoch>-<seq>` in a plan's log.
    pub id: String,
    /// Its fields, in order.
    pub fields: Vec<(String, String)>,
}

impl Redis {
    /// Starts one that keeps nothing on disk.
    ///
    /// # Errors
    /// When `redis-server` is missing or does not answer.
    pub async fn start() -> Result<Self> {
        Self::start_with(false, None).await
    }

    /// Starts one with an append-only file and `appendfsync always`.
    ///
    /// # Errors
    /// As [`Redis::start`].
    pub async fn persistent() -> Result<Self> {
        Self::start_with(true, None).await
    }

    /// Starts a persistent one that follows `other`, and waits until it has what `other` has.
    ///
    /// # Errors
    /// As [`Redis::start`], and when it doesn't catch up.
    pub async fn replica_of(other: &Self) -> Result<Self> {
        let replica = Self::start_with(true, Some(Proxy::between_redis(other.port).await?)).await?;
        replica.catches_up_with(other).await?;
        Ok(replica)
    }

    /// `redis://127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port on the loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Asks one question on a connection of its own.
    ///
    /// # Errors
    /// When no answer comes, or it is an error.
    pub async fn ask(&self, words: &[&str]) -> Result<Reply> {
        self.ask_all(&[words]).await?.pop().context("no answer")
    }

    /// Asks several questions in one go, on a connection of their own.
    ///
    /// # Errors
    /// As [`Redis::ask`], of any of them.
    pub async fn ask_all<W: AsRef<str>>(&self, questions: &[impl AsRef<[W]>]) -> Result<Vec<Reply>> {
        let port = self.tunnel.as_ref().map_or(self.port, Tunnel::port);
        let Some(password) = self.password else { return ask_all(port, questions).await };
        let mut all: Vec<Vec<&str>> = vec![vec!["AUTH", password]];
        all.extend(questions.iter().map(|question| question.as_ref().iter().map(AsRef::as_ref).collect()));
        Ok(ask_all(port, &all).await?.split_off(1))
    }

    /// Every entry of a stream, oldest first.
    ///
    /// # Errors
    /// When Redis doesn't tell.
    pub async fn entries(&self, stream: &str) -> Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        for _ in 0..PAGES_MAX {
            let from = entries.last().map_or_else(|| "-".to_owned(), |last| format!("({}", last.id));
            let page = self.ask(&["XRANGE", stream, &from, "+", "COUNT", PAGE_ENTRIES]).await?;
            if page.items().is_empty() {
                return Ok(entries);
            }
            for item in page.items() {
                entries.push(entry(item)?);
            }
        }
        bail!("the pages of {stream} do not end")
    }

    /// The last entry of a stream.
    ///
    /// # Errors
    /// When Redis doesn't tell, or there is none.
    pub async fn last_entry(&self, stream: &str) -> Result<Entry> {
        let last = self.ask(&["XREVRANGE", stream, "+", "-", "COUNT", "1"]).await?;
        entry(last.items().first().with_context(|| format!("{stream} is empty"))?)
    }

    /// How often a command (in lower case) was executed since Redis was started, also by scripts.
    ///
    /// # Errors
    /// When Redis doesn't tell.
    pub async fn calls(&self, command: &str) -> Result<u64> {
        Ok(self.all_calls().await?.get(command).copied().unwrap_or(0))
    }

    /// The same of every command that was executed, but for the `info` by which it is asked.
    ///
    /// # Errors
    /// When Redis doesn't tell.
    pub async fn all_calls(&self) -> Result<BTreeMap<String, u64>> {
        let stats = self.ask(&["INFO", "commandstats"]).await?;
        let lines = stats.text().context("INFO is a text")?.lines().filter_map(|line| line.strip_prefix("cmdstat_"));
        let counts = lines.filter_map(|line| line.split(',').next()?.split_once(":calls="));
        let counts = counts.filter(|(command, _)| *command != "info");
        counts.map(|(command, count)| Ok((command.to_owned(), count.parse()?))).collect()
    }

    /// The numbers of those connections of which Redis says this word: `user=mille` of the nodes' user, `resp=3` of whoever
    /// speaks the newer protocol, as nodes do. No number is given twice.
    ///
    /// # Errors
    /// When Redis doesn't tell.
    pub async fn connections(&self, word: &str) -> Result<BTreeSet<u64>> {
        let list = self.ask(&["CLIENT", "LIST"]).await?;
        let lines = list.text().context("CLIENT LIST is a text")?.lines();
        let found = lines.filter(|line| line.split(' ').any(|found| found == word));
        let number = |line: &str| line.strip_prefix("id=")?.split(' ').next()?.parse().ok();
        found.map(|line| number(line).with_context(|| format!("no number: {line}"))).collect()
    }

    /// Stops it in the middle of whatever it does (SIGSTOP), until [`Redis::resume`].
    ///
    /// # Errors
    /// When it doesn't run.
    pub fn pause(&self) -> Result<()> {
        self.process.as_ref().context("Redis does not run")?.signal("STOP")?;
        self.is_paused.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it doesn't run.
    pub fn resume(&self) -> Result<()> {
        self.process.as_ref().context("Redis does not run")?.signal("CONT")?;
        self.is_paused.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Whether it runs and is not paused.
    #[must_use]
    pub fn is_awake(&self) -> bool {
        self.process.is_some() && !self.is_paused.load(Ordering::Relaxed)
    }

    /// Cuts a replica off: what the other one writes from now on it never gets.
    ///
    /// # Errors
    /// When it is no replica.
    pub fn cut_off(&self) -> Result<()> {
        self.line.as_ref().context("this Redis follows nobody")?.cut();
        Ok(())
    }

    /// Lets a replica that was cut off go on with what it missed.
    ///
    /// # Errors
    /// When it is no replica.
    pub fn join_again(&self) -> Result<()> {
        self.line.as_ref().context("this Redis follows nobody")?.mend();
        Ok(())
    }

    /// Makes a replica its own master.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn promote(&mut self) -> Result<()> {
        self.ask(&["REPLICAOF", "NO", "ONE"]).await?;
        self.line = None;
        Ok(())
    }

    /// Waits until a replica has everything that `other` has now, and hears what `other` is told from now on.
    ///
    /// A replica whose link is up may still hear nothing: until it has spoken for the first time, up to a second later, it is
    /// sent no more than the copy. So it must have something that came after.
    ///
    /// # Errors
    /// When it doesn't get there.
    pub async fn catches_up_with(&self, other: &Self) -> Result<()> {
        let mut due: Option<u64> = None;
        eventually(soon(), async || {
            if self.replication("master_link_status").await? != "up" {
                // A copy that was made meanwhile may reach as far.
                due = None;
                bail!("the replica has no link");
            }
            let due = match due {
                Some(due) => due,
                None => *due.insert(other.replication("master_repl_offset").await?.parse()?),
            };
            let here: u64 = self.replication("slave_repl_offset").await?.parse()?;
            ensure!(here > due, "the replica is at {here}, and was to get beyond {due}");
            Ok(())
        })
        .await
    }

    /// Ends it at once. What was not on disk is lost.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill_9(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill_9(),
            None => Ok(()),
        }
    }

    /// Starts it again on the same port with the same directory; kills it before, if it runs.
    ///
    /// # Errors
    /// As [`Redis::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.kill_9()?;
        self.is_paused.store(false, Ordering::Relaxed);
        self.process = Some(launch(self.kind, self.line.as_ref(), self.home.path())?);
        self.answers().await
    }

    /// The last lines of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        self.process.as_ref().map(Process::tail).unwrap_or_default()
    }

    /// One line of what it tells of its replication.
    async fn replication(&self, name: &str) -> Result<String> {
        let info = self.ask(&["INFO", "replication"]).await?;
        let prefix = format!("{name}:");
        let found = info.text().context("INFO is a text")?.lines().find_map(|line| line.strip_prefix(&prefix));
        found.map(str::to_owned).with_context(|| format!("Redis does not tell its {name}"))
    }

    async fn start_with(persistent: bool, line: Option<Proxy>) -> Result<Self> {
        let port = free_port()?;
        let settings = settings_of(port, persistent);
        let (kind, files) = (Kind::Store, Vec::new());
        let mut redis = Self::launch(Recipe { port, kind, is_persistent: persistent, settings, files, line })?;
        redis.answers().await?;
        Ok(redis)
    }

    /// Starts one and waits for nothing.
    fn launch(recipe: Recipe) -> Result<Self> {
        let home = home(recipe.is_persistent)?;
        for (name, text) in &recipe.files {
            std::fs::write(home.path().join(name), text)?;
        }
        let settings = format!("{}\ndir {}\n", recipe.settings.join("\n"), home.path().display());
        std::fs::write(home.path().join(SETTINGS_FILE), settings)?;
        let process = launch(recipe.kind, recipe.line.as_ref(), home.path())?;
        let Recipe { port, kind, line, .. } = recipe;
        let is_paused = AtomicBool::new(false);
        Ok(Self { process: Some(process), port, kind, is_paused, line, tunnel: None, password: None, home })
    }

    /// From now on the test comes in by TLS, and holds it for who it should be.
    async fn comes_in_by_tls(&mut self, name: &str, authority: &Authority) -> Result<()> {
        self.tunnel = Some(Tunnel::to(self.port, name, authority).await?);
        Ok(())
    }

    async fn answers(&mut self) -> Result<()> {
        eventually(soon(), async || {
            if let Some(process) = self.process.as_mut() {
                process.must_live()?;
            }
            self.ask(&["PING"]).await.map(drop)
        })
        .await
        .context("redis-server does not answer")
    }
}

/// Asks a Redis that is not the kit's own, and brings the answer to the last question: the first may say who asks.
///
/// # Errors
/// As [`Redis::ask`], of any of them.
pub async fn ask_redis(port: u16, questions: &[&[&str]]) -> Result<Reply> {
    ask_all(port, questions).await?.pop().context("no answer")
}

async fn ask_all<W: AsRef<str>>(port: u16, questions: &[impl AsRef<[W]>]) -> Result<Vec<Reply>> {
    let words = |question: &[W]| resp::command(&question.iter().map(AsRef::as_ref).collect::<Vec<_>>());
    let asked: Vec<u8> = questions.iter().flat_map(|question| words(question.as_ref())).collect();
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(&asked).await?;
        let (mut held, mut replies) = (Vec::new(), Vec::with_capacity(questions.len()));
        while replies.len() < questions.len() {
            ensure!(stream.read_buf(&mut held).await? > 0, "Redis let go");
            while let Some((reply, length)) = resp::first(&held)? {
                held.drain(..length);
                replies.push(reply);
            }
        }
        anyhow::Ok(replies)
    };
    let replies = within(soon(), "an answer of Redis", exchange).await??;
    for (question, reply) in questions.iter().zip(&replies) {
        if let Reply::Refused(reason) = reply {
            let words: Vec<&str> = question.as_ref().iter().map(AsRef::as_ref).collect();
            bail!("Redis refuses {words:?}: {reason}");
        }
    }
    Ok(replies)
}

fn entry(item: &Reply) -> Result<Entry> {
    let [id, fields] = item.items() else { bail!("no entry of a stream: {item:?}") };
    let text = |reply: &Reply| reply.text().map(str::to_owned).context("an entry holds texts");
    let fields = fields.items().chunks(2).map(|pair| Ok((text(&pair[0])?, text(pair.get(1).context("a value")?)?)));
    Ok(Entry { id: text(id)?, fields: fields.collect::<Result<_>>()? })
}

/// An id as Redis gives them to servers and sentinels.
fn random_id() -> String {
    format!("{:032x}{:08x}", rand::random::<u128>(), rand::random::<u32>())
}

/// What every store is started with.
fn settings_of(port: u16, persistent: bool) -> Vec<String> {
    let port = format!("port {port}");
    let lines = [
        port.as_str(),
        "bind 127.0.0.1",
        "save \"\"",
        "daemonize no",
        if persistent { "appendonly yes" } else { "appendonly no" },
        "appendfsync always",
        // A replica need not wait for others that might come.
        "repl-diskless-sync-delay 0",
        // So often a primary has something to send: see [`Redis::catches_up_with`].
        "repl-ping-replica-period 1",
    ];
    lines.map(str::to_owned).to_vec()
}

/// A directory on a disk, or else in memory: members of a cluster, and sentinels, write down what changes among them and wait
/// for it. A disk that is busy with something else lets them wait for seconds, and the others hold them for dead.
fn home(is_on_disk: bool) -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("mille-redis-");
    if !is_on_disk && let Ok(home) = builder.tempdir_in("/dev/shm") {
        return Ok(home);
    }
    Ok(builder.tempdir()?)
}

fn launch(kind: Kind, line: Option<&Proxy>, home: &Path) -> Result<Process> {
    let mut command = Command::new("redis-server");
    command.arg(home.join(SETTINGS_FILE));
    if let Some(line) = line {
        command.args(["--replicaof", "127.0.0.1", &line.port().to_string()]);
    }
    if kind == Kind::Sentinel {
        command.arg("--sentinel");
    }
    Process::start("redis-server", &mut command, &home.join("redis.log"))
        .context("the tests need redis-server (Debian: apt-get install redis-server)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_persistent_redis_keeps_what_it_acknowledged_and_another_one_does_not() -> Result<()> {
        for (mut redis, kept) in [(Redis::persistent().await?, true), (Redis::start().await?, false)] {
            redis.ask(&["SET", "pier", "7"]).await?;
            redis.kill_9()?;
            ensure!(redis.ask(&["GET", "pier"]).await.is_err(), "a killed Redis answers");
            redis.restart().await?;
            let found = redis.ask(&["GET", "pier"]).await?;
            ensure!((found.text() == Some("7")) == kept, "kept {kept}, found {found:?}");
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_replica_has_what_it_got_before_it_was_cut_off_and_can_take_over() -> Result<()> {
        let redis = Redis::persistent().await?;
        let mut replica = Redis::replica_of(&redis).await?;
        redis.ask(&["XADD", "log", "7-*", "h", "a"]).await?;
        replica.catches_up_with(&redis).await?;
        replica.cut_off()?;
        redis.ask(&["XADD", "log", "7-*", "h", "b"]).await?;
        assert_eq!((redis.entries("log").await?.len(), replica.entries("log").await?.len()), (2, 1));
        assert!(replica.ask(&["SET", "pier", "7"]).await.is_err(), "a replica takes writes");
        replica.promote().await?;
        replica.ask(&["XADD", "log", "7-*", "h", "c"]).await?;
        let last = replica.last_entry("log").await?;
        assert_eq!(last, Entry { id: "7-1".to_owned(), fields: vec![("h".to_owned(), "c".to_owned())] });
        assert_eq!((replica.calls("xadd").await?, replica.calls("xtrim").await?), (2, 0));
        Ok(())
    }

    #[tokio::test]
    async fn a_paused_redis_is_silent_and_goes_on() -> Result<()> {
        let redis = Redis::start().await?;
        redis.pause()?;
        let silence = within(std::time::Duration::from_millis(300), "silence", redis.ask(&["PING"])).await;
        ensure!(silence.is_err(), "a paused Redis answers");
        redis.resume()?;
        redis.ask(&["PING"]).await?;
        Ok(())
    }
}
