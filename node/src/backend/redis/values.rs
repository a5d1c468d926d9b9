//! Reading answers of Redis. Whatever is not as we wrote it is [`Error::Corrupt`], with the place where it was found.

use std::str::FromStr;
use std::sync::Arc;

use fred::types::Value;

use crate::backend::{Error, Result};

/// What `what` can't be read as.
pub(super) fn corrupt(what: &str) -> Error {
    Error::Corrupt(format!("{what} is not as we write it"))
}

/// The text of an answer.
pub(super) fn text(value: &Value, what: &str) -> Result<Arc<str>> {
    let bytes = value.as_bytes().ok_or_else(|| corrupt(what))?;
    std::str::from_utf8(bytes).map(Arc::from).map_err(|_| corrupt(what))
}

/// Reads a text as whatever is asked for.
pub(super) fn parse<T: FromStr>(text: &str, what: &str) -> Result<T> {
    text.parse().map_err(|_| corrupt(what))
}

/// An answer that is a text, read as whatever is asked for.
pub(super) fn parsed<T: FromStr>(value: &Value, what: &str) -> Result<T> {
    parse(&text(value, what)?, what)
}

/// Names and values in turn: the answer to `HGETALL`, and the fields of a stream's entry.
pub(super) fn pairs(value: Value, what: &str) -> Result<Vec<(Arc<str>, Arc<str>)>> {
    let flat = value.into_array();
    if !flat.len().is_multiple_of(2) {
        return Err(corrupt(what));
    }
    flat.chunks_exact(2).map(|pair| Ok((text(&pair[0], what)?, text(&pair[1], what)?))).collect()
}

/// The value of that name.
pub(super) fn field<'a>(pairs: &'a [(Arc<str>, Arc<str>)], name: &str) -> Option<&'a Arc<str>> {
    pairs.iter().find(|(of, _)| &**of == name).map(|(_, value)| value)
}

/// A line `name:value` of an answer to `INFO`.
pub(super) fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_info_are_found_by_their_whole_name() {
        let info = "# Server\r\nredis_version_x:1\r\nredis_version:7.0.15\r\nrole:master\r\n";
        assert_eq!(info_field(info, "redis_version"), Some("7.0.15"));
        assert_eq!(info_field(info, "version"), None);
    }

    #[test]
    fn an_odd_one_out_is_corrupt() {
        assert!(pairs(Value::Array(vec![Value::from("a")]), "a hash").is_err());
        assert!(parsed::<u64>(&Value::from("7x"), "a number").is_err());
    }
}
