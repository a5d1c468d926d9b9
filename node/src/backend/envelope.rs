//! What a commit publishes on [`Channel::Plan`](super::Channel::Plan): its entries, as text.
//!
//! Lines, because the commit function in Redis builds it by joining what it has at hand. The first line names the
//! form; then one line per entry, `<revision> <hash> <payload>`. A payload is JSON as `serde_json` writes it and
//! holds no raw newline. Whether the entries follow what the reader has is the reader's to check.

use bytes::Bytes;
use mille_shared::log::LogEntry;

/// The first line. The commit function in Redis writes the same; another form gets another number in both places.
pub const TAG: &str = "mille-log/1";

/// The message is not of the form that this node reads. Treat it as lost: the log has the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a batch of log entries in the form {TAG}")]
pub struct Malformed;

/// Writes entries as one message.
#[must_use]
pub fn encode(entries: &[LogEntry]) -> Bytes {
    let mut text = String::with_capacity(TAG.len() + entries.iter().map(|e| e.payload.len() + 48).sum::<usize>());
    text.push_str(TAG);
    for LogEntry { revision, hash, payload } in entries {
        debug_assert!(!payload.contains('\n'), "a payload must be one line");
        text.push_str(&format!("\n{revision} {hash} {payload}"));
    }
    text.into()
}

/// Reads a message that [`encode`] or the commit function wrote.
///
/// # Errors
/// [`Malformed`] if it is anything else, also if only one of its entries is.
pub fn decode(message: &[u8]) -> Result<Vec<LogEntry>, Malformed> {
    let text = std::str::from_utf8(message).map_err(|_| Malformed)?;
    let mut lines = text.split('\n');
    if lines.next() != Some(TAG) {
        return Err(Malformed);
    }
    lines.map(decode_entry).collect()
}

fn decode_entry(line: &str) -> Result<LogEntry, Malformed> {
    let (revision, rest) = line.split_once(' ').ok_or(Malformed)?;
    let (hash, payload) = rest.split_once(' ').ok_or(Malformed)?;
    Ok(LogEntry {
        revision: revision.parse().map_err(|_| Malformed)?,
        hash: hash.parse().map_err(|_| Malformed)?,
        payload: payload.into(),
    })
}

#[cfg(test)]
mod tests {
    use mille_shared::Revision;
    use mille_shared::log::ChainHash;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = LogEntry> {
        (any::<u64>(), any::<u64>(), any::<[u8; 8]>(), "[^\n]{0,40}").prop_map(|(epoch, seq, hash, payload)| LogEntry {
            revision: Revision { epoch, seq },
            hash: ChainHash(hash),
            payload: payload.into(),
        })
    }

    proptest! {
        #[test]
        fn a_batch_reads_back_as_itself(entries in vec(entry(), 0..6)) {
            prop_assert_eq!(decode(&encode(&entries)), Ok(entries));
        }

        #[test]
        fn garbage_is_an_error_and_not_a_panic(bytes: Vec<u8>, tail in "\\PC{0,60}") {
            let _ = decode(&bytes);
            let _ = decode(format!("{TAG}\n{tail}").as_bytes());
            prop_assert_eq!(decode(tail.as_bytes()), Err(Malformed));
        }

        #[test]
        fn one_bad_entry_spoils_the_batch(entries in vec(entry(), 1..4), cut in 1usize..20) {
            let whole = encode(&entries);
            let last = entries.last().map_or(0, |e| e.payload.len());
            let short = &whole[..whole.len() - last - cut.min(18)];
            prop_assert_eq!(decode(short), Err(Malformed));
        }
    }
}
