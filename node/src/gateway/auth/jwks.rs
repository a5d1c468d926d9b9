//! Keys that change while we run: a file of keys in PEM, a JWKS file or address, read again and again.
//!
//! Readers see one whole set at a time and never wait for a source that is slow; a source that fails leaves the last
//! good set in force. A token that none of our keys made may be the first of a new one, so it causes a look at the source:
//! one at a time and at most once per [`UNKNOWN_KEY_INTERVAL`], or anybody could make us hammer the issuer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jsonwebtoken::Algorithm;
use reqwest::header::{ETAG, HeaderValue, IF_NONE_MATCH};
use reqwest::{StatusCode, Url};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::keys::{KeyError, KeySet};

/// How often the source is read without a cause.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// How soon it is asked again after it failed. Doubles with each failure, up to [`REFRESH_INTERVAL`].
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// How often tokens with unknown keys may cause a look.
pub const UNKNOWN_KEY_INTERVAL: Duration = Duration::from_secs(30);
/// How long one look may take. Logins with a new key wait as long at most.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a JWKS document. More: the set is not taken.
const DOCUMENT_BYTES_MAX: usize = 512 * 1024;

/// Where a set of keys is read from.
#[derive(Debug)]
pub(super) enum Source {
    PemFile(PathBuf),
    JwksFile(PathBuf),
    Url { client: reqwest::Client, url: Url },
}

impl Source {
    pub(super) fn url(url: Url) -> Result<Self, KeyError> {
        crate::crypto::backend();
        let client = reqwest::Client::builder()
            .timeout(FETCH_TIMEOUT)
            .build()
            .map_err(|error| KeyError::Fetch { reason: error.to_string() })?;
        Ok(Self::Url { client, url })
    }
}

/// A set of keys that follows its source.
#[derive(Debug)]
pub(super) struct RotatingKeys {
    source: Source,
    algorithms: Vec<Algorithm>,
    current: ArcSwap<KeySet>,
    /// Held during a look, so there is one at a time.
    looks: Mutex<Looks>,
}

#[derive(Debug, Default)]
struct Looks {
    last: Option<Instant>,
    etag: Option<HeaderValue>,
}

impl RotatingKeys {
    pub(super) fn new(source: Source, algorithms: Vec<Algorithm>) -> Self {
        Self { source, algorithms, current: ArcSwap::default(), looks: Mutex::default() }
    }

    pub(super) fn current(&self) -> Arc<KeySet> {
        self.current.load_full()
    }

    /// Reads the source now.
    pub(super) async fn refresh(&self) -> Result<(), KeyError> {
        let mut looks = self.looks.lock().await;
        self.look(&mut looks).await
    }

    /// Looks for a key that `seen` lacks. Whether there is a newer set now.
    pub(super) async fn look_again(&self, seen: &Arc<KeySet>) -> bool {
        let mut looks = self.looks.lock().await;
        let changed = || !Arc::ptr_eq(seen, &self.current.load());
        let too_soon = looks.last.is_some_and(|last| last.elapsed() < UNKNOWN_KEY_INTERVAL);
        // Somebody else's look, for which we waited, may have brought it.
        if changed() || too_soon {
            return changed();
        }
        if let Err(error) = self.look(&mut looks).await {
            tracing::warn!(%error, "no newer keys for a token by an unknown one; the present keys stay");
        }
        changed()
    }

    /// Follows the source until `stop`.
    pub(super) async fn follow(&self, stop: CancellationToken) {
        let mut failures = u32::from(self.current.load().is_empty());
        let wait = async |failures| tokio::time::sleep(pause_after(failures, rand::random())).await;
        while stop.run_until_cancelled(wait(failures)).await.is_some() {
            match self.refresh().await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures = failures.saturating_add(1);
                    tracing::warn!(%error, failures, "the keys to judge tokens were not refreshed; the present ones stay");
                }
            }
        }
    }

    async fn look(&self, looks: &mut Looks) -> Result<(), KeyError> {
        looks.last = Some(Instant::now());
        let Some((document, etag)) = self.read(looks.etag.as_ref()).await? else {
            return Ok(());
        };
        let keys = match &self.source {
            Source::PemFile(path) => KeySet::from_pem(&document, path, &self.algorithms)?,
            Source::JwksFile(_) | Source::Url { .. } => KeySet::from_jwks(&document, &self.algorithms)?,
        };
        self.current.store(Arc::new(keys));
        // Only now: a set that we could not use must be sent again.
        looks.etag = etag;
        Ok(())
    }

    /// The source's document and its tag, or `None` if it is the one we have.
    async fn read(&self, etag: Option<&HeaderValue>) -> Result<Option<(Vec<u8>, Option<HeaderValue>)>, KeyError> {
        match &self.source {
            Source::PemFile(path) | Source::JwksFile(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || {
                    std::fs::read(&path).map_err(|source| KeyError::File { path, source })
                });
                let read =
                    timeout(FETCH_TIMEOUT, read).await.map_err(|late| KeyError::Fetch { reason: late.to_string() })?;
                let document = read.map_err(|error| KeyError::Fetch { reason: error.to_string() })??;
                Ok(Some((document, None)))
            }
            Source::Url { client, url } => fetch(client, url, etag)
                .await
                .map_err(|error| KeyError::Fetch { reason: error.without_url().to_string() })?
                .transpose(),
        }
    }
}

/// How long to wait after so many failures in a row. `chance` is at least 0 and below 1: nodes that began to fail together
/// do not come back together.
fn pause_after(failures: u32, chance: f64) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else { return REFRESH_INTERVAL };
    let pause = RETRY_PAUSE.saturating_mul(2_u32.saturating_pow(doublings)).min(REFRESH_INTERVAL);
    pause.mul_f64(0.5 + chance / 2.0)
}

type Fetched = Result<(Vec<u8>, Option<HeaderValue>), KeyError>;

async fn fetch(
    client: &reqwest::Client,
    url: &Url,
    etag: Option<&HeaderValue>,
) -> Result<Option<Fetched>, reqwest::Error> {
    let mut request = client.get(url.clone());
    if let Some(etag) = etag {
        request = request.header(IF_NONE_MATCH, etag);
    }
    let mut response = request.send().await?;
    if response.status() == StatusCode::NOT_MODIFIED {
        return Ok(None);
    }
    if response.status() != StatusCode::OK {
        return Ok(Some(Err(KeyError::Fetch { reason: format!("the answer is {}", response.status()) })));
    }
    let etag = response.headers().get(ETAG).cloned();
    let mut document = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if document.len() + chunk.len() > DOCUMENT_BYTES_MAX {
            let reason = format!("the document has more than {DOCUMENT_BYTES_MAX} bytes");
            return Ok(Some(Err(KeyError::Fetch { reason })));
        }
        document.extend_from_slice(&chunk);
    }
    Ok(Some(Ok((document, etag))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_fails_is_asked_soon_then_ever_more_seldom_and_at_last_as_often_as_a_good_one() {
        assert_eq!(pause_after(0, 0.5), REFRESH_INTERVAL);
        let longest: Vec<u64> = (1..10).map(|failures| pause_after(failures, 1.0).as_secs()).collect();
        assert_eq!(longest, [5, 10, 20, 40, 80, 160, 320, 600, 600]);
        assert_eq!(pause_after(1, 0.0), RETRY_PAUSE / 2);
        assert_eq!(pause_after(u32::MAX, 1.0), REFRESH_INTERVAL);
    }
}
