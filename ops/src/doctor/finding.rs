//! What the doctor says: one finding per check, and node where it is of one.

use std::fmt;

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// As it should be.
    Ok,
    /// It works and may not for long, or nobody knows.
    Warning,
    /// A promise of the cluster does not hold, or will not when it is needed.
    Error,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The check, `snake_case`.
    pub(crate) name: &'static str,
    pub(crate) status: Status,
    /// The node it is about; none: the cluster, or its Redis.
    pub(crate) node: Option<String>,
    /// What was found.
    pub(crate) detail: String,
    /// What to do; none where nothing is to be done.
    pub(crate) advice: Option<String>,
}

impl Finding {
    pub(crate) fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, node: None, detail: detail.into(), advice: None }
    }

    pub(crate) fn warning(name: &'static str, detail: impl Into<String>) -> Self {
        Self { status: Status::Warning, ..Self::ok(name, detail) }
    }

    pub(crate) fn error(name: &'static str, detail: impl Into<String>) -> Self {
        Self { status: Status::Error, ..Self::ok(name, detail) }
    }

    /// What could not be learned.
    pub(crate) fn unknown(name: &'static str, because: impl fmt::Display) -> Self {
        Self::warning(name, format!("unknown, because {because}"))
    }

    pub(crate) fn on(self, node: impl Into<String>) -> Self {
        Self { node: Some(node.into()), ..self }
    }

    pub(crate) fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}
