//! Where a cursor is. Each type of document has its own kind of position, with its own rules.

use serde::{Deserialize, Serialize};

use super::DocumentType;
use crate::limits;

/// A cursor's place in a document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Position {
    /// On a plane.
    Canvas {
        /// To the right, in the editor's units.
        x: f64,
        /// Downwards, in the editor's units.
        y: f64,
        /// How much the viewer magnifies. Above 0.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        zoom: Option<f64>,
    },
    /// In a table.
    Spreadsheet {
        /// From 0.
        row: i64,
        /// From 0.
        column: i64,
        /// The sheet's name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sheet: Option<String>,
    },
    /// In a space.
    #[serde(rename = "3d")]
    ThreeD {
        /// First axis.
        x: f64,
        /// Second axis.
        y: f64,
        /// Third axis.
        z: f64,
        /// How the viewer is turned.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rotation: Option<Rotation>,
        /// How much the viewer magnifies. Above 0.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scale: Option<f64>,
        /// The viewport's name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        viewport: Option<String>,
    },
    /// On a line of time.
    Timeline {
        /// From 0, in the document's units.
        timestamp: Time,
        /// From 0.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        track: Option<i64>,
    },
    /// In a text.
    CodeEditor {
        /// From 0.
        line: i64,
        /// From 0.
        column: i64,
        /// The file's name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<String>,
    },
}

/// A time on a timeline. It is told as it came, if it is whole and fits 64 bits; any other as the nearest double.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number")]
pub enum Time {
    /// A whole number.
    Whole(u64),
    /// Any other.
    Broken(f64),
}

/// A rotation, in either of the two shapes that clients use. It is told as it came.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Rotation {
    /// `{x, y, z}`.
    Named {
        /// About the first axis.
        x: f64,
        /// About the second axis.
        y: f64,
        /// About the third axis.
        z: f64,
    },
    /// `[x, y, z]`.
    Listed([f64; 3]),
}

/// What part of a document somebody looks at, for those who follow them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Viewport {
    /// The middle's x.
    pub x: f64,
    /// The middle's y.
    pub y: f64,
    /// How much it magnifies. Above 0.
    pub zoom: f64,
}

/// The value is no place in any document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} {rule}")]
pub struct BadPosition {
    /// Which part of the position.
    pub field: &'static str,
    /// What it must be.
    pub rule: &'static str,
}

impl Position {
    /// The type of document that has such positions.
    #[must_use]
    pub fn document_type(&self) -> DocumentType {
        match self {
            Self::Canvas { .. } => DocumentType::Canvas,
            Self::Spreadsheet { .. } => DocumentType::Spreadsheet,
            Self::ThreeD { .. } => DocumentType::ThreeD,
            Self::Timeline { .. } => DocumentType::Timeline,
            Self::CodeEditor { .. } => DocumentType::CodeEditor,
        }
    }

    /// Checks the rules of the position's kind.
    ///
    /// # Errors
    /// The first part that breaks its rule.
    pub fn check(&self) -> Result<(), BadPosition> {
        match self {
            Self::Canvas { x, y, zoom } => {
                finite("position.x", *x)?;
                finite("position.y", *y)?;
                zoom.map_or(Ok(()), |zoom| magnification("position.zoom", zoom))
            }
            Self::Spreadsheet { row, column, sheet } => {
                from_zero("position.row", *row)?;
                from_zero("position.column", *column)?;
                short("position.sheet", sheet.as_deref())
            }
            Self::ThreeD { x, y, z, rotation, scale, viewport } => {
                finite("position.x", *x)?;
                finite("position.y", *y)?;
                finite("position.z", *z)?;
                if let Some(rotation) = rotation {
                    rotation.angles().into_iter().try_for_each(|angle| finite("position.rotation", angle))?;
                }
                scale.map_or(Ok(()), |scale| magnification("position.scale", scale))?;
                short("position.viewport", viewport.as_deref())
            }
            Self::Timeline { timestamp, track } => {
                if let Time::Broken(time) = timestamp
                    && !(time.is_finite() && *time >= 0.0)
                {
                    return Err(BadPosition { field: "position.timestamp", rule: NOT_NEGATIVE });
                }
                track.map_or(Ok(()), |track| from_zero("position.track", track))
            }
            Self::CodeEditor { line, column, file } => {
                from_zero("position.line", *line)?;
                from_zero("position.column", *column)?;
                short("position.file", file.as_deref())
            }
        }
    }

    /// x and y of a position that has them.
    #[must_use]
    pub fn plane(&self) -> Option<(f64, f64)> {
        match self {
            Self::Canvas { x, y, .. } | Self::ThreeD { x, y, .. } => Some((*x, *y)),
            Self::Spreadsheet { .. } | Self::Timeline { .. } | Self::CodeEditor { .. } => None,
        }
    }
}

impl Rotation {
    fn angles(self) -> [f64; 3] {
        match self {
            Self::Named { x, y, z } => [x, y, z],
            Self::Listed(angles) => angles,
        }
    }
}

impl Viewport {
    /// Checks that it is finite and magnifies.
    ///
    /// # Errors
    /// The first part that breaks its rule.
    pub fn check(&self) -> Result<(), BadPosition> {
        finite("x", self.x)?;
        finite("y", self.y)?;
        magnification("zoom", self.zoom)
    }
}

fn finite(field: &'static str, value: f64) -> Result<(), BadPosition> {
    if value.is_finite() { Ok(()) } else { Err(BadPosition { field, rule: "must be a finite number" }) }
}

fn magnification(field: &'static str, value: f64) -> Result<(), BadPosition> {
    if value.is_finite() && value > 0.0 {
        Ok(())
    } else {
        Err(BadPosition { field, rule: "must be a finite number above 0" })
    }
}

const NOT_NEGATIVE: &str = "must not be negative";

fn from_zero(field: &'static str, value: i64) -> Result<(), BadPosition> {
    if value >= 0 { Ok(()) } else { Err(BadPosition { field, rule: NOT_NEGATIVE }) }
}

fn short(field: &'static str, text: Option<&str>) -> Result<(), BadPosition> {
    if text.is_none_or(|text| text.len() <= limits::DOCUMENT_ID_BYTES_MAX) {
        Ok(())
    } else {
        Err(BadPosition { field, rule: "must have at most 200 bytes" })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: serde_json::Value) -> Position {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn each_kind_of_position_reads_and_writes_as_clients_know_it() {
        for value in [
            json!({"type": "canvas", "x": 1.5, "y": -2.0, "zoom": 0.5}),
            json!({"type": "spreadsheet", "row": 3, "column": 0, "sheet": "budget"}),
            json!({"type": "3d", "x": 1.0, "y": 2.0, "z": 3.0, "rotation": [0.0, 1.0, 2.0], "scale": 2.0}),
            json!({"type": "3d", "x": 1.0, "y": 2.0, "z": 3.0, "rotation": {"x": 0.0, "y": 1.0, "z": 2.0}}),
            json!({"type": "timeline", "timestamp": 17, "track": 2}),
            json!({"type": "timeline", "timestamp": 17.5}),
            json!({"type": "timeline", "timestamp": 1e300}),
            json!({"type": "timeline", "timestamp": u64::MAX}),
            json!({"type": "code_editor", "line": 4, "column": 9, "file": "a.rs"}),
        ] {
            let position = read(value.clone());
            assert_eq!(position.check(), Ok(()), "{value}");
            assert_eq!(serde_json::to_value(&position).unwrap(), value);
        }
    }

    #[test]
    fn what_no_document_has_is_refused() {
        for value in [
            json!({"type": "canvas", "x": 1, "y": 2, "zoom": 0}),
            json!({"type": "spreadsheet", "row": -1, "column": 0}),
            json!({"type": "spreadsheet", "row": 0, "column": 0, "sheet": "x".repeat(201)}),
            json!({"type": "3d", "x": 1, "y": 2, "z": 3, "scale": -1}),
            json!({"type": "timeline", "timestamp": -5}),
            json!({"type": "timeline", "timestamp": -0.5}),
            json!({"type": "timeline", "timestamp": 5, "track": -1}),
            json!({"type": "code_editor", "line": 0, "column": -1}),
        ] {
            assert!(read(value.clone()).check().is_err(), "{value}");
        }
        let endless = Position::Canvas { x: f64::INFINITY, y: 0.0, zoom: None };
        assert_eq!(endless.check().map_err(|bad| bad.field), Err("position.x"));
    }
}
