//! One look at a cluster: every node is asked at the same time, and found at the address it names to others.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use futures_util::future::join_all;
use mille_shared::facts::Facts;
use serde_json::Value;

use crate::admin::{Door, is_gone};

/// How long a node may take to answer at the address it names.
const KNOCK_TIMEOUT: Duration = Duration::from_secs(3);

/// What was seen.
#[derive(Debug)]
pub(crate) struct Look {
    /// The nodes that answered.
    pub(crate) nodes: Vec<Seen>,
    /// Those that did not: a name or an address, and why.
    pub(crate) silent: Vec<(String, String)>,
}

/// A node that answered.
#[derive(Debug)]
pub(crate) struct Seen {
    /// How it is called: its name, or its id if another has that name too.
    pub(crate) label: String,
    pub(crate) facts: Facts,
    /// By how much its clock is ahead of this machine's, in milliseconds.
    pub(crate) clock_ahead_ms: f64,
    /// Who answers at the address that it names to others.
    pub(crate) knock: Knock,
}

/// What happened at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Knock {
    /// The node with this id.
    Node(String),
    /// Somebody, but no node.
    Stranger,
    /// The machine says that nobody listens.
    Nobody,
    /// No answer from here, for this reason.
    Silence(String),
}

impl Look {
    /// Asks the nodes behind all doors, and shows them the token.
    ///
    /// # Errors
    /// When the TLS library can't start.
    pub(crate) async fn at(doors: Vec<Door>, token: Option<String>) -> Result<Self> {
        let knocking = reqwest::Client::builder().no_proxy().timeout(KNOCK_TIMEOUT).danger_accept_invalid_certs(true);
        // Whether somebody is there is asked, not whether they are trusted: clients have their own authorities.
        let knocking = knocking.build().context("can't make an HTTP client")?;
        let answers = join_all(doors.into_iter().map(|door| {
            let (token, knocking) = (token.clone(), knocking.clone());
            async move {
                let label = door.name.clone().unwrap_or_else(|| door.url.clone());
                let facts = match door.facts(token.as_deref()).await {
                    Ok(facts) => facts,
                    Err(error) => return Err((label, format!("{error:#}"))),
                };
                // It looks at its clock last, so the answer is as old as its way here.
                let clock_ahead_ms = (facts.now_ms - unix_ms()) as f64;
                let knock = knock(&knocking, &facts).await;
                Ok(Seen { label: facts.node.name.clone(), facts, clock_ahead_ms, knock })
            }
        }))
        .await;
        let (mut nodes, mut silent) = (Vec::new(), Vec::new());
        for answer in answers {
            match answer {
                Ok(seen) => nodes.push(seen),
                Err(who) => silent.push(who),
            }
        }
        Ok(Self::of(nodes, silent))
    }

    /// The same from what was seen.
    pub(crate) fn of(mut nodes: Vec<Seen>, silent: Vec<(String, String)>) -> Self {
        // One that was named twice is one all the same.
        let mut ids = std::collections::BTreeSet::new();
        nodes.retain(|node| ids.insert(node.facts.node.id.clone()));
        let names: Vec<String> = nodes.iter().map(|node| node.facts.node.name.clone()).collect();
        for node in &mut nodes {
            if names.iter().filter(|name| **name == node.facts.node.name).count() > 1 {
                node.label.clone_from(&node.facts.node.id);
            }
        }
        Self { nodes, silent }
    }
}

async fn knock(http: &reqwest::Client, facts: &Facts) -> Knock {
    let (scheme, address) = (if facts.node.tls.is_some() { "https" } else { "http" }, &facts.node.advertise);
    let url = if address.contains("://") { address.clone() } else { format!("{scheme}://{address}") };
    let answer = match http.get(format!("{}/health", url.trim_end_matches('/'))).send().await {
        Ok(answer) => answer,
        Err(error) if is_gone(&error) => return Knock::Nobody,
        Err(error) => return Knock::Silence(format!("{:#}", anyhow::Error::new(error))),
    };
    match answer.json::<Value>().await {
        Ok(health) if health["nodeId"].is_string() => {
            Knock::Node(health["nodeId"].as_str().unwrap_or_default().to_owned())
        }
        _ => Knock::Stranger,
    }
}

fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
