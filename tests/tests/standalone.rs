//! The promise: one binary, nothing installed, and it works; a setting it can't follow, and it says so.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use mille_tests::{
    Cluster, PresenceSocket, Process, Replica, clean_command, documents as d, free_port, node_binary, patience,
    refused, same_value, soon,
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_alone_serves_edits_streams_and_presence() -> Result<()> {
    let mut cluster = Cluster::of(1).embedded().dev().start().await?;
    let token = mille_tests::Token::of("ada").sign();
    let (ada, bob) = (cluster.bearer(0, "ada", token.as_str()), cluster.user(0, "bob"));
    let project = ada.create_project("harbour").await?;
    ada.share(&project, "bob", "EDITOR").await?;
    let mut deltas = bob.socket().await?.follow(&project, None).await?;
    let mut replica = Replica::new();
    ada.add_node_as(&project, "source", "DataSourceNode").await?;
    ada.add_node_as(&project, "graph", "GraphNode").await?;
    ada.connect(&project, "source", "graph").await?;
    let refusal = refused(bob.connect(&project, "graph", "source").await)?;
    ensure!(refusal.code == "VALIDATION_FAILED", "{refusal:?}");
    let plan = bob.plan(&project).await?;
    let end = bob.revision(&project).await?;
    while replica.revision() != Some(end) {
        replica.apply(&deltas.value("planDagDeltaChanged").await?)?;
    }
    ensure!(same_value(replica.document(), &Replica::document_of(&plan)), "{}\nis not\n{plan}", replica.document());
    let log = ada.deltas_after(&project, &end.start().to_string()).await?;
    ensure!(log.len() == 3, "three edits, and {} deltas", log.len());

    let mut adas = PresenceSocket::connect(&ada, project.id).await?;
    adas.join(None).await?;
    let _bobs = bob.presence(&project).await?;
    adas.next_where("user_presence", soon(), |presence| presence["userId"] == "bob").await?;

    for path in ["/livez", "/readyz"] {
        for base in [cluster.url(0), cluster.admin_url(0)] {
            ensure!(ada.at(&base).get(path).await?.status == 200, "{path} at {base}");
        }
    }
    let health = ada.get("/health").await?.body;
    ensure!(health["service"].is_string() && health["version"].is_string() && health["nodeId"].is_string(), "{health}");
    ensure!(ada.at(&cluster.admin_url(0)).get("/metrics").await?.status == 200, "metrics on the admin listener");
    let log = cluster.log(0);
    // The token went over HTTP, over a socket, and in the address of the presence socket.
    let signature = token.rsplit('.').next().context("a signature")?;
    ensure!(!log.contains(signature), "a token reached the log");

    let exit = cluster.stop(0, patience(20.0)).await?;
    ensure!(exit.code() == Some(0), "an orderly stop ends with 0, not {exit}: {}", cluster.log(0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_development_node_makes_its_own_secret_and_says_so_loudly() -> Result<()> {
    let home = tempfile::tempdir()?;
    let (port, admin) = (free_port()?, free_port()?);
    let mut command = clean_command(&node_binary()?);
    command.args(["--dev", "--listen", &format!("127.0.0.1:{port}"), "--admin-listen", &format!("127.0.0.1:{admin}")]);
    let mut node = Process::start("dev node", &mut command, &home.path().join("log"))?;
    let client = mille_tests::Client::new(&format!("http://127.0.0.1:{port}"));
    mille_tests::eventually(patience(20.0), async || {
        node.must_live()?;
        ensure!(client.get("/readyz").await?.status == 200, "not ready");
        Ok(())
    })
    .await?;
    let refusal = refused(client.run(d::ME, json!({})).await)?;
    ensure!(refusal.code == "UNAUTHENTICATED", "--dev is no open door: {refusal:?}");
    mille_tests::eventually(patience(20.0), async || {
        let said = node.log();
        ensure!(said.contains(&format!("http://127.0.0.1:{port}/graphql")), "it prints ready links: {said}");
        ensure!(said.contains("DEVELOPMENT"), "it says that it is a development node: {said}");
        Ok(())
    })
    .await?;
    let exit = node.stop(patience(20.0)).await?;
    ensure!(exit.code() == Some(0), "{exit}: {}", node.log());
    Ok(())
}

/// What is wrong, the settings, and the words that must come.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setting_it_cannot_follow_ends_it_with_a_message_that_names_it() -> Result<()> {
    let home = tempfile::tempdir()?;
    let secret = ("JWT_SECRET", mille_tests::SECRET);
    let pem = home.path().join("key.pem");
    std::fs::write(&pem, "no key")?;
    let pem = pem.to_str().context("a path of text")?;
    let cases: [Case<'_>; 7] = [
        ("an unknown variable", &[secret, ("MILLE_LISTENN", "127.0.0.1:1")], &["MILLE_LISTENN"]),
        ("no key at all", &[], &["JWT_SECRET"]),
        ("two keys", &[secret, ("JWT_PUBLIC_KEY_FILE", pem)], &["JWT_SECRET", "JWT_PUBLIC_KEY_FILE"]),
        (
            "a number that is none",
            &[secret, ("MILLE_NODE_LEASE_SECONDS", "soon")],
            &["MILLE_NODE_LEASE_SECONDS", "soon"],
        ),
        ("an address that is none", &[secret, ("MILLE_LISTEN", "harbour")], &["harbour"]),
        ("a scheme that is none", &[secret, ("REDIS_URL", "ftp://127.0.0.1")], &["REDIS_URL"]),
        ("an algorithm of another key", &[secret, ("JWT_ALGORITHMS", "RS256")], &["JWT_ALGORITHMS"]),
    ];
    for (index, (what, settings, words)) in cases.into_iter().enumerate() {
        let mut command: Command = clean_command(&node_binary()?);
        command.env("MILLE_LISTEN", format!("127.0.0.1:{}", free_port()?));
        command.env("MILLE_ADMIN_LISTEN", format!("127.0.0.1:{}", free_port()?));
        command.envs(settings.iter().copied());
        let mut node = Process::start(what, &mut command, &home.path().join(format!("{index}.log")))?;
        let exit = node.exit(soon()).await.with_context(|| what.to_owned())?;
        let said = node.log();
        ensure!(exit.code() == Some(2), "{what} ends with {exit}: {said}");
        for word in words {
            ensure!(said.to_lowercase().contains(&word.to_lowercase()), "{what} does not name {word}: {said}");
        }
        ensure!(!said.contains(mille_tests::SECRET), "{what} tells the secret: {said}");
        ensure!(!said.contains("panicked"), "{what} is no reason to panic: {said}");
    }
    Ok(())
}
