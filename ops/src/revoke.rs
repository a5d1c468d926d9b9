//! `mille revoke`: takes tokens out of use before they expire.
//!
//! The cluster is told whose tokens, or which one. A token to be revoked never leaves this program: only its id does.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{ArgGroup, Args};
use mille_shared::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::Client;
use crate::output::{Output, refused};
use crate::target::{ClusterArgs, TargetArgs};

const MUTATION: &str = "mutation Revoke($user: String, $token: String, $until: String) {
  revokeTokens(userId: $user, tokenId: $token, expiresAt: $until)
}";

/// `mille revoke`
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true)))]
pub(crate) struct RevokeArgs {
    /// Every token of this user that was issued until now. The next one they get is good.
    #[arg(long, value_name = "ID", group = "what")]
    user: Option<String>,
    /// The token with this id (its claim `jti`).
    #[arg(long, value_name = "JTI", group = "what")]
    token_id: Option<String>,
    /// This token. From a file, others on this machine don't see it.
    #[arg(long, value_name = "JWT|@FILE", group = "what", conflicts_with = "expires_at")]
    jwt: Option<String>,
    /// When the last of these tokens expires, RFC 3339: the cluster need not remember it longer.
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What is to be revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Revocation {
    what: What,
    /// RFC 3339.
    expires_at: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    User(String),
    Token(String),
}

/// What a token says of itself. Whether it is a good one is the cluster's to judge.
#[derive(Debug, Deserialize)]
struct TokenClaims {
    jti: Option<String>,
    sub: Option<String>,
    /// Seconds since 1970; it may have a fraction.
    exp: Option<f64>,
}

/// Revokes, and says what; a given token of the caller's needs the scope `admin`.
pub(crate) async fn run(args: &RevokeArgs, output: &Output) -> Result<ExitCode> {
    let revocation = args.revocation()?;
    let client = Client::new(TargetArgs::from(&args.cluster).resolve(Some("admin"))?, "mille-revoke")?;
    client.ask(MUTATION, revocation.variables()).await?;
    if output.is_json() {
        output.value(&revocation.shown());
    } else {
        output.line(revocation.told());
    }
    Ok(ExitCode::SUCCESS)
}

impl RevokeArgs {
    fn revocation(&self) -> Result<Revocation> {
        if let Some(text) = &self.expires_at
            && Timestamp::parse(text).is_none()
        {
            return Err(refused(format!("--expires-at {text} is no time; write it like 2026-12-24T18:00:00Z")));
        }
        let what = match (&self.user, &self.token_id, &self.jwt) {
            (Some(user), _, _) => What::User(user.clone()),
            (_, Some(id), _) => What::Token(id.clone()),
            (_, _, Some(jwt)) => return of_token(&read_token(jwt)?),
            // The group of the arguments lets nobody come here.
            (None, None, None) => return Err(refused("say what to revoke: --user, --token-id or --jwt")),
        };
        Ok(Revocation { what, expires_at: self.expires_at.clone() })
    }
}

impl Revocation {
    fn variables(&self) -> Value {
        match &self.what {
            What::User(user) => json!({ "user": user, "until": self.expires_at }),
            What::Token(token) => json!({ "token": token, "until": self.expires_at }),
        }
    }

    fn shown(&self) -> Value {
        match &self.what {
            What::User(user) => json!({ "userId": user, "expiresAt": self.expires_at }),
            What::Token(token) => json!({ "tokenId": token, "expiresAt": self.expires_at }),
        }
    }

    fn told(&self) -> String {
        match &self.what {
            What::User(user) => format!("every token of {user} that was issued until now is revoked"),
            What::Token(token) => format!("the token {token} is revoked"),
        }
    }
}

fn read_token(text: &str) -> Result<String> {
    let token = match text.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).with_context(|| format!("can't read {path}"))?,
        None => text.to_owned(),
    };
    Ok(token.trim().trim_start_matches("Bearer ").to_owned())
}

/// The text of an error never holds any part of the token.
fn of_token(token: &str) -> Result<Revocation> {
    let claims: TokenClaims = jsonwebtoken::dangerous::insecure_decode(token)
        .map_err(|_| refused("--jwt is no JWT; give a token, or @FILE with one in it"))?
        .claims;
    let Some(id) = claims.jti.filter(|id| !id.is_empty()) else {
        let user = claims.sub.unwrap_or_else(|| "ID".to_owned());
        return Err(refused(format!(
            "this token has no id of its own (`jti`), so it can't be told from others; revoke all that its user has with \
             `mille revoke --user {user}`"
        )));
    };
    #[expect(clippy::cast_possible_truncation, reason = "`as` saturates, and no token lives that long")]
    let expires_at = claims.exp.map(|seconds| Timestamp::from_unix_ms((seconds * 1_000.0) as i64).to_string());
    Ok(Revocation { what: What::Token(id), expires_at })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Duration;

    use clap::Parser;
    use jsonwebtoken::{EncodingKey, Header};

    use super::*;
    use crate::token::Claims;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: RevokeArgs,
    }

    fn parsed(arguments: &[&str]) -> Result<Revocation> {
        Cli::try_parse_from(std::iter::once("revoke").chain(arguments.iter().copied()))?.args.revocation()
    }

    fn signed(claims: &Value) -> String {
        jsonwebtoken::encode(&Header::default(), claims, &EncodingKey::from_secret(b"any")).expect("signed")
    }

    #[test]
    fn exactly_one_thing_is_revoked() {
        let revocation = parsed(&["--user", "ada", "--expires-at", "2030-01-01T00:00:00Z"]).expect("a user");
        assert_eq!(revocation.variables(), json!({"user": "ada", "until": "2030-01-01T00:00:00Z"}));
        assert_eq!(parsed(&["--token-id", "t1"]).expect("a token").variables(), json!({"token": "t1", "until": null}));
        for bad in [&[][..], &["--user", "a", "--token-id", "t"], &["--user", "a", "--jwt", "x.y.z"]] {
            parsed(bad).expect_err("none or two");
        }
        let error = parsed(&["--user", "ada", "--expires-at", "tomorrow"]).expect_err("no time").to_string();
        assert!(error.contains("2026-12-24T18:00:00Z"), "{error}");
    }

    #[test]
    fn a_token_says_which_it_is_and_how_long_it_lives() {
        let token = signed(&json!({"sub": "ada", "jti": "t1", "exp": 1_900_000_000.5}));
        let expected = json!({"token": "t1", "until": "2030-03-17T17:46:40.500Z"});
        assert_eq!(parsed(&["--jwt", &token]).expect("a token").variables(), expected);
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        writeln!(file, "{token}").expect("room on the disk");
        let at_file = format!("@{}", file.path().display());
        assert_eq!(parsed(&["--jwt", &at_file]).expect("a token in a file").variables(), expected);
        let own = Claims::new("ada", Duration::from_secs(60));
        let revocation = parsed(&["--jwt", &own.sign("secret").expect("signed")]).expect("`mille token` makes such");
        assert_eq!(revocation.what, What::Token(own.jti));
    }

    #[test]
    fn a_token_without_an_id_is_refused_with_what_to_do_and_never_shown() {
        let token = signed(&json!({"sub": "ada", "exp": 1_900_000_000}));
        let error = parsed(&["--jwt", &token]).expect_err("no id").to_string();
        assert!(error.contains("mille revoke --user ada"), "{error}");
        for bad in ["no-token", "a.b.c"] {
            let error = parsed(&["--jwt", bad]).expect_err("no token").to_string();
            assert!(error.contains("no JWT") && !error.contains(bad), "{error}");
        }
    }
}
