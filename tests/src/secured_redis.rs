//! A `redis-server` as it should stand where others can reach it: TLS only, the shipped users, a password for each.
//!
//! It is started by the shipped `ops/redis-start`, so the very files that are deployed are what the tests run on.

use std::process::Command;

use anyhow::{Result, bail, ensure};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::patience::{eventually, soon, within};
use crate::process::{Process, free_port};
use crate::resp::{self, Reply};
use crate::tls::Authority;

/// What the nodes show. It must not stand in any log. With what must be escaped in a URL.
pub const NODE_PASSWORD: &str = "nodes/only:100%@home";
/// The same as it stands in a URL.
pub const NODE_PASSWORD_IN_URL: &str = "nodes%2Fonly%3A100%25%40home";
/// What the test itself shows.
const OPERATOR_PASSWORD: &str = "the test's own";

/// A private Redis that trusts nobody. Dropping it ends the process and removes its data.
pub struct SecuredRedis<'a> {
    process: Process,
    port: u16,
    authority: &'a Authority,
    _home: TempDir,
}

impl<'a> SecuredRedis<'a> {
    /// Starts one, as `localhost`, with a certificate of `authority`.
    ///
    /// # Errors
    /// When `redis-server` is missing or does not answer.
    pub async fn start(authority: &'a Authority) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("mille-redis-").tempdir()?;
        let (port, pair) = (free_port()?, authority.issue("redis", &["localhost"])?);
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/redis-start"));
        command
            .env("REDIS_PASSWORD", NODE_PASSWORD)
            .env("REDIS_OPERATOR_PASSWORD", OPERATOR_PASSWORD)
            .env("REDIS_USERS_FILE", home.path().join("users.acl"))
            .args(["--port", "0", "--tls-port", &port.to_string(), "--tls-auth-clients", "no"])
            .arg("--tls-cert-file")
            .arg(pair.certificate)
            .arg("--tls-key-file")
            .arg(pair.key)
            .arg("--tls-ca-cert-file")
            .arg(authority.file())
            .arg("--dir")
            .arg(home.path());
        let process = Process::start("a secured redis-server", &mut command, &home.path().join("redis.log"))?;
        let mut redis = Self { process, port, authority, _home: home };
        eventually(soon(), async || {
            redis.process.must_live()?;
            redis.ask(&["PING"]).await.map(drop)
        })
        .await?;
        Ok(redis)
    }

    /// The address for a node: `rediss://`, the user of the nodes, this password (as it stands in a URL).
    #[must_use]
    pub fn url(&self, password: &str) -> String {
        format!("rediss://mille:{password}@localhost:{}", self.port)
    }

    /// Where it listens, for TLS only.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Asks as the operator, who may do anything.
    ///
    /// # Errors
    /// When no answer comes, or it is an error.
    pub async fn ask(&self, words: &[&str]) -> Result<Reply> {
        self.ask_as("operator", OPERATOR_PASSWORD, words).await
    }

    /// Asks as any user.
    ///
    /// # Errors
    /// As [`SecuredRedis::ask`], and when the user is not let in.
    pub async fn ask_as(&self, user: &str, password: &str, words: &[&str]) -> Result<Reply> {
        let mut stream = self.authority.connect(self.port, "localhost").await?;
        stream.write_all(&resp::command(&["AUTH", user, password])).await?;
        stream.write_all(&resp::command(words)).await?;
        stream.flush().await?;
        let mut replies = Vec::new();
        let exchange = async {
            let mut held = Vec::new();
            while replies.len() < 2 {
                ensure!(stream.read_buf(&mut held).await? > 0, "Redis let go");
                while let Some((reply, length)) = resp::first(&held)? {
                    held.drain(..length);
                    replies.push(reply);
                }
            }
            Ok(())
        };
        within(soon(), "an answer of Redis", exchange).await??;
        for reply in &replies {
            if let Reply::Refused(reason) = reply {
                bail!("Redis refuses {user} {words:?}: {reason}");
            }
        }
        replies.pop().ok_or_else(|| anyhow::anyhow!("no answer"))
    }

    /// Commands that were refused for want of a right, as Redis noted them: user and what it was.
    ///
    /// # Errors
    /// When Redis doesn't tell.
    pub async fn refusals(&self) -> Result<Vec<String>> {
        Ok(self.ask(&["ACL", "LOG"]).await?.items().iter().map(|entry| format!("{entry:?}")).collect())
    }
}
