//! Documents people open together: a name that clients choose, and a type that decides what a position is.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::IdError;
use crate::limits;

/// A document within a project, as clients name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DocumentId(Arc<str>);

impl DocumentId {
    /// Takes the text as it is. For ids that were checked before.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// Checks an id that a client gives.
    ///
    /// # Errors
    /// [`IdError`] unless it is 1 to 200 bytes without control characters.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        match text.len() {
            0 => Err(IdError::Empty),
            actual if actual > limits::DOCUMENT_ID_BYTES_MAX => {
                Err(IdError::TooLong { max: limits::DOCUMENT_ID_BYTES_MAX, actual })
            }
            _ if text.chars().any(char::is_control) => {
                Err(IdError::Character { allowed: "characters other than control characters" })
            }
            _ => Ok(Self::new(text)),
        }
    }

    /// The id's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What kind of thing a document is. The first who opens it says so; it holds while anyone is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DocumentType {
    /// A plane with things on it, such as a plan.
    Canvas,
    /// Rows and columns.
    Spreadsheet,
    /// A space.
    #[serde(rename = "3d")]
    ThreeD,
    /// Tracks over time.
    Timeline,
    /// Lines of text.
    CodeEditor,
}

impl DocumentType {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Canvas => "canvas",
            Self::Spreadsheet => "spreadsheet",
            Self::ThreeD => "3d",
            Self::Timeline => "timeline",
            Self::CodeEditor => "code_editor",
        }
    }
}

impl fmt::Display for DocumentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
