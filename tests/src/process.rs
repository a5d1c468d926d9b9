//! One process of a test: started with a log file, ended by its own id.
//!
//! Nothing is ever ended by name, so several tests, and the developer's own cluster, live side by side.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rand::Rng as _;

use crate::patience::eventually;

/// Lines of a log that are shown when a test fails.
const TAIL_LINES: usize = 40;
/// Ports are taken below the range that systems give to outgoing connections, so that a node that was
/// killed finds its port free when it comes back.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// How a process ended by itself.
pub type Exit = ExitStatus;

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; both its outputs are appended to `log`.
    ///
    /// # Errors
    /// When the log can't be opened or the program can't be started.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let out = append_to(log)?;
        let err = out.try_clone()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("can't start {name} ({:?})", command.get_program()))?;
        Ok(Self { child, name: name.to_owned(), log: log.to_owned() })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// When the system doesn't tell.
    pub fn ended(&mut self) -> Result<Option<Exit>> {
        Ok(self.child.try_wait()?)
    }

    /// Fails if the process is no longer there, with the end of its log.
    ///
    /// # Errors
    /// When it ended.
    pub fn must_live(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(exit) => bail!("{} ended with {exit}:\n{}", self.name, self.tail()),
        }
    }

    /// Ends it at once, as a power cut would (SIGKILL), and waits until it is gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill_9(&mut self) -> Result<()> {
        // An error here means it was gone already, which is what was asked for.
        let _ = self.child.kill();
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to leave (SIGTERM) and waits for its exit.
    ///
    /// # Errors
    /// When it is still there after `patience`.
    pub async fn stop(&mut self, patience: Duration) -> Result<Exit> {
        self.signal("TERM")?;
        eventually(patience, async || self.child.try_wait()?.ok_or_else(|| anyhow!("{} does not leave", self.name)))
            .await
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it is still there after `patience`.
    pub async fn exit(&mut self, patience: Duration) -> Result<Exit> {
        eventually(patience, async || {
            self.child.try_wait()?.ok_or_else(|| anyhow!("{} goes on:\n{}", self.name, tail_of(&self.log)))
        })
        .await
    }

    /// Bytes of memory that it holds, without what it has in common with its files.
    ///
    /// # Errors
    /// When it is gone, or the system doesn't tell.
    pub fn memory_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let held = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
        Ok(held.with_context(|| format!("{} holds nothing", self.name))?.parse::<u64>()? * 1_024)
    }

    /// The last lines of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        tail_of(&self.log)
    }

    /// Everything it has written.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal by name. Through the shell's `kill`, since this project has no unsafe code.
    pub(crate) fn signal(&self, signal: &str) -> Result<()> {
        let status = Command::new("sh").arg("-c").arg(format!("kill -{signal} {}", self.pid())).status()?;
        if !status.success() {
            bail!("kill -{signal} {} of {}: {status}", self.pid(), self.name);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback port that nobody listens on and that this test process has not given out before.
///
/// # Errors
/// When none is found in a bounded number of tries.
pub fn free_port() -> Result<u16> {
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    for _ in 0..200 {
        let port = rand::rng().random_range(PORTS);
        let is_new = GIVEN.lock().map_err(|_| anyhow!("another test died here"))?.insert(port);
        if is_new && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {} and {}", PORTS.start, PORTS.end)
}

fn append_to(log: &Path) -> Result<File> {
    OpenOptions::new().create(true).append(true).open(log).with_context(|| format!("log {}", log.display()))
}

/// The last lines of a log; empty when there is none.
pub(crate) fn tail_of(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
