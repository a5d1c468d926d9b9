//! A change as clients apply it: RFC 6902 JSON Patch.
//!
//! Patches are made from changes by `mille-core`, never by comparing documents.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// One step of a JSON Patch. We make `add`, `remove` and `replace`; the others exist because clients know them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PatchOperation {
    /// What to do.
    pub op: PatchOp,
    /// Where: a JSON Pointer (RFC 6901).
    pub path: String,
    /// The new value; for `add`, `replace` and `test`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<JsonText>,
    /// The place it comes from; for `move` and `copy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// The verbs of RFC 6902.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PatchOp {
    /// Insert a value.
    Add,
    /// Take a value away.
    Remove,
    /// Put a value in another's place.
    Replace,
    /// Take a value from one place to another.
    Move,
    /// Repeat a value at another place.
    Copy,
    /// Fail unless the value is there.
    Test,
}

/// A value as JSON text. It is written as it is, and as a tree of its parts it would be several times as large.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JsonText(Box<RawValue>);

impl JsonText {
    /// The text of a value.
    ///
    /// # Errors
    /// When the value has no JSON text, such as a map whose keys are no strings.
    pub fn of(value: &(impl Serialize + ?Sized)) -> serde_json::Result<Self> {
        serde_json::value::to_raw_value(value).map(Self)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

/// Texts are compared: those of one value that is written twice are equal.
impl PartialEq for JsonText {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl PatchOperation {
    /// Inserts `value` at `path`.
    pub fn add(path: impl Into<String>, value: JsonText) -> Self {
        Self { op: PatchOp::Add, path: path.into(), value: Some(value), from: None }
    }

    /// Puts `value` in the place of what is at `path`.
    pub fn replace(path: impl Into<String>, value: JsonText) -> Self {
        Self { op: PatchOp::Replace, path: path.into(), value: Some(value), from: None }
    }

    /// Takes away what is at `path`.
    pub fn remove(path: impl Into<String>) -> Self {
        Self { op: PatchOp::Remove, path: path.into(), value: None, from: None }
    }
}
