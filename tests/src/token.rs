//! Tokens as an identity provider would sign them, and as an attacker would.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value, json};

/// The secret of every cluster that the kit starts. Worth nothing anywhere else.
pub const SECRET: &str = "only-for-tests-and-of-a-decent-length-0123456789";
/// `{"alg":"none","typ":"JWT"}` in base64url.
const HEADER_NONE: &str = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";

/// The claims of a token, before it is signed.
#[derive(Debug, Clone)]
pub struct Token {
    claims: Map<String, Value>,
}

impl Token {
    /// A token of `user` that is good for an hour.
    #[must_use]
    pub fn of(user: &str) -> Self {
        let mut claims = Map::new();
        claims.insert("sub".into(), json!(user));
        claims.insert("name".into(), json!(user));
        Self { claims }.lives_secs(3_600)
    }

    /// Sets the expiry, in seconds from now; below zero: it expired that long ago.
    #[must_use]
    pub fn lives_secs(self, seconds: i64) -> Self {
        self.claim("exp", json!(now_secs() + seconds))
    }

    /// Says that it was issued now, as an issuer does.
    #[must_use]
    pub fn issued_now(self) -> Self {
        self.claim("iat", json!(now_secs()))
    }

    /// Sets the token's own id.
    #[must_use]
    pub fn id(self, id: &str) -> Self {
        self.claim("jti", json!(id))
    }

    /// Sets the scopes, separated by spaces.
    #[must_use]
    pub fn scope(self, scope: &str) -> Self {
        self.claim("scope", json!(scope))
    }

    /// Sets any claim.
    #[must_use]
    pub fn claim(mut self, name: &str, value: Value) -> Self {
        self.claims.insert(name.to_owned(), value);
        self
    }

    /// Leaves a claim out.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.claims.remove(name);
        self
    }

    /// The claims as they are.
    #[must_use]
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// Signs with the clusters' [`SECRET`].
    #[must_use]
    pub fn sign(&self) -> String {
        self.sign_with(SECRET)
    }

    /// Signs with another secret.
    ///
    /// # Panics
    /// When the signature can't be made, which only a broken build can bring.
    #[must_use]
    pub fn sign_with(&self, secret: &str) -> String {
        self.signed(Algorithm::HS256, secret)
    }

    /// Signs with the clusters' [`SECRET`] in another of the ways that secrets can be used, such as `HS512`.
    ///
    /// # Panics
    /// When there is no such way, or as [`Self::sign_with`].
    #[must_use]
    pub fn sign_by(&self, algorithm: &str) -> String {
        self.signed(algorithm.parse().expect("an algorithm"), SECRET)
    }

    fn signed(&self, algorithm: Algorithm, secret: &str) -> String {
        let key = EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&Header::new(algorithm), &self.claims, &key).expect("HMAC needs only a secret")
    }

    /// Claims that nobody signed, under a header that says so (`alg: none`).
    #[must_use]
    pub fn unsigned(&self) -> String {
        let signed = self.sign();
        let claims = signed.split('.').nth(1).unwrap_or_default();
        format!("{HEADER_NONE}.{claims}.")
    }
}

fn now_secs() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(now).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_three_parts_and_an_unsigned_one_an_empty_last() {
        let token = Token::of("ada");
        assert_eq!(token.sign().split('.').count(), 3);
        assert!(token.unsigned().ends_with('.'));
        assert_ne!(token.sign(), token.sign_with("another secret"));
    }
}
