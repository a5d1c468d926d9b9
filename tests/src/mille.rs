//! The operator's command line, run as an operator does: with arguments, an exit code, and what it said.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::cluster::{clean_command, mille_binary};
use crate::patience::{patience, within};

/// Seconds that one command may take.
const COMMAND_SECONDS: f64 = 60.0;

/// What a command left.
#[derive(Debug, Clone)]
pub struct Said {
    /// Its exit code; 255 for a signal.
    pub code: i32,
    /// Its result.
    pub out: String,
    /// What it said about how it went.
    pub err: String,
}

impl Said {
    /// The result, as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.out).with_context(|| format!("{self:?}"))
    }
}

/// Runs `mille` with these arguments, to its end.
///
/// # Errors
/// When it is not there, or does not end.
pub async fn mille(arguments: &[&str]) -> Result<Said> {
    let mut command: Command = clean_command(&mille_binary()?);
    command.args(arguments).stdin(Stdio::null());
    let mut command = tokio::process::Command::from(command);
    let output = within(patience(COMMAND_SECONDS), "the end of mille", command.kill_on_drop(true).output()).await??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Said { code: output.status.code().unwrap_or(255), out: text(output.stdout), err: text(output.stderr) })
}

/// The same, where it must succeed.
///
/// # Errors
/// As [`mille`], and when its exit code is not 0.
pub async fn mille_ok(arguments: &[&str]) -> Result<Said> {
    let said = mille(arguments).await?;
    ensure!(said.code == 0, "mille {arguments:?}: {said:?}");
    Ok(said)
}
