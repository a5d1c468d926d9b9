//! Identity: one door that every other door asks.
//!
//! [`Authenticator`] says who a token's bearer is or why the token is refused. It is the only place that verifies
//! one; what the bearer may do is decided where the thing is done. No token is ever printed: what is found at a door
//! is a [`BearerToken`], and a [`TokenRefused`] names causes only.

mod extract;
mod identity;
mod jwks;
mod keys;
mod revoked;
mod revoker;
mod token;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::metrics::{Metrics, NotAllowed};
pub use extract::{BearerToken, offered_subprotocols};
pub use identity::{Identity, Scopes};
pub use jsonwebtoken::Algorithm;
pub use jwks::{REFRESH_INTERVAL, UNKNOWN_KEY_INTERVAL};
use jwks::{RotatingKeys, Source};
use keys::KeySet;
pub use keys::{KeyError, SECRET_BYTES_MIN};
use mille_shared::limits;
pub use reqwest::Url;
pub use revoked::{RevocationWatch, RevokedBy, RevokedToken, RevokedTokens};
pub use revoker::{RevokeError, Revoker, RevokerSettings};
use token::Requirements;
pub use token::TokenRefused;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where the keys come from and what a token must fulfil.
#[derive(Clone)]
pub struct AuthSettings {
    /// The source of keys.
    pub keys: KeySettings,
    /// The algorithms that are taken, all of the source's kind. Empty: HS256 for secrets, else RS256, ES256, EdDSA.
    pub algorithms: Vec<Algorithm>,
    /// The `iss` every token must have, if any is asked for.
    pub issuer: Option<String>,
    /// The `aud` every token must be meant for, if any is asked for.
    pub audience: Option<String>,
    /// How far the issuer's clock may differ from ours. Whole seconds.
    pub leeway: Duration,
}

/// The one source of keys.
#[derive(Clone)]
pub enum KeySettings {
    /// Shared secrets for HMAC.
    Secret {
        /// The one in use.
        secret: String,
        /// The one that follows it, taken as well so that secrets can be changed without a gap.
        next: Option<String>,
    },
    /// Public keys in PEM, read again from time to time.
    PublicKeyFile(PathBuf),
    /// A set of public keys, read again from time to time.
    JwksFile(PathBuf),
    /// A set of public keys, fetched again from time to time.
    JwksUrl(Url),
}

impl AuthSettings {
    /// Settings with the usual leeway and nothing else asked for.
    #[must_use]
    pub fn new(keys: KeySettings) -> Self {
        Self { keys, algorithms: Vec::new(), issuer: None, audience: None, leeway: limits::TOKEN_LEEWAY }
    }
}

/// Judges tokens. Cheap to clone.
#[derive(Clone)]
pub struct Authenticator {
    inner: Arc<Inner>,
    /// Where refusals are counted, if anybody does.
    metrics: Option<Arc<Metrics>>,
}

struct Inner {
    keys: Keys,
    requirements: Requirements,
    revoked: RevokedTokens,
}

enum Keys {
    Fixed(Arc<KeySet>),
    Rotating(Box<RotatingKeys>),
}

impl Keys {
    /// Those of a source that must have some.
    async fn read(source: Source, algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        let keys = RotatingKeys::new(source, algorithms.to_vec());
        keys.refresh().await?;
        Ok(Self::Rotating(Box::new(keys)))
    }
}

impl Authenticator {
    /// Reads the keys. A file must hold some; an address may be silent for now, its keys are asked for again by
    /// [`Self::start_refresh`].
    ///
    /// # Errors
    /// [`KeyError`] when a file, a secret or the algorithms can't be used.
    pub async fn new(settings: &AuthSettings) -> Result<Self, KeyError> {
        let algorithms = &settings.algorithms;
        let keys = match &settings.keys {
            KeySettings::Secret { secret, next } => {
                let secrets = std::iter::once(secret.as_str()).chain(next.as_deref());
                Keys::Fixed(Arc::new(KeySet::from_secrets(secrets, algorithms)?))
            }
            KeySettings::PublicKeyFile(path) => Keys::read(Source::PemFile(path.clone()), algorithms).await?,
            KeySettings::JwksFile(path) => Keys::read(Source::JwksFile(path.clone()), algorithms).await?,
            KeySettings::JwksUrl(url) => {
                let keys = RotatingKeys::new(Source::url(url.clone())?, algorithms.clone());
                if let Err(error) = keys.refresh().await {
                    tracing::warn!(%error, "no keys to judge tokens yet; every token is refused until there are some");
                }
                Keys::Rotating(Box::new(keys))
            }
        };
        let requirements = Requirements {
            issuer: settings.issuer.clone(),
            audience: settings.audience.clone(),
            leeway_seconds: settings.leeway.as_secs(),
        };
        let revoked = RevokedTokens::new(Duration::from_secs(requirements.leeway_seconds));
        Ok(Self { inner: Arc::new(Inner { keys, requirements, revoked }), metrics: None })
    }

    /// The same, whose refusals are counted.
    #[must_use]
    pub fn counting(self, metrics: Arc<Metrics>) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    /// Starts to follow a source that may change. Ends with `stop`.
    pub fn start_refresh(&self, tasks: &TaskTracker, stop: CancellationToken) {
        if matches!(self.inner.keys, Keys::Rotating(_)) {
            let this = self.clone();
            tasks.spawn(async move {
                if let Keys::Rotating(keys) = &this.inner.keys {
                    keys.follow(stop).await;
                }
            });
        }
    }

    /// Whether there is any key: without one no token can be judged and the node is not ready.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        !self.keys().is_empty()
    }

    /// How long after its expiry a token still counts.
    #[must_use]
    pub fn leeway(&self) -> Duration {
        Duration::from_secs(self.inner.requirements.leeway_seconds)
    }

    /// The tokens that count no more although they are good. Empty until a [`Revoker`] fills it.
    #[must_use]
    pub fn revoked(&self) -> &RevokedTokens {
        &self.inner.revoked
    }

    /// Says who the bearer is. Waits only when the token may be by a key that is not known yet, a few seconds at most.
    ///
    /// # Errors
    /// [`TokenRefused`] says why the token is not taken.
    pub async fn verify(&self, token: &BearerToken) -> Result<Identity, TokenRefused> {
        let identity = self.recognise(token).await.map_err(|why| self.refused(why))?;
        self.still_counts(&identity)?;
        Ok(identity)
    }

    /// Whether a token that was good was not revoked since.
    ///
    /// # Errors
    /// [`TokenRefused::Revoked`].
    pub fn still_counts(&self, identity: &Identity) -> Result<(), TokenRefused> {
        self.inner.revoked.find(identity).map_or(Ok(()), |_| Err(self.refused(TokenRefused::Revoked)))
    }

    /// Notes that a token is not taken.
    pub(super) fn refused(&self, why: TokenRefused) -> TokenRefused {
        if let Some(metrics) = &self.metrics {
            metrics.rights.refused(match why {
                TokenRefused::Missing => NotAllowed::NoToken,
                TokenRefused::Expired => NotAllowed::ExpiredToken,
                TokenRefused::Revoked => NotAllowed::RevokedToken,
                TokenRefused::OtherUser => NotAllowed::OtherUser,
                TokenRefused::KeysUnavailable => NotAllowed::NoKeys,
                _ => NotAllowed::BadToken,
            });
        }
        why
    }

    async fn recognise(&self, token: &BearerToken) -> Result<Identity, TokenRefused> {
        let keys = self.keys();
        let judged = token::verify(token.reveal(), &keys, &self.inner.requirements);
        let is_by_no_known_key = matches!(
            judged,
            Err(TokenRefused::UnknownKey
                | TokenRefused::KeysUnavailable
                | TokenRefused::Signature
                | TokenRefused::Algorithm)
        );
        match &self.inner.keys {
            Keys::Rotating(rotating) if is_by_no_known_key && rotating.look_again(&keys).await => {
                token::verify(token.reveal(), &rotating.current(), &self.inner.requirements)
            }
            _ => judged,
        }
    }

    /// The same for a door where a token may be missing.
    ///
    /// # Errors
    /// [`TokenRefused::Missing`] without one, else like [`Self::verify`].
    pub async fn require(&self, token: Option<&BearerToken>) -> Result<Identity, TokenRefused> {
        match token {
            Some(token) => self.verify(token).await,
            None => Err(self.refused(TokenRefused::Missing)),
        }
    }

    fn keys(&self) -> Arc<KeySet> {
        match &self.inner.keys {
            Keys::Fixed(keys) => Arc::clone(keys),
            Keys::Rotating(keys) => keys.current(),
        }
    }
}

/// Seconds since 1970, as tokens count them.
#[must_use]
pub fn unix_seconds() -> u64 {
    jsonwebtoken::get_current_timestamp()
}
