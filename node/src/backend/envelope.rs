//! What a commit publishes on [`Channel::Plan`](super::Channel::Plan): its entries, as text.
//!
//! Lines, because the commit function in Redis builds it by joining what it has at hand. The first line names the
//! form, and when the entries were appended, by the clock of the store, in microseconds since 1970; then one line per entry, `<revision> <hash> <payload>`. A payload is JSON as `serde_json` writes it and
//! holds no raw newline. Whether the entries follow what the reader has is the reader's to check.

use std::time::Duration;

use bytes::Bytes;
use mille_shared::log::LogEntry;

/// The first line. The commit function in Redis writes the same; another form gets another number in both places.
pub const TAG: &str = "mille-log/2";
/// The first line of nodes of a version before, which says no time.
const TAG_BEFORE: &str = "mille-log/1";

/// The message is not of the form that this node reads. Treat it as lost: the log has the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a batch of log entries in the form {TAG}")]
pub struct Malformed;

/// Writes entries as one message, which were appended then, counted from 1970.
#[must_use]
pub fn encode(entries: &[LogEntry], appended: Duration) -> Bytes {
    let mut text = String::with_capacity(32 + entries.iter().map(|e| e.payload.len() + 48).sum::<usize>());
    text.push_str(&format!("{TAG} {}", appended.as_micros()));
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
    let first = lines.next().unwrap_or_default();
    if first != TAG_BEFORE && time_in(first).is_none() {
        return Err(Malformed);
    }
    lines.map(decode_entry).collect()
}

/// When the entries of a message were appended, by the clock of the store, since 1970. `None`: it is no such message, or of a
/// version that does not say. Looks at its first line only.
#[must_use]
pub fn appended_at(message: &[u8]) -> Option<Duration> {
    let first = message.split(|byte| *byte == b'\n').next()?;
    time_in(std::str::from_utf8(first).ok()?)
}

fn time_in(first: &str) -> Option<Duration> {
    first.strip_prefix(TAG)?.strip_prefix(' ')?.parse().ok().map(Duration::from_micros)
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
        fn a_batch_reads_back_as_itself(entries in vec(entry(), 0..6), micros: u64) {
            let message = encode(&entries, Duration::from_micros(micros));
            prop_assert_eq!(appended_at(&message), Some(Duration::from_micros(micros)));
            prop_assert_eq!(decode(&message), Ok(entries));
        }

        #[test]
        fn a_batch_of_the_version_before_is_read_and_says_no_time(entries in vec(entry(), 0..6)) {
            let message = String::from_utf8(encode(&entries, Duration::ZERO).to_vec()).expect("text");
            let message = message.replacen(&format!("{TAG} 0"), TAG_BEFORE, 1);
            prop_assert_eq!(appended_at(message.as_bytes()), None);
            prop_assert_eq!(decode(message.as_bytes()), Ok(entries));
        }

        #[test]
        fn garbage_is_an_error_and_not_a_panic(bytes: Vec<u8>, tail in "\\PC{0,60}") {
            let _ = decode(&bytes);
            let _ = decode(format!("{TAG} 7\n{tail}").as_bytes());
            let _ = appended_at(&bytes);
            prop_assert_eq!(decode(tail.as_bytes()), Err(Malformed));
        }

        #[test]
        fn one_bad_entry_spoils_the_batch(entries in vec(entry(), 1..4), cut in 1usize..20) {
            let whole = encode(&entries, Duration::from_micros(7));
            let last = entries.last().map_or(0, |e| e.payload.len());
            let short = &whole[..whole.len() - last - cut.min(18)];
            prop_assert_eq!(decode(short), Err(Malformed));
        }
    }
}
