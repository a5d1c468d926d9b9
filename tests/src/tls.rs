//! Certificates of the test's own, and a line into TLS for clients that speak none.
//!
//! An [`Authority`] vouches for whomever the test says, and for nobody outside it. A [`Tunnel`] is a real TLS client: it
//! checks the server's certificate and name before a byte passes, so whoever speaks through it has shaken hands.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Who vouches for the servers of one test.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    home: TempDir,
}

/// A certificate and its key, as files in PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Authority {
    /// A new one, which nobody trusts yet.
    ///
    /// # Errors
    /// When its files can't be written.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "an authority for one test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let home = tempfile::Builder::new().prefix("mille-authority-").tempdir()?;
        std::fs::write(home.path().join("ca.pem"), issuer.pem())?;
        Ok(Self { issuer, home })
    }

    /// Its own certificate in PEM: who has it trusts what it vouches for.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.home.path().join("ca.pem")
    }

    /// Vouches for a server that goes by `names` (host names or addresses). `label` names the files; an earlier pair of
    /// that label is replaced.
    ///
    /// # Errors
    /// When a name is none, or the files can't be written.
    pub fn issue(&self, label: &str, names: &[&str]) -> Result<Pair> {
        self.issue_with(label, names, |_| ())
    }

    /// The same, for so long from now on.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn issue_for(&self, label: &str, names: &[&str], life: Duration) -> Result<Pair> {
        let end = date_time_ymd(1970, 1, 1) + SystemTime::now().duration_since(UNIX_EPOCH)? + life;
        self.issue_with(label, names, |params| params.not_after = end)
    }

    fn issue_with(&self, label: &str, names: &[&str], adapt: impl FnOnce(&mut CertificateParams)) -> Result<Pair> {
        let key = KeyPair::generate()?;
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        adapt(&mut params);
        let certificate = params.signed_by(&key, &self.issuer)?;
        let file = |kind: &str| self.home.path().join(format!("{label}.{kind}.pem"));
        let pair = Pair { certificate: file("cert"), key: file("key") };
        std::fs::write(&pair.certificate, certificate.pem())?;
        std::fs::write(&pair.key, key.serialize_pem())?;
        Ok(pair)
    }

    /// A server that goes by `names`, with TLS and nothing above it.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn acceptor(&self, label: &str, names: &[&str]) -> Result<TlsAcceptor> {
        let pair = self.issue(label, names)?;
        let chain = vec![CertificateDer::from_pem_file(&pair.certificate).context("the certificate")?];
        let key = PrivateKeyDer::from_pem_file(&pair.key).context("the key")?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Shakes hands with the server `name` at a port of this machine, trusting this authority alone.
    ///
    /// # Errors
    /// When nobody listens, or the server is not who it should be.
    pub async fn connect(&self, port: u16, name: &str) -> Result<TlsStream<TcpStream>> {
        shake_hands(&self.connector()?, port, name).await
    }

    fn connector(&self) -> Result<TlsConnector> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.file()).context("the authority's own certificate")?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

async fn shake_hands(connector: &TlsConnector, port: u16, name: &str) -> Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned())?;
    let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
    tcp.set_nodelay(true)?;
    Ok(connector.connect(name, tcp).await?)
}

/// A port of the loopback that leads into TLS. Dropping it ends every connection through it.
#[derive(Debug)]
pub struct Tunnel {
    port: u16,
    acceptor: JoinHandle<()>,
}

impl Tunnel {
    /// A tunnel to the server `name` at a port of this machine, which `authority` must have vouched for.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn to(port: u16, name: &str, authority: &Authority) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let here = listener.local_addr()?.port();
        let (connector, name) = (authority.connector()?, name.to_owned());
        let acceptor = tokio::spawn(async move {
            let mut lines = tokio::task::JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let (connector, name) = (connector.clone(), name.clone());
                lines.spawn(async move {
                    // Whoever came sees a connection that ends.
                    if let Ok(mut far) = shake_hands(&connector, port, &name).await {
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        Ok(Self { port: here, acceptor })
    }

    /// Where it begins.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of its beginning, for clients of HTTP.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// The text of a setting that names a file.
#[must_use]
pub fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
