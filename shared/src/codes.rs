//! Error codes and close codes: what a client may branch on.
//!
//! The texts beside them are for people and may change; the codes may not.

use std::fmt;

/// `extensions.code` of a GraphQL error, `code` of a presence error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// No token, or one that is not (or no longer) good.
    Unauthenticated,
    /// The user is known and may not do this.
    Forbidden,
    /// It does not exist, or the user may not know that it does.
    NotFound,
    /// The request can never succeed as it is.
    ValidationFailed,
    /// An element changed after the revision the request expected.
    Conflict,
    /// The log no longer reaches back to the revision asked for.
    UnrecoverableRevision,
    /// Too often; try again after `retryAfterMs`.
    RateLimited,
    /// Too many.
    LimitExceeded,
    /// Too many bytes.
    PayloadTooLarge,
    /// The node sheds load; another may have room.
    Overloaded,
    /// The node is being taken out; another takes over.
    Draining,
    /// Redis did not answer. An edit may have landed: repeat it with the same operation id.
    Unavailable,
    /// A mistake of ours.
    InternalError,
    /// A presence frame that needs `join_session` before it.
    NotJoined,
    /// A document is of another type than the frame says.
    DocumentTypeMismatch,
}

impl ErrorCode {
    /// The code on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Forbidden => "FORBIDDEN",
            Self::NotFound => "NOT_FOUND",
            Self::ValidationFailed => "VALIDATION_FAILED",
            Self::Conflict => "CONFLICT",
            Self::UnrecoverableRevision => "UNRECOVERABLE_REVISION",
            Self::RateLimited => "RATE_LIMITED",
            Self::LimitExceeded => "LIMIT_EXCEEDED",
            Self::PayloadTooLarge => "PAYLOAD_TOO_LARGE",
            Self::Overloaded => "OVERLOADED",
            Self::Draining => "DRAINING",
            Self::Unavailable => "UNAVAILABLE",
            Self::InternalError => "INTERNAL_ERROR",
            Self::NotJoined => "NOT_JOINED",
            Self::DocumentTypeMismatch => "DOCUMENT_TYPE_MISMATCH",
        }
    }

    /// Whether the same request may succeed later or elsewhere.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::RateLimited | Self::Overloaded | Self::Draining | Self::Unavailable)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why we close a WebSocket. Clients decide by it whether to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// The conversation is over; nobody should come back for it.
    Normal,
    /// A frame is larger than we take.
    MessageTooLarge,
    /// The node is being taken out: come back, soon, anywhere.
    ServiceRestart,
    /// Overload, a limit, or a socket that takes nothing: come back later.
    TryAgainLater,
    /// The frame makes no sense.
    BadRequest,
    /// An operation came before `connection_init`.
    Unauthorized,
    /// The token or the right to be here is missing, bad or gone.
    Forbidden,
    /// No subprotocol that we speak was offered.
    SubprotocolNotAcceptable,
    /// `connection_init` did not come, or the peer fell silent.
    Timeout,
    /// An operation id is already in use on this socket.
    SubscriberAlreadyExists,
    /// `connection_init` came twice.
    TooManyInitialisationRequests,
}

impl CloseCode {
    /// The number on the wire.
    #[must_use]
    pub fn as_u16(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::MessageTooLarge => 1009,
            Self::ServiceRestart => 1012,
            Self::TryAgainLater => 1013,
            Self::BadRequest => 4400,
            Self::Unauthorized => 4401,
            Self::Forbidden => 4403,
            Self::SubprotocolNotAcceptable => 4406,
            Self::Timeout => 4408,
            Self::SubscriberAlreadyExists => 4409,
            Self::TooManyInitialisationRequests => 4429,
        }
    }
}
