//! Tokens that count no more, as this node knows them: asked at every door, watched by every socket.
//!
//! It is all in memory, so that asking never waits. How it gets here and stays true is [`super::revoker`]'s work. A record is
//! kept until its tokens have expired; if a token turns up that expires later than its record ends, the record's end moves.

use std::collections::HashMap;
use std::future::{pending, poll_fn};
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use mille_shared::revocation::{Revocation, Revoked};
use mille_shared::{Timestamp, TokenId, UserId, limits};
use parking_lot::RwLock;
use tokio::sync::{Notify, watch};

use super::identity::Identity;
use crate::clock;
use crate::quiet::Quiet;

/// Records in memory: those of a full store, and as many that it lost. At this number those that end first are given up.
const RECORDS_MAX: usize = 2 * limits::REVOCATIONS_MAX;

/// What a token was revoked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevokedBy {
    /// Its own id.
    Token,
    /// Its user.
    User,
}

/// That a token was revoked, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevokedToken {
    /// By what.
    pub by: RevokedBy,
    /// When, by the clock of the node that was told.
    pub at: Timestamp,
}

impl RevokedToken {
    /// How long ago, as far as the two nodes' clocks agree.
    #[must_use]
    pub fn age(&self) -> Duration {
        Duration::from_millis(u64::try_from(clock::now().unix_ms - self.at.unix_ms).unwrap_or_default())
    }
}

/// The revocations this node knows. Cheap to clone; the clones share them.
#[derive(Clone)]
pub struct RevokedTokens {
    inner: Arc<Inner>,
}

struct Inner {
    /// How long after its expiry a token still counts.
    leeway: Duration,
    records: RwLock<Records>,
    /// Told of each revocation that is new here.
    news: watch::Sender<()>,
    /// How often it was.
    times: AtomicU64,
    /// A record's end was moved: the store must learn of it.
    moved: Notify,
}

#[derive(Default)]
struct Records {
    tokens: HashMap<TokenId, Record>,
    users: HashMap<UserId, Record>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    at: Timestamp,
    until: Timestamp,
}

impl RevokedTokens {
    /// None yet. `leeway`: how long after its expiry a token still counts.
    #[must_use]
    pub fn new(leeway: Duration) -> Self {
        let inner = Inner {
            leeway,
            records: RwLock::default(),
            news: watch::Sender::new(()),
            times: AtomicU64::new(0),
            moved: Notify::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Whether a good token was revoked.
    #[must_use]
    pub fn find(&self, identity: &Identity) -> Option<RevokedToken> {
        let ends = self.last_moment_of(identity);
        let (found, outlives) = {
            let records = self.inner.records.read();
            let (by, record) = records.find(identity)?;
            (RevokedToken { by, at: record.at }, ends > record.until)
        };
        if outlives {
            self.inner.records.write().extend(found.by, identity, ends);
            self.inner.moved.notify_one();
        }
        Some(found)
    }

    /// Watches for the revocation of one session's token.
    #[must_use]
    pub fn watch(&self) -> RevocationWatch {
        RevocationWatch { revoked: self.clone(), next: next_news(self.inner.news.subscribe()) }
    }

    /// How often there were new ones. Who has looked since the last of them knows them all.
    #[must_use]
    pub fn times(&self) -> u64 {
        self.inner.times.load(Ordering::Acquire)
    }

    /// The moment from which a token that expires then counts nowhere.
    #[must_use]
    pub(super) fn with_leeway(&self, expires_at: Timestamp) -> Timestamp {
        expires_at.after(self.inner.leeway)
    }

    /// Takes revocations; sessions look whether they are meant, if any of them is news.
    pub(in crate::gateway) fn take(&self, revocations: &[(Revocation, Timestamp)]) {
        let mut records = self.inner.records.write();
        let mut are_news = false;
        for (revocation, until) in revocations {
            are_news |= records.take(revocation, *until);
        }
        drop(records);
        if are_news {
            self.inner.news.send_replace(());
            // Behind it, so that whoever sees the number and looks then sees the news.
            self.inner.times.fetch_add(1, Ordering::Release);
        }
    }

    /// Forgets what has ended, and answers what is left that `stored` has not, or not as late.
    pub(super) fn lacking(&self, stored: &[(Revocation, Timestamp)], now: Timestamp) -> Vec<(Revocation, Timestamp)> {
        let stored: HashMap<&Revoked, Record> = stored
            .iter()
            .map(|(revocation, until)| (&revocation.what, Record { at: revocation.at, until: *until }))
            .collect();
        let mut records = self.inner.records.write();
        records.forget(now);
        let has = |what: &Revoked, record: &Record| {
            stored.get(what).is_some_and(|stored| stored.at >= record.at && stored.until >= record.until)
        };
        records
            .all()
            .filter(|(what, record)| !has(what, record))
            .map(|(what, record)| (Revocation { what, at: record.at }, record.until))
            .collect()
    }

    /// Waits until a record's end was moved.
    pub(super) async fn moved(&self) {
        self.inner.moved.notified().await;
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.records.read().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn last_moment_of(&self, identity: &Identity) -> Timestamp {
        let ms = i64::try_from(identity.expires_at.saturating_mul(1_000)).unwrap_or(i64::MAX);
        self.with_leeway(Timestamp::from_unix_ms(ms))
    }
}

impl Records {
    fn find(&self, identity: &Identity) -> Option<(RevokedBy, Record)> {
        let token = identity.token_id.as_ref().and_then(|id| self.tokens.get(id));
        if let Some(record) = token {
            return Some((RevokedBy::Token, *record));
        }
        let record = self.users.get(&identity.user_id)?;
        Revocation::meets_issued(record.at, identity.issued_at).then_some((RevokedBy::User, *record))
    }

    /// Answers whether it is news: no record yet, or tokens are meant that were not.
    fn take(&mut self, revocation: &Revocation, until: Timestamp) -> bool {
        if self.len() >= RECORDS_MAX {
            self.make_room();
        }
        let record = Record { at: revocation.at, until };
        match &revocation.what {
            Revoked::Token(id) => merge(&mut self.tokens, id, record),
            Revoked::User(id) => merge(&mut self.users, id, record),
        }
    }

    fn extend(&mut self, by: RevokedBy, identity: &Identity, until: Timestamp) {
        let record = match by {
            RevokedBy::Token => identity.token_id.as_ref().and_then(|id| self.tokens.get_mut(id)),
            RevokedBy::User => self.users.get_mut(&identity.user_id),
        };
        if let Some(record) = record {
            record.until = record.until.max(until);
        }
    }

    fn forget(&mut self, now: Timestamp) {
        self.tokens.retain(|_, record| record.until > now);
        self.users.retain(|_, record| record.until > now);
    }

    /// Gives up the tenth that ends first: only a store that was filled, lost and filled again can bring us here.
    fn make_room(&mut self) {
        let mut ends: Vec<Timestamp> = self.all().map(|(_, record)| record.until).collect();
        let tenth = ends.len() / 10;
        let (_, end, _) = ends.select_nth_unstable(tenth);
        let end = *end;
        self.forget(end);
        tracing::error!(kept = self.len(), "too many revocations; those that end first are given up on this node");
    }

    fn all(&self) -> impl Iterator<Item = (Revoked, Record)> {
        let tokens = self.tokens.iter().map(|(id, record)| (Revoked::Token(id.clone()), *record));
        tokens.chain(self.users.iter().map(|(id, record)| (Revoked::User(id.clone()), *record)))
    }

    fn len(&self) -> usize {
        self.tokens.len() + self.users.len()
    }
}

/// The later moment and the later end count.
fn merge<K: Eq + Hash + Clone>(records: &mut HashMap<K, Record>, key: &K, record: Record) -> bool {
    let Some(known) = records.get_mut(key) else {
        records.insert(key.clone(), record);
        return true;
    };
    let is_news = record.at > known.at;
    *known = Record { at: known.at.max(record.at), until: known.until.max(record.until) };
    is_news
}

/// What a session holds to learn that its token was revoked. Costs nothing while nothing is revoked; a revocation makes every
/// session look once.
pub struct RevocationWatch {
    revoked: RevokedTokens,
    next: NextNews,
}

type NextNews = Quiet<Pin<Box<dyn Future<Output = watch::Receiver<()>> + Send>>>;

fn next_news(mut news: watch::Receiver<()>) -> NextNews {
    Quiet::new(Box::pin(async move {
        if news.changed().await.is_err() {
            pending::<()>().await;
        }
        news
    }))
}

impl RevocationWatch {
    /// Ready once there was news since the last look and the token is revoked by now. A session that has no identity yet is
    /// judged when it gets one.
    pub fn poll(&mut self, cx: &mut Context<'_>, identity: Option<&Identity>) -> Poll<RevokedToken> {
        while let Poll::Ready(news) = self.next.poll_unpin(cx) {
            self.next = next_news(news);
            if let Some(found) = identity.and_then(|identity| self.revoked.find(identity)) {
                return Poll::Ready(found);
            }
        }
        Poll::Pending
    }

    /// Waits until the token is revoked. Cancel-safe.
    pub async fn revoked(&mut self, identity: &Identity) -> RevokedToken {
        poll_fn(|cx| self.poll(cx, Some(identity))).await
    }
}

#[cfg(test)]
#[path = "revoked_tests.rs"]
mod tests;
