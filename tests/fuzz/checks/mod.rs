//! What must hold of everything that is read from outside, whatever the bytes.
//!
//! Each check takes any bytes and panics if a promise is broken: nothing panics, what is read can be written and is then
//! read as the same, nothing longer than its bound comes through, and nothing grows beyond what came in. They are run
//! by cargo-fuzz (`targets/`), for hours, and by `tests/tests/fuzz_twins.rs`, for seconds, with the same corpora.

pub(crate) mod graphql_frames;
pub(crate) mod log_entries;
pub(crate) mod node_messages;
pub(crate) mod presence_frames;
pub(crate) mod resume_tokens;

/// A check, and the folder of its corpus.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) check: fn(&[u8]),
}

pub(crate) const TARGETS: [Target; 5] = [
    Target { name: "presence_frames", check: presence_frames::check },
    Target { name: "graphql_frames", check: graphql_frames::check },
    Target { name: "resume_tokens", check: resume_tokens::check },
    Target { name: "log_entries", check: log_entries::check },
    Target { name: "node_messages", check: node_messages::check },
];

/// Writes a value and reads it again.
fn again<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    let text = serde_json::to_string(value).expect("what was read can be written");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("what was written can't be read: {error}: {text}"))
}
