//! Reads CSV files as people have them.
//!
//! Spreadsheets, graph tools and databases name and separate columns differently. Here that is evened out:
//! a [`Table`] has rows with trimmed cells, found by any of a column's usual names. What the cells mean is
//! the work of `rules`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::output::refused;

/// Largest file we read. A plan of the largest size fits many times.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A file's rows.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// As the file has them, for the columns nobody asks for.
    headers: Vec<String>,
    /// In the form in which columns are looked for.
    keys: Vec<String>,
    /// In the order of the file.
    pub(crate) rows: Vec<Row>,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// Its line in the file, the header being line 1.
    pub(crate) line: u64,
    cells: Vec<String>,
}

/// A column by its usual names, the most usual first.
pub(crate) type Column = &'static [&'static str];

impl Table {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// A sentence that names the file when it can't be read or one of `required` is missing.
    pub(crate) fn read(path: &Path, required: &[Column]) -> Result<Self> {
        let explain = |error: std::io::Error| refused(format!("can't read {}: {error}", path.display()));
        let size = fs::metadata(path).map_err(explain)?.len();
        if size > FILE_BYTES_MAX {
            return Err(refused(format!("{} has {size} bytes; at most {FILE_BYTES_MAX} are read", path.display())));
        }
        let raw = fs::read(path).map_err(explain)?;
        let table = Self::parse(&raw).with_context(|| format!("can't read {} as CSV", path.display()))?;
        for names in required {
            if table.position(names).is_none() {
                return Err(refused(format!(
                    "{} has no column `{}`; its columns are: {}",
                    path.display(),
                    names[0],
                    table.headers.join(", ")
                )));
            }
        }
        Ok(table)
    }

    /// Reads CSV text. Bytes that are no UTF-8 become replacement characters, and rows may have any length.
    ///
    /// # Errors
    /// When the reader can't go on, which it nearly always can.
    pub(crate) fn parse(raw: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(raw.strip_prefix(b"\xef\xbb\xbf").unwrap_or(raw));
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(true)
            .flexible(true)
            .trim(csv::Trim::All)
            .delimiter(delimiter(&text))
            .from_reader(text.as_bytes());
        let headers: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
        let keys = headers.iter().map(|header| normalised(header)).collect();
        let mut rows = Vec::new();
        for record in reader.records() {
            let record = record?;
            if record.iter().all(str::is_empty) {
                continue;
            }
            let line = record.position().map_or(0, csv::Position::line);
            rows.push(Row { line, cells: record.iter().map(str::to_owned).collect() });
        }
        Ok(Self { headers, keys, rows })
    }

    /// The cell of a column; none when the column is missing or the cell empty.
    pub(crate) fn cell<'a>(&self, row: &'a Row, names: Column) -> Option<&'a str> {
        let position = self.position(names)?;
        row.cells.get(position).map(String::as_str).filter(|cell| !cell.is_empty())
    }

    /// The cells, with their headers, of all columns that are in none of `known`.
    pub(crate) fn other_cells<'a>(&'a self, row: &'a Row, known: &[Column]) -> Vec<(&'a str, &'a str)> {
        let taken: Vec<usize> = known.iter().filter_map(|names| self.position(names)).collect();
        let cells = self.headers.iter().zip(&row.cells).enumerate();
        cells
            .filter(|(position, (header, cell))| !taken.contains(position) && !cell.is_empty() && !header.is_empty())
            .map(|(_, (header, cell))| (header.as_str(), cell.as_str()))
            .collect()
    }

    fn position(&self, names: Column) -> Option<usize> {
        names.iter().find_map(|name| self.keys.iter().position(|key| key == &normalised(name)))
    }
}

/// `Data Type`, `data_type` and `dataType` are one column.
fn normalised(header: &str) -> String {
    header.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect()
}

/// The separator that the first line has most of; a comma if in doubt.
fn delimiter(text: &str) -> u8 {
    let first = text.lines().next().unwrap_or_default();
    let count = |separator: u8| first.bytes().filter(|&byte| byte == separator).count();
    let mut best = b',';
    for candidate in [b';', b'\t'] {
        if count(candidate) > count(best) {
            best = candidate;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: Column = &["label", "name"];
    const KIND: Column = &["data_type"];

    fn table(text: &str) -> Table {
        Table::parse(text.as_bytes()).expect("readable")
    }

    #[test]
    fn columns_are_found_by_any_of_their_names() {
        let table = table("ID,Name,Data Type\na,First,X\n");
        assert_eq!(table.cell(&table.rows[0], &["id"]), Some("a"));
        assert_eq!(table.cell(&table.rows[0], LABEL), Some("First"));
        assert_eq!(table.cell(&table.rows[0], KIND), Some("X"));
        assert_eq!(table.cell(&table.rows[0], &["x"]), None);
    }

    #[test]
    fn the_first_name_wins_when_a_file_has_both() {
        let table = table("name,label\nlong name,short\n");
        assert_eq!(table.cell(&table.rows[0], LABEL), Some("short"));
    }

    #[test]
    fn marks_separators_blank_lines_and_short_rows_are_taken_as_they_come() {
        let table = table("\u{feff}id;label;x\n a ;\"one;two\"\n\n;;\nb;B;7\n");
        let cells: Vec<_> =
            table.rows.iter().map(|row| (row.line, table.cell(row, LABEL), table.cell(row, &["x"]))).collect();
        assert_eq!(cells, [(2, Some("one;two"), None), (5, Some("B"), Some("7"))]);
    }

    #[test]
    fn what_nobody_asks_for_is_not_lost() {
        let table = table("id,layer,weight,note\na,base,1,\n");
        assert_eq!(table.other_cells(&table.rows[0], &[&["id"]]), [("layer", "base"), ("weight", "1")]);
    }

    #[test]
    fn a_missing_column_is_named_with_those_that_are_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("edges.csv");
        fs::write(&path, "from_node,target\na,b\n").expect("written");
        let error = Table::read(&path, &[&["target"], &["source", "from"]]).expect_err("no source").to_string();
        assert!(error.contains("`source`") && error.contains("from_node, target"), "{error}");
    }

    #[test]
    fn bytes_of_another_encoding_do_not_stop_us() {
        let table = Table::parse(b"id,label\na,caf\xe9\n").expect("readable");
        assert_eq!(table.cell(&table.rows[0], LABEL), Some("caf\u{fffd}"));
    }
}
