//! Revokes tokens, and keeps what this node knows of revocations true.
//!
//! A revocation is in the store before it is told, and told with all it says, so that hearing of it needs no reading. A lost
//! message is made good by reading the store again: after every interruption, and now and then anyway. What the store lost
//! in a failover and any node remembers is put back there.

use std::sync::Arc;
use std::time::Duration;

use mille_shared::Timestamp;
use mille_shared::limits::HEAD_CHECK_JITTER;
use mille_shared::revocation::{Revocation, Revoked};
use tokio::sync::Notify;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep};

use super::revoked::RevokedTokens;
use crate::backend::{self, Revocations};
use crate::bridge::{Bridge, Control, ControlMessage, Controls};
use crate::clock;
use crate::metrics::Metrics;

/// Revokes tokens in the whole cluster. Cheap to clone.
#[derive(Clone)]
pub struct Revoker {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Revocations>,
    bridge: Bridge,
    revoked: RevokedTokens,
    settings: RevokerSettings,
    metrics: Arc<Metrics>,
    /// The store is to be read soon.
    doubts: Notify,
}

/// How revocations are kept.
#[derive(Debug, Clone, Copy)]
pub struct RevokerSettings {
    /// What is known is read again at least this often.
    pub sweep: Duration,
    /// How long a revocation is kept when nobody says when its tokens expire.
    pub kept: Duration,
}

/// Why tokens were not revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// As many are revoked as can be kept.
    #[error("too many revocations are kept already")]
    Full,
    /// The tokens have expired by then; or the caller's clock is wrong.
    #[error("the tokens have expired already")]
    Expired,
    /// The store did not answer; the tokens may be revoked all the same. Asking again does no harm.
    #[error(transparent)]
    Store(#[from] backend::Error),
}

impl Revoker {
    /// Reads what is revoked. The caller listens to control messages already, so that nothing falls in between.
    ///
    /// # Errors
    /// [`backend::Error`]: without it the node must not serve.
    pub async fn load(
        store: Arc<dyn Revocations>,
        bridge: Bridge,
        revoked: RevokedTokens,
        settings: RevokerSettings,
        metrics: Arc<Metrics>,
    ) -> backend::Result<Self> {
        let inner = Inner { store, bridge, revoked, settings, metrics, doubts: Notify::new() };
        let revoker = Self { inner: Arc::new(inner) };
        revoker.sweep().await?;
        Ok(revoker)
    }

    /// Revokes tokens from now on, until they expire. Here they count no more when this returns, on other nodes a moment
    /// later; also if whoever asks does not wait for it, since what is in the store must be told.
    ///
    /// # Errors
    /// [`RevokeError`].
    pub async fn revoke(&self, what: Revoked, expires_at: Option<Timestamp>) -> Result<(), RevokeError> {
        let this = self.clone();
        // Ends with the store's patience.
        let revoked = tokio::spawn(async move { this.carry_out(what, expires_at).await });
        match revoked.await.map_err(JoinError::try_into_panic) {
            Ok(revoked) => revoked,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_)) => Err(backend::Error::Unavailable("the node ends".to_owned()).into()),
        }
    }

    async fn carry_out(&self, what: Revoked, expires_at: Option<Timestamp>) -> Result<(), RevokeError> {
        let at = clock::now();
        let until = match expires_at {
            Some(expires_at) => self.inner.revoked.with_leeway(expires_at),
            None => at.after(self.inner.settings.kept),
        };
        if until <= at {
            return Err(RevokeError::Expired);
        }
        let revocation = Revocation { what, at };
        let kept = self.inner.store.revoke(&revocation, until).await;
        if kept.is_err() {
            // It may be there all the same.
            self.inner.doubts.notify_one();
        }
        if !kept? {
            return Err(RevokeError::Full);
        }
        self.take(&[(revocation.clone(), until)]);
        if let Err(error) = self.inner.bridge.tell(&ControlMessage::TokensRevoked { revocation, until }).await {
            tracing::warn!(%error, "other nodes learn of a revocation by the sweep only");
        }
        Ok(())
    }

    /// Hears what other nodes revoke, and reads the store again where that may not be enough. Until the node stops.
    pub async fn follow(self, controls: Controls) {
        tokio::select! {
            () = self.hear(controls) => {}
            () = self.keep_sweeping() => {}
        }
    }

    /// Never waits for the store, so that no revocation waits either.
    async fn hear(&self, mut controls: Controls) {
        while let Some(control) = controls.next().await {
            match control {
                Control::Told(ControlMessage::TokensRevoked { revocation, until }) => self.take(&[(revocation, until)]),
                Control::Told(_) => {}
                Control::Interrupted => self.inner.doubts.notify_one(),
            }
        }
    }

    async fn keep_sweeping(&self) {
        let mut read_at = Instant::now();
        let mut pause = clock::sweep_pause(self.inner.settings.sweep);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(read_at + pause) => {}
                () = self.inner.revoked.moved() => {}
                // Nodes are interrupted together and need not read together.
                () = self.inner.doubts.notified() => sleep(HEAD_CHECK_JITTER.mul_f64(rand::random())).await,
            }
            read_at = Instant::now();
            pause = match self.sweep().await {
                Ok(()) => clock::sweep_pause(self.inner.settings.sweep),
                Err(error) => {
                    tracing::debug!(%error, "revocations can't be read for now; what is known stays");
                    clock::sweep_retry(self.inner.settings.sweep)
                }
            };
        }
    }

    async fn sweep(&self) -> backend::Result<()> {
        let stored = self.inner.store.list().await?;
        self.take(&stored);
        let lacking = self.inner.revoked.lacking(&stored, clock::now());
        self.inner.metrics.rights.revocations_held.set(self.inner.revoked.len() as f64);
        for (revocation, until) in &lacking {
            if !self.inner.store.revoke(revocation, *until).await? {
                tracing::error!("the store is full and lacks revocations; they count on the nodes that know them");
                break;
            }
        }
        if !lacking.is_empty() {
            tracing::info!(revocations = lacking.len(), "what the store lacked of revocations is there again");
        }
        Ok(())
    }

    fn take(&self, revocations: &[(Revocation, Timestamp)]) {
        self.inner.revoked.take(revocations);
        self.inner.metrics.rights.revocations_held.set(self.inner.revoked.len() as f64);
    }
}

#[cfg(test)]
#[path = "revoker_tests.rs"]
mod tests;
