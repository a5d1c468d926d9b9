//! Processes of a local cluster: start them, recognise them later, stop them.
//!
//! A pid alone proves nothing: after a crash the kernel may have given it to someone else. So before any
//! signal we compare what runs under it with what was started. Each process leads a group of its own, so a
//! Ctrl-C in the terminal reaches only us and we stop the others in order.

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// How often a state is looked at while we wait for it.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Lines of a log that are worth showing when its process failed.
const TAIL_LINES: usize = 20;

/// Raises the number of files that this process, and those it starts, may have open as far as the system lets it, and
/// answers it: many systems allow a thousand unless a process asks for more.
pub(crate) fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = if setrlimit(Resource::Nofile, wanted).is_ok() { limit.maximum } else { limit.current };
    now.unwrap_or(u64::MAX)
}

/// The share of this machine's cores, at least one, of each of so many processes that run here side by side: the threads that
/// each should serve with.
pub(crate) fn share_of_cores(processes: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    (cores / processes.max(1)).max(1)
}

/// Has a process' allocator give back at once what was freed, as the image does; the environment may say otherwise. Else what a
/// rush took stays until the process is busy again.
pub(crate) fn give_back_at_once(command: &mut std::process::Command) {
    const DELAY_MS: &str = "MIMALLOC_PURGE_DELAY";
    if std::env::var_os(DELAY_MS).is_none() {
        command.env(DELAY_MS, "0");
    }
}

/// How to know a process again: its program and words its command line must hold.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// As people call it.
    pub(crate) name: String,
    /// Its number.
    pub(crate) pid: u32,
    program: String,
    words: Vec<String>,
}

impl Identity {
    /// The process `pid`, known by its program's name and by words of its command line (a port, a file).
    pub(crate) fn new(name: &str, pid: u32, program: &str, words: &[&str]) -> Self {
        let words = words.iter().map(|&word| word.to_owned()).collect();
        Self { name: name.to_owned(), pid, program: program.to_owned(), words }
    }

    /// Whether the process runs and still is the one that was started. A zombie has no command line.
    pub(crate) fn is_alive(&self) -> bool {
        let Ok(raw) = fs::read(format!("/proc/{}/cmdline", self.pid)) else { return false };
        let line = String::from_utf8_lossy(&raw).replace('\0', " ");
        line.contains(&self.program) && self.words.iter().all(|word| line.contains(word.as_str()))
    }

    /// Sends a signal, if it still is our process. It may be gone an instant later; that is no error.
    pub(crate) async fn signal(&self, signal: &str) {
        if !self.is_alive() {
            return;
        }
        // The shell's own `kill`: calling libc's would need unsafe code, and no program need be installed.
        let sent = Command::new("/bin/sh")
            .args(["-c", "kill -s \"$1\" \"$2\" 2>/dev/null", "mille", signal])
            .arg(self.pid.to_string())
            .stdin(Stdio::null())
            .status();
        drop(sent.await);
    }
}

/// How a process left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Departure {
    /// It was not there any more.
    Gone,
    /// It ended when asked.
    Stopped,
    /// It did not end in time and was killed.
    Killed,
    /// It is still there after a kill; only the kernel knows why.
    Stuck,
}

impl Departure {
    /// For the report.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "was not running",
            Self::Stopped => "stopped",
            Self::Killed => "killed: it did not stop in time",
            Self::Stuck => "still there after SIGKILL",
        }
    }
}

/// Asks all of `processes` to end with `signal`, waits until they did, and kills those that have not after `patience`.
pub(crate) async fn stop_all(processes: &[Identity], signal: &str, patience: Duration) -> Vec<(String, Departure)> {
    let mut departures = Vec::with_capacity(processes.len());
    for process in processes {
        departures.push(if process.is_alive() { Departure::Stopped } else { Departure::Gone });
        process.signal(signal).await;
    }
    wait_for_end(processes, patience).await;
    for (process, departure) in processes.iter().zip(&mut departures) {
        if process.is_alive() {
            *departure = Departure::Killed;
            process.signal("KILL").await;
        }
    }
    wait_for_end(processes, Duration::from_secs(2)).await;
    for (process, departure) in processes.iter().zip(&mut departures) {
        if process.is_alive() {
            *departure = Departure::Stuck;
        }
    }
    processes.iter().map(|process| process.name.clone()).zip(departures).collect()
}

async fn wait_for_end(processes: &[Identity], patience: Duration) {
    let deadline = Instant::now() + patience;
    while processes.iter().any(Identity::is_alive) && Instant::now() < deadline {
        sleep(LOOK_EVERY).await;
    }
}

/// A process we started ourselves and have not waited for.
#[derive(Debug)]
pub(crate) struct Running {
    /// As people call it.
    pub(crate) name: String,
    /// Its number.
    pub(crate) pid: u32,
    /// Where its output goes.
    pub(crate) log: PathBuf,
    child: Child,
}

impl Running {
    /// Starts `command` with its output in `log`; the log of the last start is kept as `*.old`.
    ///
    /// # Errors
    /// When the program or the log can't be opened.
    pub(crate) fn start(name: &str, mut command: std::process::Command, log: &Path) -> Result<Self> {
        use std::os::unix::process::CommandExt;

        if log.exists() {
            fs::rename(log, log.with_extension("log.old"))
                .with_context(|| format!("can't rotate {}", log.display()))?;
        }
        let file = fs::File::create(log).with_context(|| format!("can't write {}", log.display()))?;
        let same_file = file.try_clone()?;
        command.stdin(Stdio::null()).stdout(file).stderr(same_file).process_group(0);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = Command::from(command).spawn().with_context(|| format!("can't start {program}"))?;
        let pid = child.id().context("a fresh process has a pid")?;
        Ok(Self { name: name.to_owned(), pid, log: log.to_owned(), child })
    }

    /// How it ended, if it has. Also takes it out of the kernel's list of the dead.
    pub(crate) fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(status.to_string()),
            Err(error) => Some(format!("unknown state: {error}")),
        }
    }

    /// The last lines of its log, each indented, for an error message.
    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read(&self.log).map(|raw| String::from_utf8_lossy(&raw).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        if lines.is_empty() {
            return format!("its log {} is empty", self.log.display());
        }
        let from = lines.len().saturating_sub(TAIL_LINES);
        let tail: String = lines[from..].iter().map(|line| format!("\n  | {line}")).collect();
        format!("the end of {}:{tail}", self.log.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(dir: &Path) -> Running {
        let mut command = std::process::Command::new("sleep");
        command.arg("61.5");
        Running::start("sleeper", command, &dir.join("sleeper.log")).expect("sleep starts")
    }

    async fn until_it_runs(identity: &Identity) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !identity.is_alive() {
            assert!(Instant::now() < deadline, "{identity:?} never ran");
            sleep(LOOK_EVERY).await;
        }
    }

    /// How it ended. A process is gone for others an instant before its parent can ask how.
    async fn ended(running: &mut Running) -> String {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(how) = running.ended() {
                return how;
            }
            assert!(Instant::now() < deadline, "it never ended");
            sleep(LOOK_EVERY).await;
        }
    }

    #[tokio::test]
    async fn a_process_is_stopped_and_reported() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut running = sleeper(dir.path());
        let identity = Identity::new("sleeper", running.pid, "sleep", &["61.5"]);
        until_it_runs(&identity).await;
        let report = stop_all(std::slice::from_ref(&identity), "TERM", Duration::from_secs(5)).await;
        assert_eq!(report, [("sleeper".to_owned(), Departure::Stopped)]);
        assert!(ended(&mut running).await.contains("15"), "SIGTERM ended it");
    }

    #[tokio::test]
    async fn a_process_that_ignores_the_request_is_killed() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"]);
        let running = Running::start("deaf", command, &dir.path().join("deaf.log")).expect("sh starts");
        let deadline = Instant::now() + Duration::from_secs(5);
        while !running.log_tail().contains("deaf") || running.log_tail().contains("is empty") {
            assert!(Instant::now() < deadline, "the trap was never set");
            sleep(LOOK_EVERY).await;
        }
        let identity = Identity::new("deaf", running.pid, "sh", &["trap"]);
        let report = stop_all(&[identity], "TERM", Duration::from_millis(200)).await;
        assert_eq!(report, [("deaf".to_owned(), Departure::Killed)]);
    }

    #[tokio::test]
    async fn a_stranger_with_the_same_pid_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut running = sleeper(dir.path());
        until_it_runs(&Identity::new("sleeper", running.pid, "sleep", &["61.5"])).await;
        let stranger = Identity::new("node1", running.pid, "mille-node", &["127.0.0.1:4001"]);
        let report = stop_all(&[stranger], "TERM", Duration::from_secs(1)).await;
        assert_eq!(report, [("node1".to_owned(), Departure::Gone)]);
        assert_eq!(running.ended(), None, "it still runs");
        running.child.kill().await.expect("our own child");
    }

    #[test]
    fn the_tail_of_a_log_is_its_end() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let _inside = runtime.enter();
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("x.log");
        let running = Running::start("x", std::process::Command::new("true"), &log).expect("true starts");
        let text: String = (1..=50).map(|number| format!("line {number}\n")).collect();
        fs::write(&log, text).expect("written");
        let tail = running.log_tail();
        assert!(tail.contains("line 50") && tail.contains("line 31") && !tail.contains("line 30"), "{tail}");
    }
}
