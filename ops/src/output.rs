//! The only door to the terminal.
//!
//! Results go to standard output, everything about how it goes to standard error, so that
//! `$(mille token …)` and `mille tail --json … | jq` get what they expect. Writing never panics: a reader
//! that went away (`| head`) is no fault of ours. That is also why nothing here uses `println!`.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use serde_json::Value;

/// Why a command ended before it touched anything; the program's exit code is then 2.
#[derive(Debug)]
pub(crate) struct Refused(String);

impl Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// An error that says what to put right before trying again.
pub(crate) fn refused(sentence: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Refused(sentence.into()))
}

/// Where a command writes, and in which of the two forms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    /// JSON if asked for, else text for people.
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether results are wanted as JSON.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Whether a person watches standard error, so that progress may move.
    pub(crate) fn is_watched(self) -> bool {
        io::stderr().is_terminal()
    }

    /// One line of the result. A closed pipe is ignored: the command still finishes its work.
    pub(crate) fn line(self, text: impl Display) {
        drop(self.try_line(text));
    }

    /// One line of the result, for commands whose only work is to print.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub(crate) fn try_line(self, text: impl Display) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}")?;
        stdout.flush()
    }

    /// One JSON value on a line of its own.
    pub(crate) fn value(self, value: &Value) {
        self.line(value);
    }

    /// What is going on, for whoever watches.
    pub(crate) fn note(self, text: impl Display) {
        drop(writeln!(io::stderr().lock(), "{text}"));
    }

    /// Why the command failed, with its causes on one line.
    pub(crate) fn error(self, error: &anyhow::Error) {
        self.note(format_args!("mille: {error:#}"));
    }
}
