//! The nodes' admin listeners: which there are, and what they answer.
//!
//! A local cluster's stand in its state file; another cluster's are given, since no client can find them out.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use mille_shared::facts::Facts;
use serde_json::Value;

use crate::client;
use crate::output::refused;
use crate::target::ClusterArgs;

/// How long a node may take to answer: it asks Redis a few things first, each of which may take two seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);

/// The flag that names admin listeners.
#[derive(Debug, Clone, Args)]
pub(crate) struct AdminArgs {
    /// Admin address of a node, such as http://10.0.0.1:4100; once for each. Those of a local cluster are known.
    #[arg(long = "admin-url", value_name = "URL")]
    pub(crate) admin_urls: Vec<String>,
}

/// A node's admin listener.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    /// The node's name, if it is known without asking.
    pub(crate) name: Option<String>,
    /// Without a slash at the end.
    pub(crate) url: String,
    http: reqwest::Client,
}

impl AdminArgs {
    /// The doors of the cluster; none for a cluster that is known by `--url` alone.
    ///
    /// # Errors
    /// A sentence when no cluster is there, or an address is none.
    pub(crate) fn doors(&self, cluster: &ClusterArgs) -> Result<Vec<Door>> {
        if !self.admin_urls.is_empty() {
            return self.admin_urls.iter().map(|url| Door::new(None, url)).collect();
        }
        match cluster.local()? {
            Some(state) => state.nodes.iter().map(|node| Door::new(Some(&node.name), &node.admin_url)).collect(),
            None => Ok(Vec::new()),
        }
    }
}

impl Door {
    fn new(name: Option<&str>, url: &str) -> Result<Self> {
        let url = url.trim_end_matches('/');
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(refused(format!("--admin-url {url} must begin with http:// or https://")));
        }
        let http = client::http(client::is_loopback(url), ANSWER_TIMEOUT)?;
        Ok(Self { name: name.map(str::to_owned), url: url.to_owned(), http })
    }

    /// What the node tells of itself; with a token, also whether it takes that.
    ///
    /// # Errors
    /// Why there is no such answer.
    pub(crate) async fn facts(&self, token: Option<&str>) -> Result<Facts> {
        let mut request = self.http.get(format!("{}/admin/facts", self.url));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await?;
        let status = response.status();
        anyhow::ensure!(status == 200, "{}/admin/facts says HTTP {status}: no node of this version?", self.url);
        response.json().await.context("the facts are in another form")
    }

    /// The id of the node behind it.
    ///
    /// # Errors
    /// When nobody answers, or somebody else.
    pub(crate) async fn node_id(&self) -> reqwest::Result<String> {
        let health: Value = self.http.get(format!("{}/health", self.url)).send().await?.json().await?;
        Ok(health["nodeId"].as_str().unwrap_or_default().to_owned())
    }

    /// Asks for the drain, or with `start` begins it. What is no JSON is the answer of an older node: null.
    ///
    /// # Errors
    /// When nobody answers, the node is starting and takes no order, or this is no admin listener.
    pub(crate) async fn drain(&self, start: bool) -> reqwest::Result<Value> {
        let url = format!("{}/admin/drain", self.url);
        let request = if start { self.http.post(url) } else { self.http.get(url) };
        let text = request.send().await?.error_for_status()?.text().await?;
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }
}

/// Whether nobody listens there any more, as opposed to a line that is slow or broken.
pub(crate) fn is_gone(error: &reqwest::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}
