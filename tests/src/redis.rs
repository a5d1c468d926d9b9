//! A real `redis-server` of the test's own: a free loopback port, a directory that goes with it.
//!
//! With [`Redis::persistent`] it keeps what it acknowledged through a kill, as the shipped configuration does.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::patience::{eventually, soon};
use crate::process::{Process, free_port};

/// A private Redis. Dropping it ends the process and removes its data.
#[derive(Debug)]
pub struct Redis {
    process: Option<Process>,
    port: u16,
    persistent: bool,
    home: TempDir,
}

impl Redis {
    /// Starts one that keeps nothing on disk.
    ///
    /// # Errors
    /// When `redis-server` is missing or does not answer.
    pub async fn start() -> Result<Self> {
        Self::start_with(false).await
    }

    /// Starts one with an append-only file and `appendfsync always`.
    ///
    /// # Errors
    /// As [`Redis::start`].
    pub async fn persistent() -> Result<Self> {
        Self::start_with(true).await
    }

    /// `redis://127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends it at once. What was not on disk is lost.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill_9(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill_9(),
            None => Ok(()),
        }
    }

    /// Starts it again on the same port with the same directory; kills it before, if it runs.
    ///
    /// # Errors
    /// As [`Redis::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.kill_9()?;
        self.process = Some(launch(self.port, self.persistent, self.home.path())?);
        self.answers().await
    }

    /// The last lines of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        self.process.as_ref().map(Process::tail).unwrap_or_default()
    }

    async fn start_with(persistent: bool) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("mille-redis-").tempdir()?;
        let port = free_port()?;
        let process = launch(port, persistent, home.path())?;
        let mut redis = Self { process: Some(process), port, persistent, home };
        redis.answers().await?;
        Ok(redis)
    }

    async fn answers(&mut self) -> Result<()> {
        let port = self.port;
        eventually(soon(), async || {
            if let Some(process) = self.process.as_mut() {
                process.must_live()?;
            }
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.write_all(b"PING\r\n").await?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer).await?;
            ensure!(&answer == b"+PONG", "Redis says {:?}", String::from_utf8_lossy(&answer));
            Ok(())
        })
        .await
        .context("redis-server does not answer")
    }
}

fn launch(port: u16, persistent: bool, home: &Path) -> Result<Process> {
    let log: PathBuf = home.join("redis.log");
    let mut command = Command::new("redis-server");
    command
        .args(["--port", &port.to_string()])
        .args(["--bind", "127.0.0.1"])
        .args(["--save", ""])
        .args(["--daemonize", "no"])
        .arg("--dir")
        .arg(home)
        .args(["--appendonly", if persistent { "yes" } else { "no" }])
        .args(["--appendfsync", "always"]);
    Process::start("redis-server", &mut command, &log)
        .context("the tests need redis-server (Debian: apt-get install redis-server)")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends one inline command and brings the start of the answer.
    async fn say(redis: &Redis, command: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", redis.port)).await?;
        stream.write_all(format!("{command}\r\n").as_bytes()).await?;
        let mut answer = [0; 64];
        let length = stream.read(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    }

    #[tokio::test]
    async fn a_persistent_redis_keeps_what_it_acknowledged_and_another_one_does_not() -> Result<()> {
        for (mut redis, kept) in [(Redis::persistent().await?, true), (Redis::start().await?, false)] {
            ensure!(say(&redis, "SET pier 7").await? == "+OK\r\n", "not written");
            redis.kill_9()?;
            ensure!(say(&redis, "GET pier").await.is_err(), "a killed Redis answers");
            redis.restart().await?;
            let found = say(&redis, "GET pier").await?;
            ensure!(found.contains('7') == kept, "kept {kept}, found {found:?}");
        }
        Ok(())
    }
}
