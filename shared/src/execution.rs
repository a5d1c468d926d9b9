//! How far a plan node's execution is.
//!
//! State changes are part of the plan: numbered and never dropped. Progress is not: it is thinned. Which step may
//! follow which is decided by `mille-core`.

use serde::{Deserialize, Serialize};

/// A step of a run. Declared in the order they happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecutionState {
    /// Known, not yet asked for.
    NotStarted,
    /// Waits for its turn.
    Pending,
    /// Runs.
    Processing,
    /// Ended well.
    Completed,
    /// Ended badly.
    Error,
}

impl ExecutionState {
    /// Every state, in order.
    pub const ALL: [Self; 5] = [Self::NotStarted, Self::Pending, Self::Processing, Self::Completed, Self::Error];

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotStarted => "not_started",
            Self::Pending => "pending",
            Self::Processing => "processing",
            Self::Completed => "completed",
            Self::Error => "error",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether a run ends here.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Error)
    }
}

/// What is known of a data source's processing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataSourceExecution {
    /// The data source, in the executor's numbering.
    pub data_source_id: Option<i32>,
    /// The file it was read from.
    pub filename: Option<String>,
    /// The executor's own word for how it stands.
    pub status: Option<String>,
    /// When it was read, RFC 3339, as the executor says it.
    pub processed_at: Option<String>,
    /// The step the run is at.
    pub execution_state: ExecutionState,
    /// Why it failed.
    pub error_message: Option<String>,
}

/// What is known of a graph's computation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GraphExecution {
    /// The graph, in the executor's numbering.
    pub graph_id: Option<i32>,
    /// How many vertices it has.
    pub node_count: Option<i32>,
    /// How many edges it has.
    pub edge_count: Option<i32>,
    /// The step the run is at.
    pub execution_state: ExecutionState,
    /// When it was computed, RFC 3339, as the executor says it.
    pub computed_date: Option<String>,
    /// Why it failed.
    pub error_message: Option<String>,
}
