//! TLS to Redis: whom we trust, and how a failed greeting is told.
//!
//! `rediss://` means TLS with a certificate that is vouched for and that names the host of the URL; there is no way to
//! have it unchecked. Nothing said here holds the URL, since a password may stand in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fred::error::{Error as FredError, ErrorKind};
use fred::types::config::{TlsConfig, TlsConnector};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::ConnectError;

/// The start of every scheme that means TLS.
const TLS_SCHEME: &str = "rediss";

/// Takes TLS out of the URL, for the client library reads the system's certificates by itself as soon as it sees it, and
/// fails if one of them is odd. Brings the URL without it, and how to speak TLS if it was asked for.
pub(super) fn tls_of(url: &str, ca_file: Option<&Path>) -> Result<(String, Option<TlsConfig>), ConnectError> {
    let Some(rest) = url.strip_prefix(TLS_SCHEME) else { return Ok((url.to_owned(), None)) };
    let roots = match ca_file {
        Some(path) => roots_in(path)?,
        None => system_roots()?,
    };
    let config = ClientConfig::builder_with_provider(crate::crypto::backend())
        .with_safe_default_protocol_versions()
        .map_err(|error| ConnectError::Url(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::Rustls(tokio_rustls::TlsConnector::from(Arc::new(config)));
    Ok((format!("redis{rest}"), Some(connector.into())))
}

/// The authorities in a file, and no others.
fn roots_in(path: &Path) -> Result<RootCertStore, ConnectError> {
    let no = |reason: String| ConnectError::Ca { path: PathBuf::from(path), reason };
    let mut roots = RootCertStore::empty();
    let text = std::fs::read(path).map_err(|error| no(error.to_string()))?;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| no(error.to_string()))?;
        roots.add(certificate).map_err(|error| no(error.to_string()))?;
    }
    if roots.is_empty() { Err(no("it holds no certificate in PEM".to_owned())) } else { Ok(roots) }
}

/// The authorities that the system trusts. Odd ones among them are left out.
fn system_roots() -> Result<RootCertStore, ConnectError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(ConnectError::NoRoots) } else { Ok(roots) }
}

/// How the client library words what TLS refuses, which it takes for a fault of the connection.
const TLS_FAILURE: &str = "InvalidData";

/// Whether user and password can be sent. The client library writes them into a line of words, where a blank would end
/// them, and what follows be taken for something else.
pub(super) fn can_be_sent(credential: &str) -> bool {
    !credential
        .contains(|letter: char| letter.is_whitespace() || letter.is_control() || letter == '"' || letter == '\'')
}

/// What went wrong while we introduced ourselves.
pub(super) fn not_let_in(error: &FredError) -> ConnectError {
    let text = error.to_string();
    if *error.kind() == ErrorKind::Auth || text.contains("WRONGPASS") || text.contains("NOAUTH") {
        ConnectError::Credentials
    } else if text.contains("NOPERM") {
        ConnectError::NotAllowed(text)
    } else if *error.kind() == ErrorKind::Tls || text.contains(TLS_FAILURE) {
        ConnectError::Tls(text)
    } else {
        ConnectError::Unreachable(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_scheme_with_tls_has_tls_and_the_rest_of_the_url_stays() {
        let plain = "redis-sentinel://u:p@host:1/2?x=y";
        assert!(tls_of(plain, None).is_ok_and(|(url, tls)| url == plain && tls.is_none()));
        let home = tempfile::tempdir().expect("a directory");
        let ca = home.path().join("ca.pem");
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["ca".to_owned()]).expect("a name");
        std::fs::write(&ca, params.self_signed(&key).expect("a certificate").pem()).expect("a file");
        for (scheme, without) in
            [("rediss", "redis"), ("rediss-sentinel", "redis-sentinel"), ("rediss-cluster", "redis-cluster")]
        {
            let found = tls_of(&format!("{scheme}://u:p@host:1"), Some(&ca)).ok();
            assert!(found.is_some_and(|(url, tls)| url == format!("{without}://u:p@host:1") && tls.is_some()));
        }
    }

    #[test]
    fn a_credential_that_would_be_sent_as_something_else_is_known() {
        for fine in ["", "nodes", "a/b:c%d@e#f\\g"] {
            assert!(can_be_sent(fine), "{fine}");
        }
        for other in ["two words", "a\r\nFLUSHALL", "\"quoted\"", "it's", "\0"] {
            assert!(!can_be_sent(other), "{other}");
        }
    }

    #[test]
    fn a_file_without_an_authority_is_named_and_the_url_is_not() {
        let home = tempfile::tempdir().expect("a directory");
        let empty = home.path().join("empty.pem");
        std::fs::write(&empty, "nothing").expect("a file");
        for path in [empty, home.path().join("missing.pem")] {
            let text = tls_of("rediss://u:secret@host", Some(&path)).err().map(|error| error.to_string());
            assert!(text.is_some_and(|text| text.starts_with("MILLE_REDIS_CA_FILE") && !text.contains("secret")));
        }
    }
}
