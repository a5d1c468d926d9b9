//! Ids as types, so that no bare `String` or number crosses a function.
//!
//! Text ids are reference counted: a clone is a counter, never an allocation. Whether an id that a client gives is
//! acceptable is decided where it enters ([`PlanNodeId::parse`] and its like), once.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits;

/// Why a text can't be an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Ids have at least one character.
    #[error("an id must not be empty")]
    Empty,
    /// The id has more bytes than its kind allows.
    #[error("an id has at most {max} bytes, this one has {actual}")]
    TooLong {
        /// The most bytes an id of this kind may have.
        max: usize,
        /// How many it has.
        actual: usize,
    },
    /// The id holds a character its kind does not allow.
    #[error("an id is made of {allowed}")]
    Character {
        /// The characters an id of this kind is made of, in words.
        allowed: &'static str,
    },
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the text as it is. For ids that were checked before, or that we made.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The id's text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub i32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number_id! {
    /// A project. A GraphQL `Int`, counted up from 1.
    ProjectId
}
number_id! {
    /// A plan. A GraphQL `Int`, counted up from 1 over all projects.
    PlanId
}
text_id! {
    /// A vertex of a plan's DAG.
    PlanNodeId
}
text_id! {
    /// An edge of a plan's DAG.
    EdgeId
}
text_id! {
    /// A user: the `sub` of a token.
    UserId
}
text_id! {
    /// The client program a user acts through, as it names itself. Empty when it gives no name.
    ClientId
}
text_id! {
    /// What makes an operation recognisable when it is repeated. Unique per user and client.
    OperationId
}
text_id! {
    /// One run of an execution, as the executor names it.
    RunId
}
text_id! {
    /// One token: its `jti`, as its issuer made it.
    TokenId
}
text_id! {
    /// One socket, unique over the cluster and its lifetime.
    ConnectionId
}
text_id! {
    /// One life of one cluster node: `<name>.<incarnation>`. A restarted node is a new one.
    NodeId
}

impl NodeId {
    /// The id of a node's present life.
    #[must_use]
    pub fn of(name: &str, incarnation: &str) -> Self {
        Self::new(format!("{name}.{incarnation}"))
    }
}

impl PlanNodeId {
    /// Checks an id that a client gives for a new plan node.
    ///
    /// # Errors
    /// [`IdError`] unless it is 1 to 100 bytes of `[A-Za-z0-9_-]`.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        check_element_id(text).map(|()| Self::new(text))
    }
}

impl EdgeId {
    /// Checks an id that a client gives for a new edge.
    ///
    /// # Errors
    /// [`IdError`] unless it is 1 to 100 bytes of `[A-Za-z0-9_-]`.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        check_element_id(text).map(|()| Self::new(text))
    }
}

impl OperationId {
    /// Checks an operation id that a client gives.
    ///
    /// # Errors
    /// [`IdError`] unless it is 1 to 64 bytes without control characters.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        check_plain(text, limits::OPERATION_ID_BYTES_MAX).map(|()| Self::new(text))
    }
}

impl RunId {
    /// Checks a run id that an executor gives.
    ///
    /// # Errors
    /// [`IdError`] unless it is 1 to 100 bytes without control characters.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        check_plain(text, limits::ELEMENT_ID_BYTES_MAX).map(|()| Self::new(text))
    }
}

impl UserId {
    /// Checks a user id: a token's `sub`, or the one an owner invites.
    ///
    /// # Errors
    /// [`IdError`] unless it is 1 to 200 bytes without control characters.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        check_plain(text, limits::USER_ID_BYTES_MAX).map(|()| Self::new(text))
    }
}

impl TokenId {
    /// Checks a token's id that is to be revoked.
    ///
    /// # Errors
    /// [`IdError`] unless it is 1 to 200 bytes without control characters.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        check_plain(text, limits::TOKEN_ID_BYTES_MAX).map(|()| Self::new(text))
    }
}

impl ClientId {
    /// Checks a client's own name. The empty one is that of a client that gives none.
    ///
    /// # Errors
    /// [`IdError`] unless it is at most 100 bytes without control characters.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.is_empty() {
            return Ok(Self::none());
        }
        check_plain(text, limits::ELEMENT_ID_BYTES_MAX).map(|()| Self::new(text))
    }

    /// The client that gives no name.
    #[must_use]
    pub fn none() -> Self {
        Self::new("")
    }
}

fn check_element_id(text: &str) -> Result<(), IdError> {
    check_length(text, limits::ELEMENT_ID_BYTES_MAX)?;
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
        Ok(())
    } else {
        Err(IdError::Character { allowed: "letters, digits, '_' and '-'" })
    }
}

fn check_plain(text: &str, max: usize) -> Result<(), IdError> {
    check_length(text, max)?;
    if text.chars().any(char::is_control) {
        return Err(IdError::Character { allowed: "characters other than control characters" });
    }
    Ok(())
}

fn check_length(text: &str, max: usize) -> Result<(), IdError> {
    match text.len() {
        0 => Err(IdError::Empty),
        actual if actual > max => Err(IdError::TooLong { max, actual }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_id_is_letters_digits_underscore_and_hyphen() {
        assert!(PlanNodeId::parse("GraphNode_0af-9").is_ok());
        for bad in ["", "a b", "a/b", "ä", "a\n", &"x".repeat(101)] {
            assert!(PlanNodeId::parse(bad).is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn a_client_may_go_unnamed_but_an_operation_may_not() {
        assert!(ClientId::parse("").is_ok());
        assert_eq!(OperationId::parse(""), Err(IdError::Empty));
    }
}
