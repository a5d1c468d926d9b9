//! The promise: no token and no secret is ever written down, whatever is logged, measured, answered or stored.
//!
//! Two nodes log all that they can. Tokens go to them in every place that the contract names, good ones and bad ones,
//! in order and out of it; then everything that the cluster wrote, said or kept is searched for them.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use mille_tests::{
    Client, Cluster, Collector, Knock, PresenceSocket, Project, RawSocket, SECRET, Socket, Token, Upgrade,
    documents as d, eventually, soon,
};
use serde_json::{Value, json};

/// Who shows tokens, and all that may not be found afterwards.
struct Shown {
    cluster: Cluster,
    project: Project,
    secrets: BTreeSet<String>,
    /// All that was answered.
    answers: String,
}

/// What the nodes show the collector of traces.
const COLLECTORS_SECRET: &str = "what-only-the-collector-knows-0123456789";
/// Bytes of the end of a secret that give it away.
const TELLING_BYTES: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_shown_at_the_doors_is_written_down_nowhere() -> Result<()> {
    let collector = Collector::start().await?;
    let cluster = Cluster::of(2)
        .single()
        .with("RUST_LOG", "trace")
        .with("MILLE_JWT_LEEWAY_SECONDS", "0")
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint())
        .with("OTEL_EXPORTER_OTLP_HEADERS", &format!("authorization=Bearer%20{COLLECTORS_SECRET}"))
        .with("OTEL_BSP_SCHEDULE_DELAY", "50");
    let cluster = cluster.quiet().start().await?;
    let project = cluster.user(0, "ada").create_project("harbour").await?;
    let secrets = BTreeSet::from([SECRET.to_owned(), COLLECTORS_SECRET.to_owned()]);
    let mut shown = Shown { cluster, project, secrets, answers: String::new() };
    let bad = |token: Token| token.sign_with("some other secret of a decent length, 0123456789");
    let tokens = [
        Token::of("ada").sign(),
        Token::of("eve").sign(),
        Token::of("ada").lives_secs(-3_600).sign(),
        bad(Token::of("ada")),
        format!("{}!", Token::of("ada").claim("jti", json!("broken")).sign()),
        Token::of("ada").claim("n", json!(1)).unsigned(),
    ];
    for token in tokens {
        shown.over_http(&token).await?;
        shown.over_graphql_sockets(&token).await?;
        shown.over_presence(&token).await?;
        shown.in_band(&token).await?;
    }
    shown.something_happens().await?;

    eventually(soon(), async || {
        let spans = collector.spans()?;
        let told = |name: &str| spans.iter().any(|span| span.name == name);
        ensure!(
            ["POST /graphql", "POST /graphql/stream", "query", "apply"].into_iter().all(told),
            "{} spans",
            spans.len()
        );
        Ok(())
    })
    .await?;
    let (mut kept, cluster) = (vec![("the traces".to_owned(), collector.everything())], &mut shown.cluster);
    for node in 0..cluster.size() {
        // What a node does by itself is logged as well, and comes with time.
        eventually(soon(), async || {
            let lines = cluster.log(node).lines().count();
            ensure!(lines > 200, "a log of {lines} lines shows little");
            Ok(())
        })
        .await?;
        let log = cluster.log(node);
        ensure!(log.contains("DEBUG"), "the node does not log all it can");
        kept.push((format!("the log of node {node}"), log));
        let admin = Client::new(&cluster.admin_url(node));
        kept.push((format!("the metrics of node {node}"), text_of(&admin, "/metrics").await?));
        kept.push((format!("the facts of node {node}"), text_of(&admin, "/admin/facts").await?));
        kept.push((format!("the readiness of node {node}"), text_of(&admin, "/readyz?verbose").await?));
    }
    kept.push(("the store".to_owned(), everything_in(cluster).await?));
    kept.push(("the answers".to_owned(), shown.answers));
    for (place, text) in kept {
        for secret in &shown.secrets {
            let telling = &secret[secret.len().saturating_sub(TELLING_BYTES)..];
            let found = text.lines().find(|line| line.contains(telling));
            ensure!(found.is_none(), "{place} tells a secret: {found:?}");
        }
    }
    Ok(())
}

impl Shown {
    fn show(&mut self, token: &str) -> Client {
        self.secrets.insert(token.to_owned());
        // A signature without its token is as bad; one that is missing tells nothing.
        self.secrets.extend(token.rsplit('.').next().filter(|part| part.len() >= TELLING_BYTES).map(str::to_owned));
        self.cluster.bearer(0, "ada", token)
    }

    async fn over_http(&mut self, token: &str) -> Result<()> {
        let client = self.show(token);
        let p = self.project.id;
        for (document, variables) in
            [(d::ME, json!({})), (d::GET_PLAN, json!({"p": p})), (d::REFRESH_AUTH, json!({"token": token}))]
        {
            let answer = client.post(&json!({"query": document, "variables": variables})).await?;
            self.hear(&answer.body);
        }
        let answer = client.knock_at_stream(d::FOLLOW, json!({"p": p})).await?;
        self.hear(&answer.body);
        // Where no token belongs, and people put it all the same.
        for path in
            [format!("/graphql?token={token}"), format!("/readyz?token={token}"), format!("/none?token={token}")]
        {
            let answer = client.get(&path).await?;
            self.hear(&answer.body);
        }
        let answer = client.post_text("/graphql", "application/json", format!("{{\"query\": \"{token}\"")).await?;
        self.hear(&answer.body);
        Ok(())
    }

    async fn over_graphql_sockets(&mut self, token: &str) -> Result<()> {
        let base = self.cluster.url(1);
        for payload in [
            json!({"Authorization": format!("Bearer {token}")}),
            json!({"authorization": format!("bearer {token}")}),
            json!({"token": token}),
            json!({"authToken": token}),
            json!({"Authorization": format!("Basic {token}")}),
        ] {
            match Socket::init(&base, payload).await? {
                Ok(socket) => drop(socket.run_one(d::ME, json!({})).await?),
                Err(closing) => self.hear(&json!(format!("{closing:?}"))),
            }
        }
        for headers in [vec![("authorization", format!("Bearer {token}"))], vec![("cookie", format!("token={token}"))]]
        {
            let url = format!("{}/graphql/ws?token={token}", base.replacen("http", "ws", 1));
            drop(RawSocket::knock(&url, &["graphql-transport-ws"], &headers).await);
        }
        Ok(())
    }

    async fn over_presence(&mut self, token: &str) -> Result<()> {
        let base = self.cluster.url(0);
        let without_project = Knock { query: format!("token={token}"), ..Knock::default() };
        for knock in Knock::with_token(self.project.id, token).into_iter().chain([without_project]) {
            let Ok(Upgrade::Open(raw, _)) = PresenceSocket::knock(&base, &knock).await else { continue };
            let mut socket = PresenceSocket::over(*raw, "ada");
            // Refused sockets say nothing before they close.
            let Ok(welcome) = socket.next("welcome").await else { continue };
            let resume = welcome["resumeToken"].as_str().context("a resume token")?.to_owned();
            socket.join(Some(&resume)).await?;
            self.secrets.insert(resume);
        }
        Ok(())
    }

    /// Fresh tokens on sockets that are open already.
    async fn in_band(&mut self, token: &str) -> Result<()> {
        let ada = self.cluster.user(1, "ada");
        let socket = ada.socket().await?;
        let answer = socket.run_one(d::REFRESH_AUTH, json!({"token": token})).await;
        self.hear(&json!(format!("{answer:?}")));
        let written_out = format!("mutation {{ refreshAuth(token: \"{token}\") {{ id }} }}");
        self.hear(&json!(format!("{:?}", socket.run_one(&written_out, json!({})).await)));
        let mut presence = ada.presence(&self.project).await?;
        presence.send("authenticate", json!({"token": token})).await?;
        presence.send("authenticate", json!({"token": [token]})).await?;
        presence.send("cursor_update", json!({"documentId": token})).await?;
        if let Ok(heard) = presence.everything().await {
            let heard: Vec<Value> = heard.into_iter().filter(|one| one["type"] == "error").collect();
            self.hear(&json!(heard));
        }
        Ok(())
    }

    /// What nodes tell each other and the store, and that they saw all of the above.
    async fn something_happens(&mut self) -> Result<()> {
        let ada = self.cluster.user(0, "ada");
        let mut stream = self.cluster.user(1, "ada").socket().await?.follow(&self.project, None).await?;
        stream.value("planDagDeltaChanged").await?;
        ada.add_node_as(&self.project, "pier", "GraphNode").await?;
        stream.next_within(soon()).await?;
        ada.share(&self.project, "bob", "VIEWER").await?;
        Ok(())
    }

    fn hear(&mut self, answer: &Value) {
        self.answers.push_str(&answer.to_string());
        self.answers.push('\n');
    }
}

async fn text_of(client: &Client, path: &str) -> Result<String> {
    let text = reqwest::get(format!("{}{path}", client.base())).await?.text().await?;
    ensure!(!text.is_empty(), "{path} says nothing");
    Ok(text)
}

/// Keys and values alike, as Redis writes them out: uncompressed.
async fn everything_in(cluster: &mut Cluster) -> Result<String> {
    let redis = cluster.redis()?;
    redis.ask(&["CONFIG", "SET", "rdbcompression", "no"]).await?;
    let mut everything = String::new();
    for key in redis.ask(&["KEYS", "*"]).await?.items() {
        let key = key.text().context("a key")?;
        let value = redis.ask(&["DUMP", key]).await?;
        everything.push_str(&format!("{key} {}\n", value.text().unwrap_or_default()));
    }
    ensure!(everything.contains("harbour"), "the values are not readable");
    Ok(everything)
}
