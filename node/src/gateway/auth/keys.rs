//! The keys that tokens are judged by, and what each is for.
//!
//! The rule: which algorithms a key is used with is decided here, when the key is read, from its kind and from our
//! configuration. No token can change it, so no public key is ever taken for a shared secret. Where keys come from
//! over time is [`super::jwks`]'s work.

use std::fmt;
use std::path::{Path, PathBuf};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;

/// Keys of one set. More are ignored: each unnamed token would be tried with every one of them.
const KEYS_MAX: usize = 64;

/// What the header line of every private key in PEM holds.
const PRIVATE: &str = "PRIVATE KEY";
/// What that of every public key holds.
const PUBLIC: &str = "PUBLIC KEY";
/// What every header line in PEM begins with.
const HEADER: &str = "-----BEGIN ";

/// Why a source gives no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No source of keys, or more than one, is configured.
    #[error("exactly one source of keys is needed: a secret, a public key file, a JWKS file or a JWKS address")]
    NotOneSource,
    /// A secret is too short to keep anybody out.
    #[error("the secret has {actual} bytes, at least {min} are needed")]
    SecretTooShort {
        /// How many it has.
        actual: usize,
        /// How many it needs.
        min: usize,
    },
    /// A file can't be read.
    #[error("{} can't be read", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file holds no public key in PEM.
    #[error("{} holds no public RSA, EC or Ed25519 key in PEM", path.display())]
    Pem {
        /// Which one.
        path: PathBuf,
    },
    /// The configured algorithms leave the key without any.
    #[error("none of the configured algorithms fits the key")]
    NoAlgorithm,
    /// A document is no set of keys, or none of its keys can be used.
    #[error("the key set holds no key that can be used: {reason}")]
    Jwks {
        /// What is wrong with it.
        reason: String,
    },
    /// The address of the key set did not answer, or not with a set.
    #[error("the key set can't be fetched: {reason}")]
    Fetch {
        /// What happened.
        reason: String,
    },
}

/// Bytes a shared secret needs at least: below, it can be guessed from one token offline.
pub const SECRET_BYTES_MIN: usize = 16;

/// One key and what it is for.
pub(super) struct Key {
    pub(super) id: Option<String>,
    /// Of one family, never empty.
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) decoding: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithms", &self.algorithms).finish_non_exhaustive()
    }
}

/// The keys in force at one time.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    keys: Vec<Key>,
}

impl KeySet {
    /// Shared secrets, the present one first. `algorithms` empty means HS256.
    ///
    /// # Errors
    /// [`KeyError::SecretTooShort`], [`KeyError::NoAlgorithm`].
    pub(super) fn from_secrets<'a>(
        secrets: impl IntoIterator<Item = &'a str>,
        algorithms: &[Algorithm],
    ) -> Result<Self, KeyError> {
        let algorithms = usable(algorithms, AlgorithmFamily::Hmac, &[Algorithm::HS256])?;
        let keys = secrets.into_iter().map(|secret| {
            if secret.len() < SECRET_BYTES_MIN {
                return Err(KeyError::SecretTooShort { actual: secret.len(), min: SECRET_BYTES_MIN });
            }
            let decoding = DecodingKey::from_secret(secret.as_bytes());
            Ok(Key { id: None, algorithms: algorithms.clone(), decoding })
        });
        Ok(Self { keys: keys.collect::<Result<_, _>>()? })
    }

    /// The public keys of a file in PEM. `algorithms` empty means RS256, ES256 or EdDSA, by each key's kind.
    ///
    /// # Errors
    /// [`KeyError::Pem`] if one of them is none, or there is none; [`KeyError::NoAlgorithm`].
    pub(super) fn from_pem(document: &[u8], path: &Path, algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        let unusable = || KeyError::Pem { path: path.to_owned() };
        // A private key would do as well, but it has no business on a node that only verifies.
        let text = std::str::from_utf8(document).ok().filter(|text| !text.contains(PRIVATE)).ok_or_else(unusable)?;
        // What else may stand there, a certificate of the issuer's issuer, has signed no token.
        let is_key = |block: &&str| block.lines().next().is_some_and(|header| header.contains(PUBLIC));
        let keys: Vec<&str> = text.split(HEADER).skip(1).filter(is_key).take(KEYS_MAX).collect();
        if keys.is_empty() {
            return Err(unusable());
        }
        let keys = keys.into_iter().map(|key| {
            let pem = [HEADER, key].concat().into_bytes();
            let (decoding, family, default) = DecodingKey::from_rsa_pem(&pem)
                .map(|key| (key, AlgorithmFamily::Rsa, Algorithm::RS256))
                .or_else(|_| DecodingKey::from_ec_pem(&pem).map(|key| (key, AlgorithmFamily::Ec, Algorithm::ES256)))
                .or_else(|_| DecodingKey::from_ed_pem(&pem).map(|key| (key, AlgorithmFamily::Ed, Algorithm::EdDSA)))
                .map_err(|_| unusable())?;
            Ok(Key { id: None, algorithms: usable(algorithms, family, &[default])?, decoding })
        });
        Ok(Self { keys: keys.collect::<Result<_, _>>()? })
    }

    /// The keys of a JWKS document. Those that we can't or must not use are left out: symmetric ones (anybody who
    /// reads the document could sign), those for encryption, unknown kinds.
    ///
    /// # Errors
    /// [`KeyError::Jwks`] when nothing is left.
    pub(super) fn from_jwks(document: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<serde_json::Value>,
        }
        let document: Document =
            serde_json::from_slice(document).map_err(|error| KeyError::Jwks { reason: error.to_string() })?;
        let mut keys = Vec::new();
        let mut reason = "it is empty".to_owned();
        for entry in document.keys {
            // One by one: a single odd entry must not cost the others.
            match serde_json::from_value::<Jwk>(entry)
                .map_err(|e| e.to_string())
                .and_then(|jwk| from_jwk(&jwk, algorithms))
            {
                Ok(key) if keys.len() < KEYS_MAX => keys.push(key),
                Ok(_) => reason = format!("it has more than {KEYS_MAX} keys"),
                Err(cause) => {
                    tracing::debug!(%cause, "a key of the set is not used");
                    reason = cause;
                }
            }
        }
        if keys.is_empty() { Err(KeyError::Jwks { reason }) } else { Ok(Self { keys }) }
    }

    /// Whether there is no key at all.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys a token may have been made with: by its key id where both have one, else any.
    pub(super) fn candidates(&self, id: Option<&str>) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(move |key| match (&key.id, id) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        })
    }
}

fn from_jwk(jwk: &Jwk, configured: &[Algorithm]) -> Result<Key, String> {
    if jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
        return Err("a key is not for signatures".to_owned());
    }
    let (family, default) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (AlgorithmFamily::Rsa, Algorithm::RS256),
        AlgorithmParameters::EllipticCurve(parameters) => match parameters.curve {
            EllipticCurve::P256 => (AlgorithmFamily::Ec, Algorithm::ES256),
            EllipticCurve::P384 => (AlgorithmFamily::Ec, Algorithm::ES384),
            _ => return Err("a key is on a curve we don't use".to_owned()),
        },
        AlgorithmParameters::OctetKeyPair(_) => (AlgorithmFamily::Ed, Algorithm::EdDSA),
        AlgorithmParameters::OctetKey(_) => return Err("a key is symmetric".to_owned()),
        _ => return Err("a key is of a kind we don't use".to_owned()),
    };
    // The document's own `alg` is the issuer's word on the key; ours says which of them are taken at all.
    let named = match jwk.common.key_algorithm {
        Some(named) => Algorithm::try_from(named).map_err(|_| "a key has an algorithm we don't use".to_owned())?,
        None => default,
    };
    let taken: &[Algorithm] =
        if configured.is_empty() { &[Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] } else { configured };
    let algorithms = usable(&[named], family, &[]).map_err(|_| "a key's algorithm is not of its kind".to_owned())?;
    if !taken.contains(&named) {
        return Err(format!("a key is for {named:?}, which is not configured"));
    }
    let decoding = DecodingKey::from_jwk(jwk).map_err(|error| error.to_string())?;
    Ok(Key { id: jwk.common.key_id.clone(), algorithms, decoding })
}

/// The configured algorithms of one family, or the default where none is configured.
fn usable(
    configured: &[Algorithm],
    family: AlgorithmFamily,
    default: &[Algorithm],
) -> Result<Vec<Algorithm>, KeyError> {
    let all = if configured.is_empty() { default } else { configured };
    let usable: Vec<_> = all.iter().copied().filter(|algorithm| family.algorithms().contains(algorithm)).collect();
    if usable.is_empty() { Err(KeyError::NoAlgorithm) } else { Ok(usable) }
}
