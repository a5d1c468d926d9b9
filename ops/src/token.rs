//! Tokens for the local cluster.
//!
//! Whoever can read the state directory can be anyone there: that is what a development cluster is for.
//! Other clusters have an identity provider; their tokens come from outside, as `--token`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Args;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::output::{Output, refused};
use crate::state::{State, find_dir};

/// Longest life of a token. A longer one is a password.
const TTL_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// `mille token`
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// Who the bearer is (the claim `sub`).
    #[arg(long, value_name = "ID")]
    user: String,
    /// Name to show to others.
    #[arg(long)]
    name: Option<String>,
    /// Space separated: `admin` sees and steers the cluster, `executor` reports execution.
    #[arg(long)]
    scope: Option<String>,
    /// How long it is good for: 90s, 30m, 1h, 7d.
    #[arg(long, default_value = "1h", value_parser = parse_ttl)]
    ttl: Duration,
    /// The bearer is a program, not a person.
    #[arg(long)]
    agent: bool,
    /// State directory of the cluster. Where none is named and none runs, the secret may come as JWT_SECRET.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// What a node reads from a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) sub: String,
    /// Seconds since 1970.
    pub(crate) exp: u64,
    /// When it was issued, in seconds since 1970: revoking its user's tokens asks for it.
    pub(crate) iat: u64,
    /// By which it can be revoked alone.
    pub(crate) jti: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) agent: bool,
}

impl Claims {
    /// A person's claims, good for `ttl` from now.
    pub(crate) fn new(user: &str, ttl: Duration) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            sub: user.to_owned(),
            exp: (now + ttl).as_secs(),
            iat: now.as_secs(),
            jti: format!("{:032x}", rand::random::<u128>()),
            name: None,
            scope: None,
            agent: false,
        }
    }

    /// Signs them with the cluster's secret (HS256).
    ///
    /// # Errors
    /// When the crypto library refuses, which nothing here provokes.
    pub(crate) fn sign(&self, secret: &str) -> Result<String> {
        let key = EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), self, &key).context("can't sign the token")
    }
}

/// Prints a token, alone.
pub(crate) fn run(args: &TokenArgs, output: &Output) -> Result<ExitCode> {
    if args.user.trim().is_empty() {
        return Err(refused("--user must not be empty"));
    }
    let dir = find_dir(args.state.as_deref());
    let given = std::env::var("JWT_SECRET").ok();
    // A cluster that ran here once is not the one that is meant where a secret is given.
    let is_meant = |state: &State| args.state.is_some() || given.is_none() || !state.living().is_empty();
    let Some(secret) = State::load(&dir)?.filter(is_meant).map(|state| state.jwt_secret).or(given) else {
        return Err(refused(format!(
            "no cluster in {} and no JWT_SECRET in the environment; start one with `mille up`",
            dir.display()
        )));
    };
    let claims = Claims {
        name: args.name.clone(),
        scope: args.scope.clone(),
        agent: args.agent,
        ..Claims::new(&args.user, args.ttl)
    };
    let token = claims.sign(&secret)?;
    if output.is_json() {
        output.value(&json!({ "token": token, "claims": claims }));
    } else {
        output.line(token);
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads `90s`, `30m`, `1h` or `7d`.
fn parse_ttl(text: &str) -> Result<Duration, String> {
    let explain = || format!("`{text}` is no duration; write it like 90s, 30m, 1h or 7d");
    let unit_at = text.len().checked_sub(1).filter(|&at| text.is_char_boundary(at)).ok_or_else(explain)?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().map_err(|_| explain())?;
    let unit_seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(explain()),
    };
    let ttl = number.checked_mul(unit_seconds).map(Duration::from_secs).ok_or_else(explain)?;
    if ttl.is_zero() || ttl > TTL_MAX {
        return Err(format!("`{text}` must be between 1s and 365d"));
    }
    Ok(ttl)
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation};

    use super::*;

    fn read(token: &str, secret: &str) -> jsonwebtoken::errors::Result<Claims> {
        let key = DecodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::decode::<Claims>(token, &key, &Validation::new(Algorithm::HS256)).map(|data| data.claims)
    }

    #[test]
    fn a_token_carries_its_claims_and_only_its_secret_opens_it() {
        let claims = Claims {
            name: Some("Alice".into()),
            scope: Some("admin executor".into()),
            agent: true,
            ..Claims::new("alice", Duration::from_secs(60))
        };
        let token = claims.sign("secret").expect("signed");
        assert_eq!(read(&token, "secret").expect("valid"), claims);
        read(&token, "other").expect_err("another secret");
    }

    #[test]
    fn every_token_can_be_revoked_alone_and_with_its_user() {
        let (one, two) = (Claims::new("alice", Duration::from_secs(60)), Claims::new("alice", Duration::from_secs(60)));
        assert!(one.jti != two.jti && one.jti.len() == 32);
        assert_eq!(one.exp - one.iat, 60);
    }

    #[test]
    fn claims_that_were_not_asked_for_are_not_there() {
        let claims = serde_json::to_value(Claims::new("alice", Duration::from_secs(60))).expect("it serializes");
        let names: Vec<&String> = claims.as_object().expect("an object").keys().collect();
        assert_eq!(names.len(), 4, "{names:?}");
    }

    #[test]
    fn durations_are_read_with_their_unit() {
        assert_eq!(parse_ttl("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_ttl("30m"), Ok(Duration::from_secs(1800)));
        assert_eq!(parse_ttl("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(parse_ttl("7d"), Ok(Duration::from_secs(604_800)));
        for bad in ["", "h", "1", "0s", "-1h", "366d", "1w", "1é", "99999999999999999999h"] {
            parse_ttl(bad).expect_err(bad);
        }
    }
}
