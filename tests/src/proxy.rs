//! The line between one node and Redis, which a test can cut, freeze, slow down, or make forgetful.
//!
//! Each node gets a line of its own, so a fault hits one node and no other. What a line does is decided by
//! the last thing that was asked of it; connections that exist obey at once, new ones from their start.
//!
//! A connection counts as a subscription from its first SUBSCRIBE on. Only messages of plans and of presence
//! can be lost on the way: a node's probes of its own connection pass, so the node believes it to be in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::process::free_port;
use crate::resp::{self, Reply};

/// Bytes taken from a socket at once. A frozen connection holds as many and then reads no further.
const CHUNK_BYTES: usize = 16 * 1024;
/// Bytes of one message from Redis. More is no message, and the connection ends.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Pieces of what Redis says that are on the way at once. More wait in Redis.
const CHUNKS_ON_THE_WAY_MAX: usize = 4_096;
/// How the channels of plans begin.
const PLAN_CHANNELS: &str = "mille:{plan:";
/// How the channels of projects begin, on which nodes tell each other who is present.
const PROJECT_CHANNELS: &str = "mille:{project:";
/// How a command begins that makes a connection a subscription.
const SUBSCRIBES: [&[u8]; 3] = [b"\r\n$9\r\nSUBSCRIBE\r\n", b"\r\n$10\r\nSSUBSCRIBE\r\n", b"\r\n$10\r\nPSUBSCRIBE\r\n"];

/// One line. Dropping it ends every connection on it.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    line: Arc<Line>,
    acceptor: JoinHandle<()>,
}

#[derive(Debug)]
struct Line {
    faults: watch::Sender<Faults>,
    /// Whether messages are read, or bytes passed as they are.
    reads_messages: bool,
    plans: Losses,
    presence: Losses,
    subscriptions: AtomicUsize,
}

/// Messages of one kind that are lost on the way.
#[derive(Debug)]
struct Losses {
    /// How their channels begin.
    channels: &'static str,
    to_lose: AtomicU32,
    lost: AtomicU32,
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy)]
struct Faults {
    /// The port it leads to.
    upstream: u16,
    /// Connections that began under a smaller number are cut.
    cuts: u32,
    /// The same for subscriptions.
    subscription_cuts: u32,
    is_closed: bool,
    refuses_subscriptions: bool,
    is_frozen: bool,
    /// How long what Redis says takes to the node.
    delay: Duration,
}

impl Proxy {
    /// A line to a Redis on this machine.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn to_redis(port: u16) -> Result<Self> {
        Self::start(port, true).await
    }

    /// A line between two Redis, whose bytes are nobody's business.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn between_redis(port: u16) -> Result<Self> {
        Self::start(port, false).await
    }

    /// Where to connect.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts every subscription and refuses new ones until [`Proxy::mend`]. Brings how many there were.
    pub fn cut_subscriptions(&self) -> usize {
        let cut = self.line.subscriptions.load(Ordering::SeqCst);
        self.line.faults.send_modify(|faults| {
            faults.subscription_cuts += 1;
            faults.refuses_subscriptions = true;
        });
        cut
    }

    /// Cuts every connection and refuses new ones until [`Proxy::mend`].
    pub fn cut(&self) {
        self.line.faults.send_modify(|faults| {
            faults.cuts += 1;
            faults.is_closed = true;
        });
    }

    /// Lets nothing through in either direction until [`Proxy::mend`], and closes nothing.
    pub fn freeze(&self) {
        self.line.faults.send_modify(|faults| faults.is_frozen = true);
    }

    /// Brings whatever Redis says so much later from now on, in order, until it is told otherwise.
    pub fn delay(&self, delay: Duration) {
        self.line.faults.send_modify(|faults| faults.delay = delay);
    }

    /// Ends cuts, refusals, frost and losses; not a delay.
    pub fn mend(&self) {
        self.lose_messages(0);
        self.lose_presence(0);
        self.line.faults.send_modify(|faults| {
            (faults.is_closed, faults.refuses_subscriptions, faults.is_frozen) = (false, false, false);
        });
    }

    /// Leads to another Redis from now on, and cuts what led to the one before.
    pub fn lead_to(&self, port: u16) {
        self.line.faults.send_modify(|faults| {
            faults.upstream = port;
            faults.cuts += 1;
        });
    }

    /// Loses the next `count` messages of plans, and no more than that.
    pub fn lose_messages(&self, count: u32) {
        self.line.plans.lose(count);
    }

    /// Loses the next `count` messages about who is present, and no more than that.
    pub fn lose_presence(&self, count: u32) {
        self.line.presence.lose(count);
    }

    /// How many messages of plans were lost so far.
    #[must_use]
    pub fn lost_messages(&self) -> u32 {
        self.line.plans.lost.load(Ordering::SeqCst)
    }

    /// How many messages about who is present were lost so far.
    #[must_use]
    pub fn lost_presence(&self) -> u32 {
        self.line.presence.lost.load(Ordering::SeqCst)
    }

    async fn start(upstream: u16, reads_messages: bool) -> Result<Self> {
        let port = free_port()?;
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let faults = Faults {
            upstream,
            cuts: 0,
            subscription_cuts: 0,
            is_closed: false,
            refuses_subscriptions: false,
            is_frozen: false,
            delay: Duration::ZERO,
        };
        let line = Arc::new(Line {
            faults: watch::Sender::new(faults),
            reads_messages,
            plans: Losses::of(PLAN_CHANNELS),
            presence: Losses::of(PROJECT_CHANNELS),
            subscriptions: AtomicUsize::new(0),
        });
        let acceptor = tokio::spawn(accept(listener, Arc::clone(&line)));
        Ok(Self { port, line, acceptor })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.acceptor.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, line: Arc<Line>) {
    while let Ok((client, _)) = listener.accept().await {
        let line = Arc::clone(&line);
        tokio::spawn(async move {
            // However it ends, both sides see it end.
            let _ = line.carry(client).await;
        });
    }
}

impl Line {
    async fn carry(&self, client: TcpStream) -> Result<()> {
        let born = *self.faults.borrow();
        let subscribed = Subscribed { line: self, is_one: AtomicBool::new(false) };
        let mut faults = self.faults.subscribe();
        let ended = faults.wait_for(|now| {
            let of_subscriptions = now.subscription_cuts != born.subscription_cuts;
            now.is_closed || now.cuts != born.cuts || of_subscriptions && subscribed.is_one.load(Ordering::SeqCst)
        });
        let carried = async {
            self.thawed().await?;
            let server = TcpStream::connect(("127.0.0.1", born.upstream)).await?;
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::select! {
                end = self.upwards(from_client, to_server, &subscribed) => end,
                end = self.downwards(from_server, to_client) => end,
            }
        };
        tokio::select! {
            // What is cut and thawed in one go must not bring what was frozen.
            biased;
            _ = ended => Ok(()),
            end = carried => end,
        }
    }

    async fn thawed(&self) -> Result<()> {
        self.faults.subscribe().wait_for(|now| !now.is_frozen).await.map(drop).context("the line is gone")
    }

    /// From the node to Redis; sees when the connection becomes a subscription.
    async fn upwards(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        subscribed: &Subscribed<'_>,
    ) -> Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES];
        // The end of the chunk before: a command may be torn.
        let mut seen: Vec<u8> = Vec::new();
        loop {
            let length = from.read(&mut chunk).await?;
            ensure!(length > 0, "the node let go");
            self.thawed().await?;
            seen.extend_from_slice(&chunk[..length]);
            if SUBSCRIBES.iter().any(|words| seen.windows(words.len()).any(|part| part == *words)) {
                ensure!(!self.faults.borrow().refuses_subscriptions, "no subscriptions at the moment");
                subscribed.note();
            }
            seen.drain(..seen.len().saturating_sub(SUBSCRIBES[1].len()));
            to.write_all(&chunk[..length]).await?;
        }
    }

    /// From Redis to the node, message by message, without those that are to be lost.
    async fn downwards(&self, from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> Result<()> {
        let (said, mut on_the_way) = mpsc::channel(CHUNKS_ON_THE_WAY_MAX);
        let late = async {
            while let Some((said_at, bytes)) = on_the_way.recv().await {
                let bytes: Vec<u8> = bytes;
                let due: Instant = said_at + self.faults.borrow().delay;
                if due > Instant::now() {
                    tokio::time::sleep_until(due).await;
                }
                to.write_all(&bytes).await?;
            }
            anyhow::Ok(())
        };
        // What was said before the end is still brought.
        let (heard, brought) = tokio::join!(self.listen(from, said), late);
        brought.and(heard)
    }

    /// Takes what Redis says, and when, without what is to be lost.
    async fn listen(&self, mut from: impl AsyncRead + Unpin, said: mpsc::Sender<(Instant, Vec<u8>)>) -> Result<()> {
        let mut held: Vec<u8> = Vec::with_capacity(CHUNK_BYTES);
        loop {
            let length = (&mut from).take(CHUNK_BYTES as u64).read_buf(&mut held).await?;
            ensure!(length > 0, "Redis let go");
            self.thawed().await?;
            if !self.reads_messages {
                said.send((Instant::now(), std::mem::take(&mut held))).await?;
                continue;
            }
            let (mut at, mut kept) = (0, Vec::new());
            while let Some((message, length)) = resp::first(&held[at..])? {
                if !self.is_lost(&message) {
                    kept.extend_from_slice(&held[at..at + length]);
                }
                at += length;
            }
            held.drain(..at);
            said.send((Instant::now(), kept)).await?;
            ensure!(held.len() <= MESSAGE_BYTES_MAX, "a message of more than {MESSAGE_BYTES_MAX} bytes");
        }
    }

    fn is_lost(&self, message: &Reply) -> bool {
        let Reply::Push(parts) = message else { return false };
        let [kind, channel, _] = parts.as_slice() else { return false };
        let (Some("message" | "smessage"), Some(channel)) = (kind.text(), channel.text()) else { return false };
        [&self.plans, &self.presence].iter().any(|losses| losses.take(channel))
    }
}

impl Losses {
    fn of(channels: &'static str) -> Self {
        Self { channels, to_lose: AtomicU32::new(0), lost: AtomicU32::new(0) }
    }

    fn lose(&self, count: u32) {
        self.to_lose.store(count, Ordering::SeqCst);
    }

    /// Whether a message on this channel is lost now.
    fn take(&self, channel: &str) -> bool {
        let one_less = |left: u32| left.checked_sub(1);
        let is_lost = channel.starts_with(self.channels)
            && self.to_lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok();
        self.lost.fetch_add(u32::from(is_lost), Ordering::SeqCst);
        is_lost
    }
}

/// Whether a connection is a subscription; counted while it lives.
struct Subscribed<'a> {
    line: &'a Line,
    is_one: AtomicBool,
}

impl Subscribed<'_> {
    fn note(&self) {
        if !self.is_one.swap(true, Ordering::SeqCst) {
            self.line.subscriptions.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Subscribed<'_> {
    fn drop(&mut self) {
        if self.is_one.load(Ordering::SeqCst) {
            self.line.subscriptions.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patience::{eventually, soon, within};
    use crate::redis::Redis;

    /// Someone on the line, who speaks RESP3 as nodes do.
    struct Peer {
        stream: TcpStream,
        held: Vec<u8>,
    }

    impl Peer {
        async fn on(proxy: &Proxy) -> Result<Self> {
            let stream = TcpStream::connect(("127.0.0.1", proxy.port())).await?;
            let mut peer = Self { stream, held: Vec::new() };
            peer.ask(&["HELLO", "3"]).await?;
            Ok(peer)
        }

        async fn ask(&mut self, words: &[&str]) -> Result<Reply> {
            self.stream.write_all(&resp::command(words)).await?;
            self.hear().await
        }

        async fn hear(&mut self) -> Result<Reply> {
            loop {
                if let Some((reply, length)) = resp::first(&self.held)? {
                    self.held.drain(..length);
                    return Ok(reply);
                }
                let length = within(soon(), "an answer", self.stream.read_buf(&mut self.held)).await??;
                ensure!(length > 0, "the line is cut");
            }
        }
    }

    async fn publish(redis: &Redis, channel: &str, message: &str) -> Result<()> {
        let heard = redis.ask(&["PUBLISH", channel, message]).await?;
        ensure!(heard == Reply::Number(1), "{heard:?} heard {message}");
        Ok(())
    }

    #[tokio::test]
    async fn a_message_of_the_kind_that_was_asked_for_is_lost_and_nothing_else_is() -> Result<()> {
        let (plans, presence) = ("mille:{plan:1}:events", "mille:{project:1}:events");
        let redis = Redis::start().await?;
        let proxy = Proxy::to_redis(redis.port()).await?;
        let mut peer = Peer::on(&proxy).await?;
        peer.ask(&["SUBSCRIBE", "mille:probe:x", plans, presence]).await?;
        peer.hear().await?;
        peer.hear().await?;
        for (channel, other) in [(plans, presence), (presence, plans)] {
            if channel == plans {
                proxy.lose_messages(1)
            } else {
                proxy.lose_presence(1)
            }
            publish(&redis, "mille:probe:x", "first").await?;
            publish(&redis, other, "second").await?;
            publish(&redis, channel, "lost").await?;
            publish(&redis, channel, "third").await?;
            for due in ["first", "second", "third"] {
                assert_eq!(peer.hear().await?.items()[2].text(), Some(due));
            }
        }
        assert_eq!((proxy.lost_messages(), proxy.lost_presence()), (1, 1));
        Ok(())
    }

    #[tokio::test]
    async fn subscriptions_are_cut_and_refused_while_others_pass() -> Result<()> {
        let redis = Redis::start().await?;
        let proxy = Proxy::to_redis(redis.port()).await?;
        let (mut listener, mut other) = (Peer::on(&proxy).await?, Peer::on(&proxy).await?);
        listener.ask(&["SUBSCRIBE", "pier"]).await?;
        assert_eq!(proxy.cut_subscriptions(), 1);
        assert!(listener.hear().await.is_err(), "a cut subscription speaks");
        assert_eq!(other.ask(&["PING"]).await?.text(), Some("PONG"));
        assert!(Peer::on(&proxy).await?.ask(&["SUBSCRIBE", "pier"]).await.is_err(), "a subscription passed");
        proxy.mend();
        Peer::on(&proxy).await?.ask(&["SUBSCRIBE", "pier"]).await?;
        Ok(())
    }

    #[tokio::test]
    async fn a_frozen_line_goes_on_and_a_cut_one_does_not() -> Result<()> {
        let redis = Redis::start().await?;
        let proxy = Proxy::to_redis(redis.port()).await?;
        let mut peer = Peer::on(&proxy).await?;
        proxy.freeze();
        peer.stream.write_all(&resp::command(&["PING"])).await?;
        assert!(within(Duration::from_millis(200), "silence", peer.hear()).await.is_err(), "a frozen line speaks");
        proxy.mend();
        assert_eq!(peer.hear().await?.text(), Some("PONG"));
        proxy.cut();
        assert!(peer.hear().await.is_err(), "a cut line speaks");
        assert!(Peer::on(&proxy).await.is_err(), "a closed line takes someone in");
        Ok(())
    }

    #[tokio::test]
    async fn a_slow_line_brings_everything_in_order_and_late() -> Result<()> {
        let redis = Redis::start().await?;
        let proxy = Proxy::to_redis(redis.port()).await?;
        let mut peer = Peer::on(&proxy).await?;
        let delay = Duration::from_millis(50);
        proxy.delay(delay);
        let asked = Instant::now();
        for word in ["one", "two"] {
            peer.stream.write_all(&resp::command(&["ECHO", word])).await?;
        }
        assert_eq!((peer.hear().await?.text(), peer.hear().await?.text()), (Some("one"), Some("two")));
        assert!(asked.elapsed() >= delay, "it came after {:?}", asked.elapsed());
        Ok(())
    }

    #[tokio::test]
    async fn what_was_frozen_is_gone_when_the_line_leads_elsewhere() -> Result<()> {
        let (redis, other) = (Redis::start().await?, Redis::start().await?);
        let proxy = Proxy::to_redis(redis.port()).await?;
        let mut peer = Peer::on(&proxy).await?;
        peer.ask(&["SUBSCRIBE", "mille:{plan:1}:events"]).await?;
        proxy.freeze();
        publish(&redis, "mille:{plan:1}:events", "frozen").await?;
        proxy.lead_to(other.port());
        proxy.mend();
        assert!(peer.hear().await.is_err(), "a message came through");
        Ok(())
    }

    #[tokio::test]
    async fn a_line_leads_where_it_is_told() -> Result<()> {
        let (redis, other) = (Redis::start().await?, Redis::start().await?);
        let proxy = Proxy::to_redis(redis.port()).await?;
        let mut peer = Peer::on(&proxy).await?;
        other.ask(&["SET", "pier", "7"]).await?;
        assert_eq!(peer.ask(&["GET", "pier"]).await?, Reply::Nothing);
        proxy.lead_to(other.port());
        assert!(peer.hear().await.is_err(), "the old connection lives");
        let found = eventually(soon(), async || Peer::on(&proxy).await?.ask(&["GET", "pier"]).await).await?;
        assert_eq!(found.text(), Some("7"));
        Ok(())
    }
}
