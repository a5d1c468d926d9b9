//! Just enough of Redis' protocol (RESP2 and RESP3) to ask a question and to see where a message ends.
//!
//! The node's own client is left out of this on purpose: what the kit knows of Redis must not come from there.

use anyhow::{Context as _, Result, bail, ensure};

/// Lists within lists. Redis' answers to us nest less deep; more is nonsense.
const DEPTH_MAX: usize = 8;

/// One message of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A nil.
    Nothing,
    /// A string of either kind, a number that is none of ours, or a boolean, as text.
    Text(String),
    /// A whole number.
    Number(i64),
    /// An error.
    Refused(String),
    /// An array, a set, or a map with its keys and values in turn.
    List(Vec<Reply>),
    /// What comes without a question: a published message, or that a subscription is in force.
    Push(Vec<Reply>),
}

impl Reply {
    /// The text, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The parts of a list or push; none of anything else.
    #[must_use]
    pub fn items(&self) -> &[Reply] {
        match self {
            Self::List(items) | Self::Push(items) => items,
            _ => &[],
        }
    }
}

/// A command as Redis reads it.
pub(crate) fn command(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}

/// The first message in `bytes` and its length; `None` when more bytes must come first.
///
/// # Errors
/// When this can't become a message any more.
pub(crate) fn first(bytes: &[u8]) -> Result<Option<(Reply, usize)>> {
    let mut reader = Reader { bytes, at: 0 };
    Ok(reader.reply(0)?.map(|reply| (reply, reader.at)))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn reply(&mut self, depth: usize) -> Result<Option<Reply>> {
        ensure!(depth <= DEPTH_MAX, "lists within lists, {depth} deep");
        let Some(line) = self.line() else { return Ok(None) };
        let (kind, rest) = line.split_first().context("an empty line where a message begins")?;
        let text = || String::from_utf8_lossy(rest).into_owned();
        Ok(Some(match kind {
            b'+' | b',' | b'#' | b'(' => Reply::Text(text()),
            b'-' => Reply::Refused(text()),
            b'_' => Reply::Nothing,
            b':' => Reply::Number(text().parse().context("no number")?),
            b'$' | b'=' | b'!' => match self.bulk(count(rest)?)? {
                Bulk::Text(text) if *kind == b'!' => Reply::Refused(text),
                Bulk::Text(text) => Reply::Text(text),
                Bulk::Nothing => Reply::Nothing,
                Bulk::Unfinished => return Ok(None),
            },
            b'*' | b'~' | b'>' | b'%' => {
                let Some(parts) = count(rest)? else { return Ok(Some(Reply::Nothing)) };
                let parts = if *kind == b'%' { 2 * parts } else { parts };
                let mut items = Vec::new();
                for _ in 0..parts {
                    let Some(item) = self.reply(depth + 1)? else { return Ok(None) };
                    items.push(item);
                }
                if *kind == b'>' { Reply::Push(items) } else { Reply::List(items) }
            }
            _ => bail!("no message of Redis begins with {:?}", char::from(*kind)),
        }))
    }

    fn line(&mut self) -> Option<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let length = rest.windows(2).position(|pair| pair == b"\r\n")?;
        self.at += length + 2;
        Some(&rest[..length])
    }

    fn bulk(&mut self, length: Option<usize>) -> Result<Bulk> {
        let Some(length) = length else { return Ok(Bulk::Nothing) };
        let rest = &self.bytes[self.at..];
        let Some(after) = rest.get(length..).filter(|after| after.len() >= 2) else { return Ok(Bulk::Unfinished) };
        ensure!(after.starts_with(b"\r\n"), "a string is longer than it says");
        self.at += length + 2;
        Ok(Bulk::Text(String::from_utf8_lossy(&rest[..length]).into_owned()))
    }
}

enum Bulk {
    Text(String),
    Nothing,
    Unfinished,
}

/// The count behind a `$` or `*`; `None` for RESP2's nil.
fn count(digits: &[u8]) -> Result<Option<usize>> {
    let text = String::from_utf8_lossy(digits);
    if text == "-1" { Ok(None) } else { Ok(Some(text.parse().with_context(|| format!("{text:?} is no count"))?)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUSH: &[u8] = b">3\r\n$7\r\nmessage\r\n$4\r\npier\r\n$7\r\na\r\nb\r\nc\r\n";

    #[test]
    fn a_message_is_known_by_its_last_byte_and_not_before() -> Result<()> {
        let mut bytes = PUSH.to_vec();
        bytes.extend_from_slice(b":7\r\n");
        for length in 0..PUSH.len() {
            assert_eq!(first(&bytes[..length])?, None, "{length} bytes");
        }
        let (reply, length) = first(&bytes)?.context("a message")?;
        let text = |text: &str| Reply::Text(text.to_owned());
        assert_eq!(
            (reply, length),
            (Reply::Push(vec![text("message"), text("pier"), text("a\r\nb\r\nc")]), PUSH.len())
        );
        assert_eq!(first(&bytes[length..])?, Some((Reply::Number(7), 4)));
        Ok(())
    }

    #[test]
    fn nils_errors_and_maps_are_read_and_nonsense_is_not() -> Result<()> {
        let read = |bytes: &[u8]| Ok::<_, anyhow::Error>(first(bytes)?.context("a message")?.0);
        assert_eq!(read(b"$-1\r\n")?, Reply::Nothing);
        assert_eq!(read(b"*-1\r\n")?, Reply::Nothing);
        assert_eq!(read(b"-ERR no\r\n")?, Reply::Refused("ERR no".to_owned()));
        assert_eq!(read(b"%1\r\n+a\r\n:1\r\n")?, Reply::List(vec![Reply::Text("a".to_owned()), Reply::Number(1)]));
        assert!(first(b"hello\r\n").is_err() && first(b"$x\r\n").is_err() && first(b"$1\r\nlong\r\n").is_err());
        assert_eq!(first(&command(&["GET", "pier"]))?.context("a command")?.0.items().len(), 2);
        Ok(())
    }
}
