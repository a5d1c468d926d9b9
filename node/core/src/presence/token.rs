//! Resume tokens: `<connection>.<generation>.<secret>`.
//!
//! The generation is the one the connection had when the client got the token: a node that did not hear of a takeover
//! learns of it from whoever shows this.
//!
//! The secret is the client's alone. Nodes keep a hash of it, bound to project, user and connection, with the
//! connection's record; so any node can check a token, and nobody who reads the store can make one.

use mille_shared::presence::client::Secret;
use mille_shared::{ConnectionId, ProjectId, UserId};
use sha2::{Digest, Sha256};

/// Random bytes in a token. As many as no one can try.
pub(super) const SECRET_BYTES: usize = 32;

/// A client's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) connection: ConnectionId,
    pub(super) generation: u64,
    pub(super) secret: &'a str,
}

/// A token's text.
pub(super) fn write(connection: &ConnectionId, generation: u64, secret: &str) -> String {
    format!("{connection}.{generation}.{secret}")
}

/// Reads a client's token. Only its secret proves anything.
pub(super) fn read(token: &Secret) -> Option<Token<'_>> {
    let (rest, secret) = token.reveal().rsplit_once('.')?;
    let (connection, generation) = rest.rsplit_once('.')?;
    let plausible = secret.len() == 2 * SECRET_BYTES && !connection.is_empty() && connection.len() <= 100;
    let generation = generation.parse().ok().filter(|_| plausible)?;
    Some(Token { connection: ConnectionId::new(connection), generation, secret })
}

/// What is kept of a token. The parts are length-prefixed: no two different ones run into the same bytes.
pub(super) fn hash(project: ProjectId, user: &UserId, connection: &ConnectionId, secret: &str) -> String {
    let mut hasher = Sha256::new();
    for part in ["mille presence resume", &project.to_string(), user.as_str(), connection.as_str(), secret] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hex(&hasher.finalize())
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_bound_to_project_user_and_connection() {
        let (user, connection) = (UserId::new("u"), ConnectionId::new("c-1"));
        let secret = hex(&[7; SECRET_BYTES]);
        let token = Secret::new(write(&connection, 5, &secret));
        let expected = Token { connection: connection.clone(), generation: 5, secret: &secret };
        assert_eq!(read(&token), Some(expected));
        let kept = hash(ProjectId(1), &user, &connection, &secret);
        assert_ne!(kept, hash(ProjectId(2), &user, &connection, &secret));
        assert_ne!(kept, hash(ProjectId(1), &UserId::new("v"), &connection, &secret));
        assert_ne!(kept, hash(ProjectId(1), &user, &ConnectionId::new("c-2"), &secret));
    }

    #[test]
    fn anything_else_is_no_token() {
        let secret = hex(&[7; 32]);
        for text in
            ["", ".", "c", "c.", "c.1.abc", &format!(".1.{secret}"), &format!("c.{secret}"), &format!("c.x.{secret}")]
        {
            assert_eq!(read(&Secret::new(text.to_owned())), None, "{text}");
        }
    }
}
