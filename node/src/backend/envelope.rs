//! What a commit publishes on [`Channel::Plan`](super::Channel::Plan): its entries, as text.
//!
//! Lines, because the commit function in Redis builds it by joining what it has at hand. The first line names the
//! form; then one line per entry, `<revision> <hash> <payload>`. A payload is JSON as `serde_json` writes it and
//! holds no raw newline. Whether the entries follow what the reader has is the reader's to check.
//!
//! Behind the form the first line may have words, `<name>=<value>`: what is told beside the entries and is no part of them.
//! Whoever does not know a word passes over it. There are two:
//! - `at=<microseconds since 1970>`: when the entries were appended, by the clock of the store;
//! - `traces=<traceparent or nothing>,…`: in the order of the entries, and only if one is of a trace that is recorded.

use std::time::Duration;

use bytes::Bytes;
use mille_shared::TraceParent;
use mille_shared::log::{Head, LogEntry};

/// The first line. The commit function in Redis writes the same; another form gets another number in both places.
pub const TAG: &str = "mille-log/1";

/// The message is not of the form that this node reads. Treat it as lost: the log has the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a batch of log entries in the form {TAG}")]
pub struct Malformed;

/// The word that tells when the entries were appended.
const AT: &str = "at=";
/// The word that tells of traces.
const TRACES: &str = "traces=";

/// Writes entries as one message, which were appended then, counted from 1970, with what [`beside`] them is to be told.
#[must_use]
pub fn encode(entries: &[LogEntry], appended: Duration, beside: &str) -> Bytes {
    let bytes = entries.iter().map(|e| e.payload.len() + 48).sum::<usize>();
    let mut text = String::with_capacity(TAG.len() + beside.len() + 32 + bytes);
    text.push_str(&format!("{TAG} {AT}{}", appended.as_micros()));
    if !beside.is_empty() {
        text.push(' ');
        text.push_str(beside);
    }
    for LogEntry { revision, hash, payload } in entries {
        debug_assert!(!payload.contains('\n'), "a payload must be one line");
        text.push_str(&format!("\n{revision} {hash} {payload}"));
    }
    text.into()
}

/// What is told beside entries: the trace of each. Empty if none has one.
#[must_use]
pub fn beside(traces: impl Iterator<Item = Option<TraceParent>> + Clone) -> String {
    if traces.clone().flatten().next().is_none() {
        return String::new();
    }
    let traces: Vec<_> = traces.map(|trace| trace.map(|trace| trace.to_string()).unwrap_or_default()).collect();
    format!("{TRACES}{}", traces.join(","))
}

/// The traces that the entries of a message are parts of, in their order; what can't be read is none. Empty if nothing is told
/// of traces. For a message that can be [decoded](decode).
#[must_use]
pub fn traces(message: &[u8]) -> Vec<Option<TraceParent>> {
    word(message, TRACES).map(|list| list.split(',').map(|trace| trace.parse().ok()).collect()).unwrap_or_default()
}

/// Reads a message that [`encode`] or the commit function wrote.
///
/// # Errors
/// [`Malformed`] if it is anything else, also if only one of its entries is.
pub fn decode(message: &[u8]) -> Result<Vec<LogEntry>, Malformed> {
    let text = std::str::from_utf8(message).map_err(|_| Malformed)?;
    let mut lines = text.split('\n');
    let beside = lines.next().and_then(|first| first.strip_prefix(TAG)).ok_or(Malformed)?;
    if !(beside.is_empty() || beside.starts_with(' ')) {
        return Err(Malformed);
    }
    lines.map(decode_entry).collect()
}

/// Where a message's last entry stands, read without reading the others. For a message that may not be worth [decoding](decode).
#[must_use]
pub fn last_place(message: &[u8]) -> Option<Head> {
    let line = message.strip_prefix(TAG.as_bytes())?.rsplit(|byte| *byte == b'\n').next()?;
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let mut word = || std::str::from_utf8(words.next()?).ok();
    let (revision, hash) = (word()?.parse().ok()?, word()?.parse().ok()?);
    Some(Head { revision, hash })
}

/// When the entries of a message were appended, by the clock of the store, since 1970. `None`: it is no such message, or of a
/// version that does not say.
#[must_use]
pub fn appended_at(message: &[u8]) -> Option<Duration> {
    word(message, AT)?.parse().ok().map(Duration::from_micros)
}

/// The value of a word of the first line.
fn word<'a>(message: &'a [u8], name: &str) -> Option<&'a str> {
    let rest = message.strip_prefix(TAG.as_bytes())?.strip_prefix(b" ")?;
    let line = std::str::from_utf8(rest.split(|byte| *byte == b'\n').next()?).ok()?;
    line.split(' ').find_map(|word| word.strip_prefix(name))
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

    fn place() -> impl Strategy<Value = Option<TraceParent>> {
        proptest::option::of((1..u128::MAX, 1..u64::MAX).prop_map(|(trace, span)| TraceParent {
            trace_id: trace.to_be_bytes(),
            span_id: span.to_be_bytes(),
            is_sampled: true,
        }))
    }

    /// A node that knows none of our words, or other ones, reads the entries all the same; and nothing is told of a batch that
    /// nobody traces.
    #[test]
    fn what_is_told_beside_the_entries_is_passed_over_by_who_does_not_know_it() {
        let text = format!("{TAG} weather=fine traces=nonsense,,00-1-2 mood\n1-1 {} {{}}", ChainHash::ROOT);
        assert_eq!(decode(text.as_bytes()).map(|entries| entries.len()), Ok(1));
        assert_eq!(traces(text.as_bytes()), [None, None, None]);
        assert_eq!(traces(format!("{TAG}\n1-1 {} traces=,", ChainHash::ROOT).as_bytes()), []);
        assert_eq!(decode(format!("{TAG}0\n").as_bytes()), Err(Malformed));
        assert_eq!(beside([None, None].into_iter()), "");
    }

    proptest! {
        #[test]
        fn a_batch_reads_back_as_itself(entries in vec(entry(), 0..6), micros: u64) {
            let message = encode(&entries, Duration::from_micros(micros), "");
            prop_assert_eq!(appended_at(&message), Some(Duration::from_micros(micros)));
            let last = entries.last().map(|entry| Head { revision: entry.revision, hash: entry.hash });
            prop_assert_eq!(last_place(&message), last);
            prop_assert_eq!(decode(&message), Ok(entries));
        }

        #[test]
        fn a_batch_of_the_version_before_is_read_and_says_no_time(entries in vec(entry(), 0..6)) {
            let message = String::from_utf8(encode(&entries, Duration::ZERO, "").to_vec()).expect("text");
            let message = message.replacen(" at=0", "", 1);
            prop_assert_eq!(appended_at(message.as_bytes()), None);
            prop_assert_eq!(decode(message.as_bytes()), Ok(entries));
        }

        #[test]
        fn traces_read_back_as_themselves_and_are_no_part_of_the_entries(
            entries in vec(entry(), 1..6), places in vec(place(), 1..6)
        ) {
            let message = encode(&entries, Duration::ZERO, &beside(places.iter().copied()));
            let told = if places.iter().all(Option::is_none) { Vec::new() } else { places };
            prop_assert_eq!(traces(&message), told);
            prop_assert_eq!(decode(&message), Ok(entries));
        }

        #[test]
        fn garbage_is_an_error_and_not_a_panic(bytes: Vec<u8>, tail in "\\PC{0,60}") {
            let _ = (decode(&bytes), traces(&bytes), traces(format!("{TAG} {tail}").as_bytes()));
            let _ = (last_place(&bytes), last_place(format!("{TAG} {tail}").as_bytes()));
            let _ = (appended_at(&bytes), appended_at(format!("{TAG} {tail}").as_bytes()));
            let _ = decode(format!("{TAG}\n{tail}").as_bytes());
            prop_assert_eq!(decode(tail.as_bytes()), Err(Malformed));
        }

        #[test]
        fn one_bad_entry_spoils_the_batch(entries in vec(entry(), 1..4), cut in 1usize..20) {
            let whole = encode(&entries, Duration::from_micros(7), "");
            let last = entries.last().map_or(0, |e| e.payload.len());
            let short = &whole[..whole.len() - last - cut.min(18)];
            prop_assert_eq!(decode(short), Err(Malformed));
        }
    }
}
