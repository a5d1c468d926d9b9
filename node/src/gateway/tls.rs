//! TLS for the main listener: the certificate, its renewal, and the handshake.
//!
//! A certificate is used as a whole: chain and key are read together, checked together, and exchanged at once for the
//! handshakes that come after. Who renews certificates writes two files, one after the other; between them they do not
//! belong together, and the old pair stays. Connections that are open keep the certificate they began with.
//! The admin listener has none: it is for the loopback or a network of the operator's own.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mille_shared::Timestamp;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::certificate;
use crate::metrics::Metrics;

/// How long a handshake may take, from the first byte to the last. Then the connection is closed.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the files are looked at. SIGHUP has them looked at at once.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// Bytes of one of the files. A chain has a few thousand; a larger file is no certificate.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// What is spoken inside: the listener takes HTTP/1.1 only.
const PROTOCOL: &[u8] = b"http/1.1";

/// Where the certificate and its key are, both in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, our own certificate first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why a certificate can't be used. The texts name the setting and hold nothing of a key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("{setting}: {path} can't be read: {source}")]
    File {
        /// The setting that names it.
        setting: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{setting}: {path} holds no {wanted} in PEM")]
    Pem {
        /// The setting that names it.
        setting: &'static str,
        /// Which.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// Each is readable, but they are of no use together.
    #[error("MILLE_TLS_KEY_FILE does not go with MILLE_TLS_CERT_FILE: {0}")]
    Pair(rustls::Error),
}

/// The certificate in use. Cheap to clone; all clones see a renewal.
#[derive(Clone)]
pub struct Tls {
    inner: Arc<Inner>,
}

struct Inner {
    files: TlsFiles,
    current: ArcSwap<Loaded>,
    metrics: Arc<Metrics>,
}

/// A pair that is in use, with the texts it was read from.
struct Loaded {
    texts: Texts,
    config: Arc<ServerConfig>,
}

#[derive(PartialEq, Eq)]
struct Texts {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Tls {
    /// Reads the certificate and its key.
    ///
    /// # Errors
    /// [`TlsError`] when they can't be used.
    pub fn read(files: TlsFiles, metrics: Arc<Metrics>) -> Result<Self, TlsError> {
        let loaded = Loaded::of(&files, Texts::read(&files)?)?;
        Ok(Self { inner: Arc::new(Inner { files, current: ArcSwap::from_pointee(loaded), metrics }) })
    }

    /// When the certificate in use expires: the first of its chain to do so. `None` if that can't be read.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        let current = self.inner.current.load();
        let chain = CertificateDer::pem_slice_iter(&current.texts.certificate);
        chain.map(|certificate| certificate::not_after(&certificate.ok()?)).min().flatten()
    }

    /// Reads the files again when they have changed, until `stop`. A pair that can't be used leaves the present one.
    pub async fn follow(self, stop: CancellationToken) {
        // Without the signal there is still the clock.
        let mut hangup = signal(SignalKind::hangup()).ok();
        loop {
            let asked = async {
                match &mut hangup {
                    Some(hangup) => drop(hangup.recv().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = asked => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            let this = self.clone();
            // A panic there is a bug that costs a renewal, not the node.
            let _ = tokio::task::spawn_blocking(move || this.look()).await;
        }
    }

    /// Shakes hands on a new connection. `None`: the peer did not come through, which is its own affair.
    pub(super) async fn handshake<S>(&self, connection: S) -> Option<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.inner.current.load().config));
        let error = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(connection)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        self.inner.metrics.tls_handshakes_failed.increment(1);
        tracing::debug!(%error, "a TLS handshake failed");
        None
    }

    fn look(&self) {
        let Inner { files, current, metrics } = &*self.inner;
        let renewed = Texts::read(files).and_then(|texts| {
            let is_same = texts == current.load().texts;
            if is_same { Ok(None) } else { Loaded::of(files, texts).map(Some) }
        });
        match renewed {
            Ok(None) => {}
            Ok(Some(loaded)) => {
                current.store(Arc::new(loaded));
                tracing::info!(file = %files.certificate.display(), "a new TLS certificate is in use");
            }
            Err(error) => {
                metrics.tls_certificates_refused.increment(1);
                tracing::warn!(%error, "the new TLS certificate can't be used; the present one stays");
            }
        }
    }
}

const CERT_FILE: &str = "MILLE_TLS_CERT_FILE";
const KEY_FILE: &str = "MILLE_TLS_KEY_FILE";

impl Texts {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        Ok(Self { certificate: read(CERT_FILE, &files.certificate)?, key: read(KEY_FILE, &files.key)? })
    }
}

impl Loaded {
    fn of(files: &TlsFiles, texts: Texts) -> Result<Self, TlsError> {
        let no = |setting, path: &Path, wanted| TlsError::Pem { setting, path: path.to_owned(), wanted };
        let no_chain = || no(CERT_FILE, &files.certificate, "certificate");
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(&texts.certificate).collect::<Result<_, _>>().map_err(|_| no_chain())?;
        if chain.is_empty() {
            return Err(no_chain());
        }
        let key = PrivateKeyDer::from_pem_slice(&texts.key).map_err(|_| no(KEY_FILE, &files.key, "private key"))?;
        let mut config = ServerConfig::builder_with_provider(crate::crypto::backend())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(TlsError::Pair)?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self { texts, config: Arc::new(config) })
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    use std::io::Read;
    let unreadable = |source| TlsError::File { setting, path: path.to_owned(), source };
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(text)
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
