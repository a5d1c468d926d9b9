//! The cluster's Redis, asked by the bench itself: how long its bare round trip takes, and which commands it served.
//!
//! A connection of its own, with the few words of RESP that this takes. Only a Redis without TLS can be asked.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http::Uri;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::state;

/// Patience with one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two PINGs.
const PING_EVERY: Duration = Duration::from_millis(10);
/// Bytes of an answer; INFO has some thousands.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Connections to the servers that take writes: the only one, the one that sentinels watch over, or all primaries.
#[derive(Debug)]
pub(crate) struct Primaries(Vec<Redis>);

impl Primaries {
    /// Connects to them.
    ///
    /// # Errors
    /// When a server is not reached by `redis://`, does not answer, or when none takes writes.
    pub(crate) async fn connect(redis: &state::Redis) -> Result<Self> {
        let mut primaries = Vec::new();
        for address in redis.addresses() {
            let mut server = Redis::connect(&address).await?;
            if server.is_primary().await? {
                primaries.push(server);
            }
        }
        ensure!(!primaries.is_empty(), "no Redis takes writes");
        Ok(Self(primaries))
    }

    /// How often each command was served since they began, from functions too, by all of them together.
    ///
    /// # Errors
    /// When one does not tell.
    pub(crate) async fn commands(&mut self) -> Result<BTreeMap<String, u64>> {
        let mut all = BTreeMap::new();
        for primary in &mut self.0 {
            for (name, calls) in primary.commands().await? {
                *all.entry(name).or_default() += calls;
            }
        }
        Ok(all)
    }

    /// When they bring their files to disk: the first one, as all are begun alike.
    ///
    /// # Errors
    /// When it does not tell.
    pub(crate) async fn appendfsync(&mut self) -> Result<String> {
        let first = self.0.first_mut().context("no Redis takes writes")?;
        first.appendfsync().await
    }

    /// Lets them bring their files to disk at other times.
    ///
    /// # Errors
    /// When one refuses.
    pub(crate) async fn set_appendfsync(&mut self, when: &str) -> Result<()> {
        for primary in &mut self.0 {
            primary.set_appendfsync(when).await?;
        }
        Ok(())
    }

    /// Measures the round trip of a PING to one of them again and again until told to stop.
    pub(crate) fn ping(mut self, stop: CancellationToken) -> JoinHandle<Result<Vec<Duration>>> {
        let first = self.0.swap_remove(0);
        first.ping(stop)
    }
}

/// A connection to Redis.
#[derive(Debug)]
struct Redis {
    stream: BufReader<TcpStream>,
}

impl Redis {
    /// Connects to `redis://[user:password@]host:port`.
    ///
    /// # Errors
    /// When the address is of another kind, or nobody answers there.
    async fn connect(url: &str) -> Result<Self> {
        let uri: Uri = url.parse().context("the address of Redis can't be read")?;
        ensure!(uri.scheme_str() == Some("redis"), "only a Redis at redis:// can be asked");
        let authority = uri.authority().context("the address of Redis has no host")?.as_str();
        let (user, place) = authority.rsplit_once('@').map_or((None, authority), |(user, place)| (Some(user), place));
        let stream = timeout(ANSWER_TIMEOUT, TcpStream::connect(place)).await.context("Redis does not answer")??;
        stream.set_nodelay(true)?;
        let mut redis = Self { stream: BufReader::new(stream) };
        if let Some((user, password)) = user.and_then(|user| user.split_once(':')) {
            let words = if user.is_empty() { vec!["AUTH", password] } else { vec!["AUTH", user, password] };
            redis.ask(&words).await?;
        }
        Ok(redis)
    }

    /// How often each command was served since Redis began, from functions too.
    ///
    /// # Errors
    /// When Redis does not tell.
    async fn commands(&mut self) -> Result<BTreeMap<String, u64>> {
        Ok(calls(&self.ask(&["INFO", "commandstats"]).await?))
    }

    /// When Redis brings its file to disk.
    ///
    /// # Errors
    /// When Redis does not tell.
    async fn appendfsync(&mut self) -> Result<String> {
        let answer = self.ask(&["CONFIG", "GET", "appendfsync"]).await?;
        answer.lines().nth(1).map(str::to_owned).context("Redis does not tell when it writes")
    }

    /// Lets Redis bring its file to disk at other times.
    ///
    /// # Errors
    /// When Redis refuses.
    async fn set_appendfsync(&mut self, when: &str) -> Result<()> {
        self.ask(&["CONFIG", "SET", "appendfsync", when]).await.map(drop)
    }

    /// Whether it takes writes.
    async fn is_primary(&mut self) -> Result<bool> {
        Ok(self.ask(&["INFO", "replication"]).await?.contains("role:master"))
    }

    /// Measures the round trip of a PING again and again until told to stop.
    fn ping(mut self, stop: CancellationToken) -> JoinHandle<Result<Vec<Duration>>> {
        tokio::spawn(async move {
            let mut turns = interval(PING_EVERY);
            turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut times = Vec::new();
            loop {
                tokio::select! {
                    () = stop.cancelled() => return Ok(times),
                    _ = turns.tick() => {}
                }
                let asked = Instant::now();
                self.ask(&["PING"]).await?;
                times.push(asked.elapsed());
            }
        })
    }

    /// Sends a command and reads its answer as text; of a list, a line for each text in it.
    async fn ask(&mut self, words: &[&str]) -> Result<String> {
        let mut command = format!("*{}\r\n", words.len());
        for word in words {
            command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        let answer = async {
            self.stream.write_all(command.as_bytes()).await?;
            self.answer().await
        };
        timeout(ANSWER_TIMEOUT, answer).await.context("Redis does not answer")?
    }

    async fn answer(&mut self) -> Result<String> {
        let mut texts = Vec::new();
        let mut awaited = 1_usize;
        while awaited > 0 {
            awaited -= 1;
            let mut line = String::new();
            self.stream.read_line(&mut line).await?;
            let line = line.trim_end();
            let (kind, rest) = line.split_at_checked(1).context("the connection to Redis broke")?;
            match kind {
                "+" | ":" => texts.push(rest.to_owned()),
                "-" => bail!("Redis refuses: {rest}"),
                "*" => awaited += rest.parse::<usize>().unwrap_or(0),
                "$" => {
                    let length: usize = rest.parse().context("Redis has nothing to say")?;
                    ensure!(length <= ANSWER_BYTES_MAX, "an answer of Redis with {length} bytes");
                    let mut text = vec![0; length + 2];
                    self.stream.read_exact(&mut text).await?;
                    text.truncate(length);
                    texts.push(String::from_utf8(text)?);
                }
                other => bail!("an answer of Redis that begins with {other}"),
            }
        }
        Ok(texts.join("\n"))
    }
}

/// `cmdstat_fcall:calls=12,usec=…` and the like.
fn calls(info: &str) -> BTreeMap<String, u64> {
    let lines = info.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="));
    lines.filter_map(|(name, rest)| Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_by_command() {
        let info = "# Commandstats\r\ncmdstat_fcall:calls=12,usec=345,usec_per_call=28.75\r\ncmdstat_config|get:calls=1,usec=2\r\n";
        assert_eq!(calls(info), BTreeMap::from([("fcall".to_owned(), 12), ("config|get".to_owned(), 1)]));
    }

    #[tokio::test]
    async fn only_what_can_be_asked_is_asked() {
        let refused = Redis::connect("rediss://127.0.0.1:1").await.expect_err("it has TLS");
        assert!(refused.to_string().contains("redis://"), "{refused}");
    }
}
