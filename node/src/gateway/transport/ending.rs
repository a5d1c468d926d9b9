//! How a conversation over a GraphQL socket ends, and what is said then.

use mille_shared::CloseCode;

use crate::metrics::CloseReason;

/// Bytes of a close reason, by the WebSocket protocol.
const CLOSE_REASON_BYTES_MAX: usize = 123;

/// How a conversation ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// We close it: why, and what is said.
    Close(CloseReason, CloseCode, String),
    /// The peer closed it, with this code if it gave one.
    Closed(Option<u16>),
    /// It broke off.
    Broken,
}

impl Ending {
    pub(super) fn close(why: CloseReason, code: CloseCode, reason: impl Into<String>) -> Self {
        Self::Close(why, code, reason.into())
    }

    /// Why it ended, to count it under.
    pub(super) fn why(&self) -> CloseReason {
        match self {
            Self::Close(why, ..) => *why,
            Self::Closed(_) => CloseReason::Client,
            Self::Broken => CloseReason::Broken,
        }
    }

    /// The code to count it under.
    pub(super) fn code(&self) -> u16 {
        match self {
            Self::Close(_, code, _) => code.as_u16(),
            Self::Closed(code) => code.unwrap_or(1005),
            Self::Broken => 1006,
        }
    }
}

pub(super) fn init_timeout() -> Ending {
    Ending::close(CloseReason::InitTimeout, CloseCode::Timeout, "Connection initialisation timeout")
}

/// Why a socket of either kind can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum Unreadable {
    /// A frame has more bytes than may be.
    TooLarge,
    /// That was no frame.
    Malformed,
    /// The client is not there any more.
    Gone,
}

impl Unreadable {
    /// The library's error has no kind that we could name: its text begins with the kind, and end-to-end tests hold it to that.
    pub(in crate::gateway) fn of(error: &axum::Error) -> Self {
        let text = error.to_string();
        let is_protocol = text.starts_with("WebSocket protocol error: ") && !text.contains("Connection reset");
        if text.starts_with("Space limit exceeded") {
            Self::TooLarge
        } else if text.starts_with("UTF-8") || is_protocol {
            Self::Malformed
        } else {
            Self::Gone
        }
    }
}

/// What to say to a socket that can't be read.
pub(super) fn unreadable(error: &axum::Error) -> Ending {
    match Unreadable::of(error) {
        Unreadable::TooLarge => {
            Ending::close(CloseReason::TooLarge, CloseCode::MessageTooLarge, "request_bytes: the frame is too large")
        }
        Unreadable::Malformed => Ending::close(CloseReason::Protocol, CloseCode::BadRequest, "the frame is malformed"),
        Unreadable::Gone => Ending::Broken,
    }
}

pub(super) fn clipped(reason: &str) -> &str {
    let mut end = reason.len().min(CLOSE_REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_just_ends_has_sent_nothing_wrong() {
        for (text, expected) in [
            ("WebSocket protocol error: Connection reset without closing handshake", Unreadable::Gone),
            ("IO error: Connection reset by peer (os error 104)", Unreadable::Gone),
            ("WebSocket protocol error: Reserved bits are non-zero", Unreadable::Malformed),
            ("UTF-8 encoding error: invalid utf-8 sequence", Unreadable::Malformed),
            ("Space limit exceeded: Message too long: 65537 > 65536", Unreadable::TooLarge),
        ] {
            assert_eq!(Unreadable::of(&axum::Error::new(text)), expected, "{text}");
        }
    }
}
