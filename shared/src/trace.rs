//! A place in a trace, as the W3C's Trace Context writes it: the header `traceparent`.
//!
//! It names a trace and one span in it, and says whether the trace is recorded. Whoever gets it may go on with the trace;
//! whoever can't read it goes on without. So what is malformed is no error of anyone's, but the same as none.

use std::fmt;
use std::str::FromStr;

/// A span of a trace, for whoever goes on with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// The trace; never all zeros.
    pub trace_id: [u8; 16],
    /// The span in it that what follows is a part of; never all zeros.
    pub span_id: [u8; 8],
    /// Whether the trace is recorded.
    pub is_sampled: bool,
}

/// The text is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent")]
pub struct MalformedTraceParent;

/// Bytes of a `traceparent` of version 00. Later versions may have more behind it.
const LENGTH: usize = 55;
/// The bit of the flags that says that the trace is recorded.
const SAMPLED: u8 = 1;

impl FromStr for TraceParent {
    type Err = MalformedTraceParent;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (fixed, rest) = text.split_at_checked(LENGTH).ok_or(MalformedTraceParent)?;
        let mut fields = fixed.split('-');
        let [version] = bytes(fields.next())?;
        let (trace_id, span_id) = (bytes(fields.next())?, bytes(fields.next())?);
        let [flags] = bytes(fields.next())?;
        let is_of_version = match version {
            0x00 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with('-'),
        };
        if !is_of_version || fields.next().is_some() || trace_id == [0; 16] || span_id == [0; 8] {
            return Err(MalformedTraceParent);
        }
        Ok(Self { trace_id, span_id, is_sampled: flags & SAMPLED != 0 })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (u128::from_be_bytes(self.trace_id), u64::from_be_bytes(self.span_id));
        write!(f, "00-{trace:032x}-{span:016x}-{:02x}", u8::from(self.is_sampled))
    }
}

/// Exactly so many bytes in lower-case hexadecimal digits.
fn bytes<const N: usize>(field: Option<&str>) -> Result<[u8; N], MalformedTraceParent> {
    let digits = field.ok_or(MalformedTraceParent)?.as_bytes();
    if digits.len() != 2 * N {
        return Err(MalformedTraceParent);
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(bytes)
}

fn digit(byte: u8) -> Result<u8, MalformedTraceParent> {
    match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(MalformedTraceParent),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn is_taken(text: &str) -> bool {
        text.parse::<TraceParent>().is_ok()
    }

    #[test]
    fn what_is_not_exactly_a_traceparent_is_none() {
        assert!(is_taken(GOOD));
        for wrong in [
            String::new(),
            GOOD[1..].to_owned(),
            GOOD.to_uppercase(),
            format!("{GOOD}-"),
            format!("{GOOD}0"),
            format!(" {}", &GOOD[1..]),
            GOOD.replacen("00-", "ff-", 1),
            GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            GOOD.replacen("-b7", "xb7", 1),
            GOOD.replacen("0af7", "0aé", 1),
        ] {
            assert!(!is_taken(&wrong), "{wrong}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = GOOD.replacen("00-", "cc-", 1);
        assert!(is_taken(&later) && is_taken(&format!("{later}-what-the-future-brings")));
        assert!(!is_taken(&format!("{later}.what-the-future-brings")));
    }

    #[test]
    fn of_the_flags_only_the_one_that_is_known_counts() {
        let with = |flags: &str| GOOD[..53].to_owned() + flags;
        for (flags, is_sampled) in [("00", false), ("01", true), ("02", false), ("ff", true)] {
            assert_eq!(with(flags).parse::<TraceParent>().map(|place| place.is_sampled), Ok(is_sampled), "{flags}");
        }
    }

    proptest! {
        #[test]
        fn a_place_reads_back_as_itself(trace: u128, span: u64, is_sampled: bool) {
            let (trace_id, span_id) = (trace.max(1).to_be_bytes(), span.max(1).to_be_bytes());
            let place = TraceParent { trace_id, span_id, is_sampled };
            prop_assert_eq!(place.to_string().parse(), Ok(place));
        }

        #[test]
        fn any_text_is_judged(text in "\\PC{0,70}") {
            let _ = text.parse::<TraceParent>();
        }
    }
}
