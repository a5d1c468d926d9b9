//! The promise: a node with a certificate speaks TLS at every door for clients and nothing else there, renews its
//! certificate without a restart, and does not start with one that is of no use.
//!
//! The other direction too: keys of an issuer are fetched by https, and only from one that the system vouches for.

use anyhow::{Context as _, Result, ensure};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use mille_tests::{
    Authority, Builder, Client, Cluster, Pair, PresenceSocket, Socket, Token, Tunnel, documents as d, eventually,
    last_words, path_text, soon, within,
};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What the node's certificate says.
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

fn with_pair(cluster: Builder, pair: &Pair) -> Builder {
    let (certificate, key) = (path_text(&pair.certificate), path_text(&pair.key));
    cluster.with("MILLE_TLS_CERT_FILE", &certificate).with("MILLE_TLS_KEY_FILE", &key)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_door_for_clients_speaks_tls() -> Result<()> {
    let authority = Authority::new()?;
    let pair = authority.issue("node", &NAMES)?;
    let cluster = with_pair(Cluster::of(1).embedded(), &pair).start().await?;

    let ada = Client::trusting(&format!("https://127.0.0.1:{}", cluster.port(0)), &authority)?
        .with_token("ada", Token::of("ada").sign());
    let project = ada.create_project("secured").await?;
    let tunnel = Tunnel::to(cluster.port(0), "localhost", &authority).await?;
    let inside = ada.at(&tunnel.url());
    let socket = Socket::connect(&inside).await?;
    let mut deltas = socket.follow(&project, None).await?;
    let mut presence = PresenceSocket::connect(&inside, project.id).await?;
    ensure!(presence.join(None).await?[0]["userId"] == "ada", "presence is there");
    ensure!(deltas.value("planDagDeltaChanged").await?["kind"] == "SNAPSHOT", "a stream begins");
    ada.add_node(&project, "TransformNode", "clean").await?;
    ensure!(deltas.value("planDagDeltaChanged").await?["kind"] == "DELTA", "an edit over https reaches wss");

    let other = Client::trusting(ada.base(), &Authority::new()?)?;
    ensure!(other.get("/readyz").await.is_err(), "a client that does not trust the certificate is not talked into it");
    ensure!(authority.connect(cluster.port(0), "elsewhere.example").await.is_err(), "the name counts");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_speaks_no_tls_is_let_go_at_once_and_delays_nobody() -> Result<()> {
    let authority = Authority::new()?;
    let cluster = with_pair(Cluster::of(1).embedded(), &authority.issue("node", &NAMES)?).start().await?;
    let mut silent = TcpStream::connect(("127.0.0.1", cluster.port(0))).await?;
    silent.write_all(&[0x16]).await?;

    let mut plain = TcpStream::connect(("127.0.0.1", cluster.port(0))).await?;
    plain.write_all(b"POST /graphql HTTP/1.1\r\nhost: node\r\ncontent-length: 2\r\n\r\n{}").await?;
    let mut answer = Vec::new();
    // A reset is an end as well.
    let _ = within(soon(), "the end of a plain connection", plain.read_to_end(&mut answer)).await?;
    ensure!(!answer.starts_with(b"HTTP/"), "plain HTTP is answered: {}", String::from_utf8_lossy(&answer));
    authority.connect(cluster.port(0), "localhost").await.context("while another one dawdles")?;
    let metrics = cluster.metrics(0).await?;
    ensure!(metrics.contains("tls_handshakes_failed_total 1"), "it is counted: {metrics}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_without_a_restart() -> Result<()> {
    let (old, new) = (Authority::new()?, Authority::new()?);
    let pair = old.issue("node", &NAMES)?;
    let cluster = with_pair(Cluster::of(1).embedded(), &pair).start().await?;
    let tunnel = Tunnel::to(cluster.port(0), "localhost", &old).await?;
    let ada = Client::new(&tunnel.url()).with_token("ada", Token::of("ada").sign());
    let socket = ada.socket().await?;

    let renewed = new.issue("node", &NAMES)?;
    std::fs::copy(&renewed.certificate, &pair.certificate)?;
    cluster.signal(0, "HUP")?;
    eventually(soon(), async || {
        ensure!(cluster.log(0).contains("the present one stays"), "half of a pair is told of");
        Ok(())
    })
    .await?;
    old.connect(cluster.port(0), "localhost").await.context("half of a pair leaves the old one")?;

    std::fs::copy(&renewed.key, &pair.key)?;
    cluster.signal(0, "HUP")?;
    eventually(soon(), async || new.connect(cluster.port(0), "localhost").await.map(drop)).await?;
    ensure!(old.connect(cluster.port(0), "localhost").await.is_err(), "the old one is gone");
    ensure!(socket.is_open(), "who is there already stays");
    ada.socket().await.err().context("the tunnel still trusts the old one alone")?;
    socket.run_one(d::ME, json!({})).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_no_use_ends_the_start_and_the_setting_is_named() -> Result<()> {
    let authority = Authority::new()?;
    let (one, other) = (authority.issue("one", &NAMES)?, authority.issue("other", &NAMES)?);
    let (cert, key) = ("MILLE_TLS_CERT_FILE", "MILLE_TLS_KEY_FILE");
    for (settings, named) in [
        (vec![(cert, path_text(&one.certificate))], key),
        (vec![(key, path_text(&one.key))], cert),
        (vec![(cert, "/nowhere/cert.pem".to_owned()), (key, path_text(&one.key))], cert),
        (vec![(cert, path_text(&one.certificate)), (key, path_text(&one.certificate))], key),
        (vec![(cert, path_text(&one.certificate)), (key, path_text(&other.key))], key),
    ] {
        let (code, said) = last_words(&settings).await?;
        ensure!(code == Some(2) && said.contains(named), "{settings:?}: {code:?}, {said}");
    }
    Ok(())
}

/// Keys as an issuer would serve them by https, as `localhost`. Brings the port.
async fn serve_keys(authority: &Authority, keys: String) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let acceptor = authority.acceptor("issuer", &["localhost"])?;
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(tcp).await else { continue };
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{keys}",
                keys.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    Ok(port)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_fetched_by_https_from_an_issuer_that_the_system_vouches_for() -> Result<()> {
    let authority = Authority::new()?;
    let signs = EncodingKey::from_ec_pem(&std::fs::read(authority.issue("signer", &["localhost"])?.key)?)?;
    let mut public = Jwk::from_encoding_key(&signs, Algorithm::ES256)?;
    public.common.key_id = Some("k".to_owned());
    let port = serve_keys(&authority, json!({"keys": [public]}).to_string()).await?;
    let header = Header { kid: Some("k".to_owned()), ..Header::new(Algorithm::ES256) };
    let token = jsonwebtoken::encode(&header, Token::of("ada").claims(), &signs)?;

    let node = |trusted: &Authority| {
        let cluster = Cluster::of(1).embedded().without("JWT_SECRET");
        let cluster = cluster.with("JWKS_URL", &format!("https://localhost:{port}/keys"));
        // What the system trusts, for this process.
        cluster.with("SSL_CERT_FILE", &path_text(&trusted.file()))
    };
    let cluster = node(&authority).start().await?;
    ensure!(cluster.bearer(0, "ada", &token).run(d::ME, json!({})).await?["me"]["id"] == "ada");

    let foreign = node(&Authority::new()?).start_unready().await?;
    eventually(soon(), async || {
        ensure!(foreign.log(0).contains("no keys to judge tokens yet"), "an unknown issuer is told of");
        Ok(())
    })
    .await
}
