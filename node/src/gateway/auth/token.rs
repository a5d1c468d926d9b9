//! What makes a token good.
//!
//! A token is good if one of our keys made it, with an algorithm that our configuration gives that key, if it has not
//! expired, is not from the future, comes from the issuer and is meant for the audience we are configured with. Its
//! own header decides nothing but which of our keys is tried.

use std::time::Duration;

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{TokenData, Validation};
use mille_shared::{CloseCode, ErrorCode, TokenId, UserId, limits};
use serde::Deserialize;
use serde_json::Value;

use super::identity::{Identity, Scopes};
use super::keys::{Key, KeySet};
use crate::gateway::errors::ApiError;
use crate::metrics::CloseReason;

/// Why a token is not taken. The texts may be shown to the bearer; none holds any part of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// There is none where the door looks for it.
    #[error("a token is required")]
    Missing,
    /// It has not the shape of a JWT.
    #[error("the token is malformed")]
    Malformed,
    /// No key of ours made it.
    #[error("the token's signature is wrong")]
    Signature,
    /// It is signed in a way our keys are not for.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// It names a key we don't have.
    #[error("the token's key is unknown")]
    UnknownKey,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// It is not from the issuer we trust.
    #[error("the token's issuer is not accepted")]
    Issuer,
    /// It is meant for somebody else.
    #[error("the token's audience is not accepted")]
    Audience,
    /// A claim is missing or makes no sense.
    #[error("the token's claim `{claim}` is missing or malformed")]
    Claim {
        /// The claim's name.
        claim: String,
    },
    /// Somebody saw to it that it counts no more.
    #[error("the token was revoked")]
    Revoked,
    /// A fresh token belongs to another user than the one it should follow.
    #[error("the token belongs to another user")]
    OtherUser,
    /// We have no key at all yet. Unlike the others this passes by itself.
    #[error("the keys to judge tokens are not available")]
    KeysUnavailable,
}

impl TokenRefused {
    /// How a socket is closed for it. A client whose token can't be judged yet must not take it for a bad one.
    pub(in crate::gateway) fn closes(&self) -> (CloseReason, CloseCode) {
        match self {
            Self::KeysUnavailable => (CloseReason::Unavailable, CloseCode::TryAgainLater),
            _ => (CloseReason::TokenRefused, CloseCode::Forbidden),
        }
    }
}

/// When it is worth to come back if there was no key at all.
const KEYS_LOOKED_FOR_AGAIN: Duration = Duration::from_secs(5);

impl From<TokenRefused> for ApiError {
    fn from(refusal: TokenRefused) -> Self {
        match refusal {
            TokenRefused::KeysUnavailable => {
                Self::new(ErrorCode::Unavailable, refusal.to_string()).retry_after(KEYS_LOOKED_FOR_AGAIN)
            }
            _ => Self::new(ErrorCode::Unauthenticated, refusal.to_string()),
        }
    }
}

/// What a token must fulfil beside its signature.
#[derive(Debug, Clone, Default)]
pub(super) struct Requirements {
    pub(super) issuer: Option<String>,
    pub(super) audience: Option<String>,
    pub(super) leeway_seconds: u64,
}

/// The claims we read. Those that only decorate are ignored when they have another type than they should.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: Value,
    #[serde(default)]
    exp: Value,
    #[serde(default)]
    name: Value,
    #[serde(default)]
    color: Value,
    #[serde(default)]
    agent: Value,
    #[serde(default)]
    scope: Value,
    #[serde(default)]
    jti: Value,
    #[serde(default)]
    iat: Value,
}

/// Judges a token by a set of keys.
pub(super) fn verify(token: &str, keys: &KeySet, requirements: &Requirements) -> Result<Identity, TokenRefused> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenRefused::Malformed);
    }
    // A header that does not parse includes `alg: none`.
    let header = jsonwebtoken::decode_header(token).map_err(|_| TokenRefused::Malformed)?;
    let mut refusal = if keys.is_empty() { TokenRefused::KeysUnavailable } else { TokenRefused::UnknownKey };
    for key in keys.candidates(header.kid.as_deref()) {
        match decode(token, key, requirements) {
            Ok(data) => return identity(data.claims),
            Err(error) => {
                let of_this_key = refused(&error);
                // With several keys the most telling refusal counts: a signature that fits beats one that does not.
                if weight(&of_this_key) > weight(&refusal) {
                    refusal = of_this_key;
                }
            }
        }
    }
    Err(refusal)
}

/// A token is a header line at most; a longer one is not worth a look.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

fn decode(token: &str, key: &Key, requirements: &Requirements) -> Result<TokenData<Claims>, Error> {
    let mut validation = Validation::default();
    validation.algorithms.clone_from(&key.algorithms);
    validation.leeway = requirements.leeway_seconds;
    validation.validate_nbf = true;
    validation.validate_aud = requirements.audience.is_some();
    // A claim that is checked must also be there: the library takes an absent one for a good one.
    let mut required = vec!["exp", "sub"];
    if let Some(issuer) = &requirements.issuer {
        validation.set_issuer(&[issuer]);
        required.push("iss");
    }
    if let Some(audience) = &requirements.audience {
        validation.set_audience(&[audience]);
        required.push("aud");
    }
    validation.set_required_spec_claims(&required);
    jsonwebtoken::decode(token, &key.decoding, &validation)
}

fn identity(claims: Claims) -> Result<Identity, TokenRefused> {
    let malformed = |claim: &str| TokenRefused::Claim { claim: claim.to_owned() };
    let subject = claims.sub.as_str().ok_or_else(|| malformed("sub"))?;
    let text = |value: &Value| value.as_str().map(|text| clipped(text).to_owned()).filter(|text| !text.is_empty());
    Ok(Identity {
        user_id: UserId::parse(subject).map_err(|_| malformed("sub"))?,
        name: text(&claims.name),
        color: text(&claims.color),
        agent: claims.agent.as_bool().unwrap_or(false),
        scopes: claims.scope.as_str().map(Scopes::parse).unwrap_or_default(),
        expires_at: seconds(&claims.exp).ok_or_else(|| malformed("exp"))?,
        issued_at: seconds(&claims.iat),
        token_id: claims.jti.as_str().map(TokenId::new),
    })
}

/// A NumericDate as whole seconds; it may have a fraction.
fn seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let seconds = value.as_f64().filter(|seconds| seconds.is_finite() && *seconds >= 0.0)?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked above; `as` saturates
        Some(seconds as u64)
    })
}

/// A name as it may be shown: without what is too long for a roster. The token is still good.
fn clipped(text: &str) -> &str {
    let mut end = text.len().min(limits::USER_NAME_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn refused(error: &Error) -> TokenRefused {
    match error.kind() {
        ErrorKind::InvalidSignature => TokenRefused::Signature,
        ErrorKind::ExpiredSignature => TokenRefused::Expired,
        ErrorKind::ImmatureSignature => TokenRefused::NotYetValid,
        ErrorKind::InvalidIssuer => TokenRefused::Issuer,
        ErrorKind::InvalidAudience => TokenRefused::Audience,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName | ErrorKind::UnsupportedAlgorithm => {
            TokenRefused::Algorithm
        }
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
            TokenRefused::Claim { claim: claim.clone() }
        }
        _ => TokenRefused::Malformed,
    }
}

fn weight(refusal: &TokenRefused) -> u8 {
    match refusal {
        TokenRefused::Missing | TokenRefused::KeysUnavailable | TokenRefused::UnknownKey => 0,
        TokenRefused::Algorithm => 1,
        TokenRefused::Malformed => 2,
        TokenRefused::Signature => 3,
        _ => 4,
    }
}
