//! What a certificate and a handshake are held to. How clients like it is tested from outside.

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use super::*;
use crate::gateway::listener::{ListenerSettings, serve};

/// A certificate of `localhost` that vouches for itself, and its key, both in PEM.
fn pair() -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

/// Writes a pair to where `files` says.
fn write(files: &TlsFiles, (certificate, key): &(String, String)) {
    std::fs::write(&files.certificate, certificate).expect("a file");
    std::fs::write(&files.key, key).expect("a file");
}

fn files_in(home: &TempDir) -> TlsFiles {
    TlsFiles { certificate: home.path().join("cert.pem"), key: home.path().join("key.pem") }
}

fn read_from(files: &TlsFiles) -> Result<Tls, TlsError> {
    Tls::read(files.clone(), Arc::new(Metrics::new()))
}

fn connector(trusted: &str) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).expect("a certificate")).expect("it is taken");
    let config = ClientConfig::builder_with_provider(crate::crypto::backend())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a name")
}

/// Whether a client that trusts `certificate` alone comes through.
async fn takes(tls: &Tls, certificate: &str) -> bool {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (client, _) = tokio::join!(connector(certificate).connect(localhost(), near), tls.handshake(far));
    client.is_ok()
}

#[tokio::test]
async fn a_renewed_pair_is_used_and_one_that_is_of_no_use_leaves_the_present_one() {
    let home = tempfile::tempdir().expect("a directory");
    let (files, old, new) = (files_in(&home), pair(), pair());
    write(&files, &old);
    let tls = read_from(&files).expect("a pair");
    assert!(takes(&tls, &old.0).await && !takes(&tls, &new.0).await);

    std::fs::write(&files.certificate, &new.0).expect("a file");
    tls.look();
    assert!(takes(&tls, &old.0).await, "half of a pair is not used");
    std::fs::write(&files.key, &new.1).expect("a file");
    tls.look();
    assert!(takes(&tls, &new.0).await && !takes(&tls, &old.0).await);
    std::fs::remove_file(&files.key).expect("it is there");
    tls.look();
    assert!(takes(&tls, &new.0).await);
    assert!(tls.inner.metrics.render().contains("tls_certificates_refused_total 2"));
}

#[test]
fn what_is_wrong_with_a_pair_is_said_with_the_name_of_its_setting() {
    let home = tempfile::tempdir().expect("a directory");
    let (files, one, other) = (files_in(&home), pair(), pair());
    let refusal = || read_from(&files).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refusal().starts_with("MILLE_TLS_CERT_FILE: "), "{}", refusal());
    write(&files, &(one.0.clone(), "no key".to_owned()));
    assert!(refusal().starts_with("MILLE_TLS_KEY_FILE: "), "{}", refusal());
    write(&files, &(one.1.clone(), one.1.clone()));
    assert!(refusal().starts_with("MILLE_TLS_CERT_FILE: "), "{}", refusal());
    write(&files, &(one.0.clone(), other.1));
    assert!(refusal().contains("MILLE_TLS_KEY_FILE does not go with MILLE_TLS_CERT_FILE"), "{}", refusal());
    write(&files, &(one.0.clone(), " ".repeat(FILE_BYTES_MAX as usize + 1)));
    assert!(refusal().starts_with("MILLE_TLS_KEY_FILE: "), "{}", refusal());
    write(&files, &one);
    assert!(read_from(&files).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_does_not_end_is_given_up() {
    let home = tempfile::tempdir().expect("a directory");
    let files = files_in(&home);
    write(&files, &pair());
    let tls = read_from(&files).expect("a pair");
    // Held, so that it is no end of the peer's that ends it.
    let (_silent, far) = tokio::io::duplex(1024);
    let began = tokio::time::Instant::now();
    assert!(tls.handshake(far).await.is_none());
    assert!(began.elapsed() >= HANDSHAKE_TIMEOUT);
    assert!(tls.inner.metrics.render().contains("tls_handshakes_failed_total 1"));
}

/// A listener with room for two.
async fn listener(tls: Tls) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let settings = ListenerSettings {
        connections_max: 2,
        header_read_timeout: Duration::from_millis(500),
        tls: Some(tls),
        ..ListenerSettings::default()
    };
    let router = axum::Router::new().route("/", axum::routing::get(|| async { "here" }));
    tokio::spawn(serve(listener, router, settings, TaskTracker::new(), CancellationToken::new()));
    address
}

#[tokio::test]
async fn a_handshake_has_its_place_delays_nobody_and_is_followed_by_the_usual_bounds() {
    let home = tempfile::tempdir().expect("a directory");
    let (files, pair) = (files_in(&home), pair());
    write(&files, &pair);
    let address = listener(read_from(&files).expect("a pair")).await;
    let connector = connector(&pair.0);
    let come_in = async || {
        let tcp = TcpStream::connect(address).await?;
        connector.connect(localhost(), tcp).await
    };
    let limit = Duration::from_secs(10);

    // Half of a handshake, while another one comes through.
    let mut slow = TcpStream::connect(address).await.expect("a connection");
    slow.write_all(&[0x16, 0x03, 0x01]).await.expect("it is taken");
    let mut second = come_in().await.expect("the slow one is not waited for");
    assert!(come_in().await.is_err(), "both places are taken");
    // Its head never comes: the second is let go, and makes room.
    let mut nothing = Vec::new();
    let end = tokio::time::timeout(limit, second.read_to_end(&mut nothing)).await;
    assert!(end.is_ok() && nothing.is_empty(), "silence after a handshake has an end");
    let mut third = tokio::time::timeout(limit, async {
        loop {
            if let Ok(stream) = come_in().await {
                return stream;
            }
        }
    })
    .await
    .expect("the place is free again");
    third.write_all(b"GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n").await.expect("it is taken");
    let mut answer = String::new();
    let _ = tokio::time::timeout(limit, third.read_to_string(&mut answer)).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("here"), "{answer}");
}
