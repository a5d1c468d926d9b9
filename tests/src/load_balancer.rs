//! The shipped load balancer as a process, before whatever a test has.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::client::Client;
use crate::cluster::Cluster;
use crate::patience::{eventually, soon};
use crate::process::{Process, free_port};

/// The file as it is shipped.
const SHIPPED: &str = include_str!("../../ops/haproxy.cfg");

/// HAProxy with the shipped file. Dropping it kills it.
#[derive(Debug)]
pub struct LoadBalancer {
    _process: Process,
    port: u16,
    _home: TempDir,
}

impl LoadBalancer {
    /// Before the nodes of a cluster, whom it asks how they are as it is shipped to do.
    ///
    /// # Errors
    /// When HAProxy is not installed or does not start.
    pub async fn of(cluster: &Cluster) -> Result<Self> {
        let server = |node| {
            let (port, admin) = (cluster.port(node), cluster.admin_port(node));
            format!("    server node{} 127.0.0.1:{port} port {admin}", node + 1)
        };
        let servers: Vec<String> = (0..cluster.size()).map(server).collect();
        Self::before(&servers.join("\n"), |text| text).await
    }

    /// Before `servers`, lines of HAProxy's; `adapt` changes what else stands in the file.
    ///
    /// # Errors
    /// When HAProxy is not installed or does not start.
    pub async fn before(servers: &str, adapt: impl Fn(String) -> String) -> Result<Self> {
        let (home, port) = (tempfile::tempdir()?, free_port()?);
        let text = replace_block(SHIPPED, "resolvers", "");
        let text = replace_block(&text, "bind", &format!("    bind 127.0.0.1:{port}"));
        let text = replace_block(&text, "servers", servers);
        let file = home.path().join("haproxy.cfg");
        std::fs::write(&file, adapt(text))?;
        let mut command = Command::new(Self::binary()?);
        command.arg("-f").arg(&file);
        let mut process = Process::start("haproxy", &mut command, &home.path().join("log"))?;
        let client = Client::new(&format!("http://127.0.0.1:{port}"));
        eventually(soon(), async || {
            process.must_live()?;
            let answer = client.get("/readyz").await?;
            ensure!(answer.status == 200, "HTTP {}", answer.status);
            Ok(())
        })
        .await?;
        Ok(Self { _process: process, port, _home: home })
    }

    /// Where HAProxy is installed.
    ///
    /// # Errors
    /// When it is not.
    pub fn binary() -> Result<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
        folders.map(|folder| folder.join("haproxy")).find(|file| file.is_file()).context("haproxy is not installed")
    }

    /// The port for clients.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address, `http://127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// Replaces what stands between a `>>>` and its `<<<`, wherever it does.
fn replace_block(text: &str, name: &str, replacement: &str) -> String {
    let (begin, end) = (format!("# >>> {name}\n"), format!("# <<< {name}\n"));
    let mut parts = text.split(&begin);
    let mut replaced = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let after = part.split_once(&end).map_or(part, |(_, after)| after);
        replaced.push_str(&format!("\n{replacement}\n{after}"));
    }
    replaced
}
